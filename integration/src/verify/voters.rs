//! The cluster chooses who votes: five nodes in three zones, of which some are killed, drained and removed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::campaign::{BUCKET, all_there, under_load};
use super::members::as_json;
use super::{Tally, block_on};
use crate::client::{Client, Request};
use crate::daemons::{Cluster, metric};

/// A voter that is silent for longer is exchanged.
const SILENCE: &str = "voter_silence_seconds: 5\n";
/// The cluster has chosen by then.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// Zones of the nodes; the three voters of the birth share one.
const ZONES: [&str; 5] = ["a", "a", "a", "b", "c"];

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::prepare(5, 1, SILENCE, |daemon| daemon)?;
        store.name_zones(&ZONES)?;
        store.start_all().await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());

        let begin = Instant::now();
        let in_all_zones =
            |voters: &BTreeSet<u64>| voters.len() == 3 && voters.is_superset(&BTreeSet::from([4, 5]));
        let mut histories = under_load(&store, 0, settle(&store, in_all_zones)).await?;
        tally.note(format!("voters in three zones: {} ms", begin.elapsed().as_millis()));
        tally.check("nothing is lost when the voters moved", all_there(&store, &histories).await);

        // Two of three voters are lost, one after the other: more than they could bear at once.
        for node in [4, 5_usize] {
            store.nodes[node - 1].kill();
            let begin = Instant::now();
            let without = |voters: &BTreeSet<u64>| voters.len() == 3 && !voters.contains(&(node as u64));
            histories.extend(under_load(&store, node, settle(&store, without)).await?);
            tally.note(format!("node {node} is exchanged: {} ms", begin.elapsed().as_millis()));
        }
        tally.check("two voters are lost one by one, and nothing else", all_there(&store, &histories).await);

        for place in [3, 4] {
            store.restart_node(place).await?;
        }
        settle(&store, in_all_zones).await?;
        tally.check("the lost ones come back and vote", all_there(&store, &histories).await);
        tally.check("two nodes stand by", two_stand_by(&store).await);

        operation(&store, &["drain", "5"]).await?;
        operation(&store, &["remove", "5"]).await?;
        store.nodes[4].kill();
        let left = voters(&store).await?;
        let gone = if left.contains(&5) { Err(format!("{left:?} vote")) } else { Ok(()) };
        tally.check("a voter is drained and removed", gone);
        tally.check("nothing is lost in the end", all_there(&store, &histories).await);
        Ok(())
    })
}

/// A command, away from the threads that write.
async fn operation(store: &Cluster, args: &[&str]) -> Result<String> {
    tokio::task::spawn_blocking(store.operation(args)).await?
}

/// Waits until those vote that should.
pub(super) async fn settle(store: &Cluster, good: impl Fn(&BTreeSet<u64>) -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        // While nobody leads, nobody says it.
        let seen = voters(store).await;
        if seen.as_ref().is_ok_and(&good) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "after {PATIENCE:?} these vote: {seen:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ids of the nodes that vote.
async fn voters(store: &Cluster) -> Result<BTreeSet<u64>> {
    let nodes = as_json(&operation(store, &["nodes", "--json"]).await?)?;
    let rows = nodes["nodes"].as_array().context("nodes")?;
    Ok(rows.iter().filter(|row| row["voter"] == true).filter_map(|row| row["id"].as_u64()).collect())
}

/// As the leader's metrics say.
async fn two_stand_by(store: &Cluster) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut seen = Vec::new();
        for node in &store.node_admins {
            seen.push(metric(*node, "fluffy_standbys").await.ok().flatten().unwrap_or_default());
        }
        if seen.contains(&2.0) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("standbys, by node: {seen:?}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
