//! ListMultipartUploads: uploads in progress in order of key and time.

use async_trait::async_trait;
use consensus::meta::model::{Bucket, Upload};
use consensus::meta::query::{Answer, ListUploads, Page, PageEntry, Query as MetaQuery};
use fabric::ids::BucketId;
use http::Method;

use crate::s3::error::{S3Error, S3Result};
use crate::s3::listing::{self, Asked, Walk};
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;
use crate::s3::{checksum, time};

/// See the module.
pub struct ListMultipartUploads;

#[async_trait]
impl Op for ListMultipartUploads {
    fn name(&self) -> &'static str {
        "ListMultipartUploads"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("uploads")
    }

    fn action(&self) -> Action {
        Action::ListBucketMultipartUploads
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let bucket = cx.bucket()?;
        let input = Input::parse(bucket.id, request.query())?;
        let page = listing::page(cx, input.list.clone()).await?;
        Ok(Response::xml(document(bucket, &input, &page)))
    }
}

struct Input {
    list: ListUploads,
    upload_marker: String,
    asked: Asked,
}

impl Input {
    fn parse(bucket: BucketId, query: &Query) -> S3Result<Input> {
        let after_key = listing::marker(query.get("key-marker").unwrap_or(""));
        // Without a key marker it means nothing.
        let marker = query.non_empty("upload-id-marker").filter(|_| !after_key.is_empty());
        let after_upload = match marker {
            None => None,
            Some(text) => {
                let wrong = |_| S3Error::argument("upload-id-marker", text, "Invalid uploadId marker");
                Some(text.parse().map_err(wrong)?)
            }
        };
        let asked = Asked::parse(query, "max-uploads")?;
        let list = ListUploads {
            bucket,
            prefix: asked.prefix.clone(),
            delimiter: asked.delimiter.clone(),
            after_key,
            after_upload,
            limit: asked.limit,
        };
        Ok(Input { list, upload_marker: marker.unwrap_or("").to_string(), asked })
    }
}

impl Walk for ListUploads {
    type Item = Upload;

    fn limit(&self) -> u32 {
        self.limit
    }

    fn position(&self) -> &str {
        &self.after_key
    }

    fn question(&self, limit: u32) -> MetaQuery {
        MetaQuery::ListUploads(ListUploads { limit, ..self.clone() })
    }

    fn page(answer: Answer) -> Option<Page<Upload>> {
        if let Answer::Uploads(page) = answer { Some(page) } else { None }
    }

    fn pass(&mut self, page: &Page<Upload>) {
        self.after_key.clone_from(&page.position);
        self.after_upload = page.position_stamp;
    }
}

fn document(bucket: &Bucket, input: &Input, page: &Page<Upload>) -> XmlWriter {
    let (encoding, list) = (input.asked.encoding, &input.list);
    let mut xml = XmlWriter::new();
    xml.root("ListMultipartUploadsResult");
    xml.text("Bucket", bucket.name.as_str());
    input.asked.write(&mut xml, "MaxUploads");
    encoding.write(&mut xml, "KeyMarker", &list.after_key);
    xml.text("UploadIdMarker", &input.upload_marker);
    if page.more {
        encoding.write(&mut xml, "NextKeyMarker", &page.position);
        if let Some(stamp) = page.position_stamp {
            xml.value("NextUploadIdMarker", stamp);
        }
    }
    xml.value("IsTruncated", page.more);
    for entry in &page.entries {
        let PageEntry::Item(key, upload) = entry else {
            continue;
        };
        xml.element("Upload", |xml| {
            encoding.write(xml, "Key", key.as_str());
            xml.value("UploadId", upload.id);
            listing::user(xml, "Initiator", upload.initiator.as_str());
            listing::user(xml, "Owner", bucket.owner.as_str());
            xml.text("StorageClass", upload.attributes.storage_class.as_deref().unwrap_or("STANDARD"));
            xml.value("Initiated", time::Iso8601(upload.initiated.0));
            if let Some((algorithm, kind)) = upload.checksum {
                xml.text("ChecksumAlgorithm", checksum::name(algorithm));
                xml.text("ChecksumType", checksum::kind_name(kind));
            }
        });
    }
    listing::common_prefixes(&mut xml, &page.entries, encoding);
    xml.close("ListMultipartUploadsResult");
    xml
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn markers() {
        let parse = |text: &str| Input::parse(BucketId(1), &Query::parse(text).unwrap());
        let id = "000000000000000000010000";
        assert!(parse(&format!("key-marker=k&upload-id-marker={id}")).unwrap().list.after_upload.is_some());
        assert!(parse("upload-id-marker=x").unwrap().list.after_upload.is_none());
        for bad in ["key-marker=k&upload-id-marker=x", "max-uploads=-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
