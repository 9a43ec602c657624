//! Bringing one extent to a node that owes a copy of it, in bounded pieces.

use consensus::client::MetaError;
use consensus::meta::command::{Command, PayDebts};
use consensus::meta::model::{Extent, Home};
use fabric::ids::{ExtentId, NodeId};

use super::copy::{bring, chunks_of, sources};
use super::{JobContext, JobError};

/// A debt that is being paid.
pub(super) struct Paying {
    /// Who owes it.
    pub(super) node: NodeId,
    home: Home,
    extent: Extent,
    /// Chunks that are there.
    done_chunks: u64,
}

impl Paying {
    /// What `node` owes.
    pub(super) fn new(node: NodeId, home: Home, extent: Extent) -> Paying {
        Paying { node, home, extent, done_chunks: 0 }
    }

    /// Brings more of it, `left` chunks at most. Returns what is paid once all of it is there.
    pub(super) async fn go_on(
        &mut self,
        cx: &JobContext,
        left: &mut u64,
    ) -> Result<Option<(Home, ExtentId)>, JobError> {
        let extent = &self.extent;
        if cx.env.armed("pay_unseen") {
            return Ok(Some((self.home.clone(), extent.id)));
        }
        let layout = cx.layout(extent.layout).await?;
        let from = sources(layout.owners_of(extent.id), extent.confirmed, self.node);
        let end = extent.chunks();
        while self.done_chunks < end {
            if *left == 0 {
                return Ok(None);
            }
            let until = end.min(self.done_chunks + *left);
            let some = chunks_of(extent, self.done_chunks..until);
            bring(cx, self.node, &some, &from).await?;
            *left -= some.len() as u64;
            self.done_chunks = until;
        }
        Ok(Some((self.home.clone(), extent.id)))
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
