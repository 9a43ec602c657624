//! What the rules of a bucket say of the rows that are there now: what `apply` and the audit share.

use std::collections::BTreeMap;

use fabric::ids::{BucketId, Stamp};

use super::lifecycle::{Lifecycle, Subject};
use super::model::{
    Bucket, BucketSetting, ClusterMs, Home, Object, SettingKind, Upload, Version, Versioning,
};
use super::store::{Fault, Rows};
use super::tables::{
    BucketSettings, Descending, Objects, Uploads, Versions, get, last_before, scan_after, scan_under,
};

/// Versions of one key that are counted to see how many are newer than another. More than rules may keep, so that
/// delete markers between them do no harm.
const VERSIONS_COUNTED_MAX: usize = 1_000;

/// Something that a rule may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// The current version of a key.
    Current(Object),
    /// A delete marker that hides its key; `alone`: it is all that is left of it.
    Marker { version: Version, alone: bool },
    /// A version that is not current since a time, or a delete marker behind a newer version.
    Noncurrent { version: Version, since: ClusterMs },
    /// An upload in progress.
    Upload(Upload),
}

impl Item {
    /// The object, if it is a version with one.
    pub(super) fn object(&self) -> Option<&Object> {
        match self {
            Item::Current(object) | Item::Noncurrent { version: Version::Object(object), .. } => Some(object),
            Item::Noncurrent { .. } | Item::Marker { .. } | Item::Upload(_) => None,
        }
    }
}

/// The rules of a bucket; `None`: it has none.
pub(super) fn rules_of(rows: &dyn Rows, bucket: BucketId) -> Result<Option<Lifecycle>, Fault> {
    let setting = get::<BucketSettings>(rows, (bucket, SettingKind::Lifecycle as u16))?;
    Ok(setting.and_then(BucketSetting::into_lifecycle))
}

/// What has this stamp under a key; `None`: it is gone.
pub(super) fn find(rows: &dyn Rows, home: &Home, stamp: Stamp) -> Result<Option<Item>, Fault> {
    let current = get::<Objects>(rows, home)?;
    if let Some(object) = current.clone().filter(|object| object.stamp == stamp) {
        return Ok(Some(Item::Current(object)));
    }
    let Some(version) = get::<Versions>(rows, (home, Descending(stamp)))? else {
        return Ok(get::<Uploads>(rows, (home, stamp))?.map(Item::Upload));
    };
    // Newer ones come first.
    let newer = last_before::<Versions>(rows, home, (home, Descending(stamp)))?;
    let newer = newer.map(|(_, newer)| newer.modified()).or(current.map(|object| object.modified));
    Ok(Some(match newer {
        Some(since) => Item::Noncurrent { version, since },
        None => {
            let older = scan_after::<Versions>(rows, home, (home, Descending(stamp)))?.next().transpose()?;
            Item::Marker { version, alone: older.is_none() }
        }
    }))
}

/// When a rule is due for what is there; `None`: never, as things are.
pub(super) fn due(
    rows: &dyn Rows,
    rules: &Lifecycle,
    home: &Home,
    item: &Item,
) -> Result<Option<ClusterMs>, Fault> {
    let key = home.key.as_str();
    Ok(match item {
        Item::Current(object) => rules.next(key, object),
        Item::Marker { version, alone: true } => rules.lone_marker(key, version.modified()),
        Item::Marker { alone: false, .. } => None,
        Item::Noncurrent { version, since } => {
            let newer = newer_noncurrent(rows, home, version.stamp(), rules.newer_versions_max())?;
            rules.next_of_noncurrent(key, version, *since, newer)
        }
        Item::Upload(upload) => rules.upload(key, upload.initiated).map(|(due, _)| due),
    })
}

/// When something is to be removed; `None`: never, as things are.
pub(super) fn removal(
    rows: &dyn Rows,
    rules: &Lifecycle,
    home: &Home,
    item: &Item,
) -> Result<Option<ClusterMs>, Fault> {
    let key = home.key.as_str();
    Ok(match item {
        Item::Current(object) => rules.current(Subject::of(key, object)).map(|(due, _)| due),
        Item::Noncurrent { version, since } => {
            let newer = newer_noncurrent(rows, home, version.stamp(), rules.newer_versions_max())?;
            rules.noncurrent(key, version, *since, newer)
        }
        Item::Marker { .. } | Item::Upload(_) => due(rows, rules, home, item)?,
    })
}

/// When a version is to be moved to another class, and to which.
pub(super) fn transition<'a>(
    rows: &dyn Rows,
    rules: &'a Lifecycle,
    home: &Home,
    item: &Item,
) -> Result<Option<(ClusterMs, &'a str)>, Fault> {
    let key = home.key.as_str();
    Ok(match item {
        Item::Current(object) => rules.transition(key, object),
        Item::Noncurrent { version: Version::Object(object), since } => {
            let newer = newer_noncurrent(rows, home, object.stamp, rules.newer_versions_max())?;
            rules.noncurrent_transition(key, object, *since, newer)
        }
        Item::Noncurrent { .. } | Item::Marker { .. } | Item::Upload(_) => None,
    })
}

/// How many versions of a key are not current and newer than this one, delete markers not counted; at most `most`.
fn newer_noncurrent(rows: &dyn Rows, home: &Home, stamp: Stamp, most: usize) -> Result<usize, Fault> {
    let mut newer = 0;
    if most == 0 {
        return Ok(newer);
    }
    for row in scan_under::<Versions>(rows, home)?.take(VERSIONS_COUNTED_MAX) {
        let ((_, found), version) = row?;
        if found.0 <= stamp || newer == most {
            break;
        }
        newer += usize::from(matches!(version, Version::Object(_)));
    }
    Ok(newer)
}

/// What one command changes of when things under a key are due: its latest version, those that are not current since
/// then, and the one that becomes one too many. The others stay as they are, or are due later than their hints say.
pub(super) fn around_latest(
    rows: &dyn Rows,
    rules: &Lifecycle,
    bucket: &Bucket,
    home: &Home,
) -> Result<BTreeMap<Stamp, Option<ClusterMs>>, Fault> {
    let (key, kept) = (home.key.as_str(), rules.newer_versions_max());
    let mut dues = BTreeMap::new();
    let current = get::<Objects>(rows, home)?;
    if let Some(object) = &current {
        dues.insert(object.stamp, rules.next(key, object));
    }
    if bucket.versioning == Versioning::Off {
        return Ok(dues);
    }
    let (mut since, mut newer, mut marker) = (current.map(|object| object.modified), 0, None);
    for (place, row) in scan_under::<Versions>(rows, home)?.take(VERSIONS_COUNTED_MAX).enumerate() {
        let ((_, stamp), version) = row?;
        match since {
            None => marker = Some((stamp.0, version.modified())),
            Some(since) => {
                dues.insert(stamp.0, rules.next_of_noncurrent(key, &version, since, newer));
                newer += usize::from(matches!(version, Version::Object(_)));
                if let Some((hiding, _)) = marker.take() {
                    dues.insert(hiding, None);
                }
            }
        }
        since = Some(version.modified());
        if 1 <= place && kept < newer {
            break;
        }
    }
    if let Some((alone, modified)) = marker {
        dues.insert(alone, rules.lone_marker(key, modified));
    }
    Ok(dues)
}
