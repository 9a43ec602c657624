//! What clients were promised, and whether an answer keeps it.
//!
//! Each key is a register: a read returns the value of some write that began before the read ended and that
//! no other write, certain and wholly between the two, replaced. Outcomes are three: acknowledged, refused
//! (never happens), unknown (may happen once, at any later time). Times are moments of one clock.

use std::collections::BTreeMap;

/// A moment of the simulation, ascending with every step of any client.
pub type Moment = u64;

/// How a write ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Acknowledged,
    /// A definite refusal.
    Refused,
    /// Time-out, reset, 5xx, or still running.
    Unknown,
}

/// What a write leaves under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing (a deletion, or the beginning).
    Absent,
    /// The body of this write.
    Written(u64),
}

/// On what a write depended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The key was absent.
    Absent,
    /// The key held this write's body.
    Holds(u64),
}

#[derive(Debug, Clone)]
struct Write {
    value: Value,
    condition: Condition,
    began: Moment,
    /// `None` while unknown.
    ended: Option<Moment>,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
struct Read {
    value: Value,
    began: Moment,
    ended: Moment,
}

/// The history of all keys.
#[derive(Default)]
pub struct Oracle {
    keys: BTreeMap<String, History>,
    /// Writes with an unknown outcome so far.
    pub unknowns: u64,
    /// Writes acknowledged so far.
    pub acknowledged: u64,
}

#[derive(Default)]
struct History {
    writes: Vec<Write>,
    reads: Vec<Read>,
}

/// A broken promise, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// Names a write in the history.
#[derive(Debug, Clone)]
pub struct WriteHandle {
    key: String,
    place: usize,
}

impl Oracle {
    /// A client is about to write.
    pub fn begin(&mut self, key: &str, value: Value, condition: Condition, now: Moment) -> WriteHandle {
        let writes = &mut self.keys.entry(key.to_string()).or_default().writes;
        writes.push(Write { value, condition, began: now, ended: None, outcome: Outcome::Unknown });
        WriteHandle { key: key.to_string(), place: writes.len() - 1 }
    }

    /// The client heard how it ended. Conditional winners are checked at once.
    pub fn end(&mut self, handle: &WriteHandle, outcome: Outcome, now: Moment) -> Result<(), Violation> {
        match outcome {
            Outcome::Unknown => self.unknowns += 1,
            Outcome::Acknowledged => self.acknowledged += 1,
            Outcome::Refused => {}
        }
        let history = self.keys.get_mut(&handle.key).expect("begin made the history");
        let write = &mut history.writes[handle.place];
        write.outcome = outcome;
        write.ended = (outcome != Outcome::Unknown).then_some(now);
        if outcome == Outcome::Acknowledged { history.one_winner(&handle.key, handle.place) } else { Ok(()) }
    }

    /// A client read `value` between the two moments.
    pub fn read(&mut self, key: &str, value: Value, began: Moment, ended: Moment) -> Result<(), Violation> {
        let history = self.keys.entry(key.to_string()).or_default();
        let read = Read { value, began, ended };
        history.explains(key, &read)?;
        history.never_back(key, &read)?;
        history.reads.push(read);
        Ok(())
    }

    /// A listing between the two moments showed exactly these keys (of those the oracle knows).
    pub fn listed(&self, shown: &[String], began: Moment, ended: Moment) -> Result<(), Violation> {
        if shown.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Violation(format!("a listing is not strictly ascending: {shown:?}")));
        }
        for (key, history) in &self.keys {
            let is_shown = shown.binary_search(key).is_ok();
            let explained = history.values().any(|(value, write)| {
                (value != Value::Absent) == is_shown && history.may_hold(value, write, began, ended)
            });
            if !explained {
                let what = if is_shown { "shows" } else { "misses" };
                return Err(Violation(format!(
                    "a listing in {began}..{ended} {what} {key}: {}",
                    history.story()
                )));
            }
        }
        match shown.iter().find(|key| !self.keys.contains_key(*key)) {
            Some(phantom) => Err(Violation(format!("a listing shows {phantom}, which nobody wrote"))),
            None => Ok(()),
        }
    }

    /// All keys ever written.
    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// A write that was acknowledged and whose body `key` may hold now, for conditions.
    pub fn last_acknowledged(&self, key: &str) -> Option<u64> {
        let writes = &self.keys.get(key)?.writes;
        let newest = writes
            .iter()
            .filter(|write| write.outcome == Outcome::Acknowledged)
            .max_by_key(|write| write.ended)?;
        match newest.value {
            Value::Written(id) => Some(id),
            Value::Absent => None,
        }
    }
}

impl History {
    /// Every value with the write that left it; the beginning is `Absent` without a write.
    fn values(&self) -> impl Iterator<Item = (Value, Option<&Write>)> {
        let written = self.writes.iter().filter(|write| write.outcome != Outcome::Refused);
        std::iter::once((Value::Absent, None)).chain(written.map(|write| (write.value, Some(write))))
    }

    /// Whether the key may have held the value of `write` at some moment in `began..ended`.
    fn may_hold(&self, value: Value, write: Option<&Write>, began: Moment, ended: Moment) -> bool {
        if write.is_some_and(|write| write.began >= ended) {
            return false;
        }
        // An unknown write may take effect at any later time, so nothing certain replaces it for sure.
        let Some(settled) = write.map_or(Some(0), |write| write.ended) else {
            return true;
        };
        !self.writes.iter().any(|other| {
            other.outcome == Outcome::Acknowledged
                && other.value != value
                && other.began >= settled
                && other.ended.is_some_and(|end| end <= began)
        })
    }

    fn explains(&self, key: &str, read: &Read) -> Result<(), Violation> {
        let explained = self
            .values()
            .any(|(value, write)| value == read.value && self.may_hold(value, write, read.began, read.ended));
        if explained {
            return Ok(());
        }
        let known = self.writes.iter().any(|write| write.value == read.value);
        let what = match (read.value, known) {
            (Value::Absent, _) => "lost: a read found nothing",
            (Value::Written(_), true) => "stale or refused: a read found an old value",
            (Value::Written(_), false) => "phantom: a read found what nobody wrote",
        };
        Err(Violation(format!(
            "{key}: {what}, {:?} in {}..{}: {}",
            read.value,
            read.began,
            read.ended,
            self.story()
        )))
    }

    /// Once a read saw a value, a later read does not see one that was settled before that value's write began.
    fn never_back(&self, key: &str, read: &Read) -> Result<(), Violation> {
        let Value::Written(_) = read.value else { return Ok(()) };
        let Some(write) = self.writes.iter().find(|write| write.value == read.value) else { return Ok(()) };
        // The write is settled at the latest when somebody first read it.
        let seen = self.reads.iter().filter(|other| other.value == read.value).map(|other| other.ended).min();
        let Some(settled) = write.ended.into_iter().chain(seen).min() else { return Ok(()) };
        let replaced = self.reads.iter().find(|other| {
            let Value::Written(_) = other.value else { return false };
            other.value != read.value
                && other.ended <= read.began
                && self.writes.iter().any(|newer| newer.value == other.value && newer.began >= settled)
        });
        match replaced {
            Some(other) => Err(Violation(format!(
                "{key}: went back: {:?} in {}..{} after {:?} in {}..{}: {}",
                read.value,
                read.began,
                read.ended,
                other.value,
                other.began,
                other.ended,
                self.story()
            ))),
            None => Ok(()),
        }
    }

    /// Of all acknowledged writes on the condition of one body, one won; and a creation found nothing there.
    fn one_winner(&self, key: &str, place: usize) -> Result<(), Violation> {
        let write = &self.writes[place];
        let rival = self.writes.iter().enumerate().find(|(other_place, other)| {
            *other_place != place
                && other.outcome == Outcome::Acknowledged
                && match write.condition {
                    Condition::None => false,
                    Condition::Holds(_) => other.condition == write.condition,
                    Condition::Absent => {
                        other.condition == Condition::Absent && !self.deleted_between(other, write)
                    }
                }
        });
        match rival {
            Some((_, rival)) => Err(Violation(format!(
                "{key}: two winners of {:?}: {:?} and {:?}: {}",
                write.condition,
                rival.value,
                write.value,
                self.story()
            ))),
            None => Ok(()),
        }
    }

    /// Whether a deletion may have come between two creations, in either order.
    fn deleted_between(&self, one: &Write, other: &Write) -> bool {
        let first = one.began.min(other.began);
        let last = one.ended.unwrap_or(Moment::MAX).max(other.ended.unwrap_or(Moment::MAX));
        self.writes.iter().any(|write| {
            write.value == Value::Absent
                && write.outcome != Outcome::Refused
                && write.began <= last
                && write.ended.is_none_or(|end| end >= first)
        })
    }

    /// The last writes, for a report.
    fn story(&self) -> String {
        let from = self.writes.len().saturating_sub(12);
        let line = |write: &Write| {
            format!(
                "{:?} if {:?} {}..{:?} {:?}",
                write.value, write.condition, write.began, write.ended, write.outcome
            )
        };
        self.writes[from..].iter().map(line).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Value = Value::Written(1);
    const B: Value = Value::Written(2);

    fn wrote(oracle: &mut Oracle, value: Value, began: Moment, ended: Moment, outcome: Outcome) {
        let write = oracle.begin("k", value, Condition::None, began);
        oracle.end(&write, outcome, ended).unwrap();
    }

    #[test]
    fn good_histories_pass() {
        let mut oracle = Oracle::default();
        wrote(&mut oracle, A, 1, 4, Outcome::Acknowledged);
        assert_eq!(oracle.read("k", Value::Absent, 2, 3), Ok(()), "before the end the old value may show");
        assert_eq!(oracle.read("k", A, 2, 3), Ok(()), "and the new one");
        wrote(&mut oracle, B, 5, 9, Outcome::Unknown);
        assert_eq!(oracle.read("k", A, 10, 11), Ok(()), "an unknown write may not have happened");
        assert_eq!(oracle.read("k", B, 12, 13), Ok(()), "and may happen later");
        assert_eq!(oracle.listed(&["k".to_string()], 12, 13), Ok(()));
    }

    #[test]
    fn lost_stale_phantom_and_refused_values_are_found() {
        let mut oracle = Oracle::default();
        wrote(&mut oracle, A, 1, 2, Outcome::Acknowledged);
        assert!(oracle.read("k", Value::Absent, 3, 4).is_err(), "lost");
        assert!(oracle.listed(&[], 3, 4).is_err(), "lost from the listing");
        assert!(oracle.read("k", Value::Written(9), 3, 4).is_err(), "phantom");
        assert!(oracle.listed(&["j".to_string(), "k".to_string()], 3, 4).is_err(), "phantom in the listing");
        wrote(&mut oracle, B, 5, 6, Outcome::Acknowledged);
        assert!(oracle.read("k", A, 7, 8).is_err(), "stale");
        wrote(&mut oracle, Value::Written(3), 9, 10, Outcome::Refused);
        assert!(oracle.read("k", Value::Written(3), 11, 12).is_err(), "refused writes never show");
        wrote(&mut oracle, Value::Absent, 13, 14, Outcome::Acknowledged);
        assert!(oracle.read("k", B, 15, 16).is_err(), "came back");
    }

    #[test]
    fn an_unknown_write_does_not_happen_twice() {
        let mut oracle = Oracle::default();
        wrote(&mut oracle, A, 1, 2, Outcome::Unknown);
        oracle.read("k", A, 3, 4).unwrap();
        wrote(&mut oracle, B, 5, 6, Outcome::Acknowledged);
        oracle.read("k", B, 7, 8).unwrap();
        assert!(oracle.read("k", A, 9, 10).is_err(), "a retry must not undo a newer write");
    }

    #[test]
    fn a_condition_has_one_winner() {
        let mut oracle = Oracle::default();
        wrote(&mut oracle, A, 1, 2, Outcome::Acknowledged);
        let first = oracle.begin("k", B, Condition::Holds(1), 3);
        let second = oracle.begin("k", Value::Written(3), Condition::Holds(1), 3);
        assert_eq!(oracle.end(&first, Outcome::Acknowledged, 5), Ok(()));
        assert!(oracle.end(&second, Outcome::Acknowledged, 6).is_err());

        let mut oracle = Oracle::default();
        let first = oracle.begin("k", A, Condition::Absent, 1);
        oracle.end(&first, Outcome::Acknowledged, 2).unwrap();
        let delete = oracle.begin("k", Value::Absent, Condition::None, 3);
        oracle.end(&delete, Outcome::Unknown, 4).unwrap();
        let again = oracle.begin("k", B, Condition::Absent, 5);
        assert_eq!(oracle.end(&again, Outcome::Acknowledged, 6), Ok(()), "a deletion may have come between");
    }
}
