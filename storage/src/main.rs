//! `fluffy-storage`: one storage node of a cluster, and what an operator does once: making a cluster's secrets,
//! and putting a new voter in the place of a lost one.
//!
//! A composition root: it reads options, files and variables, wires the parts and ends the process.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use consensus::raft::log::LogConfig;
use consensus::raft::wire::{Replace, ReplaceAnswer, VoterName, method};
use fabric::Seams;
use fabric::cluster::Config;
use fabric::disks::SystemDisks;
use fabric::env::system::{SystemEnv, build_runtime, log_panics};
use fabric::ids::NodeId;
use fabric::limits::DISK_RESERVE_BYTES;
use fabric::net::TcpNet;
use fabric::rpc::{AddressBook, CallOptions, Class, Identity, Peer, RpcClient, RpcError};
use fabric::tls::{Certificates, ClusterSecrets, issue, make_authority};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use storage::admin::AdminPort;
use storage::daemon::{StorageDaemon, StorageSettings};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// `replace` gives up after this.
const REPLACE_DEADLINE: Duration = Duration::from_secs(60);
/// Between two questions of `replace`, and the longest answer to one.
const REPLACE_PAUSE: Duration = Duration::from_millis(300);
const REPLACE_CALL_DEADLINE: Duration = Duration::from_secs(35);
/// Draining ends after this, in order or not.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);
/// How often the recorder of metrics is tidied.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// In the secrets directory: what opens `/metrics` to other machines. Optional.
const ADMIN_TOKEN: &str = "admin-token";

const AFTER_HELP: &str = "\
Variables:
  FLUFFY_LOG         what is logged: error, warn, info (default), debug, or filters
  FLUFFY_LOG_FORMAT  `json` for one JSON object a line

Exit codes:
  0   stopped by SIGTERM or SIGINT, or the command is done
  1   the node cannot start, or the command failed
  2   the options or the configuration are wrong
  70  the disk or the metadata failed in a way that the node must not survive; start it again";

#[derive(Parser)]
#[command(name = "fluffy-storage", version, about = "A storage node of a Fluffy cluster", after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration of the cluster
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// The number of this node in the table of addresses
    #[arg(long, value_name = "ID", required = true)]
    node: Option<u16>,
    /// Where health and metrics are, in place of what the configuration says
    #[arg(long, value_name = "ADDR:PORT")]
    admin_listen: Option<String>,
    /// The data directory, in place of what the configuration says
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Make the secrets of a new cluster: its authority, its key, and certificates for all nodes and gateways
    Init {
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put a new voter in the place of one whose disk is lost
    Replace {
        /// The lost voter, as the new one printed it
        old: VoterName,
        /// The new voter, as it printed itself
        new: VoterName,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Why the process ends unhappily: one sentence and the exit code.
enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

fn usage(why: impl ToString) -> Failure {
    Failure::Usage(why.to_string())
}

fn failed(why: impl ToString) -> Failure {
    Failure::Failed(why.to_string())
}

/// Most of a request is small pieces that one thread makes and another drops.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.command.is_none());
    let seams =
        Seams { env: Arc::new(SystemEnv::default()), net: Arc::new(TcpNet), disks: Arc::new(SystemDisks) };
    let outcome = match build_runtime() {
        Ok(runtime) => runtime.block_on(run(seams, cli)),
        Err(error) => Err(failed(format!("start threads: {error}"))),
    };
    let (why, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(why)) => (why, 1),
        Err(Failure::Usage(why)) => (why, 2),
    };
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "fluffy-storage: {why}");
    ExitCode::from(code)
}

/// Logs go to standard error; standard output is for what the user asked for.
fn start_log(serving: bool) {
    let default = if serving { "info,openraft=error" } else { "error" };
    let wanted = std::env::var("FLUFFY_LOG").unwrap_or_else(|_| default.to_string());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var("FLUFFY_LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
    log_panics();
}

async fn run(seams: Seams, cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Some(Command::Init { config }) => init(&seams, &config),
        Some(Command::Replace { old, new, config }) => {
            replace(seams, &config, Replace { old: old.0, new: new.0 }).await
        }
        None => {
            let (Some(config), Some(node)) = (cli.config, cli.node) else {
                return Err(usage("--config and --node are needed"));
            };
            let config = Config::load(&config).map_err(usage)?;
            let secrets = secrets_of(&config)?;
            let node = NodeId(node);
            let listen = config.storage_listen(node);
            let listen =
                listen.ok_or_else(|| usage(format!("node {node} is not in the table of addresses")))?;
            let admin_listen = cli.admin_listen.or_else(|| config.storage_admin_listen(node));
            let settings = StorageSettings {
                cluster: secrets.cluster,
                node,
                data: cli.data.unwrap_or_else(|| config.data_directory(node)),
                listen,
                zone: config.nodes.zone(node).unwrap_or_default().to_string(),
                voters: config.voters.clone(),
                nodes: config.nodes.nodes(),
                tls: certificates(&config, Peer::Node(node))?,
                memory_bytes: config.storage.memory_limit.0,
                reserve_bytes: DISK_RESERVE_BYTES,
                log: LogConfig::default(),
                inline_bytes_max: config.inline_bytes_max,
                faults: None,
                book: Arc::new(config.nodes.clone()),
            };
            serve(seams, settings, admin_listen, admin_token(&config)?).await
        }
    }
}

fn secrets_of(config: &Config) -> Result<ClusterSecrets, Failure> {
    ClusterSecrets::load(&config.secrets).map_err(|error| {
        usage(format!("{error}; `fluffy-storage init --config FILE` makes the secrets of a new cluster"))
    })
}

fn certificates(config: &Config, peer: Peer) -> Result<Option<Arc<Certificates>>, Failure> {
    if config.insecure {
        return Ok(None);
    }
    Certificates::load(&config.secrets, peer).map(|loaded| Some(Arc::new(loaded))).map_err(usage)
}

fn admin_token(config: &Config) -> Result<Option<String>, Failure> {
    match fabric::disks::system::read_text(&config.secrets.join(ADMIN_TOKEN)) {
        Ok(token) => Ok(Some(token.trim().to_string()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(usage(format!("read {}: {error}", config.secrets.join(ADMIN_TOKEN).display()))),
    }
}

async fn serve(
    seams: Seams,
    settings: StorageSettings,
    admin_listen: Option<String>,
    token: Option<String>,
) -> Result<(), Failure> {
    consensus::raft::prepare(&seams.env);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let metrics = PrometheusBuilder::new().install_recorder().map_err(failed)?;
    let node = settings.node;
    let daemon = StorageDaemon::start(seams.clone(), settings).await.map_err(failed)?;
    tracing::info!(%node, address = %daemon.address(), "listening; waiting for the cluster");
    if let Some(listen) = admin_listen {
        open_admin(&seams, &daemon, &listen, token, metrics).await?;
    }
    let mut ready = false;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            started = daemon.wait_ready(), if !ready => {
                started.map_err(failed)?;
                ready = true;
            }
        }
    }
    tracing::info!(%node, "draining");
    if tokio::time::timeout(SHUTDOWN_DEADLINE, daemon.shutdown()).await.is_err() {
        tracing::warn!("draining took too long and is cut off; nothing acknowledged is lost");
    }
    Ok(())
}

async fn open_admin(
    seams: &Seams,
    daemon: &StorageDaemon,
    listen: &str,
    token: Option<String>,
    metrics: PrometheusHandle,
) -> Result<(), Failure> {
    let listener = seams.net.listen(listen).await;
    let listener =
        listener.map_err(|error| failed(format!("the admin port cannot listen on {listen}: {error}")))?;
    let upkeep = metrics.clone();
    seams.env.spawn(
        "metrics-upkeep",
        Box::pin(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                upkeep.run_upkeep();
            }
        }),
    );
    let store = daemon.store().clone();
    let render = move || {
        let status = store.status();
        metrics::gauge!("fluffy_chunk_volumes").set(status.volumes as f64);
        metrics::gauge!("fluffy_chunk_volumes_broken").set(status.broken as f64);
        metrics::gauge!("fluffy_chunk_disk_bytes").set(status.disk_bytes as f64);
        metrics::gauge!("fluffy_chunk_free_bytes").set(status.free_bytes as f64);
        metrics::gauge!("fluffy_chunk_repairs_waiting").set(status.repairs as f64);
        metrics.render()
    };
    let port = AdminPort { ready: Box::new(daemon.readiness()), metrics: Some(Box::new(render)), token };
    drop(port.serve(seams, listener));
    Ok(())
}

fn init(seams: &Seams, config: &Path) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let made = make_authority(&*seams.env, &config.secrets).map_err(failed)?;
    let peers = config.nodes.nodes().into_iter().map(Peer::Node).chain([Peer::Gateway]);
    for peer in peers {
        issue(&config.secrets, peer).map_err(failed)?;
    }
    let mut out = std::io::stdout();
    let told = writeln!(out, "cluster {}\nsecrets {}", made.cluster, config.secrets.display());
    told.map_err(failed)
}

/// Asks the voters until one that leads did it.
async fn replace(seams: Seams, config: &Path, replace: Replace) -> Result<(), Failure> {
    let config = Config::load(config).map_err(usage)?;
    let cluster = secrets_of(&config)?.cluster;
    let (me, tls) = administrator(&config)?;
    let rpc = RpcClient::new(seams, Identity::new(cluster, me, tls), Arc::new(config.nodes.clone()));
    let asking = async {
        let mut last = "no voter answers".to_string();
        loop {
            for voter in &config.voters {
                let options = CallOptions { class: Class::Control, deadline: REPLACE_CALL_DEADLINE };
                let asked: Result<(ReplaceAnswer, Bytes), RpcError> =
                    rpc.call_typed(*voter, method::REPLACE, &replace, Bytes::new(), options).await;
                match asked {
                    Ok((ReplaceAnswer::Done, _)) => return Ok(()),
                    Ok((ReplaceAnswer::Failed(why), _)) => return Err(failed(why)),
                    Ok((ReplaceAnswer::NotLeader(_), _)) => last = "no voter leads now".to_string(),
                    Err(error) => tracing::debug!(%voter, %error, "ask a voter"),
                }
            }
            tracing::info!(last, "asking again");
            tokio::time::sleep(REPLACE_PAUSE).await;
        }
    };
    match tokio::time::timeout(REPLACE_DEADLINE, asking).await {
        Ok(outcome) => outcome,
        Err(_) => {
            Err(failed("no voter that leads answered within a minute; it may have been done: ask again"))
        }
    }
}

/// As whom an operator speaks: a gateway where its certificate is, else a node whose certificate is here.
fn administrator(config: &Config) -> Result<(Peer, Option<Arc<Certificates>>), Failure> {
    if config.insecure {
        return Ok((Peer::Gateway, None));
    }
    let peers = std::iter::once(Peer::Gateway).chain(config.nodes.nodes().into_iter().map(Peer::Node));
    for peer in peers {
        if let Ok(certificates) = Certificates::load(&config.secrets, peer) {
            return Ok((peer, Some(Arc::new(certificates))));
        }
    }
    Err(usage(format!("{} holds no certificate of a gateway or node", config.secrets.display())))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
        let parse = |args: &[&str]| Cli::try_parse_from([&["fluffy-storage"], args].concat()).is_ok();
        assert!(parse(&["--config", "c", "--node", "1"]));
        assert!(parse(&["init", "--config", "c"]));
        assert!(parse(&["replace", "2-00a1b2c3d4e5", "2-00a1b2c3d4e6", "--config", "c"]));
        assert!(!parse(&["--config", "c"]));
        assert!(!parse(&["replace", "2", "3", "--config", "c"]));
    }
}
