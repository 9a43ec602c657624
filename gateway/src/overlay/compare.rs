//! Compares a copy with its source, where events between the two are missing, and copies what differs.
//!
//! Before it begins it notes where the feed of the source is; events go on from there. A version that was stored later is
//! left to its event. Compared are current versions, by tag and time.

use std::collections::BTreeMap;

use consensus::client::ask;
use consensus::meta::model::Object;
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, List, PageEntry, Query};
use consensus::meta::replication::{FollowKind, ReplicateStep};
use fabric::ids::Stamp;
use fabric::limits::LIST_KEYS_MAX;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::copies::{
    ObjectThere, ObjectsThere, VERSIONS_ASKED_MAX, VersionAsked, VersionsAsked, VersionsThere, WhatThere,
};
use super::follow::{Copying, Halt, Told, batches, bundles};

/// What a comparison goes by.
struct Comparison {
    /// How far the copy is.
    cursor: Stamp,
    /// Where events go on.
    noted: Stamp,
}

impl Copying {
    /// Makes the copy equal to its source, and returns where events go on.
    pub(super) async fn compare(&self, cursor: Stamp) -> Result<Stamp, Halt> {
        let noted = self.place(cursor).await?.there.latest.max(cursor);
        tracing::info!(bucket = %self.bucket.name, cluster = %self.link.name, "a copy is compared with its source");
        let comparison = Comparison { cursor, noted };
        let mut after = String::new();
        loop {
            let key = utf8_percent_encode(&after, NON_ALPHANUMERIC);
            let there: ObjectsThere = self.link.get(&self.path("objects", &format!("after={key}"))).await?;
            let upto = there.upto.clone();
            self.compare_page(&comparison, &after, there).await?;
            match upto {
                Some(key) => after = key.as_str().to_string(),
                None => break,
            }
        }
        let end = self.place(cursor).await?.there;
        let step = ReplicateStep::Compared { upto: end.latest };
        self.propose(step, (cursor, noted), end.now_ms, Vec::new()).await?;
        Ok(noted)
    }

    /// Compares the keys behind `after` as far as the page goes.
    async fn compare_page(
        &self,
        comparison: &Comparison,
        after: &str,
        there: ObjectsThere,
    ) -> Result<(), Halt> {
        let ObjectsThere { now_ms, objects, upto } = there;
        let mut theirs: BTreeMap<ObjectKey, ObjectThere> =
            objects.into_iter().map(|object| (object.key.clone(), object)).collect();
        let mut after = after.to_string();
        loop {
            let (ours, more) = self.own_page(&after).await?;
            let last = ours.last().map(|(key, _)| key.clone());
            let mut absent = Vec::new();
            for (key, object) in ours {
                if upto.as_ref().is_some_and(|upto| *upto < key) {
                    break;
                }
                match theirs.get(&key) {
                    Some(found) if is_same(found, &object) => drop(theirs.remove(&key)),
                    Some(_) => {}
                    None => absent.push(key),
                }
            }
            self.hide(comparison, now_ms, &absent).await?;
            match last.filter(|last| more && upto.as_ref().is_none_or(|upto| last < upto)) {
                Some(last) => after = last.as_str().to_string(),
                None => break,
            }
        }
        let wanted: Vec<ObjectThere> =
            theirs.into_values().filter(|object| object.version <= comparison.noted).collect();
        for some in wanted.chunks(VERSIONS_ASKED_MAX) {
            self.bring(comparison, some).await?;
        }
        Ok(())
    }

    /// Current versions here behind a key, and whether there are more.
    async fn own_page(&self, after: &str) -> Result<(Vec<(ObjectKey, Object)>, bool), Halt> {
        let list = List {
            bucket: self.bucket.id,
            prefix: String::new(),
            delimiter: String::new(),
            after: after.to_string(),
            limit: LIST_KEYS_MAX,
        };
        let Answer::List(page) = ask(&*self.overlay.parts.meta, Query::List(list)).await? else {
            return Err(Halt::Moved);
        };
        let items = page.entries.into_iter().filter_map(|entry| match entry {
            PageEntry::Item(key, object) => Some((key, object)),
            PageEntry::Prefix(_) => None,
        });
        Ok((items.collect(), page.more))
    }

    /// Hides what is not there any more. Where others write, too, it may be theirs.
    async fn hide(&self, comparison: &Comparison, now_ms: u64, absent: &[ObjectKey]) -> Result<(), Halt> {
        if self.kind == FollowKind::Replica {
            return Ok(());
        }
        let noted = comparison.noted;
        // Of a key with nothing left nobody knows when it went; it was at `noted`.
        let nothing_left = WhatThere::Marker { modified_ms: now_ms, version: Some(noted) };
        for some in absent.chunks(VERSIONS_ASKED_MAX) {
            let asked =
                |key: &ObjectKey| VersionAsked { key: key.clone(), version: Stamp::ZERO, parts: false };
            let asked = VersionsAsked { versions: some.iter().map(asked).collect() };
            let there: VersionsThere = self.link.post(&self.path("versions", ""), &asked).await?;
            let marker = |what| match what {
                Some(marker @ WhatThere::Marker { version: Some(_), .. }) => marker,
                _ => nothing_left.clone(),
            };
            let markers: Vec<WhatThere> = there.versions.into_iter().map(marker).collect();
            let changes = some.iter().zip(&markers).map(|(key, marker)| (noted, now_ms, key, marker));
            self.put(comparison, changes.collect()).await?;
        }
        Ok(())
    }

    /// Copies versions.
    async fn bring(&self, comparison: &Comparison, wanted: &[ObjectThere]) -> Result<(), Halt> {
        let asked = |object: &ObjectThere| VersionAsked {
            key: object.key.clone(),
            version: object.version,
            parts: false,
        };
        let asked = VersionsAsked { versions: wanted.iter().map(asked).collect() };
        let there: VersionsThere = self.link.post(&self.path("versions", ""), &asked).await?;
        let found = wanted.iter().zip(&there.versions);
        let changes = found.filter_map(|(object, what)| {
            Some((object.version, object.modified_ms, &object.key, what.as_ref()?))
        });
        self.put(comparison, changes.collect()).await
    }

    async fn put(&self, comparison: &Comparison, changes: Vec<Told<'_>>) -> Result<(), Halt> {
        let cursor = comparison.cursor;
        for some in bundles(changes) {
            for batch in batches(self.prepare(some).await?) {
                self.propose(ReplicateStep::Compare, (cursor, cursor), 0, batch).await?;
            }
        }
        Ok(())
    }
}

fn is_same(there: &ObjectThere, here: &Object) -> bool {
    (there.etag, there.modified_ms) == (here.etag, here.modified.0)
}
