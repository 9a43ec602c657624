//! Reads and writes chunks on storage nodes.
//!
//! Every call has a deadline; bytes that arrive were checked against the CRC over bytes and identity by the
//! node, and against the CRC of the frame here.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::ids::{ChunkId, NodeId};
use fabric::limits::{CHUNK_DEADLINE, CHUNK_PUT_DEADLINE};
use fabric::rpc::{CallOptions, Class, RpcClient};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::chunks::CHUNKS_PER_CALL_MAX;
use crate::jobs::Peers;
use crate::jobs::work::Stolen;
use crate::origin::ChunkOrigin;
use crate::wire::{
    self, CheckRequest, DeleteRequest, Failure, GetReply, GetRequest, PutRequest, ScanRequest, StatRequest,
    StealRequest,
};

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

/// What a node found when it read a chunk. Sent: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// All of it is as it was written.
    Whole {
        /// How many bytes.
        bytes: u32,
    },
    /// It is not there.
    Absent,
    /// Its bytes are rotten. Already reported to repair.
    Rotten,
}

/// Room for chunks on a node, beside what its volumes have free inside. Sent: append only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpace {
    /// Bytes that volumes may still take of the disk: its reserve is none of them.
    pub free_bytes: u64,
    /// Bytes of the disk.
    pub total_bytes: u64,
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
    /// Has the node read these chunks, at most [`crate::chunks::CHECKS_PER_CALL_MAX`].
    async fn check(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError>;
    /// Chunks on the node in order of id, after a position.
    async fn scan(
        &self,
        node: NodeId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<Vec<ChunkStat>, ChunkError>;
    /// How much room the node has.
    async fn space(&self, node: NodeId) -> Result<NodeSpace, ChunkError>;
    /// Takes the addresses of all members, for nodes that no table of addresses lists.
    fn learn(&self, members: BTreeMap<NodeId, String>) {
        let _ = members;
    }
}

/// [`Chunks`] over the network.
#[derive(Clone)]
pub struct ChunkClient {
    rpc: RpcClient,
}

impl ChunkClient {
    /// Calls through these connections.
    pub fn new(rpc: RpcClient) -> ChunkClient {
        ChunkClient { rpc }
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        method: u16,
        question: &Q,
        body: Vec<Bytes>,
    ) -> Result<(A, Bytes), ChunkError> {
        // A put may wait behind others for a slow disk.
        let deadline = if method == wire::PUT { CHUNK_PUT_DEADLINE } else { CHUNK_DEADLINE };
        let options = CallOptions { class: Class::Bulk, deadline };
        let answer =
            self.rpc.call_typed_pieces::<Q, Result<A, Failure>>(node, method, question, body, options);
        // Each way to have no answer is the same to the caller: a put that was done after all may be repeated.
        let (answer, body) =
            answer.await.map_err(|error| ChunkError::Unavailable(node, error.to_string()))?;
        Ok((answer.map_err(|failure| failure.at(node))?, body))
    }
}

#[async_trait]
impl Chunks for ChunkClient {
    async fn put(
        &self,
        node: NodeId,
        chunk: ChunkId,
        bytes: Vec<Bytes>,
        origin: Option<ChunkOrigin>,
    ) -> Result<(), ChunkError> {
        let ((), _) = self.call(node, wire::PUT, &PutRequest { chunk, origin }, bytes).await?;
        Ok(())
    }

    async fn get(&self, node: NodeId, chunk: ChunkId, offset: u32, bytes: u32) -> Result<Bytes, ChunkError> {
        let question = GetRequest { chunk, offset, bytes };
        let (reply, body): (GetReply, Bytes) = self.call(node, wire::GET, &question, Vec::new()).await?;
        if reply.chunk != chunk || reply.offset != offset || body.len() != bytes as usize {
            return Err(ChunkError::Unavailable(node, "it answered for other bytes".to_string()));
        }
        Ok(body)
    }

    async fn delete(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<(), ChunkError> {
        for chunks in chunks.chunks(CHUNKS_PER_CALL_MAX) {
            let question = DeleteRequest { chunks: chunks.to_vec() };
            let ((), _) = self.call(node, wire::DELETE, &question, Vec::new()).await?;
        }
        Ok(())
    }

    async fn stat(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        let mut stats = Vec::with_capacity(chunks.len());
        for chunks in chunks.chunks(CHUNKS_PER_CALL_MAX) {
            let question = StatRequest { chunks: chunks.to_vec() };
            let (page, _): (Vec<Option<ChunkStat>>, _) =
                self.call(node, wire::STAT, &question, Vec::new()).await?;
            if page.len() != chunks.len() {
                return Err(ChunkError::Unavailable(node, "it answered for other chunks".to_string()));
            }
            stats.extend(page);
        }
        Ok(stats)
    }

    async fn check(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError> {
        let (verdicts, _) = self.call(node, wire::CHECK, &CheckRequest { chunks }, Vec::new()).await?;
        Ok(verdicts)
    }

    async fn scan(
        &self,
        node: NodeId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<Vec<ChunkStat>, ChunkError> {
        Ok(self.call(node, wire::SCAN, &ScanRequest { after, limit }, Vec::new()).await?.0)
    }

    async fn space(&self, node: NodeId) -> Result<NodeSpace, ChunkError> {
        Ok(self.call(node, wire::SPACE, &(), Vec::new()).await?.0)
    }

    fn learn(&self, members: BTreeMap<NodeId, String>) {
        self.rpc.book().learn(members);
    }
}

#[async_trait]
impl Peers for ChunkClient {
    async fn steal(&self, node: NodeId, most: u32) -> Result<Stolen, ChunkError> {
        Ok(self.call(node, wire::STEAL, &StealRequest { most }, Vec::new()).await?.0)
    }
}
