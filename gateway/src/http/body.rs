//! The body of a request as it comes from the client, with a minimum rate.
//!
//! Only the time spent waiting for the client counts: a store that is slow to take bytes never blames the client.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::guard::now;

/// In this much time spent waiting …
pub const PACE_WINDOW: Duration = Duration::from_secs(60);
/// … so many bytes must come.
pub const PACE_BYTES_MIN: u64 = 60 << 10;

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Less than [`PACE_BYTES_MIN`] in [`PACE_WINDOW`] of waiting: 400 `RequestTimeout`.
    #[error("the client sent too little for too long")]
    TooSlow,
    /// The connection ended or its framing broke: 400 `IncompleteBody`.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// The body of a request.
pub struct RequestBody {
    source: Source,
    leftover: Option<Arc<Leftover>>,
    pace: Pace,
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
        RequestBody { source: Source::Network(incoming), leftover: Some(leftover), pace: Pace::default() }
    }

    /// A body that is already here, for requests made in process and in tests.
    pub fn memory(bytes: impl Into<Bytes>) -> RequestBody {
        RequestBody { source: Source::Memory(bytes.into()), leftover: None, pace: Pace::default() }
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
        let polled = Pin::new(incoming).poll_frame(cx);
        let arrived = match &polled {
            Poll::Ready(Some(Ok(frame))) => Some(frame.data_ref().map_or(0, Bytes::len) as u64),
            Poll::Ready(_) => Some(0),
            Poll::Pending => None,
        };
        if !body.pace.allows(cx, arrived) {
            return Poll::Ready(Some(Err(BodyError::TooSlow)));
        }
        let frame = ready!(polled);
        if frame.as_ref().is_none_or(Result::is_err) {
            body.source = Source::Done;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Broken(error.to_string()))))
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

/// Counts waiting time and bytes in windows of [`PACE_WINDOW`].
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    /// Notes what one poll gave (`None`: pending). False when the client was too slow.
    fn allows(&mut self, cx: &mut Context<'_>, arrived: Option<u64>) -> bool {
        let Some(bytes) = arrived else {
            let left = PACE_WINDOW.saturating_sub(self.waited);
            let (_, timer) = self.waiting.get_or_insert_with(|| (now(), Box::pin(sleep(left))));
            if timer.as_mut().poll(cx).is_pending() {
                return true;
            }
            return self.close_window(cx);
        };
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        if self.waited >= PACE_WINDOW && self.bytes >= PACE_BYTES_MIN {
            self.waited = Duration::ZERO;
            self.bytes = 0;
        }
        true
    }

    /// The window is over and the client is waited for.
    fn close_window(&mut self, cx: &mut Context<'_>) -> bool {
        self.waiting = None;
        if self.bytes < PACE_BYTES_MIN {
            return false;
        }
        self.waited = Duration::ZERO;
        self.bytes = 0;
        self.allows(cx, None)
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

    #[tokio::test(start_paused = true)]
    async fn the_pace_counts_only_waiting() {
        let wait = |bytes: u64| async move {
            let mut pace = Pace { bytes, ..Pace::default() };
            let waited = tokio::time::timeout(
                Duration::from_secs(100),
                std::future::poll_fn(
                    |cx| {
                        if pace.allows(cx, None) { Poll::Pending } else { Poll::Ready(()) }
                    },
                ),
            );
            waited.await.is_ok()
        };
        assert!(wait(PACE_BYTES_MIN - 1).await, "too slow is noticed");
        assert!(!wait(PACE_BYTES_MIN).await, "enough opens another window");
    }
}
