//! The units for systemd and the container file: what they start exists, with the options that they give.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Tally;
use crate::daemons::{binary, repository, run as run_program, scratch};

/// Units with the names under which systemd would load them.
const UNITS: [(&str, &str); 2] = [
    ("fluffy-storage@.service", "fluffy-storage@1.service"),
    ("fluffy-gateway.service", "fluffy-gateway.service"),
];
const CONTAINER_FILE: &str = "Containerfile";

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    let directory = repository().join("integration/deploy");
    for (file, name) in UNITS {
        let text = fs::read_to_string(directory.join(file)).with_context(|| format!("read {file}"))?;
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
        let words: Vec<&str> = start.split_whitespace().collect();
        tally.check(&format!("{file}: its options exist"), options_exist(&words));
        match analysed(name, &text)? {
            Some(outcome) => tally.check(&format!("{file}: systemd takes it"), outcome),
            None => {
                tally.note("there is no systemd-analyze here: units are not looked at by systemd".to_string())
            }
        }
    }
    let text = fs::read_to_string(directory.join(CONTAINER_FILE)).context("read the container file")?;
    let command = text.lines().find_map(|line| line.strip_prefix("CMD ")).context("no CMD")?;
    let words: Vec<String> = serde_json::from_str(command).context("CMD is no list")?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    tally.check(&format!("{CONTAINER_FILE}: its options exist"), options_exist(&words));
    Ok(())
}

/// A program of this build, and options that its help shows.
fn options_exist(words: &[&str]) -> Result<(), String> {
    let name = words.first().and_then(|path| path.rsplit('/').next()).ok_or("no program")?;
    let help = binary(name).and_then(|program| run_program(&program, &repository(), &["--help"]));
    let help = help.map_err(|error| format!("{error:#}"))?;
    let unknown = words.iter().find(|word| word.starts_with("--") && !help.contains(&format!("{word} ")));
    unknown.map_or(Ok(()), |word| Err(format!("{name} has no {word}")))
}

/// What systemd says to a unit whose programs are those of this build; `None` where there is no systemd.
fn analysed(name: &str, text: &str) -> Result<Option<Result<(), String>>> {
    let programs = binary("fluffy-storage")?;
    let programs = programs.parent().context("a program without a directory")?.display().to_string();
    let home = scratch("units-")?;
    let path = home.path().join(name);
    fs::write(&path, text.replace("/usr/bin/", &format!("{programs}/")))?;
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        return Ok(None);
    };
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    // Other units of this machine are not our business.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
    Ok(Some(if ours.is_empty() { Ok(()) } else { Err(ours.join("; ")) }))
}
