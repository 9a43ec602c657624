//! What plans of one cluster and of an overlay have in common: they are run, they fail or do not, and small ones that failed
//! once are kept as data, so that they mean the same when the code, and so the meaning of their seeds, has changed.

// The kept plans are files of the repository.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};

use super::coverage::Reached;
use super::world::Report;
use crate::daemons::repository;

/// Seeds within which a kept plan shows its bug.
const KEPT_SEEDS: u64 = 8;

/// Makes a plan smaller.
pub type Change<P> = Box<dyn Fn(&mut P)>;

/// A plan of either kind.
pub trait Planned: Clone + PartialEq + Serialize + DeserializeOwned {
    /// A fault and when it comes.
    type Timed;
    /// Bugs that seeds bring to light, and what each does.
    const BUGS: &'static [(&'static str, &'static str)];
    /// The directory of kept plans, in the repository.
    const KEPT: &'static str;

    /// What `seed` draws.
    fn drawn(seed: u64) -> Self;
    /// A plan that brings a bug to light, which is not planted yet.
    fn hunting(seed: u64, bug: &str) -> Self;
    /// Simulates it.
    fn simulate(&self) -> Report;
    /// Where it came from.
    fn seed(&mut self) -> &mut u64;
    /// Planted bugs.
    fn planted(&mut self) -> &mut BTreeSet<&'static str>;
    /// Faults by time.
    fn faults(&mut self) -> &mut Vec<Self::Timed>;
    /// Operations of all clients.
    fn operations(&self) -> u32;
    /// Changes that make it smaller, besides fewer faults.
    fn changes(&self) -> Vec<Change<Self>>;

    /// Runs it. A panic of simulated production code is a violation of its plan, not the end of the campaign.
    fn run(&self) -> Report {
        contained(|| self.simulate())
    }

    /// The same with a bug planted.
    fn with_planted(mut self, bug: &'static str) -> Self {
        self.planted().insert(bug);
        self
    }

    /// Whether it breaks a promise; with a planted bug, only because of that bug.
    fn fails(&self) -> bool {
        let mut innocent = self.clone();
        innocent.planted().clear();
        self.run().violation.is_some() && (innocent == *self || innocent.run().violation.is_none())
    }

    /// Whether a kept plan is as it should be: that of a planted bug shows it, and nothing else; others are clean. The small
    /// choices that a plan leaves to its seed mean something else when the code has changed, so a few seeds are tried.
    fn still_holds(&self) -> bool {
        let mut plan = self.clone();
        if plan.planted().is_empty() {
            return plan.run().violation.is_none();
        }
        let first = *plan.seed();
        (first..first + KEPT_SEEDS).any(|seed| {
            *plan.seed() = seed;
            plan.fails()
        })
    }

    /// Keeps it.
    fn keep(&self, name: &str) -> Result<PathBuf> {
        let path = repository().join(Self::KEPT).join(format!("{name}.json"));
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n").context("keep the plan")?;
        Ok(path)
    }

    /// All that are kept, and their names.
    fn kept() -> Result<Vec<(String, Self)>> {
        let directory = repository().join(Self::KEPT);
        let mut plans = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let plan = serde_json::from_str(&fs::read_to_string(&path)?);
                plans.push((name, plan.with_context(|| format!("read {}", path.display()))?));
            }
        }
        plans.sort_by(|one: &(String, Self), other| one.0.cmp(&other.0));
        Ok(plans)
    }
}

/// Runs what may panic.
pub(super) fn contained(run: impl FnOnce() -> Report) -> Report {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| words.to_string()));
        let violation = Some(format!("panic: {}", words.unwrap_or_default()));
        Report { violation, trace: Vec::new(), operations: 0, unknowns: 0, reached: Reached::default() }
    })
}

/// Reads names of failpoints and planted bugs, of which `known` are known.
pub(super) fn known_names<'de, D: Deserializer<'de>>(
    deserializer: D,
    known: &[&[(&'static str, &'static str)]],
) -> Result<BTreeSet<&'static str>, D::Error> {
    let names = BTreeSet::<String>::deserialize(deserializer)?;
    let find = |name: String| {
        let found = known.iter().copied().flatten().map(|(known, _)| *known).find(|known| *known == name);
        found.ok_or_else(|| Error::custom(format!("no failpoint {name}")))
    };
    names.into_iter().map(find).collect()
}
