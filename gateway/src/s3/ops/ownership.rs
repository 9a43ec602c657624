//! Who owns what, which cannot be changed here: everything belongs to the owner of its bucket. Asking for just that is
//! done, asking for anything else refused.

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, SettingKind};
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{XmlWriter, grants, object_ownership, payer};

const ENFORCED: &str = "BucketOwnerEnforced";

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
        if cx.setting(SettingKind::OwnerEnforced).await?.is_none() {
            return Err(Code::OwnershipControlsNotFoundError.into());
        }
        let mut xml = XmlWriter::new();
        xml.root("OwnershipControls");
        xml.element("Rule", |xml| xml.text("ObjectOwnership", ENFORCED));
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
        match object_ownership(&request.configuration().await?)?.as_str() {
            ENFORCED => cx.set(BucketSetting::OwnerEnforced).await?,
            "BucketOwnerPreferred" | "ObjectWriter" => {
                return Err(Code::NotImplemented.says("Objects belong to the owner of their bucket here."));
            }
            _ => return Err(Code::MalformedXML.into()),
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

/// PutBucketAcl and PutObjectAcl. The header says what the bucket is anyway, or was refused before; a document may say
/// that its owner may do everything.
pub struct PutAcl {
    name: &'static str,
    object: bool,
    action: Action,
}

/// Both of them.
pub static ACLS: [PutAcl; 2] = [
    PutAcl { name: "PutBucketAcl", object: false, action: Action::PutBucketAcl },
    PutAcl { name: "PutObjectAcl", object: true, action: Action::PutObjectAcl },
];

#[async_trait]
impl Op for PutAcl {
    fn name(&self) -> &'static str {
        self.name
    }

    fn route(&self) -> Route {
        match self.object {
            true => Route::object(Method::PUT).with("acl"),
            false => Route::bucket(Method::PUT).with("acl"),
        }
    }

    fn action(&self) -> Action {
        self.action
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let said = request.headers().contains_key("x-amz-acl");
        let document = request.document(fabric::limits::CONFIGURATION_BYTES_MAX).await?;
        match (said, document.is_empty()) {
            (true, true) => {}
            (true, false) => {
                return Err(Code::UnexpectedContent.into());
            }
            (false, true) => return Err(Code::MissingRequestBodyError.into()),
            (false, false) => {
                let owner = cx.bucket()?.owner.as_str();
                let grants = grants(&document)?;
                if grants != [(owner.to_string(), "FULL_CONTROL".to_string())] {
                    return Err(Code::AccessControlListNotSupported.into());
                }
            }
        }
        if self.object {
            let version = crate::s3::versions::from_query(request.query())?;
            let key = request.key().clone();
            crate::s3::reading::version(cx, &key, version, consensus::meta::query::Want::Row).await?;
        }
        Ok(Response::ok())
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
