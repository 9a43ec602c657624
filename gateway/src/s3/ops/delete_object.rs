//! DeleteObject: remove a key, or one version of it. Deleting what is not there is done, too.

use async_trait::async_trait;
use consensus::meta::command::{Command, DeleteKey, DeleteObjects, DeletedKey, Done, Guard};
use consensus::meta::model::Origin;
use http::Method;

use crate::s3::error::S3Result;
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::{conditions, locks, versions};

/// See the module.
pub struct DeleteObject;

#[async_trait]
impl Op for DeleteObject {
    fn name(&self) -> &'static str {
        "DeleteObject"
    }

    fn route(&self) -> Route {
        Route::object(Method::DELETE)
    }

    fn action(&self) -> Action {
        Action::DeleteObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let key = DeleteKey {
            key: request.key().clone(),
            version: versions::from_query(request.query())?,
            expect: conditions::of_delete(request.headers())?,
        };
        let bucket = cx.bucket()?.id;
        let command = DeleteObjects { bucket, keys: vec![key], origin: Origin::default() };
        let guard = Guard { bypass: locks::bypass(request.headers())?, ..Guard::default() };
        let command = locks::guarded(Command::DeleteObjects(command), guard);
        let Done::Deleted(mut outcomes) = cx.propose(command).await? else {
            return Err(unexpected("DeleteObjects"));
        };
        let outcome = outcomes.pop().ok_or_else(|| unexpected("DeleteObjects"))?;
        Ok(response(outcome?))
    }
}

fn response(deleted: DeletedKey) -> Response {
    let mut response = Response::no_content();
    if deleted.marker.is_some() {
        response = response.amz("x-amz-delete-marker", "true");
    }
    match deleted.version.or(deleted.marker) {
        Some(version) => response.amz("x-amz-version-id", version),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_what_was_removed_or_set() {
        let id = || Some("1".to_string());
        for (version, marker, has_marker, has_version) in [
            (None, None, false, false),
            (id(), None, false, true),
            (None, id(), true, true),
            (id(), id(), true, true),
        ] {
            let headers = response(DeletedKey { version, marker }).headers;
            assert_eq!(headers.contains_key("x-amz-delete-marker"), has_marker);
            assert_eq!(headers.contains_key("x-amz-version-id"), has_version);
        }
    }
}
