//! A backup of the metadata: the rows as of one log index, in a file that opens only under the cluster's key.
//!
//! The file: a head in plain text (magic, version, salt, cluster), then frames, each sealed with AES-256-GCM under a key
//! derived from the cluster's, with its number as nonce. The first frame tells what the backup is of, the last one ends
//! it: a file that was cut off, or whose frames were exchanged, does not open.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use bytes::Bytes;
use consensus::client::{Contacts, Meta, MetaError};
use consensus::meta::query::Query;
use consensus::raft::wire::{BackupAnswer, BackupPlace, BackupRequest, method};
use fabric::Seams;
use fabric::codec;
use fabric::disks::{Disks, File, OpenMode};
use fabric::env::{Env, run_blocking};
use fabric::ids::{ClusterId, NodeId};
use fabric::limits::MIB;
use fabric::rpc::{CallOptions, Class, RpcClient};
use fabric::tls::ClusterSecrets;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"fluffybk";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 16;
/// Magic, version, salt, cluster.
const HEAD_BYTES: usize = 8 + 1 + SALT_BYTES + 16;
/// A frame holds a page of rows; a row may be larger than a page.
const FRAME_BYTES_MAX: usize = 16 * MIB as usize;
const TAG_BYTES: usize = 16;
/// One page: a voter makes a checkpoint before the first.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);

/// What a frame is. Stored: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    About = 0,
    Page = 1,
    End = 2,
}

/// What a backup is of. Stored: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The last entry in it …
    pub index: u64,
    /// … and its term.
    pub term: u64,
    /// When it was made (wall clock, ms).
    pub made_ms: u64,
}

/// Why a backup was not made or does not open.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The metadata did not answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// No voter hands out its rows.
    #[error("no voter hands out its rows: {0}")]
    NoVoter(String),
    /// The disk.
    #[error("the backup cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// It is no backup, of another cluster, cut off, or rotten.
    #[error("{0}")]
    Unusable(String),
}

fn unusable<T>(why: impl ToString) -> Result<T, BackupError> {
    Err(BackupError::Unusable(why.to_string()))
}

/// Seals and opens the frames of one file.
struct Sealer {
    cipher: Aes256Gcm,
    head: [u8; HEAD_BYTES],
    number: u64,
}

impl Sealer {
    fn new(secrets: &ClusterSecrets, salt: [u8; SALT_BYTES]) -> Sealer {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8] = VERSION;
        head[9..9 + SALT_BYTES].copy_from_slice(&salt);
        head[9 + SALT_BYTES..].copy_from_slice(&secrets.cluster.0.to_be_bytes());
        // A key of its own for each file: nonces are numbers.
        let key = Sha256::new().chain_update(b"fluffy backup").chain_update(head).chain_update(secrets.key);
        Sealer { cipher: Aes256Gcm::new(&key.finalize()), head, number: 0 }
    }

    fn seal(&mut self, kind: Kind, plain: &[u8]) -> Result<Vec<u8>, BackupError> {
        let (nonce, aad) = self.next(kind);
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: &aad });
        sealed.or_else(|_| unusable("a frame is too large to be sealed"))
    }

    fn open(&mut self, kind: Kind, sealed: &[u8]) -> Result<Vec<u8>, BackupError> {
        let (nonce, aad) = self.next(kind);
        let opened = self.cipher.decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad: &aad });
        opened.or_else(|_| unusable("the backup is rotten, or was made under another cluster key"))
    }

    fn next(&mut self, kind: Kind) -> ([u8; 12], [u8; HEAD_BYTES + 1]) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        let mut aad = [0; HEAD_BYTES + 1];
        aad[..HEAD_BYTES].copy_from_slice(&self.head);
        aad[HEAD_BYTES] = kind as u8;
        (nonce, aad)
    }
}

/// Where it was made from, and how much it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The last entry in it.
    pub index: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Makes a backup in a new file, as of now or later. `told` hears the bytes written so far.
pub async fn make(
    seams: &Seams,
    meta: &dyn Meta,
    rpc: &RpcClient,
    contacts: &Contacts,
    secrets: &ClusterSecrets,
    path: &Path,
    mut told: impl FnMut(u64),
) -> Result<Made, BackupError> {
    // Everything that was acknowledged before is in it.
    let at_least = meta.query(Query::Hold).await?.index;
    let mut refusal = String::new();
    let mut begun = None;
    for voter in contacts.all() {
        match ask_page(rpc, voter, BackupRequest { token: 0, at_least, place: None }).await {
            Ok(page) => {
                begun = Some((voter, page));
                break;
            }
            Err(why) => refusal = format!("node {voter}: {why}"),
        }
    }
    let Some((voter, mut page)) = begun else { return Err(BackupError::NoVoter(refusal)) };
    let mut salt = [0; SALT_BYTES];
    seams.env.random(&mut salt);
    let mut file = Writing::begin(seams, path, Sealer::new(secrets, salt)).await?;
    let about = About { index: page.index, term: page.term, made_ms: seams.env.wall_ms() };
    let written = async {
        file.add(Kind::About, codec::encode(VERSION, &about).into()).await?;
        while !page.last {
            file.add(Kind::Page, page.body).await?;
            told(file.bytes);
            let request = BackupRequest { token: page.token, at_least, place: page.next };
            page = ask_page(rpc, voter, request).await.map_err(BackupError::NoVoter)?;
        }
        file.end(seams, path).await
    };
    match written.await {
        Ok(bytes) => Ok(Made { index: about.index, bytes }),
        Err(error) => {
            // A part is no backup, and would be in the way of the next one. What failed is told, not this.
            let (disks, path) = (seams.disks.clone(), path.to_path_buf());
            let _ = run_blocking(&*seams.env, move || disks.remove(&path)).await;
            Err(error)
        }
    }
}

/// A page as it came.
struct Came {
    token: u64,
    index: u64,
    term: u64,
    next: Option<BackupPlace>,
    last: bool,
    body: Bytes,
}

async fn ask_page(rpc: &RpcClient, voter: NodeId, request: BackupRequest) -> Result<Came, String> {
    let options = CallOptions { class: Class::Bulk, deadline: PAGE_DEADLINE };
    match rpc.call_typed(voter, method::BACKUP, &request, Bytes::new(), options).await {
        Ok((BackupAnswer::Page { token, index, term, next, last }, body)) => {
            Ok(Came { token, index, term, next, last, body })
        }
        Ok((BackupAnswer::Refused(why), _)) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}

/// A file that grows by frames.
struct Writing {
    env: Arc<dyn Env>,
    file: Arc<dyn File>,
    sealer: Sealer,
    bytes: u64,
}

impl Writing {
    async fn begin(seams: &Seams, path: &Path, sealer: Sealer) -> Result<Writing, BackupError> {
        let (disks, path) = (seams.disks.clone(), path.to_path_buf());
        let file = run_blocking(&*seams.env, move || disks.open(&path, OpenMode::New)).await?;
        let mut writing = Writing { env: seams.env.clone(), file, sealer, bytes: 0 };
        writing.write(writing.sealer.head.to_vec()).await?;
        Ok(writing)
    }

    async fn add(&mut self, kind: Kind, plain: Bytes) -> Result<(), BackupError> {
        let sealed = self.sealer.seal(kind, &plain)?;
        let mut frame = Vec::with_capacity(5 + sealed.len());
        frame.push(kind as u8);
        frame.extend_from_slice(&(sealed.len() as u32).to_be_bytes());
        frame.extend_from_slice(&sealed);
        self.write(frame).await
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), BackupError> {
        let (file, at, length) = (self.file.clone(), self.bytes, bytes.len() as u64);
        run_blocking(&*self.env, move || file.write_at(at, &bytes)).await?;
        self.bytes += length;
        Ok(())
    }

    /// Ends the file; it is durable when this returns.
    async fn end(mut self, seams: &Seams, path: &Path) -> Result<u64, BackupError> {
        self.add(Kind::End, Bytes::new()).await?;
        let (file, disks) = (self.file, seams.disks.clone());
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_path_buf();
        let synced = move || file.sync_data().and_then(|()| disks.sync_dir(&directory));
        run_blocking(&*seams.env, synced).await?;
        Ok(self.bytes)
    }
}

/// A backup that is read. Blocks.
pub struct Reading {
    file: Arc<dyn File>,
    sealer: Sealer,
    at: u64,
    /// What it is of.
    pub about: About,
}

impl Reading {
    /// Opens a backup of this cluster. Blocks.
    pub fn open(disks: &dyn Disks, path: &Path, secrets: &ClusterSecrets) -> Result<Reading, BackupError> {
        let file = disks.open(path, OpenMode::Existing)?;
        let mut head = [0; HEAD_BYTES];
        if file.len()? < HEAD_BYTES as u64 {
            return unusable("this is no backup");
        }
        file.read_at(0, &mut head)?;
        if &head[..8] != MAGIC {
            return unusable("this is no backup");
        }
        if head[8] != VERSION {
            return unusable(format!("the backup is of version {}; this release reads {VERSION}", head[8]));
        }
        let (salt, cluster) = head[9..].split_at(SALT_BYTES);
        let cluster = ClusterId(u128::from_be_bytes(cluster.try_into().unwrap_or_default()));
        if cluster != secrets.cluster {
            return unusable(format!("the backup is of cluster {cluster}, and this is {}", secrets.cluster));
        }
        let sealer = Sealer::new(secrets, salt.try_into().unwrap_or_default());
        let about = About { index: 0, term: 0, made_ms: 0 };
        let mut reading = Reading { file, sealer, at: HEAD_BYTES as u64, about };
        match reading.next()? {
            (Kind::About, plain) => {
                let about = codec::decode(VERSION, "head of a backup", &plain);
                reading.about = about.or_else(unusable)?;
                Ok(reading)
            }
            _ => unusable("the backup does not tell what it is of"),
        }
    }

    /// The next page of rows, encoded; `None` at the end. Blocks.
    pub fn page(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        match self.next()? {
            (Kind::Page, plain) => Ok(Some(plain)),
            (Kind::End, _) if self.at == self.file.len()? => Ok(None),
            (Kind::End, _) => unusable("there is something behind the end of the backup"),
            (Kind::About, _) => unusable("the backup begins twice"),
        }
    }

    fn next(&mut self) -> Result<(Kind, Vec<u8>), BackupError> {
        let mut head = [0; 5];
        let cut_off = || BackupError::Unusable("the backup is cut off".to_string());
        self.read(&mut head).map_err(|_| cut_off())?;
        let [kind, length @ ..] = head;
        let kind = match kind {
            0 => Kind::About,
            1 => Kind::Page,
            2 => Kind::End,
            other => return unusable(format!("the backup has a frame of kind {other}")),
        };
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX + TAG_BYTES {
            return unusable("the backup is rotten: a frame is too large");
        }
        let mut sealed = vec![0; length];
        self.read(&mut sealed).map_err(|_| cut_off())?;
        Ok((kind, self.sealer.open(kind, &sealed)?))
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(self.at, into)?;
        self.at += into.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::disks::MemoryDisks;
    use fabric::env::SystemEnv;
    use fabric::net::LocalNet;

    use super::*;

    const PATH: &str = "/backups/one";

    fn secrets(cluster: u128, key: u8) -> ClusterSecrets {
        ClusterSecrets { cluster: ClusterId(cluster), key: [key; 32] }
    }

    /// A backup of two pages.
    async fn written() -> (Seams, Vec<u8>) {
        let disks = Arc::new(MemoryDisks::new(1 << 20));
        disks.create_dir(Path::new("/backups")).unwrap();
        let seams = Seams { env: Arc::new(SystemEnv::default()), net: Arc::new(LocalNet::default()), disks };
        let sealer = Sealer::new(&secrets(7, 1), [3; SALT_BYTES]);
        let mut file = Writing::begin(&seams, Path::new(PATH), sealer).await.unwrap();
        let about = About { index: 300, term: 2, made_ms: 1_000 };
        file.add(Kind::About, codec::encode(VERSION, &about).into()).await.unwrap();
        for page in [&b"first"[..], b"second"] {
            file.add(Kind::Page, page.into()).await.unwrap();
        }
        let bytes = file.end(&seams, Path::new(PATH)).await.unwrap();
        let mut all = vec![0; bytes as usize];
        seams.disks.open(Path::new(PATH), OpenMode::Existing).unwrap().read_at(0, &mut all).unwrap();
        (seams, all)
    }

    fn read(seams: &Seams, bytes: &[u8], secrets: &ClusterSecrets) -> Result<Vec<Vec<u8>>, String> {
        let path = Path::new("/backups/other");
        let _ = seams.disks.remove(path);
        seams.disks.open(path, OpenMode::New).unwrap().write_at(0, bytes).unwrap();
        let pages = || {
            let mut reading = Reading::open(&*seams.disks, path, secrets)?;
            assert_eq!(reading.about, About { index: 300, term: 2, made_ms: 1_000 });
            std::iter::from_fn(|| reading.page().transpose()).collect::<Result<Vec<_>, _>>()
        };
        pages().map_err(|error: BackupError| error.to_string())
    }

    #[tokio::test]
    async fn it_opens_under_its_key_only_and_only_as_a_whole() {
        let (seams, bytes) = written().await;
        let pages = vec![b"first".to_vec(), b"second".to_vec()];
        assert_eq!(read(&seams, &bytes, &secrets(7, 1)), Ok(pages));
        assert!(!bytes.windows(5).any(|part| part == b"first"), "it is in plain text");
        assert!(read(&seams, &bytes, &secrets(7, 2)).unwrap_err().contains("another cluster key"));
        assert!(read(&seams, &bytes, &secrets(8, 1)).unwrap_err().contains("of cluster"));
        for end in [0, 10, HEAD_BYTES, bytes.len() - 30, bytes.len() - 1] {
            read(&seams, &bytes[..end], &secrets(7, 1)).unwrap_err();
        }
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            read(&seams, &rotten, &secrets(7, 1)).unwrap_err();
        }
        let more = [&bytes[..], b"more"].concat();
        assert!(read(&seams, &more, &secrets(7, 1)).unwrap_err().contains("behind the end"));
    }

    #[tokio::test]
    async fn the_format_is_kept() {
        let (_, bytes) = written().await;
        assert_eq!(
            hex::encode(&bytes[..HEAD_BYTES]),
            "666c75666679626b01".to_string() + &"03".repeat(16) + &"0".repeat(31) + "7"
        );
        assert_eq!(hex::encode(codec::crc32c(&[&bytes]).to_be_bytes()), "efa344ab");
    }
}
