//! A redb database over the length file and the steps that production puts under it.
//!
//! What always holds: it opens; what it holds is what some commit left, not older than the last one that was
//! acknowledged. Half of the databases have checksums below, as the metadata have: of these a flipped bit is told, or
//! does no harm; other bytes never come back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use consensus::redb_file::{database_at, open_checked, open_database};
use fabric::Seams;
use fabric::disks::{Disks, LengthFile, Steps};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Lived, Rot, Subject};
use crate::history::Violation;
use crate::history::body;
use crate::sim::random::SimRandom;

const DIRECTORY: &str = "/rows";
const FILE: &str = "/rows/rows.redb";
const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
/// "commit" → number of the commit that left the rows as they are.
const COMMIT: TableDefinition<&str, u64> = TableDefinition::new("commit");
/// Small, so that files grow and shrink often.
const STEPS: Steps = Steps { first_bytes: 64 << 10, next_bytes: 96 << 10 };
const CACHE_BYTES: usize = 1 << 20;
const KEYS: u64 = 40;
const COMMITS_PER_LIFE: u64 = 12;

/// Key → id and length of the value, which is made from them.
type Rows = BTreeMap<u64, (u64, usize)>;

/// The database and its model.
pub(super) struct RowsSubject {
    random: SimRandom,
    /// Over a file whose pages have checksums.
    checked: bool,
    /// What each commit left, from the last acknowledged one on.
    left: BTreeMap<u64, Rows>,
    acknowledged: u64,
    next_commit: u64,
    /// What happened, for a report.
    happened: Vec<String>,
}

impl RowsSubject {
    pub(super) fn new(random: SimRandom) -> RowsSubject {
        RowsSubject {
            checked: random.chance(50),
            random,
            left: BTreeMap::from([(0, Rows::new())]),
            acknowledged: 0,
            next_commit: 1,
            happened: Vec::new(),
        }
    }

    /// Compares all rows with the model; from here on they are what there is.
    fn check(&mut self, database: &Database) -> Result<(), Violation> {
        let (commit, found) = read(database).map_err(|error| Violation(format!("read: {error}")))?;
        let Some(expected) = self.left.get(&commit).filter(|_| commit >= self.acknowledged) else {
            let why = format!("holds commit {commit}, but {} was acknowledged", self.acknowledged);
            let from = self.happened.len().saturating_sub(20);
            return Err(Violation(format!("{why}: {}", self.happened[from..].join(", "))));
        };
        self.happened.push(format!("opened at {commit}"));
        if !is_made_of(&found, expected) {
            return Err(Violation(format!("the rows are not those of commit {commit}")));
        }
        self.left.retain(|number, _| *number == commit);
        self.acknowledged = commit;
        Ok(())
    }

    fn compact(&mut self, database: &mut Database) -> Result<bool, redb::CompactionError> {
        self.happened.push("compact".to_string());
        database.compact()
    }

    fn work(&mut self, database: &Database) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        let durable = self.random.chance(85);
        transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        transaction.set_quick_repair(durable && (self.checked || self.random.chance(25)));
        transaction.set_two_phase_commit(self.random.chance(10));
        let commit = self.next_commit;
        let mut rows = self.left.last_key_value().map(|(_, rows)| rows.clone()).unwrap_or_default();
        {
            let mut table = transaction.open_table(ROWS)?;
            for _ in 0..self.random.between(1, 8) {
                let key = self.random.below(KEYS);
                if self.random.chance(30) {
                    rows.remove(&key);
                    table.remove(key)?;
                    continue;
                }
                let most = *self.random.pick(&[100, 100, 3_000, 20_000, 120_000]);
                let value = (commit << 16 | key, self.random.between(16, most) as usize);
                rows.insert(key, value);
                table.insert(key, body::make(value.0, value.1).as_ref())?;
            }
            if self.random.chance(8) {
                let from = self.random.below(KEYS);
                rows.retain(|key, _| *key < from);
                table.retain(|key, _| key < from)?;
            }
            transaction.open_table(COMMIT)?.insert("commit", commit)?;
        }
        if self.random.chance(10) {
            self.happened.push(format!("abort {commit}"));
            transaction.abort()?;
            return Ok(());
        }
        self.next_commit += 1;
        self.left.insert(commit, rows);
        self.happened.push(format!("commit {commit} ({})", if durable { "durable" } else { "not durable" }));
        transaction.commit()?;
        if durable {
            self.acknowledged = commit;
            self.left.retain(|number, _| *number >= commit);
        }
        Ok(())
    }
}

fn open(disks: &dyn Disks, checked: bool) -> Result<(Arc<LengthFile>, Database), redb::Error> {
    disks.create_dir(Path::new(DIRECTORY))?;
    let open = |file| match checked {
        true => open_checked(file, CACHE_BYTES, Box::new(|_| {})),
        false => open_database(file, CACHE_BYTES),
    };
    Ok(database_at(disks, Path::new(FILE), STEPS, open)?)
}

fn is_made_of(found: &BTreeMap<u64, Vec<u8>>, rows: &Rows) -> bool {
    let made = |(id, bytes): &(u64, usize)| body::make(*id, *bytes);
    found.keys().eq(rows.keys()) && found.values().zip(rows.values()).all(|(value, row)| *value == made(row))
}

/// The commit and all rows.
fn read(database: &Database) -> Result<(u64, BTreeMap<u64, Vec<u8>>), redb::Error> {
    let transaction = database.begin_read()?;
    let commit = match transaction.open_table(COMMIT) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((0, BTreeMap::new())),
        table => table?.get("commit")?.map_or(0, |commit| commit.value()),
    };
    let mut rows = BTreeMap::new();
    for entry in transaction.open_table(ROWS)?.iter()? {
        let (key, value) = entry?;
        rows.insert(key.value(), value.value().to_vec());
    }
    Ok((commit, rows))
}

impl Subject for RowsSubject {
    const SUFFIX: Option<&'static str> = Some(".redb");
    const CHANGES: &'static [u64] = &[8, 40, 120, 300];

    async fn live(&mut self, seams: &Seams, last: bool) -> Result<Lived, Violation> {
        let dead = |disks: &dyn Disks| disks.list(Path::new(DIRECTORY)).is_err();
        let (file, mut database) = match open(&*seams.disks, self.checked) {
            Ok(opened) => opened,
            Err(_) if dead(&*seams.disks) => return Ok(Lived::Opening),
            Err(error) => return Err(Violation(format!("the database does not open: {error}"))),
        };
        self.check(&database)?;
        if self.random.chance(10) {
            match database.check_integrity() {
                Err(_) if dead(&*seams.disks) => return Ok(Lived::Opening),
                Ok(true) => {}
                other => return Err(Violation(format!("integrity: {other:?}"))),
            }
        }
        if last {
            return Ok(Lived::Working);
        }
        if self.random.chance(50) {
            file.extended().extend_in_background(&seams.env);
        }
        for _ in 0..COMMITS_PER_LIFE {
            let worked = match self.random.below(30) {
                // As in production: see `redb_file`.
                0 if !self.checked => {
                    self.compact(&mut database).map(|_| ()).map_err(|error| error.to_string())
                }
                _ => self.work(&database).map_err(|error| error.to_string()),
            };
            match worked {
                Ok(()) => {}
                Err(_) if dead(&*seams.disks) => return Ok(Lived::Working),
                Err(error) => return Err(Violation(format!("a commit failed: {error}"))),
            }
            tokio::task::yield_now().await;
        }
        Ok(Lived::Working)
    }

    /// redb gives out rotten bytes: what lies above it has to check (see the chunks), or what lies below.
    async fn live_rotten(&mut self, seams: &Seams) -> Result<Rot, Violation> {
        if !self.checked {
            return Ok(Rot::Harmless);
        }
        let look = || -> Result<(u64, BTreeMap<u64, Vec<u8>>), redb::Error> {
            let (_file, database) = open(&*seams.disks, true)?;
            read(&database)
        };
        // redb panics where its first page is damaged.
        let Ok(Ok((commit, found))) = catch_unwind(AssertUnwindSafe(look)) else { return Ok(Rot::Reported) };
        match self.left.get(&commit) {
            // The rotten half of the first page told of the last commit: the one before is there.
            None if commit < self.acknowledged => Ok(Rot::Missing),
            Some(rows) if is_made_of(&found, rows) => Ok(Rot::Harmless),
            _ => Err(Violation(format!("rot is given out as the rows of commit {commit}"))),
        }
    }
}
