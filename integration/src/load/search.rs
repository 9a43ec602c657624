//! What searches cost: `cargo bench-s3 --search 1000000,10000000`.
//!
//! One store of one node. The objects come through Raft and `apply` without an index; then the store starts, builds it
//! while it serves, and queries of several kinds are asked by eight connections. At the end writes come at a fixed rate,
//! and it is measured how soon a new object is found.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Options;
use super::calibration::calibrate;
use super::cell::Cell;
use super::loader::{DATA, Loader};
use super::report::{self, Report};
use super::target;
use super::workload::{Kind, Workload};
use crate::client::{Client, Request, Response};
use crate::daemons::{Embedded, metric};

/// Where the index of the store is, in its data directory.
const INDEX: &str = "node-1/search.redb";
const BUCKET: &str = "bench-search";
const CONNECTIONS: usize = 8;
/// An index that takes longer is not waited for.
const BUILD_PATIENCE: Duration = Duration::from_secs(1800);
const BUILD_PAUSE: Duration = Duration::from_millis(100);
/// Writes a second while it is measured how soon one is found.
const WRITES_PER_S: u64 = 1000;
const PROBES: usize = 100;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// The number of one object.
    Number,
    /// Six digits of a random part: one name, or a few.
    Random,
    /// What is in every name.
    Common,
    /// A glob that a hundred names are like.
    Glob,
    /// A glob that one name is like.
    RareGlob,
    /// What no name has, though all its parts are frequent.
    Nothing,
    /// One letter.
    Letter,
    /// Two letters that no name has.
    NoLetters,
    /// A word with a mistake.
    Fuzzy,
    /// A regular expression.
    Regex,
}

const QUERIES: &[(&str, Query)] = &[
    ("search-number", Query::Number),
    ("search-random", Query::Random),
    ("search-common", Query::Common),
    ("search-glob", Query::Glob),
    ("search-rare-glob", Query::RareGlob),
    ("search-nothing", Query::Nothing),
    ("search-letter", Query::Letter),
    ("search-no-letters", Query::NoLetters),
    ("search-fuzzy", Query::Fuzzy),
    ("search-regex", Query::Regex),
];

impl Query {
    /// The query that has to do with an object, as it stands in a URL.
    pub fn text(self, number: u64) -> String {
        match self {
            Query::Number => format!("img_{number:08}"),
            Query::Random => format!("{:06x}", mixed(number) >> 40),
            Query::Common => "photos".to_string(),
            Query::Glob => format!("name%3A%2A%2Fimg_{:06}%3F%3F-%2A.jpg", number / 100),
            Query::RareGlob => format!("name%3A%2A%2Fimg_{number:08}-%2A.jpg"),
            Query::Nothing => "img_photos".to_string(),
            Query::Letter => "7".to_string(),
            Query::NoLetters => "zz".to_string(),
            Query::Fuzzy => format!("name%3A~user{:04}x", number % 5000),
            Query::Regex => format!("name%3A%2F_{number:08}-%5B0-9a-f%5D%2B%2F"),
        }
    }
}

/// Names as people and their programs give them: 57 bytes, a fourth of them random.
pub fn key(number: u64) -> String {
    let (user, month) = (number % 5000, number / 5000 % 12 + 1);
    format!("photos/2026/{month:02}/user{user:04}/IMG_{number:08}-{:016x}.jpg", mixed(number))
}

fn mixed(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    mixed ^ (mixed >> 32)
}

/// Measures and prints a row for each kind of query and each size.
pub async fn run(options: &Options) -> Result<()> {
    let mut report = Report::begin(calibrate().await?);
    report.print_head();
    let store = Embedded::start(&["--memory-limit", &options.memory_limit]).await?;
    let target = target::embedded(&store);
    Cell::over(options, &target, row("create", Kind::Head, 0), BUCKET.to_string()).create_bucket().await?;
    store.gateway.daemon.kill();
    let mut there = 0;
    for &objects in &options.search {
        ensure!(there <= objects, "--search {objects} comes after {there}: ascending numbers are needed");
        fill(&store, there, objects).await?;
        there = objects;
        store.gateway.start().await?;
        build(&store, objects).await?;
        let target = target::embedded(&store);
        let (warm_up, time) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.seconds));
        for (name, query) in QUERIES {
            let mut rows = Vec::new();
            for _ in 0..options.rounds.max(1) {
                let workload = row(name, Kind::Search(*query), objects);
                let cell = Cell::over(options, &target, workload, BUCKET.to_string());
                rows.push(cell.run(warm_up, time).await?);
            }
            let row = report::median(rows);
            println!("{row}");
            report.rows.push(row);
        }
        freshness(options, &store, objects).await?;
        store.gateway.daemon.kill();
        fs::remove_file(store.directory().join(DATA).join(INDEX))?;
        store.gateway.start().await?;
        rebuild(options, &store, objects).await?;
        store.gateway.daemon.kill();
    }
    super::write_json(options, &report)
}

const fn row(name: &'static str, kind: Kind, objects: u64) -> Workload {
    Workload { name, kind, bytes: 0, connections: CONNECTIONS, objects, encrypted: false, class: None }
}

async fn fill(store: &Embedded, from: u64, to: u64) -> Result<()> {
    let began = Instant::now();
    let loader = Loader::open(&store.directory().join(DATA)).await?;
    loader.put(loader.bucket(BUCKET).await?, (from..to).map(key)).await?;
    loader.close().await;
    let rate = (to - from) as f64 / began.elapsed().as_secs_f64();
    println!("{to} objects are there; they came through `apply`, {rate:.0} a second");
    Ok(())
}

/// Waits until everything is found, and tells what that took.
async fn build(store: &Embedded, objects: u64) -> Result<()> {
    let client = Client::new(store, 0);
    let took = built(&client).await?;
    // What was there before goes when there is nothing else to do.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let file = fs::metadata(store.directory().join(DATA).join(INDEX))?;
    let bytes = file.blocks() * 512;
    let names: u64 = (0..objects.min(1000)).map(|number| key(number).len() as u64).sum();
    let names = names / objects.clamp(1, 1000) * objects;
    println!(
        "the index was built in {:.1} s beside nobody; {:.2} times the bytes of the names ({} MiB on the disk)",
        took.as_secs_f64(),
        bytes as f64 / names as f64,
        bytes >> 20
    );
    let resident = metric(store.gateway.admin, "fluffy_index_documents").await?;
    println!("names in it: {:.0}", resident.unwrap_or(0.0));
    Ok(())
}

/// How long it takes until everything is found.
async fn built(client: &Client<'_>) -> Result<Duration> {
    let began = Instant::now();
    while send(client, search("photos")).await?.status != 200 {
        ensure!(began.elapsed() < BUILD_PATIENCE, "the index is not built after {BUILD_PATIENCE:?}");
        tokio::time::sleep(BUILD_PAUSE).await;
    }
    Ok(began.elapsed())
}

/// The index is gone, and made anew while clients write.
async fn rebuild(options: &Options, store: &Embedded, objects: u64) -> Result<()> {
    let (target, client) = (target::embedded(store), Client::new(store, 0));
    let writing = Workload { connections: 16, bytes: 100, ..row("rebuild-put", Kind::Put, objects) };
    let writing = Cell::over(options, &target, writing, BUCKET.to_string()).at_rate(WRITES_PER_S);
    let time = Duration::from_secs(30);
    let (row, took) = tokio::join!(writing.run(Duration::ZERO, time), built(&client));
    println!("{}", row?);
    let took = took?.as_secs_f64();
    println!("the index was made anew in {took:.1} s beside {WRITES_PER_S} writes a second");
    Ok(())
}

/// How soon a new object is found while others are written.
async fn freshness(options: &Options, store: &Embedded, objects: u64) -> Result<()> {
    let target = target::embedded(store);
    let writing = Workload { connections: 32, bytes: 100, ..row("search-put", Kind::Put, objects) };
    let writing = Cell::over(options, &target, writing, BUCKET.to_string()).at_rate(WRITES_PER_S);
    let probing = async {
        let client = Client::new(store, 0);
        let (mut found, mut as_of) = (Vec::new(), Vec::new());
        for number in 0..PROBES {
            let key = format!("probe/{objects}-{number}-needle");
            let put = send(&client, Request::object("PUT", BUCKET, &key).body("x")).await?;
            ensure!(put.status == 200, "{}", put.describe());
            let began = Instant::now();
            if number % 2 == 0 {
                let index = put.header("x-fluffy-index").context("no index in the answer")?.to_string();
                let answer = send(&client, search(&key).query("as-of", index)).await?;
                ensure!(has(&answer, &key), "not found as of its own write: {}", answer.describe());
                as_of.push(began.elapsed());
            } else {
                while !has(&send(&client, search(&key)).await?, &key) {
                    if Duration::from_secs(30) < began.elapsed() {
                        bail!("{key} is not found after 30 s");
                    }
                }
                found.push(began.elapsed());
            }
        }
        for times in [&mut found, &mut as_of] {
            times.sort();
        }
        let ms = |times: &[Duration], part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
        println!(
            "a new object is found after {:.0} ms (p50), {:.0} ms (p99); asked as new as its write in {:.0} and {:.0} ms",
            ms(&found, 50),
            ms(&found, 99),
            ms(&as_of, 50),
            ms(&as_of, 99)
        );
        anyhow::Ok(())
    };
    let (row, probed) = tokio::join!(writing.run(Duration::ZERO, Duration::from_secs(20)), probing);
    println!("{}", row?);
    probed
}

fn search(query: &str) -> Request {
    Request::bucket("GET", BUCKET).flag("search").query("q", query).query("max-keys", 100)
}

async fn send(client: &Client<'_>, request: Request) -> Result<Response> {
    Ok(client.send(request).await?)
}

fn has(answer: &Response, key: &str) -> bool {
    answer.status == 200 && String::from_utf8_lossy(&answer.body).contains(&format!("<Key>{key}</Key>"))
}
