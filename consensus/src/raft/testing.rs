//! For the tests of this crate: a disk in memory that forgets what was not synced, and clocks to set.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use fabric::disks::{Disks, File, OpenMode, Space};
use fabric::env::{BoxFuture, Env, LaneWorker, SystemEnv, TaskHandle, Work};

#[derive(Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(u64, Vec<u8>)>,
}

/// Files in memory. Names are durable at once; contents when synced.
#[derive(Default, Clone)]
pub(crate) struct TestDisks {
    files: Arc<Mutex<BTreeMap<PathBuf, Arc<TestFile>>>>,
    taken: Arc<AtomicU64>,
}

const TOTAL_BYTES: u64 = 1 << 40;

#[derive(Default)]
pub(crate) struct TestFile {
    content: Mutex<Content>,
    /// Of all files.
    taken: Arc<AtomicU64>,
}

impl TestDisks {
    /// From now on files can grow by so many bytes.
    pub(crate) fn set_free(&self, bytes: u64) {
        self.taken.store(TOTAL_BYTES - bytes, Ordering::Relaxed);
    }

    /// The disk after a power cut that kept those unsynced writes for which `keep` says so (by their number).
    pub(crate) fn crash(&self, mut keep: impl FnMut(usize) -> bool) -> TestDisks {
        let mut files = BTreeMap::new();
        let mut number = 0;
        for (path, file) in self.files.lock().unwrap().iter() {
            let content = file.content.lock().unwrap();
            let mut bytes = content.durable.clone();
            for (offset, written) in &content.unsynced {
                if keep(number) {
                    put(&mut bytes, *offset, written);
                }
                number += 1;
            }
            let content = Content { current: bytes.clone(), durable: bytes, unsynced: Vec::new() };
            let (content, taken) = (Mutex::new(content), Arc::default());
            files.insert(path.clone(), Arc::new(TestFile { content, taken }));
        }
        TestDisks { files: Arc::new(Mutex::new(files)), taken: Arc::default() }
    }

    /// Changes durable bytes behind everybody's back.
    pub(crate) fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let files = self.files.lock().unwrap();
        let mut content = files[path].content.lock().unwrap();
        change(&mut content.current);
        content.durable = content.current.clone();
    }

    pub(crate) fn names(&self) -> Vec<PathBuf> {
        self.files.lock().unwrap().keys().cloned().collect()
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    let end = offset as usize + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(written);
}

impl File for TestFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let content = self.content.lock().unwrap();
        let range = offset as usize..offset as usize + into.len();
        let bytes = content.current.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        let growth = (offset + bytes.len() as u64).saturating_sub(content.current.len() as u64);
        if self.taken.load(Ordering::Relaxed) + growth > TOTAL_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.taken.fetch_add(growth, Ordering::Relaxed);
        put(&mut content.current, offset, bytes);
        // A power cut may tear a write anywhere; pages of 512 bytes are enough for these tests.
        for (place, page) in bytes.chunks(512).enumerate() {
            content.unsynced.push((offset + 512 * place as u64, page.to_vec()));
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().current.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        content.current.resize(bytes as usize, 0);
        content.durable.resize(bytes as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        content.durable = content.current.clone();
        content.unsynced.clear();
        Ok(())
    }
}

impl Disks for TestDisks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut files = self.files.lock().unwrap();
        match (files.get(path), mode) {
            (Some(file), OpenMode::Existing) => Ok(file.clone()),
            (None, OpenMode::New) => {
                let file = Arc::new(TestFile { taken: self.taken.clone(), ..TestFile::default() });
                files.insert(path.to_path_buf(), file.clone());
                Ok(file)
            }
            (Some(_), OpenMode::New) => Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Existing) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let inside = files.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_string)).collect())
    }

    fn create_dir(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().unwrap().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        let free_bytes = TOTAL_BYTES - self.taken.load(Ordering::Relaxed);
        Ok(Space { free_bytes, total_bytes: TOTAL_BYTES })
    }

    fn lock(&self, _directory: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

/// An environment whose clocks are set by the test. Everything else is the system's.
#[derive(Default)]
pub(crate) struct TestEnv {
    system: SystemEnv,
    clocks: Mutex<(u64, Duration)>,
}

impl TestEnv {
    pub(crate) fn set(&self, wall_ms: u64, boottime: Duration) {
        *self.clocks.lock().unwrap() = (wall_ms, boottime);
    }

    /// Time passes, for all clocks alike.
    pub(crate) fn pass(&self, time: Duration) {
        let mut clocks = self.clocks.lock().unwrap();
        *clocks = (clocks.0 + time.as_millis() as u64, clocks.1 + time);
    }
}

#[async_trait]
impl Env for TestEnv {
    fn wall_ms(&self) -> u64 {
        self.clocks.lock().unwrap().0
    }

    fn monotonic(&self) -> Duration {
        self.clocks.lock().unwrap().1
    }

    fn boottime(&self) -> Duration {
        self.clocks.lock().unwrap().1
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

/// The environment of the system for one of several nodes in a process: one that stops itself, as a life that is over does
/// when the next one is heard of, takes no other one with it.
#[derive(Default)]
pub(crate) struct NodeEnv {
    system: SystemEnv,
    /// Held by all work and all tasks that wait or run.
    working: Arc<()>,
}

impl NodeEnv {
    /// Until no thread and no task does anything for the node any more: what opens its files next would see it read or
    /// write. A task that is aborted has the files open until its runtime drops it.
    pub(crate) async fn rest(&self) {
        while Arc::strong_count(&self.working) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn counted(working: Option<Arc<()>>, work: Work) -> Work {
    Box::new(move || {
        work();
        drop(working);
    })
}

#[async_trait]
impl Env for NodeEnv {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms()
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }

    fn boottime(&self) -> Duration {
        self.system.boottime()
    }

    fn random(&self, into: &mut [u8]) {
        self.system.random(into);
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let working = self.working.clone();
        let counted = async move {
            task.await;
            drop(working);
        };
        self.system.spawn(name, Box::pin(counted))
    }

    async fn blocking(&self, work: Work) {
        self.system.blocking(counted(Some(self.working.clone()), work)).await;
    }

    fn lane(&self, name: &str) -> Arc<dyn LaneWorker> {
        Arc::new(CountedLane { lane: self.system.lane(name), working: Arc::downgrade(&self.working) })
    }

    fn fail_stop(&self, reason: &str) {
        tracing::error!(reason, "a node stops");
    }

    fn armed(&self, _point: &'static str) -> bool {
        false
    }
}

struct CountedLane {
    lane: Arc<dyn LaneWorker>,
    working: Weak<()>,
}

#[async_trait]
impl LaneWorker for CountedLane {
    async fn run(&self, work: Work) {
        self.lane.run(counted(self.working.upgrade(), work)).await;
    }
}
