//! Listings against plain sets: every page, every position.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;

use super::world::{World, key};
use crate::meta::answer::answer;
use crate::meta::command::{Command, VersionSelector};
use crate::meta::model::{Version, Versioning};
use crate::meta::query::{Answer, List, ListUploads, ListVersions, Page, PageEntry, Query};
use crate::meta::store::{Fault, MemoryRows, Rows, RowsIter, TableId};

fn list(
    world: &World,
    prefix: &str,
    delimiter: &str,
    after: &str,
    limit: u32,
) -> Page<crate::meta::model::Object> {
    let list = List {
        bucket: world.bucket,
        prefix: prefix.to_string(),
        delimiter: delimiter.to_string(),
        after: after.to_string(),
        limit,
    };
    match world.ask(Query::List(list)) {
        Ok(Answer::List(page)) => page,
        answer => panic!("{answer:?}"),
    }
}

fn names<T>(page: &Page<T>) -> Vec<String> {
    let name = |entry: &PageEntry<T>| match entry {
        PageEntry::Item(key, _) => key.as_str().to_string(),
        PageEntry::Prefix(prefix) => format!("{prefix}*"),
    };
    page.entries.iter().map(name).collect()
}

fn world_of(keys: &[&str]) -> World {
    let mut world = World::new();
    let other = world.create_bucket("zzz");
    for name in keys {
        world.put_inline(name, "x");
    }
    let bucket = std::mem::replace(&mut world.bucket, other);
    world.put_inline("a/of/another/bucket", "x");
    world.bucket = bucket;
    world
}

#[test]
fn markers_behave_as_on_aws() {
    let world = world_of(&["a", "b/1", "b/2", "b/c/3", "c"]);
    for (prefix, delimiter, after, expected) in [
        ("", "", "", vec!["a", "b/1", "b/2", "b/c/3", "c"]),
        ("", "/", "", vec!["a", "b/*", "c"]),
        ("", "/", "b/", vec!["c"]),
        ("", "/", "b/1", vec!["b/*", "c"]),
        ("", "/", "b/c/3", vec!["c"]),
        ("", "/", "b", vec!["b/*", "c"]),
        ("", "/", "a", vec!["b/*", "c"]),
        ("b/", "/", "", vec!["b/1", "b/2", "b/c/*"]),
        ("b/", "/", "b/", vec!["b/1", "b/2", "b/c/*"]),
        ("b/", "/", "a", vec!["b/1", "b/2", "b/c/*"]),
        ("b/", "/", "c", vec![]),
        ("b/", "/", "b/c/", vec![]),
        ("b", "", "", vec!["b/1", "b/2", "b/c/3"]),
        ("", "b/", "", vec!["a", "b/*", "c"]),
        ("", "/c/", "", vec!["a", "b/1", "b/2", "b/c/*", "c"]),
        ("zzz", "/", "", vec![]),
        ("", "", "\u{10FFFF}", vec![]),
    ] {
        let page = list(&world, prefix, delimiter, after, 1000);
        assert_eq!(names(&page), expected, "prefix {prefix:?} delimiter {delimiter:?} after {after:?}");
        assert!(!page.more);
    }
}

/// Counts the rows that a question reads.
struct Counting<'a> {
    rows: &'a MemoryRows,
    read: Cell<usize>,
}

impl Rows for Counting<'_> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.read.set(self.read.get() + 1);
        self.rows.get(table, key)
    }
    fn range(&self, table: TableId, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Result<RowsIter<'_>, Fault> {
        let rows = self.rows.range(table, lower, upper)?;
        Ok(Box::new(rows.inspect(|_| self.read.set(self.read.get() + 1))))
    }
}

/// Keys under a common prefix are passed over by a seek: the work is that of the entries, not that of the keys.
#[test]
fn a_common_prefix_is_not_walked() {
    let mut keys: Vec<String> = (0..2000).map(|at| format!("a/{at:04}")).collect();
    keys.extend(["b", "c/1", "c/2"].map(str::to_string));
    let world = world_of(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let rows = Counting { rows: &world.rows, read: Cell::new(0) };
    let list = List {
        bucket: world.bucket,
        prefix: String::new(),
        delimiter: "/".to_string(),
        after: String::new(),
        limit: 1000,
    };
    let Answer::List(page) = answer(&rows, world.index, &Query::List(list)).unwrap().answer.unwrap() else {
        panic!("a listing is answered with a page");
    };
    assert_eq!(names(&page), ["a/*", "b", "c/*"]);
    assert!(rows.read.get() < 20, "{} rows for three entries", rows.read.get());
}

#[test]
fn limits_of_none_and_one() {
    let world = world_of(&["a", "b/1", "b/2"]);
    let page = list(&world, "", "/", "", 0);
    assert_eq!((names(&page), page.more), (vec![], false));
    let page = list(&world, "", "/", "", 1);
    assert_eq!((names(&page), page.more, page.position.as_str()), (vec!["a".to_string()], true, "a"));
    let page = list(&world, "", "/", "a", 1);
    assert_eq!((names(&page), page.more, page.position.as_str()), (vec!["b/*".to_string()], false, "b/"));
}

#[test]
fn a_bucket_that_was_never_versioned_lists_null_versions() {
    let world = world_of(&["a", "b"]);
    let query = ListVersions {
        bucket: world.bucket,
        prefix: String::new(),
        delimiter: String::new(),
        after_key: "a".to_string(),
        after_version: Some(VersionSelector::Null),
        limit: 10,
    };
    let all = ListVersions { after_key: String::new(), after_version: None, ..query.clone() };
    for (query, expected) in [(all, vec!["a", "b"]), (query, vec!["b"])] {
        let Ok(Answer::Versions(page)) = world.ask(Query::ListVersions(query)) else { panic!() };
        assert_eq!(names(&page), expected);
        for entry in &page.entries {
            assert!(
                matches!(entry, PageEntry::Item(_, listed) if listed.latest && listed.version.null_version())
            );
        }
    }
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[ab/é]{1,5}", 0..25)
}

proptest! {
    #![proptest_config(super::world::cases(200))]

    #[test]
    fn pages_of_objects_are_the_set(
        keys in keys(),
        prefix in "[ab/]{0,2}",
        delimiter in prop_oneof!["", "/", "/", "a/", "é"],
        after in "[ab/]{0,3}",
        limit in 1..5_u32,
    ) {
        let world = world_of(&keys.iter().map(String::as_str).collect::<Vec<_>>());
        let expected = model(&keys, &prefix, &delimiter, &after);
        let (mut found, mut position) = (Vec::new(), after);
        loop {
            let page = list(&world, &prefix, &delimiter, &position, limit);
            prop_assert!(page.entries.len() <= limit as usize);
            found.extend(names(&page));
            if !page.more {
                break;
            }
            prop_assert_ne!(&position, &page.position);
            position = page.position;
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn pages_of_versions_are_all_versions_once(
        writes in proptest::collection::vec(("[ab/]{1,2}", 0..4_u8), 0..25),
        prefix in "[ab/]{0,1}",
        delimiter in prop_oneof!["", "/"],
        limit in 1..4_u32,
    ) {
        let mut world = World::new();
        for (name, what) in &writes {
            match what {
                0 => world.set_versioning(Versioning::Suspended),
                1 => world.set_versioning(Versioning::Enabled),
                _ => {}
            }
            if *what == 3 {
                world.delete_one(name, None);
            } else {
                world.put_inline(name, "x");
            }
        }
        world.audit();
        let query = ListVersions {
            bucket: world.bucket,
            prefix,
            delimiter,
            after_key: String::new(),
            after_version: None,
            limit: 1000,
        };
        let whole = versions(&world, query.clone());
        prop_assert!(!whole.more);
        check_versions(&whole);
        let (mut entries, mut next) = (Vec::new(), ListVersions { limit, ..query });
        loop {
            let page = versions(&world, next.clone());
            entries.extend(page.entries);
            if !page.more {
                break;
            }
            next.after_key = page.position;
            next.after_version = page.position_stamp.map(VersionSelector::Stamp);
        }
        prop_assert_eq!(entries, whole.entries);
    }

    #[test]
    fn pages_of_uploads_are_all_uploads_once(
        begun in proptest::collection::vec("[ab/]{1,2}", 0..15),
        delimiter in prop_oneof!["", "/"],
        limit in 1..4_u32,
    ) {
        let mut world = World::new();
        let mut all: Vec<_> = begun.iter().map(|name| (name.clone(), world.create_upload(name))).collect();
        all.sort();
        let (mut items, mut groups) = (Vec::new(), BTreeSet::new());
        let mut next = ListUploads {
            bucket: world.bucket,
            prefix: String::new(),
            delimiter: delimiter.to_string(),
            after_key: String::new(),
            after_upload: None,
            limit,
        };
        loop {
            let Ok(Answer::Uploads(page)) = world.ask(Query::ListUploads(next.clone())) else { panic!() };
            for entry in page.entries {
                match entry {
                    PageEntry::Item(key, upload) => items.push((key.as_str().to_string(), upload.id)),
                    PageEntry::Prefix(group) => prop_assert!(groups.insert(group)),
                }
            }
            if !page.more {
                break;
            }
            next.after_key = page.position;
            next.after_upload = page.position_stamp;
        }
        let grouped = |name: &str| !delimiter.is_empty() && name.contains('/');
        let expected: Vec<_> = all.iter().filter(|(name, _)| !grouped(name)).cloned().collect();
        prop_assert_eq!(items, expected);
        prop_assert_eq!(groups.is_empty(), !all.iter().any(|(name, _)| grouped(name)));
    }
}

/// What a listing gives, computed the slow way.
fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, after: &str) -> Vec<String> {
    let group_of = |key: &str| -> Option<String> {
        if delimiter.is_empty() {
            return None;
        }
        let rest = key.strip_prefix(prefix)?;
        let found = rest.find(delimiter)?;
        Some(key[..prefix.len() + found + delimiter.len()].to_string())
    };
    let mut entries: Vec<String> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix) && after < key.as_str()) {
        let entry = match group_of(key) {
            Some(group) if group == after => continue,
            Some(group) => format!("{group}*"),
            None => key.clone(),
        };
        if entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    entries
}

fn versions(world: &World, query: ListVersions) -> Page<crate::meta::query::ListedVersion> {
    match world.ask(Query::ListVersions(query)) {
        Ok(Answer::Versions(page)) => page,
        answer => panic!("{answer:?}"),
    }
}

/// Keys ascend, stamps descend within a key, and the first of each key is the latest.
fn check_versions(page: &Page<crate::meta::query::ListedVersion>) {
    let mut last: Option<(String, Version)> = None;
    for entry in &page.entries {
        let PageEntry::Item(key, listed) = entry else { continue };
        let same = last.as_ref().is_some_and(|(last, _)| last == key.as_str());
        assert_eq!(listed.latest, !same);
        if let Some((last_key, version)) = &last {
            assert!(last_key.as_str() <= key.as_str());
            assert!(!same || listed.version.stamp() < version.stamp());
        }
        last = Some((key.as_str().to_string(), listed.version.clone()));
    }
}

#[test]
fn a_page_of_versions_goes_on_where_its_version_is_gone() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    let stamps: Vec<_> = (0..4).map(|_| world.put_inline("k", "x").stamp).collect();
    for newest in [3, 2] {
        world.delete_one("k", Some(VersionSelector::Stamp(stamps[newest])));
    }
    let query = ListVersions {
        bucket: world.bucket,
        prefix: String::new(),
        delimiter: String::new(),
        after_key: "k".to_string(),
        after_version: Some(VersionSelector::Stamp(stamps[2])),
        limit: 10,
    };
    let page = versions(&world, query);
    let found = page.entries.iter().map(|entry| match entry {
        PageEntry::Item(found, listed) => {
            assert_eq!(*found, key("k"));
            (listed.version.stamp(), listed.latest)
        }
        PageEntry::Prefix(_) => panic!(),
    });
    assert_eq!(found.collect::<Vec<_>>(), [(stamps[1], true), (stamps[0], false)]);
    world.run(Command::DeleteBucket(crate::meta::command::DeleteBucket { bucket: world.bucket }));
    world.audit();
}
