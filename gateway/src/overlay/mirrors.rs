//! Buckets here that follow others: their beginning, their end, and what others want copied here.

use std::sync::Arc;
use std::time::Duration;

use consensus::client::ask;
use consensus::meta::model::{Bucket, ClusterMs};
use consensus::meta::names::BucketName;
use consensus::meta::overlay::{OverlayChange, OverlayRefusal};
use consensus::meta::query::{Answer, Query};
use consensus::meta::replication::{Follow, FollowKind, Promotions, Source};
use fabric::ids::{BucketId, Stamp};
use tokio::time::sleep;

use super::copies::{ChangesThere, CopyWanted, Supersede, SupersededThere};
use super::link::Link;
use super::{Overlay, OverlayError, bad};

/// A copy that is promoted has so long to catch up …
const PROMOTION_DEADLINE: Duration = Duration::from_secs(30);
/// … and is looked at after this.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(250);

impl Overlay {
    /// A bucket here follows one of another cluster from now on, and nobody else writes to it.
    pub async fn follow(self: &Arc<Self>, source: Source, name: &BucketName) -> Result<(), OverlayError> {
        let bucket = self.bucket_here(name).await?;
        let Some(link) = self.cluster(source.cluster.as_str()) else {
            return Err(OverlayError::Refused(OverlayRefusal::NotMember));
        };
        let there: ChangesThere =
            link.get(&format!("changes/{}?since={}&wait=0&limit=0", source.bucket, Stamp::ZERO)).await?;
        let (bucket, kind, source_id) = (bucket.id, FollowKind::Mirror, BucketId(there.id));
        self.propose(OverlayChange::Follow { bucket, source, kind, source_id, cursor: Stamp::ZERO }).await
    }

    /// A bucket here follows no other one any more, and is one like any other. Unless its home is lost that is read-only
    /// then, and the bucket has all that is there. Returns what it followed, and of when its last change is.
    pub async fn promote(
        self: &Arc<Self>,
        name: &BucketName,
        home_is_lost: bool,
    ) -> Result<Vec<(Source, ClusterMs)>, OverlayError> {
        let bucket = self.bucket_here(name).await?;
        let until = self.parts.seams.env.monotonic() + PROMOTION_DEADLINE;
        let mut ended = Vec::new();
        loop {
            let Answer::Follows(follows) = ask(&*self.parts.meta, Query::Follows).await? else {
                return bad("the metadata answered another question than Follows");
            };
            let next = follows.follows.into_iter().find(|(other, _, _)| other.id == bucket.id);
            let Some((_, source, follow)) = next else { break };
            let cursor = match home_is_lost {
                true => None,
                false => {
                    let waiting = self.still_to_come(&bucket, &source, &follow).await?;
                    if 0 < waiting || follow.compare {
                        if until <= self.parts.seams.env.monotonic() {
                            return bad(not_yet(waiting, &source, follow.kind));
                        }
                        sleep(PROMOTION_INTERVAL).await;
                        continue;
                    }
                    Some(follow.cursor)
                }
            };
            let (bucket, reached) = (bucket.id, follow.reached);
            let end = match follow.kind {
                FollowKind::Mirror => OverlayChange::Promote { bucket, source: source.clone(), cursor },
                FollowKind::Replica => OverlayChange::Unfollow { bucket, source: source.clone(), cursor },
            };
            match self.propose(end).await {
                Ok(()) => ended.push((source, reached)),
                Err(OverlayError::Refused(OverlayRefusal::Moved | OverlayRefusal::NotFollowed)) => {}
                Err(error) => return Err(error),
            }
        }
        if ended.is_empty() { Err(OverlayError::Refused(OverlayRefusal::NotFollowed)) } else { Ok(ended) }
    }

    /// How many events are behind a copy, as far as they are counted. The source of a mirror takes no more of them: each
    /// time it is told so, as somebody there may have reopened it.
    async fn still_to_come(
        &self,
        bucket: &Bucket,
        source: &Source,
        follow: &Follow,
    ) -> Result<u64, OverlayError> {
        if follow.kind == FollowKind::Mirror && !self.supersede(bucket, source, follow.source, None).await? {
            return bad(format!(
                "the bucket {}/{} was deleted, or follows another one itself; --home-is-lost ends following without it",
                source.cluster, source.bucket
            ));
        }
        self.waiting(bucket, source, follow).await
    }

    /// Tells the cluster of a source that a copy here takes its place, which has what happened up to `at`; `None`: it will
    /// have all. False: there is no such bucket any more, or it is a copy itself.
    pub(in crate::overlay) async fn supersede(
        &self,
        bucket: &Bucket,
        source: &Source,
        id: BucketId,
        at: Option<Stamp>,
    ) -> Result<bool, OverlayError> {
        let Some(link) = self.cluster(source.cluster.as_str()) else {
            return Err(OverlayError::Refused(OverlayRefusal::NotMember));
        };
        let wanted = Supersede { id: id.0, by: bucket.name.clone(), at };
        let there: SupersededThere = link.post(&format!("supersede/{}", source.bucket), &wanted).await?;
        Ok(there.superseded)
    }

    /// A bucket here is written to again whose place a copy took.
    pub async fn reopen(&self, name: &BucketName) -> Result<(), OverlayError> {
        let bucket = self.bucket_here(name).await?.id;
        self.propose(OverlayChange::Reopen { bucket }).await
    }

    /// Buckets here whose place was taken, and that took the place of others.
    pub(in crate::overlay) async fn promotions(&self) -> Result<Promotions, OverlayError> {
        match ask(&*self.parts.meta, Query::Promotions).await? {
            Answer::Promotions(promotions) => Ok(promotions),
            _ => bad("the metadata answered another question than Promotions"),
        }
    }

    /// How many events are behind a copy, as far as they are counted.
    async fn waiting(&self, bucket: &Bucket, source: &Source, follow: &Follow) -> Result<u64, OverlayError> {
        let Some(link) = self.cluster(source.cluster.as_str()) else {
            return Err(OverlayError::Refused(OverlayRefusal::NotMember));
        };
        let to = match follow.kind {
            FollowKind::Mirror => String::new(),
            FollowKind::Replica => format!("&to={}", bucket.name),
        };
        let path = format!("changes/{}?since={}&wait=0&limit=0{to}", source.bucket, follow.cursor);
        let there: ChangesThere = link.get(&path).await?;
        Ok(if there.missing { there.waiting.max(1) } else { there.waiting })
    }

    /// A bucket here, which is there.
    async fn bucket_here(&self, name: &BucketName) -> Result<Bucket, OverlayError> {
        match ask(&*self.parts.meta, Query::Bucket(name.clone())).await? {
            Answer::Bucket(Some(bucket)) => Ok(bucket),
            _ => bad(format!("there is no bucket {name}")),
        }
    }

    /// What other clusters want copied here, and when each told so.
    pub(in crate::overlay) fn copies_wanted(&self) -> Vec<(Arc<Link>, Duration, Vec<CopyWanted>)> {
        let view = self.view.load_full();
        let told = view.links.values().filter_map(|link| {
            let taken = self.catalogs.of(&link.name)?;
            Some((link.clone(), taken.told_at()?, taken.catalog.copies.clone()))
        });
        told.collect()
    }
}

/// Why a copy is not promoted yet.
fn not_yet(waiting: u64, source: &Source, kind: FollowKind) -> String {
    let Source { cluster, bucket } = source;
    match kind {
        FollowKind::Mirror => format!(
            "{waiting} changes of {cluster}/{bucket} are still to come; nobody writes there any more, so try again, or end \
             that there with overlay reopen {bucket}"
        ),
        FollowKind::Replica => format!(
            "{waiting} changes of {cluster}/{bucket} are still to come; whoever writes there is to be stopped first"
        ),
    }
}
