//! Which website a request is for, and what of it.
//!
//! `photos.DOMAIN` is the bucket `photos`. An address without a name (`127.0.0.1:9002/photos/…`, `localhost`) has the
//! bucket in its path. Any other host is the bucket of exactly that name, as with AWS (`www.example.org`); where there is
//! none, and no domain was set up, its first label.

use std::net::{IpAddr, Ipv6Addr};

use consensus::meta::names::BucketName;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::path::{CanonicalPath, Target, virtual_bucket};
use crate::s3::service::S3Service;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket.
    pub bucket: BucketName,
    /// The key that the path names; empty for the website itself.
    pub key: String,
    /// What stands before the key in paths: nothing, or `/bucket`.
    pub base: String,
    /// The path without that, as it was sent.
    pub rest: String,
}

impl Place {
    /// Finds it.
    pub async fn find(service: &S3Service, host: &str, path: &str, domains: &[String]) -> S3Result<Place> {
        // Names of hosts have no case, names of buckets do.
        let host = host.to_ascii_lowercase();
        if let Some(bucket) = domains.iter().find_map(|domain| virtual_bucket(&host, Some(domain))) {
            return Place::under(bucket, path);
        }
        let name = without_port(&host);
        if is_nameless(name) {
            return Place::in_path(path);
        }
        if let Ok(bucket) = name.parse::<BucketName>()
            && (service.is_here(&bucket).await?
                || service.others().is_some_and(|overlay| overlay.heard_of(&bucket)))
        {
            return Place::under(name, path);
        }
        match name.split_once('.') {
            Some((label, _)) if domains.is_empty() => Place::under(label, path),
            _ => Err(S3Error::from(Code::NoSuchBucket).field("BucketName", name)),
        }
    }

    /// That of a bucket which another cluster names otherwise, or as it is named here.
    pub fn of_bucket(bucket: &BucketName, in_path: bool, path: &str) -> S3Result<Place> {
        match in_path {
            true => Ok(Place { bucket: bucket.clone(), ..Place::in_path(path)? }),
            false => Place::under(bucket.as_str(), path),
        }
    }

    /// Whether the bucket stands in the path, and not in the host.
    pub fn is_in_path(&self) -> bool {
        !self.base.is_empty()
    }

    fn under(bucket: &str, path: &str) -> S3Result<Place> {
        let (bucket, key) = match CanonicalPath::parse(path, Some(bucket))?.target().clone() {
            Target::Service => return Err(Code::NoSuchBucket.into()),
            Target::Bucket(bucket) => (bucket, String::new()),
            Target::Object(bucket, key) => (bucket, key.to_string()),
        };
        Ok(Place { bucket, key, base: String::new(), rest: path.to_string() })
    }

    fn in_path(path: &str) -> S3Result<Place> {
        let (bucket, key) = match CanonicalPath::parse(path, None)?.target().clone() {
            Target::Service => {
                return Err(Code::NoSuchBucket.says("The first segment of the path names the bucket here."));
            }
            Target::Bucket(bucket) => (bucket, String::new()),
            Target::Object(bucket, key) => (bucket, key.to_string()),
        };
        let rest = path[1..].find('/').map_or("", |at| &path[1 + at..]);
        Ok(Place { base: format!("/{bucket}"), bucket, key, rest: rest.to_string() })
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a host is an address and no name.
fn is_nameless(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    name == "localhost"
        || name.parse::<IpAddr>().is_ok()
        || bare.is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_names() {
        for (host, nameless) in [
            ("127.0.0.1:9002", true),
            ("[::1]:9002", true),
            ("[::1]", true),
            ("localhost:1", true),
            ("photos.localhost:1", false),
            ("www.example.org", false),
            ("127.0.0.1.example.org", false),
            ("[x]:1", false),
        ] {
            assert_eq!(is_nameless(without_port(host)), nameless, "{host}");
        }
    }

    #[test]
    fn paths_with_a_bucket() {
        for (path, key, rest) in [
            ("/photos", "", ""),
            ("/photos/", "", "/"),
            ("/photos//a", "/a", "//a"),
            ("/photos/a%2Fb/", "a/b/", "/a%2Fb/"),
        ] {
            let place = Place::in_path(path).unwrap();
            let found = (place.bucket.as_str(), place.key.as_str(), place.base.as_str(), place.rest.as_str());
            assert_eq!(found, ("photos", key, "/photos", rest), "{path}");
        }
        let place = Place::under("photos", "/a/b").unwrap();
        assert_eq!((place.key.as_str(), place.base.as_str(), place.rest.as_str()), ("a/b", "", "/a/b"));
        let elsewhere = Place::of_bucket(&"photos".parse().unwrap(), true, "/photos--east/a/b").unwrap();
        let found = (elsewhere.bucket.as_str(), elsewhere.base.as_str(), elsewhere.key.as_str());
        assert_eq!(found, ("photos", "/photos--east", "a/b"));
        assert!(Place::in_path("/").is_err());
        assert!(Place::in_path("//a").is_err());
        assert!(Place::in_path("/../a").is_err());
    }
}
