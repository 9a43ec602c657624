//! Lifecycle: hints say when to look at what, and what is due by the rules then is removed.
//!
//! Whatever a rule covers has a hint that is not later than it is due, or its bucket is still being walked. What is done
//! is decided by the rules and rows of the moment, so a hint that is too early, or of something that is gone, does no
//! harm. A lock is stronger than any rule; its end is another time to look.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use fabric::ids::{BucketId, Stamp};
use fabric::limits::{
    EXPIRE_PER_COMMAND, EXPIRE_UPLOADS_PER_COMMAND, WALK_ROWS_PER_COMMAND, WALK_VERSIONS_PER_COMMAND,
};

use super::transaction::Transaction;
use super::{Outcome, Stop, malformed, multipart, object};
use crate::meta::command::{AbortUpload, DeleteKey, Done, Expect, Expire, Expired, FillDue, VersionSelector};
use crate::meta::due::{Item, around_latest, due, find, removal, rules_of, transition};
use crate::meta::lifecycle::Lifecycle;
use crate::meta::model::{Bucket, ClusterMs, DueWalk, Hint, Home, Object, Upload, Version, WalkStage};
use crate::meta::store::Fault;
use crate::meta::tables::{
    Buckets, Descending, Due, DueWalks, EncodeKey, Locks, Objects, Superseded, Table, Uploads, Versions,
    as_upper, key_bytes, scan, successor,
};

/// Rules that look on while a command changes the versions of a key.
pub(super) struct Watch {
    rules: Lifecycle,
    /// When what may change is due before the change.
    dues: BTreeMap<Stamp, Option<ClusterMs>>,
}

/// Looks at a key before a command changes it, and at one of its versions that the command names. `None`: its bucket has
/// no rules.
pub(super) fn watch(
    tx: &Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    named: Option<Stamp>,
) -> Result<Option<Watch>, Fault> {
    let Some(rules) = rules_of(tx.rows(), bucket.id)? else {
        return Ok(None);
    };
    let mut dues = around_latest(tx.rows(), &rules, bucket, home)?;
    if let Some(stamp) = named.filter(|stamp| !dues.contains_key(stamp)) {
        dues.insert(stamp, due_now(tx, &rules, home, stamp)?);
    }
    Ok(Some(Watch { rules, dues }))
}

/// Looks again after the command, and moves hints where they belong now.
pub(super) fn settle(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    watch: Option<Watch>,
) -> Result<(), Fault> {
    let Some(Watch { rules, dues }) = watch else {
        return Ok(());
    };
    let mut after = around_latest(tx.rows(), &rules, bucket, home)?;
    for (stamp, before) in dues {
        let now = match after.get(&stamp) {
            Some(now) => *now,
            None => due_now(tx, &rules, home, stamp)?,
        };
        after.insert(stamp, now);
        if let Some(before) = before.filter(|before| Some(*before) != now) {
            tx.delete::<Due>((before, home, stamp));
        }
    }
    for (stamp, now) in after {
        hint(tx, now, home, stamp)?;
    }
    Ok(())
}

/// Something came to be under a key beside its versions, or a lock of it changed.
pub(super) fn note(tx: &mut Transaction<'_>, home: &Home, item: Stamp) -> Result<(), Fault> {
    let Some(rules) = rules_of(tx.rows(), home.bucket)? else {
        return Ok(());
    };
    let due = due_now(tx, &rules, home, item)?;
    hint(tx, due, home, item)
}

/// Something beside the versions of a key is about to go.
pub(super) fn forget(tx: &mut Transaction<'_>, home: &Home, item: Stamp) -> Result<(), Fault> {
    if let Some(rules) = rules_of(tx.rows(), home.bucket)?
        && let Some(due) = due_now(tx, &rules, home, item)?
    {
        tx.delete::<Due>((due, home, item));
    }
    Ok(())
}

/// The rules of a bucket changed: its rows are walked from the front. Hints of the rules before stay; nothing may come of
/// them.
pub(super) fn begin_walk(tx: &mut Transaction<'_>, bucket: BucketId) {
    tx.put::<DueWalks>(bucket, &DueWalk { stage: WalkStage::Objects, after: Bytes::new() });
}

/// The bucket, or its rules, are gone.
pub(super) fn end_walk(tx: &mut Transaction<'_>, bucket: BucketId) {
    tx.delete::<DueWalks>(bucket);
}

fn due_now(
    tx: &Transaction<'_>,
    rules: &Lifecycle,
    home: &Home,
    stamp: Stamp,
) -> Result<Option<ClusterMs>, Fault> {
    match find(tx.rows(), home, stamp)? {
        Some(item) => due(tx.rows(), rules, home, &item),
        None => Ok(None),
    }
}

fn hint(tx: &mut Transaction<'_>, due: Option<ClusterMs>, home: &Home, item: Stamp) -> Result<(), Fault> {
    if let Some(due) = due
        && tx.get::<Due>((due, home, item))?.is_none()
    {
        tx.put::<Due>((due, home, item), &());
    }
    Ok(())
}

/// Walks a piece of the rows of a bucket and puts their hints.
pub(super) fn fill(tx: &mut Transaction<'_>, command: &FillDue) -> Outcome {
    let bucket = command.bucket;
    let Some(walk) = tx.get::<DueWalks>(bucket)? else {
        return Ok(Done::Nothing);
    };
    let Some(rules) = rules_of(tx.rows(), bucket)? else {
        end_walk(tx, bucket);
        return Ok(Done::Nothing);
    };
    let (piece, following) = match walk.stage {
        WalkStage::Objects => {
            let place = |home: &Home, object: &Object| (home.clone(), object.stamp);
            (piece::<Objects>(tx, bucket, &walk, WALK_ROWS_PER_COMMAND, place)?, Some(WalkStage::Versions))
        }
        WalkStage::Versions => {
            let place = |key: &(Home, Descending), _: &Version| (key.0.clone(), key.1.0);
            (
                piece::<Versions>(tx, bucket, &walk, WALK_VERSIONS_PER_COMMAND, place)?,
                Some(WalkStage::Uploads),
            )
        }
        WalkStage::Uploads => {
            let place = |key: &(Home, Stamp), _: &Upload| key.clone();
            (piece::<Uploads>(tx, bucket, &walk, WALK_ROWS_PER_COMMAND, place)?, None)
        }
    };
    for (home, item) in &piece.items {
        let due = due_now(tx, &rules, home, *item)?;
        hint(tx, due, home, *item)?;
    }
    match (piece.last, following) {
        (Some(after), _) => tx.put::<DueWalks>(bucket, &DueWalk { stage: walk.stage, after }),
        (None, Some(stage)) => tx.put::<DueWalks>(bucket, &DueWalk { stage, after: Bytes::new() }),
        (None, None) => end_walk(tx, bucket),
    }
    Ok(Done::Nothing)
}

/// A piece of a walk.
struct Piece {
    items: Vec<(Home, Stamp)>,
    /// The key of its last row; `None` at the end of the table.
    last: Option<Bytes>,
}

fn piece<T: Table>(
    tx: &Transaction<'_>,
    bucket: BucketId,
    walk: &DueWalk,
    most: usize,
    place: impl Fn(&T::Owned, &T::Value) -> (Home, Stamp),
) -> Result<Piece, Fault>
where
    T::Owned: EncodeKey,
{
    let leading = key_bytes(&bucket);
    let lower = match walk.after.is_empty() {
        true => Bound::Included(&leading[..]),
        false => Bound::Excluded(&walk.after[..]),
    };
    let mut piece = Piece { items: Vec::new(), last: None };
    for row in scan::<T>(tx.rows(), lower, as_upper(&successor(&leading)))? {
        let (key, value) = row?;
        piece.items.push(place(&key, &value));
        if piece.items.len() == most {
            piece.last = Some(key_bytes(&key).into());
            break;
        }
    }
    Ok(piece)
}

/// Looks at what hints name. What they ask for is done only where they are rows that are due; those that are too much for
/// one command stay.
pub(super) fn expire(tx: &mut Transaction<'_>, command: &Expire) -> Outcome {
    if EXPIRE_PER_COMMAND < command.hints.len() {
        return malformed("too many hints");
    }
    let mut expired = Expired::default();
    if tx.now < tx.cluster.expires_after {
        return Ok(Done::Expired(expired));
    }
    for (ordinal, hint) in (0..).zip(&command.hints) {
        // Each may have thousands of parts.
        if EXPIRE_UPLOADS_PER_COMMAND <= expired.uploads {
            break;
        }
        look_at(tx, hint, ordinal, &mut expired)?;
    }
    Ok(Done::Expired(expired))
}

fn look_at(
    tx: &mut Transaction<'_>,
    Hint { due: hinted, home, item }: &Hint,
    ordinal: u16,
    expired: &mut Expired,
) -> Result<(), Stop> {
    let row = (*hinted, home, *item);
    if tx.now < *hinted || tx.get::<Due>(row)?.is_none() {
        return Ok(());
    }
    tx.delete::<Due>(row);
    let Some(bucket) = tx.get::<Buckets>(home.bucket)? else { return Ok(()) };
    let Some(rules) = rules_of(tx.rows(), home.bucket)? else { return Ok(()) };
    let Some(found) = find(tx.rows(), home, *item)? else { return Ok(()) };
    if tx.get::<Superseded>(home.bucket)?.is_some() {
        expired.put_off += 1;
        return Ok(put_off(tx, &rules, home, *item)?);
    }
    if removal(tx.rows(), &rules, home, &found)?.is_some_and(|due| due <= tx.now) {
        match remove(tx, &bucket, home, &found, ordinal) {
            Ok(()) => {
                *counter(expired, &found) += 1;
                return Ok(());
            }
            Err(Stop::Reject(_)) => {
                expired.put_off += 1;
                put_off(tx, &rules, home, *item)?;
            }
            Err(fault) => return Err(fault),
        }
    } else {
        // Once it has moved, what is due next has a hint of its own.
        let later = due(tx.rows(), &rules, home, &found)?.filter(|due| tx.now < *due);
        hint(tx, later, home, *item)?;
    }
    if let (Some((due, class)), Some(object)) = (transition(tx.rows(), &rules, home, &found)?, found.object())
        && due <= tx.now
    {
        object::set_class(tx, &bucket, home, object, class, ordinal)?;
    }
    Ok(())
}

/// As their owner would do it: a current version of a versioned bucket is hidden, everything else is removed.
fn remove(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    item: &Item,
    ordinal: u16,
) -> Result<(), Stop> {
    let version = match item {
        Item::Current(_) => None,
        Item::Marker { version, .. } | Item::Noncurrent { version, .. } => {
            Some(match version.null_version() {
                true => VersionSelector::Null,
                false => VersionSelector::Stamp(version.stamp()),
            })
        }
        Item::Upload(upload) => {
            let abort = AbortUpload { bucket: bucket.id, key: home.key.clone(), upload: upload.id };
            return multipart::abort(tx, &abort).map(drop);
        }
    };
    let key = DeleteKey { key: home.key.clone(), version, expect: Expect::default() };
    object::delete_key(tx, bucket, &key, ordinal, object::By::Lifecycle).map(drop)
}

fn counter<'a>(expired: &'a mut Expired, item: &Item) -> &'a mut u64 {
    match item {
        Item::Current(_) => &mut expired.current,
        Item::Marker { .. } => &mut expired.markers,
        Item::Noncurrent { .. } => &mut expired.noncurrent,
        Item::Upload(_) => &mut expired.uploads,
    }
}

/// Something keeps what is due. The end of a lock is the time to look again; where nobody knows it, that is a day later.
fn put_off(tx: &mut Transaction<'_>, rules: &Lifecycle, home: &Home, item: Stamp) -> Result<(), Fault> {
    let lock = tx.get::<Locks>((home, item))?.unwrap_or_default();
    let tomorrow = ClusterMs(tx.now.0.saturating_add(rules.day_ms));
    let end = lock.retention.map(|retention| retention.until).filter(|end| tx.now < *end);
    let look = if lock.legal_hold { end.max(Some(tomorrow)) } else { end.or(Some(tomorrow)) };
    hint(tx, look, home, item)
}
