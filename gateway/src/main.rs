//! `fluffy-gateway`: serves S3, and talks to a running store's admin port.
//!
//! A composition root: it reads options, files and variables, wires the parts and ends the process. Exit codes are
//! in `--help` and in `gateway::config`.

mod cluster;
mod commands;
mod embedded;
mod serve;
mod store;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use allocator::Allocator;
use clap::Parser;
use fabric::Seams;
use fabric::disks::SystemDisks;
use fabric::env::system::{SystemEnv, build_runtime, log_panics};
use fabric::net::TcpNet;
use gateway::config::{Cli, UsageError};
use gateway::store_files::StoreError;
use tracing_subscriber::EnvFilter;

/// Why the process ends unhappily: the last line on standard error, and the exit code.
pub enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Failure {
        Failure::Usage(error.0)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Failed(error.0)
    }
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.command.is_none());
    // Before there are threads. What is wrong with the settings is told when they are used.
    if let Ok((settings, _)) = serve::settings(&cli) {
        allocator::keep_within(settings.memory_limit);
    }
    let runtime = match build_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::Failed(format!("start threads: {error}")))),
    };
    let seams =
        Seams { env: Arc::new(SystemEnv::default()), net: Arc::new(TcpNet), disks: Arc::new(SystemDisks) };
    end(runtime.block_on(async move {
        match &cli.command {
            None => serve::serve(seams, &cli).await,
            Some(command) => commands::run(seams, &cli.store, command).await,
        }
    }))
}

fn end(outcome: Result<(), Failure>) -> ExitCode {
    let (why, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(why)) => (why, 1),
        Err(Failure::Usage(why)) => (why, 2),
    };
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "fluffy-gateway: {why}");
    ExitCode::from(code)
}

/// Without FLUFFY_LOG: what happens to the store. A line for every request is for those who ask for it, and so is
/// every vote of Raft.
const LOG_DEFAULT: &str = "info,gateway::s3::service=warn,openraft=warn";

/// Logs go to standard error; standard output is for what the user asked for.
fn start_log(serving: bool) {
    let wanted = match std::env::var("FLUFFY_LOG") {
        Err(_) if serving => LOG_DEFAULT.to_string(),
        Err(_) => "error".to_string(),
        // A plain level is about us; filters are taken as they are.
        Ok(level) if matches!(level.as_str(), "error" | "warn" | "info") => format!("{level},openraft=warn"),
        Ok(wanted) => wanted,
    };
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let colours = std::io::stderr().is_terminal();
    // A line that cannot be written, as on a full disk, is lost: to complain of it on standard error would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if std::env::var("FLUFFY_LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
    log_panics();
}
