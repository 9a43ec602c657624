//! One record of the log: a header of 72 bytes and a payload, each with its own checksum.
//!
//! Both checksums cover the segment number and the offset, so that bytes written to or read from a wrong place
//! never pass. The header survives a rotten payload: it says which entry is lost and where the next record is.
//! The layout is stored: append only.

use fabric::codec::{self, crc32c};

use crate::raft::types::{LogEntry, LogId, Vote};

/// Version of encoded payloads.
pub(super) const FORMAT: u8 = 1;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 72;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
const MAGIC: u32 = 0x464C_5547;
/// No payload is longer: an entry of [`fabric::limits::ENTRY_BYTES_MAX`] with room for its envelope.
pub(super) const PAYLOAD_BYTES_MAX: usize = fabric::limits::ENTRY_BYTES_MAX + (64 << 10);
const LAST_OF_BATCH: u8 = 1;
/// Among few bits, the one that makes the checksum right is the one that was flipped.
const MENDED_PAYLOAD_BYTES_MAX: usize = 64;

/// What a record says. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry; term, leader and index are its log id.
    Entry = 1,
    /// The vote.
    Vote = 2,
    /// The committed log id at that time; a hint.
    Committed = 3,
    /// Entries from `index` on are gone.
    Truncate = 4,
    /// Entries up to the log id (term, leader, index) are gone.
    Purge = 5,
    /// The log was opened. A batch of its own, so that no other batch follows a torn one directly.
    Open = 6,
    /// First of a segment: `index` is where the records of the segment before it ended.
    Head = 7,
    /// Says nothing: stands where a repair found no more of what had been there.
    Filler = 8,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        const KINDS: [Kind; 8] = [
            Kind::Entry,
            Kind::Vote,
            Kind::Committed,
            Kind::Truncate,
            Kind::Purge,
            Kind::Open,
            Kind::Head,
            Kind::Filler,
        ];
        KINDS.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Where in the log a record is and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    /// Whether the batch ends with it.
    pub last_of_batch: bool,
    /// How many votes were written up to here, this record included, modulo 2^16: so it shows whether there was
    /// one in a place that cannot be read any more.
    pub votes: u16,
    pub segment: u64,
    pub offset: u64,
    /// Ascending; a batch is what was synced together.
    pub batch: u64,
    pub term: u64,
    /// Raft id of the leader of the term.
    pub leader: u64,
    pub index: u64,
    pub payload_bytes: u32,
    pub payload_crc: u32,
}

impl Header {
    /// Bytes from the begin of this record to the begin of the next.
    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.payload_bytes as usize)
    }

    /// The header in `bytes`, if it is one and stands where it says.
    pub fn decode(bytes: &[u8], segment: u64, offset: u64) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC || u32_at(64) != crc32c(&[&bytes[..64]]) {
            return None;
        }
        let header = Header {
            kind: Kind::from_number(bytes[4])?,
            last_of_batch: bytes[5] & LAST_OF_BATCH != 0,
            votes: u16::from_le_bytes([bytes[6], bytes[7]]),
            segment: u64_at(8),
            offset: u64_at(16),
            batch: u64_at(24),
            term: u64_at(32),
            leader: u64_at(40),
            index: u64_at(48),
            payload_bytes: u32_at(56),
            payload_crc: u32_at(60),
        };
        let here = header.segment == segment && header.offset == offset;
        (here && header.payload_bytes as usize <= PAYLOAD_BYTES_MAX).then_some(header)
    }

    /// The header that stood here, where what is damaged of it follows from its place, or is a single bit. To be
    /// asked only where one must have been.
    pub fn mend(bytes: &[u8], segment: u64, offset: u64) -> Option<Header> {
        let mut bytes: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&segment.to_le_bytes());
        bytes[16..24].copy_from_slice(&offset.to_le_bytes());
        let as_it_is = Header::decode(&bytes, segment, offset);
        as_it_is.or_else(|| one_bit_other(&mut bytes, |bytes| Header::decode(bytes, segment, offset)))
    }

    /// The payload that stood here, where a single bit of it is damaged: for the short ones that nobody else has.
    pub fn mend_payload(&self, payload: &[u8]) -> Option<Vec<u8>> {
        if payload.len() > MENDED_PAYLOAD_BYTES_MAX {
            return None;
        }
        one_bit_other(&mut payload.to_vec(), |payload| self.matches(payload).then(|| payload.to_vec()))
    }

    /// Whether `payload` is what was written behind this header.
    pub fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes as usize
            && payload_crc(self.segment, self.offset, payload) == self.payload_crc
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = if self.last_of_batch { LAST_OF_BATCH } else { 0 };
        bytes[6..8].copy_from_slice(&self.votes.to_le_bytes());
        let numbers = [self.segment, self.offset, self.batch, self.term, self.leader, self.index];
        for (place, number) in numbers.into_iter().enumerate() {
            bytes[8 + 8 * place..16 + 8 * place].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..60].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c(&[&bytes[..64]]);
        bytes[64..68].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// What a record says about the batch it is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub number: u64,
    /// Whether it ends with this record.
    pub last: bool,
    /// See [`Header::votes`].
    pub votes: u16,
}

/// A record before it has a place.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub kind: Kind,
    pub term: u64,
    pub leader: u64,
    pub index: u64,
    pub payload: Vec<u8>,
}

impl Record {
    /// A record that says only where.
    pub fn bare(kind: Kind, index: u64) -> Record {
        Record { kind, term: 0, leader: 0, index, payload: Vec::new() }
    }

    /// A record about a log id.
    pub fn mark(kind: Kind, log_id: LogId) -> Record {
        let leader = log_id.leader_id;
        Record { kind, term: leader.term, leader: leader.node_id, index: log_id.index, payload: Vec::new() }
    }

    /// The vote.
    pub fn vote(vote: &Vote) -> Record {
        Record { payload: codec::encode(FORMAT, vote), ..Record::bare(Kind::Vote, 0) }
    }

    /// The committed log id.
    pub fn committed(committed: &LogId) -> Record {
        Record { payload: codec::encode(FORMAT, committed), ..Record::bare(Kind::Committed, 0) }
    }

    /// An entry.
    pub fn entry(entry: &LogEntry) -> Record {
        Record { payload: codec::encode(FORMAT, entry), ..Record::mark(Kind::Entry, entry.log_id) }
    }

    /// Bytes it takes in a segment.
    pub fn bytes(&self) -> u64 {
        record_bytes(self.payload.len())
    }

    /// Nothing, in so many bytes, header included.
    pub fn filler(bytes: u64) -> Record {
        let payload = vec![0; bytes as usize - HEADER_BYTES];
        Record { payload, ..Record::bare(Kind::Filler, 0) }
    }

    /// Appends the record to `buffer`, whose first byte lies at `base` of the segment. Returns its offset.
    pub fn write(&self, buffer: &mut Vec<u8>, base: u64, segment: u64, batch: Batch) -> u64 {
        assert!(self.payload.len() <= PAYLOAD_BYTES_MAX, "oversize is refused before it is proposed");
        let offset = base + buffer.len() as u64;
        let header = Header {
            kind: self.kind,
            last_of_batch: batch.last,
            votes: batch.votes,
            segment,
            offset,
            batch: batch.number,
            term: self.term,
            leader: self.leader,
            index: self.index,
            payload_bytes: self.payload.len() as u32,
            payload_crc: payload_crc(segment, offset, &self.payload),
        };
        buffer.extend_from_slice(&header.encode());
        buffer.extend_from_slice(&self.payload);
        buffer.resize((offset + self.bytes() - base) as usize, 0);
        offset
    }
}

/// What `wanted` makes of the bytes with one bit flipped, for the first bit with which it makes anything.
fn one_bit_other<T>(bytes: &mut [u8], wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Some(found) = wanted(bytes) {
            return Some(found);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

fn record_bytes(payload_bytes: usize) -> u64 {
    ((HEADER_BYTES + payload_bytes) as u64).next_multiple_of(ALIGNMENT)
}

fn payload_crc(segment: u64, offset: u64, payload: &[u8]) -> u32 {
    crc32c(&[&segment.to_le_bytes(), &offset.to_le_bytes(), payload])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn batch(number: u64, last: bool) -> Batch {
        Batch { number, last, votes: 0 }
    }

    fn record() -> Record {
        Record { kind: Kind::Entry, term: 3, leader: 9, index: 77, payload: b"payload".to_vec() }
    }

    #[test]
    fn a_record_is_valid_only_where_it_was_written() {
        let mut buffer = Vec::new();
        let offset = record().write(&mut buffer, 4096, 5, batch(8, true));
        let header = Header::decode(&buffer, 5, offset).unwrap();
        assert_eq!((header.index, header.batch, header.last_of_batch), (77, 8, true));
        assert_eq!(buffer.len() as u64, header.record_bytes());
        assert!(header.matches(&buffer[HEADER_BYTES..HEADER_BYTES + 7]));
        assert_eq!(Header::decode(&buffer, 6, offset), None);
        assert_eq!(Header::decode(&buffer, 5, offset + 8), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut good = Vec::new();
        record().write(&mut good, 0, 1, batch(1, false));
        for bit in 0..(HEADER_BYTES + 7) * 8 {
            if (68 * 8..72 * 8).contains(&bit) {
                continue; // Padding of the header.
            }
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let header = Header::decode(&bytes, 1, 0);
            let intact = header.is_some_and(|header| header.matches(&bytes[HEADER_BYTES..HEADER_BYTES + 7]));
            assert!(!intact, "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_or_a_short_payload_is_mended() {
        let mut good = Vec::new();
        record().write(&mut good, 16, 1, Batch { number: 1, last: true, votes: 5 });
        let header = Header::decode(&good, 1, 16).unwrap();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::mend(&bytes, 1, 16), Some(header), "bit {bit}");
        }
        for bit in 0..7 * 8 {
            let mut payload = good[HEADER_BYTES..HEADER_BYTES + 7].to_vec();
            payload[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(header.mend_payload(&payload).unwrap(), b"payload");
        }
        // More is not guessed at.
        let mut bytes = good.clone();
        bytes[60] ^= 3;
        bytes[40] ^= 9;
        assert_eq!(Header::mend(&bytes, 1, 16), None);
        assert_eq!(Header::mend(&[0; HEADER_BYTES], 1, 16), None);
    }

    #[test]
    fn golden_header() {
        let mut bytes = Vec::new();
        record().write(&mut bytes, 16, 2, batch(4, true));
        let text = hex::encode(&bytes);
        assert_eq!(
            &text[..112],
            concat!(
                "47554c4601010000",
                "0200000000000000",
                "1000000000000000",
                "0400000000000000",
                "0300000000000000",
                "0900000000000000",
                "4d00000000000000",
            )
        );
    }
}
