//! Pays what this node owes: copies of extents that it did not hold in full when they were committed.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::model::Home;
use consensus::meta::query::{Answer, Query};
use fabric::ids::ExtentId;

use super::bringing::bring_some;
use super::paying::{Paying, say_paid};
use super::supply::Supply;
use super::work::{Queue, Task, Unit};
use super::{Job, JobContext, JobError, Next, wrong_answer};

/// Debts that are read at once.
const DEBTS_PER_PAGE: u32 = 512;
/// Debts that one command pays.
const DEBTS_PER_COMMAND: usize = 128;
/// When nothing is owed, the next look is after this.
const REST: Duration = Duration::from_secs(2);

/// See the file's head.
#[derive(Default)]
pub struct Debts {
    round: Round,
    /// One that takes several units.
    current: Option<Paying>,
}

/// How far a round over all debts has come. Those that could not be paid wait for the next one, and so do those that were
/// stolen and are not paid.
#[derive(Default)]
struct Round {
    /// Behind this one.
    after: Option<(Home, ExtentId)>,
    /// It has seen everything.
    seen_all: bool,
}

#[async_trait]
impl Job for Debts {
    fn name(&self) -> &'static str {
        "debts"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        self.round.fill(cx).await?;
        if self.current.is_none() && cx.work.debts.is_empty() && self.round.seen_all {
            self.round = Round::default();
            return Ok(Next::Rest(REST));
        }
        let next = || cx.work.debts.pop().map(|unit| Paying::new(cx.node, unit.home, unit.extent));
        let mut outcome = tokio::select! {
            outcome = bring_some(cx, &mut self.current, next, DEBTS_PER_COMMAND) => outcome,
            never = self.round.keep_filled(cx) => match never {},
        };
        say_paid(cx, cx.node, outcome.brought).await?;
        outcome.failed.pop().map_or(Ok(Next::Again), |(_, error)| Err(error))
    }
}

#[async_trait]
impl Supply for Round {
    fn queue<'a>(&self, cx: &'a JobContext) -> &'a Queue {
        &cx.work.debts
    }

    fn seen_all(&self) -> bool {
        self.seen_all
    }

    async fn read_on(&mut self, cx: &JobContext) -> Result<(), JobError> {
        let question = Query::Debts { node: cx.node, after: self.after.clone(), limit: DEBTS_PER_PAGE };
        let Answer::Debts(owed) = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("debts"));
        };
        self.seen_all = owed.is_empty();
        self.after = owed.last().map(|(home, extent)| (home.clone(), extent.id));
        self.queue(cx).push(owed.into_iter().map(|(home, extent)| Unit { home, extent, task: Task::Pay }));
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
    use crate::client::{ChunkError, Chunks};

    #[tokio::test]
    async fn copies_what_is_missing_and_says_so() {
        let world = World::new(3);
        // Node 1 owes two extents: it holds a part of one, and nobody answers for the other's second chunk.
        let (good, lost) = (extent(1, 200, 64), extent(2, 100, 64));
        world.fill(&good, &[2, 3]).await;
        world.fill(&lost, &[2]).await;
        world.chunks.put(NodeId(1), good.id.chunk(1), vec![world.body(&good, 1)], None).await.unwrap();
        world.chunks.delete(NodeId(2), vec![lost.id.chunk(1)]).await.unwrap();
        world.meta.owe(&good);
        world.meta.owe(&lost);

        let mut job = Debts::default();
        assert!(job.step(&world.context(1)).await.is_err(), "the extent without a source fails this round");
        assert_eq!(world.meta.paid(), [good.id]);
        for ordinal in 0..4 {
            let expected = world.body(&good, ordinal);
            let got =
                world.chunks.get(NodeId(1), good.id.chunk(ordinal as u32), 0, expected.len() as u32).await;
            assert_eq!(got.unwrap(), expected);
        }
        assert!(matches!(job.step(&world.context(1)).await, Ok(Next::Rest(_))), "the round is over");
        // The source comes back: the next round pays.
        world.chunks.put(NodeId(3), lost.id.chunk(1), vec![world.body(&lost, 1)], None).await.unwrap();
        assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Again);
        assert_eq!(world.meta.paid(), [good.id, lost.id]);
    }

    #[tokio::test]
    async fn a_large_extent_takes_several_units() {
        let world = World::new(3);
        let large = extent(1, 150, 1);
        world.fill(&large, &[2]).await;
        world.meta.owe(&large);
        let mut job = Debts::default();
        for _ in 0..2 {
            assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Again);
            assert!(world.meta.paid().is_empty());
        }
        assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Again);
        assert_eq!(world.meta.paid(), [large.id]);
        let last = large.id.chunk(149);
        assert_eq!(world.chunks.get(NodeId(1), last, 0, 1).await.unwrap(), world.body(&large, 149));
        let none = world.chunks.get(NodeId(3), last, 0, 1).await;
        assert!(matches!(none, Err(ChunkError::NotFound(_))));
    }

    #[tokio::test]
    async fn owed_shards_are_rebuilt_from_others() {
        for (coding, nodes) in [(Coding::TwoPlusOne, 3), (Coding::FourPlusTwo, 6), (Coding::FourPlusTwo, 4)] {
            for owing in 1..=nodes {
                let world = World::new(nodes);
                let large = coded(1, coding, 2_345, 100);
                let others: Vec<u16> = (1..=nodes).filter(|node| *node != owing).collect();
                world.fill_shards(&large, &others).await;
                world.meta.owe(&large);
                let mut job = Debts::default();
                job.step(&world.context(owing)).await.unwrap();
                assert_eq!(world.meta.paid(), [large.id]);
                assert!(
                    world.has_shards(&large, owing, usize::from(owing) - 1, usize::from(nodes)).await,
                    "{coding:?} {owing} of {nodes}"
                );
            }
        }
        // With too few others nothing is paid.
        let world = World::new(3);
        let lost = coded(1, Coding::TwoPlusOne, 500, 100);
        world.fill_shards(&lost, &[2]).await;
        world.meta.owe(&lost);
        assert!(Debts::default().step(&world.context(1)).await.is_err());
        assert!(world.meta.paid().is_empty());
    }
}
