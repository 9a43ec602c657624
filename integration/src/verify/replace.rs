//! Disks exchanged, put back from a copy, and nodes that moved: with real daemons, under load.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::campaign::{BUCKET, all_there, under_load};
use super::{Tally, block_on};
use crate::client::{Client, Request};
use crate::daemons::Cluster;

/// The node whose disk has an eventful life: its place in the cluster.
const NODE: usize = 1;

pub(super) fn run_stage(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let mut store = Cluster::start(3, 2, "").await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        let mut histories = Vec::new();

        histories.extend(under_load(&store, 0, copied_directory(&store, tally)).await?);
        tally.check("nothing is lost after a copy was refused", all_there(&store, &histories).await);
        histories.extend(under_load(&store, 1, lost_disk(&store, tally)).await?);
        tally.check("nothing is lost after a voter was replaced", all_there(&store, &histories).await);
        // Not only lent by the others: the replaced voter counts.
        store.nodes[0].kill();
        histories.extend(under_load(&store, 2, async { Ok(()) }).await?);
        tally.check("the replaced voter counts when another is down", all_there(&store, &histories).await);
        store.restart_node(0).await?;

        let begin = Instant::now();
        store.move_nodes().await.context("start all nodes on other addresses")?;
        tally.note(format!(
            "all nodes on other addresses, start to ready: {} ms",
            begin.elapsed().as_millis()
        ));
        tally.check("everything is there after all nodes moved", all_there(&store, &histories).await);
        Ok(())
    })
}

/// A copy made before the last start of the node must not take part.
async fn copied_directory(store: &Cluster, tally: &mut Tally) -> Result<()> {
    let home = store.directory();
    let [data, own, copy] = ["node-2", "node-2.own", "node-2.copy"].map(|name| home.join(name));
    store.nodes[NODE].kill();
    copy_directory(&data, &copy)?;
    store.restart_node(NODE).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.nodes[NODE].kill();
    fs::rename(&data, &own)?;
    fs::rename(&copy, &data)?;
    for time in ["", " again"] {
        let said = store.nodes[NODE].refusal().await;
        let outcome = match said {
            Ok(said) if said.contains("an old or copied one") && said.contains("never start it again") => {
                Ok(())
            }
            Ok(said) => Err(format!("it does not say why: {said}")),
            Err(why) => Err(why),
        };
        tally.check(&format!("a copied directory is refused{time}"), outcome);
    }
    fs::remove_dir_all(&data)?;
    fs::rename(&own, &data)?;
    store.restart_node(NODE).await
}

/// An empty disk: the node prints the command that puts it in its place again.
async fn lost_disk(store: &Cluster, tally: &mut Tally) -> Result<()> {
    store.nodes[NODE].kill();
    fs::remove_dir_all(store.directory().join("node-2"))?;
    let said = store.nodes[NODE].refusal().await;
    tally.check("a voter with an empty disk refuses to start", said.clone().map(drop));
    let said = said.map_err(anyhow::Error::msg)?;
    let command = said.rsplit_once("run: replace ").map(|(_, names)| names.trim().to_string());
    let names = command.with_context(|| format!("no `replace` command in: {said}"))?;
    let names: Vec<&str> = names.split_whitespace().collect();
    store.operation(&[&["replace"], &names[..]].concat())()?;
    let begin = Instant::now();
    store.restart_node(NODE).await?;
    tally.note(format!("a replaced voter, start to ready: {} ms", begin.elapsed().as_millis()));
    tally.check("the printed command puts the voter in its place", Ok(()));
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
