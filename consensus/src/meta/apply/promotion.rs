//! Copies that take the place of what they followed.
//!
//! What always holds: a bucket whose place was taken takes no change of a client, of a rule or of another cluster until it
//! is reopened; and the versions of a promoted copy come behind all that it copied.

use fabric::ids::{BucketId, Stamp};
use fabric::limits::FOLLOWS_MAX;

use super::Outcome;
use super::overlay::refused;
use super::transaction::Transaction;
use crate::meta::command::{Done, Reject};
use crate::meta::model::Bucket;
use crate::meta::overlay::OverlayRefusal;
use crate::meta::replication::{Follow, FollowKind, Promotion, Source, Superseded as SupersededRow};
use crate::meta::tables::{Buckets, Follows, Promotions, Superseded};

/// A mirror is a bucket like any other from now on.
pub(super) fn promote(
    tx: &mut Transaction<'_>,
    bucket: BucketId,
    source: &Source,
    cursor: Option<Stamp>,
) -> Outcome {
    let bucket = tx.get::<Buckets>(bucket)?.ok_or(Reject::NoSuchBucket)?;
    let key = (bucket.id, &source.cluster, &source.bucket);
    let follow = tx.get::<Follows>(key)?.filter(|follow| follow.kind == FollowKind::Mirror);
    let Some(follow) = follow else { return refused(OverlayRefusal::NotFollowed) };
    if cursor.is_some_and(|cursor| follow.cursor != cursor || follow.compare) {
        return refused(OverlayRefusal::Moved);
    }
    if cursor.is_none() {
        if FOLLOWS_MAX <= tx.scan_under::<Promotions>(())?.count() {
            return refused(OverlayRefusal::TooMany);
        }
        let promotion = Promotion { source: follow.source, cursor: follow.cursor, since: tx.now };
        tx.put::<Promotions>(key, &promotion);
    }
    raise(tx, &bucket, &follow);
    tx.delete::<Follows>(key);
    Ok(Done::Nothing)
}

/// What is written from now on is newer than what the source ever stamps.
fn raise(tx: &mut Transaction<'_>, bucket: &Bucket, follow: &Follow) {
    let before = bucket.epoch.max(tx.cluster.epoch).max(follow.cursor.epoch);
    tx.put::<Buckets>(bucket.id, &Bucket { epoch: before.saturating_add(1), ..bucket.clone() });
}

/// Nobody writes to a bucket here any more, as a copy takes its place.
pub(super) fn supersede(
    tx: &mut Transaction<'_>,
    bucket: BucketId,
    by: &Source,
    at: Option<Stamp>,
) -> Outcome {
    let bucket = tx.get::<Buckets>(bucket)?.ok_or(Reject::NoSuchBucket)?;
    let first = tx.scan_under::<Follows>(bucket.id)?.next().transpose()?;
    if first.is_some_and(|(_, follow)| follow.kind == FollowKind::Mirror) {
        return refused(OverlayRefusal::IsCopy);
    }
    let row = match tx.get::<Superseded>(bucket.id)? {
        Some(row) if row.by != *by => return refused(OverlayRefusal::SupersededByOther),
        // It was to be drained, and then its cluster was away.
        Some(row) => SupersededRow { at: at.map_or(row.at, |at| at.min(row.at)), ..row },
        None if FOLLOWS_MAX <= tx.scan_under::<Superseded>(())?.count() => {
            return refused(OverlayRefusal::TooMany);
        }
        None => {
            SupersededRow { by: by.clone(), at: at.unwrap_or_else(|| tx.stamp(&bucket, 0)), since: tx.now }
        }
    };
    tx.put::<Superseded>(bucket.id, &row);
    Ok(Done::Nothing)
}

/// A bucket is written to again.
pub(super) fn reopen(tx: &mut Transaction<'_>, bucket: BucketId) -> Outcome {
    if tx.get::<Superseded>(bucket)?.is_none() {
        return refused(OverlayRefusal::NotSuperseded);
    }
    tx.delete::<Superseded>(bucket);
    Ok(Done::Nothing)
}
