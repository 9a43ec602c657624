//! Additional checksums: all ten, stored, checked and told.

use super::{Cx, Outcome, behaviours, equal, has_header, xml_of};
use crate::client::{ALGORITHMS, Algorithm, Request, composite};

behaviours![
    every_checksum_is_kept_and_told,
    without_one_the_server_adds_crc64nvme,
    parts_have_composite_checksums,
    parts_have_full_object_checksums,
    ranges_tell_no_checksum,
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
