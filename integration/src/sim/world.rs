//! The world of one plan: machines, their disks and links, time, and the faults that come over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use consensus::raft::wire::Replace;
use fabric::Seams;

use super::coverage::{Counts, Reached, STATES};
use super::disk::{DiskFaults, SimDisks};
use super::machines;
use super::plan::{Fault, Machine, Plan};
use super::random::SimRandom;
use super::seams::{SimEnv, SimNet};
use super::workload::{self, Shared};
use crate::conformance;
use crate::worker::Scene;

/// What the paths of chunk volumes contain.
const CHUNK_VOLUME: &str = "chunks/volume-";
/// And those of segments of the log.
const LOG_SEGMENT: &str = "/raft/";
/// And the file of the metadata.
const TABLES: &str = "tables.redb";
/// Bits that flip in it at once.
const TABLE_FLIPS: u32 = 6;
/// How long a process that stopped itself stays down.
const RESTART_MS: u64 = 500;

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first broken promise.
    pub violation: Option<String>,
    /// Lines that two runs of one seed have in common, all of them.
    pub trace: Vec<String>,
    /// Operations of all clients.
    pub operations: u64,
    /// Writes whose outcome their client does not know.
    pub unknowns: u64,
    /// Faults that came, and rare states of the product.
    pub reached: Reached,
}

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

pub(super) struct World<'a> {
    plan: Plan,
    sim: turmoil::Sim<'a>,
    parts: BTreeMap<Machine, Parts>,
    shared: Arc<Shared>,
    /// Sorted by time, soonest last.
    agenda: Vec<(u64, Action)>,
    /// Processes that stopped themselves and why, where a story waits for that: they are not started again.
    refused: BTreeMap<Machine, Option<String>>,
    operators: usize,
    /// Kinds of faults that came.
    faults: BTreeSet<&'static str>,
    /// What the product counted.
    counts: Counts,
}

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Report {
    run_story(plan, |_| Ok(()))
}

/// Runs a plan and tells a story to it meanwhile.
pub(super) fn run_story(plan: &Plan, story: impl FnOnce(&mut World<'_>) -> Result<(), String>) -> Report {
    let mut world = World::new(plan);
    let verdict = world.play(story);
    if let Err(violation) = verdict {
        world.shared.violate(violation);
    }
    world.report()
}

/// Runs the conformance suite against the cluster of a plan. An error is no outcome of a behaviour: the cluster did
/// not serve.
pub fn run_suite(plan: &Plan) -> Result<Vec<(String, conformance::Outcome)>, String> {
    let mut world = World::new(plan);
    world.shared.keep_indexes();
    world.client("setup", 0)?;
    world.sim.client("suite", workload::suite(world.shared.clone()));
    world.step_until(|world| world.shared.clients_done() == 1, "the suite did not finish")?;
    Ok(world.shared.take_behaviours())
}

/// Lets one client live through a story in the cluster of a plan, and audits the rows at its end. An error of the
/// story is a violation.
pub(super) fn run_client(
    plan: &Plan,
    story: impl AsyncFnOnce(Arc<Shared>) -> Result<(), String> + 'static,
) -> Report {
    let mut world = World::new(plan);
    let shared = world.shared.clone();
    let story = async move {
        if let Err(violation) = story(shared.clone()).await {
            shared.violate(violation);
        }
        shared.client_done();
        Ok(())
    };
    if let Err(violation) = world.tell(story) {
        world.shared.violate(violation);
    }
    world.report()
}

impl<'a> World<'a> {
    fn new(plan: &Plan) -> World<'a> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .epoch(std::time::UNIX_EPOCH + Duration::from_millis(super::seams::EPOCH_MS))
            .simulation_duration(Duration::from_secs(plan.scale.seconds_max * 3))
            .tick_duration(Duration::from_millis(plan.scale.tick_ms))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(2))
            .tcp_capacity(plan.scale.segments_max)
            .build();
        let shared = Shared::new(plan);
        let mut parts = BTreeMap::new();
        for machine in plan.machines() {
            let random = |what: &str| Arc::new(SimRandom::new(plan.seed, &format!("{machine} {what}")));
            let env = SimEnv::new(&machine.to_string(), random("env"), plan.armed());
            let disks = SimDisks::new(random("disk"), plan.scale.disk_bytes);
            let made = Parts { env: Arc::new(env), disks: Arc::new(disks) };
            let seams = Seams { env: made.env.clone(), net: Arc::new(SimNet), disks: made.disks.clone() };
            let shared = shared.clone();
            sim.host(machine.to_string(), move || machines::run(seams.clone(), shared.clone(), machine));
            parts.insert(machine, made);
        }
        World {
            plan: plan.clone(),
            sim,
            parts,
            shared,
            agenda: Vec::new(),
            refused: BTreeMap::new(),
            operators: 0,
            faults: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    fn report(&self) -> Report {
        let reached = Reached { faults: self.faults.clone(), states: self.counts.states(STATES) };
        Report { reached, ..self.shared.report() }
    }

    /// Serve; then tell a story; then audit.
    fn tell(
        &mut self,
        story: impl Future<Output = Result<(), Box<dyn std::error::Error>>> + 'static,
    ) -> Result<(), String> {
        self.client("setup", 0)?;
        self.note("the cluster serves");
        self.sim.client("story", story);
        self.step_until(|world| world.shared.clients_done() == 1, "the story did not end")?;
        self.client("audit", 1)
    }

    /// Serve; then work under faults, or through a story; then heal, converge and audit.
    fn play(&mut self, story: impl FnOnce(&mut World<'_>) -> Result<(), String>) -> Result<(), String> {
        self.client("setup", 0)?;
        self.note("the cluster serves");
        let start_ms = self.now_ms();
        for timed in &self.plan.faults {
            self.agenda.push((start_ms + timed.at_ms, Action::Begin(timed.fault)));
        }
        self.sort_agenda();
        let clients: Vec<u16> = (1..=self.plan.clients).collect();
        for client in &clients {
            let task = workload::client(self.shared.clone(), *client);
            self.sim.client(format!("client-{client}"), task);
        }
        story(self)?;
        let done = clients.len();
        self.step_until(|world| world.shared.clients_done() == done, "the clients did not finish")?;
        if self.plan.ends_dark {
            for machine in self.plan.machines() {
                self.kill(machine, true);
            }
        }
        self.heal();
        self.note("healed");
        self.client("audit", done)
    }

    /// Runs one more client to its end.
    fn client(&mut self, name: &'static str, done_before: usize) -> Result<(), String> {
        let shared = self.shared.clone();
        match name {
            "setup" => self.sim.client(name, workload::setup(shared)),
            _ => self.sim.client(name, workload::audit(shared)),
        }
        let wanted = if name == "setup" { usize::MAX } else { done_before + 1 };
        self.step_until(
            move |world| {
                if wanted == usize::MAX {
                    world.shared.is_set_up()
                } else {
                    world.shared.clients_done() == wanted
                }
            },
            "the healed cluster does not serve",
        )
    }

    fn step_until(&mut self, done: impl Fn(&mut World<'a>) -> bool, otherwise: &str) -> Result<(), String> {
        let deadline = self.sim.elapsed() + Duration::from_secs(self.plan.scale.seconds_max);
        while !done(self) {
            if let Some(violation) = self.shared.violation() {
                return Err(violation);
            }
            if self.sim.elapsed() > deadline {
                return Err(format!("not live: {otherwise}"));
            }
            metrics::with_local_recorder(&self.counts, || self.sim.step())
                .map_err(|error| format!("a simulated process panicked: {error}"))?;
            self.act();
        }
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
            match self.refused.get_mut(&machine) {
                Some(refused) => *refused = Some(reason),
                None => self.later(now_ms + RESTART_MS, Action::Start(machine)),
            }
        }
    }

    fn begin(&mut self, fault: Fault, now_ms: u64) {
        self.faults.insert(fault.kind());
        match fault {
            Fault::Kill { machine, down_ms } => {
                self.kill(machine, false);
                self.later(now_ms + down_ms, Action::Start(machine));
            }
            Fault::PowerCut { machine, down_ms } => {
                self.kill(machine, true);
                self.later(now_ms + down_ms, Action::Start(machine));
            }
            Fault::Blackout { down_ms } => {
                for node in 1..=self.plan.nodes {
                    self.kill(Machine::Node(node), true);
                    self.later(now_ms + down_ms, Action::Start(Machine::Node(node)));
                }
            }
            Fault::Partition { one, other, for_ms } => {
                self.sim.partition(one.to_string(), other.to_string());
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::Isolate { node, for_ms } => {
                for other in self.others(node) {
                    self.sim.partition(Machine::Node(node).to_string(), other.to_string());
                }
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::OneWay { from, to, for_ms } => {
                self.sim.partition_oneway(from.to_string(), to.to_string());
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::SlowDisk { node, latency_us, for_ms } => {
                self.node(node).env.set_disk_latency_us(latency_us);
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::ReadErrors { node, percent, for_ms } => {
                self.node(node)
                    .disks
                    .set_faults(DiskFaults { read_error_percent: percent, ..DiskFaults::default() });
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::Rot { node } => {
                let place = self.node(node).disks.rot(CHUNK_VOLUME);
                self.note(&format!("rot at {place:?}"));
            }
            Fault::RotLog { node, down_ms } => {
                self.kill(Machine::Node(node), false);
                let place = self.node(node).disks.rot_before_last_batch(LOG_SEGMENT);
                self.note(&format!("rot at {place:?}"));
                self.later(now_ms + down_ms, Action::Start(Machine::Node(node)));
            }
            Fault::RotTables { node, down_ms } => {
                self.kill(Machine::Node(node), false);
                // Most of the file is of no use any more.
                let places = (0..TABLE_FLIPS).filter_map(|_| self.node(node).disks.rot(TABLES));
                let places: Vec<_> = places.collect();
                self.note(&format!("rot at {places:?}"));
                self.later(now_ms + down_ms, Action::Start(Machine::Node(node)));
            }
            Fault::LoseVolume { node, down_ms } => {
                self.kill(Machine::Node(node), false);
                let lost = self.node(node).disks.lose(CHUNK_VOLUME);
                self.note(&format!("lost {lost:?}"));
                self.later(now_ms + down_ms, Action::Start(Machine::Node(node)));
            }
            Fault::FullDisk { node, for_ms } => {
                self.node(node).disks.set_free(Some(0));
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::SyncErrors { node, percent, for_ms } => {
                self.node(node)
                    .disks
                    .set_faults(DiskFaults { sync_error_percent: percent, ..DiskFaults::default() });
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::Clock { machine, offset_ms, for_ms } => {
                self.parts[&machine].env.set_wall_offset_ms(offset_ms);
                self.later(now_ms + for_ms, Action::Undo(fault));
            }
            Fault::Layout { node } => self.change_layout(node),
        }
    }

    fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::Partition { one, other, .. } => self.sim.repair(one.to_string(), other.to_string()),
            Fault::Isolate { node, .. } => {
                for other in self.others(node) {
                    self.sim.repair(Machine::Node(node).to_string(), other.to_string());
                }
            }
            Fault::OneWay { from, to, .. } => self.sim.repair_oneway(from.to_string(), to.to_string()),
            Fault::SlowDisk { node, .. } => self.node(node).env.set_disk_latency_us(200),
            Fault::ReadErrors { node, .. } | Fault::SyncErrors { node, .. } => {
                self.node(node).disks.set_faults(DiskFaults::default());
            }
            Fault::FullDisk { node, .. } => self.node(node).disks.set_free(None),
            Fault::Clock { machine, .. } => self.parts[&machine].env.set_wall_offset_ms(0),
            Fault::Kill { .. }
            | Fault::PowerCut { .. }
            | Fault::Blackout { .. }
            | Fault::Rot { .. }
            | Fault::RotLog { .. }
            | Fault::RotTables { .. }
            | Fault::LoseVolume { .. }
            | Fault::Layout { .. } => {}
        }
    }

    fn heal(&mut self) {
        self.agenda.clear();
        let machines = self.plan.machines();
        for one in &machines {
            self.parts[one].env.set_wall_offset_ms(0);
            self.parts[one].env.set_disk_latency_us(200);
            self.parts[one].disks.set_faults(DiskFaults::default());
            self.parts[one].disks.set_free(None);
            for other in machines.iter().filter(|other| *other != one) {
                self.sim.repair(one.to_string(), other.to_string());
            }
            self.start(*one);
        }
    }

    pub(super) fn kill(&mut self, machine: Machine, power: bool) {
        if let Machine::Node(node) = machine {
            self.shared.forget_shown(node);
        }
        // First the disk: what dropped objects still try to write must not count.
        self.parts[&machine].disks.kill();
        if self.sim.is_host_running(machine.to_string()) {
            self.sim.crash(machine.to_string());
        }
        if power {
            self.parts[&machine].disks.power_cut();
        }
    }

    pub(super) fn start(&mut self, machine: Machine) {
        if !self.sim.is_host_running(machine.to_string()) {
            self.sim.bounce(machine.to_string());
        }
    }

    /// Adds a line to the trace; clients do it by themselves.
    fn note(&self, line: &str) {
        self.shared.note_at(self.sim.elapsed(), line);
    }

    /// The nodes but this one.
    fn others(&self, node: u16) -> impl Iterator<Item = Machine> + use<> {
        (1..=self.plan.nodes).filter(move |other| *other != node).map(Machine::Node)
    }

    fn node(&self, number: u16) -> &Parts {
        &self.parts[&Machine::Node(number)]
    }

    fn later(&mut self, at_ms: u64, action: Action) {
        self.agenda.push((at_ms, action));
        self.sort_agenda();
    }

    fn sort_agenda(&mut self) {
        self.agenda.sort_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }
}

/// What stories are told with.
impl<'a> World<'a> {
    pub(super) fn machines(&self) -> Vec<Machine> {
        self.plan.machines()
    }

    pub(super) fn disk(&self, node: u16) -> &SimDisks {
        &self.node(node).disks
    }

    pub(super) fn set_clock(&self, machine: Machine, offset_ms: i64) {
        self.note(&format!("the clock of {machine} is {offset_ms} ms ahead"));
        self.parts[&machine].env.set_wall_offset_ms(offset_ms);
    }

    /// Other ports for all nodes, for processes that start from now on.
    pub(super) fn move_nodes(&self) {
        self.note("all nodes move");
        self.shared.move_nodes();
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.sim.elapsed() + time;
        self.step_until(|world| world.sim.elapsed() >= end, "time stands still")
    }

    /// Waits for a condition.
    pub(super) fn until(
        &mut self,
        patience: Duration,
        otherwise: &str,
        holds: impl Fn(&mut World<'a>) -> bool,
    ) -> Result<(), String> {
        let end = self.sim.elapsed() + patience;
        self.step_until(|world| holds(world) || world.sim.elapsed() >= end, otherwise)?;
        if holds(self) { Ok(()) } else { Err(otherwise.to_string()) }
    }

    /// Starts a node that must stop itself, and returns what it says.
    pub(super) fn refused(&mut self, node: u16, patience: Duration) -> Result<String, String> {
        let machine = Machine::Node(node);
        self.refused.insert(machine, None);
        self.start(machine);
        let said = |world: &World<'_>| world.refused.get(&machine).cloned().flatten();
        let waited =
            self.until(patience, &format!("{machine} does not refuse"), |world| said(world).is_some());
        let said = said(self);
        self.refused.remove(&machine);
        waited.map(|()| said.unwrap_or_default())
    }

    /// The node that leads; a node that was cut off may still believe that it does, so the youngest term counts.
    pub(super) fn leads_now(&mut self) -> Option<u16> {
        let mut nodes: Vec<u16> = (1..=self.plan.nodes).collect();
        nodes.retain(|node| self.sim.is_host_running(Machine::Node(*node).to_string()));
        let shown = nodes.into_iter().filter_map(|node| self.shared.shown(node));
        let leaders = shown.filter(|shown| shown.leads);
        leaders.max_by_key(|shown| shown.index).map(|shown| shown.node)
    }

    /// Waits until a node leads.
    pub(super) fn leader(&mut self, patience: Duration) -> Result<u16, String> {
        self.until(patience, "no node leads", |world| world.leads_now().is_some())?;
        self.leads_now().ok_or_else(|| "no node leads".to_string())
    }

    /// Waits until a node has applied all that any has now.
    pub(super) fn catches_up(&mut self, node: u16, patience: Duration) -> Result<(), String> {
        let all = (1..=self.plan.nodes).filter_map(|node| self.shared.shown(node));
        let index = all.map(|shown| shown.index).max().unwrap_or(0);
        self.shared.forget_shown(node);
        let there =
            |world: &mut World<'a>| world.shared.shown(node).is_some_and(|shown| shown.index >= index);
        self.until(patience, &format!("node {node} does not catch up"), there)
    }

    /// The latest cluster time that a node has shown.
    pub(super) fn cluster_time_ms(&self) -> u64 {
        let all = (1..=self.plan.nodes).filter_map(|node| self.shared.shown(node));
        all.map(|shown| shown.time_ms).max().unwrap_or(0)
    }

    /// An operator puts a voter in the place of another.
    pub(super) fn operator(&mut self, replace: Replace) {
        self.operators += 1;
        let (shared, seams) = (self.shared.clone(), self.seams_of_an_operator());
        self.sim.client(format!("operator-{}", self.operators), machines::replace(seams, shared, replace));
    }

    /// An operator drains a node, or gives it data again where it has none.
    pub(super) fn change_layout(&mut self, node: u16) {
        self.operators += 1;
        let (shared, seams) = (self.shared.clone(), self.seams_of_an_operator());
        self.sim.client(format!("operator-{}", self.operators), machines::change_layout(seams, shared, node));
    }

    fn seams_of_an_operator(&self) -> Seams {
        let random = Arc::new(SimRandom::new(self.plan.seed, "operator"));
        let env = SimEnv::new("operator", random.clone(), self.plan.planted.clone());
        Seams {
            env: Arc::new(env),
            net: Arc::new(SimNet),
            disks: Arc::new(SimDisks::new(random, self.plan.scale.disk_bytes)),
        }
    }
}
