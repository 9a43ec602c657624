//! ListObjectVersions: versions and delete markers; also of a bucket that was never versioned.

use std::sync::Arc;

use async_trait::async_trait;
use consensus::meta::command::VersionSelector;
use consensus::meta::model::{Bucket, Version};
use consensus::meta::names::ObjectKey;
use consensus::meta::query::{Answer, ListVersions, ListedVersion, Page, PageEntry, Query as MetaQuery};
use fabric::ids::{BucketId, Stamp};
use http::Method;

use crate::s3::error::{S3Error, S3Result};
use crate::s3::listing::{self, Asked, Encoding, Walk};
use crate::s3::op::{Action, Context, Op};
use crate::s3::request::{Query, Request};
use crate::s3::response::Response;
use crate::s3::route::Route;
use crate::s3::xml::XmlWriter;
use crate::s3::{acl, time, versions};

/// See the module.
pub struct ListObjectVersions;

#[async_trait]
impl Op for ListObjectVersions {
    fn name(&self) -> &'static str {
        "ListObjectVersions"
    }

    fn route(&self) -> Route {
        Route::bucket(Method::GET).with("versions")
    }

    fn action(&self) -> Action {
        Action::ListBucketVersions
    }

    async fn run(&self, cx: &Context, request: Request) -> S3Result<Response> {
        let bucket = cx.bucket()?;
        let input = Input::parse(bucket.id, request.query())?;
        let page = listing::page(cx, input.list.clone()).await?;
        let owners = acl::owners(cx, versions_of(&page)).await?;
        Ok(Response::xml(document(bucket, &input, &page, &owners)))
    }
}

struct Input {
    list: ListVersions,
    version_marker: String,
    asked: Asked,
}

impl Input {
    fn parse(bucket: BucketId, query: &Query) -> S3Result<Input> {
        let after_key = listing::marker(query.get("key-marker").unwrap_or(""));
        let version_marker = query.non_empty("version-id-marker").unwrap_or("").to_string();
        let after_version = match (version_marker.as_str(), after_key.as_str()) {
            ("", _) => None,
            (text, "") => {
                let words = "A version-id marker cannot be specified without a key marker.";
                return Err(S3Error::argument("version-id-marker", text, words));
            }
            (text, _) => Some(versions::selector("version-id-marker", text)?),
        };
        let asked = Asked::parse(query, "max-keys")?;
        let list = ListVersions {
            bucket,
            prefix: asked.prefix.clone(),
            delimiter: asked.delimiter.clone(),
            after_key,
            after_version,
            limit: asked.limit,
        };
        Ok(Input { list, version_marker, asked })
    }
}

impl Walk for ListVersions {
    type Item = ListedVersion;

    fn limit(&self) -> u32 {
        self.limit
    }

    fn position(&self) -> &str {
        &self.after_key
    }

    fn question(&self, limit: u32) -> MetaQuery {
        MetaQuery::ListVersions(ListVersions { limit, ..self.clone() })
    }

    fn page(answer: Answer) -> Option<Page<ListedVersion>> {
        if let Answer::Versions(page) = answer { Some(page) } else { None }
    }

    fn pass(&mut self, page: &Page<ListedVersion>) {
        self.after_key.clone_from(&page.position);
        self.after_version = page.position_stamp.map(VersionSelector::Stamp);
    }
}

/// The versions of a page; delete markers among them have no owner of their own.
fn versions_of(page: &Page<ListedVersion>) -> Vec<(ObjectKey, Stamp)> {
    let items = page.entries.iter().filter_map(|entry| match entry {
        PageEntry::Item(key, listed) => Some((key.clone(), listed.version.stamp())),
        PageEntry::Prefix(_) => None,
    });
    items.collect()
}

fn document(bucket: &Bucket, input: &Input, page: &Page<ListedVersion>, owners: &[Arc<str>]) -> XmlWriter {
    let (encoding, list) = (input.asked.encoding, &input.list);
    let mut xml = XmlWriter::new();
    xml.root("ListVersionsResult");
    xml.text("Name", bucket.name.as_str());
    input.asked.write(&mut xml, "MaxKeys");
    encoding.write(&mut xml, "KeyMarker", &list.after_key);
    xml.text("VersionIdMarker", &input.version_marker);
    if page.more {
        encoding.write(&mut xml, "NextKeyMarker", &page.position);
        if let Some(stamp) = page.position_stamp {
            xml.value("NextVersionIdMarker", stamp);
        }
    }
    xml.value("IsTruncated", page.more);
    let items = page.entries.iter().filter_map(|entry| match entry {
        PageEntry::Item(key, listed) => Some((key, listed)),
        PageEntry::Prefix(_) => None,
    });
    for ((key, listed), owner) in items.zip(owners) {
        version(&mut xml, encoding, owner, key, listed);
    }
    listing::common_prefixes(&mut xml, &page.entries, encoding);
    xml.close("ListVersionsResult");
    xml
}

fn version(xml: &mut XmlWriter, encoding: Encoding, owner: &str, key: &ObjectKey, listed: &ListedVersion) {
    match &listed.version {
        Version::Object(object) => xml.element("Version", |xml| {
            encoding.write(xml, "Key", key.as_str());
            xml.text("VersionId", &versions::text(object.stamp, object.null_version));
            xml.value("IsLatest", listed.latest);
            listing::described(xml, object);
            listing::user(xml, "Owner", owner);
            listing::class(xml, object);
        }),
        Version::DeleteMarker { stamp, null_version, modified } => xml.element("DeleteMarker", |xml| {
            encoding.write(xml, "Key", key.as_str());
            xml.text("VersionId", &versions::text(*stamp, *null_version));
            xml.value("IsLatest", listed.latest);
            xml.value("LastModified", time::Iso8601(modified.0));
            listing::user(xml, "Owner", owner);
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::s3::Code;

    #[test]
    fn markers() {
        let parse = |text: &str| Input::parse(BucketId(1), &Query::parse(text).unwrap());
        let input = parse("key-marker=k&version-id-marker=null").unwrap();
        assert_eq!(input.list.after_version, Some(VersionSelector::Null));
        assert_eq!(parse("key-marker=k&version-id-marker=").unwrap().list.after_version, None);
        for bad in ["version-id-marker=null", "key-marker=k&version-id-marker=x", "max-keys=-1"] {
            assert_eq!(parse(bad).err().unwrap().code(), Code::InvalidArgument, "{bad}");
        }
    }
}
