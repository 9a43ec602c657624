//! PutBucketVersioning: enabled or suspended; what was enabled once is never off again.

use async_trait::async_trait;
use consensus::meta::command::BucketChange;
use consensus::meta::model::Versioning;
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::VersioningDocument;

/// See the module.
pub struct PutBucketVersioning;

#[async_trait]
impl Op for PutBucketVersioning {
    fn name(&self) -> &'static str {
        "PutBucketVersioning"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("versioning")
    }

    fn action(&self) -> Action {
        Action::PutBucketVersioning
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let versioning = wanted(&VersioningDocument::parse(&request.configuration().await?)?)?;
        cx.change(BucketChange::Versioning(versioning)).await?;
        Ok(Response::ok())
    }
}

fn wanted(document: &VersioningDocument) -> S3Result<Versioning> {
    match document.mfa_delete.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled") => return Err(Code::NotImplemented.says("MFA delete is not implemented.")),
        Some(_) => return Err(Code::MalformedXML.into()),
    }
    match document.status.as_deref() {
        Some("Enabled") => Ok(Versioning::Enabled),
        Some("Suspended") => Ok(Versioning::Suspended),
        Some(_) => Err(Code::MalformedXML.into()),
        None => Err(Code::IllegalVersioningConfigurationException.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let document = |status: Option<&str>, mfa: Option<&str>| VersioningDocument {
            status: status.map(str::to_string),
            mfa_delete: mfa.map(str::to_string),
        };
        assert_eq!(wanted(&document(Some("Enabled"), None)).unwrap(), Versioning::Enabled);
        assert_eq!(wanted(&document(Some("Suspended"), Some("Disabled"))).unwrap(), Versioning::Suspended);
        for (status, mfa, code) in [
            (None, None, Code::IllegalVersioningConfigurationException),
            (Some("Off"), None, Code::MalformedXML),
            (Some("Enabled"), Some("Enabled"), Code::NotImplemented),
            (Some("Enabled"), Some("x"), Code::MalformedXML),
        ] {
            assert_eq!(wanted(&document(status, mfa)).unwrap_err().code(), code);
        }
    }
}
