//! One consistent view of all tables: recent changes in ordered maps over a snapshot of the file.
//!
//! A view never changes. Clones are cheap, whoever holds one reads one applied index, however long it takes.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::types::{LogId, StoredMembership};
use crate::meta::store::{Fault, Rows, RowsIter, RowsMut, TABLES, TableId, is_empty_range};

/// What a row of the overlay costs besides its bytes.
const ROW_OVERHEAD_BYTES: usize = 96;

type RowKey = (TableId, Bytes);

/// Changes that are not in the file yet; `None` is a deletion.
#[derive(Clone, Default)]
pub struct Overlay {
    rows: OrdMap<RowKey, Option<Bytes>>,
    bytes: usize,
}

impl Overlay {
    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows it changes.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// All changes, in order of table and key.
    pub fn iter(&self) -> impl Iterator<Item = (TableId, &Bytes, Option<&Bytes>)> {
        self.rows.iter().map(|((table, key), value)| (*table, key, value.as_ref()))
    }

    fn set(&mut self, table: TableId, key: Bytes, value: Option<Bytes>) {
        let cost = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let key_bytes = key.len();
        self.bytes += cost(&value);
        match self.rows.insert((table, key), value) {
            Some(replaced) => self.bytes -= cost(&replaced),
            None => self.bytes += key_bytes + ROW_OVERHEAD_BYTES,
        }
    }

    fn range(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Layer<'_> {
        let rows = self.rows.range(bounds(table, lower, upper));
        let layer: LayerIter<'_> = Box::new(rows.map(|((_, key), value)| Ok((key.clone(), value.clone()))));
        layer.peekable()
    }

    /// The last key between two, whether its row is there or deleted.
    fn last(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Option<Bytes> {
        self.rows.range(bounds(table, lower, upper)).next_back().map(|((_, key), _)| key.clone())
    }
}

/// The rows of a table between two keys, among those of all tables.
fn bounds(table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> (Bound<RowKey>, Bound<RowKey>) {
    let row = |key: &[u8]| (table, Bytes::copy_from_slice(key));
    let lower = match lower {
        Bound::Included(key) => Bound::Included(row(key)),
        Bound::Excluded(key) => Bound::Excluded(row(key)),
        Bound::Unbounded => Bound::Included((table, Bytes::new())),
    };
    let upper = match upper {
        Bound::Included(key) => Bound::Included(row(key)),
        Bound::Excluded(key) => Bound::Excluded(row(key)),
        Bound::Unbounded => match TABLES.iter().find(|(other, _)| *other > table) {
            Some((next, _)) => Bound::Excluded((*next, Bytes::new())),
            None => Bound::Unbounded,
        },
    };
    (lower, upper)
}

/// The tables of the file as of one checkpoint. Keeps the database open as long as somebody reads.
pub struct FileView {
    tables: BTreeMap<TableId, ReadOnlyTable<&'static [u8], &'static [u8]>>,
    _database: Arc<Database>,
}

/// How a table is stored.
pub(super) fn definition(table: TableId) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

impl FileView {
    /// What is in the file now. All tables exist.
    pub(super) fn of(database: &Arc<Database>) -> Result<FileView, redb::Error> {
        let transaction = database.begin_read()?;
        let mut tables = BTreeMap::new();
        for (table, _) in TABLES {
            tables.insert(*table, transaction.open_table(definition(*table))?);
        }
        Ok(FileView { tables, _database: database.clone() })
    }

    fn table(&self, table: TableId) -> &ReadOnlyTable<&'static [u8], &'static [u8]> {
        self.tables.get(&table).expect("all tables are opened together")
    }

    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let found = self.table(table).get(key).map_err(|error| fault(table, &error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn last(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<Option<Bytes>, Fault> {
        let mut rows =
            self.table(table).range::<&[u8]>((lower, upper)).map_err(|error| fault(table, &error))?;
        let row = rows.next_back().transpose().map_err(|error| fault(table, &error))?;
        Ok(row.map(|(key, _)| Bytes::copy_from_slice(key.value())))
    }

    /// Rows between two keys.
    pub(super) fn range(
        &self,
        table: TableId,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), Fault>> + use<>, Fault> {
        let rows = self.table(table).range::<&[u8]>((lower, upper)).map_err(|error| fault(table, &error))?;
        Ok(rows.map(move |row| {
            let (key, value) = row.map_err(|error| fault(table, &error))?;
            Ok((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())))
        }))
    }
}

fn fault(table: TableId, error: &redb::StorageError) -> Fault {
    Fault::new(format!("read {}", table.name()), error)
}

/// All tables as of one applied index.
#[derive(Clone)]
pub struct View {
    /// Changes since the last freeze.
    pub(super) active: Overlay,
    /// Changes that are being written to the file.
    pub(super) frozen: Option<Overlay>,
    pub(super) file: Arc<FileView>,
    /// The last entry applied.
    pub(super) applied: Option<LogId>,
    /// The last membership applied.
    pub(super) membership: StoredMembership,
}

impl View {
    /// Index of the last entry applied; 0 before there is one.
    pub fn index(&self) -> u64 {
        self.applied.map_or(0, |applied| applied.index)
    }

    fn overlays(&self) -> impl Iterator<Item = &Overlay> {
        std::iter::once(&self.active).chain(&self.frozen)
    }
}

impl Rows for View {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let row = (table, Bytes::copy_from_slice(key));
        match self.overlays().find_map(|overlay| overlay.rows.get(&row)) {
            Some(changed) => Ok(changed.clone()),
            None => self.file.get(table, key),
        }
    }

    fn range(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<RowsIter<'_>, Fault> {
        if is_empty_range(lower, upper) {
            return Ok(Box::new(std::iter::empty()));
        }
        let changed = self.overlays().map(|overlay| overlay.range(table, lower, upper));
        let mut layers: Vec<Layer<'_>> =
            changed.filter_map(|mut layer| layer.peek().is_some().then_some(layer)).collect();
        let stored = self.file.range(table, lower, upper)?;
        if layers.is_empty() {
            return Ok(Box::new(stored));
        }
        let stored: LayerIter<'_> = Box::new(stored.map(|row| row.map(|(key, value)| (key, Some(value)))));
        layers.push(stored.peekable());
        Ok(Box::new(Merge { layers }))
    }

    fn last(
        &self,
        table: TableId,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>, Fault> {
        let mut end: Option<Bytes> = None;
        loop {
            let upper = end.as_deref().map_or(upper, Bound::Excluded);
            if is_empty_range(lower, upper) {
                return Ok(None);
            }
            let changed = self.overlays().filter_map(|overlay| overlay.last(table, lower, upper)).max();
            let Some(key) = changed.max(self.file.last(table, lower, upper)?) else {
                return Ok(None);
            };
            if let Some(value) = self.get(table, &key)? {
                return Ok(Some((key, value)));
            }
            end = Some(key); // It was deleted; on with what is before it.
        }
    }
}

impl RowsMut for View {
    fn put(&mut self, table: TableId, key: Bytes, value: Bytes) {
        self.active.set(table, key, Some(value));
    }

    fn delete(&mut self, table: TableId, key: &[u8]) {
        self.active.set(table, Bytes::copy_from_slice(key), None);
    }
}

type LayerIter<'a> = Box<dyn Iterator<Item = Result<(Bytes, Option<Bytes>), Fault>> + 'a>;
type Layer<'a> = Peekable<LayerIter<'a>>;

/// Ordered rows of several layers; where they have the same key the first one counts.
struct Merge<'a> {
    layers: Vec<Layer<'a>>,
}

impl Merge<'_> {
    /// The smallest key at the front of any layer, or the error that is there.
    fn smallest(&mut self) -> Option<Result<Bytes, Fault>> {
        let mut smallest: Option<Bytes> = None;
        for layer in &mut self.layers {
            match layer.peek() {
                None => {}
                Some(Err(fault)) => return Some(Err(fault.clone())),
                Some(Ok((key, _))) if smallest.as_ref().is_none_or(|found| key < found) => {
                    smallest = Some(key.clone());
                }
                Some(Ok(_)) => {}
            }
        }
        smallest.map(Ok)
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<(Bytes, Bytes), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = match self.smallest()? {
                Ok(key) => key,
                Err(fault) => {
                    self.layers.clear();
                    return Some(Err(fault));
                }
            };
            let mut value = None;
            for layer in &mut self.layers {
                let found = layer.next_if(|row| row.as_ref().is_ok_and(|(other, _)| *other == key));
                value = value.or(found);
            }
            if let Some(Ok((key, Some(value)))) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    /// A view over rows of `stored`, with changes that are frozen and active ones over them; `None` deletes.
    fn view(stored: &[u8], frozen: &[(u8, bool)], active: &[(u8, bool)]) -> View {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        for (table, _) in TABLES {
            let mut table = transaction.open_table(definition(*table)).unwrap();
            stored.iter().for_each(|key| drop(table.insert(&[*key][..], &b"stored"[..]).unwrap()));
        }
        transaction.commit().unwrap();
        let overlay = |changes: &[(u8, bool)]| {
            let mut overlay = Overlay::default();
            for (key, there) in changes {
                let value = there.then(|| Bytes::from_static(b"changed"));
                overlay.set(TableId::OBJECTS, Bytes::copy_from_slice(&[*key]), value);
            }
            overlay
        };
        View {
            active: overlay(active),
            frozen: Some(overlay(frozen)),
            file: Arc::new(FileView::of(&Arc::new(database)).unwrap()),
            applied: None,
            membership: StoredMembership::default(),
        }
    }

    #[test]
    fn the_last_row_is_the_last_of_the_range() {
        let view =
            view(&[1, 3, 5, 7], &[(7, false), (4, true), (9, true)], &[(9, false), (5, false), (2, true)]);
        for lower in 0..=10_u8 {
            for upper in 0..=10_u8 {
                let (from, to) = ([lower], [upper]);
                for (lower, upper) in [
                    (Bound::Included(&from[..]), Bound::Excluded(&to[..])),
                    (Bound::Excluded(&from[..]), Bound::Included(&to[..])),
                    (Bound::Unbounded, Bound::Excluded(&to[..])),
                    (Bound::Included(&from[..]), Bound::Unbounded),
                ] {
                    let walked =
                        view.range(TableId::OBJECTS, lower, upper).unwrap().last().transpose().unwrap();
                    assert_eq!(view.last(TableId::OBJECTS, lower, upper).unwrap(), walked);
                }
            }
        }
        assert!(view.last(TableId::VERSIONS, Bound::Unbounded, Bound::Unbounded).unwrap().is_some());
    }
}
