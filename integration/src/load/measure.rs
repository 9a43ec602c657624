//! What the system says of processes and of the disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ticks of the clock that `/proc` counts CPU in, a second.
const TICKS: u64 = 100;
const SECTOR_BYTES: u64 = 512;

/// CPU that processes used so far, and the memory they have now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processes {
    /// User and system time of all of them.
    pub cpu: Duration,
    /// Resident bytes of the largest.
    pub resident_bytes: u64,
}

impl Processes {
    /// Of those that still run.
    pub fn sample(ids: &[u32]) -> Processes {
        let mut all = Processes::default();
        for id in ids {
            all.cpu += cpu_of(*id).unwrap_or_default();
            all.resident_bytes = all.resident_bytes.max(resident_of(*id).unwrap_or_default());
        }
        all
    }
}

/// CPU that the calling thread used so far; the generator is one thread.
pub fn own_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn cpu_of(id: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

fn resident_of(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? << 10)
}

/// What a disk did so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk {
    /// Bytes written to the device.
    pub written_bytes: u64,
    /// Flushes of its cache: what syncs come to.
    pub flushes: u64,
}

impl Disk {
    /// The whole device on which `path` lies; zeros where the system does not say.
    pub fn sample(path: &Path) -> Disk {
        Disk::of(path).unwrap_or_default()
    }

    fn of(path: &Path) -> Option<Disk> {
        let device = rustix::fs::stat(path).ok()?.st_dev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let text = fs::read_to_string("/proc/diskstats").ok()?;
        let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = fields.into_iter().find(|fields| {
            let number = |place: usize| fields.get(place).and_then(|field| field.parse::<u32>().ok());
            (number(0), number(1)) == (Some(major), Some(minor))
        })?;
        let field = |place: usize| row.get(place).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Some(Disk { written_bytes: field(9) * SECTOR_BYTES, flushes: field(18) })
    }
}
