//! Chaos: real daemons, each in a network of its own where the system lends one, behind bad networks, killed, paused,
//! starved and cut off, while real clients read and write; every operation is recorded and judged. `cargo chaos` runs
//! episodes and prints a table.

// This is a program that works with the real system: processes, files, sockets and clocks are its subject.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod arena;
mod cables;
mod clocks;
mod crew;
mod episodes;
mod ground;
mod overload;
mod power;
mod scarce;
mod stealing;
mod wires;

use std::time::Duration;

use anyhow::Result;

pub use episodes::EPISODES;

use crate::verify::say;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of episodes; empty: all.
    pub episodes: Vec<String>,
    /// Clients that work at once.
    pub clients: u16,
    /// How often the chosen episodes are run, one after the other.
    pub rounds: u64,
    /// What is random comes from this.
    pub seed: u64,
    /// How long there is overload.
    pub overload: Duration,
}

/// What came of one episode.
#[derive(Debug, Default, Clone)]
pub struct Row {
    /// Its name.
    pub episode: &'static str,
    /// Operations, the audit at its end included.
    pub operations: u64,
    /// Writes whose outcome their client does not know.
    pub unknown: u64,
    /// Operations that the store did not serve: no answer, or one with a status of 500 or more.
    pub unserved: u64,
    /// The longest time that one client went without being served.
    pub longest_gap: Duration,
    /// 99 of 100 PUTs of copies took no longer.
    pub put_p99: Duration,
    /// 99 of 100 GETs took no longer.
    pub get_p99: Duration,
    /// Broken promises.
    pub violations: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// Runs episodes; returns whether all promises were kept.
pub async fn run(options: &Options) -> Result<bool> {
    let mut rows = Vec::new();
    for round in 0..options.rounds {
        rows.extend(arena::run(options, round).await?);
    }
    Ok(table(&rows))
}

fn chosen(options: &Options, name: &str) -> bool {
    options.episodes.is_empty() || options.episodes.iter().any(|chosen| chosen == name)
}

fn table(rows: &[Row]) -> bool {
    say(&format!(
        "\n{:<18} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "episode", "ops", "unknown", "unserved", "gap ms", "PUT p99", "GET p99", "violations"
    ));
    for row in rows {
        say(&row.line());
    }
    for row in rows {
        row.notes.iter().for_each(|note| say(&format!("note {}: {note}", row.episode)));
    }
    for row in rows {
        row.violations.iter().for_each(|what| say(&format!("VIOLATION {}: {what}", row.episode)));
    }
    let operations: u64 = rows.iter().map(|row| row.operations).sum();
    let violations: usize = rows.iter().map(|row| row.violations.len()).sum();
    say(&format!("{operations} operations in {} episodes, {violations} violations", rows.len()));
    violations == 0
}

impl Row {
    fn line(&self) -> String {
        format!(
            "{:<18} {:>8} {:>8} {:>9} {:>9} {:>9.1} {:>9.1} {:>10}",
            self.episode,
            self.operations,
            self.unknown,
            self.unserved,
            self.longest_gap.as_millis(),
            self.put_p99.as_secs_f64() * 1e3,
            self.get_p99.as_secs_f64() * 1e3,
            self.violations.len()
        )
    }
}
