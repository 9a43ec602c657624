//! What jobs ask for: debts, garbage, old uploads, and whether extents are named.

use std::collections::BTreeSet;
use std::ops::Bound;

use fabric::ids::{BucketId, ExtentId, NodeId, Stamp};
use fabric::limits::COLLECT_EXTENTS_PER_STEP;

use super::bounded;
use crate::meta::model::{ClusterMs, Extent, Garbage, Home};
use crate::meta::names::ObjectKey;
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    DebtCounts, Debts, Extents, Garbages, Sessions, Uploads, get, key_bytes, scan, scan_all, successor,
};

/// Extents of garbage bodies in one answer, so that it fits a frame.
const GARBAGE_EXTENTS_MAX: usize = 100 * COLLECT_EXTENTS_PER_STEP;

/// Copies that a node owes. Rows are in order of home, so those of other nodes are passed over.
pub(super) fn debts(
    rows: &dyn Rows,
    node: NodeId,
    after: Option<&(Home, ExtentId)>,
    limit: u32,
) -> Result<Vec<(Home, Extent)>, Fault> {
    let mut found = Vec::new();
    if get::<DebtCounts>(rows, node)?.is_none() {
        return Ok(found);
    }
    let behind = after.and_then(|(home, extent)| successor(&key_bytes(&(home, *extent))));
    let lower = behind.as_deref().map_or(Bound::Unbounded, Bound::Included);
    for row in scan::<Debts>(rows, lower, Bound::Unbounded)? {
        if found.len() == bounded(limit) {
            break;
        }
        let ((home, id, owing), _) = row?;
        if owing != node {
            continue;
        }
        let row = get::<Extents>(rows, (&home, id))?;
        let row = row.ok_or_else(|| Fault::new("read debts", format!("extent {id} has no row")))?;
        found.push((home, row.extent));
    }
    Ok(found)
}

/// Garbage below every live session's oldest read, that no session pins.
pub(super) fn garbage(
    rows: &dyn Rows,
    after: Option<(BucketId, Stamp)>,
    limit: u32,
) -> Result<Vec<(BucketId, Stamp, Garbage)>, Fault> {
    let mut oldest_read = u64::MAX;
    let mut pinned = BTreeSet::new();
    for row in scan_all::<Sessions>(rows)? {
        let (_, session) = row?;
        oldest_read = oldest_read.min(session.oldest_read);
        pinned.extend(session.pinned);
    }
    let (mut found, mut extents) = (Vec::new(), 0);
    let mut from = after.and_then(|after| successor(&key_bytes(&after))).unwrap_or_default();
    // Within a bucket rows ascend by index: behind the first that is too young, go on with the next bucket.
    loop {
        let mut young = None;
        for row in scan::<Garbages>(rows, Bound::Included(&from), Bound::Unbounded)? {
            let ((bucket, stamp), garbage) = row?;
            if found.len() == bounded(limit) || GARBAGE_EXTENTS_MAX <= extents {
                return Ok(found);
            }
            if oldest_read <= stamp.index {
                young = Some(bucket);
                break;
            }
            match &garbage {
                Garbage::Extent(extent) if pinned.contains(&extent.id) => continue,
                Garbage::Extent(_) => {}
                Garbage::Body { extents: held, .. } => extents += held.len(),
            }
            found.push((bucket, stamp, garbage));
        }
        match young.and_then(|bucket| successor(&key_bytes(&bucket))) {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

/// Whether a row names each extent. One whose body is being taken apart counts as named.
pub(super) fn named(rows: &dyn Rows, extents: &[(Home, ExtentId)]) -> Result<Vec<bool>, Fault> {
    extents.iter().map(|(home, id)| Ok(get::<Extents>(rows, (home, *id))?.is_some())).collect()
}

/// Uploads that were begun before a time, anywhere.
pub(super) fn old_uploads(
    rows: &dyn Rows,
    before: ClusterMs,
    limit: u32,
) -> Result<Vec<(BucketId, ObjectKey, Stamp)>, Fault> {
    let mut found = Vec::new();
    for row in scan_all::<Uploads>(rows)? {
        if found.len() == bounded(limit) {
            break;
        }
        let ((home, id), upload) = row?;
        if upload.initiated < before {
            found.push((home.bucket, home.key, id));
        }
    }
    Ok(found)
}
