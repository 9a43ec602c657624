//! A request as operations see it: parsed once, verified, its body still to come.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use consensus::meta::names::{BucketName, ObjectKey};
use fabric::limits::CONFIGURATION_BYTES_MAX;
use http::{HeaderMap, Method};

use super::auth::Verified;
use super::error::{Code, S3Error, S3Result};
use super::form::Reply;
use super::path::percent_decoded;
use super::payload::Payload;

/// A verified request. It cannot be made without a [`Verified`], and that not without a signature.
pub struct Request {
    pub(super) method: Method,
    pub(super) bucket: Option<BucketName>,
    pub(super) key: Option<ObjectKey>,
    pub(super) query: Arc<Query>,
    pub(super) headers: Arc<HeaderMap>,
    pub(super) payload: Payload,
    pub(super) verified: Verified,
    pub(super) request_id: Arc<str>,
    pub(super) source: IpAddr,
    pub(super) secure: bool,
    pub(super) reply: Option<Reply>,
    pub(super) may_carry_keys: bool,
}

impl Request {
    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The bucket of the path. Only for operations routed at a bucket or an object.
    pub fn bucket_name(&self) -> &BucketName {
        self.bucket.as_ref().expect("the router gives paths with a bucket to bucket and object routes only")
    }

    /// The key of the path. Only for operations routed at an object.
    pub fn key(&self) -> &ObjectKey {
        self.key.as_ref().expect("the router gives paths with a key to object routes only")
    }

    /// The query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The headers as sent. Those that S3 knows occur once.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header as text, trimmed.
    pub fn header(&self, name: &str) -> S3Result<Option<&str>> {
        header_text(&self.headers, name)
    }

    /// Who asks and how it was proved.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The id in every log line and answer of this request.
    pub fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// The address of the client.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Whether it came over TLS.
    pub fn secure(&self) -> bool {
        self.secure
    }

    /// Whether nobody on the way sees what is in its headers: it came over TLS, or from this machine, or who runs the
    /// gateway said so.
    pub fn may_carry_keys(&self) -> bool {
        self.may_carry_keys
    }

    /// Bytes of the decoded body. Operations whose rule is [`super::BodyRule::Object`] always have a length.
    pub fn content_length(&self) -> S3Result<u64> {
        self.payload.length().ok_or_else(|| Code::MissingContentLength.into())
    }

    /// How the sender of a form wants its answer; only once.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.reply.take()
    }

    /// The body. It is complete and verified only when [`Payload::next`] returned `None`.
    pub fn payload_mut(&mut self) -> &mut Payload {
        &mut self.payload
    }

    /// Takes the request apart where the body outlives it.
    pub fn into_payload(self) -> Payload {
        self.payload
    }

    /// Reads and verifies a whole document; longer ones are refused.
    pub async fn document(&mut self, bytes_max: usize) -> S3Result<Bytes> {
        self.payload.collect(bytes_max).await
    }

    /// The whole body, where that is a configuration: the client proves it, and it is not empty.
    pub async fn configuration(&mut self) -> S3Result<Bytes> {
        if !self.payload.has_integrity() {
            return Err(Code::InvalidRequest
                .says("Missing required header for this request: Content-MD5 OR x-amz-checksum-*"));
        }
        let body = self.document(CONFIGURATION_BYTES_MAX).await?;
        if body.is_empty() { Err(Code::MissingRequestBodyError.into()) } else { Ok(body) }
    }
}

/// A header as text, trimmed. Bytes that are not UTF-8 are refused.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> S3Result<Option<&'a str>> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| S3Error::argument(name, "", format!("The header {name} is not UTF-8.")))?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

/// The query, decoded once, in the order sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// More parameters than any operation has; bounds the work of sorting and matching.
const PAIRS_MAX: usize = 128;

impl Query {
    /// Splits on raw `&` and `=`, then decodes. A `+` is a space, as S3 reads it.
    pub fn parse(raw: &str) -> S3Result<Query> {
        let mut pairs = Vec::new();
        for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            pairs.push((decoded(name)?, decoded(value)?));
        }
        if PAIRS_MAX < pairs.len() {
            return Err(Code::InvalidURI.says("The query has too many parameters."));
        }
        Ok(Query { pairs })
    }

    /// The value of a parameter; the first one where it was sent more than once (the dispatcher refuses that for
    /// every parameter that means something).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter unless it is empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The value of a parameter that stands for a header, whose name has no case.
    pub fn as_header(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How often the parameter is there.
    pub fn count(&self, name: &str) -> usize {
        self.pairs.iter().filter(|(have, _)| have == name).count()
    }

    /// A number within bounds, or 400 InvalidArgument.
    pub fn number(&self, name: &str, least: u64, most: u64) -> S3Result<Option<u64>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(number) if digits && (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(S3Error::argument(
                name,
                text,
                format!("Argument {name} must be an integer between {least} and {most}"),
            )),
        }
    }

    /// All pairs in the order sent.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

fn decoded(text: &str) -> S3Result<String> {
    let spaced = text.replace('+', " ");
    String::from_utf8(percent_decoded(spaced.as_bytes())?)
        .map_err(|_| Code::InvalidURI.says("The query is not UTF-8."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn query_is_decoded_once() {
        let query = Query::parse("a=1&b=%252e&c&&d=x+y%2B=z&a=2").unwrap();
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.count("a"), 2);
        assert_eq!(query.get("b"), Some("%2e"));
        assert_eq!(query.get("c"), Some(""));
        assert_eq!(query.get("d"), Some("x y+=z"));
        for bad in ["a=%", "a=%zz", "%2=1", "a=%ff"] {
            assert_eq!(Query::parse(bad).unwrap_err().code(), Code::InvalidURI, "{bad}");
        }
        assert!(Query::parse(&"a&".repeat(129)).is_err());
    }

    #[test]
    fn numbers_are_plain_digits_within_bounds() {
        for (text, expected) in [
            ("n=0", Some(0)),
            ("n=007", Some(7)),
            ("n=2147483647", Some(2_147_483_647)),
            ("n=2147483648", None),
            ("n=-1", None),
            ("n=%2B1", None),
            ("n=", None),
            ("n=abc", None),
            ("n=99999999999999999999999", None),
        ] {
            let got = Query::parse(text).unwrap().number("n", 0, 2_147_483_647);
            match expected {
                Some(number) => assert_eq!(got.unwrap(), Some(number), "{text}"),
                None => assert_eq!(got.unwrap_err().code(), Code::InvalidArgument, "{text}"),
            }
        }
    }
}
