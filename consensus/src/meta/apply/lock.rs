//! Object lock: what keeps a version from being removed, until when.
//!
//! Decided where a version is removed, so that no way around leads past it. Time is cluster time, which never goes back.

use fabric::ids::{BucketId, Stamp};

use super::transaction::Transaction;
use super::{Outcome, Stop, lifecycle, object};
use crate::meta::command::{Done, Guard, LockChange, Reject, SetLock};
use crate::meta::model::{
    BucketSetting, ClusterMs, EventKind, Home, Lock, ObjectLock, Origin, Retention, RetentionMode,
    SettingKind,
};
use crate::meta::store::Fault;
use crate::meta::tables::{BucketSettings, Buckets, Locks};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What locks objects in a bucket, if anything does.
pub(super) fn of_bucket(tx: &Transaction<'_>, bucket: BucketId) -> Result<Option<ObjectLock>, Fault> {
    let setting = tx.get::<BucketSettings>((bucket, SettingKind::ObjectLock as u16))?;
    Ok(match setting {
        Some(BucketSetting::ObjectLock(lock)) => Some(lock),
        _ => None,
    })
}

/// Refuses a lock that a write may not ask for.
pub(super) fn check_wanted(tx: &Transaction<'_>, home: &Home, guard: &Guard) -> Result<(), Stop> {
    if guard.lock == Lock::default() {
        return Ok(());
    }
    if of_bucket(tx, home.bucket)?.is_none() {
        return Err(Reject::NoObjectLock.into());
    }
    check_future(tx, guard.lock.retention.as_ref())
}

fn check_future(tx: &Transaction<'_>, retention: Option<&Retention>) -> Result<(), Stop> {
    match retention {
        Some(retention) if retention.until <= tx.now => Err(Reject::RetentionPast.into()),
        _ => Ok(()),
    }
}

/// Locks a new version, or an upload for the version it becomes: as its writer wants, else as its bucket says.
pub(super) fn lock_new(
    tx: &mut Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    wanted: &Lock,
) -> Result<(), Fault> {
    let by_default = || {
        let default = of_bucket(tx, home.bucket)?.and_then(|lock| lock.default);
        Ok::<_, Fault>(default.map(|default| Retention {
            mode: default.mode,
            until: ClusterMs(tx.now.0 + u64::from(default.days) * DAY_MS),
        }))
    };
    let retention = match &wanted.retention {
        Some(retention) => Some(retention.clone()),
        None => by_default()?,
    };
    let lock = Lock { retention, ..wanted.clone() };
    if lock != Lock::default() {
        tx.put::<Locks>((home, stamp), &lock);
    }
    Ok(())
}

/// Takes the lock of an upload, for the version it became.
pub(super) fn take(tx: &mut Transaction<'_>, home: &Home, stamp: Stamp) -> Result<Lock, Fault> {
    let lock = tx.get::<Locks>((home, stamp))?;
    tx.delete::<Locks>((home, stamp));
    Ok(lock.unwrap_or_default())
}

/// Refuses the removal of a version that is locked. `bypass`: its remover may end governance.
pub(super) fn check_removal(
    tx: &Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    bypass: bool,
) -> Result<(), Stop> {
    match tx.get::<Locks>((home, stamp))? {
        Some(lock) if is_locked(tx, &lock, bypass) => Err(Reject::Locked.into()),
        _ => Ok(()),
    }
}

fn is_locked(tx: &Transaction<'_>, lock: &Lock, bypass: bool) -> bool {
    let retained = lock.retention.as_ref().is_some_and(|retention| {
        let holds = tx.now < retention.until;
        holds && !(bypass && retention.mode == RetentionMode::Governance)
    });
    lock.legal_hold || retained
}

/// Changes the lock of a version. What compliance promises is only ever made longer; what governance does is made
/// shorter by those who may. Where it is known who asked, the change feed tells of it.
pub(super) fn set(tx: &mut Transaction<'_>, command: &SetLock, origin: Option<&Origin>) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    let found = object::existing(tx, &home, command.version)?;
    if of_bucket(tx, bucket.id)?.is_none() {
        return Err(Reject::NoObjectLock.into());
    }
    let before = tx.get::<Locks>((&home, found.stamp))?.unwrap_or_default();
    let mut lock = before.clone();
    match &command.change {
        LockChange::LegalHold(held) => lock.legal_hold = *held,
        LockChange::Retention(wanted) => {
            check_future(tx, wanted.as_ref())?;
            if lock.retention.as_ref().is_some_and(|now| weakens(tx, now, wanted.as_ref(), command.bypass)) {
                return Err(Reject::Locked.into());
            }
            lock.retention.clone_from(wanted);
        }
    }
    let changed = keep(tx, &home, found.stamp, (&before, &lock))?;
    if let (Some(kind), Some(origin)) = (changed, origin) {
        object::tell(tx, &bucket, &home, &found, kind, origin, 0);
    }
    Ok(Done::Stored(object::stored(&bucket, &found)))
}

/// Makes the lock of a copy what that of its source is, where its bucket locks, and returns what changed. What compliance
/// promises here is kept until its time, and so is what the bucket's own rule gave where the source has no retention.
pub(super) fn follow(
    tx: &mut Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    said: &Lock,
) -> Result<Option<EventKind>, Fault> {
    let Some(rule) = of_bucket(tx, home.bucket)? else { return Ok(None) };
    let before = tx.get::<Locks>((home, stamp))?.unwrap_or_default();
    let mut lock = said.clone();
    let is_own = said.retention.is_none() && rule.default.is_some();
    if is_own || before.retention.as_ref().is_some_and(|now| weakens(tx, now, said.retention.as_ref(), true))
    {
        lock.retention.clone_from(&before.retention);
    }
    keep(tx, home, stamp, (&before, &lock))
}

/// Puts a lock in place of another one, and returns what changed.
fn keep(
    tx: &mut Transaction<'_>,
    home: &Home,
    stamp: Stamp,
    (before, lock): (&Lock, &Lock),
) -> Result<Option<EventKind>, Fault> {
    match *lock == Lock::default() {
        true => tx.delete::<Locks>((home, stamp)),
        false => tx.put::<Locks>((home, stamp), lock),
    }
    lifecycle::note(tx, home, stamp)?;
    let kind = match before.retention == lock.retention {
        false => EventKind::Retention,
        true => EventKind::LegalHold,
    };
    Ok((before != lock).then_some(kind))
}

/// Whether a change takes away what was promised, by somebody who may not.
fn weakens(tx: &Transaction<'_>, now: &Retention, wanted: Option<&Retention>, bypass: bool) -> bool {
    if now.until <= tx.now {
        return false;
    }
    let keeps = |wanted: &Retention| now.until <= wanted.until && now.mode == wanted.mode;
    match now.mode {
        RetentionMode::Compliance => !wanted.is_some_and(keeps),
        RetentionMode::Governance => !bypass && wanted.is_none_or(|wanted| wanted.until < now.until),
    }
}
