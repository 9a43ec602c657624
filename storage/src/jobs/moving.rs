//! Bringing one extent to where a newer layout wants it, in bounded pieces.

use std::collections::BTreeSet;

use async_trait::async_trait;
use consensus::client::MetaError;
use consensus::meta::command::{Command, MoveExtents, MovedExtent};
use consensus::meta::model::{Extent, Home};
use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::limits::{COPIES, COPIES_DURABLE_MIN};
use fabric::placement::Layout;

use super::bringing::Bringing;
use super::copy::{bring, chunks_of, sources};
use super::{JobContext, JobError};

/// An extent on its way.
pub(super) struct Moving {
    home: Home,
    extent: Extent,
    /// To its owners in this one.
    pub(super) layout: LayoutVersion,
    /// Chunks that are done.
    done_chunks: u64,
    /// New owners that were not given one of these.
    missed: BTreeSet<NodeId>,
}

impl Moving {
    /// To its owners in `layout`.
    pub(super) fn new(home: Home, extent: Extent, layout: LayoutVersion) -> Moving {
        Moving { home, extent, layout, done_chunks: 0, missed: BTreeSet::new() }
    }

    /// Its name, for the log.
    pub(super) fn id(&self) -> ExtentId {
        self.extent.id
    }

    fn moved(&self, brought: Vec<NodeId>) -> MovedExtent {
        let (id, from) = (self.extent.id, self.extent.layout);
        MovedExtent { home: self.home.clone(), id, from, brought }
    }
}

#[async_trait]
impl Bringing for Moving {
    type Brought = MovedExtent;

    fn chunks_left(&self) -> u64 {
        self.extent.chunks() - self.done_chunks
    }

    async fn go_on(&mut self, cx: &JobContext, most: u64) -> Result<Option<MovedExtent>, JobError> {
        let extent = &self.extent;
        let old = cx.layout(extent.layout).await?;
        let new = cx.layout(self.layout).await?;
        let (mut to, holding) = lacking(extent, &old, &new);
        if to.is_empty() || cx.env.armed("move_unseen") {
            return Ok(Some(self.moved(to)));
        }
        // None is left out as a source: each may hold what it is not known to hold.
        let from = sources(old.owners_of(extent.id), extent.confirmed, NodeId(0));
        let until = extent.chunks().min(self.done_chunks + most);
        let chunks = chunks_of(extent, self.done_chunks..until);
        let mut silent = BTreeSet::new();
        for node in &to {
            let from: Vec<NodeId> = from.iter().copied().filter(|source| source != node).collect();
            if let Err(error) = bring(cx, *node, &chunks, &from).await {
                tracing::debug!(%error, %node, extent = %extent.id, "a new owner is not given its copy");
                silent.insert(*node);
            }
        }
        to.retain(|node| !silent.contains(node));
        if holding + to.len() < COPIES_DURABLE_MIN.min(new.owners_of(extent.id).len()) {
            return Err(JobError::Other("too few new owners hold it".to_string()));
        }
        // Who missed a part of it owes all of it: whoever is given a later part only is not named.
        self.missed.extend(silent);
        self.done_chunks = until;
        if until < self.extent.chunks() {
            return Ok(None);
        }
        to.retain(|node| !self.missed.contains(node));
        Ok(Some(self.moved(to)))
    }
}

/// Changes the rows of extents that are where `layout` wants them.
pub(super) async fn say_moved(
    cx: &JobContext,
    layout: LayoutVersion,
    moves: Vec<MovedExtent>,
) -> Result<(), MetaError> {
    if moves.is_empty() {
        return Ok(());
    }
    metrics::counter!("fluffy_extents_moved_total").increment(moves.len() as u64);
    cx.meta.propose(Command::MoveExtents(MoveExtents { layout, moves })).await.map(drop)
}

/// Owners in the new layout that are not confirmed in the old one, and how many are.
fn lacking(extent: &Extent, old: &Layout, new: &Layout) -> (Vec<NodeId>, usize) {
    let olds = old.owners_of(extent.id);
    let holds = |node: &NodeId| {
        olds.iter().position(|old| old == node).is_some_and(|place| extent.confirmed >> place & 1 == 1)
    };
    let news = new.owners_of(extent.id).iter().copied().take(COPIES);
    let (holding, lacking): (Vec<_>, Vec<_>) = news.partition(|node| holds(node));
    (lacking, holding.len())
}
