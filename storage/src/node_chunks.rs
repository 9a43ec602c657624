//! Chunks of all nodes as jobs see them: their own without a network between.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::ids::{ChunkId, NodeId};

use crate::chunks::{CHUNKS_PER_CALL_MAX, ChunkStore};
use crate::client::{ChunkClient, ChunkError, ChunkStat, Chunks, NodeSpace, Verdict};
use crate::origin::ChunkOrigin;

/// See the file's head.
pub struct NodeChunks {
    here: ChunkStore,
    elsewhere: ChunkClient,
}

impl NodeChunks {
    /// The chunks of `here`'s node come from it, all others through the client.
    pub fn new(here: ChunkStore, elsewhere: ChunkClient) -> NodeChunks {
        NodeChunks { here, elsewhere }
    }

    fn is_here(&self, node: NodeId) -> bool {
        node == self.here.node()
    }
}

#[async_trait]
impl Chunks for NodeChunks {
    async fn put(
        &self,
        node: NodeId,
        chunk: ChunkId,
        bytes: Vec<Bytes>,
        origin: Option<ChunkOrigin>,
    ) -> Result<(), ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.put(node, chunk, bytes, origin).await;
        }
        self.here.put(chunk, bytes, origin).await
    }

    async fn get(&self, node: NodeId, chunk: ChunkId, offset: u32, bytes: u32) -> Result<Bytes, ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.get(node, chunk, offset, bytes).await;
        }
        self.here.get(chunk, offset, bytes).await
    }

    async fn delete(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<(), ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.delete(node, chunks).await;
        }
        for chunks in chunks.chunks(CHUNKS_PER_CALL_MAX) {
            self.here.delete(chunks.to_vec()).await?;
        }
        Ok(())
    }

    async fn stat(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.stat(node, chunks).await;
        }
        let mut stats = Vec::with_capacity(chunks.len());
        for chunks in chunks.chunks(CHUNKS_PER_CALL_MAX) {
            stats.extend(self.here.stat(chunks.to_vec()).await?);
        }
        Ok(stats)
    }

    async fn check(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.check(node, chunks).await;
        }
        self.here.check(chunks).await
    }

    async fn scan(
        &self,
        node: NodeId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<Vec<ChunkStat>, ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.scan(node, after, limit).await;
        }
        self.here.scan(after, limit).await
    }

    async fn space(&self, node: NodeId) -> Result<NodeSpace, ChunkError> {
        if !self.is_here(node) {
            return self.elsewhere.space(node).await;
        }
        self.here.space().await
    }

    fn learn(&self, members: BTreeMap<NodeId, String>) {
        self.elsewhere.learn(members);
    }
}
