//! The canonical request of Signature Version 4, built from the parsed request and not from its text.

use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};

use crate::s3::path::CanonicalPath;
use crate::s3::request::Query;

/// A request before it is verified.
#[derive(Clone, Copy)]
pub struct Unverified<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path as sent.
    pub raw_path: &'a str,
    /// Path, decoded once.
    pub path: &'a CanonicalPath,
    /// Query, decoded once.
    pub query: &'a Query,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// The host that the request names.
    pub host: &'a str,
    /// The bucket that the host names, if it does.
    pub virtual_bucket: Option<&'a str>,
}

/// How the path stands in the canonical request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathForm {
    /// Decoded once and encoded again, as AWS does.
    Encoded,
    /// As it was sent: some clients sign that.
    Raw,
}

/// SHA-256 of the canonical request, in hex.
pub(super) fn hash(
    request: &Unverified<'_>,
    signed_headers: &[&str],
    payload: &str,
    form: PathForm,
) -> String {
    let mut text = Vec::with_capacity(1024);
    line(&mut text, request.method.as_str().as_bytes());
    match form {
        PathForm::Encoded => line(&mut text, encoded(request.path.as_str(), b"/").as_bytes()),
        PathForm::Raw => line(&mut text, request.raw_path.as_bytes()),
    }
    line(&mut text, canonical_query(request.query).as_bytes());
    for name in signed_headers {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        push_values(&mut text, request, name);
        text.push(b'\n');
    }
    text.push(b'\n');
    line(&mut text, signed_headers.join(";").as_bytes());
    text.extend_from_slice(payload.as_bytes());
    hex::encode(Sha256::digest(&text))
}

fn line(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend_from_slice(bytes);
    text.push(b'\n');
}

/// The values of a header, joined with commas; runs of blanks become one.
fn push_values(text: &mut Vec<u8>, request: &Unverified<'_>, name: &str) {
    if name == "host" {
        text.extend_from_slice(request.host.as_bytes());
        return;
    }
    for (at, value) in request.headers.get_all(name).iter().enumerate() {
        if at != 0 {
            text.push(b',');
        }
        let words =
            value.as_bytes().split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
        for (at, word) in words.enumerate() {
            if at != 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
    }
}

/// All pairs but the signature, encoded strictly and sorted by name, then value.
fn canonical_query(query: &Query) -> String {
    let mut pairs: Vec<(String, String)> = query
        .pairs()
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| (encoded(name, b""), encoded(value, b"")))
        .collect();
    pairs.sort_unstable();
    let joined: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    joined.join("&")
}

/// Percent-encodes everything but letters, digits, `-._~` and `kept`.
fn encoded(text: &str, kept: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
            continue;
        }
        out.push('%');
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
    out
}
