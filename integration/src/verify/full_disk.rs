//! A real daemon on a real full disk: a small file system in memory, filled to the last byte beside the store.
//!
//! Needs the right to mount; where there is none the stage says so and checks nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Tally, block_on};
use crate::client::{Client, Request};
use crate::daemons::{Embedded, scratch};
use crate::lent::Mount;

const DISK_BYTES: u64 = 512 << 20;
const BUCKET: &str = "full";
/// A body that rides in the log.
const BODY_BYTES: usize = 16 << 10;
/// The log's first segment is used up long before; it notices then.
const PUTS_MAX: usize = 20_000;
/// Space that was freed is used again within this.
const RECOVERY_MAX: Duration = Duration::from_secs(15);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    let home = scratch("full-")?;
    let disk = match Mount::memory(&home.path().join("disk"), DISK_BYTES) {
        Ok(disk) => disk,
        Err(error) => {
            tally.note(format!("skipped: a file system cannot be mounted here: {error:#}"));
            return Ok(());
        }
    };
    let data = disk.place().join("data").display().to_string();
    block_on(async {
        let store = Embedded::start(&["--data", &data]).await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        disk.fill()?;
        let stored = put_until_full(&store, tally).await?;
        goes_on(&store, tally).await?;
        disk.empty()?;
        recovers(&store, tally).await?;
        store.gateway.daemon.kill();
        store.gateway.start().await?;
        let last = Client::new(&store, 0).send(get(stored - 1)).await?;
        let kept = last.status == 200 && last.body.len() == BODY_BYTES;
        tally.check("what was acknowledged last is there after kill -9", held(kept, || last.describe()));
        Ok(())
    })
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
