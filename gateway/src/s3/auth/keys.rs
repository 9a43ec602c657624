//! Secrets of users and the signing keys derived from them.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use consensus::meta::names::{AccessKeyId, UserName};
use lru::LruCache;
use sha2::Digest as _;

use super::signature::SigningKey;
use crate::s3::error::S3Result;
use crate::secrets::Secret;

/// Where secrets come from. A key of a removed user is gone within five seconds on every gateway.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// The user of this key and its secret; `None` where there is no such key.
    async fn secret(&self, id: &AccessKeyId) -> S3Result<Option<(UserName, Secret)>>;

    /// The user of a key of another cluster, and what its home derived for this date and region. `None` where nobody
    /// knows the key.
    async fn of_others(
        &self,
        _id: &AccessKeyId,
        _date: &str,
        _region: &str,
    ) -> S3Result<Option<(UserName, SigningKey)>> {
        Ok(None)
    }
}

/// Derived keys kept at most. One is used for a day by one access key.
const SIGNING_KEYS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// Signing keys by what they were derived from: four HMACs saved a request.
///
/// The secret is a part of what is looked up (as a hash), so a rotated secret can never meet the old key.
pub struct SigningKeys {
    derived: Mutex<LruCache<[u8; 32], SigningKey>>,
}

impl Default for SigningKeys {
    fn default() -> SigningKeys {
        SigningKeys { derived: Mutex::new(LruCache::new(SIGNING_KEYS_MAX)) }
    }
}

impl SigningKeys {
    /// The signing key of this secret for this date (`yyyymmdd`) and region.
    pub fn get(&self, secret: &Secret, date: &str, region: &str) -> SigningKey {
        let mut hash = sha2::Sha256::new();
        for part in [secret.expose(), date, region] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let id: [u8; 32] = hash.finalize().into();
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = derived.get(&id) {
            metrics::counter!("fluffy_signing_key_hits_total").increment(1);
            return key.clone();
        }
        metrics::counter!("fluffy_signing_key_misses_total").increment(1);
        derived.get_or_insert(id, || SigningKey::derive(secret, date, region)).clone()
    }
}
