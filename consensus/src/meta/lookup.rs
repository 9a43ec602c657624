//! Finding versions of a key, and what a user holds: what `apply` and the answers share.

use super::command::VersionSelector;
use super::model::{Home, Object, Usage, Version};
use super::names::UserName;
use super::store::{Fault, Rows};
use super::tables::{BucketsByOwner, Descending, NullVersions, Objects, Usages, Versions, get, scan_under};

/// A version and where its row is.
pub(super) enum Found {
    /// In the table of current versions.
    Current(Object),
    /// Among the others.
    Other(Version),
}

/// The version that clients mean by `selector`. The stamp of a null version is not its name.
pub(super) fn find(rows: &dyn Rows, home: &Home, selector: VersionSelector) -> Result<Option<Found>, Fault> {
    let current = get::<Objects>(rows, home)?;
    let stamp = match selector {
        VersionSelector::Null => match current {
            Some(object) if object.null_version => return Ok(Some(Found::Current(object))),
            _ => match get::<NullVersions>(rows, home)? {
                Some(stamp) => stamp,
                None => return Ok(None),
            },
        },
        VersionSelector::Stamp(stamp) => match current {
            Some(object) if object.stamp == stamp => {
                return Ok((!object.null_version).then_some(Found::Current(object)));
            }
            _ => stamp,
        },
    };
    let version = get::<Versions>(rows, (home, Descending(stamp)))?;
    let named = version.filter(|version| version.null_version() == (selector == VersionSelector::Null));
    Ok(named.map(Found::Other))
}

/// The newest of the versions that are not current: a marker, unless there is a current one.
pub(super) fn newest_other(rows: &dyn Rows, home: &Home) -> Result<Option<Version>, Fault> {
    Ok(scan_under::<Versions>(rows, home)?.next().transpose()?.map(|(_, version)| version))
}

/// What all buckets of a user hold together.
pub(super) fn usage_of_user(rows: &dyn Rows, user: &UserName) -> Result<Usage, Fault> {
    let mut sum = Usage::default();
    for row in scan_under::<BucketsByOwner>(rows, user)? {
        sum += get::<Usages>(rows, row?.1)?.unwrap_or_default();
    }
    Ok(sum)
}
