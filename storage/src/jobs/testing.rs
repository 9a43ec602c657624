//! Metadata and chunks in memory, for the tests of jobs.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::{Meta, MetaError, ReadGuard, WriteGuard};
use consensus::meta::command::{Command, Done, MovedExtent, PackInline, Recode, Reject, Salvage};
use consensus::meta::model::{
    Absence, Bucket, ClusterMs, Extent, Garbage, Hold, Home, Leaving, NodeRow, Session, SessionKind,
    Versioning,
};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, Answered, InlinePage, PlacedOf, Query, Recoding};
use consensus::meta::sealing::Sealing;
use fabric::codec::crc32c;
use fabric::coding::Coding;
use fabric::env::Env;
use fabric::ids::{BucketId, ChunkId, ExtentId, Incarnation, LayoutVersion, NodeId, SessionId, Stamp};
use fabric::placement::Layout;

use super::work::{Stolen, Work};
use super::{JobContext, Peers};
use crate::client::{ChunkError, ChunkStat, Chunks, NodeSpace, Verdict};
use crate::origin::ChunkOrigin;
use crate::testing::Clock;

const SESSION: SessionId = SessionId { epoch: 1, number: 1 };

pub(crate) fn extent(number: u64, bytes: u64, chunk_bytes: u32) -> Extent {
    let id = ExtentId::new(0, SESSION, number);
    Extent { id, bytes, chunk_bytes, layout: LayoutVersion(1), confirmed: 0b110 }
}

/// One that is stored as shards, all of which are confirmed but the first.
pub(crate) fn coded(number: u64, coding: Coding, bytes: u64, chunk_bytes: u32) -> Extent {
    let extent = extent(number, bytes, chunk_bytes);
    Extent { id: extent.id.coded(coding), confirmed: (1 << coding.shards()) - 2, ..extent }
}

fn origin() -> ChunkOrigin {
    ChunkOrigin {
        bucket: BucketId(1),
        bucket_name: "bucket".parse().unwrap(),
        key: "key".parse().unwrap(),
        part: None,
        headers: Vec::new(),
        wrapped_key: None,
    }
}

fn bucket() -> Bucket {
    Bucket {
        id: BucketId(1),
        name: "bucket".parse().unwrap(),
        owner: "anna".parse().unwrap(),
        created: ClusterMs(0),
        epoch: 1,
        versioning: Versioning::Off,
    }
}

pub(super) fn home() -> Home {
    Home { bucket: BucketId(1), key: "key".parse().unwrap() }
}

fn member(id: NodeId) -> NodeRow {
    NodeRow {
        id,
        incarnation: Incarnation(1),
        address: format!("node-{id}:1"),
        zone: String::new(),
        capacity_bytes: 1,
        starts: 1,
        release: String::new(),
        voter: None,
        run: 1,
    }
}

/// Nodes 1 to n that own everything.
pub(crate) struct World {
    pub(crate) meta: Arc<FakeMeta>,
    pub(crate) chunks: Arc<FakeChunks>,
    clock: Arc<Clock>,
    works: Works,
}

/// What waits on each node.
#[derive(Clone, Default)]
pub(super) struct Works(Arc<Mutex<BTreeMap<NodeId, Arc<Work>>>>);

impl Works {
    pub(super) fn of(&self, node: NodeId) -> Arc<Work> {
        self.0.lock().unwrap().entry(node).or_default().clone()
    }
}

#[async_trait]
impl Peers for Works {
    async fn steal(&self, node: NodeId, most: u32) -> Result<Stolen, ChunkError> {
        Ok(self.of(node).steal(most))
    }
}

impl World {
    pub(crate) fn new(nodes: u16) -> World {
        let owners = (1..=nodes).map(NodeId).collect();
        let layout = Layout { version: LayoutVersion(1), partitions: vec![owners] };
        let state = MetaState { layouts: vec![layout], session: Some((0, u64::MAX)), ..MetaState::default() };
        let meta = Arc::new(FakeMeta { state: Mutex::new(state) });
        World { meta, chunks: Arc::default(), clock: Arc::default(), works: Works::default() }
    }

    pub(super) fn context(&self, node: u16) -> JobContext {
        self.context_with(node, self.clock.clone(), self.chunks.clone())
    }

    /// With another clock, and the network of another.
    pub(super) fn context_with(&self, node: u16, env: Arc<dyn Env>, chunks: Arc<dyn Chunks>) -> JobContext {
        let (node, meta, work) = (NodeId(node), self.meta.clone(), self.works.of(NodeId(node)));
        JobContext::new(env, node, meta, chunks, Box::new(|| true), work, Arc::new(self.works.clone()))
    }

    pub(super) fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub(super) fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    pub(crate) fn body(&self, extent: &Extent, ordinal: u64) -> Bytes {
        let bytes = extent.spread().bytes_of(0, ordinal) as usize;
        vec![extent.id.number() as u8 ^ ordinal as u8; bytes].into()
    }

    /// The bytes of a chunk of an extent that is stored as shards.
    pub(crate) fn shard(&self, extent: &Extent, chunk: ChunkId) -> Bytes {
        let (spread, coding, stripe) = (extent.spread(), extent.coding(), u64::from(chunk.ordinal()));
        let data = |shard: usize| -> Bytes {
            let bytes = spread.bytes_of(shard, stripe);
            (0..bytes).map(|at| (at * 7 + shard as u64 * 31 + stripe * 3 + 1) as u8).collect()
        };
        let mut shards: Vec<Bytes> = (0..coding.data()).map(data).collect();
        shards.extend(coding.parity(&shards));
        shards.swap_remove(chunk.shard())
    }

    /// The chunks, and their bytes, that belong on a node that is owner `place` of so many.
    pub(crate) fn shards_at(&self, extent: &Extent, place: usize, owners: usize) -> Vec<(ChunkId, Bytes)> {
        let chunks = extent.spread().chunks_at(place, owners, 0..extent.chunks());
        chunks.map(|(chunk, _)| (chunk, self.shard(extent, chunk))).collect()
    }

    /// Puts what belongs on some of the owners of the first layout there.
    pub(crate) async fn fill_shards(&self, extent: &Extent, nodes: &[u16]) {
        let owners = self.meta.first_owners();
        for node in nodes {
            for (chunk, body) in self.shards_at(extent, usize::from(*node) - 1, owners) {
                let origin = (chunk.ordinal() == 0).then(origin);
                self.chunks.put(NodeId(*node), chunk, vec![body], origin).await.unwrap();
            }
        }
    }

    /// Whether a node has all that belongs on owner `place` of so many, byte for byte, with its origin.
    pub(crate) async fn has_shards(&self, extent: &Extent, node: u16, place: usize, owners: usize) -> bool {
        for (chunk, body) in self.shards_at(extent, place, owners) {
            let found = self.chunks.get(NodeId(node), chunk, 0, body.len() as u32).await;
            let stat = self.chunks.stat(NodeId(node), vec![chunk]).await.unwrap().pop().flatten();
            let origin = stat.is_some_and(|stat| stat.origin.is_some() == (chunk.ordinal() == 0));
            if !origin || found.ok() != Some(body) {
                return false;
            }
        }
        true
    }

    pub(crate) async fn fill(&self, extent: &Extent, nodes: &[u16]) {
        for node in nodes {
            for ordinal in 0..extent.chunks() {
                let origin = (ordinal == 0).then(origin);
                let chunk = extent.id.chunk(ordinal as u32);
                self.chunks
                    .put(NodeId(*node), chunk, vec![self.body(extent, ordinal)], origin)
                    .await
                    .unwrap();
            }
        }
    }
}

#[derive(Default)]
struct MetaState {
    /// The newest is the last.
    layouts: Vec<Layout>,
    debts: Vec<Extent>,
    paid: Vec<ExtentId>,
    garbage: BTreeMap<u64, Extent>,
    named: BTreeSet<ExtentId>,
    /// Oldest write and oldest read of the one session, while it lives.
    session: Option<(u64, u64)>,
    pinned: Vec<ExtentId>,
    /// What the catalog places on all nodes.
    placed: Vec<Extent>,
    /// Index of the entry that told the loss of the node.
    absence: Option<u64>,
    losses: u64,
    extents_drawn: u64,
    inline: Vec<(ObjectKey, Stamp, Bytes)>,
    packed: Vec<PackInline>,
    moved: Vec<MovedExtent>,
    leaving: BTreeMap<ExtentId, Leaving>,
    /// Versions whose bytes are to become shards, and what became of them.
    recodings: Vec<Recoding>,
    recoded: Vec<Recode>,
    salvaged: Vec<Salvage>,
    sealings: Vec<Option<Sealing>>,
}

pub(crate) struct FakeMeta {
    state: Mutex<MetaState>,
}

impl FakeMeta {
    pub(super) fn owe(&self, extent: &Extent) {
        self.state.lock().unwrap().debts.push(extent.clone());
    }

    pub(super) fn paid(&self) -> Vec<ExtentId> {
        self.state.lock().unwrap().paid.clone()
    }

    pub(super) fn release(&self, extent: &Extent) {
        self.state.lock().unwrap().garbage.insert(extent.id.number(), extent.clone());
    }

    pub(super) fn garbage_rows(&self) -> usize {
        self.state.lock().unwrap().garbage.len()
    }

    pub(super) fn name(&self, extent: &Extent) {
        self.state.lock().unwrap().named.insert(extent.id);
    }

    /// The extents that the catalog places on all nodes, in order of id.
    pub(crate) fn place(&self, extents: &[Extent]) {
        self.state.lock().unwrap().placed = extents.to_vec();
    }

    fn first_owners(&self) -> usize {
        self.state.lock().unwrap().layouts[0].partitions[0].len()
    }

    /// How many losses were told, and whether the last one is owed.
    pub(super) fn absence(&self) -> (u64, bool) {
        let state = self.state.lock().unwrap();
        (state.losses, state.absence.is_some())
    }

    /// A newer layout, in which these nodes own everything.
    pub(crate) fn set_owners(&self, nodes: &[u16]) {
        let mut state = self.state.lock().unwrap();
        let version = LayoutVersion(state.layouts.len() as u32 + 1);
        let owners = nodes.iter().copied().map(NodeId).collect();
        state.layouts.push(Layout { version, partitions: vec![owners] });
    }

    pub(super) fn is_anything_placed(&self) -> bool {
        !self.state.lock().unwrap().placed.is_empty()
    }

    /// The extents whose rows moved, with the nodes that were given all of them.
    pub(super) fn moved(&self) -> Vec<(ExtentId, Vec<NodeId>)> {
        let state = self.state.lock().unwrap();
        state.moved.iter().map(|moved| (moved.id, moved.brought.clone())).collect()
    }

    /// A copy of the node that asks has to go.
    pub(super) fn leave(&self, extent: &Extent) {
        self.leave_shards(extent, 1);
    }

    /// Shards of the node that asks have to go.
    pub(super) fn leave_shards(&self, extent: &Extent, shards: u16) {
        let leaving = Leaving::of_shards(1, extent.coding(), extent.chunks(), shards);
        self.state.lock().unwrap().leaving.insert(extent.id, leaving);
    }

    pub(super) fn leaving(&self) -> usize {
        self.state.lock().unwrap().leaving.len()
    }

    pub(super) fn unpin(&self) {
        self.state.lock().unwrap().pinned.clear();
    }

    pub(super) fn set_inline(&self, payloads: &[(&str, &'static str)]) {
        let stamp = |place: usize| Stamp { epoch: 1, index: place as u64, ordinal: 0 };
        let payload = |(place, (key, text)): (usize, &(&str, &'static str))| {
            (key.parse().unwrap(), stamp(place), Bytes::from_static(text.as_bytes()))
        };
        self.state.lock().unwrap().inline = payloads.iter().enumerate().map(payload).collect();
    }

    pub(super) fn packed(&self) -> Vec<PackInline> {
        self.state.lock().unwrap().packed.clone()
    }

    /// A version of these extents is to become shards.
    pub(super) fn recode(&self, extents: &[Extent]) {
        let mut state = self.state.lock().unwrap();
        let version = Stamp { epoch: 1, index: state.recodings.len() as u64 + 1, ordinal: 0 };
        state.recodings.push(Recoding { home: home(), version, extents: extents.to_vec() });
    }

    pub(super) fn recoded(&self) -> Vec<Recode> {
        self.state.lock().unwrap().recoded.clone()
    }

    pub(crate) fn salvaged(&self) -> Vec<Salvage> {
        self.state.lock().unwrap().salvaged.clone()
    }

    /// How what was salvaged is encrypted, where a command said so.
    pub(crate) fn sealings(&self) -> Vec<Option<Sealing>> {
        self.state.lock().unwrap().sealings.clone()
    }

    pub(super) fn pin(&self, extent: &Extent) {
        self.state.lock().unwrap().pinned.push(extent.id);
    }

    pub(super) fn set_session(&self, marks: Option<(u64, u64)>) {
        self.state.lock().unwrap().session = marks;
    }
}

#[async_trait]
impl Meta for FakeMeta {
    async fn propose(&self, command: Command) -> Result<Done, MetaError> {
        let mut state = self.state.lock().unwrap();
        let command = match command {
            Command::Sealed(sealed) => {
                state.sealings.push(sealed.sealing);
                *sealed.command
            }
            command => command,
        };
        match command {
            Command::PayDebts(pay) => {
                for (_, extent) in pay.extents {
                    state.debts.retain(|owed| owed.id != extent);
                    state.paid.push(extent);
                }
            }
            Command::CollectGarbage(collect) => {
                collect.done.iter().for_each(|(_, stamp)| {
                    state.garbage.remove(&stamp.index);
                });
            }
            Command::ReportLoss(_) => {
                state.losses += 1;
                state.absence = Some(state.losses);
            }
            Command::EndAbsence(end) => {
                assert_eq!(end.partitions, [0]);
                state.absence = state.absence.filter(|index| *index != end.index);
            }
            Command::PackInline(pack) => {
                let moved = |key: &ObjectKey| pack.payloads.iter().any(|payload| payload.key == *key);
                state.inline.retain(|(key, ..)| !moved(key));
                state.packed.push(pack);
            }
            Command::MoveExtents(moves) => {
                for moved in moves.moves {
                    state.placed.retain(|extent| extent.id != moved.id);
                    state.moved.push(moved);
                }
            }
            Command::Salvage(salvage) => {
                state.named.extend(salvage.bodies.iter().map(|body| body.extent.id));
                state.salvaged.push(salvage);
            }
            Command::EndLeaving(end) => {
                state.leaving.retain(|id, _| end.extents.iter().all(|(_, extent, _)| extent != id));
            }
            Command::Recode(recode) => {
                state.recodings.retain(|recoding| recoding.version != recode.version);
                state.recoded.push(recode);
            }
            other => return Err(MetaError::Unavailable(format!("{other:?}"))),
        }
        Ok(Done::Nothing)
    }

    async fn query(&self, query: Query) -> Result<Answered, MetaError> {
        let state = self.state.lock().unwrap();
        let answer = match query {
            Query::Layout(version) => {
                let wanted = |layout: &&Layout| version.is_none_or(|version| layout.version == version);
                Answer::Layout(state.layouts.iter().rev().find(wanted).cloned())
            }
            Query::Members => {
                let layout = state.layouts.last().unwrap().version;
                let owners = state.layouts.iter().flat_map(|layout| layout.partitions.iter().flatten());
                let nodes: BTreeSet<NodeId> = owners.copied().collect();
                Answer::Members { nodes: nodes.into_iter().map(member).collect(), layout }
            }
            Query::Hold => Answer::Hold(Some(Hold { since: 1, at: ClusterMs(0) })),
            Query::Buckets { .. } => Answer::Buckets { buckets: vec![bucket()], more: false },
            Query::Extents { after, limit } | Query::Moving { after, limit, .. } => {
                let behind = |extent: &&Extent| after.as_ref().is_none_or(|(_, id)| extent.id > *id);
                let extents: Vec<_> = state.placed.iter().filter(behind).take(limit as usize + 1).collect();
                let next = extents.get(limit as usize).map(|_| (home(), extents[limit as usize - 1].id));
                let extents = extents.into_iter().take(limit as usize);
                Answer::Placed { extents: extents.map(|extent| (home(), extent.clone())).collect(), next }
            }
            Query::Leaving { .. } => {
                let copies = state.leaving.iter().map(|(id, leaving)| (home(), *id, leaving.clone()));
                Answer::Leaving { copies: copies.collect(), next: None }
            }
            Query::Debts { after, .. } => {
                let behind = |owed: &&Extent| after.as_ref().is_none_or(|(_, id)| owed.id > *id);
                Answer::Debts(state.debts.iter().filter(behind).map(|owed| (home(), owed.clone())).collect())
            }
            Query::Garbage { after, .. } => Answer::Garbage(
                state
                    .garbage
                    .iter()
                    .filter(|(index, _)| after.is_none_or(|(_, stamp)| stamp.index < **index))
                    .map(|(index, extent)| {
                        let stamp = Stamp { epoch: 1, index: *index, ordinal: 0 };
                        (BucketId(1), stamp, Garbage::Extent(extent.clone()))
                    })
                    .collect(),
            ),
            Query::Sessions => Answer::Sessions(
                state
                    .session
                    .iter()
                    .map(|(oldest_write, oldest_read)| {
                        let session = Session {
                            kind: SessionKind::Gateway,
                            lowest_open: 0,
                            oldest_write: *oldest_write,
                            oldest_read: *oldest_read,
                            pinned: state.pinned.clone(),
                            nonce: 0,
                        };
                        (SESSION, session)
                    })
                    .collect(),
            ),
            Query::Absences(_) => {
                let row = |index| (0, Absence { since: 0, layout: LayoutVersion(1), index });
                Answer::Absences(state.absence.map(row).into_iter().collect())
            }
            Query::Placed { of, after, limit, .. } => {
                let behind = |extent: &&Extent| after.as_ref().is_none_or(|(_, id)| extent.id > *id);
                let shown = of == PlacedOf::All || state.absence.is_some();
                let extents: Vec<_> = state.placed.iter().filter(|_| shown).filter(behind).collect();
                let next = extents.get(limit as usize).map(|_| (home(), extents[limit as usize - 1].id));
                let extents = extents.into_iter().take(limit as usize);
                Answer::Placed { extents: extents.map(|extent| (home(), extent.clone())).collect(), next }
            }
            Query::Inline { above, before, .. } => {
                let total_bytes = state.inline.iter().map(|(_, _, payload)| payload.len() as u64).sum();
                let old = state.inline.iter().filter(|(_, version, _)| version.index < before);
                let payloads: Vec<_> = old.filter(|_| above < total_bytes).cloned().collect();
                let bucket = (!payloads.is_empty()).then(bucket);
                Answer::Inline(InlinePage { total_bytes, bucket, payloads, position: None })
            }
            Query::Parts { .. } => return Err(MetaError::Rejected(Reject::NoSuchUpload)),
            Query::Recoding { after } => {
                let behind =
                    |recoding: &&Recoding| after.as_ref().is_none_or(|(_, last)| recoding.version > *last);
                Answer::Recoding(state.recodings.iter().find(behind).cloned())
            }
            Query::Named(extents) | Query::NamedNow(extents) => {
                Answer::Named(extents.iter().map(|(_, extent)| state.named.contains(extent)).collect())
            }
            other => return Err(MetaError::Unavailable(format!("{other:?}"))),
        };
        Ok(Answered { index: 100, answer: Ok(answer) })
    }

    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        let mut state = self.state.lock().unwrap();
        state.extents_drawn += 1;
        Ok(WriteGuard::new(SESSION, 1_000 + state.extents_drawn, Box::new(())))
    }

    fn begin_read(&self) -> ReadGuard {
        ReadGuard::new(Box::new(()))
    }
}

/// The chunks of one node.
type Stored = BTreeMap<ChunkId, (Bytes, Option<ChunkOrigin>)>;

/// The chunks of all nodes, behind a network.
#[derive(Clone, Default)]
pub(crate) struct FakeChunks {
    stored: Arc<Mutex<BTreeMap<NodeId, Stored>>>,
    silent: Arc<Mutex<BTreeSet<NodeId>>>,
    rotten: Arc<Mutex<BTreeSet<(NodeId, ChunkId)>>>,
    /// How long each call takes.
    pause: Duration,
}

impl FakeChunks {
    /// The same chunks behind a slower network.
    pub(super) fn paced(&self, pause: Duration) -> FakeChunks {
        FakeChunks { pause, ..self.clone() }
    }

    pub(crate) fn silence(&self, node: NodeId, silent: bool) {
        let mut nodes = self.silent.lock().unwrap();
        if silent {
            nodes.insert(node)
        } else {
            nodes.remove(&node)
        };
    }

    pub(crate) fn rot(&self, node: NodeId, chunk: ChunkId) {
        self.rotten.lock().unwrap().insert((node, chunk));
    }

    pub(super) fn count(&self, node: NodeId) -> usize {
        self.stored.lock().unwrap().get(&node).map_or(0, BTreeMap::len)
    }

    pub(super) fn get_now(&self, node: NodeId, chunk: ChunkId) -> bool {
        self.stored.lock().unwrap().get(&node).is_some_and(|chunks| chunks.contains_key(&chunk))
    }

    async fn on<T>(&self, node: NodeId, run: impl FnOnce(&mut Stored) -> T) -> Result<T, ChunkError> {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        if self.silent.lock().unwrap().contains(&node) {
            return Err(ChunkError::Unavailable(node, "silent".to_string()));
        }
        Ok(run(self.stored.lock().unwrap().entry(node).or_default()))
    }
}

fn stat(id: ChunkId, (bytes, origin): &(Bytes, Option<ChunkOrigin>)) -> ChunkStat {
    ChunkStat { id, bytes: bytes.len() as u32, crc32c: crc32c(&[bytes]), origin: origin.clone() }
}

#[async_trait]
impl Chunks for FakeChunks {
    async fn put(
        &self,
        node: NodeId,
        chunk: ChunkId,
        bytes: Vec<Bytes>,
        origin: Option<ChunkOrigin>,
    ) -> Result<(), ChunkError> {
        self.on(node, |chunks| drop(chunks.insert(chunk, (bytes.concat().into(), origin)))).await
    }

    async fn get(&self, node: NodeId, chunk: ChunkId, offset: u32, bytes: u32) -> Result<Bytes, ChunkError> {
        let found = self.on(node, |chunks| chunks.get(&chunk).cloned()).await?;
        let (body, _) = found.ok_or(ChunkError::NotFound(node))?;
        Ok(body.slice(offset as usize..(offset + bytes) as usize))
    }

    async fn delete(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<(), ChunkError> {
        self.on(node, |stored| chunks.iter().for_each(|chunk| drop(stored.remove(chunk)))).await
    }

    async fn stat(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkStat>>, ChunkError> {
        self.on(node, |stored| chunks.iter().map(|id| stored.get(id).map(|found| stat(*id, found))).collect())
            .await
    }

    async fn check(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError> {
        let rotten = self.rotten.lock().unwrap().clone();
        self.on(node, |stored| {
            let verdict = |id: &ChunkId| match stored.get(id) {
                Some(_) if rotten.contains(&(node, *id)) => Verdict::Rotten,
                Some((bytes, _)) => Verdict::Whole { bytes: bytes.len() as u32 },
                None => Verdict::Absent,
            };
            chunks.iter().map(verdict).collect()
        })
        .await
    }

    async fn scan(
        &self,
        node: NodeId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<Vec<ChunkStat>, ChunkError> {
        self.on(node, |stored| {
            let behind = stored.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
            behind.take(limit as usize).map(|(id, found)| stat(*id, found)).collect()
        })
        .await
    }

    async fn space(&self, node: NodeId) -> Result<NodeSpace, ChunkError> {
        self.on(node, |_| NodeSpace::default()).await
    }
}
