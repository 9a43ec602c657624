//! Copies of buckets of other clusters.
//!
//! A change and how far the copy came are written by one entry, which is refused where the copy is elsewhere. So every
//! change is copied once, whoever copies, however often.

use std::collections::BTreeSet;

use fabric::ids::{BucketId, ExtentId, Stamp};
use fabric::limits::{FOLLOWS_MAX, REPLICA_PARTS_MAX, REPLICA_VERSIONS_VISITED_MAX, REPLICATE_CHANGES_MAX};

use super::extent::Copies;
use super::object::{check_sealing, install_at, plain_bytes, told_version};
use super::overlay::refused;
use super::transaction::Transaction;
use super::version::mark_deleted;
use super::{Outcome, Stop, acl, body, extent, lifecycle, lock, malformed, quota};
use crate::meta::command::{Command, Done, Entry, Reject};
use crate::meta::lookup::newest_other;
use crate::meta::model::{
    Bucket, BucketSetting, ClusterMs, Etag, Event, EventKind, Extent, Home, Lock, Object, Origin,
    SettingKind, Slice, Tags, Usage, Version, Versioning,
};
use crate::meta::overlay::{OverlayRefusal, Standing};
use crate::meta::replication::{
    Acknowledged as AcknowledgedRow, Follow, FollowKind, ReplicaChange, ReplicaOf, ReplicaPart,
    ReplicaVersion, Replicate, ReplicateStep, Replication, Source,
};
use crate::meta::sealing::sealed;
use crate::meta::store::Fault;
use crate::meta::tables::{
    Acknowledged, BucketSettings, Buckets, Descending, Follower, Follows, Members, Objects, Promotions,
    Replicating, Superseded, Uploads, Versions,
};

/// A bucket follows another one from now on, or goes on.
pub(super) fn follow(
    tx: &mut Transaction<'_>,
    bucket: BucketId,
    source: &Source,
    kind: FollowKind,
    (source_id, cursor): (BucketId, Stamp),
) -> Outcome {
    let bucket = tx.get::<Buckets>(bucket)?.ok_or(Reject::NoSuchBucket)?;
    if tx.get::<Members>(&source.cluster)?.is_none_or(|member| member.standing != Standing::In) {
        return refused(OverlayRefusal::NotMember);
    }
    if bucket.versioning != Versioning::Enabled {
        return refused(OverlayRefusal::NotVersioned);
    }
    let others: Vec<_> = tx.scan_under::<Follows>(bucket.id)?.collect::<Result<_, _>>()?;
    for ((_, cluster, name), other) in &others {
        let same = (cluster, name) == (&source.cluster, &source.bucket);
        match (same, other.kind, kind) {
            (true, is, wanted) if is == wanted && other.source == source_id => return Ok(Done::Nothing),
            (false, FollowKind::Replica, FollowKind::Replica) => {}
            _ => return refused(OverlayRefusal::FollowsOther),
        }
    }
    if FOLLOWS_MAX <= tx.scan_under::<Follows>(())?.count() {
        return refused(OverlayRefusal::TooMany);
    }
    let is_empty = tx.scan_under::<Objects>(bucket.id)?.next().is_none()
        && tx.scan_under::<Versions>(bucket.id)?.next().is_none();
    let follow = Follow {
        kind,
        source: source_id,
        cursor,
        reached: ClusterMs(0),
        // What is there may be a part of what is to come.
        compare: kind == FollowKind::Mirror && !is_empty,
        compared: Stamp::ZERO,
        since: tx.now,
        objects: 0,
        bytes: 0,
    };
    tx.put::<Follows>((bucket.id, &source.cluster, &source.bucket), &follow);
    if kind == FollowKind::Mirror {
        // What took its place is what it follows now; and the one that it follows is not to be told of any promotion.
        tx.delete::<Superseded>(bucket.id);
        tx.delete::<Promotions>((bucket.id, &source.cluster, &source.bucket));
    }
    Ok(Done::Nothing)
}

/// A bucket follows another one no longer.
pub(super) fn unfollow(
    tx: &mut Transaction<'_>,
    bucket: BucketId,
    source: &Source,
    cursor: Option<Stamp>,
) -> Outcome {
    let key = (bucket, &source.cluster, &source.bucket);
    let Some(follow) = tx.get::<Follows>(key)? else { return refused(OverlayRefusal::NotFollowed) };
    if cursor.is_some_and(|cursor| follow.cursor != cursor || follow.compare) {
        return refused(OverlayRefusal::Moved);
    }
    tx.delete::<Follows>(key);
    Ok(Done::Nothing)
}

/// Whether a bucket is copied elsewhere, or is a copy: its versions are kept.
pub(super) fn is_copied(tx: &Transaction<'_>, bucket: BucketId) -> Result<bool, Fault> {
    Ok(tx.get::<Replicating>(bucket)?.is_some() || tx.scan_under::<Follows>(bucket)?.next().is_some())
}

/// A copy in another cluster says how far it is. It may be less than before: then it begins anew.
pub(super) fn acknowledge(tx: &mut Transaction<'_>, bucket: BucketId, to: &Source, upto: Stamp) -> Outcome {
    let setting = tx.get::<BucketSettings>((bucket, SettingKind::Replication as u16))?;
    let Some(BucketSetting::Replication(rules)) = setting else {
        return refused(OverlayRefusal::NotFollowed);
    };
    if !rules.names(to) {
        return refused(OverlayRefusal::NotFollowed);
    }
    let key = (bucket, &to.cluster, &to.bucket);
    let first = tx.get::<Acknowledged>(key)?.map_or(rules.since, |row| row.first).min(upto);
    tx.put::<Acknowledged>(key, &AcknowledgedRow { first, upto });
    Ok(Done::Nothing)
}

/// Forgets of copies that the rules of a bucket do not name how far they are.
pub(super) fn keep_acknowledged(
    tx: &mut Transaction<'_>,
    bucket: BucketId,
    rules: &Replication,
) -> Result<(), Fault> {
    let rows: Vec<_> = tx.scan_under::<Acknowledged>(bucket)?.collect::<Result<_, _>>()?;
    for ((_, cluster, name), _) in rows {
        let to = Source { cluster, bucket: name };
        if !rules.names(&to) {
            tx.delete::<Acknowledged>((bucket, &to.cluster, &to.bucket));
        }
    }
    Ok(())
}

/// Why a command of a client may not change objects of its bucket, where those are written in another cluster: at the
/// source of a copy, or in the copy that took the place of the bucket.
pub(super) fn check_written_here(tx: &Transaction<'_>, command: &Command) -> Result<Option<Reject>, Fault> {
    let bucket = match command {
        Command::PutObject(command) | Command::PostObject(command) => command.bucket,
        Command::CopyObject(command) | Command::CopyBare(command) => command.bucket,
        Command::DeleteObjects(command) => command.bucket,
        Command::CreateUpload(command) => command.bucket,
        Command::PutPart(command) => command.bucket,
        Command::CompleteUpload(command) => command.bucket,
        Command::SetTags(command) => command.bucket,
        Command::RenameObject(command) => command.bucket,
        Command::AppendObject(command) => command.bucket,
        Command::SetAnnotation(command) => command.bucket,
        _ => return Ok(None),
    };
    let first = tx.scan_under::<Follows>(bucket)?.next().transpose()?;
    if first.is_some_and(|(_, follow)| follow.kind == FollowKind::Mirror) {
        return Ok(Some(Reject::Overlay(OverlayRefusal::IsCopy)));
    }
    Ok(tx.get::<Superseded>(bucket)?.map(|row| Reject::Superseded { by: row.by }))
}

/// Copies changes.
pub(super) fn replicate(tx: &mut Transaction<'_>, entry: &Entry, command: &Replicate) -> Outcome {
    let mut bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let key = (bucket.id, &command.source.cluster, &command.source.bucket);
    let Some(mut follow) = tx.get::<Follows>(key)? else { return refused(OverlayRefusal::NotFollowed) };
    let is_feed = command.step == ReplicateStep::Feed;
    if follow.cursor != command.after || (is_feed && follow.compare) {
        return refused(OverlayRefusal::Moved);
    }
    if REPLICATE_CHANGES_MAX < command.changes.len() || command.upto < command.after {
        return malformed("the changes are too many, or go back");
    }
    if bucket.versioning != Versioning::Enabled {
        return refused(OverlayRefusal::NotVersioned);
    }
    if let Some(row) = tx.get::<Superseded>(bucket.id)? {
        return Err(Reject::Superseded { by: row.by }.into());
    }
    let kept = command.changes.iter().filter_map(|change| kept_id(&change.what)).max();
    // Who compares as of another time would bring back what was replaced since.
    if kept.is_some() && !is_feed && tx.get::<Follower>(())? != Some(entry.session) {
        return refused(OverlayRefusal::Moved);
    }
    if let Some(kept) = kept.filter(|kept| tx.stamp(&bucket, 0).epoch <= kept.epoch) {
        // What is stamped here is newer than what keeps its id.
        bucket.epoch = kept.epoch.saturating_add(1);
        tx.put::<Buckets>(bucket.id, &bucket);
    }
    let mut why = None;
    for (ordinal, change) in (0..).zip(&command.changes) {
        match copy(tx, &bucket, ordinal, change, (command, &follow)) {
            Ok(Some(bytes)) => (follow.objects, follow.bytes) = (follow.objects + 1, follow.bytes + bytes),
            Ok(None) => {}
            Err(Stop::Reject(reject)) => {
                why = Some(Box::new(reject));
                break;
            }
            Err(Stop::Fault(fault)) => return Err(fault.into()),
        }
        if is_feed {
            (follow.cursor, follow.reached) = (change.at, change.reached);
        }
    }
    match command.step {
        ReplicateStep::Compare => follow.compare = true,
        ReplicateStep::Feed | ReplicateStep::Compared { .. } if why.is_some() => {}
        ReplicateStep::Feed => (follow.cursor, follow.reached) = (command.upto, command.reached),
        ReplicateStep::Compared { upto } => {
            (follow.cursor, follow.reached) = (command.upto, command.reached);
            (follow.compare, follow.compared) = (false, upto);
        }
    }
    tx.put::<Follows>(key, &follow);
    Ok(Done::Replicated { cursor: follow.cursor, refused: why })
}

/// Copies one change; `Some`: a version of so many bytes.
fn copy(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    ordinal: u16,
    change: &ReplicaChange,
    (command, follow): (&Replicate, &Follow),
) -> Result<Option<u64>, Stop> {
    let home = Home { bucket: bucket.id, key: change.key.clone() };
    let comparing = command.step != ReplicateStep::Feed;
    let current = tx.get::<Objects>(&home)?;
    let origin = Origin { source: format!("overlay/{}", command.source.cluster), ..Origin::default() };
    let at = tx.stamp(bucket, ordinal);
    let is_same = |version: &ReplicaVersion, current: &Object| {
        (version.modified, version.etag) == (current.modified, current.etag)
    };
    let may_be_known = comparing || change.at <= follow.compared;
    let (what, lock) = match &change.what {
        ReplicaOf::Locked { lock, what } if lock::of_bucket(tx, bucket.id)?.is_some() => {
            (&**what, Some(lock))
        }
        ReplicaOf::Locked { what, .. } => (&**what, None),
        what => (what, None),
    };
    let (what, parts) = match what {
        ReplicaOf::InParts { parts, what } => (&**what, Some(parts.as_slice())),
        what => (what, None),
    };
    match what {
        ReplicaOf::Version(version) => {
            let is_there =
                |current: &Object| version.modified < current.modified || is_same(version, current);
            if comparing && current.as_ref().is_some_and(is_there) {
                return Ok(None);
            }
            store(tx, bucket, &home, Place { at, stamp: at }, (version, parts, lock), &origin).map(Some)
        }
        ReplicaOf::KeptVersion { id, version } => {
            if comparing && current.as_ref().is_some_and(|current| is_same(version, current)) {
                return Ok(None);
            }
            // One that was replaced here alone becomes current again.
            let is_it = |found: &Version| match found {
                Version::Object(found) => !comparing && is_same(version, found),
                Version::DeleteMarker { .. } => false,
            };
            let Some(stamp) = keep_id(tx, &home, *id, at, is_it)? else { return Ok(None) };
            store(tx, bucket, &home, Place { at, stamp }, (version, parts, lock), &origin).map(Some)
        }
        ReplicaOf::Marker(modified) => {
            let is_newer = |current: &Object| comparing && *modified < current.modified;
            if (may_be_known && current.is_none()) || current.as_ref().is_some_and(is_newer) {
                return Ok(None);
            }
            mark(tx, bucket, &home, Place { at, stamp: at }, *modified, origin)?;
            Ok(None)
        }
        ReplicaOf::KeptMarker { id, modified } => {
            let is_it = |found: &Version| !comparing && matches!(found, Version::DeleteMarker { .. });
            if may_be_known && current.is_none() {
                return Ok(None);
            }
            let Some(stamp) = keep_id(tx, &home, *id, at, is_it)? else { return Ok(None) };
            mark(tx, bucket, &home, Place { at, stamp }, *modified, origin)?;
            Ok(None)
        }
        ReplicaOf::Tags { etag, modified, tags } => {
            set_tags(tx, bucket, &home, at, (*etag, *modified, tags), origin)?;
            Ok(None)
        }
        ReplicaOf::Lock { etag, modified, lock } => {
            set_lock(tx, &home, at, (*etag, *modified, lock), origin)?;
            Ok(None)
        }
        ReplicaOf::Locked { .. } | ReplicaOf::InParts { .. } => {
            malformed("a version is locked, and in parts, once")
        }
    }
}

/// The id that a change keeps.
fn kept_id(what: &ReplicaOf) -> Option<Stamp> {
    match what {
        ReplicaOf::KeptVersion { id, .. } | ReplicaOf::KeptMarker { id, .. } => Some(*id),
        ReplicaOf::Locked { what, .. } | ReplicaOf::InParts { what, .. } => kept_id(what),
        ReplicaOf::Version(_) | ReplicaOf::Marker(_) | ReplicaOf::Tags { .. } | ReplicaOf::Lock { .. } => {
            None
        }
    }
}

/// The stamp of a version that is to keep its id; `None`: it is there. In a bucket that was written to before it followed
/// another one, the id may not be that of the newest version of its key, or be in use: then it gets one of this bucket.
fn keep_id(
    tx: &Transaction<'_>,
    home: &Home,
    id: Stamp,
    own: Stamp,
    is_it: impl Fn(&Version) -> bool,
) -> Result<Option<Stamp>, Fault> {
    let current = tx.get::<Objects>(home)?.map(Version::Object);
    let newest = match &current {
        Some(current) => Some(current.stamp()),
        None => newest_other(tx.rows(), home)?.map(|newest| newest.stamp()),
    };
    if newest.is_none_or(|newest| newest < id) {
        let is_free = tx.get::<Uploads>((home, id))?.is_none();
        return Ok(Some(if is_free { id } else { own }));
    }
    let found = match current.filter(|current| current.stamp() == id) {
        None => tx.get::<Versions>((home, Descending(id)))?,
        found => found,
    };
    Ok(if found.is_some_and(|found| is_it(&found)) { None } else { Some(own) })
}

/// Where a copied version comes to be.
#[derive(Clone, Copy)]
struct Place {
    /// Of its event.
    at: Stamp,
    /// Its own.
    stamp: Stamp,
}

/// Hides a key as a deletion would, but for its time.
fn mark(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    Place { at, stamp }: Place,
    modified: ClusterMs,
    origin: Origin,
) -> Result<(), Stop> {
    let watch = lifecycle::watch(tx, bucket, home, None)?;
    mark_deleted(tx, bucket, home, stamp, modified)?;
    lifecycle::settle(tx, bucket, home, watch)?;
    tell(tx, home, at, EventKind::DeleteMarker, (stamp, None), origin);
    Ok(())
}

/// Stores a version as a write would, but for its time.
fn store(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    Place { at, stamp }: Place,
    (version, parts, lock): (&ReplicaVersion, Option<&[ReplicaPart]>, Option<&Lock>),
    origin: &Origin,
) -> Result<u64, Stop> {
    check_sealing(version.sealing.as_ref())?;
    let acl = acl::of_write(tx, bucket, &origin.requester, None)?;
    let copies = body::check_new(tx, home, &version.body)?;
    let parts = parts.map(|parts| check_parts(tx, home, version, parts)).transpose()?;
    let bytes = match &parts {
        None => plain_bytes(version.sealing.as_ref(), version.body.bytes())?,
        Some(parts) => parts.iter().map(|(slice, _)| slice.bytes).sum(),
    };
    quota::check_version(tx, bucket, home, bytes, Usage::default())?;

    let body = match parts {
        None => body::store(tx, home, stamp, &version.body, &copies)?,
        Some(parts) => {
            let (slices, extents): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            for (extent, copies) in extents.into_iter().flatten() {
                extent::name(tx, home, extent, 1, &copies)?;
            }
            // A version that was removed may have had the same stamp, and left its slices to copies.
            body::store_slices(tx, home, at, slices)
        }
    };
    let object = Object {
        stamp,
        null_version: false,
        modified: version.modified,
        bytes,
        etag: version.etag,
        body: sealed(version.sealing.clone(), body),
        checksum: version.checksum.clone(),
        attributes: version.attributes.clone(),
    };
    acl::keep(tx, home, stamp, acl.as_ref());
    let lock = lock.cloned().unwrap_or_default();
    install_at(tx, bucket, home, &object, (EventKind::Put, at), origin, &lock)?;
    Ok(bytes)
}

/// A part of a version as its body names it, and its extent with who holds it.
type Checked<'a> = (Slice, Option<(&'a Extent, Copies)>);

/// Checks the parts of a version that keeps them.
fn check_parts<'a>(
    tx: &Transaction<'_>,
    home: &Home,
    version: &ReplicaVersion,
    parts: &'a [ReplicaPart],
) -> Result<Vec<Checked<'a>>, Stop> {
    let ids: BTreeSet<_> =
        parts.iter().filter_map(|part| part.extent.as_ref()).map(|extent| extent.id).collect();
    let is_good = !parts.is_empty()
        && parts.len() <= REPLICA_PARTS_MAX
        && version.body.bytes() == 0
        && ids.len() == parts.iter().filter(|part| part.extent.is_some()).count()
        && parts.is_sorted_by_key(|part| part.number);
    if !is_good {
        return malformed("the parts of the version are none, too many, or not in order");
    }
    let checked = parts.iter().map(|part| {
        let extent = match &part.extent {
            Some(extent) => Some((extent, extent::check_new(tx, home, extent)?)),
            None => None,
        };
        let stored = part.extent.as_ref().map_or(0, |extent| extent.bytes);
        let slice = Slice {
            extent: part.extent.as_ref().map_or(ExtentId::from_bytes([0; 16]), |extent| extent.id),
            offset: 0,
            bytes: plain_bytes(version.sealing.as_ref(), stored)?,
            part: part.number,
            md5: part.md5,
            checksum: part.checksum.clone(),
        };
        Ok((slice, extent))
    });
    checked.collect()
}

/// The version that is a copy of the one of this tag and time, and whether it is the current one.
fn find_copy(
    tx: &Transaction<'_>,
    home: &Home,
    (etag, modified): (Etag, ClusterMs),
) -> Result<Option<(Object, bool)>, Fault> {
    let is_it = |object: &Object| (object.etag, object.modified) == (etag, modified);
    if let Some(current) = tx.get::<Objects>(home)?.filter(is_it) {
        return Ok(Some((current, true)));
    }
    for row in tx.scan_under::<Versions>(home)?.take(REPLICA_VERSIONS_VISITED_MAX) {
        if let (_, Version::Object(object)) = row?
            && is_it(&object)
        {
            return Ok(Some((object, false)));
        }
    }
    Ok(None)
}

/// Changes the tags of the version that is a copy of the one they are of; where it is not found, nothing.
fn set_tags(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    stamp: Stamp,
    (etag, modified, tags): (Etag, ClusterMs, &Tags),
    origin: Origin,
) -> Result<(), Fault> {
    let found = find_copy(tx, home, (etag, modified))?;
    let Some((mut object, is_current)) = found.filter(|(object, _)| object.attributes.tags != *tags) else {
        return Ok(());
    };
    let watch = lifecycle::watch(tx, bucket, home, Some(object.stamp))?;
    object.attributes.tags.clone_from(tags);
    if is_current {
        tx.put::<Objects>(home, &object);
    } else {
        tx.put::<Versions>((home, Descending(object.stamp)), &Version::Object(object.clone()));
    }
    lifecycle::settle(tx, bucket, home, watch)?;
    let kind = if tags.is_empty() { EventKind::DeleteTags } else { EventKind::Tags };
    tell(tx, home, stamp, kind, (told_version(&object), Some(&object)), origin);
    Ok(())
}

/// The same for its lock.
fn set_lock(
    tx: &mut Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    (etag, modified, said): (Etag, ClusterMs, &Lock),
    origin: Origin,
) -> Result<(), Fault> {
    let Some((object, _)) = find_copy(tx, home, (etag, modified))? else { return Ok(()) };
    if let Some(kind) = lock::follow(tx, home, object.stamp, said)? {
        tell(tx, home, stamp, kind, (told_version(&object), Some(&object)), origin);
    }
    Ok(())
}

/// Tells the change feed.
fn tell(
    tx: &mut Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    kind: EventKind,
    (version, object): (Stamp, Option<&Object>),
    origin: Origin,
) {
    let event = Event {
        kind,
        key: home.key.clone(),
        version,
        bytes: object.map_or(0, |object| object.bytes),
        etag: object.map(|object| object.etag),
        at: tx.now,
        origin,
    };
    tx.add_event(home.bucket, stamp, &event);
}
