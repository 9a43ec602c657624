//! One extent on its way to its nodes.
//!
//! Each stripe goes to all owners that take part, in parallel, while the next one arrives: of whole copies a stripe is one
//! chunk, the same for all, of shards each owner gets its own chunk. A stripe is *durable* once as many owners as a commit
//! needs acknowledged it; it stays buffered until the slower owners have it, too, within bounds. An owner that fails or falls too far behind is left out: it remembers what it missed. If too few owners
//! remain, one that was left out is tried again, and at the end it is fed from a node that holds the chunks.
//!
//! What always holds: the mask of a finished transfer names only nodes that acknowledged every chunk of theirs, and any
//! one of them could be lost: they are at least [`COPIES_DURABLE_MIN`] (all, where there are fewer) with whole copies, and
//! one more than there are shards of data.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::client::WriteGuard;
use fabric::coding::{Coding, Spread};
use fabric::env::BoxFuture;
use fabric::ids::{ChunkId, ExtentId, LayoutVersion, NodeId};
use fabric::limits::{CHUNK_DEADLINE, CHUNK_PUT_DEADLINE, COPIES_DURABLE_MIN};
use fabric::placement::Layout;
use futures::StreamExt;
use futures::future::{AbortHandle, abortable};
use futures::stream::FuturesUnordered;
use storage::client::{ChunkError, Chunks};
use storage::origin::ChunkOrigin;

use super::Data;
use super::budget::Held;
use super::nodes::Nodes;
use super::writer::{Input, WriteError, join};
use consensus::meta::model::Extent;

/// Stripes that are not durable yet, of one extent.
const WINDOW_CHUNKS: usize = 4;
/// Stripes that are durable and wait for a slower owner, of one extent.
const LAGGING_CHUNKS: usize = 4;
/// A slower owner may hold the window up, and the end of the write, for as long as the write took so far: so one slow
/// disk or link makes no write take more than twice as long. But for this long at least, since every copy left out is one
/// to be made up for …
const LAG_PATIENCE_MIN: Duration = Duration::from_millis(100);
/// … and no longer than this.
const LAG_PATIENCE_MAX: Duration = Duration::from_secs(1);
/// When nobody acknowledges anything for so long, an owner that was left out is taken back.
const SILENCE_PATIENCE: Duration = Duration::from_millis(500);
/// When that happens so many times on end, shards are given up: a machine that is gone says nothing, and is known to be
/// gone only when its connections are. They become copies, which need fewer nodes …
const SHARD_SILENCES_MAX: u32 = 4;
/// … and where a part of them is out of memory the client has to begin anew, for whom it is worth more patience.
const SHARD_SILENCES_GONE_MAX: u32 = 8;
/// Chunks an owner may have missed and still be fed afterwards.
const FEED_CHUNKS_MAX: usize = 64;
/// How often an owner that was left out is taken back.
const REVIVALS_MAX: u8 = 2;
/// Pauses before a put is tried again on the same node.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

pub(super) struct Transfer<'a> {
    data: &'a Data,
    extent: ExtentId,
    coding: Coding,
    chunk_bytes: u32,
    layout: LayoutVersion,
    origin: ChunkOrigin,
    /// In the order of the layout: the index is the bit in the mask, and where there are shards the shard.
    owners: Vec<Owner>,
    /// Owners that must hold every chunk of theirs.
    required: usize,
    /// Stripes that some owner has still to acknowledge, by ordinal.
    pending: BTreeMap<u32, Pending>,
    puts: FuturesUnordered<BoxFuture<Put>>,
    /// When it began (monotonic).
    began: Duration,
    stripes_sent: u32,
    bytes_sent: u64,
    /// How often on end nobody acknowledged anything for [`SILENCE_PATIENCE`].
    silences: u32,
}

struct Owner {
    node: NodeId,
    /// Whether new chunks are sent to it.
    active: bool,
    full: bool,
    /// Why it lacks what it missed last.
    last_error: Option<ChunkError>,
    revivals: u8,
    /// Ordinals of the chunks it does not hold, ascending enough; more than [`FEED_CHUNKS_MAX`] are not counted exactly.
    missed: Vec<u32>,
}

struct Pending {
    /// The bytes of the body.
    pieces: Vec<Bytes>,
    /// The chunks of the owners, where each has its own.
    shards: Vec<Bytes>,
    /// Owners that acknowledged it.
    stored: usize,
    /// Owners that have still to answer.
    open: BTreeMap<usize, AbortHandle>,
    held: Held,
}

/// How a put ended; `None` when it was given up.
struct Put {
    owner: usize,
    ordinal: u32,
    outcome: Option<Result<(), ChunkError>>,
}

impl<'a> Transfer<'a> {
    /// `first_bytes`: how many the first stripe will have.
    pub(super) fn new(
        data: &'a Data,
        layout: &Layout,
        extent: ExtentId,
        origin: ChunkOrigin,
        first_bytes: u64,
    ) -> Transfer<'a> {
        let owner = |&node: &NodeId| {
            let active = data.nodes.takes_writes(node);
            Owner { node, active, full: false, last_error: None, revivals: 0, missed: Vec::new() }
        };
        let coding = extent.coding().unwrap_or(Coding::Whole);
        let mut owners: Vec<Owner> = coding.holders(layout.owners_of(extent)).iter().map(owner).collect();
        let required = match coding {
            _ if data.env.armed("commit_one_copy") => 1,
            Coding::Whole => COPIES_DURABLE_MIN.min(owners.len()),
            _ => coding.data() + 1,
        };
        // Beliefs only choose among enough nodes; where there are too few good ones, the others are tried, too.
        let good = owners.iter().filter(|owner| owner.active).count();
        owners.iter_mut().filter(|owner| !owner.active).take(required.saturating_sub(good)).for_each(
            |owner| {
                owner.active = true;
            },
        );
        Transfer {
            data,
            extent,
            coding,
            chunk_bytes: coding.chunk_bytes(first_bytes),
            layout: layout.version,
            origin,
            owners,
            required,
            pending: BTreeMap::new(),
            puts: FuturesUnordered::new(),
            began: data.env.monotonic(),
            stripes_sent: 0,
            bytes_sent: 0,
            silences: 0,
        }
    }

    /// Sends everything that is left in `input` and waits until enough owners hold all of it.
    pub(super) async fn run(
        &mut self,
        input: &mut Input<'_>,
        guard: &WriteGuard,
    ) -> Result<Extent, WriteError> {
        loop {
            if guard.is_lost() {
                return Err(WriteError::Unavailable("too many writes last too long".to_string()));
            }
            self.make_room().await?;
            let writes = self.data.writes.clone();
            // It was admitted: from now on a store that is busy slows it down.
            let (held, going) =
                self.drive(writes.take(input.next_chunk_bytes_max(), CHUNK_PUT_DEADLINE)).await?;
            going?;
            let held = held.map_err(|_| WriteError::Overloaded)?;
            let (pieces, going) = self.drive(input.chunk()).await?;
            let pieces = pieces?;
            if pieces.is_empty() {
                going?;
                break;
            }
            self.add(pieces, held);
            going?;
            self.send_last();
        }
        if self.data.env.armed("commit_before_chunks") {
            self.pending.clear(); // Planted: a commit that waits for no chunk.
            return Ok(self.finished());
        }
        self.settle().await?;
        if self.complete() < self.required {
            self.feed().await?;
        }
        Ok(self.finished())
    }

    /// All that was sent, where all of it is still buffered: another transfer can begin with it.
    pub(super) fn into_sent(self) -> Option<Vec<(Vec<Bytes>, Held)>> {
        let all = self.holds_all();
        let sent = self.pending.into_values().map(|Pending { pieces, held, .. }| (pieces, held));
        all.then(|| sent.collect())
    }

    fn holds_all(&self) -> bool {
        self.pending.len() == self.stripes_sent as usize
    }

    /// Whether another transfer can make copies of the same bytes, which need fewer nodes.
    fn can_become_copies(&self) -> bool {
        self.coding != Coding::Whole && self.holds_all()
    }

    /// Starts a stripe on its way to the active owners.
    pub(super) fn send(&mut self, pieces: Vec<Bytes>, held: Held) {
        self.add(pieces, held);
        self.send_last();
    }

    /// Takes the next stripe.
    fn add(&mut self, pieces: Vec<Bytes>, held: Held) {
        let ordinal = self.stripes_sent;
        self.stripes_sent += 1;
        self.bytes_sent += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let (pieces, shards) = self.cut(pieces);
        self.pending.insert(ordinal, Pending { pieces, shards, stored: 0, open: BTreeMap::new(), held });
    }

    fn send_last(&mut self) {
        let ordinal = self.stripes_sent - 1;
        for owner in 0..self.owners.len() {
            if self.owners[owner].active || self.spread().bytes_of(self.shard_of(owner), ordinal.into()) == 0
            {
                self.put(owner, ordinal);
            } else {
                self.owners[owner].miss(ordinal);
            }
        }
    }

    /// The bytes of a stripe, and the shards that they become.
    fn cut(&self, pieces: Vec<Bytes>) -> (Vec<Bytes>, Vec<Bytes>) {
        if self.coding == Coding::Whole {
            return (pieces, Vec::new());
        }
        let stripe = join(pieces);
        let shards = self.coding.shards_of(stripe.clone(), self.chunk_bytes as usize);
        (vec![stripe], shards)
    }

    fn spread(&self) -> Spread {
        Spread { id: self.extent, bytes: self.bytes_sent, chunk_bytes: self.chunk_bytes }
    }

    fn shard_of(&self, owner: usize) -> usize {
        if self.coding == Coding::Whole { 0 } else { owner }
    }

    fn put(&mut self, owner: usize, ordinal: u32) {
        let shard = self.shard_of(owner);
        let Some(pending) = self.pending.get_mut(&ordinal) else {
            return;
        };
        let pieces = match pending.shards.get(shard) {
            None => pending.pieces.clone(),
            // The end of a short stripe: there is nothing to store.
            Some(shard) if shard.is_empty() => {
                pending.stored += 1;
                return;
            }
            Some(shard) => vec![shard.clone()],
        };
        let origin = (ordinal == 0).then(|| self.origin.clone());
        let put = put_chunk(
            self.data.nodes.clone(),
            self.data.chunks.clone(),
            self.owners[owner].node,
            self.extent.shard(shard, ordinal),
            pieces,
            origin,
        );
        let (put, abort) = abortable(put);
        pending.open.insert(owner, abort);
        self.puts.push(Box::pin(async move { Put { owner, ordinal, outcome: put.await.ok() } }));
    }

    /// Does `work` while puts go on; returns with it whether they do. Where shards cannot go on the work is done all the
    /// same: what it gives goes into whole copies.
    async fn drive<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<(T, Result<(), WriteError>), WriteError> {
        let mut work = pin!(work);
        let mut going = Ok(());
        loop {
            tokio::select! {
                biased;
                Some(put) = self.puts.next(), if !self.puts.is_empty() => {
                    let noted = self.note(put);
                    if self.coding == Coding::Whole {
                        noted?;
                    } else {
                        going = going.and(noted);
                    }
                }
                done = &mut work => return Ok((done, going)),
            }
        }
    }

    /// Waits until the window takes another stripe. Owners that hold it up too long are left out.
    async fn make_room(&mut self) -> Result<(), WriteError> {
        while WINDOW_CHUNKS <= self.undurable() {
            self.next_put().await?;
        }
        let full = |transfer: &Transfer<'_>| LAGGING_CHUNKS <= transfer.pending.len() - transfer.undurable();
        self.wait_while(full).await
    }

    /// Waits until every chunk is durable, and a little for the slower owners.
    async fn settle(&mut self) -> Result<(), WriteError> {
        while 0 < self.undurable() {
            self.next_put().await?;
        }
        self.wait_while(|transfer| !transfer.pending.is_empty()).await
    }

    /// Waits for slower owners while `held_up`, with patience; then leaves them out.
    async fn wait_while(&mut self, held_up: impl Fn(&Transfer<'_>) -> bool) -> Result<(), WriteError> {
        let taken = self.data.env.monotonic().saturating_sub(self.began);
        let patience = taken.clamp(LAG_PATIENCE_MIN, LAG_PATIENCE_MAX);
        let mut end = pin!(tokio::time::sleep(patience));
        while held_up(self) {
            let trusted = |owner: &usize| self.data.nodes.healthy(self.owners[*owner].node);
            if !self.laggards().iter().any(trusted) {
                self.leave_laggards();
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(put) = self.puts.next(), if !self.puts.is_empty() => self.note(put)?,
                () = &mut end => {
                    if patience == LAG_PATIENCE_MAX {
                        // Otherwise only calls given up again and again count against it.
                        self.laggards().iter().for_each(|owner| self.data.nodes.note_slow(self.owners[*owner].node));
                    }
                    self.leave_laggards();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn next_put(&mut self) -> Result<(), WriteError> {
        match tokio::time::timeout(SILENCE_PATIENCE, self.puts.next()).await {
            Ok(Some(put)) => {
                self.silences = 0;
                self.note(put)
            }
            // Every chunk has an open put until it is durable, see `ensure_enough`.
            Ok(None) => Err(WriteError::Unavailable("no node is left to answer".to_string())),
            Err(_) => {
                // What was believed of it may be out of date, and those that are needed are silent.
                self.spare().into_iter().for_each(|owner| self.revive(owner));
                self.silences += 1;
                let most =
                    if self.can_become_copies() { SHARD_SILENCES_MAX } else { SHARD_SILENCES_GONE_MAX };
                match self.coding != Coding::Whole && most <= self.silences {
                    true => Err(self.give_up_silent()),
                    false => Ok(()),
                }
            }
        }
    }

    /// Those that have to take shards say nothing: the next writes do not count on them.
    fn give_up_silent(&self) -> WriteError {
        let silent: BTreeSet<usize> =
            self.pending.values().flat_map(|pending| pending.open.keys().copied()).collect();
        silent.iter().for_each(|&owner| self.data.nodes.note_slow(self.owners[owner].node));
        WriteError::Unavailable(format!("{} nodes that have to take shards are silent", silent.len()))
    }

    /// Owners that have not answered for a chunk that is durable.
    fn laggards(&self) -> Vec<usize> {
        let durable = self.pending.values().filter(|pending| self.required <= pending.stored);
        let mut owners: Vec<usize> = durable.flat_map(|pending| pending.open.keys().copied()).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    fn leave_laggards(&mut self) {
        self.laggards().into_iter().for_each(|owner| self.leave(owner));
    }

    /// Sends no more to an owner and gives up what it has not acknowledged, except where that would leave a chunk
    /// without the copies it needs.
    fn leave(&mut self, owner: usize) {
        self.owners[owner].active = false;
        let required = self.required;
        for (&ordinal, pending) in &mut self.pending {
            if required <= pending.stored
                && let Some(put) = pending.open.remove(&owner)
            {
                put.abort();
                self.owners[owner].miss(ordinal);
            }
        }
        self.release_done();
    }

    fn note(&mut self, put: Put) -> Result<(), WriteError> {
        let Put { owner, ordinal, outcome: Some(outcome) } = put else {
            return Ok(());
        };
        if let Some(pending) = self.pending.get_mut(&ordinal) {
            pending.open.remove(&owner);
            pending.stored += usize::from(outcome.is_ok());
        }
        if let Err(error) = outcome {
            tracing::debug!(%error, chunk = %self.extent.shard(self.shard_of(owner), ordinal), "a copy is missing");
            self.owners[owner].full |= matches!(error, ChunkError::Full(_));
            self.owners[owner].last_error = Some(error);
            self.owners[owner].miss(ordinal);
            self.leave(owner);
            self.ensure_enough()?;
        }
        self.release_done();
        Ok(())
    }

    fn release_done(&mut self) {
        let required = self.required;
        self.pending.retain(|_, pending| pending.stored < required || !pending.open.is_empty());
    }

    /// Takes owners back that were left out until enough of them get every new chunk, and every buffered chunk can
    /// still become durable. Shards that can become copies do not wait for one that failed.
    fn ensure_enough(&mut self) -> Result<(), WriteError> {
        while self.owners.iter().filter(|owner| owner.active).count() < self.required {
            let owner = self.spare().ok_or_else(|| self.too_few())?;
            let failed = self.owners[owner].last_error.is_some();
            if failed && self.can_become_copies() {
                return Err(self.too_few());
            }
            self.revive(owner);
        }
        Ok(())
    }

    /// An owner that was left out and may be taken back.
    fn spare(&self) -> Option<usize> {
        let spare = |owner: &Owner| {
            !owner.active
                && !owner.full
                && owner.revivals < REVIVALS_MAX
                && owner.missed.len() <= FEED_CHUNKS_MAX
        };
        let candidates = (0..self.owners.len()).filter(|&index| spare(&self.owners[index]));
        candidates.min_by_key(|&index| self.owners[index].revivals)
    }

    fn revive(&mut self, owner: usize) {
        self.owners[owner].active = true;
        self.owners[owner].revivals += 1;
        let missed = std::mem::take(&mut self.owners[owner].missed);
        let (buffered, gone) = missed.into_iter().partition(|ordinal| self.pending.contains_key(ordinal));
        self.owners[owner].missed = gone;
        let buffered: Vec<u32> = buffered;
        for ordinal in buffered {
            self.put(owner, ordinal);
        }
        self.release_done();
    }

    fn too_few(&self) -> WriteError {
        let with_space = self.owners.iter().filter(|owner| !owner.full).count();
        if with_space < self.required {
            return WriteError::Full;
        }
        let reasons =
            self.owners.iter().filter_map(|owner| owner.last_error.as_ref()).map(ToString::to_string);
        let reasons: Vec<String> = reasons.collect();
        let holding = self.complete();
        WriteError::Unavailable(format!(
            "{holding} of {} nodes hold the body: {}",
            self.required,
            reasons.join(", ")
        ))
    }

    fn undurable(&self) -> usize {
        self.pending.values().filter(|pending| pending.stored < self.required).count()
    }

    /// Owners that hold every chunk, once nothing is pending.
    fn complete(&self) -> usize {
        self.owners.iter().filter(|owner| owner.missed.is_empty()).count()
    }

    /// Gives owners what they missed, from one that holds it, until enough of them are complete.
    async fn feed(&mut self) -> Result<(), WriteError> {
        let mut order: Vec<usize> = (0..self.owners.len()).collect();
        order.retain(|&index| (1..=FEED_CHUNKS_MAX).contains(&self.owners[index].missed.len()));
        order.sort_by_key(|&index| (self.owners[index].full, self.owners[index].missed.len()));
        for index in order {
            if self.required <= self.complete() {
                break;
            }
            while let Some(&ordinal) = self.owners[index].missed.last() {
                if !self.feed_chunk(index, ordinal).await {
                    break;
                }
                self.owners[index].missed.pop();
            }
        }
        if self.complete() < self.required { Err(self.too_few()) } else { Ok(()) }
    }

    async fn feed_chunk(&mut self, owner: usize, ordinal: u32) -> bool {
        let shard = self.shard_of(owner);
        let Some(chunk) = self.read_back(shard, ordinal).await else { return false };
        let origin = (ordinal == 0).then(|| self.origin.clone());
        let (nodes, chunks) = (self.data.nodes.clone(), self.data.chunks.clone());
        let id = self.extent.shard(shard, ordinal);
        put_chunk(nodes, chunks, self.owners[owner].node, id, vec![chunk], origin).await.is_ok()
    }

    /// A chunk from owners that hold it, or enough of its stripe.
    async fn read_back(&mut self, wanted: usize, ordinal: u32) -> Option<Bytes> {
        let (spread, stripe) = (self.spread(), u64::from(ordinal));
        let mut found = vec![None; self.coding.shards()];
        for (index, holder) in self.owners.iter().enumerate() {
            let shard = self.shard_of(index);
            let bytes = spread.bytes_of(shard, stripe) as u32;
            if holder.missed.contains(&ordinal) || found.iter().flatten().count() == self.coding.data() {
                continue;
            }
            let getting = self.data.chunks.get(holder.node, self.extent.shard(shard, ordinal), 0, bytes);
            match tokio::time::timeout(CHUNK_DEADLINE, getting).await {
                _ if bytes == 0 => found[shard] = Some(Bytes::new()),
                Ok(Ok(chunk)) => found[shard] = Some(chunk),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let longest = spread.bytes_of(0, stripe) as usize;
        let chunk = self.coding.rebuild(wanted, &found, longest)?;
        Some(chunk.slice(..spread.bytes_of(wanted, stripe) as usize))
    }

    fn finished(&self) -> Extent {
        assert!(self.pending.is_empty() && self.required <= self.complete());
        let complete = self.owners.iter().enumerate().filter(|(_, owner)| owner.missed.is_empty());
        Extent {
            id: self.extent,
            bytes: self.bytes_sent,
            chunk_bytes: self.chunk_bytes,
            layout: self.layout,
            confirmed: complete.fold(0, |mask, (index, _)| mask | 1 << index),
        }
    }
}

impl Owner {
    fn miss(&mut self, ordinal: u32) {
        // One more than can be fed stands for "too many".
        if self.missed.len() <= FEED_CHUNKS_MAX {
            self.missed.push(ordinal);
        }
    }
}

/// Puts a chunk on a node; tries again while the node only could not be reached, and waits while it goes on.
async fn put_chunk(
    nodes: Arc<Nodes>,
    chunks: Arc<dyn Chunks>,
    node: NodeId,
    id: ChunkId,
    pieces: Vec<Bytes>,
    origin: Option<ChunkOrigin>,
) -> Result<(), ChunkError> {
    let late = || ChunkError::Unavailable(node, "no reply in time".to_string());
    let mut pauses = RETRY_PAUSES.into_iter();
    let trying = async {
        loop {
            let call = nodes.call(node);
            let outcome = chunks.put(node, id, pieces.clone(), origin.clone()).await;
            match (outcome, pauses.next()) {
                // A hiccup that a retry mends is no failure of the node.
                (Err(ChunkError::Unavailable(..)), Some(pause)) => tokio::time::sleep(pause).await,
                (outcome, _) => {
                    call.finish(&outcome);
                    return outcome;
                }
            }
        }
    };
    let bytes = pieces.iter().map(Bytes::len).sum();
    let Some(outcome) = nodes.put(node, bytes, trying).await else {
        nodes.note_slow(node);
        return Err(late());
    };
    outcome
}
