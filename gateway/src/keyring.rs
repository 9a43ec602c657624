//! The master keys of server-side encryption, and data keys sealed under them.
//!
//! A ring has keys by name and version. `s3` is the key of SSE-S3; every other name is one that clients may name for
//! SSE-KMS, `alias/aws/s3` where they name none. Both of these have a version 0 that follows from the cluster key, so that
//! a store without a ring of its own encrypts, too. The highest version that does not stand by is the current one: new
//! bodies are sealed under it. Older ones only open.
//!
//! What always holds: a master key, a data key or a customer's key is never in a log, an error or the metadata; a sealed
//! data key opens only under the key, the version and the context that it was sealed with.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use bytes::Bytes;
use consensus::meta::sealing::{Frames, KEY_NAME_BYTES_MAX, Scheme, Sealing};
use fabric::env::Env;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::data::DataKey;
use crate::secrets::ClusterKey;

/// The key of SSE-S3.
const STORE_KEY: &str = "s3";
/// The key of SSE-KMS where nobody names one.
pub const NAMED_KEY_DEFAULT: &str = "alias/aws/s3";
/// The word behind a version that is known and not used yet.
const STANDBY: &str = "standby";

/// Labels of what follows from keys. Stored, in a way: never changed.
const MASTER_LABEL: &str = "fluffy master key ";
const SEAL_LABEL: &[u8] = b"fluffy data key 1";
const PROOF_LABEL: &[u8] = b"fluffy customer key 1";

const SALT_BYTES: usize = 16;

/// Why a text is no ring: one sentence that says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct RingError {
    line: usize,
    what: &'static str,
}

/// Why a data key does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It takes the key of the customer, and none was sent.
    #[error("the key of the customer is missing")]
    NoCustomerKey,
    /// The customer sent another key.
    #[error("the key of the customer is another one")]
    WrongCustomerKey,
    /// The ring of this gateway lacks it.
    #[error("the key ring has no version {version} of the master key {name}")]
    NoMasterKey {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// Rot, or a ring with another key under the same name and version.
    #[error("the sealed data key does not open under its master key")]
    Sealed,
}

/// The key that a customer sends with its requests. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct CustomerKey([u8; 32]);

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(…)")
    }
}

impl CustomerKey {
    /// From its bytes.
    pub fn from_bytes(key: [u8; 32]) -> CustomerKey {
        CustomerKey(key)
    }

    fn proof(&self, salt: &[u8; SALT_BYTES]) -> [u8; 32] {
        derive(&self.0, &[PROOF_LABEL, salt])
    }
}

/// The key that a body will be sealed under.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// SSE-S3.
    Store,
    /// SSE-KMS.
    Named {
        /// As [`KeyRing::resolve`] gave it.
        key: String,
        /// What the client binds to it.
        context: Option<String>,
        /// See [`Scheme::Named`].
        bucket_key: bool,
    },
    /// SSE-C.
    Customer(CustomerKey),
}

/// The versions of one master key.
#[derive(Default)]
struct Versions {
    keys: BTreeMap<u32, [u8; 32]>,
    /// `None`: all stand by.
    current: Option<u32>,
}

/// Keys that each store has.
const DERIVED: [&str; 2] = [STORE_KEY, NAMED_KEY_DEFAULT];

/// All master keys of a store.
#[derive(Default)]
pub struct KeyRing {
    keys: BTreeMap<String, Versions>,
}

impl KeyRing {
    /// With what follows from the cluster key, as the versions before all others.
    #[must_use]
    pub fn with_derived(mut self, cluster_key: &ClusterKey) -> KeyRing {
        for name in DERIVED {
            let versions = self.keys.entry(name.to_string()).or_default();
            versions.keys.insert(0, cluster_key.derive(&format!("{MASTER_LABEL}{name}")));
            versions.current = versions.current.max(Some(0));
        }
        self
    }

    /// Nothing but what follows from the cluster key.
    pub fn derived(cluster_key: &ClusterKey) -> KeyRing {
        KeyRing::default().with_derived(cluster_key)
    }

    /// The keys of a text: `NAME VERSION KEY [standby]` a line, the key as 64 hex digits.
    pub fn parse(text: &str) -> Result<KeyRing, RingError> {
        let mut ring = KeyRing::default();
        for (place, line) in text.lines().enumerate() {
            // Behind a hash is what people want to know.
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                ring.add(line).map_err(|what| RingError { line: place + 1, what })?;
            }
        }
        let stands_by = |(name, versions): (&String, &Versions)| {
            versions.current.is_none() && !DERIVED.contains(&name.as_str())
        };
        match ring.keys.iter().any(stands_by) {
            true => {
                Err(RingError { line: text.lines().count(), what: "a key has only versions that stand by" })
            }
            false => Ok(ring),
        }
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (name, version, key, standby) = match words[..] {
            [name, version, key] => (name, version, key, false),
            [name, version, key, STANDBY] => (name, version, key, true),
            _ => return Err("it is not NAME VERSION KEY, perhaps with the word standby behind"),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_:.-".contains(&byte);
        if KEY_NAME_BYTES_MAX < name.len() || !name.bytes().all(allowed) {
            return Err("the name does not consist of letters, digits and /_:.-");
        }
        let version: u32 = version.parse().map_err(|_| "the version is no number")?;
        if version == 0 {
            return Err("versions begin with 1");
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(key, &mut bytes).map_err(|_| "the key is not 64 hex digits")?;
        let versions = self.keys.entry(name.to_string()).or_default();
        if versions.keys.insert(version, bytes).is_some() {
            return Err("the version is there twice");
        }
        if !standby {
            versions.current = versions.current.max(Some(version));
        }
        Ok(())
    }

    /// The name in this ring of a key that a client names: as it is, as an alias, or as an ARN.
    pub fn resolve(&self, named: Option<&str>) -> Option<String> {
        let named = named.unwrap_or(NAMED_KEY_DEFAULT);
        // arn:aws:kms:REGION:ACCOUNT:key/NAME
        let in_arn = named.strip_prefix("arn:").and_then(|arn| arn.splitn(5, ':').nth(4));
        let name = in_arn.map_or(named, |resource| resource.strip_prefix("key/").unwrap_or(resource));
        let names = [Some(name), name.strip_prefix("alias/")];
        let known = |name: &&str| *name != STORE_KEY && self.keys.contains_key(*name);
        names.into_iter().flatten().find(known).map(str::to_string)
    }

    /// Draws a data key and seals it. `None`: the ring has no such key.
    pub fn seal(&self, env: &dyn Env, wanted: &Wanted) -> Option<(Sealing, DataKey)> {
        let data_key = DataKey::draw(env);
        let sealing = self.seal_key(env, wanted, &data_key)?;
        Some((sealing, data_key))
    }

    /// Seals a data key. `None`: the ring has no such key.
    pub fn seal_key(&self, env: &dyn Env, wanted: &Wanted, data_key: &DataKey) -> Option<Sealing> {
        let (master, scheme) = match wanted {
            Wanted::Store => {
                let (version, key) = self.current(STORE_KEY)?;
                (key, Scheme::Store { version })
            }
            Wanted::Named { key: name, context, bucket_key } => {
                let (version, key) = self.current(name)?;
                let (key_name, context) = (name.clone(), context.clone());
                (key, Scheme::Named { key: key_name, version, context, bucket_key: *bucket_key })
            }
            Wanted::Customer(key) => {
                let mut salt = [0; SALT_BYTES];
                env.random(&mut salt);
                (&key.0, Scheme::Customer { salt, proof: key.proof(&salt) })
            }
        };
        let sealed = seal(env, master, &scheme, data_key);
        Some(Sealing { frames: Frames::Gcm, scheme, data_key: sealed })
    }

    fn current(&self, name: &str) -> Option<(u32, &[u8; 32])> {
        let versions = self.keys.get(name)?;
        let current = versions.current?;
        Some((current, versions.keys.get(&current)?))
    }

    /// Opens a sealed data key.
    pub fn open(&self, sealing: &Sealing, customer: Option<&CustomerKey>) -> Result<DataKey, OpenError> {
        let master = match &sealing.scheme {
            Scheme::Store { version } => self.version(STORE_KEY, *version)?,
            Scheme::Named { key, version, .. } => self.version(key, *version)?,
            Scheme::Customer { salt, proof } => {
                let customer = customer.ok_or(OpenError::NoCustomerKey)?;
                check_proof(customer, salt, proof)?;
                &customer.0
            }
        };
        open(master, &sealing.scheme, &sealing.data_key).ok_or(OpenError::Sealed)
    }

    fn version(&self, name: &str, version: u32) -> Result<&[u8; 32], OpenError> {
        let found = self.keys.get(name).and_then(|versions| versions.keys.get(&version));
        found.ok_or_else(|| OpenError::NoMasterKey { name: name.to_string(), version })
    }
}

/// Whether a customer sent the key of a body.
pub fn check_proof(
    customer: &CustomerKey,
    salt: &[u8; SALT_BYTES],
    proof: &[u8; 32],
) -> Result<(), OpenError> {
    match bool::from(customer.proof(salt).ct_eq(proof)) {
        true => Ok(()),
        false => Err(OpenError::WrongCustomerKey),
    }
}

fn derive(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("an HMAC takes keys of every length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// What a sealed data key is bound to.
fn bound_to(scheme: &Scheme) -> Vec<u8> {
    match scheme {
        Scheme::Store { version } => format!("store\0{version}").into_bytes(),
        Scheme::Named { key, version, context, .. } => {
            format!("named\0{key}\0{version}\0{}", context.as_deref().unwrap_or("")).into_bytes()
        }
        Scheme::Customer { .. } => b"customer".to_vec(),
    }
}

/// A salt, then the data key encrypted under what follows from the master key and the salt. That key encrypts nothing
/// else, so that its nonce is always the same.
fn seal(env: &dyn Env, master: &[u8; 32], scheme: &Scheme, key: &DataKey) -> Bytes {
    let mut salt = [0; SALT_BYTES];
    env.random(&mut salt);
    let aad = bound_to(scheme);
    let sealed = Aes256Gcm::new(&derive(master, &[SEAL_LABEL, &salt]).into())
        .encrypt(&Nonce::from([0; 12]), Payload { msg: key.expose(), aad: &aad })
        .expect("a data key is shorter than the 64 GiB that GCM can seal");
    Bytes::from([&salt[..], &sealed].concat())
}

fn open(master: &[u8; 32], scheme: &Scheme, sealed: &[u8]) -> Option<DataKey> {
    let (salt, sealed) = sealed.split_first_chunk::<SALT_BYTES>()?;
    let aad = bound_to(scheme);
    let opened = Aes256Gcm::new(&derive(master, &[SEAL_LABEL, salt]).into())
        .decrypt(&Nonce::from([0; 12]), Payload { msg: sealed, aad: &aad })
        .ok()?;
    Some(DataKey::from_bytes(opened.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::env::system::SystemEnv;

    use super::*;

    fn ring(text: &str) -> Result<KeyRing, RingError> {
        KeyRing::parse(text).map(|ring| ring.with_derived(&ClusterKey::from_bytes([1; 32])))
    }

    fn line(name: &str, version: u32, byte: u8) -> String {
        format!("{name} {version} {}\n", hex::encode([byte; 32]))
    }

    fn named(key: &str, context: Option<&str>) -> Wanted {
        Wanted::Named { key: key.to_string(), context: context.map(str::to_string), bucket_key: false }
    }

    #[test]
    fn rings() {
        for (text, what) in [
            ("s3 1".to_string(), "NAME VERSION KEY"),
            (format!("{} now", line("s3", 1, 1).trim()), "NAME VERSION KEY"),
            (line("s3", 0, 1), "begin with 1"),
            (line("kéy", 1, 1), "the name"),
            ("s3 1 00".to_string(), "64 hex digits"),
            (format!("s3 -1 {}", "0".repeat(64)), "no number"),
            (line("k", 1, 1) + "# twice\n" + &line("k", 1, 2), "line 3: the version is there twice"),
            (format!("{} standby", line("k", 1, 1).trim()), "only versions that stand by"),
        ] {
            let error = ring(&text).err().unwrap().to_string();
            assert!(error.contains(what) && !error.contains("0101"), "{text}: {error}");
        }
        let told = format!("# nothing\n\n{} # for SSE-S3\n", line("s3", 1, 1).trim());
        assert!(ring("").is_ok() && ring(&told).is_ok());
    }

    #[test]
    fn names_of_clients() {
        let ring = ring(&(line("photos", 1, 1) + &line("alias/mail", 1, 2))).unwrap();
        for (named, found) in [
            (None, Some("alias/aws/s3")),
            (Some("alias/aws/s3"), Some("alias/aws/s3")),
            (Some("photos"), Some("photos")),
            (Some("alias/photos"), Some("photos")),
            (Some("alias/mail"), Some("alias/mail")),
            (Some("arn:aws:kms:us-east-1:000000000000:key/photos"), Some("photos")),
            (Some("arn:aws:kms:us-east-1:000000000000:alias/mail"), Some("alias/mail")),
            (Some("s3"), None),
            (Some("alias/s3"), None),
            (Some("nobody"), None),
            (Some(""), None),
            (Some("arn:aws"), None),
        ] {
            assert_eq!(ring.resolve(named).as_deref(), found, "{named:?}");
        }
    }

    #[test]
    fn a_new_version_seals_and_old_ones_open() {
        let env = SystemEnv::default();
        let mut sealed = Vec::new();
        let texts = ["", "s3 1 A", "s3 1 A\ns3 2 B standby", "s3 1 A\ns3 2 B"];
        let text = |text: &str| text.replace('A', &"aa".repeat(32)).replace('B', &"bb".repeat(32));
        for (place, version) in [(0, 0), (1, 1), (2, 1), (3, 2)] {
            let ring = ring(&text(texts[place])).unwrap();
            let (sealing, key) = ring.seal(&env, &Wanted::Store).unwrap();
            assert_eq!(sealing.scheme, Scheme::Store { version });
            sealed.push((sealing, key));
            for (sealing, key) in &sealed {
                assert_eq!(ring.open(sealing, None).unwrap().expose(), key.expose());
            }
        }
        // A gateway that has the new version standing by reads what others sealed already.
        let (newest, key) = sealed.last().unwrap();
        let standing_by = ring(&text(texts[2])).unwrap();
        assert_eq!(standing_by.open(newest, None).unwrap().expose(), key.expose());
        let without = ring(&text(texts[1])).unwrap();
        let missing = OpenError::NoMasterKey { name: "s3".to_string(), version: 2 };
        assert_eq!(without.open(newest, None).unwrap_err(), missing);
        let other = ring(&line("s3", 2, 0xCC)).unwrap();
        assert_eq!(other.open(newest, None).unwrap_err(), OpenError::Sealed);
    }

    #[test]
    fn what_is_bound_must_be_there() {
        let env = SystemEnv::default();
        let ring = ring(&(line("a", 1, 1) + &line("b", 1, 1))).unwrap();
        assert!(ring.seal(&env, &named("c", None)).is_none());
        let (sealing, _) = ring.seal(&env, &named("a", Some("{}"))).unwrap();
        assert!(ring.open(&sealing, None).is_ok());
        let scheme = |key: &str, context: Option<&str>| Scheme::Named {
            key: key.to_string(),
            version: 1,
            context: context.map(str::to_string),
            bucket_key: false,
        };
        for scheme in [scheme("b", Some("{}")), scheme("a", None), scheme("a", Some("{ }"))] {
            let other = Sealing { scheme, ..sealing.clone() };
            assert_eq!(ring.open(&other, None).unwrap_err(), OpenError::Sealed);
        }
        for cut in 0..sealing.data_key.len() {
            let cut = Sealing { data_key: sealing.data_key.slice(..cut), ..sealing.clone() };
            assert_eq!(ring.open(&cut, None).unwrap_err(), OpenError::Sealed);
        }
        assert!(sealing.is_bounded());
    }

    #[test]
    fn customers_open_what_is_theirs() {
        let env = SystemEnv::default();
        let ring = ring("").unwrap();
        let (mine, other) = (CustomerKey::from_bytes([5; 32]), CustomerKey::from_bytes([6; 32]));
        let (sealing, key) = ring.seal(&env, &Wanted::Customer(mine.clone())).unwrap();
        assert_eq!(ring.open(&sealing, Some(&mine)).unwrap().expose(), key.expose());
        assert_eq!(ring.open(&sealing, Some(&other)).unwrap_err(), OpenError::WrongCustomerKey);
        assert_eq!(ring.open(&sealing, None).unwrap_err(), OpenError::NoCustomerKey);
        let stored = sealing.encode();
        assert!(!stored.windows(8).any(|window| window == [5; 8]), "the key is not stored");
        let (again, _) = ring.seal(&env, &Wanted::Customer(mine.clone())).unwrap();
        assert_ne!(again.scheme, sealing.scheme, "nobody sees that two objects have one key");
        let rotten = Sealing { data_key: Bytes::from(vec![0; 64]), ..sealing };
        assert_eq!(ring.open(&rotten, Some(&mine)).unwrap_err(), OpenError::Sealed);
        assert_eq!(format!("{mine:?} {key:?}"), "CustomerKey(…) DataKey(…)");
    }

    /// Computed with another implementation.
    const GOLDEN: &str = "000102030405060708090a0b0c0d0e0f8ccb6185c053a4716c10ffc80312c7b94333a14eb156b4c13d6c07f30b171e5c45b3eeaaf73516a9e8b9b971d8f2f377";

    /// Stored: what is sealed today opens for ever.
    #[test]
    fn golden_sealing() {
        let ring = ring("").unwrap();
        let golden = Sealing {
            frames: Frames::Gcm,
            scheme: Scheme::Store { version: 0 },
            data_key: Bytes::from(hex::decode(GOLDEN).unwrap()),
        };
        assert_eq!(ring.open(&golden, None).unwrap().expose(), &[9; 32]);
    }
}
