//! Which cluster acts for whom: what is granted here, and what other clusters tell for what is granted there.

use std::sync::{Arc, PoisonError};

use consensus::meta::model::ClusterMs;
use consensus::meta::names::{AccessKeyId, BucketName, ClusterName, UserName};
use consensus::meta::overlay::{GrantedUser, OverlayChange, OverlayGrant};
use futures::future::join_all;
use tokio::time::timeout;

use super::link::LinkError;
use super::wire::DayKey;
use super::{ASK_DEADLINE, Overlay, OverlayError};
use crate::accounts::RECORD_LIFETIME;

impl Overlay {
    /// A cluster may act for a user.
    pub async fn grant(
        self: &Arc<Self>,
        cluster: ClusterName,
        user: GrantedUser,
        buckets: Vec<BucketName>,
    ) -> Result<(), OverlayError> {
        let grant = OverlayGrant { cluster, user, buckets, since: ClusterMs(0) };
        self.propose(OverlayChange::Grant(grant)).await?;
        self.refresh().await
    }

    /// It may not any more.
    pub async fn revoke(
        self: &Arc<Self>,
        cluster: ClusterName,
        user: GrantedUser,
    ) -> Result<(), OverlayError> {
        self.propose(OverlayChange::Revoke { cluster, user }).await?;
        self.refresh().await
    }

    /// Whether a user may act in a bucket here, whose request came by way of a cluster or directly.
    pub fn permits(&self, user: &UserName, via: Option<&ClusterName>, bucket: Option<&BucketName>) -> bool {
        let cluster = match (user.home(), via) {
            (Some(home), _) => home.to_string(),
            (None, Some(via)) => via.to_string(),
            (None, None) => return true,
        };
        let view = self.view.load();
        let mut grants = view.state.grants.iter().filter(|grant| grant.cluster.as_str() == cluster);
        grants.any(|grant| grant.allows(user, bucket))
    }

    /// Whether a cluster acts for a user of this one somewhere.
    pub(in crate::overlay) fn acts_for(&self, cluster: &ClusterName, user: &UserName) -> bool {
        let view = self.view.load();
        let mut grants = view.state.grants.iter().filter(|grant| grant.cluster == *cluster);
        grants.any(|grant| matches!(&grant.user, GrantedUser::One(one) if one == user))
    }

    /// Whether a cluster may know of a user: one of its own, or one whom it acts for.
    pub(super) fn knows_user(&self, peer: &ClusterName, user: &UserName) -> bool {
        let view = self.view.load();
        let Some(identity) = &view.identity else { return false };
        user.home() == Some(peer.as_str()) || self.acts_for(peer, &user.seen_in(&identity.name))
    }

    /// What was known last of a key of another cluster, whether or not its home can still be asked.
    pub fn known_day_key(&self, id: &AccessKeyId, date: &str, region: &str) -> Option<DayKey> {
        let place = (id.clone(), date.to_string(), region.to_string());
        self.day_keys.lock().unwrap_or_else(PoisonError::into_inner).get(&place)?.1.clone()
    }

    /// What verifies signatures for a day of a user whose home is another cluster; `None`: no cluster that answers knows
    /// the key. `Err`: one knew it that is away.
    pub async fn day_key(
        &self,
        id: &AccessKeyId,
        date: &str,
        region: &str,
    ) -> Result<Option<DayKey>, LinkError> {
        let place = (id.clone(), date.to_string(), region.to_string());
        let now = self.parts.seams.env.monotonic();
        let kept = self.day_keys.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some((asked, key)) = kept
            && now.saturating_sub(asked) < RECORD_LIFETIME
        {
            return Ok(key);
        }
        let view = self.view.load_full();
        let _place = self.asking.acquire().await;
        let path = format!("keys/{id}?date={date}&region={region}");
        let path = &path;
        let asked = view.living().into_iter().map(|link| async move {
            let key = timeout(ASK_DEADLINE, link.get::<DayKey>(path)).await.ok()?.ok()?;
            let is_theirs = key.user.home() == Some(link.name.as_str()) && key.id == *id;
            is_theirs.then(|| (link.name.clone(), key))
        });
        let found = join_all(asked).await.into_iter().flatten().next();
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((home, _)) = &found {
            homes.put(id.clone(), home.clone());
        } else if let Some(link) = homes.get(id).and_then(|home| view.links.get(home))
            && !link.answers()
        {
            let why = "it is the home of the access key".to_string();
            return Err(LinkError::Away(link.name.clone(), why));
        }
        let key = found.map(|(_, key)| key);
        let mut kept = self.day_keys.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(place, (now, key.clone()));
        Ok(key)
    }
}
