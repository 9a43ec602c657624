//! Applies committed commands: a function of the rows and the entry and of nothing else.

use super::command::{Entry, Reply};
use super::store::{Fault, RowsMut};

/// What the state machine sets once and passes with every entry. Equal on all replicas but for planted bugs.
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
}

/// Applies one committed command at a log index.
pub fn apply(
    _rows: &mut dyn RowsMut,
    _context: &Context,
    _index: u64,
    _entry: &Entry,
) -> Result<Reply, Fault> {
    Err(Fault::new("apply", "not built yet"))
}
