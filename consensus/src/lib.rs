//! Consensus: the metadata of a cluster and the agreement on it.
//!
//! [`meta`] is the model: names, rows, commands, `apply`, queries; pure, without async or I/O choice, and it
//! never imports [`raft`]. [`raft`] is the agreement: log, state machine, network, node. [`client`] is what
//! gateways and jobs use.
//!
//! Must not know: HTTP, XML, chunk bytes.

pub mod client;
pub mod meta;
pub mod raft;
pub mod redb_file;
