//! What a run found: as a table on the screen and as JSON.

use std::fmt;

use serde::Serialize;

use super::calibration::Calibration;
use super::target::Described;

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine, measured before.
    pub calibration: Calibration,
    /// What was measured.
    pub targets: Vec<Described>,
    /// A row for each workload and target: of several rounds the one with the median rate.
    pub rows: Vec<Row>,
}

/// One cell. Costs are a request's.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Row {
    pub workload: String,
    pub target: String,
    pub requests_per_s: f64,
    pub megabytes_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    /// CPU of all processes of the target, µs.
    pub server_cpu_us: f64,
    /// CPU of the generator, µs.
    pub generator_cpu_us: f64,
    /// Bytes that reached the disk of the target, with everything else that was written to it meanwhile.
    pub disk_bytes: f64,
    /// Flushes of the disk's cache.
    pub disk_flushes: f64,
    /// Of the largest process, after it.
    pub resident_mib: u64,
    /// Requests that got 503, and how soon.
    pub refused: u64,
    pub refused_p99_ms: f64,
    pub failures: u64,
    /// What the first of them died of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

impl Report {
    /// Nothing but the machine yet.
    pub fn begin(calibration: Calibration) -> Report {
        Report { calibration, targets: Vec::new(), rows: Vec::new() }
    }

    /// The calibration, and the head of the table.
    pub fn print_head(&self) {
        println!("{}", self.calibration);
        println!(
            "{:<12} {:<10} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>7} {:>9} {:>7} {:>6} {:>5}",
            "workload",
            "target",
            "op/s",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "p99.9",
            "server µs",
            "gen µs",
            "disk B",
            "flushes",
            "MiB",
            "fail"
        );
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<12} {:<10} {:>9.0} {:>8.1} {:>8.2} {:>8.2} {:>8.2} {:>9.0} {:>7.1} {:>9.0} {:>7.3} {:>6} {:>5}",
            self.workload,
            self.target,
            self.requests_per_s,
            self.megabytes_per_s,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.server_cpu_us,
            self.generator_cpu_us,
            self.disk_bytes,
            self.disk_flushes,
            self.resident_mib,
            self.failures + self.refused
        )?;
        match &self.first_failure {
            None => Ok(()),
            Some(failure) => write!(f, "\n    the first failure: {failure}"),
        }
    }
}

/// The row with the median rate; at least one is needed.
pub fn median(mut rows: Vec<Row>) -> Row {
    assert!(!rows.is_empty(), "a cell is measured at least once");
    rows.sort_by(|one, other| one.requests_per_s.total_cmp(&other.requests_per_s));
    rows.swap_remove(rows.len() / 2)
}
