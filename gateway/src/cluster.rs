//! A store in other processes: the nodes of `iptable.txt`, over mutual TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use consensus::client::{Contacts, Meta, MetaClient, MetaError};
use consensus::meta::model::SessionKind;
use fabric::Seams;
use fabric::cluster::{Config, Directory};
use fabric::env::run_blocking;
use fabric::rpc::{AddressBook, Identity, Peer, RpcClient};
use fabric::tls::{Certificates, ClusterSecrets};
use gateway::admin::users::{ensure_root, has_users};
use gateway::secrets::ClusterKey;
use gateway::store_files::{root_keys, token};
use serde_json::json;
use storage::client::ChunkClient;
use storage::index::client::SearchClient;
use tokio::time::sleep;

use crate::Failure;
use crate::serve::{GivenKeys, key_lines, say};
use crate::store::Store;

/// Between two tries to learn whether the cluster has users.
const FOUND_PAUSE: Duration = Duration::from_millis(300);

/// Prepares to serve the cluster; its nodes need not be up yet.
pub async fn join(system: &Seams, config: &Config) -> Result<Store, Failure> {
    let (seams, directory, insecure) = (system.clone(), config.secrets.clone(), config.insecure);
    let load = move || -> Result<_, Failure> {
        let usage = |error: std::io::Error| Failure::Usage(error.to_string());
        let secrets = ClusterSecrets::load(&directory).map_err(usage)?;
        let certificates = match insecure {
            true => None,
            false => Some(Arc::new(Certificates::load(&directory, Peer::Gateway).map_err(usage)?)),
        };
        let token = token(&*seams.disks, &*seams.env, &directory)?;
        Ok((secrets, certificates, token))
    };
    let (secrets, tls, admin_token) = run_blocking(&*system.env, load).await?;
    let identity = Identity::new(secrets.cluster, Peer::Gateway, tls);
    let book = Arc::new(Directory::new(config.nodes.clone()));
    let rpc = RpcClient::new(system.clone(), identity, book);
    let contacts = Contacts::new(&config.voters, &config.nodes.nodes());
    let meta = MetaClient::new(system.env.clone(), rpc.clone(), contacts, SessionKind::Gateway, None);
    let leader = meta.clone();
    Ok(Store {
        home: config.secrets.clone(),
        meta: Arc::new(meta),
        chunks: Arc::new(ChunkClient::new(rpc.clone())),
        searches: Arc::new(SearchClient::new(system.env.clone(), rpc)),
        cluster_key: ClusterKey::from_bytes(secrets.key),
        admin_token,
        report: Arc::new(move || json!({ "disks": [], "leader": leader.leader().map(|node| node.0) })),
        founded: Arc::new(AtomicBool::new(false)),
        new_root: None,
        nodes: None,
    })
}

/// Sees to the first user of a new cluster, for as long as it takes the cluster to answer.
pub fn found(system: &Seams, config: &Config, store: &Store, given: GivenKeys) {
    let (seams, directory) = (system.clone(), config.secrets.clone());
    let (meta, key, founded) = (store.meta.clone(), store.cluster_key.clone(), store.founded.clone());
    let task = async move {
        loop {
            match try_found(&seams, &directory, &*meta, &key, &given).await {
                Ok(()) => break,
                Err(why) => tracing::info!(why, "the cluster does not answer yet"),
            }
            sleep(FOUND_PAUSE).await;
        }
        founded.store(true, Ordering::Release);
    };
    system.env.spawn("found cluster", Box::pin(task));
}

async fn try_found(
    seams: &Seams,
    directory: &std::path::Path,
    meta: &dyn Meta,
    key: &ClusterKey,
    given: &GivenKeys,
) -> Result<(), String> {
    let told = |error: MetaError| error.to_string();
    if has_users(meta).await.map_err(told)? {
        return Ok(());
    }
    // Kept before they are proposed: keys that are in force but known to nobody would lock everybody out.
    let (disks_seams, at, chosen) = (seams.clone(), directory.to_path_buf(), given.clone());
    let keys = run_blocking(&*seams.env, move || root_keys(&disks_seams, &at, chosen.pair())).await;
    let keys = keys.map_err(|error| error.to_string())?;
    if ensure_root(meta, &*seams.env, key, &keys.id, &keys.secret).await.map_err(told)? {
        say(&format!("The first user was made. Paste into a shell:\n{}\n", key_lines(&keys, given)));
    }
    Ok(())
}
