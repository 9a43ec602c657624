//! Where the copies of an extent belong: layouts map partitions to nodes.
//!
//! A layout is metadata: versioned, committed through the log. This file is pure arithmetic.

use serde::{Deserialize, Serialize};

use crate::ids::{ExtentId, LayoutVersion, NodeId};
use crate::limits::OWNERS_MAX;

/// One version of the map from partitions to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Its number; layouts ascend.
    pub version: LayoutVersion,
    /// For each partition its owners in order, at most [`crate::limits::OWNERS_MAX`]; copies use the first three.
    /// The length is a power of two.
    pub partitions: Vec<Vec<NodeId>>,
}

impl Layout {
    /// Partition of an extent: the upper bits of its hash.
    pub fn partition_of(&self, extent: ExtentId) -> usize {
        let bits = self.partitions.len().trailing_zeros();
        if bits == 0 { 0 } else { usize::from(extent.hash() >> (16 - bits)) }
    }

    /// Owners of an extent in order. Bit i of a mask of confirmed copies is owner i.
    pub fn owners_of(&self, extent: ExtentId) -> &[NodeId] {
        &self.partitions[self.partition_of(extent)]
    }
}

/// A node that can own partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its failure domain; empty where there are none.
    pub zone: String,
}

/// The first layout of a cluster: each partition lists min(copies, nodes) owners and up to three spares, over as
/// many zones as there are, every node owning as many partitions as any other of its zone. Depends on nothing
/// but its arguments, whatever their order.
pub fn first_layout(candidates: &[Candidate], partitions: usize, copies: usize) -> Layout {
    assert!(partitions.is_power_of_two() && !candidates.is_empty());
    let listed = candidates.len().min(copies + SPARES_MAX).min(OWNERS_MAX);
    let copies = copies.min(listed);
    let mut nodes: Vec<&Candidate> = candidates.iter().collect();
    nodes.sort_by_key(|candidate| candidate.node);
    // How often each node was taken as an owner, and at any place.
    let mut taken = vec![(0_usize, 0_usize); nodes.len()];
    let mut rows = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        let mut row: Vec<usize> = Vec::with_capacity(listed);
        while row.len() < listed {
            let owner = row.len() < copies;
            let free = (0..nodes.len()).filter(|place| !row.contains(place));
            let next = free.min_by_key(|&place| {
                let same_zone = row.iter().filter(|&&other| nodes[other].zone == nodes[place].zone).count();
                let (as_owner, anywhere) = taken[place];
                let load = if owner { as_owner } else { anywhere };
                // The last term turns ties, so that neighbours in a list differ from partition to partition.
                (same_zone, load, (place + nodes.len() - partition % nodes.len()) % nodes.len())
            });
            let next = next.expect("fewer are listed than there are nodes");
            taken[next].0 += usize::from(owner);
            taken[next].1 += 1;
            row.push(next);
        }
        rows.push(row.into_iter().map(|place| nodes[place].node).collect());
    }
    Layout { version: LayoutVersion(1), partitions: rows }
}

/// Owners a new partition lists beyond those that hold copies.
const SPARES_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn candidates(zones: &[&str]) -> Vec<Candidate> {
        let node = |(place, zone): (usize, &&str)| Candidate {
            node: NodeId(place as u16 + 1),
            zone: (*zone).to_string(),
        };
        zones.iter().enumerate().map(node).collect()
    }

    #[test]
    fn owners_are_distinct_spread_and_even() {
        let cases: [(&[&str], usize); 6] = [
            (&[""], 1),
            (&["", ""], 2),
            (&["", "", ""], 3),
            (&["", "", "", "", ""], 5),
            (&["a", "a", "b", "b", "c", "c"], 6),
            (&["a", "b", "a", "b", "a", "b", "a", "b"], 6),
        ];
        for (zones, listed) in cases {
            let nodes = candidates(zones);
            let layout = first_layout(&nodes, 64, 3);
            let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
            for row in &layout.partitions {
                assert_eq!(row.len(), listed, "{zones:?}");
                let owners = &row[..listed.min(3)];
                let zone = |node: &NodeId| zones[usize::from(node.0) - 1];
                let distinct: std::collections::BTreeSet<_> = row.iter().collect();
                assert_eq!(distinct.len(), row.len());
                let all: std::collections::BTreeSet<_> = zones.iter().collect();
                let used: std::collections::BTreeSet<_> = owners.iter().map(zone).collect();
                assert_eq!(used.len(), all.len().min(owners.len()), "{zones:?}: {row:?}");
                owners.iter().for_each(|node| *owned.entry(*node).or_default() += 1);
            }
            let (least, most) = (owned.values().min(), owned.values().max());
            let spread = most.zip(least).map_or(0, |(most, least)| most - least);
            assert!(owned.len() == zones.len() && spread <= 2, "{zones:?}: {owned:?}");
        }
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let mut nodes = candidates(&["a", "b", "c", "a"]);
        let layout = first_layout(&nodes, 16, 3);
        nodes.reverse();
        assert_eq!(first_layout(&nodes, 16, 3), layout);
    }
}
