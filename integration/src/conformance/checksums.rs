//! Additional checksums: all ten, stored, checked and told.

use super::{Cx, Outcome, behaviours, equal, has_header, xml_of};
use crate::client::{ALGORITHMS, Algorithm, Payload, Request, composite};

behaviours![
    every_checksum_is_kept_and_told,
    without_one_the_server_adds_crc64nvme,
    parts_have_composite_checksums,
    parts_have_full_object_checksums,
    ranges_tell_no_checksum,
    every_checksum_comes_in_trailers,
    every_checksum_is_told_of_parts_and_in_attributes,
    every_checksum_proves_a_list_to_delete,
];

async fn every_checksum_is_kept_and_told(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for algorithm in &ALGORITHMS {
        for length in [10, 100_000] {
            let body = vec![b'c'; length];
            let value = algorithm.base64(&body);
            let put = Request::object("PUT", &bucket, algorithm.name).header(algorithm.header, &value);
            let put = cx.ok(put.header("x-amz-sdk-checksum-algorithm", algorithm.name).body(body)).await?;
            has_header(&put, algorithm.header, &value)?;
            has_header(&put, "x-amz-checksum-type", "FULL_OBJECT")?;
            let head =
                Request::object("HEAD", &bucket, algorithm.name).header("x-amz-checksum-mode", "ENABLED");
            has_header(&cx.ok(head).await?, algorithm.header, &value)?;
            let silent = cx.get(&bucket, algorithm.name).await?;
            equal("without the mode", silent.header(algorithm.header), None)?;
        }
    }
    Ok(())
}

async fn without_one_the_server_adds_crc64nvme(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = cx.put(&bucket, "k", "123456789").await?;
    has_header(&put, "x-amz-checksum-crc64nvme", "rosUhgp5mIg=")?;
    let get = cx.ok(Request::object("GET", &bucket, "k").header("x-amz-checksum-mode", "ENABLED")).await?;
    has_header(&get, "x-amz-checksum-crc64nvme", "rosUhgp5mIg=")
}

async fn ranges_tell_no_checksum(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "123456789").await?;
    let get = Request::object("GET", &bucket, "k").header("x-amz-checksum-mode", "ENABLED");
    let response = cx.ok(get.header("range", "bytes=0-3")).await?;
    equal("checksum", response.header("x-amz-checksum-crc64nvme"), None)
}

async fn parts_have_composite_checksums(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for algorithm in ALGORITHMS.iter().filter(|algorithm| algorithm.composite) {
        let (first, second) = (vec![b'1'; 5 << 20], b"second".to_vec());
        let expected = composite(algorithm, &[&first, &second]);
        upload(cx, &bucket, algorithm, "COMPOSITE", [first, second], &expected)
            .await
            .map_err(|why| format!("{}: {why}", algorithm.name))?;
    }
    Ok(())
}

async fn parts_have_full_object_checksums(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for algorithm in ALGORITHMS.iter().filter(|algorithm| algorithm.full_object) {
        let (first, second) = (vec![b'1'; 5 << 20], b"second".to_vec());
        let expected = algorithm.base64(&[first.clone(), second.clone()].concat());
        upload(cx, &bucket, algorithm, "FULL_OBJECT", [first, second], &expected)
            .await
            .map_err(|why| format!("{}: {why}", algorithm.name))?;
    }
    Ok(())
}

async fn upload(
    cx: &Cx<'_>,
    bucket: &str,
    algorithm: &Algorithm,
    kind: &str,
    bodies: [Vec<u8>; 2],
    expected: &str,
) -> Outcome {
    let key = format!("{}-{kind}", algorithm.name);
    let create = Request::object("POST", bucket, &key).flag("uploads");
    let create =
        create.header("x-amz-checksum-algorithm", algorithm.name).header("x-amz-checksum-type", kind);
    let created = xml_of(&cx.ok(create).await?, "InitiateMultipartUploadResult")?;
    let id = created.text_of("UploadId");
    let mut list = String::new();
    for (index, body) in bodies.into_iter().enumerate() {
        let number = index + 1;
        let value = algorithm.base64(&body);
        let put = Request::object("PUT", bucket, &key).query("partNumber", number).query("uploadId", id);
        let put = cx.ok(put.header(algorithm.header, &value).body(body)).await?;
        has_header(&put, algorithm.header, &value)?;
        let tag = format!("Checksum{}", algorithm.name);
        list.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag><{tag}>{value}</{tag}></Part>",
            put.etag()
        ));
    }
    let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let complete = Request::object("POST", bucket, &key).query("uploadId", id).body(body);
    let root = xml_of(&cx.ok(complete).await?, "CompleteMultipartUploadResult")?;
    equal("complete", root.text_of(&format!("Checksum{}", algorithm.name)), expected)?;
    equal("type", root.text_of("ChecksumType"), kind)?;
    let head = Request::object("HEAD", bucket, &key).header("x-amz-checksum-mode", "ENABLED");
    let head = cx.ok(head).await?;
    has_header(&head, algorithm.header, expected)?;
    has_header(&head, "x-amz-checksum-type", kind)
}

async fn every_checksum_comes_in_trailers(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let body = vec![b't'; 20_000];
    for algorithm in &ALGORITHMS {
        let value = algorithm.base64(&body);
        let right = vec![(algorithm.header.to_string(), value.clone())];
        let wrong = vec![(algorithm.header.to_string(), algorithm.base64(b"other"))];
        let put =
            |payload| Request::object("PUT", &bucket, algorithm.name).body(body.clone()).payload(payload);
        for payload in [
            Payload::UnsignedChunksTrailer(8192, right.clone()),
            Payload::SignedChunksTrailer(8192, right.clone()),
        ] {
            let stored = cx.ok(put(payload)).await.map_err(|why| format!("{}: {why}", algorithm.name))?;
            has_header(&stored, algorithm.header, &value)?;
            let get =
                Request::object("GET", &bucket, algorithm.name).header("x-amz-checksum-mode", "ENABLED");
            let get = cx.ok(get).await?;
            has_header(&get, algorithm.header, &value)?;
            equal("body", get.body.len(), body.len())?;
        }
        cx.refused(put(Payload::UnsignedChunksTrailer(8192, wrong.clone())), 400, "BadDigest").await?;
        cx.refused(put(Payload::SignedChunksTrailer(8192, wrong)), 400, "BadDigest").await?;
    }
    Ok(())
}

async fn every_checksum_is_told_of_parts_and_in_attributes(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for algorithm in &ALGORITHMS {
        told(cx, &bucket, algorithm).await.map_err(|why| format!("{}: {why}", algorithm.name))?;
    }
    Ok(())
}

/// An object of one part: its checksum is listed with the part, read with the part, and is in the attributes.
async fn told(cx: &Cx<'_>, bucket: &str, algorithm: &Algorithm) -> Outcome {
    let (key, element) = (algorithm.name, format!("Checksum{}", algorithm.name));
    let body = b"the only part".to_vec();
    let value = algorithm.base64(&body);
    let create = Request::object("POST", bucket, key).flag("uploads");
    let created = cx.ok(create.header("x-amz-checksum-algorithm", algorithm.name)).await?;
    let kind = created.header("x-amz-checksum-type").unwrap_or_default().to_string();
    let id = created.xml()?.text_of("UploadId").to_string();
    let put = Request::object("PUT", bucket, key).query("partNumber", 1).query("uploadId", &id);
    // The client names none: the algorithm of the upload is computed all the same.
    let put = cx.ok(put.body(body)).await?;
    has_header(&put, algorithm.header, &value)?;
    let list =
        xml_of(&cx.ok(Request::object("GET", bucket, key).query("uploadId", &id)).await?, "ListPartsResult")?;
    equal("listed algorithm", list.text_of("ChecksumAlgorithm"), algorithm.name)?;
    equal("listed type", list.text_of("ChecksumType"), kind.as_str())?;
    equal("listed", list.child("Part").cloned().unwrap_or_default().text_of(&element), value.as_str())?;
    let part = format!("<Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>", put.etag());
    let body = format!("<CompleteMultipartUpload>{part}</CompleteMultipartUpload>");
    cx.ok(Request::object("POST", bucket, key).query("uploadId", &id).body(body)).await?;
    let get =
        Request::object("GET", bucket, key).query("partNumber", 1).header("x-amz-checksum-mode", "ENABLED");
    has_header(&cx.ok(get).await?, algorithm.header, &value)?;
    let attributes = Request::object("GET", bucket, key).flag("attributes");
    let attributes = attributes.header("x-amz-object-attributes", "Checksum,ObjectParts");
    let root = xml_of(&cx.ok(attributes).await?, "GetObjectAttributesResponse")?;
    let checksum = root.child("Checksum").cloned().unwrap_or_default();
    let parts = root.child("ObjectParts").and_then(|parts| parts.child("Part").cloned()).unwrap_or_default();
    equal("of the part", parts.text_of(&element), value.as_str())?;
    equal("type", checksum.text_of("ChecksumType"), kind.as_str())?;
    let whole = match kind.as_str() {
        "FULL_OBJECT" => value,
        _ => composite(algorithm, &[b"the only part".as_slice()]),
    };
    equal("of the object", checksum.text_of(&element), whole.as_str())
}

/// Any of them stands in for Content-MD5.
async fn every_checksum_proves_a_list_to_delete(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for algorithm in &ALGORITHMS {
        cx.put(&bucket, "k", "x").await?;
        let body = "<Delete><Object><Key>k</Key></Object></Delete>";
        let delete = |value: String| {
            Request::bucket("POST", &bucket).flag("delete").header(algorithm.header, value).body(body)
        };
        cx.refused(delete(algorithm.base64(b"other")), 400, "BadDigest").await?;
        cx.get(&bucket, "k").await?;
        let root = xml_of(&cx.ok(delete(algorithm.base64(body.as_bytes()))).await?, "DeleteResult")?;
        equal(algorithm.name, root.all("Deleted").count(), 1)?;
    }
    Ok(())
}
