//! UploadPartCopy: a part whose bytes come from an object. They are read and written anew.

use async_trait::async_trait;
use consensus::meta::command::{Command, Done, NewBody, PutPart};
use consensus::meta::model::{ChecksumAlgorithm, ClusterMs, Etag};
use consensus::meta::query::Want;
use http::{HeaderMap, Method};

use crate::data::Written;
use crate::s3::afar::Afar;
use crate::s3::checksum;
use crate::s3::conditions::{self, Verdict};
use crate::s3::copying::{Hashing, Source, SourceBytes, show_source};
use crate::s3::encryption::{Customer, Whose};
use crate::s3::error::{Code, S3Result};
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::range;
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::uploads::{self, Place};
use crate::s3::xml::XmlWriter;
use crate::s3::{bodies, encryption, listing, time};

/// See the module.
pub struct UploadPartCopy;

#[async_trait]
impl Op for UploadPartCopy {
    fn name(&self) -> &'static str {
        "UploadPartCopy"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("partNumber").with("uploadId").with_header("x-amz-copy-source")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let place = Place::parse(request.query())?;
        let source = Source::parse(request.headers())?;
        let key = request.key().clone();
        let (upload, sealing) = uploads::find(cx, &key, place.upload).await?;
        let encryption = encryption::of_part(cx, &request, sealing.as_ref())?;
        let customer = encryption::customer(&request, Whose::Source)?;
        let headers = request.headers();
        let Taken { response, bytes, body } = match Afar::find(cx, &source).await? {
            Some(afar) => {
                let fetched = afar.fetch(headers, false).await?;
                let response = fetched.show(Response::ok());
                Taken { response, bytes: fetched.bytes, body: Box::new(fetched.body) }
            }
            None => Taken::here(cx, &source, customer.as_ref(), headers).await?,
        };

        let algorithm = upload.checksum.map_or(ChecksumAlgorithm::Crc64Nvme, |(algorithm, _)| algorithm);
        let mut hashing = Hashing::new(body, algorithm);
        let part = Some((place.upload, place.number));
        let target = bodies::target(cx, &key, part, Some(&upload.attributes), encryption.as_ref())?;
        let Written { body, guard } = cx.data.write(&mut hashing, Some(bytes), target).await?;
        let extent = match body {
            NewBody::Extent(extent) => Some(extent),
            NewBody::Inline(_) => None,
        };
        let (md5, checksum) = hashing.finish();
        let md5 = encryption::tag(&*cx.env, sealing.as_ref(), md5);
        let command = PutPart {
            bucket: cx.bucket()?.id,
            key,
            upload: place.upload,
            number: place.number,
            md5,
            checksum: Some(checksum.clone()),
            extent,
        };
        let done = cx.propose(Command::PutPart(command)).await;
        // The outcome is known (or given up): from here on the extent is named, or garbage.
        drop(guard);
        let Done::Part(modified) = done? else {
            return Err(unexpected("PutPart"));
        };
        let shown = upload.checksum.map(|_| checksum);
        let document = document(modified, &Etag::Md5(md5), shown.as_ref());
        let response = encryption::show_part(response, encryption.as_ref());
        Ok(Response { headers: response.headers, ..Response::xml(document) }
            .header(http::header::CONTENT_TYPE, "application/xml"))
    }
}

/// The source of a part, as far as it is taken.
struct Taken {
    /// What an answer tells of the source.
    response: Response,
    bytes: u64,
    body: SourceBytes,
}

impl Taken {
    /// Of an object in this cluster.
    async fn here(
        cx: &Context,
        source: &Source,
        customer: Option<&Customer>,
        headers: &HeaderMap,
    ) -> S3Result<Taken> {
        let bucket = source.bucket(cx).await?;
        let guard = cx.meta.begin_read();
        let view = source.find(cx, &bucket, Want::Body).await?;
        guard.reads(source.home(&bucket), &view);
        encryption::check_reader(&view.object, customer)?;
        if conditions::decide(&source.conditions, &view.object) != Verdict::Proceed {
            return Err(Code::PreconditionFailed.into());
        }
        let range = match header_text(headers, "x-amz-copy-source-range")? {
            Some(text) => range::parse_copy(text, view.object.bytes)
                .map(|range| range.start..range.start + range.bytes)?,
            None => 0..view.object.bytes,
        };
        let response = show_source(Response::ok(), &bucket, &view);
        let bytes = range.end - range.start;
        let source_key = encryption::body_key(cx, &view.object, customer)?;
        let body = Box::new(bodies::read(cx, view.body, source_key.as_ref(), range, guard));
        Ok(Taken { response, bytes, body })
    }
}

fn document(modified: ClusterMs, etag: &Etag, shown: Option<&consensus::meta::model::Checksum>) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("CopyPartResult");
    listing::etag(&mut xml, etag);
    xml.value("LastModified", time::Iso8601(modified.0));
    if let Some(shown) = shown {
        xml.text(checksum::element(shown.algorithm), &checksum::encode(&shown.value));
    }
    xml.close("CopyPartResult");
    xml
}
