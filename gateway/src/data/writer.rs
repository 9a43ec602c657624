//! Writing a body: inline bytes, or chunks that nobody can see until a command names their extent.
//!
//! If the write stops in between, the guard is dropped and garbage collection removes the chunks.

use bytes::{Bytes, BytesMut};
use consensus::client::WriteGuard;
use consensus::meta::command::NewBody;
use consensus::meta::model::{Attributes, Home};
use consensus::meta::names::{BucketName, ObjectKey};
use fabric::ids::{BucketId, ExtentId, Stamp};
use fabric::limits::{CHUNK_BYTES, INLINE_BYTES_MAX, PUT_BYTES_MAX};
use fabric::placement::Layout;
use std::time::Duration;

use async_trait::async_trait;
use storage::origin::{ChunkOrigin, describe};

use super::Data;
use super::transfer::Transfer;

/// A body waits this long for its first bytes of the budget.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(10);
/// Partitions drawn until one has only healthy owners.
const PARTITION_DRAWS: usize = 8;
/// Pieces below this are joined, so that a body of single bytes costs no more memory than its bytes.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// Why a source failed, in its own words; the caller that made the source knows the type.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where the bytes of a body come from.
#[async_trait]
pub trait Source: Send {
    /// The next bytes; `None` after the last ones, once everything that can be checked was checked.
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError>;
}

/// For whom a body is written. Kept with its first chunk, so that a catalog can be rebuilt from disks.
#[derive(Debug, Clone)]
pub struct Target {
    /// Number of the bucket.
    pub bucket: BucketId,
    /// Its name.
    pub bucket_name: BucketName,
    /// The key.
    pub key: ObjectKey,
    /// Upload and number, for a part.
    pub part: Option<(Stamp, u16)>,
    /// What the client says of the object.
    pub attributes: Attributes,
}

/// A body that is ready to be named by a command.
pub struct Written {
    /// For the command. A part of no bytes is [`NewBody::Inline`] with no bytes.
    pub body: NewBody,
    /// To be dropped once the outcome of the command is known; `None` for inline bytes.
    pub guard: Option<WriteGuard>,
}

/// Why nothing was written. Whatever reached nodes is garbage and will be collected.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The source failed.
    #[error("the body cannot be read: {0}")]
    Source(SourceError),
    /// More than [`PUT_BYTES_MAX`] bytes.
    #[error("the body has more than {PUT_BYTES_MAX} bytes")]
    TooLarge,
    /// Too few nodes have space; waiting does not help.
    #[error("the store is full")]
    Full,
    /// The buffers of this gateway are taken; later is better.
    #[error("the gateway is overloaded")]
    Overloaded,
    /// Too few nodes took the bytes, or the metadata cannot be reached.
    #[error("the body cannot be stored now: {0}")]
    Unavailable(String),
}

impl Data {
    /// Writes all of `source`. `known_length` (if any) only helps to reserve less memory.
    pub async fn write(
        &self,
        source: &mut dyn Source,
        known_length: Option<u64>,
        target: Target,
    ) -> Result<Written, WriteError> {
        if known_length.is_some_and(|length| PUT_BYTES_MAX < length) {
            return Err(WriteError::TooLarge);
        }
        let mut input = Input::new(source, known_length);
        let held = self.writes.take(input.next_chunk_bytes_max(), ADMISSION_PATIENCE).await;
        let held = held.map_err(|_| WriteError::Overloaded)?;
        let first = input.chunk().await?;

        let bytes: usize = first.iter().map(Bytes::len).sum();
        let may_be_inline = bytes <= INLINE_BYTES_MAX && target.part.is_none();
        if bytes == 0 || (may_be_inline && !self.inline.is_full().await) {
            return Ok(Written { body: NewBody::Inline(join(first)), guard: None });
        }

        let guard = self.meta.begin_write().await.map_err(unavailable)?;
        let layout = self.layouts.newest().await.map_err(unavailable)?;
        let extent = self.draw_extent(&guard, &layout);
        guard.writes(Home { bucket: target.bucket, key: target.key.clone() }, extent);
        let mut transfer = Transfer::new(self, &layout, extent, origin(target, known_length));
        transfer.send(first, held);
        let extent = transfer.run(&mut input, &guard).await?;
        Ok(Written { body: NewBody::Extent(extent), guard: Some(guard) })
    }

    /// Chooses a partition at random, preferring one whose owners are all believed to take writes.
    fn draw_extent(&self, guard: &WriteGuard, layout: &Layout) -> ExtentId {
        let draw = || {
            let mut hash = [0; 2];
            self.env.random(&mut hash);
            guard.extent(u16::from_be_bytes(hash))
        };
        let healthy =
            |extent: &ExtentId| layout.owners_of(*extent).iter().all(|&node| self.nodes.takes_writes(node));
        (1..PARTITION_DRAWS).map(|_| draw()).find(healthy).unwrap_or_else(draw)
    }
}

fn unavailable(error: impl std::fmt::Display) -> WriteError {
    WriteError::Unavailable(error.to_string())
}

fn origin(target: Target, length: Option<u64>) -> ChunkOrigin {
    ChunkOrigin {
        headers: describe(&target.attributes, length),
        bucket: target.bucket,
        bucket_name: target.bucket_name,
        key: target.key,
        part: target.part,
        wrapped_key: None,
    }
}

fn join(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 => Bytes::new(),
        1 => pieces.remove(0),
        _ => Bytes::from(pieces.concat()),
    }
}

/// A source cut into chunks.
pub(super) struct Input<'a> {
    source: &'a mut dyn Source,
    known_length: Option<u64>,
    /// Bytes that were taken from the source and belong to the next chunk.
    rest: Bytes,
    taken_bytes: u64,
    ended: bool,
}

impl<'a> Input<'a> {
    fn new(source: &'a mut dyn Source, known_length: Option<u64>) -> Input<'a> {
        Input { source, known_length, rest: Bytes::new(), taken_bytes: 0, ended: false }
    }

    /// Bytes the next chunk can have; what to reserve for it.
    pub(super) fn next_chunk_bytes_max(&self) -> usize {
        let used = self.taken_bytes - self.rest.len() as u64;
        let left = self.known_length.map_or(u64::MAX, |length| length.saturating_sub(used));
        left.min(CHUNK_BYTES as u64) as usize
    }

    /// The next chunk in pieces: [`CHUNK_BYTES`], fewer at the end, none after it.
    pub(super) async fn chunk(&mut self) -> Result<Vec<Bytes>, WriteError> {
        let mut pieces = Pieces::default();
        while pieces.bytes < CHUNK_BYTES {
            if self.rest.is_empty() && !self.refill().await? {
                break;
            }
            let room = CHUNK_BYTES - pieces.bytes;
            pieces.push(self.rest.split_to(room.min(self.rest.len())));
        }
        Ok(pieces.finish())
    }

    async fn refill(&mut self) -> Result<bool, WriteError> {
        while self.rest.is_empty() && !self.ended {
            match self.source.next().await.map_err(WriteError::Source)? {
                Some(bytes) => self.rest = bytes,
                None => self.ended = true,
            }
            self.taken_bytes += self.rest.len() as u64;
            if PUT_BYTES_MAX < self.taken_bytes {
                return Err(WriteError::TooLarge);
            }
        }
        Ok(!self.rest.is_empty())
    }
}

/// Pieces of a chunk; small ones are joined.
#[derive(Default)]
struct Pieces {
    whole: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if piece.len() < PIECE_BYTES_MIN {
            self.tail.extend_from_slice(&piece);
            return;
        }
        self.close_tail();
        self.whole.push(piece);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push(self.tail.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close_tail();
        self.whole
    }
}
