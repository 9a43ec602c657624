//! `cargo fuzz`: hostile bytes for everything that reads what others wrote; see [`integration::fuzz`].
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use integration::fuzz::TARGETS;

/// Makes inputs from the corpus and feeds them to parsers. Exit code 0: nothing broke; 1: something did.
#[derive(Parser)]
struct Options {
    /// Which targets; all if none is named.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where random choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep inputs that lead to outcomes not seen before, in integration/corpus.
    #[arg(long)]
    keep: bool,
    /// Show the targets.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        TARGETS.iter().for_each(|target| println!("{:<12} {}", target.name, target.about));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) =
        options.targets.iter().find(|name| !TARGETS.iter().any(|target| target.name == *name))
    {
        println!("no target is called {unknown}; --list shows them");
        return ExitCode::FAILURE;
    }
    // A panic is told with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let mut broken = 0;
    let wanted =
        |name: &str| options.targets.is_empty() || options.targets.iter().any(|target| target == name);
    for target in TARGETS.iter().filter(|target| wanted(target.name)) {
        match target.run(options.seed, u64::MAX, Duration::from_secs(options.seconds), options.keep) {
            Ok(found) => {
                println!(
                    "{:<12} {} inputs, {} outcomes, {} broken",
                    target.name,
                    found.inputs,
                    found.outcomes,
                    found.broken.len()
                );
                for (input, why) in &found.broken {
                    println!("  {why}: {}", input.escape_ascii());
                }
                broken += found.broken.len();
            }
            Err(error) => {
                println!("{}: {error:#}", target.name);
                broken += 1;
            }
        }
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
