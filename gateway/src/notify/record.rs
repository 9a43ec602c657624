//! What a target hears: the JSON of AWS's notifications.

use bytes::Bytes;
use consensus::meta::model::{Bucket, Event, NotificationRule};
use fabric::ids::Stamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::s3::changes::{name, time, version};
use crate::s3::time::iso8601;

/// What stays as it is in a key; a space becomes a `+`, as in forms.
const KEPT: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

/// One event of one rule.
pub fn record(region: &str, bucket: &Bucket, rule: &NotificationRule, stamp: Stamp, event: &Event) -> Value {
    let mut object = json!({
        "key": encoded(event.key.as_str()),
        "sequencer": stamp.to_string().to_uppercase(),
    });
    if let Some(etag) = &event.etag {
        object["size"] = json!(event.bytes);
        object["eTag"] = json!(etag.to_string());
    }
    if let Some(version) = version(event, bucket.versioning) {
        object["versionId"] = json!(version);
    }
    json!({
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventTime": time(event),
        "eventName": name(event.kind),
        "userIdentity": { "principalId": event.origin.requester },
        "requestParameters": { "sourceIPAddress": event.origin.source },
        "responseElements": { "x-amz-request-id": event.origin.request_id, "x-amz-id-2": event.origin.request_id },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": rule.id,
            "bucket": {
                "name": bucket.name.as_str(),
                "ownerIdentity": { "principalId": bucket.owner.as_str() },
                "arn": format!("arn:aws:s3:::{}", bucket.name),
            },
            "object": object,
        },
    })
}

/// Several events in one document.
pub fn document(records: Vec<Value>) -> Bytes {
    Bytes::from(json!({ "Records": records }).to_string())
}

/// What a target hears when a configuration names it.
pub fn test_event(bucket: &str, request_id: &str, now_ms: u64) -> Bytes {
    let event = json!({
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": iso8601(now_ms),
        "Bucket": bucket,
        "RequestId": request_id,
        "HostId": request_id,
    });
    Bytes::from(event.to_string())
}

fn encoded(key: &str) -> String {
    utf8_percent_encode(key, &KEPT).to_string().replace(' ', "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_forms_are() {
        for (key, expected) in
            [("a/b.txt", "a/b.txt"), ("a b+c", "a+b%2Bc"), ("ü%", "%C3%BC%25"), ("x=1&y\"", "x%3D1%26y%22")]
        {
            assert_eq!(encoded(key), expected);
        }
    }
}
