//! The third seam: files.
//!
//! Calls block; they run in [`crate::env::Env::blocking`] or in a lane. Nothing is durable before
//! [`File::sync_data`] (contents) or [`Disks::sync_dir`] (names) returned.

use std::io;
use std::path::Path;
use std::sync::Arc;

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
    /// Size of the file system.
    pub total_bytes: u64,
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
}
