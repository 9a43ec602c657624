//! Pages of the change feed.

use fabric::ids::{BucketId, Stamp};

use super::{Stop, bounded, bucket_of};
use crate::meta::command::Reject;
use crate::meta::model::ClusterRow;
use crate::meta::query::{AllChanges, Answer, Changes, DeliveriesPage};
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    Buckets, Cluster, Deliverer, Deliveries, EventMarks, EventOrder, Events, Sessions, get, last_before,
    scan_after,
};

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

/// How far notifications were delivered.
pub(super) fn deliveries(rows: &dyn Rows, after: Option<BucketId>, limit: u32) -> Result<Answer, Fault> {
    let deliverer = get::<Deliverer>(rows, ())?;
    let deliverer_lives = match deliverer {
        Some(session) => get::<Sessions>(rows, session)?.is_some(),
        None => false,
    };
    let mut scan = scan_after::<Deliveries>(rows, (), after.unwrap_or(BucketId(0)))?;
    let mut buckets = Vec::new();
    for row in scan.by_ref().take(bounded(limit)) {
        let (id, delivery) = row?;
        let waits = scan_after::<Events>(rows, id, (id, delivery.cursor))?.next().transpose()?.is_some();
        buckets.push((bucket_of(rows, id)?, delivery, waits));
    }
    let more = scan.next().transpose()?.is_some();
    Ok(Answer::Deliveries(DeliveriesPage { deliverer, deliverer_lives, buckets, more }))
}
