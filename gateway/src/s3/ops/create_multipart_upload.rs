//! CreateMultipartUpload: begin an upload and say what its object will be.

use async_trait::async_trait;
use consensus::meta::acl::WantedAcl;
use consensus::meta::command::{Command, CreateUpload, Done, Guard};
use consensus::meta::model::{Attributes, ChecksumAlgorithm, ChecksumKind, ClusterMs, Lock, Origin};
use http::{HeaderMap, Method};

use crate::s3::acl::About;
use crate::s3::encryption::Stated;
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;
use crate::s3::{acl, checksum, classes, encryption, headers, lifecycle, locks};

/// See the module.
pub struct CreateMultipartUpload;

#[async_trait]
impl Op for CreateMultipartUpload {
    fn name(&self) -> &'static str {
        "CreateMultipartUpload"
    }

    fn route(&self) -> Route {
        Route::object(Method::POST).with("uploads")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        // An upload is somebody's.
        cx.access.user()?;
        let mut input = Input::parse(request.headers())?;
        classes::by_default(cx, request.headers(), &mut input.attributes).await?;
        let encryption = Stated::parse(&request)?.wish(cx).await?.seal(cx)?;
        let bucket = cx.bucket()?;
        let command = CreateUpload {
            bucket: bucket.id,
            key: request.key().clone(),
            attributes: input.attributes,
            checksum: input.checksum,
            origin: Origin::default(),
        };
        let guard = Guard { lock: input.lock, ..Guard::default() };
        let sealing = encryption::sealing_of(encryption.as_ref()).cloned();
        let command = encryption::sealed(Command::CreateUpload(command), sealing);
        let Done::Upload(upload) = cx.propose(acl::with(locks::guarded(command, guard), input.acl)).await?
        else {
            return Err(unexpected("CreateUpload"));
        };
        let mut xml = XmlWriter::new();
        xml.root("InitiateMultipartUploadResult");
        xml.text("Bucket", bucket.name.as_str());
        xml.text("Key", request.key().as_str());
        xml.value("UploadId", upload);
        xml.close("InitiateMultipartUploadResult");
        let response = encryption::show(Response::xml(xml), encryption.as_ref());
        let now = ClusterMs(cx.env.wall_ms());
        let response = lifecycle::tell_abort(cx, request.key(), now, response).await?;
        Ok(match input.checksum {
            None => response,
            Some((algorithm, kind)) => response
                .amz("x-amz-checksum-algorithm", checksum::name(algorithm))
                .amz("x-amz-checksum-type", checksum::kind_name(kind)),
        })
    }
}

struct Input {
    attributes: Attributes,
    lock: Lock,
    acl: Option<WantedAcl>,
    checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

impl Input {
    fn parse(headers: &HeaderMap) -> S3Result<Input> {
        let algorithm = checksum::algorithm_header(headers, "x-amz-checksum-algorithm")?;
        let kind = header_text(headers, "x-amz-checksum-type")?.map(checksum::kind_by_name).transpose()?;
        let checksum = match (algorithm, kind) {
            (Some(algorithm), kind) => Some((algorithm, kind_of(algorithm, kind)?)),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Code::InvalidRequest
                    .says("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."));
            }
        };
        Ok(Input {
            attributes: headers::attributes(headers)?,
            lock: locks::of_headers(headers)?,
            acl: acl::of_headers(headers, About::Object)?,
            checksum,
        })
    }
}

/// CRC64NVME is always of all bytes; what does not combine is always of the parts; the others are of the parts
/// unless the client wants more.
fn kind_of(algorithm: ChecksumAlgorithm, wanted: Option<ChecksumKind>) -> S3Result<ChecksumKind> {
    let only = match algorithm {
        ChecksumAlgorithm::Crc64Nvme => Some(ChecksumKind::FullObject),
        algorithm if !checksum::combines(algorithm) => Some(ChecksumKind::Composite),
        _ => None,
    };
    match (only, wanted) {
        (Some(only), Some(wanted)) if only != wanted => Err(Code::InvalidRequest.says(format!(
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            checksum::kind_name(wanted),
            checksum::name(algorithm).to_lowercase(),
        ))),
        (Some(only), _) => Ok(only),
        (None, wanted) => Ok(wanted.unwrap_or(ChecksumKind::Composite)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_checksums() {
        let parse = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Input::parse(&pairs.collect())
        };
        let (algorithm, kind) = ("x-amz-checksum-algorithm", "x-amz-checksum-type");
        for (pairs, expected) in [
            (&[][..], None),
            (&[(algorithm, "CRC32")], Some((ChecksumAlgorithm::Crc32, ChecksumKind::Composite))),
            (&[(algorithm, "CRC64NVME")], Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject))),
            (&[(algorithm, "sha256")], Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite))),
            (
                &[(algorithm, "CRC32C"), (kind, "FULL_OBJECT")],
                Some((ChecksumAlgorithm::Crc32c, ChecksumKind::FullObject)),
            ),
        ] {
            assert_eq!(parse(pairs).unwrap().checksum, expected);
        }
        for pairs in [
            &[(algorithm, "SHA1"), (kind, "FULL_OBJECT")][..],
            &[(algorithm, "CRC64NVME"), (kind, "COMPOSITE")],
            &[(kind, "COMPOSITE")],
            &[(algorithm, "CRC7")],
        ] {
            assert_eq!(parse(pairs).err().unwrap().code(), Code::InvalidRequest, "{pairs:?}");
        }
    }
}
