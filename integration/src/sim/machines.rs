//! The processes of the simulated machines: the daemons of production over the simulated seams.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use consensus::client::{Contacts, MetaClient};
use consensus::meta::audit::audit;
use consensus::meta::model::SessionKind;
use consensus::meta::names::{AccessKeyId, UserName};
use consensus::meta::store::Rows;
use consensus::meta::tables::{Cluster, Extents, get, owners_of, scan_all};
use consensus::raft::log::LogConfig;
use consensus::raft::node::MetaNode;
use consensus::raft::wire::Replace;
use fabric::Seams;
use fabric::cluster::{IpTable, OverlayRemote, Place};
use fabric::codec::crc32c;
use fabric::ids::{ClusterId, NodeId};
use fabric::limits::{ACCESS_LOG_PERIOD_DEFAULT, CONNECTIONS_MAX, COPIES, KIB, MIB, UPLOAD_PERIOD_DEFAULT};
use fabric::rpc::{Identity, Peer, RpcClient};
use gateway::admin::users::ensure_user;
use gateway::daemon::{Gateway, GatewayParts, Listeners};
use gateway::keyring::KeyRing;
use gateway::notify::Webhooks;
use gateway::overlay::{OverlayConfig, RoomConfig};
use gateway::queue::Budget;
use gateway::secrets::{ClusterKey, Secret};
use storage::chunks::ChunkStore;
use storage::client::ChunkClient;
use storage::daemon::{StorageDaemon, StorageSettings};
use storage::index::client::SearchClient;
use storage::membership::{self, Membership};
use tokio::sync::watch;

use super::plan::{Machine, Plan, Scale};
use super::workload::{S3_PORT, Shared, Shown, other_credentials, root_credentials};
use crate::client::Credentials;
use crate::worker::Scene;

const CLUSTER: ClusterId = ClusterId(0x51D);
const NODE_PORT: u16 = 7000;
pub(super) const ADMIN_PORT: u16 = 9001;
const MEMORY_BYTES: u64 = 256 * MIB;
/// Short enough for a voter to be exchanged while a plan runs.
const VOTER_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at whether an audit is wanted.
const AUDIT_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to make a user.
const USER_PAUSE: Duration = Duration::from_millis(200);

/// Short enough to see objects expire.
const LIFECYCLE_DAY: Duration = Duration::from_secs(2);
/// How long an operator tries.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(20);

/// Why a simulated process ended.
type Failure = Box<dyn Error>;

/// Runs the process of a machine until the machine dies or the process ends itself; then the machine waits for
/// the world to start it again.
pub async fn run(seams: Seams, shared: Arc<Shared>, machine: Machine) -> Result<(), Failure> {
    let ended = match machine {
        Machine::Node(number) => node(&seams, &shared, number).await,
        Machine::Gateway(_) => gateway(&seams, &shared).await,
    };
    if let Err(error) = ended {
        seams.env.fail_stop(&error.to_string());
    }
    std::future::pending().await
}

/// A storage node of a simulated cluster: who it is, where it listens, and what its plan says.
pub(super) fn node_settings(
    (cluster, number, nodes): (ClusterId, u16, u16),
    (port, book): (u16, Arc<IpTable>),
    (scale, inline_bytes_max): (&Scale, u64),
) -> StorageSettings {
    let nodes = (1..=nodes).map(NodeId);
    StorageSettings {
        cluster,
        node: NodeId(number),
        data: "/data".into(),
        listen: format!("0.0.0.0:{port}"),
        zone: String::new(),
        voters: nodes.clone().take(3).collect(),
        voter_patience: VOTER_PATIENCE,
        nodes: nodes.collect(),
        copies: COPIES,
        scrub_period: Duration::from_secs(scale.scrub_seconds),
        upload_period: Some(UPLOAD_PERIOD_DEFAULT),
        book,
        tls: None,
        memory_bytes: MEMORY_BYTES,
        reserve_bytes: scale.reserve_bytes,
        log: LogConfig {
            first_segment_bytes: 128 * KIB,
            segment_bytes: 256 * KIB,
            reserve_bytes: MIB,
            ..LogConfig::default()
        },
        snapshot_entries: scale.snapshot_entries,
        inline_bytes_max,
        search_index: false,
        faults: None,
    }
}

async fn node(seams: &Seams, shared: &Shared, number: u16) -> Result<(), Failure> {
    let plan = shared.plan();
    let at = (node_port(shared, NodeId(number)), addresses(shared));
    let settings = StorageSettings {
        search_index: shared.searches(),
        ..node_settings((CLUSTER, number, plan.nodes), at, (&plan.scale, plan.inline_bytes_max))
    };
    let daemon = StorageDaemon::start(seams.clone(), settings).await?;
    daemon.wait_ready().await.map_err(|error| error.to_string())?;
    // The process lives until the machine dies; meanwhile it shows its rows to who audits.
    loop {
        tokio::time::sleep(AUDIT_PAUSE).await;
        show(shared, number, daemon.meta_node());
        if shared.wants_audit_of(number) {
            let findings = daemon.meta_node().view().map_or(Ok(Vec::new()), |view| audit(&*view));
            shared.audited(number, findings.map_err(|fault| format!("{fault:?}"))?);
        }
        // By the leader's rows: a node may stand by with old ones, or with none.
        if shared.wants_copies_of(number)
            && let Some(view) = shared.leaders_rows()
        {
            match missing_copies(&*view, daemon.store()).await {
                Ok(missing) => shared.counted_copies(number, missing),
                Err(why) => shared.violate(why.to_string()),
            }
        }
    }
}

/// Chunks that the catalog places on the node of `store` and that are not there in full, and extents that lie in an
/// older layout than the newest. Bytes that do not match
/// their checksum must not be given out even here.
async fn missing_copies(rows: &dyn Rows, store: &ChunkStore) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    let newest = get::<Cluster>(rows, ())?.map(|cluster| cluster.layout);
    let extents: Vec<_> = scan_all::<Extents>(rows)?.collect::<Result<_, _>>()?;
    for ((_, id), row) in extents {
        let extent = row.extent;
        if Some(extent.layout) != newest {
            missing.push(format!("extent {id} lies in layout {}", extent.layout.0));
        }
        let owners = owners_of(rows, extent.layout, id)?.unwrap_or_default();
        let Some(place) = owners.iter().position(|owner| *owner == store.node()) else { continue };
        for (chunk, _) in extent.spread().chunks_at(place, owners.len(), 0..extent.chunks()) {
            let stat = store.stat(vec![chunk]).await.ok().and_then(|mut stats| stats.pop().flatten());
            let Some(stat) = stat else {
                missing.push(chunk.to_string());
                continue;
            };
            match store.get(chunk, 0, stat.bytes).await {
                Ok(bytes) if crc32c(&[&bytes]) != stat.crc32c => {
                    return Err(format!("wrong bytes of chunk {chunk} were given out").into());
                }
                Ok(_) => {}
                Err(error) => missing.push(error.to_string()),
            }
        }
    }
    Ok(missing)
}

async fn gateway(seams: &Seams, shared: &Shared) -> Result<(), Failure> {
    let plan = shared.plan();
    let made = GatewayMade {
        cluster: CLUSTER,
        nodes: plan.nodes,
        book: addresses(shared),
        region: "us-east-1",
        inline_bytes_max: plan.inline_bytes_max,
        overlay: None,
        admin_token: Secret::draw(&*seams.env),
    };
    let users = [("root", root_credentials()), ("other", other_credentials())];
    made.serve(seams, &users).await
}

/// What the gateway of a simulated cluster is made of.
pub(super) struct GatewayMade<'a> {
    pub cluster: ClusterId,
    pub nodes: u16,
    pub book: Arc<IpTable>,
    pub region: &'a str,
    pub inline_bytes_max: u64,
    /// Where other clusters reach it: host and port.
    pub overlay: Option<(&'a str, u16)>,
    pub admin_token: Secret,
}

impl GatewayMade<'_> {
    /// Makes the users, unless they are there, and serves until the machine dies.
    pub(super) async fn serve(self, seams: &Seams, users: &[(&str, Credentials)]) -> Result<(), Failure> {
        let identity = Identity::new(self.cluster, Peer::Gateway, None);
        let rpc = RpcClient::new(seams.clone(), identity, self.book);
        let contacts = contacts(self.nodes);
        let meta = MetaClient::new(seams.env.clone(), rpc.clone(), contacts, SessionKind::Gateway, None);
        let meta = Arc::new(meta);
        // The same on all machines of a cluster, as if read from the secrets directory.
        let cluster_key = ClusterKey::from_hex(&"5a".repeat(32))?;
        for (name, keys) in users {
            let (id, secret) =
                (AccessKeyId::try_from(keys.access_key.clone())?, Secret::chosen(&keys.secret_key)?);
            let user = UserName::try_from(name.to_string())?;
            while let Err(error) = ensure_user(&*meta, &*seams.env, &cluster_key, &user, &id, &secret).await {
                tracing::debug!(%error, name, "the user is not made yet");
                tokio::time::sleep(USER_PAUSE).await;
            }
        }
        let parts = GatewayParts {
            webhooks: Webhooks::default(),
            access_log_period: ACCESS_LOG_PERIOD_DEFAULT,
            overlay: self.overlay.map(|(host, port)| OverlayConfig {
                address: format!("{host}:{port}"),
                remote: OverlayRemote::Forward,
                s3: None,
                room: RoomConfig::DEFAULT,
            }),
            seams: seams.clone(),
            meta,
            chunks: Arc::new(ChunkClient::new(rpc.clone())),
            searches: Arc::new(SearchClient::new(seams.env.clone(), rpc)),
            key_ring: Arc::new(KeyRing::derived(&cluster_key)),
            cluster_key,
            admin_token: self.admin_token,
            region: self.region.to_string(),
            domains: Vec::new(),
            website_domains: Vec::new(),
            budget: Budget::split(MEMORY_BYTES, 0),
            inline_bytes_max: self.inline_bytes_max,
            tls: None,
            metrics: None,
            report: Arc::new(|| serde_json::Value::Null),
            founded: Arc::new(AtomicBool::new(true)),
            require_signed_payload: false,
            proxies: Default::default(),
            lifecycle_day: LIFECYCLE_DAY,
            customer_keys_without_tls: true,
            connections_max: CONNECTIONS_MAX,
        };
        let s3 = seams.net.listen(&format!("0.0.0.0:{S3_PORT}")).await?;
        let admin = seams.net.listen(&format!("0.0.0.0:{ADMIN_PORT}")).await?;
        let overlay = match self.overlay {
            Some((_, port)) => Some(seams.net.listen(&format!("0.0.0.0:{port}")).await?),
            None => None,
        };
        let stop = watch::Sender::new(false);
        let listeners = Listeners { s3, admin, websites: None, overlay };
        Gateway::new(parts).serve(listeners, stop.subscribe()).await;
        Ok(())
    }
}

fn nodes(plan: &Plan) -> impl Iterator<Item = NodeId> + use<> {
    (1..=plan.nodes).map(NodeId)
}

/// What `iptable.txt` says to a process that starts now.
fn addresses(shared: &Shared) -> Arc<IpTable> {
    let address = |id: NodeId| format!("node-{id}:{}", node_port(shared, id));
    let place = |id: NodeId| (id, Place { address: address(id), zone: None });
    Arc::new(IpTable::new(nodes(shared.plan()).map(place)))
}

/// Each node has a port of its own, and others after each move of all.
fn node_port(shared: &Shared, node: NodeId) -> u16 {
    NODE_PORT + 100 * shared.moves() + node.0
}

/// Shows what stories want to know.
fn show(shared: &Shared, number: u16, voter: &MetaNode) {
    let Some(view) = voter.view() else { return };
    let Ok(cluster) = get::<Cluster>(&*view, ()) else { return };
    shared.show(Shown {
        node: number,
        leads: voter.leads(),
        index: view.index(),
        time_ms: cluster.map_or(0, |cluster| cluster.time.0),
    });
    if voter.leads() {
        shared.show_leaders_rows(view);
    }
}

/// The metadata, as an operator reaches them.
fn operate(seams: Seams, shared: &Shared) -> MetaClient {
    let identity = Identity::new(CLUSTER, Peer::Gateway, None);
    let rpc = RpcClient::new(seams.clone(), identity, addresses(shared));
    MetaClient::new(seams.env, rpc, contacts(shared.plan().nodes), SessionKind::Gateway, None)
}

/// Whom clients of the metadata ask.
fn contacts(nodes: u16) -> Contacts {
    let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    Contacts::new(&nodes[..nodes.len().min(3)], &nodes)
}

/// Drains a node, or gives it data again. Faults may keep the operator from it, or too few nodes be left.
pub async fn change_layout(seams: Seams, shared: Arc<Shared>, node: u16) -> Result<(), Failure> {
    let meta = operate(seams, &shared);
    let node = NodeId(node);
    let change = async {
        let owned = Membership::read(&meta).await?.owned();
        match owned.contains_key(&node) {
            true => membership::drain(&meta, node, COPIES).await,
            false => membership::add(&meta, node, COPIES).await,
        }
    };
    match tokio::time::timeout(OPERATOR_PATIENCE, change).await {
        Ok(Ok(())) => shared.note(&format!("node {node} is drained or has data again")),
        Ok(Err(error)) => shared.note(&format!("node {node} stays as it is: {error}")),
        Err(_) => shared.note("the operator gives up"),
    }
    Ok(())
}

/// What an operator does who was told to.
pub async fn replace(seams: Seams, shared: Arc<Shared>, replace: Replace) -> Result<(), Failure> {
    let meta = operate(seams, &shared);
    if let Err(error) = meta.replace(replace).await {
        shared.violate(format!("a voter cannot be replaced: {error}"));
    }
    Ok(())
}
