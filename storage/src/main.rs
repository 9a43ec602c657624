//! `fluffy-storage`: one storage node of a cluster, and what an operator does once (see `operator`).
//!
//! A composition root: it reads options, files and variables, wires the parts and ends the process.

mod operator;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use allocator::Allocator;
use clap::{Parser, Subcommand};
use consensus::meta::names::UserName;
use consensus::raft::log::LogConfig;
use consensus::raft::wire::{Replace, VoterName};
use fabric::Seams;
use fabric::cluster::{Config, Directory};
use fabric::disks::SystemDisks;
use fabric::env::system::{SystemEnv, build_runtime, log_panics, raise_descriptor_limit};
use fabric::ids::NodeId;
use fabric::limits::{DISK_RESERVE_BYTES, SNAPSHOT_ENTRIES_DEFAULT, growing_bytes};
use fabric::net::TcpNet;
use fabric::rpc::{AddressBook, Peer};
use fabric::tls::{Certificates, ClusterSecrets};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use storage::admin::AdminPort;
use storage::daemon::{StorageDaemon, StorageSettings};
use storage::salvage::Wishes;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

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
        /// The data directory of a store in one process (fluffy-gateway without a configuration), which does not run:
        /// its node 1 becomes node 1 of the cluster
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Issue the certificates of nodes that were added to the table of a cluster
    Issue {
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show the members: where they are, and how much of the data belongs on each
    Nodes {
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Prove that every copy of everything is there: all nodes read all of it
    Verify {
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Look into the indexes of the nodes only: nothing is read, and rot is not found
        #[arg(long)]
        quick: bool,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Give a node that was started its share of the data
    Add {
        /// Its number
        node: u16,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Do not wait until the data are there
        #[arg(long)]
        no_wait: bool,
    },
    /// Move all data of a node to the others
    Drain {
        /// Its number
        node: u16,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Do not wait until the data are gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove a node that was drained, for ever
    Remove {
        /// Its number
        node: u16,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Go on from one node when a majority of the voters is lost for good
    Recover {
        /// The number of the node; it does not run, and this is its machine
        #[arg(long, value_name = "ID")]
        node: u16,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Its data directory, in place of what the configuration says
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Do it. Without this option it only tells what would be lost
        #[arg(long)]
        accept_loss: bool,
    },
    /// List what lies on nodes and no row names: after a recovery or a restore, what may be lost
    Lost {
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Name again what lies on nodes and no row names: after a recovery or a restore, and before `collect`
    Salvage {
        /// The user who owns buckets that are made anew
        #[arg(long, value_name = "USER", default_value = "root")]
        owner: UserName,
        /// Objects that are there give way to what was written later
        #[arg(long)]
        newer: bool,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Write the metadata of the cluster, as of now, to a file that opens only under the cluster's key
    Backup {
        /// The new file
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Go on from a backup, or from chunks alone: fill a node that does not run and has no metadata
    Restore {
        /// The backup
        #[arg(long, value_name = "FILE", required_unless_present = "without_backup")]
        from: Option<PathBuf>,
        /// There is none: begin with an empty catalog, which `salvage` fills from the chunks on all nodes
        #[arg(long, conflicts_with = "from")]
        without_backup: bool,
        /// The number of the node; this is its machine
        #[arg(long, value_name = "ID")]
        node: u16,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Its data directory, in place of what the configuration says
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Make a node one more voter
    Admit {
        /// The voter, as it printed itself
        voter: VoterName,
        /// The configuration of the cluster
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Collect garbage again after a recovery
    Collect {
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

/// What happens to a node.
#[derive(Debug, Clone, Copy)]
enum Change {
    Add,
    Drain,
    Remove,
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

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.command.is_none());
    // Before there are threads. What is wrong with the configuration is told when it is used.
    if let Some(Ok(config)) = cli.config.as_deref().map(Config::load) {
        allocator::keep_within(config.storage.memory_limit.0);
    }
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
    // A line that cannot be written, as on a full disk, is lost: to complain of it on standard error would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if std::env::var("FLUFFY_LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
    log_panics();
}

async fn run(seams: Seams, cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Some(Command::Init { from, config }) => operator::init(&seams, &config, from.as_deref()),
        Some(Command::Issue { config }) => operator::issue_missing(&config),
        Some(Command::Replace { old, new, config }) => {
            operator::replace(seams, &config, Replace { old: old.0, new: new.0 }).await
        }
        Some(Command::Recover { node, config, data, accept_loss }) => {
            let config = Config::load(&config).map_err(usage)?;
            let settings = settings_of(&config, NodeId(node), data)?;
            operator::recover(&seams, &settings, accept_loss).await
        }
        Some(Command::Backup { to, config }) => operator::backup(&seams, &config, &to).await,
        Some(Command::Restore { from, without_backup: _, node, config, data }) => {
            let config = Config::load(&config).map_err(usage)?;
            let settings = settings_of(&config, NodeId(node), data)?;
            match from {
                Some(from) => operator::restore(&seams, &config, &settings, &from).await,
                None => operator::begin_anew(&seams, &settings).await,
            }
        }
        Some(Command::Salvage { owner, newer, config }) => {
            operator::salvage(&seams, &config, &Wishes { owner, newer }).await
        }
        Some(Command::Admit { voter, config }) => {
            operator::replace(seams, &config, Replace { old: voter.0, new: voter.0 }).await
        }
        Some(Command::Lost { config }) => operator::lost(&seams, &config).await,
        Some(Command::Collect { config }) => operator::collect(&seams, &config).await,
        Some(Command::Nodes { config, json }) => operator::nodes(&seams, &config, json).await,
        Some(Command::Verify { config, quick, json }) => operator::verify(&seams, &config, quick, json).await,
        Some(Command::Add { node, config, no_wait }) => {
            operator::change(&seams, &config, Change::Add, NodeId(node), !no_wait).await
        }
        Some(Command::Drain { node, config, no_wait }) => {
            operator::change(&seams, &config, Change::Drain, NodeId(node), !no_wait).await
        }
        Some(Command::Remove { node, config }) => {
            operator::change(&seams, &config, Change::Remove, NodeId(node), false).await
        }
        None => {
            let (Some(config), Some(node)) = (cli.config, cli.node) else {
                return Err(usage("--config and --node are needed"));
            };
            let config = Config::load(&config).map_err(usage)?;
            let node = NodeId(node);
            let settings = settings_of(&config, node, cli.data)?;
            let admin_listen = cli.admin_listen.or_else(|| config.storage_admin_listen(node));
            serve(seams, settings, admin_listen, admin_token(&config)?).await
        }
    }
}

/// What a node is told.
fn settings_of(config: &Config, node: NodeId, data: Option<PathBuf>) -> Result<StorageSettings, Failure> {
    let secrets = secrets_of(config)?;
    let memory_bytes = growing_bytes(config.storage.memory_limit.0);
    let listen = config.storage_listen(node);
    let listen = listen.ok_or_else(|| usage(format!("node {node} is not in the table of addresses")))?;
    Ok(StorageSettings {
        cluster: secrets.cluster,
        node,
        data: data.unwrap_or_else(|| config.data_directory(node)),
        listen,
        zone: config.nodes.zone(node).unwrap_or_default().to_string(),
        voters: config.voters.clone(),
        voter_patience: config.voter_patience,
        nodes: config.nodes.nodes(),
        copies: config.copies,
        scrub_period: config.scrub_period,
        upload_period: config.upload_period,
        tls: certificates(config, Peer::Node(node))?,
        memory_bytes,
        reserve_bytes: DISK_RESERVE_BYTES,
        log: LogConfig::within(memory_bytes),
        snapshot_entries: SNAPSHOT_ENTRIES_DEFAULT,
        inline_bytes_max: config.inline_bytes_max,
        search_index: config.storage.search_index,
        faults: None,
        book: Arc::new(Directory::new(config.nodes.clone())),
    })
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
    raise_descriptor_limit();
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
        assert!(parse(&["nodes", "--config", "c", "--json"]));
        assert!(
            parse(&["add", "4", "--config", "c"]) && parse(&["drain", "4", "--config", "c", "--no-wait"])
        );
        assert!(!parse(&["remove", "--config", "c"]));
        assert!(parse(&["verify", "--config", "c", "--quick", "--json"]));
        assert!(parse(&["recover", "--node", "1", "--config", "c"]));
        assert!(parse(&["backup", "--to", "b", "--config", "c"]));
        assert!(parse(&["restore", "--from", "b", "--node", "1", "--config", "c"]));
        assert!(parse(&["restore", "--without-backup", "--node", "1", "--config", "c"]));
        assert!(!parse(&["restore", "--node", "1", "--config", "c"]));
        assert!(parse(&["salvage", "--owner", "anna", "--newer", "--config", "c"]));
        assert!(parse(&["admit", "2-00a1b2c3d4e5", "--config", "c"]));
        assert!(parse(&["replace", "2-00a1b2c3d4e5", "2-00a1b2c3d4e6", "--config", "c"]));
        assert!(!parse(&["--config", "c"]));
        assert!(!parse(&["replace", "2", "3", "--config", "c"]));
    }
}
