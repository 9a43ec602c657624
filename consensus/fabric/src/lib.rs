//! The fabric: what every other crate stands on.
//!
//! Owns the identifiers, the limits, the description of a cluster, placement, the erasure code, the three seams ([`env`],
//! [`net`], [`disks`]) through which everything touches the outside world, the codec of stored and sent
//! values, and the framed RPC between processes.
//!
//! Must not know: redb, openraft, HTTP, buckets and keys.

pub mod cluster;
pub mod codec;
pub mod coding;
pub mod disks;
pub mod env;
pub mod ids;
pub mod limits;
pub mod net;
pub mod placement;
pub mod rpc;
pub mod tls;

use std::pin::Pin;
use std::sync::Arc;

/// What a call at the edge of a crate gives that does much before it is over. The code of an `async fn` is made anew in every
/// crate that awaits it; behind this it is made once, where it is written.
pub type Edge<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The three seams, handed to everything that needs the outside world.
#[derive(Clone)]
pub struct Seams {
    /// Clocks, randomness, tasks, the blocking pool, process exit and failpoints.
    pub env: Arc<dyn env::Env>,
    /// Connections.
    pub net: Arc<dyn net::Net>,
    /// Files.
    pub disks: Arc<dyn disks::Disks>,
}
