//! Bodies ↔ extents: how bytes of clients become durable chunks, and how chunks become bytes again.
//!
//! Nothing here knows S3. What always holds:
//! - no body is ever in memory as a whole: chunks in flight are bounded per body and by a [`budget`] per process;
//! - a [`Written`] extent is complete and durable on as many nodes as its mask says, and the write stays open
//!   until the caller drops the guard, after the outcome of the command that names it is known;
//! - a read yields exactly the bytes asked for, each checked, or ends with an error: never short and clean;
//! - what is written encrypted is plain in requests and answers only: chunks, caches and the metadata have ciphertext.

pub mod budget;
mod cache;
#[cfg(test)]
pub(crate) mod fakes;
mod frames;
mod inline;
mod layouts;
mod nodes;
mod reader;
pub mod segment;
mod shards;
#[cfg(test)]
mod tests;
mod transfer;
mod writer;

use std::sync::Arc;

use consensus::client::Meta;
use fabric::env::Env;
use fabric::limits::{INLINE_BYTES_TOTAL_DEFAULT, MIB};
use storage::client::Chunks;

use budget::Budget;
use cache::Cache;
use inline::InlineRoom;
use layouts::Layouts;
use nodes::Nodes;

pub use frames::{BodyKey, DataKey, KeyUse};
pub use reader::{BodyStream, ReadError};
pub use writer::{Class, Seal, Source, SourceError, Target, WriteError, Written};

/// What this process may spend on bodies.
#[derive(Debug, Clone, Copy)]
pub struct DataConfig {
    /// Bytes of bodies that are being written.
    pub write_bytes_max: u64,
    /// Bytes of bodies that are being read; a quarter more for those that are rebuilt from shards.
    pub read_bytes_max: u64,
    /// Bytes of cached chunks; 0 turns the cache off.
    pub cache_bytes_max: u64,
    /// Bytes of small bodies in the metadata; beyond, they become chunks.
    pub inline_bytes_max: u64,
}

impl DataConfig {
    /// Shares of a process whose resident size must stay below `limit` bytes: together 35 % of it.
    pub fn within(limit: u64) -> DataConfig {
        DataConfig {
            write_bytes_max: (limit / 10).max(8 * MIB),
            read_bytes_max: (limit / 10).max(8 * MIB),
            cache_bytes_max: limit / 8,
            inline_bytes_max: INLINE_BYTES_TOTAL_DEFAULT,
        }
    }
}

/// Writes and reads bodies. One a process; cheap to clone.
#[derive(Clone)]
pub struct Data {
    env: Arc<dyn Env>,
    meta: Arc<dyn Meta>,
    chunks: Arc<dyn Chunks>,
    nodes: Arc<Nodes>,
    layouts: Arc<Layouts>,
    cache: Arc<Cache>,
    inline: Arc<InlineRoom>,
    writes: Budget,
    reads: Budget,
    /// What is read to rebuild a chunk, while that lasts.
    rebuilds: Budget,
}

impl Data {
    /// Nothing is started: all work happens in the calls, and in tasks of reads that end with them.
    pub fn new(env: Arc<dyn Env>, meta: Arc<dyn Meta>, chunks: Arc<dyn Chunks>, config: DataConfig) -> Data {
        Data {
            nodes: Nodes::new(env.clone()),
            layouts: Arc::new(Layouts::new(env.clone(), meta.clone(), chunks.clone())),
            cache: Arc::new(Cache::new(usize::try_from(config.cache_bytes_max).unwrap_or(usize::MAX))),
            inline: Arc::new(InlineRoom::new(env.clone(), meta.clone(), config.inline_bytes_max)),
            writes: Budget::new(config.write_bytes_max),
            reads: Budget::new(config.read_bytes_max),
            rebuilds: Budget::new((config.read_bytes_max / 4).max(2 * MIB)),
            env,
            meta,
            chunks,
        }
    }
}
