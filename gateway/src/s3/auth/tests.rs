//! Signatures: AWS's published examples, the tables of bad input, and AWS's own signer as an oracle.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use consensus::meta::names::{AccessKeyId, UserName};
use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy;

use super::signature::EMPTY_SHA256;
use super::{Carrier, Keys, PayloadAuth, SigningKeys, Unverified, Verified, Verifier, verify};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::path::{CanonicalPath, virtual_bucket};
use crate::s3::request::Query;
use crate::secrets::Secret;

pub const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 2013-05-24T00:00:00Z, the time of AWS's examples.
pub const NOW: u64 = 1_369_353_600;
const HOST: &str = "examplebucket.s3.amazonaws.com";
const SCOPE: &str = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

/// One user, `tester`, with AWS's example key.
pub struct OneKey;

#[async_trait]
impl Keys for OneKey {
    async fn secret(&self, id: &AccessKeyId) -> S3Result<Option<(UserName, Secret)>> {
        Ok(match id.as_str() {
            KEY => Some(("tester".parse().unwrap(), Secret::new(SECRET.to_string()))),
            "EMPTYSECRET" => Some(("nobody".parse().unwrap(), Secret::new(String::new()))),
            _ => None,
        })
    }
}

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub struct Sent {
    pub method: Method,
    pub uri: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
    /// Seconds since 1970.
    pub now: u64,
    /// Of the gateway.
    pub region: &'static str,
}

impl Sent {
    pub fn new(method: Method, uri: &str, headers: &[(&str, &str)]) -> Sent {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Sent { method, uri: uri.to_string(), host: HOST.to_string(), headers, now: NOW, region: "us-east-1" }
    }

    fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(have, _)| have != name);
        self.headers.push((name.to_string(), value.to_string()));
    }

    pub fn with(mut self, name: &str, value: &str) -> Sent {
        self.set(name, value);
        self
    }

    pub fn verify(&self) -> S3Result<Verified> {
        let (raw_path, query) = self.uri.split_once('?').unwrap_or((&self.uri, ""));
        let bucket = virtual_bucket(&self.host, Some("s3.amazonaws.com"));
        let path = CanonicalPath::parse(raw_path, bucket)?;
        let query = Query::parse(query)?;
        let headers = self.header_map();
        let request = Unverified {
            method: &self.method,
            raw_path,
            path: &path,
            query: &query,
            headers: &headers,
            host: &self.host,
            virtual_bucket: bucket,
        };
        let verifier = Verifier { region: self.region, other_region: None, now_ms: self.now * 1000 };
        futures::executor::block_on(verify(request, verifier, &OneKey, &SigningKeys::default()))
    }

    pub fn code(&self) -> Code {
        self.verify().unwrap_err().code()
    }
}

fn authorization(signed: &str, signature: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders={signed},Signature={signature}")
}

/// GET of a range of `test.txt`, the first example of AWS's documentation.
fn example() -> Sent {
    Sent::new(
        Method::GET,
        "/test.txt",
        &[
            ("range", "bytes=0-9"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-content-sha256", EMPTY_SHA256),
            (
                "authorization",
                &authorization(
                    "host;range;x-amz-content-sha256;x-amz-date",
                    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
                ),
            ),
        ],
    )
}

fn presigned_example() -> Sent {
    let credential = SCOPE.replace('/', "%2F");
    let uri = format!(
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date=20130524T000000Z\
         &X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
    Sent::new(Method::GET, &uri, &[])
}

#[test]
fn aws_examples_in_the_header() {
    let verified = example().verify().unwrap();
    let signer = verified.signer().unwrap();
    assert_eq!((signer.user.as_str(), signer.carrier), ("tester", Carrier::Header));
    assert!(matches!(verified.payload(), PayloadAuth::Exact(_)));
    let put = Sent::new(
        Method::PUT,
        "/test%24file.text",
        &[
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
            (
                "authorization",
                &authorization(
                    "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
                ),
            ),
        ],
    );
    put.verify().unwrap();
    for (query, signature) in [
        ("?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ("?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let get = Sent::new(
            Method::GET,
            &format!("/{query}"),
            &[
                ("x-amz-date", "20130524T000000Z"),
                ("x-amz-content-sha256", EMPTY_SHA256),
                ("authorization", &authorization("host;x-amz-content-sha256;x-amz-date", signature)),
            ],
        );
        get.verify().unwrap();
    }
}

#[test]
fn aws_example_of_a_chunked_upload() {
    let mut put = Sent::new(
        Method::PUT,
        "/examplebucket/chunkObject.txt",
        &[
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ("content-encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("content-length", "66824"),
            (
                "authorization",
                &authorization(
                    "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
                    "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
                ),
            ),
        ],
    );
    put.host = "s3.amazonaws.com".to_string();
    let verified = put.verify().unwrap();
    let PayloadAuth::SignedChunks(signer) = verified.payload() else {
        unreachable!("the mode is that of signed chunks");
    };
    let sha256 = <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(vec![b'a'; 65_536]));
    signer.clone().chunk("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", sha256).unwrap();
}

#[test]
fn aws_example_of_a_presigned_url() {
    let verified = presigned_example().verify().unwrap();
    assert_eq!(verified.signer().unwrap().carrier, Carrier::Query);
    assert!(matches!(verified.payload(), PayloadAuth::Unsigned));
}

#[test]
fn bad_authorization_headers() {
    let right = example().headers[3].1.clone();
    let signature = right.rsplit('=').next().unwrap().to_string();
    let replaced = |from: &str, to: &str| right.replacen(from, to, 1);
    let malformed = Code::AuthorizationHeaderMalformed;
    for (value, code) in [
        ("garbage".to_string(), Code::InvalidArgument),
        ("gar bage rest".to_string(), Code::InvalidArgument),
        ("AWS key:signature".to_string(), Code::InvalidRequest),
        (replaced("AWS4-HMAC-SHA256", "AWS2-HMAC-SHA1"), Code::InvalidArgument),
        (replaced("AWS4-HMAC-SHA256", "none"), Code::InvalidArgument),
        (replaced("Credential", "Credentials"), malformed),
        (replaced(&format!(",Signature={signature}"), ""), malformed),
        (replaced("SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,", ""), malformed),
        (format!("{right},Signature={signature}"), malformed),
        (replaced("/us-east-1/", "/"), malformed),
        (replaced("AKIA", "AKIA/"), malformed),
        (replaced("aws4_request", "aws5_request"), malformed),
        (replaced("/s3/", "/ec2/"), malformed),
        (replaced("us-east-1", "eu-west-1"), malformed),
        (replaced("20130524/", "20130523/"), malformed),
        (replaced("20130524/", "2013-5-4/"), malformed),
        (replaced(&signature, ""), malformed),
        (replaced(&signature, &signature[1..]), malformed),
        (replaced(&signature, &"zz".repeat(32)), malformed),
        (replaced("f0e8", "f0e9"), Code::SignatureDoesNotMatch),
        (replaced("host;range", "host"), Code::SignatureDoesNotMatch),
        (replaced("host;", ""), Code::AccessDenied),
        (replaced(";x-amz-date", ""), Code::AccessDenied),
        (replaced("host;range", "host;host"), malformed),
        (replaced(KEY, "AKIAUNKNOWN"), Code::InvalidAccessKeyId),
        (replaced(KEY, &KEY.to_lowercase()), Code::InvalidAccessKeyId),
        (replaced(KEY, "EMPTYSECRET"), Code::InvalidAccessKeyId),
        (replaced(KEY, "?"), Code::InvalidAccessKeyId),
    ] {
        assert_eq!(example().with("authorization", &value).code(), code, "{value}");
    }
    let error = example().with("authorization", &replaced("us-east-1", "eu-west-1")).verify().unwrap_err();
    assert!(error.document("", "", "").contains("<Region>us-east-1</Region>"));
}

#[test]
fn bad_requests_around_a_good_header() {
    let mut table: Vec<(Sent, Code)> = Vec::new();
    let mut without = |name: &str, code: Code| {
        let mut sent = example();
        sent.headers.retain(|(have, _)| have != name);
        table.push((sent, code));
    };
    without("x-amz-date", Code::AccessDenied);
    without("x-amz-content-sha256", Code::InvalidRequest);
    for date in ["x", "20131324T000000Z", "99991231T235959Z", ""] {
        table.push((example().with("x-amz-date", date), Code::AccessDenied));
    }
    for digest in
        ["", "x", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "unsigned-payload", &EMPTY_SHA256[1..]]
    {
        table.push((example().with("x-amz-content-sha256", digest), Code::InvalidArgument));
    }
    for (name, value) in [
        ("x-amz-acl", "public-read"),
        ("x-amz-meta-a", "b"),
        ("x-amz-copy-source", "/a/b"),
        ("x-amz-checksum-mode", "ENABLED"),
    ] {
        table.push((example().with(name, value), Code::AccessDenied));
    }
    for name in ["x-amz-date", "authorization", "x-amz-content-sha256"] {
        let mut sent = example();
        let value = sent.headers.iter().find(|(have, _)| have == name).unwrap().clone();
        sent.headers.push(value);
        table.push((sent, Code::InvalidRequest));
    }
    table.push((example().with("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), Code::SignatureDoesNotMatch));
    table.push((example().with("range", "bytes=0-8"), Code::SignatureDoesNotMatch));
    let mut token = example().with("x-amz-security-token", "t");
    let signed = token.headers[3].1.replace(";x-amz-date", ";x-amz-date;x-amz-security-token");
    token.set("authorization", &signed);
    table.push((token, Code::InvalidToken));
    for (seconds, late) in [(-901_i64, true), (901, true), (-900, false), (899, false)] {
        let mut sent = example();
        sent.now = NOW.saturating_add_signed(seconds);
        match late {
            true => table.push((sent, Code::RequestTimeTooSkewed)),
            false => drop(sent.verify().unwrap()),
        }
    }
    let mut both = example();
    both.uri = presigned_example().uri;
    table.push((both, Code::InvalidArgument));
    let anonymous = Sent::new(Method::PUT, "/a", &[]);
    let mut bare = example();
    bare.headers.retain(|(name, _)| name != "authorization");
    for unsigned in [anonymous.clone(), bare] {
        assert!(unsigned.verify().unwrap().signer().is_none());
    }
    let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    table.push((anonymous.clone().with("x-amz-content-sha256", streaming), Code::InvalidRequest));
    for (sent, code) in table {
        let error = sent.verify().unwrap_err();
        assert_eq!(error.code(), code, "{sent:?}");
        assert_reveals_nothing(&error);
    }
}

/// The words for the client contain neither the secret nor the right signature.
fn assert_reveals_nothing(error: &S3Error) {
    let document = error.document("", "", "");
    assert!(!document.contains(SECRET) && !document.contains("f0e8bdb87c9644"), "{document}");
}

#[test]
fn bad_presigned_urls() {
    let right = presigned_example().uri;
    let replaced = |from: &str, to: &str| right.replacen(from, to, 1);
    let wrong = Code::AuthorizationQueryParametersError;
    let mut table = vec![
        (replaced("86400", "604801"), wrong),
        (replaced("86400", "9223372036854775808"), wrong),
        (replaced("86400", &"9".repeat(30)), wrong),
        (replaced("86400", "-1"), wrong),
        (replaced("86400", "abc"), wrong),
        (replaced("86400", ""), wrong),
        (replaced("86400", "0"), Code::AccessDenied),
        (replaced("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), wrong),
        (replaced("us-east-1", "eu-west-1"), wrong),
        (replaced("20130524T000000Z", "20130524"), wrong),
        (format!("{right}&X-Amz-Signature=aeeed9"), wrong),
        (format!("{right}&X-Amz-Expires=86400"), wrong),
        (format!("{right}&versionId=null"), Code::SignatureDoesNotMatch),
        (format!("{right}&response-content-type=a"), Code::SignatureDoesNotMatch),
        (format!("{right}&X-Amz-Security-Token=t"), Code::InvalidToken),
        (replaced("/test.txt", "/test2.txt"), Code::SignatureDoesNotMatch),
        (replaced("=aeee", "=aeef"), Code::SignatureDoesNotMatch),
        (replaced(KEY, "AKIAREVOKED"), Code::InvalidAccessKeyId),
        (replaced("SignedHeaders=host", "SignedHeaders=range"), Code::AccessDenied),
    ];
    for name in ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"] {
        table.push((replaced(&format!("X-Amz-{name}="), "ignored="), wrong));
    }
    for (uri, code) in table {
        let sent = Sent { uri, ..presigned_example() };
        assert_eq!(sent.code(), code, "{}", sent.uri);
    }
    let at = |now: u64| Sent { now, ..presigned_example() };
    at(NOW + 86_399).verify().unwrap();
    at(NOW - 900).verify().unwrap();
    assert_eq!(at(NOW + 86_400).code(), Code::AccessDenied);
    assert_eq!(at(NOW - 901).code(), Code::AccessDenied);
    assert_eq!(Sent { method: Method::PUT, ..presigned_example() }.code(), Code::SignatureDoesNotMatch);
    assert_eq!(presigned_example().with("x-amz-acl", "public-read").code(), Code::AccessDenied);
    presigned_example().with("x-amz-checksum-mode", "ENABLED").verify().unwrap();
    // Credentials in the query do not lift the check of the signature for any payload mode.
    let streaming = presigned_example().with("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    assert_eq!(streaming.code(), Code::AccessDenied);
    let signed = streaming.uri.replace("SignedHeaders=host", "SignedHeaders=host%3Bx-amz-content-sha256");
    assert_eq!(Sent { uri: signed, ..streaming }.code(), Code::SignatureDoesNotMatch);
}

/// What the signer of AWS makes of a request.
pub fn signed(mut sent: Sent, location: SignatureLocation, body: SignableBody<'_>) -> Sent {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = match location {
        SignatureLocation::Headers => PayloadChecksumKind::XAmzSha256,
        _ => PayloadChecksumKind::NoHeader,
    };
    settings.expires_in = (location == SignatureLocation::QueryParams).then_some(Duration::from_secs(300));
    settings.signature_location = location;
    let identity = Credentials::new(KEY, SECRET, None, None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(UNIX_EPOCH + Duration::from_secs(sent.now))
        .settings(settings)
        .build()
        .unwrap();
    let url = format!("http://{}{}", sent.host, sent.uri);
    let headers: Vec<(String, String)> = sent.headers.clone();
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let request = SignableRequest::new(sent.method.as_str(), url.as_str(), pairs, body).unwrap();
    let (instructions, _) = sign(request, &params.into()).unwrap().into_parts();
    for (name, value) in instructions.headers() {
        sent.set(name, value);
    }
    for (name, value) in instructions.params() {
        let joint = if sent.uri.contains('?') { '&' } else { '?' };
        sent.uri.push_str(&format!("{joint}{name}={}", strictly_encoded(value)));
    }
    sent
}

pub fn strictly_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Encoded as a client that leaves what a path may contain as it is.
fn loosely_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ if b"-._~!$&'()*,;=:@/+".contains(&byte) => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn any_request() -> impl Strategy<Value = Sent> {
    let method = prop_oneof![Just(Method::GET), Just(Method::PUT), Just(Method::DELETE), Just(Method::POST)];
    let key = "[^\\x00]{1,30}";
    let query = proptest::collection::vec(("[a-zA-Z -~é]{1,8}", "[^\\x00]{0,8}"), 0..4);
    let metadata = proptest::collection::vec("[!-~]{1,10}( {1,3}[!-~]{1,5})?", 0..3);
    (method, key, any::<bool>(), query, metadata).prop_map(|(method, key, strict, query, metadata)| {
        let slashed: Vec<String> = key.split('/').map(strictly_encoded).collect();
        let path = if strict { slashed.join("/") } else { loosely_encoded(&key) };
        let pairs: Vec<String> = query
            .iter()
            .filter(|(name, _)| !name.starts_with("X-Amz"))
            .map(|(name, value)| format!("{}={}", strictly_encoded(name), strictly_encoded(value)))
            .collect();
        let joint = if pairs.is_empty() { "" } else { "?" };
        let mut sent = Sent::new(method, &format!("/{path}{joint}{}", pairs.join("&")), &[("host", HOST)]);
        for (at, value) in metadata.iter().enumerate() {
            sent.set(&format!("x-amz-meta-{at}"), value);
        }
        sent
    })
}

/// Each changes something that was signed. Returns false where the change would change nothing.
fn mutate(sent: &mut Sent, how: usize) -> bool {
    match how {
        0 => sent.method = Method::HEAD,
        1 => sent.uri.insert(1, 'x'),
        2 => sent.uri.push_str(if sent.uri.contains('?') { "&versionId=null" } else { "?versionId=null" }),
        3 => sent.host.insert(0, 'x'),
        4 => sent.set("x-amz-meta-added", "1"),
        5 => sent.now += 7 * 86_400 + 901,
        6 => {
            let place = sent.headers.iter_mut().find(|(name, _)| name == "x-amz-meta-0");
            match place {
                Some((_, value)) => value.push('x'),
                None => return false,
            }
        }
        _ => {
            let change = |text: &mut String| {
                let at = text.find("Signature=").unwrap() + "Signature=".len();
                let flipped = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
                text.replace_range(at..=at, flipped);
            };
            match sent.headers.iter_mut().find(|(name, _)| name == "authorization") {
                Some((_, value)) => change(value),
                None => change(&mut sent.uri),
            }
        }
    }
    true
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_aws_signs_is_accepted_and_nothing_else(request in any_request(), mode in 0..3_usize, how in 0..8_usize) {
        let (location, body) = match mode {
            0 => (SignatureLocation::Headers, SignableBody::Bytes(b"abc")),
            1 => (SignatureLocation::Headers, SignableBody::UnsignedPayload),
            _ => (SignatureLocation::QueryParams, SignableBody::UnsignedPayload),
        };
        let mut sent = signed(request, location, body);
        let verified = sent.verify();
        prop_assert!(verified.is_ok(), "{verified:?} {sent:?}");
        if mutate(&mut sent, how) {
            let error = sent.verify().unwrap_err();
            prop_assert_eq!(error.code().status().is_client_error(), true, "{} {:?}", error, sent);
        }
    }
}
