//! The third seam: files.
//!
//! Calls block; they run in [`crate::env::Env::blocking`] or in a lane. Nothing is durable before
//! [`File::sync_data`] (contents) or [`Disks::sync_dir`] (names) returned.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub mod extended;
pub mod length;
pub mod memory;
pub mod summed;
pub mod system;

pub use extended::{ExtendedFile, Steps};
pub use length::LengthFile;
pub use memory::MemoryDisks;
pub use summed::{OnRot, SummedFile};
pub use system::SystemDisks;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// It must not exist.
    New,
}

/// Space of the file system that holds a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// These, and those that are written.
    pub total_bytes: u64,
}

/// Whether an error says that there is no space: nothing is broken, and it may work later.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The error of a full disk.
pub fn full(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, what)
}

/// Directories and files.
pub trait Disks: Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Names in a directory, sorted. An absent directory is `NotFound`.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents, mode 0700.
    fn create_dir(&self, directory: &Path) -> io::Result<()>;
    /// Renames a file, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
    /// Space where the directory lies.
    fn space(&self, directory: &Path) -> io::Result<Space>;
    /// Takes the exclusive lock of a data directory, held until the guard is dropped.
    /// `WouldBlock` when another process holds it.
    fn lock(&self, directory: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// A random-access file.
pub trait File: Send + Sync + 'static {
    /// Fills `into` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, growing the file when needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether it holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends; new bytes read as zero.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Whether a sync is cheaper where the file was filled with zeros before (see [`ExtendedFile`]).
    fn wants_filling(&self) -> bool {
        true
    }
    /// The parts that were ever written, ascending, at most
    /// [`crate::limits::DATA_RANGES_MAX`]; between them lie holes that read
    /// as zero. One that cannot tell says that all of it was.
    fn data_ranges(&self) -> io::Result<Vec<Range<u64>>> {
        Ok(std::iter::once(0..self.len()?).collect())
    }
}

/// The whole of a small file; for names, keys, configuration. `InvalidData` where it is larger than `bytes_max`.
pub fn read_small(disks: &dyn Disks, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disks.open(path, OpenMode::Existing)?;
    let bytes = file.len()?;
    if bytes > bytes_max {
        let why = format!("{} has {bytes} bytes, more than {bytes_max}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut contents = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_at(0, &mut contents)?;
    Ok(contents)
}

/// Writes a small file so that after a crash it is there in full, as it was before, or not at all: written
/// beside, synced, renamed, directory synced.
pub fn write_small(disks: &dyn Disks, path: &Path, contents: &[u8]) -> io::Result<()> {
    let no_directory = || io::Error::new(io::ErrorKind::InvalidInput, "a path without a directory");
    let directory = path.parent().ok_or_else(no_directory)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match disks.remove(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // Left by a crash, or not there.
    }
    let file = disks.open(beside, OpenMode::New)?;
    file.write_at(0, contents)?;
    file.sync_data()?;
    disks.rename(beside, path)?;
    disks.sync_dir(directory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Both implementations, each with a fresh directory.
    fn each_kind(check: impl Fn(&dyn Disks, &Path)) {
        let directory = tempfile::tempdir().unwrap();
        check(&SystemDisks, directory.path());
        let memory = MemoryDisks::new(1 << 30);
        memory.create_dir(Path::new("/data")).unwrap();
        check(&memory, Path::new("/data"));
    }

    #[test]
    fn files_and_names() {
        each_kind(|disks, root| {
            let path = root.join("b");
            let file = disks.open(&path, OpenMode::New).unwrap();
            let kind = |result: io::Result<Arc<dyn File>>| result.err().unwrap().kind();
            assert_eq!(kind(disks.open(&path, OpenMode::New)), io::ErrorKind::AlreadyExists);
            assert_eq!(kind(disks.open(&root.join("c"), OpenMode::Existing)), io::ErrorKind::NotFound);

            file.write_at(100_000, b"far").unwrap();
            assert_eq!(file.len().unwrap(), 100_003);
            let mut bytes = [1; 5];
            file.read_at(99_998, &mut bytes).unwrap();
            assert_eq!(&bytes, b"\0\0far");
            assert_eq!(file.read_at(99_999, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            file.set_len(100_001).unwrap();
            file.set_len(100_003).unwrap();
            file.read_at(99_998, &mut bytes).unwrap();
            assert_eq!(&bytes, b"\0\0f\0\0");
            file.sync_data().unwrap();

            disks.rename(&path, &root.join("a")).unwrap();
            disks.create_dir(&root.join("sub/deeper")).unwrap();
            disks.open(&root.join("sub/x"), OpenMode::New).unwrap();
            assert_eq!(disks.list(root).unwrap(), ["a", "sub"]);
            assert_eq!(disks.list(&root.join("sub")).unwrap(), ["deeper", "x"]);
            assert_eq!(disks.list(&root.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
            disks.remove(&root.join("a")).unwrap();
            disks.sync_dir(root).unwrap();
            assert_eq!(disks.list(root).unwrap(), ["sub"]);
            file.write_at(0, b"removed, still open").unwrap();
            let space = disks.space(root).unwrap();
            assert!(0 < space.free_bytes && space.free_bytes <= space.total_bytes);
        });
    }

    #[test]
    fn a_directory_has_one_owner() {
        each_kind(|disks, root| {
            let guard = disks.lock(root).unwrap();
            assert_eq!(disks.lock(root).err().unwrap().kind(), io::ErrorKind::WouldBlock);
            drop(guard);
            disks.lock(root).unwrap();
        });
    }

    #[test]
    fn small_files_are_replaced_whole() {
        each_kind(|disks, root| {
            let path = root.join("name");
            write_small(disks, &path, b"first, longer").unwrap();
            write_small(disks, &path, b"second").unwrap();
            assert_eq!(read_small(disks, &path, 6).unwrap(), b"second");
            assert_eq!(read_small(disks, &path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert!(!disks.list(root).unwrap().contains(&"name.new".to_string()));
        });
    }
}
