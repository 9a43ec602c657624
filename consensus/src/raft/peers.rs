//! What peers ask of this node's Raft: appends in order, votes, snapshots, leadership.

use std::num::NonZeroUsize;
use std::sync::Mutex as StdMutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use fabric::codec::{self, crc32c};
use fabric::ids::RaftId;
use fabric::rpc::{Message, Peer, decode_head, reply_typed};
use lru::LruCache;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, Notify};

use super::machine::{Page, Receiving};
use super::network::FORMAT;
use super::node::Running;
use super::types::{Snapshot, Types};
use super::wire::{PageHead, RaftHead, SnapshotEnd, method};

/// An append that came early waits so long for the one before it; Raft sorts out the rest.
const ORDER_WAIT: Duration = Duration::from_millis(50);
/// Streams of appends remembered; a peer has a few.
const STREAMS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// State of the server side.
pub(super) struct Peers {
    /// Next place in each stream that was active last.
    streams: StdMutex<LruCache<u64, u64>>,
    moved: Notify,
    incoming: Mutex<Option<Incoming>>,
}

impl Default for Peers {
    fn default() -> Peers {
        let streams = StdMutex::new(LruCache::new(STREAMS_MAX));
        Peers { streams, moved: Notify::new(), incoming: Mutex::new(None) }
    }
}

/// A snapshot that is being received.
struct Incoming {
    token: u64,
    pages: u64,
    crc: u32,
    receiving: Receiving,
}

fn decoded<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, String> {
    codec::decode(FORMAT, what, body).map_err(|error| error.to_string())
}

fn reply(running: &Running, value: &impl Serialize) -> Message {
    reply_typed(&running.life, Bytes::from(codec::encode(FORMAT, value)))
}

impl Peers {
    /// Answers one of Raft's own calls.
    pub async fn call(
        &self,
        running: &Running,
        from: Peer,
        method: u16,
        request: Message,
    ) -> Result<Message, String> {
        match method {
            method::APPEND => {
                let head = checked(running, from, &request)?;
                self.append(running, head, &request.body).await
            }
            method::VOTE | method::PRE_VOTE => {
                let head = checked(running, from, &request)?;
                vote(running, head, method, &request.body).await
            }
            method::SNAPSHOT_PAGE => self.page(running, from, &request).await,
            method::SNAPSHOT_END => {
                checked(running, from, &request)?;
                self.end(running, &request.body).await
            }
            method::TRANSFER => {
                checked(running, from, &request)?;
                let request: TransferLeaderRequest<Types> = decoded("transfer request", &request.body)?;
                let transfer = running.raft.handle_transfer_leader(request);
                let done = running.scope(transfer).await.map_err(|error| error.to_string())?;
                Ok(reply(running, &done))
            }
            _ => Err(format!("method {method:#06x} is not offered here")),
        }
    }

    async fn append(&self, running: &Running, head: RaftHead, body: &[u8]) -> Result<Message, String> {
        let request: AppendEntriesRequest<Types> = decoded("append request", body)?;
        self.in_order(head).await;
        let mut append = Box::pin(running.scope(running.raft.append_entries(request)));
        // The first poll hands the request to Raft; then the next of the stream may follow.
        let first = futures::poll!(&mut append);
        self.passed(head);
        let done = match first {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => append.await,
        };
        done.map(|response| reply(running, &response)).map_err(|error| error.to_string())
    }

    /// Waits for the append before this one, a little.
    async fn in_order(&self, head: RaftHead) {
        let wait = async {
            loop {
                let moved = self.moved.notified();
                let next =
                    self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(&head.stream).copied();
                if head.stream == 0 || next.is_none_or(|next| head.order <= next) {
                    return;
                }
                moved.await;
            }
        };
        // An append that does not come is sent again by Raft.
        let _ = tokio::time::timeout(ORDER_WAIT, wait).await;
    }

    fn passed(&self, head: RaftHead) {
        if head.stream == 0 {
            return;
        }
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let next = streams.get_or_insert_mut(head.stream, || 0);
        *next = (*next).max(head.order + 1);
        drop(streams);
        self.moved.notify_waiters();
    }

    async fn page(&self, running: &Running, from: Peer, request: &Message) -> Result<Message, String> {
        let head: PageHead = decode_head(&request.head).map_err(|error| error.to_string())?;
        check(running, from, head.raft)?;
        let page: Page = decoded("snapshot page", &request.body)?;
        let mut incoming = self.incoming.lock().await;
        if head.page == 0 && incoming.as_ref().is_none_or(|incoming| incoming.token != head.token) {
            *incoming = None;
            let receiving = running.tables.receive().await.map_err(|error| error.to_string())?;
            *incoming = Some(Incoming { token: head.token, pages: 0, crc: 0, receiving });
        }
        let Some(current) = incoming.as_mut().filter(|incoming| incoming.token == head.token) else {
            return Err("this snapshot was given up".to_string());
        };
        if head.page > current.pages {
            return Err(format!("page {} of a snapshot came before page {}", head.page, current.pages));
        }
        if head.page == current.pages {
            current.receiving.add(page).await.map_err(|error| error.to_string())?;
            current.pages += 1;
            let crc = crc32c(&[&request.body]);
            current.crc = crc32c(&[&crc.to_le_bytes(), &current.crc.to_le_bytes()]);
        }
        Ok(reply(running, &())) // A repeated page is there already.
    }

    async fn end(&self, running: &Running, body: &[u8]) -> Result<Message, String> {
        let end: SnapshotEnd = decoded("snapshot end", body)?;
        let mut incoming = self.incoming.lock().await;
        let complete =
            incoming.take().filter(|incoming| incoming.token == end.token && incoming.pages == end.pages);
        let Some(complete) = complete.filter(|incoming| incoming.crc == end.crc) else {
            return Err("the snapshot is not complete here, or damaged".to_string());
        };
        let snapshot = Snapshot { meta: end.meta, snapshot: complete.receiving.finish() };
        let install = running.raft.install_full_snapshot(end.vote, snapshot);
        let response = running.scope(install).await.map_err(|error| error.to_string())?;
        Ok(reply(running, &response))
    }
}

async fn vote(running: &Running, head: RaftHead, method: u16, body: &[u8]) -> Result<Message, String> {
    // A follower may lag behind the entry that made its leader a member, so appends are taken from whoever
    // leads; a vote is given only to somebody it knows.
    if !running.may_be_member(head.from.id) {
        return Err(format!("{} is not a member here", super::wire::VoterName(head.from.id)));
    }
    let request: VoteRequest<Types> = decoded("vote request", body)?;
    let done = match method {
        method::VOTE => running.scope(running.raft.vote(request)).await,
        _ => running.scope(running.raft.pre_vote(request)).await,
    };
    done.map(|response| reply(running, &response)).map_err(|error| error.to_string())
}

fn checked(running: &Running, from: Peer, request: &Message) -> Result<RaftHead, String> {
    let head: RaftHead = decode_head(&request.head).map_err(|error| error.to_string())?;
    check(running, from, head)?;
    Ok(head)
}

/// Raft is taken only from the node that the connection proved, from no copy of it, and only if it means this
/// incarnation.
fn check(running: &Running, from: Peer, head: RaftHead) -> Result<(), String> {
    let name = |id: RaftId| super::wire::VoterName(id).to_string();
    if from != Peer::Node(head.from.id.node()) {
        return Err(format!("{from} speaks for {}", name(head.from.id)));
    }
    if head.to != running.life.id {
        return Err(format!("{} is meant, this is {}", name(head.to), name(running.life.id)));
    }
    running.lives.admit(head.from)
}
