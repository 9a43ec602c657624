//! From an HTTP request to an HTTP response: parse, route, verify, allow, run, answer.
//!
//! Every answer carries a request id, the same as in the log. A panic ends its request with 500 and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::Meta;
use consensus::meta::model::{Bucket, BucketSetting, Logging, Origin};
use consensus::meta::names::{ObjectKey, UserName};
use fabric::env::Env;
use fabric::limits::KIB;
use futures::{FutureExt as _, StreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::watch;

use super::access::{Access, Facts, Policies, Subject, settings};
use super::access_log::{self, AccessLog, Draft, Lines, Logged, Told};
use super::auth::{
    Keys, PayloadAuth, SigningKeys, Unverified, Verified, Verifier, verify, verify_form,
    with_headers_of_query,
};
use super::cors;
use super::error::{Code, S3Error, S3Result};
pub use super::federation::Forwarded;
use super::federation::{Came, Way};
use super::form::{Form, FormPolicy, Reply};
use super::headers::refuse_unsupported;
use super::op::{Action, BodyRule, Context, Op, is_owner, resolve_bucket};
use super::path::{CanonicalPath, Target, virtual_bucket};
use super::payload::{Payload, RawBody};
use super::proxies::Proxies;
use super::request::{Query, Request, header_text};
use super::response::{ByteStream, Response, ResponseBody};
use super::route::Router;
use super::search::Searching;
use super::versions;
use crate::data::Data;
use crate::http::{Handler, Refusal, RequestBody, ResponseBody as HttpBody};
use crate::keyring::KeyRing;
use crate::notify::Notifier;
use crate::overlay::Overlay;

/// A body that an operation has no use for is read and verified up to this size.
const USELESS_BODY_BYTES_MAX: usize = 64 * KIB as usize;

/// An answer waits no longer for the rules of its bucket.
const RULES_PATIENCE: Duration = Duration::from_secs(1);

/// Who changed something that nobody signed; no user has this name.
const ANYBODY: &str = "*";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const HOST_ID: HeaderName = HeaderName::from_static("x-amz-id-2");

/// What this gateway is to its clients.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The region that requests must be signed for.
    pub region: String,
    /// `photos.DOMAIN` is the bucket `photos`; `None`: path style only.
    pub domains: Vec<String>,
    /// Whether connections are TLS.
    pub secure: bool,
    /// Whether bodies must be signed where connections are not TLS.
    pub require_signed_payload: bool,
    /// Proxies whose word is taken for the address of a client.
    pub proxies: Proxies,
    /// How long a day is for lifecycle rules: 24 hours, but in tests.
    pub lifecycle_day: Duration,
    /// Whether keys of customers may come where connections are not TLS.
    pub customer_keys_without_tls: bool,
    /// Whether the gateway is about to end.
    pub stopping: watch::Receiver<bool>,
}

/// What operations stand on.
#[derive(Clone)]
pub struct Backend {
    /// Metadata.
    pub meta: Arc<dyn Meta>,
    /// Bodies.
    pub data: Arc<Data>,
    /// Clocks and randomness.
    pub env: Arc<dyn Env>,
    /// Secrets of users.
    pub keys: Arc<dyn Keys>,
    /// Master keys of encryption.
    pub ring: Arc<KeyRing>,
    /// What answers searches.
    pub search: Arc<Searching>,
    /// Who can be told of events.
    pub notifier: Arc<Notifier>,
    /// Other clusters; `None`: this gateway talks to none.
    pub overlay: Option<Arc<Overlay>>,
}

/// The S3 service of one gateway.
pub struct S3Service {
    pub(super) backend: Backend,
    router: Router,
    pub(super) signing_keys: SigningKeys,
    pub(super) policies: Arc<Policies>,
    pub(super) region: Arc<str>,
    domains: Vec<String>,
    pub(super) secure: bool,
    require_signed_payload: bool,
    pub(super) proxies: Proxies,
    lifecycle_day: Duration,
    customer_keys_without_tls: bool,
    stopping: watch::Receiver<bool>,
    access_log: Arc<AccessLog>,
    pub(super) host_id: String,
}

impl S3Service {
    /// A service of these operations.
    pub fn new(backend: Backend, settings: Settings, ops: &[&'static dyn Op]) -> S3Service {
        let router = Router::new(ops);
        assert!(router.conflicts().is_empty(), "no request is two operations: {:?}", router.conflicts());
        let mut id = [0; 36];
        backend.env.random(&mut id);
        let region: Arc<str> = settings.region.into();
        let access_log = Arc::new(AccessLog::new(backend.env.clone(), region.clone()));
        S3Service {
            access_log,
            backend,
            router,
            signing_keys: SigningKeys::default(),
            policies: Arc::default(),
            region,
            domains: settings.domains,
            secure: settings.secure,
            require_signed_payload: settings.require_signed_payload,
            proxies: settings.proxies,
            lifecycle_day: settings.lifecycle_day,
            customer_keys_without_tls: settings.customer_keys_without_tls,
            stopping: settings.stopping,
            host_id: super::checksum::encode(&id),
        }
    }

    /// Answers one request; `forwarded`: what a gateway of another cluster says that sends it on.
    pub async fn serve(
        &self,
        request: http::Request<RequestBody>,
        source: SocketAddr,
        forwarded: Option<&Forwarded>,
    ) -> http::Response<HttpBody> {
        let (head, body) = request.into_parts();
        let began = (self.backend.env.monotonic(), self.backend.env.wall_ms());
        let id = self.id_of(forwarded);
        let came = self.came((&head.headers, &id), source, forwarded);
        let source = came.source;
        let mut trace = Trace { id: id.clone(), ..self.trace("-") };
        let outcome = match head.method {
            Method::OPTIONS => self.preflight(&head, came, &mut trace).await,
            _ => self.answer(&head, body, came, &mut trace).await,
        };
        let (mut response, error) = match outcome {
            Ok(response) => (response, None),
            Err(error) => (self.error_response(&error, &head, &trace.id), Some(error)),
        };
        if head.method != Method::OPTIONS {
            self.tell_browser(&head, came, &mut response).await;
        }
        let took = self.backend.env.monotonic().saturating_sub(began.0);
        log(&trace, &head, source, took, response.status, error.as_ref());
        let logging = self.logging_of(&trace).await;
        let draft = logging.map(|(bucket, logging)| {
            let source = source.to_string();
            let told = Told {
                bucket: &bucket,
                source: &source,
                requester: trace.requester.as_ref().map(UserName::as_str),
                ids: (&trace.id, &self.host_id),
                op: trace.op,
                key: trace.key.as_ref().map(ObjectKey::as_str),
                head: &head,
                outcome: (response.status.as_u16(), error.as_ref().map(|error| error.code().name())),
                answer: &response.headers,
                at_ms: began.1,
            };
            Draft {
                log: self.access_log.clone(),
                turn: took,
                around: told.around(),
                object_bytes: told.object_bytes(&response.body),
                bucket: bucket.clone(),
                logging,
                began: began.0,
            }
        });
        let response = self.finish_for(came, response, &head.method);
        match draft {
            Some(draft) => response.map(|body| Logged::new(body, draft).boxed_unsync()),
            None => response,
        }
    }

    /// Where the line about a request goes, if its bucket has a log. Where that is not to be known it has none.
    async fn logging_of(&self, trace: &Trace) -> Option<(Arc<Bucket>, Logging)> {
        let bucket = trace.bucket.clone()?;
        let asked = tokio::time::timeout(RULES_PATIENCE, settings(&*self.backend.meta, &bucket)).await;
        let logging = asked.ok()?.ok()?.iter().find_map(|setting| match setting {
            BucketSetting::Logging(logging) => Some(logging.clone()),
            _ => None,
        })?;
        Some((bucket, logging))
    }

    /// Writes the lines that wait in the logs of buckets: all, or those of which there are many.
    pub async fn write_logs(&self, all: bool) {
        for lines in self.access_log.take(all) {
            let (bucket, count) = (lines.bucket.name.clone(), lines.count);
            match self.write_log(lines).await {
                Ok(()) => access_log::count("written", count),
                Err(error) => {
                    tracing::warn!(%bucket, %error, count, "lines of an access log are dropped");
                    access_log::count("dropped", count);
                }
            }
        }
    }

    /// Until when the lines of logs may wait.
    pub async fn logs_are_full(&self) {
        self.access_log.full.notified().await;
    }

    /// What is known of a request before it is looked at.
    /// The id of a request: the one that it has already, where another cluster sent it on.
    pub(super) fn id_of(&self, forwarded: Option<&Forwarded>) -> Arc<str> {
        forwarded.and_then(|forwarded| forwarded.id.clone()).unwrap_or_else(|| self.request_id())
    }

    /// The region, which is the name of the cluster.
    pub fn region(&self) -> &str {
        &self.region
    }

    pub(super) fn trace(&self, op: &'static str) -> Trace {
        Trace { id: self.request_id(), op, requester: None, bucket: None, key: None }
    }

    /// An upload by nobody in particular: encrypted, locked and counted as the target bucket says.
    async fn write_log(&self, lines: Lines) -> S3Result<()> {
        let target = resolve_bucket(&*self.backend.meta, &lines.logging.bucket).await?;
        if target.owner != lines.bucket.owner {
            return Err(Code::InvalidTargetBucketForLogging.into());
        }
        let key: ObjectKey = self.access_log.key(&lines).parse()?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(lines.text.len()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let body: RawBody = Full::new(Bytes::from(lines.text)).map_err(|never| match never {}).boxed_unsync();
        let op = &super::ops::PUT_OBJECT;
        let verified = Verified::of_form(None);
        let source = IpAddr::from([127, 0, 0, 1]);
        let (meta, policies) = (self.backend.meta.clone(), self.policies.clone());
        let (query, headers) = (Arc::<Query>::default(), Arc::new(headers));
        let facts = self.facts((source, self.secure), query.clone(), headers.clone());
        let access = Access::of(policies, meta, None, facts).await?;
        let trace = self.trace(op.name());
        let mut context = self.context(access, Some(target.clone()), source, &trace);
        // As of jobs: the owner of the bucket owns what no user wrote.
        context.origin.requester = String::new();
        let request = Request {
            method: Method::PUT,
            bucket: Some(target.name.clone()),
            key: Some(key),
            query,
            payload: Payload::new(body, &headers, op.body(), verified.payload().clone())?,
            headers,
            verified,
            request_id: trace.id.clone(),
            source,
            secure: true,
            reply: None,
            may_carry_keys: false,
        };
        run(op, &context, request).await.map(drop)
    }

    /// What a browser asks before a page of another origin may send something. Nobody signs that.
    async fn preflight(
        &self,
        head: &request::Parts,
        came: Came<'_>,
        trace: &mut Trace,
    ) -> S3Result<Response> {
        trace.op = "Preflight";
        let host = effective_host(head)?;
        let (path, bucket) = self.path(head, &host, came)?;
        let (Target::Bucket(name) | Target::Object(name, _)) = path.target() else {
            return Err(Code::MethodNotAllowed.into());
        };
        if let Some(answer) = self.preflight_elsewhere(head, (name, bucket), came).await? {
            return Ok(answer);
        }
        let rules = cors::rules_of(&*self.backend.meta, name).await?;
        let mut response = Response::ok();
        cors::add(&mut response.headers, cors::preflight(&rules, &head.headers)?);
        Ok(response)
    }

    /// Tells the browser of a page of another origin whether the page may see the answer. Where the rules are not to be
    /// had it is told nothing.
    async fn tell_browser(&self, head: &request::Parts, came: Came<'_>, response: &mut Response) {
        let Some(origin) = head.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()) else { return };
        let Ok(host) = effective_host(head) else { return };
        let Ok((path, _)) = self.path(head, &host, came) else { return };
        let (Target::Bucket(name) | Target::Object(name, _)) = path.target() else { return };
        let asked = tokio::time::timeout(RULES_PATIENCE, cors::rules_of(&*self.backend.meta, name)).await;
        if let Ok(Ok(rules)) = asked {
            cors::add(&mut response.headers, cors::answer(&rules, origin, head.method.as_str()));
        }
    }

    async fn answer(
        &self,
        head: &request::Parts,
        body: RequestBody,
        came: Came<'_>,
        trace: &mut Trace,
    ) -> S3Result<Response> {
        let host = effective_host(head)?;
        let (path, bucket) = self.path(head, &host, came)?;
        let query = Query::parse(head.uri.query().unwrap_or(""))?;
        let headers = with_headers_of_query(&head.headers, &query)?;
        let op = self.router.route(&head.method, path.target(), &query, &headers)?;
        trace.op = op.name();
        let unverified = Unverified {
            method: &head.method,
            raw_path: head.uri.path(),
            path: &path,
            query: &query,
            headers: &head.headers,
            host: &host,
            virtual_bucket: bucket,
        };
        let body = match self.way(head, body, op, unverified, came).await? {
            Way::There(response) => return Ok(response),
            Way::At(redirect) => return Ok(redirect.response(&trace.id, &self.host_id)),
            Way::Away(asked, error) => return self.remembered(&asked, error, unverified, head).await,
            Way::Here(body) => body,
        };
        let verifier = self.verifier(came);
        let verified = verify(unverified, verifier, &*self.backend.keys, &self.signing_keys).await?;
        let mut sent = Sent {
            target: path.target().clone(),
            headers: headers.into_owned(),
            body,
            verified,
            reply: None,
        };
        if op.body() == BodyRule::Form {
            sent = self.unfolded(sent, (&host, bucket), came).await?;
        }
        let Sent { target, headers, body, verified, reply } = sent;
        trace.requester = verified.signer().map(|signer| signer.user.clone());
        self.check_payload_mode(op, verified.payload(), came.secure)?;
        if verified.signer().is_none() {
            refuse_overrides(&query)?;
        }
        refuse_unsupported(&headers, op.name())?;
        let (query, headers) = (Arc::new(query), Arc::new(without_internal(headers)));
        let source = came.source;
        let facts = self.facts((source, came.secure), query.clone(), headers.clone());
        let meta = self.backend.meta.clone();
        let access = Access::of(self.policies.clone(), meta, verified.signer().cloned(), facts).await?;
        if let Target::Object(_, key) = &target {
            trace.key = Some(key.clone());
        }
        let bucket =
            self.allowed_bucket((op, &target), (&access, &verified, came), (&query, &headers), trace).await?;
        let placed = came.forwarded.and_then(Forwarded::placed);
        let context = Context { placed, ..self.context(access, bucket, source, trace) };
        let payload = Payload::new(body, &headers, op.body(), verified.payload().clone())?;
        let (bucket, key) = match target {
            Target::Service => (None, None),
            Target::Bucket(bucket) => (Some(bucket), None),
            Target::Object(bucket, key) => (Some(bucket), Some(key)),
        };
        let request = Request {
            method: head.method.clone(),
            bucket,
            key,
            query,
            headers,
            payload,
            verified,
            request_id: trace.id.clone(),
            source,
            secure: came.secure,
            reply,
            may_carry_keys: self.may_carry_keys(came),
        };
        match run(op, &context, request).await {
            Err(error) if head.method.is_safe() && error.code() == Code::NoSuchKey => {
                Err(told_of_absence(&context, error).await?)
            }
            outcome => outcome,
        }
    }

    /// A form as the upload that it is: what its fields say stands for headers, signature and key.
    async fn unfolded(&self, sent: Sent, host: (&str, Option<&str>), came: Came<'_>) -> S3Result<Sent> {
        let (host, virtual_bucket) = host;
        let Target::Bucket(bucket) = sent.target else { return Err(Code::MalformedPOSTRequest.into()) };
        if sent.verified.signer().is_some() || !matches!(sent.verified.payload(), PayloadAuth::Unsigned) {
            return Err(Code::InvalidRequest.says("A form is signed by its fields, and by nothing else."));
        }
        let mut form = Form::read(sent.body, &sent.headers).await?;
        let verifier = self.verifier(came);
        let signer = verify_form(&form.fields, verifier, &*self.backend.keys, &self.signing_keys).await?;
        if signer.is_some() {
            let signed = FormPolicy::parse(form.fields.get("policy").unwrap_or(""))?;
            form.check(&signed, &bucket, verifier.now_ms)?;
        }
        let scheme = if came.secure { "https" } else { "http" };
        let place = match virtual_bucket {
            Some(_) => format!("{scheme}://{host}"),
            None => format!("{scheme}://{host}/{bucket}"),
        };
        Ok(Sent {
            target: Target::Object(bucket.clone(), form.key.clone()),
            headers: form.headers()?,
            reply: Some(form.reply(&bucket, &place)),
            verified: Verified::of_form(signer),
            body: form.into_file(),
        })
    }

    fn verifier<'a>(&'a self, came: Came<'a>) -> Verifier<'a> {
        let other_region = came.forwarded.map(|forwarded| forwarded.by.as_str());
        Verifier { region: &self.region, other_region, now_ms: self.backend.env.wall_ms() }
    }

    /// The path of a request, and how its host names the bucket, if it does.
    fn path<'a>(
        &self,
        head: &request::Parts,
        host: &'a str,
        came: Came<'a>,
    ) -> S3Result<(CanonicalPath, Option<&'a str>)> {
        if let Some(forwarded) = came.forwarded {
            let bucket = forwarded.virtual_bucket.as_deref();
            return Ok((CanonicalPath::parse(head.uri.path(), bucket)?.at_home(&forwarded.bucket), bucket));
        }
        let bucket = self.domains.iter().find_map(|domain| virtual_bucket(host, Some(domain)));
        Ok((CanonicalPath::parse(head.uri.path(), bucket)?, bucket))
    }

    /// What comes from this machine has nobody on the way.
    fn may_carry_keys(&self, came: Came<'_>) -> bool {
        came.secure || self.customer_keys_without_tls || came.source.to_canonical().is_loopback()
    }

    /// Where it is required, what comes in plain text is signed with its body, so that nobody on the way changes it.
    fn check_payload_mode(&self, op: &dyn Op, payload: &PayloadAuth, secure: bool) -> S3Result<()> {
        let signed = match payload {
            PayloadAuth::Exact(_) | PayloadAuth::SignedChunks(_) | PayloadAuth::SignedChunksTrailer(_) => {
                true
            }
            PayloadAuth::Unsigned | PayloadAuth::UnsignedTrailer => false,
        };
        if signed || secure || !self.require_signed_payload || op.body() == BodyRule::None {
            return Ok(());
        }
        Err(Code::AccessDenied.says("Without TLS the body must be signed here: UNSIGNED-PAYLOAD is refused."))
    }

    pub(super) fn facts(
        &self,
        (source, secure): (IpAddr, bool),
        query: Arc<Query>,
        headers: Arc<HeaderMap>,
    ) -> Facts {
        Facts { source, secure, now_ms: self.backend.env.wall_ms(), query, headers }
    }

    /// The bucket of the path, if the requester may do this there.
    async fn allowed_bucket(
        &self,
        (op, target): (&dyn Op, &Target),
        (access, verified, came): (&Access, &Verified, Came<'_>),
        (query, headers): (&Query, &HeaderMap),
        trace: &mut Trace,
    ) -> S3Result<Option<Arc<Bucket>>> {
        let (name, key) = match target {
            Target::Service => (None, None),
            Target::Bucket(name) => (Some(name), None),
            Target::Object(name, key) => (Some(name), Some(key)),
        };
        if name.is_none() && op.is_judged_by_body() {
            // In whatever bucket: that is asked of each object. Only nobody in particular is refused.
            return access.user().map(|_| None);
        }
        let Some(name) = name.filter(|_| op.action().needs_bucket()) else {
            self.check_grant(verified, name, came)?;
            let mut actions = op.action().with(headers).into_iter();
            let permitted = actions.all(|action| access.permits_service(action, name));
            return if permitted { Ok(None) } else { Err(Code::AccessDenied.into()) };
        };
        let bucket = resolve_bucket(&*self.backend.meta, name).await?;
        self.check_grant(verified, Some(name), came)?;
        trace.bucket = Some(bucket.clone());
        let version = query.non_empty("versionId").filter(|_| key.is_some());
        let action = if version.is_some() { op.action().of_version() } else { op.action() };
        let version = version.and_then(|text| versions::selector("versionId", text).ok());
        let subject = key.map(|key| Subject { key, version });
        if op.is_judged_by_body() {
            access.refuse_stranger(&bucket).await?;
        } else {
            for action in action.with(headers) {
                access.allow(&bucket, action, subject).await?;
            }
        }
        match header_text(headers, "x-amz-expected-bucket-owner")? {
            Some(owner) if !is_owner(&bucket, owner, &self.region) => Err(Code::AccessDenied.into()),
            Some(_) | None => Ok(Some(bucket)),
        }
    }

    pub(super) fn context(
        &self,
        access: Access,
        bucket: Option<Arc<Bucket>>,
        source: IpAddr,
        trace: &Trace,
    ) -> Context {
        let origin = Origin {
            requester: trace.requester.as_ref().map_or(ANYBODY, UserName::as_str).to_string(),
            source: source.to_string(),
            request_id: trace.id.to_string(),
        };
        Context {
            meta: self.backend.meta.clone(),
            data: self.backend.data.clone(),
            env: self.backend.env.clone(),
            ring: self.backend.ring.clone(),
            keys: self.backend.keys.clone(),
            search: self.backend.search.clone(),
            region: self.region.clone(),
            access,
            lifecycle_day_ms: self.lifecycle_day.as_millis() as u64,
            bucket,
            origin,
            notifier: self.backend.notifier.clone(),
            overlay: self.backend.overlay.clone(),
            placed: None,
            stopping: self.stopping.clone(),
        }
    }

    pub(super) fn request_id(&self) -> Arc<str> {
        let mut id = [0; 8];
        self.backend.env.random(&mut id);
        hex::encode_upper(id).into()
    }

    fn error_response(&self, error: &S3Error, head: &request::Parts, id: &str) -> Response {
        let document = error.document(head.uri.path(), id, &self.host_id);
        let mut response = Response::new(error.code().status())
            .header(CONTENT_TYPE, "application/xml")
            .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
            .bytes(Bytes::from(document));
        for (name, value) in error.headers() {
            response.headers.insert(name.clone(), value.clone());
        }
        // Who may not see a bucket still learns where to ask for it.
        if head.method == Method::HEAD && error.code() == Code::AccessDenied {
            response = response.amz("x-amz-bucket-region", &*self.region);
        }
        response
    }

    /// The same for a client. To gateways of other clusters a 304 also says what they keep for theirs.
    pub(super) fn finish_for(
        &self,
        came: Came<'_>,
        mut response: Response,
        method: &Method,
    ) -> http::Response<HttpBody> {
        if came.forwarded.is_none() && response.status == StatusCode::NOT_MODIFIED {
            response.headers.remove(CONTENT_TYPE);
        }
        self.finish(response, method, came.id)
    }

    /// Adds what every answer has. The `Date` comes from the connection.
    pub(super) fn finish(&self, response: Response, method: &Method, id: &str) -> http::Response<HttpBody> {
        let Response { status, mut headers, body } = response;
        headers.insert(SERVER, HeaderValue::from_static("Fluffy"));
        for (name, text) in [(REQUEST_ID, id), (HOST_ID, &self.host_id)] {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
        let bodiless =
            method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let body = match body {
            _ if bodiless => crate::http::full(Bytes::new()),
            ResponseBody::Empty => crate::http::full(Bytes::new()),
            ResponseBody::Bytes(bytes) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
                Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
            }
            ResponseBody::Stream { bytes, stream } => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
                streamed(stream)
            }
            ResponseBody::Open(stream) => streamed(stream),
        };
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

#[async_trait]
impl Handler for S3Service {
    async fn handle(
        &self,
        request: http::Request<RequestBody>,
        source: SocketAddr,
    ) -> http::Response<HttpBody> {
        self.serve(request, source, None).await
    }

    fn refuse(&self, refusal: Refusal) -> http::Response<HttpBody> {
        let id = self.request_id();
        let document = super::error::plain_document(refusal.code, refusal.message, &id, &self.host_id);
        let response = Response::new(refusal.status)
            .header(CONTENT_TYPE, "application/xml")
            .bytes(Bytes::from(document));
        tracing::info!(request_id = %id, code = refusal.code, "refused before it was a request");
        self.finish(response, &Method::GET, &id)
    }
}

fn streamed(stream: ByteStream) -> HttpBody {
    let frames = stream.map(|piece| piece.map(Frame::data));
    http_body_util::combinators::UnsyncBoxBody::new(StreamBody::new(frames))
}

/// What was sent by whom.
struct Sent {
    target: Target,
    headers: HeaderMap,
    body: RawBody,
    verified: Verified,
    /// How the sender of a form wants its answer.
    reply: Option<Reply>,
}

/// What the log lines of a request tell.
pub(super) struct Trace {
    pub(super) id: Arc<str>,
    pub(super) op: &'static str,
    pub(super) requester: Option<UserName>,
    /// The bucket of the path, if there is one.
    pub(super) bucket: Option<Arc<Bucket>>,
    pub(super) key: Option<ObjectKey>,
}

/// Runs the operation; its panic is this request's and nobody else's.
async fn run(op: &dyn Op, context: &Context, mut request: Request) -> S3Result<Response> {
    if op.body() == BodyRule::None {
        // Nothing is done for a request whose body, though useless, is not what was signed.
        request.payload_mut().collect(USELESS_BODY_BYTES_MAX).await?;
    }
    let outcome = AssertUnwindSafe(op.run(context, request)).catch_unwind().await;
    outcome.unwrap_or_else(|_| {
        metrics::counter!("fluffy_s3_panics_total", "op" => op.name()).increment(1);
        Err(Code::InternalError.caused("the operation panicked"))
    })
}

/// Nobody makes an answer say something by a link that nobody signed.
fn refuse_overrides(query: &Query) -> S3Result<()> {
    match query.pairs().iter().any(|(name, _)| name.starts_with("response-")) {
        true => Err(Code::InvalidRequest
            .says("Request specific response headers cannot be used for anonymous GET requests.")),
        false => Ok(()),
    }
}

/// That there is no such key is told to those who may list the bucket; to others it is as if they may not read.
pub(super) async fn told_of_absence(context: &Context, error: S3Error) -> S3Result<S3Error> {
    let lists = context.access.permits(context.bucket()?, Action::ListBucket, None).await?;
    Ok(if lists { error } else { Code::AccessDenied.into() })
}

/// One line for every request, with no secret and nothing of the query in it; `took`: until its answer began.
pub(super) fn log(
    trace: &Trace,
    head: &request::Parts,
    source: IpAddr,
    took: Duration,
    status: StatusCode,
    error: Option<&S3Error>,
) {
    let code = error.map_or("", |error| error.code().name());
    let status = status.as_u16();
    metrics::counter!("fluffy_s3_requests_total", "op" => trace.op, "status" => status.to_string())
        .increment(1);
    let path: String = head.uri.path().chars().take(1024).collect();
    let (id, op, method) = (&*trace.id, trace.op, head.method.as_str());
    let requester = trace.requester.as_ref().map_or("", UserName::as_str);
    let ms = took.as_millis() as u64;
    match error {
        // What we do not have (501) is the client's news; that we fail or refuse for want of room is ours.
        Some(error) if error.code().status().is_server_error() && error.code() != Code::NotImplemented => {
            let cause = error.cause().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(request_id = id, %source, op, method, path = ?path, requester, status, code, ms, cause, "request");
        }
        _ => {
            tracing::info!(request_id = id, %source, op, method, path = ?path, requester, status, code, ms, "request")
        }
    }
}

/// The host that the request is for. An absolute target must name the same one.
pub(super) fn effective_host(head: &request::Parts) -> S3Result<String> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next().ok_or_else(|| Code::InvalidRequest.says("The Host header is missing."))?;
    if hosts.next().is_some() {
        return Err(Code::InvalidRequest.says("The header host is given more than once."));
    }
    let host = host.to_str().map_err(|_| Code::InvalidURI)?.trim().to_string();
    match head.uri.authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(&host) => Err(Code::InvalidURI.into()),
        Some(_) | None => Ok(host),
    }
}

/// Without headers that would mean something inside if they came from inside.
fn without_internal(mut headers: HeaderMap) -> HeaderMap {
    let internal: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-fluffy-")).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
