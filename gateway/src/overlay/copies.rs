//! What clusters tell each other of buckets that are copied, in JSON. Fields are only added.

use consensus::meta::model::{Attributes, Checksum, Etag, Lock, Tags};
use consensus::meta::names::{BucketName, ClusterName, ObjectKey};
use fabric::ids::Stamp;
use serde::{Deserialize, Serialize};

/// In a catalog: a bucket there is to be copied here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyWanted {
    /// Into which cluster.
    pub cluster: ClusterName,
    /// The bucket to copy.
    pub bucket: BucketName,
    /// Its number: one of the same name with another number is another bucket.
    pub id: u64,
    /// Into which bucket.
    pub to: BucketName,
    /// What happened later is copied.
    #[serde(with = "text")]
    pub since: Stamp,
}

/// `GET changes/NAME?since=&wait=&limit=&to=`: what happened to a bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangesThere {
    /// Number of the bucket.
    pub id: u64,
    /// The time there, in milliseconds since 1970.
    pub now_ms: u64,
    /// In order; only what is to be copied.
    pub events: Vec<ChangeThere>,
    /// Where to go on.
    #[serde(with = "text")]
    pub upto: Stamp,
    /// When that happened.
    pub reached_ms: u64,
    /// Events behind `since` are gone: the sides are to be compared.
    pub missing: bool,
    /// The last event that there is, or was.
    #[serde(with = "text")]
    pub latest: Stamp,
    /// Events behind `upto`, as far as they were counted.
    pub waiting: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeThere {
    /// The event.
    #[serde(with = "text")]
    pub at: Stamp,
    /// When.
    pub at_ms: u64,
    /// To which key.
    pub key: ObjectKey,
    /// What.
    pub what: WhatThere,
}

/// See [`ChangeThere`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhatThere {
    /// A version.
    Version(VersionThere),
    /// A delete marker, and when it was set.
    Marker {
        /// In milliseconds since 1970.
        modified_ms: u64,
        /// Which one; missing where nobody says.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
        version: Option<Stamp>,
    },
    /// Other tags of a version, or another lock.
    Tags {
        /// The tag of the version.
        #[serde(with = "text")]
        etag: Etag,
        /// When it was stored.
        modified_ms: u64,
        /// The tags.
        tags: Tags,
        /// What keeps it from being removed, where that changed, and not the tags.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<Lock>,
    },
    /// A version that cannot be copied, and why.
    Left(String),
}

/// A version with all that is copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionThere {
    /// Which one.
    #[serde(with = "text")]
    pub version: Stamp,
    /// Bytes.
    pub bytes: u64,
    /// Its tag.
    #[serde(with = "text")]
    pub etag: Etag,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its additional checksum.
    pub checksum: Option<Checksum>,
    /// Content headers, user metadata, storage class, tags.
    pub attributes: Attributes,
    /// What keeps it from being removed.
    #[serde(default, skip_serializing_if = "is_unlocked")]
    pub lock: Lock,
    /// The bytes in base64, where they are few; otherwise they are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The parts in which it was stored, where it was asked for them and they are at most [`fabric::limits::REPLICA_PARTS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartThere>,
}

/// A part of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartThere {
    /// Its number.
    pub number: u16,
    /// Bytes.
    pub bytes: u64,
    /// Its tag.
    #[serde(with = "text")]
    pub etag: Etag,
    /// Its additional checksum.
    pub checksum: Option<Checksum>,
}

fn is_unlocked(lock: &Lock) -> bool {
    *lock == Lock::default()
}

/// `GET objects/NAME?after=&to=`: a page of current versions, in order of key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectsThere {
    /// The time there, in milliseconds since 1970.
    pub now_ms: u64,
    /// The versions.
    pub objects: Vec<ObjectThere>,
    /// Up to this key the page tells all; missing: to the end.
    pub upto: Option<ObjectKey>,
}

/// A current version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectThere {
    /// Its key.
    pub key: ObjectKey,
    /// Which one.
    #[serde(with = "text")]
    pub version: Stamp,
    /// Its tag.
    #[serde(with = "text")]
    pub etag: Etag,
    /// When it was stored, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// `POST versions/NAME?to=`: versions to be copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionsAsked {
    /// At most [`VERSIONS_ASKED_MAX`].
    pub versions: Vec<VersionAsked>,
}

/// Versions of one question.
pub const VERSIONS_ASKED_MAX: usize = 64;

/// One of [`VersionsAsked`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionAsked {
    /// Of this key.
    pub key: ObjectKey,
    /// Which one; [`Stamp::ZERO`]: its delete marker, where that is what is current.
    #[serde(with = "text")]
    pub version: Stamp,
    /// Whether its parts are asked for, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parts: bool,
}

/// The answer: in order, where they are there and to be copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionsThere {
    /// The versions.
    pub versions: Vec<Option<WhatThere>>,
}

/// `POST supersede/NAME`: a copy that the asker has takes the place of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supersede {
    /// Number of the bucket: another one of its name stays as it is.
    pub id: u64,
    /// The copy.
    pub by: BucketName,
    /// The last event that the copy has; missing: it is about to copy all.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    pub at: Option<Stamp>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededThere {
    /// Whether nobody writes to the bucket any more; otherwise it is gone, or a copy itself.
    pub superseded: bool,
}

/// What has a text of its own, where it is there.
mod optional_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(to)
    }

    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        let read = |text: String| {
            text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not what is expected")))
        };
        Option::<String>::deserialize(from)?.map(read).transpose()
    }
}

/// What has a text of its own.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not what is expected")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use consensus::meta::model::{ChecksumAlgorithm, ChecksumKind, ClusterMs, Retention, RetentionMode};

    use super::*;

    #[test]
    fn what_is_sent_stays_as_it_is() {
        let at = Stamp { epoch: 1, index: 300, ordinal: 2 };
        let attributes = Attributes {
            headers: [("content-type".to_string(), "text/plain".to_string())].into(),
            user: [("m".to_string(), "1".to_string())].into(),
            storage_class: None,
            tags: vec![("k".to_string(), "v".to_string())],
        };
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            value: Bytes::from_static(&[1, 2]),
        };
        let version = VersionThere {
            version: at,
            bytes: 1,
            etag: Etag::Md5([1; 16]),
            modified_ms: 5,
            checksum: Some(checksum),
            attributes,
            lock: Lock::default(),
            body: Some("eA==".to_string()),
            parts: Vec::new(),
        };
        let retention = Retention { mode: RetentionMode::Compliance, until: ClusterMs(9) };
        let lock = Lock { retention: Some(retention), legal_hold: true };
        let locked = serde_json::to_value(VersionThere { lock, ..version.clone() }).unwrap();
        let expected = r#"{"legal_hold":true,"retention":{"mode":"Compliance","until":9}}"#;
        assert_eq!(locked["lock"].to_string(), expected);
        let part = PartThere { number: 3, bytes: 1, etag: Etag::Md5([1; 16]), checksum: None };
        let in_parts = serde_json::to_string(&VersionThere { parts: vec![part], ..version.clone() }).unwrap();
        let expected =
            format!(r#""parts":[{{"number":3,"bytes":1,"etag":"{}","checksum":null}}]}}"#, "01".repeat(16));
        assert!(in_parts.ends_with(&expected), "{in_parts}");
        let etag = Etag::Multipart([1; 16], 2);
        let tags = |lock| WhatThere::Tags { etag, modified_ms: 5, tags: Vec::new(), lock };
        let relocked =
            serde_json::to_string(&tags(Some(Lock { retention: None, legal_hold: true }))).unwrap();
        assert!(
            relocked.ends_with(r#","tags":[],"lock":{"retention":null,"legal_hold":true}}}"#),
            "{relocked}"
        );
        let tags = tags(None);
        let whats = [
            WhatThere::Version(version),
            WhatThere::Marker { modified_ms: 5, version: Some(at) },
            tags,
            WhatThere::Left("x".to_string()),
        ];
        let key: ObjectKey = "a/b".parse().unwrap();
        let change = |what| ChangeThere { at, at_ms: 5, key: key.clone(), what };
        let changes = ChangesThere {
            id: 7,
            now_ms: 9,
            events: whats.map(change).to_vec(),
            upto: at,
            reached_ms: 5,
            missing: false,
            latest: at,
            waiting: 3,
        };
        let json = serde_json::to_string(&changes).unwrap();
        assert_eq!(serde_json::from_str::<ChangesThere>(&json).unwrap(), changes);
        let stamp = "0001000000000000012c0002";
        let md5 = "01".repeat(16);
        let expected = format!(
            "{{\"id\":7,\"now_ms\":9,\"events\":[\
             {{\"at\":\"{stamp}\",\"at_ms\":5,\"key\":\"a/b\",\"what\":{{\"version\":{{\"version\":\"{stamp}\",\"bytes\":1,\
             \"etag\":\"{md5}\",\"modified_ms\":5,\"checksum\":{{\"algorithm\":\"Crc32\",\"kind\":\"FullObject\",\
             \"value\":[1,2]}},\"attributes\":{{\"headers\":{{\"content-type\":\"text/plain\"}},\"user\":{{\"m\":\"1\"}},\
             \"storage_class\":null,\"tags\":[[\"k\",\"v\"]]}},\"body\":\"eA==\"}}}}}},\
             {{\"at\":\"{stamp}\",\"at_ms\":5,\"key\":\"a/b\",\"what\":{{\"marker\":{{\"modified_ms\":5,\"version\":\"{stamp}\"}}}}}},\
             {{\"at\":\"{stamp}\",\"at_ms\":5,\"key\":\"a/b\",\"what\":{{\"tags\":{{\"etag\":\"{md5}-2\",\
             \"modified_ms\":5,\"tags\":[]}}}}}},\
             {{\"at\":\"{stamp}\",\"at_ms\":5,\"key\":\"a/b\",\"what\":{{\"left\":\"x\"}}}}],\
             \"upto\":\"{stamp}\",\"reached_ms\":5,\"missing\":false,\"latest\":\"{stamp}\",\"waiting\":3}}"
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn a_promotion_says_how_far_the_copy_came_where_it_knows() {
        let by: BucketName = "mirror".parse().unwrap();
        let all = Supersede { id: 7, by: by.clone(), at: None };
        let some = Supersede { id: 7, by, at: Some(Stamp { epoch: 1, index: 300, ordinal: 2 }) };
        let text = |wanted: &Supersede| serde_json::to_string(wanted).unwrap();
        assert_eq!(text(&all), r#"{"id":7,"by":"mirror"}"#);
        assert_eq!(text(&some), r#"{"id":7,"by":"mirror","at":"0001000000000000012c0002"}"#);
        for wanted in [all, some] {
            assert_eq!(serde_json::from_str::<Supersede>(&text(&wanted)).unwrap(), wanted);
        }
        assert!(serde_json::from_str::<Supersede>(r#"{"id":7,"by":"mirror","at":"x"}"#).is_err());
    }
}
