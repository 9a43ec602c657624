//! Whole requests through the service: order of the checks, common headers, errors, panics.

#![allow(clippy::unwrap_used)]

use aws_sigv4::http_request::{SignableBody, SignatureLocation};
use consensus::client::{MetaError, ReadGuard, WriteGuard};
use consensus::meta::command::{Command, Done};
use consensus::meta::model::{ClusterMs, Versioning};
use consensus::meta::query::{Answer, Answered, Query as MetaQuery};
use fabric::ids::BucketId;
use fabric::limits::LIFECYCLE_DAY_DEFAULT;

use super::*;
use crate::data::DataConfig;
use crate::data::fakes::{FakeChunks, FakeMeta, TestEnv};
use crate::keyring::KeyRing;
use crate::s3::auth::tests::{OneKey, Sent, signed};
use crate::s3::op::Action;
use crate::s3::route::Route;
use crate::s3::search::{NoIndex, Searching};
use crate::secrets::ClusterKey;

/// Knows two buckets: `photos` of `tester` and `secret` of `other`.
struct Buckets(Arc<FakeMeta>);

#[async_trait]
impl Meta for Buckets {
    async fn propose(&self, command: Command) -> Result<Done, MetaError> {
        self.0.propose(command).await
    }
    async fn query(&self, query: MetaQuery) -> Result<Answered, MetaError> {
        let name = match query {
            MetaQuery::Bucket(name) => name,
            MetaQuery::Settings(_) => {
                return Ok(Answered { index: 1, answer: Ok(Answer::Settings(Arc::default())) });
            }
            MetaQuery::UserPolicies(_) => {
                return Ok(Answered { index: 1, answer: Ok(Answer::UserPolicies(Arc::default())) });
            }
            query => return self.0.query(query).await,
        };
        let owner = match name.as_str() {
            "photos" => Some("tester"),
            "secret" => Some("other"),
            "broken" => return Err(MetaError::Unavailable("no leader".to_string())),
            _ => None,
        };
        let bucket = owner.map(|owner| Bucket {
            id: BucketId(1),
            name,
            owner: owner.parse().unwrap(),
            created: ClusterMs(0),
            epoch: 0,
            versioning: Versioning::Off,
        });
        Ok(Answered { index: 1, answer: Ok(Answer::Bucket(bucket)) })
    }
    async fn begin_write(&self) -> Result<WriteGuard, MetaError> {
        self.0.begin_write().await
    }
    fn begin_read(&self) -> ReadGuard {
        self.0.begin_read()
    }
}

/// An operation that answers with what it saw.
struct Probe {
    method: Method,
    object: bool,
    rule: BodyRule,
    action: Action,
}

#[async_trait]
impl Op for Probe {
    fn name(&self) -> &'static str {
        "Probe"
    }
    fn route(&self) -> Route {
        let method = self.method.clone();
        if self.object { Route::object(method) } else { Route::bucket(method) }
    }
    fn action(&self) -> Action {
        self.action
    }
    fn body(&self) -> BodyRule {
        self.rule
    }
    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        assert!(request.query().get("panic").is_none(), "as asked");
        assert!(!request.headers().contains_key("x-fluffy-internal"));
        assert_eq!(cx.origin.requester, "tester");
        let body = request.document(1 << 20).await?;
        Ok(Response::ok().bytes(body))
    }
}

static OPS: &[&dyn Op] = &[
    &Probe { method: Method::PUT, object: true, rule: BodyRule::Object, action: Action::PutObject },
    &Probe { method: Method::GET, object: true, rule: BodyRule::None, action: Action::GetObject },
    &Probe { method: Method::HEAD, object: false, rule: BodyRule::None, action: Action::ListBucket },
    &Probe { method: Method::PUT, object: false, rule: BodyRule::Document, action: Action::CreateBucket },
];

fn service() -> S3Service {
    let env = TestEnv::shared();
    let meta: Arc<dyn Meta> = Arc::new(Buckets(FakeMeta::of_nodes(1)));
    let config = DataConfig::within(64 << 20);
    let data = Data::new(env.clone(), meta.clone(), Arc::new(FakeChunks::default()), config);
    let ring = Arc::new(KeyRing::derived(&ClusterKey::from_bytes([1; 32])));
    let search = Arc::new(Searching::new(Arc::new(NoIndex), &ClusterKey::from_bytes([1; 32])));
    let notifier = Arc::new(crate::s3::testing::notifier());
    let backend = Backend {
        meta,
        data: Arc::new(data),
        env,
        keys: Arc::new(OneKey),
        ring,
        notifier,
        search,
        overlay: None,
    };
    let domains = vec!["example.org".to_string()];
    let region = "us-east-1".to_string();
    let settings = Settings {
        region,
        domains,
        secure: false,
        require_signed_payload: false,
        proxies: Proxies::default(),
        lifecycle_day: LIFECYCLE_DAY_DEFAULT,
        customer_keys_without_tls: false,
        stopping: tokio::sync::watch::channel(false).1,
    };
    S3Service::new(backend, settings, OPS)
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn code(&self) -> &str {
        let inner = self.body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        inner.map_or("", |(code, _)| code)
    }
}

fn request(method: Method, uri: &str) -> Sent {
    let mut sent = Sent::new(method, uri, &[]);
    (sent.host, sent.now) = ("localhost".to_string(), 0);
    sent
}

async fn send(sent: Sent, body: &'static str) -> Reply {
    let mut request = http::Request::builder().method(sent.method).uri(sent.uri).header("host", sent.host);
    for (name, value) in sent.headers {
        request = request.header(name, value);
    }
    let request = request.header("content-length", body.len()).body(RequestBody::memory(body)).unwrap();
    let response = service().serve(request, SocketAddr::from(([127, 0, 0, 1], 1)), None).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// Signs for exactly this body and sends it.
async fn send_signed(mut sent: Sent, body: &'static str) -> Reply {
    let host = sent.host.clone();
    sent.headers.push(("host".to_string(), host));
    let mut sent = signed(sent, SignatureLocation::Headers, SignableBody::Bytes(body.as_bytes()));
    sent.headers.retain(|(name, _)| name != "host");
    send(sent, body).await
}

#[tokio::test(start_paused = true)]
async fn a_signed_request_runs() {
    let answer = send_signed(request(Method::PUT, "/photos/cat"), "meow").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "meow"));
    let id = answer.headers["x-amz-request-id"].to_str().unwrap();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()));
    assert_eq!(answer.headers["server"], "Fluffy");
    assert!(answer.headers.contains_key("x-amz-id-2"));
    let mut virtual_host = request(Method::PUT, "/cat");
    virtual_host.host = "photos.example.org".to_string();
    assert_eq!(send_signed(virtual_host, "meow").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn refusals_in_their_order() {
    for (method, uri, status, code) in [
        (Method::GET, "/photos/%zz", 400, "InvalidURI"),
        (Method::GET, "/UPPER/k", 400, "InvalidBucketName"),
        (Method::GET, "/photos/k?torrent", 501, "NotImplemented"),
        (Method::DELETE, "/photos/k", 405, "MethodNotAllowed"),
        (Method::GET, "/secret/k", 403, "AccessDenied"),
        (Method::GET, "/missing/k", 404, "NoSuchBucket"),
        (Method::GET, "/broken/k", 503, "SlowDown"),
        (Method::GET, "/photos/k?panic", 500, "InternalError"),
    ] {
        let answer = send_signed(request(method, uri), "").await;
        assert_eq!((answer.status, answer.code()), (status, code), "{uri}");
        let id = answer.headers["x-amz-request-id"].to_str().unwrap();
        assert!(answer.body.contains(&format!("<RequestId>{id}</RequestId>")));
        assert_eq!(answer.headers["content-type"], "application/xml");
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
    }
    for (uri, status, code) in [
        ("/missing/k", 404, "NoSuchBucket"),
        ("/photos/k", 403, "AccessDenied"),
        ("/photos/k?panic", 403, "AccessDenied"),
    ] {
        let anonymous = send(request(Method::GET, uri), "").await;
        assert_eq!((anonymous.status, anonymous.code()), (status, code), "{uri}");
    }
    let overridden = send(request(Method::GET, "/photos/k?response-content-type=text%2Fhtml"), "").await;
    assert_eq!(overridden.code(), "InvalidRequest");
}

#[tokio::test(start_paused = true)]
async fn headers_are_judged() {
    for (name, value, status) in [
        ("x-amz-expected-bucket-owner", "tester", 200),
        ("x-amz-expected-bucket-owner", "us-east-1/tester", 200),
        ("x-amz-expected-bucket-owner", "west/tester", 403),
        ("x-amz-expected-bucket-owner", "other", 403),
        ("x-amz-write-offset-bytes", "0", 501),
        ("x-fluffy-internal", "1", 200),
    ] {
        let mut sent = request(Method::GET, "/photos/k");
        sent.headers.push((name.to_string(), value.to_string()));
        assert_eq!(send_signed(sent, "").await.status, status, "{name}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_are_verified_before_anything_is_done() {
    let mut sent = request(Method::GET, "/photos/k");
    sent.headers.push(("host".to_string(), sent.host.clone()));
    let mut sent = signed(sent, SignatureLocation::Headers, SignableBody::Bytes(b""));
    sent.headers.retain(|(name, _)| name != "host");
    assert_eq!(send(sent.clone(), "").await.status, 200);
    assert_eq!(send(sent, "smuggled").await.code(), "XAmzContentSHA256Mismatch");
}

#[tokio::test(start_paused = true)]
async fn a_head_tells_the_region_and_has_no_body() {
    let anonymous = send(request(Method::HEAD, "/photos"), "").await;
    assert_eq!((anonymous.status, anonymous.body.as_str()), (403, ""));
    assert_eq!(anonymous.headers["x-amz-bucket-region"], "us-east-1");
    assert_eq!(send_signed(request(Method::HEAD, "/photos"), "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_host_is_one() {
    let mut twice = request(Method::GET, "/photos/k");
    twice.headers.push(("host".to_string(), "evil".to_string()));
    assert_eq!(send(twice, "").await.code(), "InvalidRequest");
    let absolute = request(Method::GET, "http://evil.example/photos/k");
    assert_eq!(send(absolute, "").await.code(), "InvalidURI");
    let absolute = request(Method::GET, "http://localhost/photos/k");
    assert_eq!(send(absolute, "").await.code(), "AccessDenied");
}
