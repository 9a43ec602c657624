//! Who votes: the leader keeps three voters, or five if its configuration names more than three, where enough nodes hold
//! data, spread over the zones; up to two further nodes stand by with the metadata, to vote when a voter is lost.
//!
//! A node of the cluster that is no member stands by for the leader's call (see [`super::node::MetaNode::stand_by`]). The
//! leader looks around, and changes one thing at a time. What it knows of others is only how long they were silent, and
//! a wrong guess costs a move, never safety: whatever it decides goes through Raft's own joint change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fabric::env::{Env, TaskHandle, spawn_critical};
use fabric::ids::{LayoutVersion, NodeId, RaftId};
use fabric::rpc::{CallOptions, Class, RpcClient};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;

use super::node::{NodeConfig, Running};
use super::overlay::View;
use super::types::Member;
use super::wire::{BirthAnswer, VoterName, method};
use crate::meta::model::NodeRow;
use crate::meta::tables::{Cluster, Nodes, RemovedNodes, get, get_layout, scan_all};

/// How often the leader looks around.
const INTERVAL: Duration = Duration::from_secs(2);
/// A node answers in this time, or is silent.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// One change of the members takes no longer, or is tried again.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// Nodes that stand by with the metadata beside the voters.
const STANDBYS: usize = 2;
/// The usual number of voters, and that of a cluster whose configuration names more.
const VOTERS: usize = 3;
const VOTERS_MANY: usize = 5;
/// Entries that a member may still lack when it begins to vote: under load there are always some on their way.
const LAG_MAX: u64 = 1_000;

/// What a node is in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Voter,
    /// It has the metadata and does not vote.
    Standby,
    Outside,
}

/// A node as the leader sees it.
#[derive(Debug, Clone)]
struct Seat {
    id: RaftId,
    zone: String,
    role: Role,
    /// It answered just now.
    here: bool,
    /// It was silent too long, or it was removed from the cluster.
    lost: bool,
    caught_up: bool,
    /// It belongs to the newest layout.
    holds_data: bool,
}

impl Seat {
    /// Whether it may begin to vote now.
    fn is_ready(&self) -> bool {
        self.role == Role::Standby && self.here && self.caught_up && self.holds_data
    }
}

/// One step towards the voters that should be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// This node gets the metadata.
    StandBy(RaftId),
    /// These begin to vote.
    Vote(Vec<RaftId>),
    /// One votes in the place of another, which keeps nothing.
    Exchange { old: RaftId, new: RaftId },
    /// This one need not follow any more.
    Dismiss(RaftId),
}

/// The next step, if anything is to be done. `preferred`: voters, where there are enough nodes.
fn next_change(seats: &[Seat], preferred: usize) -> Option<Change> {
    let of = |role: Role| seats.iter().filter(move |seat| seat.role == role);
    let voters: Vec<&Seat> = of(Role::Voter).collect();
    let ready: Vec<&Seat> = seats.iter().filter(|seat| seat.is_ready()).collect();

    let leaving = voters.iter().find(|voter| voter.lost).or(voters.iter().find(|voter| !voter.holds_data));
    if let Some(leaving) = leaving {
        let stay = voters.iter().filter(|voter| voter.id != leaving.id);
        if let Some(new) = least_crowded(&ready, &stay.copied().collect::<Vec<_>>()) {
            return Some(Change::Exchange { old: leaving.id, new });
        }
    }
    if let Some(standby) = of(Role::Standby).find(|standby| standby.lost || !standby.holds_data) {
        return Some(Change::Dismiss(standby.id));
    }
    let wanted = wanted(seats, voters.len(), preferred);
    let missing = wanted.saturating_sub(voters.len());
    // An even number bears no more losses than the odd one below it.
    let more = (1..=missing.min(ready.len())).rev().find(|more| (voters.len() + more) % 2 == 1);
    if let Some(more) = more {
        let (mut left, mut all, mut chosen) = (ready.clone(), voters.clone(), Vec::new());
        for _ in 0..more {
            let next = least_crowded(&left, &all)?;
            let place = left.iter().position(|seat| seat.id == next)?;
            all.push(left.remove(place));
            chosen.push(next);
        }
        return Some(Change::Vote(chosen));
    }
    if of(Role::Standby).count() < missing + STANDBYS {
        let outside: Vec<&Seat> = of(Role::Outside).filter(|seat| seat.here && seat.holds_data).collect();
        let members: Vec<&Seat> = seats.iter().filter(|seat| seat.role != Role::Outside).collect();
        if let Some(new) = least_crowded(&outside, &members) {
            return Some(Change::StandBy(new));
        }
    }
    spread(&voters, &ready)
}

/// How many should vote. What votes already goes on to do so.
fn wanted(seats: &[Seat], voters: usize, preferred: usize) -> usize {
    let usable = seats.iter().filter(|seat| {
        let is_there = if seat.role == Role::Outside { seat.here } else { !seat.lost };
        is_there && seat.holds_data
    });
    match usable.count() {
        usable if usable >= preferred => preferred.max(voters),
        usable if usable >= VOTERS => VOTERS.max(voters),
        _ => voters,
    }
}

/// An exchange after which fewer voters share a zone.
fn spread(voters: &[&Seat], ready: &[&Seat]) -> Option<Change> {
    voters.iter().find_map(|old| {
        let stay: Vec<&Seat> = voters.iter().filter(|voter| voter.id != old.id).copied().collect();
        let new = least_crowded(ready, &stay)?;
        let zone_of_new = &ready.iter().find(|seat| seat.id == new)?.zone;
        (crowd(zone_of_new, &stay) < crowd(&old.zone, &stay)).then_some(Change::Exchange { old: old.id, new })
    })
}

/// The one whose zone holds the fewest of `others`; of equals the one with the lowest number.
fn least_crowded(candidates: &[&Seat], others: &[&Seat]) -> Option<RaftId> {
    candidates.iter().min_by_key(|seat| (crowd(&seat.zone, others), seat.id.node())).map(|seat| seat.id)
}

fn crowd(zone: &str, seats: &[&Seat]) -> usize {
    seats.iter().filter(|seat| seat.zone == zone).count()
}

/// Looks after the voters while this node leads.
pub(super) fn start(
    env: &Arc<dyn Env>,
    rpc: RpcClient,
    config: NodeConfig,
    running: Arc<Running>,
) -> TaskHandle {
    spawn_critical(env, "electorate", async move {
        let mut heard = Heard::default();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(term) = running.leads() else { continue };
            let now = running.env.monotonic();
            heard.begin(term, now);
            let Some(sights) = look(&running) else { continue };
            let answers = sights.iter().map(|sight| ask(&rpc, running.life.id, sight.seat.id));
            let answers = futures::future::join_all(answers).await;
            let seats: Vec<Seat> = sights
                .into_iter()
                .zip(answers)
                .map(|(sight, here)| heard.judge(sight, here, now, config.voter_patience))
                .collect();
            tell(&seats);
            let preferred = if config.voters.len() > VOTERS { VOTERS_MANY } else { VOTERS };
            if let Some(change) = next_change(&seats, preferred) {
                running.make(change).await;
            }
        }
    })
}

/// Whether exactly this incarnation answers. A leader need not ask itself.
async fn ask(rpc: &RpcClient, me: RaftId, id: RaftId) -> bool {
    if id == me {
        return true;
    }
    let options = CallOptions { class: Class::Control, deadline: ASK_DEADLINE };
    let asked = rpc.call_typed::<_, BirthAnswer>(id.node(), method::BIRTH, &(), Bytes::new(), options).await;
    asked.is_ok_and(|(answer, _)| answer.id == id)
}

/// When each node was heard last by this leader, in this term.
#[derive(Default)]
struct Heard {
    term: u64,
    began: Duration,
    last: BTreeMap<RaftId, Duration>,
}

impl Heard {
    fn begin(&mut self, term: u64, now: Duration) {
        if self.term != term {
            *self = Heard { term, began: now, last: BTreeMap::new() };
        }
    }

    fn judge(&mut self, sight: Sight, here: bool, now: Duration, patience: Duration) -> Seat {
        let Sight { mut seat, removed } = sight;
        if here {
            self.last.insert(seat.id, now);
        }
        // One that was never heard may have been lost just before this term.
        let last = self.last.get(&seat.id).copied().unwrap_or(self.began);
        seat.here = here;
        seat.lost = removed || now.saturating_sub(last) > patience;
        seat
    }
}

/// What the metadata say of a node, before it was asked.
struct Sight {
    seat: Seat,
    /// By an operator.
    removed: bool,
}

/// All nodes that are members of Raft or of the cluster. `None` if the metadata cannot be read.
fn look(running: &Running) -> Option<Vec<Sight>> {
    let view = running.tables.view();
    let rows: Vec<NodeRow> = scan_all::<Nodes>(&*view).ok()?.filter_map(|row| Some(row.ok()?.1)).collect();
    let holders = holders(&view);
    let (voters, standbys) = running.members_by_role();
    let caught_up = running.caught_up();
    let members: Vec<RaftId> = voters.iter().chain(&standbys).copied().collect();
    let outside = rows.iter().map(|row| RaftId::new(row.id, row.incarnation));
    // A disk that was exchanged comes back by `replace`, not by itself.
    let outside = outside.filter(|id| members.iter().all(|member| member.node() != id.node()));
    let sight = |id: RaftId| {
        let zone = rows.iter().find(|row| row.id == id.node()).map(|row| row.zone.clone());
        let role = match () {
            () if voters.contains(&id) => Role::Voter,
            () if standbys.contains(&id) => Role::Standby,
            () => Role::Outside,
        };
        let holds_data = holders.as_ref().is_none_or(|holders| holders.contains(&id.node()));
        let caught_up = role == Role::Voter || caught_up.contains(&id);
        let zone = zone.unwrap_or_default();
        let seat = Seat { id, zone, role, here: false, lost: false, caught_up, holds_data };
        Sight { seat, removed: matches!(get::<RemovedNodes>(&*view, id.node()), Ok(Some(_))) }
    };
    Some(members.iter().copied().chain(outside).map(sight).collect())
}

/// The nodes of the newest layout, once there is one.
fn holders(view: &View) -> Option<BTreeSet<NodeId>> {
    let version = get::<Cluster>(view, ()).ok()??.layout;
    if version == LayoutVersion(0) {
        return None;
    }
    let layout = get_layout(view, version).ok()??;
    Some(layout.partitions.into_iter().flatten().collect())
}

fn tell(seats: &[Seat]) {
    let count = |role: Role| seats.iter().filter(|seat| seat.role == role && !seat.lost).count() as f64;
    metrics::gauge!("fluffy_voters").set(count(Role::Voter));
    metrics::gauge!("fluffy_standbys").set(count(Role::Standby));
}

impl Running {
    /// Voters, and members that do not vote, as of the last membership in the log.
    fn members_by_role(&self) -> (Vec<RaftId>, Vec<RaftId>) {
        let voters: BTreeSet<u64> = self.raft.voter_ids().collect();
        self.members().into_iter().partition(|id| voters.contains(&id.0))
    }

    /// Members that do not vote and have, but for [`LAG_MAX`], what this leader has applied.
    pub(super) fn caught_up(&self) -> Vec<RaftId> {
        let (_, standbys) = self.members_by_role();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.map_or(0, |applied| applied.index);
        let reached =
            |id: &RaftId| metrics.replication.as_ref()?.get(&id.0)?.as_ref().map(|matched| matched.index);
        let near = |id: &RaftId| reached(id).is_some_and(|index| applied <= index + LAG_MAX);
        standbys.into_iter().filter(near).collect()
    }

    async fn make(&self, change: Change) {
        if matches!(change, Change::Exchange { old, .. } if old == self.life.id) {
            tracing::info!("leadership is handed over: another node is to vote in the place of this one");
            return self.hand_over(&[]).await;
        }
        tracing::info!(change = %told(&change), "the voters change");
        let changed = self.scope(self.change(change));
        match tokio::time::timeout(CHANGE_DEADLINE, changed).await {
            Ok(Ok(())) => metrics::counter!("fluffy_voter_changes_total").increment(1),
            Ok(Err(why)) => tracing::info!(why, "the voters do not change yet"),
            Err(_) => tracing::info!("the voters do not change yet"),
        }
    }

    async fn change(&self, change: Change) -> Result<(), String> {
        let members = match change {
            Change::StandBy(new) => {
                let added = self.raft.add_learner(new.0, Member::of(new), false).await;
                return added.map(drop).map_err(|error| error.to_string());
            }
            Change::Vote(new) => ChangeMembers::AddVoterIds(new.iter().map(|id| id.0).collect()),
            Change::Exchange { old, new } => {
                let stay = self.raft.voter_ids().filter(|id| *id != old.0);
                ChangeMembers::ReplaceAllVoters(stay.chain([new.0]).collect())
            }
            Change::Dismiss(old) => ChangeMembers::RemoveNodes(BTreeSet::from([old.0])),
        };
        let changed = self.raft.change_membership(members, false).await;
        changed.map(drop).map_err(|error| error.to_string())
    }
}

fn told(change: &Change) -> String {
    match change {
        Change::StandBy(id) => format!("{} gets the metadata and stands by", VoterName(*id)),
        Change::Vote(ids) => {
            let names: Vec<String> = ids.iter().map(|id| VoterName(*id).to_string()).collect();
            format!("{} votes from now on", names.join(", "))
        }
        Change::Exchange { old, new } => {
            format!("{} votes in the place of {}", VoterName(*new), VoterName(*old))
        }
        Change::Dismiss(id) => format!("{} stands by no more", VoterName(*id)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::Incarnation;
    use proptest::prelude::*;

    use super::*;

    fn id(node: u16) -> RaftId {
        RaftId::new(NodeId(node), Incarnation(7))
    }

    /// `"1v a"`: node 1 votes and is in zone a. Roles: v, s, o; behind them `!` lost, `-` without data, `~` lagging.
    fn seats(told: &[&str]) -> Vec<Seat> {
        let seat = |told: &&str| {
            let (what, zone) = told.split_once(' ').unwrap();
            let digits = what.chars().take_while(char::is_ascii_digit).count();
            let (number, marks) = what.split_at(digits);
            let role = match marks.as_bytes()[0] {
                b'v' => Role::Voter,
                b's' => Role::Standby,
                _ => Role::Outside,
            };
            let lost = marks.contains('!');
            Seat {
                id: id(number.parse().unwrap()),
                zone: zone.to_string(),
                role,
                here: !lost,
                lost,
                caught_up: !marks.contains('~'),
                holds_data: !marks.contains('-'),
            }
        };
        told.iter().map(seat).collect()
    }

    fn next(told: &[&str]) -> Option<Change> {
        next_change(&seats(told), VOTERS)
    }

    #[test]
    fn what_is_right_stays() {
        assert_eq!(next(&["1v a"]), None);
        assert_eq!(next(&["1v a", "2v a", "3v a"]), None);
        assert_eq!(next(&["1v a", "2v b", "3v c", "4s a", "5s b", "6o c"]), None);
        assert_eq!(next(&["1v a", "2v b", "3v! c"]), None, "nobody is there to take its place");
        assert_eq!(next(&["1v a", "2v b", "3v c", "4o! d"]), None);
    }

    #[test]
    fn a_store_that_grows_gets_three_voters_and_never_two() {
        assert_eq!(next(&["1v a", "2o b"]), Some(Change::StandBy(id(2))));
        assert_eq!(next(&["1v a", "2s b"]), None);
        assert_eq!(next(&["1v a", "2s b", "3o c"]), Some(Change::StandBy(id(3))));
        assert_eq!(next(&["1v a", "2s b", "3s~ c"]), None);
        assert_eq!(next(&["1v a", "2s b", "3s c"]), Some(Change::Vote(vec![id(2), id(3)])));
        assert_eq!(next(&["1v a", "2v b", "3s c"]), Some(Change::Vote(vec![id(3)])));
    }

    #[test]
    fn a_lost_voter_is_exchanged_by_one_that_stands_by_in_a_zone_without_voters() {
        let five = ["1v a", "2v b", "3v! c", "4s a", "5s c"];
        assert_eq!(next(&five), Some(Change::Exchange { old: id(3), new: id(5) }));
        assert_eq!(next(&["1v a", "2v b", "3v! c", "4o a"]), Some(Change::StandBy(id(4))));
        assert_eq!(next(&["1v a", "2v b", "3v! c", "4s~ a"]), None);
        // One that an operator drained need not vote, and one that follows without data neither.
        assert_eq!(
            next(&["1v a", "2v b", "3v- c", "4s a"]),
            Some(Change::Exchange { old: id(3), new: id(4) })
        );
        assert_eq!(next(&["1v a", "2v b", "3v c", "4s- a"]), Some(Change::Dismiss(id(4))));
        assert_eq!(next(&["1v a", "2v b", "3v c", "4s! a"]), Some(Change::Dismiss(id(4))));
    }

    #[test]
    fn voters_spread_over_zones() {
        let change = Some(Change::Exchange { old: id(1), new: id(4) });
        assert_eq!(next(&["1v a", "2v a", "3v b", "4s c"]), change);
        assert_eq!(next(&["4v c", "2v a", "3v b", "1s a"]), None);
        let born_with_five = seats(&["1v a", "2v b", "3v c", "4s d", "5s e"]);
        assert_eq!(next_change(&born_with_five, VOTERS_MANY), Some(Change::Vote(vec![id(4), id(5)])));
    }

    /// Does to the seats what Raft would.
    fn carry_out(seats: &mut [Seat], change: &Change) {
        let mut set = |id: RaftId, role| seats.iter_mut().find(|seat| seat.id == id).unwrap().role = role;
        match change {
            Change::StandBy(new) => set(*new, Role::Standby),
            Change::Vote(new) => new.iter().for_each(|new| set(*new, Role::Voter)),
            Change::Exchange { old, new } => {
                set(*old, Role::Outside);
                set(*new, Role::Voter);
            }
            Change::Dismiss(old) => set(*old, Role::Outside),
        }
    }

    proptest! {
        #[test]
        fn steps_come_to_an_end_and_leave_no_lost_voter_that_could_be_exchanged(
            rows in prop::collection::vec((0..3_u8, 0..4_u8, prop::bool::weighted(0.2), prop::bool::weighted(0.1)), 1..9),
        ) {
            let mut seats: Vec<Seat> = (1..).zip(&rows).map(|(number, (role, zone, lost, drained))| Seat {
                id: id(number),
                zone: zone.to_string(),
                role: if number == 1 { Role::Voter } else { [Role::Voter, Role::Standby, Role::Outside][*role as usize] },
                here: !lost,
                lost: *lost,
                caught_up: true,
                holds_data: !drained,
            }).collect();
            let mut steps = 0;
            while let Some(change) = next_change(&seats, VOTERS) {
                carry_out(&mut seats, &change);
                steps += 1;
                prop_assert!(steps < 50, "no end: {seats:?}");
            }
            let good = |seat: &&Seat| !seat.lost && seat.holds_data;
            let idle = seats.iter().filter(good).filter(|seat| seat.role != Role::Voter).count();
            let bad = seats.iter().filter(|seat| seat.role == Role::Voter && !good(seat)).count();
            prop_assert!(idle == 0 || bad == 0, "{seats:?}");
            let voters = seats.iter().filter(|seat| seat.role == Role::Voter).count();
            prop_assert!(seats.iter().filter(good).count() < 3 || voters >= 3, "{seats:?}");
            prop_assert!(seats.iter().filter(|seat| seat.role == Role::Standby).count() <= STANDBYS.max(rows.len() - voters));
        }
    }
}
