//! GetBucketAcl, PutBucketAcl, GetObjectAcl and PutObjectAcl.

use async_trait::async_trait;
use consensus::meta::acl::{ObjectAcl, WantedAcl, private};
use consensus::meta::command::{Command, SetAcl, VersionSelector};
use consensus::meta::model::{BucketSetting, Origin, SettingKind};
use consensus::meta::query::Want;
use fabric::limits::CONFIGURATION_BYTES_MAX;
use http::Method;

use crate::s3::acl::{About, document, of_document, of_headers, of_version, ownership_of};
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::AclDocument;
use crate::s3::{reading, versions};

/// See the module.
pub struct GetBucketAcl;

#[async_trait]
impl Op for GetBucketAcl {
    fn name(&self) -> &'static str {
        "GetBucketAcl"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("acl")
    }

    fn action(&self) -> Action {
        Action::GetBucketAcl
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        let owner = cx.bucket()?.owner.clone();
        let has_lists = has_lists(cx).await?;
        let grants = match cx.setting(SettingKind::Acl).await? {
            Some(BucketSetting::Acl(grants)) if has_lists => grants,
            _ => private(&owner),
        };
        Ok(Response::xml(document(&ObjectAcl { owner, grants })))
    }
}

/// Whether the bucket has lists, as of now.
async fn has_lists(cx: &Context) -> S3Result<bool> {
    let setting = cx.setting(SettingKind::OwnerEnforced).await?;
    Ok(ownership_of(setting.as_slice()).is_some())
}

/// See the module.
pub struct PutBucketAcl;

#[async_trait]
impl Op for PutBucketAcl {
    fn name(&self) -> &'static str {
        "PutBucketAcl"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("acl")
    }

    fn action(&self) -> Action {
        Action::PutBucketAcl
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let (named_owner, wanted) = wanted(&mut request, About::Bucket).await?;
        let owner = &cx.bucket()?.owner;
        check_owner(named_owner.as_deref(), owner.as_str())?;
        let grants = wanted.grants(owner, owner);
        match grants == private(owner) {
            true => cx.unset(SettingKind::Acl).await?,
            false => cx.set(BucketSetting::Acl(grants)).await?,
        }
        Ok(Response::ok())
    }
}

/// The list that a request wants, by its headers or its body, and the owner that it names.
async fn wanted(request: &mut Request, about: About) -> S3Result<(Option<String>, WantedAcl)> {
    let said = of_headers(request.headers(), about)?;
    let body = request.document(CONFIGURATION_BYTES_MAX).await?;
    match said {
        Some(_) if !body.is_empty() => Err(Code::UnexpectedContent.into()),
        Some(said) => Ok((None, said)),
        None if body.is_empty() => Err(Code::MissingRequestBodyError.into()),
        None => {
            let (owner, wanted) = of_document(AclDocument::parse(&body)?)?;
            Ok((Some(owner), wanted))
        }
    }
}

/// An owner does not change.
fn check_owner(named: Option<&str>, owner: &str) -> S3Result<()> {
    match named {
        Some(named) if named != owner => Err(Code::AccessDenied.into()),
        _ => Ok(()),
    }
}

/// See the module.
pub struct GetObjectAcl;

#[async_trait]
impl Op for GetObjectAcl {
    fn name(&self) -> &'static str {
        "GetObjectAcl"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("acl")
    }

    fn action(&self) -> Action {
        Action::GetObjectAcl
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let selector = versions::from_query(request.query())?;
        let view = reading::version(cx, request.key(), selector, Want::Row).await?;
        let exactly = versions::exactly(&view.object);
        let acl = of_version(cx, request.key(), Some(exactly)).await?;
        Ok(versions::show(Response::xml(document(&acl)), cx.bucket()?, &view.object))
    }
}

/// See the module.
pub struct PutObjectAcl;

#[async_trait]
impl Op for PutObjectAcl {
    fn name(&self) -> &'static str {
        "PutObjectAcl"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("acl")
    }

    fn action(&self) -> Action {
        Action::PutObjectAcl
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let (named_owner, acl) = wanted(&mut request, About::Object).await?;
        let selector = versions::from_query(request.query())?;
        let key = request.key().clone();
        let view = reading::version(cx, &key, selector, Want::Row).await?;
        let version: VersionSelector = versions::exactly(&view.object);
        let owner = of_version(cx, &key, Some(version)).await?.owner;
        check_owner(named_owner.as_deref(), owner.as_str())?;
        let command = SetAcl { bucket: cx.bucket()?.id, key, version: Some(version), acl };
        cx.propose(Command::ChangeAcl(command, Origin::default())).await?;
        Ok(versions::show(Response::ok(), cx.bucket()?, &view.object))
    }
}
