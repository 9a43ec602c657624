//! What was used last, within a bound of bytes.

use std::hash::Hash;

use bytes::Bytes;
use lru::LruCache;

/// What has a size.
pub trait Weigh {
    /// Its bytes.
    fn bytes(&self) -> usize;
}

impl Weigh for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// Entries in the order of their last use.
pub struct Segment<K: Hash + Eq, V> {
    entries: LruCache<K, V>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq, V: Weigh> Segment<K, V> {
    /// For so many bytes, which [`Segment::overflow`] sees to.
    pub fn new(bytes_max: usize) -> Segment<K, V> {
        Segment { entries: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry, which is the one used last from now on.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Whether it is here.
    pub fn contains(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// Puts an entry in, in place of the one of its key.
    pub fn put(&mut self, key: K, value: V) {
        self.bytes += value.bytes();
        if let Some(replaced) = self.entries.put(key, value) {
            self.bytes -= replaced.bytes();
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.entries.pop(key)?;
        self.bytes -= value.bytes();
        Some(value)
    }

    /// Takes out the oldest entry while there are too many bytes.
    pub fn overflow(&mut self) -> Option<(K, V)> {
        if self.bytes <= self.bytes_max {
            return None;
        }
        let (key, value) = self.entries.pop_lru()?;
        self.bytes -= value.bytes();
        Some((key, value))
    }
}
