//! Lifecycle: what rules remove and when, what they leave, and that only what is due is looked at.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use fabric::ids::Stamp;
use fabric::limits::EXPIRE_PER_COMMAND;
use proptest::prelude::*;

use super::world::{World, cases, key};
use crate::meta::answer::answer;
use crate::meta::apply::apply;
use crate::meta::command::*;
use crate::meta::lifecycle::tests::{filter, rule, rules};
use crate::meta::lifecycle::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, DuePage, ListVersions, PageEntry, Query, Want};
use crate::meta::store::{Fault, MemoryRows, Rows, RowsIter, RowsMut, TableId};
use crate::meta::tables::{Due, DueWalks, scan_all};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A world in the middle of a day whose bucket has rules.
fn world(versioning: Versioning, list: Vec<LifecycleRule>) -> World {
    let mut world = World::new();
    if versioning != Versioning::Off {
        world.set_versioning(Versioning::Enabled);
        world.set_versioning(versioning);
    }
    set(&mut world, list);
    fill(&mut world);
    pass_days(&mut world, 10);
    world
}

fn set(world: &mut World, list: Vec<LifecycleRule>) {
    let change = BucketChange::Set(BucketSetting::Lifecycle(rules(list)));
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change }));
}

fn pass_days(world: &mut World, days: u64) {
    world.now.0 += days * DAY_MS;
}

/// Lets time pass, so that what jumps is taken for what it is, and looks at what is due then, as the job does.
fn live_days(world: &mut World, days: u64) -> Expired {
    pass_days(world, days);
    // A jump of cluster time stops everything for ten minutes.
    tick(world);
    world.now.0 += 600_000;
    expire(world)
}

/// An entry: the clock of the cluster is that of the last one.
fn tick(world: &mut World) {
    world.run(Command::RenewSession(RenewSession { oldest_write: 0, oldest_read: 0, pinned: Vec::new() }));
}

fn due(world: &World, after: Option<Hint>) -> DuePage {
    match world.ask(Query::Due { after, limit: EXPIRE_PER_COMMAND as u32 }) {
        Ok(Answer::Due(page)) => page,
        answer => panic!("{answer:?}"),
    }
}

/// Walks buckets to the end.
fn fill(world: &mut World) {
    while let Some(bucket) = due(world, None).walk {
        assert_eq!(world.done(Command::FillDue(FillDue { bucket })), Done::Nothing);
        world.audit();
    }
}

/// Looks at everything whose time has come.
fn expire(world: &mut World) -> Expired {
    let mut sum = Expired::default();
    tick(world);
    loop {
        let hints = due(world, None).hints;
        if hints.is_empty() {
            world.audit();
            return sum;
        }
        match world.done(Command::Expire(Expire { hints })) {
            Done::Expired(expired) => {
                sum.current += expired.current;
                sum.noncurrent += expired.noncurrent;
                sum.markers += expired.markers;
                sum.uploads += expired.uploads;
                sum.put_off += expired.put_off;
            }
            done => panic!("{done:?}"),
        }
    }
}

fn days(id: &str, prefix: &str, days: u32) -> LifecycleRule {
    LifecycleRule { expiration: Some(Expiration::Days(days)), ..rule(id, prefix) }
}

fn noncurrent(days: u32, newer_versions: Option<u8>) -> LifecycleRule {
    LifecycleRule { noncurrent: Some(NoncurrentExpiration { days, newer_versions }), ..rule("others", "") }
}

/// Versions and markers of all keys, newest first: `key`, `key*` where it is the latest, `key-` where it is a marker.
fn versions(world: &World) -> Vec<String> {
    let list = ListVersions {
        bucket: world.bucket,
        prefix: String::new(),
        delimiter: String::new(),
        after_key: String::new(),
        after_version: None,
        limit: 1000,
    };
    let Ok(Answer::Versions(page)) = world.ask(Query::ListVersions(list)) else { panic!() };
    let name = |entry: &PageEntry<crate::meta::query::ListedVersion>| match entry {
        PageEntry::Item(key, listed) => {
            let marker = matches!(listed.version, Version::DeleteMarker { .. });
            format!("{key}{}{}", if marker { "-" } else { "" }, if listed.latest { "*" } else { "" })
        }
        PageEntry::Prefix(prefix) => panic!("{prefix}"),
    };
    page.entries.iter().map(name).collect()
}

fn hints(world: &World) -> usize {
    scan_all::<Due>(&world.rows).unwrap().count()
}

#[test]
fn objects_of_an_unversioned_bucket_go_in_their_time() {
    let mut world = world(Versioning::Off, vec![days("tmp", "tmp/", 2)]);
    world.put_inline("tmp/a", "x");
    world.put_extent("tmp/b");
    world.put_inline("kept", "x");
    assert_eq!((hints(&world), expire(&mut world).current), (2, 0));
    // Two days later it is not midnight yet.
    assert_eq!(live_days(&mut world, 2).current, 0);
    assert_eq!(live_days(&mut world, 1).current, 2);
    assert_eq!((versions(&world), hints(&world)), (vec!["kept*".to_string()], 0));
    let Ok(Answer::Events(events)) =
        world.ask(Query::Events { bucket: world.bucket, after: None, limit: 100 })
    else {
        panic!()
    };
    let deleted: Vec<_> = events.iter().filter(|(_, event)| event.kind == EventKind::Expire).collect();
    assert_eq!(deleted.len(), 2);
    assert!(deleted.iter().all(|(_, event)| event.origin == Origin::default()));
}

#[test]
fn hints_go_with_what_they_are_about() {
    let mut world = world(Versioning::Off, vec![days("all", "", 2)]);
    world.put_inline("k", "x");
    pass_days(&mut world, 1);
    world.put_inline("k", "y");
    assert_eq!(hints(&world), 1, "the one of the object that was replaced is gone");
    world.delete_one("k", None);
    assert_eq!(hints(&world), 0);
    world.put_inline("k", "z");
    world.run(Command::CopyObject(world.copy("k", "l")));
    assert_eq!(hints(&world), 2);
    world.audit();
    // Hints of a bucket that is gone do no harm.
    let change = BucketChange::Remove(SettingKind::Lifecycle);
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change }));
    world.delete_one("k", None);
    world.delete_one("l", None);
    world.done(Command::DeleteBucket(DeleteBucket { bucket: world.bucket }));
    assert_eq!(hints(&world), 2);
    assert_eq!((live_days(&mut world, 5), hints(&world)), (Expired::default(), 0));
}

/// All hints, due or not.
fn due_later(world: &World) -> Vec<Hint> {
    let hints = scan_all::<Due>(&world.rows).unwrap();
    hints.map(|row| row.unwrap().0).map(|(due, home, item)| Hint { due, home, item }).collect()
}

#[test]
fn nothing_is_done_before_its_time_or_without_its_row() {
    let mut world = world(Versioning::Off, vec![days("all", "", 1)]);
    world.put_inline("k", "x");
    let early = due_later(&world);
    let forged = early.iter().map(|hint| Hint { due: ClusterMs(0), ..hint.clone() }).collect();
    for hints in [early.clone(), forged] {
        assert_eq!(world.done(Command::Expire(Expire { hints })), Done::Expired(Expired::default()));
    }
    assert_eq!((versions(&world).len(), hints(&world)), (1, 1));
    // Cluster time jumps: people should have time to see it.
    pass_days(&mut world, 5);
    assert_eq!(expire(&mut world).current, 0);
    assert_eq!(world.done(Command::Expire(Expire { hints: early })), Done::Expired(Expired::default()));
    world.now.0 += 600_000;
    assert_eq!(expire(&mut world).current, 1);
    let hint = Hint { due: ClusterMs(0), home: Home { bucket: world.bucket, key: key("k") }, item: stamp(1) };
    let many = Expire { hints: vec![hint; EXPIRE_PER_COMMAND + 1] };
    assert!(matches!(world.rejected(Command::Expire(many)), Reject::Malformed(_)));
}

fn stamp(index: u64) -> Stamp {
    Stamp { epoch: 1, index, ordinal: 0 }
}

#[test]
fn current_versions_are_hidden_and_others_removed_in_their_time() {
    let lone = LifecycleRule { expiration: Some(Expiration::DeleteMarkers(true)), ..rule("lone", "b") };
    let list = vec![days("current", "a", 5), noncurrent(2, None), lone];
    let mut world = world(Versioning::Enabled, list);
    world.put_inline("a", "1");
    world.put_inline("a", "2");
    world.put_inline("b", "1");
    world.delete_one("b", None);
    // Then the marker of `b` is all that is left of it, and goes at once.
    assert_eq!(live_days(&mut world, 3), Expired { noncurrent: 2, markers: 1, ..Expired::default() });
    assert_eq!(versions(&world), ["a*"]);
    assert_eq!(live_days(&mut world, 2), Expired::default());
    assert_eq!(live_days(&mut world, 1), Expired { current: 1, ..Expired::default() });
    assert_eq!(versions(&world), ["a-*", "a"]);
    // What was hidden is not current since then; then the marker is all that is left, and five days old.
    assert_eq!(live_days(&mut world, 3), Expired { noncurrent: 1, ..Expired::default() });
    assert_eq!(live_days(&mut world, 3), Expired { markers: 1, ..Expired::default() });
    assert_eq!((versions(&world), hints(&world)), (Vec::<String>::new(), 0));
}

#[test]
fn suspended_buckets_lose_the_null_version_and_hide_the_others() {
    let mut world = world(Versioning::Enabled, vec![days("all", "", 1)]);
    world.put_inline("kept", "x");
    world.set_versioning(Versioning::Suspended);
    world.put_inline("null", "x");
    assert_eq!(live_days(&mut world, 2).current, 2);
    assert_eq!(versions(&world), ["kept-*", "kept", "null-*"]);
    // The marker is alone, and goes as a current version of its age would.
    assert_eq!(live_days(&mut world, 2).markers, 1);
    assert_eq!(versions(&world), ["kept-*", "kept"]);
}

#[test]
fn null_versions_are_removed_by_their_name() {
    let mut world = World::new();
    world.put_inline("k", "null");
    world.set_versioning(Versioning::Enabled);
    set(&mut world, vec![noncurrent(1, None)]);
    fill(&mut world);
    pass_days(&mut world, 10);
    world.put_inline("k", "newer");
    assert_eq!(live_days(&mut world, 2).noncurrent, 1);
    assert_eq!(versions(&world), ["k*"]);
}

#[test]
fn so_many_newer_versions_are_kept() {
    let mut world = world(Versioning::Enabled, vec![noncurrent(1, Some(2))]);
    for _ in 0..3 {
        world.put_inline("k", "x");
    }
    assert_eq!(live_days(&mut world, 5).noncurrent, 0, "two are kept however old they are");
    assert_eq!(hints(&world), 0);
    world.delete_one("k", None);
    // One is too many now, and old enough: it is looked at though its day is long over.
    assert_eq!(expire(&mut world).noncurrent, 1);
    assert_eq!(versions(&world), ["k-*", "k", "k"]);
    // Markers are not counted among those that are kept.
    world.put_inline("k", "x");
    world.put_inline("k", "x");
    assert_eq!(live_days(&mut world, 2).noncurrent, 1);
    assert_eq!(versions(&world), ["k*", "k", "k-", "k"]);
}

#[test]
fn uploads_are_aborted_a_few_with_each_command() {
    let abort = LifecycleRule { abort_uploads_days: Some(1), ..rule("abort", "tmp/") };
    let mut world = world(Versioning::Off, vec![abort]);
    for number in 0..10 {
        let name = format!("tmp/{number}");
        let upload = world.create_upload(&name);
        let part = world.part(&name, upload, 1, 100);
        world.done(Command::PutPart(part));
    }
    let kept = world.create_upload("kept");
    let finished = world.create_upload("tmp/finished");
    let part = world.part("tmp/finished", finished, 1, 100);
    world.done(Command::PutPart(part));
    let complete = world.complete("tmp/finished", finished, &[1]);
    world.done(Command::CompleteUpload(complete));
    assert_eq!(hints(&world), 10, "none of what is finished or not covered");
    assert_eq!(live_days(&mut world, 2).uploads, 10);
    let Ok(Answer::Usage(usage)) = world.ask(Query::Usage(world.bucket)) else { panic!() };
    assert_eq!((usage.uploads, usage.part_bytes, usage.objects), (1, 0, 1));
    let parts = Query::Parts { bucket: world.bucket, key: key("kept"), upload: kept, after: 0, limit: 1 };
    assert!(world.ask(parts).is_ok());
}

#[test]
fn locked_versions_stay_until_their_locks_end() {
    let mut world = world(Versioning::Enabled, vec![noncurrent(1, None)]);
    let lock = BucketSetting::ObjectLock(ObjectLock::default());
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(lock) }));
    let until = ClusterMs(world.now.0 + 20 * DAY_MS);
    let retention = Some(Retention { mode: RetentionMode::Governance, until });
    let put = |world: &mut World, name: &str, lock: Lock| {
        let put = Command::PutObject(world.put(name, NewBody::Inline("x".into())));
        let guard = Guard { lock, ..Guard::default() };
        world.done(Command::Guarded(Guarded { guard, command: Box::new(put) }));
        world.put_inline(name, "newer");
        stamp(world.index - 1)
    };
    put(&mut world, "kept", Lock { retention: retention.clone(), legal_hold: false });
    let held = put(&mut world, "held", Lock { retention: None, legal_hold: true });
    let freed = put(&mut world, "freed", Lock { retention, legal_hold: false });
    assert_eq!(live_days(&mut world, 2), Expired { put_off: 3, ..Expired::default() });
    assert_eq!(due_later(&world).iter().filter(|hint| hint.due == until).count(), 2);
    assert_eq!(
        live_days(&mut world, 2),
        Expired { put_off: 1, ..Expired::default() },
        "a hold is looked at daily"
    );
    let set_lock = |world: &mut World, name: &str, version, change| {
        let version = Some(VersionSelector::Stamp(version));
        let set = SetLock { bucket: world.bucket, key: key(name), version, change, bypass: true };
        world.done(Command::SetLock(set));
    };
    // Who ends a lock does not wait for the time when it would have ended.
    set_lock(&mut world, "freed", freed, LockChange::Retention(None));
    set_lock(&mut world, "held", held, LockChange::LegalHold(false));
    assert_eq!(expire(&mut world), Expired { noncurrent: 2, ..Expired::default() });
    assert_eq!(live_days(&mut world, 20), Expired { noncurrent: 1, ..Expired::default() });
    assert_eq!(versions(&world), ["freed*", "held*", "kept*"]);
}

#[test]
fn a_current_version_is_hidden_though_it_is_locked() {
    let default = DefaultRetention { mode: RetentionMode::Compliance, days: 100, in_years: false };
    let mut world = world(Versioning::Enabled, vec![days("all", "", 1)]);
    let lock = BucketSetting::ObjectLock(ObjectLock { default: Some(default) });
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(lock) }));
    world.put_inline("k", "x");
    assert_eq!(live_days(&mut world, 2), Expired { current: 1, ..Expired::default() });
    assert_eq!(versions(&world), ["k-*", "k"]);
}

fn tags(world: &World, version: Option<VersionSelector>, list: &[(&str, &str)]) -> Command {
    let tags = list.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let origin = Origin::default();
    Command::SetTags(SetTags { bucket: world.bucket, key: key("k"), version, tags, origin })
}

#[test]
fn tags_that_change_later_count() {
    let tagged = LifecycleFilter { tags: vec![("class".to_string(), "tmp".to_string())], ..filter("") };
    let rules = vec![
        LifecycleRule { filter: tagged.clone(), ..days("current", "", 1) },
        LifecycleRule { filter: tagged, ..noncurrent(1, None) },
    ];
    let mut world = world(Versioning::Enabled, rules);
    let first = world.put_inline("k", "x").stamp;
    for (list, expected) in
        [(&[("class", "tmp")][..], 1), (&[("class", "kept")], 0), (&[("class", "tmp")], 1)]
    {
        let command = tags(&world, None, list);
        world.done(command);
        assert_eq!(hints(&world), expected);
        world.audit();
    }
    world.put_inline("k", "untagged");
    let selector = Some(VersionSelector::Stamp(first));
    for (list, expected) in [(&[][..], 0), (&[("class", "tmp")], 1)] {
        let command = tags(&world, selector, list);
        world.done(command);
        assert_eq!(hints(&world), expected);
        world.audit();
    }
    assert_eq!(live_days(&mut world, 2), Expired { noncurrent: 1, ..Expired::default() });
    assert_eq!(versions(&world), ["k*"]);
}

#[test]
fn other_rules_hold_for_what_is_there_already() {
    let mut world = world(Versioning::Enabled, vec![days("ten", "", 10)]);
    for name in ["a", "b"] {
        world.put_inline(name, "1");
        world.put_inline(name, "2");
    }
    let upload = world.create_upload("u");
    let abort = LifecycleRule { abort_uploads_days: Some(3), ..rule("abort", "") };
    set(&mut world, vec![days("twenty", "a", 20), noncurrent(2, None), abort]);
    assert_eq!(due(&world, None).walk, Some(world.bucket));
    fill(&mut world);
    assert_eq!(due(&world, None).walk, None);
    assert_eq!(live_days(&mut world, 3), Expired { noncurrent: 2, ..Expired::default() });
    assert_eq!(live_days(&mut world, 1), Expired { uploads: 1, ..Expired::default() });
    assert!(
        world.ask(Query::Parts { bucket: world.bucket, key: key("u"), upload, after: 0, limit: 1 }).is_err()
    );
    // The hints of the rules before come to nothing.
    assert_eq!(live_days(&mut world, 8), Expired::default());
    assert_eq!(versions(&world), ["a*", "b*"]);
    assert_eq!(live_days(&mut world, 10), Expired { current: 1, ..Expired::default() });
    // Without rules nothing is removed, and what is left of hints goes.
    let change = BucketChange::Remove(SettingKind::Lifecycle);
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change }));
    assert_eq!(live_days(&mut world, 100), Expired::default());
    assert_eq!((hints(&world), versions(&world).len()), (0, 3));
}

#[test]
fn a_bucket_is_walked_in_pieces_and_writes_go_on_meanwhile() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    for number in 0..1_200 {
        world.put_inline(&format!("k{number:04}"), "");
    }
    for _ in 0..250 {
        world.put_inline("versions", "");
    }
    set(&mut world, vec![days("all", "", 5), noncurrent(2, Some(1))]);
    let mut commands = 0;
    while let Some(bucket) = due(&world, None).walk {
        world.done(Command::FillDue(FillDue { bucket }));
        // What moves from one table to the other meanwhile is not missed.
        let name = format!("k{:04}", 1_199 - commands * 100);
        world.put_inline(&name, "");
        world.delete_one("versions", None);
        commands += 1;
    }
    world.audit();
    assert_eq!(commands, 3 + 3 + 1);
    assert_eq!(scan_all::<DueWalks>(&world.rows).unwrap().count(), 0);
    // One version of each key stays beside the latest, and so do the markers that are newer than it.
    assert_eq!(live_days(&mut world, 3), Expired { noncurrent: 249, ..Expired::default() });
}

#[test]
fn disabled_rules_remove_nothing() {
    let off = LifecycleRule { enabled: false, ..days("off", "", 1) };
    let mut world = world(Versioning::Off, vec![off]);
    world.put_inline("k", "x");
    assert_eq!((hints(&world), live_days(&mut world, 10)), (0, Expired::default()));
}

#[test]
fn versions_that_become_current_again_age_from_when_they_were_stored() {
    let mut world = world(Versioning::Enabled, vec![noncurrent(3, None)]);
    let first = world.put_inline("k", "1").stamp;
    let second = world.put_inline("k", "2").stamp;
    pass_days(&mut world, 2);
    world.delete_one("k", Some(VersionSelector::Stamp(second)));
    assert_eq!(hints(&world), 0, "it is current");
    pass_days(&mut world, 5);
    world.put_inline("k", "3");
    assert_eq!(live_days(&mut world, 2), Expired::default(), "not current for two days only");
    assert_eq!(live_days(&mut world, 2), Expired { noncurrent: 1, ..Expired::default() });
    let read = Query::Object {
        bucket: world.bucket,
        key: key("k"),
        version: Some(VersionSelector::Stamp(first)),
        want: Want::Row,
    };
    assert_eq!(world.ask(read), Err(Reject::NoSuchVersion));
}

/// Counts the rows that are read, and remembers whose objects.
struct Counting<'a> {
    rows: &'a mut MemoryRows,
    read: Cell<usize>,
    objects: RefCell<BTreeSet<Bytes>>,
}

impl<'a> Counting<'a> {
    fn new(rows: &'a mut MemoryRows) -> Counting<'a> {
        Counting { rows, read: Cell::new(0), objects: RefCell::default() }
    }

    fn note(&self, table: TableId, key: &[u8]) {
        self.read.set(self.read.get() + 1);
        if table == TableId::OBJECTS {
            self.objects.borrow_mut().insert(Bytes::copy_from_slice(key));
        }
    }
}

impl Rows for Counting<'_> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.note(table, key);
        self.rows.get(table, key)
    }

    fn range(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<RowsIter<'_>, Fault> {
        let rows = self.rows.range(table, lower, upper)?;
        Ok(Box::new(rows.inspect(move |row| self.note(table, &row.as_ref().unwrap().0))))
    }
}

impl RowsMut for Counting<'_> {
    fn put(&mut self, table: TableId, key: Bytes, value: Bytes) {
        self.rows.put(table, key, value);
    }

    fn delete(&mut self, table: TableId, key: &[u8]) {
        self.rows.delete(table, key);
    }
}

/// The work is that of what is due, not that of what is there.
#[test]
fn only_what_is_due_is_looked_at() {
    const OBJECTS: u64 = 1_000_000;
    const DUE: u64 = 1_000;
    let mut world = world(Versioning::Off, vec![days("all", "", 30)]);
    for number in 0..OBJECTS {
        // Every thousandth is as much older as it takes.
        if number == DUE {
            pass_days(&mut world, 20);
        }
        world.lowest_open = world.sequence;
        world.put_inline(&format!("{:07}", number * 7_919 % OBJECTS), "");
    }
    pass_days(&mut world, 11);
    tick(&mut world);
    world.now.0 += 600_000;
    tick(&mut world);
    let (mut rows, mut after, mut expired) = (std::mem::take(&mut world.rows), None, 0);
    let mut rows = Counting::new(&mut rows);
    loop {
        let query = Query::Due { after: after.clone(), limit: EXPIRE_PER_COMMAND as u32 };
        let Ok(Answer::Due(page)) = answer(&rows, world.index, &query).unwrap().answer else { panic!() };
        let Some(last) = page.hints.last() else { break };
        after = Some(last.clone());
        world.index += 1;
        world.sequence += 1;
        let command = Command::Expire(Expire { hints: page.hints });
        let (session, sequence) = (world.session, world.sequence);
        let entry = Entry { session, sequence, lowest_open: sequence, at: world.now, command };
        match apply(&mut rows, &world.context, world.index, &entry).unwrap() {
            Reply::Done(Done::Expired(done)) => expired += done.current,
            reply => panic!("{reply:?}"),
        }
    }
    let (read, objects) = (rows.read.get(), rows.objects.borrow().len());
    assert_eq!((expired, objects as u64), (DUE, DUE));
    assert!(read < 40 * DUE as usize, "{read} rows were read for {DUE} objects");
}

proptest! {
    #![proptest_config(cases(150))]

    /// Whatever happens in whatever order: the hints agree with the rows, and when all of them were looked at, nothing is
    /// there that is due and not locked.
    #[test]
    fn what_is_due_goes_and_nothing_else(
        steps in proptest::collection::vec((0..3_u8, 0..14_u8, any::<u8>()), 1..80),
    ) {
        let mut world = World::new();
        let mut stamps = vec![stamp(1)];
        for (name, what, which) in steps {
            let name = ["a", "a/b", "b"][usize::from(name)];
            let some = Some(VersionSelector::Stamp(stamps[usize::from(which) % stamps.len()]));
            match what {
                0 => world.set_versioning(if which % 2 == 0 { Versioning::Enabled } else { Versioning::Suspended }),
                1 => set(&mut world, random_rules(which)),
                2 => {
                    let change = BucketChange::Remove(SettingKind::Lifecycle);
                    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change }));
                }
                3 => fill(&mut world),
                4 | 5 => world.now.0 += u64::from(which) * DAY_MS / 50,
                6 => drop(expire(&mut world)),
                7 => drop(world.delete_one(name, some)),
                8 => drop(world.delete_one(name, None)),
                9 => drop(world.delete_one(name, Some(VersionSelector::Null))),
                10 => {
                    let list = if which % 2 == 0 { &[("class", "tmp")][..] } else { &[] };
                    let Command::SetTags(tags) = tags(&world, some.filter(|_| which % 3 != 0), list) else { panic!() };
                    world.run(Command::SetTags(SetTags { key: key(name), ..tags }));
                }
                11 => {
                    let upload = world.create_upload(name);
                    if which % 2 == 0 {
                        let part = world.part(name, upload, 1, 10);
                        world.done(Command::PutPart(part));
                        let complete = world.complete(name, upload, &[1]);
                        stamps.push(super::world::stored(world.done(Command::CompleteUpload(complete))).stamp);
                    }
                }
                _ => stamps.push(world.put_inline(name, ["", "x", "longer"][usize::from(which) % 3]).stamp),
            }
            stamps.push(stamp(world.index));
            world.audit();
        }
        fill(&mut world);
        expire(&mut world);
        world.now.0 += 600_000;
        expire(&mut world);
    }
}

/// Rules of all kinds, by the bits of a number.
fn random_rules(bits: u8) -> Vec<LifecycleRule> {
    let bit = |place: u8| bits >> place & 1 == 1;
    let tagged = LifecycleFilter { tags: vec![("class".to_string(), "tmp".to_string())], ..filter("") };
    let sized = LifecycleFilter { larger_than: Some(0), smaller_than: Some(3), ..filter("a") };
    let markers =
        LifecycleRule { expiration: Some(Expiration::DeleteMarkers(bit(1))), ..rule("markers", "b") };
    let abort = LifecycleRule { abort_uploads_days: Some(2), ..rule("abort", "a") };
    let all = [
        days("a", "a", 3),
        markers,
        noncurrent(1, bit(3).then_some(1)),
        LifecycleRule { filter: tagged, ..days("tagged", "", 1) },
        LifecycleRule { filter: sized, ..noncurrent(2, bit(5).then_some(2)) },
        abort,
        LifecycleRule { enabled: bit(7), ..days("b", "b", 4) },
    ];
    all.into_iter().enumerate().filter(|(place, _)| bit(*place as u8)).map(|(_, rule)| rule).collect()
}

fn class_of(world: &World, name: &str) -> Option<String> {
    world.current(name).unwrap().attributes.storage_class
}

/// Rules of which each moves what it covers after some days.
fn moving(list: Vec<(LifecycleRule, TransitionWhen)>) -> BucketSetting {
    let class = || "STANDARD_IA".to_string();
    let transitions = list.iter().enumerate().map(|(place, (_, when))| Transition {
        rule: place as u16,
        when: *when,
        class: class(),
    });
    let transitions = transitions.collect();
    BucketSetting::Transitions(rules(list.into_iter().map(|(rule, _)| rule).collect()), transitions)
}

fn put_large(world: &mut World, name: &str) -> Stamp {
    let extent = world.extent(300_000);
    let put = world.put(name, NewBody::Extent(extent));
    super::world::stored(world.done(Command::PutObject(put))).stamp
}

#[test]
fn versions_move_in_their_time_and_stay_what_they_are() {
    let mut world = world(Versioning::Enabled, Vec::new());
    let kept = NoncurrentExpiration { days: 1, newer_versions: None };
    let setting = moving(vec![
        (days("moves and goes", "a/", 5), TransitionWhen::Days(2)),
        (rule("others", "b/"), TransitionWhen::Noncurrent(kept)),
    ]);
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(setting) }));
    fill(&mut world);
    for name in ["a/large", "b/old"] {
        put_large(&mut world, name);
    }
    world.put_inline("a/small", "x");
    let old = put_large(&mut world, "b/old");
    put_large(&mut world, "b/old");
    let before = world.current("a/large").unwrap();
    assert_eq!(expire(&mut world), Expired::default());
    assert_eq!(live_days(&mut world, 3), Expired::default(), "nothing goes");
    let after = world.current("a/large").unwrap();
    assert_eq!(after.attributes.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(Object { attributes: before.attributes.clone(), ..after }, before);
    assert_eq!((class_of(&world, "a/small"), class_of(&world, "b/old")), (None, None));
    let version = Some(VersionSelector::Stamp(old));
    let query = Query::Object { bucket: world.bucket, key: key("b/old"), version, want: Want::Row };
    let Ok(Answer::Object(moved)) = world.ask(query) else { panic!() };
    assert_eq!(moved.object.attributes.storage_class.as_deref(), Some("STANDARD_IA"));
    let Ok(Answer::Events(events)) =
        world.ask(Query::Events { bucket: world.bucket, after: None, limit: 100 })
    else {
        panic!()
    };
    let told = events.iter().filter(|(_, event)| event.kind == EventKind::Transition);
    let told: BTreeSet<String> = told.map(|(_, event)| event.key.as_str().to_string()).collect();
    assert_eq!(told, BTreeSet::from(["a/large".to_string(), "b/old".to_string()]));
    // It goes in its time.
    assert_eq!(live_days(&mut world, 3).current, 2);
    let Ok(Answer::Recoding(Some(waiting))) = world.ask(Query::Recoding { after: None }) else { panic!() };
    assert_eq!((waiting.home.key, waiting.extents.len()), (key("a/large"), 1));
}
