//! PutObject: store one object in one request.
//!
//! The body is written first, as chunks that nobody can see. The metadata command is the commit point: the object
//! exists once it is applied and not before. If we stop in between, the chunks are orphans and garbage collection
//! removes them. With `x-amz-write-offset-bytes` it is an append: see [`crate::s3::appending`].

use async_trait::async_trait;
use consensus::meta::acl::WantedAcl;
use consensus::meta::command::{Command, Done, Expect, Guard, PutObject as PutCommand};
use consensus::meta::model::{Attributes, Etag, Lock, Origin};
use http::{HeaderMap, Method};

use crate::data::Written;
use crate::s3::acl::About;
use crate::s3::appending::{self, Append};
use crate::s3::encryption::Stated;
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op, unexpected};
use crate::s3::request::Request;
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::{acl, bodies, classes, conditions, encryption, headers, lifecycle, locks, versions};

/// See the module.
pub struct PutObject;

#[async_trait]
impl Op for PutObject {
    fn name(&self) -> &'static str {
        "PutObject"
    }

    fn route(&self) -> Route {
        // The same method and path with this header is CopyObject.
        Route::object(Method::PUT).without_header("x-amz-copy-source")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    fn body(&self) -> BodyRule {
        BodyRule::Object
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let mut input = Input::parse(request.headers())?;
        classes::by_default(cx, request.headers(), &mut input.attributes).await?;
        if input.lock != Lock::default() && !request.payload_mut().has_integrity() {
            return Err(Code::InvalidRequest.says(
                "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters",
            ));
        }
        let posted = request.method == Method::POST;
        let encryption = Stated::parse(&request)?.wish(cx).await?.seal(cx)?;
        if let Some(offset) = appending::offset(request.headers())? {
            if encryption.is_some() {
                return Err(appending::encrypted());
            }
            let Input { attributes, lock, expect, acl } = input;
            return Append { offset, attributes, lock, expect, acl }.run(cx, request).await;
        }
        let sealing = encryption::sealing_of(encryption.as_ref());
        let (key, bucket) = (request.key().clone(), cx.bucket()?);
        conditions::refuse_early(cx, &key, &input.expect).await?;
        acl::refuse_early(cx, input.acl.as_ref()).await?;
        let payload = request.payload_mut();
        let Written { body, guard } =
            bodies::store(cx, payload, &key, None, Some(&input.attributes), encryption.as_ref()).await?;
        let digests = payload.digests().ok_or(Code::IncompleteBody)?.clone();
        let tags = input.attributes.tags.clone();
        let command = PutCommand {
            bucket: bucket.id,
            key: key.clone(),
            expect: input.expect,
            body,
            etag: Etag::Md5(encryption::tag(&*cx.env, sealing, digests.md5)),
            checksum: Some(digests.checksum.clone()),
            attributes: input.attributes,
            origin: Origin::default(),
        };
        let locked = Guard { lock: input.lock, ..Guard::default() };
        let command = if posted { Command::PostObject(command) } else { Command::PutObject(command) };
        let command = encryption::sealed(command, sealing.cloned());
        let done = cx.propose(acl::with(locks::guarded(command, locked), input.acl)).await;
        // The outcome is known (or given up): from here on the extent is named, or garbage.
        drop(guard);
        let Done::Stored(stored) = done? else {
            return Err(unexpected("PutObject"));
        };
        let response = Response::ok().etag(&stored.etag);
        let response = headers::show_checksum(response, &digests.checksum, 0);
        let response = encryption::show(response, encryption.as_ref());
        let response = lifecycle::tell_writer(cx, &key, &stored, &tags, response).await;
        Ok(versions::show_written(response, bucket, &stored))
    }
}

struct Input {
    attributes: Attributes,
    lock: Lock,
    expect: Expect,
    acl: Option<WantedAcl>,
}

impl Input {
    fn parse(headers: &HeaderMap) -> S3Result<Input> {
        Ok(Input {
            attributes: headers::attributes(headers)?,
            lock: locks::of_headers(headers)?,
            expect: conditions::of_write(headers)?,
            acl: acl::of_headers(headers, About::Object)?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn if_none_match_star_means_create_only() {
        let mut headers = HeaderMap::new();
        headers.insert("if-none-match", "*".parse().unwrap());
        assert!(Input::parse(&headers).unwrap().expect.absent);
        headers.insert("if-none-match", "\"x\"".parse().unwrap());
        assert!(Input::parse(&headers).is_err());
    }
}
