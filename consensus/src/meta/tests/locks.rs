//! Object lock: what a lock keeps, who may end it, and when it ends by itself.

use super::world::{World, key, stored};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, Query};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A world whose bucket locks.
fn locking(default: Option<DefaultRetention>) -> World {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    let lock = BucketSetting::ObjectLock(ObjectLock { default });
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(lock) }));
    world
}

fn guarded(command: Command, guard: Guard) -> Command {
    Command::Guarded(Guarded { guard, command: Box::new(command) })
}

fn put(world: &mut World, lock: Lock) -> Stored {
    let put = world.put("k", NewBody::Inline("x".into()));
    stored(world.done(guarded(Command::PutObject(put), Guard { lock, ..Guard::default() })))
}

fn retained(world: &World, mode: RetentionMode, days: u64) -> Lock {
    let until = ClusterMs(world.now.0 + days * DAY_MS);
    Lock { retention: Some(Retention { mode, until }), legal_hold: false }
}

fn remove(world: &mut World, version: &Stored, bypass: bool) -> Result<DeletedKey, Reject> {
    let delete = world.delete("k", Some(VersionSelector::Stamp(version.stamp)));
    match world.done(guarded(delete, Guard { bypass, ..Guard::default() })) {
        Done::Deleted(mut outcomes) => outcomes.pop().unwrap(),
        done => panic!("{done:?}"),
    }
}

fn set(world: &World, version: &Stored, change: LockChange, bypass: bool) -> Command {
    let version = Some(VersionSelector::Stamp(version.stamp));
    Command::SetLock(SetLock { bucket: world.bucket, key: key("k"), version, change, bypass })
}

fn lock_of(world: &World, version: &Stored) -> Lock {
    let query = Query::Lock { bucket: world.bucket, key: key("k"), version: version.stamp };
    match world.ask(query) {
        Ok(Answer::Lock(lock)) => lock,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_retained_version_stays_until_its_time() {
    for (mode, bypass, removable) in [
        (RetentionMode::Compliance, false, false),
        (RetentionMode::Compliance, true, false),
        (RetentionMode::Governance, false, false),
        (RetentionMode::Governance, true, true),
    ] {
        let mut world = locking(None);
        let lock = retained(&world, mode, 10);
        let version = put(&mut world, lock);
        // A delete without a version only hides it.
        world.delete_one("k", None);
        assert_eq!(remove(&mut world, &version, bypass).is_ok(), removable, "{mode:?} {bypass}");
        world.audit();
        if !removable {
            world.now.0 += 10 * DAY_MS - 1;
            assert_eq!(remove(&mut world, &version, bypass), Err(Reject::Locked));
            world.now.0 += 1;
            remove(&mut world, &version, false).unwrap();
        }
        world.audit();
    }
}

#[test]
fn a_legal_hold_lasts_until_somebody_ends_it() {
    let mut world = locking(None);
    let version = put(&mut world, Lock { legal_hold: true, ..Lock::default() });
    world.now.0 += 10_000 * DAY_MS;
    assert_eq!(remove(&mut world, &version, true), Err(Reject::Locked));
    let end = set(&world, &version, LockChange::LegalHold(false), false);
    world.done(end);
    remove(&mut world, &version, false).unwrap();
    world.audit();
}

#[test]
fn a_promise_is_only_made_longer() {
    use RetentionMode::{Compliance, Governance};
    for (mode, days, bypass, wanted, good) in [
        (Compliance, 10, true, Some((Compliance, 11)), true),
        (Compliance, 10, true, Some((Compliance, 9)), false),
        (Compliance, 10, true, Some((Governance, 11)), false),
        (Compliance, 10, true, None, false),
        (Governance, 10, false, Some((Governance, 11)), true),
        (Governance, 10, false, Some((Compliance, 10)), true),
        (Governance, 10, false, Some((Governance, 9)), false),
        (Governance, 10, false, None, false),
        (Governance, 10, true, Some((Governance, 9)), true),
        (Governance, 10, true, None, true),
    ] {
        let mut world = locking(None);
        let lock = retained(&world, mode, days);
        let version = put(&mut world, lock.clone());
        let wanted = wanted.and_then(|(mode, days)| retained(&world, mode, days).retention);
        let change = set(&world, &version, LockChange::Retention(wanted.clone()), bypass);
        if good {
            world.done(change);
            assert_eq!(lock_of(&world, &version).retention, wanted);
        } else {
            assert_eq!(world.rejected(change), Reject::Locked, "{mode:?} to {wanted:?}");
            assert_eq!(lock_of(&world, &version), lock);
        }
        world.audit();
    }
}

#[test]
fn buckets_lock_by_default() {
    let default = DefaultRetention { mode: RetentionMode::Compliance, days: 3, in_years: false };
    let mut world = locking(Some(default));
    let by_default = put(&mut world, Lock::default());
    assert_eq!(lock_of(&world, &by_default), retained(&world, RetentionMode::Compliance, 3));
    let own = retained(&world, RetentionMode::Governance, 1);
    let chosen = put(&mut world, own.clone());
    assert_eq!(lock_of(&world, &chosen), own);
    // An upload is locked when it is completed, for the time from then on.
    let upload = world.create_upload("k");
    world.now.0 += DAY_MS;
    let part = world.part("k", upload, 1, 100);
    world.done(Command::PutPart(part));
    let complete = world.complete("k", upload, &[1]);
    let completed = stored(world.done(Command::CompleteUpload(complete)));
    assert_eq!(lock_of(&world, &completed), retained(&world, RetentionMode::Compliance, 3));
    world.audit();
}

#[test]
fn only_buckets_that_lock_take_locks_and_they_stay_so() {
    let mut world = World::new();
    let lock = retained(&world, RetentionMode::Governance, 1);
    let put = Command::PutObject(world.put("k", NewBody::Inline("x".into())));
    let guard = Guard { lock, ..Guard::default() };
    assert_eq!(world.rejected(guarded(put.clone(), guard)), Reject::NoObjectLock);
    let twice = guarded(guarded(put, Guard::default()), Guard::default());
    assert!(matches!(world.rejected(twice), Reject::Malformed(_)));
    let change = |bucket, change| Command::SetBucket(SetBucket { bucket, change });
    let locks = BucketChange::Set(BucketSetting::ObjectLock(ObjectLock::default()));
    assert!(matches!(world.rejected(change(world.bucket, locks)), Reject::BucketState(_)));

    let create = CreateBucket { name: "locked".parse().unwrap(), owner: "anna".parse().unwrap() };
    let guard = Guard { bucket: true, ..Guard::default() };
    let Done::Bucket(made) = world.done(guarded(Command::CreateBucket(create), guard)) else { panic!() };
    assert_eq!(made.versioning, Versioning::Enabled);
    for refused in
        [BucketChange::Versioning(Versioning::Suspended), BucketChange::Remove(SettingKind::ObjectLock)]
    {
        assert!(matches!(world.rejected(change(made.id, refused)), Reject::BucketState(_)));
    }
    let mut world = locking(None);
    let past = Lock {
        retention: Some(Retention { mode: RetentionMode::Governance, until: world.now }),
        legal_hold: false,
    };
    let put = Command::PutObject(world.put("k", NewBody::Inline("x".into())));
    let guard = Guard { lock: past, ..Guard::default() };
    assert_eq!(world.rejected(guarded(put, guard)), Reject::RetentionPast);
    world.audit();
}

#[test]
fn the_change_feed_tells_of_locks_that_change() {
    let mut world = locking(None);
    let version = put(&mut world, Lock::default());
    let until = retained(&world, RetentionMode::Governance, 10).retention;
    for change in [
        LockChange::LegalHold(true),
        LockChange::LegalHold(true),
        LockChange::Retention(until.clone()),
        LockChange::Retention(until),
        LockChange::LegalHold(false),
    ] {
        let Command::SetLock(set) = set(&world, &version, change, false) else { panic!() };
        let origin = Origin { requester: "berta".to_string(), ..Origin::default() };
        world.done(Command::ChangeLock(set, origin));
    }
    let query = Query::Changes { bucket: world.bucket, after: fabric::ids::Stamp::ZERO, limit: 10 };
    let Ok(Answer::Changes(changes)) = world.ask(query) else { panic!() };
    let told: Vec<_> = changes.events.iter().skip(1).collect();
    let kinds: Vec<_> = told.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [EventKind::LegalHold, EventKind::Retention, EventKind::LegalHold]);
    let of = |event: &Event| event.version == version.stamp && event.origin.requester == "berta";
    assert!(told.iter().all(|(_, event)| of(event)));
    world.audit();
}
