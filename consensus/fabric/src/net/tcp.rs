//! The real network: TCP.
#![allow(clippy::disallowed_methods)] // This file implements the seam.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use super::{BoxStream, Listener, Net};
use crate::cluster::is_loopback;

/// Connections that wait for `accept`; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// An idle connection is probed after this.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Sent bytes that stay unacknowledged for so long end the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// The production [`Net`].
#[derive(Debug, Default, Clone, Copy)]
pub struct TcpNet;

#[async_trait]
impl Net for TcpNet {
    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        prepare(&stream)?;
        Ok(Box::new(stream))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    fn leaves_machine(&self, address: &str) -> bool {
        !is_loopback(address)
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
        for candidate in lookup_host(address).await? {
            match bind(candidate) {
                Ok(listener) => return Ok(Box::new(listener)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpPort> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted daemon takes its port at once, while old connections are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok(TcpPort { listener, address })
}

/// Small frames leave at once, and a peer that is gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

struct TcpPort {
    listener: TcpListener,
    address: SocketAddr,
}

#[async_trait]
impl Listener for TcpPort {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        loop {
            let (stream, from) = self.listener.accept().await?;
            // A connection that cannot be prepared was closed by its peer already: no fault of the port.
            if prepare(&stream).is_ok() {
                return Ok((Box::new(stream), from));
            }
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}
