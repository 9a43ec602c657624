//! What operators see of the overlay.

use consensus::client::ask;
use consensus::meta::model::{Bucket, Event, EventKind, PlacedWhy};
use consensus::meta::names::{BucketName, ClusterName};
use consensus::meta::overlay::{GrantedUser, OverlayRefusal, Standing};
use consensus::meta::query::{Answer, Query};
use consensus::meta::replication::{Follow, FollowKind, Promotion, Promotions, Source};
use fabric::ids::{BucketId, Stamp};
use fabric::limits::LIST_KEYS_MAX;
use serde_json::{Value, json};

use super::wire::CatalogBucket;
use super::{Overlay, OverlayError, bad};
use crate::s3::changes::{kind, version};

impl Overlay {
    /// What is known of the overlay, for those who run the cluster.
    pub fn report(&self) -> Value {
        let view = self.view.load_full();
        let env = &*self.parts.seams.env;
        let clusters: Vec<Value> = view
            .state
            .members
            .iter()
            .map(|member| {
                let link = view.links.get(&member.name);
                let taken = self.catalogs.of(&member.name);
                let sum = |of: fn(&CatalogBucket) -> u64| {
                    taken.as_ref().map_or(0, |taken| taken.buckets().map(of).sum::<u64>())
                };
                json!({
                    "name": member.name.as_str(),
                    "key": hex::encode(member.key),
                    "addresses": member.addresses,
                    "via": member.via.as_ref().map(ClusterName::as_str),
                    "since_ms": member.since.0,
                    "standing": match member.standing {
                        Standing::In => "in",
                        Standing::Removed => "removed",
                        Standing::Left => "left",
                    },
                    "up": link.is_some_and(|link| link.answers()),
                    "gateways": self.gossip.gateways(&member.name),
                    "buckets": sum(|_| 1),
                    "objects": sum(|bucket| bucket.objects),
                    "bytes": sum(|bucket| bucket.bytes),
                    "room": taken.as_ref().map(|taken| taken.catalog.room),
                    "catalog_age_ms": taken.map(|taken| taken.age(env).as_millis() as u64),
                })
            })
            .collect();
        let grants: Vec<Value> = view
            .state
            .grants
            .iter()
            .map(|grant| {
                let user = match &grant.user {
                    GrantedUser::One(user) => user.to_string(),
                    GrantedUser::All => "*".to_string(),
                };
                json!({ "cluster": grant.cluster.as_str(), "user": user, "buckets": grant.buckets })
            })
            .collect();
        json!({
            "name": view.identity.as_ref().map(|identity| identity.name.as_str()),
            "key": view.identity.as_ref().map(|identity| hex::encode(identity.key)),
            "address": self.parts.config.address,
            "room": self.room(),
            "mark_passed": self.pressed().map(PlacedWhy::name),
            "clusters": clusters,
            "grants": grants,
            "invites": view.state.invites,
        })
    }

    /// The catalog of all clusters, for those who run this one.
    pub async fn whole_catalog(&self) -> Result<Value, OverlayError> {
        let own = self.own_catalog().await?;
        let view = self.view.load_full();
        let row = |cluster: &str, up: bool, age: u64, bucket: &CatalogBucket| {
            json!({
                "name": bucket.name, "cluster": cluster, "owner": bucket.owner, "objects": bucket.objects,
                "bytes": bucket.bytes, "created_ms": bucket.created_ms, "stale_seconds": bucket.stale_seconds,
                "placed": bucket.placed, "up": up, "age_ms": age,
                "disputed": 0 < self.catalogs.homes(&bucket.name).iter().filter(|home| home.as_str() != cluster).count()
                    || (cluster != self.parts.region && own.buckets.iter().any(|here| here.name == bucket.name)),
            })
        };
        let mut rows: Vec<Value> =
            own.buckets.iter().map(|bucket| row(&self.parts.region, true, 0, bucket)).collect();
        for (cluster, link) in &view.links {
            let Some(taken) = self.catalogs.of(cluster) else { continue };
            let age = taken.age(&*self.parts.seams.env).as_millis() as u64;
            rows.extend(taken.buckets().map(|bucket| row(cluster.as_str(), link.answers(), age, bucket)));
        }
        Ok(json!({ "buckets": rows }))
    }

    /// Buckets here that follow others, for those who run the cluster.
    pub async fn follows_report(&self) -> Result<Value, OverlayError> {
        let Answer::Follows(follows) = ask(&*self.parts.meta, Query::Follows).await? else {
            return bad("the metadata answered another question than Follows");
        };
        let now = self.parts.seams.env.monotonic();
        let row = |(bucket, source, follow): (Bucket, Source, Follow)| {
            let up = self.cluster(source.cluster.as_str()).is_some_and(|link| link.answers());
            let progress = self.progresses.of(&(bucket.id, source.clone()));
            json!({
                "bucket": bucket.name, "cluster": source.cluster, "source": source.bucket, "up": up,
                "kind": match follow.kind { FollowKind::Mirror => "mirror", FollowKind::Replica => "replica" },
                "reached_ms": follow.reached.0, "cursor": follow.cursor.to_string(), "compare": follow.compare,
                "objects": follow.objects, "bytes": follow.bytes, "since_ms": follow.since.0,
                // Only the gateway that copies knows these.
                "lag_ms": progress.as_ref().map(|progress| progress.lag_ms),
                "waiting": progress.as_ref().map(|progress| progress.waiting),
                "failure": progress.as_ref().and_then(|progress| progress.failure.clone()),
                "seen_ms_ago": progress.map(|progress| now.saturating_sub(progress.at).as_millis() as u64),
            })
        };
        Ok(follows.follows.into_iter().map(row).collect())
    }

    /// Adds to what is known: buckets here whose place was taken, and those that took the place of one whose cluster does
    /// not know yet.
    pub async fn promotions_report(&self, report: &mut Value) -> Result<(), OverlayError> {
        let Promotions { superseded, promoted } = self.promotions().await?;
        let mut rows = Vec::new();
        for (bucket, row) in superseded {
            let (missed, more) = self.missed(bucket.id, row.at).await?;
            rows.push(json!({
                "bucket": bucket.name, "cluster": row.by.cluster, "by": row.by.bucket, "since_ms": row.since.0,
                "missed": missed.len(), "more": more,
            }));
        }
        report["superseded"] = rows.into();
        let row = |(bucket, source, promotion): (Bucket, Source, Promotion)| {
            let progress = self.progresses.of(&(bucket.id, source.clone()));
            json!({
                "bucket": bucket.name, "cluster": source.cluster, "source": source.bucket,
                "since_ms": promotion.since.0, "failure": progress.and_then(|progress| progress.failure),
            })
        };
        report["promoted"] = promoted.into_iter().map(row).collect();
        Ok(())
    }

    /// What took the place of a bucket here, and what happened in the bucket that the other one does not have, as far as
    /// that is shown at once.
    pub async fn superseded_report(&self, name: &BucketName) -> Result<Value, OverlayError> {
        let found = self.promotions().await?.superseded.into_iter().find(|(bucket, _)| bucket.name == *name);
        let Some((bucket, row)) = found else {
            return Err(OverlayError::Refused(OverlayRefusal::NotSuperseded));
        };
        let (missed, more) = self.missed(bucket.id, row.at).await?;
        let shown = missed.iter().map(|(_, event)| {
            json!({
                "kind": kind(event.kind), "key": event.key.as_str(), "version": version(event, bucket.versioning),
                "at_ms": event.at.0,
            })
        });
        Ok(json!({
            "bucket": bucket.name, "cluster": row.by.cluster, "by": row.by.bucket, "since_ms": row.since.0,
            "missed": shown.collect::<Vec<_>>(), "more": more,
        }))
    }

    /// Changes of a bucket behind an event, and whether there are, or were, more.
    async fn missed(&self, bucket: BucketId, at: Stamp) -> Result<(Vec<(Stamp, Event)>, bool), OverlayError> {
        let query = Query::Changes { bucket, after: at, limit: LIST_KEYS_MAX };
        let Answer::Changes(mut changes) = ask(&*self.parts.meta, query).await? else {
            return bad("the metadata answered another question than Changes");
        };
        changes.events.retain(|(_, event)| !matches!(event.kind, EventKind::Transition | EventKind::Acl));
        Ok((changes.events, changes.more || at < changes.trimmed))
    }
}
