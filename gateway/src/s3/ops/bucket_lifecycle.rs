//! GetBucketLifecycleConfiguration, PutBucketLifecycleConfiguration and DeleteBucketLifecycle. The rules themselves are in
//! [`crate::s3::lifecycle`].

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, SettingKind};
use http::Method;

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::lifecycle;
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::lifecycle_rules;

/// See the module.
pub struct GetBucketLifecycleConfiguration;

#[async_trait]
impl Op for GetBucketLifecycleConfiguration {
    fn name(&self) -> &'static str {
        "GetBucketLifecycleConfiguration"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("lifecycle")
    }

    fn action(&self) -> Action {
        Action::GetLifecycleConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::Lifecycle).await?.and_then(BucketSetting::into_lifecycle) {
            Some(rules) => {
                let response = Response::xml(lifecycle::document(&rules));
                Ok(lifecycle::show_minimum(response, rules.transition_minimum))
            }
            None => {
                let missing = S3Error::from(Code::NoSuchLifecycleConfiguration);
                Err(missing.field("BucketName", cx.bucket()?.name.as_str()))
            }
        }
    }
}

/// See the module.
pub struct PutBucketLifecycleConfiguration;

#[async_trait]
impl Op for PutBucketLifecycleConfiguration {
    fn name(&self) -> &'static str {
        "PutBucketLifecycleConfiguration"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("lifecycle")
    }

    fn action(&self) -> Action {
        Action::PutLifecycleConfiguration
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let minimum = lifecycle::minimum_of_headers(request.headers())?;
        let rules = lifecycle_rules(&request.configuration().await?)?;
        let name = || {
            let mut id = [0; 16];
            cx.env.random(&mut id);
            hex::encode(id)
        };
        let rules = lifecycle::check(rules, minimum, cx.lifecycle_day_ms, name)?;
        cx.set(BucketSetting::of_lifecycle(rules)).await?;
        Ok(lifecycle::show_minimum(Response::ok(), minimum))
    }
}

/// See the module.
pub struct DeleteBucketLifecycle;

#[async_trait]
impl Op for DeleteBucketLifecycle {
    fn name(&self) -> &'static str {
        "DeleteBucketLifecycle"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("lifecycle")
    }

    fn action(&self) -> Action {
        Action::PutLifecycleConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Lifecycle).await?;
        Ok(Response::no_content())
    }
}
