//! Bodies that lie on nodes without a row are named again.
//!
//! Only while garbage is kept: nothing that is found then is being removed. What waits to be removed afterwards is left
//! alone, and so is what writers of this epoch may name still.

use std::collections::BTreeSet;

use fabric::ids::ExtentId;
use fabric::limits::{OBJECT_BYTES_MAX, PARTS_MAX};

use super::extent::Copies;
use super::transaction::Transaction;
use super::{Outcome, Stop, body, bucket, extent, malformed, multipart, object};
use crate::meta::command::{NewBody, Reject, Salvage, SalvagedBody};
use crate::meta::lookup::newest_other;
use crate::meta::model::{
    Body, Bucket, Etag, EventKind, Garbage, Hold, Home, Lock, Object, Origin, Slice, Versioning,
};
use crate::meta::sealing::{Sealing, sealed};
use crate::meta::store::Fault;
use crate::meta::tables::{Bodies, Buckets, Garbages, Holds, Objects};

/// Makes a version of bodies that were found.
pub(super) fn salvage(tx: &mut Transaction<'_>, command: &Salvage, sealing: Option<&Sealing>) -> Outcome {
    let Some(hold) = tx.get::<Holds>(())? else {
        return malformed("garbage is collected: what lies on nodes may be on its way out");
    };
    object::check_sealing(sealing)?;
    let found = check(command, sealing)?;
    let known = match tx.get::<Buckets>(command.bucket)? {
        Some(known) => Ok(known),
        None => Err(bucket::check_free(tx, &command.bucket_name, &command.owner)?),
    };
    let home = Home { bucket: command.bucket, key: command.key.clone() };
    check_gives_way(tx, &home, command, &hold)?;
    let copies = check_extents(tx, &home, &command.bodies)?;

    let bucket = match known {
        Ok(known) => known,
        Err(mut owner) => bucket::insert(tx, command.bucket, &command.bucket_name, &mut owner),
    };
    install(tx, &bucket, &home, command, &found, &copies)
}

fn install(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    command: &Salvage,
    found: &Found<'_>,
    copies: &[Copies],
) -> Outcome {
    let stamp = tx.stamp(bucket, 0);
    let (body, etag) = match (&command.bodies[..], copies) {
        ([only], [copies]) if only.part == 0 => {
            let body = NewBody::Extent(only.extent.clone());
            (body::store(tx, home, stamp, &body, copies)?, Etag::Md5(only.md5))
        }
        (bodies, _) => {
            for (part, copies) in bodies.iter().zip(copies) {
                extent::name(tx, home, &part.extent, 1, copies)?;
            }
            let slices =
                bodies.iter().zip(&found.bytes).map(|(body, bytes)| slice_of(body, *bytes)).collect();
            let body = body::store_slices(tx, home, stamp, slices);
            (body, multipart::etag_of(bodies.iter().map(|part| part.md5)))
        }
    };
    let object = Object {
        stamp,
        null_version: bucket.versioning != Versioning::Enabled,
        modified: tx.now,
        bytes: found.bytes.iter().sum(),
        etag,
        body: sealed(found.sealing.cloned(), body),
        checksum: None,
        attributes: command.attributes.clone(),
    };
    Ok(object::install(tx, bucket, home, &object, EventKind::Put, &Origin::default(), &Lock::default())?)
}

/// What the bodies are to their client.
struct Found<'a> {
    /// Their bytes, in order.
    bytes: Vec<u64>,
    sealing: Option<&'a Sealing>,
}

/// The bytes of all bodies, if they can be an object.
fn check<'a>(command: &Salvage, sealing: Option<&'a Sealing>) -> Result<Found<'a>, Stop> {
    let bodies = &command.bodies;
    if bodies.is_empty() || usize::from(PARTS_MAX) < bodies.len() {
        return malformed("an object has 1 to 10000 bodies");
    }
    let whole = bodies.len() == 1 && bodies[0].part == 0;
    if !whole && (bodies[0].part == 0 || bodies.windows(2).any(|pair| pair[1].part <= pair[0].part)) {
        return malformed("the numbers of parts do not ascend from 1");
    }
    let bytes = bodies.iter().map(|body| object::plain_bytes(sealing, body.extent.bytes));
    let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
    if OBJECT_BYTES_MAX < bytes.iter().sum() {
        Err(Reject::TooLarge.into())
    } else {
        Ok(Found { bytes, sealing })
    }
}

/// Whether the version that is there may be replaced.
fn check_gives_way(tx: &Transaction<'_>, home: &Home, command: &Salvage, hold: &Hold) -> Result<(), Stop> {
    let Some(current) = tx.get::<Objects>(home)? else {
        return match newest_other(tx.rows(), home)? {
            Some(_) => Err(Reject::PreconditionFailed.into()), // A delete marker.
            None => Ok(()),
        };
    };
    let replaceable = command.newer || hold.since < current.stamp.index;
    let found = command.bodies.iter().map(|body| body.extent.id.age()).max();
    let older = written(tx, home, &current)?.is_some_and(|written| Some(written.age()) < found);
    if replaceable && older { Ok(()) } else { Err(Reject::PreconditionFailed.into()) }
}

/// The youngest extent of a version that was written under its own key; of others nobody knows.
fn written(tx: &Transaction<'_>, home: &Home, object: &Object) -> Result<Option<ExtentId>, Fault> {
    Ok(match object.body.place() {
        Body::Extent { id, home: None } => Some(*id),
        Body::Slices { id, home: None } => {
            let row = tx.get::<Bodies>((home, *id))?;
            row.and_then(|row| row.slices.iter().map(|slice| slice.extent).max_by_key(|id| id.age()))
        }
        _ => None,
    })
}

/// Nobody else names the extents, ever.
fn check_extents(tx: &Transaction<'_>, home: &Home, bodies: &[SalvagedBody]) -> Result<Vec<Copies>, Stop> {
    let found: BTreeSet<ExtentId> = bodies.iter().map(|body| body.extent.id).collect();
    if found.len() != bodies.len() {
        return malformed("a body is there twice");
    }
    if found.iter().any(|id| tx.cluster.epoch <= id.session().epoch) {
        return Err(Reject::LateExtent.into());
    }
    for row in tx.scan_under::<Garbages>(home.bucket)? {
        let waits = match row?.1 {
            Garbage::Extent(extent) => found.contains(&extent.id),
            Garbage::Body { extents, .. } => extents.iter().any(|id| found.contains(id)),
        };
        if waits {
            return Err(Reject::LateExtent.into());
        }
    }
    bodies.iter().map(|body| extent::check_unnamed(tx, home, &body.extent)).collect()
}

fn slice_of(body: &SalvagedBody, bytes: u64) -> Slice {
    Slice { extent: body.extent.id, offset: 0, bytes, part: body.part, md5: body.md5, checksum: None }
}
