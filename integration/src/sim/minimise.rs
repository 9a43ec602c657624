//! Makes a failing plan small: what can go without the failure going is left out.

use super::planned::Planned;

/// The smallest plan found that `fails` as `plan` does, which fails. Tries each change until none helps any more.
pub fn minimise<P: Planned>(plan: &P, fails: impl Fn(&P) -> bool) -> P {
    let mut best = plan.clone();
    loop {
        let before = best.clone();
        without_faults(&mut best, &fails);
        for change in best.changes() {
            while attempt(&mut best, &fails, &change) {}
        }
        if best == before {
            return best;
        }
    }
}

/// Keeps a change if the plan still fails; whether it did, and was one.
fn attempt<P: Planned>(best: &mut P, fails: &impl Fn(&P) -> bool, change: impl Fn(&mut P)) -> bool {
    let mut changed = best.clone();
    change(&mut changed);
    let smaller = changed != *best && fails(&changed);
    if smaller {
        *best = changed;
    }
    smaller
}

/// Leaves out faults: first many at once, then one by one.
fn without_faults<P: Planned>(best: &mut P, fails: &impl Fn(&P) -> bool) {
    let mut count = best.faults().len();
    while count > 0 {
        let mut from = 0;
        while from < best.faults().len() {
            let until = (from + count).min(best.faults().len());
            let left_out = attempt(best, fails, |plan| drop(plan.faults().drain(from..until)));
            from = if left_out { from } else { until };
        }
        count /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Fault, Plan, Timed};
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let mut plan = Plan::from_seed(1);
        let culprit = Timed { at_ms: 77, fault: Fault::Rot { node: 2 } };
        plan.faults.insert(3, culprit.clone());
        let small = minimise(&plan, |plan| plan.faults.contains(&culprit) && plan.operations >= 5);
        assert_eq!(small.faults, [culprit]);
        assert_eq!((small.clients, small.keys, small.operations), (1, 1, 5));
        assert!(small.failpoints.is_empty());
    }
}
