//! Renames: another key names the body, which stays where it is.
//!
//! What is at the new key gives way as to a write, and the old key loses its object as by a delete, in one command.

use fabric::limits::RENAMES_KEPT;

use super::transaction::Transaction;
use super::{Outcome, Stop, acl, annotation, body, lock, object, quota, recoding, version};
use crate::meta::command::{DeleteKey, Done, Expect, ReadConditions, Reject, RenameObject};
use crate::meta::model::{
    Bucket, ClusterMs, EventKind, Home, Lock, Object, Renamed, Stored, Usage, Versioning,
};
use crate::meta::tables::{Buckets, Cursor, Objects, Renames};

/// Renames an object within its bucket.
pub(super) fn rename(tx: &mut Transaction<'_>, command: &RenameObject) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    if let Some(stored) = repeated(tx, command)? {
        return Ok(Done::Stored(stored));
    }
    let from = Home { bucket: bucket.id, key: command.source_key.clone() };
    let to = Home { bucket: bucket.id, key: command.key.clone() };
    let source = tx.get::<Objects>(&from)?.ok_or(Reject::NoSuchKey)?;
    check_conditions(tx, command, &source, &to)?;
    let done = if from == to {
        Done::Stored(object::stored(&bucket, &source))
    } else {
        let gone = version::replaced(tx, &bucket, &from)?;
        if let Some(gone) = &gone {
            lock::check_removal(tx, &from, gone.stamp, false)?;
        }
        let beside = annotation::bytes(tx, &from, source.stamp)?;
        let freed = gone.map_or(Usage::default(), |gone| Usage {
            objects: 1,
            bytes: gone.bytes + beside,
            ..Usage::default()
        });
        quota::check_version(tx, &bucket, &to, source.bytes + beside, freed)?;
        give(tx, &bucket, &from, &source, &to, command)?
    };
    if let (Some(token), Done::Stored(stored)) = (&command.token, &done) {
        let (from, to, stored) = (from.key, to.key, stored.clone());
        tx.put::<Renames>((bucket.id, token), &Renamed { from, to, stored, at: tx.now });
        tx.trim_old::<Renames>(Cursor::Renames, |renamed| renamed.at, RENAMES_KEPT)?;
    }
    Ok(done)
}

/// What the same request became before.
fn repeated(tx: &Transaction<'_>, command: &RenameObject) -> Result<Option<Stored>, Stop> {
    let Some(token) = &command.token else { return Ok(None) };
    let renamed = tx.get::<Renames>((command.bucket, token))?;
    match renamed.filter(|renamed| !tx.expired(renamed.at, RENAMES_KEPT)) {
        None => Ok(None),
        Some(same) if same.from == command.source_key && same.to == command.key => Ok(Some(same.stored)),
        Some(_) => Err(Reject::TokenReused.into()),
    }
}

fn check_conditions(
    tx: &Transaction<'_>,
    command: &RenameObject,
    source: &Object,
    to: &Home,
) -> Result<(), Stop> {
    if tx.planted.skip_condition {
        return Ok(());
    }
    if !object::meets(&command.source_conditions, source) {
        return Err(Reject::SourcePreconditionFailed.into());
    }
    let holds = match tx.get::<Objects>(to)? {
        Some(current) => object::meets(&command.conditions, &current),
        None => nothing_meets(&command.conditions),
    };
    if holds { Ok(()) } else { Err(Reject::PreconditionFailed.into()) }
}

/// Whether conditions hold where there is no object: it matches no tag, and was not modified.
fn nothing_meets(conditions: &ReadConditions) -> bool {
    let differs = conditions.if_none_match.is_some() || conditions.if_modified_since.is_none();
    conditions.if_match.is_none() && differs
}

/// Shares the body with the new key, and deletes the old one.
fn give(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    from: &Home,
    source: &Object,
    to: &Home,
    command: &RenameObject,
) -> Result<Done, Stop> {
    let stamp = tx.stamp(bucket, 0);
    let object = Object {
        stamp,
        null_version: bucket.versioning != Versioning::Enabled,
        modified: modified(tx, bucket, source),
        body: body::share(tx, from, &source.body, to, stamp)?,
        ..source.clone()
    };
    annotation::share(tx, (from, source.stamp), (to, stamp), None)?;
    let acl = acl::of_version(tx, from, source.stamp)?;
    acl::keep(tx, to, stamp, acl.as_ref());
    let lock = Lock::default();
    let done = object::install(tx, bucket, to, &object, EventKind::Rename, &command.origin, &lock)?;
    let old = DeleteKey { key: from.key.clone(), version: None, expect: Expect::default() };
    let by = object::By::Client { origin: &command.origin, bypass: false };
    object::delete_key(tx, bucket, &old, 1, by)?;
    // Now the body may be its alone.
    recoding::note(tx, to, &object)?;
    Ok(done)
}

/// An object keeps its time. A version has a time of its own: since then the one before it is not current.
fn modified(tx: &Transaction<'_>, bucket: &Bucket, source: &Object) -> ClusterMs {
    if bucket.versioning == Versioning::Off { source.modified } else { tx.now }
}
