//! A network of machines on this one: each has a network namespace, an address and a link to a bridge of its own. What
//! happens to a link happens as to a cable: packets vanish, and nobody hears an end of a connection or a refusal. Takes
//! root and `ip`; who gets nothing hears an error and goes without. All of it is given back when it is dropped.

// This file works with the real system on purpose.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::daemons::Daemon;
use crate::lent::tool;

/// The address of nobody's link: what is sent there is lost.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A bridge, and the machines at it.
pub struct Network {
    bridge: String,
    address: Ipv4Addr,
    hosts: Vec<Host>,
}

/// A machine, whose processes see its network and no other.
pub struct Host {
    name: String,
    namespace: String,
    link: String,
    address: Ipv4Addr,
    lent: Mutex<Vec<JoinHandle<()>>>,
}

impl Network {
    /// A network of machines with these names, all of them plugged in. This process is at the bridge, too.
    pub fn new(names: &[String]) -> Result<Network> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, serial) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Addresses that are set aside for tests of networks (RFC 2544).
        let (high, low) = (18 + (process >> 8) as u8 % 2, (process + 97 * serial) as u8);
        let address = |host: usize| Ipv4Addr::new(198, high, low, host as u8 + 1);
        let id = format!("{process}-{serial}"); // Links have names of fifteen letters at most.
        let bridge = format!("fb{id}");
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let mut network = Network { bridge, address: address(0), hosts: Vec::new() };
        ip(&["addr", "add", &format!("{}/24", network.address), "dev", &network.bridge])?;
        ip(&["link", "set", &network.bridge, "up"])?;
        for (index, name) in names.iter().enumerate() {
            let namespace = format!("fluffy-{id}-{name}");
            ip(&["netns", "add", &namespace])?;
            let (link, lent) = (format!("fl{id}-{index}"), Mutex::default());
            network.hosts.push(Host {
                name: name.clone(),
                namespace,
                link,
                address: address(index + 1),
                lent,
            });
            network.hosts[index].connect(&network.bridge)?;
        }
        Ok(network)
    }

    /// The address of this process.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// The machine of this name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let host = self.hosts.iter().find(|host| host.name == name);
        host.with_context(|| format!("{name} has no machine of its own"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.hosts.clear();
        let _ = ip(&["link", "del", &self.bridge]); // What stays costs nothing, and nobody can do more.
    }
}

impl Host {
    fn connect(&self, bridge: &str) -> Result<()> {
        ip(&["link", "add", &self.link, "type", "veth", "peer", "name", "eth0", "netns", &self.namespace])?;
        ip(&["link", "set", &self.link, "master", bridge, "up"])?;
        self.inside(&["addr", "add", &format!("{}/24", self.address), "dev", "eth0"])?;
        self.inside(&["link", "set", "eth0", "up"])?;
        self.inside(&["link", "set", "lo", "up"])
    }

    fn inside(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.namespace], args].concat())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace)
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// Starts a daemon on it.
    pub fn bound(&self, daemon: Daemon) -> Daemon {
        daemon.by("nsenter", &[&format!("--net={}", self.path().display())])
    }

    /// Pulls the cable.
    pub fn unplug(&self) -> Result<()> {
        ip(&["link", "set", &self.link, "down"])
    }

    /// Puts the cable back.
    pub fn plug(&self) -> Result<()> {
        ip(&["link", "set", &self.link, "up"])
    }

    /// What it sends to another machine is lost from now on. It hears that machine as before.
    pub fn lose_packets_to(&self, other: &Host) -> Result<()> {
        let other = other.address.to_string();
        self.inside(&["neigh", "replace", &other, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent"])
    }

    /// What it sends to that machine arrives again.
    pub fn reach(&self, other: &Host) -> Result<()> {
        self.inside(&["neigh", "del", &other.address.to_string(), "dev", "eth0"])
    }

    /// Connections to `port` of this process's loopback lead to the same port of the machine's loopback: what a daemon
    /// shows only to its own machine.
    pub async fn lend_loopback(&self, port: u16) -> Result<()> {
        let inner = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(inner).await.context("listen for a machine")?;
        let path = self.path();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass_on(near, path.clone(), inner));
            }
        });
        self.lent.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.lent.get_mut().unwrap_or_else(PoisonError::into_inner).iter().for_each(JoinHandle::abort);
        // What stays costs nothing. The link would go with the namespace, but later, when its name may be taken again.
        let _ = ip(&["link", "del", &self.link]);
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

/// One connection into a machine, until one side ends it. A port that nobody listens on: the connection ends.
async fn pass_on(mut near: TcpStream, namespace: PathBuf, to: SocketAddr) {
    if let Ok(mut far) = connect_inside(namespace, to).await {
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

/// A socket belongs for ever to the namespace of the thread that made it: a thread of its own makes it.
async fn connect_inside(namespace: PathBuf, to: SocketAddr) -> io::Result<TcpStream> {
    let (sender, made) = oneshot::channel();
    std::thread::spawn(move || {
        let connected = File::open(namespace).and_then(|namespace| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            std::net::TcpStream::connect(to)
        });
        let _ = sender.send(connected); // Nobody waits for it any more.
    });
    let stream = made.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn ip(args: &[&str]) -> Result<()> {
    tool("ip", args)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// `None` where the system lends none.
    fn network() -> Option<Network> {
        Network::new(&["one".to_string(), "two".to_string()]).ok()
    }

    /// Whether somebody answers to an attempt to connect.
    async fn answers(from: &Host, to: SocketAddr, patience: Duration) -> bool {
        tokio::time::timeout(patience, connect_inside(from.path(), to)).await.is_ok()
    }

    #[tokio::test]
    async fn packets_vanish_where_a_cable_is_pulled() {
        let Some(network) = network() else { return };
        let (one, two) = (network.host("one").unwrap(), network.host("two").unwrap());
        let nobody = SocketAddr::from((two.address(), 7));
        let (short, long) = (Duration::from_millis(300), Duration::from_secs(10));
        assert!(answers(one, nobody, long).await, "a machine that is there refuses");
        two.unplug().unwrap();
        assert!(!answers(one, nobody, short).await, "one that is unplugged says nothing");
        two.plug().unwrap();
        two.lose_packets_to(one).unwrap();
        assert!(!answers(one, nobody, short).await, "nor one that cannot answer");
        two.reach(one).unwrap();
        assert!(answers(one, nobody, long).await);
    }

    #[tokio::test]
    async fn a_port_of_a_machines_loopback_is_lent() {
        let Some(network) = network() else { return };
        let port = crate::daemons::free_port().unwrap();
        network.host("one").unwrap().lend_loopback(port).await.unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "nobody listens there");
    }
}
