//! DeleteBucket: only when nothing is left in it.

use async_trait::async_trait;
use consensus::meta::command::{Command, DeleteBucket as DeleteCommand};
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;

/// See the module.
pub struct DeleteBucket;

#[async_trait]
impl Op for DeleteBucket {
    fn name(&self) -> &'static str {
        "DeleteBucket"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE)
    }

    fn action(&self) -> Action {
        Action::DeleteBucket
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.propose(Command::DeleteBucket(DeleteCommand { bucket: cx.bucket()?.id })).await?;
        Ok(Response::no_content())
    }
}
