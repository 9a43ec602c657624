//! HTTP/1.1 towards clients: listening, hardening, and nothing of S3.
//!
//! [`head`] checks the raw bytes of each request head before hyper sees them, [`guard`] is the stream that does
//! so and keeps the deadlines of a connection, [`body`] the request body with its minimum rate, [`connection`]
//! serves one connection, [`server`] accepts them, [`places`] says how many there may be, [`tls`] loads certificates. What always holds: every wait has
//! a deadline, every buffer a bound, one connection cannot take down another, and the accept loop never ends
//! before it is told to.

pub mod body;
pub mod connection;
pub mod guard;
pub mod head;
pub mod places;
pub mod server;
pub mod tls;

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

pub use body::{BodyError, RequestBody};

/// An error of any kind, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Body of a response. An error in it resets the connection, so that a client never takes half for the whole.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Why a request is answered by the HTTP layer and never reaches an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// S3 error code.
    pub code: &'static str,
    /// One sentence for people.
    pub message: &'static str,
}

impl Refusal {
    /// A refusal from its parts.
    pub const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Refusal {
        Refusal { status, code, message }
    }
}

/// What answers requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. `source` is the other end of the connection. A panic is answered with 500.
    async fn handle(&self, request: Request<RequestBody>, source: SocketAddr) -> Response<ResponseBody>;
    /// Dresses the refusal of a request that never became one. The connection closes after it.
    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody>;
}

/// A response body of bytes in memory.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The bytes of a body, where there are not more than so many.
pub async fn collect(mut body: ResponseBody, bytes_max: usize) -> Result<Bytes, BoxError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes_max < bytes.len() + data.len() {
            return Err(format!("the body has more than {bytes_max} bytes").into());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// A response body that holds something (a turn, a place among the active requests) until it was sent or given up.
pub struct Holding<T> {
    body: ResponseBody,
    _held: T,
}

impl<T> Holding<T> {
    /// Ties `held` to the life of `body`.
    pub fn new(body: ResponseBody, held: T) -> Holding<T> {
        Holding { body, _held: held }
    }
}

impl<T: Unpin> Body for Holding<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
