//! One connection: hyper over a [`Guard`], one request after the other.
//!
//! What always holds: a request is answered exactly once; a panic in a handler ends that request with 500 and
//! nothing else; an answer does not wait for a body that nobody reads; a connection whose request body was not read to
//! its end is either drained within bounds or closed, never reused out of step.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fabric::env::Env;
use fabric::limits::HEADERS_MAX;
use futures::FutureExt;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::body::{Leftover, RequestBody};
use super::guard::{Guard, HEAD_DEADLINE, IDLE_DEADLINE, Notes};
use super::places::Place;
use super::{Handler, Holding, Refusal, ResponseBody};

/// A body left unread is drained when it announces at most this much. Otherwise the connection closes after the answer.
const DRAIN_BYTES_MAX: u64 = 1 << 20;
/// A body that is drained comes within this time, or the connection closes.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Read buffer of a connection.
const BUFFER_BYTES_MAX: usize = 256 << 10;

const PANICKED: Refusal = Refusal::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "InternalError",
    "We encountered an internal error. Please try again.",
);

/// How far a server is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Serving.
    Running,
    /// No new connections; requests in progress are finished.
    Draining,
    /// Connections are dropped.
    Ended,
}

/// What the requests of one connection share.
struct Shared {
    handler: Arc<dyn Handler>,
    env: Arc<dyn Env>,
    notes: Arc<Notes>,
    place: Arc<Place>,
    source: SocketAddr,
}

/// Serves a connection to its end, or until it is asked to leave its place.
pub async fn serve<S>(
    stream: S,
    source: SocketAddr,
    handler: Arc<dyn Handler>,
    env: Arc<dyn Env>,
    place: Arc<Place>,
    mut stop: watch::Receiver<Stop>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let notes = Arc::new(Notes::default());
    let shared = Arc::new(Shared { handler, env, notes: notes.clone(), place: place.clone(), source });
    let io = TokioIo::new(Guard::new(stream, notes.clone()));
    let service = service_fn(move |request| Box::pin(answer(shared.clone(), request)));
    let mut connection = builder().serve_connection(io, service);
    let mut draining = false;
    // No answer is on its way that a reset could hide.
    let mut idle = false;
    loop {
        tokio::select! {
            biased;
            reached = reached(&mut stop, if draining { Stop::Ended } else { Stop::Draining }) => {
                if reached == Stop::Ended {
                    return;
                }
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = place.asked_to_leave() => {
                idle = notes.is_idle();
                Pin::new(&mut connection).graceful_shutdown();
            }
            outcome = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = outcome {
                    tracing::debug!(%source, %error, "connection broke");
                }
                break;
            }
        }
    }
    let guard = connection.into_parts().io.into_inner();
    if !idle {
        guard.linger().await;
    }
}

/// Waits until the server is at least at `stage`; a server that is gone has ended.
pub async fn reached(stop: &mut watch::Receiver<Stop>, stage: Stop) -> Stop {
    stop.wait_for(|at| *at >= stage).await.map_or(Stop::Ended, |at| *at)
}

fn builder() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The guard keeps the exact deadlines; this one is behind it.
        .header_read_timeout(HEAD_DEADLINE + IDLE_DEADLINE + Duration::from_secs(15))
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .auto_date_header(false);
    builder
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Holding<Active>>, Infallible> {
    let active = Active::new(shared.clone());
    let (mut response, mut close) = if request.uri() == "*" {
        // Only the guard's stand-in has this target.
        (shared.handler.refuse(shared.notes.refusal().unwrap_or(PANICKED)), true)
    } else {
        handle(&shared, request).await
    };
    close |=
        response.headers().get(CONNECTION).is_some_and(|value| value == "close") || shared.place.is_wanted();
    if close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(shared.env.wall_ms()));
    if let Ok(date) = HeaderValue::try_from(date) {
        response.headers_mut().insert(DATE, date);
    }
    Ok(response.map(|body| Holding::new(body, active)))
}

/// Runs the handler and settles what it left of the request body. Returns whether the connection must close.
async fn handle(shared: &Shared, request: Request<Incoming>) -> (Response<ResponseBody>, bool) {
    let unread = Unread::of(request.headers());
    let leftover = Arc::new(Leftover::default());
    let request = request.map(|incoming| RequestBody::network(incoming, leftover.clone()));
    let handled = AssertUnwindSafe(shared.handler.handle(request, shared.source)).catch_unwind().await;
    let response = handled.unwrap_or_else(|_| {
        metrics::counter!("fluffy_http_panics_total").increment(1);
        tracing::error!("a request handler panicked");
        shared.handler.refuse(PANICKED)
    });
    let close = match leftover.take() {
        None => unread == Unread::Close,
        Some(body) if unread == Unread::Drain => {
            shared.env.spawn("drain a body", Box::pin(drain(body)));
            false
        }
        Some(_) => true,
    };
    (response, close)
}

/// What to do with a body that was not read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// Read and forget beside the answer: it is small.
    Drain,
    /// Close after the answer if something was left: it is large, or the client waits for `100 Continue`.
    CloseIfLeft,
    /// Close in any case: the guard does not follow this framing.
    Close,
}

impl Unread {
    fn of(headers: &HeaderMap) -> Unread {
        if headers.contains_key(TRANSFER_ENCODING) {
            return Unread::Close;
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if headers.contains_key(EXPECT) || length.is_some_and(|bytes| bytes > DRAIN_BYTES_MAX) {
            return Unread::CloseIfLeft;
        }
        Unread::Drain
    }
}

/// Reads a body to its end beside the answer. One that does not come in time is dropped, and hyper closes then.
async fn drain(mut body: Incoming) {
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(DRAIN_DEADLINE, read).await;
}

/// Counts a request as in progress until it is dropped with its response.
struct Active(Arc<Shared>);

impl Active {
    fn new(shared: Arc<Shared>) -> Active {
        shared.notes.begin();
        shared.place.busy();
        Active(shared)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.0.notes.end() == 0 {
            self.0.place.idle();
        }
    }
}
