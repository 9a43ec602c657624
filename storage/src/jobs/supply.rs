//! Keeps a queue filled from the metadata while thieves take from it, however long its own node takes for its part.

use std::convert::Infallible;
use std::time::Duration;

use async_trait::async_trait;

use super::work::Queue;
use super::{JobContext, JobError};

/// While fewer extents wait, the next page of them is read: thieves are to find some while this node is slow.
const WAITING_LOW: usize = 128;
/// Between two looks at how many wait.
const WAITING_LOOK: Duration = Duration::from_millis(20);

/// Reads what is to be done, page by page.
#[async_trait]
pub(super) trait Supply: Send {
    /// Where its extents wait.
    fn queue<'a>(&self, cx: &'a JobContext) -> &'a Queue;
    /// Whether there is no further page.
    fn seen_all(&self) -> bool;
    /// Puts the next page into the queue. May be dropped anywhere.
    async fn read_on(&mut self, cx: &JobContext) -> Result<(), JobError>;

    /// Reads a page if few extents wait.
    async fn fill(&mut self, cx: &JobContext) -> Result<(), JobError> {
        match !self.seen_all() && self.queue(cx).len() < WAITING_LOW {
            true => self.read_on(cx).await,
            false => Ok(()),
        }
    }

    /// Reads on as thieves take what waits. May be dropped anywhere.
    async fn keep_filled(&mut self, cx: &JobContext) -> Infallible {
        loop {
            tokio::time::sleep(WAITING_LOOK).await;
            if let Err(error) = self.fill(cx).await {
                tracing::debug!(%error, "what is to be done cannot be read now");
            }
        }
    }
}
