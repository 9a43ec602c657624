//! Who is in the overlay: invitations, introductions, and the end of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::meta::model::ClusterMs;
use consensus::meta::names::ClusterName;
use consensus::meta::overlay::{Member, OverlayChange, PublicKey, Standing};
use futures::future::join_all;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::identity::{Identity, Seed};
use super::link::Link;
use super::wire::{Card, Join, Leave, Members, Token};
use super::{KEY_LABEL, Overlay, OverlayError, bad, gossip};
use crate::secrets::Secret;

/// How long an invitation is good where nobody says.
pub const INVITE_LIFETIME_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// And at most.
pub const INVITE_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Overlay {
    /// The identity of the cluster, drawn now if there is none.
    async fn found(self: &Arc<Self>) -> Result<Arc<Identity>, OverlayError> {
        self.refresh().await?;
        if let Some(identity) = &self.view.load().identity {
            return Ok(identity.clone());
        }
        let name = self.parts.region.parse::<ClusterName>();
        let name = name.map_err(|error| OverlayError::Bad(format!("--region: {error}")))?;
        let env = &*self.parts.seams.env;
        let sealed_key = self.parts.cluster_key.seal_bytes(env, KEY_LABEL, Seed::draw(env).as_bytes());
        self.propose(OverlayChange::Found { name, sealed_key }).await?;
        self.refresh().await?;
        let identity = self.view.load().identity.clone();
        identity.ok_or_else(|| OverlayError::Bad("this cluster has no identity yet".to_string()))
    }

    pub(super) fn card(&self, identity: &Identity) -> Card {
        Card::new(identity, vec![self.parts.config.address.clone()], self.serial.load(Ordering::Relaxed))
    }

    /// What this gateway says from now on is newer than what it said before, though the clock was set back meanwhile.
    fn next_serial(&self) -> u64 {
        let wall_ms = self.parts.seams.env.wall_ms();
        let by_clock = self.parts.seams.env.armed("serial_by_clock");
        let next = |serial: u64| Some(if by_clock { wall_ms } else { wall_ms.max(serial + 1) });
        let before = self.serial.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.ok().and_then(next).unwrap_or(wall_ms)
    }

    /// Invites a cluster: the text of a token that is good for once.
    pub async fn invite(self: &Arc<Self>, lifetime: Duration) -> Result<Token, OverlayError> {
        let identity = self.found().await?;
        let env = &*self.parts.seams.env;
        let secret = Secret::draw(env);
        let id = fabric::env::random_u128(env);
        let lifetime_ms = lifetime.min(INVITE_LIFETIME_MAX).as_millis() as u64;
        let secret_sha256 = Sha256::digest(secret.expose()).into();
        self.propose(OverlayChange::Invite { id, secret_sha256, lifetime_ms }).await?;
        Ok(Token {
            cluster: identity.name.clone(),
            key: identity.key,
            addresses: vec![self.parts.config.address.clone()],
            id: id.to_string(),
            secret: secret.expose().to_string(),
            expires_ms: env.wall_ms() + lifetime_ms,
        })
    }

    /// Takes an invitation: both clusters know each other then, and all that the other knows. Returns who invited.
    pub async fn join(self: &Arc<Self>, token: &Token) -> Result<ClusterName, OverlayError> {
        let identity = self.found().await?;
        if token.key == identity.key {
            return bad("the token is one of this cluster; it is for another one");
        }
        if token.cluster == identity.name {
            return bad(format!(
                "both clusters are named {}; a cluster is named by its region, which --region sets",
                identity.name
            ));
        }
        if token.expires_ms <= self.parts.seams.env.wall_ms() {
            return bad("the token is expired; invite again");
        }
        let seams = self.parts.seams.clone();
        let link =
            Link::new(seams, identity.clone(), token.cluster.clone(), token.key, token.addresses.clone());
        self.next_serial();
        let card = self.card(&identity);
        let join = Join { id: token.id.clone(), secret: token.secret.clone(), card };
        let answer: Members = Arc::new(link).post_first("join", &join).await?;
        if answer.card.key != token.key || answer.card.cluster != token.cluster || !answer.card.is_true() {
            return bad("the cluster that answers is not the one that invited");
        }
        self.admit(None, true, &answer.card, None).await?;
        self.gossip.note(std::slice::from_ref(&answer.card));
        self.introduce(&gossip::united(answer.members), &token.cluster).await;
        self.refresh().await?;
        Ok(token.cluster.clone())
    }

    /// Another cluster takes an invitation of this one.
    pub(in crate::overlay) async fn joined(
        self: &Arc<Self>,
        join: &Join,
        shown: &PublicKey,
    ) -> Result<Members, OverlayError> {
        let identity = self.found().await?;
        if join.card.key != *shown || !join.card.is_true() {
            return bad("the card is not signed with the key of the connection");
        }
        let Ok(id) = join.id.parse::<u128>() else { return bad("the invitation has no such id") };
        let secret = Sha256::digest(join.secret.as_bytes()).into();
        self.admit(Some((id, secret)), false, &join.card, None).await?;
        self.gossip.note(std::slice::from_ref(&join.card));
        self.refresh().await?;
        tracing::info!(cluster = %join.card.cluster, "a cluster joined");
        Ok(self.members(&identity))
    }

    /// Whom this cluster knows.
    pub(in crate::overlay) fn members(&self, identity: &Identity) -> Members {
        let view = self.view.load();
        let mut members = self.gossip.cards();
        members.retain(|card| view.links.get(&card.cluster).is_some_and(|link| link.key() == card.key));
        Members { card: self.card(identity), members }
    }

    async fn admit(
        &self,
        invite: Option<(u128, [u8; 32])>,
        joined: bool,
        card: &Card,
        via: Option<&ClusterName>,
    ) -> Result<(), OverlayError> {
        let member = Member {
            name: card.cluster.clone(),
            key: card.key,
            addresses: card.addresses.clone(),
            serial: card.serial,
            via: via.cloned(),
            since: ClusterMs(0),
            standing: Standing::In,
        };
        self.propose(OverlayChange::Admit { invite, joined, member }).await
    }

    /// A member tells of others: they are members, too, unless that contradicts what is known.
    pub(in crate::overlay) async fn introduce(&self, cards: &[(Card, Vec<String>)], via: &ClusterName) {
        let view = self.view.load_full();
        let own = view.identity.as_ref().map(|identity| identity.key);
        for (card, addresses) in cards.iter().filter(|(card, _)| Some(card.key) != own) {
            let known = view.state.members.iter().find(|member| member.name == card.cluster);
            let is_news = known.is_none_or(|known| {
                let is_newer = known.key == card.key && known.serial < card.serial;
                match known.standing {
                    Standing::In => is_newer && known.addresses != *addresses,
                    Standing::Left => is_newer,
                    Standing::Removed => false,
                }
            });
            let card = Card { addresses: addresses.clone(), ..card.clone() };
            if is_news && let Err(error) = self.admit(None, false, &card, Some(via)).await {
                tracing::debug!(cluster = %card.cluster, %via, %error, "an introduction was not taken");
            }
        }
    }

    /// This cluster leaves: the others that answer hear of it.
    pub async fn leave(self: &Arc<Self>) -> Result<(), OverlayError> {
        let serial = self.next_serial();
        let told = self.links().into_iter().map(|link| async move {
            // A gateway that has just begun has no sign of life of anybody yet.
            if let Err(error) = link.post_first::<Value>("leave", &Leave { serial }).await {
                tracing::info!(cluster = %link.name, %error, "a cluster does not hear that this one leaves");
            }
        });
        join_all(told).await;
        self.propose(OverlayChange::Leave).await?;
        self.refresh().await
    }

    /// A cluster is no member any more.
    pub async fn remove(self: &Arc<Self>, name: &ClusterName) -> Result<(), OverlayError> {
        self.propose(OverlayChange::Remove(name.clone())).await?;
        self.refresh().await
    }

    /// A cluster says that it leaves.
    pub(in crate::overlay) async fn parted(
        self: &Arc<Self>,
        cluster: &ClusterName,
        serial: u64,
    ) -> Result<(), OverlayError> {
        tracing::info!(%cluster, "a cluster leaves");
        self.propose(OverlayChange::Left { cluster: cluster.clone(), serial }).await?;
        self.refresh().await
    }

    /// The member that has this key.
    pub(in crate::overlay) fn member_of(&self, key: &PublicKey) -> Option<ClusterName> {
        let view = self.view.load();
        view.links.values().find(|link| link.key() == *key).map(|link| link.name.clone())
    }
}
