//! Idle nodes take work from one that is slow: a node that was away owes copies, and all of them are made up for nearly as
//! soon as if it were not slow.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::arena::{Arena, Stage};
use super::crew::BUCKET;
use super::wires::node_name;
use crate::client::{Client, Pattern, Request, Target};
use crate::daemons::metric;
use crate::worker::Scene;

/// Copies that a node owes. Too large for the metadata.
const OBJECTS: u64 = 10_000;
const OBJECT_BYTES: u64 = 20 << 10;
const UPLOADS: usize = 32;
/// What each call of a slow node takes longer on the way there, and as much on the way back: the first that slows it
/// enough.
const SLOWED_MS: [u64; 4] = [8, 12, 16, 24];
/// So many times as long it takes the node itself for a copy then, at least.
const SLOWED_TIMES_MIN: f64 = 10.0;
/// The bar: a slow node makes it take no more times as long as where work is split evenly.
const TIMES_MAX: f64 = 1.5;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn tell(on: Stage<'_>) -> Result<Vec<String>> {
    let arena = on.arena;
    let node = arena.follower().await?;
    let even = pay(arena, node, "even").await?;
    let (slower, slowed) = pay_slowed(arena, node, &even).await?;
    let times = slowed.took.as_secs_f64() / even.took.as_secs_f64();
    if times > TIMES_MAX {
        on.crew.violate(format!("with one node slowed it takes {times:.2} times as long as an even split"));
    }
    Ok(vec![
        format!("nobody is slow: {even}"),
        format!("the node that owes is {slower:.0} times as slow: {slowed}, {times:.2} times as long"),
    ])
}

/// Slows the node down until it is slow enough. Returns how many times as slow it was, and how its copies were made up for.
async fn pay_slowed(arena: &Arena, node: u16, even: &Paid) -> Result<(f64, Paid)> {
    let name = node_name(node);
    for delay_ms in SLOWED_MS {
        let delay = Duration::from_millis(delay_ms);
        arena.wires.change(|from, _| from == name, |weather| weather.delay = delay);
        let slowed = pay(arena, node, &format!("slowed-{delay_ms}")).await;
        arena.wires.heal();
        let slowed = slowed?;
        let slower = even.own_pace() / slowed.own_pace();
        if slower >= SLOWED_TIMES_MIN {
            return Ok((slower, slowed));
        }
    }
    bail!("the node was never {SLOWED_TIMES_MIN} times as slow, which shows nothing")
}

/// How copies were made up for.
struct Paid {
    took: Duration,
    /// By other nodes than the one that owed them.
    by_others: f64,
}

impl Paid {
    /// Copies a second that the node that owed them made up for itself.
    fn own_pace(&self) -> f64 {
        (OBJECTS as f64 - self.by_others).max(1.0) / self.took.as_secs_f64()
    }
}

impl std::fmt::Display for Paid {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, others) = (self.took.as_secs_f64(), self.by_others);
        write!(to, "{OBJECTS} copies in {seconds:.1} s, {others:.0} of them by idle nodes")
    }
}

/// Writes objects while `node` is away; from its return on it counts how long it owes any.
async fn pay(arena: &Arena, node: u16, prefix: &str) -> Result<Paid> {
    arena.node(node).kill();
    // Each PUT takes a port, and each gateway has ports of its own.
    let clients: Vec<Client<'_>> =
        (0..arena.store.gateways()).map(|gateway| Client::new(&arena.store, gateway)).collect();
    let puts = futures::stream::iter(0..OBJECTS).map(|number| {
        let object = Request::object("PUT", BUCKET, &format!("stealing/{prefix}/{number}"));
        let client = &clients[number as usize % clients.len()];
        async move {
            let answer = client.send(object.generated(Pattern::new(number, OBJECT_BYTES))).await?;
            ensure!(answer.status == 200, "put: {}", answer.describe());
            Ok(())
        }
    });
    puts.buffer_unordered(UPLOADS).try_collect::<()>().await?;
    let owed_before = owed(arena).await?;
    ensure!(owed_before >= OBJECTS, "only {owed_before} copies are owed");
    arena.restart(node).await?;
    let begin = Instant::now();
    while owed(arena).await? > 0 {
        ensure!(begin.elapsed() < PATIENCE, "copies are owed after {PATIENCE:?}");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    let took = begin.elapsed();
    let admin = arena.store.node_admins[usize::from(node) - 1];
    // It was started anew, and counts from 0.
    let by_others = metric(admin, "fluffy_units_given_total").await?.unwrap_or(0.0);
    Ok(Paid { took, by_others })
}

async fn owed(arena: &Arena) -> Result<u64> {
    let users = arena.store.users()?;
    let status = tokio::task::spawn_blocking(move || users.status()).await?.map_err(anyhow::Error::msg)?;
    let status: Value = serde_json::from_str(&status)?;
    status["copies_owed"].as_u64().context("copies_owed")
}
