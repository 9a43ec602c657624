//! Opening the log: reads what is there, tells a torn tail from rot, and leaves a clean end to write behind.
//!
//! A batch is synced before the next one is written. So a bad record with a record of a *later* batch behind it
//! had been synced: that is rot, and the log does not open. A bad record with nothing but its own batch behind
//! it was never acknowledged: it ends the log.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use fabric::disks::{Disks, OpenMode};

use super::record::{Header, Kind, Record};
use super::segment::{self, Found, Scan, Segment};
use super::{LogConfig, LogFault, Slot};
use crate::raft::types::{LogId, Vote};

/// What a log holds, as its records say it.
#[derive(Default)]
pub(super) struct Contents {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Entries after `purged`, without gaps.
    pub slots: VecDeque<Slot>,
}

/// An open log, ready to be written.
pub(super) struct Opened {
    pub contents: Contents,
    /// All segments with records, ascending, each with the highest entry in it. The last one is being written.
    pub segments: Vec<(Segment, u64)>,
    /// Where the next record goes in the last segment.
    pub offset: u64,
    /// The batch that was written last.
    pub batch: u64,
}

/// Reads the log in `directory`, or begins one. `floor`: entries below this index are in the checkpoint.
pub(super) fn open(
    disks: &dyn Disks,
    directory: &Path,
    config: &LogConfig,
    floor: u64,
) -> Result<Opened, LogFault> {
    disks.create_dir(directory)?;
    // What a killed process left in the page cache looks like what is on the disk, and a power cut may still take
    // it: nothing is built on it before it is durable. Otherwise our own first batch could survive a batch before
    // it, which would look like rot.
    disks.sync_dir(directory)?;
    let numbers = drop_purged(disks, directory)?;
    if numbers.is_empty() {
        return begin(disks, directory, config);
    }
    let mut segments = Vec::new();
    for number in numbers {
        let file = disks.open(&segment::path(directory, number), OpenMode::Existing)?;
        file.sync_data()?;
        segments.push(Segment { number, file });
    }
    let mut replay = Replay { floor, ..Replay::default() };
    let end = replay.run(&segments)?;
    replay.finish(disks, directory, segments, end)
}

/// Segments are removed from the lowest up; a crash may leave some below a gap, whose entries are purged.
fn drop_purged(disks: &dyn Disks, directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = segment::list(disks, directory)?;
    let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]).map_or(0, |place| place + 1);
    for number in numbers.drain(..gap) {
        disks.remove(&segment::path(directory, number))?;
    }
    if gap != 0 {
        disks.sync_dir(directory)?;
    }
    Ok(numbers)
}

fn begin(disks: &dyn Disks, directory: &Path, config: &LogConfig) -> Result<Opened, LogFault> {
    let first = segment::prepare(disks, directory, 1, config.first_segment_bytes)?;
    let mut opened =
        Opened { contents: Contents::default(), segments: vec![(first, 0)], offset: 0, batch: 0 };
    write_open(&mut opened)?;
    Ok(opened)
}

/// What each segment repeats at its head, so that older ones can go: the vote and the marks.
pub(super) fn head_records(contents: &Contents) -> Vec<Record> {
    let marks = [
        contents.vote.map(|vote| Record::vote(&vote)),
        contents.purged.map(|purged| Record::mark(Kind::Purge, purged)),
        contents.committed.map(|committed| Record::committed(&committed)),
    ];
    marks.into_iter().flatten().collect()
}

/// Marks the begin of this process's batches. One record, so that it is there or not there, never in part.
/// The head records follow in a second batch: those of the segment itself may have been in a torn batch.
fn write_open(opened: &mut Opened) -> io::Result<()> {
    for records in [vec![Record::bare(Kind::Open, 0)], head_records(&opened.contents)] {
        if records.is_empty() {
            continue;
        }
        opened.batch += 1;
        let (segment, _) = opened.segments.last().expect("an open log has a segment");
        let mut buffer = Vec::new();
        for (place, record) in records.iter().enumerate() {
            let last = place + 1 == records.len();
            record.write(&mut buffer, opened.offset, segment.number, opened.batch, last);
        }
        segment.file.write_at(opened.offset, &buffer)?;
        segment.file.sync_data()?;
        opened.offset += buffer.len() as u64;
    }
    Ok(())
}

/// Where reading stopped: place of the segment, offset.
struct End {
    place: usize,
    offset: u64,
}

#[derive(Default)]
struct Replay {
    floor: u64,
    contents: Contents,
    /// Highest entry of each segment read.
    highest: Vec<u64>,
    batch: u64,
    batch_ended: bool,
}

impl Replay {
    fn run(&mut self, segments: &[Segment]) -> Result<End, LogFault> {
        for (place, segment) in segments.iter().enumerate() {
            self.highest.push(0);
            let (offset, bad) = self.read_segment(segments, place, segment)?;
            let next = segments.get(place + 1).map(head_of).transpose()?.flatten();
            if let Some(head) = next.filter(|head| head.batch > self.batch) {
                // The next segment says where this one ended.
                if head.index != offset {
                    return Err(rot(segment, offset, bad.as_ref(), self.next_index()));
                }
                continue;
            }
            self.check_torn(segments, place, offset, bad.as_ref())?;
            return Ok(End { place, offset });
        }
        unreachable!("the last segment has no next one");
    }

    /// Reads records until one is bad. Returns where it is, and its header if that is intact.
    fn read_segment(
        &mut self,
        segments: &[Segment],
        place: usize,
        segment: &Segment,
    ) -> Result<(u64, Option<Header>), LogFault> {
        let mut scan = Scan::new(segment)?;
        let mut offset = 0;
        loop {
            let header = match scan.at(offset)? {
                // Remains of a tail that was given up before.
                Found::Record(header, _) | Found::BadPayload(header) if header.batch < self.batch => {
                    return Ok((offset, None));
                }
                Found::Record(header, payload) => {
                    self.take(segment, &header, &payload)?;
                    header
                }
                Found::BadPayload(header) if self.is_below_floor(segments, place, &header)? => {
                    let log_id = log_id(&header);
                    self.contents.slots.clear();
                    self.contents.purged = Some(log_id);
                    header
                }
                Found::BadPayload(header) => return Ok((offset, Some(header))),
                Found::Nothing => return Ok((offset, None)),
            };
            self.batch = header.batch;
            self.batch_ended = header.last_of_batch;
            offset += header.record_bytes();
        }
    }

    /// Rot in an entry that the checkpoint holds anyway is passed over, if it was synced at all.
    fn is_below_floor(&self, segments: &[Segment], place: usize, header: &Header) -> io::Result<bool> {
        if header.kind != Kind::Entry || header.index >= self.floor {
            return Ok(false);
        }
        let after = header.offset + header.record_bytes();
        Ok(later_batch(segments, place, after)? > header.batch)
    }

    fn check_torn(
        &self,
        segments: &[Segment],
        place: usize,
        offset: u64,
        bad: Option<&Header>,
    ) -> Result<(), LogFault> {
        let bad_batch = bad.map_or(self.batch + u64::from(self.batch_ended), |header| header.batch);
        if later_batch(segments, place, offset)? > bad_batch {
            return Err(rot(&segments[place], offset, bad, self.next_index()));
        }
        Ok(())
    }

    fn take(&mut self, segment: &Segment, header: &Header, payload: &[u8]) -> Result<(), LogFault> {
        let contents = &mut self.contents;
        match header.kind {
            Kind::Entry => {
                let next = next_index(contents);
                // Where older segments are purged the first entry follows nothing; `finish` checks the whole.
                if !contents.slots.is_empty() && next != header.index {
                    return Err(LogFault::Gap { expected: next, found: header.index });
                }
                contents.slots.push_back(Slot::stored(log_id(header), segment, header));
                if let Some(highest) = self.highest.last_mut() {
                    *highest = (*highest).max(header.index);
                }
            }
            Kind::Truncate => drop_from(contents, header.index),
            Kind::Purge => purge(contents, log_id(header)),
            Kind::Vote => contents.vote = Some(super::decode("vote", payload)?),
            Kind::Committed => contents.committed = Some(super::decode("committed log id", payload)?),
            Kind::Head | Kind::Open => {}
        }
        Ok(())
    }

    fn next_index(&self) -> u64 {
        next_index(&self.contents)
    }

    /// Wipes what is behind the end, and makes the begin of our own batches durable.
    fn finish(
        mut self,
        disks: &dyn Disks,
        directory: &Path,
        segments: Vec<Segment>,
        end: End,
    ) -> Result<Opened, LogFault> {
        let mut batch = self.batch;
        for segment in &segments[end.place + 1..] {
            batch = batch.max(Scan::new(segment)?.remains(0)?.batch);
        }
        // From the last one down, each for good: where a crash left a gap, all below it would count as purged.
        for segment in segments[end.place + 1..].iter().rev() {
            disks.remove(&segment::path(directory, segment.number))?;
            disks.sync_dir(directory)?;
        }
        let last = &segments[end.place];
        let remains = Scan::new(last)?.remains(end.offset)?;
        if remains.end > end.offset {
            segment::zero(&*last.file, end.offset, remains.end)?;
            last.file.sync_data()?;
        }
        let slots = &self.contents.slots;
        let first = slots.front().map_or(0, |slot| slot.log_id.index);
        let expected = self.contents.purged.map_or(0, |purged| purged.index + 1);
        if !slots.is_empty() && first != expected {
            return Err(LogFault::Gap { expected, found: first });
        }
        self.highest.truncate(end.place + 1);
        let mut opened = Opened {
            contents: self.contents,
            segments: segments.into_iter().zip(self.highest).collect(),
            offset: end.offset,
            batch: batch.max(remains.batch),
        };
        write_open(&mut opened)?;
        Ok(opened)
    }
}

/// The first record of a segment, which says where the segment before ended.
fn head_of(segment: &Segment) -> io::Result<Option<Header>> {
    Ok(match Scan::new(segment)?.at(0)? {
        Found::Record(header, _) if header.kind == Kind::Head => Some(header),
        _ => None,
    })
}

/// The largest batch found from here to the end of the last segment.
fn later_batch(segments: &[Segment], place: usize, offset: u64) -> io::Result<u64> {
    let mut batch = Scan::new(&segments[place])?.remains(offset)?.batch;
    for segment in &segments[place + 1..] {
        batch = batch.max(Scan::new(segment)?.remains(0)?.batch);
    }
    Ok(batch)
}

fn rot(segment: &Segment, offset: u64, bad: Option<&Header>, next: u64) -> LogFault {
    let index = bad.filter(|header| header.kind == Kind::Entry).map_or(next, |header| header.index);
    LogFault::Rot { index, segment: segment.number, offset }
}

fn log_id(header: &Header) -> LogId {
    let leader_id = openraft::impls::leader_id_adv::LeaderId { term: header.term, node_id: header.leader };
    LogId { leader_id, index: header.index }
}

/// The index that the next entry has.
pub(super) fn next_index(contents: &Contents) -> u64 {
    let last =
        contents.slots.back().map(|slot| slot.log_id.index).or(contents.purged.map(|purged| purged.index));
    last.map_or(0, |last| last + 1)
}

/// Forgets entries from `index` on.
pub(super) fn drop_from(contents: &mut Contents, index: u64) {
    while contents.slots.back().is_some_and(|slot| slot.log_id.index >= index) {
        contents.slots.pop_back();
    }
}

/// Forgets entries up to `log_id`, which may lie beyond the last one.
pub(super) fn purge(contents: &mut Contents, log_id: LogId) {
    if contents.purged.is_some_and(|purged| purged.index >= log_id.index) {
        return;
    }
    while contents.slots.front().is_some_and(|slot| slot.log_id.index <= log_id.index) {
        contents.slots.pop_front();
    }
    contents.purged = Some(log_id);
}
