//! What this machine can do at all, measured before each run: figures mean nothing without it.

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use md5::Md5;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::connection::Connection;
use super::empty;
use super::measure::own_cpu;
use super::signer::{Request, Signer};
use crate::daemons::scratch;

const SYNCS: usize = 300;
const BLOCK_BYTES: usize = 1 << 20;
const DISK_BYTES: usize = 256 << 20;
const HASH_BYTES: usize = 64 << 20;
const LOOPBACK_BYTES: usize = 512 << 20;
const EMPTY_REQUESTS: u32 = 40_000;
/// As many as the workloads of small objects have.
const EMPTY_CONNECTIONS: usize = 32;

/// The machine.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Calibration {
    /// Of this build.
    pub version: &'static str,
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    /// A write of 4 KiB and a sync, in a file that was filled before.
    pub sync_p50_us: f64,
    pub sync_p99_us: f64,
    /// Written in blocks of 1 MiB and synced at the end.
    pub disk_mb_per_s: f64,
    pub sha256_mb_per_s: f64,
    pub md5_mb_per_s: f64,
    /// One stream through loopback, both ends.
    pub loopback_mb_per_s: f64,
    /// A signed request to a server that does nothing: how many a second, and the generator's CPU for one.
    pub empty_requests_per_s: f64,
    pub empty_generator_us: f64,
}

/// Takes a few seconds.
pub async fn calibrate() -> Result<Calibration> {
    let (sync_p50_us, sync_p99_us, disk_mb_per_s) = disk()?;
    let (empty_requests_per_s, empty_generator_us) = against_nothing().await?;
    let block = vec![7; BLOCK_BYTES];
    Ok(Calibration {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        processor: processor(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string(),
        sync_p50_us,
        sync_p99_us,
        disk_mb_per_s,
        sha256_mb_per_s: hashed(|| Sha256::digest(&block)),
        md5_mb_per_s: hashed(|| Md5::digest(&block)),
        loopback_mb_per_s: loopback()?,
        empty_requests_per_s,
        empty_generator_us,
    })
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or_else(String::new, |(_, name)| name.to_string())
}

/// p50 and p99 of a small synced write in µs, and MB/s of a long one.
fn disk() -> Result<(f64, f64, f64)> {
    let directory = scratch("calibration-")?;
    let file = fs::File::create_new(directory.path().join("file")).context("create a file to calibrate")?;
    let zeros = vec![0; 64 << 10];
    for place in 0..64 {
        file.write_all_at(&zeros, place * zeros.len() as u64)?;
    }
    file.sync_all()?;
    let mut times = Vec::new();
    for place in 0..SYNCS as u64 {
        let begin = Instant::now();
        file.write_all_at(&[1; 4096], place * 4096)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let block = vec![1; BLOCK_BYTES];
    let begin = Instant::now();
    for place in 0..(DISK_BYTES / BLOCK_BYTES) as u64 {
        file.write_all_at(&block, place * BLOCK_BYTES as u64)?;
    }
    file.sync_data()?;
    let disk = DISK_BYTES as f64 / 1e6 / begin.elapsed().as_secs_f64();
    Ok((micros(times[SYNCS / 2]), micros(times[SYNCS * 99 / 100]), disk))
}

fn hashed<D>(digest: impl Fn() -> D) -> f64 {
    let begin = Instant::now();
    (0..HASH_BYTES / BLOCK_BYTES).for_each(|_| drop(std::hint::black_box(digest())));
    HASH_BYTES as f64 / 1e6 / begin.elapsed().as_secs_f64()
}

fn loopback() -> Result<f64> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = std::net::TcpStream::connect(address)?;
        let block = vec![1; 256 << 10];
        (0..LOOPBACK_BYTES / block.len()).try_for_each(|_| stream.write_all(&block))
    });
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 256 << 10];
    let (begin, mut received) = (Instant::now(), 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            bytes => received += bytes,
        }
    }
    let speed = received as f64 / 1e6 / begin.elapsed().as_secs_f64();
    sender.join().ok().context("the sender panicked")??;
    Ok(speed)
}

/// One connection to the server that does nothing.
async fn against_nothing() -> Result<(f64, f64)> {
    let address = empty::start()?;
    let signer = RefCell::new(Signer::new(&address.to_string(), "ACCESS", "secret", "us-east-1", false));
    let requests = async |first: u32| {
        let mut connection = Connection::new(address);
        let mut head = Vec::new();
        for number in (first..EMPTY_REQUESTS).step_by(EMPTY_CONNECTIONS) {
            head.clear();
            let path = format!("/bucket/{number}");
            let now = Duration::from_secs(1_795_000_000);
            let request = Request { method: "GET", path: &path, query: "", body: &[], class: None };
            signer.borrow_mut().head(&mut head, &request, now);
            connection.exchange(&head, &[], "GET").await?;
        }
        anyhow::Ok(())
    };
    let (own, begin) = (own_cpu(), Instant::now());
    try_join_all((0..EMPTY_CONNECTIONS as u32).map(requests)).await?;
    let count = f64::from(EMPTY_REQUESTS);
    let cpu = own_cpu().saturating_sub(own).as_secs_f64() * 1e6 / count;
    Ok((count / begin.elapsed().as_secs_f64(), cpu))
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "fluffy {}, {} cores, {}, Linux {}",
            self.version, self.cores, self.processor, self.kernel
        )?;
        writeln!(
            f,
            "sync of 4 KiB {:.0} µs (p99 {:.0}), disk {:.0} MB/s, loopback {:.0} MB/s, SHA-256 {:.0} MB/s, MD5 {:.0} MB/s",
            self.sync_p50_us,
            self.sync_p99_us,
            self.disk_mb_per_s,
            self.loopback_mb_per_s,
            self.sha256_mb_per_s,
            self.md5_mb_per_s
        )?;
        write!(
            f,
            "generator: {:.1} µs of CPU a request against a server that does nothing, {:.0} requests a second",
            self.empty_generator_us, self.empty_requests_per_s
        )
    }
}
