//! Multipart uploads.

use md5::Digest;

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, ok, xml_of};
use crate::client::{Pattern, PatternCheck, Request};

behaviours![
    parts_become_one_object,
    a_part_sent_again_replaces_the_first,
    completing_again_gives_the_same_answer,
    an_aborted_upload_is_gone,
    small_parts_are_refused_at_completion,
    parts_are_listed_in_pages,
    uploads_are_listed_in_pages,
    parts_are_read_by_number,
    parts_are_copied_from_objects,
    completion_is_conditional,
    an_upload_keeps_its_metadata,
    overwritten_while_it_was_uploaded,
    skipped_part_numbers_are_allowed,
    copies_of_parts_are_conditional,
    aborts_are_conditional,
    attributes_tell_all_parts_in_pages,
    a_repeated_conditional_completion_gets_its_answer,
];

const PART: u64 = 5 << 20;

async fn create(cx: &Cx<'_>, bucket: &str, key: &str) -> Result<String, String> {
    let created = cx.ok(Request::object("POST", bucket, key).flag("uploads")).await?;
    let root = xml_of(&created, "InitiateMultipartUploadResult")?;
    equal("bucket", root.text_of("Bucket"), bucket)?;
    equal("key", root.text_of("Key"), key)?;
    Ok(root.text_of("UploadId").to_string())
}

fn part(bucket: &str, key: &str, id: &str, number: u32) -> Request {
    Request::object("PUT", bucket, key).query("partNumber", number).query("uploadId", id)
}

async fn put_part(cx: &Cx<'_>, at: (&str, &str, &str), number: u32, body: Vec<u8>) -> Result<String, String> {
    let client = cx.gateway(number as usize);
    Ok(ok(&client, part(at.0, at.1, at.2, number).body(body)).await?.etag().to_string())
}

/// Ends an upload with these parts: number and tag.
pub(crate) fn complete(bucket: &str, key: &str, id: &str, parts: &[(u32, String)]) -> Request {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    Request::object("POST", bucket, key).query("uploadId", id).body(body)
}

fn multipart_etag(bodies: &[Vec<u8>]) -> String {
    let digests: Vec<u8> = bodies.iter().flat_map(|body| md5::Md5::digest(body).to_vec()).collect();
    format!("\"{}-{}\"", hex::encode(md5::Md5::digest(&digests)), bodies.len())
}

/// An object of two parts: 5 MiB and 1,000 bytes of pattern 3. Returns the parts.
async fn two_parts(cx: &Cx<'_>, bucket: &str, key: &str) -> Result<(String, Vec<(u32, String)>), String> {
    let id = create(cx, bucket, key).await?;
    let first = Pattern::slice(3, 0, PART).bytes();
    let second = Pattern::slice(3, PART, 1000).bytes();
    let at = (bucket, key, id.as_str());
    let parts = vec![(1, put_part(cx, at, 1, first).await?), (2, put_part(cx, at, 2, second).await?)];
    Ok((id, parts))
}

async fn parts_become_one_object(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let key = "dir/a b+c";
    let (id, parts) = two_parts(cx, &bucket, key).await?;
    cx.refused(Request::object("GET", &bucket, key), 404, "NoSuchKey").await?;
    let root = xml_of(&cx.ok(complete(&bucket, key, &id, &parts)).await?, "CompleteMultipartUploadResult")?;
    let bodies = [Pattern::new(3, PART).bytes(), Pattern::slice(3, PART, 1000).bytes()];
    equal("etag", root.text_of("ETag"), &multipart_etag(&bodies))?;
    equal("key", root.text_of("Key"), key)?;
    let mut check = PatternCheck::new(Pattern::new(3, PART + 1000));
    let get = Request::object("GET", &bucket, key);
    let get = cx.gateway(1).send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
    equal("etag", get.etag(), &multipart_etag(&bodies))?;
    check.finish()?;
    let range =
        Request::object("GET", &bucket, key).header("range", format!("bytes={}-{}", PART - 5, PART + 4));
    let expected = Pattern::slice(3, PART - 5, 10).bytes();
    equal("across parts", cx.ok(range).await?.body, expected)
}

async fn a_part_sent_again_replaces_the_first(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let id = create(cx, &bucket, "k").await?;
    let at = (bucket.as_str(), "k", id.as_str());
    let old = put_part(cx, at, 1, b"old".to_vec()).await?;
    let new = put_part(cx, at, 1, b"newer".to_vec()).await?;
    cx.refused(complete(&bucket, "k", &id, &[(1, old)]), 400, "InvalidPart").await?;
    cx.ok(complete(&bucket, "k", &id, &[(1, new)])).await?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"newer")
}

async fn completing_again_gives_the_same_answer(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    let first = cx.ok(complete(&bucket, "k", &id, &parts)).await?.xml()?;
    let again = ok(&cx.gateway(1), complete(&bucket, "k", &id, &parts)).await?.xml()?;
    equal("etag", again.text_of("ETag"), first.text_of("ETag"))
}

async fn an_aborted_upload_is_gone(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    let abort = || Request::object("DELETE", &bucket, "k").query("uploadId", &id);
    equal("status", cx.ok(abort()).await?.status, 204)?;
    cx.refused(complete(&bucket, "k", &id, &parts), 404, "NoSuchUpload").await?;
    cx.refused(part(&bucket, "k", &id, 1).body("x"), 404, "NoSuchUpload").await?;
    cx.refused(Request::object("GET", &bucket, "k").query("uploadId", &id), 404, "NoSuchUpload").await?;
    cx.refused(abort(), 404, "NoSuchUpload").await?;
    cx.ok(Request::bucket("DELETE", &bucket)).await?;
    Ok(())
}

async fn small_parts_are_refused_at_completion(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let id = create(cx, &bucket, "k").await?;
    let at = (bucket.as_str(), "k", id.as_str());
    let parts =
        [(1, put_part(cx, at, 1, vec![b'a'; 100]).await?), (2, put_part(cx, at, 2, vec![b'b'; 100]).await?)];
    cx.refused(complete(&bucket, "k", &id, &parts), 400, "EntityTooSmall").await
}

async fn parts_are_listed_in_pages(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let id = create(cx, &bucket, "k").await?;
    for number in [3, 1, 7, 5] {
        put_part(cx, (&bucket, "k", &id), number, vec![b'x'; number as usize]).await?;
    }
    let (mut found, mut marker) = (Vec::new(), "0".to_string());
    loop {
        let list = Request::object("GET", &bucket, "k").query("uploadId", &id).query("max-parts", 3);
        let root = xml_of(&cx.ok(list.query("part-number-marker", &marker)).await?, "ListPartsResult")?;
        equal("id", root.text_of("UploadId"), id.as_str())?;
        for entry in root.all("Part") {
            found.push((entry.text_of("PartNumber").to_string(), entry.text_of("Size").to_string()));
        }
        marker = root.text_of("NextPartNumberMarker").to_string();
        if root.text_of("IsTruncated") != "true" {
            break;
        }
    }
    let expected = ["1", "3", "5", "7"].map(|number| (number.to_string(), number.to_string())).to_vec();
    equal("parts", found, expected)
}

async fn uploads_are_listed_in_pages(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/2", "c"] {
        expected.push((key.to_string(), create(cx, &bucket, key).await?));
    }
    expected.push(("c".to_string(), create(cx, &bucket, "c").await?));
    let (mut found, mut markers) = (Vec::new(), (String::new(), String::new()));
    loop {
        let list = Request::bucket("GET", &bucket).flag("uploads").query("max-uploads", 2);
        let list = list.query("key-marker", &markers.0).query("upload-id-marker", &markers.1);
        let root = xml_of(&cx.ok(list).await?, "ListMultipartUploadsResult")?;
        for entry in root.all("Upload") {
            found.push((entry.text_of("Key").to_string(), entry.text_of("UploadId").to_string()));
        }
        markers = (root.text_of("NextKeyMarker").to_string(), root.text_of("NextUploadIdMarker").to_string());
        if root.text_of("IsTruncated") != "true" {
            break;
        }
    }
    let keys = |list: &[(String, String)]| list.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    equal("keys", keys(&found), keys(&expected))?;
    let (mut found, mut expected) = (found, expected);
    found.sort();
    expected.sort();
    equal("uploads", found, expected)?;
    let grouped = Request::bucket("GET", &bucket).flag("uploads").query("delimiter", "/");
    let root = xml_of(&cx.ok(grouped).await?, "ListMultipartUploadsResult")?;
    equal("common prefixes", root.all("CommonPrefixes").count(), 1)
}

async fn parts_are_read_by_number(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    cx.ok(complete(&bucket, "k", &id, &parts)).await?;
    let get = cx.ok(Request::object("GET", &bucket, "k").query("partNumber", 2)).await?;
    equal("status", get.status, 206)?;
    has_header(&get, "x-amz-mp-parts-count", "2")?;
    has_header(&get, "content-range", &format!("bytes {PART}-{}/{}", PART + 999, PART + 1000))?;
    equal("body", get.body, Pattern::slice(3, PART, 1000).bytes())?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k").query("partNumber", 1)).await?;
    has_header(&head, "content-length", &PART.to_string())?;
    cx.put(&bucket, "single", "whole").await?;
    let whole = cx.ok(Request::object("GET", &bucket, "single").query("partNumber", 1)).await?;
    equal("a single body is part 1", whole.body.as_slice(), b"whole")?;
    let request = Request::object("GET", &bucket, "k").flag("attributes");
    let request = request.header("x-amz-object-attributes", "ObjectParts,ObjectSize");
    let root = xml_of(&cx.ok(request).await?, "GetObjectAttributesResponse")?;
    let count = root.child("ObjectParts").map(|parts| parts.text_of("PartsCount").to_string());
    equal("parts of the attributes", count.as_deref(), Some("2"))
}

async fn parts_are_copied_from_objects(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let source = Pattern::new(11, PART + 2000);
    cx.put(&bucket, "source", source.bytes()).await?;
    let id = create(cx, &bucket, "k").await?;
    let copy = |number: u32, range: String| {
        let request =
            part(&bucket, "k", &id, number).header("x-amz-copy-source", format!("/{bucket}/source"));
        request.header("x-amz-copy-source-range", range)
    };
    let mut parts = Vec::new();
    for (number, range) in [(1, format!("bytes=0-{}", PART - 1)), (2, format!("bytes={PART}-{}", PART + 999))]
    {
        let root = xml_of(&cx.ok(copy(number, range)).await?, "CopyPartResult")?;
        parts.push((number, root.text_of("ETag").to_string()));
    }
    cx.ok(complete(&bucket, "k", &id, &parts)).await?;
    let mut check = PatternCheck::new(Pattern::new(11, PART + 1000));
    let get = Request::object("GET", &bucket, "k");
    cx.client().send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
    check.finish()
}

async fn completion_is_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    cx.put(&bucket, "k", "there before").await?;
    let request = complete(&bucket, "k", &id, &parts).header("if-none-match", "*");
    cx.refused(request, 412, "PreconditionFailed").await?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"there before")?;
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.ok(complete(&bucket, "k", &id, &parts).header("if-none-match", "*")).await?;
    Ok(())
}

async fn an_upload_keeps_its_metadata(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let request = Request::object("POST", &bucket, "k").flag("uploads");
    let request = request.header("content-type", "text/csv").header("x-amz-meta-a", "b");
    let id = cx.ok(request).await?.xml()?.text_of("UploadId").to_string();
    let etag = put_part(cx, (&bucket, "k", &id), 1, b"1,2,3".to_vec()).await?;
    cx.ok(complete(&bucket, "k", &id, &[(1, etag)])).await?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k")).await?;
    has_header(&head, "content-type", "text/csv")?;
    has_header(&head, "x-amz-meta-a", "b")
}

async fn overwritten_while_it_was_uploaded(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    cx.put(&bucket, "k", "in between").await?;
    cx.ok(complete(&bucket, "k", &id, &parts)).await?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k")).await?;
    has_header(&head, "content-length", &(PART + 1000).to_string())
}

async fn skipped_part_numbers_are_allowed(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let id = create(cx, &bucket, "k").await?;
    let at = (bucket.as_str(), "k", id.as_str());
    let first = put_part(cx, at, 9, vec![b'x'; PART as usize]).await?;
    let unused = put_part(cx, at, 20, b"unused".to_vec()).await?;
    let last = put_part(cx, at, 10_000, b"end".to_vec()).await?;
    ensure(!unused.is_empty(), || "no etag".to_string())?;
    cx.ok(complete(&bucket, "k", &id, &[(9, first), (10_000, last)])).await?;
    has_header(
        &cx.ok(Request::object("HEAD", &bucket, "k")).await?,
        "content-length",
        &(PART + 3).to_string(),
    )
}

async fn copies_of_parts_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "source", "0123456789").await?.etag().to_string();
    let id = create(cx, &bucket, "k").await?;
    let copy = |name: &str, value: &str| {
        let request = part(&bucket, "k", &id, 1).header("x-amz-copy-source", format!("/{bucket}/source"));
        request
            .header(&format!("x-amz-copy-source-{name}"), value)
            .header("x-amz-copy-source-range", "bytes=2-5")
    };
    let (other, past) = ("\"00000000000000000000000000000000\"", "Sat, 01 Jan 2000 00:00:00 GMT");
    let future = "Fri, 01 Jan 2100 00:00:00 GMT";
    for (name, value) in [
        ("if-match", other),
        ("if-none-match", etag.as_str()),
        ("if-unmodified-since", past),
        ("if-modified-since", future),
    ] {
        cx.refused(copy(name, value), 412, "PreconditionFailed")
            .await
            .map_err(|why| format!("{name}: {why}"))?;
    }
    for (name, value) in [
        ("if-match", etag.as_str()),
        ("if-none-match", other),
        ("if-unmodified-since", future),
        ("if-modified-since", past),
    ] {
        cx.ok(copy(name, value)).await.map_err(|why| format!("{name}: {why}"))?;
    }
    let owned = copy("if-match", &etag).header("x-amz-source-expected-bucket-owner", "somebody");
    cx.refused(owned, 403, "AccessDenied").await?;
    let list = cx.ok(Request::object("GET", &bucket, "k").query("uploadId", &id)).await?;
    let listed = xml_of(&list, "ListPartsResult")?.child("Part").cloned().unwrap_or_default();
    equal("size", listed.text_of("Size"), "4")
}

async fn aborts_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let id = create(cx, &bucket, "k").await?;
    let abort = |time: &str| {
        let request = Request::object("DELETE", &bucket, "k").query("uploadId", &id);
        request.header("x-amz-if-match-initiated-time", time)
    };
    cx.refused(abort("Sat, 01 Jan 2000 00:00:00 GMT"), 412, "PreconditionFailed").await?;
    cx.refused(abort("yesterday"), 400, "InvalidArgument").await?;
    cx.ok(Request::object("GET", &bucket, "k").query("uploadId", &id)).await?;
    Ok(())
}

async fn attributes_tell_all_parts_in_pages(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    cx.ok(complete(&bucket, "k", &id, &parts)).await?;
    let attributes = |after: &str| {
        let request = Request::object("GET", &bucket, "k").flag("attributes");
        let request = request.header("x-amz-object-attributes", "ObjectParts").header("x-amz-max-parts", 1);
        request.header("x-amz-part-number-marker", after)
    };
    for (after, number, size, truncated) in [("0", "1", PART, "true"), ("1", "2", 1000, "false")] {
        let root = xml_of(&cx.ok(attributes(after)).await?, "GetObjectAttributesResponse")?;
        let parts = root.child("ObjectParts").cloned().unwrap_or_default();
        equal("count", parts.text_of("PartsCount"), "2")?;
        equal("size of a page", parts.text_of("MaxParts"), "1")?;
        equal("marker", parts.text_of("PartNumberMarker"), after)?;
        equal("next", parts.text_of("NextPartNumberMarker"), number)?;
        equal("truncated", parts.text_of("IsTruncated"), truncated)?;
        let part = parts.child("Part").cloned().unwrap_or_default();
        equal(
            "part",
            (part.text_of("PartNumber"), part.text_of("Size")),
            (number, size.to_string().as_str()),
        )?;
        ensure(!part.text_of("ChecksumCRC64NVME").is_empty(), || "no checksum of the part".to_string())?;
    }
    Ok(())
}

/// The object that the first one made is no reason to refuse the second.
async fn a_repeated_conditional_completion_gets_its_answer(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (id, parts) = two_parts(cx, &bucket, "k").await?;
    let request = || complete(&bucket, "k", &id, &parts).header("if-none-match", "*");
    let first = cx.ok(request()).await?.xml()?;
    let again = ok(&cx.gateway(1), request()).await?.xml()?;
    equal("etag", again.text_of("ETag"), first.text_of("ETag"))
}
