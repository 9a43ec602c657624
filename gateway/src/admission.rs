//! Each request waits for its turn before it runs, and gives it back when its answer is sent.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use crate::http::{Handler, Holding, Refusal, RequestBody, ResponseBody};
use crate::queue::{Queues, RETRY_AFTER_SECONDS, SMALL_BYTES_MAX, Work};

const SLOW_DOWN: Refusal =
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate.");

/// Gives each request its turn before it runs.
pub struct Admission {
    inner: Arc<dyn Handler>,
    queues: Arc<Queues>,
    class: fn(&Parts) -> Work,
}

#[async_trait]
impl Handler for Admission {
    async fn handle(&self, request: Request<RequestBody>, source: SocketAddr) -> Response<ResponseBody> {
        let (parts, body) = request.into_parts();
        let Ok(turn) = self.queues.enter((self.class)(&parts)).await else {
            return self.slow_down();
        };
        let only_reads = parts.method.is_safe();
        let response = self.inner.handle(Request::from_parts(parts, body), source).await;
        // What was done is told, however large the answer: a refusal now would say that it was not.
        if body_bytes(&response) <= SMALL_BYTES_MAX || !only_reads {
            return response.map(|body| Holding::new(body, turn).boxed_unsync());
        }
        // What was small to ask for is large to answer. No large transfer waits for a small turn, so that waiting
        // for one while holding the other ends.
        let Ok(large) = self.queues.enter(Work::Download).await else {
            return self.slow_down();
        };
        drop(turn);
        response.map(|body| Holding::new(body, large).boxed_unsync())
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        self.inner.refuse(refusal)
    }
}

impl Admission {
    /// Requests to `inner`, in these queues.
    pub fn new(inner: Arc<dyn Handler>, queues: Arc<Queues>) -> Admission {
        Admission { inner, queues, class }
    }

    /// Requests to another service, within the same budget.
    pub fn with(&self, inner: Arc<dyn Handler>) -> Admission {
        Admission { inner, queues: self.queues.clone(), class }
    }

    /// Requests for pages of websites, to `inner`, within the same budget.
    pub fn of_websites(&self, inner: Arc<dyn Handler>) -> Admission {
        Admission { inner, queues: self.queues.clone(), class: class_of_page }
    }

    fn slow_down(&self) -> Response<ResponseBody> {
        let mut response = self.inner.refuse(SLOW_DOWN);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        response
    }
}

/// Bytes of the body of an answer, which a streamed body does not tell by itself.
fn body_bytes(response: &Response<ResponseBody>) -> u64 {
    if response.body().is_end_stream() { 0 } else { length(response.headers()).unwrap_or(0) }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The queue of a request, from what its head tells. A guess that costs a wait at worst.
fn class(head: &Parts) -> Work {
    match length(&head.headers) {
        _ if head.headers.contains_key(TRANSFER_ENCODING) => Work::Upload,
        Some(bytes) if bytes > SMALL_BYTES_MAX => Work::Upload,
        Some(1..) => Work::Small,
        _ if is_watch(head) => Work::Watch,
        _ if head.method == Method::GET && head.uri.path().trim_matches('/').contains('/') => Work::Small,
        _ => Work::Metadata,
    }
}

/// Whether it reads the change feed of a bucket, and may wait for it.
fn is_watch(head: &Parts) -> bool {
    let mut parameters = head.uri.query().unwrap_or("").split('&');
    head.method == Method::GET
        && parameters.any(|parameter| parameter.split('=').next().is_some_and(|name| name == "changes"))
}

/// What comes with a request for a page is not read.
fn class_of_page(head: &Parts) -> Work {
    if head.method == Method::GET { Work::Small } else { Work::Metadata }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use fabric::limits::MIB;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::queue::Budget;

    /// Answers with a stream that never ends of as many bytes as the path says.
    struct Streams;

    #[async_trait]
    impl Handler for Streams {
        async fn handle(&self, request: Request<RequestBody>, _: SocketAddr) -> Response<ResponseBody> {
            let bytes = request.uri().path().rsplit('/').next().unwrap().to_string();
            let endless = futures::stream::pending::<Result<Frame<Bytes>, crate::http::BoxError>>();
            let body = http_body_util::combinators::UnsyncBoxBody::new(StreamBody::new(endless));
            Response::builder().header(CONTENT_LENGTH, bytes).body(body).unwrap()
        }

        fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
            Response::builder().status(refusal.status).body(crate::http::full(Bytes::new())).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_are_among_themselves() {
        let budget = Budget { cache_bytes: 0, transfer_bytes: 12 * MIB, storage_bytes: 0 };
        let admission = Admission::new(Arc::new(Streams), Arc::new(Queues::new(&budget)));
        let ask = async |bytes: u64| {
            let request = Request::builder().uri(format!("/bucket/{bytes}"));
            let request = request.body(RequestBody::memory("")).unwrap();
            admission.handle(request, SocketAddr::from(([127, 0, 0, 1], 1))).await
        };
        let small = budget.bounds(Work::Small).running_max;
        let large = budget.bounds(Work::Download).running_max;
        assert!(small < large);
        let mut answers = Vec::new();
        for _ in 0..large {
            answers.push(ask(2 * MIB).await);
        }
        assert!(answers.iter().all(|answer| answer.status() == 200), "more than small turns run at once");
        assert_eq!(ask(2 * MIB).await.status(), 503);
        assert_eq!(ask(1).await.status(), 200, "they hold no small turn");
    }
}
