//! A file with a logical length of its own over an [`ExtendedFile`]: what a database needs whose layout must
//! agree with the length of its file, while the file is extended ahead of it.
//!
//! In front lies a header of [`HEADER_BYTES`] with two slots, written in turn, each with a sequence number, the
//! length and a CRC. A sync writes the slot that is older and then syncs once, so the other slot was synced
//! before and is whole whatever happens. As with a plain file, a length is durable once a sync returned, and
//! bytes beyond an earlier length read as zero when the file grows again.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{ExtendedFile, File, Steps};
use crate::codec::crc32c;

/// Bytes in front of the contents: a page, so that pages of the contents stay pages of the file.
pub const HEADER_BYTES: u64 = 4096;

/// Slots lie in sectors of their own.
const SLOT_OFFSETS: [u64; 2] = [0, 2048];
/// Magic (8) · sequence (8) · length (8) · CRC-32C of the three (4), little endian.
const SLOT_BYTES: usize = 28;
const MAGIC: [u8; 8] = *b"FluffyL1";

/// See the file's head.
pub struct LengthFile {
    file: Arc<ExtendedFile>,
    length: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// Of the newest slot; 0 when none was ever written.
    sequence: u64,
    /// The length in the newest slot.
    recorded: u64,
    /// Bytes of the file between the end of the contents and here may not be zero.
    dirty_end: u64,
}

impl LengthFile {
    /// Opens the contents of `file`; of an empty file the length is 0.
    pub fn open(file: Arc<dyn File>, steps: Steps) -> io::Result<LengthFile> {
        let file = Arc::new(ExtendedFile::new(file, steps)?);
        if file.filled_bytes() > 0 {
            // A slot that a killed process left in the page cache is not durable yet. Were it taken for that, the
            // next slot would overwrite the only durable one.
            file.sync_data()?;
        }
        let (sequence, length) = read_header(&file)?;
        // What unsynced writes left behind the contents before a crash is not known.
        let dirty_end = file.end_bytes();
        let state = Mutex::new(State { sequence, recorded: length, dirty_end });
        Ok(LengthFile { file, length: AtomicU64::new(length), state })
    }

    /// What lies below, for [`ExtendedFile::extend_in_background`].
    pub fn extended(&self) -> &Arc<ExtendedFile> {
        &self.file
    }

    /// Bytes that are not filled yet, below where the contents end when they grow by so many.
    pub fn missing(&self, bytes: u64) -> u64 {
        let end = HEADER_BYTES + self.length.load(Ordering::Acquire) + bytes;
        end.saturating_sub(self.file.filled_bytes())
    }

    /// Slot and sync; then gives back the space that a shrunk file does not need.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let length = self.length.load(Ordering::Acquire);
        if length == state.recorded {
            return self.file.sync_data();
        }
        let sequence = state.sequence + 1;
        self.file.write_at(SLOT_OFFSETS[(sequence % 2) as usize], &encode_slot(sequence, length))?;
        self.file.sync_data()?;
        state.sequence = sequence;
        let shrunk = length < state.recorded;
        state.recorded = length;
        if shrunk {
            self.file.cut(HEADER_BYTES + length)?;
            state.dirty_end = state.dirty_end.min(self.file.end_bytes());
        }
        Ok(())
    }
}

fn encode_slot(sequence: u64, length: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&sequence.to_le_bytes());
    slot[16..24].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c(&[&slot[..24]]);
    slot[24..].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// Sequence and length, where the slot is whole.
fn decode_slot(slot: &[u8; SLOT_BYTES]) -> Option<(u64, u64)> {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&slot[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (sequence, length) = (number(8), number(16));
    (*slot == encode_slot(sequence, length)).then_some((sequence, length))
}

fn read_header(file: &ExtendedFile) -> io::Result<(u64, u64)> {
    if file.filled_bytes() < HEADER_BYTES {
        return Ok((0, 0)); // Made and never synced.
    }
    let mut newest = None;
    let mut blank = true;
    for offset in SLOT_OFFSETS {
        let mut slot = [0; SLOT_BYTES];
        file.read_at(offset, &mut slot)?;
        blank &= slot == [0; SLOT_BYTES];
        newest = newest.max(decode_slot(&slot));
    }
    match newest {
        Some(found) => Ok(found),
        None if blank => Ok((0, 0)), // Extended and never synced.
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the length of the file is rotten in both places"))
        }
    }
}

impl File for LengthFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(into.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if end > self.length.load(Ordering::Acquire) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The contents may be longer than what was ever written, with zeros.
        let there = self.file.end_bytes().saturating_sub(HEADER_BYTES + offset).min(into.len() as u64);
        let (stored, beyond) = into.split_at_mut(there as usize);
        beyond.fill(0);
        if stored.is_empty() { Ok(()) } else { self.file.read_at(HEADER_BYTES + offset, stored) }
    }

    /// Only below the length.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if end > self.length.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a write beyond the length of the file"));
        }
        self.file.write_at(HEADER_BYTES + offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.length.load(Ordering::Acquire))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.length.load(Ordering::Acquire);
        let end_of = |length: u64| length.checked_add(HEADER_BYTES).ok_or(io::ErrorKind::InvalidInput);
        let (now_end, new_end) = (end_of(now)?, end_of(bytes)?);
        if new_end < now_end {
            state.dirty_end = state.dirty_end.max(now_end.min(self.file.end_bytes()));
        } else if now_end < state.dirty_end && now_end < new_end {
            self.file.clear_tail(now_end, state.dirty_end)?;
            state.dirty_end = 0;
        }
        self.length.store(bytes, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use proptest::prelude::{Just, Strategy, prop, prop_oneof};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::disks::{Disks, MemoryDisks, OpenMode, SystemDisks};

    const STEPS: Steps = Steps { first_bytes: 1 << 20, next_bytes: 1 << 20 };

    fn each_kind(check: impl Fn(Arc<dyn File>)) {
        let directory = tempfile::tempdir().unwrap();
        check(SystemDisks.open(&directory.path().join("file"), OpenMode::New).unwrap());
        let memory = MemoryDisks::new(1 << 30);
        memory.create_dir(Path::new("/")).unwrap();
        check(memory.open(Path::new("/file"), OpenMode::New).unwrap());
    }

    fn read(file: &LengthFile, offset: u64) -> [u8; 4] {
        let mut bytes = [9; 4];
        file.read_at(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn length_and_contents_survive_and_regrown_bytes_are_zero() {
        each_kind(|below| {
            let file = LengthFile::open(below.clone(), STEPS).unwrap();
            assert_eq!(file.len().unwrap(), 0);
            assert!(file.write_at(0, b"x").is_err());
            file.set_len(3 << 20).unwrap();
            assert_eq!((read(&file, (3 << 20) - 4), file.extended().filled_bytes()), ([0; 4], 0));
            file.write_at(1000, b"data").unwrap();
            file.write_at(2 << 20, b"tail").unwrap();
            file.sync_data().unwrap();

            let again = LengthFile::open(below.clone(), STEPS).unwrap();
            assert_eq!((again.len().unwrap(), read(&again, 1000)), (3 << 20, *b"data"));
            again.set_len(1002).unwrap();
            again.set_len(3 << 20).unwrap();
            assert_eq!((read(&again, 1000), read(&again, 2 << 20)), (*b"da\0\0", [0; 4]));
            again.set_len(1 << 20).unwrap();
            again.sync_data().unwrap();
            assert!(below.len().unwrap() <= 2 << 20);
            assert_eq!(LengthFile::open(below, STEPS).unwrap().len().unwrap(), 1 << 20);
        });
    }

    #[test]
    fn an_unsynced_length_is_the_earlier_one_and_a_rotten_slot_is_survived_once() {
        each_kind(|below| {
            let file = LengthFile::open(below.clone(), STEPS).unwrap();
            for length in [4096, 8192] {
                file.set_len(length).unwrap();
                file.sync_data().unwrap();
            }
            file.set_len(12288).unwrap();
            let reopened = || LengthFile::open(below.clone(), STEPS);
            assert_eq!(reopened().unwrap().len().unwrap(), 8192);
            below.write_at(SLOT_OFFSETS[0] + 20, &[1]).unwrap();
            assert_eq!(reopened().unwrap().len().unwrap(), 4096);
            below.write_at(SLOT_OFFSETS[1] + 3, &[1]).unwrap();
            assert_eq!(reopened().err().unwrap().kind(), io::ErrorKind::InvalidData);
        });
    }

    /// A process that is killed leaves its slot in the page cache, unsynced. The next one overwrote the other
    /// slot, the only durable one; a power cut in between left neither, and the file never opened again.
    #[test]
    fn what_it_finds_is_durable_before_it_is_believed() {
        let memory = MemoryDisks::new(1 << 30);
        memory.create_dir(Path::new("/")).unwrap();
        let below = Arc::new(CountsSyncs(memory.open(Path::new("/file"), OpenMode::New).unwrap(), 0.into()));
        LengthFile::open(below.clone(), STEPS).unwrap().extended().ensure(1).unwrap();
        assert_eq!(below.1.load(Ordering::Relaxed), 0);
        LengthFile::open(below.clone(), STEPS).unwrap();
        assert_eq!(below.1.load(Ordering::Relaxed), 1);
    }

    struct CountsSyncs(Arc<dyn File>, AtomicU64);

    impl File for CountsSyncs {
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, into)
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, bytes)
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn set_len(&self, bytes: u64) -> io::Result<()> {
            self.0.set_len(bytes)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.sync_data()
        }
    }

    #[test]
    fn slot_golden_bytes() {
        let slot = encode_slot(0x0102, 0x0A0B_0C0D);
        assert_eq!(hex::encode(&slot[..24]), "466c756666794c3102010000000000000d0c0b0a00000000");
        assert_eq!(decode_slot(&slot), Some((0x0102, 0x0A0B_0C0D)));
    }

    /// Disks in memory that want to be filled like real ones.
    struct Filling(Arc<dyn File>);

    impl File for Filling {
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, into)
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, bytes)
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn set_len(&self, bytes: u64) -> io::Result<()> {
            self.0.set_len(bytes)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        SetLen(usize),
        Write(usize, usize),
        Sync,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..200_000usize).prop_map(Step::SetLen),
            4 => (0..200_000usize, 1..20_000usize).prop_map(|(at, bytes)| Step::Write(at, bytes)),
            1 => Just(Step::Sync),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        /// It behaves as a plain file does.
        #[test]
        fn it_reads_as_a_model_in_memory(steps in prop::collection::vec(step(), 1..40), filling: bool) {
            let memory = MemoryDisks::new(1 << 30);
            memory.create_dir(Path::new("/")).unwrap();
            let below = memory.open(Path::new("/file"), OpenMode::New).unwrap();
            let below: Arc<dyn File> = if filling { Arc::new(Filling(below)) } else { below };
            let small = Steps { first_bytes: 10_000, next_bytes: 30_000 };
            let mut file = LengthFile::open(below.clone(), small).unwrap();
            let mut model: Vec<u8> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::SetLen(length) => {
                        file.set_len(length as u64).unwrap();
                        model.resize(length, 0);
                    }
                    Step::Write(at, bytes) => {
                        let bytes = vec![number as u8 + 1; bytes];
                        let written = file.write_at(at as u64, &bytes);
                        prop_assert_eq!(written.is_ok(), at + bytes.len() <= model.len());
                        if written.is_ok() {
                            model[at..at + bytes.len()].copy_from_slice(&bytes);
                        }
                    }
                    Step::Sync => file.sync_data().unwrap(),
                    Step::Reopen => {
                        file.sync_data().unwrap();
                        file = LengthFile::open(below.clone(), small).unwrap();
                    }
                }
                let mut all = vec![9; file.len().unwrap() as usize];
                file.read_at(0, &mut all).unwrap();
                prop_assert!(all == model);
            }
        }
    }
}
