//! A search: over candidates of the index, or over the objects themselves where the index has nothing to say.
//!
//! Everything goes in the order of names, so that a place in it is all that a page needs to know of the one before.
//! Each name that may be meant is compared with the object as the metadata of this node have it now: the index says only
//! where to look. A search has so much effort and time; what is left over is another page's.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::time::Duration;

use consensus::meta::model::Object;
use consensus::meta::store::{Fault, Rows, TableId};
use consensus::meta::tables::{Objects, Table, as_upper, successor};
use fabric::env::Env;

use super::file::Snapshot;
use super::matcher::{Matcher, Plan};
use super::names::{BUCKET_BYTES, name, parts};
use super::pages::IndexFault;
use super::segment::Candidates;
use super::wire::{Hit, Position, SearchFailure, SearchPage, SearchRequest, Sort};

/// What one search in the order of names may take, in comparisons of names.
const EFFORT_MAX: u32 = 60_000;
/// What one may take that has to see all hits before it can show any.
const SORTED_EFFORT_MAX: u32 = 400_000;
/// Reading an object takes as much as comparing so many names.
const OBJECT_EFFORT: u32 = 3;
/// And finding out what a segment has.
const SEGMENT_EFFORT: u32 = 20;
/// No search takes longer.
const TIME_MAX: Duration = Duration::from_millis(500);
const SORTED_TIME_MAX: Duration = Duration::from_secs(2);
/// The clock is looked at once in so many names.
const CLOCK_INTERVAL: u32 = 32;

/// Why a search stops.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The index is broken, and has to be made anew.
    #[error(transparent)]
    Index(#[from] IndexFault),
    /// The metadata are.
    #[error(transparent)]
    Meta(#[from] Fault),
}

/// What is searched.
pub struct Ground<'a> {
    /// The metadata.
    pub rows: &'a dyn Rows,
    /// The index.
    pub snapshot: &'a Snapshot,
    /// Names that are not in it yet.
    pub fresh: &'a BTreeSet<Vec<u8>>,
    /// Clocks.
    pub env: &'a dyn Env,
}

/// Where names may lie.
struct Scope<'a> {
    buckets: &'a [u64],
    prefix: &'a str,
}

impl Scope<'_> {
    /// The first place, from this name on, where one may lie.
    fn from(&self, wanted: &[u8]) -> Option<Vec<u8>> {
        // What follows a range may be shorter than any name.
        let mut bytes = [0; BUCKET_BYTES];
        bytes.iter_mut().zip(wanted).for_each(|(byte, wanted)| *byte = *wanted);
        let bucket = u64::from_be_bytes(bytes);
        let at = self.buckets.partition_point(|one| *one < bucket);
        let first = name(*self.buckets.get(at)?, self.prefix);
        if *wanted <= *first {
            return Some(first);
        }
        if wanted.starts_with(&first) {
            return Some(wanted.to_vec());
        }
        // It is behind all names of its bucket that may be meant.
        self.buckets.get(at + 1).map(|next| name(*next, self.prefix))
    }
}

/// What may still be done.
struct Effort<'a> {
    left: u32,
    env: &'a dyn Env,
    end: Duration,
    names: u32,
}

impl Effort<'_> {
    fn spend(&mut self, effort: u32) {
        self.left = self.left.saturating_sub(effort);
    }

    /// Whether there is none left, asked once for each name.
    fn is_spent(&mut self) -> bool {
        self.names += 1;
        if self.names.is_multiple_of(CLOCK_INTERVAL) && self.end <= self.env.monotonic() {
            self.left = 0;
        }
        self.left == 0
    }
}

/// How going through names ended.
enum End {
    /// There are no more.
    Whole,
    /// Nobody wants more.
    Enough,
    /// It took too much; all names up to this one were looked at.
    Spent(Vec<u8>),
}

/// Whether more is wanted.
#[derive(PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// Answers one question. `index` is what the answer says of how new it is.
pub fn search(
    ground: &Ground<'_>,
    matcher: &Matcher,
    request: &SearchRequest,
    index: u64,
) -> Result<Result<SearchPage, SearchFailure>, SearchError> {
    let limit = request.limit as usize;
    if limit == 0 || request.buckets.is_empty() {
        return Ok(Ok(SearchPage { index, hits: Vec::new(), next: None }));
    }
    let scope = Scope { buckets: &request.buckets, prefix: matcher.prefix() };
    let search = Search { ground, matcher, scope };
    match (request.sort, request.descending) {
        (Sort::Name, false) => search.in_order(request, limit, index).map(Ok),
        _ => search.sorted(request, limit, index),
    }
}

struct Search<'a> {
    ground: &'a Ground<'a>,
    matcher: &'a Matcher,
    scope: Scope<'a>,
}

impl<'a> Search<'a> {
    fn effort(&self, left: u32, time: Duration) -> Effort<'a> {
        let env = self.ground.env;
        Effort { left, env, end: env.monotonic() + time, names: 0 }
    }

    fn in_order(&self, request: &SearchRequest, limit: usize, index: u64) -> Result<SearchPage, SearchError> {
        let mut effort = self.effort(EFFORT_MAX, TIME_MAX);
        let after = request.after.as_ref().map(|after| name(after.bucket, &after.key));
        let (mut hits, mut more): (Vec<Hit>, bool) = (Vec::new(), false);
        let end = self.visit(after.as_deref(), &mut effort, &mut |bucket, key, object| {
            if hits.len() == limit {
                more = true;
                return More::No;
            }
            hits.push(hit(bucket, key, object));
            More::Yes
        })?;
        let next = match end {
            End::Spent(last) => {
                let (bucket, key) = parts(&last)?;
                Some(Position { value: 0, bucket, key: key.to_string() })
            }
            End::Enough | End::Whole => hits.last().filter(|_| more).map(|last| position(Sort::Name, last)),
        };
        Ok(SearchPage { index, hits, next })
    }

    /// All hits are seen, and the best ones kept.
    fn sorted(
        &self,
        request: &SearchRequest,
        limit: usize,
        index: u64,
    ) -> Result<Result<SearchPage, SearchFailure>, SearchError> {
        let SearchRequest { sort, descending, after, .. } = request;
        let mut effort = self.effort(SORTED_EFFORT_MAX, SORTED_TIME_MAX);
        let mut best = BinaryHeap::new();
        let end = self.visit(None, &mut effort, &mut |bucket, key, object| {
            let hit = hit(bucket, key, object);
            let rank = Rank { position: position(*sort, &hit), descending: *descending };
            let after = after.as_ref().map(|after| Rank { position: after.clone(), descending: *descending });
            if after.is_none_or(|after| after < rank) {
                best.push(Ranked(rank, hit));
                if limit + 1 < best.len() {
                    best.pop();
                }
            }
            More::Yes
        })?;
        if let End::Spent(_) = end {
            let names = u64::from(SORTED_EFFORT_MAX / (1 + OBJECT_EFFORT));
            return Ok(Err(SearchFailure::TooMany(names)));
        }
        let mut hits: Vec<Hit> = best.into_sorted_vec().into_iter().map(|Ranked(_, hit)| hit).collect();
        let more = limit < hits.len();
        hits.truncate(limit);
        let next = hits.last().filter(|_| more).map(|last| position(*sort, last));
        Ok(Ok(SearchPage { index, hits, next }))
    }

    /// Goes through all hits behind a name.
    fn visit(
        &self,
        after: Option<&[u8]>,
        effort: &mut Effort<'_>,
        found: &mut dyn FnMut(u64, &str, Object) -> More,
    ) -> Result<End, SearchError> {
        let start = match after {
            // No name lies between.
            Some(after) => self.scope.from(&[after, &[0]].concat()),
            None => self.scope.from(&[]),
        };
        match (start, self.matcher.plan()) {
            (None, _) => Ok(End::Whole),
            (Some(start), Plan::Everything) => self.visit_objects(start, effort, found),
            (Some(start), plan) => self.visit_candidates(start, plan, effort, found),
        }
    }

    /// Over all objects.
    fn visit_objects(
        &self,
        start: Vec<u8>,
        effort: &mut Effort<'_>,
        found: &mut dyn FnMut(u64, &str, Object) -> More,
    ) -> Result<End, SearchError> {
        let (mut next, mut folded) = (Some(start), String::new());
        while let Some(start) = next {
            let bucket = start.first_chunk::<BUCKET_BYTES>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            let end = successor(&name(bucket, self.scope.prefix));
            let rows = self.ground.rows.range(TableId::OBJECTS, Bound::Included(&start), as_upper(&end))?;
            for row in rows {
                let (key, value) = row?;
                effort.spend(OBJECT_EFFORT);
                let name = key.strip_suffix(&[0]).unwrap_or(&key);
                if *name < *start {
                    continue; // The key of the name before ends like the first one that may follow.
                }
                let (bucket, key) = parts(name)?;
                if self.matcher.matches_name(key, &mut folded) {
                    let object = Objects::decode_value(&value)?;
                    if self.matcher.matches_object(&object) && found(bucket, key, object) == More::No {
                        return Ok(End::Enough);
                    }
                }
                if effort.is_spent() {
                    return Ok(End::Spent(name.to_vec()));
                }
            }
            next = end.and_then(|end| self.scope.from(&end));
        }
        Ok(End::Whole)
    }

    /// Over what the index names, merged from all its segments and the fresh names.
    fn visit_candidates(
        &self,
        start: Vec<u8>,
        plan: &Plan,
        effort: &mut Effort<'_>,
        found: &mut dyn FnMut(u64, &str, Object) -> More,
    ) -> Result<End, SearchError> {
        let Ground { snapshot, fresh, .. } = self.ground;
        let mut streams: Vec<Stream<'_>> = Vec::with_capacity(snapshot.segments.len() + 1);
        // The name that comes next, and whose it is. Of a segment that was not looked at yet, all are behind its first.
        let mut heads = BinaryHeap::new();
        for (segment, row) in &snapshot.segments {
            if start <= row.last {
                heads.push(Reverse((row.first.clone().max(start.clone()), streams.len())));
                streams.push(Stream::Closed { segment: *segment });
            }
        }
        heads.push(Reverse((start.clone(), streams.len())));
        streams.push(Stream::Fresh(fresh.range::<Vec<u8>, _>(start.clone()..)));

        let (mut last, mut folded): (Option<Vec<u8>>, String) = (None, String::new());
        while let Some(Reverse((head, at))) = heads.pop() {
            let is_candidate = matches!(&streams[at], Stream::Open { .. } | Stream::Fresh(_));
            if is_candidate && last.as_ref() != Some(&head) {
                effort.spend(1);
                if self.scope.from(&head).is_some_and(|place| place == head)
                    && self.meant(&head, effort, &mut folded, found)? == More::No
                {
                    return Ok(End::Enough);
                }
                if effort.is_spent() {
                    return Ok(End::Spent(head));
                }
                last = Some(head.clone());
            }
            // From where this stream goes on: nothing before it can be meant.
            let next = if is_candidate { [&head[..], &[0]].concat() } else { head };
            let Some(next) = self.scope.from(&next) else { continue };
            if let Some(head) = self.advance(&mut streams[at], plan, next, effort)? {
                heads.push(Reverse((head, at)));
            }
        }
        Ok(End::Whole)
    }

    /// The next name of a stream that is not before `next`.
    fn advance(
        &self,
        stream: &mut Stream<'_>,
        plan: &Plan,
        next: Vec<u8>,
        effort: &mut Effort<'_>,
    ) -> Result<Option<Vec<u8>>, SearchError> {
        let Snapshot { pages, segments } = self.ground.snapshot;
        match stream {
            Stream::Fresh(names) => Ok(names.find(|name| next <= **name).cloned()),
            Stream::Closed { segment } => {
                effort.spend(SEGMENT_EFFORT);
                let row = segments.get(segment).ok_or(IndexFault::Page("a segment is missing"))?;
                let Some(mut candidates) = Candidates::open(pages, *segment, row, plan)? else {
                    return Ok(None);
                };
                let from = if next <= row.first { 0 } else { candidates.position(pages, &next)? };
                let head = match candidates.seek(pages, from)? {
                    Some(document) => Some((document, candidates.name(pages, document)?.to_vec())),
                    None => None,
                };
                let Some((document, name)) = head else { return Ok(None) };
                *stream = Stream::Open { candidates, document };
                Ok(Some(name))
            }
            Stream::Open { candidates, document } => {
                let Some(found) = candidates.seek(pages, *document + 1)? else { return Ok(None) };
                let mut name = candidates.name(pages, found)?.to_vec();
                *document = found;
                if name < next {
                    // A whole range of names is not meant.
                    effort.spend(SEGMENT_EFFORT);
                    let from = candidates.position(pages, &next)?;
                    let Some(found) = candidates.seek(pages, from)? else { return Ok(None) };
                    name = candidates.name(pages, found)?.to_vec();
                    *document = found;
                }
                Ok(Some(name))
            }
        }
    }

    /// Compares a name and the object that has it now.
    fn meant(
        &self,
        name: &[u8],
        effort: &mut Effort<'_>,
        folded: &mut String,
        found: &mut dyn FnMut(u64, &str, Object) -> More,
    ) -> Result<More, SearchError> {
        let (bucket, key) = parts(name)?;
        if !self.matcher.matches_name(key, folded) {
            return Ok(More::Yes);
        }
        effort.spend(OBJECT_EFFORT);
        match object_of(self.ground.rows, name)? {
            Some(object) if self.matcher.matches_object(&object) => Ok(found(bucket, key, object)),
            _ => Ok(More::Yes),
        }
    }
}

/// Where names come from.
enum Stream<'a> {
    /// A segment that was not looked at yet.
    Closed { segment: u32 },
    /// One that is at a document.
    Open { candidates: Candidates, document: u32 },
    /// Names that are in no segment yet.
    Fresh(std::collections::btree_set::Range<'a, Vec<u8>>),
}

/// The current version of an object by its name.
pub fn object_of(rows: &dyn Rows, name: &[u8]) -> Result<Option<Object>, Fault> {
    let found = rows.get(TableId::OBJECTS, &[name, &[0]].concat())?;
    found.map(|value| Objects::decode_value(&value)).transpose()
}

fn hit(bucket: u64, key: &str, object: Object) -> Hit {
    let mut attributes = object.attributes;
    Hit {
        bucket,
        key: key.to_string(),
        bytes: object.bytes,
        modified: object.modified.0,
        etag: object.etag,
        storage_class: attributes.storage_class,
        content_type: attributes.headers.remove("content-type"),
    }
}

fn position(sort: Sort, hit: &Hit) -> Position {
    let value = match sort {
        Sort::Name => 0,
        Sort::Size => hit.bytes,
        Sort::Modified => hit.modified,
    };
    Position { value, bucket: hit.bucket, key: hit.key.clone() }
}

/// A place in the order that was asked for.
#[derive(PartialEq, Eq)]
struct Rank {
    position: Position,
    descending: bool,
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> std::cmp::Ordering {
        let order = self.position.cmp(&other.position);
        if self.descending { order.reverse() } else { order }
    }
}

/// A hit with its place; there is one hit for each.
struct Ranked(Rank, Hit);

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
