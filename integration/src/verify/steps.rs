//! Stages that are other programs: cargo's own checks, the simulator and crash images.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Tally, say};
use crate::daemons::repository;
use crate::sim::crash::Target;

/// What a program said, and whether it succeeded. The output also goes to `.verify/logs/<log>.log`.
pub(super) fn capture(log: &str, program: &str, args: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(program);
    command.args(args).current_dir(repository()).stdin(Stdio::null());
    // What `cargo run` says of this package would make build scripts of others run again, and half of the tree be
    // built twice.
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let output = command.output().with_context(|| format!("run {program}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let logs = repository().join(".verify/logs");
    fs::create_dir_all(&logs)?;
    fs::write(logs.join(format!("{log}.log")), &text)?;
    Ok((output.status.success(), text))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn one_check(tally: &mut Tally, name: &str, args: &[&str]) -> Result<()> {
    let (good, text) = capture(name, env!("CARGO"), args)?;
    if !good {
        say(&tail(&text, 60));
    }
    tally.check(name, if good { Ok(()) } else { Err(format!("cargo {} failed", args.join(" "))) });
    Ok(())
}

pub(super) fn fmt(tally: &mut Tally) -> Result<()> {
    one_check(tally, "fmt", &["fmt", "--all", "--check"])
}

pub(super) fn clippy(tally: &mut Tally) -> Result<()> {
    one_check(
        tally,
        "clippy",
        &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"],
    )
}

pub(super) fn build(tally: &mut Tally) -> Result<()> {
    one_check(tally, "build", &["build", "--release", "--workspace", "--bins"])
}

pub(super) fn tests(tally: &mut Tally) -> Result<()> {
    let (good, text) =
        capture("tests", env!("CARGO"), &["test", "--release", "--workspace", "--no-fail-fast"])?;
    let failures = count_tests(&text, tally);
    for name in &failures {
        let said = words_of(&text, name).unwrap_or("nothing; see .verify/logs/tests.log");
        tally.check(name, Err(tail(said, 40)));
    }
    if !good && failures.is_empty() {
        say(&tail(&text, 80));
        tally.check("tests", Err("cargo test failed".to_string()));
    }
    say(&format!("  {} tests passed", tally.passed));
    Ok(())
}

/// Adds the passed tests of cargo's output to `tally`; returns the names of failed ones.
fn count_tests(text: &str, tally: &mut Tally) -> Vec<String> {
    let mut failed = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let passed = rest.split("; ").next().and_then(|part| part.split_whitespace().nth(1));
            tally.passed += passed.and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            failed.push(name.to_string());
        }
    }
    failed
}

/// What a failed test printed, without its backtrace.
fn words_of<'a>(text: &'a str, test: &str) -> Option<&'a str> {
    let (_, from) = text.split_once(&format!("---- {test} stdout ----\n"))?;
    let ends = ["\nstack backtrace:\n", "\n---- ", "\nfailures:\n"].map(|end| from.find(end));
    let end = ends.into_iter().flatten().min();
    Some(from[..end.unwrap_or(from.len())].trim())
}

pub(super) fn sim(tally: &mut Tally) -> Result<()> {
    simulate(tally, "sim", &[])
}

pub(super) fn sim_overlay(tally: &mut Tally) -> Result<()> {
    simulate(tally, "sim-overlay", &["--overlay"])
}

fn simulate(tally: &mut Tally, log: &str, args: &[&str]) -> Result<()> {
    let (good, text) = capture(log, env!("CARGO"), &[&["sim", "--smoke"], args].concat())?;
    if !good {
        say(&tail(&text, 60));
    }
    // The simulator says `N passed, N failed` on its last line, as this program does.
    let last = text.lines().rev().find(|line| line.ends_with(" failed"));
    let passed = last.and_then(|line| line.split(' ').next()).and_then(|count| count.parse::<usize>().ok());
    tally.passed += passed.unwrap_or(0);
    if !good || passed.is_none() {
        tally.check(log, Err(format!("see .verify/logs/{log}.log")));
    }
    Ok(())
}

/// Images of one run of the verification, and of the campaign: of all targets together.
const IMAGES: u64 = 50_000;
const CAMPAIGN_IMAGES: u64 = 1_000_000;

pub(super) fn crash(tally: &mut Tally) -> Result<()> {
    images(tally, IMAGES)?;
    cut_power(tally, "crash-canary", "a disk that lies is noticed", &["--canary", "--images", "2000"])?;
    cut_power(tally, "crash-planted", "planted bugs are caught", &["--planted"])
}

pub(super) fn crash_images(tally: &mut Tally) -> Result<()> {
    images(tally, CAMPAIGN_IMAGES)
}

fn images(tally: &mut Tally, images: u64) -> Result<()> {
    let each = images.div_ceil(Target::ALL.len() as u64).to_string();
    let promise = format!("{images} images open with all that was promised");
    cut_power(tally, "crash", &promise, &["--images", &each])
}

/// Runs `cargo crash` and tells what it counted.
fn cut_power(tally: &mut Tally, log: &str, promise: &str, args: &[&str]) -> Result<()> {
    let (good, text) = capture(log, env!("CARGO"), &[&["crash"], args].concat())?;
    text.lines().for_each(|line| tally.note(line.to_string()));
    tally.check(promise, if good { Ok(()) } else { Err(format!("see .verify/logs/{log}.log")) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Tally, count_tests, words_of};

    #[test]
    fn tests_are_counted_over_all_binaries() {
        let text = "test a::b ... ok\ntest a::c ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
            test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let mut tally = Tally::default();
        assert_eq!(count_tests(text, &mut tally), ["a::c"]);
        assert_eq!(tally.passed, 42);
    }

    #[test]
    fn a_failed_test_is_quoted() {
        let text = "failures:\n\n---- a::b stdout ----\n\npanicked at here\nstack backtrace:\n   0: main\n\n---- a::c stdout ----\nand there\n\n\n\
            failures:\n    a::b\n    a::c\n";
        assert_eq!(words_of(text, "a::b"), Some("panicked at here"));
        assert_eq!(words_of(text, "a::c"), Some("and there"));
        assert_eq!(words_of(text, "a::d"), None);
    }
}
