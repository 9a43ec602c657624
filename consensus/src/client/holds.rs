//! What a client holds open, writes and reads, and what its session says of them.
//!
//! A hold begins with a mark of the session: a write with the number of its extent, a read with the highest index that
//! was seen. Marks hold back everything above them, so what lasts longer than [`HOLD_LONG`] lets go of them: a
//! write is pinned by its extent; a read asks again which of its extents are named, holds those by the newer index of
//! that answer and pins the others. A pin is told by the same renewal that lets the mark pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric::ids::{ExtentId, SessionId};
use fabric::limits::{HOLD_LONG, SESSION_PINNED_MAX};

use super::Hold;
use crate::meta::command::RenewSession;
use crate::meta::model::Home;

/// All holds of a client. They outlive sessions: reads go on in the next one, as far as their chunks are there.
pub(super) struct Holds {
    state: Mutex<State>,
}

struct State {
    /// Highest applied index that any answer showed.
    seen: u64,
    next_extent: u64,
    next_hold: u64,
    /// In the order in which they began.
    open: BTreeMap<u64, Open>,
}

struct Open {
    /// When it began, or when its extents were looked at last.
    since: Duration,
    what: What,
    covered: Option<Covered>,
    lost: bool,
}

#[derive(Clone, Copy)]
enum What {
    Write { session: SessionId, number: u64 },
    Read { index: u64 },
}

struct Covered {
    home: Home,
    extents: Vec<ExtentId>,
    /// Of a read: those that nothing names any more.
    pinned: Vec<ExtentId>,
}

/// A read whose extents are to be looked at again.
pub(super) struct LongRead {
    hold: u64,
    pub home: Home,
    pub extents: Vec<ExtentId>,
}

impl Holds {
    pub fn new() -> Arc<Holds> {
        let state = State { seen: 0, next_extent: 1, next_hold: 0, open: BTreeMap::new() };
        Arc::new(Holds { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer showed this applied index.
    pub fn saw(&self, index: u64) {
        let mut state = self.state();
        state.seen = state.seen.max(index);
    }

    /// Draws an extent number and keeps it open until the hold is dropped.
    pub fn begin_write(self: &Arc<Self>, session: SessionId, now: Duration) -> (u64, OpenHold) {
        let mut state = self.state();
        let number = state.next_extent;
        state.next_extent += 1;
        (number, self.open(&mut state, What::Write { session, number }, now))
    }

    /// Opens a read as of what was seen.
    pub fn begin_read(self: &Arc<Self>, now: Duration) -> OpenHold {
        let mut state = self.state();
        let index = state.seen;
        self.open(&mut state, What::Read { index }, now)
    }

    fn open(self: &Arc<Self>, state: &mut State, what: What, now: Duration) -> OpenHold {
        let id = state.next_hold;
        state.next_hold += 1;
        state.open.insert(id, Open { since: now, what, covered: None, lost: false });
        OpenHold { holds: self.clone(), id }
    }

    /// Reads that held their mark for long.
    pub fn long_reads(&self, now: Duration) -> Vec<LongRead> {
        let long = |(id, open): (&u64, &Open)| {
            let covered = open.covered.as_ref().filter(|covered| !covered.extents.is_empty())?;
            let due = matches!(open.what, What::Read { .. }) && !open.is_young(now) && !open.lost;
            due.then(|| LongRead { hold: *id, home: covered.home.clone(), extents: covered.extents.clone() })
        };
        self.state().open.iter().filter_map(long).collect()
    }

    /// The extents of a read were looked at: as of `index` all are named but these.
    pub fn looked_again(&self, read: &LongRead, index: u64, unnamed: &[ExtentId], now: Duration) {
        let mut state = self.state();
        if let Some(Open { since, what, covered: Some(covered), .. }) = state.open.get_mut(&read.hold) {
            *what = What::Read { index };
            *since = now;
            covered.extents.retain(|extent| !unnamed.contains(extent));
            covered.pinned.extend_from_slice(unnamed);
        }
    }

    /// What the renewal of a session says now. Where too much would be pinned, the oldest holds are given up.
    pub fn renewal(&self, session: SessionId, now: Duration) -> RenewSession {
        let mut state = self.state();
        let (mut oldest_write, mut oldest_read) = (state.next_extent, state.seen);
        let mut pinned = BTreeSet::new();
        for open in state.open.values_mut().rev().filter(|open| !open.lost && open.is_of(session)) {
            let pins = open.pins(now);
            let more = pins.iter().filter(|extent| !pinned.contains(*extent)).count();
            if SESSION_PINNED_MAX < pinned.len() + more {
                open.lost = true;
                continue;
            }
            pinned.extend(pins.iter().copied());
            match open.what {
                What::Write { number, .. } if pins.is_empty() => oldest_write = oldest_write.min(number),
                What::Write { .. } => {}
                What::Read { index } if open.needs_mark() => oldest_read = oldest_read.min(index),
                What::Read { .. } => {}
            }
        }
        RenewSession { oldest_write, oldest_read, pinned: pinned.into_iter().collect() }
    }
}

impl Open {
    fn is_young(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < HOLD_LONG
    }

    /// A write belongs to the session that numbered it; reads are held by whichever there is.
    fn is_of(&self, session: SessionId) -> bool {
        match self.what {
            What::Write { session: of, .. } => of == session,
            What::Read { .. } => true,
        }
    }

    fn pins(&self, now: Duration) -> &[ExtentId] {
        match (&self.covered, self.what) {
            (Some(covered), What::Write { .. }) if !self.is_young(now) => &covered.extents,
            (Some(covered), What::Read { .. }) => &covered.pinned,
            _ => &[],
        }
    }

    /// Whether a read is held by its index: until it is known what it reads, and then for what is named.
    fn needs_mark(&self) -> bool {
        self.covered.as_ref().is_none_or(|covered| !covered.extents.is_empty())
    }
}

/// A hold that is open until this is dropped.
pub(super) struct OpenHold {
    holds: Arc<Holds>,
    id: u64,
}

impl Hold for OpenHold {
    fn covers(&self, home: Home, mut extents: Vec<ExtentId>) {
        extents.sort_unstable();
        extents.dedup();
        if let Some(open) = self.holds.state().open.get_mut(&self.id) {
            open.covered = Some(Covered { home, extents, pinned: Vec::new() });
        }
    }

    fn is_lost(&self) -> bool {
        self.holds.state().open.get(&self.id).is_none_or(|open| open.lost)
    }
}

impl Drop for OpenHold {
    fn drop(&mut self) {
        self.holds.state().open.remove(&self.id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::BucketId;

    use super::*;

    const SESSION: SessionId = SessionId { epoch: 1, number: 1 };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn home() -> Home {
        Home { bucket: BucketId(1), key: "k".parse().unwrap() }
    }

    fn extent(number: u64) -> ExtentId {
        ExtentId::new(7, SESSION, number)
    }

    fn marks(holds: &Holds, now: Duration) -> (u64, u64, Vec<u64>) {
        let renewal = holds.renewal(SESSION, now);
        let pinned = renewal.pinned.iter().map(|extent| extent.number()).collect();
        (renewal.oldest_write, renewal.oldest_read, pinned)
    }

    #[test]
    fn what_is_open_holds_the_marks_back() {
        let holds = Holds::new();
        holds.saw(5);
        let ((first, write), (_, later)) =
            (holds.begin_write(SESSION, at(0)), holds.begin_write(SESSION, at(0)));
        let (one, two) = (holds.begin_read(at(0)), holds.begin_read(at(0)));
        holds.saw(9);
        assert_eq!((first, marks(&holds, at(1))), (1, (1, 5, vec![])));
        drop((write, one));
        assert_eq!(marks(&holds, at(1)), (2, 5, vec![]));
        drop((later, two));
        assert_eq!(marks(&holds, at(1)), (3, 9, vec![]));
        let _of_an_ended_session = holds.begin_write(SessionId { epoch: 1, number: 0 }, at(0));
        assert_eq!(marks(&holds, at(1)).0, 4);
    }

    #[test]
    fn a_long_write_is_pinned_and_lets_the_mark_pass() {
        let holds = Holds::new();
        let (number, write) = holds.begin_write(SESSION, at(0));
        write.covers(home(), vec![extent(number)]);
        let (_, not_yet_chosen) = holds.begin_write(SESSION, at(0));
        assert_eq!(marks(&holds, at(299)), (1, 0, vec![]));
        assert_eq!(marks(&holds, at(300)), (2, 0, vec![1]));
        drop(not_yet_chosen);
        assert_eq!(marks(&holds, at(3600)), (3, 0, vec![1]));
        drop(write);
        assert_eq!(marks(&holds, at(3600)), (3, 0, vec![]));
    }

    #[test]
    fn a_long_read_pins_only_what_nothing_names() {
        let holds = Holds::new();
        holds.saw(5);
        let read = holds.begin_read(at(0));
        read.covers(home(), vec![extent(8), extent(9)]);
        let nothing = holds.begin_read(at(0));
        nothing.covers(home(), Vec::new());
        holds.saw(50);
        assert!(holds.long_reads(at(299)).is_empty());
        let long = holds.long_reads(at(300)).pop().unwrap();
        assert_eq!(marks(&holds, at(300)), (1, 5, vec![]), "until it is known, the mark stays");
        holds.looked_again(&long, 40, &[extent(9)], at(300));
        assert_eq!(marks(&holds, at(301)), (1, 40, vec![9]));
        assert!(holds.long_reads(at(599)).is_empty());
        let long = holds.long_reads(at(600)).pop().unwrap();
        assert_eq!(long.extents, [extent(8)]);
        holds.looked_again(&long, 45, &[extent(8)], at(600));
        assert_eq!(marks(&holds, at(3600)), (1, 50, vec![8, 9]));
        drop(read);
        assert_eq!(marks(&holds, at(3600)), (1, 50, vec![]));
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_given_up() {
        let holds = Holds::new();
        let writes: Vec<_> = (0..=SESSION_PINNED_MAX)
            .map(|_| {
                let (number, write) = holds.begin_write(SESSION, at(0));
                write.covers(home(), vec![extent(number)]);
                write
            })
            .collect();
        assert_eq!(marks(&holds, at(299)).0, 1);
        let (oldest_write, _, pinned) = marks(&holds, at(300));
        assert_eq!(oldest_write, SESSION_PINNED_MAX as u64 + 2);
        assert_eq!((pinned.len(), pinned[0]), (SESSION_PINNED_MAX, 2));
        assert!(writes[0].is_lost() && !writes[1].is_lost());
        drop(writes);
        assert!(marks(&holds, at(300)).2.is_empty());
    }
}
