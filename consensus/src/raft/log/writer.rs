//! The one writer of the log: takes batches from the queue, writes and syncs them, tells who waits.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fabric::disks::{Disks, is_full};
use fabric::env::{Lane, spawn_critical};
use tokio::sync::mpsc;

use super::record::{Batch, Kind, Record};
use super::recover::{self, Contents};
use super::segment::{self, Segment};
use super::{Done, Place, Queued, Shared, decode};

/// A batch is cut above this, so that one sync never takes long and a batch fits into a segment.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// A full disk is asked again after this.
const PAUSE_WHEN_FULL: Duration = Duration::from_millis(500);

/// Where the writer is.
pub(super) struct Position {
    /// All segments, each with the highest entry in it; the last one is being written.
    pub segments: Vec<(Segment, u64)>,
    /// Where the next record goes.
    pub offset: u64,
    /// The last batch.
    pub batch: u64,
    /// See [`super::record::Header::votes`].
    pub votes: u16,
}

/// Starts the writer and the task that keeps segments ready for it.
pub(super) fn start(
    shared: Arc<Shared>,
    disks: Arc<dyn Disks>,
    directory: PathBuf,
    lane: Lane,
    position: Position,
) {
    let next = position.segments.last().map_or(1, |(segment, _)| segment.number + 1);
    // One waits in the channel and one in the hand of the task: two are ready.
    let (sender, ready) = mpsc::channel(1);
    let env = shared.env.clone();
    let making = keep_ready(shared.clone(), disks.clone(), directory.clone(), next, sender);
    env.spawn("raft-log-segments", Box::pin(making));
    let durable = {
        let state = shared.state();
        let contents = &state.contents;
        Contents {
            vote: contents.vote,
            committed: contents.committed,
            purged: contents.purged,
            ..Contents::default()
        }
    };
    let writer = Writer { shared, disks, directory, lane, ready, position, durable };
    spawn_critical(&env, "raft-log", writer.run());
}

/// Makes segments ahead of need. A full disk is no fault: it is asked again, and the ready ones are the reserve.
async fn keep_ready(
    shared: Arc<Shared>,
    disks: Arc<dyn Disks>,
    directory: PathBuf,
    mut number: u64,
    sender: mpsc::Sender<io::Result<Segment>>,
) {
    let lane = Lane::new(&*shared.env, "raft-log-segments");
    let (bytes, reserve_bytes) = (shared.config.segment_bytes, shared.config.reserve_bytes);
    loop {
        let (disks, directory) = (disks.clone(), directory.clone());
        let make = move || segment::prepare(&*disks, &directory, number, bytes, reserve_bytes);
        let made = lane.run(make).await;
        let full = made.as_ref().err().filter(|error| is_full(error));
        shared.note_full(full);
        if full.is_some() {
            tokio::select! {
                biased;
                () = sender.closed() => return,
                () = tokio::time::sleep(PAUSE_WHEN_FULL) => continue,
            }
        }
        let failed = made.is_err();
        if sender.send(made).await.is_err() || failed {
            return;
        }
        number += 1;
    }
}

struct Writer {
    shared: Arc<Shared>,
    disks: Arc<dyn Disks>,
    directory: PathBuf,
    lane: Lane,
    ready: mpsc::Receiver<io::Result<Segment>>,
    position: Position,
    /// What the records written so far say about vote and marks; repeated at the head of each segment.
    durable: Contents,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let mut batch = self.take();
            if batch.is_empty() {
                if self.shared.state().closed {
                    return;
                }
                self.shared.queued.notified().await;
                continue;
            }
            if let Err(error) = self.write(&mut batch).await {
                self.fail(batch, &error);
                return;
            }
        }
    }

    /// What is queued, up to the bound. A committed mark alone is no reason to write.
    fn take(&mut self) -> Vec<Queued> {
        let mut state = self.shared.state();
        if state.queue.iter().all(|queued| queued.record.kind == Kind::Committed) {
            return Vec::new();
        }
        let mut bytes = 0;
        let count = state.queue.iter().take_while(|queued| {
            bytes += queued.record.bytes();
            bytes <= BATCH_BYTES_MAX || bytes == queued.record.bytes()
        });
        let count = count.count();
        let batch: Vec<Queued> = state.queue.drain(..count).collect();
        state.queue_bytes = state.queue.iter().map(|queued| queued.record.bytes()).sum();
        let left = state.queue.iter().filter(|queued| queued.record.kind == Kind::Truncate);
        state.truncation_queued = left.map(|queued| queued.record.index).min();
        drop(state);
        self.shared.taken.notify_waiters();
        batch
    }

    async fn write(&mut self, batch: &mut [Queued]) -> io::Result<()> {
        let bytes: u64 = batch.iter().map(|queued| queued.record.bytes()).sum();
        let mut heads = Vec::new();
        if self.position.offset + bytes > self.filled_bytes() {
            heads = self.rotate().await?;
        }
        self.position.batch += 1;
        let base = self.position.offset;
        let segment = self.current();
        let mut buffer = Vec::with_capacity(bytes as usize + 4096);
        let mut places = Vec::new();
        let count = heads.len() + batch.len();
        let records = heads.iter().chain(batch.iter().map(|queued| &queued.record));
        let unsynced_batches = self.shared.env.armed("batch_before_sync");
        for (place, record) in records.enumerate() {
            let last = place + 1 == count || unsynced_batches;
            self.position.batch += u64::from(unsynced_batches);
            let votes = self.position.votes.wrapping_add(u16::from(record.kind == Kind::Vote));
            self.position.votes = votes;
            let stamp = Batch { number: self.position.batch, last, votes };
            let offset = record.write(&mut buffer, base, segment.number, stamp);
            self.durable_mark(record)?;
            if record.kind == Kind::Entry {
                places.push((record.index, record.term, offset));
            }
        }
        let lie = self.shared.env.armed("ack_before_sync");
        if lie {
            complete(batch);
        }
        self.position.offset = base + buffer.len() as u64;
        self.write_synced(&segment, base, Bytes::from(buffer)).await?;
        metrics::counter!("fluffy_log_syncs_total").increment(1);
        self.note_ready();
        self.synced(&segment, &places, batch);
        complete(batch);
        if batch.iter().any(|queued| queued.record.kind == Kind::Purge) {
            self.remove_purged().await?;
        }
        Ok(())
    }

    /// Writes where zeros were before, which takes no space on most file systems. On others it waits for some: what
    /// was not written can be written again. A sync that failed is never tried again.
    async fn write_synced(&self, segment: &Segment, base: u64, bytes: Bytes) -> io::Result<()> {
        let mut waited = false;
        loop {
            let (file, bytes) = (segment.file.clone(), bytes.clone());
            let run = move || match file.write_at(base, &bytes) {
                Err(error) if is_full(&error) => Ok(Some(error)),
                Err(error) => Err(error),
                Ok(()) => file.sync_data().map(|()| None),
            };
            let Some(error) = self.lane.run(run).await? else { break };
            self.shared.note_full(Some(&error));
            waited = true;
            tokio::time::sleep(PAUSE_WHEN_FULL).await;
        }
        if waited {
            self.shared.note_full(None);
        }
        Ok(())
    }

    /// Notes how much can be written without another segment.
    fn note_ready(&self) {
        let in_this = self.filled_bytes().saturating_sub(self.position.offset);
        let in_others = self.ready.len() as u64 * self.shared.config.segment_bytes;
        self.shared.ready_bytes.store(in_this + in_others, Ordering::Relaxed);
    }

    fn filled_bytes(&self) -> u64 {
        let config = &self.shared.config;
        if self.current().number == 1 { config.first_segment_bytes } else { config.segment_bytes }
    }

    fn current(&self) -> Segment {
        self.position.segments.last().expect("an open log has a segment").0.clone()
    }

    /// Goes on to the next segment. Returns what its first batch begins with.
    async fn rotate(&mut self) -> io::Result<Vec<Record>> {
        let segment =
            self.ready.recv().await.ok_or_else(|| io::Error::other("no segment is made ready"))??;
        let mut heads = vec![Record::bare(Kind::Head, self.position.offset)];
        heads.extend(recover::head_records(&self.durable));
        self.position.segments.push((segment, 0));
        self.position.offset = 0;
        Ok(heads)
    }

    /// Follows what the records say of vote and marks.
    fn durable_mark(&mut self, record: &Record) -> io::Result<()> {
        match record.kind {
            Kind::Vote => {
                self.durable.vote = Some(decode("vote", &record.payload).map_err(io::Error::other)?)
            }
            Kind::Committed => {
                let committed = decode("committed log id", &record.payload).map_err(io::Error::other)?;
                self.durable.committed = Some(committed);
            }
            Kind::Purge => recover::purge(&mut self.durable, super::record_log_id(record)),
            Kind::Entry | Kind::Truncate | Kind::Open | Kind::Head | Kind::Filler => {}
        }
        Ok(())
    }

    /// Notes where the entries are now, and how far the log is durable.
    fn synced(&mut self, segment: &Segment, places: &[(u64, u64, u64)], batch: &[Queued]) {
        let mut state = self.shared.state();
        let first = state.contents.slots.front().map_or(0, |slot| slot.log_id.index);
        for &(index, term, offset) in places {
            let slot = index.checked_sub(first).and_then(|at| state.contents.slots.get_mut(at as usize));
            // It may be truncated or purged meanwhile, and another one queued in its place.
            if let Some(slot) = slot.filter(|slot| slot.log_id.leader_id.term == term && slot.place.is_none())
            {
                slot.place = Some(Place { segment: segment.clone(), offset });
            }
            if let Some((_, highest)) = self.position.segments.last_mut() {
                *highest = (*highest).max(index);
            }
        }
        state.trim(self.shared.config.tail_bytes_max);
        let floor = state.truncation_queued.unwrap_or(u64::MAX);
        let follow = |end: u64, queued: &Queued| match queued.record.kind {
            Kind::Entry => queued.record.index + 1,
            Kind::Truncate => end.min(queued.record.index),
            Kind::Purge => end.max(queued.record.index + 1),
            Kind::Vote | Kind::Committed | Kind::Open | Kind::Head | Kind::Filler => end,
        };
        let before = *self.shared.synced.borrow();
        let end = batch.iter().fold(before, follow).min(floor);
        self.shared.synced.send_if_modified(|synced| std::mem::replace(synced, end) != end);
    }

    /// Removes the segments whose entries are all purged, lowest first, never the one being written.
    async fn remove_purged(&mut self) -> io::Result<()> {
        let purged = self.durable.purged.map_or(0, |purged| purged.index);
        let kept = self.position.segments.len() - 1;
        let gone =
            self.position.segments[..kept].iter().take_while(|(_, highest)| *highest <= purged).count();
        if gone == 0 {
            return Ok(());
        }
        let numbers: Vec<u64> =
            self.position.segments.drain(..gone).map(|(segment, _)| segment.number).collect();
        let (disks, directory) = (self.disks.clone(), self.directory.clone());
        self.lane
            .run(move || {
                for number in numbers {
                    disks.remove(&segment::path(&directory, number))?;
                }
                disks.sync_dir(&directory)
            })
            .await
    }

    /// The disk failed: nobody who waits is told "done", and nothing is taken any more.
    fn fail(&mut self, batch: Vec<Queued>, error: &io::Error) {
        let reason = format!("the log cannot be written: {error}");
        let left = {
            let mut state = self.shared.state();
            state.fault = Some(reason.clone());
            std::mem::take(&mut state.queue)
        };
        for queued in batch.into_iter().chain(left) {
            queued.done.tell(Err(io::Error::other(reason.clone())));
        }
        self.shared.taken.notify_waiters();
        self.shared.env.fail_stop(&reason);
    }
}

fn complete(batch: &mut [Queued]) {
    for queued in batch {
        std::mem::replace(&mut queued.done, Done::Nobody).tell(Ok(()));
    }
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Done::Nobody => {}
            Done::Raft(callback) => callback.io_completed(result),
            // Who waited may be gone.
            Done::Waiter(waiter) => drop(waiter.send(result)),
        }
    }
}
