//! Entries of the log for a voter whose copy is rotten: asked of the other voters, and given to them.
//!
//! An entry is asked for by its whole log id, which names the same bytes wherever it is. So whoever has it may
//! give it, committed or not, and nothing is decided here. It is given while Raft runs and before: voters that
//! start together repair each other. Who has a decided entry of another id at that index says so instead: then the
//! one that is asked for was never decided, and may be cut off where it is rotten.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::codec;
use fabric::env::Env;
use fabric::ids::NodeId;
use fabric::rpc::{CallOptions, Class, Message, Peer, RpcClient, decode_head, reply_typed};

use super::log::{Donors, Known, Shelf};
use super::network::FORMAT;
use super::types::{LogEntry, LogId};
use super::wire::{EntryAnswer, method};

/// All voters have so long to answer, all questions of a start together: they may start later than we do.
const PATIENCE: Duration = Duration::from_secs(30);
/// One question.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between two rounds of questions.
const INTERVAL: Duration = Duration::from_millis(200);

/// The other voters.
pub(super) struct OtherVoters {
    env: Arc<dyn Env>,
    rpc: RpcClient,
    others: Vec<NodeId>,
    /// By the monotonic clock.
    until: Duration,
}

impl OtherVoters {
    pub fn new(env: Arc<dyn Env>, rpc: RpcClient, others: Vec<NodeId>) -> OtherVoters {
        let until = env.monotonic() + PATIENCE;
        OtherVoters { env, rpc, others, until }
    }

    async fn ask(&self, log_id: LogId) -> Option<Known> {
        loop {
            let mut forgotten = false;
            for voter in &self.others {
                let options = CallOptions { class: Class::Control, deadline: DEADLINE };
                let asked = self.rpc.call_typed(*voter, method::ENTRY, &log_id, Bytes::new(), options).await;
                let given: Result<(EntryAnswer, Bytes), _> = asked;
                match given {
                    Ok((EntryAnswer::Superseded, _)) => {
                        tracing::info!(%voter, %log_id, "a rotten entry was never decided, a voter says");
                        return Some(Known::Superseded);
                    }
                    Ok((EntryAnswer::Forgotten, _)) => forgotten = true,
                    Ok((EntryAnswer::Entry, body)) => {
                        match codec::decode::<LogEntry>(FORMAT, "log entry", &body) {
                            Ok(entry) if entry.log_id == log_id => return Some(Known::Entry(entry)),
                            Ok(_) => tracing::warn!(%voter, "a voter gave another entry than was asked for"),
                            Err(error) => tracing::warn!(%voter, %error, "a voter gave no entry"),
                        }
                    }
                    Ok((EntryAnswer::Unknown, _)) => {
                        tracing::debug!(%voter, %log_id, "a voter does not have an entry")
                    }
                    Err(error) => tracing::debug!(%voter, %error, "a voter does not give entries now"),
                }
            }
            if forgotten {
                return None; // Nobody had it: it is to be had with a checkpoint only.
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[async_trait]
impl Donors for OtherVoters {
    async fn entry(&self, log_id: LogId) -> Option<Known> {
        if self.others.is_empty() {
            return None;
        }
        let left = self.until.saturating_sub(self.env.monotonic());
        tokio::time::timeout(left, self.ask(log_id)).await.ok().flatten()
    }
}

/// Answers a voter that asks.
pub(super) async fn answer(
    env: &Arc<dyn Env>,
    shelf: &Shelf,
    from: Peer,
    request: &Message,
) -> Result<Message, String> {
    if !matches!(from, Peer::Node(_)) {
        return Err(format!("{from} is no voter"));
    }
    let log_id: LogId = decode_head(&request.head).map_err(|error| error.to_string())?;
    Ok(match shelf.entry(&**env, log_id).await {
        Some(Known::Entry(entry)) => reply_typed(&EntryAnswer::Entry, codec::encode(FORMAT, &entry).into()),
        Some(Known::Superseded) => reply_typed(&EntryAnswer::Superseded, Bytes::new()),
        Some(Known::Forgotten) => reply_typed(&EntryAnswer::Forgotten, Bytes::new()),
        None => reply_typed(&EntryAnswer::Unknown, Bytes::new()),
    })
}
