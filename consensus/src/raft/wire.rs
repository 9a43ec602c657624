//! What nodes and clients of the metadata say to each other. Sent: append only.

use std::fmt;

use bytes::Bytes;
use fabric::ids::{Incarnation, NodeId, RaftId};
use serde::{Deserialize, Serialize};

use super::types::{SnapshotMeta, Vote};
use crate::meta::command::Reply;
use crate::meta::query::Answered;

/// Method numbers.
pub mod method {
    /// Group of Raft's own calls.
    pub const RAFT_GROUP: u8 = 0x01;
    /// Append entries; body: the encoded request.
    pub const APPEND: u16 = 0x0101;
    /// Request a vote; body: the encoded request.
    pub const VOTE: u16 = 0x0102;
    /// Ask whether a vote would be granted.
    pub const PRE_VOTE: u16 = 0x0103;
    /// A page of a snapshot; body: the encoded page.
    pub const SNAPSHOT_PAGE: u16 = 0x0104;
    /// The snapshot is complete.
    pub const SNAPSHOT_END: u16 = 0x0105;
    /// Take over leadership.
    pub const TRANSFER: u16 = 0x0106;
    /// The entry of a log id, for a voter whose copy is rotten; head of the reply: an [`EntryAnswer`](super::EntryAnswer).
    pub const ENTRY: u16 = 0x0107;
    /// A page of all rows, for a voter that lost its own: as [`BACKUP`], and what a snapshot says of itself.
    pub const TABLES: u16 = 0x0108;

    /// Group of calls of clients of the metadata.
    pub const META_GROUP: u8 = 0x02;
    /// Propose; body: the encoded entry.
    pub const PROPOSE: u16 = 0x0201;
    /// Query, linearizable.
    pub const QUERY: u16 = 0x0202;
    /// [`PROPOSE`], passed on to whoever leads: for clients that do not reach the leader.
    pub const PROPOSE_BY: u16 = 0x0203;
    /// [`QUERY`], passed on.
    pub const QUERY_BY: u16 = 0x0204;

    /// Group of birth and administration.
    pub const ADMIN_GROUP: u8 = 0x04;
    /// How far is your life?
    pub const BIRTH: u16 = 0x0401;
    /// Put another incarnation in the place of a voter.
    pub const REPLACE: u16 = 0x0402;
    /// May this process take part?
    pub const PRESENT: u16 = 0x0403;
    /// What does your wall clock say?
    pub const CLOCK: u16 = 0x0404;
    /// A page of all rows, for a backup.
    pub const BACKUP: u16 = 0x0405;
}

/// One process of one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The incarnation.
    pub id: RaftId,
    /// Which start of it this is, from 1.
    pub starts: u64,
    /// Drawn by the process.
    pub run: u64,
}

/// Head of Raft's own calls: between whom, and the place in the sender's stream of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftHead {
    /// Who sends. Replies say in their heads who answers, as a [`Life`].
    pub from: Life,
    /// Who is meant; any other incarnation of the node refuses.
    pub to: RaftId,
    /// Appends of one stream are taken in order; 0: no stream.
    pub stream: u64,
    /// Place in the stream.
    pub order: u64,
}

/// Head of a page of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageHead {
    /// Between whom.
    pub raft: RaftHead,
    /// Number of the page, from 0, which begins a snapshot.
    pub page: u64,
    /// Drawn by the sender for this transmission.
    pub token: u64,
}

/// Ends a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotEnd {
    /// Between whom.
    pub raft: RaftHead,
    /// The transmission.
    pub token: u64,
    /// How many pages there were.
    pub pages: u64,
    /// CRC-32C over the CRCs of all pages.
    pub crc: u32,
    /// The leader's vote.
    pub vote: Vote,
    /// What the snapshot covers.
    pub meta: SnapshotMeta,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProposeAnswer {
    /// It was applied, first now or before.
    Applied(Reply),
    /// Certainly not proposed here: another one leads, perhaps this one.
    NotLeader(Option<NodeId>),
    /// Perhaps it will be applied.
    Perhaps(String),
    /// Certainly not proposed: the leader's disk is full.
    Full(String),
}

/// What became of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)]
pub enum QueryAnswer {
    /// The answer.
    Answered(Answered),
    /// Another one leads, perhaps this one.
    NotLeader(Option<NodeId>),
    /// Not now.
    Unavailable(String),
}

/// How far the life of a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BirthAnswer {
    /// The incarnation that answers.
    pub id: RaftId,
    /// Whether there is a cluster, as far as it knows.
    pub state: BirthState,
}

/// See [`BirthAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BirthState {
    /// It never took part.
    Unborn,
    /// It takes part, and does not know yet in what.
    Starting,
    /// It knows a membership with these voters and learners.
    Member(Vec<RaftId>),
}

/// A process that wants to take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Who it is.
    pub life: Life,
    /// The index behind the last entry that it has; 0 where it has none, or is no voter.
    pub next_index: u64,
}

/// What a voter says to a [`Presence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PresenceAnswer {
    /// Nothing is known here that speaks against it.
    Welcome,
    /// Not known yet: the voter starts itself.
    NotYet,
    /// Another process of the incarnation was heard a moment ago.
    Alive,
    /// It runs on an old or copied data directory, and why that is certain. Final.
    Stale(String),
}

/// Asks to put a new incarnation in the place of a voter; in its own place: to make it one more voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replace {
    /// The voter that is lost.
    pub old: RaftId,
    /// What takes its place.
    pub new: RaftId,
}

/// Outcome of [`Replace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplaceAnswer {
    /// It is so now.
    Done,
    /// Another one leads, perhaps this one.
    NotLeader(Option<NodeId>),
    /// Not done, and why.
    Failed(String),
}

/// Version of encoded pages of rows, in snapshots and in backups.
pub const PAGE_FORMAT: u8 = 1;

/// A place between rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlace {
    /// Number of the table.
    pub table: u8,
    /// Behind this key.
    pub key: Bytes,
}

/// What a voter knows of an entry. It grew out of a flag: the numbers of the first two are those of `false` and `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryAnswer {
    /// Nothing.
    Unknown,
    /// It is the body.
    Entry,
    /// Another one is decided in its place.
    Superseded,
    /// What is decided in its place is only in the checkpoint any more.
    Forgotten,
}

/// Asks for a page of all rows as of one entry. The reply is a [`BackupAnswer`] with an encoded
/// [`Page`](super::machine::Page) as its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRequest {
    /// Of the first reply; 0 in the first request.
    pub token: u64,
    /// Not as of an earlier entry.
    pub at_least: u64,
    /// Where to go on; `None` begins.
    pub place: Option<BackupPlace>,
}

/// See [`BackupRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupAnswer {
    /// A page.
    Page {
        /// For the next request.
        token: u64,
        /// The entry that the rows are as of …
        index: u64,
        /// … and its term.
        term: u64,
        /// For the next request.
        next: Option<BackupPlace>,
        /// There are no more rows, and none in this page.
        last: bool,
    },
    /// Not here, or not any more.
    Refused(String),
}

/// How an incarnation of a voter is written in messages and commands: `node-incarnation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoterName(pub RaftId);

impl fmt::Display for VoterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:012x}", self.0.node(), self.0.incarnation().0)
    }
}

/// The text is not `node-incarnation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a voter is named NODE-INCARNATION, as in 2-00a1b2c3d4e5")]
pub struct NotAVoterName;

impl std::str::FromStr for VoterName {
    type Err = NotAVoterName;

    fn from_str(text: &str) -> Result<VoterName, NotAVoterName> {
        let (node, incarnation) = text.split_once('-').ok_or(NotAVoterName)?;
        let node = NodeId(node.parse().map_err(|_| NotAVoterName)?);
        let incarnation = u64::from_str_radix(incarnation, 16).map_err(|_| NotAVoterName)?;
        if incarnation >= 1 << 48 {
            return Err(NotAVoterName);
        }
        Ok(VoterName(RaftId::new(node, Incarnation(incarnation))))
    }
}

#[cfg(test)]
mod tests {
    use fabric::rpc::encode_head;

    use super::*;
    use crate::meta::command::{Done, Reply};
    use crate::meta::query::Answer;

    #[test]
    fn heads_keep_their_format() {
        let id = RaftId::new(NodeId(2), Incarnation(0x00A1_B2C3_D4E5));
        let life = Life { id, starts: 3, run: 4 };
        let raft = RaftHead { from: life, to: id, stream: 5, order: 6 };
        let hex = |head: Bytes| hex::encode(head);
        let why = || "why".to_string();
        let place = BackupPlace { table: 3, key: Bytes::from_static(b"k") };
        let answered = Answered { index: 7, answer: Ok(Answer::Named(vec![true])) };
        let found = [
            hex(encode_head(&raft)),
            hex(encode_head(&PageHead { raft, page: 8, token: 9 })),
            hex(encode_head(&SnapshotEnd {
                raft,
                token: 9,
                pages: 8,
                crc: 10,
                vote: Vote::new(12, 13),
                meta: SnapshotMeta::default(),
            })),
            hex(encode_head(&ProposeAnswer::Applied(Reply::Done(Done::Nothing)))),
            hex(encode_head(&ProposeAnswer::NotLeader(Some(NodeId(3))))),
            hex(encode_head(&ProposeAnswer::Perhaps(why()))),
            hex(encode_head(&ProposeAnswer::Full(why()))),
            hex(encode_head(&QueryAnswer::Answered(answered))),
            hex(encode_head(&QueryAnswer::NotLeader(None))),
            hex(encode_head(&QueryAnswer::Unavailable(why()))),
            hex(encode_head(&BirthAnswer { id, state: BirthState::Unborn })),
            hex(encode_head(&BirthAnswer { id, state: BirthState::Starting })),
            hex(encode_head(&BirthAnswer { id, state: BirthState::Member(vec![id]) })),
            hex(encode_head(&Presence { life, next_index: 11 })),
            hex(encode_head(&PresenceAnswer::Welcome)),
            hex(encode_head(&PresenceAnswer::NotYet)),
            hex(encode_head(&PresenceAnswer::Alive)),
            hex(encode_head(&PresenceAnswer::Stale(why()))),
            hex(encode_head(&Replace { old: id, new: id })),
            hex(encode_head(&ReplaceAnswer::Done)),
            hex(encode_head(&ReplaceAnswer::NotLeader(Some(NodeId(1))))),
            hex(encode_head(&ReplaceAnswer::Failed(why()))),
            hex(encode_head(&EntryAnswer::Entry)),
            hex(encode_head(&EntryAnswer::Superseded)),
            hex(encode_head(&EntryAnswer::Forgotten)),
            hex(encode_head(&BackupRequest { token: 1, at_least: 2, place: Some(place) })),
            hex(encode_head(&BackupAnswer::Page { token: 1, index: 2, term: 3, next: None, last: true })),
            hex(encode_head(&BackupAnswer::Refused(why()))),
        ];
        assert_eq!(found, GOLDEN);
    }

    const GOLDEN: [&str; 28] = [
        "01e5a98f969b9480010304e5a98f969b9480010506",
        "01e5a98f969b9480010304e5a98f969b94800105060809",
        "01e5a98f969b9480010304e5a98f969b948001050609080a0c0d000000000000",
        "01000000",
        "01010103",
        "010203776879",
        "010303776879",
        "010007000f0101",
        "010100",
        "010203776879",
        "01e5a98f969b94800100",
        "01e5a98f969b94800101",
        "01e5a98f969b9480010201e5a98f969b948001",
        "01e5a98f969b94800103040b",
        "0100",
        "0101",
        "0102",
        "010303776879",
        "01e5a98f969b948001e5a98f969b948001",
        "0100",
        "01010101",
        "010203776879",
        "0101",
        "0102",
        "0103",
        "0101020103016b",
        "01000102030001",
        "010103776879",
    ];

    #[test]
    fn voter_names_are_read_back() {
        let name = VoterName(RaftId::new(NodeId(2), Incarnation(0x00A1_B2C3_D4E5)));
        assert_eq!(name.to_string(), "2-00a1b2c3d4e5");
        assert_eq!("2-00a1b2c3d4e5".parse(), Ok(name));
        assert!("2".parse::<VoterName>().is_err());
        assert!("2-1000000000000".parse::<VoterName>().is_err());
    }
}
