//! The one writer of a store: everything that is queued goes into one transaction, then all are answered.
//!
//! It never waits for more to come: while one transaction syncs, the next one gathers. Puts go to the *active*
//! volume; when that is full it is settled and the next one is chosen. Deletes go to the volumes that hold the
//! chunks; volumes that are not active are settled by each commit. Between two batches it compacts, see
//! [`super::compact`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fabric::env::Lane;
use fabric::ids::{ChunkId, ExtentId};
use fabric::limits::MIB;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Shared;
use super::compact::{Compacted, Pauses};
use super::tables::{Found, NewChunk, Put, Writing};
use super::volume::{Commit, Fault, NotServing, Volume};
use crate::client::ChunkError;

/// Requests of one transaction.
pub(super) const BATCH_REQUESTS_MAX: usize = 256;
/// After so much quiet the active volume is settled, so that a crash in a quiet hour costs no recovery.
const SETTLE_AFTER: Duration = Duration::from_secs(1);
/// A transaction that takes longer makes the next ones smaller, down to [`BATCH_BYTES_MIN`]; one that takes less
/// than a quarter of it lets them grow again. So whoever waits hears often that the disk goes on.
const COMMIT_TIME: Duration = Duration::from_secs(1);
const BATCH_BYTES_MIN: usize = MIB as usize;
/// Bytes of the first transaction, before the disk is known.
const BATCH_BYTES_FIRST: usize = 4 * MIB as usize;
/// Volumes that may be broken at once while new ones are still made.
const BROKEN_MAX: usize = 2;
/// Below the reserve, a volume takes puts while it has so many free bytes inside.
const REUSABLE_BYTES_MIN: u64 = 64 * MIB;

type Reply = oneshot::Sender<Result<(), ChunkError>>;

/// What the writer is asked for.
pub(super) enum Request {
    Put {
        new: NewChunk,
        reply: Reply,
        /// Its room in the queue, given back with the answer.
        _room: OwnedSemaphorePermit,
    },
    Delete {
        chunks: Vec<ChunkId>,
        reply: Reply,
    },
    Compact {
        reply: oneshot::Sender<Result<Compacted, ChunkError>>,
    },
    Close {
        reply: Reply,
    },
}

impl Request {
    /// Whether it goes into a transaction with others.
    fn is_change(&self) -> bool {
        matches!(self, Request::Put { .. } | Request::Delete { .. })
    }

    fn bytes(&self) -> usize {
        match self {
            Request::Put { new, .. } => new.bytes as usize,
            Request::Delete { .. } | Request::Compact { .. } | Request::Close { .. } => 0,
        }
    }

    /// Answers a change.
    fn answer(self, outcome: Result<(), ChunkError>) {
        if let Request::Put { reply, .. } | Request::Delete { reply, .. } = self {
            let _ = reply.send(outcome); // Who no longer waits does not need it.
        }
    }
}

/// See the file's head.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    lane: Lane,
    pub(super) active: Option<Arc<Volume>>,
    /// Bytes of the next transaction.
    pub(super) batch_bytes: usize,
    /// Volumes that compaction leaves alone for now.
    pub(super) pauses: Pauses,
    /// What was taken off the queue and did not go into the batch.
    next: Option<Request>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, lane: Lane) -> Writer {
        let batch_bytes = BATCH_BYTES_FIRST.min(shared.settings.batch_bytes_max());
        Writer { shared, lane, active: None, batch_bytes, pauses: Pauses::new(), next: None }
    }

    /// Serves the queue until it is closed.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            let dirty = self.active.as_ref().is_some_and(|volume| volume.is_dirty());
            let first = if let Some(next) = self.next.take() {
                Ok(Some(next))
            } else if dirty {
                tokio::time::timeout(SETTLE_AFTER, queue.recv()).await
            } else {
                Ok(queue.recv().await)
            };
            let lane = self.lane.clone();
            match first {
                Ok(None) => return,
                Ok(Some(Request::Close { reply })) => {
                    lane.run(move || self.close()).await;
                    let _ = reply.send(Ok(())); // Nobody has to wait for it.
                    return;
                }
                Ok(Some(Request::Compact { reply })) => {
                    let compacted;
                    (self, compacted) = lane
                        .run(move || {
                            let compacted = self.compact();
                            (self, compacted)
                        })
                        .await;
                    let _ = reply.send(compacted); // Who no longer waits does not need it.
                    self.attend();
                }
                Ok(Some(first)) => {
                    let batch;
                    (batch, self.next) = gather(first, &mut queue, self.batch_bytes);
                    let env = self.shared.seams.env.clone();
                    let began = env.monotonic();
                    self = lane.run(move || self.commit(batch)).await;
                    self.pace(env.monotonic().saturating_sub(began));
                    self.attend();
                }
                Err(_quiet) => self = lane.run(move || self.settle()).await,
            }
        }
    }

    /// Learns from the time of a transaction how large the next one may be.
    fn pace(&mut self, took: Duration) {
        if COMMIT_TIME < took {
            self.batch_bytes = (self.batch_bytes / 2).max(BATCH_BYTES_MIN);
        } else if took < COMMIT_TIME / 4 {
            self.batch_bytes = (self.batch_bytes * 2).min(self.shared.settings.batch_bytes_max());
        }
    }

    /// Lets the file of a volume that was just opened be extended ahead of need.
    fn attend(&self) {
        if let Some(file) = self.active.as_ref().and_then(|volume| volume.take_unattended()) {
            file.extend_in_background(&self.shared.seams.env);
        }
    }

    fn settle(self) -> Writer {
        if let Some(Err(why)) = self.active.as_ref().map(|volume| volume.settle()) {
            self.shared.unavailable(why);
        }
        self
    }

    fn close(mut self) -> Writer {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.broke.notify_one();
        self = self.settle();
        self.active = None;
        for volume in self.shared.all() {
            volume.close(); // One that is still read is closed by its last reader's process.
        }
        self
    }

    /// One transaction for each volume concerned, then the answers.
    fn commit(mut self, batch: Vec<Request>) -> Writer {
        let mut outcomes: Vec<Result<(), ChunkError>> = batch.iter().map(|_| Ok(())).collect();
        let mut by_volume: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let put_bytes: usize = batch.iter().map(Request::bytes).sum();
        let puts = batch.iter().any(|request| matches!(request, Request::Put { .. }));
        let active = if puts { Some(self.writable(put_bytes as u64)) } else { None };
        for (position, request) in batch.iter().enumerate() {
            match self.place(request, active.as_ref()) {
                Ok(volumes) => {
                    volumes.iter().for_each(|volume| by_volume.entry(*volume).or_default().push(position))
                }
                Err(error) => outcomes[position] = Err(error),
            }
        }
        for (number, positions) in by_volume {
            let Some(volume) = self.shared.volume(number) else {
                self.refuse_puts(&batch, &positions, &mut outcomes);
                continue;
            };
            self.commit_one(&volume, &batch, &positions, &mut outcomes);
        }
        for (request, outcome) in batch.into_iter().zip(outcomes) {
            request.answer(outcome);
        }
        self
    }

    /// Volumes that a request concerns.
    fn place(
        &self,
        request: &Request,
        active: Option<&Result<Arc<Volume>, ChunkError>>,
    ) -> Result<Vec<u32>, ChunkError> {
        let active = match (request, active) {
            (Request::Put { .. }, Some(Err(error))) => return Err(error.clone()),
            (_, Some(Ok(volume))) => Some(volume.number),
            _ => self.active.as_ref().map(|volume| volume.number),
        };
        match request {
            Request::Put { new, .. } => {
                let elsewhere = self.holder(new.id, active)?;
                Ok(elsewhere.or(active).into_iter().collect())
            }
            Request::Delete { chunks, .. } => {
                let mut extents: Vec<ExtentId> = chunks.iter().map(|chunk| chunk.extent()).collect();
                extents.dedup();
                // A put of this very batch may have brought the chunk to the active volume.
                let mut volumes: Vec<u32> = active.into_iter().collect();
                for extent in extents {
                    volumes.extend(self.shared.volumes_of(extent).iter().map(|volume| volume.number));
                }
                volumes.sort_unstable();
                volumes.dedup();
                Ok(volumes)
            }
            Request::Compact { .. } | Request::Close { .. } => Ok(Vec::new()),
        }
    }

    /// The volume other than the active one that has a row for the chunk.
    fn holder(&self, chunk: ChunkId, active: Option<u32>) -> Result<Option<u32>, ChunkError> {
        for volume in self.shared.volumes_of(chunk.extent()) {
            if Some(volume.number) == active {
                continue;
            }
            let found =
                volume.read(|tables| tables.stat(chunk)).map_err(|why| self.shared.unavailable(why))?;
            if found != Found::Absent {
                return Ok(Some(volume.number));
            }
        }
        Ok(None)
    }

    /// The volume was lost meanwhile: what was to be deleted from it is gone, what was to be put is not there.
    fn refuse_puts(&self, batch: &[Request], positions: &[usize], outcomes: &mut [Result<(), ChunkError>]) {
        for position in positions {
            if matches!(batch[*position], Request::Put { .. }) {
                outcomes[*position] = Err(self.shared.unavailable("the volume was lost"));
            }
        }
    }

    fn commit_one(
        &self,
        volume: &Volume,
        batch: &[Request],
        positions: &[usize],
        outcomes: &mut [Result<(), ChunkError>],
    ) {
        let node = self.shared.settings.node;
        let active = self.active.as_ref().is_some_and(|active| active.number == volume.number);
        let how = match active {
            _ if self.shared.seams.env.armed("chunk_ack_before_sync") => Commit::Unsynced,
            true => Commit::Synced,
            false => Commit::Settled,
        };
        let changed = volume.commit(how, |tables| {
            let mut changes = Changes::default();
            for position in positions {
                changes.run(tables, *position, &batch[*position])?;
            }
            Ok(changes)
        });
        match changed {
            Ok(changes) => {
                for position in &changes.refused {
                    let why = "other bytes are stored under this id".to_string();
                    outcomes[*position] = Err(ChunkError::Refused(node, why));
                }
                metrics::counter!("fluffy_chunk_commits_total").increment(1);
                changes.tell(&self.shared, volume);
            }
            Err(why) => {
                let failed = self.refused(why);
                positions.iter().for_each(|position| outcomes[*position] = Err(failed.clone()));
                let puts = positions.iter().filter_map(|position| match &batch[*position] {
                    Request::Put { new, .. } => Some(new.id),
                    _ => None,
                });
                self.suspect(volume, puts);
            }
        }
    }

    /// The outcome of a transaction is unknown: until the volume was counted again it may hold these.
    pub(super) fn suspect(&self, volume: &Volume, chunks: impl Iterator<Item = ChunkId>) {
        self.shared.with_locator(|locator| {
            chunks.for_each(|chunk| locator.add(chunk.extent(), volume.number, 1));
        });
    }

    /// The volume that takes the next puts. Settles the active one when it is full and chooses or makes another.
    pub(super) fn writable(&mut self, bytes: u64) -> Result<Arc<Volume>, ChunkError> {
        let shared = self.shared.clone();
        let settings = &shared.settings;
        let space = shared.seams.disks.space(&settings.directory);
        let free_bytes = space.map_err(|error| shared.unavailable(error))?.free_bytes;
        shared.free_bytes.store(free_bytes, Ordering::Release);
        let low = free_bytes < settings.reserve_bytes;
        let usable = |volume: &Volume| {
            volume.is_counted() && (!low || volume.reusable_bytes() >= REUSABLE_BYTES_MIN.max(2 * bytes))
        };
        if let Some(active) = &self.active {
            if usable(active) && active.disk_bytes() + bytes <= settings.volume_bytes_max {
                return Ok(active.clone());
            }
            self.seal();
        }
        let volumes = shared.all();
        let refill_bytes_max = settings.volume_bytes_max - settings.volume_bytes_max / 8;
        let roomy = |volume: &&Arc<Volume>| usable(volume) && volume.disk_bytes() + bytes <= refill_bytes_max;
        let chosen = match volumes.iter().filter(roomy).min_by_key(|volume| volume.disk_bytes()) {
            Some(volume) => volume.clone(),
            None if low => return Err(ChunkError::Full(settings.node)),
            None => self.make(&volumes)?,
        };
        if chosen.close() {
            chosen.set_cache(settings.writing_cache_bytes());
        }
        self.list(&chosen)?;
        self.active = Some(chosen.clone());
        Ok(chosen)
    }

    /// Before a volume takes its first chunk its file is there and it is listed, so that its loss would be seen.
    fn list(&self, volume: &Volume) -> Result<(), ChunkError> {
        if volume.is_listed() {
            return Ok(());
        }
        volume.read(|_| Ok(())).map_err(|why| self.refused(why))?;
        self.shared.record.list(volume.number).map_err(|error| self.shared.unavailable(error))?;
        volume.set_listed(true);
        Ok(())
    }

    /// What a put is answered when a volume fails.
    pub(super) fn refused(&self, why: NotServing) -> ChunkError {
        let full = why.full;
        let unavailable = self.shared.unavailable(why);
        if full { ChunkError::Full(self.shared.settings.node) } else { unavailable }
    }

    /// Lets go of the active volume; a broken one is left to recovery.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        active.set_cache(self.shared.settings.reading_cache_bytes());
        if let Err(why) = active.settle() {
            self.shared.unavailable(why);
        }
        active.close();
    }

    fn make(&self, volumes: &[Arc<Volume>]) -> Result<Arc<Volume>, ChunkError> {
        if volumes.iter().filter(|volume| volume.is_broken()).count() >= BROKEN_MAX {
            return Err(self.shared.unavailable("too many volumes are broken"));
        }
        let newest = volumes.last().map_or(1, |last| last.number + 1);
        let number = self.shared.record.next().max(newest);
        let settings = &self.shared.settings;
        let cache_bytes = settings.writing_cache_bytes();
        let volume = Arc::new(Volume::new(
            &self.shared.seams,
            settings.node,
            &settings.directory,
            number,
            cache_bytes,
            false,
        ));
        volume.set_counted();
        self.shared.keep(volume.clone());
        tracing::info!(volume = number, "new volume");
        Ok(volume)
    }
}

/// Takes what else is queued, up to the bounds of a batch, and up to a request that goes alone.
fn gather(
    first: Request,
    queue: &mut mpsc::Receiver<Request>,
    bytes_max: usize,
) -> (Vec<Request>, Option<Request>) {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while bytes < bytes_max && batch.len() < BATCH_REQUESTS_MAX {
        let Ok(next) = queue.try_recv() else { break };
        if !next.is_change() {
            return (batch, Some(next));
        }
        bytes += next.bytes();
        batch.push(next);
    }
    (batch, None)
}

/// What a transaction changes, to be told to the locator once it is durable.
#[derive(Default)]
pub(super) struct Changes {
    refused: Vec<usize>,
    came: BTreeMap<ExtentId, u32>,
    left: BTreeMap<ExtentId, u32>,
    added_bytes: u64,
    removed_bytes: u64,
}

impl Changes {
    fn run(&mut self, tables: &mut Writing<'_>, position: usize, request: &Request) -> Result<(), Fault> {
        match request {
            Request::Put { new, .. } => {
                if !self.put(tables, new)? {
                    self.refused.push(position);
                }
            }
            Request::Delete { chunks, .. } => {
                for chunk in chunks {
                    self.remove(tables, *chunk)?;
                }
            }
            Request::Compact { .. } | Request::Close { .. } => {}
        }
        Ok(())
    }

    /// `false`: other bytes are stored under this id.
    pub(super) fn put(&mut self, tables: &mut Writing<'_>, new: &NewChunk) -> Result<bool, Fault> {
        match tables.put(new)? {
            Put::Stored { bytes, instead_of } => {
                *self.came.entry(new.id.extent()).or_default() += 1;
                self.added_bytes += bytes;
                if let Some(bytes) = instead_of {
                    *self.left.entry(new.id.extent()).or_default() += 1;
                    self.removed_bytes += bytes;
                }
            }
            Put::Same => {}
            Put::Differs => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn remove(&mut self, tables: &mut Writing<'_>, chunk: ChunkId) -> Result<(), Fault> {
        if let Some(bytes) = tables.remove(chunk)? {
            *self.left.entry(chunk.extent()).or_default() += 1;
            self.removed_bytes += bytes;
        }
        Ok(())
    }

    pub(super) fn tell(self, shared: &Shared, volume: &Volume) {
        volume.account(self.added_bytes, self.removed_bytes);
        shared.with_locator(|locator| {
            // What came first may have left in the same transaction.
            self.came.into_iter().for_each(|(extent, chunks)| locator.add(extent, volume.number, chunks));
            self.left.into_iter().for_each(|(extent, chunks)| locator.remove(extent, volume.number, chunks));
        });
    }
}
