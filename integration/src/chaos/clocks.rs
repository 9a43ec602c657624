//! Wall clocks that jump, an hour ahead and an hour back. The daemons are the ones of the build: a library that is
//! loaded before them shifts what the system says (see `clock.c`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::arena::{Arena, Stage};
use super::crew::BUCKET;
use super::episodes::pause;
use super::wires::{around, node_name};
use crate::client::{Client, Request, Response, Target, amz_date};

const HOUR_MS: i64 = 3_600_000;
/// Longer than voters take to compare their clocks, and a leader to hand over.
const OFF_S: f64 = 12.0;
/// Voters compare their clocks every five seconds: until then a clock that is right again would count as wrong beside
/// the next one, and two of three may be an hour ahead.
const RIGHT_S: f64 = 7.0;
/// No Last-Modified is further from the time than this: cluster time follows a wrong clock at most a tenth faster than
/// time passes.
const OFF_MAX: Duration = Duration::from_secs(10);

pub(super) async fn jump(on: Stage<'_>) -> Result<Vec<String>> {
    let arena = on.arena;
    let mut seen = Vec::new();
    let mut newest = String::new();
    pause(2.0).await;
    for ahead_ms in [HOUR_MS, -HOUR_MS] {
        for node in [arena.follower().await?, arena.leader().await?] {
            let led_before = arena.leader().await?;
            arena.footing.set_clock(&node_name(node), ahead_ms)?;
            // New connections have to be made with this clock, too.
            arena.wires.change(around(node), |weather| weather.resets += 1);
            let watched = watch(arena, &mut newest).await;
            arena.footing.set_clock(&node_name(node), 0)?;
            watched.with_context(|| format!("node {node} is {ahead_ms} ms ahead"))?;
            let led_after = arena.leader().await?;
            if node == led_before {
                seen.push(format!("leader {ahead_ms} ms ahead: led by node {led_before}, then {led_after}"));
            }
            pause(RIGHT_S).await;
        }
        gateway_off(arena, ahead_ms).await.with_context(|| format!("a gateway is {ahead_ms} ms ahead"))?;
    }
    Ok(seen)
}

/// While a node's clock is off everything is served, and Last-Modified is the time and never goes back.
async fn watch(arena: &Arena, newest: &mut String) -> Result<()> {
    for round in 0..(OFF_S * 2.0) as usize {
        let gateway = round % arena.store.gateways();
        put(arena, gateway).await?;
        let modified = last_modified(arena, gateway).await?;
        let now = arena.store.wall_ms();
        let bound = OFF_MAX.as_millis() as u64;
        ensure!(*newest <= modified, "Last-Modified went back from {newest} to {modified}");
        let (earliest, latest) = (amz_date(now - bound), amz_date(now + bound));
        ensure!(
            earliest <= modified && modified <= latest,
            "Last-Modified {modified}, it is {}",
            amz_date(now)
        );
        *newest = modified;
        pause(0.5).await;
    }
    Ok(())
}

/// A gateway whose clock is off refuses what is signed with the right one, and the other one goes on.
async fn gateway_off(arena: &Arena, ahead_ms: i64) -> Result<()> {
    let name = arena.store.gateways[0].daemon.name();
    arena.footing.set_clock(name, ahead_ms)?;
    let mut outcome = Ok(());
    for _ in 0..8 {
        outcome = outcome.and(skewed(&send(arena, 0, object("GET")).await?)).and(put(arena, 1).await);
        pause(0.5).await;
    }
    arena.footing.set_clock(name, 0)?;
    outcome?;
    put(arena, 0).await.context("with the right clock again")
}

fn skewed(response: &Response) -> Result<()> {
    let right = response.status == 403 && response.code() == "RequestTimeTooSkewed";
    ensure!(right, "a request of another time: {}", response.describe());
    Ok(())
}

fn object(method: &str) -> Request {
    Request::object(method, BUCKET, "clock")
}

async fn send(arena: &Arena, gateway: usize, request: Request) -> Result<Response> {
    Client::new(&arena.store, gateway).send(request).await.context("send")
}

async fn put(arena: &Arena, gateway: usize) -> Result<()> {
    let response = send(arena, gateway, object("PUT").body("tick")).await?;
    ensure!(response.status == 200, "a write: {}", response.describe());
    Ok(())
}

/// Of the object, as `yyyymmddThhmmssZ`.
async fn last_modified(arena: &Arena, gateway: usize) -> Result<String> {
    let list = Request::bucket("GET", BUCKET).query("list-type", 2).query("prefix", "clock");
    let page = send(arena, gateway, list).await?.xml().map_err(anyhow::Error::msg)?;
    let item = page.all("Contents").next().context("it is listed")?;
    // `2026-01-31T23:59:59.000Z`.
    let text = item.text_of("LastModified").replace(['-', ':'], "");
    let seconds = text.get(..15).with_context(|| format!("LastModified {text}"))?;
    Ok(format!("{seconds}Z"))
}
