//! Brings chunks of an extent to a node from those that hold them.

use std::ops::Range;

use consensus::meta::model::Extent;
use fabric::ids::{ChunkId, NodeId};
use futures::{StreamExt, TryStreamExt};

use super::{JobContext, JobError};
use crate::client::{ChunkError, ChunkStat};

/// Chunks that are brought at once; each is in memory.
const AT_ONCE: usize = 4;

/// Nodes to copy an extent from: those that are confirmed first, then the other owners, who may hold a part.
pub(super) fn sources(owners: &[NodeId], confirmed: u16, me: NodeId) -> Vec<NodeId> {
    let (sure, perhaps): (Vec<_>, Vec<_>) = owners
        .iter()
        .enumerate()
        .take(u16::BITS as usize)
        .filter(|(_, node)| **node != me)
        .partition(|(bit, _)| confirmed & (1 << bit) != 0);
    sure.into_iter().chain(perhaps).map(|(_, node)| *node).collect()
}

/// Chunks of an extent by their ordinals, with the bytes that each must have.
pub(super) fn chunks_of(extent: &Extent, ordinals: Range<u64>) -> Vec<(ChunkId, u64)> {
    ordinals.map(|ordinal| (extent.id.chunk(ordinal as u32), extent.bytes_of(ordinal))).collect()
}

/// Brings those of `chunks` to a node that are missing there. Returns how many came.
pub(super) async fn bring(
    cx: &JobContext,
    to: NodeId,
    chunks: &[(ChunkId, u64)],
    from: &[NodeId],
) -> Result<u64, JobError> {
    let here = cx.chunks.stat(to, chunks.iter().map(|chunk| chunk.0).collect()).await?;
    let missing = chunks.iter().zip(here).filter(|((_, bytes), stat)| {
        // A chunk that is here under its seal is what its writer sent: other bytes were never accepted.
        stat.as_ref().is_none_or(|stat| u64::from(stat.bytes) != *bytes)
    });
    let missing: Vec<(ChunkId, u64)> = missing.map(|(chunk, _)| *chunk).collect();
    let count = missing.len() as u64;
    let copies = missing.into_iter().map(|(chunk, bytes)| copy_to(cx, to, chunk, Some(bytes), from));
    futures::stream::iter(copies).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(count)
}

/// Copies one chunk here from the first source that has it. `bytes`: what it must have, where that is known.
pub(super) async fn copy_one(
    cx: &JobContext,
    chunk: ChunkId,
    bytes: Option<u64>,
    from: &[NodeId],
) -> Result<(), JobError> {
    copy_to(cx, cx.node, chunk, bytes, from).await
}

async fn copy_to(
    cx: &JobContext,
    to: NodeId,
    chunk: ChunkId,
    bytes: Option<u64>,
    from: &[NodeId],
) -> Result<(), JobError> {
    let mut failed = JobError::Other(format!("chunk {chunk} has no other owner"));
    let copy = async {
        for node in from {
            match fetch(cx, chunk, bytes, *node).await {
                Ok((stat, body)) => return Ok(cx.chunks.put(to, chunk, vec![body], stat.origin).await?),
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    };
    cx.work.budget.spend(&*cx.env, copy).await
}

async fn fetch(
    cx: &JobContext,
    chunk: ChunkId,
    bytes: Option<u64>,
    node: NodeId,
) -> Result<(ChunkStat, bytes::Bytes), ChunkError> {
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
