//! Deliveries of notifications: how far the events of each bucket were told, and who tells them.
//!
//! One session delivers, until it ends. Every step is its own command, so that nobody goes on for a gateway that is still
//! at work, and a gateway that lost its session does not go on behind the back of the next one.

use fabric::ids::{BucketId, SessionId, Stamp};

use super::Outcome;
use super::transaction::Transaction;
use crate::meta::command::{Deliver, Done, Entry, Reject};
use crate::meta::model::{Bucket, Delivery};
use crate::meta::store::Fault;
use crate::meta::tables::{Deliverer, Deliveries, Sessions, Table};

/// A bucket gets notifications: of what happens from now on.
pub(super) fn begin(tx: &mut Transaction<'_>, bucket: &Bucket) -> Result<(), Fault> {
    if tx.get::<Deliveries>(bucket.id)?.is_none() {
        let cursor = tx.stamp(bucket, u16::MAX);
        tx.put::<Deliveries>(bucket.id, &Delivery { cursor, ..Delivery::default() });
    }
    Ok(())
}

/// A bucket has no notifications any more.
pub(super) fn end(tx: &mut Transaction<'_>, bucket: BucketId) {
    tx.delete::<Deliveries>(bucket);
}

/// The session of the entry does what the one row of this table is about, unless another one does that lives.
pub(super) fn lead<T>(tx: &mut Transaction<'_>, entry: &Entry) -> Outcome
where
    T: for<'a> Table<Key<'a> = (), Value = SessionId>,
{
    if let Some(other) = tx.get::<T>(())?.filter(|other| *other != entry.session)
        && tx.get::<Sessions>(other)?.is_some()
    {
        return Ok(Done::Leads(None));
    }
    tx.put::<T>((), &entry.session);
    Ok(Done::Leads(Some(entry.session)))
}

/// The events of a bucket were told up to here.
pub(super) fn deliver(tx: &mut Transaction<'_>, entry: &Entry, command: &Deliver) -> Outcome {
    if tx.get::<Deliverer>(())? != Some(entry.session) {
        return Err(Reject::NotDeliverer.into());
    }
    let Some(mut delivery) = tx.get::<Deliveries>(command.bucket)? else {
        return Ok(Done::Nothing);
    };
    delivery.cursor = delivery.cursor.max(command.cursor);
    delivery.delivered = delivery.delivered.saturating_add(command.delivered);
    delivery.dead = delivery.dead.saturating_add(command.dead);
    tx.put::<Deliveries>(command.bucket, &delivery);
    Ok(Done::Nothing)
}

/// Whether the event is still to be told. When it is trimmed all the same, that is counted.
pub(super) fn waits(tx: &Transaction<'_>, bucket: BucketId, stamp: Stamp) -> Result<Option<Delivery>, Fault> {
    Ok(tx.get::<Deliveries>(bucket)?.filter(|delivery| delivery.cursor < stamp))
}
