//! `cargo verify memory`: 64 uploads, 64 slow readers, 1,000 idle connections, listings and a bulk load, all at once,
//! through processes that the system ends when they take more than 1 GiB.
//!
//! The uploads are of 1 GiB where the disk has room for all copies, and of what fits otherwise. Their bytes compress:
//! a compressing file system mounted at `.verify/tmp` needs little room.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use futures::future::{join, join_all, join4, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request, Target};
use crate::conformance::ok;
use crate::daemons::{Cluster, Daemon, Embedded, scratch};
use crate::lent::MemoryGroup;

/// What a process is told that it may use, and what the system lets it have.
const MEMORY_LIMIT: u64 = 768 << 20;
const ENFORCED_BYTES: u64 = 1 << 30;
const SETTINGS: &str = "storage:\n  memory_limit: 768MiB\ngateway:\n  memory_limit: 768MiB\n";

const BUCKET: &str = "memory";
const UPLOADS: u64 = 64;
const UPLOAD_BYTES_MAX: u64 = 1 << 30;
const SLOW_READERS: usize = 64;
/// What they read, and how: 64 KiB a second.
const SLOW_BYTES: u64 = 64 << 20;
const SLOW_STEP: usize = 16 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(250);
const IDLE_CONNECTIONS: usize = 1_000;
/// Less than the server lets a silent connection live.
const IDLE_TIME: Duration = Duration::from_secs(60);
const BULK_WRITERS: u64 = 16;
const BULK_BYTES: u64 = 4 << 10;
/// Uploads that are read back at once.
const CHECKERS: usize = 8;
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let groups = groups_of(&["gateway"]);
        let limit = ["--data", "fluffy-data", "--memory-limit", "768MiB"];
        let store = Embedded::start_changed(&limit, |daemon| bound(&groups, daemon)).await?;
        everything(&store, &[&store.gateway.daemon], 1, tally, "embedded").await?;
        drop(store);
        let groups = groups_of(&["storage-1", "storage-2", "storage-3", "gateway-1"]);
        let store = Cluster::start_changed(3, 1, SETTINGS, |daemon| bound(&groups, daemon)).await?;
        let gateways = store.gateways.iter().map(|gateway| &gateway.daemon);
        let daemons: Vec<&Daemon> = store.nodes.iter().chain(gateways).collect();
        everything(&store, &daemons, 3, tally, "cluster").await
    })
}

/// Lets a process have [`ENFORCED_BYTES`], by its group; where there are no groups, by a limit of its data.
fn bound(groups: &[MemoryGroup], daemon: Daemon) -> Daemon {
    match groups.iter().find(|group| group.name() == daemon.name()) {
        Some(group) => group.bound(daemon),
        None => daemon.after(&format!("ulimit -d {}", ENFORCED_BYTES >> 10)),
    }
}

fn groups_of(names: &[&str]) -> Vec<MemoryGroup> {
    names.iter().filter_map(|name| MemoryGroup::new(name, ENFORCED_BYTES).ok()).collect()
}

/// What all of it shares.
struct Scene<'a> {
    client: Client<'a>,
    upload_bytes: u64,
    stop: AtomicBool,
    refusals: AtomicU64,
}

async fn everything(
    target: &dyn Target,
    daemons: &[&Daemon],
    copies: u64,
    tally: &mut Tally,
    place: &str,
) -> Result<()> {
    let scene = Scene {
        client: Client::new(target, 0),
        upload_bytes: upload_bytes(copies)?,
        stop: AtomicBool::new(false),
        refusals: AtomicU64::new(0),
    };
    let grouped = MemoryGroup::new("probe", ENFORCED_BYTES).is_ok();
    let how = if grouped { "by a control group" } else { "by a limit of data" };
    tally.note(format!("{place}: 1 GiB a process, enforced {how}"));
    tally.note(format!("{place}: {UPLOADS} uploads of {} MiB, {copies} copies", scene.upload_bytes >> 20));
    scene.stored(Request::bucket("PUT", BUCKET)).await?;
    scene.stored(slow_object("PUT").generated(Pattern::new(1, SLOW_BYTES))).await?;
    let began = Instant::now();
    let work = async {
        let done = try_join_all((0..UPLOADS).map(|number| scene.upload(number))).await;
        scene.stop.store(true, Ordering::Relaxed);
        done.map(drop)
    };
    let bulk = try_join_all((0..BULK_WRITERS).map(|writer| scene.bulk(writer)));
    let (uploads, (readers, idle, lists, bulk)) =
        join(work, join4(scene.slow_readers(), scene.idle(), scene.lists(), bulk)).await;
    let bulk: u64 = bulk?.iter().sum();
    let lists = lists?;
    tally.note(format!(
        "{place}: {:.0} s, meanwhile {bulk} small objects stored, {lists} full listings, {} refusals",
        began.elapsed().as_secs_f64(),
        scene.refusals.load(Ordering::Relaxed)
    ));
    tally.check(&format!("{place}: all uploads are stored"), uploads.map_err(|error| format!("{error:#}")));
    tally.check(&format!("{place}: slow readers read on"), readers.map_err(|error| format!("{error:#}")));
    tally.check(&format!("{place}: idle connections are taken"), idle.map_err(|error| format!("{error:#}")));
    let nothing_lost = scene.nothing_lost(bulk).await.map_err(|error| format!("{error:#}"));
    tally.check(&format!("{place}: nothing is lost"), nothing_lost);
    for daemon in daemons {
        lives_within_its_limit(daemon, tally);
    }
    Ok(())
}

/// What fits on the disk, with a tenth to spare.
fn upload_bytes(copies: u64) -> Result<u64> {
    let probe = scratch("memory-")?;
    let found = rustix::fs::statvfs(probe.path()).context("free space")?;
    let fits = found.f_bavail * found.f_frsize / 10 * 9 / copies / UPLOADS;
    Ok(UPLOAD_BYTES_MAX.min(fits >> 20 << 20))
}

fn slow_object(method: &str) -> Request {
    Request::object(method, BUCKET, "slow")
}

fn upload_object(method: &str, number: u64) -> Request {
    Request::object(method, BUCKET, &format!("upload/{number:02}"))
}

fn bulk_key(writer: u64, number: u64) -> String {
    format!("bulk/{writer:02}/{number:08}")
}

impl Scene<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn pattern(&self, number: u64) -> Pattern {
        Pattern::new(1000 + number, self.upload_bytes).compressible()
    }

    /// Sends until it is not refused, as an SDK would.
    async fn stored(&self, request: Request) -> Result<()> {
        loop {
            let response = self.client.send(request.clone()).await?;
            match response.status {
                200 => return Ok(()),
                503 => self.refusals.fetch_add(1, Ordering::Relaxed),
                _ => bail!("{} {}: {}", request.method, request.path, response.describe()),
            };
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }

    async fn upload(&self, number: u64) -> Result<()> {
        self.stored(upload_object("PUT", number).generated(self.pattern(number))).await
    }

    /// Stores small objects one after the other; returns how many.
    async fn bulk(&self, writer: u64) -> Result<u64> {
        let mut number = 0;
        while self.goes_on() {
            let object = Request::object("PUT", BUCKET, &bulk_key(writer, number));
            self.stored(object.generated(Pattern::new(number, BULK_BYTES))).await?;
            number += 1;
        }
        Ok(number)
    }

    async fn slow_readers(&self) -> Result<()> {
        try_join_all((0..SLOW_READERS).map(|_| self.read_slowly())).await.map(drop)
    }

    async fn read_slowly(&self) -> Result<()> {
        while self.goes_on() {
            let mut stream = self.client.connect().await?;
            stream.write_all(&self.client.sign(slow_object("GET")).bytes()).await?;
            let mut buffer = vec![0; SLOW_STEP];
            let mut received = 0;
            while received < SLOW_BYTES && self.goes_on() {
                let count = stream.read(&mut buffer).await?;
                ensure!(count > 0, "cut off after {received} bytes");
                if received == 0 && buffer.starts_with(b"HTTP/1.1 503") {
                    self.refusals.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    break;
                }
                let head = String::from_utf8_lossy(&buffer[..count.min(20)]).into_owned();
                ensure!(received > 0 || head.starts_with("HTTP/1.1 200"), "answered with {head}");
                received += count as u64;
                tokio::time::sleep(SLOW_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Holds connections that say nothing.
    async fn idle(&self) -> Result<()> {
        while self.goes_on() {
            let open = try_join_all((0..IDLE_CONNECTIONS).map(|_| self.client.connect())).await?;
            let began = Instant::now();
            while self.goes_on() && began.elapsed() < IDLE_TIME {
                tokio::time::sleep(SLOW_PAUSE).await;
            }
            drop(open);
        }
        Ok(())
    }

    /// Lists everything, again and again; returns how often.
    async fn lists(&self) -> Result<u64> {
        let mut lists = 0;
        while self.goes_on() {
            self.list().await?;
            lists += 1;
        }
        Ok(lists)
    }

    /// All keys, in order.
    async fn list(&self) -> Result<Vec<String>> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let page = Request::bucket("GET", BUCKET).query("list-type", 2);
            let page = page.query("start-after", keys.last().cloned().unwrap_or_default());
            let response = self.client.send(page).await?;
            if response.status == 503 {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            ensure!(response.status == 200, "list: {}", response.describe());
            let page = response.xml().map_err(Error::msg)?;
            for object in page.all("Contents") {
                let key = object.text_of("Key").to_string();
                ensure!(keys.last() < Some(&key), "{key} is out of order");
                keys.push(key);
            }
            if page.text_of("IsTruncated") == "false" {
                return Ok(keys);
            }
        }
    }

    /// Reads all uploads back, finds all keys, and looks into some small objects.
    async fn nothing_lost(&self, bulk: u64) -> Result<()> {
        let keys: BTreeSet<String> = self.list().await?.into_iter().collect();
        let wanted = bulk + UPLOADS + 1;
        ensure!(keys.len() as u64 == wanted, "{} keys of {wanted}", keys.len());
        let small = keys.iter().filter(|key| key.starts_with("bulk/")).step_by(101);
        for key in small {
            let number: u64 = key.rsplit('/').next().unwrap_or_default().parse()?;
            let found = ok(&self.client, Request::object("GET", BUCKET, key)).await.map_err(Error::msg)?;
            ensure!(found.body == Pattern::new(number, BULK_BYTES).bytes(), "{key} has other bytes");
        }
        let check = async |first: usize| {
            for number in (first as u64..UPLOADS).step_by(CHECKERS) {
                let mut check = PatternCheck::new(self.pattern(number));
                let found = self.client.send_checking(upload_object("GET", number), &mut check).await?;
                ensure!(found.status == 200, "upload {number}: {}", found.describe());
                check.finish().map_err(|why| Error::msg(format!("upload {number}: {why}")))?;
            }
            Ok(())
        };
        join_all((0..CHECKERS).map(check)).await.into_iter().collect()
    }
}

fn lives_within_its_limit(daemon: &Daemon, tally: &mut Tally) {
    let name = daemon.name();
    let Some((_, most)) = daemon.resident() else {
        let ended = format!("{:?}: {}", daemon.exited(), daemon.log_tail());
        return tally.check(&format!("{name} was not ended"), Err(ended));
    };
    tally.check(&format!("{name} was not ended"), Ok(()));
    tally.note(format!("{name} resident at most {} MiB", most >> 20));
    let outcome = if most <= MEMORY_LIMIT { Ok(()) } else { Err(format!("{} MiB", most >> 20)) };
    tally.check(&format!("{name} stays within its memory_limit"), outcome);
}
