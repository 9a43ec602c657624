//! Copies that were owed and are made, chunks that are gone, bodies that are taken apart.

use fabric::ids::{BucketId, ExtentId, NodeId, Stamp};
use fabric::limits::{COLLECT_BODIES_PER_COMMAND, COLLECT_EXTENTS_PER_STEP};

use super::transaction::Transaction;
use super::{Outcome, extent, malformed};
use crate::meta::command::{CollectGarbage, Done, PayDebts};
use crate::meta::model::{Garbage, Home};
use crate::meta::store::Fault;
use crate::meta::tables::{Extents, Garbages, owners_of};

/// A node holds every chunk of these extents that belongs on it now.
pub(super) fn pay_debts(tx: &mut Transaction<'_>, command: &PayDebts) -> Outcome {
    for (home, id) in &command.extents {
        confirm(tx, home, *id, command.node)?;
        extent::pay(tx, home, *id, command.node)?;
    }
    Ok(Done::Nothing)
}

/// Sets the bit of a node, by its position among the owners in the layout of the extent.
fn confirm(tx: &mut Transaction<'_>, home: &Home, id: ExtentId, node: NodeId) -> Result<(), Fault> {
    let Some(mut row) = tx.get::<Extents>((home, id))? else {
        return Ok(());
    };
    let owners = owners_of(tx.rows(), row.extent.layout, id)?.unwrap_or_default();
    let holders = row.extent.coding().holders(&owners);
    if let Some(place) = holders.iter().position(|owner| *owner == node) {
        row.extent.confirmed |= 1 << place;
        tx.put::<Extents>((home, id), &row);
    }
    Ok(())
}

/// Removes garbage whose chunks are gone and takes a step on bodies.
pub(super) fn collect(tx: &mut Transaction<'_>, command: &CollectGarbage) -> Outcome {
    if COLLECT_BODIES_PER_COMMAND < command.take_apart.len() {
        return malformed("too many bodies to take apart");
    }
    for &(bucket, stamp) in &command.done {
        // A body is done when it is taken apart, not when somebody says so: its extents are still named.
        if let Some(Garbage::Extent(_)) = tx.get::<Garbages>((bucket, stamp))? {
            remove(tx, bucket, stamp);
        }
    }
    for &(bucket, stamp) in &command.take_apart {
        take_apart(tx, bucket, stamp)?;
    }
    Ok(Done::Nothing)
}

/// Releases up to [`COLLECT_EXTENTS_PER_STEP`] extents of a body.
fn take_apart(tx: &mut Transaction<'_>, bucket: BucketId, stamp: Stamp) -> Result<(), Fault> {
    let Some(Garbage::Body { home, mut extents }) = tx.get::<Garbages>((bucket, stamp))? else {
        return Ok(());
    };
    let left = extents.len().saturating_sub(COLLECT_EXTENTS_PER_STEP);
    for id in extents.split_off(left) {
        extent::release(tx, &home, id)?;
    }
    if extents.is_empty() {
        remove(tx, bucket, stamp);
    } else {
        tx.put::<Garbages>((bucket, stamp), &Garbage::Body { home, extents });
    }
    Ok(())
}

fn remove(tx: &mut Transaction<'_>, bucket: BucketId, stamp: Stamp) {
    tx.delete::<Garbages>((bucket, stamp));
    tx.cluster.garbage = tx.cluster.garbage.saturating_sub(1);
}
