//! Garage as a peer: three nodes on this machine, three copies, everything synced.
//!
//! Its program comes from the crate registry: `cargo install garage --version 2.5.0 --locked`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::daemons::{free_port, scratch};

const NODES: usize = 3;
/// The shapes that Garage wants.
pub const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
/// The secret of [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// The region that its clients sign for.
pub const REGION: &str = "garage";
/// Between processes.
const RPC_SECRET: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
/// A node takes no longer to answer its command line.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running cluster; its processes end when it is dropped.
pub struct Garage {
    /// Where the first node serves S3.
    pub listen: SocketAddr,
    nodes: Vec<Child>,
    directory: TempDir,
}

impl Garage {
    /// Starts three nodes of `program` and gives them a layout and a user.
    pub fn start(program: &Path) -> Result<Garage> {
        let directory = scratch("garage-")?;
        let s3 = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut garage = Garage { listen: s3, nodes: Vec::new(), directory };
        let mut names = Vec::new();
        for number in 0..NODES {
            let listen = if number == 0 { s3.port() } else { free_port()? };
            let config = garage.configure(number, listen)?;
            let log = fs::File::create(garage.directory.path().join(format!("garage-{number}.log")))?;
            let mut server = Command::new(program);
            server.arg("-c").arg(&config).arg("server").stdin(Stdio::null());
            server.stdout(log.try_clone()?).stderr(log);
            garage.nodes.push(server.spawn().with_context(|| format!("start {}", program.display()))?);
            names.push(garage.patiently(program, number, &["node", "id", "-q"])?.trim().to_string());
        }
        for name in &names[1..] {
            garage.patiently(program, 0, &["node", "connect", name])?;
        }
        for name in &names {
            let id = name.split('@').next().unwrap_or_default();
            garage.patiently(program, 0, &["layout", "assign", id, "-z", "here", "-c", "50G"])?;
        }
        garage.patiently(program, 0, &["layout", "apply", "--version", "1"])?;
        garage.patiently(program, 0, &["key", "import", "--yes", ACCESS_KEY, SECRET_KEY])?;
        garage.patiently(program, 0, &["key", "allow", "--create-bucket", ACCESS_KEY])?;
        Ok(garage)
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("garage-{number}.toml"))
    }

    fn configure(&self, number: usize, listen: u16) -> Result<PathBuf> {
        let (rpc, admin) = (free_port()?, free_port()?);
        let data = self.directory.path().join(format!("garage-{number}"));
        let data = data.display();
        let text = format!(
            "metadata_dir = \"{data}/meta\"\ndata_dir = \"{data}/data\"\ndb_engine = \"lmdb\"\n\
             metadata_fsync = true\ndata_fsync = true\nreplication_factor = 3\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_secret = \"{RPC_SECRET}\"\n\n[s3_api]\ns3_region = \"{REGION}\"\n\
             api_bind_addr = \"127.0.0.1:{listen}\"\nroot_domain = \".s3.garage.test\"\n\n\
             [admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\n"
        );
        let path = self.config(number);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Runs a command against a node, again until it succeeds: a node that was just started is not there yet.
    fn patiently(&self, program: &Path, number: usize, args: &[&str]) -> Result<String> {
        let began = Instant::now();
        loop {
            let output = Command::new(program).arg("-c").arg(self.config(number)).args(args).output();
            let output = output.with_context(|| format!("run {}", program.display()))?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            if began.elapsed() > START_DEADLINE {
                bail!("garage {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // One that ended by itself is as good.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// The program is there, or the sentence that says how to get it.
pub fn check(program: &Path) -> Result<()> {
    ensure!(
        program.is_file(),
        "{} is not there: cargo install garage --version 2.5.0 --locked",
        program.display()
    );
    Ok(())
}
