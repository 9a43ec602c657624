//! The file of the index: pages, the segments that they belong to, and how far the index is.
//!
//! Derived: whatever is wrong with it, it is removed and made anew. Its pages have checksums as those of the metadata
//! have, so every commit that lasts is a quick-repair one.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use consensus::redb_file::{database_at, open_checked};
use fabric::codec;
use fabric::disks::{Disks, File, LengthFile, Steps, is_full};
use fabric::env::panic_message;
use fabric::ids::Stamp;
use fabric::limits::MIB;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

use super::pages::{IndexFault, PAGES, Pages, page_key};
use super::segment::{Built, SegmentRow};

/// Version of the file: raised when terms, pages or rows change. A file of another one is made anew.
pub const FORMAT: u8 = 1;
const NAME: &str = "search.redb";
const STEPS: Steps = Steps { first_bytes: MIB, next_bytes: 4 * MIB };

const SEGMENTS: TableDefinition<'static, u32, &'static [u8]> = TableDefinition::new("segments");
const STATE: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("state");
const STATE_KEY: &str = "state";

/// How far the index is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Epoch of the cluster whose log it follows.
    pub epoch: u16,
    /// The place of the last event that is in the segments.
    pub cursor: Stamp,
    /// The number of the walk over all objects whose segments count from now on.
    pub generation: u32,
    /// Whether the segments of the walk before are whole: else nothing can be found until this walk ends.
    pub whole: bool,
    /// The name up to which all objects were walked over; `None`: there is no walk.
    pub walk: Option<Vec<u8>>,
    /// The next number of a segment.
    pub next_segment: u32,
    /// Objects that the last walk found.
    pub walked: u64,
}

impl State {
    /// Before anything was walked over.
    pub fn new() -> State {
        State {
            epoch: 0,
            cursor: Stamp { epoch: 0, index: 0, ordinal: 0 },
            generation: 0,
            whole: false,
            walk: None,
            next_segment: 1,
            walked: 0,
        }
    }
}

/// All segments by number.
pub type Segments = BTreeMap<u32, SegmentRow>;

/// See the file's head.
pub struct IndexFile {
    database: Database,
    below: Arc<LengthFile>,
    rotten: Arc<AtomicBool>,
}

/// What one commit changes.
#[derive(Default)]
pub struct Change {
    /// Segments that come.
    pub built: Vec<(u32, Built)>,
    /// Segments that go. Their pages go later, by [`IndexFile::remove_pages`].
    pub gone: Vec<u32>,
}

/// The file as of one commit.
pub struct Snapshot {
    /// Pages.
    pub pages: Pages,
    /// Segments.
    pub segments: Segments,
}

/// Where the file is.
pub fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

impl IndexFile {
    /// Opens the file in a directory; what cannot be read is replaced by an empty one. Blocks.
    pub fn open(disks: &dyn Disks, directory: &Path, cache_bytes: usize) -> io::Result<(IndexFile, State)> {
        let open = || IndexFile::try_open(disks, directory, cache_bytes);
        // redb panics on some damage.
        let opened = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
            Err(io::Error::new(io::ErrorKind::InvalidData, panic_message(&*panic).to_string()))
        });
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) if is_full(&error) => return Err(error),
            Err(error) => tracing::warn!(%error, "the index for searches is made anew"),
        }
        IndexFile::remove(disks, directory)?;
        IndexFile::try_open(disks, directory, cache_bytes)
    }

    /// Removes the file, so that the next one is empty.
    pub fn remove(disks: &dyn Disks, directory: &Path) -> io::Result<()> {
        match disks.remove(&path(directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => disks.sync_dir(directory),
        }
    }

    fn try_open(disks: &dyn Disks, directory: &Path, cache_bytes: usize) -> io::Result<(IndexFile, State)> {
        let rotten = Arc::new(AtomicBool::new(false));
        let told = rotten.clone();
        let on_rot = Box::new(move |offset: u64| {
            tracing::warn!(offset, "a page of the index for searches is rotten");
            told.store(true, Ordering::Release);
        });
        let open = |file| open_checked(file, cache_bytes, on_rot);
        let (below, database) =
            database_at(disks, &path(directory), STEPS, open).map_err(io::Error::other)?;
        let file = IndexFile { database, below, rotten };
        let state = match file.state().map_err(io::Error::other)? {
            Some(state) => state,
            None => {
                let state = State::new();
                file.commit(&state, &Change::default()).map_err(io::Error::other)?;
                state
            }
        };
        file.snapshot().map_err(io::Error::other)?;
        Ok((file, state))
    }

    /// `None`: the file is new.
    fn state(&self) -> Result<Option<State>, IndexFault> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(STATE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        let Some(bytes) = table.get(STATE_KEY)? else { return Ok(None) };
        let state = codec::decode(FORMAT, "the state of the index", bytes.value());
        state.map(Some).map_err(|_| IndexFault::Page("the file is of another release"))
    }

    /// Whether rot was found in it.
    pub fn is_rotten(&self) -> bool {
        self.rotten.load(Ordering::Acquire)
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.below.len().unwrap_or(0)
    }

    /// Writes a change, and how far the index is with it.
    pub fn commit(&self, state: &State, change: &Change) -> Result<(), IndexFault> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        {
            let mut pages = transaction.open_table(PAGES)?;
            let mut segments = transaction.open_table(SEGMENTS)?;
            for (number, built) in &change.built {
                for (key, page) in &built.pages {
                    pages.insert(key, page.as_slice())?;
                }
                segments.insert(number, codec::encode(FORMAT, &built.row).as_slice())?;
            }
            for number in &change.gone {
                segments.remove(number)?;
            }
            let mut rows = transaction.open_table(STATE)?;
            rows.insert(STATE_KEY, codec::encode(FORMAT, state).as_slice())?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes pages of segments that are gone, at most so many; returns how many there were.
    pub fn remove_pages(&self, limit: usize) -> Result<usize, IndexFault> {
        let Snapshot { pages, segments } = self.snapshot()?;
        let mut gone = Vec::new();
        let mut from = 0;
        // Between the segments that are there lie those that are gone.
        for there in segments.keys().copied().map(Some).chain([None]) {
            let least = page_key(from, 0, 0, 0);
            let most = there.map_or([0xFF; 13], |number| page_key(number, 0, 0, 0));
            for row in pages.0.range::<&[u8; 13]>(&least..&most)?.take(limit - gone.len()) {
                gone.push(*row?.0.value());
            }
            from = there.map_or(from, |number| number + 1);
        }
        if gone.is_empty() {
            return Ok(0);
        }
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        {
            let mut pages = transaction.open_table(PAGES)?;
            for key in &gone {
                pages.remove(key)?;
            }
        }
        transaction.commit()?;
        Ok(gone.len())
    }

    /// What is in the file now.
    pub fn snapshot(&self) -> Result<Snapshot, IndexFault> {
        let transaction = self.database.begin_read()?;
        let pages = Pages(transaction.open_table(PAGES)?);
        let mut segments = Segments::new();
        for row in transaction.open_table(SEGMENTS)?.iter()? {
            let (number, bytes) = row?;
            let row = codec::decode(FORMAT, "a segment of the index", bytes.value());
            let row = row.map_err(|_| IndexFault::Page("a segment is of another release"))?;
            segments.insert(number.value(), row);
        }
        Ok(Snapshot { pages, segments })
    }
}
