//! The search index of a node that keeps metadata: which names there are, by what is in them.
//!
//! Derived from the metadata of the same node and never needed for anything else: where it is lost, rotten, of another
//! release or too far behind, it is made anew while the store serves. It lives in a file of its own; a panic of its
//! database, or bytes that make no sense, cost the index and nothing else.
//!
//! [`language`] reads queries, [`matcher`] compares them ([`glob`] some of them), [`search`] answers them; [`segment`], [`lists`] and [`names`] are
//! what is stored, in [`pages`] of a [`file`]; [`follow`] keeps it up to date. [`client`] is for gateways. A search over
//! several clusters would be another implementation of [`client::Searches`] that asks several of these.

pub mod client;
mod file;
mod follow;
mod glob;
pub mod language;
mod lists;
pub mod matcher;
mod names;
mod pages;
mod search;
mod segment;
mod terms;
#[cfg(test)]
mod tests;
mod times;
pub mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::raft::node::MetaNode;
use fabric::Seams;
use fabric::disks::Disks;
use fabric::env::{Env, Lane, TaskHandle, panic_message, run_blocking};
use fabric::limits::MIB;
use fabric::rpc::{Message, Peer, Service, decode_head, reply_typed};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

use self::file::IndexFile;
use self::follow::{Follower, Fresh, Next, Progress, Seen, Sizes, names};
use self::language::Search;
use self::matcher::Matcher;
use self::search::{Ground, SearchError};
use self::wire::{BUCKETS_MAX, HITS_MAX, IndexStatus, SearchFailure, SearchPage, SearchRequest};

/// The metadata are looked at this often where nobody waits …
const INTERVAL: Duration = Duration::from_millis(50);
/// … and this often where somebody waits for the index to be as new as a write.
const INTERVAL_AWAITED: Duration = Duration::from_millis(2);
/// While somebody waits, one turn in so many is for what nobody waits for.
const AWAITED_TURNS: u64 = 16;
/// Before another try where the index or the metadata could not be read.
const PAUSE_AFTER_FAULT: Duration = Duration::from_secs(2);
/// The space on the disk is looked at this often.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Searches of a node at once; others wait …
const SEARCHES_MAX: usize = 8;
/// … so long, and so many.
const TURN_PATIENCE: Duration = Duration::from_secs(2);
const WAITING_MAX: usize = 256;
/// A search waits so long for the index to be as new as it wants.
const AS_OF_PATIENCE: Duration = Duration::from_secs(3);

/// Where the metadata are.
pub trait Source: Send + Sync + 'static {
    /// What is applied by now; `None`: the node does not keep the metadata now.
    fn view(&self) -> Option<Seen>;
}

impl Source for MetaNode {
    fn view(&self) -> Option<Seen> {
        let view = MetaNode::view(self)?;
        Some(Seen { index: view.index(), rows: view })
    }
}

/// What an index is told.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// Where its file lies.
    pub directory: PathBuf,
    /// Memory of its database.
    pub cache_bytes: usize,
    /// Memory that a segment takes while it is built.
    pub segment_bytes: usize,
    /// Below this free space nothing is added.
    pub reserve_bytes: u64,
}

impl IndexSettings {
    /// For a node with so much memory.
    pub fn within(directory: PathBuf, memory_bytes: u64, reserve_bytes: u64) -> IndexSettings {
        let share = memory_bytes / 32;
        IndexSettings {
            directory,
            cache_bytes: share.clamp(4 * MIB, 64 * MIB) as usize,
            segment_bytes: share.clamp(4 * MIB, 24 * MIB) as usize,
            reserve_bytes,
        }
    }
}

/// See the file's head. Clones share it.
#[derive(Clone)]
pub struct SearchIndex {
    inner: Arc<Inner>,
}

struct Inner {
    env: Arc<dyn Env>,
    disks: Arc<dyn Disks>,
    settings: IndexSettings,
    source: Arc<dyn Source>,
    lane: Lane,
    fresh: Arc<Fresh>,
    progress: watch::Sender<Progress>,
    /// Of the follower that runs.
    running: Mutex<Option<Running>>,
    /// A search met rot.
    broken: AtomicBool,
    wake: Notify,
    /// Searches that wait for the index to be newer.
    awaited: AtomicUsize,
    turns: Semaphore,
    waiting: AtomicUsize,
    task: Mutex<Option<TaskHandle>>,
}

struct Running {
    file: Arc<IndexFile>,
    documents: u64,
    segments: u64,
}

impl SearchIndex {
    /// Opens the index, or begins to make one, in the background.
    pub fn start(seams: &Seams, settings: IndexSettings, source: Arc<dyn Source>) -> SearchIndex {
        let inner = Arc::new(Inner {
            env: seams.env.clone(),
            disks: seams.disks.clone(),
            settings,
            source,
            lane: Lane::new(&*seams.env, "search-index"),
            fresh: Arc::default(),
            progress: watch::Sender::new(Progress::default()),
            running: Mutex::new(None),
            broken: AtomicBool::new(false),
            wake: Notify::new(),
            awaited: AtomicUsize::new(0),
            turns: Semaphore::new(SEARCHES_MAX),
            waiting: AtomicUsize::new(0),
            task: Mutex::new(None),
        });
        let task = seams.env.spawn("search-index", Box::pin(inner.clone().run()));
        *lock(&inner.task) = Some(task);
        SearchIndex { inner }
    }

    /// Ends it; what is written stays.
    pub async fn close(&self) {
        self.stop();
        // Work that is under way ends first.
        self.inner.lane.run(|| ()).await;
        drop(lock(&self.inner.running).take());
    }

    /// Ends it at once.
    pub fn stop(&self) {
        if let Some(task) = lock(&self.inner.task).take() {
            task.abort();
        }
    }

    /// Answers a search.
    pub async fn search(&self, request: SearchRequest) -> Result<SearchPage, SearchFailure> {
        let began = self.inner.env.monotonic();
        let outcome = self.inner.clone().search(request).await;
        let took = self.inner.env.monotonic().saturating_sub(began);
        let name = match &outcome {
            Ok(_) => "found",
            Err(SearchFailure::Malformed(_)) => "malformed",
            Err(SearchFailure::TooMany(_)) => "too many",
            Err(SearchFailure::Building(_)) => "building",
            Err(SearchFailure::Behind(_)) => "behind",
            Err(SearchFailure::Busy) => "busy",
            Err(SearchFailure::Unavailable(_)) => "unavailable",
        };
        metrics::counter!("fluffy_index_searches_total", "outcome" => name).increment(1);
        metrics::histogram!("fluffy_index_search_seconds").record(took.as_secs_f64());
        outcome
    }

    /// How it is.
    pub fn status(&self) -> IndexStatus {
        let progress = *self.inner.progress.borrow();
        let seen = self.inner.source.view().map_or(progress.index, |seen| seen.index);
        let running = lock(&self.inner.running);
        let size = running.as_ref();
        IndexStatus {
            enabled: true,
            whole: progress.whole,
            index: progress.index,
            lag: seen.saturating_sub(progress.index),
            documents: size.map_or(0, |size| size.documents) + names(&self.inner.fresh).len() as u64,
            segments: size.map_or(0, |size| size.segments),
            bytes: size.map_or(0, |size| size.file.bytes()),
        }
    }
}

/// What is behind a mutex is changed by single stores, so poison means nothing here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts something for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Counted<'a> {
        count.fetch_add(1, Ordering::AcqRel);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How a turn of the follower ended.
enum Ended {
    /// The index is to be made anew.
    Broken(String),
    /// It is to be opened again after a while.
    Failed(String),
}

impl Inner {
    async fn run(self: Arc<Self>) {
        loop {
            let ended = self.follow().await;
            drop(lock(&self.running).take());
            self.progress.send_replace(Progress::default());
            match ended {
                Ended::Broken(why) => {
                    tracing::warn!(why, "the index for searches is made anew");
                    let (disks, directory) = (self.disks.clone(), self.settings.directory.clone());
                    let removed = self.lane.run(move || IndexFile::remove(&*disks, &directory)).await;
                    if let Err(error) = removed {
                        tracing::warn!(%error, "the index for searches cannot be removed");
                    }
                }
                Ended::Failed(why) => tracing::warn!(why, "there is no index for searches now"),
            }
            sleep(PAUSE_AFTER_FAULT).await;
        }
    }

    /// Follows the metadata for as long as that goes well.
    async fn follow(self: &Arc<Self>) -> Ended {
        let me = self.clone();
        let opened = self.lane.run(move || me.open()).await;
        let follower = match opened {
            Ok(follower) => Arc::new(Mutex::new(follower)),
            Err(why) => return Ended::Failed(why),
        };
        self.broken.store(false, Ordering::Release);
        let (mut rested_at, mut space_known) = (None, Duration::ZERO);
        let (mut has_space, mut turn) = (true, 0_u64);
        loop {
            if self.broken.load(Ordering::Acquire) {
                return Ended::Broken("a search met rot".to_string());
            }
            let Some(seen) = self.source.view().filter(|seen| rested_at != Some(seen.index)) else {
                self.rest().await;
                continue;
            };
            let began = self.env.monotonic();
            if space_known + SPACE_INTERVAL <= began {
                has_space = self.has_space(has_space).await;
                space_known = began;
            }
            if !has_space {
                sleep(SPACE_INTERVAL).await;
                continue;
            }
            turn += 1;
            // Whoever waits for events seldom waits for what nobody waits for.
            let may_work = self.awaited.load(Ordering::Acquire) == 0 || turn.is_multiple_of(AWAITED_TURNS);
            let (me, follower, index) = (self.clone(), follower.clone(), seen.index);
            let stepped = self.lane.run(move || me.step(&follower, &seen, may_work)).await;
            let took = self.env.monotonic().saturating_sub(began);
            match stepped {
                Ok(Next::Events) => {}
                // Others want the processor, too.
                Ok(Next::Work) => sleep(took).await,
                Ok(Next::Rest) => {
                    rested_at = may_work.then_some(index);
                    self.rest().await;
                }
                Err(ended) => return ended,
            }
        }
    }

    async fn rest(&self) {
        let awaited = 0 < self.awaited.load(Ordering::Acquire);
        let interval = if awaited { INTERVAL_AWAITED } else { INTERVAL };
        // The time passing is no error.
        let _ = timeout(interval, self.wake.notified()).await;
    }

    /// Blocks.
    fn open(&self) -> Result<Follower, String> {
        let IndexSettings { directory, cache_bytes, segment_bytes, .. } = &self.settings;
        let told = |error: &dyn std::fmt::Display| format!("open the index for searches: {error}");
        let (file, state) =
            IndexFile::open(&*self.disks, directory, *cache_bytes).map_err(|error| told(&error))?;
        let file = Arc::new(file);
        let follower =
            Follower::new(file.clone(), state, self.fresh.clone(), *segment_bytes, Sizes::default());
        let follower = follower.map_err(|error| told(&error))?;
        let (documents, segments) = follower.size();
        *lock(&self.running) = Some(Running { file, documents, segments });
        Ok(follower)
    }

    /// Blocks.
    fn step(&self, follower: &Mutex<Follower>, seen: &Seen, may_work: bool) -> Result<Next, Ended> {
        let mut follower = lock(follower);
        let walks = follower.walks();
        let mut applied = |progress: Progress| {
            self.progress.send_if_modified(|before| std::mem::replace(before, progress) != progress);
        };
        let step = || follower.step(seen, may_work, &mut applied);
        // redb panics on some damage.
        let stepped = catch_unwind(AssertUnwindSafe(step));
        let stepped = stepped.map_err(|panic| Ended::Broken(panic_message(&*panic).to_string()))?;
        let next = stepped.map_err(|error| match error {
            SearchError::Index(error) => Ended::Broken(error.to_string()),
            SearchError::Meta(fault) => Ended::Failed(fault.to_string()),
        })?;
        self.measure(&follower, walks, seen);
        Ok(next)
    }

    fn measure(&self, follower: &Follower, walks_before: u64, seen: &Seen) {
        let (documents, segments) = follower.size();
        metrics::counter!("fluffy_index_walks_total").increment(follower.walks() - walks_before);
        metrics::gauge!("fluffy_index_documents").set(documents as f64);
        let lag = seen.index.saturating_sub(self.progress.borrow().index);
        metrics::gauge!("fluffy_index_lag_entries").set(lag as f64);
        if let Some(running) = &mut *lock(&self.running) {
            metrics::gauge!("fluffy_index_bytes").set(running.file.bytes() as f64);
            (running.documents, running.segments) = (documents, segments);
            if running.file.is_rotten() {
                self.broken.store(true, Ordering::Release);
            }
        }
    }

    async fn has_space(&self, before: bool) -> bool {
        let (disks, directory) = (self.disks.clone(), self.settings.directory.clone());
        let space = self.lane.run(move || disks.space(&directory)).await;
        let has = space.is_ok_and(|space| self.settings.reserve_bytes <= space.free_bytes);
        match (before, has) {
            (true, false) => tracing::warn!("the index for searches waits: the disk is full"),
            (false, true) => tracing::info!("the index for searches goes on"),
            _ => {}
        }
        has
    }

    async fn search(self: Arc<Self>, request: SearchRequest) -> Result<SearchPage, SearchFailure> {
        let malformed = |why: String| SearchFailure::Malformed(why);
        let search = Search::parse(&request.query).map_err(|error| malformed(error.to_string()))?;
        let matcher = Matcher::new(&search).map_err(|error| malformed(error.to_string()))?;
        if HITS_MAX < request.limit || BUCKETS_MAX < request.buckets.len() {
            return Err(malformed("more than may be asked for at once".to_string()));
        }
        if !request.buckets.is_sorted_by(|one, next| one < next) {
            return Err(malformed("the buckets are not in order".to_string()));
        }
        let waiting = Counted::new(&self.waiting);
        if WAITING_MAX < self.waiting.load(Ordering::Acquire) {
            return Err(SearchFailure::Busy);
        }
        let index = self.wait_for(request.as_of).await?;
        let _turn = self.turn().await?;
        drop(waiting);
        let me = self.clone();
        run_blocking(&*self.env, move || me.answer(&matcher, &request, index)).await
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, SearchFailure> {
        match timeout(TURN_PATIENCE, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(SearchFailure::Busy),
        }
    }

    /// Waits until the index is as new as that; returns how new it is.
    async fn wait_for(&self, as_of: u64) -> Result<u64, SearchFailure> {
        let now = *self.progress.borrow();
        if now.whole && as_of <= now.index {
            return Ok(now.index);
        }
        if !now.whole {
            return Err(SearchFailure::Building(now.walked));
        }
        let _awaited = Counted::new(&self.awaited);
        self.wake.notify_one();
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| !progress.whole || as_of <= progress.index);
        let reached = match timeout(AS_OF_PATIENCE, reached).await {
            Ok(Ok(progress)) => *progress,
            Ok(Err(_)) | Err(_) => *self.progress.borrow(),
        };
        match reached {
            Progress { whole: true, index, .. } if as_of <= index => Ok(index),
            Progress { whole: true, index, .. } => Err(SearchFailure::Behind(index)),
            Progress { walked, .. } => Err(SearchFailure::Building(walked)),
        }
    }

    /// Blocks.
    fn answer(
        &self,
        matcher: &Matcher,
        request: &SearchRequest,
        index: u64,
    ) -> Result<SearchPage, SearchFailure> {
        let unavailable = |why: &str| SearchFailure::Unavailable(why.to_string());
        // First the fresh names: what is no more among them is in a segment by then.
        let fresh = names(&self.fresh);
        let file = lock(&self.running).as_ref().map(|running| running.file.clone());
        let file = file.ok_or_else(|| unavailable("the index is being opened"))?;
        let answer = || {
            let snapshot = file.snapshot()?;
            let Some(seen) = self.source.view() else { return Ok(None) };
            let ground = Ground { rows: &*seen.rows, snapshot: &snapshot, fresh: &fresh, env: &*self.env };
            search::search(&ground, matcher, request, index).map(Some)
        };
        let why = match catch_unwind(AssertUnwindSafe(answer)) {
            Ok(Ok(Some(answer))) => return answer,
            Ok(Ok(None)) => return Err(unavailable("the node does not keep the metadata")),
            Ok(Err(SearchError::Meta(fault))) => {
                tracing::warn!(%fault, "a search cannot read the metadata");
                return Err(unavailable("the metadata cannot be read"));
            }
            Ok(Err(SearchError::Index(error))) => error.to_string(),
            Err(panic) => panic_message(&*panic).to_string(),
        };
        tracing::warn!(why, "a search cannot read the index");
        self.broken.store(true, Ordering::Release);
        self.wake.notify_one();
        Err(unavailable("the index cannot be read"))
    }
}

/// The calls of searches, answered from the index of this node, where it has one.
pub struct SearchService(pub Option<SearchIndex>);

#[async_trait]
impl Service for SearchService {
    async fn call(&self, _from: Peer, method: u16, request: Message) -> Result<Message, String> {
        match method {
            wire::SEARCH => {
                let request: SearchRequest = decode_head(&request.head).map_err(|error| error.to_string())?;
                let outcome = match &self.0 {
                    Some(index) => index.search(request).await,
                    None => Err(SearchFailure::Unavailable("this node keeps no index".to_string())),
                };
                Ok(reply_typed(&outcome, Bytes::new()))
            }
            wire::STATUS => {
                let status = self.0.as_ref().map(SearchIndex::status).unwrap_or_default();
                Ok(reply_typed(&status, Bytes::new()))
            }
            _ => Err(format!("method {method:#06x} is no search")),
        }
    }
}
