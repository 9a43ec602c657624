//! GetBucketReplication, PutBucketReplication and DeleteBucketReplication: which objects are copied to other clusters.
//! The rules themselves are in [`crate::s3::replication`]; the clusters of the copies fetch them.

use async_trait::async_trait;
use consensus::meta::model::{Bucket, BucketSetting, SettingKind};
use consensus::meta::names::{BucketName, ClusterName};
use consensus::meta::query::{Answer, Query};
use consensus::meta::replication::Replication;
use fabric::ids::Stamp;
use http::{Method, StatusCode};

use crate::overlay::{Elsewhere, Overlay};
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op, unexpected};
use crate::s3::replication::{check, document};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::replication;

/// See the module.
pub struct GetBucketReplication;

#[async_trait]
impl Op for GetBucketReplication {
    fn name(&self) -> &'static str {
        "GetBucketReplication"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("replication")
    }

    fn action(&self) -> Action {
        Action::GetReplicationConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        match cx.setting(SettingKind::Replication).await? {
            Some(BucketSetting::Replication(replication)) => Ok(Response::xml(document(&replication))),
            _ => Err(Code::ReplicationConfigurationNotFoundError.into()),
        }
    }
}

/// See the module.
pub struct PutBucketReplication;

#[async_trait]
impl Op for PutBucketReplication {
    fn name(&self) -> &'static str {
        "PutBucketReplication"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT).with("replication")
    }

    fn action(&self) -> Action {
        Action::PutReplicationConfiguration
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let document = replication(&request.configuration().await?)?;
        let bucket = cx.bucket_now().await?;
        let overlay = cx.others().ok_or_else(nowhere)?;
        let here = overlay.name().ok_or_else(nowhere)?;
        let new_id = || {
            let mut id = [0; 16];
            cx.env.random(&mut id);
            hex::encode(id)
        };
        let (role, drafts) = check(document, &bucket, &here, new_id)?;
        let mut rules = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let (cluster, name) = destination(cx, overlay, &draft.destination).await?;
            rules.push(draft.to(cluster, name));
        }
        let since = match rules.iter().any(|rule| rule.existing == Some(true)) {
            true => Stamp::ZERO,
            false => since(cx, &bucket).await?,
        };
        cx.set(BucketSetting::Replication(Replication { role, rules, since })).await?;
        Ok(Response::ok())
    }
}

/// See the module.
pub struct DeleteBucketReplication;

#[async_trait]
impl Op for DeleteBucketReplication {
    fn name(&self) -> &'static str {
        "DeleteBucketReplication"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::DELETE).with("replication")
    }

    fn action(&self) -> Action {
        Action::PutReplicationConfiguration
    }

    async fn run(&self, cx: &Context, _request: Request) -> S3Result<Response> {
        cx.unset(SettingKind::Replication).await?;
        Ok(Response::new(StatusCode::NO_CONTENT))
    }
}

fn nowhere() -> crate::s3::error::S3Error {
    Code::InvalidRequest
        .says("Destination bucket must exist, in another cluster of the overlay; there is none.")
}

/// The last event that there was: what comes later is copied.
async fn since(cx: &Context, bucket: &Bucket) -> S3Result<Stamp> {
    match cx.ask(Query::Changes { bucket: bucket.id, after: Stamp::ZERO, limit: 0 }).await? {
        Answer::Changes(changes) => Ok(changes.latest),
        _ => Err(unexpected("Changes")),
    }
}

/// Where a destination is; it takes copies of this cluster.
async fn destination(
    cx: &Context,
    overlay: &Overlay,
    name: &BucketName,
) -> S3Result<(ClusterName, BucketName)> {
    let refused = |why: &str| Err(Code::InvalidRequest.says(why.to_string()));
    if let Answer::Bucket(Some(_)) = cx.ask(Query::Bucket(name.clone())).await? {
        return refused("The destination bucket is in this cluster; copies go to another one.");
    }
    let (link, home) = match overlay.elsewhere(name).await {
        Elsewhere::In(link, home) => (link, home),
        Elsewhere::Disputed(_) => {
            return refused(
                "Several clusters have a bucket of this name; NAME--CLUSTER says which one is meant.",
            );
        }
        Elsewhere::Unknown(_) | Elsewhere::Nowhere => return refused("Destination bucket must exist."),
    };
    let there = overlay.ask_bucket(&link, &home).await;
    let there = there.map_err(|error| crate::overlay::forward::refused(&error))?;
    match there.bucket {
        None => refused("Destination bucket must exist."),
        Some(bucket) if !bucket.versioned => refused("Destination bucket must have versioning enabled."),
        Some(_) if !there.takes_copies => refused(
            "The cluster of the destination bucket does not let this cluster act for the owner of that bucket; overlay grant does.",
        ),
        Some(_) => Ok((link.name.clone(), home)),
    }
}
