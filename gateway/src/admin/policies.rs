//! Policies of users, as the admin API has them.

use consensus::client::ask;
use consensus::meta::command::{Command, Reject, SetUserPolicy};
use consensus::meta::names::{NameError, PolicyName, UserName};
use consensus::meta::query::{Answer, Query};
use fabric::limits::POLICY_BYTES_MAX;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::users::user_name;
use super::{Admin, AdminError, answer, unexpected};
use crate::http::ResponseBody;
use crate::s3::policy::{Kind, Policy};

/// `GET /users/NAME/policies`: all of them by name.
pub async fn list(admin: &Admin, user: &str) -> Result<Response<ResponseBody>, AdminError> {
    shown(admin, &user_name(user)?).await
}

/// `PUT /users/NAME/policies/POLICY`: the document is the policy.
pub async fn attach(
    admin: &Admin,
    user: &str,
    name: &str,
    policy: &Value,
) -> Result<Response<ResponseBody>, AdminError> {
    let document = policy.to_string();
    if POLICY_BYTES_MAX < document.len() {
        return Err(AdminError::bad(format!("a policy has at most {POLICY_BYTES_MAX} bytes")));
    }
    Policy::parse(&document, Kind::User).map_err(|error| AdminError::bad(error.to_string()))?;
    change(admin, user, name, Some(document)).await
}

/// `DELETE /users/NAME/policies/POLICY`.
pub async fn detach(admin: &Admin, user: &str, name: &str) -> Result<Response<ResponseBody>, AdminError> {
    change(admin, user, name, None).await
}

async fn change(
    admin: &Admin,
    user: &str,
    name: &str,
    document: Option<String>,
) -> Result<Response<ResponseBody>, AdminError> {
    let user = user_name(user)?;
    let name: PolicyName = name.parse().map_err(|error: NameError| AdminError::bad(error.to_string()))?;
    let is_attached = document.is_some();
    let command = SetUserPolicy { user: user.clone(), name: name.clone(), document };
    admin.meta.propose(Command::SetUserPolicy(command)).await?;
    tracing::info!(%user, policy = %name, is_attached, "policy of a user changed");
    shown(admin, &user).await
}

async fn shown(admin: &Admin, user: &UserName) -> Result<Response<ResponseBody>, AdminError> {
    let Answer::Users(users) = ask(&*admin.meta, Query::Users).await? else {
        return Err(unexpected());
    };
    if !users.iter().any(|(found, _)| found.name == *user) {
        return Err(Reject::NoSuchUser.into());
    }
    let Answer::UserPolicies(policies) = ask(&*admin.meta, Query::UserPolicies(user.clone())).await? else {
        return Err(unexpected());
    };
    let by_name = policies.iter().map(|(name, document)| {
        let document = serde_json::from_str(document).unwrap_or_else(|_| Value::from(document.as_str()));
        (name.to_string(), document)
    });
    let policies: serde_json::Map<String, Value> = by_name.collect();
    Ok(answer(StatusCode::OK, &json!({ "user": user.as_str(), "policies": policies })))
}
