//! `cargo verify refill`: a node with 10 GiB lost its disk; how long until all of it is back, idle and under load, and
//! what those who work meanwhile feel of it. Then the same with many small objects.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};
use fabric::limits::INLINE_BYTES_MAX;
use futures::{StreamExt, TryStreamExt};
use hdrhistogram::Histogram;

use super::losses::let_in_again;
use super::{Tally, block_on};
use crate::client::{Client, Pattern, Request};
use crate::conformance::ok;
use crate::daemons::{Cluster, metric};

/// What each of the three nodes holds.
struct Holding {
    prefix: &'static str,
    objects: u64,
    object_bytes: u64,
    uploads: usize,
    /// Lines of the configuration.
    settings: &'static str,
}

const LARGE: Holding =
    Holding { prefix: "refill", objects: 160, object_bytes: 64 << 20, uploads: 4, settings: "" };
/// A little more than what lies in the metadata.
const SMALL: Holding =
    Holding { prefix: "small", objects: 100_000, object_bytes: 20 << 10, uploads: 64, settings: "" };
/// All of them lie in the metadata.
const MANY: Holding =
    Holding { prefix: "many", objects: 1_000_000, object_bytes: 4 << 10, uploads: 64, settings: "" };
/// None of them does.
const MANY_CHUNKS: Holding = Holding { prefix: "chunks", settings: NO_ROOM, ..MANY };
const NO_ROOM: &str = "inline_bytes_max: 0\n";
const BUCKET: &str = super::campaign::BUCKET;
/// The node that loses its disk: its place.
const LOST: usize = 2;
/// Clients at work meanwhile, and what each waits between two objects.
const LOADERS: u64 = 4;
const LOAD_PAUSE: Duration = Duration::from_millis(100);
/// They are measured alone for so long.
const ALONE: Duration = Duration::from_secs(20);
/// Work that nobody waits for makes the slowest requests of clients take at most so many times as long.
const P99_TIMES_MAX: f64 = 2.0;
/// What comes back to an idle node comes at this share of what its disk writes.
const SHARE_OF_DISK_MIN: f64 = 0.5;
/// The first chunk is back within this.
const LISTED_MAX: Duration = Duration::from_secs(10);
/// A file of this size shows what the disk writes.
const PROBE_BYTES: usize = 1 << 30;
const PAUSE: Duration = Duration::from_secs(1);
const METRIC_PAUSE: Duration = Duration::from_millis(100);
/// A measurement that is not over by then failed.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = store_with_bucket(LARGE.settings).await?;
        LARGE.write(&store, tally).await?;
        let before = disk_speed(store.directory())?;
        let idle = refill(&store, tally, "idle", &LARGE).await?;
        let disk = (before + disk_speed(store.directory())?) / 2.0;
        tally.note(format!("the disk writes {disk:.0} MB/s, the mean of before and after"));
        let share = LARGE.megabytes(idle) / disk;
        let fast = if SHARE_OF_DISK_MIN <= share { Ok(()) } else { Err(format!("{:.0} %", share * 100.0)) };
        tally.check("idle: copies come back at half of what the disk writes", fast);
        check(tally, "idle: all copies are there within 2 minutes", idle, 120);
        let pause = async {
            tokio::time::sleep(ALONE).await;
            Ok(())
        };
        let ((), alone) = beside(&store, pause).await?;
        let (loaded, meanwhile) = beside(&store, refill(&store, tally, "under load", &LARGE)).await?;
        check(tally, "under load: all copies are there within 5 minutes", loaded, 300);
        tally.note(format!("objects of 1 MiB written and read alone: {}", figures(&alone)));
        tally.note(format!("and meanwhile: {}", figures(&meanwhile)));
        let times = meanwhile.value_at_quantile(0.99) as f64 / alone.value_at_quantile(0.99) as f64;
        let felt = if times <= P99_TIMES_MAX { Ok(()) } else { Err(format!("{times:.1} times as long")) };
        tally.check("under load: the slowest requests take at most twice as long", felt);

        prove(&store, tally).await?;
        drop(store);

        written_and_lost(&SMALL, "with many small objects", tally).await
    })
}

/// `cargo verify million`: the same with a million objects, in the metadata and as chunks.
pub(super) fn million(tally: &mut Tally) -> Result<()> {
    block_on(async {
        written_and_lost(&MANY, "with a million objects", tally).await?;
        written_and_lost(&MANY_CHUNKS, "with a million chunks", tally).await
    })
}

async fn written_and_lost(holding: &Holding, when: &str, tally: &mut Tally) -> Result<()> {
    let store = store_with_bucket(holding.settings).await?;
    holding.write(&store, tally).await?;
    tally.note(format!("the disk writes {:.0} MB/s", disk_speed(store.directory())?));
    refill(&store, tally, when, holding).await?;
    prove(&store, tally).await
}

async fn store_with_bucket(settings: &str) -> Result<Cluster> {
    let store = Cluster::start(3, 1, settings).await?;
    ok(&Client::new(&store, 0), Request::bucket("PUT", BUCKET)).await.map_err(Error::msg)?;
    Ok(store)
}

async fn prove(store: &Cluster, tally: &mut Tally) -> Result<()> {
    let proof = tokio::task::spawn_blocking(store.operation(&["verify"])).await?;
    tally.check("every byte is proved", proof.map(drop).map_err(|error| format!("{error:#}")));
    Ok(())
}

impl Holding {
    /// Whether its bodies lie beside the metadata.
    fn is_chunks(&self) -> bool {
        self.object_bytes > INLINE_BYTES_MAX as u64 || self.settings == NO_ROOM
    }

    async fn write(&self, store: &Cluster, tally: &mut Tally) -> Result<()> {
        let begin = Instant::now();
        let clients: Vec<Client<'_>> = (0..self.uploads).map(|_| Client::new(store, 0)).collect();
        let puts = futures::stream::iter(0..self.objects).map(|number| {
            let object = Request::object("PUT", BUCKET, &format!("{}/{number}", self.prefix));
            let put = object.generated(Pattern::new(number, self.object_bytes));
            let client = &clients[number as usize % self.uploads];
            async move { ok(client, put).await.map(drop).map_err(Error::msg) }
        });
        puts.buffer_unordered(self.uploads).try_collect::<()>().await?;
        let (objects, bytes) = (self.objects, self.object_bytes);
        tally.note(format!("{objects} objects of {bytes} bytes written at {}", self.rate(begin.elapsed())));
        Ok(())
    }

    fn rate(&self, time: Duration) -> String {
        let objects = self.objects as f64 / time.as_secs_f64();
        format!("{:.0} MB/s, {objects:.0} objects/s", self.megabytes(time))
    }

    /// MB/s of all of it in `time`.
    fn megabytes(&self, time: Duration) -> f64 {
        (self.objects * self.object_bytes) as f64 / 1e6 / time.as_secs_f64()
    }
}

/// Microseconds that requests took.
type Latencies = Histogram<u64>;

fn figures(latencies: &Latencies) -> String {
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    format!("{} requests, p50 {:.1} ms, p99 {:.1} ms", latencies.len(), at(0.5), at(0.99))
}

/// Clients at work while something else happens, and what their requests took.
async fn beside<T>(store: &Cluster, work: impl Future<Output = Result<T>>) -> Result<(T, Latencies)> {
    let stop = AtomicBool::new(false);
    let loaders = (0..LOADERS).map(|loader| put_until(store, loader, &stop));
    let work = async {
        let done = work.await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let (loaded, done) = futures::future::join(futures::future::try_join_all(loaders), work).await;
    let mut all = Latencies::new(3)?;
    for latencies in loaded? {
        all.add(latencies)?;
    }
    Ok((done?, all))
}

/// Writes and reads objects until told to stop, with pauses: a load that others can work beside.
async fn put_until(store: &Cluster, loader: u64, stop: &AtomicBool) -> Result<Latencies> {
    let client = Client::new(store, 0);
    let mut latencies = Latencies::new(3)?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let object = |method: &str| Request::object(method, BUCKET, &format!("load/{loader}-{}", count % 50));
        for request in [object("PUT").generated(Pattern::new(count, 1 << 20)), object("GET")] {
            let begin = Instant::now();
            ok(&client, request).await.map_err(Error::msg)?;
            latencies.record(begin.elapsed().as_micros() as u64)?;
        }
        count += 1;
        tokio::time::sleep(LOAD_PAUSE).await;
    }
    Ok(latencies)
}

fn check(tally: &mut Tally, what: &str, took: Duration, most_seconds: u64) {
    let good = took <= Duration::from_secs(most_seconds);
    tally.check(what, if good { Ok(()) } else { Err(format!("{took:?}")) });
}

/// Takes the disk of a node, puts it in its own place, and waits until the catalog's copies are there.
async fn refill(store: &Cluster, tally: &mut Tally, when: &str, holding: &Holding) -> Result<Duration> {
    store.nodes[LOST].kill();
    fs::remove_dir_all(store.directory().join(format!("node-{}", LOST + 1)))?;
    let_in_again(store, LOST).await?;
    let begin = Instant::now();
    store.restart_node(LOST).await?;
    let is_whole = AtomicBool::new(false);
    let (first, took) = futures::future::try_join(
        async {
            // What lies in the metadata comes with them, and not as chunks.
            while !is_whole.load(Ordering::Relaxed)
                && metric(store.node_admins[LOST], "fluffy_chunks_restored_total").await?.unwrap_or(0.0)
                    == 0.0
            {
                tokio::time::sleep(METRIC_PAUSE).await;
            }
            Ok(begin.elapsed())
        },
        async {
            loop {
                let quick = tokio::task::spawn_blocking(store.operation(&["verify", "--quick"])).await?;
                if quick.is_ok() {
                    is_whole.store(true, Ordering::Relaxed);
                    return Ok(begin.elapsed());
                }
                ensure!(begin.elapsed() < PATIENCE, "{when}: not whole after {PATIENCE:?}: {quick:?}");
                tokio::time::sleep(PAUSE).await;
            }
        },
    )
    .await?;
    tally.note(format!(
        "{when}: refilled in {:.1} s at {}, the first of it after {:.1} s",
        took.as_secs_f64(),
        holding.rate(took),
        first.as_secs_f64()
    ));
    if holding.is_chunks() {
        let what = format!("{when}: the first chunk is back within 10 seconds");
        check(tally, &what, first, LISTED_MAX.as_secs());
    }
    Ok(took)
}

/// MB/s of one file written from end to end and synced.
fn disk_speed(directory: &Path) -> Result<f64> {
    let path = directory.join("probe");
    let begin = Instant::now();
    let mut file = fs::File::create(&path)?;
    let block = Pattern::new(1, 1 << 20).bytes();
    for _ in 0..PROBE_BYTES / block.len() {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let speed = PROBE_BYTES as f64 / 1e6 / begin.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(speed)
}
