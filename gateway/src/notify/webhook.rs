//! Where notifications go: HTTP targets that the operator named, and one POST to one of them.
//!
//! What always holds: a request goes only to what the operator listed; a name is resolved once, and the connection goes to
//! an address that was looked at; without leave that is no address of this machine or of a private network; redirects
//! are not followed; nothing of an answer is kept but its status; every step has a deadline.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fabric::Seams;
use fabric::cluster::WebhookConfig;
use fabric::disks::read_small;
use fabric::disks::system::is_private;
use fabric::limits::MIB;
use fabric::net::BoxStream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A connection, with its handshake, gives up after this.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// An answer gives up after this.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Where systems keep the authorities that everybody trusts.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const AUTHORITIES_BYTES_MAX: u64 = 4 * MIB;
const SECRET_BYTES_MAX: u64 = 8 << 10;
/// Names of targets have as many characters.
const NAME_CHARS_MAX: usize = 64;
/// How often one request is tried.
pub const ATTEMPTS_MAX: u32 = 30;
/// Targets of one gateway.
const WEBHOOKS_MAX: usize = 100;

/// All targets of a gateway.
#[derive(Default)]
pub struct Webhooks(Vec<Arc<Webhook>>);

/// One target.
pub struct Webhook {
    /// Its name, which configurations of buckets end with.
    pub name: String,
    /// How often a request is tried before it is given up.
    pub attempts: u32,
    host: String,
    port: u16,
    /// `host:port` as in the address, for the `Host` header.
    authority: String,
    path: String,
    authorization: Option<HeaderValue>,
    tls: Option<Arc<ClientConfig>>,
    allow_private: bool,
}

/// Why a request was not taken; for the log, and for whoever sets a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The address is not one to which requests may go.
    #[error("{0} is an address of this machine or of a private network, and the target does not allow that")]
    Private(IpAddr),
    /// It could not be reached, or broke off.
    #[error("{0}")]
    Broken(String),
    /// It answered with something else than 2xx.
    #[error("the target answered {0}")]
    Status(u16),
}

impl Webhooks {
    /// Checks and loads targets; the error is one sentence for the operator.
    pub fn load(seams: &Seams, configs: &[WebhookConfig]) -> Result<Webhooks, String> {
        if WEBHOOKS_MAX < configs.len() {
            return Err(format!("there are {} webhooks; {WEBHOOKS_MAX} are possible", configs.len()));
        }
        let mut all: Vec<Arc<Webhook>> = Vec::new();
        for config in configs {
            if all.iter().any(|other| other.name == config.name) {
                return Err(format!("webhook {:?} is there twice", config.name));
            }
            let loaded = Webhook::load(seams, config);
            all.push(Arc::new(loaded.map_err(|why| format!("webhook {:?}: {why}", config.name))?));
        }
        Ok(Webhooks(all))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The target of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Webhook>> {
        self.0.iter().find(|webhook| webhook.name == name)
    }
}

impl Webhook {
    fn load(seams: &Seams, config: &WebhookConfig) -> Result<Webhook, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let name = &config.name;
        if name.is_empty() || NAME_CHARS_MAX < name.len() || !name.bytes().all(allowed) {
            return Err("a name has 1 to 64 letters, digits, '-' and '_'".to_string());
        }
        if !(1..=ATTEMPTS_MAX).contains(&config.attempts) {
            return Err(format!("attempts: {} is not between 1 and {ATTEMPTS_MAX}", config.attempts));
        }
        let uri: Uri = config.url.parse().map_err(|_| "the url is none".to_string())?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err("the url begins with http:// or https://".to_string()),
        };
        let authority = uri.authority().ok_or("the url has no host")?;
        if authority.as_str().contains('@') {
            return Err("the url has a user in it; authorization_file is for that".to_string());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_string();
        let authorization = config.authorization_file.as_deref();
        Ok(Webhook {
            name: name.clone(),
            attempts: config.attempts,
            host,
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_string(),
            authorization: authorization.map(|path| secret(seams, path)).transpose()?,
            tls: secure.then(|| trust(seams, config.ca.as_deref())).transpose()?.map(Arc::new),
            allow_private: config.allow_private,
        })
    }

    /// Sends one document once. What came back before a status is a failure: the target may have it, and gets it again.
    pub async fn post(&self, seams: &Seams, document: Bytes) -> Result<(), PostError> {
        let late = |what: &str| PostError::Broken(format!("{what} took too long"));
        let stream = timeout(CONNECT_DEADLINE, self.connect(seams)).await;
        let stream = stream.map_err(|_| late("the connection"))??;
        let status = timeout(ANSWER_DEADLINE, self.exchange(stream, document)).await;
        match status.map_err(|_| late("the answer"))?? {
            200..=299 => Ok(()),
            status => Err(PostError::Status(status)),
        }
    }

    async fn connect(&self, seams: &Seams) -> Result<BoxStream, PostError> {
        let broken = |error: std::io::Error| PostError::Broken(format!("{}: {error}", self.authority));
        let address = self.address(seams.net.resolve(&self.host, self.port).await.map_err(broken)?)?;
        let stream = seams.net.connect(&address.to_string()).await.map_err(broken)?;
        let Some(config) = &self.tls else { return Ok(stream) };
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|error| PostError::Broken(format!("{}: {error}", self.host)))?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
        Ok(Box::new(
            stream.map_err(|error| PostError::Broken(format!("TLS with {}: {error}", self.authority)))?,
        ))
    }

    /// The address to connect to; all that the name has must be allowed, since anybody may order them.
    fn address(&self, found: Vec<SocketAddr>) -> Result<SocketAddr, PostError> {
        let wrong = found.iter().find(|address| !self.allow_private && !is_public(address.ip()));
        match (wrong, found.first()) {
            (Some(wrong), _) => Err(PostError::Private(wrong.ip())),
            (None, Some(first)) => Ok(*first),
            (None, None) => Err(PostError::Broken(format!("{} has no address", self.host))),
        }
    }

    async fn exchange(&self, stream: BoxStream, document: Bytes) -> Result<u16, PostError> {
        let broken =
            |error: &dyn std::fmt::Display| PostError::Broken(format!("{}: {error}", self.authority));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let mut request = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "Fluffy");
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(document)).map_err(|error| broken(&error))?;
        let answer = sender.send_request(request);
        tokio::pin!(connection, answer);
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                // It fails where the connection ends before it came.
                answer = &mut answer => {
                    return answer.map(|answer| answer.status().as_u16()).map_err(|error| broken(&error));
                }
                _ = &mut connection, if open => open = false,
            }
        }
    }
}

/// The value of the `Authorization` header, from a file that nobody else may read.
fn secret(seams: &Seams, path: &Path) -> Result<HeaderValue, String> {
    let shown = path.display();
    match is_private(path) {
        Ok(true) => {}
        Ok(false) => return Err(format!("{shown}: others may read it; chmod 600")),
        Err(error) => return Err(format!("read {shown}: {error}")),
    }
    let bytes =
        read_small(&*seams.disks, path, SECRET_BYTES_MAX).map_err(|error| format!("{shown}: {error}"))?;
    let text = String::from_utf8_lossy(&bytes).trim().to_string();
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| format!("{shown}: it is no value of a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whom to trust: the authorities in a file, or those of the system.
fn trust(seams: &Seams, authority: Option<&Path>) -> Result<ClientConfig, String> {
    let read = |path: &Path| {
        read_small(&*seams.disks, path, AUTHORITIES_BYTES_MAX)
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let pem = match authority {
        Some(path) => read(path)?,
        None => {
            let found = SYSTEM_AUTHORITIES.iter().find_map(|path| read(Path::new(path)).ok());
            found.ok_or("this system has no list of authorities; `ca` names one")?
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("the authorities: {error}"))?;
        match roots.add(certificate) {
            // A list of the system may have one that is not understood here.
            Err(error) if authority.is_some() => return Err(format!("the authority: {error}")),
            _ => {}
        }
    }
    if roots.is_empty() {
        return Err("there is no authority in the file".to_string());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether an address is one of the public net: neither this machine nor a neighbour nor anything reserved.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let reserved = a == 0 || 240 <= a || (a, b, c) == (192, 0, 0) || (a == 198 && (18..20).contains(&b));
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation();
    !(special || shared || reserved)
}

/// Only what is handed out to the public, without the parts of it that stand for addresses of version 4.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xE000 == 0x2000;
    let tunnel = segments[0] == 0x2002 || (segments[0] == 0x2001 && segments[1] < 0x0200);
    let documentation = (segments[0] == 0x2001 && segments[1] == 0x0DB8) || segments[0] == 0x3FFF;
    global && !tunnel && !documentation
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_none_to_call() {
        for public in ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "100.63.0.1", "172.32.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn one_private_address_of_a_name_is_enough_to_refuse() {
        let webhook = |allow_private| Webhook {
            name: "w".to_string(),
            attempts: 1,
            host: "w.example".to_string(),
            port: 80,
            authority: "w.example".to_string(),
            path: "/".to_string(),
            authorization: None,
            tls: None,
            allow_private,
        };
        let found: Vec<SocketAddr> = vec!["8.8.8.8:80".parse().unwrap(), "127.0.0.1:80".parse().unwrap()];
        let private = PostError::Private("127.0.0.1".parse().unwrap());
        assert_eq!(webhook(false).address(found.clone()), Err(private));
        assert_eq!(webhook(true).address(found.clone()), Ok(found[0]));
        assert_eq!(webhook(false).address(found[..1].to_vec()), Ok(found[0]));
        assert!(webhook(true).address(Vec::new()).is_err());
    }
}
