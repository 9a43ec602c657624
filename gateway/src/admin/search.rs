//! Searches of an operator, who may see everything, and how the indexes are.

use std::collections::BTreeMap;

use fabric::ids::NodeId;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::users::user_name;
use super::{Admin, AdminError, answer};
use crate::http::ResponseBody;
use crate::s3::S3Error;
use crate::s3::search::Asked;

impl From<S3Error> for AdminError {
    fn from(error: S3Error) -> AdminError {
        AdminError(error.code().status(), error.message().to_string())
    }
}

/// `POST /search`: a page of hits in all buckets; with `user` of what the user may see, in all clusters.
pub async fn search(admin: &Admin, document: &Value) -> Result<Response<ResponseBody>, AdminError> {
    let asked = Asked::by_operator(document, admin.service.region())?;
    let found = match document.get("user").and_then(Value::as_str) {
        Some(user) => admin.service.search_as(user_name(user)?, &asked).await?,
        None => admin.search.find_all(&*admin.meta, &*admin.seams.env, &asked).await?,
    };
    Ok(answer(StatusCode::OK, &found.json(&asked)))
}

/// How the index of each node is that answers.
pub async fn status(admin: &Admin) -> BTreeMap<NodeId, Value> {
    let shown = |index: storage::index::wire::IndexStatus| {
        json!({
            "enabled": index.enabled, "whole": index.whole, "index": index.index,
            "entries_behind": index.lag, "names": index.documents, "segments": index.segments,
            "bytes": index.bytes,
        })
    };
    let statuses = admin.search.nodes().status().await;
    statuses.into_iter().map(|(node, index)| (node, shown(index))).collect()
}
