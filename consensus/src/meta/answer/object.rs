//! One version of an object, with where its bytes are.

use fabric::ids::{ExtentId, Stamp};

use super::Stop;
use crate::meta::command::{Reject, VersionSelector};
use crate::meta::lookup::{Found, find, newest_other};
use crate::meta::model::{Annotation, AnnotationSet, Body, Home, Object, Slice, Version};
use crate::meta::names::AnnotationName;
use crate::meta::query::{AnnotationsView, BodyView, ObjectView, Piece, Want};
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{AnnotationSets, Bodies, Extents, Inline, Objects, get};

/// The version that is asked for.
pub(super) fn view(
    rows: &dyn Rows,
    home: &Home,
    version: Option<VersionSelector>,
    want: Want,
) -> Result<ObjectView, Stop> {
    let object = match version {
        None => match get::<Objects>(rows, home)? {
            Some(object) => object,
            None => return Err(missing_current(rows, home)?.into()),
        },
        Some(selector) => match find(rows, home, selector)?.ok_or(Reject::NoSuchVersion)? {
            Found::Current(object) | Found::Other(Version::Object(object)) => object,
            Found::Other(marker) => return Err(marked(&marker, false).into()),
        },
    };
    let (body, parts) = match want {
        Want::Row => (BodyView::NotAsked, Vec::new()),
        Want::Body => resolve(rows, home, &object)?,
    };
    Ok(ObjectView { object, body, parts })
}

/// The annotations of a version.
pub(super) fn annotations(
    rows: &dyn Rows,
    own: &Home,
    version: Option<VersionSelector>,
    name: Option<&AnnotationName>,
) -> Result<AnnotationsView, Stop> {
    let object = view(rows, own, version, Want::Row)?.object;
    let Some(set) = get::<AnnotationSets>(rows, (own, object.stamp))? else {
        let (home, annotations) = (own.clone(), Vec::new());
        return Ok(AnnotationsView { object, home, sealing: None, annotations, piece: None });
    };
    let (home, AnnotationSet { sealing, mut annotations, .. }) = (set.home(own), set);
    annotations.retain(|annotation| name.is_none_or(|name| annotation.name == *name));
    let only = annotations.first().filter(|_| name.is_some());
    let stored = |only: &Annotation| piece(rows, &home, only.extent, 0, sealing.sealed_bytes(only.bytes));
    let piece = only.map(stored).transpose()?;
    Ok(AnnotationsView { object, home, sealing: Some(sealing), annotations, piece })
}

fn missing_current(rows: &dyn Rows, home: &Home) -> Result<Reject, Fault> {
    Ok(newest_other(rows, home)?.map_or(Reject::NoSuchKey, |marker| marked(&marker, true)))
}

fn marked(marker: &Version, current: bool) -> Reject {
    let (stamp, modified) = match marker {
        Version::DeleteMarker { stamp, modified, .. } => (*stamp, *modified),
        Version::Object(object) => (object.stamp, object.modified),
    };
    let version = if marker.null_version() { "null".to_string() } else { stamp.to_string() };
    Reject::DeleteMarker { version, modified, current }
}

fn resolve(rows: &dyn Rows, own: &Home, object: &Object) -> Result<(BodyView, Vec<Slice>), Fault> {
    match object.body.place() {
        Body::Empty => Ok((BodyView::Inline(bytes::Bytes::new()), Vec::new())),
        Body::Inline(id) => {
            let payload = get::<Inline>(rows, (own, *id))?.ok_or_else(|| missing("payload", *id))?;
            Ok((BodyView::Inline(payload), Vec::new()))
        }
        Body::Extent { id, home } => {
            let piece = piece(rows, home.as_ref().unwrap_or(own), *id, 0, object.stored_bytes())?;
            Ok((BodyView::Pieces(vec![piece]), Vec::new()))
        }
        Body::Packed { id, offset, home } => {
            let piece = piece(rows, home.as_ref().unwrap_or(own), *id, *offset, object.stored_bytes())?;
            Ok((BodyView::Pieces(vec![piece]), Vec::new()))
        }
        Body::Slices { id, home } => {
            let home = home.as_ref().unwrap_or(own);
            let row = get::<Bodies>(rows, (home, *id))?.ok_or_else(|| missing("body", *id))?;
            let sealing = object.body.sealing();
            let stored = |bytes| sealing.map_or(bytes, |sealing| sealing.sealed_bytes(bytes));
            // A part of no bytes names no extent.
            let pieces = row.slices.iter().filter(|slice| slice.bytes != 0);
            let pieces =
                pieces.map(|slice| piece(rows, home, slice.extent, slice.offset, stored(slice.bytes)));
            Ok((BodyView::Pieces(pieces.collect::<Result<_, _>>()?), row.slices))
        }
        Body::Sealed { .. } => Err(Fault::new("read body", format!("{own:?} is sealed twice"))),
    }
}

fn piece(rows: &dyn Rows, home: &Home, id: ExtentId, offset: u64, bytes: u64) -> Result<Piece, Fault> {
    let row = get::<Extents>(rows, (home, id))?;
    let row = row.ok_or_else(|| Fault::new("read body", format!("extent {id} has no row")))?;
    Ok(Piece { extent: row.extent, offset, bytes })
}

fn missing(what: &str, id: Stamp) -> Fault {
    Fault::new("read body", format!("{what} {id} has no row"))
}
