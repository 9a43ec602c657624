//! Searches over all clusters of the overlay: each answers a page of its own, which are put together in order.
//!
//! What always holds: a cluster tells only what its own rules let the user see, in buckets where the asking cluster may act
//! for the user. A cluster that does not answer in time is named in the answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::meta::names::{ClusterName, UserName};
use fabric::env::Env;
use futures::future::join_all;
use storage::index::wire::Hit;
use tokio::time::timeout;

use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::search::{Asked, Found, Looking, Searching, Shown};
use crate::overlay::Overlay;
use crate::overlay::link::{Link, LinkError};
use crate::overlay::wire::{SearchedHit, SearchedPage};

/// Other clusters answer within this.
const DEADLINE: Duration = Duration::from_secs(2);
/// How tokens of pages of all clusters begin.
const TOKEN_HEAD: &str = "all-";
const WRONG_TOKEN: &str = "The continuation token is not one of this search";

/// Where each cluster goes on; this one under no name. One that is missing has no more.
type Places = BTreeMap<String, Option<String>>;

/// What one cluster answered.
struct Source {
    /// Its name; empty: this one.
    name: String,
    /// Hits, each with where a page behind it begins.
    hits: VecDeque<(Shown, String)>,
    /// Where the page began.
    began: Option<String>,
    /// Behind the last hit that was taken.
    taken: Option<String>,
    /// Where the next page begins.
    next: Option<String>,
}

/// A page of hits: of one bucket, or of all here and, where somebody asks, in other clusters.
pub async fn find_here_or_everywhere(cx: &Context, asked: &Asked) -> S3Result<Found> {
    match cx.others().filter(|_| cx.bucket.is_none() && cx.access.user().is_ok()) {
        Some(overlay) => find(cx, overlay, asked).await,
        None => {
            // Where one bucket is asked, it was granted before.
            let looking = Looking { access: &cx.access, bucket: cx.bucket.clone(), granted: &|_| true };
            cx.search.find(&*cx.meta, &*cx.env, &looking, asked, asked.token()).await
        }
    }
}

/// A page of hits of all clusters.
async fn find(cx: &Context, overlay: &Arc<Overlay>, asked: &Asked) -> S3Result<Found> {
    let user = cx.access.user()?;
    for name in asked.clusters() {
        if overlay.cluster(name.as_str()).is_none() {
            return Err(S3Error::argument("as-of", name.as_str(), "No cluster of this name is known here."));
        }
    }
    let places = match asked.token() {
        Some(token) => Some(places(token)?),
        None => None,
    };
    let begin = |name: &str| match &places {
        Some(places) => places.get(name).cloned(),
        None => Some(None),
    };
    let granted = |bucket: &_| overlay.permits(user, None, Some(bucket));
    let looking = Looking { access: &cx.access, bucket: None, granted: &granted };
    let mut sources = Vec::new();
    let mut index = 0;
    let here = async {
        let Some(began) = begin("") else { return Ok(None) };
        let found = cx.search.find(&*cx.meta, &*cx.env, &looking, asked, began.as_deref()).await?;
        S3Result::Ok(Some((found.index(), own(&*cx.env, &cx.search, user, asked, found, began))))
    };
    let links = overlay.links().into_iter().filter_map(|link| Some((begin(link.name.as_str())?, link)));
    let there = links.map(|(began, link)| of_cluster(cx, overlay, asked, link, began));
    let (here, there) = tokio::join!(here, join_all(there));
    if let Some((at, source)) = here? {
        index = at;
        sources.push(source);
    }
    let mut silent = Vec::new();
    for answer in there {
        match answer {
            Ok(source) => sources.push(source),
            Err((cluster, LinkError::Refused(status, why))) if status.is_client_error() => {
                tracing::info!(%cluster, why, "a search was refused");
                silent.push(cluster);
            }
            Err((cluster, _)) => silent.push(cluster),
        }
    }
    let (hits, token) = together(asked, sources);
    Ok(Found::of_all(index, hits, token, silent))
}

fn own(
    env: &dyn Env,
    search: &Searching,
    user: &UserName,
    asked: &Asked,
    found: Found,
    began: Option<String>,
) -> Source {
    let (hits, next) = found.into_page();
    let behind = |hit: &Hit| search.behind(env, user.as_str(), asked, hit);
    let hits = hits.into_iter().map(|shown| (shown.clone(), behind(&shown.hit))).collect();
    Source { name: String::new(), hits, began, taken: None, next }
}

async fn of_cluster(
    cx: &Context,
    overlay: &Overlay,
    asked: &Asked,
    link: Arc<Link>,
    began: Option<String>,
) -> Result<Source, (ClusterName, LinkError)> {
    let failed = |error| (link.name.clone(), error);
    let late = || LinkError::Away(link.name.clone(), "no answer in time".to_string());
    let user = cx.access.user().ok().zip(overlay.name());
    let Some((user, name)) = user else { return Err(failed(late())) };
    let question = asked.for_others(&link.name, user.at_home_in(&name), cx.access.source(), began.clone());
    let answer = timeout(DEADLINE, link.post::<SearchedPage>("search", &question)).await;
    let page = answer.unwrap_or_else(|_| Err(late())).map_err(failed)?;
    let hits = page.hits.into_iter().filter_map(|hit| read(&link.name, &name, hit)).collect();
    Ok(Source { name: link.name.to_string(), hits, began, taken: None, next: page.continuation_token })
}

/// A hit of another cluster, by the names that users have here.
fn read(cluster: &ClusterName, here: &ClusterName, hit: SearchedHit) -> Option<(Shown, String)> {
    let shown = Shown {
        bucket: hit.bucket,
        owner: hit.owner.seen_in(here),
        cluster: Some(cluster.clone()),
        hit: Hit {
            bucket: 0,
            key: hit.key,
            bytes: hit.size,
            modified: hit.modified_ms,
            etag: hit.etag.parse().ok()?,
            storage_class: hit.storage_class,
            content_type: hit.content_type,
        },
    };
    Some((shown, hit.behind))
}

/// The hits of a page for another cluster.
pub fn page(
    env: &dyn Env,
    search: &Searching,
    (user, here): (&UserName, &ClusterName),
    asked: &Asked,
    found: Found,
) -> SearchedPage {
    let (hits, continuation_token) = found.into_page();
    let told = |shown: Shown| SearchedHit {
        behind: search.behind(env, user.as_str(), asked, &shown.hit),
        bucket: shown.bucket,
        owner: shown.owner.at_home_in(here),
        key: shown.hit.key,
        size: shown.hit.bytes,
        modified_ms: shown.hit.modified,
        etag: shown.hit.etag.to_string(),
        storage_class: shown.hit.storage_class,
        content_type: shown.hit.content_type,
    };
    SearchedPage { hits: hits.into_iter().map(told).collect(), continuation_token }
}

/// The first hits of all, and the token of those behind them. A source of which nothing is here, though it has more, ends
/// the page: its next hit might be the next of all.
fn together(asked: &Asked, mut sources: Vec<Source>) -> (Vec<Shown>, Option<String>) {
    let mut hits = Vec::new();
    while hits.len() < asked.limit() {
        if sources.iter().any(|source| source.hits.is_empty() && source.next.is_some()) {
            break;
        }
        let heads = sources.iter_mut().filter(|source| !source.hits.is_empty());
        let first = heads.reduce(|one, other| match (one.hits.front(), other.hits.front()) {
            (Some((a, _)), Some((b, _))) if asked.is_before(b, a) => other,
            _ => one,
        });
        let Some(source) = first else { break };
        if let Some((shown, behind)) = source.hits.pop_front() {
            hits.push(shown);
            source.taken = Some(behind);
        }
    }
    let rest = |source: Source| match (source.hits.is_empty(), source.next) {
        (true, None) => None,
        (true, next) => Some((source.name, next)),
        (false, _) => Some((source.name, source.taken.or(source.began))),
    };
    let places: Places = sources.into_iter().filter_map(rest).collect();
    let token = (!places.is_empty()).then(|| {
        let json = serde_json::to_vec(&places).unwrap_or_default();
        format!("{TOKEN_HEAD}{}", URL_SAFE_NO_PAD.encode(json))
    });
    (hits, token)
}

fn places(token: &str) -> S3Result<Places> {
    let wrong = || S3Error::argument("continuation-token", token, WRONG_TOKEN);
    let text = token.strip_prefix(TOKEN_HEAD).ok_or_else(wrong)?;
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    serde_json::from_slice(&json).map_err(|_| wrong())
}

/// What a search of another cluster cannot be.
pub fn malformed(why: &str) -> S3Error {
    Code::InvalidRequest.says(format!("The search of another cluster cannot be read: {why}."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::Etag;

    use super::super::request::Query;
    use super::*;

    fn shown(cluster: Option<&str>, key: &str, bytes: u64) -> (Shown, String) {
        let hit = Hit {
            bucket: 1,
            key: key.to_string(),
            bytes,
            modified: 0,
            etag: Etag::Md5([0; 16]),
            storage_class: None,
            content_type: None,
        };
        let cluster = cluster.map(|cluster| cluster.parse().unwrap());
        let (bucket, owner) = ("photos".parse().unwrap(), "anna".parse().unwrap());
        (Shown { bucket, owner, cluster, hit }, format!("behind {key}"))
    }

    fn source(name: &str, hits: &[(&str, u64)], next: Option<&str>) -> Source {
        let cluster = Some(name).filter(|name| !name.is_empty());
        Source {
            name: name.to_string(),
            hits: hits.iter().map(|(key, bytes)| shown(cluster, key, *bytes)).collect(),
            began: Some(format!("{name} began")),
            taken: None,
            next: next.map(str::to_string),
        }
    }

    fn merged(asked: &str, sources: Vec<Source>) -> (Vec<String>, Option<Places>) {
        let asked = Asked::parse(&Query::parse(asked).unwrap(), "here").unwrap();
        let (hits, token) = together(&asked, sources);
        let keys = hits.into_iter().map(|shown| shown.hit.key).collect();
        (keys, token.map(|token| places(&token).unwrap()))
    }

    #[test]
    fn pages_are_put_together_in_order() {
        let sources = || {
            vec![
                source("", &[("b", 1), ("c", 5)], None),
                source("east", &[("a", 2), ("d", 9)], Some("more")),
                source("west", &[("e", 3)], None),
            ]
        };
        let (keys, token) = merged("q=x&max-keys=3", sources());
        assert_eq!(keys, ["b", "c", "a"]);
        let token = token.unwrap();
        assert_eq!(token.get(""), None, "this cluster has no more");
        assert_eq!(token["east"].as_deref(), Some("behind a"));
        assert_eq!(token["west"].as_deref(), Some("west began"), "nothing of it was taken");

        let (keys, _) = merged("q=x&sort=size", sources());
        // The east may have something between 9 and what comes then.
        assert_eq!(keys, ["b", "a", "e", "c", "d"]);
        let (keys, token) = merged("q=x", sources());
        assert_eq!(keys, ["b", "c", "a", "d"]);
        assert_eq!(token.unwrap()["east"].as_deref(), Some("more"));
        let (keys, token) = merged("q=x", vec![source("", &[("b", 1)], None)]);
        assert_eq!((keys.len(), token), (1, None));
    }

    #[test]
    fn tokens_of_other_kinds_are_refused() {
        for bad in ["", "x", "all-", "all-!", "all-AAAA", "all-W10"] {
            assert_eq!(places(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
