//! redb over a file of the disks seam.
//!
//! The file is a [`LengthFile`]: extended ahead of need, so that a commit's sync is quick, with the logical
//! length that redb's layout must agree with. Locks are taken a data directory, not a file.
//!
//! redb does not check what it reads. A database whose rows have no checksums of their own lies over a [`SummedFile`];
//! then all its durable commits have to be quick-repair ones, and it is never compacted: a repair reads pages that a
//! crash left.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fabric::disks::{Disks, File, LengthFile, OnRot, OpenMode, Steps, SummedFile};
use redb::{Database, DatabaseError, StorageBackend};

/// redb's backend over a file.
pub struct RedbFile {
    file: Arc<dyn File>,
}

impl RedbFile {
    /// For those who build their database themselves; others call [`open_database`].
    pub fn new(file: Arc<dyn File>) -> RedbFile {
        RedbFile { file }
    }
}

impl fmt::Debug for RedbFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedbFile")
    }
}

impl StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}

/// Opens the database at `path` with `open`, or makes one there. It is made beside and renamed when it is whole:
/// redb does not open a file whose making a crash cut short.
pub fn database_at(
    disks: &dyn Disks,
    path: &Path,
    steps: Steps,
    open: impl FnOnce(Arc<LengthFile>) -> Result<Database, DatabaseError>,
) -> Result<(Arc<LengthFile>, Database), DatabaseError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    match disks.open(path, OpenMode::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        there => {
            let file = Arc::new(LengthFile::open(there?, steps)?);
            // A process that was killed after the rename left a name that a power cut may still take.
            disks.sync_dir(directory)?;
            return Ok((file.clone(), open(file)?));
        }
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match disks.remove(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {} // Left by a crash, or not there.
    }
    let file = Arc::new(LengthFile::open(disks.open(beside, OpenMode::New)?, steps)?);
    let database = open(file.clone())?;
    disks.rename(beside, path)?;
    disks.sync_dir(directory)?;
    Ok((file, database))
}

/// Opens the database in `file`, or makes one where it is empty. `cache_bytes` bounds its memory; give it
/// four times the largest transaction. Blocks, after a crash without quick-repair for as long as it takes to
/// read the file.
pub fn open_database(file: Arc<dyn File>, cache_bytes: usize) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(cache_bytes).create_with_backend(RedbFile::new(file))
}

/// The same over a file whose pages have checksums: `on_rot` hears of rot once, and nothing can be read any more.
pub fn open_checked(
    file: Arc<LengthFile>,
    cache_bytes: usize,
    on_rot: OnRot,
) -> Result<Database, DatabaseError> {
    open_database(Arc::new(SummedFile::open(file, on_rot)?), cache_bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::disks::{MemoryDisks, SystemDisks};
    use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};

    use super::*;

    const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
    const STEPS: Steps = Steps { first_bytes: 1 << 20, next_bytes: 4 << 20 };

    fn open(disks: &dyn Disks, path: &Path, mode: OpenMode) -> (Arc<LengthFile>, Database) {
        let file = LengthFile::open(disks.open(path, mode).unwrap(), STEPS).unwrap();
        let file = Arc::new(file);
        (file.clone(), open_database(file, 8 << 20).unwrap())
    }

    fn write_rows(database: &Database, rows: std::ops::Range<u64>, value: &[u8]) {
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(ROWS).unwrap();
        for row in rows {
            table.insert(row, value).unwrap();
        }
        drop(table);
        transaction.commit().unwrap();
    }

    fn grows_shrinks_and_reopens(disks: &dyn Disks, path: &Path) {
        let (file, mut database) = open(disks, path, OpenMode::New);
        let value = vec![7; 100 << 10];
        write_rows(&database, 0..100, &value);
        let grown = file.len().unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(ROWS).unwrap().retain(|row, _| row < 10).unwrap();
        transaction.commit().unwrap();
        database.compact().unwrap();
        assert!(file.len().unwrap() < grown);
        write_rows(&database, 10..50, &value);
        drop(database);
        drop(file);

        let (_, database) = open(disks, path, OpenMode::Existing);
        let table = database.begin_read().unwrap().open_table(ROWS).unwrap();
        assert_eq!(table.len().unwrap(), 50);
        for row in 0..50 {
            assert_eq!(table.get(row).unwrap().unwrap().value(), value);
        }
    }

    #[test]
    fn a_database_lives_on_either_kind_of_disk() {
        let directory = tempfile::tempdir().unwrap();
        grows_shrinks_and_reopens(&SystemDisks, &directory.path().join("database"));
        let memory = MemoryDisks::new(1 << 30);
        memory.create_dir(Path::new("/data")).unwrap();
        grows_shrinks_and_reopens(&memory, Path::new("/data/database"));
    }

    /// A copy of the file in the middle of the work is what a crash leaves (without reordering; that is the
    /// simulator's).
    #[test]
    fn an_unclean_copy_opens_with_the_last_commit() {
        let memory = MemoryDisks::new(1 << 30);
        memory.create_dir(Path::new("/")).unwrap();
        let (_file, database) = open(&memory, Path::new("/live"), OpenMode::New);
        for round in 0..20 {
            write_rows(&database, round * 10..round * 10 + 10, &[1; 20_000]);
        }
        let live = memory.open(Path::new("/live"), OpenMode::Existing).unwrap();
        let mut bytes = vec![0; live.len().unwrap() as usize];
        live.read_at(0, &mut bytes).unwrap();
        memory.open(Path::new("/copy"), OpenMode::New).unwrap().write_at(0, &bytes).unwrap();

        let (_file, copy) = open(&memory, Path::new("/copy"), OpenMode::Existing);
        assert_eq!(copy.begin_read().unwrap().open_table(ROWS).unwrap().len().unwrap(), 200);
    }
}
