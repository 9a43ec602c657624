//! Voters in one process, over a network and disks in memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fabric::Seams;
use fabric::disks::{Disks, MemoryDisks, OpenMode, Steps};
use fabric::env::{Env, SystemEnv, TaskHandle};
use fabric::ids::{ClusterId, NodeId};
use fabric::net::{LocalNet, Net};
use fabric::rpc::{AddressBook, Identity, Peer, RpcClient, serve};

use super::log::{Headroom, LogConfig};
use super::machine::{Machine, MachineConfig};
use super::node::{MetaNode, NodeConfig, StartError};
use super::recovery::recover;
use super::testing::{NodeEnv, TestDisks};
use super::wire::{ProposeAnswer, Replace, VoterName};
use crate::client::{Contacts, Meta, MetaClient, MetaError, ask};
use crate::meta::command::{
    AddUser, Command, CreateBucket, DeleteBucket, DeleteKey, DeleteObjects, Done, Entry, Expect, Reject,
    Reply,
};
use crate::meta::model::{AccessKey, ClusterMs, FIRST_EPOCH, NodeRow, Origin, SessionKind};
use crate::meta::query::{Answer, Query};

const CLUSTER: ClusterId = ClusterId(7);

struct Book(Vec<NodeId>);

impl AddressBook for Book {
    fn address(&self, node: NodeId) -> Option<String> {
        Some(format!("10.0.0.{}:7000", node.0))
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.0.clone()
    }
}

struct Host {
    env: Arc<NodeEnv>,
    node: Arc<MetaNode>,
    server: TaskHandle,
    rpc: RpcClient,
}

struct World {
    net: LocalNet,
    voters: Vec<NodeId>,
    disks: BTreeMap<NodeId, Arc<dyn Disks>>,
    hosts: BTreeMap<NodeId, Host>,
    snapshot_entries: u64,
    checkpoint_interval: Duration,
}

impl World {
    fn new(voters: u16) -> World {
        let voters: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        let disk = || -> Arc<dyn Disks> { Arc::new(MemoryDisks::new(4 << 30)) };
        let disks = voters.iter().map(|voter| (*voter, disk())).collect();
        World {
            net: LocalNet::default(),
            voters,
            disks,
            hosts: BTreeMap::new(),
            snapshot_entries: 50_000,
            checkpoint_interval: Duration::from_millis(300),
        }
    }

    fn seams(&self, node: NodeId) -> Seams {
        self.seams_with(node, Arc::default())
    }

    fn seams_with(&self, node: NodeId, env: Arc<NodeEnv>) -> Seams {
        Seams { env, net: Arc::new(self.net.clone()), disks: self.disks[&node].clone() }
    }

    fn rpc(&self, seams: &Seams, identity: Identity) -> RpcClient {
        RpcClient::new(seams.clone(), identity, Arc::new(Book(self.voters.clone())))
    }

    fn config(&self, node: NodeId) -> NodeConfig {
        let mut config = NodeConfig::new(CLUSTER, node, self.voters.clone(), self.voters.clone());
        config.log = LogConfig {
            first_segment_bytes: 64 << 10,
            segment_bytes: 64 << 10,
            reserve_bytes: 0,
            ..LogConfig::default()
        };
        config.machine = MachineConfig {
            cache_bytes: 1 << 20,
            steps: Steps { first_bytes: 1 << 20, next_bytes: 1 << 20 },
            checkpoint_interval: self.checkpoint_interval,
            ..MachineConfig::default()
        };
        config.snapshot_entries = self.snapshot_entries;
        config
    }

    /// Opens a node and serves it; it is not started.
    async fn open(&mut self, node: NodeId) -> Arc<MetaNode> {
        let env = Arc::new(NodeEnv::default());
        let seams = self.seams_with(node, env.clone());
        let identity = Identity::new(CLUSTER, Peer::Node(node), None);
        let rpc = self.rpc(&seams, identity.clone());
        let config = self.config(node);
        let opened = MetaNode::open(&seams, rpc.clone(), Path::new("/data"), config).await.unwrap();
        let listener = self.net.listen(&format!("10.0.0.{}:7000", node.0)).await.unwrap();
        let server = serve(&seams, identity, listener, opened.clone(), 0).unwrap();
        self.hosts.insert(node, Host { env, node: opened.clone(), server, rpc });
        opened
    }

    async fn start(&mut self, nodes: &[u16]) {
        let mut opened = Vec::new();
        for node in nodes {
            opened.push(self.open(NodeId(*node)).await);
        }
        futures::future::try_join_all(opened.iter().map(|node| node.start())).await.unwrap();
    }

    async fn kill(&mut self, node: NodeId) {
        let host = self.hosts.remove(&node).unwrap();
        host.server.abort();
        let tables = host.node.kill().await;
        let (left, env) = (Arc::downgrade(&host.node), host.env.clone());
        drop(host);
        // The next one opens the same files.
        while left.strong_count() + tables.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        env.rest().await;
    }

    async fn leader(&self) -> NodeId {
        loop {
            if let Some((node, _)) = self.hosts.iter().find(|(_, host)| host.node.leads()) {
                return *node;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn client(&self) -> MetaClient {
        let seams = self.seams(self.voters[0]);
        let rpc = self.rpc(&seams, Identity::new(CLUSTER, Peer::Gateway, None));
        MetaClient::new(seams.env, rpc, Contacts::new(&self.voters, &[]), SessionKind::Gateway, None)
    }

    /// Whether the rows of a node have the bucket.
    fn has_applied(&self, node: NodeId, bucket: &str) -> bool {
        let view = self.hosts[&node].node.view().unwrap();
        let found = crate::meta::answer::answer(&*view, 1, &Query::Bucket(bucket.parse().unwrap()));
        matches!(found.unwrap().answer, Ok(Answer::Bucket(Some(_))))
    }

    /// Waits until every running node has applied what the leader had, and the leader knows.
    async fn settle(&self) {
        let leader = self.leader().await;
        let index = self.hosts[&leader].node.view().unwrap().index();
        for host in self.hosts.values() {
            while host.node.view().unwrap().index() < index || !self.is_acknowledged(&host.node, index).await
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Whether who leads now has heard from a node that it has this entry.
    async fn is_acknowledged(&self, node: &Arc<MetaNode>, index: u64) -> bool {
        let leader = &self.hosts[&self.leader().await].node;
        Arc::ptr_eq(leader, node)
            || leader.acknowledged_by(node.identity().raft_id()).is_some_and(|next| next > index)
    }
}

async fn within<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
}

async fn add_user(client: &MetaClient) {
    let name: crate::meta::names::UserName = "alice".parse().unwrap();
    let key = AccessKey {
        id: "KEY1".parse().unwrap(),
        user: name.clone(),
        sealed_secret: bytes::Bytes::from_static(b"sealed"),
        created: ClusterMs(0),
    };
    client.propose(Command::AddUser(AddUser { name, key })).await.unwrap();
}

async fn create(client: &MetaClient, name: &str) -> Result<(), MetaError> {
    let (name, owner) = (name.parse().unwrap(), "alice".parse().unwrap());
    client.propose(Command::CreateBucket(CreateBucket { name, owner })).await.map(drop)
}

async fn exists(client: &MetaClient, name: &str) -> bool {
    match ask(client, Query::Bucket(name.parse().unwrap())).await.unwrap() {
        Answer::Bucket(bucket) => bucket.is_some(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_single_voter_keeps_what_it_acknowledged() {
    within(async {
        let mut world = World::new(1);
        world.start(&[1]).await;
        let client = world.client();
        add_user(&client).await;
        create(&client, "first").await.unwrap();
        assert!(matches!(
            create(&client, "first").await,
            Err(MetaError::Rejected(Reject::BucketExists { .. }))
        ));
        assert!(exists(&client, "first").await && !exists(&client, "second").await);
        let guard = client.begin_write().await.unwrap();
        assert_eq!(guard.extent(3).session(), client.session_id().await.unwrap());
        world.kill(NodeId(1)).await;
        world.start(&[1]).await;
        assert!(exists(&client, "first").await);
        create(&client, "second").await.unwrap();
        assert!(exists(&client, "second").await);
        world.hosts[&NodeId(1)].node.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_command_that_stalls_is_settled() {
    within(async {
        let mut world = World::new(1);
        world.start(&[1]).await;
        let client = world.client();
        add_user(&client).await;
        let create = |name: &str| {
            let (name, owner) = (name.parse().unwrap(), "alice".parse().unwrap());
            Command::CreateBucket(CreateBucket { name, owner })
        };
        // It was applied, only the answer was lost: the client hears the first reply.
        let (result, _) = client.propose_unheard(create("first"), true).await;
        assert!(matches!(result, Ok(Done::Bucket(bucket)) if bucket.name.as_str() == "first"));
        // It never arrived: the client hears that it certainly did not happen, and it never does.
        let (result, entry) = client.propose_unheard(create("second"), false).await;
        assert!(matches!(result, Err(MetaError::Unavailable(_))), "{result:?}");
        assert_eq!(client.repeat(&entry).await, Reply::TooLate);
        assert!(exists(&client, "first").await && !exists(&client, "second").await);
        world.hosts[&NodeId(1)].node.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn what_fits_no_entry_is_refused_before_it_is_proposed() {
    within(async {
        let mut world = World::new(1);
        world.start(&[1]).await;
        let client = world.client();
        add_user(&client).await;
        let keys: Vec<_> = (0..2_000)
            .map(|_| DeleteKey {
                key: "k".repeat(1_000).parse().unwrap(),
                version: None,
                expect: Expect::default(),
            })
            .collect();
        let delete = DeleteObjects { bucket: fabric::ids::BucketId(1), keys, origin: Origin::default() };
        let node = world.hosts[&NodeId(1)].node.clone();
        let session = client.session_id().await.unwrap();
        let before = node.view().unwrap().index();
        let refused = client.propose(Command::DeleteObjects(delete.clone())).await;
        assert!(matches!(refused, Err(MetaError::Rejected(Reject::Malformed(_)))), "{refused:?}");
        // Neither by the node, whoever asks.
        let command = Command::DeleteObjects(delete);
        let entry = Entry { session, sequence: 1_000, lowest_open: 1, at: ClusterMs(0), command };
        let answer = node.propose(entry).await;
        assert!(matches!(answer, ProposeAnswer::Applied(Reply::Rejected(Reject::Malformed(_)))));
        assert_eq!(node.view().unwrap().index(), before, "nothing was logged");
        node.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn three_voters_survive_the_loss_of_their_leader() {
    within(async {
        let mut world = World::new(3);
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        for number in 0..20 {
            create(&client, &format!("before-{number}")).await.unwrap();
        }
        let leader = world.leader().await;
        world.kill(leader).await;
        create(&client, "between").await.unwrap();
        assert!(exists(&client, "before-19").await);
        world.start(&[leader.0]).await;
        world.settle().await;
        // A second loss: the one that came back has to have it all.
        let other = world.leader().await;
        world.kill(other).await;
        assert!(exists(&client, "between").await);
        world.start(&[other.0]).await;
        for node in 1..=3 {
            world.kill(NodeId(node)).await;
        }
        world.start(&[1, 2, 3]).await;
        assert!(exists(&client, "before-0").await && exists(&client, "between").await);
    })
    .await;
}

#[tokio::test]
async fn a_voter_that_lagged_gets_a_snapshot() {
    within(async {
        let mut world = World::new(3);
        world.snapshot_entries = 50;
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        let leader = world.leader().await;
        let lagging = world.voters.iter().copied().find(|voter| *voter != leader).unwrap();
        world.kill(lagging).await;
        for number in 0..200 {
            create(&client, &format!("bucket-{number}")).await.unwrap();
        }
        world.start(&[lagging.0]).await;
        world.settle().await;
        assert!(world.has_applied(lagging, "bucket-0"));
        world.kill(lagging).await;
        world.start(&[lagging.0]).await;
        create(&client, "after").await.unwrap();
        world.settle().await;
    })
    .await;
}

const TABLES: &str = "/data/tables.redb";

/// Writes garbage over the beginning of the tables, for good: a process that ends may still write there.
async fn rot_tables(disks: &dyn Disks) {
    let file = disks.open(Path::new(TABLES), OpenMode::Existing).unwrap();
    let garbage = [0xA7; 64 << 10];
    loop {
        file.write_at(0, &garbage).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut there = [0; 64 << 10];
        file.read_at(0, &mut there).unwrap();
        if there == garbage {
            return;
        }
    }
}

/// One bit of each commit slot, as disks flip them, for good: redb takes the file for one of an older format of its own.
async fn rot_format(disks: &dyn Disks) {
    let file = disks.open(Path::new(TABLES), OpenMode::Existing).unwrap();
    let mut head = vec![0; 64 << 10];
    file.read_at(0, &mut head).unwrap();
    let magic = head.windows(4).position(|bytes| bytes == b"redb").unwrap();
    let slots = [64, 192].map(|slot| magic + slot);
    while slots.iter().any(|slot| head[*slot] != 2) {
        for slot in slots {
            assert!(matches!(head[slot], 2 | 3));
            file.write_at(slot as u64, &[2]).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        file.read_at(0, &mut head).unwrap();
    }
}

/// The file of the tables is garbage, or gone, and the log has forgotten what was in it.
#[tokio::test]
async fn tables_that_are_rotten_or_gone_are_copied_from_another_voter() {
    within(async {
        let mut world = World::new(3);
        world.snapshot_entries = 50;
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        for what in ["garbage", "format", "gone"] {
            for number in 0..200 {
                create(&client, &format!("bucket-{number}-{what}")).await.unwrap();
            }
            world.settle().await;
            let leader = world.leader().await;
            let rotten = world.voters.iter().copied().find(|voter| *voter != leader).unwrap();
            world.kill(rotten).await;
            let disks = world.disks[&rotten].clone();
            match what {
                "garbage" => rot_tables(&*disks).await,
                "format" => rot_format(&*disks).await,
                _ => disks.remove(Path::new(TABLES)).unwrap(),
            }
            create(&client, &format!("meanwhile-{what}")).await.unwrap();
            world.start(&[rotten.0]).await;
            world.settle().await;
            for name in [format!("bucket-0-{what}"), format!("meanwhile-{what}")] {
                assert!(world.has_applied(rotten, &name), "{name}");
            }
            let names = disks.list(Path::new("/data")).unwrap();
            assert!(names.contains(&"tables.rotten".to_string()), "kept until the next start");
        }
    })
    .await;
}

#[tokio::test]
async fn a_single_voter_with_rotten_tables_does_not_start_and_keeps_them() {
    within(async {
        let mut world = World::new(1);
        world.start(&[1]).await;
        world.kill(NodeId(1)).await;
        let disks = world.disks[&NodeId(1)].clone();
        rot_tables(&*disks).await;
        let node = world.open(NodeId(1)).await;
        assert!(matches!(node.start().await, Err(StartError::Machine(_))));
        assert!(disks.list(Path::new("/data")).unwrap().contains(&"tables.redb".to_string()));
    })
    .await;
}

#[tokio::test]
async fn nodes_register_and_the_first_layout_follows() {
    within(async {
        let mut world = World::new(3);
        world.start(&[1, 2, 3]).await;
        for (id, host) in &world.hosts {
            let env: Arc<dyn Env> = Arc::new(SystemEnv::default());
            let kind = SessionKind::Jobs(*id);
            let local = Some(host.node.clone());
            let contacts = Contacts::new(&world.voters, &[]);
            let client = MetaClient::new(env, host.rpc.clone(), contacts, kind, local);
            let identity = host.node.identity();
            let row = NodeRow {
                id: *id,
                incarnation: identity.incarnation,
                address: String::new(),
                zone: String::new(),
                capacity_bytes: 1 << 30,
                starts: host.node.life().starts,
                release: "test".to_string(),
                voter: Some(identity.raft_id()),
                run: host.node.life().run,
            };
            client.register(row.clone()).await.unwrap();
            let copied = NodeRow { zone: "elsewhere".to_string(), ..row };
            assert!(matches!(client.register(copied).await, Err(MetaError::Rejected(Reject::StaleNode))));
            client.close().await;
        }
        let client = world.client();
        loop {
            if let Answer::Layout(Some(layout)) = ask(&client, Query::Layout(None)).await.unwrap() {
                assert!(layout.partitions.iter().all(|owners| owners.len() == 3));
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_voter_that_lost_its_disk_starts_only_in_the_place_of_itself() {
    within(async {
        let mut world = World::new(3);
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        let lost = NodeId(2);
        let old = world.hosts[&lost].node.identity().raft_id();
        world.kill(lost).await;
        world.disks.insert(lost, Arc::new(MemoryDisks::new(1 << 30)));
        let wiped = world.open(lost).await;
        let new = wiped.identity().raft_id();
        let error = wiped.start().await.unwrap_err();
        assert!(matches!(error, StartError::Replaced { .. }), "{error}");
        assert!(error.to_string().contains(&format!("replace {} {}", VoterName(old), VoterName(new))));
        drop(wiped);
        world.kill(lost).await;

        client.replace(Replace { old, new }).await.unwrap();
        world.start(&[lost.0]).await;
        // It counts: with it the cluster bears the loss of another.
        world.settle().await;
        let leader = world.leader().await;
        world.kill(leader).await;
        create(&client, "later").await.unwrap();
    })
    .await;
}

/// Flips a bit of the entry that names a bucket.
fn rot(disks: &TestDisks, bucket: &str) {
    let mut rotten = 0;
    for file in disks.names().iter().filter(|file| file.extension().is_some_and(|kind| kind == "log")) {
        disks.damage(file, |bytes| {
            let at = bytes.windows(bucket.len()).position(|part| part == bucket.as_bytes());
            at.into_iter().for_each(|at| bytes[at] ^= 1);
            rotten += usize::from(at.is_some());
        });
    }
    assert_eq!(rotten, 1, "{bucket} is not in the log");
}

#[tokio::test]
async fn rot_in_the_log_is_repaired_by_the_other_voters() {
    within(async {
        let mut world = World::new(3);
        world.checkpoint_interval = Duration::from_secs(3600);
        let disks = [TestDisks::default(), TestDisks::default()];
        for (node, disks) in [NodeId(1), NodeId(2)].into_iter().zip(&disks) {
            world.disks.insert(node, Arc::new(disks.clone()));
        }
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        for number in 10..30 {
            create(&client, &format!("bucket-{number}")).await.unwrap();
        }
        world.settle().await;
        // While the others' Raft runs.
        world.kill(NodeId(2)).await;
        rot(&disks[1], "bucket-17");
        world.start(&[2]).await;
        world.settle().await;
        // While all of them start, two with other damage each.
        for node in 1..=3 {
            world.kill(NodeId(node)).await;
        }
        rot(&disks[0], "bucket-12");
        rot(&disks[1], "bucket-21");
        world.start(&[1, 2, 3]).await;
        world.settle().await;
        for number in 10..30 {
            assert!(exists(&client, &format!("bucket-{number}")).await);
        }
        for host in world.hosts.values() {
            let view = host.node.view().unwrap();
            for number in [12, 17, 21] {
                let query = Query::Bucket(format!("bucket-{number}").parse().unwrap());
                let found = crate::meta::answer::answer(&*view, 1, &query).unwrap();
                assert!(matches!(found.answer, Ok(Answer::Bucket(Some(_)))));
            }
        }
    })
    .await;
}

/// Waits until a node has, or has not, space ahead of its need.
async fn until_full(world: &World, node: NodeId, full: bool) {
    while (world.hosts[&node].node.headroom() != Some(Headroom::Ahead)) != full {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_leader_with_a_full_disk_hands_over_and_comes_back() {
    within(async {
        let mut world = World::new(3);
        let disks: BTreeMap<NodeId, TestDisks> =
            world.voters.iter().map(|voter| (*voter, TestDisks::default())).collect();
        for (node, disks) in &disks {
            world.disks.insert(*node, Arc::new(disks.clone()));
        }
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        let full = world.leader().await;
        disks[&full].set_free(0);
        let mut created = 0;
        let mut create_some = async |count: u32| {
            for _ in 0..count {
                create(&client, &format!("bucket-{created}")).await.unwrap();
                created += 1;
            }
        };
        while world.leader().await == full {
            create_some(20).await;
        }
        assert!(world.hosts[&full].node.headroom() > Some(Headroom::Ahead));
        // More than its reserve: it stands still, the others do not need it.
        create_some(1500).await;
        assert!(world.hosts.values().all(|host| host.node.view().is_some()));
        disks[&full].set_free(1 << 30);
        until_full(&world, full, false).await;
        world.settle().await;
        assert!(exists(&client, "bucket-0").await);
    })
    .await;
}

#[tokio::test]
async fn a_full_single_voter_takes_deletes_and_nothing_that_grows() {
    within(async {
        let mut world = World::new(1);
        let disks = TestDisks::default();
        world.disks.insert(NodeId(1), Arc::new(disks.clone()));
        world.start(&[1]).await;
        let client = world.client();
        add_user(&client).await;
        create(&client, "before").await.unwrap();
        create(&client, "stays").await.unwrap();
        disks.set_free(0);
        until_full(&world, NodeId(1), true).await;
        assert!(matches!(create(&client, "refused").await, Err(MetaError::Full(_))));
        let found = ask(&client, Query::Bucket("before".parse().unwrap())).await.unwrap();
        let Answer::Bucket(Some(bucket)) = found else { panic!("{found:?}") };
        client.propose(Command::DeleteBucket(DeleteBucket { bucket: bucket.id })).await.unwrap();
        assert!(!exists(&client, "before").await && exists(&client, "stays").await);
        assert!(!exists(&client, "refused").await);
        disks.set_free(1 << 30);
        until_full(&world, NodeId(1), false).await;
        create(&client, "after").await.unwrap();
        // All of it is in the log, whatever of it is in the file.
        world.kill(NodeId(1)).await;
        world.disks.insert(NodeId(1), Arc::new(disks.crash(|_| false)));
        world.start(&[1]).await;
        assert!(exists(&client, "stays").await && exists(&client, "after").await);
        assert!(!exists(&client, "before").await);
    })
    .await;
}

#[tokio::test]
async fn a_single_voter_names_the_entry_it_lost() {
    within(async {
        let mut world = World::new(1);
        world.checkpoint_interval = Duration::from_secs(3600);
        let disks = TestDisks::default();
        world.disks.insert(NodeId(1), Arc::new(disks.clone()));
        world.start(&[1]).await;
        let client = world.client();
        add_user(&client).await;
        create(&client, "bucket-10").await.unwrap();
        create(&client, "bucket-11").await.unwrap();
        world.kill(NodeId(1)).await;
        // On a disk of its own: a thread of the first life that still read the other one would end this process.
        let disks = disks.crash(|_| true);
        world.disks.insert(NodeId(1), Arc::new(disks.clone()));
        rot(&disks, "bucket-10");
        let error = world.open(NodeId(1)).await.start().await.unwrap_err();
        assert!(error.to_string().contains("entry "), "{error}");
        assert!(matches!(error, StartError::LostLog { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_power_cut_at_any_moment_loses_nothing_acknowledged() {
    within(async {
        let disks = TestDisks::default();
        let mut world = World::new(1);
        world.disks.insert(NodeId(1), Arc::new(disks.clone()));
        world.start(&[1]).await;
        let client = world.client();
        add_user(&client).await;
        let mut images = Vec::new();
        for number in 0..40_usize {
            create(&client, &format!("bucket-{number}")).await.unwrap();
            // An image of the disk now, with every third, none, or all but every third of the unsynced pages.
            if number % 8 == 3 {
                images.push((number, disks.crash(|page| (page + number) % 3 == 0)));
                images.push((number, disks.crash(|_| false)));
                images.push((number, disks.crash(|page| (page + number) % 3 != 0)));
            }
        }
        for (number, image) in images {
            let mut world = World::new(1);
            world.disks.insert(NodeId(1), Arc::new(image));
            world.start(&[1]).await;
            let client = world.client();
            for acknowledged in 0..=number {
                assert!(
                    exists(&client, &format!("bucket-{acknowledged}")).await,
                    "{acknowledged} of {number}"
                );
            }
            world.kill(NodeId(1)).await;
        }
    })
    .await;
}

/// Three voters that write for a while; node 2, no leader, on a disk that can be copied.
async fn world_with_a_follower_to_copy() -> (World, MetaClient, NodeId, TestDisks) {
    let mut world = World::new(3);
    let disks: BTreeMap<NodeId, TestDisks> =
        world.voters.iter().map(|voter| (*voter, TestDisks::default())).collect();
    for (voter, disk) in &disks {
        world.disks.insert(*voter, Arc::new(disk.clone()));
    }
    world.start(&[1, 2, 3]).await;
    let client = world.client();
    add_user(&client).await;
    create(&client, "before").await.unwrap();
    let leader = world.leader().await;
    let follower = world.voters.iter().copied().find(|voter| *voter != leader).unwrap();
    world.settle().await;
    (world, client, follower, disks[&follower].clone())
}

/// Starts a node on another disk, which its peers refuse.
async fn refused_on(world: &mut World, node: NodeId, disk: TestDisks) -> String {
    start_on(world, node, disk).await.unwrap_err()
}

/// Starts a node on another disk and kills it again; an error is what its peers say against it.
async fn start_on(world: &mut World, node: NodeId, disk: TestDisks) -> Result<(), String> {
    world.disks.insert(node, Arc::new(disk));
    let opened = world.open(node).await;
    let started = opened.start().await;
    drop(opened);
    world.kill(node).await;
    started.map_err(|error| {
        assert!(matches!(error, StartError::Stale { .. }), "{error}");
        error.to_string()
    })
}

#[tokio::test]
async fn a_copied_directory_is_refused_however_often_it_is_started() {
    within(async {
        let (mut world, client, node, disk) = world_with_a_follower_to_copy().await;
        let copy = disk.crash(|_| true);
        // The node goes on, through a restart: its peers have seen a later start than the copy makes.
        world.kill(node).await;
        world.start(&[node.0]).await;
        create(&client, "after").await.unwrap();
        world.settle().await;
        world.kill(node).await;
        for _ in 0..3 {
            let error = refused_on(&mut world, node, copy.clone()).await;
            assert!(error.contains("start 2 of") && error.contains("never start it again"), "{error}");
        }
        // The directory itself is welcome.
        world.disks.insert(node, Arc::new(disk));
        world.start(&[node.0]).await;
        create(&client, "later").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_log_that_lost_what_was_acknowledged_is_refused() {
    within(async {
        loop {
            let (mut world, client, node, disk) = world_with_a_follower_to_copy().await;
            let copy = disk.crash(|_| true);
            create(&client, "after").await.unwrap();
            world.settle().await;
            let leader = world.leader().await;
            world.kill(node).await;
            let Err(error) = start_on(&mut world, node, copy).await else {
                // Only the leader to which it was acknowledged knows, and on a busy machine another may lead now.
                assert_ne!(world.leader().await, leader);
                continue;
            };
            assert!(error.contains("its log ends before entry"), "{error}");
            // Nobody else suffers.
            create(&client, "later").await.unwrap();
            world.disks.insert(node, Arc::new(disk));
            world.start(&[node.0]).await;
            return world.settle().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_cluster_goes_on_from_one_node_when_the_others_are_lost() {
    within(async {
        let mut world = World::new(3);
        // The log has it all, and whoever applies entries writes them at once.
        world.checkpoint_interval = Duration::from_secs(3600);
        world.start(&[1, 2, 3]).await;
        let client = world.client();
        add_user(&client).await;
        for number in 10..30 {
            create(&client, &format!("bucket-{number}")).await.unwrap();
        }
        world.settle().await;
        for node in [1, 2, 3].map(NodeId) {
            world.kill(node).await;
        }
        world.checkpoint_interval = Duration::ZERO;
        let survivor = NodeId(1);
        let recover = async |world: &World, go| {
            let (env, config) = (Arc::new(NodeEnv::default()), world.config(survivor));
            let seams = world.seams_with(survivor, env.clone());
            let recovered = recover(&seams, Path::new("/data"), &config, go).await.unwrap();
            drop(seams);
            env.rest().await;
            recovered
        };
        let floor = async |world: &World| {
            let (env, config) = (Arc::new(NodeEnv::default()), world.config(survivor));
            let Seams { disks, .. } = world.seams_with(survivor, env.clone());
            let machine =
                Machine::open(env.clone(), disks, Path::new("/data"), config.machine).await.unwrap();
            let floor = machine.floor().await;
            drop(machine);
            env.rest().await;
            floor
        };
        let before = floor(&world).await;
        let looked = recover(&world, false).await;
        assert_eq!(floor(&world).await, before, "entries that may be undecided are in a checkpoint");
        assert_eq!((looked.others.len(), looked.epoch), (2, FIRST_EPOCH));
        let gone_on = recover(&world, true).await;
        assert_eq!(gone_on, looked, "looking changes nothing");
        world.checkpoint_interval = Duration::from_millis(300);

        world.start(&[1]).await;
        let client = world.client();
        for number in 10..30 {
            assert!(exists(&client, &format!("bucket-{number}")).await);
        }
        create(&client, "later").await.unwrap();
        assert!(matches!(ask(&client, Query::Hold).await.unwrap(), Answer::Hold(Some(_))));

        // What the others have is of another epoch.
        let old = world.open(NodeId(2)).await;
        let error = old.start().await.unwrap_err();
        assert!(matches!(error, StartError::Behind(_)), "{error}");
        drop(old);
        world.kill(NodeId(2)).await;
        for lost in [2, 3].map(NodeId) {
            world.disks.insert(lost, Arc::new(MemoryDisks::new(4 << 30)));
            let new = world.open(lost).await;
            let name = new.identity().raft_id();
            let error = new.start().await.unwrap_err();
            assert!(error.to_string().contains(&format!("admit {}", VoterName(name))), "{error}");
            drop(new);
            world.kill(lost).await;
            let admit = Replace { old: name, new: name };
            client.replace(admit).await.unwrap();
            let early = client.replace(admit).await.unwrap_err();
            assert!(early.to_string().contains("not caught up"), "{early}");
            world.start(&[lost.0]).await;
            while client.replace(admit).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            world.settle().await;
        }
        // They count: two of them bear the loss of the one that saved all.
        world.kill(survivor).await;
        create(&client, "last").await.unwrap();
        assert!(exists(&client, "bucket-17").await);
    })
    .await;
}

#[tokio::test]
async fn a_node_of_an_earlier_epoch_is_refused() {
    within(async {
        let mut world = World::new(3);
        world.start(&[1, 2, 3]).await;
        add_user(&world.client()).await;
        for node in [1, 2, 3].map(NodeId) {
            while world.hosts[&node].rpc.epoch().get() != FIRST_EPOCH {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        for node in [1, 2, 3].map(NodeId) {
            world.kill(node).await;
        }
        for (node, epoch) in [(1, 2), (2, 2), (3, FIRST_EPOCH)] {
            super::identity::keep_epoch(&world.seams(NodeId(node)), Path::new("/data"), epoch).await.unwrap();
        }
        world.start(&[1, 2]).await;
        let old = world.open(NodeId(3)).await;
        let error = old.start().await.unwrap_err();
        assert!(matches!(error, StartError::Behind(_)), "{error}");
        for part in ["the cluster is at epoch 2", "node 3 at epoch 1", "`replace`"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        drop(old);
        world.kill(NodeId(3)).await;
        world.leader().await;
    })
    .await;
}
