//! What has to hold when everything is healed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::clients::{Everywhere, worker};
use super::plan::CLUSTERS;
use super::shared::{Shared, now};
use super::{copies, operator, stories};
use crate::sim::random::SimRandom;
use crate::sim::workload::Ended;
use crate::worker::Scene as _;

/// Everything is as it should be within this.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// After the faults: all clusters serve and know each other, and everything promised is there, through every gateway.
pub async fn audit(shared: Arc<Shared>) -> Ended {
    let plan = shared.plan();
    for gateway in plan.gateways() {
        if timeout(CONVERGENCE, operator::sees(gateway, &gateway.cluster().others())).await.is_err() {
            shared.violate(format!("not live: {gateway} does not see all clusters after the faults"));
            return Ok(());
        }
    }
    shared.note("the clusters see each other");
    let [mirror, replica] = copies::copies(&shared);
    let is_promoted = shared.promotion().is_some();
    if is_promoted {
        eventually(&shared, "a promoted copy", async || copies::is_whole(&shared, mirror).await).await;
    }
    // Its home takes writes again; where the promotion came to nothing, too.
    operator::reopen(mirror.home).await;
    histories(&shared).await;
    eventually(&shared, "two buckets of one name", async || stories::find_twins(&shared).await).await;
    eventually(&shared, "what is listed", async || stories::list_all(&shared).await).await;
    for copied in [mirror, replica].into_iter().skip(usize::from(is_promoted)) {
        eventually(&shared, "a copy", async || copies::is_whole(&shared, copied).await).await;
    }
    shared.end("audit");
    Ok(())
}

/// Tries until it holds; it has to, after some time.
async fn eventually(shared: &Shared, what: &str, holds: impl AsyncFn() -> Result<(), String>) {
    let end = now() + CONVERGENCE;
    while let Err(why) = holds().await {
        if end < now() {
            shared.violate(format!("not live: {what} is not as it should be after the faults: {why}"));
            return;
        }
        sleep(PAUSE).await;
    }
    shared.note(&format!("{what} is as it should be"));
}

/// Every key of every bucket is read through every gateway, and listed.
async fn histories(shared: &Shared) {
    let plan = shared.plan();
    let random = SimRandom::new(plan.seed, "audit");
    for cluster in CLUSTERS {
        let target = Everywhere::of(plan, cluster);
        let worker = worker(shared, &target, &random, cluster, "audit");
        let keys = shared.book().history.keys();
        for (place, gateway) in plan.gateways().into_iter().enumerate() {
            if timeout(CONVERGENCE, worker.until_served(place)).await.is_err() {
                shared.violate(format!("not live: {gateway} does not serve the bucket of {cluster}"));
                return;
            }
            for key in keys.iter().filter(|key| key.starts_with(&worker.task.prefix)) {
                if !worker.get_until_answered(place, key).await {
                    shared.violate(format!("not live: {key} cannot be read at {gateway} after the faults"));
                    return;
                }
            }
            if !worker.list(place).await {
                shared.violate(format!("not live: {gateway} does not list the bucket of {cluster}"));
            }
        }
    }
}
