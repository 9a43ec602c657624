//! Giving disk back: the rest of a nearly empty volume is moved into others, and its file is removed.
//!
//! Puts fill sealed volumes again before a new one is made, so only a store that shrinks has anything to do here. One
//! unit reads some chunks of one volume, proved, and hands them to the writer, which is the only one to change volumes:
//! it stores those that are still there in the volume it writes, synced, and removes them here. A crash between leaves
//! a chunk in two volumes, the same bytes in both, and the next unit goes on. A volume is removed once its index is
//! empty: first from the list, so that its absence is no loss, then the file.

use std::sync::Arc;

use fabric::limits::MIB;
use tokio::sync::OwnedSemaphorePermit;

use super::tables::{Check, Found, NewChunk};
use super::volume::Volume;
use super::writer::Request;
use super::{ChunkStore, Shared};
use crate::client::ChunkError;

/// A volume with less than this part of its file in use is emptied.
const NEARLY_EMPTY_PART: u64 = 4;
/// A file smaller than this part of a full volume is not worth it.
const WORTHWHILE_PART: u64 = 16;
/// Chunks of one unit, and their bytes.
const CHUNKS_PER_UNIT: usize = 64;
const BYTES_PER_UNIT: u64 = 8 * MIB;
/// Where more of them are rotten in a row, compaction waits for repair.
const CHUNKS_LOOKED_AT: usize = 4 * CHUNKS_PER_UNIT;

/// What a unit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// There is nothing to gain now.
    Idle,
    /// So many chunks were handed to the writer to be moved.
    Moved(usize),
    /// A volume is gone; bytes of its file.
    Removed(u64),
}

/// What is to be done with a volume.
enum Plan {
    Move { from: u32, chunks: Vec<NewChunk>, bytes: u64 },
    Remove { volume: u32, file_bytes: u64 },
}

impl ChunkStore {
    /// Does one bounded unit of compaction.
    pub async fn compact(&self) -> Result<Compaction, ChunkError> {
        self.check_ready()?;
        let plan = self.reading(|shared| shared.plan_compaction()).await?;
        match plan {
            None => Ok(Compaction::Idle),
            Some(Plan::Move { from, chunks, bytes }) => {
                let count = chunks.len();
                let _room: OwnedSemaphorePermit = self.room(bytes).await?;
                self.write(|reply| Request::Relocate { from, chunks, reply, _room }).await?;
                Ok(Compaction::Moved(count))
            }
            Some(Plan::Remove { volume, file_bytes }) => {
                self.write(|reply| Request::Remove { volume, reply }).await?;
                metrics::counter!("fluffy_chunk_volumes_compacted_total").increment(1);
                metrics::counter!("fluffy_compacted_bytes_total").increment(file_bytes);
                Ok(Compaction::Removed(file_bytes))
            }
        }
    }
}

impl Shared {
    fn plan_compaction(&self) -> Result<Option<Plan>, ChunkError> {
        let Some(volume) = self.nearly_empty() else { return Ok(None) };
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        let mut empty = true;
        let mut rotten = Vec::new();
        let look = |tables: &super::tables::Reading| {
            let ids = tables.first(CHUNKS_LOOKED_AT)?;
            empty = ids.is_empty();
            for chunk in ids {
                if chunks.len() == CHUNKS_PER_UNIT || bytes >= BYTES_PER_UNIT {
                    break;
                }
                let (Found::Here(body), Found::Here(stat)) =
                    (tables.get(chunk, Check::Crc)?, tables.stat(chunk)?)
                else {
                    rotten.push(chunk);
                    continue;
                };
                bytes += u64::from(stat.bytes);
                let (bytes, crc32c, origin) = (stat.bytes, stat.crc32c, stat.origin);
                chunks.push(NewChunk { id: chunk, parts: vec![body], bytes, crc32c, origin });
            }
            Ok(())
        };
        volume.read(look).map_err(|why| self.unavailable(why))?;
        // They stay until repair has put good bytes in their place.
        rotten.into_iter().for_each(|chunk| self.report(chunk));
        Ok(match empty {
            true => Some(Plan::Remove { volume: volume.number, file_bytes: volume.file_bytes() }),
            false if chunks.is_empty() => None,
            false => Some(Plan::Move { from: volume.number, chunks, bytes }),
        })
    }

    /// The volume with the fewest bytes that is worth to be emptied, if the others have room for them.
    fn nearly_empty(&self) -> Option<Arc<Volume>> {
        let worthwhile = self.settings.volume_bytes_max / WORTHWHILE_PART;
        let volumes = self.all();
        let sealed = volumes.iter().filter(|volume| !volume.is_broken() && !self.is_active(volume.number));
        let emptiest = sealed
            .filter(|volume| worthwhile <= volume.file_bytes())
            .filter(|volume| volume.disk_bytes() < volume.file_bytes() / NEARLY_EMPTY_PART)
            .min_by_key(|volume| (volume.disk_bytes(), volume.number))?;
        let others = volumes.iter().filter(|volume| volume.number != emptiest.number && !volume.is_broken());
        let room: u64 = others.map(|volume| self.refill_bytes(volume)).sum();
        (emptiest.disk_bytes() <= room).then(|| emptiest.clone())
    }
}
