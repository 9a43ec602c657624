//! `fluffy-gateway user …`, `quota …`, `storage-class …`, `search` and `status`: calls to the admin port of a running
//! store, shown to people or as JSON.

mod overlay;

use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::str::FromStr;

use consensus::meta::names::{BucketName, NameError, PolicyName, UserName};
use fabric::Seams;
use fabric::cluster::Config;
use fabric::disks::read_small;
use fabric::limits::POLICY_BYTES_MAX;
use gateway::admin::client::{AdminClient, CallError};
use gateway::config::{
    ADMIN_DEFAULT, AdminArgs, ClassAction, Command, PolicyAction, QuotaAction, StoreArgs, UserAction,
    store_dir,
};
use gateway::store_files::{ADMIN_TOKEN, read_token};
use http::Method;
use serde_json::{Value, json};

use crate::Failure;

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        Failure::Failed(error.0)
    }
}

/// Does what the command says.
pub async fn run(seams: Seams, store: &StoreArgs, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Status { admin, json } => {
            let status = client(seams, store, admin)?.call(Method::GET, "/status", None).await?;
            show(*json, &status, status_text)
        }
        Command::User { action } => user(seams, store, action).await,
        Command::Search { query, max_keys, sort, order, as_of, continuation_token, user, json, admin } => {
            let asked = json!({
                "query": query, "max_keys": max_keys, "sort": sort, "order": order, "as_of": as_of,
                "continuation_token": continuation_token, "user": user,
            });
            let found = client(seams, store, admin)?.call(Method::POST, "/search", Some(&asked)).await?;
            show(*json, &found, hits_text)
        }
        Command::Files { user, max_keys, continuation_token, json, admin } => {
            let asked = json!({
                "query": "name:*", "max_keys": max_keys, "user": user, "owned": true,
                "continuation_token": continuation_token,
            });
            let found = client(seams, store, admin)?.call(Method::POST, "/search", Some(&asked)).await?;
            show(*json, &found, hits_text)
        }
        Command::Quota { action } => quota(seams, store, action).await,
        Command::Overlay { action } => overlay::run(seams, store, action).await,
        Command::StorageClass { action } => storage_class(seams, store, action).await,
    }
}

async fn user(seams: Seams, store: &StoreArgs, action: &UserAction) -> Result<(), Failure> {
    match action {
        UserAction::Add { name, access_key, secret_key, secret_stdin, json, admin } => {
            let secret = if *secret_stdin { Some(secret_from_stdin()?) } else { secret_key.clone() };
            let new = json!({ "name": name, "access_key": access_key, "secret_key": secret });
            let added = client(seams, store, admin)?.call(Method::POST, "/users", Some(&new)).await?;
            show(*json, &added, keys_text)
        }
        UserAction::List { json, admin } => {
            let users = client(seams, store, admin)?.call(Method::GET, "/users", None).await?;
            show(*json, &users, users_text)
        }
        UserAction::Remove { name, admin } => {
            let path = format!("/users/{}", in_path::<UserName>(name)?);
            client(seams, store, admin)?.call(Method::DELETE, &path, None).await?;
            Ok(())
        }
        UserAction::Policy { action } => policy(seams, store, action).await,
        UserAction::Rotate { name, json, admin } => {
            let path = format!("/users/{}/rotate", in_path::<UserName>(name)?);
            let rotated = client(seams, store, admin)?.call(Method::POST, &path, None).await?;
            show(*json, &rotated, keys_text)
        }
    }
}

async fn policy(seams: Seams, store: &StoreArgs, action: &PolicyAction) -> Result<(), Failure> {
    let of = |user: &str| Ok::<_, Failure>(format!("/users/{}/policies", in_path::<UserName>(user)?));
    let (PolicyAction::Set { admin, .. }
    | PolicyAction::Show { admin, .. }
    | PolicyAction::Remove { admin, .. }) = action;
    let (method, path, document) = match action {
        PolicyAction::Set { user, name, file, .. } => {
            let path = format!("{}/{}", of(user)?, in_path::<PolicyName>(name)?);
            (Method::PUT, path, Some(policy_document(&seams, file.as_deref())?))
        }
        PolicyAction::Show { user, .. } => (Method::GET, of(user)?, None),
        PolicyAction::Remove { user, name, .. } => {
            (Method::DELETE, format!("{}/{}", of(user)?, in_path::<PolicyName>(name)?), None)
        }
    };
    let shown = client(seams, store, admin)?.call(method, &path, document.as_ref()).await?;
    show(false, &shown, |value| format!("{:#}\n", value["policies"]))
}

/// A policy from a file or from standard input.
fn policy_document(seams: &Seams, file: Option<&Path>) -> Result<Value, Failure> {
    let mut text = Vec::new();
    match file {
        Some(path) => {
            text = read_small(&*seams.disks, path, POLICY_BYTES_MAX as u64)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        }
        None => {
            let mut input = std::io::stdin().lock().take(POLICY_BYTES_MAX as u64);
            input
                .read_to_end(&mut text)
                .map_err(|error| Failure::Failed(format!("read standard input: {error}")))?;
        }
    }
    serde_json::from_slice(&text).map_err(|error| Failure::Usage(format!("the policy is not JSON: {error}")))
}

async fn quota(seams: Seams, store: &StoreArgs, action: &QuotaAction) -> Result<(), Failure> {
    let (of, admin, call) = match action {
        QuotaAction::Set { of, bytes, objects, admin } => {
            (of, admin, (Method::PUT, Some(json!({ "bytes": bytes, "objects": objects }))))
        }
        QuotaAction::Show { of, admin, .. } => (of, admin, (Method::GET, None)),
        QuotaAction::Clear { of, admin } => (of, admin, (Method::DELETE, None)),
    };
    let path = match (&of.bucket, &of.user) {
        (Some(bucket), _) => format!("/buckets/{}/quota", in_path::<BucketName>(bucket)?),
        (None, user) => format!("/users/{}/quota", in_path::<UserName>(user.as_deref().unwrap_or_default())?),
    };
    let shown = client(seams, store, admin)?.call(call.0, &path, call.1.as_ref()).await?;
    show(matches!(action, QuotaAction::Show { json: true, .. }), &shown, quota_text)
}

async fn storage_class(seams: Seams, store: &StoreArgs, action: &ClassAction) -> Result<(), Failure> {
    let (bucket, admin, call) = match action {
        ClassAction::Set { class, bucket, admin } => {
            (bucket, admin, (Method::PUT, Some(json!({ "class": class }))))
        }
        ClassAction::Show { bucket, admin, .. } => (bucket, admin, (Method::GET, None)),
    };
    let path = format!("/buckets/{}/storage-class", in_path::<BucketName>(bucket)?);
    let shown = client(seams, store, admin)?.call(call.0, &path, call.1.as_ref()).await?;
    let text = |value: &Value| format!("{}\n", word(value, "class"));
    show(matches!(action, ClassAction::Show { json: true, .. }), &shown, text)
}

/// Names of users and buckets need no escaping in a path, but for what is no such name.
fn in_path<T: FromStr<Err = NameError>>(name: &str) -> Result<T, Failure> {
    name.parse().map_err(|error: NameError| Failure::Usage(error.to_string()))
}

fn client(seams: Seams, store: &StoreArgs, admin: &AdminArgs) -> Result<AdminClient, Failure> {
    let (directory, listed) = match &store.config {
        None => (store_dir(store), None),
        Some(path) => {
            let config = Config::load(path).map_err(|error| Failure::Usage(error.to_string()))?;
            (config.secrets, config.gateway.admin_listen)
        }
    };
    let token = read_token(&*seams.disks, &directory)?.ok_or_else(|| {
        Failure::Failed(format!(
            "{} does not exist: name the store's directory with --data, or its --config; a store started with \
             --memory has no users to manage",
            directory.join(ADMIN_TOKEN).display()
        ))
    })?;
    let address = admin.admin.clone().or(listed).unwrap_or_else(|| ADMIN_DEFAULT.to_string());
    Ok(AdminClient { seams, address, token, authority: admin.admin_ca.clone() })
}

fn secret_from_stdin() -> Result<String, Failure> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock().take(1024);
    input.read_line(&mut line).map_err(|error| Failure::Failed(format!("read standard input: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

fn show(as_json: bool, value: &Value, text: fn(&Value) -> String) -> Result<(), Failure> {
    let shown = if as_json { format!("{value}\n") } else { text(value) };
    std::io::stdout()
        .write_all(shown.as_bytes())
        .map_err(|error| Failure::Failed(format!("write standard output: {error}")))
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn keys_text(value: &Value) -> String {
    format!(
        "user        {}\naccess key  {}\nsecret key  {}\n",
        word(value, "name"),
        word(value, "access_key"),
        word(value, "secret_key")
    )
}

fn hits_text(value: &Value) -> String {
    let line = |hit: &Value| {
        let (time, bytes) = (word(hit, "last_modified"), number(hit, "size"));
        // A name is one line, whatever is in it.
        let written = |letter: char| match letter.is_control() {
            true => letter.escape_unicode().to_string(),
            false => letter.to_string(),
        };
        let key: String = word(hit, "key").chars().map(written).collect();
        let place = hit["cluster"].as_str().map(|cluster| format!("{cluster}:")).unwrap_or_default();
        format!("{time}  {bytes:>12}  {place}{}/{key}\n", word(hit, "bucket"))
    };
    let mut text: String = items(value, "hits").iter().map(line).collect();
    for cluster in items(value, "not_answered").iter().filter_map(Value::as_str) {
        text.push_str(&format!("the cluster {cluster} did not answer\n"));
    }
    if let Some(token) = value["continuation_token"].as_str() {
        text.push_str(&format!("there may be more: --continuation-token {token}\n"));
    }
    text
}

fn quota_text(value: &Value) -> String {
    let line = |what: &str| {
        let bound = value["quota"][what].as_u64().map_or("no bound".to_string(), |bound| bound.to_string());
        format!("{what:<8} {} of {bound}\n", number(&value["counted"], what))
    };
    line("objects") + &line("bytes")
}

fn users_text(value: &Value) -> String {
    let line = |user: &Value| {
        let keys: Vec<&str> = items(user, "access_keys").iter().filter_map(Value::as_str).collect();
        format!("{}\t{}\n", word(user, "name"), keys.join(" "))
    };
    items(value, "users").iter().map(line).collect()
}

fn status_text(value: &Value) -> String {
    let mut text = format!(
        "version      {}\nleader       {}\nbuckets      {}\nobjects      {}\nbytes        {}\nuploads      {}\n\
         copies owed  {}\nto verify    {}\nto collect   {}\ninline bytes {}\nlayout       {}\n\n\
         node  address  version  copies owed  to verify  zone\n",
        word(value, "version"),
        value.get("leader").filter(|leader| !leader.is_null()).map_or("-".to_string(), Value::to_string),
        number(value, "buckets"),
        number(value, "objects"),
        number(value, "bytes"),
        number(value, "uploads"),
        number(value, "copies_owed"),
        number(value, "partitions_to_verify"),
        number(value, "garbage"),
        number(value, "inline_bytes"),
        number(value, "layout"),
    );
    for node in items(value, "nodes") {
        let zone = word(node, "zone");
        text.push_str(&format!(
            "{}  {}  {}  {}  {}  {}\n",
            number(node, "id"),
            word(node, "address"),
            word(node, "version"),
            number(node, "copies_owed"),
            number(node, "partitions_to_verify"),
            if zone.is_empty() { "-" } else { zone },
        ));
    }
    for node in items(value, "nodes") {
        let index = &node["search_index"];
        if index["enabled"] == json!(true) {
            text.push_str(&format!(
                "index {}: {}, {} names, {} entries behind, {} MiB\n",
                number(node, "id"),
                if index["whole"] == json!(true) { "whole" } else { "being built" },
                number(index, "names"),
                number(index, "entries_behind"),
                number(index, "bytes") >> 20
            ));
        }
    }
    for disk in items(value, "disks") {
        text.push_str(&format!(
            "disk {}: {} MiB free of {} MiB\n",
            word(disk, "path"),
            number(disk, "free_bytes") >> 20,
            number(disk, "total_bytes") >> 20
        ));
    }
    text
}
