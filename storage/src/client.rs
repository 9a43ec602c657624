//! Reads and writes chunks on storage nodes.
//!
//! Every call has a deadline; bytes that arrive were checked against the CRC over bytes and identity.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::meta::names::{BucketName, ObjectKey};
use fabric::ids::{BucketId, ChunkId, NodeId, Stamp};
use serde::{Deserialize, Serialize};

/// Why a chunk call failed. The caller turns to another replica on each of them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChunkError {
    /// The node does not hold the chunk.
    #[error("node {0} does not hold the chunk")]
    NotFound(NodeId),
    /// The node holds it, but its bytes are rotten. Already reported to repair.
    #[error("node {0} holds a rotten copy")]
    Corrupt(NodeId),
    /// The node's data disks are full (reserve reached).
    #[error("node {0} is full")]
    Full(NodeId),
    /// The node holds other bytes under this id, or the writer's session is ended: never to be retried.
    #[error("node {0} refuses the chunk: {1}")]
    Refused(NodeId, String),
    /// The node did not answer in time, or its volume is recovering.
    #[error("node {0} cannot serve the chunk now: {1}")]
    Unavailable(NodeId, String),
}

/// To whom a chunk belongs; kept with chunk 0 so that a catalog can be rebuilt from disks. Stored: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkOrigin {
    /// Bucket number.
    pub bucket: BucketId,
    /// Bucket name.
    pub bucket_name: BucketName,
    /// Full key.
    pub key: ObjectKey,
    /// Upload and part number, for parts.
    pub part: Option<(Stamp, u16)>,
    /// Content headers.
    pub headers: Vec<(String, String)>,
    /// Data key of an encrypted extent, wrapped.
    pub wrapped_key: Option<Bytes>,
}

/// What a node knows of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkStat {
    /// Which.
    pub id: ChunkId,
    /// Bytes.
    pub bytes: u32,
    /// CRC-32C of the bytes.
    pub crc32c: u32,
    /// Of chunk 0 only.
    pub origin: Option<ChunkOrigin>,
}

/// Chunk calls to any node. Implemented by [`ChunkClient`] and by fakes in tests.
#[async_trait]
pub trait Chunks: Send + Sync + 'static {
    /// Stores a chunk; returns after the node's disk has it. The same bytes again are fine.
    /// `bytes` are the pieces of the chunk in order, [`fabric::limits::CHUNK_BYTES`] at most in all.
    async fn put(
        &self,
        node: NodeId,
        chunk: ChunkId,
        bytes: Vec<Bytes>,
        origin: Option<ChunkOrigin>,
    ) -> Result<(), ChunkError>;
    /// Bytes `offset .. offset + bytes` of a chunk, checked.
    async fn get(&self, node: NodeId, chunk: ChunkId, offset: u32, bytes: u32) -> Result<Bytes, ChunkError>;
    /// Removes chunks; those that are not there are fine.
    async fn delete(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<(), ChunkError>;
    /// What the node knows of these chunks; `None` for those it does not hold.
    async fn stat(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkStat>>, ChunkError>;
    /// Chunks on the node in order of id, after a position.
    async fn scan(&self, node: NodeId, after: Option<ChunkId>, limit: u32) -> Result<Vec<ChunkStat>, ChunkError>;
}
