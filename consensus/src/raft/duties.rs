//! What the leader does unasked: cluster time, the end of silent sessions, the first layout, and to step back
//! when its own disk stands still or its wall clock is wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fabric::env::{Env, TaskHandle, spawn_critical};
use fabric::ids::{LayoutVersion, SessionId};
use fabric::limits::{PARTITIONS, SESSION_SILENCE};
use fabric::placement::{Candidate, first_layout};

use super::log::Headroom;
use super::node::{NodeConfig, Running};
use super::overlay::View;
use crate::meta::answer::answer;
use crate::meta::command::{Command, EndSession, SetLayout};
use crate::meta::model::ClusterMs;
use crate::meta::query::{Answer, Query};
use crate::meta::tables::{Cluster, Nodes, get};

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// And while there is no layout yet, for which everybody waits.
const FIRST_INTERVAL: Duration = Duration::from_millis(10);
/// Cluster time that lags the median wall clock by more jumps there: everything was off for a while.
const LAG_MAX_MS: u64 = 60_000;
/// A leader with a wrong clock hands over no more often.
const CLOCK_PAUSE: Duration = Duration::from_secs(10);

/// A leader whose apply stands still for this long hands over.
const STANDSTILL: Duration = Duration::from_secs(5);

/// A leader whose disk is full hands over, and again after this if it leads again: then the others' may be, too.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// What a leader remembers while it leads. Nothing of it is durable: the next leader begins anew, which only
/// gives sessions more time.
#[derive(Default)]
pub(super) struct Leadership {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    term: u64,
    /// Cluster time stamped last, and the boot-time clock then.
    stamped: Option<(u64, Duration)>,
    /// When each session was heard of, by the boot-time clock.
    heard: BTreeMap<SessionId, Duration>,
}

impl Leadership {
    /// The time for an entry: follows the wall clock, never back, and at most a tenth faster than the
    /// boot-time clock. `applied` is the cluster time that the tables have, `median` the wall clock in the middle of
    /// a majority of voters.
    pub fn stamp(&self, env: &dyn Env, applied: ClusterMs, median: Option<u64>) -> ClusterMs {
        let (wall, boot) = (env.wall_ms(), env.boottime());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut time = match state.stamped {
            // Nothing was ever stamped: the voters were asked when they began, and else there is only our own clock.
            None if applied == ClusterMs(0) => median.unwrap_or(wall),
            None => applied.0,
            Some((time, at)) => {
                let passed = boot.saturating_sub(at).as_millis() as u64;
                wall.min(time + passed + passed / 10).max(time).max(applied.0)
            }
        };
        if let Some(median) = median.filter(|median| *median > time + LAG_MAX_MS) {
            time = median;
        }
        // The clock of the bound moves only with the stamp, so that short steps do not round to nothing.
        if state.stamped.is_none_or(|(before, _)| before != time) {
            state.stamped = Some((time, boot));
        }
        ClusterMs(time)
    }

    /// A session was heard of.
    pub fn heard(&self, env: &dyn Env, session: SessionId) {
        if session.number != 0 {
            let now = env.boottime();
            self.state.lock().unwrap_or_else(PoisonError::into_inner).heard.insert(session, now);
        }
    }

    /// Forgets what an earlier term knew.
    fn begin_term(&self, term: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.term != term {
            *state = State { term, ..State::default() };
            metrics::counter!("fluffy_terms_led_total").increment(1);
        }
    }

    /// Sessions of which nothing was heard for too long. One never heard of is heard of now.
    fn silent(&self, env: &dyn Env, live: &[SessionId]) -> Vec<SessionId> {
        let now = env.boottime();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.heard.retain(|session, _| live.contains(session));
        let mut silent = Vec::new();
        for session in live {
            let heard = *state.heard.entry(*session).or_insert(now);
            if now.saturating_sub(heard) > SESSION_SILENCE {
                silent.push(*session);
            }
        }
        silent
    }
}

/// Starts the leader's duties; they rest while another one leads.
pub(super) fn start(env: &Arc<dyn Env>, config: NodeConfig, running: Arc<Running>) -> TaskHandle {
    spawn_critical(env, "leader-duties", async move {
        let mut behind: Option<(u64, Duration)> = None;
        let mut clock_after = Duration::ZERO;
        let mut handed_over: Option<Duration> = None;
        loop {
            tokio::time::sleep(if has_layout(&running) { INTERVAL } else { FIRST_INTERVAL }).await;
            running.learn_epoch();
            running.clocks.voters_are(running.voter_nodes());
            let Some(term) = running.leads() else { continue };
            running.leadership.begin_term(term);
            let now = running.env.monotonic();
            behind = running.applied_behind().map(|applied| match behind {
                Some((before, since)) if before == applied => (applied, since),
                _ => (applied, now),
            });
            if behind.is_some_and(|(_, since)| now.saturating_sub(since) > STANDSTILL) {
                tracing::warn!("apply stands still: leadership is handed over");
                running.hand_over(&[]).await;
                behind = None;
                continue;
            }
            let better = running.clocks.better();
            if !better.is_empty() && clock_after <= now {
                tracing::warn!(?better, "the wall clock of this leader is wrong: leadership is handed over");
                running.hand_over(&better).await;
                clock_after = now + CLOCK_PAUSE;
                continue;
            }
            let rested = handed_over.is_none_or(|at| now.saturating_sub(at) > FULL_PAUSE);
            if running.headroom() > Headroom::Ahead && !running.is_alone() && rested {
                tracing::warn!("the disk is full: leadership is handed over");
                handed_over = Some(now);
                running.hand_over(&[]).await;
                continue;
            }
            for command in due(&config, &running) {
                // What fails is due again at the next look.
                if let Err(why) = running.propose_own(command).await {
                    tracing::debug!(why, "a duty of the leader waits");
                }
            }
        }
    })
}

/// The commands that are due, from one view.
fn due(config: &NodeConfig, running: &Running) -> Vec<Command> {
    let view = running.tables.view();
    let mut commands = Vec::new();
    if let Some(Answer::Sessions(sessions)) = ask(&view, &Query::Sessions) {
        let live: Vec<SessionId> = sessions.iter().map(|(id, _)| *id).collect();
        let silent = running.leadership.silent(&*running.env, &live);
        commands.extend(silent.into_iter().map(|session| Command::EndSession(EndSession { session })));
    }
    commands.extend(layout_due(config, &view));
    commands
}

fn ask(view: &View, query: &Query) -> Option<Answer> {
    match answer(view, view.index(), query) {
        Ok(answered) => answered.answer.ok(),
        Err(fault) => {
            tracing::error!(%fault, "the metadata cannot be read");
            None
        }
    }
}

/// Whether chunks have a place yet. What cannot be read is not waited for.
fn has_layout(running: &Running) -> bool {
    get::<Cluster>(&*running.tables.view(), ())
        .map_or(true, |row| row.is_some_and(|row| row.layout != LayoutVersion(0)))
}

/// The first layout, once all nodes of the configuration are registered.
fn layout_due(config: &NodeConfig, view: &View) -> Option<Command> {
    let cluster = get::<Cluster>(view, ()).ok()??;
    if cluster.layout != LayoutVersion(0) {
        return None;
    }
    let rows: Vec<_> =
        config.nodes.iter().map(|node| get::<Nodes>(view, *node).ok()?).collect::<Option<_>>()?;
    let candidates = rows.into_iter().map(|row| Candidate { node: row.id, zone: row.zone });
    let candidates: Vec<Candidate> = candidates.collect();
    if candidates.is_empty() {
        return None;
    }
    Some(Command::SetLayout(SetLayout { layout: first_layout(&candidates, PARTITIONS, config.copies) }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestEnv;
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const NOON: u64 = 1_700_000_000_000;

    #[test]
    fn cluster_time_follows_a_good_clock() {
        let (env, leadership) = (TestEnv::default(), Leadership::default());
        env.set(NOON, Duration::from_secs(1000));
        let mut time = leadership.stamp(&env, ClusterMs(NOON - 900), Some(NOON));
        assert_eq!(time, ClusterMs(NOON - 900), "a new leader goes on where the last one was");
        for _ in 0..20 {
            env.pass(Duration::from_secs(1));
            time = leadership.stamp(&env, time, Some(env.wall_ms()));
        }
        assert_eq!(time, ClusterMs(env.wall_ms()), "and has caught up, a tenth faster than time");
    }

    #[test]
    fn cluster_time_neither_jumps_ahead_nor_goes_back_with_the_leader() {
        let (env, leadership) = (TestEnv::default(), Leadership::default());
        env.set(NOON, Duration::from_secs(1000));
        let time = leadership.stamp(&env, ClusterMs(NOON), Some(NOON));
        env.set(NOON + 48 * HOUR_MS, Duration::from_secs(1010));
        let time = leadership.stamp(&env, time, Some(NOON + 10_000));
        assert_eq!(time, ClusterMs(NOON + 11_000), "1.1 times the boot-time clock at most");
        env.set(NOON - 48 * HOUR_MS, Duration::from_secs(1020));
        assert_eq!(leadership.stamp(&env, time, Some(NOON + 20_000)), time);
        // The leader stands still; beyond a minute the others decide.
        env.set(NOON - 48 * HOUR_MS, Duration::from_secs(1080));
        assert_eq!(leadership.stamp(&env, time, Some(NOON + 80_000)), ClusterMs(NOON + 80_000));
    }

    #[test]
    fn cluster_time_jumps_where_a_majority_is_after_a_weekend_off() {
        let (env, leadership) = (TestEnv::default(), Leadership::default());
        let monday = NOON + 48 * HOUR_MS;
        env.set(monday, Duration::from_secs(5));
        assert_eq!(leadership.stamp(&env, ClusterMs(NOON), None), ClusterMs(NOON), "nobody was heard yet");
        assert_eq!(leadership.stamp(&env, ClusterMs(NOON), Some(monday)), ClusterMs(monday));
        let first = Leadership::default();
        assert_eq!(first.stamp(&env, ClusterMs(0), Some(NOON)), ClusterMs(NOON));
        assert_eq!(Leadership::default().stamp(&env, ClusterMs(0), None), ClusterMs(monday));
    }
}
