//! Version 2: URLs that botocore made, the table of bad ones, and changes to what was signed.

#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};
use proptest::strategy::Strategy;
use sha1::Sha1;

use crate::s3::auth::tests::{KEY, NOW, SECRET, Sent, strictly_encoded};
use crate::s3::auth::{Carrier, PayloadAuth};
use crate::s3::error::Code;

/// The end of every URL of botocore here: a day after [`NOW`].
const EXPIRES: u64 = NOW + 86_400;
const SERVICE_HOST: &str = "s3.amazonaws.com";

/// A request of botocore's `HmacV1QueryAuth`, path style; `signature` as it stands in the URL.
fn botocore(method: Method, target: &str, signature: &str) -> Sent {
    let joint = if target.contains('?') { '&' } else { '?' };
    let uri = format!("{target}{joint}AWSAccessKeyId={KEY}&Signature={signature}&Expires={EXPIRES}");
    Sent { host: SERVICE_HOST.to_string(), ..Sent::new(method, &uri, &[]) }
}

fn get() -> Sent {
    botocore(Method::GET, "/examplebucket/test.txt", "9yqNWMOTdBFkNuezE9j%2BGyrt4Z8%3D")
}

fn put() -> Sent {
    let target = "/examplebucket/test.txt?content-type=text%2Fplain&x-amz-meta-colour=light%20blue\
                  &x-amz-meta-a=b&content-md5=1B2M2Y8AsgTpgAmY7PhCfg%3D%3D";
    botocore(Method::PUT, target, "jhFk12wgeInW%2FLc5jiKLK%2BlxDLE%3D")
}

fn overridden() -> Sent {
    let target = "/examplebucket/a%20b/%C3%BC%2Bc?versionId=null\
                  &response-content-disposition=attachment%3B%20filename%3D%22a%20b.txt%22\
                  &response-content-type=text%2Fplain";
    botocore(Method::GET, target, "R0r8q74OdgeOxJaRn5zSmb6x%2Bc8%3D")
}

/// The same URL with the bucket in the host: botocore gives both the same signature.
fn virtual_host(sent: &Sent) -> Sent {
    let uri = sent.uri.replacen("/examplebucket", "", 1);
    let uri = if uri.starts_with('/') { uri } else { format!("/{uri}") };
    Sent { uri, host: format!("examplebucket.{SERVICE_HOST}"), ..sent.clone() }
}

#[test]
fn urls_of_botocore() {
    for sent in [
        get(),
        put(),
        overridden(),
        botocore(
            Method::GET,
            "/examplebucket?list-type=2&prefix=a%2F&encoding-type=url",
            "2lW0gZD2tENqd1u6vq%2B2p6%2FZnfU%3D",
        ),
        botocore(Method::POST, "/examplebucket/k?uploads", "k8XEUJH20Z0aMaCrKaFY%2FrP1Ybk%3D"),
        botocore(
            Method::PUT,
            "/examplebucket/k?uploadId=u%2B%2F%3D&partNumber=7",
            "7k%2Fs2JaYW%2FAhGGeQY2EUAEaPgNY%3D",
        ),
        botocore(Method::POST, "/examplebucket?delete", "Zvx09x33HkRiBWTRQM4Ygws%2B%2BRA%3D"),
    ] {
        for sent in [virtual_host(&sent), sent] {
            let verified = sent.verify().unwrap();
            let signer = verified.signer().unwrap();
            assert_eq!((signer.user.as_str(), signer.carrier), ("tester", Carrier::Query));
            assert!(matches!(verified.payload(), PayloadAuth::Unsigned));
        }
    }
    botocore(Method::GET, "/", "nbpw5%2BFxOJ9mYlAeUIlno%2F1oBPs%3D").verify().unwrap();
    // What stands in the query may be sent as a header too; that is how it is used with most clients.
    put().with("content-type", "text/plain").with("x-amz-meta-colour", " light blue ").verify().unwrap();
}

#[test]
fn bad_urls() {
    let changed = |from: &str, to: &str| Sent { uri: get().uri.replacen(from, to, 1), ..get() };
    let added = |parameter: &str| Sent { uri: format!("{}&{parameter}", get().uri), ..get() };
    let mismatch = Code::SignatureDoesNotMatch;
    for (sent, code) in [
        (changed("AWSAccessKeyId=", "ignored="), Code::AccessDenied),
        (changed("Signature=", "ignored="), Code::AccessDenied),
        (changed("Expires=", "ignored="), Code::AccessDenied),
        (added("Expires=1369440000"), Code::AccessDenied),
        (added("Signature=a"), Code::AccessDenied),
        (added("AWSAccessKeyId=a"), Code::AccessDenied),
        (changed("1369440000", ""), Code::AccessDenied),
        (changed("1369440000", "abc"), Code::AccessDenied),
        (changed("1369440000", "-1"), Code::AccessDenied),
        (changed("1369440000", "%2B1369440000"), Code::AccessDenied),
        (changed("1369440000", &"9".repeat(30)), Code::AccessDenied),
        (changed("1369440000", "1369440001"), mismatch),
        (changed("1369440000", "01369440000"), mismatch),
        (changed("1369440000", "18446744073709551615"), mismatch),
        (changed("9yqN", ""), mismatch),
        (changed("9yqN", "!!!!"), mismatch),
        (changed("9yqN", "9yqO"), mismatch),
        (changed("%3D", ""), mismatch),
        (changed(KEY, "AKIAUNKNOWN"), Code::InvalidAccessKeyId),
        (changed(KEY, &KEY.to_lowercase()), Code::InvalidAccessKeyId),
        (changed(KEY, "EMPTYSECRET"), Code::InvalidAccessKeyId),
        (changed(KEY, ""), Code::InvalidAccessKeyId),
        (changed("test.txt", "test2.txt"), mismatch),
        (changed("examplebucket", "otherbucket"), mismatch),
        (added("x-amz-security-token=t"), Code::InvalidToken),
        (added("X-Amz-Security-Token=t"), Code::InvalidToken),
        (get().with("x-amz-security-token", "t"), Code::InvalidToken),
        (added("X-Amz-Algorithm=AWS4-HMAC-SHA256"), Code::InvalidArgument),
        (get().with("authorization", "AWS key:signature"), Code::InvalidArgument),
        (get().with("authorization", "AWS4-HMAC-SHA256 a"), Code::InvalidArgument),
        (added("versionId=null"), mismatch),
        (added("response-content-type=text%2Fhtml"), mismatch),
        (added("acl"), mismatch),
        (added("attributes"), mismatch),
        (added("renameObject"), mismatch),
        (added("x-amz-acl=public-read"), mismatch),
        (added("X-Amz-Meta-A=b"), mismatch),
        (added("Content-Type=a"), mismatch),
        (added("x-amz-checksum-crc32=a%0Ax-amz-meta-a:b"), Code::InvalidArgument),
        (added("x-amz-a%20b=c"), Code::InvalidArgument),
        (get().with("x-amz-acl", "public-read"), mismatch),
        (get().with("x-amz-copy-source", "/a/b"), mismatch),
        (get().with("x-amz-checksum-mode", "ENABLED"), mismatch),
        (get().with("content-type", "text/html"), mismatch),
        (get().with("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="), mismatch),
        (get().with("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), mismatch),
        (get().with("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), Code::InvalidRequest),
        (put().with("content-type", "text/html"), mismatch),
        (put().with("x-amz-meta-a", "c"), mismatch),
        (Sent { method: Method::PUT, ..get() }, mismatch),
        (Sent { method: Method::HEAD, ..get() }, mismatch),
        (Sent { region: "eu-west-1", ..get() }, Code::InvalidRequest),
    ] {
        let error = sent.verify().unwrap_err();
        assert_eq!(error.code(), code, "{sent:?}");
        let document = error.document("", "", "");
        assert!(!document.contains(SECRET) && !document.contains("yqNWMOTdBFkNuezE9j"), "{document}");
    }
    let mut twice = put().with("content-type", "text/plain");
    twice.headers.push(("content-type".to_string(), "text/plain".to_string()));
    assert_eq!(twice.code(), Code::InvalidRequest);
}

/// Version 2 signs nothing else: who holds a URL of a listing chooses the page. Known, and the same on AWS.
#[test]
fn other_parameters_and_headers_are_free() {
    Sent { uri: format!("{}&x-id=GetObject&prefix=a", get().uri), ..get() }.verify().unwrap();
    get().with("range", "bytes=0-1").with("if-match", "a").verify().unwrap();
}

#[test]
fn urls_end() {
    let at = |now: u64| Sent { now, ..get() };
    at(0).verify().unwrap();
    at(EXPIRES - 1).verify().unwrap();
    for now in [EXPIRES, EXPIRES + 1] {
        let error = at(now).verify().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::AccessDenied, "Request has expired"));
        assert!(error.document("", "", "").contains("<Expires>2013-05-25T00:00:00.000Z</Expires>"));
    }
}

/// Signs as the documentation says, written a second time and in another way than the code under test.
fn signed(mut sent: Sent, key: &str, sub_resource: &str, expires: u64) -> Sent {
    let of = |name: &str| {
        let found = sent.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.trim().to_string()).unwrap_or_default()
    };
    let mut amz: Vec<String> = sent
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-amz-"))
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    amz.sort_unstable();
    let path = sent.uri.split('?').next().unwrap();
    let query = if sub_resource.is_empty() { String::new() } else { format!("?{sub_resource}") };
    let text = format!(
        "{}\n{}\n{}\n{expires}\n{}/examplebucket{path}{query}",
        sent.method,
        of("content-md5"),
        of("content-type"),
        amz.concat()
    );
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    let signature = strictly_encoded(&STANDARD.encode(mac.finalize().into_bytes()));
    let joint = if sent.uri.contains('?') { '&' } else { '?' };
    sent.uri = format!("{}{joint}Signature={signature}&Expires={expires}&AWSAccessKeyId={key}", sent.uri);
    sent
}

fn any_signed() -> impl Strategy<Value = Sent> {
    let method = prop_oneof![Just(Method::GET), Just(Method::PUT), Just(Method::DELETE), Just(Method::POST)];
    let sub_resource =
        prop_oneof![Just(""), Just("uploads"), Just("partNumber=7&uploadId=a"), Just("versionId=x")];
    let metadata = proptest::collection::vec("[!-~]{1,10}( {1,3}[!-~]{1,5})?", 1..3);
    let parts = (method, "[^\\x00]{1,30}", sub_resource, metadata, any::<bool>(), 1..1_000_000_u64);
    parts.prop_map(|(method, key, sub_resource, metadata, typed, seconds)| {
        let slashed: Vec<String> = key.split('/').map(strictly_encoded).collect();
        let joint = if sub_resource.is_empty() { "" } else { "?" };
        let mut sent = Sent::new(method, &format!("/{}{joint}{sub_resource}", slashed.join("/")), &[]);
        for (at, value) in metadata.iter().enumerate() {
            sent.set(&format!("x-amz-meta-{at}"), value);
        }
        if typed {
            sent.set("content-type", "text/plain; charset=utf-8");
        }
        signed(sent, KEY, sub_resource, NOW + seconds)
    })
}

/// Each changes something that was signed.
fn mutate(sent: &mut Sent, how: usize) {
    match how {
        0 => sent.method = Method::HEAD,
        1 => sent.uri.insert(1, 'x'),
        2 => sent.uri.push_str("&response-expires=0"),
        3 => sent.host.insert(0, 'x'),
        4 => sent.set("x-amz-meta-added", "1"),
        5 => sent.now += 1_000_000,
        6 => sent.headers.retain(|(name, _)| name != "x-amz-meta-0"),
        7 => sent.set("x-amz-meta-0", "other than any that is made"),
        8 => sent.set("content-type", "text/html"),
        9 => sent.set("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        10 => sent.uri.push_str("&content-md5=a"),
        11 => sent.uri = sent.uri.replacen("Expires=", "Expires=1", 1),
        12 => sent.uri.push_str("&tagging"),
        _ => {
            let at = sent.uri.find("Signature=").unwrap() + "Signature=".len();
            let flipped = if sent.uri.as_bytes()[at] == b'0' { "1" } else { "0" };
            // The first character may be an encoded one; then its encoding breaks, and the request is refused too.
            sent.uri.replace_range(at..=at, flipped);
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_signed_is_accepted_and_nothing_else(sent in any_signed(), how in 0..14_usize) {
        let verified = sent.verify();
        prop_assert!(verified.is_ok(), "{verified:?} {sent:?}");
        let mut sent = sent;
        mutate(&mut sent, how);
        let error = sent.verify();
        prop_assert!(error.as_ref().is_err_and(|error| error.code().status().is_client_error()), "{error:?} {sent:?}");
    }
}
