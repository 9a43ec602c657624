//! DeleteObjects: up to 1,000 keys at once; the refusal of one touches no other.

use async_trait::async_trait;
use consensus::meta::command::{Command, DeleteKey, DeleteObjects as DeleteCommand, DeletedKey, Done, Guard};
use consensus::meta::model::Origin;
use fabric::limits::{DELETE_KEYS_PER_COMMAND, XML_BODY_BYTES_MAX};
use http::{HeaderMap, Method};

use crate::s3::access::Subject;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op, unexpected};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::{DeleteDocument, DeleteElement, XmlWriter};
use crate::s3::{conditions, locks, versions};

/// 1,000 keys of 1,024 bytes with every byte escaped, and their elements.
const DOCUMENT_BYTES_MAX: usize = 2 * XML_BODY_BYTES_MAX;

/// See the module.
pub struct DeleteObjects;

#[async_trait]
impl Op for DeleteObjects {
    fn name(&self) -> &'static str {
        "DeleteObjects"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::POST).with("delete")
    }

    fn action(&self) -> Action {
        Action::DeleteObject
    }

    fn is_judged_by_body(&self) -> bool {
        true
    }

    fn body(&self) -> BodyRule {
        BodyRule::Document
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        if !request.payload_mut().has_integrity() {
            return Err(Code::InvalidRequest
                .says("Missing required header for this request: Content-MD5 OR x-amz-checksum-*"));
        }
        let bypass = locks::bypass(request.headers())?;
        let body = request.document(DOCUMENT_BYTES_MAX).await?;
        let document = DeleteDocument::parse(&body)?;
        let mut keys = Vec::with_capacity(document.objects.len());
        for element in &document.objects {
            keys.push(match delete_key(element) {
                Ok(key) => allowed(cx, key, request.headers()).await,
                Err(error) => Err(error),
            });
        }
        // Who may delete none of them hears that, as one who asks for a single key.
        let denied =
            |key: &S3Result<DeleteKey>| key.as_ref().is_err_and(|error| error.code() == Code::AccessDenied);
        if keys.iter().all(denied) {
            return Err(Code::AccessDenied.into());
        }
        let outcomes = delete(cx, keys, bypass).await?;
        Ok(Response::xml(answer(&document, &outcomes)))
    }
}

type Outcome = S3Result<DeletedKey>;

/// One key as a part of a command, or what is wrong with it.
fn delete_key(element: &DeleteElement) -> S3Result<DeleteKey> {
    let version = element.version_id.as_deref().filter(|text| !text.is_empty());
    Ok(DeleteKey {
        key: element.key.parse()?,
        version: version.map(|text| versions::selector("VersionId", text)).transpose()?,
        expect: conditions::expect_delete(
            element.etag.as_deref(),
            element.size.as_deref(),
            element.last_modified.as_deref(),
        )?,
    })
}

/// One key, if the requester may delete it.
async fn allowed(cx: &Context, key: DeleteKey, headers: &HeaderMap) -> S3Result<DeleteKey> {
    let action = match key.version {
        None => Action::DeleteObject,
        Some(_) => Action::DeleteObjectVersion,
    };
    for action in action.with(headers) {
        cx.allow(action, Subject { key: &key.key, version: key.version }).await?;
    }
    Ok(key)
}

/// Deletes those that can be, in commands of a bounded size, and returns the outcomes in the order of the keys.
async fn delete(cx: &Context, keys: Vec<S3Result<DeleteKey>>, bypass: bool) -> S3Result<Vec<Outcome>> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(keys.len());
    let (mut places, mut batch) = (Vec::new(), Vec::new());
    let mut batches = Vec::new();
    for (place, key) in keys.into_iter().enumerate() {
        outcomes.push(Ok(DeletedKey::default()));
        match key {
            Err(error) => outcomes[place] = Err(error),
            Ok(key) => {
                places.push(place);
                batch.push(key);
            }
        }
        if batch.len() == DELETE_KEYS_PER_COMMAND {
            batches.push((std::mem::take(&mut places), std::mem::take(&mut batch)));
        }
    }
    if !batch.is_empty() {
        batches.push((places, batch));
    }
    for (index, (places, keys)) in batches.into_iter().enumerate() {
        match delete_batch(cx, keys, bypass).await {
            Ok(done) => places.into_iter().zip(done).for_each(|(place, outcome)| outcomes[place] = outcome),
            // Nothing is done yet: the request as a whole failed.
            Err(error) if index == 0 => return Err(error),
            Err(error) => {
                let code = error.code();
                tracing::warn!(%error, "a part of DeleteObjects failed");
                places.into_iter().for_each(|place| outcomes[place] = Err(code.into()));
            }
        }
    }
    Ok(outcomes)
}

async fn delete_batch(cx: &Context, keys: Vec<DeleteKey>, bypass: bool) -> S3Result<Vec<Outcome>> {
    let count = keys.len();
    let command = DeleteCommand { bucket: cx.bucket()?.id, keys, origin: Origin::default() };
    let guard = Guard { bypass, ..Guard::default() };
    match cx.propose(locks::guarded(Command::DeleteObjects(command), guard)).await? {
        Done::Deleted(done) if done.len() == count => {
            Ok(done.into_iter().map(|outcome| outcome.map_err(S3Error::from)).collect())
        }
        _ => Err(unexpected("DeleteObjects")),
    }
}

fn answer(document: &DeleteDocument, outcomes: &[Outcome]) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("DeleteResult");
    for (element, outcome) in document.objects.iter().zip(outcomes) {
        match outcome {
            Ok(_) if document.quiet => {}
            Ok(deleted) => xml.element("Deleted", |xml| {
                xml.text("Key", &element.key);
                xml.optional("VersionId", element.version_id.as_deref().filter(|text| !text.is_empty()));
                if let Some(marker) = &deleted.marker {
                    xml.text("DeleteMarker", "true");
                    xml.text("DeleteMarkerVersionId", marker);
                }
            }),
            Err(error) => xml.element("Error", |xml| {
                xml.text("Key", &element.key);
                xml.optional("VersionId", element.version_id.as_deref().filter(|text| !text.is_empty()));
                xml.text("Code", error.code().name());
                xml.text("Message", error.message());
            }),
        }
    }
    xml.close("DeleteResult");
    xml
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn element(key: &str, version: Option<&str>) -> DeleteElement {
        DeleteElement {
            key: key.to_string(),
            version_id: version.map(str::to_string),
            ..DeleteElement::default()
        }
    }

    #[test]
    fn a_wrong_key_is_its_own_error() {
        for (key, version, code) in
            [(&*"k".repeat(1025), None, Code::KeyTooLongError), ("k", Some("garbage"), Code::InvalidArgument)]
        {
            assert_eq!(delete_key(&element(key, version)).unwrap_err().code(), code);
        }
        assert_eq!(delete_key(&element("k", Some(""))).unwrap().version, None);
    }

    #[test]
    fn quiet_answers_tell_errors_only() {
        let objects = vec![element("a<", None), element("b", Some("null"))];
        let outcomes =
            [Ok(DeletedKey { version: None, marker: Some("7".to_string()) }), Err(Code::AccessDenied.into())];
        let text = |quiet| answer(&DeleteDocument { quiet, objects: objects.clone() }, &outcomes).finish();
        let error = "<Error><Key>b</Key><VersionId>null</VersionId><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        let deleted = "<Deleted><Key>a&lt;</Key><DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>7</DeleteMarkerVersionId></Deleted>";
        assert!(text(false).contains(&format!("{deleted}{error}")));
        assert!(text(true).contains(error) && !text(true).contains("<Deleted>"));
    }
}
