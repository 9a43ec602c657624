//! Where the dialect meets the data: request bodies as sources, and what failures of bodies mean to clients.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::meta::model::Attributes;
use consensus::meta::names::ObjectKey;
use fabric::ids::Stamp;
use fabric::limits::PUT_BYTES_MAX;

use super::error::{Code, S3Error, S3Result};
use super::op::Context;
use super::payload::Payload;
use crate::data::{ReadError, Source, SourceError, Target, WriteError, Written};

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
) -> S3Result<Written> {
    let length = payload.length();
    let target = target(cx, key, part, attributes)?;
    Ok(cx.data.write(&mut PayloadSource(payload), length, target).await?)
}

/// For whom a body is written.
pub fn target(
    cx: &Context,
    key: &ObjectKey,
    part: Option<(Stamp, u16)>,
    attributes: Option<&Attributes>,
) -> S3Result<Target> {
    let bucket = cx.bucket()?;
    Ok(Target {
        bucket: bucket.id,
        bucket_name: bucket.name.clone(),
        key: key.clone(),
        part,
        attributes: attributes.cloned().unwrap_or_default(),
    })
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
            ReadError::Inconsistent(_) => Code::InternalError.caused(error),
        }
    }
}
