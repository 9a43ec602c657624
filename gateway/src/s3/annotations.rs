//! Annotations as they are found, written and copied.
//!
//! What always holds: their bytes are encrypted, whatever the object is; they are written for the version and the data key
//! that were seen, and named for no other.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::client::WriteGuard;
use consensus::meta::command::{CopiedAnnotations, NewAnnotation, NewBody, Reject, VersionSelector};
use consensus::meta::model::{Attributes, Bucket, Home, Object};
use consensus::meta::names::{AnnotationName, ObjectKey};
use consensus::meta::query::{AnnotationsView, Answer, Query};
use fabric::ids::BucketId;
use fabric::limits::ANNOTATION_BYTES_MAX;
use http::HeaderMap;
use storage::origin::ANNOTATION_PART;

use super::access::Subject;
use super::copying::Source as CopySource;
use super::encryption::{self, Encryption, Wish};
use super::error::{Code, S3Error, S3Result};
use super::op::{Action, Context, unexpected};
use super::payload::{Digests, Payload};
use super::request::header_text;
use crate::data::{Class, Source, SourceError, Target, Written};

const DIRECTIVE: &str = "x-amz-object-annotation-directive";

/// The annotations of a version, or the one of a name; the refusal as it is.
pub async fn find(
    cx: &Context,
    bucket: BucketId,
    key: &ObjectKey,
    version: Option<VersionSelector>,
    name: Option<AnnotationName>,
) -> S3Result<Result<AnnotationsView, Reject>> {
    let query = Query::Annotations { bucket, key: key.clone(), version, name };
    match cx.meta.query(query).await?.answer {
        Ok(Answer::Annotations(view)) => Ok(Ok(view)),
        Ok(_) => Err(unexpected("Annotations")),
        Err(reject) => Ok(Err(reject)),
    }
}

/// The body of a request, which is a text of 1 byte to 1 MiB.
pub async fn text(payload: &mut Payload, announced: u64) -> S3Result<Bytes> {
    if ANNOTATION_BYTES_MAX < announced {
        return Err(S3Error::from(Code::EntityTooLarge)
            .field("ProposedSize", announced.to_string())
            .field("MaxSizeAllowed", ANNOTATION_BYTES_MAX.to_string()));
    }
    let text = payload.collect(ANNOTATION_BYTES_MAX as usize).await?;
    if text.is_empty() {
        return Err(Code::InvalidRequest.says("An annotation has at least one byte."));
    }
    match std::str::from_utf8(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(Code::UnsupportedMediaType.into()),
    }
}

/// A text that was written and belongs to nothing yet.
pub struct Draft {
    /// For the command.
    pub new: NewAnnotation,
    /// To be dropped once the outcome of the command is known.
    pub guard: Option<WriteGuard>,
    /// How it is encrypted.
    pub encryption: Encryption,
}

/// Writes a text for the annotations that a version has now.
pub async fn write(cx: &Context, there: &AnnotationsView, text: Bytes, digests: &Digests) -> S3Result<Draft> {
    let encryption = encryption::of_annotation(cx, &there.object, there.sealing.as_ref())?;
    let target = Target {
        bucket: there.home.bucket,
        bucket_name: cx.bucket()?.name.clone(),
        key: there.home.key.clone(),
        part: Some((there.object.stamp, ANNOTATION_PART)),
        attributes: Attributes::default(),
        seal: Some(encryption.for_target()),
        // Too small to gain by a code, whatever the class of the object is.
        class: Class::Copies,
    };
    let length = text.len() as u64;
    let Written { body, guard } = cx.data.write(&mut Text(text), Some(length), target).await?;
    let NewBody::Extent(extent) = body else { return Err(unexpected("an extent")) };
    let new = NewAnnotation {
        seen: there.object.stamp,
        home: there.home.clone(),
        sealing: encryption.sealing.clone(),
        extent,
        md5: encryption::tag(&*cx.env, Some(&encryption.sealing), digests.md5),
        checksum: digests.checksum.clone(),
    };
    Ok(Draft { new, guard, encryption })
}

/// A text as a source.
struct Text(Bytes);

#[async_trait]
impl Source for Text {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let text = std::mem::take(&mut self.0);
        Ok((!text.is_empty()).then_some(text))
    }
}

/// Whether a copy takes the annotations of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// It takes them.
    Copy,
    /// It begins without.
    Exclude,
}

impl Directive {
    /// What the headers say.
    pub fn parse(headers: &HeaderMap) -> S3Result<Directive> {
        match header_text(headers, DIRECTIVE)? {
            None | Some("COPY") => Ok(Directive::Copy),
            Some("EXCLUDE") => Ok(Directive::Exclude),
            Some(text) => Err(S3Error::argument(DIRECTIVE, text, "Unknown annotation directive.")),
        }
    }

    /// The same for who may not read annotations there, or write them here: where there are any it is refused.
    pub async fn permitted(
        self,
        cx: &Context,
        source: &CopySource,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> S3Result<Directive> {
        if self == Directive::Exclude {
            return Ok(self);
        }
        let (CopySource { key: from, version, .. }, to) = (source, Subject { key, version: None });
        let read = match version {
            None => Action::GetObjectAnnotation,
            Some(_) => Action::GetObjectVersionAnnotation,
        };
        let reads = cx.access.permits(bucket, read, Some(Subject { key: from, version: *version })).await?;
        if reads && cx.access.permits(cx.bucket()?, Action::PutObjectAnnotation, Some(to)).await? {
            return Ok(self);
        }
        match find(cx, bucket.id, from, *version, None).await? {
            Ok(AnnotationsView { sealing: Some(_), .. }) => Err(Code::AccessDenied.into()),
            // Whatever else is wrong with the source, the copy itself tells.
            Ok(_) | Err(_) => Ok(Directive::Exclude),
        }
    }
}

/// What a copy of `source`, which is encrypted as wished and not as its source is, takes of annotations.
pub async fn resealed(
    cx: &Context,
    from: Home,
    version: Option<VersionSelector>,
    source: &Object,
    wish: &Wish,
) -> S3Result<Option<CopiedAnnotations>> {
    let there = find(cx, from.bucket, &from.key, version, None).await??;
    if there.object.stamp != source.stamp {
        return Err(Code::ConditionalRequestConflict.into());
    }
    let Some(opened) = there.sealing else { return Ok(None) };
    let sealing = wish.reseal(cx, &opened)?;
    Ok(Some(CopiedAnnotations { from, version: source.stamp, opened, sealing }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        let parse = |text: &str| {
            Directive::parse(&[(DIRECTIVE.parse().unwrap(), text.parse().unwrap())].into_iter().collect())
        };
        assert_eq!(Directive::parse(&HeaderMap::new()).unwrap(), Directive::Copy);
        assert_eq!(parse("COPY").unwrap(), Directive::Copy);
        assert_eq!(parse("EXCLUDE").unwrap(), Directive::Exclude);
        for bad in ["", "copy", "REPLACE"] {
            assert_eq!(parse(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
