//! Bodies through faulty nodes and back: what is written is what is read, masks never lie, budgets are given back.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::Meta;
use consensus::meta::command::NewBody;
use consensus::meta::model::{Attributes, Extent};
use consensus::meta::query::{BodyView, Piece};
use fabric::coding::Coding;
use fabric::ids::{BucketId, Stamp};
use fabric::limits::{CHUNK_BYTES, INLINE_BYTES_MAX, MIB, PUT_BYTES_MAX};
use futures::StreamExt;

use super::fakes::{FakeChunks, FakeMeta, Mode, TestEnv};
use super::{
    BodyKey, Class, Data, DataConfig, DataKey, KeyUse, ReadError, Seal, Source, SourceError, Target,
    WriteError, Written,
};

struct World {
    data: Data,
    meta: Arc<FakeMeta>,
    chunks: Arc<FakeChunks>,
}

fn world(nodes: u16) -> World {
    let (meta, chunks) = (FakeMeta::of_nodes(nodes), Arc::new(FakeChunks::default()));
    let config = DataConfig {
        write_bytes_max: 16 * MIB,
        read_bytes_max: 16 * MIB,
        cache_bytes_max: 0,
        inline_bytes_max: u64::MAX,
    };
    let data = Data::new(TestEnv::shared(), meta.clone(), chunks.clone(), config);
    World { data, meta, chunks }
}

/// Pieces of a size, optionally ending in an error.
struct Pieces {
    rest: Bytes,
    piece_bytes: usize,
    fails: bool,
}

#[async_trait]
impl Source for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.rest.is_empty() {
            return if self.fails { Err("digest".into()) } else { Ok(None) };
        }
        Ok(Some(self.rest.split_to(self.piece_bytes.min(self.rest.len()))))
    }
}

fn body(bytes: usize) -> Bytes {
    (0..bytes).map(|index| (index / 7 % 251) as u8).collect::<Vec<_>>().into()
}

fn target(part: Option<(Stamp, u16)>) -> Target {
    Target {
        bucket: BucketId(1),
        bucket_name: "photos".parse().unwrap(),
        key: "cat".parse().unwrap(),
        part,
        attributes: Attributes::default(),
        seal: None,
        class: Class::Copies,
    }
}

async fn write(world: &World, body: &Bytes) -> Result<Written, WriteError> {
    let mut source = Pieces { rest: body.clone(), piece_bytes: 60_000, fails: false };
    world.data.write(&mut source, Some(body.len() as u64), target(None)).await
}

fn extent(written: &Written) -> Extent {
    match &written.body {
        NewBody::Extent(extent) => extent.clone(),
        NewBody::Inline(_) => panic!("it is inline"),
    }
}

fn whole(extent: &Extent) -> BodyView {
    BodyView::Pieces(vec![Piece { extent: extent.clone(), offset: 0, bytes: extent.bytes }])
}

async fn read(world: &World, view: BodyView, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
    let mut stream = world.data.read_stored(view, range, world.meta.begin_read());
    let mut found = Vec::new();
    while let Some(bytes) = StreamExt::next(&mut stream).await {
        found.extend_from_slice(&bytes?);
    }
    Ok(found)
}

#[tokio::test(start_paused = true)]
async fn small_bodies_are_inline_and_draw_nothing() {
    let world = world(3);
    for bytes in [0, 1, INLINE_BYTES_MAX] {
        let written = write(&world, &body(bytes)).await.unwrap();
        assert_eq!(written.body, NewBody::Inline(body(bytes)));
        assert!(written.guard.is_none());
    }
    let written = write(&world, &body(INLINE_BYTES_MAX + 1)).await.unwrap();
    assert_eq!(extent(&written).bytes, INLINE_BYTES_MAX as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn parts_are_extents_unless_they_are_empty() {
    let world = world(3);
    let stamp = Stamp { epoch: 0, index: 1, ordinal: 0 };
    for (bytes, is_extent) in [(0, false), (1, true)] {
        let mut source = Pieces { rest: body(bytes), piece_bytes: 1, fails: false };
        let written = world.data.write(&mut source, None, target(Some((stamp, 1)))).await.unwrap();
        assert_eq!(matches!(written.body, NewBody::Extent(_)), is_extent);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_read_in_every_range() {
    let chunk = CHUNK_BYTES as u64;
    for nodes in [1, 2, 3, 5] {
        let world = world(nodes);
        let body = body(CHUNK_BYTES * 5 + 17);
        let written = write(&world, &body).await.unwrap();
        let extent = extent(&written);
        assert_eq!(u32::from(extent.confirmed), (1 << nodes.min(3)) - 1);
        let end = extent.bytes;
        for range in
            [0..end, 0..0, 0..1, end - 1..end, chunk - 1..chunk + 1, chunk..2 * chunk, 3..4 * chunk + 3]
        {
            let found = read(&world, whole(&extent), range.clone()).await.unwrap();
            assert!(found == body[range.start as usize..range.end as usize], "{range:?}");
        }
        assert_eq!(world.meta.open_writes(), 1);
        drop(written);
        assert_eq!((world.meta.open_writes(), world.meta.open_reads()), (0, 0));
        assert_eq!(world.data.writes.free_bytes(), 16 * MIB as usize);
        assert_eq!(world.data.reads.free_bytes(), 16 * MIB as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn single_bytes_and_exact_chunks_arrive_whole() {
    let world = world(3);
    for (bytes, piece_bytes) in [(40_000, 1), (CHUNK_BYTES, CHUNK_BYTES), (2 * CHUNK_BYTES, 4095)] {
        let mut source = Pieces { rest: body(bytes), piece_bytes, fails: false };
        let written = world.data.write(&mut source, None, target(None)).await.unwrap();
        let extent = extent(&written);
        assert!(read(&world, whole(&extent), 0..bytes as u64).await.unwrap() == body(bytes));
        let chunks = world
            .chunks
            .with(1, |node| node.chunks.keys().filter(|chunk| chunk.extent() == extent.id).count());
        assert_eq!(chunks, bytes.div_ceil(CHUNK_BYTES));
    }
    assert_eq!(world.chunks.with(1, |node| node.origins.len()), 3, "chunk 0 of each knows its key");
}

#[tokio::test(start_paused = true)]
async fn one_bad_node_of_three_leaves_the_mask() {
    let modes = [Mode::Down, Mode::Hangs, Mode::Full, Mode::DiesAfter(2), Mode::Slow(Duration::from_secs(3))];
    for mode in modes {
        for bad in 1..=3 {
            let world = world(3);
            world.chunks.set(bad, mode);
            let body = body(CHUNK_BYTES * 6);
            let extent = extent(&write(&world, &body).await.unwrap());
            assert_eq!(extent.confirmed, 0b111 & !(1 << (bad - 1)));
            world.chunks.set(bad, Mode::Down);
            assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_down_for_a_moment_stays_in_the_mask() {
    let world = world(3);
    world.chunks.set(2, Mode::DownFor(1));
    assert_eq!(extent(&write(&world, &body(CHUNK_BYTES)).await.unwrap()).confirmed, 0b111);
}

#[tokio::test(start_paused = true)]
async fn the_mask_names_only_nodes_that_hold_every_chunk() {
    // The first node dies, the third comes back: the third is fed what it missed before the commit.
    let world = world(3);
    world.chunks.set(1, Mode::DiesAfter(4));
    world.chunks.set(3, Mode::DownFor(3));
    let body = body(CHUNK_BYTES * 7);
    let extent = extent(&write(&world, &body).await.unwrap());
    assert_eq!(extent.confirmed, 0b110);
    for node in [2, 3] {
        assert_eq!(world.chunks.with(node, |node| node.chunks.len()), 7);
    }
    assert!(world.chunks.with(3, |node| !node.origins.is_empty()), "chunk 0 was fed with its origin");
}

#[tokio::test(start_paused = true)]
async fn too_few_nodes_refuse_the_write() {
    for (first, second, is_full) in [
        (Mode::Down, Mode::Down, false),
        (Mode::Hangs, Mode::DiesAfter(3), false),
        (Mode::Full, Mode::Full, true),
        (Mode::Full, Mode::Down, false),
    ] {
        let world = world(3);
        world.chunks.set(1, first);
        world.chunks.set(3, second);
        let error = write(&world, &body(CHUNK_BYTES * 4)).await.map(|_| ()).unwrap_err();
        assert_eq!(matches!(error, WriteError::Full), is_full, "{error}");
        assert!(is_full || matches!(error, WriteError::Unavailable(_)), "{error}");
        assert_eq!(world.meta.open_writes(), 0);
        assert_eq!(world.data.writes.free_bytes(), 16 * MIB as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn with_two_nodes_both_are_needed() {
    let world = world(2);
    world.chunks.set(2, Mode::Down);
    assert!(matches!(write(&world, &body(CHUNK_BYTES)).await, Err(WriteError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_at_its_end_writes_nothing() {
    let world = world(3);
    for bytes in [10, 3 * CHUNK_BYTES] {
        let mut source = Pieces { rest: body(bytes), piece_bytes: 70_000, fails: true };
        let outcome = world.data.write(&mut source, Some(bytes as u64), target(None)).await;
        assert!(matches!(outcome, Err(WriteError::Source(_))));
    }
    assert_eq!(world.meta.open_writes(), 0);
    let mut source = Pieces { rest: Bytes::new(), piece_bytes: 1, fails: false };
    let outcome = world.data.write(&mut source, Some(PUT_BYTES_MAX + 1), target(None)).await;
    assert!(matches!(outcome, Err(WriteError::TooLarge)));
}

#[tokio::test(start_paused = true)]
async fn reads_turn_to_other_replicas() {
    let world = world(3);
    let body = body(CHUNK_BYTES * 3);
    let extent = extent(&write(&world, &body).await.unwrap());
    for node in [1, 2] {
        world.chunks.with(node, |node| node.rotten.extend(node.chunks.keys().copied().collect::<Vec<_>>()));
    }
    assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
    world.chunks.set(3, Mode::Down);
    assert!(matches!(read(&world, whole(&extent), 0..extent.bytes).await, Err(ReadError::Unavailable(..))));
    assert_eq!(world.meta.open_reads(), 0);
    assert_eq!(world.data.reads.free_bytes(), 16 * MIB as usize);
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_costs_a_hedge_and_not_a_deadline() {
    let world = world(3);
    let body = body(CHUNK_BYTES * 12);
    let extent = extent(&write(&world, &body).await.unwrap());
    world.chunks.set(2, Mode::Hangs);
    let began = tokio::time::Instant::now();
    assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_slow_node_makes_a_write_take_no_more_than_twice_as_long() {
    for (normal, slow) in [(5, 200), (300, 2_000), (3_000, 9_000)]
        .map(|pair| (Duration::from_millis(pair.0), Duration::from_millis(pair.1)))
    {
        let world = world(3);
        for (node, delay) in [(1, normal), (2, normal), (3, slow)] {
            world.chunks.set(node, Mode::Slow(delay));
        }
        let began = tokio::time::Instant::now();
        let extent = extent(&write(&world, &body(CHUNK_BYTES)).await.unwrap());
        let most = (normal * 2).max(normal + Duration::from_millis(110));
        assert!(began.elapsed() <= most, "{:?} where it takes {normal:?}", began.elapsed());
        assert_eq!(extent.confirmed, 0b011, "the slow one owes it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_avoided_is_asked_when_another_is_silent() {
    let world = world(3);
    world.chunks.set(1, Mode::Down);
    write(&world, &body(CHUNK_BYTES)).await.unwrap();
    world.chunks.set(1, Mode::Works);
    world.chunks.set(2, Mode::Hangs);
    let began = tokio::time::Instant::now();
    let extent = extent(&write(&world, &body(CHUNK_BYTES * 2)).await.unwrap());
    assert_eq!(extent.confirmed, 0b101);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_extent_that_moved_is_found_by_the_newest_layout() {
    let world = world(3);
    let body = body(CHUNK_BYTES);
    let mut extent = extent(&write(&world, &body).await.unwrap());
    extent.layout = fabric::ids::LayoutVersion(77);
    assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
}

#[tokio::test(start_paused = true)]
async fn rows_that_contradict_themselves_end_in_an_error() {
    let world = world(1);
    let extent = extent(&write(&world, &body(CHUNK_BYTES + 5)).await.unwrap());
    let bytes = extent.bytes;
    let piece = |offset, bytes| Piece { extent: extent.clone(), offset, bytes };
    let without_chunks = Piece { extent: Extent { chunk_bytes: 0, ..extent.clone() }, offset: 0, bytes };
    for (view, range) in [
        (BodyView::Pieces(vec![piece(0, bytes)]), 0..bytes + 1),
        (BodyView::Pieces(vec![piece(1, bytes)]), 0..bytes),
        (BodyView::Pieces(vec![piece(u64::MAX, bytes)]), 0..bytes),
        (BodyView::Pieces(vec![without_chunks]), 0..bytes),
        (BodyView::Inline(Bytes::from_static(b"abc")), 0..4),
        (BodyView::NotAsked, 0..1),
    ] {
        assert!(matches!(read(&world, view, range).await, Err(ReadError::Inconsistent(_))));
    }
    assert_eq!(read(&world, BodyView::Inline(Bytes::from_static(b"abc")), 1..3).await.unwrap(), b"bc");
    let slices = vec![piece(3, 4), piece(0, 2), piece(CHUNK_BYTES as u64 - 1, 3)];
    let all = body(CHUNK_BYTES + 5);
    let expected = [&all[4..7], &all[0..2], &all[CHUNK_BYTES - 1..CHUNK_BYTES]].concat();
    assert_eq!(read(&world, BodyView::Pieces(slices), 1..7).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_leaves_room_for_others() {
    let mut world = world(1);
    let config = DataConfig {
        write_bytes_max: 16 * MIB,
        read_bytes_max: 2 * MIB,
        cache_bytes_max: 0,
        inline_bytes_max: u64::MAX,
    };
    world.data = Data::new(TestEnv::shared(), world.meta.clone(), world.chunks.clone(), config);
    let body = body(CHUNK_BYTES * 3);
    let extent = extent(&write(&world, &body).await.unwrap());
    let mut stalled = world.data.read_stored(whole(&extent), 0..extent.bytes, world.meta.begin_read());
    let held = StreamExt::next(&mut stalled).await.unwrap().unwrap();
    assert_eq!(held.len(), CHUNK_BYTES);
    assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
}

#[tokio::test(start_paused = true)]
async fn what_its_session_gave_up_ends() {
    let world = world(3);
    let body = body(CHUNK_BYTES * 8);
    let extent = extent(&write(&world, &body).await.unwrap());
    let mut reading = world.data.read_stored(whole(&extent), 0..extent.bytes, world.meta.begin_read());
    assert!(StreamExt::next(&mut reading).await.unwrap().is_ok());
    world.meta.give_up_holds();
    let mut last = None;
    while let Some(bytes) = StreamExt::next(&mut reading).await {
        last = Some(bytes);
    }
    assert!(matches!(last, Some(Err(ReadError::Unavailable(..)))), "the stream breaks off");
    assert!(matches!(write(&world, &body).await, Err(WriteError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn hot_chunks_are_read_from_nodes_once() {
    let mut world = world(1);
    let config = DataConfig {
        write_bytes_max: 16 * MIB,
        read_bytes_max: 16 * MIB,
        cache_bytes_max: 128 * MIB,
        inline_bytes_max: u64::MAX,
    };
    world.data = Data::new(TestEnv::shared(), world.meta.clone(), world.chunks.clone(), config);
    let body = body(CHUNK_BYTES * 2);
    let extent = extent(&write(&world, &body).await.unwrap());
    for _ in 0..3 {
        assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
    }
    assert_eq!(world.chunks.with(1, |node| node.gets), 2);
}

async fn write_shards(world: &World, body: &Bytes, length: Option<u64>) -> Result<Written, WriteError> {
    let mut source = Pieces { rest: body.clone(), piece_bytes: 60_000, fails: false };
    world.data.write(&mut source, length, Target { class: Class::Shards, ..target(None) }).await
}

const SHARD_SIZES: [usize; 6] =
    [INLINE_BYTES_MAX + 1, 100_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 300_000];

#[tokio::test(start_paused = true)]
async fn shards_are_cut_coded_and_read_in_every_range() {
    for (nodes, coding, mask) in [
        (1, Coding::Whole, 1),
        (2, Coding::Whole, 0b11),
        (3, Coding::TwoPlusOne, 0b111),
        (5, Coding::TwoPlusOne, 0b111),
        (6, Coding::FourPlusTwo, 0b11_1111),
        (8, Coding::FourPlusTwo, 0b11_1111),
    ] {
        let world = world(nodes);
        for bytes in SHARD_SIZES {
            let body = body(bytes);
            let extent = extent(&write_shards(&world, &body, None).await.unwrap());
            assert_eq!((extent.coding(), extent.confirmed, extent.bytes), (coding, mask, bytes as u64));
            let (end, chunk) = (extent.bytes, u64::from(extent.chunk_bytes).min(extent.bytes - 1));
            for range in [0..end, 0..1, end - 1..end, chunk - 1..chunk + 1, 5..end - 5] {
                let found = read(&world, whole(&extent), range.clone()).await.unwrap();
                assert!(found == body[range.start as usize..range.end as usize], "{nodes} {bytes} {range:?}");
            }
            let stored: usize = (1..=nodes)
                .map(|node| {
                    let mine = |(chunk, body): (&fabric::ids::ChunkId, &Bytes)| {
                        if chunk.extent() == extent.id { body.len() } else { 0 }
                    };
                    world.chunks.with(node, |node| node.chunks.iter().map(mine).sum::<usize>())
                })
                .sum();
            if coding != Coding::Whole {
                assert!(
                    bytes / 2 * 3 <= stored && stored <= bytes / 2 * 3 + 400_000,
                    "{bytes} take {stored}"
                );
            }
        }
        assert_eq!(world.meta.open_writes(), 0);
        assert_eq!(world.data.writes.free_bytes(), 16 * MIB as usize);
        assert_eq!(world.data.reads.free_bytes(), 16 * MIB as usize);
        assert_eq!(world.data.rebuilds.free_bytes(), 4 * MIB as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_node_held_is_rebuilt_in_every_range() {
    for (nodes, lost) in [
        (3, vec![1]),
        (3, vec![2]),
        (3, vec![3]),
        (6, vec![1, 2]),
        (6, vec![2, 5]),
        (6, vec![5, 6]),
        (6, vec![4]),
    ] {
        for mode in [Mode::Down, Mode::Hangs] {
            let world = world(nodes);
            for bytes in SHARD_SIZES {
                lost.iter().for_each(|node| world.chunks.set(*node, Mode::Works));
                // What was believed of them before they came back.
                tokio::time::sleep(Duration::from_secs(60)).await;
                let body = body(bytes);
                let extent = extent(&write_shards(&world, &body, Some(bytes as u64)).await.unwrap());
                assert_ne!(extent.coding(), Coding::Whole);
                lost.iter().for_each(|node| world.chunks.set(*node, mode));
                let (end, chunk) = (extent.bytes, u64::from(extent.chunk_bytes).min(extent.bytes - 1));
                let began = tokio::time::Instant::now();
                for range in [0..end, 3..4, end - 1..end, chunk - 1..chunk + 1] {
                    let found = read(&world, whole(&extent), range.clone()).await.unwrap();
                    assert!(
                        found == body[range.start as usize..range.end as usize],
                        "{lost:?} {bytes} {range:?}"
                    );
                }
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            }
            assert_eq!(world.data.rebuilds.free_bytes(), 4 * MIB as usize);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rotten_shards_are_rebuilt_and_too_many_are_an_error() {
    let world = world(6);
    let body = body(2 * CHUNK_BYTES + 5);
    let extent = extent(&write_shards(&world, &body, None).await.unwrap());
    for (node, readable) in [(1, true), (6, true), (3, false)] {
        world.chunks.with(node, |node| node.rotten.extend(node.chunks.keys().copied().collect::<Vec<_>>()));
        match read(&world, whole(&extent), 0..extent.bytes).await {
            Ok(found) => assert!(readable && found == body),
            Err(error) => assert!(!readable && matches!(error, ReadError::Unavailable(..)), "{error}"),
        }
    }
    assert_eq!(world.data.rebuilds.free_bytes(), 4 * MIB as usize);
}

#[tokio::test(start_paused = true)]
async fn one_missing_shard_leaves_the_mask_and_more_make_it_copies() {
    for mode in [Mode::Down, Mode::Full, Mode::Hangs, Mode::DiesAfter(0)] {
        for bad in [1, 4, 6] {
            let world = world(6);
            world.chunks.set(bad, mode);
            let body = body(CHUNK_BYTES * 3);
            let extent = extent(&write_shards(&world, &body, None).await.unwrap());
            assert_eq!(extent.coding(), Coding::FourPlusTwo);
            assert_eq!(extent.confirmed, 0b11_1111 & !(1 << (bad - 1)));
            world.chunks.set(bad, Mode::Down);
            assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
        }
        // Two of six, and one of three: there are too few for shards.
        for (nodes, bad) in [(6, vec![5, 6]), (6, vec![1, 4]), (3, vec![3]), (3, vec![1])] {
            let world = world(nodes);
            bad.iter().for_each(|node| world.chunks.set(*node, mode));
            for bytes in [100_000, CHUNK_BYTES, CHUNK_BYTES * 12] {
                let body = body(bytes);
                let began = tokio::time::Instant::now();
                let extent = extent(&write_shards(&world, &body, None).await.unwrap());
                assert!(began.elapsed() < Duration::from_secs(3), "{mode:?}: {:?}", began.elapsed());
                assert_eq!(extent.coding(), Coding::Whole, "{nodes} {bad:?}");
                assert!(extent.confirmed.count_ones() >= 2);
                assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
            }
            assert_eq!(world.data.writes.free_bytes(), 16 * MIB as usize);
        }
    }
}

/// A body in the middle of which something happens.
struct Turn<'a> {
    pieces: Pieces,
    bytes_before: usize,
    turn: Box<dyn Fn() + Send + 'a>,
}

#[async_trait]
impl Source for Turn<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let piece = self.pieces.next().await?;
        self.bytes_before = self.bytes_before.saturating_sub(piece.as_ref().map_or(0, Bytes::len));
        if self.bytes_before == 0 {
            (self.turn)();
        }
        Ok(piece)
    }
}

#[tokio::test(start_paused = true)]
async fn shards_of_which_a_part_is_out_of_memory_wait_for_a_silent_node_only_so_long() {
    let world = world(3);
    let pieces = Pieces { rest: body(CHUNK_BYTES * 12), piece_bytes: 60_000, fails: false };
    let turn = Box::new(|| world.chunks.set(3, Mode::Hangs));
    let mut source = Turn { pieces, bytes_before: CHUNK_BYTES * 8, turn };
    let began = tokio::time::Instant::now();
    let target = Target { class: Class::Shards, ..target(None) };
    let refused = world.data.write(&mut source, None, target).await.err().unwrap();
    assert!(matches!(refused, WriteError::Unavailable(_)), "{refused}");
    let (least, most) = (Duration::from_secs(3), Duration::from_secs(6));
    assert!((least..most).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(world.data.writes.free_bytes(), 16 * MIB as usize);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_missed_is_fed_before_the_commit() {
    // One dies for good, and another misses the first stripes: with both left out there would be too few.
    let world = world(6);
    world.chunks.set(1, Mode::DiesAfter(4));
    world.chunks.set(3, Mode::DownFor(3));
    let body = body(CHUNK_BYTES * 7);
    let extent = extent(&write_shards(&world, &body, Some(body.len() as u64)).await.unwrap());
    assert_eq!((extent.coding(), extent.confirmed), (Coding::FourPlusTwo, 0b11_1110));
    assert_eq!(world.chunks.with(3, |node| node.chunks.len()), 7);
    world.chunks.set(1, Mode::Down);
    world.chunks.set(6, Mode::Down);
    assert!(read(&world, whole(&extent), 0..extent.bytes).await.unwrap() == body);
}

#[tokio::test(start_paused = true)]
async fn encrypted_parts_become_copies_of_the_same_bytes() {
    let world = world(3);
    world.chunks.set(2, Mode::Down);
    let key = DataKey::draw(&*TestEnv::shared());
    let stamp = Stamp { epoch: 0, index: 1, ordinal: 0 };
    let seal = Some(Seal { key: key.clone(), sealing: Bytes::new() });
    let target = Target { class: Class::Shards, seal, ..target(Some((stamp, 1))) };
    let body = body(300_000);
    let mut source = Pieces { rest: body.clone(), piece_bytes: 60_000, fails: false };
    let extent = extent(&world.data.write(&mut source, None, target).await.unwrap());
    assert_eq!(extent.coding(), Coding::Whole);
    let key = BodyKey { key, used: KeyUse::Parts };
    let mut stream = world.data.open(whole(&extent), &key, 0..300_000, world.meta.begin_read());
    let mut found = Vec::new();
    while let Some(bytes) = StreamExt::next(&mut stream).await {
        found.extend_from_slice(&bytes.unwrap());
    }
    assert!(found == body);
}
