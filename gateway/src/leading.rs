//! Work that one gateway of all does: the one whose session the metadata names. When that session ends, the next gateway
//! that looks takes its place.

use std::collections::BTreeSet;
use std::future::Future;

use consensus::client::{Meta, MetaError};
use consensus::meta::command::{Command, Done};
use fabric::ids::SessionId;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

/// Whether this gateway is the one; it is from now on where nobody is, by the command `take`. `work`, for the log: what it
/// does then.
pub async fn leads(
    meta: &dyn Meta,
    leader: Option<SessionId>,
    leader_lives: bool,
    take: Command,
    work: &str,
) -> Result<bool, MetaError> {
    if leader_lives {
        return Ok(leader == Some(meta.begin_write().await?.extent(0).session()));
    }
    let leads = matches!(meta.propose(take).await?, Done::Leads(Some(_)));
    if leads {
        tracing::info!("this gateway {work} from now on");
    }
    Ok(leads)
}

/// What is under way: for each thing one future, and of all not more than so many.
pub struct Running<K, T> {
    futures: FuturesUnordered<BoxFuture<'static, (K, T)>>,
    busy: BTreeSet<K>,
    most: usize,
}

impl<K: Ord + Clone + Send + 'static, T: Send + 'static> Running<K, T> {
    /// Nothing, of at most so many.
    pub fn new(most: usize) -> Running<K, T> {
        Running { futures: FuturesUnordered::new(), busy: BTreeSet::new(), most }
    }

    /// Whether something may be started for this.
    pub fn takes(&self, key: &K) -> bool {
        self.busy.len() < self.most && !self.busy.contains(key)
    }

    /// Starts something where that may be.
    pub fn start(&mut self, key: K, work: impl Future<Output = T> + Send + 'static) {
        if self.takes(&key) && self.busy.insert(key.clone()) {
            self.futures.push(Box::pin(async move { (key, work.await) }));
        }
    }

    /// What ended next; `None`: nothing runs.
    pub async fn ended(&mut self) -> Option<(K, T)> {
        let (key, outcome) = self.futures.next().await?;
        self.busy.remove(&key);
        Some((key, outcome))
    }
}

/// Waits for the end of the gateway; a sender that is gone means the same.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_thing_runs_once_at_a_time_and_not_too_many() {
        let mut running = Running::new(2);
        for (key, number) in [(1, 10), (1, 11), (2, 20), (3, 30)] {
            running.start(key, async move { number });
        }
        assert!(!running.takes(&3));
        let mut ended = vec![running.ended().await.unwrap(), running.ended().await.unwrap()];
        ended.sort_unstable();
        assert_eq!(ended, [(1, 10), (2, 20)]);
        assert_eq!(running.ended().await, None);
        running.start(1, async { 12 });
        assert_eq!(running.ended().await, Some((1, 12)));
    }
}
