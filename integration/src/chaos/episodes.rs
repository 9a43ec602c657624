//! The episodes: what happens to a store at work. Each undoes what it did, and takes a bounded time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::{FutureExt, LocalBoxFuture};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::arena::{Arena, NODES, Stage};
use super::ground::Ground;
use super::wires::{around, between, node_name};
use super::{cables, clocks, overload, power, scarce, stealing};

/// A story and what it is called.
pub struct Episode {
    /// Its name.
    pub name: &'static str,
    /// What happens.
    pub about: &'static str,
    /// Tells it; returns remarks.
    pub(super) story: for<'a> fn(Stage<'a>) -> Told<'a>,
    /// No client waits longer for its next success.
    pub(super) gap_max: Option<Duration>,
    /// On what it happens.
    pub(super) ground: Ground,
    /// It brings its own clients, and the others rest.
    pub(super) alone: bool,
}

pub(super) type Told<'a> = LocalBoxFuture<'a, Result<Vec<String>>>;

const fn episode(
    name: &'static str,
    about: &'static str,
    story: for<'a> fn(Stage<'a>) -> Told<'a>,
    gap_max_s: u64,
) -> Episode {
    let gap_max = if gap_max_s == 0 { None } else { Some(Duration::from_secs(gap_max_s)) };
    Episode { name, about, story, gap_max, ground: Ground::Common, alone: false }
}

impl Episode {
    const fn on(self, ground: Ground) -> Episode {
        Episode { ground, ..self }
    }

    const fn alone(self) -> Episode {
        Episode { alone: true, ..self }
    }
}

/// All episodes; those on the same ground happen in this order on one cluster. A last 0: how long clients wait follows from how long the fault lasts.
pub const EPISODES: &[Episode] = &[
    episode(
        "power-cut",
        "the filesystems of all nodes lose what was not synced (root only)",
        |on| power::cuts(on.arena).boxed_local(),
        0,
    )
    .on(Ground::Islands),
    episode("calm", "nothing happens", |_| calm().boxed_local(), 1),
    episode("kill-node", "kill -9 of followers", |on| kill_node(on.arena).boxed_local(), 1),
    episode("kill-leader", "kill -9 of the leader", |on| kill_leader(on.arena).boxed_local(), 3),
    episode("kill-all", "kill -9 of all nodes, all started again", |on| kill_all(on.arena).boxed_local(), 15),
    episode("kill-gateway", "kill -9 of a gateway", |on| kill_gateway(on.arena).boxed_local(), 0),
    episode("crash-loop", "a node is killed every other second", |on| crash_loop(on.arena).boxed_local(), 5),
    episode(
        "rolling-restart",
        "SIGTERM and start, one after the other",
        |on| rolling(on.arena).boxed_local(),
        3,
    ),
    episode(
        "pause-leader",
        "the leader is stopped for 0.2, 2 and 8 s",
        |on| pause_leader(on.arena).boxed_local(),
        5,
    ),
    episode("pause-node", "a follower is stopped for 8 s", |on| pause_node(on.arena).boxed_local(), 5),
    episode(
        "cut-leader",
        "nobody reaches the leader, nor it anybody",
        |on| cut_leader(on.arena).boxed_local(),
        5,
    ),
    episode(
        "cut-one-way",
        "each node in turn cannot call each other",
        |on| cut_one_way(on.arena).boxed_local(),
        5,
    ),
    episode(
        "bridge",
        "the leader and a follower reach each other only by the third",
        |on| bridge(on.arena).boxed_local(),
        5,
    ),
    episode(
        "split-gateway",
        "one gateway does not reach a node that the other reaches",
        |on| split(on.arena).boxed_local(),
        5,
    ),
    episode("delay", "50 ms and up to 50 ms more on every way", |on| delay(on.arena).boxed_local(), 0),
    episode("stalls", "ways stand still for a moment, as under loss", |on| stalls(on.arena).boxed_local(), 5),
    episode("corrupt", "bits flip on the way", |on| corrupt(on.arena).boxed_local(), 5),
    episode("resets", "connections are reset", |on| resets(on.arena).boxed_local(), 5),
    episode("thin-way", "1 Mbit/s to one node", |on| thin_way(on.arena).boxed_local(), 5),
    episode("slow-way", "1 MB/s to one node", |on| slow_way(on.arena).boxed_local(), 5),
    episode("slow-sync", "syncs of one node take 200 ms more", |on| slow_sync(on.arena).boxed_local(), 5),
    episode("sync-errors", "a sync of one node fails", |on| sync_errors(on.arena).boxed_local(), 5),
    episode("read-errors", "reads of one node fail", |on| read_errors(on.arena).boxed_local(), 5),
    episode(
        "descriptors",
        "a gateway runs out of file descriptors",
        |on| descriptors(on.arena).boxed_local(),
        0,
    ),
    episode(
        "overload",
        "ten times the connections that keep it busy",
        |on| overload::tell(on).boxed_local(),
        0,
    )
    .alone(),
    episode(
        "stealing",
        "a slow node owes copies, and idle ones make up for them",
        |on| stealing::tell(on).boxed_local(),
        0,
    )
    .alone(),
    episode(
        "unplug-nodes",
        "the cable of a follower, then of the leader is pulled for 8 s (root only)",
        |on| cables::unplug_nodes(on.arena).boxed_local(),
        5,
    )
    .on(Ground::Cables),
    episode(
        "unplug-gateway",
        "the cable of a gateway is pulled for 8 s (root only)",
        |on| cables::unplug_gateway(on.arena).boxed_local(),
        0,
    )
    .on(Ground::Cables),
    episode(
        "power-off",
        "the machine of a follower, then of the leader is gone without a word (root only)",
        |on| cables::power_off(on.arena).boxed_local(),
        5,
    )
    .on(Ground::Cables),
    episode(
        "lost-one-way",
        "packets from each node to each other are lost in turn (root only)",
        |on| cables::lost_one_way(on.arena).boxed_local(),
        5,
    )
    .on(Ground::Cables),
    episode(
        "flapping",
        "cables of nodes are pulled for a moment, again and again (root only)",
        |on| cables::flapping(on.arena).boxed_local(),
        10,
    )
    .on(Ground::Cables),
    episode(
        "disk-full",
        "the disks of a follower, of the leader, of all nodes are full (root only)",
        |on| scarce::disk_full(on).boxed_local(),
        0,
    )
    .on(Ground::SmallDisks),
    episode(
        "memory-limit",
        "each process has the least memory_limit, and large bodies come beside small ones (root only)",
        |on| scarce::memory_limit(on).boxed_local(),
        0,
    )
    .on(Ground::LittleMemory),
    episode(
        "out-of-memory",
        "the system ends a node again and again, which takes too much memory (root only)",
        |on| scarce::out_of_memory(on).boxed_local(),
        5,
    )
    .on(Ground::LittleMemory),
    episode(
        "clock-jump",
        "wall clocks jump an hour ahead and an hour back: a follower's, the leader's, a gateway's",
        |on| clocks::jump(on).boxed_local(),
        0,
    )
    .on(Ground::OwnClocks),
];

pub(super) async fn pause(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

async fn calm() -> Result<Vec<String>> {
    pause(15.0).await;
    Ok(Vec::new())
}

async fn kill_node(arena: &Arena) -> Result<Vec<String>> {
    for _ in 0..2 {
        pause(2.0).await;
        let node = arena.follower().await?;
        arena.node(node).kill();
        pause(4.0).await;
        arena.restart(node).await?;
        pause(2.0).await;
    }
    Ok(Vec::new())
}

async fn kill_leader(arena: &Arena) -> Result<Vec<String>> {
    for _ in 0..3 {
        pause(2.0).await;
        let leader = arena.leader().await?;
        arena.node(leader).kill();
        pause(4.0).await;
        arena.restart(leader).await?;
    }
    Ok(Vec::new())
}

async fn kill_all(arena: &Arena) -> Result<Vec<String>> {
    pause(3.0).await;
    arena.store.nodes.iter().for_each(crate::daemons::Daemon::kill);
    let ready = arena.store.start_nodes().await?;
    pause(5.0).await;
    Ok(vec![format!("all nodes killed, start to ready: {} ms", ready.as_millis())])
}

async fn kill_gateway(arena: &Arena) -> Result<Vec<String>> {
    for gateway in &arena.store.gateways {
        pause(2.0).await;
        gateway.daemon.kill();
        pause(2.0).await;
        gateway.start().await?;
    }
    pause(2.0).await;
    Ok(Vec::new())
}

async fn crash_loop(arena: &Arena) -> Result<Vec<String>> {
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < Duration::from_secs(30) {
        pause(arena.random.below(2000) as f64 / 1e3).await;
        let node = arena.random.between(1, u64::from(NODES)) as u16;
        arena.node(node).kill();
        kills += 1;
        pause(arena.random.below(1000) as f64 / 1e3).await;
        arena.restart(node).await?;
    }
    Ok(vec![format!("{kills} kills")])
}

async fn rolling(arena: &Arena) -> Result<Vec<String>> {
    let mut longest = Duration::ZERO;
    for node in 1..=NODES {
        pause(1.0).await;
        longest = longest.max(arena.node(node).terminate().await?);
        arena.restart(node).await?;
    }
    for gateway in &arena.store.gateways {
        pause(1.0).await;
        longest = longest.max(gateway.daemon.terminate().await?);
        gateway.start().await?;
    }
    pause(1.0).await;
    Ok(vec![format!("the longest drain took {} ms", longest.as_millis())])
}

async fn pause_leader(arena: &Arena) -> Result<Vec<String>> {
    for seconds in [0.2, 2.0, 8.0] {
        pause(2.0).await;
        let leader = arena.leader().await?;
        stop_for(arena, leader, seconds).await?;
    }
    pause(2.0).await;
    Ok(Vec::new())
}

async fn pause_node(arena: &Arena) -> Result<Vec<String>> {
    pause(2.0).await;
    let node = arena.follower().await?;
    stop_for(arena, node, 8.0).await?;
    pause(3.0).await;
    Ok(Vec::new())
}

async fn stop_for(arena: &Arena, node: u16, seconds: f64) -> Result<()> {
    arena.node(node).signal(Signal::STOP)?;
    pause(seconds).await;
    arena.node(node).signal(Signal::CONT)
}

async fn cut_leader(arena: &Arena) -> Result<Vec<String>> {
    for _ in 0..2 {
        pause(2.0).await;
        let leader = arena.leader().await?;
        arena.wires.change(around(leader), |weather| weather.cut = true);
        pause(6.0).await;
        arena.wires.heal();
    }
    pause(3.0).await;
    Ok(Vec::new())
}

async fn cut_one_way(arena: &Arena) -> Result<Vec<String>> {
    for from in 1..=NODES {
        for to in (1..=NODES).filter(|to| *to != from) {
            let name = node_name(from);
            arena.wires.change(|caller, node| caller == name && node == to, |weather| weather.cut = true);
            pause(2.5).await;
            arena.wires.heal();
            pause(0.5).await;
        }
    }
    Ok(Vec::new())
}

async fn bridge(arena: &Arena) -> Result<Vec<String>> {
    for _ in 0..2 {
        pause(1.0).await;
        let leader = arena.leader().await?;
        let other = arena.follower().await?;
        arena.wires.change(between(leader, other), |weather| weather.cut = true);
        pause(6.0).await;
        arena.wires.heal();
        pause(1.0).await;
    }
    Ok(Vec::new())
}

/// One gateway does not reach the leader, then a follower: longer than clients wait.
async fn split(arena: &Arena) -> Result<Vec<String>> {
    for node in [arena.leader().await?, arena.follower().await?] {
        let blind = |from: &str, to: u16| from == "gateway-1" && to == node;
        arena.wires.change(blind, |weather| weather.cut = true);
        pause(12.0).await;
        arena.wires.heal();
        pause(1.0).await;
    }
    Ok(Vec::new())
}

async fn delay(arena: &Arena) -> Result<Vec<String>> {
    let begin = arena.leader().await?;
    arena.wires.change(
        |_, _| true,
        |weather| {
            weather.delay = Duration::from_millis(50);
            weather.jitter = Duration::from_millis(50);
        },
    );
    pause(12.0).await;
    let end = arena.leader().await?;
    arena.wires.heal();
    pause(2.0).await;
    Ok(vec![format!("led by node {begin} before and by node {end} at the end")])
}

async fn stalls(arena: &Arena) -> Result<Vec<String>> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(12) {
        let node = arena.random.between(1, u64::from(NODES)) as u16;
        let other = arena.random.between(1, u64::from(NODES)) as u16;
        let hit = |from: &str, to: u16| to == node || from == node_name(other);
        arena.wires.change(hit, |weather| weather.cut = true);
        pause(arena.random.below(250) as f64 / 1e3).await;
        arena.wires.heal();
        pause(arena.random.below(100) as f64 / 1e3).await;
    }
    pause(1.0).await;
    Ok(Vec::new())
}

async fn corrupt(arena: &Arena) -> Result<Vec<String>> {
    arena.wires.change(|_, _| true, |weather| weather.flips_per_mille = 2);
    pause(12.0).await;
    arena.wires.heal();
    pause(2.0).await;
    Ok(Vec::new())
}

async fn resets(arena: &Arena) -> Result<Vec<String>> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(12) {
        let node = arena.random.between(1, u64::from(NODES)) as u16;
        arena.wires.change(around(node), |weather| weather.resets += 1);
        pause(arena.random.below(500) as f64 / 1e3).await;
    }
    Ok(Vec::new())
}

async fn thin_way(arena: &Arena) -> Result<Vec<String>> {
    to_one_node(arena, 125_000).await
}

async fn slow_way(arena: &Arena) -> Result<Vec<String>> {
    to_one_node(arena, 1_000_000).await
}

async fn to_one_node(arena: &Arena, bytes_a_second: u64) -> Result<Vec<String>> {
    let node = arena.follower().await?;
    arena.wires.change(|_, to| to == node, |weather| weather.rate = Some(bytes_a_second));
    pause(12.0).await;
    arena.wires.heal();
    pause(2.0).await;
    Ok(Vec::new())
}

/// One node runs with system calls that `inject` says, for a while.
async fn traced(arena: &Arena, calls: &str, inject: &str, seconds: f64) -> Result<bool> {
    let node = arena.follower().await?;
    arena.node(node).terminate().await?;
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{inject}"));
    let wrapper =
        ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    arena.node(node).start_under(&wrapper).context("start under strace: apt-get install strace")?;
    pause(seconds).await;
    let ended = arena.node(node).exited().is_some();
    arena.node(node).kill();
    arena.restart(node).await?;
    pause(2.0).await;
    Ok(ended)
}

async fn slow_sync(arena: &Arena) -> Result<Vec<String>> {
    let ended = traced(arena, "fsync,fdatasync", "delay_exit=200000", 20.0).await?;
    anyhow::ensure!(!ended, "a slow disk ended the node");
    Ok(Vec::new())
}

async fn sync_errors(arena: &Arena) -> Result<Vec<String>> {
    let mut stopped = 0;
    for first in [200, 1000] {
        let inject = format!("error=EIO:when={first}+1");
        stopped += u32::from(traced(arena, "fsync,fdatasync", &inject, 10.0).await?);
    }
    Ok(vec![format!("{stopped} of 2 nodes stopped themselves")])
}

async fn read_errors(arena: &Arena) -> Result<Vec<String>> {
    let ended = traced(arena, "pread64", "error=EIO:when=500+50", 10.0).await?;
    Ok(vec![format!("the node {}", if ended { "stopped itself" } else { "went on" })])
}

async fn descriptors(arena: &Arena) -> Result<Vec<String>> {
    let gateway = &arena.store.gateways[0].daemon;
    let id = gateway.process_id().and_then(|id| Pid::from_raw(id as i32)).context("the gateway runs")?;
    pause(1.0).await;
    let most = getrlimit(Resource::Nofile).maximum; // Of this process, which the gateway has from it.
    let few = Rlimit { current: Some(24), maximum: most };
    let before = prlimit(Some(id), Resource::Nofile, few).context("take descriptors away")?;
    pause(5.0).await;
    prlimit(Some(id), Resource::Nofile, before).context("give descriptors back")?;
    pause(3.0).await;
    Ok(Vec::new())
}
