//! Bringing one extent to a node that owes a copy of it, in bounded pieces.

use async_trait::async_trait;
use consensus::client::MetaError;
use consensus::meta::command::{Command, PayDebts};
use consensus::meta::model::{Extent, Home};
use fabric::ids::{ExtentId, NodeId};

use super::bringing::Bringing;
use super::copy::{Sources, bring};
use super::{JobContext, JobError};

/// A debt that is being paid.
pub(super) struct Paying {
    /// Who owes it.
    pub(super) node: NodeId,
    home: Home,
    extent: Extent,
    /// Chunks that are there, of each shard.
    done_chunks: u64,
}

impl Paying {
    /// What `node` owes.
    pub(super) fn new(node: NodeId, home: Home, extent: Extent) -> Paying {
        Paying { node, home, extent, done_chunks: 0 }
    }
}

#[async_trait]
impl Bringing for Paying {
    type Brought = (Home, ExtentId);

    fn chunks_left(&self) -> u64 {
        self.extent.chunks() - self.done_chunks
    }

    async fn go_on(&mut self, cx: &JobContext, most: u64) -> Result<Option<(Home, ExtentId)>, JobError> {
        let extent = &self.extent;
        if cx.env.armed("pay_unseen") {
            return Ok(Some((self.home.clone(), extent.id)));
        }
        let layout = cx.layout(extent.layout).await?;
        let owners = layout.owners_of(extent.id);
        let until = extent.chunks().min(self.done_chunks + most);
        if let Some(place) = owners.iter().position(|owner| *owner == self.node) {
            let chunks: Vec<_> =
                extent.spread().chunks_at(place, owners.len(), self.done_chunks..until).collect();
            bring(cx, self.node, &chunks, &Sources::of(extent, owners)).await?;
        }
        self.done_chunks = until;
        Ok((until == extent.chunks()).then(|| (self.home.clone(), extent.id)))
    }
}

/// Says that `node` holds what it owed.
pub(super) async fn say_paid(
    cx: &JobContext,
    node: NodeId,
    extents: Vec<(Home, ExtentId)>,
) -> Result<(), MetaError> {
    if extents.is_empty() {
        return Ok(());
    }
    metrics::counter!("fluffy_debts_paid_total").increment(extents.len() as u64);
    cx.meta.propose(Command::PayDebts(PayDebts { node, extents })).await.map(drop)
}
