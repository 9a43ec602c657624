//! What operators do: let clusters join, leave, be removed and come back, follow buckets and promote copies, by the admin
//! API of gateways.

use std::time::Duration;

use fabric::net::Net as _;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::machines::{ADMIN_TOKEN, USER};
use super::plan::{CLUSTERS, Cluster, Machine};
use crate::client::exchange_on;
use crate::sim::machines::ADMIN_PORT;
use crate::sim::seams::SimNet;

/// An operator waits so long for one answer: a promotion waits for its copy.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// Why something was not done.
#[derive(Debug)]
pub enum Failed {
    /// The gateway says no: status and words.
    Refused(u16, String),
    /// Nobody knows.
    NoAnswer,
}

/// Asks a gateway for something.
pub async fn ask(gateway: Machine, method: &str, path: &str, document: &Value) -> Result<Value, Failed> {
    let host = format!("{gateway}:{ADMIN_PORT}");
    let body = if document.is_null() { String::new() } else { document.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let asked = async {
        let stream = SimNet.connect(&host).await.ok()?;
        Some(exchange_on(stream, request.as_bytes(), method, false).await.ok()?.response)
    };
    let answer = timeout(PATIENCE, asked).await.ok().flatten().ok_or(Failed::NoAnswer)?;
    match answer.status {
        200..=299 => Ok(serde_json::from_slice(&answer.body).unwrap_or_default()),
        status => Err(Failed::Refused(status, String::from_utf8_lossy(&answer.body).into_owned())),
    }
}

/// The first gateway of a cluster.
pub fn gateway_of(cluster: Cluster) -> Machine {
    Machine::Gateway(cluster, 1)
}

/// Asks again and again until it is done.
pub async fn insist(gateway: Machine, method: &str, path: &str, document: &Value) -> Value {
    loop {
        match ask(gateway, method, path, document).await {
            Ok(answer) => return answer,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A cluster invites, and another one joins.
pub async fn join(inviting: Cluster, joining: Cluster) {
    loop {
        let invited = insist(gateway_of(inviting), "POST", "/overlay/invites", &json!({})).await;
        let token = json!({ "token": invited["token"] });
        if ask(gateway_of(joining), "POST", "/overlay/members", &token).await.is_ok() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Until a gateway sees all these clusters, and that they answer.
pub async fn sees(gateway: Machine, clusters: &[Cluster]) {
    loop {
        if let Ok(report) = ask(gateway, "GET", "/overlay", &Value::Null).await {
            let seen = report["clusters"].as_array().cloned().unwrap_or_default();
            let is_up = |cluster: &&Cluster| {
                let wanted = |seen: &&Value| seen["name"] == cluster.name();
                seen.iter().find(wanted).is_some_and(|seen| seen["up"] == true && seen["standing"] == "in")
            };
            if clusters.iter().filter(is_up).count() == clusters.len() {
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

/// A cluster lets others act for its user, as far as they are members.
pub async fn grant(cluster: Cluster, others: &[Cluster]) {
    for other in others {
        let granted = json!({ "cluster": other.name(), "user": USER });
        insist(gateway_of(cluster), "POST", "/overlay/grants", &granted).await;
    }
}

/// All grants that all clusters give each other, again where they ended.
pub async fn grant_all() {
    for cluster in CLUSTERS {
        grant(cluster, &cluster.others()).await;
    }
}

/// A bucket of a cluster follows one of another.
pub async fn follow(cluster: Cluster, source: &str, bucket: &str) {
    let followed = json!({ "source": source, "bucket": bucket });
    insist(gateway_of(cluster), "POST", "/overlay/follows", &followed).await;
}

/// The bucket of a cluster is written to again, if a copy took its place.
pub async fn reopen(cluster: Cluster) {
    let path = format!("/overlay/superseded/{}", cluster.bucket());
    while let Err(Failed::NoAnswer | Failed::Refused(500.., _)) =
        ask(gateway_of(cluster), "DELETE", &path, &Value::Null).await
    {
        sleep(PAUSE).await;
    }
}
