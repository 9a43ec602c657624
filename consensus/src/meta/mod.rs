//! The metadata model: what is stored, what changes it, what can be asked. Pure: no clock, no network.

pub mod answer;
pub mod apply;
pub mod command;
mod lookup;
pub mod model;
pub mod names;
pub mod query;
pub mod store;
pub mod tables;
