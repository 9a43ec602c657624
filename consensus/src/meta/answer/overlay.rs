//! What is kept of the overlay, and what others may know of the buckets here.

use std::ops::Bound;
use std::sync::Arc;

use fabric::ids::BucketId;

use super::{bounded, bucket_of};
use crate::meta::model::{BucketSetting, SettingKind};
use crate::meta::overlay::{HeardPlace, OverlayState};
use crate::meta::query::Answer;
use crate::meta::replication::{Follows as FollowsPage, Promotions as PromotionsPage, Source};
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    Acknowledged, BucketSettings, Buckets, Cluster, Follower, Follows, Heard, Identity, Invites, Members,
    OverlayGrants, Promotions, Replicating, Sessions, Superseded, Usages, get, key_bytes, scan, scan_after,
    scan_all, scan_under,
};

/// All of it.
pub(super) fn state(rows: &dyn Rows) -> Result<Answer, Fault> {
    let now = get::<Cluster>(rows, ())?.map(|cluster| cluster.time).unwrap_or_default();
    let mut invites = 0;
    for row in scan_all::<Invites>(rows)? {
        invites += u64::from(now < row?.1.expires);
    }
    Ok(Answer::Overlay(Arc::new(OverlayState {
        identity: get::<Identity>(rows, ())?,
        members: scan_all::<Members>(rows)?
            .map(|row| row.map(|(_, member)| member))
            .collect::<Result<_, _>>()?,
        invites,
        grants: scan_all::<OverlayGrants>(rows)?
            .map(|row| row.map(|(_, grant)| grant))
            .collect::<Result<_, _>>()?,
    })))
}

/// Buckets and their contents in numbers.
pub(super) fn catalog(rows: &dyn Rows, after: Option<BucketId>, limit: u32) -> Result<Answer, Fault> {
    let mut scan = scan_after::<Buckets>(rows, (), after.unwrap_or(BucketId(0)))?;
    let mut buckets = Vec::new();
    for row in scan.by_ref().take(bounded(limit)) {
        let (id, bucket) = row?;
        buckets.push((bucket, get::<Usages>(rows, id)?.unwrap_or_default()));
    }
    Ok(Answer::Catalog { buckets, more: scan.next().transpose()?.is_some() })
}

/// Buckets that follow others. There are at most [`fabric::limits::FOLLOWS_MAX`].
pub(super) fn follows(rows: &dyn Rows) -> Result<Answer, Fault> {
    let follower = get::<Follower>(rows, ())?;
    let follower_lives = match follower {
        Some(session) => get::<Sessions>(rows, session)?.is_some(),
        None => false,
    };
    let mut follows = Vec::new();
    for row in scan_all::<Follows>(rows)? {
        let ((id, cluster, bucket), follow) = row?;
        follows.push((bucket_of(rows, id)?, Source { cluster, bucket }, follow));
    }
    Ok(Answer::Follows(FollowsPage { follower, follower_lives, follows }))
}

/// Buckets whose place was taken, and that took the place of others. There are at most
/// [`fabric::limits::FOLLOWS_MAX`] of each.
pub(super) fn promotions(rows: &dyn Rows) -> Result<Answer, Fault> {
    let (mut superseded, mut promoted) = (Vec::new(), Vec::new());
    for row in scan_all::<Superseded>(rows)? {
        let (id, row) = row?;
        superseded.push((bucket_of(rows, id)?, row));
    }
    for row in scan_all::<Promotions>(rows)? {
        let ((id, cluster, bucket), promotion) = row?;
        promoted.push((bucket_of(rows, id)?, Source { cluster, bucket }, promotion));
    }
    Ok(Answer::Promotions(PromotionsPage { superseded, promoted }))
}

/// How far copies of a bucket are.
pub(super) fn acknowledged(rows: &dyn Rows, bucket: BucketId) -> Result<Answer, Fault> {
    let mut found = Vec::new();
    for row in scan_under::<Acknowledged>(rows, bucket)? {
        let ((_, cluster, name), row) = row?;
        found.push((Source { cluster, bucket: name }, row));
    }
    Ok(Answer::Acknowledged(found))
}

/// Buckets that others copy.
pub(super) fn replications(rows: &dyn Rows, after: Option<BucketId>, limit: u32) -> Result<Answer, Fault> {
    let mut scan = scan_after::<Replicating>(rows, (), after.unwrap_or(BucketId(0)))?;
    let mut buckets = Vec::new();
    for row in scan.by_ref().take(bounded(limit)) {
        let (id, ()) = row?;
        let setting = get::<BucketSettings>(rows, (id, SettingKind::Replication as u16))?;
        if let Some(BucketSetting::Replication(replication)) = setting {
            buckets.push((bucket_of(rows, id)?, replication));
        }
    }
    Ok(Answer::Replications { buckets, more: scan.next().transpose()?.is_some() })
}

/// Settings of one kind.
pub(super) fn settings_of(
    rows: &dyn Rows,
    kind: SettingKind,
    after: Option<BucketId>,
    limit: u32,
) -> Result<Answer, Fault> {
    let mut scan = scan_after::<Buckets>(rows, (), after.unwrap_or(BucketId(0)))?;
    let (mut settings, mut last) = (Vec::new(), None);
    for row in scan.by_ref().take(bounded(limit)) {
        let (id, _) = row?;
        settings.extend(get::<BucketSettings>(rows, (id, kind as u16))?.map(|setting| (id, setting)));
        last = Some(id);
    }
    let more = scan.next().transpose()?.is_some();
    Ok(Answer::SettingsOf { settings, next: last.filter(|_| more) })
}

/// What is kept of the buckets of other clusters.
pub(super) fn heard(rows: &dyn Rows, from: Option<&HeardPlace>, limit: u32) -> Result<Answer, Fault> {
    let mut scan = match from {
        None => scan_all::<Heard>(rows)?,
        Some((cluster, None)) => {
            scan::<Heard>(rows, Bound::Included(&key_bytes(&cluster)), Bound::Unbounded)?
        }
        Some((cluster, Some(bucket))) => scan_after::<Heard>(rows, (), (cluster, bucket))?,
    };
    let mut buckets = Vec::new();
    for row in scan.by_ref().take(bounded(limit)) {
        let ((cluster, name), bucket) = row?;
        buckets.push((cluster, name, bucket));
    }
    Ok(Answer::Heard { buckets, more: scan.next().transpose()?.is_some() })
}
