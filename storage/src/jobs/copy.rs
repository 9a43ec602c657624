//! Brings chunks of an extent to a node: from those that hold them, or rebuilt from other shards.

use bytes::Bytes;
use consensus::meta::model::Extent;
use fabric::coding::Spread;
use fabric::ids::{ChunkId, NodeId};
use futures::{StreamExt, TryStreamExt};

use super::{JobContext, JobError};
use crate::client::{ChunkError, ChunkStat};
use crate::origin::ChunkOrigin;

/// Chunks that are brought at once; each is in memory, and where it is rebuilt the others of its stripe are, too.
const AT_ONCE: usize = 4;

/// Where the chunks of one extent may be.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    spread: Spread,
    /// Its owners in one layout, with those that are confirmed as bits; in more layouts where it may lie in each.
    owners: Vec<(Vec<NodeId>, u16)>,
}

impl Sources {
    /// The owners of an extent in its layout.
    pub(super) fn of(extent: &Extent, owners: &[NodeId]) -> Sources {
        Sources { spread: extent.spread(), owners: vec![(owners.to_vec(), extent.confirmed)] }
    }

    /// The same, and others that may have some of it from earlier or for later.
    pub(super) fn or(mut self, owners: &[NodeId]) -> Sources {
        self.owners.push((owners.to_vec(), 0));
        self
    }

    /// Who may hold a shard: those that are confirmed first, then the others, who may hold a part.
    pub(super) fn holders(&self, shard: usize) -> Vec<NodeId> {
        let coding = self.spread.coding();
        let (mut sure, mut perhaps) = (Vec::new(), Vec::new());
        for (owners, confirmed) in &self.owners {
            for place in coding.places_of(shard, owners.len()) {
                let found = if confirmed >> place & 1 == 1 { &mut sure } else { &mut perhaps };
                found.push(owners[place]);
            }
        }
        perhaps.retain(|node| !sure.contains(node));
        sure.append(&mut perhaps);
        sure
    }
}

/// Brings those of `chunks` to a node that are missing there. Returns how many came.
pub(super) async fn bring(
    cx: &JobContext,
    to: NodeId,
    chunks: &[(ChunkId, u64)],
    from: &Sources,
) -> Result<u64, JobError> {
    let here = cx.chunks.stat(to, chunks.iter().map(|chunk| chunk.0).collect()).await?;
    let missing = chunks.iter().zip(here).filter(|((_, bytes), stat)| {
        // A chunk that is here under its seal is what its writer sent: other bytes were never accepted.
        stat.as_ref().is_none_or(|stat| u64::from(stat.bytes) != *bytes)
    });
    let missing: Vec<(ChunkId, u64)> = missing.map(|(chunk, _)| *chunk).collect();
    let count = missing.len() as u64;
    let copies = missing.into_iter().map(|(chunk, bytes)| bring_one(cx, to, chunk, bytes, from));
    futures::stream::iter(copies).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(count)
}

/// Brings one chunk, of so many bytes, to a node.
pub(super) async fn bring_one(
    cx: &JobContext,
    to: NodeId,
    chunk: ChunkId,
    bytes: u64,
    from: &Sources,
) -> Result<(), JobError> {
    let bringing = async {
        let holders: Vec<NodeId> =
            from.holders(chunk.shard()).into_iter().filter(|node| *node != to).collect();
        let (origin, body) = match fetch_from_any(cx, chunk, Some(bytes), &holders).await {
            Ok((stat, body)) => (stat.origin, body),
            Err(error) => rebuild(cx, chunk, bytes, from).await?.ok_or(error)?,
        };
        Ok(cx.chunks.put(to, chunk, vec![body], origin).await?)
    };
    cx.work.budget.spend(&*cx.env, bringing).await
}

/// Copies one chunk of whole copies here from the first source that has it, whatever its size.
pub(super) async fn copy_one(cx: &JobContext, chunk: ChunkId, from: &[NodeId]) -> Result<(), JobError> {
    let copying = async {
        let (stat, body) = fetch_from_any(cx, chunk, None, from).await?;
        Ok(cx.chunks.put(cx.node, chunk, vec![body], stat.origin).await?)
    };
    cx.work.budget.spend(&*cx.env, copying).await
}

/// A chunk from other shards of its stripe. `None`: too few of them can be had, or there are none.
async fn rebuild(
    cx: &JobContext,
    chunk: ChunkId,
    bytes: u64,
    from: &Sources,
) -> Result<Option<(Option<ChunkOrigin>, Bytes)>, JobError> {
    let (spread, coding, stripe) = (from.spread, from.spread.coding(), u64::from(chunk.ordinal()));
    let (mut origin, mut found, mut others) = (None, 0, vec![None; coding.shards()]);
    for shard in (0..coding.shards()).filter(|shard| *shard != chunk.shard()) {
        if found == coding.data() {
            break;
        }
        let wanted = spread.bytes_of(shard, stripe);
        if wanted == 0 {
            others[shard] = Some(Bytes::new());
            found += 1;
            continue;
        }
        let id = chunk.extent().shard(shard, chunk.ordinal());
        if let Ok((stat, body)) = fetch_from_any(cx, id, Some(wanted), &from.holders(shard)).await {
            origin = origin.or(stat.origin);
            others[shard] = Some(body);
            found += 1;
        }
    }
    // As long as the first chunk of the stripe are all that can be longer than this one.
    let longest = spread.bytes_of(0, stripe) as usize;
    let Some(body) = coding.rebuild(chunk.shard(), &others, longest) else { return Ok(None) };
    metrics::counter!("fluffy_chunks_rebuilt_total").increment(1);
    Ok(Some((origin, body.slice(..longest.min(bytes as usize)))))
}

/// A chunk from the first node that has it, of so many bytes where that is known.
pub(super) async fn fetch_from_any(
    cx: &JobContext,
    chunk: ChunkId,
    bytes: Option<u64>,
    from: &[NodeId],
) -> Result<(ChunkStat, Bytes), JobError> {
    let mut failed = JobError::Other(format!("chunk {chunk} has no other owner"));
    for node in from {
        match fetch(cx, chunk, bytes, *node).await {
            Ok(found) => return Ok(found),
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}

async fn fetch(
    cx: &JobContext,
    chunk: ChunkId,
    bytes: Option<u64>,
    node: NodeId,
) -> Result<(ChunkStat, Bytes), ChunkError> {
    let stat = cx.chunks.stat(node, vec![chunk]).await?.pop().flatten().ok_or(ChunkError::NotFound(node))?;
    if bytes.is_some_and(|bytes| bytes != u64::from(stat.bytes)) {
        return Err(ChunkError::Corrupt(node));
    }
    let body = cx.chunks.get(node, chunk, 0, stat.bytes).await?;
    if fabric::codec::crc32c(&[&body]) != stat.crc32c {
        return Err(ChunkError::Corrupt(node));
    }
    Ok((stat, body))
}
