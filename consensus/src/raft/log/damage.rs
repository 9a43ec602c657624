//! What is damaged in a log, and how it is made whole.
//!
//! Only what certainly stood there is written: bytes that follow from their surroundings, and entries of exactly
//! the log ids that are missing, which are the same on every node that has them. Each place is written by itself
//! and synced before the log is read anew; what a crash leaves of a repair is damage like the one before.

use std::io;

use super::LogFault;
use super::record::{Batch, HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, Record};
use super::segment::Segment;
use crate::raft::types::{LogEntry, LogId};

/// A longer run of bytes without a header is not filled.
pub(super) const GAP_BYTES_MAX: u64 = 4 << 20;

/// See the file's head.
#[derive(Default)]
pub(super) struct Damage {
    pub patches: Vec<Patch>,
    pub lost: Vec<Lost>,
    pub gaps: Vec<Gap>,
}

/// Bytes that are known.
pub(super) struct Patch {
    pub segment: Segment,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// An entry whose header is intact and whose payload is not.
pub(super) struct Lost {
    pub segment: Segment,
    pub header: Header,
    pub log_id: LogId,
}

/// A run of bytes in which no header can be made out.
pub(super) struct Gap {
    pub segment: Segment,
    pub from: u64,
    pub to: u64,
    pub batch: u64,
    /// Whether the batch ended with it.
    pub last: bool,
    pub votes: u16,
    /// Entries that stood in it and are needed.
    pub entries: Vec<LogId>,
    /// It was one record: entries from this index on are gone.
    pub truncation: Option<u64>,
}

impl Damage {
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty() && self.lost.is_empty() && self.gaps.is_empty()
    }

    /// The entry that is needed first, where it stood.
    pub fn first_wanted(&self) -> Option<LogFault> {
        let lost = self.lost.iter().map(|lost| (lost.log_id.index, &lost.segment, lost.header.offset));
        let gaps =
            self.gaps.iter().filter_map(|gap| Some((gap.entries.first()?.index, &gap.segment, gap.from)));
        let first = lost.chain(gaps).min_by_key(|(index, ..)| *index);
        first.map(|(index, segment, offset)| LogFault::Rot { index, segment: segment.number, offset })
    }
}

impl Patch {
    pub fn write(&self) -> io::Result<()> {
        self.segment.file.write_at(self.offset, &self.bytes)?;
        self.segment.file.sync_data()
    }
}

impl Lost {
    /// Where the payload goes, if this is the entry that stood here.
    pub fn patch(&self, entry: &LogEntry) -> Option<Patch> {
        let payload = Record::entry(entry).payload;
        let same = entry.log_id == self.log_id && self.header.matches(&payload);
        let offset = self.header.offset + HEADER_BYTES as u64;
        same.then(|| Patch { segment: self.segment.clone(), offset, bytes: payload })
    }

    pub fn fault(&self) -> LogFault {
        let (segment, offset) = (self.segment.number, self.header.offset);
        LogFault::Rot { index: self.log_id.index, segment, offset }
    }
}

impl Gap {
    pub fn bytes(&self) -> u64 {
        self.to - self.from
    }

    /// The records that stood here, if these are its entries: they have to fit. What is left of it held marks.
    pub fn patch(&self, entries: Vec<(LogId, Record)>) -> Option<Patch> {
        let as_asked = entries.iter().map(|(log_id, _)| log_id).eq(&self.entries);
        let mut records: Vec<Record> = entries.into_iter().map(|(_, record)| record).collect();
        if let Some(from) = self.truncation {
            records.push(Record::bare(Kind::Truncate, from));
        }
        let left = self.bytes().checked_sub(records.iter().map(Record::bytes).sum())?;
        let possible =
            left == 0 || (HEADER_BYTES..=HEADER_BYTES + PAYLOAD_BYTES_MAX).contains(&(left as usize));
        if !possible || !as_asked {
            return None;
        }
        if left > 0 {
            records.push(Record::filler(left));
        }
        let mut bytes = Vec::with_capacity(self.bytes() as usize);
        for (place, record) in records.iter().enumerate() {
            let last = self.last && place + 1 == records.len();
            let batch = Batch { number: self.batch, last, votes: self.votes };
            record.write(&mut bytes, self.from, self.segment.number, batch);
        }
        Some(Patch { segment: self.segment.clone(), offset: self.from, bytes })
    }

    pub fn fault(&self, index: u64) -> LogFault {
        LogFault::Rot { index, segment: self.segment.number, offset: self.from }
    }
}
