//! What the listings share: sizes of pages, encoding of names, continuation tokens, common elements.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consensus::meta::model::{Checksum, Etag, Object};
use consensus::meta::query::{Answer, List, Page, PageEntry, Query as MetaQuery};
use fabric::codec::crc32c;
use fabric::ids::BucketId;
use fabric::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX};

use super::checksum;
use super::error::{Code, S3Error, S3Result};
use super::op::{Context, unexpected};
use super::request::Query;
use super::time::iso8601;
use super::xml::{XmlWriter, url_encoded};

/// Pages of the metadata that one page of S3 may take: theirs may be short where many rows are passed over.
pub const PAGES_MAX: usize = 8;
const TOKEN_VERSION: u8 = 1;

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

/// A page of nothing, at a position.
pub fn empty_page<T>(position: &str) -> Page<T> {
    Page { entries: Vec::new(), more: false, position: position.to_string(), position_stamp: None }
}

/// Goes on with a page.
pub fn append<T>(page: &mut Page<T>, next: Page<T>) {
    page.entries.extend(next.entries);
    (page.more, page.position, page.position_stamp) = (next.more, next.position, next.position_stamp);
}

/// A page of current versions; `limit` 0 is an empty last page.
pub async fn page(cx: &Context, mut list: List) -> S3Result<Page<Object>> {
    let mut page = empty_page(&list.after);
    let limit = list.limit as usize;
    for _ in 0..PAGES_MAX {
        if limit <= page.entries.len() {
            break;
        }
        list.limit = (limit - page.entries.len()) as u32;
        let Answer::List(next) = cx.ask(MetaQuery::List(list.clone())).await? else {
            return Err(unexpected("List"));
        };
        append(&mut page, next);
        if !page.more {
            break;
        }
        list.after.clone_from(&page.position);
    }
    Ok(page)
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

/// `Contents` elements, then `CommonPrefixes`, as S3 orders them.
pub fn entries(xml: &mut XmlWriter, entries: &[PageEntry<Object>], encoding: Encoding, owner: Option<&str>) {
    for entry in entries {
        let PageEntry::Item(key, object) = entry else {
            continue;
        };
        xml.element("Contents", |xml| {
            encoding.write(xml, "Key", key.as_str());
            described(xml, object);
            if let Some(owner) = owner {
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
    xml.text("LastModified", &iso8601(object.modified.0));
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
    xml.text("ETag", &format!("\"{etag}\""));
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
