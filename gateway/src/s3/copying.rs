//! What CopyObject and UploadPartCopy share: the source of a copy, and its bytes where they are written anew.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::meta::command::{ReadConditions, Reject, VersionSelector};
use consensus::meta::model::{Bucket, Checksum, ChecksumAlgorithm, Home};
use consensus::meta::names::{BucketName, ObjectKey};
use consensus::meta::query::{ObjectView, Want};
use http::HeaderMap;
use md5::{Digest as _, Md5};
use std::sync::Arc;

use super::access::Subject;
use super::checksum::Hasher;
use super::error::{Code, S3Error, S3Result};
use super::op::{Context, is_owner};
use super::path::percent_decoded;
use super::reading::version_in;
use super::request::header_text;
use super::response::Response;
use super::{conditions, versions};
use crate::data::{Source as BodySource, SourceError};

const HEADER: &str = "x-amz-copy-source";

/// What the headers say about the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its bucket.
    pub bucket: BucketName,
    /// Its key.
    pub key: ObjectKey,
    /// Its version; `None` is the current one.
    pub version: Option<VersionSelector>,
    /// On which conditions.
    pub conditions: ReadConditions,
    /// Who must own its bucket, where the client says so.
    pub owner: Option<String>,
}

impl Source {
    /// Reads `x-amz-copy-source` (`bucket/key`, percent-encoded, perhaps with `?versionId=`) and its conditions.
    pub fn parse(headers: &HeaderMap) -> S3Result<Source> {
        let text = header_text(headers, HEADER)?.unwrap_or("");
        let wrong = || {
            S3Error::argument(
                HEADER,
                text,
                "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            )
        };
        let (path, version) = match text.split_once("?versionId=") {
            Some((path, version)) => (path, Some(versions::selector("x-amz-copy-source", version)?)),
            None => (text, None),
        };
        // A raw question mark would be the start of another query.
        if path.contains('?') {
            return Err(wrong());
        }
        let decoded =
            percent_decoded(path.strip_prefix('/').unwrap_or(path).as_bytes()).map_err(|_| wrong())?;
        let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
        let (bucket, key) = decoded.split_once('/').ok_or_else(wrong)?;
        Ok(Source {
            bucket: bucket.parse().map_err(|_| wrong())?,
            key: key.parse().map_err(|_| wrong())?,
            version,
            conditions: conditions::of_copy_source(headers)?,
            owner: header_text(headers, "x-amz-source-expected-bucket-owner")?.map(str::to_string),
        })
    }

    /// The bucket of the source, which the requester may read.
    pub async fn bucket(&self, cx: &Context) -> S3Result<Arc<Bucket>> {
        let source = Subject { key: &self.key, version: self.version };
        let bucket = cx.bucket_to_read(&self.bucket, source).await?;
        match &self.owner {
            Some(owner) if !is_owner(&bucket, owner, &cx.region) => Err(Code::AccessDenied.into()),
            Some(_) | None => Ok(bucket),
        }
    }

    /// Whose version is meant.
    pub fn home(&self, bucket: &Bucket) -> Home {
        Home { bucket: bucket.id, key: self.key.clone() }
    }

    /// The version that is meant now. Take a guard before, where its bytes will be read.
    pub async fn find(&self, cx: &Context, bucket: &Bucket, want: Want) -> S3Result<ObjectView> {
        match version_in(cx, bucket.id, &self.key, self.version, want).await? {
            Ok(view) => Ok(view),
            Err(reject) => Err(self.refused(reject)),
        }
    }

    /// The refusal of a source that is a delete marker.
    pub fn names_a_marker() -> S3Error {
        Code::InvalidRequest
            .says("The source of a copy request may not specifically refer to a delete marker by version id.")
    }

    /// What a refusal about the source means.
    pub fn refused(&self, reject: Reject) -> S3Error {
        match reject {
            Reject::IsDeleteMarker | Reject::DeleteMarker { current: false, .. } => Source::names_a_marker(),
            Reject::DeleteMarker { .. } => self.refused(Reject::NoSuchKey),
            reject => S3Error::from(reject).field("Key", self.key.as_str()),
        }
    }
}

/// Bytes of a source.
pub type SourceBytes = Box<dyn BodySource>;

/// The same, hashed as they pass.
pub struct Hashing {
    stream: SourceBytes,
    md5: Md5,
    hasher: Hasher,
}

impl Hashing {
    /// Hashes everything that `stream` gives from now on.
    pub fn new(stream: SourceBytes, algorithm: ChecksumAlgorithm) -> Hashing {
        Hashing { stream, md5: Md5::new(), hasher: Hasher::new(algorithm) }
    }

    /// MD5 and checksum of what passed.
    pub fn finish(self) -> ([u8; 16], Checksum) {
        (self.md5.finalize().into(), self.hasher.finish())
    }
}

#[async_trait]
impl BodySource for Hashing {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let bytes = self.stream.next().await?;
        if let Some(bytes) = &bytes {
            self.md5.update(bytes);
            self.hasher.update(bytes);
        }
        Ok(bytes)
    }
}

/// Adds `x-amz-copy-source-version-id` where versions of the source are visible.
pub fn show_source(response: Response, bucket: &Bucket, view: &ObjectView) -> Response {
    let mut response = response;
    let shown = versions::show(Response::ok(), bucket, &view.object);
    if let Some(version) = shown.headers.get("x-amz-version-id") {
        let name = http::HeaderName::from_static("x-amz-copy-source-version-id");
        response.headers.insert(name, version.clone());
    }
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::Stamp;

    use super::*;

    fn parse(text: &str) -> S3Result<Source> {
        Source::parse(&[(HEADER.parse().unwrap(), text.parse().unwrap())].into_iter().collect())
    }

    #[test]
    fn sources() {
        let stamp = Stamp { epoch: 1, index: 2, ordinal: 3 };
        for (text, key, version) in [
            ("photos/cat", "cat", None),
            ("/photos/cat", "cat", None),
            ("photos/a//b/../c", "a//b/../c", None),
            ("photos/a%2Fb+c%20d%3F", "a/b+c d?", None),
            ("photos%2Fcat", "cat", None),
            ("photos/cat?versionId=null", "cat", Some(VersionSelector::Null)),
            (&format!("photos/cat?versionId={stamp}"), "cat", Some(VersionSelector::Stamp(stamp))),
        ] {
            let source = parse(text).unwrap();
            assert_eq!(
                (source.bucket.as_str(), source.key.as_str(), source.version),
                ("photos", key, version)
            );
        }
    }

    #[test]
    fn bad_sources() {
        for bad in [
            "",
            "/",
            "photos",
            "photos/",
            "//photos/cat",
            "photos/%ZZ",
            "photos/%ff",
            "photos/%00",
            "../photos/cat",
            "photos/cat?versionId=",
            "photos/cat?versionId=x",
            "photos/cat?x=1",
            "photos/cat?x=1?versionId=null",
        ] {
            assert_eq!(parse(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
