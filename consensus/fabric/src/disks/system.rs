//! The real disks.
#![allow(clippy::disallowed_methods)] // This file implements the seam.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::{Disks, File, OpenMode, Space};
use crate::limits::DATA_RANGES_MAX;

/// The file in a data directory whose lock says that a process uses it.
const LOCK_NAME: &str = "lock";

/// Writes of at least so many bytes go past the page cache …
const DIRECT_BYTES_MIN: usize = 256 << 10;
/// … in pieces of at most so many …
const DIRECT_PIECE_BYTES: usize = 1 << 20;
/// … where they begin and end with a page.
const DIRECT_ALIGNMENT: usize = 4096;

/// Bound of what [`read_whole`] reads.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The production [`Disks`].
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemDisks;

impl Disks for SystemDisks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).create_new(mode == OpenMode::New);
        let opened = options.open(path).or_else(|error| match (error.kind(), mode) {
            // A certificate of somebody else's keeping may be for reading only.
            (io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem, OpenMode::Existing) => {
                OpenOptions::new().read(true).open(path)
            }
            _ => Err(error),
        });
        let file = opened.map_err(|error| name(error, path))?;
        Ok(Arc::new(SystemFile { file, direct: Mutex::new(Direct::Untried) }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| name(error, directory))? {
            // A name that is no text is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.retain(|name| name != LOCK_NAME);
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| name(error, directory))?;
        for created in missing {
            let parent = created.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|error| name(error, from))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|error| name(error, path))
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        fs::File::open(directory).and_then(|opened| opened.sync_all()).map_err(|error| name(error, directory))
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        // What is kept back for the superuser is nobody's.
        let used = found.f_blocks.saturating_sub(found.f_bfree);
        Ok(Space { free_bytes: bytes(found.f_bavail), total_bytes: bytes(used + found.f_bavail) })
    }

    fn lock(&self, directory: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let path = directory.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|error| name(error, &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => {
                let why = format!("another process uses {}", directory.display());
                Err(io::Error::new(io::ErrorKind::WouldBlock, why))
            }
            Err(TryLockError::Error(error)) => Err(name(error, &path)),
        }
    }
}

/// Adds the path, which the system leaves out.
fn name(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

struct SystemFile {
    file: fs::File,
    /// Taken for a large write.
    direct: Mutex<Direct>,
}

/// The same file past the page cache. What is written in megabytes is seldom read before it has left that cache, and
/// to copy it there costs several times what the disk takes. Reads still come through it.
enum Direct {
    Untried,
    Open(fs::File, Aligned),
    /// The file system has no such thing.
    Impossible,
}

/// A buffer that a disk can write from by itself.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let bytes = vec![0; DIRECT_PIECE_BYTES + DIRECT_ALIGNMENT];
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Aligned { bytes, start }
    }

    fn filled(&mut self, from: &[u8]) -> &[u8] {
        let piece = &mut self.bytes[self.start..self.start + from.len()];
        piece.copy_from_slice(from);
        piece
    }
}

impl SystemFile {
    /// Whether a write may go past the page cache.
    fn is_direct(offset: u64, bytes: &[u8]) -> bool {
        let aligned = |number: u64| number.is_multiple_of(DIRECT_ALIGNMENT as u64);
        bytes.len() >= DIRECT_BYTES_MIN && aligned(offset) && aligned(bytes.len() as u64)
    }

    /// Writes as much as can be written past the page cache; returns how many bytes.
    fn write_direct(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        // A panic leaves nothing half done here.
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*direct, Direct::Untried) {
            *direct =
                self.open_direct().map_or(Direct::Impossible, |file| Direct::Open(file, Aligned::new()));
        }
        let Direct::Open(file, buffer) = &mut *direct else { return Ok(0) };
        let mut written = 0;
        for piece in bytes.chunks(DIRECT_PIECE_BYTES) {
            match file.write_at(buffer.filled(piece), offset + written as u64) {
                Ok(count) if count == piece.len() => written += count,
                // The rest begins somewhere in a page: the page cache takes it.
                Ok(count) => return Ok(written + count),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    *direct = Direct::Impossible;
                    return Ok(written);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Opens the file once more. Not by its name, which may have changed.
    fn open_direct(&self) -> Option<fs::File> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let same = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        OpenOptions::new().write(true).custom_flags(flags).open(same).ok()
    }
}

impl File for SystemFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let direct = if SystemFile::is_direct(offset, bytes) { self.write_direct(offset, bytes)? } else { 0 };
        self.file.write_all_at(&bytes[direct..], offset + direct as u64)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let length = self.len()?;
        let mut ranges = Vec::new();
        let mut position = 0;
        while position < length && ranges.len() < DATA_RANGES_MAX {
            let start = match seek(&self.file, SeekFrom::Data(position)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break, // Only a hole is left.
                Err(error) => return Err(error.into()),
            };
            position = seek(&self.file, SeekFrom::Hole(start))?;
            ranges.push(start..position);
        }
        if ranges.len() == DATA_RANGES_MAX
            && let Some(last) = ranges.last_mut()
        {
            last.end = length;
        }
        Ok(ranges)
    }
}

/// A text file that an operator wrote, whole. `InvalidData` where it is larger than a MiB or no UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read_whole(path)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Whether a file is for its owner alone.
pub fn is_private(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// A small file, whole. `InvalidData` where it is larger than a MiB.
pub fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path)?.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if read as u64 > TEXT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than a MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Whatever the file system of the test can do: what is written is what is read, past the cache or through it.
    #[test]
    fn large_writes_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = SystemDisks.open(&path, OpenMode::New).unwrap();
        // It is the file that is written to, not what its name stands for later.
        SystemDisks.rename(&path, &directory.path().join("moved")).unwrap();
        let other = SystemDisks.open(&path, OpenMode::New).unwrap();
        let pattern =
            |seed: usize, bytes: usize| -> Vec<u8> { (0..bytes).map(|at| (at / 7 + seed) as u8).collect() };
        let mut expected = vec![0; (6 << 20) + 4096];
        let writes = [
            (0, 3 << 20),
            (1 << 20, 256 << 10),
            (4096, 100),
            (5 << 20, (1 << 20) + 4096),
            (4 << 20, 300_000),
        ];
        for (seed, (offset, bytes)) in writes.into_iter().enumerate() {
            let bytes = pattern(seed, bytes);
            file.write_at(offset as u64, &bytes).unwrap();
            expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        file.sync_data().unwrap();
        let mut found = vec![0; expected.len()];
        file.read_at(0, &mut found).unwrap();
        assert!(found == expected && other.is_empty().unwrap());
    }
}
