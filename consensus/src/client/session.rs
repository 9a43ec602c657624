//! The client's side of a session: which sequences, writes and reads are open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric::ids::SessionId;
use fabric::limits::SESSION_OPEN_MAX;

use crate::meta::command::RenewSession;

/// An open session.
pub(super) struct Session {
    pub id: SessionId,
    state: Mutex<State>,
}

struct State {
    next_sequence: u64,
    /// Sequences whose outcome is open. One that is given up is taken out: from then on everything sent says
    /// that it is decided, and whatever is still on its way is refused.
    open: BTreeSet<u64>,
    next_extent: u64,
    writes: BTreeSet<u64>,
    ended: bool,
}

impl Session {
    pub fn new(id: SessionId) -> Arc<Session> {
        let state = State {
            next_sequence: 1,
            open: BTreeSet::new(),
            next_extent: 1,
            writes: BTreeSet::new(),
            ended: false,
        };
        Arc::new(Session { id, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was ended, by the leader or by us.
    pub fn ended(&self) -> bool {
        self.state().ended
    }

    /// Nothing is sent in it any more.
    pub fn end(&self) {
        self.state().ended = true;
    }

    /// Draws a sequence; `None` when too many are open.
    pub fn draw(self: &Arc<Self>) -> Option<Sequence> {
        let mut state = self.state();
        let number = state.next_sequence;
        let lowest = state.open.first().copied().unwrap_or(number);
        if lowest + SESSION_OPEN_MAX <= number {
            return None;
        }
        state.next_sequence += 1;
        state.open.insert(number);
        Some(Sequence { session: self.clone(), number })
    }

    /// Sequences below are decided.
    pub fn lowest_open(&self) -> u64 {
        let state = self.state();
        state.open.first().copied().unwrap_or(state.next_sequence)
    }

    /// Draws an extent number and keeps it open until the hold is dropped.
    pub fn begin_write(self: &Arc<Self>) -> OpenWrite {
        let mut state = self.state();
        let number = state.next_extent;
        state.next_extent += 1;
        state.writes.insert(number);
        OpenWrite { session: self.clone(), number }
    }

    /// What a renewal says now.
    pub fn renewal(&self, oldest_read: u64) -> RenewSession {
        let state = self.state();
        let oldest_write = state.writes.first().copied().unwrap_or(state.next_extent);
        RenewSession { oldest_write, oldest_read, pinned: Vec::new() }
    }
}

/// A sequence whose outcome is open until this is dropped.
pub(super) struct Sequence {
    session: Arc<Session>,
    pub number: u64,
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.session.state().open.remove(&self.number);
    }
}

/// A write that is open until this is dropped.
pub(super) struct OpenWrite {
    session: Arc<Session>,
    pub number: u64,
}

impl Drop for OpenWrite {
    fn drop(&mut self) {
        self.session.state().writes.remove(&self.number);
    }
}

/// The reads that are open, by the applied index that was known when they began.
#[derive(Default)]
pub(super) struct Reads {
    state: Mutex<ReadState>,
}

#[derive(Default)]
struct ReadState {
    /// Highest applied index that any answer showed.
    seen: u64,
    open: BTreeMap<u64, u64>,
}

impl Reads {
    fn state(&self) -> MutexGuard<'_, ReadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer showed this applied index.
    pub fn saw(&self, index: u64) {
        let mut state = self.state();
        state.seen = state.seen.max(index);
    }

    /// Below this nothing is read any more.
    pub fn oldest(&self) -> u64 {
        let state = self.state();
        state.open.first_key_value().map_or(state.seen, |(index, _)| *index)
    }

    /// Opens a read as of what was seen.
    pub fn begin(self: &Arc<Self>) -> OpenRead {
        let mut state = self.state();
        let index = state.seen;
        *state.open.entry(index).or_insert(0) += 1;
        OpenRead { reads: self.clone(), index }
    }
}

/// A read that is open until this is dropped.
pub(super) struct OpenRead {
    reads: Arc<Reads>,
    index: u64,
}

impl Drop for OpenRead {
    fn drop(&mut self) {
        let mut state = self.reads.state();
        if let Some(count) = state.open.get_mut(&self.index) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.index);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_holds_the_marks_back() {
        let session = Session::new(SessionId { epoch: 0, number: 1 });
        let first = session.draw().unwrap();
        let second = session.draw().unwrap();
        assert_eq!((first.number, second.number, session.lowest_open()), (1, 2, 1));
        drop(first);
        assert_eq!(session.lowest_open(), 2);
        drop(second);
        assert_eq!(session.lowest_open(), 3);

        let write = session.begin_write();
        let later = session.begin_write();
        assert_eq!(session.renewal(7).oldest_write, write.number);
        drop(write);
        assert_eq!(session.renewal(7).oldest_write, later.number);
        drop(later);
        assert_eq!(session.renewal(7).oldest_write, 3);
    }

    #[test]
    fn too_many_open_sequences_are_refused_here() {
        let session = Session::new(SessionId { epoch: 0, number: 1 });
        let first = session.draw().unwrap();
        for _ in 1..SESSION_OPEN_MAX {
            drop(session.draw().unwrap());
        }
        assert!(session.draw().is_none());
        drop(first);
        assert!(session.draw().is_some());
    }

    #[test]
    fn reads_hold_what_was_seen_when_they_began() {
        let reads = Arc::new(Reads::default());
        reads.saw(5);
        let (one, two) = (reads.begin(), reads.begin());
        reads.saw(9);
        drop(one);
        assert_eq!(reads.oldest(), 5);
        drop(two);
        assert_eq!(reads.oldest(), 9);
    }
}
