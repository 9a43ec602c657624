//! Whether small bodies may still lie in the metadata.
//!
//! The bound is on bytes of all gateways together, so the metadata is asked; what it said is believed for a moment.
//! Gateways may pass the bound by what they store in that moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consensus::client::{Meta, ask};
use consensus::meta::query::{Answer, Query};
use fabric::env::Env;

/// How long an answer is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// The bound and what is known of the bytes.
pub(super) struct InlineRoom {
    env: Arc<dyn Env>,
    meta: Arc<dyn Meta>,
    bytes_max: u64,
    known: Mutex<Known>,
}

#[derive(Default, Clone, Copy)]
struct Known {
    asked: Option<Duration>,
    is_full: bool,
}

impl InlineRoom {
    pub(super) fn new(env: Arc<dyn Env>, meta: Arc<dyn Meta>, bytes_max: u64) -> InlineRoom {
        InlineRoom { env, meta, bytes_max, known: Mutex::default() }
    }

    /// Whether as many bytes are inline as may be.
    pub(super) async fn is_full(&self) -> bool {
        let now = self.env.monotonic();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.asked.is_some_and(|asked| now.saturating_sub(asked) < BELIEVED) {
                return known.is_full;
            }
            // One asks; the others go by what was known.
            known.asked = Some(now);
        }
        let question = Query::Inline { above: u64::MAX, after: None, before: 0, bytes: 0 };
        let is_full = match ask(&*self.meta, question).await {
            Ok(Answer::Inline(page)) => Some(self.bytes_max <= page.total_bytes),
            _ => None,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_full = is_full.unwrap_or(known.is_full);
        known.is_full
    }
}
