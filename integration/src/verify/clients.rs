//! The stage of real clients: installs them, runs their scripts against one store, counts their lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::{Tally, block_on, say};
use crate::daemons::{Embedded, ROOT, repository, scratch};

/// A script with its argument, in the environment that it needs.
struct Script {
    client: &'static str,
    file: &'static str,
    venv: &'static str,
    /// The Debian package that brings the program; empty where the environment does.
    package: &'static str,
}

const fn script(client: &'static str, file: &'static str) -> Script {
    Script { client, file, venv: "venv", package: "" }
}

const SCRIPTS: &[Script] = &[
    script("aws-cli", "aws_cli.py"),
    script("boto3", "boto3_client.py"),
    script("boto3-resources", "boto3_resources.py"),
    script("actions", "actions.py"),
    script("rclone", "tools.py"),
    script("s5cmd", "tools.py"),
    Script { client: "s3cmd", file: "tools.py", venv: "venv", package: "s3cmd" },
    Script { client: "restic", file: "tools.py", venv: "venv", package: "restic" },
    script("rclone", "locked_buckets.py"),
    Script { client: "restic", file: "locked_buckets.py", venv: "venv", package: "restic" },
    script("delta", "tables.py"),
    script("polars", "tables.py"),
    script("duckdb", "tables.py"),
    script("pyarrow", "libraries.py"),
    script("minio", "libraries.py"),
    Script { client: "s3fs", file: "s3fs_client.py", venv: "venv-s3fs", package: "" },
];

/// The environments and what goes into them.
const VENVS: &[(&str, &str)] = &[("venv", "requirements.txt"), ("venv-s3fs", "requirements-s3fs.txt")];

/// What is still missing then, the checks say that need it.
pub(super) fn setup(tally: &mut Tally) -> Result<()> {
    tally.check("what real clients need is installed", install().map_err(|why| format!("{why:#}")));
    Ok(())
}

/// Installs what the clients need, as far as this user may.
fn install() -> Result<()> {
    for (venv, requirements) in VENVS {
        prepare(venv, requirements)?;
    }
    install_packages();
    if let (Some(_), Some(npm)) = (find_program("node"), find_program("npm")) {
        prepare_node(&npm)?;
    }
    Ok(())
}

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    install()?;
    block_on(async {
        let store = Embedded::start(&["--data", "fluffy-data"]).await?;
        for script in SCRIPTS {
            if !script.package.is_empty() && find_program(script.package).is_none() {
                let why = format!("install it: apt-get install {}", script.package);
                tally.check(script.client, Err(why));
                continue;
            }
            run_script(script, &format!("http://{}", store.gateway.listen), tally)?;
        }
        javascript(&format!("http://{}", store.gateway.listen), tally)?;
        super::campaign::footprint(&store.gateway.daemon, tally);
        Ok(())
    })
}

/// Python with the clients of `requirements.txt`, installed if need be.
pub(crate) fn python() -> Result<PathBuf> {
    let (venv, requirements) = VENVS[0];
    prepare(venv, requirements)?;
    Ok(venv_path(venv).join("bin/python"))
}

pub(super) fn venv_path(name: &str) -> PathBuf {
    repository().join(".verify").join(name)
}

/// Makes a virtual environment with exactly what its requirements say; nothing to do if they are unchanged.
pub(super) fn prepare(name: &str, requirements: &str) -> Result<()> {
    // Stages may run beside each other.
    static PREPARING: Mutex<()> = Mutex::new(());
    let _alone = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
    let place = venv_path(name);
    let wanted = repository().join("integration").join(requirements);
    let text = fs::read_to_string(&wanted).with_context(|| format!("read {}", wanted.display()))?;
    let stamp = place.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == text) {
        return Ok(());
    }
    say(&format!("  installing {requirements} into {}", place.display()));
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
    }
    command(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let pip = place.join("bin/pip");
    command(
        Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&wanted),
    )?;
    fs::write(&stamp, text).context("note what was installed")
}

pub(super) fn command(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// Installs the Debian packages that are missing.
fn install_packages() {
    let missing: Vec<&str> = SCRIPTS
        .iter()
        .map(|script| script.package)
        .filter(|package| !package.is_empty() && find_program(package).is_none())
        .collect();
    if missing.is_empty() {
        return;
    }
    say(&format!("  installing {}", missing.join(" ")));
    let installed = command(Command::new("apt-get").args(["update", "-q"])).and_then(|()| {
        let arguments = ["install", "-q", "-y", "--no-install-recommends"];
        command(Command::new("apt-get").args(arguments).args(&missing))
    });
    if installed.is_err() {
        say(&format!("  this user may not install packages; run: apt-get install {}", missing.join(" ")));
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// Runs one script.
fn run_script(script: &Script, endpoint: &str, tally: &mut Tally) -> Result<()> {
    let bin = venv_path(script.venv).join("bin");
    let mut command = bare(&bin.join("python"));
    command.arg(repository().join("integration/clients").join(script.file)).arg(script.client);
    run_client(script.client, command, &bin, endpoint, tally)
}

/// The SDK for JavaScript, where Node.js is.
fn javascript(endpoint: &str, tally: &mut Tally) -> Result<()> {
    let (Some(node), Some(npm)) = (find_program("node"), find_program("npm")) else {
        tally.note("the SDK for JavaScript is not tried: install Node.js with npm".to_string());
        return Ok(());
    };
    let place = prepare_node(&npm)?;
    let mut program = bare(&node);
    program.arg(place.join("client.mjs"));
    run_client("javascript", program, &place, endpoint, tally)
}

/// A directory with the script and exactly the packages that its lock names. Node.js looks for them beside the script.
fn prepare_node(npm: &Path) -> Result<PathBuf> {
    let place = venv_path("node");
    let from = repository().join("integration/clients/javascript");
    let lock = fs::read(from.join("package-lock.json")).context("read package-lock.json")?;
    let stamp = place.join("installed.json");
    fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    for name in ["package.json", "package-lock.json", "client.mjs"] {
        fs::copy(from.join(name), place.join(name)).with_context(|| format!("copy {name}"))?;
    }
    if !fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        say(&format!("  installing package-lock.json into {}", place.display()));
        let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        command(Command::new(npm).args(arguments).current_dir(&place))?;
        fs::write(&stamp, lock).context("note what was installed")?;
    }
    Ok(place)
}

/// Clients at a gateway whose buckets are elsewhere; `variables`: whose keys, which bucket, where it is at home.
pub(super) fn overlay(
    script: &str,
    endpoint: &str,
    variables: &[(&str, &str)],
    tally: &mut Tally,
) -> Result<()> {
    let mut command = bare(&python()?);
    let place = repository().join("integration/clients").join(format!("{script}.py"));
    command.arg(place).envs(variables.iter().copied());
    run_client(script, command, &venv_path(VENVS[0].0).join("bin"), endpoint, tally)
}

/// The programs of the environment with Python.
pub(super) fn programs() -> Result<PathBuf> {
    python().map(|python| python.parent().unwrap_or(&python).to_path_buf())
}

/// PostgreSQL's log and backups in a bucket, by pgBackRest: it speaks TLS and nothing else.
pub(super) fn archive(tally: &mut Tally) -> Result<()> {
    if find_program("pgbackrest").is_none() {
        let why = "install it: apt-get install --no-install-recommends postgresql pgbackrest".to_string();
        tally.check("pgbackrest", Err(why));
        return Ok(());
    }
    let python = python()?;
    let home = scratch("tls-")?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).context("make a certificate")?;
    let (certificate, key) = (home.path().join("certificate.pem"), home.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    block_on(async {
        let files = [&certificate, &key].map(|path| path.display().to_string());
        let arguments = ["--data", "fluffy-data", "--tls-cert", &files[0], "--tls-key", &files[1]];
        let store = Embedded::start_tls(&arguments).await?;
        let mut command = bare(&python);
        command.arg(repository().join("integration/clients/pgbackrest.py")).env("CA_FILE", &files[0]);
        let endpoint = format!("https://localhost:{}", store.gateway.listen.port());
        run_client("pgbackrest", command, &venv_path(VENVS[0].0).join("bin"), &endpoint, tally)
    })
}

/// Programs that show pages as Chromium does, and the Debian package that has the smallest of them.
const BROWSERS: [&str; 5] =
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Pages of another origin, in a browser.
pub(super) fn browser(tally: &mut Tally) -> Result<()> {
    let Some(browser) = BROWSERS.iter().find_map(|name| find_program(name)) else {
        let why = format!("install it: apt-get install --no-install-recommends {}", BROWSERS[0]);
        tally.check("browser", Err(why));
        return Ok(());
    };
    let python = python()?;
    block_on(async {
        let store = Embedded::start(&["--data", "fluffy-data"]).await?;
        let mut command = bare(&python);
        command.arg(repository().join("integration/clients/browser.py")).arg(&browser);
        let endpoint = format!("http://{}", store.gateway.listen);
        run_client("browser", command, &venv_path(VENVS[0].0).join("bin"), &endpoint, tally)
    })
}

/// A program without anybody's own settings.
pub(super) fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// Runs a client in a directory of its own; each of its lines is a check.
pub(super) fn run_client(
    client: &str,
    mut command: Command,
    bin: &Path,
    endpoint: &str,
    tally: &mut Tally,
) -> Result<()> {
    let home = scratch(&format!("{client}-"))?;
    let own: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_os_string(), value?.to_os_string())))
        .collect();
    let output = command
        .current_dir(home.path())
        .envs(variables(endpoint, home.path(), bin))
        .envs(own)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {client}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut failed = 0;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ok ") {
            tally.check(name, Ok(()));
        } else if let Some(line) = line.strip_prefix("FAIL ") {
            let (name, why) = line.split_once(": line").unwrap_or((line, ""));
            failed += 1;
            tally.check(name, Err(format!("line{why}")));
        }
    }
    if !output.status.success() && failed == 0 {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        tally.check(client, Err(format!("the script ended early: {said}")));
    }
    Ok(())
}

/// What points at the store.
fn variables(endpoint: &str, home: &Path, bin: &Path) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    let pairs = [
        ("PATH", format!("{}:{path}", bin.display())),
        ("HOME", home.display().to_string()),
        ("LANG", "C.UTF-8".to_string()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_string()),
        ("AWS_ENDPOINT_URL", endpoint.to_string()),
        ("AWS_ACCESS_KEY_ID", ROOT.0.to_string()),
        ("AWS_SECRET_ACCESS_KEY", ROOT.1.to_string()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_string()),
        ("AWS_REGION", "us-east-1".to_string()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_string()),
        ("AWS_PAGER", String::new()),
        ("NODE_NO_WARNINGS", "1".to_string()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}
