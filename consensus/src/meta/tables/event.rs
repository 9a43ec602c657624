//! The change feed.

use fabric::ids::{BucketId, SessionId, Stamp};
use serde::{Deserialize, Serialize};

use super::table;
use crate::meta::model::{Delivery, Event};

table! {
    /// (bucket, stamp) → what happened, in the order of the log. Missing: trimmed.
    Events(EVENTS): (BucketId, Stamp) | (BucketId, Stamp) => Event
}

table! {
    /// (cluster epoch, log index, ordinal) as a stamp → where the event is. The oldest of all buckets is found by it.
    EventOrder(EVENT_ORDER): Stamp | Stamp => EventPlace
}

table! {
    /// Bucket → the last of its events that was trimmed: who knows of none after it has missed some. Missing: all are there.
    EventMarks(EVENT_MARKS): BucketId | BucketId => Stamp
}

table! {
    /// Bucket → how far its notifications were delivered. Present while it has any.
    Deliveries(DELIVERIES): BucketId | BucketId => Delivery
}

table! {
    /// The session that delivers notifications. It may have ended; then the next one that asks takes its place.
    Deliverer(DELIVERER): () | () => SessionId
}

/// Key of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPlace {
    /// Its bucket.
    pub bucket: BucketId,
    /// Its stamp there.
    pub stamp: Stamp,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::model::{ClusterMs, Etag, EventKind, Origin};
    use crate::meta::tables::testing::{golden, stamp};

    #[test]
    fn golden_rows() {
        let origin = Origin {
            requester: "anna".to_string(),
            source: "10.0.0.9".to_string(),
            request_id: "0123".to_string(),
        };
        let event = Event {
            kind: EventKind::Complete,
            key: "a/b".parse().unwrap(),
            version: stamp(9),
            bytes: 300,
            etag: Some(Etag::Multipart([0x22; 16], 3)),
            at: ClusterMs(1_000),
            origin,
        };
        golden::<Events>(
            (BucketId(5), stamp(9)),
            event,
            "0000000000000005000100000000000000090002",
            "010203612f62010902ac0201012222222222222222222222222222222203e80704616e6e610831302e302e302e390430313233",
        );
        golden::<EventOrder>(
            stamp(9),
            EventPlace { bucket: BucketId(5), stamp: stamp(9) },
            "000100000000000000090002",
            "0105010902",
        );
        let delivery = Delivery { cursor: stamp(9), delivered: 300, dead: 1, lost: 2 };
        golden::<Deliveries>(BucketId(5), delivery, "0000000000000005", "01010902ac020102");
        golden::<Deliverer>((), SessionId { epoch: 1, number: 7 }, "", "010107");
        golden::<EventMarks>(BucketId(5), stamp(9), "0000000000000005", "01010902");
    }
}
