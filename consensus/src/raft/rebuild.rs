//! The tables of a voter whose own are rotten or gone, copied from another voter before Raft runs here.
//!
//! The voter has promised to keep what it acknowledged, and may have been needed for a majority. So it takes part again
//! only with tables that hold all its log has forgotten: a checkpoint of anybody, as of that entry or a later one, since
//! all of a checkpoint is decided. What the log still has stays where it is.
//!
//! Cold rows are read once a day, so that their rot is found while others have them.
//!
//! A file in which rot is found is set aside at once, under another name, and the process ends: redb does not go on
//! after an error, and a start without the file knows what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fabric::codec;
use fabric::disks::{Disks, OnRot};
use fabric::env::{Env, TaskHandle, run_blocking};
use fabric::ids::NodeId;
use fabric::rpc::{CallOptions, Class, Message, Peer, RpcClient, decode_head, reply_typed};

use super::backups::Backups;
use super::machine::{NAME, Opened, Page, ROTTEN_NAME, Receiving, Tables};
use super::types::SnapshotMeta;
use super::wire::{BackupAnswer, BackupRequest, PAGE_FORMAT, method};
use crate::meta::store::Fault;

/// All others together have so long to begin: they may start later than we do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two rounds of questions.
const INTERVAL: Duration = Duration::from_millis(500);
/// One page; the first waits for a checkpoint.
const DEADLINE: Duration = Duration::from_secs(30);

/// The first reading of all rows after a start, and the time between two.
const FIRST_READING: Duration = Duration::from_secs(10 * 60);
const READING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two pages of a reading: others want the disk, too.
const READING_PAUSE: Duration = Duration::from_millis(20);

/// What happens when rot is found in a file of tables.
pub(super) struct RotGuard {
    env: Arc<dyn Env>,
    disks: Arc<dyn Disks>,
    directory: PathBuf,
    /// The file has its name; one that is being received has not.
    in_place: AtomicBool,
}

impl RotGuard {
    pub fn new(
        env: &Arc<dyn Env>,
        disks: &Arc<dyn Disks>,
        directory: &Path,
        in_place: bool,
    ) -> Arc<RotGuard> {
        let (env, disks) = (env.clone(), disks.clone());
        Arc::new(RotGuard { env, disks, directory: directory.to_path_buf(), in_place: in_place.into() })
    }

    /// The file took the place of the one before.
    pub fn placed(&self) {
        self.in_place.store(true, Ordering::Release);
    }

    /// For whoever reads the file.
    pub fn hook(self: &Arc<Self>) -> OnRot {
        let guard = self.clone();
        Box::new(move |offset| {
            tracing::error!(offset, directory = %guard.directory.display(), "a page of the metadata is rotten");
            if guard.in_place.load(Ordering::Acquire) {
                let aside = set_aside(&*guard.disks, &guard.directory);
                let error = aside.err().map(|error| format!(", and cannot be set aside: {error}"));
                guard.env.fail_stop(&format!("the metadata are rotten{}", error.unwrap_or_default()));
            }
        })
    }
}

/// The next start does without the file.
pub(super) fn set_aside(disks: &dyn Disks, directory: &Path) -> io::Result<()> {
    metrics::counter!("fluffy_tables_rotten_total").increment(1);
    disks.rename(&directory.join(NAME), &directory.join(ROTTEN_NAME))?;
    disks.sync_dir(directory)
}

/// Reads all rows again and again.
pub(super) fn start_readings(env: &Arc<dyn Env>, tables: Arc<Tables>) -> TaskHandle {
    let clock = env.clone();
    let readings = async move {
        tokio::time::sleep(FIRST_READING).await;
        loop {
            match read_all(&*clock, &tables).await {
                Ok(rows) => tracing::info!(rows, "all metadata were read: there is no rot"),
                // Of rot the guard has heard.
                Err(fault) => tracing::warn!(%fault, "the metadata cannot be read"),
            }
            tokio::time::sleep(READING_INTERVAL).await;
        }
    };
    env.spawn("metadata-readings", Box::pin(readings))
}

/// Reads what is in the file; returns how many rows.
async fn read_all(env: &dyn Env, tables: &Tables) -> Result<u64, Fault> {
    let snapshot = tables.snapshot().await.snapshot;
    let (mut cursor, mut rows) = (None, 0);
    loop {
        let (source, from) = (snapshot.clone(), cursor);
        let (page, next) = run_blocking(env, move || source.page(&from)).await?;
        if page.rows.is_empty() {
            metrics::counter!("fluffy_tables_readings_total").increment(1);
            return Ok(rows);
        }
        rows += page.rows.len() as u64;
        cursor = next;
        tokio::time::sleep(READING_PAUSE).await;
    }
}

/// Fills the tables from the checkpoint of one of the `others`, as of entry `at_least` or later.
pub(super) async fn rebuild(
    env: &Arc<dyn Env>,
    rpc: &RpcClient,
    others: &[NodeId],
    machine: &Opened,
    at_least: u64,
) -> Result<(), String> {
    let until = env.monotonic() + PATIENCE;
    let mut why = "there is no other voter".to_string();
    while !others.is_empty() && env.monotonic() < until {
        for node in others {
            let tables = machine.tables();
            match copy(rpc, *node, tables, at_least).await {
                Ok((meta, receiving)) => {
                    let installed = tables.install(&meta, receiving.finish()).await;
                    installed
                        .map_err(|error| format!("the tables of {node} cannot be installed: {error}"))?;
                    let index = meta.last_log_id.map(|log_id| log_id.index);
                    tracing::warn!(%node, index, "the metadata were copied from another voter");
                    metrics::counter!("fluffy_tables_rebuilt_total").increment(1);
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(%node, error, "a voter does not give its tables now");
                    why = format!("node {node}: {error}");
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Err(why)
}

async fn copy(
    rpc: &RpcClient,
    node: NodeId,
    tables: &Tables,
    at_least: u64,
) -> Result<(SnapshotMeta, Receiving), String> {
    let mut begun: Option<(SnapshotMeta, Receiving)> = None;
    let mut request = BackupRequest { token: 0, at_least, place: None };
    loop {
        let options = CallOptions { class: Class::Control, deadline: DEADLINE };
        let asked = rpc.call_typed(node, method::TABLES, &request, Bytes::new(), options).await;
        let (answer, body): ((BackupAnswer, SnapshotMeta), Bytes) =
            asked.map_err(|error| error.to_string())?;
        let (BackupAnswer::Page { token, next, last, .. }, meta) = answer else {
            let BackupAnswer::Refused(why) = answer.0 else { unreachable!("a page is dealt with") };
            return Err(why);
        };
        let page: Page =
            codec::decode(PAGE_FORMAT, "page of rows", &body).map_err(|error| error.to_string())?;
        let (_, receiving) = match &mut begun {
            Some(begun) => begun,
            None => {
                let receiving = tables.receive().await.map_err(|error| error.to_string())?;
                begun.insert((meta, receiving))
            }
        };
        if last {
            return begun.ok_or_else(|| "no page came".to_string());
        }
        receiving.add(page).await.map_err(|error| error.to_string())?;
        request = BackupRequest { token, at_least, place: next };
    }
}

/// Answers a voter that asks.
pub(super) async fn answer(
    given: &Backups,
    env: &Arc<dyn Env>,
    tables: &Arc<Tables>,
    from: Peer,
    request: &Message,
) -> Result<Message, String> {
    if !matches!(from, Peer::Node(_)) {
        return Err(format!("{from} is no voter"));
    }
    let request = decode_head(&request.head).map_err(|error| error.to_string())?;
    let (answer, meta, page) = given.page(env, tables, request).await?;
    Ok(reply_typed(&(answer, meta), page))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::Bound;

    use fabric::disks::{LengthFile, MemoryDisks, OpenMode, Steps};
    use fabric::env::SystemEnv;

    use super::*;
    use crate::meta::store::TableId;
    use crate::raft::machine::{Machine, MachineConfig};
    use crate::raft::overlay::FileView;
    use crate::redb_file::open_checked;

    /// Rot in a page that nobody reads otherwise is found by the daily reading.
    #[tokio::test]
    async fn a_reading_finds_rot() {
        let env: Arc<dyn Env> = Arc::new(SystemEnv::default());
        let disks: Arc<dyn Disks> = Arc::new(MemoryDisks::new(1 << 30));
        let directory = Path::new("/data");
        let open = || Machine::open(env.clone(), disks.clone(), directory, MachineConfig::default());
        let machine = open().await.unwrap();
        let receiving = machine.tables().receive().await.unwrap();
        for number in 0..200u64 {
            let row = |place: u64| {
                let key = Bytes::from((number * 100 + place).to_be_bytes().to_vec());
                (1, key, Bytes::from(vec![number as u8; 500]))
            };
            receiving.add(Page { rows: (0..100).map(row).collect() }).await.unwrap();
        }
        machine.tables().install(&SnapshotMeta::default(), receiving.finish()).await.unwrap();
        assert_eq!(read_all(&*env, machine.tables()).await.unwrap(), 20_000);
        drop(machine);
        let file = disks.open(&directory.join(NAME), OpenMode::Existing).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let place = bytes.windows(400).position(|bytes| bytes.iter().all(|byte| *byte == 77)).unwrap();
        bytes[place + 200] = 78;
        // In a file of its own, as threads of the machine may still read the other one, and would end this process.
        // Nothing is set aside that is not in its place yet.
        let file = disks.open(&directory.join("rotten"), OpenMode::New).unwrap();
        file.write_at(0, &bytes).unwrap();
        let guard = RotGuard::new(&env, &disks, directory, false);
        let below = Arc::new(LengthFile::open(file, Steps::default()).unwrap());
        let database = open_checked(below, 1 << 20, guard.hook()).unwrap();
        let view = FileView::of(&Arc::new(database)).unwrap();
        let table = TableId::from_number(1).unwrap();
        let rows = view.range(table, Bound::Unbounded, Bound::Unbounded);
        assert!(rows.unwrap().any(|row| row.is_err()));
    }
}
