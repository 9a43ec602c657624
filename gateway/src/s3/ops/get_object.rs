//! GetObject: the bytes of one version.
//!
//! The version is chosen once, by a linearizable read; what it names stays readable until the last byte is sent.

use async_trait::async_trait;
use consensus::meta::query::Want;
use futures::StreamExt as _;
use http::Method;

use crate::s3::error::{BoxError, S3Result};
use crate::s3::op::{Action, Context, Op};
use crate::s3::reading::{Found, Input, not_modified};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::{bodies, encryption};

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
        let Found { response, range, object, body, guard } = found;
        let Some(range) = range else {
            return Ok(not_modified(response));
        };
        let bytes = range.end - range.start;
        let key = encryption::body_key(cx, &object, customer.as_ref())?;
        let mut stream = bodies::read(cx, body, key.as_ref(), range, guard);
        // A failure before the first byte can still be told in the status.
        stream.start().await?;
        let pieces = stream.map(|piece| piece.map_err(|error| Box::new(error) as BoxError));
        Ok(response.stream(bytes, pieces.boxed()))
    }
}
