//! Storage: chunks on disks, and the daemon that serves them beside the metadata.
//!
//! Owns chunk volumes, the chunk RPC and its client, background jobs, and the composition of
//! `fluffy-storage`. Must not know: HTTP (but for health and metrics on the admin port), XML, S3 operations.

pub mod admin;
pub mod backup;
pub mod chunks;
pub mod client;
pub mod daemon;
pub mod index;
pub mod jobs;
pub mod lost;
pub mod membership;
mod node_chunks;
pub mod origin;
pub mod salvage;
pub mod service;
#[cfg(test)]
mod testing;
pub mod wholeness;
pub mod wire;
