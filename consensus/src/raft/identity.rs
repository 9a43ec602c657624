//! Who a node is, kept in its data directory: cluster, number, incarnation, how often it was started, and the epoch
//! of the cluster that it last took part in.
//!
//! Written and synced before the node answers anybody. A directory that was lost makes another incarnation; one
//! that was copied or restored shows by its counter of starts, which is not above the highest seen (see
//! [`super::lives`]).

use std::io;
use std::path::Path;

use fabric::Seams;
use fabric::codec;
use fabric::disks::{Disks, read_small, write_small};
use fabric::env::{Env, random_u64, run_blocking};
use fabric::ids::{ClusterId, Incarnation, NodeId, RaftId};
use serde::{Deserialize, Serialize};

use super::wire::Life;

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
    /// Starts counted: each process that took part raised it.
    pub starts: u64,
    /// Epoch of the cluster; 0 before it took part.
    pub epoch: u16,
}

impl NodeIdentity {
    /// Its name inside Raft.
    pub fn raft_id(&self) -> RaftId {
        RaftId::new(self.node, self.incarnation)
    }

    /// The life that this process is about to begin.
    pub fn next_life(&self, env: &dyn Env) -> Life {
        Life { id: self.raft_id(), starts: self.starts + 1, run: random_u64(env) }
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

/// Loads the identity of a node, or draws one in a new directory. Durable when it returns; the start is counted later,
/// by [`count_start`].
pub async fn open(
    seams: &Seams,
    directory: &Path,
    cluster: ClusterId,
    node: NodeId,
) -> Result<NodeIdentity, IdentityError> {
    // 48 bits, and never 0, so that it is seen to be one.
    let mut incarnation = Incarnation((random_u64(&*seams.env) & ((1 << 48) - 1)).max(1));
    if seams.env.armed("skip_incarnation") {
        incarnation = Incarnation(1);
    }
    let (disks, path) = (seams.disks.clone(), directory.to_path_buf());
    let open = move || -> io::Result<NodeIdentity> {
        if let Some(identity) = read(&*disks, &path)? {
            return Ok(identity);
        }
        let identity = NodeIdentity { cluster, node, incarnation, starts: 0, epoch: 0 };
        disks.create_dir(&path)?;
        write(&*disks, &path, &identity)?;
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

/// Counts the start of a process that may take part. Durable when it returns, before the process says a word as
/// itself.
pub async fn count_start(seams: &Seams, directory: &Path, life: Life) -> Result<(), IdentityError> {
    change(seams, directory, move |identity| identity.starts = life.starts).await
}

/// Keeps the epoch of the cluster in which the node takes part.
pub async fn keep_epoch(seams: &Seams, directory: &Path, epoch: u16) -> Result<(), IdentityError> {
    change(seams, directory, move |identity| identity.epoch = epoch).await
}

async fn change(
    seams: &Seams,
    directory: &Path,
    change: impl FnOnce(&mut NodeIdentity) + Send + 'static,
) -> Result<(), IdentityError> {
    let (disks, path) = (seams.disks.clone(), directory.to_path_buf());
    let changed = move || -> io::Result<()> {
        let mut identity = read(&*disks, &path)?.ok_or(io::ErrorKind::NotFound)?;
        let before = identity;
        change(&mut identity);
        assert!(before.starts <= identity.starts, "a start is counted once");
        if before == identity { Ok(()) } else { write(&*disks, &path, &identity) }
    };
    run_blocking(&*seams.env, changed).await.map_err(|error| failed(directory, error))
}

fn failed(directory: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io(directory.display().to_string(), error)
}

fn write(disks: &dyn Disks, directory: &Path, identity: &NodeIdentity) -> io::Result<()> {
    write_small(disks, &directory.join(NAME), &codec::encode(FORMAT, identity))
}

fn read(disks: &dyn Disks, directory: &Path) -> io::Result<Option<NodeIdentity>> {
    match read_small(disks, &directory.join(NAME), BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => codec::decode(FORMAT, "identity", &bytes).map(Some).map_err(io::Error::other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use fabric::disks::MemoryDisks;
    use fabric::env::SystemEnv;
    use fabric::net::LocalNet;

    use super::*;

    #[test]
    fn golden_bytes() {
        let identity = NodeIdentity {
            cluster: ClusterId(7),
            node: NodeId(3),
            incarnation: Incarnation(0xABC),
            starts: 2,
            epoch: 1,
        };
        assert_eq!(hex::encode(codec::encode(FORMAT, &identity)), "010703bc150201");
    }

    #[tokio::test]
    async fn a_start_counts_only_once_it_may_take_part() {
        let seams = Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(LocalNet::default()),
            disks: Arc::new(MemoryDisks::new(1 << 20)),
        };
        let directory = Path::new("/data");
        let open = || open(&seams, directory, ClusterId(7), NodeId(3));
        let first = open().await.unwrap();
        assert_eq!((first.starts, open().await.unwrap()), (0, first));
        let life = first.next_life(&*seams.env);
        count_start(&seams, directory, life).await.unwrap();
        keep_epoch(&seams, directory, 1).await.unwrap();
        let second = open().await.unwrap();
        assert_eq!((second.incarnation, second.starts, second.epoch), (first.incarnation, 1, 1));
        assert_ne!(second.next_life(&*seams.env).run, second.next_life(&*seams.env).run);
    }
}
