//! How clusters hear of each other: gateways gossip about who is alive and where, over the links between clusters.
//!
//! What is heard counts only as far as it is signed: a card is of the cluster whose key signed it, whoever passed it on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig,
    Serializable, spawn_chitchat,
};
use consensus::meta::names::ClusterName;
use fabric::limits::{GOSSIP_WAITING_MAX, OVERLAY_CARDS_MAX};
use lru::LruCache;
use tokio::sync::mpsc;

use super::Overlay;
use super::link::Link;
use super::wire::Card;

/// Each gateway tells somebody so often.
const INTERVAL: Duration = Duration::from_secs(1);
/// What was deleted is remembered for so long.
const DELETED_KEPT: Duration = Duration::from_secs(60 * 60);
/// All overlays have this name; who takes part is decided by links.
const OVERLAY: &str = "fluffy-overlay";
/// Under which key a gateway tells its card.
const CARD: &str = "card";

/// A message, and from which gateway it is.
type Received = (SocketAddr, ChitchatMessage);

/// What came by gossip.
pub struct Mailbox {
    sender: Mutex<Option<mpsc::Sender<Received>>>,
    heard: Mutex<Heard>,
    /// Of which cluster the gateway is that wrote from an address: it is answered there.
    writers: Mutex<LruCache<SocketAddr, ClusterName>>,
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        let writers = NonZeroUsize::new(OVERLAY_CARDS_MAX).unwrap_or(NonZeroUsize::MIN);
        Mailbox {
            sender: Mutex::default(),
            heard: Mutex::default(),
            writers: Mutex::new(LruCache::new(writers)),
        }
    }
}

#[derive(Default)]
struct Heard {
    /// Of gateways that are alive, those of this cluster left out.
    cards: Vec<Card>,
    /// The last one of each gateway, by cluster and address, whether it is alive or not.
    known: BTreeMap<(ClusterName, String), Card>,
    /// Who told last.
    teller: Option<ClusterName>,
}

impl Mailbox {
    /// A message of a member, from the gateway at this address. An error is one sentence.
    pub fn put(&self, teller: &ClusterName, from: SocketAddr, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        let message = ChitchatMessage::deserialize(&mut rest)
            .map_err(|error| format!("the message cannot be read: {error}"))?;
        self.heard().teller = Some(teller.clone());
        self.writers().put(from, teller.clone());
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            // Where too many wait, this one is lost, as gossip may be.
            let _ = sender.try_send((from, message));
        }
        Ok(())
    }

    /// Notes cards that were shown.
    pub fn note(&self, cards: &[Card]) {
        let mut heard = self.heard();
        for card in cards.iter().filter(|card| card.is_true()) {
            let place = (card.cluster.clone(), card.addresses.first().cloned().unwrap_or_default());
            let is_older = heard.known.get(&place).is_some_and(|known| card.serial < known.serial);
            if !is_older && (heard.known.len() < OVERLAY_CARDS_MAX || heard.known.contains_key(&place)) {
                heard.known.insert(place, card.clone());
            }
        }
    }

    /// The last cards of gateways of other clusters.
    pub fn cards(&self) -> Vec<Card> {
        self.heard().known.values().cloned().collect()
    }

    /// How many gateways of a cluster are alive.
    pub fn gateways(&self, cluster: &ClusterName) -> usize {
        self.heard().cards.iter().filter(|card| card.cluster == *cluster).count()
    }

    /// Where gateways of a cluster listen, as their cards say.
    pub fn addresses(&self, cluster: &ClusterName) -> Vec<String> {
        let heard = self.heard();
        let of = heard.known.iter().filter(|((name, _), _)| name == cluster);
        of.flat_map(|(_, card)| card.addresses.clone()).collect()
    }

    fn writers(&self) -> std::sync::MutexGuard<'_, LruCache<SocketAddr, ClusterName>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        // Each change is a single assignment, so poison means nothing here.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gossip of one gateway.
pub struct Gossip {
    chitchat: ChitchatHandle,
}

impl Gossip {
    /// Begins; `None`: the address of this gateway is not to be found out yet.
    pub async fn start(overlay: Arc<Overlay>) -> Option<Gossip> {
        let own = resolve(&overlay, &overlay.parts.config.address).await?;
        let env = &*overlay.parts.seams.env;
        let mut drawn = [0; 8];
        env.random(&mut drawn);
        let node = format!("{}/{}", overlay.parts.region, hex::encode(drawn));
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(node, env.wall_ms(), own),
            cluster_id: OVERLAY.to_string(),
            gossip_interval: INTERVAL,
            listen_addr: own,
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: DELETED_KEPT,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let card = overlay.card(&*overlay.view.load().identity.clone()?);
        let told = vec![(CARD.to_string(), serde_json::to_string(&card).unwrap_or_default())];
        match spawn_chitchat(config, told, &Links(Arc::downgrade(&overlay))).await {
            Ok(chitchat) => Some(Gossip { chitchat }),
            Err(error) => {
                tracing::warn!(%error, "no gossip with other clusters");
                None
            }
        }
    }

    /// Heeds what was heard, and talks to clusters of which nothing was.
    pub async fn heed(&self, overlay: &Arc<Overlay>) {
        let region = overlay.parts.region.as_str();
        let read = |node: &ChitchatId, card: &str| {
            let card: Card = serde_json::from_str(card).ok()?;
            let is_of =
                node.node_id.split_once('/').is_some_and(|(cluster, _)| cluster == card.cluster.as_str());
            (is_of && card.cluster.as_str() != region && card.is_true()).then_some(card)
        };
        let cards: Vec<Card> = {
            let chitchat = self.chitchat.chitchat();
            let mut chitchat = chitchat.lock().await;
            if let Some(identity) = &overlay.view.load().identity {
                let card = serde_json::to_string(&overlay.card(identity)).unwrap_or_default();
                chitchat.self_node_state().set(CARD, card);
            }
            let alive =
                chitchat.live_nodes().filter_map(|node| read(node, chitchat.node_state(node)?.get(CARD)?));
            alive.collect()
        };
        for link in overlay.view.load_full().living() {
            if !cards.iter().any(|card| card.cluster == link.name)
                && let Some(address) = link.first_address()
                && let Some(address) = resolve(overlay, &address).await
            {
                // An error means that the gossip ended, which is seen elsewhere.
                let _ = self.chitchat.gossip(address);
            }
        }
        overlay.gossip.note(&cards);
        let teller = {
            let mut heard = overlay.gossip.heard();
            heard.cards = cards.clone();
            heard.teller.clone()
        };
        if let Some(teller) = teller {
            overlay.introduce(&united(cards), &teller).await;
        }
        overlay.address_links();
    }
}

/// The cards of each cluster as one: all their addresses, of which the newest card is the proof.
pub(super) fn united(cards: Vec<Card>) -> Vec<(Card, Vec<String>)> {
    let mut united: BTreeMap<ClusterName, (Card, Vec<String>)> = BTreeMap::new();
    for card in cards.into_iter().filter(Card::is_true) {
        let addresses = card.addresses.clone();
        let entry = united.entry(card.cluster.clone()).or_insert_with(|| (card.clone(), Vec::new()));
        if entry.0.key != card.key {
            continue;
        }
        entry.1.extend(addresses);
        if entry.0.serial < card.serial {
            entry.0 = card;
        }
    }
    let mut united: Vec<_> = united.into_values().collect();
    for (_, addresses) in &mut united {
        addresses.sort();
        addresses.dedup();
    }
    united
}

async fn resolve(overlay: &Overlay, address: &str) -> Option<SocketAddr> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = overlay.parts.seams.net.resolve(host, port.parse().ok()?).await.ok()?;
    found.into_iter().next()
}

/// The way to the gateway at an address, and how the address is written.
async fn gateway_at(overlay: &Overlay, to: SocketAddr) -> Option<(Arc<Link>, String)> {
    let view = overlay.view.load_full();
    for link in view.all() {
        for address in link.all_addresses() {
            if resolve(overlay, &address).await == Some(to) {
                return Some((link, address));
            }
        }
    }
    // One that nobody told of yet, but that writes.
    let cluster = overlay.gossip.writers().get(&to).cloned()?;
    Some((view.links.get(&cluster)?.clone(), to.to_string()))
}

/// Gossip travels over links.
struct Links(Weak<Overlay>);

#[async_trait]
impl Transport for Links {
    async fn open(&self, own: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, receiver) = mpsc::channel(GOSSIP_WAITING_MAX);
        if let Some(overlay) = self.0.upgrade() {
            *overlay.gossip.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        }
        Ok(Box::new(LinkSocket { overlay: self.0.clone(), own, receiver }))
    }
}

struct LinkSocket {
    overlay: Weak<Overlay>,
    own: SocketAddr,
    receiver: mpsc::Receiver<Received>,
}

#[async_trait]
impl Socket for LinkSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let bytes = Bytes::from(message.serialize_to_vec());
        let Some(overlay) = self.overlay.upgrade() else { anyhow::bail!("the gateway ended") };
        let own = self.own;
        let task = overlay.parts.seams.env.clone();
        let sent = async move {
            let Some((link, address)) = gateway_at(&overlay, to).await else { return };
            if let Err(error) = link.tell(&address, &format!("gossip?from={own}"), bytes).await {
                tracing::debug!(%error, "gossip is lost");
            }
        };
        task.spawn("overlay gossip", Box::pin(sent));
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<Received> {
        match self.receiver.recv().await {
            Some(received) => Ok(received),
            None => anyhow::bail!("the gateway ended"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::identity::tests::identity;
    use super::*;

    #[test]
    fn gateways_of_a_cluster_are_one_cluster() {
        let (east, west) = (identity("east"), identity("west"));
        let card = |identity, address: &str, serial| Card::new(identity, vec![address.to_string()], serial);
        let united = united(vec![card(&east, "b:1", 2), card(&west, "c:1", 9), card(&east, "a:1", 1)]);
        let shown: Vec<_> =
            united.iter().map(|(card, all)| (card.cluster.to_string(), card.serial, all.join(" "))).collect();
        let expected =
            [("east".to_string(), 2, "a:1 b:1".to_string()), ("west".to_string(), 9, "c:1".to_string())];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_gossip_is_refused() {
        let mailbox = Mailbox::default();
        let (teller, from) = ("east".parse().unwrap(), ([127, 0, 0, 1], 1).into());
        for bad in [&b""[..], b"x", &[0xFF; 100], &[0; 70_000]] {
            assert!(mailbox.put(&teller, from, bad).is_err(), "{:?}", &bad[..bad.len().min(8)]);
        }
    }
}
