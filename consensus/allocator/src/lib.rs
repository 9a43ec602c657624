//! The allocator of the daemons, and the only crate with unsafe code: mimalloc takes its options through a C function.
//!
//! It owns which allocator that is, and how long this keeps memory that was given back. It must not know anything else.

use std::ffi::{c_int, c_long};

/// Most of a request is small pieces that one thread makes and another drops, which mimalloc is made for.
pub use mimalloc::MiMalloc as Allocator;

/// With a smaller limit, memory that was given back is a large part of it: a node that stored 40 MB/s in chunks of 1 MiB
/// kept 60 MB more than it used.
const SCARCE_BYTES: u64 = 512 << 20;
/// How long memory that was given back is kept for the next who wants some (ms). The default is 1000, with which bodies of
/// 1 MiB are stored with a tenth less work.
const KEPT_SCARCE_MS: c_long = 10;
/// `mi_option_purge_delay` in `mimalloc.h`.
const PURGE_DELAY: c_int = 15;

/// Makes the allocator fit a process that may take `memory_limit` bytes. Does nothing when there are threads already.
pub fn keep_within(memory_limit: u64) {
    if memory_limit < SCARCE_BYTES && is_only_thread() {
        // SAFETY: two numbers go in, and nobody else can read or write options meanwhile.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT_SCARCE_MS) };
    }
}

#[allow(clippy::disallowed_methods)] // What the system says of this process is on no disk.
fn is_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of an option is known from its C header alone: another release may count differently.
    #[test]
    fn the_number_is_that_of_the_option() {
        // SAFETY: a number goes in; no other test reads or writes options.
        let default_ms = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(default_ms, 1000);
    }
}
