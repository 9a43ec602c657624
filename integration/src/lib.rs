//! Everything that proves the store from outside: the conformance suite, hostile input, real daemons and
//! real clients, the simulator, and the stages of `cargo verify`. May import every crate.
//!
//! Behaviours and cases speak S3 bytes through [`client::Target`], so that they run against real daemons
//! and against the simulated cluster alike.

pub mod bad_input;
pub mod chaos;
pub mod client;
pub mod conformance;
pub mod daemons;
pub mod fuzz;
pub mod history;
mod hosts;
mod lent;
pub mod load;
pub mod sim;
pub mod verify;
pub mod worker;
