//! Nodes that lost chunks, and when they hold them again.
//!
//! While a row of [`Absences`] is there, an extent that is named in its partition is owed by a debt of its own,
//! whatever its mask says: its chunks may have reached the node before the loss. So the node has to verify only
//! what was named before the row, and the writes that were open then (see the job `restore`).

use fabric::ids::{LayoutVersion, NodeId};

use super::Outcome;
use super::transaction::Transaction;
use crate::meta::command::{Done, EndAbsence, ReportLoss};
use crate::meta::model::{Absence, Extent};
use crate::meta::store::Fault;
use crate::meta::tables::{Absences, Extents, get_layout, partition_of, scan_all};

/// A node owes every partition that lists it, in whichever layout: extents may lie in an older one still.
pub(super) fn report_loss(tx: &mut Transaction<'_>, command: &ReportLoss) -> Outcome {
    if scan_all::<Extents>(tx.rows())?.next().transpose()?.is_none() {
        return Ok(Done::Nothing);
    }
    let absence = Absence { since: 0, layout: tx.cluster.layout, index: tx.index };
    for version in 1..=tx.cluster.layout.0 {
        let Some(layout) = get_layout(tx.rows(), LayoutVersion(version))? else { continue };
        for (partition, owners) in layout.partitions.iter().enumerate() {
            if owners.contains(&command.node) {
                tx.put::<Absences>((command.node, partition as u16), &absence);
            }
        }
    }
    Ok(Done::Nothing)
}

/// A node verified partitions.
pub(super) fn end(tx: &mut Transaction<'_>, command: &EndAbsence) -> Outcome {
    for &partition in &command.partitions {
        let key = (command.node, partition);
        if tx.get::<Absences>(key)?.is_some_and(|absence| absence.index == command.index) {
            tx.delete::<Absences>(key);
        }
    }
    Ok(Done::Nothing)
}

/// Whether the node has to verify the partition of an extent.
pub(super) fn doubts(tx: &Transaction<'_>, extent: &Extent, node: NodeId) -> Result<bool, Fault> {
    match partition_of(tx.rows(), extent.layout, extent.id)? {
        Some(partition) => Ok(tx.get::<Absences>((node, partition))?.is_some()),
        None => Ok(false),
    }
}
