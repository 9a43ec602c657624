//! Makes buckets of many objects in the store of one process, through Raft and `apply`, without HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use consensus::client::{Contacts, Meta, MetaClient, ask};
use consensus::meta::command::{BucketChange, Command, Expect, NewBody, PutObject, SetBucket};
use consensus::meta::model::{Attributes, Etag, Origin, SessionKind, Versioning};
use consensus::meta::query::{Answer, Query};
use consensus::raft::log::LogConfig;
use fabric::Seams;
use fabric::cluster::{IpTable, Place};
use fabric::disks::SystemDisks;
use fabric::env::SystemEnv;
use fabric::ids::{BucketId, NodeId};
use fabric::limits::{
    COPIES, DISK_RESERVE_BYTES, GIB, INLINE_BYTES_TOTAL_DEFAULT, SCRUB_PERIOD_DEFAULT,
    SNAPSHOT_ENTRIES_DEFAULT, UPLOAD_PERIOD_DEFAULT, VOTER_PATIENCE_DEFAULT,
};
use fabric::net::LocalNet;
use futures::{StreamExt, TryStreamExt};
use gateway::store_files::StoreFiles;
use storage::daemon::{StorageDaemon, StorageSettings};

/// Where the gateway keeps its data, in its directory.
pub const DATA: &str = "fluffy-data";
const NODE: NodeId = NodeId(1);
const ADDRESS: &str = "127.0.0.1:7001";
/// Proposals under way at once.
const PROPOSALS: usize = 512;

/// The storage node of a store whose gateway does not run.
pub struct Loader {
    daemon: StorageDaemon,
    meta: MetaClient,
}

impl Loader {
    /// Starts the node whose data lie in `data`.
    pub async fn open(data: &Path) -> Result<Loader> {
        let seams = Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(LocalNet::default()),
            disks: Arc::new(SystemDisks),
        };
        let files = StoreFiles::open(&seams, data, 1)?;
        let daemon = StorageDaemon::start(seams.clone(), settings(&files, data.join("node-1"))).await?;
        daemon.wait_ready().await?;
        let (contacts, voter) = (Contacts::new(&[NODE], &[]), Some(daemon.meta_node().clone()));
        let meta =
            MetaClient::new(seams.env.clone(), daemon.rpc().clone(), contacts, SessionKind::Gateway, voter);
        Ok(Loader { daemon, meta })
    }

    /// The id of a bucket that is there.
    pub async fn bucket(&self, name: &str) -> Result<BucketId> {
        match ask(&self.meta, Query::Bucket(name.parse()?)).await? {
            Answer::Bucket(Some(bucket)) => Ok(bucket.id),
            _ => bail!("the store has lost its bucket {name}"),
        }
    }

    /// Lets a bucket keep its versions.
    pub async fn keep_versions(&self, bucket: BucketId) -> Result<()> {
        let change = BucketChange::Versioning(Versioning::Enabled);
        self.meta.propose(Command::SetBucket(SetBucket { bucket, change })).await?;
        Ok(())
    }

    /// One empty object, or one more version, for each key.
    pub async fn put(&self, bucket: BucketId, keys: impl Iterator<Item = String>) -> Result<()> {
        let puts = futures::stream::iter(keys).map(|key| async move {
            self.meta.propose(put(bucket, key)?).await?;
            anyhow::Ok(())
        });
        puts.buffer_unordered(PROPOSALS).try_for_each(|()| std::future::ready(Ok(()))).await
    }

    /// Stops the node, with everything on its disk.
    pub async fn close(self) {
        self.meta.close().await;
        self.daemon.shutdown().await;
    }
}

fn put(bucket: BucketId, key: String) -> Result<Command> {
    Ok(Command::PutObject(PutObject {
        bucket,
        key: key.parse()?,
        expect: Expect::default(),
        body: NewBody::Inline(Bytes::new()),
        etag: Etag::Md5([0xD4; 16]),
        checksum: None,
        attributes: Attributes::default(),
        origin: Origin::default(),
    }))
}

fn settings(files: &StoreFiles, data: PathBuf) -> StorageSettings {
    StorageSettings {
        cluster: files.cluster,
        node: NODE,
        data,
        listen: ADDRESS.to_string(),
        zone: String::new(),
        voters: vec![NODE],
        voter_patience: VOTER_PATIENCE_DEFAULT,
        nodes: vec![NODE],
        copies: COPIES,
        scrub_period: SCRUB_PERIOD_DEFAULT,
        upload_period: Some(UPLOAD_PERIOD_DEFAULT),
        book: Arc::new(IpTable::new([(NODE, Place { address: ADDRESS.to_string(), zone: None })])),
        tls: None,
        memory_bytes: GIB,
        reserve_bytes: DISK_RESERVE_BYTES,
        log: LogConfig::default(),
        snapshot_entries: SNAPSHOT_ENTRIES_DEFAULT,
        inline_bytes_max: INLINE_BYTES_TOTAL_DEFAULT,
        search_index: false,
        faults: None,
    }
}
