//! Gives disk back where a store shrank: see [`ChunkStore::compact`].

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, JobContext, JobError, Next};
use crate::chunks::{ChunkStore, Compaction};

/// While there is nothing to gain.
const REST: Duration = Duration::from_secs(60);

/// See the file's head.
pub struct Compact {
    store: ChunkStore,
}

impl Compact {
    /// Compacts the volumes of `store`.
    pub fn new(store: ChunkStore) -> Compact {
        Compact { store }
    }
}

#[async_trait]
impl Job for Compact {
    fn name(&self) -> &'static str {
        "compact"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        match cx.work.budget.spend(&*cx.env, self.store.compact()).await? {
            Compaction::Idle => Ok(Next::Rest(REST)),
            Compaction::Moved(_) | Compaction::Removed(_) => Ok(Next::Again),
        }
    }
}
