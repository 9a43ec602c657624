//! AbortMultipartUpload: forget an upload; its parts become garbage.

use async_trait::async_trait;
use consensus::meta::command::{AbortUpload, Command};
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::versions;

/// See the module.
pub struct AbortMultipartUpload;

#[async_trait]
impl Op for AbortMultipartUpload {
    fn name(&self) -> &'static str {
        "AbortMultipartUpload"
    }

    fn route(&self) -> Route {
        Route::object(Method::DELETE).with("uploadId")
    }

    fn action(&self) -> Action {
        Action::AbortMultipartUpload
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let upload = versions::upload(request.query())?;
        let command = AbortUpload { bucket: cx.bucket()?.id, key: request.key().clone(), upload };
        cx.propose(Command::AbortUpload(command)).await?;
        Ok(Response::no_content())
    }
}
