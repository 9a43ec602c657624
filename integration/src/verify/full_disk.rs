//! A real daemon on a real full disk: a small file system in memory, filled to the last byte beside the store.
//!
//! Needs the right to mount; where there is none the stage says so and checks nothing.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Tally, block_on};
use crate::client::{Client, Request};
use crate::daemons::{Embedded, scratch};

const DISK: &str = "size=512m";
const BUCKET: &str = "full";
/// A body that rides in the log.
const BODY_BYTES: usize = 16 << 10;
/// The log's first segment is used up long before; it notices then.
const PUTS_MAX: usize = 20_000;
/// Space that was freed is used again within this.
const RECOVERY_MAX: Duration = Duration::from_secs(15);

/// A mounted file system, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: &Path) -> Option<Mounted> {
        fs::create_dir_all(place).ok()?;
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(place).output().ok()?;
        mount.status.success().then(|| Mounted(place.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is left mounted is empty and small.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    let home = scratch("full-")?;
    let Some(disk) = Mounted::new(&home.path().join("disk")) else {
        tally.note("skipped: a file system cannot be mounted here".to_string());
        return Ok(());
    };
    let data = disk.0.join("data").display().to_string();
    block_on(async {
        let store = Embedded::start(&["--data", &data]).await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        let ballast = disk.0.join("ballast");
        fill(&ballast)?;
        let stored = put_until_full(&store, tally).await?;
        goes_on(&store, tally).await?;
        fs::remove_file(&ballast)?;
        recovers(&store, tally).await?;
        store.gateway.daemon.kill();
        store.gateway.start().await?;
        let last = Client::new(&store, 0).send(get(stored - 1)).await?;
        let kept = last.status == 200 && last.body.len() == BODY_BYTES;
        tally.check("what was acknowledged last is there after kill -9", held(kept, || last.describe()));
        Ok(())
    })
}

/// Writes to a file until the disk takes no more.
fn fill(ballast: &Path) -> Result<()> {
    let mut file = File::create(ballast)?;
    for piece in [1 << 20, 4096] {
        let zeros = vec![0; piece];
        loop {
            match file.write_all(&zeros) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Returns how many were stored.
async fn put_until_full(store: &Embedded, tally: &mut Tally) -> Result<usize> {
    let client = Client::new(store, 0);
    for number in 0..PUTS_MAX {
        let response = client.send(put(number)).await?;
        if response.status != 200 {
            let refused = response.status == 507 && number > 2;
            tally.note(format!("{number} objects of 16 KiB were taken on the full disk"));
            tally.check("a write that finds no space hears 507", held(refused, || response.describe()));
            return Ok(number);
        }
    }
    tally.check("a full disk is noticed", Err(format!("{PUTS_MAX} objects were taken")));
    Ok(PUTS_MAX)
}

async fn goes_on(store: &Embedded, tally: &mut Tally) -> Result<()> {
    let client = Client::new(store, 0);
    let read = client.send(get(1)).await?;
    let good = read.status == 200 && read.body.len() == BODY_BYTES;
    tally.check("reads go on", held(good, || read.describe()));
    let delete = client.send(Request::object("DELETE", BUCKET, &key(0))).await?;
    tally.check("deletes go on", held(delete.status == 204, || delete.describe()));
    let gone = client.send(get(0)).await?;
    tally.check("what was deleted is gone", held(gone.status == 404, || gone.describe()));
    let alive = store.gateway.daemon.exited().is_none();
    tally.check("the process goes on", held(alive, || store.gateway.daemon.log_tail()));
    Ok(())
}

async fn recovers(store: &Embedded, tally: &mut Tally) -> Result<()> {
    let client = Client::new(store, 0);
    let begin = Instant::now();
    loop {
        let response = client.send(Request::object("PUT", BUCKET, "after").body("written")).await?;
        if response.status == 200 || begin.elapsed() > RECOVERY_MAX {
            let outcome = held(response.status == 200, || response.describe());
            tally.check("writes go on by themselves once there is space", outcome);
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn key(number: usize) -> String {
    format!("object-{number}")
}

fn put(number: usize) -> Request {
    Request::object("PUT", BUCKET, &key(number)).body(vec![number as u8; BODY_BYTES])
}

fn get(number: usize) -> Request {
    Request::object("GET", BUCKET, &key(number))
}

fn held(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
