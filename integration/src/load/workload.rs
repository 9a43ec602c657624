//! What is measured.

use super::search::Query;
use crate::client::Pattern;

/// What the connections of a cell do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes new objects.
    Put,
    /// Reads objects that are there, at random.
    Get,
    /// Asks for the metadata of objects that are there, at random.
    Head,
    /// Lists a page of 1,000 keys from a random place.
    List,
    /// Removes objects that are there, each once.
    Delete,
    /// Searches for what has to do with objects that are there, up to 100 of them.
    Search(Query),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is done.
    pub kind: Kind,
    /// Bytes of an object.
    pub bytes: u64,
    /// Requests under way at once.
    pub connections: usize,
    /// Objects that are there before it begins.
    pub objects: u64,
    /// Whether the bucket encrypts them with keys of the store (SSE-S3).
    pub encrypted: bool,
    /// Their storage class, where it is not the default.
    pub class: Option<&'static str>,
}

const fn row(name: &'static str, kind: Kind, bytes: u64, connections: usize, objects: u64) -> Workload {
    Workload { name, kind, bytes, connections, objects, encrypted: false, class: None }
}

const fn encrypted(workload: Workload) -> Workload {
    Workload { encrypted: true, ..workload }
}

/// The same as shards of an erasure code, where there are nodes for one.
const fn coded(workload: Workload) -> Workload {
    Workload { class: Some("STANDARD_IA"), ..workload }
}

/// The table, in the order of its rows.
pub const ALL: &[Workload] = &[
    row("put-4k-c1", Kind::Put, 4 << 10, 1, 0),
    row("put-4k", Kind::Put, 4 << 10, 32, 0),
    row("get-4k", Kind::Get, 4 << 10, 32, 10_000),
    row("head", Kind::Head, 4 << 10, 32, 10_000),
    row("list-1000", Kind::List, 0, 4, 100_000),
    row("put-64k", Kind::Put, 64 << 10, 16, 0),
    row("get-64k", Kind::Get, 64 << 10, 16, 2_000),
    row("put-1m", Kind::Put, 1 << 20, 8, 0),
    row("get-1m", Kind::Get, 1 << 20, 8, 200),
    encrypted(row("put-1m-sse", Kind::Put, 1 << 20, 8, 0)),
    encrypted(row("get-1m-sse", Kind::Get, 1 << 20, 8, 200)),
    row("put-16m", Kind::Put, 16 << 20, 4, 0),
    row("get-16m", Kind::Get, 16 << 20, 4, 20),
    coded(row("put-1m-ia", Kind::Put, 1 << 20, 8, 0)),
    coded(row("get-1m-ia", Kind::Get, 1 << 20, 8, 200)),
    coded(row("put-16m-ia", Kind::Put, 16 << 20, 4, 0)),
    coded(row("get-16m-ia", Kind::Get, 16 << 20, 4, 20)),
    row("delete", Kind::Delete, 0, 32, 100_000),
];

impl Workload {
    /// In words.
    pub fn about(&self) -> String {
        let (kind, bytes, connections, objects) = (self.kind, self.bytes, self.connections, self.objects);
        let how = if self.encrypted { ", encrypted with SSE-S3" } else { "" };
        format!("{kind:?}, {bytes} bytes, {connections} connections, {objects} objects before{how}")
    }

    /// A body that does not compress.
    pub fn body(&self) -> Vec<u8> {
        Pattern::new(0x10AD, self.bytes).bytes()
    }

    /// The key of an object that is there before, spread over a hundred prefixes.
    pub fn key(&self, number: u64) -> String {
        format!("{:02}/{number:08}", number % 100)
    }
}
