//! What of the log can be given to other nodes whose copy of it is rotten: also while this log is repaired itself,
//! and before Raft runs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use fabric::env::{Env, run_blocking};

use super::recover::Contents;
use super::{Known, Log, Wanted};
use crate::raft::types::{LogEntry, LogId};

/// See the file's head. Clones share it.
#[derive(Clone, Default)]
pub struct Shelf {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
enum State {
    #[default]
    Empty,
    /// The log is not open; some of its entries cannot be read.
    Damaged(Contents),
    Log(Log),
}

impl Shelf {
    pub(super) fn put_damaged(&self, contents: Contents) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Damaged(contents);
    }

    pub(super) fn put_log(&self, log: Log) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Log(log);
    }

    /// The entry of exactly this log id, if it is here and intact, or that another one is decided in its place.
    pub async fn entry(&self, env: &dyn Env, log_id: LogId) -> Option<Known> {
        let found = match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Empty => None,
            State::Damaged(contents) => find(contents, log_id),
            State::Log(log) => find(&log.shared.state().contents, log_id),
        };
        let wanted = match found? {
            Found::Wanted(wanted) => wanted,
            Found::Known(known) => return Some(known),
        };
        let read: io::Result<LogEntry> = run_blocking(env, move || wanted.load()).await;
        let read =
            read.inspect_err(|error| tracing::debug!(%error, "an entry for another node cannot be read"));
        read.ok().map(Known::Entry)
    }
}

enum Found {
    Wanted(Wanted),
    Known(Known),
}

fn find(contents: &Contents, log_id: LogId) -> Option<Found> {
    if contents.purged.is_some_and(|purged| purged.index >= log_id.index) {
        return Some(Found::Known(Known::Forgotten));
    }
    let first = contents.slots.front()?.log_id.index;
    let slot = contents.slots.get(usize::try_from(log_id.index.checked_sub(first)?).ok()?)?;
    if slot.log_id == log_id {
        return Wanted::of(slot).ok().map(Found::Wanted);
    }
    // A rotten one of ours tells as much: log ids of entries stand in their headers.
    let decided = contents.committed.is_some_and(|committed| committed.index >= log_id.index);
    decided.then_some(Found::Known(Known::Superseded))
}
