//! Users and their access keys, as the admin API has them; also the first user of a new store.

use consensus::client::{Meta, MetaError, ask};
use consensus::meta::command::{AddAccessKey, AddUser, Command, Reject, RemoveAccessKey, RemoveUser};
use consensus::meta::model::{AccessKey, ClusterMs};
use consensus::meta::names::{AccessKeyId, UserName};
use consensus::meta::query::{Answer, Query};
use fabric::env::Env;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, AdminError, answer, unexpected};
use crate::http::ResponseBody;
use crate::secrets::{ClusterKey, Secret, draw_access_key};

/// Name of the first user.
pub const ROOT: &str = "root";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    name: String,
    access_key: Option<String>,
    secret_key: Option<String>,
}

/// `GET /users`.
pub async fn list(admin: &Admin) -> Result<Response<ResponseBody>, AdminError> {
    let Answer::Users(users) = ask(&*admin.meta, Query::Users).await? else {
        return Err(unexpected());
    };
    let users: Vec<Value> = users
        .iter()
        .map(|(user, keys)| {
            let keys: Vec<&str> = keys.iter().map(AccessKeyId::as_str).collect();
            json!({ "name": user.name.as_str(), "created_ms": user.created.0, "access_keys": keys })
        })
        .collect();
    Ok(answer(StatusCode::OK, &json!({ "users": users })))
}

/// `POST /users`: a new user; or another key of an existing one, when the key is given.
pub async fn add(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let new: NewUser = NewUser::deserialize(document).map_err(|error| AdminError::bad(error.to_string()))?;
    let name = user_name(&new.name)?;
    if name.home().is_some() {
        return Err(AdminError::bad("the name of a user has no slash: that is a user of another cluster"));
    }
    let id = match &new.access_key {
        Some(id) => id
            .parse()
            .map_err(|error: consensus::meta::names::NameError| AdminError::bad(error.to_string()))?,
        None => draw_access_key(&*admin.seams.env),
    };
    let secret = match &new.secret_key {
        Some(secret) => Secret::chosen(secret).map_err(|error| AdminError::bad(error.to_string()))?,
        None => Secret::draw(&*admin.seams.env),
    };
    let key = access_key(&*admin.seams.env, &admin.cluster_key, &name, &id, &secret);
    let outcome =
        admin.meta.propose(Command::AddUser(AddUser { name: name.clone(), key: key.clone() })).await;
    match outcome {
        Err(MetaError::Rejected(Reject::UserExists)) if new.access_key.is_some() => {
            admin.meta.propose(Command::AddAccessKey(AddAccessKey { key })).await?;
        }
        outcome => {
            outcome?;
        }
    }
    tracing::info!(user = %name, access_key = %id, "access key added");
    Ok(shown(StatusCode::CREATED, &name, &id, &secret))
}

/// `DELETE /users/NAME`.
pub async fn remove(admin: &Admin, name: &str) -> Result<Response<ResponseBody>, AdminError> {
    let name = user_name(name)?;
    admin.meta.propose(Command::RemoveUser(RemoveUser { name: name.clone() })).await?;
    tracing::info!(user = %name, "user removed");
    Ok(answer(StatusCode::OK, &json!({ "removed": name.as_str() })))
}

/// `POST /users/NAME/rotate`: a new key first, then the old ones go, so that there is never none.
pub async fn rotate(admin: &Admin, name: &str) -> Result<Response<ResponseBody>, AdminError> {
    let name = user_name(name)?;
    let Answer::Users(users) = ask(&*admin.meta, Query::Users).await? else {
        return Err(unexpected());
    };
    let old = users.into_iter().find(|(user, _)| user.name == name).ok_or(Reject::NoSuchUser)?.1;
    let (id, secret) = (draw_access_key(&*admin.seams.env), Secret::draw(&*admin.seams.env));
    let key = access_key(&*admin.seams.env, &admin.cluster_key, &name, &id, &secret);
    admin.meta.propose(Command::AddAccessKey(AddAccessKey { key })).await?;
    for id in old {
        match admin.meta.propose(Command::RemoveAccessKey(RemoveAccessKey { id })).await {
            Ok(_) | Err(MetaError::Rejected(Reject::NoSuchAccessKey)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tracing::info!(user = %name, access_key = %id, "access keys rotated");
    Ok(shown(StatusCode::OK, &name, &id, &secret))
}

pub(super) fn user_name(text: &str) -> Result<UserName, AdminError> {
    // A user of another cluster has a slash in its name, which is escaped in paths.
    let text = text.replace("%2F", "/").replace("%2f", "/");
    text.parse().map_err(|error: consensus::meta::names::NameError| AdminError::bad(error.to_string()))
}

fn shown(status: StatusCode, name: &UserName, id: &AccessKeyId, secret: &Secret) -> Response<ResponseBody> {
    let document = json!({ "name": name.as_str(), "access_key": id.as_str(), "secret_key": secret.expose() });
    answer(status, &document)
}

fn access_key(
    env: &dyn Env,
    key: &ClusterKey,
    user: &UserName,
    id: &AccessKeyId,
    secret: &Secret,
) -> AccessKey {
    AccessKey {
        id: id.clone(),
        user: user.clone(),
        sealed_secret: key.seal(env, id, secret),
        // `apply` stamps cluster time; this is what it replaces.
        created: ClusterMs(env.wall_ms()),
    }
}

/// Makes the first user unless it is there. Returns whether it was made now.
pub async fn ensure_root(
    meta: &dyn Meta,
    env: &dyn Env,
    cluster_key: &ClusterKey,
    id: &AccessKeyId,
    secret: &Secret,
) -> Result<bool, MetaError> {
    let name = UserName::try_from(ROOT.to_string()).expect("the name of the first user is a user name");
    ensure_user(meta, env, cluster_key, &name, id, secret).await
}

/// Makes a user with a key unless there is one of the name. Returns whether it was made now.
pub async fn ensure_user(
    meta: &dyn Meta,
    env: &dyn Env,
    cluster_key: &ClusterKey,
    name: &UserName,
    id: &AccessKeyId,
    secret: &Secret,
) -> Result<bool, MetaError> {
    let key = access_key(env, cluster_key, name, id, secret);
    match meta.propose(Command::AddUser(AddUser { name: name.clone(), key })).await {
        Ok(_) => Ok(true),
        Err(MetaError::Rejected(Reject::UserExists)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the store has any user: a store without one is new.
pub async fn has_users(meta: &dyn Meta) -> Result<bool, MetaError> {
    match ask(meta, Query::Users).await? {
        Answer::Users(users) => Ok(!users.is_empty()),
        _ => Err(MetaError::Unavailable("the metadata answered another question than Users".to_string())),
    }
}
