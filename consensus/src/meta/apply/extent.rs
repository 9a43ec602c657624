//! Extents: named once, referred to, released.
//!
//! A row in [`Extents`] counts its references and never has none: at zero it becomes garbage, with its debts gone.

use fabric::ids::{ExtentId, NodeId};
use fabric::limits::{COLLECT_EXTENTS_PER_STEP, EXTENT_CHUNKS_MAX, PUT_BYTES_MAX};

use super::transaction::Transaction;
use super::{Stop, absence, malformed};
use crate::meta::command::Reject;
use crate::meta::model::{Debt, Extent, ExtentRow, Garbage, Home};
use crate::meta::sealing::sealed_bytes;
use crate::meta::store::Fault;
use crate::meta::tables::{DebtCounts, Debts, Extents, Sessions, owners_of};

/// Which owners hold an extent, and who owes a copy of it.
#[derive(Debug, Default)]
pub(super) struct Copies {
    confirmed: u16,
    owing: Vec<NodeId>,
}

/// Checks that an extent may be named here for the first time.
pub(super) fn check_new(tx: &Transaction<'_>, home: &Home, extent: &Extent) -> Result<Copies, Stop> {
    if !tx.planted.accept_ended_session {
        check_open(tx, extent.id)?;
    }
    check_unnamed(tx, home, extent)
}

/// The same for one whose writer is not asked any more.
pub(super) fn check_unnamed(tx: &Transaction<'_>, home: &Home, extent: &Extent) -> Result<Copies, Stop> {
    if extent.bytes == 0 || sealed_bytes(PUT_BYTES_MAX) < extent.bytes {
        return malformed("the size of the extent is out of bounds");
    }
    let Some(coding) = extent.id.coding() else {
        return malformed("the extent is stored in a way that is reserved");
    };
    if extent.chunk_bytes == 0 || EXTENT_CHUNKS_MAX < extent.chunks() {
        return malformed("the extent has too many chunks");
    }
    if tx.get::<Extents>((home, extent.id))?.is_some() {
        return malformed("the extent is named already");
    }
    let Some(owners) = owners_of(tx.rows(), extent.layout, extent.id)? else {
        return malformed("the layout of the extent does not exist");
    };
    if u32::from(extent.confirmed) >> coding.places(owners.len()) != 0 {
        return malformed("the mask of confirmed copies names no owner");
    }
    let planted = tx.planted.commit_one_copy && extent.confirmed != 0;
    if !planted && !coding.is_durable(extent.confirmed, owners.len()) {
        return malformed("too few copies are durable");
    }
    Ok(copies(tx, extent, &owners)?)
}

/// Of an owner that lost chunks nobody knows whether it had these before or after; where the others do not have enough
/// to make them from, it is believed.
fn copies(tx: &Transaction<'_>, extent: &Extent, owners: &[NodeId]) -> Result<Copies, Fault> {
    let (mut sure, coding) = (extent.confirmed, extent.coding());
    for (place, node) in owners.iter().enumerate() {
        if sure >> place & 1 == 1 && absence::doubts(tx, extent, *node)? {
            sure &= !(1 << place);
        }
    }
    let confirmed = if coding.is_readable(sure, owners.len()) { sure } else { extent.confirmed };
    if tx.planted.drop_debts {
        return Ok(Copies { confirmed, owing: Vec::new() });
    }
    let holders = coding.holders(owners).iter().enumerate();
    let owing = holders.filter(|(place, _)| confirmed >> place & 1 == 0);
    Ok(Copies { confirmed, owing: owing.map(|(_, node)| *node).collect() })
}

/// An ended session's extents, and those below its oldest open write, may be collected already, but for long
/// writes: those it pins.
fn check_open(tx: &Transaction<'_>, id: ExtentId) -> Result<(), Stop> {
    let session = tx.get::<Sessions>(id.session())?.ok_or(Reject::LateExtent)?;
    if id.number() < session.oldest_write && !session.pinned.contains(&id) {
        return Err(Reject::LateExtent.into());
    }
    Ok(())
}

/// Names an extent that was checked.
pub(super) fn name(
    tx: &mut Transaction<'_>,
    home: &Home,
    extent: &Extent,
    references: u32,
    copies: &Copies,
) -> Result<(), Fault> {
    assert!(references != 0);
    let extent = Extent { confirmed: copies.confirmed, ..extent.clone() };
    tx.put::<Extents>((home, extent.id), &ExtentRow { extent: extent.clone(), references });
    copies.owing.iter().try_for_each(|node| owe(tx, home, extent.id, *node))
}

/// Adds a debt.
pub(super) fn owe(tx: &mut Transaction<'_>, home: &Home, id: ExtentId, node: NodeId) -> Result<(), Fault> {
    tx.put::<Debts>((home, id, node), &Debt { since: tx.index });
    let owed = tx.get::<DebtCounts>(node)?.unwrap_or(0);
    tx.put::<DebtCounts>(node, &(owed + 1));
    Ok(())
}

/// Removes all debts of an extent.
pub(super) fn forget_debts(tx: &mut Transaction<'_>, home: &Home, id: ExtentId) -> Result<(), Fault> {
    let owing = tx.scan_under::<Debts>((home, id))?.map(|row| row.map(|((_, _, node), _)| node));
    owing.collect::<Result<Vec<_>, _>>()?.into_iter().try_for_each(|node| pay(tx, home, id, node))
}

/// Adds a reference.
pub(super) fn retain(tx: &mut Transaction<'_>, home: &Home, id: ExtentId) -> Result<(), Fault> {
    let mut row = tx.get::<Extents>((home, id))?.ok_or_else(|| unnamed(id))?;
    row.references += 1;
    tx.put::<Extents>((home, id), &row);
    Ok(())
}

/// Takes a reference away; at zero the extent is garbage.
pub(super) fn release(tx: &mut Transaction<'_>, home: &Home, id: ExtentId) -> Result<(), Fault> {
    let mut row = tx.get::<Extents>((home, id))?.ok_or_else(|| unnamed(id))?;
    row.references = row.references.checked_sub(1).ok_or_else(|| unnamed(id))?;
    if row.references != 0 {
        tx.put::<Extents>((home, id), &row);
        return Ok(());
    }
    tx.delete::<Extents>((home, id));
    forget_debts(tx, home, id)?;
    tx.add_garbage(home.bucket, &Garbage::Extent(row.extent));
    Ok(())
}

/// Takes a reference from each of many extents of one home: at once if they are few, else step by step later.
pub(super) fn release_all(
    tx: &mut Transaction<'_>,
    home: &Home,
    extents: Vec<ExtentId>,
) -> Result<(), Fault> {
    if COLLECT_EXTENTS_PER_STEP < extents.len() {
        tx.add_garbage(home.bucket, &Garbage::Body { home: home.clone(), extents });
        return Ok(());
    }
    extents.into_iter().try_for_each(|id| release(tx, home, id))
}

/// Removes the row of a debt, if there is one.
pub(super) fn pay(tx: &mut Transaction<'_>, home: &Home, id: ExtentId, node: NodeId) -> Result<(), Fault> {
    if tx.get::<Debts>((home, id, node))?.is_none() {
        return Ok(());
    }
    tx.delete::<Debts>((home, id, node));
    match tx.get::<DebtCounts>(node)?.unwrap_or(0) {
        0 | 1 => tx.delete::<DebtCounts>(node),
        owed => tx.put::<DebtCounts>(node, &(owed - 1)),
    }
    Ok(())
}

fn unnamed(id: ExtentId) -> Fault {
    Fault::new("count references", format!("extent {id} has no row"))
}
