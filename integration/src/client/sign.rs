//! Signature Version 4, written from the published rules: header, query, chunked and trailers.

use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Digest;
use sha2::Sha256;

use super::pattern::Pattern;

/// SHA-256 of nothing.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// The line that ends a signed trailer.
pub const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// An access key and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl Credentials {
    /// From both halves.
    pub fn new(access_key: &str, secret_key: &str) -> Credentials {
        Credentials { access_key: access_key.to_string(), secret_key: secret_key.to_string() }
    }
}

/// Where the signature goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The `Authorization` header.
    Header,
    /// A presigned URL that lives this many seconds.
    Query(u64),
    /// No signature.
    Anonymous,
    /// A URL presigned with signature version 2 that lives this many seconds.
    QueryV2(u64),
}

/// What `x-amz-content-sha256` says and how the body is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The hex digest of the body.
    Digest,
    /// `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// These bytes, whatever the body is.
    Literal(String),
    /// No such header; the canonical request says `UNSIGNED-PAYLOAD`.
    Absent,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD` in chunks of this many bytes.
    SignedChunks(usize),
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER`: chunk bytes and the trailers.
    SignedChunksTrailer(usize, Vec<(String, String)>),
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`: chunk bytes and the trailers.
    UnsignedChunksTrailer(usize, Vec<(String, String)>),
}

/// A request before it is signed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path, encoded as it is sent.
    pub path: String,
    /// The query, decoded; `None` is a name without `=`.
    pub query: Vec<(String, Option<String>)>,
    /// Headers, in order. All but a few unsignable ones are signed.
    pub headers: Vec<(String, String)>,
    /// The body, before framing.
    pub body: Vec<u8>,
    /// A generated body in place of `body`; only with [`Payload::Unsigned`].
    pub generated: Option<Pattern>,
    /// How the payload is covered.
    pub payload: Payload,
    /// Where the signature goes.
    pub auth: Auth,
}

impl Request {
    /// A request for an encoded path.
    pub fn new(method: &str, path: impl Into<String>) -> Request {
        Request {
            method: method.to_string(),
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
            generated: None,
            payload: Payload::Digest,
            auth: Auth::Header,
        }
    }

    /// A request for a bucket.
    pub fn bucket(method: &str, bucket: &str) -> Request {
        Request::new(method, format!("/{bucket}"))
    }

    /// A request for a key, which is encoded here.
    pub fn object(method: &str, bucket: &str, key: &str) -> Request {
        Request::new(method, format!("/{bucket}/{}", encode_uri(key.as_bytes(), true)))
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &str, value: impl ToString) -> Request {
        self.query.push((name.to_string(), Some(value.to_string())));
        self
    }

    /// Adds a query parameter without a value, like `?uploads`.
    pub fn flag(mut self, name: &str) -> Request {
        self.query.push((name.to_string(), None));
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl ToString) -> Request {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Sets a body that is made while it is sent.
    pub fn generated(mut self, pattern: Pattern) -> Request {
        self.generated = Some(pattern);
        self.payload = Payload::Unsigned;
        self
    }

    /// Sets the payload mode.
    pub fn payload(mut self, payload: Payload) -> Request {
        self.payload = payload;
        self
    }

    /// Sets where the signature goes.
    pub fn auth(mut self, auth: Auth) -> Request {
        self.auth = auth;
        self
    }

    /// Adds `Content-MD5` of the body as it is now.
    pub fn content_md5(self) -> Request {
        let digest = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(&self.body));
        self.header("content-md5", digest)
    }
}

/// A signed request, as it goes out; tests change it.
#[derive(Debug, Clone)]
pub struct Wire {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in order, as sent.
    pub headers: Vec<(String, String)>,
    /// The body as framed.
    pub body: Vec<u8>,
    /// A generated body in place of `body`.
    pub generated: Option<Pattern>,
}

impl Wire {
    /// The value of the first header `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Replaces header `name`, or adds it.
    pub fn set(mut self, name: &str, value: impl ToString) -> Wire {
        self = self.without(name);
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// Adds a header, also where one of that name is there.
    pub fn add(mut self, name: &str, value: impl ToString) -> Wire {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// Removes header `name`.
    pub fn without(mut self, name: &str) -> Wire {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Changes the value of header `name`.
    pub fn edit(mut self, name: &str, change: impl Fn(&str) -> String) -> Wire {
        for (n, value) in &mut self.headers {
            if n.eq_ignore_ascii_case(name) {
                *value = change(value);
            }
        }
        self
    }

    /// Changes path and query after the signature.
    pub fn retarget(mut self, change: impl Fn(&str) -> String) -> Wire {
        self.target = change(&self.target);
        self
    }

    /// Replaces the framed body and its `content-length`.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Wire {
        self.body = body.into();
        let length = self.body.len();
        self.set("content-length", length)
    }

    /// Replaces the first occurrence of `from` in the framed body.
    pub fn replace_in_body(self, from: &str, to: &str) -> Wire {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        let Some(at) = self.body.windows(from.len()).position(|window| window == from) else {
            return self;
        };
        let body = [&self.body[..at], to, &self.body[at + from.len()..]].concat();
        self.with_body(body)
    }

    /// Request line and headers, with the empty line.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Everything that goes out; not for generated bodies.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }
}

/// What a signature depends on beside the request.
#[derive(Debug, Clone)]
pub struct Signer {
    /// Who signs; `None` sends without a signature.
    pub credentials: Option<Credentials>,
    /// Region of the scope.
    pub region: String,
    /// Service of the scope.
    pub service: String,
    /// `Host` header.
    pub host: String,
    /// The time of the signature, milliseconds since 1970.
    pub at_ms: u64,
}

impl Signer {
    /// The same signer at another time, `seconds` later (or earlier).
    pub fn later(mut self, seconds: i64) -> Signer {
        self.at_ms = self.at_ms.saturating_add_signed(seconds * 1000);
        self
    }

    /// Signs `request`; the wire is valid until somebody changes it.
    pub fn sign(&self, request: Request) -> Wire {
        let auth = if self.credentials.is_none() { Auth::Anonymous } else { request.auth };
        match auth {
            Auth::Query(seconds) => self.presign(request, seconds),
            Auth::QueryV2(seconds) => self.presign_v2(request, seconds),
            Auth::Header => self.sign_header(request),
            Auth::Anonymous => self.unsigned(request),
        }
    }

    /// Signs a wire again after it was changed: headers and target count as they are now, the framed body
    /// stays. The wire must have been signed in its header before.
    pub fn resign(&self, wire: Wire) -> Wire {
        let wire = wire.without("authorization");
        let (path, query) = wire.target.split_once('?').unwrap_or((&wire.target, ""));
        let query: Vec<(String, Option<String>)> =
            query.split('&').filter(|pair| !pair.is_empty()).map(decode_pair).collect();
        let content = wire.header("x-amz-content-sha256").unwrap_or("UNSIGNED-PAYLOAD").to_string();
        let (names, block) = canonical_headers(&wire.headers);
        let canonical = canonical_request(&wire.method, path, &query, &block, &names, &content);
        let authorization = self.authorization(&names, &self.signature(&self.string_to_sign(&canonical)));
        wire.add("authorization", authorization)
    }

    fn authorization(&self, names: &str, signature: &str) -> String {
        let (key, scope) = (self.access_key(), self.scope());
        format!("AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}")
    }

    /// `yyyymmddThhmmssZ`.
    pub fn amz_date(&self) -> String {
        amz_date(self.at_ms)
    }

    /// `yyyymmdd/region/service/aws4_request`.
    pub fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", &self.amz_date()[..8], self.region, self.service)
    }

    /// The hex signature of `string_to_sign`.
    pub fn signature(&self, string_to_sign: &str) -> String {
        let secret = self.credentials.as_ref().map_or("", |credentials| &credentials.secret_key);
        let time = UNIX_EPOCH + Duration::from_millis(self.at_ms);
        let key = generate_signing_key(secret, time, &self.region, &self.service);
        calculate_signature(key, string_to_sign.as_bytes())
    }

    /// The signature of version 2, in base64.
    pub fn signature_v2(&self, text: &str) -> String {
        let secret = self.credentials.as_ref().map_or("", |credentials| &credentials.secret_key);
        base64::engine::general_purpose::STANDARD.encode(hmac_sha1(secret.as_bytes(), text.as_bytes()))
    }

    /// The access key; empty where nothing is signed.
    pub fn access_key(&self) -> &str {
        self.credentials.as_ref().map_or("", |credentials| &credentials.access_key)
    }

    fn unsigned(&self, request: Request) -> Wire {
        let mut headers = vec![("host".to_string(), self.host.clone())];
        headers.extend(request.headers.iter().cloned());
        self.finish(request, headers, None)
    }

    fn sign_header(&self, request: Request) -> Wire {
        let mut headers =
            vec![("host".to_string(), self.host.clone()), ("x-amz-date".to_string(), self.amz_date())];
        let content = content_sha256(&request);
        if request.payload != Payload::Absent {
            headers.push(("x-amz-content-sha256".to_string(), content.clone()));
        }
        headers.extend(request.headers.iter().cloned());
        if let Some(trailers) = trailers_of(&request.payload) {
            let names: Vec<&str> = trailers.iter().map(|(name, _)| name.as_str()).collect();
            headers.push(("x-amz-trailer".to_string(), names.join(",")));
        }
        if is_chunked(&request.payload) {
            headers.push(("content-encoding".to_string(), "aws-chunked".to_string()));
            headers.push(("x-amz-decoded-content-length".to_string(), request.body.len().to_string()));
        }
        let (names, canonical) = canonical_headers(&headers);
        let canonical =
            canonical_request(&request.method, &request.path, &request.query, &canonical, &names, &content);
        let signature = self.signature(&self.string_to_sign(&canonical));
        let authorization = self.authorization(&names, &signature);
        headers.push(("authorization".to_string(), authorization));
        self.finish(request, headers, Some(signature))
    }

    fn presign(&self, mut request: Request, seconds: u64) -> Wire {
        let mut headers = vec![("host".to_string(), self.host.clone())];
        headers.extend(request.headers.iter().cloned());
        let (names, canonical) = canonical_headers(&headers);
        let content = match &request.payload {
            Payload::Literal(content) => content.clone(),
            _ => "UNSIGNED-PAYLOAD".to_string(),
        };
        request = request
            .query("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
            .query("X-Amz-Credential", format!("{}/{}", self.access_key(), self.scope()))
            .query("X-Amz-Date", self.amz_date())
            .query("X-Amz-Expires", seconds)
            .query("X-Amz-SignedHeaders", &names);
        let canonical =
            canonical_request(&request.method, &request.path, &request.query, &canonical, &names, &content);
        let signature = self.signature(&self.string_to_sign(&canonical));
        self.finish(request.query("X-Amz-Signature", signature), headers, None)
    }

    /// Version 2 signs its own headers and the sub-resources: here, every parameter but those that say how to list.
    fn presign_v2(&self, request: Request, seconds: u64) -> Wire {
        let expires = self.at_ms / 1000 + seconds;
        let value = |name: &str| {
            request.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.as_str())
        };
        let mut text =
            format!("{}\n{}\n{}\n{expires}\n", request.method, value("content-md5"), value("content-type"));
        let mut amz: Vec<_> = request.headers.iter().filter(|(name, _)| name.starts_with("x-amz-")).collect();
        amz.sort();
        for (name, value) in amz {
            text.push_str(&format!("{name}:{value}\n"));
        }
        text.push_str(&request.path);
        let mut signed: Vec<_> = request.query.iter().filter(|(name, _)| name != "list-type").collect();
        signed.sort();
        for (at, (name, value)) in signed.into_iter().enumerate() {
            text.push_str(if at == 0 { "?" } else { "&" });
            text.push_str(&value.as_ref().map_or(name.clone(), |value| format!("{name}={value}")));
        }
        let request = request
            .query("AWSAccessKeyId", self.access_key())
            .query("Expires", expires)
            .query("Signature", self.signature_v2(&text));
        self.unsigned(request)
    }

    fn string_to_sign(&self, canonical: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.amz_date(),
            self.scope(),
            sha256_hex(canonical.as_bytes())
        )
    }

    /// Frames the body and puts the wire together.
    fn finish(&self, request: Request, mut headers: Vec<(String, String)>, seed: Option<String>) -> Wire {
        let body = match &request.payload {
            Payload::SignedChunks(size) => self.chunks(&request.body, *size, seed, &[]),
            Payload::SignedChunksTrailer(size, trailers) => self.chunks(&request.body, *size, seed, trailers),
            Payload::UnsignedChunksTrailer(size, trailers) => {
                self.chunks(&request.body, *size, None, trailers)
            }
            _ => request.body.clone(),
        };
        let length = request.generated.map_or(body.len() as u64, |pattern| pattern.length);
        let has_body = length > 0 || matches!(request.method.as_str(), "PUT" | "POST");
        if has_body && !headers.iter().any(|(name, _)| name == "content-length") {
            headers.push(("content-length".to_string(), length.to_string()));
        }
        let query = canonical_query(&request.query, QueryStyle::Sent);
        let target =
            if query.is_empty() { request.path.clone() } else { format!("{}?{query}", request.path) };
        Wire { method: request.method, target, headers, body, generated: request.generated }
    }

    /// The `aws-chunked` framing; signed when there is a seed signature.
    fn chunks(
        &self,
        body: &[u8],
        size: usize,
        seed: Option<String>,
        trailers: &[(String, String)],
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut previous = seed;
        for data in body.chunks(size.max(1)).chain([&[][..]]) {
            out.extend_from_slice(format!("{:x}", data.len()).as_bytes());
            if let Some(before) = &previous {
                let signature = self.chunk_signature(before, data);
                out.extend_from_slice(format!(";chunk-signature={signature}").as_bytes());
                previous = Some(signature);
            }
            out.extend_from_slice(b"\r\n");
            if !data.is_empty() {
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        let mut canonical = String::new();
        for (name, value) in trailers {
            out.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            canonical.push_str(&format!("{name}:{value}\n"));
        }
        if let Some(before) = previous.filter(|_| !trailers.is_empty()) {
            let signature = self.trailer_signature(&before, &canonical);
            out.extend_from_slice(format!("{TRAILER_SIGNATURE}:{signature}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    fn chunk_signature(&self, previous: &str, data: &[u8]) -> String {
        let (date, scope) = (self.amz_date(), self.scope());
        let digest = sha256_hex(data);
        self.signature(&format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{EMPTY_SHA256}\n{digest}"
        ))
    }

    fn trailer_signature(&self, previous: &str, canonical: &str) -> String {
        let (date, scope) = (self.amz_date(), self.scope());
        let digest = sha256_hex(canonical.as_bytes());
        self.signature(&format!("AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{previous}\n{digest}"))
    }
}

fn is_chunked(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::SignedChunks(_) | Payload::SignedChunksTrailer(..) | Payload::UnsignedChunksTrailer(..)
    )
}

fn trailers_of(payload: &Payload) -> Option<&[(String, String)]> {
    match payload {
        Payload::SignedChunksTrailer(_, trailers) | Payload::UnsignedChunksTrailer(_, trailers) => {
            Some(trailers)
        }
        _ => None,
    }
}

fn content_sha256(request: &Request) -> String {
    match &request.payload {
        Payload::Digest => sha256_hex(&request.body),
        Payload::Unsigned | Payload::Absent => "UNSIGNED-PAYLOAD".to_string(),
        Payload::Literal(content) => content.clone(),
        Payload::SignedChunks(_) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_string(),
        Payload::SignedChunksTrailer(..) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER".to_string(),
        Payload::UnsignedChunksTrailer(..) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_string(),
    }
}

fn canonical_request(
    method: &str,
    path: &str,
    query: &[(String, Option<String>)],
    headers: &str,
    names: &str,
    content: &str,
) -> String {
    let path = encode_uri(&decode_uri(path), true);
    let query = canonical_query(query, QueryStyle::Canonical);
    format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{content}")
}

/// Sorted, joined names and the canonical block. `content-length`, `expect` and `connection` are left to
/// proxies and stay unsigned.
fn canonical_headers(headers: &[(String, String)]) -> (String, String) {
    let mut signed: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
        .filter(|(name, _)| !matches!(name.as_str(), "content-length" | "expect" | "connection"))
        .collect();
    signed.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let block: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    (names.join(";"), block)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QueryStyle {
    Canonical,
    Sent,
}

fn canonical_query(query: &[(String, Option<String>)], style: QueryStyle) -> String {
    let mut pairs: Vec<(String, Option<String>)> = query
        .iter()
        .map(|(name, value)| {
            let value = value.as_ref().map(|value| encode_uri(value.as_bytes(), false));
            (encode_uri(name.as_bytes(), false), value)
        })
        .collect();
    if style == QueryStyle::Canonical {
        pairs.sort();
    }
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| match (value, style) {
            (Some(value), _) => format!("{name}={value}"),
            (None, QueryStyle::Canonical) => format!("{name}="),
            (None, QueryStyle::Sent) => name,
        })
        .collect();
    pairs.join("&")
}

/// `yyyymmddThhmmssZ` of a time in milliseconds since 1970.
pub fn amz_date(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    let (year, month, day) = civil((seconds / 86_400) as i64);
    let rest = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Percent-encodes all but the unreserved bytes, and `/` where `keep_slash`.
pub fn encode_uri(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'~')
            || (keep_slash && byte == b'/');
        if plain {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode_uri(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

fn decode_pair(pair: &str) -> (String, Option<String>) {
    let text = |encoded: &str| String::from_utf8_lossy(&decode_uri(encoded)).into_owned();
    match pair.split_once('=') {
        Some((name, value)) => (text(name), Some(text(value))),
        None => (text(pair), None),
    }
}

fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).expect("an HMAC takes keys of every length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// (year, month, day) of a day counted from 1970-01-01, after Howard Hinnant's algorithm.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Auth, Credentials, Payload, Request, Signer};

    /// The examples of the S3 API reference, all signed at 2013-05-24T00:00:00Z.
    fn reference() -> Signer {
        Signer {
            credentials: Some(Credentials::new(
                "AKIAIOSFODNN7EXAMPLE",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            )),
            region: "us-east-1".to_string(),
            service: "s3".to_string(),
            host: "examplebucket.s3.amazonaws.com".to_string(),
            at_ms: 1_369_353_600_000,
        }
    }

    fn signature_of(request: Request) -> String {
        let wire = reference().sign(request);
        let text = wire.header("authorization").map_or(wire.target.clone(), str::to_string);
        text.rsplit("Signature=").next().unwrap().to_string()
    }

    #[test]
    fn published_header_signatures() {
        let get = Request::new("GET", "/test.txt").header("range", "bytes=0-9");
        assert_eq!(signature_of(get), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let list = Request::new("GET", "/").query("max-keys", 2).query("prefix", "J");
        assert_eq!(signature_of(list), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
        let lifecycle = Request::new("GET", "/").flag("lifecycle");
        assert_eq!(
            signature_of(lifecycle),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        let put = Request::new("PUT", "/test%24file.text")
            .header("date", "Fri, 24 May 2013 00:00:00 GMT")
            .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
            .body("Welcome to Amazon S3.");
        assert_eq!(signature_of(put), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    }

    #[test]
    fn published_presigned_url() {
        let get = Request::new("GET", "/test.txt").auth(Auth::Query(86_400));
        assert_eq!(signature_of(get), "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
    }

    #[test]
    fn published_chunk_signatures() {
        let chunks = |previous: &str, data: &[u8]| reference().chunk_signature(previous, data);
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let first = chunks(seed, &[b'a'; 65_536]);
        assert_eq!(first, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
        let second = chunks(&first, &[b'a'; 1024]);
        assert_eq!(second, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497");
        let last = chunks(&second, b"");
        assert_eq!(last, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9");
    }

    #[test]
    fn framed_bodies_have_the_published_shape() {
        let request = Request::new("PUT", "/k").body(vec![b'a'; 5]).payload(Payload::UnsignedChunksTrailer(
            3,
            vec![("x-amz-checksum-crc32".to_string(), "AAAAAA==".to_string())],
        ));
        let wire = reference().sign(request);
        let expected = "3\r\naaa\r\n2\r\naa\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        assert_eq!(String::from_utf8(wire.body).unwrap(), expected);
    }
}
