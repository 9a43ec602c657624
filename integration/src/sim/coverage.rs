//! What simulations have reached: which faults came, which pairs of them in one seed, and which rare states of the
//! product, as its own counters tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// What one simulation reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Kinds of faults that came.
    pub faults: BTreeSet<&'static str>,
    /// Names of [`STATES`].
    pub states: BTreeSet<&'static str>,
}

/// Rare states: what is reached, the counter of the product that tells, and how high it is then.
pub const STATES: &[(&str, &str, u64)] = &[
    ("an owed copy was paid", "fluffy_debts_paid_total", 1),
    ("an extent moved to a newer layout", "fluffy_extents_moved_total", 1),
    ("an idle node stole a unit of repair", "fluffy_units_stolen_total", 1),
    ("a rotten chunk was found", "fluffy_chunks_rotten_total", 1),
    ("a rotten chunk was repaired", "fluffy_chunks_repaired_total", 1),
    ("a chunk volume was lost", "fluffy_chunk_volumes_lost_total", 1),
    ("a chunk volume broke in use", "fluffy_chunk_volumes_broken_total", 1),
    ("a chunk volume was compacted", "fluffy_chunk_volumes_compacted_total", 1),
    ("who votes was changed", "fluffy_voter_changes_total", 1),
    ("a lost chunk was restored", "fluffy_chunks_restored_total", 1),
    ("a damaged log entry came from a peer", "fluffy_log_entries_repaired_total", 1),
    ("rotten metadata were copied from a voter", "fluffy_tables_rebuilt_total", 1),
    ("a snapshot was installed", "fluffy_snapshots_installed_total", 1),
    ("leadership changed hands", "fluffy_terms_led_total", 2),
    ("calls went around a broken link", "fluffy_detours_total", 1),
    ("garbage was collected", "fluffy_garbage_collected_total", 1),
    ("an orphan was removed", "fluffy_orphans_removed_total", 1),
    ("small bodies left the metadata", "fluffy_inline_packed_total", 1),
    ("a read was hedged", "fluffy_read_hedges_total", 1),
    ("an old copy was removed after a move", "fluffy_copies_left_total", 1),
    ("a request was shed", "fluffy_queue_refusals_total", 1),
    ("a unit of a job failed", "fluffy_job_failures_total", 1),
    ("a round of scrubbing ended", "fluffy_scrub_rounds_total", 1),
];

/// Counts what the product counts, on the thread of the simulation.
#[derive(Default)]
pub(super) struct Counts {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

impl Counts {
    /// Which of these states were reached.
    pub(super) fn states(&self, states: &[(&'static str, &str, u64)]) -> BTreeSet<&'static str> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |metric: &str| counters.get(metric).map_or(0, |count| count.load(Ordering::Relaxed));
        states.iter().filter(|(_, metric, least)| count(metric) >= *least).map(|(state, ..)| *state).collect()
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Counter::from_arc(counters.entry(key.name().to_string()).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// What many simulations have reached.
#[derive(Default)]
pub struct Coverage {
    seeds: u64,
    faults: BTreeMap<&'static str, u64>,
    pairs: BTreeMap<(&'static str, &'static str), u64>,
    states: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Adds one.
    pub fn add(&mut self, reached: &Reached) {
        self.seeds += 1;
        for (place, fault) in reached.faults.iter().enumerate() {
            *self.faults.entry(fault).or_default() += 1;
            for other in reached.faults.iter().skip(place + 1) {
                *self.pairs.entry((fault, other)).or_default() += 1;
            }
        }
        for state in &reached.states {
            *self.states.entry(state).or_default() += 1;
        }
    }

    /// How many were added.
    pub fn seeds(&self) -> u64 {
        self.seeds
    }

    /// The states that none has reached.
    pub fn missing(&self) -> Vec<&'static str> {
        STATES.iter().map(|(state, ..)| *state).filter(|state| !self.states.contains_key(state)).collect()
    }

    /// Lines to print: each fault and state with the seeds that had it. `kinds`: all that could come.
    pub fn lines(&self, kinds: &[&'static str], states: impl Iterator<Item = &'static str>) -> Vec<String> {
        let mut lines = Vec::new();
        let seeds = |count: Option<&u64>| count.copied().unwrap_or(0);
        let faults = kinds.iter().map(|kind| format!("{kind} {}", seeds(self.faults.get(kind))));
        lines.push(format!("faults, by seeds: {}", faults.collect::<Vec<_>>().join(", ")));
        let possible = kinds.len() * kinds.len().saturating_sub(1) / 2;
        let least = if self.pairs.len() < possible { 0 } else { seeds(self.pairs.values().min()) };
        lines.push(format!(
            "pairs of faults in one seed: {} of {possible}, each in {least} seeds or more",
            self.pairs.len()
        ));
        for state in states {
            lines.push(format!("{state}: {} seeds", seeds(self.states.get(state))));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_faults_pairs_and_states() {
        let counts = Counts::default();
        metrics::with_local_recorder(&counts, || {
            metrics::counter!("fluffy_debts_paid_total").increment(2);
            metrics::counter!("fluffy_job_failures_total", "job" => "debts").increment(0);
        });
        let reached = Reached { faults: BTreeSet::from(["kill", "rot"]), states: counts.states(STATES) };
        assert_eq!(reached.states, BTreeSet::from(["an owed copy was paid"]));
        let mut coverage = Coverage::default();
        coverage.add(&reached);
        coverage.add(&reached);
        assert_eq!(coverage.missing().len(), STATES.len() - 1);
        let lines = coverage.lines(&["kill", "rot", "clock"], STATES.iter().map(|(state, ..)| *state));
        assert_eq!(lines[0], "faults, by seeds: kill 2, rot 2, clock 0");
        assert_eq!(lines[1], "pairs of faults in one seed: 1 of 3, each in 0 seeds or more");
        assert!(lines.contains(&"an owed copy was paid: 2 seeds".to_string()));
    }
}
