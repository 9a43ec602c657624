//! The admin port of a storage node: health for everybody, metrics for those who may.
//!
//! `/health/live` and `/health/ready` say ok or not and nothing else. `/metrics` is open to callers on this
//! machine; from elsewhere it needs the token (`Authorization: Bearer …`), and without one it is closed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fabric::Seams;
use fabric::env::TaskHandle;
use fabric::net::{BoxStream, Listener, accept};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// The head of a request must be there after this, and an idle connection ends.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A connection lives no longer.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What the port shows.
pub struct AdminPort {
    /// Whether the node serves; asked for each `/health/ready`.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// Renders the metrics as Prometheus text; `None` where the process has no recorder.
    pub metrics: Option<Box<dyn Fn() -> String + Send + Sync>>,
    /// Opens `/metrics` to callers from elsewhere.
    pub token: Option<String>,
}

impl AdminPort {
    /// Serves on `listener` until the handle aborts it.
    pub fn serve(self, seams: &Seams, listener: Box<dyn Listener>) -> TaskHandle {
        let env = seams.env.clone();
        let task = accept_all(Arc::new(self), seams.clone(), listener);
        env.spawn("admin-accept", Box::pin(task))
    }

    fn answer<B>(&self, request: &Request<B>, from: SocketAddr) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/health/live" => text(StatusCode::OK, "ok\n"),
            "/health/ready" if (self.ready)() => text(StatusCode::OK, "ok\n"),
            "/health/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" if !self.may_see(request, from) => text(StatusCode::FORBIDDEN, "forbidden\n"),
            "/metrics" => match &self.metrics {
                Some(render) => text(StatusCode::OK, &render()),
                None => text(StatusCode::NOT_FOUND, "no metrics in this process\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn may_see<B>(&self, request: &Request<B>, from: SocketAddr) -> bool {
        if from.ip().to_canonical().is_loopback() {
            return true;
        }
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        matches!((given, &self.token), (Some(given), Some(token)) if same(given.as_bytes(), token.as_bytes()))
    }
}

/// Compares in a time that tells nothing but the lengths.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |differs, (left, right)| differs | (left ^ right)) == 0
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn accept_all(port: Arc<AdminPort>, seams: Seams, mut listener: Box<dyn Listener>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(room) = connections.clone().acquire_owned().await else { return };
        let (stream, from) = accept(&mut *listener).await;
        let port = port.clone();
        let connection = async move {
            let _room = room;
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, serve_one(port, stream, from)).await;
        };
        seams.env.spawn("admin-connection", Box::pin(connection));
    }
}

async fn serve_one(port: Arc<AdminPort>, stream: BoxStream, from: SocketAddr) {
    let service = service_fn(move |request| {
        let port = port.clone();
        async move { Ok::<_, Infallible>(port.answer(&request, from)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%from, %error, "a connection to the admin port ended");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::disks::MemoryDisks;
    use fabric::env::SystemEnv;
    use fabric::net::{LocalNet, Net};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn port(ready: bool) -> AdminPort {
        AdminPort {
            ready: Box::new(move || ready),
            metrics: Some(Box::new(|| "up 1\n".to_string())),
            token: Some("secret".to_string()),
        }
    }

    #[test]
    fn who_may_see_what() {
        let (near, far) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 1], 1)));
        let cases = [
            ("/health/live", far, "", 200),
            ("/health/ready", far, "", 200),
            ("/metrics", near, "", 200),
            ("/metrics", far, "", 403),
            ("/metrics", far, "Bearer secrets", 403),
            ("/metrics", far, "Bearer secret", 200),
            ("/", near, "", 404),
        ];
        for (path, from, token, status) in cases {
            let request = Request::get(path).header(AUTHORIZATION, token).body(()).unwrap();
            assert_eq!(port(true).answer(&request, from).status(), status, "{path} {from} {token:?}");
        }
        let ready = Request::get("/health/ready").body(()).unwrap();
        assert_eq!(port(false).answer(&ready, far).status(), 503);
        let post = Request::post("/health/live").body(()).unwrap();
        assert_eq!(port(true).answer(&post, far).status(), 405);
    }

    #[tokio::test]
    async fn answers_over_a_connection() {
        let net = LocalNet::default();
        let seams = Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(net.clone()),
            disks: Arc::new(MemoryDisks::new(1 << 20)),
        };
        let listener = net.listen("127.0.0.1:7101").await.unwrap();
        drop(port(true).serve(&seams, listener));
        let mut stream = net.connect("127.0.0.1:7101").await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("up 1\n"), "{answer}");
    }
}
