//! The overlay: other clusters, which this one trusts by invitation, and their buckets.
//!
//! [`identity`] is who a cluster is, [`link`] the way to one, [`door`] who comes in, [`wire`] what is said, [`gossip`] how
//! clusters hear of each other. `membership` is who takes part, `rights` which cluster acts for whom, `telling` what is
//! told of the buckets here, [`catalog`] which buckets are where, `keeping` how that is remembered, `names` where the name of one leads, `room` whether new
//! ones are better off elsewhere. [`forward`] is how requests get there, [`cache`] what of the answers stays here. [`feed`]
//! tells what happens in buckets here, in the words of [`copies`]; [`follow`] copies what happens in buckets elsewhere, or
//! `compare` does; `mirrors` begins and ends that. [`arriving`] is a body on its way here. `report` is what operators see.
//! What is kept (members, grants, invitations, how far copies are) is in the metadata of
//! the cluster; every gateway reads it from there into its `view`.
//!
//! What always holds: what is at home here is served here, whatever others say. A cluster acts for users only as far as
//! it was granted. Nobody waits for a cluster that is away, and nothing of it is said not to exist.

pub mod arriving;
pub mod cache;
pub mod catalog;
mod compare;
pub mod copies;
pub mod door;
pub mod feed;
pub mod follow;
pub mod forward;
pub mod gossip;
pub mod identity;
mod keeping;
pub mod link;
mod membership;
mod mirrors;
mod names;
mod report;
mod rights;
mod room;
mod telling;
mod view;
pub mod wire;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use consensus::client::{Meta, MetaError};
use consensus::meta::command::{Command, Reject};
use consensus::meta::names::{AccessKeyId, ClusterName};
use consensus::meta::overlay::{OverlayChange, OverlayRefusal, PublicKey};
use fabric::Seams;
use fabric::cluster::OverlayRemote;
use fabric::env::TaskHandle;
use fabric::limits::{DAY_KEYS_MAX, OVERLAY_ASKING_MAX};
use lru::LruCache;
use storage::client::Chunks;
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use self::cache::ObjectCache;
use self::catalog::Catalogs;
use self::follow::Progresses;
use self::link::{Link, LinkError};
pub use self::membership::{INVITE_LIFETIME_DEFAULT, INVITE_LIFETIME_MAX};
pub use self::names::{Elsewhere, Taken};
use self::room::Gauge;
pub use self::room::RoomConfig;
use self::view::View;
use self::wire::{Catalog, DayKey};
use crate::queue::Queues;
use crate::secrets::ClusterKey;

/// Between two looks at what is kept, and at the catalogs of others.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Other clusters say within this time whether they have something.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// Label of the sealed private key; stored, in a way: it never changes.
const KEY_LABEL: &str = "overlay identity";

/// What a gateway is made of that takes part.
pub struct OverlayParts {
    /// The seams.
    pub seams: Seams,
    /// Metadata, unkept.
    pub meta: Arc<dyn Meta>,
    /// The nodes, which know how full they are.
    pub chunks: Arc<dyn Chunks>,
    /// What of this gateway is busy.
    pub queues: Arc<Queues>,
    /// Seals the key of the cluster.
    pub cluster_key: ClusterKey,
    /// The region, which is the name of the cluster.
    pub region: String,
    /// How it takes part.
    pub config: OverlayConfig,
    /// What objects of other clusters may take in memory.
    pub cache_bytes_max: usize,
}

/// How a gateway takes part, as who runs it says.
pub struct OverlayConfig {
    /// Where other clusters reach it (`host:port`).
    pub address: String,
    /// What becomes of requests for buckets of others.
    pub remote: OverlayRemote,
    /// Where their clients are redirected to: `https://host:port`.
    pub s3: Option<String>,
    /// How much room is kept, and whether others get some.
    pub room: RoomConfig,
}

/// The part of a gateway that knows other clusters.
pub struct Overlay {
    parts: OverlayParts,
    /// When this gateway began, or joined: what it says of itself is newer than what it said before.
    serial: AtomicU64,
    view: ArcSwap<View>,
    /// Whether it is what was kept some time.
    was_read: AtomicBool,
    /// One at a time makes a new view, so that the links in it are those that are watched.
    refreshing: tokio::sync::Mutex<()>,
    catalogs: Catalogs,
    own: tokio::sync::Mutex<Option<(Duration, Arc<Catalog>)>>,
    day_keys: Mutex<LruCache<KeyPlace, AskedKey>>,
    homes: Mutex<LruCache<AccessKeyId, ClusterName>>,
    tasks: Mutex<BTreeMap<ClusterName, (PublicKey, TaskHandle)>>,
    progresses: Progresses,
    gauge: Gauge,
    look: Notify,
    /// Places for questions to all clusters.
    asking: Semaphore,
    gossip: gossip::Mailbox,
    /// Objects of other clusters.
    pub cache: Arc<ObjectCache>,
}

/// A key, a date and a region.
type KeyPlace = (AccessKeyId, String, String);
/// When other clusters were asked for a key, and what they answered.
type AskedKey = (Duration, Option<DayKey>);

/// Why something about the overlay was not done: one sentence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OverlayError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Bad(String),
    /// The rules say no.
    #[error("{0}")]
    Refused(OverlayRefusal),
    /// That cluster may not.
    #[error("{0}")]
    Denied(String),
    /// Not now.
    #[error("{0}")]
    Busy(String),
    /// Another cluster says no, or nothing.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The metadata do not answer.
    #[error(transparent)]
    Meta(MetaError),
}

impl From<MetaError> for OverlayError {
    fn from(error: MetaError) -> OverlayError {
        match error {
            MetaError::Rejected(Reject::Overlay(why)) => OverlayError::Refused(why),
            error => OverlayError::Meta(error),
        }
    }
}

fn bad<T>(why: impl Into<String>) -> Result<T, OverlayError> {
    Err(OverlayError::Bad(why.into()))
}

impl Overlay {
    /// Of these parts.
    pub fn new(parts: OverlayParts) -> Overlay {
        let keys = NonZeroUsize::new(DAY_KEYS_MAX).unwrap_or(NonZeroUsize::MIN);
        let cache = Arc::new(ObjectCache::new(parts.cache_bytes_max));
        let began_ms = parts.seams.env.wall_ms();
        Overlay {
            parts,
            serial: AtomicU64::new(began_ms),
            view: ArcSwap::default(),
            was_read: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::default(),
            catalogs: Catalogs::default(),
            own: tokio::sync::Mutex::default(),
            day_keys: Mutex::new(LruCache::new(keys)),
            homes: Mutex::new(LruCache::new(keys)),
            tasks: Mutex::default(),
            progresses: Progresses::default(),
            gauge: Gauge::default(),
            look: Notify::new(),
            asking: Semaphore::new(OVERLAY_ASKING_MAX),
            gossip: gossip::Mailbox::default(),
            cache,
        }
    }

    /// Keeps up with the others for ever.
    pub async fn run(self: Arc<Self>) {
        let mut gossip = None;
        loop {
            if let Err(error) = self.refresh().await {
                tracing::debug!(%error, "the overlay is looked at again");
            }
            if gossip.is_none() && !self.is_alone() {
                gossip = gossip::Gossip::start(self.clone()).await;
            }
            if let Some(gossip) = &gossip {
                gossip.heed(&self).await;
            }
            if !self.is_alone() {
                // A node that is silent holds up nobody.
                tokio::join!(self.look_at_room(), self.fetch());
            }
            tokio::select! {
                biased;
                () = self.look.notified() => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    async fn propose(&self, change: OverlayChange) -> Result<(), OverlayError> {
        self.parts.meta.propose(Command::Overlay(change)).await?;
        self.look.notify_one();
        Ok(())
    }

    /// Until it is known once which other clusters there are: before, nobody can say that a bucket is nowhere.
    pub async fn read(self: &Arc<Self>) -> Result<(), MetaError> {
        if self.was_read.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.refresh().await {
            Err(OverlayError::Meta(error)) => Err(error),
            // Whatever else is wrong is told by who keeps up with the others.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether there is no other cluster.
    pub fn is_alone(&self) -> bool {
        self.view.load().links.is_empty()
    }

    /// The name of this cluster where there are others.
    pub fn name(&self) -> Option<ClusterName> {
        self.view.load().identity.as_ref().map(|identity| identity.name.clone())
    }

    /// The ways to all other clusters.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.view.load().all()
    }

    /// The cluster of this name, if it is another one.
    pub fn cluster(&self, name: &str) -> Option<Arc<Link>> {
        self.view.load().link_named(name).cloned()
    }
}
