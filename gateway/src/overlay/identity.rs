//! Who a cluster is: its name and an Ed25519 key. What the key signs, the cluster says.
//!
//! Connections between clusters are TLS 1.3 with certificates of these keys, which nobody vouches for: a cluster knows
//! the keys of the others from invitations, and from members that introduce each other.

use std::fmt;
use std::io;
use std::sync::Arc;

use consensus::meta::names::ClusterName;
use consensus::meta::overlay::PublicKey;
use fabric::env::Env;
use fabric::net::{BoxStream, reading_ahead};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as Issuer, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::oid_registry::OID_SIG_ED25519;

/// What stands before the 32 bytes of a private key in PKCS #8.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The name in all certificates; whom they belong to their keys say.
const SERVER_NAME: &str = "cluster.fluffy";
/// What is spoken inside.
const PROTOCOL: &[u8] = b"fluffy-overlay/1";

/// A private key as it is kept.
#[derive(Clone)]
pub struct Seed([u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl Seed {
    /// A new one.
    pub fn draw(env: &dyn Env) -> Seed {
        let mut seed = [0; 32];
        env.random(&mut seed);
        Seed(seed)
    }

    /// From its bytes; `None`: they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Seed> {
        bytes.try_into().ok().map(Seed)
    }

    /// Its bytes, to be sealed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// This cluster.
pub struct Identity {
    /// Its name.
    pub name: ClusterName,
    /// Its public key.
    pub key: PublicKey,
    signer: Ed25519KeyPair,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// From what is kept.
    pub fn new(name: ClusterName, seed: &Seed) -> io::Result<Identity> {
        let signer = Ed25519KeyPair::from_seed_unchecked(&seed.0).map_err(io::Error::other)?;
        let key: PublicKey = signer.public_key().as_ref().try_into().map_err(io::Error::other)?;
        let private = PrivatePkcs8KeyDer::from([&PKCS8_HEAD[..], &seed.0].concat());
        let pair = KeyPair::try_from(&private).map_err(io::Error::other)?;
        let mut params = CertificateParams::new([SERVER_NAME.to_string()]).map_err(io::Error::other)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        let certificate = params.self_signed(&pair).map_err(io::Error::other)?;
        let chain = vec![certificate.der().clone()];
        let (client, server) = configs(chain, private.into()).map_err(io::Error::other)?;
        Ok(Identity { name, key, signer, client: Arc::new(client), server: Arc::new(server) })
    }

    /// Says something: 64 bytes that [`is_said_by`] knows again.
    pub fn sign(&self, text: &str) -> Vec<u8> {
        self.signer.sign(text.as_bytes()).as_ref().to_vec()
    }

    /// The side that dialled a cluster: whoever answers has this key.
    pub async fn connect(&self, stream: BoxStream, key: &PublicKey) -> io::Result<BoxStream> {
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.client.clone()).connect(name, reading_ahead(stream)).await?;
        match stream.get_ref().1.peer_certificates().and_then(shown_key) {
            Some(shown) if shown == *key => Ok(Box::new(stream)),
            _ => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another cluster than the one that is meant answers there",
            )),
        }
    }

    /// The side that listens: whose key the other side has.
    pub async fn accept(&self, stream: BoxStream) -> io::Result<(BoxStream, PublicKey)> {
        let stream = TlsAcceptor::from(self.server.clone()).accept(reading_ahead(stream)).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(shown_key);
        let nobody = || io::Error::new(io::ErrorKind::PermissionDenied, "the other side shows no key");
        Ok((Box::new(stream), shown.ok_or_else(nobody)?))
    }
}

/// Whether the owner of a key said this.
pub fn is_said_by(key: &PublicKey, text: &str, signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), signature).is_ok()
}

fn shown_key(chain: &[CertificateDer<'_>]) -> Option<PublicKey> {
    key_of(chain.first()?)
}

/// The key that a certificate is of.
fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let info = parsed.public_key();
    let is_ours = rest.is_empty() && info.algorithm.algorithm == OID_SIG_ED25519;
    is_ours.then(|| info.subject_public_key.data.as_ref().try_into().ok())?
}

fn configs(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(ClientConfig, ServerConfig), Error> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyKey(provider.clone()));
    let versions = &[&rustls::version::TLS13];
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.clone(), key.clone_key())?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok((client, server))
}

/// Takes a certificate of any key, whose owner the handshake proves to be on the other side. Whose key it has to be is
/// looked at behind the handshake.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl AnyKey {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        match key_of(certificate) {
            Some(_) => Ok(()),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }
}

/// What both sides do alike: only TLS 1.3 is spoken, and a signature proves whose the key is.
macro_rules! proved_by_the_handshake {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken here".to_string()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    proved_by_the_handshake!();
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[Issuer] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    proved_by_the_handshake!();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use fabric::env::SystemEnv;
    use fabric::net::{LocalNet, Net, accept};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    pub(in crate::overlay) fn identity(name: &str) -> Identity {
        Identity::new(name.parse().unwrap(), &Seed::draw(&SystemEnv::default())).unwrap()
    }

    async fn streams() -> (BoxStream, BoxStream) {
        let net = LocalNet::default();
        let mut listener = net.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().to_string();
        let (dialled, accepted) = tokio::join!(net.connect(&address), accept(&mut *listener));
        (dialled.unwrap(), accepted.0)
    }

    #[tokio::test]
    async fn both_sides_know_who_the_other_is() {
        let (east, west) = (identity("east"), identity("west"));
        let (here, there) = streams().await;
        let (dialled, accepted) = tokio::join!(east.connect(here, &west.key), west.accept(there));
        let (mut here, (mut there, key)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(key, east.key);
        here.write_all(b"hello").await.unwrap();
        here.flush().await.unwrap();
        let mut heard = [0; 5];
        there.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    }

    #[tokio::test]
    async fn another_cluster_is_not_talked_to() {
        let (east, west, north) = (identity("east"), identity("west"), identity("north"));
        let (here, there) = streams().await;
        let (dialled, _accepted) = tokio::join!(east.connect(here, &north.key), west.accept(there));
        assert_eq!(dialled.err().unwrap().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_a_cluster_says_is_known_by_its_key() {
        let (east, west) = (identity("east"), identity("west"));
        let signature = east.sign("hello");
        assert!(is_said_by(&east.key, "hello", &signature));
        assert!(!is_said_by(&east.key, "hullo", &signature) && !is_said_by(&west.key, "hello", &signature));
        let again = Identity::new("east".parse().unwrap(), &Seed::from_bytes(&[7; 32]).unwrap()).unwrap();
        assert_eq!(
            hex::encode(again.key),
            "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
        );
    }
}
