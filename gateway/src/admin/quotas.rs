//! Quotas of buckets and users, as the admin API has them.

use consensus::client::ask;
use consensus::meta::command::{Command, Reject, SetQuota};
use consensus::meta::model::{Quota, QuotaOf};
use consensus::meta::names::NameError;
use consensus::meta::query::{Answer, Query};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::users::user_name;
use super::{Admin, AdminError, answer, unexpected};
use crate::http::ResponseBody;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    objects: Option<u64>,
    bytes: Option<u64>,
}

/// Whose quota a path names: `kind` is `buckets` or `users`.
pub async fn owner(admin: &Admin, kind: &str, name: &str) -> Result<QuotaOf, AdminError> {
    if kind == "users" {
        return user_name(name).map(QuotaOf::User);
    }
    let bucket = name.parse().map_err(|error: NameError| AdminError::bad(error.to_string()))?;
    match ask(&*admin.meta, Query::Bucket(bucket)).await? {
        Answer::Bucket(Some(bucket)) => Ok(QuotaOf::Bucket(bucket.id)),
        Answer::Bucket(None) => Err(Reject::NoSuchBucket.into()),
        _ => Err(unexpected()),
    }
}

/// `GET …/quota`: the bounds, and what counts against them.
pub async fn show(admin: &Admin, of: QuotaOf) -> Result<Response<ResponseBody>, AdminError> {
    let Answer::Quota { quota, usage } = ask(&*admin.meta, Query::Quota(of)).await? else {
        return Err(unexpected());
    };
    let document = json!({
        "quota": { "objects": quota.objects, "bytes": quota.bytes },
        "counted": { "objects": usage.counted_objects(), "bytes": usage.counted_bytes() },
    });
    Ok(answer(StatusCode::OK, &document))
}

/// `PUT …/quota`: bounds in place of those before.
pub async fn set(admin: &Admin, of: QuotaOf, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let Bounds { objects, bytes } =
        Bounds::deserialize(document).map_err(|error| AdminError::bad(error.to_string()))?;
    if objects.is_none() && bytes.is_none() {
        return Err(AdminError::bad("name a bound: `objects`, `bytes` or both"));
    }
    change(admin, of, Quota { objects, bytes }).await
}

/// `DELETE …/quota`.
pub async fn clear(admin: &Admin, of: QuotaOf) -> Result<Response<ResponseBody>, AdminError> {
    change(admin, of, Quota::default()).await
}

async fn change(admin: &Admin, of: QuotaOf, quota: Quota) -> Result<Response<ResponseBody>, AdminError> {
    admin.meta.propose(Command::SetQuota(SetQuota { of: of.clone(), quota })).await?;
    tracing::info!(?of, ?quota, "quota set");
    show(admin, of).await
}
