//! Whether the rows agree with each other: what `apply` keeps true, checked from the outside.
//!
//! Walks all tables and holds the tallies in memory, so it is for tests, the simulator and tools, not for a node
//! at work.

use std::collections::{BTreeMap, BTreeSet};

use fabric::ids::{BucketId, ExtentId, NodeId, Stamp};

use super::due::{due, find, rules_of};
use super::lookup::usage_of_user;
use super::model::{Body, ClusterMs, ClusterRow, Garbage, Home, Lock, Object, SettingKind, Usage, Version};
use super::store::{Fault, Rows};
use super::tables::{
    Acls, AnnotationSets, Bodies, BucketQuotas, BucketSettings, Buckets, Cluster, DebtCounts, Debts,
    Deliveries, Descending, Due, DueWalks, EventMarks, EventOrder, Events, Extents, Garbages, Inline,
    LeavingCopies, Locks, NullVersions, Objects, Parts, Recodings, UploadSealings, Uploads, Usages,
    UserQuotas, Versions, get, owners_of, scan_all, scan_under,
};

/// A home as it sorts.
type Place = (BucketId, String);

/// What the namings add up to.
#[derive(Default)]
struct Tally {
    extents: BTreeMap<(Place, ExtentId), u32>,
    /// Of each body the bytes of the versions that name it.
    bodies: BTreeMap<(Place, Stamp), Vec<u64>>,
    inline: BTreeMap<(Place, Stamp), u64>,
    usages: BTreeMap<BucketId, Usage>,
    problems: Vec<String>,
}

/// Everything that is wrong, in words; empty if all is well.
pub fn audit(rows: &dyn Rows) -> Result<Vec<String>, Fault> {
    let mut tally = Tally::default();
    for row in scan_all::<Buckets>(rows)? {
        tally.usages.insert(row?.0, Usage::default());
    }
    count_versions(rows, &mut tally)?;
    count_uploads(rows, &mut tally)?;
    compare_bodies(rows, &mut tally)?;
    count_garbage(rows, &mut tally)?;
    compare_extents(rows, &mut tally)?;
    compare_usage(rows, &mut tally)?;
    compare_debts(rows, &mut tally)?;
    compare_leaving(rows, &mut tally)?;
    compare_counters(rows, &mut tally)?;
    compare_due(rows, &mut tally)?;
    Ok(tally.problems)
}

fn place(home: &Home) -> Place {
    (home.bucket, home.key.as_str().to_string())
}

impl Tally {
    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(what());
        }
    }

    fn object(&mut self, own: &Home, object: &Object) {
        match self.usages.get_mut(&own.bucket) {
            Some(usage) => {
                usage.objects += 1;
                usage.bytes += object.bytes;
            }
            None => self.problems.push(format!("{own:?} lies in no bucket")),
        }
        match object.body.place() {
            Body::Empty => {
                self.check(object.bytes == 0, || format!("{own:?} is empty with {} bytes", object.bytes))
            }
            Body::Inline(id) => {
                let twice = self.inline.insert((place(own), *id), object.stored_bytes());
                self.check(twice.is_none(), || format!("{own:?} names payload {id} twice"));
            }
            Body::Extent { id, home } | Body::Packed { id, home, .. } => {
                *self.extents.entry((place(home.as_ref().unwrap_or(own)), *id)).or_default() += 1;
            }
            Body::Slices { id, home } => {
                let named = self.bodies.entry((place(home.as_ref().unwrap_or(own)), *id)).or_default();
                named.push(object.bytes);
            }
            Body::Sealed { .. } => self.problems.push(format!("{own:?} is sealed twice")),
        }
    }
}

fn count_versions(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<Objects>(rows)? {
        let (home, object) = row?;
        tally.object(&home, &object);
    }
    let mut newest: Option<Home> = None;
    let mut null_versions = BTreeMap::new();
    for row in scan_all::<Versions>(rows)? {
        let ((home, stamp), version) = row?;
        tally.check(stamp.0 == version.stamp(), || format!("{home:?} {} has another stamp inside", stamp.0));
        if newest.as_ref() != Some(&home) {
            let current = get::<Objects>(rows, &home)?;
            let marker = matches!(version, Version::DeleteMarker { .. });
            let in_order = current.as_ref().map_or(marker, |current| version.stamp() < current.stamp);
            tally.check(in_order, || format!("{home:?} has the wrong current version"));
            newest = Some(home.clone());
        }
        if version.null_version() {
            let current = get::<Objects>(rows, &home)?.is_some_and(|current| current.null_version);
            let twice = null_versions.insert(place(&home), version.stamp()).is_some();
            tally.check(!current && !twice, || format!("{home:?} has two null versions"));
        }
        if let Version::Object(object) = &version {
            tally.object(&home, object);
        }
    }
    for row in scan_all::<NullVersions>(rows)? {
        let (home, stamp) = row?;
        let same = null_versions.remove(&place(&home)) == Some(stamp);
        tally.check(same, || format!("{home:?} names null version {stamp}, which is not there"));
    }
    for row in scan_all::<Locks>(rows)? {
        let ((home, stamp), _) = row?;
        let current = get::<Objects>(rows, &home)?.is_some_and(|current| current.stamp == stamp);
        let other = get::<Versions>(rows, (&home, Descending(stamp)))?;
        let upload = get::<Uploads>(rows, (&home, stamp))?.is_some();
        let version = current || matches!(other, Some(Version::Object(_)));
        tally.check(version || upload, || format!("{home:?} has a lock on {stamp}, which is not there"));
    }
    for row in scan_all::<Recodings>(rows)? {
        let ((home, stamp), ()) = row?;
        let current = get::<Objects>(rows, &home)?.is_some_and(|current| current.stamp == stamp);
        let other = get::<Versions>(rows, (&home, Descending(stamp)))?.is_some();
        tally.check(current || other, || format!("{home:?} is to recode {stamp}, which is not there"));
    }
    count_annotations(rows, tally)?;
    for row in scan_all::<Acls>(rows)? {
        let ((home, stamp), _) = row?;
        let current = get::<Objects>(rows, &home)?.is_some_and(|current| current.stamp == stamp);
        let other = get::<Versions>(rows, (&home, Descending(stamp)))?;
        let upload = get::<Uploads>(rows, (&home, stamp))?.is_some();
        let version = current || matches!(other, Some(Version::Object(_)));
        tally.check(version || upload, || format!("{home:?} has a list of {stamp}, which is not there"));
    }
    tally.check(null_versions.is_empty(), || format!("null versions without a side row: {null_versions:?}"));
    Ok(())
}

fn count_annotations(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<AnnotationSets>(rows)? {
        let ((home, stamp), set) = row?;
        let current = get::<Objects>(rows, &home)?.is_some_and(|current| current.stamp == stamp);
        let other = get::<Versions>(rows, (&home, Descending(stamp)))?;
        let version = current || matches!(other, Some(Version::Object(_)));
        let in_order = set.annotations.windows(2).all(|pair| pair[0].name < pair[1].name);
        tally.check(version && in_order && !set.annotations.is_empty(), || {
            format!("{home:?} has annotations of {stamp}, which is not there, or out of order, or none")
        });
        if let Some(usage) = tally.usages.get_mut(&home.bucket) {
            usage.bytes += set.bytes();
        }
        for annotation in &set.annotations {
            let home = place(&set.home(&home));
            *tally.extents.entry((home, annotation.extent)).or_default() += 1;
        }
    }
    Ok(())
}

fn count_uploads(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<Uploads>(rows)? {
        let ((home, id), _) = row?;
        match tally.usages.get_mut(&home.bucket) {
            Some(usage) => usage.uploads += 1,
            None => tally.problems.push(format!("upload {id} lies in no bucket")),
        }
    }
    for row in scan_all::<UploadSealings>(rows)? {
        let ((home, id), _) = row?;
        let known = get::<Uploads>(rows, (&home, id))?.is_some();
        tally.check(known, || format!("{home:?} has a sealing for upload {id}, which is not there"));
    }
    for row in scan_all::<Parts>(rows)? {
        let ((home, id, number), part) = row?;
        if let Some(usage) = tally.usages.get_mut(&home.bucket) {
            usage.part_bytes += part.bytes;
        }
        let known = get::<Uploads>(rows, (&home, id))?.is_some();
        tally.check(known, || format!("part {number} of {id} has no upload"));
        if let Some(extent) = part.extent {
            *tally.extents.entry((place(&home), extent)).or_default() += 1;
        }
    }
    Ok(())
}

fn compare_bodies(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<Bodies>(rows)? {
        let ((home, id), body) = row?;
        let named = tally.bodies.remove(&(place(&home), id)).unwrap_or_default();
        tally.check(named.len() as u32 == body.references && !named.is_empty(), || {
            format!("body {id} of {home:?} counts {} references and has {}", body.references, named.len())
        });
        let bytes = body.slices.iter().map(|slice| slice.bytes).sum::<u64>();
        tally.check(named.iter().all(|named| *named == bytes), || {
            format!("body {id} of {home:?} has {bytes} bytes and is named with {named:?}")
        });
        for slice in body.slices.iter().filter(|slice| slice.bytes != 0) {
            *tally.extents.entry((place(&home), slice.extent)).or_default() += 1;
        }
    }
    let left = std::mem::take(&mut tally.bodies);
    tally.check(left.is_empty(), || format!("bodies named but not there: {left:?}"));
    for row in scan_all::<Inline>(rows)? {
        let ((home, id), payload) = row?;
        let bytes = tally.inline.remove(&(place(&home), id));
        tally.check(bytes == Some(payload.len() as u64), || {
            format!("payload {id} of {home:?} is named as {bytes:?}")
        });
    }
    let left = std::mem::take(&mut tally.inline);
    tally.check(left.is_empty(), || format!("payloads named but not there: {left:?}"));
    Ok(())
}

/// Extents of bodies that are taken apart are named still.
fn count_garbage(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<Garbages>(rows)? {
        if let (_, Garbage::Body { home, extents }) = row? {
            for extent in extents {
                *tally.extents.entry((place(&home), extent)).or_default() += 1;
            }
        }
    }
    Ok(())
}

fn compare_extents(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    let mut garbage = BTreeSet::new();
    for row in scan_all::<Garbages>(rows)? {
        if let (_, Garbage::Extent(extent)) = row? {
            let twice = !garbage.insert(extent.id);
            tally.check(!twice, || format!("extent {} is garbage twice", extent.id));
        }
    }
    let mut homes = BTreeSet::new();
    for row in scan_all::<Extents>(rows)? {
        let ((home, id), row) = row?;
        let named = tally.extents.remove(&(place(&home), id)).unwrap_or(0);
        tally.check(named == row.references && named != 0, || {
            format!("extent {id} of {home:?} counts {} references and has {named}", row.references)
        });
        tally.check(!garbage.contains(&id), || format!("extent {id} is named and garbage"));
        tally.check(homes.insert(id), || format!("extent {id} has two homes"));
    }
    let left = std::mem::take(&mut tally.extents);
    tally.check(left.is_empty(), || format!("extents named but not there: {left:?}"));
    Ok(())
}

fn compare_usage(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<Usages>(rows)? {
        let (bucket, usage) = row?;
        let counted = tally.usages.remove(&bucket);
        tally.check(counted == Some(usage), || {
            format!("bucket {} says {usage:?} and has {counted:?}", bucket.0)
        });
    }
    let left = std::mem::take(&mut tally.usages);
    tally.check(left.is_empty(), || format!("buckets without usage: {left:?}"));
    for row in scan_all::<UserQuotas>(rows)? {
        let (user, row) = row?;
        let holds = usage_of_user(rows, &user)?;
        tally.check(row.usage == holds, || format!("{user} says {:?} and holds {holds:?}", row.usage));
    }
    Ok(())
}

fn compare_debts(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    let mut counts: BTreeMap<NodeId, u64> = BTreeMap::new();
    for row in scan_all::<Debts>(rows)? {
        let ((home, id, node), _) = row?;
        *counts.entry(node).or_default() += 1;
        let missing = match get::<Extents>(rows, (&home, id))? {
            Some(row) => {
                let owners = owners_of(rows, row.extent.layout, id)?.unwrap_or_default();
                let place = owners.iter().position(|owner| *owner == node);
                place.is_some_and(|place| row.extent.confirmed >> place & 1 == 0)
            }
            None => false,
        };
        tally.check(missing, || format!("node {node} owes extent {id} without need"));
    }
    for row in scan_all::<Extents>(rows)? {
        let ((home, id), row) = row?;
        let owners = owners_of(rows, row.extent.layout, id)?.unwrap_or_default();
        for (place, node) in row.extent.coding().holders(&owners).iter().enumerate() {
            let owed = get::<Debts>(rows, (&home, id, *node))?.is_some();
            let held = row.extent.confirmed >> place & 1 == 1;
            tally.check(owed != held, || format!("nobody owes node {node} the copy of extent {id}"));
        }
    }
    let stored: BTreeMap<NodeId, u64> = scan_all::<DebtCounts>(rows)?.collect::<Result<_, _>>()?;
    tally.check(stored == counts, || format!("debts are counted as {stored:?} and are {counts:?}"));
    Ok(())
}

/// No node removes what it is to hold.
fn compare_leaving(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    for row in scan_all::<LeavingCopies>(rows)? {
        let ((node, home, id), leaving) = row?;
        let Some(row) = get::<Extents>(rows, (&home, id))? else { continue };
        let owners = owners_of(rows, row.extent.layout, id)?.unwrap_or_default();
        let holds = row.extent.coding().shards_on(node, &owners);
        tally
            .check(holds & leaving.shards() == 0, || format!("node {node} holds extent {id} and removes it"));
    }
    Ok(())
}

fn compare_counters(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    let cluster = get::<Cluster>(rows, ())?.unwrap_or_else(ClusterRow::first);
    let mut inline = 0;
    for row in scan_all::<Inline>(rows)? {
        inline += row?.1.len() as u64;
    }
    let events = scan_all::<Events>(rows)?.count() as u64;
    let quotas = scan_all::<BucketQuotas>(rows)?.count() + scan_all::<UserQuotas>(rows)?.count();
    let counted = [
        ("inline bytes", cluster.inline_bytes, inline),
        ("garbage", cluster.garbage, scan_all::<Garbages>(rows)?.count() as u64),
        ("buckets", cluster.buckets, scan_all::<Buckets>(rows)?.count() as u64),
        ("events", cluster.events, events),
        ("quotas", cluster.quotas, quotas as u64),
        ("places of events", scan_all::<EventOrder>(rows)?.count() as u64, events),
    ];
    for row in scan_all::<Deliveries>(rows)? {
        let (bucket, _) = row?;
        let told = get::<BucketSettings>(rows, (bucket, SettingKind::Notifications as u16))?.is_some();
        tally.check(told, || format!("deliveries of {bucket:?}, which has no notifications"));
    }
    for row in scan_all::<EventMarks>(rows)? {
        let (bucket, mark) = row?;
        tally.check(get::<Buckets>(rows, bucket)?.is_some(), || {
            format!("events of {bucket:?}, which is gone")
        });
        let first = scan_under::<Events>(rows, bucket)?.next().transpose()?;
        tally.check(first.is_none_or(|((_, stamp), _)| mark < stamp), || {
            format!("{bucket:?} keeps what was trimmed")
        });
    }
    for (what, says, has) in counted {
        tally.check(says == has, || format!("{what}: counted {says}, there are {has}"));
    }
    Ok(())
}

/// Whatever a rule covers has a hint that is not later than it is due, but for locks and while its bucket is walked.
fn compare_due(rows: &dyn Rows, tally: &mut Tally) -> Result<(), Fault> {
    let mut hints: BTreeMap<(Place, Stamp), ClusterMs> = BTreeMap::new();
    for row in scan_all::<Due>(rows)? {
        let ((due, home, item), ()) = row?;
        hints.entry((place(&home), item)).or_insert(due);
    }
    for row in scan_all::<DueWalks>(rows)? {
        let (bucket, _) = row?;
        let ruled = rules_of(rows, bucket)?.is_some();
        tally.check(ruled, || format!("bucket {} is walked for rules that it has not", bucket.0));
    }
    let items = scan_all::<Objects>(rows)?.map(|row| row.map(|(home, object)| (home, object.stamp)));
    let others = scan_all::<Versions>(rows)?.map(|row| row.map(|((home, stamp), _)| (home, stamp.0)));
    let uploads = scan_all::<Uploads>(rows)?.map(|row| row.map(|(place, _)| place));
    for item in items.chain(others).chain(uploads) {
        let (home, item) = item?;
        let Some(rules) = rules_of(rows, home.bucket)? else { continue };
        if get::<DueWalks>(rows, home.bucket)?.is_some() {
            continue;
        }
        let found = find(rows, &home, item)?;
        let due = found.map(|found| due(rows, &rules, &home, &found)).transpose()?.flatten();
        let Lock { retention, legal_hold } = get::<Locks>(rows, (&home, item))?.unwrap_or_default();
        let from = due.max(due.and(retention.map(|retention| retention.until)));
        let hint = hints.get(&(place(&home), item));
        let told = from.is_none_or(|from| hint.is_some_and(|hint| *hint <= from || legal_hold));
        tally.check(told, || format!("{home:?} {item} is due at {from:?}, and the hint says {hint:?}"));
    }
    Ok(())
}
