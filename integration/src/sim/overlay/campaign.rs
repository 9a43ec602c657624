//! Runs many plans of overlays and says what came of them.
#![allow(clippy::print_stdout)]

use super::plan::{DRAWN, Plan};
use super::world::{SEEN, STATES};
use crate::sim::campaign::{Campaign, fresh_seed};
use crate::sim::coverage::Coverage;
use crate::sim::planned::Planned;
use crate::sim::world::Report;

/// Seeds that are run at every verification.
const FIXED_SEEDS: [u64; 7] = [1, 2, 3, 4, 5, 6, 77];
/// Fresh seeds beside them.
const FRESH_SEEDS: u64 = 4;
/// The planted bug that every verification has to find, within so many seeds.
const CANARY: &str = "forget_away";
const CANARY_SEEDS: u64 = 5;

/// A campaign of overlays; what passes and fails counts in the campaign that it is a part of.
pub struct Overlays<'a> {
    campaign: &'a mut Campaign,
    coverage: Coverage,
}

impl<'a> Overlays<'a> {
    /// Nothing ran yet.
    pub fn of(campaign: &'a mut Campaign) -> Overlays<'a> {
        Overlays { campaign, coverage: Coverage::default() }
    }

    /// One seed, with its story; without gossip twice.
    pub fn one(&mut self, seed: u64) {
        let report = self.seed(&Plan::from_seed(seed));
        for line in &report.trace {
            println!("{line}");
        }
        self.campaign.twice(&Plan::from_seed(seed).quiet());
    }

    /// Seeds in a row.
    pub fn range(&mut self, from: u64, seeds: u64) {
        for seed in from..from + seeds {
            self.seed(&Plan::from_seed(seed));
        }
        self.tell();
    }

    /// What every verification runs.
    pub fn smoke(&mut self) {
        self.seed(&Plan::calm(FIXED_SEEDS[0]));
        for seed in FIXED_SEEDS {
            self.seed(&Plan::from_seed(seed));
        }
        self.range(fresh_seed(), FRESH_SEEDS);
        self.campaign.twice(&Plan::from_seed(FIXED_SEEDS[0]).quiet());
        self.planted(CANARY, FIXED_SEEDS[0], CANARY_SEEDS);
        self.kept();
    }

    /// Plans that failed once, see [`Campaign::kept`].
    pub fn kept(&mut self) {
        self.campaign.kept::<Plan>();
    }

    /// Plants bugs; each has to be caught by some seed.
    pub fn planted(&mut self, bug: &str, from: u64, seeds: u64) {
        self.campaign.hunt::<Plan>(bug, from, seeds);
    }

    fn seed(&mut self, plan: &Plan) -> Report {
        let report = plan.run();
        self.campaign.count(&report);
        self.coverage.add(&report.reached);
        self.campaign.judge(&report, &format!("overlay seed {}", plan.seed));
        if report.violation.is_some() {
            let gossip = if plan.gossip { " (its gateways gossip: it may go another way)" } else { "" };
            println!("  again: cargo sim --overlay --seed {}{gossip}", plan.seed);
        }
        report
    }

    /// What was reached.
    fn tell(&self) {
        let states = STATES.iter().map(|(state, ..)| *state).chain(SEEN.iter().copied());
        for line in self.coverage.lines(DRAWN, states) {
            println!("{line}");
        }
    }
}
