//! Calls between processes: length-prefixed, CRC-protected frames over one connection a peer and class.
//!
//! A call carries a method number, a small head (encoded with [`crate::codec`]) and a body of bytes that is
//! passed through without copying. The handshake proves cluster, role and node id on both sides (by
//! certificate where TLS is on) before the first call, so that a moved address never reaches a wrong node.
//! Bulk and control use separate connections: a chunk never delays a heartbeat.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId};

/// Who is at an end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// A storage node.
    Node(NodeId),
    /// A gateway; they have no number.
    Gateway,
}

/// What a connection is used for. Classes never share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Raft, metadata, birth: small and urgent.
    Control,
    /// Chunks.
    Bulk,
}

/// One request or reply.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Encoded typed part.
    pub head: Bytes,
    /// Payload; empty where there is none.
    pub body: Bytes,
}

/// Why a call has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RpcError {
    /// The request certainly never reached the peer.
    #[error("{0} cannot be reached")]
    Unreachable(String),
    /// The request may have been handled; the reply did not come.
    #[error("no reply: {0}")]
    Lost(String),
    /// The peer answered that it cannot do this (its words).
    #[error("refused: {0}")]
    Refused(String),
}

/// What a process offers to its peers. Method numbers are stable: 0x01.. Raft, 0x02.. metadata,
/// 0x03.. chunks, 0x04.. birth and administration.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Handles one call. An `Err` reaches the caller as [`RpcError::Refused`].
    async fn call(&self, from: Peer, method: u16, request: Message) -> Result<Message, String>;
}

/// Where nodes are: `iptable.txt` first, then the node table of the metadata.
pub trait AddressBook: Send + Sync + 'static {
    /// `host:port` of a node, if known.
    fn address(&self, node: NodeId) -> Option<String>;
    /// All nodes known, ascending.
    fn nodes(&self) -> Vec<NodeId>;
}

/// Who we are in the handshake.
#[derive(Clone)]
pub struct Identity {
    /// The cluster; a peer of another one is refused.
    pub cluster: ClusterId,
    /// Our role and id.
    pub me: Peer,
    /// Certificates; without them the process network must be in memory or loopback with `--insecure`.
    pub tls: Option<Arc<crate::tls::Certificates>>,
}

/// How long a call may take and over which kind of connection it goes.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    /// Control or bulk.
    pub class: Class,
    /// The call ends in [`RpcError::Lost`] after this.
    pub deadline: Duration,
}
