//! Tests of the store as a whole: over real and in-memory disks, with rot, faults and restarts.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::AtomicUsize;

use fabric::disks::{Disks, File, MemoryDisks, OpenMode, Space};
use fabric::env::system::SystemEnv;
use fabric::ids::SessionId;
use fabric::net::LocalNet;
use proptest::prelude::*;

use super::*;

/// Disks that count syncs, whose volumes fail when told to, and that keep what they would hold after a crash.
struct TestDisks {
    inner: Arc<dyn Disks>,
    syncs: AtomicUsize,
    failing: AtomicBool,
}

struct TestFile {
    inner: Arc<dyn File>,
    disks: Arc<TestDisks>,
    is_volume: bool,
}

/// The same disks for [`Seams`], which want an owner of their own.
struct SharedDisks(Arc<TestDisks>);

impl TestDisks {
    fn check(&self, is_volume: bool) -> io::Result<()> {
        let fails = is_volume && self.failing.load(Ordering::Acquire);
        if fails { Err(io::Error::other("planned fault")) } else { Ok(()) }
    }
}

impl Disks for SharedDisks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let is_volume = path.to_string_lossy().contains("volume-");
        self.0.check(is_volume)?;
        Ok(Arc::new(TestFile { inner: self.0.inner.open(path, mode)?, disks: self.0.clone(), is_volume }))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.inner.list(directory)
    }
    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        self.0.inner.create_dir(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.inner.remove(path)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.0.inner.sync_dir(directory)
    }
    fn space(&self, directory: &Path) -> io::Result<Space> {
        self.0.inner.space(directory)
    }
    fn lock(&self, directory: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.inner.lock(directory)
    }
}

impl File for TestFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disks.check(self.is_volume)?;
        self.inner.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disks.check(self.is_volume)?;
        self.inner.write_at(offset, bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disks.check(self.is_volume)?;
        self.disks.syncs.fetch_add(1, Ordering::AcqRel);
        self.inner.sync_data()
    }
    fn wants_filling(&self) -> bool {
        self.inner.wants_filling()
    }
}

struct World {
    disks: Arc<TestDisks>,
    seams: Seams,
    settings: ChunkSettings,
}

impl World {
    fn new() -> World {
        World::armed(&[])
    }

    fn armed(points: &[&str]) -> World {
        let inner = Arc::new(MemoryDisks::new(2 << 30));
        let disks =
            Arc::new(TestDisks { inner, syncs: AtomicUsize::new(0), failing: AtomicBool::new(false) });
        let env = SystemEnv::with_armed(points.iter().map(ToString::to_string));
        let seams = Seams {
            env: Arc::new(env),
            net: Arc::new(LocalNet::default()),
            disks: Arc::new(SharedDisks(disks.clone())),
        };
        let settings = ChunkSettings::new(NodeId(1), "/data/chunks".into(), 32 * MIB);
        World { disks, seams, settings }
    }

    async fn store(&self) -> ChunkStore {
        let store = ChunkStore::open(&self.seams, self.settings.clone()).await.unwrap();
        store.wait_ready().await;
        store
    }

    fn volume_path(&self, number: u32) -> PathBuf {
        self.settings.directory.join(volume::file_name(number))
    }

    /// The pages of a volume that hold `needle`, with one byte of it changed.
    fn rot(&self, number: u32, needle: &[u8]) -> usize {
        let file = self.disks.inner.open(&self.volume_path(number), OpenMode::Existing).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let places: Vec<usize> =
            (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
        for place in &places {
            file.write_at(*place as u64 + 3, &[bytes[place + 3] ^ 1]).unwrap();
        }
        places.len()
    }
}

fn extent(number: u64) -> ExtentId {
    ExtentId::new(number as u16, SessionId { epoch: 1, number: 1 }, number)
}

fn pattern(bytes: usize, seed: u8) -> Bytes {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(next).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn chunks_of_every_size_come_back_also_after_a_restart() {
    let world = World::new();
    let store = world.store().await;
    let edges = [0, 1, 2047, 2048, 2049, 4070, 4071, 4072, 4095, 4096, 4097, 8167, 8168, 65_511, 65_536];
    let large = [CHUNK_BYTES - 26, CHUNK_BYTES - 25, CHUNK_BYTES - 24, CHUNK_BYTES - 1, CHUNK_BYTES];
    let sizes: Vec<usize> = edges.into_iter().chain(large).collect();
    for (number, size) in sizes.iter().enumerate() {
        let bytes = pattern(*size, number as u8);
        let parts = vec![bytes.slice(..size / 3), Bytes::new(), bytes.slice(size / 3..)];
        store.put(extent(number as u64).chunk(7), parts, None).await.unwrap();
    }
    let check = async |store: &ChunkStore| {
        for (number, size) in sizes.iter().enumerate() {
            let chunk = extent(number as u64).chunk(7);
            let expected = pattern(*size, number as u8);
            assert_eq!(store.get(chunk, 0, *size as u32).await.unwrap(), expected, "{size}");
            let half = (size / 2) as u32;
            assert_eq!(store.get(chunk, half, 0).await.unwrap(), Bytes::new());
            let part = store.get(chunk, half / 2, half).await.unwrap();
            assert_eq!(part, expected.slice(size / 2 / 2..size / 2 / 2 + size / 2));
            assert!(matches!(store.get(chunk, 1, *size as u32).await, Err(ChunkError::Refused(..))));
        }
    };
    check(&store).await;
    store.close().await;
    assert!(matches!(store.get(extent(0).chunk(7), 0, 0).await, Err(ChunkError::Unavailable(..))));
    check(&world.store().await).await;
}

#[tokio::test]
async fn puts_are_idempotent_and_never_replace() {
    let world = World::new();
    let store = world.store().await;
    let chunk = extent(1).chunk(0);
    store.put(chunk, vec![pattern(5000, 1)], None).await.unwrap();
    store.put(chunk, vec![pattern(5000, 1)], None).await.unwrap();
    for other in [pattern(5000, 2), pattern(4999, 1), Bytes::new()] {
        assert!(matches!(store.put(chunk, vec![other], None).await, Err(ChunkError::Refused(..))));
    }
    assert_eq!(store.get(chunk, 0, 5000).await.unwrap(), pattern(5000, 1));
    let too_large = vec![pattern(CHUNK_BYTES, 1), Bytes::from_static(b"x")];
    assert!(matches!(store.put(extent(2).chunk(0), too_large, None).await, Err(ChunkError::Refused(..))));
    store.delete(vec![chunk, extent(9).chunk(9)]).await.unwrap();
    store.delete(vec![chunk]).await.unwrap();
    assert!(matches!(store.get(chunk, 0, 1).await, Err(ChunkError::NotFound(..))));
    assert_eq!(store.status().disk_bytes, 0);
    store.put(chunk, vec![pattern(100, 2)], None).await.unwrap();
    assert_eq!(store.get(chunk, 0, 100).await.unwrap(), pattern(100, 2));
}

#[tokio::test]
async fn a_mebibyte_takes_a_mebibyte() {
    let world = World::new();
    let store = world.store().await;
    for ordinal in 0..16 {
        store.put(extent(1).chunk(ordinal), vec![pattern(CHUNK_BYTES, ordinal as u8)], None).await.unwrap();
        store.put(extent(2).chunk(ordinal), vec![pattern(777, ordinal as u8)], None).await.unwrap();
    }
    store.close().await;
    let file = world.seams.disks.open(&world.volume_path(1), OpenMode::Existing).unwrap();
    let file = fabric::disks::LengthFile::open(file, fabric::disks::Steps::default()).unwrap();
    let database = redb::Database::builder()
        .create_with_backend(consensus::redb_file::RedbFile::new(Arc::new(file)))
        .unwrap();
    let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
    let stats = redb::ReadableTableMetadata::stats(&txn.open_table(tables::CHUNK).unwrap()).unwrap();
    assert_eq!(stats.leaf_pages(), 16);
    assert!(stats.stored_bytes() >= 16 * (CHUNK_BYTES as u64 - 25));
    assert!(stats.fragmented_bytes() < 16 * 1024, "{stats:?}");
}

#[tokio::test]
async fn one_batch_is_one_sync() {
    let world = World::new();
    let store = world.store().await;
    store.put(extent(1).chunk(0), vec![pattern(4096, 0)], None).await.unwrap();
    let before = world.disks.syncs.load(Ordering::Acquire);
    for ordinal in 1..=8 {
        store.put(extent(1).chunk(ordinal), vec![pattern(20_000, 0)], None).await.unwrap();
    }
    assert_eq!(world.disks.syncs.load(Ordering::Acquire) - before, 8, "one sync for each put alone");
    let (before, together) = (world.disks.syncs.load(Ordering::Acquire), 64);
    let puts = (0..together).map(|number| store.put(extent(2).chunk(number), vec![pattern(4096, 0)], None));
    for outcome in futures::future::join_all(puts).await {
        outcome.unwrap();
    }
    let syncs = world.disks.syncs.load(Ordering::Acquire) - before;
    assert!(syncs <= together as usize / 8, "{syncs} syncs for {together} puts at once");
}

#[tokio::test]
async fn rot_is_found_reported_and_healed_by_the_same_bytes() {
    for (size, skip) in [(CHUNK_BYTES, false), (1000, false), (CHUNK_BYTES, true)] {
        let world = World::armed(if skip { &["chunk_skip_crc"] } else { &[] });
        let chunk = extent(1).chunk(0);
        let bytes = pattern(size, 1);
        let store = world.store().await;
        store.put(chunk, vec![bytes.clone()], None).await.unwrap();
        store.close().await;
        assert!(world.rot(1, &bytes[100..150]) > 0);
        let store = world.store().await;
        if skip {
            assert_ne!(store.get(chunk, 0, size as u32).await.unwrap(), bytes, "the planted bug serves rot");
            continue;
        }
        for range in [(0, size as u32), (size as u32 - 1, 1)] {
            assert!(matches!(store.get(chunk, range.0, range.1).await, Err(ChunkError::Corrupt(..))));
        }
        assert_eq!(
            store.check(vec![chunk, extent(2).chunk(0)]).await.unwrap(),
            [Verdict::Rotten, Verdict::Absent]
        );
        assert_eq!(store.status().repairs, 1);
        assert_eq!(store.take_repair(), Some(chunk));
        let other = store.put(chunk, vec![pattern(size, 2)], None).await;
        assert!(matches!(other, Err(ChunkError::Refused(..))), "rot does not open the door to other bytes");
        store.put(chunk, vec![bytes.clone()], None).await.unwrap();
        assert_eq!(store.get(chunk, 0, size as u32).await.unwrap(), bytes);
        assert_eq!(store.check(vec![chunk]).await.unwrap(), [Verdict::Whole { bytes: size as u32 }]);
    }
}

#[tokio::test]
async fn a_volume_that_fails_is_reopened_and_loses_nothing() {
    let world = World::new();
    let store = world.store().await;
    let stored = extent(1).chunk(0);
    store.put(stored, vec![pattern(5000, 1)], None).await.unwrap();
    world.disks.failing.store(true, Ordering::Release);
    let lost = store.put(extent(2).chunk(0), vec![pattern(5000, 2)], None).await;
    assert!(matches!(lost, Err(ChunkError::Unavailable(..))), "{lost:?}");
    let blocked = store.get(stored, 0, 5000).await;
    assert!(matches!(blocked, Err(ChunkError::Unavailable(..))), "unavailable is not the same as not there");
    world.disks.failing.store(false, Ordering::Release);
    while store.status().broken > 0 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.get(stored, 0, 5000).await.unwrap(), pattern(5000, 1));
    store.put(extent(2).chunk(0), vec![pattern(5000, 2)], None).await.unwrap();
    assert_eq!(store.get(extent(2).chunk(0), 0, 5000).await.unwrap(), pattern(5000, 2));
}

/// What may have become of the file of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ruin {
    Gone,
    Empty,
    Zeros,
    Garbage,
    OfAnotherNode,
}

impl World {
    async fn ruin(&self, number: u32, ruin: Ruin) {
        let path = self.volume_path(number);
        let file = self.disks.inner.open(&path, OpenMode::Existing).unwrap();
        let bytes = file.len().unwrap() as usize;
        match ruin {
            Ruin::Gone => self.disks.inner.remove(&path).unwrap(),
            Ruin::Empty => file.set_len(0).unwrap(),
            Ruin::Zeros => file.write_at(0, &vec![0; bytes]).unwrap(),
            Ruin::Garbage => file.write_at(0, &pattern(bytes, 9)).unwrap(),
            Ruin::OfAnotherNode => {
                let other = World::new();
                let settings = ChunkSettings { node: NodeId(2), ..other.settings.clone() };
                let store = ChunkStore::open(&other.seams, settings).await.unwrap();
                store.wait_ready().await;
                store.put(extent(77).chunk(0), vec![pattern(50, 1)], None).await.unwrap();
                store.close().await;
                let foreign = other.disks.inner.open(&other.volume_path(1), OpenMode::Existing).unwrap();
                let mut contents = vec![0; foreign.len().unwrap() as usize];
                foreign.read_at(0, &mut contents).unwrap();
                file.set_len(0).unwrap();
                file.write_at(0, &contents).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_volume_that_is_gone_or_ruined_is_a_loss_that_is_told() {
    for ruin in [Ruin::Gone, Ruin::Empty, Ruin::Zeros, Ruin::Garbage, Ruin::OfAnotherNode] {
        let mut world = World::new();
        world.settings.volume_bytes_max = 4 * MIB;
        let store = world.store().await;
        let birth = store.untold_loss().unwrap();
        store.tell_loss(birth).await.unwrap();
        let bytes = pattern(CHUNK_BYTES, 1);
        for number in 1..=8 {
            store.put(extent(number).chunk(0), vec![bytes.clone()], None).await.unwrap();
        }
        assert!(store.status().volumes >= 3 && !store.status().untold_loss);
        store.close().await;

        world.ruin(1, ruin).await;
        let store = world.store().await;
        while store.status().broken > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(store.untold_loss() > Some(birth), "{ruin:?}");
        let mut lost = Vec::new();
        for number in 1..=8 {
            match store.get(extent(number).chunk(0), 0, CHUNK_BYTES as u32).await {
                Ok(found) => assert_eq!(found, bytes),
                Err(ChunkError::NotFound(_)) => lost.push(number),
                Err(error) => panic!("{ruin:?}: {error}"),
            }
        }
        assert!((1..=4).contains(&lost.len()), "{ruin:?}: {lost:?}");
        assert_eq!(store.scan(None, 100).await.unwrap().len(), 8 - lost.len());
        // The copies come back, into another volume.
        for number in &lost {
            store.put(extent(*number).chunk(0), vec![bytes.clone()], None).await.unwrap();
        }
        store.tell_loss(store.untold_loss().unwrap()).await.unwrap();
        let names = || world.disks.inner.list(&world.settings.directory).unwrap();
        assert_eq!(names().iter().any(|name| name.ends_with(".lost")), ruin != Ruin::Gone, "{ruin:?}");
        store.remove_lost().await;
        assert!(!names().iter().any(|name| name.ends_with(".lost")));
        store.close().await;
        let store = world.store().await;
        assert_eq!((store.untold_loss(), store.scan(None, 100).await.unwrap().len()), (None, 8), "{ruin:?}");
    }
}

#[tokio::test]
async fn a_volume_that_does_not_open_is_owed_and_tried_on() {
    let mut world = World::new();
    let clock = Arc::new(crate::testing::Clock::default());
    world.seams.env = clock.clone();
    let store = world.store().await;
    let stored = extent(1).chunk(0);
    store.put(stored, vec![pattern(5000, 1)], None).await.unwrap();
    store.tell_loss(1).await.unwrap();
    world.disks.failing.store(true, Ordering::Release);
    assert!(store.put(extent(2).chunk(0), vec![pattern(5000, 2)], None).await.is_err());
    while store.untold_loss().is_none() {
        clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((store.untold_loss(), store.status().broken), (Some(2), 1), "it is not given up");
    let read = store.get(stored, 0, 5000).await;
    assert!(matches!(read, Err(ChunkError::NotFound(..))), "{read:?}");
    world.disks.failing.store(false, Ordering::Release);
    while store.status().broken > 0 {
        clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while store.get(stored, 0, 5000).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await; // It is being counted.
    }
    assert_eq!(store.untold_loss(), Some(2));
}

#[tokio::test]
async fn a_volume_that_vanishes_at_run_time_is_not_made_anew() {
    let mut world = World::new();
    world.settings.volume_bytes_max = 4 * MIB;
    let store = world.store().await;
    let bytes = pattern(CHUNK_BYTES, 1);
    for number in 1..=8 {
        store.put(extent(number).chunk(0), vec![bytes.clone()], None).await.unwrap();
    }
    store.tell_loss(store.untold_loss().unwrap()).await.unwrap();
    // The first volume is sealed and closed; its next reader finds no file.
    while !store.shared.volume(1).unwrap().close() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.ruin(1, Ruin::Gone).await;
    let read = store.get(extent(1).chunk(0), 0, 1).await;
    assert!(matches!(read, Err(ChunkError::Unavailable(..))), "{read:?}");
    while store.untold_loss().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let read = store.get(extent(1).chunk(0), 0, 1).await;
    assert!(matches!(read, Err(ChunkError::NotFound(..))), "{read:?}");
    store.put(extent(1).chunk(0), vec![bytes.clone()], None).await.unwrap();
    assert_eq!(store.get(extent(1).chunk(0), 0, CHUNK_BYTES as u32).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_store_that_is_dropped_closes_its_files() {
    let world = World::new();
    let store = world.store().await;
    store.put(extent(1).chunk(0), vec![pattern(5000, 1)], None).await.unwrap();
    let shared = Arc::downgrade(&store.shared);
    drop(store);
    while shared.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.store().await.get(extent(1).chunk(0), 0, 5000).await.unwrap(), pattern(5000, 1));
}

#[tokio::test]
async fn full_volumes_are_followed_by_others_and_all_are_scanned() {
    let mut world = World::new();
    world.settings.volume_bytes_max = 4 * MIB;
    let store = world.store().await;
    let mut ids = Vec::new();
    let bytes = pattern(CHUNK_BYTES, 0);
    for number in 0..12 {
        for ordinal in 0..2 {
            let chunk = extent(100 - number).chunk(ordinal);
            store.put(chunk, vec![bytes.clone()], None).await.unwrap();
            ids.push(chunk);
        }
    }
    ids.sort_unstable();
    let volumes = store.status().volumes;
    assert!((8..=12).contains(&volumes), "{volumes}");
    let store = {
        store.close().await;
        world.store().await
    };
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(after, 5).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.into_iter().map(|stat| stat.id));
    }
    assert_eq!(seen, ids);
    // The same bytes in another volume than the one written now are still the same bytes.
    let first = extent(100).chunk(0);
    store.put(first, vec![bytes.clone()], None).await.unwrap();
    assert!(matches!(store.put(first, vec![pattern(9, 0)], None).await, Err(ChunkError::Refused(..))));
    store.delete(ids).await.unwrap();
    let volumes = store.status().volumes;
    assert_eq!(store.status().disk_bytes, 0);
    assert!(store.scan(None, 5).await.unwrap().is_empty());
    for ordinal in 0..20 {
        store.put(extent(3).chunk(ordinal), vec![bytes.clone()], None).await.unwrap();
    }
    assert_eq!(store.status().volumes, volumes, "volumes with room are used before new ones are made");
}

/// Chunks of [`World::crowded`]: some 60 fill a volume.
const CROWD_BYTES: usize = 60_000;

impl World {
    /// A store with several full volumes of 4 MiB, in memory.
    async fn crowded(chunks: u64) -> (World, ChunkStore) {
        let mut world = World::new();
        world.settings.volume_bytes_max = 4 * MIB;
        let store = world.store().await;
        store.tell_loss(store.untold_loss().unwrap()).await.unwrap();
        for number in 0..chunks {
            store.put(extent(number).chunk(0), vec![pattern(CROWD_BYTES, number as u8)], None).await.unwrap();
        }
        (world, store)
    }

    /// Bytes of all volume files.
    fn file_bytes(&self) -> u64 {
        let disks = &self.disks.inner;
        let names = disks.list(&self.settings.directory).unwrap();
        let bytes = |name: &String| {
            disks.open(&self.settings.directory.join(name), OpenMode::Existing).unwrap().len().unwrap()
        };
        names.iter().filter(|name| name.ends_with(".redb")).map(bytes).sum()
    }
}

async fn read_crowd(store: &ChunkStore, number: u64) -> Result<(), ChunkError> {
    let bytes = store.get(extent(number).chunk(0), 0, CROWD_BYTES as u32).await?;
    assert_eq!(bytes, pattern(CROWD_BYTES, number as u8));
    Ok(())
}

/// Compacts until there is nothing more to do. Returns the volumes removed.
async fn compact_all(store: &ChunkStore) -> usize {
    let mut removed = 0;
    loop {
        match store.compact().await.unwrap() {
            Compacted::Nothing => return removed,
            Compacted::Moved(_) => {}
            Compacted::Removed(_) => removed += 1,
        }
    }
}

#[tokio::test]
async fn nearly_empty_volumes_are_compacted() {
    const CHUNKS: u64 = 300;
    let (world, store) = World::crowded(CHUNKS).await;
    assert_eq!(compact_all(&store).await, 0, "full volumes stay as they are");
    let stays = |number: &u64| number.is_multiple_of(10);
    let (live, dead): (Vec<u64>, Vec<u64>) = (0..CHUNKS).partition(stays);
    store.delete(dead.iter().map(|number| extent(*number).chunk(0)).collect()).await.unwrap();
    let (volumes, files) = (store.status().volumes, world.file_bytes());
    assert!(volumes >= 5);
    assert_eq!(compact_all(&store).await, volumes - 1);
    assert_eq!(store.status().volumes, 1);
    assert!(world.file_bytes() < files / 2, "{} of {files}", world.file_bytes());
    let (mut store, mut gone) = (store, dead);
    for round in 0..2 {
        assert_eq!(store.scan(None, 1000).await.unwrap().len(), live.len() - round);
        for number in &live[round..] {
            read_crowd(&store, *number).await.unwrap();
        }
        for number in &gone {
            assert!(matches!(read_crowd(&store, *number).await, Err(ChunkError::NotFound(_))));
        }
        if round == 0 {
            store.delete(vec![extent(live[0]).chunk(0)]).await.unwrap();
            gone.push(live[0]);
            store.close().await;
            store = world.store().await;
            assert_eq!(store.untold_loss(), None, "a volume that was removed is no loss");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chunks_are_found_and_deleted_while_they_move() {
    const CHUNKS: u64 = 300;
    for _ in 0..4 {
        let (_world, store) = World::crowded(CHUNKS).await;
        let dead = (0..CHUNKS).filter(|number| number % 10 > 1).map(|number| extent(number).chunk(0));
        store.delete(dead.collect()).await.unwrap();
        let done = AtomicBool::new(false);
        let compact = async {
            let removed = compact_all(&store).await;
            done.store(true, Ordering::Release);
            removed
        };
        let read = async {
            while !done.load(Ordering::Acquire) {
                for number in (0..CHUNKS).step_by(10) {
                    read_crowd(&store, number).await.unwrap();
                }
                let stats = store.scan(None, 1000).await.unwrap();
                let kept = stats.iter().filter(|stat| stat.id.extent().hash().is_multiple_of(10)).count();
                assert_eq!(kept as u64, CHUNKS / 10);
            }
        };
        let delete = async {
            for number in (1..CHUNKS).step_by(10) {
                let chunk = extent(number).chunk(0);
                store.delete(vec![chunk]).await.unwrap();
                assert_eq!(store.stat(vec![chunk]).await.unwrap(), [None]);
            }
        };
        let (removed, (), ()) = tokio::join!(compact, read, delete);
        assert!(removed >= 3, "{removed}");
        assert_eq!(store.scan(None, 1000).await.unwrap().len() as u64, CHUNKS / 10);
    }
}

#[tokio::test]
async fn a_rotten_chunk_does_not_move_before_it_is_healed() {
    let (mut world, store) = World::crowded(150).await;
    // Five are left in volume 1, less in the one before the last.
    let stays = |number: &u64| *number < 5 || *number == 70;
    store
        .delete((0..150).filter(|number| !stays(number)).map(|n| extent(n).chunk(0)).collect())
        .await
        .unwrap();
    store.close().await;
    assert!(world.rot(1, &pattern(CROWD_BYTES, 3)[100..150]) > 0);
    let clock = Arc::new(crate::testing::Clock::default());
    world.seams.env = clock.clone();
    let store = world.store().await;
    compact_all(&store).await;
    assert!(store.shared.volume(1).is_some());
    assert!(matches!(read_crowd(&store, 3).await, Err(ChunkError::Corrupt(_))));
    assert_eq!((store.status().repairs, store.take_repair()), (1, Some(extent(3).chunk(0))));
    for number in [0, 1, 2, 4, 70] {
        read_crowd(&store, number).await.unwrap();
        assert_ne!(store.shared.volumes_of(extent(number))[0].number, 1, "{number} has moved");
    }
    assert_eq!(store.shared.volumes_of(extent(3)).len(), 1, "rot is not copied");
    store.put(extent(3).chunk(0), vec![pattern(CROWD_BYTES, 3)], None).await.unwrap();
    assert_eq!(compact_all(&store).await, 0, "it is left alone for a while");
    clock.advance(Duration::from_secs(2 * 60 * 60));
    assert_eq!(compact_all(&store).await, 1);
    read_crowd(&store, 3).await.unwrap();
    assert_eq!(store.status().volumes, 1);
}

#[tokio::test]
async fn below_the_reserve_only_empty_volumes_are_compacted() {
    let (mut world, store) = World::crowded(200).await;
    let stays = |number: &u64| *number < 5 || *number == 70;
    store
        .delete((0..200).filter(|number| !stays(number)).map(|n| extent(n).chunk(0)).collect())
        .await
        .unwrap();
    store.close().await;
    world.settings.reserve_bytes = u64::MAX;
    let store = world.store().await;
    let volumes = store.status().volumes;
    assert_eq!(compact_all(&store).await, volumes - 2);
    for number in [0, 1, 2, 3, 4, 70] {
        read_crowd(&store, number).await.unwrap();
    }
    store.delete(vec![extent(70).chunk(0)]).await.unwrap();
    assert_eq!(compact_all(&store).await, 1);
    store.close().await;
    let store = world.store().await;
    assert_eq!((store.status().volumes, store.untold_loss()), (1, None));
    read_crowd(&store, 4).await.unwrap();
}

#[tokio::test]
async fn few_volumes_are_open_and_a_settled_one_serves_at_once() {
    let mut world = World::new();
    world.settings.volume_bytes_max = 2 * MIB;
    let store = world.store().await;
    let bytes = pattern(CHUNK_BYTES, 1);
    for number in 0..20 {
        store.put(extent(number).chunk(0), vec![bytes.clone()], None).await.unwrap();
    }
    assert!(store.status().volumes >= 15);
    for number in 0..20 {
        store.get(extent(number).chunk(0), 0, 1).await.unwrap();
        let open = store.shared.all().iter().filter(|volume| volume.is_open()).count();
        assert!(open <= HANDLES_MAX + 2, "{open} are open"); // The one written, and the one read just now.
    }
    let sealed: Vec<_> = store.shared.all().into_iter().filter(|volume| !volume.is_dirty()).collect();
    assert!(sealed.len() + 1 >= store.status().volumes, "all but the one written are settled");

    // Before the last volume is counted the first ones serve, and nothing is said to be absent.
    store.shared.ready.send_replace(false);
    store.shared.with_locator(|locator| locator.forget(store.shared.all().last().unwrap().number));
    store.get(extent(0).chunk(0), 0, 1).await.unwrap();
    for call in [
        store.get(extent(99).chunk(0), 0, 1).await.map(drop),
        store.stat(vec![extent(99).chunk(0)]).await.map(drop),
    ] {
        let Err(ChunkError::Unavailable(_, why)) = &call else { panic!("{call:?}") };
        assert!(why.contains("recovering"), "{why}");
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_in_time_and_recovers_by_itself() {
    let mut world = World::new();
    let inner = Arc::new(MemoryDisks::new(200 << 20));
    world.disks = Arc::new(TestDisks { inner, syncs: AtomicUsize::new(0), failing: AtomicBool::new(false) });
    world.seams.disks = Arc::new(SharedDisks(world.disks.clone()));
    world.settings.reserve_bytes = 40 * MIB;
    let store = world.store().await;
    let bytes = pattern(CHUNK_BYTES, 1);
    let mut stored = 0;
    let refused = loop {
        match store.put(extent(1).chunk(stored), vec![bytes.clone()], None).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200);
    };
    assert!(matches!(refused, ChunkError::Full(_)), "{refused}");
    assert!(stored > 60 && store.status().broken == 0, "{stored} {:?}", store.status());
    // Somebody else takes the rest of the disk: reads and deletes go on.
    let path = Path::new("/data/filler");
    let filler = world.disks.inner.open(path, OpenMode::New).unwrap();
    let free = world.disks.inner.space(path).unwrap().free_bytes;
    filler.write_at(0, &vec![1; free as usize]).unwrap();
    store.get(extent(1).chunk(0), 0, 1).await.unwrap();
    store.delete((0..stored).map(|ordinal| extent(1).chunk(ordinal)).collect()).await.unwrap();
    let again = store.put(extent(2).chunk(0), vec![bytes.clone()], None).await;
    again.expect("what deletes freed inside the volume is used again");
    drop(filler);
    world.disks.inner.remove(path).unwrap();
    for ordinal in 0..stored {
        store.put(extent(3).chunk(ordinal), vec![bytes.clone()], None).await.unwrap();
    }
}

#[tokio::test]
async fn below_the_reserve_puts_are_refused_and_deletes_go_on() {
    let mut world = World::new();
    let store = world.store().await;
    store.put(extent(1).chunk(0), vec![pattern(5000, 1)], None).await.unwrap();
    store.close().await;
    world.settings.reserve_bytes = u64::MAX;
    let store = world.store().await;
    let refused = store.put(extent(2).chunk(0), vec![pattern(5000, 1)], None).await;
    assert!(matches!(refused, Err(ChunkError::Full(..))), "{refused:?}");
    assert_eq!(store.get(extent(1).chunk(0), 0, 5000).await.unwrap(), pattern(5000, 1));
    store.delete(vec![extent(1).chunk(0)]).await.unwrap();
}

#[tokio::test]
async fn below_the_reserve_what_deletes_freed_is_used_again() {
    let mut world = World::new();
    let store = world.store().await;
    let bytes = pattern(CHUNK_BYTES, 1);
    for ordinal in 0..80 {
        store.put(extent(1).chunk(ordinal), vec![bytes.clone()], None).await.unwrap();
    }
    store.close().await;
    world.settings.reserve_bytes = u64::MAX;
    let store = world.store().await;
    // The file was extended ahead of need: what is left of that may still be used, and then no more.
    let mut refused = store.put(extent(2).chunk(0), vec![bytes.clone()], None).await;
    for ordinal in 1..200 {
        if refused.is_err() {
            break;
        }
        refused = store.put(extent(2).chunk(ordinal), vec![bytes.clone()], None).await;
    }
    assert!(matches!(refused, Err(ChunkError::Full(..))), "{refused:?}");
    store.delete((0..80).map(|ordinal| extent(1).chunk(ordinal)).collect()).await.unwrap();
    store.put(extent(3).chunk(0), vec![bytes], None).await.unwrap();
}

#[tokio::test]
async fn origin_comes_back_with_chunk_0() {
    let world = World::new();
    let store = world.store().await;
    let origin = ChunkOrigin {
        bucket: fabric::ids::BucketId(3),
        bucket_name: "photos".parse().unwrap(),
        key: "a/b".parse().unwrap(),
        part: None,
        headers: vec![("content-type".to_string(), "text/plain".to_string())],
        wrapped_key: None,
    };
    store.put(extent(1).chunk(0), vec![pattern(10, 1)], Some(origin.clone())).await.unwrap();
    store.put(extent(1).chunk(1), vec![pattern(10, 2)], None).await.unwrap();
    let stats = store.stat(vec![extent(1).chunk(1), extent(1).chunk(0), extent(1).chunk(2)]).await.unwrap();
    assert_eq!(stats[0].as_ref().map(|stat| (stat.bytes, stat.origin.clone())), Some((10, None)));
    let crc32c = codec::crc32c(&[&pattern(10, 1)]);
    assert_eq!(stats[1], Some(ChunkStat { id: extent(1).chunk(0), bytes: 10, crc32c, origin: Some(origin) }));
    assert_eq!(stats[2], None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Any order of puts and deletes leaves what a map would hold.
    #[test]
    fn behaves_like_a_map(steps in proptest::collection::vec((0u64..6, 0u32..3, 0usize..40_000, any::<bool>()), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let store = world.store().await;
            let mut map = BTreeMap::new();
            for (number, ordinal, size, delete) in steps {
                let chunk = extent(number).chunk(ordinal);
                if delete {
                    store.delete(vec![chunk]).await.unwrap();
                    map.remove(&chunk);
                } else if let std::collections::btree_map::Entry::Vacant(vacant) = map.entry(chunk) {
                    store.put(chunk, vec![pattern(size, 0)], None).await.unwrap();
                    vacant.insert(size);
                }
            }
            let scanned = store.scan(None, 1000).await.unwrap();
            assert_eq!(scanned.iter().map(|stat| stat.id).collect::<Vec<_>>(), map.keys().copied().collect::<Vec<_>>());
            for (chunk, size) in &map {
                assert_eq!(store.get(*chunk, 0, *size as u32).await.unwrap(), pattern(*size, 0));
            }
        });
    }
}
