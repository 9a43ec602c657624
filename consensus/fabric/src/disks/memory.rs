//! Disks in memory, for `--memory` and for tests: nothing survives the process, a sync costs nothing.
//!
//! The bytes of all files together are bounded; beyond it a write fails with `StorageFull`, as on a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{Disks, File, OpenMode, Space};

/// Memory is taken in pages of this size; one that was never written takes none.
const PAGE_BYTES: usize = 64 << 10;

/// [`Disks`] in memory; clones show the same files.
#[derive(Clone)]
pub struct MemoryDisks {
    names: Arc<Mutex<Names>>,
    pool: Arc<Pool>,
}

#[derive(Default)]
struct Names {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<MemoryFile>>,
    locked: BTreeSet<PathBuf>,
}

/// What all files together may take.
struct Pool {
    bytes_max: u64,
    used_bytes: AtomicU64,
}

impl MemoryDisks {
    /// Empty disks that hold `bytes_max` in all.
    pub fn new(bytes_max: u64) -> MemoryDisks {
        MemoryDisks {
            names: Arc::default(),
            pool: Arc::new(Pool { bytes_max, used_bytes: AtomicU64::new(0) }),
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        // Each change of the names is a single call on a map, so poison means nothing here.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

impl Disks for MemoryDisks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut names = self.names();
        match (names.files.get(path), mode) {
            (Some(file), OpenMode::Existing) => Ok(file.clone()),
            (None, OpenMode::Existing) => Err(not_found(path)),
            (Some(_), OpenMode::New) => {
                Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{}: exists", path.display())))
            }
            (None, OpenMode::New) => {
                if !path.parent().is_some_and(|parent| names.directories.contains(parent)) {
                    return Err(not_found(path));
                }
                let file = Arc::new(MemoryFile { pool: self.pool.clone(), contents: RwLock::default() });
                names.files.insert(path.to_path_buf(), file.clone());
                Ok(file)
            }
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let names = self.names();
        if !names.directories.contains(directory) {
            return Err(not_found(directory));
        }
        let inside = |path: &&PathBuf| path.parent() == Some(directory);
        let found = names.files.keys().filter(inside).chain(names.directories.iter().filter(inside));
        let mut found: Vec<String> =
            found.filter_map(|path| path.file_name()?.to_str().map(str::to_string)).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        self.names().directories.extend(directory.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names();
        let file = names.files.remove(from).ok_or_else(|| not_found(from))?;
        names.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.names().files.remove(path).map(drop).ok_or_else(|| not_found(path))
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        if self.names().directories.contains(directory) { Ok(()) } else { Err(not_found(directory)) }
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        let used = self.pool.used_bytes.load(Ordering::Relaxed);
        Ok(Space { free_bytes: self.pool.bytes_max.saturating_sub(used), total_bytes: self.pool.bytes_max })
    }

    fn lock(&self, directory: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.names().locked.insert(directory.to_path_buf()) {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use", directory.display()),
            ));
        }
        Ok(Box::new(MemoryLock { disks: self.clone(), directory: directory.to_path_buf() }))
    }
}

struct MemoryLock {
    disks: MemoryDisks,
    directory: PathBuf,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disks.names().locked.remove(&self.directory);
    }
}

struct MemoryFile {
    pool: Arc<Pool>,
    contents: RwLock<Contents>,
}

/// Pages that were written; bytes at and beyond `bytes` are zero in them.
#[derive(Default)]
struct Contents {
    bytes: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Pool {
    fn take_page(&self) -> io::Result<Box<[u8]>> {
        let page = PAGE_BYTES as u64;
        let within = |used: u64| used.checked_add(page).filter(|sum| *sum <= self.bytes_max);
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.map_err(|_| io::Error::new(io::ErrorKind::StorageFull, "the memory for files is used up"))?;
        Ok(vec![0; PAGE_BYTES].into_boxed_slice())
    }

    fn give_back(&self, pages: usize) {
        self.used_bytes.fetch_sub((pages * PAGE_BYTES) as u64, Ordering::Relaxed);
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let contents = self.contents.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.pool.give_back(contents.pages.len());
    }
}

/// Calls `visit` for each page that `offset .. offset + bytes` touches, with its number, where it begins in
/// the page and which part of the range it is.
fn each_page(
    offset: u64,
    bytes: usize,
    mut visit: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let position = offset + done as u64;
        let within = (position % PAGE_BYTES as u64) as usize;
        let part = (PAGE_BYTES - within).min(bytes - done);
        visit(position / PAGE_BYTES as u64, within, done..done + part)?;
        done += part;
    }
    Ok(())
}

fn end_of(offset: u64, bytes: usize) -> io::Result<u64> {
    offset.checked_add(bytes as u64).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl File for MemoryFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        if end_of(offset, into.len())? > contents.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        each_page(offset, into.len(), |page, within, part| {
            let into = &mut into[part];
            match contents.pages.get(&page) {
                Some(page) => into.copy_from_slice(&page[within..within + into.len()]),
                None => into.fill(0),
            }
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = end_of(offset, bytes.len())?;
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        each_page(offset, bytes.len(), |number, within, part| {
            let from = &bytes[part];
            let page = match contents.pages.entry(number) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => place.insert(self.pool.take_page()?),
            };
            page[within..within + from.len()].copy_from_slice(from);
            Ok(())
        })?;
        contents.bytes = contents.bytes.max(end);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.read().unwrap_or_else(PoisonError::into_inner).bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        if bytes < contents.bytes {
            let page = PAGE_BYTES as u64;
            let dropped = contents.pages.split_off(&bytes.div_ceil(page));
            self.pool.give_back(dropped.len());
            if let Some(last) = contents.pages.get_mut(&(bytes / page)) {
                last[(bytes % page) as usize..].fill(0);
            }
        }
        contents.bytes = bytes;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn wants_filling(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_given_back() {
        let disks = MemoryDisks::new(4 * PAGE_BYTES as u64);
        let root = Path::new("/data");
        disks.create_dir(root).unwrap();
        let file = disks.open(&root.join("file"), OpenMode::New).unwrap();
        let free = || disks.space(root).unwrap().free_bytes / PAGE_BYTES as u64;

        file.set_len(1 << 40).unwrap();
        assert_eq!(free(), 4);
        file.write_at(PAGE_BYTES as u64 - 1, &[1, 2]).unwrap();
        assert_eq!(free(), 2);
        let full = file.write_at(1 << 30, &vec![1; 3 * PAGE_BYTES]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        file.set_len(PAGE_BYTES as u64).unwrap();
        assert_eq!(free(), 3);
        drop(file);
        disks.remove(&root.join("file")).unwrap();
        assert_eq!(free(), 4);
    }
}
