//! One request to the website of a bucket: redirects that need no page, the page, redirects that errors lead to, and the
//! page that tells of errors.

use consensus::meta::names::ObjectKey;
use consensus::meta::query::Want;
use consensus::meta::website::{Protocol, Redirect, Replace, RoutingRule, Website};
use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, Method, StatusCode, request};

use super::configuration::scheme;
use super::place::Place;
use super::{Answered, page, redirect};
use crate::s3::access::Subject;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context};
use crate::s3::reading::{self, Input};
use crate::s3::request::Query;
use crate::s3::response::Response;
use crate::s3::service::{S3Service, Trace, told_of_absence};
use crate::s3::xml::url_encoded;

/// The headers of a browser that say which bytes of a page it needs. No other one changes what is answered.
const READ_HEADERS: [http::HeaderName; 6] =
    [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

/// See the module.
pub struct Visit<'a> {
    /// What reads go through.
    pub context: &'a Context,
    /// The request.
    pub head: &'a request::Parts,
    /// The host that it is for.
    pub host: &'a str,
    /// What it is about.
    pub place: &'a Place,
    /// Its id.
    pub trace: &'a Trace,
    /// The service that it came to.
    pub service: &'a S3Service,
    /// Whether it came over TLS.
    pub secure: bool,
}

impl Visit<'_> {
    /// Answers it.
    pub async fn answer(&self, website: &Website) -> Answered {
        let (index, error_key, rules) = match website {
            Website::Elsewhere { host, protocol } => {
                let location = format!("{}://{host}{}{}", self.scheme(*protocol), self.rest(), self.query());
                return (redirect(StatusCode::MOVED_PERMANENTLY, &location), None);
            }
            Website::Pages { index, error, rules } => (index, error, rules),
        };
        if let Some(rule) = self.rule(rules, None) {
            return (self.routed(rule), None);
        }
        let error = match self.page(index).await {
            Ok(response) => return (response, None),
            Err(error) => error,
        };
        if let Some(rule) = self.rule(rules, Some(error.code().status())) {
            return (self.routed(rule), Some(error));
        }
        (self.error_page(&error, error_key.as_deref()).await, Some(error))
    }

    /// The page of the path, or of the index behind it.
    async fn page(&self, index: &str) -> S3Result<Response> {
        let key = &self.place.key;
        if self.place.rest.is_empty() {
            return Ok(redirect(StatusCode::FOUND, &format!("{}/{}", self.place.base, self.query())));
        }
        let is_folder = key.is_empty() || key.ends_with('/');
        let wanted = if is_folder { format!("{key}{index}") } else { key.clone() };
        let error = match self.read(&wanted, &self.wanted_bytes()).await {
            Err(error) if error.code() == Code::NoSuchKey => error,
            outcome => return outcome,
        };
        if !is_folder && self.exists(&format!("{key}/{index}")).await? {
            let location = format!("{}/{}/{}", self.place.base, encoded(key), self.query());
            return Ok(redirect(StatusCode::FOUND, &location));
        }
        Err(told_of_absence(self.context, error).await?)
    }

    /// The current version under a key, as nobody in particular may read it.
    async fn read(&self, key: &str, headers: &HeaderMap) -> S3Result<Response> {
        let key: ObjectKey = key.parse()?;
        self.context.allow(Action::GetObject, Subject { key: &key, version: None }).await?;
        let is_head = self.head.method == Method::HEAD;
        let want = if is_head { Want::Row } else { Want::Body };
        let input = Input::parse(&Query::default(), headers)?;
        let found = input.find(self.context, &key, want, None).await?;
        match found.object.attributes.headers.get("x-amz-website-redirect-location") {
            Some(location) if location.starts_with('/') => {
                let location = format!("{}{location}", self.place.base);
                Ok(redirect(StatusCode::MOVED_PERMANENTLY, &location))
            }
            Some(location) => Ok(redirect(StatusCode::MOVED_PERMANENTLY, location)),
            None if is_head => Ok(found.without_body()),
            None => found.with_body(self.context, None).await,
        }
    }

    /// Whether there is something under a key that nobody in particular may read.
    async fn exists(&self, key: &str) -> S3Result<bool> {
        let Ok(key) = key.parse::<ObjectKey>() else { return Ok(false) };
        let subject = Subject { key: &key, version: None };
        let bucket = self.context.bucket()?;
        Ok(self.context.access.permits(bucket, Action::GetObject, Some(subject)).await?
            && reading::version_in(self.context, bucket.id, &key, None, Want::Row).await?.is_ok())
    }

    /// The owner's page for errors of clients, else ours.
    async fn error_page(&self, error: &S3Error, key: Option<&str>) -> Response {
        let key = key.filter(|_| error.code().status().is_client_error());
        let second = match key {
            None => None,
            Some(key) => match self.read(key, &HeaderMap::new()).await {
                Ok(response) if response.status == StatusCode::OK => {
                    return page::told(Response { status: error.code().status(), ..response }, error);
                }
                Ok(response) => return response,
                Err(error) if error.code() == Code::NoSuchKey => {
                    Some(told_of_absence(self.context, error).await.unwrap_or_else(|error| error))
                }
                Err(error) => Some(error),
            },
        };
        page::of_error(error, second.as_ref(), &self.trace.id, &self.service.host_id)
    }

    fn wanted_bytes(&self) -> HeaderMap {
        let sent = READ_HEADERS.iter().filter_map(|name| Some((name, self.head.headers.get(name)?)));
        sent.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The first rule for this path and outcome; `None` is before there is one.
    fn rule<'r>(&self, rules: &'r [RoutingRule], status: Option<StatusCode>) -> Option<&'r RoutingRule> {
        let status = status.map(|status| status.as_u16());
        rules.iter().find(|rule| {
            let fits = rule.prefix.as_ref().is_none_or(|prefix| self.place.key.starts_with(prefix));
            fits && rule.status == status
        })
    }

    fn routed(&self, rule: &RoutingRule) -> Response {
        let Redirect { host, status, protocol, replace } = &rule.redirect;
        let key = &self.place.key;
        let prefix = rule.prefix.as_deref().unwrap_or("");
        let path = match replace {
            None => format!("{}{}", encoded(key), self.query()),
            Some(Replace::Key(to)) => printable(to),
            Some(Replace::Prefix(to)) => {
                let rest = key.strip_prefix(prefix).unwrap_or(key);
                format!("{}{}{}", printable(to), url_path(rest), self.query())
            }
        };
        // A path that began with two slashes would name a host.
        let path = path.strip_prefix('/').map_or(path.clone(), |rest| format!("%2F{rest}"));
        let location = match (host, protocol) {
            (None, None) => format!("{}/{path}", self.place.base),
            (None, Some(_)) => {
                format!("{}://{}{}/{path}", self.scheme(*protocol), self.host, self.place.base)
            }
            (Some(host), _) => format!("{}://{host}/{path}", self.scheme(*protocol)),
        };
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        redirect(status.unwrap_or(StatusCode::MOVED_PERMANENTLY), &location)
    }

    fn scheme(&self, protocol: Option<Protocol>) -> &'static str {
        match protocol {
            Some(protocol) => scheme(protocol),
            None if self.secure => "https",
            None => "http",
        }
    }

    fn rest(&self) -> &str {
        if self.place.rest.is_empty() { "/" } else { &self.place.rest }
    }

    fn query(&self) -> String {
        self.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default()
    }
}

/// A key behind the first slash of a path. A slash of its own would make it the name of a host.
fn encoded(key: &str) -> String {
    match key.strip_prefix('/') {
        Some(rest) => format!("%2F{}", url_path(rest)),
        None => url_path(key),
    }
}

fn url_path(text: &str) -> String {
    url_encoded(text).replace('+', "%20")
}

/// What an owner wrote for a place in an address, with nothing encoded but what cannot stand there.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '<' | '>' | '\\' => out.push_str(&url_encoded(character.encode_utf8(&mut [0; 4]))),
            character if character.is_ascii_graphic() => out.push(character),
            character => out.push_str(&url_path(character.encode_utf8(&mut [0; 4]))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_addresses() {
        for (key, expected) in [
            ("a b/ü", "a%20b/%C3%BC"),
            ("/evil.org/x", "%2Fevil.org/x"),
            ("a?b#c", "a%3Fb%23c"),
            ("a+b%2F", "a%2Bb%252F"),
        ] {
            assert_eq!(encoded(key), expected);
        }
        assert_eq!(printable("#!/ü \r\n<"), "#!/%C3%BC%20%0D%0A%3C");
    }
}
