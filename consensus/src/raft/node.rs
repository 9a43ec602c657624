//! One voter: birth, Raft, and what clients of the metadata ask.
//!
//! [`MetaNode::open`] makes the identity durable and can answer peers at once; [`MetaNode::start`] goes through
//! birth and returns when Raft runs. A node is born only when *all* initial voters are unborn; a voter that lost
//! its disk is another incarnation, finds that it is no member, and does not start; one whose directory is a copy
//! finds that its peers know better ([`super::lives`]).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::env::{Env, TaskHandle, random_u64, run_blocking, spawn_critical};
use fabric::ids::{ClusterId, NodeId, RaftId, SessionId};
use fabric::limits::{COPIES, ENTRY_BYTES_MAX, SNAPSHOT_ENTRIES_DEFAULT, VOTER_PATIENCE_DEFAULT, VOTERS_MAX};
use fabric::rpc::{
    CallOptions, Class, Message, Peer, RpcClient, RpcError, Service, decode_head, reply_typed,
};
use fabric::{Edge, Seams};
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Config, Raft, ServerState, SnapshotPolicy};
use tokio::sync::Notify;

use super::backups::Backups;
use super::clocks::Clocks;
use super::donors::{self, OtherVoters};
use super::duties::{self, Leadership};
use super::electorate;
use super::identity::{self, IdentityError, NodeIdentity};
use super::lives::{self, Lives};
use super::log::{self, Headroom, Log, LogConfig, LogFault, Shelf};
use super::machine::{Machine, MachineConfig, Opened, Tables, decode_entry, encode_entry};
use super::network::Network;
use super::peers::Peers;
use super::reads::{ReadError, Rounds};
use super::rebuild;
use super::types::{Member, Proposal, Runtime, Types};
use super::wire::{
    BirthAnswer, BirthState, Life, Presence, ProposeAnswer, QueryAnswer, Replace, ReplaceAnswer, VoterName,
    method,
};
use crate::meta::answer::answer;
use crate::meta::apply::Planted;
use crate::meta::command::{Command, Entry, Reply};
use crate::meta::model::{ClusterMs, ClusterRow, FIRST_EPOCH, NodeRow};
use crate::meta::query::{Answer, Query};
use crate::meta::tables::{Cluster, get};

/// A proposal that was not applied after this is "perhaps".
const APPLY_DEADLINE: Duration = Duration::from_secs(10);
/// What is passed on to the leader waits no longer than the leader does.
const PASSED_ON: CallOptions = CallOptions { class: Class::Control, deadline: APPLY_DEADLINE };
/// Peers are asked about their birth this often.
const BIRTH_INTERVAL: Duration = Duration::from_millis(100);
/// One question about birth.
const BIRTH_DEADLINE: Duration = Duration::from_secs(1);
/// A voter that has not heard yet that this node was let in says that it is none; it hears of it in this time.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);
/// A majority of the members that others know of answers in this time, or they are asked again who that is. Longer than it
/// takes to see that another process of this incarnation is at work.
const HEARSAY_PATIENCE: Duration = Duration::from_secs(30);
/// Each brings the tables further than what the log lacks; more than this many help no more.
const REBUILDS_MAX: u32 = 3;
/// Others are asked whether this node is a member still, and are believed when they deny it so many times in a row.
const DISMISSAL_INTERVAL: Duration = Duration::from_secs(5);
const DISMISSALS: u32 = 2;
/// A leader that stops waits so long for somebody to take over.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(2);
/// A change of members takes no longer, or failed.
const REPLACE_DEADLINE: Duration = Duration::from_secs(30);

/// What a voter has to know.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The voters the cluster is born with. The same on all of them.
    pub voters: Vec<NodeId>,
    /// The storage nodes that the first layout waits for.
    pub nodes: Vec<NodeId>,
    /// Copies that it makes of each extent, 1 to 3.
    pub copies: usize,
    /// A voter that is silent for longer is exchanged by a node that stands by.
    pub voter_patience: Duration,
    /// Sizes of the log.
    pub log: LogConfig,
    /// Sizes of the state machine.
    pub machine: MachineConfig,
    /// Entries between snapshots; the log is kept until then.
    pub snapshot_entries: u64,
}

impl NodeConfig {
    /// With sizes for production.
    pub fn new(cluster: ClusterId, node: NodeId, voters: Vec<NodeId>, nodes: Vec<NodeId>) -> NodeConfig {
        NodeConfig {
            cluster,
            node,
            voters,
            nodes,
            copies: COPIES,
            voter_patience: VOTER_PATIENCE_DEFAULT,
            log: LogConfig::default(),
            machine: MachineConfig::default(),
            snapshot_entries: SNAPSHOT_ENTRIES_DEFAULT,
        }
    }
}

/// Why a voter does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is damaged or another's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log does not open.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// The log has lost what only another disk could give back.
    #[error("{fault}; {remedy}")]
    LostLog {
        /// What is lost.
        fault: LogFault,
        /// What the operator can do.
        remedy: String,
    },
    /// The tables do not open.
    #[error("the metadata cannot be opened: {0}")]
    Machine(#[from] io::Error),
    /// Raft does not start.
    #[error("Raft does not start: {0}")]
    Raft(String),
    /// The cluster knows this node under another incarnation: its disk was lost or exchanged.
    #[error(
        "node {node} is a member of the cluster under another incarnation: its data was lost or exchanged; \
         to let it take part again run: replace {old} {new}"
    )]
    Replaced {
        /// The node.
        node: NodeId,
        /// The member.
        old: VoterName,
        /// What is here.
        new: VoterName,
    },
    /// The data directory is a copy, or was restored from one: it lacks what this voter has promised.
    #[error(
        "the data directory of node {node} is an old or copied one: {why}; never start it again: move it away, \
         start the node with an empty directory, and run the command that it prints"
    )]
    Stale {
        /// The node.
        node: NodeId,
        /// How it shows.
        why: String,
    },
    /// The log of the cluster went back, and this node did not.
    #[error("{0}")]
    Behind(String),
    /// The cluster exists, or is to be born, without this node as a voter. It may [stand by](MetaNode::stand_by).
    #[error(
        "the cluster has voters, and {new} is none of them; it stands by; to make it one more run: admit {new}; to \
         put it in the place of one: replace OLD {new}"
    )]
    NotAVoter {
        /// What is here.
        new: VoterName,
    },
}

/// Raft and the tables, once they run.
pub(super) struct Running {
    pub life: Life,
    pub lives: Arc<Lives>,
    pub rpc: RpcClient,
    pub env: Arc<dyn Env>,
    pub raft: Raft<Types, Machine>,
    pub tables: Arc<Tables>,
    pub rounds: Rounds,
    pub leadership: Leadership,
    pub clocks: Arc<Clocks>,
    log: Log,
    seed: AtomicU64,
    stopping: AtomicBool,
    tasks: Mutex<Vec<TaskHandle>>,
}

impl Running {
    /// Runs a call of Raft with a seed for its random choices.
    pub fn scope<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        let seed = self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        Runtime::scope(seed, call)
    }

    fn keep(&self, task: TaskHandle) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Ends everything that runs, without ceremony.
    async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        if let Err(error) = self.scope(self.raft.shutdown()).await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        self.tables.close();
        self.log.close();
    }

    /// The term in which this node leads, if it does.
    pub fn leads(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    /// Whether a node is a member, or could be as far as we know.
    pub fn may_be_member(&self, id: RaftId) -> bool {
        let members = self.members();
        members.is_empty() || members.contains(&id)
    }

    /// Voters and learners, as of the last membership in the log.
    pub(super) fn members(&self) -> Vec<RaftId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(id, _)| RaftId(*id)).collect()
    }

    /// The nodes that vote, as of the last membership in the log.
    pub(super) fn voter_nodes(&self) -> Vec<NodeId> {
        self.raft.voter_ids().map(|id| RaftId(id).node()).collect()
    }

    /// The index behind what a member has acknowledged to this node, if this node leads.
    fn acknowledged_by(&self, id: RaftId) -> Option<u64> {
        self.leads()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&id.0)?.as_ref()?;
        Some(matched.index + 1)
    }

    /// Takes the epoch of the cluster from the metadata.
    pub fn learn_epoch(&self) {
        if let Some(epoch) = self.tables.epoch() {
            self.rpc.epoch().learn(epoch);
        }
    }

    fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader.map(|id| RaftId(id).node())
    }

    /// Lets the voter lead that has most of the log, of those in `among` if there are any, and waits for it a little.
    pub async fn hand_over(&self, among: &[NodeId]) {
        let best = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            let others = metrics.replication.iter().flatten();
            let others = others.filter(|(id, _)| **id != self.life.id.0 && voters.contains(id));
            let wanted = |id: u64| among.is_empty() || among.contains(&RaftId(id).node());
            let others = others.filter(|(id, _)| wanted(**id));
            others.max_by_key(|(_, matched)| **matched).map(|(id, _)| *id)
        };
        let Some(best) = best else { return };
        let transfer = async {
            if self.scope(self.raft.trigger().transfer_leader(best)).await.is_err() {
                return; // Raft has stopped: nothing to hand over.
            }
            let mut metrics = self.raft.metrics();
            let me = Some(self.life.id.0);
            loop {
                let leader = metrics.borrow_and_update().current_leader;
                // An error says that Raft has stopped.
                if (leader.is_some() && leader != me) || metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        // Without it the others elect one all the same.
        let _ = tokio::time::timeout(TRANSFER_DEADLINE, transfer).await;
    }

    /// Index of the last entry applied, if there are committed ones behind it.
    pub fn applied_behind(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.map_or(0, |applied| applied.index);
        let committed = metrics.local_committed.map_or(0, |committed| committed.index);
        (applied < committed).then_some(applied)
    }

    /// What the disk has left, for the log and for the tables.
    pub fn headroom(&self) -> Headroom {
        self.log.headroom().max(self.tables.headroom())
    }

    /// On a full disk, deletes go on with what was kept for them: they are what makes space.
    fn has_room_for(&self, command: &Command) -> bool {
        match self.headroom() {
            Headroom::Ahead => true,
            Headroom::Reserve => !command.grows(),
            Headroom::Spent => false,
        }
    }

    /// Whether no other voter could lead.
    pub fn is_alone(&self) -> bool {
        self.raft.voter_ids().all(|id| id == self.life.id.0)
    }

    /// Proposes a command of the cluster itself, in no session.
    pub async fn propose_own(&self, command: Command) -> Result<Reply, String> {
        let session = SessionId { epoch: 0, number: 0 };
        let entry = Entry { session, sequence: 0, lowest_open: 0, at: ClusterMs(0), command };
        match self.propose(entry).await {
            ProposeAnswer::Applied(reply) => Ok(reply),
            ProposeAnswer::NotLeader(_) => Err("another node leads".to_string()),
            ProposeAnswer::Perhaps(why) | ProposeAnswer::Full(why) => Err(why),
        }
    }

    /// Proposes an entry: stamps the time, and waits until it is applied.
    pub async fn propose(&self, mut entry: Entry) -> ProposeAnswer {
        if self.leads().is_none() {
            return ProposeAnswer::NotLeader(self.leader().filter(|leader| *leader != self.life.id.node()));
        }
        self.leadership.heard(&*self.env, entry.session);
        if !self.has_room_for(&entry.command) {
            return ProposeAnswer::Full(format!("the disk of node {} is full", self.life.id.node()));
        }
        let (applied, median) = (self.tables.cluster_time(), self.clocks.median_ms());
        entry.at = self.leadership.stamp(&*self.env, applied, median);
        let bytes = encode_entry(&entry);
        drop(entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            let why = format!("the entry has {} bytes; the limit is {ENTRY_BYTES_MAX}", bytes.len());
            return ProposeAnswer::Applied(Reply::Rejected(crate::meta::command::Reject::Malformed(why)));
        }
        let write = self.scope(self.raft.client_write(Proposal(Bytes::from(bytes))));
        match tokio::time::timeout(APPLY_DEADLINE, write).await {
            Err(_) => ProposeAnswer::Perhaps(format!("not applied within {APPLY_DEADLINE:?}")),
            Ok(Ok(response)) => match response.data {
                Some(reply) => ProposeAnswer::Applied(reply),
                None => ProposeAnswer::Perhaps("the entry had no reply".to_string()),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                ProposeAnswer::NotLeader(forward.leader_id.map(|id| RaftId(id).node()))
            }
            Ok(Err(error)) => ProposeAnswer::Perhaps(error.to_string()),
        }
    }

    /// Answers a query from a view that shows everything acknowledged before.
    pub async fn query(&self, query: Query) -> QueryAnswer {
        match self.rounds.join().await {
            Ok(()) => {}
            Err(ReadError::NotLeader(leader)) => return QueryAnswer::NotLeader(leader),
            Err(ReadError::Unavailable(why)) => return QueryAnswer::Unavailable(why),
        }
        let view = self.tables.view();
        let answered = if reads_much(&query) {
            run_blocking(&*self.env, move || answer(&*view, view.index(), &query)).await
        } else {
            answer(&*view, view.index(), &query)
        };
        match answered {
            Ok(mut answered) => {
                if let Ok(Answer::Members { nodes, .. }) = &mut answered.answer {
                    self.say_who_votes(nodes);
                }
                QueryAnswer::Answered(answered)
            }
            Err(fault) => {
                let reason = format!("the metadata cannot be read: {fault}");
                self.env.fail_stop(&reason);
                QueryAnswer::Unavailable(reason)
            }
        }
    }

    /// A row says what the node was born as; who votes by now is Raft's to say.
    fn say_who_votes(&self, nodes: &mut [NodeRow]) {
        let voters: Vec<RaftId> = self.raft.voter_ids().map(RaftId).collect();
        for row in nodes {
            row.voter = voters.iter().find(|voter| voter.node() == row.id).copied();
        }
    }

    async fn replace(&self, replace: Replace) -> ReplaceAnswer {
        if self.leads().is_none() {
            return ReplaceAnswer::NotLeader(self.leader());
        }
        let changing = self.scope(self.change_members(replace));
        match tokio::time::timeout(REPLACE_DEADLINE, changing).await {
            Ok(Ok(())) => ReplaceAnswer::Done,
            Ok(Err(why)) => ReplaceAnswer::Failed(why),
            Err(_) => ReplaceAnswer::Failed(format!("not done within {REPLACE_DEADLINE:?}; ask again")),
        }
    }

    async fn change_members(&self, Replace { old, new }: Replace) -> Result<(), String> {
        let members = self.members();
        if old == new {
            return self.admit(&members, new).await;
        }
        if !members.contains(&old) {
            return match members.contains(&new) {
                true => Ok(()), // Asked before.
                false => Err(format!("{} is not a member", VoterName(old))),
            };
        }
        if !members.contains(&new) {
            // Not waiting for it: it starts only once it is a member.
            let added = self.raft.add_learner(new.0, Member::of(new), false).await;
            added.map_err(|error| error.to_string())?;
        }
        let voters = self.raft.voter_ids().filter(|id| *id != old.0).chain([new.0]).collect();
        let changed = self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await;
        changed.map(drop).map_err(|error| error.to_string())
    }

    /// Makes a node one more voter.
    async fn admit(&self, members: &[RaftId], new: RaftId) -> Result<(), String> {
        if self.raft.voter_ids().any(|id| id == new.0) {
            return Ok(()); // Asked before.
        }
        if let Some(other) = members.iter().find(|member| member.node() == new.node() && **member != new) {
            let (old, new) = (VoterName(*other), VoterName(new));
            return Err(format!("the node is a voter under another incarnation: replace {old} {new}"));
        }
        if self.raft.voter_ids().count() >= VOTERS_MAX {
            return Err(format!("there are {VOTERS_MAX} voters already"));
        }
        if !members.contains(&new) {
            // It starts only once it is a member, and votes once it has caught up.
            let added = self.raft.add_learner(new.0, Member::of(new), false).await;
            return added.map(drop).map_err(|error| error.to_string());
        }
        if !self.caught_up().contains(&new) {
            return Err("it has not caught up yet: start it, and it votes soon after".to_string());
        }
        self.make_voter(new).await
    }

    async fn make_voter(&self, id: RaftId) -> Result<(), String> {
        let more = ChangeMembers::AddVoterIds(BTreeSet::from([id.0]));
        let changed = self.raft.change_membership(more, false).await;
        changed.map(drop).map_err(|error| error.to_string())
    }
}

/// Whether a query may read many rows, and so must not hold up a thread of the runtime.
fn reads_much(query: &Query) -> bool {
    !matches!(query, Query::Bucket(_) | Query::Usage(_) | Query::Object { .. } | Query::AccessKey(_))
}

/// A voter of this process. See the file's head.
pub struct MetaNode {
    seams: Seams,
    rpc: RpcClient,
    directory: PathBuf,
    identity: NodeIdentity,
    life: Life,
    lives: Arc<Lives>,
    config: NodeConfig,
    peers: Peers,
    /// What other voters may read of the log.
    shelf: Shelf,
    backups: Backups,
    /// For voters that lost their tables.
    rebuilds: Backups,
    /// Set once the log is found to hold something, or Raft was started.
    alive: AtomicBool,
    call: Call,
    running: Mutex<Option<Arc<Running>>>,
}

/// A leader's call to a node that stands by: Raft was asked of it.
#[derive(Default)]
struct Call {
    came: Notify,
    from: Mutex<Option<NodeId>>,
}

impl MetaNode {
    /// Makes the identity of the node durable. Serve it then (groups 1, 2 and 4), and start it.
    pub async fn open(
        seams: &Seams,
        rpc: RpcClient,
        directory: &Path,
        config: NodeConfig,
    ) -> Result<Arc<MetaNode>, StartError> {
        let identity = identity::open(seams, directory, config.cluster, config.node).await?;
        Ok(MetaNode::with_identity(seams, rpc, directory, config, identity))
    }

    /// As [`MetaNode::open`], for an identity that is durable already.
    pub fn with_identity(
        seams: &Seams,
        rpc: RpcClient,
        directory: &Path,
        config: NodeConfig,
        identity: NodeIdentity,
    ) -> Arc<MetaNode> {
        rpc.epoch().learn(identity.epoch);
        Arc::new(MetaNode {
            seams: seams.clone(),
            rpc,
            directory: directory.to_path_buf(),
            identity,
            life: identity.next_life(&*seams.env),
            lives: Arc::new(Lives::new(seams.env.clone())),
            config,
            peers: Peers::default(),
            shelf: Shelf::default(),
            backups: Backups::default(),
            rebuilds: Backups::default(),
            alive: AtomicBool::new(true),
            call: Call::default(),
            running: Mutex::default(),
        })
    }

    /// Who it is.
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// The life of this process.
    pub fn life(&self) -> Life {
        self.life
    }

    /// Goes through birth, opens log and tables, and starts Raft. A single voter leads when this returns. After
    /// [`StartError::NotAVoter`] nothing is open, and the node may stand by.
    pub fn start(&self) -> Edge<'_, Result<(), StartError>> {
        Box::pin(async move {
            if self.is_stranger().await? {
                return Err(StartError::NotAVoter { new: VoterName(self.identity.raft_id()) });
            }
            let env = &self.seams.env;
            let mut machine_config = self.config.machine.clone();
            let planted = &mut machine_config.context.planted;
            *planted = Planted {
                skip_condition: env.armed("skip_condition"),
                skip_reply_cache: env.armed("skip_reply_cache"),
                commit_one_copy: env.armed("commit_one_copy"),
                drop_debts: env.armed("drop_debts"),
                skip_lowest_sequence: env.armed("skip_lowest_sequence"),
                accept_ended_session: env.armed("accept_ended_session"),
                skip_removal: env.armed("skip_removal"),
            };
            let machine = self.open_machine(machine_config).await?;
            let mut log = self.open_log(&machine).await?;
            let floor = machine.floor().await;
            if let Some(applied) = machine.applied().await {
                log.agree_with(applied).await?;
            }
            let pristine = log.is_pristine() && floor == 0;
            self.alive.store(!pristine, Ordering::Release);
            let next_index = floor.max(*log.synced().borrow());
            let machine = machine.run(Some(log.synced()));
            match machine.tables().epoch() {
                Some(epoch) => self.rpc.epoch().learn(epoch),
                // It took part, and knows no later one: peers of a later one must not teach it.
                None if !pristine => self.rpc.epoch().learn(self.identity.epoch.max(FIRST_EPOCH)),
                None => {}
            }
            self.lives.remember_in(Some(machine.tables()));
            let voters = match self.caller() {
                Some(_) if pristine => self.voters_heard_of().await,
                _ => self.voters(&machine),
            };
            if let Err(error) = self.wait_for_leave(&voters, pristine, next_index).await {
                // A node that stands by begins anew later.
                self.lives.remember_in(None);
                machine.tables().close();
                log.close();
                return Err(error);
            }
            let running = self.run(log, machine, voters).await?;
            if pristine {
                self.initialise(&running).await?;
            }
            self.lead_if_alone(&running).await;
            Ok(())
        })
    }

    /// Whether nobody has ever called this node to take part: the cluster is not born with it, and it has no log.
    async fn is_stranger(&self) -> Result<bool, StartError> {
        if self.config.voters.contains(&self.config.node) || self.caller().is_some() {
            return Ok(false);
        }
        let (disks, directory) = (self.seams.disks.clone(), log::directory(&self.directory));
        match run_blocking(&*self.seams.env, move || disks.list(&directory)).await {
            Ok(names) => Ok(names.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the call of a leader that has made this node a member, and starts then. Does not return before.
    pub fn stand_by(&self) -> Edge<'_, Result<(), StartError>> {
        Box::pin(async move {
            tracing::info!(name = %VoterName(self.identity.raft_id()), "this node stands by for the voters");
            loop {
                self.call.came.notified().await;
                match self.start().await {
                    // It was a member of an older membership only.
                    Err(StartError::NotAVoter { .. }) => {}
                    started => return started,
                }
            }
        })
    }

    /// Waits until other nodes say that this one is no member any more, and stops Raft then; what it has of the log and
    /// the tables stays. The node may stand by.
    pub fn dismissed(&self) -> Edge<'_, ()> {
        Box::pin(async move {
            let mut said = 0;
            while said < DISMISSALS {
                tokio::time::sleep(DISMISSAL_INTERVAL).await;
                said = if self.is_dismissed().await { said + 1 } else { 0 };
            }
            tracing::info!("this node is no member any more");
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(running) = running {
                self.lives.remember_in(None);
                running.stopping.store(true, Ordering::Release);
                running.stop().await;
            }
        })
    }

    /// Whether all others that know of members do not know this node. They may lag; then a leader calls it again.
    async fn is_dismissed(&self) -> bool {
        if self.leads() {
            return false;
        }
        let others = self.known_nodes().into_iter().filter(|node| *node != self.config.node);
        let answers = futures::future::join_all(others.map(|node| self.ask_birth(node))).await;
        let mut memberships = answers.into_iter().flatten().filter_map(|answer| match answer.state {
            BirthState::Member(members) => Some(members),
            BirthState::Unborn | BirthState::Starting => None,
        });
        let lists_me = |members: &Vec<RaftId>| members.contains(&self.life.id);
        memberships
            .next()
            .is_some_and(|first| !lists_me(&first) && !memberships.any(|other| lists_me(&other)))
    }

    fn running(&self) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who called last, of those that lead.
    fn caller(&self) -> Option<NodeId> {
        *self.call.from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self, from: Peer) {
        if let Peer::Node(from) = from {
            *self.call.from.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
            self.call.came.notify_one();
        }
    }

    /// Waits until a majority of those that vote now has nothing against a process that does not vote itself.
    pub fn present(&self) -> Edge<'_, Result<(), StartError>> {
        Box::pin(async move {
            let presence = Presence { life: self.life, next_index: 0 };
            loop {
                let voters = self.voters_heard_of().await;
                let presented = lives::present(&*self.seams.env, &self.rpc, &voters, presence);
                match tokio::time::timeout(HEARSAY_PATIENCE, presented).await {
                    Ok(presented) => {
                        return presented.map_err(|why| StartError::Stale { node: self.config.node, why });
                    }
                    // Those that vote may be others by now.
                    Err(_) => tracing::info!(?voters, "no majority of the voters answers yet"),
                }
            }
        })
    }

    /// The members that any node knows of; before there are any, those that the cluster is born with.
    async fn voters_heard_of(&self) -> Vec<NodeId> {
        let others = self.known_nodes().into_iter().filter(|node| *node != self.config.node);
        let mut asked: FuturesUnordered<_> = others.map(|node| self.ask_birth(node)).collect();
        while let Some(answer) = asked.next().await {
            if let Some(BirthState::Member(members)) = answer.map(|answer| answer.state) {
                return members.into_iter().map(RaftId::node).collect();
            }
        }
        self.config.voters.clone()
    }

    /// All nodes that this one has heard of, the voters of the birth first.
    fn known_nodes(&self) -> Vec<NodeId> {
        let mut nodes = self.config.voters.clone();
        for node in self.config.nodes.iter().copied().chain(self.caller()) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// The nodes that vote, as of the last checkpoint; before there is one, those that the cluster is born with.
    fn voters(&self, machine: &Machine) -> Vec<NodeId> {
        let view = machine.tables().view();
        let voters: Vec<NodeId> = view.membership.voter_ids().map(|id| RaftId(id).node()).collect();
        if voters.is_empty() { self.config.voters.clone() } else { voters }
    }

    /// Waits until this node may take part, and counts its start then. `next_index`: where its log ends.
    async fn wait_for_leave(
        &self,
        voters: &[NodeId],
        pristine: bool,
        next_index: u64,
    ) -> Result<(), StartError> {
        let env = &*self.seams.env;
        let presence = Presence { life: self.life, next_index };
        let wait = async {
            if pristine {
                self.wait_for_birth().await?;
            }
            let presented = lives::present(env, &self.rpc, voters, presence).await;
            presented.map_err(|why| StartError::Stale { node: self.config.node, why })
        };
        tokio::select! {
            biased;
            why = self.rpc.epoch().behind() => return Err(StartError::Behind(why)),
            waited = wait => waited?,
        }
        Ok(identity::count_start(&self.seams, &self.directory, self.life).await?)
    }

    fn other_nodes(&self) -> Vec<NodeId> {
        self.known_nodes().into_iter().filter(|node| *node != self.config.node).collect()
    }

    /// Opens the tables. A rotten file is set aside where others can give them anew.
    async fn open_machine(&self, config: MachineConfig) -> Result<Opened, StartError> {
        let (env, disks, directory) = (&self.seams.env, &self.seams.disks, &self.directory);
        let open = || Machine::open(env.clone(), disks.clone(), directory, config.clone());
        match open().await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData && !self.other_nodes().is_empty() => {
                tracing::error!(%error, "the metadata are rotten, and are copied from another voter");
                let (disks, directory) = (disks.clone(), directory.clone());
                run_blocking(&**env, move || rebuild::set_aside(&*disks, &directory)).await?;
                Ok(open().await?)
            }
            opened => Ok(opened?),
        }
    }

    /// Opens the log; what is rotten of it is fetched from the other voters. Where these have forgotten it, or the log
    /// has forgotten what the tables lack, the tables are copied from one of them.
    async fn open_log(&self, machine: &Opened) -> Result<Log, StartError> {
        let env = &self.seams.env;
        let others = self.other_nodes();
        let mut rebuilds = 0;
        loop {
            let floor = machine.floor().await;
            let disks = self.seams.disks.clone();
            let donors = OtherVoters::new(env.clone(), self.rpc.clone(), others.clone());
            let (directory, config) = (log::directory(&self.directory), self.config.log.clone());
            let opened = Log::open(env.clone(), disks, &directory, config, floor, &donors, &self.shelf).await;
            let (at_least, fault) = match opened {
                Ok(log) => {
                    let Some(purged) = log.purged().filter(|purged| floor <= *purged) else { return Ok(log) };
                    log.close();
                    (purged, LogFault::Gap { expected: floor, found: purged + 1 })
                }
                Err(fault @ (LogFault::Io(_) | LogFault::Decode(_))) => return Err(StartError::Log(fault)),
                Err(fault @ LogFault::Rot { index, .. }) => (index, fault),
                Err(fault @ (LogFault::RottenVote { .. } | LogFault::Gap { .. })) => {
                    return Err(StartError::LostLog { fault, remedy: self.remedy() });
                }
            };
            rebuilds += 1;
            let rebuilt = match rebuilds <= REBUILDS_MAX {
                true => rebuild::rebuild(env, &self.rpc, &others, machine, at_least).await,
                false => Err("it was done before, and did not help".to_string()),
            };
            if let Err(why) = rebuilt {
                tracing::error!(%fault, why, "the metadata cannot be copied from another voter");
                return Err(StartError::LostLog { fault, remedy: self.remedy() });
            }
        }
    }

    fn remedy(&self) -> String {
        let me = VoterName(self.identity.raft_id());
        match self.config.voters.len() {
            1 => "there is no other voter: restore the disk or a backup of the data directory".to_string(),
            _ => format!(
                "restore the disk, or start this node on an empty directory and put it in its own place by the \
                 command that it prints: replace {me} NEW"
            ),
        }
    }

    async fn run(&self, log: Log, machine: Machine, voters: Vec<NodeId>) -> Result<Arc<Running>, StartError> {
        let env = self.seams.env.clone();
        let id = self.life.id;
        let network = Network {
            rpc: self.rpc.clone(),
            env: env.clone(),
            me: self.life,
            lives: self.lives.clone(),
            acknowledged: BTreeMap::new(),
        };
        let tables = machine.tables();
        let config = raft_config(self.config.snapshot_entries).map_err(StartError::Raft)?;
        let seed = random_u64(&*env);
        let kept_log = log.clone();
        let raft = Raft::new(id.0, Arc::new(config), network, log, machine);
        let raft = Runtime::scope(seed, raft).await.map_err(|error| StartError::Raft(error.to_string()))?;
        let clocks = Clocks::new(env.clone(), self.config.node, voters);
        let clocks = Arc::new(clocks);
        let running = Arc::new(Running {
            life: self.life,
            lives: self.lives.clone(),
            rpc: self.rpc.clone(),
            env: env.clone(),
            raft,
            tables,
            rounds: Rounds::default(),
            leadership: Leadership::default(),
            clocks: clocks.clone(),
            log: kept_log,
            seed: AtomicU64::new(seed),
            stopping: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        self.alive.store(true, Ordering::Release);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.clone());
        running.keep(clocks.start(self.rpc.clone()));
        running.keep(Rounds::start(&env, running.clone()));
        running.keep(duties::start(&env, self.config.clone(), running.clone()));
        running.keep(electorate::start(&env, self.rpc.clone(), self.config.clone(), running.clone()));
        running.keep(rebuild::start_readings(&env, running.tables.clone()));
        running.keep(watch(&env, running.clone()));
        Ok(running)
    }

    /// Waits until it is certain that this node may take part: all initial voters are unborn, or a member says
    /// that this incarnation is listed.
    async fn wait_for_birth(&self) -> Result<(), StartError> {
        let mut refused_since: Option<Duration> = None;
        loop {
            let (mut unborn, mut refusal) = (0, None);
            let others = self.known_nodes().into_iter().filter(|node| *node != self.config.node);
            let answers = others.map(async |node| (node, self.ask_birth(node).await));
            for (node, answer) in futures::future::join_all(answers).await {
                match answer.map(|answer| answer.state) {
                    Some(BirthState::Member(members)) => match self.check_member(&members) {
                        Ok(()) => return Ok(()),
                        Err(error) => refusal = Some(error),
                    },
                    Some(BirthState::Unborn) => unborn += usize::from(self.config.voters.contains(&node)),
                    Some(BirthState::Starting) | None => {}
                }
            }
            let now = self.seams.env.monotonic();
            if let Some(refusal) = refusal {
                if now.saturating_sub(*refused_since.get_or_insert(now)) >= REFUSAL_PATIENCE {
                    return Err(refusal);
                }
            } else if unborn + 1 == self.config.voters.len() && self.config.voters.contains(&self.config.node)
            {
                return Ok(());
            }
            tokio::time::sleep(BIRTH_INTERVAL).await;
        }
    }

    async fn ask_birth(&self, voter: NodeId) -> Option<BirthAnswer> {
        let options = CallOptions { class: Class::Control, deadline: BIRTH_DEADLINE };
        let asked = self.rpc.call_typed(voter, method::BIRTH, &(), Bytes::new(), options).await;
        match asked {
            Ok((answer, _)) => Some(answer),
            Err(error) => {
                tracing::debug!(%voter, %error, "a voter does not say whether it is born");
                None
            }
        }
    }

    fn check_member(&self, members: &[RaftId]) -> Result<(), StartError> {
        let me = self.identity.raft_id();
        if members.contains(&me) {
            return Ok(());
        }
        let new = VoterName(me);
        match members.iter().find(|member| member.node() == me.node()) {
            Some(old) => Err(StartError::Replaced { node: me.node(), old: VoterName(*old), new }),
            None => Err(StartError::NotAVoter { new }),
        }
    }

    /// The lowest of the initial voters begins the cluster, once all others are unborn; they wait for it.
    async fn initialise(&self, running: &Arc<Running>) -> Result<(), StartError> {
        let lowest = self.config.voters.iter().min() == Some(&self.config.node);
        loop {
            let members = running.members();
            if members.contains(&self.identity.raft_id()) {
                return Ok(());
            }
            if !members.is_empty() {
                // What has come of the log may be older than our being let in.
                self.wait_for_birth().await?;
            } else if lowest && let Some(members) = self.gather().await {
                match running.scope(running.raft.initialize(members)).await {
                    Ok(()) => {
                        self.see_members(running).await;
                        continue;
                    }
                    Err(error) => tracing::info!(%error, "the cluster is not begun here"),
                }
            }
            tokio::time::sleep(BIRTH_INTERVAL).await;
        }
    }

    /// Raft answers before it shows the members it was begun with.
    async fn see_members(&self, running: &Arc<Running>) {
        let me = self.life.id.0;
        let shown = running.raft.wait(Some(APPLY_DEADLINE));
        let shown = async move {
            shown
                .metrics(|metrics| metrics.membership_config.membership().get_node(&me).is_some(), "members")
                .await
        };
        if let Err(error) = running.scope(shown).await {
            tracing::warn!(%error, "the cluster was begun and shows no members");
        }
    }

    /// All initial voters, if all of them are there and none is born.
    async fn gather(&self) -> Option<BTreeMap<u64, Member>> {
        let me = self.identity.raft_id();
        let mut members = BTreeMap::from([(me.0, Member::of(me))]);
        for voter in self.config.voters.iter().filter(|voter| **voter != self.config.node) {
            let answer = self.ask_birth(*voter).await?;
            match answer.state {
                BirthState::Unborn => drop(members.insert(answer.id.0, Member::of(answer.id))),
                // A member takes us in: we did not come here before one had said so.
                BirthState::Starting | BirthState::Member(_) => return None,
            }
        }
        Some(members)
    }

    /// A single voter need not wait for anybody.
    async fn lead_if_alone(&self, running: &Arc<Running>) {
        if running.members() != [running.life.id] || running.leads().is_some() {
            return;
        }
        if let Err(error) = running.scope(running.raft.trigger().elect(false)).await {
            tracing::error!(%error, "the only voter cannot elect itself");
        }
        let leads = running.raft.wait(Some(APPLY_DEADLINE));
        let leads =
            running.scope(async move { leads.state(ServerState::Leader, "the only voter leads").await });
        if let Err(error) = leads.await {
            tracing::error!(%error, "the only voter does not lead yet");
        }
    }

    /// The view of the tables on this node, not linearizable; `None` before the start.
    pub fn view(&self) -> Option<Arc<super::overlay::View>> {
        Some(self.running()?.tables.view())
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.running()?.leader()
    }

    /// What the disk of this node has left; `None` before the start.
    pub fn headroom(&self) -> Option<Headroom> {
        Some(self.running()?.headroom())
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.running().is_some_and(|running| running.leads().is_some())
    }

    /// Proposes an entry here.
    pub async fn propose(&self, entry: Entry) -> ProposeAnswer {
        match self.running().filter(|running| !running.stopping.load(Ordering::Acquire)) {
            Some(running) => running.propose(entry).await,
            None => ProposeAnswer::NotLeader(None),
        }
    }

    /// Asks here.
    pub async fn query(&self, query: Query) -> QueryAnswer {
        match self.running() {
            Some(running) => running.query(query).await,
            None => QueryAnswer::NotLeader(None),
        }
    }

    /// Puts a new incarnation in the place of a lost voter. To be asked of the leader.
    pub async fn replace(&self, replace: Replace) -> ReplaceAnswer {
        match self.running() {
            Some(running) => running.replace(replace).await,
            None => ReplaceAnswer::NotLeader(None),
        }
    }

    /// Hands over leadership, writes what is applied, and stops Raft.
    pub fn shutdown(&self) -> Edge<'_, ()> {
        Box::pin(async move {
            let Some(running) = self.running() else { return };
            running.stopping.store(true, Ordering::Release);
            if running.leads().is_some() {
                running.hand_over(&[]).await;
            }
            if let Err(error) = running.tables.checkpoint().await {
                tracing::warn!(%error, "the last checkpoint failed; the log has it all");
            }
            running.stop().await;
        })
    }

    /// The index behind what a member has acknowledged to this node, if this node leads.
    #[cfg(test)]
    pub(crate) fn acknowledged_by(&self, id: RaftId) -> Option<u64> {
        self.running()?.acknowledged_by(id)
    }

    /// Stops as a crash would, but for what is on its way to the disk. What it returns is gone when nothing has the files
    /// open any more, once the node is dropped: Raft's own tasks hold them for a moment.
    #[cfg(test)]
    pub(crate) async fn kill(&self) -> std::sync::Weak<Tables> {
        let Some(running) = self.running() else { return std::sync::Weak::new() };
        running.stop().await;
        Arc::downgrade(&running.tables)
    }

    fn birth(&self) -> BirthAnswer {
        let id = self.identity.raft_id();
        let members = self.running().map(|running| running.members()).unwrap_or_default();
        let state = if !members.is_empty() {
            BirthState::Member(members)
        } else if self.running().is_some() || !self.alive.load(Ordering::Acquire) {
            BirthState::Unborn
        } else {
            BirthState::Starting
        };
        BirthAnswer { id, state }
    }
}

/// Ends the process when Raft ends by itself: it would look alive and do nothing.
fn watch(env: &Arc<dyn Env>, running: Arc<Running>) -> TaskHandle {
    spawn_critical(env, "raft-watch", async move {
        let mut metrics = running.raft.metrics();
        let why = loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                break fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                break "it is gone".to_string();
            }
        };
        if !running.stopping.load(Ordering::Acquire) {
            running.env.fail_stop(&format!("Raft ended: {why}"));
        }
    })
}

/// The settings that worked in the pilot.
fn raft_config(snapshot_entries: u64) -> Result<Config, String> {
    let config = Config {
        cluster_name: "fluffy".to_string(),
        heartbeat_interval: 100,
        election_timeout_min: 400,
        election_timeout_max: 700,
        heartbeat_min_interval: Some(0),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(1400),
        max_payload_entries: 1024,
        max_append_entries: Some(4096),
        api_batch_capacity: 4096,
        api_batch_linger_ms: 0,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        replication_lag_threshold: 2 * snapshot_entries,
        max_in_snapshot_log_to_keep: snapshot_entries / 5,
        purge_batch_size: 1024.min(snapshot_entries / 5).max(1),
        install_snapshot_timeout: 30_000,
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms ...300ms".to_string(),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

#[async_trait]
impl Service for MetaNode {
    async fn call(&self, from: Peer, method: u16, request: Message) -> Result<Message, String> {
        if method == method::ENTRY {
            return donors::answer(&self.seams.env, &self.shelf, from, &request).await;
        }
        if method == method::TABLES {
            let running = self.running().ok_or("Raft does not run yet")?;
            let env = &self.seams.env;
            return rebuild::answer(&self.rebuilds, env, &running.tables, from, &request).await;
        }
        match (method >> 8) as u8 {
            method::RAFT_GROUP => {
                let Some(running) = self.running() else {
                    self.called(from);
                    return Err("Raft does not run yet".to_string());
                };
                self.peers.call(&running, from, method, request).await
            }
            method::META_GROUP => self.serve_client(method, request).await,
            method::ADMIN_GROUP => self.serve_admin(from, method, request).await,
            _ => Err(format!("method {method:#06x} is not offered here")),
        }
    }
}

impl MetaNode {
    async fn serve_client(&self, method: u16, request: Message) -> Result<Message, String> {
        match method {
            method::PROPOSE => {
                let entry = decode_entry(&request.body).map_err(|error| error.to_string())?;
                Ok(reply_typed(&self.propose(entry).await, Bytes::new()))
            }
            method::QUERY => {
                let query = decode_head(&request.head).map_err(|error| error.to_string())?;
                Ok(reply_typed(&self.query(query).await, Bytes::new()))
            }
            method::PROPOSE_BY => Ok(reply_typed(&self.pass_proposal_on(request.body).await, Bytes::new())),
            method::QUERY_BY => {
                let query = decode_head(&request.head).map_err(|error| error.to_string())?;
                Ok(reply_typed(&self.pass_query_on(query).await, Bytes::new()))
            }
            _ => Err(format!("method {method:#06x} is not offered here")),
        }
    }

    /// Asks the leader in the place of a client that does not reach it; once, and no further than one step.
    async fn pass_proposal_on(&self, entry: Bytes) -> ProposeAnswer {
        match self.leader() {
            None => ProposeAnswer::NotLeader(None),
            Some(me) if me == self.identity.node => match decode_entry(&entry) {
                Ok(entry) => self.propose(entry).await,
                Err(error) => ProposeAnswer::Perhaps(error.to_string()),
            },
            Some(leader) => {
                let asked = self.rpc.call_typed(leader, method::PROPOSE, &(), entry, PASSED_ON).await;
                match asked {
                    Ok((answer, _)) => answer,
                    Err(RpcError::Lost(why)) => ProposeAnswer::Perhaps(why),
                    Err(RpcError::Unreachable(_) | RpcError::Refused(_)) => ProposeAnswer::NotLeader(None),
                }
            }
        }
    }

    async fn pass_query_on(&self, query: Query) -> QueryAnswer {
        match self.leader() {
            None => QueryAnswer::NotLeader(None),
            Some(me) if me == self.identity.node => self.query(query).await,
            Some(leader) => {
                let asked = self.rpc.call_typed(leader, method::QUERY, &query, Bytes::new(), PASSED_ON).await;
                asked.map_or_else(|error| QueryAnswer::Unavailable(error.to_string()), |(answer, _)| answer)
            }
        }
    }

    async fn serve_admin(&self, from: Peer, method: u16, request: Message) -> Result<Message, String> {
        match method {
            method::CLOCK => Ok(reply_typed(&self.seams.env.wall_ms(), Bytes::new())),
            method::BIRTH => Ok(reply_typed(&self.birth(), Bytes::new())),
            method::PRESENT => {
                let presence: Presence = decode_head(&request.head).map_err(|error| error.to_string())?;
                if from != Peer::Node(presence.life.id.node()) {
                    return Err(format!("{from} speaks for {}", VoterName(presence.life.id)));
                }
                let running = self.running();
                let acknowledged = running.and_then(|running| running.acknowledged_by(presence.life.id));
                Ok(reply_typed(&self.lives.judge(&presence, acknowledged), Bytes::new()))
            }
            method::BACKUP => {
                let request = decode_head(&request.head).map_err(|error| error.to_string())?;
                let running = self.running().ok_or("Raft does not run yet")?;
                let (answer, _, page) = self.backups.page(&self.seams.env, &running.tables, request).await?;
                Ok(reply_typed(&answer, page))
            }
            method::REPLACE => {
                let replace = decode_head(&request.head).map_err(|error| error.to_string())?;
                Ok(reply_typed(&self.replace(replace).await, Bytes::new()))
            }
            _ => Err(format!("method {method:#06x} is not offered here")),
        }
    }
}

impl Tables {
    fn cluster_row(&self) -> Option<ClusterRow> {
        get::<Cluster>(&*self.view(), ()).unwrap_or_else(|fault| {
            tracing::error!(%fault, "the row of the cluster cannot be read");
            None
        })
    }

    /// Cluster time of the last entry applied.
    pub(super) fn cluster_time(&self) -> ClusterMs {
        // `apply` never goes back.
        self.cluster_row().map_or(ClusterMs(0), |row| row.time)
    }

    /// The epoch of the cluster, once anything was applied.
    fn epoch(&self) -> Option<u16> {
        self.cluster_row().map(|row| row.epoch)
    }
}
