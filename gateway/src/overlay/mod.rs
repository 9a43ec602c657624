//! The overlay: other clusters, which this one trusts by invitation, and their buckets.
//!
//! [`identity`] is who a cluster is, [`link`] the way to one, [`door`] who comes in, [`wire`] what is said, [`gossip`] how
//! clusters hear of each other, [`catalog`] which buckets are where, [`forward`] how requests get there, [`cache`] what of
//! the answers stays here. [`feed`] tells
//! what happens in buckets here, in the words of [`copies`]; [`follow`] copies what happens in buckets elsewhere, or
//! `compare` does. What is kept (members, grants, invitations, how far copies are) is in the metadata of the cluster;
//! every gateway reads it from there.
//!
//! What always holds: what is at home here is served here, whatever others say. A cluster acts for users only as far as
//! it was granted. Nobody waits for a cluster that is away, and nothing of it is said not to exist.

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
pub mod link;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use consensus::client::{Meta, MetaError, ask};
use consensus::meta::command::{Command, Reject};
use consensus::meta::model::{Bucket, ClusterMs, Usage, Versioning};
use consensus::meta::names::{AccessKeyId, BucketName, ClusterName, UserName};
use consensus::meta::overlay::{
    GrantedUser, Member, OverlayChange, OverlayGrant, OverlayRefusal, OverlayState, PublicKey, Standing,
};
use consensus::meta::query::{Answer, Query};
use consensus::meta::replication::{Follow, FollowKind, Source};
use fabric::Seams;
use fabric::env::TaskHandle;
use fabric::ids::{BucketId, Stamp};
use fabric::limits::{CATALOG_BUCKETS_MAX, DAY_KEYS_MAX, LIST_KEYS_MAX, OVERLAY_ASKING_MAX};
use futures::future::join_all;
use lru::LruCache;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};

use self::cache::ObjectCache;
use self::catalog::Catalogs;
use self::copies::{ChangesThere, CopyWanted};
use self::follow::Progresses;
use self::identity::{Identity, Seed};
use self::link::{Link, LinkError};
use self::wire::{BucketThere, Card, Catalog, CatalogBucket, DayKey, Join, Leave, Members, Room, Token};
use crate::accounts::RECORD_LIFETIME;
use crate::secrets::{ClusterKey, Secret};

/// Between two looks at what is kept, and at the catalogs of others.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What others may know of the buckets here is asked for again after this.
const CATALOG_LIFETIME: Duration = Duration::from_secs(1);
/// Other clusters say within this time whether they have something.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// A copy that is promoted has so long to catch up …
const PROMOTION_DEADLINE: Duration = Duration::from_secs(30);
/// … and is looked at after this.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(250);
/// How long an invitation is good where nobody says.
pub const INVITE_LIFETIME_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// And at most.
pub const INVITE_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Label of the sealed private key; stored, in a way: it never changes.
const KEY_LABEL: &str = "overlay identity";

/// What a gateway is made of that takes part.
pub struct OverlayParts {
    /// The seams.
    pub seams: Seams,
    /// Metadata, unkept.
    pub meta: Arc<dyn Meta>,
    /// Seals the key of the cluster.
    pub cluster_key: ClusterKey,
    /// The region, which is the name of the cluster.
    pub region: String,
    /// Where other clusters reach this gateway (`host:port`).
    pub address: String,
    /// What objects of other clusters may take in memory.
    pub cache_bytes_max: usize,
}

/// The part of a gateway that knows other clusters.
pub struct Overlay {
    parts: OverlayParts,
    /// When this gateway began, or joined: what it says of itself is newer than what it said before.
    serial: AtomicU64,
    view: ArcSwap<View>,
    catalogs: Catalogs,
    own: tokio::sync::Mutex<Option<(Duration, Arc<Catalog>)>>,
    day_keys: Mutex<LruCache<KeyPlace, AskedKey>>,
    homes: Mutex<LruCache<AccessKeyId, ClusterName>>,
    tasks: Mutex<BTreeMap<ClusterName, (PublicKey, TaskHandle)>>,
    progresses: Progresses,
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

/// What is known of others now.
#[derive(Default)]
struct View {
    identity: Option<Arc<Identity>>,
    links: BTreeMap<ClusterName, Arc<Link>>,
    state: Arc<OverlayState>,
}

impl View {
    /// The ways to all clusters.
    fn all(&self) -> Vec<Arc<Link>> {
        self.links.values().cloned().collect()
    }

    /// Those to clusters that give signs of life.
    fn living(&self) -> Vec<Arc<Link>> {
        self.links.values().filter(|link| link.answers()).cloned().collect()
    }
}

/// Where a bucket is that is not here.
pub enum Elsewhere {
    /// In another cluster, by this name.
    In(Arc<Link>, BucketName),
    /// In several clusters, each of which calls it its own.
    Disputed(Vec<ClusterName>),
    /// Perhaps in this one, which is away and never told what it has.
    Unknown(ClusterName),
    /// Nowhere.
    Nowhere,
}

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
            catalogs: Catalogs::default(),
            own: tokio::sync::Mutex::default(),
            day_keys: Mutex::new(LruCache::new(keys)),
            homes: Mutex::new(LruCache::new(keys)),
            tasks: Mutex::default(),
            progresses: Progresses::default(),
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
            self.fetch().await;
            tokio::select! {
                biased;
                () = self.look.notified() => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Reads what is kept, and opens and closes links by it.
    async fn refresh(self: &Arc<Self>) -> Result<(), OverlayError> {
        let Answer::Overlay(state) = ask(&*self.parts.meta, Query::Overlay).await? else {
            return bad("the metadata answered another question than Overlay");
        };
        let before = self.view.load_full();
        if before.state == state && before.identity.is_some() == state.identity.is_some() {
            return Ok(());
        }
        let identity = match &before.identity {
            Some(identity) => Some(identity.clone()),
            None => self.identity_of(&state)?.map(Arc::new),
        };
        let mut links = BTreeMap::new();
        if let Some(identity) = &identity {
            for member in state.members.iter().filter(|member| member.standing == Standing::In) {
                let link = before.links.get(&member.name).filter(|link| link.key() == member.key).cloned();
                let link = link.unwrap_or_else(|| Arc::new(self.link_to(identity, member)));
                link.move_to(member.addresses.clone());
                links.insert(member.name.clone(), link);
            }
        }
        self.watch_links(&links);
        self.catalogs.keep(|cluster| links.contains_key(cluster));
        self.view.store(Arc::new(View { identity, links, state }));
        Ok(())
    }

    fn link_to(&self, identity: &Arc<Identity>, member: &Member) -> Link {
        let addresses = member.addresses.clone();
        Link::new(self.parts.seams.clone(), identity.clone(), member.name.clone(), member.key, addresses)
    }

    /// Each link is watched by a task, which ends with it.
    fn watch_links(&self, links: &BTreeMap<ClusterName, Arc<Link>>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|name, (key, task)| {
            let stays = links.get(name).is_some_and(|link| link.key() == *key);
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, link) in links {
            tasks.entry(name.clone()).or_insert_with(|| {
                let watching = Box::pin(link.clone().watch());
                (link.key(), self.parts.seams.env.spawn("overlay link", watching))
            });
        }
    }

    /// The identity that is kept; an error where this gateway has another region.
    fn identity_of(&self, state: &OverlayState) -> Result<Option<Identity>, OverlayError> {
        let Some(kept) = &state.identity else { return Ok(None) };
        if kept.name.as_str() != self.parts.region {
            return bad(format!(
                "the overlay knows this cluster as {}, but its region is {}",
                kept.name, self.parts.region
            ));
        }
        let opened = self.parts.cluster_key.open_bytes(KEY_LABEL, &kept.sealed_key);
        let seed = opened.ok().and_then(|bytes| Seed::from_bytes(&bytes));
        let Some(seed) = seed else { return bad("the key of this cluster does not open") };
        let identity = Identity::new(kept.name.clone(), &seed);
        identity.map(Some).map_err(|error| OverlayError::Bad(format!("the key of this cluster: {error}")))
    }

    /// The identity of the cluster, drawn now if there is none.
    async fn found(self: &Arc<Self>) -> Result<Arc<Identity>, OverlayError> {
        self.refresh().await?;
        if let Some(identity) = &self.view.load().identity {
            return Ok(identity.clone());
        }
        let name = self.parts.region.parse::<ClusterName>();
        let name = name.map_err(|error| OverlayError::Bad(format!("--region: {error}")))?;
        let env = &*self.parts.seams.env;
        let sealed_key = self.parts.cluster_key.seal_bytes(env, KEY_LABEL, Seed::draw(env).as_bytes());
        self.propose(OverlayChange::Found { name, sealed_key }).await?;
        self.refresh().await?;
        let identity = self.view.load().identity.clone();
        identity.ok_or_else(|| OverlayError::Bad("this cluster has no identity yet".to_string()))
    }

    async fn propose(&self, change: OverlayChange) -> Result<(), OverlayError> {
        self.parts.meta.propose(Command::Overlay(change)).await?;
        self.look.notify_one();
        Ok(())
    }

    fn card(&self, identity: &Identity) -> Card {
        Card::new(identity, vec![self.parts.address.clone()], self.serial.load(Ordering::Relaxed))
    }

    /// Invites a cluster: the text of a token that is good for once.
    pub async fn invite(self: &Arc<Self>, lifetime: Duration) -> Result<Token, OverlayError> {
        let identity = self.found().await?;
        let env = &*self.parts.seams.env;
        let secret = Secret::draw(env);
        let id = fabric::env::random_u128(env);
        let lifetime_ms = lifetime.min(INVITE_LIFETIME_MAX).as_millis() as u64;
        let secret_sha256 = Sha256::digest(secret.expose()).into();
        self.propose(OverlayChange::Invite { id, secret_sha256, lifetime_ms }).await?;
        Ok(Token {
            cluster: identity.name.clone(),
            key: identity.key,
            addresses: vec![self.parts.address.clone()],
            id: id.to_string(),
            secret: secret.expose().to_string(),
            expires_ms: env.wall_ms() + lifetime_ms,
        })
    }

    /// Takes an invitation: both clusters know each other then, and all that the other knows. Returns who invited.
    pub async fn join(self: &Arc<Self>, token: &Token) -> Result<ClusterName, OverlayError> {
        let identity = self.found().await?;
        if token.key == identity.key {
            return bad("the token is one of this cluster; it is for another one");
        }
        if token.cluster == identity.name {
            return bad(format!(
                "both clusters are named {}; a cluster is named by its region, which --region sets",
                identity.name
            ));
        }
        if token.expires_ms <= self.parts.seams.env.wall_ms() {
            return bad("the token is expired; invite again");
        }
        let seams = self.parts.seams.clone();
        let link =
            Link::new(seams, identity.clone(), token.cluster.clone(), token.key, token.addresses.clone());
        self.serial.store(self.parts.seams.env.wall_ms(), Ordering::Relaxed);
        let card = self.card(&identity);
        let join = Join { id: token.id.clone(), secret: token.secret.clone(), card };
        let answer: Members = Arc::new(link).post_first("join", &join).await?;
        if answer.card.key != token.key || answer.card.cluster != token.cluster || !answer.card.is_true() {
            return bad("the cluster that answers is not the one that invited");
        }
        self.admit(None, true, &answer.card, None).await?;
        self.gossip.note(std::slice::from_ref(&answer.card));
        self.introduce(&gossip::united(answer.members), &token.cluster).await;
        self.refresh().await?;
        Ok(token.cluster.clone())
    }

    /// Another cluster takes an invitation of this one.
    pub(in crate::overlay) async fn joined(
        self: &Arc<Self>,
        join: &Join,
        shown: &PublicKey,
    ) -> Result<Members, OverlayError> {
        let identity = self.found().await?;
        if join.card.key != *shown || !join.card.is_true() {
            return bad("the card is not signed with the key of the connection");
        }
        let Ok(id) = join.id.parse::<u128>() else { return bad("the invitation has no such id") };
        let secret = Sha256::digest(join.secret.as_bytes()).into();
        self.admit(Some((id, secret)), false, &join.card, None).await?;
        self.gossip.note(std::slice::from_ref(&join.card));
        self.refresh().await?;
        tracing::info!(cluster = %join.card.cluster, "a cluster joined");
        Ok(self.members(&identity))
    }

    /// Whom this cluster knows.
    pub(in crate::overlay) fn members(&self, identity: &Identity) -> Members {
        let view = self.view.load();
        let mut members = self.gossip.cards();
        members.retain(|card| view.links.get(&card.cluster).is_some_and(|link| link.key() == card.key));
        Members { card: self.card(identity), members }
    }

    async fn admit(
        &self,
        invite: Option<(u128, [u8; 32])>,
        joined: bool,
        card: &Card,
        via: Option<&ClusterName>,
    ) -> Result<(), OverlayError> {
        let member = Member {
            name: card.cluster.clone(),
            key: card.key,
            addresses: card.addresses.clone(),
            serial: card.serial,
            via: via.cloned(),
            since: ClusterMs(0),
            standing: Standing::In,
        };
        self.propose(OverlayChange::Admit { invite, joined, member }).await
    }

    /// A member tells of others: they are members, too, unless that contradicts what is known.
    pub(in crate::overlay) async fn introduce(&self, cards: &[(Card, Vec<String>)], via: &ClusterName) {
        let view = self.view.load_full();
        let own = view.identity.as_ref().map(|identity| identity.key);
        for (card, addresses) in cards.iter().filter(|(card, _)| Some(card.key) != own) {
            let known = view.state.members.iter().find(|member| member.name == card.cluster);
            let is_news = known.is_none_or(|known| {
                let is_newer = known.key == card.key && known.serial < card.serial;
                match known.standing {
                    Standing::In => is_newer && known.addresses != *addresses,
                    Standing::Left => is_newer,
                    Standing::Removed => false,
                }
            });
            let card = Card { addresses: addresses.clone(), ..card.clone() };
            if is_news && let Err(error) = self.admit(None, false, &card, Some(via)).await {
                tracing::debug!(cluster = %card.cluster, %via, %error, "an introduction was not taken");
            }
        }
    }

    /// This cluster leaves: the others that answer hear of it.
    pub async fn leave(self: &Arc<Self>) -> Result<(), OverlayError> {
        let serial = self.parts.seams.env.wall_ms();
        let told = self.view.load_full().all().into_iter().map(|link| async move {
            if let Err(error) = link.post::<Value>("leave", &Leave { serial }).await {
                tracing::info!(cluster = %link.name, %error, "a cluster does not hear that this one leaves");
            }
        });
        join_all(told).await;
        self.propose(OverlayChange::Leave).await?;
        self.refresh().await
    }

    /// A cluster is no member any more.
    pub async fn remove(self: &Arc<Self>, name: &ClusterName) -> Result<(), OverlayError> {
        self.propose(OverlayChange::Remove(name.clone())).await?;
        self.refresh().await
    }

    /// A cluster says that it leaves.
    pub(in crate::overlay) async fn parted(
        self: &Arc<Self>,
        cluster: &ClusterName,
        serial: u64,
    ) -> Result<(), OverlayError> {
        tracing::info!(%cluster, "a cluster leaves");
        self.propose(OverlayChange::Left { cluster: cluster.clone(), serial }).await?;
        self.refresh().await
    }

    /// A cluster may act for a user.
    pub async fn grant(
        self: &Arc<Self>,
        cluster: ClusterName,
        user: GrantedUser,
        buckets: Vec<BucketName>,
    ) -> Result<(), OverlayError> {
        let grant = OverlayGrant { cluster, user, buckets, since: ClusterMs(0) };
        self.propose(OverlayChange::Grant(grant)).await?;
        self.refresh().await
    }

    /// It may not any more.
    pub async fn revoke(
        self: &Arc<Self>,
        cluster: ClusterName,
        user: GrantedUser,
    ) -> Result<(), OverlayError> {
        self.propose(OverlayChange::Revoke { cluster, user }).await?;
        self.refresh().await
    }

    /// Whether there is no other cluster.
    pub fn is_alone(&self) -> bool {
        self.view.load().links.is_empty()
    }

    /// The name of this cluster where there are others.
    pub fn name(&self) -> Option<ClusterName> {
        self.view.load().identity.as_ref().map(|identity| identity.name.clone())
    }

    /// The member that has this key.
    pub(in crate::overlay) fn member_of(&self, key: &PublicKey) -> Option<ClusterName> {
        let view = self.view.load();
        view.links.values().find(|link| link.key() == *key).map(|link| link.name.clone())
    }

    /// Whether a user may act in a bucket here, whose request came by way of a cluster or directly.
    pub fn permits(&self, user: &UserName, via: Option<&ClusterName>, bucket: Option<&BucketName>) -> bool {
        let cluster = match (user.home(), via) {
            (Some(home), _) => home.to_string(),
            (None, Some(via)) => via.to_string(),
            (None, None) => return true,
        };
        let view = self.view.load();
        let mut grants = view.state.grants.iter().filter(|grant| grant.cluster.as_str() == cluster);
        grants.any(|grant| grant.allows(user, bucket))
    }

    /// Where a bucket is that is not here.
    pub async fn elsewhere(&self, name: &BucketName) -> Elsewhere {
        let view = self.view.load_full();
        if let Some((bucket, cluster)) = name.as_str().rsplit_once("--")
            && let Some((link, bucket)) = link_named(&view, cluster).zip(bucket.parse().ok())
        {
            return Elsewhere::In(link.clone(), bucket);
        }
        let mut homes = self.catalogs.homes(name);
        if homes.is_empty() {
            homes = self.ask_for(&view, name).await;
        }
        match &homes[..] {
            [] => {
                let silent = view.links.keys().find(|cluster| self.catalogs.of(cluster).is_none());
                silent.map_or(Elsewhere::Nowhere, |cluster| Elsewhere::Unknown(cluster.clone()))
            }
            [home] => match view.links.get(home) {
                Some(link) => Elsewhere::In(link.clone(), name.clone()),
                None => Elsewhere::Nowhere,
            },
            _ => Elsewhere::Disputed(homes),
        }
    }

    /// Clusters that answer and have the bucket, though their catalogs did not tell yet.
    async fn ask_for(&self, view: &View, name: &BucketName) -> Vec<ClusterName> {
        let _place = self.asking.acquire().await;
        let path = format!("buckets/{name}");
        let path = &path;
        let asked = view.living().into_iter().map(|link| async move {
            match timeout(ASK_DEADLINE, link.get::<BucketThere>(path)).await {
                Ok(Ok(BucketThere { bucket: Some(bucket), .. })) if bucket.name == *name => {
                    self.catalogs.note(&link.name, bucket);
                    Some(link.name.clone())
                }
                _ => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The cluster that a name means by its end.
    pub fn reserves(&self, name: &BucketName) -> Option<ClusterName> {
        let (_, cluster) = name.as_str().rsplit_once("--")?;
        let cluster = cluster.parse::<ClusterName>().ok()?;
        let view = self.view.load();
        let is_known = view.links.contains_key(&cluster) || cluster.as_str() == self.parts.region;
        is_known.then_some(cluster)
    }

    /// Whether another cluster that answers has a bucket of this name, or told of one.
    pub async fn is_taken(&self, name: &BucketName) -> bool {
        !matches!(self.elsewhere(name).await, Elsewhere::Nowhere | Elsewhere::Unknown(_))
    }

    /// The ways to all other clusters.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.view.load().all()
    }

    /// The cluster of this name, if it is another one.
    pub fn cluster(&self, name: &str) -> Option<Arc<Link>> {
        link_named(&self.view.load(), name).cloned()
    }

    /// Buckets of a user in other clusters, in order of name: each with its cluster, and with the name that it has here.
    pub async fn buckets_of(
        &self,
        user: &UserName,
    ) -> Result<Vec<(BucketName, ClusterName, CatalogBucket)>, OverlayError> {
        let view = self.view.load_full();
        let Some(identity) = &view.identity else { return Ok(Vec::new()) };
        let user = user.at_home_in(&identity.name);
        let own = self.own_catalog().await?;
        let here: BTreeSet<&BucketName> = own.buckets.iter().map(|bucket| &bucket.name).collect();
        let mut found = Vec::new();
        for cluster in view.links.keys() {
            let Some(taken) = self.catalogs.of(cluster) else { continue };
            for bucket in taken.buckets().filter(|bucket| bucket.owner.as_ref() == Some(&user)) {
                let is_disputed = here.contains(&bucket.name) || 1 < self.catalogs.homes(&bucket.name).len();
                let long = format!("{}--{cluster}", bucket.name).parse();
                let name = long.ok().filter(|_| is_disputed).unwrap_or_else(|| bucket.name.clone());
                found.push((name, cluster.clone(), bucket.clone()));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Asks the others what they have and whom they know.
    async fn fetch(&self) {
        let fetched = self.view.load_full().living().into_iter().map(|link| async move {
            let at = self.parts.seams.env.monotonic();
            match link.get::<Catalog>("catalog").await {
                Ok(catalog) => self.catalogs.take(&link.name, catalog, at),
                Err(error) => tracing::debug!(cluster = %link.name, %error, "no catalog"),
            }
            if let Ok(Members { card, members }) = link.get::<Members>("members").await {
                self.gossip.note(&[card]);
                self.introduce(&gossip::united(members), &link.name).await;
            }
        });
        join_all(fetched).await;
    }

    /// The buckets here, as a cluster may know them.
    pub(in crate::overlay) async fn catalog_for(&self, peer: &ClusterName) -> Result<Catalog, OverlayError> {
        let whole = self.own_catalog().await?;
        let mut catalog = (*whole).clone();
        catalog.copies.retain(|copy| copy.cluster == *peer);
        for bucket in &mut catalog.buckets {
            bucket.owner = bucket.owner.take().filter(|owner| self.knows_user(peer, owner));
        }
        Ok(catalog)
    }

    /// Whether a cluster acts for a user of this one somewhere.
    pub(in crate::overlay) fn acts_for(&self, cluster: &ClusterName, user: &UserName) -> bool {
        let view = self.view.load();
        let mut grants = view.state.grants.iter().filter(|grant| grant.cluster == *cluster);
        grants.any(|grant| matches!(&grant.user, GrantedUser::One(one) if one == user))
    }

    /// Whether a cluster may know of a user: one of its own, or one whom it acts for.
    fn knows_user(&self, peer: &ClusterName, user: &UserName) -> bool {
        let view = self.view.load();
        let Some(identity) = &view.identity else { return false };
        user.home() == Some(peer.as_str()) || self.acts_for(peer, &user.seen_in(&identity.name))
    }

    async fn own_catalog(&self) -> Result<Arc<Catalog>, OverlayError> {
        let now = self.parts.seams.env.monotonic();
        let mut own = self.own.lock().await;
        if let Some((taken, catalog)) = &*own
            && now.saturating_sub(*taken) < CATALOG_LIFETIME
        {
            return Ok(catalog.clone());
        }
        let (mut after, mut found) = (None, Catalog { room: Room::default(), ..Catalog::default() });
        loop {
            let query = Query::Catalog { after, limit: LIST_KEYS_MAX };
            let answered = self.parts.meta.query(query).await?;
            let Ok(Answer::Catalog { buckets, more }) = answered.answer else {
                return bad("the metadata answered another question than Catalog");
            };
            found.index = answered.index;
            after = buckets.last().map(|(bucket, _)| bucket.id).or(after);
            let name = self.name();
            let told = buckets.iter().map(|(bucket, usage)| told(bucket, usage, name.as_ref()));
            found.buckets.extend(told);
            if !more || CATALOG_BUCKETS_MAX <= found.buckets.len() {
                break;
            }
        }
        found.copies = self.own_copies().await?;
        let catalog = Arc::new(found);
        *own = Some((now, catalog.clone()));
        Ok(catalog)
    }

    /// Which buckets here are to be copied elsewhere.
    async fn own_copies(&self) -> Result<Vec<CopyWanted>, OverlayError> {
        let (mut after, mut found) = (None, BTreeMap::new());
        loop {
            let query = Query::Replications { after, limit: LIST_KEYS_MAX };
            let Answer::Replications { buckets, more } = ask(&*self.parts.meta, query).await? else {
                return bad("the metadata answered another question than Replications");
            };
            for (bucket, replication) in &buckets {
                for rule in replication.rules.iter().filter(|rule| rule.enabled) {
                    let copy = CopyWanted {
                        cluster: rule.cluster.clone(),
                        bucket: bucket.name.clone(),
                        id: bucket.id.0,
                        to: rule.bucket.clone(),
                        since: replication.since,
                    };
                    found.insert((bucket.id, rule.cluster.clone(), rule.bucket.clone()), copy);
                }
            }
            after = buckets.last().map(|(bucket, _)| bucket.id).or(after);
            if !more || CATALOG_BUCKETS_MAX <= found.len() {
                return Ok(found.into_values().collect());
            }
        }
    }

    /// What other clusters want copied here, and when each told so.
    pub(in crate::overlay) fn copies_wanted(&self) -> Vec<(Arc<Link>, Duration, Vec<CopyWanted>)> {
        let view = self.view.load_full();
        let told = view.links.values().filter_map(|link| {
            let taken = self.catalogs.of(&link.name)?;
            Some((link.clone(), taken.at, taken.catalog.copies.clone()))
        });
        told.collect()
    }

    /// What another cluster says of one of its buckets now.
    pub async fn ask_bucket(&self, link: &Arc<Link>, name: &BucketName) -> Result<BucketThere, LinkError> {
        link.get::<BucketThere>(&format!("buckets/{name}")).await
    }

    /// A bucket here, which is there.
    async fn bucket_here(&self, name: &BucketName) -> Result<Bucket, OverlayError> {
        match ask(&*self.parts.meta, Query::Bucket(name.clone())).await? {
            Answer::Bucket(Some(bucket)) => Ok(bucket),
            _ => bad(format!("there is no bucket {name}")),
        }
    }

    /// A bucket here follows one of another cluster from now on, and nobody else writes to it.
    pub async fn follow(self: &Arc<Self>, source: Source, name: &BucketName) -> Result<(), OverlayError> {
        let bucket = self.bucket_here(name).await?;
        let Some(link) = self.cluster(source.cluster.as_str()) else {
            return Err(OverlayError::Refused(OverlayRefusal::NotMember));
        };
        let there: ChangesThere =
            link.get(&format!("changes/{}?since={}&wait=0&limit=0", source.bucket, Stamp::ZERO)).await?;
        let (bucket, kind, source_id) = (bucket.id, FollowKind::Mirror, BucketId(there.id));
        self.propose(OverlayChange::Follow { bucket, source, kind, source_id, cursor: Stamp::ZERO }).await
    }

    /// A bucket here follows no other one any more, and is one like any other. Unless its home is lost it has all that is
    /// there. Returns what it followed, and of when its last change is.
    pub async fn promote(
        self: &Arc<Self>,
        name: &BucketName,
        home_is_lost: bool,
    ) -> Result<Vec<(Source, ClusterMs)>, OverlayError> {
        let bucket = self.bucket_here(name).await?;
        let until = self.parts.seams.env.monotonic() + PROMOTION_DEADLINE;
        let mut ended = Vec::new();
        loop {
            let Answer::Follows(follows) = ask(&*self.parts.meta, Query::Follows).await? else {
                return bad("the metadata answered another question than Follows");
            };
            let next = follows.follows.into_iter().find(|(other, _, _)| other.id == bucket.id);
            let Some((_, source, follow)) = next else { break };
            let cursor = match home_is_lost {
                true => None,
                false => {
                    let waiting = self.waiting(&bucket, &source, &follow).await?;
                    if 0 < waiting || follow.compare {
                        if until <= self.parts.seams.env.monotonic() {
                            return bad(format!(
                                "{waiting} changes of {}/{} are still to come; whoever writes there is to be stopped first",
                                source.cluster, source.bucket
                            ));
                        }
                        sleep(PROMOTION_INTERVAL).await;
                        continue;
                    }
                    Some(follow.cursor)
                }
            };
            let unfollow = OverlayChange::Unfollow { bucket: bucket.id, source: source.clone(), cursor };
            match self.propose(unfollow).await {
                Ok(()) => ended.push((source, follow.reached)),
                Err(OverlayError::Refused(OverlayRefusal::Moved | OverlayRefusal::NotFollowed)) => {}
                Err(error) => return Err(error),
            }
        }
        if ended.is_empty() { Err(OverlayError::Refused(OverlayRefusal::NotFollowed)) } else { Ok(ended) }
    }

    /// How many events are behind a copy, as far as they are counted.
    async fn waiting(&self, bucket: &Bucket, source: &Source, follow: &Follow) -> Result<u64, OverlayError> {
        let Some(link) = self.cluster(source.cluster.as_str()) else {
            return Err(OverlayError::Refused(OverlayRefusal::NotMember));
        };
        let to = match follow.kind {
            FollowKind::Mirror => String::new(),
            FollowKind::Replica => format!("&to={}", bucket.name),
        };
        let path = format!("changes/{}?since={}&wait=0&limit=0{to}", source.bucket, follow.cursor);
        let there: ChangesThere = link.get(&path).await?;
        Ok(if there.missing { there.waiting.max(1) } else { there.waiting })
    }

    /// Buckets here that follow others, for those who run the cluster.
    pub async fn follows_report(&self) -> Result<Value, OverlayError> {
        let Answer::Follows(follows) = ask(&*self.parts.meta, Query::Follows).await? else {
            return bad("the metadata answered another question than Follows");
        };
        let now = self.parts.seams.env.monotonic();
        let row = |(bucket, source, follow): (Bucket, Source, Follow)| {
            let up = self.cluster(source.cluster.as_str()).is_some_and(|link| link.answers());
            let progress = self.progresses.of(&(bucket.id, source.clone()));
            json!({
                "bucket": bucket.name, "cluster": source.cluster, "source": source.bucket, "up": up,
                "kind": match follow.kind { FollowKind::Mirror => "mirror", FollowKind::Replica => "replica" },
                "reached_ms": follow.reached.0, "cursor": follow.cursor.to_string(), "compare": follow.compare,
                "objects": follow.objects, "bytes": follow.bytes, "since_ms": follow.since.0,
                // Only the gateway that copies knows these.
                "lag_ms": progress.as_ref().map(|progress| progress.lag_ms),
                "waiting": progress.as_ref().map(|progress| progress.waiting),
                "failure": progress.as_ref().and_then(|progress| progress.failure.clone()),
                "seen_ms_ago": progress.map(|progress| now.saturating_sub(progress.at).as_millis() as u64),
            })
        };
        Ok(follows.follows.into_iter().map(row).collect())
    }

    /// One bucket here, as a cluster may know it.
    pub(in crate::overlay) async fn bucket_for(
        &self,
        peer: &ClusterName,
        name: &BucketName,
    ) -> Result<BucketThere, OverlayError> {
        let Answer::Bucket(bucket) = ask(&*self.parts.meta, Query::Bucket(name.clone())).await? else {
            return bad("the metadata answered another question than Bucket");
        };
        let takes_copies =
            bucket.as_ref().is_some_and(|bucket| self.permits(&bucket.owner, Some(peer), Some(name)));
        let mut told = bucket.map(|bucket| told(&bucket, &Usage::default(), self.name().as_ref()));
        if let Some(bucket) = &mut told {
            bucket.owner = bucket.owner.take().filter(|owner| self.knows_user(peer, owner));
        }
        Ok(BucketThere { bucket: told, takes_copies })
    }

    /// What verifies signatures for a day of a user whose home is another cluster; `None`: no cluster that answers knows
    /// the key. `Err`: one knew it that is away.
    pub async fn day_key(
        &self,
        id: &AccessKeyId,
        date: &str,
        region: &str,
    ) -> Result<Option<DayKey>, LinkError> {
        let place = (id.clone(), date.to_string(), region.to_string());
        let now = self.parts.seams.env.monotonic();
        let kept = self.day_keys.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some((asked, key)) = kept
            && now.saturating_sub(asked) < RECORD_LIFETIME
        {
            return Ok(key);
        }
        let view = self.view.load_full();
        let _place = self.asking.acquire().await;
        let path = format!("keys/{id}?date={date}&region={region}");
        let path = &path;
        let asked = view.living().into_iter().map(|link| async move {
            let key = timeout(ASK_DEADLINE, link.get::<DayKey>(path)).await.ok()?.ok()?;
            let is_theirs = key.user.home() == Some(link.name.as_str()) && key.id == *id;
            is_theirs.then(|| (link.name.clone(), key))
        });
        let found = join_all(asked).await.into_iter().flatten().next();
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((home, _)) = &found {
            homes.put(id.clone(), home.clone());
        } else if let Some(link) = homes.get(id).and_then(|home| view.links.get(home))
            && !link.answers()
        {
            let why = "it is the home of the access key".to_string();
            return Err(LinkError::Away(link.name.clone(), why));
        }
        let key = found.map(|(_, key)| key);
        let mut kept = self.day_keys.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(place, (now, key.clone()));
        Ok(key)
    }

    /// What is known of the overlay, for those who run the cluster.
    pub fn report(&self) -> Value {
        let view = self.view.load_full();
        let now = self.parts.seams.env.monotonic();
        let clusters: Vec<Value> = view
            .state
            .members
            .iter()
            .map(|member| {
                let link = view.links.get(&member.name);
                let taken = self.catalogs.of(&member.name);
                let sum = |of: fn(&CatalogBucket) -> u64| {
                    taken.as_ref().map_or(0, |taken| taken.buckets().map(of).sum::<u64>())
                };
                json!({
                    "name": member.name.as_str(),
                    "key": hex::encode(member.key),
                    "addresses": member.addresses,
                    "via": member.via.as_ref().map(ClusterName::as_str),
                    "since_ms": member.since.0,
                    "standing": match member.standing {
                        Standing::In => "in",
                        Standing::Removed => "removed",
                        Standing::Left => "left",
                    },
                    "up": link.is_some_and(|link| link.answers()),
                    "gateways": self.gossip.gateways(&member.name),
                    "buckets": sum(|_| 1),
                    "objects": sum(|bucket| bucket.objects),
                    "bytes": sum(|bucket| bucket.bytes),
                    "catalog_age_ms": taken.map(|taken| now.saturating_sub(taken.at).as_millis() as u64),
                })
            })
            .collect();
        let grants: Vec<Value> = view
            .state
            .grants
            .iter()
            .map(|grant| {
                let user = match &grant.user {
                    GrantedUser::One(user) => user.to_string(),
                    GrantedUser::All => "*".to_string(),
                };
                json!({ "cluster": grant.cluster.as_str(), "user": user, "buckets": grant.buckets })
            })
            .collect();
        json!({
            "name": view.identity.as_ref().map(|identity| identity.name.as_str()),
            "key": view.identity.as_ref().map(|identity| hex::encode(identity.key)),
            "address": self.parts.address,
            "clusters": clusters,
            "grants": grants,
            "invites": view.state.invites,
        })
    }

    /// The catalog of all clusters, for those who run this one.
    pub async fn whole_catalog(&self) -> Result<Value, OverlayError> {
        let own = self.own_catalog().await?;
        let view = self.view.load_full();
        let now = self.parts.seams.env.monotonic();
        let row = |cluster: &str, up: bool, age: u64, bucket: &CatalogBucket| {
            json!({
                "name": bucket.name, "cluster": cluster, "owner": bucket.owner, "objects": bucket.objects,
                "bytes": bucket.bytes, "created_ms": bucket.created_ms, "up": up, "age_ms": age,
                "disputed": 0 < self.catalogs.homes(&bucket.name).iter().filter(|home| home.as_str() != cluster).count()
                    || (cluster != self.parts.region && own.buckets.iter().any(|here| here.name == bucket.name)),
            })
        };
        let mut rows: Vec<Value> =
            own.buckets.iter().map(|bucket| row(&self.parts.region, true, 0, bucket)).collect();
        for (cluster, link) in &view.links {
            let Some(taken) = self.catalogs.of(cluster) else { continue };
            let age = now.saturating_sub(taken.at).as_millis() as u64;
            rows.extend(taken.buckets().map(|bucket| row(cluster.as_str(), link.answers(), age, bucket)));
        }
        Ok(json!({ "buckets": rows }))
    }
}

fn link_named<'a>(view: &'a View, name: &str) -> Option<&'a Arc<Link>> {
    name.parse::<ClusterName>().ok().and_then(|name| view.links.get(&name))
}

/// A bucket as others hear of it.
fn told(bucket: &Bucket, usage: &Usage, here: Option<&ClusterName>) -> CatalogBucket {
    CatalogBucket {
        name: bucket.name.clone(),
        owner: here.map(|here| bucket.owner.at_home_in(here)),
        created_ms: bucket.created.0,
        objects: usage.objects,
        bytes: usage.bytes,
        versioned: bucket.versioning == Versioning::Enabled,
    }
}
