//! The world of one plan: machines of three clusters, what lies between them, time, and the faults that come over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fabric::Seams;
use fabric::limits::GIB;
use fabric::net::Net;

use super::machines::NamedNet;
use super::plan::{CLUSTERS, Cluster, Fault, Machine, Plan};
use super::shared::Shared;
use super::{audit, clients, copies, machines, stories, watch};
use crate::sim::coverage::{Counts, Reached};
use crate::sim::disk::SimDisks;
use crate::sim::plan::Scale;
use crate::sim::random::SimRandom;
use crate::sim::seams::{EPOCH_MS, SimEnv, SimNet};
use crate::sim::workload::Ended;
use crate::sim::world::Report;

/// What has not ended after so much simulated time is stuck.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a process that stopped itself stays down.
const RESTART_MS: u64 = 500;
/// A cluster does not hear another one for so long after that came back that left.
const DEAF_MS: u64 = 2_000;
/// A cut lasts so long at least, so that it is noticed: what was lost in it nobody sends again here, as TCP would.
const NOTICED: Duration = Duration::from_millis(2_500);
/// How long a home is lost.
const LOST_MS: u64 = 9_000;
/// Time goes on in steps of so much.
const TICK: Duration = Duration::from_millis(2);

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Report {
    let mut world = World::new(plan);
    if let Err(violation) = world.play() {
        world.shared.fail(world.sim.elapsed(), violation);
    }
    let report = world.shared.report();
    let states = report.reached.states.union(&world.counts.states(STATES)).copied().collect();
    Report { reached: Reached { faults: world.faults, states }, ..report }
}

/// Rare states that the product counts: what is reached, its counter, and how high that is then.
pub const STATES: &[(&str, &str, u64)] = &[
    ("a request was sent on to another cluster", "fluffy_overlay_forwarded_total", 1),
    ("a body was asked for again that was in memory", "fluffy_overlay_cache_total", 1),
    ("a version was copied to another cluster", "fluffy_replication_objects_total", 1),
    ("a copy was stopped, and tried again", "fluffy_replication_failures_total", 1),
];

/// Rare states that clients see.
pub const SEEN: &[&str] = &[
    "a bucket of a cluster that is away was 503",
    "a cluster that left joined again",
    "a cluster that was removed joined again",
    "the name of a bucket of another cluster was refused",
    "a name of two buckets was a conflict in the third cluster",
    "a copy was behind its source",
    "a copy was promoted with all that its home had",
    "a copy was promoted without its home",
    "the home of a promoted copy was read-only",
];

/// What outlives the processes of a machine.
struct Parts {
    env: Arc<SimEnv>,
    disks: Arc<SimDisks>,
}

/// A change of the world at a moment.
#[derive(Debug, Clone, Copy)]
enum Action {
    Begin(Fault),
    Undo(Fault),
    Start(Machine),
}

/// How a way between two gateways is disturbed: faults that do so, counted.
#[derive(Default, Clone, Copy)]
struct Way {
    /// Nothing comes from the first to the second.
    there: u32,
    /// Nothing comes back.
    back: u32,
    /// Everything is held back.
    held: u32,
}

struct World<'a> {
    plan: Plan,
    sim: turmoil::Sim<'a>,
    parts: BTreeMap<Machine, Parts>,
    shared: Arc<Shared>,
    /// Sorted by time, soonest last.
    agenda: Vec<(u64, Action)>,
    /// By pairs of gateways in order.
    ways: BTreeMap<(Machine, Machine), Way>,
    /// Clients that tell stories.
    stories: Vec<String>,
    faults: BTreeSet<&'static str>,
    counts: Counts,
}

impl World<'_> {
    fn new(plan: &Plan) -> World<'static> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .epoch(std::time::UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
            .simulation_duration(PATIENCE * 4)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(2))
            .tcp_capacity(Scale::default().segments_max)
            .build();
        let shared = Shared::new(plan);
        let net: Arc<dyn Net> = if plan.gossip { Arc::new(NamedNet) } else { Arc::new(SimNet) };
        let mut parts = BTreeMap::new();
        for machine in plan.machines() {
            let nodes = plan.nodes_of(machine.cluster()).len() as u16;
            let random = |what: &str| Arc::new(SimRandom::new(plan.seed, &format!("{machine} {what}")));
            let env = SimEnv::new(&machine.to_string(), random("env"), plan.planted.clone());
            let disks = SimDisks::new(random("disk"), 8 * GIB);
            let made = Parts { env: Arc::new(env), disks: Arc::new(disks) };
            let seams = Seams { env: made.env.clone(), net: net.clone(), disks: made.disks.clone() };
            sim.host(machine.to_string(), move || machines::run(seams.clone(), machine, nodes));
            parts.insert(machine, made);
        }
        World {
            plan: plan.clone(),
            sim,
            parts,
            shared,
            agenda: Vec::new(),
            ways: BTreeMap::new(),
            stories: Vec::new(),
            faults: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Join; then work under faults; then heal, converge and audit.
    fn play(&mut self) -> Result<(), String> {
        self.sim.client("setup", clients::setup(self.shared.clone()));
        self.step_until(|shared| shared.has_ended("setup"), "the clusters do not join")?;
        self.note("the overlay serves");
        let start_ms = self.now_ms();
        for timed in self.plan.faults.clone() {
            self.later(start_ms + timed.at_ms, Action::Begin(timed.fault));
        }
        let mut names = Vec::new();
        for cluster in CLUSTERS {
            for number in 1..=self.plan.clients {
                let name = format!("client-{cluster}-{number}");
                self.sim.client(name.clone(), clients::work(self.shared.clone(), cluster, name.clone()));
                names.push(name);
            }
        }
        for gateway in self.plan.gateways() {
            self.sim.client(format!("watch-{gateway}"), watch::watch(self.shared.clone(), gateway));
        }
        for copied in copies::copies(&self.shared) {
            self.sim.client(format!("watch-{}", copied.bucket), copies::watch(self.shared.clone(), copied));
        }
        let done = |shared: &Shared| names.iter().all(|name| shared.has_ended(name));
        self.step_until(done, "the clients did not finish")?;
        while self.agenda.iter().any(|(_, action)| matches!(action, Action::Begin(_))) {
            self.step()?;
        }
        let end = self.sim.elapsed() + NOTICED;
        while self.sim.elapsed() < end {
            self.step()?;
        }
        self.heal();
        let stories = self.stories.clone();
        let done = |shared: &Shared| stories.iter().all(|name| shared.has_ended(name));
        self.step_until(done, "what operators began did not end")?;
        self.sim.client("audit", audit::audit(self.shared.clone()));
        self.step_until(|shared| shared.has_ended("audit"), "the audit did not end")
    }

    fn step_until(&mut self, done: impl Fn(&Shared) -> bool, otherwise: &str) -> Result<(), String> {
        let deadline = self.sim.elapsed() + PATIENCE;
        while !done(&self.shared) {
            if self.sim.elapsed() > deadline {
                return Err(format!("not live: {otherwise}"));
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        if let Some(violation) = self.shared.violation() {
            return Err(violation);
        }
        metrics::with_local_recorder(&self.counts, || self.sim.step())
            .map_err(|error| format!("a simulated process panicked: {error}"))?;
        self.act();
        Ok(())
    }

    /// Does what is due, and ends the processes that want to.
    fn act(&mut self) {
        let now_ms = self.now_ms();
        while self.agenda.last().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
            let Some((_, action)) = self.agenda.pop() else { return };
            self.note(&format!("{action:?}"));
            match action {
                Action::Begin(fault) => self.begin(fault, now_ms),
                Action::Undo(fault) => self.undo(fault),
                Action::Start(machine) => self.start(machine),
            }
        }
        let stopped = self.parts.iter().map(|(machine, parts)| (*machine, parts.env.take_fail_stop()));
        let stopped: Vec<_> = stopped.filter_map(|(machine, reason)| Some((machine, reason?))).collect();
        for (machine, reason) in stopped {
            self.note(&format!("{machine} stopped itself: {reason}"));
            self.kill(machine, false);
            self.later(now_ms + RESTART_MS, Action::Start(machine));
        }
    }

    fn begin(&mut self, fault: Fault, now_ms: u64) {
        self.faults.insert(fault.kind());
        match fault {
            Fault::KillGateway { gateway, down_ms } => self.down(&[gateway], false, now_ms + down_ms),
            Fault::KillNode { node, down_ms } => self.down(&[node], false, now_ms + down_ms),
            Fault::KillCluster { cluster, down_ms } => {
                self.down(&self.plan.machines_of(cluster), false, now_ms + down_ms);
            }
            Fault::PowerCut { cluster, down_ms } => {
                self.down(&self.plan.machines_of(cluster), true, now_ms + down_ms);
            }
            Fault::Cut { for_ms, .. }
            | Fault::CutOff { for_ms, .. }
            | Fault::OneWay { for_ms, .. }
            | Fault::CutGateways { for_ms, .. }
            | Fault::Hold { for_ms, .. } => {
                self.disturb(fault, true);
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::Clock { cluster, offset_ms, for_ms } => {
                self.set_clocks(cluster, offset_ms);
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::Leave { cluster, inviting, away_ms, .. } => {
                let now = self.sim.elapsed();
                self.shared.change_weather(|weather| weather.moves(cluster, false, now));
                self.disturb(fault, true);
                self.later(now_ms + away_ms + DEAF_MS, Action::Undo(fault));
                let away = Duration::from_millis(away_ms);
                self.story(fault, |shared, name| stories::leave(shared, name, (cluster, inviting), away));
            }
            Fault::Remove { by, cluster, away_ms } => {
                let now = self.sim.elapsed();
                self.shared.change_weather(|weather| weather.moves(cluster, false, now));
                let away = Duration::from_millis(away_ms);
                self.story(fault, |shared, name| stories::remove(shared, name, (by, cluster), away));
            }
            Fault::Twins { one, other, for_ms } => {
                self.disturb(fault, true);
                self.later(now_ms + for_ms, Action::Undo(fault));
                self.story(fault, |shared, name| stories::twins(shared, name, [one, other]));
            }
            Fault::HomeDies { down_ms } => {
                self.down(&self.plan.machines_of(self.plan.mirrored), true, now_ms + down_ms);
            }
            Fault::Promote { home_is_lost } => {
                if home_is_lost {
                    let home = self.plan.machines_of(self.plan.mirrored);
                    self.down(&home, true, now_ms + LOST_MS);
                }
                self.story(fault, |shared, name| stories::promote(shared, name, home_is_lost));
            }
        }
    }

    /// Somebody does something meanwhile, which ends some time.
    fn story<F>(&mut self, fault: Fault, told: impl FnOnce(Arc<Shared>, String) -> F)
    where
        F: Future<Output = Ended> + 'static,
    {
        let name = format!("story-{}-{}", self.stories.len() + 1, fault.kind().replace(' ', "-"));
        self.sim.client(name.clone(), told(self.shared.clone(), name.clone()));
        self.stories.push(name);
    }

    fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::Clock { cluster, .. } => self.set_clocks(cluster, 0),
            fault => self.disturb(fault, false),
        }
    }

    fn set_clocks(&self, cluster: Cluster, offset_ms: i64) {
        for machine in self.plan.machines_of(cluster) {
            self.parts[&machine].env.set_wall_offset_ms(offset_ms);
        }
    }

    /// Machines die, and start again at a time.
    fn down(&mut self, machines: &[Machine], power: bool, until_ms: u64) {
        for machine in machines {
            self.kill(*machine, power);
            self.later(until_ms, Action::Start(*machine));
        }
    }

    fn kill(&mut self, machine: Machine, power: bool) {
        // First the disk: what dropped objects still try to write must not count.
        self.parts[&machine].disks.kill();
        if self.sim.is_host_running(machine.to_string()) {
            self.sim.crash(machine.to_string());
        }
        if power {
            self.parts[&machine].disks.power_cut();
        }
        let now = self.sim.elapsed();
        self.shared.change_weather(|weather| weather.machine(machine, false, now));
    }

    fn start(&mut self, machine: Machine) {
        if !self.sim.is_host_running(machine.to_string()) {
            self.sim.bounce(machine.to_string());
            let now = self.sim.elapsed();
            self.shared.change_weather(|weather| weather.machine(machine, true, now));
        }
    }

    /// Pairs of gateways that a fault disturbs, and what it does between them: there, back, held.
    fn disturbed(&self, fault: Fault) -> Vec<((Machine, Machine), [u32; 3])> {
        let gateways = self.plan.gateways();
        let of = |cluster| gateways.iter().copied().filter(move |gateway| gateway.cluster() == cluster);
        let between = |one, other, what: [u32; 3]| {
            of(one).flat_map(|a| of(other).map(move |b| ((a, b), what))).collect::<Vec<_>>()
        };
        match fault {
            Fault::Cut { one, other, .. } | Fault::Twins { one, other, .. } => between(one, other, [1, 1, 0]),
            Fault::Leave { cluster, deaf, .. } => between(cluster, deaf, [1, 1, 0]),
            Fault::CutOff { cluster, .. } => {
                cluster.others().into_iter().flat_map(|other| between(cluster, other, [1, 1, 0])).collect()
            }
            Fault::OneWay { from, to, .. } => between(from, to, [1, 0, 0]),
            Fault::CutGateways { one, other, .. } => vec![((one, other), [1, 1, 0])],
            Fault::Hold { one, other, .. } => between(one, other, [0, 0, 1]),
            _ => Vec::new(),
        }
    }

    /// Disturbs ways between gateways once more, or once less.
    fn disturb(&mut self, fault: Fault, begins: bool) {
        let now = self.sim.elapsed();
        for ((one, other), [there, back, held]) in self.disturbed(fault) {
            let (pair, there, back) =
                if one < other { ((one, other), there, back) } else { ((other, one), back, there) };
            let way = self.ways.entry(pair).or_default();
            let change = |count: &mut u32, by: u32| {
                *count = if begins { *count + by } else { count.saturating_sub(by) };
            };
            change(&mut way.there, there);
            change(&mut way.back, back);
            change(&mut way.held, held);
            let way = *way;
            self.apply(pair, way);
            self.shared.change_weather(|weather| weather.way(one, other, begins, now));
        }
    }

    /// Lets the network be as it is said to be between two gateways.
    fn apply(&mut self, (one, other): (Machine, Machine), way: Way) {
        let (one, other) = (one.to_string(), other.to_string());
        if 0 < way.held {
            self.sim.hold(one, other);
            return;
        }
        self.sim.release(one.as_str(), other.as_str());
        if 0 < way.there {
            self.sim.partition_oneway(one.as_str(), other.as_str());
        }
        if 0 < way.back {
            self.sim.partition_oneway(other.as_str(), one.as_str());
        }
    }

    fn heal(&mut self) {
        self.agenda.clear();
        for (pair, _) in std::mem::take(&mut self.ways) {
            self.apply(pair, Way::default());
        }
        for machine in self.plan.machines() {
            self.parts[&machine].env.set_wall_offset_ms(0);
            self.start(machine);
        }
        let now = self.sim.elapsed();
        self.shared.change_weather(|weather| weather.heal(now));
        self.note("healed");
    }

    /// Adds a line to the trace; clients do it by themselves.
    fn note(&self, line: &str) {
        self.shared.note_at(self.sim.elapsed(), line);
    }

    fn later(&mut self, at_ms: u64, action: Action) {
        self.agenda.push((at_ms, action));
        self.agenda.sort_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
    }

    fn now_ms(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }
}
