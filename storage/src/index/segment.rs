//! Segments: names in order with the lists of their terms. Built once, never changed, thrown away as a whole.

use consensus::meta::model::Attributes;
use serde::{Deserialize, Serialize};

use super::lists::{List, ListsBuilder};
use super::matcher::Plan;
use super::names::{Names, NamesBuilder};
use super::pages::{IndexFault, PageKey, Pages};
use super::terms;

/// Lists that one conjunction goes through; the rarest ones. What is found is compared anyway.
const LISTS_MAX: usize = 4;

/// What is known of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRow {
    /// Names in it.
    pub documents: u32,
    /// Pages in it.
    pub pages: u32,
    /// The walk over all objects that it belongs to.
    pub generation: u32,
    /// Whether it is as large as a segment may be, and so is not put together with others.
    pub sealed: bool,
    /// Its first name.
    pub first: Vec<u8>,
    /// Its last name.
    pub last: Vec<u8>,
}

/// A segment that is being built.
#[derive(Default)]
pub struct Builder {
    names: NamesBuilder,
    lists: ListsBuilder,
    first: Vec<u8>,
    folded: String,
    terms: Vec<u32>,
}

/// A segment that was built, ready to be stored.
pub struct Built {
    /// What is known of it.
    pub row: SegmentRow,
    /// All its pages.
    pub pages: Vec<(PageKey, Vec<u8>)>,
}

impl Builder {
    /// Adds an object, whose name is behind all others.
    pub fn add(&mut self, name: &[u8], key: &str, attributes: &Attributes) {
        let document = self.names.add(name);
        if document == 0 {
            self.first = name.to_vec();
        }
        self.folded.clear();
        terms::fold_into(key, &mut self.folded);
        for term in terms::trigrams(&self.folded) {
            self.lists.add(term, document);
        }
        self.terms.clear();
        terms::of_attributes(attributes, &mut self.terms);
        for term in &self.terms {
            self.lists.add(*term, document);
        }
    }

    /// How many objects were added.
    pub fn documents(&self) -> u32 {
        self.names.documents()
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.names.bytes() + self.lists.bytes()
    }

    /// The segment, under this number.
    pub fn finish(self, segment: u32, generation: u32, sealed: bool) -> Built {
        let (documents, last) = (self.names.documents(), self.names.last().to_vec());
        let mut pages = Vec::new();
        self.names.finish(segment, &mut pages);
        self.lists.finish(segment, &mut pages);
        let first = self.first;
        let row = SegmentRow { documents, pages: pages.len() as u32, generation, sealed, first, last };
        Built { row, pages }
    }
}

/// Goes through the documents of a segment that a plan names.
pub struct Candidates {
    part: Part,
    names: Names,
}

enum Part {
    List(List),
    All(Vec<Part>),
    Any(Vec<Part>),
}

impl Candidates {
    /// Those of a segment; `None`: there are none.
    pub fn open(
        pages: &Pages,
        segment: u32,
        row: &SegmentRow,
        plan: &Plan,
    ) -> Result<Option<Candidates>, IndexFault> {
        let Some(part) = Part::open(pages, segment, plan)? else { return Ok(None) };
        Ok(Some(Candidates { part, names: Names::new(segment, row.documents) }))
    }

    /// The first document that is not before `document`.
    pub fn seek(&mut self, pages: &Pages, document: u32) -> Result<Option<u32>, IndexFault> {
        self.part.seek(pages, document)
    }

    /// The first document whose name is not before `name`.
    pub fn position(&mut self, pages: &Pages, name: &[u8]) -> Result<u32, IndexFault> {
        self.names.position(pages, name)
    }

    /// The name of a document.
    pub fn name(&mut self, pages: &Pages, document: u32) -> Result<&[u8], IndexFault> {
        self.names.get(pages, document)
    }
}

impl Part {
    fn open(pages: &Pages, segment: u32, plan: &Plan) -> Result<Option<Part>, IndexFault> {
        match plan {
            // Whoever looks everywhere walks over the objects themselves.
            Plan::Everything => Err(IndexFault::Page("a plan without terms has no lists")),
            Plan::Term(term) => Ok(List::open(pages, segment, *term)?.map(Part::List)),
            Plan::All(plans) => {
                let mut parts = Vec::with_capacity(plans.len());
                for plan in plans {
                    match Part::open(pages, segment, plan)? {
                        Some(part) => parts.push(part),
                        None => return Ok(None),
                    }
                }
                parts.sort_by_key(Part::total);
                parts.truncate(LISTS_MAX);
                Ok(Some(Part::All(parts)))
            }
            Plan::Any(plans) => {
                let mut parts = Vec::with_capacity(plans.len());
                for plan in plans {
                    parts.extend(Part::open(pages, segment, plan)?);
                }
                Ok((!parts.is_empty()).then_some(Part::Any(parts)))
            }
        }
    }

    /// At most so many documents.
    fn total(&self) -> u64 {
        match self {
            Part::List(list) => u64::from(list.total),
            Part::All(parts) => parts.iter().map(Part::total).min().unwrap_or(0),
            Part::Any(parts) => parts.iter().map(Part::total).sum(),
        }
    }

    fn seek(&mut self, pages: &Pages, wanted: u32) -> Result<Option<u32>, IndexFault> {
        match self {
            Part::List(list) => list.seek(pages, wanted),
            Part::All(parts) => {
                let (mut wanted, mut agreed, mut at) = (wanted, 0, 0);
                while agreed < parts.len() {
                    let Some(found) = parts[at].seek(pages, wanted)? else { return Ok(None) };
                    agreed = if found == wanted { agreed + 1 } else { 1 };
                    at = (at + 1) % parts.len();
                    wanted = found;
                }
                Ok(Some(wanted))
            }
            Part::Any(parts) => {
                let mut first = None;
                for part in parts {
                    let found = part.seek(pages, wanted)?;
                    first = first.into_iter().chain(found).min();
                }
                Ok(first)
            }
        }
    }
}
