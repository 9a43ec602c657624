//! The arithmetic of Signature Version 4: keys, signatures of requests, of chunks and of trailers.
//!
//! Signatures of clients are compared as 32 bytes in constant time; those that we compute for it never leave this process.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::s3::error::{Code, S3Result};
use crate::secrets::Secret;

/// SHA-256 of no bytes, in hex.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A key for one secret, date, region and service. Never printed.
#[derive(Clone)]
pub struct SigningKey([u8; 32]);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// Derives the key for service `s3`.
    pub fn derive(secret: &Secret, date: &str, region: &str) -> SigningKey {
        let start = format!("AWS4{}", secret.expose());
        let key = [date, region, "s3", "aws4_request"]
            .into_iter()
            .fold(start.into_bytes(), |key, part| mac(&key, part.as_bytes()).to_vec());
        SigningKey(key.try_into().expect("an HMAC-SHA256 has 32 bytes"))
    }

    /// From what another cluster derived; `None`: it is no key.
    pub fn from_hex(text: &str) -> Option<SigningKey> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(SigningKey(key))
    }

    /// For another cluster that acts for the user on this day.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The signature of this text, in hex.
    pub(in crate::s3) fn sign(&self, text: &str) -> String {
        hex::encode(mac(&self.0, text.as_bytes()))
    }

    /// Whether `claimed` (hex of the client) is the signature of this text. Constant time in the signature.
    pub(super) fn verifies(&self, text: &str, claimed: &Claimed) -> bool {
        mac(&self.0, text.as_bytes()).ct_eq(&claimed.0).into()
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("an HMAC takes keys of every length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// A signature that a client claims, 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claimed([u8; 32]);

impl Claimed {
    pub(super) fn parse(text: &str) -> Option<Claimed> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Claimed(bytes))
    }

    fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

/// What the signature says about the body. Matched exhaustively everywhere: a new mode must be thought through.
#[derive(Debug, Clone)]
pub enum PayloadAuth {
    /// The SHA-256 of the body is signed.
    Exact([u8; 32]),
    /// The body is not signed.
    Unsigned,
    /// `aws-chunked`, every chunk signed.
    SignedChunks(ChunkSigner),
    /// `aws-chunked`, every chunk and the trailer signed.
    SignedChunksTrailer(ChunkSigner),
    /// `aws-chunked` with a trailer, neither signed.
    UnsignedTrailer,
}

impl PayloadAuth {
    /// Whether the body is framed as `aws-chunked`.
    pub fn is_streaming(&self) -> bool {
        match self {
            PayloadAuth::Exact(_) | PayloadAuth::Unsigned => false,
            PayloadAuth::SignedChunks(_)
            | PayloadAuth::SignedChunksTrailer(_)
            | PayloadAuth::UnsignedTrailer => true,
        }
    }
}

/// Verifies the chain of signatures of chunks: each one signs the one before, so that chunks cannot be swapped,
/// dropped, repeated or taken from another request.
#[derive(Debug, Clone)]
pub struct ChunkSigner {
    key: SigningKey,
    /// `yyyymmddThhmmssZ` of the request.
    timestamp: String,
    /// Date, region, service and terminal.
    scope: String,
    previous: Claimed,
}

impl ChunkSigner {
    pub(super) fn new(key: SigningKey, timestamp: &str, scope: &str, seed: Claimed) -> ChunkSigner {
        ChunkSigner { key, timestamp: timestamp.to_string(), scope: scope.to_string(), previous: seed }
    }

    /// Checks the signature of the next chunk, whose bytes have this SHA-256.
    pub fn chunk(&mut self, claimed: &str, sha256: [u8; 32]) -> S3Result<()> {
        let digest = format!("{EMPTY_SHA256}\n{}", hex::encode(sha256));
        self.check("AWS4-HMAC-SHA256-PAYLOAD", claimed, &digest)
    }

    /// Checks the signature of the trailer, given as lines `name:value\n`.
    pub fn trailer(&mut self, claimed: &str, lines: &str) -> S3Result<()> {
        let digest = hex::encode(Sha256::digest(lines.as_bytes()));
        self.check("AWS4-HMAC-SHA256-TRAILER", claimed, &digest)
    }

    fn check(&mut self, algorithm: &str, claimed: &str, digest: &str) -> S3Result<()> {
        let claimed = Claimed::parse(claimed).ok_or(Code::SignatureDoesNotMatch)?;
        let previous = self.previous.hex();
        let text = format!("{algorithm}\n{}\n{}\n{previous}\n{digest}", self.timestamp, self.scope);
        if !self.key.verifies(&text, &claimed) {
            return Err(Code::SignatureDoesNotMatch.into());
        }
        self.previous = claimed;
        Ok(())
    }
}

#[cfg(test)]
impl ChunkSigner {
    /// A signer as [`super::verify`] makes it, for tests of the decoder.
    pub(crate) fn for_tests(secret: &str, timestamp: &str, region: &str, seed: [u8; 32]) -> ChunkSigner {
        let date = &timestamp[..8];
        let key = SigningKey::derive(&Secret::new(secret.to_string()), date, region);
        ChunkSigner::new(key, timestamp, &format!("{date}/{region}/s3/aws4_request"), Claimed(seed))
    }

    /// Signs the next chunk as a client does.
    pub(crate) fn sign_chunk(&mut self, bytes: &[u8]) -> String {
        let digest = format!("{EMPTY_SHA256}\n{}", hex::encode(Sha256::digest(bytes)));
        self.sign("AWS4-HMAC-SHA256-PAYLOAD", &digest)
    }

    /// Signs a trailer as a client does.
    pub(crate) fn sign_trailer(&mut self, lines: &str) -> String {
        let digest = hex::encode(Sha256::digest(lines.as_bytes()));
        self.sign("AWS4-HMAC-SHA256-TRAILER", &digest)
    }

    fn sign(&mut self, algorithm: &str, digest: &str) -> String {
        let previous = self.previous.hex();
        let text = format!("{algorithm}\n{}\n{}\n{previous}\n{digest}", self.timestamp, self.scope);
        self.previous = Claimed(mac(&self.key.0, text.as_bytes()));
        self.previous.hex()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The example of AWS's documentation of chunked uploads: 65 KiB of `a` in chunks of 64 KiB.
    #[test]
    fn aws_example_of_chunk_signatures() {
        let mut seed = [0; 32];
        let text = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        hex::decode_to_slice(text, &mut seed).unwrap();
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let mut signer = ChunkSigner::for_tests(secret, "20130524T000000Z", "us-east-1", seed);
        let sha256 = |bytes: usize| <[u8; 32]>::from(Sha256::digest(vec![b'a'; bytes]));
        for (claimed, bytes) in [
            ("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", 65_536),
            ("0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", 1024),
            ("b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", 0),
        ] {
            signer.clone().chunk(claimed, sha256(bytes + 1)).unwrap_err();
            signer.chunk(claimed, sha256(bytes)).unwrap();
        }
    }
}
