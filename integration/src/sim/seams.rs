//! The other two seams, simulated: clocks and randomness from the seed, sockets from turmoil.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use fabric::env::{BoxFuture, Env, LaneWorker, TaskHandle, Work};
use fabric::net::{BoxStream, Listener, Net};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::random::SimRandom;

/// Bytes that a connection takes at once.
const SEGMENT_BYTES_MAX: usize = 64 << 10;

/// Wall clock at the start of every simulation: 2026-01-01.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// Environment of one simulated machine; outlives its processes.
pub struct SimEnv {
    name: String,
    random: Arc<SimRandom>,
    armed: BTreeSet<&'static str>,
    state: Arc<Mutex<EnvState>>,
}

#[derive(Default)]
struct EnvState {
    wall_offset_ms: i64,
    fail_stop: Option<String>,
    disk_latency_us: u64,
}

impl SimEnv {
    /// A machine with the given planted bugs and failpoints.
    pub fn new(name: &str, random: Arc<SimRandom>, armed: BTreeSet<&'static str>) -> SimEnv {
        let state = EnvState { disk_latency_us: 200, ..EnvState::default() };
        SimEnv { name: name.to_string(), random, armed, state: Arc::new(Mutex::new(state)) }
    }

    /// Moves the wall clock of this machine.
    pub fn set_wall_offset_ms(&self, offset_ms: i64) {
        self.state().wall_offset_ms = offset_ms;
    }

    /// Sets how long blocking work takes in simulated time.
    pub fn set_disk_latency_us(&self, latency_us: u64) {
        self.state().disk_latency_us = latency_us;
    }

    /// Why the process wants to end, once.
    pub fn take_fail_stop(&self) -> Option<String> {
        self.state().fail_stop.take()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, EnvState> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    /// Lets other tasks run while "the disk works".
    fn latency(&self) -> impl Future<Output = ()> + Send + use<> {
        let most = self.state().disk_latency_us.max(1);
        tokio::time::sleep(Duration::from_micros(self.random.below(most)))
    }
}

#[async_trait]
impl Env for SimEnv {
    fn wall_ms(&self) -> u64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64;
        (EPOCH_MS + elapsed).saturating_add_signed(self.state().wall_offset_ms)
    }

    fn monotonic(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_default()
    }

    fn boottime(&self) -> Duration {
        self.monotonic()
    }

    fn random(&self, into: &mut [u8]) {
        self.random.fill(into);
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        #[allow(clippy::disallowed_methods)] // This file implements the seam.
        let handle = tokio::task::spawn(task);
        TaskHandle::new(move || handle.abort())
    }

    async fn blocking(&self, work: Work) {
        self.latency().await;
        work();
        self.latency().await;
    }

    fn lane(&self, _name: &str) -> Arc<dyn LaneWorker> {
        Arc::new(SimLane {
            turn: tokio::sync::Mutex::new(()),
            random: self.random.clone(),
            state: self.state.clone(),
        })
    }

    fn fail_stop(&self, reason: &str) {
        tracing::info!(machine = self.name, reason, "fail stop");
        self.state().fail_stop.get_or_insert_with(|| reason.to_string());
    }

    fn armed(&self, point: &'static str) -> bool {
        self.armed.contains(point)
    }
}

/// Runs the work inline, in order, with simulated time around it.
struct SimLane {
    turn: tokio::sync::Mutex<()>,
    random: Arc<SimRandom>,
    state: Arc<Mutex<EnvState>>,
}

#[async_trait]
impl LaneWorker for SimLane {
    async fn run(&self, work: Work) {
        let _turn = self.turn.lock().await;
        let most = self.state.lock().expect("no holder of this lock can panic").disk_latency_us.max(1);
        tokio::time::sleep(Duration::from_micros(self.random.below(most))).await;
        work();
        tokio::time::sleep(Duration::from_micros(self.random.below(most))).await;
    }
}

/// Connections between simulated machines; addresses are `machine:port`.
pub struct SimNet;

#[async_trait]
impl Net for SimNet {
    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let stream = turmoil::net::TcpStream::connect(address.to_string()).await?;
        Ok(Box::new(SimStream(stream)))
    }

    fn leaves_machine(&self, _address: &str) -> bool {
        false
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        // Machines listen on all of their addresses; only the port of the text counts.
        let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = port.ok_or(io::ErrorKind::InvalidInput)?;
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", port)).await?;
        Ok(Box::new(SimListener(listener)))
    }
}

struct SimListener(turmoil::net::TcpListener);

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Box::new(SimStream(stream)), peer))
    }

    fn local_address(&self) -> SocketAddr {
        self.0.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

/// turmoil's stream under our own name, so that it is a `Stream` whatever turmoil adds to it.
struct SimStream(turmoil::net::TcpStream);

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let segment = &bytes[..bytes.len().min(SEGMENT_BYTES_MAX)];
        Pin::new(&mut self.0).poll_write(cx, segment)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
