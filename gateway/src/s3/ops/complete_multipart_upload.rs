//! CompleteMultipartUpload: make one object of the parts that the client names.
//!
//! Order, tags, sizes and conditions are decided in `apply`; here the checksum of the object is computed from those
//! of its parts and compared with what the client expects. A repeated Complete gets its first answer.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use consensus::meta::command::{Command, CompletePart, CompleteUpload, Done, Expect};
use consensus::meta::model::{Checksum, ChecksumAlgorithm, ChecksumKind, Etag, Origin, Part, Stored, Upload};
use consensus::meta::names::ObjectKey;
use consensus::meta::sealing::Sealing;
use fabric::ids::Stamp;
use fabric::limits::XML_BODY_BYTES_MAX;
use http::header::HOST;
use http::{HeaderMap, Method};

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op, unexpected};
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{CompleteDocument, CompletePartElement, XmlWriter, url_encoded};
use crate::s3::{checksum, conditions, encryption, headers, lifecycle, listing, uploads, versions};

/// See the module.
pub struct CompleteMultipartUpload;

#[async_trait]
impl Op for CompleteMultipartUpload {
    fn name(&self) -> &'static str {
        "CompleteMultipartUpload"
    }

    fn route(&self) -> Route {
        Route::object(Method::POST).with("uploadId")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    fn body(&self) -> BodyRule {
        BodyRule::DocumentAboutObject
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let input = Input::parse(request.headers())?;
        let upload = versions::upload(request.query())?;
        let key = request.key().clone();
        refuse_early(cx, &key, upload, &input.expect).await?;
        let document = request.document(XML_BODY_BYTES_MAX).await?;
        let named = CompleteDocument::parse(&document)?.parts;
        let mut parts = named.iter().map(named_part).collect::<S3Result<Vec<_>>>()?;
        let checksum = object_checksum(cx, &key, upload, &mut parts, &input).await?;
        let (begun, sealing) = begun(cx, &key, upload).await?;
        encryption::check_completing(&request, sealing.as_ref())?;
        let bucket = cx.bucket()?;
        let command = CompleteUpload {
            bucket: bucket.id,
            key: key.clone(),
            upload,
            parts,
            expect: input.expect,
            checksum,
            bytes: input.bytes,
            origin: Origin::default(),
        };
        let Done::Stored(stored) = cx.propose(Command::CompleteUpload(command)).await? else {
            return Err(unexpected("CompleteUpload"));
        };
        let scheme = if request.secure() { "https" } else { "http" };
        let host = request.header(HOST.as_str())?.unwrap_or("localhost");
        let location = format!("{scheme}://{host}/{}/{}", bucket.name, url_encoded(key.as_str()));
        let response = Response::xml(answer(&location, bucket.name.as_str(), &key, &stored));
        let mut response = encryption::show_sealing(response, sealing.as_ref());
        if let Some(begun) = begun {
            response = lifecycle::tell_writer(cx, &key, &stored, &begun.attributes.tags, response).await;
        }
        Ok(versions::show_written(response, bucket, &stored))
    }
}

struct Input {
    expect: Expect,
    bytes: Option<u64>,
    kind: Option<ChecksumKind>,
    checksum: Option<(ChecksumAlgorithm, Bytes)>,
}

impl Input {
    fn parse(headers: &HeaderMap) -> S3Result<Input> {
        let size = "x-amz-mp-object-size";
        let bytes = match header_text(headers, size)? {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Code::InvalidRequest.says(format!("Value for {size} header is invalid.")))?,
            ),
        };
        Ok(Input {
            expect: conditions::of_write(headers)?,
            bytes,
            kind: header_text(headers, "x-amz-checksum-type")?.map(checksum::kind_by_name).transpose()?,
            checksum: expected_checksum(headers)?,
        })
    }
}

/// The checksum that the client expects of the object. A composite one may carry its `-N`.
fn expected_checksum(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, Bytes)>> {
    let mut found = None;
    for algorithm in checksum::all() {
        let name = checksum::header_name(algorithm);
        let Some(text) = header_text(headers, name)? else {
            continue;
        };
        let digest = text.split_once('-').map_or(text, |(digest, _)| digest);
        let value = checksum::decode(algorithm, digest).ok_or_else(|| checksum::invalid_value(name))?;
        if found.replace((algorithm, value)).is_some() {
            return Err(Code::InvalidRequest.says("Expecting a single x-amz-checksum- header."));
        }
    }
    Ok(found)
}

/// Tells of a condition that fails already before the body is read; but a repeat of a Complete that was done, whose
/// upload is gone, gets its first answer. The upload is looked at second: while it is there, what failed the condition
/// was not this upload's own object.
async fn refuse_early(cx: &Context, key: &ObjectKey, upload: Stamp, expect: &Expect) -> S3Result<()> {
    let Err(refusal) = conditions::refuse_early(cx, key, expect).await else {
        return Ok(());
    };
    match uploads::parts(cx, key, upload, 0, 0).await {
        Ok(_) => Err(refusal),
        Err(error) if error.code() == Code::NoSuchUpload => Ok(()),
        Err(error) => Err(error),
    }
}

/// How the upload was begun, and how it is encrypted. One that is gone is a repeat, and nobody remembers.
async fn begun(cx: &Context, key: &ObjectKey, upload: Stamp) -> S3Result<(Option<Upload>, Option<Sealing>)> {
    match uploads::find(cx, key, upload).await {
        Ok((upload, sealing)) => Ok((Some(upload), sealing)),
        Err(error) if error.code() == Code::NoSuchUpload => Ok((None, None)),
        Err(error) => Err(error),
    }
}

fn named_part(part: &CompletePartElement) -> S3Result<CompletePart> {
    // A tag that is none of ours is the tag of no part.
    let Ok(Etag::Md5(md5)) = part.etag.parse() else {
        return Err(S3Error::from(Code::InvalidPart).field("PartNumber", part.number.to_string()));
    };
    let checksum = part.checksum.clone().map(|(algorithm, value)| Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value,
    });
    Ok(CompletePart { number: part.number, md5, checksum })
}

/// Computes the object's checksum from the stored parts, which are then pinned in the command by their checksums,
/// and compares it with what the client expects. `None` where the upload is gone: a repeat finds its answer.
async fn object_checksum(
    cx: &Context,
    key: &ObjectKey,
    upload: Stamp,
    named: &mut [CompletePart],
    input: &Input,
) -> S3Result<Option<Checksum>> {
    let (row, stored) = match uploads::all_parts(cx, key, upload).await {
        Ok(found) => found,
        Err(error) if error.code() == Code::NoSuchUpload => return Ok(None),
        Err(error) => return Err(error),
    };
    check_kind(&row, input)?;
    let by_number: BTreeMap<u16, &Part> = stored.iter().map(|part| (part.number, part)).collect();
    let mut chosen = Vec::with_capacity(named.len());
    for name in named {
        // What does not match is refused by `apply`, which knows all the rules.
        let Some(&part) = by_number.get(&name.number).filter(|part| part.md5 == name.md5) else {
            return Ok(None);
        };
        if name.checksum.is_some() && name.checksum != part.checksum {
            return Ok(None);
        }
        name.checksum.clone_from(&part.checksum);
        chosen.push(part);
    }
    let computed = uploads::checksum_of(row.checksum, &chosen);
    if let Some((algorithm, expected)) = &input.checksum {
        check_expected(*algorithm, expected, computed.as_ref())?;
    }
    Ok(computed)
}

fn check_expected(
    algorithm: ChecksumAlgorithm,
    expected: &Bytes,
    computed: Option<&Checksum>,
) -> S3Result<()> {
    match computed {
        Some(computed) if computed.algorithm != algorithm => {
            Err(uploads::mismatch(computed.algorithm, algorithm))
        }
        Some(computed) if computed.value == expected => Ok(()),
        Some(_) | None => {
            let name = checksum::name(algorithm).to_lowercase();
            Err(Code::BadDigest
                .says(format!("The {name} you specified did not match the calculated checksum.")))
        }
    }
}

fn check_kind(row: &Upload, input: &Input) -> S3Result<()> {
    let announced = row.checksum.map_or(ChecksumKind::FullObject, |(_, kind)| kind);
    match input.kind {
        Some(kind) if kind != announced => Err(Code::InvalidRequest.says(format!(
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            checksum::kind_name(announced),
        ))),
        Some(_) | None => Ok(()),
    }
}

fn answer(location: &str, bucket: &str, key: &ObjectKey, stored: &Stored) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("CompleteMultipartUploadResult");
    xml.text("Location", location);
    xml.text("Bucket", bucket);
    xml.text("Key", key.as_str());
    listing::etag(&mut xml, &stored.etag);
    if let Some(shown) = &stored.checksum {
        let parts = headers::parts_of(&stored.etag);
        xml.text(checksum::element(shown.algorithm), &checksum::display(shown, parts));
        xml.text("ChecksumType", checksum::kind_name(shown.kind));
    }
    xml.close("CompleteMultipartUploadResult");
    xml
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn input(pairs: &[(&'static str, &'static str)]) -> S3Result<Input> {
        Input::parse(
            &pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
        )
    }

    #[test]
    fn headers_about_the_object() {
        let parsed = input(&[("x-amz-checksum-crc32", "y/Q5Jg==-2"), ("x-amz-mp-object-size", "7")]).unwrap();
        assert_eq!(parsed.bytes, Some(7));
        assert_eq!(parsed.checksum.unwrap().0, ChecksumAlgorithm::Crc32);
        for bad in [
            &[("x-amz-mp-object-size", "-1")][..],
            &[("x-amz-checksum-crc32", "zz")],
            &[("x-amz-checksum-crc32", "y/Q5Jg=="), ("x-amz-checksum-crc32c", "y/Q5Jg==")],
            &[("x-amz-checksum-type", "HALF")],
        ] {
            assert_eq!(input(bad).err().unwrap().code(), Code::InvalidRequest, "{bad:?}");
        }
    }

    #[test]
    fn a_strange_tag_is_no_part() {
        let part = |etag: &str| CompletePartElement { number: 3, etag: etag.to_string(), checksum: None };
        assert_eq!(named_part(&part("\"900150983cd24fb0d6963f7d28e17f72\"")).unwrap().number, 3);
        for bad in ["x", "", "900150983cd24fb0d6963f7d28e17f72-2"] {
            assert_eq!(named_part(&part(bad)).unwrap_err().code(), Code::InvalidPart, "{bad}");
        }
    }
}
