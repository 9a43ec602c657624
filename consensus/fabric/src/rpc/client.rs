//! The side that calls.
//!
//! Connections are opened when first needed, in tasks of their own, so that a caller with a short deadline does
//! not break off what the next one waits for. Replies find their call by its number. A connection on which
//! calls wait and nothing arrives is given up; so is one that carried a bad frame.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::frame::{Frame, FrameReader, Kind, Outgoing, encode, write_queued};
use super::handshake::{self, HELLO_BYTES_MAX};
use super::server::ALIVE_INTERVAL;
use super::{
    AddressBook, CallOptions, Class, Epoch, Fate, FrameFaults, Identity, Message, RpcError, decode_head,
    encode_head,
};
use crate::Seams;
use crate::env::{Env, random_u64};
use crate::ids::NodeId;
use crate::limits::{CONNECT_DEADLINE, FRAME_BYTES_MAX, RPC_BULK_CONNECTIONS, RPC_CALLS_PER_CONNECTION_MAX};
use crate::net::BoxStream;

/// After a failed attempt the next one waits a random time in here.
const BACKOFF_MS: std::ops::Range<u64> = 50..300;
/// The server speaks every [`ALIVE_INTERVAL`] while it works for us: so many intervals of silence mean that
/// bytes are lost on the way.
const SILENT_INTERVALS_MAX: u32 = 4;
/// Bytes read ahead on a connection.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Calls other nodes. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct RpcClient {
    shared: Arc<Shared>,
}

struct Shared {
    seams: Seams,
    identity: Identity,
    book: Arc<dyn AddressBook>,
    faults: Option<Arc<dyn FrameFaults>>,
    slots: Mutex<BTreeMap<(NodeId, Class), Pool>>,
}

/// The places of one node and class.
type Pool = Vec<Arc<Slot>>;

/// The place of one connection.
struct Slot {
    node: NodeId,
    class: Class,
    state: Mutex<SlotState>,
    /// Calls that use it or wait for it.
    calls: Arc<()>,
}

enum SlotState {
    /// No connection; the next attempt not before this time of the monotonic clock.
    Closed {
        retry_at: Duration,
        why: String,
    },
    /// A task opens one; it drops the sender when it is done.
    Opening(watch::Receiver<()>),
    Open(Arc<Connection>),
}

struct Connection {
    queue: mpsc::Sender<Outgoing>,
    next_call: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Frame>>>,
    closed: AtomicBool,
    in_flight: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes of this file guard is whole between any two statements that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RpcClient {
    /// Opens nothing yet.
    pub fn new(seams: Seams, identity: Identity, book: Arc<dyn AddressBook>) -> RpcClient {
        RpcClient::with_faults(seams, identity, book, None)
    }

    /// With something that drops, repeats and delays frames; for the simulator.
    pub fn with_faults(
        seams: Seams,
        identity: Identity,
        book: Arc<dyn AddressBook>,
        faults: Option<Arc<dyn FrameFaults>>,
    ) -> RpcClient {
        RpcClient { shared: Arc::new(Shared { seams, identity, book, faults, slots: Mutex::default() }) }
    }

    /// Where the nodes are.
    pub fn book(&self) -> &Arc<dyn AddressBook> {
        &self.shared.book
    }

    /// What this process knows of the epoch of its cluster.
    pub fn epoch(&self) -> &Epoch {
        &self.shared.identity.epoch
    }

    /// Calls `method` of `node` and waits for the answer, no longer than the deadline.
    pub async fn call(
        &self,
        node: NodeId,
        method: u16,
        request: Message,
        options: CallOptions,
    ) -> Result<Message, RpcError> {
        self.call_pieces(node, method, request.head, vec![request.body], options).await
    }

    /// [`RpcClient::call`] with a body in several pieces, which are sent one behind the other without a copy.
    pub async fn call_pieces(
        &self,
        node: NodeId,
        method: u16,
        head: Bytes,
        body: Vec<Bytes>,
        options: CallOptions,
    ) -> Result<Message, RpcError> {
        let slot = self.shared.slot(node, options.class);
        let _counted = slot.calls.clone();
        // Set once the request may have left.
        let sent = AtomicBool::new(false);
        let call = self.shared.call(&slot, method, &head, &body, &sent);
        match timeout(options.deadline, call).await {
            Ok(result) => result,
            Err(_) if sent.load(Ordering::Relaxed) => {
                Err(RpcError::Lost(format!("node {node} did not answer within {:?}", options.deadline)))
            }
            Err(_) => Err(RpcError::Unreachable(format!(
                "node {node}: no connection within {:?}",
                options.deadline
            ))),
        }
    }

    /// [`RpcClient::call`] with typed heads. An answer that cannot be decoded is [`RpcError::Lost`]: whatever
    /// was asked for may have been done.
    pub async fn call_typed<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        method: u16,
        question: &Q,
        body: Bytes,
        options: CallOptions,
    ) -> Result<(A, Bytes), RpcError> {
        self.call_typed_pieces(node, method, question, vec![body], options).await
    }

    /// [`RpcClient::call_typed`] with a body in several pieces.
    pub async fn call_typed_pieces<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        method: u16,
        question: &Q,
        body: Vec<Bytes>,
        options: CallOptions,
    ) -> Result<(A, Bytes), RpcError> {
        let answer = self.call_pieces(node, method, encode_head(question), body, options).await?;
        let head = decode_head(&answer.head).map_err(|error| RpcError::Lost(error.to_string()))?;
        Ok((head, answer.body))
    }
}

impl Shared {
    /// The place for the next call: of several the one with the fewest calls.
    fn slot(&self, node: NodeId, class: Class) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        let pool = slots.entry((node, class)).or_insert_with(|| {
            let connections = match class {
                Class::Control => 1,
                Class::Bulk => RPC_BULK_CONNECTIONS,
            };
            (0..connections).map(|_| Arc::new(Slot::new(node, class))).collect()
        });
        let least = pool.iter().min_by_key(|slot| Arc::strong_count(&slot.calls));
        least.expect("a pool has at least one place").clone()
    }

    async fn call(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        method: u16,
        head: &Bytes,
        body: &[Bytes],
        sent: &AtomicBool,
    ) -> Result<Message, RpcError> {
        let node = slot.node;
        let connection = self.connection(slot).await?;
        let unreachable = |why: &str| RpcError::Unreachable(format!("node {node}: {why}"));
        let _permit = connection.in_flight.acquire().await.map_err(|_| unreachable("connection closed"))?;
        let call = connection.next_call.fetch_add(1, Ordering::Relaxed);
        let Some(request) = encode(Kind::Request, method, call, head, body) else {
            return Err(RpcError::Refused("the request is larger than a frame".to_string()));
        };
        let reply = connection.expect_reply(call);
        if connection.closed.load(Ordering::Acquire) {
            return Err(unreachable("connection closed"));
        }
        sent.store(true, Ordering::Relaxed);
        self.send(slot, &connection, request).await;
        let lost = || RpcError::Lost(format!("the connection to node {node} broke"));
        let frame = reply.frame().await.ok_or_else(lost)?;
        match frame.kind {
            Kind::Reply => Ok(Message { head: frame.head, body: frame.body }),
            Kind::Refused => Err(RpcError::Refused(String::from_utf8_lossy(&frame.head).into_owned())),
            _ => Err(RpcError::Lost(format!("node {node}: {}", String::from_utf8_lossy(&frame.head)))),
        }
    }

    /// Queues a request, as the faults will have it. A closed queue shows at the reply.
    async fn send(&self, slot: &Slot, connection: &Arc<Connection>, request: Outgoing) {
        let fate = self.faults.as_ref().map_or(Fate::Deliver, |faults| faults.request(slot.node, slot.class));
        match fate {
            Fate::Deliver => drop(connection.queue.send(request).await),
            Fate::Drop => {}
            Fate::Duplicate => {
                drop(connection.queue.send(request.clone()).await);
                drop(connection.queue.send(request).await);
            }
            Fate::Delay(time) => {
                let queue = connection.queue.clone();
                let later = async move {
                    tokio::time::sleep(time).await;
                    drop(queue.send(request).await);
                };
                self.seams.env.spawn("rpc-delayed", Box::pin(later));
            }
        }
    }

    /// An open connection, opened if need be.
    async fn connection(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Arc<Connection>, RpcError> {
        loop {
            let mut opening = match self.look(slot)? {
                Found::Open(connection) => return Ok(connection),
                Found::Opening(opening) => opening,
            };
            // Ends with an error when the task dropped its sender, which is what we wait for.
            drop(opening.changed().await);
        }
    }

    /// What there is; starts to open a connection where there is none and none is being opened.
    fn look(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Found, RpcError> {
        let mut state = lock(&slot.state);
        match &*state {
            SlotState::Open(connection) if !connection.closed.load(Ordering::Acquire) => {
                return Ok(Found::Open(connection.clone()));
            }
            SlotState::Opening(opening) if opening.has_changed().is_ok() => {
                return Ok(Found::Opening(opening.clone()));
            }
            SlotState::Closed { retry_at, why } if self.seams.env.monotonic() < *retry_at => {
                return Err(RpcError::Unreachable(why.clone()));
            }
            _ => {}
        }
        let (done, opening) = watch::channel(());
        *state = SlotState::Opening(opening.clone());
        let (shared, slot) = (self.clone(), slot.clone());
        let open = async move {
            let _done = done;
            let opened = shared.open(&slot).await;
            *lock(&slot.state) = match opened {
                Ok(connection) => SlotState::Open(connection),
                Err(error) => shared.closed(slot.node, &error),
            };
        };
        self.seams.env.spawn("rpc-connect", Box::pin(open));
        Ok(Found::Opening(opening))
    }

    fn closed(&self, node: NodeId, error: &io::Error) -> SlotState {
        let spread = BACKOFF_MS.end - BACKOFF_MS.start;
        let wait = BACKOFF_MS.start + random_u64(&*self.seams.env) % spread;
        let retry_at = self.seams.env.monotonic() + Duration::from_millis(wait);
        tracing::debug!(%node, %error, "connect to a node");
        SlotState::Closed { retry_at, why: format!("node {node}: {error}") }
    }

    /// Connects, shakes hands and starts the task of the connection.
    async fn open(self: &Arc<Self>, slot: &Slot) -> io::Result<Arc<Connection>> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "its address is not known");
        let address = self.book.address(slot.node).ok_or_else(unknown)?;
        self.identity.may_use(&*self.seams.net, &address)?;
        let greeting = async {
            let stream = self.seams.net.connect(&address).await?;
            let stream = match &self.identity.tls {
                Some(certificates) => certificates.connect(stream, slot.node).await?,
                None => stream,
            };
            let (read, mut writer) = tokio::io::split(stream);
            let mut reader =
                FrameReader::new(BufReader::with_capacity(READ_AHEAD_BYTES, read), HELLO_BYTES_MAX);
            handshake::dial(&self.identity, slot.node, slot.class, &mut reader, &mut writer).await?;
            reader.set_bytes_max(FRAME_BYTES_MAX);
            Ok::<_, io::Error>((reader, writer))
        };
        let (reader, writer) = timeout(CONNECT_DEADLINE, greeting).await??;
        let (queue, queued) = mpsc::channel(RPC_CALLS_PER_CONNECTION_MAX);
        let connection = Arc::new(Connection {
            queue,
            next_call: AtomicU64::new(1),
            waiting: Mutex::default(),
            closed: AtomicBool::new(false),
            in_flight: Semaphore::new(RPC_CALLS_PER_CONNECTION_MAX),
        });
        let faults = ReplyFaults { faults: self.faults.clone(), node: slot.node, class: slot.class };
        let faults = ReplyPath { faults, env: self.seams.env.clone() };
        let task = run(Arc::downgrade(&connection), reader, writer, queued, faults);
        self.seams.env.spawn("rpc-connection", Box::pin(task));
        Ok(connection)
    }
}

enum Found {
    Open(Arc<Connection>),
    Opening(watch::Receiver<()>),
}

impl Slot {
    fn new(node: NodeId, class: Class) -> Slot {
        let state = Mutex::new(SlotState::Closed { retry_at: Duration::ZERO, why: String::new() });
        Slot { node, class, state, calls: Arc::new(()) }
    }
}

impl Connection {
    fn expect_reply(self: &Arc<Self>, call: u64) -> Expected {
        let (send, reply) = oneshot::channel();
        lock(&self.waiting).insert(call, send);
        Expected { connection: self.clone(), call, reply }
    }

    /// Hands a reply to its call; one that nobody waits for is late or a duplicate.
    fn deliver(&self, frame: Frame) {
        let waiting = lock(&self.waiting).remove(&frame.call);
        if let Some(waiting) = waiting {
            drop(waiting.send(frame));
        }
    }

    fn has_waiting(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    /// Lets all calls know that nothing will come any more.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.in_flight.close();
        lock(&self.waiting).clear();
    }
}

/// A call that waits for its reply; it is forgotten when this is dropped.
struct Expected {
    connection: Arc<Connection>,
    call: u64,
    reply: oneshot::Receiver<Frame>,
}

impl Expected {
    /// `None` when the connection ended first.
    async fn frame(mut self) -> Option<Frame> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.connection.waiting).remove(&self.call);
    }
}

struct ReplyFaults {
    faults: Option<Arc<dyn FrameFaults>>,
    node: NodeId,
    class: Class,
}

/// What replies pass on their way to their calls.
struct ReplyPath {
    faults: ReplyFaults,
    env: Arc<dyn Env>,
}

impl ReplyPath {
    fn deliver(&self, connection: &Arc<Connection>, frame: Frame) {
        let ReplyFaults { faults, node, class } = &self.faults;
        match faults.as_ref().map_or(Fate::Deliver, |faults| faults.reply(*node, *class)) {
            // A second reply finds nobody.
            Fate::Deliver | Fate::Duplicate => connection.deliver(frame),
            Fate::Drop => {}
            Fate::Delay(time) => {
                let connection = connection.clone();
                let later = async move {
                    tokio::time::sleep(time).await;
                    connection.deliver(frame);
                };
                self.env.spawn("rpc-delayed", Box::pin(later));
            }
        }
    }
}

/// What the task of a connection knows of it: the connection ends when nobody else holds it, that is when the
/// client is gone. Closes it also when the task is stopped.
struct Held(Weak<Connection>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.0.upgrade() {
            connection.close();
        }
    }
}

type Reader = FrameReader<BufReader<ReadHalf<BoxStream>>>;

/// The task of a connection: whichever of writing and reading ends first ends both.
async fn run(
    connection: Weak<Connection>,
    mut reader: Reader,
    writer: WriteHalf<BoxStream>,
    queued: mpsc::Receiver<Outgoing>,
    path: ReplyPath,
) {
    let connection = Held(connection);
    let nothing = (Duration::from_secs(3600), || None);
    let ended = tokio::select! {
        biased;
        written = write_queued(writer, queued, nothing) => written,
        read = read_replies(&connection.0, &mut reader, &path) => read,
    };
    if let Err(error) = ended {
        tracing::info!(node = %path.faults.node, %error, "the connection to a node ended");
    }
}

async fn read_replies(held: &Weak<Connection>, reader: &mut Reader, path: &ReplyPath) -> io::Result<()> {
    let mut silent_intervals = 0;
    let mut arrived = reader.arrived();
    loop {
        let next = timeout(ALIVE_INTERVAL, reader.next()).await;
        let Some(connection) = held.upgrade() else {
            return Ok(());
        };
        match next {
            Ok(frame) => {
                let Some(frame) = frame? else {
                    return Ok(());
                };
                match frame.kind {
                    Kind::Reply | Kind::Refused | Kind::Failed => path.deliver(&connection, frame),
                    Kind::Alive => {}
                    other => {
                        let why = format!("a frame of kind {other:?} in place of a reply");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    }
                }
            }
            Err(_) if reader.arrived() == arrived && connection.has_waiting() => {
                silent_intervals += 1;
                if silent_intervals >= SILENT_INTERVALS_MAX {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "calls wait and nothing arrives"));
                }
                continue;
            }
            Err(_) => {}
        }
        silent_intervals = 0;
        arrived = reader.arrived();
    }
}
