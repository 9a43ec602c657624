//! Too little room: full disks, and processes that may not have the memory that they would take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;

use super::arena::{Arena, Stage};
use super::crew::BUCKET;
use super::episodes::pause;
use super::ground::MEMORY_BYTES;
use super::wires::node_name;
use crate::client::{Client, Pattern, PatternCheck, Request, Response, Target};
use crate::daemons::Daemon;

/// A refusal comes within this: a gateway asks for three seconds whether another voter has space.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// Space that was freed is used again within this.
const TAKEN_AGAIN_WITHIN: Duration = Duration::from_secs(15);
/// What a node missed while its disk was full it has after this.
const WHOLE_AGAIN_WITHIN: Duration = Duration::from_secs(90);
/// How long one disk is full.
const FULL_FOR: Duration = Duration::from_secs(8);
/// Bodies that ride in the log and bodies in chunks.
const BODIES: [usize; 2] = [16 << 10, 1 << 20];
/// Writers that use a log up, and what each writes at most: the segment that the log has ready, many times.
const WRITERS: usize = 16;
const PUTS_MAX: usize = 2_000;
/// Objects that are there before the disks are full.
const OBJECTS: usize = 50;

/// The disk of a follower, then of the leader, then of all nodes is full.
pub(super) async fn disk_full(on: Stage<'_>) -> Result<Vec<String>> {
    let arena = on.arena;
    let mut notes = Vec::new();
    pause(2.0).await;
    for (role, node) in [("follower", arena.follower().await?), ("leader", arena.leader().await?)] {
        let disk = &arena.footing.disks[usize::from(node) - 1];
        disk.fill()?;
        let told = one_full(arena, node).await;
        disk.empty()?;
        let told = told.with_context(|| format!("the disk of a {role} is full"))?;
        let whole = whole_again(arena).await.with_context(|| format!("the disk of a {role} was full"))?;
        notes.push(format!("{role}: {told}; whole {:.1} s after there was space", whole.as_secs_f64()));
    }
    put_objects(arena).await?;
    arena.footing.disks.iter().try_for_each(|disk| disk.fill())?;
    let told = all_full(arena).await;
    arena.footing.disks.iter().try_for_each(|disk| disk.empty())?;
    notes.push(format!("all: {}", told.context("all disks are full")?));
    let taken = taken_again(arena).await?;
    notes.push(format!("all: writes are taken {:.1} s after there was space", taken.as_secs_f64()));
    pause(2.0).await;
    Ok(notes)
}

fn object(method: &str, name: &str) -> Request {
    Request::object(method, BUCKET, &format!("scarce/{name}"))
}

async fn send(arena: &Arena, gateway: usize, request: Request) -> Result<(Response, Duration)> {
    let begin = Instant::now();
    let response = Client::new(&arena.store, gateway).send(request).await.context("send")?;
    Ok((response, begin.elapsed()))
}

fn runs(daemon: &Daemon) -> Result<()> {
    ensure!(daemon.exited().is_none(), "{} ended: {}", daemon.name(), daemon.log_tail());
    Ok(())
}

/// Writes are taken by the others, or refused early; all else is served.
async fn one_full(arena: &Arena, node: u16) -> Result<String> {
    let (begin, mut counts) = (Instant::now(), [0u32; 2]);
    let mut slowest = Duration::ZERO;
    let mut round = 0;
    while begin.elapsed() < FULL_FOR {
        let gateway = round % arena.store.gateways();
        let body = vec![round as u8; BODIES[round / 2 % BODIES.len()]];
        let (put, took) = send(arena, gateway, object("PUT", "one").body(body.clone())).await?;
        slowest = slowest.max(took);
        if put.status == 200 {
            counts[0] += 1;
            let (get, _) = send(arena, gateway, object("GET", "one")).await?;
            ensure!(
                get.status == 200 && get.body == body,
                "a read: {} bytes, {}",
                get.body.len(),
                get.status
            );
            let (delete, _) = send(arena, gateway, object("DELETE", "one")).await?;
            ensure!(delete.status == 204, "a deletion: {}", delete.describe());
        } else {
            refused(&put, took)?;
            counts[1] += 1;
        }
        arena.footing.disks[usize::from(node) - 1].fill()?; // What was freed meanwhile.
        round += 1;
    }
    runs(arena.node(node))?;
    let [taken, refused] = counts;
    ensure!(taken > 0, "no write was taken, though two nodes have space");
    Ok(format!("{taken} writes taken, {refused} refused, the slowest {} ms", slowest.as_millis()))
}

/// A definite answer that says why.
fn refused(response: &Response, took: Duration) -> Result<()> {
    let code = response.code();
    let clear = matches!(
        (response.status, code.as_str()),
        (507, "InsufficientStorage") | (503, "SlowDown" | "ServiceUnavailable")
    );
    ensure!(clear, "a refusal: {}", response.describe());
    ensure!(took < REFUSED_WITHIN, "a refusal took {took:?}: {}", response.describe());
    Ok(())
}

/// By the store's own account every copy is where it belongs.
async fn whole_again(arena: &Arena) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let verify = arena.store.operation(&["verify", "--quick"]);
        match tokio::task::spawn_blocking(verify).await.context("run verify")? {
            Ok(_) => return Ok(begin.elapsed()),
            Err(error) if begin.elapsed() > WHOLE_AGAIN_WITHIN => {
                return Err(error.context("not whole again"));
            }
            Err(_) => pause(0.2).await,
        }
    }
}

fn stored(number: usize) -> (String, Vec<u8>) {
    (format!("stored-{number}"), vec![number as u8; BODIES[number % BODIES.len()]])
}

async fn put_objects(arena: &Arena) -> Result<()> {
    for number in 0..OBJECTS {
        let (name, body) = stored(number);
        let (put, _) = send(arena, number % 2, object("PUT", &name).body(body)).await?;
        ensure!(put.status == 200, "a write before the disks are full: {}", put.describe());
    }
    Ok(())
}

/// Writes are refused, all reads and all deletions are served.
async fn all_full(arena: &Arena) -> Result<String> {
    let writers = try_join_all((0..WRITERS).map(|writer| write_until_refused(arena, writer))).await?;
    let taken: usize = writers.iter().map(|(count, _)| count).sum();
    let longest = writers.iter().map(|(_, took)| *took).max().unwrap_or_default();
    let outcomes = try_join_all((0..OBJECTS).map(|number| read_write_delete(arena, number))).await?;
    let more = outcomes.iter().filter(|(taken, _)| *taken).count();
    let slowest = outcomes.iter().map(|(_, took)| *took).max().unwrap_or_default();
    arena.store.daemons().try_for_each(runs)?;
    Ok(format!(
        "{taken} small bodies taken before the first 507, which took {} ms at most, {more} of {OBJECTS} writes \
         after it; {OBJECTS} reads and {OBJECTS} deletions served, the slowest in {} ms",
        longest.as_millis(),
        slowest.as_millis()
    ))
}

/// Reads and deletes an object while nobody has space. Returns whether another one was taken meanwhile, into what
/// deletions freed, and what the slowest of the reads and deletions took.
async fn read_write_delete(arena: &Arena, number: usize) -> Result<(bool, Duration)> {
    let (name, body) = stored(number);
    let gateway = number % arena.store.gateways();
    let (get, read_took) = send(arena, gateway, object("GET", &name)).await?;
    ensure!(get.status == 200 && get.body == body, "a read: {} bytes, {}", get.body.len(), get.status);
    let (put, took) = send(arena, gateway, object("PUT", &format!("more-{number}")).body(body)).await?;
    let taken = put.status == 200;
    if !taken {
        refused(&put, took)?;
    }
    let (delete, delete_took) = send(arena, gateway, object("DELETE", &name)).await?;
    ensure!(delete.status == 204, "a deletion: {}", delete.describe());
    let (gone, _) = send(arena, gateway, object("GET", &name)).await?;
    ensure!(gone.status == 404, "what was deleted: {}", gone.describe());
    Ok((taken, read_took.max(delete_took)))
}

/// Returns how many were taken, and how long the refusal took.
async fn write_until_refused(arena: &Arena, writer: usize) -> Result<(usize, Duration)> {
    for count in 0..PUTS_MAX {
        let put = object("PUT", &format!("writer-{writer}")).body(vec![writer as u8; BODIES[0]]);
        let (put, took) = send(arena, writer % 2, put).await?;
        if put.status != 200 {
            refused(&put, took)?;
            return Ok((count, took));
        }
    }
    bail!("a full disk is not noticed: a writer could store {PUTS_MAX} objects")
}

/// Every gateway takes small and large bodies.
async fn taken_again(arena: &Arena) -> Result<Duration> {
    let begin = Instant::now();
    for gateway in 0..arena.store.gateways() {
        for bytes in BODIES {
            loop {
                let (put, _) = send(arena, gateway, object("PUT", "after").body(vec![1; bytes])).await?;
                if put.status == 200 {
                    break;
                }
                let said = put.describe();
                ensure!(begin.elapsed() < TAKEN_AGAIN_WITHIN, "a write after there was space: {said}");
                pause(0.1).await;
            }
        }
    }
    Ok(begin.elapsed())
}

/// Large bodies beside the work of the crew.
const LARGE_BYTES: u64 = 48 << 20;
const LARGE_WRITERS: u64 = 4;
const LARGE_ROUNDS: u64 = 4;

/// No process takes more than its limit.
pub(super) async fn memory_limit(on: Stage<'_>) -> Result<Vec<String>> {
    let arena = on.arena;
    pause(2.0).await;
    try_join_all((0..LARGE_WRITERS).map(|writer| large(arena, writer))).await?;
    pause(2.0).await;
    let mut notes = Vec::new();
    for daemon in arena.store.daemons() {
        let kills = arena.footing.group(daemon.name())?.kills()?;
        ensure!(kills == 0 && daemon.exited().is_none(), "the system ended {} for its memory", daemon.name());
        let (_, most) = daemon.resident().context("it runs")?;
        ensure!(most <= MEMORY_BYTES, "{} took {} MiB", daemon.name(), most >> 20);
        notes.push(format!(
            "{} resident at most {} MiB of {}",
            daemon.name(),
            most >> 20,
            MEMORY_BYTES >> 20
        ));
    }
    Ok(notes)
}

/// Writes large bodies, reads them back, and removes them.
async fn large(arena: &Arena, writer: u64) -> Result<()> {
    let name = format!("large-{writer}");
    for round in 0..LARGE_ROUNDS {
        let pattern = Pattern::new(writer << 32 | round, LARGE_BYTES);
        let gateway = (writer + round) as usize % arena.store.gateways();
        stored_at_last(arena, gateway, object("PUT", &name).generated(pattern)).await?;
        let mut check = PatternCheck::new(pattern);
        let client = Client::new(&arena.store, gateway + 1);
        let get =
            client.send_checking(object("GET", &name), &mut check).await.context("read a large body")?;
        if get.status == 200 {
            check.finish().map_err(|why| anyhow::anyhow!("a large body: {why}"))?;
        } else {
            ensure!(get.status == 503, "a large read: {}", get.describe());
        }
    }
    stored_at_last(arena, 0, object("DELETE", &name)).await
}

/// Sends until it is not refused, as an SDK would.
async fn stored_at_last(arena: &Arena, gateway: usize, request: Request) -> Result<()> {
    loop {
        let (response, _) = send(arena, gateway, request.clone()).await?;
        match response.status {
            200 | 204 => return Ok(()),
            503 => pause(1.0).await,
            _ => bail!("{} {}: {}", request.method, request.path, response.describe()),
        }
    }
}

/// Limits that are too small for a node: it does not come up, or not for long.
const TOO_LITTLE_MIB: std::ops::Range<u64> = 12..80;
/// How long a node may run within one of them.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const STARTS: usize = 12;
/// With fewer the episode shows nothing.
const KILLS_MIN: u64 = 4;

/// The system ends nodes, one at a time: each is started again at once, as by a supervisor, and gets its memory back at
/// last.
pub(super) async fn out_of_memory(on: Stage<'_>) -> Result<Vec<String>> {
    let arena = on.arena;
    let mut kills = 0;
    pause(2.0).await;
    for turn in 0..STARTS / 3 {
        // A follower and the leader in turn.
        let node = if turn % 2 == 0 { arena.follower().await? } else { arena.leader().await? };
        let group = arena.footing.group(&node_name(node))?;
        let before = group.kills()?;
        for _ in 0..3 {
            arena.node(node).kill();
            group.limit(arena.random.between(TOO_LITTLE_MIB.start, TOO_LITTLE_MIB.end) << 20)?;
            arena.node(node).start()?;
            let begin = Instant::now();
            while arena.node(node).exited().is_none() && begin.elapsed() < SHORT_LIFE {
                pause(0.02).await;
            }
        }
        arena.node(node).kill();
        kills += group.kills()? - before;
        group.limit(MEMORY_BYTES)?;
        arena.restart(node).await?;
        pause(1.0).await;
    }
    let starts = STARTS / 3 * 3;
    ensure!(
        kills >= KILLS_MIN,
        "the system ended nodes {kills} times in {starts} starts: the limits are too large"
    );
    Ok(vec![format!("the system ended nodes {kills} times in {starts} starts")])
}
