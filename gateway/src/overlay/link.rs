//! The way to one other cluster: its connections, and whether it answers.
//!
//! What always holds: nobody waits for a cluster that is away, nor for one of its gateways. Each of them is asked for a
//! sign of life all the time; when none comes, requests that wait for its answer are given up. When none of them gives
//! any, new requests are refused at once, until one does again.

use std::collections::BTreeSet;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use consensus::meta::names::ClusterName;
use consensus::meta::overlay::PublicKey;
use fabric::Seams;
use fabric::limits::{LINK_CONNECTIONS_MAX, LINK_IDLE_MAX, MIB};
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::identity::Identity;
use super::wire::{PATH, Refused};
use crate::http::{BoxError, ResponseBody, collect, full};

/// A connection is there within this time, or it is not.
const CONNECT_DEADLINE: Duration = Duration::from_millis(700);
/// For so long only the gateway is tried that answered last.
const HEAD_START: Duration = Duration::from_millis(100);
/// A sign of life comes within this time …
const PING_DEADLINE: Duration = Duration::from_millis(700);
/// … and is asked for again after this.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A connection that was used takes the next request within this time.
const READY_DEADLINE: Duration = Duration::from_millis(20);
/// A document comes within this time.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(5);
/// A document is not longer.
const DOCUMENT_BYTES_MAX: usize = 16 * MIB as usize;

/// Why a cluster gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It is away.
    #[error("the cluster {0} is away: {1}")]
    Away(ClusterName, String),
    /// It did not answer any more when the request was on its way: what became of that nobody knows.
    #[error("the cluster {0} gave no answer: {1}")]
    Lost(ClusterName, String),
    /// As many requests are on their way to it as may be.
    #[error("too many requests are on their way to the cluster {0}")]
    Busy(ClusterName),
    /// It answered that it will not.
    #[error("{1}")]
    Refused(StatusCode, String),
}

/// See the file's head.
pub struct Link {
    seams: Seams,
    identity: Arc<Identity>,
    /// The other cluster.
    pub name: ClusterName,
    key: PublicKey,
    addresses: ArcSwap<Vec<String>>,
    /// The one with which there was a connection last.
    good_address: ArcSwapOption<String>,
    /// Connections that wait for the next request.
    idle: Mutex<Vec<Connection>>,
    open: Arc<Semaphore>,
    /// Addresses of its gateways that gave a sign of life just now.
    lives: watch::Sender<BTreeSet<String>>,
}

/// The address of the gateway that gave an answer; goes with the answer.
#[derive(Debug, Clone)]
pub struct AnsweredAt(pub String);

/// For how long an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// For as long as the gateway gives signs of life.
    WhileItLives,
    /// Who asks knows how long.
    OfWhoAsks,
}

/// A connection with one of the gateways of the cluster.
struct Connection {
    address: String,
    sender: SendRequest<ResponseBody>,
}

impl Link {
    /// To the cluster of this name and key. It is taken to be away until it answers.
    pub fn new(
        seams: Seams,
        identity: Arc<Identity>,
        name: ClusterName,
        key: PublicKey,
        addresses: Vec<String>,
    ) -> Link {
        Link {
            seams,
            identity,
            name,
            key,
            addresses: ArcSwap::from_pointee(addresses),
            good_address: ArcSwapOption::empty(),
            idle: Mutex::default(),
            open: Arc::new(Semaphore::new(LINK_CONNECTIONS_MAX)),
            lives: watch::channel(BTreeSet::new()).0,
        }
    }

    /// Its key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Where it listens from now on.
    pub fn move_to(&self, addresses: Vec<String>) {
        if **self.addresses.load() != addresses {
            self.addresses.store(Arc::new(addresses));
        }
    }

    /// Where it listens.
    pub fn all_addresses(&self) -> Vec<String> {
        (**self.addresses.load()).clone()
    }

    /// One place where it listens.
    pub fn first_address(&self) -> Option<String> {
        self.addresses.load().first().cloned()
    }

    /// Whether one of its gateways gave a sign of life just now.
    pub fn answers(&self) -> bool {
        !self.lives.borrow().is_empty()
    }

    /// Until the gateway at this address gives no sign of life; where it is not known by it, until none does.
    pub async fn gone(self: Arc<Self>, address: String) {
        let is_gone = |lives: &BTreeSet<String>| match self.addresses.load().contains(&address) {
            true => !lives.contains(&address),
            false => lives.is_empty(),
        };
        // The link is there as long as this runs, and so is what tells.
        let _ = self.lives.subscribe().wait_for(is_gone).await;
    }

    /// It is no way any more, and nobody asks for signs of life: what waits for an answer is given up.
    pub fn close(&self) {
        self.lives.send_replace(BTreeSet::new());
        self.lock_idle().clear();
    }

    /// Asks all gateways for signs of life for ever, each in its own time: one that is away delays no news of another.
    pub async fn watch(self: Arc<Self>) {
        let (mut asked, mut watched) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let addresses = self.all_addresses();
            for address in &addresses {
                if watched.insert(address.clone()) {
                    asked.push(self.ask_for_life(address.clone(), Duration::ZERO));
                }
            }
            tokio::select! {
                biased;
                Some((address, lives)) = asked.next() => {
                    let is_known = addresses.contains(&address);
                    self.hears(&address, lives && is_known);
                    if is_known {
                        asked.push(self.ask_for_life(address, PING_INTERVAL));
                    } else {
                        watched.remove(&address);
                    }
                }
                () = sleep(PING_INTERVAL) => {}
            }
        }
    }

    /// After some time, whether a gateway gives a sign of life.
    async fn ask_for_life(self: &Arc<Self>, address: String, after: Duration) -> (String, bool) {
        sleep(after).await;
        // One that is late may be on its way.
        let lives = self.ping(&address).await.is_ok() || self.ping(&address).await.is_ok();
        (address, lives)
    }

    /// A gateway gave a sign of life, or none.
    fn hears(&self, address: &str, lives: bool) {
        let before = self.answers();
        let changed = self.lives.send_if_modified(|all| match lives {
            true => all.insert(address.to_string()),
            false => all.remove(address),
        });
        if changed && !lives {
            self.lock_idle().retain(|idle| idle.address != address);
        }
        let answers = self.answers();
        if answers != before {
            tracing::info!(cluster = %self.name, answers, "another cluster of the overlay");
        }
        metrics::gauge!("fluffy_overlay_up", "cluster" => self.name.to_string())
            .set(f64::from(u8::from(answers)));
    }

    async fn ping(self: &Arc<Self>, address: &str) -> Result<(), LinkError> {
        let request = Request::get(format!("{PATH}ping")).body(full(Bytes::new()));
        let request = request.map_err(|error| self.away(&error))?;
        let asked = self.exchange(Some(address), request, Patience::OfWhoAsks);
        match timeout(PING_DEADLINE, asked).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(LinkError::Refused(answer.status(), "no sign of life".to_string())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.away(&"no sign of life in time")),
        }
    }

    /// Sends a request and waits for the head of the answer, for as long as the cluster gives signs of life.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<ResponseBody>,
    ) -> Result<Response<ResponseBody>, LinkError> {
        self.send_to(None, request).await
    }

    async fn send_to(
        self: &Arc<Self>,
        address: Option<&str>,
        request: Request<ResponseBody>,
    ) -> Result<Response<ResponseBody>, LinkError> {
        if !self.answers() {
            return Err(self.away(&"it gives no sign of life"));
        }
        self.exchange(address, request, Patience::WhileItLives).await
    }

    /// Asks for a document.
    pub async fn get<T: DeserializeOwned>(self: &Arc<Self>, path: &str) -> Result<T, LinkError> {
        self.call(Method::GET, path, Bytes::new(), true).await
    }

    /// Sends bytes to which there is nothing to answer, to the gateway at this address.
    pub async fn tell(self: &Arc<Self>, address: &str, path: &str, bytes: Bytes) -> Result<(), LinkError> {
        let request = Request::post(format!("{PATH}{path}")).body(full(bytes));
        let sent = self.send_to(Some(address), request.map_err(|error| self.away(&error))?);
        let answer = timeout(DOCUMENT_DEADLINE, sent).await;
        match answer.unwrap_or_else(|_| Err(self.away(&"no answer in time")))?.status() {
            status if status.is_success() => Ok(()),
            status => Err(LinkError::Refused(status, format!("{} answered {status}", self.name))),
        }
    }

    /// Sends a document and gets one.
    pub async fn post<T: DeserializeOwned>(
        self: &Arc<Self>,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, LinkError> {
        let bytes = serde_json::to_vec(document).unwrap_or_default();
        self.call(Method::POST, path, bytes.into(), true).await
    }

    /// The same where it is not known yet whether the cluster answers.
    pub async fn post_first<T: DeserializeOwned>(
        self: &Arc<Self>,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, LinkError> {
        let bytes = serde_json::to_vec(document).unwrap_or_default();
        self.call(Method::POST, path, bytes.into(), false).await
    }

    async fn call<T: DeserializeOwned>(
        self: &Arc<Self>,
        method: Method,
        path: &str,
        document: Bytes,
        alive: bool,
    ) -> Result<T, LinkError> {
        let request = Request::builder().method(method).uri(format!("{PATH}{path}"));
        let request = request.header(CONTENT_TYPE, "application/json").body(full(document));
        let request = request.map_err(|error| self.away(&error))?;
        let asked = async {
            let answer = if alive {
                self.send(request).await?
            } else {
                self.exchange(None, request, Patience::OfWhoAsks).await?
            };
            let status = answer.status();
            let bytes = collect(answer.into_body(), DOCUMENT_BYTES_MAX).await;
            let bytes = bytes.map_err(|error| self.away(&error))?;
            if status.is_success() {
                return serde_json::from_slice(&bytes).map_err(|error| self.away(&error));
            }
            let why = serde_json::from_slice::<Refused>(&bytes).map(|refused| refused.error);
            Err(LinkError::Refused(
                status,
                why.unwrap_or_else(|_| format!("{} answered {status}", self.name)),
            ))
        };
        timeout(DOCUMENT_DEADLINE, asked).await.unwrap_or_else(|_| Err(self.away(&"no document in time")))
    }

    /// Sends a request to the gateway at an address, or to any, whether or not the cluster gives signs of life.
    async fn exchange(
        self: &Arc<Self>,
        address: Option<&str>,
        mut request: Request<ResponseBody>,
        patience: Patience,
    ) -> Result<Response<ResponseBody>, LinkError> {
        let busy = || LinkError::Busy(self.name.clone());
        let permit = self.open.clone().try_acquire_owned().map_err(|_| busy())?;
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, http::HeaderValue::from_static("overlay"));
        }
        loop {
            let (mut connection, used) = match (self.idle(address).await, address) {
                (Some(connection), _) => (connection, true),
                (None, None) => (self.connect().await?, false),
                (None, Some(address)) => {
                    (self.dial(address.to_string()).await.map_err(|why| self.away(&why))?, false)
                }
            };
            let at = connection.address.clone();
            if patience == Patience::WhileItLives && !used && self.addresses.load().contains(&at) {
                // It is there, whatever the last sign of life was.
                self.hears(&at, true);
            }
            let gone = async {
                match patience {
                    Patience::WhileItLives => self.clone().gone(at.clone()).await,
                    Patience::OfWhoAsks => std::future::pending().await,
                }
            };
            let asked = tokio::select! {
                biased;
                asked = connection.sender.try_send_request(request) => asked,
                () = gone => return Err(self.lost(&"it gives no sign of life any more")),
            };
            match asked {
                Ok(mut answer) => {
                    answer.extensions_mut().insert(AnsweredAt(at));
                    let held = Held { link: self.clone(), connection: Some(connection), _permit: permit };
                    return Ok(answer.map(|body| LinkBody { body, held }.boxed_unsync()));
                }
                // The other side closed a connection while it was idle: nothing of the request was read.
                Err(mut error) => match error.take_message() {
                    Some(again) if used => request = again,
                    Some(_) => return Err(self.away(error.error())),
                    None => return Err(self.lost(error.error())),
                },
            }
        }
    }

    /// A connection that was used before and is good for another request, to an address or to any gateway that lives. That
    /// of one which is not known by its address gives no signs of life: none but who means it waits for it.
    async fn idle(&self, address: Option<&str>) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut idle = self.lock_idle();
                let lives = self.lives.borrow();
                let fits = |idle: &Connection| match address {
                    Some(address) => idle.address == address,
                    None => lives.contains(&idle.address),
                };
                let place = idle.iter().rposition(fits)?;
                idle.swap_remove(place)
            };
            if let Ok(Ok(())) = timeout(READY_DEADLINE, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // Each change is a single call, so poison means nothing here.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with the gateway that answered last, unless only others give signs of life; when that one does not at
    /// once, with the first of the others.
    async fn connect(&self) -> Result<Connection, LinkError> {
        let mut others = self.all_addresses();
        let good = self.good_address.load_full();
        let lives = self.lives.borrow().clone();
        let good = good.filter(|good| lives.is_empty() || lives.contains(&**good));
        let good = good.and_then(|good| others.iter().position(|address| *address == *good));
        let first = good.or_else(|| others.iter().position(|address| lives.contains(address))).unwrap_or(0);
        let first: Vec<String> = others.drain(first..others.len().min(first + 1)).collect();
        let mut dialled: FuturesUnordered<_> = first.into_iter().map(|address| self.dial(address)).collect();
        let mut head_start = pin!(sleep(HEAD_START));
        let mut why = "it told no address".to_string();
        loop {
            let outcome = tokio::select! {
                biased;
                Some(outcome) = dialled.next() => Some(outcome),
                () = &mut head_start, if !others.is_empty() => None,
                else => return Err(self.away(&why)),
            };
            match outcome {
                Some(Ok(connection)) => {
                    self.good_address.store(Some(Arc::new(connection.address.clone())));
                    return Ok(connection);
                }
                Some(Err(error)) => why = error,
                None => {}
            }
            dialled.extend(others.drain(..).map(|address| self.dial(address)));
        }
    }

    /// A connection with one of its gateways; an error is one sentence.
    async fn dial(&self, address: String) -> Result<Connection, String> {
        match timeout(CONNECT_DEADLINE, self.greet(&address)).await {
            Ok(Ok(sender)) => Ok(Connection { address, sender }),
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: no connection in time")),
        }
    }

    async fn greet(&self, address: &str) -> io::Result<SendRequest<ResponseBody>> {
        let stream = self.seams.net.connect(address).await?;
        let stream = self.identity.connect(stream, &self.key).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driven = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection with another cluster broke");
            }
        };
        self.seams.env.spawn("overlay connection", Box::pin(driven));
        Ok(sender)
    }

    fn lost(&self, why: &dyn std::fmt::Display) -> LinkError {
        if self.seams.env.armed("lost_as_away") {
            return self.away(why);
        }
        LinkError::Lost(self.name.clone(), why.to_string())
    }

    fn away(&self, why: &dyn std::fmt::Display) -> LinkError {
        LinkError::Away(self.name.clone(), why.to_string())
    }
}

/// A connection with its answer on the way.
struct Held {
    link: Arc<Link>,
    connection: Option<Connection>,
    _permit: OwnedSemaphorePermit,
}

/// The body of an answer; behind its end the connection is good for another request.
struct LinkBody {
    body: Incoming,
    held: Held,
}

impl LinkBody {
    fn give_back(&mut self) {
        let Some(connection) = self.held.connection.take() else { return };
        let mut idle = self.held.link.lock_idle();
        if idle.len() < LINK_IDLE_MAX && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }
}

impl Body for LinkBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        let polled = Pin::new(&mut body.body).poll_frame(cx);
        if let Poll::Ready(None) = polled {
            body.give_back();
        }
        polled.map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LinkBody {
    fn drop(&mut self) {
        // Who knows the length asks no further.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::disks::MemoryDisks;
    use fabric::env::SystemEnv;
    use fabric::net::{LocalNet, Net, accept};

    use super::super::identity::tests::identity;
    use super::*;

    /// Connects once; which of the listeners was asked. One that is not there refuses.
    async fn asked(
        link: &Link,
        there: &Identity,
        gateways: &mut [Option<Box<dyn fabric::net::Listener>>],
    ) -> usize {
        let mut accepting: FuturesUnordered<_> = gateways
            .iter_mut()
            .enumerate()
            .filter_map(|(index, gateway)| Some((index, gateway.as_mut()?)))
            .map(|(index, gateway)| async move {
                there.accept(accept(&mut **gateway).await.0).await.unwrap();
                index
            })
            .collect();
        let (connected, index) = tokio::join!(link.connect(), accepting.next());
        connected.unwrap();
        index.unwrap()
    }

    #[tokio::test]
    async fn the_gateway_that_answered_last_is_tried_first() {
        let net = LocalNet::default();
        let seams = Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(net.clone()),
            disks: Arc::new(MemoryDisks::new(0)),
        };
        let (east, west) = (Arc::new(identity("east")), identity("west"));
        let mut gateways =
            [Some(net.listen("127.0.0.1:0").await.unwrap()), Some(net.listen("127.0.0.1:0").await.unwrap())];
        let addresses: Vec<String> =
            gateways.iter().flatten().map(|gateway| gateway.local_address().to_string()).collect();
        let link = Link::new(seams, east, west.name.clone(), west.key, addresses.clone());
        assert_eq!(asked(&link, &west, &mut gateways).await, 0);
        gateways[0] = None;
        assert_eq!(asked(&link, &west, &mut gateways).await, 1);
        gateways[0] = Some(net.listen(&addresses[0]).await.unwrap());
        assert_eq!(asked(&link, &west, &mut gateways).await, 1);
        link.hears(&addresses[0], true);
        assert_eq!(asked(&link, &west, &mut gateways).await, 0);
        drop(gateways);
        assert!(matches!(link.connect().await, Err(LinkError::Away(..))));
        link.move_to(Vec::new());
        assert!(matches!(link.connect().await, Err(LinkError::Away(..))));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_gateway_that_is_silent_though_another_one_is_not() {
        let net = LocalNet::default();
        let seams = Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(net.clone()),
            disks: Arc::new(MemoryDisks::new(0)),
        };
        let (east, west) = (Arc::new(identity("east")), identity("west"));
        let mut gateway = net.listen("127.0.0.1:0").await.unwrap();
        let addresses = vec![gateway.local_address().to_string(), "127.0.0.1:1".to_string()];
        let link = Link::new(seams, east, west.name.clone(), west.key, addresses.clone());
        let link = Arc::new(link);
        for address in &addresses {
            link.hears(address, true);
        }
        let request = Request::get("/").body(full(Bytes::new())).unwrap();
        let mut sent = pin!(link.send(request));
        let silent = async {
            // It takes the request and says nothing.
            let _stream = west.accept(accept(&mut *gateway).await.0).await.unwrap();
            sleep(Duration::from_millis(20)).await;
            link.hears(&addresses[0], false);
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = &mut sent => answer,
            () = silent => unreachable!(),
        };
        assert!(matches!(answer, Err(LinkError::Lost(..))) && link.answers());
    }
}
