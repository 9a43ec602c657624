//! The types Raft is instantiated with. What is stored or sent of them is append only.

use std::fmt;

use bytes::Bytes;
use fabric::ids::{NodeId, RaftId};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use serde::{Deserialize, Serialize};

use crate::meta::command::Reply;

/// Tokio, with Raft's random choices drawn from a seed of ours.
pub type Runtime = DeterministicRng<TokioRuntime>;

openraft::declare_raft_types!(
    /// What Raft is instantiated with. A node id is a [`RaftId`] as a number.
    pub Types:
        D = Proposal,
        R = Option<Reply>,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// An entry of the log.
pub type LogEntry = EntryOf<Types>;
/// Position of an entry: leader and index.
pub type LogId = LogIdOf<Types>;
/// The vote, as stored.
pub type Vote = VoteOf<Types>;
/// A membership and where in the log it stands.
pub type StoredMembership = StoredMembershipOf<Types>;
/// What a snapshot covers.
pub type SnapshotMeta = SnapshotMetaOf<Types>;

/// An encoded [`crate::meta::command::Entry`]: encoded once by the leader, decoded when it is applied.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the membership knows of a voter besides its Raft id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// The storage node it runs on.
    pub node: u16,
}

impl Member {
    /// The member entry of a voter.
    pub fn of(id: RaftId) -> Member {
        Member { node: id.node().0 }
    }

    /// The storage node it runs on.
    pub fn node(&self) -> NodeId {
        NodeId(self.node)
    }
}

/// A snapshot as handed between Raft, the state machine and the network.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<Types, super::machine::SnapshotData>;
