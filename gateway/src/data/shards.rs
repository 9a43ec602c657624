//! Reading a chunk of an extent that is stored as shards: from the one node that has it, or rebuilt from others.
//!
//! The same bytes of other chunks of the stripe give the bytes of any, so a part of a chunk costs as much of each of
//! them. What is read for that is within a budget of its own, taken before the first byte and given back with the last.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fabric::ids::NodeId;
use fabric::placement::Layout;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::Data;
use super::reader::{ReadError, Step};

/// Pause before all nodes are asked once more.
const SECOND_ROUND_PAUSE: Duration = Duration::from_millis(300);
/// How long a chunk waits for its share of the budget.
const PATIENCE: Duration = Duration::from_secs(30);

impl Data {
    /// Asks the nodes of the extent's layout; then, as the extent may have moved, those of the newest as well.
    pub(super) async fn fetch_shard(&self, step: &Step, offset: u32, bytes: u32) -> Result<Bytes, ReadError> {
        let mut layouts = Vec::new();
        match self.layouts.version(step.extent.layout).await {
            Ok(layout) => layouts.push(layout),
            Err(error) => tracing::debug!(%error, "the layout of an extent is unknown"),
        }
        if let Ok(found) = self.fetch_or_rebuild(step, offset, bytes, &layouts).await {
            return Ok(found);
        }
        tokio::time::sleep(SECOND_ROUND_PAUSE).await;
        let newest = self.layouts.newest().await;
        let newest = newest.map_err(|error| ReadError::Unavailable(step.chunk, error.to_string()))?;
        layouts.push(newest);
        self.fetch_or_rebuild(step, offset, bytes, &layouts).await
    }

    /// Asks the node that has the chunk, and where it fails, or takes long, the others, too.
    async fn fetch_or_rebuild(
        &self,
        step: &Step,
        offset: u32,
        bytes: u32,
        layouts: &[Arc<Layout>],
    ) -> Result<Bytes, ReadError> {
        let holders = self.holders(step, step.chunk.shard(), layouts);
        // One that is avoided is asked all the same, as the others may fail; it is not waited for.
        let first = holders.first().copied().filter(|node| self.nodes.healthy(*node));
        let patience = first.map_or(Duration::ZERO, |node| self.nodes.hedge_delay(node));
        let mut direct = pin!(self.fetch_hedged(&holders, step.chunk, offset, bytes));
        match tokio::time::timeout(patience, &mut direct).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(_)) => return self.rebuild(step, offset, bytes, layouts).await,
            Err(_) => {}
        }
        let rebuilt = pin!(self.rebuild(step, offset, bytes, layouts));
        match select(direct, rebuilt).await {
            Either::Left((Ok(found), _)) | Either::Right((Ok(found), _)) => Ok(found),
            Either::Left((Err(_), rebuilt)) => rebuilt.await,
            Either::Right((Err(error), direct)) => direct.await.map_err(|_| error),
        }
    }

    /// Who may hold a shard, confirmed ones first.
    fn holders(&self, step: &Step, shard: usize, layouts: &[Arc<Layout>]) -> Vec<NodeId> {
        let (id, coding) = (step.extent.id, step.extent.coding());
        let mut ranked = Vec::new();
        for layout in layouts {
            let owners = layout.owners_of(id);
            for place in coding.places_of(shard, owners.len()) {
                let confirmed =
                    layout.version == step.extent.layout && step.extent.confirmed >> place & 1 == 1;
                ranked.push((!confirmed, owners[place]));
            }
        }
        ranked.sort_by_key(|(unsure, _)| *unsure);
        let mut nodes: Vec<NodeId> = ranked.into_iter().map(|(_, node)| node).collect();
        nodes.dedup();
        nodes
    }

    /// Reads the same bytes of as many other chunks of the stripe as it takes.
    async fn rebuild(
        &self,
        step: &Step,
        offset: u32,
        bytes: u32,
        layouts: &[Arc<Layout>],
    ) -> Result<Bytes, ReadError> {
        let coding = step.extent.coding();
        let fail =
            || ReadError::Unavailable(step.chunk, "too few shards of its stripe can be read".to_string());
        let room = bytes as usize * (coding.data() + 1);
        let _held = self.rebuilds.take(room, PATIENCE).await.map_err(|_| ReadError::Overloaded)?;
        let mut others: Vec<(usize, Vec<NodeId>)> = (0..coding.shards())
            .filter(|shard| *shard != step.chunk.shard())
            .map(|shard| (shard, self.holders(step, shard, layouts)))
            .collect();
        others.sort_by_key(|(shard, nodes)| {
            let node = nodes.first();
            (node.map(|node| self.nodes.read_rank(*node)).is_none_or(|rank| rank.0), *shard)
        });
        let mut others = others.into_iter();
        let mut found = vec![None; coding.shards()];
        let mut asked = FuturesUnordered::new();
        let mut missing = coding.data();
        let mut to_ask = missing;
        let mut patience = Duration::ZERO;
        while 0 < missing {
            for (shard, nodes) in others.by_ref().take(to_ask) {
                patience = nodes.first().map_or(patience, |node| patience.max(self.nodes.hedge_delay(*node)));
                asked.push(self.fetch_same(step, shard, nodes, offset, bytes));
            }
            to_ask = 0;
            tokio::select! {
                biased;
                answer = asked.next() => match answer {
                    Some((shard, Some(part))) => {
                        found[shard] = Some(part);
                        missing -= 1;
                    }
                    Some((_, None)) => to_ask = 1,
                    None => return Err(fail()),
                },
                () = tokio::time::sleep(patience), if 0 < others.len() => to_ask = 1,
            }
        }
        metrics::counter!("fluffy_reads_rebuilt_total").increment(1);
        coding.rebuild(step.chunk.shard(), &found, bytes as usize).ok_or_else(fail)
    }

    /// The same bytes of another chunk of the stripe, as far as it has them.
    async fn fetch_same(
        &self,
        step: &Step,
        shard: usize,
        nodes: Vec<NodeId>,
        offset: u32,
        bytes: u32,
    ) -> (usize, Option<Bytes>) {
        let ordinal = step.chunk.ordinal();
        let whole_bytes = step.extent.spread().bytes_of(shard, ordinal.into()) as u32;
        let bytes = bytes.min(whole_bytes.saturating_sub(offset));
        if bytes == 0 {
            return (shard, Some(Bytes::new()));
        }
        let chunk = step.extent.id.shard(shard, ordinal);
        (shard, self.fetch_hedged(&nodes, chunk, offset, bytes).await.ok())
    }
}
