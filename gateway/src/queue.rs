//! Admission: each class of work has a bound on what runs and a bound on what waits, and the bytes of the process
//! are split before anybody uses them.
//!
//! A full queue, or a wait that is too long, is "certainly not done": 503 `SlowDown`. Who would wait too long hears it
//! at once: a queue knows how fast it moves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric::limits::{CONNECTIONS_MAX, GIB, MEMORY_LIMIT_MIN, MIB, growing_bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::http::guard::now;

/// The longest wait for a turn.
pub const TURN_DEADLINE: Duration = Duration::from_secs(10);
/// Who would wait longer than this, by the pace of the queue, is refused at once. So much shorter than
/// [`TURN_DEADLINE`] that a queue may slow down by half and nobody waits in vain.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// The pace is the mean over at least so long: turns end in bursts, when a sync or a processor served many at once.
const PACE_WINDOW: Duration = Duration::from_millis(500);
/// What a client is told to wait.
pub const RETRY_AFTER_SECONDS: u32 = 1;
/// A request or response body above this is large.
pub const SMALL_BYTES_MAX: u64 = MIB;
/// What a large body needs to go on where the buffers are short: a chunk on its way in, a step on its way out, for
/// which a quarter of the bytes is left. What it holds beyond that comes from the budget of bytes.
const UPLOAD_BYTES_LEAST: u64 = MIB;
const DOWNLOAD_BYTES_LEAST: u64 = MIB / 8;
const SMALL_TRANSFER_BYTES: u64 = MIB + MIB / 2;

/// Kinds of work that do not stand in each other's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Heads, listings, deletions, buckets.
    Metadata,
    /// Bodies up to [`SMALL_BYTES_MAX`].
    Small,
    /// Larger bodies that come in.
    Upload,
    /// Larger bodies that go out; slow readers are among themselves.
    Download,
    /// Nobody waits for it.
    Background,
    /// Readers of change feeds, who wait for events.
    Watch,
}

impl Work {
    /// Label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Work::Metadata => "metadata",
            Work::Small => "small",
            Work::Upload => "upload",
            Work::Download => "download",
            Work::Background => "background",
            Work::Watch => "watch",
        }
    }
}

/// There is no turn for this work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much work of this kind is waiting already")]
pub struct Busy;

/// How many may run and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At once.
    pub running_max: usize,
    /// Waiting for a turn.
    pub waiting_max: usize,
}

/// One queue.
struct Queue {
    turns: Arc<Semaphore>,
    running_max: usize,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
    pace: Arc<Mutex<Pace>>,
}

/// How often a turn ends while others wait for one.
#[derive(Debug, Default)]
struct Pace {
    /// When the window began, and the turns that ended in it. `None` where nobody waited at the last end: the time until
    /// the next one says nothing.
    window: Option<(Instant, u32)>,
    /// Between two ends, on average over the last few windows.
    interval: Duration,
}

impl Pace {
    fn note(&mut self, waiting: usize) {
        let now = now();
        self.window = match self.window {
            _ if waiting == 0 => None,
            None => Some((now, 0)),
            Some((began, ends)) if now - began < PACE_WINDOW => Some((began, ends + 1)),
            Some((began, ends)) => {
                let interval = (now - began) / (ends + 1);
                self.interval =
                    if self.interval.is_zero() { interval } else { (self.interval + interval) / 2 };
                Some((now, 0))
            }
        };
    }

    /// How long one waits behind so many.
    fn wait_behind(&self, waiting: usize) -> Duration {
        self.interval.saturating_mul(u32::try_from(waiting + 1).unwrap_or(u32::MAX))
    }
}

fn locked(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    // Each change is complete before anything can panic.
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The queues of a gateway.
pub struct Queues {
    metadata: Queue,
    small: Queue,
    upload: Queue,
    download: Queue,
    background: Queue,
    watch: Queue,
}

/// A turn: the work may run until this is dropped.
pub struct Turn {
    waiting: Arc<AtomicUsize>,
    pace: Arc<Mutex<Pace>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        locked(&self.pace).note(self.waiting.load(Ordering::Relaxed));
    }
}

impl Queues {
    /// Queues within a byte budget.
    pub fn new(budget: &Budget) -> Queues {
        Queues::within(|work| budget.bounds(work))
    }

    /// One request of each kind at once, and one that waits: any crowd is too many.
    pub fn narrow() -> Queues {
        Queues::within(|_| Bounds { running_max: 1, waiting_max: 1 })
    }

    fn within(bounds: impl Fn(Work) -> Bounds) -> Queues {
        let queue = |work| Queue::new(bounds(work));
        Queues {
            metadata: queue(Work::Metadata),
            small: queue(Work::Small),
            upload: queue(Work::Upload),
            download: queue(Work::Download),
            background: queue(Work::Background),
            watch: queue(Work::Watch),
        }
    }

    /// How busy the gateway is: the share of turns that are taken, of those queues that clients wait for the most taken one.
    pub fn load(&self) -> f64 {
        let queues = [&self.metadata, &self.small, &self.upload, &self.download];
        queues.into_iter().map(Queue::load).fold(0.0, f64::max)
    }

    /// Waits for a turn, at most [`TURN_DEADLINE`], unless too many wait already.
    pub async fn enter(&self, work: Work) -> Result<Turn, Busy> {
        let queue = match work {
            Work::Metadata => &self.metadata,
            Work::Small => &self.small,
            Work::Upload => &self.upload,
            Work::Download => &self.download,
            Work::Background => &self.background,
            Work::Watch => &self.watch,
        };
        let turn = queue.enter().await;
        if turn.is_err() {
            metrics::counter!("fluffy_queue_refusals_total", "work" => work.name()).increment(1);
        }
        turn
    }
}

impl Queue {
    fn new(bounds: Bounds) -> Queue {
        Queue {
            turns: Arc::new(Semaphore::new(bounds.running_max)),
            running_max: bounds.running_max,
            waiting: Arc::default(),
            waiting_max: bounds.waiting_max,
            pace: Arc::default(),
        }
    }

    fn load(&self) -> f64 {
        1.0 - self.turns.available_permits() as f64 / self.running_max.max(1) as f64
    }

    async fn enter(&self) -> Result<Turn, Busy> {
        if let Ok(permit) = self.turns.clone().try_acquire_owned() {
            return Ok(self.turn(permit));
        }
        if locked(&self.pace).wait_behind(self.waiting.load(Ordering::Relaxed)) > WAIT_MAX {
            return Err(Busy);
        }
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or(Busy)?;
        let permit = timeout(TURN_DEADLINE, self.turns.clone().acquire_owned()).await.map_err(|_| Busy)?;
        permit.map(|permit| self.turn(permit)).map_err(|_| Busy)
    }

    fn turn(&self, permit: OwnedSemaphorePermit) -> Turn {
        Turn { waiting: self.waiting.clone(), pace: self.pace.clone(), _permit: permit }
    }
}

/// A place among those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, waiting_max: usize) -> Option<Place<'a>> {
        let place = Place(waiting);
        // Dropping `place` gives it back where there was none.
        (waiting.fetch_add(1, Ordering::Relaxed) < waiting_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of a process: what `memory_limit` allows for everything that can grow, see [`growing_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Hot chunks.
    pub cache_bytes: u64,
    /// Bodies of requests and responses on their way.
    pub transfer_bytes: u64,
    /// Everything of the storage nodes in this process: write buffers, table caches, overlay.
    pub storage_bytes: u64,
}

impl Budget {
    /// Splits `memory_limit` among the gateway and `nodes` storage nodes in the same process.
    pub fn split(memory_limit: u64, nodes: usize) -> Budget {
        let all = growing_bytes(memory_limit.max(MEMORY_LIMIT_MIN));
        let storage_bytes = if nodes == 0 { 0 } else { all / 2 };
        let gateway = all - storage_bytes;
        Budget { cache_bytes: (gateway / 3).min(4 * GIB), transfer_bytes: gateway / 3 * 2, storage_bytes }
    }

    /// Bounds of a queue within this budget.
    pub fn bounds(&self, work: Work) -> Bounds {
        let fit = |bytes: u64, each: u64, least: usize, most: usize| {
            usize::try_from(bytes / each).unwrap_or(most).clamp(least, most)
        };
        match work {
            Work::Metadata => Bounds { running_max: 256, waiting_max: CONNECTIONS_MAX },
            Work::Small => Bounds {
                running_max: fit(self.transfer_bytes / 3, SMALL_TRANSFER_BYTES, 8, 512),
                waiting_max: CONNECTIONS_MAX,
            },
            Work::Upload => Bounds {
                running_max: fit(self.transfer_bytes / 2, UPLOAD_BYTES_LEAST, 4, 512),
                waiting_max: 512,
            },
            Work::Download => Bounds {
                running_max: fit(self.transfer_bytes / 8, DOWNLOAD_BYTES_LEAST, 4, 1024),
                waiting_max: 512,
            },
            Work::Background => Bounds { running_max: 4, waiting_max: 64 },
            // Each holds a page of events now and then.
            Work::Watch => Bounds { running_max: fit(self.transfer_bytes / 8, MIB, 8, 256), waiting_max: 64 },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn queue(running_max: usize, waiting_max: usize) -> Queue {
        Queue::new(Bounds { running_max, waiting_max })
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once_and_a_long_wait_at_last() {
        let queue = Arc::new(queue(1, 1));
        let turn = queue.enter().await.unwrap();
        let (second, third) = tokio::join!(queue.enter(), queue.enter());
        assert_eq!([second.err(), third.err()], [Some(Busy), Some(Busy)]);
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0, "places are given back");
        drop(turn);
        assert!(queue.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_refused_at_once() {
        let queue = queue(1, 1000);
        // A second of work; whether there was a turn for it, and when that was known.
        let work = async || {
            let began = now();
            let turn = queue.enter().await;
            let known = began.elapsed();
            if turn.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            (turn.is_ok(), known)
        };
        // The queue learns that it moves once a second …
        let first = futures::future::join_all((0..9).map(|_| work())).await;
        assert!(first.iter().all(|(served, _)| *served));
        // … and so lets about four wait.
        let then = futures::future::join_all((0..30).map(|_| work())).await;
        let served = then.iter().filter(|(served, _)| *served).count();
        assert!((4..=6).contains(&served), "{served} of 30 are served");
        let refused = then.iter().filter(|(served, _)| !served);
        assert!(refused.map(|(_, known)| *known).all(|known| known < Duration::from_millis(10)));
        // An idle hour is no slow queue.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        for many in [2, 4] {
            let burst = futures::future::join_all((0..many).map(|_| work())).await;
            assert!(burst.iter().all(|(served, _)| *served));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_end_together_look_no_faster_than_they_are() {
        let queue = queue(4, 1000);
        // Four at a time take a second, and end in one moment.
        let work = async || {
            let turn = queue.enter().await;
            if turn.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            turn.is_ok()
        };
        assert!(futures::future::join_all((0..12).map(|_| work())).await.iter().all(|served| *served));
        let then = futures::future::join_all((0..100).map(|_| work())).await;
        let served = then.iter().filter(|served| **served).count();
        assert!((16..=24).contains(&served), "four are served each second: {served} of 100");
    }

    #[tokio::test]
    async fn turns_are_given_in_the_order_of_waiting() {
        let queue = queue(1, 2);
        let turn = queue.enter().await.unwrap();
        let order = std::cell::RefCell::new(Vec::new());
        let wait = |name: u8| {
            let (queue, order) = (&queue, &order);
            async move {
                let turn = queue.enter().await;
                order.borrow_mut().push(name);
                drop(turn);
            }
        };
        tokio::join!(wait(1), wait(2), async { drop(turn) });
        assert_eq!(order.into_inner(), [1, 2]);
    }

    #[tokio::test]
    async fn the_load_is_that_of_the_fullest_queue() {
        let queues = Queues::new(&Budget::split(512 * MIB, 1));
        assert!(queues.load() == 0.0);
        let of_clients =
            [queues.enter(Work::Metadata).await.unwrap(), queues.enter(Work::Upload).await.unwrap()];
        let expected = 1.0 / queues.upload.running_max.min(queues.metadata.running_max) as f64;
        assert!((queues.load() - expected).abs() < 1e-9, "{}", queues.load());
        let _behind = queues.enter(Work::Background).await.unwrap();
        drop(of_clients);
        assert!(queues.load() == 0.0);
    }

    #[test]
    fn the_budget_stays_within_60_percent() {
        for (limit, nodes) in [(0, 1), (128 * MIB, 0), (512 * MIB, 1), (GIB, 3), (64 * GIB, 1)] {
            let budget = Budget::split(limit, nodes);
            let all = budget.cache_bytes + budget.transfer_bytes + budget.storage_bytes;
            assert!(all <= growing_bytes(limit.max(MEMORY_LIMIT_MIN)), "{budget:?}");
            let least = [(Work::Upload, UPLOAD_BYTES_LEAST), (Work::Download, DOWNLOAD_BYTES_LEAST)];
            for (work, bytes) in least {
                let all = budget.bounds(work).running_max as u64 * bytes;
                assert!(all <= budget.transfer_bytes / 2, "{work:?} in {budget:?}");
            }
        }
    }
}
