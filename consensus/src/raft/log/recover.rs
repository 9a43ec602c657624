//! Opening the log: reads what is there, tells a torn tail from rot, and leaves a clean end to write behind.
//!
//! A batch is synced before the next one is written. So a bad record with a record of a *later* batch behind it
//! had been synced: that is rot, and the log does not open before it is repaired. A bad record with nothing but
//! its own batch behind it was never acknowledged: it ends the log.
//!
//! Reading goes on behind rot, as far as it can be told where the next record is. So it finds all of the damage
//! at once, and what of it is needed: not what the checkpoint holds, nor what was cut off later.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use fabric::disks::{Disks, OpenMode};

use super::damage::{Damage, GAP_BYTES_MAX, Gap, Lost, Patch};
use super::record::{Batch, HEADER_BYTES, Header, Kind, Record};
use super::segment::{self, Found, Scan, Segment};
use super::{LogConfig, LogFault, Place, Slot};
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
    /// See [`Header::votes`].
    pub votes: u16,
}

/// What came of reading a log.
pub(super) enum Outcome {
    Opened(Opened),
    /// Nothing was written. Some of the entries cannot be read.
    Damaged(Damage, Contents),
}

/// What is known before the log is read.
#[derive(Clone, Copy)]
pub(super) struct Given {
    /// Entries below this index are in the checkpoint.
    pub floor: u64,
    /// The entry of this index, and so all behind it, was never decided: it need not be intact, and is cut off.
    pub cut: Option<u64>,
    /// A planted bug: whatever cannot be read ends the log.
    pub rot_as_torn_tail: bool,
}

/// Reads the log in `directory`, or begins one.
pub(super) fn open(
    disks: &dyn Disks,
    directory: &Path,
    config: &LogConfig,
    given: Given,
) -> Result<Outcome, LogFault> {
    disks.create_dir(directory)?;
    // What a killed process left in the page cache looks like what is on the disk, and a power cut may still take
    // it: nothing is built on it before it is durable. Otherwise our own first batch could survive a batch before
    // it, which would look like rot.
    disks.sync_dir(directory)?;
    let numbers = drop_purged(disks, directory)?;
    if numbers.is_empty() {
        return begin(disks, directory, config).map(Outcome::Opened);
    }
    let mut segments = Vec::new();
    for number in numbers {
        let file = disks.open(&segment::path(directory, number), OpenMode::Existing)?;
        file.sync_data()?;
        segments.push(Segment { number, file });
    }
    let mut replay =
        Replay { floor: given.floor, cut: given.cut, blind: given.rot_as_torn_tail, ..Replay::default() };
    let end = replay.run(&segments)?;
    replay.settle()?;
    if !replay.damage.is_empty() {
        return Ok(Outcome::Damaged(replay.damage, replay.contents));
    }
    replay.finish(disks, directory, segments, end).map(Outcome::Opened)
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
    let first = segment::prepare(disks, directory, 1, config.first_segment_bytes, 0)?;
    let mut opened =
        Opened { contents: Contents::default(), segments: vec![(first, 0)], offset: 0, batch: 0, votes: 0 };
    write_open(&mut opened, None)?;
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
/// The head records follow in a second batch: those of the segment itself may have been in a torn batch. What is cut
/// off goes with them: before that is durable, the next opening finds the same rot, and asks anew.
fn write_open(opened: &mut Opened, cut: Option<u64>) -> io::Result<()> {
    let mut heads = head_records(&opened.contents);
    heads.extend(cut.map(|from| Record::bare(Kind::Truncate, from)));
    for records in [vec![Record::bare(Kind::Open, 0)], heads] {
        if records.is_empty() {
            continue;
        }
        opened.batch += 1;
        let (segment, _) = opened.segments.last().expect("an open log has a segment");
        let mut buffer = Vec::new();
        for (place, record) in records.iter().enumerate() {
            let last = place + 1 == records.len();
            opened.votes = opened.votes.wrapping_add(u16::from(record.kind == Kind::Vote));
            let batch = Batch { number: opened.batch, last, votes: opened.votes };
            record.write(&mut buffer, opened.offset, segment.number, batch);
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

/// The last record of the whole log that is intact.
#[derive(Clone, Copy)]
struct Furthest {
    batch: u64,
    place: usize,
    offset: u64,
}

#[derive(Default)]
struct Replay {
    floor: u64,
    cut: Option<u64>,
    blind: bool,
    contents: Contents,
    /// Highest entry of each segment read.
    highest: Vec<u64>,
    batch: u64,
    batch_ended: bool,
    votes: u16,
    furthest: Option<Furthest>,
    damage: Damage,
    /// A gap of which the next entry will show what was in it.
    gap: Option<Gap>,
    /// Where the last vote was, if it cannot be read.
    vote_lost: Option<(u64, u64)>,
}

impl Replay {
    fn run(&mut self, segments: &[Segment]) -> Result<End, LogFault> {
        for (place, segment) in segments.iter().enumerate() {
            self.highest.push(0);
            let next = match segments.get(place + 1) {
                Some(next) => self.head_of(next)?,
                None => None,
            };
            let (offset, next) = self.read_segment(segments, place, next)?;
            // The next segment says where this one ended.
            match next.filter(|head| head.batch > self.batch) {
                Some(head) if head.index == offset => {}
                Some(_) if !self.blind => return Err(self.rot(segment, offset)),
                _ => return Ok(End { place, offset }),
            }
        }
        unreachable!("the last segment has no next one");
    }

    /// The first record of a segment, which says where the segment before ended.
    fn head_of(&mut self, segment: &Segment) -> io::Result<Option<Header>> {
        let is_head = |header: &Header| header.kind == Kind::Head;
        let mut scan = Scan::new(segment)?;
        if let Found::Record(header, _) = scan.at(0)? {
            return Ok(Some(header).filter(is_head));
        }
        // A head is written with more behind it, so what follows tells whether it was synced.
        let synced = scan.remains(HEADER_BYTES as u64)?.batch;
        Ok(scan.mended(0)?.filter(is_head).filter(|header| header.batch < synced && !self.blind))
    }

    /// Reads records to the end of a segment. Returns where that is, and the first record of the next segment,
    /// if there is one: it may have to be told from this end.
    fn read_segment(
        &mut self,
        segments: &[Segment],
        place: usize,
        mut next: Option<Header>,
    ) -> Result<(u64, Option<Header>), LogFault> {
        let segment = &segments[place];
        let mut scan = Scan::new(segment)?;
        let mut offset = 0;
        loop {
            let mut found = scan.at(offset)?;
            if let Found::Nothing = found {
                let ends_here = next.is_some_and(|head| head.batch > self.batch && head.index == offset);
                let batch = self.batch + u64::from(self.batch_ended);
                if ends_here || !self.is_rot(segments, place, offset, batch)? {
                    return Ok((offset, next));
                }
                if let Some(header) = self.mended(segment, &mut scan, offset)? {
                    found = scan.behind(header)?;
                } else if next.is_none() && scan.remains(offset)?.end == offset {
                    next = Some(self.head_told(segments, place, offset)?);
                    continue;
                } else {
                    offset = self.skip(segment, &mut scan, offset, next.as_ref())?;
                    continue;
                }
            }
            let (header, payload) = match found {
                Found::Nothing => unreachable!("it is dealt with above"),
                // Remains of a tail that was given up before.
                Found::Record(header, _) | Found::BadPayload(header, _) if header.batch < self.batch => {
                    return Ok((offset, next));
                }
                Found::Record(header, payload) => (header, Some(payload)),
                Found::BadPayload(header, payload) => {
                    let after = header.offset + header.record_bytes();
                    if !self.is_rot(segments, place, after, header.batch)? {
                        return Ok((offset, next));
                    }
                    // Of an entry others have more than a guess.
                    let guess = header.kind != Kind::Entry;
                    let mended = guess.then(|| header.mend_payload(&payload)).flatten();
                    if let Some(bytes) = mended.clone() {
                        let offset = offset + HEADER_BYTES as u64;
                        self.damage.patches.push(Patch { segment: segment.clone(), offset, bytes });
                    }
                    (header, mended)
                }
            };
            match payload {
                Some(payload) => self.take(segment, &header, &payload)?,
                None => self.take_rotten(segment, &header)?,
            }
            self.passed(&header);
            offset += header.record_bytes();
        }
    }

    fn passed(&mut self, header: &Header) {
        (self.batch, self.batch_ended, self.votes) = (header.batch, header.last_of_batch, header.votes);
    }

    /// Whether what is bad at `offset`, in that batch or an earlier one, had been synced.
    fn is_rot(&mut self, segments: &[Segment], place: usize, offset: u64, batch: u64) -> io::Result<bool> {
        if self.blind {
            return Ok(false);
        }
        let known = self.furthest.filter(|found| (place, offset) <= (found.place, found.offset));
        let furthest = match known {
            Some(furthest) => furthest,
            None => furthest(segments, place, offset)?,
        };
        self.furthest = Some(furthest);
        Ok(furthest.batch > batch)
    }

    /// The header at `offset`, if it can be told, noted to be written.
    fn mended(
        &mut self,
        segment: &Segment,
        scan: &mut Scan<'_>,
        offset: u64,
    ) -> Result<Option<Header>, LogFault> {
        let mended = scan.mended(offset)?.filter(|header| header.batch >= self.batch);
        if let Some(header) = &mended {
            let bytes = header.encode().to_vec();
            self.damage.patches.push(Patch { segment: segment.clone(), offset, bytes });
        }
        Ok(mended)
    }

    /// The head of the segment behind this one, which ends at `offset`. All of it is known.
    fn head_told(&mut self, segments: &[Segment], place: usize, offset: u64) -> Result<Header, LogFault> {
        let segment = &segments[place + 1];
        let told = match Scan::new(segment)?.at(HEADER_BYTES as u64)? {
            Found::Record(second, _) | Found::BadPayload(second, _) if second.batch > self.batch => second,
            _ => return Err(self.rot(segment, 0)),
        };
        let votes = told.votes.wrapping_sub(u16::from(told.kind == Kind::Vote));
        let batch = Batch { number: told.batch, last: false, votes };
        let mut bytes = Vec::new();
        Record::bare(Kind::Head, offset).write(&mut bytes, 0, segment.number, batch);
        let head = Header::decode(&bytes, segment.number, 0).expect("it was encoded here");
        self.damage.patches.push(Patch { segment: segment.clone(), offset: 0, bytes });
        Ok(head)
    }

    /// Steps over bytes in which no header can be made out. Returns where reading goes on.
    fn skip(
        &mut self,
        segment: &Segment,
        scan: &mut Scan<'_>,
        from: u64,
        next: Option<&Header>,
    ) -> Result<u64, LogFault> {
        let behind = scan.next_header(from)?.filter(|header| header.batch >= self.batch);
        let (to, after) = match (behind, next) {
            (Some(header), _) => (header.offset, header),
            (None, Some(head)) if head.batch > self.batch => (head.index, *head),
            (None, _) => return Err(self.rot(segment, from)),
        };
        let ended = u64::from(self.batch_ended);
        let batch = after.batch.min(self.batch + ended);
        // Votes are counted: where one is missing, a later one has to show what it was.
        let votes = after.votes.wrapping_sub(u16::from(after.kind == Kind::Vote));
        if votes != self.votes {
            self.vote_lost = Some((segment.number, from));
        }
        let last = after.batch > batch;
        let room = to.saturating_sub(from);
        let possible = (HEADER_BYTES as u64..=GAP_BYTES_MAX).contains(&room);
        if !possible || self.gap.is_some() {
            return Err(self.rot(segment, from));
        }
        let (entries, truncation) = (Vec::new(), None);
        let segment = segment.clone();
        self.gap = Some(Gap { segment, from, to, batch, last, votes, entries, truncation });
        (self.batch, self.batch_ended, self.votes) = (batch, last, votes);
        Ok(to)
    }

    fn take(&mut self, segment: &Segment, header: &Header, payload: &[u8]) -> Result<(), LogFault> {
        match header.kind {
            Kind::Entry => self.push(segment, header)?,
            Kind::Truncate => drop_from(&mut self.contents, header.index),
            Kind::Purge => purge(&mut self.contents, log_id(header)),
            Kind::Vote => {
                self.contents.vote = Some(super::decode("vote", payload)?);
                self.vote_lost = None;
            }
            Kind::Committed => {
                self.contents.committed = Some(super::decode("committed log id", payload)?);
            }
            Kind::Head | Kind::Open | Kind::Filler => {}
        }
        Ok(())
    }

    /// A record that was synced, and whose payload is damaged. A mark of what is committed is only a hint.
    fn take_rotten(&mut self, segment: &Segment, header: &Header) -> Result<(), LogFault> {
        match header.kind {
            Kind::Entry => {
                self.push(segment, header)?;
                let (segment, header, log_id) = (segment.clone(), *header, log_id(header));
                self.damage.lost.push(Lost { segment, header, log_id });
            }
            Kind::Vote => self.vote_lost = Some((segment.number, header.offset)),
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, segment: &Segment, header: &Header) -> Result<(), LogFault> {
        let entry = log_id(header);
        if let Some(gap) = self.gap.take() {
            if entry.index < self.floor {
                // The checkpoint holds whatever was in it, and this one.
                self.contents.slots.clear();
                self.contents.purged = Some(entry);
                return Ok(());
            }
            self.resolve(gap, entry)?;
        }
        let forgotten = self.contents.purged.is_some_and(|purged| entry.index <= purged.index);
        if forgotten && self.contents.slots.is_empty() && entry.index < self.floor {
            // Written anew after a cut, below what was forgotten for a gap.
            self.contents.purged = Some(entry);
            return Ok(());
        }
        let next = self.next_index();
        // Where older segments are purged the first entry follows nothing; `finish` checks the whole.
        if !self.contents.slots.is_empty() && next != header.index {
            return Err(LogFault::Gap { expected: next, found: header.index });
        }
        self.contents.slots.push_back(Slot::stored(entry, segment, header));
        if let Some(highest) = self.highest.last_mut() {
            *highest = (*highest).max(header.index);
        }
        Ok(())
    }

    /// What was in a gap, told from the entry that follows it.
    ///
    /// A leader never writes an index twice, and what is cut off is replaced by a later one's entries. So where
    /// the entries before and behind are of the same leader, those between are, too, and nothing before was cut.
    fn resolve(&mut self, mut gap: Gap, entry: LogId) -> Result<(), LogFault> {
        let (next, slots) = (self.next_index(), &self.contents.slots);
        let last = slots.back().map(|slot| slot.log_id).or(self.contents.purged);
        let same_leader = last.is_some_and(|last| last.leader_id == entry.leader_id);
        if same_leader && next <= entry.index {
            let lost = |index| LogId { leader_id: entry.leader_id, index };
            gap.entries = (next..entry.index).map(lost).collect();
            self.contents.slots.extend(gap.entries.iter().map(|lost| Slot::lost(*lost)));
        } else if entry.index < next && gap.bytes() == HEADER_BYTES as u64 {
            // One record without a payload, and the next entry begins anew: it cut off.
            drop_from(&mut self.contents, entry.index);
            gap.truncation = Some(entry.index);
        } else if entry.index != next || gap.bytes() >= 2 * HEADER_BYTES as u64 {
            return Err(gap.fault(next.min(entry.index)));
        } // Otherwise it is too small for a cut and an entry, and held marks.
        self.damage.gaps.push(gap);
        Ok(())
    }

    /// Once all is read: what of the damage matters.
    fn settle(&mut self) -> Result<(), LogFault> {
        if let Some((segment, offset)) = self.vote_lost {
            return Err(LogFault::RottenVote { segment, offset });
        }
        if let Some(gap) = self.gap.take() {
            // Nothing follows that tells. One record without a payload tells nothing either.
            if gap.bytes() > HEADER_BYTES as u64 {
                return Err(gap.fault(self.next_index()));
            }
            self.damage.gaps.push(gap);
        }
        let committed = self.contents.committed;
        self.cut = self.cut.filter(|cut| committed.is_none_or(|committed| committed.index < *cut));
        if let Some(cut) = self.cut {
            drop_from(&mut self.contents, cut);
        }
        let slots = &self.contents.slots;
        let is_there = |log_id: &LogId, at: Option<(u64, u64)>| {
            let slot = slots
                .front()
                .and_then(|front| slots.get(log_id.index.checked_sub(front.log_id.index)? as usize));
            slot.is_some_and(|slot| slot.log_id == *log_id && slot.place.as_ref().map(Place::numbers) == at)
        };
        self.damage
            .lost
            .retain(|lost| is_there(&lost.log_id, Some((lost.segment.number, lost.header.offset))));
        for gap in &mut self.damage.gaps {
            gap.entries.retain(|log_id| is_there(log_id, None));
        }
        let lost = self.damage.lost.iter().map(|lost| lost.log_id);
        let lost = lost.chain(self.damage.gaps.iter().flat_map(|gap| gap.entries.iter().copied()));
        let floor = self.floor;
        if let Some(below) = lost.filter(|log_id| log_id.index < floor).max_by_key(|log_id| log_id.index) {
            purge(&mut self.contents, below);
        }
        self.damage.lost.retain(|lost| lost.log_id.index >= floor);
        // A gap is filled from its first entry on, or not at all.
        self.damage
            .gaps
            .retain(|gap| gap.entries.iter().any(|log_id| log_id.index >= floor) || gap.truncation.is_some());
        Ok(())
    }

    fn rot(&self, segment: &Segment, offset: u64) -> LogFault {
        LogFault::Rot { index: self.next_index(), segment: segment.number, offset }
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
            votes: self.votes,
        };
        write_open(&mut opened, self.cut)?;
        Ok(opened)
    }
}

/// The last of the intact headers from here to the end of the last segment, by batch.
fn furthest(segments: &[Segment], from: usize, offset: u64) -> io::Result<Furthest> {
    let mut furthest = Furthest { batch: 0, place: from, offset };
    for (place, segment) in segments.iter().enumerate().skip(from) {
        let start = if place == from { offset } else { 0 };
        let remains = Scan::new(segment)?.remains(start)?;
        if remains.batch > 0 && remains.batch >= furthest.batch {
            furthest = Furthest { batch: remains.batch, place, offset: remains.batch_at };
        }
    }
    Ok(furthest)
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
