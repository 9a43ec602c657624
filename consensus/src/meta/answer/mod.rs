//! Answers queries from one view of the rows. Reads only what the answer needs and a bounded part beyond it; every
//! answer fits a frame.

mod changes;
mod list;
mod moves;
mod object;
mod overlay;
mod work;

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use fabric::ids::{BucketId, LayoutVersion, Stamp};
use fabric::limits::{BUCKETS_PER_USER_MAX, LIST_KEYS_MAX};

use super::command::Reject;
use super::lookup::usage_of_user;
use super::model::{Attributes, Bucket, ClusterRow, Home, Quota, QuotaOf, Usage, UserQuota};
use super::names::{AccessKeyId, BucketName, ObjectKey, UserName};
use super::query::{Answer, Answered, PartsPage, Query, Status, Want};
use super::store::{Fault, Rows};
use super::tables::{
    AccessKeys, Acls, BucketNames, BucketQuotas, BucketSettings, Buckets, BucketsByOwner, Cluster,
    DebtCounts, Events, Holds, KeysByUser, Locks, Nodes, Parts, Sessions, UploadSealings, Uploads, Usages,
    UserPolicies, UserQuotas, Users, as_upper, get, get_layout, key_bytes, scan, scan_after, scan_all,
    scan_under, successor,
};

/// Answers `query` from a view whose applied index is `index`.
pub fn answer(rows: &dyn Rows, index: u64, query: &Query) -> Result<Answered, Fault> {
    let answer = match decide(rows, query) {
        Ok(answer) => Ok(answer),
        Err(Stop::Reject(reject)) => Err(reject),
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    Ok(Answered { index, answer })
}

/// Why there is no answer.
enum Stop {
    /// What is asked about does not exist.
    Reject(Reject),
    /// The rows cannot be read.
    Fault(Fault),
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Stop {
        Stop::Reject(reject)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

fn decide(rows: &dyn Rows, query: &Query) -> Result<Answer, Stop> {
    Ok(match query {
        Query::Bucket(name) => Answer::Bucket(bucket_by_name(rows, name)?),
        Query::Buckets { owner, prefix, after, limit } => {
            buckets(rows, owner.as_ref(), prefix, after.as_deref(), *limit)?
        }
        Query::Usage(bucket) => Answer::Usage(get::<Usages>(rows, *bucket)?.ok_or(Reject::NoSuchBucket)?),
        Query::Object { bucket, key, version, want } => {
            let home = home_in(rows, *bucket, key)?;
            Answer::Object(object::view(rows, &home, *version, *want)?)
        }
        Query::List(list) => {
            must_exist(rows, list.bucket)?;
            Answer::List(list::objects(rows, list)?)
        }
        Query::ListVersions(list) => {
            must_exist(rows, list.bucket)?;
            Answer::Versions(list::versions(rows, list)?)
        }
        Query::ListUploads(list) => {
            must_exist(rows, list.bucket)?;
            Answer::Uploads(list::uploads(rows, list)?)
        }
        Query::Parts { bucket, key, upload, after, limit } => {
            let home = home_in(rows, *bucket, key)?;
            Answer::Parts(parts(rows, &home, *upload, *after, *limit)?)
        }
        Query::AccessKey(id) => Answer::AccessKey(get::<AccessKeys>(rows, id)?),
        Query::Users => Answer::Users(users(rows)?),
        Query::Status => Answer::Status(status(rows)?),
        Query::Layout(version) => Answer::Layout(layout(rows, *version)?),
        Query::Sessions => Answer::Sessions(scan_all::<Sessions>(rows)?.collect::<Result<_, _>>()?),
        Query::Debts { node, after, limit } => {
            Answer::Debts(work::debts(rows, *node, after.as_ref(), *limit)?)
        }
        Query::Garbage { after, limit } => Answer::Garbage(work::garbage(rows, *after, *limit)?),
        Query::Named(extents) => Answer::Named(work::named(rows, extents)?),
        Query::NamedNow(extents) => Answer::Named(work::named_now(rows, extents)?),
        Query::Events { bucket, after, limit } => events(rows, *bucket, *after, *limit)?,
        Query::Changes { bucket, after, limit } => changes::of_bucket(rows, *bucket, *after, *limit)?,
        Query::AllChanges { after, limit } => changes::of_all(rows, *after, *limit)?,
        Query::Deliveries { after, limit } => changes::deliveries(rows, *after, *limit)?,
        Query::Overlay => overlay::state(rows)?,
        Query::Catalog { after, limit } => overlay::catalog(rows, *after, *limit)?,
        Query::Follows => overlay::follows(rows)?,
        Query::Acknowledged(bucket) => overlay::acknowledged(rows, *bucket)?,
        Query::Promotions => overlay::promotions(rows)?,
        Query::SettingsOf { kind, after, limit } => overlay::settings_of(rows, *kind, *after, *limit)?,
        Query::Heard { from, limit } => overlay::heard(rows, from.as_ref(), *limit)?,
        Query::Replications { after, limit } => overlay::replications(rows, *after, *limit)?,
        Query::OldUploads { age_ms, after, limit } => {
            work::old_uploads(rows, Duration::from_millis(*age_ms), after.as_ref(), *limit)?
        }
        Query::Absences(node) => Answer::Absences(work::absences(rows, *node)?),
        Query::Placed { node, of, after, limit } => work::placed(rows, *node, *of, after.as_ref(), *limit)?,
        Query::Inline { above, after, before, bytes } => {
            Answer::Inline(work::inline(rows, *above, after.as_ref(), *before, *bytes)?)
        }
        Query::Members => members(rows)?,
        Query::Moving { node, after, limit } => moves::moving(rows, *node, after.as_ref(), *limit)?,
        Query::Leaving { node, after, limit } => moves::leaving(rows, *node, after.as_ref(), *limit)?,
        Query::Extents { after, limit } => moves::extents(rows, after.as_ref(), *limit)?,
        Query::Hold => Answer::Hold(get::<Holds>(rows, ())?),
        Query::Quota(of) => quota(rows, of)?,
        Query::Lock { bucket, key, version } => {
            let home = home_in(rows, *bucket, key)?;
            Answer::Lock(get::<Locks>(rows, (&home, *version))?.unwrap_or_default())
        }
        Query::Acl { bucket, key, version } => {
            let home = home_in(rows, *bucket, key)?;
            let view = object::view(rows, &home, *version, Want::Row)?;
            Answer::Acl(get::<Acls>(rows, (&home, view.object.stamp))?)
        }
        Query::Owners { bucket, versions } => {
            must_exist(rows, *bucket)?;
            let owner = |(key, stamp): &(ObjectKey, Stamp)| {
                let home = Home { bucket: *bucket, key: key.clone() };
                Ok::<_, Fault>(get::<Acls>(rows, (&home, *stamp))?.map(|acl| acl.owner))
            };
            let asked = versions.iter().take(LIST_KEYS_MAX as usize);
            Answer::Owners(asked.map(owner).collect::<Result<_, Fault>>()?)
        }
        Query::Upload { bucket, key, upload } => {
            let home = home_in(rows, *bucket, key)?;
            let row = get::<Uploads>(rows, (&home, *upload))?.ok_or(Reject::NoSuchUpload)?;
            Answer::Upload { upload: row, sealing: get::<UploadSealings>(rows, (&home, *upload))? }
        }
        Query::Setting { bucket, kind } => {
            must_exist(rows, *bucket)?;
            Answer::Setting(get::<BucketSettings>(rows, (*bucket, *kind as u16))?)
        }
        Query::Settings(bucket) => {
            must_exist(rows, *bucket)?;
            let settings =
                scan_under::<BucketSettings>(rows, bucket)?.map(|row| row.map(|(_, setting)| setting));
            Answer::Settings(Arc::new(settings.collect::<Result<_, _>>()?))
        }
        Query::UserPolicies(user) => {
            let policies = scan_under::<UserPolicies>(rows, user)?;
            let named = policies.map(|row| row.map(|((_, name), document)| (name, document)));
            Answer::UserPolicies(Arc::new(named.collect::<Result<_, _>>()?))
        }
        Query::Recoding { after } => Answer::Recoding(work::recoding(rows, after.as_ref())?),
        Query::Due { after, limit } => Answer::Due(work::due(rows, after.as_ref(), *limit)?),
        Query::Annotations { bucket, key, version, name } => {
            let home = home_in(rows, *bucket, key)?;
            Answer::Annotations(object::annotations(rows, &home, *version, name.as_ref())?)
        }
        Query::LayoutUse { after } => moves::layout_use(rows, after.as_ref())?,
    })
}

fn members(rows: &dyn Rows) -> Result<Answer, Fault> {
    let nodes = scan_all::<Nodes>(rows)?.map(|row| row.map(|(_, node)| node)).collect::<Result<_, _>>()?;
    Ok(Answer::Members { nodes, layout: newest_layout(rows)? })
}

fn newest_layout(rows: &dyn Rows) -> Result<LayoutVersion, Fault> {
    Ok(get::<Cluster>(rows, ())?.map_or(LayoutVersion(0), |cluster| cluster.layout))
}

fn quota(rows: &dyn Rows, of: &QuotaOf) -> Result<Answer, Stop> {
    let (quota, usage) = match of {
        QuotaOf::Bucket(bucket) => {
            let usage = get::<Usages>(rows, *bucket)?.ok_or(Reject::NoSuchBucket)?;
            (get::<BucketQuotas>(rows, *bucket)?.unwrap_or_default(), usage)
        }
        QuotaOf::User(name) => {
            get::<Users>(rows, name)?.ok_or(Reject::NoSuchUser)?;
            match get::<UserQuotas>(rows, name)? {
                Some(UserQuota { quota, usage }) => (quota, usage),
                None => (Quota::default(), usage_of_user(rows, name)?),
            }
        }
    };
    Ok(Answer::Quota { quota, usage })
}

/// A limit of a query as a number of rows that fit a frame.
fn bounded(limit: u32) -> usize {
    limit.min(LIST_KEYS_MAX) as usize
}

fn must_exist(rows: &dyn Rows, bucket: BucketId) -> Result<(), Stop> {
    if get::<Buckets>(rows, bucket)?.is_none() {
        return Err(Reject::NoSuchBucket.into());
    }
    Ok(())
}

fn home_in(rows: &dyn Rows, bucket: BucketId, key: &ObjectKey) -> Result<Home, Stop> {
    must_exist(rows, bucket)?;
    Ok(Home { bucket, key: key.clone() })
}

fn bucket_by_name(rows: &dyn Rows, name: &BucketName) -> Result<Option<Bucket>, Fault> {
    get::<BucketNames>(rows, name)?.map(|id| bucket_of(rows, id)).transpose()
}

fn bucket_of(rows: &dyn Rows, id: BucketId) -> Result<Bucket, Fault> {
    get::<Buckets>(rows, id)?.ok_or_else(|| Fault::new("read bucket", format!("bucket {} has no row", id.0)))
}

/// Buckets of one owner or of all, in order of name.
fn buckets(
    rows: &dyn Rows,
    owner: Option<&UserName>,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Answer, Fault> {
    let leading = owner.map_or_else(Vec::new, key_bytes);
    let under = |text: &str, end: &[u8]| [&leading, text.as_bytes(), end].concat();
    let from_prefix = under(prefix, b"");
    let behind = after.map(|after| under(after, b"\0")).filter(|behind| from_prefix < *behind);
    let lower = behind.as_deref().map_or(Bound::Included(from_prefix.as_slice()), Bound::Excluded);
    let upper = successor(&from_prefix);
    let ids: Box<dyn Iterator<Item = Result<BucketId, Fault>>> = match owner {
        Some(_) => {
            Box::new(scan::<BucketsByOwner>(rows, lower, as_upper(&upper))?.map(|row| row.map(|(_, id)| id)))
        }
        None => {
            Box::new(scan::<BucketNames>(rows, lower, as_upper(&upper))?.map(|row| row.map(|(_, id)| id)))
        }
    };
    let limit = u64::from(limit).min(BUCKETS_PER_USER_MAX) as usize;
    let mut buckets = Vec::new();
    for id in ids {
        if buckets.len() == limit {
            return Ok(Answer::Buckets { buckets, more: limit != 0 });
        }
        buckets.push(bucket_of(rows, id?)?);
    }
    Ok(Answer::Buckets { buckets, more: false })
}

fn parts(rows: &dyn Rows, home: &Home, id: Stamp, after: u16, limit: u32) -> Result<PartsPage, Stop> {
    let upload = get::<Uploads>(rows, (home, id))?.ok_or(Reject::NoSuchUpload)?;
    let mut scan = scan_after::<Parts>(rows, (home, id), (home, id, after))?;
    let parts =
        scan.by_ref().take(bounded(limit)).map(|row| row.map(|(_, part)| part)).collect::<Result<_, _>>()?;
    let more = limit != 0 && scan.next().transpose()?.is_some();
    Ok(PartsPage { upload, parts, more })
}

fn users(rows: &dyn Rows) -> Result<Vec<(super::model::User, Vec<AccessKeyId>)>, Fault> {
    let mut users = Vec::new();
    for row in scan_all::<Users>(rows)? {
        let (name, user) = row?;
        let keys = scan_under::<KeysByUser>(rows, &name)?.map(|row| row.map(|((_, id), ())| id));
        users.push((user, keys.collect::<Result<_, _>>()?));
    }
    Ok(users)
}

fn status(rows: &dyn Rows) -> Result<Status, Fault> {
    let cluster = get::<Cluster>(rows, ())?.unwrap_or_else(ClusterRow::first);
    let mut usage = Usage::default();
    for row in scan_all::<Usages>(rows)? {
        usage += row?.1;
    }
    Ok(Status {
        nodes: scan_all::<Nodes>(rows)?.map(|row| row.map(|(_, node)| node)).collect::<Result<_, _>>()?,
        debts: scan_all::<DebtCounts>(rows)?.collect::<Result<_, _>>()?,
        garbage: cluster.garbage,
        buckets: cluster.buckets,
        usage,
        sessions: scan_all::<Sessions>(rows)?.count() as u64,
        absences: work::absences_by_node(rows)?,
        cluster,
    })
}

fn layout(
    rows: &dyn Rows,
    version: Option<LayoutVersion>,
) -> Result<Option<fabric::placement::Layout>, Fault> {
    let newest = || Ok::<_, Fault>(get::<Cluster>(rows, ())?.map(|cluster| cluster.layout));
    match version.map_or_else(newest, |version| Ok(Some(version)))? {
        Some(version) => get_layout(rows, version),
        None => Ok(None),
    }
}

fn events(rows: &dyn Rows, bucket: BucketId, after: Option<Stamp>, limit: u32) -> Result<Answer, Fault> {
    let scan = match after {
        Some(after) => scan_after::<Events>(rows, bucket, (bucket, after))?,
        None => scan_under::<Events>(rows, bucket)?,
    };
    let events = scan.take(bounded(limit)).map(|row| row.map(|((_, stamp), event)| (stamp, event)));
    Ok(Answer::Events(events.collect::<Result<_, _>>()?))
}

/// Attributes as listings show them.
fn listed(attributes: Attributes) -> Attributes {
    Attributes { storage_class: attributes.storage_class, ..Attributes::default() }
}
