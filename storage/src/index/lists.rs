//! Lists: for each term of a segment the documents that have it, ascending.
//!
//! A list lies in one or more pieces, each in one page: the term (4 bytes, big endian), how many documents the whole
//! list has, the first one of the piece, how far behind it the last one is, how many bytes follow, and those: for each
//! further document how far it is behind the one before, or a zero and how many follow each other directly. Names that
//! are sorted share their beginnings, so that there are long runs.

use std::collections::HashMap;

use super::pages::{
    Found, IndexFault, LISTS, PAGE_BYTES, PageKey, Pages, page_key, push_number, take_number,
};

/// What a piece takes at most beside its documents.
const PIECE_HEAD_BYTES: usize = 4 + 4 * 5;
/// What one more document takes at most, with the run before it.
const STEP_BYTES_MAX: usize = 11;
/// About what a term takes in memory beside its documents.
const TERM_BYTES: usize = 64;

/// Documents in their stored form, growing.
#[derive(Default)]
struct Growing {
    count: u32,
    first: u32,
    last: u32,
    /// How many followed directly and are not written yet.
    run: u32,
    bytes: Vec<u8>,
}

impl Growing {
    fn push(&mut self, document: u32) {
        if self.count == 0 {
            self.first = document;
        } else if document == self.last + 1 {
            self.run += 1;
        } else {
            self.end_run();
            push_number(document - self.last, &mut self.bytes);
        }
        self.last = document;
        self.count += 1;
    }

    fn end_run(&mut self) {
        match self.run {
            0 => {}
            1 => self.bytes.push(1),
            run => {
                self.bytes.push(0);
                push_number(run, &mut self.bytes);
            }
        }
        self.run = 0;
    }
}

/// Reads what [`Growing`] wrote.
#[derive(Clone, Copy)]
struct Steps {
    at: usize,
    end: usize,
    current: u32,
    run: u32,
}

impl Steps {
    /// Goes to the first document that is not before `wanted`; false: there is none here.
    fn seek(&mut self, bytes: &[u8], wanted: u32) -> Result<bool, IndexFault> {
        while self.current < wanted {
            if 0 < self.run {
                let taken = self.run.min(wanted - self.current);
                self.run -= taken;
                self.current += taken;
                continue;
            }
            if self.end <= self.at {
                return Ok(false);
            }
            let step = take_number(&bytes[..self.end], &mut self.at)?;
            let (step, run) = match step {
                0 => (1, take_number(&bytes[..self.end], &mut self.at)?.saturating_sub(1)),
                step => (step, 0),
            };
            self.run = run;
            let next = self.current.checked_add(step).filter(|next| next.checked_add(run).is_some());
            self.current = next.ok_or(IndexFault::Page("a list goes too far"))?;
        }
        Ok(true)
    }
}

/// The lists of a segment that is being built.
#[derive(Default)]
pub struct ListsBuilder {
    lists: HashMap<u32, Growing>,
    bytes: usize,
}

impl ListsBuilder {
    /// Adds a document, which is not before those that were added.
    pub fn add(&mut self, term: u32, document: u32) {
        let list = self.lists.entry(term).or_default();
        if list.count == 0 {
            self.bytes += TERM_BYTES;
        } else if list.last == document {
            return;
        }
        let before = list.bytes.len();
        list.push(document);
        self.bytes += list.bytes.len() - before;
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pages of the lists.
    pub fn finish(self, segment: u32, pages: &mut Vec<(PageKey, Vec<u8>)>) {
        let mut lists: Vec<(u32, Growing)> = self.lists.into_iter().collect();
        lists.sort_unstable_by_key(|(term, _)| *term);
        let mut page: Option<(PageKey, Vec<u8>)> = None;
        for (term, mut list) in lists {
            list.end_run();
            let total = list.count;
            let mut documents = Documents::of(&list);
            let mut next = documents.next();
            while let Some(first) = next {
                let full = |(_, bytes): &(PageKey, Vec<u8>)| {
                    PAGE_BYTES < bytes.len() + PIECE_HEAD_BYTES + 2 * STEP_BYTES_MAX
                };
                if page.as_ref().is_some_and(full) {
                    pages.extend(page.take());
                }
                let new = || (page_key(segment, LISTS, term, first), Vec::with_capacity(PAGE_BYTES));
                let (_, bytes) = page.get_or_insert_with(new);
                let room = PAGE_BYTES - bytes.len() - PIECE_HEAD_BYTES - STEP_BYTES_MAX;
                let mut piece = Growing::default();
                while let Some(document) = next.filter(|_| piece.bytes.len() < room) {
                    piece.push(document);
                    next = documents.next();
                }
                piece.end_run();
                push_piece(term, total, &piece, bytes);
            }
        }
        pages.extend(page);
    }
}

fn push_piece(term: u32, total: u32, piece: &Growing, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&term.to_be_bytes());
    push_number(total, bytes);
    push_number(piece.first, bytes);
    push_number(piece.last - piece.first, bytes);
    push_number(piece.bytes.len() as u32, bytes);
    bytes.extend_from_slice(&piece.bytes);
    assert!(bytes.len() <= PAGE_BYTES, "a piece has a page to fit into");
}

/// The documents of a list that was just built.
struct Documents<'a> {
    bytes: &'a [u8],
    steps: Steps,
    left: u32,
}

impl Documents<'_> {
    fn of(list: &Growing) -> Documents<'_> {
        let steps = Steps { at: 0, end: list.bytes.len(), current: list.first, run: 0 };
        Documents { bytes: &list.bytes, steps, left: list.count }
    }

    fn next(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let document = self.steps.current;
        if 0 < self.left {
            let there = self.steps.seek(self.bytes, document + 1);
            assert!(matches!(there, Ok(true)), "what was just written is read");
        }
        Some(document)
    }
}

/// A piece of a list within a page.
struct Piece {
    term: u32,
    total: u32,
    first: u32,
    last: u32,
    begin: usize,
    end: usize,
}

fn take_piece(page: &[u8], at: &mut usize) -> Result<Piece, IndexFault> {
    let rest = page.get(*at..).and_then(|rest| rest.first_chunk::<4>());
    let term = u32::from_be_bytes(*rest.ok_or(IndexFault::Page("it ends within a term"))?);
    *at += 4;
    let total = take_number(page, at)?;
    let first = take_number(page, at)?;
    let last = first.checked_add(take_number(page, at)?);
    let length = take_number(page, at)? as usize;
    let begin = *at;
    let end = begin.checked_add(length).filter(|end| *end <= page.len());
    *at = end.ok_or(IndexFault::Page("a list is longer than its page"))?;
    Ok(Piece {
        term,
        total,
        first,
        last: last.ok_or(IndexFault::Page("a list goes too far"))?,
        begin,
        end: *at,
    })
}

/// Goes through one list.
pub struct List {
    segment: u32,
    term: u32,
    /// Documents in all.
    pub total: u32,
    page: Vec<u8>,
    steps: Steps,
    last: u32,
}

impl List {
    /// The list of a term; `None`: no document has it.
    pub fn open(pages: &Pages, segment: u32, term: u32) -> Result<Option<List>, IndexFault> {
        let Some((page, piece)) = locate(pages, segment, term, 0)? else { return Ok(None) };
        let Piece { total, first, last, begin, end, .. } = piece;
        let steps = Steps { at: begin, end, current: first, run: 0 };
        Ok(Some(List { segment, term, total, page, steps, last }))
    }

    /// The first document that is not before `wanted`, which does not go back.
    pub fn seek(&mut self, pages: &Pages, wanted: u32) -> Result<Option<u32>, IndexFault> {
        if self.last < wanted {
            let Some((page, piece)) = locate(pages, self.segment, self.term, wanted)? else {
                return Ok(None);
            };
            self.page = page;
            self.steps = Steps { at: piece.begin, end: piece.end, current: piece.first, run: 0 };
            self.last = piece.last;
        }
        match self.steps.seek(&self.page, wanted)? {
            true => Ok(Some(self.steps.current)),
            false => Err(IndexFault::Page("a list ends before it says")),
        }
    }
}

/// The piece of a list that has the first document not before `wanted`.
fn locate(
    pages: &Pages,
    segment: u32,
    term: u32,
    wanted: u32,
) -> Result<Option<(Vec<u8>, Piece)>, IndexFault> {
    let in_page = |(_, page): Found| -> Result<Option<(Vec<u8>, Piece)>, IndexFault> {
        let mut at = 0;
        while at < page.len() {
            let piece = take_piece(&page, &mut at)?;
            if piece.term == term && wanted <= piece.last {
                return Ok(Some((page, piece)));
            }
            if term < piece.term {
                break;
            }
        }
        Ok(None)
    };
    if let Some(page) = pages.up_to(segment, LISTS, term, wanted)?
        && let Some(found) = in_page(page)?
    {
        return Ok(Some(found));
    }
    match pages.beyond(segment, LISTS, term, wanted)? {
        Some(page) if page.0.0 == term => in_page(page),
        _ => Ok(None),
    }
}
