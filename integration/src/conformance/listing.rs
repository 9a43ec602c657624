//! Listings: order, pages, prefixes, delimiters, versions.

use std::collections::BTreeSet;

use super::{Cx, Outcome, behaviours, ensure, equal, xml_of};
use crate::client::{Element, Request};

behaviours![
    a_listing_tells_of_each_object,
    pages_of_any_size_add_up,
    delimiters_fold_keys,
    version_1_pages_by_marker,
    start_after_is_exclusive,
    keys_come_in_byte_order,
    versions_of_an_unversioned_bucket,
    an_empty_listing_is_well_formed,
];

const KEYS: &[&str] = &[
    "a",
    "a/",
    "a/1",
    "a/2",
    "a/b/1",
    "a/b/2",
    "a0",
    "b",
    "b-1",
    "b/1",
    "b/2/3",
    "c//d",
    "c//e",
    "photos/2024/1.jpg",
    "photos/2024/2.jpg",
    "photos/2025/1.jpg",
    "z",
    "ä",
    "日",
];

async fn filled(cx: &Cx<'_>) -> Result<String, String> {
    let bucket = cx.bucket().await?;
    for key in KEYS {
        cx.put(&bucket, key, *key).await?;
    }
    Ok(bucket)
}

/// What a listing of `KEYS` must give: keys, and prefixes that end with the delimiter.
fn expected(prefix: &str, delimiter: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), BTreeSet::new());
    for key in KEYS.iter().filter(|key| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let fold = if delimiter.is_empty() { None } else { rest.find(delimiter) };
        match fold {
            Some(at) => {
                let folded = format!("{prefix}{}", &rest[..at + delimiter.len()]);
                if folded.as_str() > after || key > &after {
                    prefixes.insert(folded);
                }
            }
            None if *key > after => keys.push(key.to_string()),
            None => {}
        }
    }
    (keys, prefixes.into_iter().collect())
}

fn entries(root: &Element) -> (Vec<String>, Vec<String>) {
    let keys = root.all("Contents").map(|entry| entry.text_of("Key").to_string()).collect();
    let prefixes = root.all("CommonPrefixes").map(|entry| entry.text_of("Prefix").to_string()).collect();
    (keys, prefixes)
}

async fn all_pages(
    cx: &Cx<'_>,
    bucket: &str,
    prefix: &str,
    delimiter: &str,
    max_keys: usize,
) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), String::new());
    for page in 0.. {
        let mut list = Request::bucket("GET", bucket).query("list-type", 2).query("max-keys", max_keys);
        list = list.query("prefix", prefix).query("delimiter", delimiter);
        if !token.is_empty() {
            list = list.query("continuation-token", &token);
        }
        let root = xml_of(&crate::conformance::ok(&cx.gateway(page), list).await?, "ListBucketResult")?;
        let (some_keys, some_prefixes) = entries(&root);
        let count = some_keys.len() + some_prefixes.len();
        equal("KeyCount", root.text_of("KeyCount"), &count.to_string())?;
        ensure(count <= max_keys && page < 100, || format!("page {page} of {count}"))?;
        keys.extend(some_keys);
        prefixes.extend(some_prefixes);
        token = root.text_of("NextContinuationToken").to_string();
        equal("truncated", root.text_of("IsTruncated") == "true", !token.is_empty())?;
        if token.is_empty() {
            break;
        }
    }
    Ok((keys, prefixes))
}

async fn a_listing_tells_of_each_object(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = cx.put(&bucket, "a&<b>", "12345").await?;
    let root =
        xml_of(&cx.ok(Request::bucket("GET", &bucket).query("list-type", 2)).await?, "ListBucketResult")?;
    equal("name", root.text_of("Name"), bucket.as_str())?;
    let entry = root.child("Contents").cloned().unwrap_or_default();
    equal("key", entry.text_of("Key"), "a&<b>")?;
    equal("size", entry.text_of("Size"), "5")?;
    equal("etag", entry.text_of("ETag"), put.etag())?;
    equal("class", entry.text_of("StorageClass"), "STANDARD")?;
    ensure(entry.text_of("LastModified").ends_with('Z'), || "no time".to_string())?;
    ensure(entry.child("Owner").is_none(), || "an owner nobody asked for".to_string())?;
    let owned = Request::bucket("GET", &bucket).query("list-type", 2).query("fetch-owner", true);
    let root = xml_of(&cx.ok(owned).await?, "ListBucketResult")?;
    let entry = root.child("Contents").cloned().unwrap_or_default();
    ensure(entry.child("Owner").is_some(), || "no owner".to_string())
}

async fn pages_of_any_size_add_up(cx: &Cx<'_>) -> Outcome {
    let bucket = filled(cx).await?;
    for max_keys in [1, 2, 3, 7, 1000] {
        for prefix in ["", "a", "a/", "photos/2", "nothing"] {
            for delimiter in ["", "/", "//", "b"] {
                let found = all_pages(cx, &bucket, prefix, delimiter, max_keys).await?;
                let what = format!("prefix {prefix:?} delimiter {delimiter:?} max-keys {max_keys}");
                equal(&what, found, expected(prefix, delimiter, ""))?;
            }
        }
    }
    let none = Request::bucket("GET", &bucket).query("list-type", 2).query("max-keys", 0);
    let root = xml_of(&cx.ok(none).await?, "ListBucketResult")?;
    equal("of none", (root.text_of("KeyCount"), root.text_of("IsTruncated")), ("0", "false"))
}

async fn delimiters_fold_keys(cx: &Cx<'_>) -> Outcome {
    let bucket = filled(cx).await?;
    let list = Request::bucket("GET", &bucket)
        .query("list-type", 2)
        .query("delimiter", "/")
        .query("prefix", "photos/");
    let root = xml_of(&cx.ok(list).await?, "ListBucketResult")?;
    let prefixes = vec!["photos/2024/".to_string(), "photos/2025/".to_string()];
    equal("entries", entries(&root), (Vec::new(), prefixes))?;
    equal("delimiter", root.text_of("Delimiter"), "/")
}

async fn version_1_pages_by_marker(cx: &Cx<'_>) -> Outcome {
    let bucket = filled(cx).await?;
    for delimiter in ["", "/"] {
        let (mut keys, mut prefixes, mut marker) = (Vec::new(), Vec::new(), String::new());
        for page in 0.. {
            let list = Request::bucket("GET", &bucket).query("max-keys", 2).query("delimiter", delimiter);
            let root = xml_of(&cx.ok(list.query("marker", &marker)).await?, "ListBucketResult")?;
            equal("marker", root.text_of("Marker"), marker.as_str())?;
            let (some_keys, some_prefixes) = entries(&root);
            let last = some_keys.last().max(some_prefixes.last()).cloned().unwrap_or_default();
            keys.extend(some_keys);
            prefixes.extend(some_prefixes);
            if root.text_of("IsTruncated") != "true" {
                break;
            }
            // Without a delimiter AWS leaves the next marker to the client: the last key.
            let next = root.text_of("NextMarker");
            marker = if next.is_empty() { last } else { next.to_string() };
            ensure(page < 100, || "endless pages".to_string())?;
        }
        equal("entries", (keys, prefixes), expected("", delimiter, ""))?;
    }
    Ok(())
}

async fn start_after_is_exclusive(cx: &Cx<'_>) -> Outcome {
    let bucket = filled(cx).await?;
    for after in ["a", "a/1", "a/b", "zzz", "photos/2024/1.jpg"] {
        let list = Request::bucket("GET", &bucket).query("list-type", 2).query("start-after", after);
        let root = xml_of(&cx.ok(list).await?, "ListBucketResult")?;
        equal(after, entries(&root).0, expected("", "", after).0)?;
    }
    Ok(())
}

async fn keys_come_in_byte_order(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut keys = vec!["B", "a", "A", "b", "~", "_", "é", "z", "\u{ffff}", "\u{10000}", "0", "-"];
    for key in &keys {
        cx.put(&bucket, key, "x").await?;
    }
    keys.sort_unstable();
    let list = Request::bucket("GET", &bucket).query("list-type", 2).query("encoding-type", "url");
    let root = xml_of(&cx.ok(list).await?, "ListBucketResult")?;
    let found: Vec<String> = entries(&root)
        .0
        .iter()
        .map(|key| percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned())
        .collect();
    equal("keys", found, keys.iter().map(ToString::to_string).collect())
}

async fn versions_of_an_unversioned_bucket(cx: &Cx<'_>) -> Outcome {
    let bucket = filled(cx).await?;
    let root = xml_of(&cx.ok(Request::bucket("GET", &bucket).flag("versions")).await?, "ListVersionsResult")?;
    equal("versions", root.all("Version").count(), KEYS.len())?;
    for version in root.all("Version") {
        equal("id", version.text_of("VersionId"), "null")?;
        equal("latest", version.text_of("IsLatest"), "true")?;
    }
    let (mut found, mut markers) = (0, (String::new(), String::new()));
    loop {
        let list = Request::bucket("GET", &bucket).flag("versions").query("max-keys", 5);
        let mut list = list.query("key-marker", &markers.0);
        if !markers.1.is_empty() {
            list = list.query("version-id-marker", &markers.1);
        }
        let root = xml_of(&cx.ok(list).await?, "ListVersionsResult")?;
        found += root.all("Version").count();
        markers =
            (root.text_of("NextKeyMarker").to_string(), root.text_of("NextVersionIdMarker").to_string());
        if root.text_of("IsTruncated") != "true" {
            break;
        }
        ensure(found <= KEYS.len(), || "endless pages".to_string())?;
    }
    equal("versions in pages", found, KEYS.len())?;
    let get = Request::object("GET", &bucket, "a").query("versionId", "null");
    equal("the null version", cx.ok(get).await?.body.as_slice(), b"a")?;
    cx.ok(Request::object("DELETE", &bucket, "a").query("versionId", "null")).await?;
    cx.refused(Request::object("GET", &bucket, "a"), 404, "NoSuchKey").await
}

async fn an_empty_listing_is_well_formed(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let root =
        xml_of(&cx.ok(Request::bucket("GET", &bucket).query("list-type", 2)).await?, "ListBucketResult")?;
    equal("answer", (root.text_of("KeyCount"), root.text_of("IsTruncated")), ("0", "false"))?;
    xml_of(&cx.ok(Request::bucket("GET", &bucket)).await?, "ListBucketResult")?;
    xml_of(&cx.ok(Request::bucket("GET", &bucket).flag("versions")).await?, "ListVersionsResult")?;
    xml_of(&cx.ok(Request::bucket("GET", &bucket).flag("uploads")).await?, "ListMultipartUploadsResult")?;
    Ok(())
}
