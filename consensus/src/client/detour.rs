//! The way around a broken link: a client that waits for the leader in vain has its calls passed on by a voter that
//! reaches it.
//!
//! A leader that is slow is left alone: only one call at a time looks for a way, and a way is taken only if the leader
//! answers on it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric::ids::NodeId;

/// A call that waits for so long looks for another way, and again after as long.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// A way is taken for so long; then the direct one is tried again.
const KEPT: Duration = Duration::from_secs(15);

/// A leader that is not reached, who reaches it, and until when that is believed.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: NodeId,
    by: NodeId,
    until: Duration,
}

/// See the file's head.
#[derive(Default)]
pub(super) struct Detour {
    way: Mutex<Option<Way>>,
    looking: tokio::sync::Mutex<()>,
    /// Somebody found out who leads, or how to reach it.
    learned: tokio::sync::Notify,
}

impl Detour {
    /// Who passes calls on to `node`, if it is known not to be reached.
    pub(super) fn around(&self, node: NodeId, now: Duration) -> Option<NodeId> {
        self.way().filter(|way| way.to == node && now < way.until).map(|way| way.by)
    }

    /// The way that was taken leads nowhere.
    pub(super) fn forget(&self) {
        *self.way() = None;
    }

    /// Waits until it is time to look for a way, or somebody has found one.
    pub(super) async fn pause(&self) {
        // Whoever begins to wait too late to hear of it waits for the time.
        drop(tokio::time::timeout(LOOK_AFTER, self.learned.notified()).await);
    }

    /// Calls that wait in vain need not any more.
    pub(super) fn tell(&self) {
        self.learned.notify_waiters();
    }

    /// The right to look for a way; only one call has it at a time.
    pub(super) fn look(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.looking.try_lock().ok()
    }

    /// `by` reaches `to`.
    pub(super) fn found(&self, to: NodeId, by: NodeId, now: Duration) {
        tracing::warn!(%to, %by, "the leader does not answer here, but there: calls are passed on");
        metrics::counter!("fluffy_detours_total").increment(1);
        *self.way() = Some(Way { to, by, until: now + KEPT });
    }

    fn way(&self) -> MutexGuard<'_, Option<Way>> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_taken_for_a_while_and_for_one_leader() {
        let (detour, now) = (Detour::default(), Duration::from_secs(100));
        detour.found(NodeId(1), NodeId(2), now);
        assert_eq!(detour.around(NodeId(1), now), Some(NodeId(2)));
        assert_eq!(detour.around(NodeId(3), now), None);
        assert_eq!(detour.around(NodeId(1), now + KEPT), None);
        detour.forget();
        assert_eq!(detour.around(NodeId(1), now), None);
        let turn = detour.look();
        assert!(turn.is_some() && detour.look().is_none(), "one at a time");
    }
}
