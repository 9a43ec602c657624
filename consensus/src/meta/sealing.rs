//! How the bytes of a body are encrypted: what is stored of it, and how long encrypted bytes are.
//!
//! Metadata and disks hold encrypted bytes and sealed data keys and nothing that opens them: master keys are known to
//! gateways alone, the keys of customers to their clients. A body is cut into frames, each encrypted and authenticated for
//! itself, so that a range is read without the rest. Lengths are a matter of arithmetic: from each of the two the other
//! one follows.

use bytes::Bytes;
use fabric::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

use super::model::Body;

/// Bytes of a body in each frame but the last, which has at least one.
pub const FRAME_BYTES: u64 = FRAME_SEALED_BYTES - FRAME_TAG_BYTES;
/// Bytes of such a frame where it is stored. Chunks hold a whole number of them.
pub const FRAME_SEALED_BYTES: u64 = 64 << 10;
/// What proves a frame, behind it.
pub const FRAME_TAG_BYTES: u64 = 16;

/// Bytes of the name of a master key, at most.
pub const KEY_NAME_BYTES_MAX: usize = 256;
/// Bytes of an encryption context, at most.
pub const CONTEXT_BYTES_MAX: usize = 2048;
/// Bytes of a sealed data key, at most.
pub const SEALED_KEY_BYTES_MAX: usize = 128;

/// Version of [`Sealing`] where it stands alone.
const FORMAT: u8 = 1;

/// How a body is encrypted, and its data key, which only a master key or its customer's key opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// How its bytes are cut and encrypted.
    pub frames: Frames,
    /// Which key opens the data key.
    pub scheme: Scheme,
    /// The data key, sealed.
    pub data_key: Bytes,
}

/// How bytes are cut and encrypted. The order is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frames {
    /// AES-256-GCM over [`FRAME_BYTES`] at a time, each with its tag behind it. The nonce is seven zeros, the number of
    /// the frame and whether it is the last one. A body that was written as one is encrypted under the data key, a part
    /// of an upload under a key of its own that follows from the data key and the name of its extent.
    Gcm,
}

/// Which key opens a data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// SSE-S3: the master key of the store, in this version.
    Store {
        /// Of the master key; 0 follows from the cluster key.
        version: u32,
    },
    /// SSE-KMS: a master key by name.
    Named {
        /// Its name.
        key: String,
        /// Its version; 0 follows from the cluster key.
        version: u32,
        /// What the client bound to it: a JSON document of texts, sealed together with the data key.
        context: Option<String>,
        /// Whether the client wants to hear that a key of the bucket was used, as S3 says it.
        bucket_key: bool,
    },
    /// SSE-C: the key that the client sends with every request. It is stored nowhere.
    Customer {
        /// Drawn for this body.
        salt: [u8; 16],
        /// HMAC of the salt under the key: tells a wrong key from rot.
        proof: [u8; 32],
    },
}

impl Sealing {
    /// Bytes on disk of a body of so many.
    pub fn sealed_bytes(&self, bytes: u64) -> u64 {
        match self.frames {
            Frames::Gcm => sealed_bytes(bytes),
        }
    }

    /// Bytes of a body that has so many on disk; `None`: no body has.
    pub fn plain_bytes(&self, sealed: u64) -> Option<u64> {
        match self.frames {
            Frames::Gcm => plain_bytes(sealed),
        }
    }

    /// Whether its texts have the sizes that rows are made for.
    pub fn is_bounded(&self) -> bool {
        let texts = match &self.scheme {
            Scheme::Named { key, context, .. } => {
                key.len() <= KEY_NAME_BYTES_MAX
                    && context.as_ref().is_none_or(|context| context.len() <= CONTEXT_BYTES_MAX)
            }
            Scheme::Store { .. } | Scheme::Customer { .. } => true,
        };
        texts && self.data_key.len() <= SEALED_KEY_BYTES_MAX
    }

    /// As it stands with the first chunk of an extent.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// The inverse of [`Sealing::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Sealing, DecodeError> {
        codec::decode(FORMAT, "sealing", bytes)
    }
}

/// A body that is encrypted like this, where there is a sealing.
pub fn sealed(sealing: Option<Sealing>, body: Body) -> Body {
    match sealing {
        Some(sealing) => Body::Sealed { sealing, body: Box::new(body) },
        None => body,
    }
}

/// See [`Sealing::sealed_bytes`].
pub const fn sealed_bytes(bytes: u64) -> u64 {
    bytes + bytes.div_ceil(FRAME_BYTES) * FRAME_TAG_BYTES
}

/// See [`Sealing::plain_bytes`].
pub const fn plain_bytes(sealed: u64) -> Option<u64> {
    let last = sealed % FRAME_SEALED_BYTES;
    if 0 < last && last <= FRAME_TAG_BYTES {
        return None;
    }
    Some(sealed - sealed.div_ceil(FRAME_SEALED_BYTES) * FRAME_TAG_BYTES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::limits::CHUNK_BYTES;

    use super::*;

    #[test]
    fn each_length_follows_from_the_other() {
        for (plain, sealed) in [
            (0, 0),
            (1, 17),
            (65_520, 65_536),
            (65_521, 65_553),
            (131_040, 131_072),
            (5 << 30, 5_370_020_176),
        ] {
            assert_eq!((sealed_bytes(plain), plain_bytes(sealed)), (sealed, Some(plain)));
        }
        for none in [1, 16, 65_537, 65_552] {
            assert_eq!(plain_bytes(none), None, "{none}");
        }
        assert_eq!(CHUNK_BYTES as u64 % FRAME_SEALED_BYTES, 0);
    }

    #[test]
    fn golden_bytes() {
        let store = Sealing {
            frames: Frames::Gcm,
            scheme: Scheme::Store { version: 300 },
            data_key: Bytes::from_static(b"key"),
        };
        let named = Scheme::Named {
            key: "k".to_string(),
            version: 1,
            context: Some("{}".to_string()),
            bucket_key: true,
        };
        let named = Sealing { scheme: named, ..store.clone() };
        let customer = Scheme::Customer { salt: [0x11; 16], proof: [0x22; 32] };
        let customer = Sealing { scheme: customer, ..store.clone() };
        for (sealing, expected) in [
            (store, "010000ac02036b6579".to_string()),
            (named, "010001016b0101027b7d01036b6579".to_string()),
            (customer, format!("010002{}{}036b6579", "11".repeat(16), "22".repeat(32))),
        ] {
            assert_eq!(hex::encode(sealing.encode()), expected);
            assert_eq!(Sealing::decode(&sealing.encode()).unwrap(), sealing);
        }
        assert!(Sealing::decode(b"\x01\x00").is_err());
    }
}
