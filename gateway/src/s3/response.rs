//! What an operation answers, before it is HTTP.

use bytes::Bytes;
use consensus::meta::model::Etag;
use futures::stream::BoxStream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::error::BoxError;
use super::xml::XmlWriter;

/// A body that arrives in pieces. An error in it breaks the connection off: the client must not take a part of the
/// bytes for all of them.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Status, headers and body.
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Headers beside those that every answer has.
    pub headers: HeaderMap,
    /// Body.
    pub body: ResponseBody,
}

/// The body of an answer.
pub enum ResponseBody {
    /// No bytes.
    Empty,
    /// All the bytes.
    Bytes(Bytes),
    /// Exactly so many bytes, as they come.
    Stream {
        /// Bytes in all; goes into `Content-Length`.
        bytes: u64,
        /// The pieces.
        stream: ByteStream,
    },
    /// Nobody knows how many bytes, as they come.
    Open(ByteStream),
}

impl Response {
    /// An empty answer.
    pub fn new(status: StatusCode) -> Response {
        Response { status, headers: HeaderMap::new(), body: ResponseBody::Empty }
    }

    /// 200 without a body.
    pub fn ok() -> Response {
        Response::new(StatusCode::OK)
    }

    /// 204.
    pub fn no_content() -> Response {
        Response::new(StatusCode::NO_CONTENT)
    }

    /// 200 with a document.
    pub fn xml(document: XmlWriter) -> Response {
        let mut response = Response::ok().header(CONTENT_TYPE, "application/xml");
        response.body = ResponseBody::Bytes(Bytes::from(document.finish()));
        response
    }

    /// Sets a header. A value that can be no header value (a control character in it) is left out: what goes into
    /// stored headers was checked when it came in.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Response {
        if let Ok(value) = HeaderValue::from_bytes(value.as_ref().as_bytes()) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sets a header of S3 by its lower-case name (`x-amz-version-id`).
    #[must_use]
    pub fn amz(self, name: &'static str, value: impl AsRef<str>) -> Response {
        self.header(HeaderName::from_static(name), value)
    }

    /// Sets `ETag`, quoted.
    #[must_use]
    pub fn etag(self, etag: &Etag) -> Response {
        self.header(ETAG, format!("\"{etag}\""))
    }

    /// Announces a length without a body (HEAD).
    #[must_use]
    pub fn length(self, bytes: u64) -> Response {
        self.header(CONTENT_LENGTH, bytes.to_string())
    }

    /// Answers with these bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: Bytes) -> Response {
        self.body = ResponseBody::Bytes(bytes);
        self
    }

    /// Answers with exactly `bytes` bytes as they come.
    #[must_use]
    pub fn stream(mut self, bytes: u64, stream: ByteStream) -> Response {
        self.body = ResponseBody::Stream { bytes, stream };
        self
    }
}
