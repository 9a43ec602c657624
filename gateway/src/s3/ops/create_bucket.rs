//! CreateBucket. Creating it again is fine for its owner in us-east-1, and a conflict elsewhere, as on AWS.

use async_trait::async_trait;
use consensus::client::MetaError;
use consensus::meta::acl::ObjectOwnership;
use consensus::meta::command::{
    BucketChange, Command, CreateBucket as CreateCommand, Guard, Reject, SetBucket, WithAcl,
};
use consensus::meta::model::BucketSetting;
use consensus::meta::names::BucketName;
use consensus::meta::query::{Answer, Query};
use http::header::LOCATION;
use http::{HeaderMap, Method};

use crate::overlay::Taken;
use crate::s3::acl::{self, About, ownership_by_name};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::locks;
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::create_bucket_location;

/// More than the one element of the document ever takes.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;

const OWNERSHIP: &str = "x-amz-object-ownership";

/// See the module.
pub struct CreateBucket;

#[async_trait]
impl Op for CreateBucket {
    fn name(&self) -> &'static str {
        "CreateBucket"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::PUT)
    }

    fn action(&self) -> Action {
        Action::CreateBucket
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let document = request.document(DOCUMENT_BYTES_MAX).await?;
        check_location(create_bucket_location(&document)?.as_deref(), &cx.region)?;
        let name = request.bucket_name().clone();
        let locking = header_text(request.headers(), "x-amz-bucket-object-lock-enabled")?;
        let bucket = locking.is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let guard = Guard { bucket, ..Guard::default() };
        let acl = acl::of_headers(request.headers(), About::Bucket)?;
        let ownership = ownership(request.headers())?;
        let (location, created) = (format!("/{name}"), name.clone());
        let user = cx.access.user()?;
        check_others(cx, &name).await?;
        let command = CreateCommand { name, owner: user.clone() };
        let command = locks::guarded(Command::CreateBucket(command), guard);
        let command = match (ownership, acl) {
            (None, None) => command,
            (ownership, acl) => Command::WithAcl(WithAcl { ownership, acl, command: Box::new(command) }),
        };
        match cx.propose_raw(command).await {
            Ok(_) => explain(cx, created).await,
            Err(MetaError::Rejected(Reject::AclNotSupported)) => {
                return Err(Code::InvalidBucketAclWithObjectOwnership.into());
            }
            Err(MetaError::Rejected(Reject::BucketExists { owner })) if owner == *user => {
                if &*cx.region != "us-east-1" {
                    return Err(Code::BucketAlreadyOwnedByYou.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Response::ok().header(LOCATION, location))
    }
}

/// Keeps why the bucket is here. It is there and works without that, too.
async fn explain(cx: &Context, name: BucketName) {
    let Some(placed) = cx.placed.clone() else { return };
    let Ok(Answer::Bucket(Some(bucket))) = cx.ask(Query::Bucket(name)).await else { return };
    let change = BucketChange::Set(BucketSetting::Placed(placed));
    let set = cx.propose_raw(Command::SetBucket(SetBucket { bucket: bucket.id, change })).await;
    if let Err(error) = set {
        tracing::info!(bucket = %bucket.name, %error, "why a bucket is here is not kept");
    }
}

/// Names of buckets mean one bucket all over the overlay, as far as its clusters answer.
async fn check_others(cx: &Context, name: &BucketName) -> S3Result<()> {
    let Some(overlay) = cx.others() else { return Ok(()) };
    if let Some(cluster) = overlay.reserves(name) {
        return Err(Code::InvalidBucketName
            .says(format!("A name that ends with --{cluster} means a bucket of the cluster {cluster}.")));
    }
    match overlay.taken(name, cx.access.user()?).await {
        None => Ok(()),
        Some(Taken::ByTheSame) => Err(Code::BucketAlreadyOwnedByYou.into()),
        Some(Taken::BySomebody) => Err(Code::BucketAlreadyExists.into()),
    }
}

/// Who will own what others write, as a header says.
fn ownership(headers: &HeaderMap) -> S3Result<Option<ObjectOwnership>> {
    let Some(name) = header_text(headers, OWNERSHIP)? else { return Ok(None) };
    ownership_by_name(name)
        .ok_or_else(|| S3Error::argument(OWNERSHIP, name, "The object ownership is not known."))
}

/// A bucket is made where the gateway is; a request for another region is refused.
fn check_location(wanted: Option<&str>, region: &str) -> S3Result<()> {
    match wanted {
        None => Ok(()),
        Some(wanted) if wanted == region => Ok(()),
        Some("EU") if region == "eu-west-1" => Ok(()),
        Some(wanted) => Err(Code::IllegalLocationConstraintException.says(format!(
            "The {wanted} location constraint is incompatible for the region specific endpoint this request was sent to."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (wanted, region, good) in [
            (None, "us-east-1", true),
            (None, "eu-west-1", true),
            (Some("eu-west-1"), "eu-west-1", true),
            (Some("EU"), "eu-west-1", true),
            (Some("us-east-1"), "us-east-1", true),
            (Some("eu-west-1"), "us-east-1", false),
            (Some("EU"), "us-east-1", false),
        ] {
            assert_eq!(check_location(wanted, region).is_ok(), good, "{wanted:?} at {region}");
        }
    }
}
