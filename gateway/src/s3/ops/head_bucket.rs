//! HeadBucket: whether the bucket is there for the requester, and in which region.

use async_trait::async_trait;
use consensus::meta::query::Query;
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;

/// See the module.
pub struct HeadBucket;

#[async_trait]
impl Op for HeadBucket {
    fn name(&self) -> &'static str {
        "HeadBucket"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::HEAD)
    }

    fn action(&self) -> Action {
        Action::ListBucket
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        // The dispatcher's record may be seconds old, and this is the operation that asks for the truth.
        cx.ask(Query::Usage(cx.bucket()?.id)).await?;
        let response = Response::ok().header(http::header::CONTENT_TYPE, "application/xml");
        Ok(response.amz("x-amz-bucket-region", &*cx.region).amz("x-amz-access-point-alias", "false"))
    }
}
