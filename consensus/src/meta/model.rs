//! What is stored: the values of the rows. Encoded with [`fabric::codec`], one format version per type;
//! append-only, pinned by golden tests.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fabric::coding::{Coding, Spread};
use fabric::ids::{BucketId, ChunkId, ExtentId, Incarnation, LayoutVersion, NodeId, RaftId, Stamp};
use serde::{Deserialize, Serialize};

use super::acl::{Grant, ObjectOwnership};
use super::lifecycle::{Lifecycle, Transition};
use super::names::{AccessKeyId, AnnotationName, BucketName, ClusterName, ObjectKey, UserName};
use super::replication::Replication;
use super::sealing::Sealing;
use super::website::Website;

/// Cluster time in milliseconds since 1970: stamped by the leader, never back. Decides nothing that
/// safety depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ClusterMs(pub u64);

/// A user. Its buckets name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Unique name.
    pub name: UserName,
    /// When it was added.
    pub created: ClusterMs,
    /// How many buckets it owns.
    pub buckets: u64,
}

/// An access key of a user. A user may have several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// The id that requests name.
    pub id: AccessKeyId,
    /// Whose key it is.
    pub user: UserName,
    /// The secret, sealed under the cluster key by the gateway that added it (see `gateway::secrets`).
    pub sealed_secret: Bytes,
    /// When it was added.
    pub created: ClusterMs,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Never reused.
    pub id: BucketId,
    /// Its name in this cluster.
    pub name: BucketName,
    /// Who owns it, and everything in it where no [`ObjectOwnership`] says otherwise.
    pub owner: UserName,
    /// When it was created.
    pub created: ClusterMs,
    /// Raised by promotion, restore and range splits; part of every stamp in the bucket.
    pub epoch: u16,
    /// Versioning; changed by step 4 of the plan, `Off` until then.
    pub versioning: Versioning,
}

/// State of versioning of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// Never enabled: every version is the null version.
    Off,
    /// Each write makes a version.
    Enabled,
    /// Writes replace the null version.
    Suspended,
}

/// Names and values, in order; each name once.
pub type Tags = Vec<(String, String)>;

/// What an owner sets on a bucket beside versioning; checked by the gateway that takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketSetting {
    /// Its tags.
    Tags(Tags),
    /// Which pages of other origins may use it.
    Cors(Vec<CorsRule>),
    /// Its versions can be locked. Set once, it stays.
    ObjectLock(ObjectLock),
    /// What may not be made public.
    PublicAccessBlock(PublicAccessBlock),
    /// Its owner said that all objects are the owner's, which they are anyway.
    OwnerEnforced,
    /// Who may do what in it: a document in the language of policies, as it came.
    Policy(String),
    /// What happens to its objects as they age.
    Lifecycle(Lifecycle),
    /// How objects are encrypted whose writer does not say.
    Encryption(DefaultEncryption),
    /// How it is served as a website.
    Website(Website),
    /// Who owns what others write, where that is not always its owner; in place of [`BucketSetting::OwnerEnforced`].
    ObjectOwnership(ObjectOwnership),
    /// What others may do with it, and its owner. Holds where there is an [`ObjectOwnership`].
    Acl(Vec<Grant>),
    /// Who is told of what happens to its objects.
    Notifications(Vec<NotificationRule>),
    /// Where lines about requests to it go.
    Logging(Logging),
    /// The storage class of objects whose writer does not say one.
    StorageClass(String),
    /// Rules that move objects to other storage classes, and where; in place of [`BucketSetting::Lifecycle`].
    Transitions(Lifecycle, Vec<Transition>),
    /// What is copied to other clusters.
    Replication(Replication),
    /// For so many seconds gateways of other clusters may answer reads of its objects from memory while its home is away.
    Staleness(u64),
    /// Why it is in this cluster and not in the one that its creator asked.
    Placed(Placed),
}

/// The kinds of [`BucketSetting`]. The number is part of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum SettingKind {
    Tags = 0,
    Cors = 1,
    ObjectLock = 2,
    PublicAccessBlock = 3,
    OwnerEnforced = 4,
    Policy = 5,
    Lifecycle = 6,
    Encryption = 7,
    Website = 8,
    Acl = 9,
    Notifications = 10,
    Logging = 11,
    StorageClass = 12,
    Replication = 13,
    Staleness = 14,
    Placed = 15,
}

impl BucketSetting {
    /// The rules of a lifecycle.
    pub fn of_lifecycle(mut rules: Lifecycle) -> BucketSetting {
        match std::mem::take(&mut rules.transitions) {
            none if none.is_empty() => BucketSetting::Lifecycle(rules),
            transitions => BucketSetting::Transitions(rules, transitions),
        }
    }

    /// The rules of a lifecycle, if it is that.
    pub fn into_lifecycle(self) -> Option<Lifecycle> {
        match self {
            BucketSetting::Lifecycle(rules) => Some(rules),
            BucketSetting::Transitions(rules, transitions) => Some(Lifecycle { transitions, ..rules }),
            _ => None,
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> SettingKind {
        match self {
            BucketSetting::Tags(_) => SettingKind::Tags,
            BucketSetting::Cors(_) => SettingKind::Cors,
            BucketSetting::ObjectLock(_) => SettingKind::ObjectLock,
            BucketSetting::PublicAccessBlock(_) => SettingKind::PublicAccessBlock,
            BucketSetting::OwnerEnforced | BucketSetting::ObjectOwnership(_) => SettingKind::OwnerEnforced,
            BucketSetting::Policy(_) => SettingKind::Policy,
            BucketSetting::Lifecycle(_) | BucketSetting::Transitions(..) => SettingKind::Lifecycle,
            BucketSetting::Encryption(_) => SettingKind::Encryption,
            BucketSetting::Website(_) => SettingKind::Website,
            BucketSetting::Acl(_) => SettingKind::Acl,
            BucketSetting::Notifications(_) => SettingKind::Notifications,
            BucketSetting::Logging(_) => SettingKind::Logging,
            BucketSetting::StorageClass(_) => SettingKind::StorageClass,
            BucketSetting::Replication(_) => SettingKind::Replication,
            BucketSetting::Staleness(_) => SettingKind::Staleness,
            BucketSetting::Placed(_) => SettingKind::Placed,
        }
    }
}

/// A bucket came here by way of another cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The cluster that its creator asked.
    pub via: ClusterName,
    /// Why that one did not keep it.
    pub why: PlacedWhy,
}

/// Why a cluster sent a new bucket to another one. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacedWhy {
    /// Its creator named the other one.
    Asked,
    /// Its disks were filled above its mark.
    Space,
    /// Its gateway was busy above its mark.
    Load,
}

impl PlacedWhy {
    /// All of them.
    pub const ALL: [PlacedWhy; 3] = [PlacedWhy::Asked, PlacedWhy::Space, PlacedWhy::Load];

    /// As it is said to people and to other clusters.
    pub fn name(self) -> &'static str {
        match self {
            PlacedWhy::Asked => "asked",
            PlacedWhy::Space => "space",
            PlacedWhy::Load => "load",
        }
    }
}

/// Who is told of which events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRule {
    /// How it was written.
    pub form: NotificationForm,
    /// Unique in its configuration.
    pub id: String,
    /// Who, as it was written; the last part is the name of a target.
    pub arn: String,
    /// Names of events, as S3 has them, with wildcards.
    pub events: Vec<String>,
    /// Only keys that begin with it.
    pub prefix: Option<String>,
    /// Only keys that end with it.
    pub suffix: Option<String>,
}

/// What a target is to S3; here all are the same. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NotificationForm {
    Queue,
    Topic,
    Function,
}

/// Where lines about requests to a bucket go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// Into which bucket.
    pub bucket: BucketName,
    /// With what their keys begin.
    pub prefix: String,
    /// How they go on.
    pub format: LogKeyFormat,
}

/// Keys of access logs. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogKeyFormat {
    /// The time and something unique.
    Simple,
    /// Before that the owner, the region, the bucket and the day of the requests.
    EventTime,
    /// The same with the time of the delivery.
    DeliveryTime,
}

/// How far the events of a bucket were told to its targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The last event that was, or was given up, or is of no interest to any target.
    pub cursor: Stamp,
    /// Events that targets took.
    pub delivered: u64,
    /// Events that were given up.
    pub dead: u64,
    /// Events that were trimmed before anybody was told of them.
    pub lost: u64,
}

impl Default for Delivery {
    fn default() -> Delivery {
        Delivery { cursor: Stamp::ZERO, delivered: 0, dead: 0, lost: 0 }
    }
}

/// How objects of a bucket are encrypted whose writer does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultEncryption {
    /// Under which master key; `None`: not at all.
    pub key: Option<DefaultKey>,
    /// Whether clients hear that a key of the bucket was used.
    pub bucket_key: bool,
    /// Whether keys of customers are refused.
    pub no_customer_keys: bool,
}

/// See [`DefaultEncryption`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultKey {
    /// SSE-S3: that of the store.
    Store,
    /// SSE-KMS: one by name; `None` is the one that is meant where nobody names one.
    Named(Option<String>),
}

/// What may not be made public in a bucket, by S3's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PublicAccessBlock {
    pub block_public_acls: bool,
    pub ignore_public_acls: bool,
    pub block_public_policy: bool,
    pub restrict_public_buckets: bool,
}

/// How versions in a bucket are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObjectLock {
    /// What a new version gets whose writer says nothing.
    pub default: Option<DefaultRetention>,
}

/// See [`ObjectLock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How strict.
    pub mode: RetentionMode,
    /// From the write on, in days.
    pub days: u32,
    /// Whether the owner said it in years, of 365 days.
    pub in_years: bool,
}

/// How strict a retention is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionMode {
    /// Those who may can end it.
    Governance,
    /// Nobody can end it.
    Compliance,
}

/// Until when a version cannot be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How strict.
    pub mode: RetentionMode,
    /// Cluster time from which on it can.
    pub until: ClusterMs,
}

/// What keeps a version from being removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lock {
    /// A time.
    pub retention: Option<Retention>,
    /// Until somebody says otherwise.
    pub legal_hold: bool,
}

/// One rule of a bucket's CORS configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CorsRule {
    /// Its name, for its owner.
    pub id: Option<String>,
    /// `scheme://host`, with at most one `*` in it.
    pub origins: Vec<String>,
    /// GET, PUT, POST, DELETE, HEAD.
    pub methods: Vec<String>,
    /// Request headers, each with at most one `*`.
    pub headers: Vec<String>,
    /// Response headers that the page may see.
    pub expose: Vec<String>,
    /// How long a browser may remember the answer to a preflight (seconds).
    pub max_age_seconds: Option<u32>,
}

/// Objects and bytes in a bucket; current and noncurrent versions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Versions, delete markers not counted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads in progress.
    pub uploads: u64,
    /// Bytes of their parts.
    pub part_bytes: u64,
}

impl Usage {
    /// Objects as a quota counts them.
    pub fn counted_objects(&self) -> u64 {
        self.objects.saturating_add(self.uploads)
    }

    /// Bytes as a quota counts them.
    pub fn counted_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.part_bytes)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Usage) {
        self.objects += more.objects;
        self.bytes += more.bytes;
        self.uploads += more.uploads;
        self.part_bytes += more.part_bytes;
    }
}

impl std::ops::SubAssign for Usage {
    /// Nothing is less than nothing.
    fn sub_assign(&mut self, less: Usage) {
        self.objects = self.objects.saturating_sub(less.objects);
        self.bytes = self.bytes.saturating_sub(less.bytes);
        self.uploads = self.uploads.saturating_sub(less.uploads);
        self.part_bytes = self.part_bytes.saturating_sub(less.part_bytes);
    }
}

/// How much may be stored. An upload in progress counts as an object, and its parts count as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Versions, delete markers not counted; `None` is no bound.
    pub objects: Option<u64>,
    /// Their bytes; `None` is no bound.
    pub bytes: Option<u64>,
}

/// Whose quota it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaOf {
    /// One bucket's.
    Bucket(BucketId),
    /// That of all buckets of a user together.
    User(UserName),
}

/// The quota of a user, with what its buckets hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserQuota {
    /// What it may store.
    pub quota: Quota,
    /// What it stores.
    pub usage: Usage,
}

/// The entity tag, without quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Etag {
    /// MD5 of the body; of one that is encrypted under a named or a customer's key sixteen random bytes.
    Md5([u8; 16]),
    /// MD5 of the MD5s of the parts, and how many parts.
    Multipart([u8; 16], u16),
}

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Etag::Md5(digest) => write_hex(f, digest),
            Etag::Multipart(digest, parts) => {
                write_hex(f, digest)?;
                write!(f, "-{parts}")
            }
        }
    }
}

fn write_hex(f: &mut std::fmt::Formatter<'_>, digest: &[u8; 16]) -> std::fmt::Result {
    let mut text = [0; 32];
    hex::encode_to_slice(digest, &mut text).map_err(|_| std::fmt::Error)?;
    f.write_str(std::str::from_utf8(&text).map_err(|_| std::fmt::Error)?)
}

impl std::str::FromStr for Etag {
    type Err = ();

    /// Accepts what [`Etag`]'s `Display` writes, hex in either case, with or without quotes.
    fn from_str(text: &str) -> Result<Etag, ()> {
        let text = text.trim();
        let text = text.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(text);
        let (digest, parts) = match text.split_once('-') {
            Some((digest, parts)) => (digest, Some(parts.parse::<u16>().map_err(|_| ())?)),
            None => (text, None),
        };
        let mut bytes = [0; 16];
        hex::decode_to_slice(digest, &mut bytes).map_err(|_| ())?;
        Ok(parts.map_or(Etag::Md5(bytes), |parts| Etag::Multipart(bytes, parts)))
    }
}

/// Algorithms of additional checksums. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
    Md5,
    Sha512,
    XxHash3,
    XxHash64,
    XxHash128,
}

/// Whether a checksum covers the whole body or the checksums of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// Of all bytes.
    FullObject,
    /// Of the checksums of the parts; shown with `-N`.
    Composite,
}

/// An additional checksum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// Over what.
    pub kind: ChecksumKind,
    /// Raw digest, big endian as S3 encodes it in base64.
    pub value: Bytes,
}

/// What a client says about an object: content headers and user metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// `content-type`, `cache-control`, `content-disposition`, `content-encoding`, `content-language`,
    /// `expires`, `x-amz-website-redirect-location`: lower-case name → value as sent. Beside them what
    /// [`Attributes::mark_replica`] sets.
    pub headers: BTreeMap<String, String>,
    /// `x-amz-meta-*`: name without the prefix, lower-case → value.
    pub user: BTreeMap<String, String>,
    /// `x-amz-storage-class`; `None` is `STANDARD`.
    pub storage_class: Option<String>,
    /// `x-amz-tagging`: pairs in order (step 4 shows and changes them).
    pub tags: Vec<(String, String)>,
}

/// The header of versions that came as copies from another cluster. No client writes it, and none has it whose bytes a
/// client wrote here, whatever they were made of.
const REPLICA: (&str, &str) = ("x-amz-replication-status", "REPLICA");

impl Attributes {
    /// Says that the version came from another cluster.
    pub fn mark_replica(&mut self) {
        self.headers.insert(REPLICA.0.to_string(), REPLICA.1.to_string());
    }

    /// Says nothing of that.
    pub fn unmark_replica(&mut self) {
        self.headers.remove(REPLICA.0);
    }

    /// Whether the version came from another cluster.
    pub fn is_replica(&self) -> bool {
        self.headers.contains_key(REPLICA.0)
    }
}

/// The body of one PUT or one part on chunk volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Its name; the hash in it chooses the partition.
    pub id: ExtentId,
    /// Bytes.
    pub bytes: u64,
    /// Bytes of each chunk but the last.
    pub chunk_bytes: u32,
    /// The layout under which it was written.
    pub layout: LayoutVersion,
    /// Bit i: owner i of the partition (in that layout) held every chunk that belongs on it, synced, at commit.
    pub confirmed: u16,
}

impl Extent {
    /// What of it lies where.
    pub fn spread(&self) -> Spread {
        let Extent { id, bytes, chunk_bytes, .. } = *self;
        Spread { id, bytes, chunk_bytes }
    }

    /// How it is stored.
    pub fn coding(&self) -> Coding {
        self.spread().coding()
    }

    /// Whether a node that is one of `news` holds all that belongs on it there, as it is confirmed to as one of `olds`, the
    /// owners where the extent lies.
    pub fn holds_already(&self, node: NodeId, olds: &[NodeId], news: &[NodeId]) -> bool {
        let coding = self.coding();
        let place = coding.holders(olds).iter().position(|old| *old == node);
        let confirmed = place.is_some_and(|place| self.confirmed >> place & 1 == 1);
        confirmed && coding.shards_on(node, news) & !coding.shards_on(node, olds) == 0
    }

    /// How many chunks a whole copy has, or each of its shards.
    pub fn chunks(&self) -> u64 {
        self.spread().stripes()
    }
}

/// Row of a named extent, keyed by its home (bucket, key) and id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRow {
    /// The extent; `confirmed` grows as debts are paid.
    pub extent: Extent,
    /// How many bodies and parts name it.
    pub references: u32,
}

/// A piece of an extent. A part of no bytes is a slice of no bytes: it names no extent (the id is all zeros).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Which extent.
    pub extent: ExtentId,
    /// Where the piece begins.
    pub offset: u64,
    /// Bytes of the piece.
    pub bytes: u64,
    /// Number of the part it came from.
    pub part: u16,
    /// MD5 of the part, or its stand-in (see [`Etag::Md5`]).
    pub md5: [u8; 16],
    /// Additional checksum of the part, where the upload had one.
    pub checksum: Option<Checksum>,
}

/// Row of a body of several pieces, keyed by its home (bucket, key) and stamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRow {
    /// At most 10,000, in order.
    pub slices: Vec<Slice>,
    /// How many object versions name it.
    pub references: u32,
}

/// Under which (bucket, key) the rows of a shared body live; copies name the original's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Bucket of the first owner.
    pub bucket: BucketId,
    /// Key of the first owner.
    pub key: ObjectKey,
}

/// Where the bytes of an object version are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// No bytes.
    Empty,
    /// In the inline table under the object's own (bucket, key) and this stamp.
    Inline(Stamp),
    /// One extent. `home` is `None` where it is the object's own (bucket, key).
    Extent {
        /// Name of the extent.
        id: ExtentId,
        /// Whose rows.
        home: Option<Home>,
    },
    /// Several slices: a row of its own.
    Slices {
        /// Stamp of the body row.
        id: Stamp,
        /// Whose rows.
        home: Option<Home>,
    },
    /// A run of bytes in an extent that holds many small bodies, as long as the object.
    Packed {
        /// Name of the extent.
        id: ExtentId,
        /// Where the run begins.
        offset: u64,
        /// Whose rows.
        home: Option<Home>,
    },
    /// Encrypted bytes, there where the other body says. Lengths of objects and slices are those of the bytes that
    /// clients know; extents and payloads are as long as what is encrypted.
    Sealed {
        /// How they are encrypted.
        sealing: Sealing,
        /// Where they are; never sealed itself.
        body: Box<Body>,
    },
}

impl Body {
    /// Under which (bucket, key) the rows of the body live, where `own` is the object's.
    pub fn home(&self, own: Home) -> Home {
        match self {
            Body::Empty | Body::Inline(_) => own,
            Body::Extent { home, .. } | Body::Slices { home, .. } | Body::Packed { home, .. } => {
                home.clone().unwrap_or(own)
            }
            Body::Sealed { body, .. } => body.home(own),
        }
    }

    /// Where its bytes are, encrypted or not.
    pub fn place(&self) -> &Body {
        match self {
            Body::Sealed { body, .. } => body,
            body => body,
        }
    }

    /// How its bytes are encrypted, if they are.
    pub fn sealing(&self) -> Option<&Sealing> {
        match self {
            Body::Sealed { sealing, .. } => Some(sealing),
            _ => None,
        }
    }
}

/// A version of an object: the row that LIST reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Order and identity of the version.
    pub stamp: Stamp,
    /// Whether clients see its version id as `null`.
    pub null_version: bool,
    /// When it was stored.
    pub modified: ClusterMs,
    /// Bytes of the body.
    pub bytes: u64,
    /// Entity tag.
    pub etag: Etag,
    /// Where the bytes are.
    pub body: Body,
    /// Additional checksum.
    pub checksum: Option<Checksum>,
    /// Content headers, user metadata, storage class, tags.
    pub attributes: Attributes,
}

impl Object {
    /// Bytes that the body takes where it is stored.
    pub fn stored_bytes(&self) -> u64 {
        self.body.sealing().map_or(self.bytes, |sealing| sealing.sealed_bytes(self.bytes))
    }
}

/// A text that belongs to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotation {
    /// Unique among those of the version.
    pub name: AnnotationName,
    /// Bytes of the text.
    pub bytes: u64,
    /// MD5 of the text, or its stand-in (see [`Etag::Md5`]).
    pub md5: [u8; 16],
    /// Additional checksum of the text.
    pub checksum: Checksum,
    /// When it was stored.
    pub modified: ClusterMs,
    /// All the bytes, encrypted.
    pub extent: ExtentId,
}

/// The annotations of a version. Keyed (bucket, key, stamp of the version).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationSet {
    /// Under which (bucket, key) the extents have their rows; `None` where it is the version's own.
    pub home: Option<Home>,
    /// How they are encrypted: as parts of an upload, under one data key. Its scheme is that of the object, or SSE-S3.
    pub sealing: Sealing,
    /// At most [`fabric::limits::ANNOTATIONS_MAX`], in order of name.
    pub annotations: Vec<Annotation>,
}

impl AnnotationSet {
    /// Under which (bucket, key) the extents have their rows, where `own` is the version's.
    pub fn home(&self, own: &Home) -> Home {
        self.home.as_ref().unwrap_or(own).clone()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.annotations.iter().map(|annotation| annotation.bytes).sum()
    }
}

/// A version that is not current, or a delete marker. Keyed (bucket, key, stamp descending).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // Markers are rare, and none is kept for long.
pub enum Version {
    /// A stored version.
    Object(Object),
    /// A delete marker.
    DeleteMarker {
        /// Order and identity.
        stamp: Stamp,
        /// Whether clients see its version id as `null`.
        null_version: bool,
        /// When it was set.
        modified: ClusterMs,
    },
}

impl Version {
    /// Order and identity.
    pub fn stamp(&self) -> Stamp {
        match self {
            Version::Object(object) => object.stamp,
            Version::DeleteMarker { stamp, .. } => *stamp,
        }
    }

    /// Whether clients see its version id as `null`.
    pub fn null_version(&self) -> bool {
        match self {
            Version::Object(object) => object.null_version,
            Version::DeleteMarker { null_version, .. } => *null_version,
        }
    }

    /// When it was stored or set.
    pub fn modified(&self) -> ClusterMs {
        match self {
            Version::Object(object) => object.modified,
            Version::DeleteMarker { modified, .. } => *modified,
        }
    }
}

/// A multipart upload in progress, keyed (bucket, key, stamp); the stamp is the upload id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Its id.
    pub id: Stamp,
    /// Who began it.
    pub initiator: UserName,
    /// When.
    pub initiated: ClusterMs,
    /// Attributes of the object to be.
    pub attributes: Attributes,
    /// Algorithm and kind of checksum announced at creation.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// A part, keyed (bucket, key, upload, number).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes.
    pub bytes: u64,
    /// MD5 of the bytes, or its stand-in (see [`Etag::Md5`]).
    pub md5: [u8; 16],
    /// Additional checksum.
    pub checksum: Option<Checksum>,
    /// When it was stored.
    pub modified: ClusterMs,
    /// Its extent; `None` for a part of no bytes.
    pub extent: Option<ExtentId>,
}

/// What a completed upload became; kept for 24 h of cluster time so that a repeated Complete gets the
/// same answer. Keyed (bucket, key, upload).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The answer.
    pub stored: Stored,
    /// When.
    pub at: ClusterMs,
}

/// A rename whose client may repeat it; kept for [`fabric::limits::RENAMES_KEPT`] of cluster time, so that a repeat gets
/// the same answer. Keyed (bucket, token of the client).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// The key before.
    pub from: ObjectKey,
    /// The key since.
    pub to: ObjectKey,
    /// The answer.
    pub stored: Stored,
    /// When.
    pub at: ClusterMs,
}

/// What a write became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Order and identity.
    pub stamp: Stamp,
    /// Whether clients see the version id (versioning enabled) or not.
    pub version_visible: bool,
    /// Entity tag.
    pub etag: Etag,
    /// When it was stored.
    pub modified: ClusterMs,
    /// Bytes.
    pub bytes: u64,
    /// Additional checksum of the object.
    pub checksum: Option<Checksum>,
}

/// Who holds a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionKind {
    /// A gateway.
    Gateway,
    /// The jobs of a node.
    Jobs(NodeId),
}

/// A live session, keyed by its id. Numbers of extents, indexes of the log. Missing: it was ended, or never opened,
/// and none of its commands is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Who holds it.
    pub kind: SessionKind,
    /// Sequences below are decided and forgotten.
    pub lowest_open: u64,
    /// Extent numbers below are named or garbage.
    pub oldest_write: u64,
    /// Log index below which the session reads nothing any more.
    pub oldest_read: u64,
    /// Extents that long reads and writes hold, at most 1,024.
    pub pinned: Vec<ExtentId>,
    /// Drawn by the holder: a repeated open finds the session by it.
    pub nonce: u128,
}

/// A copy that is missing, keyed (home bucket, home key, extent, node).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// The entry that left it.
    pub since: u64,
}

/// What a node may lack of a partition, until it verified what it holds: keyed (node, partition).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// Extents named by later entries may be missing. 0: all of them, since a volume was lost.
    pub since: u64,
    /// The layout whose partition it is.
    pub layout: LayoutVersion,
    /// The entry that wrote the row. What was named before is in the tables; what is named later, while the row
    /// is there, is owed by a debt of its own.
    pub index: u64,
}

/// Something whose chunks may be removed once no session reads it. Keyed (home bucket, stamp); the stamp is of the
/// log and not of the bucket: cluster epoch, index of the entry that released it, position in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Garbage {
    /// An extent nobody names.
    Extent(Extent),
    /// A body row whose slices are still to be released, in steps.
    Body {
        /// Whose rows.
        home: Home,
        /// Extents left to release, one for each reference.
        extents: Vec<ExtentId>,
    },
}

/// A copy of an extent that moved to other nodes; keyed (node, home, extent). The node removes it once all new owners
/// hold the extent and nobody can read the old row any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// The entry that moved it.
    pub since: u64,
    /// Its chunks, of each shard that leaves; which shards these are is in the upper 16 bits, 0 for a whole copy.
    pub chunks: u64,
}

/// Where the shards are in [`Leaving::chunks`].
const LEAVING_SHARDS_SHIFT: u32 = 48;

impl Leaving {
    /// Of so many chunks each, of the shards of a mask.
    pub fn of_shards(since: u64, coding: Coding, chunks: u64, shards: u16) -> Leaving {
        let shards = if coding == Coding::Whole { 0 } else { u64::from(shards) };
        Leaving { since, chunks: chunks | shards << LEAVING_SHARDS_SHIFT }
    }

    /// The shards that leave, as bits.
    pub fn shards(&self) -> u16 {
        ((self.chunks >> LEAVING_SHARDS_SHIFT) as u16).max(1)
    }

    /// The chunks that leave, of the extent of this id.
    pub fn chunk_ids(&self, id: ExtentId) -> impl DoubleEndedIterator<Item = ChunkId> + use<> {
        let (shards, chunks) = (self.shards(), self.chunks & ((1 << LEAVING_SHARDS_SHIFT) - 1));
        let leaves = (0..u16::BITS as usize).filter(move |shard| shards >> shard & 1 == 1);
        leaves.flat_map(move |shard| (0..chunks).map(move |ordinal| id.shard(shard, ordinal as u32)))
    }
}

/// A member that was removed, keyed by node id. Its number is never used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNode {
    /// The life it lived.
    pub incarnation: Incarnation,
    /// When.
    pub at: ClusterMs,
}

/// Garbage is kept, since the log went back: what looks like garbage may be all that is left of something. One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The entry that began it.
    pub since: u64,
    /// Cluster time of it.
    pub at: ClusterMs,
}

/// A member of the cluster, keyed by node id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its number.
    pub id: NodeId,
    /// The life it lives.
    pub incarnation: Incarnation,
    /// `host:port` for those who do not list it in `iptable.txt`.
    pub address: String,
    /// Failure domain; empty where there are none.
    pub zone: String,
    /// Bytes of its data disks; weighs placement.
    pub capacity_bytes: u64,
    /// Starts counted; a node whose counter is not above the highest seen is a copied directory.
    pub starts: u64,
    /// Release it runs.
    pub release: String,
    /// Its voter, if it takes part in Raft.
    pub voter: Option<RaftId>,
    /// Drawn by the process that counted the last start: a copy of its directory that counts as far is another.
    pub run: u64,
}

/// What happened, for the change feed. Keyed (bucket, stamp).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// To which key.
    pub key: ObjectKey,
    /// Which version; [`Stamp::ZERO`] is the null version.
    pub version: Stamp,
    /// Bytes of it.
    pub bytes: u64,
    /// Entity tag; `None` for deletions.
    pub etag: Option<Etag>,
    /// When.
    pub at: ClusterMs,
    /// Who asked and how.
    pub origin: Origin,
}

/// Kinds of events. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum EventKind {
    Put,
    Copy,
    Complete,
    Delete,
    DeleteMarker,
    Tags,
    Post,
    Append,
    /// Of the new key; the old one has a deletion of its own.
    Rename,
    DeleteTags,
    /// By the lifecycle of the bucket.
    Expire,
    /// By the lifecycle of the bucket.
    ExpireMarker,
    AnnotationPut,
    AnnotationDelete,
    /// A version moved to another storage class, by the lifecycle of the bucket.
    Transition,
    /// Others may do something else with a version.
    Acl,
    /// A version is retained until another time.
    Retention,
    /// A version is held, or no longer.
    LegalHold,
}

/// Who asked for a change; part of the events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// User name; empty for jobs.
    pub requester: String,
    /// Address of the client.
    pub source: String,
    /// Request id of the gateway.
    pub request_id: String,
}

/// The cluster as a whole: one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Raised by `recover`, restore and rebuild.
    pub epoch: u16,
    /// Cluster time of the last entry.
    pub time: ClusterMs,
    /// The next bucket id.
    pub next_bucket: u64,
    /// The next session number.
    pub next_session: u32,
    /// The newest layout; 0 before there is one.
    pub layout: LayoutVersion,
    /// Buckets that exist.
    pub buckets: u64,
    /// Bytes of inline payloads.
    pub inline_bytes: u64,
    /// Rows of garbage.
    pub garbage: u64,
    /// Events kept.
    pub events: u64,
    /// Place of the last event that was trimmed (cluster epoch, log index, ordinal): trimming goes on after it.
    pub events_trimmed: Stamp,
    /// Nothing expires before this time: cluster time has jumped, and people should have time to see it.
    pub expires_after: ClusterMs,
    /// Rows of quotas; while there are none, no write looks for one.
    pub quotas: u64,
}

/// Epoch of a cluster that never recovered, and of a bucket that never moved. Not 0, so that a stamp of zeros is none.
pub const FIRST_EPOCH: u16 = 1;

impl ClusterRow {
    /// The row before the first entry.
    pub fn first() -> ClusterRow {
        ClusterRow {
            epoch: FIRST_EPOCH,
            time: ClusterMs(0),
            next_bucket: 1,
            next_session: 1,
            layout: LayoutVersion(0),
            buckets: 0,
            inline_bytes: 0,
            garbage: 0,
            events: 0,
            events_trimmed: Stamp { epoch: 0, index: 0, ordinal: 0 },
            expires_after: ClusterMs(0),
            quotas: 0,
        }
    }

    /// Whether what was made at `at` and is kept for a while has expired.
    pub fn expired(&self, at: ClusterMs, kept: Duration) -> bool {
        self.expires_after <= self.time && at.0.saturating_add(kept.as_millis() as u64) <= self.time.0
    }
}

/// Says when to look at a version, a delete marker or an upload, as a rule of its bucket may be due then. Whether one is
/// is decided when it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// When.
    pub due: ClusterMs,
    /// Of which key.
    pub home: Home,
    /// The stamp of the version or marker, or the id of the upload.
    pub item: Stamp,
}

/// How far the rows of a bucket were walked to put hints, since its rules changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueWalk {
    /// Which table is walked.
    pub stage: WalkStage,
    /// The key of its last row that was looked at, in bytes; empty at the front.
    pub after: Bytes,
}

/// The tables of a [`DueWalk`], in order. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum WalkStage {
    Objects,
    Versions,
    Uploads,
}
