//! The proof that everything is there: each chunk that the catalog names, in as many copies as it should have, on nodes
//! in zones of their own, read and proved by the nodes that hold them.
//!
//! The statement is about the log index at which the proof began. What was named then and is named still when its turn
//! comes is looked at; what was deleted meanwhile needs no copies, and what came later is of a later statement.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use consensus::client::{Meta, MetaError, ask};
use consensus::meta::model::{Extent, Home};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, Query};
use fabric::coding::Coding;
use fabric::ids::{BucketId, ChunkId, ExtentId, LayoutVersion, NodeId};
use fabric::limits::COPIES;
use fabric::placement::Layout;
use futures::future::join_all;
use serde_json::json;

use crate::chunks::{CHECKS_PER_CALL_MAX, CHUNKS_PER_CALL_MAX};
use crate::client::{ChunkError, ChunkStat, Chunks, Verdict};
use crate::membership::{Membership, MembershipError, strange};

/// Extents of one question.
const EXTENTS_PER_PAGE: u32 = 256;
/// Chunks that are looked at together: of one extent, or of several.
const CHUNKS_AT_ONCE: u64 = 4_096;
/// What is not whole is looked at so often again: it may be on its way, or gone.
const LOOKS: usize = 3;
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Faults that are told in full, and extents that are looked at again.
pub const FAULTS_TOLD_MAX: usize = 10_000;

const BUCKETS_PER_PAGE: u32 = 1_000;

/// How thoroughly copies are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Nodes read every byte.
    Read,
    /// Nodes look into their indexes.
    Index,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of the bucket.
    pub bucket: String,
    /// Whose extent it is.
    pub key: ObjectKey,
    /// Which.
    pub extent: ExtentId,
    /// What is wrong, in words.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: extent {}: {}", self.bucket, self.key, self.extent, self.what)
    }
}

/// What a proof found.
#[derive(Debug, Clone, Default)]
pub struct Wholeness {
    /// The log index that it is about.
    pub index: u64,
    /// Extents that were looked at …
    pub extents: u64,
    /// … their chunks …
    pub chunks: u64,
    /// … the copies of these that are there, and their bytes.
    pub copies: u64,
    /// Bytes of all these copies.
    pub bytes: u64,
    /// Extents that lie in an older layout still.
    pub moving: u64,
    /// How many extents are stored in which way.
    pub codings: BTreeMap<Coding, u64>,
    /// The first [`FAULTS_TOLD_MAX`] of what is wrong, in order of home …
    pub faults: Vec<Fault>,
    /// … and how many extents something is wrong with.
    pub faulty: u64,
}

impl Wholeness {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.faulty == 0
    }

    fn tell(&mut self, bucket: &str, key: &ObjectKey, extent: ExtentId, wrong: Vec<String>) {
        self.faulty += 1;
        let room = FAULTS_TOLD_MAX.saturating_sub(self.faults.len());
        let fault = |what| Fault { bucket: bucket.to_string(), key: key.clone(), extent, what };
        self.faults.extend(wrong.into_iter().take(room).map(fault));
    }
}

impl Wholeness {
    /// One JSON object.
    pub fn to_json(&self) -> String {
        let fault = |fault: &Fault| {
            json!({
                "bucket": fault.bucket, "key": fault.key.as_str(),
                "extent": fault.extent.to_string(), "what": fault.what,
            })
        };
        let faults: Vec<_> = self.faults.iter().map(fault).collect();
        let codings: BTreeMap<_, _> =
            self.codings.iter().map(|(coding, extents)| (coding.to_string(), extents)).collect();
        json!({
            "whole": self.is_whole(), "index": self.index, "extents": self.extents, "chunks": self.chunks,
            "copies": self.copies, "bytes": self.bytes, "extents_to_move": self.moving,
            "codings": codings, "extents_not_whole": self.faulty, "faults": faults,
        })
        .to_string()
    }
}

impl fmt::Display for Wholeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))?;
        let Wholeness { index, extents, chunks, copies, bytes, moving, .. } = self;
        write!(
            f,
            "index {index}: {extents} extents of {chunks} chunks, {copies} copies of {bytes} bytes are there"
        )?;
        for (coding, extents) in self.codings.iter().filter(|(coding, _)| **coding != Coding::Whole) {
            write!(f, ", {extents} extents are {coding}")?;
        }
        if *moving > 0 {
            write!(f, ", {moving} extents to move")?;
        }
        f.write_str(if self.is_whole() { ": whole" } else { ": not whole" })
    }
}

/// Looks at everything that the catalog names. `told` hears of the progress after each page.
pub async fn prove(
    meta: &dyn Meta,
    chunks: &dyn Chunks,
    copies: usize,
    depth: Depth,
    mut told: impl FnMut(&Wholeness),
) -> Result<Wholeness, MembershipError> {
    let membership = Membership::read(meta).await?;
    let rules = Rules::new(&membership, copies);
    let mut proof = Proof { meta, chunks, depth, rules, layouts: BTreeMap::new(), buckets: BTreeMap::new() };
    let (mut found, mut doubtful, mut after) = (Wholeness::default(), Vec::new(), None);
    loop {
        let page = proof.page(after, EXTENTS_PER_PAGE).await?;
        if found.index == 0 {
            found.index = page.index;
        }
        for some in groups(&page.extents) {
            let wrong = proof.look(some, &mut found).await?;
            let wrong = some.iter().zip(wrong).filter(|(_, wrong)| !wrong.is_empty());
            doubtful.extend(wrong.map(|((home, extent), _)| (home.clone(), extent.id)));
        }
        // There are more than anybody reads: these are not looked at again.
        found.faulty += doubtful.len().saturating_sub(FAULTS_TOLD_MAX) as u64;
        doubtful.truncate(FAULTS_TOLD_MAX);
        told(&found);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    proof.look_again(doubtful, &mut found).await?;
    Ok(found)
}

/// Cuts a page where [`CHUNKS_AT_ONCE`] are reached.
fn groups(extents: &[(Home, Extent)]) -> impl Iterator<Item = &[(Home, Extent)]> {
    let mut chunks = 0;
    extents.chunk_by(move |(_, extent), (_, next)| {
        let of = |extent: &Extent| extent.chunks() * extent.coding().shards() as u64;
        chunks += of(extent);
        let fits = chunks + of(next) <= CHUNKS_AT_ONCE;
        chunks = if fits { chunks } else { 0 };
        fits
    })
}

/// What each extent needs.
struct Rules {
    newest: LayoutVersion,
    zones: BTreeMap<NodeId, String>,
    /// Nodes that hold data, and zones that these are in.
    nodes: usize,
    zones_used: usize,
    copies: usize,
}

impl Rules {
    fn new(membership: &Membership, copies: usize) -> Rules {
        let owners: BTreeSet<NodeId> = membership.owned().into_keys().collect();
        // A node without a zone is one by itself.
        let zone = |node: NodeId, zone: &str| {
            if zone.is_empty() { format!("node {node}") } else { zone.to_string() }
        };
        let zones: BTreeMap<_, _> =
            membership.nodes.iter().map(|row| (row.id, zone(row.id, &row.zone))).collect();
        let used: BTreeSet<_> = owners.iter().filter_map(|node| zones.get(node)).collect();
        let (nodes, zones_used) = (owners.len(), used.len());
        let copies = copies.min(nodes).min(COPIES);
        Rules { newest: membership.layout.version, nodes, zones_used, copies, zones }
    }

    /// What is wrong with where an extent belongs: its copies, or its shards, are to be on nodes of their own, as far as
    /// there are nodes, and in as many zones as can be.
    fn check_owners(&self, coding: Coding, holders: &[NodeId]) -> Option<String> {
        let wanted = if coding == Coding::Whole { self.copies } else { coding.shards().min(self.nodes) };
        let zones: BTreeSet<_> = holders.iter().filter_map(|node| self.zones.get(node)).collect();
        if holders.len() < wanted {
            return Some(format!("it belongs on {} nodes, not on {wanted}", holders.len()));
        }
        let wanted = wanted.min(self.zones_used);
        (zones.len() < wanted).then(|| format!("its copies are in {} zones, not in {wanted}", zones.len()))
    }
}

/// A page of what is named.
struct Named {
    index: u64,
    extents: Vec<(Home, Extent)>,
    next: Option<(Home, ExtentId)>,
}

/// A chunk that should be on a node.
struct Wanted {
    /// Of which of the extents that are looked at.
    place: usize,
    chunk: ChunkId,
    bytes: u64,
}

impl Wanted {
    /// How the chunk is called where somebody reads it.
    fn name(&self) -> String {
        let ordinal = self.chunk.ordinal();
        match self.chunk.extent().coding() {
            None | Some(Coding::Whole) => format!("chunk {ordinal}"),
            Some(_) => format!("chunk {ordinal} of shard {}", self.chunk.shard()),
        }
    }
}

/// What a node has of what it should.
#[derive(Default)]
struct Had {
    copies: u64,
    bytes: u64,
    /// By extent: the first thing that is wrong.
    wrong: BTreeMap<usize, String>,
}

struct Proof<'a> {
    meta: &'a dyn Meta,
    chunks: &'a dyn Chunks,
    depth: Depth,
    rules: Rules,
    layouts: BTreeMap<LayoutVersion, Layout>,
    /// Asked for when the first fault is told.
    buckets: BTreeMap<BucketId, String>,
}

impl Proof<'_> {
    async fn page(&self, after: Option<(Home, ExtentId)>, limit: u32) -> Result<Named, MembershipError> {
        let answered = self.meta.query(Query::Extents { after, limit }).await?;
        match answered.answer.map_err(MetaError::Rejected)? {
            Answer::Placed { extents, next } => Ok(Named { index: answered.index, extents, next }),
            _ => Err(strange("extents")),
        }
    }

    async fn owners(&mut self, extent: &Extent) -> Result<Vec<NodeId>, MembershipError> {
        if !self.layouts.contains_key(&extent.layout) {
            match ask(self.meta, Query::Layout(Some(extent.layout))).await? {
                Answer::Layout(Some(layout)) => self.layouts.insert(extent.layout, layout),
                _ => return Err(strange("layout")),
            };
        }
        Ok(self.layouts[&extent.layout].owners_of(extent.id).to_vec())
    }

    /// Looks at all copies of some extents; returns what is wrong with each.
    async fn look(
        &mut self,
        extents: &[(Home, Extent)],
        found: &mut Wholeness,
    ) -> Result<Vec<Vec<String>>, MembershipError> {
        let mut wrong = Vec::new();
        let mut wanted: BTreeMap<NodeId, Vec<Wanted>> = BTreeMap::new();
        for (place, (_, extent)) in extents.iter().enumerate() {
            let owners = self.owners(extent).await?;
            let (spread, coding, stripes) = (extent.spread(), extent.coding(), 0..extent.chunks());
            let holders = coding.holders(&owners);
            let mut faults: Vec<String> = self.rules.check_owners(coding, holders).into_iter().collect();
            for (bit, node) in holders.iter().enumerate() {
                if extent.confirmed >> bit & 1 == 0 {
                    faults.push(format!("node {node}: its copy is owed"));
                }
                let chunks = spread.chunks_at(bit, owners.len(), stripes.clone());
                let chunks = chunks.map(|(chunk, bytes)| Wanted { place, chunk, bytes });
                wanted.entry(*node).or_default().extend(chunks);
            }
            wrong.push(faults);
            found.extents += 1;
            *found.codings.entry(coding).or_default() += 1;
            found.chunks += extent.bytes.div_ceil(u64::from(extent.chunk_bytes.max(1)));
            found.moving += u64::from(extent.layout < self.rules.newest);
        }
        let looks = wanted.into_iter().map(|(node, wanted)| self.look_on(node, wanted));
        for (node, had) in join_all(looks).await {
            found.copies += had.copies;
            found.bytes += had.bytes;
            had.wrong.into_iter().for_each(|(place, what)| wrong[place].push(format!("node {node}: {what}")));
        }
        Ok(wrong)
    }

    /// Looks at what should be on one node.
    async fn look_on(&self, node: NodeId, wanted: Vec<Wanted>) -> (NodeId, Had) {
        let at_once = if self.depth == Depth::Read { CHECKS_PER_CALL_MAX } else { CHUNKS_PER_CALL_MAX };
        let mut had = Had::default();
        for some in wanted.chunks(at_once) {
            let verdicts = self.verdicts(node, some.iter().map(|wanted| wanted.chunk).collect()).await;
            for (number, wanted) in some.iter().enumerate() {
                let want = wanted.bytes;
                let verdict = verdicts.as_ref().map(|verdicts| verdicts.get(number));
                let what = match verdict {
                    Ok(Some(Verdict::Whole { bytes })) if u64::from(*bytes) == want => {
                        had.copies += 1;
                        had.bytes += want;
                        continue;
                    }
                    Ok(Some(Verdict::Whole { bytes })) => {
                        format!("{} has {bytes} bytes of {want}", wanted.name())
                    }
                    Ok(Some(Verdict::Absent)) => format!("{} is not there", wanted.name()),
                    Ok(Some(Verdict::Rotten)) => format!("{} is rotten", wanted.name()),
                    Ok(None) => format!("it does not tell of {}", wanted.name()),
                    Err(error) => error.to_string(),
                };
                had.wrong.entry(wanted.place).or_insert(what);
            }
        }
        (node, had)
    }

    async fn verdicts(&self, node: NodeId, chunks: Vec<ChunkId>) -> Result<Vec<Verdict>, ChunkError> {
        if self.depth == Depth::Read {
            return self.chunks.check(node, chunks).await;
        }
        let listed = |stat: Option<ChunkStat>| {
            stat.map_or(Verdict::Absent, |stat| Verdict::Whole { bytes: stat.bytes })
        };
        Ok(self.chunks.stat(node, chunks).await?.into_iter().map(listed).collect())
    }

    /// Looks again at what was not whole: it may have been on its way, or it is gone meanwhile.
    async fn look_again(
        &mut self,
        mut doubtful: Vec<(Home, ExtentId)>,
        found: &mut Wholeness,
    ) -> Result<(), MembershipError> {
        for last in (0..LOOKS).map(|look| look + 1 == LOOKS) {
            if doubtful.is_empty() {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            let mut rows = Vec::new();
            for (home, id) in std::mem::take(&mut doubtful) {
                // One that nobody names any more needs no copies.
                rows.extend(self.row(&home, id).await?.map(|extent| (home, extent)));
            }
            for group in groups(&rows) {
                let wrong = self.look(group, &mut Wholeness::default()).await?;
                for ((home, extent), wrong) in group.iter().zip(wrong).filter(|(_, wrong)| !wrong.is_empty())
                {
                    if last {
                        let bucket = self.bucket_name(home.bucket).await?;
                        found.tell(&bucket, &home.key, extent.id, wrong);
                    }
                    doubtful.push((home.clone(), extent.id));
                }
            }
        }
        Ok(())
    }

    /// What users call a bucket; those that are gone have a number only.
    async fn bucket_name(&mut self, bucket: BucketId) -> Result<String, MembershipError> {
        if self.buckets.is_empty() {
            let mut after = None;
            loop {
                let question =
                    Query::Buckets { owner: None, prefix: String::new(), after, limit: BUCKETS_PER_PAGE };
                let Answer::Buckets { buckets, more } = ask(self.meta, question).await? else {
                    return Err(strange("buckets"));
                };
                after = buckets.last().map(|bucket| bucket.name.to_string());
                self.buckets.extend(buckets.into_iter().map(|bucket| (bucket.id, bucket.name.to_string())));
                if !more {
                    break;
                }
            }
        }
        Ok(self.buckets.get(&bucket).cloned().unwrap_or_else(|| format!("bucket {}", bucket.0)))
    }

    async fn row(&self, home: &Home, id: ExtentId) -> Result<Option<Extent>, MembershipError> {
        let page = self.page(Some((home.clone(), id.before())), 1).await?;
        let row = page.extents.into_iter().find(|(other, extent)| other == home && extent.id == id);
        Ok(row.map(|(_, extent)| extent))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::jobs::testing::{World, coded, extent};

    async fn found(world: &World, depth: Depth) -> Wholeness {
        prove(&*world.meta, &*world.chunks, 3, depth, |_| {}).await.unwrap()
    }

    /// Two extents of 3 and 1 chunks on three nodes.
    async fn whole() -> (World, [Extent; 2]) {
        let world = World::new(3);
        let extents =
            [extent(1, 300, 100), extent(2, 50, 100)].map(|extent| Extent { confirmed: 0b111, ..extent });
        for extent in &extents {
            world.fill(extent, &[1, 2, 3]).await;
        }
        world.meta.place(&extents);
        (world, extents)
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_store_is_told_in_numbers() {
        let (world, _) = whole().await;
        for depth in [Depth::Read, Depth::Index] {
            let found = found(&world, depth).await;
            assert!(found.is_whole(), "{:?}", found.faults);
            let Wholeness { index, extents, chunks, copies, bytes, moving, .. } = found;
            assert_eq!((index, extents, chunks, copies, bytes, moving), (100, 2, 4, 12, 1_050, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_rotten_owed_or_silent_is_told() {
        let (world, [long, short]) = whole().await;
        world.chunks.delete(NodeId(2), vec![long.id.chunk(1)]).await.unwrap();
        world.chunks.rot(NodeId(3), long.id.chunk(2));
        world.meta.place(&[long.clone(), Extent { confirmed: 0b110, ..short }]);
        let read = found(&world, Depth::Read).await;
        let told: Vec<&str> = read.faults.iter().map(|fault| fault.what.as_str()).collect();
        let missing = "node 2: chunk 1 is not there";
        assert_eq!(told, [missing, "node 3: chunk 2 is rotten", "node 1: its copy is owed"]);
        assert_eq!((read.faulty, read.copies), (2, 10));
        assert_eq!(found(&world, Depth::Index).await.faults.len(), 2, "rot is not in the indexes");
        world.chunks.silence(NodeId(1), true);
        let silent = found(&world, Depth::Read).await;
        assert!(silent.faults.iter().any(|fault| fault.what.contains("silent")), "{:?}", silent.faults);
    }

    #[tokio::test(start_paused = true)]
    async fn too_few_owners_are_told_and_what_moves_is_counted() {
        let (world, extents) = whole().await;
        world.meta.set_owners(&[1, 2, 3, 4]);
        let moving = found(&world, Depth::Index).await;
        assert!(moving.is_whole() && moving.moving == 2);
        world.meta.set_owners(&[4, 5]);
        let extents = extents.map(|extent| Extent { layout: LayoutVersion(3), ..extent });
        for extent in &extents {
            world.fill(extent, &[4, 5]).await;
        }
        world.meta.place(&extents);
        // There are only two nodes for three copies: no more can be had.
        assert!(found(&world, Depth::Read).await.is_whole());
    }

    #[test]
    fn large_extents_are_looked_at_alone() {
        let home = Home { bucket: BucketId(1), key: "key".parse().unwrap() };
        let sizes = [1, CHUNKS_AT_ONCE, 2, 3, CHUNKS_AT_ONCE - 4, CHUNKS_AT_ONCE + 1];
        let extents = sizes.map(|chunks| (home.clone(), extent(chunks, chunks * 100, 100)));
        let lengths: Vec<usize> = groups(&extents).map(<[_]>::len).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_shard_is_wanted_on_its_node() {
        let world = World::new(6);
        let coded = coded(1, Coding::FourPlusTwo, 1_234, 100);
        let coded = Extent { confirmed: 0b11_1111, ..coded };
        world.fill_shards(&coded, &[1, 2, 3, 4, 5, 6]).await;
        world.meta.place(std::slice::from_ref(&coded));
        for depth in [Depth::Read, Depth::Index] {
            let whole = found(&world, depth).await;
            assert!(whole.is_whole(), "{:?}", whole.faults);
            // 13 chunks of data, the last of 34 bytes, and parity of three whole stripes and a short one.
            assert_eq!((whole.chunks, whole.copies, whole.bytes), (13, 21, 1_234 + 2 * 334));
            assert_eq!(whole.codings, BTreeMap::from([(Coding::FourPlusTwo, 1)]));
            assert!(whole.to_string().ends_with(", 1 extents are 4+2: whole"), "{whole}");
        }
        world.chunks.delete(NodeId(6), vec![coded.id.shard(5, 1)]).await.unwrap();
        world.chunks.rot(NodeId(1), coded.id.shard(0, 3));
        let broken = found(&world, Depth::Read).await;
        let told: Vec<&str> = broken.faults.iter().map(|fault| fault.what.as_str()).collect();
        assert_eq!(told, ["node 1: chunk 3 of shard 0 is rotten", "node 6: chunk 1 of shard 5 is not there"]);
        // With a node less two shards share one, which is all that can be had: where it is so.
        world.meta.set_owners(&[1, 2, 3, 4, 5]);
        let five = Extent { layout: LayoutVersion(2), confirmed: 0b1_1111, ..coded };
        world.meta.place(std::slice::from_ref(&five));
        let told = found(&world, Depth::Index).await;
        assert_eq!(told.faults.len(), 1, "{:?}", told.faults);
        assert_eq!(told.faults[0].what, "node 1: chunk 0 of shard 5 is not there");
    }
}
