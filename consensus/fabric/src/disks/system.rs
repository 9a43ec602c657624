//! The real disks.
#![allow(clippy::disallowed_methods)] // This file implements the seam.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{Disks, File, OpenMode, Space};
use crate::limits::DATA_RANGES_MAX;

/// The file in a data directory whose lock says that a process uses it.
const LOCK_NAME: &str = "lock";

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
        Ok(Arc::new(SystemFile(opened.map_err(|error| name(error, path))?)))
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
        Ok(Space { free_bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks) })
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

struct SystemFile(fs::File);

impl File for SystemFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        let length = self.len()?;
        let mut ranges = Vec::new();
        let mut position = 0;
        while position < length && ranges.len() < DATA_RANGES_MAX {
            let start = match seek(&self.0, SeekFrom::Data(position)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break, // Only a hole is left.
                Err(error) => return Err(error.into()),
            };
            position = seek(&self.0, SeekFrom::Hole(start))?;
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

/// A small file, whole. `InvalidData` where it is larger than a MiB.
pub fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path)?.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if read as u64 > TEXT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than a MiB"));
    }
    Ok(bytes)
}
