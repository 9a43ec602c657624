//! Stages that run the suites against real daemons.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Tally, block_on, cas, syncs};
use crate::client::{Client, Pattern, PatternCheck, Request, Target};
use crate::daemons::{Cluster, Daemon, Embedded, OTHER, ROOT, binary, get, scratch};
use crate::{bad_input, conformance};

/// Bytes of the object that goes through a process with a small memory limit in the default run.
const LARGE_BYTES: u64 = 256 << 20;
/// `--memory-limit` of that process, and the ceiling for its resident size.
const MEMORY_LIMIT: u64 = 512 << 20;
/// Where the writers of rounds write.
pub(super) const BUCKET: &str = "failover";
/// Days of two seconds, so that objects expire while the suite looks.
const SHORT_DAYS: [&str; 2] = ["--lifecycle-day-seconds", "2"];
/// Longest time without a success after a kill -9.
pub(super) const GAP_MAX: Duration = Duration::from_secs(3);

pub(super) fn embedded(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let limit = ["--data", "fluffy-data", "--memory-limit", "512MiB"];
        let store = Embedded::start(&[&limit[..], &SHORT_DAYS].concat()).await?;
        tally.note(format!("start to ready: {} ms", store.start_time.as_millis()));
        store.add_other_user()?;
        conformance::run(&store, |name, outcome| tally.check(name, outcome)).await;
        large_object(&store, tally).await?;
        tally.check("another region", elsewhere().await);
        footprint(&store.gateway.daemon, tally);
        survives_restart(&store, tally).await
    })
}

/// The suite where the metadata have little room for small bodies: most of them become chunks, or move there.
pub(super) fn inline_room(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let room = ["--data", "fluffy-data", "--inline-bytes-max", "32KiB"];
        let store = Embedded::start(&[&room[..], &SHORT_DAYS].concat()).await?;
        store.add_other_user()?;
        let moved = small_objects_move(&store).await;
        tally.check("small objects move into chunks and stay what they are", moved);
        conformance::run(&store, |name, outcome| tally.check(name, outcome)).await;
        Ok(())
    })
}

/// Stores small objects faster than the gateway learns that there is no room, and looks at them once they moved.
async fn small_objects_move(store: &Embedded) -> Result<(), String> {
    const ROOM: u64 = 24 << 10;
    let client = Client::new(store, 0);
    let send = async |request: Request, wanted: u16| {
        let response = client.send(request).await.map_err(|error| error.to_string())?;
        if response.status == wanted { Ok(response) } else { Err(response.describe()) }
    };
    let key = |number: usize| format!("small/{number:02}");
    let body = |number: usize| vec![number as u8; 4_000 + number];
    send(Request::bucket("PUT", "packed"), 200).await?;
    for number in 0..40 {
        send(Request::object("PUT", "packed", &key(number)).body(body(number)), 200).await?;
    }
    let before = send(Request::object("HEAD", "packed", &key(0)), 200).await?;
    let mut inline_bytes = u64::MAX;
    for _ in 0..300 {
        let status = get(store.gateway.admin, "/status").await.map_err(|error| error.to_string())?;
        let status: serde_json::Value =
            serde_json::from_slice(&status.body).map_err(|error| error.to_string())?;
        inline_bytes = status["inline_bytes"].as_u64().unwrap_or(u64::MAX);
        if inline_bytes <= ROOM {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if inline_bytes > ROOM {
        return Err(format!("{inline_bytes} bytes are inline after half a minute"));
    }
    let after = send(Request::object("HEAD", "packed", &key(0)), 200).await?;
    for header in ["etag", "last-modified", "content-length"] {
        if before.header(header) != after.header(header) {
            return Err(format!("{header} changed to {:?}", after.header(header)));
        }
    }
    let copy =
        Request::object("PUT", "packed", "copy").header("x-amz-copy-source", format!("packed/{}", key(39)));
    send(copy, 200).await?;
    for number in (0..40).step_by(2) {
        send(Request::object("DELETE", "packed", &key(number)), 204).await?;
    }
    for (key, number) in
        (1..40).step_by(2).map(|number| (key(number), number)).chain([("copy".to_string(), 39)])
    {
        let found = send(Request::object("GET", "packed", &key), 200).await?;
        if found.body != body(number) {
            return Err(format!("{key} has other bytes now"));
        }
        let range = Request::object("GET", "packed", &key).header("range", "bytes=7-16");
        if send(range, 206).await?.body != body(number)[7..=16] {
            return Err(format!("a range of {key} has other bytes now"));
        }
    }
    Ok(())
}

pub(super) fn cluster(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let begin = Instant::now();
        let store = Cluster::start(3, 2, "lifecycle_day_seconds: 2\n").await?;
        tally.note(format!("3 nodes and 2 gateways, start to ready: {} ms", begin.elapsed().as_millis()));
        store.add_other_user()?;
        conformance::run(&store, |name, outcome| tally.check(name, outcome)).await;
        for daemon in store.nodes.iter().chain(store.gateways.iter().map(|gateway| &gateway.daemon)) {
            footprint(daemon, tally);
        }
        cas::rounds(&store, cas::ROUNDS_SHORT, tally).await?;
        syncs::count(&store, tally).await
    })
}

pub(super) fn bad_input(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let log = |daemon: Daemon| daemon.variable("FLUFFY_LOG", "info");
        let table = Embedded::start_changed(&["--data", "fluffy-data"], log).await?;
        let slow = Embedded::start(&["--memory"]).await?;
        strict_and_crowded(tally).await?;
        table.add_other_user()?;
        let before = (table.gateway.daemon.resident(), table.gateway.daemon.descriptors());
        let mut outcomes = Vec::new();
        let slow_cases =
            bad_input::run_slow(&slow, |name, outcome| outcomes.push((name.to_string(), outcome)));
        let cases = bad_input::run(&table, |name, outcome| tally.check(name, outcome));
        let (slow_result, result) = futures::future::join(slow_cases, cases).await;
        result.and(slow_result)?;
        for (name, outcome) in outcomes {
            tally.check(&name, outcome);
        }
        bad_input::run_websites(&table, |name, outcome| tally.check(name, outcome)).await?;
        let judged = bad_input::run_matrix(&table, |name, outcome| tally.check(name, outcome)).await?;
        tally.note(format!("{judged} requests of the matrix of authentication"));
        let token = std::fs::read_to_string(table.directory().join("fluffy-data/admin-token"))?;
        bad_input::run_admin(table.gateway.admin, token.trim(), |name, outcome| tally.check(name, outcome))
            .await?;
        tally.check("no secret is in the log of bad input", tells_no_secret(&table.gateway.daemon));
        back_to_normal(&table.gateway.daemon, before, tally).await;
        Ok(())
    })
}

/// Stores that are started in another way than by default.
async fn strict_and_crowded(tally: &mut Tally) -> Result<()> {
    let strict = Embedded::start(&["--memory", "--require-signed-payload"]).await?;
    bad_input::run_strict(&strict, |name, outcome| tally.check(name, outcome)).await?;
    // Half of the descriptors are for connections; the crowd is larger.
    let crowded = Embedded::start_changed(&["--memory"], |daemon| daemon.descriptors_max(400)).await?;
    bad_input::run_crowds(&crowded, 300, |name, outcome| tally.check(name, outcome)).await
}

/// A gateway of another region than the default one.
async fn elsewhere() -> Result<(), String> {
    let told = |error: anyhow::Error| format!("{error:#}");
    let store = Embedded::start(&["--memory", "--region", "eu-central-1"]).await.map_err(told)?;
    let client = Client::new(&store, 0);
    let send = async |region: &str, request: Request| {
        let mut signer = client.signer();
        signer.region = region.to_string();
        client.send_wire(&signer.sign(request)).await.map_err(|error| error.to_string())
    };
    let here = "eu-central-1";
    let rows = [
        (here, Request::bucket("PUT", "elsewhere"), 200, ""),
        (here, Request::bucket("PUT", "elsewhere"), 409, "<Code>BucketAlreadyOwnedByYou</Code>"),
        (
            here,
            Request::bucket("GET", "elsewhere").flag("location"),
            200,
            ">eu-central-1</LocationConstraint>",
        ),
        (here, Request::new("GET", "/"), 200, "<BucketRegion>eu-central-1</BucketRegion>"),
        ("us-east-1", Request::bucket("GET", "elsewhere"), 400, "<Region>eu-central-1</Region>"),
    ];
    for (region, request, status, words) in rows {
        let name = format!("{} {}", request.method, request.path);
        let response = send(region, request).await?;
        if response.status != status || !String::from_utf8_lossy(&response.body).contains(words) {
            return Err(format!("{name} signed for {region}: {}", response.describe()));
        }
    }
    let head = client.with_credentials(None).send(Request::bucket("HEAD", "elsewhere")).await;
    match head.map_err(|error| error.to_string())?.header("x-amz-bucket-region") {
        Some(region) if region == here => Ok(()),
        region => Err(format!("an unsigned HEAD names {region:?}")),
    }
}

/// Neither a secret nor a signature that opens something is in the log.
fn tells_no_secret(daemon: &Daemon) -> Result<(), String> {
    let log = daemon.log_text();
    for secret in [ROOT.1, OTHER.1, "X-Amz-Signature=", "Signature="] {
        if let Some(line) = log.lines().find(|line| line.contains(secret)) {
            return Err(line.to_string());
        }
    }
    // A key with a line feed or an escape sequence in it stays within its line.
    let forged = |line: &&str| line.contains('\u{1b}') || line.starts_with("2026-01-01T00:00:00Z ERROR");
    match log.lines().find(forged) {
        Some(line) => Err(format!("a client wrote {line:?}")),
        None if log.is_empty() => Err("no log".to_string()),
        None => Ok(()),
    }
}

/// After the table, descriptors are back and memory is near where it was.
async fn back_to_normal(daemon: &Daemon, before: (Option<(u64, u64)>, Option<usize>), tally: &mut Tally) {
    let wanted = before.1.unwrap_or(0) + 8;
    let mut now = usize::MAX;
    for _ in 0..100 {
        now = daemon.descriptors().unwrap_or(usize::MAX);
        if now <= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let outcome = if now <= wanted { Ok(()) } else { Err(format!("{now} are open, {:?} before", before.1)) };
    tally.check("descriptors are back after bad input", outcome);
    let (first, last) =
        (before.0.map_or(0, |(now, _)| now), daemon.resident().map_or(u64::MAX, |(now, _)| now));
    let outcome =
        if last <= first + (64 << 20) { Ok(()) } else { Err(format!("{first} bytes, then {last}")) };
    tally.check("memory is back after bad input", outcome);
}

/// Writes and reads an object larger than the memory that the process may use.
async fn large_object(target: &dyn Target, tally: &mut Tally) -> Result<()> {
    let client = Client::new(target, 0);
    let response = client.send(Request::bucket("PUT", "large")).await?;
    ensure!(response.status == 200, "create a bucket: {}", response.describe());
    let outcome = put_and_get(&client, "large", LARGE_BYTES).await;
    tally.check("an object of 256 MiB by a single PUT, and back", outcome.map(|_| ()));
    Ok(())
}

/// Stores and reads back a generated object; returns how long each took.
pub(super) async fn put_and_get(
    client: &Client<'_>,
    bucket: &str,
    bytes: u64,
) -> Result<(Duration, Duration), String> {
    let pattern = Pattern::new(bytes, bytes);
    let begin = Instant::now();
    let put = client.send(Request::object("PUT", bucket, "large").generated(pattern)).await;
    let put = put.map_err(|error| format!("put: {error}"))?;
    if put.status != 200 {
        return Err(format!("put: {}", put.describe()));
    }
    let put_time = begin.elapsed();
    let begin = Instant::now();
    let mut check = PatternCheck::new(pattern);
    let get = client.send_checking(Request::object("GET", bucket, "large"), &mut check).await;
    let get = get.map_err(|error| format!("get: {error}"))?;
    if get.status != 200 {
        return Err(format!("get: {}", get.describe()));
    }
    check.finish().map(|()| (put_time, begin.elapsed()))
}

/// The highest resident size so far stays under the limit.
pub(super) fn footprint(daemon: &Daemon, tally: &mut Tally) {
    let Some((_, most)) = daemon.resident() else {
        return tally.check(&format!("{} is alive", daemon.name()), Err(daemon.log_tail()));
    };
    tally.note(format!("{} resident at most {} MiB", daemon.name(), most >> 20));
    let outcome = if most <= MEMORY_LIMIT { Ok(()) } else { Err(format!("{} MiB", most >> 20)) };
    tally.check(&format!("{} stays under 512 MiB", daemon.name()), outcome);
}

/// What was acknowledged is there after a kill -9 of the only process.
async fn survives_restart(store: &Embedded, tally: &mut Tally) -> Result<()> {
    let bucket = "after-a-kill";
    for request in [Request::bucket("PUT", bucket), Request::object("PUT", bucket, "small").body("kept")] {
        let response = Client::new(store, 0).send(request).await?;
        ensure!(response.status == 200, "prepare a restart: {}", response.describe());
    }
    let outcome = put_and_get(&Client::new(store, 0), bucket, 5 << 20).await.map(|_| ());
    tally.check("5 MiB before the kill", outcome);
    store.gateway.daemon.kill();
    let elapsed = store.gateway.start().await?;
    tally.note(format!("restart after kill -9 to ready: {} ms", elapsed.as_millis()));
    let client = Client::new(store, 0);
    let small = client.send(Request::object("GET", bucket, "small")).await?;
    let outcome = if small.body == b"kept" { Ok(()) } else { Err(small.describe()) };
    tally.check("a small object is there after kill -9", outcome);
    let mut check = PatternCheck::new(Pattern::new(5 << 20, 5 << 20));
    client.send_checking(Request::object("GET", bucket, "large"), &mut check).await?;
    tally.check("a large object is there after kill -9", check.finish());
    Ok(())
}

pub(super) fn failover(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(3, 2, "").await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        // Whichever node leads: each of the three is killed once, so the leader is among them.
        for index in 0..store.nodes.len() {
            kill_one(&store, index, tally).await?;
        }
        Ok(())
    })
}

/// What the writers of one round share.
pub(super) struct Round {
    pub(super) number: usize,
    pub(super) stop: AtomicBool,
    /// When some writer last succeeded, and the longest time without that.
    pub(super) success: Mutex<(Instant, Duration)>,
}

impl Round {
    fn succeeded(&self) {
        let mut success = self.success.lock().unwrap_or_else(PoisonError::into_inner);
        success.1 = success.1.max(success.0.elapsed());
        success.0 = Instant::now();
    }

    fn longest(&self) -> Duration {
        self.succeeded();
        self.success.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// One writer's history.
#[derive(Default)]
pub(super) struct History {
    pub(super) acknowledged: Vec<(String, Pattern)>,
    pub(super) refused: usize,
}

/// Writers run while node `index` is killed; then everything acknowledged is read back.
async fn kill_one(store: &Cluster, index: usize, tally: &mut Tally) -> Result<()> {
    let node = &store.nodes[index];
    let success = Mutex::new((Instant::now(), Duration::ZERO));
    let round = Round { number: index, stop: AtomicBool::new(false), success };
    let writers = (0..8).map(|writer| write_until_stopped(store, &round, writer));
    let killer = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        node.kill();
        tokio::time::sleep(Duration::from_secs(6)).await;
        round.stop.store(true, Ordering::Relaxed);
        round.longest()
    };
    let (histories, gap) = futures::future::join(futures::future::join_all(writers), killer).await;
    let count: usize = histories.iter().map(|history| history.acknowledged.len()).sum();
    let refused: usize = histories.iter().map(|history| history.refused).sum();
    let name = node.name();
    let gap_ms = gap.as_millis();
    tally.note(format!(
        "kill -9 of {name}: {count} writes acknowledged, {refused} not, longest gap {gap_ms} ms"
    ));
    let outcome = if gap <= GAP_MAX { Ok(()) } else { Err(format!("{gap_ms} ms")) };
    tally.check(&format!("kill -9 of {name}: a success within 3 s"), outcome);
    tally.check(
        &format!("kill -9 of {name}: nothing lost while it is down"),
        all_there(store, &histories).await,
    );
    store.restart_node(index).await.with_context(|| format!("restart {name}"))?;
    tally.check(
        &format!("kill -9 of {name}: nothing lost after its return"),
        all_there(store, &histories).await,
    );
    Ok(())
}

/// Writers run while something happens.
pub(super) async fn under_load(
    store: &Cluster,
    number: usize,
    happens: impl Future<Output = Result<()>>,
) -> Result<Vec<History>> {
    let round =
        Round { number, stop: AtomicBool::new(false), success: Mutex::new((Instant::now(), Duration::ZERO)) };
    let writers = (0..4).map(|writer| write_until_stopped(store, &round, writer));
    let story = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let outcome = happens.await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        round.stop.store(true, Ordering::Relaxed);
        outcome
    };
    let (histories, outcome) = futures::future::join(futures::future::join_all(writers), story).await;
    outcome.map(|()| histories)
}

async fn write_until_stopped(store: &Cluster, round: &Round, writer: usize) -> History {
    let client = Client::new(store, writer);
    let mut history = History::default();
    let mut count = 0u64;
    while !round.stop.load(Ordering::Relaxed) {
        count += 1;
        // Mostly small bodies that ride in the log, sometimes one that is cut into chunks.
        let length = if count.is_multiple_of(4) { 1_500_000 } else { 4096 };
        let pattern = Pattern::new(count * 64 + writer as u64, length);
        let key = format!("round-{}/writer-{writer}/{count}", round.number);
        let put = client.send(Request::object("PUT", BUCKET, &key).body(pattern.bytes()));
        match tokio::time::timeout(Duration::from_secs(10), put).await {
            Ok(Ok(response)) if response.status == 200 => {
                round.succeeded();
                history.acknowledged.push((key, pattern));
            }
            _ => {
                history.refused += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    history
}

pub(super) async fn all_there(store: &Cluster, histories: &[History]) -> Result<(), String> {
    for (writer, history) in histories.iter().enumerate() {
        let client = Client::new(store, writer + 1);
        for (key, pattern) in &history.acknowledged {
            let mut check = PatternCheck::new(*pattern);
            let get = client.send_checking(Request::object("GET", BUCKET, key), &mut check).await;
            let get = get.map_err(|error| format!("{key}: {error}"))?;
            if get.status != 200 {
                return Err(format!("{key}: {}", get.describe()));
            }
            check.finish().map_err(|why| format!("{key}: {why}"))?;
        }
    }
    Ok(())
}

/// Wrong configuration: each row is a program, its arguments, files beside it, and words of the sentence.
pub(super) fn config(tally: &mut Tally) -> Result<()> {
    let home = scratch("config-")?;
    let directory = home.path();
    std::fs::write(directory.join("unknown.yaml"), "addresses: iptable.txt\nno_such_key: 1\n")?;
    std::fs::write(directory.join("broken.yaml"), "addresses: [\n")?;
    std::fs::write(directory.join("bad-address.yaml"), "addresses: bad-address.txt\n")?;
    std::fs::write(directory.join("bad-address.txt"), "1 not-an-address\n")?;
    std::fs::write(directory.join("twice.yaml"), "addresses: twice.txt\n")?;
    std::fs::write(directory.join("twice.txt"), "1 127.0.0.1:7001\n1 127.0.0.1:7002\n")?;
    std::fs::write(directory.join("absent.yaml"), "addresses: absent.txt\n")?;
    std::fs::write(directory.join("file"), "not a directory")?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = listener.local_addr()?.to_string();
    let storage = "fluffy-storage";
    let gateway = "fluffy-gateway";
    let rows: Vec<(&str, &str, Vec<&str>, Vec<&str>)> = vec![
        ("an unknown key", storage, vec!["--config", "unknown.yaml", "--node", "1"], vec!["no_such_key"]),
        ("an unknown key", gateway, vec!["--config", "unknown.yaml"], vec!["no_such_key"]),
        ("broken YAML", gateway, vec!["--config", "broken.yaml"], vec!["broken.yaml"]),
        ("a missing file", gateway, vec!["--config", "none.yaml"], vec!["none.yaml"]),
        (
            "a bad address",
            storage,
            vec!["--config", "bad-address.yaml", "--node", "1"],
            vec!["not-an-address"],
        ),
        ("an id twice", storage, vec!["--config", "twice.yaml", "--node", "1"], vec!["1"]),
        ("no such table", storage, vec!["--config", "absent.yaml", "--node", "1"], vec!["absent.txt"]),
        ("an unknown option", gateway, vec!["--no-such-option"], vec!["--no-such-option"]),
        ("a bad address to listen", gateway, vec!["--memory", "--listen", "nowhere"], vec!["nowhere"]),
        ("a port in use", gateway, vec!["--memory", "--listen", &taken], vec![&taken]),
        ("data that is a file", gateway, vec!["--data", "file"], vec!["file"]),
        ("memory limit of nothing", gateway, vec!["--memory", "--memory-limit", "0"], vec!["memory"]),
    ];
    for (name, program, args, words) in rows {
        let outcome = refuses(program, directory, &args, &words);
        tally.check(&format!("{program}: {name}"), outcome);
    }
    drop(listener);
    second_process(tally)
}

/// The program ends by itself, fails, and says what is wrong in a sentence with these words.
fn refuses(program: &str, directory: &Path, args: &[&str], words: &[&str]) -> Result<(), String> {
    let program = binary(program).map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(directory)
        .env("FLUFFY_ADMIN_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begin.elapsed() > Duration::from_secs(10) {
            let _ = child.kill();
            let _ = child.wait();
            return Err("it runs on".to_string());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        return Err(format!("it succeeded: {said}"));
    }
    if said.contains("panicked") || said.lines().filter(|line| !line.trim().is_empty()).count() > 12 {
        return Err(format!("more than a sentence: {said}"));
    }
    match words.iter().find(|word| !said.contains(**word)) {
        Some(word) => Err(format!("does not name {word}: {said}")),
        None => Ok(()),
    }
}

/// A second process on the same data is refused, and the first one goes on.
fn second_process(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Embedded::start(&["--data", "fluffy-data"]).await?;
        let args = ["--data", "fluffy-data", "--listen", "127.0.0.1:0"];
        let outcome = refuses("fluffy-gateway", store.directory(), &args, &["fluffy-data"]);
        tally.check("fluffy-gateway: a second process on the same data", outcome);
        let answer = Client::new(&store, 0).send(Request::new("GET", "/")).await?;
        let outcome = if answer.status == 200 { Ok(()) } else { Err(answer.describe()) };
        tally.check("fluffy-gateway: the first process goes on", outcome);
        Ok(())
    })
}
