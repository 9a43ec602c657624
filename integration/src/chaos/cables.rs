//! Machines that vanish: what is sent to them is lost, nothing refuses, and no connection hears of its end. Unlike what a
//! proxy holds back, it never arrives, and the systems on both sides wait longer and longer before they send it again.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::arena::{Arena, NODES};
use super::episodes::pause;
use super::wires::node_name;
use crate::hosts::Host;

/// Longer than anybody waits for an answer.
const GONE_S: f64 = 8.0;
/// Each way is lost for so long.
const LOST_S: f64 = 3.0;
const FLAPPING: Duration = Duration::from_secs(12);

fn machine(arena: &Arena, node: u16) -> Result<&Host> {
    arena.footing.host(&node_name(node))
}

async fn unplugged(host: &Host, seconds: f64) -> Result<()> {
    host.unplug()?;
    pause(seconds).await;
    host.plug()
}

/// The cable of a follower, then that of the leader.
pub(super) async fn unplug_nodes(arena: &Arena) -> Result<Vec<String>> {
    for node in [arena.follower().await?, arena.leader().await?] {
        pause(2.0).await;
        unplugged(machine(arena, node)?, GONE_S).await?;
        pause(3.0).await;
    }
    Ok(Vec::new())
}

/// Its clients wait meanwhile.
pub(super) async fn unplug_gateway(arena: &Arena) -> Result<Vec<String>> {
    pause(2.0).await;
    unplugged(arena.footing.host("gateway-1")?, GONE_S).await?;
    pause(5.0).await;
    Ok(Vec::new())
}

/// Machines lose power: nothing closes their connections. Others come in their place with the same disk.
pub(super) async fn power_off(arena: &Arena) -> Result<Vec<String>> {
    for node in [arena.follower().await?, arena.leader().await?] {
        pause(2.0).await;
        let host = machine(arena, node)?;
        host.unplug()?;
        arena.node(node).kill();
        pause(GONE_S).await;
        host.plug()?;
        arena.restart(node).await?;
        pause(2.0).await;
    }
    Ok(Vec::new())
}

/// What one machine sends to one other is lost, answers too, for each pair in turn.
pub(super) async fn lost_one_way(arena: &Arena) -> Result<Vec<String>> {
    for from in 1..=NODES {
        for to in (1..=NODES).filter(|to| *to != from) {
            let (from, to) = (machine(arena, from)?, machine(arena, to)?);
            from.lose_packets_to(to)?;
            pause(LOST_S).await;
            from.reach(to)?;
            pause(1.0).await;
        }
    }
    Ok(Vec::new())
}

/// A bad plug.
pub(super) async fn flapping(arena: &Arena) -> Result<Vec<String>> {
    let begin = Instant::now();
    let mut pulled = 0;
    while begin.elapsed() < FLAPPING {
        let node = arena.random.between(1, u64::from(NODES)) as u16;
        unplugged(machine(arena, node)?, arena.random.below(600) as f64 / 1e3).await?;
        pulled += 1;
        pause(arena.random.below(600) as f64 / 1e3).await;
    }
    pause(1.0).await;
    Ok(vec![format!("{pulled} times")])
}
