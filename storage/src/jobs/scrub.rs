//! Reads every chunk of this node again and again, so that rot is found while there are other copies.
//!
//! Chunks are read in order of id, in rounds. Ids begin with a hash, so that the id that was reached tells how much of
//! the round is done. A round takes half of the period at most, and a chunk that waits for its turn was read, or
//! written, no earlier than the round before began: with two rounds in a period none is older than that. What is rotten
//! is reported to repair by the store itself.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, JobContext, JobError, Next};
use crate::chunks::{CHECKS_PER_CALL_MAX, ChunkStore, ScrubMark};

/// A round aims at this part of what it may take: nodes are slow at times.
const AIM: (u32, u32) = (3, 4);
/// Between two units, even where the round is late: others want the disk, too.
const PAUSE: Duration = Duration::from_millis(200);
/// While the next unit is not due, how often the metrics are told.
const REST: Duration = Duration::from_secs(60);

/// See the file's head.
pub struct Scrub {
    store: ChunkStore,
    /// What a round takes, ms.
    round_ms: u64,
    mark: Option<ScrubMark>,
}

#[async_trait]
impl Job for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        let now_ms = cx.env.wall_ms();
        let mark = match self.mark {
            Some(mark) => mark,
            None => self.store.scrub_mark(now_ms).await?,
        };
        self.mark = Some(mark);
        let oldest_ms = now_ms.saturating_sub(mark.previous_began_ms);
        metrics::gauge!("fluffy_scrub_oldest_seconds").set(oldest_ms as f64 / 1e3);
        if let Some(rest) = self.until(mark, mark.done(), now_ms) {
            return Ok(Next::Rest(rest));
        }
        let Some(next) = self.read_some(mark, now_ms).await? else {
            return Ok(Next::Rest(self.until(mark, 1.0, now_ms).unwrap_or(PAUSE)));
        };
        self.store.set_scrub_mark(next).await?;
        self.mark = Some(next);
        Ok(Next::Rest(PAUSE))
    }
}

impl Scrub {
    /// Reads all chunks of `store` within each `period`.
    pub fn new(store: ChunkStore, period: Duration) -> Scrub {
        let round = period / 2 * AIM.0 / AIM.1;
        Scrub { store, round_ms: round.as_millis() as u64, mark: None }
    }

    /// How long to rest until so much of a round is due, [`REST`] at most; `None`: it is due.
    fn until(&self, mark: ScrubMark, done: f64, now_ms: u64) -> Option<Duration> {
        // A clock that went back must not stop it.
        let began_ms = mark.began_ms.min(now_ms);
        let due_ms = began_ms + (self.round_ms as f64 * done) as u64;
        (now_ms < due_ms).then(|| REST.min(Duration::from_millis(due_ms - now_ms)))
    }

    /// Reads the chunks behind a mark. Returns the next mark; `None`: there are no more, and the next round is not due.
    async fn read_some(&self, mark: ScrubMark, now_ms: u64) -> Result<Option<ScrubMark>, JobError> {
        let found = self.store.scan(mark.after, CHECKS_PER_CALL_MAX as u32).await?;
        let chunks: Vec<_> = found.into_iter().map(|stat| stat.id).collect();
        let Some(last) = chunks.last().copied() else {
            if self.until(mark, 1.0, now_ms).is_some() {
                return Ok(None);
            }
            metrics::counter!("fluffy_scrub_rounds_total").increment(1);
            return Ok(Some(ScrubMark { after: None, began_ms: now_ms, previous_began_ms: mark.began_ms }));
        };
        let read = chunks.len() as u64;
        self.store.check(chunks).await?;
        metrics::counter!("fluffy_chunks_scrubbed_total").increment(read);
        Ok(Some(ScrubMark { after: Some(last), ..mark }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use fabric::ids::{ExtentId, NodeId, SessionId};

    use super::super::testing::World;
    use super::*;
    use crate::testing::store;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const EXTENTS: u64 = 1_000;

    #[tokio::test]
    async fn every_chunk_is_read_twice_in_a_period_however_often_the_process_starts() {
        let (world, store) = (World::new(1), store(NodeId(1)).await);
        let cx = world.context(1);
        for number in 0..EXTENTS {
            let hash = (number * 65_536 / EXTENTS) as u16;
            let extent = ExtentId::new(hash, SessionId { epoch: 1, number: 1 }, number);
            store.put(extent.chunk(0), vec![Bytes::from_static(b"body")], None).await.unwrap();
        }
        let began_ms = world.wall_ms();
        let (mut rounds, mut units, mut previous_ms) = (0, 0, 0);
        let mut job = Scrub::new(store.clone(), 14 * DAY);
        while world.wall_ms() < began_ms + (14 * DAY).as_millis() as u64 {
            let Next::Rest(time) = job.step(&cx).await.unwrap() else { panic!("it never rests") };
            world.advance(time * 7);
            units += 1;
            let mark = store.scrub_mark(0).await.unwrap();
            assert!(world.wall_ms() < mark.previous_began_ms + (14 * DAY).as_millis() as u64);
            rounds += u64::from(previous_ms < mark.began_ms);
            previous_ms = mark.began_ms;
            if units % 1_000 == 0 {
                job = Scrub::new(store.clone(), 14 * DAY);
            }
        }
        assert!((2..=4).contains(&rounds), "{rounds} rounds");
    }

    #[tokio::test]
    async fn an_empty_store_costs_nothing() {
        let (world, store) = (World::new(1), store(NodeId(1)).await);
        let mut job = Scrub::new(store.clone(), 14 * DAY);
        for _ in 0..10 {
            assert_eq!(job.step(&world.context(1)).await.unwrap(), Next::Rest(REST));
            world.advance(REST);
        }
    }
}
