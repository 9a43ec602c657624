//! A file that is extended ahead of need, in steps that are filled with zeros.
//!
//! A sync after a write into a part that was allocated and written before changes no metadata of the file
//! system: no journal commit, a tenth of the time. So every file that is synced often is written only below
//! [`ExtendedFile::filled_bytes`], and that bound moves in steps, in the background where there is one.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Where the furthest write since opening ended.
    written_bytes: AtomicU64,
    /// Whether a task extends ahead, so that writers fill only what they need themselves.
    in_background: AtomicBool,
    /// Taken by whoever extends or cuts.
    extending: Mutex<()>,
    /// Taken by whoever syncs; whether a sync failed.
    sync_failed: Mutex<bool>,
    low: Arc<Low>,
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
        let filled_bytes = AtomicU64::new(file.len()?);
        Ok(ExtendedFile {
            file,
            steps,
            filled_bytes,
            written_bytes: AtomicU64::new(0),
            in_background: AtomicBool::new(false),
            extending: Mutex::default(),
            sync_failed: Mutex::new(false),
            low: Arc::default(),
        })
    }

    /// Up to here writes need no extension.
    pub fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Ordering::Acquire)
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
        let _extending = self.extending.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = self.filled_bytes();
        let target = self.step_end(bytes);
        if !self.file.wants_filling() {
            if filled < target {
                self.file.set_len(target)?;
                self.filled_bytes.store(target, Ordering::Release);
            }
            return Ok(());
        }
        let end = target.min(filled + FILL_SYNC_BYTES).max(filled);
        self.write_zeros(filled, end)?;
        self.filled_bytes.store(end, Ordering::Release);
        Ok(())
    }

    /// Cuts what lies beyond the step that holds `bytes`, to give space back to the file system.
    pub fn cut(&self, bytes: u64) -> io::Result<()> {
        let _extending = self.extending.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.step_end(bytes);
        if target < self.filled_bytes() {
            // First the bound, so that nobody relies on what is about to go.
            self.filled_bytes.store(target, Ordering::Release);
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
        self.write_zeros(from, dirty_end.min(filled))
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
        let in_background = self.in_background.load(Ordering::Relaxed);
        if self.filled_bytes() < end {
            self.ensure(if in_background { end } else { self.step_end(end) })?;
        }
        self.written_bytes.fetch_max(end, Ordering::Relaxed);
        if in_background && self.is_low() {
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
