//! Names again what lies on nodes and no row names: after a recovery or a restore, and where all metadata is gone.
//!
//! The first chunk of an extent says what it belongs to. An object that was written whole comes back under its key, with
//! the headers that came with it; the parts of an upload come back as one object. Each body is read from end to end, and
//! the owners that the layout gives it hold it, before it is named. An encrypted body comes back encrypted as it was: its
//! sealed data key lies with the first chunk; only its tag is another one. What was deleted or overwritten shortly before
//! comes back, too: nobody can tell. Bodies that lie in the metadata itself leave nothing behind, and annotations no name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use consensus::client::{Meta, MetaError, ask};
use consensus::meta::command::{Command, Reject, Salvage, SalvagedBody, Sealed};
use consensus::meta::model::Extent;
use consensus::meta::names::{BucketName, ObjectKey, UserName};
use consensus::meta::query::{Answer, Query};
use consensus::meta::sealing::Sealing;
use fabric::coding::{Coding, Spread};
use fabric::ids::{BucketId, ChunkId, ExtentId, NodeId, Stamp};
use fabric::limits::{CHUNK_BYTES, EXTENT_CHUNKS_MAX};
use fabric::placement::Layout;
use futures::StreamExt;
use md5::{Digest, Md5};

use crate::client::{ChunkError, ChunkStat, Chunks};
use crate::lost::{LostError, Walk, unnamed};
use crate::origin::{ANNOTATION_PART, ChunkOrigin};

/// Objects that are brought back at once; one chunk of each is in memory.
const AT_ONCE: usize = 8;
/// Bodies that are left where they are and told one by one, and parts that wait until all are seen.
const TOLD_MAX: usize = 100_000;
const PARTS_WAITING_MAX: usize = 1_000_000;

/// What an operator wants.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Who owns the buckets that are made anew.
    pub owner: UserName,
    /// Whether objects that are there give way to bodies that were begun later.
    pub newer: bool,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Objects that came back, and their bytes.
    pub objects: u64,
    /// See `objects`.
    pub bytes: u64,
    /// The first [`TOLD_MAX`] bodies that did not, and why.
    pub left: BTreeMap<ExtentId, (String, Left)>,
    /// Those beyond.
    pub more_left: u64,
    /// Nodes that did not answer, and why.
    pub silent: Vec<(NodeId, ChunkError)>,
}

/// Why a body does not come back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Left {
    /// What the key names stays.
    #[error("the key names an object")]
    Present,
    /// It was deleted or replaced, or its writer goes on.
    #[error("it waits to be collected")]
    Collected,
    /// Its upload is open: its client may send it again.
    #[error("its upload is open")]
    OpenUpload,
    /// Its writer gave up, or it holds packed payloads of many objects.
    #[error("nobody said how long it is: packed small objects, or no object")]
    Unknown,
    /// Its name was in the metadata alone.
    #[error("it is an annotation, and nothing says of which name")]
    Annotation,
    /// What is stored with it does not say how, or its parts say different things.
    #[error("it is encrypted, and how cannot be read")]
    Sealed,
    /// Chunks are missing or rotten everywhere.
    #[error("not all of it is there: {0}")]
    Incomplete(String),
    /// Too few nodes take it.
    #[error("too few of the nodes that should hold it do")]
    TooFewOwners,
    /// The metadata refused.
    #[error("refused: {0}")]
    Refused(String),
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// Nothing went back here.
    #[error("garbage is collected in this cluster: there was no recovery, or `collect` ended it")]
    NotHeld,
    /// No layout yet.
    #[error("chunks have no place yet: start all nodes of the configuration first")]
    NoLayout,
    /// Too many at once.
    #[error("more than {PARTS_WAITING_MAX} parts of uploads lie without a row")]
    TooManyParts,
    /// Members or rows are not to be had.
    #[error(transparent)]
    Walk(#[from] LostError),
    /// The metadata did not answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// What one upload left: its parts by number, the newest of each.
type Upload = BTreeMap<u16, (ExtentId, ChunkOrigin)>;

/// Walks over all nodes and brings back what can be. `told` hears how it stands after each page.
pub async fn run(
    meta: &dyn Meta,
    chunks: &dyn Chunks,
    wishes: &Wishes,
    mut told: impl FnMut(&Salvaged),
) -> Result<Salvaged, SalvageError> {
    let Answer::Hold(Some(_)) = ask(meta, Query::Hold).await? else { return Err(SalvageError::NotHeld) };
    let Answer::Layout(Some(layout)) = ask(meta, Query::Layout(None)).await? else {
        return Err(SalvageError::NoLayout);
    };
    let mut walk = Walk::begin(meta, chunks).await?;
    let salvager = Salvager { meta, chunks, wishes, layout, nodes: walk.nodes() };
    let mut outcome = Salvaged::default();
    let mut uploads: BTreeMap<(BucketId, ObjectKey, Stamp), Upload> = BTreeMap::new();
    let mut parts_waiting = 0;
    while let Some((node, page)) = walk.next().await {
        let page = match page {
            Ok(page) => page,
            Err(why) => {
                outcome.silent.push((node, why));
                continue;
            }
        };
        let (parts, whole): (Vec<_>, Vec<_>) =
            unnamed(meta, &page).await?.into_iter().partition(|(_, origin)| origin.part.is_some());
        for (extent, origin) in parts {
            let Some((upload, number)) = origin.part else { continue };
            if number == ANNOTATION_PART {
                outcome.leave(Upload::from([(number, (extent, origin))]), &Left::Annotation);
                continue;
            }
            let upload = uploads.entry((origin.bucket, origin.key.clone(), upload)).or_default();
            let before = upload.get(&number).map(|(extent, _)| *extent);
            parts_waiting += usize::from(before.is_none());
            if before.is_none_or(|before| before.age() < extent.age()) {
                upload.insert(number, (extent, origin));
            }
        }
        if PARTS_WAITING_MAX < parts_waiting {
            return Err(SalvageError::TooManyParts);
        }
        // What was left once is left.
        let whole = whole.into_iter().filter(|(extent, _)| !outcome.left.contains_key(extent));
        let objects: Vec<Upload> = whole.map(|body| Upload::from([(0, body)])).collect();
        salvager.objects(objects, &mut outcome).await?;
        told(&outcome);
    }
    let uploads = futures::stream::iter(uploads.into_values()).chunks(AT_ONCE);
    let mut uploads = std::pin::pin!(uploads);
    while let Some(some) = uploads.next().await {
        salvager.objects(some, &mut outcome).await?;
        told(&outcome);
    }
    Ok(outcome)
}

struct Salvager<'a> {
    meta: &'a dyn Meta,
    chunks: &'a dyn Chunks,
    wishes: &'a Wishes,
    layout: Layout,
    nodes: Vec<NodeId>,
}

impl Salvager<'_> {
    /// Brings back some objects side by side.
    async fn objects(&self, objects: Vec<Upload>, outcome: &mut Salvaged) -> Result<(), SalvageError> {
        let names = objects.into_iter().map(|bodies| async move {
            let came = self.object(&bodies).await;
            (bodies, came)
        });
        let mut done = futures::stream::iter(names).buffer_unordered(AT_ONCE);
        while let Some((bodies, came)) = done.next().await {
            match came? {
                Ok(bytes) => {
                    outcome.objects += 1;
                    outcome.bytes += bytes;
                }
                Err(why) => outcome.leave(bodies, &why),
            }
        }
        Ok(())
    }

    /// Brings back one object. Its bytes, or why not.
    async fn object(&self, bodies: &Upload) -> Result<Result<u64, Left>, SalvageError> {
        let Some((_, first)) = bodies.values().next() else { return Ok(Ok(0)) };
        if let Some((upload, _)) = first.part
            && self.is_open(first, upload).await?
        {
            return Ok(Err(Left::OpenUpload));
        }
        let mut found = Vec::with_capacity(bodies.len());
        for (part, (extent, origin)) in bodies {
            match self.body(*extent, origin).await {
                Ok(gathered) => found.push((*part, gathered)),
                Err(why) => return Ok(Err(why)),
            }
        }
        let bytes = found.iter().map(|(_, gathered)| gathered.extent.bytes).sum();
        let named = found.iter().map(|(part, Gathered { extent, md5, .. })| SalvagedBody {
            part: *part,
            extent: extent.clone(),
            md5: *md5,
        });
        let Ok(sealing) = sealing_of(bodies) else { return Ok(Err(Left::Sealed)) };
        let command = Salvage {
            bucket: first.bucket,
            bucket_name: first.bucket_name.clone(),
            owner: self.wishes.owner.clone(),
            key: first.key.clone(),
            bodies: named.collect(),
            attributes: first.attributes(),
            newer: self.wishes.newer,
        };
        Ok(match self.name(command, sealing).await? {
            Ok(()) => {
                self.tidy(&found).await;
                Ok(bytes)
            }
            Err(why) => Err(why),
        })
    }

    async fn is_open(&self, origin: &ChunkOrigin, upload: Stamp) -> Result<bool, SalvageError> {
        let query =
            Query::Parts { bucket: origin.bucket, key: origin.key.clone(), upload, after: 0, limit: 1 };
        match ask(self.meta, query).await {
            Ok(_) => Ok(true),
            Err(MetaError::Rejected(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says that the bodies are there. A bucket whose name another one took meanwhile gets its number appended.
    async fn name(
        &self,
        mut command: Salvage,
        sealing: Option<Sealing>,
    ) -> Result<Result<(), Left>, SalvageError> {
        let renamed = format!("{:.40}-{}", command.bucket_name.to_string(), command.bucket.0);
        loop {
            let proposed = self.meta.propose(encrypted(sealing.clone(), Command::Salvage(command.clone())));
            let refused = match proposed.await {
                Ok(_) => return Ok(Ok(())),
                Err(MetaError::Rejected(refused)) => refused,
                Err(error) => return Err(error.into()),
            };
            let other = renamed.parse::<BucketName>().ok().filter(|other| *other != command.bucket_name);
            match (refused, other) {
                (Reject::PreconditionFailed, _) => return Ok(Err(Left::Present)),
                (Reject::LateExtent, _) => return Ok(Err(Left::Collected)),
                (Reject::BucketExists { .. }, Some(other)) => command.bucket_name = other,
                (refused, _) => return Ok(Err(Left::Refused(format!("{refused:?}")))),
            }
        }
    }

    /// Reads all of a body, and gives what owners lack of it to them.
    async fn body(&self, id: ExtentId, origin: &ChunkOrigin) -> Result<Gathered, Left> {
        let (bytes, coding) = origin.bytes().zip(id.coding()).ok_or(Left::Unknown)?;
        let chunk_bytes = self.chunk_bytes(id, coding, bytes).await?;
        let extent = Extent { id, bytes, chunk_bytes, layout: self.layout.version, confirmed: 0 };
        if chunk_bytes == 0 || EXTENT_CHUNKS_MAX < extent.chunks() {
            return Err(Left::Unknown);
        }
        let listed = self.layout.owners_of(id);
        let mut owners = Owners { nodes: coding.holders(listed).to_vec(), failed: BTreeSet::new() };
        let holders = self.holders(&chunks_of(&extent)).await;
        let mut digest = Md5::new();
        for stripe in 0..extent.chunks() {
            let shards = self.stripe(extent.spread(), stripe, &holders).await?;
            shards[..coding.data()].iter().for_each(|shard| digest.update(&shard.body));
            for (number, Shard { chunk, body, read_from }) in shards.into_iter().enumerate() {
                let place = stripe as usize * coding.shards() + number;
                let here = |node: NodeId| {
                    let stat = holders.get(&node).and_then(|stats| stats[place].as_ref());
                    stat.is_some_and(|stat| stat.bytes as usize == body.len())
                };
                let wanted = coding.places_of(number, listed.len()).map(|place| listed[place]);
                for node in wanted.filter(|node| !body.is_empty() && read_from != Some(*node) && !here(*node))
                {
                    let origin = (stripe == 0).then(|| origin.clone());
                    if self.chunks.put(node, chunk, vec![body.clone()], origin).await.is_err() {
                        owners.fail(node);
                    }
                }
            }
        }
        let confirmed = owners.confirmed();
        if !coding.is_durable(confirmed, listed.len()) {
            return Err(Left::TooFewOwners);
        }
        let strays = holders.into_keys().filter(|node| !owners.nodes.contains(node)).collect();
        let extent = Extent { confirmed, ..extent };
        Ok(Gathered { all: owners.failed.is_empty(), extent, md5: digest.finalize().into(), strays })
    }

    /// Bytes of the chunks of a body, from its first one, or from parity, which is as long.
    async fn chunk_bytes(&self, id: ExtentId, coding: Coding, bytes: u64) -> Result<u32, Left> {
        let parity = coding.data()..coding.shards();
        let firsts: Vec<ChunkId> = std::iter::once(0).chain(parity).map(|shard| id.shard(shard, 0)).collect();
        let firsts = self.holders(&firsts).await;
        let first = firsts.values().flatten().flatten().next();
        let first = first.ok_or_else(|| Left::Incomplete("its first chunk is gone".to_string()))?;
        let is_all = coding == Coding::Whole && u64::from(first.bytes) == bytes;
        Ok(if is_all { CHUNK_BYTES as u32 } else { first.bytes })
    }

    /// All shards of a stripe: those that can be read, and the rest from these.
    async fn stripe(
        &self,
        spread: Spread,
        stripe: u64,
        holders: &BTreeMap<NodeId, Vec<Option<ChunkStat>>>,
    ) -> Result<Vec<Shard>, Left> {
        let coding = spread.coding();
        let (mut found, mut read_from) = (vec![None; coding.shards()], vec![None; coding.shards()]);
        let mut failed = Left::Unknown;
        for shard in 0..coding.shards() {
            let bytes = spread.bytes_of(shard, stripe) as u32;
            if found.iter().flatten().count() == coding.data() {
                break;
            }
            if bytes == 0 {
                found[shard] = Some(Bytes::new());
                continue;
            }
            let place = stripe as usize * coding.shards() + shard;
            let here = |node: &NodeId| {
                let stat = holders.get(node).and_then(|stats| stats[place].as_ref());
                stat.filter(|stat| stat.bytes == bytes)
            };
            let sources = self.nodes.iter().filter_map(|node| here(node).map(|stat| (*node, stat)));
            match self.read(spread.id.shard(shard, stripe as u32), bytes, sources).await {
                Ok((node, body)) => (read_from[shard], found[shard]) = (Some(node), Some(body)),
                Err(why) => failed = why,
            }
        }
        let longest = spread.bytes_of(0, stripe) as usize;
        let mut bodies = Vec::with_capacity(coding.shards());
        for shard in 0..coding.data() {
            let Some(body) = coding.rebuild(shard, &found, longest) else { return Err(failed) };
            bodies.push(body.slice(..spread.bytes_of(shard, stripe) as usize));
        }
        bodies.extend(coding.parity(&bodies));
        let shard = |(number, (body, read_from))| {
            let chunk = spread.id.shard(number, stripe as u32);
            Shard { chunk, body, read_from }
        };
        Ok(bodies.into_iter().zip(read_from).enumerate().map(shard).collect())
    }

    /// What each node that answers has of some chunks.
    async fn holders(&self, ids: &[ChunkId]) -> BTreeMap<NodeId, Vec<Option<ChunkStat>>> {
        let asked = self.nodes.iter().map(|node| async {
            let stats = self.chunks.stat(*node, ids.to_vec()).await.ok()?;
            stats.iter().any(Option::is_some).then_some((*node, stats))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// The bytes of a chunk from the first node whose copy is whole.
    async fn read(
        &self,
        chunk: ChunkId,
        bytes: u32,
        sources: impl Iterator<Item = (NodeId, &ChunkStat)>,
    ) -> Result<(NodeId, Bytes), Left> {
        let mut failed = format!("chunk {chunk} is on no node");
        for (node, stat) in sources {
            match self.chunks.get(node, chunk, 0, bytes).await {
                Ok(body) if fabric::codec::crc32c(&[&body]) == stat.crc32c => return Ok((node, body)),
                Ok(_) => failed = ChunkError::Corrupt(node).to_string(),
                Err(error) => failed = error.to_string(),
            }
        }
        Err(Left::Incomplete(failed))
    }

    /// Removes copies from nodes that should hold none, where all that should do. One that stays only takes space.
    async fn tidy(&self, found: &[(u16, Gathered)]) {
        for (_, Gathered { extent, strays, all, .. }) in found {
            let chunks = chunks_of(extent);
            for node in strays.iter().filter(|_| *all) {
                if let Err(error) = self.chunks.delete(*node, chunks.clone()).await {
                    tracing::warn!(%node, %error, "copies stay where they do not belong");
                }
            }
        }
    }
}

/// Every chunk that an extent may have: stripe by stripe, in each shard by shard.
fn chunks_of(extent: &Extent) -> Vec<ChunkId> {
    let shards = extent.coding().shards();
    (0..extent.chunks())
        .flat_map(|stripe| (0..shards).map(move |shard| extent.id.shard(shard, stripe as u32)))
        .collect()
}

/// A shard of a stripe.
struct Shard {
    chunk: ChunkId,
    body: Bytes,
    /// The node that gave it; `None`: it was rebuilt, or it has no bytes.
    read_from: Option<NodeId>,
}

/// How bodies that become one object are encrypted: all alike, if at all.
fn sealing_of(bodies: &Upload) -> Result<Option<Sealing>, Left> {
    let mut wrapped = bodies.values().map(|(_, origin)| &origin.wrapped_key);
    let Some(first) = wrapped.next() else { return Ok(None) };
    if wrapped.any(|other| other != first) {
        return Err(Left::Sealed);
    }
    first.as_deref().map(Sealing::decode).transpose().map_err(|_| Left::Sealed)
}

/// A command about encrypted bodies, where they are.
fn encrypted(sealing: Option<Sealing>, command: Command) -> Command {
    match sealing {
        None => command,
        sealing => Command::Sealed(Sealed { sealing, copied: false, command: Box::new(command) }),
    }
}

/// A body of which all was read.
struct Gathered {
    extent: Extent,
    md5: [u8; 16],
    /// Nodes that hold some of it and are none of its owners.
    strays: Vec<NodeId>,
    /// Whether all owners hold it.
    all: bool,
}

/// Who should hold a body, and who cannot.
struct Owners {
    nodes: Vec<NodeId>,
    failed: BTreeSet<NodeId>,
}

impl Owners {
    fn fail(&mut self, node: NodeId) {
        self.failed.insert(node);
    }

    fn confirmed(&self) -> u16 {
        let holding = self.nodes.iter().enumerate().filter(|(_, node)| !self.failed.contains(node));
        holding.fold(0, |mask, (place, _)| mask | 1 << place)
    }
}

impl Salvaged {
    fn leave(&mut self, bodies: Upload, why: &Left) {
        for (extent, origin) in bodies.into_values() {
            if self.left.len() == TOLD_MAX && !self.left.contains_key(&extent) {
                self.more_left += 1;
                continue;
            }
            let part = origin.part.map_or_else(String::new, |(_, number)| format!(" part {number}"));
            let name = format!("{}/{}{part}", origin.bucket_name, origin.key);
            self.left.insert(extent, (name, why.clone()));
        }
    }
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, why) in self.left.values() {
            writeln!(f, "{name}: {why}")?;
        }
        let left = self.left.len() as u64 + self.more_left;
        write!(f, "{} objects with {} bytes came back, {left} bodies did not", self.objects, self.bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::Attributes;
    use consensus::meta::sealing::{Frames, Scheme};

    use super::*;
    use crate::jobs::testing::{World, coded, extent};
    use crate::origin::describe;

    fn wishes() -> Wishes {
        Wishes { owner: "anna".parse().unwrap(), newer: false }
    }

    fn origin(extent: &Extent, part: Option<u16>) -> ChunkOrigin {
        ChunkOrigin {
            bucket: BucketId(1),
            bucket_name: "bucket".parse().unwrap(),
            key: "key".parse().unwrap(),
            part: part.map(|number| (Stamp { epoch: 1, index: 7, ordinal: 0 }, number)),
            headers: describe(&Attributes::default(), Some(extent.bytes)),
            wrapped_key: None,
        }
    }

    async fn put(world: &World, node: u16, extent: &Extent, ordinal: u64, part: Option<u16>) {
        let origin = (ordinal == 0).then(|| origin(extent, part));
        let (chunk, body) = (extent.id.chunk(ordinal as u32), world.body(extent, ordinal));
        world.chunks.put(NodeId(node), chunk, vec![body], origin).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_is_put_together_from_all_nodes_and_given_to_its_owners() {
        let world = World::new(4);
        let scattered = extent(1, 130, 64);
        put(&world, 1, &scattered, 0, None).await;
        put(&world, 2, &scattered, 1, None).await;
        put(&world, 4, &scattered, 2, None).await;
        let torn = extent(2, 130, 64);
        put(&world, 1, &torn, 0, None).await;
        let unknown = extent(3, 64, 64);
        world.fill(&unknown, &[2]).await;
        let salvaged = run(&*world.meta, &*world.chunks, &wishes(), |_| ()).await.unwrap();
        assert_eq!((salvaged.objects, salvaged.bytes), (1, 130));
        let [command] = &world.meta.salvaged()[..] else { panic!() };
        let [body] = &command.bodies[..] else { panic!() };
        assert_eq!((body.part, body.extent.confirmed, body.extent.chunk_bytes), (0, 0b111, 64));
        let whole = (0..3).map(|ordinal| world.body(&scattered, ordinal)).collect::<Vec<_>>().concat();
        assert_eq!(body.md5, <[u8; 16]>::from(Md5::digest(&whole)));
        assert!(matches!(salvaged.left[&torn.id].1, Left::Incomplete(_)));
        assert!(matches!(salvaged.left[&unknown.id].1, Left::Unknown));
        // Node 4 is no owner, and all owners have it.
        let stray = world.chunks.stat(NodeId(4), vec![scattered.id.chunk(2)]).await.unwrap();
        assert_eq!(stray, vec![None]);
        let again = run(&*world.meta, &*world.chunks, &wishes(), |_| ()).await.unwrap();
        assert_eq!((again.objects, again.left.len()), (0, 2));
    }

    #[tokio::test]
    async fn an_encrypted_body_comes_back_encrypted() {
        let world = World::new(3);
        let sealing = Sealing {
            frames: Frames::Gcm,
            scheme: Scheme::Store { version: 1 },
            data_key: Bytes::from_static(b"key"),
        };
        let (good, strange) = (extent(1, 64, 64), extent(2, 64, 64));
        for (extent, wrapped) in [(&good, sealing.encode()), (&strange, Bytes::from_static(b"no sealing"))] {
            let origin = ChunkOrigin { wrapped_key: Some(wrapped), ..origin(extent, None) };
            let (chunk, body) = (extent.id.chunk(0), world.body(extent, 0));
            world.chunks.put(NodeId(1), chunk, vec![body], Some(origin)).await.unwrap();
        }
        let salvaged = run(&*world.meta, &*world.chunks, &wishes(), |_| ()).await.unwrap();
        assert_eq!(salvaged.objects, 1);
        assert_eq!(world.meta.salvaged()[0].bodies[0].extent.id, good.id);
        assert_eq!(world.meta.sealings(), vec![Some(sealing)]);
        assert!(matches!(salvaged.left[&strange.id].1, Left::Sealed));
    }

    #[tokio::test]
    async fn parts_are_one_object_of_the_newest_of_each_number() {
        let world = World::new(3);
        let (old, first, second) = (extent(1, 64, 64), extent(2, 64, 64), extent(3, 10, 64));
        for (extent, part) in [(&second, 2), (&first, 1), (&old, 1)] {
            put(&world, 1, extent, 0, Some(part)).await;
        }
        let salvaged = run(&*world.meta, &*world.chunks, &wishes(), |_| ()).await.unwrap();
        assert_eq!((salvaged.objects, salvaged.bytes), (1, 74));
        let bodies = &world.meta.salvaged()[0].bodies;
        let named: Vec<_> = bodies.iter().map(|body| (body.part, body.extent.id)).collect();
        assert_eq!(named, vec![(1, first.id), (2, second.id)]);
    }

    #[tokio::test]
    async fn shards_come_back_and_those_that_lack_are_rebuilt() {
        let world = World::new(6);
        let (good, torn) =
            (coded(1, Coding::FourPlusTwo, 1_234, 100), coded(2, Coding::FourPlusTwo, 1_234, 100));
        // The first chunk of all is lost, and another node is empty; of the other extent one more is.
        for (extent, nodes) in [(&good, &[2_u16, 3, 5, 6][..]), (&torn, &[2, 3, 6])] {
            for node in nodes {
                for (chunk, body) in world.shards_at(extent, usize::from(*node) - 1, 6) {
                    let origin = (chunk.ordinal() == 0).then(|| origin(extent, None));
                    world.chunks.put(NodeId(*node), chunk, vec![body], origin).await.unwrap();
                }
            }
        }
        let salvaged = run(&*world.meta, &*world.chunks, &wishes(), |_| ()).await.unwrap();
        assert_eq!((salvaged.objects, salvaged.bytes), (1, 1_234), "{salvaged}");
        assert!(matches!(salvaged.left[&torn.id].1, Left::Incomplete(_)));
        let [command] = &world.meta.salvaged()[..] else { panic!() };
        let Extent { id, bytes, chunk_bytes, confirmed, .. } = command.bodies[0].extent;
        assert_eq!((id, bytes, chunk_bytes, confirmed), (good.id, 1_234, 100, 0b11_1111));
        let data =
            (0..13_usize).map(|number| world.shard(&good, good.id.shard(number % 4, number as u32 / 4)));
        let whole = data.collect::<Vec<_>>().concat();
        assert_eq!(command.bodies[0].md5, <[u8; 16]>::from(Md5::digest(&whole)));
        for node in 1..=6 {
            assert!(world.has_shards(&good, node, usize::from(node) - 1, 6).await, "node {node}");
        }
    }
}
