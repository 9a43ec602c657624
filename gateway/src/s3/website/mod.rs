//! Buckets served as websites, on a port of their own: pages for browsers, redirects, and errors that people can read.
//!
//! What always holds: nothing is reached from here but reads of current versions, nobody is signed in, and each read is
//! decided like the same one of an unsigned S3 client. Nothing is listed.

pub mod configuration;
mod page;
mod place;
mod visit;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use consensus::meta::model::BucketSetting;
use http::header::{ALLOW, ORIGIN};
use http::{Method, StatusCode, request};

use self::place::Place;
use self::visit::Visit;
use super::access::{self, Access};
use super::cors;
use super::error::{Code, S3Error, S3Result};
use super::federation::{Came, Forwarded};
use super::op::resolve_bucket;
use super::response::Response;
use super::service::{S3Service, Trace, effective_host, log};
use crate::http::{Handler, Refusal, RequestBody, ResponseBody as HttpBody};
use crate::overlay::forward::Kind;

/// The port of websites of one gateway.
pub struct Websites {
    service: Arc<S3Service>,
    /// `photos.DOMAIN` is the bucket `photos`.
    domains: Vec<String>,
}

/// An answer, and what is wrong where it tells of that.
type Answered = (Response, Option<S3Error>);

impl Websites {
    /// The websites of the buckets that this service serves.
    pub fn new(service: Arc<S3Service>, domains: Vec<String>) -> Websites {
        Websites { service, domains }
    }

    async fn answer(&self, head: &request::Parts, came: Came<'_>, trace: &Trace) -> S3Result<Answered> {
        if head.method != Method::GET && head.method != Method::HEAD {
            let error = S3Error::from(Code::MethodNotAllowed).field("Method", head.method.as_str());
            return Err(error.field("ResourceType", "OBJECT").header(ALLOW, "GET, HEAD"));
        }
        let service = &self.service;
        let meta = &*service.backend.meta;
        let host = effective_host(head)?;
        let path = head.uri.path();
        let place = match came.forwarded {
            Some(Forwarded { bucket, kind, .. }) => {
                Place::of_bucket(bucket, *kind == Kind::Page { in_path: true }, path)?
            }
            None => Place::find(service, &host, path, &self.domains).await?,
        };
        let named = (&place.bucket, place.is_in_path());
        if let Some(response) = service.page_elsewhere(head, named, came).await? {
            return Ok((response, None));
        }
        let bucket = resolve_bucket(meta, &place.bucket).await?;
        let settings = access::settings(meta, &bucket).await?;
        let website = settings.iter().find_map(|setting| match setting {
            BucketSetting::Website(website) => Some(website),
            _ => None,
        });
        let missing =
            || S3Error::from(Code::NoSuchWebsiteConfiguration).field("BucketName", bucket.name.as_str());
        let website = website.ok_or_else(missing)?;
        let Came { source, secure, .. } = came;
        let facts = service.facts((source, secure), Arc::default(), Arc::new(head.headers.clone()));
        let access = Access::of(service.policies.clone(), service.backend.meta.clone(), None, facts).await?;
        let context = service.context(access, Some(bucket.clone()), source, trace);
        let visit = Visit { context: &context, head, host: &host, place: &place, trace, service, secure };
        let (mut response, error) = visit.answer(website).await;
        if let Some(origin) = head.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()) {
            let rules = settings.iter().find_map(|setting| match setting {
                BucketSetting::Cors(rules) => Some(rules.as_slice()),
                _ => None,
            });
            let told = cors::answer(rules.unwrap_or_default(), origin, head.method.as_str());
            cors::add(&mut response.headers, told);
        }
        Ok((response, error))
    }

    /// Answers one request; `forwarded`: what a gateway of another cluster says that sends it on.
    pub async fn serve(
        &self,
        request: http::Request<RequestBody>,
        source: SocketAddr,
        forwarded: Option<&Forwarded>,
    ) -> http::Response<HttpBody> {
        let (head, _) = request.into_parts();
        let began = self.service.backend.env.monotonic();
        let id = self.service.id_of(forwarded);
        let came = self.service.came((&head.headers, &id), source, forwarded);
        let op = if head.method == Method::HEAD { "WebsiteHead" } else { "WebsiteGet" };
        let trace = Trace { id: id.clone(), ..self.service.trace(op) };
        let (response, error) = match self.answer(&head, came, &trace).await {
            Ok(answered) => answered,
            Err(error) => {
                let response = page::of_error(&error, None, &trace.id, &self.service.host_id);
                (response, Some(error))
            }
        };
        let took = self.service.backend.env.monotonic().saturating_sub(began);
        log(&trace, &head, came.source, took, response.status, error.as_ref());
        self.service.finish_for(came, response, &head.method)
    }
}

#[async_trait]
impl Handler for Websites {
    async fn handle(
        &self,
        request: http::Request<RequestBody>,
        source: SocketAddr,
    ) -> http::Response<HttpBody> {
        self.serve(request, source, None).await
    }

    fn refuse(&self, refusal: Refusal) -> http::Response<HttpBody> {
        let id = self.service.request_id();
        let response = page::of_refusal(&refusal, &id, &self.service.host_id);
        tracing::info!(request_id = %id, code = refusal.code, "refused before it was a request");
        self.service.finish(response, &Method::GET, &id)
    }
}

/// Sends a browser elsewhere.
fn redirect(status: StatusCode, location: &str) -> Response {
    Response::new(status).header(http::header::LOCATION, location)
}
