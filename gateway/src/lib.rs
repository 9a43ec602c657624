//! The gateway: speaks S3 to clients, keeps nothing durable.
//!
//! [`s3`] is the dialect, [`data`] turns bodies into extents and back and never imports [`s3`].
//! Must not know: redb, openraft, the disks of nodes.

pub mod accounts;
pub mod admin;
mod admission;
pub mod config;
pub mod daemon;
pub mod data;
pub mod http;
pub mod keyring;
mod leading;
pub mod notify;
pub mod overlay;
pub mod queue;
pub mod s3;
pub mod secrets;
pub mod store_files;
