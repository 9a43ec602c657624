//! Names of documents, in order: the number of the bucket in eight bytes, then the key.
//!
//! A page holds how many there are (2 bytes), and for each name how many bytes it shares with the one before, how many
//! follow, and those. The first one of a page shares nothing.

use super::pages::{IndexFault, NAMES, PAGE_BYTES, PageKey, Pages, page_key, push_number, take_number};

/// Bytes of the number of a bucket in front of the key.
pub const BUCKET_BYTES: usize = 8;

/// The name of an object.
pub fn name(bucket: u64, key: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(BUCKET_BYTES + key.len());
    name.extend_from_slice(&bucket.to_be_bytes());
    name.extend_from_slice(key.as_bytes());
    name
}

/// Bucket and key of a name.
pub fn parts(name: &[u8]) -> Result<(u64, &str), IndexFault> {
    let wrong = IndexFault::Page("a name is none");
    let Some((bucket, key)) = name.split_first_chunk::<BUCKET_BYTES>() else { return Err(wrong) };
    match std::str::from_utf8(key) {
        Ok(key) => Ok((u64::from_be_bytes(*bucket), key)),
        Err(_) => Err(wrong),
    }
}

/// The names of a segment that is being built.
#[derive(Default)]
pub struct NamesBuilder {
    pages: Vec<(u32, Vec<u8>)>,
    in_page: u16,
    last: Vec<u8>,
    documents: u32,
    bytes: usize,
}

impl NamesBuilder {
    /// Adds a name behind all others; returns the number of its document.
    pub fn add(&mut self, name: &[u8]) -> u32 {
        assert!(self.documents == 0 || *self.last < *name, "names come in order");
        let document = self.documents;
        let fits = self.pages.last().is_some_and(|(_, page)| page.len() + name.len() + 6 <= PAGE_BYTES);
        if !fits {
            self.pages.push((document, vec![0, 0]));
            self.in_page = 0;
            self.bytes += PAGE_BYTES;
        }
        let (_, page) = self.pages.last_mut().expect("one was pushed");
        let shared = match self.in_page {
            0 => 0,
            _ => self.last.iter().zip(name).take_while(|(one, other)| one == other).count(),
        };
        push_number(shared as u32, page);
        push_number((name.len() - shared) as u32, page);
        page.extend_from_slice(&name[shared..]);
        self.in_page += 1;
        page[..2].copy_from_slice(&self.in_page.to_be_bytes());
        self.last.clear();
        self.last.extend_from_slice(name);
        self.documents += 1;
        document
    }

    /// How many there are.
    pub fn documents(&self) -> u32 {
        self.documents
    }

    /// The last one.
    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pages of the names.
    pub fn finish(self, segment: u32, pages: &mut Vec<(PageKey, Vec<u8>)>) {
        pages.extend(self.pages.into_iter().map(|(first, page)| (page_key(segment, NAMES, first, 0), page)));
    }
}

/// Goes through the names of a segment.
pub struct Names {
    segment: u32,
    documents: u32,
    page: Vec<u8>,
    /// Where the next name of the page begins, and its document.
    at: usize,
    next: u32,
    /// Behind the last document of the page.
    page_end: u32,
    current: Vec<u8>,
}

impl Names {
    /// Of a segment of so many documents.
    pub fn new(segment: u32, documents: u32) -> Names {
        Names { segment, documents, page: Vec::new(), at: 0, next: 0, page_end: 0, current: Vec::new() }
    }

    /// The name of a document.
    pub fn get(&mut self, pages: &Pages, document: u32) -> Result<&[u8], IndexFault> {
        if document + 1 == self.next {
            return Ok(&self.current);
        }
        if document < self.next || self.page_end <= document {
            self.load(pages, document)?;
        }
        while self.next <= document {
            self.step()?;
        }
        Ok(&self.current)
    }

    /// The first document whose name is not before this one; the number of documents where there is none.
    pub fn position(&mut self, pages: &Pages, name: &[u8]) -> Result<u32, IndexFault> {
        let (mut least, mut most) = (0, self.documents);
        let mut best = None;
        while least < most {
            let first = self.load(pages, least + (most - least) / 2)?;
            self.step()?;
            if *self.current <= *name {
                best = Some(first);
                least = self.page_end;
            } else {
                most = first;
            }
        }
        let Some(first) = best else { return Ok(0) };
        self.load(pages, first)?;
        while self.next < self.page_end {
            self.step()?;
            if *name <= *self.current {
                return Ok(self.next - 1);
            }
        }
        Ok(self.page_end)
    }

    /// Goes to the front of the page that has a document; returns its first one.
    fn load(&mut self, pages: &Pages, document: u32) -> Result<u32, IndexFault> {
        let wrong = IndexFault::Page("names are missing");
        let Some(((first, _), page)) = pages.up_to(self.segment, NAMES, document, u32::MAX)? else {
            return Err(wrong);
        };
        let count = page.first_chunk::<2>().map(|count| u16::from_be_bytes(*count));
        let end = count.and_then(|count| first.checked_add(u32::from(count)));
        match end {
            Some(end) if document < end && end <= self.documents => self.page_end = end,
            _ => return Err(wrong),
        }
        (self.page, self.at, self.next) = (page, 2, first);
        self.current.clear();
        Ok(first)
    }

    fn step(&mut self) -> Result<(), IndexFault> {
        let shared = take_number(&self.page, &mut self.at)? as usize;
        let length = take_number(&self.page, &mut self.at)? as usize;
        let rest = self.at.checked_add(length).and_then(|end| self.page.get(self.at..end));
        let (Some(rest), true) = (rest, shared <= self.current.len()) else {
            return Err(IndexFault::Page("a name is longer than its page"));
        };
        self.current.truncate(shared);
        self.current.extend_from_slice(rest);
        self.at += length;
        self.next += 1;
        Ok(())
    }
}
