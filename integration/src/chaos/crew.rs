//! The clients of an episode: workers of this process, and others that work through the AWS SDK for Python and the aws
//! CLI.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use super::Row;
use crate::client::Target;
use crate::daemons::{Cluster, ROOT, repository};
use crate::history::{Condition, Listing, Moment, Outcome, Value, Violation};
use crate::sim::random::SimRandom;
use crate::verify::clients::python;
use crate::worker::{Added, Book, Operated, PUT_SHARDS, Scene, Task, Worker};

/// The bucket of all episodes.
pub const BUCKET: &str = "chaos";
/// A request is given up after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Hot keys of an episode.
const KEYS: u16 = 24;
/// A worker takes new keys after so many operations of all, so that no history grows long.
const OPERATIONS_PER_PREFIX: u64 = 2_000;
/// After an episode every gateway has to serve within this.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// The clients that others wrote read all their keys once more within this.
const LAST_LOOK_DEADLINE: Duration = Duration::from_secs(180);

/// What the workers of an episode share.
pub struct Crew {
    name: String,
    book: Mutex<Book>,
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

/// What workers measured.
struct Seen {
    operations: u64,
    unserved: u64,
    /// When each worker was served last.
    served_at: BTreeMap<String, Instant>,
    longest_gap: Duration,
    slowest: (Duration, &'static str),
    puts: Histogram<u64>,
    shard_puts: Histogram<u64>,
    gets: Histogram<u64>,
    violations: Vec<String>,
}

impl Crew {
    /// A crew for one episode; `name` is in all its keys.
    pub fn new(name: String) -> Result<Crew> {
        let histogram = || Histogram::new_with_max(60_000_000, 3).context("a histogram");
        let seen = Seen {
            operations: 0,
            unserved: 0,
            served_at: BTreeMap::new(),
            longest_gap: Duration::ZERO,
            slowest: (Duration::ZERO, "none"),
            puts: histogram()?,
            shard_puts: histogram()?,
            gets: histogram()?,
            violations: Vec::new(),
        };
        Ok(Crew { name, book: Mutex::default(), stop: AtomicBool::new(false), seen: Mutex::new(seen) })
    }

    /// Workers work on `store` while `story` happens.
    pub async fn work_during<T>(
        &self,
        store: &Cluster,
        clients: u16,
        seed: u64,
        story: impl Future<Output = T>,
    ) -> T {
        let workers = (0..clients).map(|number| self.work(store, number, seed));
        let story = async {
            let outcome = story.await;
            self.stop.store(true, Ordering::Relaxed);
            outcome
        };
        futures::future::join(story, futures::future::join_all(workers)).await.0
    }

    async fn work(&self, store: &Cluster, number: u16, seed: u64) {
        let random = SimRandom::new(seed, &format!("{} worker {number}", self.name));
        let name = format!("worker {number}");
        self.seen().served_at.insert(name.clone(), Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            let part = self.seen().operations / OPERATIONS_PER_PREFIX;
            let worker = Worker { name: name.clone(), ..self.worker(store, &random, part) };
            let begin = Instant::now();
            let operated = worker.operate().await;
            self.note_operated(operated, begin);
            if !operated.served {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// A client was served last at `served_before`.
    pub fn note_gap(&self, served_before: Instant) {
        let mut seen = self.seen();
        seen.longest_gap = seen.longest_gap.max(served_before.elapsed());
    }

    /// An operation that began at `begin`.
    pub fn note_operated(&self, operated: Operated, begin: Instant) {
        let mut seen = self.seen();
        seen.operations += 1;
        seen.slowest = seen.slowest.max((begin.elapsed(), operated.operation));
        let micros = begin.elapsed().as_micros() as u64;
        match operated {
            Operated { served: false, .. } => seen.unserved += 1,
            Operated { operation: "put", .. } => seen.puts.saturating_record(micros),
            Operated { operation: PUT_SHARDS, .. } => seen.shard_puts.saturating_record(micros),
            Operated { operation: "get", .. } => seen.gets.saturating_record(micros),
            _ => {}
        }
    }

    /// One that works on a part of the keys.
    pub fn worker<'a>(&'a self, store: &'a Cluster, random: &'a SimRandom, part: u64) -> Worker<'a> {
        let prefix = format!("{}/{part}/", self.name);
        let task = Task { bucket: BUCKET.to_string(), prefix, keys: KEYS, patience: PATIENCE };
        Worker { scene: self, target: store, random, task, name: String::new() }
    }

    /// After the episode: every gateway serves and shows everything that was promised.
    pub async fn audit(&self, store: &Cluster) {
        let random = SimRandom::new(0, "audit");
        let keys = self.book().history.keys();
        let parts = self.seen().operations / OPERATIONS_PER_PREFIX;
        for gateway in 0..store.gateways() {
            let worker = self.worker(store, &random, 0);
            if tokio::time::timeout(CONVERGENCE, worker.until_served(gateway)).await.is_err() {
                self.violate(format!("not live: gateway {} does not serve afterwards", gateway + 1));
                return;
            }
            for key in &keys {
                if !worker.get_until_answered(gateway, key).await {
                    self.violate(format!("not live: {key} cannot be read afterwards"));
                    return;
                }
            }
            for part in 0..=parts {
                self.worker(store, &random, part).list(gateway).await;
            }
            self.seen().operations += keys.len() as u64 + parts + 1;
        }
    }

    /// Judges everything.
    pub fn row(&self, episode: &'static str) -> Row {
        let (book, seen) = (self.book(), self.seen());
        let mut violations = seen.violations.clone();
        violations.extend(book.history.judge().into_iter().map(|Violation(what)| what));
        Row {
            episode,
            operations: seen.operations,
            unknown: book.history.unknowns,
            unserved: seen.unserved,
            longest_gap: seen.longest_gap,
            put_p99: Duration::from_micros(seen.puts.value_at_quantile(0.99)),
            get_p99: Duration::from_micros(seen.gets.value_at_quantile(0.99)),
            violations,
            notes: vec![format!(
                "the slowest, of all its requests, was a {} of {} ms; p99 of PUTs of shards: {:.1} ms",
                seen.slowest.1,
                seen.slowest.0.as_millis(),
                seen.shard_puts.value_at_quantile(0.99) as f64 / 1e3
            )],
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scene for Crew {
    /// Nanoseconds of the machine's monotonic clock, which all its processes share.
    fn moment(&self) -> Moment {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, _line: &str) {}

    fn violate(&self, what: String) {
        self.seen().violations.push(what);
    }

    /// Judged as a whole at the end: other processes write the history, too.
    fn added(&self, _what: Added<'_>) {}

    /// An operation may be many requests, as a listing of many pages is: what clients wait for is each answer.
    fn answered(&self, worker: &str, served: bool) {
        let mut seen = self.seen();
        let Seen { served_at, longest_gap, .. } = &mut *seen;
        // Who looks at everything afterwards is no client of the episode.
        let Some(at) = served_at.get_mut(worker) else { return };
        *longest_gap = at.elapsed().max(*longest_gap);
        if served {
            *at = Instant::now();
        }
    }
}

/// A process that works through a client that others wrote and records what it did, a JSON line an operation.
pub struct Script {
    client: &'static str,
    child: Child,
    output: PathBuf,
}

/// The clients that `chaos_client.py` works through.
const SCRIPTS: &[&str] = &["boto3", "aws"];

/// A line of its record.
#[derive(Debug, Deserialize)]
struct Line {
    operation: String,
    #[serde(default)]
    key: String,
    /// The body written or read; 0: none.
    #[serde(default)]
    id: u64,
    /// What had to be there: `any`, `none`, or an id.
    #[serde(default)]
    condition: String,
    #[serde(default)]
    outcome: String,
    #[serde(default)]
    shown: Vec<String>,
    began: Moment,
    ended: Moment,
}

impl Script {
    /// Starts one for each client; they work on keys of their own, through all gateways, until [`Script::finish`].
    pub fn all(store: &Cluster, crew: &Crew) -> Result<Vec<Script>> {
        SCRIPTS.iter().map(|client| Script::start(client, store, crew)).collect()
    }

    fn start(client: &'static str, store: &Cluster, crew: &Crew) -> Result<Script> {
        let output = store.directory().join(format!("{}-{client}.jsonl", crew.name.replace('/', "-")));
        let endpoints: Vec<String> =
            (0..store.gateways()).map(|gateway| format!("http://{}", store.host(gateway))).collect();
        let mut command = Command::new(python()?);
        command
            .arg(repository().join("integration/clients/chaos_client.py"))
            .arg(client)
            .arg(&output)
            .args([BUCKET, &format!("{}/{client}/", crew.name)])
            .args(endpoints)
            .env("HOME", store.directory()) // Nobody's own settings.
            .env("AWS_ACCESS_KEY_ID", ROOT.0)
            .env("AWS_SECRET_ACCESS_KEY", ROOT.1)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
            .stdin(Stdio::piped());
        Ok(Script { client, child: command.spawn().context("start python")?, output })
    }

    /// Ends it and adds its record to the crew's history.
    pub async fn finish(mut self, crew: &Crew) -> Result<()> {
        drop(self.child.stdin.take()); // It works until its input ends.
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().context("wait for python")? {
                break status;
            }
            ensure!(begin.elapsed() < LAST_LOOK_DEADLINE, "{} does not end", self.client);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if !status.success() {
            crew.violate(format!("{} ended with {status}", self.client));
        }
        add_record(crew, &self.output)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Where the episode ended early nobody waits for its record.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn add_record(crew: &Crew, record: &Path) -> Result<()> {
    let text = std::fs::read_to_string(record).with_context(|| format!("read {}", record.display()))?;
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).with_context(|| format!("parse {line}"))?;
        let value = if line.id == 0 { Value::Absent } else { Value::Written(line.id) };
        let mut seen = crew.seen();
        seen.operations += 1;
        seen.unserved += u64::from(line.outcome == "unknown");
        drop(seen);
        let history = &mut crew.book().history;
        match line.operation.as_str() {
            "get" => history.read(&line.key, value, line.began, line.ended),
            "list" => history.listed(Listing {
                prefix: line.key,
                shown: line.shown,
                began: line.began,
                ended: line.ended,
            }),
            "write" => {
                let condition = match line.condition.as_str() {
                    "any" => Condition::None,
                    "none" => Condition::Absent,
                    id => Condition::Holds(id.parse().context("a condition")?),
                };
                let outcome = match line.outcome.as_str() {
                    "acknowledged" => Outcome::Acknowledged,
                    "refused" => Outcome::Refused,
                    "condition failed" => Outcome::ConditionFailed,
                    _ => Outcome::Unknown,
                };
                let write = history.begin(&line.key, value, condition, line.began);
                history.end(&write, outcome, line.ended);
            }
            other => anyhow::bail!("a client recorded {other}"),
        }
    }
    Ok(())
}
