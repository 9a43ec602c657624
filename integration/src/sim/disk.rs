//! Simulated disks: what is synced survives, of the rest a seeded part does, torn at any byte.
//!
//! Each file has a durable image and the writes since its last sync. A power cut keeps, of every such
//! write, all, none or a run of bytes, and any length between the old and the new one; names that were not
//! made durable by a sync of their directory are old or new. A kill of the process loses nothing: the page
//! cache belongs to the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use fabric::disks::{Disks, File, OpenMode, Space};

use super::random::SimRandom;

const PAGE_BYTES: u64 = 4096;

/// What may go wrong with the disk of one machine, in percent of operations. All zero: a good disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFaults {
    /// Reads that fail with EIO.
    pub read_error_percent: u64,
    /// Writes that fail with EIO.
    pub write_error_percent: u64,
    /// Syncs that fail with EIO; what they covered may be lost.
    pub sync_error_percent: u64,
    /// Syncs that report success and do nothing: the canary of crash images.
    pub sync_lie_percent: u64,
}

/// The disk of one machine; outlives its processes.
pub struct SimDisks {
    state: Arc<Mutex<State>>,
    random: Arc<SimRandom>,
}

struct State {
    /// Names as the running system sees them.
    names: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    /// Names that a power cut leaves for sure.
    durable_names: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    directories: Vec<PathBuf>,
    locks: BTreeMap<PathBuf, Weak<()>>,
    faults: DiskFaults,
    /// What files may take now, and what the disk was made for.
    capacity_bytes: u64,
    made_bytes: u64,
    operations: u64,
    syncs: u64,
    /// Raised when the process dies: handles of an older process do nothing any more.
    process: u64,
    /// Changes until the machine dies in the middle of one; see [`SimDisks::cut_after`].
    changes_left: Option<u64>,
    dead: bool,
}

/// What becomes of a change to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// It reaches the machine, and nobody hears of it any more.
    Last,
    Lost,
}

impl State {
    /// Counts a change.
    fn change(&mut self) -> Fate {
        if self.dead {
            return Fate::Lost;
        }
        self.changes_left = self.changes_left.map(|left| left.saturating_sub(1));
        self.dead = self.changes_left == Some(0);
        if self.dead { Fate::Last } else { Fate::Done }
    }

    /// Bytes of all files that have a name: zeros take space, too.
    fn used_bytes(&self) -> u64 {
        let bytes = |contents: &Arc<Mutex<Contents>>| {
            contents.lock().expect("no holder of this lock can panic").now.bytes
        };
        self.names.values().map(bytes).sum()
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(died()) } else { Ok(()) }
    }
}

impl Fate {
    /// What the caller hears after the change was made.
    fn told(self) -> io::Result<()> {
        if self == Fate::Done { Ok(()) } else { Err(died()) }
    }
}

/// Pages of one file, now and after a power cut.
#[derive(Default)]
struct Contents {
    now: Image,
    durable: Image,
    unsynced: Vec<Write>,
    /// Where what was synced last begins: rot from here on looks like a write that was torn.
    last_batch: u64,
}

/// A copy of the files of a disk.
pub struct DiskImage {
    files: BTreeMap<PathBuf, Image>,
    directories: Vec<PathBuf>,
}

#[derive(Clone, Default)]
struct Image {
    /// Absent pages are zeros.
    pages: BTreeMap<u64, Box<[u8]>>,
    bytes: u64,
}

enum Write {
    Bytes {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Zeros ahead of need, which would only take memory here.
    Zeros {
        offset: u64,
        bytes: u64,
    },
    Length(u64),
}

impl Image {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if offset + into.len() as u64 > self.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for_pages(offset, into.len(), |page, in_page, range| match self.pages.get(&page) {
            Some(bytes) => into[range.clone()].copy_from_slice(&bytes[in_page..in_page + range.len()]),
            None => into[range].fill(0),
        });
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_pages(offset, bytes.len(), |page, in_page, range| {
            let piece = &bytes[range];
            let absent = !self.pages.contains_key(&page);
            if absent && is_zero(piece) {
                return; // Zeros over zeros: files are filled ahead of need, this keeps them small here.
            }
            let page =
                self.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES as usize].into_boxed_slice());
            page[in_page..in_page + piece.len()].copy_from_slice(piece);
        });
        self.bytes = self.bytes.max(offset + bytes.len() as u64);
    }

    fn write_zeros(&mut self, offset: u64, bytes: u64) {
        let pages = offset / PAGE_BYTES..=(offset + bytes) / PAGE_BYTES;
        if self.pages.range(pages).next().is_some() {
            return self.write(offset, &vec![0; bytes as usize]);
        }
        self.bytes = self.bytes.max(offset + bytes);
    }

    fn set_len(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.pages.retain(|&page, _| page * PAGE_BYTES < bytes);
            let kept = (bytes % PAGE_BYTES) as usize;
            if kept > 0
                && let Some(page) = self.pages.get_mut(&(bytes / PAGE_BYTES))
            {
                page[kept..].fill(0);
            }
        }
        self.bytes = bytes;
    }
}

/// Splits a run of bytes at page borders: calls `each(page, offset in page, range of the run)`.
fn for_pages(offset: u64, bytes: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < bytes {
        let position = offset + done as u64;
        let in_page = (position % PAGE_BYTES) as usize;
        let run = (PAGE_BYTES as usize - in_page).min(bytes - done);
        each(position / PAGE_BYTES, in_page, done..done + run);
        done += run;
    }
}

impl SimDisks {
    /// An empty disk.
    pub fn new(random: Arc<SimRandom>, capacity_bytes: u64) -> SimDisks {
        let state = State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            directories: Vec::new(),
            locks: BTreeMap::new(),
            faults: DiskFaults::default(),
            capacity_bytes,
            made_bytes: capacity_bytes,
            operations: 0,
            syncs: 0,
            process: 0,
            changes_left: None,
            dead: false,
        };
        SimDisks { state: Arc::new(Mutex::new(state)), random }
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock_state().faults = faults;
    }

    /// From now on files can grow by so many bytes in all; `None`: by as much as the disk was made for.
    pub fn set_free(&self, bytes: Option<u64>) {
        let mut state = self.lock_state();
        state.capacity_bytes = match bytes {
            Some(bytes) => state.used_bytes() + bytes,
            None => state.made_bytes,
        };
    }

    /// Reads, writes and syncs so far.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.lock_state().syncs
    }

    /// The machine dies in the middle of the `changes`-th change from now on (at least 1): a write, a sync, a new
    /// name. Everything fails from there, so that the code under test stops, until [`SimDisks::kill`] or
    /// [`SimDisks::power_cut`] decides what is left.
    pub fn cut_after(&self, changes: u64) {
        self.lock_state().changes_left = Some(changes.max(1));
    }

    /// Whether the cut of [`SimDisks::cut_after`] came.
    pub fn is_dead(&self) -> bool {
        self.lock_state().dead
    }

    /// The process dies: whatever its objects still try while they are dropped has no effect.
    pub fn kill(&self) {
        let mut state = self.lock_state();
        state.process += 1;
        state.locks.clear();
        state.changes_left = None;
        state.dead = false;
    }

    /// Pulls the plug: the process dies, and so does what was not synced.
    pub fn power_cut(&self) {
        self.kill();
        let mut state = self.lock_state();
        let paths: BTreeSet<PathBuf> =
            state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let (now, durable) = (state.names.get(&path), state.durable_names.get(&path));
            // What was not synced of a creation, a removal or a replacement may have made it to the disk.
            let same = now.map(Arc::as_ptr) == durable.map(Arc::as_ptr);
            let kept = if same || self.random.chance(50) { now } else { durable };
            if let Some(contents) = kept.cloned() {
                names.insert(path, contents);
            }
        }
        for contents in names.values() {
            self.tear(&mut contents.lock().expect("no holder of this lock can panic"));
        }
        state.names = names.clone();
        state.durable_names = names;
    }

    /// Empties the disk, as when it is replaced.
    pub fn wipe(&self) {
        self.kill();
        let mut state = self.lock_state();
        state.names.clear();
        state.durable_names.clear();
        state.directories.clear();
    }

    /// What a copy of all files would hold now.
    pub fn image(&self) -> DiskImage {
        let state = self.lock_state();
        let now = |contents: &Mutex<Contents>| {
            contents.lock().expect("no holder of this lock can panic").now.clone()
        };
        let files = state.names.iter().map(|(path, contents)| (path.clone(), now(contents))).collect();
        DiskImage { files, directories: state.directories.clone() }
    }

    /// Replaces everything by a copy made before. The process must be dead.
    pub fn put_back(&self, image: &DiskImage) {
        self.wipe();
        let mut state = self.lock_state();
        let file = |image: &Image| {
            let contents = Contents { now: image.clone(), durable: image.clone(), ..Contents::default() };
            Arc::new(Mutex::new(contents))
        };
        state.names = image.files.iter().map(|(path, image)| (path.clone(), file(image))).collect();
        state.durable_names = state.names.clone();
        state.directories = image.directories.clone();
    }

    /// Flips one bit of a file whose path contains `part`; returns where, if there was one with bytes.
    pub fn rot(&self, part: &str) -> Option<(PathBuf, u64)> {
        let files = self.written_pages(part);
        if files.is_empty() {
            return None;
        }
        let (path, pages) = self.random.pick(&files);
        if pages.is_empty() {
            return None;
        }
        self.flip(path, *self.random.pick(pages), u64::MAX)
    }

    /// The same in all of these files, which are written one after the other in the order of their names, but for
    /// what was synced last.
    pub fn rot_before_last_batch(&self, part: &str) -> Option<(PathBuf, u64)> {
        let mut files = self.written_pages(part);
        files.retain(|(_, pages)| !pages.is_empty());
        let (last, _) = files.last()?;
        let end = self.lock_state().names[last].lock().expect("no holder of this lock can panic").last_batch;
        let last = last.clone();
        let pages = files.iter().flat_map(|(path, pages)| pages.iter().map(move |page| (path, *page)));
        let pages: Vec<_> = pages.filter(|(path, page)| **path != last || page * PAGE_BYTES < end).collect();
        if pages.is_empty() {
            return None;
        }
        let (path, page) = *self.random.pick(&pages);
        self.flip(path, page, if *path == last { end } else { u64::MAX })
    }

    fn written_pages(&self, part: &str) -> Vec<(PathBuf, Vec<u64>)> {
        let state = self.lock_state();
        let files = state.names.iter().filter(|(path, _)| path.to_string_lossy().contains(part));
        let pages = |contents: &Mutex<Contents>| {
            let contents = contents.lock().expect("no holder of this lock can panic");
            contents.durable.pages.keys().copied().collect()
        };
        files.map(|(path, contents)| (path.clone(), pages(contents))).collect()
    }

    /// Flips a bit of this page, before `end`.
    fn flip(&self, path: &Path, page: u64, end: u64) -> Option<(PathBuf, u64)> {
        let room = PAGE_BYTES.min(end - page * PAGE_BYTES);
        let (byte, bit) = (self.random.below(room), self.random.below(8));
        let contents = self.lock_state().names.get(path)?.clone();
        let mut contents = contents.lock().expect("no holder of this lock can panic");
        let flip = |image: &mut Image| {
            if let Some(page) = image.pages.get_mut(&page) {
                page[byte as usize] ^= 1 << bit;
            }
        };
        flip(&mut contents.durable);
        flip(&mut contents.now);
        Some((path.to_path_buf(), page * PAGE_BYTES + byte))
    }

    /// Takes one of the files whose path contains `part`, or writes garbage over its beginning; returns which. The
    /// process has to be dead.
    pub fn lose(&self, part: &str) -> Option<PathBuf> {
        let mut state = self.lock_state();
        let files: Vec<PathBuf> =
            state.names.keys().filter(|path| path.to_string_lossy().contains(part)).cloned().collect();
        if files.is_empty() {
            return None;
        }
        let path = self.random.pick(&files).clone();
        if self.random.chance(50) {
            state.names.remove(&path);
            state.durable_names.remove(&path);
            return Some(path);
        }
        let mut garbage = vec![0; 4 * PAGE_BYTES as usize];
        self.random.fill(&mut garbage);
        let mut contents = state.names[&path].lock().expect("no holder of this lock can panic");
        contents.now.write(0, &garbage);
        contents.durable.write(0, &garbage);
        drop(contents);
        Some(path)
    }

    /// Decides what of the unsynced writes reached the medium.
    fn tear(&self, contents: &mut Contents) {
        for write in std::mem::take(&mut contents.unsynced) {
            match write {
                Write::Length(bytes) => {
                    let (low, high) = (bytes.min(contents.durable.bytes), bytes.max(contents.durable.bytes));
                    let reached = match self.random.below(4) {
                        0 => contents.durable.bytes,
                        1 | 2 => bytes,
                        _ => self.random.between(low, high),
                    };
                    contents.durable.set_len(reached);
                }
                Write::Zeros { offset, bytes } => {
                    let kept = if self.random.chance(50) { bytes } else { self.random.below(bytes + 1) };
                    contents.durable.write_zeros(offset, kept);
                }
                Write::Bytes { offset, bytes } => self.tear_write(&mut contents.durable, offset, &bytes),
            }
        }
        contents.now = contents.durable.clone();
    }

    /// Of one write: nothing, all, one run of bytes, or a subset of its sectors.
    fn tear_write(&self, durable: &mut Image, offset: u64, bytes: &[u8]) {
        match self.random.below(6) {
            0 => {}
            1 | 2 => durable.write(offset, bytes),
            3 => {
                let from = self.random.below(bytes.len() as u64 + 1) as usize;
                let to = from + self.random.below((bytes.len() - from) as u64 + 1) as usize;
                if from < to {
                    durable.write(offset + from as u64, &bytes[from..to]);
                }
            }
            _ => {
                let sector_bytes = *self.random.pick(&[64, 512, 4096, 65536]);
                for (number, sector) in bytes.chunks(sector_bytes).enumerate() {
                    if self.random.chance(50) {
                        durable.write(offset + (number * sector_bytes) as u64, sector);
                    }
                }
            }
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }
}

fn eio(what: &str) -> io::Error {
    // 5 is EIO: what a kernel reports for a bad sector.
    io::Error::new(io::Error::from_raw_os_error(5).kind(), format!("simulated input/output error in {what}"))
}

fn died() -> io::Error {
    eio("a machine without power")
}

/// Whether all bytes are zero; compares in pages, since this is done to all of what fills files.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
    bytes.chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
}

impl Disks for SimDisks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock_state();
        state.alive()?;
        let found = state.names.get(path).cloned();
        let contents = match (mode, found) {
            (OpenMode::Existing, Some(contents)) => contents,
            (OpenMode::Existing, None) => return Err(io::ErrorKind::NotFound.into()),
            (OpenMode::New, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::New, None) => {
                let contents = Arc::new(Mutex::new(Contents::default()));
                state.names.insert(path.to_path_buf(), contents.clone());
                state.change().told()?;
                contents
            }
        };
        let process = state.process;
        Ok(Arc::new(SimFile { contents, state: self.state.clone(), random: self.random.clone(), process }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.lock_state();
        state.alive()?;
        if !state.directories.iter().any(|known| known == directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names =
            state.names.keys().chain(&state.directories).filter(|path| path.parent() == Some(directory));
        let mut names: Vec<String> = names
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.alive()?;
        for ancestor in directory.ancestors() {
            if !state.directories.iter().any(|known| known == ancestor) {
                state.directories.push(ancestor.to_path_buf());
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.alive()?;
        let contents = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), contents);
        state.change().told()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.alive()?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.change().told()
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let fate = state.change();
        if fate == Fate::Lost || (fate == Fate::Last && self.random.chance(50)) {
            return Err(died());
        }
        let here: BTreeMap<_, _> = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(directory))
            .map(|(path, contents)| (path.clone(), contents.clone()))
            .collect();
        state.durable_names.retain(|path, _| path.parent() != Some(directory));
        state.durable_names.extend(here);
        fate.told()
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        let state = self.lock_state();
        let free_bytes = state.capacity_bytes.saturating_sub(state.used_bytes());
        Ok(Space { free_bytes, total_bytes: state.capacity_bytes })
    }

    fn lock(&self, directory: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.lock_state();
        if state.locks.get(directory).is_some_and(|lock| lock.strong_count() > 0) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let guard = Arc::new(());
        state.locks.insert(directory.to_path_buf(), Arc::downgrade(&guard));
        Ok(Box::new(guard))
    }
}

struct SimFile {
    contents: Arc<Mutex<Contents>>,
    state: Arc<Mutex<State>>,
    random: Arc<SimRandom>,
    process: u64,
}

impl SimFile {
    /// Counts the operation and draws whether it fails. All operations of a dead process do.
    fn fails(&self, percent: impl Fn(&DiskFaults) -> u64) -> bool {
        let mut state = self.state.lock().expect("no holder of this lock can panic");
        if state.process != self.process || state.dead {
            return true;
        }
        state.operations += 1;
        let percent = percent(&state.faults);
        percent > 0 && self.random.chance(percent)
    }

    /// Counts a change; see [`SimDisks::cut_after`].
    fn change(&self) -> Fate {
        self.state.lock().expect("no holder of this lock can panic").change()
    }

    /// Refuses to grow a file on a full disk.
    fn check_space(&self, end: u64) -> io::Result<()> {
        let growth = end.saturating_sub(self.contents().now.bytes);
        if growth == 0 {
            return Ok(());
        }
        let state = self.state.lock().expect("no holder of this lock can panic");
        match state.used_bytes() + growth > state.capacity_bytes {
            true => Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full")),
            false => Ok(()),
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("no holder of this lock can panic")
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.fails(|faults| faults.read_error_percent) {
            return Err(eio("read"));
        }
        self.contents().now.read(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.fails(|faults| faults.write_error_percent) {
            return Err(eio("write"));
        }
        self.check_space(offset + bytes.len() as u64)?;
        let fate = self.change();
        let mut contents = self.contents();
        if bytes.len() as u64 > PAGE_BYTES && is_zero(bytes) {
            contents.now.write_zeros(offset, bytes.len() as u64);
            contents.unsynced.push(Write::Zeros { offset, bytes: bytes.len() as u64 });
        } else {
            contents.now.write(offset, bytes);
            contents.unsynced.push(Write::Bytes { offset, bytes: bytes.to_vec() });
        }
        fate.told()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents().now.bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.fails(|faults| faults.write_error_percent) {
            return Err(eio("truncate"));
        }
        self.check_space(bytes)?;
        let fate = self.change();
        let mut contents = self.contents();
        contents.now.set_len(bytes);
        contents.unsynced.push(Write::Length(bytes));
        fate.told()
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fails(|faults| faults.sync_error_percent) {
            return Err(eio("sync"));
        }
        let fate = self.change();
        if fate == Fate::Last && self.random.chance(50) {
            return Err(died()); // Otherwise it was done, and nobody heard.
        }
        let lies = {
            let mut state = self.state.lock().expect("no holder of this lock can panic");
            state.syncs += 1;
            state.faults.sync_lie_percent
        };
        if lies > 0 && self.random.chance(lies) {
            return fate.told();
        }
        let mut contents = self.contents();
        let contents = &mut *contents;
        let begins = contents.unsynced.iter().filter_map(|write| match write {
            Write::Bytes { offset, bytes } if !is_zero(bytes) => Some(*offset),
            Write::Bytes { .. } | Write::Zeros { .. } | Write::Length(_) => None,
        });
        contents.last_batch = begins.min().unwrap_or(contents.last_batch);
        for write in contents.unsynced.drain(..) {
            match write {
                Write::Length(bytes) => contents.durable.set_len(bytes),
                Write::Zeros { offset, bytes } => contents.durable.write_zeros(offset, bytes),
                Write::Bytes { offset, bytes } => contents.durable.write(offset, &bytes),
            }
        }
        fate.told()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(seed: u64) -> SimDisks {
        SimDisks::new(Arc::new(SimRandom::new(seed, "disk")), 1 << 30)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_tears_the_rest() {
        let mut torn = 0;
        for seed in 0..200 {
            let disk = disk(seed);
            let directory = Path::new("/data");
            disk.create_dir(directory).unwrap();
            let file = disk.open(&directory.join("f"), OpenMode::New).unwrap();
            disk.sync_dir(directory).unwrap();
            file.write_at(0, &[1; 10_000]).unwrap();
            file.sync_data().unwrap();
            file.write_at(5_000, &[2; 3_000]).unwrap();
            disk.power_cut();
            let mut bytes = vec![0; 10_000];
            disk.open(&directory.join("f"), OpenMode::Existing).unwrap().read_at(0, &mut bytes).unwrap();
            assert!(bytes[..5_000].iter().chain(&bytes[8_000..]).all(|&byte| byte == 1));
            let twos = bytes.iter().filter(|&&byte| byte == 2).count();
            torn += usize::from(twos > 0 && twos < 3_000);
        }
        assert!(torn > 10);
    }

    #[test]
    fn a_name_without_a_synced_directory_may_be_lost() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..50 {
            let disk = disk(seed);
            disk.create_dir(Path::new("/data")).unwrap();
            disk.open(Path::new("/data/f"), OpenMode::New).unwrap();
            disk.power_cut();
            match disk.list(Path::new("/data")).unwrap().len() {
                1 => kept += 1,
                _ => lost += 1,
            }
        }
        assert!(kept > 0 && lost > 0);
    }

    #[test]
    fn a_full_disk_refuses_growth_and_nothing_else() {
        let disk = disk(1);
        disk.create_dir(Path::new("/data")).unwrap();
        let file = disk.open(Path::new("/data/f"), OpenMode::New).unwrap();
        file.write_at(0, &[1; 1000]).unwrap();
        disk.set_free(Some(500));
        assert_eq!(disk.space(Path::new("/data")).unwrap().free_bytes, 500);
        assert_eq!(file.write_at(600, &[2; 1000]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(0, &[2; 1500]).unwrap();
        file.sync_data().unwrap();
        disk.set_free(None);
        file.write_at(600, &[3; 1000]).unwrap();
    }

    #[test]
    fn one_process_holds_the_lock() {
        let disk = disk(1);
        let held = disk.lock(Path::new("/data")).unwrap();
        assert!(disk.lock(Path::new("/data")).is_err());
        drop(held);
        assert!(disk.lock(Path::new("/data")).is_ok());
    }
}
