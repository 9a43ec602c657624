//! A cluster goes on from the data of one node, when a majority of the voters is lost for good, or from a backup.
//!
//! Every entry in the node's log counts as decided, whether or not a majority had it: nobody can tell any more. The
//! node becomes the only voter, in the next epoch of the cluster, so that no process of the old one is heard again, and
//! garbage is kept: what looks like garbage may be all that is left of an object whose entry is lost.
//!
//! Nothing is applied before the loss is accepted. Then one checkpoint counts: after it the old cluster is over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use fabric::Seams;
use fabric::codec;
use fabric::env::run_blocking;
use fabric::ids::{BucketId, RaftId, SessionId};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, Membership};

use super::identity::{self, NodeIdentity};
use super::log::{self, Log, NoDonors, Shelf};
use super::machine::{Machine, decode_entry, encode_entry};
use super::node::{NodeConfig, StartError};
use super::overlay::View;
use super::types::{LogEntry, LogId, Member, Proposal, SnapshotMeta, Vote};
use super::wire::PAGE_FORMAT;
use crate::meta::command::{BeginEpoch, Command, Entry};
use crate::meta::model::{ClusterMs, FIRST_EPOCH};
use crate::meta::tables::{Buckets, Cluster, get};

/// Undecided entries that are told one by one.
const UNDECIDED_TOLD_MAX: usize = 1_000;

/// What a node has, and what goes on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surviving {
    /// The last entry of its log, and the term of that.
    pub index: u64,
    /// See `index`.
    pub term: u64,
    /// Cluster time of that entry.
    pub time: ClusterMs,
    /// The epoch that ends.
    pub epoch: u16,
    /// The other members, as far as it knows: they are given up.
    pub others: Vec<RaftId>,
    /// The end of its log, which it does not know to be decided.
    pub undecided: Undecided,
}

/// What rows are of that a cluster goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// The term of the last entry in them …
    pub term: u64,
    /// … and its index.
    pub index: u64,
    /// The epoch that ends, if the rows are of an earlier one, or there are none.
    pub epoch_min: u16,
}

impl AsOf {
    /// No rows: nothing is known of the cluster but that its epochs ended at this one, or before.
    pub fn nothing(epoch_min: u16) -> AsOf {
        AsOf { term: 1, index: 1, epoch_min }
    }
}

/// Entries that this node has and does not know to be decided. A voter hears a moment later what is, so there are some
/// wherever there were writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Undecided {
    /// How many.
    pub entries: u64,
    /// The first [`UNDECIDED_TOLD_MAX`] of those that change something: index, and what it does, in words.
    pub told: Vec<(u64, String)>,
}

impl Undecided {
    fn add(&mut self, index: u64, told: Option<String>) {
        self.entries += 1;
        if self.told.len() < UNDECIDED_TOLD_MAX {
            self.told.extend(told.map(|told| (index, told)));
        }
    }
}

/// What a command of a client does, in words; `None` for those of the cluster itself.
fn told(view: &View, command: &Command) -> Option<String> {
    let name = |id: BucketId| match get::<Buckets>(view, id) {
        Ok(Some(bucket)) => bucket.name.to_string(),
        // Created by an entry that is not applied yet, or not to be read.
        _ => format!("bucket {}", id.0),
    };
    Some(match command {
        Command::PutObject(put) | Command::PostObject(put) => format!("put {}/{}", name(put.bucket), put.key),
        Command::CopyObject(copy) | Command::CopyBare(copy) => {
            format!("copy to {}/{}", name(copy.bucket), copy.key)
        }
        Command::DeleteObjects(delete) => {
            let keys: Vec<&str> = delete.keys.iter().map(|delete| delete.key.as_str()).collect();
            format!("delete from {}: {}", name(delete.bucket), keys.join(", "))
        }
        Command::CreateUpload(create) => format!("begin an upload of {}/{}", name(create.bucket), create.key),
        Command::PutPart(put) => format!("put part {} of {}/{}", put.number, name(put.bucket), put.key),
        Command::CompleteUpload(end) => format!("complete an upload of {}/{}", name(end.bucket), end.key),
        Command::AbortUpload(end) => format!("abort an upload of {}/{}", name(end.bucket), end.key),
        Command::CreateBucket(create) => format!("create bucket {}", create.name),
        Command::DeleteBucket(delete) => format!("delete bucket {}", name(delete.bucket)),
        Command::AddUser(add) => format!("add user {}", add.name),
        Command::RemoveUser(remove) => format!("remove user {}", remove.name),
        Command::SetBucket(set) => format!("change settings of {}", name(set.bucket)),
        Command::SetTags(set) => format!("tag {}/{}", name(set.bucket), set.key),
        Command::SetUserPolicy(set) => format!("change policies of user {}", set.user),
        Command::SetLock(set) | Command::ChangeLock(set, _) => {
            format!("lock {}/{}", name(set.bucket), set.key)
        }
        Command::RenameObject(rename) => {
            format!("rename {}/{} to {}", name(rename.bucket), rename.source_key, rename.key)
        }
        Command::SetAnnotation(set) => format!("annotate {}/{}", name(set.bucket), set.key),
        Command::AppendObject(append) => format!("append to {}/{}", name(append.bucket), append.key),
        Command::SetAcl(set) | Command::ChangeAcl(set, _) => {
            format!("change who may use {}/{}", name(set.bucket), set.key)
        }
        Command::WithAcl(with) => return told(view, &with.command),
        Command::Guarded(guarded) => return told(view, &guarded.command),
        Command::Sealed(sealed) => return told(view, &sealed.command),
        Command::Annotated(annotated) => return told(view, &annotated.command),
        _ => return None,
    })
}

/// Looks at what a node has, in its data directory, which nobody else uses; with `go` the cluster goes on from it.
pub async fn recover(
    seams: &Seams,
    directory: &Path,
    config: &NodeConfig,
    go: bool,
) -> Result<Surviving, StartError> {
    let identity = identity::open(seams, directory, config.cluster, config.node).await?;
    let machine =
        Machine::open(seams.env.clone(), seams.disks.clone(), directory, config.machine.clone()).await?;
    let (floor, applied) = (machine.floor().await, machine.applied().await);
    let (env, disks) = (seams.env.clone(), seams.disks.clone());
    let (home, sizes) = (log::directory(directory), config.log.clone());
    let mut log = Log::open(env, disks, &home, sizes, floor, &NoDonors, &Shelf::default()).await?;
    if let Some(applied) = applied {
        log.agree_with(applied).await?;
    }
    let machine = machine.run(None);
    let outcome = async {
        let surviving = survey(&identity, &mut log, &machine, floor).await?;
        if go {
            go_on(&identity, &mut log, &machine, floor, &surviving).await?;
        }
        Ok::<_, StartError>(surviving)
    };
    let outcome = outcome.await;
    machine.tables().close();
    log.close();
    let surviving = outcome?;
    if go {
        identity::keep_epoch(seams, directory, surviving.epoch + 1).await?;
    }
    Ok(surviving)
}

/// Fills the data directory of a node, which holds no metadata, with rows, and lets the cluster go on from it. `page`
/// gives the encoded pages in order, then `None`; it may block.
pub async fn restore(
    seams: &Seams,
    directory: &Path,
    config: &NodeConfig,
    AsOf { term, index, epoch_min }: AsOf,
    mut page: impl FnMut() -> io::Result<Option<Vec<u8>>> + Send + 'static,
) -> Result<Surviving, StartError> {
    let identity = identity::open(seams, directory, config.cluster, config.node).await?;
    let (env, disks) = (seams.env.clone(), seams.disks.clone());
    let machine = Machine::open(env.clone(), disks.clone(), directory, config.machine.clone()).await?;
    let (home, sizes) = (log::directory(directory), config.log.clone());
    let mut log = Log::open(env.clone(), disks, &home, sizes, 0, &NoDonors, &Shelf::default()).await?;
    if machine.applied().await.is_some() || !log.is_pristine() {
        log.close();
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is metadata already").into());
    }
    let mut machine = machine.run(None);
    let filled = async {
        let receiving = machine.tables().receive().await?;
        loop {
            let read = move || {
                let next = page();
                (next, page)
            };
            let next;
            (next, page) = run_blocking(&*env, read).await;
            let Some(bytes) = next? else { break };
            receiving
                .add(codec::decode(PAGE_FORMAT, "page of rows", &bytes).map_err(io::Error::other)?)
                .await?;
        }
        let log_id = LogId { leader_id: LeaderId { term, node_id: identity.raft_id().0 }, index };
        let meta = SnapshotMeta { last_log_id: Some(log_id), ..SnapshotMeta::default() };
        machine.install_snapshot(&meta, receiving.finish()).await?;
        let mut surviving = survey(&identity, &mut log, &machine, index + 1).await?;
        surviving.epoch = surviving.epoch.max(epoch_min);
        go_on(&identity, &mut log, &machine, index + 1, &surviving).await?;
        Ok::<_, StartError>(surviving)
    };
    let outcome = filled.await;
    machine.tables().close();
    log.close();
    let surviving = outcome?;
    identity::keep_epoch(seams, directory, surviving.epoch + 1).await?;
    Ok(surviving)
}

/// What checkpoint and log tell. Nothing is applied: an entry that is not decided must reach no checkpoint while the old
/// cluster may come back.
async fn survey(
    identity: &NodeIdentity,
    log: &mut Log,
    machine: &Machine,
    mut from: u64,
) -> Result<Surviving, StartError> {
    let view = machine.tables().view();
    let cluster = get::<Cluster>(&*view, ()).map_err(io::Error::other)?;
    let (epoch, mut time) =
        cluster.map_or((FIRST_EPOCH, ClusterMs(0)), |cluster| (cluster.epoch, cluster.time));
    let mut last = view.applied;
    let ids = |membership: &Membership<u64, Member>| membership.nodes().map(|(id, _)| *id).collect();
    let mut members: Vec<u64> = ids(view.membership.membership());
    let decided = log.read_committed().await?.max(last).map_or(0, |decided| decided.index);
    let mut undecided = Undecided::default();
    loop {
        let entries = next_entries(log, &mut from).await?;
        let Some(newest) = entries.last() else { break };
        last = Some(newest.log_id);
        for entry in entries {
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => members = ids(&membership),
                EntryPayload::Normal(proposal) => {
                    let written = decode_entry(&proposal.0).map_err(io::Error::other)?;
                    time = time.max(written.at);
                    if entry.log_id.index > decided {
                        undecided.add(entry.log_id.index, told(&view, &written.command));
                    }
                }
            }
        }
    }
    let nothing = || io::Error::other("nothing was ever decided here: there is nothing to go on from");
    let last = last.ok_or_else(nothing)?;
    let me = identity.raft_id();
    let others = members.into_iter().map(RaftId).filter(|member| *member != me).collect();
    Ok(Surviving { index: last.index, term: last.leader_id.term, time, epoch, others, undecided })
}

/// Lets the cluster go on from what was surveyed.
async fn go_on(
    identity: &NodeIdentity,
    log: &mut Log,
    machine: &Machine,
    mut from: u64,
    surviving: &Surviving,
) -> Result<(), StartError> {
    let me = identity.raft_id();
    let voted = log.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
    let term = voted.max(surviving.term) + 1;
    log.save_vote(&Vote::new(term, me.0)).await?;
    loop {
        let entries = next_entries(log, &mut from).await?;
        if entries.is_empty() {
            break;
        }
        machine.replay(entries).await?;
    }
    let place = |ahead| LogId { leader_id: LeaderId { term, node_id: me.0 }, index: surviving.index + ahead };
    let alone = Membership::new(vec![BTreeSet::from([me.0])], BTreeMap::from([(me.0, Member::of(me))]));
    let alone = alone.map_err(|error| io::Error::other(error.to_string()))?;
    let next = surviving.epoch + 1;
    let command = Command::BeginEpoch(BeginEpoch { epoch: next, voter: me });
    let session = SessionId { epoch: 0, number: 0 };
    let epoch = Entry { session, sequence: 0, lowest_open: 0, at: surviving.time, command };
    let entries = vec![
        LogEntry { log_id: place(1), payload: EntryPayload::Membership(alone) },
        LogEntry { log_id: place(2), payload: EntryPayload::Normal(Proposal(encode_entry(&epoch).into())) },
    ];
    machine.replay(entries).await?;
    let begun = get::<Cluster>(&*machine.tables().view(), ()).map_err(io::Error::other)?;
    if begun.is_none_or(|begun| begun.epoch != next) {
        return Err(io::Error::other("the next epoch does not begin").into());
    }
    Ok(machine.tables().checkpoint().await?)
}

/// Entries of the log from `from` on, which goes behind them; none at the end.
async fn next_entries(log: &mut Log, from: &mut u64) -> io::Result<Vec<LogEntry>> {
    let entries = log.limited_get_log_entries(*from, u64::MAX).await?;
    if let Some(last) = entries.last() {
        *from = last.log_id.index + 1;
    }
    Ok(entries)
}
