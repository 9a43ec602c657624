//! The query of a presigned URL.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::claim::{Carrier, Claim, Credential, parse_signed_headers};
use super::presigned_v2;
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

/// The headers of a request with those that its presigned query carries instead: SDKs move `x-amz-*` headers into
/// the query, where they are signed like every parameter; with version 2 also the two others that it signs.
///
/// Checksums in a query are passed over, as AWS does: SDKs put that of an empty body there.
pub fn with_headers_of_query<'a>(headers: &'a HeaderMap, query: &Query) -> S3Result<Cow<'a, HeaderMap>> {
    let mut all = Cow::Borrowed(headers);
    let version_2 = presigned_v2::is_presigned(query);
    if !version_2 && !is_presigned(query) {
        return Ok(all);
    }
    let stands_for_header =
        |lower: &str| lower.starts_with("x-amz-") || version_2 && presigned_v2::stands_for_header(lower);
    for (name, value) in query.pairs() {
        let lower = name.to_ascii_lowercase();
        let known = NEEDED.iter().chain(&["X-Amz-Security-Token", "X-Amz-Content-Sha256"]);
        let passed_over = known.into_iter().any(|known| known.eq_ignore_ascii_case(name))
            || lower.starts_with("x-amz-checksum-")
            || lower == "x-amz-sdk-checksum-algorithm";
        if passed_over || !stands_for_header(&lower) {
            continue;
        }
        let invalid = || S3Error::argument(name, value, "The parameter cannot stand for a header.");
        let header = HeaderName::from_bytes(lower.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?;
        match all.get(&header) {
            Some(have) if *have != value => {
                return Err(Code::InvalidRequest.says(format!("{lower} is given twice, and differs.")));
            }
            Some(_) => {}
            None => drop(all.to_mut().insert(header, value)),
        }
    }
    Ok(all)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn headers_may_stand_in_a_presigned_query() {
        let headers: HeaderMap =
            [("x-amz-acl".parse().unwrap(), "private".parse().unwrap())].into_iter().collect();
        let read = |query: &str| {
            let query = Query::parse(query).unwrap();
            let all = with_headers_of_query(&headers, &query).map_err(|error| error.code())?;
            let mut names: Vec<String> = all.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            Ok::<_, Code>(names.join(" "))
        };
        let signed = "X-Amz-Signature=x&X-Amz-Date=y&X-Amz-Content-Sha256=z";
        for (more, expected) in [
            ("", Ok("x-amz-acl")),
            (
                "&x-amz-meta-a=1&X-Amz-Storage-Class=STANDARD",
                Ok("x-amz-acl x-amz-meta-a x-amz-storage-class"),
            ),
            (
                "&x-amz-checksum-crc32=AAAAAA==&x-amz-sdk-checksum-algorithm=CRC32&x-id=PutObject",
                Ok("x-amz-acl"),
            ),
            ("&x-amz-acl=private", Ok("x-amz-acl")),
            ("&x-amz-acl=public-read", Err(Code::InvalidRequest)),
            ("&x-amz-meta-a=1&x-amz-meta-a=2", Err(Code::InvalidRequest)),
            ("&x-amz-meta-a=%0d%0ax", Err(Code::InvalidArgument)),
        ] {
            let expected = expected.map(str::to_string);
            assert_eq!(read(&format!("{signed}{more}")), expected, "{more}");
        }
        assert_eq!(read("x-amz-meta-a=1"), Ok("x-amz-acl".to_string()), "not presigned");
        let others = "content-type=a&content-md5=b&expires=c";
        assert_eq!(read(&format!("{signed}&{others}")), Ok("x-amz-acl".to_string()));
        let version_2 = read(&format!("Signature=x&{others}&x-amz-meta-a=1"));
        assert_eq!(version_2, Ok("content-md5 content-type x-amz-acl x-amz-meta-a".to_string()));
    }
}
