//! Runs many plans and says what came of them.
#![allow(clippy::print_stdout)]
// The kept plans are files of the repository.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::coverage::{Coverage, Reached, STATES};
use super::minimise::minimise;
use super::plan::{DRAWN, PLANTED, Plan};
use super::scenarios::{self, SCENARIOS, Scenario};
use super::world::{self, Report};
use crate::daemons::repository;

/// Seeds that are run at every verification.
const FIXED_SEEDS: std::ops::RangeInclusive<u64> = 1..=20;
/// Fresh seeds beside them.
const FRESH_SEEDS: u64 = 20;
/// The planted bug that every verification has to find, within so many seeds.
const CANARY: &str = "skip_condition";
const CANARY_SEEDS: u64 = 5;
/// Seeds within which a kept plan shows its bug.
const KEPT_SEEDS: u64 = 8;
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
        self.twice(seed);
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
        self.twice(*FIXED_SEEDS.start());
        // The canary: if a planted bug goes unseen, the other results mean nothing.
        self.planted(CANARY, *FIXED_SEEDS.start(), CANARY_SEEDS);
        self.kept();
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
        for (name, what) in PLANTED.iter().filter(|(name, _)| bug == "all" || bug == *name) {
            let caught = (from..from + seeds).find_map(|seed| {
                let plan = Plan::hunting(seed, name);
                let report = run_contained(&plan.clone().with_planted(name));
                let violation = report.violation?;
                // The bug is to blame only if the same plan is clean without it.
                run_contained(&plan).violation.is_none().then_some((seed, violation))
            });
            match &caught {
                Some((seed, violation)) => {
                    println!("planted {name} ({what}): caught by seed {seed}: {}", short(violation))
                }
                None => println!("planted {name} ({what}): not caught by seeds {from}..{}", from + seeds),
            }
            self.check(name, caught.is_some());
        }
    }

    /// Makes the plan of the first seed that fails small, and keeps it: with `bug`, the first of `seeds` seeds that
    /// catches it; without, the one seed.
    pub fn minimise(&mut self, bug: Option<&str>, from: u64, seeds: u64) -> Result<()> {
        let (name, plan) = match bug {
            None => (format!("seed-{from}"), Some(Plan::from_seed(from)).filter(fails)),
            Some(bug) => {
                let (bug, _) =
                    PLANTED.iter().find(|(name, _)| bug == *name).context("no such planted bug")?;
                let plans = (from..from + seeds).map(|seed| Plan::hunting(seed, bug).with_planted(bug));
                (bug.replace('_', "-"), plans.into_iter().find(fails))
            }
        };
        let plan = plan.with_context(|| format!("{name}: nothing fails"))?;
        let small = minimise(&plan, fails);
        let path = kept_directory().join(format!("{name}.json"));
        fs::write(&path, serde_json::to_string_pretty(&small)? + "\n").context("keep the plan")?;
        println!(
            "{name}: {} of {} faults, {} of {} operations: {}",
            small.faults.len(),
            plan.faults.len(),
            u32::from(small.clients) * small.operations,
            u32::from(plan.clients) * plan.operations,
            path.display()
        );
        self.check(&name, true);
        Ok(())
    }

    /// Plans that failed once. Those of planted bugs must fail still, and be clean without; others must be clean.
    pub fn kept(&mut self) {
        let plans = kept_plans();
        if let Err(error) = &plans {
            println!("{error:#}");
        }
        self.check("the kept plans can be read", plans.is_ok());
        for (name, plan) in plans.unwrap_or_default() {
            let holds = if plan.planted.is_empty() { is_clean(&plan) } else { still_fails(&plan) };
            self.check(&format!("kept plan {name}"), holds);
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

    /// The same seed gives the same trace.
    fn twice(&mut self, seed: u64) {
        let first = run_contained(&Plan::from_seed(seed));
        let second = run_contained(&Plan::from_seed(seed));
        if let Some(place) = first.trace.iter().zip(&second.trace).position(|(one, other)| one != other) {
            println!(
                "seed {seed} differs at line {place}:\n  {}\n  {}",
                first.trace[place], second.trace[place]
            );
        }
        self.check("the same seed gives the same trace", first == second);
    }

    fn seed(&mut self, plan: &Plan) -> Report {
        let report = run_contained(plan);
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

/// Whether a plan breaks a promise; with a planted bug, only because of that bug.
fn fails(plan: &Plan) -> bool {
    let innocent = Plan { planted: Default::default(), ..plan.clone() };
    run_contained(plan).violation.is_some()
        && (plan.planted.is_empty() || run_contained(&innocent).violation.is_none())
}

fn is_clean(plan: &Plan) -> bool {
    run_contained(plan).violation.is_none()
}

/// Whether the planted bug of a kept plan shows, and nothing else. The small choices that a plan leaves to its seed mean
/// something else when the code has changed, so a few seeds are tried.
fn still_fails(plan: &Plan) -> bool {
    (plan.seed..plan.seed + KEPT_SEEDS).any(|seed| {
        let planted = Plan { seed, ..plan.clone() };
        let clean = Plan { planted: BTreeSet::new(), ..planted.clone() };
        fails(&planted) && is_clean(&clean)
    })
}

fn kept_directory() -> PathBuf {
    repository().join("integration/kept")
}

fn kept_plans() -> Result<Vec<(String, Plan)>> {
    let directory = kept_directory();
    let mut plans = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plan = serde_json::from_str(&fs::read_to_string(&path)?);
        plans.push((name, plan.with_context(|| format!("read {}", path.display()))?));
    }
    plans.sort_by(|one: &(String, Plan), other| one.0.cmp(&other.0));
    Ok(plans)
}

/// A panic of simulated production code is a violation of its plan, not the end of the campaign.
fn run_contained(plan: &Plan) -> Report {
    contained(|| world::run(plan))
}

pub(super) fn contained(run: impl FnOnce() -> Report) -> Report {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| words.to_string()));
        let violation = Some(format!("panic: {}", words.unwrap_or_default()));
        Report { violation, trace: Vec::new(), operations: 0, unknowns: 0, reached: Reached::default() }
    })
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(160).collect()
}
