//! The framing of `aws-chunked`: `size[;chunk-signature=…]` lines, data, and a trailer.
//!
//! Incremental and bounded: lines, trailers and sizes have limits, data passes through as it came. Whoever uses the
//! bytes waits for [`Decoded::End`] before they count.

use bytes::{Buf as _, Bytes, BytesMut};
use consensus::meta::model::ChecksumAlgorithm;
use fabric::limits::{AWS_CHUNK_BYTES_MIN, AWS_CHUNK_LINE_BYTES_MAX, AWS_TRAILER_BYTES_MAX};
use sha2::{Digest as _, Sha256};

use super::auth::ChunkSigner;
use super::checksum;
use super::error::{Code, S3Error, S3Result};

/// What the decoder has for its caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The next bytes of the object.
    Bytes(Bytes),
    /// Nothing before [`ChunkedDecoder::feed`] brings more.
    Hungry,
    /// The last chunk and the trailer were read and every signature matched. The checksum of the trailer.
    End(Option<Bytes>),
}

/// Decodes one body.
pub struct ChunkedDecoder {
    input: Bytes,
    /// A line that is not complete yet.
    line: BytesMut,
    state: State,
    /// Bytes of data that may still come by `x-amz-decoded-content-length`.
    left: u64,
    signer: Option<ChunkSigner>,
    /// The checksum that `x-amz-trailer` declared.
    declared: Option<ChecksumAlgorithm>,
    trailers: bool,
    /// Bytes of trailer lines so far.
    trailer_bytes: usize,
    found: Option<Bytes>,
    signed_lines: String,
    trailer_signature: Option<String>,
}

enum State {
    /// Before a line that introduces a chunk; the size of the chunk before it.
    Size {
        before: Option<u64>,
    },
    Data {
        chunk: Chunk,
        left: u64,
    },
    /// Before the CRLF that ends a chunk.
    DataEnd {
        chunk: Chunk,
    },
    Trailer,
    End,
}

struct Chunk {
    bytes: u64,
    signature: Option<String>,
    sha256: Option<Sha256>,
}

impl ChunkedDecoder {
    /// A decoder for `length` bytes of data. With a signer every chunk (and a trailer) must be signed.
    pub fn new(
        length: u64,
        signer: Option<ChunkSigner>,
        declared: Option<ChecksumAlgorithm>,
        trailers: bool,
    ) -> ChunkedDecoder {
        ChunkedDecoder {
            input: Bytes::new(),
            line: BytesMut::new(),
            state: State::Size { before: None },
            left: length,
            signer,
            declared,
            trailers,
            trailer_bytes: 0,
            found: None,
            signed_lines: String::new(),
            trailer_signature: None,
        }
    }

    /// Brings more. Only when [`Decoded::Hungry`] was returned.
    pub fn feed(&mut self, bytes: Bytes) {
        assert!(self.input.is_empty(), "bytes are fed only when all before were decoded");
        self.input = bytes;
    }

    /// Whether bytes are left that were not decoded.
    pub fn has_rest(&self) -> bool {
        !self.input.is_empty()
    }

    /// The next step.
    pub fn next(&mut self) -> S3Result<Decoded> {
        loop {
            match &mut self.state {
                State::Data { left: 0, .. } => self.data_ends(),
                State::Data { chunk, left } => {
                    if self.input.is_empty() {
                        return Ok(Decoded::Hungry);
                    }
                    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                    let data = self.input.split_to(bytes);
                    *left -= bytes as u64;
                    if let Some(sha256) = &mut chunk.sha256 {
                        sha256.update(&data);
                    }
                    return Ok(Decoded::Bytes(data));
                }
                State::End => return Ok(Decoded::End(self.found.clone())),
                State::Size { .. } | State::DataEnd { .. } | State::Trailer => match self.read_line()? {
                    None => return Ok(Decoded::Hungry),
                    Some(line) => self.take_line(&line)?,
                },
            }
        }
    }

    fn data_ends(&mut self) {
        if let State::Data { chunk, .. } = std::mem::replace(&mut self.state, State::End) {
            self.state = State::DataEnd { chunk };
        }
    }

    /// The next line without its CRLF, once it is complete.
    fn read_line(&mut self) -> S3Result<Option<Bytes>> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let bytes = end.map_or(self.input.len(), |end| end + 1);
        if self.line_bytes_max() < self.line.len() + bytes {
            return Err(self.line_too_long());
        }
        self.line.extend_from_slice(&self.input[..bytes]);
        self.input.advance(bytes);
        if end.is_none() {
            return Ok(None);
        }
        let line = self.line.split().freeze();
        match line.strip_suffix(b"\r\n") {
            Some(text) => Ok(Some(line.slice(..text.len()))),
            None => Err(Code::IncompleteBody.says("A line of the framing does not end with CR LF.")),
        }
    }

    fn line_bytes_max(&self) -> usize {
        match self.state {
            State::Trailer => AWS_TRAILER_BYTES_MAX - self.trailer_bytes.min(AWS_TRAILER_BYTES_MAX),
            // Only the CR LF itself may stand here.
            State::DataEnd { .. } => 2,
            State::Size { .. } | State::Data { .. } | State::End => AWS_CHUNK_LINE_BYTES_MAX,
        }
    }

    fn line_too_long(&self) -> S3Error {
        match self.state {
            State::Trailer => Code::MalformedTrailerError.into(),
            State::DataEnd { .. } => Code::IncompleteBody.into(),
            State::Size { .. } | State::Data { .. } | State::End => {
                Code::InvalidRequest.says("A chunk header is too long.")
            }
        }
    }

    fn take_line(&mut self, line: &[u8]) -> S3Result<()> {
        match std::mem::replace(&mut self.state, State::End) {
            State::Size { before } => self.begin_chunk(line, before),
            State::DataEnd { chunk } => {
                if !line.is_empty() {
                    return Err(Code::IncompleteBody.into());
                }
                self.end_chunk(chunk)
            }
            State::Trailer if line.is_empty() => self.end_trailer(),
            State::Trailer => {
                self.state = State::Trailer;
                self.trailer_bytes += line.len() + 2;
                self.take_trailer(line)
            }
            State::Data { .. } | State::End => Err(Code::IncompleteBody.into()),
        }
    }

    fn begin_chunk(&mut self, line: &[u8], before: Option<u64>) -> S3Result<()> {
        let (bytes, signature) = parse_chunk_line(line)?;
        if self.left < bytes {
            return Err(
                Code::IncompleteBody.says("The chunks have more bytes than x-amz-decoded-content-length.")
            );
        }
        self.left -= bytes;
        if bytes != 0 && before.is_some_and(|before| before < AWS_CHUNK_BYTES_MIN) {
            return Err(Code::InvalidChunkSizeError.into());
        }
        if self.signer.is_some() && signature.is_none() {
            return Err(Code::SignatureDoesNotMatch.says("A chunk has no signature."));
        }
        let sha256 = self.signer.is_some().then(Sha256::new);
        let chunk = Chunk { bytes, signature, sha256 };
        if bytes != 0 {
            self.state = State::Data { chunk, left: bytes };
            return Ok(());
        }
        self.verify_chunk(chunk)?;
        self.state = State::Trailer;
        Ok(())
    }

    fn end_chunk(&mut self, chunk: Chunk) -> S3Result<()> {
        self.state = State::Size { before: Some(chunk.bytes) };
        self.verify_chunk(chunk)
    }

    fn verify_chunk(&mut self, chunk: Chunk) -> S3Result<()> {
        let (Some(signer), Some(sha256)) = (&mut self.signer, chunk.sha256) else {
            return Ok(());
        };
        let signature = chunk.signature.ok_or(Code::SignatureDoesNotMatch)?;
        signer.chunk(&signature, sha256.finalize().into())
    }

    /// One line of the trailer: the declared checksum, or the signature of the trailer.
    fn take_trailer(&mut self, line: &[u8]) -> S3Result<()> {
        let malformed = || S3Error::from(Code::MalformedTrailerError);
        let text = std::str::from_utf8(line).map_err(|_| malformed())?;
        let (name, value) = text.split_once(':').ok_or_else(malformed)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !self.trailers {
            return Err(malformed());
        }
        if name == "x-amz-trailer-signature" && self.signer.is_some() {
            return match self.trailer_signature.replace(value.to_string()) {
                None => Ok(()),
                Some(_) => Err(malformed()),
            };
        }
        let Some(algorithm) = checksum::by_header(&name) else {
            return Err(malformed());
        };
        if self.found.is_some() {
            return Err(Code::InvalidRequest.says("Expecting a single x-amz-checksum- trailer."));
        }
        if self.declared != Some(algorithm) || self.trailer_signature.is_some() {
            return Err(malformed());
        }
        self.found = Some(checksum::decode(algorithm, value).ok_or_else(|| checksum::invalid_value(&name))?);
        self.signed_lines.push_str(&format!("{name}:{value}\n"));
        Ok(())
    }

    fn end_trailer(&mut self) -> S3Result<()> {
        if self.declared.is_some() && self.found.is_none() {
            return Err(Code::MalformedTrailerError.into());
        }
        let claimed = self.trailer_signature.take();
        // Nothing declared, nothing sent: there is no trailer to sign.
        if let Some(signer) = &mut self.signer
            && self.trailers
            && (self.declared.is_some() || claimed.is_some())
        {
            signer.trailer(&claimed.ok_or(Code::MalformedTrailerError)?, &self.signed_lines)?;
        }
        self.state = State::End;
        Ok(())
    }
}

/// `size` in hex, then extensions of which only `chunk-signature` means something.
fn parse_chunk_line(line: &[u8]) -> S3Result<(u64, Option<String>)> {
    let incomplete = || Code::IncompleteBody.says("A chunk header is malformed.");
    let text = std::str::from_utf8(line).map_err(|_| incomplete())?;
    let (size, extensions) = text.split_once(';').unwrap_or((text, ""));
    if !(1..=16).contains(&size.len()) || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(incomplete());
    }
    let bytes = u64::from_str_radix(size, 16).map_err(|_| incomplete())?;
    let mut signatures =
        extensions.split(';').filter_map(|extension| extension.strip_prefix("chunk-signature="));
    let signature = signatures.next().map(str::to_string);
    if signatures.next().is_some() {
        return Err(incomplete());
    }
    Ok((bytes, signature))
}
