//! `cargo sim`: runs the simulator on one seed, a range of seeds, the smoke set, or with a planted bug.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use clap::Parser;
use integration::sim::campaign::{self, Campaign};
use integration::sim::overlay::{self, campaign::Overlays};
use integration::sim::plan::Plan;

/// Runs simulated clusters under faults. Exit code 0: all promises kept; 1: a promise broken (or a planted bug not
/// caught); 2: wrong usage.
#[derive(Parser)]
struct Options {
    /// Run this seed, print its story, and run it twice to compare the traces.
    #[arg(long, conflicts_with_all = ["from", "smoke", "planted"])]
    seed: Option<u64>,
    /// Run seeds from this one on.
    #[arg(long)]
    from: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The fixed seeds, some fresh ones, a determinism check and a planted bug: what `cargo verify` runs.
    #[arg(long)]
    smoke: bool,
    /// Plant each known bug (or the one named) and show the seeds that catch it.
    #[arg(long, num_args = 0..=1, default_missing_value = "all")]
    planted: Option<String>,
    /// Tell all named stories (or the one named) to the clusters of the seeds.
    #[arg(long, num_args = 0..=1, default_missing_value = "all", conflicts_with_all = ["seed", "smoke", "planted"])]
    scenario: Option<String>,
    /// Simulate overlays of three clusters instead of one cluster: with any other option but --scenario.
    #[arg(long, conflicts_with = "scenario")]
    overlay: bool,
    /// Make the plan of the seed that fails (--seed N), or of the first one that catches a bug (--planted NAME), as
    /// small as it goes, and keep it in integration/kept, or integration/kept/overlay.
    #[arg(long)]
    minimise: bool,
    /// Run the plans in integration/kept.
    #[arg(long)]
    kept: bool,
    /// Print the whole trace of a failing seed.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut campaign = Campaign::new(options.trace);
    let from = options.seed.or(options.from);
    if options.minimise {
        let (bug, from) = (options.planted.as_deref(), from.unwrap_or(1));
        let minimised = match options.overlay {
            true => campaign.minimise::<overlay::plan::Plan>(bug, from, options.seeds),
            false => campaign.minimise::<Plan>(bug, from, options.seeds),
        };
        if let Err(error) = minimised {
            println!("{error:#}");
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    if options.overlay {
        let mut overlays = Overlays::of(&mut campaign);
        match (options.seed, options.planted) {
            (Some(seed), _) => overlays.one(seed),
            (None, None) if options.smoke => overlays.smoke(),
            (None, None) if options.kept => overlays.kept(),
            (None, Some(bug)) => overlays.planted(&bug, from.unwrap_or(1), options.seeds),
            (None, None) => overlays.range(from.unwrap_or_else(campaign::fresh_seed), options.seeds),
        }
        return ended(&campaign);
    }
    match (options.seed, options.planted, options.scenario) {
        (Some(seed), ..) => campaign.one(seed),
        (None, Some(bug), _) => campaign.planted(&bug, options.from.unwrap_or(1), options.seeds),
        (None, None, Some(name)) => campaign.stories(&name, options.from.unwrap_or(1), options.seeds),
        (None, None, None) if options.smoke => campaign.smoke(),
        (None, None, None) if options.kept => campaign.kept::<Plan>(),
        (None, None, None) => {
            campaign.range(options.from.unwrap_or_else(campaign::fresh_seed), options.seeds)
        }
    }
    ended(&campaign)
}

fn ended(campaign: &Campaign) -> ExitCode {
    println!("{}", campaign.summary());
    if campaign.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
