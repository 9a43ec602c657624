//! Objects: put, copy, delete.

use fabric::ids::Stamp;
use fabric::limits::{DELETE_KEYS_PER_COMMAND, PUT_BYTES_MAX};

use super::transaction::Transaction;
use super::version::{self, check_expect};
use super::{Outcome, Stop, acl, annotation, body, lifecycle, lock, malformed, quota, recoding};
use crate::meta::acl::WantedAcl;
use crate::meta::command::{
    CopiedAnnotations, CopyObject, DeleteKey, DeleteObjects, DeletedKey, Done, Guard, PutObject,
    ReadConditions, Reject, SetTags, VersionSelector,
};
use crate::meta::lookup::{Found, find};
use crate::meta::model::{
    Bucket, Event, EventKind, Home, Lock, Object, Origin, Stored, Usage, Version, Versioning,
};
use crate::meta::sealing::{Sealing, sealed};
use crate::meta::store::Fault;
use crate::meta::tables::{Buckets, Objects};

/// What stands around a command about bytes.
pub(super) struct Around<'a> {
    /// See [`Guard`].
    pub guard: &'a Guard,
    /// See [`crate::meta::command::Sealed::sealing`].
    pub sealing: Option<&'a Sealing>,
    /// See [`crate::meta::command::Sealed::copied`].
    pub copied: bool,
    /// See [`crate::meta::command::Annotated`].
    pub annotations: Option<&'a CopiedAnnotations>,
    /// See [`crate::meta::command::WithAcl::acl`].
    pub acl: Option<&'a WantedAcl>,
}

/// Bytes of a new body as its client knows them.
pub(super) fn plain_bytes(sealing: Option<&Sealing>, stored: u64) -> Result<u64, Stop> {
    match sealing.map_or(Some(stored), |sealing| sealing.plain_bytes(stored)) {
        Some(bytes) if bytes <= PUT_BYTES_MAX => Ok(bytes),
        _ => malformed("no body has this length"),
    }
}

/// Refuses a sealing that rows are not made for.
pub(super) fn check_sealing(sealing: Option<&Sealing>) -> Result<(), Stop> {
    match sealing {
        Some(sealing) if !sealing.is_bounded() => malformed("the sealing is too long"),
        _ => Ok(()),
    }
}

/// Stores an object.
pub(super) fn put(
    tx: &mut Transaction<'_>,
    command: &PutObject,
    around: &Around<'_>,
    kind: EventKind,
) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    check_expect(tx, &command.expect, tx.get::<Objects>(&home)?.as_ref())?;
    lock::check_wanted(tx, &home, around.guard)?;
    check_sealing(around.sealing)?;
    let acl = acl::of_write(tx, &bucket, &command.origin.requester, around.acl)?;
    let copies = body::check_new(tx, &home, &command.body)?;
    let bytes = plain_bytes(around.sealing, command.body.bytes())?;
    let beside = around.annotations.map_or(Ok(0), |copied| annotation::check_copied(tx, copied))?;
    quota::check_version(tx, &bucket, &home, bytes + beside, Usage::default())?;

    let stamp = tx.stamp(&bucket, 0);
    if let Some(CopiedAnnotations { from, version, sealing, .. }) = around.annotations {
        annotation::share(tx, (from, *version), (&home, stamp), Some(sealing))?;
    }
    let body = body::store(tx, &home, stamp, &command.body, &copies)?;
    let object = Object {
        stamp,
        null_version: bucket.versioning != Versioning::Enabled,
        modified: tx.now,
        bytes,
        etag: command.etag,
        body: sealed(around.sealing.cloned(), body),
        checksum: command.checksum.clone(),
        attributes: command.attributes.clone(),
    };
    let kind = if around.copied { EventKind::Copy } else { kind };
    acl::keep(tx, &home, stamp, acl.as_ref());
    Ok(install(tx, &bucket, &home, &object, kind, &command.origin, &around.guard.lock)?)
}

/// Whether a copy has the annotations of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Annotated {
    Copied,
    Bare,
}

/// Copies an object by sharing its body.
pub(super) fn copy(
    tx: &mut Transaction<'_>,
    command: &CopyObject,
    around: &Around<'_>,
    annotated: Annotated,
) -> Outcome {
    if tx.get::<Buckets>(command.source_bucket)?.is_none() {
        return Err(Reject::NoSuchBucket.into());
    }
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let from = Home { bucket: command.source_bucket, key: command.source_key.clone() };
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    let source = source(tx, &from, command)?;
    let current = tx.get::<Objects>(&home)?;
    check_expect(tx, &command.expect, current.as_ref())?;
    let itself = from == home && current.is_some_and(|current| current.stamp == source.stamp);
    if itself && command.attributes.is_none() {
        return Err(Reject::CopyOntoItself.into());
    }
    lock::check_wanted(tx, &home, around.guard)?;
    let acl = acl::of_write(tx, &bucket, &command.origin.requester, around.acl)?;
    let beside = match annotated {
        Annotated::Copied => annotation::bytes(tx, &from, source.stamp)?,
        Annotated::Bare => 0,
    };
    quota::check_version(tx, &bucket, &home, source.bytes + beside, Usage::default())?;

    // Shared before the destination's old version is released: a copy onto itself keeps the body.
    let stamp = tx.stamp(&bucket, 0);
    let object = Object {
        stamp,
        null_version: bucket.versioning != Versioning::Enabled,
        modified: tx.now,
        bytes: source.bytes,
        etag: source.etag,
        body: body::share(tx, &from, &source.body, &home, stamp)?,
        checksum: command.checksum.clone().or(source.checksum),
        attributes: command.attributes.clone().unwrap_or(source.attributes),
    };
    if annotated == Annotated::Copied {
        annotation::share(tx, (&from, source.stamp), (&home, stamp), None)?;
    }
    acl::keep(tx, &home, stamp, acl.as_ref());
    Ok(install(tx, &bucket, &home, &object, EventKind::Copy, &command.origin, &around.guard.lock)?)
}

/// The version a copy is made of, if its conditions hold.
fn source(tx: &Transaction<'_>, from: &Home, command: &CopyObject) -> Result<Object, Stop> {
    let source = existing(tx, from, command.source_version)?;
    if command.source_seen.is_some_and(|seen| seen != source.stamp) {
        return Err(Reject::SourceChanged.into());
    }
    if !tx.planted.skip_condition && !meets(&command.source_conditions, &source) {
        return Err(Reject::SourcePreconditionFailed.into());
    }
    Ok(source)
}

/// The version that is meant; none is the current one.
pub(super) fn existing(
    tx: &Transaction<'_>,
    home: &Home,
    version: Option<VersionSelector>,
) -> Result<Object, Stop> {
    let Some(selector) = version else {
        return Ok(tx.get::<Objects>(home)?.ok_or(Reject::NoSuchKey)?);
    };
    match find(tx.rows(), home, selector)?.ok_or(Reject::NoSuchVersion)? {
        Found::Current(object) | Found::Other(Version::Object(object)) => Ok(object),
        Found::Other(Version::DeleteMarker { .. }) => Err(Reject::IsDeleteMarker.into()),
    }
}

/// Conditions on tags take precedence over those on times, as in RFC 9110.
pub(super) fn meets(conditions: &ReadConditions, object: &Object) -> bool {
    let modified = object.modified.0 / 1000;
    let matches = match &conditions.if_match {
        Some(condition) => condition.meets(&object.etag),
        None => conditions.if_unmodified_since.is_none_or(|since| modified <= since),
    };
    let differs = match &conditions.if_none_match {
        Some(condition) => !condition.meets(&object.etag),
        None => conditions.if_modified_since.is_none_or(|since| since < modified),
    };
    matches && differs
}

/// Makes a version current, locks it, tells the change feed, and says what the write became.
pub(super) fn install(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    object: &Object,
    kind: EventKind,
    origin: &Origin,
    wanted: &Lock,
) -> Result<Done, Fault> {
    if object.attributes.is_replica() {
        // What is made here of a copy is none.
        let mut own = object.clone();
        own.attributes.unmark_replica();
        return install_at(tx, bucket, home, &own, (kind, own.stamp), origin, wanted);
    }
    install_at(tx, bucket, home, object, (kind, object.stamp), origin, wanted)
}

/// The same for a version whose stamp is of another cluster: its event has one of this one.
pub(super) fn install_at(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    object: &Object,
    (kind, at): (EventKind, Stamp),
    origin: &Origin,
    wanted: &Lock,
) -> Result<Done, Fault> {
    let watch = lifecycle::watch(tx, bucket, home, None)?;
    version::install(tx, bucket, home, object)?;
    lifecycle::settle(tx, bucket, home, watch)?;
    recoding::note(tx, home, object)?;
    lock::lock_new(tx, home, object.stamp, wanted)?;
    let event = Event {
        kind,
        key: home.key.clone(),
        version: told_version(object),
        bytes: object.bytes,
        etag: Some(object.etag),
        at: tx.now,
        origin: origin.clone(),
    };
    tx.add_event(bucket.id, at, &event);
    Ok(Done::Stored(stored(bucket, object)))
}

/// How the change feed names a version.
pub(super) fn told_version(object: &Object) -> Stamp {
    if object.null_version { Stamp::ZERO } else { object.stamp }
}

/// What a client hears of a version.
pub(super) fn stored(bucket: &Bucket, object: &Object) -> Stored {
    Stored {
        stamp: object.stamp,
        version_visible: bucket.versioning == Versioning::Enabled && !object.null_version,
        etag: object.etag,
        modified: object.modified,
        bytes: object.bytes,
        checksum: object.checksum.clone(),
    }
}

/// Sets the tags of a version, which stays what it is.
pub(super) fn set_tags(tx: &mut Transaction<'_>, command: &SetTags) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    let mut object = existing(tx, &home, command.version)?;
    let watch = lifecycle::watch(tx, &bucket, &home, Some(object.stamp))?;
    object.attributes.tags.clone_from(&command.tags);
    version::rewrite(tx, &home, &object)?;
    lifecycle::settle(tx, &bucket, &home, watch)?;
    let kind = if command.tags.is_empty() { EventKind::DeleteTags } else { EventKind::Tags };
    tell(tx, &bucket, &home, &object, kind, &command.origin, 0);
    Ok(Done::Stored(stored(&bucket, &object)))
}

/// Tells the change feed of a version that stays what it is.
pub(super) fn tell(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    object: &Object,
    kind: EventKind,
    origin: &Origin,
    ordinal: u16,
) {
    let event = Event {
        kind,
        key: home.key.clone(),
        version: told_version(object),
        bytes: object.bytes,
        etag: Some(object.etag),
        at: tx.now,
        origin: origin.clone(),
    };
    tx.add_event(bucket.id, tx.stamp(bucket, ordinal), &event);
}

/// Moves a version to another class; but for that it stays what it is. Its bytes follow.
pub(super) fn set_class(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    object: &Object,
    class: &str,
    ordinal: u16,
) -> Result<(), Fault> {
    let mut object = object.clone();
    let watch = lifecycle::watch(tx, bucket, home, Some(object.stamp))?;
    object.attributes.storage_class = Some(class.to_string());
    version::rewrite(tx, home, &object)?;
    lifecycle::settle(tx, bucket, home, watch)?;
    recoding::note(tx, home, &object)?;
    tell(tx, bucket, home, &object, EventKind::Transition, &Origin::default(), ordinal);
    Ok(())
}

/// Deletes keys one after the other; each has its own outcome.
pub(super) fn delete(tx: &mut Transaction<'_>, command: &DeleteObjects, bypass: bool) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    if DELETE_KEYS_PER_COMMAND < command.keys.len() {
        return malformed("too many keys");
    }
    let mut outcomes = Vec::with_capacity(command.keys.len());
    for (ordinal, key) in (0..).zip(&command.keys) {
        outcomes.push(
            match delete_key(tx, &bucket, key, ordinal, By::Client { origin: &command.origin, bypass }) {
                Ok(deleted) => Ok(deleted),
                Err(Stop::Reject(reject)) => Err(reject),
                Err(Stop::Fault(fault)) => return Err(fault.into()),
            },
        );
    }
    Ok(Done::Deleted(outcomes))
}

/// Who deletes.
#[derive(Clone, Copy)]
pub(super) enum By<'a> {
    /// A client, which governance may not bind.
    Client { origin: &'a Origin, bypass: bool },
    /// The rules of the bucket.
    Lifecycle,
}

/// Deletes a key or a version of it, with what the change feed hears of it.
pub(super) fn delete_key(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    key: &DeleteKey,
    ordinal: u16,
    by: By<'_>,
) -> Result<DeletedKey, Stop> {
    let home = Home { bucket: bucket.id, key: key.key.clone() };
    let named = match key.version {
        Some(VersionSelector::Stamp(stamp)) => Some(stamp),
        Some(VersionSelector::Null) | None => None,
    };
    let (origin, bypass) = match by {
        By::Client { origin, bypass } => (origin.clone(), bypass),
        By::Lifecycle => (Origin::default(), false),
    };
    let watch = lifecycle::watch(tx, bucket, &home, named)?;
    let (deleted, event) = match key.version {
        None => delete_current(tx, bucket, &home, key, ordinal)?,
        Some(selector) => delete_version(tx, &home, key, selector, bypass)?,
    };
    lifecycle::settle(tx, bucket, &home, watch)?;
    if let Some((kind, version)) = event {
        let kind = match (by, kind) {
            (By::Lifecycle, EventKind::DeleteMarker) => EventKind::ExpireMarker,
            (By::Lifecycle, _) => EventKind::Expire,
            (By::Client { .. }, kind) => kind,
        };
        let event = Event { kind, key: home.key, version, bytes: 0, etag: None, at: tx.now, origin };
        tx.add_event(bucket.id, tx.stamp(bucket, ordinal), &event);
    }
    Ok(deleted)
}

/// What there is to tell of a deletion: the outcome, and the event if anything changed.
type Deleted = (DeletedKey, Option<(EventKind, Stamp)>);

fn delete_current(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    key: &DeleteKey,
    ordinal: u16,
) -> Result<Deleted, Stop> {
    let current = tx.get::<Objects>(home)?;
    check_expect(tx, &key.expect, current.as_ref())?;
    if bucket.versioning == Versioning::Off {
        let Some(current) = current else {
            return Ok((DeletedKey::default(), None));
        };
        if !tx.planted.skip_removal {
            version::remove_only(tx, home, &current)?;
        }
        return Ok((DeletedKey::default(), Some((EventKind::Delete, Stamp::ZERO))));
    }
    let stamp = tx.stamp(bucket, ordinal);
    version::mark_deleted(tx, bucket, home, stamp, tx.now)?;
    let null_version = bucket.versioning == Versioning::Suspended;
    let marker = version_text(stamp, null_version);
    let told = if null_version { Stamp::ZERO } else { stamp };
    Ok((DeletedKey { version: None, marker: Some(marker) }, Some((EventKind::DeleteMarker, told))))
}

fn delete_version(
    tx: &mut Transaction<'_>,
    home: &Home,
    key: &DeleteKey,
    selector: VersionSelector,
    bypass: bool,
) -> Result<Deleted, Stop> {
    let text = match selector {
        VersionSelector::Null => "null".to_string(),
        VersionSelector::Stamp(stamp) => stamp.to_string(),
    };
    let found = find(tx.rows(), home, selector)?;
    let (object, version) = match &found {
        None => (None, None),
        Some(Found::Current(object) | Found::Other(Version::Object(object))) => {
            (Some(object), Some((object.stamp, object.null_version)))
        }
        Some(Found::Other(Version::DeleteMarker { stamp, null_version, .. })) => {
            (None, Some((*stamp, *null_version)))
        }
    };
    check_expect(tx, &key.expect, object)?;
    let marker = (version.is_some() && object.is_none()).then(|| text.clone());
    if let Some((stamp, _)) = version {
        lock::check_removal(tx, home, stamp, bypass)?;
    }
    if let Some(found) = &found {
        version::remove(tx, home, found)?;
    }
    let told = version.map(|(stamp, null_version)| if null_version { Stamp::ZERO } else { stamp });
    Ok((DeletedKey { version: Some(text), marker }, told.map(|told| (EventKind::Delete, told))))
}

fn version_text(stamp: Stamp, null_version: bool) -> String {
    if null_version { "null".to_string() } else { stamp.to_string() }
}
