//! Removes chunks of this node that no row names: what writers left that gave up or died.
//!
//! Safe by the order of questions: first the chunks are seen, then the sessions, then the rows. A session that
//! wrote a chunk we saw was open before we asked; once it is ended, or its oldest open write lies above the
//! extent, no command may name the extent for the first time. So an extent that is not named after that never
//! will be. It may have been named before, and be read still: it is removed only after every session's oldest
//! read moved above the index of the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::ask;
use consensus::meta::model::{Home, Session};
use consensus::meta::query::{Answer, Query};
use fabric::coding::Coding;
use fabric::ids::{ChunkId, ExtentId, SessionId};

use super::{Job, JobContext, JobError, Next, wrong_answer};
use crate::chunks::CHUNKS_PER_CALL_MAX;

/// Chunks of one unit.
const CHUNKS_PER_STEP: u32 = 512;
/// Extents that are not named and wait until nobody can read them.
const CONDEMNED_MAX: usize = 4096;
/// Sessions whose marks are remembered between passes.
const MARKS_MAX: usize = 65_536;
/// Between two passes.
const REST: Duration = Duration::from_secs(60);
/// The same with the failpoint `eager_collection`, for simulations that are over after a minute.
const EAGER_REST: Duration = Duration::from_secs(2);
/// A pass that looks at everything again comes after so many that only look at what is new.
const PASSES_PER_FULL: u32 = 24 * 60;

/// See the file's head.
#[derive(Default)]
pub struct Orphans {
    after: Option<ChunkId>,
    /// Extent → the index as of which nothing names it.
    condemned: BTreeMap<ExtentId, u64>,
    /// Extents of a session below its mark were decided in an earlier pass: named, and from then on the
    /// business of the garbage rows, or removed.
    marks: BTreeMap<SessionId, u64>,
    /// Marks that hold once this pass is through.
    next_marks: BTreeMap<SessionId, u64>,
    passes: u32,
}

/// Live sessions. One that is not there has ended.
type Sessions = BTreeMap<SessionId, Session>;

#[async_trait]
impl Job for Orphans {
    fn name(&self) -> &'static str {
        "orphans"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let page = cx.chunks.scan(cx.node, self.after, CHUNKS_PER_STEP).await?;
        let sessions = sessions(cx).await?;
        self.remove_condemned(cx, &sessions).await?;
        let Some(last) = page.last().map(|stat| stat.id) else {
            self.end_pass();
            return Ok(Next::Rest(if cx.env.armed("eager_collection") { EAGER_REST } else { REST }));
        };
        let mut homes: BTreeMap<ExtentId, Option<Home>> = BTreeMap::new();
        for stat in page {
            let home = stat.origin.map(|origin| Home { bucket: origin.bucket, key: origin.key });
            let known = homes.entry(stat.id.extent()).or_default();
            *known = known.take().or(home);
        }
        homes.retain(|extent, _| self.is_open_question(*extent, &sessions));
        self.judge(cx, homes).await?;
        self.after = Some(last);
        Ok(Next::Again)
    }
}

async fn sessions(cx: &JobContext) -> Result<Sessions, JobError> {
    match ask(&*cx.meta, Query::Sessions).await? {
        Answer::Sessions(sessions) => Ok(sessions.into_iter().collect()),
        _ => Err(wrong_answer("sessions")),
    }
}

/// Extents of the session below this number can no longer be named for the first time.
fn decided_below(sessions: &Sessions, session: SessionId) -> u64 {
    match sessions.get(&session) {
        Some(session) => session.oldest_write,
        None => u64::MAX, // Ended.
    }
}

impl Orphans {
    fn end_pass(&mut self) {
        self.after = None;
        self.passes += 1;
        self.marks = std::mem::take(&mut self.next_marks);
        if self.passes.is_multiple_of(PASSES_PER_FULL) || self.marks.len() > MARKS_MAX {
            self.marks.clear();
        }
    }

    /// Whether an extent can no longer become named and was not looked at in that state before.
    fn is_open_question(&mut self, extent: ExtentId, sessions: &Sessions) -> bool {
        let session = extent.session();
        let decided = decided_below(sessions, session);
        let lowest = self.next_marks.entry(session).or_insert(decided);
        *lowest = decided.min(*lowest);
        let before = self.marks.get(&session).copied().unwrap_or(0);
        if !(before..decided).contains(&extent.number()) || self.condemned.contains_key(&extent) {
            return false;
        }
        // A long write is pinned by its session: it may be named still.
        let pinned = sessions.get(&session).is_some_and(|session| session.pinned.contains(&extent));
        if pinned {
            self.look_again(extent);
        }
        !pinned
    }

    /// The next pass decides about this extent.
    fn look_again(&mut self, extent: ExtentId) {
        let mark = self.next_marks.entry(extent.session()).or_insert(u64::MAX);
        *mark = extent.number().min(*mark);
    }

    /// Asks which of the extents are named and condemns the others.
    async fn judge(
        &mut self,
        cx: &JobContext,
        homes: BTreeMap<ExtentId, Option<Home>>,
    ) -> Result<(), JobError> {
        let mut known = Vec::with_capacity(homes.len());
        for (extent, home) in homes {
            let home = match home {
                Some(home) => Some(home),
                None => find_home(cx, extent).await?,
            };
            // Without an origin nobody can say whether it is named: it stays.
            known.extend(home.map(|home| (home, extent)));
        }
        if known.is_empty() {
            return Ok(());
        }
        let answered = cx.meta.query(Query::Named(known.clone())).await?;
        let Ok(Answer::Named(named)) = answered.answer else {
            return Err(wrong_answer("named"));
        };
        if named.len() != known.len() {
            return Err(wrong_answer("named"));
        }
        for ((_, extent), named) in known.into_iter().zip(named) {
            if named {
                continue;
            }
            if self.condemned.len() < CONDEMNED_MAX {
                self.condemned.insert(extent, answered.index);
            } else {
                self.look_again(extent);
            }
        }
        Ok(())
    }

    /// Removes extents that no session can read any more.
    async fn remove_condemned(&mut self, cx: &JobContext, sessions: &Sessions) -> Result<(), JobError> {
        let oldest_read = sessions.values().map(|session| session.oldest_read).min().unwrap_or(u64::MAX);
        let pinned: BTreeSet<ExtentId> =
            sessions.values().flat_map(|session| session.pinned.iter().copied()).collect();
        let due = |(extent, index): (&ExtentId, &u64)| {
            (*index < oldest_read && !pinned.contains(extent)).then_some(*extent)
        };
        let due: Vec<ExtentId> = self.condemned.iter().filter_map(due).collect();
        for extent in due {
            remove(cx, extent).await?;
            self.condemned.remove(&extent);
            metrics::counter!("fluffy_orphans_removed_total").increment(1);
        }
        Ok(())
    }
}

/// Where an extent belongs, from its first chunk, or the first of a shard, here or on another owner.
pub(super) async fn find_home(cx: &JobContext, extent: ExtentId) -> Result<Option<Home>, JobError> {
    let others = cx.all_owners(extent).await?.into_iter().filter(|node| *node != cx.node);
    let shards = extent.coding().map_or(1, Coding::shards);
    let firsts: Vec<ChunkId> = (0..shards).map(|shard| extent.shard(shard, 0)).collect();
    for node in std::iter::once(cx.node).chain(others) {
        let Ok(stats) = cx.chunks.stat(node, firsts.clone()).await else { continue };
        if let Some(origin) = stats.into_iter().flatten().find_map(|stat| stat.origin) {
            return Ok(Some(Home { bucket: origin.bucket, key: origin.key }));
        }
    }
    Ok(None)
}

/// Removes all chunks of an extent here, chunk 0 last: while there is any, it tells whose they are.
async fn remove(cx: &JobContext, extent: ExtentId) -> Result<(), JobError> {
    let mut chunks = Vec::new();
    let mut after = extent.chunk(0);
    loop {
        let page = cx.chunks.scan(cx.node, Some(after), CHUNKS_PER_CALL_MAX as u32).await?;
        let count = page.len();
        chunks.extend(page.iter().map(|stat| stat.id).filter(|id| id.extent() == extent));
        match page.last() {
            Some(last) if last.id.extent() == extent && count > 0 => after = last.id,
            _ => break,
        }
    }
    chunks.reverse();
    cx.chunks.delete(cx.node, chunks).await?;
    cx.chunks.delete(cx.node, vec![extent.chunk(0)]).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::NodeId;

    use super::super::testing::{World, extent};
    use super::*;

    #[tokio::test]
    async fn removes_only_what_can_never_be_named_and_is_not_read() {
        let world = World::new(1);
        // Of session 1, whose oldest open write is 10: named, abandoned, still being written.
        let (named, orphan, open) = (extent(1, 100, 40), extent(2, 100, 40), extent(10, 100, 40));
        for extent in [&named, &orphan, &open] {
            world.fill(extent, &[1]).await;
        }
        world.meta.name(&named);
        world.meta.set_session(Some((10, 5)));
        let mut job = Orphans::default();
        let cx = world.context(1);
        assert_eq!(job.step(&cx).await.unwrap(), Next::Again);
        assert!(matches!(job.step(&cx).await.unwrap(), Next::Rest(_)));
        assert_eq!(world.chunks.count(NodeId(1)), 9, "the session may still read what was there at index 5");
        world.meta.set_session(Some((10, 1000)));
        job.step(&cx).await.unwrap();
        assert_eq!(world.chunks.count(NodeId(1)), 6);
        assert!(
            world.chunks.get_now(NodeId(1), named.id.chunk(0))
                && world.chunks.get_now(NodeId(1), open.id.chunk(0))
        );
        // The mark passes the open write, which is pinned as it takes long: it may still be named.
        world.meta.pin(&open);
        world.meta.set_session(Some((20, 1000)));
        for _ in 0..6 {
            job.step(&cx).await.unwrap();
        }
        assert_eq!(world.chunks.count(NodeId(1)), 6);
        // The session ends: its open write never becomes an object.
        world.meta.set_session(None);
        for _ in 0..6 {
            job.step(&cx).await.unwrap();
        }
        assert_eq!(world.chunks.count(NodeId(1)), 3);
        assert!(world.chunks.get_now(NodeId(1), named.id.chunk(0)));
    }
}
