//! GetBucketTagging, PutBucketTagging and DeleteBucketTagging.

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, SettingKind};
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::tags;
use crate::s3::xml::tagging;

/// See the module.
pub struct GetBucketTagging;

#[async_trait]
impl Op for GetBucketTagging {
    fn name(&self) -> &'static str {
        "GetBucketTagging"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("tagging")
    }

    fn action(&self) -> Action {
        Action::GetBucketTagging
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::Tags).await? {
            Some(BucketSetting::Tags(tags)) => Ok(Response::xml(tags::document(&tags))),
            _ => Err(Code::NoSuchTagSet.into()),
        }
    }
}

/// See the module.
pub struct PutBucketTagging;

#[async_trait]
impl Op for PutBucketTagging {
    fn name(&self) -> &'static str {
        "PutBucketTagging"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("tagging")
    }

    fn action(&self) -> Action {
        Action::PutBucketTagging
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let tags = tags::of_bucket(tagging(&request.configuration().await?)?)?;
        cx.set(BucketSetting::Tags(tags)).await?;
        Ok(Response::no_content())
    }
}

/// See the module.
pub struct DeleteBucketTagging;

#[async_trait]
impl Op for DeleteBucketTagging {
    fn name(&self) -> &'static str {
        "DeleteBucketTagging"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("tagging")
    }

    fn action(&self) -> Action {
        Action::PutBucketTagging
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Tags).await?;
        Ok(Response::no_content())
    }
}
