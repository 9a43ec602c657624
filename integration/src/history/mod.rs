//! What clients did and saw, and whether it keeps what they were promised.
//!
//! Each key is a register: all operations on it must fit one order in which each takes effect at a moment between its
//! beginning and its end (linearizability), see [`zones`]. Outcomes are four: acknowledged, refused (never happens),
//! refused by its condition, unknown (may happen once, at any later time). Listings are judged key by key. Times are
//! moments of one clock.

pub mod body;
mod zones;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// A moment of a clock that all clients share.
pub type Moment = u64;

/// How a write ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Acknowledged,
    /// A definite refusal.
    Refused,
    /// 412: at some moment the condition did not hold.
    ConditionFailed,
    /// Time-out, reset, 5xx, or still running.
    Unknown,
}

/// What a write leaves under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing (a deletion, or the beginning).
    Absent,
    /// The body of this write, which no other write leaves.
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

impl Write {
    fn may_have_happened(&self) -> bool {
        matches!(self.outcome, Outcome::Acknowledged | Outcome::Unknown)
    }
}

#[derive(Debug, Clone)]
struct Read {
    value: Value,
    began: Moment,
    ended: Moment,
}

/// A whole listing, all its pages.
#[derive(Debug, Clone)]
pub struct Listing {
    /// What the keys begin with.
    pub prefix: String,
    /// The keys shown, in order.
    pub shown: Vec<String>,
    /// Before the first page was asked for.
    pub began: Moment,
    /// After the last one was there.
    pub ended: Moment,
}

/// The history of all keys.
#[derive(Default)]
pub struct History {
    keys: BTreeMap<String, Register>,
    listings: Vec<Listing>,
    /// Writes with an unknown outcome so far.
    pub unknowns: u64,
    /// Writes acknowledged so far.
    pub acknowledged: u64,
}

/// The history of one key.
#[derive(Default)]
struct Register {
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

impl History {
    /// A client is about to write.
    pub fn begin(&mut self, key: &str, value: Value, condition: Condition, now: Moment) -> WriteHandle {
        let writes = &mut self.keys.entry(key.to_string()).or_default().writes;
        writes.push(Write { value, condition, began: now, ended: None, outcome: Outcome::Unknown });
        WriteHandle { key: key.to_string(), place: writes.len() - 1 }
    }

    /// The client heard how it ended.
    pub fn end(&mut self, handle: &WriteHandle, outcome: Outcome, now: Moment) {
        match outcome {
            Outcome::Unknown => self.unknowns += 1,
            Outcome::Acknowledged => self.acknowledged += 1,
            Outcome::Refused | Outcome::ConditionFailed => {}
        }
        let register = self.keys.get_mut(&handle.key).expect("begin made the register");
        let write = &mut register.writes[handle.place];
        write.outcome = outcome;
        write.ended = (outcome != Outcome::Unknown).then_some(now);
    }

    /// A client read `value` between the two moments.
    pub fn read(&mut self, key: &str, value: Value, began: Moment, ended: Moment) {
        let register = self.keys.entry(key.to_string()).or_default();
        register.reads.push(Read { value, began, ended });
    }

    /// A client listed keys.
    pub fn listed(&mut self, listing: Listing) {
        self.listings.push(listing);
    }

    /// Whether all operations on `key` fit one order.
    pub fn judge_key(&self, key: &str) -> Result<(), Violation> {
        let Some(register) = self.keys.get(key) else { return Ok(()) };
        let verdict = zones::judge(register).and_then(|()| register.one_winner_each());
        verdict.map_err(|what| Violation(format!("{key}: {what}: {}", register.story())))
    }

    /// Whether the newest listing shows what it must and nothing else.
    pub fn judge_newest_listing(&self) -> Result<(), Violation> {
        self.listings.last().map_or(Ok(()), |listing| self.judge_listing(listing))
    }

    /// Judges everything; one violation for each key and listing that has one.
    pub fn judge(&self) -> Vec<Violation> {
        let keys = self.keys.keys().filter_map(|key| self.judge_key(key).err());
        let listings = self.listings.iter().filter_map(|listing| self.judge_listing(listing).err());
        keys.chain(listings).collect()
    }

    fn judge_listing(&self, listing: &Listing) -> Result<(), Violation> {
        let Listing { prefix, shown, began, ended } = listing;
        if shown.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Violation(format!("a listing is not strictly ascending: {shown:?}")));
        }
        let under = self.keys.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(prefix));
        for (key, register) in under {
            let is_shown = shown.binary_search(key).is_ok();
            let explained = register.values().any(|(value, write)| {
                (value != Value::Absent) == is_shown && register.may_hold(value, write, *began, *ended)
            });
            if !explained {
                let what = if is_shown { "shows" } else { "misses" };
                let story = register.story();
                return Err(Violation(format!("a listing in {began}..{ended} {what} {key}: {story}")));
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

impl Register {
    /// Every value with the write that left it; the beginning is `Absent` without a write.
    fn values(&self) -> impl Iterator<Item = (Value, Option<&Write>)> {
        let written = self.writes.iter().filter(|write| write.may_have_happened());
        std::iter::once((Value::Absent, None)).chain(written.map(|write| (write.value, Some(write))))
    }

    /// Whether the key may have held the value of `write` at some moment in `began..ended`, as far as other certain
    /// writes say.
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

    /// Whether the key may have been absent (or not absent) at some moment in `began..ended`.
    fn may_be(&self, absent: bool, began: Moment, ended: Moment) -> bool {
        self.values().any(|(value, write)| {
            (value == Value::Absent) == absent && self.may_hold(value, write, began, ended)
        })
    }

    /// Of all acknowledged writes on one condition one won: the body is replaced once, and between two creations
    /// somebody deleted.
    fn one_winner_each(&self) -> Result<(), String> {
        let mut won = BTreeMap::new();
        let mut created: Vec<&Write> = Vec::new();
        for write in self.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged) {
            let rival = match write.condition {
                Condition::None => None,
                Condition::Holds(id) => won.insert(id, write),
                Condition::Absent => {
                    created.push(write);
                    created.iter().rev().skip(1).find(|other| !self.deleted_between(other, write)).copied()
                }
            };
            if let Some(rival) = rival {
                let (condition, one, other) = (write.condition, rival.value, write.value);
                return Err(format!("two winners of {condition:?}: {one:?} and {other:?}"));
            }
        }
        Ok(())
    }

    /// Whether a deletion may have come between two creations, in either order.
    fn deleted_between(&self, one: &Write, other: &Write) -> bool {
        let first = one.began.min(other.began);
        let last = one.ended.unwrap_or(Moment::MAX).max(other.ended.unwrap_or(Moment::MAX));
        self.writes.iter().any(|write| {
            write.value == Value::Absent
                && write.may_have_happened()
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
