//! Makes shards of what is whole copies still: versions that moved to a class that wants shards, and those for which there
//! were too few nodes when they were written.
//!
//! Each node does the versions whose first extent it owns first. The shards are put where the newest layout wants them, all
//! of them: what stands the loss of two nodes must not stand that of one for a while, only because a node was not there. They
//! are named, instead of the copies, by a command that changes nothing where the version has other extents by then. Until
//! then nobody sees them; those of a unit that was cut off are put again, or go with the version.

use std::time::Duration;

use async_trait::async_trait;
use consensus::client::{MetaError, ask};
use consensus::meta::command::{self, Command, Reject};
use consensus::meta::model::{Extent, Home};
use consensus::meta::query::{Answer, Query, Recoding};
use fabric::coding::Coding;
use fabric::ids::Stamp;
use fabric::limits::CHUNK_BYTES;
use fabric::placement::Layout;
use futures::future::try_join_all;

use super::copy::{Sources, fetch_from_any};
use super::{CHUNKS_PER_STEP, Job, JobContext, JobError, Next, wrong_answer};

/// When all was looked at, the next look is after this.
const REST: Duration = Duration::from_secs(10);

/// See the file's head.
#[derive(Default)]
pub struct Recode {
    /// Behind this version in the present round. What cannot be done now waits for the next one.
    after: Option<(Home, Stamp)>,
    /// What is being done.
    current: Option<Current>,
}

/// A version on its way.
struct Current {
    recoding: Recoding,
    /// The shards of its first extents, that are all there.
    done: Vec<Extent>,
    /// Those of the next one, as far as they are.
    next: Option<Shards>,
}

/// Shards of an extent that are put.
struct Shards {
    layout: Layout,
    extent: Extent,
    /// Stripes that are there.
    stripes: u64,
}

#[async_trait]
impl Job for Recode {
    fn name(&self) -> &'static str {
        "recode"
    }

    async fn step(&mut self, cx: &JobContext) -> Result<Next, JobError> {
        if let Some(mut current) = self.current.take() {
            if !current.go_on(cx).await? {
                self.current = Some(current);
            }
            return Ok(Next::Again);
        }
        let question = Query::Recoding { after: self.after.take() };
        let Answer::Recoding(found) = ask(&*cx.meta, question).await? else {
            return Err(wrong_answer("recoding"));
        };
        let Some(recoding) = found else { return Ok(Next::Rest(REST)) };
        self.after = Some((recoding.home.clone(), recoding.version));
        match recoding.extents.first() {
            // Nothing is to be done any more.
            None if (cx.leads)() => say(cx, &recoding, Vec::new()).await?,
            None => {}
            Some(first) => {
                let layout = cx.ask_layout(None).await?;
                if layout.owners_of(first.id).first() == Some(&cx.node) {
                    self.current = Some(Current { recoding, done: Vec::new(), next: None });
                }
            }
        }
        Ok(Next::Again)
    }
}

impl Current {
    /// Puts some stripes. Returns whether all is done and said.
    async fn go_on(&mut self, cx: &JobContext) -> Result<bool, JobError> {
        let Some(old) = self.recoding.extents.get(self.done.len()) else {
            say(cx, &self.recoding, std::mem::take(&mut self.done)).await?;
            return Ok(true);
        };
        let mut shards = match self.next.take() {
            Some(shards) => shards,
            None => Shards::new(cx.ask_layout(None).await?, old),
        };
        shards.put_some(cx, old).await?;
        if shards.stripes < old.chunks() {
            self.next = Some(shards);
        } else {
            self.done.push(shards.finished());
        }
        Ok(false)
    }
}

impl Shards {
    fn new(layout: Layout, old: &Extent) -> Shards {
        let coding = Coding::widest(layout.owners_of(old.id).len());
        // As wide as a copy is cut, so that a stripe is one chunk of it.
        let chunk_bytes = coding.chunk_bytes(old.bytes.min(CHUNK_BYTES as u64));
        let (id, layout_version) = (old.id.coded(coding), layout.version);
        let extent = Extent { id, chunk_bytes, layout: layout_version, confirmed: 0, ..old.clone() };
        Shards { layout, extent, stripes: 0 }
    }

    /// Puts the next stripes, as many as a unit takes.
    async fn put_some(&mut self, cx: &JobContext, old: &Extent) -> Result<(), JobError> {
        let layout = cx.layout(old.layout).await?;
        let from = Sources::of(old, layout.owners_of(old.id)).or(self.layout.owners_of(old.id));
        let until = old.chunks().min(self.stripes + CHUNKS_PER_STEP);
        while self.stripes < until {
            let put = self.put_stripe(cx, old, &from, self.stripes);
            cx.work.budget.spend(&*cx.env, put).await?;
            self.stripes += 1;
        }
        Ok(())
    }

    /// Cuts a chunk of the copies into shards, and puts each where it belongs.
    async fn put_stripe(
        &self,
        cx: &JobContext,
        old: &Extent,
        from: &Sources,
        stripe: u64,
    ) -> Result<(), JobError> {
        let (chunk, bytes) = (old.id.chunk(stripe as u32), old.spread().bytes_of(0, stripe));
        let (stat, body) = fetch_from_any(cx, chunk, Some(bytes), &from.holders(0)).await?;
        let (id, coding) = (self.extent.id, self.extent.coding());
        let owners = self.layout.owners_of(id);
        let shards = coding.shards_of(body, self.extent.chunk_bytes as usize);
        let places = |shard: usize| coding.places_of(shard, owners.len()).map(move |place| (shard, place));
        let wanted = (0..coding.shards()).flat_map(places);
        let wanted = wanted.filter(|(shard, _)| !shards[*shard].is_empty());
        let puts = wanted.map(|(shard, place)| {
            let (body, origin) = (vec![shards[shard].clone()], stat.origin.clone());
            cx.chunks.put(owners[place], id.shard(shard, stripe as u32), body, origin)
        });
        try_join_all(puts).await?;
        Ok(())
    }

    fn finished(self) -> Extent {
        let places = self.extent.coding().places(self.layout.owners_of(self.extent.id).len());
        Extent { confirmed: (1 << places) - 1, ..self.extent }
    }
}

/// Names what is there; with nothing, the version stays as it is.
async fn say(cx: &JobContext, recoding: &Recoding, extents: Vec<Extent>) -> Result<(), JobError> {
    let (home, version, count) = (recoding.home.clone(), recoding.version, extents.len() as u64);
    match cx.meta.propose(Command::Recode(command::Recode { home, version, extents })).await {
        Ok(_) => {
            metrics::counter!("fluffy_extents_recoded_total").increment(count);
            Ok(())
        }
        // It was written, or appended to, meanwhile.
        Err(MetaError::Rejected(Reject::SourceChanged)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use fabric::ids::NodeId;

    use super::super::testing::{World, extent};
    use super::*;
    use crate::client::Chunks;

    /// Two whole chunks and a short one.
    const BYTES: u64 = (2 << 20) + 100_000;

    async fn run(job: &mut Recode, cx: &JobContext) -> Result<(), JobError> {
        while job.step(cx).await? == Next::Again {}
        Ok(())
    }

    /// The data of a stripe, as the shards on nodes have it, and whether all shards are there but on some nodes.
    async fn stripe(world: &World, shards: &Extent, stripe: u64, but: &[u16]) -> Vec<u8> {
        let (spread, coding) = (shards.spread(), shards.coding());
        let mut found = vec![None; coding.shards()];
        for (shard, found) in found.iter_mut().enumerate() {
            let node = shard as u16 + 1;
            let bytes = spread.bytes_of(shard, stripe) as u32;
            let chunk = shards.id.shard(shard, stripe as u32);
            if bytes == 0 || but.contains(&node) {
                *found = (bytes == 0).then(Bytes::new);
                continue;
            }
            *found = Some(world.chunks.get(NodeId(node), chunk, 0, bytes).await.unwrap());
        }
        let longest = spread.bytes_of(0, stripe) as usize;
        let data = (0..coding.data()).map(|shard| {
            let body = coding.rebuild(shard, &found, longest).unwrap();
            body.slice(..spread.bytes_of(shard, stripe) as usize)
        });
        data.collect::<Vec<_>>().concat()
    }

    #[tokio::test]
    async fn copies_become_shards_where_the_layout_wants_them() {
        let world = World::new(6);
        let large = extent(1, BYTES, CHUNK_BYTES as u32);
        let small = extent(2, 20_000, CHUNK_BYTES as u32);
        for extent in [&large, &small] {
            world.fill(extent, &[2, 3]).await;
        }
        world.meta.recode(&[large.clone(), small.clone()]);
        run(&mut Recode::default(), &world.context(2)).await.unwrap();
        assert!(world.meta.recoded().is_empty(), "it is the business of node 1");
        run(&mut Recode::default(), &world.context(1)).await.unwrap();
        let said = world.meta.recoded();
        let [recode] = &said[..] else { panic!("{said:?}") };
        for (old, new) in [&large, &small].into_iter().zip(&recode.extents) {
            assert_eq!((new.id, new.bytes), (old.id.coded(Coding::FourPlusTwo), old.bytes));
            assert_eq!((new.confirmed, new.layout.0), (0b11_1111, 1));
            for ordinal in 0..old.chunks() {
                assert_eq!(stripe(&world, new, ordinal, &[]).await, world.body(old, ordinal));
                assert_eq!(stripe(&world, new, ordinal, &[1, 4]).await, world.body(old, ordinal));
            }
        }
        assert_eq!(recode.extents[1].chunk_bytes, 8192, "a small one is cut evenly");
        let stat = world.chunks.stat(NodeId(5), vec![recode.extents[0].id.shard(4, 0)]).await.unwrap();
        assert!(stat[0].as_ref().unwrap().origin.is_some());
    }

    #[tokio::test]
    async fn copies_stay_while_a_node_takes_no_shards() {
        let world = World::new(6);
        let large = extent(1, BYTES, CHUNK_BYTES as u32);
        world.fill(&large, &[2, 3]).await;
        world.meta.recode(std::slice::from_ref(&large));
        world.chunks.silence(NodeId(6), true);
        let mut job = Recode::default();
        assert!(run(&mut job, &world.context(1)).await.is_err());
        assert!(world.meta.recoded().is_empty());
        world.chunks.silence(NodeId(6), false);
        run(&mut job, &world.context(1)).await.unwrap();
        run(&mut job, &world.context(1)).await.unwrap();
        let said = world.meta.recoded();
        assert_eq!(said[0].extents[0].confirmed, 0b11_1111);
        for ordinal in 0..3 {
            let without = stripe(&world, &said[0].extents[0], ordinal, &[1, 6]).await;
            assert_eq!(without, world.body(&large, ordinal));
        }
    }

    #[tokio::test]
    async fn what_stays_as_it_is_is_forgotten() {
        let world = World::new(3);
        world.meta.recode(&[]);
        run(&mut Recode::default(), &world.context(1)).await.unwrap();
        assert_eq!(world.meta.recoded().len(), 1);
        assert!(world.meta.recoded()[0].extents.is_empty());
    }
}
