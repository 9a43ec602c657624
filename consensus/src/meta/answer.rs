//! Answers queries from one view of the rows.

use super::query::{Answered, Query};
use super::store::{Fault, Rows};

/// Answers `query` from a view whose applied index is `index`.
pub fn answer(_rows: &dyn Rows, _index: u64, _query: &Query) -> Result<Answered, Fault> {
    Err(Fault::new("answer", "not built yet"))
}
