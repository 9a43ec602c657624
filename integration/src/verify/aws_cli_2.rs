//! `cargo verify aws-cli-2`: the aws CLI 2, which PyPI does not have. The newest of Debian testing is unpacked into
//! `.verify`, whatever this system is; apt proves where it comes from.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::clients::{bare, command, prepare, python, run_client, venv_path};
use super::{Tally, block_on, say};
use crate::daemons::{Embedded, repository};

const NAME: &str = "aws-cli-2";
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian testing main\n";

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    let programs = match install() {
        Ok(programs) => programs,
        Err(why) => {
            tally.check(NAME, Err(format!("it takes apt-get, dpkg-deb and Debian's keys: {why:#}")));
            return Ok(());
        }
    };
    let mut script = bare(&python()?);
    script.arg(repository().join("integration/clients/aws_cli.py"));
    block_on(async {
        let store = Embedded::start(&["--data", "fluffy-data"]).await?;
        run_client(NAME, script, &programs, &format!("http://{}", store.gateway.listen), tally)
    })
}

/// Returns the directory of the program `aws`.
fn install() -> Result<PathBuf> {
    let venv = format!("venv-{NAME}");
    prepare(&venv, &format!("requirements-{NAME}.txt"))?;
    let place = venv_path(NAME);
    let programs = place.join("bin");
    if programs.join("aws").is_file() {
        return Ok(programs);
    }
    say(&format!("  unpacking the aws CLI of Debian testing into {}", place.display()));
    for directory in ["lists/partial", "cache/archives/partial", "bin"] {
        fs::create_dir_all(place.join(directory)).context("make directories for apt")?;
    }
    fs::write(place.join("sources.list"), SOURCE)?;
    apt_get(&place, &["update"])?;
    apt_get(&place, &["download", "awscli"])?;
    let package = fs::read_dir(&place)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = package.filter(|path| path.extension().is_some_and(|end| end == "deb")).max();
    let package = package.context("apt brought no package")?;
    command(Command::new("dpkg-deb").arg("-x").arg(package).arg(&place))?;
    let (python, usr) = (venv_path(&venv).join("bin/python"), place.join("usr"));
    let launcher = format!(
        "#!/bin/sh\nPYTHONPATH='{0}/lib/python3/dist-packages' exec '{1}' '{0}/bin/aws' \"$@\"\n",
        usr.display(),
        python.display()
    );
    fs::write(programs.join("aws.new"), launcher)?;
    fs::set_permissions(programs.join("aws.new"), Permissions::from_mode(0o755))?;
    fs::rename(programs.join("aws.new"), programs.join("aws")).context("name it")?;
    Ok(programs)
}

/// apt with nothing of this system but its keys; it needs no rights.
fn apt_get(place: &Path, arguments: &[&str]) -> Result<()> {
    let at = |name: &str| place.join(name).display().to_string();
    let options = [
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        "Dir::Etc::sourceparts=-".to_string(),
        format!("Dir::State={}", at("")),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        "Debug::NoLocking=1".to_string(),
        "APT::Architecture=all".to_string(),
        "APT::Sandbox::User=".to_string(),
    ];
    let options = options.iter().flat_map(|option| ["-o", option]);
    command(Command::new("apt-get").arg("-q").args(options).args(arguments).current_dir(place))
}
