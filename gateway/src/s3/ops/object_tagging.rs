//! GetObjectTagging, PutObjectTagging and DeleteObjectTagging: the tags of one version, which stays what it is.

use async_trait::async_trait;
use consensus::meta::command::{Command, Done, SetTags};
use consensus::meta::model::{Origin, Tags};
use consensus::meta::query::Want;
use http::Method;

use crate::s3::access::Subject;
use crate::s3::error::S3Result;
use crate::s3::op::{Action, BodyRule, Context, Op, unexpected};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::tagging;
use crate::s3::{reading, tags, versions};

/// See the module.
pub struct GetObjectTagging;

#[async_trait]
impl Op for GetObjectTagging {
    fn name(&self) -> &'static str {
        "GetObjectTagging"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("tagging")
    }

    fn action(&self) -> Action {
        Action::GetObjectTagging
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let selector = versions::from_query(request.query())?;
        let view = reading::version(cx, request.key(), selector, Want::Row).await?;
        let response = Response::xml(tags::document(&view.object.attributes.tags));
        Ok(versions::show(response, cx.bucket()?, &view.object))
    }
}

/// See the module.
pub struct PutObjectTagging;

#[async_trait]
impl Op for PutObjectTagging {
    fn name(&self) -> &'static str {
        "PutObjectTagging"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("tagging")
    }

    fn action(&self) -> Action {
        Action::PutObjectTagging
    }

    fn is_judged_by_body(&self) -> bool {
        true
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let tags = tags::of_object(tagging(&request.configuration().await?)?)?;
        let version = versions::from_query(request.query())?;
        let action = if version.is_some() { self.action().of_version() } else { self.action() };
        cx.allow_tags(action, Subject { key: request.key(), version }, &tags).await?;
        set(cx, request, tags, Response::ok()).await
    }
}

/// See the module.
pub struct DeleteObjectTagging;

#[async_trait]
impl Op for DeleteObjectTagging {
    fn name(&self) -> &'static str {
        "DeleteObjectTagging"
    }

    fn route(&self) -> Route {
        Route::object(Method::DELETE).with("tagging")
    }

    fn action(&self) -> Action {
        Action::DeleteObjectTagging
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        set(cx, request, Vec::new(), Response::no_content()).await
    }
}

async fn set(cx: &Context, request: Request, tags: Tags, response: Response) -> S3Result<Response> {
    let (key, version) = (request.key().clone(), versions::from_query(request.query())?);
    // The same refusals as a read: they tell of delete markers.
    reading::version(cx, &key, version, Want::Row).await?;
    let bucket = cx.bucket()?;
    let command = SetTags { bucket: bucket.id, key, version, tags, origin: Origin::default() };
    let Done::Stored(stored) = cx.propose(Command::SetTags(command)).await? else {
        return Err(unexpected("SetTags"));
    };
    Ok(versions::show_stored(response, bucket, &stored))
}
