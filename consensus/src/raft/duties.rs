//! What the leader does unasked: cluster time, the end of silent sessions, the first layout, and to step back
//! when its own disk stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fabric::env::{Env, TaskHandle, spawn_critical};
use fabric::ids::{LayoutVersion, SessionId};
use fabric::limits::{COPIES, PARTITIONS, SESSION_SILENCE};
use fabric::placement::{Candidate, first_layout};

use super::node::{NodeConfig, Running};
use super::overlay::View;
use crate::meta::answer::answer;
use crate::meta::command::{Command, EndSession, SetLayout};
use crate::meta::model::ClusterMs;
use crate::meta::query::{Answer, Query};
use crate::meta::tables::{Cluster, Nodes, get};

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Cluster time that lags the wall clock by more jumps there when a leader begins.
const LAG_MAX_MS: u64 = 60_000;

/// A leader whose apply stands still for this long hands over.
const STANDSTILL: Duration = Duration::from_secs(5);

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
    /// boot-time clock. `applied` is the cluster time that the tables have.
    pub fn stamp(&self, env: &dyn Env, applied: ClusterMs) -> ClusterMs {
        let (wall, boot) = (env.wall_ms(), env.boottime());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let time = match state.stamped {
            // A leader that begins after a long silence, a weekend off, jumps; so does the first one ever.
            None if wall > applied.0 + LAG_MAX_MS => wall,
            None => applied.0,
            Some((time, at)) => {
                let passed = boot.saturating_sub(at).as_millis() as u64;
                wall.min(time + passed + passed / 10).max(time).max(applied.0)
            }
        };
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
        loop {
            tokio::time::sleep(INTERVAL).await;
            running.learn_epoch();
            let Some(term) = running.leads() else { continue };
            running.leadership.begin_term(term);
            let now = running.env.monotonic();
            behind = running.applied_behind().map(|applied| match behind {
                Some((before, since)) if before == applied => (applied, since),
                _ => (applied, now),
            });
            if behind.is_some_and(|(_, since)| now.saturating_sub(since) > STANDSTILL) {
                tracing::warn!("apply stands still: leadership is handed over");
                running.hand_over().await;
                behind = None;
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
    Some(Command::SetLayout(SetLayout { layout: first_layout(&candidates, PARTITIONS, COPIES) }))
}
