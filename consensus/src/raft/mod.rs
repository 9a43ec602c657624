//! Agreement on the metadata: log, state machine, network, node.
//!
//! What is durable is here and only here: the write-ahead log ([`log`]) and the checkpointed tables
//! ([`machine`]). openraft decides; these parts do what it decides.

mod backups;
mod clocks;
mod donors;
mod duties;
mod electorate;
pub mod identity;
pub mod lives;
pub mod log;
pub mod machine;
mod network;
pub mod node;
pub mod overlay;
mod peers;
mod reads;
mod rebuild;
pub mod recovery;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod types;
pub mod wire;

use std::sync::Arc;

use fabric::env::{Env, run_blocking};

/// Begins, beside everything else, what the first Raft of a process would wait for: all histograms of openraft share
/// tables that take 20 to 40 ms to compute.
pub fn prepare(env: &Arc<dyn Env>) {
    let worker = env.clone();
    let compute = || drop(base2histogram::Histogram::<()>::new());
    env.spawn("raft-prepare", Box::pin(async move { run_blocking(&*worker, compute).await }));
}
