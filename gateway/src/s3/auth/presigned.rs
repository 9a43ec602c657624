//! The query of a presigned URL.

use super::claim::{Carrier, Claim, Credential, parse_signed_headers};
use super::signature::Claimed;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::request::Query;
use crate::s3::time::parse_iso8601_basic;

/// The parameters that a presigned URL has, each exactly once.
const NEEDED: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
];

/// Longest validity: seven days.
const EXPIRES_SECONDS_MAX: u64 = 604_800;

/// Whether the query carries any of the parameters.
pub(super) fn is_presigned(query: &Query) -> bool {
    NEEDED.iter().any(|name| query.has(name))
}

/// Parses the parameters. Form only: nothing is believed yet.
pub(super) fn parse(query: &Query) -> S3Result<Claim> {
    let mut values = [""; 6];
    for (value, name) in values.iter_mut().zip(NEEDED) {
        if query.count(name) != 1 {
            let message = "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, \
                           X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters, each once.";
            return Err(Code::AuthorizationQueryParametersError.says(message));
        }
        *value = query.get(name).unwrap_or("");
    }
    let [algorithm, credential, timestamp, expires, signed_headers, signature] = values;
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(wrong("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let credential = Credential::parse(credential).map_err(wrong)?;
    let seconds = parse_iso8601_basic(timestamp)
        .ok_or_else(|| wrong("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""))?;
    if timestamp[..8] != credential.date {
        return Err(wrong("the date of X-Amz-Credential is not that of X-Amz-Date."));
    }
    let expires = parse_expires(expires)?;
    let signed_headers = parse_signed_headers(signed_headers).map_err(wrong)?;
    let signature = Claimed::parse(signature).ok_or(Code::SignatureDoesNotMatch)?;
    Ok(Claim {
        carrier: Carrier::Query,
        credential,
        signed_headers,
        signature,
        timestamp: timestamp.to_string(),
        seconds,
        expires: Some(expires),
    })
}

pub(super) fn wrong(why: &'static str) -> S3Error {
    Code::AuthorizationQueryParametersError.says(why)
}

fn parse_expires(text: &str) -> S3Result<u64> {
    if text.starts_with('-') {
        return Err(wrong("X-Amz-Expires must be non-negative"));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("X-Amz-Expires should be a number"));
    }
    text.parse()
        .ok()
        .filter(|seconds| *seconds <= EXPIRES_SECONDS_MAX)
        .ok_or_else(|| wrong("X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"))
}
