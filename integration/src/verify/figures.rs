//! `cargo verify figures`: start times, and 5 GiB objects through processes with little memory.

use std::time::Instant;

use anyhow::{Error, Result, ensure};

use super::campaign::{footprint, put_and_get};
use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request};
use crate::daemons::{Cluster, Embedded, metric};

/// The largest body of one PUT.
const PUT_BYTES: u64 = 5 << 30;
/// Parts of the multipart upload, and bytes of each.
const PARTS: u64 = 80;
const PART_BYTES: u64 = 64 << 20;
/// Configuration of processes with little memory.
const SMALL: &str = "storage:\n  memory_limit: 512MiB\ngateway:\n  memory_limit: 512MiB\n";
/// A cache of 26 MB, of which the hot objects take less than the part that scans do not reach, and the others ten times
/// all of it.
const SCANNED_LIMIT: &str = "256MiB";
const SCANNED_BYTES: u64 = 256 << 10;
const HOT_OBJECTS: u64 = 60;
const COLD_OBJECTS: u64 = 1_000;
/// Starts that are measured; the median counts.
const STARTS: usize = 5;

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        starts(tally, "embedded", &["--data", "fluffy-data"], 1000).await?;
        starts(tally, "--nodes 3", &["--data", "fluffy-data", "--nodes", "3"], 2000).await?;
        starts(tally, "--memory", &["--memory"], 50).await?;
        scan(tally).await?;
        embedded_large(tally).await?;
        cluster_large(tally).await
    })?;
    super::campaign::failover(tally)
}

async fn starts(tally: &mut Tally, name: &str, args: &[&str], aim_ms: u128) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        times.push(Embedded::start(args).await?.start_time.as_millis());
    }
    times.sort_unstable();
    let median = times[STARTS / 2];
    tally.note(format!("start to ready, {name}: median {median} ms of {times:?}"));
    let outcome = if median <= aim_ms { Ok(()) } else { Err(format!("{median} ms")) };
    tally.check(&format!("{name} starts within {aim_ms} ms"), outcome);
    Ok(())
}

/// What is hot is still in the cache after all the rest was read once.
async fn scan(tally: &mut Tally) -> Result<()> {
    let store = Embedded::start(&["--memory-limit", SCANNED_LIMIT]).await?;
    let client = Client::new(&store, 0);
    crate::conformance::ok(&client, Request::bucket("PUT", "scanned")).await.map_err(Error::msg)?;
    let object = |method: &str, number: u64| Request::object(method, "scanned", &format!("{number:05}"));
    for number in 0..HOT_OBJECTS + COLD_OBJECTS {
        let put = object("PUT", number).generated(Pattern::new(number, SCANNED_BYTES));
        crate::conformance::ok(&client, put).await.map_err(Error::msg)?;
    }
    let read = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            crate::conformance::ok(&client, object("GET", number)).await.map_err(Error::msg)?;
        }
        let hits = metric(store.gateway.admin, "fluffy_cache_hits_total").await?;
        anyhow::Ok(hits.unwrap_or(0.0))
    };
    // What is read twice is hot; the third time all of it is there.
    read(0..HOT_OBJECTS).await?;
    let twice = read(0..HOT_OBJECTS).await?;
    let hot = read(0..HOT_OBJECTS).await? - twice;
    ensure!(hot >= HOT_OBJECTS as f64, "the hot set does not fit: {hot} of {HOT_OBJECTS} reads hit");
    let before = read(HOT_OBJECTS..HOT_OBJECTS + COLD_OBJECTS).await?;
    let after = read(0..HOT_OBJECTS).await?;
    let hits = (after - before) / HOT_OBJECTS as f64;
    tally.note(format!("after a scan of ten times the cache {:.0} % of the hot set hit", hits * 100.0));
    let outcome = if hits >= 0.9 { Ok(()) } else { Err(format!("{:.0} %", hits * 100.0)) };
    tally.check("a scan of ten times the cache leaves 90 % of the hot set in it", outcome);
    Ok(())
}

async fn embedded_large(tally: &mut Tally) -> Result<()> {
    let store = Embedded::start(&["--data", "fluffy-data", "--memory-limit", "512MiB"]).await?;
    large(&Client::new(&store, 0), tally, "embedded").await?;
    footprint(&store.gateway.daemon, tally);
    Ok(())
}

async fn cluster_large(tally: &mut Tally) -> Result<()> {
    let store = Cluster::start(3, 1, SMALL).await?;
    large(&Client::new(&store, 0), tally, "cluster").await?;
    for daemon in store.nodes.iter().chain(store.gateways.iter().map(|gateway| &gateway.daemon)) {
        footprint(daemon, tally);
    }
    Ok(())
}

async fn large(client: &Client<'_>, tally: &mut Tally, place: &str) -> Result<()> {
    let created = client.send(Request::bucket("PUT", "large")).await?;
    ensure!(created.status == 200, "create a bucket: {}", created.describe());
    let single = put_and_get(client, "large", PUT_BYTES).await;
    if let Ok((put, get)) = &single {
        tally.note(format!(
            "{place}: 5 GiB by one PUT {:.1} s, GET {:.1} s",
            put.as_secs_f64(),
            get.as_secs_f64()
        ));
    }
    tally.check(&format!("{place}: 5 GiB by a single PUT, and back"), single.map(|_| ()));
    let begin = Instant::now();
    let outcome = multipart(client).await;
    tally.note(format!("{place}: 5 GiB by {PARTS} parts and back: {:.1} s", begin.elapsed().as_secs_f64()));
    tally.check(&format!("{place}: 5 GiB by multipart, and back"), outcome);
    Ok(())
}

async fn multipart(client: &Client<'_>) -> Result<(), String> {
    let object = |method: &str| Request::object(method, "large", "parts");
    let created = crate::conformance::ok(client, object("POST").flag("uploads")).await?;
    let id = created.xml()?.text_of("UploadId").to_string();
    let mut list = String::new();
    for index in 0..PARTS {
        let body = Pattern::slice(77, index * PART_BYTES, PART_BYTES);
        let part = object("PUT").query("partNumber", index + 1).query("uploadId", &id).generated(body);
        let etag = crate::conformance::ok(client, part).await?.etag().to_string();
        list.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1));
    }
    let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    crate::conformance::ok(client, object("POST").query("uploadId", &id).body(body)).await?;
    let mut check = PatternCheck::new(Pattern::new(77, PARTS * PART_BYTES));
    let get = client.send_checking(object("GET"), &mut check).await.map_err(|error| error.to_string())?;
    if get.status != 200 {
        return Err(get.describe());
    }
    check.finish()
}
