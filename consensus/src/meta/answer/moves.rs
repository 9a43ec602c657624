//! Where extents are: all of them, what moves between layouts, copies to remove, and how much is left.

use std::collections::BTreeMap;
use std::ops::Bound;

use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::limits::LIST_ROWS_VISITED_MAX;

use super::work::{Readers, is_held};
use super::{bounded, newest_layout};
use crate::meta::model::{Extent, Home};
use crate::meta::query::Answer;
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    Absences, Extents, LeavingCopies, Scan, as_upper, get, key_bytes, owners_of, partition_of, scan,
    successor,
};

type Place = (Home, ExtentId);

/// Rows of extents behind a place.
fn extents_after<'a>(rows: &'a dyn Rows, after: Option<&Place>) -> Result<Scan<'a, Extents>, Fault> {
    let behind = after.and_then(|(home, extent)| successor(&key_bytes(&(home, *extent))));
    scan::<Extents>(rows, behind.as_deref().map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded)
}

/// Everything that is named.
pub(super) fn extents(rows: &dyn Rows, after: Option<&Place>, limit: u32) -> Result<Answer, Fault> {
    let mut extents = Vec::new();
    for row in extents_after(rows, after)? {
        let ((home, id), row) = row?;
        extents.push((home.clone(), row.extent));
        if extents.len() == bounded(limit) {
            return Ok(Answer::Placed { extents, next: Some((home, id)) });
        }
    }
    Ok(Answer::Placed { extents, next: None })
}

/// Extents of older layouts that `node` brings to their new owners: the first of these that lacks them does, or the
/// first of all where none does.
pub(super) fn moving(
    rows: &dyn Rows,
    node: NodeId,
    after: Option<&Place>,
    limit: u32,
) -> Result<Answer, Fault> {
    let newest = newest_layout(rows)?;
    let mut extents = Vec::new();
    for (visited, row) in extents_after(rows, after)?.enumerate() {
        let ((home, id), row) = row?;
        if row.extent.layout < newest && mover(rows, &home, &row.extent, newest)? == Some(node) {
            extents.push((home.clone(), row.extent));
        }
        if extents.len() == bounded(limit) || LIST_ROWS_VISITED_MAX <= visited {
            return Ok(Answer::Placed { extents, next: Some((home, id)) });
        }
    }
    Ok(Answer::Placed { extents, next: None })
}

/// Who brings an extent to its owners in the newest layout; `None` while one of them has to remove an old copy first.
fn mover(
    rows: &dyn Rows,
    home: &Home,
    extent: &Extent,
    newest: LayoutVersion,
) -> Result<Option<NodeId>, Fault> {
    let olds = owners_of(rows, extent.layout, extent.id)?.unwrap_or_default();
    let news = owners_of(rows, newest, extent.id)?.unwrap_or_default();
    let news = extent.coding().holders(&news);
    for node in news {
        if get::<LeavingCopies>(rows, (*node, home, extent.id))?.is_some() {
            return Ok(None);
        }
    }
    let holds = |node: &NodeId| extent.holds_already(*node, &olds, news);
    Ok(news.iter().find(|node| !holds(node)).or(news.first()).copied())
}

/// Copies of `node` that moved to others, once all new owners hold the extent and no session reads the old row.
pub(super) fn leaving(
    rows: &dyn Rows,
    node: NodeId,
    after: Option<&Place>,
    limit: u32,
) -> Result<Answer, Fault> {
    if is_held(rows)? {
        return Ok(Answer::Leaving { copies: Vec::new(), next: None });
    }
    let readers = Readers::of(rows)?;
    let behind = after.and_then(|(home, extent)| successor(&key_bytes(&(node, home, *extent))));
    let from = behind.unwrap_or_else(|| key_bytes(&node));
    let until = successor(&key_bytes(&node));
    let mut copies = Vec::new();
    let all = scan::<LeavingCopies>(rows, Bound::Included(&from), as_upper(&until))?;
    for (visited, row) in all.enumerate() {
        let ((_, home, id), leaving) = row?;
        if leaving.since < readers.oldest_read && !readers.pinned.contains(&id) && is_whole(rows, &home, id)?
        {
            copies.push((home.clone(), id, leaving));
        }
        if copies.len() == bounded(limit) || LIST_ROWS_VISITED_MAX <= visited {
            return Ok(Answer::Leaving { copies, next: Some((home, id)) });
        }
    }
    Ok(Answer::Leaving { copies, next: None })
}

/// Whether every owner holds the extent, and none is in doubt. One that nobody names any more needs no owner.
fn is_whole(rows: &dyn Rows, home: &Home, id: ExtentId) -> Result<bool, Fault> {
    let Some(row) = get::<Extents>(rows, (home, id))? else {
        return Ok(true);
    };
    let layout = row.extent.layout;
    let owners = owners_of(rows, layout, id)?.unwrap_or_default();
    let partition = partition_of(rows, layout, id)?;
    for (place, node) in row.extent.coding().holders(&owners).iter().enumerate() {
        let doubted = match partition {
            Some(partition) => get::<Absences>(rows, (*node, partition))?.is_some(),
            None => true,
        };
        if doubted || row.extent.confirmed >> place & 1 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many extents lie in which layout, of one page.
pub(super) fn layout_use(rows: &dyn Rows, after: Option<&Place>) -> Result<Answer, Fault> {
    let mut extents: BTreeMap<LayoutVersion, u64> = BTreeMap::new();
    let mut next = None;
    for (visited, row) in extents_after(rows, after)?.enumerate() {
        let (place, row) = row?;
        *extents.entry(row.extent.layout).or_default() += 1;
        if LIST_ROWS_VISITED_MAX <= visited {
            next = Some(place);
            break;
        }
    }
    Ok(Answer::LayoutUse { extents: extents.into_iter().collect(), next })
}
