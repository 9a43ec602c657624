//! Removes the chunks of extents that nobody names or reads any more, from all owners; then their rows.
//!
//! One node does it, the one that leads; two that do it at once only do it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::command::{self, Command};
use consensus::meta::model::Garbage;
use consensus::meta::query::{Answer, Query};
use fabric::ids::{BucketId, ChunkId, NodeId, Stamp};

use super::{Job, JobContext, JobError, Next, wrong_answer};

/// Rows of one unit.
const ROWS_PER_STEP: u32 = 128;
/// Chunks of one unit; an extent is not split, so one may exceed it alone.
const CHUNKS_PER_STEP: u64 = 8192;
/// Bodies that one command takes apart.
const BODIES_PER_STEP: usize = 4;
/// When there is nothing to collect, the next look is after this.
const REST: Duration = Duration::from_secs(5);
/// When owners do not answer, the next try is after this.
const RETRY: Duration = Duration::from_secs(10);

/// See the file's head.
#[derive(Default)]
pub struct CollectGarbage {
    /// Behind this row in the present round. What cannot be removed now waits for the next round.
    after: Option<Row>,
}

#[async_trait]
impl Job for CollectGarbage {
    fn name(&self) -> &'static str {
        "collect_garbage"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if !(cx.leads)() {
            return Ok(Next::Rest(REST));
        }
        let question = Query::Garbage { after: self.after, limit: ROWS_PER_STEP };
        let Answer::Garbage(rows) = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("garbage"));
        };
        if rows.is_empty() {
            self.after = None;
            let Answer::Hold(hold) = ask(&*cx.meta, Query::Hold).await? else {
                return Err(wrong_answer("hold"));
            };
            metrics::gauge!("fluffy_garbage_kept").set(if hold.is_some() { 1.0 } else { 0.0 });
            return Ok(Next::Rest(REST));
        }
        let mut round_over = rows.len() < ROWS_PER_STEP as usize;
        let mut unit = Unit::default();
        for (bucket, stamp, garbage) in rows {
            if !unit.add(cx, (bucket, stamp), garbage).await? {
                round_over = false;
                break;
            }
            self.after = Some((bucket, stamp));
        }
        if round_over {
            self.after = None;
        }
        let silent = unit.delete(cx).await;
        let done: Vec<_> = unit
            .rows
            .into_iter()
            .filter(|(_, owners)| owners.is_disjoint(&silent))
            .map(|(row, _)| row)
            .collect();
        if done.is_empty() && unit.take_apart.is_empty() {
            return Ok(if round_over { Next::Rest(RETRY) } else { Next::Again });
        }
        metrics::counter!("fluffy_garbage_collected_total").increment(done.len() as u64);
        let collect = command::CollectGarbage { done, take_apart: unit.take_apart };
        cx.meta.propose(Command::CollectGarbage(collect)).await?;
        Ok(Next::Again)
    }
}

type Row = (BucketId, Stamp);

#[derive(Default)]
struct Unit {
    /// Rows of extents with the nodes that must have confirmed.
    rows: Vec<(Row, BTreeSet<NodeId>)>,
    take_apart: Vec<Row>,
    chunks: BTreeMap<NodeId, Vec<ChunkId>>,
    count: u64,
}

impl Unit {
    /// Adds a row; `false` when the unit is full without it.
    async fn add(&mut self, cx: &JobContext, row: Row, garbage: Garbage) -> Result<bool, JobError> {
        let extent = match garbage {
            Garbage::Extent(extent) => extent,
            Garbage::Body { .. } => {
                if self.take_apart.len() == BODIES_PER_STEP {
                    return Ok(false);
                }
                self.take_apart.push(row);
                return Ok(true);
            }
        };
        let chunks = extent.chunks() * extent.coding().shards() as u64;
        if self.count > 0 && self.count + chunks > CHUNKS_PER_STEP {
            return Ok(false);
        }
        self.count += chunks;
        let layout = cx.layout(extent.layout).await?;
        let owners = layout.owners_of(extent.id);
        let holders = extent.coding().holders(owners);
        for (place, owner) in holders.iter().enumerate() {
            let chunks = extent.spread().chunks_at(place, owners.len(), 0..extent.chunks());
            self.chunks.entry(*owner).or_default().extend(chunks.map(|(chunk, _)| chunk));
        }
        self.rows.push((row, holders.iter().copied().collect()));
        Ok(true)
    }

    /// Deletes the chunks on all their owners. Returns the owners that did not confirm.
    async fn delete(&mut self, cx: &JobContext) -> BTreeSet<NodeId> {
        let calls = std::mem::take(&mut self.chunks).into_iter().map(|(node, chunks)| async move {
            match cx.chunks.delete(node, chunks).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::debug!(%error, "delete garbage");
                    Some(node)
                }
            }
        });
        futures::future::join_all(calls).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::coding::Coding;

    use super::super::testing::{World, coded, extent};
    use super::*;

    #[tokio::test]
    async fn rows_go_only_after_every_owner_confirmed() {
        let world = World::new(3);
        let old = extent(1, 100, 40);
        world.fill(&old, &[1, 2, 3]).await;
        world.meta.release(&old);
        world.chunks.silence(NodeId(3), true);
        let mut job = CollectGarbage::default();
        let step = job.step(&world.context(1)).await.unwrap();
        assert!(matches!(step, Next::Rest(_)));
        assert_eq!(world.meta.garbage_rows(), 1);
        assert_eq!(world.chunks.count(NodeId(1)) + world.chunks.count(NodeId(2)), 0);
        world.chunks.silence(NodeId(3), false);
        assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Again);
        assert_eq!((world.meta.garbage_rows(), world.chunks.count(NodeId(3))), (0, 0));
        assert!(matches!(job.step(&world.context(1)).await.unwrap(), Next::Rest(_)));
    }

    #[tokio::test]
    async fn garbage_of_a_silent_owner_holds_back_nothing_else() {
        let world = World::new(3);
        let extents: Vec<_> = (1..=u64::from(ROWS_PER_STEP) + 2).map(|number| extent(number, 1, 1)).collect();
        for extent in &extents {
            world.meta.release(extent);
        }
        world.chunks.silence(NodeId(3), true);
        let mut job = CollectGarbage::default();
        assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Again, "there is more behind these");
        assert!(matches!(job.step(&world.context(1)).await.unwrap(), Next::Rest(_)), "the round is over");
        world.chunks.silence(NodeId(3), false);
        while world.meta.garbage_rows() != 0 {
            job.step(&world.context(1)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn shards_are_removed_where_they_lie() {
        let world = World::new(4);
        let old = coded(1, Coding::FourPlusTwo, 1_234, 100);
        world.fill_shards(&old, &[1, 2, 3, 4]).await;
        world.meta.release(&old);
        let mut job = CollectGarbage::default();
        assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Again);
        assert_eq!((1..=4).map(|node| world.chunks.count(NodeId(node))).sum::<usize>(), 0);
    }
}
