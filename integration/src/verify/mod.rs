//! `cargo verify`: sets up what it needs, runs every stage, prints one summary.
//!
//! A stage counts checks. The last line of the output stands alone and says `N passed, N failed`; the exit
//! code is 0 only if nothing failed.

// This is a program that works with the real system: processes, files and clocks are its subject.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod access_logs;
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
}

impl Tally {
    /// Counts one check and prints its line.
    pub fn check(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                say(&format!("  ok    {name}"));
            }
            Err(reason) => {
                say(&format!("  FAIL  {name}: {reason}"));
                self.failures.push(format!("{name}: {reason}"));
            }
        }
    }

    /// Keeps a remark for the summary, and prints it.
    pub fn note(&mut self, note: String) {
        say(&format!("  note  {note}"));
        self.notes.push(note);
    }
}

/// A stage: its name, what it does, and the work.
struct Stage {
    name: &'static str,
    about: &'static str,
    run: fn(&mut Tally) -> Result<()>,
}

/// The default run, in order.
const STAGES: &[Stage] = &[
    Stage { name: "fmt", about: "cargo fmt --check", run: steps::fmt },
    Stage { name: "clippy", about: "clippy on all targets, warnings denied", run: steps::clippy },
    Stage { name: "build", about: "the daemons, in the same profile", run: steps::build },
    Stage { name: "tests", about: "unit, property, golden and Rust client tests", run: steps::tests },
    Stage { name: "config", about: "wrong configuration is one sentence", run: campaign::config },
    Stage {
        name: "deploy",
        about: "units for systemd and the container file fit the daemons",
        run: deploy::run,
    },
    Stage { name: "embedded", about: "the suite against one process", run: campaign::embedded },
    Stage {
        name: "inline",
        about: "the suite where small bodies leave the metadata",
        run: campaign::inline_room,
    },
    Stage { name: "cluster", about: "the suite against 3 nodes and 2 gateways", run: campaign::cluster },
    Stage {
        name: "users",
        about: "users and keys by the command line, removed ones refused",
        run: users::run,
    },
    Stage {
        name: "encryption",
        about: "what lies on disks, and master keys that come and go",
        run: encryption::run,
    },
    Stage {
        name: "notifications",
        about: "webhooks that take and refuse, gateways that are killed",
        run: notifications::run,
    },
    Stage { name: "access-logs", about: "lines about requests, in another bucket", run: access_logs::run },
    Stage { name: "overlay", about: "three stores that join, and part", run: overlay::run },
    Stage {
        name: "replication",
        about: "buckets that follow others, through kills, cuts and promotion",
        run: overlay::replicate,
    },
    Stage { name: "bad-input", about: "hostile requests over raw sockets", run: campaign::bad_input },
    Stage {
        name: "failover",
        about: "kill -9 of a node and of the leader under load",
        run: campaign::failover,
    },
    Stage {
        name: "replace",
        about: "lost disks, copied directories and moved nodes, under load",
        run: replace::run_stage,
    },
    Stage {
        name: "recovery",
        about: "two of three voters are lost, the cluster goes on from one",
        run: recovery::run,
    },
    Stage { name: "members", about: "nodes added, drained and removed, under load", run: members::run },
    Stage {
        name: "voters",
        about: "the cluster chooses who votes: nodes lost, drained, in zones",
        run: voters::run,
    },
    Stage { name: "classes", about: "shards while nodes are lost, drained and added", run: classes::run },
    Stage { name: "grow", about: "a store in one process becomes a cluster of three", run: grow::run },
    Stage { name: "full-disk", about: "a process on a disk without space", run: full_disk::run },
    Stage { name: "losses", about: "chunk volumes and disks of a node are lost", run: losses::run },
    Stage { name: "clients", about: "real clients with their defaults", run: clients::run },
    Stage { name: "sim", about: "the simulator on fixed and fresh seeds", run: steps::sim },
    Stage {
        name: "crash",
        about: "50,000 images of power cuts, and canaries that must not go unseen",
        run: steps::crash,
    },
];

/// Heavier campaigns, run by name only.
const CAMPAIGNS: &[Stage] = &[
    Stage { name: "figures", about: "start times, failover gap, 5 GiB objects, memory", run: figures::run },
    Stage { name: "crash-images", about: "1,000,000 images of power cuts", run: steps::crash_images },
    Stage {
        name: "refill",
        about: "a node with 10 GiB lost its disk: how long until it is back",
        run: refill::run,
    },
    Stage {
        name: "archive",
        about: "PostgreSQL archived, backed up and restored by pgBackRest over TLS",
        run: clients::archive,
    },
    Stage {
        name: "browser",
        about: "pages of other origins in headless Chromium: forms, presigned URLs, CORS",
        run: clients::browser,
    },
    Stage { name: "cas", about: "10,000 rounds of 32 conditional writers, one winner each", run: cas::run },
    Stage {
        name: "upgrade",
        about: "a cluster of the earlier release is renewed under load, process by process",
        run: upgrade::run,
    },
    Stage { name: "flips", about: "10,000 bits of chunk volumes flip", run: flips::run },
    Stage {
        name: "memory",
        about: "64 uploads of 1 GiB and all else at once, 1 GiB a process enforced",
        run: memory::run,
    },
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
    for stage in stages {
        rows.push(run_stage(stage));
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

fn run_stage(stage: &'static Stage) -> Row {
    say(&format!("== {}: {}", stage.name, stage.about));
    let begin = Instant::now();
    let mut tally = Tally::default();
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
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
