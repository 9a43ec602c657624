//! Keeps the bytes of small bodies in the metadata bounded: moves old payloads into packed chunks.
//!
//! Walks the payloads in order of key, so that neighbours share a chunk and often go together, and takes those that
//! were stored before the walk began; what is written meanwhile waits for the next walk, and has often been replaced
//! by then. The command names key and version of each payload and changes nothing where they do not fit any more. A
//! unit that is cut off leaves a chunk that nobody names, which is collected.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::MetaError;
use consensus::meta::command::{self, Command, PackedPayload, Reject};
use consensus::meta::model::{Bucket, Extent, Home};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, InlinePage, Query};
use fabric::env::random_u64;
use fabric::ids::{ExtentId, Stamp};
use fabric::limits::{CHUNK_BYTES, COPIES, COPIES_DURABLE_MIN};

use super::{Job, JobContext, JobError, Next, wrong_answer};
use crate::origin::ChunkOrigin;

/// Between two looks at how many bytes there are.
const REST: Duration = Duration::from_secs(5);

/// See the file's head.
pub struct PackInline {
    /// While there are more bytes, payloads move.
    above: u64,
    /// Behind this payload in the present walk.
    after: Option<(Home, Stamp)>,
    /// Log index at which the walk began.
    began: u64,
}

impl PackInline {
    /// Begins where three quarters of `bytes_max` are taken, so that there is room while it works.
    pub fn new(bytes_max: u64) -> PackInline {
        PackInline { above: bytes_max / 4 * 3, after: None, began: 0 }
    }
}

#[async_trait]
impl Job for PackInline {
    fn name(&self) -> &'static str {
        "pack_inline"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if !(cx.leads)() {
            return Ok(Next::Rest(REST));
        }
        let question = Query::Inline {
            above: self.above,
            after: self.after.clone(),
            before: self.began,
            bytes: CHUNK_BYTES as u64,
        };
        let answered = cx.meta.query(question).await?;
        let Ok(Answer::Inline(InlinePage { total_bytes, bucket, payloads, position })) = answered.answer
        else {
            return Err(wrong_answer("inline"));
        };
        if self.began == 0 && self.above < total_bytes {
            self.began = answered.index;
            return Ok(Next::Again);
        }
        let more = position.is_some();
        let found = bucket.is_some();
        if let Some(bucket) = bucket {
            pack(cx, &bucket, payloads).await?;
        }
        self.after = position;
        if !more {
            // The next walk takes what is there now.
            self.began = answered.index;
        }
        Ok(if self.above < total_bytes && (more || found) { Next::Again } else { Next::Rest(REST) })
    }
}

/// Stores payloads in one chunk, and then says that they are there.
async fn pack(
    cx: &JobContext,
    bucket: &Bucket,
    payloads: Vec<(ObjectKey, Stamp, Bytes)>,
) -> Result<(), JobError> {
    let guard = cx.meta.begin_write().await?;
    let id = guard.extent(random_u64(&*cx.env) as u16);
    let mut packed = Vec::with_capacity(payloads.len());
    let (mut pieces, mut bytes) = (Vec::with_capacity(payloads.len()), 0);
    for (key, version, payload) in payloads {
        packed.push(PackedPayload { key, version, offset: bytes });
        bytes += payload.len() as u64;
        pieces.push(payload);
    }
    let Some(first) = packed.first() else { return Ok(()) };
    let home = Home { bucket: bucket.id, key: first.key.clone() };
    guard.writes(home.clone(), id);
    let origin = ChunkOrigin {
        bucket: bucket.id,
        bucket_name: bucket.name.clone(),
        key: first.key.clone(),
        part: None,
        headers: Vec::new(), // No length: it is no object.
        wrapped_key: None,
    };
    let count = packed.len() as u64;
    // One piece: the payloads are small, and the volume wants pages.
    let extent = store(cx, id, pieces.concat().into(), origin).await?;
    let command = command::PackInline { home, extent, payloads: packed };
    let outcome = cx.meta.propose(Command::PackInline(command)).await;
    drop(guard);
    match outcome {
        Ok(_) => metrics::counter!("fluffy_inline_packed_total").increment(count),
        // All of them were replaced or deleted meanwhile.
        Err(MetaError::Rejected(Reject::SourceChanged)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Puts the one chunk of an extent on its owners; enough of them have to take it.
async fn store(cx: &JobContext, id: ExtentId, body: Bytes, origin: ChunkOrigin) -> Result<Extent, JobError> {
    let layout = cx.ask_layout(None).await?;
    let owners: Vec<_> = layout.owners_of(id).iter().copied().take(COPIES).collect();
    let puts =
        owners.iter().map(|node| cx.chunks.put(*node, id.chunk(0), vec![body.clone()], Some(origin.clone())));
    let (mut confirmed, mut last_error) = (0_u16, None);
    for (place, put) in futures::future::join_all(puts).await.into_iter().enumerate() {
        match put {
            Ok(()) => confirmed |= 1 << place,
            Err(error) => last_error = Some(error),
        }
    }
    if (confirmed.count_ones() as usize) < COPIES_DURABLE_MIN.min(owners.len()) {
        let why = last_error.map_or_else(String::new, |error| error.to_string());
        return Err(JobError::Other(format!("too few nodes take a packed chunk: {why}")));
    }
    let bytes = body.len() as u64;
    Ok(Extent { id, bytes, chunk_bytes: CHUNK_BYTES as u32, layout: layout.version, confirmed })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::NodeId;

    use super::super::testing::World;
    use super::*;

    #[tokio::test]
    async fn payloads_move_while_there_are_too_many_bytes() {
        let world = World::new(3);
        world.meta.set_inline(&[("a", "first"), ("b", "second"), ("c", "third")]);
        let mut idle = PackInline::new(1000);
        assert!(matches!(idle.step(&world.context(1)).await.unwrap(), Next::Rest(_)));
        assert_eq!(world.meta.packed().len(), 0);

        let mut job = PackInline::new(4);
        while job.step(&world.context(1)).await.unwrap() == Next::Again || world.meta.packed().is_empty() {}
        let commands = world.meta.packed();
        let [command] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!((command.extent.bytes, command.extent.confirmed), (16, 0b111));
        let offsets: Vec<u64> = command.payloads.iter().map(|payload| payload.offset).collect();
        assert_eq!((offsets, command.home.key.as_str()), (vec![0, 5, 11], "a"));
        let chunk = command.extent.id.chunk(0);
        for node in 1..=3 {
            let stored = cx_get(&world, NodeId(node), chunk).await;
            assert_eq!(stored, Bytes::from_static(b"firstsecondthird"));
        }
    }

    #[tokio::test]
    async fn nothing_moves_where_too_few_nodes_take_it() {
        let world = World::new(3);
        world.meta.set_inline(&[("a", "first")]);
        world.chunks.silence(NodeId(1), true);
        world.chunks.silence(NodeId(2), true);
        let mut job = PackInline::new(0);
        job.step(&world.context(1)).await.unwrap();
        assert!(job.step(&world.context(1)).await.is_err());
        assert!(world.meta.packed().is_empty());
        world.chunks.silence(NodeId(1), false);
        job.step(&world.context(1)).await.unwrap();
        assert_eq!(world.meta.packed()[0].extent.confirmed, 0b101);
    }

    async fn cx_get(world: &World, node: NodeId, chunk: fabric::ids::ChunkId) -> Bytes {
        world.context(1).chunks.get(node, chunk, 0, 16).await.unwrap()
    }
}
