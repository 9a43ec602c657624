//! Object lock: the configuration of a bucket, the retention and the legal hold of a version.

use async_trait::async_trait;
use consensus::meta::command::{Command, LockChange, SetLock};
use consensus::meta::model::{BucketSetting, Origin, SettingKind};
use consensus::meta::query::Want;
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{ObjectLockDocument, RetentionDocument, legal_hold};
use crate::s3::{locks, reading, versions};

/// See the module.
pub struct GetObjectLockConfiguration;

#[async_trait]
impl Op for GetObjectLockConfiguration {
    fn name(&self) -> &'static str {
        "GetObjectLockConfiguration"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("object-lock")
    }

    fn action(&self) -> Action {
        Action::GetBucketObjectLockConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::ObjectLock).await? {
            Some(BucketSetting::ObjectLock(lock)) => Ok(Response::xml(locks::configuration_document(&lock))),
            _ => Err(Code::ObjectLockConfigurationNotFoundError.into()),
        }
    }
}

/// See the module.
pub struct PutObjectLockConfiguration;

#[async_trait]
impl Op for PutObjectLockConfiguration {
    fn name(&self) -> &'static str {
        "PutObjectLockConfiguration"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("object-lock")
    }

    fn action(&self) -> Action {
        Action::PutBucketObjectLockConfiguration
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let document = ObjectLockDocument::parse(&request.configuration().await?)?;
        cx.set(BucketSetting::ObjectLock(locks::configuration(&document)?)).await?;
        Ok(Response::ok())
    }
}

/// See the module.
pub struct GetObjectRetention;

#[async_trait]
impl Op for GetObjectRetention {
    fn name(&self) -> &'static str {
        "GetObjectRetention"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("retention")
    }

    fn action(&self) -> Action {
        Action::GetObjectRetention
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        must_lock(cx).await?;
        let version = versions::from_query(request.query())?;
        let view = reading::version(cx, request.key(), version, Want::Row).await?;
        match locks::of_version(cx, request.key(), &view.object).await?.retention {
            Some(retention) => Ok(Response::xml(locks::retention_document(&retention))),
            None => Err(Code::NoSuchObjectLockConfiguration.into()),
        }
    }
}

/// See the module.
pub struct PutObjectRetention;

#[async_trait]
impl Op for PutObjectRetention {
    fn name(&self) -> &'static str {
        "PutObjectRetention"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("retention")
    }

    fn action(&self) -> Action {
        Action::PutObjectRetention
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let wanted = locks::retention(&RetentionDocument::parse(&request.configuration().await?)?)?;
        set(cx, request, LockChange::Retention(wanted)).await
    }
}

/// See the module.
pub struct GetObjectLegalHold;

#[async_trait]
impl Op for GetObjectLegalHold {
    fn name(&self) -> &'static str {
        "GetObjectLegalHold"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("legal-hold")
    }

    fn action(&self) -> Action {
        Action::GetObjectLegalHold
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        must_lock(cx).await?;
        let version = versions::from_query(request.query())?;
        let view = reading::version(cx, request.key(), version, Want::Row).await?;
        let held = locks::of_version(cx, request.key(), &view.object).await?.legal_hold;
        Ok(Response::xml(locks::legal_hold_document(held)))
    }
}

/// See the module.
pub struct PutObjectLegalHold;

#[async_trait]
impl Op for PutObjectLegalHold {
    fn name(&self) -> &'static str {
        "PutObjectLegalHold"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("legal-hold")
    }

    fn action(&self) -> Action {
        Action::PutObjectLegalHold
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let held = legal_hold(&request.configuration().await?)?;
        set(cx, request, LockChange::LegalHold(held)).await
    }
}

async fn must_lock(cx: &Context) -> S3Result<()> {
    match cx.setting(SettingKind::ObjectLock).await? {
        Some(_) => Ok(()),
        None => Err(Code::InvalidRequest.says("Bucket is missing Object Lock Configuration")),
    }
}

async fn set(cx: &Context, request: Request, change: LockChange) -> S3Result<Response> {
    let (key, version) = (request.key().clone(), versions::from_query(request.query())?);
    let bypass = locks::bypass(request.headers())?;
    must_lock(cx).await?;
    // The same refusals as a read: they tell of delete markers.
    reading::version(cx, &key, version, Want::Row).await?;
    let command = SetLock { bucket: cx.bucket()?.id, key, version, change, bypass };
    cx.propose(Command::ChangeLock(command, Origin::default())).await?;
    Ok(Response::ok())
}
