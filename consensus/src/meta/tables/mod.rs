//! The stored tables, one definition each: what its key and its value are, and how both look as bytes.
//!
//! A key is a tuple of parts; each part is encoded so that the order of bytes is the order of values and that no
//! part is a prefix of another of its kind (numbers are big endian and of fixed length, texts end in 0x00, which
//! they never contain). So scans can seek to any leading parts. A value is one format byte and postcard.
//! Bytes that do not decode are a [`Fault`]: rot, or another release's.

mod body;
mod bucket;
mod cluster;
mod due;
mod event;
mod garbage;
mod object;
mod overlay;
mod replication;
mod session;
mod upload;
mod user;

use std::ops::Bound;

use bytes::Bytes;
use fabric::codec;
use fabric::ids::{BucketId, ExtentId, LayoutVersion, NodeId, SessionId, Stamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{ClusterMs, Home};
use super::names::{AccessKeyId, BucketName, ClientToken, ClusterName, ObjectKey, PolicyName, UserName};
use super::store::{Fault, Rows, RowsMut, TableId};

pub use body::{Bodies, Extents, Inline};
pub use bucket::{BucketNames, BucketQuotas, BucketSettings, Buckets, BucketsByOwner, Usages};
pub use cluster::{
    Cluster, Holds, LayoutPart, LayoutRow, Layouts, Nodes, RemovedNodes, get_layout, owners_of, partition_of,
    put_layout,
};
pub use due::{Due, DueWalks};
pub use event::{Deliverer, Deliveries, EventMarks, EventOrder, EventPlace, Events};
pub use garbage::{Absences, DebtCounts, Debts, Garbages, LeavingCopies};
pub use object::{Acls, AnnotationSets, Locks, NullVersions, Objects, Recodings, Renames, Versions};
pub use overlay::{Heard, Identity, Invites, Members, OverlayGrants};
pub use replication::{Acknowledged, Follower, Follows, Promotions, Replicating, Superseded};
pub use session::{Replies, SessionNonces, Sessions};
pub use upload::{Completeds, Cursor, Cursors, Parts, UploadSealings, Uploads};
pub use user::{AccessKeys, KeysByUser, UserPolicies, UserQuotas, Users};

/// One table. The key comes in two forms so that lookups need not clone what they name.
pub trait Table {
    /// Where its rows are.
    const ID: TableId;
    /// Format of its values; raised when their meaning changes, never for an appended field.
    const FORMAT: u8 = 1;
    /// The key to look up.
    type Key<'a>: EncodeKey;
    /// The key as scans return it.
    type Owned: DecodeKey;
    /// The value.
    type Value: Serialize + DeserializeOwned;

    /// Bytes of a value.
    fn encode_value(value: &Self::Value) -> Bytes {
        codec::encode(Self::FORMAT, value).into()
    }

    /// The inverse of [`Table::encode_value`].
    fn decode_value(bytes: &Bytes) -> Result<Self::Value, Fault> {
        codec::decode(Self::FORMAT, Self::ID.name(), bytes)
            .map_err(|error| Fault::new("read metadata", error))
    }
}

/// Defines a [`Table`]: `Name(CONSTANT): key to look up | key as returned => value`.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident($id:ident): $key:ty | $owned:ty => $value:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl $crate::meta::tables::Table for $name {
            const ID: $crate::meta::store::TableId = $crate::meta::store::TableId::$id;
            type Key<'a> = $key;
            type Owned = $owned;
            type Value = $value;
        }
    };
}
use table;

/// The row under `key`, if there is one.
pub fn get<T: Table>(rows: &dyn Rows, key: T::Key<'_>) -> Result<Option<T::Value>, Fault> {
    rows.get(T::ID, &key_bytes(&key))?.map(|bytes| T::decode_value(&bytes)).transpose()
}

/// Inserts or replaces a row.
pub fn put<T: Table>(rows: &mut dyn RowsMut, key: T::Key<'_>, value: &T::Value) {
    rows.put(T::ID, key_bytes(&key).into(), T::encode_value(value));
}

/// Removes a row; a missing one is fine.
pub fn delete<T: Table>(rows: &mut dyn RowsMut, key: T::Key<'_>) {
    rows.delete(T::ID, &key_bytes(&key));
}

/// A typed row.
pub type Row<T> = (<T as Table>::Owned, <T as Table>::Value);

/// Typed rows, as a scan gives them.
pub type Scan<'a, T> = Box<dyn Iterator<Item = Result<Row<T>, Fault>> + 'a>;

/// Rows between two keys in bytes, ascending.
pub fn scan<'a, T: Table>(
    rows: &'a dyn Rows,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
) -> Result<Scan<'a, T>, Fault> {
    let decode = |row: Result<(Bytes, Bytes), Fault>| {
        let (key, value) = row?;
        Ok((decode_key::<T>(&key)?, T::decode_value(&value)?))
    };
    Ok(Box::new(rows.range(T::ID, lower, upper)?.map(decode)))
}

/// Rows whose key begins with these parts, ascending.
pub fn scan_under<'a, T: Table>(rows: &'a dyn Rows, leading: impl EncodeKey) -> Result<Scan<'a, T>, Fault> {
    let lower = key_bytes(&leading);
    let upper = successor(&lower);
    scan::<T>(rows, Bound::Included(&lower), as_upper(&upper))
}

/// Rows whose key begins with `leading` and sorts after `after` (both in parts), ascending.
pub fn scan_after<'a, T: Table>(
    rows: &'a dyn Rows,
    leading: impl EncodeKey,
    after: impl EncodeKey,
) -> Result<Scan<'a, T>, Fault> {
    let upper = successor(&key_bytes(&leading));
    scan::<T>(rows, Bound::Excluded(&key_bytes(&after)), as_upper(&upper))
}

/// The last row whose key begins with `leading` and sorts before `before` (both in parts).
pub fn last_before<T: Table>(
    rows: &dyn Rows,
    leading: impl EncodeKey,
    before: impl EncodeKey,
) -> Result<Option<Row<T>>, Fault> {
    let (lower, upper) = (key_bytes(&leading), key_bytes(&before));
    let found = rows.last(T::ID, Bound::Included(&lower), Bound::Excluded(&upper))?;
    found.map(|(key, value)| Ok((decode_key::<T>(&key)?, T::decode_value(&value)?))).transpose()
}

/// All rows of a table.
pub fn scan_all<T: Table>(rows: &dyn Rows) -> Result<Scan<'_, T>, Fault> {
    scan::<T>(rows, Bound::Unbounded, Bound::Unbounded)
}

/// Bytes of a key, or of its leading parts.
pub fn key_bytes(key: &impl EncodeKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    key.encode(&mut bytes);
    bytes
}

/// The first key after all that begin with `prefix`; `None` where there is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut bytes = prefix[..=last].to_vec();
    bytes[last] += 1;
    Some(bytes)
}

/// The upper end of a scan from what [`successor`] returned.
pub fn as_upper(successor: &Option<Vec<u8>>) -> Bound<&[u8]> {
    successor.as_deref().map_or(Bound::Unbounded, Bound::Excluded)
}

fn decode_key<T: Table>(bytes: &[u8]) -> Result<T::Owned, Fault> {
    let mut rest = bytes;
    match T::Owned::decode(&mut rest) {
        Some(key) if rest.is_empty() => Ok(key),
        _ => Err(Fault::new("read metadata", format!("{}: not a key: {}", T::ID.name(), hex::encode(bytes)))),
    }
}

/// Something that keys are made of.
pub trait EncodeKey {
    /// Appends the bytes.
    fn encode(&self, out: &mut Vec<u8>);
}

/// The inverse of [`EncodeKey`].
pub trait DecodeKey: Sized {
    /// Takes the bytes off the front; `None`: they are not such a part.
    fn decode(input: &mut &[u8]) -> Option<Self>;
}

/// A stamp whose later ones sort first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descending(pub Stamp);

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*taken)
}

macro_rules! key_part {
    ($($type:ty: |$value:ident| $encode:expr, |$bytes:ident| $decode:expr;)*) => {$(
        impl EncodeKey for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                let $value = self;
                out.extend_from_slice(&$encode);
            }
        }

        impl DecodeKey for $type {
            fn decode(input: &mut &[u8]) -> Option<$type> {
                let $bytes = take(input)?;
                Some($decode)
            }
        }
    )*};
}

key_part! {
    u8: |value| [*value], |bytes| u8::from_be_bytes(bytes);
    u16: |value| value.to_be_bytes(), |bytes| u16::from_be_bytes(bytes);
    u64: |value| value.to_be_bytes(), |bytes| u64::from_be_bytes(bytes);
    u128: |value| value.to_be_bytes(), |bytes| u128::from_be_bytes(bytes);
    ClusterMs: |value| value.0.to_be_bytes(), |bytes| ClusterMs(u64::from_be_bytes(bytes));
    BucketId: |value| value.0.to_be_bytes(), |bytes| BucketId(u64::from_be_bytes(bytes));
    NodeId: |value| value.0.to_be_bytes(), |bytes| NodeId(u16::from_be_bytes(bytes));
    LayoutVersion: |value| value.0.to_be_bytes(), |bytes| LayoutVersion(u32::from_be_bytes(bytes));
    Stamp: |value| value.to_bytes(), |bytes| Stamp::from_bytes(bytes);
    Descending: |value| value.0.to_bytes().map(|byte| !byte), |bytes| Descending(Stamp::from_bytes(bytes.map(|byte: u8| !byte)));
}

impl EncodeKey for ExtentId {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }
}

impl DecodeKey for ExtentId {
    fn decode(input: &mut &[u8]) -> Option<ExtentId> {
        let bytes = take(input)?;
        // What names a chunk is no extent.
        Some(ExtentId::from_bytes(bytes)).filter(|id| id.to_bytes() == bytes)
    }
}

impl EncodeKey for SessionId {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
    }
}

impl DecodeKey for SessionId {
    fn decode(input: &mut &[u8]) -> Option<SessionId> {
        let epoch = u16::from_be_bytes(take(input)?);
        Some(SessionId { epoch, number: u32::from_be_bytes(take(input)?) })
    }
}

macro_rules! text_part {
    ($($type:ty)*) => {$(
        impl EncodeKey for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_str().as_bytes());
                out.push(0);
            }
        }

        impl DecodeKey for $type {
            fn decode(input: &mut &[u8]) -> Option<$type> {
                let end = input.iter().position(|&byte| byte == 0)?;
                let text = std::str::from_utf8(&input[..end]).ok()?.parse().ok()?;
                *input = &input[end + 1..];
                Some(text)
            }
        }
    )*};
}

text_part! { BucketName ObjectKey UserName AccessKeyId PolicyName ClientToken ClusterName String }

impl EncodeKey for Home {
    fn encode(&self, out: &mut Vec<u8>) {
        self.bucket.encode(out);
        self.key.encode(out);
    }
}

impl DecodeKey for Home {
    fn decode(input: &mut &[u8]) -> Option<Home> {
        Some(Home { bucket: BucketId::decode(input)?, key: ObjectKey::decode(input)? })
    }
}

impl EncodeKey for () {
    fn encode(&self, _out: &mut Vec<u8>) {}
}

impl DecodeKey for () {
    fn decode(_input: &mut &[u8]) -> Option<()> {
        Some(())
    }
}

/// Bytes that are no whole part: a prefix of a text.
impl EncodeKey for [u8] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<T: EncodeKey + ?Sized> EncodeKey for &T {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

macro_rules! tuple_part {
    ($($name:ident $place:tt),*) => {
        impl<$($name: EncodeKey),*> EncodeKey for ($($name,)*) {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$place.encode(out);)*
            }
        }

        impl<$($name: DecodeKey),*> DecodeKey for ($($name,)*) {
            fn decode(input: &mut &[u8]) -> Option<Self> {
                Some(($($name::decode(input)?,)*))
            }
        }
    };
}

tuple_part!(A 0, B 1);
tuple_part!(A 0, B 1, C 2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    use std::fmt::Debug;

    use super::*;
    use crate::meta::store::MemoryRows;

    /// Pins key and value of a table, and shows that both come back.
    #[track_caller]
    pub(crate) fn golden<T: Table>(key: T::Key<'_>, value: T::Value, key_hex: &str, value_hex: &str)
    where
        T::Value: PartialEq + Debug,
    {
        let name = T::ID.name();
        let bytes = key_bytes(&key);
        let found = (hex::encode(&bytes), hex::encode(T::encode_value(&value)));
        assert_eq!((found.0.as_str(), found.1.as_str()), (key_hex, value_hex), "golden bytes of {name}");

        let mut rows = MemoryRows::default();
        put::<T>(&mut rows, key, &value);
        let mut all = scan_all::<T>(&rows).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let (_, read) = all.pop().unwrap();
        assert_eq!((read, all.len()), (value, 0), "round trip of {name}");
        rows.delete(T::ID, &bytes);
        assert_eq!(rows, MemoryRows::default());
    }

    pub(crate) fn home(bucket: u64, key: &str) -> Home {
        Home { bucket: BucketId(bucket), key: key.parse().unwrap() }
    }

    pub(crate) fn stamp(index: u64) -> Stamp {
        Stamp { epoch: 1, index, ordinal: 2 }
    }

    pub(crate) fn extent_id(number: u64) -> ExtentId {
        ExtentId::new(0xABCD, SessionId { epoch: 1, number: 7 }, number)
    }

    #[test]
    fn keys_sort_as_their_texts_do() {
        let keys = ["a", "a\u{1}", "a/", "a/b", "aa", "b", "é", "\u{10FFFF}"];
        for (left, right) in keys.iter().zip(&keys[1..]) {
            let encode = |key: &str| key_bytes(&(&home(1, key), Descending(stamp(9))));
            assert!(encode(left) < encode(right), "{left:?} {right:?}");
        }
        assert!(key_bytes(&Descending(stamp(2))) < key_bytes(&Descending(stamp(1))));
    }

    #[test]
    fn successor_is_behind_the_prefix_and_nothing_else() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(b"a\xFF"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xFF\xFF"), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn rot_is_a_fault() {
        let mut rows = MemoryRows::default();
        rows.put(TableId::OBJECTS, Bytes::from_static(b"short"), Bytes::from_static(b"\x01"));
        assert!(scan_all::<Objects>(&rows).unwrap().next().unwrap().is_err());
        let key = home(1, "k");
        rows.put(TableId::OBJECTS, key_bytes(&key).into(), Bytes::from_static(b"\x01\xFF"));
        assert!(get::<Objects>(&rows, &key).is_err());
    }
}
