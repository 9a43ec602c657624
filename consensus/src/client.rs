//! What gateways and jobs use to change and to read metadata.
//!
//! Owns a session in the log, its sequence numbers, and the knowledge of who leads. A proposal is repeated
//! until its outcome is known or its deadline passes; a repeat never happens twice.

mod contacts;
mod detour;
mod holds;
mod remote;
mod session;

use async_trait::async_trait;
use fabric::ids::{ExtentId, SessionId};

use crate::meta::command::{Command, Done, Reject};
use crate::meta::model::Home;
use crate::meta::query::{Answer, Answered, BodyView, ObjectView, Piece, Query};

pub use contacts::Contacts;
pub use remote::MetaClient;

/// Why a proposal or a query has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// The rules said no; nothing changed.
    #[error("refused: {0:?}")]
    Rejected(Reject),
    /// Certainly not done; try again later.
    #[error("the metadata cannot be reached now: {0}")]
    Unavailable(String),
    /// Perhaps done. Never report it as "did not happen".
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Certainly not done: the disks of the voters are full, and waiting does not help.
    #[error("the metadata cannot grow: {0}")]
    Full(String),
}

/// The metadata as others see it. Implemented by [`MetaClient`] and by fakes in tests.
#[async_trait]
pub trait Meta: Send + Sync + 'static {
    /// Proposes a command in this client's session and waits for its outcome.
    async fn propose(&self, command: Command) -> Result<Done, MetaError>;
    /// Asks a question; the answer is linearizable: it shows everything acknowledged before the call.
    async fn query(&self, query: Query) -> Result<Answered, MetaError>;
    /// Opens a write: draws an extent number and holds garbage collection off it until the guard is dropped
    /// (after the outcome of the command that names it is known).
    async fn begin_write(&self) -> Result<WriteGuard, MetaError>;
    /// Opens a read: what is alive as of the current view stays readable until the guard is dropped.
    /// Call it before the query whose pieces will be read.
    fn begin_read(&self) -> ReadGuard;
}

/// Asks and unwraps a question that no rule refuses.
pub async fn ask(meta: &dyn Meta, query: Query) -> Result<Answer, MetaError> {
    meta.query(query).await?.answer.map_err(MetaError::Rejected)
}

/// Something that holds garbage collection off until it is dropped.
pub trait Hold: Send + Sync {
    /// Says which extents are meant, and whose they are. What lasts long holds these and nothing else.
    fn covers(&self, _home: Home, _extents: Vec<ExtentId>) {}

    /// Whether it was given up, as the session holds too much that lasts long: what it covered may be gone.
    fn is_lost(&self) -> bool {
        false
    }
}

impl Hold for () {}

/// An open write. The extent id is complete once the caller chose the hash.
pub struct WriteGuard {
    session: SessionId,
    number: u64,
    hold: Box<dyn Hold>,
}

/// An open read.
pub struct ReadGuard {
    hold: Box<dyn Hold>,
}

impl WriteGuard {
    /// Made by implementations of [`Meta`].
    pub fn new(session: SessionId, number: u64, hold: Box<dyn Hold>) -> WriteGuard {
        WriteGuard { session, number, hold }
    }

    /// The extent of this write in the partition that `hash` chooses.
    pub fn extent(&self, hash: u16) -> ExtentId {
        ExtentId::new(hash, self.session, self.number)
    }

    /// Says which extent is written, so that a write that lasts long is held by it. `home`: who will name it.
    pub fn writes(&self, home: Home, extent: ExtentId) {
        assert!(extent.session() == self.session && extent.number() == self.number);
        self.hold.covers(home, vec![extent]);
    }

    /// Whether the write lasted too long: its extent will be refused.
    pub fn is_lost(&self) -> bool {
        self.hold.is_lost()
    }
}

impl ReadGuard {
    /// Made by implementations of [`Meta`].
    pub fn new(hold: Box<dyn Hold>) -> ReadGuard {
        ReadGuard { hold }
    }

    /// Says that the body of `view`, a version of `own`, is read, so that a read that lasts long is held by what it
    /// reads and holds nothing else.
    pub fn reads(&self, own: Home, view: &ObjectView) {
        let pieces = match &view.body {
            BodyView::Pieces(pieces) => &pieces[..],
            BodyView::Inline(_) | BodyView::NotAsked => &[],
        };
        self.reads_pieces(view.object.body.home(own), pieces);
    }

    /// The same for pieces of extents that have their rows under `home`.
    pub fn reads_pieces(&self, home: Home, pieces: &[Piece]) {
        self.hold.covers(home, pieces.iter().map(|piece| piece.extent.id).collect());
    }

    /// Whether the read lasted too long: its chunks may be gone.
    pub fn is_lost(&self) -> bool {
        self.hold.is_lost()
    }
}
