//! What is measured: the cluster of this build, or any store that somebody else runs.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::Options;
use super::garage::{self, Garage};
use crate::daemons::{Cluster, Embedded, ROOT};

/// Nodes and gateways of the own cluster.
const NODES: usize = 3;
const GATEWAYS: usize = 1;

/// A store under measurement.
pub struct Target {
    /// Its name in the table.
    pub name: String,
    /// Where it serves plain HTTP.
    pub address: SocketAddr,
    /// Who asks.
    pub access_key: String,
    /// The secret of who asks.
    pub secret_key: String,
    /// The region that is signed for.
    pub region: String,
    /// Processes that are charged.
    pub processes: Vec<u32>,
    /// Whether they may be stopped while another target is measured.
    owned: bool,
    /// A place on the disk that it writes to.
    pub data: PathBuf,
    /// Kept until the end: it stops its processes when it is dropped.
    _cluster: Option<Cluster>,
    /// The same.
    _garage: Option<Garage>,
}

/// What the report says of a target.
#[derive(Debug, Serialize)]
pub struct Described {
    name: String,
    address: SocketAddr,
    processes: usize,
}

/// Starts the own cluster and takes the endpoints that were named.
pub async fn start(options: &Options) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    if !options.without_own {
        targets.push(own(&options.memory_limit).await?);
    }
    if let Some(program) = &options.garage {
        targets.push(garage(program)?);
    }
    for words in &options.endpoint {
        targets.push(parse(words).with_context(|| format!("--endpoint {words}"))?);
    }
    Ok(targets)
}

async fn own(memory_limit: &str) -> Result<Target> {
    let limits =
        format!("storage:\n  memory_limit: {memory_limit}\ngateway:\n  memory_limit: {memory_limit}\n");
    let cluster = Cluster::start(NODES, GATEWAYS, &limits).await?;
    let gateway = cluster.gateways.first().context("a cluster without gateways")?;
    let daemons = cluster.nodes.iter().chain(cluster.gateways.iter().map(|gateway| &gateway.daemon));
    Ok(Target {
        name: "fluffy".to_string(),
        address: gateway.listen,
        access_key: ROOT.0.to_string(),
        secret_key: ROOT.1.to_string(),
        region: "us-east-1".to_string(),
        processes: daemons.filter_map(|daemon| daemon.process_id()).collect(),
        owned: true,
        data: cluster.directory().to_path_buf(),
        _cluster: Some(cluster),
        _garage: None,
    })
}

fn garage(program: &Path) -> Result<Target> {
    garage::check(program)?;
    let garage = Garage::start(program)?;
    Ok(Target {
        name: "garage".to_string(),
        address: garage.listen,
        access_key: garage::ACCESS_KEY.to_string(),
        secret_key: garage::SECRET_KEY.to_string(),
        region: garage::REGION.to_string(),
        processes: garage.processes(),
        owned: true,
        data: garage.directory().to_path_buf(),
        _cluster: None,
        _garage: Some(garage),
    })
}

/// The store of one process.
pub fn embedded(store: &Embedded) -> Target {
    embedded_as(store, "fluffy", ROOT, "us-east-1")
}

/// The same by another name, for these keys, in this region.
pub fn embedded_as(store: &Embedded, name: &str, keys: (&str, &str), region: &str) -> Target {
    Target {
        name: name.to_string(),
        address: store.gateway.listen,
        access_key: keys.0.to_string(),
        secret_key: keys.1.to_string(),
        region: region.to_string(),
        processes: store.gateway.daemon.process_id().into_iter().collect(),
        owned: false,
        data: store.directory().to_path_buf(),
        _cluster: None,
        _garage: None,
    }
}

/// `NAME=http://HOST:PORT,ACCESS_KEY,SECRET_KEY[,REGION[,PID+PID…]]`.
fn parse(words: &str) -> Result<Target> {
    let (name, rest) = words.split_once('=').context("no NAME= in front")?;
    let fields: Vec<&str> = rest.split(',').collect();
    let [url, access_key, secret_key, rest @ ..] = fields.as_slice() else {
        bail!("a URL, an access key and a secret key are needed");
    };
    let authority = url.strip_prefix("http://").context("only http:// is spoken")?.trim_end_matches('/');
    let address = authority.to_socket_addrs()?.next().context("the host has no address")?;
    let ids = rest.get(1).copied().unwrap_or_default().split('+').filter(|id| !id.is_empty());
    let processes =
        ids.map(|id| id.parse().with_context(|| format!("process {id}"))).collect::<Result<_>>()?;
    Ok(Target {
        name: name.to_string(),
        address,
        access_key: access_key.to_string(),
        secret_key: secret_key.to_string(),
        region: rest.first().copied().unwrap_or("us-east-1").to_string(),
        processes,
        owned: false,
        data: Path::new(".").to_path_buf(),
        _cluster: None,
        _garage: None,
    })
}

impl Target {
    /// For the report.
    pub fn describe(&self) -> Described {
        Described { name: self.name.clone(), address: self.address, processes: self.processes.len() }
    }

    /// Stops its processes until the guard is dropped, so that they cost nothing while another one is measured.
    /// Those of others are left alone.
    pub fn rest(&self) -> Resting<'_> {
        let target = self.owned.then_some(self);
        target.inspect(|target| target.signal(Signal::STOP));
        Resting(target)
    }

    fn signal(&self, signal: Signal) {
        for id in &self.processes {
            // One that ended is seen by the requests that fail.
            if let Some(id) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                let _ = kill_process(id, signal);
            }
        }
    }
}

/// See [`Target::rest`].
pub struct Resting<'a>(Option<&'a Target>);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.inspect(|target| target.signal(Signal::CONT));
    }
}
