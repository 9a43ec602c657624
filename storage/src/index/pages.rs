//! Pages of segments: their keys, the numbers in them, and how they are found.
//!
//! A page is a row of the index's file that fills a page of the database. What is in it was written by this code and is
//! covered by the checksums of the file; all the same it is read as something that may be wrong.

use redb::{ReadOnlyTable, TableDefinition};

/// Bytes of a page: with its key and what the database adds, one of its own pages.
pub const PAGE_BYTES: usize = 4040;
/// Pages by [`PageKey`].
pub const PAGES: TableDefinition<'static, &'static [u8; 13], &'static [u8]> = TableDefinition::new("pages");

/// Segment (4 bytes), kind (1), and two numbers of the kind (4 each).
pub type PageKey = [u8; 13];

/// Names, by the first document in the page.
pub const NAMES: u8 = 1;
/// Lists, by the first term in the page and the first document of it there.
pub const LISTS: u8 = 2;

/// What is in the file is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum IndexFault {
    /// The database says so.
    #[error("the index cannot be read: {0}")]
    Database(#[from] redb::Error),
    /// The bytes of a page make no sense.
    #[error("a page of the index is wrong: {0}")]
    Page(&'static str),
}

macro_rules! from_redb {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for IndexFault {
            fn from(error: redb::$error) -> IndexFault {
                IndexFault::Database(error.into())
            }
        }
    )*};
}

from_redb!(StorageError TableError TransactionError CommitError SetDurabilityError);

/// A key.
pub fn page_key(segment: u32, kind: u8, first: u32, second: u32) -> PageKey {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&segment.to_be_bytes());
    key[4] = kind;
    key[5..9].copy_from_slice(&first.to_be_bytes());
    key[9..].copy_from_slice(&second.to_be_bytes());
    key
}

/// The two numbers of a key of this segment and kind; `None`: it is another's.
pub fn numbers(key: &PageKey, segment: u32, kind: u8) -> Option<(u32, u32)> {
    let number = |at: usize| u32::from_be_bytes([key[at], key[at + 1], key[at + 2], key[at + 3]]);
    (number(0) == segment && key[4] == kind).then(|| (number(5), number(9)))
}

/// The pages as of one commit.
pub struct Pages(pub ReadOnlyTable<&'static [u8; 13], &'static [u8]>);

/// A page and the numbers of its key.
pub type Found = ((u32, u32), Vec<u8>);

impl Pages {
    /// The last page up to these numbers.
    pub fn up_to(
        &self,
        segment: u32,
        kind: u8,
        first: u32,
        second: u32,
    ) -> Result<Option<Found>, IndexFault> {
        let least = page_key(segment, kind, 0, 0);
        let most = page_key(segment, kind, first, second);
        let found = self.0.range::<&[u8; 13]>(&least..=&most)?.next_back();
        Pages::found(found, segment, kind)
    }

    /// The first page beyond these numbers.
    pub fn beyond(
        &self,
        segment: u32,
        kind: u8,
        first: u32,
        second: u32,
    ) -> Result<Option<Found>, IndexFault> {
        use std::ops::Bound;
        let after = page_key(segment, kind, first, second);
        let most = page_key(segment, kind, u32::MAX, u32::MAX);
        let range = (Bound::Excluded(&after), Bound::Included(&most));
        let found = self.0.range::<&[u8; 13]>(range)?.next();
        Pages::found(found, segment, kind)
    }

    fn found(row: Option<redb::Result<Row>>, segment: u32, kind: u8) -> Result<Option<Found>, IndexFault> {
        let Some(row) = row else { return Ok(None) };
        let (key, value) = row?;
        Ok(numbers(key.value(), segment, kind).map(|numbers| (numbers, value.value().to_vec())))
    }
}

type Row = (redb::AccessGuard<'static, &'static [u8; 13]>, redb::AccessGuard<'static, &'static [u8]>);

/// Appends a number, seven bits a byte.
pub fn push_number(mut number: u32, bytes: &mut Vec<u8>) {
    while 0x80 <= number {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number at `at` and goes behind it.
pub fn take_number(bytes: &[u8], at: &mut usize) -> Result<u32, IndexFault> {
    let (mut number, mut shift) = (0_u32, 0);
    loop {
        let byte = *bytes.get(*at).ok_or(IndexFault::Page("it ends within a number"))?;
        *at += 1;
        if shift == 28 && 0x0F < byte {
            return Err(IndexFault::Page("a number is too large"));
        }
        number |= u32::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
        shift += 7;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u32::MAX - 1, u32::MAX] {
            let mut bytes = Vec::new();
            push_number(number, &mut bytes);
            let mut at = 0;
            assert_eq!((take_number(&bytes, &mut at).unwrap(), at), (number, bytes.len()));
            assert!(take_number(&bytes[..bytes.len() - 1], &mut 0).is_err());
        }
        assert!(take_number(&[0xFF; 5], &mut 0).is_err());
        assert_eq!(numbers(&page_key(7, LISTS, 8, 9), 7, LISTS), Some((8, 9)));
        assert_eq!(numbers(&page_key(7, LISTS, 8, 9), 7, NAMES), None);
    }
}
