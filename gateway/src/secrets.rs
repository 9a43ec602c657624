//! Secrets of users: drawn, checked, sealed under the cluster key.
//!
//! What always holds: a secret is never in a log, a panic or the metadata in plain text; a sealed secret opens only
//! under the cluster key it was sealed with and only for the access key id it belongs to.

use std::fmt;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use bytes::Bytes;
use consensus::meta::names::AccessKeyId;
use fabric::env::Env;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Characters of a secret that a person chose, at least.
pub const SECRET_CHARS_MIN: usize = 16;
/// And at most.
pub const SECRET_CHARS_MAX: usize = 128;
const ACCESS_KEY_CHARS: usize = 20;
const SECRET_CHARS: usize = 40;

/// Version of the sealed form: version, nonce (12), ciphertext with tag. Stored: append only.
const SEALED_VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

/// A secret access key or token. Its `Debug` shows nothing, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a text is no secret, or a sealed one does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Chosen too short or too long.
    #[error("a secret has {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters")]
    Length,
    /// Blanks, control or non-ASCII characters.
    #[error("a secret consists of visible ASCII characters")]
    Characters,
    /// The key is not 64 hex digits.
    #[error("the cluster key is not 64 hex digits")]
    Key,
    /// Another cluster key, another access key id, or rot.
    #[error("a sealed secret does not open under the cluster key of this store")]
    Sealed,
}

impl Secret {
    /// A text as it is, unchecked: for signing only.
    pub(crate) fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Checks a secret that a person chose.
    pub fn chosen(text: &str) -> Result<Secret, SecretError> {
        if !(SECRET_CHARS_MIN..=SECRET_CHARS_MAX).contains(&text.len()) {
            return Err(SecretError::Length);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Characters);
        }
        Ok(Secret(text.to_string()))
    }

    /// Draws a secret: 40 letters and digits.
    pub fn draw(env: &dyn Env) -> Secret {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        Secret(draw_text(env, ALPHABET, SECRET_CHARS))
    }

    /// The text, for signing and for the one place that shows it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Draws an access key id: 20 capitals and digits.
pub fn draw_access_key(env: &dyn Env) -> AccessKeyId {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let text = format!("FL{}", draw_text(env, ALPHABET, ACCESS_KEY_CHARS - 2));
    AccessKeyId::try_from(text).expect("capitals and digits are an access key id")
}

/// Characters drawn evenly: bytes beyond the last whole multiple of the alphabet are thrown away.
fn draw_text(env: &dyn Env, alphabet: &[u8], chars: usize) -> String {
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let mut bytes = [0; 64];
        env.random(&mut bytes);
        let drawn = bytes.iter().filter(|&&byte| usize::from(byte) < fair);
        text.extend(
            drawn
                .map(|&byte| char::from(alphabet[usize::from(byte) % alphabet.len()]))
                .take(chars - text.len()),
        );
    }
    text
}

/// The key under which the secrets of a cluster are sealed. Kept outside the log.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A new one.
    pub fn draw(env: &dyn Env) -> ClusterKey {
        let mut key = [0; 32];
        env.random(&mut key);
        ClusterKey(key)
    }

    /// From its bytes.
    pub fn from_bytes(key: [u8; 32]) -> ClusterKey {
        ClusterKey(key)
    }

    /// From the text of a key file: 64 hex digits.
    pub fn from_hex(text: &str) -> Result<ClusterKey, SecretError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| SecretError::Key)?;
        Ok(ClusterKey(key))
    }

    /// The text for a key file.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// A key for another purpose, which `label` names; the label is stored, in a way: it never changes.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC takes keys of every length");
        mac.update(label.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Seals the secret of an access key.
    pub fn seal(&self, env: &dyn Env, id: &AccessKeyId, secret: &Secret) -> Bytes {
        self.seal_bytes(env, id.as_str(), secret.0.as_bytes())
    }

    /// Seals something secret; what it belongs to opens it again.
    pub fn seal_bytes(&self, env: &dyn Env, of: &str, secret: &[u8]) -> Bytes {
        let mut nonce = [0; NONCE_BYTES];
        env.random(&mut nonce);
        let payload = Payload { msg: secret, aad: of.as_bytes() };
        let sealed = Aes256Gcm::new(&self.0.into())
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a secret is shorter than the 64 GiB that GCM can seal");
        let mut bytes = vec![SEALED_VERSION];
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Bytes::from(bytes)
    }

    /// Opens what [`ClusterKey::seal`] sealed for the same id.
    pub fn open(&self, id: &AccessKeyId, sealed: &[u8]) -> Result<Secret, SecretError> {
        let opened = self.open_bytes(id.as_str(), sealed)?;
        String::from_utf8(opened).map(Secret).map_err(|_| SecretError::Sealed)
    }

    /// Opens what [`ClusterKey::seal_bytes`] sealed for the same.
    pub fn open_bytes(&self, of: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let (&version, rest) = sealed.split_first().ok_or(SecretError::Sealed)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SecretError::Sealed)?;
        if version != SEALED_VERSION {
            return Err(SecretError::Sealed);
        }
        let payload = Payload { msg: text, aad: of.as_bytes() };
        Aes256Gcm::new(&self.0.into()).decrypt(&Nonce::from(*nonce), payload).map_err(|_| SecretError::Sealed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::env::system::SystemEnv;

    use super::*;

    #[test]
    fn a_secret_opens_under_its_key_and_id_only() {
        let env = SystemEnv::default();
        let (key, id, secret) = (ClusterKey::draw(&env), draw_access_key(&env), Secret::draw(&env));
        let sealed = key.seal(&env, &id, &secret);
        assert!(key.open(&id, &sealed).unwrap() == secret);
        assert_ne!(sealed, key.seal(&env, &id, &secret), "every nonce is new");
        assert!(!sealed.windows(8).any(|window| secret.expose().as_bytes().starts_with(window)));

        let copy = ClusterKey::from_hex(&key.to_hex()).unwrap();
        assert!(copy.open(&id, &sealed).is_ok());
        assert_eq!(key.open(&draw_access_key(&env), &sealed).err(), Some(SecretError::Sealed));
        assert_eq!(ClusterKey::draw(&env).open(&id, &sealed).err(), Some(SecretError::Sealed));
        for cut in 0..sealed.len() {
            assert_eq!(key.open(&id, &sealed[..cut]).err(), Some(SecretError::Sealed));
        }
    }

    #[test]
    fn drawn_and_chosen_secrets() {
        let env = SystemEnv::default();
        assert_eq!((draw_access_key(&env).as_str().len(), Secret::draw(&env).expose().len()), (20, 40));
        for (text, expected) in [
            ("0123456789abcdef", None),
            ("0123456789abcde", Some(SecretError::Length)),
            ("", Some(SecretError::Length)),
            ("0123456789 abcdef", Some(SecretError::Characters)),
            ("0123456789abcdéf", Some(SecretError::Characters)),
        ] {
            assert_eq!(Secret::chosen(text).err(), expected, "{text:?}");
        }
        assert_eq!(format!("{:?}", Secret::draw(&env)), "Secret(…)");
        assert_eq!(ClusterKey::from_hex("00").err(), Some(SecretError::Key));
    }
}
