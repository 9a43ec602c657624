//! Brings back what this node lost: everything that the catalog places on it.
//!
//! A loss is told to the metadata first, which then owes every partition of the node. One walk over the named
//! extents, in the order of their homes, copies what is missing, proved at its source. What is named after the loss
//! was told is owed by debts; what was named before is met by the walk. Left are writes that were open at that
//! moment, whose chunks may have reached the node before the loss: a partition is verified only when all of them
//! are decided, those that take long being pinned by their sessions. Then its row goes.
//!
//! The same walk looks for missing chunks once a day without any loss being known: disks forget.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::command::{Command, EndAbsence, ReportLoss};
use consensus::meta::model::{Absence, Extent, Home};
use consensus::meta::query::{Answer, PlacedOf, Query};
use fabric::coding::Coding;
use fabric::ids::{ChunkId, ExtentId};
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::copy::{Sources, bring_one};
use super::{Job, JobContext, JobError, Next, wrong_answer};
use crate::chunks::ChunkStore;
use crate::client::ChunkStat;

/// Extents of one unit.
const EXTENTS_PER_STEP: u32 = 256;
/// Chunks of one unit, looked at or copied.
const CHUNKS_PER_STEP: usize = 256;
/// Chunks that are copied at once, where they are small; see [`ChunkStore::queue_bytes`].
const AT_ONCE: usize = 64;
/// When nothing is lost, the next look is after this.
const REST: Duration = Duration::from_secs(5);
/// After a walk that could not bring everything, the next one begins after this; doubled each time up to
/// [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(10 * 60);
/// A write that is older is pinned by its session: one minute more than the five it may be silent about.
const WRITES_PINNED_AFTER: Duration = Duration::from_secs(6 * 60);
/// Between two walks while no loss is known.
const WALK_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// See the file's head.
pub struct Restore {
    store: ChunkStore,
    walk: Option<Walk>,
    walked: Option<Walked>,
    /// When the last walk began (monotonic); of the process, if there was none.
    last_walk: Option<Duration>,
}

/// One pass over the named extents.
struct Walk {
    of: PlacedOf,
    /// Of the rows it is for; 0 without.
    index: u64,
    /// When the rows were seen (monotonic).
    seen: Duration,
    after: Option<(Home, ExtentId)>,
    /// The extent being looked at, and its chunks that were.
    done_chunks: u64,
    incomplete: BTreeSet<u16>,
    restored: u64,
    without_source: u64,
}

/// What the last walk for a loss left.
#[derive(Clone)]
struct Walked {
    /// Of the rows it was for.
    index: u64,
    /// When they were first seen (monotonic).
    seen: Duration,
    /// Partitions that lack chunks still, and when they are walked for again (monotonic).
    incomplete: BTreeSet<u16>,
    retry_at: Duration,
    retry: Duration,
}

/// A chunk that is looked for.
struct Wanted {
    chunk: ChunkId,
    bytes: u64,
    from: Arc<Sources>,
    partition: u16,
}

impl Wanted {
    /// What bringing it takes: a shard is rebuilt from as many others as hold the data.
    fn memory_bytes(&self) -> usize {
        self.bytes as usize * self.chunk.extent().coding().map_or(1, Coding::data)
    }
}

#[async_trait]
impl Job for Restore {
    fn name(&self) -> &'static str {
        "restore"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if let Some(loss) = self.store.untold_loss() {
            cx.meta.propose(Command::ReportLoss(ReportLoss { node: cx.node })).await?;
            self.store.tell_loss(loss).await?;
            (self.walk, self.walked) = (None, None);
        }
        match self.walk.take() {
            Some(walk) => self.go_on(cx, walk).await,
            None => self.look(cx).await,
        }
    }
}

impl Restore {
    /// Brings back what `store` lost.
    pub fn new(store: ChunkStore) -> Restore {
        Restore { store, walk: None, walked: None, last_walk: None }
    }

    /// Decides what to do next.
    async fn look(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let Answer::Absences(absences) = ask(&*cx.meta, Query::Absences(cx.node)).await? else {
            return Err(wrong_answer("absences"));
        };
        let now = cx.env.monotonic();
        metrics::gauge!("fluffy_partitions_to_verify").set(absences.len() as f64);
        let Some(index) = absences.iter().map(|(_, absence)| absence.index).max() else {
            self.walked = None;
            let last_walk = *self.last_walk.get_or_insert(now);
            if now < last_walk + WALK_INTERVAL {
                return Ok(Next::Rest(REST));
            }
            self.begin(PlacedOf::All, 0, now);
            return Ok(Next::Again);
        };
        match self.walked.clone() {
            Some(walked) if walked.index == index => self.end(cx, walked, absences).await,
            _ => {
                tracing::warn!(node = %cx.node, partitions = absences.len(), "chunks were lost and are restored");
                self.begin(PlacedOf::Absences, index, now);
                Ok(Next::Again)
            }
        }
    }

    fn begin(&mut self, of: PlacedOf, index: u64, seen: Duration) {
        self.last_walk = Some(seen);
        self.walk = Some(Walk {
            of,
            index,
            seen,
            after: None,
            done_chunks: 0,
            incomplete: BTreeSet::new(),
            restored: 0,
            without_source: 0,
        });
    }

    /// One unit of a walk.
    async fn go_on(&mut self, cx: &JobContext, mut walk: Walk) -> Result<Next, JobError> {
        match walk.step(cx, self.store.queue_bytes()).await {
            Ok(true) => {
                self.walk = Some(walk);
                Ok(Next::Again)
            }
            Ok(false) => {
                tracing::info!(
                    node = %cx.node, restored = walk.restored, without_source = walk.without_source,
                    "looked for everything that belongs here"
                );
                metrics::gauge!("fluffy_chunks_without_source").set(walk.without_source as f64);
                if walk.of == PlacedOf::Absences {
                    let Walk { index, seen, incomplete, .. } = walk;
                    let before = self.walked.as_ref().filter(|before| before.index == index);
                    let retry = before.map_or(RETRY_MIN, |before| (before.retry * 2).min(RETRY_MAX));
                    let retry_at = cx.env.monotonic() + retry;
                    self.walked = Some(Walked { index, seen, incomplete, retry_at, retry });
                }
                Ok(Next::Rest(REST))
            }
            Err(error) => {
                self.walk = Some(walk); // The same unit is done again.
                Err(error)
            }
        }
    }

    /// Ends the rows of partitions that are verified; walks again for those that are not complete.
    async fn end(
        &mut self,
        cx: &JobContext,
        walked: Walked,
        absences: Vec<(u16, Absence)>,
    ) -> Result<Next, JobError> {
        let now = cx.env.monotonic();
        if !walked.incomplete.is_empty() && walked.retry_at <= now {
            self.begin(PlacedOf::Absences, walked.index, walked.seen);
            return Ok(Next::Again);
        }
        if now < walked.seen + WRITES_PINNED_AFTER {
            return Ok(Next::Rest(REST));
        }
        let open = open_writes(cx).await?;
        let mut verified = Vec::new();
        for (partition, absence) in &absences {
            let layout = cx.layout(absence.layout).await?;
            let is_open = open.iter().any(|extent| layout.partition_of(*extent) == usize::from(*partition));
            if absence.index == walked.index && !is_open && !walked.incomplete.contains(partition) {
                verified.push(*partition);
            }
        }
        if verified.is_empty() {
            return Ok(Next::Rest(REST));
        }
        let all = verified.len() == absences.len();
        let end = EndAbsence { node: cx.node, partitions: verified, index: walked.index };
        cx.meta.propose(Command::EndAbsence(end)).await?;
        if all {
            tracing::info!(node = %cx.node, "everything that was lost is restored and verified");
            self.store.remove_lost().await;
        }
        Ok(Next::Rest(REST))
    }
}

/// Extents that sessions pin: among them every write that is older than [`WRITES_PINNED_AFTER`].
async fn open_writes(cx: &JobContext) -> Result<BTreeSet<ExtentId>, JobError> {
    match ask(&*cx.meta, Query::Sessions).await? {
        Answer::Sessions(sessions) => {
            Ok(sessions.into_iter().flat_map(|(_, session)| session.pinned).collect())
        }
        _ => Err(wrong_answer("sessions")),
    }
}

impl Walk {
    /// Looks at some extents and copies what is missing of them. `false`: that was the end.
    async fn step(&mut self, cx: &JobContext, queue_bytes: usize) -> Result<bool, JobError> {
        if cx.env.armed("restore_unseen") {
            return Ok(false);
        }
        let question =
            Query::Placed { node: cx.node, of: self.of, after: self.after.clone(), limit: EXTENTS_PER_STEP };
        let Answer::Placed { extents, next } = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("placed"));
        };
        let mut wanted = Vec::new();
        let (mut after, mut done_chunks) = (self.after.clone(), self.done_chunks);
        let mut whole = true;
        for (home, extent) in extents {
            done_chunks = self.want(cx, &extent, done_chunks, &mut wanted).await?;
            if done_chunks < extent.chunks() {
                whole = false; // The unit is full; the next one goes on with this extent.
                break;
            }
            after = Some((home, extent.id));
            done_chunks = 0;
        }
        self.bring(cx, wanted, queue_bytes).await?;
        if whole {
            // Rows that are not placed here were passed over.
            (self.after, self.done_chunks) = (next.clone(), 0);
            return Ok(next.is_some());
        }
        (self.after, self.done_chunks) = (after, done_chunks);
        Ok(true)
    }

    /// Adds chunks of an extent from `done` on, as far as the unit has room. Returns how many are done with them.
    async fn want(
        &self,
        cx: &JobContext,
        extent: &Extent,
        done: u64,
        wanted: &mut Vec<Wanted>,
    ) -> Result<u64, JobError> {
        let layout = cx.layout(extent.layout).await?;
        let owners = layout.owners_of(extent.id);
        let from = Arc::new(Sources::of(extent, owners));
        let partition = layout.partition_of(extent.id) as u16;
        let room = CHUNKS_PER_STEP.saturating_sub(wanted.len()) as u64;
        let until = extent.chunks().min(done + room);
        if let Some(place) = owners.iter().position(|owner| *owner == cx.node) {
            let chunks = extent.spread().chunks_at(place, owners.len(), done..until);
            wanted.extend(chunks.map(|(chunk, bytes)| Wanted {
                chunk,
                bytes,
                from: from.clone(),
                partition,
            }));
        }
        Ok(until)
    }

    /// Copies those that are not here, with as many bytes in memory as the store has room for. One that cannot be
    /// copied leaves its partition incomplete.
    async fn bring(
        &mut self,
        cx: &JobContext,
        wanted: Vec<Wanted>,
        queue_bytes: usize,
    ) -> Result<(), JobError> {
        let here = cx.chunks.stat(cx.node, wanted.iter().map(|wanted| wanted.chunk).collect()).await?;
        let is_missing = |(wanted, stat): (Wanted, Option<ChunkStat>)| {
            stat.is_none_or(|stat| u64::from(stat.bytes) != wanted.bytes).then_some(wanted)
        };
        let missing: Vec<Wanted> = wanted.into_iter().zip(here).filter_map(is_missing).collect();
        let room = &Semaphore::new(queue_bytes);
        let copies = missing.into_iter().map(|wanted| async move {
            let _room = room.acquire_many(wanted.memory_bytes().min(queue_bytes) as u32).await;
            let copied = bring_one(cx, cx.node, wanted.chunk, wanted.bytes, &wanted.from).await;
            (wanted.partition, wanted.chunk, copied)
        });
        let outcomes: Vec<_> = futures::stream::iter(copies).buffer_unordered(AT_ONCE).collect().await;
        for (partition, chunk, copied) in outcomes {
            match copied {
                Ok(()) => {
                    self.restored += 1;
                    metrics::counter!("fluffy_chunks_restored_total").increment(1);
                }
                Err(error) => {
                    tracing::debug!(%chunk, %error, "a lost chunk cannot be restored now");
                    self.incomplete.insert(partition);
                    self.without_source += 1;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::coding::Coding;
    use fabric::ids::NodeId;

    use super::super::testing::{World, coded, extent};
    use super::*;
    use crate::client::Chunks;

    const ME: NodeId = NodeId(1);

    /// A job of node 1 whose store is new: it lost whatever there was.
    async fn job() -> Restore {
        Restore::new(crate::testing::store(ME).await)
    }

    async fn walk(job: &mut Restore, cx: &JobContext) {
        while job.step(cx).await.unwrap() == Next::Again {}
    }

    #[tokio::test]
    async fn a_loss_is_told_walked_for_and_ended() {
        let world = World::new(3);
        let extents: Vec<_> = (1..=150).map(|number| extent(number, 300, 64)).collect();
        for extent in &extents {
            world.fill(extent, &[2, 3]).await;
        }
        world.meta.place(&extents);
        // One copy survived, one source is gone.
        world.chunks.put(ME, extents[5].id.chunk(0), vec![world.body(&extents[5], 0)], None).await.unwrap();
        world.chunks.delete(NodeId(2), vec![extents[7].id.chunk(0)]).await.unwrap();
        let (mut job, cx) = (job().await, world.context(1));
        walk(&mut job, &cx).await;
        assert_eq!(world.meta.absence(), (1, true));
        assert_eq!(world.chunks.count(ME), 150 * 5);
        assert_eq!(job.store.untold_loss(), None);
        // Writes that were open at the loss are decided only later.
        walk(&mut job, &cx).await;
        assert_eq!(world.meta.absence(), (1, true));
        world.advance(WRITES_PINNED_AFTER);
        walk(&mut job, &cx).await;
        assert_eq!(world.meta.absence(), (1, false));
        // Disks forget without being asked: the daily walk finds it.
        world.chunks.delete(ME, vec![extents[9].id.chunk(2)]).await.unwrap();
        walk(&mut job, &cx).await;
        assert_eq!(world.chunks.count(ME), 150 * 5 - 1);
        world.advance(WALK_INTERVAL);
        walk(&mut job, &cx).await;
        walk(&mut job, &cx).await;
        assert_eq!((world.chunks.count(ME), world.meta.absence()), (150 * 5, (1, false)));
    }

    #[tokio::test]
    async fn a_partition_that_lacks_a_chunk_stays_owed() {
        let world = World::new(3);
        let (whole, torn) = (extent(1, 100, 64), extent(2, 100, 64));
        for extent in [&whole, &torn] {
            world.fill(extent, &[2]).await;
        }
        world.chunks.delete(NodeId(2), vec![torn.id.chunk(1)]).await.unwrap();
        world.meta.place(&[whole, torn.clone()]);
        let (mut job, cx) = (job().await, world.context(1));
        walk(&mut job, &cx).await;
        assert_eq!(world.chunks.count(ME), 3, "what has a source is here");
        assert_eq!(job.walked.as_ref().unwrap().incomplete, [0].into());
        // The source comes back.
        world.chunks.put(NodeId(3), torn.id.chunk(1), vec![world.body(&torn, 1)], None).await.unwrap();
        world.advance(RETRY_MIN);
        assert_eq!(job.step(&cx).await.unwrap(), Next::Again);
        walk(&mut job, &cx).await;
        assert_eq!(world.chunks.count(ME), 4);
        assert!(job.walked.as_ref().unwrap().incomplete.is_empty());
    }

    #[tokio::test]
    async fn open_writes_keep_a_partition_owed() {
        let world = World::new(3);
        let writing = extent(9, 100, 64);
        world.meta.pin(&writing);
        let (mut job, cx) = (job().await, world.context(1));
        walk(&mut job, &cx).await;
        world.advance(WRITES_PINNED_AFTER);
        walk(&mut job, &cx).await;
        assert_eq!(world.meta.absence(), (1, true));
        world.meta.unpin();
        walk(&mut job, &cx).await;
        assert_eq!(world.meta.absence(), (1, false));
    }

    #[tokio::test]
    async fn lost_shards_are_rebuilt() {
        let world = World::new(6);
        let extents: Vec<_> = (1..=20).map(|number| coded(number, Coding::FourPlusTwo, 1_500, 64)).collect();
        for extent in &extents {
            world.fill_shards(extent, &[2, 3, 4, 5]).await;
        }
        world.meta.place(&extents);
        let (mut job, cx) = (job().await, world.context(1));
        walk(&mut job, &cx).await;
        assert!(job.walked.as_ref().unwrap().incomplete.is_empty());
        for extent in &extents {
            assert!(world.has_shards(extent, 1, 0, 6).await);
        }
        assert_eq!(world.chunks.count(ME), 20 * 6);
    }
}
