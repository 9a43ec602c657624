//! What jobs may take of disk and network: all of it while no client wants anything, less otherwise.
//!
//! While gateways call this node, its jobs copy [`AT_ONCE_BUSY`] chunks at a time and rest half as long as each copy took:
//! a third of what they do otherwise. That leaves most of the disk and of the network to clients, however fast these are,
//! and repair still gets on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fabric::env::Env;
use tokio::sync::Semaphore;

/// A node is busy for so long after a gateway called it.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Copies at once while clients are at work.
const AT_ONCE_BUSY: usize = 2;
/// The longest rest after one copy.
const REST_MAX: Duration = Duration::from_secs(1);

/// See the file's head.
pub struct Budget {
    /// Calls of gateways so far.
    calls: AtomicU64,
    /// The calls that were seen last, and when they were more than before.
    seen: Mutex<(u64, Option<Duration>)>,
    /// Who copies while clients are at work.
    turns: Semaphore,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { calls: AtomicU64::new(0), seen: Mutex::default(), turns: Semaphore::new(AT_ONCE_BUSY) }
    }
}

impl Budget {
    /// A gateway calls the node.
    pub fn client_calls(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Does one copy, when it is its turn, and rests afterwards as clients need it.
    pub(super) async fn spend<T>(&self, env: &dyn Env, copy: impl Future<Output = T>) -> T {
        if !self.is_busy(env.monotonic()) {
            return copy.await;
        }
        let _turn = self.turns.acquire().await;
        let began = env.monotonic();
        let outcome = copy.await;
        let took = env.monotonic().saturating_sub(began);
        metrics::counter!("fluffy_job_rests_total").increment(1);
        tokio::time::sleep((took / 2).min(REST_MAX)).await;
        outcome
    }

    fn is_busy(&self, now: Duration) -> bool {
        let calls = self.calls.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if calls != seen.0 {
            *seen = (calls, Some(now));
        }
        seen.1.is_some_and(|at| now.saturating_sub(at) < BUSY_FOR)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)] // The clock of a paused runtime is the seam here.
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::super::testing::{World, extent};
    use super::super::{Debts, Job, Next};
    use super::*;
    use crate::testing::Clock;

    /// How long a node takes to pay a debt of 64 chunks.
    async fn time_to_pay(clients_call: bool) -> Duration {
        let world = World::new(3);
        let owed = extent(1, 64, 1);
        world.fill(&owed, &[2, 3]).await;
        world.meta.owe(&owed);
        let chunks = Arc::new(world.chunks.paced(Duration::from_millis(10)));
        let cx = world.context_with(1, Arc::new(Clock::default()), chunks);
        let began = Instant::now();
        let mut job = Debts::default();
        while world.meta.paid().is_empty() {
            if clients_call {
                cx.work.budget.client_calls();
            }
            assert_eq!(job.step(&cx).await.unwrap(), Next::Again);
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_take_everything_or_a_third_of_it() {
        let (idle, busy) = (time_to_pay(false).await, time_to_pay(true).await);
        // Two at a time instead of four, and a rest after each, while clients were heard a second ago.
        assert!(busy > idle * 2 && busy < idle * 5, "{busy:?} with clients, {idle:?} without");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_busy_for_a_second_after_a_call() {
        let (budget, clock) = (Budget::default(), Clock::default());
        assert!(!budget.is_busy(clock.monotonic()));
        budget.client_calls();
        assert!(budget.is_busy(clock.monotonic()));
        clock.advance(BUSY_FOR / 2);
        assert!(budget.is_busy(clock.monotonic()));
        clock.advance(BUSY_FOR);
        assert!(!budget.is_busy(clock.monotonic()));
    }
}
