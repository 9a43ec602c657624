//! What this gateway believes about storage nodes: queues, latency, recent failures.
//!
//! Beliefs only choose who is asked first; nothing that decides safety reads them.
//!
//! Puts of chunks are bounded a node, and a node that is busy is no node that failed: a put is given up when *none*
//! to its node has ended for [`CHUNK_DEADLINE`]. So a slow disk slows clients down, and a dead one is left in time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric::env::Env;
use fabric::ids::NodeId;
use fabric::limits::{CHUNK_DEADLINE, CHUNK_PUT_BYTES_PER_NODE_MAX};
use storage::client::ChunkError;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// After a failure a node is avoided for this long, doubled with each further one …
const AVOID_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const AVOID_MAX: Duration = Duration::from_secs(8);
/// A node that is full is avoided for writes this long.
const FULL_FOR: Duration = Duration::from_secs(5);
/// Hedges wait at least this long.
const HEDGE_MIN: Duration = Duration::from_millis(50);
/// Puts take turns in units of so many bytes; a small one takes a whole unit.
const PUT_UNIT_BYTES: usize = 64 << 10;
/// So many calls given up one after the other, each after the time of a hedge, are a failure.
const GIVEN_UP_MAX: u32 = 3;

/// Beliefs about all nodes. Shared.
pub struct Nodes {
    env: Arc<dyn Env>,
    beliefs: Mutex<BTreeMap<NodeId, Belief>>,
    puts: Mutex<BTreeMap<NodeId, Arc<Puts>>>,
}

/// Puts on their way to one node.
struct Puts {
    turns: Semaphore,
    /// When the last one was acknowledged (monotonic).
    acknowledged: Mutex<Duration>,
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
        Arc::new(Nodes { env, beliefs: Mutex::default(), puts: Mutex::default() })
    }

    /// Does `put` of so many bytes in its turn among the puts to `node`. `None`: no put to the node was acknowledged for
    /// [`CHUNK_DEADLINE`].
    pub async fn put<T>(
        &self,
        node: NodeId,
        bytes: usize,
        put: impl Future<Output = Result<T, ChunkError>>,
    ) -> Option<Result<T, ChunkError>> {
        let puts = self.puts_of(node);
        let began = self.env.monotonic();
        let in_turn = async {
            let _turn = puts.turns.acquire_many(bytes.div_ceil(PUT_UNIT_BYTES).max(1) as u32).await;
            let outcome = put.await;
            if outcome.is_ok() {
                *puts.acknowledged() = self.env.monotonic();
            }
            outcome
        };
        let mut in_turn = pin!(in_turn);
        loop {
            let since = began.max(*puts.acknowledged());
            let left = (since + CHUNK_DEADLINE).saturating_sub(self.env.monotonic());
            if left.is_zero() {
                return None;
            }
            if let Ok(outcome) = timeout(left, &mut in_turn).await {
                return Some(outcome);
            }
        }
    }

    fn puts_of(&self, node: NodeId) -> Arc<Puts> {
        let mut puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
        let units = CHUNK_PUT_BYTES_PER_NODE_MAX / PUT_UNIT_BYTES;
        let new = || Puts { turns: Semaphore::new(units), acknowledged: Mutex::default() };
        puts.entry(node).or_insert_with(|| Arc::new(new())).clone()
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

impl Puts {
    fn acknowledged(&self) -> MutexGuard<'_, Duration> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
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
#[allow(clippy::disallowed_methods)] // Tokio's clock is paused.
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
    async fn a_slow_node_is_waited_for_and_a_dead_one_is_not() {
        let nodes = Nodes::new(TestEnv::shared());
        const MEBIBYTE: usize = 1 << 20;
        // A disk that takes one chunk in six seconds, one after the other, and forty chunks at once.
        let disk = tokio::sync::Mutex::new(());
        let slow = async || {
            let _disk = disk.lock().await;
            tokio::time::sleep(Duration::from_secs(6)).await;
            Ok::<(), ChunkError>(())
        };
        let puts = (0..40).map(|_| nodes.put(NODE, MEBIBYTE, slow()));
        let outcomes = futures::future::join_all(puts).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Some(Ok(())))));
        // Then it hangs: those that wait for their turn give up with the others.
        let began = tokio::time::Instant::now();
        let hangs = std::future::pending::<Result<(), ChunkError>>;
        let outcomes = futures::future::join_all((0..40).map(|_| nodes.put(NODE, MEBIBYTE, hangs()))).await;
        assert!(outcomes.iter().all(Option::is_none));
        assert_eq!(began.elapsed().as_secs(), CHUNK_DEADLINE.as_secs());
        assert_eq!(
            nodes.put(NODE, 1, async { Ok(7) }).await.map(Result::ok),
            Some(Some(7)),
            "turns are given back"
        );
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
