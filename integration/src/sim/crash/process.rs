//! One process of a story: an async runtime of its own on this thread, whose end ends all tasks.
#![allow(clippy::disallowed_methods)] // It implements the seam.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fabric::env::{BoxFuture, Env, LaneWorker, TaskHandle, Work, panic_message};
use futures::FutureExt;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::history::Violation;
use crate::sim::random::SimRandom;
use crate::sim::seams::EPOCH_MS;

/// In simulated time; a life that takes longer hangs.
const LIFE_MAX: Duration = Duration::from_secs(3600);

/// A running process.
pub(super) struct Process {
    runtime: Runtime,
    env: Arc<CrashEnv>,
}

/// What is known of a process that ended.
pub(super) struct Ended {
    fail_stop: Option<String>,
    panic: Option<String>,
}

impl Process {
    /// Starts one.
    pub(super) fn start(random: Arc<SimRandom>, planted: Option<&'static str>) -> Process {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime =
            runtime.expect("a runtime without threads and sockets needs nothing that can be missing");
        let start = runtime.block_on(async { Instant::now() });
        let env = Arc::new(CrashEnv { random, start, planted, state: Arc::default() });
        Process { runtime, env }
    }

    pub(super) fn env(&self) -> Arc<dyn Env> {
        self.env.clone()
    }

    /// Runs until `life` is over. `None`: it never would be.
    pub(super) fn run<T>(&self, life: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(LIFE_MAX, life).await.ok() })
    }

    /// Ends all tasks.
    pub(super) fn end(self) -> Ended {
        drop(self.runtime);
        let mut state = self.env.state();
        Ended { fail_stop: state.fail_stop.take(), panic: state.panic.take() }
    }
}

impl Ended {
    /// A process may only stop because its disk is `dead`, and no task may panic.
    pub(super) fn judge(self, dead: bool) -> Result<(), Violation> {
        if let Some(panic) = self.panic {
            return Err(Violation(format!("a task panicked: {panic}")));
        }
        match self.fail_stop {
            Some(why) if !dead || why.contains("panicked") => Err(Violation(format!("fail stop: {why}"))),
            _ => Ok(()),
        }
    }
}

struct CrashEnv {
    random: Arc<SimRandom>,
    start: Instant,
    planted: Option<&'static str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    fail_stop: Option<String>,
    panic: Option<String>,
}

impl CrashEnv {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }
}

/// Lets other tasks come between.
async fn others(random: &SimRandom) {
    for _ in 0..random.below(4) {
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Env for CrashEnv {
    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.monotonic().as_millis() as u64
    }

    fn monotonic(&self) -> Duration {
        Instant::now().duration_since(self.start)
    }

    fn boottime(&self) -> Duration {
        self.monotonic()
    }

    fn random(&self, into: &mut [u8]) {
        self.random.fill(into);
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let state = self.state.clone();
        let watched = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let what = format!("{name}: {}", panic_message(&*panic));
                state.lock().expect("no holder of this lock can panic").panic.get_or_insert(what);
            }
        };
        let handle = tokio::task::spawn(watched);
        TaskHandle::new(move || handle.abort())
    }

    async fn blocking(&self, work: Work) {
        others(&self.random).await;
        work();
        others(&self.random).await;
    }

    fn lane(&self, _name: &str) -> Arc<dyn LaneWorker> {
        Arc::new(CrashLane { turn: tokio::sync::Mutex::new(()), random: self.random.clone() })
    }

    fn fail_stop(&self, reason: &str) {
        self.state().fail_stop.get_or_insert_with(|| reason.to_string());
    }

    fn armed(&self, point: &'static str) -> bool {
        self.planted == Some(point)
    }
}

/// Runs the work inline, in order.
struct CrashLane {
    turn: tokio::sync::Mutex<()>,
    random: Arc<SimRandom>,
}

#[async_trait]
impl LaneWorker for CrashLane {
    async fn run(&self, work: Work) {
        let _turn = self.turn.lock().await;
        others(&self.random).await;
        work();
        others(&self.random).await;
    }
}
