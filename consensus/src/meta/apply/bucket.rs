//! Buckets.

use fabric::ids::BucketId;
use fabric::limits::BUCKETS_PER_USER_MAX;

use super::transaction::Transaction;
use super::{Outcome, quota};
use crate::meta::command::{CreateBucket, DeleteBucket, Done, Reject};
use crate::meta::model::{Bucket, Usage, Versioning};
use crate::meta::tables::{BucketNames, Buckets, BucketsByOwner, Objects, Uploads, Usages, Users, Versions};

/// Creates a bucket under a name that is free.
pub(super) fn create(tx: &mut Transaction<'_>, command: &CreateBucket) -> Outcome {
    if let Some(id) = tx.get::<BucketNames>(&command.name)? {
        let owner = tx.get::<Buckets>(id)?.ok_or(Reject::NoSuchBucket)?.owner;
        return Err(Reject::BucketExists { owner }.into());
    }
    let mut user = tx.get::<Users>(&command.owner)?.ok_or(Reject::NoSuchUser)?;
    if BUCKETS_PER_USER_MAX <= user.buckets {
        return Err(Reject::TooManyBuckets.into());
    }

    let bucket = Bucket {
        id: BucketId(tx.cluster.next_bucket),
        name: command.name.clone(),
        owner: command.owner.clone(),
        created: tx.now,
        epoch: tx.cluster.epoch,
        versioning: Versioning::Off,
    };
    tx.cluster.next_bucket += 1;
    tx.cluster.buckets += 1;
    user.buckets += 1;
    tx.put::<Users>(&user.name, &user);
    tx.put::<Buckets>(bucket.id, &bucket);
    tx.put::<BucketNames>(&bucket.name, &bucket.id);
    tx.put::<BucketsByOwner>((&bucket.owner, &bucket.name), &bucket.id);
    tx.put::<Usages>(bucket.id, &Usage::default());
    Ok(Done::Bucket(bucket))
}

/// Deletes a bucket in which nothing is left. Its events and completed uploads are trimmed in their time.
pub(super) fn delete(tx: &mut Transaction<'_>, command: &DeleteBucket) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let empty = tx.scan_under::<Objects>(bucket.id)?.next().is_none()
        && tx.scan_under::<Versions>(bucket.id)?.next().is_none()
        && tx.scan_under::<Uploads>(bucket.id)?.next().is_none();
    if !empty {
        return Err(Reject::BucketNotEmpty.into());
    }
    if let Some(mut user) = tx.get::<Users>(&bucket.owner)? {
        user.buckets = user.buckets.saturating_sub(1);
        tx.put::<Users>(&user.name, &user);
    }
    tx.cluster.buckets -= 1;
    tx.delete::<Buckets>(bucket.id);
    tx.delete::<BucketNames>(&bucket.name);
    tx.delete::<BucketsByOwner>((&bucket.owner, &bucket.name));
    tx.delete::<Usages>(bucket.id);
    quota::remove_of_bucket(tx, bucket.id)?;
    Ok(Done::Nothing)
}
