//! What headers say about an object: from a request to what is stored, and from there to an answer.

use std::collections::BTreeMap;

use consensus::meta::model::{Attributes, Checksum, Object};
use fabric::limits::USER_METADATA_BYTES_MAX;
use http::header::{CONTENT_LENGTH, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::{Code, S3Error, S3Result};
use super::request::{Query, header_text};
use super::response::Response;
use super::time::http_date;
use super::{acl, checksum, classes, tags};
use consensus::meta::model::Etag;

/// Headers that are stored with an object and given back as they came.
const STORED: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
];

/// What a body is when nobody says.
const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

const USER_PREFIX: &str = "x-amz-meta-";

/// Of `x-amz-website-redirect-location`.
const REDIRECT_BYTES_MAX: usize = 2048;

/// Everything that the headers say about an object to be stored.
pub fn attributes(headers: &HeaderMap) -> S3Result<Attributes> {
    let mut stored = BTreeMap::new();
    for &name in STORED {
        let Some(value) = header_text(headers, name)? else {
            continue;
        };
        let value = match name {
            "content-encoding" => without_aws_chunked(value),
            _ => value.to_string(),
        };
        if !value.is_empty() {
            stored.insert(name.to_string(), value);
        }
    }
    if let Some(location) = stored.get("x-amz-website-redirect-location") {
        check_redirect(location)?;
    }
    Ok(Attributes {
        headers: stored,
        user: user_metadata(headers)?,
        storage_class: classes::of_headers(headers)?,
        tags: tags::of_header(headers)?,
    })
}

/// `aws-chunked` is how the body travelled, not what it is.
fn without_aws_chunked(value: &str) -> String {
    let codings: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    codings.join(",")
}

fn check_redirect(location: &str) -> S3Result<()> {
    if REDIRECT_BYTES_MAX < location.len() {
        return Err(Code::InvalidRedirectLocation
            .says(format!("The length of website redirect location cannot exceed {REDIRECT_BYTES_MAX}")));
    }
    let good = ["http://", "https://", "/"].iter().any(|start| location.starts_with(start));
    if good { Ok(()) } else { Err(Code::InvalidRedirectLocation.into()) }
}

/// `x-amz-meta-*`, values of one name joined with commas; names and values together have a limit.
fn user_metadata(headers: &HeaderMap) -> S3Result<BTreeMap<String, String>> {
    let mut user: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        let text = std::str::from_utf8(value.as_bytes())
            .map_err(|_| S3Error::argument(name, "", "The metadata is not UTF-8."))?
            .trim();
        let joined = user.entry(name.to_string()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(text);
    }
    let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if USER_METADATA_BYTES_MAX < bytes {
        return Err(S3Error::from(Code::MetadataTooLarge)
            .field("Size", bytes.to_string())
            .field("MaxSizeAllowed", USER_METADATA_BYTES_MAX.to_string()));
    }
    Ok(user)
}

/// Headers of S3 that ask for something that does not exist here: refused, never passed over, since an object
/// stored without the grant that was asked for is not what was asked for.
pub fn refuse_unsupported(headers: &HeaderMap, operation: &str) -> S3Result<()> {
    const PREFIXES: &[&str] = &["x-amz-meta-snowball-auto-extract", "x-amz-mfa"];
    for (name, value) in headers {
        let name = name.as_str();
        let text = value.to_str().unwrap_or("");
        let lacking = match name {
            // Of what makes nothing these two say what holds anyway.
            "x-amz-acl" if ["private", "bucket-owner-full-control"].contains(&text) => false,
            name if acl::is_header(name) => !acl::OPERATIONS.contains(&operation),
            "x-amz-object-ownership" => operation != "CreateBucket",
            "x-amz-bucket-namespace" => text != "global",
            // These exist for one operation only.
            name if name.starts_with("x-amz-write-offset-bytes") => operation != "PutObject",
            name if name.starts_with("x-amz-rename-source") => operation != "RenameObject",
            name => PREFIXES.iter().any(|prefix| name.starts_with(prefix)),
        };
        if lacking {
            return Err(S3Error::from(Code::NotImplemented).field("Header", name));
        }
    }
    Ok(())
}

/// The parameters `response-*` and the headers that they override.
const OVERRIDES: &[(&str, &str)] = &[
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
    ("response-content-language", "content-language"),
    ("response-content-type", "content-type"),
    ("response-expires", "expires"),
];

/// The headers that a reader wants instead of the stored ones.
pub fn overrides(query: &Query) -> S3Result<Vec<(HeaderName, HeaderValue)>> {
    let mut wanted = Vec::new();
    for &(parameter, header) in OVERRIDES {
        let Some(text) = query.non_empty(parameter) else {
            continue;
        };
        // CR, LF and other control characters are no header value.
        let value = HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| S3Error::argument(parameter, text, "Header value cannot be represented."))?;
        wanted.push((HeaderName::from_static(header), value));
    }
    Ok(wanted)
}

/// An answer about an object (GET, HEAD and also 304): tag, time, stored headers, metadata.
pub fn describe(response: Response, object: &Object, overrides: Vec<(HeaderName, HeaderValue)>) -> Response {
    let mut response = response
        .etag(&object.etag)
        .header(LAST_MODIFIED, http_date(object.modified.0))
        .header(http::header::ACCEPT_RANGES, "bytes");
    let attributes = &object.attributes;
    if !attributes.headers.contains_key("content-type") {
        response = response.header(http::header::CONTENT_TYPE, CONTENT_TYPE_DEFAULT);
    }
    for (name, value) in &attributes.headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            response = response.header(name, value);
        }
    }
    for (name, value) in &attributes.user {
        if let Ok(name) = HeaderName::from_bytes(format!("{USER_PREFIX}{name}").as_bytes()) {
            response = response.header(name, value);
        }
    }
    // STANDARD is not shown.
    if let Some(class) = &attributes.storage_class {
        response = response.amz("x-amz-storage-class", class);
    }
    if !attributes.tags.is_empty() {
        response = response.amz("x-amz-tagging-count", attributes.tags.len().to_string());
    }
    for (name, value) in overrides {
        response.headers.insert(name, value);
    }
    response
}

/// Adds `x-amz-checksum-*` and its type (`x-amz-checksum-mode: ENABLED`, never on ranges).
pub fn show_checksum(response: Response, checksum: &Checksum, parts: u16) -> Response {
    let name = HeaderName::from_static(checksum::header_name(checksum.algorithm));
    response
        .header(name, checksum::display(checksum, parts))
        .amz("x-amz-checksum-type", checksum::kind_name(checksum.kind))
}

/// How many parts a tag tells of; 0 for a single PUT.
pub fn parts_of(etag: &Etag) -> u16 {
    match etag {
        Etag::Md5(_) => 0,
        Etag::Multipart(_, parts) => *parts,
    }
}

/// Whether the client wants checksums in the answer.
pub fn wants_checksum(headers: &HeaderMap) -> bool {
    headers.get("x-amz-checksum-mode").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"enabled"))
}

/// Removes a length that an empty answer must not announce.
pub fn without_length(mut response: Response) -> Response {
    response.headers.remove(CONTENT_LENGTH);
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn attributes_of_a_put() {
        let got = attributes(&headers(&[
            ("content-type", "text/plain"),
            ("content-encoding", "aws-chunked, gzip"),
            ("x-amz-meta-a", "1"),
            ("x-amz-meta-a", "2"),
            ("x-amz-meta-b", "ü"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-tagging", "k=v+1&l"),
            ("host", "x"),
        ]))
        .unwrap();
        let pairs: Vec<_> = got.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("content-encoding", "gzip"), ("content-type", "text/plain")]);
        let pairs: Vec<_> = got.user.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "1,2"), ("b", "ü")]);
        assert_eq!(got.storage_class, None);
        assert_eq!(got.tags, [("k".to_string(), "v 1".to_string()), ("l".to_string(), String::new())]);
        assert!(
            !attributes(&headers(&[("content-encoding", "aws-chunked")]))
                .unwrap()
                .headers
                .contains_key("content-encoding")
        );
    }

    #[test]
    fn refusals() {
        let metadata = "x".repeat(2048);
        let long_redirect = "/".repeat(2049);
        let eleven = (0..11).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join("&");
        let long_key = "k".repeat(129);
        let long_value = format!("k={}", "v".repeat(257));
        for (name, value, code) in [
            ("x-amz-meta-a", metadata.as_str(), Code::MetadataTooLarge),
            ("x-amz-storage-class", "GLACIER", Code::InvalidStorageClass),
            ("x-amz-storage-class", "INTELLIGENT_TIERING", Code::InvalidStorageClass),
            ("x-amz-storage-class", "standard", Code::InvalidStorageClass),
            ("x-amz-website-redirect-location", "javascript:alert(1)", Code::InvalidRedirectLocation),
            ("x-amz-website-redirect-location", long_redirect.as_str(), Code::InvalidRedirectLocation),
            ("x-amz-tagging", eleven.as_str(), Code::BadRequest),
            ("x-amz-tagging", long_key.as_str(), Code::InvalidTag),
            ("x-amz-tagging", long_value.as_str(), Code::InvalidTag),
            ("x-amz-tagging", "k=1&k=2", Code::InvalidTag),
            ("x-amz-tagging", "aws:k=1", Code::InvalidTag),
            ("x-amz-tagging", "k=%zz", Code::InvalidArgument),
        ] {
            assert_eq!(attributes(&headers(&[(name, value)])).unwrap_err().code(), code, "{name}");
        }
        let fits = "x".repeat(2047);
        assert!(attributes(&headers(&[("x-amz-meta-a", &fits)])).is_ok());
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for (name, value, code) in [
            ("x-amz-rename-source", "photos/cat", Some(Code::NotImplemented)),
            ("x-amz-acl", "public-read", None),
            ("x-amz-grant-read", "id=a", None),
            ("x-amz-object-ownership", "ObjectWriter", Some(Code::NotImplemented)),
            ("x-amz-write-offset-bytes", "0", None),
            ("x-amz-meta-acl", "public-read", None),
        ] {
            let headers = headers(&[(name, value)]);
            let got = refuse_unsupported(&headers, "PutObject").err().map(|error| error.code());
            assert_eq!(got, code, "{name}");
        }
        for (name, operation) in [
            ("x-amz-acl", "UploadPart"),
            ("x-amz-grant-read", "GetObject"),
            ("x-amz-write-offset-bytes", "UploadPart"),
            ("x-amz-rename-source-if-match", "CopyObject"),
        ] {
            assert!(refuse_unsupported(&headers(&[(name, "1")]), operation).is_err(), "{name}");
        }
    }

    #[test]
    fn overrides_inject_nothing() {
        let query = Query::parse("response-content-type=text%2Fplain&response-expires=").unwrap();
        assert_eq!(
            overrides(&query).unwrap(),
            [("content-type".parse().unwrap(), "text/plain".parse().unwrap())]
        );
        let query = Query::parse("response-content-disposition=a%0d%0aSet-Cookie:x").unwrap();
        assert_eq!(overrides(&query).unwrap_err().code(), Code::InvalidArgument);
    }
}
