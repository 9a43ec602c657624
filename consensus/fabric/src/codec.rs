//! How values are stored and sent: one byte of format version, then postcard.
//!
//! A format is append-only: enum variants and struct fields are only added at the end, a change of meaning
//! takes a new version byte. Golden tests pin each one.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The bytes are not what this format says. From a disk or a peer it means rot or another version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("decode {what}: {why}")]
pub struct DecodeError {
    /// What was being decoded.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// Encodes `value` behind its format version.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let bytes = vec![version];
    postcard::to_extend(value, bytes).expect("serialising into memory cannot fail for our own types")
}

/// Decodes what [`encode`] wrote; `what` names it in the error. Trailing bytes are an error.
pub fn decode<T: DeserializeOwned>(version: u8, what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let fail = |why: String| DecodeError { what: what.to_string(), why };
    let Some((&found, rest)) = bytes.split_first() else {
        return Err(fail("no bytes".to_string()));
    };
    if found != version {
        return Err(fail(format!("format {found}, this release reads {version}")));
    }
    let (value, rest) = postcard::take_from_bytes(rest).map_err(|error| fail(error.to_string()))?;
    if !rest.is_empty() {
        return Err(fail(format!("{} bytes too many", rest.len())));
    }
    Ok(value)
}

/// [`encode`], with the CRC-32C of it behind: for small files.
pub fn encode_sealed<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = encode(version, value);
    bytes.extend_from_slice(&crc32c(&[&bytes]).to_le_bytes());
    bytes
}

/// Decodes what [`encode_sealed`] wrote.
pub fn decode_sealed<T: DeserializeOwned>(
    version: u8,
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    let rotten = || DecodeError { what: what.to_string(), why: "checksum".to_string() };
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(rotten)?;
    if crc32c(&[body]).to_le_bytes() != *sum {
        return Err(rotten());
    }
    decode(version, what, body)
}

/// CRC-32C over the parts, as one.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}
