//! Appends: the bytes of an object with more behind them become its next version.
//!
//! Decided against the version that the writer saw: of several at one offset one wins. Where there are few bytes the writer
//! brings them all once more; else what it brings is a part behind those that are there, which are not touched.

use fabric::ids::{ExtentId, Stamp};
use fabric::limits::{OBJECT_BYTES_MAX, PARTS_MAX, SHARED_APPEND_PARTS_MAX};

use super::transaction::Transaction;
use super::version::{self, check_expect};
use super::{Outcome, Stop, acl, annotation, body, extent, lock, malformed, multipart, object, quota};
use crate::meta::command::{AppendObject, Appended, Reject};
use crate::meta::model::{
    Body, BodyRow, Bucket, Checksum, ChecksumKind, Etag, EventKind, Extent, Home, Object, Slice, Usage,
    Versioning,
};
use crate::meta::store::Fault;
use crate::meta::tables::{Bodies, Buckets, Objects};

/// Puts bytes behind those of an object, or makes one.
pub(super) fn append(
    tx: &mut Transaction<'_>,
    command: &AppendObject,
    around: &object::Around<'_>,
) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    let current = tx.get::<Objects>(&home)?;
    check_expect(tx, &command.expect, current.as_ref())?;
    check_seen(command, current.as_ref())?;
    if current.as_ref().is_some_and(|current| current.body.sealing().is_some()) {
        return malformed("nothing is appended to encrypted bytes");
    }
    let bytes = bytes_after(command)?;
    lock::check_wanted(tx, &home, around.guard)?;
    let acl = match &current {
        Some(current) => acl::of_version(tx, &home, current.stamp)?,
        None => acl::of_write(tx, &bucket, &command.origin.requester, around.acl)?,
    };
    let beside = current.as_ref().map_or(Ok(0), |current| annotation::bytes(tx, &home, current.stamp))?;
    quota::check_version(tx, &bucket, &home, bytes + beside, Usage::default())?;

    let stamp = tx.stamp(&bucket, 0);
    let (body, etag) = match (&command.appended, &current) {
        (Appended::Whole { body, md5 }, _) => {
            let copies = body::check_new(tx, &home, body)?;
            (body::store(tx, &home, stamp, body, &copies)?, Etag::Md5(*md5))
        }
        (Appended::Part { extent, md5, checksum }, Some(current)) => {
            let part = Part { extent: extent.as_ref(), md5: *md5, checksum: checksum.clone() };
            extend(tx, &bucket, &home, current, stamp, part)?
        }
        (Appended::Part { .. }, None) => return malformed("a part is appended to nothing"),
    };
    if let Some(current) = &current {
        annotation::share(tx, (&home, current.stamp), (&home, stamp), None)?;
    }
    let object = Object {
        stamp,
        null_version: bucket.versioning != Versioning::Enabled,
        modified: tx.now,
        bytes,
        etag,
        body,
        checksum: command.checksum.clone(),
        attributes: current.map_or_else(|| command.attributes.clone(), |current| current.attributes),
    };
    acl::keep(tx, &home, stamp, acl.as_ref());
    let (origin, lock) = (&command.origin, &around.guard.lock);
    Ok(object::install(tx, &bucket, &home, &object, EventKind::Append, origin, lock)?)
}

/// Refuses unless the version is there that the writer saw.
fn check_seen(command: &AppendObject, current: Option<&Object>) -> Result<(), Stop> {
    let bytes = current.map_or(0, |current| current.bytes);
    if bytes != command.offset {
        return Err(Reject::WrongOffset { bytes }.into());
    }
    match current.map(|current| current.stamp) == command.seen {
        true => Ok(()),
        false => Err(Reject::SourceChanged.into()),
    }
}

/// Bytes of the new version.
fn bytes_after(command: &AppendObject) -> Result<u64, Stop> {
    let bytes = match &command.appended {
        Appended::Whole { body, .. } => body.bytes(),
        Appended::Part { extent, .. } => {
            command.offset.saturating_add(extent.as_ref().map_or(0, |extent| extent.bytes))
        }
    };
    if bytes < command.offset {
        return malformed("the whole is smaller than what was there");
    }
    if OBJECT_BYTES_MAX < bytes { Err(Reject::TooLarge.into()) } else { Ok(bytes) }
}

/// What is appended.
struct Part<'a> {
    extent: Option<&'a Extent>,
    md5: [u8; 16],
    checksum: Option<Checksum>,
}

/// The body of `current`, a version of `own`, with a part behind it.
fn extend(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    own: &Home,
    current: &Object,
    stamp: Stamp,
    part: Part<'_>,
) -> Result<(Body, Etag), Stop> {
    // All extents of a body have one home: that of the version it began with.
    let home = current.body.home(own.clone());
    let copies = part.extent.map(|extent| extent::check_new(tx, &home, extent)).transpose()?;
    let (mut slices, row) = slices_of(tx, &home, current)?;
    let replaced = version::replaced(tx, bucket, own)?.is_some_and(|old| old.stamp == current.stamp);
    let row = row.filter(|_| replaced);
    let number = slices.last().map_or(0, |slice| slice.part) + 1;
    let parts_max = if row.is_some() { usize::from(PARTS_MAX) } else { SHARED_APPEND_PARTS_MAX };
    if parts_max <= slices.len() || PARTS_MAX < number {
        return Err(Reject::TooManyParts.into());
    }

    if row.is_none() {
        slices
            .iter()
            .filter(|slice| slice.bytes != 0)
            .try_for_each(|slice| extent::retain(tx, &home, slice.extent))?;
    }
    if let (Some(extent), Some(copies)) = (part.extent, &copies) {
        extent::name(tx, &home, extent, 1, copies)?;
    }
    slices.push(Slice {
        extent: part.extent.map_or(ExtentId::from_bytes([0; 16]), |extent| extent.id),
        offset: 0,
        bytes: part.extent.map_or(0, |extent| extent.bytes),
        part: number,
        md5: part.md5,
        checksum: part.checksum,
    });
    let etag = multipart::etag_of(slices.iter().map(|slice| slice.md5));
    // A row that only the old version names goes over to the new one: the old one's reference ends when it is replaced.
    let (id, references) = row.map_or((stamp, 1), |id| (id, 2));
    tx.put::<Bodies>((&home, id), &BodyRow { slices, references });
    let foreign = (home != *own).then_some(home);
    Ok((Body::Slices { id, home: foreign }, etag))
}

/// The parts of a version, and the row that lists them if no other version names it.
fn slices_of(
    tx: &Transaction<'_>,
    home: &Home,
    object: &Object,
) -> Result<(Vec<Slice>, Option<Stamp>), Stop> {
    match &object.body {
        Body::Slices { id, .. } => {
            let row = tx.get::<Bodies>((home, *id))?;
            let row = row.ok_or_else(|| Fault::new("read body", format!("body {id} has no row")))?;
            Ok((row.slices, (row.references == 1).then_some(*id)))
        }
        Body::Extent { id, .. } => Ok((vec![only_slice(object, *id, 0)], None)),
        Body::Packed { id, offset, .. } => Ok((vec![only_slice(object, *id, *offset)], None)),
        Body::Empty | Body::Inline(_) | Body::Sealed { .. } => {
            malformed("a part is appended to what has no extent")
        }
    }
}

/// A body of one piece as part 1.
fn only_slice(object: &Object, extent: ExtentId, offset: u64) -> Slice {
    let (Etag::Md5(md5) | Etag::Multipart(md5, _)) = object.etag;
    let checksum = object.checksum.clone().filter(|checksum| checksum.kind == ChecksumKind::FullObject);
    Slice { extent, offset, bytes: object.bytes, part: 1, md5, checksum }
}
