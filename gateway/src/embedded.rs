//! A store in this process: the daemons of storage nodes over a network in memory. No second implementation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use consensus::client::{Contacts, MetaClient};
use consensus::meta::model::SessionKind;
use consensus::raft::log::LogConfig;
use fabric::Seams;
use fabric::cluster::{IpTable, Place};
use fabric::ids::NodeId;
use fabric::limits::{
    COPIES, DISK_RESERVE_BYTES, SCRUB_PERIOD_DEFAULT, SNAPSHOT_ENTRIES_DEFAULT, UPLOAD_PERIOD_DEFAULT,
    VOTER_PATIENCE_DEFAULT,
};
use fabric::net::LocalNet;
use fabric::rpc::{Identity, Peer, RpcClient};
use futures::future::{join_all, try_join_all};
use gateway::queue::Budget;
use gateway::store_files::StoreFiles;
use serde_json::{Value, json};
use storage::client::ChunkClient;
use storage::daemon::{StorageDaemon, StorageSettings};
use storage::index::client::SearchClient;

use crate::Failure;
use crate::store::Store;

/// Voters of a store with more nodes.
const VOTERS_MAX: u16 = 3;
/// Ports in the network in memory; nobody else sees them.
const FIRST_PORT: u16 = 7000;

/// Storage nodes in this process.
pub struct Nodes {
    daemons: Vec<StorageDaemon>,
    meta: MetaClient,
    /// Keeps the store's directory ours.
    _files: StoreFiles,
}

impl Nodes {
    /// Ends them in good order.
    pub async fn shut_down(self) {
        self.meta.close().await;
        join_all(self.daemons.into_iter().map(StorageDaemon::shutdown)).await;
    }
}

/// Starts the nodes of the store in `files` and waits until they serve.
pub async fn start(
    seams: &Seams,
    files: StoreFiles,
    data: &[PathBuf],
    nodes: u16,
    budget: Budget,
    inline_bytes_max: u64,
    search_index: bool,
) -> Result<Store, Failure> {
    let seams = Seams { net: Arc::new(LocalNet::default()), ..seams.clone() };
    let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    let voters: Vec<NodeId> = (1..=nodes.min(VOTERS_MAX)).map(NodeId).collect();
    let address = |node: NodeId| format!("127.0.0.1:{}", FIRST_PORT + node.0);
    let book = Arc::new(IpTable::new(ids.iter().map(|&id| (id, Place { address: address(id), zone: None }))));
    let directories: Vec<PathBuf> = ids.iter().map(|&id| node_directory(data, id)).collect();

    let node_bytes = budget.storage_bytes / u64::from(nodes);
    let starts = ids.iter().zip(&directories).map(|(&node, directory)| {
        let settings = StorageSettings {
            cluster: files.cluster,
            node,
            data: directory.clone(),
            listen: address(node),
            zone: String::new(),
            voters: voters.clone(),
            voter_patience: VOTER_PATIENCE_DEFAULT,
            nodes: ids.clone(),
            copies: COPIES,
            scrub_period: SCRUB_PERIOD_DEFAULT,
            upload_period: Some(UPLOAD_PERIOD_DEFAULT),
            book: book.clone(),
            tls: None,
            memory_bytes: node_bytes,
            reserve_bytes: DISK_RESERVE_BYTES,
            log: LogConfig::within(node_bytes),
            snapshot_entries: SNAPSHOT_ENTRIES_DEFAULT,
            inline_bytes_max,
            search_index,
            faults: None,
        };
        StorageDaemon::start(seams.clone(), settings)
    });
    let daemons = try_join_all(starts).await.map_err(|error| Failure::Failed(error.to_string()))?;
    let ready = try_join_all(daemons.iter().map(StorageDaemon::wait_ready)).await;
    ready.map_err(|error| Failure::Failed(error.to_string()))?;

    let identity = Identity::new(files.cluster, Peer::Gateway, None);
    let rpc = RpcClient::new(seams.clone(), identity, book);
    let voter = daemons.first().map(|daemon| daemon.meta_node().clone());
    let contacts = Contacts::new(&voters, &ids);
    let meta = MetaClient::new(seams.env.clone(), rpc.clone(), contacts, SessionKind::Gateway, voter);
    let (disks, leader) = (seams.disks.clone(), meta.clone());
    let report = move || {
        let disks: Vec<Value> = directories.iter().map(|path| space(&*disks, path)).collect();
        json!({ "disks": disks, "leader": leader.leader().map(|node| node.0) })
    };
    Ok(Store {
        home: files.directory.clone(),
        meta: Arc::new(meta.clone()),
        chunks: Arc::new(ChunkClient::new(rpc.clone())),
        searches: Arc::new(SearchClient::new(seams.env.clone(), rpc)),
        cluster_key: files.cluster_key.clone(),
        admin_token: files.admin_token.clone(),
        report: Arc::new(report),
        founded: Arc::new(AtomicBool::new(false)),
        new_root: None,
        nodes: Some(Nodes { daemons, meta, _files: files }),
    })
}

/// All nodes under one directory, or each under its own.
fn node_directory(data: &[PathBuf], node: NodeId) -> PathBuf {
    let own = data.get(usize::from(node.0) - 1).filter(|_| data.len() > 1).or(data.first());
    own.cloned().unwrap_or_default().join(format!("node-{node}"))
}

fn space(disks: &dyn fabric::disks::Disks, path: &Path) -> Value {
    match disks.space(path) {
        Ok(space) => json!({
            "path": path.display().to_string(), "free_bytes": space.free_bytes, "total_bytes": space.total_bytes,
        }),
        Err(error) => json!({ "path": path.display().to_string(), "error": error.to_string() }),
    }
}
