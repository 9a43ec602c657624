//! Where episodes happen: a cluster whose processes reach each other only through [`Wires`].

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::crew::{BUCKET, Crew, Script};
use super::episodes::{EPISODES, Episode};
use super::ground::{Footing, Ground};
use super::wires::{Wires, node_name};
use super::{Options, Row, chosen};
use crate::client::{Client, Request};
use crate::daemons::{Cluster, Daemon, repository};
use crate::hosts::Network;
use crate::sim::random::SimRandom;
use crate::verify::say;

/// Storage nodes, all of them voters.
pub const NODES: u16 = 3;
const GATEWAYS: usize = 2;
/// After everything all copies are where they belong within this.
const WHOLE_WITHIN: Duration = Duration::from_secs(180);

/// A cluster and the networks between its processes.
pub struct Arena {
    /// The processes.
    pub store: Cluster,
    /// The ways between them.
    pub wires: Wires,
    /// Choices of the episodes.
    pub random: SimRandom,
    /// What it stands on; behind the processes, since they use it to their end.
    pub footing: Footing,
    ground: Ground,
}

/// What an episode has at hand.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    /// Where it happens.
    pub arena: &'a Arena,
    /// Who is at work, and what they wrote down.
    pub crew: &'a Crew,
    /// How it was asked for.
    pub options: &'a Options,
}

/// Runs the chosen episodes, those on the same ground on one cluster.
pub(super) async fn run(options: &Options, round: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ground in Ground::ALL {
        let fits = |episode: &&Episode| episode.ground == *ground && chosen(options, episode.name);
        let episodes: Vec<&Episode> = EPISODES.iter().filter(fits).collect();
        if episodes.is_empty() {
            continue;
        }
        let names: Vec<&str> = episodes.iter().map(|episode| episode.name).collect();
        let footing = match Footing::new(*ground, &process_names()) {
            Ok(footing) => footing,
            Err(error) => {
                say(&format!("== {}: left out, since it cannot be done here: {error:#}", names.join(", ")));
                continue;
            }
        };
        let arena = Arena::start(*ground, footing, options.seed.wrapping_add(round)).await?;
        for episode in episodes {
            rows.push(arena.play(episode, options, round).await?);
        }
        rows.push(arena.whole().await?);
    }
    Ok(rows)
}

fn process_names() -> Vec<String> {
    let gateways = (1..=GATEWAYS).map(|id| format!("gateway-{id}"));
    (1..=NODES).map(node_name).chain(gateways).collect()
}

impl Arena {
    async fn start(ground: Ground, footing: Footing, seed: u64) -> Result<Arena> {
        let (nodes, settings) = (usize::from(NODES), ground.settings());
        let mut store = Cluster::prepare(nodes, GATEWAYS, settings, |daemon| footing.bind(daemon))?;
        footing.place(&mut store).await?;
        let mut wires = Wires::new(footing.network.as_ref().map(Network::address));
        if ground != Ground::Cables {
            wire(&mut store, &mut wires).await?;
        }
        store.start_all().await?;
        let created = Client::new(&store, 0).send(Request::bucket("PUT", BUCKET)).await?;
        ensure!(created.status == 200, "create a bucket: {}", created.describe());
        Ok(Arena { store, wires, random: SimRandom::new(seed, "arena"), footing, ground })
    }

    /// One episode: clients at work, what happens to the store, an audit.
    async fn play(&self, episode: &Episode, options: &Options, round: u64) -> Result<Row> {
        say(&format!("== {}: {}", episode.name, episode.about));
        let begin = Instant::now();
        let crew = Crew::new(format!("{round}/{}", episode.name))?;
        let scripts = if episode.alone { Vec::new() } else { Script::all(&self.store, &crew)? };
        let clients = if episode.alone { 0 } else { options.clients };
        let story = (episode.story)(Stage { arena: self, crew: &crew, options });
        let notes = crew.work_during(&self.store, clients, options.seed, story).await;
        self.wires.heal();
        crew.audit(&self.store).await;
        for script in scripts {
            script.finish(&crew).await?;
        }
        let mut row = crew.row(episode.name);
        match notes {
            Ok(notes) => row.notes.extend(notes),
            Err(error) => row.violations.push(format!("the story: {error:#}")),
        }
        row.violations.extend(self.panics());
        if let (Some(most), true) = (episode.gap_max, row.violations.is_empty()) {
            let gap = row.longest_gap;
            if gap > most {
                row.violations.push(format!("a client waited {gap:?} for an answer, {most:?} is the most"));
            }
        }
        say(&format!("   {} in {:.0} s", row.line().trim_start(), begin.elapsed().as_secs_f64()));
        row.violations.iter().take(3).for_each(|what| say(&format!("   VIOLATION {what}")));
        if !row.violations.is_empty() {
            self.keep_logs(episode.name)?;
        }
        Ok(row)
    }

    /// Logs are for whoever looks into a violation.
    fn keep_logs(&self, episode: &str) -> Result<()> {
        let place = repository().join(".verify/chaos").join(episode);
        fs::create_dir_all(&place).context("make a directory for logs")?;
        for daemon in self.store.daemons() {
            fs::write(place.join(format!("{}.log", daemon.name())), daemon.log_text())?;
        }
        say(&format!("   logs are in {}", place.display()));
        Ok(())
    }

    /// Nothing may panic.
    fn panics(&self) -> Vec<String> {
        let panicked = |daemon: &Daemon| {
            let log = daemon.log_text();
            let line = log.lines().find(|line| line.contains("panicked"))?;
            Some(format!("{} panicked: {line}", daemon.name()))
        };
        self.store.daemons().filter_map(panicked).collect()
    }

    /// After all episodes every copy is where it belongs, by the store's own account.
    async fn whole(&self) -> Result<Row> {
        let begin = Instant::now();
        let mut row = Row { episode: "whole", ..Row::default() };
        loop {
            let verify = self.store.operation(&["verify"]);
            let said = tokio::task::spawn_blocking(verify).await.context("run verify").flatten();
            match said {
                Ok(_) => {
                    row.notes.push(format!(
                        "{:?}: all copies verified after {:.0} s",
                        self.ground,
                        begin.elapsed().as_secs_f64()
                    ));
                    return Ok(row);
                }
                Err(error) if begin.elapsed() > WHOLE_WITHIN => {
                    row.violations.push(format!("{:?}: not whole: {error:#}", self.ground));
                    let ended =
                        |daemon: &Daemon| Some(format!("{} ended: {}", daemon.name(), daemon.exited()?));
                    row.violations.extend(self.store.daemons().filter_map(ended));
                    self.keep_logs(&format!("whole-{:?}", self.ground))?;
                    return Ok(row);
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(2)).await,
            }
        }
    }

    /// The node that leads the voters.
    pub async fn leader(&self) -> Result<u16> {
        let begin = Instant::now();
        loop {
            let users = self.store.users()?;
            let status = tokio::task::spawn_blocking(move || users.status()).await?;
            let leader = status.ok().and_then(|text| {
                let status: Value = serde_json::from_str(&text).ok()?;
                status.get("leader")?.as_u64()
            });
            if let Some(leader) = leader {
                return Ok(leader as u16);
            }
            ensure!(begin.elapsed() < Duration::from_secs(20), "nobody leads");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A node that does not lead.
    pub async fn follower(&self) -> Result<u16> {
        let leader = self.leader().await?;
        let others: Vec<u16> = (1..=NODES).filter(|node| *node != leader).collect();
        Ok(*self.random.pick(&others))
    }

    /// The process of a node.
    pub fn node(&self, id: u16) -> &Daemon {
        &self.store.nodes[usize::from(id) - 1]
    }

    /// Starts a node again and waits until it serves.
    pub async fn restart(&self, id: u16) -> Result<Duration> {
        let begin = Instant::now();
        self.store.restart_node(usize::from(id) - 1).await?;
        Ok(begin.elapsed())
    }
}

/// Gives every process a table of addresses of its own, in which every node is behind a proxy.
async fn wire(store: &mut Cluster, wires: &mut Wires) -> Result<()> {
    let home = store.directory().to_path_buf();
    let table = fs::read_to_string(home.join("iptable.txt")).context("read the table")?;
    let config = fs::read_to_string(home.join("config.yaml")).context("read the configuration")?;
    let mut nodes = Vec::new();
    for line in table.lines() {
        let (id, address) = line.split_once(' ').context("a line of the table")?;
        nodes.push((id.parse::<u16>()?, address.parse()?));
    }
    let gateways = store.gateways.iter_mut().map(|gateway| &mut gateway.daemon);
    for daemon in store.nodes.iter_mut().chain(gateways) {
        let name = daemon.name().to_string();
        let mut own = String::new();
        for (id, address) in &nodes {
            // A node listens where its own table says.
            let reached =
                if node_name(*id) == name { *address } else { wires.add(&name, *id, *address).await? };
            own.push_str(&format!("{id} {reached}\n"));
        }
        fs::write(home.join(format!("iptable-{name}.txt")), own)?;
        let file = home.join(format!("config-{name}.yaml"));
        fs::write(&file, config.replace("iptable.txt", &format!("iptable-{name}.txt")))?;
        daemon.set_option("--config", &file.display().to_string());
    }
    Ok(())
}
