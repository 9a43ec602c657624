//! To whom a chunk belongs, so that a catalog can be rebuilt from disks.

use bytes::Bytes;
use consensus::meta::model::Attributes;
use consensus::meta::names::{BucketName, ObjectKey};
use fabric::ids::{BucketId, Stamp};
use serde::{Deserialize, Serialize};

/// Prefixes and names of what [`ChunkOrigin::headers`] holds beside content headers.
const META: &str = "x-amz-meta-";
const TAG: &str = "x-amz-tagging-";
const STORAGE_CLASS: &str = "x-amz-storage-class";
const LENGTH: &str = "content-length";

/// Number in [`ChunkOrigin::part`] of an annotation, which belongs to the version of that stamp. Parts begin with 1.
pub const ANNOTATION_PART: u16 = 0;

/// Kept with chunk 0 of an extent. Stored: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkOrigin {
    /// Bucket number.
    pub bucket: BucketId,
    /// Bucket name.
    pub bucket_name: BucketName,
    /// Full key.
    pub key: ObjectKey,
    /// Upload and part number, for parts; version and [`ANNOTATION_PART`], for annotations.
    pub part: Option<(Stamp, u16)>,
    /// What the client said: see [`describe`].
    pub headers: Vec<(String, String)>,
    /// How an encrypted extent is encrypted, with its sealed data key: see [`consensus::meta::sealing::Sealing::encode`].
    pub wrapped_key: Option<Bytes>,
}

/// What a client said of an object, and how many bytes the extent will have, as headers. Without a length the extent can
/// not be told from one whose writer gave up: that is also how packed payloads of many objects are marked.
pub fn describe(attributes: &Attributes, bytes: Option<u64>) -> Vec<(String, String)> {
    let Attributes { headers, user, storage_class, tags } = attributes;
    let content = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
    let user = user.iter().map(|(name, value)| (format!("{META}{name}"), value.clone()));
    let tags = tags.iter().map(|(key, value)| (format!("{TAG}{key}"), value.clone()));
    let class = storage_class.iter().map(|class| (STORAGE_CLASS.to_string(), class.clone()));
    let length = bytes.into_iter().map(|bytes| (LENGTH.to_string(), bytes.to_string()));
    content.chain(user).chain(tags).chain(class).chain(length).collect()
}

impl ChunkOrigin {
    /// What [`describe`] was told of the object.
    pub fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::default();
        for (name, value) in &self.headers {
            if let Some(name) = name.strip_prefix(META) {
                attributes.user.insert(name.to_string(), value.clone());
            } else if let Some(key) = name.strip_prefix(TAG) {
                attributes.tags.push((key.to_string(), value.clone()));
            } else if name == STORAGE_CLASS {
                attributes.storage_class = Some(value.clone());
            } else if name != LENGTH {
                attributes.headers.insert(name.clone(), value.clone());
            }
        }
        attributes
    }

    /// Bytes of the extent, where they were known when it was begun.
    pub fn bytes(&self) -> Option<u64> {
        let length = self.headers.iter().find(|(name, _)| name == LENGTH);
        length.and_then(|(_, value)| value.parse().ok())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_said_comes_back() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        let attributes = Attributes {
            headers: [pair("content-type", "text/plain"), pair("expires", "never")].into(),
            user: [pair("colour", "green")].into(),
            storage_class: Some("STANDARD_IA".to_string()),
            tags: vec![pair("b", "2"), pair("a", "1")],
        };
        let origin = |headers| ChunkOrigin {
            bucket: BucketId(1),
            bucket_name: "bucket".parse().unwrap(),
            key: "key".parse().unwrap(),
            part: None,
            headers,
            wrapped_key: None,
        };
        let told = origin(describe(&attributes, Some(300)));
        assert_eq!((told.attributes(), told.bytes()), (attributes, Some(300)));
        let untold = origin(describe(&Attributes::default(), None));
        assert_eq!((untold.attributes(), untold.bytes()), (Attributes::default(), None));
    }
}
