//! Named scenarios of the simulator: faults at chosen moments, where seeds meet them only now and then.

use integration::sim::plan::{Fault, Plan, Timed};
use integration::sim::world::run;

fn plan(seed: u64, faults: impl IntoIterator<Item = (u64, Fault)>) -> Plan {
    let faults = faults.into_iter().map(|(at_ms, fault)| Timed { at_ms, fault }).collect();
    Plan { operations: 120, clients: 6, faults, ..Plan::calm(seed) }
}

/// The log of one voter of three rots again and again while it is down. It comes back by itself each time, and
/// everything acknowledged is there: its own rows too, which the audit at the end compares.
#[test]
fn a_rotten_log_repairs_itself() {
    let rot = |number: u64| (2_000 + 1_500 * number, Fault::RotLog { node: 2, down_ms: 300 });
    let report = run(&plan(5, (0..8).map(rot)));
    assert_eq!(report.violation, None);
    assert!(report.trace.iter().any(|line| line.contains("rot at Some")), "nothing rotted");
}

/// The log of the others, which are needed to repair it, comes back at the same time: all start together.
#[test]
fn a_rotten_log_waits_for_the_others() {
    let faults = (0..4).flat_map(|number| {
        let at_ms = 2_500 + 3_000 * number;
        [(at_ms, Fault::RotLog { node: 1, down_ms: 100 }), (at_ms + 50, Fault::Blackout { down_ms: 1_000 })]
    });
    assert_eq!(run(&plan(6, faults)).violation, None);
}

/// Disks fill up, one after the other and then all of them. Nothing acknowledged is lost, and once there is space
/// the cluster serves again without help.
#[test]
fn full_disks_lose_nothing_and_heal() {
    let one = |number: u64| {
        let node = number as u16 % 3 + 1;
        (500 + 2_000 * number, Fault::FullDisk { node, for_ms: 1_500 })
    };
    let all = (1..=3).map(|node| (7_000, Fault::FullDisk { node, for_ms: 4_000 }));
    assert_eq!(run(&plan(7, (0..3).map(one).chain(all))).violation, None);
}
