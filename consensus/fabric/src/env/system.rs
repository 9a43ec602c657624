//! The real environment: the system's clocks, its randomness, tokio's tasks, threads.
#![allow(clippy::disallowed_methods)] // This file implements the seam.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures::FutureExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use super::{BoxFuture, Env, LaneWorker, TaskHandle, Work, panic_message};
use crate::limits::{BLOCKING_THREADS_MAX, BLOCKING_THREADS_MIN, BLOCKING_THREADS_PER_CORE, LANE_QUEUE_MAX};

/// The status a process exits with after [`Env::fail_stop`].
pub const FAIL_STOP_STATUS: i32 = 70;

/// The production [`Env`]. Needs a running tokio runtime to spawn and to block.
pub struct SystemEnv {
    start: Instant,
    armed: BTreeSet<String>,
}

impl Default for SystemEnv {
    fn default() -> SystemEnv {
        SystemEnv::with_armed([])
    }
}

impl SystemEnv {
    /// With these failpoints and planted bugs armed; for tests of real processes.
    pub fn with_armed(points: impl IntoIterator<Item = String>) -> SystemEnv {
        SystemEnv { start: Instant::now(), armed: points.into_iter().collect() }
    }
}

/// The runtime of a daemon: a thread a core, and a bounded pool for blocking work.
pub fn build_runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .thread_name("fluffy")
        .max_blocking_threads(blocking_threads())
        .build()
}

/// Each thread keeps memory that it has freed, up to some chunks: more than keep disks and processors busy are a waste.
fn blocking_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (BLOCKING_THREADS_MIN + BLOCKING_THREADS_PER_CORE * cores).min(BLOCKING_THREADS_MAX)
}

/// Allows this process as many open files and connections as the system lets it have, and returns how many that is.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, what there is must do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Sends panics to the log instead of to plain standard error. Call once, at the start of a daemon.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_string();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, thread, message, "panic");
    }));
}

#[async_trait]
impl Env for SystemEnv {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn boottime(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).expect("the time since boot is not negative");
        let nanoseconds = u32::try_from(now.tv_nsec).expect("the kernel keeps it below a billion");
        Duration::new(seconds, nanoseconds)
    }

    fn random(&self, into: &mut [u8]) {
        if let Err(error) = getrandom::fill(into) {
            self.fail_stop(&format!("the system gives no randomness: {error}"));
        }
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let watched = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                tracing::error!(task = name, message = panic_message(&*panic), "task panicked");
            }
        };
        let handle = tokio::spawn(watched).abort_handle();
        TaskHandle::new(move || handle.abort())
    }

    async fn blocking(&self, work: Work) {
        match tokio::task::spawn_blocking(work).await {
            Ok(()) => {}
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn lane(&self, name: &str) -> Arc<dyn LaneWorker> {
        let (queue, mut jobs) = mpsc::channel::<Job>(LANE_QUEUE_MAX);
        let work = move || {
            while let Some(job) = jobs.blocking_recv() {
                let outcome = catch_unwind(AssertUnwindSafe(job.work));
                // Nobody waits any more: the work was done all the same.
                drop(job.done.send(outcome));
            }
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_string()).spawn(work) {
            self.fail_stop(&format!("start the thread of lane {name}: {error}"));
        }
        Arc::new(SystemLane { queue })
    }

    fn fail_stop(&self, reason: &str) {
        tracing::error!(reason, "this process cannot go on and stops");
        std::process::exit(FAIL_STOP_STATUS);
    }

    fn armed(&self, point: &'static str) -> bool {
        !self.armed.is_empty() && self.armed.contains(point)
    }
}

struct Job {
    work: Work,
    done: oneshot::Sender<Result<(), Box<dyn Any + Send>>>,
}

struct SystemLane {
    queue: mpsc::Sender<Job>,
}

#[async_trait]
impl LaneWorker for SystemLane {
    async fn run(&self, work: Work) {
        let (done, outcome) = oneshot::channel();
        if self.queue.send(Job { work, done }).await.is_err() {
            unreachable!("the thread receives until every sender is gone");
        }
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => unreachable!("the thread answers each job"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::{Lane, random_u64, random_u128, run_blocking, spawn_critical};
    use super::*;

    #[tokio::test]
    async fn a_lane_keeps_the_order_of_calls_and_survives_a_panic() {
        let env = SystemEnv::default();
        let lane = Lane::new(&env, "test-lane");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let calls = (0..100).map(|number| {
            let seen = seen.clone();
            lane.run(move || seen.lock().expect("no other test panics in it").push(number))
        });
        futures::future::join_all(calls).await;
        assert_eq!(*seen.lock().expect("as above"), (0..100).collect::<Vec<_>>());

        let failed = AssertUnwindSafe(lane.run(|| panic!("planned"))).catch_unwind().await;
        assert_eq!(failed.map_err(|panic| panic_message(&*panic).to_string()), Err("planned".to_string()));
        assert_eq!(lane.run(|| 7).await, 7);
    }

    #[tokio::test]
    async fn blocking_work_gives_its_result_or_its_panic() {
        let env = SystemEnv::default();
        assert_eq!(run_blocking(&env, || 3).await, 3);
        let failed =
            AssertUnwindSafe(run_blocking(&env, || -> u8 { panic!("planned") })).catch_unwind().await;
        assert!(failed.is_err());
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_task_and_abort_ends_a_task() {
        let env = SystemEnv::default();
        drop(env.spawn("panics", Box::pin(async { panic!("planned") })));
        let (alive, ended) = oneshot::channel::<()>();
        let endless = env.spawn(
            "endless",
            Box::pin(async move {
                let _alive = alive;
                std::future::pending().await
            }),
        );
        endless.abort();
        assert!(ended.await.is_err());
    }

    /// Runs itself in a process of its own, where the panic happens.
    #[test]
    fn a_panic_in_a_critical_task_ends_the_process() {
        const CHILD: &str = "FLUFFY_TEST_CRITICAL_PANIC";
        if std::env::var_os(CHILD).is_none() {
            let mut child = std::process::Command::new(std::env::current_exe().expect("a test has a file"));
            child.args(["--exact", "env::system::tests::a_panic_in_a_critical_task_ends_the_process"]);
            let output = child.env(CHILD, "1").output().expect("the test runs once more");
            assert_eq!(output.status.code(), Some(FAIL_STOP_STATUS));
            return;
        }
        let runtime = build_runtime().expect("a runtime starts");
        runtime.block_on(async {
            let env: Arc<dyn Env> = Arc::new(SystemEnv::default());
            spawn_critical(&env, "critical", async { panic!("planned") });
            std::future::pending::<()>().await;
        });
    }

    #[test]
    fn clocks_go_on_and_randomness_differs() {
        let env = SystemEnv::with_armed(["bug".to_string()]);
        assert!(env.wall_ms() > 1_700_000_000_000);
        let (monotonic, boottime) = (env.monotonic(), env.boottime());
        assert!(env.monotonic() >= monotonic && env.boottime() >= boottime);
        assert!(random_u64(&env) != random_u64(&env) && random_u128(&env) != random_u128(&env));
        assert!(env.armed("bug") && !env.armed("other"));
    }
}
