//! The walk in `docs/overlay.md`, as a shell that a reader pastes it into.

use std::fs;
use std::process::Command;

use super::super::clients::programs;
use crate::daemons::{binary, repository, scratch};

/// Lines of what the last commands print.
const SEEN: [&str; 3] = ["hello.txt", " photos", "photos  east  east/anna  1  6"];

pub(super) fn run() -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let document = repository().join("integration/docs/overlay.md");
    let text = fs::read_to_string(document).map_err(|error| told(&error))?;
    let (script, expected) = script(&text)?;
    let home = scratch("walk-").map_err(|error| told(&error))?;
    let gateway = binary("fluffy-gateway").map_err(|error| told(&error))?;
    let clients = programs().map_err(|error| told(&error))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let beside = gateway.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    let run = Command::new("bash")
        .args(["-c", &script])
        .current_dir(home.path())
        .env("PATH", format!("{beside}:{}:{path}", clients.display()))
        .env("HOME", home.path())
        .env("AWS_CONFIG_FILE", home.path().join("config"))
        .output()
        .map_err(|error| told(&error))?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    if !run.status.success() {
        return Err(format!("{script}\n{said}\n{errors}"));
    }
    let missing = expected.iter().map(String::as_str).chain(SEEN).find(|line| !said.contains(line));
    missing.map_or(Ok(()), |line| Err(format!("{line:?} is not in {said}")))
}

/// The commands as a script that ends with the first failure and takes its daemons with it; and the lines that the
/// document shows as their answers.
fn script(text: &str) -> Result<(String, Vec<String>), String> {
    let walk = text.split("## A walk").nth(1).and_then(|rest| rest.split("\n## ").next());
    let walk = walk.ok_or("there is no walk")?;
    let mut script = "set -eu\ntrap 'kill $(jobs -p)' EXIT\n".to_string();
    let mut expected = Vec::new();
    let mut blocks = walk.split("```");
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        for line in block.lines().skip(1) {
            match line.strip_prefix("$ ") {
                Some(daemon) if daemon.ends_with(" &") => {
                    let admin = daemon
                        .split("--admin-listen 127.0.0.1:")
                        .nth(1)
                        .and_then(|rest| rest.split(' ').next());
                    let port = admin.ok_or("a daemon without an admin port")?;
                    script.push_str(&format!(
                        "{} > daemon-{port}.log 2>&1 &\nuntil grep -q 'is ready' daemon-{port}.log; do sleep 0.1; done\n",
                        daemon.trim_end_matches(" &")
                    ));
                }
                Some(command) => script.push_str(&format!("{command}\n")),
                None => expected.push(line.to_string()),
            }
        }
    }
    Ok((script, expected))
}
