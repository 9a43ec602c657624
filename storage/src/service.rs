//! The chunk calls of a node, answered from its [`ChunkStore`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fabric::ids::SessionId;
use fabric::rpc::{Message, Peer, Service, decode_head, reply_typed};
use serde::Serialize;

use crate::chunks::ChunkStore;
use crate::client::ChunkError;
use crate::jobs::work::Work;
use crate::wire::{
    self, CheckRequest, DeleteRequest, Failure, GetReply, GetRequest, PutRequest, ScanRequest, StatRequest,
    StealRequest,
};

/// What a node knows of sessions without asking anybody.
pub trait EndedSessions: Send + Sync + 'static {
    /// Whether the session certainly ended: none of its writes can be named any more.
    fn is_ended(&self, session: SessionId) -> bool;
}

/// See the file's head.
pub struct ChunkService {
    store: ChunkStore,
    sessions: Arc<dyn EndedSessions>,
    work: Arc<Work>,
}

impl ChunkService {
    /// Serves `store`, and refuses puts of `sessions` that ended. `work` is shared with the jobs and with idle nodes.
    pub fn new(store: ChunkStore, sessions: Arc<dyn EndedSessions>, work: Arc<Work>) -> ChunkService {
        ChunkService { store, sessions, work }
    }

    /// Jobs make room for clients.
    fn note_client(&self, from: &Peer) {
        if let Peer::Gateway = from {
            self.work.budget.client_calls();
        }
    }

    async fn put(&self, from: Peer, request: PutRequest, body: Bytes) -> Result<(), ChunkError> {
        let Peer::Gateway = from else {
            // Nodes copy chunks that are named already, of sessions that may have ended long ago.
            return self.store.put(request.chunk, vec![body], request.origin).await;
        };
        if request.chunk.extent().coding().is_none_or(|coding| coding.shards() <= request.chunk.shard()) {
            let why = "the chunk is of a shard that is not there".to_string();
            return Err(ChunkError::Refused(self.store.node(), why));
        }
        let session = request.chunk.extent().session();
        if self.sessions.is_ended(session) {
            return Err(ChunkError::Refused(
                self.store.node(),
                "the session of the writer ended".to_string(),
            ));
        }
        self.store.put(request.chunk, vec![body], request.origin).await
    }

    async fn get(&self, request: GetRequest) -> Result<(GetReply, Bytes), ChunkError> {
        let GetRequest { chunk, offset, bytes } = request;
        let body = self.store.get(chunk, offset, bytes).await?;
        Ok((GetReply { chunk, offset }, body))
    }
}

#[async_trait]
impl Service for ChunkService {
    async fn call(&self, from: Peer, method: u16, request: Message) -> Result<Message, String> {
        let Message { head, body } = request;
        let malformed = |error: fabric::codec::DecodeError| error.to_string();
        Ok(match method {
            wire::PUT => {
                self.note_client(&from);
                let request: PutRequest = decode_head(&head).map_err(malformed)?;
                answer(self.put(from, request, body).await)
            }
            wire::GET => {
                self.note_client(&from);
                let request: GetRequest = decode_head(&head).map_err(malformed)?;
                match self.get(request).await {
                    Ok((reply, body)) => reply_typed(&Ok::<_, Failure>(reply), body),
                    Err(error) => answer(Err::<GetReply, _>(error)),
                }
            }
            wire::DELETE => {
                let request: DeleteRequest = decode_head(&head).map_err(malformed)?;
                answer(self.store.delete(request.chunks).await)
            }
            wire::STAT => {
                let request: StatRequest = decode_head(&head).map_err(malformed)?;
                answer(self.store.stat(request.chunks).await)
            }
            wire::CHECK => {
                let request: CheckRequest = decode_head(&head).map_err(malformed)?;
                answer(self.store.check(request.chunks).await)
            }
            wire::SCAN => {
                let request: ScanRequest = decode_head(&head).map_err(malformed)?;
                answer(self.store.scan(request.after, request.limit).await)
            }
            wire::SPACE => answer(self.store.space().await),
            wire::STEAL => {
                let request: StealRequest = decode_head(&head).map_err(malformed)?;
                match from {
                    Peer::Node(_) => answer(Ok(self.work.steal(request.most))),
                    _ => return Err("only a node may take work".to_string()),
                }
            }
            _ => return Err(format!("method {method:#06x} is no chunk call")),
        })
    }
}

fn answer<T: Serialize>(outcome: Result<T, ChunkError>) -> Message {
    reply_typed(&outcome.map_err(Failure::from), Bytes::new())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::Seams;
    use fabric::disks::MemoryDisks;
    use fabric::env::SystemEnv;
    use fabric::ids::{ClusterId, ExtentId, NodeId};
    use fabric::limits::{CHUNK_BYTES, MIB};
    use fabric::net::{LocalNet, Net};
    use fabric::rpc::{AddressBook, Identity, Router, RpcClient, serve};

    use super::*;
    use crate::chunks::ChunkSettings;
    use crate::client::{ChunkClient, Chunks, Verdict};

    const NODE: NodeId = NodeId(3);

    struct Book(String);

    impl AddressBook for Book {
        fn address(&self, node: NodeId) -> Option<String> {
            (node == NODE).then(|| self.0.clone())
        }

        fn nodes(&self) -> Vec<NodeId> {
            vec![NODE]
        }
    }

    struct Ended;

    impl EndedSessions for Ended {
        fn is_ended(&self, session: SessionId) -> bool {
            session.number == 9
        }
    }

    async fn client() -> ChunkClient {
        let net = LocalNet::default();
        let seams = Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(net.clone()),
            disks: Arc::new(MemoryDisks::new(1 << 30)),
        };
        let settings = ChunkSettings::new(NODE, "/data/chunks".into(), 32 * MIB);
        let store = ChunkStore::open(&seams, settings).await.unwrap();
        store.wait_ready().await;
        let service = Arc::new(ChunkService::new(store, Arc::new(Ended), Arc::default()));
        let identity = |me| Identity::new(ClusterId(1), me, None);
        let listener = net.listen("127.0.0.1:7001").await.unwrap();
        let book = Arc::new(Book("127.0.0.1:7001".to_string()));
        let router = Arc::new(Router::default().with(wire::GROUP, service));
        drop(serve(&seams, identity(Peer::Node(NODE)), listener, router, 0).unwrap());
        ChunkClient::new(RpcClient::new(seams, identity(Peer::Gateway), book))
    }

    #[tokio::test]
    async fn every_call_goes_through() {
        let client = client().await;
        let extent = ExtentId::new(7, SessionId { epoch: 1, number: 1 }, 1);
        let chunk = extent.chunk(0);
        let whole: Bytes = (0..CHUNK_BYTES).map(|at| at as u8).collect::<Vec<_>>().into();
        let parts = vec![whole.slice(..100), whole.slice(100..)];
        client.put(NODE, chunk, parts, None).await.unwrap();
        assert_eq!(client.get(NODE, chunk, 0, CHUNK_BYTES as u32).await.unwrap(), whole);
        assert_eq!(client.get(NODE, chunk, 99, 2).await.unwrap(), whole.slice(99..101));
        let stats = client.stat(NODE, vec![extent.chunk(1), chunk]).await.unwrap();
        assert_eq!(stats.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
        assert_eq!(client.scan(NODE, None, 9).await.unwrap().len(), 1);
        let verdicts = client.check(NODE, vec![extent.chunk(1), chunk]).await.unwrap();
        assert_eq!(verdicts, [Verdict::Absent, Verdict::Whole { bytes: CHUNK_BYTES as u32 }]);
        let other = client.put(NODE, chunk, vec![Bytes::new()], None).await;
        assert!(matches!(other, Err(ChunkError::Refused(NODE, _))));
        let space = client.space(NODE).await.unwrap();
        assert!(space.free_bytes < space.total_bytes && space.total_bytes == 1 << 30, "{space:?}");
        client.delete(NODE, vec![chunk]).await.unwrap();
        assert!(matches!(client.get(NODE, chunk, 0, 1).await, Err(ChunkError::NotFound(NODE))));
        let nobody = NodeId(4);
        assert!(
            matches!(client.get(nobody, chunk, 0, 1).await, Err(ChunkError::Unavailable(n, _)) if n == nobody)
        );
    }

    #[tokio::test]
    async fn writes_of_ended_sessions_are_refused() {
        let client = client().await;
        let chunk = ExtentId::new(7, SessionId { epoch: 1, number: 9 }, 1).chunk(0);
        let late = client.put(NODE, chunk, vec![Bytes::new()], None).await;
        assert!(matches!(late, Err(ChunkError::Refused(NODE, _))));
    }
}
