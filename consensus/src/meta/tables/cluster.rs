//! The cluster as a whole: its own row, its members, its layouts.

use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::placement::Layout;
use serde::{Deserialize, Serialize};

use super::{DecodeKey, EncodeKey, get, put, scan_under, table};
use crate::meta::model::{ClusterRow, Hold, NodeRow, RemovedNode};
use crate::meta::store::{Fault, Rows, RowsMut};

table! {
    /// One row. Missing: nothing was applied yet.
    Cluster(CLUSTER): () | () => ClusterRow
}

table! {
    /// Node → member. Missing: not a member.
    Nodes(NODES): NodeId | NodeId => NodeRow
}

table! {
    /// Node → when it was removed. Missing: it never was.
    RemovedNodes(REMOVED_NODES): NodeId | NodeId => RemovedNode
}

table! {
    /// One row. Missing: garbage is collected.
    Holds(HOLD): () | () => Hold
}

table! {
    /// (layout version, head or partition) → its size, or the owners of the partition. A row per partition, so that
    /// to place one extent is two small reads.
    Layouts(LAYOUTS): (LayoutVersion, LayoutPart) | (LayoutVersion, LayoutPart) => LayoutRow
}

/// What a row of a layout is about. The head sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutPart {
    /// The layout as a whole.
    Head,
    /// One partition.
    Partition(u16),
}

impl EncodeKey for LayoutPart {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            LayoutPart::Head => out.push(0),
            LayoutPart::Partition(partition) => {
                out.push(1);
                partition.encode(out);
            }
        }
    }
}

impl DecodeKey for LayoutPart {
    fn decode(input: &mut &[u8]) -> Option<LayoutPart> {
        match u8::decode(input)? {
            0 => Some(LayoutPart::Head),
            1 => Some(LayoutPart::Partition(u16::decode(input)?)),
            _ => None,
        }
    }
}

/// A row of a layout. The order of variants is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayoutRow {
    /// How many partitions: a power of two, at most 65,536.
    Head(u32),
    /// Owners of one partition in order.
    Partition(Vec<NodeId>),
}

/// Stores a layout that was checked.
pub fn put_layout(rows: &mut dyn RowsMut, layout: &Layout) {
    assert!(layout.partitions.len().is_power_of_two() && layout.partitions.len() <= 1 << 16);
    let head = LayoutRow::Head(layout.partitions.len() as u32);
    put::<Layouts>(rows, (layout.version, LayoutPart::Head), &head);
    for (partition, owners) in layout.partitions.iter().enumerate() {
        let part = LayoutPart::Partition(partition as u16);
        put::<Layouts>(rows, (layout.version, part), &LayoutRow::Partition(owners.clone()));
    }
}

/// A layout as a whole.
pub fn get_layout(rows: &dyn Rows, version: LayoutVersion) -> Result<Option<Layout>, Fault> {
    let mut partitions = Vec::new();
    let mut size = None;
    for row in scan_under::<Layouts>(rows, version)? {
        match row?.1 {
            LayoutRow::Head(partitions) => size = Some(partitions as usize),
            LayoutRow::Partition(owners) => partitions.push(owners),
        }
    }
    match size {
        None if partitions.is_empty() => Ok(None),
        Some(size) if size == partitions.len() => Ok(Some(Layout { version, partitions })),
        _ => Err(not_whole(version)),
    }
}

/// Owners of an extent under a layout, in order; `None`: there is no such layout.
pub fn owners_of(
    rows: &dyn Rows,
    version: LayoutVersion,
    extent: ExtentId,
) -> Result<Option<Vec<NodeId>>, Fault> {
    let Some(partition) = partition_of(rows, version, extent)? else {
        return Ok(None);
    };
    match get::<Layouts>(rows, (version, LayoutPart::Partition(partition)))? {
        Some(LayoutRow::Partition(owners)) => Ok(Some(owners)),
        _ => Err(not_whole(version)),
    }
}

/// Partition of an extent under a layout; `None`: there is no such layout.
pub fn partition_of(rows: &dyn Rows, version: LayoutVersion, extent: ExtentId) -> Result<Option<u16>, Fault> {
    let Some(head) = get::<Layouts>(rows, (version, LayoutPart::Head))? else {
        return Ok(None);
    };
    let LayoutRow::Head(size) = head else {
        return Err(not_whole(version));
    };
    let bits = size.trailing_zeros();
    Ok(Some(if bits == 0 { 0 } else { extent.hash() >> (16 - bits.min(16)) }))
}

fn not_whole(version: LayoutVersion) -> Fault {
    Fault::new("read layout", format!("layout {} is not whole", version.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::{Incarnation, RaftId, SessionId};

    use super::*;
    use crate::meta::model::ClusterMs;
    use crate::meta::store::MemoryRows;
    use crate::meta::tables::testing::golden;

    #[test]
    fn golden_rows() {
        let cluster = ClusterRow {
            epoch: 1,
            time: ClusterMs(1_000),
            next_bucket: 2,
            next_session: 3,
            layout: LayoutVersion(4),
            buckets: 5,
            inline_bytes: 6,
            garbage: 7,
            events: 8,
            events_trimmed: fabric::ids::Stamp { epoch: 1, index: 9, ordinal: 10 },
            expires_after: ClusterMs(11),
            quotas: 12,
        };
        golden::<Cluster>((), cluster, "", "0101e8070203040506070801090a0b0c");
        let node = NodeRow {
            id: NodeId(3),
            incarnation: Incarnation(0xABC),
            address: "10.0.0.3:9100".to_string(),
            zone: "b".to_string(),
            capacity_bytes: 1 << 40,
            starts: 2,
            release: "0.1.0".to_string(),
            voter: Some(RaftId::new(NodeId(3), Incarnation(0xABC))),
            run: 7,
        };
        golden::<Nodes>(
            NodeId(3),
            node,
            "0003",
            "0103bc150d31302e302e302e333a3931303001628080808080200205302e312e3001bc9580808080c00107",
        );
        let removed = RemovedNode { incarnation: Incarnation(0xABC), at: ClusterMs(1_000) };
        golden::<RemovedNodes>(NodeId(3), removed, "0003", "01bc15e807");
        golden::<Holds>((), Hold { since: 300, at: ClusterMs(1_000) }, "", "01ac02e807");
        golden::<Layouts>(
            (LayoutVersion(1), LayoutPart::Head),
            LayoutRow::Head(1024),
            "0000000100",
            "01008008",
        );
        let owners = LayoutRow::Partition(vec![NodeId(1), NodeId(2), NodeId(3)]);
        golden::<Layouts>(
            (LayoutVersion(1), LayoutPart::Partition(258)),
            owners,
            "00000001010102",
            "010103010203",
        );
    }

    #[test]
    fn owners_are_those_the_layout_computes() {
        for size in [1, 2, 1024] {
            let partitions =
                (0..size).map(|partition| vec![NodeId(partition as u16), NodeId(9_999)]).collect();
            let layout = Layout { version: LayoutVersion(1), partitions };
            let mut rows = MemoryRows::default();
            put_layout(&mut rows, &layout);
            assert_eq!(get_layout(&rows, LayoutVersion(1)).unwrap().as_ref(), Some(&layout));
            assert_eq!(get_layout(&rows, LayoutVersion(2)).unwrap(), None);
            for hash in [0, 1, 0x1234, 0x8000, 0xFFFF] {
                let extent = ExtentId::new(hash, SessionId { epoch: 1, number: 1 }, 1);
                let owners = owners_of(&rows, LayoutVersion(1), extent).unwrap();
                assert_eq!(owners.as_deref(), Some(layout.owners_of(extent)));
            }
        }
    }
}
