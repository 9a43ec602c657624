//! Copies of buckets in other clusters, version by version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::clients::{Everywhere, FIXED, MIRROR, REPLICA};
use super::operator::{ask, gateway_of};
use super::plan::{Cluster, Machine};
use super::shared::{Promotion, Shared};
use super::stories::AFTERWARDS;
use crate::client::Request;
use crate::sim::random::SimRandom;
use crate::sim::workload::Ended;
use crate::worker::Scene as _;

/// A key that nobody may write.
const FENCED: &str = "fenced";

/// All versions of a bucket by key, the newest first: tag, bytes, time and id, or that it is a delete marker, when it was set,
/// and its id.
pub type Versions = BTreeMap<String, Vec<String>>;

/// A copy, its bucket and its source.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    /// Its bucket.
    pub bucket: &'static str,
    /// Where the source is at home.
    pub home: Cluster,
    /// Where the copy is.
    pub at: Cluster,
}

/// The copies of a plan.
pub fn copies(shared: &Shared) -> [Copied; 2] {
    let plan = shared.plan();
    let copied = |bucket, home: Cluster| Copied { bucket, home, at: home.others()[0] };
    [copied(MIRROR, plan.mirrored), copied(REPLICA, plan.replicated)]
}

/// What a bucket has, as its gateway says; `None`: it does not say.
pub async fn versions(owner: &Everywhere, gateway: Machine, bucket: &str) -> Option<Versions> {
    let mut found = Versions::new();
    let mut markers: Option<(String, String)> = None;
    loop {
        let mut request = Request::bucket("GET", bucket).flag("versions");
        if let Some((key, version)) = &markers {
            request = request.query("key-marker", key).query("version-id-marker", version);
        }
        let answer = owner.send(gateway, request).await.filter(|answer| answer.status == 200)?;
        let xml = answer.xml().ok()?;
        for child in &xml.children {
            let what = match child.name.as_str() {
                "Version" => format!("{} {}", child.text_of("ETag"), child.text_of("Size")),
                "DeleteMarker" => "marker".to_string(),
                _ => continue,
            };
            let version = format!("{what} {} {}", child.text_of("LastModified"), child.text_of("VersionId"));
            found.entry(child.text_of("Key").to_string()).or_default().push(version);
        }
        if xml.text_of("IsTruncated") != "true" {
            return Some(found);
        }
        markers =
            Some((xml.text_of("NextKeyMarker").to_string(), xml.text_of("NextVersionIdMarker").to_string()));
    }
}

/// Whether of each key the first has the oldest versions of the second and nothing else. An error says what differs.
pub fn is_behind(copy: &Versions, source: &Versions) -> Result<(), String> {
    let nothing = Vec::new();
    for (key, versions) in copy {
        let there = source.get(key).unwrap_or(&nothing);
        if !there.ends_with(versions) {
            return Err(format!("{key}: {versions:?} are not the oldest of {there:?}"));
        }
    }
    Ok(())
}

/// How many versions there are.
fn count(versions: &Versions) -> usize {
    versions.values().map(Vec::len).sum()
}

/// What the copy has and what its source had a moment later, without what is not copied.
pub async fn both(shared: &Shared, copied: Copied) -> Option<(Versions, Versions)> {
    let read = async |at: Cluster, bucket: &str| {
        let owner = Everywhere::of(shared.plan(), at);
        let mut found = versions(&owner, gateway_of(at), bucket).await?;
        found.remove(AFTERWARDS);
        if copied.bucket == REPLICA {
            // It was there before the rule.
            found.remove(FIXED);
            // Others write to replicas, too: they have ids of their own.
            for version in found.values_mut().flatten() {
                version.truncate(version.rfind(' ').unwrap_or(0));
            }
        }
        Some(found)
    };
    let copy = read(copied.at, copied.bucket).await?;
    let source = read(copied.home, &copied.home.bucket()).await?;
    Some((copy, source))
}

/// Looks again and again whether a copy is ahead of its source.
pub async fn watch(shared: Arc<Shared>, copied: Copied) -> Ended {
    let random = SimRandom::new(shared.plan().seed, copied.bucket);
    loop {
        sleep(Duration::from_millis(random.between(500, 2_500))).await;
        let Some((copy, source)) = both(&shared, copied).await else { continue };
        shared.note(&format!("{} has {} of {} versions", copied.bucket, count(&copy), count(&source)));
        if let Err(why) = is_behind(&copy, &source) {
            shared.violate(format!("{} is ahead of its source, or another one: {why}", copied.bucket));
        }
        if count(&copy) < count(&source) {
            shared.reach("a copy was behind its source");
        }
    }
}

/// Whether a copy has all that its source has. One that was promoted without its home need not: but the home is read-only
/// when it is back, and knows of all that the copy lacks.
pub async fn is_whole(shared: &Shared, copied: Copied) -> Result<(), String> {
    let (copy, source) = both(shared, copied).await.ok_or("no answer")?;
    is_behind(&copy, &source)?;
    let promotion = shared.promotion().filter(|_| copied.bucket == MIRROR);
    if let Some(promotion) = promotion {
        is_superseded(shared, copied, count(&source) - count(&copy)).await?;
        if promotion == Promotion::Lost {
            return Ok(());
        }
    }
    if copy == source {
        return Ok(());
    }
    let differs = source.iter().find(|(key, versions)| copy.get(*key) != Some(versions));
    let copy = differs.map(|(key, _)| (key, copy.get(key)));
    Err(format!("{} lacks of {differs:?}: {copy:?}", copied.bucket))
}

/// Whether nobody writes to the home of a promoted copy, which says that the copy lacks so many versions, or more changes.
async fn is_superseded(shared: &Shared, copied: Copied, lacking: usize) -> Result<(), String> {
    let (home, bucket) = (gateway_of(copied.home), copied.home.bucket());
    let owner = Everywhere::of(shared.plan(), copied.home);
    let put = Request::object("PUT", &bucket, FENCED).body("too late");
    let answer = owner.send(home, put).await.ok_or("no answer")?;
    if answer.status != 403 {
        return Err(format!("the home of a promoted copy is written to: {}", answer.describe()));
    }
    let said = ask(home, "GET", &format!("/overlay/superseded/{bucket}"), &Value::Null).await;
    let said = said.map_err(|failed| format!("{bucket} is not superseded: {failed:?}"))?;
    let missed = said["missed"].as_array().map_or(0, Vec::len);
    if said["by"] != MIRROR || said["cluster"] != copied.at.name() || missed < lacking {
        return Err(format!("the copy lacks {lacking} versions: {said}"));
    }
    shared.reach("the home of a promoted copy was read-only");
    Ok(())
}
