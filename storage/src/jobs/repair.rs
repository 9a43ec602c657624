//! Replaces chunks that were found rotten on this node by the bytes of another owner.

use std::time::Duration;

use async_trait::async_trait;

use super::copy::{copy_one, sources};
use super::{Job, JobContext, JobError, Next};
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
        let repaired = async {
            let owners = cx.all_owners(chunk.extent()).await?;
            copy_one(cx, chunk, None, &sources(&owners, u16::MAX, cx.node)).await
        };
        match repaired.await {
            Ok(()) => {
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
