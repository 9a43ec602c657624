//! What the listings share: sizes of pages, encoding of names, continuation tokens, common elements.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::meta::model::{Checksum, Etag, Object};
use consensus::meta::query::{Answer, List, Page, PageEntry, Query as MetaQuery};
use fabric::codec::crc32c;
use fabric::ids::BucketId;
use fabric::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX};

use super::acl;
use super::checksum;
use super::error::{Code, S3Error, S3Result};
use super::op::{Context, unexpected};
use super::request::Query;
use super::time::Iso8601;
use super::xml::{XmlWriter, url_encoded};

/// Pages of the metadata that one page of S3 may take: theirs may be short where many rows are passed over.
const PAGES_MAX: usize = 8;
const TOKEN_VERSION: u8 = 1;
/// About what an entry takes in the document.
const ENTRY_BYTES: usize = 320;

/// How names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are, escaped for XML.
    Plain,
    /// Percent-encoded.
    Url,
}

impl Encoding {
    /// Reads `encoding-type`.
    pub fn parse(query: &Query) -> S3Result<Encoding> {
        match query.non_empty("encoding-type") {
            None => Ok(Encoding::Plain),
            Some(text) if text.eq_ignore_ascii_case("url") => Ok(Encoding::Url),
            Some(text) => {
                Err(S3Error::argument("encoding-type", text, "Invalid Encoding Method specified in Request"))
            }
        }
    }

    /// Writes a name.
    pub fn write(self, xml: &mut XmlWriter, element: &str, name: &str) {
        match self {
            Encoding::Plain => xml.text(element, name),
            Encoding::Url => xml.text(element, &url_encoded(name)),
        }
    }

    /// Writes `EncodingType` where there is one.
    pub fn announce(self, xml: &mut XmlWriter) {
        if self == Encoding::Url {
            xml.text("EncodingType", "url");
        }
    }
}

/// Reads `max-keys` and its like: 0 is nothing, more than a page is a page.
pub fn page_size(query: &Query, name: &str) -> S3Result<u32> {
    let wanted = match query.get(name) {
        // AWS reads an empty value as none.
        None | Some("") => None,
        Some(_) => query.number(name, 0, i32::MAX as u64)?,
    };
    Ok(wanted.map_or(LIST_KEYS_MAX, |wanted| wanted.min(u64::from(LIST_KEYS_MAX)) as u32))
}

/// A marker longer than any key stands after every key that it could stand after when it is cut there.
pub fn marker(text: &str) -> String {
    let mut end = text.len().min(KEY_BYTES_MAX + 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

/// What every listing of names is asked with.
#[derive(Debug)]
pub struct Asked {
    /// `prefix`.
    pub prefix: String,
    /// `delimiter`; empty where there is none.
    pub delimiter: String,
    /// Entries of a page.
    pub limit: u32,
    /// How names are written.
    pub encoding: Encoding,
}

impl Asked {
    /// Reads the parameters; `size` is the name of the one for the size of a page.
    pub fn parse(query: &Query, size: &str) -> S3Result<Asked> {
        Ok(Asked {
            prefix: text(query, "prefix")?,
            delimiter: text(query, "delimiter")?,
            limit: page_size(query, size)?,
            encoding: Encoding::parse(query)?,
        })
    }

    /// Writes what was asked back; `size` is the name of the element for the size of a page.
    pub fn write(&self, xml: &mut XmlWriter, size: &str) {
        self.encoding.write(xml, "Prefix", &self.prefix);
        if !self.delimiter.is_empty() {
            self.encoding.write(xml, "Delimiter", &self.delimiter);
        }
        xml.value(size, self.limit);
        self.encoding.announce(xml);
    }
}

/// A listing of the metadata, on its way through the pages of its answers.
pub trait Walk {
    /// What is listed.
    type Item;
    /// Entries wanted.
    fn limit(&self) -> u32;
    /// The key behind which the next page begins.
    fn position(&self) -> &str;
    /// The question for the next page, of at most `limit` entries.
    fn question(&self, limit: u32) -> MetaQuery;
    /// The page in the answer to it.
    fn page(answer: Answer) -> Option<Page<Self::Item>>;
    /// Goes behind a page.
    fn pass(&mut self, page: &Page<Self::Item>);
}

impl Walk for List {
    type Item = Object;

    fn limit(&self) -> u32 {
        self.limit
    }

    fn position(&self) -> &str {
        &self.after
    }

    fn question(&self, limit: u32) -> MetaQuery {
        MetaQuery::List(List { limit, ..self.clone() })
    }

    fn page(answer: Answer) -> Option<Page<Object>> {
        if let Answer::List(page) = answer { Some(page) } else { None }
    }

    fn pass(&mut self, page: &Page<Object>) {
        self.after.clone_from(&page.position);
    }
}

/// One page of S3 from as many of the metadata as it takes; a limit of 0 is an empty last page.
pub async fn page<W: Walk>(cx: &Context, mut walk: W) -> S3Result<Page<W::Item>> {
    let position = walk.position().to_string();
    let mut whole = Page { entries: Vec::new(), more: false, position, position_stamp: None };
    let limit = walk.limit() as usize;
    for _ in 0..PAGES_MAX {
        if limit <= whole.entries.len() {
            break;
        }
        let answer = cx.ask(walk.question((limit - whole.entries.len()) as u32)).await?;
        let mut next = W::page(answer).ok_or_else(|| unexpected("that of a listing"))?;
        whole.entries.append(&mut next.entries);
        walk.pass(&next);
        whole = Page { entries: whole.entries, ..next };
        if !whole.more {
            break;
        }
    }
    Ok(whole)
}

/// A continuation token: version, bucket, position, checksum.
pub fn token(bucket: BucketId, position: &str) -> String {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend_from_slice(&bucket.0.to_be_bytes());
    bytes.extend_from_slice(position.as_bytes());
    bytes.extend_from_slice(&crc32c(&[&bytes]).to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The position in a token of this bucket. A token of another bucket or one that was changed is refused.
pub fn from_token(bucket: BucketId, token: &str) -> S3Result<String> {
    position(bucket, token).ok_or_else(|| {
        S3Error::argument("continuation-token", token, "The continuation token provided is incorrect")
    })
}

fn position(bucket: BucketId, token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let (&version, rest) = body.split_first()?;
    let (id, position) = rest.split_first_chunk::<8>()?;
    let good =
        version == TOKEN_VERSION && *id == bucket.0.to_be_bytes() && *sum == crc32c(&[body]).to_be_bytes();
    if good { String::from_utf8(position.to_vec()).ok() } else { None }
}

/// A prefix or delimiter that no key can contain is refused, as is a key that long.
pub fn text(query: &Query, name: &str) -> S3Result<String> {
    let text = query.get(name).unwrap_or("");
    if KEY_BYTES_MAX < text.len() {
        return Err(S3Error::from(Code::KeyTooLongError)
            .field("Size", text.len().to_string())
            .field("MaxSizeAllowed", KEY_BYTES_MAX.to_string()));
    }
    Ok(text.to_string())
}

/// Who owns the objects of a page, in order.
pub async fn owners(cx: &Context, page: &Page<Object>) -> S3Result<Vec<Arc<str>>> {
    let items = page.entries.iter().filter_map(|entry| match entry {
        PageEntry::Item(key, object) => Some((key.clone(), object.stamp)),
        PageEntry::Prefix(_) => None,
    });
    acl::owners(cx, items.collect()).await
}

/// `Contents` elements, then `CommonPrefixes`, as S3 orders them.
pub fn entries(
    xml: &mut XmlWriter,
    entries: &[PageEntry<Object>],
    encoding: Encoding,
    owners: Option<&[Arc<str>]>,
) {
    xml.reserve(entries.len() * ENTRY_BYTES);
    let mut owners = owners.map(|owners| owners.iter());
    for entry in entries {
        let PageEntry::Item(key, object) = entry else {
            continue;
        };
        xml.element("Contents", |xml| {
            encoding.write(xml, "Key", key.as_str());
            described(xml, object);
            if let Some(owner) = owners.as_mut().and_then(Iterator::next) {
                user(xml, "Owner", owner);
            }
            class(xml, object);
        });
    }
    common_prefixes(xml, entries, encoding);
}

/// `CommonPrefixes` elements.
pub fn common_prefixes<T>(xml: &mut XmlWriter, entries: &[PageEntry<T>], encoding: Encoding) {
    for entry in entries {
        if let PageEntry::Prefix(prefix) = entry {
            xml.element("CommonPrefixes", |xml| encoding.write(xml, "Prefix", prefix));
        }
    }
}

/// Time, tag, checksum algorithm and size of a version.
pub fn described(xml: &mut XmlWriter, object: &Object) {
    xml.value("LastModified", Iso8601(object.modified.0));
    etag(xml, &object.etag);
    algorithm(xml, object.checksum.as_ref());
    xml.value("Size", object.bytes);
}

/// `StorageClass` of a version.
pub fn class(xml: &mut XmlWriter, object: &Object) {
    xml.text("StorageClass", object.attributes.storage_class.as_deref().unwrap_or("STANDARD"));
}

/// `ETag`, quoted.
pub fn etag(xml: &mut XmlWriter, etag: &Etag) {
    xml.value("ETag", format_args!("\"{etag}\""));
}

/// Algorithm and kind of a checksum, where there is one.
pub fn algorithm(xml: &mut XmlWriter, checksum: Option<&Checksum>) {
    if let Some(checksum) = checksum {
        xml.text("ChecksumAlgorithm", checksum::name(checksum.algorithm));
        xml.text("ChecksumType", checksum::kind_name(checksum.kind));
    }
}

/// A user, who is its own name.
pub fn user(xml: &mut XmlWriter, element: &str, name: &str) {
    xml.element(element, |xml| {
        xml.text("ID", name);
        xml.text("DisplayName", name);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_one_bucket_and_cannot_be_changed() {
        for position in ["", "a/b", "ü\u{1}", &"k".repeat(1024)] {
            let good = token(BucketId(7), position);
            assert_eq!(from_token(BucketId(7), &good).unwrap(), position);
            assert_eq!(from_token(BucketId(8), &good).unwrap_err().code(), Code::InvalidArgument);
            for at in 0..good.len().min(40) {
                let mut bad = good.clone().into_bytes();
                bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
                assert!(from_token(BucketId(7), &String::from_utf8(bad).unwrap()).is_err());
            }
        }
        for bad in ["", "A", "!!", &"A".repeat(1 << 20)] {
            assert!(from_token(BucketId(7), bad).is_err());
        }
    }

    #[test]
    fn page_sizes() {
        for (text, expected) in [
            ("", Some(1000)),
            ("max-keys=", Some(1000)),
            ("max-keys=0", Some(0)),
            ("max-keys=1", Some(1)),
            ("max-keys=1000000", Some(1000)),
            ("max-keys=-1", None),
            ("max-keys=abc", None),
            ("max-keys=9223372036854775808", None),
        ] {
            assert_eq!(page_size(&Query::parse(text).unwrap(), "max-keys").ok(), expected, "{text}");
        }
    }

    #[test]
    fn encodings() {
        let parse = |text| Encoding::parse(&Query::parse(text).unwrap());
        assert_eq!(parse("").unwrap(), Encoding::Plain);
        assert_eq!(parse("encoding-type=url").unwrap(), Encoding::Url);
        assert_eq!(parse("encoding-type=base64").unwrap_err().code(), Code::InvalidArgument);
    }
}
