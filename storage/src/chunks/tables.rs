//! The tables of a chunk volume, and how a chunk is laid out in them.
//!
//! redb puts a large value into a page of 2^k × 4 KiB, so one byte too many costs twice the disk. A chunk is
//! therefore cut into *pieces* that fill such pages, and its last bytes (the *tail*) live in the small index
//! row that also holds length and checksums. Both are written in one transaction: a chunk is there with its
//! row or not at all.
//!
//! Rows lie in order of their writing, see [`place`]: redb reads the leaf that a new key falls into, and here that is
//! the one it wrote last. By the hash, which is first in an id, it would be any megabyte of the volume.
//!
//! Every read checks a CRC-32C over all bytes of the chunk and a second one, the *seal*, over that CRC, the
//! length, the chunk's id and the node: bytes under a wrong name are as rotten as wrong bytes.

use bytes::{Bytes, BytesMut};
use fabric::codec;
use fabric::ids::{ChunkId, NodeId};
use fabric::limits::CHUNK_BYTES;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::volume::Fault;
use crate::client::ChunkStat;
use crate::origin::ChunkOrigin;

/// (place of the chunk, piece) → bytes of the piece. The name is stored; never reuse it.
pub(super) const CHUNK: TableDefinition<(u128, u8), &[u8]> = TableDefinition::new("chunk");
/// Place of the chunk → [`Row`]. Missing: the volume does not hold the chunk.
pub(super) const INDEX: TableDefinition<u128, &[u8]> = TableDefinition::new("index");
/// Place of a chunk with ordinal 0 → [`ChunkOrigin`]. Missing: its writer gave none.
pub(super) const ORIGIN: TableDefinition<u128, &[u8]> = TableDefinition::new("origin");
/// "volume" → [`VolumeRow`]; written at creation and by every quick-repair commit.
pub(super) const VOLUME: TableDefinition<&str, &[u8]> = TableDefinition::new("volume");

const ROW_FORMAT: u8 = 1;
const ORIGIN_FORMAT: u8 = 1;
/// In 1, rows were in order of chunk ids.
const VOLUME_FORMAT: u8 = 2;

/// Of the hash at the head of an id.
const HASH_BITS: u32 = 16;
/// Page of redb.
const PAGE_BYTES: usize = 4096;
/// What a leaf with one pair of [`CHUNK`] needs beside the value: 4 of header, 4 for the end of the value,
/// 17 of key.
const LEAF_OVERHEAD_BYTES: usize = 4 + 4 + 17;
/// Bytes that stay in the index row. Above half a page a piece has its leaf for itself; below, pieces could
/// share a leaf with a large one and push it into the next power of two.
const TAIL_BYTES_MAX: usize = 2048;
/// Tags of an encrypted chunk, in the index row: 16 bytes per frame of 64 KiB, with room to spare.
const TAG_BYTES_MAX: usize = 512;
/// A last piece may waste this part of the chunk rather than be cut further.
const WASTE_PART: usize = 16;

/// What is known of a chunk beside its pieces. Stored: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// Bytes of the chunk.
    pub bytes: u32,
    /// CRC-32C of the bytes.
    pub crc32c: u32,
    /// CRC-32C of chunk id, node, length and `crc32c`.
    pub seal: u32,
    /// Bytes of each piece, in order.
    pub pieces: Vec<u32>,
    /// The bytes after the pieces.
    pub tail: Bytes,
    /// Tags of the frames of an encrypted chunk; empty while nothing is encrypted.
    pub tags: Bytes,
}

/// What a volume says about itself. Stored: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VolumeRow {
    /// The node that wrote it.
    pub node: NodeId,
    /// How often it was settled; only there so that such a commit changes something.
    pub settled: u64,
}

impl VolumeRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(VOLUME_FORMAT, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<VolumeRow, codec::DecodeError> {
        codec::decode(VOLUME_FORMAT, "volume row", bytes)
    }
}

impl Row {
    fn new(node: NodeId, chunk: ChunkId, bytes: u32, crc32c: u32) -> Row {
        let seal = seal(node, chunk, bytes, crc32c);
        Row { bytes, crc32c, seal, pieces: Vec::new(), tail: Bytes::new(), tags: Bytes::new() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(ROW_FORMAT, self)
    }

    /// Decodes a row and checks how its fields agree, among them the seal. `None`: the row is rotten.
    pub(super) fn decode(node: NodeId, chunk: ChunkId, bytes: &[u8]) -> Option<Row> {
        let row: Row = codec::decode(ROW_FORMAT, "index row", bytes).ok()?;
        let pieces: u64 = row.pieces.iter().map(|piece| u64::from(*piece)).sum();
        let sums_up = pieces + row.tail.len() as u64 == u64::from(row.bytes);
        let bounded = row.bytes as usize <= CHUNK_BYTES
            && row.pieces.len() <= usize::from(u8::MAX)
            && row.tags.len() <= TAG_BYTES_MAX;
        let sealed = row.seal == seal(node, chunk, row.bytes, row.crc32c);
        (sums_up && bounded && sealed).then_some(row)
    }

    /// Bytes of disk that the chunk takes.
    pub(super) fn disk_bytes(&self) -> u64 {
        let pieces: usize = self.pieces.iter().map(|piece| page_bytes(*piece as usize)).sum();
        (pieces + 128 + self.tail.len()) as u64
    }
}

/// How an origin is stored.
pub(super) fn encode_origin(origin: &ChunkOrigin) -> Vec<u8> {
    codec::encode(ORIGIN_FORMAT, origin)
}

/// Ties a checksum to the name of the chunk and the node that holds it.
fn seal(node: NodeId, chunk: ChunkId, bytes: u32, crc32c: u32) -> u32 {
    codec::crc32c(&[
        &chunk.get().to_be_bytes(),
        &node.0.to_be_bytes(),
        &bytes.to_be_bytes(),
        &crc32c.to_be_bytes(),
    ])
}

/// Key of a chunk: its id with the hash behind all else, so that what a session writes lies side by side, ascending.
fn place(chunk: ChunkId) -> u128 {
    chunk.get().rotate_left(HASH_BITS)
}

/// The inverse of [`place`].
fn chunk_at(place: u128) -> ChunkId {
    ChunkId::from_u128(place.rotate_right(HASH_BITS))
}

/// Bytes of the page that holds a piece.
fn page_bytes(piece: usize) -> usize {
    (piece + LEAF_OVERHEAD_BYTES).next_power_of_two().max(PAGE_BYTES)
}

/// Cuts a chunk of `bytes` into pieces that fill pages; what they leave over is the tail.
pub(super) fn cut(bytes: usize) -> Vec<u32> {
    assert!(bytes <= CHUNK_BYTES);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while rest > TAIL_BYTES_MAX {
        let above = page_bytes(rest);
        let waste = above - LEAF_OVERHEAD_BYTES - rest;
        let fitting = above / 2;
        let piece = if waste <= bytes / WASTE_PART || fitting < PAGE_BYTES {
            rest
        } else {
            fitting - LEAF_OVERHEAD_BYTES
        };
        pieces.push(piece as u32);
        rest -= piece;
    }
    pieces
}

/// A chunk on its way into a volume.
#[derive(Clone)]
pub(super) struct NewChunk {
    pub id: ChunkId,
    /// In order; [`CHUNK_BYTES`] at most in all.
    pub parts: Vec<Bytes>,
    /// Of all parts.
    pub bytes: u32,
    /// Of all parts.
    pub crc32c: u32,
    pub origin: Option<ChunkOrigin>,
}

/// How a put of a chunk that fits ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It is in the transaction now.
    Stored {
        /// Bytes of disk it takes.
        bytes: u64,
        /// Bytes of disk of the rotten chunk it replaced.
        instead_of: Option<u64>,
    },
    /// The same bytes were there.
    Same,
    /// Other bytes were there; nothing was changed.
    Differs,
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found<T> {
    Absent,
    Rotten,
    Here(T),
}

/// The tables of a chunk, open in a write transaction.
pub(super) struct Writing<'txn> {
    node: NodeId,
    chunk: redb::Table<'txn, (u128, u8), &'static [u8]>,
    index: redb::Table<'txn, u128, &'static [u8]>,
    origin: redb::Table<'txn, u128, &'static [u8]>,
}

impl<'txn> Writing<'txn> {
    pub(super) fn open(txn: &'txn redb::WriteTransaction, node: NodeId) -> Result<Writing<'txn>, Fault> {
        Ok(Writing {
            node,
            chunk: txn.open_table(CHUNK)?,
            index: txn.open_table(INDEX)?,
            origin: txn.open_table(ORIGIN)?,
        })
    }

    /// Stores a chunk. Bytes that are there already stay, unless they are rotten and these heal them.
    pub(super) fn put(&mut self, new: &NewChunk) -> Result<Put, Fault> {
        let instead_of = match read(self.node, new.id, &self.index, &self.chunk, Check::Crc)? {
            Found::Here((_, bytes)) if same(&new.parts, &bytes) => return Ok(Put::Same),
            Found::Here(_) => return Ok(Put::Differs),
            Found::Rotten if !self.heals(new)? => return Ok(Put::Differs),
            Found::Rotten => self.remove(new.id)?,
            Found::Absent => None,
        };
        let mut row = Row::new(self.node, new.id, new.bytes, new.crc32c);
        row.pieces = cut(new.bytes as usize);
        let mut from = Parts { parts: &new.parts, offset: 0 };
        for (number, piece) in row.pieces.iter().enumerate() {
            let mut page = self.chunk.insert_reserve((place(new.id), number as u8), *piece as usize)?;
            from.copy(page.as_mut());
        }
        let mut tail = vec![0; from.left()];
        from.copy(&mut tail);
        row.tail = tail.into();
        self.index.insert(place(new.id), row.encode().as_slice())?;
        if let Some(origin) = &new.origin {
            self.origin.insert(place(new.id), encode_origin(origin).as_slice())?;
        }
        Ok(Put::Stored { bytes: row.disk_bytes(), instead_of })
    }

    /// Whether `new` may replace a rotten chunk: the row that is left names the same bytes, or is rotten itself.
    fn heals(&self, new: &NewChunk) -> Result<bool, Fault> {
        let Some(row) = self.index.get(place(new.id))? else {
            return Ok(true);
        };
        let row = Row::decode(self.node, new.id, row.value());
        Ok(row.is_none_or(|row| row.bytes == new.bytes && row.crc32c == new.crc32c))
    }

    /// Removes a chunk. Returns the bytes of disk it took; `None` where there was none.
    pub(super) fn remove(&mut self, chunk: ChunkId) -> Result<Option<u64>, Fault> {
        let row = self.index.remove(place(chunk))?.map(|row| Row::decode(self.node, chunk, row.value()));
        let Some(row) = row else {
            return Ok(None);
        };
        // Pieces are removed by range and not by the row: the row may be rotten.
        let pieces: Vec<u8> = self
            .chunk
            .range((place(chunk), 0)..=(place(chunk), u8::MAX))?
            .map(|entry| entry.map(|(key, _)| key.value().1))
            .collect::<Result<_, _>>()?;
        for piece in pieces {
            self.chunk.remove((place(chunk), piece))?;
        }
        self.origin.remove(place(chunk))?;
        Ok(Some(row.map_or(0, |row| row.disk_bytes())))
    }
}

/// Copies bytes out of parts that follow each other.
struct Parts<'a> {
    parts: &'a [Bytes],
    offset: usize,
}

impl Parts<'_> {
    fn left(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() - self.offset
    }

    fn copy(&mut self, mut into: &mut [u8]) {
        while !into.is_empty() {
            let part = &self.parts[0][self.offset..];
            let taken = part.len().min(into.len());
            into[..taken].copy_from_slice(&part[..taken]);
            into = &mut into[taken..];
            self.offset += taken;
            if self.offset == self.parts[0].len() {
                self.parts = &self.parts[1..];
                self.offset = 0;
            }
        }
    }
}

/// Whether the parts, one after the other, are these bytes.
fn same(parts: &[Bytes], bytes: &[u8]) -> bool {
    let mut rest = bytes;
    for part in parts {
        let Some(after) = rest.strip_prefix(part.as_ref()) else {
            return false;
        };
        rest = after;
    }
    rest.is_empty()
}

/// Whether a read proves the bytes. Only the planted bug `chunk_skip_crc` does without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Crc,
    Nothing,
}

/// Reads a whole chunk and proves it.
fn read(
    node: NodeId,
    chunk: ChunkId,
    index: &impl ReadableTable<u128, &'static [u8]>,
    pieces: &impl ReadableTable<(u128, u8), &'static [u8]>,
    check: Check,
) -> Result<Found<(Row, Bytes)>, Fault> {
    let Some(stored) = index.get(place(chunk))? else {
        return Ok(Found::Absent);
    };
    let Some(row) = Row::decode(node, chunk, stored.value()) else {
        return Ok(Found::Rotten);
    };
    let mut bytes = BytesMut::with_capacity(row.bytes as usize);
    for (number, piece) in row.pieces.iter().enumerate() {
        let Some(stored) = pieces.get((place(chunk), number as u8))? else {
            return Ok(Found::Rotten);
        };
        if stored.value().len() != *piece as usize {
            return Ok(Found::Rotten);
        }
        bytes.extend_from_slice(stored.value());
    }
    bytes.extend_from_slice(&row.tail);
    if check == Check::Crc && codec::crc32c(&[&bytes]) != row.crc32c {
        return Ok(Found::Rotten);
    }
    Ok(Found::Here((row, bytes.freeze())))
}

/// The first chunks of a volume, see [`Reading::first_chunks`].
#[derive(Default)]
pub(super) struct FirstChunks {
    /// Proved.
    pub whole: Vec<NewChunk>,
    pub rotten: Vec<ChunkId>,
}

/// A read snapshot of the tables. Does nothing but look.
pub(super) struct Reading {
    node: NodeId,
    chunk: redb::ReadOnlyTable<(u128, u8), &'static [u8]>,
    index: redb::ReadOnlyTable<u128, &'static [u8]>,
    origin: redb::ReadOnlyTable<u128, &'static [u8]>,
}

impl Reading {
    pub(super) fn open(database: &redb::Database, node: NodeId) -> Result<Reading, Fault> {
        let txn = database.begin_read()?;
        Ok(Reading {
            node,
            chunk: txn.open_table(CHUNK)?,
            index: txn.open_table(INDEX)?,
            origin: txn.open_table(ORIGIN)?,
        })
    }

    /// All bytes of a chunk, proved.
    pub(super) fn get(&self, chunk: ChunkId, check: Check) -> Result<Found<Bytes>, Fault> {
        Ok(match read(self.node, chunk, &self.index, &self.chunk, check)? {
            Found::Here((_, bytes)) => Found::Here(bytes),
            Found::Absent => Found::Absent,
            Found::Rotten => Found::Rotten,
        })
    }

    /// Whether there is no chunk.
    pub(super) fn is_empty(&self) -> Result<bool, Fault> {
        Ok(self.index.first()?.is_none())
    }

    /// The first chunks in order of writing, read and proved: at most so many, and no more behind the one that makes
    /// the bytes reach `bytes_max`.
    pub(super) fn first_chunks(&self, chunks_max: usize, bytes_max: usize) -> Result<FirstChunks, Fault> {
        let (mut first, mut bytes) = (FirstChunks::default(), 0);
        for entry in self.index.iter()?.take(chunks_max) {
            let id = chunk_at(entry?.0.value());
            match read(self.node, id, &self.index, &self.chunk, Check::Crc)? {
                Found::Here((row, body)) => {
                    bytes += body.len();
                    let (parts, origin) = (vec![body], self.origin(id)?);
                    first.whole.push(NewChunk { id, parts, bytes: row.bytes, crc32c: row.crc32c, origin });
                }
                Found::Rotten => first.rotten.push(id),
                Found::Absent => {}
            }
            if bytes_max <= bytes {
                break;
            }
        }
        Ok(first)
    }

    /// What the index says about a chunk. The bytes themselves are not read.
    pub(super) fn stat(&self, chunk: ChunkId) -> Result<Found<ChunkStat>, Fault> {
        let Some(stored) = self.index.get(place(chunk))? else {
            return Ok(Found::Absent);
        };
        let Some(row) = Row::decode(self.node, chunk, stored.value()) else {
            return Ok(Found::Rotten);
        };
        Ok(Found::Here(ChunkStat {
            id: chunk,
            bytes: row.bytes,
            crc32c: row.crc32c,
            origin: self.origin(chunk)?,
        }))
    }

    /// Where the chunk belongs. An origin that cannot be decoded counts as none: it only serves a rebuild.
    fn origin(&self, chunk: ChunkId) -> Result<Option<ChunkOrigin>, Fault> {
        if chunk.ordinal() != 0 {
            return Ok(None);
        }
        let stored = self.origin.get(place(chunk))?;
        Ok(stored.and_then(|bytes| codec::decode(ORIGIN_FORMAT, "chunk origin", bytes.value()).ok()))
    }

    /// Calls `each` with every chunk and the bytes of disk it takes (0 where its row is rotten).
    pub(super) fn each(&self, mut each: impl FnMut(ChunkId, u64)) -> Result<(), Fault> {
        self.each_placed(0..=u128::MAX, |chunk, bytes| {
            each(chunk, bytes);
            true
        })
    }

    /// Calls `each` with the chunks of one extent from `first` to `last`, in order, until it returns `false`.
    pub(super) fn each_between(
        &self,
        first: ChunkId,
        last: ChunkId,
        mut each: impl FnMut(ChunkId) -> bool,
    ) -> Result<(), Fault> {
        assert_eq!(first.extent(), last.extent());
        self.each_placed(place(first)..=place(last), |chunk, _| each(chunk))
    }

    fn each_placed(
        &self,
        places: std::ops::RangeInclusive<u128>,
        mut each: impl FnMut(ChunkId, u64) -> bool,
    ) -> Result<(), Fault> {
        for entry in self.index.range(places)? {
            let (at, row) = entry?;
            let id = chunk_at(at.value());
            let bytes = Row::decode(self.node, id, row.value()).map_or(0, |row| row.disk_bytes());
            if !each(id, bytes) {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::{ExtentId, SessionId};

    use super::*;

    fn chunk() -> ChunkId {
        ExtentId::new(0xABCD, SessionId { epoch: 1, number: 2 }, 3).chunk(4)
    }

    #[test]
    fn rows_keep_their_format() {
        let mut row = Row::new(NodeId(7), chunk(), 5, 0x0102_0304);
        row.pieces = vec![2];
        row.tail = Bytes::from_static(b"abc");
        let bytes = row.encode();
        assert_eq!(hex::encode(&bytes), "0105848688089fbcbeca0301020361626300");
        assert_eq!(Row::decode(NodeId(7), chunk(), &bytes), Some(row));
        let settled = VolumeRow { node: NodeId(7), settled: 1 };
        assert_eq!(hex::encode(settled.encode()), "020701");
        assert_eq!(VolumeRow::decode(&settled.encode()).unwrap(), settled);
    }

    #[test]
    fn origins_keep_their_format() {
        let origin = ChunkOrigin {
            bucket: fabric::ids::BucketId(3),
            bucket_name: "photos".parse().unwrap(),
            key: "a/b".parse().unwrap(),
            part: Some((fabric::ids::Stamp { epoch: 1, index: 2, ordinal: 0 }, 4)),
            headers: vec![("content-type".to_string(), "x/y".to_string())],
            wrapped_key: None,
        };
        let bytes = encode_origin(&origin);
        let golden =
            "01030670686f746f7303612f62010102000401".to_string() + "0c636f6e74656e742d7479706503782f7900";
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(codec::decode(ORIGIN_FORMAT, "chunk origin", &bytes), Ok(origin));
    }

    #[test]
    fn places_are_in_order_of_writing() {
        let session = SessionId { epoch: 1, number: 2 };
        let written = [(0xFFFF, 3, 0), (0xFFFF, 3, 1), (0x0000, 4, 0), (0xABCD, 5, 0)];
        let chunks: Vec<ChunkId> =
            written.map(|(hash, number, ordinal)| ExtentId::new(hash, session, number).chunk(ordinal)).into();
        assert!(chunks.is_sorted_by_key(|chunk| place(*chunk)));
        assert!(chunks.iter().all(|chunk| chunk_at(place(*chunk)) == *chunk));
        assert_eq!(format!("{:032x}", place(chunk())), "0001000000020000000003000004abcd");
    }

    #[test]
    fn a_row_under_another_name_is_rotten() {
        let bytes = Row::new(NodeId(7), chunk(), 0, 0).encode();
        assert!(Row::decode(NodeId(7), chunk(), &bytes).is_some());
        assert!(Row::decode(NodeId(8), chunk(), &bytes).is_none());
        assert!(Row::decode(NodeId(7), chunk().extent().chunk(5), &bytes).is_none());
        assert!(Row::decode(NodeId(7), chunk(), &bytes[..bytes.len() - 1]).is_none());
        let mut tailed = Row::new(NodeId(7), chunk(), 0, 0);
        tailed.tail = Bytes::from_static(b"x");
        assert!(Row::decode(NodeId(7), chunk(), &tailed.encode()).is_none());
    }

    #[test]
    fn pieces_fill_their_pages() {
        for bytes in (0..CHUNK_BYTES).step_by(509).chain(CHUNK_BYTES - 4100..=CHUNK_BYTES) {
            let pieces = cut(bytes);
            let sum: usize = pieces.iter().map(|piece| *piece as usize).sum();
            assert!(sum <= bytes && bytes - sum <= TAIL_BYTES_MAX, "{bytes}: {pieces:?}");
            assert!(pieces.iter().all(|piece| *piece as usize > PAGE_BYTES / 2), "{bytes}: {pieces:?}");
            let disk: usize = pieces.iter().map(|piece| page_bytes(*piece as usize)).sum();
            assert!(disk <= bytes + bytes / WASTE_PART + PAGE_BYTES, "{bytes}: {disk}");
        }
        assert_eq!(cut(CHUNK_BYTES), [CHUNK_BYTES as u32 - 25]);
        assert_eq!(cut(1_000_000), [1_000_000]);
    }
}
