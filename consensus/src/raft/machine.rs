//! The state machine: applies committed entries and keeps the tables.
//!
//! Entries are applied into an overlay in memory and are visible at once in the published [`View`]. Every few
//! seconds, or when the overlay has grown, it is frozen and written, sorted, in one durable transaction off the
//! apply path (a *checkpoint*). The file says up to which entry it is; the log replays the rest. A checkpoint is
//! never ahead of what the local log has synced, and the overlay is bounded: apply waits for the checkpoint
//! rather than let it grow.
//!
//! A snapshot is a checkpoint, read as a stream of sorted rows. One that arrives is a file of its own until it
//! is complete and synced; then it takes the place of the old file.

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use fabric::codec::{self, DecodeError};
use fabric::disks::{Disks, File, LengthFile, OnRot, OpenMode, Steps, full, is_full};
use fabric::env::{Env, Lane, TaskHandle, panic_message, spawn_critical};
use fabric::limits::{KIB, MIB, TABLES_RESERVE_BYTES};
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use redb::{Database, Durability, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify, watch};

use super::log::Headroom;
use super::overlay::{FileView, Overlay, View, definition};
use super::rebuild::RotGuard;
use super::types::{LogEntry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::meta::apply::{self, Context};
use crate::meta::command::{Entry, Reply};
use crate::meta::store::{Fault, TABLES, TableId};
use crate::redb_file::{database_at, open_checked};

/// Version of encoded commands in the log.
pub const ENTRY_FORMAT: u8 = 1;
const STATE_FORMAT: u8 = 1;
const STATE: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("raft");
const STATE_KEY: &str = "applied";
/// Entries applied before the view is published.
const APPLY_ENTRIES_MAX: usize = 256;
/// What a changed row costs at most in pages that are copied.
const CHANGED_ROW_BYTES: u64 = 8 * KIB;
/// Bytes of rows in one page of a snapshot.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Sizes and times of a state machine.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// How often what was applied is written to the file.
    pub checkpoint_interval: Duration,
    /// A checkpoint begins early when the overlay has grown to this.
    pub overlay_bytes: usize,
    /// Apply waits while active and frozen overlay are above this.
    pub overlay_bytes_max: usize,
    /// redb's cache.
    pub cache_bytes: usize,
    /// How the file grows.
    pub steps: Steps,
    /// Bugs planted by the simulator.
    pub context: Context,
}

impl MachineConfig {
    /// Within the budget of a node: a sixth for redb's cache, a quarter for the overlays.
    pub fn within(memory_bytes: u64) -> MachineConfig {
        let most = MachineConfig::default();
        let share = |part: u64, most: usize| {
            usize::try_from(memory_bytes / part).map_or(most, |share| share.min(most))
        };
        let overlay_bytes_max = share(4, most.overlay_bytes_max);
        MachineConfig {
            cache_bytes: share(6, most.cache_bytes),
            overlay_bytes: overlay_bytes_max / 3,
            overlay_bytes_max,
            ..most
        }
    }
}

impl Default for MachineConfig {
    fn default() -> MachineConfig {
        MachineConfig {
            checkpoint_interval: Duration::from_secs(5),
            overlay_bytes: 32 << 20,
            overlay_bytes_max: 96 << 20,
            cache_bytes: 64 << 20,
            steps: Steps::default(),
            context: Context::default(),
        }
    }
}

/// What the file says it contains.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Applied {
    log_id: Option<LogId>,
    membership: StoredMembership,
}

/// A checkpoint as a snapshot: the tables and what they contain.
#[derive(Clone)]
pub struct SnapshotData {
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// Tables to read from, here.
    Tables(Arc<FileView>),
    /// A file that was received, complete but for its `Applied` row.
    Received(Received),
}

#[derive(Clone)]
struct Received {
    database: Arc<Database>,
    below: Arc<LengthFile>,
    guard: Arc<RotGuard>,
}

/// Rows of a snapshot in order, as sent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// Table number, key, value.
    pub rows: Vec<(u8, Bytes, Bytes)>,
}

/// Where the next page of a snapshot begins: after this row.
pub type Cursor = Option<(TableId, Bytes)>;

impl SnapshotData {
    /// Rows after `cursor`, about [`PAGE_BYTES_MAX`] of them; an empty page is the end.
    pub fn page(&self, cursor: &Cursor) -> Result<(Page, Cursor), Fault> {
        let Source::Tables(tables) = &self.source else {
            return Err(Fault::new("read snapshot", "it is not complete"));
        };
        let mut page = Page::default();
        let mut bytes = 0;
        let mut last = cursor.clone();
        for (table, _) in TABLES {
            let lower = match cursor {
                Some((at, _)) if table < at => continue,
                Some((at, key)) if table == at => Bound::Excluded(&key[..]),
                _ => Bound::Unbounded,
            };
            for row in tables.range(*table, lower, Bound::Unbounded)? {
                let (key, value) = row?;
                bytes += key.len() + value.len() + 8;
                last = Some((*table, key.clone()));
                page.rows.push((table.number(), key, value));
                if bytes >= PAGE_BYTES_MAX {
                    return Ok((page, last));
                }
            }
        }
        Ok((page, last))
    }
}

/// A snapshot on its way in.
pub struct Receiving {
    received: Received,
    lane: Lane,
}

impl Receiving {
    /// Adds a page.
    pub async fn add(&self, page: Page) -> io::Result<()> {
        let database = self.received.database.clone();
        self.lane.run(move || add_page(&database, &page)).await
    }

    /// All pages are there.
    pub fn finish(self) -> SnapshotData {
        SnapshotData { source: Source::Received(self.received) }
    }
}

/// The tables of one node, as readers, checkpoints and Raft share them.
pub struct Tables {
    env: Arc<dyn Env>,
    disks: Arc<dyn Disks>,
    directory: PathBuf,
    config: MachineConfig,
    lane: Lane,
    view: ArcSwap<View>,
    /// Held while the view is replaced: by apply, by freezing, by the end of a checkpoint.
    turn: Mutex<()>,
    /// Held during a checkpoint and an installation. What the file contains.
    file: Mutex<OpenFile>,
    /// The task that makes checkpoints.
    checkpoints: OnceLock<TaskHandle>,
    /// The overlay has grown.
    grown: Notify,
    /// A checkpoint ended.
    checkpointed: Notify,
    /// Entries below are durable in the local log; `None` where there is no log (tests of the store).
    log_synced: Option<watch::Receiver<u64>>,
    /// The last checkpoint was put off: the disk is full.
    full: AtomicBool,
}

struct OpenFile {
    database: Arc<Database>,
    below: Arc<LengthFile>,
    applied: Applied,
}

impl Tables {
    /// The current view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The first index that is not in the file.
    pub async fn floor(&self) -> u64 {
        self.file.lock().await.applied.log_id.map_or(0, |applied| applied.index + 1)
    }

    /// Makes no more checkpoints by itself.
    pub fn close(&self) {
        if let Some(task) = self.checkpoints.get() {
            task.abort();
        }
    }

    /// What the disk has left for the tables: on a full one, only the memory for what is not in the file yet.
    pub fn headroom(&self) -> Headroom {
        let view = self.view.load();
        let bytes = view.active.bytes() + view.frozen.as_ref().map_or(0, Overlay::bytes);
        match self.full.load(Ordering::Relaxed) {
            false => Headroom::Ahead,
            true if bytes > self.config.overlay_bytes_max / 4 * 3 => Headroom::Spent,
            true => Headroom::Reserve,
        }
    }

    /// Writes what is applied to the file, once the log holds it durably. On a full disk it is put off
    /// (`StorageFull`) before anything is changed, and the log keeps what the file lacks.
    pub async fn checkpoint(&self) -> io::Result<()> {
        let mut file = self.file.lock().await;
        self.check_space(&file).await?;
        let (frozen, applied) = {
            let _turn = self.turn.lock().await;
            let mut view = View::clone(&self.view.load());
            if view.applied == file.applied.log_id {
                return Ok(());
            }
            assert!(view.frozen.is_none(), "one checkpoint at a time");
            let frozen = std::mem::take(&mut view.active);
            view.frozen = Some(frozen.clone());
            let applied = Applied { log_id: view.applied, membership: view.membership.clone() };
            self.view.store(Arc::new(view));
            (frozen, applied)
        };
        self.log_reached(applied.log_id).await?;
        let database = file.database.clone();
        let written = applied.clone();
        let began = self.env.monotonic();
        let tables = self.lane.run(move || write_checkpoint(&database, &frozen, &written)).await?;
        let took = self.env.monotonic().saturating_sub(began);
        metrics::gauge!("fluffy_checkpoint_seconds").set(took.as_secs_f64());
        file.applied = applied;
        {
            let _turn = self.turn.lock().await;
            let mut view = View::clone(&self.view.load());
            view.frozen = None;
            view.file = Arc::new(tables);
            self.view.store(Arc::new(view));
        }
        self.checkpointed.notify_waiters();
        Ok(())
    }

    /// Makes sure that a checkpoint of the overlay meets no full disk: redb does not go on after one.
    async fn check_space(&self, file: &OpenFile) -> io::Result<()> {
        let (below, disks, directory) = (file.below.clone(), self.disks.clone(), self.directory.clone());
        let view = self.view();
        let checked = self.lane.run(move || check_space(&below, &*disks, &directory, &view.active)).await;
        let error = checked.as_ref().err().filter(|error| is_full(error));
        let before = self.full.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !before => tracing::warn!(%error, "a checkpoint is put off: the disk is full"),
            None if before => tracing::info!("checkpoints are made again"),
            _ => {}
        }
        metrics::gauge!("fluffy_tables_disk_full").set(if error.is_some() { 1.0 } else { 0.0 });
        checked
    }

    /// Waits until the local log holds, durably, what was applied: Raft applies entries that a majority has,
    /// which need not include us, and a file ahead of its log cannot start.
    async fn log_reached(&self, applied: Option<LogId>) -> io::Result<()> {
        let (Some(applied), Some(synced)) = (applied, &self.log_synced) else {
            return Ok(());
        };
        if self.env.armed("checkpoint_ahead_of_log") {
            return Ok(());
        }
        let reached = synced.clone().wait_for(|end| *end > applied.index).await.map(drop);
        reached.map_err(|_| io::Error::other("the log ended"))
    }

    /// The checkpoint in the file as a snapshot.
    pub(super) async fn snapshot(&self) -> Snapshot {
        let file = self.file.lock().await;
        let meta = SnapshotMeta {
            last_log_id: file.applied.log_id,
            last_membership: file.applied.membership.clone(),
        };
        // No checkpoint can end while the file is locked, so this is the file's view.
        let tables = self.view.load().file.clone();
        Snapshot { meta, snapshot: SnapshotData { source: Source::Tables(tables) } }
    }

    /// Begins to receive a snapshot; one that was begun before is dropped.
    pub async fn receive(&self) -> io::Result<Receiving> {
        let lane = Lane::new(&*self.env, "snapshot");
        let (disks, path) = (self.disks.clone(), self.directory.join(NEW_NAME));
        let config = self.config.clone();
        let guard = RotGuard::new(&self.env, &self.disks, &self.directory, false);
        let hook = guard.hook();
        let (database, below) = lane
            .run(move || -> io::Result<_> {
                remove_if_there(&*disks, &path)?;
                let file = LengthFile::open(disks.open(&path, OpenMode::New)?, config.steps)?;
                let file = Arc::new(file);
                let database = open_checked(file.clone(), config.cache_bytes, hook).map_err(redb_error)?;
                Ok((Arc::new(database), file))
            })
            .await?;
        below.extended().extend_in_background(&self.env); // It ends with the file.
        Ok(Receiving { received: Received { database, below, guard }, lane })
    }

    pub(super) async fn install(&self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let Received { database, below, guard } = match snapshot.source {
            Source::Received(received) => received,
            Source::Tables(_) => self.copy(&snapshot).await?,
        };
        let applied = Applied { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        let mut file = self.file.lock().await;
        let _turn = self.turn.lock().await;
        let (written, target, disks) = (applied.clone(), database.clone(), self.disks.clone());
        let directory = self.directory.clone();
        let install = move || -> io::Result<FileView> {
            let tables = write_checkpoint(&target, &Overlay::default(), &written)?;
            disks.rename(&directory.join(NEW_NAME), &directory.join(NAME))?;
            guard.placed();
            disks.sync_dir(&directory)?;
            Ok(tables)
        };
        let tables = self.lane.run(install).await?;
        *file = OpenFile { database, below, applied: applied.clone() };
        self.view.store(Arc::new(View {
            active: Overlay::default(),
            frozen: None,
            file: Arc::new(tables),
            applied: applied.log_id,
            membership: applied.membership,
        }));
        self.checkpointed.notify_waiters();
        metrics::counter!("fluffy_snapshots_installed_total").increment(1);
        Ok(())
    }

    async fn copy(&self, snapshot: &SnapshotData) -> io::Result<Received> {
        let receiving = self.receive().await?;
        let mut cursor = None;
        loop {
            let (page, next) = snapshot.page(&cursor).map_err(io::Error::other)?;
            if page.rows.is_empty() {
                return Ok(receiving.received);
            }
            receiving.add(page).await?;
            cursor = next;
        }
    }

    /// Waits while the overlays are too large.
    async fn room(&self) {
        loop {
            let checkpointed = self.checkpointed.notified();
            let view = self.view.load_full();
            let frozen = view.frozen.as_ref().map_or(0, Overlay::bytes);
            if view.active.bytes() + frozen <= self.config.overlay_bytes_max {
                return;
            }
            drop(view);
            self.grown.notify_one();
            checkpointed.await;
        }
    }

    async fn run_checkpoints(self: Arc<Self>) {
        loop {
            // Whichever comes first; the time passing is no error.
            let _ = tokio::time::timeout(self.config.checkpoint_interval, self.grown.notified()).await;
            if let Err(error) = self.checkpoint().await
                && !is_full(&error)
            {
                self.env.fail_stop(&format!("the metadata cannot be written: {error}"));
                return;
            }
        }
    }
}

/// The file of the tables, in the data directory.
pub(super) const NAME: &str = "tables.redb";
/// One in which rot was found, until another takes its place.
pub(super) const ROTTEN_NAME: &str = "tables.rotten";
const NEW_NAME: &str = "tables.new";

fn remove_if_there(disks: &dyn Disks, path: &Path) -> io::Result<()> {
    match disks.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a checkpoint of `overlay` is certain to find the space it takes.
fn check_space(file: &LengthFile, disks: &dyn Disks, directory: &Path, overlay: &Overlay) -> io::Result<()> {
    // A changed row copies its leaf and what is above it; no more than all that is there.
    let copied_bytes = (overlay.rows() as u64 * CHANGED_ROW_BYTES).min(file.len()?);
    let wanted_bytes = copied_bytes + 2 * overlay.bytes() as u64 + MIB;
    let missing_bytes = file.missing(wanted_bytes).min(wanted_bytes);
    if missing_bytes == 0 {
        return Ok(());
    }
    // Nobody else of this process takes the last of it: chunks and log stop before.
    let free_bytes = disks.space(directory)?.free_bytes;
    if free_bytes < missing_bytes + TABLES_RESERVE_BYTES {
        return Err(full(format!("a checkpoint may take {missing_bytes} bytes, and {free_bytes} are free")));
    }
    Ok(())
}

/// Rot is `InvalidData`.
fn redb_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => error,
        // No file here was ever of an older format.
        error @ (redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_)) => {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }
        error => io::Error::other(error),
    }
}

/// One durable transaction; the file needs no repair after a crash.
fn write_checkpoint(database: &Arc<Database>, overlay: &Overlay, applied: &Applied) -> io::Result<FileView> {
    let mut transaction = database.begin_write().map_err(redb_error)?;
    transaction.set_durability(Durability::Immediate).map_err(redb_error)?;
    transaction.set_quick_repair(true);
    let mut changes = overlay.iter().peekable();
    for (table, _) in TABLES {
        let mut rows = transaction.open_table(definition(*table)).map_err(redb_error)?;
        while let Some((_, key, value)) = changes.next_if(|(of, _, _)| of == table) {
            match value {
                Some(value) => rows.insert(&key[..], &value[..]).map_err(redb_error)?,
                None => rows.remove(&key[..]).map_err(redb_error)?,
            };
        }
    }
    {
        let mut state = transaction.open_table(STATE).map_err(redb_error)?;
        state.insert(STATE_KEY, &codec::encode(STATE_FORMAT, applied)[..]).map_err(redb_error)?;
    }
    transaction.commit().map_err(redb_error)?;
    FileView::of(database).map_err(redb_error)
}

fn add_page(database: &Database, page: &Page) -> io::Result<()> {
    let transaction = database.begin_write().map_err(redb_error)?;
    for rows in page.rows.chunk_by(|one, next| one.0 == next.0) {
        let number = rows[0].0;
        let table = TableId::from_number(number)
            .ok_or_else(|| io::Error::other(format!("table {number} is of another release")))?;
        let mut stored = transaction.open_table(definition(table)).map_err(redb_error)?;
        for (_, key, value) in rows {
            stored.insert(&key[..], &value[..]).map_err(redb_error)?;
        }
    }
    transaction.commit().map_err(redb_error)
}

fn read_applied(database: &Database) -> io::Result<Applied> {
    use redb::ReadableDatabase;
    let transaction = database.begin_read().map_err(redb_error)?;
    let table = match transaction.open_table(STATE) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Applied::default()),
        other => other.map_err(redb_error)?,
    };
    let found = table.get(STATE_KEY).map_err(redb_error)?;
    let Some(found) = found else { return Ok(Applied::default()) };
    let decoded = codec::decode(STATE_FORMAT, "applied state", found.value());
    decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

type OpenedFile = (Arc<Database>, Arc<LengthFile>, Applied, FileView);

fn open_file(
    disks: &dyn Disks,
    directory: &Path,
    config: &MachineConfig,
    on_rot: OnRot,
) -> io::Result<OpenedFile> {
    disks.create_dir(directory)?;
    remove_if_there(disks, &directory.join(NEW_NAME))?;
    let path = directory.join(NAME);
    let open = |file| open_checked(file, config.cache_bytes, on_rot);
    let (below, database) = database_at(disks, &path, config.steps, open).map_err(redb_error)?;
    let database = Arc::new(database);
    let applied = read_applied(&database)?;
    let file = match FileView::of(&database) {
        Ok(file) => file,
        // A new file, or one from before a table was added.
        Err(redb::Error::TableDoesNotExist(_)) => write_checkpoint(&database, &Overlay::default(), &applied)?,
        Err(error) => return Err(redb_error(error)),
    };
    if applied.log_id.is_some() {
        remove_if_there(disks, &directory.join(ROTTEN_NAME))?;
    }
    Ok((database, below, applied, file))
}

/// The state machine that Raft drives.
pub struct Machine {
    tables: Arc<Tables>,
}

impl Machine {
    /// Opens the tables in `directory`, or makes them. Start [`Machine::run`] once the log is open. `InvalidData`: the
    /// file is rotten.
    pub async fn open(
        env: Arc<dyn Env>,
        disks: Arc<dyn Disks>,
        directory: &Path,
        config: MachineConfig,
    ) -> io::Result<Opened> {
        let lane = Lane::new(&*env, "metadata");
        let (database, below, applied, file) = {
            let guard = RotGuard::new(&env, &disks, directory, true);
            let (disks, config, directory) = (disks.clone(), config.clone(), directory.to_path_buf());
            // redb panics on some damage.
            let open = move || open_file(&*disks, &directory, &config, guard.hook());
            lane.run(move || {
                catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
                    let why = format!("redb does not open it: {}", panic_message(&*panic));
                    Err(io::Error::new(io::ErrorKind::InvalidData, why))
                })
            })
            .await?
        };
        below.extended().extend_in_background(&env); // It ends with the file.
        let view = View {
            active: Overlay::default(),
            frozen: None,
            file: Arc::new(file),
            applied: applied.log_id,
            membership: applied.membership.clone(),
        };
        let tables = Tables {
            env,
            disks,
            directory: directory.to_path_buf(),
            config,
            lane,
            view: ArcSwap::from_pointee(view),
            turn: Mutex::new(()),
            file: Mutex::new(OpenFile { database, below, applied }),
            checkpoints: OnceLock::new(),
            grown: Notify::new(),
            checkpointed: Notify::new(),
            log_synced: None,
            full: AtomicBool::new(false),
        };
        Ok(Opened { tables })
    }

    /// The tables, for readers.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.clone()
    }

    /// Applies entries that nobody waits for.
    pub(super) async fn replay(&self, entries: Vec<LogEntry>) -> io::Result<()> {
        let mut entries = entries.into_iter().map(|entry| (entry, None)).peekable();
        while entries.peek().is_some() {
            self.apply_batch(entries.by_ref().take(APPLY_ENTRIES_MAX).collect()).await?;
        }
        Ok(())
    }

    /// Applies a batch and publishes it; only then is anybody told.
    async fn apply_batch(&self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        self.tables.room().await;
        let mut told: Vec<(ApplyResponder<Types>, Option<Reply>)> = Vec::new();
        {
            let _turn = self.tables.turn.lock().await;
            let mut view = View::clone(&self.tables.view.load());
            for (entry, responder) in batch {
                let reply = self.apply_entry(&mut view, entry)?;
                told.extend(responder.map(|responder| (responder, reply)));
            }
            if view.active.bytes() >= self.tables.config.overlay_bytes {
                self.tables.grown.notify_one();
            }
            self.tables.view.store(Arc::new(view));
        }
        for (responder, reply) in told {
            responder.send(reply);
        }
        Ok(())
    }

    fn apply_entry(&self, view: &mut View, entry: LogEntry) -> io::Result<Option<Reply>> {
        let log_id = entry.log_id;
        view.applied = Some(log_id);
        match entry.payload {
            EntryPayload::Blank => Ok(None),
            EntryPayload::Membership(membership) => {
                view.membership = StoredMembership::new(Some(log_id), membership);
                Ok(None)
            }
            EntryPayload::Normal(proposal) => {
                let entry = decode_entry(&proposal.0).map_err(io::Error::other)?;
                let context = &self.tables.config.context;
                let reply = apply::apply(view, context, log_id.index, &entry).map_err(io::Error::other)?;
                Ok(Some(reply))
            }
        }
    }
}

/// A state machine whose log is not open yet.
pub struct Opened {
    tables: Tables,
}

impl Opened {
    /// The first index that is not in the file: what the log has to hold.
    pub async fn floor(&self) -> u64 {
        self.tables.floor().await
    }

    /// The tables, to be filled.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The last entry that is in the file.
    pub async fn applied(&self) -> Option<LogId> {
        self.tables.file.lock().await.applied.log_id
    }

    /// Starts the checkpoints, bound to what the log has synced.
    pub fn run(mut self, log_synced: Option<watch::Receiver<u64>>) -> Machine {
        self.tables.log_synced = log_synced;
        let tables = Arc::new(self.tables);
        let task = spawn_critical(&tables.env, "metadata-checkpoints", tables.clone().run_checkpoints());
        assert!(tables.checkpoints.set(task).is_ok(), "a state machine is started once");
        Machine { tables }
    }
}

/// Decodes a command from the log.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    codec::decode(ENTRY_FORMAT, "metadata entry", bytes)
}

/// Encodes a command for the log.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    codec::encode(ENTRY_FORMAT, entry)
}

/// Makes a checkpoint when Raft wants a snapshot.
pub struct Builder {
    tables: Arc<Tables>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        match self.tables.checkpoint().await {
            // What is in the file is a snapshot, too, if an older one.
            Err(error) if !is_full(&error) => return Err(error),
            _ => {}
        }
        Ok(self.tables.snapshot().await)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let view = self.tables.view();
        Ok((view.applied, view.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(batch) = batches.next().await {
            let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
            if let Err(error) = self.apply_batch(batch).await {
                self.tables.env.fail_stop(&format!("the metadata cannot be applied: {error}"));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { tables: self.tables.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.tables.install(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.tables.snapshot().await;
        Ok(Some(snapshot).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::disks::MemoryDisks;
    use fabric::env::SystemEnv;
    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};

    use super::*;
    use crate::raft::log::{Log, LogConfig, NoDonors, Shelf};
    use crate::raft::types::Runtime;

    fn config() -> MachineConfig {
        let steps = Steps { first_bytes: 1 << 20, next_bytes: 1 << 20 };
        MachineConfig { cache_bytes: 1 << 20, steps, ..MachineConfig::default() }
    }

    struct Stores;

    impl StoreBuilder<Types, Log, Machine> for Stores {
        async fn build(&self) -> Result<((), Log, Machine), StorageError<Types>> {
            let env = Arc::new(SystemEnv::default());
            let disks = Arc::new(MemoryDisks::new(1 << 30));
            let sizes =
                LogConfig { first_segment_bytes: 4 << 10, segment_bytes: 8 << 10, ..LogConfig::default() };
            let log = Log::open(
                env.clone(),
                disks.clone(),
                Path::new("/data/raft"),
                sizes,
                0,
                &NoDonors,
                &Shelf::default(),
            )
            .await
            .unwrap();
            let machine = Machine::open(env, disks, Path::new("/data"), config()).await.unwrap();
            Ok(((), log, machine.run(None)))
        }
    }

    /// A checkpoint with one entry applied, in a log that is synced up to `synced`.
    async fn applied_ahead(env: SystemEnv, synced: u64) -> (Machine, watch::Sender<u64>) {
        let (sender, receiver) = watch::channel(synced);
        let disks = Arc::new(MemoryDisks::new(1 << 30));
        let opened = Machine::open(Arc::new(env), disks, Path::new("/data"), config()).await.unwrap();
        let machine = opened.run(Some(receiver));
        let leader_id = openraft::impls::leader_id_adv::LeaderId { term: 1, node_id: 1 };
        let entry = LogEntry { log_id: LogId { leader_id, index: 10 }, payload: EntryPayload::Blank };
        machine.apply_batch(vec![(entry, None)]).await.unwrap();
        (machine, sender)
    }

    /// A majority may have what this node has not synced yet; after a power cut its log would end before its file.
    #[tokio::test]
    async fn a_checkpoint_waits_for_the_log() {
        let (machine, synced) = applied_ahead(SystemEnv::default(), 10).await;
        let tables = machine.tables();
        let checkpoint = tables.checkpoint();
        tokio::pin!(checkpoint);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut checkpoint).await;
        assert!(early.is_err(), "the checkpoint is ahead of the log");
        synced.send_replace(11);
        checkpoint.await.unwrap();
        assert_eq!(tables.floor().await, 11);
        // The test of the test: with the bug planted it does not wait.
        let planted = SystemEnv::with_armed(["checkpoint_ahead_of_log".to_string()]);
        let (machine, _synced) = applied_ahead(planted, 10).await;
        machine.tables().checkpoint().await.unwrap();
        assert_eq!(machine.tables().floor().await, 11);
    }

    /// openraft's own suite, over our log and our state machine.
    #[tokio::test]
    async fn the_stores_keep_what_raft_expects() {
        Runtime::scope(1, Suite::test_all(Stores)).await.unwrap();
    }
}
