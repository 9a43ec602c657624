//! [`MetaClient`]: the metadata over the network, or in this process where its leader runs here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::env::{Env, random_u64, random_u128};
use fabric::ids::{NodeId, SessionId};
use fabric::limits::{
    ENTRY_BYTES_MAX, GIVE_UP_DEADLINE, NAMED_PER_QUERY, PROPOSE_DEADLINE, QUERY_DEADLINE, SESSION_RENEWAL,
};
use fabric::rpc::{CallOptions, Class, RpcClient, RpcError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Serialize, de::DeserializeOwned};

use super::contacts::Contacts;
use super::detour::Detour;
use super::holds::{Holds, LongRead};
use super::session::Session;
use super::{Meta, MetaError, ReadGuard, WriteGuard};
use crate::meta::command::{Command, Done, EndSession, Entry, GiveUp, OpenSession, Reject, Reply, SetNode};
use crate::meta::model::{ClusterMs, NodeRow, SessionKind};
use crate::meta::query::{Answer, Answered, Query};
use crate::raft::machine::encode_entry;
use crate::raft::node::MetaNode;
use crate::raft::wire::{ProposeAnswer, QueryAnswer, Replace, ReplaceAnswer, method};

/// One attempt to propose waits no longer; the node gives up a little earlier.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(12);
/// One attempt to ask.
const ASK_DEADLINE: Duration = Duration::from_secs(4);
/// Voters whose disks are full get so long to find one that has space.
const FULL_PATIENCE: Duration = Duration::from_secs(3);
/// With the failpoint `late_repeat`, a proposal arrives once more after up to this long.
const LATE_REPEAT_MS_MAX: u64 = 20_000;
/// And with `send_twice`, each within this.
const SECOND_SENDING_MS_MAX: u64 = 30;
/// How long a voter has to answer whether it reaches the leader.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);
/// What another voter passes on is answered within this, or the way is no good.
const DETOUR_DEADLINE: Duration = Duration::from_secs(3);
/// Pauses between attempts.
const BACKOFF_MS: std::ops::Range<u64> = 20..200;

/// What another voter knows of a leader that does not answer us.
enum Way {
    /// This one leads by now.
    To(NodeId),
    /// It still leads, and this voter reaches it.
    By(NodeId),
}

/// A call and the same call passed on by another voter.
#[derive(Clone, Copy)]
struct Method {
    direct: u16,
    passed_on: u16,
}

const PROPOSE: Method = Method { direct: method::PROPOSE, passed_on: method::PROPOSE_BY };
const QUERY: Method = Method { direct: method::QUERY, passed_on: method::QUERY_BY };

/// A client of the metadata. Clones share the session.
#[derive(Clone)]
pub struct MetaClient {
    inner: Arc<Inner>,
}

struct Inner {
    env: Arc<dyn Env>,
    rpc: RpcClient,
    contacts: Contacts,
    kind: SessionKind,
    local: Option<Arc<MetaNode>>,
    leader: Mutex<Option<NodeId>>,
    /// Whom to ask next while nobody is known to lead.
    turn: AtomicUsize,
    /// How to reach a leader that does not answer us.
    detour: Detour,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    holds: Arc<Holds>,
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
    /// `contacts`: whom to ask. `local`: the voter of this process, asked without the network.
    pub fn new(
        env: Arc<dyn Env>,
        rpc: RpcClient,
        contacts: Contacts,
        kind: SessionKind,
        local: Option<Arc<MetaNode>>,
    ) -> MetaClient {
        let leader = local.as_ref().map(|node| node.identity().node);
        let inner = Inner {
            env,
            rpc,
            contacts,
            kind,
            local,
            leader: Mutex::new(leader),
            turn: AtomicUsize::new(0),
            detour: Detour::default(),
            session: tokio::sync::Mutex::new(None),
            holds: Holds::new(),
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

    /// Proposes once without hearing the answer; whether the proposal arrives is the caller's choice. The entry comes
    /// back, as what the network still holds of it.
    #[cfg(test)]
    pub(crate) async fn propose_unheard(
        &self,
        command: Command,
        arrives: bool,
    ) -> (Result<Done, MetaError>, Entry) {
        let mut entry = Inner::entry_of_cluster(command);
        let session = self.inner.session().await.expect("the test has a leader");
        let sequence = session.draw().expect("few are open");
        (entry.session, entry.sequence) = (session.id, sequence.number);
        entry.lowest_open = session.lowest_open();
        if arrives {
            assert!(matches!(self.inner.attempt(&entry, ATTEMPT_DEADLINE).await, Attempt::Applied(_)));
        }
        let unheard = Outcome::Unknown("nobody answered".to_string());
        let concluded = self.inner.conclude(&session, sequence.number, unheard).await;
        (concluded.expect("the session lives"), entry)
    }

    /// Sends an entry once more.
    #[cfg(test)]
    pub(crate) async fn repeat(&self, entry: &Entry) -> Reply {
        match self.inner.attempt(entry, ATTEMPT_DEADLINE).await {
            Attempt::Applied(reply) => reply,
            Attempt::Not(why) | Attempt::Perhaps(why) | Attempt::Full(why) => panic!("{why}"),
        }
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
        // What cannot be asked now holds its marks until the next renewal.
        drop(tokio::time::timeout(ASK_DEADLINE, self.look_again()).await);
        let Some(sequence) = session.draw() else { return };
        let mut renewal = self.holds.renewal(session.id, self.env.monotonic());
        if self.env.armed("forget_pins") {
            renewal.pinned.clear();
        }
        let mut entry = Inner::entry_of_cluster(Command::RenewSession(renewal));
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

    /// Lets long reads pass their marks. At least it learns the present index, so that a client that asks nothing
    /// holds nothing back.
    async fn look_again(&self) -> Result<(), String> {
        let long = self.holds.long_reads(self.env.monotonic());
        if long.is_empty() {
            let answered = self.ask_once(&Query::Named(Vec::new()), ASK_DEADLINE).await?;
            self.holds.saw(answered.index);
        }
        for read in long {
            self.look_again_at(&read).await?;
        }
        Ok(())
    }

    async fn look_again_at(&self, read: &LongRead) -> Result<(), String> {
        let (mut index, mut unnamed) = (u64::MAX, Vec::new());
        for extents in read.extents.chunks(NAMED_PER_QUERY) {
            let question = Query::Named(extents.iter().map(|extent| (read.home.clone(), *extent)).collect());
            let answered = self.ask_once(&question, ASK_DEADLINE).await?;
            let Ok(Answer::Named(named)) = answered.answer else {
                return Err("the answer to named is of another kind".to_string());
            };
            self.holds.saw(answered.index);
            // What is named later was named before, since nothing is named a second time.
            index = index.min(answered.index);
            unnamed.extend(extents.iter().zip(named).filter(|(_, named)| !named).map(|(extent, _)| *extent));
        }
        self.holds.looked_again(read, index, &unnamed, self.env.monotonic());
        Ok(())
    }

    /// What there is to tell of an outcome, once it is settled; `None`: certainly not done, and to be done again in a
    /// new session.
    async fn conclude(
        &self,
        session: &Arc<Session>,
        sequence: u64,
        outcome: Outcome,
    ) -> Option<Result<Done, MetaError>> {
        let settled = match outcome {
            Outcome::Unknown(why) => self.give_up(session, sequence, why).await,
            settled => settled,
        };
        Some(match settled {
            Outcome::Reply(Reply::Done(done), _) => Ok(done),
            Outcome::Reply(Reply::Rejected(Reject::SessionEnded), perhaps) => {
                session.end();
                if !perhaps {
                    return None;
                }
                Err(MetaError::Unknown("the session ended while the outcome was open".to_string()))
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
        })
    }

    /// Settles a command whose outcome is open: what it came to, or that it never happens. Unknown only if even
    /// that cannot be learned.
    async fn give_up(&self, session: &Arc<Session>, sequence: u64, why: String) -> Outcome {
        let Some(own) = session.draw() else { return Outcome::Unknown(why) };
        let mut entry = Inner::entry_of_cluster(Command::GiveUp(GiveUp { sequence }));
        entry.session = session.id;
        entry.sequence = own.number;
        match self.drive(&mut entry, Some(session), GIVE_UP_DEADLINE).await {
            Outcome::Reply(Reply::Done(Done::GivenUp(None)), _) => Outcome::Never(why),
            Outcome::Reply(Reply::Done(Done::GivenUp(Some(reply))), _) => Outcome::Reply(*reply, true),
            Outcome::Reply(Reply::Rejected(Reject::SessionEnded), _) => {
                Outcome::Reply(Reply::Rejected(Reject::SessionEnded), true)
            }
            Outcome::Reply(..) | Outcome::Never(_) | Outcome::Unknown(_) | Outcome::Full(_) => {
                Outcome::Unknown(why)
            }
        }
    }

    /// With the failpoint `late_repeat` the network delivers a proposal once more, long after its outcome was known.
    fn repeat_late(self: &Arc<Self>, entry: &Entry) {
        if !self.env.armed("late_repeat") {
            return;
        }
        let (client, entry) = (self.clone(), entry.clone());
        let delay = Duration::from_millis(random_u64(&*self.env) % LATE_REPEAT_MS_MAX);
        let task = async move {
            tokio::time::sleep(delay).await;
            drop(client.attempt(&entry, ATTEMPT_DEADLINE).await);
        };
        self.env.spawn("late-repeat", Box::pin(task));
    }

    /// With the failpoint `send_twice` the network delivers each proposal twice, a moment apart.
    fn repeat_now(&self, node: NodeId, body: &Bytes) {
        if !self.env.armed("send_twice") {
            return;
        }
        let (rpc, body) = (self.rpc.clone(), body.clone());
        let options = CallOptions { class: Class::Control, deadline: ATTEMPT_DEADLINE };
        let delay = Duration::from_millis(random_u64(&*self.env) % SECOND_SENDING_MS_MAX);
        let task = async move {
            tokio::time::sleep(delay).await;
            drop(rpc.call_typed::<_, ProposeAnswer>(node, method::PROPOSE, &(), body, options).await);
        };
        self.env.spawn("second-proposal", Box::pin(task));
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
        let mut node = self.target();
        let answer = match self.local_at(node) {
            Some(local) => local.propose(entry.clone()).await,
            None => {
                let body = Bytes::from(encode_entry(entry));
                self.repeat_now(node, &body);
                match self.call(&mut node, PROPOSE, &(), body, deadline).await {
                    Ok(answer) => answer,
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
        let mut node = self.target();
        let answer = match self.local_at(node) {
            Some(local) => local.query(query.clone()).await,
            None => match self.call(&mut node, QUERY, query, Bytes::new(), deadline).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.look_elsewhere(node);
                    return Err(error.to_string());
                }
            },
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

    /// Calls a voter; where it does not answer, the one that leads by now, or by another voter. Proposals may arrive
    /// twice then, and are told apart by their numbers. Afterwards `node` is the one that answered, or did not.
    async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        node: &mut NodeId,
        method: Method,
        question: &Q,
        body: Bytes,
        deadline: Duration,
    ) -> Result<A, RpcError> {
        let end = self.env.monotonic() + deadline;
        loop {
            let now = self.env.monotonic();
            let options = CallOptions { class: Class::Control, deadline: end.saturating_sub(now) };
            if let Some(other) = self.detour.around(*node, now) {
                let options = CallOptions { deadline: options.deadline.min(DETOUR_DEADLINE), ..options };
                let passed = self.rpc.call_typed(other, method.passed_on, question, body, options).await;
                if passed.is_err() {
                    self.detour.forget();
                }
                return passed.map(|(answer, _)| answer);
            }
            let direct = self.rpc.call_typed(*node, method.direct, question, body.clone(), options);
            tokio::select! {
                biased;
                answer = direct => return answer.map(|(answer, _)| answer),
                leader = self.find_way(*node) => *node = leader,
            }
        }
    }

    /// Ends once there is another way than to wait for `node`: returns who leads by now, or `node` itself where another
    /// voter is known to reach it.
    async fn find_way(&self, node: NodeId) -> NodeId {
        loop {
            self.detour.pause().await;
            let leader = self.target();
            if leader != node || self.detour.around(node, self.env.monotonic()).is_some() {
                return leader;
            }
            let Some(_turn) = self.detour.look() else { continue };
            match futures::future::join(self.probe(node, method::QUERY), self.ask_for_way(node)).await {
                // It is only slow with what we wait for.
                (Some(_), _) | (None, None) => {}
                (None, Some(Way::To(leader))) => {
                    self.hinted(node, Some(leader));
                    self.detour.tell();
                    return leader;
                }
                (None, Some(Way::By(other))) => {
                    self.detour.found(node, other, self.env.monotonic());
                    self.detour.tell();
                    return node;
                }
            }
        }
    }

    /// The first way to the leader that another voter knows.
    async fn ask_for_way(&self, node: NodeId) -> Option<Way> {
        let others = self.contacts.all().filter(|other| *other != node);
        let mut asked: FuturesUnordered<_> = others.map(|other| self.way_known_to(other, node)).collect();
        while let Some(way) = asked.next().await {
            if way.is_some() {
                return way;
            }
        }
        None
    }

    /// Asks a voter for a way to the leader, while `node` does not answer.
    async fn way_known_to(&self, voter: NodeId, node: NodeId) -> Option<Way> {
        match self.probe(voter, method::QUERY).await? {
            QueryAnswer::Answered(_) => Some(Way::To(voter)),
            QueryAnswer::NotLeader(Some(leader)) if leader != node => Some(Way::To(leader)),
            QueryAnswer::NotLeader(Some(_)) => match self.probe(voter, method::QUERY_BY).await? {
                QueryAnswer::Answered(_) => Some(Way::By(voter)),
                QueryAnswer::NotLeader(_) | QueryAnswer::Unavailable(_) => None,
            },
            QueryAnswer::NotLeader(None) | QueryAnswer::Unavailable(_) => None,
        }
    }

    /// A question that costs nothing.
    async fn probe(&self, voter: NodeId, method: u16) -> Option<QueryAnswer> {
        let options = CallOptions { class: Class::Control, deadline: PROBE_DEADLINE };
        let nothing = Query::Named(Vec::new());
        let asked = self.rpc.call_typed(voter, method, &nothing, Bytes::new(), options).await;
        asked.ok().map(|(answer, _)| answer)
    }

    fn local_at(&self, node: NodeId) -> Option<&Arc<MetaNode>> {
        self.local.as_ref().filter(|local| local.identity().node == node)
    }

    /// Who leads, as far as we know; else the next node in turn.
    fn target(&self) -> NodeId {
        let known = *self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        known.unwrap_or_else(|| self.contacts.at(self.turn.load(Ordering::Relaxed)))
    }

    fn look_elsewhere(&self, asked: NodeId) {
        self.hinted(asked, None);
    }

    /// `asked` does not lead; perhaps `hint` does. Another call may have learned better meanwhile.
    fn hinted(&self, asked: NodeId, hint: Option<NodeId>) {
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if leader.is_none_or(|leader| leader == asked) {
            *leader = hint.filter(|hint| *hint != asked);
            self.turn.fetch_add(1, Ordering::Relaxed);
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
        let end = self.inner.env.monotonic() + (PROPOSE_DEADLINE - GIVE_UP_DEADLINE);
        loop {
            let session = self.inner.session().await?;
            let Some(sequence) = session.draw() else {
                return Err(MetaError::Unavailable("too many commands are open".to_string()));
            };
            entry.session = session.id;
            entry.sequence = sequence.number;
            let left = end.saturating_sub(self.inner.env.monotonic());
            let outcome = self.inner.drive(&mut entry, Some(&session), left).await;
            let concluded = self.inner.conclude(&session, sequence.number, outcome).await;
            self.inner.repeat_late(&entry);
            if let Some(result) = concluded {
                return result;
            }
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
                    inner.holds.saw(answered.index);
                    return Ok(answered);
                }
                Err(why) if inner.env.monotonic() >= end => return Err(MetaError::Unavailable(why)),
                Err(_) => inner.pause().await,
            }
        }
    }

    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        let session = self.inner.session().await?;
        let (number, write) = self.inner.holds.begin_write(session.id, self.inner.env.monotonic());
        Ok(WriteGuard::new(session.id, number, Box::new(write)))
    }

    fn begin_read(&self) -> ReadGuard {
        ReadGuard::new(Box::new(self.inner.holds.begin_read(self.inner.env.monotonic())))
    }
}
