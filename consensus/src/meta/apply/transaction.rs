//! One entry being applied: the rows with what every command needs beside them.

use std::ops::Bound;
use std::time::Duration;

use fabric::ids::{BucketId, Stamp};
use fabric::limits::{EVENTS_HELD_MAX, EVENTS_MAX};

use super::{Planted, deliveries, quota};
use crate::meta::model::{Bucket, ClusterMs, ClusterRow, Delivery, Event, Garbage, Usage};
use crate::meta::store::{Fault, Rows, RowsMut};
use crate::meta::tables::{
    self, Buckets, Cluster, Cursor, Cursors, Deliveries, EventMarks, EventOrder, EventPlace, Events,
    Garbages, Replicating, Scan, Table, Usages, key_bytes, scan, scan_after,
};

/// Events that one entry trims beyond the number it adds.
const EVENTS_TRIMMED_MAX: u64 = 4;

/// Rows that one step of [`Transaction::trim_old`] visits.
const OLD_VISITED: usize = 2;

/// Cluster time that moves further at once has jumped.
const JUMP_MS: u64 = 60 * 60 * 1000;
/// After a jump nothing expires for this long: if it was wrong, somebody can still step in.
const EXPIRY_PAUSE_MS: u64 = 10 * 60 * 1000;

/// The rows while one entry is applied.
pub(super) struct Transaction<'a> {
    rows: &'a mut dyn RowsMut,
    /// Planted bugs.
    pub(super) planted: Planted,
    /// Log index of the entry.
    pub(super) index: u64,
    /// Cluster time of the entry.
    pub(super) now: ClusterMs,
    /// The cluster's row; written back at the end.
    pub(super) cluster: ClusterRow,
    stored: Option<ClusterRow>,
    garbage_ordinal: u16,
    events_added: u64,
}

impl<'a> Transaction<'a> {
    /// Reads the cluster's row and moves cluster time, which never goes back.
    pub(super) fn begin(
        rows: &'a mut dyn RowsMut,
        planted: Planted,
        index: u64,
        at: ClusterMs,
    ) -> Result<Transaction<'a>, Fault> {
        let stored = tables::get::<Cluster>(rows, ())?;
        let mut cluster = stored.clone().unwrap_or_else(ClusterRow::first);
        let jumped = cluster.time != ClusterMs(0) && cluster.time.0 + JUMP_MS < at.0;
        cluster.time = cluster.time.max(at);
        if jumped {
            cluster.expires_after = ClusterMs(at.0 + EXPIRY_PAUSE_MS);
        }
        let now = cluster.time;
        Ok(Transaction { rows, planted, index, now, cluster, stored, garbage_ordinal: 0, events_added: 0 })
    }

    /// Trims the change feed and writes the cluster's row.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        self.trim_events(EVENTS_MAX, EVENTS_HELD_MAX)?;
        if self.stored.as_ref() != Some(&self.cluster) {
            tables::put::<Cluster>(self.rows, (), &self.cluster);
        }
        Ok(())
    }

    /// Whether what was made at `at` and is kept for a while has expired.
    pub(super) fn expired(&self, at: ClusterMs, kept: Duration) -> bool {
        self.cluster.expired(at, kept)
    }

    /// The rows, to read only.
    pub(super) fn rows(&self) -> &dyn Rows {
        &*self.rows
    }

    /// The rows, to write whole structures.
    pub(super) fn rows_mut(&mut self) -> &mut dyn RowsMut {
        self.rows
    }

    /// See [`tables::get`].
    pub(super) fn get<T: Table>(&self, key: T::Key<'_>) -> Result<Option<T::Value>, Fault> {
        tables::get::<T>(self.rows(), key)
    }

    /// See [`tables::put`].
    pub(super) fn put<T: Table>(&mut self, key: T::Key<'_>, value: &T::Value) {
        tables::put::<T>(self.rows, key, value);
    }

    /// See [`tables::delete`].
    pub(super) fn delete<T: Table>(&mut self, key: T::Key<'_>) {
        tables::delete::<T>(self.rows, key);
    }

    /// See [`tables::scan_under`].
    pub(super) fn scan_under<T: Table>(&self, leading: impl tables::EncodeKey) -> Result<Scan<'_, T>, Fault> {
        tables::scan_under::<T>(self.rows(), leading)
    }

    /// The stamp of the thing at `ordinal` of this entry in `bucket`. After the log went back, indexes come again:
    /// whatever raises the epoch of the cluster raises it above that of each bucket.
    pub(super) fn stamp(&self, bucket: &Bucket, ordinal: u16) -> Stamp {
        Stamp { epoch: bucket.epoch.max(self.cluster.epoch), index: self.index, ordinal }
    }

    /// Changes the numbers of a bucket.
    pub(super) fn count(&mut self, bucket: BucketId, change: impl FnOnce(&mut Usage)) -> Result<(), Fault> {
        let before = self.get::<Usages>(bucket)?.unwrap_or_default();
        let mut usage = before;
        change(&mut usage);
        self.put::<Usages>(bucket, &usage);
        if self.cluster.quotas == 0 { Ok(()) } else { quota::note(self, bucket, before, usage) }
    }

    /// Adds a row of garbage of what lived under `bucket`, which may be gone.
    pub(super) fn add_garbage(&mut self, bucket: BucketId, garbage: &Garbage) {
        let stamp = Stamp { epoch: self.cluster.epoch, index: self.index, ordinal: self.garbage_ordinal };
        self.garbage_ordinal += 1;
        self.cluster.garbage += 1;
        self.put::<Garbages>((bucket, stamp), garbage);
    }

    /// Adds an event to the change feed.
    pub(super) fn add_event(&mut self, bucket: BucketId, stamp: Stamp, event: &Event) {
        self.put::<Events>((bucket, stamp), event);
        let order = Stamp { epoch: self.cluster.epoch, ..stamp };
        self.put::<EventOrder>(order, &EventPlace { bucket, stamp });
        self.cluster.events += 1;
        self.events_added += 1;
    }

    /// Removes the oldest events beyond `events_max`, a few at a time: a bounded piece of work per entry. Up to `held_max`
    /// it waits for the delivery of the oldest, and those of buckets that are copied elsewhere are kept.
    pub(super) fn trim_events(&mut self, events_max: u64, held_max: u64) -> Result<(), Fault> {
        let excess =
            self.cluster.events.saturating_sub(events_max).min(self.events_added + EVENTS_TRIMMED_MAX);
        if excess == 0 {
            return Ok(());
        }
        let oldest = scan_after::<EventOrder>(self.rows(), (), self.cluster.events_trimmed)?;
        let oldest: Vec<(Stamp, EventPlace)> = oldest.take(excess as usize).collect::<Result<_, _>>()?;
        for (order, place) in oldest {
            if let Some(delivery) = deliveries::waits(self, place.bucket, place.stamp)? {
                if self.cluster.events <= held_max {
                    break;
                }
                let lost = delivery.lost + 1;
                self.put::<Deliveries>(place.bucket, &Delivery { cursor: place.stamp, lost, ..delivery });
            }
            // A copy that was away should find what happened meanwhile; otherwise it has to compare.
            if self.cluster.events <= held_max && self.get::<Replicating>(place.bucket)?.is_some() {
                break;
            }
            self.delete::<Events>((place.bucket, place.stamp));
            self.delete::<EventOrder>(order);
            self.cluster.events -= 1;
            self.cluster.events_trimmed = order;
            // A bucket that is gone has no readers.
            if self.get::<Buckets>(place.bucket)?.is_some() {
                self.put::<EventMarks>(place.bucket, &place.stamp);
            }
        }
        Ok(())
    }

    /// Goes on with the walk over the rows of a table that are kept for a while, and begins again at the end. For every row
    /// that is added; it visits more than one, so that it is faster than the table grows.
    pub(super) fn trim_old<T: Table>(
        &mut self,
        cursor: Cursor,
        made: impl Fn(&T::Value) -> ClusterMs,
        kept: Duration,
    ) -> Result<(), Fault>
    where
        T::Owned: tables::EncodeKey,
    {
        let behind = self.get::<Cursors>(cursor)?.unwrap_or_default();
        let visited: Vec<_> = scan::<T>(self.rows(), Bound::Excluded(&behind), Bound::Unbounded)?
            .take(OLD_VISITED)
            .collect::<Result<_, _>>()?;
        let last = visited.last().filter(|_| visited.len() == OLD_VISITED);
        let next = last.map_or_else(Vec::new, |(key, _)| key_bytes(key));
        for (key, value) in &visited {
            if self.expired(made(value), kept) {
                self.rows.delete(T::ID, &key_bytes(key));
            }
        }
        self.put::<Cursors>(cursor, &next.into());
        Ok(())
    }

    /// Removes every row of a table whose key begins with these parts. For ranges that are known to be small.
    pub(super) fn delete_under<T: Table>(&mut self, leading: impl tables::EncodeKey) -> Result<u64, Fault> {
        let lower = key_bytes(&leading);
        let upper = tables::successor(&lower);
        let range = self.rows().range(T::ID, Bound::Included(&lower), tables::as_upper(&upper))?;
        let keys: Vec<_> = range.map(|row| row.map(|(key, _)| key)).collect::<Result<_, _>>()?;
        for key in &keys {
            self.rows.delete(T::ID, key);
        }
        Ok(keys.len() as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::model::{EventKind, Origin};
    use crate::meta::store::MemoryRows;
    use crate::meta::tables::scan_all;

    #[test]
    fn the_oldest_events_of_all_buckets_are_trimmed_a_few_at_a_time() {
        let mut rows = MemoryRows::default();
        for index in 1..=20 {
            let mut tx = Transaction::begin(&mut rows, Planted::default(), index, ClusterMs(0)).unwrap();
            let stamp = Stamp { epoch: 1, index, ordinal: 0 };
            let event = Event {
                kind: EventKind::Put,
                key: "k".parse().unwrap(),
                version: stamp,
                bytes: 0,
                etag: None,
                at: ClusterMs(0),
                origin: Origin::default(),
            };
            tx.add_event(BucketId(index % 3), stamp, &event);
            let events_max = if index < 15 { 100 } else { 5 };
            tx.trim_events(events_max, 100).unwrap();
            tx.finish().unwrap();
        }
        let mut kept: Vec<u64> =
            scan_all::<Events>(&rows).unwrap().map(|row| row.unwrap().0.1.index).collect();
        kept.sort_unstable();
        assert_eq!(kept, [16, 17, 18, 19, 20]);
        assert_eq!(scan_all::<EventOrder>(&rows).unwrap().count(), 5);
    }

    fn stamp(index: u64) -> Stamp {
        Stamp { epoch: 1, index, ordinal: 0 }
    }

    fn event() -> Event {
        Event {
            kind: EventKind::Put,
            key: "k".parse().unwrap(),
            version: Stamp::ZERO,
            bytes: 0,
            etag: None,
            at: ClusterMs(0),
            origin: Origin::default(),
        }
    }

    #[test]
    fn events_wait_for_their_delivery_up_to_a_bound() {
        let mut rows = MemoryRows::default();
        let cursor = stamp(2);
        tables::put::<Deliveries>(&mut rows, BucketId(1), &Delivery { cursor, ..Delivery::default() });
        for index in 1..=20 {
            let mut tx = Transaction::begin(&mut rows, Planted::default(), index, ClusterMs(0)).unwrap();
            tx.add_event(BucketId(1), stamp(index), &event());
            tx.trim_events(5, 10).unwrap();
            tx.finish().unwrap();
        }
        // Up to 2 they were delivered; of the others ten are kept, and the loss of the rest is known.
        assert_eq!(scan_all::<Events>(&rows).unwrap().count(), 10);
        let delivery = tables::get::<Deliveries>(&rows, BucketId(1)).unwrap().unwrap();
        assert_eq!((delivery.lost, delivery.cursor), (8, stamp(10)));
    }

    #[test]
    fn events_of_buckets_that_are_copied_are_kept_up_to_a_bound() {
        let mut rows = MemoryRows::default();
        tables::put::<Replicating>(&mut rows, BucketId(1), &());
        for index in 1..=20 {
            let mut tx = Transaction::begin(&mut rows, Planted::default(), index, ClusterMs(0)).unwrap();
            tx.add_event(BucketId(1), stamp(index), &event());
            tx.trim_events(5, 10).unwrap();
            tx.finish().unwrap();
        }
        assert_eq!(scan_all::<Events>(&rows).unwrap().count(), 10);
    }
}
