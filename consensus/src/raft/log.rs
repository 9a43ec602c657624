//! The Raft log: our own write-ahead log.
//!
//! Everything that has to be durable in order goes through one queue: entries, votes, truncations, purges. A
//! writer takes what is queued as one batch, writes it in one run, syncs once, and completes the callbacks in
//! order; the next batch is not written before. Entries can be read as soon as they are queued: the newest are
//! kept in memory (bounded in bytes), older ones are read from their segment.
//!
//! Files: segments of fixed size, zero-filled ahead of need ([`segment`]); records with separate checksums for
//! header and payload ([`record`]); what a crash leaves is judged when the log opens ([`recover`]); what rotted
//! is made whole then, with entries from other nodes ([`damage`], [`Donors`]).

mod damage;
mod record;
mod recover;
mod segment;
mod shelf;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fabric::codec::{self, DecodeError};
use fabric::disks::{Disks, File};
use fabric::env::{Env, Lane, run_blocking};
use fabric::limits::{LOG_RESERVE_BYTES, LOG_SEGMENT_BYTES, MIB};
use futures::Stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Notify, oneshot, watch};

use self::damage::{Damage, Gap, Patch};
use self::record::{FORMAT, HEADER_BYTES, Header, Kind, Record};
use self::recover::{Contents, Given, Opened, Outcome};
use self::segment::Segment;
pub use self::shelf::Shelf;
use super::types::{LogEntry, LogId, Types, Vote};

/// Entries handed to Raft at once.
const READ_BYTES_MAX: u64 = 2 << 20;
/// What one reading of the log finds is repaired; then it is read again, to be sure, and at most this often.
const REPAIR_ROUNDS_MAX: usize = 4;

/// The least that waits to be written, or is kept for reading: a few of the largest entries.
const SHARE_BYTES_MIN: u64 = 4 * MIB;

/// Sizes of a log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Bytes of the very first segment, small so that a first start is quick.
    pub first_segment_bytes: u64,
    /// Bytes of all others.
    pub segment_bytes: u64,
    /// Bytes of payload that may wait to be written; appends wait above it.
    pub queue_bytes_max: u64,
    /// Bytes of entries kept in memory for reading.
    pub tail_bytes_max: u64,
    /// Free space that is left when another segment is made.
    pub reserve_bytes: u64,
}

impl LogConfig {
    /// Within the budget of a node: a sixteenth each for what waits and for what is kept.
    pub fn within(memory_bytes: u64) -> LogConfig {
        let most = LogConfig::default();
        let share = (memory_bytes / 16).max(SHARE_BYTES_MIN);
        LogConfig {
            queue_bytes_max: most.queue_bytes_max.min(share),
            tail_bytes_max: most.tail_bytes_max.min(share),
            ..most
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            first_segment_bytes: 16 * MIB,
            segment_bytes: LOG_SEGMENT_BYTES,
            queue_bytes_max: 32 * MIB,
            tail_bytes_max: 16 * MIB,
            reserve_bytes: LOG_RESERVE_BYTES,
        }
    }
}

/// Why a log does not open or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The disk failed.
    #[error("the log's disk failed: {0}")]
    Io(#[from] io::Error),
    /// An entry that was durable is damaged.
    #[error(
        "entry {index} of the log is rotten (segment {segment}, offset {offset}): no checkpoint holds it, and no \
         other voter gave it"
    )]
    Rot {
        /// Index of the entry, or of the first that could be.
        index: u64,
        /// Segment it is in.
        segment: u64,
        /// Where in the segment.
        offset: u64,
    },
    /// For whom it voted last is not known any more: voting again could elect two leaders.
    #[error("the last vote in the log is rotten (segment {segment}, offset {offset})")]
    RottenVote {
        /// Segment it is in.
        segment: u64,
        /// Where in the segment.
        offset: u64,
    },
    /// Entries are missing.
    #[error("entries {expected} to {found} of the log are missing")]
    Gap {
        /// The entry that should follow.
        expected: u64,
        /// The entry found.
        found: u64,
    },
    /// A record has a good checksum and is not understood.
    #[error("the log was written by another release: {0}")]
    Decode(#[from] DecodeError),
}

/// What a disk has left. The order counts: later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headroom {
    /// Space is made ready ahead of need.
    Ahead,
    /// The disk is full: only what is ready is left.
    Reserve,
    /// Little of that is left.
    Spent,
}

/// What a log knows about an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// The entry, of exactly the log id that was asked for.
    Entry(LogEntry),
    /// Another one is decided at its index: this one never was, and never will be.
    Superseded,
    /// What is decided at its index is only in the checkpoint any more.
    Forgotten,
}

/// Gives entries that are rotten here.
#[async_trait]
pub trait Donors: Send + Sync {
    /// What is known of the entry of this log id by anybody who can be reached within a bounded time.
    async fn entry(&self, log_id: LogId) -> Option<Known>;
}

/// For a log that nobody else has.
pub struct NoDonors;

#[async_trait]
impl Donors for NoDonors {
    async fn entry(&self, _log_id: LogId) -> Option<Known> {
        None
    }
}

/// One entry of the log: where it is, and itself while it is kept in memory.
struct Slot {
    log_id: LogId,
    /// `None` until it is written.
    place: Option<Place>,
    payload_bytes: u32,
    cached: Option<Arc<LogEntry>>,
}

#[derive(Clone)]
struct Place {
    segment: Segment,
    offset: u64,
}

impl Place {
    fn numbers(&self) -> (u64, u64) {
        (self.segment.number, self.offset)
    }
}

impl Slot {
    /// One that is missing.
    fn lost(log_id: LogId) -> Slot {
        Slot { log_id, place: None, payload_bytes: 0, cached: None }
    }

    fn stored(log_id: LogId, segment: &Segment, header: &Header) -> Slot {
        let place = Place { segment: segment.clone(), offset: header.offset };
        Slot { log_id, place: Some(place), payload_bytes: header.payload_bytes, cached: None }
    }
}

/// Who hears when a record is durable.
enum Done {
    Nobody,
    Raft(IOFlushed<Types>),
    Waiter(oneshot::Sender<io::Result<()>>),
}

struct Queued {
    record: Record,
    done: Done,
}

/// What readers, writer and Raft share.
struct State {
    contents: Contents,
    queue: Vec<Queued>,
    queue_bytes: u64,
    /// Bytes of payload of the slots that keep their entry.
    cached_bytes: u64,
    /// Lowest entry that was cut off by a truncation that is still queued.
    truncation_queued: Option<u64>,
    /// Why nothing can be written any more.
    fault: Option<String>,
    /// The writer ends once the queue is empty.
    closed: bool,
}

struct Shared {
    env: Arc<dyn Env>,
    config: LogConfig,
    state: Mutex<State>,
    /// There is something to write.
    queued: Notify,
    /// The queue became shorter.
    taken: Notify,
    /// Entries below this index are durable here.
    synced: watch::Sender<u64>,
    /// The disk is full.
    full: AtomicBool,
    /// Bytes that can be written before another segment is needed that is not ready.
    ready_bytes: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the disk is full, and says so when that changes.
    fn note_full(&self, full: Option<&io::Error>) {
        let before = self.full.swap(full.is_some(), Ordering::Relaxed);
        match full {
            Some(error) if !before => tracing::warn!(%error, "the log cannot grow: its disk is full"),
            None if before => tracing::info!("the log can grow again"),
            _ => {}
        }
        metrics::gauge!("fluffy_log_disk_full").set(if full.is_some() { 1.0 } else { 0.0 });
    }
}

/// The log of one node. Clones share it; Raft is its only writer.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

impl Log {
    /// Opens the log in `directory`, or begins one there. Entries below `floor` are in the checkpoint and need
    /// not be intact; others that are rotten are asked of `donors`, and cut off with all that follows them where they
    /// were never decided. What is readable meanwhile is on the `shelf`, and afterwards the log.
    pub async fn open(
        env: Arc<dyn Env>,
        disks: Arc<dyn Disks>,
        directory: &Path,
        config: LogConfig,
        floor: u64,
        donors: &dyn Donors,
        shelf: &Shelf,
    ) -> Result<Log, LogFault> {
        let lane = Lane::new(&*env, "raft-log");
        let mut given = Given { floor, cut: None, rot_as_torn_tail: env.armed("rot_as_torn_tail") };
        let mut rounds = 0;
        let opened = loop {
            let (disks, directory, config) = (disks.clone(), directory.to_path_buf(), config.clone());
            match lane.run(move || recover::open(&*disks, &directory, &config, given)).await? {
                Outcome::Opened(opened) => break opened,
                Outcome::Damaged(damage, contents) => {
                    rounds += 1;
                    if rounds > REPAIR_ROUNDS_MAX {
                        return Err(io::Error::other("what is repaired is damaged again at once").into());
                    }
                    shelf.put_damaged(contents);
                    given.cut = repair(&lane, damage, donors).await?;
                }
            }
        };
        let log = Log::run(env, disks, directory, config, lane, opened);
        shelf.put_log(log.clone());
        Ok(log)
    }

    fn run(
        env: Arc<dyn Env>,
        disks: Arc<dyn Disks>,
        directory: &Path,
        config: LogConfig,
        lane: Lane,
        opened: Opened,
    ) -> Log {
        let next = recover::next_index(&opened.contents);
        let (synced, _) = watch::channel(next);
        let state = State {
            contents: opened.contents,
            queue: Vec::new(),
            queue_bytes: 0,
            cached_bytes: 0,
            truncation_queued: None,
            fault: None,
            closed: false,
        };
        let shared = Arc::new(Shared {
            env: env.clone(),
            config,
            state: Mutex::new(state),
            queued: Notify::new(),
            taken: Notify::new(),
            synced,
            full: AtomicBool::new(false),
            ready_bytes: AtomicU64::new(u64::MAX),
        });
        let position = writer::Position {
            segments: opened.segments,
            offset: opened.offset,
            batch: opened.batch,
            votes: opened.votes,
        };
        writer::start(shared.clone(), disks, directory.to_path_buf(), lane, position);
        Log { shared }
    }

    /// Entries below the watched index are durable on this node.
    pub fn synced(&self) -> watch::Receiver<u64> {
        self.shared.synced.subscribe()
    }

    /// What the disk has left for the log.
    pub fn headroom(&self) -> Headroom {
        let spent = self.shared.ready_bytes.load(Ordering::Relaxed) < self.shared.config.segment_bytes / 4;
        match self.shared.full.load(Ordering::Relaxed) {
            false => Headroom::Ahead,
            true if spent => Headroom::Spent,
            true => Headroom::Reserve,
        }
    }

    /// Whether nothing was ever written: no vote, no entry.
    pub fn is_pristine(&self) -> bool {
        let state = self.shared.state();
        state.contents.vote.is_none() && recover::next_index(&state.contents) == 0
    }

    /// The last entry that it has forgotten.
    pub fn purged(&self) -> Option<u64> {
        self.shared.state().contents.purged.map(|purged| purged.index)
    }

    /// Cuts off what contradicts `applied`, the last entry in the checkpoint: when a snapshot was installed it was cut
    /// off, and the power may have gone before that was durable here. Raft does not start on such a log.
    pub async fn agree_with(&mut self, applied: LogId) -> io::Result<()> {
        let other = |slot: &Slot| slot.log_id != applied;
        let contradicts =
            self.shared.state().range(applied.index, applied.index + 1).next().is_some_and(other);
        if contradicts {
            tracing::info!(%applied, "entries that a snapshot replaced are cut off");
            let before = applied.index.checked_sub(1).map(|index| LogId { index, ..applied });
            self.truncate_after(before).await?;
        }
        Ok(())
    }

    /// Ends the writer once everything queued is durable. Nothing may be written afterwards.
    pub fn close(&self) {
        self.shared.state().closed = true;
        self.shared.queued.notify_one();
    }

    fn push(&self, state: &mut State, record: Record, done: Done) {
        state.queue_bytes += record.bytes();
        state.queue.push(Queued { record, done });
    }

    /// Waits while the queue is full.
    async fn room(&self) -> io::Result<()> {
        loop {
            let taken = self.shared.taken.notified();
            {
                let state = self.shared.state();
                if let Some(fault) = &state.fault {
                    return Err(io::Error::other(fault.clone()));
                }
                if state.queue_bytes < self.shared.config.queue_bytes_max {
                    return Ok(());
                }
            }
            taken.await;
        }
    }
}

/// Makes a log whole, one place after the other, up to the first entry that was never decided: returns its index.
async fn repair(lane: &Lane, damage: Damage, donors: &dyn Donors) -> Result<Option<u64>, LogFault> {
    if let Some(fault) = damage.first_wanted() {
        tracing::warn!(%fault, "the log is repaired before it opens");
    }
    let mut entries = 0;
    for patch in damage.patches {
        write(lane, patch).await?;
    }
    let mut superseded = Vec::new();
    for lost in damage.lost {
        match donors.entry(lost.log_id).await.ok_or_else(|| lost.fault())? {
            Known::Entry(entry) => {
                write(lane, lost.patch(&entry).ok_or_else(|| lost.fault())?).await?;
                entries += 1;
            }
            Known::Superseded => superseded.push(lost.log_id.index),
            Known::Forgotten => return Err(lost.fault()),
        }
    }
    for gap in damage.gaps {
        match fill(&gap, donors).await? {
            Filled::Whole(patch) => {
                write(lane, patch).await?;
                entries += gap.entries.len() as u64;
            }
            Filled::Superseded(index) => superseded.push(index),
        }
    }
    let cut = superseded.into_iter().min();
    metrics::counter!("fluffy_log_entries_repaired_total").increment(entries);
    tracing::info!(entries, ?cut, "the log was repaired");
    Ok(cut)
}

enum Filled {
    Whole(Patch),
    /// The entry of this index was never decided.
    Superseded(u64),
}

async fn fill(gap: &Gap, donors: &dyn Donors) -> Result<Filled, LogFault> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for log_id in &gap.entries {
        let entry = match donors.entry(*log_id).await.ok_or_else(|| gap.fault(log_id.index))? {
            Known::Entry(entry) => entry,
            Known::Superseded => return Ok(Filled::Superseded(log_id.index)),
            Known::Forgotten => return Err(gap.fault(log_id.index)),
        };
        let record = Record::entry(&entry);
        bytes += record.bytes();
        if bytes > gap.bytes() {
            return Err(gap.fault(log_id.index)); // They cannot have stood here.
        }
        entries.push((entry.log_id, record));
    }
    let first = gap.entries.first().map_or(0, |log_id| log_id.index);
    gap.patch(entries).map(Filled::Whole).ok_or_else(|| gap.fault(first))
}

async fn write(lane: &Lane, patch: Patch) -> io::Result<()> {
    lane.run(move || patch.write()).await
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.shared.state();
        let purged = state.contents.purged;
        let last = state.contents.slots.back().map(|slot| slot.log_id).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.room().await?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.shared.state();
            state.contents.vote = Some(*vote);
            self.push(&mut state, Record::vote(vote), Done::Waiter(sender));
        }
        self.shared.queued.notify_one();
        receiver.await.map_err(|_| io::Error::other("the log's writer ended"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.shared.state();
        if let Some(committed) = committed.filter(|_| state.contents.committed != committed) {
            state.contents.committed = Some(committed);
            // Rides with the next batch: nobody is told.
            self.push(&mut state, Record::committed(&committed), Done::Nobody);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.state().contents.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let prepare = |entry: LogEntry| (Record::entry(&entry), entry);
        let prepared: Vec<(Record, LogEntry)> = entries.into_iter().map(prepare).collect();
        self.room().await?;
        {
            let mut state = self.shared.state();
            let mut done = Some(callback);
            let count = prepared.len();
            for (place, (record, entry)) in prepared.into_iter().enumerate() {
                self.keep(&mut state, entry, &record)?;
                let last = place + 1 == count;
                let done = if last { done.take().map_or(Done::Nobody, Done::Raft) } else { Done::Nobody };
                self.push(&mut state, record, done);
            }
            if let Some(callback) = done {
                callback.io_completed(Ok(())); // Nothing to write.
            }
        }
        self.shared.queued.notify_one();
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |log_id| log_id.index + 1);
        {
            let mut state = self.shared.state();
            recover::drop_from(&mut state.contents, from);
            state.recount();
            state.truncation_queued = Some(state.truncation_queued.map_or(from, |queued| queued.min(from)));
            self.shared.synced.send_modify(|synced| *synced = (*synced).min(from));
            self.push(&mut state, Record::bare(Kind::Truncate, from), Done::Nobody);
        }
        self.shared.queued.notify_one();
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.shared.state();
            recover::purge(&mut state.contents, log_id);
            state.recount();
            self.push(&mut state, Record::mark(Kind::Purge, log_id), Done::Nobody);
        }
        self.shared.queued.notify_one();
        Ok(())
    }
}

impl State {
    fn recount(&mut self) {
        let cached = self.contents.slots.iter().filter(|slot| slot.cached.is_some());
        self.cached_bytes = cached.map(|slot| u64::from(slot.payload_bytes)).sum();
    }

    /// Forgets the oldest kept entries above the bound; those not written yet stay.
    fn trim(&mut self, bytes_max: u64) {
        if self.cached_bytes <= bytes_max {
            return;
        }
        let first = self.contents.slots.partition_point(|slot| slot.cached.is_none());
        for slot in self.contents.slots.range_mut(first..) {
            if self.cached_bytes <= bytes_max || slot.place.is_none() {
                return;
            }
            if slot.cached.take().is_some() {
                self.cached_bytes -= u64::from(slot.payload_bytes);
            }
        }
    }

    /// The slots of a range of indexes.
    fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &Slot> {
        let slots = &self.contents.slots;
        let first = slots.front().map_or(0, |slot| slot.log_id.index);
        let from = start.saturating_sub(first).min(slots.len() as u64) as usize;
        let to = end.saturating_sub(first).min(slots.len() as u64) as usize;
        slots.range(from..to.max(from))
    }
}

/// An entry to read: at hand, or in a file.
enum Wanted {
    Kept(Arc<LogEntry>),
    Stored { log_id: LogId, file: Arc<dyn File>, segment: u64, offset: u64, payload_bytes: u32 },
}

impl Log {
    fn keep(&self, state: &mut State, entry: LogEntry, record: &Record) -> io::Result<()> {
        let expected = recover::next_index(&state.contents);
        if entry.log_id.index != expected
            && !(state.contents.slots.is_empty() && state.contents.purged.is_none())
        {
            let index = entry.log_id.index;
            return Err(io::Error::other(format!("entry {index} appended where {expected} follows")));
        }
        let payload_bytes = record.payload.len() as u32;
        state.cached_bytes += u64::from(payload_bytes);
        let cached = Some(Arc::new(entry));
        state.contents.slots.push_back(Slot {
            log_id: record_log_id(record),
            place: None,
            payload_bytes,
            cached,
        });
        Ok(())
    }

    /// Entries of `start..end`, at least one and otherwise at most `bytes_max` of them.
    async fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0;
        let mut wanted = Vec::new();
        {
            let state = self.shared.state();
            for slot in state.range(start, end) {
                bytes += u64::from(slot.payload_bytes);
                if bytes > bytes_max && !wanted.is_empty() {
                    break;
                }
                wanted.push(Wanted::of(slot)?);
            }
        }
        if wanted.iter().all(|wanted| matches!(wanted, Wanted::Kept(_))) {
            return wanted.into_iter().map(Wanted::load).collect();
        }
        let load = || wanted.into_iter().map(Wanted::load).collect();
        run_blocking(&*self.shared.env, load).await
    }
}

impl Wanted {
    fn of(slot: &Slot) -> io::Result<Wanted> {
        if let Some(entry) = &slot.cached {
            return Ok(Wanted::Kept(entry.clone()));
        }
        let place =
            slot.place.as_ref().ok_or_else(|| io::Error::other("an entry is neither kept nor stored"))?;
        Ok(Wanted::Stored {
            log_id: slot.log_id,
            file: place.segment.file.clone(),
            segment: place.segment.number,
            offset: place.offset,
            payload_bytes: slot.payload_bytes,
        })
    }

    fn load(self) -> io::Result<LogEntry> {
        let (log_id, file, segment, offset, payload_bytes) = match self {
            Wanted::Kept(entry) => return Ok((*entry).clone()),
            Wanted::Stored { log_id, file, segment, offset, payload_bytes } => {
                (log_id, file, segment, offset, payload_bytes)
            }
        };
        let mut bytes = vec![0; HEADER_BYTES + payload_bytes as usize];
        file.read_at(offset, &mut bytes)?;
        let payload = &bytes[HEADER_BYTES..];
        let intact = Header::decode(&bytes, segment, offset).is_some_and(|header| header.matches(payload));
        if !intact {
            let fault = LogFault::Rot { index: log_id.index, segment, offset };
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
        }
        decode("log entry", payload).map_err(io::Error::other)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state().contents.vote)
    }

    /// Reads ahead by [`READ_BYTES_MAX`] only: a follower that catches up applies a long range.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let begin = (self.clone(), start, Vec::new().into_iter());
        futures::stream::unfold(Some(begin), move |state| async move {
            let (log, start, mut page) = state?;
            if let Some(entry) = page.next() {
                return Some((Ok(entry), Some((log, start, page))));
            }
            match log.read(start, end, READ_BYTES_MAX).await {
                Err(error) => Some((Err(error), None)),
                Ok(entries) => {
                    let next = entries.last()?.log_id.index + 1;
                    let mut page = entries.into_iter();
                    let entry: LogEntry = page.next()?;
                    Some((Ok(entry), Some((log, next, page))))
                }
            }
        })
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn record_log_id(record: &Record) -> LogId {
    let leader = openraft::impls::leader_id_adv::LeaderId { term: record.term, node_id: record.leader };
    LogId { leader_id: leader, index: record.index }
}

fn decode<T: serde::de::DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, DecodeError> {
    codec::decode(FORMAT, what, payload)
}

/// Where the log of a data directory is.
pub fn directory(data: &Path) -> PathBuf {
    data.join("raft")
}
