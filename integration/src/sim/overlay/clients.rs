//! The clients of simulated overlays: who sets up, and workers, each on a bucket through all gateways of all clusters.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fabric::net::{BoxStream, Net};
use tokio::time::sleep;

use super::machines::user_of;
use super::operator;
use super::plan::{CLUSTERS, Cluster, Machine, Plan};
use super::shared::{Shared, now};
use crate::client::{Credentials, Request, Response, Target};
use crate::sim::random::SimRandom;
use crate::sim::seams::{EPOCH_MS, SimNet};
use crate::sim::workload::{Ended, S3_PORT};
use crate::worker::{Scene as _, Task, Worker, send};

/// Clients wait so long for an answer.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// The object that is in each bucket from the beginning and stays as it is.
pub const FIXED: &str = "fixed";
/// The copy of the mirrored bucket.
pub const MIRROR: &str = "mirror";
/// The copies of the replicated bucket.
pub const REPLICA: &str = "replica";
/// A grant is known to all gateways of a cluster after this.
const GRANTED: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// All gateways, as the user of a cluster sees them.
pub struct Everywhere {
    gateways: Vec<Machine>,
    user: Cluster,
}

impl Everywhere {
    /// The gateways of a plan, for the user of a cluster.
    pub fn of(plan: &Plan, user: Cluster) -> Everywhere {
        Everywhere { gateways: plan.gateways(), user }
    }

    /// Sends a request to a gateway; `None` when there was no whole answer in time.
    pub async fn send(&self, gateway: Machine, request: Request) -> Option<Response> {
        let place = self.gateways.iter().position(|known| *known == gateway)?;
        send(self, PATIENCE, place, request).await
    }

    /// Sends a request again and again until its status is a wanted one.
    pub async fn insist(&self, gateway: Machine, request: Request, wanted: &[u16]) -> Response {
        loop {
            match self.send(gateway, request.clone()).await {
                Some(answer) if wanted.contains(&answer.status) => return answer,
                _ => sleep(PAUSE).await,
            }
        }
    }
}

#[async_trait]
impl Target for Everywhere {
    fn gateways(&self) -> usize {
        self.gateways.len()
    }

    async fn connect(&self, gateway: usize) -> io::Result<BoxStream> {
        SimNet.connect(&self.host(gateway)).await
    }

    fn host(&self, gateway: usize) -> String {
        format!("{}:{S3_PORT}", self.gateways[gateway])
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + now().as_millis() as u64
    }

    fn root(&self) -> Credentials {
        user_of(self.user)
    }

    fn other_user(&self) -> Option<Credentials> {
        None
    }

    fn region(&self, gateway: usize) -> String {
        self.gateways[gateway].cluster().to_string()
    }

    fn domain(&self) -> Option<String> {
        None
    }
}

/// Lets bucket keep versions.
pub fn versioning(bucket: &str) -> Request {
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    Request::bucket("PUT", bucket).flag("versioning").body(body).content_md5()
}

/// Makes a bucket that keeps versions, of the user of its cluster.
async fn make(plan: &Plan, cluster: Cluster, bucket: &str) {
    let everywhere = Everywhere::of(plan, cluster);
    let gateway = operator::gateway_of(cluster);
    everywhere.insist(gateway, Request::bucket("PUT", bucket), &[200, 409]).await;
    everywhere.insist(gateway, versioning(bucket), &[200]).await;
}

/// Wants all of a bucket copied to a bucket of another cluster.
fn replication(bucket: &str, to: &str) -> Request {
    let rule = format!(
        "<Rule><ID>all</ID><Priority>1</Priority><Filter/><Status>Enabled</Status>\
         <Destination><Bucket>arn:aws:s3:::{to}</Bucket></Destination>\
         <DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication></Rule>"
    );
    let document = format!(
        "<ReplicationConfiguration><Role>arn:aws:iam::1:role/r</Role>{rule}</ReplicationConfiguration>"
    );
    Request::bucket("PUT", bucket).flag("replication").body(document).content_md5()
}

/// The clusters join, each makes its bucket, and copies begin. Ends when every gateway serves every bucket.
pub async fn setup(shared: Arc<Shared>) -> Ended {
    let plan = shared.plan();
    for cluster in CLUSTERS {
        let everywhere = Everywhere::of(plan, cluster);
        for gateway in plan.gateways().into_iter().filter(|gateway| gateway.cluster() == cluster) {
            everywhere.insist(gateway, Request::new("GET", "/"), &[200]).await;
        }
    }
    shared.note("each cluster serves");
    operator::join(Cluster::East, Cluster::West).await;
    operator::join(Cluster::West, Cluster::North).await;
    for gateway in plan.gateways() {
        operator::sees(gateway, &gateway.cluster().others()).await;
    }
    shared.note("the clusters know each other");
    operator::grant_all().await;
    for cluster in CLUSTERS {
        make(plan, cluster, &cluster.bucket()).await;
        let everywhere = Everywhere::of(plan, cluster);
        let put = Request::object("PUT", &cluster.bucket(), FIXED).body(fixed(cluster));
        everywhere.insist(operator::gateway_of(cluster), put, &[200]).await;
        for gateway in plan.gateways() {
            everywhere.insist(gateway, Request::object("GET", &cluster.bucket(), FIXED), &[200]).await;
        }
    }
    let [mirroring, _] = plan.mirrored.others();
    make(plan, mirroring, MIRROR).await;
    operator::follow(mirroring, &format!("{}/{}", plan.mirrored, plan.mirrored.bucket()), MIRROR).await;
    let [taking, _] = plan.replicated.others();
    make(plan, taking, REPLICA).await;
    let everywhere = Everywhere::of(plan, plan.replicated);
    let rule = replication(&plan.replicated.bucket(), REPLICA);
    everywhere.insist(operator::gateway_of(plan.replicated), rule, &[200]).await;
    sleep(GRANTED).await;
    shared.end("setup");
    Ok(())
}

/// The bytes of [`FIXED`].
pub fn fixed(cluster: Cluster) -> String {
    format!("at home in the {cluster}")
}

/// A worker on the bucket of a cluster, as the user there.
pub fn worker<'a>(
    shared: &'a Shared,
    target: &'a Everywhere,
    random: &'a SimRandom,
    cluster: Cluster,
    name: &str,
) -> Worker<'a> {
    let task = Task {
        bucket: cluster.bucket(),
        prefix: format!("{cluster}/"),
        keys: shared.plan().keys,
        patience: PATIENCE,
    };
    Worker { scene: shared, target, random, task, name: name.to_string() }
}

/// One client: the operations of the plan, one after the other.
pub async fn work(shared: Arc<Shared>, cluster: Cluster, name: String) -> Ended {
    let random = SimRandom::new(shared.plan().seed, &name);
    let target = Everywhere::of(shared.plan(), cluster);
    let worker = worker(&shared, &target, &random, cluster, &name);
    for _ in 0..shared.plan().operations {
        shared.count_operation();
        worker.operate().await;
        sleep(Duration::from_micros(random.below(600_000))).await;
    }
    shared.end(&name);
    Ok(())
}
