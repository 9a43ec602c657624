//! Requests for tests of operations, without a connection and without a signature.

use std::sync::Arc;

use bytes::Bytes;
use fabric::Seams;
use fabric::disks::MemoryDisks;
use fabric::env::SystemEnv;
use fabric::net::LocalNet;
use http::{HeaderMap, HeaderName, Method};
use http_body_util::{BodyExt as _, Full};

use super::auth::{PayloadAuth, Verified};
use super::op::BodyRule;
use super::path::{CanonicalPath, Target};
use super::payload::{Payload, RawBody};
use super::request::{Query, Request};
use crate::notify::{Notifier, Webhooks};

/// Puts a request together: `TestRequest::new(Method::PUT, "/photos/cat?partNumber=1").header("if-match", "*").body("meow")`.
pub struct TestRequest {
    method: Method,
    uri: String,
    headers: HeaderMap,
    rule: BodyRule,
}

impl TestRequest {
    /// A request of user `tester` in path style.
    pub fn new(method: Method, uri: &str) -> TestRequest {
        TestRequest { method, uri: uri.to_string(), headers: HeaderMap::new(), rule: BodyRule::Object }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> TestRequest {
        let name: HeaderName = name.parse().expect("tests give header names");
        self.headers.append(name, value.parse().expect("tests give header values"));
        self
    }

    /// Sets the rule of the body; it is an object by default.
    #[must_use]
    pub fn rule(mut self, rule: BodyRule) -> TestRequest {
        self.rule = rule;
        self
    }

    /// The request with this body and its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Request {
        let body = body.into();
        self.headers.insert("content-length", body.len().into());
        let (path, query) = self.uri.split_once('?').unwrap_or((&self.uri, ""));
        let path = CanonicalPath::parse(path, None).expect("tests give paths");
        let (bucket, key) = match path.target().clone() {
            Target::Service => (None, None),
            Target::Bucket(bucket) => (Some(bucket), None),
            Target::Object(bucket, key) => (Some(bucket), Some(key)),
        };
        let payload = Payload::new(raw(body), &self.headers, self.rule, PayloadAuth::Unsigned);
        Request {
            method: self.method,
            bucket,
            key,
            query: Query::parse(query).expect("tests give queries").into(),
            headers: self.headers.into(),
            payload: payload.expect("tests give payloads that can be planned"),
            verified: Verified::for_tests("tester"),
            request_id: "0123456789ABCDEF".into(),
            source: std::net::IpAddr::from([127, 0, 0, 1]),
            secure: false,
            reply: None,
            may_carry_keys: true,
        }
    }
}

/// Nobody to tell of events.
pub fn notifier() -> Notifier {
    let env = Arc::new(SystemEnv::default());
    let seams = Seams { env, net: Arc::new(LocalNet::default()), disks: Arc::new(MemoryDisks::new(1 << 20)) };
    Notifier::new(seams, Webhooks::default())
}

/// A body that is already here.
pub fn raw(bytes: impl Into<Bytes>) -> RawBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
