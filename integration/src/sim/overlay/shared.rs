//! What the clients of one simulated overlay share: the history, the trace, what is broken now, and what was reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::plan::{Cluster, Machine, Plan};
use crate::history::{Moment, Violation};
use crate::sim::coverage::Reached;
use crate::sim::world::Report;
use crate::worker::{Added, Book, Scene};

/// What was in trouble serves again within this.
pub const RECOVERY: Duration = Duration::from_secs(15);

/// What all clients of a world share.
pub struct Shared {
    plan: Plan,
    book: Mutex<Book>,
    state: Mutex<State>,
}

/// How a mirror was promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// With all that its home had.
    Whole,
    /// Without its home.
    Lost,
}

#[derive(Default)]
struct State {
    moment: Moment,
    trace: Vec<String>,
    operations: u64,
    done: BTreeSet<String>,
    violation: Option<String>,
    states: BTreeSet<&'static str>,
    weather: Weather,
    /// Which clusters invited which ones again since they removed them last.
    invited: BTreeSet<(Cluster, Cluster)>,
    /// Clusters that made a bucket of the same name.
    twins: Vec<Cluster>,
    /// How the mirror was promoted, if it was.
    promotion: Option<Promotion>,
}

/// What is broken now, and until when what was.
#[derive(Default, Clone)]
pub struct Weather {
    /// Machines that are down.
    down: BTreeSet<Machine>,
    /// When a machine died or was started last.
    machines: BTreeMap<Machine, Duration>,
    /// Ways between gateways that are cut or held back, either way, and how often.
    ways: BTreeMap<(Machine, Machine), u32>,
    /// When a way was cut or repaired last.
    changed: BTreeMap<(Machine, Machine), Duration>,
    /// Clusters that operators let leave and join again: how many do, and when one did last.
    moving: BTreeMap<Cluster, (u32, Duration)>,
}

impl Weather {
    /// A machine died or was started.
    pub fn machine(&mut self, machine: Machine, is_up: bool, now: Duration) {
        if is_up {
            self.down.remove(&machine);
        } else {
            self.down.insert(machine);
        }
        self.machines.insert(machine, now);
    }

    /// A way was cut or held back (or repaired) once more.
    pub fn way(&mut self, one: Machine, other: Machine, is_cut: bool, now: Duration) {
        let way = (one.min(other), one.max(other));
        let count = self.ways.entry(way).or_default();
        *count = if is_cut { *count + 1 } else { count.saturating_sub(1) };
        self.changed.insert(way, now);
    }

    /// All ways are open, all machines up.
    pub fn heal(&mut self, now: Duration) {
        for way in self.ways.iter_mut().filter(|(_, count)| **count > 0).map(|(way, count)| {
            *count = 0;
            *way
        }) {
            self.changed.insert(way, now);
        }
    }

    /// Whether all these machines are up, and have been for so long.
    pub fn are_quiet(&self, machines: &[Machine], window: Duration, now: Duration) -> bool {
        machines.iter().all(|machine| {
            let changed = self.machines.get(machine).copied();
            !self.down.contains(machine) && changed.is_none_or(|changed| changed + window <= now)
        })
    }

    /// Whether a machine is up.
    pub fn is_up(&self, machine: Machine) -> bool {
        !self.down.contains(&machine)
    }

    /// Whether the ways from these to those are open, and have been for so long.
    pub fn are_open(&self, from: &[Machine], to: &[Machine], window: Duration, now: Duration) -> bool {
        let between = |one: &Machine, other: &Machine| {
            let way = (*one.min(other), *one.max(other));
            let changed = self.changed.get(&way).copied();
            self.ways.get(&way).is_none_or(|count| *count == 0)
                && changed.is_none_or(|changed| changed + window <= now)
        };
        from.iter().all(|one| to.iter().all(|other| between(one, other)))
    }

    /// A cluster leaves, or has joined again.
    pub fn moves(&mut self, cluster: Cluster, is_back: bool, now: Duration) {
        let (count, changed) = self.moving.entry(cluster).or_default();
        *count = if is_back { count.saturating_sub(1) } else { *count + 1 };
        *changed = now;
    }

    /// Whether one of the clusters is not, or only just, a member that all others know.
    pub fn are_moving(&self, clusters: &[Cluster], now: Duration) -> bool {
        let moves =
            |cluster| self.moving.get(cluster).is_some_and(|(count, at)| 0 < *count || now < *at + RECOVERY);
        clusters.iter().any(moves)
    }
}

/// The simulated time.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Shared {
    /// Nothing happened yet.
    pub fn new(plan: &Plan) -> Arc<Shared> {
        Arc::new(Shared { plan: plan.clone(), book: Mutex::default(), state: Mutex::default() })
    }

    /// What is being simulated.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Adds a line to the trace.
    pub fn note_at(&self, elapsed: Duration, line: &str) {
        self.state().trace.push(format!("{elapsed:?} {line}"));
    }

    /// The world ends with a violation, unless it was the first one already.
    pub fn fail(&self, elapsed: Duration, violation: String) {
        if self.violation().is_none() {
            self.note_at(elapsed, &format!("VIOLATION {violation}"));
            self.state().violation = Some(violation);
        }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    /// A rare state was reached.
    pub fn reach(&self, state: &'static str) {
        self.state().states.insert(state);
    }

    /// One more operation.
    pub fn count_operation(&self) {
        self.state().operations += 1;
    }

    /// A client came to its end.
    pub fn end(&self, client: &str) {
        self.state().done.insert(client.to_string());
    }

    /// Whether a client came to its end.
    pub fn has_ended(&self, client: &str) -> bool {
        self.state().done.contains(client)
    }

    /// What is broken now.
    pub fn weather(&self) -> Weather {
        self.state().weather.clone()
    }

    /// Something breaks or is repaired.
    pub fn change_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.state().weather);
    }

    /// A cluster made its bucket of the name that two clusters give.
    pub fn made_twin(&self, cluster: Cluster) {
        let mut state = self.state();
        state.twins.push(cluster);
        state.twins.sort();
    }

    /// Clusters that have a bucket of that name.
    pub fn twins(&self) -> Vec<Cluster> {
        self.state().twins.clone()
    }

    /// A cluster removes another one.
    pub fn remove(&self, by: Cluster, cluster: Cluster) {
        self.state().invited.remove(&(by, cluster));
    }

    /// A cluster invites another one again.
    pub fn invite(&self, by: Cluster, cluster: Cluster) {
        self.state().invited.insert((by, cluster));
    }

    /// Whether a cluster invited one that it had removed.
    pub fn has_invited(&self, inviting: Cluster, cluster: Cluster) -> bool {
        self.state().invited.contains(&(inviting, cluster))
    }

    /// The mirror follows no more.
    pub fn promote(&self, promotion: Promotion) {
        self.state().promotion = Some(promotion);
    }

    /// How that came, if it did.
    pub fn promotion(&self) -> Option<Promotion> {
        self.state().promotion
    }

    /// What came of it all.
    pub fn report(&self) -> Report {
        let state = self.state();
        Report {
            violation: state.violation.clone(),
            trace: state.trace.clone(),
            operations: state.operations,
            unknowns: self.book().history.unknowns,
            reached: Reached { faults: BTreeSet::new(), states: state.states.clone() },
        }
    }

    /// Whether a cluster need not know the buckets of another one now.
    pub fn are_strangers(&self, one: Cluster, other: Cluster) -> bool {
        one != other && self.state().weather.are_moving(&[one, other], now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }
}

impl Scene for Shared {
    /// Ascends with every step of any client.
    fn moment(&self) -> Moment {
        let mut state = self.state();
        state.moment += 1;
        state.moment
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no holder of this lock can panic")
    }

    /// With the simulated time of the client that calls.
    fn note(&self, line: &str) {
        self.note_at(now(), line);
    }

    /// Keeps the first violation.
    fn violate(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.state().violation.get_or_insert(what);
    }

    /// Judges at once, so that the trace ends where the promise was broken.
    fn added(&self, what: Added<'_>) {
        let verdict = match what {
            Added::Key(key) => self.book().history.judge_key(key),
            Added::Listing => self.book().history.judge_newest_listing(),
        };
        if let Err(Violation(what)) = verdict {
            self.violate(what);
        }
    }

    fn misses_bucket(&self, bucket: &str, gateway: usize) {
        let gateway = self.plan.gateways()[gateway];
        let home = super::plan::CLUSTERS.into_iter().find(|cluster| cluster.bucket() == bucket);
        if home.is_none_or(|home| !self.are_strangers(gateway.cluster(), home)) {
            self.violate(format!("{gateway} says that there is no bucket {bucket}"));
        }
    }
}
