//! The calls of searches as they are sent. Append only.

use consensus::meta::model::Etag;
use serde::{Deserialize, Serialize};

/// The group of these methods in a [`fabric::rpc::Router`].
pub const GROUP: u8 = 0x05;
/// Searches: [`SearchRequest`] → `Result<SearchPage, SearchFailure>`.
pub const SEARCH: u16 = 0x0501;
/// Asks how the index is: `()` → [`IndexStatus`].
pub const STATUS: u16 = 0x0502;

/// Hits of one page.
pub const HITS_MAX: u32 = 1000;
/// Buckets of one search.
pub const BUCKETS_MAX: usize = 10_000;

/// See [`SEARCH`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchRequest {
    /// In the language of [`super::language`]. What it says of buckets and owners was seen to by who chose `buckets`.
    pub query: String,
    /// Where to look: numbers of buckets, ascending, at most [`BUCKETS_MAX`].
    pub buckets: Vec<u64>,
    /// Where the page before ended.
    pub after: Option<Position>,
    /// Hits at most, up to [`HITS_MAX`].
    pub limit: u32,
    /// In which order.
    pub sort: Sort,
    /// Whether the order is reversed.
    pub descending: bool,
    /// The index must have applied this entry of the log.
    pub as_of: u64,
}

/// What hits are sorted by. The order is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sort {
    /// The number of the bucket, which is the order of their creation, then the key.
    Name,
    /// Bytes, then as above.
    Size,
    /// Time, then as above.
    Modified,
}

/// A place in the order of hits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// What they are sorted by; 0 for names.
    pub value: u64,
    /// The bucket.
    pub bucket: u64,
    /// The key; need not be one that there is.
    pub key: String,
}

/// One object that was meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// Its bucket.
    pub bucket: u64,
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was stored, in milliseconds since 1970.
    pub modified: u64,
    /// Its entity tag.
    pub etag: Etag,
    /// Its class, where it is not `STANDARD`.
    pub storage_class: Option<String>,
    /// Its content type, where it has one.
    pub content_type: Option<String>,
}

/// A page of hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchPage {
    /// Everything up to this entry of the log was seen, and perhaps more.
    pub index: u64,
    /// In the order that was asked for.
    pub hits: Vec<Hit>,
    /// Where to go on; there may be more. A page may be short, or empty, where finding more took too long.
    pub next: Option<Position>,
}

/// Why there is no page. Sent: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SearchFailure {
    /// The question is none.
    #[error("{0}")]
    Malformed(String),
    /// More objects would have to be sorted than is done at once.
    #[error("more than {0} names would have to be looked at before any can be shown in this order")]
    TooMany(u64),
    /// The index is being made.
    #[error("the index is being built: {0} objects are in it")]
    Building(u64),
    /// The index is not as new as was asked for; it has applied this entry.
    #[error("the index has applied entry {0} of the log, which is not as new as was asked for")]
    Behind(u64),
    /// Too many searches at once.
    #[error("there are too many searches at once")]
    Busy,
    /// The node cannot search.
    #[error("{0}")]
    Unavailable(String),
}

/// See [`STATUS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStatus {
    /// Whether there is one.
    pub enabled: bool,
    /// Whether all objects are in it.
    pub whole: bool,
    /// Entries of the log that it has applied.
    pub index: u64,
    /// Entries that the metadata of the node have applied beyond.
    pub lag: u64,
    /// Names in it; those that are there twice, or no more, count until they are cleared away.
    pub documents: u64,
    /// Parts that it consists of.
    pub segments: u64,
    /// Bytes of its file.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use fabric::rpc::encode_head;

    use super::*;

    #[test]
    fn heads_keep_their_format() {
        let position = Position { value: 7, bucket: 5, key: "k".to_string() };
        let request = SearchRequest {
            query: "cat".to_string(),
            buckets: vec![5, 300],
            after: Some(position.clone()),
            limit: 9,
            sort: Sort::Modified,
            descending: true,
            as_of: 300,
        };
        assert_eq!(hex::encode(encode_head(&request)), "01036361740205ac02010705016b090201ac02");
        let hit = Hit {
            bucket: 5,
            key: "k".to_string(),
            bytes: 300,
            modified: 1000,
            etag: Etag::Md5([0x11; 16]),
            storage_class: None,
            content_type: Some("a/b".to_string()),
        };
        let page = SearchPage { index: 300, hits: vec![hit], next: Some(position) };
        let page: Result<SearchPage, SearchFailure> = Ok(page);
        assert_eq!(
            hex::encode(encode_head(&page)),
            "0100ac020105016bac02e8070011111111111111111111111111111111000103612f62010705016b"
        );
        let failure: Result<SearchPage, SearchFailure> = Err(SearchFailure::Behind(7));
        assert_eq!(hex::encode(encode_head(&failure)), "01010307");
    }
}
