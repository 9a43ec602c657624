//! One volume: a redb file of chunks, its handle, and what happens when the handle breaks.
//!
//! redb refuses everything after one I/O error, and may panic on rot. Either breaks this volume only: the
//! handle is dropped, calls are answered "cannot serve now", and [`Volume::recover`] opens the file again.
//! At no time are there two handles on one file.
//!
//! All calls block; they run in a lane or in the blocking pool.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use consensus::redb_file::{RedbFile, database_at};
use fabric::Seams;
use fabric::disks::{ExtendedFile, OpenMode, Steps};
use fabric::env::panic_message;
use fabric::ids::{ChunkId, NodeId};
use redb::{Database, Durability, ReadableDatabase, ReadableTable};

use super::tables::{Reading, VOLUME, VolumeRow, Writing};

/// First pause after an attempt to reopen failed; it doubles up to [`RECOVERY_PAUSE_MAX`].
const RECOVERY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECOVERY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// After so many tries, some 25 seconds, the chunks of a volume that cannot be opened are copied from other nodes.
const TRIES_MAX: u32 = 9;

/// A volume broke: its disk, its file or redb itself.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(super) struct Fault {
    why: String,
    kind: FaultKind,
}

/// What a fault says about the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// It may go better.
    Passing,
    /// The disk is full: nothing is wrong with the volume.
    Full,
    /// redb panicked: on rot, or on an error of the disk that it did not expect.
    Suspect,
    /// The file is not what redb wrote.
    Damaged,
    /// What the volume held is not there.
    Gone,
}

impl Fault {
    fn new(kind: FaultKind, why: impl ToString) -> Fault {
        Fault { why: why.to_string(), kind }
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Fault {
        match error {
            redb::Error::Io(error) => error.into(),
            redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => {
                Fault::new(FaultKind::Damaged, error)
            }
            _ => Fault::new(FaultKind::Passing, error),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        let kind = match error.kind() {
            ErrorKind::NotFound => FaultKind::Gone,
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => FaultKind::Damaged,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FaultKind::Full,
            _ => FaultKind::Passing,
        };
        Fault::new(kind, error)
    }
}

macro_rules! fault_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                redb::Error::from(error).into()
            }
        })*
    };
}

fault_from!(
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);

/// The volume cannot serve now; why. It is being reopened, or that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volume {number}: {why}")]
pub(super) struct NotServing {
    pub number: u32,
    pub why: String,
    /// The disk is full.
    pub full: bool,
}

/// How a transaction reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// One sync; after a crash the whole file is read once.
    Synced,
    /// Two syncs and the allocator's state; after a crash the volume serves at once.
    Settled,
    /// No sync: the planted bugs `chunk_ack_before_sync` and `chunk_move_before_sync`.
    Unsynced,
}

/// What holds while nothing is being done.
enum State {
    /// No handle; the next call opens one.
    Closed,
    Open(Arc<Database>),
    Broken(Broken),
    /// It was empty and its file is removed; nothing opens it any more.
    Retired,
}

struct Broken {
    fault: Fault,
    /// The old handle, while calls that began before still use it.
    handle: Weak<Database>,
    /// When the next attempt to open is due (monotonic), and the pause after it.
    due: Duration,
    pause: Duration,
    tries: u32,
    /// It may open one day, but nobody should wait for that any more.
    overdue: bool,
    /// No further try can help.
    lost: bool,
}

impl Broken {
    /// One more try failed.
    fn failed(&mut self, fault: Fault, verified: bool, due: Duration) {
        self.tries += 1;
        self.due = due;
        self.pause = (self.pause * 2).min(RECOVERY_PAUSE_MAX);
        self.lost = match fault.kind {
            FaultKind::Gone => true,
            FaultKind::Damaged if verified => true,
            FaultKind::Suspect | FaultKind::Damaged => TRIES_MAX <= self.tries,
            FaultKind::Passing | FaultKind::Full => false,
        };
        self.overdue |= fault.kind == FaultKind::Passing && self.tries == TRIES_MAX;
        self.fault = fault;
    }
}

/// See the file's head.
pub(super) struct Volume {
    pub number: u32,
    path: PathBuf,
    node: NodeId,
    seams: Seams,
    /// Cache of the next handle, in bytes.
    cache_bytes: AtomicU64,
    /// Whether it may hold chunks, so that a file that is not there or empty is a loss and not a beginning.
    listed: AtomicBool,
    state: Mutex<State>,
    /// Bytes of disk its chunks take, as of the last commit.
    disk_bytes: AtomicU64,
    /// Bytes of the file, as of the last look.
    file_bytes: AtomicU64,
    /// The file of the present handle.
    file: Mutex<Weak<ExtendedFile>>,
    /// Whether there was a commit since the last settled one.
    dirty: AtomicBool,
    /// Whether the locator knows all that it holds.
    counted: AtomicBool,
    /// The file of the present handle, until somebody extends it in the background.
    unattended: Mutex<Option<Arc<ExtendedFile>>>,
    /// When it was last used, in ticks of the store.
    pub used: AtomicU64,
}

impl Volume {
    /// Describes a volume; the file is opened by the first call, or created where there is none and it is not
    /// `listed`.
    pub(super) fn new(
        seams: &Seams,
        node: NodeId,
        directory: &Path,
        number: u32,
        cache_bytes: u64,
        listed: bool,
    ) -> Volume {
        Volume {
            number,
            path: directory.join(file_name(number)),
            node,
            seams: seams.clone(),
            cache_bytes: AtomicU64::new(cache_bytes),
            listed: AtomicBool::new(listed),
            state: Mutex::new(State::Closed),
            disk_bytes: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            file: Mutex::default(),
            dirty: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            unattended: Mutex::new(None),
            used: AtomicU64::new(0),
        }
    }

    /// The file, if it is open and nobody extends it in the background yet. Tasks start in the async threads
    /// and not where files are opened.
    pub(super) fn take_unattended(&self) -> Option<Arc<ExtendedFile>> {
        self.unattended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment, so poison means nothing here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Acquire)
    }

    /// Bytes that new chunks may take without growing the file, roughly: tables and the allocator's state take
    /// some, too.
    pub(super) fn reusable_bytes(&self) -> u64 {
        if let Some(file) = self.file.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
            self.file_bytes.store(file.filled_bytes(), Ordering::Release);
        }
        let file_bytes = self.file_bytes.load(Ordering::Acquire);
        (file_bytes - file_bytes / 32).saturating_sub(self.disk_bytes())
    }

    /// Adds to and takes from [`Volume::disk_bytes`].
    pub(super) fn account(&self, added: u64, removed: u64) {
        let now = (self.disk_bytes() + added).saturating_sub(removed);
        self.disk_bytes.store(now, Ordering::Release);
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state(), State::Open(_))
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(*self.state(), State::Broken(_))
    }

    /// Whether it was given up: what it held is to be copied from other nodes.
    pub(super) fn is_lost(&self) -> bool {
        matches!(&*self.state(), State::Broken(broken) if broken.lost)
    }

    /// Whether its chunks should be copied from other nodes now, while it is tried on. Asked again until `owe`, which
    /// makes that known, succeeds.
    pub(super) fn owe_if_overdue(&self, owe: impl FnOnce() -> bool) {
        let overdue = matches!(&*self.state(), State::Broken(broken) if broken.overdue);
        if overdue
            && owe()
            && let State::Broken(broken) = &mut *self.state()
        {
            broken.overdue = false;
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// Whether it takes chunks from now on.
    pub(super) fn set_listed(&self, listed: bool) {
        self.listed.store(listed, Ordering::Release);
    }

    /// Whether it serves and the locator knows all that it holds: only then may chunks come into it, as counting it
    /// would forget them.
    pub(super) fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Acquire) && !self.is_broken()
    }

    /// The locator knows all that it holds.
    pub(super) fn set_counted(&self) {
        self.counted.store(true, Ordering::Release);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at a snapshot.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Reading) -> Result<T, Fault>) -> Result<T, NotServing> {
        self.with(|database| look(&Reading::open(database, self.node)?))
    }

    /// Changes the tables in one transaction. After an error the outcome is unknown.
    pub(super) fn commit<T>(
        &self,
        how: Commit,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, Fault>,
    ) -> Result<T, NotServing> {
        self.with(|database| {
            let mut txn = database.begin_write()?;
            match how {
                Commit::Synced => txn.set_durability(Durability::Immediate)?,
                Commit::Settled => txn.set_quick_repair(true),
                Commit::Unsynced => txn.set_durability(Durability::None)?,
            }
            let done = change(&mut Writing::open(&txn, self.node)?)?;
            if how == Commit::Settled {
                settle(&txn, self.node)?;
            }
            txn.commit()?;
            self.dirty.store(how != Commit::Settled, Ordering::Release);
            Ok(done)
        })
    }

    /// Makes the volume one that serves at once after a crash. Nothing to do when it is one.
    pub(super) fn settle(&self) -> Result<(), NotServing> {
        if !self.is_dirty() {
            return Ok(());
        }
        self.commit(Commit::Settled, |_| Ok(()))
    }

    /// The next handle gets a cache of this size.
    pub(super) fn set_cache(&self, bytes: u64) {
        self.cache_bytes.store(bytes, Ordering::Release);
    }

    /// Drops the handle if nobody uses it. `true` when there is none any more.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state();
        if matches!(&*state, State::Open(database) if Arc::strong_count(database) > 1) {
            return false;
        }
        match std::mem::replace(&mut *state, State::Closed) {
            State::Open(database) => {
                self.take_unattended();
                release(database);
            }
            other => *state = other,
        }
        true
    }

    /// Closes it for good if it serves and nobody looks at it. `true` when nothing will open its file any more.
    pub(super) fn retire(&self) -> bool {
        if !self.close() {
            return false;
        }
        let mut state = self.state();
        let closed = matches!(*state, State::Closed);
        if closed {
            *state = State::Retired;
        }
        closed
    }

    /// Removes the file of a retired volume, durably. Returns the bytes it had. Blocks.
    pub(super) fn remove_file(&self) -> std::io::Result<u64> {
        assert!(matches!(*self.state(), State::Retired), "a volume that may be opened keeps its file");
        let disks = &self.seams.disks;
        let bytes = disks.open(&self.path, OpenMode::Existing)?.len()?;
        disks.remove(&self.path)?;
        disks.sync_dir(self.path.parent().expect("a volume lies in the directory of its store"))?;
        Ok(bytes)
    }

    /// Reopens a broken volume when that is due. `true` if it serves again and must be counted anew. To be called
    /// by one task only; calls are answered "cannot serve" meanwhile, however long it takes.
    pub(super) fn recover(&self) -> bool {
        let Some(verify) = self.wants_recovery() else {
            return false;
        };
        let opened = guarded(|| self.open(verify));
        let mut state = self.state();
        let State::Broken(broken) = &mut *state else {
            return false;
        };
        match opened {
            Ok(database) => {
                tracing::info!(volume = self.number, "volume serves again");
                self.counted.store(false, Ordering::Release);
                *state = State::Open(Arc::new(database));
                true
            }
            Err(fault) => {
                tracing::error!(volume = self.number, %fault, "reopen volume");
                let due = self.seams.env.monotonic() + broken.pause;
                broken.failed(fault, verify, due);
                false
            }
        }
    }

    /// Whether it is broken and to be opened now; and then, whether all of it is to be verified: what redb holds in
    /// memory or on disk may be wrong.
    fn wants_recovery(&self) -> Option<bool> {
        match &*self.state() {
            State::Broken(broken)
                if !broken.lost
                    && broken.due <= self.seams.env.monotonic()
                    && broken.handle.strong_count() == 0 =>
            {
                Some(matches!(broken.fault.kind, FaultKind::Suspect | FaultKind::Damaged))
            }
            _ => None,
        }
    }

    /// Goes through all chunks and counts the disk they take.
    pub(super) fn count(&self, mut each: impl FnMut(ChunkId)) -> Result<(), NotServing> {
        let total = self.read(|tables| {
            let mut total = 0;
            tables.each(|chunk, bytes| {
                total += bytes;
                each(chunk);
            })?;
            Ok(total)
        })?;
        self.disk_bytes.store(total, Ordering::Release);
        Ok(())
    }

    /// Runs `work` on the handle, opening one where there is none. A fault or a panic breaks the volume.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, NotServing> {
        let database = self.database()?;
        let outcome =
            guarded(|| work(&database)).map_err(|fault| self.break_off(fault, Arc::downgrade(&database)));
        release(database);
        outcome
    }

    fn database(&self) -> Result<Arc<Database>, NotServing> {
        let mut state = self.state();
        match &*state {
            State::Open(database) => Ok(database.clone()),
            State::Broken(broken) => Err(self.not_serving(&broken.fault)),
            State::Retired => {
                Err(NotServing { number: self.number, why: "it was removed".to_string(), full: false })
            }
            State::Closed => match guarded(|| self.open(false)) {
                Ok(database) => {
                    let database = Arc::new(database);
                    *state = State::Open(database.clone());
                    Ok(database)
                }
                Err(fault) => {
                    drop(state);
                    Err(self.break_off(fault, Weak::new()))
                }
            },
        }
    }

    /// Opens the file, making it where it is not there and need not be.
    fn open(&self, verify: bool) -> Result<Database, Fault> {
        if self.is_listed() {
            self.seams.disks.open(&self.path, OpenMode::Existing)?;
        }
        let cache_bytes = usize::try_from(self.cache_bytes.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let (file, database) = database_at(&*self.seams.disks, &self.path, Steps::default(), |file| {
            Database::builder()
                .set_cache_size(cache_bytes)
                .set_check_integrity_on_open(verify)
                .create_with_backend(RedbFile::new(file))
        })?;
        let extended = file.extended().clone();
        self.prepare(&database)?;
        self.file_bytes.store(extended.filled_bytes(), Ordering::Release);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&extended);
        *self.unattended.lock().unwrap_or_else(PoisonError::into_inner) = Some(extended);
        Ok(database)
    }

    /// Checks whose volume it is; a new one is made ours.
    fn prepare(&self, database: &Database) -> Result<(), Fault> {
        let txn = database.begin_read()?;
        match txn.open_table(VOLUME) {
            Ok(table) => {
                let row = table.get("volume")?.map(|row| VolumeRow::decode(row.value()));
                return match row {
                    Some(Ok(row)) if row.node == self.node => Ok(()),
                    Some(Ok(row)) => Err(self.foreign(format!("belongs to node {}", row.node))),
                    Some(Err(error)) => Err(self.foreign(error.to_string())),
                    None => Err(self.foreign("has no volume row".to_string())),
                };
            }
            Err(redb::TableError::TableDoesNotExist(_)) if !self.is_listed() => {}
            Err(redb::TableError::TableDoesNotExist(_)) => return Err(self.foreign("is empty".to_string())),
            Err(error) => return Err(error.into()),
        }
        let mut txn = database.begin_write()?;
        txn.set_quick_repair(true);
        drop(Writing::open(&txn, self.node)?);
        settle(&txn, self.node)?;
        txn.commit()?;
        Ok(())
    }

    fn foreign(&self, why: String) -> Fault {
        Fault::new(FaultKind::Gone, format!("{} {why}", self.path.display()))
    }

    fn not_serving(&self, fault: &Fault) -> NotServing {
        NotServing { number: self.number, why: fault.why.clone(), full: fault.kind == FaultKind::Full }
    }

    /// Drops the handle. Of several calls that fail at once the first one decides.
    fn break_off(&self, fault: Fault, handle: Weak<Database>) -> NotServing {
        let answer = self.not_serving(&fault);
        let mut state = self.state();
        if matches!(*state, State::Broken(_)) {
            return answer;
        }
        self.take_unattended();
        self.counted.store(false, Ordering::Release);
        tracing::error!(volume = self.number, %fault, "volume broke and is reopened");
        metrics::counter!("fluffy_chunk_volumes_broken_total").increment(1);
        let due = self.seams.env.monotonic();
        let lost = fault.kind == FaultKind::Gone;
        let pause = RECOVERY_PAUSE_MIN;
        *state = State::Broken(Broken { fault, handle, due, pause, tries: 0, overdue: false, lost });
        answer
    }
}

/// Name of the file of a volume.
pub(super) fn file_name(number: u32) -> String {
    format!("volume-{number:06}.redb")
}

/// The inverse of [`file_name`]; `None` for other files.
pub(super) fn number_of(file_name: &str) -> Option<u32> {
    file_name.strip_prefix("volume-")?.strip_suffix(".redb")?.parse().ok()
}

/// Raises the counter in the volume row, so that the commit is not empty.
fn settle(txn: &redb::WriteTransaction, node: NodeId) -> Result<(), Fault> {
    let mut table = txn.open_table(VOLUME)?;
    let before = table.get("volume")?.and_then(|row| VolumeRow::decode(row.value()).ok());
    let settled = before.map_or(0, |row| row.settled) + 1;
    table.insert("volume", VolumeRow { node, settled }.encode().as_slice())?;
    Ok(())
}

/// Drops a handle. The last one to go writes what redb wants to find at the next open; a failure shows there.
fn release(database: Arc<Database>) {
    let _ = guarded(|| {
        drop(database);
        Ok(())
    });
}

/// Turns a panic into a fault.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Fault::new(FaultKind::Suspect, format!("panic: {}", panic_message(panic.as_ref()))))
    })
}
