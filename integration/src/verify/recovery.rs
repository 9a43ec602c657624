//! The worst day: two of three voters are lost for good, and the cluster goes on from the third; then all of them are,
//! and it goes on from a backup; then there is no backup either, and it goes on from the chunks.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::campaign::{BUCKET, History, all_there, under_load};
use super::{Tally, block_on, voters};
use crate::client::{Client, Pattern, Request};
use crate::conformance::{multipart, ok};
use crate::daemons::Cluster;

/// What of a voter's data directory is of the old epoch.
const OF_THE_EPOCH: [&str; 3] = ["identity", "raft", "tables.redb"];

/// Copies that are owed arrive in the background: so often, and with this pause, `verify` is asked.
const PROOFS_MAX: usize = 20;
/// An object that a majority has which is lost then; too large for the metadata.
const MISSED: &str = "missed";
const MISSED_BYTES: u64 = 3 << 20;
/// A bucket of which nothing but chunks is left in the end.
const TREASURE: &str = "treasure";
const PROOF_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(3, 1, "").await?;
        let client = Client::new(&store, 0);
        let created = client.send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        let before = under_load(&store, 0, async { Ok(()) }).await?;
        whole(&store).context("before")?;

        // The node that is left does not hear of the last object.
        store.nodes[0].kill();
        let missed = Request::object("PUT", BUCKET, MISSED).generated(Pattern::new(1, MISSED_BYTES));
        ok(&client, missed).await.map_err(anyhow::Error::msg)?;

        // One of the lost voters lost everything, the other one its metadata only.
        store.nodes.iter().for_each(|node| node.kill());
        store.gateways.iter().for_each(|gateway| gateway.daemon.kill());
        let home = store.directory();
        fs::remove_dir_all(home.join("node-2"))?;
        let recover = ["recover", "--node", "1", "--data", "node-1"];
        tally.check("what would be lost is told first", store.refuses(&recover, "Nothing was changed"));
        let told = store.operation(&[&recover[..], &["--accept-loss"]].concat())()?;
        tally.check(
            "what is lost is told",
            said(&told, &["up to entry", "UNDECIDED", "GIVEN UP are the members 2-", "epoch 2"]),
        );
        let begin = Instant::now();
        store.restart_node(0).await?;
        store.gateways[0].start().await?;
        tally.note(format!("from one node of three, start to ready: {} ms", begin.elapsed().as_millis()));
        tally.check("all that was acknowledged is there", all_there(&store, &before).await);

        let old = store.nodes[2].refusal().await;
        let old = old.and_then(|told| said(&told, &["is at epoch 2", "identity"]));
        tally.check("a voter of the old epoch is refused", old);
        forget_epoch(&home.join("node-3"))?;
        vote_again(&store, &[1, 2]).await?;
        let lost = store.operation(&["lost"])()?;
        let line = format!("{BUCKET}/{MISSED}: {MISSED_BYTES} bytes on node 3");
        tally.check("what may be lost is listed", said(&lost, &[&line]));
        store.nodes[0].kill();
        tally.check("the new voters bear the loss of the old one", all_there(&store, &before).await);
        let after = under_load(&store, 1, async { Ok(()) }).await?;
        store.restart_node(0).await?;

        // Deletes free nothing until somebody says so.
        for (key, _) in before.iter().flat_map(|history| &history.acknowledged).take(5) {
            let deleted = client.send(Request::object("DELETE", BUCKET, key)).await?;
            ensure!(deleted.status == 204, "delete: {}", deleted.describe());
        }
        let kept = store.operation(&["nodes"])()?;
        tally.check("`nodes` tells that garbage is kept", said(&kept, &["garbage is kept"]));
        store.operation(&["collect"])()?;
        let collected = store.operation(&["nodes"])()?;
        let outcome = if collected.contains("garbage is kept") { Err(collected) } else { Ok(()) };
        tally.check("`collect` ends that", outcome);
        tally.check("what came after is there", all_there(&store, &after).await);
        ok(&client, Request::bucket("GET", BUCKET)).await.map_err(anyhow::Error::msg)?;
        let proved = whole(&store);
        tally.check("everything is whole again", proved.map(drop).map_err(|error| format!("{error:#}")));
        from_a_backup(&store, &after, tally).await?;
        from_chunks_alone(&store, tally).await
    })
}

/// All voters lose their metadata, and the chunks of one are gone, too.
async fn from_a_backup(store: &Cluster, before: &[History], tally: &mut Tally) -> Result<()> {
    let told = store.operation(&["backup", "--to", "first.backup"])()?;
    tally.note(told.lines().next_back().unwrap_or_default().to_string());
    tally.check("a backup is not overwritten", store.refuses(&["backup", "--to", "first.backup"], "exists"));
    let late = Request::object("PUT", BUCKET, "after-the-backup").body(b"late".to_vec());
    ok(&Client::new(store, 0), late).await.map_err(anyhow::Error::msg)?;
    store.nodes.iter().for_each(|node| node.kill());
    store.gateways.iter().for_each(|gateway| gateway.daemon.kill());
    let restore = ["restore", "--from", "first.backup", "--node", "1", "--data", "node-1"];
    tally.check("metadata is not overwritten", store.refuses(&restore, "there is metadata already"));
    for node in ["node-1", "node-2", "node-3"] {
        forget_epoch(&store.directory().join(node))?;
    }
    fs::remove_dir_all(store.directory().join("node-3/chunks"))?;
    let told = store.operation(&restore)()?;
    tally.check("a restore tells what is lost", said(&told, &["from a backup that was made", "epoch 3"]));
    store.restart_node(0).await?;
    store.gateways[0].start().await?;
    vote_again(store, &[1, 2]).await?;
    tally.check("everything up to the backup is there", all_there(store, before).await);
    let found = Client::new(store, 0).send(Request::object("GET", BUCKET, "after-the-backup")).await?;
    let outcome = if found.status == 404 { Ok(()) } else { Err(found.describe()) };
    tally.check("what came after the backup is not", outcome);
    store.operation(&["collect"])()?;
    let proved = whole(store);
    tally
        .check("everything is whole after a restore", proved.map(drop).map_err(|error| format!("{error:#}")));
    Ok(())
}

/// All metadata are lost, the chunks of one node, too, and nobody made a backup.
async fn from_chunks_alone(store: &Cluster, tally: &mut Tally) -> Result<()> {
    let client = Client::new(store, 0);
    let send = async |request: Request| ok(&client, request).await.map_err(anyhow::Error::msg);
    let object = |method: &str, key: &str| Request::object(method, TREASURE, key);
    send(Request::bucket("PUT", TREASURE)).await?;
    let large = Pattern::new(7, 3 << 20);
    let described =
        object("PUT", "large").header("content-type", "image/png").header("x-amz-meta-colour", "green");
    send(described.generated(large)).await?;
    for seed in [8, 9] {
        send(object("PUT", "overwritten").generated(Pattern::new(seed, 100_000))).await?;
    }
    send(object("PUT", "small").body(b"in the metadata".to_vec())).await?;
    let parts = [Pattern::new(10, 5 << 20), Pattern::new(11, 1 << 20)];
    let completed = upload(&client, "parts", &parts).await?;
    whole(store).context("before all metadata are lost")?;

    store.nodes.iter().for_each(|node| node.kill());
    store.gateways.iter().for_each(|gateway| gateway.daemon.kill());
    for node in ["node-1", "node-2", "node-3"] {
        forget_epoch(&store.directory().join(node))?;
    }
    fs::remove_dir_all(store.directory().join("node-3/chunks"))?;
    let told = store.operation(&["restore", "--without-backup", "--node", "1", "--data", "node-1"])()?;
    tally.check("it is told that no metadata are left", said(&told, &["and no metadata", "salvage"]));
    store.restart_node(0).await?;
    vote_again(store, &[1, 2]).await?;
    store.gateways[0].start().await?;
    let told = store.operation(&["salvage"])()?;
    tally.note(told.lines().next_back().unwrap_or_default().to_string());

    let found = send(object("GET", "large")).await?;
    let headers = (found.header("content-type"), found.header("x-amz-meta-colour"));
    let same = found.body == large.bytes() && headers == (Some("image/png"), Some("green"));
    tally.check("an object comes back with its headers", if same { Ok(()) } else { Err(found.describe()) });
    let found = send(object("GET", "overwritten")).await?;
    let newest = found.body == Pattern::new(9, 100_000).bytes();
    tally.check("of two bodies the newer one does", if newest { Ok(()) } else { Err(found.describe()) });
    let found = send(object("GET", "parts")).await?;
    let same = found.body == parts.map(|part| part.bytes()).concat() && found.etag() == completed;
    tally.check("parts come back as one object", if same { Ok(()) } else { Err(found.describe()) });
    let small = client.send(object("GET", "small")).await?;
    let gone = if small.status == 404 { Ok(()) } else { Err(small.describe()) };
    tally.check("what lay in the metadata is lost", gone);
    let again = store.operation(&["salvage"])()?;
    tally.check("nothing comes back twice", said(&again, &["0 objects with 0 bytes came back"]));
    store.operation(&["collect"])()?;
    tally.check("`salvage` is refused afterwards", store.refuses(&["salvage"], "garbage is collected"));
    let proved = whole(store);
    tally
        .check("everything is whole after a salvage", proved.map(drop).map_err(|error| format!("{error:#}")));
    Ok(())
}

/// Uploads an object in parts. Its tag.
async fn upload(client: &Client<'_>, key: &str, parts: &[Pattern]) -> Result<String> {
    let object = |method: &str| Request::object(method, TREASURE, key);
    let send = async |request: Request| ok(client, request).await.map_err(anyhow::Error::msg);
    let begun = send(object("POST").flag("uploads")).await?.xml().map_err(anyhow::Error::msg)?;
    let id = begun.text_of("UploadId");
    let mut sent = Vec::new();
    for (number, part) in (1..).zip(parts) {
        let put = object("PUT").query("partNumber", number).query("uploadId", id).generated(*part);
        sent.push((number, send(put).await?.etag().to_string()));
    }
    send(multipart::complete(TREASURE, key, id, &sent)).await?;
    Ok(send(object("HEAD")).await?.etag().to_string())
}

fn forget_epoch(data: &Path) -> Result<()> {
    for file in OF_THE_EPOCH {
        let path = data.join(file);
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// Starts nodes that are no voters any more, and waits until the cluster has made voters of them again.
async fn vote_again(store: &Cluster, places: &[usize]) -> Result<()> {
    for place in places {
        store.restart_node(*place).await?;
    }
    voters::settle(store, |voters| places.iter().all(|place| voters.contains(&(*place as u64 + 1)))).await
}

/// Waits until `verify` has nothing to say: debts and losses are made up for in the background.
fn whole(store: &Cluster) -> Result<String> {
    let mut tries = 0;
    loop {
        tries += 1;
        match store.operation(&["verify"])() {
            Err(_) if tries < PROOFS_MAX => std::thread::sleep(PROOF_PAUSE),
            proved => return proved,
        }
    }
}

fn said(told: &str, words: &[&str]) -> Result<(), String> {
    if words.iter().all(|word| told.contains(word)) { Ok(()) } else { Err(told.to_string()) }
}
