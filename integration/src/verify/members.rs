//! Nodes that come, are drained and go: with real daemons, under load, one killed meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::campaign::{BUCKET, History, all_there, under_load};
use super::{Tally, block_on};
use crate::client::{Client, Pattern, Request};
use crate::daemons::Cluster;

/// Objects that have to move, and their bytes: several chunks each.
const OBJECTS: u64 = 40;
const OBJECT_BYTES: u64 = 3 << 20;
/// The node that comes and goes.
const NEW: &str = "4";
/// A voter that is drained, and another one that is killed meanwhile: their places.
const DRAINED: usize = 2;
const KILLED: usize = 0;

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let mut store = Cluster::start(3, 2, "").await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        let mut histories = vec![filled(&store).await?];

        store.add_node().await.context("start a fourth node")?;
        histories.extend(story(&store, 0, tally, "a node is added under load", &["add", NEW]).await?);
        let added = partitions(&store, 4)? > 0 && to_move(&store)? == 0;
        tally.check("the new node has its share", said(added, &store));
        tally.check("nothing is lost when a node was added", all_there(&store, &histories).await);
        tally.check("a node with data is not removed", store.refuses(&["remove", NEW], "drain it first"));

        let node = (DRAINED + 1).to_string();
        let drain = async {
            let cut = async {
                store.nodes[KILLED].kill();
                tokio::time::sleep(Duration::from_secs(3)).await;
                store.restart_node(KILLED).await
            };
            let (told, cut) = futures::future::join(operator(&store, &["drain", &node]), cut).await;
            cut.and(told)
        };
        histories.extend(
            under_load(&store, 1, timed(tally, "a node is drained, another one killed", drain)).await?,
        );
        tally.check("the drained node has no data", said(partitions(&store, DRAINED + 1)? == 0, &store));
        tally.check("nothing is lost when a node was drained", all_there(&store, &histories).await);
        store.nodes[DRAINED].kill();
        tally.check("nobody needs the drained node", all_there(&store, &histories).await);
        store.restart_node(DRAINED).await?;
        tally.check("too few nodes are not drained", store.refuses(&["drain", NEW], "add a node first"));

        timed(tally, "the drained node is added again", operator(&store, &["add", &node])).await?;
        timed(tally, "the fourth node is drained", operator(&store, &["drain", NEW])).await?;
        operator(&store, &["remove", NEW]).await?;
        tally.check("the fourth node is removed for ever", removed(&store).await);
        tally.check("nothing is lost in the end", all_there(&store, &histories).await);
        Ok(())
    })
}

/// What has to move.
async fn filled(store: &Cluster) -> Result<History> {
    let client = Client::new(store, 0);
    let mut history = History::default();
    for number in 0..OBJECTS {
        let (key, pattern) = (format!("moves/{number}"), Pattern::new(number, OBJECT_BYTES));
        let put = client.send(Request::object("PUT", BUCKET, &key).generated(pattern)).await?;
        ensure!(put.status == 200, "put: {}", put.describe());
        history.acknowledged.push((key, pattern));
    }
    Ok(history)
}

/// One command while writers write.
async fn story(
    store: &Cluster,
    number: usize,
    tally: &mut Tally,
    what: &str,
    command: &[&str],
) -> Result<Vec<History>> {
    under_load(store, number, timed(tally, what, operator(store, command))).await
}

async fn timed(tally: &mut Tally, what: &str, work: impl Future<Output = Result<()>>) -> Result<()> {
    let begin = Instant::now();
    work.await.context(what.to_string())?;
    tally.note(format!("{what}: {} ms", begin.elapsed().as_millis()));
    Ok(())
}

/// A command, away from the threads that write.
async fn operator(store: &Cluster, args: &[&str]) -> Result<()> {
    tokio::task::spawn_blocking(store.operation(args)).await?.map(drop)
}

/// What `fluffy-storage nodes --json` says.
fn nodes(store: &Cluster) -> Result<Value> {
    as_json(&store.operation(&["nodes", "--json"])()?)
}

/// The line of JSON in what a command said.
pub(super) fn as_json(said: &str) -> Result<Value> {
    let line = said.lines().find(|line| line.starts_with('{')).context("no JSON")?;
    Ok(serde_json::from_str(line)?)
}

fn partitions(store: &Cluster, node: usize) -> Result<u64> {
    let nodes = nodes(store)?;
    let row = nodes["nodes"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == node));
    row.and_then(|row| row["partitions"].as_u64()).with_context(|| format!("node {node} is not listed"))
}

fn to_move(store: &Cluster) -> Result<u64> {
    nodes(store)?["extents_to_move"].as_u64().context("extents_to_move")
}

fn said(good: bool, store: &Cluster) -> Result<(), String> {
    if good {
        Ok(())
    } else {
        Err(nodes(store).map_or_else(|error| error.to_string(), |nodes| nodes.to_string()))
    }
}

/// The removed node does not start again, and says why.
async fn removed(store: &Cluster) -> Result<(), String> {
    let node = store.nodes.last().ok_or("no nodes")?;
    node.kill();
    let said = node.refusal().await?;
    if said.contains("it was removed, and numbers do not come back") { Ok(()) } else { Err(said) }
}
