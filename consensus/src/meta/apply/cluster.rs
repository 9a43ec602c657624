//! Members, layouts and epochs. The commands may come without a session: a repeat of the same content is done already.

use fabric::limits::OWNERS_MAX;
use fabric::placement::Layout;

use super::transaction::Transaction;
use super::{Outcome, malformed};
use crate::meta::command::{BeginEpoch, Done, EndHold, Reject, SetLayout, SetNode};
use crate::meta::model::{Bucket, Hold, NodeRow};
use crate::meta::tables::{Buckets, Holds, Nodes, RemovedNodes, get_layout, put_layout, scan_all};

/// Adds or updates a member.
pub(super) fn set_node(tx: &mut Transaction<'_>, command: &SetNode) -> Outcome {
    let row = &command.row;
    if tx.get::<RemovedNodes>(row.id)?.is_some() {
        return Err(Reject::NodeRemoved.into());
    }
    match tx.get::<Nodes>(row.id)? {
        Some(stored) if stored == *row => return Ok(Done::Nothing),
        Some(stored) if stored.incarnation == row.incarnation && row.starts <= stored.starts => {
            return Err(Reject::StaleNode.into());
        }
        _ => {}
    }
    tx.put::<Nodes>(row.id, row);
    Ok(Done::Nothing)
}

/// Sets the next layout.
pub(super) fn set_layout(tx: &mut Transaction<'_>, command: &SetLayout) -> Outcome {
    let layout = &command.layout;
    if let Err(why) = check(layout) {
        return malformed(why);
    }
    if layout.version.0 != tx.cluster.layout.0 + 1 {
        let same = get_layout(tx.rows(), layout.version)?.as_ref() == Some(layout);
        return if same { Ok(Done::Nothing) } else { Err(Reject::LayoutExists.into()) };
    }
    // Partitions are told by their number, whatever the layout.
    let before = get_layout(tx.rows(), tx.cluster.layout)?;
    if before.is_some_and(|before| before.partitions.len() != layout.partitions.len()) {
        return malformed("the number of partitions does not change");
    }
    put_layout(tx.rows_mut(), layout);
    tx.cluster.layout = layout.version;
    Ok(Done::Nothing)
}

/// Begins an epoch after a recovery.
pub(super) fn begin_epoch(tx: &mut Transaction<'_>, command: &BeginEpoch) -> Outcome {
    if command.epoch <= tx.cluster.epoch {
        return malformed("an epoch is above all before");
    }
    let mut given_up = Vec::new();
    for row in scan_all::<Nodes>(tx.rows())? {
        let (id, row) = row?;
        if row.voter.is_some_and(|voter| voter != command.voter) {
            given_up.push((id, NodeRow { voter: None, ..row }));
        }
    }
    given_up.into_iter().for_each(|(id, row)| tx.put::<Nodes>(id, &row));
    // Indexes of the log come again: what is stamped from now on differs from what was stamped before, in buckets whose
    // own epoch is ahead, too.
    let mut ahead = Vec::new();
    for row in scan_all::<Buckets>(tx.rows())? {
        let (id, bucket) = row?;
        if command.epoch <= bucket.epoch {
            ahead.push((id, Bucket { epoch: bucket.epoch.saturating_add(1), ..bucket }));
        }
    }
    ahead.into_iter().for_each(|(id, bucket)| tx.put::<Buckets>(id, &bucket));
    tx.cluster.epoch = command.epoch;
    // Chunks may lie on nodes of buckets that no row knows: their numbers are not drawn again.
    tx.cluster.next_bucket = tx.cluster.next_bucket.max(u64::from(command.epoch) << 32);
    let hold = Hold { since: tx.index, at: tx.cluster.time };
    tx.put::<Holds>((), &hold);
    Ok(Done::Nothing)
}

/// Ends what [`begin_epoch`] began.
pub(super) fn end_hold(tx: &mut Transaction<'_>, command: &EndHold) -> Outcome {
    if tx.get::<Holds>(())?.is_some_and(|hold| hold.since == command.since) {
        tx.delete::<Holds>(());
    }
    Ok(Done::Nothing)
}

fn check(layout: &Layout) -> Result<(), &'static str> {
    let size = layout.partitions.len();
    if !size.is_power_of_two() || 1 << 16 < size {
        return Err("the number of partitions is a power of two up to 65536");
    }
    for owners in &layout.partitions {
        let twice = owners.iter().enumerate().any(|(place, owner)| owners[..place].contains(owner));
        if owners.is_empty() || OWNERS_MAX < owners.len() || twice {
            return Err("a partition has 1 to 16 owners, each once");
        }
    }
    Ok(())
}
