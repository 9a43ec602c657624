//! Quotas: what a bucket, and all buckets of a user together, may hold.
//!
//! Decided where the write is applied, so that writers at the same time cannot pass together. What does not grow is
//! never refused, whatever is there already.

use fabric::ids::BucketId;

use super::transaction::Transaction;
use super::{Outcome, Stop, annotation, version};
use crate::meta::command::{Done, Reject, SetQuota};
use crate::meta::lookup::usage_of_user;
use crate::meta::model::{Bucket, Home, Quota, QuotaOf, Usage, UserQuota};
use crate::meta::names::UserName;
use crate::meta::store::Fault;
use crate::meta::tables::{BucketQuotas, Buckets, Usages, UserQuotas, Users};

/// Sets, changes or removes a quota.
pub(super) fn set(tx: &mut Transaction<'_>, command: &SetQuota) -> Outcome {
    match &command.of {
        QuotaOf::Bucket(bucket) => {
            tx.get::<Buckets>(*bucket)?.ok_or(Reject::NoSuchBucket)?;
            remove_of_bucket(tx, *bucket)?;
            if command.quota != Quota::default() {
                tx.put::<BucketQuotas>(*bucket, &command.quota);
                tx.cluster.quotas += 1;
            }
        }
        QuotaOf::User(user) => {
            tx.get::<Users>(user)?.ok_or(Reject::NoSuchUser)?;
            remove_of_user(tx, user)?;
            if command.quota != Quota::default() {
                let usage = usage_of_user(tx.rows(), user)?;
                tx.put::<UserQuotas>(user, &UserQuota { quota: command.quota, usage });
                tx.cluster.quotas += 1;
            }
        }
    }
    Ok(Done::Nothing)
}

/// A bucket goes, or its quota does.
pub(super) fn remove_of_bucket(tx: &mut Transaction<'_>, bucket: BucketId) -> Result<(), Fault> {
    if tx.get::<BucketQuotas>(bucket)?.is_some() {
        tx.delete::<BucketQuotas>(bucket);
        tx.cluster.quotas -= 1;
    }
    Ok(())
}

/// A user goes, or its quota does.
pub(super) fn remove_of_user(tx: &mut Transaction<'_>, user: &UserName) -> Result<(), Fault> {
    if tx.get::<UserQuotas>(user)?.is_some() {
        tx.delete::<UserQuotas>(user);
        tx.cluster.quotas -= 1;
    }
    Ok(())
}

/// What changed in a bucket changed for its owner, too.
pub(super) fn note(
    tx: &mut Transaction<'_>,
    bucket: BucketId,
    before: Usage,
    after: Usage,
) -> Result<(), Fault> {
    let Some(Bucket { owner, .. }) = tx.get::<Buckets>(bucket)? else {
        return Ok(());
    };
    if let Some(mut row) = tx.get::<UserQuotas>(&owner)? {
        row.usage -= before;
        row.usage += after;
        tx.put::<UserQuotas>(&owner, &row);
    }
    Ok(())
}

/// Refuses a new version of so many bytes where it would take its bucket or its owner above a quota. `freed` is what
/// the same command takes away beside the version that is replaced.
pub(super) fn check_version(
    tx: &Transaction<'_>,
    bucket: &Bucket,
    home: &Home,
    bytes: u64,
    freed: Usage,
) -> Result<(), Stop> {
    if tx.cluster.quotas == 0 {
        return Ok(());
    }
    let mut freed = freed;
    if let Some(replaced) = version::replaced(tx, bucket, home)? {
        let bytes = replaced.bytes + annotation::bytes(tx, home, replaced.stamp)?;
        freed += Usage { objects: 1, bytes, ..Usage::default() };
    }
    check(tx, bucket, Usage { objects: 1, bytes, ..Usage::default() }, freed)
}

/// Refuses `added` where it would take a bucket or its owner above a quota, with `freed` taken away.
pub(super) fn check(tx: &Transaction<'_>, bucket: &Bucket, added: Usage, freed: Usage) -> Result<(), Stop> {
    if tx.cluster.quotas == 0 {
        return Ok(());
    }
    if let Some(quota) = tx.get::<BucketQuotas>(bucket.id)? {
        let used = tx.get::<Usages>(bucket.id)?.unwrap_or_default();
        against(QuotaOf::Bucket(bucket.id), quota, used, added, freed)?;
    }
    if let Some(UserQuota { quota, usage }) = tx.get::<UserQuotas>(&bucket.owner)? {
        against(QuotaOf::User(bucket.owner.clone()), quota, usage, added, freed)?;
    }
    Ok(())
}

fn against(of: QuotaOf, quota: Quota, used: Usage, added: Usage, freed: Usage) -> Result<(), Reject> {
    let exceeds = |limit: Option<u64>, of: fn(&Usage) -> u64| {
        let (added, freed) = (of(&added), of(&freed));
        freed < added && limit.is_some_and(|limit| limit < of(&used).saturating_add(added - freed))
    };
    if exceeds(quota.objects, Usage::counted_objects) || exceeds(quota.bytes, Usage::counted_bytes) {
        return Err(Reject::QuotaExceeded { of, quota });
    }
    Ok(())
}
