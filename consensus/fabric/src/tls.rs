//! Mutual TLS between processes: the cluster's own certificate authority, and what a certificate proves.
//!
//! A secrets directory holds `ca.pem`, `ca.key`, `cluster.id`, `cluster.key` (what user secrets are sealed with),
//! and for each process `node-<id>.pem` and `.key` or `gateway.pem` and `.key`; all of mode 0600. A certificate
//! names role, id and cluster in one DNS name like `node-3.<cluster id>.fluffy`, so that the chain and the name
//! of the dialled node are checked by the ordinary rules of TLS. A machine needs only its own files, `ca.pem` and
//! the two of the cluster; `ca.key` stays where it was made.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::GeneralName;

use crate::disks::system::{read_text, read_whole};
use crate::disks::{Disks, SystemDisks, write_small};
use crate::env::{Env, random_u128};
use crate::ids::{ClusterId, NodeId};
use crate::net::{BoxStream, reading_ahead};
use crate::rpc::Peer;

const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";
const CLUSTER_ID: &str = "cluster.id";
const CLUSTER_KEY: &str = "cluster.key";
/// Bytes of the cluster key: AES-256.
const CLUSTER_KEY_BYTES: usize = 32;
/// Last label of the names in certificates.
const NAME_END: &str = "fluffy";

/// What all processes of a cluster share.
#[derive(Clone)]
pub struct ClusterSecrets {
    /// The cluster's name.
    pub cluster: ClusterId,
    /// What user secrets are sealed with.
    pub key: [u8; CLUSTER_KEY_BYTES],
}

/// Without the key.
impl fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSecrets").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn fault(path: &Path, what: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

/// Names the file in an error of reading it.
fn named<T>(path: &Path, read: io::Result<T>) -> io::Result<T> {
    read.map_err(|error| io::Error::new(error.kind(), format!("read {}: {error}", path.display())))
}

fn write(directory: &Path, name: &str, contents: &str) -> io::Result<()> {
    write_small(&SystemDisks, &directory.join(name), contents.as_bytes())
}

impl ClusterSecrets {
    /// Draws a new cluster: its id and its key.
    pub fn draw(env: &dyn Env) -> ClusterSecrets {
        let mut key = [0; CLUSTER_KEY_BYTES];
        env.random(&mut key);
        ClusterSecrets { cluster: ClusterId(random_u128(env)), key }
    }

    /// Reads `cluster.id` and `cluster.key`.
    pub fn load(directory: &Path) -> io::Result<ClusterSecrets> {
        let path = directory.join(CLUSTER_ID);
        let text = named(&path, read_text(&path))?;
        let cluster = text.trim().parse().map_err(|_| fault(&path, "not the id of a cluster"))?;
        let path = directory.join(CLUSTER_KEY);
        let text = named(&path, read_text(&path))?;
        let mut key = [0; CLUSTER_KEY_BYTES];
        hex::decode_to_slice(text.trim(), &mut key)
            .map_err(|_| fault(&path, "not a key of 64 hex digits"))?;
        Ok(ClusterSecrets { cluster, key })
    }

    /// Writes `cluster.id` and `cluster.key`.
    pub fn store(&self, directory: &Path) -> io::Result<()> {
        write(directory, CLUSTER_KEY, &format!("{}\n", hex::encode(self.key)))?;
        write(directory, CLUSTER_ID, &format!("{}\n", self.cluster))
    }
}

/// Makes a cluster: its authority, for the secrets of a new one or of a store that was none yet. `AlreadyExists` where the
/// directory holds one.
pub fn make_authority(secrets: ClusterSecrets, directory: &Path) -> io::Result<ClusterSecrets> {
    SystemDisks.create_dir(directory)?;
    let there = SystemDisks.list(directory)?;
    if let Some(name) = [AUTHORITY, AUTHORITY_KEY, CLUSTER_ID, CLUSTER_KEY]
        .iter()
        .find(|name| there.iter().any(|there| there == *name))
    {
        let why = format!("{} holds a cluster already ({name})", directory.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Fluffy cluster {}", secrets.cluster));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    write(directory, AUTHORITY_KEY, &key.serialize_pem())?;
    write(directory, AUTHORITY, &certificate.pem())?;
    secrets.store(directory)?;
    Ok(secrets)
}

/// Issues certificate and key of one process, replacing those that are there.
pub fn issue(directory: &Path, peer: Peer) -> io::Result<()> {
    let cluster = ClusterSecrets::load(directory)?.cluster;
    let (authority, key) = (directory.join(AUTHORITY), directory.join(AUTHORITY_KEY));
    let key_pem = named(&key, read_text(&key))?;
    let authority_key = KeyPair::from_pem(&key_pem).map_err(|error| fault(&key, error))?;
    let authority_pem = named(&authority, read_text(&authority))?;
    let issuer =
        Issuer::from_ca_cert_pem(&authority_pem, authority_key).map_err(|error| fault(&authority, error))?;

    let mut params = CertificateParams::new([name_of(peer, cluster)]).map_err(io::Error::other)?;
    params.distinguished_name = common_name(&format!("Fluffy {peer}"));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Each process dials and is dialled.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = params.signed_by(&key, &issuer).map_err(io::Error::other)?;
    let stem = file_stem(peer);
    write(directory, &format!("{stem}.key"), &key.serialize_pem())?;
    write(directory, &format!("{stem}.pem"), &certificate.pem())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn file_stem(peer: Peer) -> String {
    match peer {
        Peer::Node(node) => format!("node-{node}"),
        Peer::Gateway => "gateway".to_string(),
    }
}

fn name_of(peer: Peer, cluster: ClusterId) -> String {
    format!("{}.{cluster}.{NAME_END}", file_stem(peer))
}

/// The inverse of [`name_of`], for names of this cluster.
fn peer_of(name: &str, cluster: ClusterId) -> Option<Peer> {
    let stem = name.strip_suffix(&format!(".{cluster}.{NAME_END}"))?;
    let peer = match stem.strip_prefix("node-") {
        Some(number) => Peer::Node(NodeId(number.parse().ok()?)),
        None => Peer::Gateway,
    };
    (file_stem(peer) == stem).then_some(peer)
}

/// Whom a certificate names: it has exactly one DNS name, and that is one of this cluster.
fn named_in(certificate: &[u8], cluster: ClusterId) -> Option<Peer> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    match &names.value.general_names[..] {
        [GeneralName::DNSName(name)] => peer_of(name, cluster),
        _ => None,
    }
}

/// Certificate, key and authority of this process, loaded and checked.
pub struct Certificates {
    cluster: ClusterId,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Certificates {
    /// Loads what `me` needs from a secrets directory.
    pub fn load(directory: &Path, me: Peer) -> io::Result<Certificates> {
        let cluster = ClusterSecrets::load(directory)?.cluster;
        let stem = file_stem(me);
        let authority = certificates(&directory.join(AUTHORITY))?;
        let path = directory.join(format!("{stem}.pem"));
        let chain = certificates(&path)?;
        if chain.first().and_then(|own| named_in(own, cluster)) != Some(me) {
            return Err(fault(&path, format!("not the certificate of {me} of cluster {cluster}")));
        }
        let key_path = directory.join(format!("{stem}.key"));
        let pem = named(&key_path, read_whole(&key_path))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| fault(&key_path, error))?;
        Certificates::build(cluster, authority, chain, key).map_err(|error| fault(&path, error))
    }

    fn build(
        cluster: ClusterId,
        authority: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Certificates, rustls::Error> {
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in authority {
            roots.add(certificate)?;
        }
        let roots = Arc::new(roots);
        let versions = &[&rustls::version::TLS13];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Certificates { cluster, client: Arc::new(client), server: Arc::new(server) })
    }

    /// The cluster they belong to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The side that dialled `node`: the peer's certificate is of our authority and of that node.
    pub async fn connect(&self, stream: BoxStream, node: NodeId) -> io::Result<BoxStream> {
        let name = name_of(Peer::Node(node), self.cluster);
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.client.clone()).connect(name, reading_ahead(stream)).await?;
        Ok(Box::new(stream))
    }

    /// The side that listens: who the peer's certificate, of our authority, says it is.
    pub async fn accept(&self, stream: BoxStream) -> io::Result<(BoxStream, Peer)> {
        let stream = TlsAcceptor::from(self.server.clone()).accept(reading_ahead(stream)).await?;
        let presented = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = presented.and_then(|certificate| named_in(certificate, self.cluster));
        let stranger = || {
            io::Error::new(io::ErrorKind::PermissionDenied, "the certificate names no peer of this cluster")
        };
        Ok((Box::new(stream), peer.ok_or_else(stranger)?))
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = named(path, read_whole(path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| fault(path, error))?;
    if found.is_empty() { Err(fault(path, "no certificate in it")) } else { Ok(found) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::env::SystemEnv;
    use crate::net::{Net, TcpNet, accept};

    const NODE: Peer = Peer::Node(NodeId(3));

    #[test]
    fn names_of_peers_come_back_and_others_do_not() {
        let (ours, theirs) = (ClusterId(1), ClusterId(2));
        for peer in [NODE, Peer::Gateway] {
            assert_eq!(peer_of(&name_of(peer, ours), ours), Some(peer));
            assert_eq!(peer_of(&name_of(peer, ours), theirs), None);
        }
        for stem in ["node-", "node-03", "node-x", "node-70000", "gateway.x", "", "admin"] {
            assert_eq!(peer_of(&format!("{stem}.{ours}.{NAME_END}"), ours), None, "{stem}");
        }
    }

    #[test]
    fn secrets_are_made_once_and_readable_by_their_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("secrets");
        let env = SystemEnv::default();
        let draw = || ClusterSecrets::draw(&env);
        let made = make_authority(draw(), &directory).unwrap();
        assert_eq!(make_authority(draw(), &directory).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        for peer in [NODE, Peer::Gateway] {
            issue(&directory, peer).unwrap();
            assert_eq!(Certificates::load(&directory, peer).unwrap().cluster(), made.cluster);
        }
        let loaded = ClusterSecrets::load(&directory).unwrap();
        assert_eq!((loaded.cluster, loaded.key), (made.cluster, made.key));
        assert!(!format!("{loaded:?}").contains(&hex::encode(made.key)[..8]));
        let names = SystemDisks.list(&directory).unwrap();
        let expected = [
            "ca.key",
            "ca.pem",
            "cluster.id",
            "cluster.key",
            "gateway.key",
            "gateway.pem",
            "node-3.key",
            "node-3.pem",
        ];
        assert_eq!(names, expected);
        for name in names {
            let mode = std::fs::metadata(directory.join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[tokio::test]
    async fn a_client_without_a_certificate_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let cluster =
            make_authority(ClusterSecrets::draw(&SystemEnv::default()), root.path()).unwrap().cluster;
        issue(root.path(), NODE).unwrap();
        let server = Certificates::load(root.path(), NODE).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&root.path().join(AUTHORITY)).unwrap() {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().to_string();
        let (dialled, accepted) = tokio::join!(TcpNet.connect(&address), accept(&mut *listener));
        let client = async {
            let name = ServerName::try_from(name_of(NODE, cluster)).unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, dialled.unwrap()).await?;
            stream.read(&mut [0]).await
        };
        let (heard, accepted) = tokio::join!(client, server.accept(accepted.0));
        assert!(accepted.err().unwrap().to_string().contains("certificate"));
        assert!(heard.is_err(), "{heard:?}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let root = tempfile::tempdir().unwrap();
        let env = SystemEnv::default();
        let error = Certificates::load(root.path(), NODE).err().unwrap().to_string();
        assert!(error.starts_with("read ") && error.contains("cluster.id"), "{error}");
        make_authority(ClusterSecrets::draw(&env), root.path()).unwrap();
        let error = Certificates::load(root.path(), NODE).err().unwrap().to_string();
        assert!(error.contains("node-3.pem"), "{error}");
        issue(root.path(), NODE).unwrap();
        std::fs::copy(root.path().join("node-3.pem"), root.path().join("node-4.pem")).unwrap();
        std::fs::copy(root.path().join("node-3.key"), root.path().join("node-4.key")).unwrap();
        let error = Certificates::load(root.path(), Peer::Node(NodeId(4))).err().unwrap().to_string();
        assert!(error.contains("not the certificate of node 4"), "{error}");
        issue(root.path(), Peer::Gateway).unwrap();
        std::fs::copy(root.path().join("gateway.key"), root.path().join("node-3.key")).unwrap();
        assert!(Certificates::load(root.path(), NODE).is_err());
    }
}
