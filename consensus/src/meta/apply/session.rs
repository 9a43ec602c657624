//! Sessions: whether a command is new, repeated or late, and what a session holds.
//!
//! A repeat gets its first reply, and a sequence that was given up never happens: so no retry undoes a newer write.

use std::ops::Bound;

use fabric::ids::SessionId;
use fabric::limits::{SESSION_OPEN_MAX, SESSION_PINNED_MAX};

use super::transaction::Transaction;
use super::{Outcome, malformed};
use crate::meta::command::{
    Command, Done, EndSession, Entry, GiveUp, OpenSession, Reject, RenewSession, Reply,
};
use crate::meta::model::Session;
use crate::meta::store::Fault;
use crate::meta::tables::{Replies, SessionNonces, Sessions, Table, key_bytes};

/// Whether to run a command.
pub(super) enum Admission {
    /// It was not seen before.
    New,
    /// Its reply stands already.
    Settled(Reply),
}

/// Decides by session and sequence whether the command of an entry is run, and raises the lowest open sequence.
pub(super) fn admit(tx: &mut Transaction<'_>, entry: &Entry) -> Result<Admission, Fault> {
    let settled = |reject| Ok(Admission::Settled(Reply::Rejected(reject)));
    if entry.session.number == 0 {
        if needs_session(&entry.command) {
            return settled(Reject::Malformed("the command needs a session".to_string()));
        }
        return Ok(Admission::New);
    }
    let Some(mut session) = tx.get::<Sessions>(entry.session)? else {
        return settled(Reject::SessionEnded);
    };
    if entry.sequence < session.lowest_open && !tx.planted.skip_lowest_sequence {
        return Ok(Admission::Settled(Reply::TooLate));
    }
    // The entry itself is open, whatever it says of the others.
    let lowest_open = entry.lowest_open.min(entry.sequence);
    if session.lowest_open < lowest_open {
        forget_replies(tx, entry.session, session.lowest_open, lowest_open)?;
        session.lowest_open = lowest_open;
        tx.put::<Sessions>(entry.session, &session);
    }
    if let Some(reply) = tx.get::<Replies>((entry.session, entry.sequence))?
        && !tx.planted.skip_reply_cache
    {
        return Ok(Admission::Settled(reply));
    }
    // Not remembered: a client that keeps its window never sees it, and one that does not must not grow the table.
    if session.lowest_open.saturating_add(SESSION_OPEN_MAX) <= entry.sequence {
        return settled(Reject::SessionFull);
    }
    Ok(Admission::New)
}

/// Keeps the reply of a command that ran, for its repeats.
pub(super) fn remember(tx: &mut Transaction<'_>, entry: &Entry, reply: &Reply) {
    if entry.session.number == 0 {
        return;
    }
    // A session that ended itself has no repeats: all its commands are refused.
    if let Command::EndSession(command) = &entry.command
        && command.session == entry.session
    {
        return;
    }
    tx.put::<Replies>((entry.session, entry.sequence), reply);
}

/// Commands that are idempotent by content go without a session.
fn needs_session(command: &Command) -> bool {
    !matches!(
        command,
        Command::OpenSession(_)
            | Command::EndSession(_)
            | Command::SetNode(_)
            | Command::SetLayout(_)
            | Command::BeginEpoch(_)
    )
}

/// Drops the replies of sequences from `from` up to and without `to`. There are at most `SESSION_OPEN_MAX`.
fn forget_replies(tx: &mut Transaction<'_>, session: SessionId, from: u64, to: u64) -> Result<(), Fault> {
    let (lower, upper) = (key_bytes(&(session, from)), key_bytes(&(session, to)));
    let range = tx.rows().range(Replies::ID, Bound::Included(&lower), Bound::Excluded(&upper))?;
    let keys: Vec<_> = range.map(|row| row.map(|(key, _)| key)).collect::<Result<_, _>>()?;
    for key in keys {
        tx.rows_mut().delete(Replies::ID, &key);
    }
    Ok(())
}

/// Opens a session, or finds the one that this nonce opened.
pub(super) fn open(tx: &mut Transaction<'_>, command: &OpenSession) -> Outcome {
    if let Some(id) = tx.get::<SessionNonces>(command.nonce)? {
        return Ok(Done::Session(id));
    }
    let id = SessionId { epoch: tx.cluster.epoch, number: tx.cluster.next_session };
    tx.cluster.next_session += 1;
    let session = Session {
        kind: command.kind.clone(),
        lowest_open: 1,
        oldest_write: 0,
        oldest_read: tx.index,
        pinned: Vec::new(),
        nonce: command.nonce,
    };
    tx.put::<Sessions>(id, &session);
    tx.put::<SessionNonces>(command.nonce, &id);
    Ok(Done::Session(id))
}

/// Raises the marks of a session; a smaller one changes nothing.
pub(super) fn renew(tx: &mut Transaction<'_>, id: SessionId, command: &RenewSession) -> Outcome {
    if SESSION_PINNED_MAX < command.pinned.len() {
        return malformed("too many pinned extents");
    }
    let mut session = tx.get::<Sessions>(id)?.ok_or(Reject::SessionEnded)?;
    session.oldest_write = session.oldest_write.max(command.oldest_write);
    // Nobody has read what is not applied yet; a mark ahead of the log would free what is released later.
    session.oldest_read = session.oldest_read.max(command.oldest_read.min(tx.index));
    session.pinned = command.pinned.clone();
    tx.put::<Sessions>(id, &session);
    Ok(Done::Nothing)
}

/// Settles an earlier command of the session: if it was not applied, its place is taken by a refusal.
pub(super) fn give_up(tx: &mut Transaction<'_>, entry: &Entry, command: &GiveUp) -> Outcome {
    let session = tx.get::<Sessions>(entry.session)?.ok_or(Reject::SessionEnded)?;
    if !(session.lowest_open..entry.sequence).contains(&command.sequence) {
        return malformed("the command to give up is not open");
    }
    let reply = tx.get::<Replies>((entry.session, command.sequence))?;
    if reply.is_none() {
        tx.put::<Replies>((entry.session, command.sequence), &Reply::TooLate);
    }
    Ok(Done::GivenUp(reply.filter(|reply| *reply != Reply::TooLate).map(Box::new)))
}

/// Ends a session: its commands are refused, its replies dropped, its extents that nothing names are garbage.
pub(super) fn end(tx: &mut Transaction<'_>, command: &EndSession) -> Outcome {
    let Some(session) = tx.get::<Sessions>(command.session)? else {
        return Ok(Done::Nothing);
    };
    tx.delete::<Sessions>(command.session);
    tx.delete::<SessionNonces>(session.nonce);
    tx.delete_under::<Replies>(command.session)?;
    Ok(Done::Nothing)
}
