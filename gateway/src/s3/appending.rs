//! Appends: a PutObject whose header says behind how many bytes its own belong.
//!
//! What is there is looked at before the body is read, and the command names the version that was seen: if another writer
//! comes between, nothing is stored. Few bytes are written once more with those behind them; behind more, only what comes
//! is written, as a part.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::meta::acl::WantedAcl;
use consensus::meta::command::{AppendObject, Appended, Command, Done, Expect, Guard, NewBody, Reject};
use consensus::meta::model::{
    Attributes, Checksum, ChecksumAlgorithm, ChecksumKind, Home, Lock, Object, Origin, Slice,
};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{BodyView, ObjectView, Want};
use fabric::limits::{INLINE_BYTES_MAX, OBJECT_BYTES_MAX};
use futures::TryStreamExt as _;
use http::HeaderMap;
use md5::{Digest as _, Md5};

use super::checksum::{self, Hasher};
use super::error::{Code, S3Error, S3Result, wrong_offset};
use super::op::{Context, unexpected};
use super::payload::Payload;
use super::reading::version_in;
use super::request::{Request, header_text};
use super::response::Response;
use super::{acl, bodies, classes, headers, lifecycle, locks, versions};
use crate::data::{Source, SourceError, Target, Written};

const OFFSET: &str = "x-amz-write-offset-bytes";

/// Behind how many bytes the body of a PutObject belongs; `None` if it is an object of its own.
pub fn offset(headers: &HeaderMap) -> S3Result<Option<u64>> {
    let Some(text) = header_text(headers, OFFSET)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(offset) if digits => Ok(Some(offset)),
        _ => Err(S3Error::argument(OFFSET, text, "The write offset is not a number.")),
    }
}

/// What else the headers of an append say.
pub struct Append {
    /// Where its bytes belong.
    pub offset: u64,
    /// Of an object that is made; one that is there keeps its own.
    pub attributes: Attributes,
    /// Of the new version.
    pub lock: Lock,
    /// On which condition.
    pub expect: Expect,
    /// The list of an object that is made; one that is there keeps its own.
    pub acl: Option<WantedAcl>,
}

impl Append {
    /// Puts the body behind what is there.
    pub async fn run(self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let key = request.key().clone();
        let (bucket, payload) = (cx.bucket()?, request.payload_mut());
        let there = There::look(cx, &key).await?;
        self.check(&there, payload)?;
        if let Some(algorithm) = there.algorithm() {
            payload.prefer(algorithm);
        }
        let (sent, written) = there.write(cx, payload, &key, &self.attributes).await?;
        let digests = payload.digests().ok_or(Code::IncompleteBody)?.clone();
        let (appended, checksum) = there.behind(written.body, sent)?;
        let tags = there.object().map_or(&self.attributes.tags, |object| &object.attributes.tags).clone();
        let command = AppendObject {
            bucket: bucket.id,
            key: key.clone(),
            expect: self.expect,
            offset: self.offset,
            seen: there.view.map(|view| view.object.stamp),
            appended,
            checksum,
            attributes: self.attributes,
            origin: Origin::default(),
        };
        let locked = Guard { lock: self.lock, ..Guard::default() };
        let done =
            cx.propose(acl::with(locks::guarded(Command::AppendObject(command), locked), self.acl)).await;
        // The outcome is known (or given up): from here on the extent is named, or garbage.
        drop(written.guard);
        let Done::Stored(stored) = done? else {
            return Err(unexpected("AppendObject"));
        };
        let response = Response::ok().etag(&stored.etag).amz("x-amz-object-size", stored.bytes.to_string());
        let response = headers::show_checksum(response, &digests.checksum, 0);
        let response = lifecycle::tell_writer(cx, &key, &stored, &tags, response).await;
        Ok(versions::show_written(response, bucket, &stored))
    }

    /// Refuses what will be refused anyway, before the body is read.
    fn check(&self, there: &There, payload: &Payload) -> S3Result<()> {
        self.expect.check(there.object())?;
        if there.bytes() != self.offset {
            return Err(wrong_offset(there.bytes()));
        }
        let whole = payload.length().and_then(|length| length.checked_add(self.offset));
        if whole.is_some_and(|bytes| OBJECT_BYTES_MAX < bytes) {
            return Err(Code::EntityTooLarge.into());
        }
        Ok(())
    }
}

/// What is there before an append.
struct There {
    home: Home,
    view: Option<ObjectView>,
    /// All bytes, where they are few.
    few: Option<Bytes>,
}

/// What was written, hashed by the algorithm of the object.
struct Sent {
    bytes: u64,
    md5: [u8; 16],
    checksum: Checksum,
}

impl There {
    async fn look(cx: &Context, key: &ObjectKey) -> S3Result<There> {
        let home = Home { bucket: cx.bucket()?.id, key: key.clone() };
        let guard = cx.meta.begin_read();
        let Some(mut view) = find(cx, &home, Want::Row).await? else {
            return Ok(There { home, view: None, few: Some(Bytes::new()) });
        };
        let is_few = |object: &Object| object.bytes <= INLINE_BYTES_MAX as u64;
        if is_few(&view.object) || needs_parts(&view.object) {
            // It may be another version by now, or none.
            let Some(whole) = find(cx, &home, Want::Body).await? else {
                return Err(Code::ConditionalRequestConflict.into());
            };
            view = whole;
        }
        if !is_few(&view.object) {
            return Ok(There { home, view: Some(view), few: None });
        }
        guard.reads(home.clone(), &view);
        let body = std::mem::replace(&mut view.body, BodyView::NotAsked);
        let pieces: Vec<Bytes> = cx.data.read_stored(body, 0..view.object.bytes, guard).try_collect().await?;
        Ok(There { home, view: Some(view), few: Some(pieces.concat().into()) })
    }

    fn object(&self) -> Option<&Object> {
        self.view.as_ref().map(|view| &view.object)
    }

    fn bytes(&self) -> u64 {
        self.object().map_or(0, |object| object.bytes)
    }

    fn checksum(&self) -> Option<&Checksum> {
        self.object().and_then(|object| object.checksum.as_ref())
    }

    fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.checksum().map(|checksum| checksum.algorithm)
    }

    /// Writes the body behind the few bytes that are there, or by itself.
    async fn write(
        &self,
        cx: &Context,
        payload: &mut Payload,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> S3Result<(Sent, Written)> {
        let hasher = Hasher::new(self.algorithm().unwrap_or(payload.algorithm()));
        let before = self.few.clone().unwrap_or_default();
        let announced = payload.length().map(|length| length + before.len() as u64);
        let mut source = Behind { before, payload, bytes: 0, md5: Md5::new(), hasher };
        let (length, target) = match &self.few {
            Some(_) => {
                let attributes = self.object().map_or(attributes, |object| &object.attributes);
                (announced, bodies::target(cx, key, None, Some(attributes), None)?)
            }
            // Without a length nobody takes a part for an object, should its row be lost.
            None => (None, self.part(cx)?),
        };
        let written = cx.data.write(&mut source, length, target).await?;
        let Behind { bytes, md5, hasher, .. } = source;
        Ok((Sent { bytes, md5: md5.finalize().into(), checksum: hasher.finish() }, written))
    }

    /// A part of this object: it lies where the extents before it have their rows.
    fn part(&self, cx: &Context) -> S3Result<Target> {
        let object = self.object().ok_or_else(|| unexpected("Object"))?;
        let Home { bucket, key } = object.body.home(self.home.clone());
        let number = headers::parts_of(&object.etag).max(1) + 1;
        let part = Some((object.stamp, number));
        let bucket_name = cx.bucket()?.name.clone();
        let (attributes, class) = (object.attributes.clone(), classes::of(&object.attributes));
        Ok(Target { bucket, bucket_name, key, part, attributes, seal: None, class })
    }

    /// What the command says of what was sent, and the checksum of all bytes.
    fn behind(&self, body: NewBody, sent: Sent) -> S3Result<(Appended, Option<Checksum>)> {
        let Sent { bytes, md5, checksum } = sent;
        if self.few.is_some() {
            return Ok((Appended::Whole { body, md5 }, Some(checksum)));
        }
        let extent = match body {
            NewBody::Extent(extent) => Some(extent),
            NewBody::Inline(_) => None,
        };
        let parts = self.view.as_ref().map_or(&[][..], |view| &view.parts);
        let whole = self.checksum().and_then(|before| after(before, self.bytes(), parts, &checksum, bytes));
        Ok((Appended::Part { extent, md5, checksum: Some(checksum) }, whole))
    }
}

async fn find(cx: &Context, home: &Home, want: Want) -> S3Result<Option<ObjectView>> {
    match version_in(cx, home.bucket, &home.key, None, want).await? {
        Ok(view) if view.object.body.sealing().is_some() => Err(encrypted()),
        Ok(view) => Ok(Some(view)),
        Err(Reject::NoSuchKey | Reject::DeleteMarker { .. }) => Ok(None),
        Err(reject) => Err(reject.into()),
    }
}

/// What is encrypted has frames that end with it.
pub fn encrypted() -> S3Error {
    Code::NotImplemented.says("Nothing is appended to encrypted objects here.")
}

/// Whether the checksum of the object with more behind it is one of the checksums of its parts.
fn needs_parts(object: &Object) -> bool {
    object.checksum.as_ref().is_some_and(|checksum| !is_combined(checksum))
}

fn is_combined(checksum: &Checksum) -> bool {
    checksum.kind == ChecksumKind::FullObject && checksum::combines(checksum.algorithm)
}

/// The checksum of an object with a part behind it: of all bytes where it was that and can be combined, else of the
/// checksums of its parts, if all have one.
fn after(
    before: &Checksum,
    before_bytes: u64,
    parts: &[Slice],
    part: &Checksum,
    part_bytes: u64,
) -> Option<Checksum> {
    if is_combined(before) {
        let values = [(&before.value[..], before_bytes), (&part.value[..], part_bytes)];
        return checksum::combined(before.algorithm, values);
    }
    let only = (parts.is_empty() && before.kind == ChecksumKind::FullObject).then_some(Some(before));
    let parts = parts.iter().map(|slice| slice.checksum.as_ref());
    let all = parts.chain(only).chain([Some(part)]);
    let of_part = |checksum: Option<&Checksum>| {
        checksum
            .filter(|checksum| checksum.algorithm == before.algorithm)
            .map(|checksum| checksum.value.clone())
    };
    let values: Vec<Bytes> = all.map(of_part).collect::<Option<_>>()?;
    Some(checksum::composite(before.algorithm, values.iter().map(|value| &value[..])))
}

/// Bytes that are there with a request body behind them, hashed as they pass.
struct Behind<'a> {
    before: Bytes,
    payload: &'a mut Payload,
    bytes: u64,
    md5: Md5,
    hasher: Hasher,
}

#[async_trait]
impl Source for Behind<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let before = std::mem::take(&mut self.before);
        let next = match before.is_empty() {
            false => Some(before),
            true => self.payload.next().await.map_err(|error| Box::new(error) as SourceError)?,
        };
        if let Some(bytes) = &next {
            self.bytes += bytes.len() as u64;
            self.md5.update(bytes);
            self.hasher.update(bytes);
        }
        Ok(next)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::ExtentId;

    use super::*;

    fn hashed(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    fn slice(checksum: Checksum) -> Slice {
        let extent = ExtentId::from_bytes([0; 16]);
        Slice { extent, offset: 0, bytes: 1, part: 1, md5: [0; 16], checksum: Some(checksum) }
    }

    #[test]
    fn offsets_are_numbers() {
        let parse =
            |text: &str| offset(&[(OFFSET.parse().unwrap(), text.parse().unwrap())].into_iter().collect());
        assert_eq!(parse("18446744073709551615").unwrap(), Some(u64::MAX));
        for bad in ["", "-1", "+1", "1.0", "x", "18446744073709551616"] {
            assert_eq!(parse(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        assert_eq!(offset(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn checksums_follow_the_bytes() {
        let (crc, sha) = (ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha256);
        let whole = after(&hashed(crc, b"hello "), 6, &[], &hashed(crc, b"world"), 5);
        assert_eq!(whole, Some(hashed(crc, b"hello world")));
        // What cannot be combined becomes a checksum of the checksums.
        let (first, second, third) = (hashed(sha, b"a"), hashed(sha, b"b"), hashed(sha, b"c"));
        let two = after(&first, 1, &[], &second, 1).unwrap();
        assert_eq!(two, checksum::composite(sha, [&first.value[..], &second.value]));
        let parts = [slice(first.clone()), slice(second.clone())];
        let three = after(&two, 2, &parts, &third, 1);
        assert_eq!(three, Some(checksum::composite(sha, [&first.value[..], &second.value, &third.value])));
        // A part that has another one leaves none for the whole.
        let parts = [slice(first), slice(hashed(crc, b"b"))];
        assert_eq!(after(&two, 2, &parts, &third, 1), None);
    }
}
