//! The other side of the admin port: what `fluffy-gateway user` and `status` ask a running store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fabric::Seams;
use fabric::disks::read_small;
use fabric::limits::MIB;
use fabric::net::BoxStream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::secrets::Secret;

const DEADLINE: Duration = Duration::from_secs(70);
const ANSWER_BYTES_MAX: usize = 16 * MIB as usize;

/// Why a call has no answer; one sentence for the person at the terminal.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct CallError(pub String);

/// A running store's admin port.
pub struct AdminClient {
    /// The seams.
    pub seams: Seams,
    /// `host:port`.
    pub address: String,
    /// The token of the store.
    pub token: Secret,
    /// Whom to trust, where the port speaks TLS.
    pub authority: Option<std::path::PathBuf>,
}

impl AdminClient {
    /// Sends a request and returns the document of a good answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        document: Option<&Value>,
    ) -> Result<Value, CallError> {
        timeout(DEADLINE, self.exchange(method, path, document))
            .await
            .map_err(|_| CallError(format!("{} does not answer", self.address)))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        document: Option<&Value>,
    ) -> Result<Value, CallError> {
        let broke = |error: &dyn std::fmt::Display| {
            let hint = if self.authority.is_none() {
                "; if it speaks TLS, --admin-ca names whom to trust"
            } else {
                ""
            };
            CallError(format!("the call to {} broke off: {error}{hint}", self.address))
        };
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broke(&error))?;
        let body = document.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.token.expose()))
            .body(Full::new(bytes::Bytes::from(body)))
            .map_err(|error| broke(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broke(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = body.collect().await.map_err(|error| broke(&error))?.to_bytes();
            let value: Value = serde_json::from_slice(&bytes).map_err(|error| broke(&error))?;
            if status.is_success() {
                return Ok(value);
            }
            let why = value.get("error").and_then(Value::as_str).unwrap_or("no reason was given");
            Err(CallError(why.to_string()))
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                outcome = &mut exchange => return outcome,
                _ = &mut connection, if open => open = false,
            }
        }
    }

    async fn connect(&self) -> Result<BoxStream, CallError> {
        let stream = self.seams.net.connect(&self.address).await.map_err(|error| {
            CallError(format!("no store answers on the admin port {}: {error}; is it running?", self.address))
        })?;
        let Some(authority) = &self.authority else {
            return Ok(stream);
        };
        let config = self.trust(authority)?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let name =
            ServerName::try_from(host).map_err(|error| CallError(format!("{}: {error}", self.address)))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| CallError(format!("TLS with {}: {error}", self.address)))?))
    }

    fn trust(&self, authority: &Path) -> Result<ClientConfig, CallError> {
        let wrong = |error: &dyn std::fmt::Display| CallError(format!("{}: {error}", authority.display()));
        let pem = read_small(&*self.seams.disks, authority, MIB).map_err(|error| wrong(&error))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}
