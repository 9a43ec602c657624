//! GetBucketPolicy, PutBucketPolicy, DeleteBucketPolicy and GetBucketPolicyStatus. The language is in
//! [`crate::s3::policy`], what it decides in [`crate::s3::access`].

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, PublicAccessBlock, SettingKind};
use fabric::limits::POLICY_BYTES_MAX;
use http::Method;
use http::header::CONTENT_TYPE;

use crate::s3::access;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;

/// See the module.
pub struct GetBucketPolicy;

#[async_trait]
impl Op for GetBucketPolicy {
    fn name(&self) -> &'static str {
        "GetBucketPolicy"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("policy")
    }

    fn action(&self) -> Action {
        Action::GetBucketPolicy
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        let text = stored(cx).await?;
        Ok(Response::ok().header(CONTENT_TYPE, "application/json").bytes(text.into()))
    }
}

async fn stored(cx: &Context) -> S3Result<String> {
    match cx.setting(SettingKind::Policy).await? {
        Some(BucketSetting::Policy(text)) => Ok(text),
        _ => {
            let bucket = cx.bucket()?.name.as_str();
            Err(S3Error::from(Code::NoSuchBucketPolicy).field("BucketName", bucket))
        }
    }
}

/// See the module.
pub struct PutBucketPolicy;

#[async_trait]
impl Op for PutBucketPolicy {
    fn name(&self) -> &'static str {
        "PutBucketPolicy"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("policy")
    }

    fn action(&self) -> Action {
        Action::PutBucketPolicy
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        // More than a policy may have, so that one that is too long is told as that.
        let body = request.document(2 * POLICY_BYTES_MAX).await?;
        if body.is_empty() {
            return Err(Code::MissingRequestBodyError.into());
        }
        let malformed = || Code::MalformedPolicy.says("The policy is not UTF-8.");
        let text = String::from_utf8(body.to_vec()).map_err(|_| malformed())?;
        let block = match cx.setting(SettingKind::PublicAccessBlock).await? {
            Some(BucketSetting::PublicAccessBlock(block)) => block,
            _ => PublicAccessBlock::default(),
        };
        access::check_policy(&text, cx.bucket()?, block)?;
        cx.set(BucketSetting::Policy(text)).await?;
        Ok(Response::no_content())
    }
}

/// See the module.
pub struct DeleteBucketPolicy;

#[async_trait]
impl Op for DeleteBucketPolicy {
    fn name(&self) -> &'static str {
        "DeleteBucketPolicy"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("policy")
    }

    fn action(&self) -> Action {
        Action::DeleteBucketPolicy
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Policy).await?;
        Ok(Response::no_content())
    }
}

/// See the module.
pub struct GetBucketPolicyStatus;

#[async_trait]
impl Op for GetBucketPolicyStatus {
    fn name(&self) -> &'static str {
        "GetBucketPolicyStatus"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("policyStatus")
    }

    fn action(&self) -> Action {
        Action::GetBucketPolicyStatus
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        let is_public = access::is_public(&stored(cx).await?, cx.bucket()?);
        let mut xml = XmlWriter::new();
        xml.root("PolicyStatus");
        xml.value("IsPublic", is_public);
        xml.close("PolicyStatus");
        Ok(Response::xml(xml))
    }
}
