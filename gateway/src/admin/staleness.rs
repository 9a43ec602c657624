//! For how long buckets may be read from memory elsewhere while this cluster is away, as the admin API has it.

use consensus::client::ask;
use consensus::meta::command::{BucketChange, Command, SetBucket};
use consensus::meta::model::{BucketSetting, SettingKind};
use consensus::meta::query::{Answer, Query};
use fabric::ids::BucketId;
use fabric::limits::STALENESS_SECONDS;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, AdminError, answer, unexpected};
use crate::http::ResponseBody;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    seconds: u64,
}

/// `GET /buckets/NAME/staleness`: for how many seconds; null where they may not.
pub async fn show(admin: &Admin, bucket: BucketId) -> Result<Response<ResponseBody>, AdminError> {
    let question = Query::Setting { bucket, kind: SettingKind::Staleness };
    let seconds = match ask(&*admin.meta, question).await? {
        Answer::Setting(Some(BucketSetting::Staleness(seconds))) => Some(seconds),
        Answer::Setting(_) => None,
        _ => return Err(unexpected()),
    };
    Ok(answer(StatusCode::OK, &json!({ "seconds": seconds })))
}

/// `PUT …/staleness`.
pub async fn set(
    admin: &Admin,
    bucket: BucketId,
    document: &Value,
) -> Result<Response<ResponseBody>, AdminError> {
    let Wanted { seconds } =
        Wanted::deserialize(document).map_err(|error| AdminError::bad(error.to_string()))?;
    if !STALENESS_SECONDS.contains(&seconds) {
        let most = STALENESS_SECONDS.end();
        return Err(AdminError::bad(format!(
            "seconds: a bucket may be read from memory for 1 to {most} seconds"
        )));
    }
    change(admin, bucket, BucketChange::Set(BucketSetting::Staleness(seconds))).await
}

/// `DELETE …/staleness`: they may not any more.
pub async fn clear(admin: &Admin, bucket: BucketId) -> Result<Response<ResponseBody>, AdminError> {
    change(admin, bucket, BucketChange::Remove(SettingKind::Staleness)).await
}

async fn change(
    admin: &Admin,
    bucket: BucketId,
    change: BucketChange,
) -> Result<Response<ResponseBody>, AdminError> {
    tracing::info!(bucket = bucket.0, ?change, "staleness elsewhere");
    admin.meta.propose(Command::SetBucket(SetBucket { bucket, change })).await?;
    show(admin, bucket).await
}
