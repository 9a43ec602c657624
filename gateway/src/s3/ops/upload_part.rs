//! UploadPart: store one part of an upload; one of the same number is replaced.

use async_trait::async_trait;
use consensus::meta::command::{Command, NewBody, PutPart};
use consensus::meta::model::Etag;
use http::{HeaderName, Method};

use crate::data::Written;
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::uploads::{self, Place};
use crate::s3::{bodies, checksum, encryption};

/// See the module.
pub struct UploadPart;

#[async_trait]
impl Op for UploadPart {
    fn name(&self) -> &'static str {
        "UploadPart"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("partNumber").with("uploadId").without_header("x-amz-copy-source")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    fn body(&self) -> BodyRule {
        BodyRule::Object
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let Place { upload, number } = Place::parse(request.query())?;
        let (key, bucket) = (request.key().clone(), cx.bucket()?.id);
        // Before the body: a part of no upload is refused while the client still waits to send it.
        let (row, sealing) = uploads::find(cx, &key, upload).await?;
        let encryption = encryption::of_part(cx, &request, sealing.as_ref())?;
        let payload = request.payload_mut();
        uploads::choose_checksum(&row, payload)?;
        let Written { body, guard } = bodies::store(
            cx,
            payload,
            &key,
            Some((upload, number)),
            Some(&row.attributes),
            encryption.as_ref(),
        )
        .await?;
        let digests = payload.digests().ok_or(Code::IncompleteBody)?.clone();
        let extent = match body {
            NewBody::Extent(extent) => Some(extent),
            NewBody::Inline(_) => None,
        };
        let checksum = Some(digests.checksum.clone());
        let md5 = encryption::tag(&*cx.env, sealing.as_ref(), digests.md5);
        let command = PutPart { bucket, key, upload, number, md5, checksum, extent };
        let done = cx.propose(Command::PutPart(command)).await;
        // The outcome is known (or given up): from here on the extent is named, or garbage.
        drop(guard);
        done?;
        let name = HeaderName::from_static(checksum::header_name(digests.checksum.algorithm));
        let response = Response::ok().etag(&Etag::Md5(md5));
        let response = encryption::show_part(response, encryption.as_ref());
        Ok(response.header(name, checksum::encode(&digests.checksum.value)))
    }
}
