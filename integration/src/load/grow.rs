//! What a store costs as it grows: `cargo bench-s3 --grow 100000,1000000`.
//!
//! One node, small rows. The objects come through Raft and `apply`, proposed in this process without HTTP; then the
//! gateway serves them, and what a request costs is measured. At the end of each size the store is killed under load
//! and started again.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use consensus::raft::machine::{Machine, MachineConfig};
use fabric::disks::SystemDisks;
use fabric::env::SystemEnv;
use openraft::storage::RaftStateMachine;
use serde::Serialize;

use super::Options;
use super::calibration::{self, Calibration};
use super::cell::Cell;
use super::loader::{DATA, Loader};
use super::target;
use super::workload::{Kind, Workload};
use crate::daemons::{Embedded, metric, scratch};

const BUCKET: &str = "bench-grow";
/// A store is killed when it has worked for so long after the last measurement.
const UNDER_LOAD: Duration = Duration::from_secs(3);

/// One size.
#[derive(Debug, Serialize)]
struct Size {
    objects: u64,
    /// Objects a second that came through `apply`.
    loaded_per_s: f64,
    /// From the start of the process to its first good answer.
    start_ms: f64,
    /// CPU of the store and requests a second.
    put_us: f64,
    put_per_s: f64,
    get_us: f64,
    get_per_s: f64,
    list_us: f64,
    list_per_s: f64,
    /// The last checkpoint under that load.
    checkpoint_ms: f64,
    /// Reading and installing a snapshot, as for a follower that is too far behind, but without the network.
    snapshot_ms: f64,
    resident_mib: u64,
    disk_bytes_per_object: f64,
    /// After kill -9 under load.
    restart_ms: f64,
}

#[derive(Debug, Serialize)]
struct Growth {
    calibration: Calibration,
    sizes: Vec<Size>,
}

/// Measures all sizes and prints a row for each.
pub async fn run(options: &Options) -> Result<()> {
    let mut growth = Growth { calibration: calibration::calibrate().await?, sizes: Vec::new() };
    println!("{}", growth.calibration);
    println!(
        "{:>9} {:>9} {:>8} | {:>7} {:>7} | {:>7} {:>7} | {:>7} {:>7} | {:>8} {:>7} {:>5} {:>8} {:>8}",
        "objects",
        "loaded/s",
        "start ms",
        "PUT µs",
        "PUT/s",
        "GET µs",
        "GET/s",
        "LIST µs",
        "LIST/s",
        "chkpt ms",
        "snap ms",
        "MiB",
        "disk B/o",
        "kill ms"
    );
    let store = Embedded::start(&["--memory-limit", &options.memory_limit]).await?;
    let bucket = row(Kind::Put, 32, 0);
    Cell::over(options, &target::embedded(&store), bucket, BUCKET.to_string()).create_bucket().await?;
    store.gateway.daemon.kill();
    let mut there = 0;
    for &objects in &options.grow {
        if objects < there {
            bail!("--grow {objects} comes after {there}: ascending numbers are needed");
        }
        let size =
            one(options, &store, there, objects).await.with_context(|| format!("{objects} objects"))?;
        println!("{size}");
        growth.sizes.push(size);
        there = objects;
    }
    super::write_json(options, &growth)
}

const fn row(kind: Kind, connections: usize, objects: u64) -> Workload {
    Workload { name: "grow", kind, bytes: 100, connections, objects, encrypted: false, class: None }
}

async fn one(options: &Options, store: &Embedded, there: u64, objects: u64) -> Result<Size> {
    let data = store.directory().join(DATA);
    let began = Instant::now();
    let names = row(Kind::Put, 1, 0);
    let loader = Loader::open(&data).await?;
    let bucket = loader.bucket(BUCKET).await?;
    loader.put(bucket, (there..objects).map(|number| names.key(number))).await?;
    loader.close().await;
    let loaded_per_s = (objects - there) as f64 / began.elapsed().as_secs_f64();
    let snapshot = snapshot(&data.join("node-1")).await?;
    let start = store.gateway.start().await?;
    let target = target::embedded(store);
    let (warm_up, time) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.seconds));
    let cell =
        |kind, connections| Cell::over(options, &target, row(kind, connections, objects), BUCKET.to_string());
    let get = cell(Kind::Get, 32).run(warm_up, time).await?;
    let list = cell(Kind::List, 4).run(warm_up, time).await?;
    let writing = cell(Kind::Put, 32);
    let put = writing.run(warm_up, time).await?;
    let checkpoint = metric(store.gateway.admin, "fluffy_checkpoint_seconds").await?.unwrap_or(0.0);
    let disk = disk_bytes(&data)?;
    let restart = killed_under_load(store, &writing).await?;
    Ok(Size {
        objects,
        loaded_per_s,
        start_ms: start.as_secs_f64() * 1e3,
        put_us: put.server_cpu_us,
        put_per_s: put.requests_per_s,
        get_us: get.server_cpu_us,
        get_per_s: get.requests_per_s,
        list_us: list.server_cpu_us,
        list_per_s: list.requests_per_s,
        checkpoint_ms: checkpoint * 1e3,
        snapshot_ms: snapshot.as_secs_f64() * 1e3,
        resident_mib: put.resident_mib,
        disk_bytes_per_object: disk as f64 / objects as f64,
        restart_ms: restart.as_secs_f64() * 1e3,
    })
}

/// Kills the store while it is written to, and starts it again.
async fn killed_under_load(store: &Embedded, writing: &Cell<'_>) -> Result<Duration> {
    let kill = async {
        tokio::time::sleep(UNDER_LOAD).await;
        store.gateway.daemon.kill();
    };
    // The requests of the end fail, which is no error of theirs.
    let (_, ()) = tokio::join!(writing.run(UNDER_LOAD, Duration::ZERO), kill);
    let restart = store.gateway.start().await?;
    store.gateway.daemon.kill();
    Ok(restart)
}

/// How long it takes to bring the tables in `directory` into new ones, as a snapshot.
async fn snapshot(directory: &Path) -> Result<Duration> {
    let open = async |directory: &Path| {
        let (env, disks) = (Arc::new(SystemEnv::default()), Arc::new(SystemDisks));
        let opened = Machine::open(env, disks, directory, MachineConfig::default()).await?;
        anyhow::Ok(opened.run(None))
    };
    let copy = scratch("snapshot-")?;
    let (mut source, mut target) = (open(directory).await?, open(copy.path()).await?);
    let found = source.get_current_snapshot().await?.context("there is no checkpoint")?;
    let began = Instant::now();
    target.install_snapshot(&found.meta, found.snapshot).await?;
    let took = began.elapsed();
    source.tables().close();
    target.tables().close();
    Ok(took)
}

/// What all files under a directory take.
fn disk_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { disk_bytes(&entry.path())? } else { found.blocks() * 512 };
    }
    Ok(bytes)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>9} {:>9.0} {:>8.0} | {:>7.0} {:>7.0} | {:>7.0} {:>7.0} | {:>7.0} {:>7.0} | {:>8.0} {:>7.0} {:>5} {:>8.0} {:>8.0}",
            self.objects,
            self.loaded_per_s,
            self.start_ms,
            self.put_us,
            self.put_per_s,
            self.get_us,
            self.get_per_s,
            self.list_us,
            self.list_per_s,
            self.checkpoint_ms,
            self.snapshot_ms,
            self.resident_mib,
            self.disk_bytes_per_object,
            self.restart_ms
        )
    }
}
