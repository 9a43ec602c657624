//! What changes metadata: commands, the entry that carries one, and its reply.
//!
//! The order of variants and fields is the format in the log and on the wire: append only.

use bytes::Bytes;
use fabric::ids::{BucketId, ExtentId, LayoutVersion, NodeId, RaftId, SessionId, Stamp};
use fabric::placement::Layout;
use serde::{Deserialize, Serialize};

use super::acl::{ObjectOwnership, WantedAcl};
use super::model::{
    AccessKey, Attributes, Bucket, BucketSetting, Checksum, ChecksumAlgorithm, ChecksumKind, ClusterMs, Etag,
    Extent, Hint, Home, Lock, NodeRow, Object, Origin, Quota, QuotaOf, Retention, SessionKind, SettingKind,
    Stored, Tags, Versioning,
};
use super::names::{AccessKeyId, AnnotationName, BucketName, ClientToken, ObjectKey, PolicyName, UserName};
use super::overlay::{OverlayChange, OverlayRefusal};
use super::replication::{Replicate, Source};
use super::sealing::Sealing;

/// A command with its place in a session and the leader's time. This is what the log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The session; number 0 for commands without one ([`Command::OpenSession`], [`Command::EndSession`],
    /// node and layout commands of the cluster itself), which are idempotent by content.
    pub session: SessionId,
    /// Ascending within the session, from 1.
    pub sequence: u64,
    /// Sequences below are decided: their replies may be dropped.
    pub lowest_open: u64,
    /// Cluster time, stamped by the leader when it proposes.
    pub at: ClusterMs,
    /// What to do.
    pub command: Command,
}

/// Everything that changes metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Command {
    OpenSession(OpenSession),
    RenewSession(RenewSession),
    EndSession(EndSession),
    SetNode(SetNode),
    SetLayout(SetLayout),
    AddUser(AddUser),
    RemoveUser(RemoveUser),
    AddAccessKey(AddAccessKey),
    RemoveAccessKey(RemoveAccessKey),
    CreateBucket(CreateBucket),
    DeleteBucket(DeleteBucket),
    PutObject(PutObject),
    CopyObject(CopyObject),
    DeleteObjects(DeleteObjects),
    CreateUpload(CreateUpload),
    PutPart(PutPart),
    CompleteUpload(CompleteUpload),
    AbortUpload(AbortUpload),
    PayDebts(PayDebts),
    CollectGarbage(CollectGarbage),
    ReportLoss(ReportLoss),
    EndAbsence(EndAbsence),
    GiveUp(GiveUp),
    PackInline(PackInline),
    MoveExtents(MoveExtents),
    EndLeaving(EndLeaving),
    RemoveNode(RemoveNode),
    /// See [`BeginEpoch`].
    BeginEpoch(BeginEpoch),
    /// See [`EndHold`].
    EndHold(EndHold),
    /// See [`SetQuota`].
    SetQuota(SetQuota),
    /// See [`Salvage`].
    Salvage(Salvage),
    /// See [`SetBucket`].
    SetBucket(SetBucket),
    /// See [`SetTags`].
    SetTags(SetTags),
    /// See [`Guarded`].
    Guarded(Guarded),
    /// See [`SetLock`].
    SetLock(SetLock),
    /// See [`SetUserPolicy`].
    SetUserPolicy(SetUserPolicy),
    /// See [`Expire`].
    Expire(Expire),
    /// See [`FillDue`].
    FillDue(FillDue),
    /// See [`Sealed`].
    Sealed(Sealed),
    /// See [`RenameObject`].
    RenameObject(RenameObject),
    /// See [`AppendObject`].
    AppendObject(AppendObject),
    /// A PutObject by the form of a browser: the change feed tells of it as such.
    PostObject(PutObject),
    /// See [`SetAnnotation`].
    SetAnnotation(SetAnnotation),
    /// A copy without the annotations of its source.
    CopyBare(CopyObject),
    /// See [`Annotated`].
    Annotated(Annotated),
    /// See [`WithAcl`].
    WithAcl(WithAcl),
    /// See [`SetAcl`].
    SetAcl(SetAcl),
    /// The session delivers notifications from now on, unless another one does that lives. Done: [`Done::Leads`].
    LeadDeliveries,
    /// See [`Deliver`].
    Deliver(Deliver),
    /// See [`OverlayChange`].
    Overlay(OverlayChange),
    /// See [`Recode`].
    Recode(Recode),
    /// The session copies for buckets that follow others from now on, unless another one does that lives. Done:
    /// [`Done::Leads`].
    LeadFollowing,
    /// See [`Replicate`].
    Replicate(Replicate),
    /// A [`SetAcl`] of which the change feed tells, where it changes something; and who asked.
    ChangeAcl(SetAcl, Origin),
    /// A [`SetLock`] of which the change feed tells, where it changes something; and who asked.
    ChangeLock(SetLock, Origin),
}

impl Command {
    /// Whether it makes the store larger. What a full disk can do without; the others clean up, or keep the
    /// cluster and its sessions going.
    pub fn grows(&self) -> bool {
        match self {
            Command::AddUser(_)
            | Command::AddAccessKey(_)
            | Command::CreateBucket(_)
            | Command::PutObject(_)
            | Command::CopyObject(_)
            | Command::CreateUpload(_)
            | Command::PutPart(_)
            | Command::CompleteUpload(_)
            | Command::Salvage(_)
            | Command::SetTags(_)
            | Command::SetLock(_)
            | Command::FillDue(_)
            | Command::RenameObject(_)
            | Command::AppendObject(_)
            | Command::PostObject(_)
            | Command::CopyBare(_)
            | Command::SetAcl(_)
            | Command::ChangeAcl(..)
            | Command::ChangeLock(..)
            | Command::Replicate(_) => true,
            Command::SetAnnotation(command) => matches!(command.change, AnnotationChange::Put(_)),
            Command::Guarded(guarded) => guarded.command.grows(),
            Command::Sealed(sealed) => sealed.command.grows(),
            Command::Annotated(annotated) => annotated.command.grows(),
            Command::WithAcl(with) => with.command.grows(),
            // What takes away is taken on a full disk, too.
            Command::SetBucket(command) => matches!(command.change, BucketChange::Set(_)),
            Command::SetUserPolicy(command) => command.document.is_some(),
            Command::Overlay(change) => {
                matches!(
                    change,
                    OverlayChange::Invite { .. } | OverlayChange::Grant(_) | OverlayChange::Follow { .. }
                )
            }
            Command::OpenSession(_)
            | Command::RenewSession(_)
            | Command::EndSession(_)
            | Command::SetNode(_)
            | Command::SetLayout(_)
            | Command::RemoveUser(_)
            | Command::RemoveAccessKey(_)
            | Command::DeleteBucket(_)
            | Command::DeleteObjects(_)
            | Command::AbortUpload(_)
            | Command::PayDebts(_)
            | Command::CollectGarbage(_)
            | Command::ReportLoss(_)
            | Command::EndAbsence(_)
            | Command::GiveUp(_)
            | Command::PackInline(_)
            | Command::MoveExtents(_)
            | Command::EndLeaving(_)
            | Command::RemoveNode(_)
            | Command::BeginEpoch(_)
            | Command::EndHold(_)
            | Command::SetQuota(_)
            | Command::Expire(_)
            | Command::LeadDeliveries
            | Command::LeadFollowing
            | Command::Deliver(_)
            | Command::Recode(_) => false,
        }
    }
}

/// Opens a session. Done: [`Done::Session`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Who will hold it.
    pub kind: SessionKind,
    /// Random: a repeated open with the same nonce returns the same session.
    pub nonce: u128,
}

/// Raises the marks of the session that proposes it. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewSession {
    /// Extent numbers below are named or given up.
    pub oldest_write: u64,
    /// Log indexes below are no longer read.
    pub oldest_read: u64,
    /// Extents of reads and writes older than five minutes: instead of those before. A pinned write may lie below
    /// `oldest_write`; it is pinned by the same command that raises the mark over it, or earlier.
    pub pinned: Vec<ExtentId>,
}

/// Ends a session that fell silent, or says goodbye. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSession {
    /// Which one.
    pub session: SessionId,
}

/// Adds or updates a member. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetNode {
    /// The row. Refused with [`Reject::StaleNode`] when `starts` is not above the stored one of the same
    /// incarnation.
    pub row: NodeRow,
}

/// Sets the next layout. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLayout {
    /// Its version is the stored one plus 1, else [`Reject::LayoutExists`].
    pub layout: Layout,
}

/// Adds a user with a first key. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddUser {
    /// Its name.
    pub name: UserName,
    /// Its first key; `user` in it is the same name.
    pub key: AccessKey,
}

/// Removes a user with its keys; refused with [`Reject::UserOwnsBuckets`] while it owns any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveUser {
    /// Which one.
    pub name: UserName,
}

/// Adds a key to a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddAccessKey {
    /// The key.
    pub key: AccessKey,
}

/// Removes a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveAccessKey {
    /// Which one.
    pub id: AccessKeyId,
}

/// Creates a bucket. Done: [`Done::Bucket`]; refused with [`Reject::BucketExists`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateBucket {
    /// Its name.
    pub name: BucketName,
    /// Its owner.
    pub owner: UserName,
}

/// Deletes a bucket with no versions, markers or uploads in it. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteBucket {
    /// Which one.
    pub bucket: BucketId,
}

/// The body that comes with a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewBody {
    /// At most [`fabric::limits::INLINE_BYTES_MAX`] bytes; none is [`super::model::Body::Empty`].
    Inline(Bytes),
    /// Durable chunks, named here for the first time.
    Extent(Extent),
}

impl NewBody {
    /// Bytes of the body.
    pub fn bytes(&self) -> u64 {
        match self {
            NewBody::Inline(payload) => payload.len() as u64,
            NewBody::Extent(extent) => extent.bytes,
        }
    }
}

/// What must be there for a write to happen. All given conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Expect {
    /// `If-None-Match: *`: no current version.
    pub absent: bool,
    /// `If-Match`: the current version has one of these tags; [`EtagCondition::Any`] is `*`.
    pub etag: Option<EtagCondition>,
    /// `x-amz-if-match-size` (deletes).
    pub bytes: Option<u64>,
    /// `x-amz-if-match-last-modified-time` (deletes), whole seconds since 1970.
    pub modified_seconds: Option<u64>,
}

impl Expect {
    /// Refuses unless the current version (or that there is none) meets every condition. What counts is decided in
    /// `apply`; who asks before only learns early of a refusal.
    pub fn check(&self, found: Option<&Object>) -> Result<(), Reject> {
        let Some(object) = found else {
            let present = self.etag.is_some() || self.bytes.is_some() || self.modified_seconds.is_some();
            return if present { Err(Reject::NoSuchKey) } else { Ok(()) };
        };
        let holds = !self.absent
            && self.etag.as_ref().is_none_or(|condition| condition.meets(&object.etag))
            && self.bytes.is_none_or(|bytes| bytes == object.bytes)
            && self.modified_seconds.is_none_or(|seconds| seconds == object.modified.0 / 1000);
        if holds { Ok(()) } else { Err(Reject::PreconditionFailed) }
    }
}

/// A condition on an entity tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtagCondition {
    /// `*`.
    Any,
    /// One of these; texts that are no tags of ours match nothing and are left out.
    OneOf(Vec<Etag>),
}

impl EtagCondition {
    /// Whether a tag meets it.
    pub fn meets(&self, etag: &Etag) -> bool {
        match self {
            EtagCondition::Any => true,
            EtagCondition::OneOf(tags) => tags.contains(etag),
        }
    }
}

/// Conditions on the source of a copy, or on either end of a rename; decided in `apply` against the version named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadConditions {
    /// `If-Match`.
    pub if_match: Option<EtagCondition>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagCondition>,
    /// `If-Modified-Since`, whole seconds since 1970.
    pub if_modified_since: Option<u64>,
    /// `If-Unmodified-Since`, whole seconds since 1970.
    pub if_unmodified_since: Option<u64>,
}

/// Stores an object. Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutObject {
    /// Where.
    pub bucket: BucketId,
    /// Under which key.
    pub key: ObjectKey,
    /// On which condition.
    pub expect: Expect,
    /// The bytes.
    pub body: NewBody,
    /// Their tag.
    pub etag: Etag,
    /// Their additional checksum.
    pub checksum: Option<Checksum>,
    /// What the client says about it.
    pub attributes: Attributes,
    /// Who asked.
    pub origin: Origin,
}

/// Copies an object without moving bytes: the body is shared (inline payloads are copied by `apply`).
/// Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyObject {
    /// Bucket of the source.
    pub source_bucket: BucketId,
    /// Key of the source.
    pub source_key: ObjectKey,
    /// Version of the source; `None` is the current one.
    pub source_version: Option<VersionSelector>,
    /// Conditions on the source; refused with [`Reject::SourcePreconditionFailed`].
    pub source_conditions: ReadConditions,
    /// Bucket of the copy.
    pub bucket: BucketId,
    /// Key of the copy.
    pub key: ObjectKey,
    /// Condition on the destination.
    pub expect: Expect,
    /// `REPLACE`: the new attributes; `None` copies the source's.
    pub attributes: Option<Attributes>,
    /// A checksum computed by the gateway where the client asked for another algorithm; `None` keeps the source's.
    pub checksum: Option<Checksum>,
    /// The gateway saw this version when it computed the checksum or decided anything from the source; another one
    /// is [`Reject::SourceChanged`] and the gateway tries again.
    pub source_seen: Option<Stamp>,
    /// Who asked.
    pub origin: Origin,
}

/// Names a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionSelector {
    /// `null`.
    Null,
    /// By its id.
    Stamp(Stamp),
}

/// Deletes up to 100 keys. Done: [`Done::Deleted`], one outcome per key in order; one refusal does not
/// touch the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteObjects {
    /// Where.
    pub bucket: BucketId,
    /// Which.
    pub keys: Vec<DeleteKey>,
    /// Who asked.
    pub origin: Origin,
}

/// One key to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteKey {
    /// The key.
    pub key: ObjectKey,
    /// Its version; `None` is the current one.
    pub version: Option<VersionSelector>,
    /// On which condition.
    pub expect: Expect,
}

/// Begins a multipart upload. Done: [`Done::Upload`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateUpload {
    /// Where.
    pub bucket: BucketId,
    /// Under which key.
    pub key: ObjectKey,
    /// Of the object to be.
    pub attributes: Attributes,
    /// Announced algorithm and kind.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// Who asked; the requester is the initiator.
    pub origin: Origin,
}

/// Stores a part; replaces one of the same number. Done: [`Done::Part`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutPart {
    /// Where.
    pub bucket: BucketId,
    /// Of which key.
    pub key: ObjectKey,
    /// Of which upload.
    pub upload: Stamp,
    /// 1 to 10,000.
    pub number: u16,
    /// MD5 of the bytes.
    pub md5: [u8; 16],
    /// Additional checksum.
    pub checksum: Option<Checksum>,
    /// The bytes; `None` for a part of no bytes.
    pub extent: Option<Extent>,
}

/// Makes an object of parts. Done: [`Done::Stored`]; repeated within 24 h: the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteUpload {
    /// Where.
    pub bucket: BucketId,
    /// Under which key.
    pub key: ObjectKey,
    /// Which upload.
    pub upload: Stamp,
    /// Ascending part numbers with the tags (and checksums) the client knows.
    pub parts: Vec<CompletePart>,
    /// On which condition.
    pub expect: Expect,
    /// The object's checksum, computed by the gateway from the parts' (combined CRC or composite), and checked
    /// against the client's there.
    pub checksum: Option<Checksum>,
    /// `x-amz-mp-object-size`.
    pub bytes: Option<u64>,
    /// Who asked.
    pub origin: Origin,
}

/// One part of a [`CompleteUpload`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletePart {
    /// Its number.
    pub number: u16,
    /// Its MD5.
    pub md5: [u8; 16],
    /// Its checksum, if the client sent one.
    pub checksum: Option<Checksum>,
}

/// Forgets an upload and its parts. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortUpload {
    /// Where.
    pub bucket: BucketId,
    /// Of which key.
    pub key: ObjectKey,
    /// Which upload.
    pub upload: Stamp,
}

/// A node says that it holds every chunk of these extents now. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayDebts {
    /// Which node.
    pub node: NodeId,
    /// Which extents; those that are gone meanwhile are passed over.
    pub extents: Vec<(Home, ExtentId)>,
}

/// Removes garbage rows whose chunks are gone from every owner, and takes body rows apart. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectGarbage {
    /// Keys of garbage rows that are done.
    pub done: Vec<(BucketId, Stamp)>,
    /// Keys of [`super::model::Garbage::Body`] rows to take apart: at most 1,000 extents each are released.
    pub take_apart: Vec<(BucketId, Stamp)>,
}

/// A node lost a chunk volume, or all of them: it owes every partition until it verified it. Where nothing is named
/// yet, nothing is owed: so a new node may report. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLoss {
    /// Which node.
    pub node: NodeId,
}

/// A node verified partitions: it holds all that was named in them as of the rows' index. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndAbsence {
    /// Which node.
    pub node: NodeId,
    /// Which partitions.
    pub partitions: Vec<u16>,
    /// [`super::model::Absence::index`] of the rows: a later loss is not ended.
    pub index: u64,
}

/// Settles an earlier command of the same session whose outcome its client does not know: either it was applied, or
/// it never will be. Done: [`Done::GivenUp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUp {
    /// Its sequence; open, so that its reply, if there is one, is still kept.
    pub sequence: u64,
}

/// Moves inline payloads of one bucket into an extent that holds them all. Only where their bytes are changes: no
/// event, no new time. Those that are gone meanwhile are passed over; where all are, it is
/// [`Reject::SourceChanged`]. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackInline {
    /// Whose extent it is: its bucket, and the key of the first payload.
    pub home: Home,
    /// Durable chunks, named here for the first time.
    pub extent: Extent,
    /// At most [`fabric::limits::PACK_PAYLOADS_MAX`], ascending by key and version.
    pub payloads: Vec<PackedPayload>,
}

/// One payload of a [`PackInline`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedPayload {
    /// Key of the object.
    pub key: ObjectKey,
    /// Its version, whose payload has the same stamp.
    pub version: Stamp,
    /// Where the payload begins in the extent.
    pub offset: u64,
}

/// Says that chunks are where a newer layout wants them. An extent whose row changed meanwhile, or of which too few new
/// owners hold a copy, is passed over. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveExtents {
    /// The layout in which they lie now.
    pub layout: LayoutVersion,
    /// At most [`fabric::limits::MOVES_PER_COMMAND`].
    pub moves: Vec<MovedExtent>,
}

/// One extent of a [`MoveExtents`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedExtent {
    /// Whose it is.
    pub home: Home,
    /// Its name.
    pub id: ExtentId,
    /// The layout in which it lay.
    pub from: LayoutVersion,
    /// Owners in the new layout that were given all its chunks, proved at their source.
    pub brought: Vec<NodeId>,
}

/// A node removed copies that moved elsewhere. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLeaving {
    /// Which node.
    pub node: NodeId,
    /// Which extents, each with [`super::model::Leaving::since`] of its row: a later one is not ended.
    pub extents: Vec<(Home, ExtentId, u64)>,
}

/// Removes a member; its number never comes back. Refused with [`Reject::NodeInUse`] while the newest layout lists it or
/// it is a voter. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    /// Which one.
    pub node: NodeId,
}

/// The log went back: the cluster goes on in a later epoch, with one voter, and garbage is kept. Done:
/// [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginEpoch {
    /// Above all before.
    pub epoch: u16,
    /// The only voter.
    pub voter: RaftId,
}

/// Garbage is collected again. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndHold {
    /// [`super::model::Hold::since`] of the row: a later one goes on.
    pub since: u64,
}

/// Bounds what a bucket, or all buckets of a user, may hold. What is there already stays, whatever the bound. Done:
/// [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetQuota {
    /// Whose.
    pub of: QuotaOf,
    /// One without any bound removes it.
    pub quota: Quota,
}

/// Names bodies again that lie on nodes without a row, while garbage is kept: the log went back, or is gone. What is there
/// stays, unless it was salvaged, too, or `newer` allows it, and its body is older than these; else it is
/// [`Reject::PreconditionFailed`]. Bodies that wait to be collected are [`Reject::LateExtent`]. Quotas do not count.
/// Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvage {
    /// Where they were; made anew if it is not there.
    pub bucket: BucketId,
    /// Its name, where it is made anew.
    pub bucket_name: BucketName,
    /// Its owner, where it is made anew.
    pub owner: UserName,
    /// Under which key.
    pub key: ObjectKey,
    /// The body, or in order those of the parts of an upload.
    pub bodies: Vec<SalvagedBody>,
    /// What is known of what the client said.
    pub attributes: Attributes,
    /// Whether the bodies replace an older one that was named before.
    pub newer: bool,
}

/// A body of a [`Salvage`], all of which was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvagedBody {
    /// Number of the part; 0 where it is no part.
    pub part: u16,
    /// Its chunks; of an epoch before this one.
    pub extent: Extent,
    /// MD5 of its bytes.
    pub md5: [u8; 16],
}

/// Changes a bucket itself. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBucket {
    /// Which one.
    pub bucket: BucketId,
    /// What changes.
    pub change: BucketChange,
}

/// What changes in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketChange {
    /// Its state; once enabled it is never off again.
    Versioning(Versioning),
    /// A setting, in place of the one of its kind.
    Set(BucketSetting),
    /// No setting of this kind any more.
    Remove(SettingKind),
}

/// Sets the tags of a version in place of those it has; none removes them. The version stays what it is: same id, time and
/// tag. Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTags {
    /// Where.
    pub bucket: BucketId,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` is the current one.
    pub version: Option<VersionSelector>,
    /// The tags.
    pub tags: Tags,
    /// Who asked.
    pub origin: Origin,
}

/// A command with what object lock says of it. Done: as the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    /// What object lock says.
    pub guard: Guard,
    /// PutObject, PostObject, AppendObject, CopyObject, CreateUpload, DeleteObjects or CreateBucket; or [`Annotated`] or
    /// [`Sealed`].
    pub command: Box<Command>,
}

/// A command about encrypted bytes, or about bytes that were. Done: as the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// How the bytes of the command, or of the upload's parts to come, are encrypted; `None`: they are not.
    pub sealing: Option<Sealing>,
    /// Of a PutObject: its bytes are another object's, and the change feed tells of a copy.
    pub copied: bool,
    /// PutObject, PostObject, CreateUpload or Salvage; [`Guarded`] and [`Annotated`] stand around it.
    pub command: Box<Command>,
}

/// See [`Guarded`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guard {
    /// Of a write: the lock of the new version; refused with [`Reject::NoObjectLock`] where the bucket has none.
    pub lock: Lock,
    /// Of a delete: governance does not keep versions from this user.
    pub bypass: bool,
    /// Of a new bucket: it is versioned, and its versions can be locked.
    pub bucket: bool,
}

/// Changes what keeps a version from being removed; refused with [`Reject::Locked`] where that takes away what was
/// promised. Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLock {
    /// Where.
    pub bucket: BucketId,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` is the current one.
    pub version: Option<VersionSelector>,
    /// What changes.
    pub change: LockChange,
    /// Governance does not bind this user.
    pub bypass: bool,
}

/// Attaches a policy to a user, in place of the one of its name; without a document it is removed. Refused with
/// [`Reject::TooManyPolicies`] or [`Reject::NoSuchPolicy`]. Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUserPolicy {
    /// Whose.
    pub user: UserName,
    /// Which one.
    pub name: PolicyName,
    /// In the language of policies; checked by the gateway that takes it.
    pub document: Option<String>,
}

/// See [`SetLock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockChange {
    /// A retention in place of the one before; none removes it.
    Retention(Option<Retention>),
    /// Whether it is held.
    LegalHold(bool),
}

/// Does what the lifecycle of buckets asks for, as far as it is due when this is applied. Done: [`Done::Expired`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expire {
    /// Rows of hints, at most [`fabric::limits::EXPIRE_PER_COMMAND`]. One that is no row, or not due, is passed over.
    pub hints: Vec<Hint>,
}

/// Walks a piece of the rows of a bucket whose rules changed, and puts hints of when they are due. Done:
/// [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillDue {
    /// Which one; one that is not being walked is passed over.
    pub bucket: BucketId,
}

/// Names shards of the same bytes where a version was whole copies; but for that the version stays what it is. Done:
/// [`Done::Nothing`], also where there was nothing to do; refused with [`Reject::SourceChanged`] where it has other extents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recode {
    /// Where the version is.
    pub home: Home,
    /// Which it is.
    pub version: Stamp,
    /// The shards of each extent that was whole copies, by id: its id in another coding. None: they stay that.
    pub extents: Vec<Extent>,
}

/// Gives an object another key; what is there gives way as to a write. No byte is copied. Where there are versions, the
/// new key gets a version and the old one a delete marker. Done: [`Done::Stored`]; repeated with the same token within
/// [`fabric::limits::RENAMES_KEPT`]: the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameObject {
    /// Where.
    pub bucket: BucketId,
    /// The key before.
    pub source_key: ObjectKey,
    /// Conditions on what is renamed; refused with [`Reject::SourcePreconditionFailed`].
    pub source_conditions: ReadConditions,
    /// The key from now on.
    pub key: ObjectKey,
    /// Conditions on what is there; refused with [`Reject::PreconditionFailed`].
    pub conditions: ReadConditions,
    /// By what the client recognises the request.
    pub token: Option<ClientToken>,
    /// Who asked.
    pub origin: Origin,
}

/// Puts bytes behind those of an object, which keeps its attributes; where there is none it is made. Done:
/// [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendObject {
    /// Where.
    pub bucket: BucketId,
    /// Under which key.
    pub key: ObjectKey,
    /// On which condition.
    pub expect: Expect,
    /// Bytes that are there; otherwise [`Reject::WrongOffset`].
    pub offset: u64,
    /// The version that the gateway saw, `None` if there was none; another one is [`Reject::SourceChanged`].
    pub seen: Option<Stamp>,
    /// The bytes.
    pub appended: Appended,
    /// The additional checksum of all bytes, if there is one.
    pub checksum: Option<Checksum>,
    /// What the client says about an object that is made.
    pub attributes: Attributes,
    /// Who asked.
    pub origin: Origin,
}

/// A command with who may do what with that which it makes. Done: as the command; refused with
/// [`Reject::AclNotSupported`], [`Reject::PublicAclBlocked`] or [`Reject::NoSuchGrantee`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithAcl {
    /// Of a new bucket: who owns what others write into it; `None`: always its owner.
    pub ownership: Option<ObjectOwnership>,
    /// The list.
    pub acl: Option<WantedAcl>,
    /// PutObject, AppendObject, CopyObject, CreateUpload or CreateBucket; or [`Guarded`] or [`Sealed`].
    pub command: Box<Command>,
}

/// Changes who may do what with a version; refused as [`WithAcl`] is. Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAcl {
    /// Where.
    pub bucket: BucketId,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` is the current one.
    pub version: Option<VersionSelector>,
    /// The list.
    pub acl: WantedAcl,
}

/// What an [`AppendObject`] brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Appended {
    /// All bytes that there will be, for those that were there are few.
    Whole {
        /// The bytes.
        body: NewBody,
        /// Their MD5.
        md5: [u8; 16],
    },
    /// A part behind those that are there. Those have an extent, under whose home this one was written.
    Part {
        /// The bytes; `None` for a part of no bytes.
        extent: Option<Extent>,
        /// MD5 of the part.
        md5: [u8; 16],
        /// Additional checksum of the part.
        checksum: Option<Checksum>,
    },
}

/// Changes an annotation of a version, which stays what it is. Done: [`Done::Stored`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAnnotation {
    /// Where.
    pub bucket: BucketId,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` is the current one.
    pub version: Option<VersionSelector>,
    /// Of this name.
    pub name: AnnotationName,
    /// What the version's tag must be.
    pub etag: Option<EtagCondition>,
    /// What changes.
    pub change: AnnotationChange,
    /// Governance does not bind this user.
    pub bypass: bool,
    /// Who asked.
    pub origin: Origin,
}

/// See [`SetAnnotation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnnotationChange {
    /// It is stored, in place of one of the same name.
    Put(Box<NewAnnotation>),
    /// It is removed, if it is there.
    Remove,
}

/// An annotation as it was written for the annotations that a version had then; [`Reject::SourceChanged`] where it is
/// another version by now, or they have another home or data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAnnotation {
    /// Which version was seen.
    pub seen: Stamp,
    /// Where the extents of its annotations have their rows.
    pub home: Home,
    /// How they are encrypted.
    pub sealing: Sealing,
    /// Durable chunks.
    pub extent: Extent,
    /// See [`super::model::Annotation::md5`].
    pub md5: [u8; 16],
    /// Additional checksum of the text.
    pub checksum: Checksum,
}

/// A copy whose bytes were written anew, and which takes the annotations of its source with it. Done: as the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotated {
    /// What it takes.
    pub annotations: CopiedAnnotations,
    /// PutObject, or [`Sealed`] around one; [`Guarded`] stands around it.
    pub command: Box<Command>,
}

/// The annotations of a version, whose bytes stay and whose data key was sealed anew; [`Reject::SourceChanged`] where they
/// are gone or have another data key by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedAnnotations {
    /// Whose.
    pub from: Home,
    /// Of which version.
    pub version: Stamp,
    /// How their data key was sealed.
    pub opened: Sealing,
    /// How it is for the copy.
    pub sealing: Sealing,
}

/// The targets of a bucket were told of its events. Refused with [`Reject::NotDeliverer`] where another session delivers.
/// Done: [`Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// Which bucket.
    pub bucket: BucketId,
    /// Up to this event.
    pub cursor: Stamp,
    /// Events that were taken.
    pub delivered: u64,
    /// Events that were given up.
    pub dead: u64,
}

/// The outcome of a command. Kept per (session, sequence), so that a repeat gets its first reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It happened.
    Done(Done),
    /// The rules said no; nothing changed.
    Rejected(Reject),
    /// The sequence was given up before: it never happened through this entry.
    TooLate,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Nothing to tell.
    Nothing,
    /// The session that was opened.
    Session(SessionId),
    /// The bucket that was created.
    Bucket(Bucket),
    /// What a write became.
    Stored(Stored),
    /// Outcomes of [`DeleteObjects`], in order.
    Deleted(Vec<Result<DeletedKey, Reject>>),
    /// The upload that began.
    Upload(Stamp),
    /// The part that was stored, and when.
    Part(ClusterMs),
    /// The first reply of the command that was given up; `None`: it never happens.
    GivenUp(Option<Box<Reply>>),
    /// What was due and is done.
    Expired(Expired),
    /// The session that proposed it, if it is the one that delivers notifications, or follows.
    Leads(Option<SessionId>),
    /// How far a copy is now, and why not further.
    Replicated {
        /// The last event that was copied.
        cursor: Stamp,
        /// Why the next change was not.
        refused: Option<Box<Reject>>,
    },
}

/// What an [`Expire`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Expired {
    /// Current versions that were removed, or hidden by a delete marker.
    pub current: u64,
    /// Versions and markers behind newer ones that were removed.
    pub noncurrent: u64,
    /// Delete markers removed that were all that was left of their keys.
    pub markers: u64,
    /// Uploads that were aborted.
    pub uploads: u64,
    /// What is due and stays, as a lock keeps it.
    pub put_off: u64,
}

/// Outcome of the deletion of one key. Deleting what is not there is done, too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeletedKey {
    /// The version that was removed, if it is visible to clients (its id text; `null` for the null version).
    pub version: Option<String>,
    /// The delete marker that was set, or removed (when `version` names it).
    pub marker: Option<String>,
}

/// The rules said no. Part of the replicated outcome: every replica refuses alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reject {
    /// The session is ended or unknown: open a new one.
    SessionEnded,
    /// More than [`fabric::limits::SESSION_OPEN_MAX`] commands of the session are open.
    SessionFull,
    /// The extent belongs to an ended session or lies below its oldest open write.
    LateExtent,
    /// The start counter of a node did not ascend: a copied or restored data directory.
    StaleNode,
    /// The layout version is not the next.
    LayoutExists,
    /// No such user.
    NoSuchUser,
    /// The name is taken.
    UserExists,
    /// The user owns buckets.
    UserOwnsBuckets,
    /// The last key of a user cannot be removed on its own; or: no such key.
    NoSuchAccessKey,
    /// The access key id is taken.
    AccessKeyExists,
    /// No such bucket (any more).
    NoSuchBucket,
    /// The name is taken; by whom.
    BucketExists {
        /// The owner.
        owner: UserName,
    },
    /// It holds objects, versions, markers or uploads.
    BucketNotEmpty,
    /// The user owns too many.
    TooManyBuckets,
    /// No such key.
    NoSuchKey,
    /// No such version.
    NoSuchVersion,
    /// The version is a delete marker (copy source).
    IsDeleteMarker,
    /// A condition on the destination did not hold.
    PreconditionFailed,
    /// A condition on the source did not hold.
    SourcePreconditionFailed,
    /// The source is another version than the gateway saw.
    SourceChanged,
    /// Copy onto itself without any change.
    CopyOntoItself,
    /// No such upload.
    NoSuchUpload,
    /// A part is missing or has another tag or checksum.
    InvalidPart {
        /// Which.
        number: u16,
    },
    /// The part numbers do not ascend.
    InvalidPartOrder,
    /// A part that is not the last is below 5 MiB.
    PartTooSmall {
        /// Which.
        number: u16,
        /// Its bytes.
        bytes: u64,
    },
    /// The object would exceed the limit.
    TooLarge,
    /// `x-amz-mp-object-size` differs from the sum of the parts.
    WrongSize,
    /// The command breaks a rule of the model that a correct client of it keeps; the words say which.
    Malformed(String),
    /// The newest layout lists the node, or it is a voter.
    NodeInUse,
    /// The node was removed: its number never comes back.
    NodeRemoved,
    /// The bucket, or all buckets of its owner together, would hold more than they may.
    QuotaExceeded {
        /// Whose.
        of: QuotaOf,
        /// All of it.
        quota: Quota,
    },
    /// What was asked for is a delete marker.
    DeleteMarker {
        /// Its id as text.
        version: String,
        /// When it was set.
        modified: ClusterMs,
        /// Whether it is the current version, which was asked for without an id.
        current: bool,
    },
    /// A lock keeps the version.
    Locked,
    /// The bucket has no object lock.
    NoObjectLock,
    /// A retention ends in the past.
    RetentionPast,
    /// The state of the bucket does not allow it; the words say why.
    BucketState(String),
    /// The user has no such policy.
    NoSuchPolicy,
    /// The user has [`fabric::limits::POLICIES_PER_USER_MAX`] others.
    TooManyPolicies,
    /// The object that is appended to has another size.
    WrongOffset {
        /// The bytes that it has.
        bytes: u64,
    },
    /// The object that is appended to has too many parts.
    TooManyParts,
    /// The client used the token for another rename.
    TokenReused,
    /// The version has as many annotations as it may have.
    TooManyAnnotations,
    /// The owner of the bucket owns all that is in it: there are no lists.
    AclNotSupported,
    /// The owner of the bucket ruled out lists that let everybody in.
    PublicAclBlocked,
    /// A list names a user that there is not.
    NoSuchGrantee {
        /// Whom.
        user: UserName,
    },
    /// Another session delivers notifications.
    NotDeliverer,
    /// A change to what is kept of the overlay.
    Overlay(OverlayRefusal),
    /// A copy took the place of the bucket: it is written to there.
    Superseded {
        /// Which one.
        by: Source,
    },
}
