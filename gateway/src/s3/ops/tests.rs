//! Operations over the real model of the metadata and chunks in memory: what one operation stores, another reads.

#![allow(clippy::unwrap_used)]

mod encryption;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::{Meta, MetaError, ReadGuard, WriteGuard};
use consensus::meta::answer::answer;
use consensus::meta::apply::{Context as ApplyContext, apply};
use consensus::meta::command::{AddUser, Command, Done, Entry, OpenSession, Reply, SetLayout};
use consensus::meta::model::{AccessKey, ClusterMs, Origin, SessionKind};
use consensus::meta::query::{Answered as MetaAnswered, Query as MetaQuery};
use consensus::meta::store::MemoryRows;
use fabric::ids::{LayoutVersion, NodeId, SessionId};
use fabric::limits::{MIB, PART_BYTES_MIN};
use fabric::placement::Layout;
use futures::StreamExt as _;
use http::{Method, StatusCode};

use super::all;
use crate::data::fakes::{FakeChunks, TestEnv};
use crate::data::{Data, DataConfig};
use crate::keyring::KeyRing;
use crate::s3::access::{Access, Facts, Policies, Subject};
use crate::s3::auth::Verified;
use crate::s3::auth::tests::OneKey;
use crate::s3::checksum::{self, Hasher};
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Context, resolve_bucket};
use crate::s3::path::{CanonicalPath, Target};
use crate::s3::request::Request;
use crate::s3::response::{Response, ResponseBody};
use crate::s3::route::Router;
use crate::s3::search::{NoIndex, Searching};
use crate::s3::testing::TestRequest;
use crate::secrets::ClusterKey;

/// The model without a log: every proposal is applied at once.
struct ModelMeta(Mutex<Model>);

#[derive(Default)]
struct Model {
    rows: MemoryRows,
    index: u64,
    sequence: u64,
    extents: u64,
    session: Option<SessionId>,
}

impl Model {
    fn apply(&mut self, command: Command) -> Result<Done, MetaError> {
        self.index += 1;
        self.sequence += 1;
        let entry = Entry {
            session: self.session.unwrap_or(SessionId { epoch: 0, number: 0 }),
            sequence: self.sequence,
            lowest_open: self.sequence,
            at: ClusterMs(1_795_370_400_000 + self.index * 1000),
            command,
        };
        match apply(&mut self.rows, &ApplyContext::default(), self.index, &entry).unwrap() {
            Reply::Done(done) => Ok(done),
            Reply::Rejected(reject) => Err(MetaError::Rejected(reject)),
            Reply::TooLate => Err(MetaError::Unavailable("too late".to_string())),
        }
    }
}

#[async_trait]
impl Meta for ModelMeta {
    async fn propose(&self, command: Command) -> Result<Done, MetaError> {
        self.0.lock().unwrap().apply(command)
    }
    async fn query(&self, query: MetaQuery) -> Result<MetaAnswered, MetaError> {
        let model = self.0.lock().unwrap();
        Ok(answer(&model.rows, model.index, &query).unwrap())
    }
    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        let mut model = self.0.lock().unwrap();
        model.extents += 1;
        Ok(WriteGuard::new(model.session.unwrap(), model.extents, Box::new(())))
    }
    fn begin_read(&self) -> ReadGuard {
        ReadGuard::new(Box::new(()))
    }
}

/// A store with the users `tester` and `other` and the bucket `photos`.
struct World {
    meta: Arc<dyn Meta>,
    data: Arc<Data>,
    chunks: Arc<FakeChunks>,
    ring: Arc<KeyRing>,
    router: Router,
}

async fn world() -> World {
    let mut model = Model::default();
    let Ok(Done::Session(session)) =
        model.apply(Command::OpenSession(OpenSession { kind: SessionKind::Gateway, nonce: 1 }))
    else {
        panic!("no session");
    };
    let owners: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let layout = Layout { version: LayoutVersion(1), partitions: vec![owners; fabric::limits::PARTITIONS] };
    model.apply(Command::SetLayout(SetLayout { layout })).unwrap();
    (model.session, model.sequence) = (Some(session), 0);
    for name in ["tester", "other"] {
        let key = AccessKey {
            id: format!("KEY{name}").parse().unwrap(),
            user: name.parse().unwrap(),
            sealed_secret: Bytes::new(),
            created: ClusterMs(0),
        };
        model.apply(Command::AddUser(AddUser { name: name.parse().unwrap(), key })).unwrap();
    }
    let meta: Arc<dyn Meta> = Arc::new(ModelMeta(Mutex::new(model)));
    let env = TestEnv::shared();
    let config = DataConfig {
        write_bytes_max: 32 * MIB,
        read_bytes_max: 32 * MIB,
        cache_bytes_max: 0,
        inline_bytes_max: u64::MAX,
    };
    let chunks = Arc::new(FakeChunks::default());
    let data = Data::new(env, meta.clone(), chunks.clone(), config);
    let ring = format!("photos-key 1 {}\n", "ab".repeat(32));
    let ring = Arc::new(KeyRing::parse(&ring).unwrap().with_derived(&ClusterKey::from_bytes([1; 32])));
    let world = World { meta, data: Arc::new(data), chunks, ring, router: Router::new(&all()) };
    world.ok(Method::PUT, "/photos", &[], "").await;
    world
}

/// An answer with its body read.
#[derive(Debug)]
struct Answered {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The text of the first element of this name.
    fn element(&self, name: &str) -> &str {
        self.elements(name).first().copied().unwrap_or("")
    }

    fn elements(&self, name: &str) -> Vec<&str> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let pieces = self.text().split(&open).skip(1);
        pieces.filter_map(|piece| piece.split_once(&close).map(|(text, _)| text)).collect()
    }
}

impl World {
    async fn call(
        &self,
        user: &str,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> S3Result<Answered> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let target = CanonicalPath::parse(path, None)?.target().clone();
        let query = crate::s3::Query::parse(query)?;
        let map =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let op = self.router.route(&method, &target, &query, &map)?;
        let mut request = TestRequest::new(method, uri).rule(op.body());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request: Request = request.body(body);
        let facts = Facts {
            source: request.source(),
            secure: request.secure(),
            now_ms: 0,
            query: request.query.clone(),
            headers: request.headers.clone(),
        };
        let signer = Verified::for_tests(user).signer().cloned();
        let policies = Arc::new(Policies::default());
        let access = Access::of(policies, self.meta.clone(), signer, facts).await?;
        let mut bucket = None;
        if op.action().needs_bucket() {
            let found = resolve_bucket(&*self.meta, request.bucket_name()).await?;
            let key = matches!(target, Target::Object(..)).then(|| request.key().clone());
            let subject = key.as_ref().map(|key| Subject { key, version: None });
            access.allow(&found, op.action(), subject).await?;
            bucket = Some(found);
        }
        let cx = Context {
            meta: self.meta.clone(),
            data: self.data.clone(),
            env: TestEnv::shared(),
            ring: self.ring.clone(),
            keys: Arc::new(OneKey),
            search: Arc::new(Searching::new(Arc::new(NoIndex), &ClusterKey::from_bytes([1; 32]))),
            region: "us-east-1".into(),
            access,
            lifecycle_day_ms: 24 * 60 * 60 * 1000,
            bucket,
            origin: Origin { requester: user.to_string(), ..Origin::default() },
            overlay: None,
            notifier: Arc::new(crate::s3::testing::notifier()),
            placed: None,
            stopping: tokio::sync::watch::channel(false).1,
        };
        read(op.run(&cx, request).await?).await
    }

    async fn ok(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answered {
        let what = format!("{method} {uri}");
        self.call("tester", method, uri, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    async fn code(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: &str) -> Code {
        let what = format!("{method} {uri}");
        match self.call("tester", method, uri, headers, body.to_string()).await {
            Ok(answer) => panic!("{what}: {}", answer.status),
            Err(error) => error.code(),
        }
    }
}

async fn read(response: Response) -> S3Result<Answered> {
    let body = match response.body {
        ResponseBody::Empty => Bytes::new(),
        ResponseBody::Bytes(bytes) => bytes,
        ResponseBody::Stream { bytes, mut stream } => {
            let mut whole = Vec::new();
            while let Some(piece) = stream.next().await {
                whole.extend_from_slice(&piece.unwrap());
            }
            assert_eq!(whole.len() as u64, bytes);
            Bytes::from(whole)
        }
        ResponseBody::Open(stream) => {
            let pieces: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
            Bytes::from(pieces.concat())
        }
    };
    Ok(Answered { status: response.status, headers: response.headers, body })
}

fn crc64(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(consensus::meta::model::ChecksumAlgorithm::Crc64Nvme);
    hasher.update(bytes);
    checksum::encode(&hasher.finish().value)
}

#[test]
fn no_request_is_two_operations() {
    assert_eq!(Router::new(&all()).conflicts(), []);
}

const HELLO_TAG: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

#[tokio::test(start_paused = true)]
async fn an_object_is_read_as_it_was_written() {
    let world = world().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    for body in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(large)] {
        let headers = [("content-type", "text/plain"), ("x-amz-meta-Color", "blue")];
        let put = world.ok(Method::PUT, "/photos/a//b%20c", &headers, body.clone()).await;
        let got = world.ok(Method::GET, "/photos/a//b%20c", &[("x-amz-checksum-mode", "ENABLED")], "").await;
        assert!(got.body == body);
        assert_eq!(got.header("etag"), put.header("etag"));
        assert_eq!(got.header("x-amz-checksum-crc64nvme"), crc64(&body));
        assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
        assert_eq!((got.header("content-type"), got.header("x-amz-meta-color")), ("text/plain", "blue"));
        assert_eq!(got.header("accept-ranges"), "bytes");
        assert_eq!(got.header("x-amz-version-id"), "");
        let head = world.ok(Method::HEAD, "/photos/a//b%20c", &[], "").await;
        assert_eq!(head.header("content-length"), body.len().to_string());
        assert_eq!(head.header("x-amz-checksum-crc64nvme"), "");
    }
    let range = world.ok(Method::GET, "/photos/a//b%20c", &[("range", "bytes=1048570-1048580")], "").await;
    assert_eq!(range.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(range.header("content-range"), "bytes 1048570-1048580/3000000");
    assert_eq!(range.body[..], (1_048_570..=1_048_580_u32).map(|at| (at % 253) as u8).collect::<Vec<_>>());
    let past = [("range", "bytes=3000000-")];
    assert_eq!(world.code(Method::GET, "/photos/a//b%20c", &past, "").await, Code::InvalidRange);
}

#[tokio::test(start_paused = true)]
async fn conditions_decide_reads_and_writes() {
    let world = world().await;
    let wrong = "\"00000000000000000000000000000000\"";
    assert_eq!(world.code(Method::PUT, "/photos/k", &[("if-match", HELLO_TAG)], "x").await, Code::NoSuchKey);
    world.ok(Method::PUT, "/photos/k", &[("if-none-match", "*")], "hello").await;
    for (headers, code) in [
        ([("if-none-match", "*")], Code::PreconditionFailed),
        ([("if-match", wrong)], Code::PreconditionFailed),
        ([("if-none-match", wrong)], Code::NotImplemented),
    ] {
        assert_eq!(world.code(Method::PUT, "/photos/k", &headers, "x").await, code);
    }
    assert_eq!(
        world.code(Method::GET, "/photos/k", &[("if-match", wrong)], "").await,
        Code::PreconditionFailed
    );
    let known = world.ok(Method::GET, "/photos/k", &[("if-none-match", HELLO_TAG)], "").await;
    assert_eq!((known.status, known.header("etag")), (StatusCode::NOT_MODIFIED, HELLO_TAG));
    assert!(known.body.is_empty());
    assert_eq!(
        world.code(Method::DELETE, "/photos/k", &[("if-match", wrong)], "").await,
        Code::PreconditionFailed
    );
    world.ok(Method::PUT, "/photos/k", &[("if-match", HELLO_TAG)], "hello").await;
    let gone = world.ok(Method::DELETE, "/photos/k", &[("if-match", HELLO_TAG)], "").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    world.ok(Method::DELETE, "/photos/k", &[], "").await;
    assert_eq!(world.code(Method::GET, "/photos/k", &[], "").await, Code::NoSuchKey);
    assert_eq!(world.code(Method::GET, "/photos/k?versionId=x", &[], "").await, Code::InvalidArgument);
    let unknown = "/photos/k?versionId=000000000000000000990000";
    assert_eq!(world.code(Method::GET, unknown, &[], "").await, Code::NoSuchVersion);
}

#[tokio::test(start_paused = true)]
async fn buckets_come_and_go() {
    let world = world().await;
    world.ok(Method::PUT, "/photos", &[], "").await;
    let taken = world.call("other", Method::PUT, "/photos", &[], "").await.unwrap_err();
    assert_eq!(taken.code(), Code::BucketAlreadyExists);
    let foreign = world.call("other", Method::GET, "/photos", &[], "").await.unwrap_err();
    assert_eq!(foreign.code(), Code::AccessDenied);
    for name in ["alpha", "beta", "gamma"] {
        world.ok(Method::PUT, &format!("/{name}"), &[], "").await;
    }
    let first = world.ok(Method::GET, "/?max-buckets=2", &[], "").await;
    assert_eq!(first.elements("Name"), ["alpha", "beta"]);
    let rest = format!("/?max-buckets=2&continuation-token={}", first.element("ContinuationToken"));
    let rest = world.ok(Method::GET, &rest, &[], "").await;
    assert_eq!(rest.elements("Name"), ["gamma", "photos"]);
    assert_eq!((rest.element("ContinuationToken"), rest.element("BucketRegion")), ("", "us-east-1"));
    assert!(world.ok(Method::GET, "/?bucket-region=eu-west-1", &[], "").await.elements("Name").is_empty());
    let head = world.ok(Method::HEAD, "/photos", &[], "").await;
    assert_eq!(head.header("x-amz-bucket-region"), "us-east-1");
    world.ok(Method::GET, "/photos?location", &[], "").await;
    world.ok(Method::GET, "/photos?versioning", &[], "").await;
    world.ok(Method::PUT, "/photos/k", &[], "x").await;
    assert_eq!(world.code(Method::DELETE, "/photos", &[], "").await, Code::BucketNotEmpty);
    world.ok(Method::DELETE, "/photos/k", &[], "").await;
    world.ok(Method::DELETE, "/photos", &[], "").await;
    assert_eq!(world.code(Method::GET, "/photos", &[], "").await, Code::NoSuchBucket);
}

#[tokio::test(start_paused = true)]
async fn pages_of_every_listing_add_up() {
    let world = world().await;
    let keys = ["a", "a/1", "a/2", "b c", "b/x/1", "z"];
    for key in keys {
        world.ok(Method::PUT, &format!("/photos/{}", key.replace(' ', "%20")), &[], "x").await;
    }
    for size in 1..=7 {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let uri = format!("/photos?list-type=2&max-keys={size}&delimiter=/{token}");
            let page = world.ok(Method::GET, &uri, &[], "").await;
            let count: usize = page.element("KeyCount").parse().unwrap();
            assert!(count <= size);
            found.extend(page.elements("Key").iter().map(ToString::to_string));
            found.extend(page.elements("CommonPrefixes").iter().map(ToString::to_string));
            if page.element("IsTruncated") == "false" {
                break;
            }
            token = format!("&continuation-token={}", page.element("NextContinuationToken"));
        }
        found.sort();
        let groups = ["<Prefix>a/</Prefix>", "<Prefix>b/</Prefix>"];
        assert_eq!(found, [&groups[..], &["a", "b c", "z"]].concat(), "pages of {size}");
        let (mut found, mut marker) = (Vec::new(), String::new());
        loop {
            let page =
                world.ok(Method::GET, &format!("/photos?max-keys={size}&marker={marker}"), &[], "").await;
            found.extend(page.elements("Key").iter().map(ToString::to_string));
            if page.element("IsTruncated") == "false" {
                break;
            }
            marker = page.element("NextMarker").replace(' ', "%20");
        }
        assert_eq!(found, keys);
        let (mut found, mut markers) = (Vec::new(), String::new());
        loop {
            let page =
                world.ok(Method::GET, &format!("/photos?versions&max-keys={size}{markers}"), &[], "").await;
            found.extend(page.elements("Key").iter().map(ToString::to_string));
            assert!(page.elements("VersionId").iter().all(|id| *id == "null"));
            if page.element("IsTruncated") == "false" {
                break;
            }
            let key = page.element("NextKeyMarker").replace(' ', "%20");
            markers = format!("&key-marker={key}&version-id-marker={}", page.element("NextVersionIdMarker"));
        }
        assert_eq!(found, keys);
    }
    let none = world.ok(Method::GET, "/photos?list-type=2&max-keys=0", &[], "").await;
    assert_eq!((none.element("KeyCount"), none.element("IsTruncated")), ("0", "false"));
    let owned =
        world.ok(Method::GET, "/photos?list-type=2&fetch-owner=true&start-after=b/x/1", &[], "").await;
    assert_eq!((owned.elements("Key"), owned.element("DisplayName")), (vec!["z"], "tester"));
    let foreign = "/photos?list-type=2&continuation-token=AQ";
    assert_eq!(world.code(Method::GET, foreign, &[], "").await, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn parts_become_an_object() {
    let world = world().await;
    let begun = world.ok(Method::POST, "/photos/film?uploads", &[("x-amz-meta-a", "1")], "").await;
    let id = begun.element("UploadId").to_string();
    let first: Vec<u8> = (0..PART_BYTES_MIN as u32).map(|at| (at % 251) as u8).collect();
    let mut tags = Vec::new();
    for (number, body) in [(1, first.clone()), (3, b"end".to_vec())] {
        let uri = format!("/photos/film?partNumber={number}&uploadId={id}");
        tags.push(world.ok(Method::PUT, &uri, &[], body).await.header("etag").to_string());
    }
    let parts = world.ok(Method::GET, &format!("/photos/film?uploadId={id}&max-parts=1"), &[], "").await;
    assert_eq!((parts.element("PartNumber"), parts.element("IsTruncated")), ("1", "true"));
    let uploads = world.ok(Method::GET, "/photos?uploads", &[], "").await;
    assert_eq!((uploads.element("Key"), uploads.element("UploadId")), ("film", id.as_str()));

    let document = |parts: &[(u16, &str)]| {
        let parts = parts.iter().map(|(number, tag)| {
            format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
                tag.replace('"', "&quot;")
            )
        });
        format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.collect::<String>())
    };
    let complete = format!("/photos/film?uploadId={id}");
    let all = document(&[(1, &tags[0]), (3, &tags[1])]);
    for (headers, document, code) in [
        (&[][..], document(&[(3, &tags[1]), (1, &tags[0])]), Code::InvalidPartOrder),
        (&[], document(&[(1, &tags[0]), (2, &tags[1])]), Code::InvalidPart),
        (&[], document(&[(1, &tags[1])]), Code::InvalidPart),
        (&[("x-amz-mp-object-size", "7")], all.clone(), Code::InvalidRequest),
        (&[("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")], all.clone(), Code::BadDigest),
        (&[("if-match", HELLO_TAG)], all.clone(), Code::NoSuchKey),
    ] {
        assert_eq!(world.code(Method::POST, &complete, headers, &document).await, code);
    }
    let whole = [&first[..], b"end"].concat();
    let sum = crc64(&whole);
    let headers = [("x-amz-checksum-crc64nvme", sum.as_str())];
    let done = world.ok(Method::POST, &complete, &headers, all.clone()).await;
    assert_eq!(done.element("ChecksumCRC64NVME"), sum);
    assert!(done.element("ETag").ends_with("-2&quot;"));
    let again = world.ok(Method::POST, &complete, &[], all).await;
    assert_eq!((again.element("ETag"), again.element("ChecksumCRC64NVME")), (done.element("ETag"), &*sum));

    let got = world.ok(Method::GET, "/photos/film", &[], "").await;
    assert!(got.body == whole && got.header("x-amz-meta-a") == "1");
    let part =
        world.ok(Method::GET, "/photos/film?partNumber=3", &[("x-amz-checksum-mode", "ENABLED")], "").await;
    assert_eq!((part.text(), part.header("x-amz-mp-parts-count")), ("end", "2"));
    assert_eq!(part.header("x-amz-checksum-crc64nvme"), crc64(b"end"));
    assert_eq!(world.code(Method::GET, "/photos/film?partNumber=4", &[], "").await, Code::InvalidPartNumber);
    let wanted = [("x-amz-object-attributes", "ETag,Checksum,ObjectParts,StorageClass,ObjectSize")];
    let attributes = world.ok(Method::GET, "/photos/film?attributes", &wanted, "").await;
    assert_eq!((attributes.element("PartsCount"), attributes.elements("PartNumber")), ("2", vec!["1", "3"]));
    assert_eq!(attributes.element("ObjectSize"), whole.len().to_string());
}

#[tokio::test(start_paused = true)]
async fn uploads_are_aborted_and_parts_copied() {
    let world = world().await;
    let whole: Vec<u8> = (0..2_500_000_u32).map(|at| (at % 241) as u8).collect();
    world.ok(Method::PUT, "/photos/source", &[], whole.clone()).await;
    let begun =
        world.ok(Method::POST, "/photos/film?uploads", &[("x-amz-checksum-algorithm", "SHA256")], "").await;
    let id = begun.element("UploadId").to_string();
    let uri = format!("/photos/film?partNumber=1&uploadId={id}");
    let other = [("x-amz-checksum-crc32", "y/Q5Jg==")];
    assert_eq!(world.code(Method::PUT, &uri, &other, "123456789").await, Code::InvalidRequest);
    let from = ("x-amz-copy-source", "photos/source");
    let outside = [from, ("x-amz-copy-source-range", "bytes=0-2500000")];
    assert_eq!(world.code(Method::PUT, &uri, &outside, "").await, Code::InvalidArgument);
    let range = [from, ("x-amz-copy-source-range", "bytes=1000000-2400000")];
    let copied = world.ok(Method::PUT, &uri, &range, "").await;
    assert!(!copied.element("ChecksumSHA256").is_empty());
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        copied.element("ETag")
    );
    let done = world.ok(Method::POST, &format!("/photos/film?uploadId={id}"), &[], document).await;
    assert!(done.element("ChecksumSHA256").ends_with("-1") && done.element("ChecksumType") == "COMPOSITE");
    assert!(world.ok(Method::GET, "/photos/film", &[], "").await.body == whole[1_000_000..=2_400_000]);

    let begun = world.ok(Method::POST, "/photos/film?uploads", &[], "").await;
    let uri = format!("/photos/film?uploadId={}", begun.element("UploadId"));
    world.ok(Method::DELETE, &uri, &[], "").await;
    for method in [Method::DELETE, Method::GET] {
        assert_eq!(world.code(method, &uri, &[], "").await, Code::NoSuchUpload);
    }
    let part = format!("/photos/film?partNumber=1&uploadId={}", begun.element("UploadId"));
    assert_eq!(world.code(Method::PUT, &part, &[], "x").await, Code::NoSuchUpload);
}

#[tokio::test(start_paused = true)]
async fn copies_share_bytes_and_obey_directives() {
    let world = world().await;
    let headers = [("x-amz-meta-a", "source"), ("x-amz-tagging", "t=1")];
    world.ok(Method::PUT, "/photos/small", &headers, "hello").await;
    let large = vec![9_u8; 2_000_000];
    world.ok(Method::PUT, "/photos/large", &headers, large.clone()).await;
    world.ok(Method::PUT, "/archive", &[], "").await;
    for (key, body) in [("small", b"hello".to_vec()), ("large", large)] {
        let source = format!("/photos/{key}");
        let uri = format!("/archive/{key}");
        let from = ("x-amz-copy-source", source.as_str());
        let copied = world.ok(Method::PUT, &uri, &[from], "").await;
        assert_eq!(copied.element("ChecksumCRC64NVME"), crc64(&body));
        world.ok(Method::DELETE, &source, &[], "").await;
        let got = world.ok(Method::GET, &uri, &[], "").await;
        assert!(got.body == body && got.header("x-amz-meta-a") == "source");
        let from = ("x-amz-copy-source", uri.trim_start_matches('/'));
        assert_eq!(world.code(Method::PUT, &uri, &[from], "").await, Code::InvalidRequest);
        let replace = [from, ("x-amz-metadata-directive", "REPLACE"), ("x-amz-checksum-algorithm", "SHA1")];
        let changed = world.ok(Method::PUT, &uri, &replace, "").await;
        assert!(!changed.element("ChecksumSHA1").is_empty());
        let got = world.ok(Method::GET, &uri, &[], "").await;
        assert!(got.body == body && got.header("x-amz-meta-a").is_empty());
        assert_eq!(got.header("x-amz-tagging-count"), "1");
    }
    let from = ("x-amz-copy-source", "archive/small");
    for (headers, code) in [
        (&[from, ("x-amz-copy-source-if-none-match", HELLO_TAG)][..], Code::PreconditionFailed),
        (&[from, ("x-amz-metadata-directive", "MERGE")], Code::InvalidArgument),
        (&[("x-amz-copy-source", "archive/none")], Code::NoSuchKey),
        (&[("x-amz-copy-source", "nowhere/none")], Code::NoSuchBucket),
    ] {
        assert_eq!(world.code(Method::PUT, "/photos/copy", headers, "").await, code);
    }
    world.call("other", Method::PUT, "/theirs", &[], "").await.unwrap();
    let stolen = world.call("other", Method::PUT, "/theirs/copy", &[from], "").await.unwrap_err();
    assert_eq!(stolen.code(), Code::AccessDenied);
}

#[tokio::test(start_paused = true)]
async fn many_keys_are_deleted_at_once() {
    let world = world().await;
    for at in 0..3 {
        world.ok(Method::PUT, &format!("/photos/k{at}"), &[], "hello").await;
    }
    let keys: String = (0..250)
        .map(|at| match at {
            0 => "<Object><Key>k0</Key><ETag>00000000000000000000000000000000</ETag></Object>".to_string(),
            7 => format!("<Object><Key>{}</Key></Object>", "k".repeat(1025)),
            at => format!("<Object><Key>k{at}</Key></Object>"),
        })
        .collect();
    let document = format!("<Delete>{keys}</Delete>");
    assert_eq!(world.code(Method::POST, "/photos?delete", &[], &document).await, Code::InvalidRequest);
    let mut hasher = Hasher::new(consensus::meta::model::ChecksumAlgorithm::Crc32);
    hasher.update(document.as_bytes());
    let sum = checksum::encode(&hasher.finish().value);
    let sum = [("x-amz-checksum-crc32", sum.as_str())];
    let answer = world.ok(Method::POST, "/photos?delete", &sum, document).await;
    assert_eq!(answer.elements("Code"), ["PreconditionFailed", "KeyTooLongError"]);
    assert_eq!(answer.elements("Deleted").len(), 248);
    let left = world.ok(Method::GET, "/photos?list-type=2", &[], "").await;
    assert_eq!(left.elements("Key"), ["k0"]);
}

#[tokio::test(start_paused = true)]
async fn objects_are_renamed_with_all_that_belongs_to_them() {
    let world = world().await;
    let headers = [("x-amz-meta-a", "source"), ("x-amz-tagging", "t=1"), ("content-type", "text/plain")];
    for body in [b"hello".to_vec(), vec![9_u8; 2_000_000]] {
        let put = world.ok(Method::PUT, "/photos/from", &headers, body.clone()).await;
        let before = world.ok(Method::HEAD, "/photos/from", &[], "").await;
        let token = put.header("etag").trim_matches('"').to_string();
        let source = [("x-amz-rename-source", "photos/from"), ("x-amz-client-token", token.as_str())];
        for _ in 0..2 {
            let renamed = world.ok(Method::PUT, "/photos/to%20b?renameObject", &source, "").await;
            assert_eq!((renamed.status, renamed.body.len()), (StatusCode::OK, 0));
        }
        let got = world.ok(Method::GET, "/photos/to%20b", &[], "").await;
        assert!(got.body == body);
        for name in ["etag", "last-modified", "x-amz-meta-a", "x-amz-tagging-count", "content-type"] {
            assert_eq!(got.header(name), before.header(name), "{name}");
        }
        assert_eq!(world.code(Method::GET, "/photos/from", &[], "").await, Code::NoSuchKey);
        let elsewhere = world.code(Method::PUT, "/photos/c?renameObject", &source, "").await;
        assert_eq!(elsewhere, Code::IdempotencyParameterMismatch);
    }
    world.ok(Method::PUT, "/photos/k", &[], "hello").await;
    let from = |key| ("x-amz-rename-source", key);
    for (headers, code) in [
        (&[][..], Code::InvalidArgument),
        (&[from("/archive/k")], Code::InvalidArgument),
        (&[from("none")], Code::NoSuchKey),
        (&[from("k"), ("if-none-match", "*")], Code::PreconditionFailed),
        (&[from("k"), ("x-amz-rename-source-if-none-match", HELLO_TAG)], Code::PreconditionFailed),
    ] {
        assert_eq!(world.code(Method::PUT, "/photos/to%20b?renameObject", headers, "").await, code);
    }
    world.call("other", Method::PUT, "/theirs", &[], "").await.unwrap();
    let stolen = world.call("other", Method::PUT, "/photos/k2?renameObject", &[from("k")], "").await;
    assert_eq!(stolen.unwrap_err().code(), Code::AccessDenied);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_appended_to_bodies_of_every_size() {
    let world = world().await;
    let sizes = [0, 5, 16_384, 16_385, 1_200_000];
    for start in sizes {
        let mut whole: Vec<u8> = (0..start).map(|at| (at % 251) as u8).collect();
        world.ok(Method::PUT, "/photos/k", &[("x-amz-meta-a", "1")], whole.clone()).await;
        for (at, more) in sizes.into_iter().enumerate() {
            let body: Vec<u8> = (0..more).map(|byte| (byte % 241) as u8).collect();
            let offset = whole.len().to_string();
            // The client's own checksum may be of another algorithm than that of the object.
            let sum = crc32(&body);
            let headers = [("x-amz-write-offset-bytes", offset.as_str()), ("x-amz-checksum-crc32", &sum)];
            let put = world.ok(Method::PUT, "/photos/k", &headers[..1 + at % 2], body.clone()).await;
            whole.extend(body);
            assert_eq!(put.header("x-amz-object-size"), whole.len().to_string());
            let got = world.ok(Method::GET, "/photos/k", &[("x-amz-checksum-mode", "ENABLED")], "").await;
            assert!(got.body == whole, "{start} and {more}");
            assert_eq!(got.header("x-amz-checksum-crc64nvme"), crc64(&whole), "{start} and {more}");
            assert_eq!((got.header("etag"), got.header("x-amz-meta-a")), (put.header("etag"), "1"));
        }
    }
    let part = world.ok(Method::GET, "/photos/k?partNumber=5", &[], "").await;
    assert_eq!((part.body.len(), part.header("x-amz-mp-parts-count")), (16_385, "6"));
    // Behind a renamed object, whose extents have their home at the old key.
    world.ok(Method::PUT, "/photos/new?renameObject", &[("x-amz-rename-source", "photos/k")], "").await;
    let size = world.ok(Method::HEAD, "/photos/new", &[], "").await.header("content-length").to_string();
    let offset = [("x-amz-write-offset-bytes", size.as_str())];
    world.ok(Method::PUT, "/photos/new", &offset, "end").await;
    assert!(world.ok(Method::GET, "/photos/new", &[], "").await.body.ends_with(b"end"));
    for (offset, code) in [(size.as_str(), Code::InvalidWriteOffset), ("x", Code::InvalidArgument)] {
        let headers = [("x-amz-write-offset-bytes", offset)];
        assert_eq!(world.code(Method::PUT, "/photos/new", &headers, "end").await, code);
    }
    for (headers, code) in [
        ([("x-amz-write-offset-bytes", "1"), ("if-match", "*")], Code::NoSuchKey),
        ([("x-amz-write-offset-bytes", "1"), ("if-none-match", "*")], Code::InvalidWriteOffset),
        ([("x-amz-write-offset-bytes", "0"), ("x-amz-checksum-crc32", "AAAAAA==")], Code::BadDigest),
    ] {
        assert_eq!(world.code(Method::PUT, "/photos/none", &headers, "x").await, code);
    }
    let made = [("x-amz-write-offset-bytes", "0"), ("x-amz-meta-a", "made")];
    let made = world.ok(Method::PUT, "/photos/none", &made, "hello").await;
    assert_eq!((made.header("etag"), made.header("x-amz-object-size")), (HELLO_TAG, "5"));
    assert_eq!(world.ok(Method::HEAD, "/photos/none", &[], "").await.header("x-amz-meta-a"), "made");
}

fn crc32(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(consensus::meta::model::ChecksumAlgorithm::Crc32);
    hasher.update(bytes);
    checksum::encode(&hasher.finish().value)
}
