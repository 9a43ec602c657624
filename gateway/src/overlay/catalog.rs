//! The catalogs of other clusters: which buckets are at home where.
//!
//! What always holds: a catalog that was had once is kept while its cluster is away, so that its buckets are known to be
//! there; and of a cluster whose catalog was never had nobody says that a bucket is not there.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use consensus::meta::model::ClusterMs;
use consensus::meta::names::{BucketName, ClusterName};

use fabric::env::Env;
use imbl::OrdMap;

use super::wire::{Catalog, CatalogBucket};

/// What others told of their buckets.
#[derive(Default)]
pub struct Catalogs(RwLock<BTreeMap<ClusterName, Arc<Taken>>>);

/// When a catalog was true.
#[derive(Clone, Copy)]
enum At {
    /// Its cluster told it: monotonic time.
    Told(Duration),
    /// It was kept by then, and told before this gateway began.
    Kept(ClusterMs),
}

/// A catalog, and when it was true.
pub struct Taken {
    at: At,
    /// What was told beside the buckets.
    pub catalog: Catalog,
    /// A copy costs nothing, so that one bucket more or less costs little.
    buckets: OrdMap<BucketName, CatalogBucket>,
}

impl Taken {
    /// What a cluster told at this time.
    pub fn told(mut catalog: Catalog, at: Duration) -> Taken {
        let buckets = by_name(std::mem::take(&mut catalog.buckets));
        Taken { at: At::Told(at), catalog, buckets }
    }

    /// When its cluster told it; `None`: before this gateway began.
    pub fn told_at(&self) -> Option<Duration> {
        match self.at {
            At::Told(at) => Some(at),
            At::Kept(_) => None,
        }
    }

    /// How old it is now; it may be less where it was told before this gateway began.
    pub fn age(&self, env: &dyn Env) -> Duration {
        match self.at {
            At::Told(at) => env.monotonic().saturating_sub(at),
            At::Kept(at) => Duration::from_millis(env.wall_ms().saturating_sub(at.0)),
        }
    }

    /// A bucket of it.
    pub fn bucket(&self, name: &BucketName) -> Option<&CatalogBucket> {
        self.buckets.get(name)
    }

    /// Its buckets in order of name.
    pub fn buckets(&self) -> impl Iterator<Item = &CatalogBucket> {
        self.buckets.values()
    }

    /// Those behind one of this name.
    pub fn buckets_behind(&self, after: Option<&BucketName>) -> impl Iterator<Item = &CatalogBucket> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.buckets.range::<_, BucketName>((lower, Bound::Unbounded)).map(|(_, bucket)| bucket)
    }
}

fn by_name(buckets: Vec<CatalogBucket>) -> OrdMap<BucketName, CatalogBucket> {
    buckets.into_iter().map(|bucket| (bucket.name.clone(), bucket)).collect()
}

impl Catalogs {
    /// A cluster told its buckets.
    pub fn take(&self, cluster: &ClusterName, catalog: Catalog, at: Duration) {
        self.write().insert(cluster.clone(), Arc::new(Taken::told(catalog, at)));
    }

    /// A cluster told these buckets before this gateway began, and they were kept by this time. What it told since counts.
    pub fn recall(&self, cluster: &ClusterName, buckets: Vec<CatalogBucket>, at: ClusterMs) {
        let kept = || Taken { at: At::Kept(at), catalog: Catalog::default(), buckets: by_name(buckets) };
        self.write().entry(cluster.clone()).or_insert_with(|| Arc::new(kept()));
    }

    /// A bucket was found before the catalog told of it.
    pub fn note(&self, cluster: &ClusterName, bucket: CatalogBucket) {
        self.change(cluster, |buckets| drop(buckets.insert(bucket.name.clone(), bucket)));
    }

    /// A bucket is gone before the catalog tells so.
    pub fn forget(&self, cluster: &ClusterName, bucket: &BucketName) {
        self.change(cluster, |buckets| drop(buckets.remove(bucket)));
    }

    fn change(&self, cluster: &ClusterName, change: impl FnOnce(&mut OrdMap<BucketName, CatalogBucket>)) {
        let mut catalogs = self.write();
        let Some(taken) = catalogs.get(cluster) else { return };
        let mut buckets = taken.buckets.clone();
        change(&mut buckets);
        let changed = Taken { at: taken.at, catalog: taken.catalog.clone(), buckets };
        catalogs.insert(cluster.clone(), Arc::new(changed));
    }

    /// Only these clusters are there.
    pub fn keep(&self, is_there: impl Fn(&ClusterName) -> bool) {
        self.write().retain(|cluster, _| is_there(cluster));
    }

    /// What a cluster told last.
    pub fn of(&self, cluster: &ClusterName) -> Option<Arc<Taken>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned()
    }

    /// Which clusters have a bucket of this name.
    pub fn homes(&self, name: &BucketName) -> Vec<ClusterName> {
        let catalogs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let has = catalogs.iter().filter(|(_, taken)| taken.buckets.contains_key(name));
        has.map(|(cluster, _)| cluster.clone()).collect()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<ClusterName, Arc<Taken>>> {
        // Each change is a single call, so poison means nothing here.
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn catalogs_are_kept_until_a_newer_one_comes() {
        let (east, west): (ClusterName, ClusterName) = ("east".parse().unwrap(), "west".parse().unwrap());
        let bucket = |name: &str| CatalogBucket {
            name: name.parse().unwrap(),
            owner: None,
            created_ms: 0,
            objects: 0,
            bytes: 0,
            versioned: false,
            stale_seconds: None,
            placed: None,
        };
        let told = |names: &[&str]| Catalog {
            buckets: names.iter().map(|name| bucket(name)).collect(),
            ..Catalog::default()
        };
        let catalogs = Catalogs::default();
        catalogs.note(&east, bucket("early"));
        assert!(catalogs.of(&east).is_none());
        catalogs.take(&east, told(&["photos", "music"]), Duration::ZERO);
        catalogs.take(&west, told(&["photos"]), Duration::ZERO);
        assert_eq!(catalogs.homes(&"photos".parse().unwrap()), [east.clone(), west.clone()]);
        catalogs.take(&east, told(&["music"]), Duration::ZERO);
        catalogs.note(&east, bucket("new"));
        assert_eq!(catalogs.homes(&"photos".parse().unwrap()), std::slice::from_ref(&west));
        assert_eq!(catalogs.homes(&"new".parse().unwrap()), std::slice::from_ref(&east));
        catalogs.recall(&east, vec![bucket("photos")], ClusterMs(5));
        assert_eq!(catalogs.of(&east).unwrap().told_at(), Some(Duration::ZERO));
        catalogs.forget(&east, &"new".parse().unwrap());
        assert!(catalogs.homes(&"new".parse().unwrap()).is_empty());
        catalogs.keep(|cluster| *cluster == west);
        assert!(catalogs.homes(&"music".parse().unwrap()).is_empty());
    }
}
