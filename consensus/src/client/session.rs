//! The client's side of a session: which sequences are open.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric::ids::SessionId;
use fabric::limits::SESSION_OPEN_MAX;

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
    ended: bool,
}

impl Session {
    pub fn new(id: SessionId) -> Arc<Session> {
        let state = State { next_sequence: 1, open: BTreeSet::new(), ended: false };
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_open_sequence_holds_the_lowest_back() {
        let session = Session::new(SessionId { epoch: 0, number: 1 });
        let first = session.draw().unwrap();
        let second = session.draw().unwrap();
        assert_eq!((first.number, second.number, session.lowest_open()), (1, 2, 1));
        drop(first);
        assert_eq!(session.lowest_open(), 2);
        drop(second);
        assert_eq!(session.lowest_open(), 3);
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
}
