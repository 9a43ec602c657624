//! Bodies that are whole copies while the class of their version wants them as shards: what `apply` and answers share.
//!
//! The shards of an extent have its id but for the coding, as parts are encrypted by the ids of their extents. So an id may
//! be named for a second time, in the other coding, for as long as it is named in one; and for that long the chunks of
//! neither are collected as if nobody named them. What is shared by several versions is left alone: it would be named in
//! both codings, and what is garbage in one could be named anew.

use std::collections::BTreeMap;

use fabric::coding::Coding;
use fabric::ids::{ExtentId, LayoutVersion, Stamp};
use fabric::limits::CHUNK_BYTES;

use super::model::{Body, Extent, Home, Object, Version};
use super::store::{Fault, Rows};
use super::tables::{Bodies, Cluster, Descending, Extents, Objects, Versions, get, owners_of};

/// What is to become shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The version.
    pub(super) object: Object,
    /// Under which (bucket, key) its extents are named.
    pub(super) home: Home,
    /// Those that are whole copies, by id, and how often the body names each; nothing else does.
    pub(super) extents: Vec<(Extent, u32)>,
}

/// Looks at a version. `None`: it is gone, or its bytes stay as they are.
pub(super) fn find(rows: &dyn Rows, own: &Home, stamp: Stamp) -> Result<Option<Found>, Fault> {
    let object = match get::<Objects>(rows, own)?.filter(|object| object.stamp == stamp) {
        Some(object) => object,
        None => match get::<Versions>(rows, (own, Descending(stamp)))? {
            Some(Version::Object(object)) => object,
            Some(Version::DeleteMarker { .. }) | None => return Ok(None),
        },
    };
    if object.attributes.storage_class.is_none() {
        return Ok(None);
    }
    let home = object.body.home(own.clone());
    let Some(named) = whole_extents(rows, &home, object.body.place())? else { return Ok(None) };
    let mut extents = Vec::with_capacity(named.len());
    for (id, uses) in named {
        let row = get::<Extents>(rows, (&home, id))?;
        let row = row.ok_or_else(|| Fault::new("read body", format!("extent {id} has no row")))?;
        let is_cut_as_usual = row.extent.chunk_bytes as usize == CHUNK_BYTES;
        if row.references != uses || !is_cut_as_usual || !has_nodes(rows, id)? {
            return Ok(None);
        }
        extents.push((row.extent, uses));
    }
    Ok((!extents.is_empty()).then_some(Found { object, home, extents }))
}

/// The extents of a body that are whole copies, and how often it names each. `None`: it has none, or shares them.
fn whole_extents(
    rows: &dyn Rows,
    home: &Home,
    place: &Body,
) -> Result<Option<BTreeMap<ExtentId, u32>>, Fault> {
    let ids = match place {
        Body::Extent { id, .. } => vec![*id],
        Body::Slices { id, .. } => {
            let row = get::<Bodies>(rows, (home, *id))?;
            let row = row.ok_or_else(|| Fault::new("read body", format!("body {id} has no row")))?;
            if row.references != 1 {
                return Ok(None);
            }
            row.slices.iter().filter(|slice| slice.bytes != 0).map(|slice| slice.extent).collect()
        }
        Body::Empty | Body::Inline(_) | Body::Packed { .. } | Body::Sealed { .. } => return Ok(None),
    };
    let mut named = BTreeMap::new();
    for id in ids.into_iter().filter(|id| id.coding() == Some(Coding::Whole)) {
        *named.entry(id).or_default() += 1;
    }
    Ok(Some(named))
}

/// Whether the newest layout has nodes enough for shards.
fn has_nodes(rows: &dyn Rows, id: ExtentId) -> Result<bool, Fault> {
    let newest = get::<Cluster>(rows, ())?.map_or(LayoutVersion(0), |cluster| cluster.layout);
    let owners = owners_of(rows, newest, id)?.unwrap_or_default();
    Ok(Coding::widest(owners.len()) != Coding::Whole)
}

/// Whether an extent is named, in whichever coding.
pub(super) fn is_named(rows: &dyn Rows, home: &Home, id: ExtentId) -> Result<bool, Fault> {
    for coding in Coding::ALL {
        if get::<Extents>(rows, (home, id.coded(coding)))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
