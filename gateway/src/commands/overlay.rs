//! `fluffy-gateway overlay …`.

use consensus::meta::names::{BucketName, ClusterName};
use fabric::Seams;
use gateway::config::{OverlayAction, StalenessAction, StoreArgs};
use http::Method;
use serde_json::{Value, json};

use super::{client, in_path, items, number, show, word};
use crate::Failure;

/// Does what the command says.
pub(super) async fn run(seams: Seams, store: &StoreArgs, action: &OverlayAction) -> Result<(), Failure> {
    let (OverlayAction::Invite { admin, .. }
    | OverlayAction::Join { admin, .. }
    | OverlayAction::List { admin, .. }
    | OverlayAction::Catalog { admin, .. }
    | OverlayAction::Follow { admin, .. }
    | OverlayAction::Promote { admin, .. }
    | OverlayAction::Superseded { admin, .. }
    | OverlayAction::Reopen { admin, .. }
    | OverlayAction::Staleness {
        action:
            StalenessAction::Set { admin, .. }
            | StalenessAction::Show { admin, .. }
            | StalenessAction::Clear { admin, .. },
    }
    | OverlayAction::Leave { admin }
    | OverlayAction::Remove { admin, .. }
    | OverlayAction::Grant { admin, .. }
    | OverlayAction::Revoke { admin, .. }) = action;
    let client = client(seams, store, admin)?;
    let nothing = |_: &Value| String::new();
    let (method, path, document, as_json, text): (_, _, _, _, fn(&Value) -> String) = match action {
        OverlayAction::Invite { seconds, json, .. } => {
            let document = json!({ "seconds": seconds });
            (Method::POST, "/overlay/invites".to_string(), Some(document), *json, token_text)
        }
        OverlayAction::Join { token, .. } => {
            let document = json!({ "token": token });
            let text = |value: &Value| format!("joined {}\n", word(value, "joined"));
            (Method::POST, "/overlay/members".to_string(), Some(document), false, text)
        }
        OverlayAction::List { json, .. } => (Method::GET, "/overlay".to_string(), None, *json, clusters_text),
        OverlayAction::Catalog { json, .. } => {
            (Method::GET, "/overlay/catalog".to_string(), None, *json, catalog_text)
        }
        OverlayAction::Follow { source, bucket, .. } => {
            let document = json!({ "source": source, "bucket": bucket });
            (Method::POST, "/overlay/follows".to_string(), Some(document), false, nothing)
        }
        OverlayAction::Promote { bucket, home_is_lost, .. } => {
            let document = json!({ "bucket": bucket, "home_is_lost": home_is_lost });
            (Method::POST, "/overlay/promotions".to_string(), Some(document), false, promoted_text)
        }
        OverlayAction::Superseded { bucket, json, .. } => {
            let path = format!("/overlay/superseded/{}", in_path::<BucketName>(bucket)?);
            (Method::GET, path, None, *json, superseded_text)
        }
        OverlayAction::Reopen { bucket, .. } => {
            let path = format!("/overlay/superseded/{}", in_path::<BucketName>(bucket)?);
            (Method::DELETE, path, None, false, nothing)
        }
        OverlayAction::Staleness { action } => {
            let (method, bucket, document) = match action {
                StalenessAction::Set { seconds, bucket, .. } => {
                    (Method::PUT, bucket, Some(json!({ "seconds": seconds })))
                }
                StalenessAction::Show { bucket, .. } => (Method::GET, bucket, None),
                StalenessAction::Clear { bucket, .. } => (Method::DELETE, bucket, None),
            };
            let path = format!("/buckets/{}/staleness", in_path::<BucketName>(bucket)?);
            let as_json = matches!(action, StalenessAction::Show { json: true, .. });
            (method, path, document, as_json, staleness_text)
        }
        OverlayAction::Leave { .. } => (Method::DELETE, "/overlay".to_string(), None, false, nothing),
        OverlayAction::Remove { cluster, .. } => {
            let path = format!("/overlay/members/{}", in_path::<ClusterName>(cluster)?);
            (Method::DELETE, path, None, false, nothing)
        }
        OverlayAction::Grant { cluster, user, bucket, .. } => {
            let document = json!({ "cluster": cluster, "user": user, "buckets": bucket });
            (Method::POST, "/overlay/grants".to_string(), Some(document), false, nothing)
        }
        OverlayAction::Revoke { cluster, user, .. } => {
            let document = json!({ "cluster": cluster, "user": user });
            (Method::DELETE, "/overlay/grants".to_string(), Some(document), false, nothing)
        }
    };
    show(as_json, &client.call(method, &path, document.as_ref()).await?, text)
}

fn staleness_text(value: &Value) -> String {
    match value["seconds"].as_u64() {
        Some(seconds) => format!("{seconds} s\n"),
        None => "none\n".to_string(),
    }
}

fn promoted_text(value: &Value) -> String {
    let bucket = word(value, "bucket");
    let mut text = String::new();
    for one in items(value, "followed") {
        let source = word(one, "source");
        text.push_str(&match value["whole"] == json!(true) {
            true => format!("{bucket} has all of {source} and takes its place; nobody writes there any more\n"),
            false => format!(
                "{bucket} takes the place of {source}; its last change there was {} s ago. What came later is not in \
                 {bucket}; if the cluster of {source} comes back, it is read-only there, and overlay superseded lists it\n",
                number(one, "reached_seconds_ago")
            ),
        });
    }
    text
}

fn superseded_text(value: &Value) -> String {
    let mut text = format!("{}\n", superseded_line(value, items(value, "missed").len() as u64));
    for change in items(value, "missed") {
        let version = change["version"].as_str().unwrap_or("-");
        text.push_str(&format!("{}  {}  {version}\n", word(change, "kind"), word(change, "key")));
    }
    text
}

/// A bucket whose place was taken, and how much the other one does not have.
fn superseded_line(value: &Value, missed: u64) -> String {
    let least = if value["more"] == json!(true) { "at least " } else { "" };
    format!(
        "{} is read-only: {}/{} took its place, which lacks {least}{missed} changes of it",
        word(value, "bucket"),
        word(value, "cluster"),
        word(value, "by"),
    )
}

fn token_text(value: &Value) -> String {
    format!("{}\n", word(value, "token"))
}

fn clusters_text(value: &Value) -> String {
    let mut text = format!("this cluster is {} at {}\n", word(value, "name"), word(value, "address"));
    text.push_str(match value["mark_passed"].as_str() {
        Some("space") => "its disks are above their mark: new buckets go to clusters that offer room\n",
        Some(_) => "its gateway is above its mark: new buckets go to clusters that offer room\n",
        None => "",
    });
    text.push_str("\ncluster  state  gateways  buckets  objects  bytes  room  catalog of  via  addresses\n");
    for cluster in items(value, "clusters") {
        let state = match (word(cluster, "standing"), cluster["up"] == json!(true)) {
            ("in", true) => "up",
            ("in", false) => "away",
            (parted, _) => parted,
        };
        let age = cluster["catalog_age_ms"].as_u64();
        text.push_str(&format!(
            "{}  {state}  {}  {}  {}  {}  {}  {}  {}  {}\n",
            word(cluster, "name"),
            number(cluster, "gateways"),
            number(cluster, "buckets"),
            number(cluster, "objects"),
            number(cluster, "bytes"),
            if cluster["room"]["offered"] == json!(true) {
                number(&cluster["room"], "free_bytes").to_string()
            } else {
                "-".to_string()
            },
            age.map_or("-".to_string(), |age| format!("{} s ago", age / 1000)),
            word(cluster, "via"),
            items(cluster, "addresses").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        ));
    }
    for grant in items(value, "grants") {
        let buckets: Vec<&str> = items(grant, "buckets").iter().filter_map(Value::as_str).collect();
        let place = if buckets.is_empty() { "all buckets".to_string() } else { buckets.join(", ") };
        text.push_str(&format!("{} acts for {} in {place}\n", word(grant, "cluster"), word(grant, "user")));
    }
    for follow in items(value, "follows") {
        let state = match (follow["failure"].as_str(), follow["lag_ms"].as_u64()) {
            (Some(why), _) => why.to_string(),
            (None, Some(lag_ms)) => format!("{lag_ms} ms behind, {} events wait", number(follow, "waiting")),
            (None, None) => "another gateway copies".to_string(),
        };
        text.push_str(&format!(
            "{} follows {}/{}: {} versions, {state}\n",
            word(follow, "bucket"),
            word(follow, "cluster"),
            word(follow, "source"),
            number(follow, "objects"),
        ));
    }
    for one in items(value, "superseded") {
        text.push_str(&format!("{}\n", superseded_line(one, number(one, "missed"))));
    }
    for one in items(value, "promoted") {
        text.push_str(&format!(
            "{} took the place of {}/{}, whose cluster does not know yet: {}\n",
            word(one, "bucket"),
            word(one, "cluster"),
            word(one, "source"),
            one["failure"].as_str().unwrap_or("it is away"),
        ));
    }
    text
}

fn catalog_text(value: &Value) -> String {
    let mut text = "bucket  cluster  owner  objects  bytes  why here\n".to_string();
    for bucket in items(value, "buckets") {
        let state = match (bucket["up"] == json!(true), bucket["disputed"] == json!(true)) {
            (_, true) => "  (another cluster has one of this name)",
            (false, _) => "  (away)",
            (true, _) => "",
        };
        text.push_str(&format!(
            "{}  {}  {}  {}  {}  {}{state}\n",
            word(bucket, "name"),
            word(bucket, "cluster"),
            word(bucket, "owner"),
            number(bucket, "objects"),
            number(bucket, "bytes"),
            why_here(&bucket["placed"]),
        ));
    }
    text
}

fn why_here(placed: &Value) -> String {
    let via = word(placed, "via");
    match word(placed, "why") {
        "asked" => format!("asked for at {via}"),
        "space" => format!("{via} had too little space"),
        "load" => format!("{via} was too busy"),
        _ => "made here".to_string(),
    }
}
