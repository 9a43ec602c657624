//! The form of a browser: an upload whose key, headers and signature are fields before the file.
//!
//! The form is read up to its file, within bounds; the file streams like every other body. What always holds: a policy
//! that somebody signed is checked against the values that are used, after `${filename}` is filled in, and every field
//! that means something must be in it.

mod fields;
mod file;
mod policy;

use consensus::meta::names::{BucketName, ObjectKey};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::{Code, S3Error, S3Result};
use super::payload::RawBody;
use super::response::Response;
use super::tags;
use super::xml::{XmlWriter, tagging};

pub use fields::Fields;
pub use policy::FormPolicy;

/// Fields that stand for a header of the same name, beside those that begin with `x-amz-`.
const HEADERS: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "expires",
];

/// Fields of signatures; they say nothing about the object.
const SIGNATURE: &[&str] =
    &["x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature", "x-amz-security-token"];

/// What a URL in a query keeps as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A form, read up to its file.
pub struct Form {
    /// Its fields, `${filename}` filled in.
    pub fields: Fields,
    /// Name of the object to be.
    pub key: ObjectKey,
    file: file::File,
}

impl Form {
    /// Reads the fields.
    pub async fn read(body: RawBody, headers: &HeaderMap) -> S3Result<Form> {
        let boundary =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(fields::boundary);
        let boundary = boundary.ok_or_else(|| {
            Code::PreconditionFailed.says("Bucket POST must be of the enclosure-type multipart/form-data")
        })?;
        let (mut fields, file) = fields::read(body, &boundary).await?;
        fields.fill_in_filename();
        let key = fields.get("key").ok_or_else(|| {
            let message = "Bucket POST must contain a field named 'key'.  If it is specified, please check the \
                           order of the fields.";
            S3Error::argument("key", "", message)
        })?;
        Ok(Form { key: key.parse()?, fields, file })
    }

    /// Holds the form against a policy that its sender signed for this bucket.
    pub fn check(&mut self, policy: &FormPolicy, bucket: &BucketName, now_ms: u64) -> S3Result<()> {
        policy.check(&self.fields, bucket, now_ms)?;
        self.file.limit(policy.bytes());
        Ok(())
    }

    /// The headers that the fields stand for.
    pub fn headers(&self) -> S3Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.fields.iter() {
            let stands = HEADERS.contains(&name) || name.starts_with("x-amz-") && !SIGNATURE.contains(&name);
            if name == "x-amz-copy-source" {
                return Err(S3Error::argument(name, value, "A form uploads a file; it copies nothing."));
            }
            if stands {
                insert(&mut headers, name, value)?;
            }
        }
        if let Some(acl) = self.fields.get("acl") {
            insert(&mut headers, "x-amz-acl", acl)?;
        }
        if let Some(document) = self.fields.get("tagging") {
            let tags = tags::of_object(tagging(document.as_bytes())?)?;
            let escaped = |text: &str| utf8_percent_encode(text, KEPT).to_string();
            let pairs: Vec<String> =
                tags.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
            insert(&mut headers, "x-amz-tagging", &pairs.join("&"))?;
        }
        Ok(headers)
    }

    /// What is answered once the file is stored. `place` is the address of the bucket.
    pub fn reply(&self, bucket: &BucketName, place: &str) -> Reply {
        let redirect = self.fields.get("success_action_redirect").or_else(|| self.fields.get("redirect"));
        let is_url = |url: &&str| url.starts_with("http://") || url.starts_with("https://");
        Reply {
            bucket: bucket.to_string(),
            key: self.key.to_string(),
            location: format!("{place}/{}", utf8_percent_encode(self.key.as_str(), KEPT)),
            redirect: redirect.filter(is_url).map(str::to_string),
            status: self.fields.get("success_action_status").unwrap_or("").to_string(),
        }
    }

    /// The bytes of the file.
    pub fn into_file(self) -> RawBody {
        self.file.into_body()
    }
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> S3Result<()> {
    let wrong = || S3Error::argument(name, value, "The field cannot stand for a header.");
    let parsed: HeaderName = name.parse().map_err(|_| wrong())?;
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?;
    if headers.insert(parsed, value).is_some() {
        return Err(S3Error::argument(name, "", "The field is given more than once."));
    }
    Ok(())
}

/// How the sender of a form wants to hear that its file is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    bucket: String,
    key: String,
    location: String,
    redirect: Option<String>,
    status: String,
}

impl Reply {
    /// The answer to a form, from the answer to the upload that it is.
    pub fn answer(&self, stored: Response) -> Response {
        let etag = stored.headers.get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or("").to_string();
        let (status, document) = match (&self.redirect, self.status.as_str()) {
            (Some(_), _) => (StatusCode::SEE_OTHER, None),
            (None, "200") => (StatusCode::OK, None),
            (None, "201") => (StatusCode::CREATED, Some(self.document(&etag))),
            (None, _) => (StatusCode::NO_CONTENT, None),
        };
        let location = match &self.redirect {
            None => self.location.clone(),
            Some(url) => {
                let escaped = |text: &str| utf8_percent_encode(text, KEPT).to_string();
                let joint = if url.contains('?') { '&' } else { '?' };
                let (bucket, key, etag) = (escaped(&self.bucket), escaped(&self.key), escaped(&etag));
                format!("{url}{joint}bucket={bucket}&key={key}&etag={etag}")
            }
        };
        let mut response = match document {
            Some(document) => Response::xml(document),
            None => Response::ok(),
        };
        response.status = status;
        for (name, value) in &stored.headers {
            response.headers.insert(name.clone(), value.clone());
        }
        response.header(LOCATION, location)
    }

    fn document(&self, etag: &str) -> XmlWriter {
        let mut xml = XmlWriter::new();
        xml.open("PostResponse");
        xml.text("Location", &self.location);
        xml.text("Bucket", &self.bucket);
        xml.text("Key", &self.key);
        xml.text("ETag", etag);
        xml.close("PostResponse");
        xml
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
