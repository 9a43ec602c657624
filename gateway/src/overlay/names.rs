//! Where a name of a bucket leads that is not at home here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consensus::meta::names::{BucketName, ClusterName, UserName};
use fabric::cluster::OverlayRemote;
use futures::future::join_all;
use tokio::time::timeout;

use super::link::{Link, LinkError};
use super::view::View;
use super::wire::{BucketThere, CatalogBucket, is_endpoint};
use super::{ASK_DEADLINE, Overlay, OverlayError};

/// Where a bucket is that is not here.
pub enum Elsewhere {
    /// In another cluster, by this name.
    In(Arc<Link>, BucketName),
    /// In several clusters, each of which calls it its own.
    Disputed(Vec<ClusterName>),
    /// Perhaps in this one, which is away: it may have one of this name since it told what it has.
    Unknown(ClusterName),
    /// Nowhere.
    Nowhere,
}

/// Whose a name is that is taken.
pub enum Taken {
    /// Of who asks.
    ByTheSame,
    /// Of somebody else, as far as is known.
    BySomebody,
}

impl Overlay {
    /// Where a bucket is that is not here.
    pub async fn elsewhere(&self, name: &BucketName) -> Elsewhere {
        let view = self.view.load_full();
        if let Some((bucket, cluster)) = name.as_str().rsplit_once("--")
            && let Some((link, bucket)) = view.link_named(cluster).zip(bucket.parse().ok())
        {
            return Elsewhere::In(link.clone(), bucket);
        }
        let mut homes = self.catalogs.homes(name);
        if self.parts.seams.env.armed("forget_away") {
            homes.retain(|home| view.links.get(home).is_some_and(|link| link.answers()));
        }
        let mut silent = None;
        if homes.is_empty() {
            (homes, silent) = self.ask_for(&view, name).await;
        }
        if self.parts.seams.env.armed("forget_away") {
            silent = None;
        }
        match &homes[..] {
            [] => silent.map_or(Elsewhere::Nowhere, Elsewhere::Unknown),
            [home] => match view.links.get(home) {
                Some(link) => Elsewhere::In(link.clone(), name.clone()),
                None => Elsewhere::Nowhere,
            },
            _ => Elsewhere::Disputed(homes),
        }
    }

    /// Whether another cluster told of a bucket of this name.
    pub fn heard_of(&self, name: &BucketName) -> bool {
        !self.catalogs.homes(name).is_empty()
    }

    /// Clusters that answer and have the bucket, though their catalogs did not tell yet; and one that does not answer.
    async fn ask_for(&self, view: &View, name: &BucketName) -> (Vec<ClusterName>, Option<ClusterName>) {
        let _place = self.asking.acquire().await;
        let path = format!("buckets/{name}");
        let path = &path;
        let asked = view.links.values().map(|link| async move {
            let answer = timeout(ASK_DEADLINE, link.get::<BucketThere>(path)).await;
            let there = match answer {
                Ok(Ok(there)) => there.bucket.filter(|bucket| bucket.name == *name),
                Ok(Err(LinkError::Refused(status, _))) if !status.is_server_error() => None,
                Ok(Err(_)) | Err(_) => return (None, Some(link.name.clone())),
            };
            let home = there.map(|bucket| {
                self.catalogs.note(&link.name, bucket);
                link.name.clone()
            });
            (home, None)
        });
        let (homes, silent): (Vec<_>, Vec<_>) = join_all(asked).await.into_iter().unzip();
        (homes.into_iter().flatten().collect(), silent.into_iter().flatten().next())
    }

    /// Where clients are to send what they ask of a cluster themselves (`https://host:port`), instead of this gateway.
    pub fn endpoint(&self, link: &Link) -> Option<String> {
        if self.parts.config.remote == OverlayRemote::Forward || !link.answers() {
            return None;
        }
        self.catalogs.of(&link.name)?.catalog.s3.clone().filter(|url| is_endpoint(url))
    }

    /// How old what is in memory of a bucket of another cluster may be while that is away; `None`: it may not be.
    pub fn staleness(&self, link: &Link, bucket: &BucketName) -> Option<Duration> {
        let taken = self.catalogs.of(&link.name)?;
        taken.bucket(bucket)?.stale_seconds.map(Duration::from_secs)
    }

    /// The cluster that a name means by its end.
    pub fn reserves(&self, name: &BucketName) -> Option<ClusterName> {
        let (_, cluster) = name.as_str().rsplit_once("--")?;
        let cluster = cluster.parse::<ClusterName>().ok()?;
        let view = self.view.load();
        let is_known = view.links.contains_key(&cluster) || cluster.as_str() == self.parts.region;
        is_known.then_some(cluster)
    }

    /// Whether another cluster that answers has a bucket of this name, or told of one; and whether it is of this user.
    pub async fn taken(&self, name: &BucketName, user: &UserName) -> Option<Taken> {
        match self.elsewhere(name).await {
            Elsewhere::Nowhere | Elsewhere::Unknown(_) => None,
            Elsewhere::Disputed(_) => Some(Taken::BySomebody),
            Elsewhere::In(link, home) => {
                let owner = self.catalogs.of(&link.name).and_then(|taken| taken.bucket(&home)?.owner.clone());
                let is_own = owner.is_some() && owner == self.name().map(|here| user.at_home_in(&here));
                Some(if is_own { Taken::ByTheSame } else { Taken::BySomebody })
            }
        }
    }

    /// Buckets of a user in other clusters, in order of name: each with its cluster, and with the name that it has here.
    pub async fn buckets_of(
        &self,
        user: &UserName,
    ) -> Result<Vec<(BucketName, ClusterName, CatalogBucket)>, OverlayError> {
        let view = self.view.load_full();
        let Some(identity) = &view.identity else { return Ok(Vec::new()) };
        let user = user.at_home_in(&identity.name);
        let own = self.own_catalog().await?;
        let here: BTreeSet<&BucketName> = own.buckets.iter().map(|bucket| &bucket.name).collect();
        let mut found = Vec::new();
        for cluster in view.links.keys() {
            let Some(taken) = self.catalogs.of(cluster) else { continue };
            for bucket in taken.buckets().filter(|bucket| bucket.owner.as_ref() == Some(&user)) {
                let is_disputed = here.contains(&bucket.name) || 1 < self.catalogs.homes(&bucket.name).len();
                let long = format!("{}--{cluster}", bucket.name).parse();
                let name = long.ok().filter(|_| is_disputed).unwrap_or_else(|| bucket.name.clone());
                found.push((name, cluster.clone(), bucket.clone()));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// A bucket was made in another cluster, and is known here from now on.
    pub async fn note_made(&self, link: &Arc<Link>, name: &BucketName) {
        match timeout(ASK_DEADLINE, self.ask_bucket(link, name)).await {
            Ok(Ok(BucketThere { bucket: Some(bucket), .. })) => self.catalogs.note(&link.name, bucket),
            // The catalog will tell.
            _ => tracing::debug!(cluster = %link.name, bucket = %name, "a new bucket is not known yet"),
        }
    }

    /// A bucket of another cluster is gone.
    pub fn note_gone(&self, link: &Link, name: &BucketName) {
        self.catalogs.forget(&link.name, name);
    }

    /// What another cluster says of one of its buckets now.
    pub async fn ask_bucket(&self, link: &Arc<Link>, name: &BucketName) -> Result<BucketThere, LinkError> {
        link.get::<BucketThere>(&format!("buckets/{name}")).await
    }
}
