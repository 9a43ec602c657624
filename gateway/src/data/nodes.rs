//! What this gateway believes about storage nodes: queues, latency, recent failures.
//!
//! Beliefs only choose who is asked first; nothing that decides safety reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric::env::Env;
use fabric::ids::NodeId;
use storage::client::ChunkError;

/// After a failure a node is avoided for this long, doubled with each further one …
const AVOID_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const AVOID_MAX: Duration = Duration::from_secs(8);
/// A node that is full is avoided for writes this long.
const FULL_FOR: Duration = Duration::from_secs(5);
/// Hedges wait at least this long.
const HEDGE_MIN: Duration = Duration::from_millis(50);
/// So many calls given up one after the other, each after the time of a hedge, are a failure.
const GIVEN_UP_MAX: u32 = 3;

/// Beliefs about all nodes. Shared.
pub struct Nodes {
    env: Arc<dyn Env>,
    beliefs: Mutex<BTreeMap<NodeId, Belief>>,
}

#[derive(Clone, Copy, Default)]
struct Belief {
    in_flight: u32,
    failures: u32,
    /// Calls given up since the node answered last.
    given_up: u32,
    avoid_until: Duration,
    full_until: Duration,
    /// Smoothed latency and its smoothed deviation: their sum, weighted, stands for a high percentile.
    latency: Duration,
    deviation: Duration,
}

/// A call under way; it counts in the node's queue until it is finished or dropped.
pub struct Call {
    nodes: Arc<Nodes>,
    node: NodeId,
    began: Duration,
    finished: bool,
}

impl Nodes {
    /// No beliefs yet: everyone is healthy.
    pub fn new(env: Arc<dyn Env>) -> Arc<Nodes> {
        Arc::new(Nodes { env, beliefs: Mutex::new(BTreeMap::new()) })
    }

    /// Begins a call to `node`.
    pub fn call(self: &Arc<Nodes>, node: NodeId) -> Call {
        self.lock().entry(node).or_default().in_flight += 1;
        Call { nodes: self.clone(), node, began: self.env.monotonic(), finished: false }
    }

    /// Whether the node answered its last calls.
    pub fn healthy(&self, node: NodeId) -> bool {
        let now = self.env.monotonic();
        self.lock().get(&node).is_none_or(|belief| belief.avoid_until <= now)
    }

    /// Whether the node is healthy and not known to be full.
    pub fn takes_writes(&self, node: NodeId) -> bool {
        let now = self.env.monotonic();
        self.lock().get(&node).is_none_or(|belief| belief.avoid_until <= now && belief.full_until <= now)
    }

    /// Notes that the node kept us waiting longer than we were willing to.
    pub fn note_slow(&self, node: NodeId) {
        let now = self.env.monotonic();
        self.lock().entry(node).or_default().failed(now);
    }

    /// Rank for reads: smaller is asked first.
    pub fn read_rank(&self, node: NodeId) -> (bool, u32) {
        let now = self.env.monotonic();
        self.lock().get(&node).map_or((false, 0), |belief| (now < belief.avoid_until, belief.in_flight))
    }

    /// How long to wait for a reply of `node` before another replica is asked as well.
    pub fn hedge_delay(&self, node: NodeId) -> Duration {
        self.lock().get(&node).copied().unwrap_or_default().hedge_delay()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Belief>> {
        self.beliefs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Belief {
    fn hedge_delay(&self) -> Duration {
        (self.latency + self.deviation * 4).max(HEDGE_MIN)
    }

    fn failed(&mut self, now: Duration) {
        let avoid = AVOID_FIRST.saturating_mul(1 << self.failures.min(8)).min(AVOID_MAX);
        self.failures = self.failures.saturating_add(1);
        self.avoid_until = now + avoid;
    }

    fn answered(&mut self, took: Duration) {
        self.failures = 0;
        self.given_up = 0;
        self.avoid_until = Duration::ZERO;
        let off = took.abs_diff(self.latency);
        self.deviation = self.deviation * 3 / 4 + off / 4;
        self.latency = self.latency * 7 / 8 + took / 8;
    }
}

impl Call {
    /// Ends the call with what came of it.
    pub fn finish<T>(mut self, outcome: &Result<T, ChunkError>) {
        self.finished = true;
        let now = self.nodes.env.monotonic();
        let mut beliefs = self.nodes.lock();
        let belief = beliefs.entry(self.node).or_default();
        match outcome {
            Ok(_) => belief.answered(now.saturating_sub(self.began)),
            Err(ChunkError::Unavailable(..)) => belief.failed(now),
            Err(ChunkError::Full(_)) => belief.full_until = now + FULL_FOR,
            // The node answered; what it said is about the chunk.
            Err(ChunkError::NotFound(_) | ChunkError::Corrupt(_) | ChunkError::Refused(..)) => {}
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = self.nodes.env.monotonic();
        let mut beliefs = self.nodes.lock();
        let Some(belief) = beliefs.get_mut(&self.node) else {
            return;
        };
        belief.in_flight = belief.in_flight.saturating_sub(1);
        // A node that swallows calls loses every race against a hedge and would never be seen to fail.
        if !self.finished && belief.hedge_delay() <= now.saturating_sub(self.began) {
            belief.given_up += 1;
            if GIVEN_UP_MAX <= belief.given_up {
                belief.given_up = 0;
                belief.failed(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fakes::TestEnv;

    const NODE: NodeId = NodeId(1);

    #[tokio::test(start_paused = true)]
    async fn a_failing_node_is_avoided_for_a_while_and_longer_each_time() {
        let nodes = Nodes::new(TestEnv::shared());
        assert!(nodes.healthy(NODE));
        let down: Result<(), _> = Err(ChunkError::Unavailable(NODE, "test".to_string()));
        nodes.call(NODE).finish(&down);
        assert!(!nodes.healthy(NODE));
        tokio::time::advance(AVOID_FIRST).await;
        assert!(nodes.healthy(NODE));
        nodes.call(NODE).finish(&down);
        tokio::time::advance(AVOID_FIRST).await;
        assert!(!nodes.healthy(NODE));
        nodes.call(NODE).finish(&Ok(()));
        assert!(nodes.healthy(NODE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_node_takes_no_writes_but_serves_reads() {
        let nodes = Nodes::new(TestEnv::shared());
        nodes.call(NODE).finish::<()>(&Err(ChunkError::Full(NODE)));
        assert!(nodes.healthy(NODE) && !nodes.takes_writes(NODE));
        tokio::time::advance(FULL_FOR).await;
        assert!(nodes.takes_writes(NODE));
    }

    #[tokio::test(start_paused = true)]
    async fn queues_count_calls_that_are_dropped_as_ended() {
        let nodes = Nodes::new(TestEnv::shared());
        let call = nodes.call(NODE);
        assert_eq!(nodes.read_rank(NODE), (false, 1));
        drop(call);
        assert_eq!(nodes.read_rank(NODE), (false, 0));
    }
}
