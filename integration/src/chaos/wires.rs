//! Bad networks for real processes: a proxy on every way from one process to a node, each with weather of its own.
//!
//! A way is directed by who opens the connection: `Wires::way("storage-1", 2)` carries what node 1 asks of node 2, and
//! the answers. What is cut is held back, as by a network whose packets are lost until it heals.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::sim::random::SimRandom;

/// On loopback proxies have an address of their own, so that they never take a port that a daemon was promised.
const ON_LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Bytes that travel together.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces under way in one direction of a connection.
const PIECES_MAX: usize = 256;

/// What happens to bytes on a way.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// Nothing passes.
    pub cut: bool,
    /// Every piece arrives so much later.
    pub delay: Duration,
    /// And up to so much more.
    pub jitter: Duration,
    /// Bytes a second; `None`: as many as there are.
    pub rate: Option<u64>,
    /// Of a thousand pieces, so many have one bit flipped.
    pub flips_per_mille: u64,
    /// Every connection ends when this changes.
    pub resets: u64,
}

/// All ways of a cluster.
pub struct Wires {
    /// Where the proxies are.
    at: IpAddr,
    ways: BTreeMap<(String, u16), watch::Sender<Weather>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Wires {
    /// No way yet. The proxies are at an address of this machine; `None`: on loopback.
    pub fn new(at: Option<IpAddr>) -> Wires {
        Wires { at: at.unwrap_or(ON_LOOPBACK), ways: BTreeMap::new(), tasks: Vec::new() }
    }

    /// A new way from the process `from` to `node`, which listens on `to`; returns where `from` has to connect.
    pub async fn add(&mut self, from: &str, node: u16, to: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((self.at, 0)).await.context("open a proxy")?;
        let address = listener.local_addr()?;
        let (sender, weather) = watch::channel(Weather::default());
        self.ways.insert((from.to_string(), node), sender);
        self.tasks.push(tokio::spawn(serve(listener, to, weather)));
        Ok(address)
    }

    /// Changes the weather on the ways that `choose` names by `from` and `node`.
    pub fn change(&self, choose: impl Fn(&str, u16) -> bool, change: impl Fn(&mut Weather)) {
        for ((from, node), weather) in &self.ways {
            if choose(from, *node) {
                weather.send_modify(&change);
            }
        }
    }

    /// Fair weather everywhere.
    pub fn heal(&self) {
        self.change(
            |_, _| true,
            |weather| *weather = Weather { resets: weather.resets, ..Weather::default() },
        );
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut count = 0;
    while let Ok((near, _)) = listener.accept().await {
        count += 1;
        tokio::spawn(carry(near, to, weather.clone(), count));
    }
}

/// One connection, until one side ends it or the weather resets it.
async fn carry(near: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>, number: u64) {
    if weather.wait_for(|weather| !weather.cut).await.is_err() {
        return;
    }
    // A node that is down refuses: so does the proxy, by closing.
    let Ok(far) = TcpStream::connect(to).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true)); // Only slower without.
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let there = pump(near_in, far_out, weather.clone(), SimRandom::new(number, "there"));
    let back = pump(far_in, near_out, weather.clone(), SimRandom::new(number, "back"));
    let resets = weather.borrow().resets;
    tokio::select! {
        _ = futures::future::join(there, back) => {}
        _ = weather.wait_for(|weather| weather.resets != resets) => {}
    }
}

/// One direction of a connection.
async fn pump(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    random: SimRandom,
) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reading = async move {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count) = from.read(&mut piece).await {
            if count == 0 || sender.send((Instant::now(), piece[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    futures::future::join(reading, deliver(pieces, to, weather, &random)).await;
}

async fn deliver(
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    random: &SimRandom,
) {
    while let Some((came, mut piece)) = pieces.recv().await {
        let now = match weather.wait_for(|weather| !weather.cut).await {
            Ok(now) => now.clone(),
            Err(_) => return,
        };
        let jitter = random.below(now.jitter.as_micros() as u64 + 1);
        let due = came + now.delay + Duration::from_micros(jitter);
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            tokio::time::sleep(early).await; // Even the shortest sleep takes a millisecond.
        }
        if let Some(rate) = now.rate {
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await;
        }
        if random.below(1000) < now.flips_per_mille {
            let place = random.below(piece.len() as u64) as usize;
            piece[place] ^= 1 << random.below(8);
        }
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await; // The other side may be gone already.
}

/// Names the process of node `id`, as [`crate::daemons::Cluster`] does.
pub fn node_name(id: u16) -> String {
    format!("storage-{id}")
}

/// Keeps a way's choice readable: everything between two nodes, in both directions.
pub fn between(one: u16, other: u16) -> impl Fn(&str, u16) -> bool {
    let (first, second) = (node_name(one), node_name(other));
    move |from, node| (from == first && node == other) || (from == second && node == one)
}

/// Everything that leads to a node or away from it.
pub fn around(id: u16) -> impl Fn(&str, u16) -> bool {
    let name = node_name(id);
    move |from, node| from == name || node == id
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_way_has_its_weather() {
        let mut wires = Wires::new(None);
        let address = wires.add("storage-1", 2, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 5];
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");

        wires.change(between(1, 2), |weather| weather.cut = true);
        stream.write_all(b"again").await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut answer)).await;
        assert!(waiting.is_err(), "what is cut does not arrive");
        wires.heal();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"again", "and arrives when the network heals");

        wires.change(around(2), |weather| weather.flips_per_mille = 1000);
        let mut spoilt = 0;
        for _ in 0..20 {
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            spoilt += u32::from(&answer != b"hello");
        }
        assert!(spoilt > 10, "bits flip on the way there and on the way back: {spoilt}");

        wires.change(around(1), |weather| weather.resets += 1);
        assert_eq!(stream.read(&mut answer).await.unwrap_or(0), 0, "the connection ends");
    }
}
