//! The query of a URL presigned with Signature Version 2, which the aws CLI and boto3 make for us-east-1 by default.
//!
//! Only as a query and only in us-east-1, as on AWS; the header of version 2 is refused with every other scheme.
//! Every `x-amz-*` header is signed, wherever it came from, and so is every sub-resource that chooses an operation. The
//! host, other headers, other parameters (`prefix`, `list-type`) and the body are not signed: that is how version 2 is.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, HeaderValue};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use super::canonical::Unverified;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::path::Target;
use crate::s3::request::Query;
use crate::s3::route::is_sub_resource;
use crate::s3::time::iso8601;
use crate::secrets::Secret;

/// The one region that knows version 2.
pub(super) const REGION: &str = "us-east-1";

/// The parameters that a URL has, each exactly once.
const NEEDED: [&str; 3] = ["AWSAccessKeyId", "Signature", "Expires"];

/// Parameters that are signed beside the sub-resources that choose an operation.
const SIGNED_PARAMETERS: &[&str] = &[
    "defaultObjectAcl",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "select-type",
    "storageClass",
    "versionId",
];

/// Whether the query claims to be signed. `Expires` alone claims nothing.
pub(super) fn is_presigned(query: &Query) -> bool {
    query.has("AWSAccessKeyId") || query.has("Signature")
}

/// Whether a parameter of a presigned query (its name in lower case) stands for a header.
pub(super) fn stands_for_header(lower: &str) -> bool {
    lower.starts_with("x-amz-") || lower == "content-md5" || lower == "content-type"
}

/// A signature with everything that it was made from but the secret.
#[derive(Debug)]
pub(super) struct Claim {
    pub key: String,
    /// The end of its validity, in seconds since 1970.
    expires: u64,
    signature: [u8; 20],
    /// What the client may have signed. Two texts only where both say the same.
    texts: Vec<Vec<u8>>,
}

impl Claim {
    /// Parses the parameters. Form only: nothing is believed yet.
    pub fn parse(request: &Unverified<'_>, region: &str) -> S3Result<Claim> {
        if region != REGION {
            return Err(Code::InvalidRequest.says(
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
            ));
        }
        let mut values = [""; 3];
        for (value, name) in values.iter_mut().zip(NEEDED) {
            if request.query.count(name) != 1 {
                return Err(Code::AccessDenied.says(
                    "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
                ));
            }
            *value = request.query.get(name).unwrap_or("");
        }
        let [key, signature, expires_text] = values;
        let digits = !expires_text.is_empty() && expires_text.bytes().all(|byte| byte.is_ascii_digit());
        let expires = expires_text
            .parse()
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| Code::AccessDenied.says("Invalid date (should be seconds since epoch)"))?;
        let signature = STANDARD.decode(signature).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Claim {
            key: key.to_string(),
            expires,
            signature: signature.ok_or(Code::SignatureDoesNotMatch)?,
            texts: strings_to_sign(request, expires_text)?,
        })
    }

    /// Refuses a URL whose time is over. It has no time before which it is not valid.
    pub fn check_time(&self, now_ms: u64) -> S3Result<()> {
        if now_ms / 1000 < self.expires {
            return Ok(());
        }
        Err(Code::AccessDenied
            .says("Request has expired")
            .field("Expires", iso8601(self.expires * 1000))
            .field("ServerTime", iso8601(now_ms)))
    }

    /// Whether the owner of this secret signed the request. Constant time in the signature.
    pub fn is_signed_with(&self, secret: &Secret) -> bool {
        self.texts.iter().any(|text| signs(secret, text, &self.signature))
    }
}

/// Whether a text in base64 is the signature of another text by this secret.
pub(super) fn is_signature(secret: &Secret, text: &str, claimed: &str) -> bool {
    let claimed = STANDARD.decode(claimed).ok().and_then(|bytes| bytes.try_into().ok());
    claimed.is_some_and(|claimed| signs(secret, text.as_bytes(), &claimed))
}

fn signs(secret: &Secret, text: &[u8], claimed: &[u8; 20]) -> bool {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("an HMAC takes keys of every length");
    mac.update(text);
    let right: [u8; 20] = mac.finalize().into_bytes().into();
    right.ct_eq(claimed).into()
}

/// Method, `Content-MD5`, `Content-Type`, the end, the `x-amz-*` headers and the resource.
fn strings_to_sign(request: &Unverified<'_>, expires: &str) -> S3Result<Vec<Vec<u8>>> {
    let headers = signed_headers(request)?;
    let joined = |name: &str| headers.get(name).map(|values| values.join(&b','));
    let mut start = Vec::with_capacity(512);
    let lines = [
        request.method.as_str().as_bytes().to_vec(),
        joined("content-md5").unwrap_or_default(),
        joined("content-type").unwrap_or_default(),
        expires.as_bytes().to_vec(),
    ];
    for line in lines {
        start.extend_from_slice(&line);
        start.push(b'\n');
    }
    for (name, values) in headers.iter().filter(|(name, _)| name.starts_with("x-amz-")) {
        start.extend_from_slice(name.as_bytes());
        start.push(b':');
        start.extend_from_slice(&values.join(&b','));
        start.push(b'\n');
    }
    let sub_resources = sub_resources(request.query);
    let text = |path: &str| [&start, path.as_bytes(), sub_resources.as_bytes()].concat();
    Ok(signed_paths(request).iter().map(|path| text(path)).collect())
}

/// The headers that version 2 signs, with those that the query carries instead. Where both have one, all values that
/// differ are signed: nothing that counts is left out.
///
/// Names and values of the query must be such of headers. A line feed in one could otherwise pass for two headers.
fn signed_headers<'a>(request: &Unverified<'a>) -> S3Result<BTreeMap<String, Vec<&'a [u8]>>> {
    let mut headers: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    for (name, value) in request.headers {
        if stands_for_header(name.as_str()) {
            headers.entry(name.to_string()).or_default().push(trimmed(value.as_bytes()));
        }
    }
    for (name, value) in request.query.pairs() {
        let lower = name.to_ascii_lowercase();
        if !stands_for_header(&lower) {
            continue;
        }
        if HeaderName::from_bytes(lower.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
            return Err(S3Error::argument(name, value, "The parameter cannot stand for a header."));
        }
        let values = headers.entry(lower).or_default();
        let value = trimmed(value.as_bytes());
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(headers)
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The path as sent, after the bucket that the host names. Clients sign `/bucket` of a bucket with or without a slash
/// at the end; both are the bucket.
fn signed_paths(request: &Unverified<'_>) -> Vec<String> {
    let path = match request.virtual_bucket {
        Some(bucket) => format!("/{bucket}{}", request.raw_path),
        None => request.raw_path.to_string(),
    };
    match request.path.target() {
        Target::Bucket(_) if !path.ends_with('/') => vec![format!("{path}/"), path],
        Target::Service | Target::Bucket(_) | Target::Object(..) => vec![path],
    }
}

/// The signed parameters, sorted by name, decoded, without `=` where the value is empty.
fn sub_resources(query: &Query) -> String {
    // Both listings show the same objects to the same users, and no client signs which one it is.
    let is_signed =
        |name: &str| SIGNED_PARAMETERS.contains(&name) || is_sub_resource(name) && name != "list-type";
    let mut signed: Vec<&(String, String)> =
        query.pairs().iter().filter(|(name, _)| is_signed(name)).collect();
    signed.sort_by_key(|(name, _)| name);
    let mut text = String::new();
    for (at, (name, value)) in signed.into_iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    }
    text
}

#[cfg(test)]
#[path = "presigned_v2_tests.rs"]
mod tests;
