//! Sessions and what they were told.

use fabric::ids::SessionId;

use super::table;
use crate::meta::command::Reply;
use crate::meta::model::Session;

table! {
    /// Session id → the session. Missing: it ended, or never was.
    Sessions(SESSIONS): SessionId | SessionId => Session
}

table! {
    /// Nonce → the live session that it opened.
    SessionNonces(SESSION_NONCES): u128 | u128 => SessionId
}

table! {
    /// (session, sequence) → the first reply. Present from `apply` until the session's lowest open sequence passes it.
    Replies(REPLIES): (SessionId, u64) | (SessionId, u64) => Reply
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::NodeId;

    use super::*;
    use crate::meta::command::Reject;
    use crate::meta::model::SessionKind;
    use crate::meta::tables::testing::{extent_id, golden};

    #[test]
    fn golden_rows() {
        let id = SessionId { epoch: 1, number: 7 };
        let session = Session {
            kind: SessionKind::Jobs(NodeId(2)),
            lowest_open: 3,
            oldest_write: 4,
            oldest_read: 5,
            pinned: vec![extent_id(6)],
            nonce: 0x0102_0304,
        };
        golden::<Sessions>(
            id,
            session,
            "000100000007",
            "01010203040501808080b080808080808e808080a08080cdd70284868808",
        );
        golden::<SessionNonces>(0x0102_0304, id, "00000000000000000000000001020304", "010107");
        golden::<Replies>(
            (id, 9),
            Reply::Rejected(Reject::NoSuchKey),
            "0001000000070000000000000009",
            "01010e",
        );
        golden::<Replies>((id, 9), Reply::TooLate, "0001000000070000000000000009", "0102");
    }
}
