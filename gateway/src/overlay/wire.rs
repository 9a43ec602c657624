//! What clusters tell each other, in JSON. The protocol is described in `docs/overlay.md`; fields are only added.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::meta::model::Placed;
use consensus::meta::names::{AccessKeyId, BucketName, ClusterName, UserName};
use consensus::meta::overlay::PublicKey;
use http::uri::Authority;
use serde::{Deserialize, Serialize};

use super::copies::CopyWanted;
use super::identity::{Identity, is_said_by};

/// Version of the protocol: the first part of all paths. Another one is another protocol.
pub const PATH: &str = "/overlay/v1/";
/// On a request of a client that a gateway sends on: the name of the bucket where it is at home.
pub const FORWARDED: &str = "x-fluffy-forwarded";
/// On such a request: the address of the client.
pub const SOURCE: &str = "x-fluffy-source";
/// On such a request: whether it came over TLS.
pub const SECURE: &str = "x-fluffy-secure";
/// On such a request: its id, which it keeps.
pub const ID: &str = "x-fluffy-request-id";
/// On such a request: how its host names the bucket, where it does.
pub const VIRTUAL: &str = "x-fluffy-virtual";
/// On a request that makes a bucket: why it is sent on, a name of [`consensus::meta::model::PlacedWhy`].
pub const PLACED: &str = "x-fluffy-placed";
/// On a request for a page of a website: whether the `path` or the `host` names the bucket.
pub const WEBSITE: &str = "x-fluffy-website";
/// How invitations begin.
const TOKEN_HEAD: &str = "fluffy1-";
/// An invitation is not longer.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Where a cluster is, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its name.
    pub cluster: ClusterName,
    /// Its key.
    #[serde(with = "hex_key")]
    pub key: PublicKey,
    /// Where its gateways listen for clusters.
    pub addresses: Vec<String>,
    /// Grows with each change.
    pub serial: u64,
    /// Its signature of all this, in hex.
    pub signature: String,
}

impl Card {
    /// Of this cluster.
    pub fn new(identity: &Identity, addresses: Vec<String>, serial: u64) -> Card {
        let cluster = identity.name.clone();
        let mut card = Card { cluster, key: identity.key, addresses, serial, signature: String::new() };
        card.signature = hex::encode(identity.sign(&card.text()));
        card
    }

    /// Whether the owner of its key says so.
    pub fn is_true(&self) -> bool {
        hex::decode(&self.signature).is_ok_and(|signature| is_said_by(&self.key, &self.text(), &signature))
    }

    fn text(&self) -> String {
        let key = hex::encode(self.key);
        format!("fluffy card 1\n{}\n{key}\n{}\n{}", self.cluster, self.serial, self.addresses.join("\n"))
    }
}

mod hex_key {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(key: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(key))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let mut key = [0; 32];
        hex::decode_to_slice(String::deserialize(from)?, &mut key).map_err(D::Error::custom)?;
        Ok(key)
    }
}

/// An invitation, as one cluster hands it to another outside of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Who invites.
    pub cluster: ClusterName,
    /// Its key.
    #[serde(with = "hex_key")]
    pub key: PublicKey,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Which invitation.
    pub id: String,
    /// What proves that it was received.
    pub secret: String,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Token {
    /// The text to hand over.
    pub fn text(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{TOKEN_HEAD}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads a text; an error is one sentence.
    pub fn parse(text: &str) -> Result<Token, String> {
        let text = text.trim();
        if TOKEN_BYTES_MAX < text.len() {
            return Err("the token is too long to be one".to_string());
        }
        let Some(rest) = text.strip_prefix(TOKEN_HEAD) else {
            return Err(format!("a token of this release begins with {TOKEN_HEAD}"));
        };
        let broken = "the token is damaged; was all of it copied?";
        let json = URL_SAFE_NO_PAD.decode(rest).map_err(|_| broken)?;
        serde_json::from_slice(&json).map_err(|_| broken.to_string())
    }
}

/// `POST join`: somebody takes an invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    /// Which one.
    pub id: String,
    /// What proves that it was received.
    pub secret: String,
    /// Who.
    pub card: Card,
}

/// `POST leave`: the sender is no member any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leave {
    /// What it says of itself with a greater serial is said since.
    pub serial: u64,
}

/// The answer to it, and to `GET members`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Members {
    /// The one who answers.
    pub card: Card,
    /// Whom it knows.
    pub members: Vec<Card>,
}

/// `GET catalog`: the buckets of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Grows.
    pub index: u64,
    /// What is there.
    pub buckets: Vec<CatalogBucket>,
    /// Whether it has room for others' buckets.
    #[serde(default)]
    pub room: Room,
    /// Which of them are to be copied to the one who asks.
    #[serde(default)]
    pub copies: Vec<CopyWanted>,
    /// Where clients reach it by S3 (`https://host:port`), where it wants them to be redirected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<String>,
}

/// A bucket in a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogBucket {
    /// Its name there.
    pub name: BucketName,
    /// Who owns it, where that is told: a name with that of its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserName>,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Versions in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether versioning is enabled.
    #[serde(default)]
    pub versioned: bool,
    /// For how long others may answer reads from memory while its home is away, where they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<u64>,
    /// Why it is there, where its creator asked another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<PlacedThere>,
}

/// Why a bucket is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedThere {
    /// The cluster that its creator asked.
    pub via: ClusterName,
    /// `asked`: its creator named this one; `space` and `load`: the mark that the other one had passed.
    pub why: String,
}

impl From<&Placed> for PlacedThere {
    fn from(placed: &Placed) -> PlacedThere {
        PlacedThere { via: placed.via.clone(), why: placed.why.name().to_string() }
    }
}

/// Whether a text is an address for S3 clients, such as `https://host:port`.
pub fn is_endpoint(text: &str) -> bool {
    let Some(host) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let authority = host.parse::<Authority>();
    authority.is_ok_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'))
}

/// What a cluster says of its room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that new objects may take, all copies of them counted once.
    #[serde(default)]
    pub free_bytes: u64,
    /// Whether it takes what others have no room for.
    #[serde(default)]
    pub offered: bool,
}

/// `GET buckets/NAME`: whether it is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BucketThere {
    /// It.
    pub bucket: Option<CatalogBucket>,
    /// Whether copies of the one who asks are taken there.
    #[serde(default)]
    pub takes_copies: bool,
}

/// `GET keys/ID?date=&region=`: what verifies signatures of a user for a day.
#[derive(Clone, Serialize, Deserialize)]
pub struct DayKey {
    /// Which key.
    pub id: AccessKeyId,
    /// Whose it is: a name with that of its cluster.
    pub user: UserName,
    /// The signing key for the date and the region, in hex.
    pub signing_key: String,
}

impl std::fmt::Debug for DayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DayKey").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}

/// `POST search`: a page of the objects that a user may see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Searched {
    /// Who asks: a name with that of its cluster.
    pub user: UserName,
    /// From where.
    pub source: IpAddr,
    /// For what.
    pub query: String,
    /// Hits at most.
    pub max_keys: u32,
    /// `name`, `size` or `modified`.
    pub sort: String,
    /// `asc` or `desc`.
    pub order: String,
    /// Whether only in buckets of the user.
    pub owned: bool,
    /// The answer is at least as new as this entry of the log there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<u64>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation_token: Option<String>,
}

/// The answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchedPage {
    /// In the order that was asked for.
    pub hits: Vec<SearchedHit>,
    /// Where the next page begins, if there may be one.
    pub continuation_token: Option<String>,
}

/// An object of a [`SearchedPage`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchedHit {
    /// Its bucket.
    pub bucket: BucketName,
    /// Who owns that: a name with that of its cluster.
    pub owner: UserName,
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// Its class, where it is not `STANDARD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Its content type, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Where a page behind it begins.
    pub behind: String,
}

/// Why there is no answer: one sentence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    /// It.
    pub error: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::identity::tests::identity;
    use super::*;

    #[test]
    fn cards_are_signed_by_whom_they_are_of() {
        let east = identity("east");
        let card = Card::new(&east, vec!["east:9004".to_string()], 7);
        assert!(card.is_true());
        let json = serde_json::to_string(&card).unwrap();
        assert_eq!(serde_json::from_str::<Card>(&json).unwrap(), card);
        let forged = [
            Card { addresses: vec!["evil:1".to_string()], ..card.clone() },
            Card { serial: 8, ..card.clone() },
            Card { cluster: "west".parse().unwrap(), ..card.clone() },
            Card { key: identity("east").key, ..card.clone() },
            Card { signature: "00".to_string(), ..card.clone() },
            Card { signature: "é".to_string(), ..card },
        ];
        assert!(forged.iter().all(|card| !card.is_true()));
    }

    #[test]
    fn endpoints_have_no_path() {
        for good in ["https://s3.example.org", "http://127.0.0.1:9000", "http://[::1]:9000"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "s3.example.org",
            "https://a/",
            "https://a/b",
            "ftp://a",
            "https://u@a",
            "https://a b",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn tokens_come_back_or_say_what_is_wrong() {
        let token = Token {
            cluster: "east".parse().unwrap(),
            key: [7; 32],
            addresses: vec!["east:9004".to_string()],
            id: "1".to_string(),
            secret: "s".to_string(),
            expires_ms: 300,
        };
        let text = token.text();
        assert_eq!(Token::parse(&format!(" {text}\n")), Ok(token));
        for bad in ["", "x", &text[..text.len() - 3], &format!("{text}x"), "fluffy1-", "fluffy2-AAAA"] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
        assert!(Token::parse(&format!("fluffy1-{}", "A".repeat(10_000))).unwrap_err().contains("long"));
    }
}
