//! Identifiers. Each is a type of its own, so that one cannot be passed for another.
//!
//! The layouts of [`Stamp`], [`SessionId`], [`ExtentId`] and [`ChunkId`] are stored and sent: append only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::coding::Coding;

/// Number of a storage node, unique in a cluster and never reused. From `iptable.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random name of a cluster, drawn by `fluffy-storage init` or at the first embedded start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<ClusterId, Self::Err> {
        u128::from_str_radix(text, 16).map(ClusterId)
    }
}

/// 48 random bits drawn at the first start of a node on an empty data directory: a node that lost its
/// disk comes back as another incarnation and can never vote under the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// The name of a voter inside Raft: node (16 bits) and incarnation (48 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RaftId(pub u64);

impl RaftId {
    /// Joins node and incarnation.
    pub fn new(node: NodeId, incarnation: Incarnation) -> RaftId {
        assert!(incarnation.0 < 1 << 48);
        RaftId(u64::from(node.0) << 48 | incarnation.0)
    }

    /// The node this voter runs on.
    pub fn node(self) -> NodeId {
        NodeId((self.0 >> 48) as u16)
    }

    /// The incarnation this voter was born as.
    pub fn incarnation(self) -> Incarnation {
        Incarnation(self.0 & ((1 << 48) - 1))
    }
}

/// Number of a bucket, never reused, so that a bucket created again under an old name is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketId(pub u64);

/// Cluster epoch (16 bits) and number (32 bits) of a session in the log. Raised epochs make numbers drawn
/// before a `recover` or a restore harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// Cluster epoch in which the session was opened.
    pub epoch: u16,
    /// Drawn by `apply`, ascending within the epoch; 0 is "no session" (see `Entry`).
    pub number: u32,
}

/// When something happened in the order of the log: the order and the identity of versions, uploads,
/// bodies and inline payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Epoch of the bucket: raised by promotion, restore and range splits.
    pub epoch: u16,
    /// Index of the log entry.
    pub index: u64,
    /// Position within the entry.
    pub ordinal: u16,
}

impl Stamp {
    /// Before everything that ever happened; the stamp of nothing.
    pub const ZERO: Stamp = Stamp { epoch: 0, index: 0, ordinal: 0 };

    /// 12 bytes whose order is the order of stamps.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..2].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[2..10].copy_from_slice(&self.index.to_be_bytes());
        bytes[10..].copy_from_slice(&self.ordinal.to_be_bytes());
        bytes
    }

    /// The inverse of [`Stamp::to_bytes`].
    pub fn from_bytes(bytes: [u8; 12]) -> Stamp {
        let [e0, e1, i0, i1, i2, i3, i4, i5, i6, i7, o0, o1] = bytes;
        Stamp {
            epoch: u16::from_be_bytes([e0, e1]),
            index: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            ordinal: u16::from_be_bytes([o0, o1]),
        }
    }
}

/// 24 lower-case hex digits: how upload and version ids look to clients. Opaque to them.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.to_bytes()))
    }
}

/// The text is not 24 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this store")]
pub struct NotAStamp;

impl FromStr for Stamp {
    type Err = NotAStamp;

    fn from_str(text: &str) -> Result<Stamp, NotAStamp> {
        if text.len() != 24 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NotAStamp);
        }
        let mut bytes = [0; 12];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAStamp)?;
        Ok(Stamp::from_bytes(bytes))
    }
}

/// Version of the layout that maps partitions to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayoutVersion(pub u32);

/// Name of one extent: 16 bits hash · 16 epoch · 32 session · 3 coding · 37 number, in the upper 104 of 128 bits.
///
/// The hash chooses the partition, the coding says how it is stored. The rest is drawn by the session that writes,
/// ascending, so that "below that session's oldest open write" is a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExtentId(u128);

/// Bits of the number of an extent; above them is its coding.
const NUMBER_BITS: u32 = 37;
const CODING_SHIFT: u32 = 24 + NUMBER_BITS;

impl ExtentId {
    /// Joins the parts, of one in whole copies. `number` is drawn by the session, ascending, below 2^37: at a thousand
    /// a second enough for four years.
    pub fn new(hash: u16, session: SessionId, number: u64) -> ExtentId {
        assert!(number < 1 << NUMBER_BITS);
        let upper = u128::from(hash) << 112 | u128::from(session.epoch) << 96;
        ExtentId(upper | u128::from(session.number) << 64 | u128::from(number) << 24)
    }

    /// What chooses the partition.
    pub fn hash(self) -> u16 {
        (self.0 >> 112) as u16
    }

    /// When it was begun, among all others: sessions ascend by epoch and number.
    pub fn age(self) -> (SessionId, u64) {
        (self.session(), self.number())
    }

    /// The session that wrote it.
    pub fn session(self) -> SessionId {
        SessionId { epoch: (self.0 >> 96) as u16, number: (self.0 >> 64) as u32 }
    }

    /// Its number within the session.
    pub fn number(self) -> u64 {
        (self.0 >> 24) as u64 & ((1 << NUMBER_BITS) - 1)
    }

    /// How it is stored; `None`: in a way that this release does not know.
    pub fn coding(self) -> Option<Coding> {
        Coding::from_number((self.0 >> CODING_SHIFT) as u8 & 0b111)
    }

    /// The same number, stored in this way.
    pub fn coded(self, coding: Coding) -> ExtentId {
        ExtentId(self.0 & !(0b111 << CODING_SHIFT) | (coding as u128) << CODING_SHIFT)
    }

    /// The chunk at `ordinal` (its place in the extent) of a whole copy, or of its first shard.
    pub fn chunk(self, ordinal: u32) -> ChunkId {
        self.shard(0, ordinal)
    }

    /// The chunk of one shard in the stripe at `ordinal`.
    pub fn shard(self, shard: usize, ordinal: u32) -> ChunkId {
        assert!(shard < 1 << 4 && ordinal < 1 << 20);
        ChunkId(self.0 | (shard as u128) << 20 | u128::from(ordinal))
    }

    /// The one before it in order, whether there is such an extent or not; the first has itself.
    pub fn before(self) -> ExtentId {
        ExtentId(self.0.saturating_sub(1 << 24))
    }

    /// 16 bytes, big endian; the low 24 bits are zero.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`ExtentId::to_bytes`]; clears the low 24 bits.
    pub fn from_bytes(bytes: [u8; 16]) -> ExtentId {
        ExtentId(u128::from_be_bytes(bytes) & !((1 << 24) - 1))
    }
}

impl fmt::Display for ExtentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:026x}", self.0 >> 24)
    }
}

/// Name of one chunk: its extent, 4 bits of shard (0 for copies), 20 bits of ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId(u128);

impl ChunkId {
    /// The extent it is a piece of.
    pub fn extent(self) -> ExtentId {
        ExtentId(self.0 & !((1 << 24) - 1))
    }

    /// Its shard; of whole copies 0.
    pub fn shard(self) -> usize {
        (self.0 >> 20) as usize & 0xF
    }

    /// Its place in the extent, or in its shard, from 0.
    pub fn ordinal(self) -> u32 {
        (self.0 as u32) & ((1 << 20) - 1)
    }

    /// The number as stored: sorted by extent, then shard, then ordinal.
    pub fn get(self) -> u128 {
        self.0
    }

    /// Takes a number that came from [`ChunkId::get`]. Every number is a chunk id.
    pub fn from_u128(number: u128) -> ChunkId {
        ChunkId(number)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_id_golden_bytes() {
        let session = SessionId { epoch: 0x0102, number: 0x0304_0506 };
        let extent = ExtentId::new(0xABCD, session, 0x11_2233_4455);
        assert_eq!(extent.chunk(0xF_FFFF).to_string(), "abcd0102030405061122334455".to_string() + "0fffff");
        let coded = extent.coded(Coding::FourPlusTwo);
        assert_eq!(coded.shard(5, 6).to_string(), "abcd0102030405065122334455".to_string() + "500006");
        assert_eq!((coded.coding(), coded.number()), (Some(Coding::FourPlusTwo), extent.number()));
        assert_eq!((coded.shard(5, 6).shard(), coded.shard(5, 6).ordinal()), (5, 6));
        assert_eq!((coded.coded(Coding::Whole), extent.coding()), (extent, Some(Coding::Whole)));
        assert_eq!(ExtentId::from_bytes([0xFF; 16]).coding(), None, "reserved");
        assert_eq!((extent.hash(), extent.session(), extent.number()), (0xABCD, session, 0x11_2233_4455));
        assert_eq!(extent.chunk(7).extent(), extent);
        assert_eq!(extent.chunk(7).ordinal(), 7);
        assert_eq!(ExtentId::from_bytes(extent.to_bytes()), extent);
    }

    #[test]
    fn stamp_text_and_order() {
        let stamp = Stamp { epoch: 1, index: 2, ordinal: 3 };
        assert_eq!(stamp.to_string(), "000100000000000000020003");
        assert_eq!(stamp.to_string().parse(), Ok(stamp));
        assert!("0001000000000000000200".parse::<Stamp>().is_err());
        assert!(stamp.to_bytes() < Stamp { index: 256, ..stamp }.to_bytes());
    }

    #[test]
    fn raft_id_joins_node_and_incarnation() {
        let id = RaftId::new(NodeId(3), Incarnation(0xFFFF_FFFF_FFFF));
        assert_eq!((id.node(), id.incarnation()), (NodeId(3), Incarnation(0xFFFF_FFFF_FFFF)));
    }
}
