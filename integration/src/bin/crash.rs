//! `cargo crash`: crash images of the log, of redb and of the chunk store; see [`integration::sim::crash`].
#![allow(clippy::print_stdout, clippy::disallowed_methods)] // A command line with a clock for its rate.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use integration::sim::crash::{PLANTED, Setting, Tally, Target, story};
use integration::sim::disk::DiskFaults;

/// Cuts the power at random moments and opens what is left. Exit code 0: all promises kept; 1: one was broken,
/// or (with --canary) lost writes were not noticed.
#[derive(Parser)]
struct Options {
    /// Stop after so many images of each target.
    #[arg(long, default_value_t = 1000)]
    images: u64,
    /// First seed; each seed is one story. A campaign goes on with the seed that the one before names.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value_t = Choice::All)]
    target: Choice,
    /// Disks that lie about four of five syncs: every target must report losses.
    #[arg(long)]
    canary: bool,
    /// Plant each known bug and name the first seed that shows it: every one must be found.
    #[arg(long)]
    planted: bool,
}

/// Seeds in which a planted bug must show.
const PLANTED_SEEDS: u64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Log,
    Rows,
    Chunks,
    All,
}

impl Choice {
    fn targets(self) -> Vec<Target> {
        match self {
            Choice::Log => vec![Target::Log],
            Choice::Rows => vec![Target::Rows],
            Choice::Chunks => vec![Target::Chunks],
            Choice::All => Target::ALL.to_vec(),
        }
    }
}

fn main() -> ExitCode {
    // A panic is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let options = Options::parse();
    if options.planted {
        return plant(options.seed);
    }
    let failed: Vec<bool> =
        options.target.targets().into_iter().map(|target| run(target, &options)).collect();
    if failed.contains(&true) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn plant(from: u64) -> ExitCode {
    let mut unseen = 0;
    for (bug, what, target) in PLANTED {
        let planted = Setting { planted: Some(bug), ..Setting::default() };
        let shows = |seed: u64| Some((seed, story(*target, seed, planted).1.err()?));
        match (from..from + PLANTED_SEEDS).find_map(shows) {
            Some((seed, violation)) => println!("{bug} ({what}): seen by seed {seed}: {}", violation.0),
            None => {
                unseen += 1;
                println!("{bug} ({what}): not seen by {PLANTED_SEEDS} seeds from {from} on");
            }
        }
    }
    if unseen > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs stories of one target. `true`: that is bad news.
fn run(target: Target, options: &Options) -> bool {
    let faults = if options.canary {
        DiskFaults { sync_lie_percent: 80, ..DiskFaults::default() }
    } else {
        DiskFaults::default()
    };
    let setting = Setting { faults, planted: None };
    let begin = Instant::now();
    let (mut all, mut seed, mut passed, mut failed) = (Tally::default(), options.seed, 0, 0);
    while all.images < options.images {
        let (tally, told) = story(target, seed, setting);
        all.add(&tally);
        match told {
            Ok(()) => passed += 1,
            Err(violation) => {
                failed += 1;
                if !options.canary {
                    let name = target.name();
                    println!("FAILED: crash --target {name} --seed {seed} --images 1: {}", violation.0);
                }
            }
        }
        seed += 1;
    }
    let rate = all.images as f64 / begin.elapsed().as_secs_f64().max(1e-9);
    println!(
        "{}: {} images ({} in recovery, {} kills), {rate:.0} images/s; {} bits flipped, {} reported, {} missing; \
         next seed {seed}",
        target.name(),
        all.images,
        all.in_recovery,
        all.kills,
        all.rots,
        all.rots_reported,
        all.rots_missing
    );
    println!("{}: {passed} passed, {failed} failed", target.name());
    if options.canary { failed == 0 } else { failed > 0 }
}
