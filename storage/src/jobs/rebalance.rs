//! Brings extents to where a newer layout wants them.
//!
//! An extent is brought by the first of its new owners that lacks it, to all that lack it, and then its row changes: old
//! copies stay until every new owner holds the extent (see `leave`). A new owner that does not answer owes its copy.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::command::{Command, MoveExtents, MovedExtent};
use consensus::meta::model::{Extent, Home};
use consensus::meta::query::{Answer, Query};
use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use fabric::limits::{COPIES, COPIES_DURABLE_MIN, MOVES_PER_COMMAND};
use fabric::placement::Layout;

use super::copy::{bring, sources};
use super::{Job, JobContext, JobError, Next, wrong_answer};

/// Chunks of one unit, looked at or brought.
const CHUNKS_PER_STEP: u64 = 64;
/// While nothing moves, the layout is looked at so often.
const REST: Duration = Duration::from_secs(2);
/// After a walk that found all in place, the next one begins after this, doubled each time up to [`WALK_PAUSE_MAX`]:
/// writes that began under an older layout may end late.
const WALK_PAUSE_MIN: Duration = Duration::from_secs(10);
const WALK_PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// See the file's head.
#[derive(Default)]
pub struct Rebalance {
    /// The layout that extents are brought to; `None`: not asked yet.
    layout: Option<LayoutVersion>,
    /// Behind this one in the present walk, with the chunks of the next extent that are done.
    after: Option<(Home, ExtentId)>,
    done_chunks: u64,
    /// New owners that were not given one of these.
    missed: BTreeSet<NodeId>,
    /// What could not be brought in the present walk.
    failed: u64,
    look_at: Duration,
    walk_at: Duration,
    pause: Duration,
}

#[async_trait]
impl Job for Rebalance {
    fn name(&self) -> &'static str {
        "rebalance"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let now = cx.env.monotonic();
        if self.look_at <= now {
            self.look(cx).await?;
            self.look_at = now + REST;
        }
        // Nothing was ever placed otherwise than in the first layout.
        let Some(layout) = self.layout.filter(|layout| *layout > LayoutVersion(1) && self.walk_at <= now)
        else {
            return Ok(Next::Rest(REST));
        };
        let question =
            Query::Moving { node: cx.node, after: self.after.clone(), limit: MOVES_PER_COMMAND as u32 };
        let Answer::Placed { extents, next } = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("moving"));
        };
        if self.bring_some(cx, layout, extents).await? {
            // Rows that are not this node's to bring were passed over.
            self.go_behind(next.clone());
            if next.is_none() {
                self.end_walk(now);
            }
        }
        Ok(Next::Again)
    }
}

impl Rebalance {
    /// Learns of members and of a newer layout, for which a walk begins.
    async fn look(&mut self, cx: &JobContext) -> Result<(), JobError> {
        let Answer::Members { nodes, layout } = ask(&*cx.meta, Query::Members).await? else {
            return Err(wrong_answer("members"));
        };
        cx.chunks.learn(nodes.into_iter().map(|row| (row.id, row.address)).collect());
        if self.layout != Some(layout) {
            *self = Rebalance { layout: Some(layout), pause: WALK_PAUSE_MIN, ..Rebalance::default() };
        }
        Ok(())
    }

    fn end_walk(&mut self, now: Duration) {
        if self.failed == 0 {
            self.walk_at = now + self.pause;
            self.pause = (self.pause * 2).min(WALK_PAUSE_MAX);
        } else {
            (self.walk_at, self.pause) = (now + REST, WALK_PAUSE_MIN);
        }
        self.failed = 0;
    }

    fn go_behind(&mut self, place: Option<(Home, ExtentId)>) {
        (self.after, self.done_chunks) = (place, 0);
        self.missed.clear();
    }

    /// Brings extents and changes their rows, as many as a unit takes. `true`: all of them.
    async fn bring_some(
        &mut self,
        cx: &JobContext,
        layout: LayoutVersion,
        extents: Vec<(Home, Extent)>,
    ) -> Result<bool, JobError> {
        let mut moves = Vec::new();
        let mut left = CHUNKS_PER_STEP;
        let mut whole = true;
        for (home, extent) in extents {
            match self.bring_one(cx, layout, &extent, &mut left).await {
                Ok(None) => {
                    whole = false; // The unit is used up; the next one goes on with this extent.
                    break;
                }
                Ok(Some(brought)) => {
                    let (id, from) = (extent.id, extent.layout);
                    moves.push(MovedExtent { home: home.clone(), id, from, brought });
                }
                Err(error) => {
                    tracing::debug!(%error, extent = %extent.id, "an extent is not brought yet");
                    self.failed += 1;
                }
            }
            self.go_behind(Some((home, extent.id)));
        }
        if !moves.is_empty() {
            metrics::counter!("fluffy_extents_moved_total").increment(moves.len() as u64);
            let proposed = cx.meta.propose(Command::MoveExtents(MoveExtents { layout, moves })).await;
            // What did not happen is due in the next walk, soon.
            self.failed += u64::from(proposed.is_err());
            proposed?;
        }
        Ok(whole)
    }

    /// Brings the chunks of an extent from `done_chunks` on, `left` at most. Returns who was given all of them; `None`
    /// when there are more.
    async fn bring_one(
        &mut self,
        cx: &JobContext,
        layout: LayoutVersion,
        extent: &Extent,
        left: &mut u64,
    ) -> Result<Option<Vec<NodeId>>, JobError> {
        let old = cx.layout(extent.layout).await?;
        let new = cx.layout(layout).await?;
        let (mut to, holding) = lacking(extent, &old, &new);
        if to.is_empty() {
            return Ok(Some(to));
        }
        // None is left out as a source: each may hold what it is not known to hold.
        let from = sources(old.owners_of(extent.id), extent.confirmed, NodeId(0));
        let until = extent.chunks().min(self.done_chunks + *left);
        let chunks: Vec<_> = (self.done_chunks..until)
            .map(|ordinal| (extent.id.chunk(ordinal as u32), extent.bytes_of(ordinal)))
            .collect();
        let mut silent = BTreeSet::new();
        for node in &to {
            let from: Vec<NodeId> = from.iter().copied().filter(|source| source != node).collect();
            if let Err(error) = bring(cx, *node, &chunks, &from).await {
                tracing::debug!(%error, %node, extent = %extent.id, "a new owner is not given its copy");
                silent.insert(*node);
            }
        }
        to.retain(|node| !silent.contains(node));
        if holding + to.len() < COPIES_DURABLE_MIN.min(new.owners_of(extent.id).len()) {
            return Err(JobError::Other("too few new owners hold it".to_string()));
        }
        // Who missed a part of it owes all of it: whoever is given a later part only is not named.
        self.missed.extend(silent);
        *left = left.saturating_sub(chunks.len() as u64);
        self.done_chunks = until;
        if until < extent.chunks() {
            return Ok(None);
        }
        let missed = std::mem::take(&mut self.missed);
        to.retain(|node| !missed.contains(node));
        Ok(Some(to))
    }
}

/// Owners in the new layout that are not confirmed in the old one, and how many are.
fn lacking(extent: &Extent, old: &Layout, new: &Layout) -> (Vec<NodeId>, usize) {
    let olds = old.owners_of(extent.id);
    let holds = |node: &NodeId| {
        olds.iter().position(|old| old == node).is_some_and(|place| extent.confirmed >> place & 1 == 1)
    };
    let news = new.owners_of(extent.id).iter().copied().take(COPIES);
    let (holding, lacking): (Vec<_>, Vec<_>) = news.partition(|node| holds(node));
    (lacking, holding.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::jobs::testing::{World, extent};

    /// Steps until there is nothing to do now.
    async fn run(job: &mut Rebalance, cx: &JobContext) {
        for _ in 0..100 {
            if let Next::Rest(_) = job.step(cx).await.unwrap() {
                return;
            }
        }
        panic!("it never rests");
    }

    #[tokio::test]
    async fn nothing_moves_in_the_first_layout() {
        let world = World::new(3);
        world.meta.place(&[extent(1, 100, 100)]);
        run(&mut Rebalance::default(), &world.context(1)).await;
        assert!(world.meta.moved().is_empty());
    }

    #[tokio::test]
    async fn a_new_owner_brings_what_it_and_others_lack() {
        let world = World::new(3);
        let (long, short) = (extent(1, 10_000, 100), extent(2, 50, 100));
        for extent in [&long, &short] {
            world.fill(extent, &[2, 3]).await; // What `extent` says is confirmed.
        }
        world.meta.place(&[long.clone(), short.clone()]);
        world.meta.set_owners(&[4, 1, 2]);
        run(&mut Rebalance::default(), &world.context(4)).await;
        let brought = vec![NodeId(4), NodeId(1)];
        assert_eq!(world.meta.moved(), [(long.id, brought.clone()), (short.id, brought)]);
        for node in [1, 4] {
            assert_eq!(world.chunks.count(NodeId(node)), 101);
            assert!(world.chunks.get_now(NodeId(node), long.id.chunk(99)));
        }
    }

    #[tokio::test]
    async fn a_silent_new_owner_owes_its_copy() {
        let world = World::new(3);
        let extent = extent(1, 300, 100);
        world.fill(&extent, &[2, 3]).await;
        world.meta.place(std::slice::from_ref(&extent));
        world.meta.set_owners(&[4, 1, 2]);
        world.chunks.silence(NodeId(1), true);
        run(&mut Rebalance::default(), &world.context(4)).await;
        assert_eq!(world.meta.moved(), [(extent.id, vec![NodeId(4)])]);
    }

    #[tokio::test]
    async fn rows_stay_while_their_bytes_cannot_be_had_and_move_soon_after() {
        let world = World::new(3);
        let extent = extent(1, 300, 100);
        world.fill(&extent, &[2, 3]).await;
        world.meta.place(std::slice::from_ref(&extent));
        world.meta.set_owners(&[4, 5, 6]);
        [2, 3].into_iter().for_each(|node| world.chunks.silence(NodeId(node), true));
        let (mut job, cx) = (Rebalance::default(), world.context(4));
        run(&mut job, &cx).await;
        assert!(world.meta.moved().is_empty());
        [2, 3].into_iter().for_each(|node| world.chunks.silence(NodeId(node), false));
        world.advance(REST);
        run(&mut job, &cx).await;
        assert_eq!(world.meta.moved().len(), 1);
    }
}
