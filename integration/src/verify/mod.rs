//! `cargo verify`: sets up what it needs, runs every stage, prints one summary.
//!
//! A stage counts checks. The last line of the output stands alone and says `N passed, N failed`; the exit
//! code is 0 only if nothing failed.

// This is a program that works with the real system: processes, files and clocks are its subject.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod access_logs;
mod aws_cli_2;
mod campaign;
mod cas;
mod classes;
pub(crate) mod clients;
mod deploy;
mod encryption;
mod figures;
mod flips;
mod full_disk;
mod grow;
mod losses;
mod members;
mod memory;
mod notifications;
pub(crate) mod overlay;
mod quotas;
mod recovery;
mod refill;
mod replace;
mod steps;
mod syncs;
mod upgrade;
mod users;
mod voters;

use std::io::Write;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Counts and names of failures of one stage.
#[derive(Debug, Default)]
pub struct Tally {
    /// Checks that held.
    pub passed: usize,
    /// Names of checks that did not hold, with the reason.
    pub failures: Vec<String>,
    /// Figures and remarks for the summary.
    pub notes: Vec<String>,
    /// Lines for later, where other stages run at the same time.
    held: Option<Vec<String>>,
}

impl Tally {
    /// Counts one check and prints its line.
    pub fn check(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                self.say(format!("  ok    {name}"));
            }
            Err(reason) => {
                self.say(format!("  FAIL  {name}: {reason}"));
                self.failures.push(format!("{name}: {reason}"));
            }
        }
    }

    /// Keeps a remark for the summary, and prints it.
    pub fn note(&mut self, note: String) {
        self.say(format!("  note  {note}"));
        self.notes.push(note);
    }

    fn say(&mut self, line: String) {
        match &mut self.held {
            Some(held) => held.push(line),
            None => say(&line),
        }
    }
}

/// A stage: its name, what it does, and the work.
struct Stage {
    name: &'static str,
    about: &'static str,
    run: fn(&mut Tally) -> Result<()>,
    takes: Takes,
}

/// What a stage takes of the machine. Neighbours that leave something run beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// All: it measures, or works with all processors.
    All,
    /// One processor.
    One,
    /// Less: it waits for what happens in stores more than it works.
    Little,
}

impl Takes {
    /// So many of the kind run beside each other.
    fn lanes(self) -> usize {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        match self {
            Takes::All => 1,
            Takes::One => processors,
            Takes::Little => 2 * processors,
        }
    }
}

/// A stage that has the machine for itself.
const fn alone(name: &'static str, about: &'static str, run: fn(&mut Tally) -> Result<()>) -> Stage {
    Stage { name, about, run, takes: Takes::All }
}

/// A stage of one processor.
const fn single(name: &'static str, about: &'static str, run: fn(&mut Tally) -> Result<()>) -> Stage {
    Stage { name, about, run, takes: Takes::One }
}

/// A stage that waits.
const fn waiting(name: &'static str, about: &'static str, run: fn(&mut Tally) -> Result<()>) -> Stage {
    Stage { name, about, run, takes: Takes::Little }
}

/// The default run, in order; of those that run beside each other the longest come first.
const STAGES: &[Stage] = &[
    single("clippy", "clippy on all targets, warnings denied", steps::clippy),
    single("fmt", "cargo fmt --check", steps::fmt),
    single("setup", "what real clients need, installed", clients::setup),
    alone("build", "the daemons, in the same profile", steps::build),
    alone("tests", "unit, property, golden and Rust client tests", steps::tests),
    single("cluster", "the suite against 3 nodes and 2 gateways", campaign::cluster),
    single("embedded", "the suite against one process", campaign::embedded),
    single("inline", "the suite where small bodies leave the metadata", campaign::inline_room),
    single("config", "wrong configuration is one sentence", campaign::config),
    single("deploy", "units for systemd and the container file fit the daemons", deploy::run),
    alone("failover", "kill -9 of a node and of the leader under load", campaign::failover),
    waiting(
        "replication",
        "buckets that follow others, through kills, cuts and promotion",
        overlay::replicate,
    ),
    waiting("clients", "real clients with their defaults", clients::run),
    waiting("overlay", "three stores that join, and part", overlay::run),
    waiting("overlay-wide", "clusters of several gateways, redirects, room elsewhere", overlay::run_wide),
    waiting("classes", "shards while nodes are lost, drained and added", classes::run),
    waiting("members", "nodes added, drained and removed, under load", members::run),
    waiting("bad-input", "hostile requests over raw sockets", campaign::bad_input),
    waiting("notifications", "webhooks that take and refuse, gateways that are killed", notifications::run),
    waiting("voters", "the cluster chooses who votes: nodes lost, drained, in zones", voters::run),
    waiting("recovery", "two of three voters are lost, the cluster goes on from one", recovery::run),
    waiting("replace", "lost disks, copied directories and moved nodes, under load", replace::run_stage),
    waiting("through", "the suite through a gateway of another cluster", overlay::through),
    waiting("users", "users and keys by the command line, removed ones refused", users::run),
    waiting("losses", "chunk volumes and disks of a node are lost", losses::run),
    waiting("grow", "a store in one process becomes a cluster of three", grow::run),
    waiting("full-disk", "a process on a disk without space", full_disk::run),
    waiting("encryption", "what lies on disks, and master keys that come and go", encryption::run),
    waiting("access-logs", "lines about requests, in another bucket", access_logs::run),
    single("sim", "the simulator on fixed and fresh seeds", steps::sim),
    single("sim-overlay", "simulated overlays on fixed and fresh seeds", steps::sim_overlay),
    single("crash", "50,000 images of power cuts, and canaries that must not go unseen", steps::crash),
];

/// Heavier campaigns, run by name only.
const CAMPAIGNS: &[Stage] = &[
    alone("figures", "start times, failover gap, 5 GiB objects, memory", figures::run),
    alone("crash-images", "1,000,000 images of power cuts", steps::crash_images),
    alone("refill", "a node with 10 GiB lost its disk: how long until it is back", refill::run),
    alone("million", "a node of a cluster with 1,000,000 objects lost its disk", refill::million),
    alone("aws-cli-2", "the aws CLI 2 of Debian testing, with --no-overwrite", aws_cli_2::run),
    alone("archive", "PostgreSQL archived, backed up and restored by pgBackRest over TLS", clients::archive),
    alone(
        "browser",
        "pages of other origins in headless Chromium: forms, presigned URLs, CORS",
        clients::browser,
    ),
    alone("cas", "10,000 rounds of 32 conditional writers, one winner each", cas::run),
    alone(
        "upgrade",
        "a cluster of the earlier release is renewed under load, process by process",
        upgrade::run,
    ),
    alone("flips", "10,000 bits of chunk volumes flip", flips::run),
    alone("memory", "64 uploads of 1 GiB and all else at once, 1 GiB a process enforced", memory::run),
];

/// Runs the stages named in `arguments`, or the default run. Returns whether everything held.
pub fn main(arguments: &[String]) -> bool {
    if arguments.iter().any(|argument| argument == "--list" || argument == "--help") {
        say("cargo verify [STAGE…]: runs all stages, or those named.\n");
        for stage in STAGES.iter().chain(CAMPAIGNS) {
            say(&format!("{:<10} {}", stage.name, stage.about));
        }
        return true;
    }
    let Some(stages) = choose(arguments) else {
        say("unknown stage; `cargo verify --list` shows them");
        return false;
    };
    let mut rows = Vec::new();
    for group in stages.chunk_by(|stage, next| stage.takes != Takes::All && stage.takes == next.takes) {
        match group {
            [stage] => rows.push(run_stage(stage, Tally::default())),
            _ => rows.extend(run_beside(group)),
        }
    }
    summary(&rows)
}

fn choose(arguments: &[String]) -> Option<Vec<&'static Stage>> {
    if arguments.is_empty() {
        return Some(STAGES.iter().collect());
    }
    let find = |name: &String| STAGES.iter().chain(CAMPAIGNS).find(|stage| stage.name == name);
    arguments.iter().map(find).collect()
}

struct Row {
    name: &'static str,
    elapsed: Duration,
    tally: Tally,
}

/// Runs stages of a kind beside each other. The lines of each come when it ends.
fn run_beside(stages: &[&'static Stage]) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let run = || {
        while let Some(stage) = stages.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut row = run_stage(stage, Tally { held: Some(Vec::new()), ..Tally::default() });
            say(&row.tally.held.take().unwrap_or_default().join("\n"));
            rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    };
    let lanes = stages.first().map_or(0, |stage| stage.takes.lanes());
    std::thread::scope(|scope| {
        for _ in 0..lanes.min(stages.len()) {
            scope.spawn(run);
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row| stages.iter().position(|stage| stage.name == row.name));
    rows
}

fn run_stage(stage: &'static Stage, mut tally: Tally) -> Row {
    tally.say(format!("== {}: {}", stage.name, stage.about));
    let begin = Instant::now();
    if let Err(error) = (stage.run)(&mut tally) {
        tally.check(&format!("{}: the stage itself", stage.name), Err(format!("{error:#}")));
    }
    Row { name: stage.name, elapsed: begin.elapsed(), tally }
}

fn summary(rows: &[Row]) -> bool {
    say("\nstage        seconds  passed  failed");
    let (mut passed, mut failed) = (0, 0);
    for row in rows {
        let (good, bad) = (row.tally.passed, row.tally.failures.len());
        say(&format!("{:<12} {:>7.1}  {good:>6}  {bad:>6}", row.name, row.elapsed.as_secs_f64()));
        passed += good;
        failed += bad;
    }
    for row in rows {
        for note in &row.tally.notes {
            say(&format!("note {}: {note}", row.name));
        }
    }
    for row in rows {
        for failure in &row.tally.failures {
            let line: String = failure.lines().next().unwrap_or_default().chars().take(300).collect();
            say(&format!("FAILED {}: {line}", row.name));
        }
    }
    say(&format!("{passed} passed, {failed} failed"));
    failed == 0
}

/// One line to standard output. A closed pipe is not our problem.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Runs async work of a stage on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    // Boxed, as the code of the runtime is made for each kind of work.
    let work: Pin<Box<dyn Future<Output = Result<T>> + '_>> = Box::pin(work);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
