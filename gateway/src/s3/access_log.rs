//! Server access logs: a line for each request to a bucket whose owner wants that, as objects in another bucket.
//!
//! Lines are AWS's, field by field. They wait in this process, within a bound, until they are written together: after a
//! while, when there are many, or when the gateway ends. As on AWS nobody waits for them and nothing is promised: what finds
//! no room, or cannot be written, is dropped and counted. A bucket without a log costs a look at what is known of it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use consensus::meta::model::{Bucket, LogKeyFormat, Logging};
use fabric::env::Env;
use fabric::ids::BucketId;
use fabric::limits::{KIB, MIB};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HOST, REFERER, USER_AGENT};
use http::{HeaderMap, request};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::response::ResponseBody as Answered;
use super::time::iso8601;
use super::xml::url_encoded;
use crate::http::{BoxError, ResponseBody};

/// Lines of all buckets that wait; further ones are dropped.
const WAITING_BYTES_MAX: usize = 16 * MIB as usize;
/// Lines of one bucket are written when they have as many bytes.
const OBJECT_BYTES: usize = 512 * KIB as usize;
/// A text of the client takes no more of a line.
const TEXT_CHARS_MAX: usize = 2048;
/// Parameters whose values prove who somebody is.
const SECRETS: &[&str] = &["x-amz-signature", "signature", "x-amz-security-token"];

/// The lines that wait.
pub struct AccessLog {
    waiting: Mutex<Waiting>,
    /// Rings when lines of a bucket are to be written before their time.
    pub full: Notify,
    env: Arc<dyn Env>,
    region: Arc<str>,
}

#[derive(Default)]
struct Waiting {
    buckets: HashMap<BucketId, Lines>,
    bytes: usize,
}

/// Lines of one bucket.
pub struct Lines {
    /// About which bucket.
    pub bucket: Arc<Bucket>,
    /// Where they go.
    pub logging: Logging,
    /// The lines.
    pub text: String,
    /// How many there are.
    pub count: u64,
}

impl AccessLog {
    /// An empty one.
    pub fn new(env: Arc<dyn Env>, region: Arc<str>) -> AccessLog {
        AccessLog { waiting: Mutex::default(), full: Notify::new(), env, region }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Each change is complete before anything can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bucket: &Arc<Bucket>, logging: &Logging, line: &str) {
        let mut waiting = self.waiting();
        if WAITING_BYTES_MAX < waiting.bytes + line.len() {
            return count("dropped", 1);
        }
        waiting.bytes += line.len();
        let lines = waiting.buckets.entry(bucket.id).or_insert_with(|| Lines {
            bucket: bucket.clone(),
            logging: logging.clone(),
            text: String::new(),
            count: 0,
        });
        // The newest word of the owner holds.
        lines.logging.clone_from(logging);
        lines.text.push_str(line);
        lines.count += 1;
        if OBJECT_BYTES <= lines.text.len() {
            self.full.notify_one();
        }
    }

    /// Takes what waits: all of it, or what is much.
    pub fn take(&self, all: bool) -> Vec<Lines> {
        let mut waiting = self.waiting();
        let taken: Vec<Lines> = waiting
            .buckets
            .extract_if(|_, lines| all || OBJECT_BYTES <= lines.text.len())
            .map(|(_, lines)| lines)
            .collect();
        waiting.bytes -= taken.iter().map(|lines| lines.text.len()).sum::<usize>();
        taken
    }

    /// The key of an object with lines about a bucket.
    pub fn key(&self, lines: &Lines) -> String {
        let mut unique = [0; 8];
        self.env.random(&mut unique);
        let now = iso8601(self.env.wall_ms());
        let (day, time) = (&now[..10], now[11..19].replace(':', "-"));
        let (prefix, unique) = (&lines.logging.prefix, hex::encode_upper(unique));
        match lines.logging.format {
            LogKeyFormat::Simple => format!("{prefix}{day}-{time}-{unique}"),
            LogKeyFormat::EventTime | LogKeyFormat::DeliveryTime => {
                let (owner, bucket, path) = (&lines.bucket.owner, &lines.bucket.name, day.replace('-', "/"));
                // What is delivered together is of one minute; files of event times have the day alone.
                let time = if lines.logging.format == LogKeyFormat::EventTime { "00-00-00" } else { &time };
                format!("{prefix}{owner}/{}/{bucket}/{path}/{day}-{time}-{unique}", self.region)
            }
        }
    }
}

/// Counts lines by what became of them.
pub fn count(outcome: &'static str, lines: u64) {
    metrics::counter!("fluffy_access_log_lines_total", "outcome" => outcome).increment(lines);
}

/// One request, until its answer is sent.
pub struct Draft {
    /// Where the line goes.
    pub log: Arc<AccessLog>,
    /// The bucket, and where its lines go.
    pub bucket: Arc<Bucket>,
    /// See [`Logging`].
    pub logging: Logging,
    /// When the request came.
    pub began: Duration,
    /// Until its answer began.
    pub turn: Duration,
    /// Fields of the line up to the status, and those from the referrer on.
    pub around: (String, String),
    /// Size of the object; `-` where it is not known.
    pub object_bytes: String,
}

/// What a line tells of the request and its answer.
pub struct Told<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// Address of the client.
    pub source: &'a str,
    /// Who asked, if anybody signed.
    pub requester: Option<&'a str>,
    /// Request id and host id.
    pub ids: (&'a str, &'a str),
    /// Name of the operation.
    pub op: &'a str,
    /// The key, if it is about an object.
    pub key: Option<&'a str>,
    /// The request.
    pub head: &'a request::Parts,
    /// Status and error code.
    pub outcome: (u16, Option<&'static str>),
    /// Headers of the answer.
    pub answer: &'a HeaderMap,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Told<'_> {
    /// The fields before the bytes sent, and those behind the times.
    pub fn around(&self) -> (String, String) {
        let head = self.head;
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let (signature, how) = self.signature();
        let version = self.answer.get("x-amz-version-id").and_then(|value| value.to_str().ok());
        let before = format!(
            "{} {} [{}] {} {} {} {} {} \"{} {} {:?}\" {} {}",
            self.bucket.owner,
            self.bucket.name,
            log_time(self.at_ms),
            self.source,
            self.requester.unwrap_or("-"),
            self.ids.0,
            operation(self.op, head.method.as_str(), self.key.is_some()),
            self.key.map_or("-".to_string(), |key| clipped(&url_encoded(key).replace('+', "%20"))),
            head.method,
            quoted(&without_secrets(head.uri.path(), head.uri.query())),
            head.version,
            self.outcome.0,
            self.outcome.1.unwrap_or("-"),
        );
        let after = format!(
            "{} {} {} {} {signature} - {how} {} - - -",
            in_quotes(text(REFERER)),
            in_quotes(text(USER_AGENT)),
            version.unwrap_or("-"),
            self.ids.1,
            text(HOST).map_or("-".to_string(), |host| quoted(host).replace(' ', "%20")),
        );
        (before, after)
    }

    /// Bytes of the object, as far as the answer or the request tells.
    pub fn object_bytes(&self, body: &Answered) -> String {
        let number = |headers: &HeaderMap, name: &str| {
            let text = headers.get(name)?.to_str().ok()?;
            text.rsplit('/').next()?.parse::<u64>().ok()
        };
        let found = match (self.key, self.outcome.0, self.op) {
            (Some(_), 206, _) => number(self.answer, CONTENT_RANGE.as_str()),
            (Some(_), 200, "GetObject" | "HeadObject") => match body {
                Answered::Stream { bytes, .. } => Some(*bytes),
                Answered::Bytes(bytes) => Some(bytes.len() as u64),
                Answered::Empty | Answered::Open(_) => number(self.answer, CONTENT_LENGTH.as_str()),
            },
            (Some(_), 200, "PutObject" | "UploadPart") => {
                let decoded = number(&self.head.headers, "x-amz-decoded-content-length");
                decoded.or_else(|| number(&self.head.headers, CONTENT_LENGTH.as_str()))
            }
            _ => None,
        };
        found.map_or("-".to_string(), |bytes| bytes.to_string())
    }

    /// Version and place of the signature.
    fn signature(&self) -> (&'static str, &'static str) {
        if self.requester.is_none() {
            return ("-", "-");
        }
        let query = self.head.uri.query().unwrap_or("");
        match self.head.headers.contains_key("authorization") {
            true => ("SigV4", "AuthHeader"),
            false if query.contains("X-Amz-Signature") => ("SigV4", "QueryString"),
            false if query.contains("AWSAccessKeyId") => ("SigV2", "QueryString"),
            false => ("SigV4", "-"),
        }
    }
}

impl Draft {
    fn finish(&self, sent: u64) {
        let took = self.log.env.monotonic().saturating_sub(self.began).as_millis();
        let (before, after) = &self.around;
        let sent = if sent == 0 { "-".to_string() } else { sent.to_string() };
        let line =
            format!("{before} {sent} {} {took} {} {after}\n", self.object_bytes, self.turn.as_millis());
        self.log.add(&self.bucket, &self.logging, &line);
    }
}

/// The body of an answer whose request is logged when it was sent, or given up.
pub struct Logged {
    body: ResponseBody,
    sent: u64,
    draft: Draft,
}

impl Logged {
    /// Ties the line to the body.
    pub fn new(body: ResponseBody, draft: Draft) -> Logged {
        Logged { body, sent: 0, draft }
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.draft.finish(self.sent);
    }
}

impl Body for Logged {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let logged = self.get_mut();
        let polled = Pin::new(&mut logged.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            logged.sent += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// `06/Feb/2026:00:00:38 +0000`.
fn log_time(ms: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let iso = iso8601(ms);
    let month = iso[5..7].parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    format!("{}/{}/{}:{} +0000", &iso[8..10], month.unwrap_or(&"Jan"), &iso[..4], &iso[11..19])
}

/// How AWS names what was done.
fn operation(op: &str, method: &str, object: bool) -> String {
    let resource = match op {
        "CopyObject" => return "REST.COPY.OBJECT".to_string(),
        "UploadPartCopy" => return "REST.COPY.PART".to_string(),
        "GetObject" | "HeadObject" | "PutObject" | "DeleteObject" | "PostObject" => "OBJECT",
        "ListObjects" | "ListObjectsV2" | "HeadBucket" | "CreateBucket" | "DeleteBucket" => "BUCKET",
        "DeleteObjects" => "MULTI_OBJECT_DELETE",
        "CreateMultipartUpload" | "ListMultipartUploads" => "UPLOADS",
        "UploadPart" => "PART",
        "CompleteMultipartUpload" | "AbortMultipartUpload" | "ListParts" => "UPLOAD",
        "ListObjectVersions" => "BUCKETVERSIONS",
        "GetBucketLocation" => "LOCATION",
        "GetBucketVersioning" | "PutBucketVersioning" => "VERSIONING",
        "GetBucketLogging" | "PutBucketLogging" => "LOGGING_STATUS",
        "GetBucketNotificationConfiguration" | "PutBucketNotificationConfiguration" => "NOTIFICATION",
        "GetBucketPolicy" | "PutBucketPolicy" | "DeleteBucketPolicy" => "BUCKETPOLICY",
        "GetBucketPolicyStatus" => "POLICY_STATUS",
        "GetBucketAcl" | "PutBucketAcl" | "GetObjectAcl" | "PutObjectAcl" => "ACL",
        "GetBucketCors" | "PutBucketCors" | "DeleteBucketCors" => "CORS",
        "Preflight" => "PREFLIGHT",
        "GetBucketLifecycleConfiguration" | "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => {
            "LIFECYCLE"
        }
        "GetBucketEncryption" | "PutBucketEncryption" | "DeleteBucketEncryption" => "ENCRYPTION",
        "GetBucketTagging" | "PutBucketTagging" | "DeleteBucketTagging" => "TAGGING",
        "GetObjectTagging" | "PutObjectTagging" | "DeleteObjectTagging" => "OBJECT_TAGGING",
        "GetObjectAttributes" => "OBJECT_ATTRIBUTES",
        "GetObjectRetention" | "PutObjectRetention" => "OBJECT_LOCK_RETENTION",
        "GetObjectLegalHold" | "PutObjectLegalHold" => "OBJECT_LOCK_LEGALHOLD",
        "GetObjectLockConfiguration" | "PutObjectLockConfiguration" => "OBJECT_LOCK_CONFIGURATION",
        _ if object => "OBJECT",
        _ => "BUCKET",
    };
    format!("REST.{method}.{resource}")
}

/// The target of a request without what proves who sent it.
fn without_secrets(path: &str, query: Option<&str>) -> String {
    let Some(query) = query else { return path.to_string() };
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if SECRETS.contains(&name.to_ascii_lowercase().as_str()) => {
            format!("{name}=REDACTED")
        }
        _ => pair.to_string(),
    });
    format!("{path}?{}", shown.collect::<Vec<_>>().join("&"))
}

fn in_quotes(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).map_or("\"-\"".to_string(), |text| format!("\"{}\"", quoted(text)))
}

/// A text of the client as it may stand between quotes in a line.
fn quoted(text: &str) -> String {
    text.chars()
        .take(TEXT_CHARS_MAX)
        .map(|letter| match letter {
            '"' => "%22".to_string(),
            letter if letter.is_control() => "%3F".to_string(),
            letter => letter.to_string(),
        })
        .collect()
}

fn clipped(text: &str) -> String {
    text.chars().take(2 * TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::{ClusterMs, Versioning};
    use fabric::env::SystemEnv;

    use super::*;

    fn bucket() -> Arc<Bucket> {
        Arc::new(Bucket {
            id: BucketId(5),
            name: "photos".parse().unwrap(),
            owner: "anna".parse().unwrap(),
            created: ClusterMs(0),
            epoch: 1,
            versioning: Versioning::Off,
        })
    }

    fn logging(format: LogKeyFormat) -> Logging {
        Logging { bucket: "logs".parse().unwrap(), prefix: "p/".to_string(), format }
    }

    fn log() -> Arc<AccessLog> {
        Arc::new(AccessLog::new(Arc::new(SystemEnv::default()), "us-east-1".into()))
    }

    #[test]
    fn a_line_has_every_field_of_aws() {
        let request = http::Request::get("/photos/a%20b?X-Amz-Signature=secret&versionId=null")
            .header("host", "localhost:9000")
            .header("user-agent", "curl \"8\"")
            .body(())
            .unwrap();
        let (head, ()) = request.into_parts();
        let mut answer = HeaderMap::new();
        answer.insert("content-range", "bytes 0-1/300".parse().unwrap());
        let bucket = bucket();
        let told = Told {
            bucket: &bucket,
            source: "10.0.0.9",
            requester: Some("anna"),
            ids: ("0123", "host"),
            op: "GetObject",
            key: Some("a b"),
            head: &head,
            outcome: (206, None),
            answer: &answer,
            at_ms: 1_700_000_000_000,
        };
        let log = log();
        let draft = Draft {
            log: log.clone(),
            bucket: bucket.clone(),
            logging: logging(LogKeyFormat::Simple),
            began: log.env.monotonic(),
            turn: Duration::from_millis(3),
            around: told.around(),
            object_bytes: told.object_bytes(&Answered::Empty),
        };
        draft.finish(2);
        let lines = log.take(true).pop().unwrap();
        let parts: Vec<&str> = lines.text.trim_end().splitn(2, " 2 300 ").collect();
        assert_eq!(
            parts[0],
            "anna photos [14/Nov/2023:22:13:20 +0000] 10.0.0.9 anna 0123 REST.GET.OBJECT a%20b \"GET \
             /photos/a%20b?X-Amz-Signature=REDACTED&versionId=null HTTP/1.1\" 206 -"
        );
        assert!(
            parts[1].ends_with(" 3 \"-\" \"curl %228%22\" - host SigV4 - QueryString localhost:9000 - - -"),
            "{}",
            parts[1]
        );
        assert!(log.take(true).is_empty());
    }

    #[test]
    fn keys_of_logs() {
        let log = log();
        for (format, start) in [
            (LogKeyFormat::Simple, "p/2"),
            (LogKeyFormat::EventTime, "p/anna/us-east-1/photos/2"),
            (LogKeyFormat::DeliveryTime, "p/anna/us-east-1/photos/2"),
        ] {
            let lines = Lines { bucket: bucket(), logging: logging(format), text: String::new(), count: 0 };
            let key = log.key(&lines);
            assert!(key.starts_with(start), "{key}");
            let name = key.rsplit('/').next().unwrap();
            assert_eq!(
                (name.len(), name.matches('-').count()),
                ("2026-11-29-22-41-05-0123456789ABCDEF".len(), 6)
            );
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped() {
        let log = log();
        let line = "x".repeat(MIB as usize);
        for _ in 0..20 {
            log.add(&bucket(), &logging(LogKeyFormat::Simple), &line);
        }
        let taken = log.take(false);
        assert_eq!(taken.iter().map(|lines| lines.count).sum::<u64>(), 16);
        log.add(&bucket(), &logging(LogKeyFormat::Simple), "y");
        assert!(log.take(false).is_empty());
        assert_eq!(log.take(true).len(), 1);
    }
}
