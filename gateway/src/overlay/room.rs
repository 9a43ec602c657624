//! How much room this cluster has for new buckets, and when they are better off in another one.
//!
//! A cluster has its marks: how full its disks may be, and how busy a gateway. Above one of them it offers no room to
//! others, and a new bucket whose creator does not say where it is to be goes to a cluster that offers some.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consensus::client::ask;
use consensus::meta::model::PlacedWhy;
use consensus::meta::query::{Answer, Query};
use fabric::ids::NodeId;
use fabric::limits::COPIES;
use futures::future::join_all;
use storage::client::NodeSpace;
use tokio::time::timeout;

use super::link::Link;
use super::wire::Room;
use super::{Overlay, OverlayError, bad};

/// Disks are looked at again after this.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);
/// A node says within this how much room it has, or is left out.
const SPACE_DEADLINE: Duration = Duration::from_secs(1);
/// How much the newest look counts in the mean load; with a look a second it is one over the last few seconds.
const LOAD_WEIGHT: f64 = 0.2;
/// What another cluster said of its room longer ago is no offer any more.
const OFFER_LIFETIME: Duration = Duration::from_secs(15);

/// What operators say of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomConfig {
    /// Whether other clusters may put new buckets here.
    pub offered: bool,
    /// Disks are too full above this, in percent.
    pub space_mark_percent: u8,
    /// A gateway is too busy above this, in percent of the turns of its fullest queue.
    pub load_mark_percent: u8,
}

impl RoomConfig {
    /// Where nobody says.
    pub const DEFAULT: RoomConfig =
        RoomConfig { offered: false, space_mark_percent: 85, load_mark_percent: 90 };

    /// Which mark is passed, if one is.
    fn passed(&self, measured: &Measured) -> Option<PlacedWhy> {
        let Measured { space, load, .. } = measured;
        let used = space.total_bytes.saturating_sub(space.free_bytes);
        let is_full =
            u128::from(space.total_bytes) * u128::from(self.space_mark_percent) < u128::from(used) * 100;
        match is_full {
            true => Some(PlacedWhy::Space),
            false if f64::from(self.load_mark_percent) < load * 100.0 => Some(PlacedWhy::Load),
            false => None,
        }
    }
}

/// What was found at the last look.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// When the disks were looked at.
    at: Option<Duration>,
    /// Of all nodes that answered.
    space: NodeSpace,
    /// What new objects may take.
    free_bytes: u64,
    /// Of this gateway, 0 to 1.
    load: f64,
}

/// The last look.
#[derive(Default)]
pub struct Gauge(Mutex<Measured>);

impl Gauge {
    fn read(&self) -> Measured {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Measured)) {
        // Each change is a few assignments, so poison means nothing here.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Overlay {
    /// Looks how busy this gateway is, and now and then how full the disks are.
    pub(super) async fn look_at_room(&self) {
        let load = self.parts.queues.load();
        self.gauge.change(|measured| measured.load += (load - measured.load) * LOAD_WEIGHT);
        let now = self.parts.seams.env.monotonic();
        if self.gauge.read().at.is_none_or(|at| at + SPACE_INTERVAL <= now) {
            match self.space().await {
                Ok((space, copies)) => self.gauge.change(|measured| {
                    let free_bytes = space.free_bytes / copies.max(1);
                    *measured = Measured { at: Some(now), space, free_bytes, ..*measured };
                }),
                Err(error) => tracing::debug!(%error, "nobody says how full the disks are"),
            }
        }
        let passed = self.pressed();
        for why in [PlacedWhy::Space, PlacedWhy::Load] {
            let is_passed = if passed == Some(why) { 1.0 } else { 0.0 };
            metrics::gauge!("fluffy_overlay_mark_passed", "mark" => why.name()).set(is_passed);
        }
        metrics::gauge!("fluffy_overlay_room_bytes").set(self.gauge.read().free_bytes as f64);
    }

    /// Room on all nodes that answer, and on how many of them an object is.
    async fn space(&self) -> Result<(NodeSpace, u64), OverlayError> {
        let Answer::Layout(Some(layout)) = ask(&*self.parts.meta, Query::Layout(None)).await? else {
            return bad("there is no layout yet");
        };
        let copies = layout.partitions.first().map_or(1, |owners| owners.len().min(COPIES) as u64);
        let nodes: BTreeSet<NodeId> = layout.partitions.iter().flatten().copied().collect();
        let asked = nodes.into_iter().map(|node| async move {
            timeout(SPACE_DEADLINE, self.parts.chunks.space(node)).await.ok()?.ok()
        });
        let told = join_all(asked).await.into_iter().flatten();
        let sum = told.fold(NodeSpace::default(), |sum, node| NodeSpace {
            free_bytes: sum.free_bytes + node.free_bytes,
            total_bytes: sum.total_bytes + node.total_bytes,
        });
        Ok((sum, copies))
    }

    /// The mark that this cluster is above, if it is above one.
    pub fn pressed(&self) -> Option<PlacedWhy> {
        self.parts.config.room.passed(&self.gauge.read())
    }

    /// What others hear of the room here.
    pub(super) fn room(&self) -> Room {
        let free_bytes = self.gauge.read().free_bytes;
        Room { free_bytes, offered: self.parts.config.room.offered && self.pressed().is_none() }
    }

    /// Clusters that answer and offer room, those with the most of it first.
    pub fn with_room(&self) -> Vec<Arc<Link>> {
        let now = self.parts.seams.env.monotonic();
        let mut offers: Vec<(u64, Arc<Link>)> = self
            .view
            .load()
            .living()
            .into_iter()
            .filter_map(|link| {
                let taken = self.catalogs.of(&link.name)?;
                let is_fresh = now.saturating_sub(taken.told_at()?) < OFFER_LIFETIME;
                let Room { free_bytes, offered } = taken.catalog.room;
                (is_fresh && offered && 0 < free_bytes).then_some((free_bytes, link))
            })
            .collect();
        offers.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.name.cmp(&b.name)));
        offers.into_iter().map(|(_, link)| link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_passed_above_them() {
        let config = RoomConfig { space_mark_percent: 80, load_mark_percent: 50, ..RoomConfig::DEFAULT };
        let measured = |free_bytes, load| Measured {
            space: NodeSpace { free_bytes, total_bytes: 1_000 },
            load,
            ..Measured::default()
        };
        assert_eq!(config.passed(&Measured::default()), None);
        assert_eq!(config.passed(&measured(200, 0.5)), None);
        assert_eq!(config.passed(&measured(199, 0.0)), Some(PlacedWhy::Space));
        assert_eq!(config.passed(&measured(200, 0.51)), Some(PlacedWhy::Load));
        let never = RoomConfig { space_mark_percent: 100, load_mark_percent: 100, ..config };
        assert_eq!(never.passed(&measured(0, 1.0)), None);
    }
}
