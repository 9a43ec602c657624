//! What jobs ask for: debts, garbage, old uploads, what belongs on a node, and whether extents are named.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use fabric::ids::{BucketId, ExtentId, NodeId, Stamp};
use fabric::limits::{
    COLLECT_EXTENTS_PER_STEP, INLINE_ROWS_VISITED_MAX, LIST_ROWS_VISITED_MAX, PACK_PAYLOADS_MAX,
};

use super::{bounded, bucket_of};
use crate::meta::model::{Absence, ClusterRow, Extent, Garbage, Hint, Home};
use crate::meta::query::{Answer, DuePage, InlinePage, PlacedOf, Recoding};
use crate::meta::recoding::{find, is_named};
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    Absences, Cluster, DebtCounts, Debts, Due, DueWalks, Extents, Garbages, Holds, Inline, Recodings,
    Sessions, Uploads, get, key_bytes, owners_of, partition_of, scan, scan_all, scan_under, successor,
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

/// Partitions that a node has to verify.
pub(super) fn absences(rows: &dyn Rows, node: NodeId) -> Result<Vec<(u16, Absence)>, Fault> {
    scan_under::<Absences>(rows, node)?
        .map(|row| row.map(|((_, partition), absence)| (partition, absence)))
        .collect()
}

/// How many partitions each node has to verify.
pub(super) fn absences_by_node(rows: &dyn Rows) -> Result<Vec<(NodeId, u64)>, Fault> {
    let mut counts: BTreeMap<NodeId, u64> = BTreeMap::new();
    for row in scan_all::<Absences>(rows)? {
        *counts.entry(row?.0.0).or_default() += 1;
    }
    Ok(counts.into_iter().collect())
}

/// Extents that the catalog places on a node. Rows are in order of home, so one walk serves all partitions.
pub(super) fn placed(
    rows: &dyn Rows,
    node: NodeId,
    of: PlacedOf,
    after: Option<&(Home, ExtentId)>,
    limit: u32,
) -> Result<Answer, Fault> {
    let absent: BTreeMap<u16, Absence> = match of {
        PlacedOf::All => BTreeMap::new(),
        PlacedOf::Absences => absences(rows, node)?.into_iter().collect(),
    };
    let wanted =
        |id: ExtentId| match absent.first_key_value() {
            // All rows of a node are of one layout: a new one brings its own.
            Some((_, absence)) => Ok(partition_of(rows, absence.layout, id)?
                .is_some_and(|partition| absent.contains_key(&partition))),
            None => Ok::<_, Fault>(of == PlacedOf::All),
        };
    let mut extents = Vec::new();
    let behind = after.and_then(|(home, extent)| successor(&key_bytes(&(home, *extent))));
    let lower = behind.as_deref().map_or(Bound::Unbounded, Bound::Included);
    for (visited, row) in scan::<Extents>(rows, lower, Bound::Unbounded)?.enumerate() {
        let ((home, id), row) = row?;
        if wanted(id)? {
            let owners = owners_of(rows, row.extent.layout, id)?.unwrap_or_default();
            if row.extent.coding().holders(&owners).contains(&node) {
                extents.push((home.clone(), row.extent));
            }
        }
        if extents.len() == bounded(limit) || LIST_ROWS_VISITED_MAX <= visited {
            return Ok(Answer::Placed { extents, next: Some((home, id)) });
        }
    }
    Ok(Answer::Placed { extents, next: None })
}

/// What live sessions may read still.
pub(super) struct Readers {
    /// What entries below this index replaced is read by nobody …
    pub(super) oldest_read: u64,
    /// … but for these.
    pub(super) pinned: BTreeSet<ExtentId>,
}

impl Readers {
    pub(super) fn of(rows: &dyn Rows) -> Result<Readers, Fault> {
        let mut readers = Readers { oldest_read: u64::MAX, pinned: BTreeSet::new() };
        for row in scan_all::<Sessions>(rows)? {
            let (_, session) = row?;
            readers.oldest_read = readers.oldest_read.min(session.oldest_read);
            readers.pinned.extend(session.pinned);
        }
        Ok(readers)
    }
}

/// Whether garbage is kept.
pub(super) fn is_held(rows: &dyn Rows) -> Result<bool, Fault> {
    Ok(get::<Holds>(rows, ())?.is_some())
}

/// Garbage below every live session's oldest read, that no session pins.
pub(super) fn garbage(
    rows: &dyn Rows,
    after: Option<(BucketId, Stamp)>,
    limit: u32,
) -> Result<Vec<(BucketId, Stamp, Garbage)>, Fault> {
    if is_held(rows)? {
        return Ok(Vec::new());
    }
    let Readers { oldest_read, pinned } = Readers::of(rows)?;
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

/// Whether a row names each extent. One whose body is being taken apart counts as named, and while garbage is kept all
/// do.
pub(super) fn named(rows: &dyn Rows, extents: &[(Home, ExtentId)]) -> Result<Vec<bool>, Fault> {
    if is_held(rows)? {
        return Ok(vec![true; extents.len()]);
    }
    named_now(rows, extents)
}

/// Which of these extents are named by a row, in their own coding or another one.
pub(super) fn named_now(rows: &dyn Rows, extents: &[(Home, ExtentId)]) -> Result<Vec<bool>, Fault> {
    extents.iter().map(|(home, id)| is_named(rows, home, *id)).collect()
}

/// Of the next uploads in order of home, those that were begun so long ago. None where nothing expires now.
pub(super) fn old_uploads(
    rows: &dyn Rows,
    age: Duration,
    after: Option<&(Home, Stamp)>,
    limit: u32,
) -> Result<Answer, Fault> {
    let cluster = get::<Cluster>(rows, ())?.unwrap_or_else(ClusterRow::first);
    let after = after.map(|(home, id)| key_bytes(&(home, *id)));
    let lower = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let (mut uploads, mut visited, mut last) = (Vec::new(), 0, None);
    for row in scan::<Uploads>(rows, lower, Bound::Unbounded)?.take(bounded(limit)) {
        let (place, upload) = row?;
        visited += 1;
        if cluster.expired(upload.initiated, age) {
            uploads.push(place.clone());
        }
        last = Some(place);
    }
    Ok(Answer::OldUploads { uploads, next: last.filter(|_| visited == bounded(limit)) })
}

/// Hints whose time has come; none where nothing expires now.
pub(super) fn due(rows: &dyn Rows, after: Option<&Hint>, limit: u32) -> Result<DuePage, Fault> {
    let cluster = get::<Cluster>(rows, ())?.unwrap_or_else(ClusterRow::first);
    let walk = scan_all::<DueWalks>(rows)?.next().transpose()?.map(|(bucket, _)| bucket);
    let mut page = DuePage { now: cluster.time, hints: Vec::new(), next: None, walk };
    let after = after.map(|Hint { due, home, item }| key_bytes(&(*due, home, *item)));
    let lower = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    for row in scan::<Due>(rows, lower, Bound::Unbounded)? {
        let ((due, home, item), ()) = row?;
        let from = due.max(cluster.expires_after);
        if page.now < from || page.hints.len() == bounded(limit) {
            page.next = Some(from);
            break;
        }
        page.hints.push(Hint { due, home, item });
    }
    Ok(page)
}

/// The next version whose bytes are to become shards.
pub(super) fn recoding(rows: &dyn Rows, after: Option<&(Home, Stamp)>) -> Result<Option<Recoding>, Fault> {
    let after = after.map(|(home, version)| key_bytes(&(home, *version)));
    let lower = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let Some(row) = scan::<Recodings>(rows, lower, Bound::Unbounded)?.next() else { return Ok(None) };
    let ((home, version), ()) = row?;
    let found = find(rows, &home, version)?;
    let extents =
        found.map_or(Vec::new(), |found| found.extents.into_iter().map(|(extent, _)| extent).collect());
    Ok(Some(Recoding { home, version, extents }))
}

/// Whether the index of a version is one of this log: what keeps an id of another cluster is of an epoch before that of its
/// bucket, as is what is old.
fn is_of_here(rows: &dyn Rows, bucket: BucketId, version: Stamp) -> Result<bool, Fault> {
    let cluster = get::<Cluster>(rows, ())?.map_or(0, |cluster| cluster.epoch);
    Ok(bucket_of(rows, bucket)?.epoch.max(cluster) <= version.epoch)
}

/// Payloads of one bucket that are older than an index, while all of them have more than `above` bytes.
pub(super) fn inline(
    rows: &dyn Rows,
    above: u64,
    after: Option<&(Home, Stamp)>,
    before: u64,
    bytes_max: u64,
) -> Result<InlinePage, Fault> {
    let total_bytes = get::<Cluster>(rows, ())?.map_or(0, |cluster| cluster.inline_bytes);
    let mut page = InlinePage { total_bytes, bucket: None, payloads: Vec::new(), position: None };
    if total_bytes <= above {
        return Ok(page);
    }
    let behind = after.map(|(home, version)| key_bytes(&(home, *version)));
    let lower = behind.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut bytes = 0;
    for (visited, row) in scan::<Inline>(rows, lower, Bound::Unbounded)?.enumerate() {
        let ((home, version), payload) = row?;
        bytes += payload.len() as u64;
        let foreign = page.bucket.as_ref().is_some_and(|bucket| bucket.id != home.bucket);
        let full = page.payloads.len() == PACK_PAYLOADS_MAX || bytes_max < bytes;
        if foreign || (full && !page.payloads.is_empty()) || visited == INLINE_ROWS_VISITED_MAX {
            return Ok(page);
        }
        page.position = Some((home.clone(), version));
        if before <= version.index && is_of_here(rows, home.bucket, version)? {
            bytes -= payload.len() as u64;
            continue;
        }
        if page.bucket.is_none() {
            page.bucket = Some(bucket_of(rows, home.bucket)?);
        }
        page.payloads.push((home.key, version, payload));
    }
    page.position = None;
    Ok(page)
}
