//! The stage of users: what scripts rely on in `fluffy-gateway user …`, `quota …` and `status`, against two gateways.

#![allow(clippy::disallowed_methods)] // Waits for real gateways.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::{Tally, block_on, quotas};
use crate::bad_input;
use crate::client::{Client, Credentials, Request, Target};
use crate::conformance::{ok, refused};
use crate::daemons::{Cluster, UserCommands, binary};

const FIRST: (&str, &str) = ("FLUFFYALICEFIRSTKEY1", "first-secret-of-alice-0123456789abcdef01");
const SECOND: (&str, &str) = ("FLUFFYALICESECONDKEY", "second-secret-of-alice-0123456789abcdef0");
const THIRD: (&str, &str) = ("FLUFFYALICETHIRDKEY1", "third-secret-of-alice-0123456789abcdef01");

/// Gateways go by what they know of users for no longer.
const RECORDS_LAST: Duration = Duration::from_secs(6);

pub(super) fn run(tally: &mut Tally) -> Result<()> {
    block_on(async {
        let store = Cluster::start(1, 2, "").await?;
        let commands = store.users()?;
        bad_input::run_users(&store, &commands, |name, outcome| tally.check(name, outcome)).await?;
        tally.check(
            "user add: imported, by standard input, by a variable",
            several_keys(&store, &commands).await,
        );
        tally.check("user list: names and keys, no secrets", listed(&commands));
        tally.check("user add: what it refuses", refusals(&commands));
        tally.check("user add: drawn keys", drawn(&store, &commands).await);
        tally.check("user remove: not while it owns a bucket", owner_stays(&store, &commands).await);
        tally.check("user rotate: one new key", rotated(&store, &commands).await);
        tally.check("user policy: what it allows, and nothing else", policies(&store, &commands).await);
        quotas::run(tally, &store, &commands).await;
        tally.check("status --json", status(&commands));
        tally.check("keys in the environment are checked before anything is made", wrong_root_keys());
        Ok(())
    })
}

/// All buckets of the owner of these keys, through each gateway.
async fn works(target: &dyn Target, keys: (&str, &str)) -> Result<(), String> {
    for gateway in 0..target.gateways() {
        let client = Client::new(target, gateway).with_credentials(Some(Credentials::new(keys.0, keys.1)));
        let response = client.send(Request::new("GET", "/")).await.map_err(|error| error.to_string())?;
        if response.status != 200 {
            return Err(format!("{} at gateway {gateway}: {}", keys.0, response.describe()));
        }
    }
    Ok(())
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
}

/// The answer to `user add --json` names exactly these keys.
fn shows(text: &str, name: &str, keys: (&str, &str)) -> Result<(), String> {
    let expected = serde_json::json!({ "name": name, "access_key": keys.0, "secret_key": keys.1 });
    if json(text)? == expected { Ok(()) } else { Err(format!("{text} is not {expected}")) }
}

async fn several_keys(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    let imported = ["add", "alice", "--access-key", FIRST.0, "--secret-key", FIRST.1, "--json"];
    shows(&commands.ok(&imported)?, "alice", FIRST)?;
    let piped = ["add", "alice", "--access-key", SECOND.0, "--secret-stdin", "--json"];
    let said = commands.run_with(&piped, &[], &format!("{}\nsecond line\n", SECOND.1))?;
    shows(&said.output, "alice", SECOND)?;
    let args = ["add", "alice", "--access-key", THIRD.0, "--json"];
    let said = commands.run_with(&args, &[("FLUFFY_SECRET_KEY", THIRD.1)], "")?;
    shows(&said.output, "alice", THIRD)?;
    for keys in [FIRST, SECOND, THIRD] {
        works(target, keys).await?;
    }
    Ok(())
}

/// A user with a policy may read one bucket of another user, until the policy goes.
async fn policies(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    const READER: (&str, &str) = ("FLUFFYREADERACCESSK1", "secret-of-the-reader-0123456789abcdef012");
    commands.ok(&["add", "reader", "--access-key", READER.0, "--secret-key", READER.1, "--json"])?;
    let owner = Client::new(target, 0);
    for bucket in ["lent-out", "kept-back"] {
        ok(&owner, Request::bucket("PUT", bucket)).await?;
        ok(&owner, Request::object("PUT", bucket, "k").body("read me")).await?;
    }
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Action":"s3:Get*","Resource":"arn:aws:s3:::lent-out/*"},
        {"Effect":"Allow","Action":["s3:ListBucket","s3:CreateBucket"],"Resource":"arn:aws:s3:::lent-*"}]}"#;
    let set = commands.run_with(&["policy", "set", "reader", "lent"], &[], policy)?;
    if set.code != 0 || !set.output.contains("s3:Get*") {
        return Err(format!("policy set: {set:?}"));
    }
    let reader = owner.with_credentials(Some(Credentials::new(READER.0, READER.1)));
    ok(&reader, Request::object("GET", "lent-out", "k")).await?;
    ok(&reader, Request::bucket("GET", "lent-out")).await?;
    ok(&reader, Request::bucket("PUT", "lent-too")).await?;
    for (what, request) in [
        ("writes", Request::object("PUT", "lent-out", "k").body("mine")),
        ("reads another bucket", Request::object("GET", "kept-back", "k")),
        ("makes a bucket of another name", Request::bucket("PUT", "not-allowed")),
        ("lists buckets", Request::new("GET", "/")),
        ("writes into a bucket of its own", Request::object("PUT", "lent-too", "k").body("mine")),
    ] {
        denied(&reader, request).await.map_err(|error| format!("{what}: {error}"))?;
    }
    for (what, arguments, said) in [
        ("no such user", &["policy", "show", "nobody"][..], "there is no such user"),
        ("no such policy", &["policy", "remove", "reader", "other"], "the user has no such policy"),
    ] {
        let refused = commands.run_with(arguments, &[], "")?;
        if refused.code == 0 || !refused.error.contains(said) {
            return Err(format!("{what}: {refused:?}"));
        }
    }
    let wrong = commands.run_with(&["policy", "set", "reader", "lent"], &[], r#"{"Statement":[]}"#)?;
    if wrong.code == 0 {
        return Err(format!("a policy without statements is taken: {}", wrong.output));
    }
    commands.ok(&["policy", "remove", "reader", "lent"])?;
    if json(&commands.ok(&["policy", "show", "reader"])?)? != serde_json::json!({}) {
        return Err("a removed policy is shown".to_string());
    }
    // Other processes changed that: this gateway may go by what it knew for some seconds.
    let deadline = Instant::now() + RECORDS_LAST;
    while let Err(error) = denied(&reader, Request::object("GET", "lent-out", "k")).await {
        if deadline < Instant::now() {
            return Err(format!("after the policy is gone: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ok(&reader, Request::object("PUT", "lent-too", "k").body("mine")).await?;
    ok(&reader, Request::object("DELETE", "lent-too", "k")).await?;
    ok(&reader, Request::bucket("DELETE", "lent-too")).await?;
    commands.ok(&["remove", "reader"]).map(drop)
}

async fn denied(client: &Client<'_>, request: Request) -> Result<(), String> {
    refused(client, request, 403, "AccessDenied").await
}

fn listed(commands: &UserCommands) -> Result<(), String> {
    for text in [commands.ok(&["list"])?, commands.ok(&["list", "--json"])?] {
        for key in [FIRST, SECOND, THIRD] {
            if !text.contains(key.0) || text.contains(key.1) {
                return Err(text);
            }
        }
    }
    let users = json(&commands.ok(&["list", "--json"])?)?;
    let alice = users["users"].as_array().and_then(|users| users.iter().find(|user| user["name"] == "alice"));
    match alice.and_then(|alice| alice["access_keys"].as_array()).map(Vec::len) {
        Some(3) => Ok(()),
        found => Err(format!("{found:?} keys: {users}")),
    }
}

fn refusals(commands: &UserCommands) -> Result<(), String> {
    let key = ["--access-key", "FLUFFYANOTHERKEY0001"];
    for (args, code, words) in [
        (vec!["add", "alice"], 1, "exists already"),
        (vec!["add", "bob", "--access-key", FIRST.0], 1, "the access key exists already"),
        (vec!["add", "a b", key[0], key[1]], 1, "the user name"),
        (vec!["add", "bob", "--access-key", "a/b"], 1, "the access key"),
        (vec!["add", "bob", "--secret-key", "0123456789abcdef", "--secret-stdin"], 2, "--secret-stdin"),
        (vec!["add"], 2, "NAME"),
        (vec!["remove", "nobody"], 1, "no such user"),
        (vec!["rotate", "nobody"], 1, "no such user"),
        (vec!["frobnicate"], 2, "frobnicate"),
    ] {
        let said = commands.run(&args)?;
        let told = said.error.to_lowercase();
        if said.code != code || !told.contains(&words.to_lowercase()) || !said.output.is_empty() {
            return Err(format!("user {}: {said:?}", args.join(" ")));
        }
    }
    Ok(())
}

/// The keys in an answer of `user add --json` and `user rotate --json`.
fn keys_in(text: &str) -> Result<(String, String), String> {
    let value = json(text)?;
    let word = |name: &str| value[name].as_str().unwrap_or_default().to_string();
    Ok((word("access_key"), word("secret_key")))
}

async fn drawn(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    let (key, secret) = keys_in(&commands.ok(&["add", "drawn", "--json"])?)?;
    if secret.len() < 32 {
        return Err(format!("a secret of {} characters", secret.len()));
    }
    works(target, (&key, &secret)).await?;
    let text = commands.ok(&["add", "shown"])?;
    let line = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_string()
    };
    works(target, (&line("access key"), &line("secret key"))).await?;
    commands.ok(&["remove", "drawn"])?;
    commands.ok(&["remove", "shown"]).map(drop)
}

async fn owner_stays(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    let alice = Client::new(target, 1).with_credentials(Some(Credentials::new(FIRST.0, FIRST.1)));
    let send = async |method: &str, status: u16| {
        let response =
            alice.send(Request::bucket(method, "of-alice")).await.map_err(|error| error.to_string())?;
        if response.status == status { Ok(()) } else { Err(response.describe()) }
    };
    send("PUT", 200).await?;
    let said = commands.run(&["remove", "alice"])?;
    if said.code != 1 || !said.error.contains("owns buckets") {
        return Err(format!("{said:?}"));
    }
    works(target, FIRST).await?;
    send("DELETE", 204).await
}

async fn rotated(target: &dyn Target, commands: &UserCommands) -> Result<(), String> {
    let (key, secret) = keys_in(&commands.ok(&["rotate", "alice", "--json"])?)?;
    works(target, (&key, &secret)).await?;
    let users = json(&commands.ok(&["list", "--json"])?)?.to_string();
    if [FIRST, SECOND, THIRD].iter().any(|old| users.contains(old.0)) || !users.contains(&key) {
        return Err(users);
    }
    commands.ok(&["remove", "alice"]).map(drop)
}

fn status(commands: &UserCommands) -> Result<(), String> {
    let value = json(&commands.status()?)?;
    for field in
        ["version", "nodes", "leader", "copies_owed", "garbage", "buckets", "objects", "bytes", "disks"]
    {
        if value.get(field).is_none_or(Value::is_null) {
            return Err(format!("no {field}: {value}"));
        }
    }
    let node = &value["nodes"][0];
    match (node["address"].as_str(), node["version"].as_str(), node["copies_owed"].as_u64()) {
        (Some(_), Some(_), Some(_)) => Ok(()),
        _ => Err(format!("a node without address, version or copies owed: {value}")),
    }
}

/// A start with wrong keys ends with exit code 2 and one sentence.
fn wrong_root_keys() -> Result<(), String> {
    let program = binary("fluffy-gateway").map_err(|error| error.to_string())?;
    for (variable, value) in [
        ("FLUFFY_ROOT_SECRET_KEY", "short"),
        ("FLUFFY_ROOT_SECRET_KEY", "0123456789 abcdef"),
        ("FLUFFY_ROOT_ACCESS_KEY", "a/b"),
    ] {
        let mut command = Command::new(&program);
        command.args(["--memory", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.env(variable, value).stdin(Stdio::null());
        let output = command.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(2) || !said.contains(variable) {
            return Err(format!("{variable}={value}: {}: {said}", output.status));
        }
    }
    Ok(())
}
