//! What this cluster tells others of its buckets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consensus::client::ask;
use consensus::meta::model::{Bucket, BucketSetting, SettingKind, Usage, Versioning};
use consensus::meta::names::{BucketName, ClusterName};
use consensus::meta::query::{Answer, Query};
use fabric::ids::BucketId;
use fabric::limits::{CATALOG_BUCKETS_MAX, LIST_KEYS_MAX};

use super::copies::CopyWanted;
use super::wire::{BucketThere, Catalog, CatalogBucket, PlacedThere};
use super::{Overlay, OverlayError, bad};

/// What others may know of the buckets here is asked for again after this.
const CATALOG_LIFETIME: Duration = Duration::from_secs(1);

impl Overlay {
    /// The buckets here, as a cluster may know them.
    pub(in crate::overlay) async fn catalog_for(&self, peer: &ClusterName) -> Result<Catalog, OverlayError> {
        let whole = self.own_catalog().await?;
        let mut catalog = (*whole).clone();
        catalog.copies.retain(|copy| copy.cluster == *peer);
        for bucket in &mut catalog.buckets {
            bucket.owner = bucket.owner.take().filter(|owner| self.knows_user(peer, owner));
        }
        Ok(catalog)
    }

    /// One bucket here, as a cluster may know it.
    pub(in crate::overlay) async fn bucket_for(
        &self,
        peer: &ClusterName,
        name: &BucketName,
    ) -> Result<BucketThere, OverlayError> {
        let Answer::Bucket(bucket) = ask(&*self.parts.meta, Query::Bucket(name.clone())).await? else {
            return bad("the metadata answered another question than Bucket");
        };
        let takes_copies =
            bucket.as_ref().is_some_and(|bucket| self.permits(&bucket.owner, Some(peer), Some(name)));
        let mut told = bucket.map(|bucket| told(&bucket, &Usage::default(), self.name().as_ref()));
        if let Some(bucket) = &mut told {
            bucket.owner = bucket.owner.take().filter(|owner| self.knows_user(peer, owner));
        }
        Ok(BucketThere { bucket: told, takes_copies })
    }

    pub(super) async fn own_catalog(&self) -> Result<Arc<Catalog>, OverlayError> {
        let now = self.parts.seams.env.monotonic();
        let mut own = self.own.lock().await;
        if let Some((taken, catalog)) = &*own
            && now.saturating_sub(*taken) < CATALOG_LIFETIME
        {
            return Ok(catalog.clone());
        }
        let stale = self.own_settings(SettingKind::Staleness).await?;
        let placed = self.own_settings(SettingKind::Placed).await?;
        let (s3, room) = (self.parts.config.s3.clone(), self.room());
        let (mut after, mut found) = (None, Catalog { s3, room, ..Catalog::default() });
        loop {
            let query = Query::Catalog { after, limit: LIST_KEYS_MAX };
            let answered = self.parts.meta.query(query).await?;
            let Ok(Answer::Catalog { buckets, more }) = answered.answer else {
                return bad("the metadata answered another question than Catalog");
            };
            found.index = answered.index;
            after = buckets.last().map(|(bucket, _)| bucket.id).or(after);
            let name = self.name();
            let told = buckets.iter().map(|(bucket, usage)| {
                let stale_seconds = match stale.get(&bucket.id) {
                    Some(BucketSetting::Staleness(seconds)) => Some(*seconds),
                    _ => None,
                };
                let placed = match placed.get(&bucket.id) {
                    Some(BucketSetting::Placed(placed)) => Some(PlacedThere::from(placed)),
                    _ => None,
                };
                CatalogBucket { stale_seconds, placed, ..told(bucket, usage, name.as_ref()) }
            });
            found.buckets.extend(told);
            if !more || CATALOG_BUCKETS_MAX <= found.buckets.len() {
                break;
            }
        }
        found.copies = self.own_copies().await?;
        let catalog = Arc::new(found);
        *own = Some((now, catalog.clone()));
        Ok(catalog)
    }

    /// What is set of one kind on buckets here.
    async fn own_settings(
        &self,
        kind: SettingKind,
    ) -> Result<BTreeMap<BucketId, BucketSetting>, OverlayError> {
        let (mut after, mut found) = (None, BTreeMap::new());
        loop {
            let query = Query::SettingsOf { kind, after, limit: LIST_KEYS_MAX };
            let Answer::SettingsOf { settings, next } = ask(&*self.parts.meta, query).await? else {
                return bad("the metadata answered another question than SettingsOf");
            };
            found.extend(settings);
            if next.is_none() || CATALOG_BUCKETS_MAX <= found.len() {
                return Ok(found);
            }
            after = next;
        }
    }

    /// Which buckets here are to be copied elsewhere.
    async fn own_copies(&self) -> Result<Vec<CopyWanted>, OverlayError> {
        let (mut after, mut found) = (None, BTreeMap::new());
        loop {
            let query = Query::Replications { after, limit: LIST_KEYS_MAX };
            let Answer::Replications { buckets, more } = ask(&*self.parts.meta, query).await? else {
                return bad("the metadata answered another question than Replications");
            };
            for (bucket, replication) in &buckets {
                for rule in replication.rules.iter().filter(|rule| rule.enabled) {
                    let copy = CopyWanted {
                        cluster: rule.cluster.clone(),
                        bucket: bucket.name.clone(),
                        id: bucket.id.0,
                        to: rule.bucket.clone(),
                        since: replication.since,
                    };
                    found.insert((bucket.id, rule.cluster.clone(), rule.bucket.clone()), copy);
                }
            }
            after = buckets.last().map(|(bucket, _)| bucket.id).or(after);
            if !more || CATALOG_BUCKETS_MAX <= found.len() {
                return Ok(found.into_values().collect());
            }
        }
    }
}

/// A bucket as others hear of it.
fn told(bucket: &Bucket, usage: &Usage, here: Option<&ClusterName>) -> CatalogBucket {
    CatalogBucket {
        name: bucket.name.clone(),
        owner: here.map(|here| bucket.owner.at_home_in(here)),
        created_ms: bucket.created.0,
        objects: usage.objects,
        bytes: usage.bytes,
        versioned: bucket.versioning == Versioning::Enabled,
        stale_seconds: None,
        placed: None,
    }
}
