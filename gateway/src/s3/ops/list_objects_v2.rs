//! ListObjectsV2: a page of current versions. Pages are stateless; the token says where the next one begins.

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
pub struct ListObjectsV2;

#[async_trait]
impl Op for ListObjectsV2 {
    fn name(&self) -> &'static str {
        "ListObjectsV2"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with_value("list-type", "2")
    }

    fn action(&self) -> Action {
        Action::ListBucket
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let bucket = cx.bucket()?;
        let input = Input::parse(bucket.id, request.query())?;
        let page = listing::page(cx, input.list.clone()).await?;
        let owners = match input.fetch_owner {
            true => Some(listing::owners(cx, &page).await?),
            false => None,
        };
        Ok(Response::xml(document(bucket, &input, &page, owners.as_deref())))
    }
}

struct Input {
    list: List,
    token: Option<String>,
    start_after: Option<String>,
    fetch_owner: bool,
    asked: Asked,
}

impl Input {
    fn parse(bucket: BucketId, query: &Query) -> S3Result<Input> {
        let token = query.get("continuation-token").map(str::to_string);
        let start_after = query.non_empty("start-after").map(listing::marker);
        let after = match &token {
            Some(token) => listing::from_token(bucket, token)?,
            None => start_after.clone().unwrap_or_default(),
        };
        let asked = Asked::parse(query, "max-keys")?;
        let list = List {
            bucket,
            prefix: asked.prefix.clone(),
            delimiter: asked.delimiter.clone(),
            after,
            limit: asked.limit,
        };
        let fetch_owner = query.get("fetch-owner") == Some("true");
        Ok(Input { list, token, start_after, fetch_owner, asked })
    }
}

fn document(bucket: &Bucket, input: &Input, page: &Page<Object>, owners: Option<&[Arc<str>]>) -> XmlWriter {
    let encoding = input.asked.encoding;
    let mut xml = XmlWriter::new();
    xml.root("ListBucketResult");
    xml.text("Name", bucket.name.as_str());
    input.asked.write(&mut xml, "MaxKeys");
    xml.value("KeyCount", page.entries.len());
    xml.value("IsTruncated", page.more);
    xml.optional("ContinuationToken", input.token.as_deref());
    if let Some(start_after) = &input.start_after {
        encoding.write(&mut xml, "StartAfter", start_after);
    }
    if page.more {
        xml.text("NextContinuationToken", &listing::token(bucket.id, &page.position));
    }
    listing::entries(&mut xml, &page.entries, encoding, owners);
    xml.close("ListBucketResult");
    xml
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::Code;

    #[test]
    fn a_token_goes_before_start_after() {
        let parse = |text: &str| Input::parse(BucketId(1), &Query::parse(text).unwrap());
        assert_eq!(parse("start-after=b").unwrap().list.after, "b");
        let both = format!("start-after=b&continuation-token={}", listing::token(BucketId(1), "c"));
        assert_eq!(parse(&both).unwrap().list.after, "c");
        for bad in ["continuation-token=", "continuation-token=abc", "max-keys=-1", "encoding-type=x"] {
            assert_eq!(parse(bad).err().unwrap().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
