//! What a cluster is told of a bucket here of which it has a copy: what happened, what is there, and the bytes.
//!
//! What always holds: it is told of nothing that it was not given. Either the owner of the bucket wants copies in that
//! cluster, and it hears of what the rules say; or that cluster may act for the owner here, and it hears of everything.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consensus::client::{Meta, MetaError, ReadGuard, ask};
use consensus::meta::command::{Reject, VersionSelector};
use consensus::meta::model::{
    Bucket, BucketSetting, Etag, Event, EventKind, Home, Lock, Object, SettingKind, Tags, Versioning,
};
use consensus::meta::names::{BucketName, ClusterName, ObjectKey};
use consensus::meta::overlay::{OverlayChange, OverlayRefusal};
use consensus::meta::query::{Answer, List, ObjectView, PageEntry, Query, Want};
use consensus::meta::replication::{Acknowledged, Follow, FollowKind, Replication, ReplicationRule, Source};
use consensus::meta::sealing::Scheme;
use fabric::ids::{BucketId, Stamp};
use fabric::limits::{
    INLINE_BYTES_MAX, LIST_KEYS_MAX, PUT_BYTES_MAX, REPLICA_PARTS_MAX, REPLICATE_CHANGES_MAX,
};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use super::copies::{
    ChangeThere, ChangesThere, ObjectThere, ObjectsThere, PartThere, Supersede, SupersededThere,
    VERSIONS_ASKED_MAX, VersionAsked, VersionThere, VersionsAsked, VersionsThere, WhatThere,
};
use super::{Overlay, OverlayError, bad};
use crate::data::BodyStream;
use crate::s3::encryption::opened;
use crate::s3::replication::deciding;
use crate::s3::service::Backend;

/// Between two looks for events.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Nobody waits longer for events.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// How far a copy is gets kept at most this often.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(2);
/// Versions that are looked up at once.
const VERSIONS_AT_ONCE: usize = 16;
/// How the source of an event begins that was copied from another cluster itself.
const COPIED: &str = "overlay/";

/// Tells clusters of buckets here.
pub struct Feed {
    /// Who may know what.
    pub overlay: Arc<Overlay>,
    /// What is there.
    pub backend: Backend,
    /// How far copies are.
    pub heard: Acknowledgements,
}

/// When it was last looked at how far each copy is. There are as many as rules name.
#[derive(Default)]
pub struct Acknowledgements(Mutex<BTreeMap<(BucketId, Source), Duration>>);

impl Acknowledgements {
    /// Whether how far a copy is may be kept now; who asks keeps it.
    fn is_due(&self, bucket: BucketId, to: &Source, now: Duration) -> bool {
        // Each change is a single call, so poison means nothing here.
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| now.saturating_sub(*at) < ACKNOWLEDGE_INTERVAL);
        let is_due = !heard.contains_key(&(bucket, to.clone()));
        if is_due {
            heard.insert((bucket, to.clone()), now);
        }
        is_due
    }
}

/// Of what a cluster is told.
pub struct Shared {
    bucket: Bucket,
    /// Only what these rules say is for this bucket of that cluster; `None`: everything.
    rules: Option<(Replication, ClusterName, BucketName)>,
    /// Whether versions in it can be locked.
    has_locks: bool,
}

/// From where on a cluster wants to know what happened.
pub struct Since {
    /// Behind this event.
    pub cursor: Stamp,
    /// It waits so long for the next one.
    pub wait: Duration,
    /// At most so many events are told.
    pub limit: usize,
    /// Its copy has what happened up to this event, where it says so.
    pub done: Option<Stamp>,
}

impl Shared {
    /// Whether an object is copied with these tags, and into which storage class.
    fn class_of(&self, key: &ObjectKey, tags: &Tags) -> Option<Option<String>> {
        match &self.rules {
            None => Some(None),
            Some((rules, cluster, to)) => {
                deciding(rules, (cluster, to), key.as_str(), tags).map(|rule| rule.storage_class.clone())
            }
        }
    }

    fn copies_marker(&self, key: &ObjectKey) -> bool {
        match &self.rules {
            None => true,
            // Rules of the oldest form say nothing of markers and copy them.
            Some((rules, cluster, to)) => deciding(rules, (cluster, to), key.as_str(), &Tags::new())
                .is_some_and(|rule| rule.markers.unwrap_or(true)),
        }
    }

    /// Whether a key may be copied, whatever its tags.
    fn covers(&self, key: &ObjectKey) -> bool {
        match &self.rules {
            None => true,
            Some((rules, cluster, to)) => rules.rules.iter().any(|rule| {
                rule.enabled
                    && (&rule.cluster, &rule.bucket) == (cluster, to)
                    && key.as_str().starts_with(&rule.prefix)
            }),
        }
    }
}

impl Feed {
    /// What a cluster may be told of a bucket: of copies in its bucket `to`, or of everything.
    pub async fn shared(
        &self,
        peer: &ClusterName,
        name: &BucketName,
        to: Option<BucketName>,
    ) -> Result<Shared, OverlayError> {
        let Answer::Bucket(bucket) = self.ask(Query::Bucket(name.clone())).await? else {
            return unexpected();
        };
        let Some(bucket) = bucket else { return bad(format!("there is no bucket {name}")) };
        let denied = |why: String| Err(OverlayError::Denied(why));
        let rules = match to {
            Some(to) => {
                let query = Query::Setting { bucket: bucket.id, kind: SettingKind::Replication };
                let Answer::Setting(Some(BucketSetting::Replication(rules))) = self.ask(query).await? else {
                    return denied(format!("the bucket {name} is not copied to {to} of {peer}"));
                };
                let meant = |rule: &ReplicationRule| (&rule.cluster, &rule.bucket) == (peer, &to);
                if !rules.rules.iter().any(meant) {
                    return denied(format!("the bucket {name} is not copied to {to} of {peer}"));
                }
                Some((rules, peer.clone(), to))
            }
            None if self.overlay.permits(&bucket.owner, Some(peer), Some(name)) => None,
            None => {
                return denied(format!(
                    "the cluster {peer} may not act for the owner of the bucket {name}; overlay grant lets it"
                ));
            }
        };
        if bucket.versioning != Versioning::Enabled {
            return denied(format!("versioning of the bucket {name} is not enabled"));
        }
        // Who follows a follower could follow itself.
        let Answer::Follows(follows) = self.ask(Query::Follows).await? else { return unexpected() };
        let is_mirror = |(other, _, follow): &(Bucket, Source, Follow)| {
            other.id == bucket.id && follow.kind == FollowKind::Mirror
        };
        if follows.follows.iter().any(is_mirror) {
            return denied(format!("the bucket {name} follows another one itself"));
        }
        let query = Query::Setting { bucket: bucket.id, kind: SettingKind::ObjectLock };
        let Answer::Setting(lock) = self.ask(query).await? else { return unexpected() };
        Ok(Shared { bucket, rules, has_locks: lock.is_some() })
    }

    /// A copy in another cluster takes the place of a bucket here, as far as that cluster could have had it: from here on
    /// nobody writes to it.
    pub async fn supersede(
        &self,
        peer: &ClusterName,
        name: &BucketName,
        wanted: Supersede,
    ) -> Result<SupersededThere, OverlayError> {
        let Answer::Bucket(bucket) = self.ask(Query::Bucket(name.clone())).await? else {
            return unexpected();
        };
        let Some(bucket) = bucket.filter(|bucket| bucket.id.0 == wanted.id) else {
            return Ok(SupersededThere { superseded: false });
        };
        if !self.overlay.permits(&bucket.owner, Some(peer), Some(name)) {
            return Err(OverlayError::Denied(format!(
                "the cluster {peer} may not act for the owner of the bucket {name}; overlay grant lets it"
            )));
        }
        let by = Source { cluster: peer.clone(), bucket: wanted.by };
        let change = OverlayChange::Supersede { bucket: bucket.id, by: by.clone(), at: wanted.at };
        match self.overlay.propose(change).await {
            Ok(()) => {
                let (cluster, by) = (&by.cluster, &by.bucket);
                tracing::info!(bucket = %name, %cluster, %by, "a copy takes the place of a bucket, which is read-only");
                Ok(SupersededThere { superseded: true })
            }
            Err(OverlayError::Refused(OverlayRefusal::IsCopy)) => Ok(SupersededThere { superseded: false }),
            Err(error) => Err(error),
        }
    }

    /// What happened, and of what there is to copy.
    pub async fn changes(&self, shared: &Shared, since: &Since) -> Result<ChangesThere, OverlayError> {
        let env = &*self.backend.env;
        let until = env.monotonic() + since.wait.min(WAIT_MAX);
        let (bucket, after) = (&shared.bucket, since.cursor);
        self.acknowledge(shared, since).await;
        let changes = loop {
            let query = Query::Changes { bucket: bucket.id, after, limit: LIST_KEYS_MAX };
            let Answer::Changes(changes) = self.ask(query).await? else { return unexpected() };
            let waits = changes.events.is_empty() && changes.trimmed <= after && since.limit != 0;
            if !waits || until <= env.monotonic() {
                break changes;
            }
            sleep(LOOK_INTERVAL).await;
        };
        let missing = after < changes.trimmed;
        let count = if missing { 0 } else { since.limit.min(REPLICATE_CHANGES_MAX) };
        let page = &changes.events[..count.min(changes.events.len())];
        let pending: Vec<_> =
            page.iter().map(|(at, event)| self.change(shared, *at, event).boxed()).collect();
        let told: Vec<_> = futures::stream::iter(pending).buffered(VERSIONS_AT_ONCE).collect().await;
        let events = told.into_iter().filter_map(Result::transpose).collect::<Result<_, OverlayError>>()?;
        let (upto, reached_ms) = page.last().map_or((after, 0), |(at, event)| (*at, event.at.0));
        Ok(ChangesThere {
            id: bucket.id.0,
            now_ms: env.wall_ms(),
            events,
            upto,
            reached_ms,
            missing,
            latest: changes.latest,
            waiting: (changes.events.len() - page.len()) as u64,
        })
    }

    /// Keeps how far a copy is that the rules of the bucket want. What fails is kept when it says so the next time.
    async fn acknowledge(&self, shared: &Shared, since: &Since) {
        let (Some((_, cluster, to)), Some(upto)) = (&shared.rules, since.done) else { return };
        let (bucket, to) = (shared.bucket.id, Source { cluster: cluster.clone(), bucket: to.clone() });
        if !self.heard.is_due(bucket, &to, self.backend.env.monotonic()) {
            return;
        }
        let kept = async {
            let rows = acknowledged(&*self.backend.meta, bucket).await?;
            if rows.iter().any(|(other, row)| *other == to && row.upto == upto) {
                return Ok(());
            }
            self.overlay.propose(OverlayChange::Acknowledge { bucket, to, upto }).await
        };
        if let Err(error) = kept.await {
            tracing::debug!(bucket = %shared.bucket.name, %error, "how far a copy is will be kept later");
        }
    }

    /// What there is to tell of an event.
    async fn change(
        &self,
        shared: &Shared,
        at: Stamp,
        event: &Event,
    ) -> Result<Option<ChangeThere>, OverlayError> {
        // What others copied here is theirs to copy elsewhere; so nothing goes in circles.
        if shared.rules.is_some() && event.origin.source.starts_with(COPIED) {
            return Ok(None);
        }
        let version = if event.version == Stamp::ZERO { at } else { event.version };
        let what = match event.kind {
            EventKind::Put
            | EventKind::Copy
            | EventKind::Complete
            | EventKind::Post
            | EventKind::Append
            | EventKind::Rename => {
                let want = if event.bytes <= INLINE_BYTES_MAX as u64 { Want::Body } else { Want::Row };
                self.version(shared, &event.key, version, want).await?
            }
            EventKind::DeleteMarker if shared.copies_marker(&event.key) => {
                Some(WhatThere::Marker { modified_ms: event.at.0, version: Some(version) })
            }
            // Rules of lifecycles are no one else's.
            EventKind::ExpireMarker if shared.rules.is_none() => {
                Some(WhatThere::Marker { modified_ms: event.at.0, version: Some(version) })
            }
            EventKind::Tags | EventKind::DeleteTags => self.facts(shared, event).await?,
            EventKind::Retention | EventKind::LegalHold if shared.has_locks => {
                self.facts(shared, event).await?
            }
            EventKind::Retention | EventKind::LegalHold => None,
            EventKind::DeleteMarker
            | EventKind::ExpireMarker
            | EventKind::Delete
            | EventKind::Expire
            | EventKind::AnnotationPut
            | EventKind::AnnotationDelete
            | EventKind::Transition
            // Who may do what with a copy is said in its own cluster, which has other users.
            | EventKind::Acl => None,
        };
        let change = |what| ChangeThere { at, at_ms: event.at.0, key: event.key.clone(), what };
        Ok(what.map(change))
    }

    /// What may change of a version that stays what it is.
    async fn facts(&self, shared: &Shared, event: &Event) -> Result<Option<WhatThere>, OverlayError> {
        let selector = match event.version {
            Stamp::ZERO => VersionSelector::Null,
            stamp => VersionSelector::Stamp(stamp),
        };
        let Some((view, _guard)) = self.find(shared, &event.key, selector, Want::Row).await? else {
            return Ok(None);
        };
        let tags = view.object.attributes.tags;
        let (etag, modified_ms) = (view.object.etag, view.object.modified.0);
        if shared.class_of(&event.key, &tags).is_none() {
            return Ok(None);
        }
        let lock = match event.kind {
            EventKind::Retention | EventKind::LegalHold => {
                Some(self.lock(shared, &event.key, view.object.stamp).await?)
            }
            _ => None,
        };
        Ok(Some(WhatThere::Tags { etag, modified_ms, tags, lock }))
    }

    /// A version by its stamp, with its bytes where they were asked for; `None`: it is gone, or not to be copied.
    async fn version(
        &self,
        shared: &Shared,
        key: &ObjectKey,
        stamp: Stamp,
        want: Want,
    ) -> Result<Option<WhatThere>, OverlayError> {
        let Some((view, guard)) = self.at(shared, key, stamp, want).await? else { return Ok(None) };
        let Some(class) = shared.class_of(key, &view.object.attributes.tags) else { return Ok(None) };
        if let Some(why) = unreadable(&view.object) {
            return Ok(Some(WhatThere::Left(why.to_string())));
        }
        let object = view.object.clone();
        let body = match want {
            Want::Row => None,
            Want::Body => Some(STANDARD.encode(self.read_all(view, guard).await?)),
        };
        let lock = self.lock(shared, key, object.stamp).await?;
        let mut attributes = object.attributes;
        attributes.unmark_replica();
        attributes.storage_class = class.or(attributes.storage_class);
        Ok(Some(WhatThere::Version(VersionThere {
            version: object.stamp,
            bytes: object.bytes,
            etag: object.etag,
            modified_ms: object.modified.0,
            checksum: object.checksum,
            attributes,
            lock,
            body,
            parts: Vec::new(),
        })))
    }

    /// What keeps a version from being removed.
    async fn lock(&self, shared: &Shared, key: &ObjectKey, version: Stamp) -> Result<Lock, OverlayError> {
        if !shared.has_locks {
            return Ok(Lock::default());
        }
        let query = Query::Lock { bucket: shared.bucket.id, key: key.clone(), version };
        let Answer::Lock(lock) = self.ask(query).await? else { return unexpected() };
        Ok(lock)
    }

    async fn at(
        &self,
        shared: &Shared,
        key: &ObjectKey,
        stamp: Stamp,
        want: Want,
    ) -> Result<Option<(ObjectView, ReadGuard)>, OverlayError> {
        for selector in [VersionSelector::Stamp(stamp), VersionSelector::Null] {
            let found = self.find(shared, key, selector, want).await?;
            if let Some(found) = found.filter(|(view, _)| view.object.stamp == stamp) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn find(
        &self,
        shared: &Shared,
        key: &ObjectKey,
        selector: VersionSelector,
        want: Want,
    ) -> Result<Option<(ObjectView, ReadGuard)>, OverlayError> {
        let bucket = shared.bucket.id;
        let guard = self.backend.meta.begin_read();
        let query = Query::Object { bucket, key: key.clone(), version: Some(selector), want };
        match self.backend.meta.query(query).await?.answer {
            Ok(Answer::Object(view)) => {
                guard.reads(Home { bucket, key: key.clone() }, &view);
                Ok(Some((view, guard)))
            }
            Ok(_) => unexpected(),
            Err(Reject::NoSuchKey | Reject::NoSuchVersion | Reject::DeleteMarker { .. }) => Ok(None),
            Err(reject) => Err(OverlayError::Meta(MetaError::Rejected(reject))),
        }
    }

    async fn read_all(&self, view: ObjectView, guard: ReadGuard) -> Result<Vec<u8>, OverlayError> {
        let range = 0..view.object.bytes;
        let mut stream = self.stream(view, range, guard)?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| OverlayError::Busy(error.to_string()))?;
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn stream(
        &self,
        view: ObjectView,
        range: Range<u64>,
        guard: ReadGuard,
    ) -> Result<BodyStream, OverlayError> {
        let key = opened(&self.backend.ring, &view.object, None);
        let key = key.map_err(|error| OverlayError::Busy(error.to_string()))?;
        Ok(match key {
            Some(key) => self.backend.data.open(view.body, &key, range, guard),
            None => self.backend.data.read_stored(view.body, range, guard),
        })
    }

    /// The bytes of a version; `None`: it is gone, or not to be copied.
    pub async fn body(
        &self,
        shared: &Shared,
        key: &ObjectKey,
        stamp: Stamp,
    ) -> Result<Option<(u64, BodyStream)>, OverlayError> {
        let Some((view, guard)) = self.at(shared, key, stamp, Want::Body).await? else { return Ok(None) };
        let copied = shared.class_of(key, &view.object.attributes.tags).is_some();
        if !copied || unreadable(&view.object).is_some() {
            return Ok(None);
        }
        let bytes = view.object.bytes;
        let mut stream = self.stream(view, 0..bytes, guard)?;
        stream.start().await.map_err(|error| OverlayError::Busy(error.to_string()))?;
        Ok(Some((bytes, stream)))
    }

    /// A page of current versions.
    pub async fn objects(&self, shared: &Shared, after: &str) -> Result<ObjectsThere, OverlayError> {
        let list = List {
            bucket: shared.bucket.id,
            prefix: String::new(),
            delimiter: String::new(),
            after: after.to_string(),
            limit: LIST_KEYS_MAX,
        };
        let Answer::List(page) = self.ask(Query::List(list)).await? else { return unexpected() };
        let objects: Vec<(ObjectKey, Object)> = page
            .entries
            .into_iter()
            .filter_map(|entry| match entry {
                PageEntry::Item(key, object) => Some((key, object)),
                PageEntry::Prefix(_) => None,
            })
            .collect();
        let upto = objects.last().map(|(key, _)| key.clone()).filter(|_| page.more);
        let told = objects.into_iter().filter(|(key, _)| shared.covers(key)).map(|(key, object)| {
            ObjectThere { key, version: object.stamp, etag: object.etag, modified_ms: object.modified.0 }
        });
        Ok(ObjectsThere { now_ms: self.backend.env.wall_ms(), objects: told.collect(), upto })
    }

    /// Versions that a comparison found.
    pub async fn versions(
        &self,
        shared: &Shared,
        asked: &VersionsAsked,
    ) -> Result<VersionsThere, OverlayError> {
        if VERSIONS_ASKED_MAX < asked.versions.len() {
            return bad(format!("at most {VERSIONS_ASKED_MAX} versions are asked for at once"));
        }
        let pending: Vec<_> = asked.versions.iter().map(|one| self.asked(shared, one).boxed()).collect();
        let told: Vec<_> = futures::stream::iter(pending).buffered(VERSIONS_AT_ONCE).collect().await;
        Ok(VersionsThere { versions: told.into_iter().collect::<Result<_, OverlayError>>()? })
    }

    async fn asked(&self, shared: &Shared, one: &VersionAsked) -> Result<Option<WhatThere>, OverlayError> {
        if one.version == Stamp::ZERO {
            return self.marker(shared, &one.key).await;
        }
        let told = match self.version(shared, &one.key, one.version, Want::Row).await? {
            Some(WhatThere::Version(row)) if row.bytes <= INLINE_BYTES_MAX as u64 => {
                self.version(shared, &one.key, one.version, Want::Body).await?
            }
            row => row,
        };
        match told {
            Some(WhatThere::Version(version)) if one.parts => {
                let parts = self.parts(shared, &one.key, one.version).await?;
                Ok(Some(WhatThere::Version(VersionThere { parts, ..version })))
            }
            told => Ok(told),
        }
    }

    /// The parts in which a version was stored; none where there are too many to be kept.
    async fn parts(
        &self,
        shared: &Shared,
        key: &ObjectKey,
        version: Stamp,
    ) -> Result<Vec<PartThere>, OverlayError> {
        let found = self.at(shared, key, version, Want::Body).await?;
        let slices = found.map(|(view, _)| view.parts).filter(|slices| slices.len() <= REPLICA_PARTS_MAX);
        let told = slices.unwrap_or_default().into_iter().map(|slice| PartThere {
            number: slice.part,
            bytes: slice.bytes,
            etag: Etag::Md5(slice.md5),
            checksum: slice.checksum,
        });
        Ok(told.collect())
    }

    /// The delete marker that hides a key; `None`: there is none, or it is not to be copied.
    async fn marker(&self, shared: &Shared, key: &ObjectKey) -> Result<Option<WhatThere>, OverlayError> {
        let query =
            Query::Object { bucket: shared.bucket.id, key: key.clone(), version: None, want: Want::Row };
        match self.backend.meta.query(query).await?.answer {
            Err(Reject::DeleteMarker { version, modified, .. }) if shared.copies_marker(key) => {
                Ok(Some(WhatThere::Marker { modified_ms: modified.0, version: version.parse().ok() }))
            }
            _ => Ok(None),
        }
    }

    async fn ask(&self, query: Query) -> Result<Answer, OverlayError> {
        Ok(ask(&*self.overlay.parts.meta, query).await?)
    }
}

/// How far the copies of a bucket are that its rules want.
pub async fn acknowledged(
    meta: &dyn Meta,
    bucket: BucketId,
) -> Result<Vec<(Source, Acknowledged)>, MetaError> {
    match ask(meta, Query::Acknowledged(bucket)).await? {
        Answer::Acknowledged(rows) => Ok(rows),
        _ => Err(MetaError::Unavailable("the metadata answered another question".to_string())),
    }
}

/// Whether a version is left out of every copy.
pub fn is_left(object: &Object) -> bool {
    PUT_BYTES_MAX < object.bytes || unreadable(object).is_some()
}

/// Why the bytes of a version cannot be told, if they cannot.
fn unreadable(object: &Object) -> Option<&'static str> {
    match object.body.sealing().map(|sealing| &sealing.scheme) {
        Some(Scheme::Customer { .. }) => Some("only its customer has the key that opens it"),
        _ => None,
    }
}

fn unexpected<T>() -> Result<T, OverlayError> {
    bad("the metadata answered another question")
}
