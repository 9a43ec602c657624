//! The `Authorization` header.

use http::HeaderMap;
use http::header::{AUTHORIZATION, DATE};

use super::claim::{Carrier, Claim, Credential, parse_signed_headers};
use super::signature::Claimed;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::request::header_text;
use crate::s3::time::{iso8601_basic, parse_http_date, parse_iso8601_basic};

/// Parses the header. Form only: nothing is believed yet.
pub(super) fn parse(headers: &HeaderMap) -> S3Result<Claim> {
    let text = header_text(headers, AUTHORIZATION.as_str())?.unwrap_or("");
    let invalid = |message: &'static str| S3Error::argument("Authorization", "", message);
    let (algorithm, rest) =
        text.split_once(' ').ok_or_else(|| invalid("Authorization header is invalid."))?;
    match algorithm {
        "AWS4-HMAC-SHA256" => {}
        "AWS" => {
            let message = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
            return Err(Code::InvalidRequest.says(message));
        }
        _ => return Err(invalid("Unsupported Authorization Type")),
    }
    let components = Components::parse(rest)?;
    let credential = Credential::parse(components.credential).map_err(malformed)?;
    let signed_headers = parse_signed_headers(components.signed_headers).map_err(malformed)?;
    let signature = Claimed::parse(components.signature)
        .ok_or_else(|| malformed("the Signature is not 64 hex digits."))?;
    let (timestamp, seconds) = request_time(headers)?;
    if timestamp[..8] != credential.date {
        return Err(malformed("the date of the Credential is not that of the request."));
    }
    Ok(Claim {
        carrier: Carrier::Header,
        credential,
        signed_headers,
        signature,
        timestamp,
        seconds,
        expires: None,
    })
}

pub(super) fn malformed(why: &'static str) -> S3Error {
    Code::AuthorizationHeaderMalformed.says(format!("The authorization header is malformed; {why}"))
}

struct Components<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Components<'a> {
    /// Three components, each once, with commas between them.
    fn parse(text: &'a str) -> S3Result<Components<'a>> {
        let mut found: [Option<&str>; 3] = [None; 3];
        for part in text.split(',') {
            let (name, value) =
                part.trim().split_once('=').ok_or_else(|| malformed("a component has no value."))?;
            let at = match name {
                "Credential" => 0,
                "SignedHeaders" => 1,
                "Signature" => 2,
                _ => return Err(malformed("it has an unknown component.")),
            };
            if found[at].replace(value).is_some() {
                return Err(malformed("a component is given twice."));
            }
        }
        let [Some(credential), Some(signed_headers), Some(signature)] = found else {
            return Err(malformed("Credential, SignedHeaders and Signature are needed."));
        };
        Ok(Components { credential, signed_headers, signature })
    }
}

/// The time of the request: `x-amz-date`, else `Date` in either form.
fn request_time(headers: &HeaderMap) -> S3Result<(String, u64)> {
    let denied = || Code::AccessDenied.says("AWS authentication requires a valid Date or x-amz-date header");
    let bytes =
        |name: &str| headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()).unwrap_or(""));
    if let Some(text) = bytes("x-amz-date") {
        let seconds = parse_iso8601_basic(text).ok_or_else(denied)?;
        return Ok((text.to_string(), seconds));
    }
    let text = bytes(DATE.as_str()).ok_or_else(denied)?;
    let seconds = parse_iso8601_basic(text).or_else(|| parse_http_date(text)).ok_or_else(denied)?;
    Ok((iso8601_basic(seconds * 1000), seconds))
}
