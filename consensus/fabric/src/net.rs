//! The second seam: connections.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connected byte stream of any kind.
pub type BoxStream = Box<dyn Stream>;

/// Where connections come from and go to.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Connects to `address` (`host:port`). The caller bounds the wait.
    async fn connect(&self, address: &str) -> io::Result<BoxStream>;
    /// Listens on `address` (`host:port`, port 0 for any).
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;
}

/// An open port.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The next connection and where it came from.
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)>;
    /// Where it listens.
    fn local_address(&self) -> SocketAddr;
}
