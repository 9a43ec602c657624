//! Units of repair that wait on a node: its own jobs take them from the head, idle nodes steal them from the tail.
//!
//! The metadata is what says that something is to be done; a queue holds only the next few units that its node read
//! from there. So nothing is lost with a queue or a thief: a unit that was not done is found again, and one that is
//! done twice costs effort and nothing else.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use consensus::meta::model::{Extent, Home};
use fabric::ids::LayoutVersion;
use serde::{Deserialize, Serialize};

use super::budget::Budget;

/// Units that one call steals. Each theft costs a look at the queues, a call and a command: with fewer a thief does less.
pub const UNITS_STOLEN_MAX: usize = 128;

/// What a unit is about. Sent between nodes: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// The node owes a copy.
    Pay,
    /// The node brings it to its owners in this layout.
    Move(LayoutVersion),
}

/// One extent to be worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Whose it is.
    pub home: Home,
    /// As its row was when it was read.
    pub extent: Extent,
    /// What is to be done.
    pub task: Task,
}

/// What a node that was asked for work gives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stolen {
    /// The units that are the thief's now.
    pub units: Vec<Unit>,
    /// How many the node keeps.
    pub left: u32,
}

/// Units of one job of a node, a page or two of what the metadata has.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    units: VecDeque<Unit>,
    stolen: u64,
}

impl Queue {
    fn locked(&self) -> MutexGuard<'_, Waiting> {
        // Each change is complete before anything can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.locked().units.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds units behind those that wait.
    pub fn push(&self, units: impl Iterator<Item = Unit>) {
        self.locked().units.extend(units);
    }

    /// Drops what waits.
    pub fn clear(&self) {
        self.locked().units.clear();
    }

    /// The next unit.
    pub fn pop(&self) -> Option<Unit> {
        self.locked().units.pop_front()
    }

    /// How many were stolen since this was asked before.
    pub fn take_stolen(&self) -> u64 {
        std::mem::take(&mut self.locked().stolen)
    }

    /// Gives away half of what waits, the last first, but no more than `most`.
    fn steal(&self, most: usize) -> Vec<Unit> {
        let mut waiting = self.locked();
        let keep = waiting.units.len() - (waiting.units.len() / 2).min(most);
        let mut units: Vec<Unit> = waiting.units.split_off(keep).into();
        units.reverse();
        waiting.stolen += units.len() as u64;
        units
    }
}

/// All queues of a node, and what its jobs may take of it.
#[derive(Default)]
pub struct Work {
    /// Copies that the node owes.
    pub debts: Queue,
    /// Extents that the node brings to where a newer layout wants them.
    pub moves: Queue,
    /// What clients leave for jobs.
    pub budget: Budget,
}

impl Work {
    /// How many units wait.
    pub fn len(&self) -> usize {
        self.debts.len() + self.moves.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives units of the longer queue to another node, [`UNITS_STOLEN_MAX`] and `most` at most; with `most` of 0 it
    /// only tells how many wait.
    pub fn steal(&self, most: u32) -> Stolen {
        let longer = if self.debts.len() < self.moves.len() { &self.moves } else { &self.debts };
        let units = longer.steal(UNITS_STOLEN_MAX.min(most as usize));
        metrics::counter!("fluffy_units_given_total").increment(units.len() as u64);
        Stolen { units, left: self.len() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{extent, home};
    use super::*;

    fn units(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Unit> {
        numbers.map(|number| Unit { home: home(), extent: extent(number, 1, 1), task: Task::Pay })
    }

    fn numbers(units: &[Unit]) -> Vec<u64> {
        units.iter().map(|unit| unit.extent.id.number()).collect()
    }

    #[test]
    fn half_is_given_from_the_tail_and_the_last_unit_stays() {
        let work = Work::default();
        assert_eq!(work.steal(9), Stolen::default());
        work.debts.push(units(1..8));
        work.moves.push(units(11..13));
        assert_eq!(work.steal(0), Stolen { units: Vec::new(), left: 9 });
        let stolen = work.steal(9);
        assert_eq!((numbers(&stolen.units), stolen.left), (vec![7, 6, 5], 6));
        assert_eq!(numbers(&work.steal(1).units), [4]);
        assert_eq!(numbers(&work.steal(9).units), [3], "two wait in each now");
        assert_eq!((work.debts.take_stolen(), work.debts.take_stolen()), (5, 0));
        let rest: Vec<Unit> = std::iter::from_fn(|| work.debts.pop()).collect();
        assert_eq!(numbers(&rest), [1, 2]);
        assert_eq!(numbers(&work.steal(9).units), [12]);
        assert_eq!(numbers(&work.steal(9).units), [0_u64; 0], "one is too few to share");
        work.moves.push(units(0..400));
        assert_eq!(work.steal(190).units.len(), UNITS_STOLEN_MAX);
    }
}
