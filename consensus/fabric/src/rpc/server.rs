//! The side that answers calls.
//!
//! Each connection is one task that reads, writes and keeps the bounds; each call is a task of its own. A call
//! that began runs to its end, even when its caller is gone: a handler is never stopped half-way.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::{BufReader, ReadHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::frame::{Frame, FrameReader, Kind, Outgoing, encode, write_queued};
use super::handshake::{self, HELLO_BYTES_MAX};
use super::{Class, Identity, Message, Peer, Service};
use crate::Seams;
use crate::env::{TaskHandle, panic_message};
use crate::limits::{
    CONNECT_DEADLINE, FRAME_BYTES_MAX, RPC_CALLS_PER_CONNECTION_MAX, RPC_CONNECTIONS_MAX,
    RPC_SERVER_BYTES_MAX,
};
use crate::net::{BoxStream, Listener, accept};

/// While calls are worked on and nothing is sent, the caller hears this often that we are alive.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A frame that began must be there after this.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// The budget of bytes is counted in these.
const BUDGET_UNIT_BYTES: usize = 1 << 10;
/// Bytes read ahead on a connection.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Answers calls on `listener` by `service` until the handle aborts it; then its connections end too. Refused
/// where [`Identity::may_use`] refuses the address. Requests of `memory_bytes` are read and handled at once for each
/// class of connections, between [`FRAME_BYTES_MAX`] and [`RPC_SERVER_BYTES_MAX`].
pub fn serve(
    seams: &Seams,
    identity: Identity,
    listener: Box<dyn Listener>,
    service: Arc<dyn Service>,
    memory_bytes: u64,
) -> io::Result<TaskHandle> {
    identity.may_use(&*seams.net, &listener.local_address().to_string())?;
    let most = (memory_bytes as usize).clamp(FRAME_BYTES_MAX, RPC_SERVER_BYTES_MAX);
    let budget = || Arc::new(Semaphore::new(most / BUDGET_UNIT_BYTES));
    let server = Server { seams: seams.clone(), identity, service, control: budget(), bulk: budget() };
    Ok(seams.env.spawn("rpc-accept", Box::pin(accept_all(Arc::new(server), listener))))
}

struct Server {
    seams: Seams,
    identity: Identity,
    service: Arc<dyn Service>,
    /// Bytes of requests that are being read or handled, for each class.
    control: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

async fn accept_all(server: Arc<Server>, mut listener: Box<dyn Listener>) {
    let connections = Arc::new(Semaphore::new(RPC_CONNECTIONS_MAX));
    // Dropped with this task, which ends the connections.
    let (_open, closing) = watch::channel(());
    loop {
        let room = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = accept(&mut *listener).await;
        let (server, mut closing) = (server.clone(), closing.clone());
        let env = server.seams.env.clone();
        let connection = async move {
            let _room = room;
            tokio::select! {
                biased;
                _ = closing.changed() => {}
                ended = server.connection(stream) => {
                    match ended {
                        // A process that ends, as each command of an operator does, says no goodbye.
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            tracing::debug!(%from, %error, "a peer went away");
                        }
                        Err(error) => tracing::info!(%from, %error, "a connection of a peer ended"),
                        Ok(()) => {}
                    }
                }
            }
        };
        env.spawn("rpc-connection", Box::pin(connection));
    }
}

impl Server {
    async fn connection(self: &Arc<Self>, stream: BoxStream) -> io::Result<()> {
        let greeting = async {
            let (stream, proved) = match &self.identity.tls {
                Some(certificates) => {
                    let (stream, proved) = certificates.accept(stream).await?;
                    (stream, Some(proved))
                }
                None => (stream, None),
            };
            let (read, mut writer) = tokio::io::split(stream);
            let mut reader =
                FrameReader::new(BufReader::with_capacity(READ_AHEAD_BYTES, read), HELLO_BYTES_MAX);
            let (from, class) = handshake::answer(&self.identity, proved, &mut reader, &mut writer).await?;
            Ok::<_, io::Error>((reader, writer, from, class))
        };
        let (mut reader, writer, from, class) = timeout(CONNECT_DEADLINE, greeting).await??;
        reader.set_bytes_max(FRAME_BYTES_MAX);

        let calls = Arc::new(Semaphore::new(RPC_CALLS_PER_CONNECTION_MAX));
        let (replies, queue) = mpsc::channel(RPC_CALLS_PER_CONNECTION_MAX);
        let busy = || {
            let idle = calls.available_permits() == RPC_CALLS_PER_CONNECTION_MAX;
            if idle { None } else { encode(Kind::Alive, 0, 0, &Bytes::new(), &[]) }
        };
        // Whichever side ends first ends both, and with them the connection.
        tokio::select! {
            biased;
            written = write_queued(writer, queue, (ALIVE_INTERVAL, busy)) => written,
            read = self.read_calls(reader, from, class, &calls, replies) => read,
        }
    }

    async fn read_calls(
        self: &Arc<Self>,
        mut reader: FrameReader<BufReader<ReadHalf<BoxStream>>>,
        from: Peer,
        class: Class,
        calls: &Arc<Semaphore>,
        replies: mpsc::Sender<Outgoing>,
    ) -> io::Result<()> {
        let budget = match class {
            Class::Control => &self.control,
            Class::Bulk => &self.bulk,
        };
        loop {
            let Some(length) = reader.next_length().await? else {
                return Ok(());
            };
            let units = length.div_ceil(BUDGET_UNIT_BYTES) as u32;
            let call = calls.clone().acquire_owned().await.map_err(io::Error::other)?;
            let bytes = budget.clone().acquire_many_owned(units).await.map_err(io::Error::other)?;
            let Some(frame) = timeout(FRAME_DEADLINE, reader.next()).await?? else {
                return Ok(());
            };
            if frame.kind != Kind::Request {
                let why = format!("a frame of kind {:?} in place of a request", frame.kind);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let handling = handle(self.service.clone(), from, frame, replies.clone(), [call, bytes]);
            self.seams.env.spawn("rpc-call", Box::pin(handling));
        }
    }
}

async fn handle(
    service: Arc<dyn Service>,
    from: Peer,
    request: Frame,
    replies: mpsc::Sender<Outgoing>,
    held: [OwnedSemaphorePermit; 2],
) {
    let Frame { method, call, head, body, .. } = request;
    let handled = AssertUnwindSafe(service.call(from, method, Message { head, body })).catch_unwind().await;
    let reply = match handled {
        Ok(Ok(answer)) => {
            let reply = encode(Kind::Reply, method, call, &answer.head, &[answer.body]);
            // It was done, so it is no refusal.
            reply.or_else(|| failed(method, call, "the reply is larger than a frame"))
        }
        Ok(Err(reason)) => encode(Kind::Refused, method, call, &Bytes::from(reason), &[]),
        Err(panic) => {
            tracing::error!(method, message = panic_message(&*panic), "the handler of a call panicked");
            failed(method, call, "the handler of the call panicked")
        }
    };
    if let Some(reply) = reply {
        // The connection is gone: so is whoever waited.
        drop(replies.send(reply).await);
    }
    drop(held);
}

fn failed(method: u16, call: u64, why: &'static str) -> Option<Outgoing> {
    encode(Kind::Failed, method, call, &Bytes::from(why), &[])
}
