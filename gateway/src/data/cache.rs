//! Hot chunks in memory.
//!
//! A segmented LRU: what is read once waits in *probation* (20 % of the bytes), what is read again moves to
//! *protected* (80 %). One scan over cold data therefore passes through probation and leaves the hot set alone.
//! Keys that fell out of probation, and keys of which only a part was read, are remembered as *ghosts* without
//! bytes: a key that comes back soon enters protected at once.
//!
//! What always holds: the bytes of both segments together are at most the budget; an entry is at most 1/64 of it.
//! A chunk id never names other bytes, so that an entry never goes stale.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fabric::ids::ChunkId;
use lru::LruCache;

use super::segment::Segment;

/// Ghosts kept at most.
const GHOSTS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is not zero");

/// Chunks by id. Shared; every call is short.
pub struct Cache {
    segments: Mutex<Segments>,
    entry_bytes_max: usize,
}

struct Segments {
    probation: Segment<ChunkId, Bytes>,
    protected: Segment<ChunkId, Bytes>,
    ghosts: LruCache<ChunkId, ()>,
}

impl Cache {
    /// A cache of at most `bytes`; 0 keeps nothing.
    pub fn new(bytes: usize) -> Cache {
        let segments = Segments {
            probation: Segment::new(bytes / 5),
            protected: Segment::new(bytes - bytes / 5),
            ghosts: LruCache::new(GHOSTS_MAX),
        };
        Cache { segments: Mutex::new(segments), entry_bytes_max: bytes / 64 }
    }

    /// The whole chunk, if it is here; a second read makes it hot.
    pub fn get(&self, id: ChunkId) -> Option<Bytes> {
        let mut segments = self.lock();
        let found = segments.get(id);
        drop(segments);
        match &found {
            Some(_) => metrics::counter!("fluffy_cache_hits_total").increment(1),
            None => metrics::counter!("fluffy_cache_misses_total").increment(1),
        }
        found
    }

    /// Offers a whole chunk that was read from a node.
    pub fn put(&self, id: ChunkId, chunk: &Bytes) {
        if chunk.is_empty() || self.entry_bytes_max < chunk.len() {
            return;
        }
        let mut segments = self.lock();
        let evicted = segments.put(id, chunk.clone());
        let bytes = segments.probation.bytes() + segments.protected.bytes();
        drop(segments);
        metrics::counter!("fluffy_cache_evictions_total").increment(evicted);
        metrics::gauge!("fluffy_cache_bytes").set(bytes as f64);
    }

    /// Notes that a part of a chunk is read. True when the chunk was wanted before and not long ago: then reading
    /// all of it pays.
    pub fn wanted_before(&self, id: ChunkId, chunk_bytes: usize) -> bool {
        if self.entry_bytes_max < chunk_bytes {
            return false;
        }
        let mut segments = self.lock();
        segments.ghosts.put(id, ()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Segments> {
        // A panic between two lines of arithmetic leaves a cache that is still only a cache.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Segments {
    fn get(&mut self, id: ChunkId) -> Option<Bytes> {
        if let Some(chunk) = self.protected.get(&id) {
            return Some(chunk.clone());
        }
        let chunk = self.probation.remove(&id)?;
        self.protected.put(id, chunk.clone());
        self.settle();
        Some(chunk)
    }

    fn put(&mut self, id: ChunkId, chunk: Bytes) -> u64 {
        if self.protected.contains(&id) {
            return 0;
        }
        if self.ghosts.pop(&id).is_some() {
            self.probation.remove(&id);
            self.protected.put(id, chunk);
        } else {
            self.probation.put(id, chunk);
        }
        self.settle()
    }

    /// Moves what protected cannot hold to probation, and what probation cannot hold out. Returns how many left.
    fn settle(&mut self) -> u64 {
        while let Some((id, chunk)) = self.protected.overflow() {
            self.probation.put(id, chunk);
        }
        let mut evicted = 0;
        while let Some((id, _)) = self.probation.overflow() {
            self.ghosts.put(id, ());
            evicted += 1;
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> ChunkId {
        ChunkId::from_u128(number)
    }

    fn chunk(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    fn bytes_of(cache: &Cache) -> usize {
        let segments = cache.lock();
        segments.probation.bytes() + segments.protected.bytes()
    }

    #[test]
    fn a_scan_does_not_wash_out_what_is_hot() {
        let cache = Cache::new(6400);
        for hot in 0..10 {
            cache.put(id(hot), &chunk(100));
            assert!(cache.get(id(hot)).is_some());
        }
        for cold in 100..1000 {
            cache.put(id(cold), &chunk(100));
            assert!(bytes_of(&cache) <= 6400);
        }
        for hot in 0..10 {
            assert_eq!(cache.get(id(hot)), Some(chunk(100)));
        }
        assert_eq!(cache.get(id(100)), None);
        assert!(cache.get(id(999)).is_some());
    }

    #[test]
    fn what_comes_back_soon_is_protected_at_once() {
        let cache = Cache::new(6400);
        cache.put(id(1), &chunk(100));
        for other in 100..200 {
            cache.put(id(other), &chunk(100));
        }
        assert_eq!(cache.get(id(1)), None);
        cache.put(id(1), &chunk(100));
        for other in 200..300 {
            cache.put(id(other), &chunk(100));
        }
        assert!(cache.get(id(1)).is_some());
    }

    #[test]
    fn large_entries_and_empty_caches_keep_nothing() {
        let cache = Cache::new(6400);
        cache.put(id(1), &chunk(101));
        assert_eq!(cache.get(id(1)), None);
        let none = Cache::new(0);
        none.put(id(1), &chunk(1));
        assert_eq!(none.get(id(1)), None);
        assert!(!none.wanted_before(id(1), 1) && !none.wanted_before(id(1), 1));
    }

    #[test]
    fn a_part_read_twice_is_wanted() {
        let cache = Cache::new(6400);
        assert!(!cache.wanted_before(id(1), 100));
        assert!(cache.wanted_before(id(1), 100));
    }

    #[test]
    fn the_same_chunk_again_counts_once() {
        let cache = Cache::new(6400);
        cache.put(id(1), &chunk(100));
        cache.put(id(1), &chunk(100));
        assert_eq!(bytes_of(&cache), 100);
        cache.get(id(1));
        cache.put(id(1), &chunk(100));
        assert_eq!(bytes_of(&cache), 100);
    }
}
