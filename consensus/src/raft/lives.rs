//! Which process of which incarnation takes part: so that a copied or restored data directory does not.
//!
//! Each start of a node raises a counter in its directory and draws a random number for the process. Peers remember
//! the highest counter of each incarnation, in memory and in the node table; they take Raft from a process above
//! it, or from the very process that showed it, and from no other. A start asks first: the counter is raised only
//! after a majority of the voters has nothing against it, so that no number of attempts makes an old directory
//! pass. The leader also knows what a voter has acknowledged, and a log that ends before that is an old one.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fabric::env::Env;
use fabric::ids::{NodeId, RaftId};
use fabric::rpc::{CallOptions, Class, RpcClient, RpcError};
use lru::LruCache;

use super::machine::Tables;
use super::wire::{Life, Presence, PresenceAnswer, VoterName, method};
use crate::meta::tables::{Nodes, get};

/// Incarnations remembered; a cluster has a few voters. The node table remembers for ever.
const LIVES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");
/// A process that takes part is heard several times in this.
const HEARD: Duration = Duration::from_millis(500);
/// Peers are asked this often.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// One question.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// For so long another process of the incarnation is seen at work, and no longer is it one that just ended.
const PATIENCE: Duration = Duration::from_secs(15);
/// A voter that is there and does not answer may be the only one that knows better: it is waited for, but no longer.
const SLOW_PATIENCE: Duration = Duration::from_secs(3);
/// Between two lines of a log about waiting.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// How a refusal of Raft begins where the process that is refused must not go on.
pub(super) const STALE: &str = "an old or copied data directory: ";

/// See the file's head.
pub(super) struct Lives {
    env: Arc<dyn Env>,
    seen: Mutex<LruCache<RaftId, Seen>>,
    /// What remembers beyond the end of this process, while it is open.
    tables: Mutex<Option<Arc<Tables>>>,
}

#[derive(Clone, Copy)]
struct Seen {
    life: Life,
    heard: Duration,
}

impl Lives {
    pub fn new(env: Arc<dyn Env>) -> Lives {
        Lives { env, seen: Mutex::new(LruCache::new(LIVES_MAX)), tables: Mutex::default() }
    }

    /// From now on presences are judged; with `None` they are not, as before.
    pub fn remember_in(&self, tables: Option<Arc<Tables>>) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables;
    }

    fn tables(&self) -> Option<Arc<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn seen(&self) -> MutexGuard<'_, LruCache<RaftId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest process of an incarnation that is known here.
    fn known(&self, id: RaftId) -> Option<Life> {
        let seen = self.seen().peek(&id).map(|seen| seen.life);
        [seen, self.stored(id)].into_iter().flatten().max_by_key(|life| life.starts)
    }

    fn stored(&self, id: RaftId) -> Option<Life> {
        match get::<Nodes>(&*self.tables()?.view(), id.node()) {
            Ok(row) => {
                let row = row.filter(|row| row.incarnation == id.incarnation())?;
                Some(Life { id, starts: row.starts, run: row.run })
            }
            Err(fault) => {
                tracing::error!(%fault, "the node table cannot be read");
                None
            }
        }
    }

    /// Whether a bug is planted that believes everybody.
    fn trusts(&self) -> bool {
        self.env.armed("skip_starts") || self.env.armed("skip_incarnation")
    }

    /// Takes Raft from a process, or says why not.
    pub fn admit(&self, life: Life) -> Result<(), String> {
        let known = self.seen().get(&life.id).map(|seen| seen.life).or_else(|| self.stored(life.id));
        if let Some(known) = known
            && known != life
            && life.starts <= known.starts
            && !self.trusts()
        {
            return Err(format!("{STALE}{}", outdone(life, known)));
        }
        let heard = self.env.monotonic();
        self.seen().put(life.id, Seen { life, heard });
        Ok(())
    }

    /// Judges a process that wants to take part; remembers nothing. `acknowledged` is the next index behind what
    /// its incarnation has acknowledged to this node as the leader.
    pub fn judge(&self, presence: &Presence, acknowledged: Option<u64>) -> PresenceAnswer {
        let life = presence.life;
        if self.tables().is_none() {
            return PresenceAnswer::NotYet;
        }
        if self.trusts() {
            return PresenceAnswer::Welcome;
        }
        if let Some(known) = self.known(life.id).filter(|known| *known != life && life.starts <= known.starts)
        {
            return PresenceAnswer::Stale(outdone(life, known));
        }
        let now = self.env.monotonic();
        let other = self.seen().peek(&life.id).copied().filter(|seen| seen.life != life);
        if other.is_some_and(|seen| now.saturating_sub(seen.heard) < HEARD) {
            return PresenceAnswer::Alive;
        }
        match acknowledged.filter(|acknowledged| presence.next_index < *acknowledged) {
            Some(acknowledged) => PresenceAnswer::Stale(format!(
                "its log ends before entry {}, and it has acknowledged all before entry {acknowledged}",
                presence.next_index
            )),
            None => PresenceAnswer::Welcome,
        }
    }
}

fn outdone(life: Life, known: Life) -> String {
    let name = VoterName(life.id);
    format!("start {} of {name} is known, and this would be start {}", known.starts, life.starts)
}

/// Waits until a majority of `voters` has nothing against this process; `Err` says why one of them has.
pub async fn present(
    env: &dyn Env,
    rpc: &RpcClient,
    voters: &[NodeId],
    presence: Presence,
) -> Result<(), String> {
    let me = presence.life.id.node();
    let own = usize::from(voters.contains(&me));
    let began = env.monotonic();
    let mut told = began;
    let mut alive_since: Option<Duration> = None;
    loop {
        let asked = voters.iter().filter(|voter| **voter != me).map(|voter| ask(rpc, *voter, &presence));
        let answers = futures::future::join_all(asked).await;
        let answers: Vec<PresenceAnswer> = answers.into_iter().flatten().collect();
        let stale = answers.iter().find_map(|answer| match answer {
            PresenceAnswer::Stale(why) => Some(why.clone()),
            _ => None,
        });
        if let Some(why) = stale {
            return Err(why);
        }
        let now = env.monotonic();
        let alive = answers.contains(&PresenceAnswer::Alive);
        alive_since = alive.then(|| alive_since.unwrap_or(now));
        if alive_since.is_some_and(|since| now.saturating_sub(since) > PATIENCE) {
            return Err(format!("another process of {} takes part now", VoterName(presence.life.id)));
        }
        let welcome = answers.iter().filter(|answer| **answer == PresenceAnswer::Welcome).count();
        let waited = welcome == answers.len() || now.saturating_sub(began) > SLOW_PATIENCE;
        if !alive && welcome + own > voters.len() / 2 && waited {
            return Ok(());
        }
        if now.saturating_sub(told) > TELL_INTERVAL {
            told = now;
            tracing::info!(node = %me, welcome, "waiting for a majority of the voters");
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// `None` from a voter that is not there.
async fn ask(rpc: &RpcClient, voter: NodeId, presence: &Presence) -> Option<PresenceAnswer> {
    let options = CallOptions { class: Class::Control, deadline: ASK_DEADLINE };
    match rpc.call_typed(voter, method::PRESENT, presence, Bytes::new(), options).await {
        Ok((answer, _)) => Some(answer),
        Err(error) => {
            tracing::debug!(%voter, %error, "a voter does not say whether this node may take part");
            (!matches!(error, RpcError::Unreachable(_))).then_some(PresenceAnswer::NotYet)
        }
    }
}
