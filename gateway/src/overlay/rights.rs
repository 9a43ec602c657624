//! Which cluster acts for whom: what is granted here, and what other clusters tell for what is granted there.

use std::sync::{Arc, PoisonError};

use consensus::meta::model::ClusterMs;
use consensus::meta::names::{AccessKeyId, BucketName, ClusterName, UserName};
use consensus::meta::overlay::{GrantedUser, OverlayChange, OverlayGrant};
use futures::future::join_all;
use tokio::time::timeout;

use super::link::{Link, LinkError};
use super::wire::DayKey;
use super::{ASK_DEADLINE, Overlay, OverlayError};
use crate::accounts::RECORD_LIFETIME;

/// What a cluster says of an access key.
enum Told {
    /// It is the home of the key.
    Key(Arc<Link>, DayKey),
    /// It is not.
    None,
    /// It is away.
    Nothing(Arc<Link>),
}

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

    /// What verifies signatures for a day of a user whose home is another cluster; `None`: no cluster knows the key. `Err`:
    /// one may that is away.
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
        let asked = view.all().into_iter().map(|link| async move {
            match timeout(ASK_DEADLINE, link.get::<DayKey>(path)).await {
                Ok(Ok(key)) if key.user.home() == Some(link.name.as_str()) && key.id == *id => {
                    Told::Key(link, key)
                }
                Ok(Ok(_)) => Told::None,
                Ok(Err(LinkError::Refused(status, _))) if !status.is_server_error() => Told::None,
                Ok(Err(_)) | Err(_) => Told::Nothing(link),
            }
        });
        let (mut found, mut silent) = (None, Vec::new());
        for told in join_all(asked).await {
            match told {
                Told::Key(link, key) => found = Some((link.name.clone(), key)),
                Told::Nothing(link) => silent.push(link.name.clone()),
                Told::None => {}
            }
        }
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((home, _)) = &found {
            homes.put(id.clone(), home.clone());
        } else {
            // A cluster that answers and had the key has it no longer.
            let home = homes.get(id).filter(|home| view.links.contains_key(*home));
            if let Some(away) = silent.iter().find(|name| home.is_none_or(|home| home == *name)) {
                let why = "it may be the home of the access key".to_string();
                return Err(LinkError::Away(away.clone(), why));
            }
        }
        let key = found.map(|(_, key)| key);
        let mut kept = self.day_keys.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(place, (now, key.clone()));
        Ok(key)
    }
}
