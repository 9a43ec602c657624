//! The simulator: gateways, Raft and storage nodes of one cluster in one thread, from one seed.
//!
//! Everything between the three seams is production code, wired as in the daemons. The workload speaks
//! signed HTTP to the gateways; the oracle knows what clients were promised.

pub mod body;
pub mod disk;
pub mod oracle;
pub mod random;
pub mod seams;
