//! The source of a copy that is in another cluster: it is read there as any client would, with a signature of the
//! requester, whose key is known here. So its home decides what the requester may read.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use consensus::meta::command::VersionSelector;
use consensus::meta::model::{Attributes, Tags};
use consensus::meta::names::BucketName;
use consensus::meta::query::{Answer, Query};
use fabric::limits::{KIB, PUT_BYTES_MAX};
use futures::StreamExt as _;
use http::header::{AUTHORIZATION, CONTENT_RANGE, HOST, RANGE, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::escape::unescape;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::auth::{EMPTY_SHA256, SigningKey};
use super::copying::Source;
use super::error::{Code, S3Error, S3Result};
use super::federation::home_of;
use super::op::{Context, unexpected};
use super::request::header_text;
use super::response::{Response, ResponseBody};
use super::time::iso8601_basic;
use super::xml::tagging;
use super::{headers, range, tags, versions};
use crate::overlay::arriving::{Arriving, PATIENCE};
use crate::overlay::forward::{Kind, Onward, body_of, forward};
use crate::overlay::link::Link;

/// The host that requests name: there is none.
const NOBODY: &str = "overlay";
/// What is left as it is in paths.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// Documents are not longer.
const DOCUMENT_BYTES_MAX: usize = 64 * KIB as usize;

const VERSION_ID: &str = "x-amz-version-id";
const OF_SOURCE: &str = "x-amz-copy-source-";
const RANGE_OF_SOURCE: &str = "x-amz-copy-source-range";
const CUSTOMER_KEY: &str = "server-side-encryption-customer-";

/// Where the source is.
pub struct Afar<'a> {
    cx: &'a Context,
    source: &'a Source,
    link: Arc<Link>,
    /// As its home calls it.
    bucket: BucketName,
}

/// A source, or a part of it, that is on its way here.
pub struct Fetched {
    /// Bytes that come.
    pub bytes: u64,
    /// What its headers say of it, and its tags where they were asked for.
    pub attributes: Attributes,
    /// Where versions are visible.
    version: Option<HeaderValue>,
    /// The bytes.
    pub body: Arriving,
}

impl Fetched {
    /// Adds `x-amz-copy-source-version-id`.
    pub fn show(&self, mut response: Response) -> Response {
        if let Some(version) = &self.version {
            let name = HeaderName::from_static("x-amz-copy-source-version-id");
            response.headers.insert(name, version.clone());
        }
        response
    }
}

impl<'a> Afar<'a> {
    /// `None`: the bucket of the source is here, or nowhere.
    pub async fn find(cx: &'a Context, source: &'a Source) -> S3Result<Option<Afar<'a>>> {
        let Some(overlay) = cx.others() else { return Ok(None) };
        match cx.ask(Query::Bucket(source.bucket.clone())).await? {
            Answer::Bucket(None) => {}
            Answer::Bucket(Some(_)) => return Ok(None),
            _ => return Err(unexpected("Bucket")),
        }
        let home = home_of(overlay, &source.bucket).await?;
        Ok(home.map(|(link, bucket)| Afar { cx, source, link, bucket }))
    }

    /// Begins to read the source for a copy with these headers.
    pub async fn fetch(&self, copy: &HeaderMap, with_tags: bool) -> S3Result<Fetched> {
        let answer = self.ask("", self.source.version, asked_of_source(copy)?).await?;
        let (bytes, stream) = match answer.body {
            ResponseBody::Empty => (0, futures::stream::empty().boxed()),
            ResponseBody::Stream { bytes, stream } => (bytes, stream),
            ResponseBody::Bytes(_) | ResponseBody::Open(_) => {
                return Err(Code::ServiceUnavailable.caused("the other cluster does not tell how long it is"));
            }
        };
        if let Some(range) = header_text(copy, RANGE_OF_SOURCE)? {
            let total = header_text(&answer.headers, CONTENT_RANGE.as_str())?;
            let total = total.and_then(|text| text.rsplit_once('/')?.1.parse().ok()).unwrap_or(bytes);
            range::parse_copy(range, total)?;
        } else if PUT_BYTES_MAX < bytes {
            return Err(too_large());
        }
        let mut attributes = headers::attributes(&answer.headers)?;
        if with_tags && answer.headers.contains_key("x-amz-tagging-count") {
            // Those of the very version whose bytes come, as far as its home says which one that is.
            let told = header_text(&answer.headers, VERSION_ID)?;
            let version = told.map(|text| versions::selector(VERSION_ID, text)).transpose()?;
            attributes.tags = self.tags(version.or(self.source.version), copy).await?;
        }
        let version = answer.headers.get(VERSION_ID).cloned();
        Ok(Fetched { bytes, attributes, version, body: Arriving::new(bytes, stream) })
    }

    async fn tags(&self, version: Option<VersionSelector>, copy: &HeaderMap) -> S3Result<Tags> {
        let answer = self.ask("tagging=", version, who_asks(copy)).await?;
        tags::of_object(tagging(&document(answer.body).await?)?)
    }

    /// Sends a GET for a version of the source, with a subresource as it stands in the query, and these headers.
    async fn ask(
        &self,
        subresource: &str,
        version: Option<VersionSelector>,
        mut headers: HeaderMap,
    ) -> S3Result<Response> {
        if let Some(owner) = &self.source.owner {
            headers.insert("x-amz-expected-bucket-owner", value(owner)?);
        }
        let key = utf8_percent_encode(self.source.key.as_str(), KEPT);
        let path = format!("/{}/{key}", self.bucket);
        let version = version.map(|version| match version {
            VersionSelector::Null => "versionId=null".to_string(),
            VersionSelector::Stamp(stamp) => format!("versionId={stamp}"),
        });
        let query: Vec<&str> = [subresource, version.as_deref().unwrap_or("")]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let query = query.join("&");
        self.sign(&path, &query, &mut headers).await?;
        let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
        let (mut head, ()) = Request::get(uri).body(()).map_err(|_| Code::InvalidURI)?.into_parts();
        head.headers = headers;
        let answer = forward(&self.link, self.onward(&head), body_of(Bytes::new())).await?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            _ => Err(self.refusal(answer).await),
        }
    }

    fn onward<'h>(&'h self, head: &'h request::Parts) -> Onward<'h> {
        let (source, secure) = self.cx.access.came();
        Onward {
            head,
            bucket: &self.bucket,
            virtual_bucket: None,
            source,
            secure,
            id: &self.cx.origin.request_id,
            kind: Kind::Other,
            witness: None,
        }
    }

    /// Signs a GET without a body as the requester; of nobody in particular it stays unsigned.
    async fn sign(&self, path: &str, query: &str, headers: &mut HeaderMap) -> S3Result<()> {
        headers.insert(HOST, HeaderValue::from_static(NOBODY));
        let Some(id) = self.cx.access.key() else { return Ok(()) };
        let at = iso8601_basic(self.cx.env.wall_ms());
        let (date, region) = (&at[..8], &*self.cx.region);
        let key = match self.cx.keys.secret(id).await? {
            Some((_, secret)) => SigningKey::derive(&secret, date, region),
            None => {
                let told = self.cx.keys.of_others(id, date, region).await?;
                told.ok_or(Code::InvalidAccessKeyId)?.1
            }
        };
        headers.insert("x-amz-date", value(&at)?);
        headers.insert("x-amz-content-sha256", HeaderValue::from_static(EMPTY_SHA256));
        let (names, text) = canonical(path, query, headers)?;
        let scope = format!("{date}/{region}/s3/aws4_request");
        let hash = hex::encode(Sha256::digest(text));
        let signature = key.sign(&format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{hash}"));
        let claim =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
        headers.insert(AUTHORIZATION, value(&claim)?);
        Ok(())
    }

    /// What its home says no with, as it is said of the source of a copy.
    async fn refusal(&self, answer: Response) -> S3Error {
        let (status, marker) = (answer.status, answer.headers.contains_key("x-amz-delete-marker"));
        if matches!(status, StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED) {
            return Code::PreconditionFailed.into();
        }
        if marker && self.source.version.is_some() {
            return Source::names_a_marker();
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Code::InvalidArgument.says("Range specified is not valid for source object");
        }
        let said = document(answer.body).await.unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let code = text_of(&said, "Code");
        match Code::ALL.iter().find(|known| Some(known.wire().0) == code && known.wire().1 == status) {
            Some(code) => {
                let message = text_of(&said, "Message").and_then(|text| unescape(text).ok());
                code.says(message.map_or_else(|| code.wire().2.to_string(), Cow::into_owned))
            }
            None => Code::ServiceUnavailable.says(format!(
                "The source of the copy is not read: its cluster {} answered {status}.",
                self.link.name
            )),
        }
    }
}

/// What a copy of more bytes gets.
pub fn too_large() -> S3Error {
    Code::InvalidRequest.says(format!(
        "The specified copy source is larger than the maximum allowable size for a copy source: {PUT_BYTES_MAX}"
    ))
}

/// The headers of a GET that say what those of a copy say of its source.
fn asked_of_source(copy: &HeaderMap) -> S3Result<HeaderMap> {
    let mut asked = who_asks(copy);
    for (name, value) in copy {
        let Some(rest) = name.as_str().strip_prefix(OF_SOURCE) else { continue };
        let of_get = match rest {
            "range" => RANGE,
            rest if rest.starts_with("if-") => {
                HeaderName::try_from(rest).map_err(|_| Code::InvalidArgument)?
            }
            rest if rest.starts_with(CUSTOMER_KEY) => {
                HeaderName::try_from(format!("x-amz-{rest}")).map_err(|_| Code::InvalidArgument)?
            }
            _ => continue,
        };
        asked.insert(of_get, value.clone());
    }
    Ok(asked)
}

/// What policies look at, and no signature is about.
fn who_asks(copy: &HeaderMap) -> HeaderMap {
    let named = [USER_AGENT, REFERER].into_iter();
    named.filter_map(|name| Some((name.clone(), copy.get(&name)?.clone()))).collect()
}

/// The names of the headers that are signed, and the canonical request of a GET with them.
fn canonical(path: &str, query: &str, headers: &HeaderMap) -> S3Result<(String, String)> {
    let mut signed: Vec<(&str, &str)> = Vec::new();
    for (name, value) in
        headers.iter().filter(|(name, _)| **name == HOST || name.as_str().starts_with("x-amz-"))
    {
        signed.push((name.as_str(), value.to_str().map_err(|_| Code::InvalidArgument)?.trim()));
    }
    signed.sort_unstable();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let text = format!("GET\n{path}\n{query}\n{lines}\n{names}\n{EMPTY_SHA256}");
    Ok((names, text))
}

fn value(text: &str) -> S3Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Code::InvalidArgument.into())
}

/// A short body as a whole.
async fn document(body: ResponseBody) -> S3Result<Vec<u8>> {
    let whole = timeout(PATIENCE, collected(body)).await;
    whole.map_err(|_| Code::ServiceUnavailable.caused("another cluster does not end a document"))?
}

async fn collected(body: ResponseBody) -> S3Result<Vec<u8>> {
    let mut stream = match body {
        ResponseBody::Empty => return Ok(Vec::new()),
        ResponseBody::Bytes(bytes) => return Ok(bytes.into()),
        ResponseBody::Stream { stream, .. } | ResponseBody::Open(stream) => stream,
    };
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.map_err(|error| Code::ServiceUnavailable.caused(error))?);
        if DOCUMENT_BYTES_MAX < bytes.len() {
            return Err(Code::ServiceUnavailable.caused("another cluster sends a document that is too long"));
        }
    }
    Ok(bytes.into())
}

/// What an element of an error document says.
fn text_of<'a>(document: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{element}>"))?;
    rest.split_once("</").map(|(text, _)| text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_get_asks_for_what_a_copy_says_of_its_source() {
        let said = [
            ("x-amz-copy-source", "photos/cat"),
            ("x-amz-copy-source-range", "bytes=1-2"),
            ("x-amz-copy-source-if-match", "\"e\""),
            ("x-amz-copy-source-server-side-encryption-customer-algorithm", "AES256"),
            ("if-match", "\"of the copy\""),
            ("x-amz-meta-a", "of the copy"),
            ("user-agent", "a  b"),
        ];
        let copy = said.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let asked = asked_of_source(&copy).unwrap();
        let mut asked: Vec<_> =
            asked.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        asked.sort_unstable();
        let expected = [
            ("if-match", "\"e\""),
            ("range", "bytes=1-2"),
            ("user-agent", "a  b"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ];
        assert_eq!(asked, expected);
    }

    #[test]
    fn what_is_signed_is_in_order_and_nothing_that_is_rewritten() {
        let headers = [("x-amz-date", "d"), ("user-agent", "a"), ("host", NOBODY)];
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let (names, text) = canonical("/b/k", "tagging=", &headers).unwrap();
        assert_eq!(names, "host;x-amz-date");
        assert_eq!(
            text,
            format!("GET\n/b/k\ntagging=\nhost:overlay\nx-amz-date:d\n\nhost;x-amz-date\n{EMPTY_SHA256}")
        );
    }

    #[test]
    fn error_documents() {
        let document = "<Error><Code>NoSuchKey</Code><Message>None.</Message></Error>";
        assert_eq!(text_of(document, "Code"), Some("NoSuchKey"));
        assert_eq!(text_of(document, "Resource"), None);
    }
}
