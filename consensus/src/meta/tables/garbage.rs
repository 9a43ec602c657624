//! What is owed and what is left over: copies still to be made, chunks still to be removed.

use fabric::ids::{BucketId, ExtentId, NodeId, Stamp};

use super::table;
use crate::meta::model::{Absence, Debt, Garbage, Home, Leaving};

table! {
    /// (home, extent, node) → a copy that the node has still to make. Missing: the node has it, or owes none.
    Debts(DEBTS): (&'a Home, ExtentId, NodeId) | (Home, ExtentId, NodeId) => Debt
}

table! {
    /// Node → how many rows of [`Debts`] name it. Missing: none.
    DebtCounts(DEBT_COUNTS): NodeId | NodeId => u64
}

table! {
    /// (node, partition) → the node has to verify what it holds of it. Missing: what the masks of extents say of
    /// the node is true.
    Absences(ABSENCES): (NodeId, u16) | (NodeId, u16) => Absence
}

table! {
    /// (home bucket, cluster epoch · log index · ordinal) → something nobody names any more.
    Garbages(GARBAGE): (BucketId, Stamp) | (BucketId, Stamp) => Garbage
}

table! {
    /// (node, home, extent) → a copy that moved to other nodes. Missing: the node removed it, or it never moved.
    LeavingCopies(LEAVING): (NodeId, &'a Home, ExtentId) | (NodeId, Home, ExtentId) => Leaving
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::LayoutVersion;

    use super::*;
    use crate::meta::model::Extent;
    use crate::meta::tables::testing::{extent_id, golden, home, stamp};

    #[test]
    fn golden_rows() {
        let home = home(5, "a/b");
        golden::<Debts>(
            (&home, extent_id(3), NodeId(2)),
            Debt { since: 9 },
            "0000000000000005612f6200abcd00010000000700000000030000000002",
            "0109",
        );
        golden::<DebtCounts>(NodeId(2), 300, "0002", "01ac02");
        let absence = Absence { since: 0, layout: LayoutVersion(1), index: 300 };
        golden::<Absences>((NodeId(2), 258), absence, "00020102", "010001ac02");
        golden::<LeavingCopies>(
            (NodeId(2), &home, extent_id(3)),
            Leaving { since: 300, chunks: 5 },
            "00020000000000000005612f6200abcd0001000000070000000003000000",
            "01ac0205",
        );
        let extent = Extent {
            id: extent_id(3),
            bytes: 70_000,
            chunk_bytes: 1 << 20,
            layout: LayoutVersion(1),
            confirmed: 3,
        };
        golden::<Garbages>(
            (BucketId(5), stamp(9)),
            Garbage::Extent(extent),
            "0000000000000005000100000000000000090002",
            "01008080809880808080808e808080a08080cdd702f0a2048080400103",
        );
        let body = Garbage::Body { home, extents: vec![extent_id(3), extent_id(4)] };
        golden::<Garbages>(
            (BucketId(5), stamp(9)),
            body,
            "0000000000000005000100000000000000090002",
            "01010503612f62028080809880808080808e808080a08080cdd702808080a080808080808e808080a08080cdd702",
        );
    }
}
