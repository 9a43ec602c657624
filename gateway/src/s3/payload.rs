//! The body of a request, decoded and verified while it streams.
//!
//! [`Payload::next`] returns `None` only after every length, digest, checksum and signature matched; an object is
//! committed after that and not before. Framing never reaches an object, a trailer never becomes a header, and no
//! more than one frame of the connection is held.

use bytes::{Bytes, BytesMut};
use consensus::meta::model::{Checksum, ChecksumAlgorithm};
use fabric::limits::PUT_BYTES_MAX;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::auth::PayloadAuth;
use super::checksum::{self, Hasher};
use super::chunked::{ChunkedDecoder, Decoded};
use super::error::{BoxError, Code, S3Error, S3Result};
use super::op::BodyRule;
use super::request::header_text;
use crate::http::BodyError;

/// The body as the connection gives it.
pub type RawBody = UnsyncBoxBody<Bytes, BoxError>;

/// What a complete body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// MD5 of the bytes: the ETag of a single PUT.
    pub md5: [u8; 16],
    /// Bytes, decoded.
    pub bytes: u64,
    /// The checksum that the client named, else the default.
    pub checksum: Checksum,
}

/// A body that is still to come.
pub struct Payload {
    body: RawBody,
    framing: Framing,
    /// Bytes after decoding, where they are known.
    length: Option<u64>,
    received: u64,
    signed_sha256: Option<(Sha256, [u8; 32])>,
    md5: Md5,
    content_md5: Option<[u8; 16]>,
    expected: Expected,
    hasher: Hasher,
    state: State,
}

enum Framing {
    Identity,
    Chunked(Box<ChunkedDecoder>),
}

/// Which checksum the client named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    /// None: one may be chosen for it.
    Nothing,
    /// The value came in a header.
    Value(Bytes),
    /// The value comes in the trailer.
    Trailer,
}

enum State {
    Open,
    Complete(Digests),
    /// An error of this code was returned; the body cannot be completed any more.
    Broken(Code),
}

impl Payload {
    /// Plans the body from the headers. Everything that can be refused before the first byte is refused here.
    pub fn new(body: RawBody, headers: &HeaderMap, rule: BodyRule, auth: PayloadAuth) -> S3Result<Payload> {
        if auth.is_streaming() && rule != BodyRule::Object {
            return Err(
                Code::InvalidRequest.says("The streaming payload modes are not allowed on this operation.")
            );
        }
        let length = body_length(headers, rule, &auth)?;
        let (expected, algorithm) = announced_checksum(headers, rule, &auth)?;
        let declared = (expected == Expected::Trailer).then_some(algorithm);
        let (framing, signed_sha256) = match auth {
            PayloadAuth::Exact(sha256) => (Framing::Identity, Some((Sha256::new(), sha256))),
            PayloadAuth::Unsigned => (Framing::Identity, None),
            PayloadAuth::SignedChunks(signer) => (chunked(length, Some(signer), None, false), None),
            PayloadAuth::SignedChunksTrailer(signer) => (chunked(length, Some(signer), declared, true), None),
            PayloadAuth::UnsignedTrailer => (chunked(length, None, declared, true), None),
        };
        Ok(Payload {
            body,
            framing,
            length,
            received: 0,
            signed_sha256,
            md5: Md5::new(),
            content_md5: content_md5(headers)?,
            expected,
            hasher: Hasher::new(algorithm),
            state: State::Open,
        })
    }

    /// Bytes after decoding, if the client announced them.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The algorithm of the checksum that will be computed.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.hasher.algorithm()
    }

    /// Whether the client itself named a checksum (in a header or trailer).
    pub fn names_checksum(&self) -> bool {
        self.expected != Expected::Nothing
    }

    /// Whether the client sent anything that proves the body: Content-MD5 or a checksum.
    pub fn has_integrity(&self) -> bool {
        self.content_md5.is_some() || self.names_checksum()
    }

    /// Chooses the algorithm for a body whose client named none; the default is CRC64NVME. Before the first byte.
    pub fn prefer(&mut self, algorithm: ChecksumAlgorithm) {
        assert!(self.received == 0, "the algorithm is chosen before the first byte");
        if self.expected == Expected::Nothing {
            self.hasher = Hasher::new(algorithm);
        }
    }

    /// The next bytes, never empty; `None` once everything arrived and everything matched.
    pub async fn next(&mut self) -> S3Result<Option<Bytes>> {
        match self.state {
            State::Open => {}
            State::Complete(_) => return Ok(None),
            State::Broken(code) => return Err(code.into()),
        }
        // A dropped or failed call leaves a body that can never count as complete.
        let outcome = self.advance().await;
        if let Err(error) = &outcome {
            self.state = State::Broken(error.code());
        }
        outcome
    }

    /// What the body turned out to be, once [`Payload::next`] returned `None`.
    pub fn digests(&self) -> Option<&Digests> {
        match &self.state {
            State::Complete(digests) => Some(digests),
            State::Open | State::Broken(_) => None,
        }
    }

    /// The whole body, verified; more than `bytes_max` is refused.
    pub async fn collect(&mut self, bytes_max: usize) -> S3Result<Bytes> {
        let too_long = || {
            S3Error::from(Code::MaxMessageLengthExceeded)
                .field("MaxMessageLengthBytes", bytes_max.to_string())
        };
        if self.length.is_some_and(|length| (bytes_max as u64) < length) {
            return Err(too_long());
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if bytes_max - whole.len() < bytes.len() {
                return Err(too_long());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    async fn advance(&mut self) -> S3Result<Option<Bytes>> {
        loop {
            let bytes = match &mut self.framing {
                Framing::Identity => match data(&mut self.body).await? {
                    Some(bytes) => bytes,
                    None => return self.complete(None).map(|()| None),
                },
                Framing::Chunked(decoder) => match decoder.next()? {
                    Decoded::Bytes(bytes) => bytes,
                    Decoded::Hungry => {
                        match data(&mut self.body).await? {
                            Some(bytes) => decoder.feed(bytes),
                            None => return Err(Code::IncompleteBody.into()),
                        }
                        continue;
                    }
                    Decoded::End(trailer) => {
                        // Bytes after the end are no part of any object: refused.
                        if decoder.has_rest() || data(&mut self.body).await?.is_some() {
                            return Err(Code::IncompleteBody.says("There are bytes after the last chunk."));
                        }
                        return self.complete(trailer).map(|()| None);
                    }
                },
            };
            if !bytes.is_empty() {
                self.take(&bytes)?;
                return Ok(Some(bytes));
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> S3Result<()> {
        self.received += bytes.len() as u64;
        if self.length.is_some_and(|length| length < self.received) {
            return Err(Code::IncompleteBody.into());
        }
        if PUT_BYTES_MAX < self.received {
            return Err(Code::EntityTooLarge.into());
        }
        if let Some((sha256, _)) = &mut self.signed_sha256 {
            sha256.update(bytes);
        }
        self.md5.update(bytes);
        self.hasher.update(bytes);
        Ok(())
    }

    /// Everything arrived: does everything match?
    fn complete(&mut self, trailer: Option<Bytes>) -> S3Result<()> {
        if self.length.is_some_and(|length| length != self.received) {
            return Err(Code::IncompleteBody.into());
        }
        if let Some((sha256, signed)) = self.signed_sha256.take()
            && <[u8; 32]>::from(sha256.finalize()) != signed
        {
            return Err(Code::XAmzContentSHA256Mismatch.into());
        }
        let md5: [u8; 16] = std::mem::take(&mut self.md5).finalize().into();
        if self.content_md5.is_some_and(|expected| expected != md5) {
            return Err(Code::BadDigest.says("The Content-MD5 you specified did not match what we received."));
        }
        let algorithm = self.hasher.algorithm();
        let checksum = std::mem::replace(&mut self.hasher, Hasher::new(algorithm)).finish();
        let expected = match &self.expected {
            Expected::Nothing => None,
            Expected::Value(value) => Some(value.clone()),
            Expected::Trailer => Some(trailer.ok_or(Code::MalformedTrailerError)?),
        };
        if expected.is_some_and(|expected| expected != checksum.value) {
            let name = checksum::name(algorithm);
            return Err(Code::BadDigest
                .says(format!("The {name} you specified did not match the calculated checksum.")));
        }
        self.state = State::Complete(Digests { md5, bytes: self.received, checksum });
        Ok(())
    }
}

fn chunked(
    length: Option<u64>,
    signer: Option<super::auth::ChunkSigner>,
    declared: Option<ChecksumAlgorithm>,
    trailers: bool,
) -> Framing {
    Framing::Chunked(Box::new(ChunkedDecoder::new(length.unwrap_or(0), signer, declared, trailers)))
}

/// The next data of the connection; `None` at the end.
async fn data(body: &mut RawBody) -> S3Result<Option<Bytes>> {
    loop {
        let frame = match body.frame().await {
            None => return Ok(None),
            Some(Err(cause)) => return Err(broken(cause)),
            Some(Ok(frame)) => frame,
        };
        // Trailers of the connection mean nothing here: only those inside `aws-chunked` do.
        let bytes = frame.into_data().unwrap_or_default();
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
    }
}

/// The connection keeps the minimum rate, and says so when the client did not.
pub(super) fn broken(cause: BoxError) -> S3Error {
    let cause = match cause.downcast::<S3Error>() {
        Ok(error) => return *error, // A form that breaks off says why.
        Err(cause) => cause,
    };
    match cause.downcast_ref::<BodyError>() {
        Some(BodyError::TooSlow) => Code::RequestTimeout.into(),
        Some(BodyError::Broken(_)) | None => Code::IncompleteBody.caused(cause),
    }
}

/// Bytes of the body after decoding.
fn body_length(headers: &HeaderMap, rule: BodyRule, auth: &PayloadAuth) -> S3Result<Option<u64>> {
    let header = if auth.is_streaming() { "x-amz-decoded-content-length" } else { "content-length" };
    if 1 < headers.get_all(header).iter().count() {
        return Err(S3Error::argument(header, "", "The header is given more than once."));
    }
    let Some(text) = header_text(headers, header)? else {
        let needed = auth.is_streaming() || rule == BodyRule::Object;
        return if needed { Err(Code::MissingContentLength.into()) } else { Ok(None) };
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = match text.parse::<u64>() {
        Ok(length) if digits => length,
        _ => return Err(S3Error::argument(header, text, "The length is not a number.")),
    };
    if rule == BodyRule::Object && PUT_BYTES_MAX < length {
        return Err(S3Error::from(Code::EntityTooLarge)
            .field("ProposedSize", length.to_string())
            .field("MaxSizeAllowed", PUT_BYTES_MAX.to_string()));
    }
    Ok(Some(length))
}

/// The checksum that the headers announce, and the algorithm to compute.
fn announced_checksum(
    headers: &HeaderMap,
    rule: BodyRule,
    auth: &PayloadAuth,
) -> S3Result<(Expected, ChecksumAlgorithm)> {
    let default = (Expected::Nothing, ChecksumAlgorithm::Crc64Nvme);
    if rule == BodyRule::DocumentAboutObject {
        return Ok(default);
    }
    let header = checksum::from_headers(headers)?;
    let trailer = declared_trailer(headers, auth)?;
    let named = checksum::algorithm_header(headers, "x-amz-sdk-checksum-algorithm")?;
    let found = match (header, trailer) {
        (Some(_), Some(_)) => {
            return Err(Code::InvalidRequest.says("Expecting a single x-amz-checksum- header."));
        }
        (Some((algorithm, value)), None) => Some((Expected::Value(value), algorithm)),
        (None, Some(algorithm)) => Some((Expected::Trailer, algorithm)),
        (None, None) => None,
    };
    match (found, named) {
        (Some((_, algorithm)), Some(named)) if algorithm != named => {
            Err(Code::InvalidRequest.says("Value for x-amz-sdk-checksum-algorithm header is invalid."))
        }
        (None, Some(_)) if rule != BodyRule::None => Err(Code::InvalidRequest.says(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
        )),
        (Some(found), _) => Ok(found),
        (None, _) => Ok(default),
    }
}

/// The one checksum that `x-amz-trailer` declares.
fn declared_trailer(headers: &HeaderMap, auth: &PayloadAuth) -> S3Result<Option<ChecksumAlgorithm>> {
    let Some(text) = header_text(headers, "x-amz-trailer")? else {
        return Ok(None);
    };
    let invalid =
        || Code::InvalidRequest.says("The value specified in the x-amz-trailer header is not supported");
    match auth {
        PayloadAuth::SignedChunksTrailer(_) | PayloadAuth::UnsignedTrailer => {}
        PayloadAuth::Exact(_) | PayloadAuth::Unsigned | PayloadAuth::SignedChunks(_) => return Err(invalid()),
    }
    let mut names = text.split(',').map(str::trim);
    if text.contains(',') {
        // What is no checksum never comes in a trailer, least of all something that means power elsewhere.
        return Err(match names.all(|name| name.to_ascii_lowercase().starts_with("x-amz-checksum-")) {
            true => Code::InvalidRequest
                .says("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."),
            false => Code::MalformedTrailerError.into(),
        });
    }
    checksum::by_header(text).map(Some).ok_or_else(invalid)
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(text) = header_text(headers, "content-md5")? else {
        return Ok(None);
    };
    let value = checksum::decode(ChecksumAlgorithm::Md5, text).ok_or(Code::InvalidDigest)?;
    Ok(Some(value[..].try_into().map_err(|_| Code::InvalidDigest)?))
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
