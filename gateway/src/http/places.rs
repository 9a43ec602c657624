//! Places for connections: how many there are, and who gives one up for a newcomer.
//!
//! A connection without a request in progress is idle. Where a newcomer finds no place, the connection that has been
//! idle longest is asked to leave, so that clients who hold connections and ask for nothing lock nobody out. Where all
//! are in use, the next answer says that its connection closes behind it, so that they take turns. What always holds:
//! a connection with a request in progress is not asked, nor one so soon after a request that the next may be on its
//! way.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::guard::now;

/// How long a connection that was asked may take to leave before another one is asked, too.
const LEAVE_PATIENCE: Duration = Duration::from_millis(100);
/// A connection is asked to leave only after it was idle for so long: a client that sends its requests one after the
/// other pauses for less, even where it is short of processors.
const IDLE_MIN: Duration = Duration::from_secs(5);

/// The places of one server.
pub struct Places {
    free: Arc<Semaphore>,
    all: usize,
    /// Idle connections, the one that is idle longest at the end.
    idle: Mutex<LruCache<u64, Idle>>,
    next: AtomicU64,
    /// A newcomer waits, and no answer has given its place to it yet.
    wanted: AtomicBool,
}

struct Idle {
    since: Instant,
    leave: Arc<Notify>,
}

/// The place of one connection, given back when this is dropped.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    leave: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many places, all free.
    pub fn new(all: usize) -> Arc<Places> {
        let room = NonZeroUsize::new(all).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Places {
            free: Arc::new(Semaphore::new(all)),
            all,
            idle: Mutex::new(LruCache::new(room)),
            next: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
        })
    }

    /// A place for a connection that has come, and is idle until its first request. Waits for one; meanwhile those
    /// who are idle longest are asked to leave, or those who get an answer.
    pub async fn take(self: &Arc<Places>) -> Place {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return self.place(permit);
        }
        loop {
            self.make_room();
            if let Ok(Ok(permit)) = timeout(LEAVE_PATIENCE, self.free.clone().acquire_owned()).await {
                self.wanted.store(false, Ordering::Relaxed);
                return self.place(permit);
            }
        }
    }

    fn place(self: &Arc<Places>, permit: OwnedSemaphorePermit) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let place = Place { places: self.clone(), id, leave: Arc::new(Notify::new()), _permit: permit };
        place.idle();
        place
    }

    /// Asks the connection that is idle longest to leave, or else the one that gets the next answer.
    pub fn make_room(&self) {
        let mut idle = self.locked();
        let long = idle.peek_lru().is_some_and(|(_, longest)| IDLE_MIN <= now() - longest.since);
        self.wanted.store(!long, Ordering::Relaxed);
        if long && let Some((_, longest)) = idle.pop_lru() {
            metrics::counter!("fluffy_http_idle_closed_total").increment(1);
            longest.leave.notify_one();
        }
    }

    /// Waits until every place is free.
    pub async fn all_free(&self) {
        let all = u32::try_from(self.all).unwrap_or(u32::MAX);
        // Nobody closes the semaphore; if it were closed, nothing would be left to wait for.
        let _ = self.free.acquire_many(all).await;
    }

    fn locked(&self) -> MutexGuard<'_, LruCache<u64, Idle>> {
        // Each change is a single call, so poison means nothing here.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A request is in progress.
    pub fn busy(&self) {
        self.places.locked().pop(&self.id);
    }

    /// None is, from now on.
    pub fn idle(&self) {
        self.places.locked().put(self.id, Idle { since: now(), leave: self.leave.clone() });
    }

    /// Whether a newcomer waits for a place, and the connection that asks has to give up its own behind the answer
    /// it is about to send.
    pub fn is_wanted(&self) -> bool {
        let wanted = &self.places.wanted;
        let given = wanted.load(Ordering::Relaxed) && wanted.swap(false, Ordering::Relaxed);
        if given {
            metrics::counter!("fluffy_http_turns_ended_total").increment(1);
        }
        given
    }

    /// Waits until the connection is asked to leave.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_is_idle_longest_makes_room() {
        let places = Places::new(3);
        let (first, second, third) = (places.take().await, places.take().await, places.take().await);
        sleep(IDLE_MIN).await;
        // The first one was used last, and the third one is in use.
        first.busy();
        first.idle();
        third.busy();
        assert!(second.asked_to_leave().now_or_never().is_none(), "nobody waits yet");
        let leaves = async {
            second.asked_to_leave().await;
            assert!(first.asked_to_leave().now_or_never().is_none());
            drop(second);
        };
        let (newcomer, ()) = futures::join!(places.take(), leaves);
        newcomer.busy();
        sleep(IDLE_MIN).await;
        // One that was asked and does not go holds nobody up.
        let leaves = async {
            first.asked_to_leave().await;
            sleep(2 * LEAVE_PATIENCE).await;
            third.idle();
            sleep(IDLE_MIN).await;
            third.asked_to_leave().await;
            drop(third);
        };
        let (another, ()) = futures::join!(places.take(), leaves);
        drop(another);
        drop((first, newcomer));
        places.all_free().await;
    }
    #[tokio::test(start_paused = true)]
    async fn connections_in_use_take_turns() {
        let places = Places::new(2);
        let (first, second) = (places.take().await, places.take().await);
        first.busy();
        assert!(!first.is_wanted(), "nobody waits");
        let answers = async {
            sleep(LEAVE_PATIENCE / 2).await;
            assert!(second.asked_to_leave().now_or_never().is_none(), "its next request may be on its way");
            assert!(first.is_wanted());
            assert!(!second.is_wanted(), "one place is enough");
            drop(first);
        };
        let (newcomer, ()) = futures::join!(places.take(), answers);
        assert!(!newcomer.is_wanted());
    }
}
