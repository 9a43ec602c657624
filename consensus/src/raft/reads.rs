//! Linearizable reads: all that wait share one round of asking a majority whether we still lead.
//!
//! A read joins the next round, never the one under way: that one may have asked before the read began.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fabric::env::{Env, TaskHandle, spawn_critical};
use fabric::ids::{NodeId, RaftId};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Notify, oneshot};

use super::node::Running;

/// A round that takes longer failed.
const ROUND_DEADLINE: Duration = Duration::from_secs(3);
/// Reads that may wait for one round.
const WAITING_MAX: usize = 10_000;

/// Why a read cannot be served here.
#[derive(Debug, Clone)]
pub(super) enum ReadError {
    /// Another one leads, perhaps this one.
    NotLeader(Option<NodeId>),
    /// No majority answered in time, or too many wait.
    Unavailable(String),
}

type Waiter = oneshot::Sender<Result<(), ReadError>>;

/// The reads that wait for the next round.
#[derive(Default)]
pub(super) struct Rounds {
    waiting: Mutex<Vec<Waiter>>,
    asked: Notify,
}

impl Rounds {
    /// Returns once the view shows everything that was acknowledged before the call.
    pub async fn join(&self) -> Result<(), ReadError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= WAITING_MAX {
                return Err(ReadError::Unavailable("too many reads wait".to_string()));
            }
            waiting.push(sender);
        }
        self.asked.notify_one();
        receiver.await.unwrap_or_else(|_| Err(ReadError::Unavailable("the node stops".to_string())))
    }

    /// Starts the task that makes rounds.
    pub fn start(env: &Arc<dyn Env>, running: Arc<Running>) -> TaskHandle {
        spawn_critical(env, "read-rounds", async move {
            loop {
                running.rounds.asked.notified().await;
                let waiting = {
                    let mut waiting = running.rounds.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::take(&mut *waiting)
                };
                if waiting.is_empty() {
                    continue;
                }
                let result = round(&running).await;
                for waiter in waiting {
                    drop(waiter.send(result.clone())); // Who waited may be gone.
                }
            }
        })
    }
}

async fn round(running: &Running) -> Result<(), ReadError> {
    if running.env.armed("stale_read") {
        return Ok(()); // Planted: whoever is asked answers from what it has.
    }
    let asking = async {
        let read = running.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(read_error)?;
        let applied = read.await_ready(&running.raft).await;
        applied.map(drop).map_err(|fatal| ReadError::Unavailable(fatal.to_string()))
    };
    match tokio::time::timeout(ROUND_DEADLINE, running.scope(asking)).await {
        Ok(result) => result,
        Err(_) => Err(ReadError::Unavailable("no majority answered in time".to_string())),
    }
}

fn read_error(
    error: RaftError<super::types::Types, LinearizableReadError<super::types::Types>>,
) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            ReadError::NotLeader(forward.leader_id.map(|id| RaftId(id).node()))
        }
        other => ReadError::Unavailable(other.to_string()),
    }
}
