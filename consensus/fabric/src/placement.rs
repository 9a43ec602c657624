//! Where the copies of an extent belong: layouts map partitions to nodes.
//!
//! A layout is metadata: versioned, committed through the log. This file is pure arithmetic.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::coding::Coding;
use crate::ids::{ExtentId, LayoutVersion, NodeId};
use crate::limits::{COPIES, OWNERS_MAX};

/// One version of the map from partitions to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Its number; layouts ascend.
    pub version: LayoutVersion,
    /// For each partition its owners in order, at most [`crate::limits::OWNERS_MAX`], of which copies use the first
    /// three and shards as many as there are (see [`crate::coding`]). The length is a power of two.
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
/// node owning as many partitions as any other of its zone. Where there are three copies, owners for the shards of the
/// widest coding are listed behind them, as far as there are nodes. Depends on nothing but its arguments, whatever
/// their order.
pub fn first_layout(candidates: &[Candidate], partitions: usize, copies: usize) -> Layout {
    assert!(partitions.is_power_of_two());
    let nobody = Layout { version: LayoutVersion(0), partitions: vec![Vec::new(); partitions] };
    next_layout(&nobody, candidates, copies)
}

/// The layout that follows `current` when `candidates` are the nodes that may own partitions. Copies stay where they
/// are, but for those of nodes that are no candidates any more, those that share a zone while another has none, and as
/// many as it takes until every node of a zone holds about as many as any other. An owner that stays keeps its place in
/// the list, as a shard belongs to a place. Depends on nothing but its arguments.
pub fn next_layout(current: &Layout, candidates: &[Candidate], copies: usize) -> Layout {
    assert!(!candidates.is_empty() && (1..=OWNERS_MAX).contains(&copies));
    let mut moves = Moves::new(current, candidates, copies.min(candidates.len()));
    for partition in 0..moves.rows.len() {
        moves.fill(partition);
        moves.spread(partition);
    }
    while moves.even_out() {}
    moves.keep_places(current);
    moves.widen(current, owners_listed(candidates.len(), copies));
    Layout { version: LayoutVersion(current.version.0 + 1), partitions: moves.listed() }
}

/// How many owners a partition lists.
pub fn owners_listed(nodes: usize, copies: usize) -> usize {
    let most = if copies == COPIES { Coding::SHARDS_MAX } else { copies };
    most.min(nodes)
}

/// A layout in the making: who holds the copies of each partition.
struct Moves<'a> {
    /// By id.
    nodes: Vec<&'a Candidate>,
    copies: usize,
    /// Places in `nodes`.
    rows: Vec<Vec<usize>>,
    /// Copies, and at last shards, that each node holds.
    held: Vec<usize>,
    /// What stands at the first places stays there.
    fixed: usize,
}

impl<'a> Moves<'a> {
    /// The copies that can stay.
    fn new(current: &Layout, candidates: &'a [Candidate], copies: usize) -> Moves<'a> {
        let mut nodes: Vec<&Candidate> = candidates.iter().collect();
        nodes.sort_by_key(|candidate| candidate.node);
        let mut moves = Moves { held: vec![0; nodes.len()], nodes, copies, rows: Vec::new(), fixed: 0 };
        let stay =
            |owners: &Vec<NodeId>| owners.iter().take(copies).filter_map(|node| moves.find(*node)).collect();
        moves.rows = current.partitions.iter().map(stay).collect();
        moves.rows.iter().flatten().for_each(|&place| moves.held[place] += 1);
        moves
    }

    fn find(&self, node: NodeId) -> Option<usize> {
        self.nodes.binary_search_by_key(&node, |candidate| candidate.node).ok()
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
            let at = row.iter().position(|&place| place == from).filter(|at| self.fixed <= *at)?;
            let shared = |place: usize| {
                row.iter().filter(|&&other| other != from && self.zone(other) == self.zone(place)).count()
            };
            (!row.contains(&to) && shared(to) <= shared(from)).then_some((partition, at))
        })
    }

    /// Orders the copies of each partition: those that stayed are where they were.
    fn keep_places(&mut self, current: &Layout) {
        for partition in 0..self.rows.len() {
            let row = &self.rows[partition];
            let before = self.listed_before(current, partition, 0..row.len());
            let stays = before.iter().map(|place| place.filter(|place| row.contains(place)));
            let new = row.iter().copied().filter(|place| !before.contains(&Some(*place)));
            self.rows[partition] = merged(stays, new);
        }
    }

    /// Lists further owners, up to `width`: those that were listed at the same place, or the best.
    fn widen(&mut self, current: &Layout, width: usize) {
        if width == self.copies {
            return;
        }
        let mut stay = Vec::with_capacity(self.rows.len());
        for partition in 0..self.rows.len() {
            let mut before = self.listed_before(current, partition, self.copies..width);
            let row = &mut self.rows[partition];
            before.iter_mut().for_each(|place| *place = place.filter(|place| !row.contains(place)));
            row.extend(before.iter().flatten());
            before.iter().flatten().for_each(|&place| self.held[place] += 1);
            stay.push(before);
        }
        let wanted = std::mem::replace(&mut self.copies, width);
        for (partition, stay) in stay.into_iter().enumerate() {
            let there = self.rows[partition].len();
            self.fill(partition);
            let new = self.rows[partition].split_off(there);
            self.rows[partition].truncate(wanted);
            self.rows[partition].extend(merged(stay.into_iter(), new.into_iter()));
        }
        self.fixed = wanted;
        while self.even_out() {}
    }

    /// Who was listed for a partition at some places; `None` where there was nobody, or who is no candidate any more.
    fn listed_before(&self, current: &Layout, partition: usize, places: Range<usize>) -> Vec<Option<usize>> {
        let listed = &current.partitions[partition];
        places.map(|at| listed.get(at).and_then(|node| self.find(*node))).collect()
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

/// Puts new ones where nobody stays.
fn merged(stays: impl Iterator<Item = Option<usize>>, mut new: impl Iterator<Item = usize>) -> Vec<usize> {
    stays.filter_map(|place| place.or_else(|| new.next())).collect()
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
        assert!(after.partitions.iter().all(|row| row.len() == 4 && !row.contains(&NodeId(2))));
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

    /// Places at which another node is listed than before.
    fn changed(before: &Layout, after: &Layout) -> usize {
        let rows = before.partitions.iter().zip(&after.partitions);
        rows.map(|(before, after)| {
            after.iter().enumerate().filter(|(at, node)| before.get(*at) != Some(*node)).count()
        })
        .sum()
    }

    #[test]
    fn shards_have_places_of_their_own_and_keep_them() {
        let nodes = candidates(&[""; 9]);
        let five = first_layout(&nodes[..5], 256, 3);
        // A layout of before there were shards: only the copies are listed.
        let old = Layout {
            partitions: five.partitions.iter().map(|row| row[..3].to_vec()).collect(),
            ..five.clone()
        };
        let wider = next_layout(&old, &nodes[..5], 3);
        assert_eq!(
            (moved(&old, &wider), changed(&old, &wider)),
            (0, 2 * 256),
            "copies stay, and two are listed more"
        );
        let six = next_layout(&five, &nodes[..6], 3);
        assert!(six.partitions.iter().all(|row| row.len() == 6));
        let all = next_layout(&six, &nodes, 3);
        let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
        all.partitions.iter().flatten().for_each(|node| *owned.entry(*node).or_default() += 1);
        let spread = owned.values().max().unwrap() - owned.values().min().unwrap();
        assert!(owned.len() == 9 && spread <= 2, "{owned:?}");
        // One of six goes: each other one stays where it is, but for what takes its place among the copies.
        let left: Vec<Candidate> = nodes[..6].iter().filter(|node| node.node != NodeId(6)).cloned().collect();
        let after = next_layout(&six, &left, 3);
        let among_copies = six.partitions.iter().filter(|row| row[..3].contains(&NodeId(6))).count();
        assert!(after.partitions.iter().all(|row| row.len() == 5));
        assert!(changed(&six, &after) <= 256 + 2 * among_copies, "{} {among_copies}", changed(&six, &after));
        assert!(
            first_layout(&nodes, 16, 2).partitions.iter().all(|row| row.len() == 2),
            "fewer copies, no shards"
        );
    }

    #[test]
    fn the_order_of_candidates_does_not_matter() {
        let mut nodes = candidates(&["a", "b", "c", "a"]);
        let layout = first_layout(&nodes, 16, 3);
        nodes.reverse();
        assert_eq!(first_layout(&nodes, 16, 3), layout);
    }
}
