//! The index against a scan of all objects, over random histories, crashes and losses.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use consensus::meta::apply::{Context, apply};
use consensus::meta::command::{
    AddUser, BucketChange, Command, CreateBucket, DeleteKey, DeleteObjects, Done, Entry, Expect, NewBody,
    OpenSession, PutObject, RenameObject, Reply, SetBucket, SetTags,
};
use consensus::meta::model::{
    AccessKey, Attributes, ClusterMs, Etag, Object, Origin, SessionKind, Versioning,
};
use consensus::meta::store::MemoryRows;
use consensus::meta::tables::{Cluster, Objects, get, put, scan_all};
use fabric::Seams;
use fabric::disks::{Disks, MemoryDisks, OpenMode};
use fabric::env::SystemEnv;
use fabric::ids::{BucketId, SessionId};
use fabric::limits::{GIB, MIB};
use fabric::net::LocalNet;
use proptest::prelude::*;

use super::file::{IndexFile, path};
use super::follow::{Follower, Fresh, Next, Seen, Sizes, names};
use super::language::Search;
use super::matcher::Matcher;
use super::search::{Ground, search};
use super::wire::{Position, SearchFailure, SearchPage, SearchRequest, Sort};
use super::{IndexSettings, SearchIndex, Source};

const DIRECTORY: &str = "/data";
/// Everything happens early and often.
const SMALL: Sizes = Sizes {
    events_per_step: 3,
    fresh_names: 4,
    events_per_commit: 9,
    names_per_step: 5,
    documents: 16,
    small_pages: 3,
    medium_pages: 5,
    spare_names: 40,
};

/// The metadata of a node, without a log.
struct World {
    rows: MemoryRows,
    index: u64,
    session: SessionId,
    sequence: u64,
    now: u64,
    buckets: Vec<BucketId>,
}

impl World {
    fn new() -> World {
        let none = SessionId { epoch: 0, number: 0 };
        let rows = MemoryRows::default();
        let mut world =
            World { rows, index: 0, session: none, sequence: 0, now: 1_000_000, buckets: Vec::new() };
        let open = Command::OpenSession(OpenSession { kind: SessionKind::Gateway, nonce: 1 });
        match world.apply(0, open) {
            Reply::Done(Done::Session(session)) => world.session = session,
            reply => panic!("{reply:?}"),
        }
        let user = "anna".parse().unwrap();
        let (id, sealed_secret) = ("KEY1".parse().unwrap(), Bytes::from_static(b"x"));
        let key = AccessKey { id, user, sealed_secret, created: ClusterMs(0) };
        world.run(Command::AddUser(AddUser { name: "anna".parse().unwrap(), key }));
        for name in ["one", "two"] {
            let create = CreateBucket { name: name.parse().unwrap(), owner: "anna".parse().unwrap() };
            match world.run(Command::CreateBucket(create)) {
                Reply::Done(Done::Bucket(bucket)) => world.buckets.push(bucket.id),
                reply => panic!("{reply:?}"),
            }
        }
        let (bucket, change) = (world.buckets[1], BucketChange::Versioning(Versioning::Enabled));
        world.run(Command::SetBucket(SetBucket { bucket, change }));
        world
    }

    fn apply(&mut self, sequence: u64, command: Command) -> Reply {
        self.index += 1;
        self.now += 1000;
        let at = ClusterMs(self.now);
        let entry = Entry { session: self.session, sequence, lowest_open: sequence.max(1), at, command };
        apply(&mut self.rows, &Context::default(), self.index, &entry).unwrap()
    }

    fn run(&mut self, command: Command) -> Reply {
        self.sequence += 1;
        self.apply(self.sequence, command)
    }

    fn put(&mut self, bucket: usize, key: &str, attributes: Attributes, bytes: usize) {
        let put = PutObject {
            bucket: self.buckets[bucket],
            key: key.parse().unwrap(),
            expect: Expect::default(),
            body: NewBody::Inline(vec![0; bytes].into()),
            etag: Etag::Md5([1; 16]),
            checksum: None,
            attributes,
            origin: Origin::default(),
        };
        self.run(Command::PutObject(put));
    }

    fn delete(&mut self, bucket: usize, key: &str) {
        let keys = vec![DeleteKey { key: key.parse().unwrap(), version: None, expect: Expect::default() }];
        let delete = DeleteObjects { bucket: self.buckets[bucket], keys, origin: Origin::default() };
        self.run(Command::DeleteObjects(delete));
    }

    fn tag(&mut self, bucket: usize, key: &str, value: &str) {
        let tags = SetTags {
            bucket: self.buckets[bucket],
            key: key.parse().unwrap(),
            version: None,
            tags: vec![("colour".to_string(), value.to_string())],
            origin: Origin::default(),
        };
        self.run(Command::SetTags(tags));
    }

    fn rename(&mut self, bucket: usize, from: &str, to: &str) {
        let rename = RenameObject {
            bucket: self.buckets[bucket],
            source_key: from.parse().unwrap(),
            source_conditions: Default::default(),
            key: to.parse().unwrap(),
            conditions: Default::default(),
            token: None,
            origin: Origin::default(),
        };
        self.run(Command::RenameObject(rename));
    }

    fn seen(&self) -> Seen {
        Seen { rows: Arc::new(self.rows.clone()), index: self.index }
    }

    /// What a query means, by looking at everything.
    fn naive(&self, query: &str, buckets: &[u64]) -> Vec<(u64, String, Object)> {
        let matcher = Matcher::new(&Search::parse(query).unwrap()).unwrap();
        let rows = scan_all::<Objects>(&self.rows).unwrap().map(Result::unwrap);
        let mut folded = String::new();
        rows.filter(|(home, object)| {
            buckets.contains(&home.bucket.0)
                && matcher.matches_name(home.key.as_str(), &mut folded)
                && matcher.matches_object(object)
        })
        .map(|(home, object)| (home.bucket.0, home.key.to_string(), object))
        .collect()
    }
}

/// An index without tasks.
struct Index {
    disks: Arc<dyn Disks>,
    file: Arc<IndexFile>,
    fresh: Arc<Fresh>,
    follower: Follower,
}

impl Index {
    fn open(disks: &Arc<dyn Disks>) -> Index {
        disks.create_dir(Path::new(DIRECTORY)).unwrap();
        let (file, state) = IndexFile::open(&**disks, Path::new(DIRECTORY), 4 << 20).unwrap();
        let (file, fresh) = (Arc::new(file), Arc::new(Fresh::default()));
        let follower = Follower::new(file.clone(), state, fresh.clone(), 1 << 20, SMALL).unwrap();
        Index { disks: disks.clone(), file, fresh, follower }
    }

    fn reopen(self) -> Index {
        let Index { disks, file, follower, .. } = self;
        drop((file, follower));
        Index::open(&disks)
    }

    /// Follows to the end; the index says how far it is only when that is so.
    fn follow(&mut self, world: &World) {
        let mut last = None;
        for _ in 0..10_000 {
            let next =
                self.follower.step(&world.seen(), true, &mut |progress| last = Some(progress)).unwrap();
            if next == Next::Rest {
                let progress = last.unwrap();
                assert!(progress.whole && progress.index == world.index);
                self.follower.check(&world.rows).unwrap();
                return;
            }
        }
        panic!("it never rests");
    }

    fn search(&self, world: &World, request: &SearchRequest) -> Result<SearchPage, SearchFailure> {
        let matcher = Matcher::new(&Search::parse(&request.query).unwrap()).unwrap();
        let (fresh, snapshot) = (names(&self.fresh), self.file.snapshot().unwrap());
        let env = SystemEnv::default();
        let ground = Ground { rows: &world.rows, snapshot: &snapshot, fresh: &fresh, env: &env };
        search(&ground, &matcher, request, world.index).unwrap()
    }

    /// All pages of so many hits.
    fn pages(&self, world: &World, query: &str, limit: u32, sort: Sort, descending: bool) -> Vec<Position> {
        let buckets = world.buckets.iter().map(|bucket| bucket.0).collect();
        let query = query.to_string();
        let mut request =
            SearchRequest { query, buckets, after: None, limit, sort, descending, as_of: world.index };
        let mut found = Vec::new();
        loop {
            let page = self.search(world, &request).unwrap();
            assert!(page.hits.len() <= limit as usize);
            found.extend(page.hits.into_iter().map(|hit| Position {
                value: match sort {
                    Sort::Name => 0,
                    Sort::Size => hit.bytes,
                    Sort::Modified => hit.modified,
                },
                bucket: hit.bucket,
                key: hit.key,
            }));
            match page.next {
                Some(next) => request.after = Some(next),
                None => return found,
            }
        }
    }

    fn compare(&self, world: &World, query: &str) {
        let buckets: Vec<u64> = world.buckets.iter().map(|bucket| bucket.0).collect();
        let naive = world.naive(query, &buckets);
        for (sort, descending) in [(Sort::Name, false), (Sort::Size, true), (Sort::Modified, false)] {
            let mut expected: Vec<Position> = naive
                .iter()
                .map(|(bucket, key, object)| Position {
                    value: match sort {
                        Sort::Name => 0,
                        Sort::Size => object.bytes,
                        Sort::Modified => object.modified.0,
                    },
                    bucket: *bucket,
                    key: key.clone(),
                })
                .collect();
            expected.sort();
            if descending {
                expected.reverse();
            }
            for limit in [1, 3, 1000] {
                assert_eq!(self.pages(world, query, limit, sort, descending), expected, "{query} {sort:?}");
            }
        }
    }
}

const QUERIES: &[&str] = &[
    "a",
    "cat",
    "Cat -dog",
    "cat dog",
    "name:^a/",
    "name:^a/cat size:>1",
    "name:*cat*.jpg",
    "name:/(cat|dog)[0-9]/",
    "name:~catdog",
    "tag:colour=red",
    "-tag:colour cat",
    "tag:colour",
    "meta:owner=anna",
    "type:image/*",
    "type:image/png dog",
    "type:binary/octet-stream",
    "size:2..3",
    "modified:>1970-01-02",
    "nothing-of-that-name",
    "größe",
];

#[derive(Debug, Clone)]
enum Deed {
    Put(usize, String, u8),
    Delete(usize, String),
    Tag(usize, String, bool),
    Rename(usize, String, String),
    Follow(u8),
    Reopen,
    Lose,
    Rot(u32),
}

fn key() -> impl Strategy<Value = String> {
    "(a/|b/|)(cat|Dog|größe|cat/dog)[0-9]{0,1}(\\.jpg|)"
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        12 => (0..2_usize, key(), any::<u8>()).prop_map(|(bucket, key, kind)| Deed::Put(bucket, key, kind)),
        4 => (0..2_usize, key()).prop_map(|(bucket, key)| Deed::Delete(bucket, key)),
        3 => (0..2_usize, key(), any::<bool>()).prop_map(|(bucket, key, red)| Deed::Tag(bucket, key, red)),
        2 => (0..2_usize, key(), key()).prop_map(|(bucket, from, to)| Deed::Rename(bucket, from, to)),
        4 => any::<u8>().prop_map(Deed::Follow),
        1 => Just(Deed::Reopen),
        1 => Just(Deed::Lose),
        1 => any::<u32>().prop_map(Deed::Rot),
    ]
}

fn attributes(kind: u8) -> Attributes {
    let mut attributes = Attributes::default();
    if kind & 1 != 0 {
        attributes.tags.push(("colour".to_string(), if kind & 2 == 0 { "red" } else { "blue" }.to_string()));
    }
    if kind & 4 != 0 {
        attributes.user.insert("owner".to_string(), "anna".to_string());
    }
    if kind & 8 != 0 {
        attributes.headers.insert("content-type".to_string(), "image/png; q=1".to_string());
    }
    attributes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever happens to the objects, the index and its file, once it followed to the end it finds what a look at
    /// everything finds, on pages of every size.
    #[test]
    fn the_index_agrees_with_a_scan(deeds in proptest::collection::vec(deed(), 1..120)) {
        let disks: Arc<dyn Disks> = Arc::new(MemoryDisks::new(GIB));
        let (mut world, mut index) = (World::new(), Index::open(&disks));
        for deed in deeds {
            match deed {
                Deed::Put(bucket, key, kind) => {
                    world.put(bucket, &key, attributes(kind), usize::from(kind % 5));
                }
                Deed::Delete(bucket, key) => world.delete(bucket, &key),
                Deed::Tag(bucket, key, red) => world.tag(bucket, &key, if red { "red" } else { "blue" }),
                Deed::Rename(bucket, from, to) => world.rename(bucket, &from, &to),
                Deed::Follow(steps) => {
                    for _ in 0..steps % 16 {
                        index.follower.step(&world.seen(), true, &mut |_| ()).unwrap();
                    }
                }
                Deed::Reopen => index = index.reopen(),
                Deed::Lose => {
                    drop(index);
                    IndexFile::remove(&*disks, Path::new(DIRECTORY)).unwrap();
                    index = Index::open(&disks);
                }
                Deed::Rot(at) => {
                    // What is found to be rotten is given up; so it is here, before anybody reads it.
                    drop(index);
                    let file = disks.open(&path(Path::new(DIRECTORY)), OpenMode::Existing).unwrap();
                    let at = u64::from(at) % file.len().unwrap();
                    let mut byte = [0];
                    file.read_at(at, &mut byte).unwrap();
                    file.write_at(at, &[byte[0] ^ 0x10]).unwrap();
                    drop(file);
                    index = Index::open(&disks);
                    let step = || index.follower.step(&world.seen(), true, &mut |_| ());
                    let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
                    drop(stepped);
                    drop(index);
                    IndexFile::remove(&*disks, Path::new(DIRECTORY)).unwrap();
                    index = Index::open(&disks);
                }
            }
        }
        index.follow(&world);
        for query in QUERIES {
            index.compare(&world, query);
        }
    }
}

#[test]
fn events_that_are_gone_and_logs_that_went_back_begin_a_walk() {
    let disks: Arc<dyn Disks> = Arc::new(MemoryDisks::new(GIB));
    let (mut world, mut index) = (World::new(), Index::open(&disks));
    world.put(0, "before", Attributes::default(), 1);
    index.follow(&world);
    let walks = index.follower.walks();
    world.put(0, "missed", Attributes::default(), 1);
    let mut cluster = get::<Cluster>(&world.rows, ()).unwrap().unwrap();
    cluster.events_trimmed.epoch = cluster.epoch;
    cluster.events_trimmed.index = world.index;
    put::<Cluster>(&mut world.rows, (), &cluster);
    index.follow(&world);
    assert_eq!(index.follower.walks(), walks + 1);
    index.compare(&world, "missed");
    cluster.epoch += 1;
    put::<Cluster>(&mut world.rows, (), &cluster);
    index.follow(&world);
    assert_eq!(index.follower.walks(), walks + 2);
    index.compare(&world, "before");
}

#[test]
fn effort_is_bounded_and_pages_go_on_where_it_ended() {
    let disks: Arc<dyn Disks> = Arc::new(MemoryDisks::new(GIB));
    let (mut world, mut index) = (World::new(), Index::open(&disks));
    for number in 0..25_000 {
        world.put(0, &format!("file-{number:05}"), Attributes::default(), 0);
    }
    let mut sizes = Sizes { events_per_step: 100_000, fresh_names: 20_000, ..Sizes::default() };
    sizes.names_per_step = 100_000;
    index.follower = {
        let (file, state) = (index.file.clone(), super::file::State::new());
        Follower::new(file, state, index.fresh.clone(), 1 << 24, sizes).unwrap()
    };
    index.follow(&world);
    let request = |query: &str, sort| SearchRequest {
        query: query.to_string(),
        buckets: vec![world.buckets[0].0],
        after: None,
        limit: 10,
        sort,
        descending: false,
        as_of: 0,
    };
    let page = index.search(&world, &request("x9", Sort::Name)).unwrap();
    assert!(page.hits.is_empty() && page.next.is_some(), "a walk that finds nothing stops, too");
    assert_eq!(index.pages(&world, "x9", 10, Sort::Name, false), []);
    assert_eq!(index.pages(&world, "24999", 10, Sort::Name, false).len(), 1);
    let few = index.search(&world, &request("999", Sort::Size)).unwrap();
    assert_eq!((few.hits.len(), few.next.is_some()), (10, true));
}

/// Metadata that a test changes while the index follows.
struct Shared(std::sync::Mutex<Seen>);

impl Source for Shared {
    fn view(&self) -> Option<Seen> {
        Some(self.0.lock().unwrap().clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_follows_by_itself_and_waits_when_asked() {
    let seams = Seams {
        env: Arc::new(SystemEnv::default()),
        net: Arc::new(LocalNet::default()),
        disks: Arc::new(MemoryDisks::new(GIB)),
    };
    seams.disks.create_dir(Path::new(DIRECTORY)).unwrap();
    let mut world = World::new();
    world.put(0, "first", Attributes::default(), 1);
    let source = Arc::new(Shared(world.seen().into()));
    let settings = IndexSettings::within(DIRECTORY.into(), 256 * MIB, MIB);
    let index = SearchIndex::start(&seams, settings, source.clone());
    let ask = async |query: &str, as_of: u64| {
        let buckets: BTreeMap<u64, ()> = world.buckets.iter().map(|bucket| (bucket.0, ())).collect();
        let request = SearchRequest {
            query: query.to_string(),
            buckets: buckets.into_keys().collect(),
            after: None,
            limit: 10,
            sort: Sort::Name,
            descending: false,
            as_of,
        };
        index.search(request).await
    };
    let page = loop {
        match ask("first", world.index).await {
            Ok(page) => break page,
            Err(SearchFailure::Building(_)) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            Err(failure) => panic!("{failure}"),
        }
    };
    assert_eq!((page.hits.len(), page.index), (1, world.index));
    let behind = ask("first", world.index + 1).await;
    assert_eq!(behind, Err(SearchFailure::Behind(world.index)));
    assert!(matches!(ask("\"", 0).await, Err(SearchFailure::Malformed(_))));
    world.put(1, "second", Attributes::default(), 1);
    *source.0.lock().unwrap() = world.seen();
    let buckets = world.buckets.iter().map(|bucket| bucket.0).collect();
    let request = SearchRequest {
        query: "second".to_string(),
        buckets,
        after: None,
        limit: 10,
        sort: Sort::Name,
        descending: false,
        as_of: world.index,
    };
    assert_eq!(index.search(request).await.unwrap().hits[0].key, "second");
    let status = index.status();
    assert!(status.whole && status.lag == 0 && status.documents == 2, "{status:?}");
    index.close().await;
}
