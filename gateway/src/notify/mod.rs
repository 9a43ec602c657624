//! Notifications: what happens in buckets is told to the HTTP targets that their owners chose among the operator's.
//!
//! [`webhook`] knows HTTP, [`record`] what is said, [`deliver`] says it: one gateway at a time, in the order of the log,
//! until it was heard or given up. How far it came is in the metadata, so that the next gateway goes on from there.

mod deliver;
mod record;
mod webhook;

use std::sync::Arc;

use bytes::Bytes;
use fabric::Seams;

pub use deliver::Deliverer;
pub use record::test_event;
pub use webhook::{PostError, Webhook, Webhooks, is_public};

/// The targets of this gateway and the way to them.
pub struct Notifier {
    seams: Seams,
    webhooks: Webhooks,
}

impl Notifier {
    /// For these targets.
    pub fn new(seams: Seams, webhooks: Webhooks) -> Notifier {
        Notifier { seams, webhooks }
    }

    /// Whether there is any target.
    pub fn is_empty(&self) -> bool {
        self.webhooks.is_empty()
    }

    /// The target of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Webhook>> {
        self.webhooks.get(name)
    }

    /// Sends one document once.
    pub async fn post(&self, webhook: &Webhook, document: Bytes) -> Result<(), PostError> {
        let sent = webhook.post(&self.seams, document).await;
        let outcome = if sent.is_ok() { "taken" } else { "failed" };
        metrics::counter!("fluffy_webhook_requests_total", "target" => webhook.name.clone(), "outcome" => outcome)
            .increment(1);
        sent
    }
}
