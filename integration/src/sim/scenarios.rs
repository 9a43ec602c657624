//! Named scenarios: one story each, told to a cluster that clients work on.
//!
//! What random faults reach too seldom, or what needs an operator: disks exchanged or put back from a copy, addresses
//! moved, clocks set wrong, all of it off for a weekend. Before and after a story the cluster serves, and everything
//! promised to clients meanwhile is there at the end. A bug that a story is made for can be planted into it.

use std::time::Duration;

use consensus::raft::wire::{Replace, VoterName};

use super::plan::{Machine, Plan};
use super::planned::Planned;
use super::seams::EPOCH_MS;
use super::world::{self, Report, World};
use super::{late_commit, long_transfers};

const HOUR_MS: u64 = 3_600_000;
/// Time for elections, a few rounds of questions, and a node to catch up.
const SOON: Duration = Duration::from_secs(30);

/// A story.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, and what must hold.
    pub about: &'static str,
    /// The planted bug that it has to catch.
    pub catches: Option<&'static str>,
    story: Story,
}

/// Who tells it.
enum Story {
    /// Something is done to the machines while clients work.
    Machines(fn(&mut World<'_>) -> Result<(), String>),
    /// A client of its own lives through it, in a plan of its own.
    Client(fn(Option<&'static str>) -> Report),
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "lost-disk",
        about: "a voter with an empty disk refuses to start, and takes its place again by `replace`, under load",
        catches: Some("skip_incarnation"),
        story: Story::Machines(lost_disk),
    },
    Scenario {
        name: "copied-directory",
        about: "a copy of a data directory is refused after the node has gone on, however often it is started",
        catches: Some("skip_starts"),
        story: Story::Machines(copied_directory),
    },
    Scenario {
        name: "wrong-clock",
        about: "the clock of the leader jumps by two days: cluster time does not follow, and leadership moves",
        catches: None,
        story: Story::Machines(wrong_clock),
    },
    Scenario {
        name: "weekend-off",
        about: "all machines come back after a weekend: cluster time jumps there",
        catches: None,
        story: Story::Machines(weekend_off),
    },
    Scenario {
        name: "all-moved",
        about: "all nodes come back with other addresses, which the table has: everything is there",
        catches: None,
        story: Story::Machines(all_moved),
    },
    Scenario {
        name: "long-transfers",
        about: "a GET and a PUT of an hour go on while a full store gets its space back",
        catches: Some("forget_pins"),
        story: Story::Client(long_transfers::tell),
    },
    Scenario {
        name: "late-commit",
        about: "a gateway is cut off before it names what it wrote: its session ends, and the write is refused",
        catches: Some("accept_ended_session"),
        story: Story::Client(late_commit::tell),
    },
];

/// Tells a story to the cluster of `seed`.
pub fn run(scenario: &Scenario, seed: u64, planted: Option<&'static str>) -> Report {
    let plan = Plan { operations: 150, ..Plan::calm(seed) };
    let plan = planted.into_iter().fold(plan, Plan::with_planted);
    match scenario.story {
        Story::Machines(story) => world::run_story(&plan, story),
        Story::Client(tell) => tell(planted),
    }
}

/// The node with the lowest number that does not lead.
fn follower(world: &mut World<'_>) -> Result<u16, String> {
    let leader = world.leader(SOON)?;
    Ok(if leader == 1 { 2 } else { 1 })
}

/// The voters in the command that a node printed when it stopped.
fn command_in(said: &str) -> Result<Replace, String> {
    let names = said.rsplit_once("replace ").and_then(|(_, names)| names.trim().split_once(' '));
    let (old, new) = names.ok_or_else(|| format!("no `replace` command in: {said}"))?;
    let parse = |name: &str| name.parse::<VoterName>().map_err(|error| format!("{name}: {error}"));
    Ok(Replace { old: parse(old)?.0, new: parse(new)?.0 })
}

fn lost_disk(world: &mut World<'_>) -> Result<(), String> {
    let node = follower(world)?;
    world.pass(Duration::from_secs(1))?;
    world.kill(Machine::Node(node), false);
    world.disk(node).wipe();
    let said = world.refused(node, SOON)?;
    let replace = command_in(&said)?;
    if replace.old.node() != replace.new.node() || replace.old == replace.new {
        return Err(format!("node {node} asks for nonsense: {said}"));
    }
    // Again, as a machine that starts what stopped: it stays out, and asks for the same.
    let again = command_in(&world.refused(node, SOON)?)?;
    if again != replace {
        return Err(format!("node {node} changed its mind: {said}"));
    }
    world.operator(replace);
    world.start(Machine::Node(node));
    world.catches_up(node, SOON)?;
    // It counts: the cluster bears the loss of another.
    let leader = world.leader(SOON)?;
    world.kill(Machine::Node(leader), true);
    world.leader(SOON)?;
    world.start(Machine::Node(leader));
    world.catches_up(leader, SOON)
}

fn copied_directory(world: &mut World<'_>) -> Result<(), String> {
    let node = follower(world)?;
    let copy = world.disk(node).image();
    world.pass(Duration::from_secs(1))?;
    world.kill(Machine::Node(node), false);
    world.start(Machine::Node(node));
    world.catches_up(node, SOON)?;
    world.pass(Duration::from_secs(1))?;

    world.kill(Machine::Node(node), false);
    let own = world.disk(node).image();
    world.disk(node).put_back(&copy);
    for _ in 0..3 {
        let said = world.refused(node, SOON)?;
        if !said.contains("an old or copied one") || !said.contains("never start it again") {
            return Err(format!("node {node} stops, but not because it is a copy: {said}"));
        }
    }
    world.disk(node).put_back(&own);
    world.start(Machine::Node(node));
    world.catches_up(node, SOON)
}

/// How far cluster time is ahead of the clock that the machines began with, on the node that knows most.
fn cluster_time_ahead_ms(world: &World<'_>) -> i64 {
    world.cluster_time_ms() as i64 - EPOCH_MS as i64 - world.now_ms() as i64
}

fn wrong_clock(world: &mut World<'_>) -> Result<(), String> {
    for offset_ms in [48 * HOUR_MS as i64, -48 * HOUR_MS as i64] {
        let leader = world.leader(SOON)?;
        world.pass(Duration::from_secs(6))?; // The clocks are asked every five seconds.
        world.set_clock(Machine::Node(leader), offset_ms);
        world.until(SOON, "leadership stays with the wrong clock", |world| {
            world.leads_now().is_some_and(|now| now != leader)
        })?;
        let now = world.leader(SOON)?;
        world.pass(Duration::from_secs(70))?;
        if world.leader(SOON)? != now {
            return Err(format!("leadership moves on from node {now}, whose clock is right"));
        }
        let ahead_ms = cluster_time_ahead_ms(world);
        if !(-65_000..=5_000).contains(&ahead_ms) {
            return Err(format!("cluster time is {ahead_ms} ms ahead of the clocks that are right"));
        }
        world.set_clock(Machine::Node(leader), 0);
    }
    Ok(())
}

fn weekend_off(world: &mut World<'_>) -> Result<(), String> {
    let machines = world.machines();
    for machine in &machines {
        world.kill(*machine, false);
    }
    for node in 1..=3 {
        world.set_clock(Machine::Node(node), 60 * HOUR_MS as i64);
    }
    for machine in &machines {
        world.start(*machine);
    }
    world.until(SOON, "cluster time stays behind", |world| {
        cluster_time_ahead_ms(world) > 59 * HOUR_MS as i64
    })?;
    let ahead_ms = cluster_time_ahead_ms(world);
    if ahead_ms > 60 * HOUR_MS as i64 + 5_000 {
        return Err(format!("cluster time is {ahead_ms} ms ahead: further than any clock"));
    }
    Ok(())
}

fn all_moved(world: &mut World<'_>) -> Result<(), String> {
    world.pass(Duration::from_secs(1))?;
    let machines = world.machines();
    for machine in &machines {
        world.kill(*machine, true);
    }
    world.move_nodes();
    for machine in &machines {
        world.start(*machine);
    }
    for node in 1..=3 {
        world.catches_up(node, SOON)?;
    }
    Ok(())
}
