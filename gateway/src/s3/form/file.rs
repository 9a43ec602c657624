//! The file of a form, as a stream up to the delimiter behind it.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use futures::stream::try_unfold;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::fields::malformed;
use crate::s3::error::{BoxError, Code, S3Error, S3Result};
use crate::s3::payload::{RawBody, broken};

/// Fields behind the file are passed over; there is no more of them.
const REST_BYTES_MAX: usize = 20 * 1024;

/// A file that is still to come.
pub(super) struct File {
    body: RawBody,
    buffer: BytesMut,
    /// Line end, two hyphens and the boundary.
    delimiter: Vec<u8>,
    passed: u64,
    bytes: RangeInclusive<u64>,
}

impl File {
    /// What follows the fields: the buffer first, then the rest of the body.
    pub fn new(body: RawBody, buffer: BytesMut, delimiter: Vec<u8>) -> File {
        File { body, buffer, delimiter, passed: 0, bytes: 0..=u64::MAX }
    }

    /// Only so many bytes.
    pub fn limit(&mut self, bytes: RangeInclusive<u64>) {
        self.bytes = bytes;
    }

    /// The file as a body. It ends cleanly only behind its delimiter, with as many bytes as it may have.
    pub fn into_body(self) -> RawBody {
        let frames = try_unfold(self, |mut file| async move {
            match file.next().await {
                Ok(Some(bytes)) => Ok(Some((Frame::data(bytes), file))),
                Ok(None) => Ok(None),
                Err(error) => Err(Box::new(error) as BoxError),
            }
        });
        BodyExt::boxed_unsync(StreamBody::new(frames))
    }

    async fn next(&mut self) -> S3Result<Option<Bytes>> {
        loop {
            let (ready, ends) = match find(&self.buffer, &self.delimiter) {
                Some(at) => (at, true),
                // What may be the start of the delimiter waits for more.
                None => ((self.buffer.len() + 1).saturating_sub(self.delimiter.len()), false),
            };
            if 0 < ready {
                self.passed += ready as u64;
                if *self.bytes.end() < self.passed {
                    return Err(size(Code::EntityTooLarge, self.passed, *self.bytes.end()));
                }
                return Ok(Some(self.buffer.split_to(ready).freeze()));
            }
            if ends {
                return self.end().await.map(|()| None);
            }
            self.more().await?;
        }
    }

    /// Behind the file.
    async fn end(&mut self) -> S3Result<()> {
        if self.passed < *self.bytes.start() {
            return Err(size(Code::EntityTooSmall, self.passed, *self.bytes.start()));
        }
        let mut rest = self.buffer.split_off(self.delimiter.len());
        while let Some(frame) = self.body.frame().await {
            rest.extend_from_slice(&frame.map_err(broken)?.into_data().unwrap_or_default());
            if REST_BYTES_MAX < rest.len() {
                return Err(malformed());
            }
        }
        let last = [&self.delimiter[..], b"--"].concat();
        if !rest.starts_with(b"--") && find(&rest, &last).is_none() {
            return Err(malformed());
        }
        let text = String::from_utf8_lossy(&rest).to_ascii_lowercase();
        if text.contains("name=\"file\"") || text.contains("name=file\r") {
            return Err(Code::IncorrectNumberOfFilesInPostRequest.into());
        }
        Ok(())
    }

    async fn more(&mut self) -> S3Result<()> {
        read_more(&mut self.body, &mut self.buffer).await
    }
}

/// Reads one more piece of a form, which does not end here.
pub(super) async fn read_more(body: &mut RawBody, buffer: &mut BytesMut) -> S3Result<()> {
    match body.frame().await {
        None => Err(malformed()),
        Some(Err(cause)) => Err(broken(cause)),
        Some(Ok(frame)) => {
            buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
            Ok(())
        }
    }
}

fn size(code: Code, proposed: u64, limit: u64) -> S3Error {
    let name = if code == Code::EntityTooLarge { "MaxSizeAllowed" } else { "MinSizeAllowed" };
    S3Error::from(code).field("ProposedSize", proposed.to_string()).field(name, limit.to_string())
}

/// Where a mark begins.
pub(super) fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    let first = *mark.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        let start = from + at;
        if bytes[start..].starts_with(mark) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}
