//! Delivers the events of all buckets to their targets.
//!
//! Of all gateways one delivers: the one whose session the metadata names. When that session ends, the next gateway that
//! looks takes its place and goes on behind the last events that were delivered, or given up; so a target hears of every
//! event at least once, and of those of one bucket in their order. Buckets do not wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::client::{Meta, MetaError, ask};
use consensus::meta::command::{Command, Deliver, Reject};
use consensus::meta::model::{Bucket, BucketSetting, NotificationRule, SettingKind};
use consensus::meta::query::{Answer, DeliveriesPage, Query};
use fabric::ids::{BucketId, Stamp};
use futures::future::join_all;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::Notifier;
use super::record::{document, record};
use crate::http::guard::now;
use crate::leading::{Running, leads, stopped};
use crate::s3::notification::{matches, target};

/// Between two looks for events to deliver.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Where somebody else delivers, or no bucket has notifications, one looks less often.
const REST_INTERVAL: Duration = Duration::from_secs(2);
/// Buckets whose events are on their way at once.
const BUCKETS_MAX: usize = 32;
/// Buckets of one question.
const PAGE: u32 = 1000;
/// Events of one document.
const BATCH: u32 = 100;
/// The first wait after a failure; each is twice as long as the one before, up to …
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// … this.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// The part of a gateway that delivers.
pub struct Deliverer {
    /// Metadata.
    pub meta: Arc<dyn Meta>,
    /// Targets.
    pub notifier: Arc<Notifier>,
    /// Region, which events name.
    pub region: String,
}

/// What is under way: the events of buckets.
type Delivering = Running<BucketId, Result<(), MetaError>>;

impl Deliverer {
    /// Delivers until the gateway ends. What is on its way then is delivered again by the next.
    pub async fn run(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut delivering = Delivering::new(BUCKETS_MAX);
        let mut look = now();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => return,
                Some((bucket, outcome)) = delivering.ended() => {
                    if let Err(error) = outcome {
                        tracing::info!(bucket = bucket.0, %error, "notifications are delivered again");
                    }
                }
                () = sleep_until(look) => {
                    let more = self.look(&mut delivering).await.unwrap_or(false);
                    look = now() + if more { LOOK_INTERVAL } else { REST_INTERVAL };
                }
            }
        }
    }

    /// Starts the delivery of what waits. False: there is nothing to do for this gateway.
    async fn look(self: &Arc<Self>, delivering: &mut Delivering) -> Result<bool, MetaError> {
        let (mut after, mut lost) = (None, 0);
        loop {
            let page = self.page(after).await?;
            if page.buckets.is_empty() && after.is_none() {
                return Ok(false);
            }
            if after.is_none() {
                let (leader, lives) = (page.deliverer, page.deliverer_lives);
                let leads =
                    leads(&*self.meta, leader, lives, Command::LeadDeliveries, "delivers notifications")
                        .await?;
                metrics::gauge!("fluffy_notifications_leading").set(f64::from(u8::from(leads)));
                if !leads {
                    return Ok(false);
                }
            }
            for (bucket, delivery, waits) in page.buckets {
                after = Some(bucket.id);
                lost += delivery.lost;
                if waits {
                    let this = self.clone();
                    delivering.start(bucket.id, async move { this.deliver(bucket, delivery.cursor).await });
                }
            }
            if !page.more {
                metrics::gauge!("fluffy_notifications_lost").set(lost as f64);
                return Ok(true);
            }
        }
    }

    async fn page(&self, after: Option<BucketId>) -> Result<DeliveriesPage, MetaError> {
        match ask(&*self.meta, Query::Deliveries { after, limit: PAGE }).await? {
            Answer::Deliveries(page) => Ok(page),
            _ => Err(MetaError::Unavailable("the metadata answered another question".to_string())),
        }
    }

    /// Delivers the events of a bucket until there are no more.
    async fn deliver(&self, bucket: Bucket, mut cursor: Stamp) -> Result<(), MetaError> {
        loop {
            let query = Query::Setting { bucket: bucket.id, kind: SettingKind::Notifications };
            let rules = match ask(&*self.meta, query).await {
                Ok(Answer::Setting(Some(BucketSetting::Notifications(rules)))) => rules,
                Ok(_) | Err(MetaError::Rejected(Reject::NoSuchBucket)) => return Ok(()),
                Err(error) => return Err(error),
            };
            let query = Query::Changes { bucket: bucket.id, after: cursor, limit: BATCH };
            let Answer::Changes(changes) = ask(&*self.meta, query).await? else { return Ok(()) };
            let Some((last, _)) = changes.events.last() else { return Ok(()) };
            let last = *last;
            let bucket = Bucket { versioning: changes.versioning, ..bucket.clone() };
            let mut told: Vec<(String, Vec<Value>)> = Vec::new();
            for (stamp, event) in &changes.events {
                let heard = rules.iter().filter(|rule| matches(rule, event));
                for rule in heard {
                    self.tell(&mut told, rule, || record(&self.region, &bucket, rule, *stamp, event));
                }
            }
            let outcomes = join_all(told.into_iter().map(|(name, records)| self.send(name, records))).await;
            let (delivered, dead) =
                outcomes.iter().fold((0_u64, 0_u64), |sums, (sent, dead)| (sums.0 + sent, sums.1 + dead));
            let command = Deliver { bucket: bucket.id, cursor: last, delivered, dead };
            self.meta.propose(Command::Deliver(command)).await?;
            cursor = last;
        }
    }

    fn tell(
        &self,
        told: &mut Vec<(String, Vec<Value>)>,
        rule: &NotificationRule,
        record: impl Fn() -> Value,
    ) {
        let name = target(&rule.arn).unwrap_or_default();
        match told.iter_mut().find(|(other, _)| other == name) {
            Some((_, records)) => records.push(record()),
            None => told.push((name.to_string(), vec![record()])),
        }
    }

    /// Sends events to one target until it takes them; returns how many were taken and how many given up.
    async fn send(&self, name: String, records: Vec<Value>) -> (u64, u64) {
        let count = records.len() as u64;
        let document = document(records);
        let attempts = self.notifier.get(&name).map_or(1, |webhook| webhook.attempts);
        let mut delay = RETRY_DELAY;
        for attempt in 1..=attempts {
            match self.post(&name, document.clone()).await {
                Ok(()) => {
                    metrics::counter!("fluffy_notifications_total", "outcome" => "delivered")
                        .increment(count);
                    return (count, 0);
                }
                Err(error) if attempt < attempts => {
                    tracing::info!(webhook = name, attempt, error, "a webhook did not take its events");
                    sleep(delay).await;
                    delay = (delay * 2).min(RETRY_DELAY_MAX);
                }
                Err(error) => tracing::warn!(webhook = name, attempt, count, error, "events are given up"),
            }
        }
        metrics::counter!("fluffy_notifications_total", "outcome" => "dead").increment(count);
        (0, count)
    }

    async fn post(&self, name: &str, document: Bytes) -> Result<(), String> {
        let webhook = self.notifier.get(name).ok_or("this gateway has no webhook of this name")?;
        self.notifier.post(webhook, document).await.map_err(|error| error.to_string())
    }
}
