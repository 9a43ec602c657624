//! Counts what a small PUT costs the disks: one sync of the log on each node, shared by those that come together.

use anyhow::{Result, ensure};
use futures::future::{join_all, try_join_all};

use super::Tally;
use crate::client::{Client, Pattern, Request};
use crate::daemons::{Cluster, metric};

/// PUTs of 4 KiB that are counted.
const PUTS: u64 = 200;

pub(super) async fn count(store: &Cluster, tally: &mut Tally) -> Result<()> {
    let created = Client::new(store, 0).send(Request::bucket("PUT", "counted")).await?;
    ensure!(created.status == 200, "create a bucket: {}", created.describe());
    // Sessions are renewed meanwhile, each renewal an entry of its own.
    for (writers, most) in [(1, PUTS + PUTS / 10), (16, PUTS / 2)] {
        let before = log_syncs(store).await?;
        let written = join_all((0..writers).map(|writer| put_small(store, writer, writers))).await;
        written.into_iter().collect::<Result<Vec<()>>>()?;
        let after = log_syncs(store).await?;
        let counts: Vec<u64> = after.into_iter().zip(before).map(|(after, before)| after - before).collect();
        tally.note(format!("{PUTS} PUTs of 4 KiB by {writers} at once: {counts:?} syncs of the logs"));
        let too_many = counts.iter().any(|count| *count > most);
        let outcome = if too_many { Err(format!("{counts:?}, more than {most}")) } else { Ok(()) };
        tally.check(&format!("{PUTS} PUTs by {writers} at once: one sync per node and batch"), outcome);
    }
    Ok(())
}

async fn log_syncs(store: &Cluster) -> Result<Vec<u64>> {
    let each = store.node_admins.iter().map(|admin| metric(*admin, "fluffy_log_syncs_total"));
    let counts = try_join_all(each).await?;
    Ok(counts.into_iter().map(|count| count.unwrap_or(0.0) as u64).collect())
}

/// The share of one of `writers`.
async fn put_small(store: &Cluster, writer: u64, writers: u64) -> Result<()> {
    let client = Client::new(store, 0);
    for count in (writer..PUTS).step_by(writers as usize) {
        let body = Pattern::new(count, 4096).bytes();
        let put = client.send(Request::object("PUT", "counted", &format!("{count}")).body(body)).await?;
        ensure!(put.status == 200, "put: {}", put.describe());
    }
    Ok(())
}
