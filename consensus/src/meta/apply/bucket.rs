//! Buckets.

use fabric::ids::BucketId;
use fabric::limits::BUCKETS_PER_USER_MAX;

use super::transaction::Transaction;
use super::{Outcome, Stop, acl, deliveries, lifecycle, lock, malformed, quota, replication, user};
use crate::meta::acl::{ObjectOwnership, WantedAcl};
use crate::meta::command::{BucketChange, CreateBucket, DeleteBucket, Done, Reject, SetBucket};
use crate::meta::model::{Bucket, BucketSetting, ObjectLock, SettingKind, Usage, User, Versioning};
use crate::meta::names::{BucketName, UserName};
use crate::meta::tables::{
    Acknowledged, BucketNames, BucketSettings, Buckets, BucketsByOwner, EventMarks, Follows, Objects,
    Promotions, Replicating, Superseded, Uploads, Usages, Users, Versions,
};

/// Creates a bucket under a name that is free; `locking`: it is versioned, and its versions can be locked.
pub(super) fn create(
    tx: &mut Transaction<'_>,
    command: &CreateBucket,
    locking: bool,
    ownership: Option<ObjectOwnership>,
    wanted: Option<&WantedAcl>,
) -> Outcome {
    let mut user = check_free(tx, &command.name, &command.owner)?;
    if BUCKETS_PER_USER_MAX <= user.buckets {
        return Err(Reject::TooManyBuckets.into());
    }
    let id = BucketId(tx.cluster.next_bucket);
    let acl = wanted.map(|wanted| wanted.grants(&command.owner, &command.owner)).unwrap_or_default();
    let says_nothing = wanted.is_none_or(|wanted| wanted.says_nothing(&command.owner));
    if ownership.is_none() && !says_nothing {
        return Err(Reject::AclNotSupported.into());
    }
    acl::check(tx, id, &acl)?;
    tx.cluster.next_bucket += 1;
    let mut bucket = insert(tx, id, &command.name, &mut user);
    if locking {
        bucket.versioning = Versioning::Enabled;
        tx.put::<Buckets>(id, &bucket);
        let lock = BucketSetting::ObjectLock(ObjectLock::default());
        tx.put::<BucketSettings>((id, lock.kind() as u16), &lock);
    }
    let ownership = ownership.map(BucketSetting::ObjectOwnership);
    let acl = (!says_nothing).then_some(BucketSetting::Acl(acl));
    for setting in ownership.into_iter().chain(acl) {
        tx.put::<BucketSettings>((id, setting.kind() as u16), &setting);
    }
    Ok(Done::Bucket(bucket))
}

/// The owner to be, if the name is free.
pub(super) fn check_free(tx: &Transaction<'_>, name: &BucketName, owner: &UserName) -> Result<User, Stop> {
    if let Some(id) = tx.get::<BucketNames>(name)? {
        let owner = tx.get::<Buckets>(id)?.ok_or(Reject::NoSuchBucket)?.owner;
        return Err(Reject::BucketExists { owner }.into());
    }
    Ok(user::find(tx, owner)?.ok_or(Reject::NoSuchUser)?)
}

/// Adds the rows of a bucket that was checked.
pub(super) fn insert(tx: &mut Transaction<'_>, id: BucketId, name: &BucketName, user: &mut User) -> Bucket {
    let bucket = Bucket {
        id,
        name: name.clone(),
        owner: user.name.clone(),
        created: tx.now,
        epoch: tx.cluster.epoch,
        versioning: Versioning::Off,
    };
    tx.cluster.buckets += 1;
    user.buckets += 1;
    tx.put::<Users>(&user.name, user);
    tx.put::<Buckets>(bucket.id, &bucket);
    tx.put::<BucketNames>(&bucket.name, &bucket.id);
    tx.put::<BucketsByOwner>((&bucket.owner, &bucket.name), &bucket.id);
    tx.put::<Usages>(bucket.id, &Usage::default());
    bucket
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
    tx.delete::<EventMarks>(bucket.id);
    quota::remove_of_bucket(tx, bucket.id)?;
    tx.delete_under::<BucketSettings>(bucket.id)?;
    lifecycle::end_walk(tx, bucket.id);
    deliveries::end(tx, bucket.id);
    tx.delete::<Replicating>(bucket.id);
    tx.delete_under::<Acknowledged>(bucket.id)?;
    tx.delete_under::<Follows>(bucket.id)?;
    tx.delete::<Superseded>(bucket.id);
    tx.delete_under::<Promotions>(bucket.id)?;
    Ok(Done::Nothing)
}

/// Changes a bucket itself.
pub(super) fn set(tx: &mut Transaction<'_>, command: &SetBucket) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    match &command.change {
        BucketChange::Versioning(Versioning::Off) => {
            return malformed("versioning is suspended, never off again");
        }
        BucketChange::Versioning(Versioning::Suspended) if lock::of_bucket(tx, bucket.id)?.is_some() => {
            return bucket_state("versioning of a bucket with object lock is not suspended");
        }
        BucketChange::Versioning(Versioning::Suspended) if replication::is_copied(tx, bucket.id)? => {
            return bucket_state(
                "A replication configuration is present on this bucket, so the versioning state cannot be changed.",
            );
        }
        BucketChange::Versioning(versioning) => {
            tx.put::<Buckets>(bucket.id, &Bucket { versioning: *versioning, ..bucket });
        }
        BucketChange::Set(BucketSetting::ObjectLock(_)) if bucket.versioning != Versioning::Enabled => {
            return bucket_state("object lock needs a bucket with versioning enabled");
        }
        BucketChange::Remove(SettingKind::ObjectLock) => {
            return bucket_state("object lock stays, once it is there");
        }
        BucketChange::Set(BucketSetting::Replication(_)) if bucket.versioning != Versioning::Enabled => {
            return bucket_state("replication needs a bucket with versioning enabled");
        }
        BucketChange::Set(BucketSetting::Acl(grants)) => {
            acl::check_bucket(tx, bucket.id, grants)?;
            let setting = BucketSetting::Acl(grants.clone());
            tx.put::<BucketSettings>((bucket.id, setting.kind() as u16), &setting);
        }
        BucketChange::Set(setting) => {
            tx.put::<BucketSettings>((bucket.id, setting.kind() as u16), setting);
            match setting.kind() {
                SettingKind::Lifecycle => lifecycle::begin_walk(tx, bucket.id),
                SettingKind::Notifications => deliveries::begin(tx, &bucket)?,
                SettingKind::Replication => tx.put::<Replicating>(bucket.id, &()),
                _ => {}
            }
            if let BucketSetting::Replication(rules) = setting {
                replication::keep_acknowledged(tx, bucket.id, rules)?;
            }
        }
        BucketChange::Remove(kind) => {
            tx.delete::<BucketSettings>((bucket.id, *kind as u16));
            match kind {
                SettingKind::Lifecycle => lifecycle::end_walk(tx, bucket.id),
                SettingKind::Notifications => deliveries::end(tx, bucket.id),
                SettingKind::Replication => {
                    tx.delete::<Replicating>(bucket.id);
                    tx.delete_under::<Acknowledged>(bucket.id)?;
                }
                _ => {}
            }
        }
    }
    Ok(Done::Nothing)
}

fn bucket_state<T>(why: &str) -> Result<T, Stop> {
    Err(Reject::BucketState(why.to_string()).into())
}
