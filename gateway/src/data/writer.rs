//! Writing a body: inline bytes, or chunks that nobody can see until a command names their extent.
//!
//! If the write stops in between, the guard is dropped and garbage collection removes the chunks.

use bytes::{Bytes, BytesMut};
use consensus::client::WriteGuard;
use consensus::meta::command::NewBody;
use consensus::meta::model::{Attributes, Home};
use consensus::meta::names::{BucketName, ObjectKey};
use consensus::meta::sealing::sealed_bytes;
use fabric::coding::Coding;
use fabric::ids::{BucketId, ExtentId, NodeId, Stamp};
use fabric::limits::{CHUNK_BYTES, INLINE_BYTES_MAX, PUT_BYTES_MAX};
use fabric::placement::Layout;
use std::time::Duration;

use async_trait::async_trait;
use storage::origin::{ChunkOrigin, describe};

use super::Data;
use super::frames::{BodyKey, CHUNK_PLAIN_BYTES, DataKey, KeyUse, Sealer};
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
    /// How the body is encrypted, if it is.
    pub seal: Option<Seal>,
    /// How it is to be stored.
    pub class: Class,
}

/// How a body is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// As whole copies.
    Copies,
    /// As shards of an erasure code, where there are enough nodes for one now; else as whole copies.
    Shards,
}

/// How a body is encrypted.
#[derive(Debug, Clone)]
pub struct Seal {
    /// The data key, of this body alone or of the upload of this part.
    pub key: DataKey,
    /// The same for who finds the chunks: [`consensus::meta::sealing::Sealing::encode`].
    pub sealing: Bytes,
}

impl Target {
    fn body_key(&self) -> Option<BodyKey> {
        let used = if self.part.is_some() { KeyUse::Parts } else { KeyUse::Whole };
        self.seal.as_ref().map(|seal| BodyKey { key: seal.key.clone(), used })
    }
}

/// A body that is ready to be named by a command.
pub struct Written {
    /// For the command; encrypted where its target says so. A part of no bytes is [`NewBody::Inline`] with no bytes.
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
        let key = target.body_key();
        let mut input = Input::new(source, known_length, key.is_some(), target.class);
        let held = self.writes.take(input.next_chunk_bytes_max(), ADMISSION_PATIENCE).await;
        let held = held.map_err(|_| WriteError::Overloaded)?;
        let first = input.plain_chunk().await?;

        let bytes: usize = first.iter().map(Bytes::len).sum();
        let may_be_inline =
            input.stored_bytes(bytes as u64) <= INLINE_BYTES_MAX as u64 && target.part.is_none();
        if bytes == 0 || (may_be_inline && !self.inline.is_full().await) {
            input.sealer = key.map(|key| Sealer::new(&key, None));
            return Ok(Written { body: NewBody::Inline(join(input.seal(first))), guard: None });
        }

        let guard = self.meta.begin_write().await.map_err(unavailable)?;
        let layout = self.layouts.newest().await.map_err(unavailable)?;
        let home = Home { bucket: target.bucket, key: target.key.clone() };
        let extent = self.draw_extent(&guard, &layout, target.class);
        guard.writes(home.clone(), extent);
        input.sealer = key.map(|key| Sealer::new(&key, Some(extent)));
        let origin = origin(target, known_length.map(|length| input.stored_bytes(length)));
        let first = input.seal(first);
        let first_bytes = first.iter().map(Bytes::len).sum::<usize>() as u64;
        let mut transfer = Transfer::new(self, &layout, extent, origin.clone(), first_bytes);
        transfer.send(first, held);
        let mut outcome = transfer.run(&mut input, &guard).await;
        // Where too few nodes take shards, there may be enough for copies: as long as nothing that was sent is gone.
        let copies = extent.coded(Coding::Whole);
        if matches!(outcome, Err(WriteError::Unavailable(_) | WriteError::Full))
            && extent != copies
            && let Some(sent) = transfer.into_sent()
        {
            metrics::counter!("fluffy_shards_given_up_total").increment(1);
            guard.writes(home, copies);
            let mut transfer = Transfer::new(self, &layout, copies, origin, first_bytes);
            sent.into_iter().for_each(|(pieces, held)| transfer.send(pieces, held));
            outcome = transfer.run(&mut input, &guard).await;
        }
        Ok(Written { body: NewBody::Extent(outcome?), guard: Some(guard) })
    }

    /// Chooses a partition at random, preferring one whose owners are all believed to take writes. Where too few of them
    /// are for shards, it will be whole copies.
    fn draw_extent(&self, guard: &WriteGuard, layout: &Layout, class: Class) -> ExtentId {
        let draw = || {
            let mut hash = [0; 2];
            self.env.random(&mut hash);
            let extent = guard.extent(u16::from_be_bytes(hash));
            match class {
                Class::Copies => extent,
                Class::Shards => extent.coded(Coding::widest(layout.owners_of(extent).len())),
            }
        };
        let takes_writes = |node: &NodeId| self.nodes.takes_writes(*node);
        let coding = |extent: ExtentId| extent.coding().unwrap_or(Coding::Whole);
        let holders = |extent: ExtentId| coding(extent).holders(layout.owners_of(extent));
        let healthy = |extent: &ExtentId| holders(*extent).iter().all(takes_writes);
        let extent = (1..PARTITION_DRAWS).map(|_| draw()).find(healthy).unwrap_or_else(draw);
        let there = holders(extent).iter().filter(|node| takes_writes(node)).count();
        let enough = coding(extent).data() < there;
        if enough { extent } else { extent.coded(Coding::Whole) }
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
        wrapped_key: target.seal.map(|seal| seal.sealing),
    }
}

pub(super) fn join(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 => Bytes::new(),
        1 => pieces.remove(0),
        _ => Bytes::from(pieces.concat()),
    }
}

/// A source cut into chunks, and encrypted chunk by chunk.
pub(super) struct Input<'a> {
    source: &'a mut dyn Source,
    known_length: Option<u64>,
    /// Bytes that were taken from the source and belong to the next chunk.
    rest: Bytes,
    taken_bytes: u64,
    ended: bool,
    class: Class,
    /// Whether chunks will be encrypted …
    sealing: bool,
    /// … and by what; known once the extent is.
    sealer: Option<Sealer>,
}

impl<'a> Input<'a> {
    fn new(source: &'a mut dyn Source, known_length: Option<u64>, sealing: bool, class: Class) -> Input<'a> {
        Input {
            source,
            known_length,
            rest: Bytes::new(),
            taken_bytes: 0,
            ended: false,
            class,
            sealing,
            sealer: None,
        }
    }

    /// Bytes that so many take where they are stored.
    fn stored_bytes(&self, bytes: u64) -> u64 {
        if self.sealing { sealed_bytes(bytes) } else { bytes }
    }

    /// Whether the source ended, and all that came was given out.
    fn is_at_its_end(&self) -> bool {
        self.ended && self.rest.is_empty()
    }

    /// Bytes the next chunk can have, with the parity that is made of it; what to reserve for it.
    pub(super) fn next_chunk_bytes_max(&self) -> usize {
        let used = self.taken_bytes - self.rest.len() as u64;
        let left = self.known_length.map_or(u64::MAX, |length| length.saturating_sub(used));
        let most = if self.sealing { CHUNK_PLAIN_BYTES } else { CHUNK_BYTES };
        let bytes = self.stored_bytes(left.min(most as u64)) as usize;
        // Both codings have half as much parity as data.
        if self.class == Class::Shards { bytes / 2 * 3 } else { bytes }
    }

    /// The next chunk in pieces as it is stored: [`CHUNK_BYTES`], fewer at the end, none after it.
    pub(super) async fn chunk(&mut self) -> Result<Vec<Bytes>, WriteError> {
        let pieces = self.plain_chunk().await?;
        Ok(self.seal(pieces))
    }

    /// The next chunk before it is encrypted. Then, whether it is the last one is known with it.
    async fn plain_chunk(&mut self) -> Result<Vec<Bytes>, WriteError> {
        let most = if self.sealing { CHUNK_PLAIN_BYTES } else { CHUNK_BYTES };
        let mut pieces = Pieces::default();
        while pieces.bytes < most {
            if self.rest.is_empty() && !self.refill().await? {
                break;
            }
            let room = most - pieces.bytes;
            pieces.push(self.rest.split_to(room.min(self.rest.len())));
        }
        if self.sealing {
            self.refill().await?;
        }
        Ok(pieces.finish())
    }

    /// Encrypts what [`Input::plain_chunk`] gave last.
    fn seal(&mut self, pieces: Vec<Bytes>) -> Vec<Bytes> {
        let last = self.is_at_its_end();
        match &mut self.sealer {
            Some(sealer) if !pieces.is_empty() => vec![sealer.seal(pieces, last)],
            Some(_) | None => pieces,
        }
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
