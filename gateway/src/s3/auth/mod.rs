//! Who asks: AWS Signature Version 4 in the `Authorization` header and in presigned queries, and version 2 in presigned
//! queries of us-east-1.
//!
//! [`Verified`] is the proof. Its only constructor is [`verify`], and nothing reaches an operation without one.

mod canonical;
mod claim;
mod header;
mod keys;
mod presigned;
mod presigned_v2;
mod signature;
#[cfg(test)]
pub(in crate::s3) mod tests;
mod verify;

pub use canonical::Unverified;
pub use claim::Carrier;
pub use keys::{Keys, SigningKeys};
pub use presigned::with_headers_of_query;
pub use signature::{ChunkSigner, EMPTY_SHA256, PayloadAuth, SigningKey};
pub use verify::{Claimed, Signer, Verified, Verifier, claimed, verify, verify_form};
