//! GetBucketVersioning: well formed also for a bucket that was never versioned.

use async_trait::async_trait;
use consensus::meta::model::Versioning;
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;

/// See the module.
pub struct GetBucketVersioning;

#[async_trait]
impl Op for GetBucketVersioning {
    fn name(&self) -> &'static str {
        "GetBucketVersioning"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("versioning")
    }

    fn action(&self) -> Action {
        Action::GetBucketVersioning
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        Ok(Response::xml(document(cx.bucket_now().await?.versioning)))
    }
}

fn document(versioning: Versioning) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("VersioningConfiguration");
    let status = match versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some("Enabled"),
        Versioning::Suspended => Some("Suspended"),
    };
    xml.optional("Status", status);
    xml.close("VersioningConfiguration");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_versioned_has_no_status() {
        assert!(!document(Versioning::Off).finish().contains("Status"));
        assert!(document(Versioning::Suspended).finish().contains("<Status>Suspended</Status>"));
    }
}
