//! Real daemons: starts them on free ports in directories of their own, waits until they are ready, kills
//! and restarts them, reads what the system says about them. Nothing survives a drop.

// This file works with the real system on purpose: processes, ports and files are its subject.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use fabric::net::BoxStream;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::{Credentials, Response, Target, Wire, exchange};

/// Keys of the first user in every test store.
pub const ROOT: (&str, &str) = ("FLUFFYROOTACCESSKEY1", "conformance-root-secret-0123456789abcdef");
/// Keys of another user, added after the start.
pub const OTHER: (&str, &str) = ("FLUFFYOTHERACCESSKEY", "conformance-other-secret-0123456789abcde");
/// The domain of virtual-host style in test stores.
pub const DOMAIN: &str = "s3.fluffy.test";
/// The domain of websites in test stores.
pub const WEBSITE_DOMAIN: &str = "sites.fluffy.test";
/// How long a daemon may take to get ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// A daemon that is asked to end does so within this.
const DRAIN_DEADLINE: Duration = Duration::from_secs(40);
/// A daemon that refuses to start does so within this.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(30);

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A new directory under `.verify/tmp`, removed when dropped.
pub fn scratch(purpose: &str) -> Result<TempDir> {
    let base = repository().join(".verify/tmp");
    fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
    tempfile::Builder::new().prefix(purpose).tempdir_in(base).context("create a scratch directory")
}

/// A binary of the same build as this process.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this executable")?;
    own.ancestors()
        .skip(1)
        .take(2) // `target/release`, or its parent when this is a test in `target/release/deps`.
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not built beside {}: run `cargo build --release`", own.display()))
}

/// A port that nobody listens on. Below those that the system gives to outgoing connections, one of which could take it
/// before its daemon starts; and no port twice in this process.
pub fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u16> = 15_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in PORTS {
        // Processes that run at once begin at different places.
        let place = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id() * 101;
        let port = PORTS.start + (place % u32::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// One process: how to start it, and the running child.
pub struct Daemon {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    directory: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// Describes a process that runs `program` in `directory`; it logs to `<name>.log` there.
    pub fn new(name: &str, program: &str, directory: &Path, args: Vec<String>) -> Result<Daemon> {
        Ok(Daemon {
            name: name.to_string(),
            program: binary(program)?,
            args,
            variables: Vec::new(),
            directory: directory.to_path_buf(),
            log: directory.join(format!("{name}.log")),
            child: Mutex::new(None),
        })
    }

    /// Lets it be the program of the same name in another directory.
    pub fn from_directory(mut self, directory: &Path) -> Daemon {
        self.program = self.program.file_name().map_or_else(PathBuf::new, |name| directory.join(name));
        self
    }

    /// Lets it be the program of this build from its next start on.
    pub fn renew(&mut self) -> Result<()> {
        let name = self.program.file_name().context("a program without a name")?;
        self.program = binary(&name.to_string_lossy())?;
        Ok(())
    }

    /// Sets an environment variable for it.
    pub fn variable(mut self, name: &str, value: &str) -> Daemon {
        self.variables.push((name.to_string(), value.to_string()));
        self
    }

    /// Lets it open at most so many files.
    pub fn descriptors_max(self, most: usize) -> Daemon {
        self.after(&format!("ulimit -n {most}"))
    }

    /// Starts it in a shell that runs `command` before, for limits of the process.
    pub fn after(self, command: &str) -> Daemon {
        self.by("sh", &["-c", &format!("{command} && exec \"$0\" \"$@\"")])
    }

    /// Starts it by another program, which becomes it: `starter` with `args` before the daemon and its own.
    pub fn by(mut self, starter: &str, args: &[&str]) -> Daemon {
        let program = std::mem::replace(&mut self.program, PathBuf::from(starter));
        let args = args.iter().map(ToString::to_string).chain([program.display().to_string()]);
        self.args.splice(0..0, args);
        self
    }

    /// Lets it log to this file.
    pub fn log_to(mut self, log: &Path) -> Daemon {
        self.log = log.to_path_buf();
        self
    }

    /// Gives an option of it this value from its next start on.
    pub fn set_option(&mut self, name: &str, value: &str) {
        let place = self.args.iter().position(|arg| arg == name).map(|place| place + 1);
        match place.and_then(|place| self.args.get_mut(place)) {
            Some(arg) => *arg = value.to_string(),
            None => self.args.extend([name.to_string(), value.to_string()]),
        }
    }

    /// Starts it; does not wait until it is ready.
    pub fn start(&self) -> Result<()> {
        self.start_under(&[])
    }

    /// Starts it by another program, which becomes it, as `strace -D` does: `wrapper` is that program and its
    /// arguments.
    pub fn start_under(&self, wrapper: &[&str]) -> Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).context("open a log")?;
        let program = self.program.display().to_string();
        let mut words = wrapper.iter().copied().chain([program.as_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(&self.args).current_dir(&self.directory).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone()?).stderr(log);
        *child = Some(command.spawn().with_context(|| format!("start {}", self.program.display()))?);
        Ok(())
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill(); // Already gone is as good.
            let _ = child.wait();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process_id().and_then(|id| Pid::from_raw(id as i32));
        let id = id.with_context(|| format!("{} does not run", self.name))?;
        kill_process(id, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Asks it to end (SIGTERM), and waits until it has; an error if it takes longer than [`DRAIN_DEADLINE`].
    pub async fn terminate(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.signal(Signal::TERM)?;
        while self.exited().is_none() {
            ensure!(begin.elapsed() < DRAIN_DEADLINE, "{} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.kill(); // So that it can be started again.
        Ok(begin.elapsed())
    }

    /// The exit status, if it ended by itself.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Starts it, waits until it ends by itself with exit code 1, and returns its last words.
    pub async fn refusal(&self) -> Result<String, String> {
        self.start().map_err(|error| error.to_string())?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.exited() {
                break status;
            }
            if begin.elapsed() > REFUSAL_DEADLINE {
                self.kill();
                return Err(format!("it runs on:\n{}", self.log_tail()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.kill(); // So that it can be started again.
        let said = self.log_tail().lines().last().unwrap_or_default().to_string();
        if status.code() == Some(1) { Ok(said) } else { Err(format!("it ended with {status}: {said}")) }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything it logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Resident bytes now (`VmRSS`) and at most so far (`VmHWM`).
    pub fn resident(&self) -> Option<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process_id()?)).ok()?;
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some((kib("VmRSS:")? << 10, kib("VmHWM:")? << 10))
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> Option<usize> {
        let directory = format!("/proc/{}/fd", self.process_id()?);
        Some(fs::read_dir(directory).ok()?.count())
    }

    /// Waits until its log has these words.
    pub async fn says(&self, words: &str) -> Result<Duration> {
        let begin = Instant::now();
        while !self.log_text().contains(words) {
            if let Some(status) = self.exited() {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if begin.elapsed() > READY_DEADLINE {
                bail!("{} does not say {words:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(begin.elapsed())
    }

    /// Waits until `GET /health/ready` on `admin` says 200.
    pub async fn ready(&self, admin: SocketAddr) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if health(admin, "/health/ready").await.unwrap_or(0) == 200 {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > READY_DEADLINE {
                bail!("{} is not ready after {READY_DEADLINE:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The status of a plain GET.
pub async fn health(address: SocketAddr, path: &str) -> io::Result<u16> {
    Ok(get(address, path).await?.status)
}

/// The value of a metric without labels; `None` while it was never set.
pub async fn metric(address: SocketAddr, name: &str) -> io::Result<Option<f64>> {
    let text = get(address, "/metrics").await?.body;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.find(|(found, _)| *found == name).and_then(|(_, value)| value.parse().ok()))
}

/// A plain GET.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let wire = Wire {
        method: "GET".to_string(),
        target: path.to_string(),
        headers: vec![("host".to_string(), address.to_string())],
        body: Vec::new(),
        generated: None,
    };
    send_plain(address, &wire).await
}

/// Any request, as it is, on a connection of its own.
pub async fn send_plain(address: SocketAddr, wire: &Wire) -> io::Result<Response> {
    let stream: BoxStream = Box::new(TcpStream::connect(address).await?);
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange(stream, wire, None)).await;
    answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A gateway: its process and its ports.
pub struct Gateway {
    /// The process.
    pub daemon: Daemon,
    /// Where it serves S3.
    pub listen: SocketAddr,
    /// Where it serves health, metrics and the admin API.
    pub admin: SocketAddr,
    /// Where it serves websites.
    pub websites: SocketAddr,
}

impl Gateway {
    fn new(name: &str, directory: &Path, args: &[&str]) -> Result<Gateway> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let websites = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut all = vec![
            "--listen".to_string(),
            listen.to_string(),
            "--admin-listen".to_string(),
            admin.to_string(),
            "--domain".to_string(),
            DOMAIN.to_string(),
            "--website-listen".to_string(),
            websites.to_string(),
            "--website-domain".to_string(),
            WEBSITE_DOMAIN.to_string(),
        ];
        all.extend(args.iter().map(ToString::to_string));
        let daemon = Daemon::new(name, "fluffy-gateway", directory, all)?
            .variable("FLUFFY_ROOT_ACCESS_KEY", ROOT.0)
            .variable("FLUFFY_ROOT_SECRET_KEY", ROOT.1);
        Ok(Gateway { daemon, listen, admin, websites })
    }

    /// Starts it and waits until it is ready; returns how long that took.
    pub async fn start(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.daemon.start()?;
        self.daemon.ready(self.admin).await?;
        Ok(begin.elapsed())
    }
}

/// A store in one process.
pub struct Embedded {
    /// The process.
    pub gateway: Gateway,
    /// How long the first start took.
    pub start_time: Duration,
    directory: TempDir,
}

impl Embedded {
    /// Starts `fluffy-gateway` with `args` beside the ports and waits until it is ready.
    pub async fn start(args: &[&str]) -> Result<Embedded> {
        Embedded::start_changed(args, |daemon| daemon).await
    }

    /// The same, with a change of how the process is started.
    pub async fn start_changed(args: &[&str], change: impl FnOnce(Daemon) -> Daemon) -> Result<Embedded> {
        let directory = scratch("embedded-")?;
        let Gateway { daemon, listen, admin, websites } = Gateway::new("gateway", directory.path(), args)?;
        let gateway = Gateway { daemon: change(daemon), listen, admin, websites };
        let start_time = gateway.start().await?;
        let embedded = Embedded { gateway, start_time, directory };
        Ok(embedded)
    }

    /// Starts one whose ports speak TLS, the admin port too: it is ready when it says so.
    pub async fn start_tls(args: &[&str]) -> Result<Embedded> {
        let directory = scratch("embedded-")?;
        let gateway = Gateway::new("gateway", directory.path(), args)?;
        gateway.daemon.start()?;
        let start_time = gateway.daemon.says(" is ready.").await?;
        Ok(Embedded { gateway, start_time, directory })
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The commands that manage its users.
    pub fn users(&self) -> Result<UserCommands> {
        UserCommands::new(self.gateway.admin, "--data", &self.directory.path().join("fluffy-data"))
    }

    /// Adds [`OTHER`] as a user.
    pub fn add_other_user(&self) -> Result<()> {
        self.users()?.add_other()
    }
}

/// `fluffy-gateway user …`, `quota …`, `storage-class …` and `status` against a running store.
pub struct UserCommands {
    program: PathBuf,
    place: Vec<String>,
}

/// What a command said, and its exit code.
#[derive(Debug, Default)]
pub struct Said {
    /// The exit code; 255 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub error: String,
}

impl UserCommands {
    fn new(admin: SocketAddr, option: &str, place: &Path) -> Result<UserCommands> {
        let place =
            [option, &place.display().to_string(), "--admin-listen", &admin.to_string()].map(str::to_string);
        Ok(UserCommands { program: binary("fluffy-gateway")?, place: place.to_vec() })
    }

    /// Runs `user ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<Said, String> {
        self.run_with(args, &[], "")
    }

    /// Runs `user ARGS` with variables and standard input.
    pub fn run_with(&self, args: &[&str], variables: &[(&str, &str)], input: &str) -> Result<Said, String> {
        self.command(&[&["user"], args].concat(), variables, input)
    }

    /// What `status --json` says.
    pub fn status(&self) -> Result<String, String> {
        let said = self.command(&["status", "--json"], &[], "")?;
        if said.code == 0 { Ok(said.output) } else { Err(format!("status: {said:?}")) }
    }

    /// Runs `quota ARGS`.
    pub fn quota(&self, args: &[&str]) -> Result<Said, String> {
        self.command(&[&["quota"], args].concat(), &[], "")
    }

    /// Runs `storage-class ARGS`.
    pub fn storage_class(&self, args: &[&str]) -> Result<Said, String> {
        self.command(&[&["storage-class"], args].concat(), &[], "")
    }

    fn command(&self, args: &[&str], variables: &[(&str, &str)], input: &str) -> Result<Said, String> {
        let told = |error: io::Error| format!("run fluffy-gateway: {error}");
        let mut command = Command::new(&self.program);
        command.args(args).args(&self.place).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(told)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that reads nothing may be gone already.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(told)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said {
            code: output.status.code().unwrap_or(255),
            output: text(output.stdout),
            error: text(output.stderr),
        })
    }

    /// Like [`UserCommands::run`]; an error unless the exit code is 0. Returns standard output.
    pub fn ok(&self, args: &[&str]) -> Result<String, String> {
        let said = self.run(args)?;
        if said.code == 0 { Ok(said.output) } else { Err(format!("user {}: {said:?}", args[0])) }
    }

    fn add_other(&self) -> Result<()> {
        let args = ["add", "other", "--access-key", OTHER.0, "--secret-key", OTHER.1, "--json"];
        self.ok(&args).map(drop).map_err(anyhow::Error::msg)
    }
}

/// Three storage daemons and two gateways.
pub struct Cluster {
    /// Storage daemons, node 1 first.
    pub nodes: Vec<Daemon>,
    /// Admin ports of the storage daemons.
    pub node_admins: Vec<SocketAddr>,
    /// Gateways.
    pub gateways: Vec<Gateway>,
    directory: TempDir,
}

impl Cluster {
    /// Makes a configuration with `fluffy-storage init`, starts all processes, waits until all are ready.
    pub async fn start(nodes: usize, gateways: usize, settings: &str) -> Result<Cluster> {
        Cluster::start_changed(nodes, gateways, settings, |daemon| daemon).await
    }

    /// The same, with a change of how each process is started.
    pub async fn start_changed(
        nodes: usize,
        gateways: usize,
        settings: &str,
        change: impl Fn(Daemon) -> Daemon,
    ) -> Result<Cluster> {
        let cluster = Cluster::prepare(nodes, gateways, settings, change)?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// A configured cluster of which nothing runs yet.
    pub fn prepare(
        nodes: usize,
        gateways: usize,
        settings: &str,
        change: impl Fn(Daemon) -> Daemon,
    ) -> Result<Cluster> {
        Cluster::configured(nodes, gateways, settings, &[], change)
    }

    /// The same with the secrets of a store in one process, whose data directory is `store`.
    pub fn prepare_from(store: &Path, nodes: usize, gateways: usize) -> Result<Cluster> {
        let from = store.display().to_string();
        Cluster::configured(nodes, gateways, "", &["--from", &from], |daemon| daemon)
    }

    fn configured(
        nodes: usize,
        gateways: usize,
        settings: &str,
        init: &[&str],
        change: impl Fn(Daemon) -> Daemon,
    ) -> Result<Cluster> {
        let directory = scratch("cluster-")?;
        let mut cluster =
            Cluster { nodes: Vec::new(), node_admins: Vec::new(), gateways: Vec::new(), directory };
        cluster.configure(nodes, settings, init)?;
        cluster.nodes = cluster.nodes.into_iter().map(&change).collect();
        for index in 0..gateways {
            let name = format!("gateway-{}", index + 1);
            let config = cluster.config().display().to_string();
            let Gateway { daemon, listen, admin, websites } =
                Gateway::new(&name, cluster.directory.path(), &["--config", &config])?;
            cluster.gateways.push(Gateway { daemon: change(daemon), listen, admin, websites });
        }
        Ok(cluster)
    }

    /// Starts all processes, none of which runs, and waits until all are ready.
    pub async fn start_all(&self) -> Result<()> {
        self.start_nodes().await?;
        for gateway in &self.gateways {
            gateway.start().await?;
        }
        Ok(())
    }

    /// Starts all nodes, none of which runs, and waits until all are ready; returns how long that took.
    pub async fn start_nodes(&self) -> Result<Duration> {
        let begin = Instant::now();
        for node in &self.nodes {
            node.start()?;
        }
        for (node, admin) in self.nodes.iter().zip(&self.node_admins) {
            node.ready(*admin).await?;
        }
        Ok(begin.elapsed())
    }

    /// All processes.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.nodes.iter().chain(self.gateways.iter().map(|gateway| &gateway.daemon))
    }

    /// The `config.yaml` of the cluster.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The commands that manage its users, at its first gateway.
    pub fn users(&self) -> Result<UserCommands> {
        let gateway = self.gateways.first().context("a cluster without gateways")?;
        UserCommands::new(gateway.admin, "--config", &self.config())
    }

    /// Adds [`OTHER`] as a user.
    pub fn add_other_user(&self) -> Result<()> {
        self.users()?.add_other()
    }

    /// Starts a node that does not run and waits until it is ready.
    pub async fn restart_node(&self, index: usize) -> Result<()> {
        self.nodes[index].start()?;
        self.nodes[index].ready(self.node_admins[index]).await?;
        Ok(())
    }

    /// `fluffy-storage ARGS` with the configuration of the cluster: to be called where it may block. An error carries
    /// what it said.
    pub fn operation(&self, args: &[&str]) -> impl FnOnce() -> Result<String> + Send + 'static {
        let (program, directory) = (binary("fluffy-storage"), self.directory().to_path_buf());
        let args: Vec<String> =
            args.iter().chain(&["--config", "config.yaml"]).map(ToString::to_string).collect();
        move || run(&program?, &directory, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// That `fluffy-storage ARGS` fails and says `words`.
    pub fn refuses(&self, args: &[&str], words: &str) -> Result<(), String> {
        match self.operation(args)() {
            Ok(said) => Err(format!("it was done: {said}")),
            Err(error) if format!("{error:#}").contains(words) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Adds a node to the table, issues its certificate, starts it and waits until it is ready. It has no data yet.
    pub async fn add_node(&mut self) -> Result<()> {
        let id = self.nodes.len() + 1;
        let mut table = File::options().append(true).open(self.directory.path().join("iptable.txt"))?;
        writeln!(table, "{id} 127.0.0.1:{}", free_port()?)?;
        self.operation(&["issue"])()?;
        self.describe_node(id)?;
        self.restart_node(id - 1).await
    }

    /// Stops all processes, gives all nodes other ports in the table, and starts everything again.
    pub async fn move_nodes(&mut self) -> Result<()> {
        self.daemons().for_each(Daemon::kill);
        self.write_table(self.nodes.len())?;
        self.start_all().await
    }

    /// Gives the nodes zones, in the order of their ids. Before they start.
    pub fn name_zones(&self, zones: &[&str]) -> Result<()> {
        let path = self.directory.path().join("iptable.txt");
        let table = fs::read_to_string(&path)?;
        let rows = table.lines().zip(zones).map(|(row, zone)| format!("{row} {zone}\n"));
        Ok(fs::write(path, rows.collect::<String>())?)
    }

    /// A table with new ports.
    fn write_table(&self, nodes: usize) -> Result<()> {
        let mut table = File::create(self.directory.path().join("iptable.txt"))?;
        for id in 1..=nodes {
            writeln!(table, "{id} 127.0.0.1:{}", free_port()?)?;
        }
        Ok(())
    }

    fn configure(&mut self, nodes: usize, settings: &str, init: &[&str]) -> Result<()> {
        self.write_table(nodes)?;
        fs::write(self.config(), format!("addresses: iptable.txt\n{settings}"))?;
        let init = [&["init", "--config", "config.yaml"], init].concat();
        run(&binary("fluffy-storage")?, self.directory(), &init)?;
        (1..=nodes).try_for_each(|id| self.describe_node(id))
    }

    /// How the process of a node is started.
    fn describe_node(&mut self, id: usize) -> Result<()> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (node, listen, data) = (id.to_string(), admin.to_string(), format!("node-{id}"));
        let args = ["--config", "config.yaml", "--node", &node, "--admin-listen", &listen, "--data", &data];
        let args = args.map(str::to_string).to_vec();
        self.nodes.push(Daemon::new(&format!("storage-{id}"), "fluffy-storage", self.directory(), args)?);
        self.node_admins.push(admin);
        Ok(())
    }
}

/// Runs a command to its end; an error carries what it said.
pub fn run(program: &Path, directory: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{} {}: {}: {said}", program.display(), args.join(" "), output.status);
    Ok(said)
}

async fn connect(address: SocketAddr) -> io::Result<BoxStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[async_trait]
impl Target for Embedded {
    fn gateways(&self) -> usize {
        1
    }

    async fn connect(&self, _gateway: usize) -> io::Result<BoxStream> {
        connect(self.gateway.listen).await
    }

    async fn connect_websites(&self, _gateway: usize) -> io::Result<Option<BoxStream>> {
        connect(self.gateway.websites).await.map(Some)
    }

    fn host(&self, _gateway: usize) -> String {
        self.gateway.listen.to_string()
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    fn root(&self) -> Credentials {
        Credentials::new(ROOT.0, ROOT.1)
    }

    fn other_user(&self) -> Option<Credentials> {
        Some(Credentials::new(OTHER.0, OTHER.1))
    }

    fn domain(&self) -> Option<String> {
        Some(DOMAIN.to_string())
    }
}

#[async_trait]
impl Target for Cluster {
    fn gateways(&self) -> usize {
        self.gateways.len()
    }

    async fn connect(&self, gateway: usize) -> io::Result<BoxStream> {
        connect(self.gateways[gateway].listen).await
    }

    async fn connect_websites(&self, gateway: usize) -> io::Result<Option<BoxStream>> {
        connect(self.gateways[gateway].websites).await.map(Some)
    }

    fn host(&self, gateway: usize) -> String {
        self.gateways[gateway].listen.to_string()
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    fn root(&self) -> Credentials {
        Credentials::new(ROOT.0, ROOT.1)
    }

    fn other_user(&self) -> Option<Credentials> {
        Some(Credentials::new(OTHER.0, OTHER.1))
    }

    fn domain(&self) -> Option<String> {
        Some(DOMAIN.to_string())
    }
}
