//! The admin port: health, metrics, status and users. Never on the S3 port.
//!
//! `/health/*` is open and says only ok or not. `/metrics` and `/status` are open on loopback. Everything that
//! changes something, and everything beyond loopback, needs the bearer token of the 0600 file `admin-token`.
//! What always holds: a secret is in an answer exactly once, when it was just made or imported.

mod classes;
pub mod client;
mod overlay;
mod policies;
mod quotas;
mod search;
mod staleness;
pub mod users;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use consensus::client::{Meta, MetaError, ask};
use consensus::meta::command::Reject;
use consensus::meta::query::{Answer, Query};
use fabric::Seams;
use fabric::env::run_blocking;
use fabric::ids::NodeId;
use fabric::limits::KIB;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use crate::http::{Handler, Refusal, RequestBody, ResponseBody, full};
use crate::overlay::Overlay;
use crate::s3::S3Service;
use crate::s3::search::Searching;
use crate::secrets::{ClusterKey, Secret};

/// A document of the admin API is not longer.
const DOCUMENT_BYTES_MAX: usize = 64 * KIB as usize;
/// And comes within this time.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(10);
/// A store that cannot answer a question in this time is not ready.
const READY_DEADLINE: Duration = Duration::from_secs(2);

/// What only the process of the gateway knows: `{"leader": id or null, "disks": […]}`. May block shortly.
pub type Report = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the admin port of a gateway answers with.
pub struct Admin {
    /// The seams.
    pub seams: Seams,
    /// Metadata, unkept: an answer here is true now.
    pub meta: Arc<dyn Meta>,
    /// Seals the secrets of new keys.
    pub cluster_key: ClusterKey,
    /// What a request must show.
    pub token: Secret,
    /// Renders the metrics; `None` where nobody records them.
    pub metrics: Option<PrometheusHandle>,
    /// Answers searches.
    pub search: Arc<Searching>,
    /// Answers as users are answered.
    pub service: Arc<S3Service>,
    /// Other clusters; `None`: this gateway talks to none.
    pub overlay: Option<Arc<Overlay>>,
    /// Adds to `/status` what only this process knows.
    pub report: Report,
    /// Whether the store has its first user; not ready before.
    pub founded: Arc<AtomicBool>,
}

/// Why an admin request fails: status and a sentence.
pub struct AdminError(StatusCode, String);

impl AdminError {
    fn bad(why: impl Into<String>) -> AdminError {
        AdminError(StatusCode::BAD_REQUEST, why.into())
    }
}

impl From<MetaError> for AdminError {
    fn from(error: MetaError) -> AdminError {
        match error {
            MetaError::Rejected(reject) => AdminError::from(reject),
            MetaError::Unavailable(_) => AdminError(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            MetaError::Unknown(_) => AdminError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            MetaError::Full(_) => AdminError(StatusCode::INSUFFICIENT_STORAGE, error.to_string()),
        }
    }
}

impl From<Reject> for AdminError {
    fn from(reject: Reject) -> AdminError {
        let (status, why) = match &reject {
            Reject::NoSuchUser => (StatusCode::NOT_FOUND, "there is no such user"),
            Reject::NoSuchBucket => (StatusCode::NOT_FOUND, "there is no such bucket"),
            Reject::NoSuchPolicy => (StatusCode::NOT_FOUND, "the user has no such policy"),
            Reject::TooManyPolicies => (StatusCode::CONFLICT, "the user has as many policies as it can have"),
            Reject::NoSuchAccessKey => (StatusCode::NOT_FOUND, "there is no such access key"),
            Reject::UserExists => (
                StatusCode::CONFLICT,
                "the user exists already; give --access-key to add a key to it, or use `user rotate`",
            ),
            Reject::AccessKeyExists => (StatusCode::CONFLICT, "the access key exists already"),
            Reject::UserOwnsBuckets => {
                (StatusCode::CONFLICT, "the user still owns buckets; delete them first")
            }
            other => return AdminError(StatusCode::CONFLICT, format!("refused: {other:?}")),
        };
        AdminError(status, why.to_string())
    }
}

#[async_trait]
impl Handler for Admin {
    async fn handle(&self, request: Request<RequestBody>, source: SocketAddr) -> Response<ResponseBody> {
        let method = request.method().clone();
        let path = request.uri().path().to_string();
        let outcome = self.route(request, source).await;
        let response =
            outcome.unwrap_or_else(|AdminError(status, why)| answer(status, &json!({ "error": why })));
        tracing::debug!(%source, %method, ?path, status = response.status().as_u16(), "admin request");
        response
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        answer(refusal.status, &json!({ "error": refusal.message }))
    }
}

impl Admin {
    async fn route(
        &self,
        request: Request<RequestBody>,
        source: SocketAddr,
    ) -> Result<Response<ResponseBody>, AdminError> {
        let path = request.uri().path().trim_start_matches('/').to_string();
        let words: Vec<&str> = path.split('/').collect();
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        if get && words == ["health", "live"] {
            return Ok(text("ok\n".to_string()));
        }
        if get && words == ["health", "ready"] {
            return Ok(if self.is_ready().await { text("ok\n".to_string()) } else { not_ready() });
        }
        let open = get && source.ip().is_loopback() && matches!(words[..], ["metrics"] | ["status"]);
        if !open && !self.shows_token(&request) {
            let why =
                "this needs the header `Authorization: Bearer TOKEN` with the token of the file admin-token";
            return Err(AdminError(StatusCode::UNAUTHORIZED, why.to_string()));
        }
        match (request.method().clone(), &words[..]) {
            (Method::GET, ["metrics"]) => Ok(text(self.render_metrics())),
            (Method::GET, ["status"]) => self.status().await.map(|status| answer(StatusCode::OK, &status)),
            (Method::POST, ["search"]) => search::search(self, &document(request).await?).await,
            (Method::GET, ["users"]) => users::list(self).await,
            (Method::POST, ["users"]) => users::add(self, &document(request).await?).await,
            (Method::DELETE, ["users", name]) => users::remove(self, name).await,
            (Method::POST, ["users", name, "rotate"]) => users::rotate(self, name).await,
            (Method::GET, ["users", name, "policies"]) => policies::list(self, name).await,
            (Method::PUT, ["users", name, "policies", policy]) => {
                policies::attach(self, name, policy, &document(request).await?).await
            }
            (Method::DELETE, ["users", name, "policies", policy]) => {
                policies::detach(self, name, policy).await
            }
            (Method::GET, ["overlay"]) => overlay::list(self).await,
            (Method::DELETE, ["overlay"]) => overlay::leave(self).await,
            (Method::GET, ["overlay", "catalog"]) => overlay::catalog(self).await,
            (Method::POST, ["overlay", "invites"]) => overlay::invite(self, &document(request).await?).await,
            (Method::POST, ["overlay", "members"]) => overlay::join(self, &document(request).await?).await,
            (Method::DELETE, ["overlay", "members", name]) => overlay::remove(self, name).await,
            (Method::POST, ["overlay", "follows"]) => overlay::follow(self, &document(request).await?).await,
            (Method::POST, ["overlay", "promotions"]) => {
                overlay::promote(self, &document(request).await?).await
            }
            (Method::GET, ["overlay", "superseded", name]) => overlay::superseded(self, name).await,
            (Method::DELETE, ["overlay", "superseded", name]) => overlay::reopen(self, name).await,
            (Method::POST, ["overlay", "grants"]) => overlay::grant(self, &document(request).await?).await,
            (Method::DELETE, ["overlay", "grants"]) => overlay::revoke(self, &document(request).await?).await,
            (_, [kind @ ("users" | "buckets"), name, "quota"]) => {
                let of = quotas::owner(self, kind, name).await?;
                match *request.method() {
                    Method::GET => quotas::show(self, of).await,
                    Method::PUT => quotas::set(self, of, &document(request).await?).await,
                    Method::DELETE => quotas::clear(self, of).await,
                    _ => Err(AdminError(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE".to_string())),
                }
            }
            (_, ["buckets", name, "storage-class"]) => {
                let bucket = classes::bucket(self, name).await?;
                match *request.method() {
                    Method::GET => classes::show(self, bucket).await,
                    Method::PUT => classes::set(self, bucket, &document(request).await?).await,
                    Method::DELETE => classes::clear(self, bucket).await,
                    _ => Err(AdminError(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE".to_string())),
                }
            }
            (_, ["buckets", name, "staleness"]) => {
                let bucket = classes::bucket(self, name).await?;
                match *request.method() {
                    Method::GET => staleness::show(self, bucket).await,
                    Method::PUT => staleness::set(self, bucket, &document(request).await?).await,
                    Method::DELETE => staleness::clear(self, bucket).await,
                    _ => Err(AdminError(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE".to_string())),
                }
            }
            _ => Err(AdminError(StatusCode::NOT_FOUND, "there is nothing here".to_string())),
        }
    }

    fn shows_token(&self, request: &Request<RequestBody>) -> bool {
        let header = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = header.and_then(|value| value.strip_prefix(b"Bearer "));
        shown.is_some_and(|shown| shown.ct_eq(self.token.expose().as_bytes()).into())
    }

    /// Ready is: there is a user, and a linearizable answer says where chunks belong.
    async fn is_ready(&self) -> bool {
        if !self.founded.load(Ordering::Acquire) {
            return false;
        }
        let asked = timeout(READY_DEADLINE, self.meta.query(Query::Layout(None))).await;
        matches!(asked, Ok(Ok(answered)) if matches!(answered.answer, Ok(Answer::Layout(Some(_)))))
    }

    fn render_metrics(&self) -> String {
        self.metrics.as_ref().map_or_else(String::new, |metrics| {
            metrics.run_upkeep();
            metrics.render()
        })
    }

    async fn status(&self) -> Result<Value, AdminError> {
        let Answer::Status(status) = ask(&*self.meta, Query::Status).await? else {
            return Err(unexpected());
        };
        let report = self.report.clone();
        let report = run_blocking(&*self.seams.env, move || report()).await;
        let indexes = search::status(self).await;
        let nodes: Vec<Value> = status
            .nodes
            .iter()
            .map(|node| {
                let of = |counts: &[(NodeId, u64)]| {
                    counts.iter().find(|(id, _)| *id == node.id).map_or(0, |(_, count)| *count)
                };
                json!({
                    "id": node.id.0, "address": node.address, "zone": node.zone, "version": node.release,
                    "capacity_bytes": node.capacity_bytes, "starts": node.starts, "voter": node.voter.is_some(),
                    "copies_owed": of(&status.debts), "partitions_to_verify": of(&status.absences),
                    "search_index": indexes.get(&node.id),
                })
            })
            .collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "epoch": status.cluster.epoch,
            "layout": status.cluster.layout.0,
            "nodes": nodes,
            "copies_owed": status.debts.iter().map(|(_, copies)| copies).sum::<u64>(),
            "partitions_to_verify": status.absences.iter().map(|(_, partitions)| partitions).sum::<u64>(),
            "garbage": status.garbage,
            "inline_bytes": status.cluster.inline_bytes,
            "buckets": status.buckets,
            "objects": status.usage.objects,
            "bytes": status.usage.bytes,
            "uploads": status.usage.uploads,
            "sessions": status.sessions,
            "leader": report.get("leader"),
            "disks": report.get("disks"),
        }))
    }
}

/// The metadata answered another question than it was asked.
fn unexpected() -> AdminError {
    AdminError(StatusCode::INTERNAL_SERVER_ERROR, "unexpected answer".to_string())
}

async fn document(request: Request<RequestBody>) -> Result<Value, AdminError> {
    let body = Limited::new(request.into_body(), DOCUMENT_BYTES_MAX);
    let bytes = timeout(DOCUMENT_DEADLINE, body.collect())
        .await
        .map_err(|_| AdminError(StatusCode::REQUEST_TIMEOUT, "the document did not come".to_string()))?
        .map_err(|_| AdminError::bad("the document is too long or broke off"))?
        .to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| AdminError::bad(format!("the document is not JSON: {error}")))
}

fn answer(status: StatusCode, value: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(full(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(text: String) -> Response<ResponseBody> {
    let mut response = Response::new(full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn not_ready() -> Response<ResponseBody> {
    let mut response = text("not ready\n".to_string());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
