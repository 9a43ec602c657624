//! The simulator: gateways, Raft and storage nodes of one cluster in one thread, from one seed.
//!
//! Everything between the three seams is production code, wired as in the daemons. The workload speaks
//! signed HTTP to the gateways; the history judges whether promises were kept.

pub mod campaign;
pub mod coverage;
pub mod crash;
pub mod disk;
mod late_commit;
mod long_transfers;
mod machines;
pub mod minimise;
pub mod overlay;
pub mod plan;
pub mod planned;
pub mod random;
pub mod scenarios;
pub mod seams;
mod workload;
pub mod world;
