//! Which operation a request is: exactly one, or a refusal.
//!
//! A sub-resource that S3 has and we have not is 501, never another operation. Parameters that S3 does not know
//! are ignored (and still signed).

use http::{HeaderMap, Method};

use super::error::{Code, S3Error, S3Result};
use super::op::Op;
use super::path::Target;
use super::request::Query;

/// What a route is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The service.
    Service,
    /// A bucket.
    Bucket,
    /// An object.
    Object,
}

impl From<&Target> for Scope {
    fn from(target: &Target) -> Scope {
        match target {
            Target::Service => Scope::Service,
            Target::Bucket(_) => Scope::Bucket,
            Target::Object(..) => Scope::Object,
        }
    }
}

/// Which requests an operation answers: those with this scope and method, exactly these sub-resources, and with and
/// without these headers.
#[derive(Debug, Clone)]
pub struct Route {
    scope: Scope,
    method: Method,
    sub_resources: Vec<(&'static str, Option<&'static str>)>,
    with_headers: Vec<&'static str>,
    without_headers: Vec<&'static str>,
}

impl Route {
    /// A route at the service.
    pub fn service(method: Method) -> Route {
        Route::new(Scope::Service, method)
    }

    /// A route at a bucket.
    pub fn bucket(method: Method) -> Route {
        Route::new(Scope::Bucket, method)
    }

    /// A route at an object.
    pub fn object(method: Method) -> Route {
        Route::new(Scope::Object, method)
    }

    fn new(scope: Scope, method: Method) -> Route {
        let (sub_resources, with_headers, without_headers) = (Vec::new(), Vec::new(), Vec::new());
        Route { scope, method, sub_resources, with_headers, without_headers }
    }

    /// Only with this sub-resource in the query, whatever its value.
    #[must_use]
    pub fn with(mut self, name: &'static str) -> Route {
        self.sub_resources.push((name, None));
        self
    }

    /// Only with this sub-resource and value.
    #[must_use]
    pub fn with_value(mut self, name: &'static str, value: &'static str) -> Route {
        self.sub_resources.push((name, Some(value)));
        self
    }

    /// Only with this header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str) -> Route {
        self.with_headers.push(name);
        self
    }

    /// Only without this header.
    #[must_use]
    pub fn without_header(mut self, name: &'static str) -> Route {
        self.without_headers.push(name);
        self
    }

    /// What it is about.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Its method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The sub-resources that must be there, with their value where it must be a certain one.
    pub fn sub_resources(&self) -> &[(&'static str, Option<&'static str>)] {
        &self.sub_resources
    }

    /// The headers that must be there.
    pub fn headers(&self) -> &[&'static str] {
        &self.with_headers
    }

    fn matches(&self, call: &Call<'_>) -> bool {
        self.scope == call.scope
            && self.method == *call.method
            && self.sub_resources.len() == call.present.len()
            && self.sub_resources.iter().all(|(name, value)| {
                call.present.contains(name) && value.is_none_or(|value| call.query.get(name) == Some(value))
            })
            && self.with_headers.iter().all(|name| call.headers.contains_key(*name))
            && !self.without_headers.iter().any(|name| call.headers.contains_key(*name))
    }

    /// Whether some request would match both.
    fn overlaps(&self, other: &Route) -> bool {
        let same_sub_resources = self.sub_resources.len() == other.sub_resources.len()
            && self.sub_resources.iter().all(|(name, value)| {
                other.sub_resources.iter().any(|(theirs, their_value)| {
                    name == theirs && (value.is_none() || their_value.is_none() || value == their_value)
                })
            });
        let apart = |left: &Route, right: &Route| {
            left.with_headers.iter().any(|name| right.without_headers.contains(name))
        };
        self.scope == other.scope
            && self.method == other.method
            && same_sub_resources
            && !apart(self, other)
            && !apart(other, self)
    }
}

/// What routing looks at.
struct Call<'a> {
    scope: Scope,
    method: &'a Method,
    query: &'a Query,
    headers: &'a HeaderMap,
    present: Vec<&'static str>,
}

/// Sub-resources that choose an operation of the core. With another method they mean nothing: 405.
const CORE: &[&str] = &[
    "acl",
    "annotation",
    "annotationName",
    "attributes",
    "changes",
    "cors",
    "delete",
    "encryption",
    "legal-hold",
    "lifecycle",
    "list-type",
    "location",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "retention",
    "search",
    "tagging",
    "uploadId",
    "uploads",
    "versioning",
    "versions",
    "website",
];

/// Sub-resources of S3 that choose an operation. What we lack is 501.
const OTHERS: &[&str] = &[
    "abac",
    "accelerate",
    "analytics",
    "annotations",
    "intelligent-tiering",
    "inventory",
    "metadataConfiguration",
    "metadataAnnotationTable",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "restore",
    "select",
    "session",
    "torrent",
];

/// Parameters that say how, not what. Like the sub-resources they may be sent once only.
const PARAMETERS: &[&str] = &[
    "annotation-prefix",
    "bucket-region",
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "id",
    "key-marker",
    "marker",
    "max-annotation-results",
    "max-buckets",
    "max-keys",
    "max-parts",
    "max-uploads",
    "part-number-marker",
    "prefix",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "select-type",
    "since",
    "start-after",
    "upload-id-marker",
    "versionId",
    "version-id-marker",
    "wait",
];

/// Whether a parameter of this name can choose an operation.
pub fn is_sub_resource(name: &str) -> bool {
    CORE.contains(&name) || OTHERS.contains(&name)
}

/// Chooses the operation of a request.
pub struct Router {
    routes: Vec<(Route, &'static dyn Op)>,
}

impl Router {
    /// A router over these operations.
    pub fn new(ops: &[&'static dyn Op]) -> Router {
        Router { routes: ops.iter().map(|op| (op.route(), *op)).collect() }
    }

    /// The operation that this request is.
    pub fn route(
        &self,
        method: &Method,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> S3Result<&'static dyn Op> {
        refuse_repeated(query)?;
        let scope = Scope::from(target);
        let present = present(method, scope, query);
        let call = Call { scope, method, query, headers, present };
        refuse_contradictions(&call)?;
        match self.routes.iter().find(|(route, _)| route.matches(&call)) {
            Some((_, op)) => Ok(*op),
            None => Err(self.why_not(&call)),
        }
    }

    /// Pairs of operations that would answer the same request; empty in a correct list.
    pub fn conflicts(&self) -> Vec<(&'static str, &'static str)> {
        let mut conflicts = Vec::new();
        for (at, (route, op)) in self.routes.iter().enumerate() {
            for (other_route, other) in &self.routes[at + 1..] {
                if route.overlaps(other_route) {
                    conflicts.push((op.name(), other.name()));
                }
            }
        }
        conflicts
    }

    fn why_not(&self, call: &Call<'_>) -> S3Error {
        let not_allowed = || S3Error::from(Code::MethodNotAllowed).field("Method", call.method.as_str());
        match call.present.as_slice() {
            ["uploadId"] if call.method == Method::PUT => not_allowed(),
            ["partNumber"] if call.method == Method::PUT => S3Error::argument(
                "partNumber",
                call.query.get("partNumber").unwrap_or(""),
                "uploadId is missing.",
            ),
            ["list-type"] => S3Error::argument(
                "list-type",
                call.query.get("list-type").unwrap_or(""),
                "Invalid List Type specified in Request",
            ),
            [name] if !CORE.contains(name) => not_implemented(name),
            // Of an object AWS has it, too: UpdateObjectEncryption.
            ["encryption"] if call.scope == Scope::Object && call.method == Method::PUT => {
                not_implemented("encryption")
            }
            // Same scope, method and sub-resources, but other headers: an operation of S3 that we lack.
            present
                if self.routes.iter().any(|(route, _)| {
                    route.scope == call.scope
                        && route.method == *call.method
                        && route.sub_resources.len() == present.len()
                        && route.sub_resources.iter().all(|(name, _)| present.contains(name))
                }) =>
            {
                not_implemented("header")
            }
            _ => not_allowed(),
        }
    }
}

fn not_implemented(what: &str) -> S3Error {
    S3Error::from(Code::NotImplemented).field("Header", what)
}

/// The sub-resources of the query. Some names are sub-resources with some methods and parameters with others.
fn present(method: &Method, scope: Scope, query: &Query) -> Vec<&'static str> {
    let chooses = |name: &str| match name {
        "partNumber" => *method == Method::PUT && scope == Scope::Object,
        "list-type" => *method == Method::GET && scope == Scope::Bucket,
        "annotationName" => query.has("annotation") && scope == Scope::Object,
        // An own one, and none for anybody else's requests.
        "search" => *method == Method::GET && scope != Scope::Object,
        // The service has no other.
        _ => scope != Scope::Service,
    };
    CORE.iter().chain(OTHERS).copied().filter(|name| chooses(name) && query.has(name)).collect()
}

/// A parameter that means something is sent once: nobody may check the first and use the second.
fn refuse_repeated(query: &Query) -> S3Result<()> {
    for name in CORE.iter().chain(OTHERS).chain(PARAMETERS) {
        if 1 < query.count(name) {
            return Err(S3Error::argument(name, "", "The parameter is given more than once."));
        }
    }
    Ok(())
}

fn refuse_contradictions(call: &Call<'_>) -> S3Result<()> {
    let beside = ["annotationName", "partNumber", "list-type"];
    let exclusive = call.present.iter().filter(|name| !beside.contains(name)).count();
    if 1 < exclusive {
        return Err(Code::InvalidRequest.says("Conflicting sub-resources are specified in the request."));
    }
    let reads = call.method == Method::GET || call.method == Method::HEAD;
    if reads && call.scope == Scope::Object {
        for name in ["uploads", "versions"] {
            if call.present.contains(&name) {
                return Err(Code::InvalidRequest
                    .says(format!("There is no such thing as the ?{name} sub-resource for a key")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::ops;

    fn route(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Result<&'static str, Code> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = crate::s3::path::CanonicalPath::parse(path, None).unwrap();
        let query = Query::parse(query).unwrap();
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let found = Router::new(&ops::all()).route(&method, path.target(), &query, &headers);
        found.map(|op| op.name()).map_err(|error| error.code())
    }

    #[test]
    fn requests_are_operations() {
        for (method, target, name) in [
            ("GET", "/", "ListBuckets"),
            ("GET", "/?x-id=ListBuckets&max-buckets=1", "ListBuckets"),
            ("PUT", "/abc", "CreateBucket"),
            ("PUT", "/abc/", "CreateBucket"),
            ("HEAD", "/abc", "HeadBucket"),
            ("DELETE", "/abc", "DeleteBucket"),
            ("GET", "/abc", "ListObjects"),
            ("GET", "/abc?prefix=a&no-such-parameter", "ListObjects"),
            ("GET", "/abc?list-type=2&prefix=acl", "ListObjectsV2"),
            ("GET", "/?search&q=x", "SearchObjects"),
            ("GET", "/abc?search=&q=x", "SearchBucket"),
            ("GET", "/abc/k?search", "GetObject"),
            ("PUT", "/abc?search", "CreateBucket"),
            ("GET", "/abc?location", "GetBucketLocation"),
            ("GET", "/abc?versioning=", "GetBucketVersioning"),
            ("PUT", "/abc/k?x-id=PutObject", "PutObject"),
            ("GET", "/abc/k?partNumber=1&versionId=null", "GetObject"),
            ("HEAD", "/abc/k", "HeadObject"),
            ("DELETE", "/abc/k?versionId=null", "DeleteObject"),
        ] {
            assert_eq!(route(method, target, &[]), Ok(name), "{method} {target}");
        }
    }

    #[test]
    fn other_requests_are_refused() {
        for (method, target, code) in [
            ("GET", "/abc?list-type=1", Code::InvalidArgument),
            ("GET", "/abc?list-type=2&list-type=2", Code::InvalidArgument),
            ("GET", "/abc?prefix=a&prefix=b", Code::InvalidArgument),
            ("GET", "/abc/k?uploads", Code::InvalidRequest),
            ("GET", "/abc/k?versions", Code::InvalidRequest),
            ("PUT", "/abc/k?uploadId=x", Code::MethodNotAllowed),
            ("PUT", "/abc/k?partNumber=1", Code::InvalidArgument),
            ("GET", "/abc/k?acl&policy&tagging", Code::InvalidRequest),
            ("GET", "/abc?versions&uploads", Code::InvalidRequest),
            ("POST", "/abc/k", Code::MethodNotAllowed),
            ("PATCH", "/abc/k", Code::MethodNotAllowed),
            ("OPTIONS", "/abc/k", Code::MethodNotAllowed),
            ("PUT", "/", Code::MethodNotAllowed),
            ("GET", "/abc?delete", Code::MethodNotAllowed),
            ("PUT", "/abc?location", Code::MethodNotAllowed),
            ("DELETE", "/abc?versioning", Code::MethodNotAllowed),
        ] {
            assert_eq!(route(method, target, &[]), Err(code), "{method} {target}");
        }
        let form = [("content-type", "multipart/form-data; boundary=x")];
        assert_eq!(route("POST", "/abc", &form), Ok("PostObject"));
    }

    /// What S3 has and we lack is never taken for another operation.
    #[test]
    fn sub_resources_that_we_lack_are_not_implemented() {
        let routes: Vec<Route> = ops::all().into_iter().map(|op| op.route()).collect();
        for name in OTHERS {
            for (method, target) in [("GET", "/abc"), ("PUT", "/abc"), ("DELETE", "/abc"), ("HEAD", "/abc")] {
                for target in [format!("{target}?{name}"), format!("{target}/k?{name}=x")] {
                    let scope = if target.contains("/k") { Scope::Object } else { Scope::Bucket };
                    let served = routes.iter().any(|route| {
                        route.scope == scope
                            && route.method == method
                            && route.sub_resources.iter().any(|(have, _)| have == name)
                    });
                    if !served {
                        assert_eq!(
                            route(method, &target, &[]),
                            Err(Code::NotImplemented),
                            "{method} {target}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn overlaps_are_found() {
        let plain = || Route::object(Method::PUT);
        for (left, right, overlap) in [
            (plain(), plain(), true),
            (plain(), Route::object(Method::GET), false),
            (plain(), Route::bucket(Method::PUT), false),
            (plain().with("a"), plain(), false),
            (plain().with("a"), plain().with("b"), false),
            (plain().with("a"), plain().with_value("a", "1"), true),
            (plain().with_value("a", "2"), plain().with_value("a", "1"), false),
            (plain().with("a").with("b"), plain().with("b").with("a"), true),
            (plain().with_header("x"), plain().without_header("x"), false),
            (plain().with_header("x"), plain(), true),
            (plain().with_header("x"), plain().without_header("y"), true),
        ] {
            assert_eq!(left.overlaps(&right), overlap, "{left:?} {right:?}");
            assert_eq!(right.overlaps(&left), overlap, "{right:?} {left:?}");
        }
    }
}
