//! Pages of the change feed.

use fabric::ids::{BucketId, Stamp};

use super::{Stop, bounded};
use crate::meta::command::Reject;
use crate::meta::model::ClusterRow;
use crate::meta::query::{AllChanges, Answer, Changes};
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{Buckets, Cluster, EventMarks, EventOrder, Events, get, last_before, scan_after};

/// Events of one bucket.
pub(super) fn of_bucket(rows: &dyn Rows, id: BucketId, after: Stamp, limit: u32) -> Result<Answer, Stop> {
    let bucket = get::<Buckets>(rows, id)?.ok_or(Reject::NoSuchBucket)?;
    let mut scan = scan_after::<Events>(rows, id, (id, after))?;
    let events = scan.by_ref().take(bounded(limit)).map(|row| row.map(|((_, stamp), event)| (stamp, event)));
    let events = events.collect::<Result<_, _>>()?;
    let more = scan.next().transpose()?.is_some();
    let trimmed = get::<EventMarks>(rows, id)?.unwrap_or(Stamp::ZERO);
    let last = last_before::<Events>(rows, id, BucketId(id.0 + 1))?;
    let latest = last.map_or(trimmed, |((_, stamp), _)| stamp);
    Ok(Answer::Changes(Changes { events, more, trimmed, latest, versioning: bucket.versioning }))
}

/// Events of all buckets.
pub(super) fn of_all(rows: &dyn Rows, after: Stamp, limit: u32) -> Result<Answer, Fault> {
    let mut scan = scan_after::<EventOrder>(rows, (), after)?;
    let mut events = Vec::new();
    for place in scan.by_ref().take(bounded(limit)) {
        let (order, place) = place?;
        let event = get::<Events>(rows, (place.bucket, place.stamp))?;
        let lost = || Fault::new("read events", format!("{order} has no event"));
        events.push((order, place.bucket, event.ok_or_else(lost)?));
    }
    let more = scan.next().transpose()?.is_some();
    let trimmed = get::<Cluster>(rows, ())?.unwrap_or_else(ClusterRow::first).events_trimmed;
    Ok(Answer::AllChanges(AllChanges { events, more, trimmed }))
}
