//! Synthetic histories: right ones, made by a register that exists, and wrong ones of every class.

use super::*;
use crate::sim::random::SimRandom;

const KEY: &str = "k";
/// Histories of each class.
const EACH: u64 = 25;

/// A register that exists: operations take effect at known moments, and are told to a history.
struct Real {
    random: SimRandom,
    history: History,
    value: Value,
    /// The moment of the newest effect; a hundred between two.
    at: Moment,
    ids: u64,
}

impl Real {
    fn new(seed: u64) -> Real {
        let random = SimRandom::new(seed, "history");
        Real { random, history: History::default(), value: Value::Absent, at: 1_000, ids: 0 }
    }

    /// A window around the next moment, so wide that it overlaps some others.
    fn window(&mut self) -> (Moment, Moment) {
        self.at += 100;
        (self.at - 1 - self.random.below(350), self.at + 1 + self.random.below(350))
    }

    /// A window after everything before it.
    fn alone(&mut self) -> (Moment, Moment) {
        self.at += 1_000;
        (self.at - 10, self.at + 10)
    }

    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn wrote(&mut self, value: Value, condition: Condition, outcome: Outcome, (began, ended): (u64, u64)) {
        let write = self.history.begin(KEY, value, condition, began);
        self.history.end(&write, outcome, ended);
    }

    fn write(&mut self, value: Value, condition: Condition, window: (Moment, Moment)) {
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => self.value == Value::Absent,
            Condition::Holds(id) => self.value == Value::Written(id),
        };
        let unheard = self.random.chance(20);
        // Nobody hears that a lost request never took effect.
        let effective = holds && !(unheard && self.random.chance(50));
        let outcome = match (unheard, holds) {
            (true, _) => Outcome::Unknown,
            (false, true) => Outcome::Acknowledged,
            (false, false) => Outcome::ConditionFailed,
        };
        if effective {
            self.value = value;
        }
        self.wrote(value, condition, outcome, window);
    }

    fn read(&mut self, value: Value, (began, ended): (Moment, Moment)) {
        self.history.read(KEY, value, began, ended);
    }

    /// Any operation, as it ends in a store that keeps its promises.
    fn step(&mut self, deletions: bool) {
        let window = self.window();
        match self.random.below(if deletions { 10 } else { 8 }) {
            0..2 => {
                let id = self.id();
                self.write(Value::Written(id), Condition::None, window);
            }
            2 => {
                let id = self.id();
                self.write(Value::Written(id), Condition::Absent, window);
            }
            3 => {
                let (id, seen) = (self.id(), self.random.below(self.ids.max(1)));
                let seen = match self.value {
                    Value::Written(now) if self.random.chance(70) => now,
                    _ => seen,
                };
                self.write(Value::Written(id), Condition::Holds(seen), window);
            }
            4..8 => self.read(self.value, window),
            8 => self.write(Value::Absent, Condition::None, window),
            _ => {
                let shown = if self.value == Value::Absent { vec![] } else { vec![KEY.to_string()] };
                self.list(shown, window);
                assert_eq!(self.history.judge_newest_listing(), Ok(()));
            }
        }
    }

    fn list(&mut self, shown: Vec<String>, (began, ended): (Moment, Moment)) {
        self.history.listed(Listing { prefix: String::new(), shown, began, ended });
    }

    /// A put by itself that everybody saw.
    fn put_alone(&mut self) -> u64 {
        let (id, window) = (self.id(), self.alone());
        self.value = Value::Written(id);
        self.wrote(self.value, Condition::None, Outcome::Acknowledged, window);
        id
    }
}

/// What a class of wrong histories is called, and what is wrong in the end.
type Wrong = (&'static str, fn(&mut Real));

const WRONG: &[Wrong] = &[
    ("a read after a newer write returns the older one", |real| {
        let old = real.put_alone();
        real.put_alone();
        let window = real.alone();
        real.read(Value::Written(old), window);
    }),
    ("an acknowledged write is gone", |real| {
        real.put_alone();
        let window = real.alone();
        real.read(Value::Absent, window);
    }),
    ("a read returns what nobody wrote", |real| {
        let window = real.alone();
        real.read(Value::Written(u64::MAX), window);
    }),
    ("a read returns what is written only later", |real| {
        let window = real.alone();
        real.read(Value::Written(real.ids + 1), window);
        real.put_alone();
    }),
    ("a read returns what was refused", |real| {
        let (id, window) = (real.id(), real.alone());
        real.wrote(Value::Written(id), Condition::None, Outcome::Refused, window);
        let window = real.alone();
        real.read(Value::Written(id), window);
    }),
    ("a deleted body comes back", |real| {
        let id = real.put_alone();
        let window = real.alone();
        real.wrote(Value::Absent, Condition::None, Outcome::Acknowledged, window);
        let window = real.alone();
        real.read(Value::Written(id), window);
    }),
    ("a repeated write undoes a newer one", |real| {
        let (id, window) = (real.id(), real.alone());
        real.wrote(Value::Written(id), Condition::None, Outcome::Unknown, window);
        let window = real.alone();
        real.read(Value::Written(id), window);
        real.put_alone();
        let window = real.alone();
        real.read(Value::Written(id), window);
    }),
    ("two reads see two concurrent writes in turns", |real| {
        let (one, other) = (real.id(), real.id());
        let window = real.alone();
        real.wrote(Value::Written(one), Condition::None, Outcome::Acknowledged, window);
        real.wrote(Value::Written(other), Condition::None, Outcome::Acknowledged, window);
        for id in [one, other, one] {
            let window = real.alone();
            real.read(Value::Written(id), window);
        }
    }),
    ("two writers replace the same body", |real| {
        let id = real.put_alone();
        for _ in 0..2 {
            let (new, window) = (real.id(), real.alone());
            real.wrote(Value::Written(new), Condition::Holds(id), Outcome::Acknowledged, window);
        }
    }),
    ("two writers create and nobody deletes", |real| {
        let window = real.alone();
        for _ in 0..2 {
            let id = real.id();
            real.wrote(Value::Written(id), Condition::Absent, Outcome::Acknowledged, window);
        }
    }),
    ("a true condition is refused", |real| {
        let id = real.put_alone();
        let (new, window) = (real.id(), real.alone());
        real.wrote(Value::Written(new), Condition::Holds(id), Outcome::ConditionFailed, window);
        let window = real.alone();
        real.read(Value::Written(id), window);
    }),
    ("a listing misses what is there", |real| {
        real.put_alone();
        let window = real.alone();
        real.list(vec![], window);
    }),
    ("a listing shows what was deleted", |real| {
        // By its own key: a lost write of others may take effect after the deletion.
        for value in [Value::Written(u64::MAX), Value::Absent] {
            let (began, ended) = real.alone();
            let write = real.history.begin("gone", value, Condition::None, began);
            real.history.end(&write, Outcome::Acknowledged, ended);
        }
        let window = real.alone();
        real.list(vec!["gone".to_string()], window);
    }),
    ("a listing shows what nobody wrote", |real| {
        let window = real.alone();
        real.list(vec!["phantom".to_string()], window);
    }),
];

#[test]
fn right_histories_pass() {
    for seed in 0..EACH * 10 {
        let mut real = Real::new(seed);
        for _ in 0..200 {
            real.step(seed % 2 == 0);
            assert_eq!(real.history.judge_key(KEY), Ok(()), "seed {seed}");
        }
        assert_eq!(real.history.judge(), [], "seed {seed}");
    }
}

#[test]
fn wrong_histories_of_every_class_are_found() {
    for (class, spoil) in WRONG {
        for seed in 0..EACH {
            // Unknown deletions could excuse what is wrong; the clients of these histories do not delete.
            let mut real = Real::new(seed);
            for _ in 0..seed * 4 {
                // Unknown writes could, too, where nobody ever saw them.
                real.step(false);
            }
            spoil(&mut real);
            assert_ne!(real.history.judge(), [], "{class}: seed {seed}");
        }
    }
}

#[test]
fn bodies_that_overlap_may_show_in_any_order() {
    let mut history = History::default();
    let first = history.begin(KEY, Value::Written(1), Condition::None, 1);
    history.read(KEY, Value::Absent, 2, 3);
    history.read(KEY, Value::Written(1), 4, 5);
    history.end(&first, Outcome::Acknowledged, 6);
    let lost = history.begin(KEY, Value::Written(2), Condition::None, 7);
    history.end(&lost, Outcome::Unknown, 8);
    history.read(KEY, Value::Written(1), 9, 10);
    history.read(KEY, Value::Written(2), 11, 12);
    assert_eq!(history.judge(), []);
    assert_eq!((history.acknowledged, history.unknowns), (1, 1));
}
