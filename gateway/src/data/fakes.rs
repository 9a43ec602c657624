//! Fakes for tests: an environment on tokio's clock, chunk nodes in memory with faults, and metadata that knows
//! a layout and counts open writes and reads.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Seams of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::{Hold, Meta, MetaError, ReadGuard, WriteGuard};
use consensus::meta::command::{Command, Done};
use consensus::meta::query::{Answer, Answered, Query};
use fabric::env::{BoxFuture, Env, LaneWorker, TaskHandle, Work};
use fabric::ids::{ChunkId, LayoutVersion, NodeId, SessionId};
use fabric::placement::Layout;
use storage::client::{ChunkError, ChunkStat, Chunks, NodeSpace, Verdict};
use storage::origin::ChunkOrigin;

/// Tokio's clock, counted randomness, tasks of the current runtime.
pub struct TestEnv {
    began: tokio::time::Instant,
    drawn: AtomicU64,
}

impl TestEnv {
    pub fn shared() -> Arc<dyn Env> {
        Arc::new(TestEnv { began: tokio::time::Instant::now(), drawn: AtomicU64::new(1) })
    }
}

#[async_trait]
impl Env for TestEnv {
    fn wall_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
    fn boottime(&self) -> Duration {
        self.began.elapsed()
    }
    fn random(&self, into: &mut [u8]) {
        for byte in into {
            let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
            *byte = (drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        }
    }
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let handle = tokio::spawn(task);
        TaskHandle::new(move || handle.abort())
    }
    async fn blocking(&self, work: Work) {
        work();
    }
    fn lane(&self, _name: &str) -> Arc<dyn LaneWorker> {
        unimplemented!("no test of the gateway's data uses a lane")
    }
    fn fail_stop(&self, reason: &str) {
        panic!("{reason}");
    }
    fn armed(&self, _point: &'static str) -> bool {
        false
    }
}

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Works,
    /// Refuses connections.
    Down,
    /// Never answers.
    Hangs,
    Full,
    /// Answers after this.
    Slow(Duration),
    /// Works for so many calls, then is down.
    DiesAfter(u32),
    /// Is down for so many calls, then works.
    DownFor(u32),
}

#[derive(Default)]
pub struct Node {
    pub chunks: BTreeMap<ChunkId, Bytes>,
    pub origins: Vec<ChunkOrigin>,
    pub rotten: BTreeSet<ChunkId>,
    pub gets: u32,
    mode: Option<Mode>,
}

/// Chunk nodes in memory.
#[derive(Default)]
pub struct FakeChunks {
    pub nodes: Mutex<BTreeMap<NodeId, Node>>,
}

impl FakeChunks {
    pub fn set(&self, node: u16, mode: Mode) {
        self.nodes.lock().unwrap().entry(NodeId(node)).or_default().mode = Some(mode);
    }

    pub fn with<T>(&self, node: u16, look: impl FnOnce(&mut Node) -> T) -> T {
        look(self.nodes.lock().unwrap().entry(NodeId(node)).or_default())
    }

    async fn admit(&self, node: NodeId, is_put: bool) -> Result<(), ChunkError> {
        let down = || Err(ChunkError::Unavailable(node, "down".to_string()));
        let mode = {
            let mut nodes = self.nodes.lock().unwrap();
            let mode = nodes.entry(node).or_default().mode.get_or_insert(Mode::Works);
            let now = *mode;
            match mode {
                Mode::DiesAfter(0) => *mode = Mode::Down,
                Mode::DownFor(0) => *mode = Mode::Works,
                Mode::DiesAfter(left) | Mode::DownFor(left) => *left -= 1,
                _ => {}
            }
            now
        };
        match mode {
            Mode::Down | Mode::DiesAfter(0) | Mode::DownFor(1..) => down(),
            Mode::Hangs => std::future::pending().await,
            Mode::Full if is_put => Err(ChunkError::Full(node)),
            Mode::Slow(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Chunks for FakeChunks {
    async fn put(
        &self,
        node: NodeId,
        chunk: ChunkId,
        bytes: Vec<Bytes>,
        origin: Option<ChunkOrigin>,
    ) -> Result<(), ChunkError> {
        self.admit(node, true).await?;
        self.with(node.0, |held| {
            held.chunks.insert(chunk, Bytes::from(bytes.concat()));
            held.origins.extend(origin);
        });
        Ok(())
    }
    async fn get(&self, node: NodeId, chunk: ChunkId, offset: u32, bytes: u32) -> Result<Bytes, ChunkError> {
        self.admit(node, false).await?;
        self.with(node.0, |held| {
            held.gets += 1;
            if held.rotten.contains(&chunk) {
                return Err(ChunkError::Corrupt(node));
            }
            let found = held.chunks.get(&chunk).ok_or(ChunkError::NotFound(node))?;
            Ok(found.slice(offset as usize..(offset + bytes) as usize))
        })
    }
    async fn delete(&self, _node: NodeId, _chunks: Vec<ChunkId>) -> Result<(), ChunkError> {
        Ok(())
    }
    async fn stat(&self, _node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        Ok(vec![None; chunks.len()])
    }
    async fn check(&self, _node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError> {
        Ok(vec![Verdict::Absent; chunks.len()])
    }
    async fn scan(
        &self,
        _node: NodeId,
        _after: Option<ChunkId>,
        _limit: u32,
    ) -> Result<Vec<ChunkStat>, ChunkError> {
        Ok(Vec::new())
    }
    async fn space(&self, node: NodeId) -> Result<NodeSpace, ChunkError> {
        self.admit(node, false).await?;
        Ok(NodeSpace { free_bytes: 300, total_bytes: 1000 })
    }
}

/// Metadata of a fixed layout.
pub struct FakeMeta {
    pub layout: Layout,
    pub writes_open: Arc<()>,
    pub reads_open: Arc<()>,
    given_up: Arc<AtomicBool>,
    drawn: AtomicU64,
}

/// Counted while it is open.
struct Counted {
    _counter: Arc<()>,
    given_up: Arc<AtomicBool>,
}

impl Hold for Counted {
    fn is_lost(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

impl FakeMeta {
    /// One partition, owned by nodes 1 to `nodes`.
    pub fn of_nodes(nodes: u16) -> Arc<FakeMeta> {
        let owners = (1..=nodes).map(NodeId).collect();
        Arc::new(FakeMeta {
            layout: Layout { version: LayoutVersion(1), partitions: vec![owners] },
            writes_open: Arc::new(()),
            reads_open: Arc::new(()),
            given_up: Arc::default(),
            drawn: AtomicU64::new(0),
        })
    }

    /// From now on all holds are given up, as if there were too many that last long.
    pub fn give_up_holds(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    fn hold(&self, counter: &Arc<()>) -> Box<dyn Hold> {
        Box::new(Counted { _counter: counter.clone(), given_up: self.given_up.clone() })
    }

    pub fn open_writes(&self) -> usize {
        Arc::strong_count(&self.writes_open) - 1
    }

    pub fn open_reads(&self) -> usize {
        Arc::strong_count(&self.reads_open) - 1
    }
}

#[async_trait]
impl Meta for FakeMeta {
    async fn propose(&self, _command: Command) -> Result<Done, MetaError> {
        Ok(Done::Nothing)
    }
    async fn query(&self, query: Query) -> Result<Answered, MetaError> {
        let answer = match query {
            Query::Layout(version) => {
                let known = version.is_none_or(|version| version == self.layout.version);
                Answer::Layout(known.then(|| self.layout.clone()))
            }
            Query::Members => Answer::Members { nodes: Vec::new(), layout: self.layout.version },
            _ => return Err(MetaError::Unavailable("only the layout is known".to_string())),
        };
        Ok(Answered { index: 1, answer: Ok(answer) })
    }
    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        Ok(WriteGuard::new(SessionId { epoch: 1, number: 1 }, number, self.hold(&self.writes_open)))
    }
    fn begin_read(&self) -> ReadGuard {
        ReadGuard::new(self.hold(&self.reads_open))
    }
}
