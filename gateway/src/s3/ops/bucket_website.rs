//! GetBucketWebsite, PutBucketWebsite and DeleteBucketWebsite. What they set is served by [`crate::s3::website`].

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, SettingKind};
use fabric::limits::CONFIGURATION_BYTES_MAX;
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::website::configuration::{check, document};
use crate::s3::xml::WebsiteDocument;

/// See the module.
pub struct GetBucketWebsite;

#[async_trait]
impl Op for GetBucketWebsite {
    fn name(&self) -> &'static str {
        "GetBucketWebsite"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("website")
    }

    fn action(&self) -> Action {
        Action::GetBucketWebsite
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::Website).await? {
            Some(BucketSetting::Website(website)) => Ok(Response::xml(document(&website))),
            _ => Err(S3Error::from(Code::NoSuchWebsiteConfiguration)
                .field("BucketName", cx.bucket()?.name.as_str())),
        }
    }
}

/// See the module.
pub struct PutBucketWebsite;

#[async_trait]
impl Op for PutBucketWebsite {
    fn name(&self) -> &'static str {
        "PutBucketWebsite"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("website")
    }

    fn action(&self) -> Action {
        Action::PutBucketWebsite
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        // As on AWS, and unlike other configurations, it needs no proof: s3cmd sends none.
        let body = request.document(CONFIGURATION_BYTES_MAX).await?;
        if body.is_empty() {
            return Err(Code::MissingRequestBodyError.into());
        }
        let website = check(WebsiteDocument::parse(&body)?)?;
        cx.set(BucketSetting::Website(website)).await?;
        Ok(Response::ok())
    }
}

/// See the module.
pub struct DeleteBucketWebsite;

#[async_trait]
impl Op for DeleteBucketWebsite {
    fn name(&self) -> &'static str {
        "DeleteBucketWebsite"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("website")
    }

    fn action(&self) -> Action {
        Action::DeleteBucketWebsite
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Website).await?;
        Ok(Response::no_content())
    }
}
