//! The canonical path: decoded exactly once, the same bytes for the signature, the permission and the operation.
//!
//! Nothing is normalised: `.`, `..`, `//` and a trailing `/` are parts of keys.

use consensus::meta::names::{BucketName, ObjectKey};

use super::error::{Code, S3Result};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The service: no bucket.
    Service,
    /// A bucket.
    Bucket(BucketName),
    /// An object.
    Object(BucketName, ObjectKey),
}

impl Target {
    /// The bucket, if it is about one.
    pub fn bucket(&self) -> Option<&BucketName> {
        match self {
            Target::Service => None,
            Target::Bucket(name) | Target::Object(name, _) => Some(name),
        }
    }
}

/// The path of a request, decoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath {
    decoded: String,
    target: Target,
}

impl CanonicalPath {
    /// Decodes a raw path. `virtual_bucket` is the bucket that the host names, if it does.
    pub fn parse(raw: &str, virtual_bucket: Option<&str>) -> S3Result<CanonicalPath> {
        if !raw.starts_with('/') {
            return Err(Code::InvalidURI.into());
        }
        let decoded = String::from_utf8(percent_decoded(raw.as_bytes())?)
            .map_err(|_| Code::InvalidURI.says("The path is not UTF-8."))?;
        if decoded.contains('\0') {
            return Err(Code::InvalidURI.says("The path contains U+0000."));
        }
        let rest = &decoded[1..];
        let (bucket, key) = match virtual_bucket {
            Some(bucket) => (bucket, rest),
            None => rest.split_once('/').unwrap_or((rest, "")),
        };
        let target = match (bucket, key) {
            ("", "") => Target::Service,
            (bucket, "") => Target::Bucket(bucket.parse()?),
            (bucket, key) => Target::Object(bucket.parse()?, key.parse()?),
        };
        Ok(CanonicalPath { decoded, target })
    }

    /// The path as text, for signatures and for `Resource` in errors.
    pub fn as_str(&self) -> &str {
        &self.decoded
    }

    /// The same about a bucket by the name that it has where it is at home.
    #[must_use]
    pub fn at_home(self, name: &BucketName) -> CanonicalPath {
        let target = match self.target {
            Target::Service => Target::Service,
            Target::Bucket(_) => Target::Bucket(name.clone()),
            Target::Object(_, key) => Target::Object(name.clone(), key),
        };
        CanonicalPath { target, ..self }
    }

    /// What the request is about.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// Decodes `%XX` once. A `%` without two hex digits is refused.
pub fn percent_decoded(raw: &[u8]) -> S3Result<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            out.push(first);
            rest = tail;
            continue;
        }
        let mut byte = [0];
        let digits = tail.get(..2).ok_or(Code::InvalidURI)?;
        hex::decode_to_slice(digits, &mut byte).map_err(|_| Code::InvalidURI)?;
        out.push(byte[0]);
        rest = &tail[2..];
    }
    Ok(out)
}

/// The bucket that `host` names under `domain`: `photos.example.org` under `example.org`. The port does not count.
/// A host outside the domain names none, whatever it looks like.
pub fn virtual_bucket<'a>(host: &'a str, domain: Option<&str>) -> Option<&'a str> {
    let domain = domain?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let split = name.len().checked_sub(domain.len())?;
    if !name.is_char_boundary(split) {
        return None;
    }
    let (before, suffix) = name.split_at(split);
    if !suffix.eq_ignore_ascii_case(domain) {
        return None;
    }
    before.strip_suffix('.').filter(|bucket| !bucket.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(raw: &str) -> (String, String) {
        match CanonicalPath::parse(raw, None).unwrap().target {
            Target::Object(bucket, key) => (bucket.to_string(), key.to_string()),
            other => unreachable!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn keys_are_opaque() {
        for (raw, key) in [
            ("/abc/k", "k"),
            ("/abc/a//b", "a//b"),
            ("/abc//", "/"),
            ("/abc/.", "."),
            ("/abc/../../etc/passwd", "../../etc/passwd"),
            ("/abc/%2e%2e%2f", "../"),
            ("/abc/..%2f", "../"),
            ("/abc/%252e%252e", "%2e%2e"),
            ("/abc/a+b%20c", "a+b c"),
            ("/abc/%C3%BC%01", "ü\u{1}"),
            ("/abc/dir/", "dir/"),
        ] {
            assert_eq!(object(raw), ("abc".to_string(), key.to_string()), "{raw}");
        }
    }

    #[test]
    fn bad_paths_are_refused() {
        for (raw, code) in [
            ("/abc/%00", Code::InvalidURI),
            ("/abc/%zz", Code::InvalidURI),
            ("/abc/%2", Code::InvalidURI),
            ("/abc/%", Code::InvalidURI),
            ("/abc/%+1", Code::InvalidURI),
            ("/abc/%c0%af", Code::InvalidURI),
            ("/abc/%ed%a0%80", Code::InvalidURI),
            ("/abc/%ff", Code::InvalidURI),
            ("*", Code::InvalidURI),
            ("/%2e%2e", Code::InvalidBucketName),
            ("/aa", Code::InvalidBucketName),
            ("//key", Code::InvalidBucketName),
            ("/192.168.0.1/k", Code::InvalidBucketName),
        ] {
            assert_eq!(CanonicalPath::parse(raw, None).unwrap_err().code(), code, "{raw}");
        }
        let long = format!("/abc/{}", "é".repeat(513));
        assert_eq!(CanonicalPath::parse(&long, None).unwrap_err().code(), Code::KeyTooLongError);
    }

    #[test]
    fn virtual_hosts() {
        for (host, domain, expected) in [
            ("photos.example.org", Some("example.org"), Some("photos")),
            ("a.b.example.org:9000", Some("example.org"), Some("a.b")),
            ("PHOTOS.Example.ORG", Some("example.org"), Some("PHOTOS")),
            ("example.org", Some("example.org"), None),
            ("photos.evil.com", Some("example.org"), None),
            ("photosexample.org", Some("example.org"), None),
            (".example.org", Some("example.org"), None),
            ("photos.example.org", None, None),
        ] {
            assert_eq!(virtual_bucket(host, domain), expected, "{host}");
        }
        let path = CanonicalPath::parse("/abc/d", Some("photos")).unwrap();
        assert_eq!(path.target(), &Target::Object("photos".parse().unwrap(), "abc/d".parse().unwrap()));
        let path = CanonicalPath::parse("/", Some("photos")).unwrap();
        assert_eq!(path.target(), &Target::Bucket("photos".parse().unwrap()));
    }
}
