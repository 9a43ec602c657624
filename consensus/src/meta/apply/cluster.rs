//! Members and layouts. Both commands may come without a session: a repeat of the same content is done already.

use fabric::limits::OWNERS_MAX;
use fabric::placement::Layout;

use super::transaction::Transaction;
use super::{Outcome, malformed};
use crate::meta::command::{Done, Reject, SetLayout, SetNode};
use crate::meta::tables::{Nodes, get_layout, put_layout};

/// Adds or updates a member.
pub(super) fn set_node(tx: &mut Transaction<'_>, command: &SetNode) -> Outcome {
    let row = &command.row;
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
    put_layout(tx.rows_mut(), layout);
    tx.cluster.layout = layout.version;
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
