//! The processes of the simulated clusters, and the name service that gossip needs.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use fabric::Seams;
use fabric::cluster::{IpTable, Place};
use fabric::ids::{ClusterId, NodeId};
use fabric::limits::INLINE_BYTES_TOTAL_DEFAULT;
use fabric::net::{BoxStream, Listener, Net};
use gateway::secrets::Secret;
use storage::daemon::StorageDaemon;

use super::plan::{Cluster, Machine};
use crate::client::Credentials;
use crate::sim::machines::{GatewayMade, node_settings};
use crate::sim::plan::Scale;
use crate::sim::seams::SimNet;

/// Where gateways listen for other clusters.
const OVERLAY_PORT: u16 = 9100;
const NODE_PORT: u16 = 7001;
/// Opens the admin port of all gateways.
pub const ADMIN_TOKEN: &str = "simulated-admin-token-of-all-gateways";
/// The user of each cluster, whose the buckets there are.
pub const USER: &str = "anna";

/// Keys of the user of a cluster.
pub fn user_of(cluster: Cluster) -> Credentials {
    let name = cluster.name();
    Credentials::new(
        &format!("SIMULATED{}", name.to_uppercase()),
        &format!("simulated-secret-of-anna-of-{name}"),
    )
}

/// Runs the process of a machine of a cluster with so many nodes until the machine dies or the process ends itself; then the machine waits for
/// the world to start it again.
pub async fn run(seams: Seams, machine: Machine, nodes: u16) -> Result<(), Box<dyn Error>> {
    let ended = match machine {
        Machine::Node(cluster, number) => node(&seams, cluster, (number, nodes)).await,
        Machine::Gateway(cluster, _) => gateway(&seams, (cluster, nodes), &machine.to_string()).await,
    };
    if let Err(error) = ended {
        seams.env.fail_stop(&error.to_string());
    }
    std::future::pending().await
}

async fn node(seams: &Seams, cluster: Cluster, (number, nodes): (u16, u16)) -> Result<(), Box<dyn Error>> {
    let limits = (&Scale::default(), INLINE_BYTES_TOTAL_DEFAULT);
    let book = book_of(cluster, nodes);
    let settings = node_settings((id_of(cluster), number, nodes), (NODE_PORT, book), limits);
    let daemon = StorageDaemon::start(seams.clone(), settings).await?;
    daemon.wait_ready().await.map_err(|error| error.to_string())?;
    std::future::pending().await
}

async fn gateway(seams: &Seams, (cluster, nodes): (Cluster, u16), host: &str) -> Result<(), Box<dyn Error>> {
    let made = GatewayMade {
        cluster: id_of(cluster),
        nodes,
        book: book_of(cluster, nodes),
        region: cluster.name(),
        inline_bytes_max: INLINE_BYTES_TOTAL_DEFAULT,
        overlay: Some((host, OVERLAY_PORT)),
        admin_token: Secret::chosen(ADMIN_TOKEN)?,
    };
    made.serve(seams, &[(USER, user_of(cluster))]).await
}

fn id_of(cluster: Cluster) -> ClusterId {
    ClusterId(0x0E51 + cluster.place() as u128)
}

fn book_of(cluster: Cluster, nodes: u16) -> Arc<IpTable> {
    let place = |number| {
        let address = format!("{}:{NODE_PORT}", Machine::Node(cluster, number));
        (NodeId(number), Place { address, zone: None })
    };
    Arc::new(IpTable::new((1..=nodes).map(place)))
}

/// The simulated network with a name service.
pub struct NamedNet;

#[async_trait]
impl Net for NamedNet {
    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        SimNet.connect(address).await
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::new(turmoil::lookup(host), port)])
    }

    fn leaves_machine(&self, address: &str) -> bool {
        SimNet.leaves_machine(address)
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        SimNet.listen(address).await
    }
}
