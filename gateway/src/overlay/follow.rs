//! Copies what happens in buckets of other clusters to buckets here.
//!
//! Of all gateways one copies: the one whose session the metadata names. Each copy goes on by itself: while one page of
//! changes is written the next one is fetched. Changes and how far the copy is are written together, so whoever goes on,
//! and wherever it was stopped, copies nothing twice and leaves nothing out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use consensus::client::{MetaError, WriteGuard, ask};
use consensus::meta::command::{Command, Done, NewBody, Reject};
use consensus::meta::model::{Bucket, ClusterMs, Etag, Lock, Versioning};
use consensus::meta::names::{BucketName, ObjectKey};
use consensus::meta::overlay::{HeardPlace, OverlayChange, OverlayRefusal};
use consensus::meta::query::{Answer, Query};
use consensus::meta::replication::{
    Follow, FollowKind, Follows, Promotion, ReplicaChange, ReplicaOf, ReplicaPart, ReplicaVersion, Replicate,
    ReplicateStep, Source as Followed,
};
use consensus::meta::sealing::Sealing;
use fabric::codec;
use fabric::ids::{BucketId, Stamp};
use fabric::limits::{ENTRY_BYTES_MAX, KIB, PUT_BYTES_MAX, REPLICA_PARTS_MAX};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http::{Request, StatusCode};
use http_body_util::BodyStream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::arriving::{Arriving, Pieces};
use super::copies::{
    ChangesThere, CopyWanted, PartThere, VersionAsked, VersionThere, VersionsAsked, VersionsThere, WhatThere,
};
use super::link::{Link, LinkError};
use super::wire::PATH;
use super::{Overlay, OverlayError};
use crate::data::Written;
use crate::http::guard::now;
use crate::http::{ResponseBody, full};
use crate::leading::{Running, leads, stopped};
use crate::s3::S3Error;
use crate::s3::replicas::{ReplicaTarget, Replicas};
use crate::s3::service::S3Service;

/// Between two looks for what is to be copied.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Where another gateway copies one looks less often.
const REST_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks at what others told, for it to be kept.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// What failed is tried again after this.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Copies that go on at once.
const COPIES_MAX: usize = 64;
/// How long the other cluster waits for something to happen.
const WAIT_SECONDS: u64 = 2;
/// Events of one page.
const PAGE: usize = 250;
/// Bodies of one copy that are on their way at once.
const BODIES_AT_ONCE: usize = 8;
/// A command is not longer.
const COMMAND_BYTES_MAX: usize = ENTRY_BYTES_MAX - 256 * KIB as usize;
/// Extents of one copy that wait for a command.
const EXTENTS_AT_ONCE: usize = PAGE;
/// What a source wants is known to be of now for so long.
const WANTED_LIFETIME: Duration = Duration::from_secs(10);

/// A copy: the bucket here and what it follows.
pub type Place = (BucketId, Followed);

/// How copies are, as the gateway knows that copies.
#[derive(Default)]
pub struct Progresses(Mutex<BTreeMap<Place, Progress>>);

/// How a copy is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// How far behind it was when it was last looked at, in milliseconds.
    pub lag_ms: u64,
    /// Events that waited then, as far as they were counted.
    pub waiting: u64,
    /// Why it does not go on.
    pub failure: Option<String>,
    /// When it was looked at: monotonic time.
    pub at: Duration,
}

impl Progresses {
    /// Of one copy; `None`: another gateway copies, or nobody yet.
    pub fn of(&self, place: &Place) -> Option<Progress> {
        self.lock().get(place).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Progress>> {
        // Each change is a single call, so poison means nothing here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a copy does not go on for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    /// It ended, or somebody else went on with it: there is nothing to say.
    #[error("the copy is at another place by now")]
    Moved,
    /// The other cluster is none of the overlay.
    #[error("there is no such cluster in the overlay")]
    Stranger,
    /// The bucket there is another one.
    #[error(
        "the bucket there was deleted, and this is another one of its name; overlay promote ends following"
    )]
    Another,
    /// The rules here say no to a change.
    #[error("a change is refused here: {0:?}")]
    Refused(Box<Reject>),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("a body is not stored: {0}")]
    Store(#[from] S3Error),
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// The part of a gateway that copies.
pub struct Follower {
    /// Other clusters.
    pub overlay: Arc<Overlay>,
    /// Stores bodies.
    pub service: Arc<S3Service>,
}

/// What is under way: copies, each with the name of its bucket.
struct State {
    running: Running<Place, (BucketName, Result<(), Halt>)>,
    /// What failed, and until when it rests.
    resting: BTreeMap<Place, Duration>,
    /// Where what others told is looked at next, and when.
    keeping: (Option<HeardPlace>, Duration),
}

impl Follower {
    /// Copies until the gateway ends. The next one goes on from where this one was.
    pub async fn run(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut state = State {
            running: Running::new(COPIES_MAX),
            resting: BTreeMap::new(),
            keeping: Default::default(),
        };
        let mut look = now();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => return,
                Some((place, (bucket, outcome))) = state.running.ended() => {
                    self.ended(&mut state, place, &bucket, outcome);
                }
                () = sleep_until(look) => {
                    let leads = self.look(&mut state).await.unwrap_or(false);
                    metrics::gauge!("fluffy_replication_leading").set(f64::from(u8::from(leads)));
                    look = now() + if leads { LOOK_INTERVAL } else { REST_INTERVAL };
                }
            }
        }
    }

    fn ended(&self, state: &mut State, place: Place, bucket: &BucketName, outcome: Result<(), Halt>) {
        let Err(halt) = outcome else { return };
        if matches!(halt, Halt::Moved) {
            return;
        }
        let at = self.overlay.parts.seams.env.monotonic();
        state.resting.insert(place.clone(), at + RETRY_DELAY);
        metrics::counter!("fluffy_replication_failures_total", "bucket" => bucket.to_string()).increment(1);
        let why = halt.to_string();
        let mut progresses = self.overlay.progresses.lock();
        let source = &place.1;
        let known = progresses.get(&place).and_then(|progress| progress.failure.as_ref());
        if known != Some(&why) {
            let (cluster, source) = (&source.cluster, &source.bucket);
            tracing::warn!(%bucket, %cluster, %source, error = why, "a copy, or its promotion, does not go on; it is tried again");
        }
        let progress = progresses.entry(place).or_insert_with(|| Progress { at, ..Progress::default() });
        progress.failure = Some(why);
    }

    /// Starts what is to be copied. False: another gateway copies, or there is nothing to do.
    async fn look(self: &Arc<Self>, state: &mut State) -> Result<bool, MetaError> {
        let mut follows = self.follows().await?;
        let promoted = self.promoted().await?;
        let wanted = self.overlay.copies_wanted();
        if follows.follows.is_empty() && promoted.is_empty() && self.overlay.name().is_none() {
            return Ok(false);
        }
        let (leader, lives) = (follows.follower, follows.follower_lives);
        let (meta, take) = (&*self.overlay.parts.meta, Command::LeadFollowing);
        if !leads(meta, leader, lives, take, "copies buckets of other clusters").await? {
            return Ok(false);
        }
        self.keep_heard(state).await;
        let (here, at) = (&follows.follows, self.overlay.parts.seams.env.monotonic());
        for (link, told, copies) in wanted {
            let fresh = link.answers() && at.saturating_sub(told) < WANTED_LIFETIME;
            if let Err(error) = self.reconcile(&link, fresh, &copies, here).await {
                tracing::debug!(cluster = %link.name, %error, "copies that a cluster wants are looked at again");
            }
        }
        state.resting.retain(|_, until| at < *until);
        self.start_telling(state, promoted);
        // Where there are more than go on at once, each has its turn.
        follows.follows.sort_by_cached_key(|(bucket, source, _)| {
            let progress = self.overlay.progresses.of(&(bucket.id, source.clone()));
            progress.map_or(Duration::ZERO, |progress| progress.at)
        });
        for (bucket, source, follow) in follows.follows {
            let place = (bucket.id, source);
            self.tell_age(&place, &bucket, at);
            let rests = state.resting.contains_key(&place);
            if !rests && state.running.takes(&place) && self.takes(&place.1, &bucket, follow.kind) {
                let (this, source) = (self.clone(), place.1.clone());
                state.running.start(place, async move {
                    (bucket.name.clone(), this.follow(bucket, source, follow).await)
                });
            }
        }
        Ok(true)
    }

    /// What others told is kept by the gateway that copies.
    async fn keep_heard(&self, state: &mut State) {
        let at = self.overlay.parts.seams.env.monotonic();
        let (from, next) = &mut state.keeping;
        if at < *next {
            return;
        }
        *next = at + KEEP_INTERVAL;
        match self.overlay.keep(from.take()).await {
            Ok(place) => *from = place,
            Err(error) => tracing::debug!(%error, "what other clusters told is kept later"),
        }
    }

    /// Starts to tell clusters that were away, and answer again, which of their buckets were taken the place of.
    fn start_telling(self: &Arc<Self>, state: &mut State, promoted: Vec<(Bucket, Followed, Promotion)>) {
        for (bucket, source, promotion) in promoted {
            let answers = self.overlay.cluster(source.cluster.as_str()).is_some_and(|link| link.answers());
            let place = (bucket.id, source);
            if answers && !state.resting.contains_key(&place) && state.running.takes(&place) {
                let (this, source) = (self.clone(), place.1.clone());
                state.running.start(place, async move {
                    (bucket.name.clone(), this.tell(&bucket, source, &promotion).await)
                });
            }
        }
    }

    /// Tells a cluster that a bucket here took the place of one there.
    async fn tell(&self, bucket: &Bucket, source: Followed, promotion: &Promotion) -> Result<(), Halt> {
        let (id, at) = (promotion.source, Some(promotion.cursor));
        let is_told = self.overlay.supersede(bucket, &source, id, at).await?;
        let (name, cluster, there) = (&bucket.name, &source.cluster, &source.bucket);
        tracing::info!(bucket = %name, %cluster, source = %there, is_told, "the old home heard of a promotion");
        self.overlay.progresses.lock().remove(&(bucket.id, source.clone()));
        Ok(self.overlay.propose(OverlayChange::Told { bucket: bucket.id, source }).await?)
    }

    /// A copy that hears nothing falls behind.
    fn tell_age(&self, place: &Place, bucket: &Bucket, at: Duration) {
        let progress = self.overlay.progresses.of(place).unwrap_or_default();
        let silent = at.saturating_sub(progress.at).saturating_sub(Duration::from_secs(2 * WAIT_SECONDS));
        let lag = Duration::from_millis(progress.lag_ms) + silent;
        metrics::gauge!("fluffy_replication_lag_seconds", "bucket" => bucket.name.to_string())
            .set(lag.as_secs_f64());
    }

    async fn follows(&self) -> Result<Follows, MetaError> {
        match ask(&*self.overlay.parts.meta, Query::Follows).await? {
            Answer::Follows(follows) => Ok(follows),
            _ => Err(MetaError::Unavailable("the metadata answered another question".to_string())),
        }
    }

    /// Buckets here that took the place of others, whose clusters do not know yet.
    async fn promoted(&self) -> Result<Vec<(Bucket, Followed, Promotion)>, MetaError> {
        match ask(&*self.overlay.parts.meta, Query::Promotions).await? {
            Answer::Promotions(promotions) => Ok(promotions.promoted),
            _ => Err(MetaError::Unavailable("the metadata answered another question".to_string())),
        }
    }

    /// Whether copies of a cluster are taken here: for the owner of a bucket only where it may act for that owner.
    fn takes(&self, source: &Followed, bucket: &Bucket, kind: FollowKind) -> bool {
        match kind {
            FollowKind::Mirror => true,
            FollowKind::Replica => {
                self.overlay.permits(&bucket.owner, Some(&source.cluster), Some(&bucket.name))
            }
        }
    }

    /// Begins with copies that a cluster wants here, and ends those that it does not want any more.
    async fn reconcile(
        &self,
        link: &Link,
        fresh: bool,
        copies: &[CopyWanted],
        here: &[(Bucket, Followed, Follow)],
    ) -> Result<(), OverlayError> {
        let is = |copy: &CopyWanted, (bucket, source, follow): &(Bucket, Followed, Follow)| {
            let there = (&copy.bucket, copy.id) == (&source.bucket, follow.source.0);
            copy.to == bucket.name && there && link.name == source.cluster
        };
        for row in here {
            let (bucket, source, follow) = row;
            let ours = follow.kind == FollowKind::Replica && source.cluster == link.name;
            if ours && fresh && !copies.iter().any(|copy| is(copy, row)) {
                let (bucket, source) = (bucket.id, source.clone());
                self.overlay.propose(OverlayChange::Unfollow { bucket, source, cursor: None }).await?;
            }
        }
        for copy in copies {
            if here.iter().any(|row| is(copy, row)) {
                continue;
            }
            let Answer::Bucket(Some(bucket)) =
                ask(&*self.overlay.parts.meta, Query::Bucket(copy.to.clone())).await?
            else {
                continue;
            };
            let source = Followed { cluster: link.name.clone(), bucket: copy.bucket.clone() };
            let takes = self.takes(&source, &bucket, FollowKind::Replica);
            if takes && bucket.versioning == Versioning::Enabled {
                let (kind, source_id) = (FollowKind::Replica, BucketId(copy.id));
                let (bucket, cursor) = (bucket.id, copy.since);
                let follow = OverlayChange::Follow { bucket, source, kind, source_id, cursor };
                self.overlay.propose(follow).await?;
            }
        }
        Ok(())
    }

    /// Copies to one bucket until nothing happens for a while, or something is in the way.
    async fn follow(&self, bucket: Bucket, source: Followed, follow: Follow) -> Result<(), Halt> {
        let link = self.overlay.cluster(source.cluster.as_str()).ok_or(Halt::Stranger)?;
        let copying = Copying {
            overlay: self.overlay.clone(),
            service: self.service.clone(),
            link,
            bucket: Arc::new(bucket),
            source,
            kind: follow.kind,
            id: follow.source,
        };
        let mut cursor = follow.cursor;
        if follow.compare {
            cursor = copying.compare(cursor).await?;
        }
        let mut page = copying.fetch(cursor, cursor).await?;
        loop {
            if page.there.missing {
                cursor = copying.compare(cursor).await?;
                page = copying.fetch(cursor, cursor).await?;
                continue;
            }
            if page.there.upto == cursor {
                // Nothing happens: who looks next sees whether the copy is still wanted.
                copying.note(&page);
                return Ok(());
            }
            let next = copying.fetch(page.there.upto, cursor);
            let (written, next) = tokio::join!(copying.write(&page, cursor), next);
            written?;
            cursor = page.there.upto;
            page = next?;
        }
    }
}

/// One copy that goes on.
pub(super) struct Copying {
    pub(super) overlay: Arc<Overlay>,
    service: Arc<S3Service>,
    pub(super) link: Arc<Link>,
    pub(super) bucket: Arc<Bucket>,
    source: Followed,
    pub(super) kind: FollowKind,
    id: BucketId,
}

/// A page of changes, and when it came: monotonic time.
pub(super) struct Fetched {
    pub(super) there: ChangesThere,
    at: Duration,
}

/// A change as the source told it: its event, when that was, its key, and what it is.
pub(super) type Told<'a> = (Stamp, u64, &'a ObjectKey, &'a WhatThere);

/// A change that lacks only its command.
pub(super) struct Prepared {
    change: ReplicaChange,
    /// Bytes of a version.
    bytes: Option<u64>,
    /// Keep the bytes until the outcome of the command is known.
    _guards: Vec<WriteGuard>,
}

/// The bytes of a version, stored.
struct Stored {
    body: NewBody,
    /// Where it keeps its parts: these, and the body has no bytes.
    parts: Vec<ReplicaPart>,
    sealing: Option<Sealing>,
    guards: Vec<WriteGuard>,
}

impl Copying {
    /// The next page, while the copy has what happened up to `done`.
    async fn fetch(&self, since: Stamp, done: Stamp) -> Result<Fetched, Halt> {
        self.asked(&format!("since={since}&wait={WAIT_SECONDS}&limit={PAGE}&done={done}")).await
    }

    /// Where the feed there is.
    pub(super) async fn place(&self, since: Stamp) -> Result<Fetched, Halt> {
        self.asked(&format!("since={since}&wait=0&limit=0")).await
    }

    async fn asked(&self, query: &str) -> Result<Fetched, Halt> {
        let path = self.path("changes", query);
        let there: ChangesThere = self.link.get(&path).await?;
        if there.id != self.id.0 {
            return Err(Halt::Another);
        }
        Ok(Fetched { there, at: self.overlay.parts.seams.env.monotonic() })
    }

    /// The path of a question about the source.
    pub(super) fn path(&self, what: &str, query: &str) -> String {
        let to = match self.kind {
            FollowKind::Mirror => String::new(),
            FollowKind::Replica => format!("&to={}", self.bucket.name),
        };
        format!("{what}/{}?{query}{to}", self.source.bucket)
    }

    /// Writes a page of changes.
    async fn write(&self, page: &Fetched, mut after: Stamp) -> Result<(), Halt> {
        let there = &page.there;
        if self.overlay.parts.seams.env.armed("cursor_before_copy") {
            self.propose(ReplicateStep::Feed, (after, there.upto), there.reached_ms, Vec::new()).await?;
            after = there.upto;
        }
        let changes: Vec<Told<'_>> =
            there.events.iter().map(|event| (event.at, event.at_ms, &event.key, &event.what)).collect();
        let mut bundles = bundles(changes).into_iter().peekable();
        if bundles.peek().is_none() {
            self.propose(ReplicateStep::Feed, (after, there.upto), there.reached_ms, Vec::new()).await?;
        }
        while let Some(bundle) = bundles.next() {
            let last =
                bundle.last().map(|(at, at_ms, ..)| (*at, *at_ms)).filter(|_| bundles.peek().is_some());
            let (upto, reached) = last.unwrap_or((there.upto, there.reached_ms));
            self.write_bundle(bundle, (after, upto), reached).await?;
            after = upto;
        }
        self.note(page);
        Ok(())
    }

    /// Writes changes behind `after`, which are all up to `upto`.
    async fn write_bundle(
        &self,
        bundle: Vec<Told<'_>>,
        (mut after, upto): (Stamp, Stamp),
        reached_ms: u64,
    ) -> Result<(), Halt> {
        let mut batches = batches(self.prepare(bundle).await?).into_iter().peekable();
        if batches.peek().is_none() {
            self.propose(ReplicateStep::Feed, (after, upto), reached_ms, Vec::new()).await?;
        }
        while let Some(batch) = batches.next() {
            let last = batch.last().map(|last| (last.change.at, last.change.reached.0));
            let (until, reached) = last.filter(|_| batches.peek().is_some()).unwrap_or((upto, reached_ms));
            self.propose(ReplicateStep::Feed, (after, until), reached, batch).await?;
            after = until;
        }
        Ok(())
    }

    /// Tells how far behind the copy was.
    fn note(&self, page: &Fetched) {
        let at = self.overlay.parts.seams.env.monotonic();
        let there = &page.there;
        let passed = at.saturating_sub(page.at).as_millis() as u64;
        // The copy is as the source was then.
        let then_ms = if there.waiting == 0 { there.now_ms } else { there.reached_ms };
        let lag_ms = there.now_ms.saturating_sub(then_ms) + passed;
        let name = self.bucket.name.to_string();
        metrics::gauge!("fluffy_replication_lag_seconds", "bucket" => name.clone())
            .set(lag_ms as f64 / 1000.0);
        metrics::gauge!("fluffy_replication_waiting_events", "bucket" => name).set(there.waiting as f64);
        let progress = Progress { lag_ms, waiting: there.waiting, failure: None, at };
        self.overlay.progresses.lock().insert((self.bucket.id, self.source.clone()), progress);
    }

    /// Stores the bodies of changes, several at once, and makes commands of them, in order.
    pub(super) async fn prepare(&self, changes: Vec<Told<'_>>) -> Result<Vec<Prepared>, Halt> {
        let replicas = self.service.replicas(self.bucket.clone()).await?;
        let pending: Vec<_> =
            changes.into_iter().map(|change| self.prepare_one(&replicas, change).boxed()).collect();
        let prepared = futures::stream::iter(pending).buffered(BODIES_AT_ONCE);
        let prepared: Vec<Option<Prepared>> = prepared.try_collect().await?;
        Ok(prepared.into_iter().flatten().collect())
    }

    async fn prepare_one(
        &self,
        replicas: &Replicas,
        (at, at_ms, key, what): Told<'_>,
    ) -> Result<Option<Prepared>, Halt> {
        let change = |what| ReplicaChange { at, reached: ClusterMs(at_ms), key: key.clone(), what };
        let bare = |what| Ok(Some(Prepared { change: change(what), bytes: None, _guards: Vec::new() }));
        let version = match what {
            WhatThere::Marker { modified_ms, version } => {
                let modified = ClusterMs(*modified_ms);
                return bare(match version {
                    Some(id) if self.kind == FollowKind::Mirror => {
                        ReplicaOf::KeptMarker { id: *id, modified }
                    }
                    _ => ReplicaOf::Marker(modified),
                });
            }
            WhatThere::Tags { etag, modified_ms, tags, lock } => {
                let (etag, modified) = (*etag, ClusterMs(*modified_ms));
                return bare(match lock.clone() {
                    Some(lock) => ReplicaOf::Lock { etag, modified, lock },
                    None => ReplicaOf::Tags { etag, modified, tags: tags.clone() },
                });
            }
            WhatThere::Version(version) if PUT_BYTES_MAX < version.bytes => {
                self.leave(key, "it is larger than one part may be");
                return Ok(None);
            }
            WhatThere::Left(why) => {
                self.leave(key, why);
                return Ok(None);
            }
            WhatThere::Version(version) => version,
        };
        let Some(Stored { body, parts, sealing, guards }) = self.store(replicas, key, version).await? else {
            return Ok(None);
        };
        let (id, bytes, lock) = (version.version, version.bytes, version.lock.clone());
        let mut attributes = version.attributes.clone();
        attributes.mark_replica();
        let version = ReplicaVersion {
            body,
            sealing,
            etag: version.etag,
            modified: ClusterMs(version.modified_ms),
            checksum: version.checksum.clone(),
            attributes,
        };
        // Into a bucket of many writers come versions of several clusters, which may have given the same ids.
        let what = match self.kind {
            FollowKind::Mirror => ReplicaOf::KeptVersion { id, version },
            FollowKind::Replica => ReplicaOf::Version(version),
        };
        let what = match parts.is_empty() {
            true => what,
            false => ReplicaOf::InParts { parts, what: Box::new(what) },
        };
        let what = match lock == Lock::default() {
            true => what,
            false => ReplicaOf::Locked { lock, what: Box::new(what) },
        };
        Ok(Some(Prepared { change: change(what), bytes: Some(bytes), _guards: guards }))
    }

    fn leave(&self, key: &ObjectKey, why: &str) {
        tracing::warn!(bucket = %self.bucket.name, cluster = %self.source.cluster, key = key.as_str(), why, "a version is not copied");
        metrics::counter!("fluffy_replication_left_total", "bucket" => self.bucket.name.to_string())
            .increment(1);
    }

    /// Stores the bytes of a version; `None`: it is gone there.
    async fn store(
        &self,
        replicas: &Replicas,
        key: &ObjectKey,
        version: &VersionThere,
    ) -> Result<Option<Stored>, Halt> {
        let told = self.parts(key, version).await?;
        let mut source = match &version.body {
            Some(text) => {
                let bytes = STANDARD.decode(text).map_err(|error| self.wrong(&error))?;
                let pieces = futures::stream::iter([Ok(Bytes::from(bytes))]).boxed();
                Arriving::new(version.bytes, pieces)
            }
            None => match self.body(key, version).await? {
                Some(pieces) => Arriving::new(version.bytes, pieces),
                None => return Ok(None),
            },
        };
        let encryption = replicas.encryption()?;
        let target = |part| {
            let (attributes, encryption) = (&version.attributes, encryption.as_ref());
            ReplicaTarget { key, attributes, encryption, part }
        };
        let (mut parts, mut guards) = (Vec::new(), Vec::new());
        for PartThere { number, bytes, etag, checksum } in told {
            let Etag::Md5(md5) = etag else { return Err(self.wrong(&"the tag of a part is none of a part")) };
            let place = target(Some((version.version, number)));
            let Written { body, guard } = replicas.store(place, &mut source.part(bytes), bytes).await?;
            guards.extend(guard);
            let extent = match body {
                NewBody::Extent(extent) => Some(extent),
                NewBody::Inline(_) => None,
            };
            parts.push(ReplicaPart { number, md5, checksum, extent });
        }
        let body = match parts.is_empty() {
            true => {
                let Written { body, guard } =
                    replicas.store(target(None), &mut source, version.bytes).await?;
                guards.extend(guard);
                body
            }
            false => NewBody::Inline(Bytes::new()),
        };
        let sealing = encryption.map(|encryption| encryption.sealing);
        Ok(Some(Stored { body, parts, sealing, guards }))
    }

    /// The parts in which a version was stored there; none where it was stored as one, or has too many to keep them.
    async fn parts(&self, key: &ObjectKey, version: &VersionThere) -> Result<Vec<PartThere>, Halt> {
        if !matches!(version.etag, Etag::Multipart(..)) {
            return Ok(Vec::new());
        }
        let asked = VersionAsked { key: key.clone(), version: version.version, parts: true };
        let asked = VersionsAsked { versions: vec![asked] };
        let there: VersionsThere = self.link.post(&self.path("versions", ""), &asked).await?;
        let parts = match there.versions.into_iter().next().flatten() {
            Some(WhatThere::Version(there)) => there.parts,
            _ => Vec::new(),
        };
        let bytes = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.bytes));
        let are_all = bytes == version.bytes && parts.len() <= REPLICA_PARTS_MAX;
        Ok(if are_all { parts } else { Vec::new() })
    }

    /// The bytes of a version as they come.
    async fn body(&self, key: &ObjectKey, version: &VersionThere) -> Result<Option<Pieces>, Halt> {
        let key = utf8_percent_encode(key.as_str(), NON_ALPHANUMERIC);
        let path = self.path("versions", &format!("key={key}&version={}", version.version));
        let request: Result<Request<ResponseBody>, _> =
            Request::get(format!("{PATH}{path}")).body(full(Bytes::new()));
        let answer = self.link.send(request.map_err(|error| self.wrong(&error))?).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(LinkError::Refused(status, format!("no body: {status}")).into()),
        }
        let pieces = BodyStream::new(answer.into_body()).filter_map(|frame| async move {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(error)),
            }
        });
        Ok(Some(pieces.boxed()))
    }

    fn wrong(&self, why: &dyn std::fmt::Display) -> Halt {
        LinkError::Away(self.link.name.clone(), format!("its answer makes no sense: {why}")).into()
    }

    /// Writes changes as one command.
    pub(super) async fn propose(
        &self,
        step: ReplicateStep,
        (after, upto): (Stamp, Stamp),
        reached_ms: u64,
        prepared: Vec<Prepared>,
    ) -> Result<(), Halt> {
        let (mut objects, mut bytes) = (0, 0);
        for size in prepared.iter().filter_map(|prepared| prepared.bytes) {
            (objects, bytes) = (objects + 1, bytes + size);
        }
        let (changes, guards): (Vec<_>, Vec<_>) =
            prepared.into_iter().map(|prepared| (prepared.change, prepared._guards)).unzip();
        let command = Replicate {
            bucket: self.bucket.id,
            source: self.source.clone(),
            after,
            upto,
            reached: ClusterMs(reached_ms),
            step,
            changes,
        };
        let done = self.overlay.parts.meta.propose(Command::Replicate(command)).await;
        // The outcome is known (or given up): from here on extents are named, or garbage.
        drop(guards);
        match done {
            Ok(Done::Replicated { refused: None, .. }) => {
                let name = self.bucket.name.to_string();
                metrics::counter!("fluffy_replication_objects_total", "bucket" => name.clone())
                    .increment(objects);
                metrics::counter!("fluffy_replication_bytes_total", "bucket" => name).increment(bytes);
                Ok(())
            }
            Ok(Done::Replicated { refused: Some(why), .. }) => Err(Halt::Refused(why)),
            Ok(_) => Err(MetaError::Unavailable("the metadata did another thing".to_string()).into()),
            Err(MetaError::Rejected(
                Reject::Overlay(OverlayRefusal::Moved | OverlayRefusal::NotFollowed) | Reject::NoSuchBucket,
            )) => Err(Halt::Moved),
            Err(error) => Err(error.into()),
        }
    }
}

/// Changes whose bytes wait for their commands together: not more extents than [`EXTENTS_AT_ONCE`], or one version alone.
pub(super) fn bundles(changes: Vec<Told<'_>>) -> Vec<Vec<Told<'_>>> {
    let mut bundles: Vec<Vec<Told<'_>>> = Vec::new();
    let mut extents = EXTENTS_AT_ONCE;
    for change in changes {
        let more = match change.3 {
            WhatThere::Version(VersionThere { etag: Etag::Multipart(_, parts), .. }) => usize::from(*parts),
            _ => 1,
        };
        match bundles.last_mut() {
            Some(bundle) if extents + more <= EXTENTS_AT_ONCE => {
                extents += more;
                bundle.push(change);
            }
            _ => {
                extents = more;
                bundles.push(vec![change]);
            }
        }
    }
    bundles
}

/// Changes as commands take them.
pub(super) fn batches(prepared: Vec<Prepared>) -> Vec<Vec<Prepared>> {
    let mut batches: Vec<Vec<Prepared>> = Vec::new();
    let mut taken = COMMAND_BYTES_MAX;
    for one in prepared {
        let bytes = codec::encode(1, &one.change).len();
        match batches.last_mut() {
            Some(batch) if taken + bytes <= COMMAND_BYTES_MAX => {
                taken += bytes;
                batch.push(one);
            }
            _ => {
                taken = bytes;
                batches.push(vec![one]);
            }
        }
    }
    batches
}

/// A bucket of another cluster, as people write it: `CLUSTER/BUCKET`.
pub fn parse_source(text: &str) -> Result<Followed, String> {
    let (cluster, bucket) =
        text.split_once('/').ok_or("a bucket of another cluster is written CLUSTER/BUCKET")?;
    let cluster = cluster.parse().map_err(|error| format!("{cluster:?}: {error}"))?;
    let bucket: BucketName = bucket.parse().map_err(|error| format!("{bucket:?}: {error}"))?;
    Ok(Followed { cluster, bucket })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_not_too_long_and_keep_the_order() {
        let one = |index: u64| {
            let key = "k".repeat(1000).parse().unwrap();
            let at = Stamp { epoch: 1, index, ordinal: 0 };
            let change =
                ReplicaChange { at, reached: ClusterMs(0), key, what: ReplicaOf::Marker(ClusterMs(0)) };
            Prepared { change, bytes: None, _guards: Vec::new() }
        };
        let batches = batches((0..2000).map(one).collect());
        assert!(1 < batches.len());
        let bytes = |batch: &Vec<Prepared>| {
            batch.iter().map(|one| codec::encode(1, &one.change).len()).sum::<usize>()
        };
        assert!(batches.iter().all(|batch| bytes(batch) <= COMMAND_BYTES_MAX));
        let order: Vec<u64> = batches.iter().flatten().map(|one| one.change.at.index).collect();
        assert_eq!(order, (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn sources_are_written_with_their_cluster() {
        let source = parse_source("east/photos").unwrap();
        assert_eq!((source.cluster.as_str(), source.bucket.as_str()), ("east", "photos"));
        for wrong in ["", "photos", "east/", "/photos", "east/a/b", "E/photos"] {
            assert!(parse_source(wrong).is_err(), "{wrong}");
        }
    }
}
