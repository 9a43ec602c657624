//! Copies of buckets: which buckets here are copied elsewhere, and which ones here are copies.
//!
//! The cluster of the copy reads the change feed of the source and writes what it finds. How far it came is in the same
//! metadata as the copy, and both change by the same command: so nothing is copied twice, and nothing is left out.

use fabric::ids::{BucketId, SessionId, Stamp};
use serde::{Deserialize, Serialize};

use super::command::NewBody;
use super::model::{Attributes, Bucket, Checksum, ClusterMs, Etag, Extent, Lock, Tags};
use super::names::{BucketName, ClusterName, ObjectKey};
use super::sealing::Sealing;

/// What an owner wants copied to other clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// As it was written; here it means nothing.
    pub role: String,
    /// At most [`fabric::limits::REPLICATION_RULES_MAX`].
    pub rules: Vec<ReplicationRule>,
    /// What happened later is copied.
    pub since: Stamp,
}

impl Replication {
    /// Whether a rule that counts names a bucket of another cluster.
    pub fn names(&self, to: &Source) -> bool {
        let is_meant = |rule: &ReplicationRule| (&rule.cluster, &rule.bucket) == (&to.cluster, &to.bucket);
        self.rules.iter().any(|rule| rule.enabled && is_meant(rule))
    }
}

/// One rule of a [`Replication`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationRule {
    /// Unique in its configuration.
    pub id: String,
    /// Of the rules that fit an object, the one with the largest decides.
    pub priority: u32,
    /// Whether it counts.
    pub enabled: bool,
    /// How it says which objects it is for.
    pub form: ReplicationFilter,
    /// Only keys that begin with it.
    pub prefix: String,
    /// Only objects with all of these.
    pub tags: Tags,
    /// The bucket as the rule names it.
    pub destination: BucketName,
    /// The cluster that has it.
    pub cluster: ClusterName,
    /// Its name there.
    pub bucket: BucketName,
    /// As it was written: the account of the destination.
    pub account: Option<String>,
    /// The storage class of copies; `None`: that of the source.
    pub storage_class: Option<String>,
    /// Whether delete markers are copied; `None` where the rule does not say, which is yes in the oldest form.
    pub markers: Option<bool>,
    /// Whether what was there before is copied, too.
    pub existing: Option<bool>,
}

/// How a rule says which objects it is for. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicationFilter {
    /// A prefix beside the other elements, as in the oldest form.
    Old,
    /// A filter with nothing in it.
    Empty,
    /// A filter with a prefix.
    Prefix,
    /// A filter with a tag.
    Tag,
    /// A filter with several conditions.
    And,
}

/// A bucket of another cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Its name there.
    pub bucket: BucketName,
}

/// Why a bucket here follows another one. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FollowKind {
    /// It is a copy of all of that, and nobody else writes to it.
    Mirror,
    /// The owner of that bucket wants copies here; others write here, too.
    Replica,
}

/// A bucket here that follows one of another cluster, and how far it came. Keyed (bucket, cluster, bucket there).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Why.
    pub kind: FollowKind,
    /// Number of the bucket there: one of the same name with another number is another bucket.
    pub source: BucketId,
    /// The last event there that was copied, or is of no interest here.
    pub cursor: Stamp,
    /// When that happened, in the time of that cluster.
    pub reached: ClusterMs,
    /// Both sides are to be compared, as events are missing between the cursor and the next one.
    pub compare: bool,
    /// Up to here the comparison may have found what events tell again.
    pub compared: Stamp,
    /// Since when it follows.
    pub since: ClusterMs,
    /// Versions that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// All buckets here that follow others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The session that copies, or did.
    pub follower: Option<SessionId>,
    /// Whether it lives.
    pub follower_lives: bool,
    /// In order of bucket and source.
    pub follows: Vec<(Bucket, Source, Follow)>,
}

/// How far a copy in another cluster is, as that said some seconds ago. Keyed (bucket, cluster, bucket there).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// What happened until then was before the first rules that named the copy: it is not copied, or nobody knows.
    pub first: Stamp,
    /// What happened until then is in the copy, or is of no interest there.
    pub upto: Stamp,
}

/// A bucket here whose copy in another cluster took its place: nobody writes to it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    /// What is written instead.
    pub by: Source,
    /// What happened here later that one may not have.
    pub at: Stamp,
    /// Since when.
    pub since: ClusterMs,
}

/// A bucket here took the place of the one that it followed, while that one was away: its cluster is still to hear of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Number of the bucket there.
    pub source: BucketId,
    /// The last event there that was copied.
    pub cursor: Stamp,
    /// Since when.
    pub since: ClusterMs,
}

/// All buckets here whose place was taken, and all that took the place of one that does not know yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotions {
    /// In order of bucket.
    pub superseded: Vec<(Bucket, Superseded)>,
    /// In order of bucket and source.
    pub promoted: Vec<(Bucket, Source, Promotion)>,
}

/// Copies changes of a bucket. Refused with [`super::overlay::OverlayRefusal::Moved`] where the copy is not at `after`, so
/// that nothing is copied twice. Done: [`super::command::Done::Replicated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicate {
    /// The copy.
    pub bucket: BucketId,
    /// Of which bucket.
    pub source: Source,
    /// How far the copy has to be.
    pub after: Stamp,
    /// How far it is then.
    pub upto: Stamp,
    /// When that was, in the time of the source.
    pub reached: ClusterMs,
    /// How the changes were found.
    pub step: ReplicateStep,
    /// In order. The first one that is refused ends it; what was before it stays.
    pub changes: Vec<ReplicaChange>,
}

/// How the changes of a [`Replicate`] were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicateStep {
    /// They are events. Refused while both sides are to be compared.
    Feed,
    /// By comparing both sides: a change that is there already, or older than what is there, is passed over, and the copy
    /// stays at `after`. One that keeps its id is not passed over for its age, and is refused from a session that does not
    /// copy any more.
    Compare,
    /// The comparison ended: events go on behind `upto`.
    Compared {
        /// What was found may have happened up to here.
        upto: Stamp,
    },
}

/// One change of a [`Replicate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaChange {
    /// The event at the source.
    pub at: Stamp,
    /// When.
    pub reached: ClusterMs,
    /// To which key.
    pub key: ObjectKey,
    /// What.
    pub what: ReplicaOf,
}

/// See [`ReplicaChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // Most are versions.
pub enum ReplicaOf {
    /// A version.
    Version(ReplicaVersion),
    /// A delete marker, set at this time.
    Marker(ClusterMs),
    /// Other tags of a version.
    Tags {
        /// Its tag.
        etag: Etag,
        /// When it was stored.
        modified: ClusterMs,
        /// The tags.
        tags: Tags,
    },
    /// A version that keeps its id, unless it is not the newest of its key by that; or it is there already. Not for buckets to
    /// which others write: they could give the same id.
    KeptVersion {
        /// Its stamp at the source.
        id: Stamp,
        /// All else.
        version: ReplicaVersion,
    },
    /// The same for a delete marker.
    KeptMarker {
        /// Its stamp at the source.
        id: Stamp,
        /// When it was set.
        modified: ClusterMs,
    },
    /// A version with what keeps it from being removed, where versions of its bucket can be locked.
    Locked {
        /// As at the source, when it was copied.
        lock: Lock,
        /// The version.
        what: Box<ReplicaOf>,
    },
    /// Another lock of a version, where versions of its bucket can be locked. What compliance promises stays.
    Lock {
        /// Its tag.
        etag: Etag,
        /// When it was stored.
        modified: ClusterMs,
        /// What keeps it from being removed.
        lock: Lock,
    },
    /// A version that was stored in parts, and keeps them.
    InParts {
        /// In order, at most [`fabric::limits::REPLICA_PARTS_MAX`].
        parts: Vec<ReplicaPart>,
        /// The version, whose own body has no bytes.
        what: Box<ReplicaOf>,
    },
}

/// A part of a version that is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPart {
    /// As at the source.
    pub number: u16,
    /// As at the source.
    pub md5: [u8; 16],
    /// As at the source.
    pub checksum: Option<Checksum>,
    /// The bytes; `None` for a part of no bytes.
    pub extent: Option<Extent>,
}

/// A version that is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaVersion {
    /// The bytes.
    pub body: NewBody,
    /// How they are encrypted here, if they are.
    pub sealing: Option<Sealing>,
    /// As at the source.
    pub etag: Etag,
    /// As at the source.
    pub modified: ClusterMs,
    /// As at the source.
    pub checksum: Option<Checksum>,
    /// As at the source.
    pub attributes: Attributes,
}
