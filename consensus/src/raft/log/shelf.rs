//! What of the log can be given to other nodes whose copy of it is rotten: also while this log is repaired itself,
//! and before Raft runs.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use fabric::env::{Env, run_blocking};

use super::{Log, Slot, Wanted};
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
    /// The log is not open; some of these cannot be read.
    Slots(VecDeque<Slot>),
    Log(Log),
}

impl Shelf {
    pub(super) fn put_slots(&self, slots: VecDeque<Slot>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Slots(slots);
    }

    pub(super) fn put_log(&self, log: Log) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Log(log);
    }

    /// The entry of exactly this log id, if it is here and intact.
    pub async fn entry(&self, env: &dyn Env, log_id: LogId) -> Option<LogEntry> {
        let wanted = match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Empty => None,
            State::Slots(slots) => find(slots, log_id),
            State::Log(log) => find(&log.shared.state().contents.slots, log_id),
        };
        let wanted = wanted?;
        let read: io::Result<LogEntry> = run_blocking(env, move || wanted.load()).await;
        read.inspect_err(|error| tracing::debug!(%error, "an entry for another node cannot be read")).ok()
    }
}

fn find(slots: &VecDeque<Slot>, log_id: LogId) -> Option<Wanted> {
    let first = slots.front()?.log_id.index;
    let slot = slots.get(usize::try_from(log_id.index.checked_sub(first)?).ok()?)?;
    Some(slot).filter(|slot| slot.log_id == log_id).and_then(|slot| Wanted::of(slot).ok())
}
