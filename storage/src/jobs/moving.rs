//! Bringing one extent to where a newer layout wants it, in bounded pieces.

use std::collections::BTreeSet;

use async_trait::async_trait;
use consensus::client::MetaError;
use consensus::meta::command::{Command, MoveExtents, MovedExtent};
use consensus::meta::model::{Extent, Home};
use fabric::ids::{ExtentId, LayoutVersion, NodeId};

use super::bringing::Bringing;
use super::copy::{Sources, bring};
use super::{JobContext, JobError};

/// An extent on its way.
pub(super) struct Moving {
    home: Home,
    extent: Extent,
    /// To its owners in this one.
    pub(super) layout: LayoutVersion,
    /// Chunks that are done, of each shard.
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
        let (olds, news) = (old.owners_of(extent.id), new.owners_of(extent.id));
        let holders = extent.coding().holders(news);
        let lacks = |node: &NodeId| !extent.holds_already(*node, olds, news);
        let mut to: Vec<NodeId> = holders.iter().copied().filter(lacks).collect();
        if to.is_empty() || cx.env.armed("move_unseen") {
            return Ok(Some(self.moved(to)));
        }
        let from = Sources::of(extent, olds).or(news);
        let until = extent.chunks().min(self.done_chunks + most);
        let mut silent = BTreeSet::new();
        for (place, node) in holders.iter().enumerate().filter(|(_, node)| to.contains(node)) {
            let chunks: Vec<_> =
                extent.spread().chunks_at(place, news.len(), self.done_chunks..until).collect();
            if let Err(error) = bring(cx, *node, &chunks, &from).await {
                tracing::debug!(%error, %node, extent = %extent.id, "a new owner is not given its copy");
                silent.insert(*node);
            }
        }
        to.retain(|node| !silent.contains(node));
        let holding = holders.iter().enumerate().filter(|(_, node)| !lacks(node) || to.contains(node));
        let holding = holding.fold(0, |mask, (place, _)| mask | 1 << place);
        if !extent.coding().is_durable(holding, news.len()) {
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
