//! What a seed means: the shape of the cluster, the workload, and which faults come when.
//!
//! A plan is data: a failing one can be kept as a regression after the code, and so the meaning of its seed,
//! has changed. Each seed draws a few kinds of faults and leaves the others out ("swarm"), since a little of
//! everything hides more than much of something.

use std::collections::BTreeSet;
use std::fmt;

use fabric::limits::{
    GIB, INLINE_BYTES_TOTAL_DEFAULT, KIB, MIB, SCRUB_PERIOD_DEFAULT, SNAPSHOT_ENTRIES_DEFAULT,
};
use serde::{Deserialize, Deserializer, Serialize};

use super::planned::{self, Change, Planned};
use super::random::SimRandom;
use super::world::{self, Report};

/// One simulation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where it came from; also seeds everything random inside.
    pub seed: u64,
    /// Storage nodes, all of them voters up to three. With four, an operator lets nodes come and go.
    pub nodes: u16,
    /// Gateways.
    pub gateways: u16,
    /// Clients at once.
    pub clients: u16,
    /// Hot keys.
    pub keys: u16,
    /// Operations of each client.
    pub operations: u32,
    /// Bytes of small bodies in the metadata.
    pub inline_bytes_max: u64,
    /// Faults by time.
    pub faults: Vec<Timed>,
    /// Whether every machine loses power once more at the end, so that the audit reads what is on disks.
    pub ends_dark: bool,
    /// Failpoints of the product that no promise depends on, see [`FAILPOINTS`].
    #[serde(deserialize_with = "known_names")]
    pub failpoints: BTreeSet<&'static str>,
    /// Bugs planted in the product, by the names of its failpoints.
    #[serde(deserialize_with = "known_names")]
    pub planted: BTreeSet<&'static str>,
    /// A client gives up on a request after this; the outcome is unknown then.
    pub patience_ms: u64,
    /// How large and how fine the world is.
    pub scale: Scale,
}

/// How large and how fine a world is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scale {
    /// Time goes on in steps of so much.
    pub tick_ms: u64,
    /// What has not ended after so much simulated time is stuck.
    pub seconds_max: u64,
    /// Segments of one direction of a connection that are under way.
    pub segments_max: usize,
    /// Bytes of each disk.
    pub disk_bytes: u64,
    /// Free bytes below which nodes refuse puts.
    pub reserve_bytes: u64,
    /// Entries between two snapshots of the metadata: with few of them a node that was away needs one.
    pub snapshot_entries: u64,
    /// Every chunk is read within this, to find rot.
    pub scrub_seconds: u64,
}

impl Default for Scale {
    fn default() -> Scale {
        Scale {
            tick_ms: 1,
            seconds_max: 300,
            segments_max: 4096,
            disk_bytes: 8 * GIB,
            reserve_bytes: MIB,
            snapshot_entries: SNAPSHOT_ENTRIES_DEFAULT,
            scrub_seconds: SCRUB_PERIOD_DEFAULT.as_secs(),
        }
    }
}

/// A fault and when it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// Milliseconds after the cluster serves.
    pub at_ms: u64,
    /// What happens.
    pub fault: Fault,
}

/// A machine by its place: nodes first, then gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Machine {
    /// A storage node, from 1.
    Node(u16),
    /// A gateway, from 1.
    Gateway(u16),
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::Node(number) => write!(f, "node-{number}"),
            Machine::Gateway(number) => write!(f, "gateway-{number}"),
        }
    }
}

/// What can happen. Each undoes itself after its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Fault {
    /// kill -9, and a start again.
    Kill { machine: Machine, down_ms: u64 },
    /// The machine loses what it had not synced, and starts again.
    PowerCut { machine: Machine, down_ms: u64 },
    /// All nodes lose power at once.
    Blackout { down_ms: u64 },
    /// Neither hears the other.
    Partition { one: Machine, other: Machine, for_ms: u64 },
    /// The node hears no other node, nor they it; gateways reach all.
    Isolate { node: u16, for_ms: u64 },
    /// Frames from one to the other are lost.
    OneWay { from: Machine, to: Machine, for_ms: u64 },
    /// Everything on the machine's disk takes this long.
    SlowDisk { node: u16, latency_us: u64, for_ms: u64 },
    /// Reads fail now and then.
    ReadErrors { node: u16, percent: u64, for_ms: u64 },
    /// Syncs fail now and then.
    SyncErrors { node: u16, percent: u64, for_ms: u64 },
    /// One bit of a chunk volume flips.
    Rot { node: u16 },
    /// The process dies, and one bit of its log flips before it starts again: not at the very end, where it would
    /// look like a write that the death cut short.
    RotLog { node: u16, down_ms: u64 },
    /// The process dies, and bits of its metadata flip before it starts again.
    RotTables { node: u16, down_ms: u64 },
    /// A chunk volume is gone, or its beginning is garbage, when the node starts again.
    LoseVolume { node: u16, down_ms: u64 },
    /// Files of the node grow no more.
    FullDisk { node: u16, for_ms: u64 },
    /// The wall clock jumps.
    Clock { machine: Machine, offset_ms: i64, for_ms: u64 },
    /// An operator drains the node, or gives it data again where it has none.
    Layout { node: u16 },
}

/// Failpoints that are no bugs: the product keeps its promises under them.
pub const FAILPOINTS: &[(&str, &str)] = &[
    ("send_twice", "the network delivers each proposal twice, a moment apart"),
    ("late_repeat", "the network delivers a proposal once more, seconds after its outcome was known"),
    ("eager_collection", "chunks that nobody names are looked for every other second"),
    (CROWDED, "a gateway does one request of each kind at once, lets one wait and refuses the others"),
];

/// The one that lets clients hear refusals.
const CROWDED: &str = "narrow_queues";

/// Bugs that can be planted at run time and that random faults bring to light, and what each does. Kept beside the
/// product's failpoints; those that take a story are in [`super::scenarios`].
pub const PLANTED: &[(&str, &str)] = &[
    ("ack_before_sync", "the log acknowledges a batch before it is synced"),
    ("commit_one_copy", "a commit needs one complete copy only"),
    ("drop_debts", "copies that a commit lacks are owed by nobody"),
    ("chunk_ack_before_sync", "a chunk volume acknowledges before its commit"),
    ("commit_before_chunks", "the metadata command is proposed before the chunks are durable"),
    ("skip_condition", "conditions are not decided inside apply"),
    ("skip_reply_cache", "a repeated command is applied again"),
    ("skip_lowest_sequence", "a late command is applied, and may undo a newer write"),
    ("chunk_skip_crc", "chunk reads do not check the bytes"),
    ("rot_as_torn_tail", "rot in the log is taken for the end of it"),
    ("pay_unseen", "a node says that it holds what it owed, without having looked"),
    ("move_unseen", "extents are said to be where a newer layout wants them, and nobody brought them"),
    ("restore_unseen", "a node that lost a volume says that it verified everything, without having looked"),
    ("skip_removal", "a delete is answered and its event is told, but the row stays"),
    ("stale_read", "reads skip the round that makes them linearizable"),
];

/// Names of failpoints and planted bugs in a kept plan.
fn known_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<&'static str>, D::Error> {
    planned::known_names(deserializer, &[FAILPOINTS, PLANTED])
}

/// Keys of a plan in which a write is seldom replaced.
const COLD_KEYS: u16 = 400;

/// Kinds of faults that a seed may draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    KillNode,
    KillGateway,
    PowerCut,
    Blackout,
    Partition,
    Isolate,
    OneWay,
    SlowDisk,
    ReadErrors,
    Rot,
    RotLog,
    RotTables,
    LoseVolume,
    FullDisk,
    Clock,
    Layout,
}

const KINDS: &[Kind] = &[
    Kind::KillNode,
    Kind::KillGateway,
    Kind::PowerCut,
    Kind::Blackout,
    Kind::Partition,
    Kind::Isolate,
    Kind::OneWay,
    Kind::SlowDisk,
    Kind::ReadErrors,
    Kind::Rot,
    Kind::RotLog,
    Kind::RotTables,
    Kind::LoseVolume,
    Kind::FullDisk,
    Kind::Clock,
];

impl Fault {
    /// What kind of fault it is, for the coverage.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill { machine: Machine::Node(_), .. } => "kill node",
            Fault::Kill { machine: Machine::Gateway(_), .. } => "kill gateway",
            Fault::PowerCut { .. } => "power cut",
            Fault::Blackout { .. } => "blackout",
            Fault::Partition { .. } => "partition",
            Fault::Isolate { .. } => "isolate",
            Fault::OneWay { .. } => "one way",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::ReadErrors { .. } => "read errors",
            Fault::SyncErrors { .. } => "sync errors",
            Fault::Rot { .. } => "rot",
            Fault::RotLog { .. } => "rot in the log",
            Fault::RotTables { .. } => "rot in the metadata",
            Fault::LoseVolume { .. } => "lost volume",
            Fault::FullDisk { .. } => "full disk",
            Fault::Clock { .. } => "clock",
            Fault::Layout { .. } => "layout",
        }
    }
}

/// What a seed can draw, by [`Fault::kind`].
pub const DRAWN: &[&str] = &[
    "kill node",
    "kill gateway",
    "power cut",
    "blackout",
    "partition",
    "isolate",
    "one way",
    "slow disk",
    "read errors",
    "rot",
    "rot in the log",
    "rot in the metadata",
    "lost volume",
    "full disk",
    "clock",
    "layout",
];

impl Plan {
    /// What `seed` draws.
    pub fn from_seed(seed: u64) -> Plan {
        let random = SimRandom::new(seed, "plan");
        let mut plan = Plan {
            seed,
            nodes: 3,
            gateways: 2,
            clients: random.between(4, 6) as u16,
            keys: random.between(8, 24) as u16,
            operations: random.between(75, 100) as u32,
            inline_bytes_max: INLINE_BYTES_TOTAL_DEFAULT,
            faults: Vec::new(),
            ends_dark: false,
            failpoints: BTreeSet::new(),
            planted: BTreeSet::new(),
            patience_ms: 1_500,
            scale: Scale::default(),
        };
        plan.draw_limits();
        let mut kinds: Vec<Kind> = (0..random.between(1, 4)).map(|_| *random.pick(KINDS)).collect();
        // In every plan: nothing else leaves so many clients without an answer.
        kinds.push(Kind::KillGateway);
        if plan.nodes > 3 {
            kinds.push(Kind::Layout);
        }
        let mut at_ms = random.between(100, 1_000);
        for _ in 0..random.between(6, 12) {
            let fault = plan.draw(&random, *random.pick(&kinds));
            plan.faults.push(Timed { at_ms, fault });
            at_ms += random.between(100, 900);
        }
        plan
    }

    /// Some seeds have failpoints, some little room for inline bytes, so that they move under faults, some a short log, so
    /// that who was away needs a snapshot, and in some every chunk is read again and again.
    fn draw_limits(&mut self) {
        let random = SimRandom::new(self.seed, "limits");
        self.failpoints = FAILPOINTS.iter().map(|(name, _)| *name).filter(|_| random.chance(40)).collect();
        if random.chance(40) {
            self.inline_bytes_max = *random.pick(&[0, 8 * KIB, 48 * KIB]);
        }
        if random.chance(30) {
            self.nodes = 4;
        }
        if random.chance(30) {
            self.scale.snapshot_entries = random.between(20, 100);
        }
        if random.chance(20) {
            self.scale.scrub_seconds = random.between(4, 20);
        }
    }

    /// The same without faults: the product has to serve every request.
    pub fn calm(seed: u64) -> Plan {
        let mut plan = Plan { faults: Vec::new(), nodes: 3, ..Plan::from_seed(seed) };
        plan.failpoints.remove(CROWDED);
        plan
    }

    /// What is armed in all processes.
    pub fn armed(&self) -> BTreeSet<&'static str> {
        self.failpoints.union(&self.planted).copied().collect()
    }

    /// Between an acknowledgement that comes too early and its sync there is time for a power cut.
    fn slow_all_disks(&mut self) {
        for node in 1..=self.nodes {
            let fault = Fault::SlowDisk { node, latency_us: 60_000, for_ms: 60_000 };
            self.faults.push(Timed { at_ms: 100, fault });
        }
    }

    fn rot_often(&mut self, random: &SimRandom) {
        for at_ms in (500..8_000).step_by(100) {
            self.faults.push(Timed { at_ms, fault: self.draw(random, Kind::Rot) });
        }
    }

    /// Again and again the gateways reach one node only for a while, and this node loses its volumes in the middle.
    fn leave_one_node(&mut self, random: &SimRandom) {
        let left = self.fragile_node();
        for round in 0..4 {
            let at_ms = 500 + round * 6_000 + random.below(500);
            for node in (1..=self.nodes).filter(|node| *node != left) {
                for gateway in 1..=self.gateways {
                    let (one, other) = (Machine::Node(node), Machine::Gateway(gateway));
                    let fault = Fault::Partition { one, other, for_ms: 3_500 };
                    self.faults.push(Timed { at_ms, fault });
                }
            }
            let fault = Fault::LoseVolume { node: left, down_ms: 200 };
            self.faults.push(Timed { at_ms: at_ms + random.between(1_500, 2_500), fault });
        }
        self.operations *= 3;
    }

    /// The one machine whose disk may lose or forge chunks: a promise covers one.
    fn fragile_node(&self) -> u16 {
        (self.seed % u64::from(self.nodes)) as u16 + 1
    }

    /// The node whose bits flip, if there is one.
    pub fn forgetful_node(&self) -> Option<u16> {
        self.faults.iter().find_map(|timed| match timed.fault {
            Fault::Rot { node } => Some(node),
            _ => None,
        })
    }

    fn draw(&self, random: &SimRandom, kind: Kind) -> Fault {
        let node = random.between(1, u64::from(self.nodes)) as u16;
        let gateway = Machine::Gateway(random.between(1, u64::from(self.gateways)) as u16);
        let down_ms = random.between(100, 5_000);
        let for_ms = random.between(500, 8_000);
        match kind {
            Kind::KillNode => Fault::Kill { machine: Machine::Node(node), down_ms },
            Kind::KillGateway => Fault::Kill { machine: gateway, down_ms },
            Kind::PowerCut => Fault::PowerCut { machine: Machine::Node(node), down_ms },
            Kind::Blackout => Fault::Blackout { down_ms },
            Kind::Partition => {
                let (one, other) = self.two_machines(random);
                Fault::Partition { one, other, for_ms }
            }
            Kind::Isolate => Fault::Isolate { node, for_ms },
            Kind::OneWay => {
                let (from, to) = self.two_machines(random);
                Fault::OneWay { from, to, for_ms }
            }
            Kind::SlowDisk => Fault::SlowDisk { node, latency_us: random.between(5_000, 200_000), for_ms },
            Kind::ReadErrors => Fault::ReadErrors { node, percent: random.between(1, 10), for_ms },
            Kind::Rot => Fault::Rot { node: self.fragile_node() },
            Kind::RotLog => Fault::RotLog { node: self.fragile_node(), down_ms },
            Kind::RotTables => Fault::RotTables { node: self.fragile_node(), down_ms },
            Kind::LoseVolume => Fault::LoseVolume { node: self.fragile_node(), down_ms },
            Kind::FullDisk => Fault::FullDisk { node, for_ms },
            Kind::Clock => {
                let hours = random.between(1, 48) as i64;
                let offset_ms = if random.chance(50) { hours * 3_600_000 } else { -hours * 3_600_000 };
                Fault::Clock { machine: Machine::Node(node), offset_ms, for_ms }
            }
            Kind::Layout => Fault::Layout { node },
        }
    }

    /// Two different machines, at least one of them a node.
    fn two_machines(&self, random: &SimRandom) -> (Machine, Machine) {
        let machines = self.machines();
        let one = Machine::Node(random.between(1, u64::from(self.nodes)) as u16);
        let others: Vec<Machine> = machines.into_iter().filter(|machine| *machine != one).collect();
        let other = *random.pick(&others);
        if random.chance(50) { (one, other) } else { (other, one) }
    }

    /// All machines of the plan.
    pub fn machines(&self) -> Vec<Machine> {
        let nodes = (1..=self.nodes).map(Machine::Node);
        nodes.chain((1..=self.gateways).map(Machine::Gateway)).collect()
    }
}

impl Planned for Plan {
    type Timed = Timed;
    const BUGS: &'static [(&'static str, &'static str)] = PLANTED;
    const KEPT: &'static str = "integration/kept";

    fn drawn(seed: u64) -> Plan {
        Plan::from_seed(seed)
    }

    /// A calm one with faults of the kinds that bring a bug to light, and many of them. The product keeps its promises
    /// under these plans, too.
    fn hunting(seed: u64, bug: &str) -> Plan {
        let random = SimRandom::new(seed, "hunt");
        let mut plan = Plan::calm(seed);
        (plan.operations, plan.clients, plan.keys) = (60, 6, 4);
        let kinds: &[Kind] = match bug {
            "ack_before_sync" => {
                plan.slow_all_disks();
                &[Kind::Blackout]
            }
            "rot_as_torn_tail" => &[Kind::RotLog, Kind::Isolate],
            // On hot keys the next write hides what a blackout took.
            "chunk_ack_before_sync" => {
                (plan.keys, plan.ends_dark) = (COLD_KEYS, true);
                &[Kind::Blackout]
            }
            // Most bits of a volume are of no use to anybody: many flips, and keys that are not written again.
            "chunk_skip_crc" => {
                (plan.keys, plan.ends_dark) = (COLD_KEYS, true);
                plan.rot_often(&random);
                &[Kind::Rot]
            }
            // Only one node hears the gateways; then it loses what only it has.
            "commit_one_copy" => {
                plan.keys = COLD_KEYS;
                plan.leave_one_node(&random);
                return plan;
            }
            "drop_debts" => &[Kind::KillNode, Kind::Isolate],
            // What is not written again is still owed at the end.
            "pay_unseen" => {
                plan.keys = COLD_KEYS;
                &[Kind::KillNode, Kind::Isolate]
            }
            "move_unseen" => {
                (plan.keys, plan.nodes) = (COLD_KEYS, 4);
                &[Kind::Layout]
            }
            "restore_unseen" => {
                plan.keys = COLD_KEYS;
                &[Kind::LoseVolume]
            }
            "skip_reply_cache" => {
                plan.failpoints.insert("send_twice");
                &[Kind::OneWay, Kind::KillNode]
            }
            "stale_read" => &[Kind::Isolate],
            "skip_lowest_sequence" => {
                plan.failpoints.insert("late_repeat");
                &[Kind::KillNode]
            }
            _ => &[Kind::KillNode],
        };
        let mut at_ms = 200;
        for _ in 0..12 {
            let fault = plan.draw(&random, *random.pick(kinds));
            plan.faults.push(Timed { at_ms, fault });
            at_ms += random.between(200, 1_500);
        }
        plan
    }

    fn simulate(&self) -> Report {
        world::run(self)
    }

    fn seed(&mut self) -> &mut u64 {
        &mut self.seed
    }

    fn planted(&mut self) -> &mut BTreeSet<&'static str> {
        &mut self.planted
    }

    fn faults(&mut self) -> &mut Vec<Timed> {
        &mut self.faults
    }

    fn operations(&self) -> u32 {
        u32::from(self.clients) * self.operations
    }

    fn changes(&self) -> Vec<Change<Plan>> {
        let changes: [fn(&mut Plan); 6] = [
            |plan| plan.clients = (plan.clients / 2).max(1),
            |plan| plan.clients = (plan.clients - 1).max(1),
            |plan| plan.operations = (plan.operations / 2).max(1),
            |plan| plan.operations = (plan.operations * 3 / 4).max(1),
            |plan| plan.keys = (plan.keys / 2).max(1),
            |plan| plan.ends_dark = false,
        ];
        let without = self.failpoints.iter().map(|name| -> Change<Plan> {
            let name = *name;
            Box::new(move |plan| plan.failpoints.retain(|other| *other != name))
        });
        without.chain(changes.map(|change| -> Change<Plan> { Box::new(change) })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_means_the_same() {
        for seed in 0..50 {
            assert_eq!(Plan::from_seed(seed), Plan::from_seed(seed));
        }
        assert_ne!(Plan::from_seed(1), Plan::from_seed(2));
    }
}
