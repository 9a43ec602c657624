//! AbortMultipartUpload: forget an upload; its parts become garbage.
//!
//! The time that a client may name was fixed when the upload began, so that a look before decides it.

use async_trait::async_trait;
use consensus::meta::command::{AbortUpload, Command};
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::time::parse_http_date;
use crate::s3::{uploads, versions};

const INITIATED: &str = "x-amz-if-match-initiated-time";

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
        if let Some(text) = request.header(INITIATED)? {
            let wrong = || S3Error::argument(INITIATED, text, "The time is not an HTTP date.");
            let wanted = parse_http_date(text).ok_or_else(wrong)?;
            let found = uploads::parts(cx, request.key(), upload, 0, 0).await?.upload;
            if wanted != found.initiated.0 / 1000 {
                return Err(Code::PreconditionFailed.into());
            }
        }
        let command = AbortUpload { bucket: cx.bucket()?.id, key: request.key().clone(), upload };
        cx.propose(Command::AbortUpload(command)).await?;
        Ok(Response::no_content())
    }
}
