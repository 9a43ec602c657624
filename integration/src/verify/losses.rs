//! A node loses chunk volumes, in several ways: reads go on, and the node holds everything again by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fabric::Seams;
use fabric::disks::SystemDisks;
use fabric::env::SystemEnv;
use fabric::ids::NodeId;
use fabric::limits::MIB;
use fabric::net::LocalNet;
use storage::chunks::{ChunkSettings, ChunkStore};

use super::campaign::GAP_MAX;
use super::{Tally, block_on};
use crate::client::{Client, Pattern, PatternCheck, Request};
use crate::daemons::{Cluster, metric};

const BUCKET: &str = "losses";
const OBJECTS: u64 = 60;
const OBJECT_BYTES: u64 = 300_000;
/// The node that loses, by place and by id.
const NODE: usize = 0;
const NODE_ID: NodeId = NodeId(1);
/// After its start the node has everything again within this.
const RESTORED_DEADLINE: Duration = Duration::from_secs(60);

/// What a node loses.
#[derive(Clone, Copy)]
enum Loss {
    Volumes,
    Beginnings,
    Lengths,
    Directory,
    Disk,
}

const LOSSES: &[(Loss, &str)] = &[
    (Loss::Volumes, "its volumes are removed"),
    (Loss::Beginnings, "the beginnings of its volumes are overwritten"),
    (Loss::Lengths, "its volumes are empty"),
    (Loss::Directory, "its chunk directory is removed"),
    (Loss::Disk, "its data directory is removed and it is let in again"),
];

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(3, 1, "").await?;
        let client = Client::new(&store, 0);
        let created = client.send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        for number in 0..OBJECTS {
            let body = Pattern::new(number, OBJECT_BYTES).bytes();
            let put = client.send(Request::object("PUT", BUCKET, &key(number)).body(body)).await?;
            ensure!(put.status == 200, "put: {}", put.describe());
        }
        for (loss, what) in LOSSES {
            let outcome = lose(&store, *loss).await;
            let outcome =
                outcome.map(|took| tally.note(format!("restored in {} ms when {what}", took.as_millis())));
            tally.check(
                &format!("a node restores its chunks when {what}"),
                outcome.map_err(|why| format!("{why:#}")),
            );
        }
        Ok(())
    })
}

fn key(number: u64) -> String {
    format!("object-{number:03}")
}

/// Loses, and returns how long it took until everything was there again.
async fn lose(store: &Cluster, loss: Loss) -> Result<Duration> {
    let node = &store.nodes[NODE];
    let data = store.directory().join("node-1");
    node.kill();
    ruin(&data, loss)?;
    let stop = AtomicBool::new(false);
    let restoring = async {
        let killed = Instant::now();
        let restored = restored(store, loss).await;
        // It may be quicker than the election that the kill of a leader costs: reads have to go on within that time.
        tokio::time::sleep(GAP_MAX.saturating_sub(killed.elapsed())).await;
        stop.store(true, Ordering::Relaxed);
        restored
    };
    let (reads, restored) = futures::future::join(read_until(store, &stop), restoring).await;
    let reads = reads?;
    let took = restored?;
    ensure!(reads >= 10, "only {reads} reads meanwhile");
    // The process is gone: what is on its disk now is what it has.
    node.kill();
    let held = verified_chunks(&data.join("chunks")).await?;
    ensure!(held as u64 == OBJECTS, "it holds {held} proved chunks of {OBJECTS}");
    store.restart_node(NODE).await?;
    Ok(took)
}

async fn restored(store: &Cluster, loss: Loss) -> Result<Duration> {
    if matches!(loss, Loss::Disk) {
        let_in_again(store, NODE).await?;
    }
    store.restart_node(NODE).await?;
    let began = Instant::now();
    loop {
        let restored = metric(store.node_admins[NODE], "fluffy_chunks_restored_total").await?;
        if restored.is_some_and(|chunks| chunks >= OBJECTS as f64) {
            return Ok(began.elapsed());
        }
        if began.elapsed() > RESTORED_DEADLINE {
            bail!("{restored:?} chunks restored: {}", store.nodes[NODE].log_tail());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ruin(data: &Path, loss: Loss) -> Result<()> {
    let chunks = data.join("chunks");
    match loss {
        Loss::Directory => return Ok(fs::remove_dir_all(chunks)?),
        Loss::Disk => return Ok(fs::remove_dir_all(data)?),
        _ => {}
    }
    let names: Vec<PathBuf> =
        fs::read_dir(chunks)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    let volumes = names.into_iter().filter(|path| path.extension().is_some_and(|it| it == "redb"));
    for volume in volumes {
        match loss {
            Loss::Beginnings => {
                let bytes = Pattern::new(7, 64 << 10).bytes();
                std::os::unix::fs::FileExt::write_all_at(
                    &fs::OpenOptions::new().write(true).open(volume)?,
                    &bytes,
                    0,
                )?;
            }
            Loss::Lengths => drop(fs::File::create(volume)?),
            _ => fs::remove_file(volume)?,
        }
    }
    Ok(())
}

/// The node refuses to start on an empty disk and says what to run; runs it.
pub(super) async fn let_in_again(store: &Cluster, node: usize) -> Result<()> {
    let said = store.nodes[node].refusal().await.map_err(anyhow::Error::msg)?;
    let (_, names) = said.rsplit_once("run: replace ").context("it names no command")?;
    let command: Vec<&str> = ["replace"].into_iter().chain(names.split_whitespace()).collect();
    store.operation(&command)().map(drop)
}

/// Reads one object after the other until told to stop. Every read succeeds.
async fn read_until(store: &Cluster, stop: &AtomicBool) -> Result<u64> {
    let client = Client::new(store, 0);
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = reads % OBJECTS;
        let mut check = PatternCheck::new(Pattern::new(number, OBJECT_BYTES));
        let get = client.send_checking(Request::object("GET", BUCKET, &key(number)), &mut check).await?;
        ensure!(get.status == 200, "read {number}: {}", get.describe());
        check.finish().map_err(|why| anyhow::anyhow!("read {number}: {why}"))?;
        reads += 1;
    }
    Ok(reads)
}

/// Chunks in a directory that can be read and proved.
async fn verified_chunks(directory: &Path) -> Result<usize> {
    let seams = Seams {
        env: Arc::new(SystemEnv::default()),
        net: Arc::new(LocalNet::default()),
        disks: Arc::new(SystemDisks),
    };
    let store = ChunkStore::open(&seams, ChunkSettings::new(NODE_ID, directory.into(), 32 * MIB)).await?;
    store.wait_ready().await;
    let (mut count, mut after) = (0, None);
    loop {
        let page = store.scan(after, 100).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for stat in page {
            store.get(stat.id, 0, stat.bytes).await?;
            count += 1;
        }
    }
    store.close().await;
    Ok(count)
}
