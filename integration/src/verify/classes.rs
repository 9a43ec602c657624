//! Objects that are kept as shards: with real daemons killed, drained and robbed of their disks.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::members::as_json;
use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request};
use crate::daemons::Cluster;

const BUCKET: &str = "classes";
const CLASS: &str = "STANDARD_IA";
/// An uneven stripe, a whole one, some with a short one behind them, and many.
const SIZES: [u64; 4] = [100_001, 1 << 20, 3_500_000, 40 << 20];
/// After what happened everything is whole again within this.
const WHOLE_DEADLINE: Duration = Duration::from_secs(120);
/// Another gateway goes by a new default within this.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// What was written: keys, and what their bytes are.
type Written = Vec<(String, Pattern)>;

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        six(tally).await.context("six nodes")?;
        three(tally).await.context("three nodes")
    })
}

/// Four shards of data and two of parity.
async fn six(tally: &mut Tally) -> Result<()> {
    let store = start(6).await?;
    let mut written = write(&store, "all-up").await?;
    let proof = whole(&store).await?;
    let stored: u64 = SIZES.iter().sum();
    let ratio = proof["bytes"].as_u64().unwrap_or(0) as f64 / stored as f64;
    tally.note(format!("4+2: {ratio:.3} bytes on disks for each byte of an object"));
    tally.check(
        "shards take one and a half times the bytes",
        if ratio < 1.52 { Ok(()) } else { Err(proof.to_string()) },
    );

    let moved = transitions(&store, &mut written).await;
    tally.check("copies become shards where a rule moves them", moved.map_err(|why| format!("{why:#}")));

    for down in [[0, 4], [2, 5], [3, 4]] {
        let name = format!("{}-{}-down", down[0] + 1, down[1] + 1);
        down.iter().for_each(|node| store.nodes[*node].kill());
        tally.check(
            &format!("everything is read without nodes {} and {}", down[0] + 1, down[1] + 1),
            read(&store, &written).await,
        );
        let more = write(&store, &name).await;
        tally.check(
            &format!("objects are written with {name}"),
            more.as_ref().map(|_| ()).map_err(|why| format!("{why:#}")),
        );
        written.extend(more?);
        tally.check(&format!("they are read with {name}"), read(&store, &written).await);
        for node in down {
            store.restart_node(node).await?;
        }
        let again = whole(&store).await;
        tally.check(
            &format!("everything is whole after {name}"),
            again.map(drop).map_err(|why| format!("{why:#}")),
        );
    }

    store.nodes[1].kill();
    let missing = write(&store, "one-down").await?;
    tally.check("one node of six may be down when shards are written", read(&store, &missing).await);
    written.extend(missing);
    store.restart_node(1).await?;
    let paid = timed(tally, "what a node missed is rebuilt", whole(&store)).await;
    tally.check("what a node missed is rebuilt", paid);
    // With five nodes they would become shards that stand the loss of one.
    let again = timed(tally, "what became copies becomes shards", all_are_shards(&store)).await;
    tally.check("what became copies for want of a node becomes shards", again);

    operator(&store, &["drain", "6"]).await?;
    let drained = timed(tally, "five nodes hold the shards of six", whole(&store)).await;
    tally.check("five nodes hold the shards of six", drained);
    store.nodes[5].kill();
    tally.check("nobody needs the drained node", read(&store, &written).await);
    store.nodes[0].kill();
    tally.check("nor one more, which holds two shards of some", read(&store, &written).await);
    store.restart_node(0).await?;
    store.restart_node(5).await?;
    operator(&store, &["add", "6"]).await?;
    let added = timed(tally, "six nodes hold a shard each again", whole(&store)).await;
    tally.check("six nodes hold a shard each again", added);
    for node in [1, 4] {
        store.nodes[node].kill();
        fs::remove_dir_all(store.directory().join(format!("node-{}/chunks", node + 1)))?;
        store.restart_node(node).await?;
    }
    tally.check("everything is read while two nodes restore their shards", read(&store, &written).await);
    let restored = timed(tally, "two nodes that lost their shards hold them again", whole(&store)).await;
    tally.check("two nodes that lost their shards hold them again", restored);

    tally.check("everything is read in the end", read(&store, &written).await);
    tally
        .check("a bucket has a default class", default_class(&store).await.map_err(|why| format!("{why:#}")));
    Ok(())
}

/// Two shards of data and one of parity.
async fn three(tally: &mut Tally) -> Result<()> {
    let store = start(3).await?;
    let mut written = write(&store, "all-up").await?;
    whole(&store).await?;
    for down in 0..3 {
        store.nodes[down].kill();
        tally.check(
            &format!("everything is read without node {} of three", down + 1),
            read(&store, &written).await,
        );
        let more = write(&store, &format!("{}-down", down + 1)).await?;
        tally.check("objects become copies where a node of three is down", read(&store, &more).await);
        written.extend(more);
        store.restart_node(down).await?;
        let again = whole(&store).await;
        tally.check(
            "and everything is whole when it is back",
            again.map(drop).map_err(|why| format!("{why:#}")),
        );
    }
    Ok(())
}

/// Writes whole copies that a rule moves, and waits until they take no more than shards do.
async fn transitions(store: &Cluster, written: &mut Written) -> Result<()> {
    let moves = write_in(store, "moves", "STANDARD").await?;
    // Without a size in the filter small ones would stay.
    let rule = "<LifecycleConfiguration><Rule><ID>moves</ID><Filter><And><Prefix>moves/</Prefix>\
                <ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></And></Filter><Status>Enabled</Status>\
                <Transition><Days>1</Days><StorageClass>STANDARD_IA</StorageClass></Transition>\
                </Rule></LifecycleConfiguration>";
    let put = Request::bucket("PUT", BUCKET).flag("lifecycle").body(rule).content_md5();
    let set = Client::new(store, 0).send(put).await?;
    ensure!(set.status == 200, "set a rule: {}", set.describe());
    let (proof, stored) = (all_are_shards(store).await?, 2 * SIZES.iter().sum::<u64>());
    ensure!(proof["bytes"].as_u64().unwrap_or(u64::MAX) as f64 / (stored as f64) < 1.52, "{proof}");
    for (key, _) in &moves {
        let head = Client::new(store, 1).send(Request::object("HEAD", BUCKET, key)).await?;
        ensure!(head.header("x-amz-storage-class") == Some(CLASS), "{key}: {}", head.describe());
    }
    read(store, &moves).await.map_err(anyhow::Error::msg)?;
    written.extend(moves);
    Ok(())
}

async fn start(nodes: usize) -> Result<Cluster> {
    let store = Cluster::start(nodes, 2, "lifecycle_day_seconds: 2\n").await?;
    let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
    ensure!(created.status == 200, "create a bucket: {}", created.describe());
    Ok(store)
}

/// Writes an object of each size. One that is refused, as a node that is gone was not known to be, is sent again, as
/// clients do.
async fn write(store: &Cluster, prefix: &str) -> Result<Written> {
    write_in(store, prefix, CLASS).await
}

async fn write_in(store: &Cluster, prefix: &str, class: &str) -> Result<Written> {
    let mut written = Vec::new();
    for (number, length) in (0..).zip(SIZES) {
        let (key, pattern) = (format!("{prefix}/{length}"), Pattern::new(number + length, length));
        let client = Client::new(store, number as usize % 2);
        let began = Instant::now();
        loop {
            let put = Request::object("PUT", BUCKET, &key).header("x-amz-storage-class", class);
            let put = client.send(put.generated(pattern)).await?;
            match put.status {
                200 => break,
                503 if began.elapsed() < Duration::from_secs(30) => {
                    tokio::time::sleep(Duration::from_millis(300)).await
                }
                _ => bail!("put {key}: {}", put.describe()),
            }
        }
        written.push((key, pattern));
    }
    Ok(written)
}

/// Reads all of every object through one gateway, and a range over a border of chunks through the other.
async fn read(store: &Cluster, written: &[(String, Pattern)]) -> Result<(), String> {
    for (key, pattern) in written {
        let mut check = PatternCheck::new(*pattern);
        let get = Request::object("GET", BUCKET, key);
        let get = Client::new(store, 0)
            .send_checking(get, &mut check)
            .await
            .map_err(|why| format!("{key}: {why}"))?;
        if get.status != 200 {
            return Err(format!("{key}: {}", get.describe()));
        }
        check.finish().map_err(|why| format!("{key}: {why}"))?;
        let (first, last) = (pattern.length / 3, pattern.length / 3 + 50_000);
        let range = Request::object("GET", BUCKET, key).header("range", format!("bytes={first}-{last}"));
        let part = Client::new(store, 1).send(range).await.map_err(|why| format!("{key}: {why}"))?;
        let mut expected = vec![0; 50_001];
        pattern.fill(first, &mut expected);
        if part.status != 206 || part.body != expected {
            return Err(format!("bytes {first}-{last} of {key}: status {}", part.status));
        }
    }
    Ok(())
}

/// Waits until nothing is whole copies any more.
async fn all_are_shards(store: &Cluster) -> Result<Value> {
    let began = Instant::now();
    loop {
        let found = whole(store).await?;
        if found["codings"]["copies"].is_null() {
            return Ok(found);
        }
        ensure!(began.elapsed() < WHOLE_DEADLINE, "some are copies still: {found}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until `fluffy-storage verify` finds everything where it belongs; returns what it found.
async fn whole(store: &Cluster) -> Result<Value> {
    let began = Instant::now();
    loop {
        let said = tokio::task::spawn_blocking(store.operation(&["verify", "--json"])).await?;
        match said {
            Ok(said) => {
                let found = as_json(&said)?;
                if found["whole"] == true && found["extents_to_move"] == 0 {
                    return Ok(found);
                }
                ensure!(began.elapsed() < WHOLE_DEADLINE, "not whole: {said}");
            }
            Err(why) => ensure!(began.elapsed() < WHOLE_DEADLINE, "not whole: {why:#}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn timed(
    tally: &mut Tally,
    what: &str,
    work: impl Future<Output = Result<Value>>,
) -> Result<(), String> {
    let began = Instant::now();
    work.await.map_err(|why| format!("{why:#}"))?;
    tally.note(format!("{what}: {} ms", began.elapsed().as_millis()));
    Ok(())
}

async fn operator(store: &Cluster, args: &[&str]) -> Result<()> {
    tokio::task::spawn_blocking(store.operation(args)).await?.map(drop)
}

/// What says no class gets that of its bucket, through any gateway; what says one keeps it.
async fn default_class(store: &Cluster) -> Result<()> {
    let users = store.users()?;
    let told = |args: &[&str]| -> Result<String> {
        let said = users.storage_class(args).map_err(anyhow::Error::msg)?;
        ensure!(said.code == 0, "storage-class {args:?}: {said:?}");
        Ok(said.output.trim().to_string())
    };
    ensure!(told(&["show", "--bucket", BUCKET])? == "STANDARD");
    ensure!(told(&["set", CLASS, "--bucket", BUCKET])? == CLASS);
    ensure!(users.storage_class(&["set", "GLACIER", "--bucket", BUCKET]).is_ok_and(|said| said.code != 0));
    ensure!(
        users.storage_class(&["set", CLASS, "--bucket", "no-such-bucket"]).is_ok_and(|said| said.code != 0)
    );
    for gateway in 0..2 {
        let client = Client::new(store, gateway);
        let began = Instant::now();
        loop {
            client.send(Request::object("PUT", BUCKET, "by-default").body("x")).await?;
            let head = client.send(Request::object("HEAD", BUCKET, "by-default")).await?;
            if head.header("x-amz-storage-class") == Some(CLASS) {
                break;
            }
            ensure!(began.elapsed() < DEFAULT_DEADLINE, "gateway {gateway} does not go by the default");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let plain = Request::object("PUT", BUCKET, "plain").header("x-amz-storage-class", "STANDARD");
        client.send(plain.body("x")).await?;
        let head = client.send(Request::object("HEAD", BUCKET, "plain")).await?;
        ensure!(head.header("x-amz-storage-class").is_none(), "what says STANDARD is that");
    }
    ensure!(told(&["set", "STANDARD", "--bucket", BUCKET])? == "STANDARD");
    Ok(())
}
