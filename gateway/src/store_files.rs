//! The files of a store as a whole, beside those of its nodes: what it is, its keys, its first user.
//!
//! | file | what |
//! |---|---|
//! | `store.json` | format, number of nodes; written last, so that a directory without it never was a store |
//! | `cluster.id` | which cluster the nodes belong to |
//! | `cluster.key` | seals the secrets of users; without it no user can sign |
//! | `admin-token` | opens the admin port |
//! | `root-credentials` | keys of the first user, as lines a shell can read |
//!
//! All are 0600 in a directory of 0700. One process owns the directory for as long as a [`StoreFiles`] lives.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use consensus::meta::names::AccessKeyId;
use fabric::Seams;
use fabric::disks::{Disks, read_small, write_small};
use fabric::env::{Env, random_u128};
use fabric::ids::ClusterId;
use fabric::limits::KIB;
use serde::{Deserialize, Serialize};

use crate::secrets::{ClusterKey, Secret, draw_access_key};

const STORE: &str = "store.json";
const CLUSTER_ID: &str = "cluster.id";
const CLUSTER_KEY: &str = "cluster.key";
/// Name of the file with the admin token.
pub const ADMIN_TOKEN: &str = "admin-token";
/// Name of the file with the keys of the first user.
pub const ROOT_CREDENTIALS: &str = "root-credentials";
const SMALL_BYTES_MAX: u64 = 64 * KIB;
const FORMAT: u32 = 1;

/// Why a store cannot be opened: one sentence. Exit code 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

fn failed(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError(format!("{doing} {}: {error}", path.display()))
}

/// `store.json`. Stored: fields are only added.
#[derive(Debug, Serialize, Deserialize)]
struct Store {
    format: u32,
    nodes: u16,
}

/// An opened store.
pub struct StoreFiles {
    /// Its directory.
    pub directory: PathBuf,
    /// Its id.
    pub cluster: ClusterId,
    /// Seals the secrets of its users.
    pub cluster_key: ClusterKey,
    /// Opens its admin port.
    pub admin_token: Secret,
    _lock: Box<dyn Send + Sync>,
}

/// Keys of the first user.
pub struct RootKeys {
    /// Access key id.
    pub id: AccessKeyId,
    /// Secret key.
    pub secret: Secret,
}

impl StoreFiles {
    /// Opens or begins the store in `directory`. Blocks.
    pub fn open(seams: &Seams, directory: &Path, nodes: u16) -> Result<StoreFiles, StoreError> {
        let disks = &*seams.disks;
        disks.create_dir(directory).map_err(|error| failed("create", directory, &error))?;
        let lock = disks.lock(directory).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                StoreError(format!("another process already serves the store in {}", directory.display()))
            }
            _ => failed("lock", directory, &error),
        })?;
        match read(disks, &directory.join(STORE))? {
            Some(text) => check(directory, &text, nodes)?,
            None => begin(seams, directory, nodes)?,
        }
        let must = |name: &str| {
            let missing = || broken(directory, &format!("the file {name} is missing"));
            read(disks, &directory.join(name))?.ok_or_else(missing)
        };
        let cluster = ClusterId::from_str(must(CLUSTER_ID)?.trim());
        let cluster = cluster.map_err(|_| broken(directory, "the file cluster.id holds no id"))?;
        let key = must(CLUSTER_KEY)?;
        Ok(StoreFiles {
            directory: directory.to_path_buf(),
            cluster,
            cluster_key: ClusterKey::from_hex(&key).map_err(|error| broken(directory, &error.to_string()))?,
            admin_token: token(disks, &*seams.env, directory)?,
            _lock: lock,
        })
    }
}

/// The admin token in `directory`, made if it is not there. Blocks.
pub fn token(disks: &dyn Disks, env: &dyn Env, directory: &Path) -> Result<Secret, StoreError> {
    let path = directory.join(ADMIN_TOKEN);
    if let Some(token) = read_token(disks, directory)? {
        return Ok(token);
    }
    let token = Secret::draw(env);
    write_small(disks, &path, format!("{}\n", token.expose()).as_bytes())
        .map_err(|error| failed("write", &path, &error))?;
    Ok(token)
}

/// The admin token in `directory`, if there is one. Blocks.
pub fn read_token(disks: &dyn Disks, directory: &Path) -> Result<Option<Secret>, StoreError> {
    let Some(text) = read(disks, &directory.join(ADMIN_TOKEN))? else {
        return Ok(None);
    };
    Secret::chosen(text.trim())
        .map(Some)
        .map_err(|_| broken(directory, "the file admin-token holds no token"))
}

/// Keys of the first user that were kept in `directory`. Blocks.
pub fn read_root(disks: &dyn Disks, directory: &Path) -> Result<Option<RootKeys>, StoreError> {
    let Some(text) = read(disks, &directory.join(ROOT_CREDENTIALS))? else {
        return Ok(None);
    };
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let keys = value("AWS_ACCESS_KEY_ID").zip(value("AWS_SECRET_ACCESS_KEY")).and_then(|(id, secret)| {
        Some(RootKeys { id: id.parse().ok()?, secret: Secret::chosen(secret).ok()? })
    });
    keys.map(Some).ok_or_else(|| broken(directory, "the file root-credentials holds no keys"))
}

/// Keys for the first user: those that were kept, else the given ones, else new ones; kept from now on. Blocks.
pub fn root_keys(
    seams: &Seams,
    directory: &Path,
    given: (Option<String>, Option<String>),
) -> Result<RootKeys, StoreError> {
    if let Some(keys) = read_root(&*seams.disks, directory)? {
        return Ok(keys);
    }
    let keys = choose_root(&*seams.env, given)?;
    let path = directory.join(ROOT_CREDENTIALS);
    let text = format!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}\n", keys.id, keys.secret.expose());
    write_small(&*seams.disks, &path, text.as_bytes()).map_err(|error| failed("write", &path, &error))?;
    Ok(keys)
}

/// Keys for the first user: the given ones, else new ones.
pub fn choose_root(env: &dyn Env, given: (Option<String>, Option<String>)) -> Result<RootKeys, StoreError> {
    let id = match given.0 {
        None => draw_access_key(env),
        Some(id) => id.parse().map_err(|error| StoreError(format!("FLUFFY_ROOT_ACCESS_KEY: {error}")))?,
    };
    let secret = match given.1 {
        None => Secret::draw(env),
        Some(secret) => {
            Secret::chosen(&secret).map_err(|error| StoreError(format!("FLUFFY_ROOT_SECRET_KEY: {error}")))?
        }
    };
    Ok(RootKeys { id, secret })
}

fn broken(directory: &Path, why: &str) -> StoreError {
    StoreError(format!("the store in {} is damaged: {why}", directory.display()))
}

fn read(disks: &dyn Disks, path: &Path) -> Result<Option<String>, StoreError> {
    match read_small(disks, path, SMALL_BYTES_MAX) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| StoreError(format!("{} is not text", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

fn check(directory: &Path, text: &str, nodes: u16) -> Result<(), StoreError> {
    let store: Store =
        serde_json::from_str(text).map_err(|error| broken(directory, &format!("{STORE}: {error}")))?;
    if store.format != FORMAT {
        let why = format!(
            "the store in {} has format {}; this release reads {FORMAT}",
            directory.display(),
            store.format
        );
        return Err(StoreError(why));
    }
    if store.nodes != nodes {
        let why = format!(
            "the store in {} was made with --nodes {}, not {nodes}: start it with --nodes {}",
            directory.display(),
            store.nodes,
            store.nodes
        );
        return Err(StoreError(why));
    }
    Ok(())
}

/// The first start in a directory. What lies there already must not be a node's.
fn begin(seams: &Seams, directory: &Path, nodes: u16) -> Result<(), StoreError> {
    let disks = &*seams.disks;
    let names = disks.list(directory).map_err(|error| failed("list", directory, &error))?;
    let own = [CLUSTER_ID, CLUSTER_KEY, ADMIN_TOKEN, ROOT_CREDENTIALS];
    let foreign = |name: &&String| {
        !own.iter().any(|own| name.starts_with(own)) && !name.starts_with(STORE) && *name != "lost+found"
    };
    if let Some(name) = names.iter().find(foreign) {
        let why = format!(
            "{} is neither empty nor an embedded store: it contains {name} (a node of a cluster is started with \
             `fluffy-storage --config FILE --node ID`)",
            directory.display()
        );
        return Err(StoreError(why));
    }
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        write_small(disks, &path, text.as_bytes()).map_err(|error| failed("write", &path, &error))
    };
    write(CLUSTER_KEY, format!("{}\n", ClusterKey::draw(&*seams.env).to_hex()))?;
    write(CLUSTER_ID, format!("{}\n", ClusterId(random_u128(&*seams.env))))?;
    let store = Store { format: FORMAT, nodes };
    let text = serde_json::to_string(&store).map_err(|error| broken(directory, &error.to_string()))?;
    write(STORE, format!("{text}\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use fabric::disks::MemoryDisks;
    use fabric::disks::OpenMode;
    use fabric::env::system::SystemEnv;
    use fabric::net::LocalNet;

    use super::*;

    fn seams() -> Seams {
        Seams {
            env: Arc::new(SystemEnv::default()),
            net: Arc::new(LocalNet::default()),
            disks: Arc::new(MemoryDisks::new(1 << 20)),
        }
    }

    #[test]
    fn a_store_is_opened_as_it_was_begun() {
        let seams = seams();
        let path = Path::new("/data");
        let first = StoreFiles::open(&seams, path, 3).unwrap();
        let error = StoreFiles::open(&seams, path, 3).err().unwrap();
        assert_eq!(error.0, "another process already serves the store in /data");
        let (cluster, key) = (first.cluster, first.cluster_key.to_hex());
        let token = first.admin_token.clone();
        drop(first);
        let error = StoreFiles::open(&seams, path, 1).err().unwrap();
        assert!(error.0.contains("was made with --nodes 3, not 1"), "{error}");
        let again = StoreFiles::open(&seams, path, 3).unwrap();
        assert_eq!((again.cluster, again.cluster_key.to_hex()), (cluster, key));
        assert!(again.admin_token == token);
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let seams = seams();
        let path = Path::new("/data");
        seams.disks.create_dir(path).unwrap();
        seams.disks.open(&path.join("node.id"), OpenMode::New).unwrap();
        let error = StoreFiles::open(&seams, path, 1).err().unwrap();
        assert!(error.0.contains("it contains node.id"), "{error}");
    }

    #[test]
    fn root_keys_are_given_or_drawn_and_kept() {
        let seams = seams();
        seams.disks.create_dir(Path::new("/a")).unwrap();
        let drawn = root_keys(&seams, Path::new("/a"), (None, None)).unwrap();
        let kept = root_keys(&seams, Path::new("/a"), (Some("OTHER".into()), None)).unwrap();
        assert!(kept.id == drawn.id && kept.secret == drawn.secret);
        let given = |id: &str, secret: &str| (Some(id.to_string()), Some(secret.to_string()));
        let chosen = choose_root(&*seams.env, given("AKID", "0123456789abcdef")).unwrap();
        assert_eq!((chosen.id.as_str(), chosen.secret.expose()), ("AKID", "0123456789abcdef"));
        for (id, secret, said) in [
            ("a/b", "0123456789abcdef", "FLUFFY_ROOT_ACCESS_KEY: the access key is not valid"),
            ("AKID", "short", "FLUFFY_ROOT_SECRET_KEY: a secret has 16 to 128 characters"),
        ] {
            let error = choose_root(&*seams.env, given(id, secret)).err().unwrap();
            assert!(error.0.starts_with(said), "{error}");
        }
    }
}
