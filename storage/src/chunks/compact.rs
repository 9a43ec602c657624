//! Gives the disk of nearly empty volumes back: what is left in one moves into the volume that is written, and a volume
//! that holds nothing is removed.
//!
//! The writer does it, between two batches, so that no put and no delete comes between. What always holds: a chunk is
//! proved when it is read here, and synced there, before its row is dropped here; whoever looked for it in the old
//! volume meanwhile looks again, see [`Shared::unmoved`]. A file is removed when it is listed no more: a crash leaves a
//! chunk in one volume or in both, and an empty volume as one that is removed later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fabric::ids::ChunkId;

use super::tables::NewChunk;
use super::volume::{Commit, Volume};
use super::writer::{BATCH_REQUESTS_MAX, Changes, Writer};
use crate::client::ChunkError;

/// A volume is nearly empty when its chunks take less than this part of what a full one has.
const NEARLY_EMPTY_PART: u64 = 4;
/// A volume where nothing but rot is left is looked at again after this: repair may have healed it.
const ROTTEN_PAUSE: Duration = Duration::from_secs(60 * 60);

/// What one unit of compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// There was nothing to do, or no room to do it in.
    Nothing,
    /// So many chunks moved; there may be more.
    Moved(usize),
    /// An empty volume was removed; its file had so many bytes.
    Removed(u64),
}

/// When volumes with rotten chunks are looked at again (monotonic), by number.
pub(super) type Pauses = BTreeMap<u32, Duration>;

impl Writer {
    /// One bounded unit. Blocks.
    pub(super) fn compact(&mut self) -> Result<Compacted, ChunkError> {
        let outcome = self.compact_some();
        self.shared.close_idle_handles();
        outcome
    }

    fn compact_some(&mut self) -> Result<Compacted, ChunkError> {
        for volume in self.nearly_empty().into_iter().filter(|volume| volume.disk_bytes() == 0) {
            let empty = volume.read(|tables| tables.is_empty());
            if empty.map_err(|why| self.shared.unavailable(why))?
                && let Some(bytes) = self.remove(&volume)?
            {
                return Ok(Compacted::Removed(bytes));
            }
        }
        let now = self.shared.seams.env.monotonic();
        self.pauses.retain(|_, until| now < *until);
        let bytes_max = self.batch_bytes as u64;
        for candidate in self.nearly_empty() {
            // One that is not empty and has no bytes holds rotten rows only.
            if candidate.disk_bytes() == 0 || self.pauses.contains_key(&candidate.number) {
                continue;
            }
            let target = match self.writable(candidate.disk_bytes().min(bytes_max)) {
                Ok(target) => target,
                Err(ChunkError::Full(_)) => return Ok(Compacted::Nothing),
                Err(error) => return Err(error),
            };
            // The emptiest volume may just have become the one that is written: that uses its space as well.
            if candidate.number == target.number {
                continue;
            }
            let moved = self.move_some(&candidate, &target)?;
            if moved > 0 {
                return Ok(Compacted::Moved(moved));
            }
            self.pauses.insert(candidate.number, now + ROTTEN_PAUSE);
        }
        Ok(Compacted::Nothing)
    }

    /// Volumes other than the one that is written that serve and hold little, the emptiest first.
    fn nearly_empty(&self) -> Vec<Arc<Volume>> {
        let little = self.shared.settings.volume_bytes_max / NEARLY_EMPTY_PART;
        let active = self.active.as_ref().map(|active| active.number);
        let fits = |volume: &Arc<Volume>| {
            Some(volume.number) != active && volume.is_counted() && volume.disk_bytes() < little
        };
        let mut volumes = self.shared.all();
        volumes.retain(fits);
        volumes.sort_by_key(|volume| volume.disk_bytes());
        volumes
    }

    /// Moves the first chunks of a volume, as many as fit into a batch. Returns how many have left it.
    fn move_some(&self, from: &Volume, to: &Volume) -> Result<usize, ChunkError> {
        let shared = &self.shared;
        let bytes_max = self.batch_bytes;
        let rest = from
            .read(|tables| tables.first_chunks(BATCH_REQUESTS_MAX, bytes_max))
            .map_err(|why| shared.unavailable(why))?;
        rest.rotten.iter().for_each(|chunk| shared.report(*chunk));
        if rest.whole.is_empty() {
            return Ok(0);
        }
        let moved = self.copy_all(to, &rest.whole)?;
        // Before anything is dropped there, whoever looks again finds it here.
        shared.moves.fetch_add(1, Ordering::SeqCst);
        let dropped = from.commit(Commit::Settled, |tables| {
            let mut changes = Changes::default();
            for chunk in &moved {
                changes.remove(tables, *chunk)?;
            }
            Ok(changes)
        });
        // If that failed, the chunks may be in both volumes until this one was counted again, as the locator says.
        dropped.map_err(|why| shared.unavailable(why))?.tell(shared, from);
        metrics::counter!("fluffy_chunks_compacted_total").increment(moved.len() as u64);
        Ok(moved.len())
    }

    /// Copies chunks into a volume. Returns, when they are synced, those that it holds now.
    fn copy_all(&self, to: &Volume, chunks: &[NewChunk]) -> Result<Vec<ChunkId>, ChunkError> {
        let shared = &self.shared;
        let unsynced = shared.seams.env.armed("chunk_move_before_sync");
        let how = if unsynced { Commit::Unsynced } else { Commit::Synced };
        let copied = to.commit(how, |tables| {
            let (mut changes, mut held) = (Changes::default(), Vec::new());
            for new in chunks {
                if changes.put(tables, new)? {
                    held.push(new.id);
                } else {
                    tracing::error!(chunk = %new.id, "two volumes hold other bytes under one id");
                }
            }
            Ok((changes, held))
        });
        match copied {
            Ok((changes, held)) => {
                changes.tell(shared, to);
                Ok(held)
            }
            Err(why) => {
                let failed = self.refused(why);
                self.suspect(to, chunks.iter().map(|new| new.id));
                Err(failed)
            }
        }
    }

    /// Removes an empty volume. Returns the bytes of its file; `None`: somebody still looks at it.
    fn remove(&self, volume: &Arc<Volume>) -> Result<Option<u64>, ChunkError> {
        let shared = &self.shared;
        // A volume that is listed and not there would be a loss.
        let unlisted = shared.record.unlist(volume.number);
        unlisted.map_err(|error| shared.unavailable(error))?;
        volume.set_listed(false);
        // Whoever found it before it was forgotten, and then finds it retired, looks again.
        shared.forget(volume.number);
        shared.moves.fetch_add(1, Ordering::SeqCst);
        if !volume.retire() {
            shared.keep(volume.clone());
            return Ok(None);
        }
        let bytes = volume.remove_file();
        let bytes = bytes.map_err(|error| shared.unavailable(format!("remove a volume: {error}")))?;
        tracing::info!(volume = volume.number, bytes, "an empty volume is removed");
        metrics::counter!("fluffy_chunk_volumes_compacted_total").increment(1);
        metrics::counter!("fluffy_chunk_compacted_bytes_total").increment(bytes);
        Ok(Some(bytes))
    }
}
