//! In which volumes the chunks of an extent are.
//!
//! Rebuilt from the indexes of the volumes at each start; bounded by them: one entry for each extent and
//! volume, some 50 bytes for up to a gigabyte of chunks.

use std::collections::BTreeMap;

use fabric::ids::{ChunkId, ExtentId};

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Locator {
    /// extent → (volume, chunks of the extent in it). An entry of 0 chunks does not exist.
    extents: BTreeMap<ExtentId, Vec<(u32, u32)>>,
}

impl Locator {
    /// Volumes that may hold chunks of the extent.
    pub(super) fn volumes_of(&self, extent: ExtentId) -> Vec<u32> {
        self.extents
            .get(&extent)
            .map(|places| places.iter().map(|place| place.0).collect())
            .unwrap_or_default()
    }

    /// The first extent that is not below.
    pub(super) fn extent_from(&self, extent: ExtentId) -> Option<ExtentId> {
        self.extents.range(extent..).next().map(|(extent, _)| *extent)
    }

    /// Chunks of an extent came into a volume.
    pub(super) fn add(&mut self, extent: ExtentId, volume: u32, chunks: u32) {
        let places = self.extents.entry(extent).or_default();
        match places.iter_mut().find(|place| place.0 == volume) {
            Some(place) => place.1 = place.1.saturating_add(chunks),
            None => places.push((volume, chunks)),
        }
    }

    /// Chunks of an extent left a volume.
    pub(super) fn remove(&mut self, extent: ExtentId, volume: u32, chunks: u32) {
        let Some(places) = self.extents.get_mut(&extent) else { return };
        places
            .iter_mut()
            .filter(|place| place.0 == volume)
            .for_each(|place| place.1 = place.1.saturating_sub(chunks));
        places.retain(|place| place.1 > 0);
        if places.is_empty() {
            self.extents.remove(&extent);
        }
    }

    /// Nothing is known of the volume any more.
    pub(super) fn forget(&mut self, volume: u32) {
        self.extents.retain(|_, places| {
            places.retain(|place| place.0 != volume);
            !places.is_empty()
        });
    }
}

/// The largest id that a chunk of the extent can have.
pub(super) fn last_chunk(extent: ExtentId) -> ChunkId {
    ChunkId::from_u128(extent.chunk(0).get() | 0xFF_FFFF)
}

#[cfg(test)]
mod tests {
    use fabric::ids::SessionId;

    use super::*;

    #[test]
    fn finds_what_came_and_forgets_what_left() {
        let extent = |number| ExtentId::new(1, SessionId { epoch: 1, number: 1 }, number);
        let mut locator = Locator::default();
        locator.add(extent(1), 1, 2);
        locator.add(extent(1), 2, 1);
        locator.add(extent(2), 1, 1);
        assert_eq!(locator.volumes_of(extent(1)), [1, 2]);
        locator.remove(extent(1), 1, 1);
        assert_eq!(locator.volumes_of(extent(1)), [1, 2]);
        locator.remove(extent(1), 1, 1);
        assert_eq!(locator.volumes_of(extent(1)), [2]);
        assert_eq!(locator.extent_from(extent(0)), Some(extent(1)));
        locator.add(extent(3), 2, 1);
        locator.forget(2);
        locator.add(extent(3), 2, 1);
        assert_eq!(locator.extent_from(extent(0)), Some(extent(2)));
        assert_eq!(locator.volumes_of(extent(3)), [2]);
        assert_eq!(last_chunk(extent(3)).extent(), extent(3));
    }
}
