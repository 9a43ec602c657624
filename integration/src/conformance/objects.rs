//! Objects: storing, reading, deleting, their metadata, and keys of every kind.

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, ok, xml_of};
use crate::client::{Pattern, PatternCheck, Request, encode_uri};

behaviours![
    what_was_put_is_read_back,
    sizes_around_the_inline_and_chunk_limits,
    a_large_object_streams_both_ways,
    an_overwrite_replaces_all,
    deletes_are_idempotent,
    missing_keys_are_named,
    head_says_what_get_says,
    metadata_comes_back,
    user_metadata_has_a_limit,
    response_headers_can_be_overridden,
    keys_are_bytes,
    a_key_and_a_prefix_live_side_by_side,
    many_objects_are_deleted_at_once,
    reads_through_another_gateway_are_current,
    every_answer_has_a_request_id,
    attributes_are_told,
];

async fn what_was_put_is_read_back(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = cx.put(&bucket, "hello.txt", "hello world").await?;
    equal("etag", put.etag(), "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"")?;
    let get = cx.get(&bucket, "hello.txt").await?;
    equal("body", get.body.as_slice(), b"hello world")?;
    has_header(&get, "content-length", "11")?;
    has_header(&get, "accept-ranges", "bytes")?;
    has_header(&get, "content-type", "binary/octet-stream")?;
    equal("etag", get.etag(), put.etag())?;
    ensure(get.header("last-modified").is_some_and(|date| date.ends_with(" GMT")), || "no date".to_string())
}

async fn sizes_around_the_inline_and_chunk_limits(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    const MIB: u64 = 1 << 20;
    for length in
        [0, 1, 3839, 3840, 4096, 16_383, 16_384, 16_385, 65_536, MIB - 1, MIB, MIB + 1, 3 * MIB + 17]
    {
        let pattern = Pattern::new(length, length);
        let key = format!("size-{length}");
        cx.put(&bucket, &key, pattern.bytes()).await?;
        let mut check = PatternCheck::new(pattern);
        let get = Request::object("GET", &bucket, &key);
        let response =
            cx.gateway(1).send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
        equal("status", response.status, 200)?;
        check.finish().map_err(|difference| format!("{length} bytes: {difference}"))?;
    }
    Ok(())
}

async fn a_large_object_streams_both_ways(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let pattern = Pattern::new(42, 32 << 20);
    cx.ok(Request::object("PUT", &bucket, "large").generated(pattern)).await?;
    let mut check = PatternCheck::new(pattern);
    let get = Request::object("GET", &bucket, "large");
    cx.client().send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
    check.finish()
}

async fn an_overwrite_replaces_all(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let first = Request::object("PUT", &bucket, "k").header("x-amz-meta-old", "1").body("first, and longer");
    cx.ok(first.header("content-type", "text/plain")).await?;
    cx.put(&bucket, "k", "second").await?;
    let get = cx.get(&bucket, "k").await?;
    equal("body", get.body.as_slice(), b"second")?;
    equal("metadata", get.header("x-amz-meta-old"), None)?;
    has_header(&get, "content-type", "binary/octet-stream")
}

async fn deletes_are_idempotent(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    for _ in 0..2 {
        equal("status", cx.ok(Request::object("DELETE", &bucket, "k")).await?.status, 204)?;
    }
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await
}

async fn missing_keys_are_named(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(Request::object("HEAD", &bucket, "k"), 404, "").await?;
    let get = Request::object("GET", &bucket, "no/such key");
    let response = cx.client().send(get).await.map_err(|error| error.to_string())?;
    equal("status", response.status, 404)?;
    let error = xml_of(&response, "Error")?;
    equal("code", error.text_of("Code"), "NoSuchKey")?;
    equal("key", error.text_of("Key"), "no/such key")
}

async fn head_says_what_get_says(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(Request::object("PUT", &bucket, "k").header("cache-control", "no-store").body("0123456789"))
        .await?;
    let (head, get) = (cx.ok(Request::object("HEAD", &bucket, "k")).await?, cx.get(&bucket, "k").await?);
    for name in ["content-length", "content-type", "etag", "last-modified", "cache-control", "accept-ranges"]
    {
        equal(name, head.header(name), get.header(name))?;
    }
    let range = cx.ok(Request::object("HEAD", &bucket, "k").header("range", "bytes=2-4")).await?;
    equal("status", range.status, 206)?;
    has_header(&range, "content-length", "3")?;
    has_header(&range, "content-range", "bytes 2-4/10")
}

async fn metadata_comes_back(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("cache-control", "max-age=60"),
        ("content-disposition", "attachment; filename=\"a b.txt\""),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("expires", "Wed, 21 Oct 2037 07:28:00 GMT"),
        ("x-amz-meta-colour", "blue"),
        ("x-amz-meta-empty", ""),
    ];
    let put = Request::object("PUT", &bucket, "k").body("x");
    let put = headers.iter().fold(put, |request, (name, value)| request.header(name, value));
    cx.ok(put.header("x-amz-meta-UPPER", "Case")).await?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k")).await?;
    for (name, value) in headers {
        has_header(&head, name, value)?;
    }
    has_header(&head, "x-amz-meta-upper", "Case")
}

/// Names without their prefix and values have 2,048 bytes together.
async fn user_metadata_has_a_limit(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = |bytes: usize| {
        let put = Request::object("PUT", &bucket, "k").header("x-amz-meta-a", "v".repeat(bytes - 3));
        put.header("x-amz-meta-b", "w").body("x")
    };
    cx.ok(put(2048)).await?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k")).await?;
    equal("metadata", head.header("x-amz-meta-a").map(str::len), Some(2045))?;
    cx.refused(put(2049), 400, "MetadataTooLarge").await
}

async fn response_headers_can_be_overridden(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(Request::object("PUT", &bucket, "k").header("content-type", "text/plain").body("x")).await?;
    let get = Request::object("GET", &bucket, "k")
        .query("response-content-type", "image/png")
        .query("response-content-disposition", "attachment; filename=\"x y\"")
        .query("response-cache-control", "no-cache")
        .query("response-content-language", "fr")
        .query("response-content-encoding", "identity")
        .query("response-expires", "Thu, 01 Dec 1994 16:00:00 GMT");
    let response = cx.ok(get).await?;
    has_header(&response, "content-type", "image/png")?;
    has_header(&response, "content-disposition", "attachment; filename=\"x y\"")?;
    has_header(&response, "cache-control", "no-cache")?;
    has_header(&response, "content-language", "fr")?;
    has_header(&response, "expires", "Thu, 01 Dec 1994 16:00:00 GMT")
}

/// Keys that some store somewhere could not keep apart or could not give back.
const KEYS: &[&str] = &[
    " ",
    "  a",
    "a ",
    "a+b",
    "a%20b",
    "a b",
    "%",
    "%25",
    "&<>\"'",
    "]]>",
    "a//b",
    "//",
    "/",
    "/a",
    "a/",
    ".",
    "..",
    "./a",
    "../a",
    "a/../b",
    "\\",
    "a\\b",
    "\u{1}",
    "\u{1f}",
    "a\nb",
    "a\rb",
    "a\tb",
    "\u{7f}",
    "\u{fffe}",
    "é",
    "e\u{301}",
    "日本語",
    "😀",
    "\u{10ffff}",
    "?a=b",
    "#frag",
    "a;b",
    "a,b",
    "a=b",
    "a:b",
    "a@b",
    "a!b",
    "a(b)",
    "a*b",
    "~a",
    "{}",
    "|",
    "^",
    "`",
    "[x]",
    "$a",
    "\u{200b}",
    "\u{feff}a",
    "con",
    "NUL",
];

async fn keys_are_bytes(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for key in KEYS {
        cx.put(&bucket, key, format!("body of {key}")).await.map_err(|why| format!("{key:?}: {why}"))?;
    }
    for key in KEYS {
        let get = cx.get(&bucket, key).await.map_err(|why| format!("{key:?}: {why}"))?;
        equal(&format!("body of {key:?}"), get.body, format!("body of {key}").into_bytes())?;
    }
    let mut expected: Vec<String> = KEYS.iter().map(|key| encode_uri(key.as_bytes(), true)).collect();
    expected.sort_by_key(|key| percent_encoding::percent_decode_str(key).collect::<Vec<u8>>());
    let list = Request::bucket("GET", &bucket).query("list-type", 2).query("encoding-type", "url");
    let root = xml_of(&cx.ok(list).await?, "ListBucketResult")?;
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>();
    let listed: Vec<Vec<u8>> = root.all("Contents").map(|entry| decode(entry.text_of("Key"))).collect();
    let expected: Vec<Vec<u8>> =
        expected.iter().map(|key| percent_encoding::percent_decode_str(key).collect()).collect();
    equal("keys", listed, expected)?;
    // Without encoding-type the answer must still be well-formed, whatever the keys are.
    xml_of(&cx.ok(Request::bucket("GET", &bucket).query("list-type", 2)).await?, "ListBucketResult")?;
    for key in KEYS {
        cx.ok(Request::object("DELETE", &bucket, key)).await?;
    }
    cx.ok(Request::bucket("DELETE", &bucket)).await?;
    Ok(())
}

async fn a_key_and_a_prefix_live_side_by_side(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for key in ["a", "a/", "a/b", "a/b/"] {
        cx.put(&bucket, key, key).await?;
    }
    for key in ["a", "a/", "a/b", "a/b/"] {
        equal("body", cx.get(&bucket, key).await?.body, key.as_bytes().to_vec())?;
    }
    Ok(())
}

async fn many_objects_are_deleted_at_once(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for index in 0..250 {
        cx.put(&bucket, &format!("k{index:03}"), "x").await?;
    }
    cx.put(&bucket, "a&b", "x").await?;
    let objects: String = (0..250).map(|index| format!("<Object><Key>k{index:03}</Key></Object>")).collect();
    let body = format!(
        "<Delete>{objects}<Object><Key>a&amp;b</Key></Object><Object><Key>missing</Key></Object></Delete>"
    );
    let request = Request::bucket("POST", &bucket).flag("delete").body(body).content_md5();
    let root = xml_of(&cx.ok(request).await?, "DeleteResult")?;
    equal("deleted", root.all("Deleted").count(), 252)?;
    equal("errors", root.all("Error").count(), 0)?;
    let quiet = "<Delete><Quiet>true</Quiet><Object><Key>missing</Key></Object></Delete>";
    let quiet = Request::bucket("POST", &bucket).flag("delete").body(quiet).content_md5();
    equal("quiet", xml_of(&cx.ok(quiet).await?, "DeleteResult")?.children.len(), 0)?;
    cx.ok(Request::bucket("DELETE", &bucket)).await?;
    Ok(())
}

async fn reads_through_another_gateway_are_current(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for round in 0..20 {
        let body = format!("round {round}");
        ok(&cx.gateway(round), Request::object("PUT", &bucket, "k").body(body.clone())).await?;
        let get = ok(&cx.gateway(round + 1), Request::object("GET", &bucket, "k")).await?;
        equal("body", get.body, body.into_bytes())?;
    }
    Ok(())
}

async fn every_answer_has_a_request_id(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut seen = Vec::new();
    for request in
        [Request::bucket("HEAD", &bucket), Request::object("GET", &bucket, "k"), Request::new("GET", "/")]
    {
        let response = cx.client().send(request).await.map_err(|error| error.to_string())?;
        let id = response.header("x-amz-request-id").unwrap_or_default().to_string();
        ensure(!id.is_empty() && !seen.contains(&id), || format!("request id {id:?}"))?;
        ensure(response.header("x-amz-id-2").is_some(), || "no x-amz-id-2".to_string())?;
        ensure(response.header("date").is_some(), || "no date".to_string())?;
        seen.push(id);
    }
    Ok(())
}

async fn attributes_are_told(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = cx.put(&bucket, "k", "hello").await?;
    let request = Request::object("GET", &bucket, "k")
        .flag("attributes")
        .header("x-amz-object-attributes", "ETag,ObjectSize,StorageClass,Checksum");
    let root = xml_of(&cx.ok(request).await?, "GetObjectAttributesResponse")?;
    equal("etag", root.text_of("ETag"), put.etag().trim_matches('"'))?;
    equal("size", root.text_of("ObjectSize"), "5")?;
    equal("class", root.text_of("StorageClass"), "STANDARD")?;
    ensure(root.child("Checksum").is_some(), || "no checksum".to_string())
}
