//! What serving needs of a store, wherever its nodes run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use consensus::client::Meta;
use gateway::admin::Report;
use gateway::secrets::{ClusterKey, Secret};
use gateway::store_files::RootKeys;
use storage::client::Chunks;
use storage::index::client::Searches;

use crate::embedded::Nodes;

/// An open store.
pub struct Store {
    /// Where its keys are.
    pub home: PathBuf,
    /// Metadata.
    pub meta: Arc<dyn Meta>,
    /// Chunks.
    pub chunks: Arc<dyn Chunks>,
    /// Nodes that search.
    pub searches: Arc<dyn Searches>,
    /// Opens the secrets of users.
    pub cluster_key: ClusterKey,
    /// Opens the admin port.
    pub admin_token: Secret,
    /// What only this process knows of the store.
    pub report: Report,
    /// Set once the store has a user: before, it is not ready.
    pub founded: Arc<AtomicBool>,
    /// Keys of a first user that was made now.
    pub new_root: Option<RootKeys>,
    /// Nodes in this process.
    pub nodes: Option<Nodes>,
}

impl Store {
    /// Ends what runs in this process, in good order.
    pub async fn shut_down(self) {
        if let Some(nodes) = self.nodes {
            nodes.shut_down().await;
        }
    }
}
