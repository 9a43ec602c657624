//! What operators and owners do while faults come: clusters that leave or are removed and come back, buckets of one name
//! on both sides of a cut, and the promotion of a copy.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::clients::{Everywhere, MIRROR};
use super::copies;
use super::operator::{self, Failed, gateway_of};
use super::plan::{CLUSTERS, Cluster};
use super::shared::{Promotion, Shared, now};
use crate::client::Request;
use crate::sim::workload::Ended;
use crate::worker::Scene as _;

/// The name that two clusters give.
pub const TWIN: &str = "twin";
/// Its one key.
pub const TWIN_KEY: &str = "k";
/// What is written to the mirror when it is one no more.
pub const AFTERWARDS: &str = "written-afterwards";
/// A cluster that does not answer is known to be away after this.
const AWAY: Duration = Duration::from_millis(2_500);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// A cluster leaves, stays away for some time, and joins again where another one invites it.
pub async fn leave(
    shared: Arc<Shared>,
    name: String,
    (cluster, inviting): (Cluster, Cluster),
    away: Duration,
) -> Ended {
    operator::insist(gateway_of(cluster), "DELETE", "/overlay", &Value::Null).await;
    shared.note(&format!("{cluster} left"));
    sleep(away).await;
    come_back(&shared, inviting, cluster).await;
    shared.reach("a cluster that left joined again");
    shared.end(&name);
    Ok(())
}

/// A cluster is removed by another one, which hears of it from the third all the time; then it is invited again.
pub async fn remove(
    shared: Arc<Shared>,
    name: String,
    (by, cluster): (Cluster, Cluster),
    away: Duration,
) -> Ended {
    let path = format!("/overlay/members/{cluster}");
    shared.remove(by, cluster);
    let is_removed = loop {
        match operator::ask(gateway_of(by), "DELETE", &path, &Value::Null).await {
            Ok(_) => break true,
            // It left before, or this is the second try.
            Err(Failed::Refused(409, _)) => break false,
            Err(_) => sleep(PAUSE).await,
        }
    };
    shared.note(&format!("{by} removed {cluster}: {is_removed}"));
    sleep(away).await;
    let report = operator::insist(gateway_of(by), "GET", "/overlay", &Value::Null).await;
    let members = report["clusters"].as_array().cloned().unwrap_or_default();
    let is_back = members.iter().any(|member| member["name"] == cluster.name() && member["standing"] == "in");
    // Who left meanwhile, and joined again, knows nobody but those it hears of.
    let may_be_back = shared.has_invited(by, cluster) || shared.weather().are_moving(&[by], now());
    if is_removed && is_back && !may_be_back {
        shared.violate(format!("{cluster}, which {by} removed, is back there by itself"));
    }
    come_back(&shared, by, cluster).await;
    shared.reach("a cluster that was removed joined again");
    shared.end(&name);
    Ok(())
}

/// A cluster joins again; it is as before when all know it and may do what they could.
async fn come_back(shared: &Shared, inviting: Cluster, cluster: Cluster) {
    shared.invite(inviting, cluster);
    operator::join(inviting, cluster).await;
    shared.note(&format!("{cluster} joined {inviting} again"));
    for gateway in shared.plan().gateways() {
        operator::sees(gateway, &gateway.cluster().others()).await;
    }
    operator::grant_all().await;
    shared.note(&format!("{cluster} is as before"));
    shared.change_weather(|weather| weather.moves(cluster, true, now()));
}

/// Two clusters make a bucket of one name, each unseen by the other; or the second one hears that the name is taken.
pub async fn twins(shared: Arc<Shared>, name: String, clusters: [Cluster; 2]) -> Ended {
    sleep(AWAY).await;
    for cluster in clusters {
        let owner = Everywhere::of(shared.plan(), cluster);
        let gateway = gateway_of(cluster);
        owner.insist(gateway, Request::bucket("PUT", TWIN), &[200, 409]).await;
        // Whose it is: a first try may have been done whose answer was lost.
        let head = owner.insist(gateway, Request::bucket("HEAD", TWIN), &[200, 403, 409]).await;
        if head.status != 200 || head.header("x-amz-bucket-region") != Some(cluster.name()) {
            shared.note(&format!("{cluster} hears that the name is taken"));
            shared.reach("the name of a bucket of another cluster was refused");
            continue;
        }
        let put = Request::object("PUT", TWIN, TWIN_KEY).body(twin_body(cluster));
        owner.insist(gateway, put, &[200]).await;
        shared.note(&format!("{cluster} made a twin"));
        shared.made_twin(cluster);
    }
    shared.end(&name);
    Ok(())
}

/// What each of two buckets of one name has.
pub fn twin_body(cluster: Cluster) -> String {
    format!("the twin in the {cluster}")
}

/// The mirror becomes a bucket like any other. With its home it has all that was there when that began.
pub async fn promote(shared: Arc<Shared>, name: String, home_is_lost: bool) -> Ended {
    let plan = shared.plan();
    let home = plan.mirrored;
    let [mirroring, _] = home.others();
    if home_is_lost {
        sleep(AWAY).await;
    }
    let at_home = (Everywhere::of(plan, home), gateway_of(home));
    let before = copies::versions(&at_home.0, at_home.1, &home.bucket()).await;
    let wanted = json!({ "bucket": MIRROR, "home_is_lost": home_is_lost });
    let is_promoted = loop {
        match operator::ask(gateway_of(mirroring), "POST", "/overlay/promotions", &wanted).await {
            Ok(_) => break true,
            Err(Failed::Refused(409, why)) if why.contains("follows no") => break true,
            Err(Failed::NoAnswer) => {}
            Err(Failed::Refused(status, why)) => {
                shared.note(&format!("the mirror is not promoted: {status} {why}"));
                if !home_is_lost {
                    break false;
                }
            }
        }
        sleep(PAUSE).await;
    };
    if is_promoted {
        shared.note("the mirror is promoted");
        shared.promote(if home_is_lost { Promotion::Lost } else { Promotion::Whole });
        let owner = Everywhere::of(plan, mirroring);
        let put = Request::object("PUT", MIRROR, AFTERWARDS).body("mine");
        owner.insist(gateway_of(mirroring), put, &[200]).await;
        if !home_is_lost && let Some(before) = before {
            has_all(&shared, &owner, mirroring, &before).await;
        }
        shared.reach(if home_is_lost {
            "a copy was promoted without its home"
        } else {
            "a copy was promoted with all that its home had"
        });
    }
    shared.end(&name);
    Ok(())
}

/// The promoted mirror has all versions that its home showed before.
async fn has_all(shared: &Shared, owner: &Everywhere, mirroring: Cluster, before: &copies::Versions) {
    let copy = loop {
        match copies::versions(owner, gateway_of(mirroring), MIRROR).await {
            Some(copy) => break copy,
            None => sleep(PAUSE).await,
        }
    };
    if let Err(why) = copies::is_behind(before, &copy) {
        shared.violate(format!("a mirror was promoted without what its home had: {why}"));
    }
}

/// Each bucket of one name is reached by everybody: plainly in its home, and by its long name elsewhere.
pub async fn find_twins(shared: &Shared) -> Result<(), String> {
    let homes = shared.twins();
    for gateway in shared.plan().gateways() {
        for home in &homes {
            let owner = Everywhere::of(shared.plan(), *home);
            let is_plain = gateway.cluster() == *home || homes.len() == 1;
            let bucket = if is_plain { TWIN.to_string() } else { format!("{TWIN}--{home}") };
            let get = Request::object("GET", &bucket, TWIN_KEY);
            let answer = owner.send(gateway, get).await.ok_or("no answer")?;
            if answer.status != 200 || answer.body != twin_body(*home).as_bytes() {
                return Err(format!("{bucket} at {gateway}: {}", answer.describe()));
            }
        }
        if homes.len() == 2 && !homes.contains(&gateway.cluster()) {
            let owner = Everywhere::of(shared.plan(), homes[0]);
            let answer =
                owner.send(gateway, Request::object("GET", TWIN, TWIN_KEY)).await.ok_or("no answer")?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if answer.status != 409 || homes.iter().any(|home| !text.contains(&format!("{TWIN}--{home}"))) {
                return Err(format!("{TWIN} at {gateway}: {}", answer.describe()));
            }
            shared.reach("a name of two buckets was a conflict in the third cluster");
        }
        if !homes.is_empty() && !homes.contains(&gateway.cluster()) {
            let other = Everywhere::of(shared.plan(), gateway.cluster());
            let answer = other.send(gateway, Request::bucket("PUT", TWIN)).await.ok_or("no answer")?;
            if answer.status != 409 {
                return Err(format!(
                    "{gateway} lets make a bucket whose name is taken: {}",
                    answer.describe()
                ));
            }
        }
    }
    Ok(())
}

/// The names under which the user of a cluster sees its buckets at the gateways of another one, in order.
pub fn names_of(shared: &Shared, user: Cluster, at: Cluster) -> Vec<String> {
    let plan = shared.plan();
    let mut names = vec![user.bucket()];
    names.extend((plan.mirrored.others()[0] == user).then(|| MIRROR.to_string()));
    names.extend((plan.replicated.others()[0] == user).then(|| super::clients::REPLICA.to_string()));
    let homes = shared.twins();
    if homes.contains(&user) {
        let is_plain = user == at || homes.len() == 1;
        names.push(if is_plain { TWIN.to_string() } else { format!("{TWIN}--{user}") });
    }
    names.sort();
    names
}

/// The buckets of all clusters are known once each, by lists and by catalogs.
pub async fn list_all(shared: &Shared) -> Result<(), String> {
    for gateway in shared.plan().gateways() {
        for user in CLUSTERS {
            let names = listed(shared, gateway, user).await.ok_or("no list")?;
            let wanted = names_of(shared, user, gateway.cluster());
            if names != wanted {
                return Err(format!("{gateway} lists {names:?} for the user of {user}, not {wanted:?}"));
            }
        }
        let catalog = operator::ask(gateway, "GET", "/overlay/catalog", &Value::Null).await;
        let catalog = catalog.map_err(|failed| format!("no catalog: {failed:?}"))?;
        let rows = catalog["buckets"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let mut told: Vec<_> = rows.iter().map(|row| (text(&row["cluster"]), text(&row["name"]))).collect();
        told.sort();
        let of = |home: Cluster| {
            names_of(shared, home, home).into_iter().map(move |name| (home.to_string(), name))
        };
        let mut wanted: Vec<_> = CLUSTERS.into_iter().flat_map(of).collect();
        wanted.sort();
        if told != wanted {
            return Err(format!("the catalog of {gateway} is {told:?}, not {wanted:?}"));
        }
    }
    Ok(())
}

/// The buckets that the user of a cluster sees at a gateway, in order of name.
pub async fn listed(shared: &Shared, gateway: super::plan::Machine, user: Cluster) -> Option<Vec<String>> {
    let answer = Everywhere::of(shared.plan(), user).send(gateway, Request::new("GET", "/")).await?;
    if answer.status != 200 {
        return None;
    }
    let xml = answer.xml().ok()?;
    let mut names: Vec<String> =
        xml.child("Buckets")?.all("Bucket").map(|bucket| bucket.text_of("Name").to_string()).collect();
    names.sort();
    Some(names)
}
