//! What a process knows of the epoch of its cluster, and what follows when a peer knows another.
//!
//! The epoch is raised when the log went back: by a recovery, by restoring a backup. Numbers are drawn with it,
//! so that none is drawn twice; and whoever comes from an earlier one is refused, since it may hold what the
//! cluster has given up. A process begins without knowledge or with what its own data says, takes what the first
//! peer says that knows, and never changes its mind because of a peer.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Peer, handshake::refuse};

/// The epoch of a process that does not know it.
const UNKNOWN: u16 = 0;

/// See the file's head. Clones share what is known.
#[derive(Clone)]
pub struct Epoch(Arc<watch::Sender<State>>);

#[derive(Default)]
struct State {
    known: u16,
    /// Why this process is behind its cluster, once a peer showed it.
    behind: Option<String>,
}

impl Default for Epoch {
    fn default() -> Epoch {
        Epoch(Arc::new(watch::Sender::new(State::default())))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Epoch").field(&self.get()).finish()
    }
}

impl Epoch {
    /// What is known; 0 where nothing is.
    pub fn get(&self) -> u16 {
        self.0.borrow().known
    }

    /// Takes what this process's own data says. Never back.
    pub fn learn(&self, epoch: u16) {
        self.0.send_if_modified(|state| {
            let newer = state.known < epoch;
            state.known = state.known.max(epoch);
            newer
        });
    }

    /// Waits until a peer shows that the cluster has gone on without this process, and says what to do.
    pub async fn behind(&self) -> String {
        let mut state = self.0.subscribe();
        loop {
            let behind = state.borrow_and_update().behind.clone();
            if let Some(why) = behind {
                return why;
            }
            // We hold the sender, so there will be a change or nothing.
            if state.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether `me` and `peer`, which says that it knows `theirs`, may speak to each other.
    pub(super) fn agree(&self, me: Peer, peer: Peer, theirs: u16) -> io::Result<()> {
        let ours = self.get();
        if theirs == ours || theirs == UNKNOWN {
            return Ok(());
        }
        if ours == UNKNOWN {
            self.learn(theirs);
            return Ok(());
        }
        if theirs < ours {
            let why = format!("{peer} comes from epoch {theirs} of the cluster, which is at epoch {ours}");
            return Err(refuse(why));
        }
        let todo = match me {
            Peer::Node(_) => {
                "its data is from before a recovery or a restore: a node that has them needs `identity`, `raft` and \
                 `tables.redb` moved out of its data directory and is started then (it may print a `replace` \
                 command); any other node is started again"
            }
            Peer::Gateway => "restart it",
        };
        let why =
            format!("the cluster is at epoch {theirs}, as {peer} says, and {me} at epoch {ours}: {todo}");
        let first = self.0.send_if_modified(|state| {
            let first = state.behind.is_none();
            state.behind.get_or_insert_with(|| why.clone());
            first
        });
        if first {
            tracing::error!("{why}");
        }
        Err(refuse(why))
    }
}
