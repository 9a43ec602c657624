//! `cargo bench-s3`: an own lean load generator, and the benchmark that is built from it.
//!
//! All connections of a cell live in one thread, keep their TCP connection, share one signing key and count what
//! they do in one histogram: the generator must cost little beside what it measures, and the first line of each run
//! shows what it costs against a server that does nothing. Several targets are measured in turn within one run, in
//! alternating order, so that what the machine does meanwhile hits all of them.

// This is a program that works with the real system: sockets, clocks and processes are its subject.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout)]

mod calibration;
mod cell;
mod connection;
mod empty;
mod garage;
mod grow;
mod loader;
mod measure;
mod overlay;
mod report;
mod search;
pub(crate) mod signer;
mod target;
mod versions;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

pub use report::Report;

use cell::Cell;
use report::Row;
use target::Target;
use workload::Workload;

/// Measures S3 stores side by side in one run. Without `--endpoint` only the three-node cluster of this build.
#[derive(Debug, Parser)]
#[command(name = "cargo bench-s3")]
pub struct Options {
    /// Workloads by name; all without this option. `--list` shows them.
    #[arg(long, value_delimiter = ',')]
    workload: Vec<String>,
    /// Shows the workloads and ends.
    #[arg(long)]
    list: bool,
    /// Another store: `NAME=http://HOST:PORT,ACCESS_KEY,SECRET_KEY[,REGION[,PID+PID…]]`. Processes that are named
    /// are charged for their CPU and memory.
    #[arg(long)]
    endpoint: Vec<String>,
    /// The program of Garage: three nodes of it are started and measured beside.
    #[arg(long)]
    garage: Option<PathBuf>,
    /// Leave the cluster of this build out.
    #[arg(long)]
    without_own: bool,
    /// Seconds that are measured in each cell.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of warm-up before them.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// How often each cell is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests a second in an open loop: latencies count from the time a request was due. Without it each
    /// connection sends its next request when it has the answer.
    #[arg(long)]
    rate: Option<u64>,
    /// Connections, instead of the number that a workload names.
    #[arg(long)]
    connections: Option<usize>,
    /// Sign the bytes of bodies, too, as the aws CLI does without TLS.
    #[arg(long)]
    signed_payload: bool,
    /// Where the results go as JSON, beside the table on the screen.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Instead: each workload at its own connections (and `--rate`), then at so many times as many, then as before.
    #[arg(long, value_name = "TIMES", num_args = 0..=1, default_missing_value = "10")]
    overload: Option<usize>,
    /// Instead of all that: what a store of one node costs with so many small objects, loaded through Raft; one row for
    /// each number, ascending.
    #[arg(long, value_delimiter = ',')]
    grow: Vec<u64>,
    /// Instead: what a page of a listing costs in a bucket of so many keys with ten versions each, beside one of single
    /// objects; loaded through Raft.
    #[arg(long, value_name = "KEYS")]
    versions: Option<u64>,
    /// Instead: what searches cost in a store of one node with so many objects, loaded through Raft; ascending.
    #[arg(long, value_name = "OBJECTS", value_delimiter = ',')]
    search: Vec<u64>,
    /// Instead: what reads cost through the gateway of another cluster.
    #[arg(long)]
    overlay: bool,
    /// `memory_limit` of each process of the own cluster.
    #[arg(long, default_value = "1GiB")]
    memory_limit: String,
}

/// Runs the benchmark and prints its table.
pub fn main(options: &Options) -> Result<()> {
    if options.list {
        for workload in workload::ALL {
            println!("{:<14} {}", workload.name, workload.about());
        }
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: &Options) -> Result<()> {
    if !options.grow.is_empty() {
        return grow::run(options).await;
    }
    if let Some(keys) = options.versions {
        return versions::run(options, keys).await;
    }
    if !options.search.is_empty() {
        return search::run(options).await;
    }
    if options.overlay {
        return overlay::run(options).await;
    }
    let workloads = choose(&options.workload)?;
    let mut report = Report::begin(calibration::calibrate().await?);
    report.print_head();
    let targets = target::start(options).await?;
    ensure!(!targets.is_empty(), "nothing to measure: name an --endpoint, or leave --without-own out");
    for target in &targets {
        report.targets.push(target.describe());
    }
    for workload in workloads {
        let measured = match options.overload {
            Some(times) => overload(options, &targets, workload, times).await?,
            None => measure(options, &targets, workload).await?,
        };
        for row in measured {
            println!("{row}");
            report.rows.push(row);
        }
    }
    write_json(options, &report)
}

/// Writes what was found where `--json` says.
fn write_json(options: &Options, report: &impl serde::Serialize) -> Result<()> {
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<Workload>> {
    if names.is_empty() {
        return Ok(workload::ALL.to_vec());
    }
    let find = |name: &String| {
        let found = workload::ALL.iter().copied().find(|workload| workload.name == name);
        found.with_context(|| format!("no workload {name}; --list shows them"))
    };
    names.iter().map(find).collect()
}

/// A store that was just born costs less: its tables are small. What is compared begins after this.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// One workload before, during and after so many times its connections and its rate.
async fn overload(
    options: &Options,
    targets: &[Target],
    workload: Workload,
    times: usize,
) -> Result<Vec<Row>> {
    let (warm_up, time) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.seconds));
    let mut rows = Vec::new();
    for target in targets {
        let cell = Cell::prepare(options, target, workload).await?;
        let before = cell.run(warm_up.max(STEADY_AFTER), time).await?;
        let during = cell.run_times(times, warm_up, time).await?;
        let after = cell.run(warm_up, time).await?;
        let part = |row: &Row| 100.0 * row.requests_per_s / before.requests_per_s;
        println!(
            "{}, {}: {:.0} % of the rate at {times} times the connections, {} refused (p99 {:.0} ms), {:.0} % after it",
            workload.name,
            target.name,
            part(&during),
            during.refused,
            during.refused_p99_ms,
            part(&after)
        );
        rows.extend([before, during, after]);
    }
    Ok(rows)
}

/// One workload on all targets, in turn, forwards and backwards.
async fn measure(options: &Options, targets: &[Target], workload: Workload) -> Result<Vec<Row>> {
    let mut cells: Vec<Cell> = Vec::new();
    for target in targets {
        cells.push(Cell::prepare(options, target, workload).await?);
    }
    let mut rounds: Vec<Vec<Row>> = targets.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds.max(1) {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let others = targets.iter().enumerate().filter(|(other, _)| *other != index);
            let resting: Vec<_> = others.map(|(_, target)| target.rest()).collect();
            let warm_up = Duration::from_secs(options.warm_up);
            rounds[index].push(cells[index].run(warm_up, Duration::from_secs(options.seconds)).await?);
            drop(resting);
        }
    }
    Ok(rounds.into_iter().map(report::median).collect())
}
