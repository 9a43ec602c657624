//! Versions of a key: which is current, which gives way to a write, what comes back after a removal.
//!
//! Off: a write replaces the one version, which is the null version. Enabled: each write is a version of its own.
//! Suspended: a write replaces the null version and leaves the others.

use fabric::ids::Stamp;

use super::transaction::Transaction;
use super::{annotation, body, recoding};
use crate::meta::command::{Expect, Reject};
use crate::meta::lookup::{Found, newest_other};
use crate::meta::model::{Bucket, ClusterMs, Home, Object, Version, Versioning};
use crate::meta::store::Fault;
use crate::meta::tables::{Acls, Descending, Locks, NullVersions, Objects, Versions};

/// Refuses unless the version that is there meets every condition.
pub(super) fn check_expect(
    tx: &Transaction<'_>,
    expect: &Expect,
    found: Option<&Object>,
) -> Result<(), Reject> {
    if tx.planted.skip_condition { Ok(()) } else { expect.check(found) }
}

/// Makes a new version the current one. Its body is stored and counted as referenced already.
pub(super) fn install(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    object: &Object,
) -> Result<(), Fault> {
    assert!(object.null_version == (bucket.versioning != Versioning::Enabled));
    make_room(tx, bucket, home)?;
    tx.put::<Objects>(home, object);
    tx.count(bucket.id, |usage| {
        usage.objects += 1;
        usage.bytes += object.bytes;
    })
}

/// Writes the row of a version that is there.
pub(super) fn rewrite(tx: &mut Transaction<'_>, home: &Home, object: &Object) -> Result<(), Fault> {
    if tx.get::<Objects>(home)?.is_some_and(|current| current.stamp == object.stamp) {
        tx.put::<Objects>(home, object);
    } else {
        tx.put::<Versions>((home, Descending(object.stamp)), &Version::Object(object.clone()));
    }
    Ok(())
}

/// Hides a key behind a delete marker.
pub(super) fn mark_deleted(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    stamp: Stamp,
    modified: ClusterMs,
) -> Result<(), Fault> {
    make_room(tx, bucket, home)?;
    tx.delete::<Objects>(home);
    let null_version = bucket.versioning != Versioning::Enabled;
    shelve(tx, home, &Version::DeleteMarker { stamp, null_version, modified });
    Ok(())
}

/// Removes the current version, in a bucket that was never versioned.
pub(super) fn remove_only(tx: &mut Transaction<'_>, home: &Home, object: &Object) -> Result<(), Fault> {
    tx.delete::<Objects>(home);
    discard(tx, home, object)
}

/// Removes one version for good; an older one may become current.
pub(super) fn remove(tx: &mut Transaction<'_>, home: &Home, found: &Found) -> Result<(), Fault> {
    match found {
        Found::Current(object) => remove_only(tx, home, object)?,
        Found::Other(version) => remove_other(tx, home, version)?,
    }
    promote(tx, home)
}

/// The version that goes for good when a new one comes: the null version, where the new one is it.
pub(super) fn replaced(tx: &Transaction<'_>, bucket: &Bucket, home: &Home) -> Result<Option<Object>, Fault> {
    if bucket.versioning == Versioning::Enabled {
        return Ok(None);
    }
    if let Some(current) = tx.get::<Objects>(home)?.filter(|current| current.null_version) {
        return Ok(Some(current));
    }
    let Some(stamp) = tx.get::<NullVersions>(home)? else {
        return Ok(None);
    };
    Ok(match tx.get::<Versions>((home, Descending(stamp)))? {
        Some(Version::Object(object)) => Some(object),
        Some(Version::DeleteMarker { .. }) | None => None,
    })
}

/// The current version gives way to a write: it joins the others, or goes if the write is the null version too.
fn make_room(tx: &mut Transaction<'_>, bucket: &Bucket, home: &Home) -> Result<(), Fault> {
    if bucket.versioning == Versioning::Suspended
        && let Some(stamp) = tx.get::<NullVersions>(home)?
    {
        let version = tx.get::<Versions>((home, Descending(stamp)))?;
        let version =
            version.ok_or_else(|| Fault::new("replace null version", format!("{stamp} has no row")))?;
        remove_other(tx, home, &version)?;
    }
    let Some(current) = tx.get::<Objects>(home)? else {
        return Ok(());
    };
    if bucket.versioning != Versioning::Enabled && current.null_version {
        return discard(tx, home, &current);
    }
    shelve(tx, home, &Version::Object(current));
    Ok(())
}

/// Puts a version among those that are not current.
fn shelve(tx: &mut Transaction<'_>, home: &Home, version: &Version) {
    if version.null_version() {
        tx.put::<NullVersions>(home, &version.stamp());
    }
    tx.put::<Versions>((home, Descending(version.stamp())), version);
}

fn remove_other(tx: &mut Transaction<'_>, home: &Home, version: &Version) -> Result<(), Fault> {
    unshelve(tx, home, version);
    match version {
        Version::Object(object) => discard(tx, home, object),
        Version::DeleteMarker { .. } => Ok(()),
    }
}

fn unshelve(tx: &mut Transaction<'_>, home: &Home, version: &Version) {
    if version.null_version() {
        tx.delete::<NullVersions>(home);
    }
    tx.delete::<Versions>((home, Descending(version.stamp())));
}

/// Uncounts a version whose row is gone and releases its body.
fn discard(tx: &mut Transaction<'_>, home: &Home, object: &Object) -> Result<(), Fault> {
    tx.count(home.bucket, |usage| {
        usage.objects = usage.objects.saturating_sub(1);
        usage.bytes = usage.bytes.saturating_sub(object.bytes);
    })?;
    tx.delete::<Locks>((home, object.stamp));
    annotation::clear(tx, home, object.stamp)?;
    tx.delete::<Acls>((home, object.stamp));
    recoding::forget(tx, home, object.stamp);
    body::release(tx, home, object)
}

/// Where a key lost its current version, the newest of the others takes its place, unless it is a marker.
fn promote(tx: &mut Transaction<'_>, home: &Home) -> Result<(), Fault> {
    if tx.get::<Objects>(home)?.is_some() {
        return Ok(());
    }
    let Some(version) = newest_other(tx.rows(), home)? else {
        return Ok(());
    };
    if let Version::Object(object) = &version {
        unshelve(tx, home, &version);
        tx.put::<Objects>(home, object);
    }
    Ok(())
}
