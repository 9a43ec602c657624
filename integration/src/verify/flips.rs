//! `cargo verify flips`: bits of chunk volumes flip, ten thousand of them, on one node after the other.
//!
//! In each round one node is stopped and bits are flipped all over its volumes: in chunks, in the trees that find them,
//! in what nobody uses. Then everything is read through the gateway, and `verify` has the last word: every copy is
//! there again, and those of the other nodes never changed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request};
use crate::daemons::{Cluster, metric};

const BUCKET: &str = "flips";
const OBJECTS: u64 = 48;
const OBJECT_BYTES: u64 = (2 << 20) + 1000;
const ROUNDS: u64 = 20;
const FLIPS_PER_ROUND: u64 = 500;
/// After a round everything is whole again within this.
const WHOLE_DEADLINE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(3, 1, "").await?;
        let client = Client::new(&store, 0);
        let created = client.send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        for number in 0..OBJECTS {
            let put = Request::object("PUT", BUCKET, &key(number)).generated(pattern(number));
            let put = client.send(put).await?;
            ensure!(put.status == 200, "put: {}", put.describe());
        }
        let (mut flipped, mut rotten, mut volumes) = (0, 0.0, 0.0);
        let began = Instant::now();
        for round in 0..ROUNDS {
            let place = (round % 3) as usize;
            store.nodes[place].kill();
            flipped += flip(&store.directory().join(format!("node-{}", place + 1)).join("chunks"), round)?;
            store.restart_node(place).await?;
            let read = read_all(&store).await;
            tally.check(
                &format!("round {round}: no wrong byte is served"),
                read.map_err(|error| format!("{error:#}")),
            );
            let whole = whole(&store).await;
            tally.check(
                &format!("round {round}: everything is whole again"),
                whole.map_err(|error| format!("{error:#}")),
            );
            let admin = store.node_admins[place];
            rotten += metric(admin, "fluffy_chunks_rotten_total").await?.unwrap_or(0.0);
            volumes += metric(admin, "fluffy_chunk_volumes_lost_total").await?.unwrap_or(0.0);
        }
        let found = if rotten > 0.0 { Ok(()) } else { Err("none was found".to_string()) };
        tally.check("rot was found", found);
        tally.note(format!(
            "{flipped} bits flipped in {:.0} s; {rotten} times a rotten chunk was found, {volumes} times a volume was lost",
            began.elapsed().as_secs_f64()
        ));
        Ok(())
    })
}

fn key(number: u64) -> String {
    format!("object-{number:03}")
}

fn pattern(number: u64) -> Pattern {
    Pattern::new(number, OBJECT_BYTES)
}

/// Flips bits all over the volumes of a directory; returns how many.
fn flip(directory: &Path, round: u64) -> Result<u64> {
    let paths: Vec<_> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let volumes = paths.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "redb"));
    let files: Vec<_> = volumes
        .map(|path| fs::OpenOptions::new().read(true).write(true).open(path))
        .collect::<Result<_, _>>()?;
    let lengths: Vec<u64> = files.iter().map(|file| Ok(file.metadata()?.len())).collect::<Result<_>>()?;
    let all: u64 = lengths.iter().sum();
    ensure!(all > 0, "there is nothing to flip");
    let mut random = Pattern::new(1_000 + round, FLIPS_PER_ROUND * 8).bytes();
    for drawn in random.chunks_exact_mut(8) {
        let drawn = u64::from_le_bytes(drawn.try_into().context("eight bytes")?);
        let (mut at, bit) = ((drawn >> 3) % all, drawn & 7);
        for (file, length) in files.iter().zip(&lengths) {
            if at < *length {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ 1 << bit], at)?;
                break;
            }
            at -= length;
        }
    }
    Ok(FLIPS_PER_ROUND)
}

async fn read_all(store: &Cluster) -> Result<()> {
    let client = Client::new(store, 0);
    for number in 0..OBJECTS {
        let mut check = PatternCheck::new(pattern(number));
        let found = client.send_checking(Request::object("GET", BUCKET, &key(number)), &mut check).await?;
        ensure!(found.status == 200, "{}: {}", key(number), found.describe());
        check.finish().map_err(|why| anyhow::anyhow!("{}: {why}", key(number)))?;
    }
    Ok(())
}

/// Waits until `verify` finds every copy. Reading them is what finds the rotten ones.
async fn whole(store: &Cluster) -> Result<()> {
    let began = Instant::now();
    loop {
        let proved = tokio::task::spawn_blocking(store.operation(&["verify"])).await?;
        match proved {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > WHOLE_DEADLINE => bail!("{error:#}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
