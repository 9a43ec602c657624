//! Agreement on the metadata: log, state machine, network, node.
//!
//! What is durable is here and only here: the write-ahead log ([`log`]) and the checkpointed tables
//! ([`machine`]). openraft decides; these parts do what it decides.

mod clocks;
mod donors;
mod duties;
pub mod identity;
pub mod lives;
pub mod log;
pub mod machine;
mod network;
pub mod node;
pub mod overlay;
mod peers;
mod reads;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod types;
pub mod wire;
