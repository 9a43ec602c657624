//! Work that nobody waits for: copies that are owed, losses, rot, garbage, payloads that leave the metadata.
//!
//! A job does one bounded unit and says whether there is more. The runner decides when to call again, with what
//! jitter, and when to stop; jobs never sleep. Every unit may be cut off anywhere and done again. Extents that a node
//! has to bring somewhere wait in its queues, where idle nodes take from the tail.

mod bringing;
mod budget;
mod collect_garbage;
mod compact;
mod copy;
mod debts;
mod expire_uploads;
mod leave;
mod lifecycle;
mod moving;
mod orphans;
mod pack_inline;
mod paying;
mod rebalance;
mod recode;
mod repair;
mod restore;
mod scrub;
mod steal;
mod supply;
#[cfg(test)]
pub(crate) mod testing;
pub mod work;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::{Meta, MetaError, ask};
use consensus::meta::query::{Answer, Query};
use fabric::env::{Env, TaskHandle, panic_message, random_u64};
use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::placement::Layout;
use futures::FutureExt;
use tokio::sync::Mutex;

pub use collect_garbage::CollectGarbage;
pub use compact::Compact;
pub use debts::Debts;
pub use expire_uploads::ExpireUploads;
pub use leave::Leave;
pub use lifecycle::Lifecycle;
pub use orphans::Orphans;
pub use pack_inline::PackInline;
pub use rebalance::Rebalance;
pub use recode::Recode;
pub use repair::Repair;
pub use restore::Restore;
pub use scrub::Scrub;
pub use steal::Steal;

use self::work::{Stolen, Work};
use crate::chunks::ChunkStore;
use crate::client::{ChunkError, Chunks};

/// First pause after a unit that failed; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Between two units when there is more: others want the disk, too.
const BREATH: Duration = Duration::from_millis(5);
/// Chunks of extents that one unit looks at or brings.
const CHUNKS_PER_STEP: u64 = 64;
/// A unit that takes longer goes on with the next step: what it has done is said, and what waits is looked at again.
const STEP_TIME: Duration = Duration::from_secs(1);
/// Layouts that are remembered.
const LAYOUTS_MAX: usize = 16;

/// Work that nobody waits for. See the file's head.
#[async_trait]
pub trait Job: Send {
    /// Its name in logs and metrics.
    fn name(&self) -> &'static str;
    /// Does one bounded unit.
    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError>;
}

/// What comes after a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more.
    Again,
    /// Nothing to do until this much time has passed.
    Rest(Duration),
}

/// A unit could not be done now; it is tried again after a pause.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JobError {
    /// The metadata did not answer, or refused.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A chunk call failed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Other nodes, as those that have work to share.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Takes units from a node, `most` at most; with 0 it only hears how many wait.
    async fn steal(&self, node: NodeId, most: u32) -> Result<Stolen, ChunkError>;
}

/// What jobs work with.
pub struct JobContext {
    /// Time and randomness of the runner.
    pub env: Arc<dyn Env>,
    /// The node they run on.
    pub node: NodeId,
    /// The metadata, in the jobs' own session.
    pub meta: Arc<dyn Meta>,
    /// Chunks of all nodes; of this one without a network between.
    pub chunks: Arc<dyn Chunks>,
    /// Whether this node should do what only one has to. Wrong answers cost work, nothing else.
    pub leads: Box<dyn Fn() -> bool + Send + Sync>,
    /// What waits on this node.
    pub work: Arc<Work>,
    /// What waits on the others.
    pub peers: Arc<dyn Peers>,
    layouts: Mutex<BTreeMap<LayoutVersion, Arc<Layout>>>,
}

impl JobContext {
    /// Puts it together.
    pub fn new(
        env: Arc<dyn Env>,
        node: NodeId,
        meta: Arc<dyn Meta>,
        chunks: Arc<dyn Chunks>,
        leads: Box<dyn Fn() -> bool + Send + Sync>,
        work: Arc<Work>,
        peers: Arc<dyn Peers>,
    ) -> JobContext {
        JobContext { env, node, meta, chunks, leads, work, peers, layouts: Mutex::default() }
    }

    /// A layout by version; they never change, so each is asked for once.
    async fn layout(&self, version: LayoutVersion) -> Result<Arc<Layout>, JobError> {
        let mut layouts = self.layouts.lock().await;
        if let Some(layout) = layouts.get(&version) {
            return Ok(layout.clone());
        }
        let layout = Arc::new(self.ask_layout(Some(version)).await?);
        if layouts.len() == LAYOUTS_MAX {
            layouts.pop_first();
        }
        layouts.insert(version, layout.clone());
        Ok(layout)
    }

    /// Owners of an extent in any layout, those of the newest first: it may lie in each.
    async fn all_owners(&self, extent: ExtentId) -> Result<Vec<NodeId>, JobError> {
        let newest = self.ask_layout(None).await?;
        let mut owners = newest.owners_of(extent).to_vec();
        for version in (1..newest.version.0).rev().take(LAYOUTS_MAX) {
            let older = self.layout(LayoutVersion(version)).await?;
            let more = older.owners_of(extent).iter().filter(|node| !owners.contains(node));
            owners.extend(more.copied().collect::<Vec<_>>());
        }
        Ok(owners)
    }

    async fn ask_layout(&self, version: Option<LayoutVersion>) -> Result<Layout, JobError> {
        match ask(&*self.meta, Query::Layout(version)).await? {
            Answer::Layout(Some(layout)) if layout.partitions.len().is_power_of_two() => Ok(layout),
            _ => Err(JobError::Other(format!("there is no layout {version:?}"))),
        }
    }
}

/// An answer of another kind than the question: the peer runs a release that we do not understand.
fn wrong_answer(question: &str) -> JobError {
    JobError::Other(format!("the answer to {question} is of another kind"))
}

/// The list. A new job is a file beside this one and a line here.
pub fn all(
    store: &ChunkStore,
    inline_bytes_max: u64,
    scrub_period: Duration,
    upload_period: Option<Duration>,
) -> Vec<Box<dyn Job>> {
    vec![
        Box::new(Debts::default()),
        Box::new(Repair::new(store.clone())),
        Box::new(Restore::new(store.clone())),
        Box::new(Rebalance::default()),
        Box::new(Steal::default()),
        Box::new(Leave::default()),
        Box::new(Scrub::new(store.clone(), scrub_period)),
        Box::new(CollectGarbage::default()),
        Box::new(Compact::new(store.clone())),
        Box::new(Orphans::default()),
        Box::new(PackInline::new(inline_bytes_max)),
        Box::new(ExpireUploads::new(upload_period)),
        Box::new(Lifecycle::default()),
        Box::new(Recode::default()),
    ]
}

/// Jobs that run; dropped or stopped, they end at their next await.
pub struct Runner {
    tasks: Vec<TaskHandle>,
}

impl Runner {
    /// Starts each job as a task of its own.
    pub fn start(cx: Arc<JobContext>, jobs: Vec<Box<dyn Job>>) -> Runner {
        let tasks =
            jobs.into_iter().map(|job| cx.env.spawn(job.name(), Box::pin(run(job, cx.clone())))).collect();
        Runner { tasks }
    }

    /// Stops them. Units are safe to be cut off.
    pub fn stop(&self) {
        self.tasks.iter().for_each(TaskHandle::abort);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run(mut job: Box<dyn Job>, cx: Arc<JobContext>) {
    let mut pause = PAUSE_MIN;
    loop {
        let step = AssertUnwindSafe(job.step(&cx)).catch_unwind().await;
        let step =
            step.unwrap_or_else(|panic| Err(JobError::Other(format!("panic: {}", panic_message(&*panic)))));
        let wait = match step {
            Ok(next) => {
                pause = PAUSE_MIN;
                match next {
                    Next::Again => BREATH,
                    Next::Rest(time) => jittered(&*cx.env, time),
                }
            }
            Err(error) => {
                tracing::info!(job = job.name(), %error, "a background unit failed and is tried again");
                metrics::counter!("fluffy_job_failures_total", "job" => job.name()).increment(1);
                let wait = jittered(&*cx.env, pause);
                pause = (pause * 2).min(PAUSE_MAX);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Between three quarters and five quarters of `time`, so that nodes do not walk in step.
fn jittered(env: &dyn Env, time: Duration) -> Duration {
    let part = random_u64(env) % 512;
    time * 3 / 4 + time / 2 * (part as u32) / 512
}
