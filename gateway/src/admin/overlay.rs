//! The overlay, as the admin API has it: invitations, members, grants, and the catalog of all clusters.

use std::sync::Arc;
use std::time::Duration;

use consensus::meta::names::{BucketName, ClusterName};
use consensus::meta::overlay::GrantedUser;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, AdminError, answer};
use crate::http::ResponseBody;
use crate::overlay::follow::parse_source;
use crate::overlay::link::LinkError;
use crate::overlay::wire::Token;
use crate::overlay::{INVITE_LIFETIME_DEFAULT, INVITE_LIFETIME_MAX, Overlay, OverlayError};

impl From<OverlayError> for AdminError {
    fn from(error: OverlayError) -> AdminError {
        match error {
            OverlayError::Meta(error) => error.into(),
            OverlayError::Bad(why) => AdminError::bad(why),
            OverlayError::Refused(why) => AdminError(StatusCode::CONFLICT, why.to_string()),
            OverlayError::Denied(why) => AdminError(StatusCode::FORBIDDEN, why),
            OverlayError::Busy(why) => AdminError(StatusCode::SERVICE_UNAVAILABLE, why),
            OverlayError::Link(LinkError::Refused(_, why)) => AdminError(StatusCode::CONFLICT, why),
            OverlayError::Link(error) => AdminError(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Granted {
    cluster: String,
    user: String,
    #[serde(default)]
    buckets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Followed {
    source: String,
    bucket: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promoted {
    bucket: String,
    #[serde(default)]
    home_is_lost: bool,
}

fn overlay(admin: &Admin) -> Result<&Arc<Overlay>, AdminError> {
    let why = "this gateway talks to no other clusters; --overlay-listen says where it does";
    admin.overlay.as_ref().ok_or_else(|| AdminError(StatusCode::CONFLICT, why.to_string()))
}

fn read<'a, T: Deserialize<'a>>(document: &'a Value) -> Result<T, AdminError> {
    T::deserialize(document).map_err(|error| AdminError::bad(error.to_string()))
}

/// `GET /overlay`: members, how they are, what was granted to them, which buckets follow theirs, and which took the place of
/// others.
pub async fn list(admin: &Admin) -> Result<Response<ResponseBody>, AdminError> {
    let overlay = overlay(admin)?;
    let mut report = overlay.report();
    report["follows"] = overlay.follows_report().await?;
    overlay.promotions_report(&mut report).await?;
    Ok(answer(StatusCode::OK, &report))
}

/// `POST /overlay/follows`: a bucket here follows one of another cluster.
pub async fn follow(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let followed: Followed = read(document)?;
    let source = parse_source(&followed.source).map_err(AdminError::bad)?;
    let bucket = bucket_name(&followed.bucket)?;
    overlay(admin)?.follow(source, &bucket).await?;
    Ok(answer(StatusCode::CREATED, &json!({ "bucket": bucket, "follows": followed.source })))
}

/// `POST /overlay/promotions`: a bucket here follows no other one any more.
pub async fn promote(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let promoted: Promoted = read(document)?;
    let bucket = bucket_name(&promoted.bucket)?;
    let ended = overlay(admin)?.promote(&bucket, promoted.home_is_lost).await?;
    let now_ms = admin.seams.env.wall_ms();
    let followed: Vec<Value> = ended
        .iter()
        .map(|(source, reached)| {
            json!({
                "source": format!("{}/{}", source.cluster, source.bucket),
                "reached_ms": reached.0,
                "reached_seconds_ago": now_ms.saturating_sub(reached.0) / 1000,
            })
        })
        .collect();
    let whole = !promoted.home_is_lost;
    Ok(answer(StatusCode::OK, &json!({ "bucket": bucket, "followed": followed, "whole": whole })))
}

/// `GET /overlay/superseded/NAME`: what took the place of a bucket here, and what that does not have.
pub async fn superseded(admin: &Admin, name: &str) -> Result<Response<ResponseBody>, AdminError> {
    Ok(answer(StatusCode::OK, &overlay(admin)?.superseded_report(&bucket_name(name)?).await?))
}

/// `DELETE /overlay/superseded/NAME`: the bucket is written to again.
pub async fn reopen(admin: &Admin, name: &str) -> Result<Response<ResponseBody>, AdminError> {
    overlay(admin)?.reopen(&bucket_name(name)?).await?;
    Ok(answer(StatusCode::OK, &json!({ "reopened": name })))
}

/// `GET /overlay/catalog`: the buckets of all clusters.
pub async fn catalog(admin: &Admin) -> Result<Response<ResponseBody>, AdminError> {
    Ok(answer(StatusCode::OK, &overlay(admin)?.whole_catalog().await?))
}

/// `POST /overlay/invites`: a token for one cluster.
pub async fn invite(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let invitation: Invitation = read(document)?;
    let lifetime = invitation.seconds.map_or(INVITE_LIFETIME_DEFAULT, Duration::from_secs);
    if lifetime.is_zero() || INVITE_LIFETIME_MAX < lifetime {
        let most = INVITE_LIFETIME_MAX.as_secs();
        return Err(AdminError::bad(format!("seconds: an invitation is good for 1 to {most} seconds")));
    }
    let token = overlay(admin)?.invite(lifetime).await?;
    let shown = json!({ "token": token.text(), "expires_ms": token.expires_ms, "cluster": token.cluster });
    Ok(answer(StatusCode::CREATED, &shown))
}

/// `POST /overlay/members`: takes an invitation.
pub async fn join(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let taken: Taken = read(document)?;
    let token = Token::parse(&taken.token).map_err(AdminError::bad)?;
    let cluster = overlay(admin)?.join(&token).await?;
    tracing::info!(%cluster, "this cluster joined another one");
    Ok(answer(StatusCode::CREATED, &json!({ "joined": cluster })))
}

/// `DELETE /overlay`: this cluster leaves.
pub async fn leave(admin: &Admin) -> Result<Response<ResponseBody>, AdminError> {
    overlay(admin)?.leave().await?;
    Ok(answer(StatusCode::OK, &json!({ "left": true })))
}

/// `DELETE /overlay/members/NAME`: another one is no member any more, as this cluster sees it.
pub async fn remove(admin: &Admin, name: &str) -> Result<Response<ResponseBody>, AdminError> {
    overlay(admin)?.remove(&cluster_name(name)?).await?;
    Ok(answer(StatusCode::OK, &json!({ "removed": name })))
}

/// `POST /overlay/grants`: a cluster may act for a user.
pub async fn grant(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let granted: Granted = read(document)?;
    let buckets = granted.buckets.iter().map(|name| name.parse::<BucketName>()).collect::<Result<_, _>>();
    let buckets = buckets.map_err(|error| AdminError::bad(error.to_string()))?;
    let cluster = cluster_name(&granted.cluster)?;
    overlay(admin)?.grant(cluster, granted_user(&granted.user)?, buckets).await?;
    let shown = json!({ "cluster": granted.cluster, "user": granted.user, "buckets": granted.buckets });
    Ok(answer(StatusCode::CREATED, &shown))
}

/// `DELETE /overlay/grants`: it may not any more.
pub async fn revoke(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let granted: Granted = read(document)?;
    let cluster = cluster_name(&granted.cluster)?;
    overlay(admin)?.revoke(cluster, granted_user(&granted.user)?).await?;
    Ok(answer(StatusCode::OK, &json!({ "revoked": granted.user, "cluster": granted.cluster })))
}

fn bucket_name(text: &str) -> Result<BucketName, AdminError> {
    text.parse().map_err(|error: consensus::meta::names::NameError| AdminError::bad(error.to_string()))
}

fn cluster_name(text: &str) -> Result<ClusterName, AdminError> {
    text.parse().map_err(|error: consensus::meta::names::NameError| AdminError::bad(error.to_string()))
}

/// `*` is each user of the cluster that is granted to.
fn granted_user(text: &str) -> Result<GrantedUser, AdminError> {
    match text {
        "*" => Ok(GrantedUser::All),
        name => super::users::user_name(name).map(GrantedUser::One),
    }
}
