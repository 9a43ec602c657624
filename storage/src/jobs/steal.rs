//! Takes units from the tail of the longest queue of other nodes, while this node has none of its own.
//!
//! A few nodes are looked at, drawn anew each time, so that it costs as little in a large cluster. What a thief cannot do
//! is dropped: its owner finds it again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::command::MovedExtent;
use consensus::meta::model::Home;
use consensus::meta::query::{Answer, Query};
use fabric::env::random_u64;
use fabric::ids::{ExtentId, LayoutVersion, NodeId};
use futures::future::join_all;

use super::bringing::{Bringing, bring_some};
use super::moving::{Moving, say_moved};
use super::paying::{Paying, say_paid};
use super::work::{Task, UNITS_STOLEN_MAX, Unit};
use super::{Job, JobContext, JobError, Next, wrong_answer};

/// Nodes that are asked how much they have to do.
const ASKED: usize = 4;
/// Fewer units than this are not worth a call.
const WAITING_MIN: u32 = 2;
/// Where nobody has anything to share, or this node has its own, the next look is after this.
const REST: Duration = Duration::from_secs(1);
/// Members are asked for again after this.
const MEMBERS_KEPT: Duration = Duration::from_secs(30);

/// See the file's head.
#[derive(Default)]
pub struct Steal {
    /// All from one node.
    stolen: VecDeque<Theft>,
    /// One of them that takes several units.
    current: Option<Theft>,
    members: Vec<NodeId>,
    members_until: Duration,
}

enum Theft {
    Pay(Paying),
    Move(Moving),
}

impl Theft {
    fn of(from: NodeId, unit: Unit) -> Theft {
        match unit.task {
            Task::Pay => Theft::Pay(Paying::new(from, unit.home, unit.extent)),
            Task::Move(layout) => Theft::Move(Moving::new(unit.home, unit.extent, layout)),
        }
    }
}

/// A theft that is done.
enum Spoil {
    Paid(NodeId, (Home, ExtentId)),
    Moved(LayoutVersion, MovedExtent),
}

#[async_trait]
impl Bringing for Theft {
    type Brought = Spoil;

    fn chunks_left(&self) -> u64 {
        match self {
            Theft::Pay(paying) => paying.chunks_left(),
            Theft::Move(moving) => moving.chunks_left(),
        }
    }

    async fn go_on(&mut self, cx: &JobContext, most: u64) -> Result<Option<Spoil>, JobError> {
        Ok(match self {
            Theft::Pay(paying) => {
                let paid = paying.go_on(cx, most).await?;
                paid.map(|paid| Spoil::Paid(paying.node, paid))
            }
            Theft::Move(moving) => {
                let moved = moving.go_on(cx, most).await?;
                moved.map(|moved| Spoil::Moved(moving.layout, moved))
            }
        })
    }
}

/// What is to be said.
#[derive(Default)]
struct Done {
    paid: BTreeMap<NodeId, Vec<(Home, ExtentId)>>,
    moved: BTreeMap<LayoutVersion, Vec<MovedExtent>>,
}

impl Done {
    fn of(spoils: Vec<Spoil>) -> Done {
        let mut done = Done::default();
        for spoil in spoils {
            match spoil {
                Spoil::Paid(node, paid) => done.paid.entry(node).or_default().push(paid),
                Spoil::Moved(layout, moved) => done.moved.entry(layout).or_default().push(moved),
            }
        }
        done
    }

    async fn say(self, cx: &JobContext) -> Result<(), JobError> {
        let units = self.paid.values().map(Vec::len).chain(self.moved.values().map(Vec::len)).sum::<usize>();
        for (node, extents) in self.paid {
            say_paid(cx, node, extents).await?;
        }
        for (layout, moves) in self.moved {
            say_moved(cx, layout, moves).await?;
        }
        metrics::counter!("fluffy_units_stolen_total").increment(units as u64);
        Ok(())
    }
}

#[async_trait]
impl Job for Steal {
    fn name(&self) -> &'static str {
        "steal"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if self.current.is_none() && self.stolen.is_empty() {
            return self.look_around(cx).await;
        }
        let next = || self.stolen.pop_front();
        let outcome = bring_some(cx, &mut self.current, next, UNITS_STOLEN_MAX).await;
        for (_, error) in &outcome.failed {
            tracing::debug!(%error, "a stolen extent is left to its owner");
        }
        Done::of(outcome.brought).say(cx).await?;
        Ok(Next::Again)
    }
}

impl Steal {
    async fn look_around(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if !cx.work.is_empty() {
            return Ok(Next::Rest(REST));
        }
        let others = self.some_others(cx).await?;
        let looks = others.iter().map(|node| cx.peers.steal(*node, 0));
        // Who does not answer has nothing to share.
        let waiting = others.iter().zip(join_all(looks).await).filter_map(|(node, looked)| {
            let left = looked.ok()?.left;
            (WAITING_MIN <= left).then_some((left, *node))
        });
        let Some((_, node)) = waiting.max() else {
            return Ok(Next::Rest(REST));
        };
        let stolen = cx.peers.steal(node, UNITS_STOLEN_MAX as u32).await?;
        if stolen.units.is_empty() {
            return Ok(Next::Rest(REST));
        }
        self.stolen = stolen.units.into_iter().map(|unit| Theft::of(node, unit)).collect();
        Ok(Next::Again)
    }

    async fn some_others(&mut self, cx: &JobContext) -> Result<Vec<NodeId>, JobError> {
        let now = cx.env.monotonic();
        if self.members_until <= now {
            let Answer::Members { nodes, .. } = ask(&*cx.meta, Query::Members).await? else {
                return Err(wrong_answer("members"));
            };
            self.members = nodes.into_iter().map(|row| row.id).filter(|id| *id != cx.node).collect();
            self.members_until = now + MEMBERS_KEPT;
        }
        let mut some = self.members.clone();
        while ASKED < some.len() {
            some.swap_remove((random_u64(&*cx.env) % some.len() as u64) as usize);
        }
        Ok(some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)] // The clock of a paused runtime is the seam here.
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, sleep};

    use super::super::testing::{World, extent, home};
    use super::*;
    use crate::jobs::{Debts, Rebalance, Runner};
    use crate::testing::Clock;

    const NORMAL: Duration = Duration::from_millis(5);
    const EXTENTS: u64 = 3000;

    /// How long it takes until everything is where the newest layout wants it, with these nodes at these paces. All of it
    /// is node 4's to bring.
    async fn time_to_move(nodes: &[(u16, Duration)]) -> Duration {
        let world = World::new(3);
        let extents: Vec<_> = (1..=EXTENTS).map(|number| extent(number, 1, 1)).collect();
        for extent in &extents {
            world.fill(extent, &[2, 3]).await;
        }
        world.meta.place(&extents);
        world.meta.set_owners(&[4, 1, 2]);
        let began = Instant::now();
        let start = |(node, pace): &(u16, Duration)| {
            let chunks = Arc::new(world.chunks.paced(*pace));
            let cx = Arc::new(world.context_with(*node, Arc::new(Clock::default()), chunks));
            let mut jobs: Vec<Box<dyn Job>> = vec![Box::new(Steal::default())];
            if *node == 4 {
                jobs.push(Box::new(Rebalance::default()));
            }
            Runner::start(cx, jobs)
        };
        let _runners: Vec<Runner> = nodes.iter().map(start).collect();
        while world.meta.is_anything_placed() {
            sleep(Duration::from_millis(100)).await;
        }
        for extent in &extents {
            for node in [4, 1, 2] {
                assert!(world.chunks.get_now(NodeId(node), extent.id.chunk(0)));
            }
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn with_one_node_slowed_tenfold_it_takes_little_longer_than_an_even_split() {
        let slow = 10 * NORMAL;
        let even = time_to_move(&[(4, NORMAL)]).await / 4;
        let alone = time_to_move(&[(4, slow)]).await;
        let shared = time_to_move(&[(4, slow), (1, NORMAL), (2, NORMAL), (3, NORMAL)]).await;
        assert!(30 * even < alone, "{alone:?} alone, an even split {even:?}");
        assert!(2 * shared < 3 * even, "{shared:?} with thieves, an even split {even:?}");
    }

    #[tokio::test]
    async fn a_thief_pays_for_the_one_who_owes() {
        let world = World::new(3);
        let extents: Vec<_> = (1..=4).map(|number| extent(number, 200, 2)).collect();
        for extent in &extents {
            world.fill(extent, &[2, 3]).await;
            world.meta.owe(extent);
        }
        let (owes, idle) = (world.context(1), world.context(3));
        // The first unit is used up by a part of the first extent; the others wait.
        assert_eq!(Debts::default().step(&owes).await.unwrap(), Next::Again);
        assert_eq!(owes.work.debts.len(), 3);
        let mut steal = Steal::default();
        // It looks around, and brings the hundred chunks in two pieces.
        for _ in 0..3 {
            assert_eq!(steal.step(&idle).await.unwrap(), Next::Again);
        }
        assert_eq!(world.meta.paid(), [extents[3].id], "half of three, the last one");
        assert!(world.chunks.get_now(NodeId(1), extents[3].id.chunk(99)));
        assert_eq!(owes.work.debts.len(), 2);
    }

    #[tokio::test]
    async fn who_has_work_of_its_own_takes_none() {
        let world = World::new(3);
        for number in 1..=3 {
            world.meta.owe(&extent(number, 200, 2));
        }
        let (owes, busy) = (world.context(1), world.context(2));
        for cx in [&owes, &busy] {
            let unit = |number| Unit { home: home(), extent: extent(number, 200, 2), task: Task::Pay };
            cx.work.debts.push((1..=3).map(unit));
        }
        assert!(matches!(Steal::default().step(&busy).await.unwrap(), Next::Rest(_)));
        assert_eq!(owes.work.debts.len(), 3);
    }
}
