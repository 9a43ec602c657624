//! What a cluster of an arena stands on: the disks, the memory, the clocks and the machines of its processes. All of it is
//! given back when it is dropped, which has to be after the processes are gone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::arena::NODES;
use super::power::Island;
use super::wires::node_name;
use crate::daemons::{Cluster, Daemon, scratch};
use crate::hosts::{Host, Network};
use crate::lent::{MemoryGroup, Mount, tool};
use crate::verify::say;

/// Kinds of ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// The disk of the machine, all of its memory, its clock.
    Common,
    /// The data of each node lie in an ext4 of its own in a file.
    Islands,
    /// The data of each node lie on a small file system in memory, and its log beside them.
    SmallDisks,
    /// The system ends each process that takes more than [`MEMORY_BYTES`].
    LittleMemory,
    /// Each process has a wall clock that can be set.
    OwnClocks,
    /// Processes reach each other without proxies, each on a machine of its own.
    Cables,
}

impl Ground {
    /// All of them, in the order of the episodes.
    pub const ALL: &[Ground] = &[
        Ground::Islands,
        Ground::Common,
        Ground::Cables,
        Ground::SmallDisks,
        Ground::LittleMemory,
        Ground::OwnClocks,
    ];

    /// What the configuration says of it.
    pub fn settings(self) -> &'static str {
        match self {
            Ground::LittleMemory => "storage:\n  memory_limit: 128MiB\ngateway:\n  memory_limit: 128MiB\n",
            _ => "",
        }
    }
}

/// The least `memory_limit` that there is, which the settings of [`Ground::LittleMemory`] name.
pub const MEMORY_BYTES: u64 = 128 << 20;
/// Room for the reserves of a node and for what an episode writes.
const SMALL_DISK_BYTES: u64 = 1 << 30;
/// Shifts the wall clock of the program that it is loaded into.
const CLOCK_SOURCE: &str = include_str!("clock.c");

/// Ground of one cluster.
pub struct Footing {
    /// Node 1 first; empty unless there are [`Ground::Islands`].
    pub islands: Vec<Island>,
    /// Node 1 first; empty unless there are [`Ground::SmallDisks`].
    pub disks: Vec<Mount>,
    /// Empty unless there is [`Ground::LittleMemory`].
    pub groups: Vec<MemoryGroup>,
    /// A machine for each process; `None` where the system lends none, and all are on loopback.
    pub network: Option<Network>,
    clocks: BTreeMap<String, File>,
    /// Behind what lies in it.
    home: TempDir,
}

impl Footing {
    /// Takes from the system what a ground is made of, for processes of these names.
    pub fn new(ground: Ground, processes: &[String]) -> Result<Footing> {
        let network = match Network::new(processes) {
            Ok(network) => Some(network),
            Err(error) if ground == Ground::Cables => return Err(error),
            Err(error) => {
                say(&format!(
                    "all processes are on loopback, since each can have no machine here: {error:#}"
                ));
                None
            }
        };
        let (islands, disks, groups) = (Vec::new(), Vec::new(), Vec::new());
        let (clocks, home) = (BTreeMap::new(), scratch("ground-")?);
        let mut footing = Footing { islands, disks, groups, network, clocks, home };
        let home = footing.home.path().to_path_buf();
        match ground {
            Ground::Common | Ground::Cables => {}
            Ground::Islands => {
                for node in 1..=NODES {
                    footing.islands.push(Island::new(&home, node)?);
                }
            }
            Ground::SmallDisks => {
                for node in 1..=NODES {
                    footing.disks.push(Mount::memory(&home.join(node_name(node)), SMALL_DISK_BYTES)?);
                }
            }
            Ground::LittleMemory => {
                for name in processes {
                    footing.groups.push(MemoryGroup::new(name, MEMORY_BYTES)?);
                }
            }
            Ground::OwnClocks => footing.make_clocks(processes)?,
        }
        Ok(footing)
    }

    fn make_clocks(&mut self, processes: &[String]) -> Result<()> {
        let source = self.home.path().join("clock.c");
        fs::write(&source, CLOCK_SOURCE)?;
        let (source, library) = (source.display().to_string(), self.library().display().to_string());
        tool("cc", &["-shared", "-fPIC", "-O2", "-o", &library, &source]).context("compile a clock")?;
        for name in processes {
            let file = File::create(self.clock_path(name))?;
            file.set_len(8)?;
            self.clocks.insert(name.clone(), file);
        }
        Ok(())
    }

    fn library(&self) -> PathBuf {
        self.home.path().join("clock.so")
    }

    fn clock_path(&self, name: &str) -> PathBuf {
        self.home.path().join(format!("clock-{name}"))
    }

    /// Puts a process on this ground.
    pub fn bind(&self, mut daemon: Daemon) -> Daemon {
        let number = daemon.name().strip_prefix("storage-").and_then(|id| id.parse::<usize>().ok());
        let islands = self.islands.iter().map(Island::data);
        let places: Vec<PathBuf> =
            islands.chain(self.disks.iter().map(|disk| disk.place().join("data"))).collect();
        if let Some(place) = number.and_then(|number| places.get(number - 1)) {
            daemon.set_option("--data", &place.display().to_string());
        }
        if let Some(disk) = number.and_then(|number| self.disks.get(number - 1)) {
            daemon = daemon.log_to(&disk.place().join("log"));
        }
        if let Some(group) = self.groups.iter().find(|group| group.name() == daemon.name()) {
            daemon = group.bound(daemon);
        }
        if self.clocks.contains_key(daemon.name()) {
            let clock = self.clock_path(daemon.name()).display().to_string();
            daemon = daemon.variable("FLUFFY_CHAOS_CLOCK", &clock);
            daemon = daemon.variable("LD_PRELOAD", &self.library().display().to_string());
        }
        match self.network.as_ref().and_then(|network| network.host(daemon.name()).ok()) {
            Some(host) => host.bound(daemon),
            None => daemon,
        }
    }

    /// Lets the processes of a cluster listen on their machines. Where there are none nothing is done.
    pub async fn place(&self, store: &mut Cluster) -> Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        for (node, admin) in store.nodes.iter().zip(&store.node_admins) {
            network.host(node.name())?.lend_loopback(admin.port()).await?;
        }
        for gateway in &mut store.gateways {
            let host = network.host(gateway.daemon.name())?;
            host.lend_loopback(gateway.admin.port()).await?;
            gateway.listen.set_ip(host.address());
            gateway.daemon.set_option("--listen", &gateway.listen.to_string());
        }
        let table = store.directory().join("iptable.txt");
        let mut placed = String::new();
        for line in fs::read_to_string(&table).context("read the table")?.lines() {
            let (id, address) = line.split_once(' ').context("a line of the table")?;
            let mut address: SocketAddr = address.parse()?;
            address.set_ip(network.host(&node_name(id.parse()?))?.address());
            placed.push_str(&format!("{id} {address}\n"));
        }
        fs::write(table, placed).context("write the table")
    }

    /// The machine of a process.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.network.as_ref().context("all processes are on loopback")?.host(name)
    }

    /// From now on the wall clock of a process is ahead of the machine's by so many milliseconds.
    pub fn set_clock(&self, name: &str, ahead_ms: i64) -> Result<()> {
        let clock = self.clocks.get(name).with_context(|| format!("{name} has no clock of its own"))?;
        clock.write_all_at(&ahead_ms.to_le_bytes(), 0).context("set a clock")
    }

    /// The group of a process.
    pub fn group(&self, name: &str) -> Result<&MemoryGroup> {
        let group = self.groups.iter().find(|group| group.name() == name);
        group.with_context(|| format!("{name} has no group of its own"))
    }
}
