//! The body of a request as it comes from the client.
//!
//! What an operation leaves unread comes back to the connection. How slowly a client may send is the business of
//! whoever reads (`s3::payload`); a drained rest has a deadline in [`super::connection`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The connection ended or its framing broke before the end of the body: 400 `IncompleteBody`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body broke off: {0}")]
pub struct BodyError(String);

/// The body of a request.
pub struct RequestBody {
    source: Source,
    leftover: Option<Arc<Leftover>>,
}

enum Source {
    Network(Incoming),
    Memory(Bytes),
    Done,
}

/// Where a body goes that an operation did not read to its end, so that the connection can decide what to do.
#[derive(Default)]
pub struct Leftover(Mutex<Option<Incoming>>);

impl Leftover {
    /// Takes the body, if it was left.
    pub fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl RequestBody {
    /// A body from a connection.
    pub fn network(incoming: Incoming, leftover: Arc<Leftover>) -> RequestBody {
        RequestBody { source: Source::Network(incoming), leftover: Some(leftover) }
    }

    /// A body that is already here, for requests made in process and in tests.
    pub fn memory(bytes: impl Into<Bytes>) -> RequestBody {
        RequestBody { source: Source::Memory(bytes.into()), leftover: None }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Source::Network(incoming) = std::mem::replace(&mut self.source, Source::Done) else {
            return;
        };
        if let Some(leftover) = &self.leftover
            && !incoming.is_end_stream()
        {
            *leftover.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(incoming);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        let incoming = match &mut body.source {
            Source::Network(incoming) => incoming,
            Source::Memory(bytes) => {
                let bytes = std::mem::take(bytes);
                body.source = Source::Done;
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Source::Done => return Poll::Ready(None),
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        if frame.as_ref().is_none_or(Result::is_err) {
            body.source = Source::Done;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError(error.to_string()))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Network(incoming) => incoming.is_end_stream(),
            Source::Memory(bytes) => bytes.is_empty(),
            Source::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Network(incoming) => incoming.size_hint(),
            Source::Memory(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Done => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn memory_bodies_give_their_bytes_once() {
        let mut body = RequestBody::memory("abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.frame().await.is_none());
    }
}
