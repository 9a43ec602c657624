//! SearchObjects and SearchBucket, which S3 has not: objects of all buckets, or of one, by a query. See
//! [`crate::s3::search`].

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::search::{Asked, Format};
use crate::s3::searching_all;

/// A search, over the service or a bucket.
pub struct Search {
    name: &'static str,
    at: fn(Method) -> Route,
}

/// Over all buckets.
pub static OBJECTS: Search = Search { name: "SearchObjects", at: Route::service };
/// Over the bucket of the path.
pub static BUCKET: Search = Search { name: "SearchBucket", at: Route::bucket };

#[async_trait]
impl Op for Search {
    fn name(&self) -> &'static str {
        self.name
    }

    fn route(&self) -> Route {
        (self.at)(Method::GET).with("search")
    }

    fn action(&self) -> Action {
        Action::ListBucket
    }

    fn is_judged_by_body(&self) -> bool {
        true
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        answer(cx, request.query()).await
    }
}

async fn answer(cx: &Context, query: &Query) -> S3Result<Response> {
    let asked = Asked::parse(query, &cx.region)?;
    let found = searching_all::find_here_or_everywhere(cx, &asked).await?;
    let response = match asked.format {
        Format::Xml(encoding) => Response::xml(found.xml(&asked, encoding)),
        Format::Json => Response::ok()
            .header(CONTENT_TYPE, "application/json")
            .bytes(Bytes::from(found.json(&asked).to_string())),
    };
    Ok(response.amz("x-fluffy-index", found.index().to_string()))
}
