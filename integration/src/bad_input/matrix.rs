//! The matrix of authentication: every operation of the store, by every carrier of a signature, with every fault that a
//! signature can have.
//!
//! The operations come from the store's own list, so that a new one is attacked without anybody remembering it. Each
//! request is refused with exactly the code of its fault, and nothing that can be read of the bucket differs afterwards.
//! A request without a fault reaches its operation: that shows that it was the fault which was refused.

use anyhow::{Context, Result, ensure};
use gateway::s3::op::BodyRule;
use gateway::s3::ops;
use gateway::s3::route::Scope;

mod forms;

use super::{Expect, judge};
use crate::client::{Auth, Client, Credentials, Line, Payload, Request, Response, Signer, Target, Wire};

/// The bucket that everybody attacks, and one beside it of the same owner.
const BUCKET: &str = "matrix";
const BESIDE: &str = "matrix-beside";
/// A bucket that does not exist.
const NOWHERE: &str = "matrix-nowhere";
/// The object that everybody attacks, the source of copies, and the key of an open upload.
const KEY: &str = "object";
const SOURCE: &str = "source";
const UPLOAD: &str = "upload";
/// A signed header, which one of the faults changes.
const SIGNED: &str = "x-amz-meta-signed";
/// The checksum that follows a framed body.
const TRAILER: &str = "x-amz-checksum-crc32";
/// Seconds that a presigned URL lives.
const LIFETIME: u64 = 60;
/// Seconds beyond the time that clocks may differ.
const BEYOND_SKEW: i64 = 15 * 60 + 5;
/// What a browser posts carries a signed policy instead of a signature of the request: it has carriers of its own.
const FORMS: &[&str] = &["PostObject"];

/// How a signature comes, and what it says of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Header,
    HeaderUnsigned,
    Query,
    QueryV2,
    SignedChunks,
    SignedChunksTrailer,
    UnsignedTrailer,
    QueryUnsignedTrailer,
    QueryV2UnsignedTrailer,
}

const CARRIERS: &[(Carrier, &str)] = &[
    (Carrier::Header, "header"),
    (Carrier::HeaderUnsigned, "header, unsigned payload"),
    (Carrier::Query, "presigned"),
    (Carrier::QueryV2, "presigned, version 2"),
    (Carrier::SignedChunks, "signed chunks"),
    (Carrier::SignedChunksTrailer, "signed chunks and trailer"),
    (Carrier::UnsignedTrailer, "unsigned chunks and trailer"),
    (Carrier::QueryUnsignedTrailer, "presigned, unsigned chunks and trailer"),
    (Carrier::QueryV2UnsignedTrailer, "presigned, version 2, unsigned chunks and trailer"),
];

impl Carrier {
    fn is_query(self) -> bool {
        self.is_v4_query() || self.is_v2_query()
    }

    fn is_v4_query(self) -> bool {
        matches!(self, Carrier::Query | Carrier::QueryUnsignedTrailer)
    }

    fn is_v2_query(self) -> bool {
        matches!(self, Carrier::QueryV2 | Carrier::QueryV2UnsignedTrailer)
    }

    fn has_signed_chunks(self) -> bool {
        matches!(self, Carrier::SignedChunks | Carrier::SignedChunksTrailer)
    }

    fn has_unsigned_chunks(self) -> bool {
        matches!(
            self,
            Carrier::UnsignedTrailer | Carrier::QueryUnsignedTrailer | Carrier::QueryV2UnsignedTrailer
        )
    }

    fn of(self, request: Request) -> Request {
        const CHUNK: usize = 8192;
        let trailer = || vec![(TRAILER.to_string(), crc32(&request.body))];
        let (payload, auth) = match self {
            Carrier::Header => (Payload::Digest, Auth::Header),
            Carrier::HeaderUnsigned => (Payload::Unsigned, Auth::Header),
            Carrier::Query => (Payload::Unsigned, Auth::Query(LIFETIME)),
            Carrier::QueryV2 => (Payload::Unsigned, Auth::QueryV2(LIFETIME)),
            Carrier::SignedChunks => (Payload::SignedChunks(CHUNK), Auth::Header),
            Carrier::SignedChunksTrailer => (Payload::SignedChunksTrailer(CHUNK, trailer()), Auth::Header),
            Carrier::UnsignedTrailer => (Payload::UnsignedChunksTrailer(CHUNK, trailer()), Auth::Header),
            Carrier::QueryUnsignedTrailer => return framed(request).auth(Auth::Query(LIFETIME)),
            Carrier::QueryV2UnsignedTrailer => return framed(request).auth(Auth::QueryV2(LIFETIME)),
        };
        request.payload(payload).auth(auth)
    }
}

/// No client presigns a URL for a framed body; whoever wants to get around a signature does.
fn framed(request: Request) -> Request {
    const MODE: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let (length, sum) = (request.body.len(), crc32(&request.body));
    let data = String::from_utf8_lossy(&request.body).into_owned();
    let chunk = if data.is_empty() { String::new() } else { format!("{length:x}\r\n{data}\r\n") };
    request
        .header("x-amz-content-sha256", MODE)
        .header("x-amz-decoded-content-length", length)
        .header("x-amz-trailer", TRAILER)
        .header("content-encoding", "aws-chunked")
        .payload(Payload::Literal(MODE.to_string()))
        .body(format!("{chunk}0\r\n{TRAILER}:{sum}\r\n\r\n"))
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Missing,
    Forged,
    OtherBucket,
    OtherKey,
    Query,
    SignedHeader,
    UnsignedHeader,
    Body,
    Expired,
    /// Sent again when the window of 15 minutes is over, or a URL long before its time.
    OutOfTime,
    UnknownKey,
    WrongSecret,
    /// The key of one user with the signature of another.
    SwappedKey,
    /// Signed well, by somebody who has nothing here.
    AnotherUser,
}

const FAULTS: &[Fault] = &[
    Fault::Missing,
    Fault::Forged,
    Fault::OtherBucket,
    Fault::OtherKey,
    Fault::Query,
    Fault::SignedHeader,
    Fault::UnsignedHeader,
    Fault::Body,
    Fault::Expired,
    Fault::OutOfTime,
    Fault::UnknownKey,
    Fault::WrongSecret,
    Fault::SwappedKey,
    Fault::AnotherUser,
];

/// An operation, as a request that would do it.
struct Operation {
    name: &'static str,
    scope: Scope,
    body: BodyRule,
    request: Request,
}

impl Operation {
    /// Every user may list buckets and ask for a new one.
    fn is_for_everybody(&self) -> bool {
        self.scope == Scope::Service || self.name == "CreateBucket"
    }
}

/// One request for each operation, made from its route.
fn operations(upload: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    for op in ops::all().into_iter().filter(|op| !FORMS.contains(&op.name())) {
        let route = op.route();
        let (scope, method) = (route.scope(), route.method().as_str());
        let of_upload = route.sub_resources().iter().any(|(name, _)| *name == "uploadId");
        let key = if of_upload { UPLOAD } else { KEY };
        let mut request = match scope {
            Scope::Service => Request::new(method, "/"),
            Scope::Bucket => Request::bucket(method, BUCKET),
            Scope::Object => Request::object(method, BUCKET, key),
        };
        for (name, value) in route.sub_resources() {
            request = match (*name, value) {
                (name, Some(value)) => request.query(name, value),
                ("uploadId", None) => request.query("uploadId", upload),
                ("partNumber", None) => request.query("partNumber", 1),
                ("annotationName", None) => request.query("annotationName", "note"),
                (name, None) => request.flag(name),
            };
        }
        for name in route.headers() {
            // A source, wherever the header wants one.
            request = request.header(name, format!("/{BUCKET}/{SOURCE}"));
        }
        let body = op.body();
        if body != BodyRule::None {
            request = request.body("this must not come into force");
        }
        request = request.header(SIGNED, "as it was signed");
        operations.push(Operation { name: op.name(), scope, body, request });
    }
    operations
}

/// What everybody attacks, and how it looked before.
struct Ground<'a> {
    client: Client<'a>,
    other: Credentials,
    upload: String,
    line: Line<'a>,
}

/// Runs the matrix; `report` hears once of each operation by each carrier. Returns how many requests were judged.
pub async fn run(target: &dyn Target, mut report: impl FnMut(&str, Result<(), String>)) -> Result<usize> {
    let mut ground = Ground::build(target).await?;
    let operations = operations(&ground.upload);
    let mut judged = 0;
    let mut before = ground.state(&operations).await.map_err(anyhow::Error::msg)?;
    for (carrier, told) in CARRIERS {
        for operation in &operations {
            let outcome = ground.attack(*carrier, operation, &mut judged).await;
            let unchanged = ground.compare(&operations, &mut before).await;
            report(&format!("H-matrix {told}: {}", operation.name), unchanged.and(outcome));
        }
    }
    for (carrier, told) in forms::CARRIERS {
        let outcome = ground.attack_by_form(*carrier, &mut judged).await;
        let unchanged = ground.compare(&operations, &mut before).await;
        report(&format!("H-matrix {told}: {}", FORMS.join(", ")), unchanged.and(outcome));
    }
    Ok(judged)
}

impl<'a> Ground<'a> {
    async fn build(target: &'a dyn Target) -> Result<Ground<'a>> {
        let client = Client::new(target, 0);
        let other = target.other_user().context("the matrix needs another user")?;
        let line = Line::new(client.clone());
        let mut ground = Ground { client, other, upload: String::new(), line };
        let cors = "<CORSConfiguration><CORSRule><AllowedOrigin>https://a</AllowedOrigin>\
                    <AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";
        let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
        let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let configure = |name: &str, document: &str| {
            Request::bucket("PUT", BUCKET).flag(name).body(document).content_md5()
        };
        for request in [
            Request::bucket("PUT", BUCKET),
            Request::bucket("PUT", BESIDE),
            configure("cors", cors),
            configure("tagging", tags),
            configure("versioning", versioning),
            Request::object("PUT", BUCKET, KEY).body("attacked").header("x-amz-tagging", "a=b"),
            Request::object("PUT", BUCKET, KEY)
                .flag("annotation")
                .query("annotationName", "note")
                .body("kept"),
            Request::object("PUT", BUCKET, SOURCE).body("copied by those who may"),
        ] {
            ground.expect(request).await?;
        }
        let created = ground.expect(Request::object("POST", BUCKET, UPLOAD).flag("uploads")).await?;
        ground.upload = created.xml().map_err(anyhow::Error::msg)?.text_of("UploadId").to_string();
        let part = Request::object("PUT", BUCKET, UPLOAD).query("partNumber", 1);
        ground.expect(part.query("uploadId", &ground.upload).body("a part")).await?;
        Ok(ground)
    }

    async fn expect(&mut self, request: Request) -> Result<Response> {
        let wire = self.client.sign(request);
        let response = self.line.send_wire(&wire).await?;
        let fine = matches!(response.status, 200 | 204);
        ensure!(fine, "{} {}: {}", wire.method, wire.target, response.describe());
        Ok(response)
    }

    /// Everything that the owner can read: the answer to every operation that reads.
    async fn state(&mut self, operations: &[Operation]) -> Result<Vec<String>, String> {
        let mut answers = Vec::new();
        for operation in operations.iter().filter(|operation| operation.request.method == "GET") {
            let response =
                self.line.send(operation.request.clone()).await.map_err(|error| error.to_string())?;
            answers.push(format!("{} {}", operation.name, readable(&response)));
        }
        Ok(answers)
    }

    /// Refuses a state that is not the one before; takes its place.
    async fn compare(&mut self, operations: &[Operation], before: &mut Vec<String>) -> Result<(), String> {
        let after = self.state(operations).await?;
        let before = std::mem::replace(before, after.clone());
        match before.iter().zip(&after).find(|(before, after)| before != after) {
            Some((before, after)) => Err(format!("it changed {before:?} to {after:?}")),
            None => Ok(()),
        }
    }

    /// Everything that is wrong with the answers to one operation by one carrier.
    async fn attack(
        &mut self,
        carrier: Carrier,
        operation: &Operation,
        judged: &mut usize,
    ) -> Result<(), String> {
        let mut wrong = Vec::new();
        for fault in FAULTS {
            let Some(expect) = expected(*fault, carrier, operation) else { continue };
            let wire = self.make(*fault, carrier, operation);
            let outcome = self.judged(&wire, &expect).await;
            wrong.extend(outcome.err().map(|why| format!("{fault:?}: {why}")));
            *judged += 1;
        }
        if !operation.is_for_everybody() {
            // Without a fault, where there is nothing that it could do.
            let mut request = carrier.of(operation.request.clone());
            request.path = request.path.replacen(BUCKET, NOWHERE, 1);
            let wire = self.client.sign(request);
            let outcome = self.judged(&wire, &Expect::error(404, "NoSuchBucket")).await;
            wrong.extend(outcome.err().map(|why| format!("without a fault: {why}")));
            *judged += 1;
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    async fn judged(&mut self, wire: &Wire, expect: &Expect) -> Result<(), String> {
        let answer = self.line.send_wire(wire).await;
        judge(expect, &wire.method, &answer.map_err(|error| error.to_string())?)
    }

    /// Who signs what has this fault.
    fn signer(&self, fault: Fault) -> Signer {
        let root = self.client.target().root();
        let credentials = match fault {
            Fault::UnknownKey => Credentials { access_key: "FLUFFYNOBODYACCESSKEY".to_string(), ..root },
            Fault::WrongSecret => {
                Credentials { secret_key: "0123456789abcdef0123456789abcdef".to_string(), ..root }
            }
            Fault::SwappedKey => Credentials { access_key: self.other.access_key.clone(), ..root },
            Fault::AnotherUser => self.other.clone(),
            _ => root,
        };
        Signer { credentials: Some(credentials), ..self.client.signer() }
    }

    /// The request of an operation with a fault.
    fn make(&self, fault: Fault, carrier: Carrier, operation: &Operation) -> Wire {
        let signer = self.signer(fault);
        let request = carrier.of(operation.request.clone());
        match fault {
            Fault::Missing => without_signature(signer.sign(request), carrier),
            Fault::Forged => forged(signer.sign(request), carrier),
            Fault::OtherBucket => signer.sign(request).retarget(|old| old.replacen(BUCKET, BESIDE, 1)),
            Fault::OtherKey => signer
                .sign(request)
                .retarget(|old| old.replacen(&format!("/{BUCKET}/"), &format!("/{BUCKET}/x"), 1)),
            Fault::Query => {
                signer.sign(request).retarget(|old| added(old, "response-content-type=text%2Fhtml"))
            }
            Fault::SignedHeader => signer.sign(request).set(SIGNED, "as somebody on the way wants it"),
            Fault::UnsignedHeader => signer.sign(request).add("x-amz-meta-unsigned", "1"),
            Fault::Body => altered_body(&signer, request, carrier),
            Fault::Expired => signer.later(-(LIFETIME as i64 + 2)).sign(request),
            Fault::OutOfTime if carrier.is_query() => signer.later(BEYOND_SKEW).sign(request),
            Fault::OutOfTime => signer.later(-BEYOND_SKEW).sign(request),
            Fault::UnknownKey | Fault::WrongSecret | Fault::SwappedKey | Fault::AnotherUser => {
                signer.sign(request)
            }
        }
    }
}

/// The answer to a fault; `None` where the carrier or the operation cannot have it.
fn expected(fault: Fault, carrier: Carrier, operation: &Operation) -> Option<Expect> {
    let mismatch = (403, "SignatureDoesNotMatch");
    let denied = (403, "AccessDenied");
    let framed = carrier.has_signed_chunks() || carrier.has_unsigned_chunks();
    let (status, code) = match fault {
        Fault::Missing if carrier.has_signed_chunks() => (400, "InvalidRequest"),
        Fault::Missing => denied,
        Fault::OtherBucket if operation.scope == Scope::Service => return None,
        Fault::OtherKey if operation.scope != Scope::Object => return None,
        Fault::Forged | Fault::OtherBucket | Fault::OtherKey | Fault::Query | Fault::SignedHeader => mismatch,
        // Version 2 signs every header of this kind, and so one that is added changes the signature.
        Fault::UnsignedHeader if carrier.is_v2_query() => mismatch,
        Fault::UnsignedHeader => denied,
        Fault::Body if framed && operation.body != BodyRule::Object => (400, "InvalidRequest"),
        Fault::Body if carrier.has_signed_chunks() => mismatch,
        Fault::Body if carrier.has_unsigned_chunks() => (400, "BadDigest"),
        Fault::Body if carrier == Carrier::Header => (400, "XAmzContentSHA256Mismatch"),
        Fault::Body => return None,
        Fault::Expired if carrier.is_query() => denied,
        Fault::Expired => return None,
        // A URL of version 2 has an end and no beginning.
        Fault::OutOfTime if carrier.is_v2_query() => return None,
        Fault::OutOfTime if carrier.is_v4_query() => denied,
        Fault::OutOfTime => (403, "RequestTimeTooSkewed"),
        Fault::UnknownKey => (403, "InvalidAccessKeyId"),
        Fault::WrongSecret | Fault::SwappedKey => mismatch,
        Fault::AnotherUser if operation.is_for_everybody() => return None,
        Fault::AnotherUser => denied,
    };
    Some(Expect::error(status, code))
}

fn without_signature(wire: Wire, carrier: Carrier) -> Wire {
    if !carrier.is_query() {
        return wire.without("authorization");
    }
    wire.retarget(|old| {
        let (path, query) = old.split_once('?').unwrap_or((old, ""));
        let of_signature = |pair: &&str| {
            ["X-Amz-", "AWSAccessKeyId=", "Expires=", "Signature="].iter().any(|name| pair.starts_with(name))
        };
        let kept: Vec<&str> = query.split('&').filter(|pair| !of_signature(pair)).collect();
        if kept.is_empty() { path.to_string() } else { format!("{path}?{}", kept.join("&")) }
    })
}

/// Changes the first digit of the signature.
fn forged(wire: Wire, carrier: Carrier) -> Wire {
    let change = |old: &str| match old.rsplit_once("Signature=") {
        Some((before, signature)) => {
            let first = if signature.starts_with('a') { 'b' } else { 'a' };
            let rest = signature.strip_prefix("%2").map_or_else(|| &signature[1..], |rest| &rest[1..]);
            format!("{before}Signature={first}{rest}")
        }
        None => old.to_string(),
    };
    if carrier.is_query() { wire.retarget(change) } else { wire.edit("authorization", change) }
}

/// The body changes on the way; everything else that describes it fits what arrives.
fn altered_body(signer: &Signer, request: Request, carrier: Carrier) -> Wire {
    let mut altered = request.clone();
    altered.body.push(b'!');
    if carrier == Carrier::Header {
        let digest = altered.content_md5();
        let mut signed = request;
        signed.headers = digest.headers;
        return signer.sign(signed).with_body(digest.body);
    }
    let wire = signer.sign(request);
    wire.replace_in_body("must not", "may well")
}

fn added(target: &str, parameter: &str) -> String {
    format!("{target}{}{parameter}", if target.contains('?') { '&' } else { '?' })
}

fn crc32(body: &[u8]) -> String {
    use base64::Engine;
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, body) as u32;
    base64::engine::general_purpose::STANDARD.encode(sum.to_be_bytes())
}

/// An answer without what differs between two equal ones.
fn readable(response: &Response) -> String {
    let body = String::from_utf8_lossy(&response.body).into_owned();
    let lasting = match (body.find("<RequestId>"), body.find("</HostId>")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &body[..from], &body[to..]),
        _ => body,
    };
    let mut text = format!("{} {lasting}", response.status);
    for (name, value) in &response.headers {
        if !matches!(name.as_str(), "date" | "x-amz-request-id" | "x-amz-id-2") {
            text.push_str(&format!(" {name}: {value}"));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use gateway::s3::path::CanonicalPath;
    use gateway::s3::{Query, Router};
    use http::{HeaderMap, HeaderName, Method};

    use super::*;

    /// A request that reached another operation than the one it is listed for would attack that one twice.
    #[test]
    fn each_request_is_its_operation() {
        let router = Router::new(&ops::all());
        for operation in operations("an-upload") {
            let Request { method, path, query, headers, .. } = operation.request;
            let pairs: Vec<String> = query
                .into_iter()
                .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}={value}")))
                .collect();
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
            }
            let path = CanonicalPath::parse(&path, None).unwrap();
            let query = Query::parse(&pairs.join("&")).unwrap();
            let method = Method::try_from(method.as_str()).unwrap();
            let found = router.route(&method, path.target(), &query, &map).unwrap();
            assert_eq!(found.name(), operation.name);
        }
    }
}
