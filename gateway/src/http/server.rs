//! Accepting connections: a bound on how many, a loop that never ends by itself, and a drain at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fabric::Seams;
use fabric::net::{BoxStream, Listener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::Handler;
use super::connection::{self, Stop, reached};
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
    /// Connections at once; the next ones wait in the backlog of the listener.
    pub connections_max: usize,
    /// Certificates; `None` is plain text.
    pub tls: Option<Arc<Keys>>,
}

/// Serves `listener` until `stop` says so; then drains and returns.
pub async fn serve(
    seams: Seams,
    mut listener: Box<dyn Listener>,
    settings: Settings,
    handler: Arc<dyn Handler>,
    stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(settings.connections_max));
    let (stage, stages) = watch::channel(Stop::Running);
    let serving = Serving { seams, tls: settings.tls, handler, stages };
    tokio::select! {
        biased;
        () = stopped(stop) => {}
        () = accept(&mut listener, &connections, &serving) => {}
    }
    drop(listener);
    drop(serving.handler);
    stage.send_replace(Stop::Draining);
    let all = u32::try_from(settings.connections_max).unwrap_or(u32::MAX);
    if timeout(DRAIN_DEADLINE, connections.acquire_many(all)).await.is_err() {
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
    tls: Option<Arc<Keys>>,
    handler: Arc<dyn Handler>,
    stages: watch::Receiver<Stop>,
}

async fn accept(listener: &mut Box<dyn Listener>, connections: &Arc<Semaphore>, serving: &Serving) {
    let mut back_off = BACK_OFF_MIN;
    while let Ok(permit) = connections.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, source)) => {
                back_off = BACK_OFF_MIN;
                start(serving, stream, source, permit);
            }
            Err(error) => {
                metrics::counter!("fluffy_http_accept_errors_total").increment(1);
                tracing::warn!(%error, "accepting a connection failed");
                sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

fn start(serving: &Serving, stream: BoxStream, source: SocketAddr, permit: OwnedSemaphorePermit) {
    let env = serving.seams.env.clone();
    let handler = serving.handler.clone();
    let tls = serving.tls.clone();
    let stages = serving.stages.clone();
    let task = async move {
        match tls {
            None => connection::serve(stream, source, handler, env, stages).await,
            Some(keys) => {
                let mut gone = stages.clone();
                tokio::select! {
                    biased;
                    _ = reached(&mut gone, Stop::Ended) => {}
                    shaken = timeout(HANDSHAKE_DEADLINE, keys.acceptor().accept(stream)) => match shaken {
                        Ok(Ok(stream)) => connection::serve(stream, source, handler, env, stages).await,
                        Ok(Err(error)) => tracing::debug!(%source, %error, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%source, "TLS handshake took too long"),
                    }
                }
            }
        }
        drop(permit);
    };
    serving.seams.env.spawn("http connection", Box::pin(task));
}
