//! Replaces chunks that were found rotten on this node by the bytes of another owner, or rebuilds them from other shards.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::model::Extent;
use consensus::meta::query::{Answer, Query};
use fabric::coding::Coding;
use fabric::ids::{ChunkId, ExtentId, NodeId};

use super::copy::{Sources, bring_one, copy_one};
use super::orphans::find_home;
use super::{Job, JobContext, JobError, Next, wrong_answer};
use crate::chunks::ChunkStore;

/// When nothing is rotten, the next look is after this.
const REST: Duration = Duration::from_secs(1);

/// See the file's head.
pub struct Repair {
    store: ChunkStore,
}

impl Repair {
    /// Repairs what `store` reports.
    pub fn new(store: ChunkStore) -> Repair {
        Repair { store }
    }
}

#[async_trait]
impl Job for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let Some(chunk) = self.store.take_repair() else {
            return Ok(Next::Rest(REST));
        };
        match repair(cx, chunk).await {
            Ok(Outcome::Unnamed) => Ok(Next::Again),
            Ok(Outcome::Repaired) => {
                tracing::info!(%chunk, "a rotten chunk is repaired");
                metrics::counter!("fluffy_chunks_repaired_total").increment(1);
                Ok(Next::Again)
            }
            Err(error) => {
                self.store.report_rotten(chunk);
                Err(error)
            }
        }
    }
}

enum Outcome {
    Repaired,
    /// It is a shard of an extent that no row names any more, or not yet: nobody needs it now.
    Unnamed,
}

async fn repair(cx: &JobContext, chunk: ChunkId) -> Result<Outcome, JobError> {
    let id = chunk.extent();
    let owners = cx.all_owners(id).await?;
    if id.coding().is_none_or(|coding| coding == Coding::Whole) {
        let others: Vec<NodeId> = owners.into_iter().filter(|node| *node != cx.node).collect();
        copy_one(cx, chunk, &others).await?;
        return Ok(Outcome::Repaired);
    }
    // How long a shard is, and where the others are, only the row says.
    let Some(extent) = row_of(cx, id).await? else { return Ok(Outcome::Unnamed) };
    let layout = cx.layout(extent.layout).await?;
    let newest = cx.ask_layout(None).await?;
    let from = Sources::of(&extent, layout.owners_of(id)).or(newest.owners_of(id));
    let bytes = extent.spread().bytes_of(chunk.shard(), u64::from(chunk.ordinal()));
    bring_one(cx, cx.node, chunk, bytes, &from).await?;
    Ok(Outcome::Repaired)
}

async fn row_of(cx: &JobContext, id: ExtentId) -> Result<Option<Extent>, JobError> {
    let Some(home) = find_home(cx, id).await? else { return Ok(None) };
    let question = Query::Extents { after: Some((home, id.before())), limit: 1 };
    let Answer::Placed { extents, .. } = ask(&*cx.meta, question).await? else {
        return Err(wrong_answer("extents"));
    };
    Ok(extents.into_iter().map(|(_, extent)| extent).find(|extent| extent.id == id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{World, coded, extent};
    use super::*;
    use crate::client::Chunks;

    const ME: NodeId = NodeId(1);

    #[tokio::test]
    async fn rotten_chunks_are_copied_or_rebuilt() {
        let world = World::new(6);
        let (copies, shards, unnamed) = (
            extent(1, 300, 100),
            coded(2, Coding::FourPlusTwo, 1_234, 100),
            coded(3, Coding::FourPlusTwo, 400, 100),
        );
        world.fill(&copies, &[2]).await;
        world.fill_shards(&shards, &[2, 3, 5, 6]).await;
        world.fill_shards(&unnamed, &[2, 3, 4, 5, 6]).await;
        world.meta.place(&[copies.clone(), shards.clone()]);
        let store = crate::testing::store(ME).await;
        // One of a stripe that has nothing behind it, and the first of all, with its origin.
        let rotten =
            [copies.id.chunk(1), shards.id.shard(0, 3), shards.id.shard(0, 0), unnamed.id.shard(0, 0)];
        rotten.iter().for_each(|chunk| store.report_rotten(*chunk));
        let (mut job, cx) = (Repair::new(store), world.context(1));
        for _ in rotten {
            assert_eq!(job.step(&cx).await.unwrap(), Next::Again);
        }
        assert!(matches!(job.step(&cx).await.unwrap(), Next::Rest(_)), "nothing is tried again");
        assert!(world.chunks.get_now(ME, copies.id.chunk(1)));
        for chunk in [shards.id.shard(0, 3), shards.id.shard(0, 0)] {
            let body = world.shard(&shards, chunk);
            assert_eq!(world.chunks.get(ME, chunk, 0, body.len() as u32).await.unwrap(), body);
        }
        let stat = world.chunks.stat(ME, vec![shards.id.shard(0, 0)]).await.unwrap().pop().flatten();
        assert!(stat.unwrap().origin.is_some());
        assert_eq!(world.chunks.count(ME), 3);
    }
}
