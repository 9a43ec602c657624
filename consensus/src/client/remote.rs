//! [`MetaClient`]: the metadata over the network, or in this process where its leader runs here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::env::{Env, random_u64, random_u128};
use fabric::ids::{NodeId, SessionId};
use fabric::limits::{ENTRY_BYTES_MAX, PROPOSE_DEADLINE, QUERY_DEADLINE, SESSION_RENEWAL};
use fabric::rpc::{CallOptions, Class, RpcClient, RpcError};

use super::session::{Reads, Session};
use super::{Meta, MetaError, ReadGuard, WriteGuard};
use crate::meta::command::{Command, Done, EndSession, Entry, OpenSession, Reject, Reply, SetNode};
use crate::meta::model::{ClusterMs, NodeRow, SessionKind};
use crate::meta::query::{Answered, Query};
use crate::raft::machine::encode_entry;
use crate::raft::node::MetaNode;
use crate::raft::wire::{ProposeAnswer, QueryAnswer, Replace, ReplaceAnswer, method};

/// One attempt to propose waits no longer; the node gives up a little earlier.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(12);
/// One attempt to ask.
const ASK_DEADLINE: Duration = Duration::from_secs(4);
/// Voters whose disks are full get so long to find one that has space.
const FULL_PATIENCE: Duration = Duration::from_secs(3);
/// Pauses between attempts.
const BACKOFF_MS: std::ops::Range<u64> = 20..200;

/// A client of the metadata. Clones share the session.
#[derive(Clone)]
pub struct MetaClient {
    inner: Arc<Inner>,
}

struct Inner {
    env: Arc<dyn Env>,
    rpc: RpcClient,
    voters: Vec<NodeId>,
    kind: SessionKind,
    local: Option<Arc<MetaNode>>,
    leader: Mutex<Option<NodeId>>,
    /// Whom to ask next while nobody is known to lead.
    next_voter: AtomicUsize,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    reads: Arc<Reads>,
    closed: AtomicBool,
}

/// What one attempt to propose came to.
enum Attempt {
    Applied(Reply),
    /// Certainly not taken.
    Not(String),
    /// Perhaps.
    Perhaps(String),
    /// Certainly not taken: the leader's disk is full.
    Full(String),
}

/// What all attempts together came to.
enum Outcome {
    /// The reply, and whether an earlier attempt may have been taken too.
    Reply(Reply, bool),
    Never(String),
    Unknown(String),
    /// Never, and for as long as the disks are full.
    Full(String),
}

impl MetaClient {
    /// `voters`: whom to ask first. `local`: the voter of this process, asked without the network.
    pub fn new(
        env: Arc<dyn Env>,
        rpc: RpcClient,
        voters: Vec<NodeId>,
        kind: SessionKind,
        local: Option<Arc<MetaNode>>,
    ) -> MetaClient {
        assert!(!voters.is_empty(), "a cluster has voters");
        let leader = local.as_ref().map(|node| node.identity().node);
        let inner = Inner {
            env,
            rpc,
            voters,
            kind,
            local,
            leader: Mutex::new(leader),
            next_voter: AtomicUsize::new(0),
            session: tokio::sync::Mutex::new(None),
            reads: Arc::default(),
            closed: AtomicBool::new(false),
        };
        MetaClient { inner: Arc::new(inner) }
    }

    /// Makes a node known, or known again after a start. A node whose counter of starts is refused
    /// ([`Reject::StaleNode`]) runs on a copied directory and must not go on.
    pub async fn register(&self, row: NodeRow) -> Result<(), MetaError> {
        self.propose(Command::SetNode(SetNode { row })).await.map(drop)
    }

    /// Puts a new incarnation of a voter in the place of a lost one; asks until the leader has done it.
    pub async fn replace(&self, replace: Replace) -> Result<(), MetaError> {
        let inner = &self.inner;
        let end = inner.env.monotonic() + PROPOSE_DEADLINE;
        loop {
            let node = inner.target();
            let options = CallOptions { class: Class::Control, deadline: PROPOSE_DEADLINE };
            let why = match inner.rpc.call_typed(node, method::REPLACE, &replace, Bytes::new(), options).await
            {
                Ok((ReplaceAnswer::Done, _)) => return Ok(()),
                Ok((ReplaceAnswer::Failed(why), _)) => return Err(MetaError::Unavailable(why)),
                Ok((ReplaceAnswer::NotLeader(hint), _)) => {
                    inner.hinted(node, hint);
                    format!("node {node} does not lead")
                }
                Err(error) => {
                    inner.look_elsewhere(node);
                    error.to_string()
                }
            };
            if inner.env.monotonic() >= end {
                return Err(MetaError::Unknown(why));
            }
            inner.pause().await;
        }
    }

    /// The session, for those who check whose extents they see; opened if need be.
    pub async fn session_id(&self) -> Result<SessionId, MetaError> {
        Ok(self.inner.session().await?.id)
    }

    /// Who led when it was last heard, for people to see.
    pub fn leader(&self) -> Option<NodeId> {
        *self.inner.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says goodbye, so that nobody waits for the session to fall silent.
    pub async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        let session = self.inner.session.lock().await.take();
        let Some(session) = session else { return };
        session.end();
        let command = Command::EndSession(EndSession { session: session.id });
        // The leader ends it otherwise.
        drop(self.inner.attempt(&Inner::entry_of_cluster(command), ATTEMPT_DEADLINE).await);
    }
}

impl Inner {
    fn entry_of_cluster(command: Command) -> Entry {
        let session = SessionId { epoch: 0, number: 0 };
        Entry { session, sequence: 0, lowest_open: 0, at: ClusterMs(0), command }
    }

    /// The session, opened if there is none or it was ended.
    async fn session(self: &Arc<Self>) -> Result<Arc<Session>, MetaError> {
        let mut current = self.session.lock().await;
        if let Some(session) = current.as_ref().filter(|session| !session.ended()) {
            return Ok(session.clone());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(MetaError::Unavailable("the client is closed".to_string()));
        }
        let nonce = random_u128(&*self.env);
        let command = Command::OpenSession(OpenSession { kind: self.kind.clone(), nonce });
        let mut entry = Inner::entry_of_cluster(command);
        // Idempotent by its nonce: a session that was opened unheard falls silent and is ended.
        let id = match self.drive(&mut entry, None, PROPOSE_DEADLINE).await {
            Outcome::Reply(Reply::Done(Done::Session(id)), _) => id,
            Outcome::Reply(reply, _) => {
                return Err(MetaError::Unavailable(format!("no session was opened: {reply:?}")));
            }
            Outcome::Never(why) | Outcome::Unknown(why) => return Err(MetaError::Unavailable(why)),
            Outcome::Full(why) => return Err(MetaError::Full(why)),
        };
        let session = Session::new(id);
        *current = Some(session.clone());
        self.keep_alive(session.clone());
        Ok(session)
    }

    /// Renews a session until it ends or the client is gone.
    fn keep_alive(self: &Arc<Self>, session: Arc<Session>) {
        let client: Weak<Inner> = Arc::downgrade(self);
        let task = async move {
            loop {
                tokio::time::sleep(SESSION_RENEWAL).await;
                let Some(client) = client.upgrade().filter(|_| !session.ended()) else { return };
                client.renew(&session).await;
            }
        };
        self.env.spawn("session-renewal", Box::pin(task));
    }

    async fn renew(self: &Arc<Self>, session: &Arc<Session>) {
        let Some(sequence) = session.draw() else { return };
        let command = Command::RenewSession(session.renewal(self.reads.oldest()));
        let mut entry = Inner::entry_of_cluster(command);
        entry.session = session.id;
        entry.sequence = sequence.number;
        match self.drive(&mut entry, Some(session), SESSION_RENEWAL).await {
            Outcome::Reply(Reply::Rejected(Reject::SessionEnded), _) => session.end(),
            Outcome::Reply(..) => {}
            Outcome::Never(why) | Outcome::Unknown(why) | Outcome::Full(why) => {
                tracing::debug!(why, "a session was not renewed; it will be");
            }
        }
    }

    /// Proposes an entry again and again until its outcome is known or the time is over.
    async fn drive(&self, entry: &mut Entry, session: Option<&Arc<Session>>, patience: Duration) -> Outcome {
        let end = self.env.monotonic() + patience;
        let mut perhaps: Option<String> = None;
        let mut full_since: Option<Duration> = None;
        loop {
            if let Some(session) = session {
                entry.lowest_open = session.lowest_open();
            }
            let left = end.saturating_sub(self.env.monotonic());
            let why = match self.attempt(entry, left.min(ATTEMPT_DEADLINE)).await {
                Attempt::Applied(reply) => return Outcome::Reply(reply, perhaps.is_some()),
                Attempt::Not(why) => why,
                Attempt::Full(why) => {
                    // Another voter may have space, and take over.
                    let now = self.env.monotonic();
                    let long = now.saturating_sub(*full_since.get_or_insert(now)) >= FULL_PATIENCE;
                    if long && perhaps.is_none() {
                        return Outcome::Full(why);
                    }
                    why
                }
                Attempt::Perhaps(why) => {
                    perhaps = Some(why.clone());
                    why
                }
            };
            if self.env.monotonic() + Duration::from_millis(BACKOFF_MS.start) >= end {
                return match perhaps {
                    Some(why) => Outcome::Unknown(why),
                    None => Outcome::Never(why),
                };
            }
            self.pause().await;
        }
    }

    async fn attempt(&self, entry: &Entry, deadline: Duration) -> Attempt {
        let node = self.target();
        let answer = match self.local_at(node) {
            Some(local) => local.propose(entry.clone()).await,
            None => {
                let body = Bytes::from(encode_entry(entry));
                let options = CallOptions { class: Class::Control, deadline };
                match self.rpc.call_typed(node, method::PROPOSE, &(), body, options).await {
                    Ok((answer, _)) => answer,
                    Err(error) => {
                        self.look_elsewhere(node);
                        return match error {
                            RpcError::Lost(why) => Attempt::Perhaps(why),
                            RpcError::Unreachable(why) | RpcError::Refused(why) => Attempt::Not(why),
                        };
                    }
                }
            }
        };
        match answer {
            ProposeAnswer::Applied(reply) => Attempt::Applied(reply),
            ProposeAnswer::NotLeader(hint) => {
                self.hinted(node, hint);
                Attempt::Not(format!("node {node} does not lead"))
            }
            ProposeAnswer::Perhaps(why) => {
                self.look_elsewhere(node);
                Attempt::Perhaps(why)
            }
            ProposeAnswer::Full(why) => {
                self.look_elsewhere(node);
                Attempt::Full(why)
            }
        }
    }

    async fn ask_once(&self, query: &Query, deadline: Duration) -> Result<Answered, String> {
        let node = self.target();
        let answer = match self.local_at(node) {
            Some(local) => local.query(query.clone()).await,
            None => {
                let options = CallOptions { class: Class::Control, deadline };
                match self.rpc.call_typed(node, method::QUERY, query, Bytes::new(), options).await {
                    Ok((answer, _)) => answer,
                    Err(error) => {
                        self.look_elsewhere(node);
                        return Err(error.to_string());
                    }
                }
            }
        };
        match answer {
            QueryAnswer::Answered(answered) => {
                // Only a leader answers, so this one leads, or did a moment ago.
                *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
                Ok(answered)
            }
            QueryAnswer::NotLeader(hint) => {
                self.hinted(node, hint);
                Err(format!("node {node} does not lead"))
            }
            QueryAnswer::Unavailable(why) => {
                self.look_elsewhere(node);
                Err(why)
            }
        }
    }

    fn local_at(&self, node: NodeId) -> Option<&Arc<MetaNode>> {
        self.local.as_ref().filter(|local| local.identity().node == node)
    }

    /// Who leads, as far as we know; else the next voter in turn.
    fn target(&self) -> NodeId {
        let known = *self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        known.unwrap_or_else(|| self.voters[self.next_voter.load(Ordering::Relaxed) % self.voters.len()])
    }

    fn look_elsewhere(&self, asked: NodeId) {
        self.hinted(asked, None);
    }

    /// `asked` does not lead; perhaps `hint` does. Another call may have learned better meanwhile.
    fn hinted(&self, asked: NodeId, hint: Option<NodeId>) {
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if leader.is_none_or(|leader| leader == asked) {
            *leader = hint.filter(|hint| *hint != asked);
            self.next_voter.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn pause(&self) {
        let range = BACKOFF_MS.end - BACKOFF_MS.start;
        let wait = BACKOFF_MS.start + random_u64(&*self.env) % range;
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

#[async_trait]
impl Meta for MetaClient {
    async fn propose(&self, command: Command) -> Result<Done, MetaError> {
        let mut entry = Inner::entry_of_cluster(command);
        let bytes = encode_entry(&entry).len();
        // The numbers of the session take a little more than the zeros now.
        if bytes + 64 > ENTRY_BYTES_MAX {
            let why = format!("the command has {bytes} bytes, too many for one entry");
            return Err(MetaError::Rejected(Reject::Malformed(why)));
        }
        let end = self.inner.env.monotonic() + PROPOSE_DEADLINE;
        loop {
            let session = self.inner.session().await?;
            let Some(sequence) = session.draw() else {
                return Err(MetaError::Unavailable("too many commands are open".to_string()));
            };
            entry.session = session.id;
            entry.sequence = sequence.number;
            let left = end.saturating_sub(self.inner.env.monotonic());
            return match self.inner.drive(&mut entry, Some(&session), left).await {
                Outcome::Reply(Reply::Done(done), _) => Ok(done),
                Outcome::Reply(Reply::Rejected(Reject::SessionEnded), perhaps) => {
                    session.end();
                    if perhaps {
                        let why = "the session ended while the outcome was open".to_string();
                        return Err(MetaError::Unknown(why));
                    }
                    continue; // Certainly not done: again in a new session.
                }
                Outcome::Reply(Reply::Rejected(Reject::SessionFull), _) => {
                    Err(MetaError::Unavailable("too many commands are open".to_string()))
                }
                Outcome::Reply(Reply::Rejected(reject), _) => Err(MetaError::Rejected(reject)),
                Outcome::Reply(Reply::TooLate, _) => {
                    Err(MetaError::Unknown("the command was given up".to_string()))
                }
                Outcome::Never(why) => Err(MetaError::Unavailable(why)),
                Outcome::Unknown(why) => Err(MetaError::Unknown(why)),
                Outcome::Full(why) => Err(MetaError::Full(why)),
            };
        }
    }

    async fn query(&self, query: Query) -> Result<Answered, MetaError> {
        let inner = &self.inner;
        // A read is held open by the session: there has to be one before the view is taken.
        inner.session().await?;
        let end = inner.env.monotonic() + QUERY_DEADLINE;
        loop {
            let left = end.saturating_sub(inner.env.monotonic());
            match inner.ask_once(&query, left.min(ASK_DEADLINE)).await {
                Ok(answered) => {
                    inner.reads.saw(answered.index);
                    return Ok(answered);
                }
                Err(why) if inner.env.monotonic() >= end => return Err(MetaError::Unavailable(why)),
                Err(_) => inner.pause().await,
            }
        }
    }

    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        let session = self.inner.session().await?;
        let write = session.begin_write();
        let number = write.number;
        Ok(WriteGuard::new(session.id, number, Box::new(write)))
    }

    fn begin_read(&self) -> ReadGuard {
        ReadGuard::new(Box::new(self.inner.reads.begin()))
    }
}
