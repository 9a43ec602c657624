//! RenameObject: give an object another key in its bucket, in one command and without moving a byte.
//!
//! AWS has it in directory buckets only, whose clients name the source by its key alone, while documentation of copies
//! has taught `bucket/key`: both are understood.

use async_trait::async_trait;
use consensus::client::MetaError;
use consensus::meta::command::{Command, Done, ReadConditions, Reject, RenameObject as RenameCommand};
use consensus::meta::model::Origin;
use consensus::meta::names::{BucketName, ClientToken, ObjectKey};
use http::{HeaderMap, Method};

use crate::s3::access::Subject;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::path::percent_decoded;
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::{conditions, versions};

const SOURCE: &str = "x-amz-rename-source";
const TOKEN: &str = "x-amz-client-token";

/// See the module.
pub struct RenameObject;

#[async_trait]
impl Op for RenameObject {
    fn name(&self) -> &'static str {
        "RenameObject"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("renameObject")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let bucket = cx.bucket()?;
        let input = Input::parse(request.headers(), &bucket.name)?;
        // Who renames takes the object away from its old key, and shows it under the new one.
        let source = Subject { key: &input.source, version: None };
        for action in [Action::DeleteObject, Action::GetObject] {
            cx.allow(action, source).await?;
        }
        let command = RenameCommand {
            bucket: bucket.id,
            source_key: input.source.clone(),
            source_conditions: input.source_conditions,
            key: request.key().clone(),
            conditions: input.conditions,
            token: input.token,
            origin: Origin::default(),
        };
        match cx.propose_raw(Command::RenameObject(command)).await {
            Ok(Done::Stored(stored)) => Ok(versions::show_written(Response::ok(), bucket, &stored)),
            Ok(_) => Err(unexpected("RenameObject")),
            Err(MetaError::Rejected(Reject::NoSuchKey)) => {
                Err(S3Error::from(Code::NoSuchKey).field("Key", input.source.as_str()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[derive(Debug)]
struct Input {
    source: ObjectKey,
    source_conditions: ReadConditions,
    /// On what is at the new key.
    conditions: ReadConditions,
    token: Option<ClientToken>,
}

impl Input {
    fn parse(headers: &HeaderMap, bucket: &BucketName) -> S3Result<Input> {
        let token = header_text(headers, TOKEN)?;
        let wrong = |text: &str| S3Error::argument(TOKEN, text, "The client token is not valid.");
        Ok(Input {
            source: source_key(header_text(headers, SOURCE)?.unwrap_or(""), bucket)?,
            source_conditions: conditions::of_rename_source(headers)?,
            conditions: conditions::of_read(headers)?,
            token: token.map(|text| text.parse().map_err(|_| wrong(text))).transpose()?,
        })
    }
}

/// The key of the source: `bucket/key`, or the key alone unless it begins like that. After a slash it is no key alone.
fn source_key(text: &str, bucket: &BucketName) -> S3Result<ObjectKey> {
    let wrong = |why| S3Error::argument(SOURCE, text, why);
    let malformed = || wrong("The rename source must be the percent-encoded key of an object.");
    // There are no versions to name behind a question mark.
    if text.contains('?') {
        return Err(malformed());
    }
    let decoded = percent_decoded(text.as_bytes()).map_err(|_| malformed())?;
    let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
    let path = decoded.strip_prefix('/').unwrap_or(&decoded);
    let key = match path.split_once('/') {
        Some((name, key)) if name == bucket.as_str() => key,
        _ if decoded.starts_with('/') => return Err(wrong("An object is renamed within its bucket only.")),
        _ => path,
    };
    key.parse().map_err(|_| malformed())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_keys_of_the_same_bucket() {
        let bucket = "photos".parse().unwrap();
        for (text, key) in [
            ("photos/cat", "cat"),
            ("/photos/cat", "cat"),
            ("photos%2Fa%2Fb+c%20d%3F", "a/b+c d?"),
            ("cat", "cat"),
            ("animals/cat", "animals/cat"),
            ("photos/photos/cat", "photos/cat"),
            ("/photos/a//b/../c", "a//b/../c"),
        ] {
            assert_eq!(source_key(text, &bucket).unwrap().as_str(), key, "{text}");
        }
        let long = "k".repeat(1025);
        for bad in [
            "",
            "/",
            "photos/",
            "/animals/cat",
            "//photos/cat",
            "%ZZ",
            "%ff",
            "a%00",
            "a?versionId=null",
            &long,
        ] {
            assert_eq!(source_key(bad, &bucket).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn tokens_are_short_and_visible() {
        let bucket = "photos".parse().unwrap();
        let parse = |token: &str| {
            let pairs = [(SOURCE, "cat"), (TOKEN, token)];
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Input::parse(&headers.collect(), &bucket).map(|input| input.token.unwrap().to_string())
        };
        assert_eq!(parse("4f6c-!~").unwrap(), "4f6c-!~");
        for bad in ["", "two words", &"x".repeat(65)] {
            assert_eq!(parse(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
