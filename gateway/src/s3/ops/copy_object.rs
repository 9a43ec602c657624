//! CopyObject: the copy names its source in the command and shares the body; no byte is moved.
//!
//! Where its source is in another cluster the bytes come from there, and are written anew.
//! Where the client wants a checksum of an algorithm that the source has not, the bytes are read. Where the copy is to be
//! encrypted otherwise than the source, or one of them under a customer's key, or kept in another storage class, they are
//! written anew. What was
//! decided from the source holds for the version that was seen; if it changes meanwhile, everything is decided again.

use async_trait::async_trait;
use consensus::client::{MetaError, WriteGuard};
use consensus::meta::acl::WantedAcl;
use consensus::meta::command::{
    Annotated, Command, CopyObject as CopyCommand, Done, Expect, Guard, PutObject as PutCommand, Reject,
};
use consensus::meta::model::{
    Attributes, Body, Bucket, Checksum, ChecksumAlgorithm, ChecksumKind, Etag, Object, Origin, Stored, Tags,
};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{BodyView, ObjectView, Want};
use fabric::limits::PUT_BYTES_MAX;
use futures::StreamExt as _;
use http::{HeaderMap, Method};

use crate::data::{BodyStream, Written};
use crate::s3::acl::About;
use crate::s3::afar::{Afar, too_large};
use crate::s3::checksum::{self, Hasher};
use crate::s3::conditions::{self, Verdict};
use crate::s3::copying::{Hashing, Source, SourceBytes, show_source};
use crate::s3::encryption::{self, Customer, Encryption, Stated, Whose, Wish};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::{Action, Context, Op, unexpected};
use crate::s3::request::{Request, header_text};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;
use crate::s3::{acl, annotations, bodies, classes, headers, lifecycle, listing, locks, time, versions};

/// How often a copy is decided again because its source changed.
const TRIES_MAX: usize = 4;

/// See the module.
pub struct CopyObject;

#[async_trait]
impl Op for CopyObject {
    fn name(&self) -> &'static str {
        "CopyObject"
    }

    fn route(&self) -> Route {
        Route::object(Method::PUT).with_header("x-amz-copy-source")
    }

    fn action(&self) -> Action {
        Action::PutObject
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let stated = Stated::parse(&request)?;
        let customer = encryption::customer(&request, Whose::Source)?;
        let mut input = Input::parse(request.headers(), customer)?;
        classes::by_default(cx, request.headers(), &mut input.said).await?;
        let key = request.key().clone();
        let wish = stated.wish(cx).await?;
        if let Some(afar) = Afar::find(cx, &input.source).await? {
            conditions::refuse_early(cx, &key, &input.expect).await?;
            acl::refuse_early(cx, input.acl.as_ref()).await?;
            return input.copy_from(cx, request.headers(), &key, &afar, &wish).await;
        }
        let source_bucket = input.source.bucket(cx).await?;
        input.annotations = input.annotations.permitted(cx, &input.source, &source_bucket, &key).await?;
        // The source may have to be read for a checksum: not for a copy that will be refused.
        conditions::refuse_early(cx, &key, &input.expect).await?;
        acl::refuse_early(cx, input.acl.as_ref()).await?;
        for _ in 0..TRIES_MAX {
            let Decided { command, view, bytes, guard } =
                input.decide(cx, &key, &source_bucket, &wish).await?;
            let done = cx.propose_raw(input.dressed(command)).await;
            // The outcome is known (or given up): from here on what was written is named, or garbage.
            drop(guard);
            let stored = match done {
                Ok(Done::Stored(stored)) => stored,
                Ok(_) => return Err(unexpected("CopyObject")),
                Err(MetaError::Rejected(Reject::SourceChanged)) => continue,
                Err(MetaError::Rejected(Reject::NoSuchKey)) if input.expect != Expect::default() => {
                    return Err(Code::NoSuchKey.into());
                }
                Err(MetaError::Rejected(reject)) => return Err(input.source.refused(reject)),
                Err(error) => return Err(error.into()),
            };
            let response = show_source(Response::xml(document(&stored)), &source_bucket, &view);
            let response = match &bytes {
                Bytes::Shared => encryption::show_object(response, &view.object, None),
                Bytes::Anew(encryption) => encryption::show(response, encryption.as_ref()),
            };
            let attributes = input.attributes(&view.object.attributes);
            let tags = attributes.map_or_else(|| view.object.attributes.tags.clone(), |said| said.tags);
            return answered(cx, &key, &stored, &tags, response).await;
        }
        Err(Code::ConditionalRequestConflict.into())
    }
}

/// What will be proposed, and what it was decided from.
struct Decided {
    command: Command,
    /// The source.
    view: ObjectView,
    /// Whence its bytes come.
    bytes: Bytes,
    /// Of those that were written.
    guard: Option<WriteGuard>,
}

/// Whence the bytes of a copy come.
enum Bytes {
    /// They are the source's, encrypted or not as they are.
    Shared,
    /// They were written anew, encrypted like this, if at all.
    Anew(Option<Encryption>),
}

/// A copy whose bytes are written anew.
struct Anew {
    bytes: u64,
    attributes: Attributes,
    /// Which its source has.
    checksum: Option<ChecksumAlgorithm>,
}

struct Input {
    source: Source,
    /// The key of the customer who encrypted the source.
    customer: Option<Customer>,
    guard: Guard,
    expect: Expect,
    acl: Option<WantedAcl>,
    /// What the headers say about the copy.
    said: Attributes,
    metadata: Directive,
    tagging: Directive,
    annotations: annotations::Directive,
    /// Whether the client asks for something that makes a copy onto itself a change.
    changes: bool,
    algorithm: Option<ChecksumAlgorithm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Copy,
    Replace,
}

impl Directive {
    fn parse(headers: &HeaderMap, name: &str, words: &'static str) -> S3Result<Directive> {
        match header_text(headers, name)? {
            None | Some("COPY") => Ok(Directive::Copy),
            Some("REPLACE") => Ok(Directive::Replace),
            Some(text) => Err(S3Error::argument(name, text, words)),
        }
    }
}

impl Input {
    fn parse(headers: &HeaderMap, customer: Option<Customer>) -> S3Result<Input> {
        let names = [
            "x-amz-storage-class",
            "x-amz-website-redirect-location",
            "x-amz-checksum-algorithm",
            "x-amz-server-side-encryption",
            "x-amz-server-side-encryption-customer-algorithm",
        ];
        Ok(Input {
            source: Source::parse(headers)?,
            customer,
            guard: Guard { lock: locks::of_headers(headers)?, ..Guard::default() },
            expect: conditions::of_write(headers)?,
            acl: acl::of_headers(headers, About::Object)?,
            said: headers::attributes(headers)?,
            metadata: Directive::parse(headers, "x-amz-metadata-directive", "Unknown metadata directive.")?,
            tagging: Directive::parse(headers, "x-amz-tagging-directive", "Unknown tagging directive.")?,
            annotations: annotations::Directive::parse(headers)?,
            changes: names.iter().any(|name| headers.contains_key(*name)),
            algorithm: checksum::algorithm_header(headers, "x-amz-checksum-algorithm")?,
        })
    }

    /// Looks at the source and says what the copy will be.
    async fn decide(
        &self,
        cx: &Context,
        key: &ObjectKey,
        source_bucket: &Bucket,
        wish: &Wish,
    ) -> S3Result<Decided> {
        let view = self.source.find(cx, source_bucket, Want::Row).await?;
        encryption::check_reader(&view.object, self.customer.as_ref())?;
        if PUT_BYTES_MAX < view.object.bytes {
            return Err(too_large());
        }
        // Bytes that lie in the metadata lie there in every class.
        let moves = !matches!(view.object.body.place(), Body::Empty | Body::Inline(_));
        let same_class = self.said.storage_class == view.object.attributes.storage_class;
        match wish.is_met_by(view.object.body.sealing()) && (same_class || !moves) {
            true => self.share(cx, key, source_bucket, view).await,
            false => self.write_anew(cx, key, source_bucket, wish).await,
        }
    }

    /// The bytes of the source as they are now.
    async fn bytes(&self, cx: &Context, source_bucket: &Bucket) -> S3Result<(ObjectView, BodyStream)> {
        let guard = cx.meta.begin_read();
        let mut view = self.source.find(cx, source_bucket, Want::Body).await?;
        guard.reads(self.source.home(source_bucket), &view);
        encryption::check_reader(&view.object, self.customer.as_ref())?;
        let source_key = encryption::body_key(cx, &view.object, self.customer.as_ref())?;
        let body = std::mem::replace(&mut view.body, BodyView::NotAsked);
        let range = 0..view.object.bytes;
        Ok((view, bodies::read(cx, body, source_key.as_ref(), range, guard)))
    }

    /// A copy that shares the body of its source.
    async fn share(
        &self,
        cx: &Context,
        key: &ObjectKey,
        source_bucket: &Bucket,
        seen: ObjectView,
    ) -> S3Result<Decided> {
        let (mut view, mut checksum) = (seen, None);
        if let Some(algorithm) = self.algorithm.filter(|&wanted| !has_checksum(&view.object, wanted)) {
            let (read, stream) = self.bytes(cx, source_bucket).await?;
            view = read;
            checksum = Some(hash(stream, algorithm).await?);
        }
        let command = CopyCommand {
            source_bucket: source_bucket.id,
            source_key: self.source.key.clone(),
            source_version: self.source.version,
            source_conditions: self.source.conditions.clone(),
            bucket: cx.bucket()?.id,
            key: key.clone(),
            expect: self.expect.clone(),
            attributes: self.attributes(&view.object.attributes),
            checksum,
            source_seen: Some(view.object.stamp),
            origin: Origin::default(),
        };
        let command = match self.annotations {
            annotations::Directive::Copy => Command::CopyObject(command),
            annotations::Directive::Exclude => Command::CopyBare(command),
        };
        Ok(Decided { command, view, bytes: Bytes::Shared, guard: None })
    }

    /// A copy whose bytes are written anew, as they are to be encrypted or kept otherwise.
    async fn write_anew(
        &self,
        cx: &Context,
        key: &ObjectKey,
        source_bucket: &Bucket,
        wish: &Wish,
    ) -> S3Result<Decided> {
        let (view, stream) = self.bytes(cx, source_bucket).await?;
        let source = &view.object;
        if conditions::decide(&self.source.conditions, source) != Verdict::Proceed {
            return Err(Code::PreconditionFailed.into());
        }
        let annotations = match self.annotations {
            annotations::Directive::Copy => {
                let home = self.source.home(source_bucket);
                annotations::resealed(cx, home, self.source.version, source, wish).await?
            }
            annotations::Directive::Exclude => None,
        };
        let attributes = self.attributes(&source.attributes).unwrap_or_else(|| source.attributes.clone());
        let had = source.checksum.as_ref().map(|checksum| checksum.algorithm);
        let anew = Anew { bytes: source.bytes, attributes, checksum: had };
        let (command, encryption, guard) = self.written(cx, key, wish, anew, Box::new(stream)).await?;
        let command = match annotations {
            Some(annotations) => Command::Annotated(Annotated { annotations, command: Box::new(command) }),
            None => command,
        };
        Ok(Decided { command, view, bytes: Bytes::Anew(encryption), guard })
    }

    /// A copy of what is in another cluster.
    async fn copy_from(
        &self,
        cx: &Context,
        headers: &HeaderMap,
        key: &ObjectKey,
        afar: &Afar<'_>,
        wish: &Wish,
    ) -> S3Result<Response> {
        let fetched = afar.fetch(headers, self.tagging == Directive::Copy).await?;
        let attributes = self.attributes(&fetched.attributes).unwrap_or_else(|| fetched.attributes.clone());
        let response = fetched.show(Response::ok());
        let tags = attributes.tags.clone();
        let anew = Anew { bytes: fetched.bytes, attributes, checksum: None };
        let (command, encryption, guard) = self.written(cx, key, wish, anew, Box::new(fetched.body)).await?;
        let done = cx.propose(self.dressed(command)).await;
        // The outcome is known (or given up): from here on what was written is named, or garbage.
        drop(guard);
        let Done::Stored(stored) = done? else { return Err(unexpected("PutObject")) };
        let mut shown = Response::xml(document(&stored));
        shown.headers.extend(response.headers);
        let shown = encryption::show(shown, encryption.as_ref());
        answered(cx, key, &stored, &tags, shown).await
    }

    /// Writes the bytes of a copy; the command that names them has no conditions but those on the object that is there.
    async fn written(
        &self,
        cx: &Context,
        key: &ObjectKey,
        wish: &Wish,
        anew: Anew,
        body: SourceBytes,
    ) -> S3Result<(Command, Option<Encryption>, Option<WriteGuard>)> {
        let encryption = wish.seal(cx)?;
        let sealing = encryption::sealing_of(encryption.as_ref());
        let algorithm = self.algorithm.or(anew.checksum).unwrap_or(ChecksumAlgorithm::Crc64Nvme);
        let mut hashing = Hashing::new(body, algorithm);
        let target = bodies::target(cx, key, None, Some(&anew.attributes), encryption.as_ref())?;
        let Written { body, guard } = cx.data.write(&mut hashing, Some(anew.bytes), target).await?;
        let (md5, checksum) = hashing.finish();
        let command = PutCommand {
            bucket: cx.bucket()?.id,
            key: key.clone(),
            expect: self.expect.clone(),
            body,
            etag: Etag::Md5(encryption::tag(&*cx.env, sealing, md5)),
            checksum: Some(checksum),
            attributes: anew.attributes,
            origin: Origin::default(),
        };
        let command = encryption::copied(Command::PutObject(command), sealing.cloned());
        Ok((command, encryption, guard))
    }

    /// A command with the lock and the access control list that the copy is to have.
    fn dressed(&self, command: Command) -> Command {
        acl::with(locks::guarded(command, self.guard.clone()), self.acl.clone())
    }

    /// The attributes of the copy; `None` where they are the source's and nothing was asked to change.
    fn attributes(&self, source: &Attributes) -> Option<Attributes> {
        let redirect = "x-amz-website-redirect-location";
        let redirects = source.headers.contains_key(redirect);
        let same_class = self.said.storage_class == source.storage_class;
        let as_it_is = same_class && !redirects && !self.changes;
        if (self.metadata, self.tagging, as_it_is) == (Directive::Copy, Directive::Copy, true) {
            return None;
        }
        let mut attributes = match self.metadata {
            Directive::Copy => source.clone(),
            Directive::Replace => self.said.clone(),
        };
        // A redirect is never copied, only said anew.
        attributes.headers.remove(redirect);
        if let Some(location) = self.said.headers.get(redirect) {
            attributes.headers.insert(redirect.to_string(), location.clone());
        }
        attributes.storage_class.clone_from(&self.said.storage_class);
        attributes.tags = match self.tagging {
            Directive::Copy => source.tags.clone(),
            Directive::Replace => self.said.tags.clone(),
        };
        Some(attributes)
    }
}

fn has_checksum(object: &Object, wanted: ChecksumAlgorithm) -> bool {
    let of_all_bytes = |checksum: &Checksum| checksum.kind == ChecksumKind::FullObject;
    object.checksum.as_ref().is_some_and(|checksum| checksum.algorithm == wanted && of_all_bytes(checksum))
}

async fn hash(mut stream: BodyStream, algorithm: ChecksumAlgorithm) -> S3Result<Checksum> {
    let mut hasher = Hasher::new(algorithm);
    while let Some(piece) = stream.next().await {
        hasher.update(&piece?);
    }
    Ok(hasher.finish())
}

/// The rest of what every copy is answered with.
async fn answered(
    cx: &Context,
    key: &ObjectKey,
    stored: &Stored,
    tags: &Tags,
    response: Response,
) -> S3Result<Response> {
    let response = lifecycle::tell_writer(cx, key, stored, tags, response).await;
    Ok(versions::show_written(response, cx.bucket()?, stored))
}

fn document(stored: &Stored) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("CopyObjectResult");
    listing::etag(&mut xml, &stored.etag);
    xml.value("LastModified", time::Iso8601(stored.modified.0));
    if let Some(shown) = &stored.checksum {
        let parts = headers::parts_of(&stored.etag);
        xml.text("ChecksumType", checksum::kind_name(shown.kind));
        xml.text(checksum::element(shown.algorithm), &checksum::display(shown, parts));
    }
    xml.close("CopyObjectResult");
    xml
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::reading::tests::object;

    fn input(pairs: &[(&'static str, &'static str)]) -> S3Result<Input> {
        let source = ("x-amz-copy-source", "photos/cat");
        let pairs = pairs.iter().chain([&source]);
        let headers = pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Input::parse(&headers, None)
    }

    #[test]
    fn directives_choose_metadata_and_tags() {
        let mut source = object(1);
        source.attributes.user.insert("a".to_string(), "source".to_string());
        source.attributes.tags.push(("t".to_string(), "source".to_string()));
        let said = [("x-amz-meta-a", "said"), ("x-amz-tagging", "t=said")];
        let (metadata, tagging) = ("x-amz-metadata-directive", "x-amz-tagging-directive");
        for (directives, user, tag) in [
            (&[(metadata, "REPLACE")][..], "said", "source"),
            (&[(tagging, "REPLACE")], "source", "said"),
            (&[(metadata, "REPLACE"), (tagging, "REPLACE")], "said", "said"),
            (&[("x-amz-storage-class", "STANDARD")], "source", "source"),
        ] {
            let pairs: Vec<_> = said.iter().chain(directives).copied().collect();
            let attributes = input(&pairs).unwrap().attributes(&source.attributes).unwrap();
            assert_eq!((&*attributes.user["a"], &*attributes.tags[0].1), (user, tag), "{directives:?}");
        }
        assert_eq!(input(&said).unwrap().attributes(&source.attributes), None);
        for bad in [(metadata, "MERGE"), (tagging, "copy")] {
            assert_eq!(input(&[bad]).err().unwrap().code(), Code::InvalidArgument);
        }
    }
}
