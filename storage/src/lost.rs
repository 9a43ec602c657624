//! What may be lost: bodies that lie on nodes and that no row names.
//!
//! After a recovery or a restore these are, among others, the objects that were written after the entry which the cluster
//! went on from: their rows are gone, their chunks are kept until somebody ends that (`collect`). In a cluster that lost
//! nothing they are writes that are open, and what waits to be collected. Small bodies that lie in the metadata leave
//! nothing behind.

use std::collections::BTreeMap;
use std::fmt;

use consensus::client::{Meta, ask};
use consensus::meta::model::Home;
use consensus::meta::query::{Answer, Query};
use fabric::coding::Coding;
use fabric::ids::{ChunkId, ExtentId, NodeId};

use crate::client::{ChunkError, ChunkStat, Chunks};
use crate::membership::{Membership, MembershipError, strange};
use crate::origin::ChunkOrigin;

/// Chunks of one page: the keys of all may have to fit into one question.
const CHUNKS_PER_PAGE: u32 = 256;
/// Extents that are told one by one.
pub const UNNAMED_TOLD_MAX: usize = 100_000;

/// An extent that no row names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// Name of the bucket, as it was when the body was written.
    pub bucket: String,
    /// Full key.
    pub key: String,
    /// The number of the part, where it was one of a multipart upload.
    pub part: Option<u16>,
    /// Bytes of its chunks that were seen.
    pub bytes: u64,
    /// Who holds them.
    pub nodes: Vec<NodeId>,
}

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)?;
        if let Some(part) = self.part {
            write!(f, " part {part}")?;
        }
        let nodes: Vec<String> = self.nodes.iter().map(NodeId::to_string).collect();
        write!(f, ": {} bytes on node {}", self.bytes, nodes.join(", "))
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Unnameds {
    /// The first [`UNNAMED_TOLD_MAX`] of them, by extent.
    pub extents: BTreeMap<ExtentId, Unnamed>,
    /// Those beyond.
    pub more: u64,
    /// Nodes that did not answer, and why.
    pub silent: Vec<(NodeId, ChunkError)>,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum LostError {
    /// The members are not known.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The metadata did not answer.
    #[error(transparent)]
    Meta(#[from] consensus::client::MetaError),
}

/// Over the chunks of all nodes, one after the other.
pub(crate) struct Walk<'a> {
    chunks: &'a dyn Chunks,
    nodes: Vec<NodeId>,
    place: usize,
    after: Option<ChunkId>,
}

impl Walk<'_> {
    pub(crate) async fn begin<'a>(meta: &dyn Meta, chunks: &'a dyn Chunks) -> Result<Walk<'a>, LostError> {
        let members = Membership::read(meta).await?.nodes;
        chunks.learn(members.iter().map(|row| (row.id, row.address.clone())).collect());
        let nodes = members.into_iter().map(|row| row.id).collect();
        Ok(Walk { chunks, nodes, place: 0, after: None })
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.nodes.clone()
    }

    /// The next chunks of a node; one that does not answer is passed over from there on.
    pub(crate) async fn next(&mut self) -> Option<(NodeId, Result<Vec<ChunkStat>, ChunkError>)> {
        loop {
            let node = *self.nodes.get(self.place)?;
            let page = self.chunks.scan(node, self.after, CHUNKS_PER_PAGE).await;
            self.after = page.as_ref().ok().and_then(|page| page.last()).map(|last| last.id);
            self.place += usize::from(self.after.is_none());
            if page.as_ref().map_or(true, |page| !page.is_empty()) {
                return Some((node, page));
            }
        }
    }
}

/// Extents whose first chunk is among these, and which no row names.
pub(crate) async fn unnamed(
    meta: &dyn Meta,
    page: &[ChunkStat],
) -> Result<Vec<(ExtentId, ChunkOrigin)>, LostError> {
    let origins = page.iter().filter_map(|stat| Some((stat.id.extent(), stat.origin.clone()?)));
    let origins: Vec<(ExtentId, ChunkOrigin)> = origins.collect();
    let home = |origin: &ChunkOrigin| Home { bucket: origin.bucket, key: origin.key.clone() };
    let homes = origins.iter().map(|(extent, origin)| (home(origin), *extent)).collect();
    let Answer::Named(named) = ask(meta, Query::NamedNow(homes)).await? else {
        return Err(strange("named").into());
    };
    Ok(origins.into_iter().zip(named).filter(|(_, named)| !named).map(|(origin, _)| origin).collect())
}

/// Walks over the chunks of all nodes. `told` hears of the chunks seen so far.
pub async fn find(
    meta: &dyn Meta,
    chunks: &dyn Chunks,
    mut told: impl FnMut(u64),
) -> Result<Unnameds, LostError> {
    let mut walk = Walk::begin(meta, chunks).await?;
    let (mut found, mut seen) = (Unnameds::default(), 0);
    while let Some((node, page)) = walk.next().await {
        match page {
            Ok(page) => {
                seen += page.len() as u64;
                told(seen);
                found.add(meta, node, page).await?;
            }
            Err(error) => found.silent.push((node, error)),
        }
    }
    Ok(found)
}

impl Unnameds {
    /// Adds what of a page of a node's chunks no row names.
    async fn add(&mut self, meta: &dyn Meta, node: NodeId, page: Vec<ChunkStat>) -> Result<(), LostError> {
        // The first chunk says where the extent belongs; of one that was asked about before only bytes are new.
        for (extent, origin) in unnamed(meta, &page).await? {
            if self.extents.len() == UNNAMED_TOLD_MAX && !self.extents.contains_key(&extent) {
                self.more += 1;
                continue;
            }
            self.extents.entry(extent).or_insert_with(|| Unnamed {
                bucket: origin.bucket_name.to_string(),
                key: origin.key.to_string(),
                part: origin.part.map(|(_, number)| number),
                bytes: 0,
                nodes: Vec::new(),
            });
        }
        let mut bytes: BTreeMap<ExtentId, u64> = BTreeMap::new();
        for stat in page {
            // Parity says the same once more.
            let is_data = stat.id.extent().coding().is_none_or(|coding| stat.id.shard() < coding.data());
            let bytes = bytes.entry(stat.id.extent()).or_default();
            *bytes += if is_data { u64::from(stat.bytes) } else { 0 };
        }
        for (extent, bytes) in bytes {
            let Some(unnamed) = self.extents.get_mut(&extent) else { continue };
            let is_whole = extent.coding().is_none_or(|coding| coding == Coding::Whole);
            match unnamed.nodes.first() {
                // All nodes hold the same copy: that of the first counts.
                Some(first) if *first != node && is_whole => {}
                _ => unnamed.bytes += bytes,
            }
            if !unnamed.nodes.contains(&node) {
                unnamed.nodes.push(node);
            }
        }
        Ok(())
    }
}
