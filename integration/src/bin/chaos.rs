//! `cargo chaos`: episodes of faults on real processes; see [`integration::chaos`].
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use integration::chaos::{self, EPISODES, Options};

/// Runs real daemons under faults, with clients whose every operation is judged. Exit code 0: all promises kept; 1: one
/// was broken, or an episode could not be run.
#[derive(Parser)]
struct Arguments {
    /// The episodes to run; all if none is named.
    episodes: Vec<String>,
    /// Show the episodes.
    #[arg(long)]
    list: bool,
    /// Clients at work at once.
    #[arg(long, default_value_t = 16)]
    clients: u16,
    /// Run the episodes so often.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Where random choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of each overload.
    #[arg(long, default_value_t = 30)]
    overload_seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { episodes, list, clients, rounds, seed, overload_seconds } = Arguments::parse();
    let known: Vec<(&str, &str)> = EPISODES.iter().map(|episode| (episode.name, episode.about)).collect();
    if list {
        known.iter().for_each(|(name, about)| println!("{name:<16} {about}"));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = episodes.iter().find(|name| !known.iter().any(|(known, _)| known == name)) {
        eprintln!("no episode is called {unknown}; --list shows them");
        return ExitCode::FAILURE;
    }
    let overload = Duration::from_secs(overload_seconds);
    let options = Options { episodes, clients, rounds, seed, overload };
    // What was lent is given back, and no process stays, when this is interrupted.
    let outcome = tokio::select! {
        outcome = chaos::run(&options) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
