//! Agreement on the metadata: log, state machine, network, node.
//!
//! What is durable is here and only here: the write-ahead log ([`log`]) and the checkpointed tables
//! ([`machine`]). openraft decides; these parts do what it decides.

pub mod log;
pub mod machine;
pub mod overlay;
#[cfg(test)]
mod testing;
pub mod types;
