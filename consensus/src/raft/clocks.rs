//! The wall clocks of the voters, seen from one of them: which time a majority agrees on, and who is off.
//!
//! Each voter asks the others on an interval and keeps how far each wall clock is ahead of its own boot-time clock,
//! which does not jump. Nothing here decides about safety: only cluster time and where leadership is well placed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fabric::env::{Env, TaskHandle};
use fabric::ids::NodeId;
use fabric::rpc::{CallOptions, Class, RpcClient};

use super::wire::method;

/// Between two questions to all voters.
const INTERVAL: Duration = Duration::from_secs(5);
/// An answer that took longer says too little about its moment.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// After this an answer counts no more.
const FRESH: Duration = Duration::from_secs(20);
/// Further off than this a clock is wrong.
const OFF_MS_MAX: u64 = 1_000;
/// With fewer clocks nobody can say which is wrong.
const CLOCKS_TO_JUDGE: usize = 3;

/// See the file's head.
pub(super) struct Clocks {
    env: Arc<dyn Env>,
    me: NodeId,
    voters: Mutex<Vec<NodeId>>,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
}

#[derive(Clone, Copy)]
struct Heard {
    /// How far the wall clock of the voter is ahead of our boot-time clock.
    ahead_ms: i64,
    /// Our boot-time clock then.
    at: Duration,
}

impl Clocks {
    pub fn new(env: Arc<dyn Env>, me: NodeId, voters: Vec<NodeId>) -> Clocks {
        Clocks { env, me, voters: Mutex::new(voters), heard: Mutex::default() }
    }

    /// From now on these vote.
    pub fn voters_are(&self, voters: Vec<NodeId>) {
        *self.voters.lock().unwrap_or_else(PoisonError::into_inner) = voters;
    }

    fn voters(&self) -> Vec<NodeId> {
        self.voters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for ever.
    pub fn start(self: &Arc<Self>, rpc: RpcClient) -> TaskHandle {
        let clocks = self.clone();
        let ask_all = async move {
            loop {
                let others = clocks.voters().into_iter().filter(|voter| *voter != clocks.me);
                futures::future::join_all(others.map(|voter| clocks.ask(&rpc, voter))).await;
                tokio::time::sleep(INTERVAL).await;
            }
        };
        self.env.spawn("voter-clocks", Box::pin(ask_all))
    }

    async fn ask(&self, rpc: &RpcClient, voter: NodeId) {
        let options = CallOptions { class: Class::Control, deadline: ASK_DEADLINE };
        let asked = self.env.boottime();
        match rpc.call_typed(voter, method::CLOCK, &(), Bytes::new(), options).await {
            Ok((wall_ms, _)) => self.hear(voter, wall_ms, asked),
            Err(error) => tracing::debug!(%voter, %error, "a voter does not say its time"),
        }
    }

    /// A voter that was asked at `asked` has answered now.
    fn hear(&self, voter: NodeId, wall_ms: u64, asked: Duration) {
        let now = self.env.boottime();
        if now.saturating_sub(asked) > ASK_DEADLINE {
            return; // The machine slept between question and answer.
        }
        let ahead_ms = wall_ms as i64 - ((asked + now) / 2).as_millis() as i64;
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(voter, Heard { ahead_ms, at: now });
    }

    /// All wall clocks that are known now, ours among them, in order.
    fn all(&self) -> Vec<(i64, NodeId)> {
        let (now, voters) = (self.env.boottime(), self.voters());
        let own = self.env.wall_ms() as i64 - now.as_millis() as i64;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = heard.iter().filter(|(_, heard)| now.saturating_sub(heard.at) <= FRESH);
        let fresh = fresh.filter(|(voter, _)| voters.contains(voter));
        let mut all: Vec<_> = fresh.map(|(voter, heard)| (heard.ahead_ms, *voter)).collect();
        all.push((own, self.me));
        all.sort_unstable();
        all
    }

    /// The wall clock in the middle, where those of a majority of the voters are known; of two in the middle the one
    /// that is behind, since cluster time never goes back. A single voter is its own majority.
    pub fn median_ms(&self) -> Option<u64> {
        let all = self.all();
        if all.len() <= self.voters().len() / 2 {
            return None;
        }
        let ahead_ms = all[(all.len() - 1) / 2].0;
        Some((self.env.boottime().as_millis() as i64 + ahead_ms).max(0) as u64)
    }

    /// The voters with better clocks, if ours is off against the median of at least three.
    pub fn better(&self) -> Vec<NodeId> {
        let all = self.all();
        if all.len() < CLOCKS_TO_JUDGE || all.len() <= self.voters().len() / 2 {
            return Vec::new();
        }
        let median = all[(all.len() - 1) / 2].0;
        let mut right: Vec<NodeId> = all
            .iter()
            .filter(|(ahead_ms, _)| ahead_ms.abs_diff(median) <= OFF_MS_MAX)
            .map(|(_, voter)| *voter)
            .collect();
        right.sort_unstable();
        if right.contains(&self.me) { Vec::new() } else { right }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestEnv;
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const NOON: u64 = 1_700_000_000_000;

    fn clocks(voters: u16) -> (Arc<TestEnv>, Clocks) {
        let env = Arc::new(TestEnv::default());
        env.set(NOON, Duration::from_secs(1000));
        let voters = (1..=voters).map(NodeId).collect();
        (env.clone(), Clocks::new(env, NodeId(1), voters))
    }

    #[test]
    fn the_median_takes_a_majority() {
        let (env, clocks) = clocks(5);
        assert_eq!(clocks.median_ms(), None);
        clocks.hear(NodeId(2), NOON + 10, env.boottime());
        assert_eq!(clocks.median_ms(), None);
        clocks.hear(NodeId(3), NOON + 48 * HOUR_MS, env.boottime());
        assert_eq!(clocks.median_ms(), Some(NOON + 10));
        clocks.hear(NodeId(4), NOON + 20, env.boottime());
        assert_eq!(clocks.median_ms(), Some(NOON + 10), "of two the one behind");
        // It goes on with the boot-time clock, and forgets who does not answer any more.
        env.pass(Duration::from_secs(5));
        assert_eq!(clocks.median_ms(), Some(NOON + 5_010));
        env.pass(FRESH);
        assert_eq!(clocks.median_ms(), None);
    }

    #[test]
    fn a_single_voter_trusts_itself() {
        let (env, clocks) = clocks(1);
        assert_eq!(clocks.median_ms(), Some(NOON));
        env.set(NOON + 48 * HOUR_MS, env.boottime());
        assert_eq!((clocks.median_ms(), clocks.better()), (Some(NOON + 48 * HOUR_MS), Vec::new()));
    }

    #[test]
    fn who_is_off_learns_who_is_right() {
        let (env, clocks) = clocks(3);
        clocks.hear(NodeId(2), NOON + 900, env.boottime());
        clocks.hear(NodeId(3), NOON - 900, env.boottime());
        assert!(clocks.better().is_empty(), "within a second");
        env.set(NOON + 48 * HOUR_MS, env.boottime());
        assert_eq!(clocks.better(), [NodeId(2)], "the third is off against the second");
        clocks.hear(NodeId(3), NOON, env.boottime());
        assert_eq!(clocks.better(), [NodeId(2), NodeId(3)]);
        env.set(NOON - HOUR_MS, env.boottime());
        assert_eq!(clocks.better(), [NodeId(2), NodeId(3)]);
        // Two clocks that differ: nobody knows.
        env.set(NOON, env.boottime() + FRESH + Duration::from_secs(1));
        clocks.hear(NodeId(2), NOON + HOUR_MS, env.boottime());
        assert!(clocks.better().is_empty());
    }

    #[test]
    fn an_answer_that_took_too_long_says_nothing() {
        let (env, clocks) = clocks(3);
        let asked = env.boottime();
        env.pass(Duration::from_secs(3600));
        clocks.hear(NodeId(2), NOON, asked);
        assert_eq!(clocks.median_ms(), None);
        let asked = env.boottime();
        env.pass(Duration::from_millis(200));
        clocks.hear(NodeId(2), env.wall_ms(), asked);
        let median = clocks.median_ms().expect("two of three are known");
        assert!(median.abs_diff(env.wall_ms()) <= 100);
    }
}
