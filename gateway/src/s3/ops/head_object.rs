//! HeadObject: what GetObject would say, without the bytes.

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
pub struct HeadObject;

#[async_trait]
impl Op for HeadObject {
    fn name(&self) -> &'static str {
        "HeadObject"
    }

    fn route(&self) -> Route {
        Route::object(Method::HEAD)
    }

    fn action(&self) -> Action {
        Action::GetObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let input = Input::parse(request.query(), request.headers())?;
        let customer = encryption::of_reader(&request)?;
        let found = input.find(cx, request.key(), Want::Row, customer.as_ref()).await?;
        Ok(found.without_body())
    }
}
