//! The metadata model: what is stored, what changes it, what can be asked. Pure: no clock, no network.
//!
//! The flow: a [`command`] in an entry of the log goes through [`apply`] into the [`tables`] over a [`store`]; a
//! [`query`] is [`answer`]ed from one view of them.

pub mod acl;
pub mod answer;
pub mod apply;
pub mod audit;
pub mod command;
mod due;
pub mod lifecycle;
mod lookup;
pub mod model;
pub mod names;
pub mod overlay;
pub mod query;
mod recoding;
pub mod replication;
pub mod sealing;
pub mod store;
pub mod tables;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod website;
