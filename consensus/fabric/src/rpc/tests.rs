//! Calls over both networks: what arrives, what is refused, and what a caller may conclude.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;
use crate::Seams;
use crate::disks::MemoryDisks;
use crate::env::{SystemEnv, TaskHandle};
use crate::net::{LocalNet, Net, TcpNet};
use crate::tls::{Certificates, ClusterSecrets, issue, make_authority};

const CLUSTER: ClusterId = ClusterId(7);
const NODE: NodeId = NodeId(3);
const ECHO: u16 = 0x0301;
const REFUSE: u16 = 0x0302;
const PANIC: u16 = 0x0303;
const NEVER: u16 = 0x0304;
const GATED: u16 = 0x0305;

#[derive(Default)]
struct Book(Mutex<BTreeMap<NodeId, String>>);

impl AddressBook for Book {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.lock().unwrap().get(&node).cloned()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.0.lock().unwrap().keys().copied().collect()
    }
}

#[derive(Default)]
struct Echo {
    gate: Notify,
    calls: Mutex<Vec<(Peer, u16)>>,
}

#[async_trait]
impl Service for Echo {
    async fn call(&self, from: Peer, method: u16, request: Message) -> Result<Message, String> {
        self.calls.lock().unwrap().push((from, method));
        match method {
            REFUSE => Err("not today".to_string()),
            PANIC => panic!("planned"),
            NEVER => std::future::pending().await,
            GATED => {
                self.gate.notified().await;
                Ok(request)
            }
            _ => Ok(request),
        }
    }
}

fn seams(net: impl Net) -> Seams {
    Seams {
        env: Arc::new(SystemEnv::default()),
        net: Arc::new(net),
        disks: Arc::new(MemoryDisks::new(1 << 20)),
    }
}

fn identity(me: Peer) -> Identity {
    Identity::new(CLUSTER, me, None)
}

struct World {
    seams: Seams,
    service: Arc<Echo>,
    book: Arc<Book>,
    client: RpcClient,
    server: TaskHandle,
    address: String,
}

async fn world(net: impl Net) -> World {
    world_of(net, identity(Peer::Node(NODE)), identity(Peer::Gateway), None).await
}

async fn world_of(
    net: impl Net,
    server: Identity,
    client: Identity,
    faults: Option<Arc<dyn FrameFaults>>,
) -> World {
    let seams = seams(net);
    let service = Arc::new(Echo::default());
    let listener = seams.net.listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_address().to_string();
    let router = Router::default().with(0x03, service.clone());
    let server = serve(&seams, server, listener, Arc::new(router), 0).unwrap();
    let book = Arc::new(Book::default());
    book.0.lock().unwrap().insert(NODE, address.clone());
    let client = RpcClient::with_faults(seams.clone(), client, book.clone(), faults);
    World { seams, service, book, client, server, address }
}

fn options(deadline_ms: u64) -> CallOptions {
    CallOptions { class: Class::Control, deadline: Duration::from_millis(deadline_ms) }
}

const LONG: u64 = 20_000;

#[tokio::test]
async fn calls_come_back_over_both_networks() {
    let worlds = [world(LocalNet::default()).await, world(TcpNet).await];
    for world in worlds {
        for class in [Class::Control, Class::Bulk] {
            let options = CallOptions { class, ..options(LONG) };
            let large = Bytes::from(vec![5; 1 << 20]);
            let body = vec![large.clone(), Bytes::from("tail")];
            let answer = world.client.call_typed_pieces::<_, (u32, String)>(
                NODE,
                ECHO,
                &(7u32, "question"),
                body,
                options,
            );
            let (head, body) = answer.await.unwrap();
            assert_eq!(head, (7, "question".to_string()));
            assert_eq!((body.len(), &body[1 << 20..]), ((1 << 20) + 4, &b"tail"[..]));
        }
        assert_eq!(world.service.calls.lock().unwrap()[0], (Peer::Gateway, ECHO));
    }
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let world = world(TcpNet).await;
    let calls = (0..3000u32).map(|number| {
        let client = world.client.clone();
        async move {
            let body = Bytes::from(vec![number as u8; (number % 50) as usize * 100]);
            let (answer, back): (u32, Bytes) =
                client.call_typed(NODE, ECHO, &number, body.clone(), options(LONG)).await.unwrap();
            assert_eq!((answer, back), (number, body));
        }
    });
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn a_slow_call_does_not_hold_up_later_ones() {
    let world = world(LocalNet::default()).await;
    let slow = world.client.call(NODE, GATED, Message::default(), options(LONG));
    let quick = async {
        world.client.call(NODE, ECHO, Message::default(), options(LONG)).await.unwrap();
        world.service.gate.notify_one();
    };
    tokio::join!(slow, quick).0.unwrap();
}

#[tokio::test]
async fn what_went_wrong_is_told_apart() {
    let world = world(LocalNet::default()).await;
    let call = |node, method, deadline| {
        let client = world.client.clone();
        async move { client.call(node, method, Message::default(), options(deadline)).await.unwrap_err() }
    };
    assert!(matches!(call(NODE, REFUSE, LONG).await, RpcError::Refused(why) if why == "not today"));
    assert!(matches!(call(NODE, 0x0999, LONG).await, RpcError::Refused(why) if why.contains("0x0999")));
    assert!(matches!(call(NODE, PANIC, LONG).await, RpcError::Lost(_)));
    assert!(matches!(call(NODE, NEVER, 30).await, RpcError::Lost(_)));
    assert!(matches!(call(NodeId(9), ECHO, LONG).await, RpcError::Unreachable(_)));
    world.book.0.lock().unwrap().insert(NodeId(4), "127.0.0.1:1".to_string());
    assert!(matches!(call(NodeId(4), ECHO, LONG).await, RpcError::Unreachable(_)));
    let huge = Message { head: Bytes::new(), body: Bytes::from(vec![0; crate::limits::FRAME_BYTES_MAX]) };
    let refused = world.client.call(NODE, ECHO, huge, options(LONG)).await.unwrap_err();
    assert!(matches!(refused, RpcError::Refused(_)));
}

#[tokio::test]
async fn a_wrong_cluster_or_node_is_refused_before_the_first_call() {
    let wrong_cluster = Identity { cluster: ClusterId(8), ..identity(Peer::Gateway) };
    let other_node = identity(Peer::Node(NodeId(5)));
    let cases = [
        (identity(Peer::Node(NODE)), wrong_cluster, "cluster"),
        (other_node, identity(Peer::Gateway), "this is node 5"),
    ];
    for (server, client, expected) in cases {
        let world = world_of(LocalNet::default(), server, client, None).await;
        let error = world.client.call(NODE, ECHO, Message::default(), options(LONG)).await.unwrap_err();
        assert!(matches!(&error, RpcError::Unreachable(why) if why.contains(expected)), "{error}");
        assert!(world.service.calls.lock().unwrap().is_empty());
    }
}

/// Calls until it works: the client waits a little between attempts to connect.
async fn call_until_it_works(world: &World) {
    while let Err(error) = world.client.call(NODE, ECHO, Message::default(), options(LONG)).await {
        assert!(matches!(error, RpcError::Unreachable(_) | RpcError::Lost(_)), "{error}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again() {
    let world = world(LocalNet::default()).await;
    let waits = world.client.call(NODE, NEVER, Message::default(), options(LONG));
    let stopped = async {
        while world.service.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        world.server.abort();
    };
    assert!(matches!(tokio::join!(waits, stopped).0, Err(RpcError::Lost(_))));

    let listener = loop {
        match world.seams.net.listen(&world.address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let router = Router::default().with(0x03, world.service.clone());
    serve(&world.seams, identity(Peer::Node(NODE)), listener, Arc::new(router), 0).unwrap();
    call_until_it_works(&world).await;
}

/// A peer that greets properly, then answers the first call with bytes that are no frame.
#[tokio::test]
async fn a_bad_frame_ends_the_connection_and_not_the_client() {
    let net = LocalNet::default();
    let world = world(net.clone()).await;
    let mut listener = net.listen("127.0.0.1:0").await.unwrap();
    let between = listener.local_address().to_string();
    world.book.0.lock().unwrap().insert(NODE, between);
    let corrupt = async {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = net.connect(&world.address).await.unwrap();
        let (mut hello, mut welcome) = (vec![0; 4096], vec![0; 4096]);
        let heard = near.read(&mut hello).await.unwrap();
        far.write_all(&hello[..heard]).await.unwrap();
        let heard = far.read(&mut welcome).await.unwrap();
        near.write_all(&welcome[..heard]).await.unwrap();
        let heard = near.read(&mut hello).await.unwrap();
        far.write_all(&hello[..heard]).await.unwrap();
        let heard = far.read(&mut welcome).await.unwrap();
        welcome[heard - 1] ^= 1;
        near.write_all(&welcome[..heard]).await.unwrap();
        assert_eq!(near.read(&mut hello).await.unwrap(), 0, "the client closes");
    };
    let body = Message { head: Bytes::new(), body: Bytes::from("payload") };
    let (answer, ()) = tokio::join!(world.client.call(NODE, ECHO, body, options(LONG)), corrupt);
    assert!(matches!(answer, Err(RpcError::Lost(_))));
    world.book.0.lock().unwrap().insert(NODE, world.address.clone());
    call_until_it_works(&world).await;
}

#[tokio::test]
async fn garbage_from_a_stranger_ends_only_its_connection() {
    let world = world(TcpNet).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 64], &[0; 64], &[]] {
        let mut stranger = world.seams.net.connect(&world.address).await.unwrap();
        stranger.write_all(garbage).await.unwrap();
        stranger.shutdown().await.unwrap();
        let mut heard = Vec::new();
        drop(stranger.read_to_end(&mut heard).await);
    }
    world.client.call(NODE, ECHO, Message::default(), options(LONG)).await.unwrap();
}

/// On a link that eats all bytes only deadlines decide, and the connection is given up, so that a healed link
/// is used again.
#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let net = LocalNet::default();
    let world = world(net.clone()).await;
    let mut listener = net.listen("127.0.0.1:0").await.unwrap();
    world.book.0.lock().unwrap().insert(NODE, listener.local_address().to_string());
    let swallow = async {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = net.connect(&world.address).await.unwrap();
        let (mut hello, mut welcome) = (vec![0; 4096], vec![0; 4096]);
        let heard = near.read(&mut hello).await.unwrap();
        far.write_all(&hello[..heard]).await.unwrap();
        let heard = far.read(&mut welcome).await.unwrap();
        near.write_all(&welcome[..heard]).await.unwrap();
        while near.read(&mut hello).await.unwrap() > 0 {}
    };
    let call = async {
        let error = world.client.call(NODE, ECHO, Message::default(), options(60_000)).await.unwrap_err();
        assert!(matches!(error, RpcError::Lost(_)));
    };
    tokio::join!(call, swallow);
    // A call that is being worked on is no silence, however long it takes.
    world.book.0.lock().unwrap().insert(NODE, world.address.clone());
    let slow = world.client.call(NODE, GATED, Message::default(), options(60_000));
    let later = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.service.gate.notify_one();
    };
    tokio::join!(slow, later).0.unwrap();
}

struct Fates(Mutex<Vec<Fate>>);

impl FrameFaults for Fates {
    fn request(&self, _node: NodeId, _class: Class) -> Fate {
        self.0.lock().unwrap().pop().unwrap_or(Fate::Deliver)
    }

    fn reply(&self, _node: NodeId, _class: Class) -> Fate {
        Fate::Duplicate
    }
}

#[tokio::test(start_paused = true)]
async fn faults_drop_repeat_and_delay_frames() {
    let fates = vec![Fate::Drop, Fate::Delay(Duration::from_millis(500)), Fate::Duplicate];
    let faults = Arc::new(Fates(Mutex::new(fates)));
    let server = identity(Peer::Node(NODE));
    let world = world_of(LocalNet::default(), server, identity(Peer::Gateway), Some(faults)).await;
    let calls = |expected: usize| {
        let service = world.service.clone();
        async move {
            while service.calls.lock().unwrap().len() < expected {
                tokio::task::yield_now().await;
            }
        }
    };
    world.client.call(NODE, ECHO, Message::default(), options(LONG)).await.unwrap();
    calls(2).await;
    world.client.call(NODE, ECHO, Message::default(), options(LONG)).await.unwrap();
    calls(3).await;
    let lost = world.client.call(NODE, ECHO, Message::default(), options(100)).await;
    assert!(matches!(lost, Err(RpcError::Lost(_))));
    assert_eq!(world.service.calls.lock().unwrap().len(), 3);
}

const OTHER: Peer = Peer::Node(NodeId(5));

/// Certificates of several processes of one new cluster.
fn issue_all(peers: &[Peer]) -> (ClusterId, BTreeMap<Peer, Arc<Certificates>>) {
    let directory = tempfile::tempdir().unwrap();
    let cluster =
        make_authority(ClusterSecrets::draw(&SystemEnv::default()), directory.path()).unwrap().cluster;
    let load = |peer: &Peer| {
        issue(directory.path(), *peer).unwrap();
        (*peer, Arc::new(Certificates::load(directory.path(), *peer).unwrap()))
    };
    (cluster, peers.iter().map(load).collect())
}

#[tokio::test]
async fn calls_come_back_over_tls() {
    let (cluster, certificates) = issue_all(&[Peer::Node(NODE), Peer::Gateway]);
    let of = |me: Peer| Identity::new(cluster, me, Some(certificates[&me].clone()));
    let local = world_of(LocalNet::default(), of(Peer::Node(NODE)), of(Peer::Gateway), None).await;
    let tcp = world_of(TcpNet, of(Peer::Node(NODE)), of(Peer::Gateway), None).await;
    for world in [local, tcp] {
        let body = Bytes::from(vec![9; 3 << 20]);
        let answer =
            world.client.call(NODE, ECHO, Message { head: Bytes::new(), body: body.clone() }, options(LONG));
        assert_eq!(answer.await.unwrap().body, body);
        assert_eq!(world.service.calls.lock().unwrap()[..], [(Peer::Gateway, ECHO)]);
    }
}

#[tokio::test]
async fn tls_refuses_who_is_not_what_it_claims() {
    let all = [Peer::Node(NODE), Peer::Gateway, OTHER];
    let (cluster, ours) = issue_all(&all);
    let (_, foreign) = issue_all(&all);
    let identity = |me: Peer, tls: Option<&Arc<Certificates>>| Identity::new(cluster, me, tls.cloned());
    let node = || identity(Peer::Node(NODE), ours.get(&Peer::Node(NODE)));
    let gateway = || identity(Peer::Gateway, ours.get(&Peer::Gateway));
    let cases = [
        ("a client of a foreign authority", node(), identity(Peer::Gateway, foreign.get(&Peer::Gateway))),
        ("a server of a foreign authority", identity(NODE.into(), foreign.get(&NODE.into())), gateway()),
        ("a client with another's certificate", node(), identity(OTHER, ours.get(&Peer::Gateway))),
        ("a server with another's certificate", identity(NODE.into(), ours.get(&OTHER)), gateway()),
        ("a gateway that poses as the node", identity(NODE.into(), ours.get(&Peer::Gateway)), gateway()),
        ("a client without TLS", node(), identity(Peer::Gateway, None)),
        ("a server without TLS", identity(NODE.into(), None), gateway()),
    ];
    for (case, server, client) in cases {
        let local = world_of(LocalNet::default(), server.clone(), client.clone(), None).await;
        let tcp = world_of(TcpNet, server, client, None).await;
        for world in [local, tcp] {
            let error = world.client.call(NODE, ECHO, Message::default(), options(LONG)).await.unwrap_err();
            assert!(matches!(error, RpcError::Unreachable(_)), "{case}: {error}");
            assert!(world.service.calls.lock().unwrap().is_empty(), "{case}");
        }
    }
}

#[tokio::test]
async fn plain_bytes_never_leave_the_machine() {
    let tcp = seams(TcpNet);
    for address in ["0.0.0.0:0", "[::]:0"] {
        let Ok(listener) = tcp.net.listen(address).await else { continue };
        let router = Arc::new(Router::default());
        let refused = serve(&tcp, identity(Peer::Node(NODE)), listener, router, 0).err().unwrap();
        assert!(refused.to_string().contains("not on the loopback"), "{refused}");
    }
    let world = world(TcpNet).await;
    for address in ["10.255.255.1:7001", "node-3.example.org:7001", "[2001:db8::1]:7001"] {
        world.book.0.lock().unwrap().insert(NodeId(4), address.to_string());
        let client = RpcClient::new(tcp.clone(), identity(Peer::Gateway), world.book.clone());
        let error = client.call(NodeId(4), ECHO, Message::default(), options(LONG)).await.unwrap_err();
        assert!(matches!(&error, RpcError::Unreachable(why) if why.contains("no certificates")), "{error}");
    }
}

#[tokio::test]
async fn the_epoch_is_learnt_once_and_another_is_refused() {
    let at = |me: Peer, epoch: u16| {
        let identity = identity(me);
        identity.epoch.learn(epoch);
        identity
    };
    let call = |server: Identity, client: Identity| async move {
        let world = world_of(LocalNet::default(), server, client, None).await;
        let called = world.client.call(NODE, ECHO, Message::default(), options(LONG)).await;
        assert_eq!(called.is_ok(), world.service.calls.lock().unwrap().len() == 1);
        called.map(drop).map_err(|error| error.to_string())
    };
    // Whoever knows nothing takes what the other says, on both sides.
    let (node, gateway) = (at(NODE.into(), 2), at(Peer::Gateway, 0));
    call(node.clone(), gateway.clone()).await.unwrap();
    assert_eq!(gateway.epoch.get(), 2);
    let young = at(NODE.into(), 0);
    call(young.clone(), gateway.clone()).await.unwrap();
    assert_eq!(young.epoch.get(), 2);

    // Behind: it is refused, whoever dialled, and says what to do.
    let old = at(Peer::Node(NodeId(5)), 1);
    let error = call(node.clone(), old.clone()).await.unwrap_err();
    for part in ["epoch 2", "node 5 at epoch 1", "`replace`"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(old.epoch.behind().await.contains("before a recovery"));
    assert_eq!(old.epoch.get(), 1, "a peer changes nobody's mind");
    let old = at(NODE.into(), 1);
    let error = call(old.clone(), gateway.clone()).await.unwrap_err();
    assert!(error.contains("node 3 comes from epoch 1"), "{error}");
    assert!(old.epoch.behind().await.contains("`replace`"));
    let late = at(Peer::Gateway, 1);
    assert!(call(node, late).await.unwrap_err().ends_with("restart it"));
}
