//! Appends: PutObject with `x-amz-write-offset-bytes`.

use futures::future::join_all;

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, ok, xml_of};
use crate::client::{ALGORITHMS, Pattern, PatternCheck, Request, Response, composite};

behaviours![
    bytes_are_put_behind_those_that_are_there,
    an_append_at_another_offset_is_refused,
    of_32_appends_at_one_offset_one_wins,
    appenders_lose_nothing,
    what_is_appended_becomes_a_part,
    checksums_of_objects_follow_what_is_appended,
    appends_are_conditional,
    a_copy_sees_nothing_of_what_is_appended,
    versions_stay_what_they_are_when_more_is_appended,
    only_put_object_appends,
];

fn append(bucket: &str, key: &str, offset: usize) -> Request {
    Request::object("PUT", bucket, key).header("x-amz-write-offset-bytes", offset)
}

async fn size(cx: &Cx<'_>, bucket: &str, key: &str) -> Result<usize, String> {
    let head = cx.ok(Request::object("HEAD", bucket, key)).await?;
    head.header("content-length").unwrap_or_default().parse().map_err(|_| head.describe())
}

/// Bytes of every size that is stored in its own way, behind each other.
async fn bytes_are_put_behind_those_that_are_there(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let all = Pattern::new(7, 6_000_000).bytes();
    let made = append(&bucket, "k", 0).header("x-amz-meta-a", "1").body(&all[..10]);
    let made = cx.ok(made).await?;
    has_header(&made, "x-amz-object-size", "10")?;
    let (mut at, mut last) = (10, made.etag().to_string());
    for more in [5_usize, 0, 20_000, 1, 3_000_000, 100, 2_000_000] {
        let put = ok(&cx.gateway(more), append(&bucket, "k", at).body(&all[at..at + more])).await?;
        at += more;
        has_header(&put, "x-amz-object-size", &at.to_string())?;
        ensure(more == 0 || put.etag() != last, || format!("the tag stays {last}"))?;
        last = put.etag().to_string();
    }
    for gateway in 0..2 {
        let found = ok(&cx.gateway(gateway), Request::object("GET", &bucket, "k")).await?;
        ensure(found.body == all[..at], || "other bytes".to_string())?;
        has_header(&found, "etag", &last)?;
        has_header(&found, "x-amz-meta-a", "1")?;
    }
    let middle = Request::object("GET", &bucket, "k").header("range", "bytes=20005-20025");
    equal("range", cx.ok(middle).await?.body, all[20_005..=20_025].to_vec())
}

async fn an_append_at_another_offset_is_refused(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(append(&bucket, "k", 1).body("x"), 400, "InvalidWriteOffset").await?;
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await?;
    cx.put(&bucket, "k", "12345").await?;
    for offset in [0, 4, 6] {
        cx.refused(append(&bucket, "k", offset).body("x"), 400, "InvalidWriteOffset").await?;
    }
    for offset in ["-5", "5.0", "five", ""] {
        let bad = Request::object("PUT", &bucket, "k").header("x-amz-write-offset-bytes", offset);
        cx.refused(bad.body("x"), 400, "InvalidArgument").await?;
    }
    cx.ok(append(&bucket, "k", 5).body("6")).await?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"123456")
}

async fn race(cx: &Cx<'_>, bucket: &str, offset: usize, length: usize) -> Result<Vec<u8>, String> {
    let writers = (0..32).map(|index| {
        let client = cx.gateway(index);
        let body = format!("{index:02}").repeat(length / 2).into_bytes();
        let put = append(bucket, "k", offset).body(body.clone());
        async move { (body, client.send(put).await) }
    });
    let (mut winners, mut lost) = (Vec::new(), 0);
    for (body, answer) in join_all(writers).await {
        let answer = answer.map_err(|error| error.to_string())?;
        match (answer.status, answer.code().as_str()) {
            (200, _) => winners.push(body),
            (400, "InvalidWriteOffset") => lost += 1,
            _ => return Err(answer.describe()),
        }
    }
    ensure(winners.len() == 1 && lost == 31, || format!("{} winners, {lost} losers", winners.len()))?;
    winners.pop().ok_or_else(|| "no winner".to_string())
}

async fn of_32_appends_at_one_offset_one_wins(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let mut whole = Vec::new();
    for length in [10, 20, 30_000, 10, 100_000] {
        let won = race(cx, &bucket, whole.len(), length).await?;
        whole.extend(won);
        for gateway in 0..2 {
            let get = ok(&cx.gateway(gateway), Request::object("GET", &bucket, "k")).await?;
            ensure(get.body == whole, || format!("{} bytes are not what the winners wrote", get.body.len()))?;
        }
    }
    Ok(())
}

/// Writers that try again at the new end: each line is there once, and whole.
async fn appenders_lose_nothing(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "\n".repeat(16_380)).await?;
    let writers = (0..4_usize).map(|writer| {
        let (client, bucket) = (cx.gateway(writer), &bucket);
        async move {
            for line in 0..4 {
                let text = format!("line {line} of writer {writer}\n");
                loop {
                    let offset = size(cx, bucket, "k").await?;
                    let put = append(bucket, "k", offset).body(text.as_str());
                    let answer = client.send(put).await.map_err(|error| error.to_string())?;
                    match (answer.status, answer.code().as_str()) {
                        (200, _) => break,
                        (400, "InvalidWriteOffset") => {}
                        _ => return Err(answer.describe()),
                    }
                }
            }
            Ok::<(), String>(())
        }
    });
    join_all(writers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let found = String::from_utf8(cx.get(&bucket, "k").await?.body).map_err(|error| error.to_string())?;
    let mut lines: Vec<&str> = found.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    let mut expected: Vec<String> =
        (0..4).flat_map(|line| (0..4).map(move |writer| format!("line {line} of writer {writer}"))).collect();
    expected.sort_unstable();
    equal("lines", lines, expected.iter().map(String::as_str).collect())
}

async fn what_is_appended_becomes_a_part(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", vec![b'a'; 20_000]).await?;
    cx.ok(append(&bucket, "k", 20_000).body("bbb")).await?;
    let put = cx.ok(append(&bucket, "k", 20_003).body(vec![b'c'; 30_000])).await?;
    ensure(put.etag().ends_with("-3\""), || put.etag().to_string())?;
    for (number, bytes) in [("1", 20_000), ("2", 3), ("3", 30_000)] {
        let part = cx.ok(Request::object("GET", &bucket, "k").query("partNumber", number)).await?;
        equal("bytes", part.body.len(), bytes)?;
        has_header(&part, "x-amz-mp-parts-count", "3")?;
    }
    let attributes = Request::object("GET", &bucket, "k").flag("attributes");
    let attributes = cx.ok(attributes.header("x-amz-object-attributes", "ObjectParts,ObjectSize")).await?;
    let root = xml_of(&attributes, "GetObjectAttributesResponse")?;
    equal("size", root.text_of("ObjectSize"), "50003")?;
    let parts = root.child("ObjectParts").cloned().unwrap_or_default();
    equal("parts", parts.text_of("PartsCount"), "3")
}

fn checksum<'a>(response: &'a Response, name: &str) -> &'a str {
    response.header(&format!("x-amz-checksum-{}", name.to_lowercase())).unwrap_or("none")
}

async fn checksums_of_objects_follow_what_is_appended(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for algorithm in &ALGORITHMS {
        let crc = algorithm.name.starts_with("CRC");
        for start in [100, 50_000] {
            let (first, second) = (vec![b'a'; start], vec![b'b'; 40_000]);
            let header = format!("x-amz-checksum-{}", algorithm.name.to_lowercase());
            let put = Request::object("PUT", &bucket, "k").header(&header, algorithm.base64(&first));
            cx.ok(put.body(first.clone())).await?;
            let put = append(&bucket, "k", start).header(&header, algorithm.base64(&second));
            let put = cx.ok(put.body(second.clone())).await?;
            equal("what was sent", checksum(&put, algorithm.name), &algorithm.base64(&second))?;
            let head = Request::object("HEAD", &bucket, "k").header("x-amz-checksum-mode", "ENABLED");
            let head = cx.ok(head).await?;
            let (kind, expected) = match crc || start == 100 {
                true => ("FULL_OBJECT", algorithm.base64(&[first, second].concat())),
                false => ("COMPOSITE", composite(algorithm, &[&first, &second])),
            };
            equal(algorithm.name, checksum(&head, algorithm.name), expected.as_str())?;
            has_header(&head, "x-amz-checksum-type", kind)?;
            let wrong = append(&bucket, "k", start + 40_000).header(&header, algorithm.base64(b"y"));
            cx.refused(wrong.body("x"), 400, "BadDigest").await?;
        }
    }
    Ok(())
}

async fn appends_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(append(&bucket, "k", 0).header("if-match", "*").body("x"), 404, "NoSuchKey").await?;
    let made = cx.ok(append(&bucket, "k", 0).header("if-none-match", "*").body("x")).await?;
    let again = append(&bucket, "k", 1).header("if-none-match", "*").body("y");
    cx.refused(again, 412, "PreconditionFailed").await?;
    let etag = made.etag().to_string();
    cx.ok(append(&bucket, "k", 1).header("if-match", &etag).body("y")).await?;
    let late = append(&bucket, "k", 2).header("if-match", &etag).body("z");
    cx.refused(late, 412, "PreconditionFailed").await
}

async fn a_copy_sees_nothing_of_what_is_appended(cx: &Cx<'_>) -> Outcome {
    let (bucket, other) = (cx.bucket().await?, cx.bucket().await?);
    let pattern = Pattern::new(3, 1_500_000);
    cx.put(&bucket, "k", pattern.bytes()).await?;
    let copy =
        |to: &str| Request::object("PUT", to, "copy").header("x-amz-copy-source", format!("{bucket}/k"));
    cx.ok(append(&bucket, "k", 1_500_000).body("one")).await?;
    cx.ok(copy(&other)).await?;
    cx.ok(append(&bucket, "k", 1_500_003).body("two")).await?;
    cx.ok(append(&other, "copy", 1_500_003).body("three")).await?;
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.ok(append(&other, "copy", 1_500_008).body("four")).await?;
    let found = cx.get(&other, "copy").await?.body;
    let (start, end) = found.split_at(1_500_000);
    equal("end", end, b"onethreefour")?;
    let mut check = PatternCheck::new(pattern);
    check.push(start);
    check.finish()
}

async fn versions_stay_what_they_are_when_more_is_appended(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    cx.ok(Request::bucket("PUT", &bucket).flag("versioning").body(body).content_md5()).await?;
    let mut versions = Vec::new();
    let mut at = 0;
    for more in [10, 20_000, 30, 40] {
        let put = cx.ok(append(&bucket, "k", at).body(vec![b'x'; more])).await?;
        at += more;
        let version = put.header("x-amz-version-id").map(str::to_string);
        versions.push((version.ok_or_else(|| put.describe())?, at));
    }
    for (version, bytes) in versions {
        let get = cx.ok(Request::object("GET", &bucket, "k").query("versionId", version)).await?;
        equal("bytes", get.body.len(), bytes)?;
    }
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.refused(append(&bucket, "k", at).body("x"), 400, "InvalidWriteOffset").await?;
    cx.ok(append(&bucket, "k", 0).body("x")).await.map(drop)
}

async fn only_put_object_appends(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    let copy = append(&bucket, "k", 1).header("x-amz-copy-source", format!("{bucket}/k"));
    cx.refused(copy, 501, "NotImplemented").await?;
    let begun = cx.ok(Request::object("POST", &bucket, "k").flag("uploads")).await?;
    let upload = xml_of(&begun, "InitiateMultipartUploadResult")?.text_of("UploadId").to_string();
    let part = append(&bucket, "k", 1).query("partNumber", "1").query("uploadId", upload);
    cx.refused(part.body("x"), 501, "NotImplemented").await
}
