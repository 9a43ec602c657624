//! GetBucketCors, PutBucketCors and DeleteBucketCors. The rules themselves are in [`crate::s3::cors`].

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, SettingKind};
use http::Method;

use crate::s3::cors;
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::cors_rules;

/// See the module.
pub struct GetBucketCors;

#[async_trait]
impl Op for GetBucketCors {
    fn name(&self) -> &'static str {
        "GetBucketCors"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("cors")
    }

    fn action(&self) -> Action {
        Action::GetBucketCors
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::Cors).await? {
            Some(BucketSetting::Cors(rules)) => Ok(Response::xml(cors::document(&rules))),
            _ => Err(Code::NoSuchCORSConfiguration.into()),
        }
    }
}

/// See the module.
pub struct PutBucketCors;

#[async_trait]
impl Op for PutBucketCors {
    fn name(&self) -> &'static str {
        "PutBucketCors"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("cors")
    }

    fn action(&self) -> Action {
        Action::PutBucketCors
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let rules = cors::check(cors_rules(&request.configuration().await?)?)?;
        cx.set(BucketSetting::Cors(rules)).await?;
        Ok(Response::ok())
    }
}

/// See the module.
pub struct DeleteBucketCors;

#[async_trait]
impl Op for DeleteBucketCors {
    fn name(&self) -> &'static str {
        "DeleteBucketCors"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("cors")
    }

    fn action(&self) -> Action {
        Action::PutBucketCors
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Cors).await?;
        Ok(Response::no_content())
    }
}
