//! Listings: one ordered scan that seeks over each common prefix instead of walking it.
//!
//! Each row that is visited becomes an entry or opens a group, so a page costs the page. Pages are stateless: a
//! position is where the scan begins, so the union of pages has no gaps and no repeats, whatever is written meanwhile.

use std::iter::Peekable;
use std::ops::Bound;

use fabric::ids::{BucketId, Stamp};
use fabric::limits::LIST_ROWS_VISITED_MAX;

use super::{bounded, listed};
use crate::meta::command::VersionSelector;
use crate::meta::lookup::newest_other;
use crate::meta::model::{Home, Object, Upload, Version};
use crate::meta::names::ObjectKey;
use crate::meta::query::{List, ListUploads, ListVersions, ListedVersion, Page, PageEntry};
use crate::meta::store::{Fault, Rows};
use crate::meta::tables::{
    Descending, NullVersions, Objects, Scan, Uploads, Versions, as_upper, get, key_bytes, scan, successor,
};

/// Current versions.
pub(super) fn objects(rows: &dyn Rows, list: &List) -> Result<Page<Object>, Fault> {
    let scope = Scope::new(list.bucket, &list.prefix, &list.delimiter, list.limit);
    page(&scope, scope.start(&list.after, None), |start| {
        let scan = scan::<Objects>(rows, start.lower(), scope.upper())?;
        Ok(Box::new(scan.map(|row| {
            let (home, mut object) = row?;
            object.attributes = listed(object.attributes);
            Ok(Row { key: home.key, stamp: None, item: object })
        })))
    })
}

/// Uploads, those of one key in order of their ids.
pub(super) fn uploads(rows: &dyn Rows, list: &ListUploads) -> Result<Page<Upload>, Fault> {
    let scope = Scope::new(list.bucket, &list.prefix, &list.delimiter, list.limit);
    let within = list.after_upload.and_then(|id| Some((scope.home(&list.after_key)?, id)));
    let start = scope.start(&list.after_key, within.map(|(home, id)| key_bytes(&(&home, id))));
    page(&scope, start, |start| {
        let scan = scan::<Uploads>(rows, start.lower(), scope.upper())?;
        Ok(Box::new(scan.map(|row| {
            let ((home, id), mut upload) = row?;
            upload.attributes = listed(upload.attributes);
            Ok(Row { key: home.key, stamp: Some(id), item: upload })
        })))
    })
}

/// Versions and delete markers, those of one key newest first.
pub(super) fn versions(rows: &dyn Rows, list: &ListVersions) -> Result<Page<ListedVersion>, Fault> {
    let scope = Scope::new(list.bucket, &list.prefix, &list.delimiter, list.limit);
    let within = match (scope.home(&list.after_key), list.after_version) {
        (Some(home), Some(selector)) => position_of(rows, &home, selector)?.map(|stamp| (home, stamp)),
        _ => None,
    };
    let start = scope
        .start(&list.after_key, within.as_ref().map(|(home, stamp)| key_bytes(&(home, Descending(*stamp)))));
    page(&scope, start, |start| {
        let within = within.as_ref().filter(|_| start.within);
        let behind = within.map(|(home, _)| key_bytes(home));
        let lower = behind.as_deref().map_or(start.lower(), Bound::Excluded);
        // The current version of the key that the page begins within may be behind the position, too.
        let rest = match within {
            Some((home, stamp)) => get::<Objects>(rows, home)?
                .filter(|object| object.stamp < *stamp)
                .map(|object| (home.clone(), object)),
            None => None,
        };
        let current = scan::<Objects>(rows, lower, scope.upper())?;
        let current: Scan<'_, Objects> = Box::new(rest.into_iter().map(Ok).chain(current));
        let others = scan::<Versions>(rows, start.lower(), scope.upper())?;
        Ok(Box::new(Merged { rows, current: current.peekable(), others: others.peekable(), key: None }))
    })
}

/// Current and other versions as one sequence: a current version is the newest of its key.
struct Merged<'a> {
    rows: &'a dyn Rows,
    current: Peekable<Scan<'a, Objects>>,
    others: Peekable<Scan<'a, Versions>>,
    /// The key whose versions are being given out.
    key: Option<Home>,
}

impl Merged<'_> {
    fn take(&mut self) -> Result<Option<Row<ListedVersion>>, Fault> {
        let take_current = match (self.current.peek(), self.others.peek()) {
            (None, None) => return Ok(None),
            (Some(Ok((current, _))), Some(Ok(((other, _), _)))) => {
                (current.bucket, &current.key) <= (other.bucket, &other.key)
            }
            (current, _) => current.is_some(),
        };
        let (home, version) = if take_current {
            let Some((home, object)) = self.current.next().transpose()? else { return Ok(None) };
            (home, Version::Object(object))
        } else {
            let Some(((home, _), version)) = self.others.next().transpose()? else { return Ok(None) };
            (home, version)
        };
        let latest = take_current || self.is_newest(&home, version.stamp())?;
        let version = match version {
            Version::Object(object) => {
                Version::Object(Object { attributes: listed(object.attributes), ..object })
            }
            marker => marker,
        };
        self.key = Some(home.clone());
        let stamp = Some(version.stamp());
        Ok(Some(Row { key: home.key, stamp, item: ListedVersion { version, latest } }))
    }

    /// Whether a version that is not current is the newest of its key: a delete marker that hides it.
    fn is_newest(&self, home: &Home, stamp: Stamp) -> Result<bool, Fault> {
        if self.key.as_ref() == Some(home) || get::<Objects>(self.rows, home)?.is_some() {
            return Ok(false);
        }
        Ok(newest_other(self.rows, home)?.is_some_and(|newest| newest.stamp() == stamp))
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Row<ListedVersion>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

/// The stamp that a version id means as a position; `None`: nobody can tell, all of the key is behind.
fn position_of(rows: &dyn Rows, home: &Home, selector: VersionSelector) -> Result<Option<Stamp>, Fault> {
    match selector {
        VersionSelector::Stamp(stamp) => Ok(Some(stamp)),
        VersionSelector::Null => match get::<Objects>(rows, home)? {
            Some(object) if object.null_version => Ok(Some(object.stamp)),
            _ => get::<NullVersions>(rows, home),
        },
    }
}

/// What a listing covers.
struct Scope<'a> {
    bucket: BucketId,
    prefix: &'a str,
    delimiter: &'a str,
    limit: usize,
    upper: Option<Vec<u8>>,
}

/// Where a scan begins: at a key in bytes, or behind it.
struct Start {
    lower: Vec<u8>,
    exclusive: bool,
    /// Among the versions or uploads of one key.
    within: bool,
}

impl Start {
    fn lower(&self) -> Bound<&[u8]> {
        if self.exclusive { Bound::Excluded(&self.lower) } else { Bound::Included(&self.lower) }
    }
}

impl<'a> Scope<'a> {
    fn new(bucket: BucketId, prefix: &'a str, delimiter: &'a str, limit: u32) -> Scope<'a> {
        let upper = successor(&key_bytes(&(bucket, prefix.as_bytes())));
        Scope { bucket, prefix, delimiter, limit: bounded(limit), upper }
    }

    fn upper(&self) -> Bound<&[u8]> {
        as_upper(&self.upper)
    }

    fn home(&self, key: &str) -> Option<Home> {
        Some(Home { bucket: self.bucket, key: key.parse().ok()? })
    }

    /// The common prefix that a key belongs to.
    fn group_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = key.strip_prefix(self.prefix)?;
        let found = rest.find(self.delimiter)?;
        Some(&key[..self.prefix.len() + found + self.delimiter.len()])
    }

    /// Where to begin after a text that a client or the page before gave.
    fn start(&self, after: &str, within: Option<Vec<u8>>) -> Start {
        let begin = key_bytes(&(self.bucket, self.prefix.as_bytes()));
        let start = if after.is_empty() {
            return Start { lower: begin, exclusive: false, within: false };
        } else if self.group_of(after) == Some(after) {
            self.behind_group(after)
        } else if let Some(lower) = within {
            Start { lower, exclusive: true, within: true }
        } else {
            // Keys end in 0x00 in the rows: behind it are all rows of a key of this text.
            let lower = key_bytes(&(self.bucket, after.as_bytes(), [1].as_slice()));
            Start { lower, exclusive: false, within: false }
        };
        if start.lower < begin { Start { lower: begin, exclusive: false, within: false } } else { start }
    }

    fn behind_group(&self, group: &str) -> Start {
        let lower = successor(&key_bytes(&(self.bucket, group.as_bytes())));
        let lower = lower.expect("a group ends in a byte of UTF-8, which has a successor");
        Start { lower, exclusive: false, within: false }
    }
}

/// A row of a listing.
struct Row<T> {
    key: ObjectKey,
    /// Its place within the key, where a key has several rows.
    stamp: Option<Stamp>,
    item: T,
}

type RowIter<'a, T> = Box<dyn Iterator<Item = Result<Row<T>, Fault>> + 'a>;

/// Reads a page: rows from `open`, which is called again behind each group.
fn page<'a, T>(
    scope: &Scope<'_>,
    start: Start,
    open: impl Fn(&Start) -> Result<RowIter<'a, T>, Fault>,
) -> Result<Page<T>, Fault> {
    let mut page = Page { entries: Vec::new(), more: false, position: String::new(), position_stamp: None };
    if scope.limit == 0 {
        return Ok(page);
    }
    let mut rows = open(&start)?;
    for _ in 0..LIST_ROWS_VISITED_MAX {
        let Some(row) = rows.next().transpose()? else {
            return Ok(page);
        };
        if page.entries.len() == scope.limit {
            page.more = true;
            return Ok(page);
        }
        match scope.group_of(row.key.as_str()) {
            Some(group) => {
                page.position = group.to_string();
                page.position_stamp = None;
                page.entries.push(PageEntry::Prefix(group.to_string()));
                rows = open(&scope.behind_group(group))?;
            }
            None => {
                page.position = row.key.as_str().to_string();
                page.position_stamp = row.stamp;
                page.entries.push(PageEntry::Item(row.key, row.item));
            }
        }
    }
    page.more = true;
    Ok(page)
}
