//! The first seam: clocks, randomness, tasks, blocking work, process exit, failpoints.
//!
//! In production it is the system; in the simulator everything comes from one seed. Timers
//! (`tokio::time::sleep`, `timeout`) need no seam: the simulator pauses and drives tokio's clock.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::oneshot;

pub mod system;

pub use system::SystemEnv;

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
    /// A panic in it is logged and ends that task only; see [`spawn_critical`] for those that may not die.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle;
    /// Runs work that may block (file reads) away from the async threads; pool of bounded size.
    /// A panic in the work continues in the caller. Work once queued runs even when the caller stops waiting.
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
    /// Queues the work and waits until it ran. Work runs in the order of the calls; once queued it runs even
    /// when the caller stops waiting. A panic in the work continues in the caller, the lane goes on.
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

/// Starts a task whose panic ends the process: the log, the state machine, Raft, and whatever else would
/// leave a process that looks alive and no longer keeps its promises.
pub fn spawn_critical(
    env: &Arc<dyn Env>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> TaskHandle {
    let fail = env.clone();
    let watched = async move {
        if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
            fail.fail_stop(&format!("task {name} panicked: {}", panic_message(&*panic)));
        }
    };
    env.spawn(name, Box::pin(watched))
}

/// What a panic said, for the log.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// [`Env::blocking`] for work with a result.
pub async fn run_blocking<T: Send + 'static>(env: &dyn Env, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (work, result) = with_result(work);
    env.blocking(work).await;
    taken(result).await
}

/// A serial worker whose work has results, see [`Env::lane`].
#[derive(Clone)]
pub struct Lane {
    worker: Arc<dyn LaneWorker>,
}

impl Lane {
    /// Starts a lane; it ends once all its clones are dropped and its queue is empty.
    pub fn new(env: &dyn Env, name: &str) -> Lane {
        Lane { worker: env.lane(name) }
    }

    /// [`LaneWorker::run`] for work with a result.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (work, result) = with_result(work);
        self.worker.run(work).await;
        taken(result).await
    }
}

/// 64 random bits.
pub fn random_u64(env: &dyn Env) -> u64 {
    let mut bytes = [0; 8];
    env.random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// 128 random bits.
pub fn random_u128(env: &dyn Env) -> u128 {
    let mut bytes = [0; 16];
    env.random(&mut bytes);
    u128::from_le_bytes(bytes)
}

fn with_result<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Work, oneshot::Receiver<T>) {
    let (send, result) = oneshot::channel();
    // Nobody waits for the result any more: the work was done all the same.
    (Box::new(move || drop(send.send(work()))), result)
}

async fn taken<T>(result: oneshot::Receiver<T>) -> T {
    match result.await {
        Ok(result) => result,
        // The work was thrown away unrun, which happens only when the process or the simulated host ends:
        // so does this task, at this await.
        Err(_) => std::future::pending().await,
    }
}
