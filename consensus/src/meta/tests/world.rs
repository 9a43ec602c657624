//! A cluster of rows only: runs commands through a session and asks questions.

use bytes::Bytes;
use fabric::ids::{BucketId, ExtentId, LayoutVersion, NodeId, SessionId, Stamp};
use fabric::placement::Layout;

use crate::meta::answer::answer;
use crate::meta::apply::{Context, apply};
use crate::meta::audit::audit;
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::names::ObjectKey;
use crate::meta::query::{AnnotationsView, Answer, BodyView, ObjectView, Query, Want};
use crate::meta::sealing::{Frames, Scheme, Sealing, sealed_bytes};
use crate::meta::store::MemoryRows;

pub(super) struct World {
    pub rows: MemoryRows,
    pub context: Context,
    pub index: u64,
    pub now: ClusterMs,
    pub session: SessionId,
    pub sequence: u64,
    pub lowest_open: u64,
    pub bucket: BucketId,
    extents: u64,
}

impl World {
    /// Three nodes with one partition, a user, a bucket and a session.
    pub fn new() -> World {
        let mut world = World {
            rows: MemoryRows::default(),
            context: Context::default(),
            index: 0,
            now: ClusterMs(1_000_000),
            session: SessionId { epoch: 0, number: 0 },
            sequence: 0,
            lowest_open: 1,
            bucket: BucketId(0),
            extents: 0,
        };
        world.session = world.open_session(1);
        let partitions = vec![vec![NodeId(1), NodeId(2), NodeId(3)]];
        world
            .done(Command::SetLayout(SetLayout { layout: Layout { version: LayoutVersion(1), partitions } }));
        world.done(add_user("anna", "KEY1"));
        world.bucket = world.create_bucket("photos");
        world
    }

    /// Applies an entry at the next index.
    pub fn apply(&mut self, session: SessionId, sequence: u64, command: Command) -> Reply {
        self.index += 1;
        let entry = Entry { session, sequence, lowest_open: self.lowest_open, at: self.now, command };
        apply(&mut self.rows, &self.context, self.index, &entry).unwrap()
    }

    /// Applies a command as the next of the session.
    pub fn run(&mut self, command: Command) -> Reply {
        self.sequence += 1;
        self.apply(self.session, self.sequence, command)
    }

    pub fn done(&mut self, command: Command) -> Done {
        match self.run(command) {
            Reply::Done(done) => done,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn rejected(&mut self, command: Command) -> Reject {
        let before = self.rows.clone();
        match self.run(command) {
            Reply::Rejected(reject) => {
                let changed: Vec<_> = self.rows.all().map(|(table, _, _)| table.name()).collect();
                let stored: Vec<_> = before.all().map(|(table, _, _)| table.name()).collect();
                let beside = |names: &[&str]| names.iter().filter(|name| **name != "replies").count();
                assert_eq!(beside(&changed), beside(&stored), "a refusal leaves a trace");
                reject
            }
            reply => panic!("{reply:?}"),
        }
    }

    pub fn open_session(&mut self, nonce: u128) -> SessionId {
        let none = SessionId { epoch: 0, number: 0 };
        let open = Command::OpenSession(OpenSession { kind: SessionKind::Gateway, nonce });
        match self.apply(none, 0, open) {
            Reply::Done(Done::Session(id)) => id,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn create_bucket(&mut self, name: &str) -> BucketId {
        let create = CreateBucket { name: name.parse().unwrap(), owner: "anna".parse().unwrap() };
        match self.done(Command::CreateBucket(create)) {
            Done::Bucket(bucket) => bucket.id,
            done => panic!("{done:?}"),
        }
    }

    pub fn set_versioning(&mut self, versioning: Versioning) {
        let change = BucketChange::Versioning(versioning);
        self.done(Command::SetBucket(SetBucket { bucket: self.bucket, change }));
    }

    /// An extent of the session that every owner holds.
    pub fn extent(&mut self, bytes: u64) -> Extent {
        self.extents += 1;
        let id = ExtentId::new(0xABCD, self.session, self.extents);
        Extent { id, bytes, chunk_bytes: 1 << 20, layout: LayoutVersion(1), confirmed: 0b111 }
    }

    pub fn put(&self, key: &str, body: NewBody) -> PutObject {
        PutObject {
            bucket: self.bucket,
            key: self::key(key),
            expect: Expect::default(),
            etag: etag(1),
            body,
            checksum: None,
            attributes: Attributes::default(),
            origin: Origin::default(),
        }
    }

    pub fn put_inline(&mut self, key: &str, text: &str) -> Stored {
        let put = self.put(key, NewBody::Inline(Bytes::copy_from_slice(text.as_bytes())));
        stored(self.done(Command::PutObject(put)))
    }

    pub fn put_extent(&mut self, key: &str) -> Extent {
        let extent = self.extent(100_000);
        let put = self.put(key, NewBody::Extent(extent.clone()));
        self.done(Command::PutObject(put));
        extent
    }

    /// Payloads that are inline now, up to so many bytes.
    pub fn inline(&self, bytes: u64) -> Vec<(ObjectKey, Stamp, Bytes)> {
        let query = Query::Inline { above: 0, after: None, before: u64::MAX, bytes };
        match self.ask(query) {
            Ok(Answer::Inline(page)) => page.payloads,
            answer => panic!("{answer:?}"),
        }
    }

    /// Moves payloads into a new extent, one after the other.
    pub fn pack(&mut self, payloads: &[(ObjectKey, Stamp, Bytes)]) -> PackInline {
        let mut bytes = 0;
        let mut packed = Vec::new();
        for (key, version, payload) in payloads {
            packed.push(PackedPayload { key: key.clone(), version: *version, offset: bytes });
            bytes += payload.len() as u64;
        }
        let home = Home { bucket: self.bucket, key: payloads[0].0.clone() };
        PackInline { home, extent: self.extent(bytes), payloads: packed }
    }

    pub fn copy(&self, from: &str, to: &str) -> CopyObject {
        CopyObject {
            source_bucket: self.bucket,
            source_key: key(from),
            source_version: None,
            source_conditions: ReadConditions::default(),
            bucket: self.bucket,
            key: key(to),
            expect: Expect::default(),
            attributes: None,
            checksum: None,
            source_seen: None,
            origin: Origin::default(),
        }
    }

    pub fn rename(&self, from: &str, to: &str) -> RenameObject {
        RenameObject {
            bucket: self.bucket,
            source_key: key(from),
            source_conditions: ReadConditions::default(),
            key: key(to),
            conditions: ReadConditions::default(),
            token: None,
            origin: Origin::default(),
        }
    }

    /// The current version of a key with its body.
    fn view(&self, key: &str) -> Option<ObjectView> {
        let query =
            Query::Object { bucket: self.bucket, key: self::key(key), version: None, want: Want::Body };
        match self.ask(query) {
            Ok(Answer::Object(view)) => Some(view),
            _ => None,
        }
    }

    /// The current version of a key.
    pub fn current(&self, key: &str) -> Option<Object> {
        self.view(key).map(|view| view.object)
    }

    /// As a gateway appends: a part where there is an extent, else all bytes once more.
    pub fn append(&mut self, key: &str, text: &str) -> AppendObject {
        let view = self.view(key);
        let body = view.as_ref().map_or(BodyView::Inline(Bytes::new()), |view| view.body.clone());
        let appended = match body {
            BodyView::Inline(before) => {
                let whole = [&before[..], text.as_bytes()].concat();
                Appended::Whole { body: NewBody::Inline(whole.into()), md5: [7; 16] }
            }
            _ => {
                let extent = (!text.is_empty()).then(|| self.extent(text.len() as u64));
                Appended::Part { extent, md5: [8; 16], checksum: None }
            }
        };
        AppendObject {
            bucket: self.bucket,
            key: self::key(key),
            expect: Expect::default(),
            offset: view.as_ref().map_or(0, |view| view.object.bytes),
            seen: view.map(|view| view.object.stamp),
            appended,
            checksum: None,
            attributes: Attributes::default(),
            origin: Origin::default(),
        }
    }

    /// As a gateway annotates the current version: where the others have their home.
    pub fn annotate(&mut self, key: &str, name: &str, bytes: u64) -> SetAnnotation {
        let key = self::key(key);
        let query = Query::Annotations { bucket: self.bucket, key: key.clone(), version: None, name: None };
        let view = match self.ask(query) {
            Ok(Answer::Annotations(view)) => Some(view),
            _ => None,
        };
        let own = Home { bucket: self.bucket, key: key.clone() };
        let home = view.as_ref().map_or(own, |view| view.home.clone());
        let seen = view.as_ref().map_or(Stamp::ZERO, |view| view.object.stamp);
        let sealing = view.and_then(|view| view.sealing).unwrap_or_else(sealing);
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            value: Bytes::from_static(&[1, 2, 3, 4]),
        };
        let extent = self.extent(sealed_bytes(bytes));
        let new = NewAnnotation { seen, home, sealing, extent, md5: [9; 16], checksum };
        SetAnnotation {
            bucket: self.bucket,
            key,
            version: None,
            name: name.parse().unwrap(),
            etag: None,
            change: AnnotationChange::Put(Box::new(new)),
            bypass: false,
            origin: Origin::default(),
        }
    }

    /// As a gateway copies what is to be encrypted otherwise, with its annotations under the data key sealed as `resealed`.
    pub fn copy_anew(&mut self, from: &str, to: &str, resealed: &Sealing) -> Option<Command> {
        let source = self.current(from)?;
        let bytes = source.bytes.max(1);
        let extent = self.extent(sealed_bytes(bytes));
        let put = Command::PutObject(self.put(to, NewBody::Extent(extent)));
        let put =
            Command::Sealed(Sealed { sealing: Some(resealed.clone()), copied: true, command: Box::new(put) });
        let query = Query::Annotations { bucket: self.bucket, key: key(from), version: None, name: None };
        let Ok(Answer::Annotations(AnnotationsView { sealing: Some(opened), .. })) = self.ask(query) else {
            return Some(put);
        };
        let from = Home { bucket: self.bucket, key: key(from) };
        let sealing = resealed.clone();
        let annotations = CopiedAnnotations { from, version: source.stamp, opened, sealing };
        Some(Command::Annotated(Annotated { annotations, command: Box::new(put) }))
    }

    pub fn delete(&self, key: &str, version: Option<VersionSelector>) -> Command {
        let key = DeleteKey { key: self::key(key), version, expect: Expect::default() };
        Command::DeleteObjects(DeleteObjects {
            bucket: self.bucket,
            keys: vec![key],
            origin: Origin::default(),
        })
    }

    pub fn delete_one(&mut self, key: &str, version: Option<VersionSelector>) -> DeletedKey {
        let delete = self.delete(key, version);
        match self.done(delete) {
            Done::Deleted(mut outcomes) => outcomes.pop().unwrap().unwrap(),
            done => panic!("{done:?}"),
        }
    }

    pub fn create_upload(&mut self, key: &str) -> Stamp {
        self.create_upload_sealed(key, None)
    }

    pub fn create_upload_sealed(&mut self, key: &str, sealing: Option<Sealing>) -> Stamp {
        let create = CreateUpload {
            bucket: self.bucket,
            key: self::key(key),
            attributes: Attributes::default(),
            checksum: None,
            origin: Origin { requester: "anna".to_string(), ..Origin::default() },
        };
        match self.done(encrypted(sealing, Command::CreateUpload(create))) {
            Done::Upload(id) => id,
            done => panic!("{done:?}"),
        }
    }

    pub fn part(&mut self, key: &str, upload: Stamp, number: u16, bytes: u64) -> PutPart {
        let extent = (bytes != 0).then(|| self.extent(bytes));
        let md5 = [number as u8; 16];
        PutPart { bucket: self.bucket, key: self::key(key), upload, number, md5, checksum: None, extent }
    }

    pub fn complete(&self, key: &str, upload: Stamp, numbers: &[u16]) -> CompleteUpload {
        let part = |number: &u16| CompletePart { number: *number, md5: [*number as u8; 16], checksum: None };
        CompleteUpload {
            bucket: self.bucket,
            key: self::key(key),
            upload,
            parts: numbers.iter().map(part).collect(),
            expect: Expect::default(),
            checksum: None,
            bytes: None,
            origin: Origin::default(),
        }
    }

    pub fn ask(&self, query: Query) -> Result<Answer, Reject> {
        answer(&self.rows, self.index, &query).unwrap().answer
    }

    pub fn audit(&self) {
        assert_eq!(audit(&self.rows).unwrap(), Vec::<String>::new());
    }
}

/// A bounded number of random cases; a failure prints its input and writes no file.
pub(super) fn cases(number: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases: number, failure_persistence: None, ..Default::default() }
}

pub(super) fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

pub(super) fn etag(byte: u8) -> Etag {
    Etag::Md5([byte; 16])
}

pub(super) fn sealing() -> Sealing {
    Sealing {
        frames: Frames::Gcm,
        scheme: Scheme::Store { version: 1 },
        data_key: Bytes::from_static(b"data key"),
    }
}

/// A command about encrypted bytes, where there is a sealing.
pub(super) fn encrypted(sealing: Option<Sealing>, command: Command) -> Command {
    match sealing {
        None => command,
        sealing => Command::Sealed(Sealed { sealing, copied: false, command: Box::new(command) }),
    }
}

pub(super) fn stored(done: Done) -> Stored {
    match done {
        Done::Stored(stored) => stored,
        done => panic!("{done:?}"),
    }
}

pub(super) fn add_user(name: &str, key: &str) -> Command {
    let key = AccessKey {
        id: key.parse().unwrap(),
        user: name.parse().unwrap(),
        sealed_secret: Bytes::from_static(b"sealed"),
        created: ClusterMs(0),
    };
    Command::AddUser(AddUser { name: name.parse().unwrap(), key })
}
