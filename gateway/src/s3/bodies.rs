//! Where the dialect meets the data: request bodies as sources, and what failures of bodies mean to clients.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::ReadGuard;
use consensus::meta::model::Attributes;
use consensus::meta::names::ObjectKey;
use consensus::meta::query::BodyView;
use fabric::ids::Stamp;
use fabric::limits::PUT_BYTES_MAX;

use super::classes;
use super::encryption::Encryption;
use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::payload::Payload;
use crate::data::{BodyKey, BodyStream, ReadError, Source, SourceError, Target, WriteError, Written};

/// A request body as a source: it ends cleanly only when every digest and signature matched.
struct PayloadSource<'a>(&'a mut Payload);

#[async_trait]
impl Source for PayloadSource<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        self.0.next().await.map_err(|error| Box::new(error) as SourceError)
    }
}

/// Writes a request body for an object or one of its parts. Afterwards its digests are known.
pub async fn store(
    cx: &Context,
    payload: &mut Payload,
    key: &ObjectKey,
    part: Option<(Stamp, u16)>,
    attributes: Option<&Attributes>,
    encryption: Option<&Encryption>,
) -> S3Result<Written> {
    let length = payload.length();
    let target = target(cx, key, part, attributes, encryption)?;
    Ok(cx.data.write(&mut PayloadSource(payload), length, target).await?)
}

/// For whom a body is written.
pub fn target(
    cx: &Context,
    key: &ObjectKey,
    part: Option<(Stamp, u16)>,
    attributes: Option<&Attributes>,
    encryption: Option<&Encryption>,
) -> S3Result<Target> {
    let bucket = cx.bucket()?;
    let attributes = attributes.cloned().unwrap_or_default();
    Ok(Target {
        class: classes::of(&attributes),
        bucket: bucket.id,
        bucket_name: bucket.name.clone(),
        key: key.clone(),
        part,
        attributes,
        seal: encryption.map(Encryption::for_target),
    })
}

/// Reads bytes of a body, encrypted or not. Take `guard` before the query that gave `body`.
pub fn read(
    cx: &Context,
    body: BodyView,
    key: Option<&BodyKey>,
    range: Range<u64>,
    guard: ReadGuard,
) -> BodyStream {
    match key {
        Some(key) => cx.data.open(body, key, range, guard),
        None => cx.data.read_stored(body, range, guard),
    }
}

impl From<WriteError> for S3Error {
    fn from(error: WriteError) -> S3Error {
        match error {
            WriteError::Source(cause) => match cause.downcast::<S3Error>() {
                Ok(error) => *error,
                Err(cause) => match cause.downcast::<ReadError>() {
                    Ok(error) => S3Error::from(*error),
                    Err(cause) => Code::InternalError.caused(cause),
                },
            },
            WriteError::TooLarge => {
                S3Error::from(Code::EntityTooLarge).field("MaxSizeAllowed", PUT_BYTES_MAX.to_string())
            }
            WriteError::Full => Code::InsufficientStorage.into(),
            WriteError::Overloaded | WriteError::Unavailable(_) => Code::SlowDown.caused(error),
        }
    }
}

impl From<ReadError> for S3Error {
    fn from(error: ReadError) -> S3Error {
        match error {
            ReadError::Overloaded | ReadError::Unavailable(..) => Code::SlowDown.caused(error),
            ReadError::Inconsistent(_) | ReadError::Forged(_) => Code::InternalError.caused(error),
        }
    }
}
