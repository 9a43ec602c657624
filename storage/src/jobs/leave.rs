//! Removes the copies of this node that moved to others.
//!
//! Only a node itself removes them, in this process: a delete that was under way when the extent came back in a later
//! layout would take the new copy. While a row tells of an old copy here, no layout brings the extent back.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::command::{Command, EndLeaving};
use consensus::meta::model::Home;
use consensus::meta::query::{Answer, Query};
use fabric::ids::{ChunkId, ExtentId};

use super::{Job, JobContext, JobError, Next, wrong_answer};
use crate::chunks::CHUNKS_PER_CALL_MAX;

/// Extents of one unit.
const EXTENTS_PER_STEP: u32 = 128;
/// When nothing may be removed, the next look is after this.
const REST: Duration = Duration::from_secs(5);

/// See the file's head.
#[derive(Default)]
pub struct Leave {
    /// Behind this one in the present round. What may not be removed yet waits for the next round.
    after: Option<(Home, ExtentId)>,
}

#[async_trait]
impl Job for Leave {
    fn name(&self) -> &'static str {
        "leave"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let question = Query::Leaving { node: cx.node, after: self.after.clone(), limit: EXTENTS_PER_STEP };
        let Answer::Leaving { copies, next } = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("leaving"));
        };
        for (_, id, leaving) in &copies {
            // The first goes last: while there is any, it tells whose they are.
            let chunks: Vec<ChunkId> = leaving.chunk_ids(*id).rev().collect();
            for some in chunks.chunks(CHUNKS_PER_CALL_MAX) {
                cx.chunks.delete(cx.node, some.to_vec()).await?;
            }
        }
        if !copies.is_empty() {
            metrics::counter!("fluffy_copies_left_total").increment(copies.len() as u64);
            let extents = copies.into_iter().map(|(home, id, leaving)| (home, id, leaving.since)).collect();
            cx.meta.propose(Command::EndLeaving(EndLeaving { node: cx.node, extents })).await?;
        }
        self.after = next;
        Ok(if self.after.is_none() { Next::Rest(REST) } else { Next::Again })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fabric::coding::Coding;
    use fabric::ids::NodeId;

    use super::*;
    use crate::jobs::testing::{World, coded, extent};

    #[tokio::test]
    async fn what_leaves_is_removed_here_and_only_here() {
        let world = World::new(3);
        let (leaves, stays) = (extent(1, 300, 100), extent(2, 300, 100));
        for extent in [&leaves, &stays] {
            world.fill(extent, &[1, 2]).await;
        }
        world.meta.leave(&leaves);
        let mut job = Leave::default();
        assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Rest(REST));
        assert_eq!(world.meta.leaving(), 0);
        assert_eq!(world.chunks.count(NodeId(1)), 3);
        assert!(world.chunks.get_now(NodeId(1), stays.id.chunk(0)));
        assert_eq!(world.chunks.count(NodeId(2)), 6);
    }

    #[tokio::test]
    async fn only_the_shards_that_leave_are_removed() {
        let world = World::new(3);
        // Each of three nodes holds two of six shards.
        let coded = coded(1, Coding::FourPlusTwo, 5_000, 100);
        world.fill_shards(&coded, &[1, 2, 3]).await;
        world.meta.leave_shards(&coded, 0b1000);
        Leave::default().step(&world.context(1)).await.unwrap();
        let here = |shard| world.chunks.get_now(NodeId(1), coded.id.shard(shard, 0));
        assert!(here(0) && !here(3));
        assert_eq!(world.chunks.count(NodeId(1)), 13);
    }
}
