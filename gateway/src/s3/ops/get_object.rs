//! GetObject: the bytes of one version.
//!
//! The version is chosen once, by a linearizable read; what it names stays readable until the last byte is sent.

use async_trait::async_trait;
use consensus::meta::query::Want;
use http::Method;

use crate::s3::encryption;
use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::reading::Input;
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;

/// See the module.
pub struct GetObject;

#[async_trait]
impl Op for GetObject {
    fn name(&self) -> &'static str {
        "GetObject"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET)
    }

    fn action(&self) -> Action {
        Action::GetObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let input = Input::parse(request.query(), request.headers())?;
        let customer = encryption::of_reader(&request)?;
        let found = input.find(cx, request.key(), Want::Body, customer.as_ref()).await?;
        found.with_body(cx, customer.as_ref()).await
    }
}
