//! The chunk calls as they are sent: method numbers, heads, failures. Append only.
//!
//! The bytes of a chunk travel as the body of a call, untouched.

use fabric::ids::{ChunkId, NodeId};
use serde::{Deserialize, Serialize};

use crate::client::ChunkError;
use crate::origin::ChunkOrigin;

/// The group of the chunk methods in a [`fabric::rpc::Router`].
pub const GROUP: u8 = 0x03;
/// Stores a chunk: [`PutRequest`] with its bytes as the body → `()`.
pub const PUT: u16 = 0x0301;
/// A run of bytes: [`GetRequest`] → [`GetReply`] with the bytes as the body.
pub const GET: u16 = 0x0302;
/// Removes chunks: [`DeleteRequest`] → `()`.
pub const DELETE: u16 = 0x0303;
/// Asks for chunks: [`StatRequest`] → `Vec<Option<ChunkStat>>`.
pub const STAT: u16 = 0x0304;
/// Lists chunks: [`ScanRequest`] → `Vec<ChunkStat>`.
pub const SCAN: u16 = 0x0305;
/// Has chunks read: [`CheckRequest`] → `Vec<Verdict>`.
pub const CHECK: u16 = 0x0306;

/// How much room there is: `()` → [`crate::client::NodeSpace`].
pub const SPACE: u16 = 0x0308;

/// Takes work from a node: [`StealRequest`] → [`crate::jobs::work::Stolen`]. For nodes only.
pub const STEAL: u16 = 0x0307;

/// See [`PUT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutRequest {
    /// Under which id.
    pub chunk: ChunkId,
    /// For chunk 0.
    pub origin: Option<ChunkOrigin>,
}

/// See [`GET`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// First byte.
    pub offset: u32,
    /// How many.
    pub bytes: u32,
}

/// Says whose bytes the body is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetReply {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// First byte.
    pub offset: u32,
}

/// See [`DELETE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// Which; at most [`crate::chunks::CHUNKS_PER_CALL_MAX`].
    pub chunks: Vec<ChunkId>,
}

/// See [`STAT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatRequest {
    /// Which; at most [`crate::chunks::CHUNKS_PER_CALL_MAX`].
    pub chunks: Vec<ChunkId>,
}

/// See [`SCAN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// Only ids above.
    pub after: Option<ChunkId>,
    /// At most so many.
    pub limit: u32,
}

/// See [`CHECK`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Which; at most [`crate::chunks::CHECKS_PER_CALL_MAX`].
    pub chunks: Vec<ChunkId>,
}

/// See [`STEAL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StealRequest {
    /// At most so many units; 0 only asks how many wait.
    pub most: u32,
}

/// [`ChunkError`] without the node, which the caller knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Failure {
    NotFound,
    Corrupt,
    Full,
    Refused(String),
    Unavailable(String),
}

impl Failure {
    /// The error of a call to `node`.
    pub fn at(self, node: NodeId) -> ChunkError {
        match self {
            Failure::NotFound => ChunkError::NotFound(node),
            Failure::Corrupt => ChunkError::Corrupt(node),
            Failure::Full => ChunkError::Full(node),
            Failure::Refused(why) => ChunkError::Refused(node, why),
            Failure::Unavailable(why) => ChunkError::Unavailable(node, why),
        }
    }
}

impl From<ChunkError> for Failure {
    fn from(error: ChunkError) -> Failure {
        match error {
            ChunkError::NotFound(_) => Failure::NotFound,
            ChunkError::Corrupt(_) => Failure::Corrupt,
            ChunkError::Full(_) => Failure::Full,
            ChunkError::Refused(_, why) => Failure::Refused(why),
            ChunkError::Unavailable(_, why) => Failure::Unavailable(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use fabric::ids::{ExtentId, SessionId};
    use fabric::rpc::encode_head;

    use super::*;
    use crate::client::{NodeSpace, Verdict};

    #[test]
    fn heads_keep_their_format() {
        let chunk = ExtentId::new(0xABCD, SessionId { epoch: 1, number: 2 }, 3).chunk(4);
        let put = PutRequest { chunk, origin: None };
        let get = GetRequest { chunk, offset: 1, bytes: 2 };
        let scan = ScanRequest { after: None, limit: 7 };
        let id = "84808098808080808084808080a08080cdd702";
        assert_eq!(hex::encode(encode_head(&put)), format!("01{id}00"));
        assert_eq!(hex::encode(encode_head(&get)), format!("01{id}0102"));
        assert_eq!(hex::encode(encode_head(&scan)), "010007");
        let check = CheckRequest { chunks: vec![chunk] };
        assert_eq!(hex::encode(encode_head(&check)), format!("0101{id}"));
        let verdicts = vec![Verdict::Whole { bytes: 300 }, Verdict::Absent, Verdict::Rotten];
        assert_eq!(hex::encode(encode_head(&verdicts)), "010300ac020102");
        assert_eq!(hex::encode(encode_head(&StealRequest { most: 7 })), "0107");
        let space = NodeSpace { free_bytes: 300, total_bytes: 7 };
        assert_eq!(hex::encode(encode_head(&space)), "01ac0207");
        let failure: Result<(), Failure> = Err(Failure::Refused("no".to_string()));
        assert_eq!(hex::encode(encode_head(&failure)), "0101".to_string() + "03026e6f");
    }
}
