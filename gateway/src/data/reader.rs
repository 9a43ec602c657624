//! Reading a body: chunks from the nodes that hold them, in order, a few ahead.
//!
//! Each chunk is asked of the replica with the shortest queue, of the next one on an error, and of one more when
//! the answer takes long. The stream yields exactly the bytes of its range or ends with an error.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::ReadGuard;
use consensus::meta::model::Extent;
use consensus::meta::query::{BodyView, Piece};
use fabric::coding::Coding;
use fabric::env::TaskHandle;
use fabric::ids::{ChunkId, NodeId};
use fabric::limits::{CHUNK_DEADLINE, EXTENT_CHUNKS_MAX};
use fabric::placement::Layout;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use storage::client::ChunkError;
use tokio::sync::oneshot;

use super::Data;
use super::budget::Held;
use super::frames::{BodyKey, Opener};
use super::writer::{Source, SourceError};

/// Stripes of one body that are fetched or wait to be sent; of whole copies each is a chunk.
const READ_AHEAD_STRIPES: usize = 4;
/// What is fetched ahead leaves half of the budget free, and a whole chunk a quarter: however many read slowly, there
/// is something left for another one's next step.
const AHEAD_LEAVES: usize = 2;
const WHOLE_LEAVES: usize = 4;
/// Where the budget is short a body goes on in steps of this size, so that many slow readers still move.
const SCARCE_STEP_BYTES: u32 = 128 << 10;
/// How long a body waits for its share when the budget is short.
const SCARCE_PATIENCE: Duration = Duration::from_secs(30);
/// Pause before all replicas are asked once more.
const SECOND_ROUND_PAUSE: Duration = Duration::from_millis(300);

/// Why a body could not be read (to its end).
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The buffers of this gateway are taken; later is better.
    #[error("the gateway is overloaded")]
    Overloaded,
    /// No replica gave the bytes.
    #[error("chunk {0} cannot be read: {1}")]
    Unavailable(ChunkId, String),
    /// A frame of an encrypted body is not what was encrypted.
    #[error("frame {0} of the encrypted body does not open")]
    Forged(u32),
    /// The rows do not describe the range that was asked for.
    #[error("the body is not what its rows say: {0}")]
    Inconsistent(&'static str),
}

/// The bytes of a range, in order. Holds its read open as long as it lives.
pub struct BodyStream {
    data: Data,
    plan: Plan,
    ahead: VecDeque<Fetch>,
    /// Decrypts what is fetched, where the body is encrypted.
    opener: Option<Opener>,
    /// What [`BodyStream::start`] waited for.
    first: Option<Result<Bytes, ReadError>>,
    failed: bool,
    guard: ReadGuard,
}

impl Data {
    /// Reads bytes `range` of a body as it is stored: of an encrypted one that is ciphertext. Take `guard` before the query
    /// that gave `body`.
    pub fn read_stored(&self, body: BodyView, range: Range<u64>, guard: ReadGuard) -> BodyStream {
        let (first, plan) = match body {
            BodyView::Pieces(pieces) => (None, Plan::new(pieces, range)),
            BodyView::Inline(payload) => (inline(payload, &range), Plan::new(Vec::new(), 0..0)),
            // There is nothing to plan with; a range that is not empty ends in an error.
            BodyView::NotAsked => (None, Plan::new(Vec::new(), range)),
        };
        BodyStream {
            data: self.clone(),
            plan,
            ahead: VecDeque::new(),
            opener: None,
            first,
            failed: false,
            guard,
        }
    }

    /// Reads bytes `range` of an encrypted body.
    pub fn open(&self, body: BodyView, key: &BodyKey, range: Range<u64>, guard: ReadGuard) -> BodyStream {
        match Opener::new(key, &body, range) {
            Ok((mut opener, stored)) => {
                let mut stream = self.read_stored(body, stored, guard);
                match stream.first.take() {
                    Some(Ok(payload)) => opener.feed(payload),
                    first => stream.first = first,
                }
                BodyStream { opener: Some(opener), ..stream }
            }
            Err(error) => {
                BodyStream { first: Some(Err(error)), ..self.read_stored(BodyView::NotAsked, 0..0, guard) }
            }
        }
    }
}

fn inline(payload: Bytes, range: &Range<u64>) -> Option<Result<Bytes, ReadError>> {
    let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    match bounds {
        Some((start, end)) if start == end => None,
        Some((start, end)) if start < end && end <= payload.len() => Some(Ok(payload.slice(start..end))),
        _ => Some(Err(ReadError::Inconsistent("the range ends after the payload"))),
    }
}

impl BodyStream {
    /// Waits for the first bytes, so that a failure can still be told in the status of a reply.
    pub async fn start(&mut self) -> Result<(), ReadError> {
        if self.first.is_none() {
            self.first = StreamExt::next(self).await;
        }
        match &self.first {
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Starts fetches: the first waits for its share of the budget (a small one where the budget is short), those
    /// ahead only take what is free.
    fn fetch_ahead(&mut self) -> Result<(), ReadError> {
        while let Some(mut step) = self.plan.peek()? {
            if READ_AHEAD_STRIPES * step.extent.coding().data() <= self.ahead.len() {
                return Ok(());
            }
            if self.guard.is_lost() {
                let why = "too many reads last too long".to_string();
                return Err(ReadError::Unavailable(step.chunk, why));
            }
            let part = if self.ahead.is_empty() { WHOLE_LEAVES } else { AHEAD_LEAVES };
            let held = self.data.reads.try_take_leaving(step.whole_bytes as usize, part);
            if held.is_none() {
                if !self.ahead.is_empty() {
                    return Ok(());
                }
                step.bytes = step.bytes.min(SCARCE_STEP_BYTES);
            }
            self.plan.advance(&step);
            self.ahead.push_back(Fetch::start(self.data.clone(), step, held));
        }
        Ok(())
    }
}

impl BodyStream {
    /// The next bytes as clients know them.
    fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        loop {
            match self.opener.as_mut().map(Opener::next).transpose() {
                Ok(None) => return self.poll_stored(cx),
                Ok(Some(Some(plain))) => return Poll::Ready(Some(Ok(plain))),
                Ok(Some(None)) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            let stored = ready!(self.poll_stored(cx));
            match (stored, &mut self.opener) {
                (Some(Ok(stored)), Some(opener)) => opener.feed(stored),
                (None, Some(opener)) if !opener.is_done() => {
                    let why = ReadError::Inconsistent("the encrypted body ends before the range");
                    return Poll::Ready(Some(Err(why)));
                }
                (other, _) => return Poll::Ready(other),
            }
        }
    }

    /// The next bytes as they are stored.
    fn poll_stored(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        let item = match self.fetch_ahead() {
            Err(error) => Err(error),
            Ok(()) => match self.ahead.front_mut() {
                None => return Poll::Ready(None),
                Some(fetch) => ready!(fetch.poll(cx)),
            },
        };
        self.ahead.pop_front();
        Poll::Ready(Some(item))
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.failed {
            return Poll::Ready(None);
        }
        let item = match this.first.take() {
            Some(first) => Some(first),
            None => ready!(this.poll_plain(cx)),
        };
        if let Some(Err(_)) = &item {
            this.failed = true;
            this.ahead.clear();
        }
        Poll::Ready(item)
    }
}

/// A body that is read can be the source of one that is written.
#[async_trait]
impl Source for BodyStream {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        match StreamExt::next(self).await {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(error)) => Err(Box::new(error)),
            None => Ok(None),
        }
    }
}

/// What is left to fetch, cut at the borders of chunks.
struct Plan {
    pieces: std::vec::IntoIter<Piece>,
    /// The piece under way: its extent, the next byte and the end within it.
    run: Option<(Extent, Range<u64>)>,
    skip: u64,
    left: u64,
}

/// A part of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) extent: Extent,
    pub(super) chunk: ChunkId,
    /// Bytes of the whole chunk.
    whole_bytes: u32,
    offset: u32,
    bytes: u32,
}

impl Plan {
    fn new(pieces: Vec<Piece>, range: Range<u64>) -> Plan {
        let left = range.end.saturating_sub(range.start);
        Plan { pieces: pieces.into_iter(), run: None, skip: range.start, left }
    }

    fn peek(&mut self) -> Result<Option<Step>, ReadError> {
        while 0 < self.left {
            if let Some((extent, run)) = &self.run
                && run.start < run.end
            {
                return step(extent, run, self.left).map(Some);
            }
            let piece =
                self.pieces.next().ok_or(ReadError::Inconsistent("the pieces end before the range"))?;
            if piece.bytes <= self.skip {
                self.skip -= piece.bytes;
                continue;
            }
            let end = piece.offset.checked_add(piece.bytes).filter(|&end| end <= piece.extent.bytes);
            let end = end.ok_or(ReadError::Inconsistent("a piece ends after its extent"))?;
            self.run = Some((piece.extent, piece.offset + self.skip..end));
            self.skip = 0;
        }
        Ok(None)
    }

    fn advance(&mut self, step: &Step) {
        self.left -= u64::from(step.bytes);
        if let Some((_, run)) = &mut self.run {
            run.start += u64::from(step.bytes);
        }
    }
}

/// The part of `run` that lies in its first chunk, at most `left` bytes.
fn step(extent: &Extent, run: &Range<u64>, left: u64) -> Result<Step, ReadError> {
    let spread = extent.spread();
    let (shard, stripe, begins) = spread.chunk_with(run.start);
    if extent.chunk_bytes == 0 || EXTENT_CHUNKS_MAX <= stripe {
        return Err(ReadError::Inconsistent("the extent has too many chunks"));
    }
    let whole_bytes = spread.bytes_of(shard, stripe);
    let offset = run.start - begins;
    let bytes = (whole_bytes - offset).min(run.end - run.start).min(left);
    // All are at most `chunk_bytes`, which has 32 bits.
    Ok(Step {
        chunk: extent.id.shard(shard, stripe as u32),
        whole_bytes: whole_bytes as u32,
        offset: offset as u32,
        bytes: bytes as u32,
        extent: extent.clone(),
    })
}

/// A step under way in a task of its own, which ends with this.
struct Fetch {
    reply: oneshot::Receiver<Result<Bytes, ReadError>>,
    task: TaskHandle,
    chunk: ChunkId,
}

impl Fetch {
    fn start(data: Data, step: Step, held: Option<Held>) -> Fetch {
        let (sender, reply) = oneshot::channel();
        let (env, chunk) = (data.env.clone(), step.chunk);
        let task = env.spawn(
            "read chunk",
            Box::pin(async move {
                // Nobody listens any more when the reader is gone: fine.
                let _ = sender.send(data.fetch(step, held).await);
            }),
        );
        Fetch { reply, task, chunk }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ReadError>> {
        let reply = ready!(Pin::new(&mut self.reply).poll(cx));
        let gone = || Err(ReadError::Unavailable(self.chunk, "its task ended".to_string()));
        Poll::Ready(reply.unwrap_or_else(|_| gone()))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Data {
    /// Fetches a step. With a hold for the whole chunk more than the step may be read; without one, only its bytes.
    async fn fetch(&self, step: Step, held: Option<Held>) -> Result<Bytes, ReadError> {
        let (held, room_for_all) = match held {
            Some(held) => (held, true),
            None => {
                let taking = self.reads.take(step.bytes as usize, SCARCE_PATIENCE);
                (taking.await.map_err(|_| ReadError::Overloaded)?, step.bytes == step.whole_bytes)
            }
        };
        let part = step.offset as usize..(step.offset + step.bytes) as usize;
        if let Some(whole) = self.cache.get(step.chunk) {
            return Ok(held.attach(whole).slice(part));
        }
        let is_whole = step.bytes == step.whole_bytes;
        let read_all = || room_for_all && self.cache.wanted_before(step.chunk, step.whole_bytes as usize);
        if !is_whole && !read_all() {
            let bytes = self.fetch_part(&step, step.offset, step.bytes).await?;
            return Ok(held.attach(bytes));
        }
        let whole = self.fetch_part(&step, 0, step.whole_bytes).await?;
        self.cache.put(step.chunk, &whole);
        Ok(held.attach(whole).slice(part))
    }

    async fn fetch_part(&self, step: &Step, offset: u32, bytes: u32) -> Result<Bytes, ReadError> {
        match step.extent.coding() {
            Coding::Whole => self.fetch_from_any(step, offset, bytes).await,
            _ => self.fetch_shard(step, offset, bytes).await,
        }
    }

    /// Asks the nodes of the extent's layout; then, as the extent may have moved, those of the newest as well.
    async fn fetch_from_any(&self, step: &Step, offset: u32, bytes: u32) -> Result<Bytes, ReadError> {
        let fail = |why: String| ReadError::Unavailable(step.chunk, why);
        let mut replicas = match self.layouts.version(step.extent.layout).await {
            Ok(layout) => self.replicas(step, &layout),
            Err(error) => {
                tracing::debug!(%error, "the layout of an extent is unknown");
                Vec::new()
            }
        };
        if let Ok(chunk) = self.fetch_hedged(&replicas, step.chunk, offset, bytes).await {
            return Ok(chunk);
        }
        tokio::time::sleep(SECOND_ROUND_PAUSE).await;
        let newest = self.layouts.newest().await.map_err(|error| fail(error.to_string()))?;
        for &node in Coding::Whole.holders(newest.owners_of(step.extent.id)) {
            if !replicas.contains(&node) {
                replicas.push(node);
            }
        }
        let fetched = self.fetch_hedged(&replicas, step.chunk, offset, bytes).await;
        fetched.map_err(|error| fail(error.map_or("no node owns it".to_string(), |error| error.to_string())))
    }

    /// Owners of the chunk in the order in which they should be asked: confirmed copies before others, healthy
    /// nodes before others, short queues before long ones. Equal ones take turns by chunk.
    fn replicas(&self, step: &Step, layout: &Layout) -> Vec<NodeId> {
        let owners = Coding::Whole.holders(layout.owners_of(step.extent.id));
        let turn = step.chunk.ordinal() as usize + usize::from(step.extent.id.hash());
        let mut ranked: Vec<_> = owners
            .iter()
            .enumerate()
            .map(|(index, &node)| {
                let confirmed = step.extent.confirmed >> index & 1 == 1;
                (!confirmed, self.nodes.read_rank(node), (index + turn) % owners.len(), node)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., node)| node).collect()
    }

    /// Asks one replica after the other: the next one on an error, or when the answer takes long.
    pub(super) async fn fetch_hedged(
        &self,
        replicas: &[NodeId],
        chunk: ChunkId,
        offset: u32,
        bytes: u32,
    ) -> Result<Bytes, Option<ChunkError>> {
        let mut attempts = FuturesUnordered::new();
        let mut next = replicas.iter().copied();
        let mut last_error = None;
        let mut hedge_delay = Duration::ZERO;
        loop {
            if attempts.is_empty() {
                let Some(node) = next.next() else {
                    return Err(last_error);
                };
                hedge_delay = self.nodes.hedge_delay(node);
                attempts.push(self.fetch_from(node, chunk, offset, bytes));
            }
            tokio::select! {
                biased;
                Some(outcome) = attempts.next() => match outcome {
                    Ok(chunk) => return Ok(chunk),
                    Err(error) => {
                        tracing::debug!(%error, %chunk, "a replica did not serve");
                        last_error = Some(error);
                    }
                },
                () = tokio::time::sleep(hedge_delay), if 0 < next.len() => {
                    if let Some(node) = next.next() {
                        metrics::counter!("fluffy_read_hedges_total").increment(1);
                        hedge_delay = self.nodes.hedge_delay(node);
                        attempts.push(self.fetch_from(node, chunk, offset, bytes));
                    }
                }
            }
        }
    }

    async fn fetch_from(
        &self,
        node: NodeId,
        chunk: ChunkId,
        offset: u32,
        bytes: u32,
    ) -> Result<Bytes, ChunkError> {
        let call = self.nodes.call(node);
        let getting = self.chunks.get(node, chunk, offset, bytes);
        let outcome = match tokio::time::timeout(CHUNK_DEADLINE, getting).await {
            Ok(Ok(found)) if found.len() == bytes as usize => Ok(found),
            Ok(Ok(found)) => {
                Err(ChunkError::Unavailable(node, format!("{} of {bytes} bytes came", found.len())))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ChunkError::Unavailable(node, "no reply in time".to_string())),
        };
        call.finish(&outcome);
        outcome
    }
}
