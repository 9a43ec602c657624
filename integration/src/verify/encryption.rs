//! The stage of encryption: what lies on disks, and what becomes of it as master keys come and go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use super::{Tally, block_on};
use crate::client::{Client, Request, Response};
use crate::daemons::{Embedded, scratch};

const BUCKET: &str = "encrypted";
const SSE: &str = "x-amz-server-side-encryption";
const NEEDLE: &[u8] = b"found-where-it-lies-in-plain-text";

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let directory = scratch("keys-")?;
        let ring = directory.path().join("ring");
        write_ring(&ring, "", 0o600).map_err(anyhow::Error::msg)?;
        let ring_option = ring.display().to_string();
        let store = Embedded::start(&["--data", "fluffy-data", "--encryption-keys", &ring_option]).await?;
        tally.check("what is encrypted lies nowhere in plain text", on_disk(&store).await);
        tally.check("a ring takes over and takes a new version", rotated(&store, &ring).await);
        tally.check("without its master key nothing is read", lost(&store, &ring).await);
        tally.check("what a ring may not be", refused(&store, &ring).await);
        Ok(())
    })
}

async fn send(store: &Embedded, request: Request, wanted: u16) -> Result<Response, String> {
    let response = Client::new(store, 0).send(request).await.map_err(|error| error.to_string())?;
    if response.status == wanted { Ok(response) } else { Err(response.describe()) }
}

fn put(key: &str, method: Option<&str>, bytes: usize) -> Request {
    let body: Vec<u8> = NEEDLE.iter().copied().cycle().take(bytes).collect();
    let request = Request::object("PUT", BUCKET, key).body(body);
    match method {
        Some(method) => request.header(SSE, method),
        None => request,
    }
}

async fn reads(store: &Embedded, key: &str, bytes: usize) -> Result<(), String> {
    let found = send(store, Request::object("GET", BUCKET, key), 200).await?;
    let same = found.body.iter().eq(NEEDLE.iter().cycle().take(bytes));
    if same { Ok(()) } else { Err(format!("{key} has other bytes")) }
}

/// Whether the needle lies in a file under a directory.
fn lies_under(directory: &Path) -> Result<bool, String> {
    let told = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let found = match path.is_dir() {
            true => lies_under(&path)?,
            false => {
                let bytes = fs::read(&path).map_err(told)?;
                bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE)
            }
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn on_disk(store: &Embedded) -> Result<(), String> {
    send(store, Request::bucket("PUT", BUCKET), 200).await?;
    for (key, method) in [("store", "AES256"), ("named", "aws:kms")] {
        for bytes in [1_000, 3_000_000] {
            let key = format!("{key}-{bytes}");
            send(store, put(&key, Some(method), bytes), 200).await?;
            reads(store, &key, bytes).await?;
        }
    }
    // Those of what is not encrypted itself are, too.
    send(store, Request::object("PUT", BUCKET, "bare").body("x"), 200).await?;
    for key in ["bare", "store-1000", "named-1000"] {
        for bytes in [1_000, 1 << 20] {
            let text: Vec<u8> = NEEDLE.iter().copied().cycle().take(bytes).collect();
            let note = |method: &str| {
                let note = Request::object(method, BUCKET, key).flag("annotation");
                note.query("annotationName", format!("note-{bytes}"))
            };
            send(store, note("PUT").body(text.clone()), 200).await?;
            if send(store, note("GET"), 200).await?.body != text {
                return Err(format!("the annotation of {key} has other bytes"));
            }
        }
    }
    let data = store.directory().join("fluffy-data");
    if lies_under(&data)? {
        return Err("it does".to_string());
    }
    send(store, put("plain", None, 3_000_000), 200).await?;
    if lies_under(&data)? { Ok(()) } else { Err("plain text is not found either".to_string()) }
}

fn write_ring(ring: &Path, lines: &str, mode: u32) -> Result<(), String> {
    let written =
        fs::write(ring, lines).and_then(|()| fs::set_permissions(ring, fs::Permissions::from_mode(mode)));
    written.map_err(|error| error.to_string())
}

async fn restart(store: &Embedded, ring: &Path, lines: &str) -> Result<(), String> {
    store.gateway.daemon.terminate().await.map_err(|error| error.to_string())?;
    write_ring(ring, lines, 0o600)?;
    store.gateway.start().await.map(drop).map_err(|error| error.to_string())
}

fn line(name: &str, version: u32, digit: char) -> String {
    format!("{name} {version} {}\n", String::from(digit).repeat(64))
}

async fn rotated(store: &Embedded, ring: &Path) -> Result<(), String> {
    let first = line("s3", 1, '1') + &line("payroll", 1, 'a');
    let second = format!("{first}{}", line("s3", 2, '2'));
    for (lines, key) in [(&first, "first"), (&second, "second")] {
        restart(store, ring, lines).await?;
        send(store, put(key, Some("AES256"), 100_000), 200).await?;
    }
    let named =
        put("payroll", Some("aws:kms"), 100).header(format!("{SSE}-aws-kms-key-id").as_str(), "payroll");
    send(store, named, 200).await?;
    for (key, bytes) in [
        ("store-3000000", 3_000_000),
        ("named-1000", 1_000),
        ("first", 100_000),
        ("second", 100_000),
        ("payroll", 100),
    ] {
        reads(store, key, bytes).await?;
    }
    Ok(())
}

async fn lost(store: &Embedded, ring: &Path) -> Result<(), String> {
    restart(store, ring, &line("s3", 1, '1')).await?;
    reads(store, "first", 100_000).await?;
    send(store, Request::object("GET", BUCKET, "second"), 500).await?;
    let refused = send(store, Request::object("GET", BUCKET, "payroll"), 400).await?;
    if refused.code() != "KMS.NotFoundException" {
        return Err(refused.describe());
    }
    restart(store, ring, &line("s3", 1, 'f')).await?;
    send(store, Request::object("GET", BUCKET, "first"), 500).await.map(drop)
}

async fn refused(store: &Embedded, ring: &Path) -> Result<(), String> {
    store.gateway.daemon.terminate().await.map_err(|error| error.to_string())?;
    for (lines, mode, words) in [
        (line("s3", 1, '1'), 0o644, "others may read it"),
        ("s3 1 secret".to_string(), 0o600, "line 1: the key is not 64 hex digits"),
        (line("s3", 1, '1').repeat(2), 0o600, "line 2: the version is there twice"),
    ] {
        write_ring(ring, &lines, mode)?;
        // Exit code 2: a wrong configuration.
        match store.gateway.daemon.refusal().await {
            Err(said) if said.contains("status: 2") && said.contains(words) && !said.contains("secret") => {}
            Ok(said) | Err(said) => return Err(said),
        }
    }
    Ok(())
}
