//! A few crash images of everything that keeps bytes; `cargo crash` makes as many as one likes.

use integration::sim::crash::{PLANTED, Setting, Tally, Target, story};
use integration::sim::disk::DiskFaults;

/// Runs stories of the seeds; all promises have to be kept.
fn pass(target: Target, seeds: std::ops::Range<u64>) -> Tally {
    let mut all = Tally::default();
    for seed in seeds {
        let (tally, told) = story(target, seed, Setting::default());
        assert_eq!(told, Ok(()), "crash --target {} --seed {seed} --images 1", target.name());
        all.add(&tally);
    }
    assert!(all.in_recovery > 0 && all.kills > 0, "{all:?}");
    all
}

/// Seeds of this range found, before each was mended: a power cut while recovery removed the segments prepared
/// ahead left a gap, and the whole log below it was taken for purged; and a batch of a killed process, in the
/// page cache only, was lost after the record that recovery wrote behind it was not: that looked like rot.
#[test]
fn the_log_keeps_what_it_acknowledged() {
    let tally = pass(Target::Log, 1..60);
    assert!(tally.rots_reported > 0, "{tally:?}");
}

/// The same pair of a kill and a power cut, and a power cut in the middle of redb's making of a file, which then
/// never opened again.
#[test]
fn redb_keeps_what_it_committed() {
    pass(Target::Rows, 14..24);
}

#[test]
fn the_chunk_store_keeps_what_it_acknowledged() {
    let tally = pass(Target::Chunks, 1..6);
    assert!(tally.rots > 0, "{tally:?}");
}

/// The test of the test: disks that lie about four of five syncs lose acknowledged writes, and that is seen.
#[test]
fn lost_writes_are_reported() {
    let faults = DiskFaults { sync_lie_percent: 80, ..DiskFaults::default() };
    let lying = Setting { faults, planted: None };
    for target in Target::ALL {
        let seen = (1..40).find(|seed| story(target, *seed, lying).1.is_err());
        assert!(seen.is_some(), "{} does not notice lost writes", target.name());
    }
}

/// Each bug is seen by a seed that is clean without it.
#[test]
fn planted_bugs_are_seen() {
    for (bug, what, target) in PLANTED {
        let planted = Setting { planted: Some(bug), ..Setting::default() };
        let seen = (1..200).find(|seed| story(*target, *seed, planted).1.is_err());
        let seed = seen.unwrap_or_else(|| panic!("nobody sees that {what}"));
        assert_eq!(story(*target, seed, Setting::default()).1, Ok(()), "seed {seed} shows another bug");
    }
}

#[test]
fn a_seed_tells_one_story() {
    for target in Target::ALL {
        let once = story(target, 3, Setting::default());
        assert_eq!(once, story(target, 3, Setting::default()), "{}", target.name());
    }
}
