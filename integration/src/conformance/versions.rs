//! Versions of objects, delete markers, and tags.

use std::collections::BTreeSet;

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, refused, xml_of};
use crate::client::{Element, Request, Response};

behaviours![
    every_write_to_a_versioned_bucket_is_a_version,
    a_delete_hides_a_key_behind_a_marker,
    the_null_version_is_replaced_while_versioning_is_suspended,
    versions_are_removed_one_by_one_and_many_at_once,
    a_bucket_with_versions_is_not_empty,
    versions_are_listed_newest_first_in_pages,
    old_versions_are_copied_and_described,
    a_versioning_configuration_is_checked,
    objects_are_tagged_without_changing,
    tags_are_checked,
    buckets_are_tagged,
];

fn configuration(bucket: &str, body: &str) -> Request {
    Request::bucket("PUT", bucket).flag("versioning").body(body).content_md5()
}

async fn set_versioning(cx: &Cx<'_>, bucket: &str, status: &str) -> Outcome {
    let body = format!(
        "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{status}</Status>\
         </VersioningConfiguration>"
    );
    cx.ok(configuration(bucket, &body)).await?;
    let found = cx.ok(Request::bucket("GET", bucket).flag("versioning")).await?;
    equal("status", xml_of(&found, "VersioningConfiguration")?.text_of("Status"), status)
}

async fn versioned(cx: &Cx<'_>) -> Result<String, String> {
    let bucket = cx.bucket().await?;
    set_versioning(cx, &bucket, "Enabled").await?;
    Ok(bucket)
}

fn object(method: &str, bucket: &str, key: &str, version: Option<&str>) -> Request {
    let request = Request::object(method, bucket, key);
    match version {
        Some(version) => request.query("versionId", version),
        None => request,
    }
}

fn version_of(response: &Response) -> Result<String, String> {
    let version = response.header("x-amz-version-id").map(str::to_string);
    version.ok_or_else(|| format!("no version id: {}", response.describe()))
}

/// Stores a version and returns its id.
async fn put(cx: &Cx<'_>, bucket: &str, key: &str, body: &str) -> Result<String, String> {
    version_of(&cx.put(bucket, key, body).await?)
}

async fn list(cx: &Cx<'_>, bucket: &str) -> Result<Element, String> {
    xml_of(&cx.ok(Request::bucket("GET", bucket).flag("versions")).await?, "ListVersionsResult")
}

async fn every_write_to_a_versioned_bucket_is_a_version(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let before = cx.put(&bucket, "k", "zero").await?;
    equal("version of a bucket without versions", before.header("x-amz-version-id"), None)?;
    set_versioning(cx, &bucket, "Enabled").await?;
    let (one, two) = (put(cx, &bucket, "k", "one").await?, put(cx, &bucket, "k", "two").await?);
    ensure(one != two && one != "null", || format!("{one} and {two}"))?;
    for (version, body) in [(None, "two"), (Some(&*two), "two"), (Some(&*one), "one"), (Some("null"), "zero")]
    {
        for gateway in 0..2 {
            let get = object("GET", &bucket, "k", version);
            let found = super::ok(&cx.gateway(gateway), get).await?;
            equal("body", found.body.as_slice(), body.as_bytes())?;
            has_header(&found, "x-amz-version-id", version.unwrap_or(&two))?;
        }
    }
    let head = cx.ok(object("HEAD", &bucket, "k", Some(&one))).await?;
    has_header(&head, "content-length", "3")?;
    let never = "000000000000000000990000";
    cx.refused(object("GET", &bucket, "k", Some(never)), 404, "NoSuchVersion").await?;
    cx.refused(object("GET", &bucket, "k", Some("x")), 400, "InvalidArgument").await
}

async fn a_delete_hides_a_key_behind_a_marker(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let version = put(cx, &bucket, "k", "hidden").await?;
    let deleted = cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    has_header(&deleted, "x-amz-delete-marker", "true")?;
    let marker = version_of(&deleted)?;
    let gone = cx.client().send(Request::object("GET", &bucket, "k")).await.map_err(|e| e.to_string())?;
    equal("status", (gone.status, gone.code()), (404, "NoSuchKey".to_string()))?;
    has_header(&gone, "x-amz-delete-marker", "true")?;
    has_header(&gone, "x-amz-version-id", &marker)?;
    let named = object("GET", &bucket, "k", Some(&marker));
    let named = cx.client().send(named).await.map_err(|e| e.to_string())?;
    equal("status", (named.status, named.code()), (405, "MethodNotAllowed".to_string()))?;
    has_header(&named, "x-amz-delete-marker", "true")?;
    has_header(&named, "allow", "DELETE")?;
    ensure(named.header("last-modified").is_some(), || "a marker has a time".to_string())?;
    equal("body", cx.ok(object("GET", &bucket, "k", Some(&version))).await?.body, b"hidden".to_vec())?;
    let listed = cx.ok(Request::bucket("GET", &bucket).query("list-type", "2")).await?;
    equal("keys", xml_of(&listed, "ListBucketResult")?.text_of("KeyCount"), "0")?;
    let source = Request::object("PUT", &bucket, "copy")
        .header("x-amz-copy-source", format!("{bucket}/k?versionId={marker}"));
    cx.refused(source, 400, "InvalidRequest").await?;
    // A condition on what is hidden fails; one on its absence holds.
    let condition = Request::object("PUT", &bucket, "k").header("if-match", "*").body("x");
    cx.refused(condition, 404, "NoSuchKey").await?;
    let removed = cx.ok(object("DELETE", &bucket, "k", Some(&marker))).await?;
    has_header(&removed, "x-amz-delete-marker", "true")?;
    has_header(&removed, "x-amz-version-id", &marker)?;
    equal("body", cx.get(&bucket, "k").await?.body, b"hidden".to_vec())
}

async fn the_null_version_is_replaced_while_versioning_is_suspended(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let kept = put(cx, &bucket, "k", "kept").await?;
    set_versioning(cx, &bucket, "Suspended").await?;
    for body in ["first", "second"] {
        equal("version", put(cx, &bucket, "k", body).await?, "null".to_string())?;
    }
    let versions = list(cx, &bucket).await?;
    let ids: Vec<&str> = versions.all("Version").map(|version| version.text_of("VersionId")).collect();
    equal("versions", ids, vec!["null", kept.as_str()])?;
    let deleted = cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    has_header(&deleted, "x-amz-version-id", "null")?;
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await?;
    cx.ok(object("DELETE", &bucket, "k", Some("null"))).await?;
    equal("body", cx.get(&bucket, "k").await?.body, b"kept".to_vec())?;
    set_versioning(cx, &bucket, "Enabled").await?;
    let newer = put(cx, &bucket, "k", "newer").await?;
    ensure(newer != "null", || newer.clone())
}

async fn versions_are_removed_one_by_one_and_many_at_once(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let mut versions = Vec::new();
    for body in ["one", "two", "three"] {
        versions.push(put(cx, &bucket, "k", body).await?);
    }
    let removed = cx.ok(object("DELETE", &bucket, "k", Some(&versions[2]))).await?;
    has_header(&removed, "x-amz-version-id", &versions[2])?;
    equal("marker", removed.header("x-amz-delete-marker"), None)?;
    equal("the next one is current", cx.get(&bucket, "k").await?.body, b"two".to_vec())?;
    let conditional = object("DELETE", &bucket, "k", Some(&versions[0])).header("if-match", "\"no\"");
    cx.refused(conditional, 412, "PreconditionFailed").await?;
    let batch = format!(
        "<Delete><Object><Key>k</Key><VersionId>{}</VersionId></Object><Object><Key>k</Key></Object></Delete>",
        versions[0]
    );
    let batch = Request::bucket("POST", &bucket).flag("delete").body(batch).content_md5();
    let outcome = xml_of(&cx.ok(batch).await?, "DeleteResult")?;
    let deleted: Vec<&Element> = outcome.all("Deleted").collect();
    equal("deleted", deleted.len(), 2)?;
    equal("version", deleted[0].text_of("VersionId"), &versions[0])?;
    equal("marker", deleted[1].text_of("DeleteMarker"), "true")?;
    ensure(!deleted[1].text_of("DeleteMarkerVersionId").is_empty(), || "no id of the marker".to_string())?;
    let left = list(cx, &bucket).await?;
    equal("versions left", left.all("Version").count(), 1)?;
    equal("markers left", left.all("DeleteMarker").count(), 1)?;
    // Deleting what is not there is done.
    cx.ok(object("DELETE", &bucket, "k", Some(&versions[0]))).await.map(drop)
}

async fn a_bucket_with_versions_is_not_empty(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let version = put(cx, &bucket, "k", "x").await?;
    let marker = version_of(&cx.ok(Request::object("DELETE", &bucket, "k")).await?)?;
    for id in [&version, &marker] {
        cx.refused(Request::bucket("DELETE", &bucket), 409, "BucketNotEmpty").await?;
        cx.ok(object("DELETE", &bucket, "k", Some(id))).await?;
    }
    cx.ok(Request::bucket("DELETE", &bucket)).await.map(drop)
}

async fn versions_are_listed_newest_first_in_pages(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/2", "c"] {
        let mut of_key = Vec::new();
        for body in ["1", "2", "3"] {
            of_key.push(put(cx, &bucket, key, body).await?);
        }
        of_key.push(version_of(&cx.ok(Request::object("DELETE", &bucket, key)).await?)?);
        expected.extend(of_key.into_iter().rev().map(|id| (key.to_string(), id)));
    }
    for limit in [1, 3, 1000] {
        let (mut found, mut markers) = (Vec::new(), (String::new(), String::new()));
        loop {
            let mut page = Request::bucket("GET", &bucket).flag("versions").query("max-keys", limit);
            if !markers.0.is_empty() {
                page = page.query("key-marker", &markers.0).query("version-id-marker", &markers.1);
            }
            let page = xml_of(&cx.ok(page).await?, "ListVersionsResult")?;
            for entry in &page.children {
                if matches!(entry.name.as_str(), "Version" | "DeleteMarker") {
                    found.push((entry.text_of("Key").to_string(), entry.text_of("VersionId").to_string()));
                    let newest = entry.name == "DeleteMarker";
                    equal("latest", entry.text_of("IsLatest"), if newest { "true" } else { "false" })?;
                }
            }
            if page.text_of("IsTruncated") != "true" {
                break;
            }
            markers =
                (page.text_of("NextKeyMarker").to_string(), page.text_of("NextVersionIdMarker").to_string());
            ensure(found.len() <= expected.len(), || "the pages do not end".to_string())?;
        }
        equal("versions", &found, &expected)?;
    }
    let rolled = Request::bucket("GET", &bucket).flag("versions").query("delimiter", "/");
    let rolled = xml_of(&cx.ok(rolled).await?, "ListVersionsResult")?;
    equal("prefixes", rolled.all("CommonPrefixes").count(), 1)?;
    let ids: BTreeSet<&String> = expected.iter().map(|(_, id)| id).collect();
    equal("ids are unique", ids.len(), expected.len())
}

async fn old_versions_are_copied_and_described(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let old = put(cx, &bucket, "k", "old").await?;
    let new = put(cx, &bucket, "k", "new!").await?;
    let copy = Request::object("PUT", &bucket, "k")
        .header("x-amz-copy-source", format!("/{bucket}/k?versionId={old}"));
    let copied = cx.ok(copy).await?;
    has_header(&copied, "x-amz-copy-source-version-id", &old)?;
    let restored = version_of(&copied)?;
    ensure(restored != old && restored != new, || format!("{restored} is no new version"))?;
    equal("body", cx.get(&bucket, "k").await?.body, b"old".to_vec())?;
    let attributes = object("GET", &bucket, "k", Some(&new)).flag("attributes");
    let attributes = cx.ok(attributes.header("x-amz-object-attributes", "ObjectSize")).await?;
    has_header(&attributes, "x-amz-version-id", &new)?;
    equal("size", xml_of(&attributes, "GetObjectAttributesResponse")?.text_of("ObjectSize"), "4")
}

async fn a_versioning_configuration_is_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let status = |status: &str| format!("<VersioningConfiguration>{status}</VersioningConfiguration>");
    for (body, code) in [
        (status("<Status>Off</Status>"), "MalformedXML"),
        (status("<Status>Enabled</Status><Status>Enabled</Status>"), "MalformedXML"),
        (status("<Unknown/>"), "MalformedXML"),
        (status(""), "IllegalVersioningConfigurationException"),
        ("<Wrong/>".to_string(), "MalformedXML"),
        (String::new(), "MissingRequestBodyError"),
    ] {
        cx.refused(configuration(&bucket, &body), 400, code).await?;
    }
    let mfa = status("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>");
    cx.refused(configuration(&bucket, &mfa), 501, "NotImplemented").await?;
    let unproved =
        Request::bucket("PUT", &bucket).flag("versioning").body(status("<Status>Enabled</Status>"));
    cx.refused(unproved, 400, "InvalidRequest").await?;
    if let Some(other) = cx.other() {
        let foreign = configuration(&bucket, &status("<Status>Enabled</Status>"));
        refused(&other, foreign, 403, "AccessDenied").await?;
    }
    let found = cx.ok(Request::bucket("GET", &bucket).flag("versioning")).await?;
    equal("nothing was set", xml_of(&found, "VersioningConfiguration")?.child("Status").is_none(), true)
}

fn tags(pairs: &[(&str, &str)]) -> String {
    let tags: String = pairs
        .iter()
        .map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"))
        .collect();
    format!("<Tagging><TagSet>{tags}</TagSet></Tagging>")
}

/// The tags of a document.
fn read_tags(response: &Response) -> Result<Vec<(String, String)>, String> {
    let root = xml_of(response, "Tagging")?;
    let set = root.child("TagSet").ok_or("no TagSet")?;
    let pair = |tag: &Element| (tag.text_of("Key").to_string(), tag.text_of("Value").to_string());
    Ok(set.all("Tag").map(pair).collect())
}

fn tagging(method: &str, bucket: &str, key: &str, version: Option<&str>) -> Request {
    object(method, bucket, key, version).flag("tagging")
}

async fn objects_are_tagged_without_changing(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let put = Request::object("PUT", &bucket, "k").header("x-amz-tagging", "a=1&b=two%20words").body("x");
    let old = version_of(&cx.ok(put).await?)?;
    let new = self::put(cx, &bucket, "k", "newer").await?;
    let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
    let found = cx.ok(tagging("GET", &bucket, "k", Some(&old))).await?;
    equal("tags of the header", read_tags(&found)?, vec![pair("a", "1"), pair("b", "two words")])?;
    equal("no tags", read_tags(&cx.ok(tagging("GET", &bucket, "k", None)).await?)?, vec![])?;
    let before = cx.ok(object("HEAD", &bucket, "k", Some(&new))).await?;
    let set = tagging("PUT", &bucket, "k", None).body(tags(&[("c", "3"), ("d", "")])).content_md5();
    has_header(&cx.ok(set).await?, "x-amz-version-id", &new)?;
    let after = cx.ok(object("HEAD", &bucket, "k", Some(&new))).await?;
    for header in ["etag", "last-modified", "x-amz-version-id"] {
        equal(header, after.header(header), before.header(header))?;
    }
    has_header(&after, "x-amz-tagging-count", "2")?;
    let other = super::ok(&cx.gateway(1), tagging("GET", &bucket, "k", None)).await?;
    equal("tags", read_tags(&other)?, vec![pair("c", "3"), pair("d", "")])?;
    let old_set = tagging("PUT", &bucket, "k", Some(&old)).body(tags(&[("e", "5")])).content_md5();
    has_header(&cx.ok(old_set).await?, "x-amz-version-id", &old)?;
    let copy = Request::object("PUT", &bucket, "copy")
        .header("x-amz-copy-source", format!("{bucket}/k?versionId={old}"));
    cx.ok(copy).await?;
    let copied = read_tags(&cx.ok(tagging("GET", &bucket, "copy", None)).await?)?;
    equal("a copy takes tags along", copied, vec![pair("e", "5")])?;
    let removed = cx.ok(tagging("DELETE", &bucket, "k", Some(&old))).await?;
    equal("status", removed.status, 204)?;
    equal("tags", read_tags(&cx.ok(tagging("GET", &bucket, "k", Some(&old))).await?)?, vec![])?;
    cx.refused(tagging("GET", &bucket, "never", None), 404, "NoSuchKey").await?;
    let missing = tagging("PUT", &bucket, "never", None).body(tags(&[])).content_md5();
    cx.refused(missing, 404, "NoSuchKey").await
}

async fn tags_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    let many: Vec<(String, String)> = (0..11).map(|number| (format!("k{number}"), "v".to_string())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    for (body, code) in [
        (tags(&many), "BadRequest"),
        (tags(&[("a", "1"), ("a", "2")]), "InvalidTag"),
        (tags(&[("", "1")]), "InvalidTag"),
        (tags(&[("aws:a", "1")]), "InvalidTag"),
        (tags(&[("a!", "1")]), "InvalidTag"),
        (tags(&[(&long_key, "1")]), "InvalidTag"),
        (tags(&[("a", &long_value)]), "InvalidTag"),
        ("<Tagging/>".to_string(), "MalformedXML"),
        ("<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>".to_string(), "MalformedXML"),
        ("<Tagging><TagSet/><TagSet/></Tagging>".to_string(), "MalformedXML"),
    ] {
        let put = tagging("PUT", &bucket, "k", None).body(body.clone()).content_md5();
        cx.refused(put, 400, code).await.map_err(|why| format!("{body:.60}: {why}"))?;
    }
    if let Some(other) = cx.other() {
        refused(&other, tagging("GET", &bucket, "k", None), 403, "AccessDenied").await?;
    }
    equal("nothing was set", read_tags(&cx.ok(tagging("GET", &bucket, "k", None)).await?)?, vec![])
}

async fn buckets_are_tagged(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let request = |method: &str| Request::bucket(method, &bucket).flag("tagging");
    cx.refused(request("GET"), 404, "NoSuchTagSet").await?;
    let put = cx.ok(request("PUT").body(tags(&[("team", "blue"), ("cost", "7")])).content_md5()).await?;
    equal("status", put.status, 204)?;
    let found = read_tags(&super::ok(&cx.gateway(1), request("GET")).await?)?;
    equal("tags", found.len(), 2)?;
    let wrong = request("PUT").body(tags(&[("aws:a", "1")])).content_md5();
    cx.refused(wrong, 400, "InvalidTag").await?;
    equal("tags", read_tags(&cx.ok(request("GET")).await?)?.len(), 2)?;
    equal("status", cx.ok(request("DELETE")).await?.status, 204)?;
    cx.refused(request("GET"), 404, "NoSuchTagSet").await?;
    // Settings go with their bucket.
    cx.ok(request("PUT").body(tags(&[("a", "1")])).content_md5()).await?;
    cx.ok(Request::bucket("DELETE", &bucket)).await?;
    cx.ok(Request::bucket("PUT", &bucket)).await?;
    cx.refused(request("GET"), 404, "NoSuchTagSet").await
}
