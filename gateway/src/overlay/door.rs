//! Who comes in at the port for clusters, and what is answered there.
//!
//! What always holds: a connection is of a key, and of the member that has it. A stranger may take an invitation, and
//! nothing else; whatever else it asks ends its connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::ask;
use consensus::meta::names::{AccessKeyId, BucketName, ClusterName};
use consensus::meta::overlay::PublicKey;
use consensus::meta::query::{Answer, Query};
use fabric::ids::Stamp;
use fabric::limits::KIB;
use fabric::net::BoxStream;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::copies::{Supersede, VersionsAsked};
use super::feed::{Feed, Since};
use super::forward::Kind;
use super::link::LinkError;
use super::wire::{DayKey, FORWARDED, Join, Leave, PATH, Refused, Searched};
use super::{Overlay, OverlayError};
use crate::admission::Admission;
use crate::data::BodyStream;
use crate::http::server::Door;
use crate::http::{BoxError, Handler, Refusal, RequestBody, ResponseBody, full};
use crate::s3::auth::SigningKey;
use crate::s3::service::{Forwarded, S3Service};
use crate::s3::website::Websites;
use crate::secrets::ClusterKey;

/// A document of the protocol is not longer.
const DOCUMENT_BYTES_MAX: usize = 128 * KIB as usize;

/// The door of the port for clusters.
pub struct ClusterDoor {
    /// Who is a member.
    pub overlay: Arc<Overlay>,
    /// What members ask for.
    pub service: Arc<S3Service>,
    /// What members ask for on behalf of browsers.
    pub websites: Arc<Websites>,
    /// Opens the secrets of users.
    pub cluster_key: ClusterKey,
    /// Requests of clients of members take turns with those of clients here.
    pub admission: Arc<Admission>,
    /// What clusters of copies are told.
    pub feed: Arc<Feed>,
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
            websites: self.websites.clone(),
            cluster_key: self.cluster_key.clone(),
            admission: self.admission.clone(),
            feed: self.feed.clone(),
            key,
        };
        Ok((stream, Arc::new(guest)))
    }
}

/// The other side of one connection.
struct Guest {
    overlay: Arc<Overlay>,
    service: Arc<S3Service>,
    websites: Arc<Websites>,
    cluster_key: ClusterKey,
    admission: Arc<Admission>,
    feed: Arc<Feed>,
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
            if let Kind::Page { .. } = forwarded.kind {
                let serving = ForwardedPage { websites: self.websites.clone(), forwarded };
                return self.admission.of_websites(Arc::new(serving)).handle(request, source).await;
            }
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
            (Method::POST, ["supersede", name]) => {
                match (name.parse::<BucketName>(), read::<Supersede>(request).await) {
                    (Ok(name), Ok(wanted)) => shown(self.feed.supersede(&member, &name, wanted).await),
                    (Err(error), _) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
                    (_, Err(why)) => refused(StatusCode::BAD_REQUEST, &why),
                }
            }
            (_, [what @ ("changes" | "objects" | "versions"), name]) => {
                self.copied(&member, (what, name), &query, request).await
            }
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

    /// What the cluster of a copy is told of its source.
    async fn copied(
        &self,
        member: &ClusterName,
        (what, name): (&str, &str),
        query: &str,
        request: Request<RequestBody>,
    ) -> Response<ResponseBody> {
        let wrong = |why: &str| refused(StatusCode::BAD_REQUEST, why);
        let Ok(name) = name.parse::<BucketName>() else { return wrong("this is no name of a bucket") };
        let to = match parameter(query, "to") {
            "" => None,
            text => match text.parse::<BucketName>() {
                Ok(to) => Some(to),
                Err(error) => return wrong(&error.to_string()),
            },
        };
        let shared = match self.feed.shared(member, &name, to).await {
            Ok(shared) => shared,
            Err(error) => return refusal(&error),
        };
        let feed = &self.feed;
        match (request.method().clone(), what) {
            (Method::GET, "changes") => {
                let number = |name| parameter(query, name).parse::<u64>().unwrap_or(0);
                let Ok(cursor) = parameter(query, "since").parse::<Stamp>() else {
                    return wrong("since is no cursor");
                };
                let wait = Duration::from_secs(number("wait"));
                let done = parameter(query, "done").parse().ok();
                let since = Since { cursor, wait, limit: number("limit") as usize, done };
                shown(feed.changes(&shared, &since).await)
            }
            (Method::GET, "objects") => shown(feed.objects(&shared, &decoded(query, "after")).await),
            (Method::POST, "versions") => match read::<VersionsAsked>(request).await {
                Ok(asked) => shown(feed.versions(&shared, &asked).await),
                Err(why) => wrong(&why),
            },
            (Method::GET, "versions") => {
                let (key, version) = (decoded(query, "key").parse(), parameter(query, "version").parse());
                let (Ok(key), Ok(version)) = (key, version) else {
                    return wrong("a version is asked for like versions/BUCKET?key=KEY&version=VERSION");
                };
                match feed.body(&shared, &key, version).await {
                    Ok(Some((bytes, stream))) => streamed(bytes, stream),
                    Ok(None) => refused(StatusCode::NOT_FOUND, "there is no such version"),
                    Err(error) => refusal(&error),
                }
            }
            _ => refused(StatusCode::METHOD_NOT_ALLOWED, "this is asked in another way"),
        }
    }

    /// What verifies signatures of a user of this cluster for a day, where the member acts for the user.
    async fn day_key(&self, member: &ClusterName, id: &str, query: &str) -> Response<ResponseBody> {
        let (date, region) = (parameter(query, "date"), parameter(query, "region"));
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

/// Pages for browsers of a member.
struct ForwardedPage {
    websites: Arc<Websites>,
    forwarded: Forwarded,
}

#[async_trait]
impl Handler for ForwardedPage {
    async fn handle(&self, request: Request<RequestBody>, source: SocketAddr) -> Response<ResponseBody> {
        self.websites.serve(request, source, Some(&self.forwarded)).await
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        self.websites.refuse(refusal)
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> &'a str {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

fn decoded(query: &str, name: &str) -> String {
    percent_decode_str(parameter(query, name)).decode_utf8_lossy().into_owned()
}

fn streamed(bytes: u64, stream: BodyStream) -> Response<ResponseBody> {
    let frames = stream.map(|piece| piece.map(Frame::data).map_err(BoxError::from));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    response
}

async fn read<T: DeserializeOwned>(request: Request<RequestBody>) -> Result<T, String> {
    let body = Limited::new(request.into_body(), DOCUMENT_BYTES_MAX).collect().await;
    let bytes = body.map_err(|_| "the document is too long or broke off")?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| format!("the document is not what is expected: {error}"))
}

fn shown<T: Serialize>(outcome: Result<T, OverlayError>) -> Response<ResponseBody> {
    match outcome {
        Ok(value) => document(&value),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &OverlayError) -> Response<ResponseBody> {
    let status = match error {
        OverlayError::Bad(_) => StatusCode::BAD_REQUEST,
        OverlayError::Denied(_) => StatusCode::FORBIDDEN,
        OverlayError::Refused(_) | OverlayError::Link(LinkError::Refused(..)) => StatusCode::CONFLICT,
        OverlayError::Busy(_) | OverlayError::Link(_) | OverlayError::Meta(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    refused(status, &error.to_string())
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
