//! The second seam: connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};

use crate::limits::TLS_READ_AHEAD_BYTES;

pub mod local;
pub mod tcp;

pub use local::LocalNet;
pub use tcp::TcpNet;

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connected byte stream of any kind.
pub type BoxStream = Box<dyn Stream>;

/// A stream that reads ahead, to lie below TLS: that asks for four KiB at a time, and each is a call of the system.
pub fn reading_ahead(stream: BoxStream) -> BoxStream {
    Box::new(BufReader::with_capacity(TLS_READ_AHEAD_BYTES, stream))
}

/// Where connections come from and go to.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Connects to `address` (`host:port`). The caller bounds the wait.
    async fn connect(&self, address: &str) -> io::Result<BoxStream>;
    /// The addresses of a name. Without a service for names only an address has one.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let address =
            host.parse::<IpAddr>().map_err(|_| io::Error::new(io::ErrorKind::NotFound, "no such name"))?;
        Ok(vec![SocketAddr::new(address, port)])
    }
    /// Whether others than this machine could see the bytes of a connection with `address`.
    fn leaves_machine(&self, address: &str) -> bool;
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

/// How long a listener rests after `accept` failed, which is when this process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The next connection, whatever happens: a failed `accept` is logged and tried again, since a listener that
/// gave up would be a process that looks alive and serves nobody.
pub async fn accept(listener: &mut dyn Listener) -> (BoxStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(address = %listener.local_address(), %error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_networks_carry_bytes_and_refuse_where_nobody_listens() {
        for net in [Arc::new(TcpNet) as Arc<dyn Net>, Arc::new(LocalNet::default())] {
            let mut listener = net.listen("127.0.0.1:0").await.unwrap();
            let address = listener.local_address().to_string();
            assert!(!address.ends_with(":0"));
            assert_eq!(net.listen(&address).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);

            let (dialled, accepted) = tokio::join!(net.connect(&address), accept(&mut *listener));
            let (mut here, mut there) = (dialled.unwrap(), accepted.0);
            here.write_all(b"hello").await.unwrap();
            here.shutdown().await.unwrap();
            let mut heard = Vec::new();
            there.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"hello");

            drop(listener);
            assert_eq!(net.connect(&address).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
            net.listen(&address).await.unwrap();
        }
    }
}
