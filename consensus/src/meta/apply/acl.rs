//! Access control lists and owners of versions: decided where a version is written, and gone with it.
//!
//! A version whose owner is the bucket's, and that nobody else may do anything with, has no row.

use fabric::ids::{BucketId, Stamp};

use super::transaction::Transaction;
use super::{Outcome, Stop, malformed, object};
use crate::meta::acl::{
    CannedAcl, GRANTS_MAX, Grant, Grantee, ObjectAcl, ObjectOwnership, WantedAcl, private,
};
use crate::meta::command::{Done, Reject, SetAcl};
use crate::meta::model::{Bucket, BucketSetting, EventKind, Home, Origin, SettingKind};
use crate::meta::names::UserName;
use crate::meta::store::Fault;
use crate::meta::tables::{Acls, BucketSettings, Buckets, Users};

/// Who owns what others write; `None`: there are no lists, and the owner of the bucket owns all.
fn ownership(tx: &Transaction<'_>, bucket: BucketId) -> Result<Option<ObjectOwnership>, Fault> {
    let setting = tx.get::<BucketSettings>((bucket, SettingKind::OwnerEnforced as u16))?;
    Ok(match setting {
        Some(BucketSetting::ObjectOwnership(ownership)) => Some(ownership),
        _ => None,
    })
}

/// The list of a new version, as its writer wants it; `None` where it has no row.
pub(super) fn of_write(
    tx: &Transaction<'_>,
    bucket: &Bucket,
    requester: &str,
    wanted: Option<&WantedAcl>,
) -> Result<Option<ObjectAcl>, Stop> {
    if wanted.is_none() && requester == bucket.owner.as_str() {
        return Ok(None);
    }
    let Some(ownership) = allowed(tx, bucket, wanted)? else { return Ok(None) };
    // What nobody signed belongs to the owner of the bucket.
    let writer = requester.parse::<UserName>().unwrap_or_else(|_| bucket.owner.clone());
    let given = wanted == Some(&WantedAcl::Canned(CannedAcl::BucketOwnerFullControl));
    let owner = match ownership {
        ObjectOwnership::BucketOwnerPreferred if given => bucket.owner.clone(),
        ObjectOwnership::BucketOwnerPreferred | ObjectOwnership::ObjectWriter => writer,
    };
    list(tx, bucket, owner, wanted)
}

/// Refuses a list where the bucket has none, unless it says what holds anyway.
fn allowed(
    tx: &Transaction<'_>,
    bucket: &Bucket,
    wanted: Option<&WantedAcl>,
) -> Result<Option<ObjectOwnership>, Stop> {
    let ownership = ownership(tx, bucket.id)?;
    match wanted {
        Some(wanted) if ownership.is_none() && !wanted.says_nothing(&bucket.owner) => {
            Err(Reject::AclNotSupported.into())
        }
        _ => Ok(ownership),
    }
}

/// The list of a version of this owner, if it may be.
fn list(
    tx: &Transaction<'_>,
    bucket: &Bucket,
    owner: UserName,
    wanted: Option<&WantedAcl>,
) -> Result<Option<ObjectAcl>, Stop> {
    let grants = match wanted {
        Some(wanted) => wanted.grants(&owner, &bucket.owner),
        None => private(&owner),
    };
    check(tx, bucket.id, &grants)?;
    let acl = ObjectAcl { owner, grants };
    Ok((acl != ObjectAcl::default_of(&bucket.owner)).then_some(acl))
}

/// Refuses grants to users that there are not, and those that the owner of the bucket ruled out.
pub(super) fn check(tx: &Transaction<'_>, bucket: BucketId, grants: &[Grant]) -> Result<(), Stop> {
    if GRANTS_MAX < grants.len() {
        return malformed("a list has at most 100 grants");
    }
    for grant in grants {
        if let Grantee::User(user) = &grant.grantee
            && tx.get::<Users>(user)?.is_none()
        {
            return Err(Reject::NoSuchGrantee { user: user.clone() }.into());
        }
    }
    let block = tx.get::<BucketSettings>((bucket, SettingKind::PublicAccessBlock as u16))?;
    let blocked = matches!(block, Some(BucketSetting::PublicAccessBlock(block)) if block.block_public_acls);
    match blocked && grants.iter().any(|grant| grant.grantee.is_public()) {
        true => Err(Reject::PublicAclBlocked.into()),
        false => Ok(()),
    }
}

/// Refuses the list of a bucket that has none, or that may not be.
pub(super) fn check_bucket(tx: &Transaction<'_>, bucket: BucketId, grants: &[Grant]) -> Result<(), Stop> {
    if ownership(tx, bucket)?.is_none() {
        return Err(Reject::AclNotSupported.into());
    }
    check(tx, bucket, grants)
}

/// Keeps the list of a new version, or of an upload for the version it becomes.
pub(super) fn keep(tx: &mut Transaction<'_>, home: &Home, stamp: Stamp, acl: Option<&ObjectAcl>) {
    if let Some(acl) = acl {
        tx.put::<Acls>((home, stamp), acl);
    }
}

/// The list of a version, for another one that takes its place.
pub(super) fn of_version(
    tx: &Transaction<'_>,
    home: &Home,
    stamp: Stamp,
) -> Result<Option<ObjectAcl>, Fault> {
    tx.get::<Acls>((home, stamp))
}

/// Changes the list of a version, whose owner stays. Where it is known who asked, the change feed tells of it.
pub(super) fn set(tx: &mut Transaction<'_>, command: &SetAcl, origin: Option<&Origin>) -> Outcome {
    let bucket = tx.get::<Buckets>(command.bucket)?.ok_or(Reject::NoSuchBucket)?;
    let home = Home { bucket: bucket.id, key: command.key.clone() };
    let found = object::existing(tx, &home, command.version)?;
    if allowed(tx, &bucket, Some(&command.acl))?.is_some() {
        let before = tx.get::<Acls>((&home, found.stamp))?;
        let owner = before.as_ref().map_or(&bucket.owner, |acl| &acl.owner).clone();
        let after = list(tx, &bucket, owner, Some(&command.acl))?;
        match &after {
            Some(acl) => tx.put::<Acls>((&home, found.stamp), acl),
            None => tx.delete::<Acls>((&home, found.stamp)),
        }
        if let Some(origin) = origin.filter(|_| after != before) {
            object::tell(tx, &bucket, &home, &found, EventKind::Acl, origin, 0);
        }
    }
    Ok(Done::Stored(object::stored(&bucket, &found)))
}
