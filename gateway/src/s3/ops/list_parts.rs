//! ListParts: the parts of an upload in order of number.

use async_trait::async_trait;
use consensus::meta::model::{Bucket, Etag, Part};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::PartsPage;
use fabric::ids::Stamp;
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;
use crate::s3::{checksum, lifecycle, listing, time, uploads, versions};

/// See the module.
pub struct ListParts;

#[async_trait]
impl Op for ListParts {
    fn name(&self) -> &'static str {
        "ListParts"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("uploadId")
    }

    fn action(&self) -> Action {
        Action::ListMultipartUploadParts
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let input = Input::parse(request.query())?;
        let page = uploads::parts(cx, request.key(), input.upload, input.after, input.limit).await?;
        let response = Response::xml(document(cx.bucket()?, request.key(), &input, &page));
        lifecycle::tell_abort(cx, request.key(), page.upload.initiated, response).await
    }
}

struct Input {
    upload: Stamp,
    after: u16,
    limit: u32,
    encoding: listing::Encoding,
}

impl Input {
    fn parse(query: &Query) -> S3Result<Input> {
        let after = query.number("part-number-marker", 0, i32::MAX as u64)?.unwrap_or(0);
        Ok(Input {
            upload: versions::upload(query)?,
            after: u16::try_from(after).unwrap_or(u16::MAX),
            limit: listing::page_size(query, "max-parts")?,
            encoding: listing::Encoding::parse(query)?,
        })
    }
}

fn document(bucket: &Bucket, key: &ObjectKey, input: &Input, page: &PartsPage) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("ListPartsResult");
    xml.text("Bucket", bucket.name.as_str());
    input.encoding.write(&mut xml, "Key", key.as_str());
    xml.value("UploadId", input.upload);
    listing::user(&mut xml, "Initiator", page.upload.initiator.as_str());
    listing::user(&mut xml, "Owner", bucket.owner.as_str());
    xml.text("StorageClass", page.upload.attributes.storage_class.as_deref().unwrap_or("STANDARD"));
    xml.value("PartNumberMarker", input.after);
    if let Some(last) = page.parts.last() {
        xml.value("NextPartNumberMarker", last.number);
    }
    xml.value("MaxParts", input.limit);
    input.encoding.announce(&mut xml);
    xml.value("IsTruncated", page.more);
    if let Some((algorithm, kind)) = page.upload.checksum {
        xml.text("ChecksumAlgorithm", checksum::name(algorithm));
        xml.text("ChecksumType", checksum::kind_name(kind));
    }
    for one in &page.parts {
        part(&mut xml, one);
    }
    xml.close("ListPartsResult");
    xml
}

fn part(xml: &mut XmlWriter, part: &Part) {
    xml.element("Part", |xml| {
        xml.value("PartNumber", part.number);
        xml.value("LastModified", time::Iso8601(part.modified.0));
        listing::etag(xml, &Etag::Md5(part.md5));
        xml.value("Size", part.bytes);
        if let Some(shown) = &part.checksum {
            xml.text(checksum::element(shown.algorithm), &checksum::encode(&shown.value));
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let id = "uploadId=000000000000000000010000";
        let parse = |rest: &str| Input::parse(&Query::parse(&format!("{id}{rest}")).unwrap());
        let input = parse("&part-number-marker=70000&max-parts=5000").unwrap();
        assert_eq!((input.after, input.limit), (u16::MAX, 1000));
        for bad in ["&part-number-marker=-1", "&max-parts=x"] {
            assert!(parse(bad).is_err());
        }
    }
}
