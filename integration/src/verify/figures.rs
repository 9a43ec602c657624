//! `cargo verify figures`: start times, and 5 GiB objects through processes with little memory.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::campaign::{footprint, put_and_get};
use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request};
use crate::daemons::{Cluster, Embedded};

/// The largest body of one PUT.
const PUT_BYTES: u64 = 5 << 30;
/// Parts of the multipart upload, and bytes of each.
const PARTS: u64 = 80;
const PART_BYTES: u64 = 64 << 20;
/// Configuration of processes with little memory.
const SMALL: &str = "storage:\n  memory_limit: 512MiB\ngateway:\n  memory_limit: 512MiB\n";
/// Starts that are measured; the median counts.
const STARTS: usize = 5;

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        starts(tally, "embedded", &["--data", "fluffy-data"], 1000).await?;
        starts(tally, "--nodes 3", &["--data", "fluffy-data", "--nodes", "3"], 2000).await?;
        starts(tally, "--memory", &["--memory"], 50).await?;
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
        let body = Pattern { seed: 77, offset: index * PART_BYTES, length: PART_BYTES };
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
