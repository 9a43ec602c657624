//! Cases that need time: clients that send or read too slowly.

use std::io;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Scene;
use crate::client::{Pattern, Request, Response, Target, read_response};

/// A head must be complete 30 s after its first byte; some slack for a loaded machine.
const HEAD_DEADLINE: Duration = Duration::from_secs(45);
/// A body must not stand still for a minute.
const BODY_DEADLINE: Duration = Duration::from_secs(100);

/// A response must not stand still for a minute.
const READER_SILENCE: Duration = Duration::from_secs(70);

/// Runs the slow cases side by side; takes about a minute.
pub async fn run(target: &dyn Target, mut report: impl FnMut(&str, Result<(), String>)) -> Result<()> {
    let scene = Scene::build(target).await?;
    let (head, body, idle, reader) = futures::future::join4(
        slow_head(&scene),
        slow_body(&scene),
        silent_connection(&scene),
        slow_reader(&scene),
    )
    .await;
    report("H086 slow: a head that never ends is closed", head);
    report("H087 slow: a body that stands still gets 400 RequestTimeout", body);
    report("H088 slow: a client that takes no bytes is dropped", reader);
    report("H089 slow: a silent connection is closed", idle);
    report("slow: the content is unchanged", scene.unchanged().await);
    Ok(())
}

async fn slow_head(scene: &Scene<'_>) -> Result<(), String> {
    let mut stream = scene.client.connect().await.map_err(|error| error.to_string())?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.map_err(|error| error.to_string())?;
    let trickle = async {
        loop {
            let mut byte = [0; 512];
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte)).await;
            match read {
                Ok(Ok(0)) | Ok(Err(_)) => return, // Closed.
                Ok(Ok(_)) => continue,            // An answer before the close is fine.
                Err(_) if stream.write_all(b"a").await.is_err() => return,
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(HEAD_DEADLINE, trickle).await.map_err(|_| "still open".to_string())
}

async fn slow_body(scene: &Scene<'_>) -> Result<(), String> {
    let mut stream = scene.client.connect().await.map_err(|error| error.to_string())?;
    let wire = scene.sign(Request::object("PUT", super::scene::BUCKET, super::scene::KEY).body("slow"));
    let wire = wire.set("content-length", 100_000);
    stream.write_all(&wire.bytes()).await.map_err(|error| error.to_string())?;
    let read = tokio::time::timeout(BODY_DEADLINE, answer(&mut stream)).await;
    match read {
        Err(_) => Err("still open".to_string()),
        Ok(Ok(response)) if response.status == 400 && response.code() == "RequestTimeout" => Ok(()),
        Ok(Ok(response)) => Err(response.describe()),
        Ok(Err(error)) => Err(error.to_string()),
    }
}

/// The client's own reader gives up after a silence, so this one waits in pieces.
async fn answer(stream: &mut fabric::net::BoxStream) -> io::Result<Response> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return read_response(&mut bytes.as_slice(), "PUT", None).await;
        }
        if let Ok(response) = read_response(&mut bytes.clone().as_slice(), "PUT", None).await {
            return Ok(response);
        }
    }
}

/// Asks for far more than the buffers of a connection hold, and takes none of it for longer than it may.
async fn slow_reader(scene: &Scene<'_>) -> Result<(), String> {
    let bytes = 64 << 20;
    let put = Request::object("PUT", super::scene::SCRATCH, "large").generated(Pattern::new(1, bytes));
    let put = scene.client.send(put).await.map_err(|error| error.to_string())?;
    if put.status != 200 {
        return Err(put.describe());
    }
    let mut stream = scene.client.connect().await.map_err(|error| error.to_string())?;
    let get = scene.sign(Request::object("GET", super::scene::SCRATCH, "large"));
    stream.write_all(&get.bytes()).await.map_err(|error| error.to_string())?;
    tokio::time::sleep(READER_SILENCE).await;
    let mut taken = 0;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        taken += count as u64;
    }
    if taken < bytes { Ok(()) } else { Err("the whole object came after all".to_string()) }
}

async fn silent_connection(scene: &Scene<'_>) -> Result<(), String> {
    let mut stream = scene.client.connect().await.map_err(|error| error.to_string())?;
    let mut byte = [0; 1];
    match tokio::time::timeout(BODY_DEADLINE, stream.read(&mut byte)).await {
        Ok(_) => Ok(()),
        Err(_) => Err("still open".to_string()),
    }
}
