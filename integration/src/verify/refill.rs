//! `cargo verify refill`: a node with 10 GiB lost its disk; how long until all of it is back, idle and under load.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};
use futures::{StreamExt, TryStreamExt};

use super::losses::let_in_again;
use super::{Tally, block_on};
use crate::client::{Client, Pattern, Request};
use crate::conformance::ok;
use crate::daemons::{Cluster, metric};

/// What each of the three nodes holds.
const OBJECTS: u64 = 160;
const OBJECT_BYTES: u64 = 64 << 20;
const UPLOADS: usize = 4;
const BUCKET: &str = super::campaign::BUCKET;
/// The node that loses its disk: its place.
const LOST: usize = 2;
/// Clients at work meanwhile, and what each waits between two objects.
const LOADERS: u64 = 4;
const LOAD_PAUSE: Duration = Duration::from_millis(100);
/// A file of this size shows what the disk writes.
const PROBE_BYTES: usize = 1 << 30;
const PAUSE: Duration = Duration::from_secs(1);
/// A measurement that is not over by then failed.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(3, 1, "").await?;
        ok(&Client::new(&store, 0), Request::bucket("PUT", BUCKET)).await.map_err(Error::msg)?;
        let begin = Instant::now();
        let clients: Vec<Client<'_>> = (0..UPLOADS).map(|_| Client::new(&store, 0)).collect();
        let puts = futures::stream::iter(0..OBJECTS).map(|number| {
            let object = Request::object("PUT", BUCKET, &format!("refill/{number}"));
            let put = object.generated(Pattern::new(number, OBJECT_BYTES));
            let client = &clients[number as usize % UPLOADS];
            async move { ok(client, put).await.map(drop).map_err(Error::msg) }
        });
        puts.buffer_unordered(UPLOADS).try_collect::<()>().await?;
        tally.note(format!("written at {}", rate(begin.elapsed())));
        tally.note(format!("the disk writes {:.0} MB/s", disk_speed(store.directory())?));

        let idle = refill(&store, tally, "idle").await?;
        check(tally, "idle: all copies are there within 2 minutes", idle, 120);
        let stop = AtomicBool::new(false);
        let load = futures::future::try_join_all((0..LOADERS).map(|loader| put_until(&store, loader, &stop)));
        let refilled = async {
            let refilled = refill(&store, tally, "under load").await;
            stop.store(true, Ordering::Relaxed);
            refilled
        };
        let (calls, loaded) = futures::future::join(load, refilled).await;
        let (calls, loaded) = (calls?, loaded?);
        tally.note(format!("meanwhile {} objects of 1 MiB were written and read", calls.iter().sum::<u64>()));
        check(tally, "under load: all copies are there within 5 minutes", loaded, 300);
        let proof = tokio::task::spawn_blocking(store.operation(&["verify"])).await?;
        tally.check("every byte is proved", proof.map(drop).map_err(|error| format!("{error:#}")));
        Ok(())
    })
}

/// Writes and reads objects until told to stop, with pauses: a load that others can work beside.
async fn put_until(store: &Cluster, loader: u64, stop: &AtomicBool) -> Result<u64> {
    let client = Client::new(store, 0);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let object = |method: &str| Request::object(method, BUCKET, &format!("load/{loader}-{}", count % 50));
        ok(&client, object("PUT").generated(Pattern::new(count, 1 << 20))).await.map_err(Error::msg)?;
        ok(&client, object("GET")).await.map_err(Error::msg)?;
        count += 1;
        tokio::time::sleep(LOAD_PAUSE).await;
    }
    Ok(count)
}

fn check(tally: &mut Tally, what: &str, took: Duration, most_seconds: u64) {
    let good = took <= Duration::from_secs(most_seconds);
    tally.check(what, if good { Ok(()) } else { Err(format!("{took:?}")) });
}

/// Takes the disk of a node, puts it in its own place, and waits until the catalog's copies are there.
async fn refill(store: &Cluster, tally: &mut Tally, when: &str) -> Result<Duration> {
    store.nodes[LOST].kill();
    fs::remove_dir_all(store.directory().join(format!("node-{}", LOST + 1)))?;
    let_in_again(store, LOST).await?;
    let begin = Instant::now();
    store.restart_node(LOST).await?;
    let mut first = None;
    loop {
        let restored = metric(store.node_admins[LOST], "fluffy_chunks_restored_total").await?.unwrap_or(0.0);
        if first.is_none() && restored > 0.0 {
            first = Some(begin.elapsed());
        }
        let quick = tokio::task::spawn_blocking(store.operation(&["verify", "--quick"])).await?;
        if quick.is_ok() {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE, "{when}: {restored} chunks after {PATIENCE:?}: {quick:?}");
        tokio::time::sleep(PAUSE).await;
    }
    let took = begin.elapsed();
    let first = first.unwrap_or(took);
    tally.note(format!(
        "{when}: refilled in {:.1} s at {}, the first chunk after {:.1} s",
        took.as_secs_f64(),
        rate(took),
        first.as_secs_f64()
    ));
    Ok(took)
}

fn rate(time: Duration) -> String {
    format!("{:.0} MB/s", (OBJECTS * OBJECT_BYTES) as f64 / 1e6 / time.as_secs_f64())
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
