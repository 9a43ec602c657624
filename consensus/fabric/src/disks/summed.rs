//! A file whose pages have checksums: what the disk changed is an error when it is read, never bytes.
//!
//! For a database that trusts its pages. Before each [`GROUP_PAGES`] pages of the contents lies a page with their
//! checksums, in the same file, so that one sync makes both durable. A checksum covers the place of a page, too: a page
//! that was written elsewhere is rot. One that was never written has none, and reads as zeros.
//!
//! A power cut may keep a page and lose its checksum, or the other way round, for what was written since the last sync.
//! So this is for those who never read such a page after a crash before they write it anew. redb is one: where each
//! commit is in two phases, what a crash leaves unsynced is not referred to. It rewrites its first page in place,
//! however, and checks that itself: that page has no checksum here.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{File, LengthFile};
use crate::codec::crc32c;
use crate::limits::CHECKSUM_PAGES_MAX;

const PAGE_BYTES: u64 = 4096;
/// Pages of the contents that share a page of checksums.
const GROUP_PAGES: u64 = PAGE_BYTES / 4;
/// In the place of the checksum that the first page has not: that there are checksums.
const MARK: u32 = 0x314D_5553;

/// Told once, when rot is found: the page's offset in the contents.
pub type OnRot = Box<dyn Fn(u64) + Send + Sync>;

/// See the file's head.
pub struct SummedFile {
    file: Arc<LengthFile>,
    sums: Mutex<Sums>,
    on_rot: OnRot,
}

/// Checksums of one group; 0: never written.
type Group = Box<[u32; GROUP_PAGES as usize]>;

struct Sums {
    /// Not written since they changed.
    changed: BTreeMap<u64, Group>,
    kept: LruCache<u64, Group>,
    told: bool,
}

impl SummedFile {
    /// Opens the contents of `file`, which is empty or was written through this. `on_rot` hears of rot, once.
    pub fn open(file: Arc<LengthFile>, on_rot: OnRot) -> io::Result<SummedFile> {
        let kept = LruCache::new(NonZeroUsize::new(CHECKSUM_PAGES_MAX).expect("not zero"));
        let sums = Mutex::new(Sums { changed: BTreeMap::new(), kept, told: false });
        let summed = SummedFile { file, sums, on_rot };
        if summed.file.len()? > 0 && summed.sum_of(&mut summed.sums(), 0)? != MARK {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file has no checksums"));
        }
        Ok(summed)
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        // A group is changed by single stores, so poison means nothing here.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, group: u64) -> io::Result<Group> {
        let mut bytes = [0; PAGE_BYTES as usize];
        self.file.read_at(sums_at(group), &mut bytes)?;
        let mut sums = Box::new([0; GROUP_PAGES as usize]);
        for (sum, bytes) in sums.iter_mut().zip(bytes.as_chunks().0) {
            *sum = u32::from_le_bytes(*bytes);
        }
        Ok(sums)
    }

    fn sum_of(&self, sums: &mut Sums, page: u64) -> io::Result<u32> {
        let (group, place) = (page / GROUP_PAGES, (page % GROUP_PAGES) as usize);
        if let Some(group) = sums.changed.get(&group) {
            return Ok(group[place]);
        }
        Ok(sums.kept.try_get_or_insert(group, || self.load(group))?[place])
    }

    fn changed<'a>(&self, sums: &'a mut Sums, group: u64) -> io::Result<&'a mut Group> {
        if !sums.changed.contains_key(&group) {
            let loaded = sums.kept.pop(&group).map_or_else(|| self.load(group), Ok)?;
            sums.changed.insert(group, loaded);
        }
        Ok(sums.changed.get_mut(&group).expect("it is there"))
    }

    /// Reads whole pages of one group, and checks them.
    fn read_pages(&self, page: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(page_at(page), into)?;
        for (place, bytes) in into.chunks(PAGE_BYTES as usize).enumerate() {
            let page = page + place as u64;
            let expected = self.sum_of(&mut self.sums(), page)?;
            let good = match expected {
                _ if page == 0 => true,
                0 => bytes.iter().all(|byte| *byte == 0),
                expected => expected == sum(page, bytes),
            };
            if !good {
                return Err(self.rotten(page));
            }
        }
        Ok(())
    }

    fn rotten(&self, page: u64) -> io::Error {
        let told = std::mem::replace(&mut self.sums().told, true);
        if !told {
            (self.on_rot)(page * PAGE_BYTES);
        }
        io::Error::new(io::ErrorKind::InvalidData, format!("page {page} is rotten"))
    }

    /// Writes whole pages of one group.
    fn write_pages(&self, page: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(page_at(page), bytes)?;
        let mut sums = self.sums();
        let group = self.changed(&mut sums, page / GROUP_PAGES)?;
        for (place, bytes) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            let page = page + place as u64;
            group[(page % GROUP_PAGES) as usize] = if page == 0 { MARK } else { sum(page, bytes) };
        }
        Ok(())
    }

    /// A part of a page: the rest of it stays.
    fn write_part(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (page, from) = (offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize);
        let mut whole = [0; PAGE_BYTES as usize];
        self.read_pages(page, &mut whole)?;
        whole[from..from + bytes.len()].copy_from_slice(bytes);
        self.write_pages(page, &whole)
    }

    fn check_end(&self, offset: u64, bytes: usize) -> io::Result<()> {
        let end = offset.checked_add(bytes as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if end > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Where the checksums of a group lie.
fn sums_at(group: u64) -> u64 {
    group * (GROUP_PAGES + 1) * PAGE_BYTES
}

/// Where a page of the contents lies.
fn page_at(page: u64) -> u64 {
    sums_at(page / GROUP_PAGES) + (1 + page % GROUP_PAGES) * PAGE_BYTES
}

/// Never 0.
fn sum(page: u64, bytes: &[u8]) -> u32 {
    crc32c(&[&page.to_le_bytes(), bytes]).max(1)
}

/// How far from `offset` a run goes that is a part of one page, or whole pages of one group.
fn run_bytes(offset: u64, left: usize) -> usize {
    let in_page = offset % PAGE_BYTES;
    let to_page_end = (PAGE_BYTES - in_page) as usize;
    if in_page != 0 || left < to_page_end {
        return left.min(to_page_end);
    }
    let to_group_end = (GROUP_PAGES - offset / PAGE_BYTES % GROUP_PAGES) * PAGE_BYTES;
    let whole = left as u64 / PAGE_BYTES * PAGE_BYTES;
    whole.min(to_group_end) as usize
}

fn is_whole(offset: u64, bytes: usize) -> bool {
    offset.is_multiple_of(PAGE_BYTES) && (bytes as u64).is_multiple_of(PAGE_BYTES)
}

impl File for SummedFile {
    fn read_at(&self, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        self.check_end(offset, into.len())?;
        while !into.is_empty() {
            let (run, rest) = into.split_at_mut(run_bytes(offset, into.len()));
            if is_whole(offset, run.len()) {
                self.read_pages(offset / PAGE_BYTES, run)?;
            } else {
                let mut whole = [0; PAGE_BYTES as usize];
                self.read_pages(offset / PAGE_BYTES, &mut whole)?;
                let from = (offset % PAGE_BYTES) as usize;
                run.copy_from_slice(&whole[from..from + run.len()]);
            }
            offset += run.len() as u64;
            into = rest;
        }
        Ok(())
    }

    /// Only below the length.
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        self.check_end(offset, bytes.len())?;
        while !bytes.is_empty() {
            let (run, rest) = bytes.split_at(run_bytes(offset, bytes.len()));
            match is_whole(offset, run.len()) {
                true => self.write_pages(offset / PAGE_BYTES, run)?,
                false => self.write_part(offset, run)?,
            }
            offset += run.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let pages = self.file.len()? / PAGE_BYTES;
        Ok((pages - pages.div_ceil(GROUP_PAGES + 1)) * PAGE_BYTES)
    }

    /// Whole pages only.
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the length is not one of whole pages"));
        }
        let pages = bytes / PAGE_BYTES;
        let groups = pages.div_ceil(GROUP_PAGES);
        if bytes < self.len()? {
            let mut sums = self.sums();
            sums.changed.split_off(&groups);
            let gone: Vec<u64> =
                sums.kept.iter().map(|(group, _)| *group).filter(|group| *group >= groups).collect();
            gone.iter().for_each(|group| drop(sums.kept.pop(group)));
            // What grows there again is zeros.
            if !pages.is_multiple_of(GROUP_PAGES) {
                self.changed(&mut sums, groups - 1)?[(pages % GROUP_PAGES) as usize..].fill(0);
            }
        }
        self.file.set_len((pages + groups) * PAGE_BYTES)
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut sums = self.sums();
            while let Some((group, changed)) = sums.changed.pop_first() {
                let bytes: Vec<u8> = changed.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                if let Err(error) = self.file.write_at(sums_at(group), &bytes) {
                    sums.changed.insert(group, changed);
                    return Err(error);
                }
                sums.kept.put(group, changed);
            }
        }
        self.file.sync_data()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::{Strategy, any, prop, prop_oneof};
    use proptest::{prop_assert_eq, proptest};

    use super::*;
    use crate::disks::{Disks, MemoryDisks, OpenMode, Steps};

    const STEPS: Steps = Steps { first_bytes: 1 << 20, next_bytes: 1 << 20 };

    fn below() -> Arc<dyn File> {
        let disks = MemoryDisks::new(1 << 30);
        disks.create_dir(Path::new("/")).unwrap();
        disks.open(Path::new("/file"), OpenMode::New).unwrap()
    }

    fn open(below: &Arc<dyn File>) -> SummedFile {
        let file = Arc::new(LengthFile::open(below.clone(), STEPS).unwrap());
        SummedFile::open(file, Box::new(|_| {})).unwrap()
    }

    #[test]
    fn each_flipped_bit_of_a_page_or_of_its_checksum_is_told() {
        let below = below();
        let file = open(&below);
        file.set_len(3 * PAGE_BYTES).unwrap();
        let contents: Vec<u8> = (0..3 * PAGE_BYTES).map(|place| (place * 31 / 7) as u8).collect();
        file.write_at(0, &contents).unwrap();
        file.sync_data().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let physical = LengthFile::open(below.clone(), STEPS).unwrap();
        let of_page = page_at(2)..page_at(3);
        let of_sum = 8..12;
        for place in of_page.step_by(97).chain(of_sum) {
            for bit in 0..8 {
                let mut byte = [0];
                physical.read_at(place, &mut byte).unwrap();
                physical.write_at(place, &[byte[0] ^ 1 << bit]).unwrap();
                let length = Arc::new(LengthFile::open(below.clone(), STEPS).unwrap());
                let heard = told.clone();
                let rotten = SummedFile::open(length, Box::new(move |at| heard.store(at, Ordering::Relaxed)));
                let rotten = rotten.unwrap();
                let mut read = vec![0; contents.len()];
                let error = rotten.read_at(0, &mut read).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{place} {bit}");
                assert_eq!(told.swap(0, Ordering::Relaxed), 2 * PAGE_BYTES);
                rotten.read_at(0, &mut read[..2 * PAGE_BYTES as usize]).unwrap();
                physical.write_at(place, &byte).unwrap();
            }
        }
    }

    #[test]
    fn a_page_in_another_place_is_rot_and_a_file_without_checksums_is_refused() {
        let below = below();
        let file = open(&below);
        file.set_len(3 * PAGE_BYTES).unwrap();
        file.write_at(0, &[7; 3 * PAGE_BYTES as usize]).unwrap();
        file.sync_data().unwrap();
        let physical = LengthFile::open(below.clone(), STEPS).unwrap();
        let mut sums = [0; PAGE_BYTES as usize];
        physical.read_at(0, &mut sums).unwrap();
        assert_eq!(sums[..4], MARK.to_le_bytes());
        assert_ne!(sums[4..8], sums[8..12], "the same bytes in two places");
        physical.write_at(0, &[0; 4]).unwrap();
        let length = Arc::new(LengthFile::open(below, STEPS).unwrap());
        assert!(SummedFile::open(length, Box::new(|_| {})).is_err());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        SetPages(u64),
        Sync,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = 3 * GROUP_PAGES;
        prop_oneof![
            4 => (0..pages * PAGE_BYTES, prop::collection::vec(any::<u8>(), 1..20_000))
                .prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
            1 => (0..pages).prop_map(Step::SetPages),
            1 => prop::sample::select(vec![Step::Sync, Step::Reopen]),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_file_like_any_other(steps in prop::collection::vec(step(), 1..30)) {
            let below = below();
            let mut file = open(&below);
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(offset, bytes) => {
                        let end = offset as usize + bytes.len();
                        let wrote = file.write_at(offset, &bytes);
                        prop_assert_eq!(wrote.is_ok(), end <= model.len());
                        if wrote.is_ok() {
                            model[offset as usize..end].copy_from_slice(&bytes);
                        }
                    }
                    Step::SetPages(pages) => {
                        file.set_len(pages * PAGE_BYTES).unwrap();
                        model.resize((pages * PAGE_BYTES) as usize, 0);
                        if pages > 0 {
                            file.write_at(0, &model[..320]).unwrap(); // As a database does with its first page.
                        }
                    }
                    Step::Sync => file.sync_data().unwrap(),
                    Step::Reopen => {
                        file.sync_data().unwrap();
                        file = open(&below);
                    }
                }
                prop_assert_eq!(file.len().unwrap(), model.len() as u64);
                let mut read = vec![1; model.len()];
                file.read_at(0, &mut read).unwrap();
                prop_assert_eq!(&read, &model);
            }
        }
    }
}
