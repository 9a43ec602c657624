//! Golden bytes of what is in the log and on the wire: every command, query and answer, in `golden.txt`.
//!
//! A line that changes is a format that changes: logs and peers of the release before cannot read it. Fields are only
//! appended, with a new format version; new variants only add lines.

use bytes::Bytes;
use fabric::codec;
use fabric::ids::{BucketId, ExtentId, Incarnation, LayoutVersion, NodeId, RaftId, SessionId, Stamp};
use fabric::placement::Layout;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::world::{etag, key};
use crate::meta::acl::*;
use crate::meta::command::*;
use crate::meta::lifecycle::*;
use crate::meta::model::*;
use crate::meta::names::{BucketName, ClusterName, PolicyName, UserName};
use crate::meta::overlay::*;
use crate::meta::query::*;
use crate::meta::replication::*;
use crate::meta::sealing::{Frames, Scheme, Sealing};

/// Format version of entries, queries and answers.
const FORMAT: u8 = 1;

/// Lines of names and bytes, each of which decodes to what was encoded.
#[derive(Default)]
struct Golden(String);

impl Golden {
    fn add<T>(&mut self, kind: &str, value: T)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let bytes = codec::encode(FORMAT, &value);
        assert_eq!(codec::decode::<T>(FORMAT, "golden", &bytes).as_ref(), Ok(&value));
        let debug = format!("{value:?}");
        let inner = debug.split("command: ").last().unwrap_or_default();
        let name: String = inner.chars().take_while(|letter| letter.is_alphanumeric()).collect();
        self.0 += &format!("{kind} {name} {}\n", hex::encode(bytes));
    }
}

#[test]
fn golden_bytes() {
    let mut golden = Golden::default();
    for command in commands() {
        let session = SessionId { epoch: 1, number: 7 };
        golden
            .add("entry", Entry { session, sequence: 300, lowest_open: 299, at: ClusterMs(1_000), command });
    }
    for reply in replies() {
        golden.add("reply", reply);
    }
    for reject in rejects() {
        golden.add("reject", reject);
    }
    for query in queries() {
        golden.add("query", query);
    }
    for answer in answers() {
        golden.add("answer", answer);
    }
    golden.add("answered", Answered { index: 300, answer: Err(Reject::NoSuchKey) });
    assert!(golden.0 == include_str!("golden.txt"), "a format changed; now it is:\n{}", golden.0);
}

fn user() -> UserName {
    "anna".parse().unwrap()
}

fn policy_name() -> PolicyName {
    "read".parse().unwrap()
}

fn bucket_name() -> BucketName {
    "photos".parse().unwrap()
}

fn quota() -> Quota {
    Quota { objects: Some(7), bytes: Some(300) }
}

fn setting() -> BucketSetting {
    BucketSetting::Tags(vec![("k".to_string(), "v".to_string())])
}

fn lock() -> Lock {
    let retention = Retention { mode: RetentionMode::Compliance, until: ClusterMs(1_000) };
    Lock { retention: Some(retention), legal_hold: true }
}

fn sealing() -> Sealing {
    let scheme = Scheme::Named { key: "k".to_string(), version: 1, context: None, bucket_key: true };
    Sealing { frames: Frames::Gcm, scheme, data_key: Bytes::from_static(b"key") }
}

fn stamp() -> Stamp {
    Stamp { epoch: 1, index: 300, ordinal: 2 }
}

fn session() -> SessionId {
    SessionId { epoch: 1, number: 7 }
}

fn extent_id() -> ExtentId {
    ExtentId::new(0xABCD, session(), 3)
}

fn extent() -> Extent {
    Extent {
        id: extent_id(),
        bytes: 70_000,
        chunk_bytes: 1 << 20,
        layout: LayoutVersion(1),
        confirmed: 0b111,
    }
}

fn home() -> Home {
    Home { bucket: BucketId(5), key: key("a/b") }
}

fn checksum() -> Checksum {
    let value = Bytes::from_static(&[1, 2, 3, 4]);
    Checksum { algorithm: ChecksumAlgorithm::Crc32c, kind: ChecksumKind::FullObject, value }
}

fn attributes() -> Attributes {
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    Attributes {
        headers: [pair("content-type", "text/plain")].into(),
        user: [pair("mtime", "1")].into(),
        storage_class: Some("STANDARD".to_string()),
        tags: vec![pair("k", "v")],
    }
}

fn origin() -> Origin {
    Origin { requester: "anna".to_string(), source: "10.0.0.9".to_string(), request_id: "0123".to_string() }
}

fn expect() -> Expect {
    Expect {
        absent: true,
        etag: Some(EtagCondition::OneOf(vec![etag(1), Etag::Multipart([2; 16], 3)])),
        bytes: Some(300),
        modified_seconds: Some(1),
    }
}

fn access_key() -> AccessKey {
    AccessKey {
        id: "KEY1".parse().unwrap(),
        user: user(),
        sealed_secret: Bytes::from_static(b"sealed"),
        created: ClusterMs(1_000),
    }
}

fn layout() -> Layout {
    Layout { version: LayoutVersion(1), partitions: vec![vec![NodeId(1), NodeId(2)], vec![NodeId(300)]] }
}

fn node_row() -> NodeRow {
    NodeRow {
        id: NodeId(3),
        incarnation: Incarnation(0xABC),
        address: "10.0.0.3:9100".to_string(),
        zone: "b".to_string(),
        capacity_bytes: 1 << 40,
        starts: 2,
        release: "0.1.0".to_string(),
        voter: Some(RaftId::new(NodeId(3), Incarnation(0xABC))),
        run: 7,
    }
}

fn bucket() -> Bucket {
    Bucket {
        id: BucketId(5),
        name: bucket_name(),
        owner: user(),
        created: ClusterMs(1_000),
        epoch: 1,
        versioning: Versioning::Enabled,
    }
}

fn object() -> Object {
    Object {
        stamp: stamp(),
        null_version: true,
        modified: ClusterMs(1_000),
        bytes: 300,
        etag: etag(1),
        body: Body::Slices { id: stamp(), home: Some(home()) },
        checksum: Some(checksum()),
        attributes: attributes(),
    }
}

fn upload() -> Upload {
    Upload {
        id: stamp(),
        initiator: user(),
        initiated: ClusterMs(1_000),
        attributes: attributes(),
        checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
    }
}

fn stored() -> Stored {
    Stored {
        stamp: stamp(),
        version_visible: true,
        etag: etag(1),
        modified: ClusterMs(1_000),
        bytes: 300,
        checksum: Some(checksum()),
    }
}

fn commands() -> Vec<Command> {
    let put = |body| PutObject {
        bucket: BucketId(5),
        key: key("a/b"),
        expect: expect(),
        body,
        etag: etag(1),
        checksum: Some(checksum()),
        attributes: attributes(),
        origin: origin(),
    };
    let mut commands = cluster_commands();
    commands.extend([
        Command::PutObject(put(NewBody::Inline(Bytes::from_static(b"payload")))),
        Command::PutObject(put(NewBody::Extent(extent()))),
        Command::CopyObject(CopyObject {
            source_bucket: BucketId(6),
            source_key: key("c"),
            source_version: Some(VersionSelector::Null),
            source_conditions: ReadConditions {
                if_match: Some(EtagCondition::Any),
                if_none_match: None,
                if_modified_since: Some(1),
                if_unmodified_since: Some(2),
            },
            bucket: BucketId(5),
            key: key("a/b"),
            expect: Expect::default(),
            attributes: Some(attributes()),
            checksum: Some(checksum()),
            source_seen: Some(stamp()),
            origin: origin(),
        }),
        Command::DeleteObjects(DeleteObjects {
            bucket: BucketId(5),
            keys: vec![DeleteKey {
                key: key("a/b"),
                version: Some(VersionSelector::Stamp(stamp())),
                expect: expect(),
            }],
            origin: origin(),
        }),
        Command::SetUserPolicy(SetUserPolicy {
            user: user(),
            name: policy_name(),
            document: Some("{}".to_string()),
        }),
    ]);
    commands.extend(upload_commands());
    commands.extend([
        Command::PayDebts(PayDebts { node: NodeId(3), extents: vec![(home(), extent_id())] }),
        Command::CollectGarbage(CollectGarbage {
            done: vec![(BucketId(5), stamp())],
            take_apart: vec![(BucketId(6), stamp())],
        }),
        Command::ReportLoss(ReportLoss { node: NodeId(3) }),
        Command::EndAbsence(EndAbsence { node: NodeId(3), partitions: vec![0, 258], index: 300 }),
        Command::GiveUp(GiveUp { sequence: 299 }),
        Command::PackInline(PackInline {
            home: home(),
            extent: extent(),
            payloads: vec![PackedPayload { key: key("a/b"), version: stamp(), offset: 4096 }],
        }),
        Command::MoveExtents(MoveExtents {
            layout: LayoutVersion(2),
            moves: vec![MovedExtent {
                home: home(),
                id: extent_id(),
                from: LayoutVersion(1),
                brought: vec![NodeId(4)],
            }],
        }),
        Command::EndLeaving(EndLeaving { node: NodeId(3), extents: vec![(home(), extent_id(), 300)] }),
        Command::RemoveNode(RemoveNode { node: NodeId(3) }),
        Command::BeginEpoch(BeginEpoch { epoch: 2, voter: RaftId::new(NodeId(3), Incarnation(0xABC)) }),
        Command::EndHold(EndHold { since: 300 }),
        Command::SetQuota(SetQuota { of: QuotaOf::Bucket(BucketId(5)), quota: quota() }),
        Command::SetQuota(SetQuota { of: QuotaOf::User(user()), quota: quota() }),
        Command::Salvage(Salvage {
            bucket: BucketId(5),
            bucket_name: bucket_name(),
            owner: user(),
            key: key("a/b"),
            bodies: vec![SalvagedBody { part: 2, extent: extent(), md5: [3; 16] }],
            attributes: attributes(),
            newer: true,
        }),
        Command::SetBucket(SetBucket {
            bucket: BucketId(5),
            change: BucketChange::Versioning(Versioning::Suspended),
        }),
        Command::SetBucket(SetBucket { bucket: BucketId(5), change: BucketChange::Set(setting()) }),
        Command::SetBucket(SetBucket {
            bucket: BucketId(5),
            change: BucketChange::Remove(SettingKind::Cors),
        }),
        Command::Guarded(Guarded {
            guard: Guard { lock: lock(), bypass: true, bucket: false },
            command: Box::new(Command::DeleteBucket(DeleteBucket { bucket: BucketId(5) })),
        }),
        Command::SetLock(set_lock()),
        Command::SetLock(SetLock {
            bucket: BucketId(5),
            key: key("a/b"),
            version: None,
            change: LockChange::LegalHold(true),
            bypass: false,
        }),
        Command::Sealed(Sealed {
            sealing: Some(sealing()),
            copied: true,
            command: Box::new(Command::DeleteBucket(DeleteBucket { bucket: BucketId(5) })),
        }),
        Command::SetTags(SetTags {
            bucket: BucketId(5),
            key: key("a/b"),
            version: Some(VersionSelector::Null),
            tags: vec![("k".to_string(), "v".to_string())],
            origin: origin(),
        }),
        Command::SetBucket(SetBucket {
            bucket: BucketId(5),
            change: BucketChange::Set(BucketSetting::Lifecycle(lifecycle())),
        }),
        Command::Expire(Expire { hints: vec![hint()] }),
        Command::FillDue(FillDue { bucket: BucketId(5) }),
        Command::RenameObject(RenameObject {
            bucket: BucketId(5),
            source_key: key("c"),
            source_conditions: ReadConditions {
                if_match: Some(EtagCondition::Any),
                ..ReadConditions::default()
            },
            key: key("a/b"),
            conditions: ReadConditions { if_unmodified_since: Some(2), ..ReadConditions::default() },
            token: Some("token".parse().unwrap()),
            origin: origin(),
        }),
    ]);
    commands.extend(append_commands());
    commands.push(Command::PostObject(put(NewBody::Inline(Bytes::from_static(b"payload")))));
    commands.extend(annotation_commands());
    commands.extend([
        Command::WithAcl(WithAcl {
            ownership: Some(ObjectOwnership::ObjectWriter),
            acl: Some(WantedAcl::Canned(CannedAcl::LogDeliveryWrite)),
            command: Box::new(Command::DeleteBucket(DeleteBucket { bucket: BucketId(5) })),
        }),
        Command::SetAcl(set_acl()),
    ]);
    commands.push(Command::LeadDeliveries);
    let deliver = Deliver { bucket: BucketId(5), cursor: stamp(), delivered: 300, dead: 1 };
    commands.push(Command::Deliver(deliver));
    let logging = Logging {
        bucket: "logs".parse().unwrap(),
        prefix: "p".to_string(),
        format: LogKeyFormat::DeliveryTime,
    };
    for setting in [BucketSetting::Notifications(vec![notification_rule()]), BucketSetting::Logging(logging)]
    {
        let change = BucketChange::Set(setting);
        commands.push(Command::SetBucket(SetBucket { bucket: BucketId(5), change }));
    }
    commands.extend(overlay_changes().map(Command::Overlay));
    commands.push(Command::Recode(Recode { home: home(), version: stamp(), extents: vec![extent()] }));
    let moved = |rule, when| Transition { rule, when, class: "STANDARD_IA".to_string() };
    let transitions = vec![
        moved(0, TransitionWhen::Days(300)),
        moved(1, TransitionWhen::Date(ClusterMs(1_000))),
        moved(2, TransitionWhen::Noncurrent(NoncurrentExpiration { days: 300, newer_versions: Some(2) })),
    ];
    let change = BucketChange::Set(BucketSetting::Transitions(lifecycle(), transitions));
    commands.push(Command::SetBucket(SetBucket { bucket: BucketId(5), change }));
    commands.extend(replications());
    commands
}

fn overlay_changes() -> [OverlayChange; 8] {
    let cluster = || "east".parse::<ClusterName>().unwrap();
    [
        OverlayChange::Found { name: cluster(), sealed_key: Bytes::from_static(b"sealed") },
        OverlayChange::Invite { id: 9, secret_sha256: [3; 32], lifetime_ms: 300 },
        OverlayChange::Admit { invite: Some((9, [3; 32])), joined: true, member: member() },
        OverlayChange::Remove(cluster()),
        OverlayChange::Grant(overlay_grant()),
        OverlayChange::Revoke { cluster: cluster(), user: GrantedUser::One(user()) },
        OverlayChange::Leave,
        OverlayChange::Left { cluster: cluster(), serial: 300 },
    ]
}

fn source() -> Source {
    Source { cluster: "east".parse().unwrap(), bucket: bucket_name() }
}

fn replication() -> Replication {
    let rule = ReplicationRule {
        id: "r".to_string(),
        priority: 300,
        enabled: true,
        form: ReplicationFilter::And,
        prefix: "p".to_string(),
        tags: vec![("k".to_string(), "v".to_string())],
        destination: "photos--east".parse().unwrap(),
        cluster: "east".parse().unwrap(),
        bucket: bucket_name(),
        account: Some("1".to_string()),
        storage_class: Some("STANDARD".to_string()),
        markers: Some(false),
        existing: Some(true),
    };
    Replication { role: "role".to_string(), rules: vec![rule], since: stamp() }
}

fn follow() -> Follow {
    Follow {
        kind: FollowKind::Replica,
        source: BucketId(7),
        cursor: stamp(),
        reached: ClusterMs(1_000),
        compare: true,
        compared: stamp(),
        since: ClusterMs(300),
        objects: 2,
        bytes: 600,
    }
}

fn replications() -> Vec<Command> {
    let version = ReplicaVersion {
        body: NewBody::Inline(Bytes::from_static(b"payload")),
        sealing: Some(sealing()),
        etag: Etag::Md5([1; 16]),
        modified: ClusterMs(1_000),
        checksum: Some(checksum()),
        attributes: attributes(),
    };
    let tags = ReplicaOf::Tags {
        etag: Etag::Multipart([1; 16], 2),
        modified: ClusterMs(1_000),
        tags: vec![("k".to_string(), "v".to_string())],
    };
    let locked = ReplicaOf::Locked { lock: lock(), what: Box::new(ReplicaOf::Version(version.clone())) };
    let relocked = ReplicaOf::Lock { etag: Etag::Md5([1; 16]), modified: ClusterMs(1_000), lock: lock() };
    let part = ReplicaPart { number: 2, md5: [3; 16], checksum: Some(checksum()), extent: Some(extent()) };
    let in_parts =
        ReplicaOf::InParts { parts: vec![part], what: Box::new(ReplicaOf::Version(version.clone())) };
    let kept = [
        ReplicaOf::KeptVersion { id: stamp(), version: version.clone() },
        ReplicaOf::KeptMarker { id: stamp(), modified: ClusterMs(1_000) },
    ];
    let whats = [ReplicaOf::Version(version), ReplicaOf::Marker(ClusterMs(1_000)), tags];
    let change = |what| ReplicaChange { at: stamp(), reached: ClusterMs(300), key: key("a/b"), what };
    let replicate = |step, changes| Replicate {
        bucket: BucketId(5),
        source: source(),
        after: stamp(),
        upto: stamp(),
        reached: ClusterMs(1_000),
        step,
        changes,
    };
    let setting = BucketChange::Set(BucketSetting::Replication(replication()));
    vec![
        Command::SetBucket(SetBucket { bucket: BucketId(5), change: setting }),
        Command::Overlay(OverlayChange::Follow {
            bucket: BucketId(5),
            source: source(),
            kind: FollowKind::Mirror,
            source_id: BucketId(7),
            cursor: stamp(),
        }),
        Command::Overlay(OverlayChange::Unfollow {
            bucket: BucketId(5),
            source: source(),
            cursor: Some(stamp()),
        }),
        Command::LeadFollowing,
        Command::Replicate(replicate(ReplicateStep::Feed, whats.map(change).to_vec())),
        Command::Replicate(replicate(ReplicateStep::Compare, Vec::new())),
        Command::Replicate(replicate(ReplicateStep::Compared { upto: stamp() }, Vec::new())),
        Command::Replicate(replicate(ReplicateStep::Feed, kept.map(change).to_vec())),
        Command::Replicate(replicate(ReplicateStep::Feed, vec![change(locked)])),
        Command::Overlay(OverlayChange::Heard {
            there: vec![("east".parse().unwrap(), bucket_name(), heard())],
            gone: vec![("east".parse().unwrap(), bucket_name())],
        }),
        Command::Overlay(OverlayChange::Promote {
            bucket: BucketId(5),
            source: source(),
            cursor: Some(stamp()),
        }),
        Command::Overlay(OverlayChange::Told { bucket: BucketId(5), source: source() }),
        Command::Overlay(OverlayChange::Supersede { bucket: BucketId(5), by: source(), at: Some(stamp()) }),
        Command::Overlay(OverlayChange::Reopen { bucket: BucketId(5) }),
        Command::Overlay(OverlayChange::Acknowledge { bucket: BucketId(5), to: source(), upto: stamp() }),
        Command::ChangeAcl(set_acl(), origin()),
        Command::ChangeLock(set_lock(), origin()),
        Command::Replicate(replicate(ReplicateStep::Feed, vec![change(relocked)])),
        Command::Replicate(replicate(ReplicateStep::Feed, vec![change(in_parts)])),
    ]
}

fn set_lock() -> SetLock {
    SetLock {
        bucket: BucketId(5),
        key: key("a/b"),
        version: None,
        change: LockChange::Retention(lock().retention),
        bypass: true,
    }
}

fn set_acl() -> SetAcl {
    SetAcl {
        bucket: BucketId(5),
        key: key("a/b"),
        version: Some(VersionSelector::Null),
        acl: WantedAcl::Grants(object_acl().grants),
    }
}

fn member() -> Member {
    Member {
        name: "east".parse().unwrap(),
        key: [7; 32],
        addresses: vec!["a:1".to_string()],
        serial: 300,
        via: Some("west".parse().unwrap()),
        since: ClusterMs(1_000),
        standing: Standing::In,
    }
}

fn heard() -> HeardBucket {
    HeardBucket {
        owner: Some("east/anna".parse().unwrap()),
        created: ClusterMs(1_000),
        objects: 3,
        bytes: 300,
        versioned: true,
        stale_seconds: Some(60),
        heard: ClusterMs(1_000),
    }
}

fn overlay_grant() -> OverlayGrant {
    OverlayGrant {
        cluster: "east".parse().unwrap(),
        user: GrantedUser::All,
        buckets: vec!["photos".parse().unwrap()],
        since: ClusterMs(1_000),
    }
}

fn object_acl() -> ObjectAcl {
    let grant = Grant { grantee: Grantee::User(user()), permission: Permission::WriteAcp };
    ObjectAcl { owner: user(), grants: vec![grant] }
}

fn notification_rule() -> NotificationRule {
    NotificationRule {
        form: NotificationForm::Function,
        id: "i".to_string(),
        arn: "arn:aws:sqs:::hook".to_string(),
        events: vec!["s3:ObjectCreated:*".to_string()],
        prefix: Some("p".to_string()),
        suffix: None,
    }
}

fn hint() -> Hint {
    Hint { due: ClusterMs(1_000), home: home(), item: stamp() }
}

/// Rules of every kind.
fn lifecycle() -> Lifecycle {
    let filter = |form| LifecycleFilter {
        form,
        prefix: Some("p".to_string()),
        tags: vec![("k".to_string(), "v".to_string())],
        larger_than: Some(300),
        smaller_than: None,
    };
    let rule = |form, expiration| LifecycleRule {
        id: "i".to_string(),
        enabled: true,
        filter: filter(form),
        expiration,
        noncurrent: Some(NoncurrentExpiration { days: 300, newer_versions: Some(2) }),
        abort_uploads_days: Some(300),
    };
    Lifecycle {
        rules: vec![
            rule(FilterForm::Prefix, Some(Expiration::Days(300))),
            rule(FilterForm::Filter, Some(Expiration::Date(ClusterMs(1_000)))),
            rule(FilterForm::And, Some(Expiration::DeleteMarkers(true))),
        ],
        day_ms: 86_400_000,
        transition_minimum: TransitionMinimum::VariesByClass,
        transitions: Vec::new(),
    }
}

fn annotation_commands() -> [Command; 4] {
    let set = |change| {
        Command::SetAnnotation(SetAnnotation {
            bucket: BucketId(5),
            key: key("a/b"),
            version: Some(VersionSelector::Null),
            name: "note".parse().unwrap(),
            etag: Some(EtagCondition::Any),
            change,
            bypass: true,
            origin: origin(),
        })
    };
    let new = NewAnnotation {
        seen: stamp(),
        home: home(),
        sealing: sealing(),
        extent: extent(),
        md5: [3; 16],
        checksum: checksum(),
    };
    let annotations =
        CopiedAnnotations { from: home(), version: stamp(), opened: sealing(), sealing: sealing() };
    let inner =
        SetTags { bucket: BucketId(5), key: key("a/b"), version: None, tags: Vec::new(), origin: origin() };
    [
        set(AnnotationChange::Put(Box::new(new))),
        set(AnnotationChange::Remove),
        Command::Annotated(Annotated { annotations, command: Box::new(Command::SetTags(inner)) }),
        Command::CopyBare(CopyObject {
            source_bucket: BucketId(6),
            source_key: key("c"),
            source_version: None,
            source_conditions: ReadConditions::default(),
            bucket: BucketId(5),
            key: key("a/b"),
            expect: Expect::default(),
            attributes: None,
            checksum: None,
            source_seen: None,
            origin: origin(),
        }),
    ]
}

fn append_commands() -> [Command; 2] {
    let append = |appended| {
        Command::AppendObject(AppendObject {
            bucket: BucketId(5),
            key: key("a/b"),
            expect: expect(),
            offset: 300,
            seen: Some(stamp()),
            appended,
            checksum: Some(checksum()),
            attributes: attributes(),
            origin: origin(),
        })
    };
    [
        append(Appended::Whole { body: NewBody::Inline(Bytes::from_static(b"payload")), md5: [3; 16] }),
        append(Appended::Part { extent: Some(extent()), md5: [3; 16], checksum: Some(checksum()) }),
    ]
}

fn cluster_commands() -> Vec<Command> {
    vec![
        Command::OpenSession(OpenSession { kind: SessionKind::Gateway, nonce: 0x0102_0304 }),
        Command::OpenSession(OpenSession { kind: SessionKind::Jobs(NodeId(3)), nonce: 0x0102_0304 }),
        Command::RenewSession(RenewSession { oldest_write: 4, oldest_read: 300, pinned: vec![extent_id()] }),
        Command::EndSession(EndSession { session: session() }),
        Command::SetNode(SetNode { row: node_row() }),
        Command::SetLayout(SetLayout { layout: layout() }),
        Command::AddUser(AddUser { name: user(), key: access_key() }),
        Command::RemoveUser(RemoveUser { name: user() }),
        Command::AddAccessKey(AddAccessKey { key: access_key() }),
        Command::RemoveAccessKey(RemoveAccessKey { id: access_key().id }),
        Command::CreateBucket(CreateBucket { name: bucket_name(), owner: user() }),
        Command::DeleteBucket(DeleteBucket { bucket: BucketId(5) }),
    ]
}

fn upload_commands() -> Vec<Command> {
    vec![
        Command::CreateUpload(CreateUpload {
            bucket: BucketId(5),
            key: key("a/b"),
            attributes: attributes(),
            checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
            origin: origin(),
        }),
        Command::PutPart(PutPart {
            bucket: BucketId(5),
            key: key("a/b"),
            upload: stamp(),
            number: 2,
            md5: [3; 16],
            checksum: Some(checksum()),
            extent: Some(extent()),
        }),
        Command::CompleteUpload(CompleteUpload {
            bucket: BucketId(5),
            key: key("a/b"),
            upload: stamp(),
            parts: vec![CompletePart { number: 2, md5: [3; 16], checksum: Some(checksum()) }],
            expect: expect(),
            checksum: Some(checksum()),
            bytes: Some(300),
            origin: origin(),
        }),
        Command::AbortUpload(AbortUpload { bucket: BucketId(5), key: key("a/b"), upload: stamp() }),
    ]
}

fn replies() -> Vec<Reply> {
    let deleted = DeletedKey { version: Some("null".to_string()), marker: Some(stamp().to_string()) };
    let done = [
        Done::Nothing,
        Done::Session(session()),
        Done::Bucket(bucket()),
        Done::Stored(stored()),
        Done::Deleted(vec![Ok(deleted), Err(Reject::PreconditionFailed)]),
        Done::Upload(stamp()),
        Done::Part(ClusterMs(1_000)),
        Done::GivenUp(None),
        Done::GivenUp(Some(Box::new(Reply::Done(Done::Part(ClusterMs(1_000)))))),
        Done::Expired(Expired { current: 1, noncurrent: 2, markers: 3, uploads: 4, put_off: 300 }),
        Done::Leads(Some(session())),
    ];
    let mut replies: Vec<Reply> = done.into_iter().map(Reply::Done).collect();
    replies.extend([Reply::Rejected(Reject::NoSuchKey), Reply::TooLate]);
    let refused = Some(Box::new(Reject::NoSuchKey));
    replies.push(Reply::Done(Done::Replicated { cursor: stamp(), refused }));
    replies
}

fn rejects() -> Vec<Reject> {
    vec![
        Reject::SessionEnded,
        Reject::SessionFull,
        Reject::LateExtent,
        Reject::StaleNode,
        Reject::LayoutExists,
        Reject::NoSuchUser,
        Reject::UserExists,
        Reject::UserOwnsBuckets,
        Reject::NoSuchAccessKey,
        Reject::AccessKeyExists,
        Reject::NoSuchBucket,
        Reject::BucketExists { owner: user() },
        Reject::BucketNotEmpty,
        Reject::TooManyBuckets,
        Reject::NoSuchKey,
        Reject::NoSuchVersion,
        Reject::IsDeleteMarker,
        Reject::PreconditionFailed,
        Reject::SourcePreconditionFailed,
        Reject::SourceChanged,
        Reject::CopyOntoItself,
        Reject::NoSuchUpload,
        Reject::InvalidPart { number: 2 },
        Reject::InvalidPartOrder,
        Reject::PartTooSmall { number: 2, bytes: 300 },
        Reject::TooLarge,
        Reject::WrongSize,
        Reject::Malformed("why".to_string()),
        Reject::NodeInUse,
        Reject::NodeRemoved,
        Reject::QuotaExceeded { of: QuotaOf::User(user()), quota: quota() },
        Reject::Locked,
        Reject::NoObjectLock,
        Reject::RetentionPast,
        Reject::BucketState("why".to_string()),
        Reject::NoSuchPolicy,
        Reject::TooManyPolicies,
        Reject::DeleteMarker { version: "null".to_string(), modified: ClusterMs(1_000), current: true },
        Reject::WrongOffset { bytes: 300 },
        Reject::TooManyParts,
        Reject::TokenReused,
        Reject::TooManyAnnotations,
        Reject::AclNotSupported,
        Reject::PublicAclBlocked,
        Reject::NoSuchGrantee { user: user() },
        Reject::NotDeliverer,
        Reject::Overlay(OverlayRefusal::TooMany),
        Reject::Overlay(OverlayRefusal::IsCopy),
        Reject::Overlay(OverlayRefusal::SupersededByOther),
        Reject::Overlay(OverlayRefusal::NotSuperseded),
        Reject::Superseded { by: source() },
    ]
}

fn queries() -> Vec<Query> {
    let mut queries = vec![
        Query::Bucket(bucket_name()),
        Query::Buckets {
            owner: Some(user()),
            prefix: "p".to_string(),
            after: Some("a".to_string()),
            limit: 300,
        },
        Query::Usage(BucketId(5)),
        Query::Object {
            bucket: BucketId(5),
            key: key("a/b"),
            version: Some(VersionSelector::Stamp(stamp())),
            want: Want::Body,
        },
    ];
    let (prefix, delimiter, after) = ("p".to_string(), "/".to_string(), "a".to_string());
    queries.extend([
        Query::List(List {
            bucket: BucketId(5),
            prefix: prefix.clone(),
            delimiter: delimiter.clone(),
            after: after.clone(),
            limit: 300,
        }),
        Query::ListVersions(ListVersions {
            bucket: BucketId(5),
            prefix: prefix.clone(),
            delimiter: delimiter.clone(),
            after_key: after.clone(),
            after_version: Some(VersionSelector::Null),
            limit: 300,
        }),
        Query::ListUploads(ListUploads {
            bucket: BucketId(5),
            prefix,
            delimiter,
            after_key: after,
            after_upload: Some(stamp()),
            limit: 300,
        }),
        Query::Parts { bucket: BucketId(5), key: key("a/b"), upload: stamp(), after: 2, limit: 300 },
    ]);
    queries.extend(work_queries());
    queries
}

fn work_queries() -> Vec<Query> {
    vec![
        Query::AccessKey(access_key().id),
        Query::Users,
        Query::Status,
        Query::Layout(Some(LayoutVersion(1))),
        Query::Sessions,
        Query::Debts { node: NodeId(3), after: Some((home(), extent_id())), limit: 300 },
        Query::Garbage { after: Some((BucketId(5), stamp())), limit: 300 },
        Query::Named(vec![(home(), extent_id())]),
        Query::Events { bucket: BucketId(5), after: Some(stamp()), limit: 300 },
        Query::OldUploads { age_ms: 1_000, after: Some((home(), stamp())), limit: 300 },
        Query::Absences(NodeId(3)),
        Query::Placed {
            node: NodeId(3),
            of: PlacedOf::Absences,
            after: Some((home(), extent_id())),
            limit: 300,
        },
        Query::Inline { above: 300, after: Some((home(), stamp())), before: 300, bytes: 1 << 20 },
        Query::Members,
        Query::Moving { node: NodeId(3), after: Some((home(), extent_id())), limit: 300 },
        Query::Leaving { node: NodeId(3), after: Some((home(), extent_id())), limit: 300 },
        Query::LayoutUse { after: Some((home(), extent_id())) },
        Query::Extents { after: Some((home(), extent_id())), limit: 300 },
        Query::Hold,
        Query::Quota(QuotaOf::User(user())),
        Query::NamedNow(vec![(home(), extent_id())]),
        Query::Setting { bucket: BucketId(5), kind: SettingKind::Cors },
        Query::Lock { bucket: BucketId(5), key: key("a/b"), version: stamp() },
        Query::Settings(BucketId(5)),
        Query::UserPolicies(user()),
        Query::Due { after: Some(hint()), limit: 300 },
        Query::Upload { bucket: BucketId(5), key: key("a/b"), upload: stamp() },
        Query::Changes { bucket: BucketId(5), after: stamp(), limit: 300 },
        Query::AllChanges { after: stamp(), limit: 300 },
        Query::Annotations {
            bucket: BucketId(5),
            key: key("a/b"),
            version: Some(VersionSelector::Null),
            name: Some("note".parse().unwrap()),
        },
        Query::Acl { bucket: BucketId(5), key: key("a/b"), version: None },
        Query::Owners { bucket: BucketId(5), versions: vec![(key("a/b"), stamp())] },
        Query::Deliveries { after: Some(BucketId(5)), limit: 300 },
        Query::Overlay,
        Query::Catalog { after: Some(BucketId(5)), limit: 300 },
        Query::Recoding { after: Some((home(), stamp())) },
        Query::Follows,
        Query::Replications { after: Some(BucketId(5)), limit: 300 },
        Query::SettingsOf { kind: SettingKind::Staleness, after: Some(BucketId(5)), limit: 300 },
        Query::Heard { from: Some(("east".parse().unwrap(), Some(bucket_name()))), limit: 300 },
        Query::Promotions,
        Query::Acknowledged(BucketId(5)),
    ]
}

fn page<T>(item: T, position_stamp: Option<Stamp>) -> Page<T> {
    let entries = vec![PageEntry::Prefix("a/".to_string()), PageEntry::Item(key("b"), item)];
    Page { entries, more: true, position: "b".to_string(), position_stamp }
}

fn answers() -> Vec<Answer> {
    let slice = Slice {
        extent: extent_id(),
        offset: 0,
        bytes: 300,
        part: 2,
        md5: [3; 16],
        checksum: Some(checksum()),
    };
    let view = |body| ObjectView { object: object(), body, parts: vec![slice.clone()] };
    let marker = Version::DeleteMarker { stamp: stamp(), null_version: false, modified: ClusterMs(1_000) };
    let part = Part {
        number: 2,
        bytes: 300,
        md5: [3; 16],
        checksum: Some(checksum()),
        modified: ClusterMs(1_000),
        extent: Some(extent_id()),
    };
    let mut answers = vec![
        Answer::Bucket(Some(bucket())),
        Answer::Buckets { buckets: vec![bucket()], more: true },
        Answer::Usage(Usage { objects: 1, bytes: 300, uploads: 2, part_bytes: 5 }),
        Answer::Object(view(BodyView::NotAsked)),
        Answer::Object(view(BodyView::Inline(Bytes::from_static(b"payload")))),
        Answer::Object(view(BodyView::Pieces(vec![Piece { extent: extent(), offset: 1, bytes: 300 }]))),
        Answer::List(page(object(), None)),
        Answer::Versions(page(ListedVersion { version: marker, latest: true }, Some(stamp()))),
        Answer::Uploads(page(upload(), Some(stamp()))),
        Answer::Parts(PartsPage { upload: upload(), parts: vec![part], more: true }),
    ];
    answers.extend(work_answers());
    answers
}

fn work_answers() -> Vec<Answer> {
    let user_row = User { name: user(), created: ClusterMs(1_000), buckets: 1 };
    let session_row = Session {
        kind: SessionKind::Gateway,
        lowest_open: 3,
        oldest_write: 4,
        oldest_read: 5,
        pinned: vec![extent_id()],
        nonce: 6,
    };
    let status = Status {
        cluster: ClusterRow::first(),
        nodes: vec![node_row()],
        debts: vec![(NodeId(3), 300)],
        garbage: 1,
        buckets: 2,
        usage: Usage { objects: 1, bytes: 300, uploads: 2, part_bytes: 5 },
        sessions: 4,
        absences: vec![(NodeId(3), 1024)],
    };
    let event = Event {
        kind: EventKind::DeleteMarker,
        key: key("a/b"),
        version: stamp(),
        bytes: 0,
        etag: None,
        at: ClusterMs(1_000),
        origin: origin(),
    };
    vec![
        Answer::AccessKey(Some(access_key())),
        Answer::Users(vec![(user_row, vec![access_key().id])]),
        Answer::Status(status),
        Answer::Layout(Some(layout())),
        Answer::Sessions(vec![(session(), session_row)]),
        Answer::Debts(vec![(home(), extent())]),
        Answer::Garbage(vec![(
            BucketId(5),
            stamp(),
            Garbage::Body { home: home(), extents: vec![extent_id()] },
        )]),
        Answer::Named(vec![true, false]),
        Answer::Events(vec![(stamp(), event.clone())]),
        Answer::OldUploads { uploads: vec![(home(), stamp())], next: Some((home(), stamp())) },
        Answer::Absences(vec![(258, Absence { since: 0, layout: LayoutVersion(1), index: 300 })]),
        Answer::Placed { extents: vec![(home(), extent())], next: Some((home(), extent_id())) },
        Answer::Inline(InlinePage {
            total_bytes: 300,
            bucket: Some(bucket()),
            payloads: vec![(key("a/b"), stamp(), Bytes::from_static(b"payload"))],
            position: Some((home(), stamp())),
        }),
        Answer::Members { nodes: Vec::new(), layout: LayoutVersion(2) },
        Answer::Leaving {
            copies: vec![(home(), extent_id(), Leaving { since: 300, chunks: 5 })],
            next: Some((home(), extent_id())),
        },
        Answer::LayoutUse { extents: vec![(LayoutVersion(1), 300)], next: Some((home(), extent_id())) },
        Answer::Hold(Some(Hold { since: 300, at: ClusterMs(1_000) })),
        Answer::Quota { quota: quota(), usage: Usage::default() },
        Answer::Setting(Some(setting())),
        Answer::Lock(lock()),
        Answer::Settings(vec![setting()].into()),
        Answer::UserPolicies(vec![(policy_name(), "{}".to_string())].into()),
        Answer::Due(DuePage {
            now: ClusterMs(1_000),
            hints: vec![hint()],
            next: Some(ClusterMs(1_001)),
            walk: Some(BucketId(5)),
        }),
        Answer::Upload { upload: upload(), sealing: Some(sealing()) },
        Answer::Changes(Changes {
            events: vec![(stamp(), Event { kind: EventKind::ExpireMarker, ..event.clone() })],
            more: true,
            trimmed: stamp(),
            latest: stamp(),
            versioning: Versioning::Suspended,
        }),
        Answer::Deliveries(DeliveriesPage {
            deliverer: Some(session()),
            deliverer_lives: true,
            buckets: vec![(bucket(), Delivery { cursor: stamp(), delivered: 300, dead: 1, lost: 2 }, true)],
            more: true,
        }),
        Answer::AllChanges(AllChanges {
            events: vec![(stamp(), BucketId(5), event.clone())],
            more: true,
            trimmed: stamp(),
        }),
        Answer::Annotations(AnnotationsView {
            object: object(),
            home: home(),
            sealing: Some(sealing()),
            annotations: vec![Annotation {
                name: "note".parse().unwrap(),
                bytes: 300,
                md5: [3; 16],
                checksum: checksum(),
                modified: ClusterMs(1_000),
                extent: extent_id(),
            }],
            piece: Some(Piece { extent: extent(), offset: 0, bytes: 300 }),
        }),
        Answer::Acl(Some(object_acl())),
        Answer::Owners(vec![None, Some(user())]),
        Answer::Overlay(
            OverlayState {
                identity: Some(OverlayIdentity {
                    name: "west".parse().unwrap(),
                    sealed_key: Bytes::from_static(b"sealed"),
                    since: ClusterMs(1_000),
                }),
                members: vec![member()],
                invites: 2,
                grants: vec![overlay_grant()],
            }
            .into(),
        ),
        Answer::Catalog { buckets: vec![(bucket(), Usage::default())], more: true },
        Answer::Recoding(Some(Recoding { home: home(), version: stamp(), extents: vec![extent()] })),
        Answer::Events(vec![(stamp(), Event { kind: EventKind::Transition, ..event.clone() })]),
        Answer::Follows(Follows {
            follower: Some(session()),
            follower_lives: true,
            follows: vec![(bucket(), source(), follow())],
        }),
        Answer::Replications { buckets: vec![(bucket(), replication())], more: true },
        Answer::SettingsOf {
            settings: vec![(BucketId(5), BucketSetting::Staleness(300))],
            next: Some(BucketId(5)),
        },
        Answer::Heard { buckets: vec![("east".parse().unwrap(), bucket_name(), heard())], more: true },
        Answer::Promotions(Promotions {
            superseded: vec![(bucket(), Superseded { by: source(), at: stamp(), since: ClusterMs(1_000) })],
            promoted: vec![(
                bucket(),
                source(),
                Promotion { source: BucketId(7), cursor: stamp(), since: ClusterMs(1_000) },
            )],
        }),
        Answer::Acknowledged(vec![(source(), Acknowledged { first: stamp(), upto: stamp() })]),
        Answer::Events(vec![(stamp(), Event { kind: EventKind::Acl, ..event.clone() })]),
        Answer::Events(vec![(stamp(), Event { kind: EventKind::LegalHold, ..event })]),
    ]
}
