//! The chunk store, with small volumes.
//!
//! What always holds: every chunk that was acknowledged is there byte for byte, every one whose deletion was
//! acknowledged stays away, nothing else comes back, while nearly empty volumes are compacted, too. After a flipped bit no wrong byte is given out, and the
//! process goes on storing.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use fabric::Seams;
use fabric::ids::{ChunkId, ExtentId, NodeId, SessionId};
use futures::future::join_all;
use storage::chunks::{ChunkSettings, ChunkStore, Compacted};
use storage::client::ChunkError;

use super::{Lived, Rot, Subject};
use crate::history::Violation;
use crate::history::body;
use crate::sim::random::SimRandom;

const DIRECTORY: &str = "/data/chunks";
const NODE: NodeId = NodeId(1);
const MEMORY_BYTES: u64 = 32 << 20;
const EXTENTS: u64 = 12;
const CHUNKS_PER_EXTENT: u64 = 4;
const WAVES_PER_LIFE: u64 = 10;
/// Units of compaction at once: enough to move what is left of a volume and to remove it.
const UNITS_MAX: usize = 6;

/// Of a chunk that was ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Here,
    Gone,
    /// The process died before it said.
    Either,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    /// Its bytes are made from id and length, for ever.
    id: u64,
    bytes: usize,
    known: Known,
}

impl Chunk {
    fn body(&self) -> Bytes {
        body::make(self.id, self.bytes)
    }
}

/// The store's model.
pub(super) struct ChunksSubject {
    random: SimRandom,
    chunks: BTreeMap<ChunkId, Chunk>,
    volume_bytes_max: u64,
    next_id: u64,
}

/// What happens to one chunk in a wave.
enum Change {
    Put,
    Delete,
    /// Other bytes under an id that is there.
    Forge,
}

impl ChunksSubject {
    pub(super) fn new(random: SimRandom) -> ChunksSubject {
        let volume_bytes_max = random.between(128 << 10, 1 << 20);
        ChunksSubject { random, chunks: BTreeMap::new(), volume_bytes_max, next_id: 1 }
    }

    async fn open(&self, seams: &Seams) -> Result<ChunkStore, String> {
        let settings = ChunkSettings {
            volume_bytes_max: self.volume_bytes_max,
            reserve_bytes: 0,
            ..ChunkSettings::new(NODE, DIRECTORY.into(), MEMORY_BYTES)
        };
        let store = ChunkStore::open(seams, settings).await.map_err(|error| error.to_string())?;
        store.wait_ready().await;
        let status = store.status();
        if status.broken > 0 {
            return Err(format!("volumes are broken: {status:?}"));
        }
        // Loss 1 is the directory's birth; a power cut loses no volume.
        match store.untold_loss() {
            Some(1) => store.tell_loss(1).await.map_err(|error| error.to_string())?,
            Some(loss) => return Err(format!("volumes were lost, {loss} times")),
            None => {}
        }
        Ok(store)
    }

    /// Every chunk against the model, which then knows.
    async fn check(&mut self, store: &ChunkStore) -> Result<(), String> {
        for (id, chunk) in &mut self.chunks {
            let found = match store.get(*id, 0, chunk.bytes as u32).await {
                Ok(found) if found == chunk.body() => Known::Here,
                Err(ChunkError::NotFound(_)) => Known::Gone,
                Ok(_) => return Err(format!("chunk {id} has other bytes than were put")),
                Err(error) => return Err(format!("chunk {id}, {:?}: {error}", chunk.known)),
            };
            if chunk.known != Known::Either && chunk.known != found {
                return Err(format!("chunk {id} should be {:?} and is {found:?}", chunk.known));
            }
            chunk.known = found;
        }
        self.check_scan(store).await
    }

    async fn check_scan(&self, store: &ChunkStore) -> Result<(), String> {
        let mut found = Vec::new();
        loop {
            let limit = self.random.between(1, 20) as u32;
            let page = store.scan(found.last().copied(), limit).await.map_err(|error| error.to_string())?;
            found.extend(page.iter().map(|stat| stat.id));
            if page.is_empty() {
                break;
            }
        }
        let here = self.chunks.iter().filter(|(_, chunk)| chunk.known == Known::Here).map(|(id, _)| *id);
        if found == here.collect::<Vec<_>>() { Ok(()) } else { Err("a scan shows other chunks".to_string()) }
    }

    fn draw(&mut self) -> (ChunkId, Change) {
        let number = self.random.below(EXTENTS);
        let extent = ExtentId::new(number as u16, SessionId { epoch: 1, number: 1 }, number);
        let id = extent.chunk(self.random.below(CHUNKS_PER_EXTENT) as u32);
        let most = *self.random.pick(&[200, 3_000, 20_000, 150_000]);
        let (next, bytes) = (self.next_id, self.random.between(16, most) as usize);
        self.next_id += 1;
        let chunk = self.chunks.entry(id).or_insert(Chunk { id: next, bytes, known: Known::Gone });
        let change = match self.random.below(20) {
            0 if chunk.known == Known::Here => Change::Forge,
            1..8 => Change::Delete,
            _ => Change::Put,
        };
        (id, change)
    }

    /// Several changes at once, of a chunk each, then waits for all.
    async fn wave(&mut self, store: &ChunkStore) -> Result<(), String> {
        let mut changes = BTreeMap::new();
        for _ in 0..self.random.between(1, 6) {
            let (id, change) = self.draw();
            changes.insert(id, change);
        }
        let calls = changes.iter().map(|(id, change)| self.call(store, *id, change));
        let answers = join_all(calls).await;
        let mut failed = None;
        for ((id, change), answer) in changes.iter().zip(answers) {
            let chunk = self.chunks.get_mut(id).expect("drawn from the model");
            match (change, answer) {
                (Change::Put, Ok(())) => chunk.known = Known::Here,
                (Change::Delete, Ok(())) => chunk.known = Known::Gone,
                (Change::Forge, Err(ChunkError::Refused(..))) => {}
                (Change::Forge, Ok(())) => return Err(format!("other bytes were taken for chunk {id}")),
                (Change::Forge, Err(error)) => failed = Some(error.to_string()),
                (Change::Put, Err(error)) => {
                    chunk.known = if chunk.known == Known::Here { Known::Here } else { Known::Either };
                    failed = Some(error.to_string());
                }
                (Change::Delete, Err(error)) => {
                    chunk.known = if chunk.known == Known::Gone { Known::Gone } else { Known::Either };
                    failed = Some(error.to_string());
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn call(&self, store: &ChunkStore, id: ChunkId, change: &Change) -> Result<(), ChunkError> {
        let chunk = self.chunks[&id];
        match change {
            Change::Put => {
                let body = chunk.body();
                let cut = body.len() / 2;
                store.put(id, vec![body.slice(..cut), body.slice(cut..)], None).await
            }
            Change::Delete => store.delete(vec![id]).await,
            Change::Forge => store.put(id, vec![body::make(u64::MAX, chunk.bytes)], None).await,
        }
    }
}

/// Compacts, beside whatever else the store does.
async fn compact(store: &ChunkStore) -> Result<(), String> {
    for _ in 0..UNITS_MAX {
        if store.compact().await.map_err(|error| error.to_string())? == Compacted::Nothing {
            break;
        }
    }
    Ok(())
}

impl Subject for ChunksSubject {
    const SUFFIX: Option<&'static str> = Some(".redb");
    const CHANGES: &'static [u64] = &[10, 300, 600, 1500];

    async fn live(&mut self, seams: &Seams, last: bool) -> Result<Lived, Violation> {
        let dead = || seams.disks.list(Path::new("/")).is_err();
        let mut lived = Lived::Opening;
        let outcome = async {
            let store = self.open(seams).await?;
            self.check(&store).await?;
            lived = Lived::Working;
            for _ in 0..if last { 0 } else { WAVES_PER_LIFE } {
                if self.random.chance(30) {
                    let (changed, compacted) = tokio::join!(self.wave(&store), compact(&store));
                    changed.and(compacted)?;
                } else {
                    self.wave(&store).await?;
                }
                if self.random.chance(10) {
                    self.check(&store).await?;
                }
                if self.random.chance(5) {
                    // Long enough for the volume to be settled.
                    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                }
            }
            if last || self.random.chance(20) {
                store.close().await;
            }
            Ok::<(), String>(())
        };
        match outcome.await {
            Err(why) if !dead() => Err(Violation(why)),
            _ => Ok(lived),
        }
    }

    async fn live_rotten(&mut self, seams: &Seams) -> Result<Rot, Violation> {
        let settings = ChunkSettings {
            volume_bytes_max: self.volume_bytes_max,
            reserve_bytes: 0,
            ..ChunkSettings::new(NODE, DIRECTORY.into(), MEMORY_BYTES)
        };
        let store = ChunkStore::open(seams, settings).await.map_err(|error| Violation(error.to_string()))?;
        store.wait_ready().await;
        let mut rot = Rot::Harmless;
        for (id, chunk) in &self.chunks {
            match (store.get(*id, 0, chunk.bytes as u32).await, chunk.known) {
                (Ok(found), Known::Here) if found == chunk.body() => {}
                (Ok(_), _) => return Err(Violation(format!("rotten bytes of chunk {id} are given out"))),
                (Err(ChunkError::NotFound(_)), Known::Gone) => {}
                (Err(ChunkError::NotFound(_)), _) => {
                    rot = if rot == Rot::Harmless { Rot::Missing } else { rot }
                }
                (Err(ChunkError::Corrupt(_) | ChunkError::Unavailable(..)), _) => rot = Rot::Reported,
                (Err(error), _) => return Err(Violation(format!("rot is answered: {error}"))),
            }
        }
        self.lives(&store).await?;
        Ok(rot)
    }
}

impl ChunksSubject {
    /// A new chunk can be stored and read, at the latest when broken volumes were looked at.
    async fn lives(&self, store: &ChunkStore) -> Result<(), Violation> {
        let body = body::make(1, 5_000);
        let mut why = String::new();
        for number in 0..100 {
            // An extent whose put met a broken volume has to wait for that one; others do not.
            let id = ExtentId::new(9999, SessionId { epoch: 1, number: 2 }, number).chunk(0);
            let put = store.put(id, vec![body.clone()], None).await;
            match (put, store.get(id, 0, 5_000).await) {
                (Ok(()), Ok(found)) if found == body => return Ok(()),
                (put, got) => why = format!("{put:?}, {:?}", got.map(|bytes| bytes.len())),
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        Err(Violation(format!("after rot nothing can be stored any more: {why}")))
    }
}
