//! Default storage classes of buckets, as the admin API has them.

use consensus::client::ask;
use consensus::meta::command::{BucketChange, Command, Reject, SetBucket};
use consensus::meta::model::{BucketSetting, SettingKind};
use consensus::meta::names::NameError;
use consensus::meta::query::{Answer, Query};
use fabric::ids::BucketId;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, AdminError, answer, unexpected};
use crate::http::ResponseBody;
use crate::s3::classes;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    class: String,
}

/// The bucket that a path names.
pub async fn bucket(admin: &Admin, name: &str) -> Result<BucketId, AdminError> {
    let name = name.parse().map_err(|error: NameError| AdminError::bad(error.to_string()))?;
    match ask(&*admin.meta, Query::Bucket(name)).await? {
        Answer::Bucket(Some(bucket)) => Ok(bucket.id),
        Answer::Bucket(None) => Err(Reject::NoSuchBucket.into()),
        _ => Err(unexpected()),
    }
}

/// `GET …/storage-class`: the class of what is written without one.
pub async fn show(admin: &Admin, bucket: BucketId) -> Result<Response<ResponseBody>, AdminError> {
    let question = Query::Setting { bucket, kind: SettingKind::StorageClass };
    let class = match ask(&*admin.meta, question).await? {
        Answer::Setting(Some(BucketSetting::StorageClass(class))) => class,
        Answer::Setting(_) => classes::STANDARD.to_string(),
        _ => return Err(unexpected()),
    };
    Ok(answer(StatusCode::OK, &json!({ "class": class })))
}

/// `PUT …/storage-class`.
pub async fn set(
    admin: &Admin,
    bucket: BucketId,
    document: &Value,
) -> Result<Response<ResponseBody>, AdminError> {
    let Wanted { class } =
        Wanted::deserialize(document).map_err(|error| AdminError::bad(error.to_string()))?;
    let known = classes::by_name(&class);
    let class = known.map_err(|_| AdminError::bad("the classes here are STANDARD and STANDARD_IA"))?;
    match class {
        Some(class) => change(admin, bucket, BucketChange::Set(BucketSetting::StorageClass(class))).await,
        None => clear(admin, bucket).await,
    }
}

/// `DELETE …/storage-class`: it is `STANDARD` again.
pub async fn clear(admin: &Admin, bucket: BucketId) -> Result<Response<ResponseBody>, AdminError> {
    change(admin, bucket, BucketChange::Remove(SettingKind::StorageClass)).await
}

async fn change(
    admin: &Admin,
    bucket: BucketId,
    change: BucketChange,
) -> Result<Response<ResponseBody>, AdminError> {
    tracing::info!(bucket = bucket.0, ?change, "default storage class");
    admin.meta.propose(Command::SetBucket(SetBucket { bucket, change })).await?;
    show(admin, bucket).await
}
