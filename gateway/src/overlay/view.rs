//! What is known of the other clusters now, and how it is kept: members and grants from the metadata of this cluster, and
//! a link to each member.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use consensus::client::ask;
use consensus::meta::names::ClusterName;
use consensus::meta::overlay::{Member, OverlayState, Standing};
use consensus::meta::query::{Answer, Query};
use futures::future::join_all;

use super::identity::{Identity, Seed};
use super::link::Link;
use super::wire::{Catalog, Members};
use super::{KEY_LABEL, Overlay, OverlayError, bad, gossip};

/// What is known of others now.
#[derive(Default)]
pub struct View {
    /// Who this cluster is, once it has invited or joined.
    pub identity: Option<Arc<Identity>>,
    /// The ways to all other clusters.
    pub links: BTreeMap<ClusterName, Arc<Link>>,
    /// What is kept.
    pub state: Arc<OverlayState>,
}

impl View {
    /// The ways to all clusters.
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.links.values().cloned().collect()
    }

    /// Those to clusters that give signs of life.
    pub fn living(&self) -> Vec<Arc<Link>> {
        self.links.values().filter(|link| link.answers()).cloned().collect()
    }

    /// The way to the cluster of this name, if it is another one.
    pub fn link_named(&self, name: &str) -> Option<&Arc<Link>> {
        name.parse::<ClusterName>().ok().and_then(|name| self.links.get(&name))
    }
}

impl Overlay {
    /// Reads what is kept, and opens and closes links by it.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), OverlayError> {
        let refreshed = self.take_in().await;
        if !matches!(refreshed, Err(OverlayError::Meta(_))) {
            self.was_read.store(true, Ordering::Release);
        }
        refreshed
    }

    async fn take_in(self: &Arc<Self>) -> Result<(), OverlayError> {
        let _alone = self.refreshing.lock().await;
        let Answer::Overlay(state) = ask(&*self.parts.meta, Query::Overlay).await? else {
            return bad("the metadata answered another question than Overlay");
        };
        let before = self.view.load_full();
        if before.state == state && before.identity.is_some() == state.identity.is_some() {
            return Ok(());
        }
        let identity = match &before.identity {
            Some(identity) => Some(identity.clone()),
            None => self.identity_of(&state)?.map(Arc::new),
        };
        let mut links = BTreeMap::new();
        if let Some(identity) = &identity {
            for member in state.members.iter().filter(|member| member.standing == Standing::In) {
                let link = before.links.get(&member.name).filter(|link| link.key() == member.key).cloned();
                let link = link.unwrap_or_else(|| Arc::new(self.link_to(identity, member)));
                link.move_to(self.addresses_of(member));
                links.insert(member.name.clone(), link);
            }
        }
        for name in links.keys().filter(|name| !before.links.contains_key(*name)) {
            self.recall(name).await?;
        }
        self.watch_links(&links);
        for (name, link) in &before.links {
            if links.get(name).is_none_or(|kept| !Arc::ptr_eq(kept, link)) {
                link.close();
            }
        }
        self.catalogs.keep(|cluster| links.contains_key(cluster));
        self.view.store(Arc::new(View { identity, links, state }));
        Ok(())
    }

    fn link_to(&self, identity: &Arc<Identity>, member: &Member) -> Link {
        let addresses = member.addresses.clone();
        Link::new(self.parts.seams.clone(), identity.clone(), member.name.clone(), member.key, addresses)
    }

    /// Where a cluster listens: what is kept, and what its gateways tell.
    fn addresses_of(&self, member: &Member) -> Vec<String> {
        let mut addresses = member.addresses.clone();
        let told = self.gossip.addresses(&member.name);
        addresses.extend(told.into_iter().filter(|address| !member.addresses.contains(address)));
        addresses
    }

    /// Lets links go by what was told meanwhile.
    pub(super) fn address_links(&self) {
        let view = self.view.load();
        for member in &view.state.members {
            if let Some(link) = view.links.get(&member.name) {
                link.move_to(self.addresses_of(member));
            }
        }
    }

    /// Each link is watched by a task, which ends with it.
    fn watch_links(&self, links: &BTreeMap<ClusterName, Arc<Link>>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|name, (key, task)| {
            let stays = links.get(name).is_some_and(|link| link.key() == *key);
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, link) in links {
            tasks.entry(name.clone()).or_insert_with(|| {
                let watching = Box::pin(link.clone().watch());
                (link.key(), self.parts.seams.env.spawn("overlay link", watching))
            });
        }
    }

    /// The identity that is kept; an error where this gateway has another region.
    fn identity_of(&self, state: &OverlayState) -> Result<Option<Identity>, OverlayError> {
        let Some(kept) = &state.identity else { return Ok(None) };
        if kept.name.as_str() != self.parts.region {
            return bad(format!(
                "the overlay knows this cluster as {}, but its region is {}",
                kept.name, self.parts.region
            ));
        }
        let opened = self.parts.cluster_key.open_bytes(KEY_LABEL, &kept.sealed_key);
        let seed = opened.ok().and_then(|bytes| Seed::from_bytes(&bytes));
        let Some(seed) = seed else { return bad("the key of this cluster does not open") };
        let identity = Identity::new(kept.name.clone(), &seed);
        identity.map(Some).map_err(|error| OverlayError::Bad(format!("the key of this cluster: {error}")))
    }

    /// Asks the others what they have and whom they know.
    pub(super) async fn fetch(&self) {
        let fetched = self.view.load_full().living().into_iter().map(|link| async move {
            let at = self.parts.seams.env.monotonic();
            match link.get::<Catalog>("catalog").await {
                Ok(catalog) => self.catalogs.take(&link.name, catalog, at),
                Err(error) => tracing::debug!(cluster = %link.name, %error, "no catalog"),
            }
            if let Ok(Members { card, members }) = link.get::<Members>("members").await {
                self.gossip.note(&[card]);
                self.introduce(&gossip::united(members), &link.name).await;
            }
        });
        join_all(fetched).await;
    }
}
