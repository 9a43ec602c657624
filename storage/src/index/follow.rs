//! Keeps the index up to date: walks over all objects, follows the events, puts small segments together.
//!
//! A name in the index says only that there may be such an object. So a name is added whenever its object is written or
//! changed, and needs not be removed when that goes: it is left out when its segment is put together with others, or by
//! the next walk. What always holds once the index is whole: an object that is there, as of the event that was followed
//! last, has its name in a segment with all its terms, or among the fresh names.
//!
//! Everything is done in steps that are short, so that the index stays close behind the metadata whatever else there is
//! to do.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use consensus::meta::model::EventKind;
use consensus::meta::store::{Fault, Rows, TableId};
use consensus::meta::tables::{Cluster, EventOrder, Events, Objects, Table, get, scan_after};
use fabric::ids::Stamp;

use super::file::{Change, IndexFile, Segments, State};
use super::names::{Names, name, parts};
use super::pages::Pages;
use super::search::{SearchError, object_of};
use super::segment::Builder;

/// Pages that one step removes.
const PAGES_PER_STEP: usize = 500;
/// So many segments of a size are put together.
const FAN_IN: usize = 8;

/// How much is done at once; tests do less.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Events that one step follows.
    pub events_per_step: usize,
    /// Names that are kept in memory before they become a segment.
    pub fresh_names: usize,
    /// Events between two commits, however few names they are about: what is trimmed must have been followed.
    pub events_per_commit: u64,
    /// Objects that one step of a walk visits, and names that one step of putting together does.
    pub names_per_step: usize,
    /// Documents of a segment.
    pub documents: u32,
    /// Segments of fewer pages are put together with their like …
    pub small_pages: u32,
    /// … and so are these. Larger ones stay until the next walk.
    pub medium_pages: u32,
    /// A walk begins when so many names are in the index beyond twice what the last one found.
    pub spare_names: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            events_per_step: 2048,
            fresh_names: 2048,
            events_per_commit: 20_000,
            names_per_step: 2000,
            documents: 262_144,
            small_pages: 256,
            medium_pages: 2048,
            spare_names: 131_072,
        }
    }
}

/// Names that are in no segment yet.
pub type Fresh = RwLock<Arc<BTreeSet<Vec<u8>>>>;

/// The metadata of a node, as of one entry.
#[derive(Clone)]
pub struct Seen {
    /// All tables.
    pub rows: Arc<dyn Rows + Send + Sync>,
    /// The last entry that they show.
    pub index: u64,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There are more events.
    Events,
    /// There is work that nobody waits for.
    Work,
    /// Nothing.
    Rest,
}

/// How far the index is, for those who search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether all objects are in it.
    pub whole: bool,
    /// The last entry of the log that it has applied.
    pub index: u64,
    /// Objects that the walk found so far.
    pub walked: u64,
}

/// Keeps one index up to date. Used by one thread at a time.
pub struct Follower {
    file: Arc<IndexFile>,
    fresh: Arc<Fresh>,
    /// As in the file, but for the walk.
    state: State,
    /// The last event that is among the fresh names.
    cursor: Stamp,
    events: u64,
    segments: Segments,
    /// Bytes that a segment takes in memory while it is built.
    segment_bytes: usize,
    sizes: Sizes,
    walk: Option<Walk>,
    merge: Option<Merge>,
    /// Whether there may be pages of segments that are gone.
    littered: bool,
    walks: u64,
}

/// A walk over all objects.
struct Walk {
    /// The last name that was visited; empty at the front.
    after: Vec<u8>,
    builder: Builder,
}

/// Segments that are being put together.
struct Merge {
    sources: Vec<u32>,
    pages: Pages,
    names: Vec<(Names, u32)>,
    /// The next name of each source.
    heads: BinaryHeap<Reverse<(Vec<u8>, usize, u32)>>,
    builder: Builder,
    last: Vec<u8>,
}

impl Follower {
    /// Goes on with what is in the file.
    pub fn new(
        file: Arc<IndexFile>,
        state: State,
        fresh: Arc<Fresh>,
        segment_bytes: usize,
        sizes: Sizes,
    ) -> Result<Follower, SearchError> {
        let segments = file.snapshot()?.segments;
        let walk = state.walk.clone().map(|after| Walk { after, builder: Builder::default() });
        let cursor = state.cursor;
        set(&fresh, BTreeSet::new());
        Ok(Follower {
            file,
            fresh,
            state,
            cursor,
            events: 0,
            segments,
            segment_bytes,
            sizes,
            walk,
            merge: None,
            littered: true,
            walks: 0,
        })
    }

    /// Names in segments, and how many segments there are.
    pub fn size(&self) -> (u64, u64) {
        (self.documents(), self.segments.len() as u64)
    }

    /// Walks over all objects that began, since this was made.
    pub fn walks(&self) -> u64 {
        self.walks
    }

    fn documents(&self) -> u64 {
        self.segments.values().map(|row| u64::from(row.documents)).sum()
    }

    /// Does a short piece of what there is to do. `applied` is told how far the index is as soon as that is so. Work that
    /// nobody waits for is done only where `may_work`.
    pub fn step(
        &mut self,
        seen: &Seen,
        may_work: bool,
        applied: &mut dyn FnMut(Progress),
    ) -> Result<Next, SearchError> {
        let rows: &dyn Rows = &*seen.rows;
        let Some(cluster) = get::<Cluster>(rows, ())? else {
            // Nothing was ever written.
            applied(Progress { whole: true, index: seen.index, walked: 0 });
            return Ok(Next::Rest);
        };
        if self.state.epoch != cluster.epoch || self.cursor < cluster.events_trimmed {
            // The log went back, or events are gone: what is in the index may lack something.
            self.begin_walk(rows, cluster.epoch, false)?;
        }
        let next = self.follow(rows)?;
        let index = match next {
            Some(followed) => followed.index.saturating_sub(1),
            None => seen.index,
        };
        applied(Progress { whole: self.state.whole, index, walked: self.state.walked });
        if self.sizes.fresh_names <= names(&self.fresh).len() || self.sizes.events_per_commit <= self.events {
            self.keep_fresh(rows)?;
        }
        if next.is_some() {
            return Ok(Next::Events);
        }
        if !may_work || !self.work(rows)? {
            return Ok(Next::Rest);
        }
        applied(Progress { whole: self.state.whole, index, walked: self.state.walked });
        Ok(Next::Work)
    }

    /// Follows some events; the last one of them where there are more.
    fn follow(&mut self, rows: &dyn Rows) -> Result<Option<Stamp>, Fault> {
        let events = scan_after::<EventOrder>(rows, (), self.cursor)?;
        let events: Vec<_> = events.take(self.sizes.events_per_step).collect::<Result<_, _>>()?;
        let mut changed = Vec::new();
        for (_, place) in &events {
            let Some(event) = get::<Events>(rows, (place.bucket, place.stamp))? else { continue };
            let name = name(place.bucket.0, event.key.as_str());
            // Where a version goes another one may be seen again.
            let goes = matches!(event.kind, EventKind::Delete | EventKind::DeleteMarker);
            if !goes || object_of(rows, &name)?.is_some() {
                changed.push(name);
            }
        }
        let Some((last, _)) = events.last() else { return Ok(None) };
        if !changed.is_empty() {
            let mut fresh = self.fresh.write().unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut fresh).extend(changed);
        }
        self.cursor = *last;
        self.events += events.len() as u64;
        Ok((events.len() == self.sizes.events_per_step).then_some(*last))
    }

    /// Makes a segment of the fresh names.
    fn keep_fresh(&mut self, rows: &dyn Rows) -> Result<(), SearchError> {
        let fresh = names(&self.fresh);
        let mut builder = Builder::default();
        let mut change = Change::default();
        let mut next_segment = self.state.next_segment;
        for name in fresh.iter() {
            if let Some(object) = object_of(rows, name)? {
                builder.add(name, parts(name)?.1, &object.attributes);
            }
            if self.segment_bytes <= builder.bytes() {
                let built = std::mem::take(&mut builder).finish(next_segment, self.state.generation, true);
                change.built.push((next_segment, built));
                next_segment += 1;
            }
        }
        if 0 < builder.documents() {
            change.built.push((next_segment, builder.finish(next_segment, self.state.generation, false)));
            next_segment += 1;
        }
        let state = State { next_segment, cursor: self.cursor, ..self.state.clone() };
        self.commit(state, change)?;
        self.events = 0;
        // Only now: a search that does not see the segment yet saw the names.
        set(&self.fresh, BTreeSet::new());
        Ok(())
    }

    fn commit(&mut self, state: State, change: Change) -> Result<(), SearchError> {
        self.file.commit(&state, &change)?;
        for number in change.gone {
            self.segments.remove(&number);
            self.littered = true;
        }
        let built = change.built.into_iter().map(|(number, built)| (number, built.row));
        self.segments.extend(built);
        self.state = state;
        Ok(())
    }

    /// Begins to walk over all objects. Where the index is whole it stays so meanwhile.
    fn begin_walk(&mut self, rows: &dyn Rows, epoch: u16, whole: bool) -> Result<(), SearchError> {
        tracing::info!(whole, "the index for searches is built from all objects");
        self.walks += 1;
        let cluster = get::<Cluster>(rows, ())?;
        let trimmed = cluster.map(|cluster| cluster.events_trimmed);
        // What happens from now on is followed; what happened before is seen by the walk.
        let newest = rows.last(TableId::EVENT_ORDER, Bound::Unbounded, Bound::Unbounded)?;
        let newest = newest.and_then(|(key, _)| Some(Stamp::from_bytes(key[..].try_into().ok()?)));
        if !whole {
            self.cursor = newest.into_iter().chain(trimmed).max().unwrap_or(self.cursor);
            set(&self.fresh, BTreeSet::new());
            self.events = 0;
        }
        let state = State {
            epoch,
            cursor: if whole { self.state.cursor } else { self.cursor },
            generation: self.state.generation + 1,
            whole,
            walk: Some(Vec::new()),
            walked: 0,
            ..self.state.clone()
        };
        let gone = if whole { Vec::new() } else { self.segments.keys().copied().collect() };
        self.merge = None;
        self.walk = Some(Walk { after: Vec::new(), builder: Builder::default() });
        self.commit(state, Change { built: Vec::new(), gone })
    }

    /// One step of what nobody waits for; false: there is nothing.
    fn work(&mut self, rows: &dyn Rows) -> Result<bool, SearchError> {
        if self.littered && !self.state.whole {
            // What is gone makes room for what comes.
            return self.sweep().map(|()| true);
        }
        if let Some(walk) = self.walk.take() {
            self.walk_on(rows, walk)?;
            return Ok(true);
        }
        if let Some(merge) = self.merge.take() {
            self.merge_on(rows, merge)?;
            return Ok(true);
        }
        if let Some(sources) = self.to_merge() {
            self.merge = Some(self.begin_merge(sources)?);
            return Ok(true);
        }
        if self.littered {
            return self.sweep().map(|()| true);
        }
        if self.state.walked * 2 + self.sizes.spare_names < self.documents() {
            self.begin_walk(rows, self.state.epoch, true)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn sweep(&mut self) -> Result<(), SearchError> {
        self.littered = self.file.remove_pages(PAGES_PER_STEP)? == PAGES_PER_STEP;
        Ok(())
    }

    fn walk_on(&mut self, rows: &dyn Rows, mut walk: Walk) -> Result<(), SearchError> {
        // The key of a row is the name and a zero.
        let after = [&walk.after[..], &[0]].concat();
        let lower = if walk.after.is_empty() { Bound::Unbounded } else { Bound::Excluded(&after[..]) };
        let mut visited = 0;
        let mut last = None;
        for row in rows.range(TableId::OBJECTS, lower, Bound::Unbounded)?.take(self.sizes.names_per_step) {
            let (key, value) = row?;
            let name = key.strip_suffix(&[0]).unwrap_or(&key);
            walk.builder.add(name, parts(name)?.1, &Objects::decode_value(&value)?.attributes);
            visited += 1;
            last = Some(name.to_vec());
        }
        if let Some(last) = last {
            walk.after = last;
        }
        let ends = visited < self.sizes.names_per_step;
        let full = self.is_full(&walk.builder);
        if !ends && !full {
            self.walk = Some(walk);
            return Ok(());
        }
        let mut state = self.state.clone();
        let mut change = Change::default();
        state.walked += u64::from(walk.builder.documents());
        if 0 < walk.builder.documents() {
            let built = std::mem::take(&mut walk.builder).finish(state.next_segment, state.generation, full);
            change.built.push((state.next_segment, built));
            state.next_segment += 1;
        }
        state.walk = (!ends).then(|| walk.after.clone());
        if ends {
            state.whole = true;
            let before = self.segments.iter().filter(|(_, row)| row.generation < state.generation);
            change.gone = before.map(|(number, _)| *number).collect();
            tracing::info!(objects = state.walked, "the index for searches is whole");
        } else {
            self.walk = Some(walk);
        }
        self.commit(state, change)
    }

    fn is_full(&self, builder: &Builder) -> bool {
        self.sizes.documents <= builder.documents() || self.segment_bytes <= builder.bytes()
    }

    /// Segments of a size that are to be put together.
    fn to_merge(&self) -> Option<Vec<u32>> {
        let Sizes { small_pages, medium_pages, .. } = self.sizes;
        for size in [0..small_pages, small_pages..medium_pages] {
            let like = self.segments.iter().filter(|(_, row)| !row.sealed && size.contains(&row.pages));
            let like: Vec<u32> = like.map(|(number, _)| *number).take(FAN_IN).collect();
            if like.len() == FAN_IN {
                return Some(like);
            }
        }
        None
    }

    fn begin_merge(&self, sources: Vec<u32>) -> Result<Merge, SearchError> {
        let pages = self.file.snapshot()?.pages;
        let (mut names, mut heads) = (Vec::new(), BinaryHeap::new());
        for number in &sources {
            let Some(row) = self.segments.get(number) else { continue };
            let mut source = Names::new(*number, row.documents);
            heads.push(Reverse((source.get(&pages, 0)?.to_vec(), names.len(), 0)));
            names.push((source, row.documents));
        }
        Ok(Merge { sources, pages, names, heads, builder: Builder::default(), last: Vec::new() })
    }

    fn merge_on(&mut self, rows: &dyn Rows, mut merge: Merge) -> Result<(), SearchError> {
        for _ in 0..self.sizes.names_per_step {
            let Some(Reverse((name, at, document))) = merge.heads.pop() else { break };
            let (source, documents) = &mut merge.names[at];
            if document + 1 < *documents {
                let next = source.get(&merge.pages, document + 1)?.to_vec();
                merge.heads.push(Reverse((next, at, document + 1)));
            }
            if name == merge.last {
                continue;
            }
            if let Some(object) = object_of(rows, &name)? {
                merge.builder.add(&name, parts(&name)?.1, &object.attributes);
            }
            merge.last = name;
        }
        let (ends, full) = (merge.heads.is_empty(), self.is_full(&merge.builder));
        if !ends && !full {
            self.merge = Some(merge);
            return Ok(());
        }
        let mut state = self.state.clone();
        let mut change = Change::default();
        if 0 < merge.builder.documents() {
            let built = std::mem::take(&mut merge.builder).finish(state.next_segment, state.generation, full);
            change.built.push((state.next_segment, built));
            state.next_segment += 1;
        }
        if ends {
            change.gone = merge.sources;
        } else {
            self.merge = Some(merge);
        }
        self.commit(state, change)
    }

    /// Compares the index with all objects; what is wrong, for tests.
    #[cfg(test)]
    pub fn check(&self, rows: &dyn Rows) -> Result<(), String> {
        use super::segment::Candidates;
        let snapshot = self.file.snapshot().map_err(|error| error.to_string())?;
        let fresh = names(&self.fresh);
        for row in consensus::meta::tables::scan_all::<Objects>(rows).map_err(|fault| fault.to_string())? {
            let (home, object) = row.map_err(|fault| fault.to_string())?;
            let name = name(home.bucket.0, home.key.as_str());
            let mut terms = Vec::new();
            super::terms::of_attributes(&object.attributes, &mut terms);
            let folded = super::terms::fold(home.key.as_str());
            terms.extend(super::terms::trigrams(&folded));
            let in_segment = |(number, row): (&u32, &super::segment::SegmentRow)| {
                terms.iter().all(|term| {
                    let plan = super::matcher::Plan::Term(*term);
                    let open = Candidates::open(&snapshot.pages, *number, row, &plan);
                    let Some(mut candidates) = open.expect("the file can be read") else { return false };
                    let at = candidates.position(&snapshot.pages, &name).expect("names can be read");
                    at < row.documents
                        && candidates.name(&snapshot.pages, at).expect("names can be read") == name
                        && candidates.seek(&snapshot.pages, at).expect("lists can be read") == Some(at)
                })
            };
            if !fresh.contains(&name) && !snapshot.segments.iter().any(in_segment) {
                return Err(format!("{:?} is not in the index with all its terms", home.key));
            }
        }
        Ok(())
    }
}

/// The names as they are now.
pub fn names(fresh: &Fresh) -> Arc<BTreeSet<Vec<u8>>> {
    fresh.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set(fresh: &Fresh, names: BTreeSet<Vec<u8>>) {
    *fresh.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
}
