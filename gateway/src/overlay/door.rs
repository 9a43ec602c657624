//! Who comes in at the port for clusters, and what is answered there.
//!
//! What always holds: a connection is of a key, and of the member that has it. A stranger may take an invitation, and
//! nothing else; whatever else it asks ends its connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::ask;
use consensus::meta::names::{AccessKeyId, BucketName, ClusterName};
use consensus::meta::overlay::PublicKey;
use consensus::meta::query::{Answer, Query};
use fabric::limits::KIB;
use fabric::net::BoxStream;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::link::LinkError;
use super::wire::{DayKey, FORWARDED, Join, Leave, PATH, Refused, Searched};
use super::{Overlay, OverlayError};
use crate::admission::Admission;
use crate::http::server::Door;
use crate::http::{Handler, Refusal, RequestBody, ResponseBody, full};
use crate::s3::auth::SigningKey;
use crate::s3::service::{Forwarded, S3Service};
use crate::secrets::ClusterKey;

/// A document of the protocol is not longer.
const DOCUMENT_BYTES_MAX: usize = 128 * KIB as usize;

/// The door of the port for clusters.
pub struct ClusterDoor {
    /// Who is a member.
    pub overlay: Arc<Overlay>,
    /// What members ask for.
    pub service: Arc<S3Service>,
    /// Opens the secrets of users.
    pub cluster_key: ClusterKey,
    /// Requests of clients of members take turns with those of clients here.
    pub admission: Arc<Admission>,
}

#[async_trait]
impl Door for ClusterDoor {
    async fn pass(&self, stream: BoxStream) -> io::Result<(BoxStream, Arc<dyn Handler>)> {
        let identity = self.overlay.view.load().identity.clone();
        let nobody = || io::Error::new(io::ErrorKind::PermissionDenied, "this cluster is in no overlay");
        let (stream, key) = identity.ok_or_else(nobody)?.accept(stream).await?;
        let guest = Guest {
            overlay: self.overlay.clone(),
            service: self.service.clone(),
            cluster_key: self.cluster_key.clone(),
            admission: self.admission.clone(),
            key,
        };
        Ok((stream, Arc::new(guest)))
    }
}

/// The other side of one connection.
struct Guest {
    overlay: Arc<Overlay>,
    service: Arc<S3Service>,
    cluster_key: ClusterKey,
    admission: Arc<Admission>,
    key: PublicKey,
}

#[async_trait]
impl Handler for Guest {
    async fn handle(&self, request: Request<RequestBody>, source: SocketAddr) -> Response<ResponseBody> {
        // Who is removed meanwhile is a stranger from the next request on.
        let member = self.overlay.member_of(&self.key);
        let Some(member) = member else {
            return match request.uri().path().strip_prefix(PATH) {
                Some("join") => self.join(request).await,
                _ => closing(refused(StatusCode::FORBIDDEN, "only members of the overlay are answered")),
            };
        };
        if request.headers().contains_key(FORWARDED) {
            let Some(forwarded) = Forwarded::read(request.headers(), member) else {
                return refused(StatusCode::BAD_REQUEST, "the request does not say where it comes from");
            };
            let serving = ForwardedService { service: self.service.clone(), forwarded };
            return self.admission.with(Arc::new(serving)).handle(request, source).await;
        }
        let Some(path) = request.uri().path().strip_prefix(PATH) else {
            let why = format!("this protocol is not spoken here; paths begin with {PATH}");
            return refused(StatusCode::NOT_FOUND, &why);
        };
        let (path, query) = (path.to_string(), request.uri().query().unwrap_or("").to_string());
        let words: Vec<&str> = path.split('/').collect();
        match (request.method().clone(), &words[..]) {
            (Method::GET, ["ping"]) => empty(),
            (Method::POST, ["join"]) => self.join(request).await,
            (Method::POST, ["leave"]) => match read::<Leave>(request).await {
                Ok(leave) => {
                    let parted = self.overlay.parted(&member, leave.serial).await;
                    shown(parted.map(|()| serde_json::json!({ "left": member.as_str() })))
                }
                Err(why) => refused(StatusCode::BAD_REQUEST, &why),
            },
            (Method::POST, ["gossip"]) => self.gossip(&member, &query, request).await,
            (Method::GET, ["members"]) => match self.overlay.view.load().identity.clone() {
                Some(identity) => document(&self.overlay.members(&identity)),
                None => refused(StatusCode::SERVICE_UNAVAILABLE, "this cluster has no identity yet"),
            },
            (Method::GET, ["catalog"]) => shown(self.overlay.catalog_for(&member).await),
            (Method::GET, ["buckets", name]) => match name.parse::<BucketName>() {
                Ok(name) => shown(self.overlay.bucket_for(&member, &name).await),
                Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
            },
            (Method::POST, ["search"]) => self.search(&member, request).await,
            (Method::GET, ["keys", id]) => self.day_key(&member, id, &query).await,
            _ => refused(StatusCode::NOT_FOUND, "there is nothing of this name in version 1 of the protocol"),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        refused(refusal.status, refusal.message)
    }
}

impl Guest {
    async fn join(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        match read::<Join>(request).await {
            Ok(join) => closing(shown(self.overlay.joined(&join, &self.key).await)),
            Err(why) => closing(refused(StatusCode::BAD_REQUEST, &why)),
        }
    }

    async fn gossip(
        &self,
        member: &ClusterName,
        query: &str,
        request: Request<RequestBody>,
    ) -> Response<ResponseBody> {
        let Some(from) = query.strip_prefix("from=").and_then(|from| from.parse().ok()) else {
            return refused(StatusCode::BAD_REQUEST, "gossip says from where it is: ?from=ADDRESS");
        };
        let body = Limited::new(request.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        let Ok(body) = body else {
            return refused(StatusCode::BAD_REQUEST, "the message is too long or broke off");
        };
        match self.overlay.gossip.put(member, from, &body.to_bytes()) {
            Ok(()) => empty(),
            Err(why) => refused(StatusCode::BAD_REQUEST, &why),
        }
    }

    async fn search(&self, member: &ClusterName, request: Request<RequestBody>) -> Response<ResponseBody> {
        let (searched, name) = match (read::<Searched>(request).await, self.overlay.name()) {
            (Ok(searched), Some(name)) => (searched, name),
            (Err(why), _) => return refused(StatusCode::BAD_REQUEST, &why),
            (_, None) => return refused(StatusCode::SERVICE_UNAVAILABLE, "this cluster has no identity yet"),
        };
        match self.service.search_for(member, &name, searched).await {
            Ok(page) => document(&page),
            Err(error) => refused(error.code().status(), error.message()),
        }
    }

    /// What verifies signatures of a user of this cluster for a day, where the member acts for the user.
    async fn day_key(&self, member: &ClusterName, id: &str, query: &str) -> Response<ResponseBody> {
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let (date, region) = (parameter("date"), parameter("region"));
        let is_date = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
        let (Ok(id), true, Ok(_)) = (id.parse::<AccessKeyId>(), is_date, region.parse::<ClusterName>())
        else {
            let why = "a key is asked for like keys/ID?date=20260131&region=NAME";
            return refused(StatusCode::BAD_REQUEST, why);
        };
        let nothing = || refused(StatusCode::NOT_FOUND, "no key that the cluster may use");
        let found = ask(&*self.overlay.parts.meta, Query::AccessKey(id.clone())).await;
        let Ok(Answer::AccessKey(Some(key))) = found else { return nothing() };
        let name = self.overlay.name();
        let acts = self.overlay.acts_for(member, &key.user);
        let (Some(name), true) = (name, acts) else { return nothing() };
        let Ok(secret) = self.cluster_key.open(&id, &key.sealed_secret) else { return nothing() };
        let signing_key = SigningKey::derive(&secret, date, region).to_hex();
        document(&DayKey { id, user: key.user.at_home_in(&name), signing_key })
    }
}

/// Requests of clients of a member.
struct ForwardedService {
    service: Arc<S3Service>,
    forwarded: Forwarded,
}

#[async_trait]
impl Handler for ForwardedService {
    async fn handle(&self, request: Request<RequestBody>, source: SocketAddr) -> Response<ResponseBody> {
        self.service.serve(request, source, Some(&self.forwarded)).await
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        self.service.refuse(refusal)
    }
}

async fn read<T: DeserializeOwned>(request: Request<RequestBody>) -> Result<T, String> {
    let body = Limited::new(request.into_body(), DOCUMENT_BYTES_MAX).collect().await;
    let bytes = body.map_err(|_| "the document is too long or broke off")?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| format!("the document is not what is expected: {error}"))
}

fn shown<T: Serialize>(outcome: Result<T, OverlayError>) -> Response<ResponseBody> {
    match outcome {
        Ok(value) => document(&value),
        Err(error) => {
            let status = match &error {
                OverlayError::Bad(_) => StatusCode::BAD_REQUEST,
                OverlayError::Refused(_) | OverlayError::Link(LinkError::Refused(..)) => StatusCode::CONFLICT,
                OverlayError::Link(_) | OverlayError::Meta(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            refused(status, &error.to_string())
        }
    }
}

fn document(value: &impl Serialize) -> Response<ResponseBody> {
    let mut response = Response::new(full(serde_json::to_vec(value).unwrap_or_default()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty() -> Response<ResponseBody> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn refused(status: StatusCode, why: &str) -> Response<ResponseBody> {
    let mut response = document(&Refused { error: why.to_string() });
    *response.status_mut() = status;
    response
}

fn closing(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
