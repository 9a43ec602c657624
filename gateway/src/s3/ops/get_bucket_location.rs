//! GetBucketLocation: the region, which for us-east-1 is written as nothing.

use async_trait::async_trait;
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;

/// See the module.
pub struct GetBucketLocation;

#[async_trait]
impl Op for GetBucketLocation {
    fn name(&self) -> &'static str {
        "GetBucketLocation"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("location")
    }

    fn action(&self) -> Action {
        Action::GetBucketLocation
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        Ok(Response::xml(document(&cx.region)))
    }
}

fn document(region: &str) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("LocationConstraint");
    if region != "us-east-1" {
        xml.content(region);
    }
    xml.close("LocationConstraint");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn us_east_1_is_empty() {
        let start = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
        for (region, text) in [("us-east-1", ""), ("eu-west-3", "eu-west-3")] {
            assert_eq!(document(region).finish(), format!("{start}{text}</LocationConstraint>"));
        }
    }
}
