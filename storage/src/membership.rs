//! Which nodes hold data: what an operator asks for, as changes of the layout.
//!
//! A node that is started registers itself; data come to it when a layout lists it, and leave it when the next one does
//! not. The copies move in the background (see [`crate::jobs`]); each step here is one command, and may be repeated.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::client::{Meta, MetaError, ask};
use consensus::meta::command::{Command, Reject, RemoveNode, SetLayout};
use consensus::meta::model::NodeRow;
use consensus::meta::query::{Answer, Query};
use fabric::ids::{LayoutVersion, NodeId};
use fabric::placement::{Candidate, Layout, next_layout, owners_listed};

/// Two operators at once: the second one tries again with what the first one left.
const TRIES: usize = 5;
/// The leader looks after the voters every few seconds, and a node that begins to vote has to catch up first.
const VOTE_TRIES: usize = 60;
const VOTE_PAUSE: Duration = Duration::from_secs(1);

/// Why it was not done. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The metadata did not answer, or refused.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// It never registered, or it was removed.
    #[error("node {0} is no member: start it with `fluffy-storage --config FILE --node {0}` first")]
    NoMember(NodeId),
    /// Too few nodes would be left.
    #[error("{left} nodes would be left for {copies} copies: add a node first")]
    TooFew {
        /// Nodes that would hold data.
        left: usize,
        /// Copies of each object.
        copies: usize,
    },
    /// It holds data.
    #[error("node {0} holds data: drain it first")]
    HoldsData(NodeId),
    /// Extents lie on it still.
    #[error("{1} objects or parts are still to be moved from node {0}: wait until it is drained")]
    Moving(NodeId, u64),
    /// It is a voter, and the cluster has nobody to vote in its place, or has not let it yet.
    #[error(
        "node {0} votes on the metadata, and no other node with data does in its place yet: it stays a member"
    )]
    Voter(NodeId),
    /// There is no layout yet.
    #[error("the cluster is not born yet: all its nodes have to be there once")]
    Unborn,
    /// Somebody else changes it at the same time.
    #[error("the layout is being changed by somebody else: try again")]
    Contended,
}

/// The nodes of a cluster and what lies on them.
#[derive(Debug, Clone)]
pub struct Membership {
    /// All members.
    pub nodes: Vec<NodeRow>,
    /// The newest layout.
    pub layout: Layout,
}

impl Membership {
    /// As the metadata have it now.
    pub async fn read(meta: &dyn Meta) -> Result<Membership, MembershipError> {
        let Answer::Members { nodes, .. } = ask(meta, Query::Members).await? else {
            return Err(strange("members"));
        };
        match ask(meta, Query::Layout(None)).await? {
            Answer::Layout(Some(layout)) => Ok(Membership { nodes, layout }),
            Answer::Layout(None) => Err(MembershipError::Unborn),
            _ => Err(strange("layout")),
        }
    }

    /// Partitions whose copies belong on each node.
    pub fn owned(&self) -> BTreeMap<NodeId, usize> {
        let mut owned = BTreeMap::new();
        self.layout.partitions.iter().flatten().for_each(|node| *owned.entry(*node).or_default() += 1);
        owned
    }

    fn row(&self, node: NodeId) -> Result<&NodeRow, MembershipError> {
        self.nodes.iter().find(|row| row.id == node).ok_or(MembershipError::NoMember(node))
    }

    /// Nodes that hold data, but for one, and another one.
    fn candidates(&self, without: Option<NodeId>, with: Option<NodeId>) -> Vec<Candidate> {
        let owned = self.owned();
        let stays =
            |row: &&NodeRow| owned.contains_key(&row.id) && without != Some(row.id) || with == Some(row.id);
        let candidate = |row: &NodeRow| Candidate { node: row.id, zone: row.zone.clone() };
        self.nodes.iter().filter(stays).map(candidate).collect()
    }
}

/// Gives a member its share of the data. Done already is done, but for owners of shards where none are listed yet.
pub async fn add(meta: &dyn Meta, node: NodeId, copies: usize) -> Result<(), MembershipError> {
    change(meta, |membership| {
        membership.row(node)?;
        let candidates = membership.candidates(None, Some(node));
        let width = owners_listed(candidates.len(), copies);
        let is_wide = membership.layout.partitions.iter().all(|row| row.len() == width);
        let there = membership.owned().contains_key(&node) && is_wide;
        Ok((!there).then(|| next_layout(&membership.layout, &candidates, copies)))
    })
    .await
}

/// Takes the data from a member. Done already is done.
pub async fn drain(meta: &dyn Meta, node: NodeId, copies: usize) -> Result<(), MembershipError> {
    change(meta, |membership| {
        membership.row(node)?;
        if !membership.owned().contains_key(&node) {
            return Ok(None);
        }
        let left = membership.candidates(Some(node), None);
        if left.len() < copies {
            return Err(MembershipError::TooFew { left: left.len(), copies });
        }
        Ok(Some(next_layout(&membership.layout, &left, copies)))
    })
    .await
}

/// Removes a member that holds no data; its number never comes back.
pub async fn remove(meta: &dyn Meta, node: NodeId) -> Result<(), MembershipError> {
    let membership = without_a_vote(meta, node).await?;
    if membership.owned().contains_key(&node) {
        return Err(MembershipError::HoldsData(node));
    }
    match to_move(meta).await? {
        0 => {}
        left => return Err(MembershipError::Moving(node, left)),
    }
    match meta.propose(Command::RemoveNode(RemoveNode { node })).await {
        Err(MetaError::Rejected(Reject::NodeInUse)) => Err(MembershipError::HoldsData(node)),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// Waits until a node without data does not vote any more: the leader lets another one vote in its place, if there is one.
async fn without_a_vote(meta: &dyn Meta, node: NodeId) -> Result<Membership, MembershipError> {
    for _ in 0..VOTE_TRIES {
        let membership = Membership::read(meta).await?;
        let owned = membership.owned();
        let could_vote = |row: &NodeRow| row.voter.is_none() && owned.contains_key(&row.id);
        if membership.row(node)?.voter.is_none() || owned.contains_key(&node) {
            return Ok(membership);
        }
        if !membership.nodes.iter().any(could_vote) {
            break;
        }
        tokio::time::sleep(VOTE_PAUSE).await;
    }
    Err(MembershipError::Voter(node))
}

/// Extents that lie in an older layout than the newest.
pub async fn to_move(meta: &dyn Meta) -> Result<u64, MembershipError> {
    let Answer::Members { layout: newest, .. } = ask(meta, Query::Members).await? else {
        return Err(strange("members"));
    };
    let (mut left, mut after) = (0, None);
    loop {
        let Answer::LayoutUse { extents, next } = ask(meta, Query::LayoutUse { after }).await? else {
            return Err(strange("layout use"));
        };
        let older = extents.into_iter().filter(|(layout, _): &(LayoutVersion, u64)| *layout < newest);
        left += older.map(|(_, count)| count).sum::<u64>();
        if next.is_none() {
            return Ok(left);
        }
        after = next;
    }
}

/// Sets the layout that `next` makes of what is there; `None`: it is as wanted.
async fn change(
    meta: &dyn Meta,
    next: impl Fn(&Membership) -> Result<Option<Layout>, MembershipError>,
) -> Result<(), MembershipError> {
    for _ in 0..TRIES {
        let Some(layout) = next(&Membership::read(meta).await?)? else {
            return Ok(());
        };
        match meta.propose(Command::SetLayout(SetLayout { layout })).await {
            Err(MetaError::Rejected(Reject::LayoutExists)) => {}
            outcome => return Ok(outcome.map(drop)?),
        }
    }
    Err(MembershipError::Contended)
}

pub(crate) fn strange(question: &str) -> MembershipError {
    MetaError::Unavailable(format!("the answer to {question} is of another kind")).into()
}
