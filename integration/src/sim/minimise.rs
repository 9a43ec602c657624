//! Makes a failing plan small: what can go without the failure going is left out. Small plans are kept as data in
//! `integration/kept`, so that they mean the same when the code, and so the meaning of their seeds, has changed.

use super::plan::Plan;

/// The smallest plan found that `fails` as `plan` does, which fails. Tries each change until none helps any more.
pub fn minimise(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    loop {
        let before = best.clone();
        without_faults(&mut best, &fails);
        without_failpoints(&mut best, &fails);
        let changes: [fn(&mut Plan); 6] = [
            |plan| plan.clients = (plan.clients / 2).max(1),
            |plan| plan.clients = (plan.clients - 1).max(1),
            |plan| plan.operations = (plan.operations / 2).max(1),
            |plan| plan.operations = (plan.operations * 3 / 4).max(1),
            |plan| plan.keys = (plan.keys / 2).max(1),
            |plan| plan.ends_dark = false,
        ];
        for change in changes {
            while attempt(&mut best, &fails, change) {}
        }
        if best == before {
            return best;
        }
    }
}

/// Keeps a change if the plan still fails; whether it did, and was one.
fn attempt(best: &mut Plan, fails: &impl Fn(&Plan) -> bool, change: impl Fn(&mut Plan)) -> bool {
    let mut changed = best.clone();
    change(&mut changed);
    let smaller = changed != *best && fails(&changed);
    if smaller {
        *best = changed;
    }
    smaller
}

/// Leaves out faults: first many at once, then one by one.
fn without_faults(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    let mut count = best.faults.len();
    while count > 0 {
        let mut from = 0;
        while from < best.faults.len() {
            let until = (from + count).min(best.faults.len());
            let left_out = attempt(best, fails, |plan| drop(plan.faults.drain(from..until)));
            from = if left_out { from } else { until };
        }
        count /= 2;
    }
}

fn without_failpoints(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    for name in best.failpoints.clone() {
        attempt(best, fails, |plan| {
            plan.failpoints.remove(name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Fault, Timed};
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
