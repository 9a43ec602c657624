//! Annotations: texts with names that belong to a version, as long as it is there.
//!
//! All of a version are one row, and their extents have one home and one data key, so that a version that goes costs one
//! row however many it has. Their bytes are always encrypted, under another key than the object's, and never under one
//! that only a customer knows.

use fabric::ids::Stamp;
use fabric::limits::{ANNOTATION_BYTES_MAX, ANNOTATIONS_MAX};

use super::transaction::Transaction;
use super::{Outcome, Stop, extent, lock, malformed, object, quota};
use crate::meta::command::{AnnotationChange, CopiedAnnotations, Done, NewAnnotation, Reject, SetAnnotation};
use crate::meta::model::{Annotation, AnnotationSet, Bucket, EventKind, Garbage, Home, Usage};
use crate::meta::names::AnnotationName;
use crate::meta::sealing::{Scheme, Sealing};
use crate::meta::store::Fault;
use crate::meta::tables::{AnnotationSets, Buckets};

/// Adds, replaces or removes an annotation of a version, which stays what it is.
pub(super) fn set(tx: &mut Transaction<'_>, command: &SetAnnotation) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    let object = object::existing(tx, &home, command.version)?;
    if command.etag.as_ref().is_some_and(|condition| !condition.meets(&object.etag)) {
        return Err(Reject::PreconditionFailed.into());
    }
    let set = tx.get::<AnnotationSets>((&home, object.stamp))?;
    let place = set.as_ref().and_then(|set| set.place(&command.name).ok());
    if place.is_some() {
        lock::check_removal(tx, &home, object.stamp, command.bypass)?;
    }
    let kind = match (&command.change, set, place) {
        (AnnotationChange::Put(new), set, _) => {
            if new.seen != object.stamp {
                return Err(Reject::SourceChanged.into());
            }
            put(tx, &bucket, &home, set, &command.name, new)?;
            EventKind::AnnotationPut
        }
        (AnnotationChange::Remove, Some(set), Some(place)) => {
            remove(tx, &home, object.stamp, set, place)?;
            EventKind::AnnotationDelete
        }
        (AnnotationChange::Remove, _, _) => return Ok(Done::Stored(object::stored(&bucket, &object))),
    };
    object::tell(tx, &bucket, &home, &object, kind, &command.origin, 0);
    Ok(Done::Stored(object::stored(&bucket, &object)))
}

fn put(
    tx: &mut Transaction<'_>,
    bucket: &Bucket,
    own: &Home,
    set: Option<AnnotationSet>,
    name: &AnnotationName,
    new: &NewAnnotation,
) -> Result<(), Stop> {
    check_sealing(&new.sealing)?;
    let mut set = set.unwrap_or_else(|| AnnotationSet {
        home: None,
        sealing: new.sealing.clone(),
        annotations: Vec::new(),
    });
    let home = set.home(own);
    if (&home, &set.sealing) != (&new.home, &new.sealing) {
        return Err(Reject::SourceChanged.into());
    }
    let copies = extent::check_new(tx, &home, &new.extent)?;
    let bytes = object::plain_bytes(Some(&new.sealing), new.extent.bytes)?;
    if ANNOTATION_BYTES_MAX < bytes {
        return malformed("the annotation is too large");
    }
    let place = set.place(name);
    if place.is_err() && ANNOTATIONS_MAX <= set.annotations.len() {
        return Err(Reject::TooManyAnnotations.into());
    }
    let added = usage(bytes);
    let freed = usage(place.map_or(0, |place| set.annotations[place].bytes));
    quota::check(tx, bucket, added, freed)?;

    extent::name(tx, &home, &new.extent, 1, &copies)?;
    let annotation = Annotation {
        name: name.clone(),
        bytes,
        md5: new.md5,
        checksum: new.checksum.clone(),
        modified: tx.now,
        extent: new.extent.id,
    };
    match place {
        Ok(place) => {
            let replaced = std::mem::replace(&mut set.annotations[place], annotation);
            extent::release(tx, &home, replaced.extent)?;
        }
        Err(place) => set.annotations.insert(place, annotation),
    }
    tx.put::<AnnotationSets>((own, new.seen), &set);
    Ok(tx.count(own.bucket, |counted| {
        *counted -= freed;
        *counted += added;
    })?)
}

fn remove(
    tx: &mut Transaction<'_>,
    own: &Home,
    stamp: Stamp,
    mut set: AnnotationSet,
    place: usize,
) -> Result<(), Fault> {
    let removed = set.annotations.remove(place);
    extent::release(tx, &set.home(own), removed.extent)?;
    match set.annotations.is_empty() {
        true => tx.delete::<AnnotationSets>((own, stamp)),
        false => tx.put::<AnnotationSets>((own, stamp), &set),
    }
    tx.count(own.bucket, |counted| *counted -= usage(removed.bytes))
}

fn usage(bytes: u64) -> Usage {
    Usage { bytes, ..Usage::default() }
}

/// Refuses a sealing that rows are not made for, or that a customer's key would have to open.
fn check_sealing(sealing: &Sealing) -> Result<(), Stop> {
    match sealing.scheme {
        Scheme::Customer { .. } => malformed("an annotation has no key of a customer"),
        Scheme::Store { .. } | Scheme::Named { .. } => object::check_sealing(Some(sealing)),
    }
}

/// Bytes of the annotations of a version.
pub(super) fn bytes(tx: &Transaction<'_>, own: &Home, stamp: Stamp) -> Result<u64, Fault> {
    Ok(tx.get::<AnnotationSets>((own, stamp))?.map_or(0, |set| set.bytes()))
}

/// The same for those that a copy takes with it, if their data key is the one that was sealed anew for it.
pub(super) fn check_copied(tx: &Transaction<'_>, copied: &CopiedAnnotations) -> Result<u64, Stop> {
    check_sealing(&copied.sealing)?;
    let set = tx.get::<AnnotationSets>((&copied.from, copied.version))?;
    let set = set.filter(|set| set.sealing == copied.opened).ok_or(Reject::SourceChanged)?;
    Ok(set.bytes())
}

/// Gives the annotations of a version to a new one as well, with their data key sealed otherwise where that is said.
pub(super) fn share(
    tx: &mut Transaction<'_>,
    (from, old): (&Home, Stamp),
    (to, new): (&Home, Stamp),
    resealed: Option<&Sealing>,
) -> Result<(), Fault> {
    let Some(set) = tx.get::<AnnotationSets>((from, old))? else { return Ok(()) };
    let home = set.home(from);
    set.annotations.iter().try_for_each(|annotation| extent::retain(tx, &home, annotation.extent))?;
    let bytes = set.bytes();
    let sealing = resealed.cloned().unwrap_or(set.sealing);
    let home = (home != *to).then_some(home);
    tx.put::<AnnotationSets>((to, new), &AnnotationSet { home, sealing, annotations: set.annotations });
    tx.count(to.bucket, |counted| counted.bytes += bytes)
}

/// Removes the annotations of a version that goes.
pub(super) fn clear(tx: &mut Transaction<'_>, own: &Home, stamp: Stamp) -> Result<(), Fault> {
    let Some(set) = tx.get::<AnnotationSets>((own, stamp))? else { return Ok(()) };
    tx.delete::<AnnotationSets>((own, stamp));
    let bytes = set.bytes();
    tx.count(own.bucket, |counted| counted.bytes = counted.bytes.saturating_sub(bytes))?;
    // Step by step later: a command may remove many versions.
    let (home, annotations) = (set.home(own), set.annotations);
    let extents = annotations.into_iter().map(|annotation| annotation.extent).collect();
    tx.add_garbage(home.bucket, &Garbage::Body { home, extents });
    Ok(())
}

impl AnnotationSet {
    /// Where the annotation of this name is, or would be.
    fn place(&self, name: &AnnotationName) -> Result<usize, usize> {
        self.annotations.binary_search_by(|annotation| annotation.name.cmp(name))
    }
}
