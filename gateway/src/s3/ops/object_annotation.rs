//! Annotations: texts of up to 1 MiB that belong to one version of an object, each under a name of its own.
//!
//! GetObjectAnnotation and ListObjectAnnotations are told apart by the name in the query.

use async_trait::async_trait;
use consensus::client::MetaError;
use consensus::meta::command::{
    AnnotationChange, Command, Done, EtagCondition, Reject, SetAnnotation, VersionSelector,
};
use consensus::meta::model::{Annotation, Etag, Object, Origin, Stored};
use consensus::meta::names::{AnnotationName, ObjectKey};
use consensus::meta::query::{AnnotationsView, BodyView};
use fabric::ids::BucketId;
use fabric::limits::ANNOTATIONS_MAX;
use futures::StreamExt as _;
use http::Method;
use http::header::{CONTENT_TYPE, LAST_MODIFIED};

use crate::s3::annotations::{self, Draft};
use crate::s3::error::{BoxError, Code, S3Error, S3Result};
use crate::s3::op::{Action, BodyRule, Context, Op, unexpected};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;
use crate::s3::{bodies, checksum, conditions, encryption, headers, listing, locks, time, versions};

/// The parameter with the name.
const NAME: &str = "annotationName";
const PREFIX: &str = "annotation-prefix";
const TEXT: &str = "text/plain; charset=utf-8";
/// How often a text is written again because another one came first, or another version.
const TRIES_MAX: usize = 4;

/// See the module.
pub struct PutObjectAnnotation;

#[async_trait]
impl Op for PutObjectAnnotation {
    fn name(&self) -> &'static str {
        "PutObjectAnnotation"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with("annotation").with(NAME)
    }

    fn action(&self) -> Action {
        Action::PutObjectAnnotation
    }

    fn body(&self) -> BodyRule {
        BodyRule::Object
    }

    async fn run(&self, cx: &Context, mut request: Request) -> S3Result<Response> {
        let asked = Asked::parse(&request)?;
        encryption::refuse_stated(&request)?;
        let announced = request.content_length()?;
        let payload = request.payload_mut();
        let text = annotations::text(payload, announced).await?;
        let digests = payload.digests().ok_or(Code::IncompleteBody)?.clone();
        for _ in 0..TRIES_MAX {
            let there = asked.find(cx).await?;
            let Draft { new, guard, encryption } =
                annotations::write(cx, &there, text.clone(), &digests).await?;
            let md5 = new.md5;
            let stored = asked.change(cx, AnnotationChange::Put(Box::new(new))).await;
            // The outcome is known (or given up): from here on the extent is named, or garbage.
            drop(guard);
            let Some(stored) = stored? else { continue };
            let response = Response::xml(asked.document()).etag(&Etag::Md5(md5));
            let response = headers::show_checksum(response, &digests.checksum, 0);
            return show(encryption::show(response, Some(&encryption)), cx, &stored);
        }
        Err(Code::ConditionalRequestConflict.into())
    }
}

/// See the module.
pub struct GetObjectAnnotation;

#[async_trait]
impl Op for GetObjectAnnotation {
    fn name(&self) -> &'static str {
        "GetObjectAnnotation"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("annotation").with(NAME)
    }

    fn action(&self) -> Action {
        Action::GetObjectAnnotation
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let asked = Asked::parse(&request)?;
        encryption::refuse_stated(&request)?;
        let guard = cx.meta.begin_read();
        let view = asked.find(cx).await?;
        let (Some(found), Some(piece), Some(sealing)) = (view.annotations.first(), view.piece, &view.sealing)
        else {
            return Err(S3Error::from(Code::NoSuchAnnotation).field("AnnotationName", asked.name.as_str()));
        };
        let pieces = vec![piece];
        guard.reads_pieces(view.home, &pieces);
        let response = Response::ok()
            .etag(&Etag::Md5(found.md5))
            .header(LAST_MODIFIED, time::http_date(found.modified.0))
            .header(CONTENT_TYPE, TEXT);
        let mut response = show_version(response, cx, &view.object)?;
        response = encryption::show_sealing(response, Some(sealing));
        if headers::wants_checksum(request.headers()) {
            response = headers::show_checksum(response, &found.checksum, 0);
        }
        let key = encryption::annotation_key(cx, sealing)?;
        let mut stream = bodies::read(cx, BodyView::Pieces(pieces), Some(&key), 0..found.bytes, guard);
        // A failure before the first byte can still be told in the status.
        stream.start().await?;
        let pieces = stream.map(|piece| piece.map_err(|error| Box::new(error) as BoxError));
        Ok(response.stream(found.bytes, pieces.boxed()))
    }
}

/// See the module.
pub struct DeleteObjectAnnotation;

#[async_trait]
impl Op for DeleteObjectAnnotation {
    fn name(&self) -> &'static str {
        "DeleteObjectAnnotation"
    }

    fn route(&self) -> Route {
        Route::object(Method::DELETE).with("annotation").with(NAME)
    }

    fn action(&self) -> Action {
        Action::DeleteObjectAnnotation
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let asked = Asked::parse(&request)?;
        let stored = asked.change(cx, AnnotationChange::Remove).await?;
        let stored = stored.ok_or_else(|| unexpected("SetAnnotation"))?;
        show(Response::no_content(), cx, &stored)
    }
}

/// See the module.
pub struct ListObjectAnnotations;

#[async_trait]
impl Op for ListObjectAnnotations {
    fn name(&self) -> &'static str {
        "ListObjectAnnotations"
    }

    fn route(&self) -> Route {
        Route::object(Method::GET).with("annotation")
    }

    fn action(&self) -> Action {
        Action::ListObjectAnnotations
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let (query, bucket) = (request.query(), cx.bucket()?);
        let page = Page::parse(query, bucket.id)?;
        let version = versions::from_query(query)?;
        let view = find(cx, request.key(), version, None).await?;
        let mut xml = XmlWriter::new();
        xml.root("ListObjectAnnotationsResult");
        xml.text("Bucket", bucket.name.as_str());
        xml.text("Key", request.key().as_str());
        page.write(&mut xml, bucket.id, &view.annotations);
        xml.close("ListObjectAnnotationsResult");
        show_version(Response::xml(xml), cx, &view.object)
    }
}

/// Which annotation of which version, and on which conditions.
struct Asked {
    key: ObjectKey,
    version: Option<VersionSelector>,
    name: AnnotationName,
    etag: Option<EtagCondition>,
    bypass: bool,
}

impl Asked {
    fn parse(request: &Request) -> S3Result<Asked> {
        Ok(Asked {
            key: request.key().clone(),
            version: versions::from_query(request.query())?,
            name: request.query().get(NAME).unwrap_or("").parse()?,
            etag: conditions::of_annotated(request.headers())?,
            bypass: locks::bypass(request.headers())?,
        })
    }

    async fn find(&self, cx: &Context) -> S3Result<AnnotationsView> {
        find(cx, &self.key, self.version, Some(self.name.clone())).await
    }

    /// `None`: it was written for another version or another data key than there is by now.
    async fn change(&self, cx: &Context, change: AnnotationChange) -> S3Result<Option<Stored>> {
        let command = SetAnnotation {
            bucket: cx.bucket()?.id,
            key: self.key.clone(),
            version: self.version,
            name: self.name.clone(),
            etag: self.etag.clone(),
            change,
            bypass: self.bypass,
            origin: Origin::default(),
        };
        match cx.propose_raw(Command::SetAnnotation(command)).await {
            Ok(Done::Stored(stored)) => Ok(Some(stored)),
            Ok(_) => Err(unexpected("SetAnnotation")),
            Err(MetaError::Rejected(Reject::SourceChanged)) => Ok(None),
            Err(MetaError::Rejected(reject @ (Reject::NoSuchKey | Reject::NoSuchVersion))) => {
                Err(S3Error::from(reject).field("Key", self.key.as_str()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn document(&self) -> XmlWriter {
        let mut xml = XmlWriter::new();
        xml.root("PutObjectAnnotationResult");
        xml.text("Key", self.key.as_str());
        xml.text("AnnotationName", self.name.as_str());
        xml.close("PutObjectAnnotationResult");
        xml
    }
}

async fn find(
    cx: &Context,
    key: &ObjectKey,
    version: Option<VersionSelector>,
    name: Option<AnnotationName>,
) -> S3Result<AnnotationsView> {
    let found = annotations::find(cx, cx.bucket()?.id, key, version, name).await?;
    found.map_err(|reject| S3Error::from(reject).field("Key", key.as_str()))
}

/// Adds the version that the annotation belongs to.
fn show(response: Response, cx: &Context, stored: &Stored) -> S3Result<Response> {
    Ok(renamed(versions::show_stored(response, cx.bucket()?, stored)))
}

fn show_version(response: Response, cx: &Context, object: &Object) -> S3Result<Response> {
    Ok(renamed(versions::show(response, cx.bucket()?, object)))
}

/// The id is that of the object's version: annotations have none.
fn renamed(mut response: Response) -> Response {
    if let Some(version) = response.headers.remove("x-amz-version-id") {
        response.headers.insert("x-amz-object-version-id", version);
    }
    response
}

/// Which annotations to list.
struct Page {
    prefix: String,
    after: Option<String>,
    token: Option<String>,
    limit: usize,
}

impl Page {
    fn parse(query: &Query, bucket: BucketId) -> S3Result<Page> {
        let limit = query.number("max-annotation-results", 1, ANNOTATIONS_MAX as u64)?;
        let token = query.get("continuation-token").map(str::to_string);
        Ok(Page {
            prefix: query.get(PREFIX).unwrap_or("").to_string(),
            after: token.as_deref().map(|token| listing::from_token(bucket, token)).transpose()?,
            token,
            limit: limit.unwrap_or(ANNOTATIONS_MAX as u64) as usize,
        })
    }

    fn write(&self, xml: &mut XmlWriter, bucket: BucketId, all: &[Annotation]) {
        let behind = |name: &str| self.after.as_deref().is_none_or(|after| after < name);
        let wanted = |annotation: &&Annotation| {
            let name = annotation.name.as_str();
            name.starts_with(&self.prefix) && behind(name)
        };
        let mut left = all.iter().filter(wanted);
        let page: Vec<&Annotation> = left.by_ref().take(self.limit).collect();
        xml.text("AnnotationPrefix", &self.prefix);
        xml.value("MaxAnnotationResults", self.limit);
        xml.value("AnnotationCount", page.len());
        xml.optional("ContinuationToken", self.token.as_deref());
        if let (Some(last), Some(_)) = (page.last(), left.next()) {
            xml.text("NextContinuationToken", &listing::token(bucket, last.name.as_str()));
        }
        xml.element("Annotations", |xml| {
            for annotation in page {
                xml.element("AnnotationEntry", |xml| entry(xml, annotation));
            }
        });
    }
}

fn entry(xml: &mut XmlWriter, annotation: &Annotation) {
    xml.text("AnnotationName", annotation.name.as_str());
    xml.value("LastModified", time::Iso8601(annotation.modified.0));
    listing::etag(xml, &Etag::Md5(annotation.md5));
    xml.text("ChecksumAlgorithm", checksum::name(annotation.checksum.algorithm));
    xml.value("Size", annotation.bytes);
}
