//! The chunk store of a node: volumes, the locator that finds a chunk in them, and one writer.
//!
//! What always holds: a put is answered after its bytes are synced; a chunk is served only after every byte of
//! it was proved; other bytes under an id that is there are refused. A volume that breaks is reopened in the
//! background while the others serve; one that is not there or cannot be opened for good is *lost*: set aside,
//! and what it held is owed (see [`ChunkStore::untold_loss`]). Nothing is accepted, and nothing is said to be "not
//! there", before the index of every volume was read once; those that were read serve meanwhile, so that after a crash
//! the settled ones do not wait for one that redb has to read from end to end. A chunk that moves from one volume to
//! another is synced there before it leaves the first, and only the writer moves: a volume takes chunks, or gives them
//! away, when the locator knows all that it holds; who finds nothing while chunks moved looks again.

mod compact;
mod locator;
mod record;
mod scrub;
mod tables;
mod volume;
mod writer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use fabric::Seams;
use fabric::codec;
use fabric::env::{Lane, run_blocking};
use fabric::ids::{ChunkId, ExtentId, NodeId};
use fabric::limits::{
    CHUNK_BYTES, CHUNK_DEADLINE, CHUNK_PUT_DEADLINE, DISK_RESERVE_BYTES, MIB, VOLUME_BYTES_MAX,
};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use crate::client::{ChunkError, ChunkStat, NodeSpace, Verdict};
use crate::origin::ChunkOrigin;
pub use compact::Compacted;
use locator::Locator;
use record::Record;
pub use scrub::ScrubMark;
use tables::{Check, Found, NewChunk};
use volume::Volume;
use writer::{Request, Writer};

/// Chunks of one stat, scan or delete.
pub const CHUNKS_PER_CALL_MAX: usize = 1024;
/// Chunks that a delete removes in its first transaction; fewer in the next ones where that took longer than
/// [`DELETE_TIME`], more where it took less than a quarter of it.
const DELETES_FIRST: usize = 4;
const DELETE_TIME: Duration = Duration::from_millis(10);
/// Chunks of one check: all of them are read.
pub const CHECKS_PER_CALL_MAX: usize = 32;
/// Puts and deletes that wait for the writer.
const WRITES_QUEUED_MAX: usize = 1024;
/// Handles of volumes that are not written.
const HANDLES_MAX: usize = 8;
/// Reads that run at once, each with a chunk in memory.
const READS_MAX: usize = 32;
/// Rotten chunks that wait for repair; the oldest are forgotten (the scrub will find them again).
const REPAIRS_MAX: usize = 4096;
/// Bytes of an origin, encoded: a key, a few headers, a wrapped key.
const ORIGIN_BYTES_MAX: usize = 16 << 10;
/// Extension of the file of a lost volume.
const LOST_EXTENSION: &str = "lost";
/// How often a broken volume is looked at.
const RECOVERY_INTERVAL: Duration = Duration::from_millis(100);
/// How often a call looks again because chunks moved meanwhile: each move takes longer than a look.
const LOOKS_MAX: usize = 16;

/// What a store needs to know.
#[derive(Debug, Clone)]
pub struct ChunkSettings {
    /// The node; part of every checksum.
    pub node: NodeId,
    /// Directory of the volumes; made if it is not there.
    pub directory: PathBuf,
    /// What caches and queues may take.
    pub memory_bytes: u64,
    /// A volume is sealed when its chunks take this much.
    pub volume_bytes_max: u64,
    /// Puts are refused while less is free.
    pub reserve_bytes: u64,
}

impl ChunkSettings {
    /// The usual ones.
    pub fn new(node: NodeId, directory: PathBuf, memory_bytes: u64) -> ChunkSettings {
        let reserve_bytes = DISK_RESERVE_BYTES;
        // Tables, free pages and the allocator's state need room in the file, too.
        let volume_bytes_max = VOLUME_BYTES_MAX - VOLUME_BYTES_MAX / 32;
        ChunkSettings { node, directory, memory_bytes, volume_bytes_max, reserve_bytes }
    }

    /// Cache of the volume that is written: redb wants four times the largest transaction.
    fn writing_cache_bytes(&self) -> u64 {
        (self.memory_bytes / 2).clamp(8 * MIB, 128 * MIB)
    }

    /// Cache of each other open volume.
    fn reading_cache_bytes(&self) -> u64 {
        (self.memory_bytes / 4 / HANDLES_MAX as u64).clamp(MIB, 16 * MIB)
    }

    /// Bytes of one transaction, and of what waits for the next one.
    fn batch_bytes_max(&self) -> usize {
        (self.writing_cache_bytes() / 4) as usize
    }

    /// Bytes of puts that are worked on or wait; further ones wait before.
    fn queue_bytes(&self) -> usize {
        2 * self.batch_bytes_max()
    }
}

/// How full the store is and how it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether it serves: every volume was counted once.
    pub ready: bool,
    /// Volumes.
    pub volumes: usize,
    /// Volumes that do not serve now.
    pub broken: usize,
    /// Bytes of disk that chunks take.
    pub disk_bytes: u64,
    /// Bytes free on the disk, as of the last write.
    pub free_bytes: u64,
    /// Rotten chunks waiting for repair.
    pub repairs: usize,
    /// Whether volumes were lost that the metadata does not know of yet.
    pub untold_loss: bool,
}

/// The chunks of one node. Cheap to clone.
#[derive(Clone)]
pub struct ChunkStore {
    shared: Arc<Shared>,
    writes: mpsc::Sender<Request>,
    _last: Arc<LastOne>,
}

/// Dropped with the last clone of a store: recovery ends, and with it the files are closed.
struct LastOne(Arc<Shared>);

impl Drop for LastOne {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.broke.notify_one();
    }
}

/// What the store, its writer and its recovery share.
struct Shared {
    seams: Seams,
    settings: ChunkSettings,
    record: Record,
    volumes: RwLock<BTreeMap<u32, Arc<Volume>>>,
    locator: RwLock<Locator>,
    ready: watch::Sender<bool>,
    broke: Notify,
    closed: AtomicBool,
    repairs: Mutex<VecDeque<ChunkId>>,
    /// Room for bytes that wait for the writer.
    queue: Arc<Semaphore>,
    reads: Semaphore,
    free_bytes: AtomicU64,
    ticks: AtomicU64,
    /// How often chunks were about to leave a volume for another, or a volume to go.
    moves: AtomicU64,
}

impl ChunkStore {
    /// Finds the volumes of a directory and begins to open them. [`ChunkStore::wait_ready`] waits until all are
    /// counted.
    pub async fn open(seams: &Seams, settings: ChunkSettings) -> io::Result<ChunkStore> {
        let (look_seams, directory, node) = (seams.clone(), settings.directory.clone(), settings.node);
        let look = move || {
            let disks = &look_seams.disks;
            disks.create_dir(&directory)?;
            let names = disks.list(&directory)?;
            let present: BTreeSet<u32> = names.iter().filter_map(|name| volume::number_of(name)).collect();
            let record = Record::open(&look_seams, &directory, node, &present)?;
            Ok::<_, io::Error>((present, record, disks.space(&directory)?.free_bytes))
        };
        let (present, record, free_bytes) = run_blocking(&*seams.env, look).await?;
        let mut volumes = BTreeMap::new();
        for number in present {
            let (cache, listed) = (settings.reading_cache_bytes(), record.lists(number));
            let volume = Volume::new(seams, settings.node, &settings.directory, number, cache, listed);
            volumes.insert(number, Arc::new(volume));
        }
        let shared = Arc::new(Shared {
            seams: seams.clone(),
            record,
            volumes: RwLock::new(volumes),
            locator: RwLock::default(),
            ready: watch::Sender::new(false),
            broke: Notify::new(),
            closed: AtomicBool::new(false),
            repairs: Mutex::default(),
            queue: Arc::new(Semaphore::new(settings.queue_bytes())),
            reads: Semaphore::new(READS_MAX),
            free_bytes: AtomicU64::new(free_bytes),
            ticks: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            settings,
        });
        let (writes, queued) = mpsc::channel(WRITES_QUEUED_MAX);
        let lane = Lane::new(&*seams.env, "chunks");
        seams.env.spawn("chunk writer", Box::pin(Writer::new(shared.clone(), lane).run(queued)));
        seams.env.spawn("chunk recovery", Box::pin(recover(shared.clone())));
        let _last = Arc::new(LastOne(shared.clone()));
        Ok(ChunkStore { shared, writes, _last })
    }

    /// Waits until every volume was counted or found broken.
    pub async fn wait_ready(&self) {
        let mut ready = self.shared.ready.subscribe();
        // The sender lives as long as `self`, so this ends with the value.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Stores a chunk and returns after the disk has it. The same bytes again are fine.
    pub async fn put(
        &self,
        chunk: ChunkId,
        parts: Vec<Bytes>,
        origin: Option<ChunkOrigin>,
    ) -> Result<(), ChunkError> {
        let node = self.node();
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if bytes > CHUNK_BYTES {
            return Err(ChunkError::Refused(node, format!("{bytes} bytes are more than a chunk")));
        }
        if origin.as_ref().is_some_and(|origin| tables::encode_origin(origin).len() > ORIGIN_BYTES_MAX) {
            return Err(ChunkError::Refused(node, "the origin is too large".to_string()));
        }
        self.check_ready()?;
        let room = self.shared.queue.clone().acquire_many_owned(bytes.max(1) as u32);
        let room = tokio::time::timeout(CHUNK_PUT_DEADLINE, room).await;
        let Ok(Ok(room)) = room else {
            return Err(ChunkError::Unavailable(node, "too many writes are waiting".to_string()));
        };
        let slices: Vec<&[u8]> = parts.iter().map(Bytes::as_ref).collect();
        let crc32c = codec::crc32c(&slices);
        let new = NewChunk { id: chunk, parts, bytes: bytes as u32, crc32c, origin };
        self.write(|reply| Request::Put { new, reply, _room: room }).await
    }

    /// Bytes `offset .. offset + bytes` of a chunk, after all of the chunk was proved.
    pub async fn get(&self, chunk: ChunkId, offset: u32, bytes: u32) -> Result<Bytes, ChunkError> {
        let node = self.node();
        self.check_open()?;
        let whole = self.reading(move |shared| shared.get(chunk)).await?;
        let (from, to) = (offset as usize, offset as usize + bytes as usize);
        if to > whole.len() {
            let why = format!("bytes {from} to {to} of a chunk of {}", whole.len());
            return Err(ChunkError::Refused(node, why));
        }
        Ok(whole.slice(from..to))
    }

    /// Removes chunks, at most [`CHUNKS_PER_CALL_MAX`]; those that are not there are fine.
    ///
    /// redb reads what it removes: a few at a time, so that no put waits long behind them. Where the disk is full no put
    /// waits, and each transaction would need space of its own.
    pub async fn delete(&self, chunks: Vec<ChunkId>) -> Result<(), ChunkError> {
        self.check_count(chunks.len(), CHUNKS_PER_CALL_MAX)?;
        self.check_ready()?;
        let full = self.shared.free_bytes.load(Ordering::Acquire) < self.shared.settings.reserve_bytes;
        let (mut rest, mut at_once) = (chunks, if full { CHUNKS_PER_CALL_MAX } else { DELETES_FIRST });
        while !rest.is_empty() {
            let later = rest.split_off(at_once.min(rest.len()));
            let chunks = std::mem::replace(&mut rest, later);
            let began = self.shared.seams.env.monotonic();
            self.write(|reply| Request::Delete { chunks, reply }).await?;
            let took = self.shared.seams.env.monotonic().saturating_sub(began);
            if DELETE_TIME < took {
                at_once = (at_once / 2).max(1);
            } else if took < DELETE_TIME / 4 {
                at_once = (at_once * 2).min(CHUNKS_PER_CALL_MAX);
            }
        }
        Ok(())
    }

    /// Room for chunks, as the disk has it now.
    pub async fn space(&self) -> Result<NodeSpace, ChunkError> {
        let (disks, directory) = (self.shared.seams.disks.clone(), self.shared.settings.directory.clone());
        let space = run_blocking(&*self.shared.seams.env, move || disks.space(&directory)).await;
        let space = space.map_err(|error| ChunkError::Unavailable(self.node(), error.to_string()))?;
        Ok(NodeSpace {
            free_bytes: space.free_bytes.saturating_sub(self.shared.settings.reserve_bytes),
            total_bytes: space.total_bytes,
        })
    }

    /// What the indexes say about chunks, at most [`CHUNKS_PER_CALL_MAX`].
    pub async fn stat(&self, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        self.check_count(chunks.len(), CHUNKS_PER_CALL_MAX)?;
        self.check_open()?;
        self.reading(move |shared| shared.stat(&chunks)).await
    }

    /// Reads and proves chunks, at most [`CHECKS_PER_CALL_MAX`].
    pub async fn check(&self, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError> {
        self.check_count(chunks.len(), CHECKS_PER_CALL_MAX)?;
        self.check_open()?;
        self.reading(move |shared| chunks.iter().map(|chunk| shared.check(*chunk)).collect()).await
    }

    /// Chunks in order of id after a position, at most `limit` and [`CHUNKS_PER_CALL_MAX`].
    pub async fn scan(&self, after: Option<ChunkId>, limit: u32) -> Result<Vec<ChunkStat>, ChunkError> {
        self.check_ready()?;
        let limit = (limit as usize).min(CHUNKS_PER_CALL_MAX);
        self.reading(move |shared| shared.scan(after, limit)).await
    }

    /// Does one bounded unit of compaction: see [`Compacted`].
    pub async fn compact(&self) -> Result<Compacted, ChunkError> {
        self.check_ready()?;
        self.write(|reply| Request::Compact { reply }).await
    }

    /// The next rotten chunk, taken off the queue.
    pub fn take_repair(&self) -> Option<ChunkId> {
        self.shared.repairs().pop_front()
    }

    /// Puts a chunk on the queue of [`ChunkStore::take_repair`].
    pub fn report_rotten(&self, chunk: ChunkId) {
        self.shared.report(chunk);
    }

    /// Bytes of chunks that it takes at once; who brings more only keeps them in memory.
    pub fn queue_bytes(&self) -> usize {
        self.shared.settings.queue_bytes()
    }

    /// How the store does.
    pub fn status(&self) -> StoreStatus {
        let volumes = self.shared.all();
        StoreStatus {
            ready: *self.shared.ready.borrow(),
            volumes: volumes.len(),
            broken: volumes.iter().filter(|volume| volume.is_broken()).count(),
            disk_bytes: volumes.iter().map(|volume| volume.disk_bytes()).sum(),
            free_bytes: self.shared.free_bytes.load(Ordering::Acquire),
            repairs: self.shared.repairs().len(),
            untold_loss: self.shared.record.untold().is_some(),
        }
    }

    /// The last loss of volumes, while the metadata does not know of it: to be handed to [`ChunkStore::tell_loss`]
    /// when it does.
    pub fn untold_loss(&self) -> Option<u64> {
        self.shared.record.untold()
    }

    /// The metadata knows of this loss and those before.
    pub async fn tell_loss(&self, loss: u64) -> Result<(), ChunkError> {
        let shared = self.shared.clone();
        let told = run_blocking(&*self.shared.seams.env, move || shared.record.tell(loss)).await;
        told.map_err(|error| ChunkError::Unavailable(self.node(), format!("list volumes: {error}")))
    }

    /// How far the scrub is; where it was never told, a round begins now.
    pub async fn scrub_mark(&self, wall_ms: u64) -> Result<ScrubMark, ChunkError> {
        let shared = self.shared.clone();
        let directory = self.shared.settings.directory.clone();
        let read = move || scrub::read(&*shared.seams.disks, &directory);
        let found = run_blocking(&*self.shared.seams.env, read).await;
        Ok(found.unwrap_or(ScrubMark { after: None, began_ms: wall_ms, previous_began_ms: wall_ms }))
    }

    /// Keeps how far the scrub is.
    pub async fn set_scrub_mark(&self, mark: ScrubMark) -> Result<(), ChunkError> {
        let shared = self.shared.clone();
        let directory = self.shared.settings.directory.clone();
        let write = move || scrub::write(&*shared.seams.disks, &directory, &mark);
        let written = run_blocking(&*self.shared.seams.env, write).await;
        written.map_err(|error| ChunkError::Unavailable(self.node(), format!("keep the mark: {error}")))
    }

    /// Removes the files of lost volumes: everything they held is somewhere else.
    pub async fn remove_lost(&self) {
        let shared = self.shared.clone();
        run_blocking(&*self.shared.seams.env, move || shared.remove_lost()).await;
    }

    /// Finishes what is queued, settles and closes the volumes. Later calls are answered "cannot serve".
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.writes.send(Request::Close { reply }).await.is_ok() {
            let _ = done.await; // An error means that the writer is gone already.
        }
    }

    /// Whose chunks these are.
    pub fn node(&self) -> NodeId {
        self.shared.settings.node
    }

    fn check_open(&self) -> Result<(), ChunkError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(ChunkError::Unavailable(self.node(), "the store is closed".to_string()));
        }
        Ok(())
    }

    fn check_ready(&self) -> Result<(), ChunkError> {
        self.check_open()?;
        self.shared.check_counted()
    }

    fn check_count(&self, chunks: usize, most: usize) -> Result<(), ChunkError> {
        if chunks <= most {
            return Ok(());
        }
        Err(ChunkError::Refused(self.node(), format!("{chunks} chunks are too many for one call")))
    }

    async fn write<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, ChunkError>>) -> Request,
    ) -> Result<T, ChunkError> {
        let gone = || ChunkError::Unavailable(self.node(), "the writer stopped".to_string());
        let (reply, answer) = oneshot::channel();
        self.writes.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs a read in the blocking pool, so many at once.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, ChunkError> + Send + 'static,
    ) -> Result<T, ChunkError> {
        let permit = tokio::time::timeout(CHUNK_DEADLINE, self.shared.reads.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(ChunkError::Unavailable(self.node(), "too many reads are waiting".to_string()));
        };
        let shared = self.shared.clone();
        run_blocking(&*self.shared.seams.env, move || {
            let outcome = read(&shared);
            shared.close_idle_handles();
            outcome
        })
        .await
    }
}

impl Shared {
    fn volume(&self, number: u32) -> Option<Arc<Volume>> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn all(&self) -> Vec<Arc<Volume>> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Volumes that hold chunks of an extent.
    fn volumes_of(&self, extent: ExtentId) -> Vec<Arc<Volume>> {
        let numbers = self.locator.read().unwrap_or_else(PoisonError::into_inner).volumes_of(extent);
        let volumes: Vec<_> = numbers.iter().filter_map(|number| self.volume(*number)).collect();
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed);
        volumes.iter().for_each(|volume| volume.used.store(tick, Ordering::Relaxed));
        volumes
    }

    fn with_locator<T>(&self, change: impl FnOnce(&mut Locator) -> T) -> T {
        change(&mut self.locator.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn repairs(&self) -> MutexGuard<'_, VecDeque<ChunkId>> {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a rotten chunk for repair.
    fn report(&self, chunk: ChunkId) {
        metrics::counter!("fluffy_chunks_rotten_total").increment(1);
        let mut repairs = self.repairs();
        if repairs.contains(&chunk) {
            return;
        }
        tracing::error!(%chunk, "a chunk is rotten");
        if repairs.len() == REPAIRS_MAX {
            repairs.pop_front();
        }
        repairs.push_back(chunk);
    }

    /// Before every volume was counted, "not there" is not known to be true.
    fn check_counted(&self) -> Result<(), ChunkError> {
        if *self.ready.borrow() {
            return Ok(());
        }
        Err(ChunkError::Unavailable(self.settings.node, "recovering: volumes are being opened".to_string()))
    }

    fn unavailable(&self, why: impl ToString) -> ChunkError {
        self.broke.notify_one();
        ChunkError::Unavailable(self.settings.node, why.to_string())
    }

    /// Looks until no chunk moved meanwhile, or the answer is `sure` all the same: a chunk that left one volume after
    /// its places were asked for is not "not there".
    fn unmoved<T>(
        &self,
        look: impl Fn() -> Result<T, ChunkError>,
        sure: impl Fn(&T) -> bool,
    ) -> Result<T, ChunkError> {
        for _ in 0..LOOKS_MAX {
            let before = self.moves.load(Ordering::SeqCst);
            let outcome = look();
            if outcome.as_ref().is_ok_and(&sure) || self.moves.load(Ordering::SeqCst) == before {
                return outcome;
            }
        }
        Err(self.unavailable("chunks are being moved"))
    }

    fn get(&self, chunk: ChunkId) -> Result<Bytes, ChunkError> {
        self.unmoved(|| self.get_once(chunk), |_| true)
    }

    fn get_once(&self, chunk: ChunkId) -> Result<Bytes, ChunkError> {
        let armed = self.seams.env.armed("chunk_skip_crc");
        let check = if armed { Check::Nothing } else { Check::Crc };
        let mut failed = ChunkError::NotFound(self.settings.node);
        for volume in self.volumes_of(chunk.extent()) {
            match volume.read(|tables| tables.get(chunk, check)) {
                Ok(Found::Here(bytes)) => return Ok(bytes),
                Ok(Found::Absent) => {}
                Ok(Found::Rotten) => {
                    self.report(chunk);
                    failed = ChunkError::Corrupt(self.settings.node);
                }
                Err(not_serving) => failed = self.unavailable(not_serving),
            }
        }
        if matches!(failed, ChunkError::NotFound(_)) {
            self.check_counted()?;
        }
        Err(failed)
    }

    fn check(&self, chunk: ChunkId) -> Result<Verdict, ChunkError> {
        match self.get(chunk) {
            Ok(body) => Ok(Verdict::Whole { bytes: body.len() as u32 }),
            Err(ChunkError::NotFound(_)) => Ok(Verdict::Absent),
            Err(ChunkError::Corrupt(_)) => Ok(Verdict::Rotten),
            Err(error) => Err(error),
        }
    }

    fn stat(&self, chunks: &[ChunkId]) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        self.unmoved(|| self.stat_once(chunks), |stats| stats.iter().all(Option::is_some))
    }

    fn stat_once(&self, chunks: &[ChunkId]) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        let mut stats = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let mut found = None;
            for volume in self.volumes_of(chunk.extent()) {
                match volume.read(|tables| tables.stat(*chunk)).map_err(|why| self.unavailable(why))? {
                    Found::Here(stat) => found = Some(stat),
                    Found::Rotten => self.report(*chunk),
                    Found::Absent => {}
                }
            }
            if found.is_none() {
                self.check_counted()?;
            }
            stats.push(found);
        }
        Ok(stats)
    }

    fn scan(&self, after: Option<ChunkId>, limit: usize) -> Result<Vec<ChunkStat>, ChunkError> {
        self.unmoved(|| self.scan_once(after, limit), |_| false)
    }

    fn scan_once(&self, after: Option<ChunkId>, limit: usize) -> Result<Vec<ChunkStat>, ChunkError> {
        let first = after.map_or(Some(0), |after| after.get().checked_add(1));
        let (mut stats, Some(mut from)) = (Vec::new(), first) else {
            return Ok(Vec::new());
        };
        while stats.len() < limit {
            let position = ChunkId::from_u128(from).extent();
            let next = self.locator.read().unwrap_or_else(PoisonError::into_inner).extent_from(position);
            let Some(extent) = next else { break };
            let last = locator::last_chunk(extent);
            let mut ids = BTreeSet::new();
            for volume in self.volumes_of(extent) {
                let first = ChunkId::from_u128(from).max(extent.chunk(0));
                let room = limit - stats.len();
                let look = |tables: &tables::Reading| {
                    let mut left = room;
                    tables.each_between(first, last, |chunk| {
                        ids.insert(chunk);
                        left -= 1;
                        left > 0
                    })
                };
                volume.read(look).map_err(|why| self.unavailable(why))?;
            }
            let ids: Vec<ChunkId> = ids.into_iter().take(limit - stats.len()).collect();
            let full = ids.last().copied();
            stats.extend(self.stat_once(&ids)?.into_iter().flatten());
            // A page that was filled ends at its last id, whether that one is rotten or not.
            let behind = if stats.len() >= limit { full.unwrap_or(last) } else { last };
            let Some(following) = behind.get().checked_add(1) else { break };
            from = following;
        }
        Ok(stats)
    }

    /// Closes the handles that were used least recently, so that [`HANDLES_MAX`] stay beside the one written.
    fn close_idle_handles(&self) {
        let mut open: Vec<_> = self.all().into_iter().filter(|volume| volume.is_open()).collect();
        if open.len() <= HANDLES_MAX + 1 {
            return;
        }
        open.sort_by_key(|volume| volume.used.load(Ordering::Relaxed));
        let surplus = open.len() - HANDLES_MAX - 1;
        // A dirty volume is the one being written, or waits to be settled.
        open.iter().filter(|volume| !volume.is_dirty()).take(surplus).for_each(|volume| {
            volume.close();
        });
    }

    /// Reads the index of a volume and tells the locator what it holds.
    fn count(&self, volume: &Volume) -> Result<(), volume::NotServing> {
        let mut extents: BTreeMap<ExtentId, u32> = BTreeMap::new();
        volume.count(|chunk| *extents.entry(chunk.extent()).or_default() += 1)?;
        let known = *self.ready.borrow();
        self.with_locator(|locator| {
            if known {
                locator.forget(volume.number);
            }
            extents.into_iter().for_each(|(extent, chunks)| locator.add(extent, volume.number, chunks));
        });
        volume.set_counted();
        Ok(())
    }
}

/// Counts all volumes once, then reopens those that break, until the store is closed.
async fn recover(shared: Arc<Shared>) {
    let env = shared.seams.env.clone();
    for volume in shared.all() {
        if shared.closed.load(Ordering::Acquire) {
            return;
        }
        let counting = shared.clone();
        run_blocking(&*env, move || {
            if let Err(why) = counting.count(&volume) {
                tracing::error!(%why, "volume cannot be opened; its chunks count as missing");
            }
            counting.close_idle_handles();
        })
        .await;
    }
    shared.ready.send_replace(true);
    while !shared.closed.load(Ordering::Acquire) {
        if shared.all().iter().any(|volume| volume.is_broken()) {
            let recovering = shared.clone();
            run_blocking(&*env, move || recovering.recover_broken()).await;
            tokio::time::sleep(RECOVERY_INTERVAL).await;
        } else {
            shared.broke.notified().await;
        }
    }
}

impl Shared {
    fn recover_broken(&self) {
        for volume in self.all() {
            let recovered = volume.recover();
            if volume.is_lost() {
                self.lose(&volume);
            }
            volume.owe_if_overdue(|| self.owe(&volume));
            if !recovered {
                continue;
            }
            if let Err(why) = self.count(&volume) {
                tracing::error!(%why, "count reopened volume");
            }
        }
    }

    /// Makes known that what a volume holds is owed, though it may serve again one day. `false`: not done.
    fn owe(&self, volume: &Volume) -> bool {
        if let Err(error) = self.record.owe() {
            tracing::error!(volume = volume.number, %error, "list volumes");
            return false;
        }
        self.with_locator(|locator| locator.forget(volume.number));
        tracing::error!(
            volume = volume.number,
            "a chunk volume does not open; its chunks are copied from other nodes"
        );
        metrics::counter!("fluffy_chunk_volumes_lost_total").increment(1);
        true
    }

    /// Sets a lost volume aside. The file is kept until all it held was copied from others.
    fn lose(&self, volume: &Volume) {
        if let Err(error) = self.record.lose(volume.number) {
            tracing::error!(volume = volume.number, %error, "list volumes");
            return; // The disk does not even take that: the next look tries again.
        }
        let disks = &self.seams.disks;
        let aside = volume.path().with_extension(LOST_EXTENSION);
        let moved =
            disks.rename(volume.path(), &aside).and_then(|()| disks.sync_dir(&self.settings.directory));
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(volume = volume.number, %error, "set a lost volume aside");
            }
            _ => {} // Done, or it was not there.
        }
        self.forget(volume.number);
        tracing::error!(
            volume = volume.number,
            "a chunk volume is lost; its chunks are copied from other nodes"
        );
        metrics::counter!("fluffy_chunk_volumes_lost_total").increment(1);
    }

    /// The volume is there.
    fn keep(&self, volume: Arc<Volume>) {
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).insert(volume.number, volume);
        self.broke.notify_one(); // It may have broken while recovery did not see it.
    }

    /// There is no such volume any more.
    fn forget(&self, volume: u32) {
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).remove(&volume);
        self.with_locator(|locator| locator.forget(volume));
    }

    fn remove_lost(&self) {
        let (disks, directory) = (&self.seams.disks, &self.settings.directory);
        let names = disks.list(directory).unwrap_or_default();
        let suffix = format!(".{LOST_EXTENSION}");
        for name in names.iter().filter(|name| name.starts_with("volume-") && name.ends_with(&suffix)) {
            match disks.remove(&directory.join(name)) {
                Ok(()) => tracing::info!(name, "removed a lost volume"),
                Err(error) => tracing::warn!(name, %error, "remove a lost volume"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
