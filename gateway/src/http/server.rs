//! Accepting connections: a bound on how many, a loop that never ends by itself, and a drain at the end.
//!
//! One newcomer may wait beyond the bound, and the connection that is idle longest makes room for it. Being out of
//! descriptors is like being out of places.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fabric::Seams;
use fabric::net::{BoxStream, Listener};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Handler;
use super::connection::{self, Stop, reached};
use super::places::{Place, Places};
use super::tls::Keys;

/// Requests in progress may take so long to finish when the server stops.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// A TLS handshake gives up after this.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Waits after a failed accept (out of descriptors, for example), growing.
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// How a server serves.
#[derive(Clone)]
pub struct Settings {
    /// Connections at once. The next one waits until one that is idle was closed for it, or one that is in use closes
    /// behind its answer; those after it wait in the backlog of the listener.
    pub connections_max: usize,
    /// Certificates; `None` is plain text.
    pub tls: Option<Arc<Keys>>,
}

/// What a connection passes before it is served.
#[async_trait]
pub trait Door: Send + Sync + 'static {
    /// The stream to serve, and who answers there. A stranger is turned away with an error.
    async fn pass(&self, stream: BoxStream) -> io::Result<(BoxStream, Arc<dyn Handler>)>;
}

/// Everybody may come in, by TLS where there are certificates.
struct OpenDoor {
    tls: Option<Arc<Keys>>,
    handler: Arc<dyn Handler>,
}

#[async_trait]
impl Door for OpenDoor {
    async fn pass(&self, stream: BoxStream) -> io::Result<(BoxStream, Arc<dyn Handler>)> {
        let stream: BoxStream = match &self.tls {
            None => stream,
            Some(keys) => Box::new(keys.acceptor().accept(stream).await?),
        };
        Ok((stream, self.handler.clone()))
    }
}

/// Serves `listener` until `stop` says so; then drains and returns.
pub async fn serve(
    seams: Seams,
    listener: Box<dyn Listener>,
    settings: Settings,
    handler: Arc<dyn Handler>,
    stop: watch::Receiver<bool>,
) {
    let door = Arc::new(OpenDoor { tls: settings.tls, handler });
    serve_behind(seams, listener, settings.connections_max, door, stop).await;
}

/// The same for those who pass a door.
pub async fn serve_behind(
    seams: Seams,
    mut listener: Box<dyn Listener>,
    connections_max: usize,
    door: Arc<dyn Door>,
    stop: watch::Receiver<bool>,
) {
    let places = Places::new(connections_max);
    let (stage, stages) = watch::channel(Stop::Running);
    let serving = Serving { seams, door, stages };
    tokio::select! {
        biased;
        () = stopped(stop) => {}
        () = accept(&mut listener, &places, &serving) => {}
    }
    drop(listener);
    drop(serving.door);
    stage.send_replace(Stop::Draining);
    if timeout(DRAIN_DEADLINE, places.all_free()).await.is_err() {
        tracing::warn!("requests still in progress are given up");
    }
    stage.send_replace(Stop::Ended);
}

/// Waits for the word to stop; a sender that is gone means the same.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // The outcome says only whether the word was given or the giver is gone.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

struct Serving {
    seams: Seams,
    door: Arc<dyn Door>,
    stages: watch::Receiver<Stop>,
}

async fn accept(listener: &mut Box<dyn Listener>, places: &Arc<Places>, serving: &Serving) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                back_off = BACK_OFF_MIN;
                start(serving, stream, source, places.take().await);
            }
            Err(error) => {
                metrics::counter!("fluffy_http_accept_errors_total").increment(1);
                tracing::warn!(%error, "accepting a connection failed");
                places.make_room();
                sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

fn start(serving: &Serving, stream: BoxStream, source: SocketAddr, place: Place) {
    let env = serving.seams.env.clone();
    let door = serving.door.clone();
    let stages = serving.stages.clone();
    let place = Arc::new(place);
    let task = async move {
        let mut gone = stages.clone();
        tokio::select! {
            biased;
            _ = reached(&mut gone, Stop::Ended) => {}
            () = place.asked_to_leave() => {}
            passed = timeout(HANDSHAKE_DEADLINE, door.pass(stream)) => match passed {
                Ok(Ok((stream, handler))) => {
                    drop(door);
                    connection::serve(stream, source, handler, env, place.clone(), stages).await;
                }
                Ok(Err(error)) => tracing::debug!(%source, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%source, "TLS handshake took too long"),
            }
        }
    };
    serving.seams.env.spawn("http connection", Box::pin(task));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use fabric::disks::MemoryDisks;
    use fabric::env::system::SystemEnv;
    use fabric::net::{LocalNet, Net};
    use http::{Request, Response};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http::{BoxError, Refusal, RequestBody, ResponseBody, full};

    /// `/echo` reads the body and says its length, `/deaf` answers 404 without reading, `/endless` never stops.
    struct Stub;

    #[async_trait]
    impl Handler for Stub {
        async fn handle(&self, request: Request<RequestBody>, _: SocketAddr) -> Response<ResponseBody> {
            let answer =
                |status: u16, body: ResponseBody| Response::builder().status(status).body(body).unwrap();
            match request.uri().path() {
                "/echo" => match request.into_body().collect().await {
                    Ok(body) => answer(200, full(body.to_bytes().len().to_string())),
                    Err(error) => answer(400, full(error.to_string())),
                },
                "/deaf" => answer(404, full("no")),
                "/endless" => {
                    let block = Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; 64 << 10])));
                    let blocks = futures::stream::repeat_with(move || match &block {
                        Ok(frame) => Ok(Frame::data(frame.data_ref().cloned().unwrap_or_default())),
                        Err(_) => unreachable!(),
                    });
                    answer(200, BodyExt::boxed_unsync(StreamBody::new(blocks)))
                }
                "/slow" => {
                    sleep(Duration::from_secs(20)).await;
                    answer(200, full("late"))
                }
                _ => panic!("planted"),
            }
        }

        fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
            Response::builder().status(refusal.status).body(full(refusal.code)).unwrap()
        }
    }

    struct Served {
        net: LocalNet,
        address: String,
        stop: watch::Sender<bool>,
        done: tokio::sync::oneshot::Receiver<()>,
    }

    async fn served(connections_max: usize) -> Served {
        let net = LocalNet::default();
        let listener = net.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().to_string();
        let env = Arc::new(SystemEnv::default());
        let disks = Arc::new(MemoryDisks::new(1 << 20));
        let seams = Seams { env: env.clone(), net: Arc::new(net.clone()), disks };
        let (stop, stopped) = watch::channel(false);
        let (ended, done) = tokio::sync::oneshot::channel();
        let task = async move {
            let settings = Settings { connections_max, tls: None };
            serve(seams, listener, settings, Arc::new(Stub), stopped).await;
            let _ = ended.send(());
        };
        fabric::env::Env::spawn(&*env, "server", Box::pin(task));
        Served { net, address, stop, done }
    }

    impl Served {
        /// Sends `bytes` and reads until the server closes.
        async fn talk(&self, bytes: &[u8]) -> String {
            let (mut read, mut write) = tokio::io::split(self.net.connect(&self.address).await.unwrap());
            let send = async {
                // The server may close before it read everything.
                let _ = write.write_all(bytes).await;
                std::future::pending::<()>().await;
            };
            let mut heard = Vec::new();
            tokio::select! {
                biased;
                _ = read.read_to_end(&mut heard) => {}
                () = send => {}
            }
            String::from_utf8_lossy(&heard).into_owned()
        }
    }

    const CLOSE: &str = "Connection: close\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn requests_in_turn_on_one_connection() {
        let served = served(10).await;
        let line = |length: usize| format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
        let pipelined =
            format!("{}\r\nhello\r\n{}\r\n{}{}", line(5), line(0), line(3), "Connection: close\r\n\r\nabc");
        let heard = served.talk(pipelined.as_bytes()).await;
        assert_eq!(heard.matches("HTTP/1.1 200").count(), 3, "{heard}");
        assert_eq!(heard.matches("\r\ndate: ").count(), 3, "{heard}");
        let bodies: Vec<&str> = heard.split("\r\n\r\n").skip(1).map(|body| &body[..1]).collect();
        assert_eq!(bodies, ["5", "0", "3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn smuggling_is_answered_once_and_closed() {
        let served = served(10).await;
        let hidden = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";
        for head in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 0\r\nContent-Length: 50",
            "X: a\nContent-Length: 5",
        ] {
            let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n0\r\n\r\n{hidden}");
            let heard = served.talk(request.as_bytes()).await;
            assert!(heard.starts_with("HTTP/1.1 400"), "{head}: {heard}");
            assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{head}: {heard}");
            assert!(heard.contains("connection: close"), "{head}: {heard}");
        }
        let chunked =
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        let heard = served.talk(format!("{chunked}{hidden}").as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 200") && heard.ends_with("\r\n\r\n2"), "{heard}");
        assert!(heard.contains("connection: close"), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_waits_for_the_answers_before_it() {
        let served = served(10).await;
        let heard = served.talk(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/9\r\n\r\n").await;
        let statuses: Vec<&str> = heard.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["200", "505"], "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_before_the_body_arrives_whole() {
        let served = served(10).await;
        let head = |length: usize, more: &str| {
            format!("PUT /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{more}\r\n")
        };
        let small = format!("{}{}GET /deaf HTTP/1.1\r\nHost: a\r\n{CLOSE}", head(1000, ""), "x".repeat(1000));
        let heard = served.talk(small.as_bytes()).await;
        assert_eq!(heard.matches("HTTP/1.1 404").count(), 2, "a small body is drained: {heard}");
        let large = format!("{}{}", head(64 << 20, ""), "x".repeat(900 << 10));
        let heard = served.talk(large.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 404") && heard.contains("connection: close"), "{heard}");
        let heard = served.talk(head(1000, "Expect: 100-continue\r\n").as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 404") && heard.contains("connection: close"), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_does_not_wait_for_the_body() {
        let served = served(10).await;
        let mut stream = served.net.connect(&served.address).await.unwrap();
        stream.write_all(b"PUT /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\nno") {
            let waited = timeout(Duration::from_secs(1), stream.read_buf(&mut heard)).await;
            assert!(waited.unwrap().unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
        }
        assert!(!String::from_utf8_lossy(&heard).contains("connection: close"));
        // The body comes later, and after it the next request.
        stream.write_all(&[b'x'; 1000]).await.unwrap();
        stream.write_all(format!("GET /echo HTTP/1.1\r\nHost: a\r\n{CLOSE}").as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
        // A body that never comes ends the connection, not only its own request.
        let begin = sleep(Duration::ZERO).deadline();
        let heard = served.talk(b"PUT /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx").await;
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
        assert!(sleep(Duration::ZERO).deadline() - begin < Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_make_room_and_busy_ones_stay() {
        let served = served(3).await;
        let mut busy = served.net.connect(&served.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut silent = served.net.connect(&served.address).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        let mut used = served.net.connect(&served.address).await.unwrap();
        used.write_all(b"GET /deaf HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\nno") {
            used.read_buf(&mut heard).await.unwrap();
        }
        let begin = sleep(Duration::ZERO).deadline();
        let one = format!("GET /echo HTTP/1.1\r\nHost: a\r\n{CLOSE}");
        for _ in 0..5 {
            let heard = served.talk(one.as_bytes()).await;
            assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        }
        assert!(sleep(Duration::ZERO).deadline() - begin < Duration::from_secs(6));
        let mut nothing = Vec::new();
        silent.read_to_end(&mut nothing).await.unwrap();
        assert!(nothing.is_empty());
        // The other two were not needed.
        used.write_all(one.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        used.read_to_end(&mut heard).await.unwrap();
        assert!(heard.starts_with(b"HTTP/1.1 200"));
        while !heard.ends_with(b"\r\n\r\nlate") {
            assert!(busy.read_buf(&mut heard).await.unwrap() > 0, "a busy connection was closed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_its_request_only() {
        let served = served(1).await;
        let both = format!("GET /panic HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n{CLOSE}");
        let heard = served.talk(both.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 500") && heard.contains("HTTP/1.1 200"), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_and_dawdling_clients_are_closed() {
        let served = served(10).await;
        for (bytes, seconds) in [
            (&b""[..], 30..31),
            (&b"GET / HT"[..], 30..31),
            (&b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"[..], 75..76),
            (&b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"[..], 95..96),
        ] {
            let begin = sleep(Duration::ZERO).deadline();
            served.talk(bytes).await;
            let took = sleep(Duration::ZERO).deadline() - begin;
            assert!(seconds.contains(&took.as_secs()), "{bytes:?}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_dropped() {
        let served = served(1).await;
        let mut stuck = served.net.connect(&served.address).await.unwrap();
        stuck.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // With one connection allowed, this one is served when the stuck one is gone.
        let heard = served.talk(format!("GET /echo HTTP/1.1\r\nHost: a\r\n{CLOSE}").as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_finishes_requests_and_closes_idle_connections() {
        let served = served(10).await;
        let mut busy = served.net.connect(&served.address).await.unwrap();
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut idle = served.net.connect(&served.address).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        served.stop.send_replace(true);
        let (mut finished, mut nothing) = (Vec::new(), Vec::new());
        busy.read_to_end(&mut finished).await.unwrap();
        idle.read_to_end(&mut nothing).await.unwrap();
        assert!(String::from_utf8_lossy(&finished).ends_with("late"));
        assert!(nothing.is_empty());
        served.done.await.unwrap();
        assert!(served.net.connect(&served.address).await.is_err());
    }
}
