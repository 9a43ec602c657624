//! Asks storage nodes to search.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::env::Env;
use fabric::ids::NodeId;
use fabric::rpc::{CallOptions, Class, RpcClient};

use super::wire::{self, IndexStatus, SearchFailure, SearchPage, SearchRequest};

/// All nodes together have so long.
const DEADLINE: Duration = Duration::from_secs(8);
/// One node has so long, before the next one is asked.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(4);
const STATUS_DEADLINE: Duration = Duration::from_secs(2);
/// A node that did not answer is asked last for so long.
const AVOIDED_FOR: Duration = Duration::from_secs(5);

/// Searches on any node that can. Implemented by [`SearchClient`] and by fakes in tests.
#[async_trait]
pub trait Searches: Send + Sync + 'static {
    /// A page of hits.
    async fn search(&self, request: &SearchRequest) -> Result<SearchPage, SearchFailure>;
    /// How the index of each node is; a node that does not answer is not there.
    async fn status(&self) -> BTreeMap<NodeId, IndexStatus>;
}

/// [`Searches`] over the network.
#[derive(Clone)]
pub struct SearchClient {
    inner: Arc<Inner>,
}

struct Inner {
    env: Arc<dyn Env>,
    rpc: RpcClient,
    beliefs: Mutex<BTreeMap<NodeId, Belief>>,
}

/// What is believed of a node; it only chooses who is asked first.
#[derive(Clone, Copy, Default)]
struct Belief {
    under_way: u32,
    avoided_until: Duration,
    took: Duration,
}

impl SearchClient {
    /// Calls through these connections.
    pub fn new(env: Arc<dyn Env>, rpc: RpcClient) -> SearchClient {
        SearchClient { inner: Arc::new(Inner { env, rpc, beliefs: Mutex::default() }) }
    }
}

impl Inner {
    fn beliefs(&self) -> MutexGuard<'_, BTreeMap<NodeId, Belief>> {
        // Each change is a few stores, so poison means nothing here.
        self.beliefs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All nodes, those first that answer, have little to do and are quick.
    fn in_order(&self) -> Vec<NodeId> {
        let now = self.env.monotonic();
        let beliefs = self.beliefs();
        let mut nodes = self.rpc.book().nodes();
        nodes.sort_by_key(|node| {
            let belief = beliefs.get(node).copied().unwrap_or_default();
            (now < belief.avoided_until, belief.under_way, belief.took, *node)
        });
        nodes
    }

    async fn ask(
        &self,
        node: NodeId,
        request: &SearchRequest,
        deadline: Duration,
    ) -> Result<SearchPage, SearchFailure> {
        let began = self.env.monotonic();
        self.beliefs().entry(node).or_default().under_way += 1;
        // A call that is given up still counts as ended.
        let _under_way = UnderWay { inner: self, node };
        let options = CallOptions { class: Class::Bulk, deadline };
        let answer = self.rpc.call_typed(node, wire::SEARCH, request, Bytes::new(), options).await;
        let now = self.env.monotonic();
        let outcome: Result<SearchPage, SearchFailure> = match answer {
            Ok((outcome, _)) => outcome,
            Err(error) => Err(SearchFailure::Unavailable(format!("node {node}: {error}"))),
        };
        let mut beliefs = self.beliefs();
        let belief = beliefs.entry(node).or_default();
        match &outcome {
            Ok(_) => belief.took = (belief.took * 7 + now.saturating_sub(began)) / 8,
            Err(SearchFailure::Malformed(_) | SearchFailure::TooMany(_) | SearchFailure::Behind(_)) => {}
            Err(_) => belief.avoided_until = now + AVOIDED_FOR,
        }
        outcome
    }
}

struct UnderWay<'a> {
    inner: &'a Inner,
    node: NodeId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut beliefs = self.inner.beliefs();
        let belief = beliefs.entry(self.node).or_default();
        belief.under_way = belief.under_way.saturating_sub(1);
    }
}

#[async_trait]
impl Searches for SearchClient {
    async fn search(&self, request: &SearchRequest) -> Result<SearchPage, SearchFailure> {
        let inner = &self.inner;
        let end = inner.env.monotonic() + DEADLINE;
        let mut worst = SearchFailure::Unavailable("no node keeps an index".to_string());
        for node in inner.in_order() {
            let left = end.saturating_sub(inner.env.monotonic());
            if left.is_zero() {
                break;
            }
            match inner.ask(node, request, left.min(ATTEMPT_DEADLINE)).await {
                // Others would say the same.
                answer @ (Ok(_) | Err(SearchFailure::Malformed(_) | SearchFailure::TooMany(_))) => {
                    return answer;
                }
                // Whoever has an index says more of why than who has none.
                Err(why @ SearchFailure::Unavailable(_)) => {
                    if matches!(worst, SearchFailure::Unavailable(_)) {
                        worst = why;
                    }
                }
                Err(why) => worst = why,
            }
        }
        Err(worst)
    }

    async fn status(&self) -> BTreeMap<NodeId, IndexStatus> {
        let rpc = &self.inner.rpc;
        let calls = rpc.book().nodes().into_iter().map(|node| async move {
            let options = CallOptions { class: Class::Control, deadline: STATUS_DEADLINE };
            let answer = rpc.call_typed(node, wire::STATUS, &(), Bytes::new(), options).await;
            answer.ok().map(|(status, _)| (node, status))
        });
        futures::future::join_all(calls).await.into_iter().flatten().collect()
    }
}
