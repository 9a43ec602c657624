//! Crowds: connections that are held and used for nothing, and requests sent all at once.

use std::time::Duration;

use anyhow::Result;
use fabric::net::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Expect, Scene, judge, scene};
use crate::client::{Payload, Request, Response, Target};

/// Requests in one go on one connection.
const PIPELINED: usize = 10_000;
/// Uploads announced at once, fewer than there are places.
const ANNOUNCED: usize = 100;
/// Connections dropped right after their request.
const DROPPED: usize = 2_000;
/// How long another client may wait for its answer meanwhile; some slack for a loaded machine.
const FAIR_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the crowds against a store that serves fewer connections than `connections`; `report` hears of each.
pub async fn run(
    target: &dyn Target,
    connections: usize,
    mut report: impl FnMut(&str, Result<(), String>),
) -> Result<()> {
    let scene = Scene::build(target).await?;
    report("H089 crowds: idle connections make room", idle_connections(&scene, connections).await);
    report("H089 crowds: connections that send half a head make room", half_heads(&scene, connections).await);
    report("H089 crowds: 10,000 pipelined requests are answered in turn", pipelined(&scene).await);
    report("H196 crowds: bodies that are announced and do not come", announced_bodies(&scene).await);
    report("H197 crowds: connections dropped after their request", dropped_connections(&scene).await);
    report("crowds: the content is unchanged", scene.unchanged().await);
    Ok(())
}

async fn open(scene: &Scene<'_>, connections: usize, start: &[u8]) -> Result<Vec<BoxStream>, String> {
    let mut held = Vec::with_capacity(connections);
    for at in 0..connections {
        let connected = tokio::time::timeout(FAIR_DEADLINE, scene.client.connect()).await;
        let mut stream =
            connected.map_err(|_| format!("connection {at} waits"))?.map_err(|error| error.to_string())?;
        // One that was closed again is no news here.
        let _ = stream.write_all(start).await;
        held.push(stream);
    }
    Ok(held)
}

/// A client that comes last is served as if it were alone, and the ones that came first are gone.
async fn fair(scene: &Scene<'_>, mut held: Vec<BoxStream>) -> Result<(), String> {
    let alive = tokio::time::timeout(FAIR_DEADLINE, scene.alive()).await;
    alive.map_err(|_| "a newcomer waits".to_string())??;
    let mut byte = [0; 1];
    let read = tokio::time::timeout(FAIR_DEADLINE, held[0].read(&mut byte)).await;
    match read {
        Ok(Ok(0) | Err(_)) => Ok(()),
        Ok(Ok(_)) => Err("bytes on a connection that asked for nothing".to_string()),
        Err(_) => Err("the first of the idle connections is still open".to_string()),
    }
}

async fn idle_connections(scene: &Scene<'_>, connections: usize) -> Result<(), String> {
    fair(scene, open(scene, connections, b"").await?).await
}

async fn half_heads(scene: &Scene<'_>, connections: usize) -> Result<(), String> {
    fair(scene, open(scene, connections, b"GET / HTTP/1.1\r\nhost: ").await?).await
}

/// Uploads of 5 GiB each that never begin; small requests go on meanwhile.
async fn announced_bodies(scene: &Scene<'_>) -> Result<(), String> {
    let put = scene.put().payload(Payload::Unsigned);
    let head = scene.sign(put).with_body("").set("content-length", 5u64 << 30).head();
    let held = open(scene, ANNOUNCED, &head).await?;
    let alive = tokio::time::timeout(FAIR_DEADLINE, scene.alive()).await;
    drop(held);
    alive.map_err(|_| "a small request waits".to_string())?
}

/// Clients that ask and are gone before the answer.
async fn dropped_connections(scene: &Scene<'_>) -> Result<(), String> {
    let request = scene.sign(scene.get()).bytes();
    for _ in 0..DROPPED {
        let mut stream = scene.client.connect().await.map_err(|error| error.to_string())?;
        stream.write_all(&request).await.map_err(|error| error.to_string())?;
    }
    scene.alive().await
}

/// Many requests without a signature, and a good one behind them on the same connection.
async fn pipelined(scene: &Scene<'_>) -> Result<(), String> {
    let anonymous = scene.client.with_credentials(None).sign(scene.get()).bytes();
    let last = scene.client.sign(Request::object("GET", scene::BUCKET, scene::KEY)).bytes();
    let stream = scene.client.connect().await.map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let all = [anonymous.repeat(PIPELINED), last].concat();
    let write = async move {
        // A server that closes early is noticed by what is read.
        let _ = writer.write_all(&all).await;
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut bytes = Vec::new();
        let refused = Expect::error(403, "AccessDenied");
        for at in 0..PIPELINED {
            let response =
                next(&mut reader, &mut bytes).await.map_err(|why| format!("answer {at}: {why}"))?;
            judge(&refused, "GET", &response).map_err(|why| format!("answer {at}: {why}"))?;
        }
        let response = next(&mut reader, &mut bytes).await?;
        if response.body == scene::body() { Ok(()) } else { Err(response.describe()) }
    };
    let meanwhile = async {
        let alive = tokio::time::timeout(FAIR_DEADLINE, scene.alive()).await;
        alive.map_err(|_| "another client waits".to_string())?
    };
    tokio::select! {
        () = write => Err("never".to_string()),
        (read, meanwhile) = futures::future::join(read, meanwhile) => read.and(meanwhile),
    }
}

/// The next of several answers; all of them have a length.
async fn next(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<Response, String> {
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.and_then(|length| length.parse().ok()).ok_or("no length")?;
            if end + length <= bytes.len() {
                let one: Vec<u8> = bytes.drain(..end + length).collect();
                let read = crate::client::read_response(&mut one.as_slice(), "GET", None).await;
                return read.map_err(|error| error.to_string());
            }
        }
        if reader.read_buf(bytes).await.map_err(|error| error.to_string())? == 0 {
            return Err("closed".to_string());
        }
    }
}
