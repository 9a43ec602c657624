//! What GetObject and HeadObject share: which version, whether the conditions hold, which bytes, which headers.

use std::ops::Range;

use consensus::client::ReadGuard;
use consensus::meta::command::{ReadConditions, Reject, VersionSelector};
use consensus::meta::model::{Checksum, ChecksumKind, Home, Object};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, BodyView, ObjectView, Query as MetaQuery, Want};
use fabric::ids::BucketId;
use fabric::limits::PARTS_MAX;
use futures::StreamExt as _;
use http::header::CONTENT_RANGE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::bodies;
use super::conditions::{self, Verdict};
use super::encryption::{self, Customer};
use super::error::{BoxError, Code, S3Error, S3Result};
use super::headers;
use super::lifecycle;
use super::locks;
use super::op::{Context, unexpected};
use super::range::{self, ByteRange};
use super::replication;
use super::request::{Query, header_text};
use super::response::Response;
use super::time::parse_http_date;
use super::versions;

/// What a read asks for.
#[derive(Debug)]
pub struct Input {
    version: Option<VersionSelector>,
    part: Option<u16>,
    range: Option<String>,
    if_range: Option<String>,
    conditions: ReadConditions,
    overrides: Vec<(HeaderName, HeaderValue)>,
    with_checksum: bool,
}

/// An answer that lacks only its body.
pub struct Found {
    /// 200, 206 or 304 with all headers but the length.
    pub response: Response,
    /// The bytes to send; `None` for 304.
    pub range: Option<Range<u64>>,
    /// The version.
    pub object: Object,
    /// Where the bytes are.
    pub body: BodyView,
    /// Keeps them there.
    pub guard: ReadGuard,
}

impl Found {
    /// The answer with the bytes.
    pub async fn with_body(self, cx: &Context, customer: Option<&Customer>) -> S3Result<Response> {
        let Found { response, range, object, body, guard } = self;
        let Some(range) = range else {
            return Ok(response);
        };
        let bytes = range.end - range.start;
        let key = encryption::body_key(cx, &object, customer)?;
        let mut stream = bodies::read(cx, body, key.as_ref(), range, guard);
        // A failure before the first byte can still be told in the status.
        stream.start().await?;
        let pieces = stream.map(|piece| piece.map_err(|error| Box::new(error) as BoxError));
        Ok(response.stream(bytes, pieces.boxed()))
    }

    /// The answer with the length of the bytes.
    pub fn without_body(self) -> Response {
        match self.range {
            Some(range) => self.response.length(range.end - range.start),
            None => self.response,
        }
    }
}

impl Input {
    /// Reads parameters and headers.
    pub fn parse(query: &Query, headers: &HeaderMap) -> S3Result<Input> {
        let part = query.number("partNumber", 1, u64::from(PARTS_MAX))?.map(|number| number as u16);
        let range = header_text(headers, "range")?.map(str::to_string);
        if part.is_some() && range.is_some() {
            return Err(
                Code::InvalidRequest.says("Cannot specify both Range header and partNumber query parameter")
            );
        }
        Ok(Input {
            version: versions::from_query(query)?,
            part,
            range,
            if_range: header_text(headers, "if-range")?.map(str::to_string),
            conditions: conditions::of_read(headers)?,
            overrides: headers::overrides(query)?,
            with_checksum: headers::wants_checksum(headers),
        })
    }

    /// Finds the version and decides the answer. `want` is a hint: a part needs the body anyway.
    pub async fn find(
        self,
        cx: &Context,
        key: &ObjectKey,
        want: Want,
        customer: Option<&Customer>,
    ) -> S3Result<Found> {
        let guard = cx.meta.begin_read();
        let want = if self.part.is_some() { Want::Body } else { want };
        let view = version(cx, key, self.version, want).await?;
        guard.reads(Home { bucket: cx.bucket()?.id, key: key.clone() }, &view);
        encryption::check_reader(&view.object, customer)?;
        let chosen = match conditions::decide(&self.conditions, &view.object) {
            Verdict::Failed => return Err(Code::PreconditionFailed.into()),
            Verdict::NotModified => None,
            Verdict::Proceed => Some(self.choose(&view)?),
        };
        let bucket = cx.bucket()?;
        let status = chosen.as_ref().map_or(StatusCode::NOT_MODIFIED, Chosen::status);
        let mut response = headers::describe(Response::new(status), &view.object, self.overrides);
        response = versions::show(response, bucket, &view.object);
        response = encryption::show_object(response, &view.object, customer);
        response = locks::show(cx, key, &view.object, response).await?;
        response = replication::show(cx, key, &view.object, response).await?;
        if self.version.is_none() {
            response = lifecycle::tell(cx, key, &view.object, response).await?;
        }
        let range = chosen.as_ref().map(|chosen| chosen.range.clone());
        if let Some(chosen) = chosen {
            response = chosen.show(response, &view.object, self.with_checksum);
        }
        Ok(Found { response, range, object: view.object, body: view.body, guard })
    }

    fn choose(&self, view: &ObjectView) -> S3Result<Chosen> {
        if let Some(number) = self.part {
            return part(view, number);
        }
        let object = &view.object;
        let whole = || Chosen {
            range: 0..object.bytes,
            partial: false,
            checksum: object.checksum.clone(),
            parts: None,
        };
        let header = self.range.as_deref().filter(|_| self.range_applies(object));
        Ok(match range::parse(header, object.bytes)? {
            None => whole(),
            Some(ByteRange { start, bytes }) => {
                Chosen { range: start..start + bytes, partial: true, checksum: None, parts: None }
            }
        })
    }

    /// `If-Range`: a range of another version would be glued to the wrong bytes.
    fn range_applies(&self, object: &Object) -> bool {
        match self.if_range.as_deref() {
            None => true,
            Some(text) => match parse_http_date(text) {
                Some(since) => object.modified.0 / 1000 <= since,
                None => text.parse() == Ok(object.etag),
            },
        }
    }
}

/// The bytes of an answer.
#[derive(Debug, PartialEq)]
struct Chosen {
    range: Range<u64>,
    partial: bool,
    /// Of exactly these bytes, where it is known.
    checksum: Option<Checksum>,
    /// Parts of the whole object, when one of them was asked for.
    parts: Option<u16>,
}

impl Chosen {
    fn status(&self) -> StatusCode {
        if self.partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK }
    }

    fn show(self, response: Response, object: &Object, with_checksum: bool) -> Response {
        let mut response = response;
        if self.partial {
            let (first, last) = (self.range.start, self.range.end - 1);
            response = response.header(CONTENT_RANGE, format!("bytes {first}-{last}/{}", object.bytes));
        }
        if let Some(parts) = self.parts {
            response = response.amz("x-amz-mp-parts-count", parts.to_string());
        }
        match self.checksum {
            Some(checksum) if with_checksum => {
                headers::show_checksum(response, &checksum, headers::parts_of(&object.etag))
            }
            Some(_) | None => response,
        }
    }
}

/// The bytes of a part by its number. An object of a single PUT is its own part 1.
fn part(view: &ObjectView, number: u16) -> S3Result<Chosen> {
    let object = &view.object;
    let missing = || S3Error::from(Code::InvalidPartNumber).field("PartNumberRequested", number.to_string());
    let parts = headers::parts_of(&object.etag);
    if parts == 0 {
        let whole = Chosen {
            range: 0..object.bytes,
            partial: 0 < object.bytes,
            checksum: object.checksum.clone(),
            parts: None,
        };
        return if number == 1 { Ok(whole) } else { Err(missing()) };
    }
    let mut start = 0;
    let (mut range, mut checksum) = (None, None);
    for slice in &view.parts {
        let end = start + slice.bytes;
        if slice.part == number {
            range = Some(range.map_or(start, |range: Range<u64>| range.start)..end);
            checksum.clone_from(&slice.checksum);
        }
        start = end;
    }
    let range = range.ok_or_else(missing)?;
    // The checksum of a part covers all its bytes, whatever the object's is made of.
    let checksum = checksum.map(|checksum| Checksum { kind: ChecksumKind::FullObject, ..checksum });
    Ok(Chosen { partial: !range.is_empty(), range, checksum, parts: Some(parts) })
}

/// A version of an object in the bucket of the path.
pub async fn version(
    cx: &Context,
    key: &ObjectKey,
    version: Option<VersionSelector>,
    want: Want,
) -> S3Result<ObjectView> {
    match version_in(cx, cx.bucket()?.id, key, version, want).await? {
        Ok(view) => Ok(view),
        Err(reject) => Err(S3Error::from(reject).field("Key", key.as_str())),
    }
}

/// A version of an object in any bucket, or the refusal as it is.
pub async fn version_in(
    cx: &Context,
    bucket: BucketId,
    key: &ObjectKey,
    version: Option<VersionSelector>,
    want: Want,
) -> S3Result<Result<ObjectView, Reject>> {
    let query = MetaQuery::Object { bucket, key: key.clone(), version, want };
    match cx.meta.query(query).await?.answer {
        Ok(Answer::Object(view)) => Ok(Ok(view)),
        Ok(_) => Err(unexpected("Object")),
        Err(reject) => Ok(Err(reject)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use consensus::meta::model::{Attributes, Body, ClusterMs, Etag, Slice};
    use fabric::ids::{ExtentId, SessionId, Stamp};

    use super::*;

    pub fn object(bytes: u64) -> Object {
        Object {
            stamp: Stamp { epoch: 0, index: 7, ordinal: 0 },
            null_version: true,
            modified: ClusterMs(1_369_353_600_999),
            bytes,
            etag: Etag::Md5([0xAB; 16]),
            body: Body::Empty,
            checksum: None,
            attributes: Attributes::default(),
        }
    }

    fn input(query: &str, headers: &[(&'static str, &str)]) -> S3Result<Input> {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Input::parse(&Query::parse(query).unwrap(), &headers)
    }

    fn multipart() -> ObjectView {
        let extent = ExtentId::new(0, SessionId { epoch: 0, number: 1 }, 1);
        let slice = |part, bytes| Slice { extent, offset: 0, bytes, part, md5: [0; 16], checksum: None };
        let mut object = object(30);
        object.etag = Etag::Multipart([1; 16], 2);
        ObjectView { object, body: BodyView::NotAsked, parts: vec![slice(1, 10), slice(4, 15), slice(4, 5)] }
    }

    #[test]
    fn input_is_refused_where_it_contradicts_itself() {
        for (query, headers, code) in [
            ("partNumber=1", &[("range", "bytes=0-1")][..], Code::InvalidRequest),
            ("partNumber=0", &[], Code::InvalidArgument),
            ("partNumber=10001", &[], Code::InvalidArgument),
            ("partNumber=x", &[], Code::InvalidArgument),
            ("versionId=..%2F", &[], Code::InvalidArgument),
            ("response-content-type=a%0d%0ab", &[], Code::InvalidArgument),
        ] {
            assert_eq!(input(query, headers).unwrap_err().code(), code, "{query}");
        }
    }

    #[test]
    fn parts_by_number() {
        let view = multipart();
        let choose = |query| input(query, &[]).unwrap().choose(&view);
        assert_eq!(choose("partNumber=1").unwrap().range, 0..10);
        let second = choose("partNumber=4").unwrap();
        assert_eq!((second.range.clone(), second.parts, second.partial), (10..30, Some(2), true));
        assert_eq!(choose("partNumber=2").unwrap_err().code(), Code::InvalidPartNumber);
        let single = ObjectView { object: object(7), body: BodyView::NotAsked, parts: Vec::new() };
        let choose = |query| input(query, &[]).unwrap().choose(&single);
        assert_eq!(choose("partNumber=1").unwrap().range, 0..7);
        assert_eq!(choose("partNumber=2").unwrap_err().code(), Code::InvalidPartNumber);
    }

    #[test]
    fn ranges_apply_to_the_version_they_were_made_for() {
        let view = ObjectView { object: object(7), body: BodyView::NotAsked, parts: Vec::new() };
        let tag = "\"abababababababababababababababab\"";
        for (if_range, expected) in [
            (None, 1..3),
            (Some(tag), 1..3),
            (Some("Fri, 24 May 2013 00:00:00 GMT"), 1..3),
            (Some("\"another\""), 0..7),
            (Some("Thu, 23 May 2013 00:00:00 GMT"), 0..7),
        ] {
            let mut headers = vec![("range", "bytes=1-2")];
            headers.extend(if_range.map(|text| ("if-range", text)));
            assert_eq!(input("", &headers).unwrap().choose(&view).unwrap().range, expected);
        }
        let error = input("", &[("range", "bytes=9-")]).unwrap().choose(&view).unwrap_err();
        assert_eq!(error.code(), Code::InvalidRange);
        assert_eq!(error.headers()[0].1, "bytes */7");
    }
}
