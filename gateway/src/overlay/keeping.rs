//! What other clusters told of their buckets is kept in the metadata, so that a gateway which begins while one of them is
//! away knows of its buckets, too. The gateway that copies keeps it; each reads it once.
//!
//! What always holds: what a cluster told is replaced by what it tells, and by nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consensus::client::ask;
use consensus::meta::command::Command;
use consensus::meta::model::ClusterMs;
use consensus::meta::names::{BucketName, ClusterName};
use consensus::meta::overlay::{HeardBucket, HeardPlace, OverlayChange};
use consensus::meta::query::{Answer, Query};
use fabric::limits::{CATALOG_BUCKETS_MAX, HEARD_PER_COMMAND, LIST_KEYS_MAX};

use super::catalog::Taken;
use super::wire::CatalogBucket;
use super::{Overlay, OverlayError, bad};

/// A catalog that is not older is what its cluster has now.
const FRESH: Duration = Duration::from_secs(10);
/// What is kept is kept anew after this: so exact is its age.
const KEPT_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Pages that are looked at in one go.
const PAGES_AT_ONCE: usize = 20;

/// A bucket that is kept, and where.
type Kept = (ClusterName, BucketName, HeardBucket);

/// What members told: of those that did not since just now, `None`.
type Told = BTreeMap<ClusterName, Option<Arc<Taken>>>;

impl Overlay {
    /// Reads what is kept of a cluster that told nothing since this gateway began.
    pub(super) async fn recall(&self, cluster: &ClusterName) -> Result<(), OverlayError> {
        let mut kept: Vec<Kept> = Vec::new();
        while kept.len() < CATALOG_BUCKETS_MAX {
            let after = kept.last().map(|(_, name, _)| name.clone());
            let (page, more) = self.kept(Some((cluster.clone(), after))).await?;
            let ends = !more || page.last().is_none_or(|(of, _, _)| of != cluster);
            kept.extend(page.into_iter().take_while(|(of, _, _)| of == cluster));
            if ends {
                break;
            }
        }
        let oldest = kept.iter().map(|(_, _, bucket)| bucket.heard).min();
        if let Some(oldest) = oldest {
            let buckets = kept.into_iter().map(|(_, name, bucket)| shown(name, bucket)).collect();
            self.catalogs.recall(cluster, buckets, oldest);
        }
        Ok(())
    }

    /// Keeps what was told, from a place on; where the next call is to go on: `None`, from the beginning.
    pub(super) async fn keep(&self, from: Option<HeardPlace>) -> Result<Option<HeardPlace>, OverlayError> {
        let mut from = from;
        for _ in 0..PAGES_AT_ONCE {
            let (page, more) = self.kept(from.clone()).await?;
            let upto = page.last().filter(|_| more).map(|(cluster, name, _)| (cluster.clone(), name.clone()));
            let Differences { there, gone, next } =
                differences(&self.told(), &page, from.as_ref(), upto, self.parts.seams.env.wall_ms());
            if !there.is_empty() || !gone.is_empty() {
                self.parts.meta.propose(Command::Overlay(OverlayChange::Heard { there, gone })).await?;
            }
            from = next.map(|(cluster, name)| (cluster, Some(name)));
            if from.is_none() {
                break;
            }
        }
        Ok(from)
    }

    async fn kept(&self, from: Option<HeardPlace>) -> Result<(Vec<Kept>, bool), OverlayError> {
        match ask(&*self.parts.meta, Query::Heard { from, limit: LIST_KEYS_MAX }).await? {
            Answer::Heard { buckets, more } => Ok((buckets, more)),
            _ => bad("the metadata answered another question than Heard"),
        }
    }

    fn told(&self) -> Told {
        let (view, now) = (self.view.load_full(), self.parts.seams.env.monotonic());
        let fresh = |name| {
            let taken = self.catalogs.of(name)?;
            taken.told_at().is_some_and(|at| now.saturating_sub(at) < FRESH).then_some(taken)
        };
        view.links.keys().map(|name| (name.clone(), fresh(name))).collect()
    }
}

/// What is to be kept otherwise.
#[derive(Debug, Default, PartialEq)]
struct Differences {
    there: Vec<Kept>,
    gone: Vec<(ClusterName, BucketName)>,
    /// Behind which bucket to go on; `None`: this was the last one.
    next: Option<(ClusterName, BucketName)>,
}

/// What differs between what was told and a page of what is kept: behind `from`, and up to `upto` where more is kept behind
/// that. At most [`HEARD_PER_COMMAND`] differences.
fn differences(
    told: &Told,
    page: &[Kept],
    from: Option<&HeardPlace>,
    upto: Option<(ClusterName, BucketName)>,
    wall_ms: u64,
) -> Differences {
    let kept: BTreeMap<(&ClusterName, &BucketName), &HeardBucket> =
        page.iter().map(|(cluster, name, bucket)| ((cluster, name), bucket)).collect();
    let is_gone = |(cluster, name): &(&ClusterName, &BucketName)| match told.get(*cluster) {
        None => true,
        Some(None) => false,
        Some(Some(taken)) => taken.bucket(name).is_none(),
    };
    let first = from.map(|(cluster, _)| cluster);
    let there = told
        .iter()
        .filter(|(cluster, _)| first.is_none_or(|first| first <= *cluster))
        .filter_map(|(cluster, taken)| Some((cluster, taken.as_ref()?)))
        .flat_map(|(cluster, taken)| {
            let after = from.filter(|(first, _)| first == cluster).and_then(|(_, after)| after.as_ref());
            taken.buckets_behind(after).map(move |bucket| (cluster, bucket))
        })
        .take_while(|(cluster, bucket)| {
            upto.as_ref().is_none_or(|(last, name)| (*cluster, &bucket.name) <= (last, name))
        })
        .filter(|(cluster, bucket)| {
            kept.get(&(*cluster, &bucket.name)).is_none_or(|kept| is_other(kept, bucket, wall_ms))
        })
        .map(|(cluster, bucket)| (cluster, &bucket.name, Some(bucket)));
    let gone = kept.keys().filter(|place| is_gone(place)).map(|(cluster, name)| (*cluster, *name, None));
    let mut all: Vec<_> = there.take(HEARD_PER_COMMAND + 1).chain(gone).collect();
    all.sort_by_key(|(cluster, name, _)| (*cluster, *name));
    let mut found = Differences { next: upto.clone(), ..Differences::default() };
    if HEARD_PER_COMMAND < all.len() {
        all.truncate(HEARD_PER_COMMAND);
        found.next = all.last().map(|(cluster, name, _)| ((*cluster).clone(), (*name).clone()));
    }
    for (cluster, name, bucket) in all {
        match bucket {
            Some(bucket) => found.there.push((cluster.clone(), name.clone(), heard(bucket))),
            None => found.gone.push((cluster.clone(), name.clone())),
        }
    }
    found
}

/// Whether a bucket is to be kept anew: its numbers alone are no reason to, as they change all the time.
fn is_other(kept: &HeardBucket, told: &CatalogBucket, wall_ms: u64) -> bool {
    let told = heard(told);
    let lasting =
        |bucket: &HeardBucket| (bucket.owner.clone(), bucket.created, bucket.versioned, bucket.stale_seconds);
    lasting(kept) != lasting(&told)
        || KEPT_LIFETIME.as_millis() as u64 <= wall_ms.saturating_sub(kept.heard.0)
}

fn heard(bucket: &CatalogBucket) -> HeardBucket {
    HeardBucket {
        owner: bucket.owner.clone(),
        created: ClusterMs(bucket.created_ms),
        objects: bucket.objects,
        bytes: bucket.bytes,
        versioned: bucket.versioned,
        stale_seconds: bucket.stale_seconds,
        heard: ClusterMs(0),
    }
}

fn shown(name: BucketName, bucket: HeardBucket) -> CatalogBucket {
    CatalogBucket {
        name,
        owner: bucket.owner,
        created_ms: bucket.created.0,
        objects: bucket.objects,
        bytes: bucket.bytes,
        versioned: bucket.versioned,
        stale_seconds: bucket.stale_seconds,
        placed: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::Catalog;
    use super::*;

    fn name(number: usize) -> BucketName {
        format!("bucket-{number:04}").parse().unwrap()
    }

    fn bucket(number: usize) -> CatalogBucket {
        let heard = HeardBucket {
            owner: None,
            created: ClusterMs(7),
            objects: 0,
            bytes: 0,
            versioned: false,
            stale_seconds: None,
            heard: ClusterMs(0),
        };
        shown(name(number), heard)
    }

    fn told(cluster: &str, numbers: &[usize]) -> Told {
        let buckets = numbers.iter().map(|number| bucket(*number)).collect();
        let taken = Taken::told(Catalog { buckets, ..Catalog::default() }, Duration::ZERO);
        BTreeMap::from([(cluster.parse().unwrap(), Some(Arc::new(taken)))])
    }

    fn kept(cluster: &str, number: usize) -> Kept {
        (cluster.parse().unwrap(), name(number), heard(&bucket(number)))
    }

    /// Takes what differs into what is kept, page by page, until nothing does.
    fn settle(told: &Told, rows: &mut BTreeMap<(ClusterName, BucketName), HeardBucket>) -> usize {
        let (mut from, mut commands): (Option<HeardPlace>, usize) = (None, 0);
        loop {
            let behind = |place: &(ClusterName, BucketName)| match &from {
                None => true,
                Some((cluster, after)) => (cluster, after.as_ref()) < (&place.0, Some(&place.1)),
            };
            let mut rest = rows.iter().filter(|(place, _)| behind(place));
            let page: Vec<Kept> =
                rest.by_ref().take(1000).map(|((a, b), row)| (a.clone(), b.clone(), row.clone())).collect();
            let upto = rest.next().and(page.last()).map(|(a, b, _)| (a.clone(), b.clone()));
            let found = differences(told, &page, from.as_ref(), upto, 0);
            assert!(found.there.len() + found.gone.len() <= HEARD_PER_COMMAND);
            commands += usize::from(!found.there.is_empty() || !found.gone.is_empty());
            found.gone.into_iter().for_each(|place| drop(rows.remove(&place)));
            rows.extend(found.there.into_iter().map(|(a, b, row)| ((a, b), row)));
            from = found.next.map(|(cluster, name)| (cluster, Some(name)));
            if from.is_none() {
                return commands;
            }
        }
    }

    #[test]
    fn what_is_kept_becomes_what_was_told() {
        let numbers: Vec<usize> = (0..2300).collect();
        let mut told = told("east", &numbers);
        told.insert("north".parse().unwrap(), None);
        let mut rows = BTreeMap::new();
        let keep = |rows: &mut BTreeMap<_, _>, (cluster, name, row): Kept| rows.insert((cluster, name), row);
        (0..1500).for_each(|number| drop(keep(&mut rows, kept("gone", number))));
        keep(&mut rows, kept("north", 1));
        (2200..2500).for_each(|number| drop(keep(&mut rows, kept("east", number))));
        assert!(1 < settle(&told, &mut rows));
        let of =
            |rows: &BTreeMap<(ClusterName, BucketName), HeardBucket>, cluster: &str| -> Vec<BucketName> {
                let names = rows.keys().filter(|(of, _)| of.as_str() == cluster);
                names.map(|(_, name)| name.clone()).collect()
            };
        assert_eq!(of(&rows, "east"), numbers.iter().map(|number| name(*number)).collect::<Vec<_>>());
        assert_eq!(of(&rows, "north"), [name(1)]);
        assert!(of(&rows, "gone").is_empty());
        assert_eq!(settle(&told, &mut rows), 0);
    }

    #[test]
    fn numbers_alone_are_kept_by_the_hour() {
        let row = heard(&bucket(1));
        assert!(!is_other(&row, &CatalogBucket { objects: 5, ..bucket(1) }, 1000));
        assert!(is_other(&row, &CatalogBucket { objects: 5, ..bucket(1) }, 3_600_000));
        assert!(is_other(&row, &CatalogBucket { versioned: true, ..bucket(1) }, 1000));
    }
}
