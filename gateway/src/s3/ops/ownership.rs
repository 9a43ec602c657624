//! Who owns what others write into a bucket, and so whether there are access control lists in it; and who pays.

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, SettingKind};
use http::Method;

use crate::s3::acl::{self, ownership_by_name, ownership_name};
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{XmlWriter, object_ownership, payer};

/// GetBucketOwnershipControls.
pub struct GetBucketOwnershipControls;

#[async_trait]
impl Op for GetBucketOwnershipControls {
    fn name(&self) -> &'static str {
        "GetBucketOwnershipControls"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("ownershipControls")
    }

    fn action(&self) -> Action {
        Action::GetBucketOwnershipControls
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        let ownership = match cx.setting(SettingKind::OwnerEnforced).await? {
            Some(setting) => ownership_name(acl::ownership_of(&[setting])),
            None => return Err(Code::OwnershipControlsNotFoundError.into()),
        };
        let mut xml = XmlWriter::new();
        xml.root("OwnershipControls");
        xml.element("Rule", |xml| xml.text("ObjectOwnership", ownership));
        xml.close("OwnershipControls");
        Ok(Response::xml(xml))
    }
}

/// PutBucketOwnershipControls.
pub struct PutBucketOwnershipControls;

#[async_trait]
impl Op for PutBucketOwnershipControls {
    fn name(&self) -> &'static str {
        "PutBucketOwnershipControls"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("ownershipControls")
    }

    fn action(&self) -> Action {
        Action::PutBucketOwnershipControls
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let text = object_ownership(&request.configuration().await?)?;
        match ownership_by_name(&text).ok_or(Code::MalformedXML)? {
            Some(ownership) => cx.set(BucketSetting::ObjectOwnership(ownership)).await?,
            // A list that would mean nothing from now on has to be given up before.
            None if cx.setting(SettingKind::Acl).await?.is_some() => {
                return Err(Code::InvalidBucketAclWithObjectOwnership.into());
            }
            None => cx.set(BucketSetting::OwnerEnforced).await?,
        }
        Ok(Response::ok())
    }
}

/// DeleteBucketOwnershipControls.
pub struct DeleteBucketOwnershipControls;

#[async_trait]
impl Op for DeleteBucketOwnershipControls {
    fn name(&self) -> &'static str {
        "DeleteBucketOwnershipControls"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("ownershipControls")
    }

    fn action(&self) -> Action {
        Action::PutBucketOwnershipControls
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::OwnerEnforced).await?;
        Ok(Response::no_content())
    }
}

/// PutBucketRequestPayment: the owner pays.
pub struct PutBucketRequestPayment;

#[async_trait]
impl Op for PutBucketRequestPayment {
    fn name(&self) -> &'static str {
        "PutBucketRequestPayment"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("requestPayment")
    }

    fn action(&self) -> Action {
        Action::PutBucketRequestPayment
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, _cx: &Context, mut request: Request) -> S3Result<Response> {
        match payer(&request.configuration().await?)?.as_str() {
            "BucketOwner" => Ok(Response::ok()),
            "Requester" => Err(Code::NotImplemented.says("Nobody pays here: the payer is BucketOwner.")),
            _ => Err(Code::MalformedXML.into()),
        }
    }
}
