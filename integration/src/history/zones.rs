//! Zones: linearizability of a register whose writes leave different values, in the time that sorting takes.
//!
//! After P. Gibbons and E. Korach, "Testing shared memories", SIAM J. Comput. 26 (1997). The operations of one value
//! (its write and the reads that returned it) reach from the first end to the last beginning. Where the first end comes
//! first, the register held the value all that time: a forward zone. Otherwise one moment between the two serves all of
//! them: a backward zone. An order exists if and only if no two forward zones overlap and no backward zone lies inside a
//! forward one.
//!
//! Absence is a value that many writes leave. Each deletion and each read that found nothing is a backward zone of its
//! own, and a read that found nothing must be explained by a deletion or by the beginning: both are necessary, so
//! nothing right is blamed; histories without deletions are judged exactly.

use std::collections::BTreeMap;

use super::{Condition, Moment, Outcome, Register, Value, Write};

/// The operations of one value, seen together.
#[derive(Debug, Clone, Copy)]
struct Zone {
    first_end: Moment,
    last_begin: Moment,
}

impl Zone {
    fn of(began: Moment, ended: Moment) -> Zone {
        Zone { first_end: ended, last_begin: began }
    }

    fn add(&mut self, began: Moment, ended: Moment) {
        self.first_end = self.first_end.min(ended);
        self.last_begin = self.last_begin.max(began);
    }

    fn is_forward(&self) -> bool {
        self.first_end < self.last_begin
    }

    /// Whether this value was held from before `began` until after `ended`.
    fn spans(&self, began: Moment, ended: Moment) -> bool {
        self.first_end < began && ended < self.last_begin
    }
}

/// Whether all operations fit one order; an error says which do not.
pub(super) fn judge(register: &Register) -> Result<(), String> {
    let zones = zones_of(register)?;
    let mut forward: Vec<(u64, Zone)> =
        zones.iter().filter(|(_, zone)| zone.is_forward()).map(|(id, zone)| (*id, *zone)).collect();
    forward.sort_by_key(|(_, zone)| zone.first_end);
    for pair in forward.windows(2) {
        let ((one, held), (other, next)) = (pair[0], pair[1]);
        if next.first_end < held.last_begin {
            return Err(format!("went back: {one} and {other} were held at the same time"));
        }
    }
    let spanning = |began: Moment, ended: Moment| {
        let after = forward.partition_point(|(_, zone)| zone.first_end < began);
        let (id, zone) = forward.get(after.checked_sub(1)?)?;
        zone.spans(began, ended).then_some(*id)
    };
    for (id, zone) in zones.iter().filter(|(_, zone)| !zone.is_forward()) {
        if let Some(other) = spanning(zone.last_begin, zone.first_end) {
            return Err(format!("stale: {other} was read after {id} had replaced it"));
        }
    }
    for write in register.writes.iter().filter(|write| write.value == Value::Absent) {
        let settled = (write.outcome == Outcome::Acknowledged).then_some(write.ended).flatten();
        if let Some(other) = settled.and_then(|ended| spanning(write.began, ended)) {
            return Err(format!("came back: {other} was read after a deletion"));
        }
    }
    for (began, ended) in absences(register) {
        if spanning(began, ended).is_some() || !register.may_be(true, began, ended) {
            return Err(format!("lost: nothing was found in {began}..{ended}"));
        }
    }
    register.writes.iter().try_for_each(|write| rightly_refused(register, write, &zones))
}

/// The zones of all values that certainly were there, by the ids of their writes.
fn zones_of(register: &Register) -> Result<BTreeMap<u64, Zone>, String> {
    let mut writes: BTreeMap<u64, &Write> = BTreeMap::new();
    for write in &register.writes {
        if let Value::Written(id) = write.value {
            writes.insert(id, write);
        }
    }
    let mut zones: BTreeMap<u64, Zone> = BTreeMap::new();
    for (id, write) in &writes {
        zones.insert(*id, Zone::of(write.began, write.ended.unwrap_or(Moment::MAX)));
    }
    let mut seen = |id: u64, began: Moment, ended: Moment| {
        let write = writes.get(&id).ok_or_else(|| format!("phantom: {id} was read, which nobody wrote"))?;
        if !write.may_have_happened() {
            return Err(format!("refused: {id} was read in {began}..{ended}"));
        }
        if ended < write.began {
            return Err(format!("phantom: {id} was read in {began}..{ended}, before it was written"));
        }
        zones.entry(id).and_modify(|zone| zone.add(began, ended));
        Ok(())
    };
    for read in &register.reads {
        if let Value::Written(id) = read.value {
            seen(id, read.began, read.ended)?;
        }
    }
    // What is written on a condition has read what it replaces.
    for write in &register.writes {
        if let (Condition::Holds(id), Outcome::Acknowledged, Some(ended)) =
            (write.condition, write.outcome, write.ended)
        {
            seen(id, write.began, ended)?;
        }
    }
    zones.retain(|id, zone| writes[id].may_have_happened() && zone.first_end < Moment::MAX);
    Ok(zones)
}

/// When clients found nothing: by a read, or because a creation succeeded.
fn absences(register: &Register) -> impl Iterator<Item = (Moment, Moment)> {
    let reads = register.reads.iter().filter(|read| read.value == Value::Absent);
    let creations = register.writes.iter().filter(|write| write.condition == Condition::Absent);
    let created = creations.filter(|write| write.outcome == Outcome::Acknowledged);
    let created = created.filter_map(|write| Some((write.began, write.ended?)));
    reads.map(|read| (read.began, read.ended)).chain(created)
}

/// A condition that failed did not hold at some moment.
fn rightly_refused(register: &Register, write: &Write, zones: &BTreeMap<u64, Zone>) -> Result<(), String> {
    let (Outcome::ConditionFailed, Some(ended)) = (write.outcome, write.ended) else { return Ok(()) };
    let held = match write.condition {
        Condition::None => return Err(format!("refused for no condition in {}..{ended}", write.began)),
        Condition::Holds(id) => zones.get(&id).is_some_and(|zone| zone.spans(write.began, ended)),
        Condition::Absent => !register.may_be(false, write.began, ended),
    };
    if held {
        Err(format!("wrongly refused: {:?} held in {}..{ended}", write.condition, write.began))
    } else {
        Ok(())
    }
}
