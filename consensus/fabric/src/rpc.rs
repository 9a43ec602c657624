//! Calls between processes: length-prefixed, CRC-protected frames over one connection a peer and class.
//!
//! A call carries a method number, a small head (encoded with [`crate::codec`]) and a body of bytes that is
//! passed through without copying. The handshake proves cluster, role and node id on both sides (by
//! certificate where TLS is on) before the first call, so that a moved address never reaches a wrong node; and
//! that both know the same [`Epoch`] of the cluster.
//! Bulk and control use separate connections: a chunk never delays a heartbeat.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::ids::{ClusterId, NodeId};
use crate::net::Net;

mod client;
mod epoch;
mod frame;
mod handshake;
mod server;

pub use client::RpcClient;
pub use epoch::Epoch;
pub use frame::read_all;
pub use server::serve;

/// Who is at an end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// A storage node.
    Node(NodeId),
    /// A gateway; they have no number.
    Gateway,
}

impl From<NodeId> for Peer {
    fn from(node: NodeId) -> Peer {
        Peer::Node(node)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Node(node) => write!(f, "node {node}"),
            Peer::Gateway => f.write_str("a gateway"),
        }
    }
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
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The request may have been handled; the reply did not come.
    #[error("no reply: {0}")]
    Lost(String),
    /// The peer answered that it cannot do this (its words).
    #[error("refused: {0}")]
    Refused(String),
}

/// What a process offers to its peers. Method numbers are stable: 0x01.. Raft, 0x02.. metadata,
/// 0x03.. chunks, 0x04.. birth and administration, 0x05.. searches.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Handles one call. An `Err` reaches the caller as [`RpcError::Refused`], a panic as [`RpcError::Lost`].
    /// It runs to its end even when the caller is gone, so it must bound its own waits.
    async fn call(&self, from: Peer, method: u16, request: Message) -> Result<Message, String>;
}

/// Where nodes are: `iptable.txt` first, then the node table of the metadata.
pub trait AddressBook: Send + Sync + 'static {
    /// `host:port` of a node, if known.
    fn address(&self, node: NodeId) -> Option<String>;
    /// All nodes known, ascending.
    fn nodes(&self) -> Vec<NodeId>;
    /// Takes the addresses of all members, as the metadata has them now. A book that is complete needs none.
    fn learn(&self, members: BTreeMap<NodeId, String>) {
        let _ = members;
    }
}

/// Who we are in the handshake. A process has one; its clones share what is learnt of the epoch.
#[derive(Clone)]
pub struct Identity {
    /// The cluster; a peer of another one is refused.
    pub cluster: ClusterId,
    /// Our role and id.
    pub me: Peer,
    /// Certificates; without them bytes must not leave the machine, see [`Identity::may_use`].
    pub tls: Option<Arc<crate::tls::Certificates>>,
    /// The epoch of the cluster, as far as we know; a peer that knows another is refused.
    pub epoch: Epoch,
}

impl Identity {
    /// With an epoch that is not known yet.
    pub fn new(cluster: ClusterId, me: Peer, tls: Option<Arc<crate::tls::Certificates>>) -> Identity {
        Identity { cluster, me, tls, epoch: Epoch::default() }
    }

    /// Refuses an address of `net` that plain bytes would reach over a wire: without certificates processes speak
    /// to each other on one machine only, whatever a configuration says.
    pub fn may_use(&self, net: &dyn Net, address: &str) -> io::Result<()> {
        if self.tls.is_some() || !net.leaves_machine(address) {
            return Ok(());
        }
        let why = format!("{address} is not on the loopback of this machine, and there are no certificates");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

/// How long a call may take and over which kind of connection it goes.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    /// Control or bulk.
    pub class: Class,
    /// The call ends in [`RpcError::Lost`] after this.
    pub deadline: Duration,
}

/// Format version of typed heads.
const HEAD_FORMAT: u8 = 1;

/// Encodes the typed part of a request or of an answer.
pub fn encode_head<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(codec::encode(HEAD_FORMAT, value))
}

/// Decodes what [`encode_head`] wrote. In a service: `decode_head(&request.head).map_err(|e| e.to_string())?`.
pub fn decode_head<T: DeserializeOwned>(head: &[u8]) -> Result<T, DecodeError> {
    codec::decode(HEAD_FORMAT, "the head of a call", head)
}

/// An answer with a typed head.
pub fn reply_typed<A: Serialize>(answer: &A, body: Bytes) -> Message {
    Message { head: encode_head(answer), body }
}

/// Puts services together: the upper byte of a method number chooses.
#[derive(Default)]
pub struct Router {
    services: BTreeMap<u8, Arc<dyn Service>>,
}

impl Router {
    /// Adds the service for methods `group << 8 ..`. Each group has one.
    pub fn with(mut self, group: u8, service: Arc<dyn Service>) -> Router {
        let replaced = self.services.insert(group, service);
        assert!(replaced.is_none(), "method group {group} has two services");
        self
    }
}

#[async_trait]
impl Service for Router {
    async fn call(&self, from: Peer, method: u16, request: Message) -> Result<Message, String> {
        match self.services.get(&((method >> 8) as u8)) {
            Some(service) => service.call(from, method, request).await,
            None => Err(format!("method {method:#06x} is not offered here")),
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Deliver,
    /// It is lost.
    Drop,
    /// It arrives twice.
    Duplicate,
    /// It arrives this much later, perhaps behind later ones.
    Delay(Duration),
}

/// Decides about frames, at the side that calls. For the simulator; production has none.
pub trait FrameFaults: Send + Sync + 'static {
    /// The fate of a request to `node`.
    fn request(&self, node: NodeId, class: Class) -> Fate;
    /// The fate of a reply from `node`. A duplicate reply is as good as one.
    fn reply(&self, node: NodeId, class: Class) -> Fate;
}

#[cfg(test)]
mod tests;
