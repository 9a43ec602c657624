//! A network inside one process: the embedded modes wire the same daemons without sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

use super::{BoxStream, Listener, Net};

/// Bytes in flight in each direction of a connection.
const STREAM_BYTES: usize = 256 << 10;
/// Connections that wait for `accept`.
const BACKLOG: usize = 1024;
/// Port 0 takes the next free one from here.
const FIRST_PORT: u16 = 49152;

type Arrivals = mpsc::Sender<(DuplexStream, SocketAddr)>;

/// A [`Net`] in memory; clones are the same network. Addresses are `ip:port` (or `localhost:port`) and mean
/// nothing outside it.
#[derive(Clone, Default)]
pub struct LocalNet {
    ports: Arc<Mutex<BTreeMap<SocketAddr, Arrivals>>>,
}

impl LocalNet {
    fn ports(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arrivals>> {
        // The map is whole between any two statements that can panic, so poison means nothing here.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Net for LocalNet {
    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let address = parse(address)?;
        let arrivals = self.ports().get(&address).cloned();
        let refused =
            || io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens on {address}"));
        let arrivals = arrivals.ok_or_else(refused)?;
        let (here, there) = duplex(STREAM_BYTES);
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        arrivals.send((there, from)).await.map_err(|_| refused())?;
        Ok(Box::new(here))
    }

    fn leaves_machine(&self, _address: &str) -> bool {
        false
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let mut address = parse(address)?;
        let mut ports = self.ports();
        if address.port() == 0 {
            let taken = |port: &u16| ports.contains_key(&SocketAddr::new(address.ip(), *port));
            let free = (FIRST_PORT..=u16::MAX).find(|port| !taken(port));
            address.set_port(free.ok_or(io::ErrorKind::AddrInUse)?);
        }
        if ports.contains_key(&address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is taken")));
        }
        let (arrivals, accepted) = mpsc::channel(BACKLOG);
        ports.insert(address, arrivals);
        Ok(Box::new(LocalPort { net: self.clone(), address, accepted }))
    }
}

fn parse(address: &str) -> io::Result<SocketAddr> {
    let numeric = match address.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.to_string(),
    };
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not ip:port"));
    numeric.parse().map_err(invalid)
}

struct LocalPort {
    net: LocalNet,
    address: SocketAddr,
    accepted: mpsc::Receiver<(DuplexStream, SocketAddr)>,
}

impl Drop for LocalPort {
    fn drop(&mut self) {
        self.net.ports().remove(&self.address);
    }
}

#[async_trait]
impl Listener for LocalPort {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = self.accepted.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((Box::new(stream), from))
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}
