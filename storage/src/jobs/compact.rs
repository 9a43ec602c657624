//! Gives the disk of nearly empty chunk volumes back: their chunks move together, and empty files are removed.
//!
//! A sealed volume with few chunks is written again before a new one is made, so its space is not lost; what this adds is
//! that others can have it. One unit moves a batch of chunks within the store, or removes one file.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, JobContext, JobError, Next};
use crate::chunks::{ChunkStore, Compacted};

/// When no volume is nearly empty, the next look is after this.
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
            Compacted::Nothing => Ok(Next::Rest(REST)),
            Compacted::Moved(_) | Compacted::Removed(_) => Ok(Next::Again),
        }
    }
}
