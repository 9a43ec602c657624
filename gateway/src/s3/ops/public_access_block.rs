//! GetPublicAccessBlock, PutPublicAccessBlock and DeletePublicAccessBlock. Policies and access control lists heed it.

use async_trait::async_trait;
use consensus::meta::model::{BucketSetting, PublicAccessBlock, SettingKind};
use http::Method;

use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{XmlWriter, public_access_block};

/// See the module.
pub struct GetPublicAccessBlock;

#[async_trait]
impl Op for GetPublicAccessBlock {
    fn name(&self) -> &'static str {
        "GetPublicAccessBlock"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("publicAccessBlock")
    }

    fn action(&self) -> Action {
        Action::GetBucketPublicAccessBlock
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::PublicAccessBlock).await? {
            Some(BucketSetting::PublicAccessBlock(block)) => Ok(Response::xml(document(&block))),
            _ => Err(Code::NoSuchPublicAccessBlockConfiguration.into()),
        }
    }
}

fn document(block: &PublicAccessBlock) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("PublicAccessBlockConfiguration");
    xml.value("BlockPublicAcls", block.block_public_acls);
    xml.value("IgnorePublicAcls", block.ignore_public_acls);
    xml.value("BlockPublicPolicy", block.block_public_policy);
    xml.value("RestrictPublicBuckets", block.restrict_public_buckets);
    xml.close("PublicAccessBlockConfiguration");
    xml
}

/// See the module.
pub struct PutPublicAccessBlock;

#[async_trait]
impl Op for PutPublicAccessBlock {
    fn name(&self) -> &'static str {
        "PutPublicAccessBlock"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("publicAccessBlock")
    }

    fn action(&self) -> Action {
        Action::PutBucketPublicAccessBlock
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let block = public_access_block(&request.configuration().await?)?;
        cx.set(BucketSetting::PublicAccessBlock(block)).await?;
        Ok(Response::ok())
    }
}

/// See the module.
pub struct DeletePublicAccessBlock;

#[async_trait]
impl Op for DeletePublicAccessBlock {
    fn name(&self) -> &'static str {
        "DeletePublicAccessBlock"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("publicAccessBlock")
    }

    fn action(&self) -> Action {
        Action::PutBucketPublicAccessBlock
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::PublicAccessBlock).await?;
        Ok(Response::no_content())
    }
}
