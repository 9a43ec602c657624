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
