//! Raft's calls to its peers, over the framed RPC.
//!
//! Appends are single calls with at most [`APPENDS_IN_FLIGHT`] on their way, pulled from Raft only when there is
//! room: so each carries as much as was queued meanwhile. They are numbered, so that the receiver can take them
//! in order whatever its scheduler does.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fabric::codec::{self, crc32c};
use fabric::env::{Env, random_u64, run_blocking};
use fabric::ids::RaftId;
use fabric::rpc::{CallOptions, Class, Message, RpcClient, RpcError, decode_head, encode_head};
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lives::{Lives, STALE};
use super::machine::{Cursor, Page, SnapshotData};
use super::types::{LogId, Member, Snapshot, Types, Vote};
use super::wire::{Life, PageHead, RaftHead, SnapshotEnd, VoterName, method};

/// Version of encoded requests and responses.
pub(super) const FORMAT: u8 = 1;
/// Appends on their way to one peer: more make each smaller, fewer leave the wire idle.
const APPENDS_IN_FLIGHT: usize = 2;
/// An append with entries waits for the peer's disk: the time Raft gives, which is a heartbeat, so often.
const APPEND_TIMES: u32 = 20;

/// Makes connections for Raft.
pub(super) struct Network {
    pub rpc: RpcClient,
    pub env: Arc<dyn Env>,
    pub me: Life,
    pub lives: Arc<Lives>,
    /// What each peer acknowledged to the leadership that asked it last. Links come and go with streams.
    pub acknowledged: BTreeMap<RaftId, Arc<Acknowledged>>,
}

/// Calls one peer.
pub(super) struct PeerLink {
    rpc: RpcClient,
    env: Arc<dyn Env>,
    me: Life,
    lives: Arc<Lives>,
    target: RaftId,
    acknowledged: Arc<Acknowledged>,
}

/// The highest entry that a peer acknowledged to a leadership.
#[derive(Default)]
pub(super) struct Acknowledged(Mutex<Option<(Vote, Option<LogId>)>>);

impl Acknowledged {
    /// Takes up an answer. False where the peer says that it misses what it has acknowledged.
    fn fits(&self, request: &Asked, answer: &AppendEntriesResponse<Types>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before =
            state.filter(|(vote, _)| *vote == request.vote).and_then(|(_, acknowledged)| acknowledged);
        let now = match answer {
            AppendEntriesResponse::Success => request.last,
            AppendEntriesResponse::PartialSuccess(matching) => *matching,
            AppendEntriesResponse::Conflict => return before.is_none() || before < request.previous,
            AppendEntriesResponse::HigherVote(_) => return true,
        };
        *state = Some((request.vote, before.max(now)));
        true
    }
}

/// What an append asked, to understand its answer.
struct Asked {
    vote: Vote,
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = PeerLink;

    async fn new_client(&mut self, target: u64, _node: &Member) -> PeerLink {
        let target = RaftId(target);
        PeerLink {
            rpc: self.rpc.clone(),
            env: self.env.clone(),
            me: self.me,
            lives: self.lives.clone(),
            target,
            acknowledged: self.acknowledged.entry(target).or_default().clone(),
        }
    }
}

type Rpc<T> = Result<T, RPCError<Types>>;
type BoxStream<'s, T> = futures::stream::BoxStream<'s, T>;

fn rpc_error(error: RpcError) -> RPCError<Types> {
    match &error {
        RpcError::Unreachable(_) | RpcError::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
        RpcError::Lost(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

fn broken(why: String) -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string(why))
}

impl PeerLink {
    fn head(&self, stream: u64, order: u64) -> RaftHead {
        RaftHead { from: self.me, to: self.target, stream, order }
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: u16,
        class: Class,
        head: &impl Serialize,
        body: Bytes,
        deadline: Duration,
    ) -> Rpc<A> {
        let request = Message { head: encode_head(head), body };
        let options = CallOptions { class, deadline };
        let reply = self.rpc.call(self.target.node(), method, request, options).await.map_err(|error| {
            if let RpcError::Refused(why) = &error
                && why.starts_with(STALE)
            {
                // Another process lives this life: this one must not go on.
                self.env.fail_stop(why);
            }
            rpc_error(error)
        })?;
        let life: Life = decode_head(&reply.head).map_err(|error| broken(error.to_string()))?;
        if life.id != self.target {
            return Err(broken(format!(
                "{} was asked, {} answered",
                VoterName(self.target),
                VoterName(life.id)
            )));
        }
        self.lives.admit(life).map_err(broken)?;
        codec::decode(FORMAT, "a reply of Raft", &reply.body).map_err(|error| broken(error.to_string()))
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
        stream: u64,
        order: u64,
        option: &RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let times = if request.entries.is_empty() { 1 } else { APPEND_TIMES };
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let asked = Asked { vote: request.vote, previous, last };
        let body = Bytes::from(codec::encode(FORMAT, &request));
        let deadline = option.hard_ttl() * times;
        let answer =
            self.call(method::APPEND, Class::Control, &self.head(stream, order), body, deadline).await?;
        if !self.acknowledged.fits(&asked, &answer) {
            return Err(overtaken());
        }
        Ok(answer)
    }

    async fn send_pages(&self, token: u64, data: &SnapshotData, deadline: Duration) -> Rpc<(u64, u32)> {
        let mut cursor: Cursor = None;
        let (mut number, mut crc) = (0, 0);
        loop {
            let (source, at) = (data.clone(), cursor.clone());
            let read = run_blocking(&*self.env, move || source.page(&at)).await;
            let (page, next): (Page, Cursor) = read.map_err(|fault| broken(fault.to_string()))?;
            let last = page.rows.is_empty();
            let body = Bytes::from(codec::encode(FORMAT, &page));
            crc = crc32c(&[&crc32c(&[&body]).to_le_bytes(), &u32::to_le_bytes(crc)]);
            let head = PageHead { raft: self.head(0, 0), page: number, token };
            let () = self.call(method::SNAPSHOT_PAGE, Class::Bulk, &head, body, deadline).await?;
            number += 1;
            if last {
                return Ok((number, crc));
            }
            cursor = next;
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        deadline: Duration,
    ) -> Rpc<SnapshotResponse<Types>> {
        let token = random_u64(&*self.env);
        let (pages, crc) = self.send_pages(token, &snapshot.snapshot, deadline).await?;
        let end = SnapshotEnd { raft: self.head(0, 0), token, pages, crc, vote, meta: snapshot.meta };
        let body = Bytes::from(codec::encode(FORMAT, &end));
        self.call(method::SNAPSHOT_END, Class::Bulk, &self.head(0, 0), body, deadline).await
    }
}

impl RaftNetworkV2<Types> for PeerLink {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        self.append(rpc, 0, 0, &option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> futures::future::BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let stream = random_u64(&*self.env).max(1);
        let link = &*self;
        let order = AtomicU64::new(0);
        let calls = input.map(move |request| {
            let order = order.fetch_add(1, Ordering::Relaxed);
            let option = option.clone();
            let previous = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(previous);
            async move {
                let response = link.append(request, stream, order, &option).await?;
                Ok(outcome(response, previous, last))
            }
        });
        // Polls the input only while fewer are on their way; answers come out in order. Raft reads up to the
        // first that is not a success, and drops the rest.
        let mut acknowledged: Option<LogId> = None;
        let answers = calls.buffered(APPENDS_IN_FLIGHT).map(move |answer| {
            match &answer {
                Ok(Ok(matching)) => acknowledged = acknowledged.max(*matching),
                Ok(Err(StreamAppendError::Conflict(previous))) if acknowledged >= Some(*previous) => {
                    return Err(overtaken());
                }
                Ok(Err(_)) | Err(_) => {}
            }
            answer
        });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        let body = Bytes::from(codec::encode(FORMAT, &rpc));
        self.call(method::VOTE, Class::Control, &self.head(0, 0), body, option.hard_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        let body = Bytes::from(codec::encode(FORMAT, &rpc));
        self.call(method::PRE_VOTE, Class::Control, &self.head(0, 0), body, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = self.send_snapshot(vote, snapshot, option.hard_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent.map_err(StreamingError::from),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let body = Bytes::from(codec::encode(FORMAT, &request));
        self.call(method::TRANSFER, Class::Control, &self.head(0, 0), body, option.hard_ttl()).await
    }
}

/// An append arrived before the one it follows, and that one was taken then: no conflict of logs. Or the peer has
/// lost what it acknowledged, and is asked in vain until it is replaced. Raft must hear of neither as of a conflict:
/// it would think that acknowledged entries are gone, and stop this leader.
fn overtaken() -> RPCError<Types> {
    broken("an append overtook the one before it, or the peer has lost what it acknowledged".to_string())
}

fn outcome(
    response: AppendEntriesResponse<Types>,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> StreamAppendResult<Types> {
    // A conflict needs something to conflict with; a peer that claims one without is not believed.
    if response.is_conflict() && previous.is_none() {
        return Ok(None);
    }
    response.into_stream_result(previous, last)
}
