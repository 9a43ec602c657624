//! The change feed as clients see it: names of events, cursors, lines.
//!
//! A cursor names the last event that its holder knows. It is good for as long as no event of the bucket behind it was
//! trimmed, whichever gateway is asked and however often they start.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::meta::model::{Event, EventKind, Versioning};
use fabric::codec::crc32c;
use fabric::ids::{BucketId, Stamp};
use serde_json::{Value, json};

use super::error::{Code, S3Error, S3Result};
use super::time::iso8601;

const CURSOR_VERSION: u8 = 1;

/// What AWS calls it, without the `s3:` that configurations have before it.
pub fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Put | EventKind::Append => "ObjectCreated:Put",
        EventKind::Post => "ObjectCreated:Post",
        EventKind::Copy | EventKind::Rename => "ObjectCreated:Copy",
        EventKind::Complete => "ObjectCreated:CompleteMultipartUpload",
        EventKind::Delete => "ObjectRemoved:Delete",
        EventKind::DeleteMarker => "ObjectRemoved:DeleteMarkerCreated",
        EventKind::Tags => "ObjectTagging:Put",
        EventKind::DeleteTags => "ObjectTagging:Delete",
        EventKind::Expire => "LifecycleExpiration:Delete",
        EventKind::ExpireMarker => "LifecycleExpiration:DeleteMarkerCreated",
        EventKind::AnnotationPut => "ObjectAnnotation:Put",
        EventKind::AnnotationDelete => "ObjectAnnotation:Delete",
        EventKind::Transition => "LifecycleTransition",
        EventKind::Acl => "ObjectAcl:Put",
        // AWS tells of these to nobody, so no rule names them.
        EventKind::Retention => "ObjectRetention:Put",
        EventKind::LegalHold => "ObjectLegalHold:Put",
    }
}

/// What happened, also where AWS has one name for several things.
pub fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Put => "Put",
        EventKind::Append => "Append",
        EventKind::Post => "Post",
        EventKind::Copy => "Copy",
        EventKind::Rename => "Rename",
        EventKind::Complete => "CompleteMultipartUpload",
        EventKind::Delete => "Delete",
        EventKind::DeleteMarker => "DeleteMarker",
        EventKind::Tags => "PutTags",
        EventKind::DeleteTags => "DeleteTags",
        EventKind::Expire => "Expire",
        EventKind::ExpireMarker => "ExpireMarker",
        EventKind::AnnotationPut => "PutAnnotation",
        EventKind::AnnotationDelete => "DeleteAnnotation",
        EventKind::Transition => "Transition",
        EventKind::Acl => "PutAcl",
        EventKind::Retention => "PutRetention",
        EventKind::LegalHold => "PutLegalHold",
    }
}

/// The version that an event is about, as clients name it; none where the bucket never had versions.
pub fn version(event: &Event, versioning: Versioning) -> Option<String> {
    match (versioning, event.version) {
        (Versioning::Off, _) => None,
        (_, Stamp::ZERO) => Some("null".to_string()),
        (_, stamp) => Some(stamp.to_string()),
    }
}

/// The time of an event, to the millisecond.
pub fn time(event: &Event) -> String {
    let (seconds, ms) = (iso8601(event.at.0), event.at.0 % 1000);
    format!("{}.{ms:03}Z", &seconds[..19])
}

/// An event as one JSON value.
pub fn line(bucket: BucketId, stamp: Stamp, event: &Event, versioning: Versioning) -> Value {
    let mut line = json!({
        "cursor": cursor(bucket, stamp),
        "eventName": name(event.kind),
        "eventTime": time(event),
        "kind": kind(event.kind),
        "key": event.key.as_str(),
        "requester": event.origin.requester,
        "sourceIPAddress": event.origin.source,
        "requestId": event.origin.request_id,
    });
    if let Some(etag) = &event.etag {
        line["size"] = json!(event.bytes);
        line["eTag"] = json!(etag.to_string());
    }
    if let Some(version) = version(event, versioning) {
        line["versionId"] = json!(version);
    }
    line
}

/// A cursor: version, bucket, stamp, checksum.
pub fn cursor(bucket: BucketId, stamp: Stamp) -> String {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(&bucket.0.to_be_bytes());
    bytes.extend_from_slice(&stamp.to_bytes());
    bytes.extend_from_slice(&crc32c(&[&bytes]).to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The stamp in a cursor of this bucket. A cursor of another bucket or one that was changed is refused.
pub fn from_cursor(bucket: BucketId, name: &str, text: &str) -> S3Result<Stamp> {
    stamp(bucket, text)
        .ok_or_else(|| S3Error::argument(name, text, "The cursor is none of the change feed of this bucket"))
}

fn stamp(bucket: BucketId, text: &str) -> Option<Stamp> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let (&version, rest) = body.split_first()?;
    let (id, stamp) = rest.split_first_chunk::<8>()?;
    let good =
        version == CURSOR_VERSION && *id == bucket.0.to_be_bytes() && *sum == crc32c(&[body]).to_be_bytes();
    if good { Some(Stamp::from_bytes(stamp.try_into().ok()?)) } else { None }
}

/// Events behind the cursor are gone; the reader learns from where it can go on.
pub fn expired(bucket: BucketId, trimmed: Stamp) -> S3Error {
    S3Error::from(Code::ExpiredCursor).field("OldestCursor", cursor(bucket, trimmed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::{ClusterMs, Etag, Origin};

    use super::*;

    #[test]
    fn cursors_are_of_one_bucket_and_cannot_be_changed() {
        let stamp = Stamp { epoch: 1, index: 300, ordinal: 2 };
        let good = cursor(BucketId(7), stamp);
        assert_eq!(from_cursor(BucketId(7), "since", &good).unwrap(), stamp);
        assert_eq!(from_cursor(BucketId(8), "since", &good).unwrap_err().code(), Code::InvalidArgument);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert!(from_cursor(BucketId(7), "since", &String::from_utf8(bad).unwrap()).is_err(), "{at}");
        }
        for bad in ["", "A", "!!", &"A".repeat(1 << 20)] {
            assert!(from_cursor(BucketId(7), "since", bad).is_err());
        }
    }

    #[test]
    fn lines_tell_what_happened() {
        let origin = Origin {
            requester: "anna".to_string(),
            source: "10.0.0.9".to_string(),
            request_id: "01".to_string(),
        };
        let event = Event {
            kind: EventKind::Rename,
            key: "a\"ü".parse().unwrap(),
            version: Stamp::ZERO,
            bytes: 3,
            etag: Some(Etag::Md5([0x22; 16])),
            at: ClusterMs(1_700_000_000_123),
            origin,
        };
        let told = line(BucketId(1), Stamp::ZERO, &event, Versioning::Suspended);
        for (name, value) in [
            ("eventName", json!("ObjectCreated:Copy")),
            ("kind", json!("Rename")),
            ("eventTime", json!("2023-11-14T22:13:20.123Z")),
            ("key", json!("a\"ü")),
            ("versionId", json!("null")),
            ("size", json!(3)),
            ("eTag", json!("22".repeat(16))),
            ("requester", json!("anna")),
        ] {
            assert_eq!(told[name], value, "{name}");
        }
        let gone = Event { kind: EventKind::Expire, etag: None, ..event };
        let told = line(BucketId(1), Stamp::ZERO, &gone, Versioning::Off);
        assert_eq!(told["eventName"], json!("LifecycleExpiration:Delete"));
        assert!(told.get("size").is_none() && told.get("versionId").is_none(), "{told}");
    }
}
