//! One workload on one target: makes what has to be there, then drives all connections for a while and counts.

use std::cell::{Cell as Counter, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use hdrhistogram::Histogram;

use super::Options;
use super::connection::Connection;
use super::measure::{Disk, Processes, own_cpu};
use super::report::Row;
use super::signer::{Request, Signer};
use super::target::Target;
use super::workload::{Kind, Workload};
use crate::client;

/// Connections that make the objects before.
const FILLERS: usize = 16;
/// Latencies from a microsecond to ten minutes, in steps of a thousandth.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Bodies up to this size go out behind their head, in one write.
const JOINED_BYTES_MAX: usize = 64 << 10;
/// A bucket's default of encryption with keys of the store.
const SSE_S3: &str = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
     <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
/// Requests that may fail in one cell; a broken target ends the run.
const FAILURES_MAX: u64 = 1_000;

/// See the file's head.
pub struct Cell<'a> {
    target: &'a Target,
    workload: Workload,
    shared: Rc<Shared>,
    connections: usize,
    rate: Option<u64>,
}

/// What the connections of a cell share; all of them live in one thread.
struct Shared {
    signer: RefCell<Signer>,
    bucket: String,
    body: Vec<u8>,
    /// The number of the next object that is written or removed.
    next: Counter<u64>,
    /// State of the draws that choose objects to read.
    random: Counter<u64>,
}

/// What one stretch of time came to.
struct Counts {
    latencies: Histogram<u64>,
    bytes: u64,
    /// Of requests that were told to come later.
    refusals: Histogram<u64>,
    failures: u64,
    first_failure: Option<String>,
}

/// What became of a request.
enum Sent {
    /// It succeeded and moved so many bytes.
    Done(u64),
    /// 503: come later.
    Refused,
}

impl Sent {
    fn must(self) -> Result<u64> {
        match self {
            Sent::Done(bytes) => Ok(bytes),
            Sent::Refused => bail!("refused with 503"),
        }
    }
}

impl<'a> Cell<'a> {
    /// Makes a bucket of its own and the objects that the workload reads.
    pub async fn prepare(options: &Options, target: &'a Target, workload: Workload) -> Result<Cell<'a>> {
        let bucket = format!("bench-{}-{}", workload.name, since_1970().as_millis());
        let cell = Cell::over(options, target, workload, bucket);
        cell.shared.next.set(0);
        cell.fill_bucket().await?;
        Ok(cell)
    }

    /// Makes the bucket with what the workload reads.
    pub async fn fill_bucket(&self) -> Result<()> {
        self.create_bucket().await?;
        if self.workload.encrypted {
            self.encrypt().await.context("encrypt what is to come")?;
        }
        let fillers = (0..FILLERS as u64).map(|filler| self.fill(filler));
        try_join_all(fillers).await.context("make objects").map(drop)
    }

    /// Takes a bucket that holds the objects of the workload; what is written is new.
    pub fn over(options: &Options, target: &'a Target, workload: Workload, bucket: String) -> Cell<'a> {
        let (key, secret) = (&target.access_key, &target.secret_key);
        let host = target.address.to_string();
        let signer = Signer::new(&host, key, secret, &target.region, options.signed_payload);
        let shared = Rc::new(Shared {
            signer: RefCell::new(signer),
            bucket,
            body: workload.body(),
            next: Counter::new(workload.objects),
            random: Counter::new(1),
        });
        let connections = options.connections.unwrap_or(workload.connections);
        Cell { target, workload, shared, connections, rate: options.rate }
    }

    /// With so many requests a second, whatever the options say.
    pub fn at_rate(self, rate: u64) -> Cell<'a> {
        Cell { rate: Some(rate), ..self }
    }

    /// Makes the bucket.
    pub async fn create_bucket(&self) -> Result<()> {
        let path = format!("/{}", self.shared.bucket);
        let mut connection = Connection::new(self.target.address);
        self.send(&mut connection, "PUT", &path, "", &[]).await?.must().context("create a bucket").map(drop)
    }

    /// Lets the bucket encrypt what comes. A setting needs a digest of its body, which the lean signer does not send.
    async fn encrypt(&self) -> Result<()> {
        let target = self.target;
        let signer = client::Signer {
            credentials: Some(client::Credentials::new(&target.access_key, &target.secret_key)),
            region: target.region.clone(),
            service: "s3".to_string(),
            host: target.address.to_string(),
            at_ms: since_1970().as_millis() as u64,
        };
        let request = client::Request::bucket("PUT", &self.shared.bucket).flag("encryption");
        let wire = signer.sign(request.body(SSE_S3).content_md5());
        let answer = Connection::new(target.address).exchange(&wire.bytes(), &[], "PUT").await?;
        ensure!(answer.status == 200, "status {}", answer.status);
        Ok(())
    }

    async fn fill(&self, filler: u64) -> Result<()> {
        let mut connection = Connection::new(self.target.address);
        for number in (filler..self.workload.objects).step_by(FILLERS) {
            let path = self.object(number);
            self.send(&mut connection, "PUT", &path, "", &self.shared.body).await?.must()?;
        }
        Ok(())
    }

    fn object(&self, number: u64) -> String {
        format!("/{}/{}", self.shared.bucket, self.workload.key(number))
    }

    /// One request.
    async fn send(
        &self,
        connection: &mut Connection,
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<Sent> {
        let mut head = Vec::with_capacity(1024);
        // A bucket has no class.
        let class = self.workload.class.filter(|_| !body.is_empty());
        let request = Request { method, path, query, body, class };
        self.shared.signer.borrow_mut().head(&mut head, &request, since_1970());
        let joined = body.len() <= JOINED_BYTES_MAX;
        if joined {
            head.extend_from_slice(body);
        }
        let answer = connection.exchange(&head, if joined { &[] } else { body }, method).await?;
        match answer.status {
            503 => Ok(Sent::Refused),
            200..300 => Ok(Sent::Done(answer.bytes + body.len() as u64)),
            status => bail!("{method} {path}: status {status}"),
        }
    }

    /// The next request of the workload.
    async fn step(&self, connection: &mut Connection) -> Result<Sent> {
        let shared = &self.shared;
        match self.workload.kind {
            Kind::Put => {
                let path = self.object(draw_next(&shared.next));
                self.send(connection, "PUT", &path, "", &shared.body).await
            }
            Kind::Get => self.send(connection, "GET", &self.object(self.any()), "", &[]).await,
            Kind::Head => self.send(connection, "HEAD", &self.object(self.any()), "", &[]).await,
            Kind::Delete => {
                let path = self.object(draw_next(&shared.next));
                self.send(connection, "DELETE", &path, "", &[]).await
            }
            Kind::Search(query) => {
                let query = format!("max-keys=100&q={}&search=", query.text(self.any()));
                self.send(connection, "GET", &format!("/{}", shared.bucket), &query, &[]).await
            }
            Kind::List => {
                let after = self.workload.key(self.any()).replace('/', "%2F");
                let query = format!("list-type=2&max-keys=1000&start-after={after}");
                self.send(connection, "GET", &format!("/{}", shared.bucket), &query, &[]).await
            }
        }
    }

    /// The number of an object that is there.
    fn any(&self) -> u64 {
        let random = &self.shared.random;
        random.set(
            random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407),
        );
        (random.get() >> 33) % self.workload.objects
    }

    /// Warms up, then measures for `time`.
    pub async fn run(&self, warm_up: Duration, time: Duration) -> Result<Row> {
        self.run_times(1, warm_up, time).await
    }

    /// The same with so many times the connections and the rate.
    pub async fn run_times(&self, factor: usize, warm_up: Duration, time: Duration) -> Result<Row> {
        self.drive(factor, warm_up).await?;
        let (cpu, disk) = (Processes::sample(&self.target.processes), Disk::sample(&self.target.data));
        let (own, begin) = (own_cpu(), Instant::now());
        let counts = self.drive(factor, time).await?;
        let elapsed = begin.elapsed();
        let after = Processes::sample(&self.target.processes);
        let disk_after = Disk::sample(&self.target.data);
        let requests = counts.latencies.len().max(1) as f64;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let latency = |quantile: f64| counts.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(Row {
            workload: self.workload.name.to_string(),
            target: self.target.name.clone(),
            requests_per_s: counts.latencies.len() as f64 / elapsed.as_secs_f64(),
            megabytes_per_s: counts.bytes as f64 / elapsed.as_secs_f64() / 1e6,
            p50_ms: latency(0.5),
            p99_ms: latency(0.99),
            p999_ms: latency(0.999),
            server_cpu_us: micros(after.cpu.saturating_sub(cpu.cpu)) / requests,
            generator_cpu_us: micros(own_cpu().saturating_sub(own)) / requests,
            disk_bytes: (disk_after.written_bytes - disk.written_bytes) as f64 / requests,
            disk_flushes: (disk_after.flushes - disk.flushes) as f64 / requests,
            resident_mib: after.resident_bytes >> 20,
            refused: counts.refusals.len(),
            refused_p99_ms: counts.refusals.value_at_quantile(0.99) as f64 / 1000.0,
            failures: counts.failures,
            first_failure: counts.first_failure,
        })
    }

    async fn drive(&self, factor: usize, time: Duration) -> Result<Counts> {
        let begin = Instant::now();
        // Of an open loop: how many requests were given out.
        let given = Counter::new(0);
        let rate = self.rate.map(|rate| rate * factor as u64);
        let connections = (0..self.connections * factor).map(|_| self.work(begin, time, rate, &given));
        let mut all = Counts::new()?;
        for counts in join_all(connections).await {
            all.add(counts?)?;
        }
        let failed = all.first_failure.as_deref().unwrap_or_default();
        ensure!(all.failures <= FAILURES_MAX, "{} requests failed; the first: {failed}", all.failures);
        Ok(all)
    }

    async fn work(
        &self,
        begin: Instant,
        time: Duration,
        rate: Option<u64>,
        given: &Counter<u64>,
    ) -> Result<Counts> {
        let mut counts = Counts::new()?;
        let mut connection = Connection::new(self.target.address);
        loop {
            let due = match rate {
                None => Instant::now(),
                Some(rate) => begin + Duration::from_secs_f64(draw_next(given) as f64 / rate as f64),
            };
            if due.duration_since(begin) >= time || begin.elapsed() >= time || self.used_up() {
                return Ok(counts);
            }
            tokio::time::sleep_until(due.into()).await;
            match self.step(&mut connection).await {
                Ok(Sent::Done(bytes)) => {
                    counts.bytes += bytes;
                    counts.latencies.saturating_record(due.elapsed().as_micros() as u64);
                }
                Ok(Sent::Refused) => counts.refusals.saturating_record(due.elapsed().as_micros() as u64),
                Err(error) => counts.failed(&error),
            }
        }
    }

    /// Whether there is nothing left to remove.
    fn used_up(&self) -> bool {
        self.workload.kind == Kind::Delete && self.shared.next.get() >= self.workload.objects
    }
}

impl Counts {
    fn new() -> Result<Counts> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
        Ok(Counts { refusals: latencies.clone(), latencies, bytes: 0, failures: 0, first_failure: None })
    }

    fn add(&mut self, other: Counts) -> Result<()> {
        self.latencies.add(other.latencies)?;
        self.refusals.add(other.refusals)?;
        self.bytes += other.bytes;
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        Ok(())
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| format!("{error:#}"));
    }
}

fn draw_next(counter: &Counter<u64>) -> u64 {
    let number = counter.get();
    counter.set(number + 1);
    number
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
