//! The story of a gateway that is cut off between the last byte of a body and the command that names it.
//!
//! Its session ends meanwhile and its chunks are collected. When it is back it has to refuse the write: named now, the
//! object would be there without its bytes.

use std::time::Duration;

use fabric::limits::{CHUNK_BYTES, SESSION_SILENCE};
use tokio::io::AsyncWriteExt;

use super::plan::{Machine, Plan};
use super::planned::Planned;
use super::workload::{Shared, SimTarget};
use super::world::{self, Report};
use crate::client::{Client, Payload, Request, read_response};
use crate::history::body;
use crate::worker::Scene;

/// A bucket of its own: the audit knows what has to be in the one of the workload.
const BUCKET: &str = "late-commit";
const KEY: &str = "late";
/// The frame that ends a signed body: nothing of the object is in it.
const LAST_FRAME_BYTES: usize = "0;chunk-signature=".len() + 64 + "\r\n\r\n".len();
/// The session has ended, what it wrote was seen twice, and no read before that is open.
const AWAY: Duration = Duration::from_secs(2 * SESSION_SILENCE.as_secs() + 20);
/// A chunk is on its nodes; connections are made again.
const MOMENT: Duration = Duration::from_secs(5);

/// Tells it, perhaps with a planted bug.
pub(super) fn tell(planted: Option<&'static str>) -> Report {
    let mut plan = Plan { nodes: 3, gateways: 2, patience_ms: 60_000, ..Plan::calm(1) };
    plan.failpoints = ["eager_collection"].into();
    let plan = planted.into_iter().fold(plan, Plan::with_planted);
    world::run_client(&plan, async |shared| write_late(&shared).await)
}

async fn write_late(shared: &Shared) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let target = SimTarget::of(shared.plan());
    let (client, other) = (Client::new(&target, 0), Client::new(&target, 1));
    let created = client.send(Request::bucket("PUT", BUCKET)).await.map_err(told)?;
    if created.status != 200 {
        return Err(format!("the bucket is not made: {}", created.describe()));
    }
    let body = body::make(1, CHUNK_BYTES);
    let request = Request::object("PUT", BUCKET, KEY).body(body.to_vec());
    let wire = client.sign(request.payload(Payload::SignedChunks(CHUNK_BYTES)));
    let (data, last) = wire.body.split_at(wire.body.len() - LAST_FRAME_BYTES);
    let mut stream = client.connect().await.map_err(told)?;
    stream.write_all(&[&wire.head(), data].concat()).await.map_err(told)?;
    tokio::time::sleep(MOMENT).await;
    cut_off(true);
    shared.note("the gateway is cut off");
    tokio::time::sleep(AWAY).await;
    cut_off(false);
    shared.note("the gateway is back");
    tokio::time::sleep(MOMENT).await;
    stream.write_all(last).await.map_err(told)?;
    let answer = read_response(&mut stream, "PUT", None).await.map_err(told)?;
    shared.note(&format!("the write got {}", answer.status));
    let found =
        other.send(Request::object("GET", BUCKET, KEY)).await.map_err(|error| format!("GET: {error}"))?;
    match (answer.status, found.status) {
        (200, 200) if found.body == body => {
            Err("the session did not end: the story tells nothing".to_string())
        }
        (500..=599, 404) => Ok(()),
        (put, get) => Err(format!("the late write got {put}, and reading it {get}")),
    }
}

fn cut_off(off: bool) {
    let gateway = Machine::Gateway(1).to_string();
    for node in (1..=3).map(|node| Machine::Node(node).to_string()) {
        if off {
            turmoil::partition(gateway.as_str(), node.as_str());
        } else {
            turmoil::repair(gateway.as_str(), node.as_str());
        }
    }
}
