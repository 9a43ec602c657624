//! The first seam: clocks, randomness, tasks, blocking work, process exit, failpoints.
//!
//! In production it is the system; in the simulator everything comes from one seed. Timers
//! (`tokio::time::sleep`, `timeout`) need no seam: the simulator pauses and drives tokio's clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// A boxed future that can move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;
/// A piece of work that may block a thread.
pub type Work = Box<dyn FnOnce() + Send + 'static>;

/// Everything ambient that is neither network nor disk.
#[async_trait]
pub trait Env: Send + Sync + 'static {
    /// Milliseconds since 1970, as the machine believes. Decides nothing that safety depends on.
    fn wall_ms(&self) -> u64;
    /// Never goes back; may stop while the machine sleeps. From an arbitrary start.
    fn monotonic(&self) -> Duration;
    /// Never goes back and counts the time the machine slept.
    fn boottime(&self) -> Duration;
    /// Fills `into` from the source of secrets.
    fn random(&self, into: &mut [u8]);
    /// Starts a task. It ends with the process (or the simulated host), or when the handle aborts it.
    /// A panic in a task named in [`crate::env::critical`] ends the process.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle;
    /// Runs work that may block (file reads) away from the async threads; pool of bounded size.
    async fn blocking(&self, work: Work);
    /// A worker of its own that runs blocking work one after the other, in order (one writer of a file).
    fn lane(&self, name: &str) -> Arc<dyn LaneWorker>;
    /// Ends the process (or the simulated host), for the reasons of the fail-stop list only.
    fn fail_stop(&self, reason: &str);
    /// Whether the named failpoint or planted bug is armed. Always false in production.
    fn armed(&self, point: &'static str) -> bool;
}

/// One serial worker, see [`Env::lane`].
#[async_trait]
pub trait LaneWorker: Send + Sync + 'static {
    /// Queues the work and waits until it ran. Work runs in the order of the calls.
    async fn run(&self, work: Work);
}

/// A running task. Dropping the handle lets it run on.
pub struct TaskHandle {
    abort: Box<dyn Fn() + Send + Sync>,
}

impl TaskHandle {
    /// Wraps what aborts the task.
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> TaskHandle {
        TaskHandle { abort: Box::new(abort) }
    }

    /// Stops the task at its next await.
    pub fn abort(&self) {
        (self.abort)();
    }
}
