//! A request of a client goes to the cluster where its bucket is at home, and the answer comes back: as they are, while
//! they come.
//!
//! The home verifies the signature, so nobody on the way can change what was asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::meta::model::PlacedWhy;
use consensus::meta::names::BucketName;
use futures::StreamExt as _;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, request};
use http_body_util::{BodyExt as _, BodyStream};

use super::cache::{ObjectCache, Place, Reader};
use super::link::{AnsweredAt, Link, LinkError};
use super::wire::{FORWARDED, ID, PLACED, SECURE, SOURCE, VIRTUAL, WEBSITE};
use crate::http::ResponseBody as HttpBody;
use crate::s3::response::{Response, ResponseBody};
use crate::s3::{Code, S3Error, S3Result};

/// Which entry of a log an answer is about.
const INDEX: &str = "x-fluffy-index";
/// What is about a connection and not about what goes over it.
const BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    EXPECT,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What a request is for, as far as that makes a difference on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A GetObject.
    GetObject,
    /// A bucket is made there and not here.
    NewBucket(PlacedWhy),
    /// A page of a website; the bucket stands in its path or in its host.
    Page {
        /// In its path.
        in_path: bool,
    },
    /// Anything else of S3.
    Other,
}

impl Kind {
    /// How its home is told.
    fn header(self) -> Option<(&'static str, &'static str)> {
        match self {
            Kind::NewBucket(why) => Some((PLACED, why.name())),
            Kind::Page { in_path } => Some((WEBSITE, if in_path { "path" } else { "host" })),
            Kind::GetObject | Kind::Other => None,
        }
    }

    /// What its home is told.
    pub fn read(headers: &HeaderMap) -> Kind {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match (text(WEBSITE), text(PLACED)) {
            (Some(place), _) => Kind::Page { in_path: place == "path" },
            (None, Some(name)) => {
                PlacedWhy::ALL.into_iter().find(|why| why.name() == name).map_or(Kind::Other, Kind::NewBucket)
            }
            (None, None) => Kind::Other,
        }
    }
}

/// A request on its way.
#[derive(Clone)]
pub struct Onward<'a> {
    /// As it came.
    pub head: &'a request::Parts,
    /// The bucket where it is at home.
    pub bucket: &'a BucketName,
    /// How the host of the request names the bucket, if it does.
    pub virtual_bucket: Option<&'a str>,
    /// The address of the client.
    pub source: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Its id, which it keeps.
    pub id: &'a str,
    /// What it is for.
    pub kind: Kind,
    /// Who reads, where it is remembered whom the home lets read; and the monotonic time.
    pub witness: Option<(Reader, Duration)>,
}

/// The same for a read, of which the bytes may be here.
pub async fn read(
    cache: &Arc<ObjectCache>,
    link: &Arc<Link>,
    onward: Onward<'_>,
    body: HttpBody,
) -> S3Result<Response> {
    let Some(place) = Place::of(&link.name, onward.bucket, onward.kind == Kind::GetObject, onward.head)
    else {
        return forward(link, onward, body).await;
    };
    let witness = onward.witness.clone();
    let note = |answer: &Response| {
        if let Some((reader, at)) = witness {
            cache.note(&place, reader, answer, at);
        }
    };
    let Some(entry) = cache.get(&place) else {
        let answer = forward(link, onward, body).await?;
        note(&answer);
        return Ok(cache.keep(place, answer));
    };
    let mut head = onward.head.clone();
    entry.ask_for_others(&mut head.headers);
    let answer = forward(link, Onward { head: &head, ..onward }, body).await?;
    note(&answer);
    let is_same = answer.status == StatusCode::NOT_MODIFIED;
    let outcome = if is_same { "hit" } else { "miss" };
    metrics::counter!("fluffy_overlay_cache_total", "outcome" => outcome).increment(1);
    match is_same {
        true => Ok(cache.confirmed(&place, &entry, answer.headers)),
        false => Ok(cache.keep(place, answer)),
    }
}

/// Sends a request on and returns the answer.
pub async fn forward(link: &Arc<Link>, onward: Onward<'_>, body: HttpBody) -> S3Result<Response> {
    let method = onward.head.method.clone();
    let request = request(&onward, body)?;
    let answer = link.send(request).await.map_err(|error| match error {
        // It may have happened.
        LinkError::Lost(..) if !method.is_safe() => Code::InternalError.caused(error),
        error => refused(&error),
    })?;
    metrics::counter!("fluffy_overlay_forwarded_total", "cluster" => link.name.to_string()).increment(1);
    let (mut head, body) = answer.into_parts();
    let at = head.extensions.remove::<AnsweredAt>().map(|at| at.0).unwrap_or_default();
    let mut response = Response::new(head.status);
    response.headers = without_hops(head.headers);
    response.headers.remove(SERVER);
    name_log(link, &mut response.headers);
    let length = response.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let pieces = BodyStream::new(body).filter_map(|frame| async move {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        }
    });
    // What does not come any more is not waited for: the client sees that the body broke off.
    let pieces = pieces.take_until(link.clone().gone(at));
    let bodiless = method == Method::HEAD || length == Some(0);
    response.body = match length {
        _ if bodiless => ResponseBody::Empty,
        Some(bytes) => ResponseBody::Stream { bytes, stream: pieces.boxed() },
        None => ResponseBody::Open(pieces.boxed()),
    };
    Ok(response)
}

/// Entries of logs of other clusters are told with the name of theirs.
fn name_log(link: &Link, headers: &mut HeaderMap) {
    let told = headers.get(INDEX).and_then(|index| index.to_str().ok()).filter(|index| !index.contains('/'));
    if let Some(named) = told.and_then(|index| HeaderValue::from_str(&format!("{}/{index}", link.name)).ok())
    {
        headers.insert(INDEX, named);
    }
}

fn request(onward: &Onward<'_>, body: HttpBody) -> S3Result<Request<HttpBody>> {
    let head = onward.head;
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from(path);
    let mut headers = without_hops(head.headers.clone());
    for name in [FORWARDED, SOURCE, SECURE, ID, VIRTUAL, PLACED, WEBSITE] {
        headers.remove(name);
    }
    let secure = if onward.secure { "true" } else { "false" };
    let source = onward.source.to_string();
    let told = [(FORWARDED, onward.bucket.as_str()), (SOURCE, &source), (SECURE, secure), (ID, onward.id)];
    let virtually = onward.virtual_bucket.map(|bucket| (VIRTUAL, bucket));
    for (name, value) in told.into_iter().chain(virtually).chain(onward.kind.header()) {
        let value = HeaderValue::from_str(value).map_err(|_| Code::InvalidURI)?;
        headers.insert(HeaderName::from_static(name), value);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

fn without_hops(mut headers: HeaderMap) -> HeaderMap {
    for name in BY_HOP {
        headers.remove(name);
    }
    headers
}

/// How a client hears that a cluster gives no answer.
pub fn refused(error: &LinkError) -> S3Error {
    match error {
        LinkError::Away(cluster, _) | LinkError::Lost(cluster, _) => Code::ServiceUnavailable
            .says(format!("The bucket is at home in the cluster {cluster}, which does not answer now."))
            .field("Cluster", cluster.as_str()),
        LinkError::Busy(_) => Code::SlowDown.caused(error.clone()),
        LinkError::Refused(..) => Code::ServiceUnavailable.caused(error.clone()),
    }
}

/// A body that is here already.
pub fn body_of(bytes: Bytes) -> HttpBody {
    http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
