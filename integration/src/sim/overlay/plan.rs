//! What a seed means for three clusters: their shape, the workload, and what happens between them and when.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::world;
use crate::sim::planned::{self, Change, Planned};
use crate::sim::random::SimRandom;
use crate::sim::world::Report;

/// The clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Cluster {
    East,
    West,
    North,
}

/// All of them.
pub const CLUSTERS: [Cluster; 3] = [Cluster::East, Cluster::West, Cluster::North];

impl Cluster {
    /// Its name and region.
    pub fn name(self) -> &'static str {
        match self {
            Cluster::East => "east",
            Cluster::West => "west",
            Cluster::North => "north",
        }
    }

    /// Its place in [`CLUSTERS`].
    pub fn place(self) -> usize {
        self as usize
    }

    /// The two others, the next one first.
    pub fn others(self) -> [Cluster; 2] {
        [1, 2].map(|step| CLUSTERS[(self.place() + step) % CLUSTERS.len()])
    }

    /// The bucket that is at home there.
    pub fn bucket(self) -> String {
        format!("{}-photos", self.name())
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A machine by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Machine {
    /// A storage node of a cluster, from 1.
    Node(Cluster, u16),
    /// A gateway of a cluster, from 1.
    Gateway(Cluster, u16),
}

impl Machine {
    /// Whose it is.
    pub fn cluster(self) -> Cluster {
        match self {
            Machine::Node(cluster, _) | Machine::Gateway(cluster, _) => cluster,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::Node(cluster, number) => write!(f, "{cluster}-node-{number}"),
            Machine::Gateway(cluster, number) => write!(f, "{cluster}-gateway-{number}"),
        }
    }
}

/// What can happen. Each undoes itself after its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Fault {
    /// kill -9 of a gateway, and a start again.
    KillGateway { gateway: Machine, down_ms: u64 },
    /// kill -9 of a storage node, and a start again: its gateways stay and answer other clusters.
    KillNode { node: Machine, down_ms: u64 },
    /// All machines of a cluster die.
    KillCluster { cluster: Cluster, down_ms: u64 },
    /// All machines of a cluster lose power, and what they had not synced.
    PowerCut { cluster: Cluster, down_ms: u64 },
    /// Two clusters do not hear each other; the third hears both.
    Cut { one: Cluster, other: Cluster, for_ms: u64 },
    /// A cluster hears no other one.
    CutOff { cluster: Cluster, for_ms: u64 },
    /// What a cluster sends to another one is lost.
    OneWay { from: Cluster, to: Cluster, for_ms: u64 },
    /// Two gateways do not hear each other, though others of their clusters may.
    CutGateways { one: Machine, other: Machine, for_ms: u64 },
    /// What two clusters send each other is held back, and comes all at once.
    Hold { one: Cluster, other: Cluster, for_ms: u64 },
    /// The wall clocks of a cluster are off by as much as signatures bear.
    Clock { cluster: Cluster, offset_ms: i64, for_ms: u64 },
    /// A cluster leaves while another one does not hear it, and is invited again.
    Leave { cluster: Cluster, deaf: Cluster, inviting: Cluster, away_ms: u64 },
    /// A cluster is removed by another one, and invited again.
    Remove { by: Cluster, cluster: Cluster, away_ms: u64 },
    /// Two clusters that do not hear each other make a bucket of one name each.
    Twins { one: Cluster, other: Cluster, for_ms: u64 },
    /// The home of the mirrored bucket loses power while the copy follows it, for longer than anything else waits.
    HomeDies { down_ms: u64 },
    /// The mirror is promoted: with what its home has, or, while that is away, without.
    Promote { home_is_lost: bool },
}

impl Fault {
    /// What kind of fault it is, for the coverage.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::KillGateway { .. } => "kill gateway",
            Fault::KillNode { .. } => "kill node",
            Fault::KillCluster { .. } => "kill cluster",
            Fault::PowerCut { .. } => "power cut",
            Fault::Cut { .. } => "cut",
            Fault::CutOff { .. } => "cut off",
            Fault::OneWay { .. } => "one way",
            Fault::CutGateways { .. } => "cut gateways",
            Fault::Hold { .. } => "hold",
            Fault::Clock { .. } => "clock",
            Fault::Leave { .. } => "leave",
            Fault::Remove { .. } => "remove",
            Fault::Twins { .. } => "twins",
            Fault::HomeDies { .. } => "home dies",
            Fault::Promote { .. } => "promote",
        }
    }
}

/// What a seed can draw, by [`Fault::kind`].
pub const DRAWN: &[&str] = &[
    "kill gateway",
    "kill node",
    "kill cluster",
    "power cut",
    "cut",
    "cut off",
    "one way",
    "cut gateways",
    "hold",
    "clock",
    "leave",
    "remove",
    "twins",
    "home dies",
    "promote",
];

/// Bugs that can be planted in the overlay at run time, and what each does.
pub const PLANTED: &[(&str, &str)] = &[
    ("forget_away", "what a cluster had that is away is not known any more"),
    ("others_first", "a name leads to another cluster though the bucket is at home here"),
    ("cursor_before_copy", "how far a copy is, is kept before what was copied"),
    ("serial_by_clock", "what a cluster says is as new as its clock says, though that was set back"),
    ("lost_as_away", "a request that may have happened is said to have been refused"),
];

/// A fault and when it comes: milliseconds after the clusters joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// When.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// One simulation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where it came from; also seeds everything random inside.
    pub seed: u64,
    /// The cluster that has a second gateway.
    pub wide: Cluster,
    /// The cluster that has three storage nodes, if one has.
    pub tall: Option<Cluster>,
    /// Whether gateways gossip. Where they do, the trace is not the same each time.
    pub gossip: bool,
    /// Clients of each bucket.
    pub clients: u16,
    /// Hot keys of each bucket.
    pub keys: u16,
    /// Operations of each client.
    pub operations: u32,
    /// The home of the bucket that is mirrored, by the next cluster.
    pub mirrored: Cluster,
    /// The home of the bucket of which its owner has replicas, in the next cluster.
    pub replicated: Cluster,
    /// Faults by time.
    pub faults: Vec<Timed>,
    /// Bugs planted in the product, by the names of its failpoints.
    #[serde(deserialize_with = "known_names")]
    pub planted: BTreeSet<&'static str>,
}

/// Names of planted bugs in a kept plan.
fn known_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<&'static str>, D::Error> {
    planned::known_names(deserializer, &[PLANTED])
}

/// Kinds of faults that a seed draws once at most, as they are stories of their own.
const STORIES: &[&str] = &["leave", "remove", "twins", "home dies", "promote"];

impl Plan {
    /// What `seed` draws.
    pub fn from_seed(seed: u64) -> Plan {
        let random = SimRandom::new(seed, "overlay plan");
        let mut plan = Plan::calm(seed);
        let few: Vec<&str> = DRAWN.iter().filter(|kind| !STORIES.contains(kind)).copied().collect();
        let kinds: Vec<&str> = (0..random.between(1, 3)).map(|_| *random.pick(&few)).collect();
        let mut stories: Vec<&str> = STORIES.iter().filter(|_| random.chance(35)).copied().collect();
        let mut at_ms = random.between(500, 2_000);
        for _ in 0..random.between(4, 7) {
            let is_story = !stories.is_empty() && random.chance(50);
            let kind = if is_story { stories.remove(0) } else { *random.pick(&kinds) };
            plan.faults.push(Timed { at_ms, fault: plan.draw(&random, kind) });
            at_ms += random.between(500, 4_000);
        }
        plan
    }

    /// The same without faults: everything has to be served.
    pub fn calm(seed: u64) -> Plan {
        let random = SimRandom::new(seed, "overlay shape");
        let tall = SimRandom::new(seed, "overlay nodes");
        Plan {
            seed,
            wide: *random.pick(&CLUSTERS),
            tall: tall.chance(35).then(|| *tall.pick(&CLUSTERS)),
            gossip: random.chance(40),
            clients: random.between(1, 2) as u16,
            keys: random.between(4, 12) as u16,
            operations: random.between(40, 60) as u32,
            mirrored: *random.pick(&CLUSTERS),
            replicated: *random.pick(&CLUSTERS),
            faults: Vec::new(),
            planted: BTreeSet::new(),
        }
    }

    /// A cluster leaves while its clock is ahead, and comes back when that was set right.
    fn leave_early(&mut self, random: &SimRandom) {
        let cluster = *random.pick(&CLUSTERS);
        let [_, deaf] = cluster.others();
        let clock = Fault::Clock { cluster, offset_ms: 300_000, for_ms: 4_000 };
        // The other one hears it leave, and later of it from who invites it.
        let leave = Fault::Leave { cluster, deaf, inviting: deaf, away_ms: 6_000 };
        self.faults = vec![Timed { at_ms: 500, fault: clock }, Timed { at_ms: 1_500, fault: leave }];
    }

    /// The same without gossip: its trace is the same each time.
    pub fn quiet(self) -> Plan {
        Plan { gossip: false, ..self }
    }

    /// How many gateways a cluster has.
    pub fn gateways_of(&self, cluster: Cluster) -> u16 {
        if cluster == self.wide { 2 } else { 1 }
    }

    /// The storage nodes of a cluster.
    pub fn nodes_of(&self, cluster: Cluster) -> Vec<Machine> {
        let nodes = if Some(cluster) == self.tall { 3 } else { 1 };
        (1..=nodes).map(|number| Machine::Node(cluster, number)).collect()
    }

    /// All gateways, in order of cluster.
    pub fn gateways(&self) -> Vec<Machine> {
        let of =
            |cluster| (1..=self.gateways_of(cluster)).map(move |number| Machine::Gateway(cluster, number));
        CLUSTERS.into_iter().flat_map(of).collect()
    }

    /// The machines of a cluster.
    pub fn machines_of(&self, cluster: Cluster) -> Vec<Machine> {
        let gateways = self.gateways().into_iter().filter(|gateway| gateway.cluster() == cluster);
        self.nodes_of(cluster).into_iter().chain(gateways).collect()
    }

    /// All machines.
    pub fn machines(&self) -> Vec<Machine> {
        CLUSTERS.into_iter().flat_map(|cluster| self.machines_of(cluster)).collect()
    }

    fn draw(&self, random: &SimRandom, kind: &str) -> Fault {
        let cluster = *random.pick(&CLUSTERS);
        let other = *random.pick(&cluster.others());
        let gateway = *random.pick(&self.gateways());
        let far: Vec<Machine> =
            self.gateways().into_iter().filter(|far| far.cluster() != gateway.cluster()).collect();
        let far = *random.pick(&far);
        let down_ms = random.between(300, 6_000);
        let for_ms = random.between(500, 8_000);
        // What is lost nobody sends again here, as TCP would: shorter ones are only held back.
        let cut_ms = for_ms + 2_500;
        let minutes = random.between(1, 10) as i64 * if random.chance(50) { 1 } else { -1 };
        match kind {
            "kill gateway" => Fault::KillGateway { gateway, down_ms },
            "kill source" => Fault::KillCluster { cluster: self.mirrored, down_ms: down_ms / 4 },
            "kill node" => Fault::KillNode { node: *random.pick(&self.nodes_of(cluster)), down_ms },
            "kill cluster" => Fault::KillCluster { cluster, down_ms },
            "power cut" => Fault::PowerCut { cluster, down_ms },
            "cut off" => Fault::CutOff { cluster, for_ms: cut_ms },
            "one way" => Fault::OneWay { from: cluster, to: other, for_ms: cut_ms },
            "cut gateways" => Fault::CutGateways { one: gateway, other: far, for_ms: cut_ms },
            "hold" => Fault::Hold { one: cluster, other, for_ms },
            "clock" => Fault::Clock { cluster, offset_ms: minutes * 60_000, for_ms },
            "leave" => {
                let inviting = *random.pick(&cluster.others());
                Fault::Leave { cluster, deaf: other, inviting, away_ms: down_ms }
            }
            "remove" => Fault::Remove { by: other, cluster, away_ms: down_ms },
            "twins" => Fault::Twins { one: cluster, other, for_ms: cut_ms + 1_000 },
            "home dies" => Fault::HomeDies { down_ms: down_ms + 4_000 },
            "promote" => Fault::Promote { home_is_lost: random.chance(50) },
            _ => Fault::Cut { one: cluster, other, for_ms: cut_ms },
        }
    }
}

impl Planned for Plan {
    type Timed = Timed;
    const BUGS: &'static [(&'static str, &'static str)] = PLANTED;
    const KEPT: &'static str = "integration/kept/overlay";

    fn drawn(seed: u64) -> Plan {
        Plan::from_seed(seed)
    }

    /// A plan that brings a bug to light. The product keeps its promises under it, too.
    fn hunting(seed: u64, bug: &str) -> Plan {
        let random = SimRandom::new(seed, "overlay hunt");
        let mut plan = Plan::calm(seed).quiet();
        let kinds: &[&str] = match bug {
            "serial_by_clock" => {
                plan.leave_early(&random);
                return plan;
            }
            "forget_away" => &["cut off", "kill cluster"],
            "others_first" => &["twins"],
            // Much is written, so that it dies in the middle of a body.
            "cursor_before_copy" => {
                plan.clients = 4;
                &["kill source"]
            }
            _ => &["cut", "one way", "hold"],
        };
        let mut at_ms = 1_000;
        for _ in 0..if bug == "others_first" { 1 } else { 6 } {
            let kind: &&str = random.pick(kinds);
            plan.faults.push(Timed { at_ms, fault: plan.draw(&random, kind) });
            at_ms += random.between(1_500, 4_000);
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
        u32::from(self.clients) * CLUSTERS.len() as u32 * self.operations
    }

    fn changes(&self) -> Vec<Change<Plan>> {
        let changes: [fn(&mut Plan); 6] = [
            |plan| plan.clients = (plan.clients / 2).max(1),
            |plan| plan.operations = (plan.operations / 2).max(1),
            |plan| plan.operations = (plan.operations * 3 / 4).max(1),
            |plan| plan.keys = (plan.keys / 2).max(1),
            |plan| plan.tall = None,
            |plan| plan.gossip = false,
        ];
        changes.map(|change| -> Change<Plan> { Box::new(change) }).into()
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

    #[test]
    fn all_that_can_be_drawn_is_drawn() {
        let plans = (0..200).map(Plan::from_seed);
        let drawn: BTreeSet<&str> =
            plans.flat_map(|plan| plan.faults).map(|timed| timed.fault.kind()).collect();
        assert_eq!(drawn, DRAWN.iter().copied().collect());
    }
}
