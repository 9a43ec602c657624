//! CopyObject.

use super::{Cx, Outcome, behaviours, equal, has_header, ok, xml_of};
use crate::client::{ALGORITHMS, Pattern, PatternCheck, Request, encode_uri};

behaviours![
    a_copy_has_the_bytes_and_metadata_of_its_source,
    a_copy_may_replace_metadata,
    a_copy_outlives_its_source,
    sources_are_conditional,
    a_copy_of_nothing_is_refused,
    the_owner_of_a_source_can_be_named,
    a_copy_can_be_given_another_checksum,
];

fn copy(to: (&str, &str), source: &str) -> Request {
    Request::object("PUT", to.0, to.1).header("x-amz-copy-source", source)
}

async fn a_copy_has_the_bytes_and_metadata_of_its_source(cx: &Cx<'_>) -> Outcome {
    let (from, to) = (cx.bucket().await?, cx.bucket().await?);
    let key = "a b/ü+%";
    let put = Request::object("PUT", &from, key).header("content-type", "text/plain");
    let put = cx.ok(put.header("x-amz-meta-a", "1").body("copied")).await?;
    for source in [
        format!("/{from}/{}", encode_uri(key.as_bytes(), true)),
        format!("{from}/{}", encode_uri(key.as_bytes(), false)),
    ] {
        let root = xml_of(&cx.ok(copy((&to, "k"), &source)).await?, "CopyObjectResult")?;
        equal("etag", root.text_of("ETag"), put.etag())?;
        let get = ok(&cx.gateway(1), Request::object("GET", &to, "k")).await?;
        equal("body", get.body.as_slice(), b"copied")?;
        has_header(&get, "content-type", "text/plain")?;
        has_header(&get, "x-amz-meta-a", "1")?;
    }
    Ok(())
}

async fn a_copy_may_replace_metadata(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(Request::object("PUT", &bucket, "k").header("x-amz-meta-a", "1").body("x")).await?;
    let replace = copy((&bucket, "k"), &format!("/{bucket}/k")).header("x-amz-metadata-directive", "REPLACE");
    cx.ok(replace.header("x-amz-meta-b", "2").header("content-type", "text/html")).await?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k")).await?;
    equal("old", head.header("x-amz-meta-a"), None)?;
    has_header(&head, "x-amz-meta-b", "2")?;
    has_header(&head, "content-type", "text/html")
}

async fn a_copy_outlives_its_source(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in [100, 3_000_000] {
        let pattern = Pattern::new(length, length);
        cx.put(&bucket, "source", pattern.bytes()).await?;
        cx.ok(copy((&bucket, "k"), &format!("/{bucket}/source"))).await?;
        cx.ok(Request::object("DELETE", &bucket, "source")).await?;
        let mut check = PatternCheck::new(pattern);
        let get = Request::object("GET", &bucket, "k");
        cx.client().send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
        check.finish()?;
    }
    Ok(())
}

async fn sources_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "source", "x").await?.etag().to_string();
    let request = || copy((&bucket, "k"), &format!("/{bucket}/source"));
    let other = "\"00000000000000000000000000000000\"";
    cx.refused(request().header("x-amz-copy-source-if-match", other), 412, "PreconditionFailed").await?;
    cx.refused(request().header("x-amz-copy-source-if-none-match", &etag), 412, "PreconditionFailed").await?;
    cx.ok(request().header("x-amz-copy-source-if-match", &etag)).await?;
    cx.refused(request().header("if-none-match", "*"), 412, "PreconditionFailed").await
}

async fn the_owner_of_a_source_can_be_named(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "source", "x").await?;
    let request = |owner: &str| {
        copy((&bucket, "k"), &format!("/{bucket}/source")).header("x-amz-source-expected-bucket-owner", owner)
    };
    cx.refused(request("somebody"), 403, "AccessDenied").await?;
    let root = xml_of(&cx.ok(Request::new("GET", "/")).await?, "ListAllMyBucketsResult")?;
    let owner = root.child("Owner").cloned().unwrap_or_default().text_of("ID").to_string();
    cx.ok(request(&owner)).await?;
    Ok(())
}

async fn a_copy_can_be_given_another_checksum(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let body = vec![b'c'; 100_000];
    cx.put(&bucket, "source", body.clone()).await?;
    for algorithm in &ALGORITHMS {
        let request = copy((&bucket, algorithm.name), &format!("/{bucket}/source"));
        let root = cx.ok(request.header("x-amz-checksum-algorithm", algorithm.name)).await?;
        let root = xml_of(&root, "CopyObjectResult")?;
        let value = algorithm.base64(&body);
        equal(algorithm.name, root.text_of(&format!("Checksum{}", algorithm.name)), value.as_str())?;
        equal("type", root.text_of("ChecksumType"), "FULL_OBJECT")?;
    }
    Ok(())
}

async fn a_copy_of_nothing_is_refused(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(copy((&bucket, "k"), &format!("/{bucket}/missing")), 404, "NoSuchKey").await?;
    cx.refused(copy((&bucket, "k"), "/no-such-bucket-here/k"), 404, "NoSuchBucket").await?;
    cx.put(&bucket, "k", "x").await?;
    cx.refused(copy((&bucket, "k"), &format!("/{bucket}/k")), 400, "InvalidRequest").await
}
