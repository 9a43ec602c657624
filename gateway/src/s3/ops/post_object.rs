//! POST object: an upload by the form of a browser. It is the upload of one object in other clothes; see
//! [`crate::s3::form`].

use async_trait::async_trait;
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;

/// See the module.
pub struct PostObject {
    /// What stores the file.
    pub upload: &'static dyn Op,
}

#[async_trait]
impl Op for PostObject {
    fn name(&self) -> &'static str {
        "PostObject"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::POST)
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    fn body(&self) -> BodyRule {
        BodyRule::Form
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let reply = request.take_reply().ok_or(Code::MalformedPOSTRequest)?;
        Ok(reply.answer(self.upload.run(cx, request).await?))
    }
}
