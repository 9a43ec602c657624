//! Reads the documents that clients send. Strict: no DTD, bounded depth, the root must be the one expected, and an
//! element that we do not know is an error instead of being passed over.
//!
//! The size is bounded by whoever reads the body ([`fabric::limits::XML_BODY_BYTES_MAX`]).

use bytes::Bytes;
use consensus::meta::model::{ChecksumAlgorithm, CorsRule, PublicAccessBlock, Tags};
use fabric::limits::{LIST_KEYS_MAX, PARTS_MAX, XML_DEPTH_MAX};
use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};

/// Attributes of one element.
const ATTRIBUTES_MAX: usize = 16;

/// The body of DeleteObjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteDocument {
    /// Whether only errors are reported.
    pub quiet: bool,
    /// 1 to 1,000 objects.
    pub objects: Vec<DeleteElement>,
}

/// One object of a [`DeleteDocument`]. Texts as sent: a wrong one is the error of this object only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteElement {
    /// Its key.
    pub key: String,
    /// Its version.
    pub version_id: Option<String>,
    /// Condition on its tag.
    pub etag: Option<String>,
    /// Condition on its time.
    pub last_modified: Option<String>,
    /// Condition on its size.
    pub size: Option<String>,
}

impl DeleteDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<DeleteDocument> {
        let root = parse(body, "Delete")?;
        let mut document = DeleteDocument { quiet: false, objects: Vec::new() };
        for child in root.children {
            match child.name.as_str() {
                "Quiet" => document.quiet = child.boolean()?,
                "Object" => document.objects.push(DeleteElement::from_node(child)?),
                _ => return Err(malformed()),
            }
        }
        if document.objects.is_empty() || (LIST_KEYS_MAX as usize) < document.objects.len() {
            return Err(malformed());
        }
        Ok(document)
    }
}

impl DeleteElement {
    fn from_node(node: Node) -> S3Result<DeleteElement> {
        let mut key = None;
        let mut element = DeleteElement::default();
        for child in node.children {
            let field = match child.name.as_str() {
                "Key" => &mut key,
                "VersionId" => &mut element.version_id,
                "ETag" => &mut element.etag,
                "LastModifiedTime" => &mut element.last_modified,
                "Size" => &mut element.size,
                _ => return Err(malformed()),
            };
            child.text_into(field)?;
        }
        element.key = key.ok_or_else(malformed)?;
        Ok(element)
    }
}

/// The body of CompleteMultipartUpload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteDocument {
    /// 1 to 10,000 parts in the order sent.
    pub parts: Vec<CompletePartElement>,
}

/// One part of a [`CompleteDocument`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletePartElement {
    /// 1 to 10,000.
    pub number: u16,
    /// Its tag as sent.
    pub etag: String,
    /// Its checksum, decoded.
    pub checksum: Option<(ChecksumAlgorithm, Bytes)>,
}

impl CompleteDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<CompleteDocument> {
        let root = parse(body, "CompleteMultipartUpload")?;
        if root.children.is_empty() || usize::from(PARTS_MAX) < root.children.len() {
            return Err(malformed());
        }
        let parts = root.children.into_iter().map(CompletePartElement::from_node).collect::<S3Result<_>>()?;
        Ok(CompleteDocument { parts })
    }
}

impl CompletePartElement {
    fn from_node(node: Node) -> S3Result<CompletePartElement> {
        if node.name != "Part" {
            return Err(malformed());
        }
        let (mut number, mut etag, mut checksum) = (None, None, None);
        for child in node.children {
            match child.name.as_str() {
                "PartNumber" => child.text_into(&mut number)?,
                "ETag" => child.text_into(&mut etag)?,
                _ => take_checksum(child, &mut checksum)?,
            }
        }
        let number = number.ok_or_else(malformed)?;
        let etag = etag.ok_or_else(malformed)?;
        Ok(CompletePartElement { number: part_number(&number)?, etag, checksum })
    }
}

fn take_checksum(node: Node, found: &mut Option<(ChecksumAlgorithm, Bytes)>) -> S3Result<()> {
    let algorithm = checksum::all().find(|one| checksum::element(*one) == node.name).ok_or_else(malformed)?;
    let mut text = None;
    node.text_into(&mut text)?;
    let value = checksum::decode(algorithm, text.unwrap_or_default().trim())
        .ok_or_else(|| checksum::invalid_value(checksum::header_name(algorithm)))?;
    match found.replace((algorithm, value)) {
        None => Ok(()),
        Some(_) => Err(malformed()),
    }
}

/// A number that is no number is malformed; one out of range is an argument.
fn part_number(text: &str) -> S3Result<u16> {
    let number: i64 = text.trim().parse().map_err(|_| malformed())?;
    match u16::try_from(number) {
        Ok(number) if (1..=PARTS_MAX).contains(&number) => Ok(number),
        _ => Err(S3Error::argument(
            "partNumber",
            text,
            "PartNumber must be an integer between 1 and 10000, inclusive",
        )),
    }
}

/// The body of PutBucketVersioning, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersioningDocument {
    /// `Status`.
    pub status: Option<String>,
    /// `MfaDelete`.
    pub mfa_delete: Option<String>,
}

impl VersioningDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<VersioningDocument> {
        let mut document = VersioningDocument::default();
        for child in parse(body, "VersioningConfiguration")?.children {
            match child.name.as_str() {
                "Status" => child.text_into(&mut document.status)?,
                "MfaDelete" => child.text_into(&mut document.mfa_delete)?,
                _ => return Err(malformed()),
            }
        }
        Ok(document)
    }
}

/// The tags of a document, as they came.
pub fn tagging(body: &[u8]) -> S3Result<Tags> {
    let mut sets = parse(body, "Tagging")?.children.into_iter();
    let (Some(set), None) = (sets.next(), sets.next()) else { return Err(malformed()) };
    if set.name != "TagSet" {
        return Err(malformed());
    }
    set.children.into_iter().map(tag).collect()
}

pub(super) fn tag(node: Node) -> S3Result<(String, String)> {
    if node.name != "Tag" {
        return Err(malformed());
    }
    let (mut key, mut value) = (None, None);
    for child in node.children {
        match child.name.as_str() {
            "Key" => child.text_into(&mut key)?,
            "Value" => child.text_into(&mut value)?,
            _ => return Err(malformed()),
        }
    }
    Ok((key.ok_or_else(malformed)?, value.ok_or_else(malformed)?))
}

/// The rules of a CORS configuration, as they came.
pub fn cors_rules(body: &[u8]) -> S3Result<Vec<CorsRule>> {
    parse(body, "CORSConfiguration")?.children.into_iter().map(cors_rule).collect()
}

fn cors_rule(node: Node) -> S3Result<CorsRule> {
    if node.name != "CORSRule" {
        return Err(malformed());
    }
    let mut rule = CorsRule::default();
    let mut max_age = None;
    for child in node.children {
        let list = match child.name.as_str() {
            "AllowedOrigin" => &mut rule.origins,
            "AllowedMethod" => &mut rule.methods,
            "AllowedHeader" => &mut rule.headers,
            "ExposeHeader" => &mut rule.expose,
            "ID" => {
                child.text_into(&mut rule.id)?;
                continue;
            }
            "MaxAgeSeconds" => {
                child.text_into(&mut max_age)?;
                continue;
            }
            _ => return Err(malformed()),
        };
        let mut text = None;
        child.text_into(&mut text)?;
        list.extend(text);
    }
    rule.max_age_seconds =
        max_age.map(|text: String| text.trim().parse()).transpose().map_err(|_| malformed())?;
    Ok(rule)
}

/// The body of PutObjectLockConfiguration, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectLockDocument {
    /// `ObjectLockEnabled`.
    pub enabled: Option<String>,
    /// `Rule/DefaultRetention`.
    pub default: Option<DefaultRetentionElement>,
}

/// See [`ObjectLockDocument`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct DefaultRetentionElement {
    pub mode: Option<String>,
    pub days: Option<String>,
    pub years: Option<String>,
}

impl ObjectLockDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<ObjectLockDocument> {
        let mut document = ObjectLockDocument::default();
        for child in parse(body, "ObjectLockConfiguration")?.children {
            match child.name.as_str() {
                "ObjectLockEnabled" => child.text_into(&mut document.enabled)?,
                "Rule" if document.default.is_none() => document.default = Some(default_retention(child)?),
                _ => return Err(malformed()),
            }
        }
        Ok(document)
    }
}

fn default_retention(rule: Node) -> S3Result<DefaultRetentionElement> {
    let mut found = DefaultRetentionElement::default();
    let mut children = rule.children.into_iter();
    let (Some(retention), None) = (children.next(), children.next()) else { return Err(malformed()) };
    if retention.name != "DefaultRetention" {
        return Err(malformed());
    }
    for child in retention.children {
        match child.name.as_str() {
            "Mode" => child.text_into(&mut found.mode)?,
            "Days" => child.text_into(&mut found.days)?,
            "Years" => child.text_into(&mut found.years)?,
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}

/// The body of PutObjectRetention, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionDocument {
    /// `Mode`.
    pub mode: Option<String>,
    /// `RetainUntilDate`.
    pub until: Option<String>,
}

impl RetentionDocument {
    /// Parses the document.
    pub fn parse(body: &[u8]) -> S3Result<RetentionDocument> {
        let mut document = RetentionDocument::default();
        for child in parse(body, "Retention")?.children {
            match child.name.as_str() {
                "Mode" => child.text_into(&mut document.mode)?,
                "RetainUntilDate" => child.text_into(&mut document.until)?,
                _ => return Err(malformed()),
            }
        }
        Ok(document)
    }
}

/// What the body of PutObjectLegalHold wants.
pub fn legal_hold(body: &[u8]) -> S3Result<bool> {
    let mut status = None;
    for child in parse(body, "LegalHold")?.children {
        match child.name.as_str() {
            "Status" => child.text_into(&mut status)?,
            _ => return Err(malformed()),
        }
    }
    match status.as_deref() {
        Some("ON") => Ok(true),
        Some("OFF") => Ok(false),
        _ => Err(malformed()),
    }
}

/// The body of PutBucketEncryption, texts as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncryptionDocument {
    /// `SSEAlgorithm`.
    pub algorithm: Option<String>,
    /// `KMSMasterKeyID`.
    pub key: Option<String>,
    /// `BucketKeyEnabled`.
    pub bucket_key: bool,
    /// `BlockedEncryptionTypes`.
    pub refused: Vec<String>,
}

impl EncryptionDocument {
    /// Parses the document: one rule.
    pub fn parse(body: &[u8]) -> S3Result<EncryptionDocument> {
        let mut rules = parse(body, "ServerSideEncryptionConfiguration")?.children.into_iter();
        let (Some(rule), None) = (rules.next(), rules.next()) else { return Err(malformed()) };
        if rule.name != "Rule" {
            return Err(malformed());
        }
        let mut document = EncryptionDocument::default();
        for child in rule.children {
            match child.name.as_str() {
                "ApplyServerSideEncryptionByDefault" => document.take_default(child)?,
                "BucketKeyEnabled" => document.bucket_key = child.boolean()?,
                "BlockedEncryptionTypes" => document.take_refused(child)?,
                _ => return Err(malformed()),
            }
        }
        Ok(document)
    }

    fn take_default(&mut self, node: Node) -> S3Result<()> {
        for child in node.children {
            match child.name.as_str() {
                "SSEAlgorithm" => child.text_into(&mut self.algorithm)?,
                "KMSMasterKeyID" => child.text_into(&mut self.key)?,
                _ => return Err(malformed()),
            }
        }
        if self.algorithm.is_none() { Err(malformed()) } else { Ok(()) }
    }

    fn take_refused(&mut self, node: Node) -> S3Result<()> {
        for child in node.children {
            if child.name != "EncryptionType" {
                return Err(malformed());
            }
            let mut text = None;
            child.text_into(&mut text)?;
            self.refused.push(text.ok_or_else(malformed)?);
        }
        Ok(())
    }
}

/// The body of PutPublicAccessBlock; what it does not name is false.
pub fn public_access_block(body: &[u8]) -> S3Result<PublicAccessBlock> {
    let mut block = PublicAccessBlock::default();
    let mut seen = Vec::new();
    for child in parse(body, "PublicAccessBlockConfiguration")?.children {
        let field = match child.name.as_str() {
            "BlockPublicAcls" => &mut block.block_public_acls,
            "IgnorePublicAcls" => &mut block.ignore_public_acls,
            "BlockPublicPolicy" => &mut block.block_public_policy,
            "RestrictPublicBuckets" => &mut block.restrict_public_buckets,
            _ => return Err(malformed()),
        };
        *field = child.boolean()?;
        if seen.contains(&child.name) {
            return Err(malformed());
        }
        seen.push(child.name);
    }
    Ok(block)
}

/// The one text at the end of a path of elements, each of which has no other.
fn only_text(node: Node, path: &[&str]) -> S3Result<String> {
    let Some((name, rest)) = path.split_first() else {
        let mut text = None;
        node.text_into(&mut text)?;
        return text.ok_or_else(malformed);
    };
    let mut children = node.children.into_iter();
    match (children.next(), children.next()) {
        (Some(child), None) if child.name == *name => only_text(child, rest),
        _ => Err(malformed()),
    }
}

/// What PutBucketOwnershipControls wants, as sent.
pub fn object_ownership(body: &[u8]) -> S3Result<String> {
    only_text(parse(body, "OwnershipControls")?, &["Rule", "ObjectOwnership"])
}

/// What PutBucketRequestPayment wants, as sent.
pub fn payer(body: &[u8]) -> S3Result<String> {
    only_text(parse(body, "RequestPaymentConfiguration")?, &["Payer"])
}

/// The location that the body of CreateBucket asks for; `None` where the body or the element is missing or empty.
pub fn create_bucket_location(body: &[u8]) -> S3Result<Option<String>> {
    if body.is_empty() {
        return Ok(None);
    }
    let root = parse(body, "CreateBucketConfiguration")?;
    let mut location = None;
    for child in root.children {
        match child.name.as_str() {
            "LocationConstraint" => child.text_into(&mut location)?,
            // Directory buckets, and tags at creation.
            "Location" | "Bucket" | "Tags" => {
                return Err(S3Error::from(Code::NotImplemented).field("Element", child.name));
            }
            _ => return Err(malformed()),
        }
    }
    Ok(location.filter(|text: &String| !text.is_empty()))
}

pub(super) fn malformed() -> S3Error {
    Code::MalformedXML.into()
}

/// An element: a text or children.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Without its prefix.
    pub(super) name: String,
    text: String,
    pub(super) children: Vec<Node>,
}

impl Node {
    /// The text of a leaf, into a field that was not set before.
    pub(super) fn text_into(self, field: &mut Option<String>) -> S3Result<()> {
        if !self.children.is_empty() || field.is_some() {
            return Err(malformed());
        }
        *field = Some(self.text);
        Ok(())
    }

    fn boolean(&self) -> S3Result<bool> {
        match self.text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(malformed()),
        }
    }
}

/// Parses a document whose root has this name.
pub(super) fn parse(body: &[u8], root: &str) -> S3Result<Node> {
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let mut tree = Tree::default();
    let mut reader = Reader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    loop {
        match reader.read_event().map_err(|_| malformed())? {
            Event::Start(start) => {
                check_attributes(&start)?;
                tree.open(start.local_name().as_ref())?;
            }
            Event::Empty(start) => {
                check_attributes(&start)?;
                tree.open(start.local_name().as_ref())?;
                tree.close()?;
            }
            Event::End(_) => tree.close()?,
            Event::Text(text) => tree.text(&text.xml10_content())?,
            Event::CData(data) => tree.text(&data.xml10_content())?,
            Event::GeneralRef(reference) => tree.text(resolved(&reference)?.encode_utf8(&mut [0; 4]))?,
            Event::Decl(decl) => check_encoding(decl.encoding())?,
            // Entities are declared there: nothing of S3 needs one, and bombs are made of them.
            Event::DocType(_) | Event::PI(_) => return Err(malformed()),
            Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    let found = tree.finish()?;
    if found.name == root { Ok(found) } else { Err(malformed()) }
}

/// Namespaces and types stand in attributes; no document of S3 needs more than a few.
fn check_attributes(start: &BytesStart<'_>) -> S3Result<()> {
    let mut attributes = start.attributes();
    attributes.with_checks(false);
    for (at, attribute) in attributes.enumerate() {
        if attribute.is_err() || ATTRIBUTES_MAX <= at {
            return Err(malformed());
        }
    }
    Ok(())
}

fn check_encoding<E>(encoding: Option<Result<std::borrow::Cow<'_, str>, E>>) -> S3Result<()> {
    match encoding {
        None => Ok(()),
        Some(Ok(name)) if name.eq_ignore_ascii_case("utf-8") => Ok(()),
        Some(_) => Err(malformed()),
    }
}

/// The five entities of XML and characters by number.
fn resolved(reference: &BytesRef<'_>) -> S3Result<char> {
    if let Some(character) = reference.resolve_char_ref().map_err(|_| malformed())? {
        return Ok(character);
    }
    match &*reference.xml10_content() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(malformed()),
    }
}

/// Builds the tree; one root, bounded depth.
#[derive(Default)]
struct Tree {
    open: Vec<Node>,
    root: Option<Node>,
}

impl Tree {
    fn open(&mut self, name: &str) -> S3Result<()> {
        if self.root.is_some() || XML_DEPTH_MAX <= self.open.len() {
            return Err(malformed());
        }
        self.open.push(Node { name: name.to_string(), ..Node::default() });
        Ok(())
    }

    fn close(&mut self) -> S3Result<()> {
        let node = self.open.pop().ok_or_else(malformed)?;
        // Between elements there is only white space.
        if !node.children.is_empty() && !node.text.trim().is_empty() {
            return Err(malformed());
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> S3Result<()> {
        match self.open.last_mut() {
            Some(node) => node.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(malformed()),
        }
        Ok(())
    }

    fn finish(self) -> S3Result<Node> {
        if !self.open.is_empty() {
            return Err(malformed());
        }
        self.root.ok_or_else(malformed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn delete() {
        let document = DeleteDocument::parse(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Object><Key>a&amp;b&#13;&#x1;</Key></Object><Quiet>true</Quiet> <!-- c -->\
             <Object><VersionId>null</VersionId><Key> <![CDATA[<x>]]></Key><ETag>&quot;e&quot;</ETag></Object></Delete>\n"
                .as_bytes(),
        )
        .unwrap();
        assert!(document.quiet);
        let keys: Vec<&str> = document.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["a&b\r\u{1}", " <x>"]);
        assert_eq!(document.objects[1].version_id.as_deref(), Some("null"));
        assert_eq!(document.objects[1].etag.as_deref(), Some("\"e\""));
    }

    #[test]
    fn delete_refusals() {
        let many = format!("<Delete>{}</Delete>", "<Object><Key>k</Key></Object>".repeat(1001));
        let deep = format!("<Delete>{}", "<a>".repeat(10_000));
        let attributes: String = (0..20_000).map(|at| format!(" a{at}=\"\"")).collect();
        let wide = format!("<Delete{attributes}><Object><Key>k</Key></Object></Delete>");
        for bad in [
            "",
            "x",
            wide.as_str(),
            "<Delete/>",
            "<Delete></Delete>",
            many.as_str(),
            deep.as_str(),
            "<Delete><Object></Object></Delete>",
            "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
            "<Delete><Object><Key>a</Key><Other/></Object></Delete>",
            "<Delete><Object><Key><b/></Key></Object></Delete>",
            "<Delete><Quiet>maybe</Quiet><Object><Key>a</Key></Object></Delete>",
            "<Other><Object><Key>a</Key></Object></Other>",
            "<Delete><Object><Key>a</Key></Object></Delete><Delete/>",
            "<Delete><Object><Key>a</Key></Object>",
            "<Delete><Object><Key>a</Object></Key></Delete>",
            "<Delete>text<Object><Key>a</Key></Object></Delete>",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><Delete><Object><Key>&a;</Key></Object></Delete>",
            "<Delete><Object><Key>&unknown;</Key></Object></Delete>",
            "<?xml version=\"1.0\" encoding=\"UTF-16\"?><Delete><Object><Key>a</Key></Object></Delete>",
        ] {
            let short: String = bad.chars().take(60).collect();
            assert_eq!(
                DeleteDocument::parse(bad.as_bytes()).unwrap_err().code(),
                Code::MalformedXML,
                "{short}"
            );
        }
        for bad in [&b"\xff\xfe<\0D\0"[..], b"<Delete>\xff</Delete>", b"\x1f\x8b\x08"] {
            assert_eq!(DeleteDocument::parse(bad).unwrap_err().code(), Code::MalformedXML);
        }
    }

    #[test]
    fn complete() {
        let part = |inner: &str| {
            CompleteDocument::parse(
                format!("<CompleteMultipartUpload><Part>{inner}</Part></CompleteMultipartUpload>").as_bytes(),
            )
        };
        let document =
            part("<ETag>\"abc\"</ETag><PartNumber>7</PartNumber><ChecksumCRC32>y/Q5Jg==</ChecksumCRC32>")
                .unwrap();
        assert_eq!((document.parts[0].number, document.parts[0].etag.as_str()), (7, "\"abc\""));
        assert_eq!(document.parts[0].checksum.as_ref().unwrap().0, ChecksumAlgorithm::Crc32);
        for (inner, code) in [
            ("<ETag>e</ETag>", Code::MalformedXML),
            ("<PartNumber>1</PartNumber>", Code::MalformedXML),
            ("<ETag>e</ETag><PartNumber>x</PartNumber>", Code::MalformedXML),
            ("<ETag>e</ETag><PartNumber>0</PartNumber>", Code::InvalidArgument),
            ("<ETag>e</ETag><PartNumber>-1</PartNumber>", Code::InvalidArgument),
            ("<ETag>e</ETag><PartNumber>10001</PartNumber>", Code::InvalidArgument),
            ("<ETag>e</ETag><PartNumber>1</PartNumber><Size>1</Size>", Code::MalformedXML),
            ("<ETag>e</ETag><PartNumber>1</PartNumber><ChecksumSHA1>x</ChecksumSHA1>", Code::InvalidRequest),
        ] {
            assert_eq!(part(inner).unwrap_err().code(), code, "{inner}");
        }
        let parts = "<Part><ETag>e</ETag><PartNumber>1</PartNumber></Part>";
        for (count, good) in [(0, false), (10_000, true), (10_001, false)] {
            let text = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.repeat(count));
            assert_eq!(CompleteDocument::parse(text.as_bytes()).is_ok(), good, "{count}");
        }
    }

    #[test]
    fn create_bucket() {
        for (body, expected) in [
            ("", Ok(None)),
            ("<CreateBucketConfiguration xmlns=\"x\"/>", Ok(None)),
            (
                "<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>",
                Ok(Some("eu-west-1".to_string())),
            ),
            ("<CreateBucketConfiguration><Location/></CreateBucketConfiguration>", Err(Code::NotImplemented)),
            ("<Foo/>", Err(Code::MalformedXML)),
        ] {
            assert_eq!(
                create_bucket_location(body.as_bytes()).map_err(|error| error.code()),
                expected,
                "{body}"
            );
        }
    }
}
