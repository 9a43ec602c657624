//! Ten times the clients that keep a store busy, for a while: what it still does, whom it refuses and how soon, and
//! that it does as much as before when they are gone.
//!
//! Clients share the processors with the store, so they are cheap: connections are kept, the payload is not signed, and
//! a body is sent only when it is asked for. They come before the store where they may: on machines of their own they
//! would not wait for its processors either. One who is refused waits as long as he is told.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fabric::net::BoxStream;
use futures::future::{join, join_all};
use hdrhistogram::Histogram;
use rustix::process::{getpriority_process, setpriority_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::arena::{Arena, Stage};
use super::crew::{BUCKET, Crew};
use crate::client::{Response, Target, exchange_on, read_response};
use crate::daemons::ROOT;
use crate::history::{Condition, Outcome, Value, body};
use crate::load::signer::{Request, Signer};
use crate::sim::random::SimRandom;
use crate::worker::{Operated, Scene, outcome_of};

/// How much more there is in an overload.
const TIMES: usize = 10;
/// Until a store does what it can, and no more than it can for long: one that was just born costs less.
const WARM_UP: Duration = Duration::from_secs(30);
/// The peak is the mean of so many seconds.
const PEAK: usize = 10;
/// It has to be as fast as before within this.
const RECOVERY: usize = 30;
/// That is, in the mean of so many seconds on end.
const WINDOW: usize = 5;
/// A request is given up after this.
const PATIENCE: Duration = Duration::from_secs(30);
/// What one who is refused hears: `Retry-After: 1`.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Niceness of the clients.
const PRIORITY: i32 = -10;
/// How late the clients are themselves is looked at so often.
const TICK: Duration = Duration::from_millis(10);
const ANSWER_HEAD_BYTES_MAX: usize = 4096;

/// The bars.
const GOODPUT_MIN: f64 = 0.80;
const RECOVERED_MIN: f64 = 0.95;
const REFUSAL_MAX: Duration = Duration::from_millis(100);

/// Requests of one kind.
struct Load {
    name: &'static str,
    /// Connections that keep the store busy.
    connections: usize,
    /// Of the body of each PUT.
    bytes: usize,
    /// Of a hundred requests so many are PUTs of a client's own key; the others GET the key of one of the first.
    puts: u64,
}

/// Small requests, of which more than can run at once wait. And uploads, of which so many at once are more than may wait.
const LOADS: [Load; 2] = [
    Load { name: "small", connections: 256, bytes: 4 << 10, puts: 50 },
    Load { name: "uploads", connections: 100, bytes: (1 << 20) + 16, puts: 100 },
];

/// Tells the episode.
pub(super) async fn tell(on: Stage<'_>) -> Result<Vec<String>> {
    let before = getpriority_process(None)?;
    // Only root may; what it comes to is told with the figures.
    let is_first = setpriority_process(None, PRIORITY).is_ok();
    let told = tell_all(on).await;
    if is_first {
        setpriority_process(None, before)?;
    }
    told
}

async fn tell_all(on: Stage<'_>) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for load in &LOADS {
        let run = Run::new(on, load)?;
        let times = run.drive(on.options.overload).await;
        let tally = run.tally.into_inner();
        let verdict = Verdict::of(&tally, &times);
        notes.push(format!("{}: {}", load.name, verdict.figures()));
        notes.push(format!("{}: {}", load.name, tally.seconds(&times)));
        verdict.missed().into_iter().for_each(|bar| on.crew.violate(format!("{}: {bar}", load.name)));
    }
    Ok(notes)
}

/// Seconds of the tally: where each part begins and ends.
struct Times {
    peak: usize,
    overload: usize,
    after: usize,
    end: usize,
}

/// What happened in one second.
#[derive(Default, Clone, Copy)]
struct Second {
    good: u32,
    refused: u32,
    failed: u32,
}

struct Tally {
    begin: Instant,
    seconds: Vec<Second>,
    /// Microseconds that refusals took.
    refusals: Histogram<u64>,
    /// Microseconds that the clients were late by for want of a processor, while there were the many: refusals seem to
    /// have taken as much longer.
    lateness: Histogram<u64>,
}

struct Run<'a> {
    arena: &'a Arena,
    crew: &'a Crew,
    load: &'a Load,
    signers: Vec<RefCell<Signer>>,
    /// As long as a body, whose bytes are not signed.
    blank: Vec<u8>,
    random: SimRandom,
    tally: RefCell<Tally>,
}

/// Of microseconds.
fn latencies() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, PATIENCE.as_micros() as u64, 3).context("a histogram")
}

/// How a request ended.
enum Answer {
    Got(Response),
    Lost,
}

impl<'a> Run<'a> {
    fn new(on: Stage<'a>, load: &'a Load) -> Result<Run<'a>> {
        let signer = |gateway| {
            RefCell::new(Signer::new(&on.arena.store.host(gateway), ROOT.0, ROOT.1, "us-east-1", false))
        };
        let begin = Instant::now();
        let tally = Tally { begin, seconds: Vec::new(), refusals: latencies()?, lateness: latencies()? };
        Ok(Run {
            arena: on.arena,
            crew: on.crew,
            load,
            signers: (0..on.arena.store.gateways()).map(signer).collect(),
            blank: vec![0; load.bytes],
            random: SimRandom::new(on.options.seed, load.name),
            tally: RefCell::new(tally),
        })
    }

    /// The usual clients all the time, the many others in between.
    async fn drive(&self, overload: Duration) -> Times {
        let (ended, calm) = (AtomicBool::new(false), AtomicBool::new(false));
        let usual = self.load.connections;
        let second = || self.tally.borrow().begin.elapsed().as_secs() as usize;
        let story = async {
            tokio::time::sleep(WARM_UP).await;
            let peak = second();
            tokio::time::sleep(Duration::from_secs(PEAK as u64 + 1)).await;
            let more = join_all((usual..usual * TIMES).map(|number| self.client(number, &calm)));
            let overload_at = second() + 1;
            let stop = async {
                tokio::time::sleep(overload + Duration::from_secs(1)).await;
                let at = second();
                calm.store(true, Ordering::Relaxed);
                at
            };
            let ((after, _), ()) = join(join(stop, more), self.watch_lateness(&calm)).await;
            tokio::time::sleep(Duration::from_secs(RECOVERY as u64)).await;
            ended.store(true, Ordering::Relaxed);
            Times { peak, overload: overload_at, after, end: second() }
        };
        join(story, join_all((0..usual).map(|number| self.client(number, &ended)))).await.0
    }

    /// Sees how late it is called itself, until it is told to stop.
    async fn watch_lateness(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let due = Instant::now() + TICK;
            tokio::time::sleep(TICK).await;
            let late = due.elapsed().as_micros() as u64;
            self.tally.borrow_mut().lateness.saturating_record(late);
        }
    }

    /// One connection, until it is told to stop.
    async fn client(&self, number: usize, stop: &AtomicBool) {
        let gateway = number % self.signers.len();
        let mut stream = None;
        let mut served_at = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let (operation, answer) = if self.random.below(100) < self.load.puts {
                ("put", self.put(gateway, number, &mut stream).await)
            } else {
                let other = self.random.below(self.load.connections as u64) as usize;
                ("get", self.get(gateway, other, &mut stream).await)
            };
            let status = match &answer {
                Answer::Got(response) => response.status,
                Answer::Lost => 0,
            };
            let served = (200..500).contains(&status);
            self.crew.note_operated(Operated { operation, served }, begin);
            self.crew.note_gap(served_at);
            self.tally.borrow_mut().note(status, begin.elapsed());
            if served {
                served_at = Instant::now();
            } else {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }

    fn key(&self, number: usize) -> String {
        format!("overload-{}/{number:04}", self.load.name)
    }

    async fn put(&self, gateway: usize, number: usize, stream: &mut Option<BoxStream>) -> Answer {
        let key = self.key(number);
        let (write, id) = {
            let now = self.crew.moment();
            let mut book = self.crew.book();
            book.last_write += 1;
            let id = book.last_write;
            (book.history.begin(&key, Value::Written(id), Condition::None, now), id)
        };
        let answer = self.send(gateway, "PUT", &key, Some(id), stream).await;
        let outcome = match &answer {
            Answer::Got(response) => outcome_of(Some(response)),
            Answer::Lost => Outcome::Unknown,
        };
        self.crew.book().history.end(&write, outcome, self.crew.moment());
        answer
    }

    async fn get(&self, gateway: usize, number: usize, stream: &mut Option<BoxStream>) -> Answer {
        let key = self.key(number);
        let began = self.crew.moment();
        let answer = self.send(gateway, "GET", &key, None, stream).await;
        let Answer::Got(response) = &answer else { return answer };
        let value = match response.status {
            200 => match body::read(&response.body) {
                Ok(id) => Value::Written(id),
                Err(flaw) => {
                    self.crew.violate(format!("{key}: a read returned a flawed body: {flaw:?}"));
                    return answer;
                }
            },
            404 => Value::Absent,
            _ => return answer,
        };
        self.crew.book().history.read(&key, value, began, self.crew.moment());
        answer
    }

    /// One request on a kept connection; a new one where there is none. With the id of a write its body goes along.
    async fn send(
        &self,
        gateway: usize,
        method: &str,
        key: &str,
        id: Option<u64>,
        stream: &mut Option<BoxStream>,
    ) -> Answer {
        let sent = tokio::time::timeout(PATIENCE, self.exchange(gateway, method, key, id, stream.take()));
        match sent.await {
            Ok(Ok((response, kept))) => {
                *stream = kept.filter(|_| !response.closes());
                Answer::Got(response)
            }
            Ok(Err(_)) | Err(_) => Answer::Lost,
        }
    }

    async fn exchange(
        &self,
        gateway: usize,
        method: &str,
        key: &str,
        id: Option<u64>,
        stream: Option<BoxStream>,
    ) -> Result<(Response, Option<BoxStream>)> {
        let mut stream = match stream {
            Some(stream) => stream,
            None => self.arena.store.connect(gateway).await?,
        };
        let bytes = if id.is_some() { self.load.bytes } else { 0 };
        let head = self.head(gateway, method, key, bytes);
        let Some(id) = id else {
            let done = exchange_on(stream, &head, method, false).await?;
            return Ok((done.response, Some(done.stream)));
        };
        if bytes <= SMALL_BYTES {
            let whole = [&head[..], &body::make(id, bytes)].concat();
            let done = exchange_on(stream, &whole, method, false).await?;
            return Ok((done.response, done.sent_all.then_some(done.stream)));
        }
        stream.write_all(&head).await?;
        if let Some(refusal) = refused_early(&mut stream).await? {
            return Ok((refusal, None));
        }
        stream.write_all(&body::make(id, bytes)).await?;
        let response = read_response(&mut stream, method, None).await?;
        Ok((response, Some(stream)))
    }

    fn head(&self, gateway: usize, method: &str, key: &str, bytes: usize) -> Vec<u8> {
        let path = format!("/{BUCKET}/{key}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut head = Vec::with_capacity(1024);
        let request = Request { method, path: &path, query: "", body: &self.blank[..bytes], class: None };
        self.signers[gateway].borrow_mut().head(&mut head, &request, now);
        if bytes > SMALL_BYTES {
            head.truncate(head.len() - 2);
            head.extend_from_slice(b"expect: 100-continue\r\n\r\n");
        }
        head
    }
}

/// A body up to this goes out behind its head at once.
const SMALL_BYTES: usize = 64 << 10;

/// The answer of who does not want the body; `None` for `100 Continue`.
async fn refused_early(stream: &mut BoxStream) -> Result<Option<Response>> {
    let mut head = Vec::with_capacity(ANSWER_HEAD_BYTES_MAX);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        ensure!(head.len() < ANSWER_HEAD_BYTES_MAX, "the head of an answer is too long");
        ensure!(stream.read_buf(&mut head).await? > 0, "the connection ended before an answer");
    }
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let status = status.context("no status line")?;
    Ok((status != 100).then(|| Response { status, ..Response::default() }))
}

impl Tally {
    fn note(&mut self, status: u16, took: Duration) {
        let second = self.begin.elapsed().as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        let counts = &mut self.seconds[second];
        match status {
            200..500 => counts.good += 1,
            503 => {
                counts.refused += 1;
                self.refusals.saturating_record(took.as_micros() as u64);
            }
            _ => counts.failed += 1,
        }
    }

    fn mean(&self, from: usize, to: usize) -> f64 {
        let seconds = self.seconds.get(from..to).unwrap_or_default();
        seconds.iter().map(|second| f64::from(second.good)).sum::<f64>() / seconds.len().max(1) as f64
    }

    /// The seconds after `from` until a window as fast as `goal` has passed, if there is one before `to`.
    fn seconds_until(&self, goal: f64, from: usize, to: usize) -> Option<usize> {
        (from + WINDOW..=to).find(|end| self.mean(end - WINDOW, *end) >= goal).map(|end| end - from)
    }

    fn refused(&self) -> u32 {
        self.seconds.iter().map(|second| second.refused).sum()
    }

    /// Second for second.
    fn seconds(&self, times: &Times) -> String {
        let part = |from: usize, to: usize| {
            let seconds = self.seconds.get(from..to).unwrap_or_default().iter();
            seconds.map(|second| format!("{}/{}", second.good, second.refused)).collect::<Vec<_>>().join(" ")
        };
        format!(
            "served/refused each second: {} | {} | {}",
            part(times.peak, times.peak + PEAK),
            part(times.overload, times.after),
            part(times.after, times.end)
        )
    }
}

/// The figures that have bars.
struct Verdict {
    peak: f64,
    during: f64,
    refused: u32,
    failed: u32,
    refusal_p50: Duration,
    refusal_p99: Duration,
    lateness_p99: Duration,
    /// Seconds after the end until it was as fast as before, and the best that it came to.
    recovered: Option<usize>,
    best_after: f64,
}

impl Verdict {
    fn of(tally: &Tally, times: &Times) -> Verdict {
        let peak = tally.mean(times.peak, times.peak + PEAK);
        let at = |times: &Histogram<u64>, quantile| Duration::from_micros(times.value_at_quantile(quantile));
        let windows = (times.after + WINDOW..=times.end).map(|end| tally.mean(end - WINDOW, end));
        Verdict {
            peak,
            during: tally.mean(times.overload, times.after),
            refused: tally.refused(),
            failed: tally.seconds.iter().map(|second| second.failed).sum(),
            refusal_p50: at(&tally.refusals, 0.5),
            refusal_p99: at(&tally.refusals, 0.99),
            lateness_p99: at(&tally.lateness, 0.99),
            recovered: tally.seconds_until(peak * RECOVERED_MIN, times.after, times.end),
            best_after: windows.fold(0.0, f64::max),
        }
    }

    fn figures(&self) -> String {
        let percent = |rate: f64| 100.0 * rate / self.peak;
        format!(
            "peak {:.0}/s; {:.0}/s ({:.0} %) at {TIMES} times the connections; {} refused, p50 {:.1} ms, p99 {:.1} ms, \
             with clients that were late themselves by {:.1} ms (p99); {} failed; {} (at best {:.0} %)",
            self.peak,
            self.during,
            percent(self.during),
            self.refused,
            self.refusal_p50.as_secs_f64() * 1e3,
            self.refusal_p99.as_secs_f64() * 1e3,
            self.lateness_p99.as_secs_f64() * 1e3,
            self.failed,
            self.recovered.map_or("not as fast as before".to_string(), |after| format!(
                "as fast as before {after} s after the end"
            )),
            percent(self.best_after)
        )
    }

    /// The bars that it does not reach.
    fn missed(&self) -> Vec<&'static str> {
        let bars = [
            (self.during >= self.peak * GOODPUT_MIN, "less than 80 % of the peak under overload"),
            (self.refusal_p99 <= REFUSAL_MAX, "refusals took longer than 100 ms"),
            (self.recovered.is_some(), "less than 95 % of the peak 30 s after overload"),
            (self.failed == 0, "requests failed that were not refused"),
        ];
        bars.into_iter().filter(|(reached, _)| !reached).map(|(_, bar)| bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(goods: &[u32]) -> Tally {
        let seconds = goods.iter().map(|good| Second { good: *good, ..Second::default() }).collect();
        let none = || latencies().unwrap();
        Tally { begin: Instant::now(), seconds, refusals: none(), lateness: none() }
    }

    #[test]
    fn bars_are_bars() {
        let times = Times { peak: 0, overload: 10, after: 12, end: 20 };
        let before = [100; 10];
        let verdict = |rest: &[u32]| Verdict::of(&tally(&[&before[..], rest].concat()), &times);
        let good = verdict(&[80, 80, 90, 95, 95, 95, 95, 95, 95, 95]);
        assert_eq!((good.missed(), good.recovered), (Vec::<&str>::new(), Some(6)));
        assert_eq!(verdict(&[79, 80, 100, 100, 100, 100, 100, 100, 100, 100]).missed().len(), 1);
        assert_eq!(verdict(&[80, 80, 94, 94, 94, 94, 94, 94, 94, 94]).missed().len(), 1);
    }
}
