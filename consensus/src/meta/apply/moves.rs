//! Extents that move to the owners of a newer layout, and the copies they leave behind.
//!
//! Each extent names the layout it lies in, so that a layout that is set moves nothing by itself: its new owners bring
//! the chunks, and then one command changes the row. The old copies stay until every new owner holds the extent and
//! nobody can read the old row any more; each node removes its own.

use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::limits::MOVES_PER_COMMAND;

use super::transaction::Transaction;
use super::{Outcome, absence, extent, malformed};
use crate::meta::command::{Done, EndLeaving, MoveExtents, MovedExtent, Reject, RemoveNode};
use crate::meta::model::{Extent, ExtentRow, Home, Leaving, RemovedNode};
use crate::meta::store::Fault;
use crate::meta::tables::{
    Absences, Extents, LeavingCopies, Nodes, RemovedNodes, get_layout, owners_of, scan_under,
};

/// Changes the rows of extents whose chunks are where a newer layout wants them. One that changed meanwhile is passed
/// over.
pub(super) fn move_extents(tx: &mut Transaction<'_>, command: &MoveExtents) -> Outcome {
    if MOVES_PER_COMMAND < command.moves.len() {
        return malformed("too many extents are moved at once");
    }
    if tx.cluster.layout < command.layout {
        return malformed("the layout does not exist");
    }
    for moved in &command.moves {
        move_one(tx, command.layout, moved)?;
    }
    Ok(Done::Nothing)
}

fn move_one(tx: &mut Transaction<'_>, layout: LayoutVersion, moved: &MovedExtent) -> Result<(), Fault> {
    let MovedExtent { home, id, from, brought } = moved;
    let Some(row) = tx.get::<Extents>((home, *id))?.filter(|row| row.extent.layout == *from) else {
        return Ok(());
    };
    let olds = owners_of(tx.rows(), *from, *id)?.unwrap_or_default();
    let news = owners_of(tx.rows(), layout, *id)?.unwrap_or_default();
    if layout <= *from || news.is_empty() || is_leaving(tx, home, *id, row.extent.coding().holders(&news))? {
        return Ok(());
    }
    let coding = row.extent.coding();
    let confirmed = confirmed(tx, &row.extent, &olds, &news, brought)?;
    if !coding.is_durable(confirmed, news.len()) {
        return Ok(());
    }
    extent::forget_debts(tx, home, *id)?;
    let extent = Extent { layout, confirmed, ..row.extent };
    for (place, node) in coding.holders(&news).iter().enumerate() {
        if confirmed >> place & 1 == 0 {
            extent::owe(tx, home, *id, *node)?;
        }
    }
    for node in coding.holders(&olds) {
        leave(tx, home, &extent, *node, coding.shards_on(*node, &olds) & !coding.shards_on(*node, &news))?;
    }
    tx.put::<Extents>((home, *id), &ExtentRow { extent, references: row.references });
    Ok(())
}

/// A node has to remove its copy, or these shards, and what it was to remove before.
fn leave(
    tx: &mut Transaction<'_>,
    home: &Home,
    extent: &Extent,
    node: NodeId,
    shards: u16,
) -> Result<(), Fault> {
    if shards == 0 {
        return Ok(());
    }
    let before = tx.get::<LeavingCopies>((node, home, extent.id))?.map_or(0, |leaving| leaving.shards());
    let leaving = Leaving::of_shards(tx.index, extent.coding(), extent.chunks(), shards | before);
    tx.put::<LeavingCopies>((node, home, extent.id), &leaving);
    Ok(())
}

/// Whether a new owner has still to remove what it held once: that would take the new copy.
fn is_leaving(tx: &Transaction<'_>, home: &Home, id: ExtentId, news: &[NodeId]) -> Result<bool, Fault> {
    for node in news {
        if tx.get::<LeavingCopies>((*node, home, id))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The new owners that hold what belongs on them: confirmed under the old layout, or brought, unless they lost chunks
/// since.
fn confirmed(
    tx: &Transaction<'_>,
    extent: &Extent,
    olds: &[NodeId],
    news: &[NodeId],
    brought: &[NodeId],
) -> Result<u16, Fault> {
    let mut mask = 0;
    for (place, node) in extent.coding().holders(news).iter().enumerate() {
        let holds = extent.holds_already(*node, olds, news) || brought.contains(node);
        if holds && !absence::doubts(tx, extent, *node)? {
            mask |= 1 << place;
        }
    }
    Ok(mask)
}

/// Forgets copies that are removed.
pub(super) fn end_leaving(tx: &mut Transaction<'_>, command: &EndLeaving) -> Outcome {
    for (home, id, since) in &command.extents {
        let key = (command.node, home, *id);
        if tx.get::<LeavingCopies>(key)?.is_some_and(|leaving| leaving.since == *since) {
            tx.delete::<LeavingCopies>(key);
        }
    }
    Ok(Done::Nothing)
}

/// Removes a member for ever.
pub(super) fn remove_node(tx: &mut Transaction<'_>, command: &RemoveNode) -> Outcome {
    let Some(row) = tx.get::<Nodes>(command.node)? else {
        return Ok(Done::Nothing);
    };
    let layout = get_layout(tx.rows(), tx.cluster.layout)?;
    let owns = layout.is_some_and(|layout| layout.partitions.iter().any(|row| row.contains(&command.node)));
    if owns || row.voter.is_some() {
        return Err(Reject::NodeInUse.into());
    }
    tx.delete::<Nodes>(command.node);
    tx.put::<RemovedNodes>(command.node, &RemovedNode { incarnation: row.incarnation, at: tx.now });
    let rows = scan_under::<Absences>(tx.rows(), command.node)?.map(|row| row.map(|(key, _)| key));
    for key in rows.collect::<Result<Vec<_>, _>>()? {
        tx.delete::<Absences>(key);
    }
    Ok(Done::Nothing)
}
