//! Multipart uploads: parts come in any order, Complete makes one object of those it names.

use std::collections::BTreeMap;

use fabric::ids::{ExtentId, Stamp};
use fabric::limits::{COMPLETED_KEPT, OBJECT_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX};
use md5::{Digest, Md5};

use super::object::Around;
use super::transaction::Transaction;
use super::version::check_expect;
use super::{Outcome, Stop, acl, body, extent, lifecycle, lock, malformed, object, quota};
use crate::meta::command::{AbortUpload, CompletePart, CompleteUpload, CreateUpload, Done, PutPart, Reject};
use crate::meta::model::{
    Bucket, Completed, Etag, EventKind, Home, Lock, Object, Part, Slice, Upload, Usage, Versioning,
};
use crate::meta::sealing::sealed;
use crate::meta::store::Fault;
use crate::meta::tables::{
    Acls, Buckets, Completeds, Cursor, Locks, Objects, Parts, UploadSealings, Uploads,
};

/// Begins an upload.
pub(super) fn create(tx: &mut Transaction<'_>, command: &CreateUpload, around: &Around<'_>) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let Ok(initiator) = command.origin.requester.parse() else {
        return malformed("the initiator is no user name");
    };
    quota::check(tx, &bucket, Usage { uploads: 1, ..Usage::default() }, Usage::default())?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    lock::check_wanted(tx, &home, around.guard)?;
    object::check_sealing(around.sealing)?;
    let acl = acl::of_write(tx, &bucket, &command.origin.requester, around.acl)?;
    let upload = Upload {
        id: tx.stamp(&bucket, 0),
        initiator,
        initiated: tx.now,
        attributes: command.attributes.clone(),
        checksum: command.checksum,
    };
    tx.put::<Uploads>((&home, upload.id), &upload);
    lifecycle::note(tx, &home, upload.id)?;
    if around.guard.lock != Lock::default() {
        tx.put::<Locks>((&home, upload.id), &around.guard.lock);
    }
    acl::keep(tx, &home, upload.id, acl.as_ref());
    if let Some(sealing) = around.sealing {
        tx.put::<UploadSealings>((&home, upload.id), sealing);
    }
    tx.count(bucket.id, |usage| usage.uploads += 1)?;
    Ok(Done::Upload(upload.id))
}

/// Stores a part, in place of one of the same number.
pub(super) fn put_part(tx: &mut Transaction<'_>, command: &PutPart) -> Outcome {
    let (bucket, home, _) =
        open_upload(tx, Home { bucket: command.bucket, key: command.key.clone() }, command.upload)?;
    if !(1..=PARTS_MAX).contains(&command.number) {
        return malformed("a part number is 1 to 10000");
    }
    let copies = command.extent.as_ref().map(|extent| extent::check_new(tx, &home, extent)).transpose()?;
    let key = (&home, command.upload, command.number);
    let replaced = tx.get::<Parts>(key)?;
    let sealing = tx.get::<UploadSealings>((&home, command.upload))?;
    let stored = command.extent.as_ref().map_or(0, |extent| extent.bytes);
    let bytes = object::plain_bytes(sealing.as_ref(), stored)?;
    let added = Usage { part_bytes: bytes, ..Usage::default() };
    let freed =
        Usage { part_bytes: replaced.as_ref().map_or(0, |replaced| replaced.bytes), ..Usage::default() };
    quota::check(tx, &bucket, added, freed)?;

    if let (Some(extent), Some(copies)) = (&command.extent, &copies) {
        extent::name(tx, &home, extent, 1, copies)?;
    }
    if let Some(Part { extent: Some(replaced), .. }) = replaced {
        extent::release(tx, &home, replaced)?;
    }
    let part = Part {
        number: command.number,
        bytes,
        md5: command.md5,
        checksum: command.checksum.clone(),
        modified: tx.now,
        extent: command.extent.as_ref().map(|extent| extent.id),
    };
    tx.put::<Parts>(key, &part);
    tx.count(bucket.id, |usage| {
        *usage -= freed;
        *usage += added;
    })?;
    Ok(Done::Part(tx.now))
}

/// Makes an object of the parts that are named; the others are released.
pub(super) fn complete(tx: &mut Transaction<'_>, command: &CompleteUpload) -> Outcome {
    let home = Home { bucket: command.bucket, key: command.key.clone() };
    if let Some(completed) = tx.get::<Completeds>((&home, command.upload))?
        && !tx.expired(completed.at, COMPLETED_KEPT)
        && tx.get::<Buckets>(home.bucket)?.is_some()
    {
        return Ok(Done::Stored(completed.stored));
    }
    let (bucket, home, upload) = open_upload(tx, home, command.upload)?;
    let mut stored = parts_of(tx, &home, command.upload)?;
    let chosen = choose(&mut stored, &command.parts)?;
    let bytes = chosen.iter().map(|part| part.bytes).sum();
    if OBJECT_BYTES_MAX < bytes {
        return Err(Reject::TooLarge.into());
    }
    if command.bytes.is_some_and(|announced| announced != bytes) {
        return Err(Reject::WrongSize.into());
    }
    check_expect(tx, &command.expect, tx.get::<Objects>(&home)?.as_ref())?;
    let part_bytes = bytes + bytes_of(&stored);
    let freed = Usage { uploads: 1, part_bytes, ..Usage::default() };
    quota::check_version(tx, &bucket, &home, bytes, freed)?;

    let lock = lock::take(tx, &home, command.upload)?;
    let acl = acl::of_version(tx, &home, command.upload)?;
    let sealing = tx.get::<UploadSealings>((&home, command.upload))?;
    let unused = stored.into_values().filter_map(|part| part.extent).collect();
    forget(tx, &home, command.upload, part_bytes, unused)?;
    let stamp = tx.stamp(&bucket, 0);
    let etag = etag_of(chosen.iter().map(|part| part.md5));
    let body = body::store_slices(tx, &home, stamp, chosen.into_iter().map(slice_of).collect());
    let object = Object {
        stamp,
        null_version: bucket.versioning != Versioning::Enabled,
        modified: tx.now,
        bytes,
        etag,
        body: sealed(sealing, body),
        checksum: command.checksum.clone(),
        attributes: upload.attributes,
    };
    acl::keep(tx, &home, stamp, acl.as_ref());
    let done = object::install(tx, &bucket, &home, &object, EventKind::Complete, &command.origin, &lock)?;
    if let Done::Stored(stored) = &done {
        tx.put::<Completeds>((&home, command.upload), &Completed { stored: stored.clone(), at: tx.now });
    }
    tx.trim_old::<Completeds>(Cursor::Completeds, |completed| completed.at, COMPLETED_KEPT)?;
    Ok(done)
}

/// Forgets an upload and releases its parts.
pub(super) fn abort(tx: &mut Transaction<'_>, command: &AbortUpload) -> Outcome {
    let home = Home { bucket: command.bucket, key: command.key.clone() };
    let (_, home, _) = open_upload(tx, home, command.upload)?;
    let parts = parts_of(tx, &home, command.upload)?;
    let part_bytes = bytes_of(&parts);
    let extents = parts.into_values().filter_map(|part| part.extent).collect();
    forget(tx, &home, command.upload, part_bytes, extents)?;
    Ok(Done::Nothing)
}

fn open_upload(tx: &Transaction<'_>, home: Home, id: Stamp) -> Result<(Bucket, Home, Upload), Stop> {
    let bucket = tx.get::<Buckets>(home.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let upload = tx.get::<Uploads>((&home, id))?.ok_or(Reject::NoSuchUpload)?;
    Ok((bucket, home, upload))
}

fn parts_of(tx: &Transaction<'_>, home: &Home, upload: Stamp) -> Result<BTreeMap<u16, Part>, Fault> {
    tx.scan_under::<Parts>((home, upload))?.map(|row| row.map(|(_, part)| (part.number, part))).collect()
}

fn bytes_of(parts: &BTreeMap<u16, Part>) -> u64 {
    parts.values().map(|part| part.bytes).sum()
}

/// Takes the named parts out of the stored ones, in order, if they are what the client believes they are.
fn choose(stored: &mut BTreeMap<u16, Part>, named: &[CompletePart]) -> Result<Vec<Part>, Stop> {
    if named.is_empty() || usize::from(PARTS_MAX) < named.len() {
        return malformed("an upload is completed with 1 to 10000 parts");
    }
    if named.windows(2).any(|pair| pair[1].number <= pair[0].number) {
        return Err(Reject::InvalidPartOrder.into());
    }
    let mut chosen = Vec::with_capacity(named.len());
    for name in named {
        let known =
            |part: &Part| part.md5 == name.md5 && (name.checksum.is_none() || name.checksum == part.checksum);
        match stored.remove(&name.number) {
            Some(part) if known(&part) => chosen.push(part),
            _ => return Err(Reject::InvalidPart { number: name.number }.into()),
        }
    }
    let small = chosen[..chosen.len() - 1].iter().find(|part| part.bytes < PART_BYTES_MIN);
    match small {
        Some(part) => Err(Reject::PartTooSmall { number: part.number, bytes: part.bytes }.into()),
        None => Ok(chosen),
    }
}

/// MD5 of the MD5s of the parts; also where there is only one.
pub(super) fn etag_of(parts: impl ExactSizeIterator<Item = [u8; 16]>) -> Etag {
    let (mut digest, count) = (Md5::new(), parts.len() as u16);
    parts.for_each(|md5| digest.update(md5));
    Etag::Multipart(digest.finalize().into(), count)
}

fn slice_of(part: Part) -> Slice {
    Slice {
        extent: part.extent.unwrap_or(ExtentId::from_bytes([0; 16])),
        offset: 0,
        bytes: part.bytes,
        part: part.number,
        md5: part.md5,
        checksum: part.checksum,
    }
}

/// Removes the rows of an upload with its so many bytes, and releases extents of parts that went into no object.
fn forget(
    tx: &mut Transaction<'_>,
    home: &Home,
    upload: Stamp,
    part_bytes: u64,
    unused: Vec<ExtentId>,
) -> Result<(), Fault> {
    lifecycle::forget(tx, home, upload)?;
    tx.delete_under::<Parts>((home, upload))?;
    tx.delete::<Uploads>((home, upload));
    tx.delete::<Locks>((home, upload));
    tx.delete::<Acls>((home, upload));
    tx.delete::<UploadSealings>((home, upload));
    tx.count(home.bucket, |usage| *usage -= Usage { uploads: 1, part_bytes, ..Usage::default() })?;
    extent::release_all(tx, home, unused)
}
