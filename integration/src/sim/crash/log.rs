//! The write-ahead log, with tiny segments.
//!
//! What always holds: it opens; what it holds is what a prefix of the records left, at least all up to the last
//! acknowledged one: no hole, no invented entry, no vote that goes back. A flipped bit is repaired, with what another
//! node has of the log, or it lies in the last batch or where nothing is; other bytes never come back.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::raft::log::{Donors, Known, Log, LogConfig, LogFault, NoDonors, Shelf};
use consensus::raft::types::{LogEntry, LogId, Proposal, Types, Vote};
use fabric::Seams;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;

use super::{Lived, Rot, Subject};
use crate::history::Violation;
use crate::history::body;
use crate::sim::random::SimRandom;

const DIRECTORY: &str = "/raft";
const WAVES_PER_LIFE: u64 = 25;
const ENTRY_BYTES_MAX: u64 = 2500;

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Held {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Index → term, and id and length of the payload, which is made from them.
    entries: BTreeMap<u64, (u64, u64, usize)>,
}

/// What is written, one record each.
#[derive(Debug, Clone)]
enum Record {
    Vote(Vote),
    Committed(LogId),
    Entry { index: u64, term: u64, id: u64, bytes: usize },
    Truncate { from: u64 },
    Purge(LogId),
}

impl Held {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(committed) => self.committed = Some(*committed),
            Record::Entry { index, term, id, bytes } => {
                self.entries.insert(*index, (*term, *id, *bytes));
            }
            Record::Truncate { from } => drop(self.entries.split_off(from)),
            Record::Purge(log_id) => {
                self.entries = self.entries.split_off(&(log_id.index + 1));
                self.purged = Some(*log_id);
            }
        }
    }

    fn next_index(&self) -> u64 {
        let last = self.entries.keys().next_back().copied().or(self.purged.map(|purged| purged.index));
        last.map_or(0, |last| last + 1)
    }

    fn log_id(&self, index: u64) -> Option<LogId> {
        self.entries.get(&index).map(|(term, ..)| log_id(*term, index))
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

/// The log's model.
pub(super) struct LogSubject {
    random: SimRandom,
    /// What was there when the process began.
    base: Held,
    /// What was written since, in order.
    records: Vec<Record>,
    /// So many of them are acknowledged.
    acknowledged: usize,
    /// All before the last wave: certainly in earlier batches.
    settled: usize,
    /// After all records.
    now: Held,
    term: u64,
    next_id: u64,
    config: LogConfig,
}

/// What a wave waits for: the number of records that are acknowledged with it.
type Waiting = (usize, OneshotReceiverOf<Types, Result<(), std::io::Error>>);

impl LogSubject {
    pub(super) fn new(random: SimRandom) -> LogSubject {
        let segment_bytes = random.between(8 << 10, 48 << 10);
        let config = LogConfig {
            first_segment_bytes: random.between(4 << 10, 16 << 10),
            segment_bytes,
            queue_bytes_max: 1 << 20,
            tail_bytes_max: *random.pick(&[0, 4 << 10, 1 << 20]),
            reserve_bytes: 0,
        };
        LogSubject {
            random,
            base: Held::default(),
            records: Vec::new(),
            acknowledged: 0,
            settled: 0,
            now: Held::default(),
            term: 1,
            next_id: 1,
            config,
        }
    }

    async fn open(&self, seams: &Seams, floor: u64) -> Result<Log, LogFault> {
        self.open_with(seams, floor, &NoDonors).await
    }

    async fn open_with(&self, seams: &Seams, floor: u64, donors: &dyn Donors) -> Result<Log, LogFault> {
        let (env, disks) = (seams.env.clone(), seams.disks.clone());
        let (config, shelf) = (self.config.clone(), Shelf::default());
        Log::open(env, disks, Path::new(DIRECTORY), config, floor, donors, &shelf).await
    }

    /// Finds the prefix of at least `least` records that left this. It is the model from here on.
    fn check(&mut self, held: Held, least: usize) -> Result<(), Violation> {
        let mut model = self.base.clone();
        let mut fits = least == 0 && model == held;
        for (place, record) in self.records.iter().enumerate() {
            model.apply(record);
            fits |= place + 1 >= least && model == held;
        }
        if !fits {
            return Err(Violation(self.story(&held, least)));
        }
        (self.records, self.acknowledged, self.settled) = (Vec::new(), 0, 0);
        self.base = held;
        self.now = self.base.clone();
        Ok(())
    }

    fn story(&self, held: &Held, least: usize) -> String {
        let mut model = self.base.clone();
        self.records[..least].iter().for_each(|record| model.apply(record));
        let later = &self.records[least..];
        format!("the log holds {}; acknowledged was {}; then came {later:?}", held.text(), model.text())
    }

    fn write(&mut self, record: Record) {
        self.now.apply(&record);
        self.records.push(record);
    }

    /// Several records at once, then waits until all are acknowledged.
    async fn wave(&mut self, log: &mut Log) -> Result<(), std::io::Error> {
        self.settled = self.acknowledged;
        let mut waiting: Vec<Waiting> = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            match self.random.below(20) {
                0 | 1 => {
                    self.term += self.random.below(2);
                    let vote = match self.random.chance(50) {
                        true => Vote::new(self.term, self.random.below(3)),
                        false => Vote::new_committed(self.term, self.random.below(3)),
                    };
                    self.write(Record::Vote(vote));
                    let written = self.records.len();
                    log.save_vote(&vote).await?;
                    self.acknowledged = self.acknowledged.max(written);
                }
                2 => self.truncate(log).await?,
                3 => self.purge(log).await?,
                4 | 5 => {
                    let committed = self.now.log_id(self.now.next_index().saturating_sub(1));
                    if let Some(committed) = committed.filter(|_| self.now.committed != committed) {
                        self.write(Record::Committed(committed));
                        log.save_committed(Some(committed)).await?;
                    }
                }
                _ => waiting.push(self.append(log).await?),
            }
        }
        for (written, receiver) in waiting {
            let told = receiver.await.map_err(|_| std::io::Error::other("an append is never answered"))?;
            told?;
            self.acknowledged = self.acknowledged.max(written);
        }
        Ok(())
    }

    /// The log is cut off at rot that was never decided, nowhere else, and stays so.
    async fn live_superseded(&mut self, seams: &Seams, donors: &Copy) -> Result<Rot, Violation> {
        let intact = &self.now;
        let opened = self.open_with(seams, 0, donors).await;
        let mut log = opened.map_err(|fault| Violation(format!("it is not repaired: {fault}")))?;
        let held = read(&mut log).await?;
        let end = held.next_index();
        let cut = end < intact.next_index();
        let left: BTreeMap<_, _> =
            intact.entries.range(..end).map(|(index, entry)| (*index, *entry)).collect();
        let early = cut && donors.superseded.is_none_or(|from| end < from);
        if early || (held.vote, held.purged, &held.entries) != (intact.vote, intact.purged, &left) {
            let (held, intact, from) = (held.text(), intact.text(), donors.superseded);
            return Err(Violation(format!("cut off from {from:?} on it holds {held}, before {intact}")));
        }
        log.close();
        let opened = self.open(seams, 0).await;
        let mut log = opened.map_err(|fault| Violation(format!("cut off, it does not open: {fault}")))?;
        let again = read(&mut log).await?;
        match again == held {
            true => Ok(Rot::Reported),
            false => Err(Violation(format!("cut off it held {}, then {}", held.text(), again.text()))),
        }
    }

    async fn append(&mut self, log: &mut Log) -> Result<Waiting, std::io::Error> {
        let mut entries = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            let (index, term, id) = (self.now.next_index(), self.term, self.next_id);
            let bytes = self.random.between(16, *self.random.pick(&[20, 600, ENTRY_BYTES_MAX])) as usize;
            self.next_id += 1;
            self.write(Record::Entry { index, term, id, bytes });
            entries.push(entry(index, term, id, bytes));
        }
        let (sender, receiver) = Types::oneshot();
        log.append(entries, IOFlushed::signal(sender)).await?;
        Ok((self.records.len(), receiver))
    }

    /// As a new leader does who disagrees: what follows is of a later term.
    async fn truncate(&mut self, log: &mut Log) -> Result<(), std::io::Error> {
        let (Some(first), next) = (self.now.entries.keys().next().copied(), self.now.next_index()) else {
            return Ok(());
        };
        let from = self.random.between(first, next);
        let last = from.checked_sub(1).map(|last| self.now.log_id(last).or(self.now.purged));
        self.term += 1;
        self.write(Record::Truncate { from });
        log.truncate_after(last.flatten()).await
    }

    async fn purge(&mut self, log: &mut Log) -> Result<(), std::io::Error> {
        let next = self.now.next_index();
        // Beyond the end: what is left after a snapshot of another node was installed.
        let beyond = self.random.chance(5).then(|| log_id(self.term, next + self.random.below(5)));
        let some = self.now.entries.keys().nth(self.random.below(30) as usize).copied();
        let Some(log_id) = beyond.or(some.and_then(|index| self.now.log_id(index))) else { return Ok(()) };
        self.write(Record::Purge(log_id));
        log.purge(log_id).await
    }
}

/// The log as another node has it.
struct Copy {
    entries: BTreeMap<u64, (u64, u64, usize)>,
    /// From this index on it has decided other entries.
    superseded: Option<u64>,
}

#[async_trait]
impl Donors for Copy {
    async fn entry(&self, wanted: LogId) -> Option<Known> {
        if self.superseded.is_some_and(|from| wanted.index >= from) {
            return Some(Known::Superseded);
        }
        let (term, id, bytes) = self.entries.get(&wanted.index)?;
        let entry = Some(entry(wanted.index, *term, *id, *bytes)).filter(|entry| entry.log_id == wanted);
        entry.map(Known::Entry)
    }
}

fn entry(index: u64, term: u64, id: u64, bytes: usize) -> LogEntry {
    let payload = EntryPayload::Normal(Proposal(body::make(id, bytes)));
    LogEntry { log_id: log_id(term, index), payload }
}

/// All a log holds, through the calls that Raft uses.
async fn read(log: &mut Log) -> Result<Held, Violation> {
    let broken = |error: std::io::Error| Violation(format!("the log cannot be read: {error}"));
    let state = log.get_log_state().await.map_err(broken)?;
    let mut held = Held {
        vote: log.read_vote().await.map_err(broken)?,
        committed: log.read_committed().await.map_err(broken)?,
        purged: state.last_purged_log_id,
        entries: BTreeMap::new(),
    };
    for found in log.try_get_log_entries(..).await.map_err(broken)? {
        let EntryPayload::Normal(Proposal(payload)) = &found.payload else {
            return Err(Violation(format!("an entry that nobody wrote: {found:?}")));
        };
        let (index, term, bytes) = (found.log_id.index, found.log_id.leader_id.term, payload.len());
        let id = id_of(payload).ok_or_else(|| Violation(format!("entry {index} has no id")))?;
        if found != entry(index, term, id, bytes) {
            return Err(Violation(format!("entry {index} has other bytes than were written")));
        }
        if !held.entries.is_empty() && held.next_index() != index {
            return Err(Violation(format!("entry {index} follows {}", held.next_index())));
        }
        held.entries.insert(index, (term, id, bytes));
    }
    let last = held.entries.iter().next_back().map(|(index, (term, ..))| log_id(*term, *index));
    if state.last_log_id != last.or(held.purged) {
        return Err(Violation(format!("the last entry is {last:?}, the state says {:?}", state.last_log_id)));
    }
    Ok(held)
}

fn id_of(payload: &Bytes) -> Option<u64> {
    payload.first_chunk::<8>().map(|id| u64::from_le_bytes(*id))
}

impl Held {
    fn text(&self) -> String {
        let (first, last) = (self.entries.first_key_value(), self.entries.last_key_value());
        format!(
            "vote {:?}, committed {:?}, purged {:?}, entries {first:?} to {last:?}",
            self.vote, self.committed, self.purged
        )
    }
}

impl Subject for LogSubject {
    const SUFFIX: Option<&'static str> = Some(".log");
    const CHANGES: &'static [u64] = &[6, 20, 60, 120];

    async fn live(&mut self, seams: &Seams, last: bool) -> Result<Lived, Violation> {
        let dead = || seams.disks.list(Path::new("/")).is_err();
        let mut log = match self.open(seams, 0).await {
            Ok(log) => log,
            Err(_) if dead() => return Ok(Lived::Opening),
            Err(fault) => return Err(Violation(format!("the log does not open: {fault}"))),
        };
        match read(&mut log).await {
            Ok(held) => self.check(held, self.acknowledged)?,
            Err(_) if dead() => return Ok(Lived::Opening),
            Err(violation) => return Err(violation),
        }
        for _ in 0..if last { 0 } else { self.random.below(WAVES_PER_LIFE) } {
            match self.wave(&mut log).await {
                Ok(()) => {}
                Err(_) if dead() => return Ok(Lived::Working),
                Err(error) => return Err(Violation(format!("the log refuses to be written: {error}"))),
            }
            match read(&mut log).await {
                Ok(held) if held == self.now => {}
                Ok(held) => {
                    return Err(Violation(format!("read {}, written {}", held.text(), self.now.text())));
                }
                Err(_) if dead() => return Ok(Lived::Working),
                Err(violation) => return Err(violation),
            }
        }
        Ok(Lived::Working)
    }

    async fn live_rotten(&mut self, seams: &Seams) -> Result<Rot, Violation> {
        let intact = self.now.clone();
        let floor = self.random.below(intact.next_index() + 1);
        match self.open(seams, 0).await {
            Ok(mut log) => {
                self.check(read(&mut log).await?, self.settled)?;
                return Ok(if self.now == intact { Rot::Harmless } else { Rot::Missing });
            }
            Err(LogFault::Io(error)) => {
                return Err(Violation(format!("rot is no fault of the disk: {error}")));
            }
            Err(_reported) => {}
        }
        // With another node's copy all of it is there again, in half of the stories, or all that was ever decided.
        if self.random.chance(50) {
            let mut donors = Copy { entries: intact.entries.clone(), superseded: None };
            if self.random.chance(40) {
                let decided = intact.committed.map_or(0, |committed| committed.index + 1);
                donors.superseded = Some(self.random.between(decided, decided.max(intact.next_index())));
                return self.live_superseded(seams, &donors).await;
            }
            let opened = self.open_with(seams, 0, &donors).await;
            let mut log = opened.map_err(|fault| Violation(format!("it is not repaired: {fault}")))?;
            let held = read(&mut log).await?;
            if (held.vote, held.purged, &held.entries) != (intact.vote, intact.purged, &intact.entries) {
                let (held, intact) = (held.text(), intact.text());
                return Err(Violation(format!("repaired it holds {held}, before it held {intact}")));
            }
            return Ok(Rot::Reported);
        }
        // With a checkpoint: what lies behind it is there in full, or it does not open either.
        if let Ok(mut log) = self.open(seams, floor).await {
            let held = read(&mut log).await?;
            let behind = |held: &Held| held.entries.range(floor..).map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
            if held.vote != intact.vote || behind(&held) != behind(&intact) {
                let why = format!("above the floor {floor} it holds {}, not {}", held.text(), intact.text());
                return Err(Violation(why));
            }
        }
        Ok(Rot::Reported)
    }
}
