//! Tags of objects and buckets: what clients may set, and how they read them.

use consensus::meta::model::Tags;
use http::HeaderMap;

use super::error::{Code, S3Error, S3Result};
use super::path::percent_decoded;
use super::request::header_text;
use super::xml::XmlWriter;

/// Tags of an object.
pub const OBJECT_TAGS_MAX: usize = 10;
/// Tags of a bucket.
pub const BUCKET_TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// `x-amz-tagging`: pairs as in a query.
pub fn of_header(headers: &HeaderMap) -> S3Result<Tags> {
    let Some(text) = header_text(headers, "x-amz-tagging")? else {
        return Ok(Vec::new());
    };
    let invalid = || {
        S3Error::argument(
            "x-amz-tagging",
            text,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    };
    let decoded = |raw: &str| {
        let bytes = percent_decoded(raw.replace('+', " ").as_bytes()).map_err(|_| invalid())?;
        String::from_utf8(bytes).map_err(|_| invalid())
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(key)?, decoded(value)?))
    });
    of_object(pairs.collect::<S3Result<_>>()?)
}

/// Tags for an object, if they may be.
pub fn of_object(tags: Tags) -> S3Result<Tags> {
    check(&tags)?;
    if OBJECT_TAGS_MAX < tags.len() {
        return Err(Code::BadRequest.says("Object tags cannot be greater than 10"));
    }
    Ok(tags)
}

/// Tags for a bucket, if they may be.
pub fn of_bucket(tags: Tags) -> S3Result<Tags> {
    check(&tags)?;
    if BUCKET_TAGS_MAX < tags.len() {
        return Err(Code::BadRequest.says("Bucket tag count cannot be greater than 50"));
    }
    Ok(tags)
}

/// The document that shows tags.
pub fn document(tags: &Tags) -> XmlWriter {
    let mut xml = XmlWriter::new();
    xml.root("Tagging");
    xml.element("TagSet", |xml| {
        for (key, value) in tags {
            xml.element("Tag", |xml| {
                xml.text("Key", key);
                xml.text("Value", value);
            });
        }
    });
    xml.close("Tagging");
    xml
}

/// Refuses texts that are no tags.
pub fn check(tags: &Tags) -> S3Result<()> {
    for (place, (key, value)) in tags.iter().enumerate() {
        check_tag(key, value)?;
        if tags[..place].iter().any(|(before, _)| before == key) {
            return Err(Code::InvalidTag.says("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(())
}

fn check_tag(key: &str, value: &str) -> S3Result<()> {
    let allowed = |text: &str| text.chars().all(|one| one.is_alphanumeric() || " +-=._:/@".contains(one));
    if key.is_empty() || KEY_CHARS_MAX < key.chars().count() || !allowed(key) {
        return Err(Code::InvalidTag.says("The TagKey you have provided is invalid"));
    }
    if VALUE_CHARS_MAX < value.chars().count() || !allowed(value) {
        return Err(Code::InvalidTag.says("The TagValue you have provided is invalid"));
    }
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(Code::InvalidTag.says("System tags cannot be added/updated by requester"));
    }
    Ok(())
}
