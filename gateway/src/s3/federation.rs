//! Requests that are about buckets of other clusters of the overlay, and requests of their clients that come from there.
//!
//! What always holds: a bucket that is here is served here. A request is sent on once, never twice, so that none goes in
//! circles. Where it came to first is told, and whom it acts for is proved by the signature of its client.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::client::ask;
use consensus::meta::model::Placed;
use consensus::meta::names::{BucketName, ClusterName, UserName};
use consensus::meta::query::{Answer, Query as MetaQuery};
use http::header::{LOCATION, REFERER, USER_AGENT};
use http::{HeaderMap, StatusCode, Uri, request};
use http_body_util::BodyExt as _;

use super::access::Access;
use super::auth::{Claimed, Signer, Unverified, Verified, Verifier, claimed, verify};
use super::error::{BoxError, Code, S3Error, S3Result};
use super::op::{Action, Op, unexpected};
use super::path::Target;
use super::response::Response;
use super::search::{Asked, Found, Looking};
use super::searching_all;
use super::service::S3Service;
use super::xml::XmlWriter;
use crate::accounts::LastKnown;
use crate::http::{RequestBody, ResponseBody as HttpBody};
use crate::overlay::cache::{Place, Reader};
use crate::overlay::forward::{Kind, Onward, body_of, forward, read};
use crate::overlay::link::Link;
use crate::overlay::wire::{FORWARDED, ID, SECURE, SOURCE, Searched, SearchedPage, VIRTUAL};
use crate::overlay::{Elsewhere, Overlay};

/// Ids of requests are not longer.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// What a gateway of another cluster says of a request that it sends on.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// Which cluster.
    pub by: ClusterName,
    /// The bucket as it is named here.
    pub bucket: BucketName,
    /// How the host names the bucket, if it does.
    pub virtual_bucket: Option<String>,
    /// The address of the client.
    pub source: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Its id there.
    pub id: Option<Arc<str>>,
    /// What it is for.
    pub kind: Kind,
}

impl Forwarded {
    /// Why a bucket that it makes is here.
    pub fn placed(&self) -> Option<Placed> {
        match self.kind {
            Kind::NewBucket(why) => Some(Placed { via: self.by.clone(), why }),
            _ => None,
        }
    }

    /// From the headers of a request of this cluster; `None`: they are not complete.
    pub fn read(headers: &HeaderMap, by: ClusterName) -> Option<Forwarded> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Some(Forwarded {
            by,
            bucket: text(FORWARDED)?.parse().ok()?,
            virtual_bucket: text(VIRTUAL).map(str::to_string),
            source: text(SOURCE)?.parse().ok()?,
            secure: text(SECURE)? == "true",
            id: text(ID).filter(|id| is_id(id)).map(Arc::from),
            kind: Kind::read(headers),
        })
    }
}

/// How a request came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came<'a> {
    /// The address of the client.
    pub source: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Its id.
    pub id: &'a str,
    /// By way of another cluster.
    pub forwarded: Option<&'a Forwarded>,
}

/// What becomes of a request.
pub(super) enum Way {
    /// It is answered elsewhere, like this.
    There(Response),
    /// The client is to send it elsewhere.
    At(Redirect),
    /// Its home is away. What is in memory may be good enough; else this is the answer.
    Away(Remembered, S3Error),
    /// It is answered here.
    Here(HttpBody),
}

/// A read of an object that may be in memory.
pub(super) struct Remembered {
    home: ClusterName,
    place: Place,
    reader: Reader,
    /// How long ago the home must have let the reader read it, at most.
    bound: Duration,
}

/// Where the client of a request is to send it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    /// `https://host:port`.
    endpoint: String,
    /// With the bucket, and the query.
    path: String,
    bucket: BucketName,
    /// For which it signs it.
    region: ClusterName,
}

impl Redirect {
    /// How the client is told.
    pub fn response(&self, request_id: &str, host_id: &str) -> Response {
        let mut xml = XmlWriter::new();
        xml.element("Error", |xml| {
            xml.text("Code", "TemporaryRedirect");
            xml.text("Message", "Please re-send this request to the specified temporary endpoint. Continue to use the original request endpoint for future requests.");
            xml.text("Endpoint", self.endpoint.split_once("//").map_or("", |(_, host)| host));
            xml.text("Bucket", self.bucket.as_str());
            xml.text("RequestId", request_id);
            xml.text("HostId", host_id);
        });
        let response = Response::xml(xml).header(LOCATION, format!("{}{}", self.endpoint, self.path));
        Response { status: StatusCode::TEMPORARY_REDIRECT, ..response }
            .amz("x-amz-bucket-region", self.region.as_str())
    }
}

/// The path of a request, with its query, where its bucket is at home and named by the path.
fn path_at(bucket: &BucketName, virtual_bucket: Option<&str>, uri: &Uri) -> String {
    let key = match virtual_bucket {
        Some(_) => uri.path().strip_prefix('/'),
        None => uri.path().splitn(3, '/').nth(2),
    };
    let key = key.map(|key| format!("/{key}")).unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{bucket}{key}{query}")
}

/// Whether a text may be the id of a request: what is written into logs and headers.
fn is_id(text: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether the signature of a request is in its query.
fn is_presigned(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("X-Amz-Signature=")))
}

impl S3Service {
    /// The overlay, where there are other clusters.
    pub(super) fn others(&self) -> Option<&Arc<Overlay>> {
        self.backend.overlay.as_ref().filter(|overlay| !overlay.is_alone())
    }

    /// How a request came from an address, or by way of another cluster.
    pub(super) fn came<'a>(
        &self,
        (headers, id): (&HeaderMap, &'a str),
        source: SocketAddr,
        forwarded: Option<&'a Forwarded>,
    ) -> Came<'a> {
        let (source, secure) = match forwarded {
            Some(forwarded) => (forwarded.source, forwarded.secure),
            None => (self.proxies.client(source.ip(), headers), self.secure),
        };
        Came { source, secure, id, forwarded }
    }

    /// Sends a request on whose bucket is elsewhere.
    pub(super) async fn way(
        &self,
        head: &request::Parts,
        body: RequestBody,
        op: &dyn Op,
        unverified: Unverified<'_>,
        came: Came<'_>,
    ) -> S3Result<Way> {
        if let Some(overlay) = &self.backend.overlay {
            overlay.read().await?;
        }
        let body = body.map_err(BoxError::from).boxed_unsync();
        let Unverified { path, virtual_bucket, .. } = unverified;
        let (Some(overlay), None) = (self.others(), came.forwarded) else { return Ok(Way::Here(body)) };
        let (Target::Bucket(name) | Target::Object(name, _)) = path.target() else {
            return Ok(Way::Here(body));
        };
        let onward = Onward {
            head,
            bucket: name,
            virtual_bucket,
            source: came.source,
            secure: came.secure,
            id: came.id,
            kind: if op.name() == "GetObject" { Kind::GetObject } else { Kind::Other },
            witness: None,
        };
        if op.action() == Action::CreateBucket {
            return self.place(overlay, onward, body).await;
        }
        if self.is_here(name).await? && !self.backend.env.armed("others_first") {
            return Ok(Way::Here(body));
        }
        let Some((link, home)) = home_of(overlay, name).await? else { return Ok(Way::Here(body)) };
        // The signature of a URL is good for one host.
        let may_move = !is_presigned(&head.uri);
        if let Some(endpoint) = overlay.endpoint(&link).filter(|_| may_move) {
            metrics::counter!("fluffy_overlay_redirected_total", "cluster" => link.name.to_string())
                .increment(1);
            let path = path_at(&home, virtual_bucket, &head.uri);
            return Ok(Way::At(Redirect { endpoint, path, bucket: home, region: link.name.clone() }));
        }
        let way = self.sent_on(&link, Onward { bucket: &home, ..onward }, body, (op, unverified)).await?;
        if op.name() == "DeleteBucket" && matches!(&way, Way::There(answer) if answer.status.is_success()) {
            overlay.note_gone(&link, &home);
        }
        Ok(way)
    }

    /// Sends a request on to where its bucket is at home. While that is away the answer may be in memory.
    async fn sent_on(
        &self,
        link: &Arc<Link>,
        onward: Onward<'_>,
        body: HttpBody,
        (op, unverified): (&dyn Op, Unverified<'_>),
    ) -> S3Result<Way> {
        let Some(overlay) = self.others() else { return Ok(Way::Here(body)) };
        let asked = overlay.staleness(link, onward.bucket).and_then(|bound| {
            let is_read = matches!(op.name(), "GetObject" | "HeadObject");
            let place = Place::of_any(&link.name, onward.bucket, is_read, onward.head)?;
            let reader = Reader {
                claimed: claimed(&unverified, &self.region).ok()?,
                source: onward.source,
                secure: onward.secure,
                agent: [USER_AGENT, REFERER].map(|name| onward.head.headers.get(name).cloned()),
            };
            Some(Remembered { home: link.name.clone(), place, reader, bound })
        });
        let witness = asked.as_ref().map(|asked| (asked.reader.clone(), self.backend.env.monotonic()));
        match (read(&overlay.cache, link, Onward { witness, ..onward }, body).await, asked) {
            (Ok(response), asked) => {
                if let Some(claimed) = asked.and_then(|asked| asked.reader.claimed)
                    && response.status == StatusCode::OK
                {
                    self.learn_key(overlay, claimed);
                }
                Ok(Way::There(response))
            }
            (Err(error), Some(asked)) if error.code() == Code::ServiceUnavailable => {
                Ok(Way::Away(asked, error))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Sees to it that signatures of somebody can be verified here today, whatever becomes of the home of the key.
    fn learn_key(&self, overlay: &Arc<Overlay>, claimed: Claimed) {
        let Claimed { key, date, region, .. } = claimed;
        if overlay.known_day_key(&key, &date, &region).is_some() {
            return;
        }
        let (keys, overlay) = (self.backend.keys.clone(), overlay.clone());
        let learned = async move {
            // The secrets of users of this cluster are here.
            if let Ok(None) = keys.secret(&key).await
                && let Err(error) = overlay.day_key(&key, &date, &region).await
            {
                tracing::debug!(%key, %error, "a key of another cluster is not known yet");
            }
        };
        self.backend.env.spawn("overlay key", Box::pin(learned));
    }

    /// The answer to a read whose home is away, for whom the home let read the object a short while ago; `error` for
    /// everybody else.
    pub(super) async fn remembered(
        &self,
        asked: &Remembered,
        error: S3Error,
        unverified: Unverified<'_>,
        head: &request::Parts,
    ) -> S3Result<Response> {
        let Some(overlay) = self.others() else { return Err(error) };
        let now = self.backend.env.monotonic();
        let Some(stale) = overlay.cache.stale(&asked.place, &asked.reader, now, asked.bound) else {
            return Err(error);
        };
        let keys = LastKnown { keys: self.backend.keys.clone(), overlay: overlay.clone() };
        let verifier = Verifier {
            region: &self.region,
            other_region: Some(asked.home.as_str()),
            now_ms: self.backend.env.wall_ms(),
        };
        match verify(unverified, verifier, &keys, &self.signing_keys).await {
            Ok(_) => {
                metrics::counter!("fluffy_overlay_stale_total", "cluster" => asked.home.to_string())
                    .increment(1);
                stale.answer(head)
            }
            // The key was not told before its home went away.
            Err(unknown) if unknown.code() == Code::InvalidAccessKeyId => Err(error),
            Err(refused) => Err(refused),
        }
    }

    /// What the home of a bucket says to a browser that asks; `None`: the bucket is here, or nowhere.
    pub(super) async fn preflight_elsewhere(
        &self,
        head: &request::Parts,
        (bucket, virtual_bucket): (&BucketName, Option<&str>),
        came: Came<'_>,
    ) -> S3Result<Option<Response>> {
        self.asked_of_home(head, (bucket, virtual_bucket), came, Kind::Other).await
    }

    /// Asks the home of a bucket for a page of its website; `None`: it is here, or nowhere.
    pub(super) async fn page_elsewhere(
        &self,
        head: &request::Parts,
        (bucket, in_path): (&BucketName, bool),
        came: Came<'_>,
    ) -> S3Result<Option<Response>> {
        self.asked_of_home(head, (bucket, None), came, Kind::Page { in_path }).await
    }

    /// Sends on what nobody signs.
    async fn asked_of_home(
        &self,
        head: &request::Parts,
        (bucket, virtual_bucket): (&BucketName, Option<&str>),
        came: Came<'_>,
        kind: Kind,
    ) -> S3Result<Option<Response>> {
        let (Some(overlay), None) = (&self.backend.overlay, came.forwarded) else { return Ok(None) };
        if self.is_here(bucket).await? {
            return Ok(None);
        }
        overlay.read().await?;
        let Some((link, home)) = home_of(overlay, bucket).await? else { return Ok(None) };
        let Came { source, secure, id, .. } = came;
        let onward = Onward { head, bucket: &home, virtual_bucket, source, secure, id, kind, witness: None };
        forward(&link, onward, body_of(Bytes::new())).await.map(Some)
    }

    /// Refuses who may not act here: users of other clusters, and users of this one by way of others, act where that was
    /// granted.
    pub(super) fn check_grant(
        &self,
        verified: &Verified,
        bucket: Option<&BucketName>,
        came: Came<'_>,
    ) -> S3Result<()> {
        let Some(user) = verified.signer().map(|signer| &signer.user) else { return Ok(()) };
        let via = came.forwarded.map(|forwarded| &forwarded.by);
        let Some(bucket) = bucket.filter(|_| user.home().is_some() || via.is_some()) else { return Ok(()) };
        let granted =
            self.backend.overlay.as_ref().is_some_and(|overlay| overlay.permits(user, via, Some(bucket)));
        if granted {
            return Ok(());
        }
        let cluster = user.home().or(via.map(ClusterName::as_str)).unwrap_or_default();
        Err(Code::AccessDenied.says(format!(
            "The cluster {cluster} may not act for the user {user} in this bucket; its cluster has to grant that."
        )))
    }

    /// A page of what a user may see in all clusters, for who runs this one.
    pub async fn search_as(&self, user: UserName, asked: &Asked) -> S3Result<Found> {
        let source = IpAddr::from([127, 0, 0, 1]);
        let facts = self.facts((source, true), Arc::default(), Arc::default());
        let meta = self.backend.meta.clone();
        let access = Access::of(self.policies.clone(), meta, Some(Signer::vouched_for(user)), facts).await?;
        let context = self.context(access, None, source, &self.trace("SearchObjects"));
        searching_all::find_here_or_everywhere(&context, asked).await
    }

    /// A page of what a user may see, for another cluster that acts for the user.
    pub async fn search_for(
        &self,
        member: &ClusterName,
        here: &ClusterName,
        searched: Searched,
    ) -> S3Result<SearchedPage> {
        let user = searched.user.seen_in(here);
        let document =
            serde_json::to_value(&searched).map_err(|error| searching_all::malformed(&error.to_string()))?;
        let asked = Asked::by_operator(&document, here.as_str())?;
        let Some(overlay) = &self.backend.overlay else { return Err(Code::AccessDenied.into()) };
        if user.home().is_some_and(|home| home != member.as_str()) {
            return Err(
                Code::AccessDenied.says("A cluster asks for its own users, and for those it may act for.")
            );
        }
        let granted = |bucket: &BucketName| overlay.permits(&user, Some(member), Some(bucket));
        let facts = self.facts((searched.source, true), Arc::default(), Arc::default());
        let meta = self.backend.meta.clone();
        let signer = Signer::vouched_for(user.clone());
        let access = Access::of(self.policies.clone(), meta.clone(), Some(signer), facts).await?;
        let looking = Looking { access: &access, bucket: None, granted: &granted };
        let (env, search) = (&*self.backend.env, &self.backend.search);
        let found = search.find(&*meta, env, &looking, &asked, asked.token()).await?;
        Ok(searching_all::page(env, search, (&user, here), &asked, found))
    }

    pub(super) async fn is_here(&self, name: &BucketName) -> S3Result<bool> {
        match ask(&*self.backend.meta, MetaQuery::Bucket(name.clone())).await? {
            Answer::Bucket(bucket) => Ok(bucket.is_some()),
            _ => Err(unexpected("Bucket")),
        }
    }
}

/// The other cluster where a bucket is at home that is not here, and its name there; `None`: it is nowhere.
pub(super) async fn home_of(
    overlay: &Overlay,
    name: &BucketName,
) -> S3Result<Option<(Arc<Link>, BucketName)>> {
    match overlay.elsewhere(name).await {
        Elsewhere::In(link, home) => Ok(Some((link, home))),
        Elsewhere::Disputed(homes) => Err(disputed(name, &homes)),
        Elsewhere::Unknown(cluster) => Err(unknown(&cluster)),
        Elsewhere::Nowhere => Ok(None),
    }
}

/// A cluster that does not answer may have the bucket, which no other one has.
fn unknown(cluster: &ClusterName) -> S3Error {
    Code::ServiceUnavailable
        .says(format!(
            "No cluster that answers has a bucket of this name, and the cluster {cluster} does not answer now."
        ))
        .field("Cluster", cluster.as_str())
}

fn disputed(name: &BucketName, homes: &[ClusterName]) -> S3Error {
    let names: Vec<String> = homes.iter().map(|home| format!("{name}--{home}")).collect();
    Code::OperationAborted
        .says(format!(
            "Several clusters have a bucket of this name; here they are reached as {}.",
            names.join(" and ")
        ))
        .field("BucketName", name.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_path_and_query() {
        let east: BucketName = "photos".parse().unwrap();
        for (virtual_bucket, uri, expected) in [
            (None, "/photos", "/photos"),
            (None, "/photos/", "/photos/"),
            (None, "/photos--east/a%20b/c?versionId=1&x", "/photos/a%20b/c?versionId=1&x"),
            (None, "/photos//a", "/photos//a"),
            (Some("photos"), "/", "/photos/"),
            (Some("photos"), "/a/b?acl", "/photos/a/b?acl"),
        ] {
            assert_eq!(path_at(&east, virtual_bucket, &uri.parse().unwrap()), expected, "{uri}");
        }
        assert!(is_presigned(&"/photos/k?X-Amz-Date=1&X-Amz-Signature=2".parse().unwrap()));
        assert!(!is_presigned(&"/photos/k?x=X-Amz-Signature".parse().unwrap()));
    }
}
