//! What versions cost a listing: `cargo bench-s3 --versions 1000000`.
//!
//! One store with two buckets of the same keys, each key once in the first and in ten versions in the second. Pages of
//! both are listed in turn.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Options;
use super::calibration::calibrate;
use super::cell::Cell;
use super::loader::{DATA, Loader};
use super::report::{self, Report};
use super::target;
use super::workload::{Kind, Workload};
use crate::daemons::Embedded;

/// Versions of each key in the second bucket.
const VERSIONS: u64 = 10;
const CONNECTIONS: usize = 4;
/// The buckets; their names are those of the rows, too.
const ONCE: &str = "list-plain";
const VERSIONED: &str = "list-versioned";

/// Measures and prints a row for each bucket.
pub async fn run(options: &Options, keys: u64) -> Result<()> {
    let mut report = Report::begin(calibrate().await?);
    report.print_head();
    let store = Embedded::start(&["--memory-limit", &options.memory_limit]).await?;
    let target = target::embedded(&store);
    for bucket in [ONCE, VERSIONED] {
        Cell::over(options, &target, row(bucket, keys), bucket.to_string()).create_bucket().await?;
    }
    store.gateway.daemon.kill();
    fill(&store, keys).await?;
    store.gateway.start().await?;

    let target = target::embedded(&store);
    let (warm_up, time) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.seconds));
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds.max(1) {
        for (rows, bucket) in rounds.iter_mut().zip([ONCE, VERSIONED]) {
            let cell = Cell::over(options, &target, row(bucket, keys), bucket.to_string());
            rows.push(cell.run(warm_up, time).await?);
        }
    }
    let [once, versioned] = rounds.map(report::median);
    println!("{once}\n{versioned}");
    println!(
        "a page over {VERSIONS} versions a key costs {:.2} times the CPU and {:.2} times the median of one over single objects",
        versioned.server_cpu_us / once.server_cpu_us,
        versioned.p50_ms / once.p50_ms
    );
    report.rows.extend([once, versioned]);
    super::write_json(options, &report)
}

const fn row(name: &'static str, keys: u64) -> Workload {
    let (kind, connections) = (Kind::List, CONNECTIONS);
    Workload { name, kind, bytes: 0, connections, objects: keys, encrypted: false, class: None }
}

/// All keys once, then version by version.
async fn fill(store: &Embedded, keys: u64) -> Result<()> {
    let names = row(ONCE, keys);
    let all = || (0..keys).map(|number| names.key(number));
    let loader = Loader::open(&store.directory().join(DATA)).await?;
    let began = Instant::now();
    loader.put(loader.bucket(ONCE).await?, all()).await?;
    let bucket = loader.bucket(VERSIONED).await?;
    loader.keep_versions(bucket).await?;
    for _ in 0..VERSIONS {
        loader.put(bucket, all()).await?;
    }
    loader.close().await;
    let objects = keys * (1 + VERSIONS);
    println!(
        "{objects} versions came through `apply`, {:.0} a second",
        objects as f64 / began.elapsed().as_secs_f64()
    );
    Ok(())
}
