//! Applies committed commands to the rows.
//!
//! A function of the rows and the entry and of nothing else, so every replica gets the same result. Each command
//! checks everything before it writes anything: a refusal leaves no trace but its reply.

mod absence;
mod acl;
mod annotation;
mod append;
mod body;
mod bucket;
mod cluster;
mod deliveries;
mod extent;
mod garbage;
mod lifecycle;
mod lock;
mod moves;
mod multipart;
mod object;
mod overlay;
mod promotion;
mod quota;
mod recoding;
mod rename;
mod replication;
mod salvage;
mod session;
mod transaction;
mod user;
mod version;

use super::command::{Command, Done, Entry, Guard, Reject, Reply};
use super::model::EventKind;
use super::store::{Fault, RowsMut};
use super::tables::{Deliverer, Follower};
use object::{Annotated, Around};
use session::Admission;
use transaction::Transaction;

/// What the state machine sets once and passes with every entry. Equal on all replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    /// Bugs that the simulator plants to prove that it finds them.
    pub planted: Planted,
}

/// Planted bugs; none in production.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planted {
    /// Conditions (`Expect`) always hold.
    pub skip_condition: bool,
    /// A repeat is applied again.
    pub skip_reply_cache: bool,
    /// One complete copy is enough for a commit.
    pub commit_one_copy: bool,
    /// Copies that a commit lacks are owed by nobody.
    pub drop_debts: bool,
    /// A command below the lowest open sequence of its session is applied.
    pub skip_lowest_sequence: bool,
    /// Extents of ended sessions, and below the oldest open write, are named for the first time.
    pub accept_ended_session: bool,
    /// A delete is answered, and the row stays.
    pub skip_removal: bool,
}

/// Why a command stopped early.
#[derive(Debug)]
enum Stop {
    /// The rules said no.
    Reject(Reject),
    /// This replica cannot go on: its disk failed or its rows are corrupt.
    Fault(Fault),
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Stop {
        Stop::Reject(reject)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// A refusal of a command that no correct client sends.
fn malformed<T>(why: &str) -> Result<T, Stop> {
    Err(Stop::Reject(Reject::Malformed(why.to_string())))
}

/// Applies the committed entry at log index `index`. After a [`Fault`] the rows may hold half of it: the replica
/// stops and replays.
pub fn apply(rows: &mut dyn RowsMut, context: &Context, index: u64, entry: &Entry) -> Result<Reply, Fault> {
    let mut tx = Transaction::begin(rows, context.planted, index, entry.at)?;
    let reply = match session::admit(&mut tx, entry)? {
        Admission::Settled(reply) => reply,
        Admission::New => {
            let reply = run(&mut tx, entry)?;
            session::remember(&mut tx, entry, &reply);
            reply
        }
    };
    tx.finish()?;
    Ok(reply)
}

fn run(tx: &mut Transaction<'_>, entry: &Entry) -> Result<Reply, Fault> {
    let (command, ownership, wanted) = match &entry.command {
        Command::WithAcl(with) if !may_have_acl(&with.command) => {
            return Ok(refused("nothing has this list"));
        }
        Command::WithAcl(with) => (&*with.command, with.ownership, with.acl.as_ref()),
        command => (command, None, None),
    };
    let (command, guard) = match command {
        Command::Guarded(guarded) => (&*guarded.command, guarded.guard.clone()),
        command => (command, Guard::default()),
    };
    let (command, annotations) = match command {
        Command::Annotated(annotated) => (&*annotated.command, Some(&annotated.annotations)),
        command => (command, None),
    };
    let (command, sealing, copied) = match command {
        Command::Sealed(sealed) if !may_be_sealed(&sealed.command) => {
            return Ok(refused("no bytes come with the command"));
        }
        Command::Sealed(sealed) => (&*sealed.command, sealed.sealing.as_ref(), sealed.copied),
        command => (command, None, false),
    };
    let around = Around { guard: &guard, sealing, copied, annotations, acl: wanted };
    if annotations.is_some() && !matches!(command, Command::PutObject(_)) {
        return Ok(refused("no bytes of a copy come with the command"));
    }
    if let Some(reject) = replication::check_written_here(tx, command)? {
        return Ok(Reply::Rejected(reject));
    }
    let outcome = match command {
        Command::OpenSession(command) => session::open(tx, command),
        Command::RenewSession(command) => session::renew(tx, entry.session, command),
        Command::EndSession(command) => session::end(tx, command),
        Command::SetNode(command) => cluster::set_node(tx, command),
        Command::SetLayout(command) => cluster::set_layout(tx, command),
        Command::AddUser(command) => user::add(tx, command),
        Command::RemoveUser(command) => user::remove(tx, command),
        Command::AddAccessKey(command) => user::add_key(tx, command),
        Command::RemoveAccessKey(command) => user::remove_key(tx, command),
        Command::CreateBucket(command) => bucket::create(tx, command, guard.bucket, ownership, wanted),
        Command::DeleteBucket(command) => bucket::delete(tx, command),
        Command::PutObject(command) => object::put(tx, command, &around, EventKind::Put),
        Command::CopyObject(command) => object::copy(tx, command, &around, Annotated::Copied),
        Command::CopyBare(command) => object::copy(tx, command, &around, Annotated::Bare),
        Command::DeleteObjects(command) => object::delete(tx, command, guard.bypass),
        Command::CreateUpload(command) => multipart::create(tx, command, &around),
        Command::PutPart(command) => multipart::put_part(tx, command),
        Command::CompleteUpload(command) => multipart::complete(tx, command),
        Command::AbortUpload(command) => multipart::abort(tx, command),
        Command::PayDebts(command) => garbage::pay_debts(tx, command),
        Command::CollectGarbage(command) => garbage::collect(tx, command),
        Command::ReportLoss(command) => absence::report_loss(tx, command),
        Command::EndAbsence(command) => absence::end(tx, command),
        Command::GiveUp(command) => session::give_up(tx, entry, command),
        Command::PackInline(command) => body::pack(tx, command),
        Command::MoveExtents(command) => moves::move_extents(tx, command),
        Command::EndLeaving(command) => moves::end_leaving(tx, command),
        Command::RemoveNode(command) => moves::remove_node(tx, command),
        Command::BeginEpoch(command) => cluster::begin_epoch(tx, command),
        Command::EndHold(command) => cluster::end_hold(tx, command),
        Command::SetQuota(command) => quota::set(tx, command),
        Command::Salvage(command) => salvage::salvage(tx, command, sealing),
        Command::SetBucket(command) => bucket::set(tx, command),
        Command::SetTags(command) => object::set_tags(tx, command),
        Command::SetLock(command) => lock::set(tx, command, None),
        Command::ChangeLock(command, origin) => lock::set(tx, command, Some(origin)),
        Command::SetUserPolicy(command) => user::set_policy(tx, command),
        Command::Expire(command) => lifecycle::expire(tx, command),
        Command::FillDue(command) => lifecycle::fill(tx, command),
        Command::RenameObject(command) => rename::rename(tx, command),
        Command::AppendObject(command) => append::append(tx, command, &around),
        Command::PostObject(command) => object::put(tx, command, &around, EventKind::Post),
        Command::SetAnnotation(command) => annotation::set(tx, command),
        Command::SetAcl(command) => acl::set(tx, command, None),
        Command::ChangeAcl(command, origin) => acl::set(tx, command, Some(origin)),
        Command::LeadDeliveries => deliveries::lead::<Deliverer>(tx, entry),
        Command::Deliver(command) => deliveries::deliver(tx, entry, command),
        Command::Overlay(change) => overlay::change(tx, change),
        Command::Recode(command) => recoding::recode(tx, command),
        Command::LeadFollowing => deliveries::lead::<Follower>(tx, entry),
        Command::Replicate(command) => replication::replicate(tx, entry, command),
        Command::Guarded(_) | Command::Sealed(_) | Command::Annotated(_) | Command::WithAcl(_) => {
            malformed("a command stands around one that it may not")
        }
    };
    match outcome {
        Ok(done) => Ok(Reply::Done(done)),
        Err(Stop::Reject(reject)) => Ok(Reply::Rejected(reject)),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

/// Whether bytes come with a command, now or later.
fn may_be_sealed(command: &Command) -> bool {
    matches!(
        command,
        Command::PutObject(_) | Command::PostObject(_) | Command::CreateUpload(_) | Command::Salvage(_)
    )
}

/// Whether a command makes something that can have a list.
fn may_have_acl(command: &Command) -> bool {
    match command {
        Command::Guarded(guarded) => may_have_acl(&guarded.command),
        Command::Annotated(annotated) => may_have_acl(&annotated.command),
        Command::Sealed(sealed) => may_have_acl(&sealed.command),
        command => matches!(
            command,
            Command::PutObject(_)
                | Command::PostObject(_)
                | Command::AppendObject(_)
                | Command::CopyObject(_)
                | Command::CopyBare(_)
                | Command::CreateUpload(_)
                | Command::CreateBucket(_)
        ),
    }
}

fn refused(why: &str) -> Reply {
    Reply::Rejected(Reject::Malformed(why.to_string()))
}

/// What the functions of commands return.
type Outcome = Result<Done, Stop>;
