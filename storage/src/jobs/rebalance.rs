//! Brings extents to where a newer layout wants them.
//!
//! An extent is brought by the first of its new owners that lacks it, to all that lack it, and then its row changes: old
//! copies stay until every new owner holds the extent (see `leave`). A new owner that does not answer owes its copy.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::model::Home;
use consensus::meta::query::{Answer, Query};
use fabric::ids::{ExtentId, LayoutVersion};
use fabric::limits::MOVES_PER_COMMAND;

use super::bringing::bring_some;
use super::moving::{Moving, say_moved};
use super::supply::Supply;
use super::work::{Queue, Task, Unit};
use super::{Job, JobContext, JobError, Next, wrong_answer};

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
    walk: Walk,
    /// One that takes several units.
    current: Option<Moving>,
    /// What was brought in the present walk, and what could not be.
    brought: u64,
    failed: u64,
    look_at: Duration,
    walk_at: Duration,
    pause: Duration,
}

/// How far a walk over what lies elsewhere has come.
#[derive(Default)]
struct Walk {
    /// Behind this one.
    after: Option<(Home, ExtentId)>,
    /// It has seen everything.
    seen_all: bool,
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
        ToLayout { walk: &mut self.walk, layout }.fill(cx).await?;
        self.bring_some(cx, layout).await?;
        if self.walk.seen_all && self.current.is_none() && cx.work.moves.is_empty() {
            // Whether a thief has done what it took is seen in the next walk, soon.
            self.failed += cx.work.moves.take_stolen();
            self.end_walk(now);
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
            cx.work.moves.clear();
            *self = Rebalance { layout: Some(layout), pause: WALK_PAUSE_MIN, ..Rebalance::default() };
        }
        Ok(())
    }

    fn end_walk(&mut self, now: Duration) {
        match (self.failed, self.brought) {
            (0, 0) => {
                self.walk_at = now + self.pause;
                self.pause = (self.pause * 2).min(WALK_PAUSE_MAX);
            }
            // A row stays as it is where too few of its new owners are trusted: it is tried again.
            (0, _) => (self.walk_at, self.pause) = (now + WALK_PAUSE_MIN, WALK_PAUSE_MIN),
            _ => (self.walk_at, self.pause) = (now + REST, WALK_PAUSE_MIN),
        }
        (self.failed, self.brought, self.walk) = (0, 0, Walk::default());
    }

    /// Brings extents and changes their rows, as many as a unit takes.
    async fn bring_some(&mut self, cx: &JobContext, layout: LayoutVersion) -> Result<(), JobError> {
        let next = || cx.work.moves.pop().map(|unit| Moving::new(unit.home, unit.extent, layout));
        let mut supply = ToLayout { walk: &mut self.walk, layout };
        let outcome = tokio::select! {
            outcome = bring_some(cx, &mut self.current, next, MOVES_PER_COMMAND) => outcome,
            never = supply.keep_filled(cx) => match never {},
        };
        for (moving, error) in &outcome.failed {
            tracing::debug!(%error, extent = %moving.id(), "an extent is not brought yet");
        }
        self.failed += outcome.failed.len() as u64;
        self.brought += outcome.brought.len() as u64;
        let said = say_moved(cx, layout, outcome.brought).await;
        // What did not happen is due in the next walk, soon.
        self.failed += u64::from(said.is_err());
        Ok(said?)
    }
}

/// A walk, and where it leads.
struct ToLayout<'a> {
    walk: &'a mut Walk,
    layout: LayoutVersion,
}

#[async_trait]
impl Supply for ToLayout<'_> {
    fn queue<'a>(&self, cx: &'a JobContext) -> &'a Queue {
        &cx.work.moves
    }

    fn seen_all(&self) -> bool {
        self.walk.seen_all
    }

    async fn read_on(&mut self, cx: &JobContext) -> Result<(), JobError> {
        let (after, limit) = (self.walk.after.clone(), MOVES_PER_COMMAND as u32);
        let Answer::Placed { extents, next } =
            ask(&*cx.meta, Query::Moving { node: cx.node, after, limit }).await?
        else {
            return Err(wrong_answer("moving"));
        };
        let unit = |(home, extent)| Unit { home, extent, task: Task::Move(self.layout) };
        self.queue(cx).push(extents.into_iter().map(unit));
        *self.walk = Walk { seen_all: next.is_none(), after: next };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fabric::coding::Coding;
    use fabric::ids::NodeId;

    use super::*;
    use crate::jobs::testing::{World, coded, extent};

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

    #[tokio::test]
    async fn shards_go_to_the_places_that_a_newer_layout_gives_them() {
        let world = World::new(6);
        // All are confirmed but the first; so node 1 lacks its own, which is rebuilt.
        let moved = coded(1, Coding::FourPlusTwo, 3_000, 100);
        world.fill_shards(&moved, &[2, 3, 4, 5, 6]).await;
        world.meta.place(std::slice::from_ref(&moved));
        // Node 6 is gone, and node 1 takes its shard beside its own; nodes 2 and 3 change places.
        world.meta.set_owners(&[1, 3, 2, 4, 5]);
        run(&mut Rebalance::default(), &world.context(1)).await;
        assert_eq!(world.meta.moved(), [(moved.id, vec![NodeId(1), NodeId(3), NodeId(2)])]);
        for (place, node) in [1, 3, 2, 4, 5].into_iter().enumerate() {
            assert!(world.has_shards(&moved, node, place, 5).await, "node {node}");
        }
    }
}
