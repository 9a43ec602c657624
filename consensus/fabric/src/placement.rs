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
    /// For each partition its owners in order, at most [`crate::limits::OWNERS_MAX`], of which copies use the first
    /// three. The length is a power of two.
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

/// The first layout of a cluster: each partition lists min(copies, nodes) owners, over as many zones as there are, every
/// node owning as many partitions as any other of its zone. Depends on nothing but its arguments, whatever their order.
pub fn first_layout(candidates: &[Candidate], partitions: usize, copies: usize) -> Layout {
    assert!(partitions.is_power_of_two());
    let nobody = Layout { version: LayoutVersion(0), partitions: vec![Vec::new(); partitions] };
    next_layout(&nobody, candidates, copies)
}

/// The layout that follows `current` when `candidates` are the nodes that may own partitions. Copies stay where they
/// are, but for those of nodes that are no candidates any more, those that share a zone while another has none, and as
/// many as it takes until every node of a zone holds about as many as any other. Depends on nothing but its arguments.
pub fn next_layout(current: &Layout, candidates: &[Candidate], copies: usize) -> Layout {
    assert!(!candidates.is_empty() && (1..=OWNERS_MAX).contains(&copies));
    let mut moves = Moves::new(current, candidates, copies.min(candidates.len()));
    for partition in 0..moves.rows.len() {
        moves.fill(partition);
        moves.spread(partition);
    }
    while moves.even_out() {}
    Layout { version: LayoutVersion(current.version.0 + 1), partitions: moves.listed() }
}

/// A layout in the making: who holds the copies of each partition.
struct Moves<'a> {
    /// By id.
    nodes: Vec<&'a Candidate>,
    copies: usize,
    /// Places in `nodes`.
    rows: Vec<Vec<usize>>,
    /// Copies that each node holds.
    held: Vec<usize>,
}

impl<'a> Moves<'a> {
    /// The copies that can stay.
    fn new(current: &Layout, candidates: &'a [Candidate], copies: usize) -> Moves<'a> {
        let mut nodes: Vec<&Candidate> = candidates.iter().collect();
        nodes.sort_by_key(|candidate| candidate.node);
        let place = |node: &NodeId| nodes.binary_search_by_key(node, |candidate| candidate.node).ok();
        let stay = |owners: &Vec<NodeId>| owners.iter().take(copies).filter_map(place).collect();
        let rows: Vec<Vec<usize>> = current.partitions.iter().map(stay).collect();
        let mut held = vec![0; nodes.len()];
        rows.iter().flatten().for_each(|&place| held[place] += 1);
        Moves { nodes, copies, rows, held }
    }

    fn zone(&self, place: usize) -> &str {
        &self.nodes[place].zone
    }

    /// Nodes of the partition that are in the zone of `place`, itself left out.
    fn neighbours(&self, partition: usize, place: usize) -> usize {
        let alike = |other: &&usize| **other != place && self.zone(**other) == self.zone(place);
        self.rows[partition].iter().filter(alike).count()
    }

    /// The best node for another copy: in a zone that has fewest, then the one that holds least.
    fn best(&self, partition: usize) -> Option<usize> {
        let free = (0..self.nodes.len()).filter(|place| !self.rows[partition].contains(place));
        let turn =
            |place: usize| (place + self.nodes.len() - partition % self.nodes.len()) % self.nodes.len();
        free.min_by_key(|&place| (self.neighbours(partition, place), self.held[place], turn(place)))
    }

    /// Gives a partition the copies it lacks.
    fn fill(&mut self, partition: usize) {
        while self.rows[partition].len() < self.copies {
            let best = self.best(partition).expect("there are as many nodes as copies");
            self.rows[partition].push(best);
            self.held[best] += 1;
        }
    }

    /// Moves copies that share a zone to zones that have none.
    fn spread(&mut self, partition: usize) {
        while let Some(best) = self.best(partition) {
            let crowded =
                (0..self.copies).filter(|&at| self.neighbours(partition, self.rows[partition][at]) > 0);
            let Some(at) = crowded.max_by_key(|&at| self.held[self.rows[partition][at]]) else { return };
            if self.neighbours(partition, best) > 0 {
                return;
            }
            self.put(partition, at, best);
        }
    }

    /// Moves one copy from a node that holds more to one that holds less. `false`: nothing is left to gain.
    fn even_out(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|&place| self.held[place]);
        for &to in &order {
            for &from in order.iter().rev() {
                if self.held[from] <= self.held[to] + 1 {
                    break;
                }
                if let Some((partition, at)) = self.movable(from, to) {
                    self.put(partition, at, to);
                    return true;
                }
            }
        }
        false
    }

    /// A copy that may go from one node to another without sharing more zones than before.
    fn movable(&self, from: usize, to: usize) -> Option<(usize, usize)> {
        self.rows.iter().enumerate().find_map(|(partition, row)| {
            let at = row.iter().position(|&place| place == from)?;
            let shared = |place: usize| {
                row.iter().filter(|&&other| other != from && self.zone(other) == self.zone(place)).count()
            };
            (!row.contains(&to) && shared(to) <= shared(from)).then_some((partition, at))
        })
    }

    fn put(&mut self, partition: usize, at: usize, to: usize) {
        self.held[self.rows[partition][at]] -= 1;
        self.rows[partition][at] = to;
        self.held[to] += 1;
    }

    fn listed(&self) -> Vec<Vec<NodeId>> {
        let list = |row: &Vec<usize>| row.iter().map(|&place| self.nodes[place].node).collect();
        self.rows.iter().map(list).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
            (&["", "", "", "", ""], 3),
            (&["a", "a", "b", "b", "c", "c"], 3),
            (&["a", "b", "a", "b", "a", "b", "a", "b"], 3),
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

    /// Copies that are on another node than before.
    fn moved(before: &Layout, after: &Layout) -> usize {
        let rows = before.partitions.iter().zip(&after.partitions);
        let new = |(before, after): (&Vec<NodeId>, &Vec<NodeId>)| {
            after.iter().take(3).filter(|node| !before[..before.len().min(3)].contains(node)).count()
        };
        rows.map(new).sum()
    }

    fn held(layout: &Layout) -> BTreeMap<NodeId, usize> {
        let mut held = BTreeMap::new();
        layout.partitions.iter().for_each(|row| {
            row.iter().take(3).for_each(|node| *held.entry(*node).or_default() += 1);
        });
        held
    }

    #[test]
    fn a_node_more_takes_its_share_and_nothing_else_moves() {
        let before = first_layout(&candidates(&["", "", ""]), 1024, 3);
        let after = next_layout(&before, &candidates(&["", "", "", ""]), 3);
        assert_eq!((after.version, moved(&before, &after)), (LayoutVersion(2), 768));
        assert!(held(&after).values().all(|held| *held == 768), "{:?}", held(&after));
        let again = next_layout(&after, &candidates(&["", "", "", ""]), 3);
        assert_eq!(moved(&after, &again), 0, "what is even stays");
    }

    #[test]
    fn a_node_that_goes_leaves_its_copies_to_the_others_and_little_else_moves() {
        let nodes = candidates(&["", "", "", "", ""]);
        let before = first_layout(&nodes, 1024, 3);
        let lost = held(&before)[&NodeId(2)];
        let left: Vec<Candidate> = nodes.into_iter().filter(|node| node.node != NodeId(2)).collect();
        let after = next_layout(&before, &left, 3);
        assert!(after.partitions.iter().all(|row| row.len() == 3 && !row.contains(&NodeId(2))));
        let spread = held(&after).values().max().unwrap() - held(&after).values().min().unwrap();
        // Nodes that shared many partitions with it get few of its copies, and others instead.
        let moved = moved(&before, &after);
        assert!(spread <= 1 && moved <= lost + lost / 5, "{spread} {moved} {lost}");
        let fewer = next_layout(&before, &left[..2], 3);
        assert!(fewer.partitions.iter().all(|row| row.len() == 2), "two nodes hold two copies");
    }

    #[test]
    fn copies_stay_in_different_zones_and_go_to_new_ones() {
        let nodes = candidates(&["a", "a", "b", "b", "c", "c", "b"]);
        let zone = |node: &NodeId| nodes[usize::from(node.0) - 1].zone.as_str();
        let zones =
            |row: &Vec<NodeId>| row.iter().take(3).map(zone).collect::<std::collections::BTreeSet<_>>().len();
        let before = first_layout(&nodes[..4], 256, 3);
        assert!(before.partitions.iter().all(|row| zones(row) == 2));
        let third = next_layout(&before, &nodes[..6], 3);
        assert!(third.partitions.iter().all(|row| zones(row) == 3));
        let more = next_layout(&third, &nodes, 3);
        assert!(more.partitions.iter().all(|row| zones(row) == 3));
        assert!((75..=95).contains(&held(&more)[&NodeId(7)]), "a third of its zone's: {:?}", held(&more));
        assert_eq!(moved(&third, &more), held(&more)[&NodeId(7)]);
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let mut nodes = candidates(&["a", "b", "c", "a"]);
        let layout = first_layout(&nodes, 16, 3);
        nodes.reverse();
        assert_eq!(first_layout(&nodes, 16, 3), layout);
    }
}
