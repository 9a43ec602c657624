//! Certificates towards clients: loaded from files, replaced while serving when the files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fabric::Seams;
use fabric::disks::{Disks, read_small};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// A certificate chain or key file is not longer than this.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Why certificates cannot be used; one sentence that names the file.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// A certificate chain with its key, as they are now.
pub struct Keys {
    certificate: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
    loaded: ArcSwap<(Vec<u8>, Vec<u8>)>,
}

impl Keys {
    /// Loads and checks both files (PEM).
    pub fn load(disks: &dyn Disks, certificate: &Path, key: &Path) -> Result<Keys, TlsError> {
        let files = (read(disks, certificate)?, read(disks, key)?);
        let config = build(&files.0, &files.1, certificate, key)?;
        Ok(Keys {
            certificate: certificate.to_path_buf(),
            key: key.to_path_buf(),
            config: ArcSwap::from_pointee(config),
            loaded: ArcSwap::from_pointee(files),
        })
    }

    /// What accepts the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Takes changed files over; returns whether there was a change. On an error the old ones stay.
    pub fn reload(&self, disks: &dyn Disks) -> Result<bool, TlsError> {
        let files = (read(disks, &self.certificate)?, read(disks, &self.key)?);
        if **self.loaded.load() == files {
            return Ok(false);
        }
        let config = build(&files.0, &files.1, &self.certificate, &self.key)?;
        self.config.store(Arc::new(config));
        self.loaded.store(Arc::new(files));
        Ok(true)
    }
}

/// Looks for changed files for ever.
pub async fn watch(seams: Seams, keys: Arc<Keys>) {
    loop {
        sleep(RELOAD_INTERVAL).await;
        let (watched, disks) = (keys.clone(), seams.disks.clone());
        let reload = move || match watched.reload(&*disks) {
            Ok(false) => {}
            Ok(true) => tracing::info!("the TLS certificate was reloaded"),
            Err(error) => tracing::warn!(%error, "the TLS certificate was not reloaded; the old one stays"),
        };
        seams.env.blocking(Box::new(reload)).await;
    }
}

fn read(disks: &dyn Disks, path: &Path) -> Result<Vec<u8>, TlsError> {
    read_small(disks, path, PEM_BYTES_MAX)
        .map_err(|error| TlsError(format!("{} cannot be read: {error}", path.display())))
}

fn build(
    certificate: &[u8],
    key: &[u8],
    certificate_path: &Path,
    key_path: &Path,
) -> Result<ServerConfig, TlsError> {
    let named = |path: &Path, why: String| TlsError(format!("{}: {why}", path.display()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| named(certificate_path, format!("not a PEM certificate chain: {error}")))?;
    if chain.is_empty() {
        return Err(named(certificate_path, "no certificate in it".to_string()));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| named(key_path, format!("not a PEM private key: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| named(certificate_path, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| named(certificate_path, format!("certificate and key do not fit: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use async_trait::async_trait;
    use fabric::disks::{MemoryDisks, write_small};
    use fabric::env::Env;
    use fabric::env::system::SystemEnv;
    use fabric::net::{LocalNet, Net, TcpNet};
    use http::{Request, Response};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::http::server::{Settings, serve};
    use crate::http::{Handler, Refusal, RequestBody, ResponseBody, full};

    const NAME: &str = "s3.example.test";

    struct Hello;

    #[async_trait]
    impl Handler for Hello {
        async fn handle(&self, _: Request<RequestBody>, _: SocketAddr) -> Response<ResponseBody> {
            Response::new(full("hello"))
        }

        fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
            Response::builder().status(refusal.status).body(full(refusal.code)).unwrap()
        }
    }

    /// An authority that issues certificates for [`NAME`].
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        root: CertificateDer<'static>,
    }

    impl Authority {
        fn new() -> Authority {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = params.self_signed(&key).unwrap().der().clone();
            Authority { issuer: Issuer::new(params, key), root }
        }

        /// A new certificate and its key, PEM, valid until the beginning of a year.
        fn issue(&self, until: i32) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([NAME.to_string()]).unwrap();
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        }
    }

    struct World {
        authority: Authority,
        seams: Seams,
        keys: Arc<Keys>,
        address: String,
        _stop: watch::Sender<bool>,
    }

    fn place(seams: &Seams, certificate: &str, key: &str) {
        seams.disks.create_dir(Path::new("/tls")).unwrap();
        write_small(&*seams.disks, Path::new("/tls/chain.pem"), certificate.as_bytes()).unwrap();
        write_small(&*seams.disks, Path::new("/tls/key.pem"), key.as_bytes()).unwrap();
    }

    async fn world(net: impl Net, until: i32) -> World {
        let env = Arc::new(SystemEnv::default());
        let disks = Arc::new(MemoryDisks::new(1 << 20));
        let seams = Seams { env: env.clone(), net: Arc::new(net), disks };
        let authority = Authority::new();
        let (certificate, key) = authority.issue(until);
        place(&seams, &certificate, &key);
        let (chain, key) = (Path::new("/tls/chain.pem"), Path::new("/tls/key.pem"));
        let keys = Arc::new(Keys::load(&*seams.disks, chain, key).unwrap());
        let listener = seams.net.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().to_string();
        let (stop, stopped) = watch::channel(false);
        let settings = Settings { connections_max: 2, tls: Some(keys.clone()) };
        let serving = serve(seams.clone(), listener, settings, Arc::new(Hello), stopped);
        env.spawn("server", Box::pin(serving));
        World { authority, seams, keys, address, _stop: stop }
    }

    impl World {
        async fn connect(&self) -> std::io::Result<TlsStream<fabric::net::BoxStream>> {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.root.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let stream = self.seams.net.connect(&self.address).await?;
            TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
        }

        /// Sends bytes without TLS and reads until the server closes.
        async fn plain(&self, bytes: &[u8]) -> Vec<u8> {
            let mut stream = self.seams.net.connect(&self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut heard = Vec::new();
            // A reset is an end, too.
            drop(stream.read_to_end(&mut heard).await);
            heard
        }
    }

    fn shown(stream: &TlsStream<fabric::net::BoxStream>) -> CertificateDer<'static> {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    async fn asks(stream: &mut TlsStream<fabric::net::BoxStream>) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut heard = String::new();
        while !heard.ends_with("hello") {
            let mut piece = [0; 512];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "closed after {heard:?}");
            heard.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
        heard
    }

    #[tokio::test]
    async fn a_changed_certificate_is_shown_to_new_connections() {
        let world = world(TcpNet, 2100).await;
        let mut old = world.connect().await.unwrap();
        assert!(asks(&mut old).await.starts_with("HTTP/1.1 200"));
        assert!(!world.keys.reload(&*world.seams.disks).unwrap());

        // Half of a change, or nonsense: the old ones stay.
        let (certificate, key) = world.authority.issue(2100);
        for (broken, word) in [(certificate.as_str(), "do not fit"), ("", "no certificate"), ("x", "")] {
            write_small(&*world.seams.disks, Path::new("/tls/chain.pem"), broken.as_bytes()).unwrap();
            let error = world.keys.reload(&*world.seams.disks).unwrap_err().to_string();
            assert!(error.contains("/tls/") && error.contains(word), "{error}");
            assert_eq!(shown(&world.connect().await.unwrap()), shown(&old));
        }
        place(&world.seams, &certificate, &key);
        assert!(world.keys.reload(&*world.seams.disks).unwrap());
        let mut new = world.connect().await.unwrap();
        assert_eq!(shown(&new), CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap());
        assert_ne!(shown(&new), shown(&old));
        assert!(asks(&mut new).await.starts_with("HTTP/1.1 200"));
        assert!(asks(&mut old).await.starts_with("HTTP/1.1 200"), "what is open goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_noticed_while_serving() {
        let world = world(LocalNet::default(), 2100).await;
        let watching = watch(world.seams.clone(), world.keys.clone());
        let watching = world.seams.env.spawn("watch", Box::pin(watching));
        let before = shown(&world.connect().await.unwrap());
        let (certificate, key) = world.authority.issue(2100);
        place(&world.seams, &certificate, &key);
        while shown(&world.connect().await.unwrap()) == before {
            sleep(Duration::from_secs(1)).await;
        }
        watching.abort();
    }

    #[tokio::test]
    async fn clients_see_an_expired_certificate() {
        let world = world(TcpNet, 2021).await;
        let error = world.connect().await.err().unwrap().to_string();
        assert!(error.to_lowercase().contains("expired"), "{error}");
    }

    /// What does not speak TLS, or none that is safe, gets an alert or nothing, and an end; others are served.
    #[tokio::test]
    async fn other_protocols_on_the_port_come_to_a_clean_end() {
        let world = world(TcpNet, 2100).await;
        // TLS 1.1, one cipher of its time.
        let mut old = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
        old.extend([7; 32]);
        old.extend([0, 0, 2, 0, 0x2F, 1, 0]);
        let large = [&[0x16, 3, 1, 0xFF, 0xFF, 1, 0, 0xFF, 0xFB, 3, 3][..], &[7; 70_000]].concat();
        let cases: [(&str, &[u8]); 6] = [
            ("plain HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("TLS 1.1", &old),
            ("a hello of 64 KiB", &large),
            ("zeros", &[0; 64]),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ];
        for (case, bytes) in cases {
            let heard = world.plain(bytes).await;
            let alert = heard.first().is_none_or(|kind| *kind == 0x15);
            assert!(alert && heard.len() < 64, "{case}: {heard:?}");
            let mut stream = world.connect().await.unwrap();
            assert!(asks(&mut stream).await.starts_with("HTTP/1.1 200"), "after {case}");
        }
    }

    /// There is room for two connections: half-open handshakes must not keep it.
    #[tokio::test(start_paused = true)]
    async fn half_a_handshake_ends_by_itself() {
        let world = world(LocalNet::default(), 2100).await;
        let mut stuck = Vec::new();
        for _ in 0..2 {
            let mut stream = world.seams.net.connect(&world.address).await.unwrap();
            stream.write_all(&[0x16, 3, 1]).await.unwrap();
            stuck.push(stream);
        }
        let mut stream = world.connect().await.unwrap();
        assert!(asks(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}
