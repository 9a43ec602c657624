//! What tests of several modules share.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // The clock of a paused runtime is the seam here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fabric::Seams;
use fabric::disks::MemoryDisks;
use fabric::env::{BoxFuture, Env, LaneWorker, SystemEnv, TaskHandle, Work};
use fabric::ids::NodeId;
use fabric::limits::{GIB, MIB};
use fabric::net::LocalNet;
use tokio::time::Instant;

use crate::chunks::{ChunkSettings, ChunkStore};

/// An empty store in memory.
pub(crate) async fn store(node: NodeId) -> ChunkStore {
    let seams = Seams {
        env: Arc::new(SystemEnv::default()),
        net: Arc::new(LocalNet::default()),
        disks: Arc::new(MemoryDisks::new(2 * GIB)),
    };
    let settings = ChunkSettings::new(node, "/data/chunks".into(), 32 * MIB);
    let store = ChunkStore::open(&seams, settings).await.unwrap();
    store.wait_ready().await;
    store
}

/// The system with clocks that tests move on.
pub(crate) struct Clock {
    system: SystemEnv,
    began: Instant,
    ahead: Mutex<Duration>,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { system: SystemEnv::default(), began: Instant::now(), ahead: Mutex::default() }
    }
}

impl Clock {
    pub(crate) fn advance(&self, time: Duration) {
        *self.ahead.lock().unwrap() += time;
    }
}

#[async_trait]
impl Env for Clock {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms() + self.ahead.lock().unwrap().as_millis() as u64
    }
    fn monotonic(&self) -> Duration {
        self.began.elapsed() + *self.ahead.lock().unwrap()
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
