//! GetObjectAttributes: those facts about a version that the client names.

use async_trait::async_trait;
use consensus::meta::model::{Object, Slice};
use consensus::meta::query::{ObjectView, Want};
use fabric::limits::LIST_KEYS_MAX;
use http::header::LAST_MODIFIED;
use http::{HeaderMap, Method};

use crate::s3::error::{S3Error, S3Result};
use crate::s3::op::{Action, Context, Op};
use crate::s3::reading::version;
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::time::http_date;
use crate::s3::xml::XmlWriter;
use crate::s3::{checksum, encryption, headers, listing, versions};

const HEADER: &str = "x-amz-object-attributes";

/// See the module.
pub struct GetObjectAttributes;

#[async_trait]
impl Op for GetObjectAttributes {
    fn name(&self) -> &'static str {
        "GetObjectAttributes"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("attributes")
    }

    fn action(&self) -> Action {
        Action::GetObjectAttributes
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let input = Input::parse(request.headers())?;
        let customer = encryption::of_reader(&request)?;
        let selector = versions::from_query(request.query())?;
        let mut view = version(cx, request.key(), selector, Want::Row).await?;
        if input.parts && 0 < headers::parts_of(&view.object.etag) {
            view = version(cx, request.key(), selector, Want::Body).await?;
        }
        encryption::check_reader(&view.object, customer.as_ref())?;
        let response = Response::xml(document(&input, &view));
        let response = response.header(LAST_MODIFIED, http_date(view.object.modified.0));
        Ok(versions::show(response, cx.bucket()?, &view.object))
    }
}

#[derive(Debug, Default, PartialEq)]
struct Input {
    etag: bool,
    checksum: bool,
    parts: bool,
    storage_class: bool,
    size: bool,
    parts_max: u32,
    after: u16,
}

impl Input {
    fn parse(headers: &HeaderMap) -> S3Result<Input> {
        let mut input = Input {
            parts_max: number(headers, "x-amz-max-parts")?.unwrap_or(LIST_KEYS_MAX).min(LIST_KEYS_MAX),
            after: number(headers, "x-amz-part-number-marker")?
                .map_or(0, |number| u16::try_from(number).unwrap_or(u16::MAX)),
            ..Input::default()
        };
        let mut named = 0;
        for value in headers.get_all(HEADER) {
            let text = value.to_str().unwrap_or("");
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                named += 1;
                match name {
                    "ETag" => input.etag = true,
                    "Checksum" => input.checksum = true,
                    "ObjectParts" => input.parts = true,
                    "StorageClass" => input.storage_class = true,
                    "ObjectSize" => input.size = true,
                    _ => return Err(S3Error::argument(HEADER, name, "Invalid attribute name specified.")),
                }
            }
        }
        match named {
            0 => Err(S3Error::argument(
                HEADER,
                "",
                "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty",
            )),
            _ => Ok(input),
        }
    }
}

fn number(headers: &HeaderMap, name: &'static str) -> S3Result<Option<u32>> {
    let Some(text) = header_text(headers, name)? else {
        return Ok(None);
    };
    match text.parse::<u32>() {
        Ok(number) if number <= i32::MAX as u32 && !text.starts_with('+') => Ok(Some(number)),
        _ => Err(S3Error::argument(
            name,
            text,
            "Provided argument is not an integer or not within integer range",
        )),
    }
}

fn document(input: &Input, view: &ObjectView) -> XmlWriter {
    let object = &view.object;
    let mut xml = XmlWriter::new();
    xml.root("GetObjectAttributesResponse");
    if input.etag {
        // The one place where S3 shows it without quotes.
        xml.value("ETag", object.etag);
    }
    if input.checksum
        && let Some(shown) = &object.checksum
    {
        xml.element("Checksum", |xml| {
            let text = checksum::display(shown, headers::parts_of(&object.etag));
            xml.text(checksum::element(shown.algorithm), &text);
            xml.text("ChecksumType", checksum::kind_name(shown.kind));
        });
    }
    if input.parts && 0 < headers::parts_of(&object.etag) {
        xml.element("ObjectParts", |xml| parts(xml, input, object, &view.parts));
    }
    if input.storage_class {
        listing::class(&mut xml, object);
    }
    if input.size {
        xml.value("ObjectSize", object.bytes);
    }
    xml.close("GetObjectAttributesResponse");
    xml
}

fn parts(xml: &mut XmlWriter, input: &Input, object: &Object, slices: &[Slice]) {
    xml.value("PartsCount", headers::parts_of(&object.etag));
    let left = slices.iter().filter(|slice| input.after < slice.part);
    let page: Vec<&Slice> = left.clone().take(input.parts_max as usize).collect();
    xml.value("PartNumberMarker", input.after);
    if let Some(last) = page.last() {
        xml.value("NextPartNumberMarker", last.part);
    }
    xml.value("MaxParts", input.parts_max);
    xml.value("IsTruncated", 0 < input.parts_max && page.len() < left.count());
    for slice in page {
        xml.element("Part", |xml| {
            if let Some(shown) = &slice.checksum {
                xml.text(checksum::element(shown.algorithm), &checksum::encode(&shown.value));
            }
            xml.value("PartNumber", slice.part);
            xml.value("Size", slice.bytes);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::Code;

    #[test]
    fn attributes_are_named_in_one_header_or_several() {
        let parse = |values: &[&'static str]| {
            Input::parse(
                &values.iter().map(|value| (HEADER.parse().unwrap(), value.parse().unwrap())).collect(),
            )
        };
        let expected = Input { etag: true, size: true, parts_max: 1000, ..Input::default() };
        let mut headers = HeaderMap::new();
        headers.append(HEADER, "ETag".parse().unwrap());
        headers.append(HEADER, "ObjectSize".parse().unwrap());
        assert_eq!(Input::parse(&headers).unwrap(), expected);
        assert_eq!(parse(&["ETag, ObjectSize"]).unwrap(), expected);
        for bad in [&[][..], &[""], &["Colour"]] {
            assert_eq!(parse(bad).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}
