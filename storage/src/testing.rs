//! What tests of several modules share.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fabric::env::{BoxFuture, Env, LaneWorker, SystemEnv, TaskHandle, Work};

/// The system with a monotonic clock that tests move on.
#[derive(Default)]
pub(crate) struct Clock {
    system: SystemEnv,
    ahead: Mutex<Duration>,
}

impl Clock {
    pub(crate) fn advance(&self, time: Duration) {
        *self.ahead.lock().unwrap() += time;
    }
}

#[async_trait]
impl Env for Clock {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms()
    }
    fn monotonic(&self) -> Duration {
        self.system.monotonic() + *self.ahead.lock().unwrap()
    }
    fn boottime(&self) -> Duration {
        self.system.boottime()
    }
    fn random(&self, into: &mut [u8]) {
        self.system.random(into);
    }
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        self.system.spawn(name, task)
    }
    async fn blocking(&self, work: Work) {
        self.system.blocking(work).await;
    }
    fn lane(&self, name: &str) -> Arc<dyn LaneWorker> {
        self.system.lane(name)
    }
    fn fail_stop(&self, reason: &str) {
        panic!("{reason}");
    }
    fn armed(&self, _point: &'static str) -> bool {
        false
    }
}
