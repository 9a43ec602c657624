//! Signature version 4 for the generator: one signing key a day, three signed headers, no allocation a request
//! beyond the buffer that the request is built in.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::sign::v4::generate_signing_key;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::client::amz_date;

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What is signed. `path` and `query` are encoded already, the query sorted.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub body: &'a [u8],
    /// The storage class of what is written, where it is not the default.
    pub class: Option<&'a str>,
}

/// Signs requests of one user of one store.
pub struct Signer {
    host: String,
    access_key: String,
    secret_key: String,
    region: String,
    /// Whether the digest of a body is signed.
    payload: bool,
    day: u64,
    /// `yyyymmdd/region/s3/aws4_request` of that day, and the key for it, ready to be copied.
    scope: String,
    key: Hmac<Sha256>,
    canonical: Vec<u8>,
}

impl Signer {
    /// For requests to `host` (with its port).
    pub fn new(host: &str, access_key: &str, secret_key: &str, region: &str, payload: bool) -> Signer {
        let (access_key, secret_key) = (access_key.to_string(), secret_key.to_string());
        let (host, region) = (host.to_string(), region.to_string());
        let key = Hmac::new_from_slice(&[]).expect("a key of any length is fine");
        let (scope, canonical) = (String::new(), Vec::new());
        Signer { host, access_key, secret_key, region, payload, day: 0, scope, key, canonical }
    }

    /// Appends the head of a request, made `now` (since 1970), to `into`.
    pub fn head(&mut self, into: &mut Vec<u8>, request: &Request<'_>, now: Duration) {
        let Request { method, path, query, body, class } = *request;
        let date = self.date(now);
        let content = if self.payload { hex::encode(Sha256::digest(body)) } else { UNSIGNED.to_string() };
        self.canonical.clear();
        let host = &self.host;
        let mut headers = format!("host:{host}\nx-amz-content-sha256:{content}\nx-amz-date:{date}\n");
        let mut names = "host;x-amz-content-sha256;x-amz-date".to_string();
        if let Some(class) = class {
            headers += &format!("x-amz-storage-class:{class}\n");
            names += ";x-amz-storage-class";
        }
        write(&mut self.canonical, format_args!("{method}\n{path}\n{query}\n{headers}\n{names}\n{content}"));
        let digest = hex::encode(Sha256::digest(&self.canonical));
        self.canonical.clear();
        write(&mut self.canonical, format_args!("AWS4-HMAC-SHA256\n{date}\n{}\n{digest}", self.scope));
        let mut mac = self.key.clone();
        mac.update(&self.canonical);
        let signature = hex::encode(mac.finalize().into_bytes());
        let mark = if query.is_empty() { "" } else { "?" };
        write(into, format_args!("{method} {path}{mark}{query} HTTP/1.1\r\nhost: {host}\r\n"));
        write(into, format_args!("x-amz-date: {date}\r\nx-amz-content-sha256: {content}\r\n"));
        let (access_key, scope) = (&self.access_key, &self.scope);
        write(into, format_args!("authorization: AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "));
        write(into, format_args!("SignedHeaders={names}, Signature={signature}\r\n"));
        if let Some(class) = class {
            write(into, format_args!("x-amz-storage-class: {class}\r\n"));
        }
        if method == "PUT" || method == "POST" {
            write(into, format_args!("content-length: {}\r\n", body.len()));
        }
        into.extend_from_slice(b"\r\n");
    }

    /// The time as it is written into requests; renews the key when the day changed.
    fn date(&mut self, now: Duration) -> String {
        let date = amz_date(now.as_millis() as u64);
        let day = now.as_secs() / 86_400;
        if day != self.day {
            self.day = day;
            self.scope = format!("{}/{}/s3/aws4_request", &date[..8], self.region);
            let key = generate_signing_key(&self.secret_key, UNIX_EPOCH + now, &self.region, "s3");
            self.key = Hmac::new_from_slice(key.as_ref()).expect("a key of any length is fine");
        }
        date
    }
}

fn write(into: &mut Vec<u8>, words: std::fmt::Arguments<'_>) {
    into.write_fmt(words).expect("a buffer in memory takes everything");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::client::{self, Credentials, Payload};

    /// The other signer of these tests, whose requests real servers took, makes the same signature.
    #[test]
    fn it_signs_as_the_reference_does() {
        let now = Duration::from_millis(1_795_000_000_123);
        for (payload, class) in [(false, None), (true, None), (true, Some("STANDARD_IA"))] {
            let mut signer = Signer::new("127.0.0.1:9000", "ACCESS", "secret", "eu-west-1", payload);
            let (path, query) = ("/bucket/key%20one", "a=1&b=");
            let mut head = Vec::new();
            signer.head(&mut head, &Request { method: "PUT", path, query, body: b"body", class }, now);
            let head = String::from_utf8(head).unwrap();
            let signed = head.lines().find_map(|line| line.strip_prefix("authorization: "));

            let reference = client::Signer {
                credentials: Some(Credentials::new("ACCESS", "secret")),
                region: "eu-west-1".to_string(),
                service: "s3".to_string(),
                host: "127.0.0.1:9000".to_string(),
                at_ms: now.as_millis() as u64,
            };
            let how = if payload { Payload::Digest } else { Payload::Unsigned };
            let request = client::Request::object("PUT", "bucket", "key one").query("a", "1").query("b", "");
            let request = match class {
                Some(class) => request.header("x-amz-storage-class", class),
                None => request,
            };
            let wire = reference.sign(request.body(b"body".to_vec()).payload(how));
            assert_eq!(signed, wire.header("authorization"));
        }
    }
}
