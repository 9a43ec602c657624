//! What is kept of the overlay, and what others may know of the buckets here.

use std::sync::Arc;

use fabric::ids::BucketId;

use super::bounded;
use crate::meta::overlay::OverlayState;
use crate::meta::query::Answer;
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    Buckets, Cluster, Identity, Invites, Members, OverlayGrants, Usages, get, scan_after, scan_all,
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
