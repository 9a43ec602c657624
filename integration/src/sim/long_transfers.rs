//! The story of a GET and a PUT that take an hour each over a full store.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fabric::limits::{HOLD_LONG, MIB};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::plan::{Plan, Scale};
use super::planned::Planned;
use super::workload::{Shared, SimTarget};
use super::world::{self, Report};
use crate::client::{Client, Request, read_response};
use crate::history::body;
use crate::worker::Scene;

/// A bucket of its own: the audit knows what has to be in the one of the workload.
const BUCKET: &str = "long-transfers";
/// Object that is read for an hour.
const READ_BYTES: usize = 24 << 20;
/// Object that is written for an hour.
const WRITTEN_BYTES: usize = 6 << 20;
/// Both go on in so many steps.
const STEPS: usize = 96;
/// Between two steps; slower clients are dropped.
const STEP_PAUSE: Duration = Duration::from_millis(37_500);
/// What the store is filled with.
const FILLING_BYTES: usize = 4 << 20;
/// Both last long enough for their holds to change.
const _: () = assert!(HOLD_LONG.as_secs() * 2 < 37 * STEPS as u64);
/// After a step.
const MOMENT: Duration = Duration::from_secs(30);
/// Space is back this long after a delete.
const RECLAIM: Duration = Duration::from_secs(10 * 60);

/// An hour-long GET and an hour-long PUT go on while a full store gets its space back, though the object that is read
/// was deleted; once it was read, its space is back, too.
pub(super) fn tell(planted: Option<&'static str>) -> Report {
    let scale = Scale {
        tick_ms: 20,
        seconds_max: 3 * 3_600,
        segments_max: 8,
        disk_bytes: 384 * MIB,
        reserve_bytes: 128 * MIB,
        ..Scale::default()
    };
    let mut plan = Plan { nodes: 1, gateways: 1, patience_ms: 60_000, scale, ..Plan::calm(1) };
    plan.failpoints.clear();
    let plan = planted.into_iter().fold(plan, Plan::with_planted);
    world::run_client(&plan, async |shared| transfer_and_reclaim(&shared).await)
}

fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

async fn transfer_and_reclaim(shared: &Arc<Shared>) -> Result<(), String> {
    let target = SimTarget::of(shared.plan());
    let client = Client::new(&target, 0);
    let (read, written) = (body::make(1, READ_BYTES), body::make(2, WRITTEN_BYTES));
    let created = client.send(Request::bucket("PUT", BUCKET)).await.map_err(|error| error.to_string())?;
    if created.status != 200 {
        return Err(format!("the bucket is not made: {}", created.describe()));
    }
    must_put(&client, "read", 1, READ_BYTES).await?;
    let begin = elapsed();
    let reading = async {
        let found =
            read_slowly(&client, "read", READ_BYTES).await.map_err(|error| format!("GET: {error}"))?;
        if found == read { Ok(()) } else { Err("the long GET returned other bytes".to_string()) }
    };
    let writing =
        async { write_slowly(&client, "written", &written).await.map_err(|error| format!("PUT: {error}")) };
    let mut store = Filling { client: &client, put: 0, there: 0 };
    let reclaiming = async {
        // The PUT has sent its first chunk a moment ago, and sends the next one in ten minutes.
        tokio::time::sleep((begin + STEP_PAUSE * 16 + MOMENT).saturating_sub(elapsed())).await;
        store.fill().await?;
        let full = store.there;
        shared.note(&format!("full with {full} objects"));
        if full < 16 {
            return Err(format!("the store is full with {full} objects"));
        }
        must_delete(&client, "read").await?;
        shared.note("what is read is deleted");
        store.delete(full * 3 / 4).await?;
        // A full disk takes puts while 64 MiB inside its volumes are free.
        store.refill(full / 3).await?;
        shared.note("the space is back");
        // The PUT has sent its second chunk a moment ago. What is read is not used again.
        tokio::time::sleep((begin + STEP_PAUSE * 32 + MOMENT).saturating_sub(elapsed())).await;
        store.fill().await?;
        let while_read = store.there;
        shared.note(&format!("full with {while_read} objects and what is read"));
        store.delete(10).await?;
        Ok(while_read)
    };
    let (reading, writing, reclaiming) = tokio::join!(reading, writing, reclaiming);
    reading?;
    writing?;
    let while_read = reclaiming?;
    shared.note("both transfers are through");
    // What was read is garbage now like everything else.
    tokio::time::sleep(RECLAIM).await;
    store.fill().await?;
    shared.note(&format!("full with {} objects", store.there));
    if store.there <= while_read {
        return Err(format!(
            "{} objects fit, {while_read} before: what was read is still there",
            store.there
        ));
    }
    let again = client.send(Request::object("GET", BUCKET, "written")).await;
    let again = again.map_err(|error| format!("GET: {error}"))?;
    if again.body == written { Ok(()) } else { Err("the long PUT stored other bytes".to_string()) }
}

/// Objects of one size that take all there is.
struct Filling<'a> {
    client: &'a Client<'a>,
    put: u64,
    there: u64,
}

impl Filling<'_> {
    /// Puts one more; whether there was space.
    async fn put(&mut self) -> Result<bool, String> {
        let key = format!("filling/{:04}", self.put);
        match put(self.client, &key, 100 + self.put, FILLING_BYTES).await? {
            200 => {
                self.put += 1;
                self.there += 1;
                Ok(true)
            }
            507 => Ok(false),
            status => Err(format!("PUT {key} got {status}")),
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        while self.put().await? {}
        Ok(())
    }

    /// Deletes the oldest.
    async fn delete(&mut self, count: u64) -> Result<(), String> {
        for _ in 0..count {
            must_delete(self.client, &format!("filling/{:04}", self.put - self.there)).await?;
            self.there -= 1;
        }
        Ok(())
    }

    /// Puts as many, as soon as there is space, which has to be soon.
    async fn refill(&mut self, count: u64) -> Result<(), String> {
        let mut left = count;
        let refilling = async {
            while left > 0 {
                match self.put().await? {
                    true => left -= 1,
                    false => tokio::time::sleep(Duration::from_secs(10)).await,
                }
            }
            Ok(())
        };
        let refilled = tokio::time::timeout(RECLAIM, refilling).await;
        refilled.unwrap_or_else(|_| Err(format!("{left} of {count} objects find no space after {RECLAIM:?}")))
    }
}

async fn put(client: &Client<'_>, key: &str, id: u64, bytes: usize) -> Result<u16, String> {
    let request = Request::object("PUT", BUCKET, key).body(body::make(id, bytes).to_vec());
    let response = client.send(request).await.map_err(|error| format!("PUT {key}: {error}"))?;
    Ok(response.status)
}

async fn must_put(client: &Client<'_>, key: &str, id: u64, bytes: usize) -> Result<(), String> {
    match put(client, key, id, bytes).await? {
        200 => Ok(()),
        status => Err(format!("PUT {key} got {status}")),
    }
}

async fn must_delete(client: &Client<'_>, key: &str) -> Result<(), String> {
    let response = client.send(Request::object("DELETE", BUCKET, key)).await;
    match response.map_err(|error| format!("DELETE {key}: {error}"))?.status {
        204 => Ok(()),
        status => Err(format!("DELETE {key} got {status}")),
    }
}

/// Takes the body of an object in steps.
async fn read_slowly(client: &Client<'_>, key: &str, bytes: usize) -> io::Result<Vec<u8>> {
    let wire = client.sign(Request::object("GET", BUCKET, key));
    let mut stream = client.connect().await?;
    stream.write_all(&wire.bytes()).await?;
    let (mut answer, mut head_bytes) = (Vec::new(), None);
    let mut next_pause = bytes / STEPS;
    while head_bytes.is_none_or(|head| answer.len() < head + bytes) {
        let mut part = vec![0; 64 << 10];
        let count = stream.read(&mut part).await?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("after {} bytes", answer.len()),
            ));
        }
        answer.extend_from_slice(&part[..count]);
        head_bytes = head_bytes.or_else(|| Some(answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4));
        if next_pause <= answer.len() {
            next_pause += bytes / STEPS;
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }
    Ok(answer.split_off(head_bytes.unwrap_or_default()))
}

/// Sends an object in steps.
async fn write_slowly(client: &Client<'_>, key: &str, body: &[u8]) -> io::Result<()> {
    let wire = client.sign(Request::object("PUT", BUCKET, key).body(body));
    let mut stream = client.connect().await?;
    stream.write_all(&wire.head()).await?;
    for part in wire.body.chunks(body.len() / STEPS) {
        if stream.write_all(part).await.is_err() {
            break; // The answer says why.
        }
        tokio::time::sleep(STEP_PAUSE).await;
    }
    let response = read_response(&mut stream, "PUT", None).await?;
    if response.status == 200 { Ok(()) } else { Err(io::Error::other(response.describe())) }
}
