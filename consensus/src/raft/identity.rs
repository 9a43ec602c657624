//! Who a node is, kept in its data directory: cluster, number, incarnation, and how often it was started.
//!
//! Written and synced before the node answers anybody. A directory that was lost makes another incarnation; one
//! that was copied or restored shows by its counter of starts, which is not above the highest seen.

use std::io;
use std::path::Path;

use fabric::Seams;
use fabric::codec;
use fabric::disks::{read_small, write_small};
use fabric::env::{random_u64, run_blocking};
use fabric::ids::{ClusterId, Incarnation, NodeId, RaftId};
use serde::{Deserialize, Serialize};

const NAME: &str = "identity";
const FORMAT: u8 = 1;
const BYTES_MAX: u64 = 4096;

/// See the file's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// The cluster the directory belongs to.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// Drawn when the directory was first used.
    pub incarnation: Incarnation,
    /// Raised by every start; 1 at the first.
    pub starts: u64,
}

impl NodeIdentity {
    /// Its name inside Raft.
    pub fn raft_id(&self) -> RaftId {
        RaftId::new(self.node, self.incarnation)
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed, or the file is damaged.
    #[error("the identity in {0} cannot be read or written: {1}")]
    Io(String, io::Error),
    /// It belongs to another cluster.
    #[error("{directory} belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// The directory.
        directory: String,
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// It belongs to another node.
    #[error("{directory} belongs to node {found}, not to node {expected}")]
    OtherNode {
        /// The directory.
        directory: String,
        /// Its node.
        found: NodeId,
        /// Ours.
        expected: NodeId,
    },
}

/// The cluster a data directory belongs to; `None` where it is new.
pub async fn cluster_of(seams: &Seams, directory: &Path) -> Result<Option<ClusterId>, IdentityError> {
    let (disks, path) = (seams.disks.clone(), directory.to_path_buf());
    let read = run_blocking(&*seams.env, move || read(&*disks, &path)).await;
    Ok(read.map_err(|error| failed(directory, error))?.map(|identity| identity.cluster))
}

/// Loads the identity of a node, or draws one in a new directory, and counts this start. Durable when it returns.
pub async fn open(
    seams: &Seams,
    directory: &Path,
    cluster: ClusterId,
    node: NodeId,
) -> Result<NodeIdentity, IdentityError> {
    // 48 bits, and never 0, so that it is seen to be one.
    let incarnation = Incarnation((random_u64(&*seams.env) & ((1 << 48) - 1)).max(1));
    let (disks, path) = (seams.disks.clone(), directory.to_path_buf());
    let open = move || -> io::Result<NodeIdentity> {
        let drawn = NodeIdentity { cluster, node, incarnation, starts: 0 };
        let mut identity = read(&*disks, &path)?.unwrap_or(drawn);
        if identity.cluster == cluster && identity.node == node {
            identity.starts += 1;
            disks.create_dir(&path)?;
            write_small(&*disks, &path.join(NAME), &codec::encode(FORMAT, &identity))?;
        }
        Ok(identity)
    };
    let identity = run_blocking(&*seams.env, open).await.map_err(|error| failed(directory, error))?;
    let directory = directory.display().to_string();
    if identity.cluster != cluster {
        return Err(IdentityError::OtherCluster { directory, found: identity.cluster, expected: cluster });
    }
    if identity.node != node {
        return Err(IdentityError::OtherNode { directory, found: identity.node, expected: node });
    }
    Ok(identity)
}

fn failed(directory: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io(directory.display().to_string(), error)
}

fn read(disks: &dyn fabric::disks::Disks, directory: &Path) -> io::Result<Option<NodeIdentity>> {
    match read_small(disks, &directory.join(NAME), BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => codec::decode(FORMAT, "identity", &bytes).map(Some).map_err(io::Error::other),
    }
}
