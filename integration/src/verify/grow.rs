//! A store in one process becomes a cluster of three, with the same data, users and keys.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::campaign::put_and_get;
use super::voters;
use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request, Target};
use crate::daemons::{Cluster, Embedded};

const BUCKET: &str = "grown";
/// Bytes of the large object.
const LARGE: u64 = 20 << 20;

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let small = Embedded::start(&["--data", "fluffy-data"]).await?;
        fill(&small).await?;
        small.gateway.daemon.terminate().await?;
        let home = small.directory().join("fluffy-data");

        let begin = Instant::now();
        let store = Cluster::prepare_from(&home, 3, 2)?;
        fs::rename(home.join("node-1"), store.directory().join("node-1")).context("move the node's data")?;
        store.restart_node(0).await.context("start the node of the small store")?;
        for (place, id) in [(1, "2"), (2, "3")] {
            store.restart_node(place).await?;
            store.operation(&["add", id])()?;
        }
        for gateway in &store.gateways {
            gateway.start().await?;
        }
        voters::settle(&store, |voters| voters.len() == 3).await?;
        tally.note(format!("from one process to three nodes and voters: {} ms", begin.elapsed().as_millis()));

        tally.check("a grown store has the objects of the small one", is_there(&store).await);
        let whole = store.operation(&["verify"])().map(drop).map_err(|error| format!("{error:#}"));
        tally.check("every object has its copies on all three", whole);
        store.nodes[0].kill();
        tally.check("the first node is no longer needed", is_there(&store).await);
        let written = put_and_get(&Client::new(&store, 1), BUCKET, 5 << 20).await.map(drop);
        tally.check("and new objects do not need it", written);
        Ok(())
    })
}

async fn fill(store: &dyn Target) -> Result<()> {
    let client = Client::new(store, 0);
    let bucket = client.send(Request::bucket("PUT", BUCKET)).await?;
    ensure!(bucket.status == 200, "create a bucket: {}", bucket.describe());
    for number in 0..50 {
        let key = format!("small/{number}");
        let put = client.send(Request::object("PUT", BUCKET, &key).body(format!("body {number}"))).await?;
        ensure!(put.status == 200, "put {key}: {}", put.describe());
    }
    let large = Request::object("PUT", BUCKET, "large-before").generated(Pattern::new(7, LARGE));
    let put = client.send(large).await?;
    ensure!(put.status == 200, "put: {}", put.describe());
    Ok(())
}

/// Everything, under the keys of the small store's first user.
async fn is_there(store: &dyn Target) -> Result<(), String> {
    for gateway in 0..store.gateways() {
        let client = Client::new(store, gateway);
        for number in 0..50 {
            let key = format!("small/{number}");
            let get = client.send(Request::object("GET", BUCKET, &key)).await;
            let get = get.map_err(|error| format!("{key}: {error}"))?;
            if get.body != format!("body {number}").into_bytes() {
                return Err(format!("{key}: {}", get.describe()));
            }
        }
        let mut check = PatternCheck::new(Pattern::new(7, LARGE));
        let get = client.send_checking(Request::object("GET", BUCKET, "large-before"), &mut check).await;
        get.map_err(|error| format!("the large object: {error}"))?;
        check.finish().map_err(|why| format!("the large object: {why}"))?;
    }
    Ok(())
}
