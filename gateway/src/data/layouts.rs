//! The layouts this gateway knows: the newest for writes, older ones for reads.
//!
//! A layout never changes under its version, so that a known one is right for ever; only "the newest" ages.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use consensus::client::{Meta, MetaError, ask};
use consensus::meta::query::{Answer, Query};
use fabric::env::Env;
use fabric::ids::LayoutVersion;
use fabric::placement::Layout;
use lru::LruCache;
use storage::client::Chunks;

/// The newest layout is asked for again after this.
const NEWEST_FOR: Duration = Duration::from_secs(3);
/// A write may use a layout of this age while the metadata does not answer; the commit decides anyway.
const STALE_FOR: Duration = Duration::from_secs(60);
/// Layouts kept at most.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("it is not zero");

/// Layouts by version. Shared.
pub struct Layouts {
    env: Arc<dyn Env>,
    meta: Arc<dyn Meta>,
    chunks: Arc<dyn Chunks>,
    known: Mutex<Known>,
    /// Held by the one task that asks for the newest; the others wait for its answer.
    asking: tokio::sync::Mutex<()>,
}

struct Known {
    newest: Option<(Arc<Layout>, Duration)>,
    by_version: LruCache<LayoutVersion, Arc<Layout>>,
}

impl Layouts {
    /// Knows none yet.
    pub fn new(env: Arc<dyn Env>, meta: Arc<dyn Meta>, chunks: Arc<dyn Chunks>) -> Layouts {
        let known = Known { newest: None, by_version: LruCache::new(KEPT_MAX) };
        Layouts { env, meta, chunks, known: Mutex::new(known), asking: tokio::sync::Mutex::new(()) }
    }

    /// The newest layout, at most a few seconds old while the metadata answers.
    pub async fn newest(&self) -> Result<Arc<Layout>, MetaError> {
        if let Some(layout) = self.younger_than(NEWEST_FOR) {
            return Ok(layout);
        }
        let _asking = self.asking.lock().await;
        if let Some(layout) = self.younger_than(NEWEST_FOR) {
            return Ok(layout);
        }
        match self.fetch(None).await {
            Ok(layout) => {
                let now = self.env.monotonic();
                self.lock().newest = Some((layout.clone(), now));
                Ok(layout)
            }
            Err(error) => self.younger_than(STALE_FOR).ok_or(error),
        }
    }

    /// The layout of this version.
    pub async fn version(&self, version: LayoutVersion) -> Result<Arc<Layout>, MetaError> {
        if let Some(layout) = self.lock().by_version.get(&version) {
            return Ok(layout.clone());
        }
        self.fetch(Some(version)).await
    }

    async fn fetch(&self, version: Option<LayoutVersion>) -> Result<Arc<Layout>, MetaError> {
        let none = || MetaError::Unavailable("there is no such layout (yet)".to_string());
        let Answer::Layout(layout) = ask(self.meta.as_ref(), Query::Layout(version)).await? else {
            return Err(MetaError::Unavailable("the answer is not a layout".to_string()));
        };
        let layout = Arc::new(layout.filter(usable).ok_or_else(none)?);
        if self.lock().newest.as_ref().is_none_or(|(newest, _)| newest.version < layout.version) {
            self.learn_addresses().await?;
        }
        self.lock().by_version.put(layout.version, layout.clone());
        Ok(layout)
    }

    /// A layout may name nodes that the table of addresses does not list.
    async fn learn_addresses(&self) -> Result<(), MetaError> {
        if let Answer::Members { nodes, .. } = ask(self.meta.as_ref(), Query::Members).await? {
            self.chunks.learn(nodes.into_iter().map(|row| (row.id, row.address)).collect());
        }
        Ok(())
    }

    fn younger_than(&self, age: Duration) -> Option<Arc<Layout>> {
        let now = self.env.monotonic();
        let known = self.lock();
        let (layout, fetched) = known.newest.as_ref()?;
        (now.saturating_sub(*fetched) < age).then(|| layout.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Layout::owners_of`] relies on; the bytes came from a peer.
fn usable(layout: &Layout) -> bool {
    let partitions = layout.partitions.len();
    let owners_fit = |owners: &Vec<_>| (1..=fabric::limits::OWNERS_MAX).contains(&owners.len());
    partitions.is_power_of_two() && partitions <= 1 << 16 && layout.partitions.iter().all(owners_fit)
}
