//! Runs many plans and says what came of them.
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result};

use super::coverage::{Coverage, STATES};
use super::minimise::minimise;
use super::plan::{DRAWN, Plan};
use super::planned::{Planned, contained};
use super::scenarios::{self, SCENARIOS, Scenario};
use super::world::{self, Report};

/// Seeds that are run at every verification.
const FIXED_SEEDS: std::ops::RangeInclusive<u64> = 1..=20;
/// Fresh seeds beside them.
const FRESH_SEEDS: u64 = 20;
/// The planted bug that every verification has to find, within so many seeds.
const CANARY: &str = "skip_condition";
const CANARY_SEEDS: u64 = 5;
/// Lines of the trace shown with a failure.
const STORY_LINES: usize = 60;

/// What ran so far.
pub struct Campaign {
    whole_trace: bool,
    passed: u64,
    failed: u64,
    operations: u64,
    seeds: u64,
    seeds_with_unknowns: u64,
    coverage: Coverage,
}

/// A seed nobody chose.
pub fn fresh_seed() -> u64 {
    // The one ambient draw of the simulator: which seeds to look at today.
    let drawn = std::collections::hash_map::RandomState::new();
    std::hash::BuildHasher::hash_one(&drawn, 0) >> 16
}

impl Campaign {
    /// Nothing ran yet. `whole_trace` prints all of a failing seed.
    pub fn new(whole_trace: bool) -> Campaign {
        Campaign {
            whole_trace,
            passed: 0,
            failed: 0,
            operations: 0,
            seeds: 0,
            seeds_with_unknowns: 0,
            coverage: Coverage::default(),
        }
    }

    /// Checks that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The last lines: what was reached, and what came of it.
    pub fn summary(&self) -> String {
        let mut lines = if self.coverage.seeds() > 1 {
            self.coverage.lines(DRAWN, STATES.iter().map(|(state, ..)| *state))
        } else {
            Vec::new()
        };
        lines.push(format!(
            "{} operations in {} seeds, {} of them with unknown outcomes\n{} passed, {} failed",
            self.operations, self.seeds, self.seeds_with_unknowns, self.passed, self.failed
        ));
        lines.join("\n")
    }

    /// One seed twice, with its story.
    pub fn one(&mut self, seed: u64) {
        let report = self.seed(&Plan::from_seed(seed));
        for line in &report.trace {
            println!("{line}");
        }
        self.twice(&Plan::from_seed(seed));
    }

    /// Seeds in a row.
    pub fn range(&mut self, from: u64, seeds: u64) {
        for seed in from..from + seeds {
            self.seed(&Plan::from_seed(seed));
        }
    }

    /// What every verification runs.
    pub fn smoke(&mut self) {
        self.suite(&Plan::calm(1));
        // The same where small bodies find no room in the metadata, and where they soon leave it.
        self.suite(&Plan { inline_bytes_max: 8 << 10, ..Plan::calm(1) });
        self.seed(&Plan::calm(1));
        for seed in FIXED_SEEDS {
            self.seed(&Plan::from_seed(seed));
        }
        self.range(fresh_seed(), FRESH_SEEDS);
        self.twice(&Plan::from_seed(*FIXED_SEEDS.start()));
        // The canary: if a planted bug goes unseen, the other results mean nothing.
        self.planted(CANARY, *FIXED_SEEDS.start(), CANARY_SEEDS);
        self.kept::<Plan>();
        self.stories("all", *FIXED_SEEDS.start(), 1);
        for scenario in SCENARIOS {
            if let Some(bug) = scenario.catches {
                self.spoilt(scenario, bug, *FIXED_SEEDS.start());
            }
        }
        let faulty = self.seeds - 1;
        let soft = self.seeds_with_unknowns * 2 < faulty;
        self.check("at least half of the fault seeds have unknown outcomes", !soft);
    }

    /// The conformance suite, simulated.
    fn suite(&mut self, plan: &Plan) {
        match world::run_suite(plan) {
            Err(error) => self.check(&format!("the conformance suite runs: {error}"), false),
            Ok(behaviours) => {
                for (name, outcome) in behaviours {
                    let words = outcome.as_ref().err().map_or_else(String::new, |why| format!(": {why}"));
                    self.check(&format!("simulated: {name}{words}"), outcome.is_ok());
                }
            }
        }
    }

    /// Tells named stories, or all, to the clusters of some seeds.
    pub fn stories(&mut self, name: &str, from: u64, seeds: u64) {
        let chosen = SCENARIOS.iter().filter(|scenario| name == "all" || name == scenario.name);
        for scenario in chosen {
            for seed in from..from + seeds {
                let report = contained(|| scenarios::run(scenario, seed, None));
                self.judge(&report, &format!("scenario {} on seed {seed}", scenario.name));
            }
        }
    }

    /// Plants bugs; each has to be caught by its story, or by some seed.
    pub fn planted(&mut self, bug: &str, from: u64, seeds: u64) {
        for scenario in SCENARIOS {
            let wanted = |name: &&str| bug == "all" || bug == *name;
            if let Some(name) = scenario.catches.filter(wanted) {
                self.spoilt(scenario, name, from);
            }
        }
        self.hunt::<Plan>(bug, from, seeds);
    }

    /// Plants bugs; each has to be caught by some seed.
    pub(super) fn hunt<P: Planned>(&mut self, bug: &str, from: u64, seeds: u64) {
        for (name, what) in P::BUGS.iter().filter(|(name, _)| bug == "all" || bug == *name) {
            let caught = (from..from + seeds).find_map(|seed| {
                let plan = P::hunting(seed, name);
                let violation = plan.clone().with_planted(name).run().violation?;
                // The bug is to blame only if the same plan is clean without it.
                plan.run().violation.is_none().then_some((seed, violation))
            });
            match &caught {
                Some((seed, violation)) => {
                    println!("planted {name} ({what}): caught by seed {seed}: {}", short(violation));
                }
                None => println!("planted {name} ({what}): not caught by seeds {from}..{}", from + seeds),
            }
            self.check(name, caught.is_some());
        }
    }

    /// Makes the plan of the first seed that fails small, and keeps it: with `bug`, the first of `seeds` seeds that
    /// catches it; without, the one seed.
    pub fn minimise<P: Planned>(&mut self, bug: Option<&str>, from: u64, seeds: u64) -> Result<()> {
        let (name, mut plan) = match bug {
            None => (format!("seed-{from}"), Some(P::drawn(from)).filter(P::fails)),
            Some(bug) => {
                let (bug, _) =
                    P::BUGS.iter().find(|(name, _)| bug == *name).context("no such planted bug")?;
                let mut plans = (from..from + seeds).map(|seed| P::hunting(seed, bug).with_planted(bug));
                (bug.replace('_', "-"), plans.find(P::fails))
            }
        };
        let plan = plan.as_mut().with_context(|| format!("{name}: nothing fails"))?;
        let mut small = minimise(plan, P::fails);
        let path = small.keep(&name)?;
        println!(
            "{name}: {} of {} faults, {} of {} operations: {}",
            small.faults().len(),
            plan.faults().len(),
            small.operations(),
            plan.operations(),
            path.display()
        );
        self.check(&name, true);
        Ok(())
    }

    /// Plans that failed once. Those of planted bugs must fail still, and be clean without; others must be clean.
    pub fn kept<P: Planned>(&mut self) {
        let plans = P::kept();
        if let Err(error) = &plans {
            println!("{error:#}");
        }
        self.check("the kept plans can be read", plans.is_ok());
        for (name, plan) in plans.unwrap_or_default() {
            self.check(&format!("kept plan {name}"), plan.still_holds());
        }
    }

    /// A story that a bug is planted into ends badly.
    fn spoilt(&mut self, scenario: &Scenario, bug: &'static str, seed: u64) {
        let violation = contained(|| scenarios::run(scenario, seed, Some(bug))).violation;
        if let Some(violation) = &violation {
            println!("planted {bug}: caught by scenario {}: {}", scenario.name, short(violation));
        }
        self.check(bug, violation.is_some());
    }

    /// The same plan gives the same trace.
    pub(super) fn twice<P: Planned>(&mut self, plan: &P) {
        let (first, second) = (plan.run(), plan.run());
        if let Some(place) = first.trace.iter().zip(&second.trace).position(|(one, other)| one != other) {
            let (one, other) = (&first.trace[place], &second.trace[place]);
            println!("seed {} differs at line {place}:\n  {one}\n  {other}", plan.clone().seed());
        }
        self.check("the same seed gives the same trace", first == second);
    }

    fn seed(&mut self, plan: &Plan) -> Report {
        let report = plan.run();
        self.count(&report);
        self.coverage.add(&report.reached);
        self.judge(&report, &format!("seed {}", plan.seed));
        if report.violation.is_some() {
            println!("  again: cargo sim --seed {}", plan.seed);
        }
        report
    }

    pub(super) fn count(&mut self, report: &Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.seeds_with_unknowns += u64::from(report.unknowns > 0);
    }

    pub(super) fn judge(&mut self, report: &Report, what: &str) {
        let Some(violation) = &report.violation else {
            self.passed += 1;
            return;
        };
        self.failed += 1;
        println!("{what} FAILED: {violation}");
        let from = if self.whole_trace { 0 } else { report.trace.len().saturating_sub(STORY_LINES) };
        for line in &report.trace[from..] {
            println!("    {line}");
        }
    }

    pub(super) fn check(&mut self, what: &str, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("FAILED: {what}");
        }
    }
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(160).collect()
}
