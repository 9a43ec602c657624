//! Bodies become shards where they were whole copies: other extents, the same bytes.
//!
//! A version whose class wants that has a row in [`Recodings`] until a job did it, or it turns out that nothing is to be
//! done. Only where the bytes lie changes: no event, no new time.

use std::collections::BTreeMap;

use fabric::coding::Coding;
use fabric::ids::{ExtentId, Stamp};

use super::transaction::Transaction;
use super::{Outcome, extent, malformed, version};
use crate::meta::command::{Done, Recode, Reject};
use crate::meta::model::{Body, Extent, Home, Object};
use crate::meta::recoding::{Found, find};
use crate::meta::sealing::sealed;
use crate::meta::store::Fault;
use crate::meta::tables::{Bodies, Recodings};

/// A version came to be, or to another class.
pub(super) fn note(tx: &mut Transaction<'_>, home: &Home, object: &Object) -> Result<(), Fault> {
    if find(tx.rows(), home, object.stamp)?.is_some() {
        tx.put::<Recodings>((home, object.stamp), &());
    }
    Ok(())
}

/// A version is gone.
pub(super) fn forget(tx: &mut Transaction<'_>, home: &Home, stamp: Stamp) {
    tx.delete::<Recodings>((home, stamp));
}

/// Names the shards of a body in place of its whole copies.
pub(super) fn recode(tx: &mut Transaction<'_>, command: &Recode) -> Outcome {
    let Recode { home: own, version: stamp, extents: news } = command;
    if tx.get::<Recodings>((own, *stamp))?.is_none() {
        return Ok(Done::Nothing);
    }
    let Some(found) = find(tx.rows(), own, *stamp)?.filter(|_| !news.is_empty()) else {
        forget(tx, own, *stamp);
        return Ok(Done::Nothing);
    };
    let pairs = || news.iter().zip(&found.extents);
    let is_of = |(new, (old, _)): (&Extent, &(Extent, u32))| new.id.coded(Coding::Whole) == old.id;
    if news.len() != found.extents.len() || !pairs().all(is_of) {
        return Err(Reject::SourceChanged.into());
    }
    if pairs().any(|(new, (old, _))| new.id == old.id || new.bytes != old.bytes) {
        return malformed("the shards are not those of the copies");
    }
    let mut copies = Vec::with_capacity(news.len());
    for new in news {
        copies.push(extent::check_unnamed(tx, &found.home, new)?);
    }

    let mut olds = Vec::new();
    for ((new, (old, uses)), copies) in pairs().zip(&copies) {
        extent::name(tx, &found.home, new, *uses, copies)?;
        olds.extend((0..*uses).map(|_| old.id));
    }
    let codings = news.iter().map(|new| (new.id.coded(Coding::Whole), new.id)).collect();
    replace(tx, own, &found, &codings)?;
    extent::release_all(tx, &found.home, olds)?;
    forget(tx, own, *stamp);
    Ok(Done::Nothing)
}

/// Puts the new ids where the body names the old ones.
fn replace(
    tx: &mut Transaction<'_>,
    own: &Home,
    found: &Found,
    codings: &BTreeMap<ExtentId, ExtentId>,
) -> Result<(), Fault> {
    let new = |id: &ExtentId| codings.get(id).copied().unwrap_or(*id);
    match found.object.body.place() {
        Body::Extent { id, home } => {
            let place = Body::Extent { id: new(id), home: home.clone() };
            let body = sealed(found.object.body.sealing().cloned(), place);
            version::rewrite(tx, own, &Object { body, ..found.object.clone() })
        }
        Body::Slices { id, .. } => {
            let Some(mut row) = tx.get::<Bodies>((&found.home, *id))? else { return Ok(()) };
            row.slices.iter_mut().for_each(|slice| slice.extent = new(&slice.extent));
            tx.put::<Bodies>((&found.home, *id), &row);
            Ok(())
        }
        Body::Empty | Body::Inline(_) | Body::Packed { .. } | Body::Sealed { .. } => Ok(()),
    }
}
