//! Bytes that bodies may occupy in this process, and who holds them.
//!
//! What always holds: the sum of all holds never exceeds the budget. A hold is taken for a whole chunk before
//! its first byte is read, so that two half-filled chunks can never wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of bytes, shared by all bodies of one direction.
#[derive(Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// Bytes taken from a [`Budget`]; given back when it is dropped.
pub struct Held {
    _permit: OwnedSemaphorePermit,
}

/// The budget did not free up in time: the gateway is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the buffers of this gateway are full")]
pub struct Exhausted;

impl Budget {
    /// A budget of `bytes`; it holds at least one chunk, or nothing could ever move.
    pub fn new(bytes: u64) -> Budget {
        let least = fabric::limits::CHUNK_BYTES as u64;
        let bytes = u32::try_from(bytes.max(least)).unwrap_or(u32::MAX);
        Budget { free: Arc::new(Semaphore::new(bytes as usize)), bytes }
    }

    /// Waits for `bytes`, first come first served, at most `patience`.
    pub async fn take(&self, bytes: usize, patience: Duration) -> Result<Held, Exhausted> {
        let permits = self.permits(bytes);
        let waiting = self.free.clone().acquire_many_owned(permits);
        match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(permit)) => Ok(Held { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(Exhausted),
        }
    }

    /// Takes `bytes` if they are free now and one `part`-th of the budget stays free.
    pub fn try_take_leaving(&self, bytes: usize, part: usize) -> Option<Held> {
        // Two at once may leave a little less.
        let left = self.free_bytes().checked_sub(bytes)?;
        if left < self.bytes as usize / part { None } else { self.try_take(bytes) }
    }

    /// Takes `bytes` if they are free now.
    pub fn try_take(&self, bytes: usize) -> Option<Held> {
        let permit = self.free.clone().try_acquire_many_owned(self.permits(bytes)).ok()?;
        Some(Held { _permit: permit })
    }

    /// Bytes that nobody holds.
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits()
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes)
    }
}

impl Held {
    /// Ties the hold to the bytes it stands for: it ends with the last handle to them.
    pub fn attach(self, bytes: Bytes) -> Bytes {
        struct Owned {
            bytes: Bytes,
            _held: Held,
        }
        impl AsRef<[u8]> for Owned {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        Bytes::from_owner(Owned { bytes, _held: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = fabric::limits::CHUNK_BYTES;

    #[tokio::test(start_paused = true)]
    async fn a_hold_is_given_back_with_the_bytes() {
        let budget = Budget::new(CHUNK as u64);
        let held = budget.take(CHUNK, Duration::ZERO).await.expect("all of it is free");
        assert_eq!(budget.free_bytes(), 0);
        let bytes = held.attach(Bytes::from_static(b"abc"));
        assert!(budget.take(1, Duration::from_secs(1)).await.is_err());
        assert!(budget.try_take(1).is_none());
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert!(budget.try_take(1).is_none(), "a slice still holds it");
        drop(slice);
        assert_eq!(budget.free_bytes(), CHUNK);
    }

    #[tokio::test]
    async fn some_leave_a_part_to_others() {
        let budget = Budget::new(4 * CHUNK as u64);
        let first = budget.try_take_leaving(2 * CHUNK, 2);
        assert!(first.is_some() && budget.try_take_leaving(1, 2).is_none());
        assert!(budget.try_take_leaving(CHUNK, 4).is_some());
        assert!(budget.try_take_leaving(3 * CHUNK, 4).is_none());
    }

    #[tokio::test]
    async fn a_budget_holds_at_least_one_chunk_and_clamps_larger_wishes() {
        let budget = Budget::new(1);
        let held = budget.try_take(usize::MAX);
        assert!(held.is_some());
        assert_eq!(budget.free_bytes(), 0);
    }
}
