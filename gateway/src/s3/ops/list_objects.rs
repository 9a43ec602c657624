//! ListObjects, the first version: like the second, with the last name as the marker.

use std::sync::Arc;

use async_trait::async_trait;
use consensus::meta::model::{Bucket, Object};
use consensus::meta::query::{List, Page};
use fabric::ids::BucketId;
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::listing::{self, Asked};
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;

/// See the module.
pub struct ListObjects;

#[async_trait]
impl Op for ListObjects {
    fn name(&self) -> &'static str {
        "ListObjects"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET)
    }

    fn action(&self) -> Action {
        Action::ListBucket
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let bucket = cx.bucket()?;
        let input = Input::parse(bucket.id, request.query())?;
        let page = listing::page(cx, input.list.clone()).await?;
        let owners = listing::owners(cx, &page).await?;
        Ok(Response::xml(document(bucket, &input, &page, &owners)))
    }
}

struct Input {
    list: List,
    asked: Asked,
}

impl Input {
    fn parse(bucket: BucketId, query: &Query) -> S3Result<Input> {
        let asked = Asked::parse(query, "max-keys")?;
        let list = List {
            bucket,
            prefix: asked.prefix.clone(),
            delimiter: asked.delimiter.clone(),
            after: listing::marker(query.get("marker").unwrap_or("")),
            limit: asked.limit,
        };
        Ok(Input { list, asked })
    }
}

fn document(bucket: &Bucket, input: &Input, page: &Page<Object>, owners: &[Arc<str>]) -> XmlWriter {
    let encoding = input.asked.encoding;
    let mut xml = XmlWriter::new();
    xml.root("ListBucketResult");
    xml.text("Name", bucket.name.as_str());
    input.asked.write(&mut xml, "MaxKeys");
    encoding.write(&mut xml, "Marker", &input.list.after);
    // Also without a delimiter: a page that passed over many rows may end after its last key.
    if page.more {
        encoding.write(&mut xml, "NextMarker", &page.position);
    }
    xml.value("IsTruncated", page.more);
    listing::entries(&mut xml, &page.entries, encoding, Some(owners));
    xml.close("ListBucketResult");
    xml
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::{ClusterMs, Versioning};
    use consensus::meta::query::PageEntry;

    use super::*;
    use crate::s3::reading::tests::object;

    #[test]
    fn document_of_a_page() {
        let bucket = Bucket {
            id: BucketId(1),
            name: "photos".parse().unwrap(),
            owner: "ann".parse().unwrap(),
            created: ClusterMs(0),
            epoch: 0,
            versioning: Versioning::Off,
        };
        let query = Query::parse("prefix=a%20&delimiter=/&max-keys=2&encoding-type=url&marker=a").unwrap();
        let input = Input::parse(bucket.id, &query).unwrap();
        let page = Page {
            entries: vec![
                PageEntry::Prefix("a /".to_string()),
                PageEntry::Item("a <".parse().unwrap(), object(3)),
            ],
            more: true,
            position: "a <".to_string(),
            position_stamp: None,
        };
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>photos</Name>\
            <Prefix>a+</Prefix><Delimiter>/</Delimiter><MaxKeys>2</MaxKeys><EncodingType>url</EncodingType>\
            <Marker>a</Marker><NextMarker>a+%3C</NextMarker><IsTruncated>true</IsTruncated>\
            <Contents><Key>a+%3C</Key><LastModified>2013-05-24T00:00:00.000Z</LastModified>\
            <ETag>&quot;abababababababababababababababab&quot;</ETag><Size>3</Size>\
            <Owner><ID>ann</ID><DisplayName>ann</DisplayName></Owner><StorageClass>STANDARD</StorageClass></Contents>\
            <CommonPrefixes><Prefix>a+/</Prefix></CommonPrefixes></ListBucketResult>";
        assert_eq!(document(&bucket, &input, &page, &["ann".into()]).finish(), expected);
    }
}
