//! Whom a client asks while nobody is known to lead.

use fabric::ids::NodeId;

/// In so many questions one goes to a node that was not born as a voter: the voters may be others by now.
const ONE_IN: usize = 4;

/// The nodes of a cluster, those first that it was born with as voters.
#[derive(Debug, Clone)]
pub struct Contacts {
    voters: Vec<NodeId>,
    others: Vec<NodeId>,
}

impl Contacts {
    /// `voters`: of the configuration, at least one. `nodes`: all nodes, which may name the voters again.
    pub fn new(voters: &[NodeId], nodes: &[NodeId]) -> Contacts {
        assert!(!voters.is_empty(), "a cluster has voters");
        let others = nodes.iter().filter(|node| !voters.contains(node)).copied().collect();
        Contacts { voters: voters.to_vec(), others }
    }

    /// Whom to ask for the `turn`th time.
    pub(super) fn at(&self, turn: usize) -> NodeId {
        let round = turn / ONE_IN;
        match self.others.len() {
            0 => self.voters[turn % self.voters.len()],
            others if turn % ONE_IN == ONE_IN - 1 => self.others[round % others],
            _ => self.voters[(turn - round) % self.voters.len()],
        }
    }

    /// All of them, the voters first.
    pub fn all(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.others).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fourth_question_goes_to_another_node() {
        let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let contacts = Contacts::new(&nodes[..3], &nodes);
        let asked: Vec<u16> = (0..9).map(|turn| contacts.at(turn).0).collect();
        assert_eq!(asked, [1, 2, 3, 4, 1, 2, 3, 5, 1]);
        let contacts = Contacts::new(&nodes[..2], &nodes[..2]);
        let asked: Vec<u16> = (0..5).map(|turn| contacts.at(turn).0).collect();
        assert_eq!(asked, [1, 2, 1, 2, 1]);
    }
}
