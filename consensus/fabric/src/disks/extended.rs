//! A file that is extended ahead of need, in steps that are filled with zeros.
//!
//! A sync after a write into a part that was allocated and written before changes no metadata of the file
//! system: no journal commit, a tenth of the time. So every file that is synced often is written only below
//! [`ExtendedFile::filled_bytes`], and that bound moves in steps, in the background where there is one.
//!
//! A write far beyond that bound is an *island*: it is written where it belongs, with a hole before it, and its
//! sync costs a journal commit. A database that doubles its file likes to begin at the far end of the new half;
//! to fill all of that first would hold its writer up for seconds. When the bound reaches an island it steps
//! over it.
//!
//! Zeros pay where syncs are small. A file that gets megabytes with each sync (*bulk*) would be written twice for a
//! tenth of a sync: there every write beyond the bound is an island, and nothing is filled.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::File;
use crate::env::{Env, TaskHandle, run_blocking};
use crate::limits::MIB;

/// Zeros are written in pieces of this size. Larger ones make large folios in the page cache, and then each
/// later write of 4 KiB costs five times as much.
const FILL_BYTES: usize = 64 << 10;
/// The background syncs after so many bytes, so that no sync of a writer has to carry a whole step.
const FILL_SYNC_BYTES: u64 = 2 * MIB;

/// Bytes of a sync, on average, from which on nothing is filled.
const BULK_SYNC_BYTES: u64 = MIB;

/// A full disk is asked again after this.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// By how much a file is extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// The first time: small, so that a start is quick.
    pub first_bytes: u64,
    /// Each time after.
    pub next_bytes: u64,
}

impl Default for Steps {
    fn default() -> Steps {
        Steps { first_bytes: 16 * MIB, next_bytes: 64 * MIB }
    }
}

/// See the file's head. As a [`File`] its length is what is filled: keep the logical length elsewhere.
pub struct ExtendedFile {
    file: Arc<dyn File>,
    steps: Steps,
    filled_bytes: AtomicU64,
    /// Where the furthest write below the bound since opening ended; one far beyond says nothing of what is used up.
    written_bytes: AtomicU64,
    /// Bytes written since the last sync of a writer.
    unsynced_bytes: AtomicU64,
    /// Bytes of a writer's sync, on average over the last few.
    sync_bytes: AtomicU64,
    /// Where the last island ends, or the bound where there is none.
    end_bytes: AtomicU64,
    /// Whether a task extends ahead, so that writers fill only what they need themselves.
    in_background: AtomicBool,
    /// Taken by whoever extends or cuts, or writes an island.
    islands: Mutex<Islands>,
    /// Taken by whoever syncs; whether a sync failed.
    sync_failed: Mutex<bool>,
    low: Arc<Low>,
}

/// Parts written beyond the bound, with holes between: start → end, apart from each other.
#[derive(Default)]
struct Islands(BTreeMap<u64, u64>);

impl Islands {
    fn start(&self) -> Option<u64> {
        self.0.first_key_value().map(|(start, _)| *start)
    }

    /// Where the last one ends.
    fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// Adds a part; those that it touches become one with it.
    fn add(&mut self, part: Range<u64>) {
        let Range { mut start, mut end } = part;
        while let Some((&other, &other_end)) = self.0.range(..=end).next_back()
            && start <= other_end
        {
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        if start < end {
            self.0.insert(start, end);
        }
    }

    /// Takes the islands out that `bound` has reached; returns where the last of them ends, else `bound`.
    fn step_over(&mut self, mut bound: u64) -> u64 {
        while let Some(island) = self.0.first_entry()
            && *island.key() <= bound
        {
            bound = bound.max(island.remove());
        }
        bound
    }

    /// Forgets what lies at `end` and beyond.
    fn cut(&mut self, end: u64) {
        self.0.split_off(&end);
        if let Some(mut last) = self.0.last_entry() {
            let cut = end.min(*last.get());
            last.insert(cut);
        }
    }
}

/// How writers wake the background.
#[derive(Default)]
struct Low {
    wake: Notify,
    closed: AtomicBool,
}

impl ExtendedFile {
    /// Takes a file as it is; an empty one is extended by the first write.
    pub fn new(file: Arc<dyn File>, steps: Steps) -> io::Result<ExtendedFile> {
        assert!(steps.first_bytes > 0 && steps.next_bytes > 0);
        let mut islands = Islands::default();
        file.data_ranges()?.into_iter().for_each(|range| islands.add(range));
        let filled_bytes = islands.step_over(0);
        Ok(ExtendedFile {
            file,
            steps,
            filled_bytes: AtomicU64::new(filled_bytes),
            written_bytes: AtomicU64::new(0),
            unsynced_bytes: AtomicU64::new(0),
            sync_bytes: AtomicU64::new(0),
            end_bytes: AtomicU64::new(islands.end().max(filled_bytes)),
            in_background: AtomicBool::new(false),
            islands: Mutex::new(islands),
            sync_failed: Mutex::new(false),
            low: Arc::default(),
        })
    }

    /// Up to here writes need no extension.
    pub fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Ordering::Acquire)
    }

    /// What lies beyond here was never written and reads as zero, as far as the file reaches.
    pub fn end_bytes(&self) -> u64 {
        self.end_bytes.load(Ordering::Acquire)
    }

    fn islands(&self) -> MutexGuard<'_, Islands> {
        // Each change is complete before anything can panic.
        self.islands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the bound; to be called with what `islands` has become.
    fn set_filled(&self, filled: u64, islands: &Islands) {
        self.filled_bytes.store(filled, Ordering::Release);
        self.end_bytes.store(islands.end().max(filled), Ordering::Release);
    }

    /// Fills until at least `bytes` are there. Returns at once when they are.
    pub fn ensure(&self, bytes: u64) -> io::Result<()> {
        while self.filled_bytes() < bytes {
            self.fill_some(bytes)?;
        }
        Ok(())
    }

    /// Where the next step ends when `bytes` have to fit.
    fn step_end(&self, bytes: u64) -> u64 {
        let Steps { first_bytes, next_bytes } = self.steps;
        first_bytes + bytes.saturating_sub(first_bytes).div_ceil(next_bytes) * next_bytes
    }

    /// Fills at most [`FILL_SYNC_BYTES`] towards the end of the step that holds `bytes`. In such pieces a
    /// writer that needs the next page waits for a piece and not for a step.
    fn fill_some(&self, bytes: u64) -> io::Result<()> {
        let mut islands = self.islands();
        let filled = self.filled_bytes();
        let target = self.step_end(bytes);
        if !self.file.wants_filling() {
            if filled < target {
                self.file.set_len(target)?;
                self.set_filled(target, &islands);
            }
            return Ok(());
        }
        let end = target.min(filled + FILL_SYNC_BYTES).max(filled);
        let end = islands.start().map_or(end, |island| island.min(end));
        self.write_zeros(filled, end)?;
        let filled = islands.step_over(end);
        self.set_filled(filled, &islands);
        Ok(())
    }

    /// Writes beyond the bound without filling what lies between. Returns whether it did: the bound may have come
    /// near meanwhile.
    fn write_island(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let mut islands = self.islands();
        let end = offset + bytes.len() as u64;
        if !self.is_island(offset, end) {
            return Ok(false);
        }
        self.file.write_at(offset, bytes)?;
        islands.add(offset..end);
        let filled = islands.step_over(self.filled_bytes());
        self.set_filled(filled, &islands);
        if end <= filled {
            self.written_bytes.fetch_max(end, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Whether a write there is left alone: it would have to wait for more than a step to be filled, or it is one of
    /// so many bytes that filling does not pay.
    fn is_island(&self, offset: u64, end: u64) -> bool {
        let filled = self.filled_bytes();
        let far = filled + self.steps.next_bytes < offset;
        filled < end && (far || self.is_bulk()) && self.file.wants_filling()
    }

    fn is_bulk(&self) -> bool {
        self.sync_bytes.load(Ordering::Relaxed) >= BULK_SYNC_BYTES
    }

    /// Cuts what lies beyond the step that holds `bytes`, to give space back to the file system.
    pub fn cut(&self, bytes: u64) -> io::Result<()> {
        let mut islands = self.islands();
        let target = self.step_end(bytes);
        if target < self.end_bytes() {
            // First the bound, so that nobody relies on what is about to go.
            islands.cut(target);
            self.set_filled(self.filled_bytes().min(target), &islands);
            self.file.set_len(target)?;
        }
        Ok(())
    }

    /// Makes everything from `from` on read as zero, where bytes up to `dirty_end` may not be zero now.
    pub fn clear_tail(&self, from: u64, dirty_end: u64) -> io::Result<()> {
        let filled = self.filled_bytes();
        if !self.file.wants_filling() {
            if from < filled {
                self.file.set_len(from)?;
                self.file.set_len(filled)?;
            }
            return Ok(());
        }
        self.write_zeros(from, dirty_end.min(filled))?;
        // Beyond the bound only islands are not zero.
        let mut islands = self.islands();
        let end = from.max(self.filled_bytes());
        if end < dirty_end.min(self.end_bytes()) {
            islands.cut(end);
            self.set_filled(self.filled_bytes(), &islands);
            self.file.set_len(end)?;
        }
        Ok(())
    }

    fn write_zeros(&self, from: u64, end: u64) -> io::Result<()> {
        let zeros = [0; FILL_BYTES];
        let mut position = from;
        while position < end {
            let piece = (end - position).min(FILL_BYTES as u64);
            self.file.write_at(position, &zeros[..piece as usize])?;
            position += piece;
        }
        Ok(())
    }

    /// Whether the next step should be filled now.
    fn is_low(&self) -> bool {
        let filled = self.filled_bytes();
        let left = filled.saturating_sub(self.written_bytes.load(Ordering::Relaxed));
        left < filled.min(self.steps.next_bytes) / 2
    }

    /// Lets a background task fill the next step whenever less than half a step is left beyond the furthest
    /// write. The task ends when the file is dropped.
    pub fn extend_in_background(self: &Arc<Self>, env: &Arc<dyn Env>) -> TaskHandle {
        self.in_background.store(true, Ordering::Relaxed);
        let (file, low, of_task) = (Arc::downgrade(self), self.low.clone(), env.clone());
        env.spawn(
            "extend-file",
            Box::pin(async move {
                loop {
                    low.wake.notified().await;
                    let Some(file) = file.upgrade().filter(|_| !low.closed.load(Ordering::Acquire)) else {
                        return;
                    };
                    // An error is no loss here: the writer that needs the space meets it and can tell.
                    let filled = run_blocking(&*of_task, move || file.fill_step()).await;
                    if let Err(error) = filled {
                        tracing::warn!(%error, "extend a file ahead of need");
                        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    }
                }
            }),
        )
    }

    /// One step more where it is needed, synced in pieces.
    fn fill_step(&self) -> io::Result<()> {
        if !self.is_low() {
            return Ok(());
        }
        let target = self.step_end(self.filled_bytes() + 1);
        while self.filled_bytes() < target {
            self.fill_some(target)?;
            self.sync()?;
        }
        Ok(())
    }

    /// The system tells one caller of a failed sync, once, and forgets: were that the background, a writer would
    /// believe that its bytes are safe. So syncs are one after the other, and after a failed one all fail.
    fn sync(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        let synced = self.file.sync_data();
        *failed = synced.is_err();
        synced
    }
}

impl Drop for ExtendedFile {
    fn drop(&mut self) {
        self.low.closed.store(true, Ordering::Release);
        self.low.wake.notify_one();
    }
}

impl File for ExtendedFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        self.unsynced_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.is_island(offset, end) && self.write_island(offset, bytes)? {
            return Ok(());
        }
        let in_background = self.in_background.load(Ordering::Relaxed);
        if self.filled_bytes() < end {
            self.ensure(if in_background { end } else { self.step_end(end) })?;
        }
        self.written_bytes.fetch_max(end, Ordering::Relaxed);
        if in_background && self.is_low() && !self.is_bulk() {
            self.low.wake.notify_one();
        }
        self.file.write_at(offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.filled_bytes())
    }

    /// Only cuts, to a multiple of the step; [`ExtendedFile::ensure`] extends.
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.ensure(bytes)?;
        self.cut(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        let bytes = self.unsynced_bytes.swap(0, Ordering::Relaxed);
        // Writers of one file sync one after the other; a lost update would only make the average a little older.
        let average = (3 * self.sync_bytes.load(Ordering::Relaxed) + bytes) / 4;
        self.sync_bytes.store(average, Ordering::Relaxed);
        self.sync()
    }

    fn wants_filling(&self) -> bool {
        self.file.wants_filling()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disks::{Disks, MemoryDisks, OpenMode, SystemDisks};
    use crate::env::SystemEnv;

    const STEPS: Steps = Steps { first_bytes: MIB, next_bytes: 8 * MIB };

    fn each_kind(check: impl Fn(Arc<dyn File>)) {
        let directory = tempfile::tempdir().unwrap();
        check(SystemDisks.open(&directory.path().join("file"), OpenMode::New).unwrap());
        let memory = MemoryDisks::new(1 << 30);
        memory.create_dir(Path::new("/")).unwrap();
        check(memory.open(Path::new("/file"), OpenMode::New).unwrap());
    }

    #[test]
    fn grows_in_steps_and_keeps_what_was_written() {
        each_kind(|file| {
            let extended = ExtendedFile::new(file.clone(), STEPS).unwrap();
            assert_eq!(extended.filled_bytes(), 0);
            extended.write_at(0, b"first").unwrap();
            assert_eq!(file.len().unwrap(), MIB);
            extended.write_at(MIB - 2, b"across").unwrap();
            assert_eq!((extended.filled_bytes(), file.len().unwrap()), (9 * MIB, 9 * MIB));
            extended.ensure(9 * MIB + 1).unwrap();
            assert!(extended.filled_bytes() > 9 * MIB);
            extended.cut(MIB + 4).unwrap();
            assert_eq!(file.len().unwrap(), 9 * MIB);

            let mut bytes = [0; 6];
            extended.read_at(MIB - 2, &mut bytes).unwrap();
            assert_eq!(&bytes, b"across");
            extended.clear_tail(MIB, 2 * MIB).unwrap();
            extended.read_at(MIB - 2, &mut bytes).unwrap();
            assert_eq!(&bytes, b"ac\0\0\0\0");
            extended.cut(5).unwrap();
            assert_eq!(file.len().unwrap(), MIB);
            assert_eq!(ExtendedFile::new(file, STEPS).unwrap().filled_bytes(), MIB);
        });
    }

    /// A database doubled its file of 772 MiB and began at the far end of the new half: all of it was filled first,
    /// which held its writer, and every client behind it, up for five seconds.
    #[test]
    fn a_write_far_ahead_leaves_a_hole_that_is_filled_later() {
        let directory = tempfile::tempdir().unwrap();
        let file = SystemDisks.open(&directory.path().join("file"), OpenMode::New).unwrap();
        let extended = ExtendedFile::new(file.clone(), STEPS).unwrap();
        extended.write_at(0, b"first").unwrap();
        extended.write_at(40 * MIB, b"far").unwrap();
        extended.write_at(40 * MIB + 3, b"ther").unwrap();
        assert_eq!((extended.filled_bytes(), extended.end_bytes()), (MIB, 40 * MIB + 7));
        assert!(!extended.is_low(), "nothing of the hole is needed yet");

        // What is there is known again, to the block.
        let again = ExtendedFile::new(file.clone(), STEPS).unwrap();
        assert_eq!((again.filled_bytes(), again.end_bytes()), (MIB, 40 * MIB + 7));
        assert_eq!(file.data_ranges().unwrap(), [0..MIB, 40 * MIB..40 * MIB + 7]);

        extended.ensure(40 * MIB + 1).unwrap();
        assert!(extended.filled_bytes() >= 40 * MIB + 7);
        let mut bytes = [9; 9];
        extended.read_at(40 * MIB - 2, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0farther");

        again.cut(MIB).unwrap();
        assert_eq!((again.end_bytes(), file.len().unwrap()), (MIB, MIB));
        again.write_at(30 * MIB, b"lost").unwrap();
        again.clear_tail(MIB, 40 * MIB).unwrap();
        assert_eq!((again.end_bytes(), file.len().unwrap()), (MIB, MIB));
    }

    #[test]
    fn what_comes_in_bulk_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = SystemDisks.open(&directory.path().join("file"), OpenMode::New).unwrap();
        let extended = Arc::new(ExtendedFile::new(file, STEPS).unwrap());
        let mut offset = 0;
        let mut write = |bytes: usize| {
            extended.write_at(offset, &vec![7; bytes]).unwrap();
            extended.sync_data().unwrap();
            offset += bytes as u64;
            extended.filled_bytes() - offset
        };
        assert_eq!([write(4 << 10), write(5 << 20)], [MIB - (4 << 10), 4 * MIB - (4 << 10)]);
        let bulk = [write(5 << 20), write(5 << 20), write(4 << 10)];
        assert_eq!(bulk, [0; 3], "nothing is filled");
        let small: Vec<u64> = (0..20).map(|_| write(4 << 10)).collect();
        assert!(small.last() > Some(&0), "and filled again where syncs are small: {small:?}");
        let mut bytes = vec![0; offset as usize];
        extended.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn islands_that_touch_are_one() {
        let mut islands = Islands::default();
        for part in [10..20, 40..50, 20..30, 60..60, 45..70, 5..12] {
            islands.add(part);
        }
        assert_eq!(islands.0, BTreeMap::from([(5, 30), (40, 70)]));
        islands.cut(65);
        assert_eq!((islands.start(), islands.end()), (Some(5), 65));
        assert_eq!(islands.step_over(4), 4);
        assert_eq!(islands.step_over(5), 30);
        islands.cut(40);
        assert_eq!((islands.start(), islands.end()), (None, 0));
    }

    /// Fails the first sync, as a disk does that lost a write.
    struct FailsOnce(Arc<dyn File>, AtomicBool);

    impl File for FailsOnce {
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
            if self.1.swap(false, Ordering::Relaxed) { Err(io::Error::other("lost a write")) } else { Ok(()) }
        }
    }

    #[test]
    fn a_sync_that_failed_is_not_forgotten() {
        each_kind(|file| {
            let file = Arc::new(FailsOnce(file, AtomicBool::new(true)));
            let extended = ExtendedFile::new(file, STEPS).unwrap();
            extended.write_at(0, &[1; 700 << 10]).unwrap();
            assert!(extended.fill_step().is_err());
            assert!(extended.sync_data().is_err());
            assert!(extended.sync_data().is_err());
        });
    }

    #[tokio::test]
    async fn the_background_fills_ahead_and_ends_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = SystemDisks.open(&directory.path().join("file"), OpenMode::New).unwrap();
        let extended = Arc::new(ExtendedFile::new(file, STEPS).unwrap());
        let env: Arc<dyn Env> = Arc::new(SystemEnv::default());
        extended.extend_in_background(&env);
        extended.write_at(0, &[1; 700 << 10]).unwrap();
        while extended.filled_bytes() < 9 * MIB {
            tokio::task::yield_now().await;
        }
        let alive = Arc::downgrade(&extended.low);
        drop(extended);
        while alive.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
