//! What can be asked of the metadata, and the answers. Sent between processes: append only.

use std::sync::Arc;

use bytes::Bytes;
use fabric::ids::{BucketId, ExtentId, NodeId, SessionId, Stamp};
use fabric::placement::Layout;
use serde::{Deserialize, Serialize};

use super::acl::ObjectAcl;
use super::command::{Reject, VersionSelector};
use super::model::{
    Absence, AccessKey, Annotation, Bucket, BucketSetting, ClusterMs, ClusterRow, Delivery, Event, Extent,
    Garbage, Hint, Hold, Home, Leaving, Lock, NodeRow, Object, Part, Quota, QuotaOf, Session, SettingKind,
    Slice, Upload, Usage, User, Versioning,
};
use super::names::{AccessKeyId, AnnotationName, BucketName, ClusterName, ObjectKey, PolicyName, UserName};
use super::overlay::{HeardBucket, HeardPlace, OverlayState};
use super::replication::{Acknowledged, Follows, Promotions, Replication, Source};
use super::sealing::Sealing;

/// A question. Each is answered from one applied index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// One bucket by name → [`Answer::Bucket`].
    Bucket(BucketName),
    /// Buckets in order of name → [`Answer::Buckets`].
    Buckets {
        /// Only those of this owner.
        owner: Option<UserName>,
        /// Only names with this prefix.
        prefix: String,
        /// Only names after this one.
        after: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// Objects and bytes of a bucket → [`Answer::Usage`].
    Usage(BucketId),
    /// One version of an object → [`Answer::Object`].
    Object {
        /// Where.
        bucket: BucketId,
        /// Which key.
        key: ObjectKey,
        /// Which version; `None` is the current one.
        version: Option<VersionSelector>,
        /// How much of the body to resolve.
        want: Want,
    },
    /// A page of current versions → [`Answer::List`].
    List(List),
    /// A page of versions and delete markers → [`Answer::Versions`].
    ListVersions(ListVersions),
    /// A page of uploads → [`Answer::Uploads`].
    ListUploads(ListUploads),
    /// One upload with a page of its parts → [`Answer::Parts`].
    Parts {
        /// Where.
        bucket: BucketId,
        /// Of which key.
        key: ObjectKey,
        /// Which upload.
        upload: Stamp,
        /// Only numbers above.
        after: u16,
        /// At most so many.
        limit: u32,
    },
    /// A key with its sealed secret → [`Answer::AccessKey`].
    AccessKey(AccessKeyId),
    /// All users with their key ids → [`Answer::Users`].
    Users,
    /// Nodes, layout, counters → [`Answer::Status`].
    Status,
    /// The newest layout, or one by version → [`Answer::Layout`].
    Layout(Option<fabric::ids::LayoutVersion>),
    /// Sessions → [`Answer::Sessions`].
    Sessions,
    /// Debts of a node, after a position → [`Answer::Debts`].
    Debts {
        /// Whose.
        node: NodeId,
        /// Only after this extent of this home.
        after: Option<(Home, ExtentId)>,
        /// At most so many.
        limit: u32,
    },
    /// Garbage that no session reads any more, by bucket and then oldest first → [`Answer::Garbage`]. Bodies to take
    /// apart count for what they hold, so there may be fewer rows than asked for; none means that there are none.
    Garbage {
        /// Only behind this row: what cannot be removed now must not hold back the rest.
        after: Option<(BucketId, Stamp)>,
        /// At most so many.
        limit: u32,
    },
    /// Which of these extents are named by a row, in order → [`Answer::Named`].
    Named(Vec<(Home, ExtentId)>),
    /// Events of a bucket after a stamp → [`Answer::Events`].
    Events {
        /// Where.
        bucket: BucketId,
        /// Only later ones.
        after: Option<Stamp>,
        /// At most so many.
        limit: u32,
    },
    /// Uploads that were begun so long ago, anywhere, in order of home → [`Answer::OldUploads`].
    OldUploads {
        /// Milliseconds of cluster time.
        age_ms: u64,
        /// Only after this upload.
        after: Option<(Home, Stamp)>,
        /// At most so many are looked at.
        limit: u32,
    },
    /// Partitions that a node has to verify → [`Answer::Absences`].
    Absences(NodeId),
    /// Extents that the catalog places on a node, in order of home → [`Answer::Placed`].
    Placed {
        /// Which node.
        node: NodeId,
        /// In which partitions.
        of: PlacedOf,
        /// Only after this extent of this home.
        after: Option<(Home, ExtentId)>,
        /// At most so many.
        limit: u32,
    },
    /// How many bytes are inline, and payloads of one bucket in order of key → [`Answer::Inline`].
    Inline {
        /// No payloads while there are no more bytes than this.
        above: u64,
        /// Only payloads behind this one.
        after: Option<(Home, Stamp)>,
        /// Only those of entries below this log index.
        before: u64,
        /// At most so many bytes, but one payload in any case.
        bytes: u64,
    },
    /// All members, and the newest layout's version → [`Answer::Members`].
    Members,
    /// Extents that lie in an older layout than the newest and that a node has to bring to the owners there, in order of
    /// home → [`Answer::Placed`].
    Moving {
        /// Which node.
        node: NodeId,
        /// Only after this extent of this home.
        after: Option<(Home, ExtentId)>,
        /// At most so many.
        limit: u32,
    },
    /// Copies that a node may remove now, as they moved to others → [`Answer::Leaving`].
    Leaving {
        /// Which node.
        node: NodeId,
        /// Only after this extent of this home.
        after: Option<(Home, ExtentId)>,
        /// At most so many.
        limit: u32,
    },
    /// How many extents lie in which layout, page by page → [`Answer::LayoutUse`].
    LayoutUse {
        /// Only after this extent of this home.
        after: Option<(Home, ExtentId)>,
    },
    /// All named extents, in order of home → [`Answer::Placed`].
    Extents {
        /// Only after this extent of this home.
        after: Option<(Home, ExtentId)>,
        /// At most so many.
        limit: u32,
    },
    /// Whether garbage is kept → [`Answer::Hold`].
    Hold,
    /// What a bucket or a user may hold, and what it holds → [`Answer::Quota`].
    Quota(QuotaOf),
    /// As [`Query::Named`], which says of all that they are while garbage is kept; for who only looks →
    /// [`Answer::Named`].
    NamedNow(Vec<(Home, ExtentId)>),
    /// What the owner of a bucket set → [`Answer::Setting`].
    Setting {
        /// Which bucket.
        bucket: BucketId,
        /// Of which kind.
        kind: SettingKind,
    },
    /// What keeps a version from being removed → [`Answer::Lock`].
    Lock {
        /// Where.
        bucket: BucketId,
        /// Which key.
        key: ObjectKey,
        /// Which version.
        version: Stamp,
    },
    /// All that the owner of a bucket set → [`Answer::Settings`].
    Settings(BucketId),
    /// What a user may do, as its policies say → [`Answer::UserPolicies`].
    UserPolicies(UserName),
    /// Hints of the lifecycle of buckets whose time has come, oldest first → [`Answer::Due`].
    Due {
        /// Only behind this one.
        after: Option<Hint>,
        /// At most so many.
        limit: u32,
    },
    /// One upload, without its parts → [`Answer::Upload`].
    Upload {
        /// Where.
        bucket: BucketId,
        /// Of which key.
        key: ObjectKey,
        /// Which upload.
        upload: Stamp,
    },
    /// Events of a bucket after a stamp, with what a reader has to know of the feed → [`Answer::Changes`].
    Changes {
        /// Where.
        bucket: BucketId,
        /// Only later ones.
        after: Stamp,
        /// At most so many.
        limit: u32,
    },
    /// Events of all buckets in the order of the log → [`Answer::AllChanges`].
    AllChanges {
        /// Only after this place in the order (cluster epoch, log index, ordinal).
        after: Stamp,
        /// At most so many.
        limit: u32,
    },
    /// The annotations of a version → [`Answer::Annotations`].
    Annotations {
        /// Where.
        bucket: BucketId,
        /// Which key.
        key: ObjectKey,
        /// Which version; `None` is the current one.
        version: Option<VersionSelector>,
        /// Only the one of this name, with where its bytes are.
        name: Option<AnnotationName>,
    },
    /// Who owns a version and may do what with it → [`Answer::Acl`].
    Acl {
        /// Where.
        bucket: BucketId,
        /// Which key.
        key: ObjectKey,
        /// Which version; `None` is the current one.
        version: Option<VersionSelector>,
    },
    /// Who owns versions, where that is not the owner of the bucket, in order → [`Answer::Owners`].
    Owners {
        /// Where.
        bucket: BucketId,
        /// At most [`fabric::limits::LIST_KEYS_MAX`].
        versions: Vec<(ObjectKey, Stamp)>,
    },
    /// Buckets that have notifications, and how far these were delivered → [`Answer::Deliveries`].
    Deliveries {
        /// Only after this bucket.
        after: Option<BucketId>,
        /// At most so many.
        limit: u32,
    },
    /// All that is kept of the overlay → [`Answer::Overlay`].
    Overlay,
    /// Buckets with what is in them, in order of id → [`Answer::Catalog`].
    Catalog {
        /// Only after this bucket.
        after: Option<BucketId>,
        /// At most so many.
        limit: u32,
    },
    /// The next version whose bytes are to become shards → [`Answer::Recoding`].
    Recoding {
        /// Only behind this one.
        after: Option<(Home, Stamp)>,
    },
    /// Buckets that follow those of other clusters → [`Answer::Follows`].
    Follows,
    /// Buckets that other clusters copy, in order of id → [`Answer::Replications`].
    Replications {
        /// Only after this bucket.
        after: Option<BucketId>,
        /// At most so many.
        limit: u32,
    },
    /// Settings of one kind, of buckets in order of id → [`Answer::SettingsOf`], which says behind which bucket to look on.
    SettingsOf {
        /// Which.
        kind: SettingKind,
        /// Only after this bucket.
        after: Option<BucketId>,
        /// At most so many buckets are looked at.
        limit: u32,
    },
    /// What is kept of the buckets of other clusters, in order of cluster and name → [`Answer::Heard`].
    Heard {
        /// From here on; `None`: from the first one.
        from: Option<HeardPlace>,
        /// At most so many.
        limit: u32,
    },
    /// Buckets here whose place was taken, and that took the place of others → [`Answer::Promotions`].
    Promotions,
    /// How far the copies of a bucket are that its rules want → [`Answer::Acknowledged`].
    Acknowledged(BucketId),
}

/// Partitions of a [`Query::Placed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacedOf {
    /// All.
    All,
    /// Those the node has to verify.
    Absences,
}

/// How much of a body to resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// The row only (HEAD).
    Row,
    /// Payload or slices, and where the extents are.
    Body,
}

/// A page of a listing. Positions are exclusive. Of the attributes only the storage class is in the entries: the
/// others are in no listing, and a page has to fit a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Where.
    pub bucket: BucketId,
    /// Only keys with this prefix.
    pub prefix: String,
    /// Group keys that contain it after the prefix; empty: no grouping.
    pub delimiter: String,
    /// Only keys after this text; empty: from the start. If it is a common prefix itself, everything under it is
    /// behind it (S3: a marker that is a common prefix skips the whole group). If it lies inside a group, the group is
    /// in the page while a key after it is in the group.
    pub after: String,
    /// Keys and common prefixes, at most.
    pub limit: u32,
}

/// A page of versions. Positions are exclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListVersions {
    /// Where.
    pub bucket: BucketId,
    /// Only keys with this prefix.
    pub prefix: String,
    /// Group keys that contain it after the prefix; empty: no grouping.
    pub delimiter: String,
    /// Only after this key (see [`List::after`]) …
    pub after_key: String,
    /// … or, within it, after this version. As a position the stamp of a null version is good, too, and better: it
    /// holds when that version is gone.
    pub after_version: Option<VersionSelector>,
    /// Versions, markers and common prefixes, at most.
    pub limit: u32,
}

/// A page of uploads in order of (key, upload id). Positions are exclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListUploads {
    /// Where.
    pub bucket: BucketId,
    /// Only keys with this prefix.
    pub prefix: String,
    /// Group keys that contain it after the prefix; empty: no grouping.
    pub delimiter: String,
    /// Only after this key …
    pub after_key: String,
    /// … or, within it, after this upload.
    pub after_upload: Option<Stamp>,
    /// Uploads and common prefixes, at most.
    pub limit: u32,
}

/// An answer and the log index it is true of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Applied index of the view that answered.
    pub index: u64,
    /// The answer, or why there is none.
    pub answer: Result<Answer, Reject>,
}

/// Answers, by the names of the queries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Answer {
    Bucket(Option<Bucket>),
    Buckets { buckets: Vec<Bucket>, more: bool },
    Usage(Usage),
    Object(ObjectView),
    List(Page<Object>),
    Versions(Page<ListedVersion>),
    Uploads(Page<Upload>),
    Parts(PartsPage),
    AccessKey(Option<AccessKey>),
    Users(Vec<(User, Vec<AccessKeyId>)>),
    Status(Status),
    Layout(Option<Layout>),
    Sessions(Vec<(SessionId, Session)>),
    Debts(Vec<(Home, Extent)>),
    Garbage(Vec<(BucketId, Stamp, Garbage)>),
    Named(Vec<bool>),
    Events(Vec<(Stamp, Event)>),
    OldUploads { uploads: Vec<(Home, Stamp)>, next: Option<(Home, Stamp)> },
    Absences(Vec<(u16, Absence)>),
    Placed { extents: Vec<(Home, Extent)>, next: Option<(Home, ExtentId)> },
    Inline(InlinePage),
    Members { nodes: Vec<NodeRow>, layout: fabric::ids::LayoutVersion },
    Leaving { copies: Vec<(Home, ExtentId, Leaving)>, next: Option<(Home, ExtentId)> },
    LayoutUse { extents: Vec<(fabric::ids::LayoutVersion, u64)>, next: Option<(Home, ExtentId)> },
    Hold(Option<Hold>),
    Quota { quota: Quota, usage: Usage },
    Setting(Option<BucketSetting>),
    Lock(Lock),
    Settings(Arc<Vec<BucketSetting>>),
    UserPolicies(Arc<Vec<(PolicyName, String)>>),
    Due(DuePage),
    Upload { upload: Upload, sealing: Option<Sealing> },
    Changes(Changes),
    AllChanges(AllChanges),
    Annotations(AnnotationsView),
    Acl(Option<ObjectAcl>),
    Owners(Vec<Option<UserName>>),
    Deliveries(DeliveriesPage),
    Overlay(Arc<OverlayState>),
    Catalog { buckets: Vec<(Bucket, Usage)>, more: bool },
    Recoding(Option<Recoding>),
    Follows(Follows),
    Replications { buckets: Vec<(Bucket, Replication)>, more: bool },
    SettingsOf { settings: Vec<(BucketId, BucketSetting)>, next: Option<BucketId> },
    Heard { buckets: Vec<(ClusterName, BucketName, HeardBucket)>, more: bool },
    Promotions(Promotions),
    Acknowledged(Vec<(Source, Acknowledged)>),
}

/// A version whose bytes are to become shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recoding {
    /// Where the version is.
    pub home: Home,
    /// Which it is.
    pub version: Stamp,
    /// Its extents that are whole copies, by id; none where they stay that.
    pub extents: Vec<Extent>,
}

/// Deliveries of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveriesPage {
    /// The session that delivers, or did.
    pub deliverer: Option<SessionId>,
    /// Whether it lives.
    pub deliverer_lives: bool,
    /// Buckets, how far they are, and whether events wait.
    pub buckets: Vec<(Bucket, Delivery, bool)>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// A page of the change feed of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Stamps, which are cursors, and events; ascending.
    pub events: Vec<(Stamp, Event)>,
    /// Whether there are more behind them.
    pub more: bool,
    /// The last event that was trimmed: a reader with a cursor before it has missed some.
    pub trimmed: Stamp,
    /// The last event that there is, or was.
    pub latest: Stamp,
    /// How the bucket counts versions now: a null version is shown only where there are others.
    pub versioning: Versioning,
}

/// A page of the change feed of all buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllChanges {
    /// Places in the order, which are cursors, and where what happened.
    pub events: Vec<(Stamp, BucketId, Event)>,
    /// Whether there are more behind them.
    pub more: bool,
    /// The last place that was trimmed.
    pub trimmed: Stamp,
}

/// Hints that are due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuePage {
    /// Cluster time.
    pub now: ClusterMs,
    /// What is to be looked at.
    pub hints: Vec<Hint>,
    /// When the next one behind these is due.
    pub next: Option<ClusterMs>,
    /// A bucket whose rows are to be walked for hints.
    pub walk: Option<BucketId>,
}

/// Inline payloads, from one snapshot. A page may have none and still not be the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlinePage {
    /// Bytes of all there are.
    pub total_bytes: u64,
    /// The bucket of those in the page.
    pub bucket: Option<Bucket>,
    /// Key, version and payload, ascending.
    pub payloads: Vec<(ObjectKey, Stamp, Bytes)>,
    /// The last one that was looked at; `None` at the end.
    pub position: Option<(Home, Stamp)>,
}

/// A version with its body resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectView {
    /// The row; a delete marker is [`Reject::NoSuchKey`] (current) or [`Reject::IsDeleteMarker`] (by version).
    pub object: Object,
    /// The body; [`BodyView::NotAsked`] for [`Want::Row`].
    pub body: BodyView,
    /// Sizes of the parts of a multipart object in order (for `partNumber` and `x-amz-mp-parts-count`);
    /// empty otherwise, and for [`Want::Row`] only the count is in the tag.
    pub parts: Vec<Slice>,
}

/// Annotations of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationsView {
    /// The version.
    pub object: Object,
    /// Where the extents have their rows, or will have them.
    pub home: Home,
    /// How they are encrypted; `None`: there are none.
    pub sealing: Option<Sealing>,
    /// All of them in order of name, or the one that was asked for.
    pub annotations: Vec<Annotation>,
    /// Where the bytes of that one are.
    pub piece: Option<Piece>,
}

/// The body of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyView {
    /// Only the row was asked for.
    NotAsked,
    /// All the bytes, encrypted where [`Object::body`] says so.
    Inline(Bytes),
    /// Where the bytes are, in order; one extent is one piece. Of an encrypted body offsets and lengths are those of
    /// what is stored.
    Pieces(Vec<Piece>),
}

/// A run of bytes in an extent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The extent with its confirmed copies.
    pub extent: Extent,
    /// Where the run begins in the extent.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// In order; common prefixes stand where their keys would.
    pub entries: Vec<PageEntry<T>>,
    /// Whether there is more after the last entry. A page may be short or empty and still have more
    /// (bound on rows visited): continue from `position`.
    pub more: bool,
    /// Where the next page begins: an exclusive position, to be passed as `after` (or `after_key`).
    pub position: String,
    /// For versions and uploads, where `position` is the key of the last entry: its stamp, to be passed as
    /// `after_version` or `after_upload`.
    pub position_stamp: Option<Stamp>,
}

/// An entry of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageEntry<T> {
    /// Something under a key.
    Item(ObjectKey, T),
    /// A common prefix.
    Prefix(String),
}

/// A version in a listing of versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedVersion {
    /// Version or marker.
    pub version: super::model::Version,
    /// Whether it is the current one.
    pub latest: bool,
}

/// An upload with a page of its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsPage {
    /// The upload.
    pub upload: Upload,
    /// Parts in order of number.
    pub parts: Vec<Part>,
    /// Whether there are more.
    pub more: bool,
}

/// The cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's own row.
    pub cluster: ClusterRow,
    /// Its members.
    pub nodes: Vec<NodeRow>,
    /// Copies owed, per node.
    pub debts: Vec<(NodeId, u64)>,
    /// Rows of garbage.
    pub garbage: u64,
    /// Buckets.
    pub buckets: u64,
    /// Sum over all buckets.
    pub usage: Usage,
    /// Live sessions.
    pub sessions: u64,
    /// Partitions that each node has to verify.
    pub absences: Vec<(NodeId, u64)>,
}
