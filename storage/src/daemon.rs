//! One storage node: chunks, the metadata where it is a voter, jobs, and the port that peers call.
//!
//! Binaries, embedded modes and the simulator start this same thing, any number of times in a process: it keeps
//! nothing global. [`StorageDaemon::start`] returns once peers can call; [`StorageDaemon::wait_ready`] returns
//! once the node takes part, or says in one sentence why it never will.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use consensus::client::{Contacts, MetaClient, MetaError};
use consensus::meta::command::Reject;
use consensus::meta::model::{FIRST_EPOCH, NodeRow, SessionKind};
use consensus::meta::tables::{Sessions, get};
use consensus::raft::identity::{self, IdentityError};
use consensus::raft::log::LogConfig;
use consensus::raft::machine::MachineConfig;
use consensus::raft::node::{self, MetaNode, NodeConfig};
use consensus::raft::recovery::{self, AsOf, Surviving};
use consensus::raft::wire::Life;
use consensus::raft::wire::method::{ADMIN_GROUP, META_GROUP, RAFT_GROUP};
use fabric::env::{TaskHandle, run_blocking};
use fabric::ids::{ClusterId, NodeId, SessionId};
use fabric::limits::MIB;
use fabric::rpc::{AddressBook, FrameFaults, Identity, Peer, Router, RpcClient, serve};
use fabric::tls::Certificates;
use fabric::{Edge, Seams};
use tokio::sync::watch;

use crate::backup::Reading;
use crate::chunks::{CHUNKS_PER_CALL_MAX, ChunkSettings, ChunkStore};
use crate::client::ChunkClient;
use crate::index::{self, IndexSettings, SearchIndex, SearchService};
use crate::jobs::work::Work;
use crate::jobs::{self, JobContext, Runner};
use crate::node_chunks::NodeChunks;
use crate::service::{ChunkService, EndedSessions};
use crate::wire;

/// Directory of the chunk volumes within the data directory.
const CHUNKS: &str = "chunks";
/// A voter looks this often whether its tables tell the epoch.
const EPOCH_PAUSE: Duration = Duration::from_millis(10);
/// Between two tries to register the node.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// The jobs' session says goodbye within this, or not at all.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);
/// A cluster that begins anew leaves out so many epochs above those of the chunks it sees: other nodes may have seen later
/// ones.
const EPOCHS_UNSEEN: u16 = 16;
/// Between two looks whether the volumes are open.
const OPENING_PAUSE: Duration = Duration::from_millis(20);
/// The least that chunks get of the memory.
const CHUNK_MEMORY_MIN: u64 = 16 * MIB;

/// What a storage node is told.
#[derive(Clone)]
pub struct StorageSettings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Its data directory; made if it is not there, and locked.
    pub data: PathBuf,
    /// Where it listens for peers.
    pub listen: String,
    /// Failure domain; empty where there are none.
    pub zone: String,
    /// The voters the cluster is born with.
    pub voters: Vec<NodeId>,
    /// A voter that is silent for longer is exchanged by a node that stands by.
    pub voter_patience: Duration,
    /// The nodes that the first layout waits for.
    pub nodes: Vec<NodeId>,
    /// Copies that it makes of each extent, 1 to 3.
    pub copies: usize,
    /// Every chunk is read within this, to find rot.
    pub scrub_period: Duration,
    /// A multipart upload that was begun so long ago is aborted; `None`: never.
    pub upload_period: Option<Duration>,
    /// Where nodes are.
    pub book: Arc<dyn AddressBook>,
    /// Certificates; `None` on a network inside the process, or on loopback with `insecure`.
    pub tls: Option<Arc<Certificates>>,
    /// What everything that can grow in this node may take, in bytes. The metadata's cache gets a sixth of it, its overlays a
    /// quarter, chunks a fifth, the log an eighth, the search index a sixteenth, requests an eighth for each class of
    /// connections, of which one is nearly idle.
    pub memory_bytes: u64,
    /// Free space below which puts are refused.
    pub reserve_bytes: u64,
    /// Sizes of the log of a voter.
    pub log: LogConfig,
    /// Entries between snapshots of the metadata; the log is kept until then.
    pub snapshot_entries: u64,
    /// Bytes of small bodies in the metadata; what is more moves into chunks.
    pub inline_bytes_max: u64,
    /// Whether it keeps an index for searches, where it keeps the metadata.
    pub search_index: bool,
    /// Drops, repeats and delays calls; for the simulator.
    pub faults: Option<Arc<dyn FrameFaults>>,
}

/// Why a storage node does not start. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the lock.
    #[error("another process uses {}", .0.display())]
    InUse(PathBuf),
    /// The data directory cannot be made or read.
    #[error("the data directory {} cannot be used: {error}", .directory.display())]
    Data {
        /// Which.
        directory: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The address cannot be listened on.
    #[error("node {0} cannot listen on {1}: {2}")]
    Listen(NodeId, String, io::Error),
    /// The directory belongs to another node or cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The voter does not start.
    #[error(transparent)]
    Meta(#[from] node::StartError),
    /// The cluster does not take the node.
    #[error("the cluster does not take node {0}: {1}")]
    Refused(NodeId, String),
    /// It was stopped before it was ready.
    #[error("node {0} was stopped")]
    Stopped(NodeId),
}

/// How far a node is.
#[derive(Clone)]
enum Stage {
    Starting,
    Ready,
    Failed(Arc<StartError>),
}

/// A running storage node. Dropped without [`StorageDaemon::shutdown`] it ends as in a crash.
pub struct StorageDaemon {
    node: NodeId,
    address: SocketAddr,
    store: ChunkStore,
    meta_node: Arc<MetaNode>,
    meta: MetaClient,
    rpc: RpcClient,
    stage: watch::Sender<Stage>,
    runner: Arc<std::sync::Mutex<Option<Runner>>>,
    index: Option<SearchIndex>,
    server: TaskHandle,
    starting: TaskHandle,
    _lock: Box<dyn Send + Sync>,
}

impl StorageDaemon {
    /// Takes the data directory and begins to serve. What takes long goes on in the background.
    pub fn start(
        seams: Seams,
        settings: StorageSettings,
    ) -> Edge<'static, Result<StorageDaemon, StartError>> {
        Box::pin(async move {
            let lock = lock(&seams, &settings).await?;
            let identity = identity::open(&seams, &settings.data, settings.cluster, settings.node).await?;
            let store = ChunkStore::open(&seams, chunk_settings(&settings))
                .await
                .map_err(|error| StartError::Data { directory: settings.data.clone(), error })?;
            let me = Peer::Node(settings.node);
            let names = Identity::new(settings.cluster, me, settings.tls.clone());
            let rpc = RpcClient::with_faults(
                seams.clone(),
                names.clone(),
                settings.book.clone(),
                settings.faults.clone(),
            );
            let meta_node = MetaNode::with_identity(
                &seams,
                rpc.clone(),
                &settings.data,
                voter_config(&settings),
                identity,
            );

            let listener = seams.net.listen(&settings.listen).await;
            let listener = listener
                .map_err(|error| StartError::Listen(settings.node, settings.listen.clone(), error))?;
            let address = listener.local_address();
            let work = Arc::new(Work::default());
            let index = settings.search_index.then(|| {
                let directory = settings.data.clone();
                let settings =
                    IndexSettings::within(directory, settings.memory_bytes, settings.reserve_bytes);
                SearchIndex::start(&seams, settings, meta_node.clone())
            });
            let router = router(&store, &meta_node, &work, index.clone());
            let server = serve(&seams, names, listener, Arc::new(router), settings.memory_bytes / 8);
            let server =
                server.map_err(|error| StartError::Listen(settings.node, settings.listen.clone(), error))?;

            let kind = SessionKind::Jobs(settings.node);
            let contacts = Contacts::new(&settings.voters, &settings.nodes);
            let meta =
                MetaClient::new(seams.env.clone(), rpc.clone(), contacts, kind, Some(meta_node.clone()));
            let stage = watch::Sender::new(Stage::Starting);
            let runner = Arc::default();
            let birth = Birth {
                seams: seams.clone(),
                settings: settings.clone(),
                store: store.clone(),
                meta_node: meta_node.clone(),
                meta: meta.clone(),
                rpc: rpc.clone(),
                work,
                stage: stage.clone(),
                runner: Arc::clone(&runner),
            };
            let starting = seams.env.spawn("storage-start", Box::pin(birth.run()));
            let node = settings.node;
            Ok(StorageDaemon {
                node,
                address,
                store,
                meta_node,
                meta,
                rpc,
                stage,
                runner,
                index,
                server,
                starting,
                _lock: lock,
            })
        })
    }

    /// Waits until the node takes part in the cluster and serves chunks. It may wait for other nodes for ever;
    /// an error is final.
    pub async fn wait_ready(&self) -> Result<(), Arc<StartError>> {
        let mut stage = self.stage.subscribe();
        let stopped = || Arc::new(StartError::Stopped(self.node));
        let reached = stage.wait_for(|stage| !matches!(stage, Stage::Starting)).await;
        match &*reached.map_err(|_| stopped())? {
            Stage::Ready => Ok(()),
            Stage::Failed(why) => Err(why.clone()),
            Stage::Starting => Err(stopped()),
        }
    }

    /// Whether [`StorageDaemon::wait_ready`] would return at once, and well.
    pub fn is_ready(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ready) && self.store.status().ready
    }

    /// A question like [`StorageDaemon::is_ready`] that outlives the daemon.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let (stage, store) = (self.stage.subscribe(), self.store.clone());
        move || matches!(*stage.borrow(), Stage::Ready) && store.status().ready
    }

    /// Which node it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it listens for peers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its chunks.
    pub fn store(&self) -> &ChunkStore {
        &self.store
    }

    /// Its part in the metadata, which may be to stand by.
    pub fn meta_node(&self) -> &Arc<MetaNode> {
        &self.meta_node
    }

    /// Its connections to other nodes.
    pub fn rpc(&self) -> &RpcClient {
        &self.rpc
    }

    /// Stops in order: no more jobs, leadership handed over, calls ended, chunks settled, files closed.
    pub fn shutdown(self) -> Edge<'static, ()> {
        Box::pin(async move {
            self.starting.abort();
            if let Some(runner) = self.runner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
            {
                runner.stop();
            }
            if let Some(index) = &self.index {
                index.close().await;
            }
            // Where no voter leads any more, the session falls silent and ends that way.
            let _ = tokio::time::timeout(GOODBYE_DEADLINE, self.meta.close()).await;
            self.meta_node.shutdown().await;
            self.server.abort();
            self.store.close().await;
            tracing::info!(node = %self.node, "storage node stopped");
        })
    }
}

/// Nothing of it runs on; what was acknowledged is on disk.
impl Drop for StorageDaemon {
    fn drop(&mut self) {
        self.starting.abort();
        self.server.abort();
        if let Some(index) = &self.index {
            index.stop();
        }
        drop(self.runner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }
}

async fn lock(seams: &Seams, settings: &StorageSettings) -> Result<Box<dyn Send + Sync>, StartError> {
    let (disks, data) = (seams.disks.clone(), settings.data.clone());
    let locked = run_blocking(&*seams.env, move || {
        disks.create_dir(&data)?;
        disks.lock(&data)
    });
    locked.await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse(settings.data.clone()),
        _ => StartError::Data { directory: settings.data.clone(), error },
    })
}

/// Makes the data of one node, which does not run, those of the cluster: see [`recovery::recover`].
pub fn recover<'a>(
    seams: &'a Seams,
    settings: &'a StorageSettings,
    go: bool,
) -> Edge<'a, Result<Surviving, StartError>> {
    Box::pin(async move {
        // Looking must not leave a new directory where there is none.
        identity::cluster_of(seams, &settings.data).await?.ok_or_else(|| StartError::Data {
            directory: settings.data.clone(),
            error: io::ErrorKind::NotFound.into(),
        })?;
        let _lock = lock(seams, settings).await?;
        Ok(recovery::recover(seams, &settings.data, &voter_config(settings), go).await?)
    })
}

/// Fills the data directory of one node, which does not run and holds no metadata, from a backup: see
/// [`recovery::restore`]. Its chunks may be there already.
pub fn restore<'a>(
    seams: &'a Seams,
    settings: &'a StorageSettings,
    backup: Reading,
) -> Edge<'a, Result<Surviving, StartError>> {
    Box::pin(async move {
        let _lock = lock(seams, settings).await?;
        let mut backup = backup;
        let as_of = AsOf { term: backup.about.term, index: backup.about.index, epoch_min: FIRST_EPOCH };
        let page = move || backup.page().map_err(io::Error::other);
        Ok(recovery::restore(seams, &settings.data, &voter_config(settings), as_of, page).await?)
    })
}

/// Makes one node, which does not run and holds no metadata, the first of a cluster in which nothing is named yet, in an
/// epoch above those of all its chunks. Returns how many chunks there are, too.
pub fn begin_anew<'a>(
    seams: &'a Seams,
    settings: &'a StorageSettings,
) -> Edge<'a, Result<(Surviving, u64), StartError>> {
    Box::pin(async move {
        let _lock = lock(seams, settings).await?;
        let unusable = |error: io::Error| StartError::Data { directory: settings.data.clone(), error };
        let store = ChunkStore::open(seams, chunk_settings(settings)).await.map_err(unusable)?;
        let seen = async {
            while !store.status().ready {
                tokio::time::sleep(OPENING_PAUSE).await;
            }
            let (mut epoch, mut count, mut after) = (FIRST_EPOCH, 0, None);
            loop {
                let page = store.scan(after, CHUNKS_PER_CALL_MAX as u32).await.map_err(io::Error::other)?;
                let Some(last) = page.last() else { return Ok((epoch, count)) };
                after = Some(last.id);
                count += page.len() as u64;
                let epochs = page.iter().map(|stat| stat.id.extent().session().epoch);
                epoch = epochs.fold(epoch, u16::max);
            }
        };
        let seen = seen.await;
        store.close().await;
        let (epoch, count) = seen.map_err(unusable)?;
        let epoch =
            epoch.checked_add(EPOCHS_UNSEEN).ok_or_else(|| unusable(io::Error::other("no epoch is left")))?;
        let (config, nothing) = (voter_config(settings), || Ok(None));
        let begun = recovery::restore(seams, &settings.data, &config, AsOf::nothing(epoch), nothing).await?;
        Ok((begun, count))
    })
}

fn chunk_settings(settings: &StorageSettings) -> ChunkSettings {
    let directory = settings.data.join(CHUNKS);
    let memory_bytes = (settings.memory_bytes / 5).max(CHUNK_MEMORY_MIN);
    ChunkSettings {
        reserve_bytes: settings.reserve_bytes,
        ..ChunkSettings::new(settings.node, directory, memory_bytes)
    }
}

fn voter_config(settings: &StorageSettings) -> NodeConfig {
    let config =
        NodeConfig::new(settings.cluster, settings.node, settings.voters.clone(), settings.nodes.clone());
    NodeConfig {
        copies: settings.copies,
        voter_patience: settings.voter_patience,
        log: settings.log.clone(),
        snapshot_entries: settings.snapshot_entries,
        machine: MachineConfig::within(settings.memory_bytes),
        ..config
    }
}

fn router(
    store: &ChunkStore,
    meta_node: &Arc<MetaNode>,
    work: &Arc<Work>,
    index: Option<SearchIndex>,
) -> Router {
    let sessions = Arc::new(LocalView(meta_node.clone()));
    let chunks = ChunkService::new(store.clone(), sessions, work.clone());
    let router = Router::default().with(wire::GROUP, Arc::new(chunks));
    let router = router.with(index::wire::GROUP, Arc::new(SearchService(index)));
    [RAFT_GROUP, META_GROUP, ADMIN_GROUP]
        .into_iter()
        .fold(router, |router, group| router.with(group, meta_node.clone()))
}

async fn node_row(seams: &Seams, settings: &StorageSettings, life: Life) -> NodeRow {
    let (disks, data) = (seams.disks.clone(), settings.data.clone());
    let space = run_blocking(&*seams.env, move || disks.space(&data)).await;
    NodeRow {
        id: settings.node,
        incarnation: life.id.incarnation(),
        address: settings.book.address(settings.node).unwrap_or_else(|| settings.listen.clone()),
        zone: settings.zone.clone(),
        capacity_bytes: space.map_or(0, |space| space.total_bytes),
        starts: life.starts,
        release: env!("CARGO_PKG_VERSION").to_string(),
        voter: settings.voters.contains(&settings.node).then_some(life.id),
        run: life.run,
    }
}

/// What the tables of this node say about sessions. They may lag, and then it knows less, never wrong things.
struct LocalView(Arc<MetaNode>);

impl EndedSessions for LocalView {
    fn is_ended(&self, session: SessionId) -> bool {
        let Some(view) = self.0.view() else { return false };
        let Ok(Some(cluster)) = get::<consensus::meta::tables::Cluster>(&*view, ()) else { return false };
        // A session that the view does not know yet is not ended, only young.
        let drawn = (session.epoch, session.number) < (cluster.epoch, cluster.next_session);
        drawn && matches!(get::<Sessions>(&*view, session), Ok(None))
    }
}

/// The slow part of a start.
struct Birth {
    seams: Seams,
    settings: StorageSettings,
    store: ChunkStore,
    meta_node: Arc<MetaNode>,
    meta: MetaClient,
    rpc: RpcClient,
    work: Arc<Work>,
    stage: watch::Sender<Stage>,
    runner: Arc<std::sync::Mutex<Option<Runner>>>,
}

impl Birth {
    async fn run(self) {
        let mut takes_part = match self.go().await {
            Ok(takes_part) => takes_part,
            Err(error) => {
                self.stage.send_replace(Stage::Failed(Arc::new(error)));
                return;
            }
        };
        self.stage.send_replace(Stage::Ready);
        loop {
            if !takes_part && let Err(error) = self.stand_by().await {
                return self.seams.env.fail_stop(&format!("the node cannot keep the metadata: {error}"));
            }
            self.meta_node.dismissed().await;
            takes_part = false;
        }
    }

    /// Does what a start takes. Returns whether the node keeps the metadata; else it stands by.
    async fn go(&self) -> Result<bool, StartError> {
        let node = self.settings.node;
        let life = self.meta_node.life();
        let takes_part = match self.meta_node.start().await {
            Ok(()) => true,
            Err(node::StartError::NotAVoter { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if !takes_part {
            self.wait_for_leave(life).await?;
        }
        self.register(node_row(&self.seams, &self.settings, life).await).await?;
        if takes_part {
            self.keep_epoch().await?;
        }
        self.store.wait_ready().await;
        let peers = ChunkClient::new(self.rpc.clone());
        let chunks = NodeChunks::new(self.store.clone(), peers.clone());
        let meta_node = self.meta_node.clone();
        let leads = Box::new(move || meta_node.leads());
        let (env, meta) = (self.seams.env.clone(), Arc::new(self.meta.clone()));
        let Birth { settings, store, work, .. } = self;
        let cx = JobContext::new(env, node, meta, Arc::new(chunks), leads, work.clone(), Arc::new(peers));
        let jobs = jobs::all(store, settings.inline_bytes_max, settings.scrub_period, settings.upload_period);
        let runner = Runner::start(Arc::new(cx), jobs);
        *self.runner.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(runner);
        tracing::info!(%node, "storage node takes part");
        Ok(takes_part)
    }

    /// What a voter does before it takes part, for a node that is none.
    async fn wait_for_leave(&self, life: Life) -> Result<(), StartError> {
        tokio::select! {
            biased;
            why = self.rpc.epoch().behind() => return Err(node::StartError::Behind(why).into()),
            presented = self.meta_node.present() => presented?,
        }
        Ok(identity::count_start(&self.seams, &self.settings.data, life).await?)
    }

    /// Remembers the epoch of the cluster: what is of an earlier one takes part no more.
    async fn keep_epoch(&self) -> Result<(), StartError> {
        // It is in the tables as soon as this node has applied its own registration.
        while self.rpc.epoch().get() == 0 {
            tokio::time::sleep(EPOCH_PAUSE).await;
        }
        Ok(identity::keep_epoch(&self.seams, &self.settings.data, self.rpc.epoch().get()).await?)
    }

    /// Waits to be called to the voters, and takes part in the metadata from then on.
    async fn stand_by(&self) -> Result<(), StartError> {
        self.meta_node.stand_by().await?;
        self.keep_epoch().await
    }

    /// Says that the node is here, until the cluster has heard it.
    async fn register(&self, row: NodeRow) -> Result<(), StartError> {
        let node = row.id;
        loop {
            match self.meta.register(row.clone()).await {
                Ok(()) => return Ok(()),
                Err(MetaError::Rejected(Reject::StaleNode)) => {
                    let why = "a later start of it is registered".to_string();
                    return Err(node::StartError::Stale { node, why }.into());
                }
                Err(MetaError::Rejected(Reject::NodeRemoved)) => {
                    let why = "it was removed, and numbers do not come back: give it another one and empty its data directory";
                    return Err(StartError::Refused(node, why.to_string()));
                }
                Err(MetaError::Rejected(reject)) => {
                    return Err(StartError::Refused(node, format!("{reject:?}")));
                }
                Err(error) => tracing::info!(%node, %error, "not registered yet"),
            }
            tokio::time::sleep(REGISTER_PAUSE).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use consensus::client::{Meta, ask};
    use consensus::meta::command::{
        AddUser, BucketChange, Command, CreateBucket, CreateUpload, Done, Expect, NewBody, PutObject,
        SetBucket,
    };
    use consensus::meta::lifecycle::{
        Expiration, FilterForm, Lifecycle, LifecycleFilter, LifecycleRule, TransitionMinimum,
    };
    use consensus::meta::model::{AccessKey, Attributes, BucketSetting, ClusterMs, Etag, Origin};
    use consensus::meta::names::UserName;
    use consensus::meta::query::{Answer, Query};
    use fabric::cluster::{IpTable, Place};
    use fabric::disks::MemoryDisks;
    use fabric::env::{Env, SystemEnv};
    use fabric::ids::{BucketId, ExtentId};
    use fabric::limits::{
        COPIES, GIB, SCRUB_PERIOD_DEFAULT, SNAPSHOT_ENTRIES_DEFAULT, UPLOAD_PERIOD_DEFAULT,
        VOTER_PATIENCE_DEFAULT,
    };
    use fabric::net::LocalNet;

    use super::*;
    use crate::client::Chunks;

    fn seams() -> Seams {
        Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(LocalNet::default()),
            disks: Arc::new(MemoryDisks::new(4 * GIB)),
        }
    }

    fn settings(node: u16, nodes: u16) -> StorageSettings {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let place = |id: &NodeId| (*id, Place { address: format!("127.0.0.1:{}", 7000 + id.0), zone: None });
        StorageSettings {
            cluster: ClusterId(7),
            node: NodeId(node),
            data: format!("/data/{node}").into(),
            listen: format!("127.0.0.1:{}", 7000 + node),
            zone: String::new(),
            voters: ids.clone(),
            voter_patience: VOTER_PATIENCE_DEFAULT,
            nodes: ids.clone(),
            copies: COPIES,
            scrub_period: SCRUB_PERIOD_DEFAULT,
            upload_period: Some(UPLOAD_PERIOD_DEFAULT),
            book: Arc::new(IpTable::new(ids.iter().map(place))),
            tls: None,
            memory_bytes: 256 * MIB,
            reserve_bytes: MIB,
            log: LogConfig::default(),
            snapshot_entries: SNAPSHOT_ENTRIES_DEFAULT,
            inline_bytes_max: GIB,
            search_index: true,
            faults: None,
        }
    }

    async fn start_all(seams: &Seams, nodes: u16) -> Vec<StorageDaemon> {
        let mut daemons = Vec::new();
        for node in 1..=nodes {
            daemons.push(StorageDaemon::start(seams.clone(), settings(node, nodes)).await.unwrap());
        }
        for daemon in &daemons {
            daemon.wait_ready().await.unwrap();
        }
        daemons
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_nodes_take_part_and_come_back() {
        let seams = seams();
        let chunk = ExtentId::new(7, SessionId { epoch: 1, number: u32::MAX }, 1).chunk(0);
        let body = Bytes::from_static(b"body");
        for round in 0..2 {
            let daemons = start_all(&seams, 3).await;
            let client = ChunkClient::new(daemons[0].rpc().clone());
            if round == 0 {
                client.put(NodeId(2), chunk, vec![body.clone()], None).await.unwrap();
            }
            assert_eq!(client.get(NodeId(2), chunk, 0, 4).await.unwrap(), body);
            let meta: &dyn Meta = &daemons[2].meta;
            let layout = loop {
                match ask(meta, Query::Layout(None)).await.unwrap() {
                    Answer::Layout(Some(layout)) => break layout,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            assert_eq!(layout.owners_of(chunk.extent()).len(), 3);
            let second = StorageDaemon::start(seams.clone(), settings(1, 3)).await;
            assert!(matches!(second.err(), Some(StartError::InUse(_))));
            for daemon in daemons {
                daemon.shutdown().await;
            }
        }
    }

    async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let clock = SystemEnv::default();
        let begun = clock.monotonic();
        while !holds().await {
            assert!(clock.monotonic() - begun < Duration::from_secs(60), "not within a minute: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_that_stands_by_votes_in_the_place_of_a_lost_one_which_stands_by_then() {
        let seams = seams();
        let start = async |node| {
            let voters = [1, 2, 3].map(NodeId).to_vec();
            let settings =
                StorageSettings { voters, voter_patience: Duration::from_secs(1), ..settings(node, 4) };
            StorageDaemon::start(seams.clone(), settings).await.unwrap()
        };
        let mut daemons = Vec::new();
        for node in 1..=4 {
            daemons.push(start(node).await);
        }
        for daemon in &daemons {
            daemon.wait_ready().await.unwrap();
        }
        until("node 4 gets the metadata", async || daemons[3].meta_node().view().is_some()).await;
        daemons.remove(2).shutdown().await;
        let meta = daemons[0].meta.clone();
        let vote = async |expected: [u16; 3]| {
            let Ok(Answer::Members { nodes, .. }) = ask(&meta, Query::Members).await else { return false };
            let voters = nodes.into_iter().filter(|row| row.voter.is_some()).map(|row| row.id);
            voters.eq(expected.map(NodeId))
        };
        until("node 4 votes", async || vote([1, 2, 4]).await).await;
        let third = start(3).await;
        third.wait_ready().await.unwrap();
        let index = meta.query(Query::Members).await.unwrap().index;
        let follows = async || third.meta_node().view().is_some_and(|view| view.index() >= index);
        until("node 3 follows again", follows).await;
        assert!(vote([1, 2, 4]).await);
        for daemon in daemons.into_iter().chain([third]) {
            daemon.shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_upload_that_nobody_finishes_is_aborted_in_time() {
        let settings = StorageSettings { upload_period: Some(Duration::from_secs(2)), ..settings(1, 1) };
        let daemon = StorageDaemon::start(seams(), settings).await.unwrap();
        daemon.wait_ready().await.unwrap();
        let bucket = bucket_of_anna(&daemon.meta).await;
        let origin = Origin { requester: "anna".to_string(), ..Origin::default() };
        let create = CreateUpload {
            bucket,
            key: "big".parse().unwrap(),
            attributes: Attributes::default(),
            checksum: None,
            origin,
        };
        daemon.meta.propose(Command::CreateUpload(create)).await.unwrap();
        let clock = SystemEnv::default();
        let begun = clock.monotonic();
        let elapsed = || clock.monotonic() - begun;
        let uploads = || async {
            match ask(&daemon.meta, Query::Usage(bucket)).await.unwrap() {
                Answer::Usage(usage) => usage.uploads,
                answer => panic!("{answer:?}"),
            }
        };
        assert_eq!(uploads().await, 1);
        while uploads().await != 0 {
            assert!(elapsed() < Duration::from_secs(60), "it is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(Duration::from_secs(2) <= elapsed() + Duration::from_millis(200), "too early");
        daemon.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn objects_go_when_the_rules_of_their_bucket_say_so() {
        let daemon = StorageDaemon::start(seams(), settings(1, 1)).await.unwrap();
        daemon.wait_ready().await.unwrap();
        let bucket = bucket_of_anna(&daemon.meta).await;
        let put = async |key: &str| {
            let put = PutObject {
                bucket,
                key: key.parse().unwrap(),
                expect: Expect::default(),
                body: NewBody::Inline(Bytes::from_static(b"x")),
                etag: Etag::Md5([0; 16]),
                checksum: None,
                attributes: Attributes::default(),
                origin: Origin::default(),
            };
            daemon.meta.propose(Command::PutObject(put)).await.unwrap();
        };
        put("tmp/before").await;
        put("kept").await;
        let rule = LifecycleRule {
            id: "tmp".to_string(),
            enabled: true,
            filter: LifecycleFilter {
                form: FilterForm::Filter,
                prefix: Some("tmp/".to_string()),
                tags: Vec::new(),
                larger_than: None,
                smaller_than: None,
            },
            expiration: Some(Expiration::Days(1)),
            noncurrent: None,
            abort_uploads_days: None,
        };
        let transition_minimum = TransitionMinimum::AllClasses128K;
        let transitions = Vec::new();
        let rules = Lifecycle { rules: vec![rule], day_ms: 1_000, transition_minimum, transitions };
        let change = BucketChange::Set(BucketSetting::Lifecycle(rules));
        daemon.meta.propose(Command::SetBucket(SetBucket { bucket, change })).await.unwrap();
        put("tmp/after").await;
        until("only what is covered is gone", async || {
            match ask(&daemon.meta, Query::Usage(bucket)).await.unwrap() {
                Answer::Usage(usage) => usage.objects == 1,
                answer => panic!("{answer:?}"),
            }
        })
        .await;
        daemon.shutdown().await;
    }

    async fn bucket_of_anna(meta: &MetaClient) -> BucketId {
        let user: UserName = "anna".parse().unwrap();
        let key = AccessKey {
            id: "KEY1".parse().unwrap(),
            user: user.clone(),
            sealed_secret: Bytes::new(),
            created: ClusterMs(0),
        };
        meta.propose(Command::AddUser(AddUser { name: user.clone(), key })).await.unwrap();
        let create = CreateBucket { name: "photos".parse().unwrap(), owner: user };
        match meta.propose(Command::CreateBucket(create)).await.unwrap() {
            Done::Bucket(bucket) => bucket.id,
            done => panic!("{done:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_directory_of_another_cluster_or_node_is_refused() {
        let seams = seams();
        for daemon in start_all(&seams, 1).await {
            daemon.shutdown().await;
        }
        let other = StorageSettings { cluster: ClusterId(8), ..settings(1, 1) };
        let refused = StorageDaemon::start(seams.clone(), other).await.err().unwrap();
        assert!(refused.to_string().contains("belongs to cluster"), "{refused}");
        let other = StorageSettings { node: NodeId(2), ..settings(1, 1) };
        let refused = StorageDaemon::start(seams.clone(), other).await.err().unwrap();
        assert!(refused.to_string().contains("belongs to node 1"), "{refused}");
    }
}
