//! Storage classes: what is kept in another way reads the same.

use super::{Cx, Outcome, behaviours, equal, has_header, ok, xml_of};
use crate::client::{Pattern, Request};

behaviours![
    a_class_is_kept_and_shown,
    what_is_kept_in_a_class_reads_the_same,
    a_copy_onto_itself_changes_the_class,
    parts_are_kept_in_the_class_of_their_upload,
    a_class_that_is_not_here_is_refused,
];

const HEADER: &str = "x-amz-storage-class";
const CLASS: &str = "STANDARD_IA";

/// Inline, an uneven stripe, a whole one, and some with a short one behind them.
const SIZES: [u64; 5] = [100, 100_001, 1 << 20, (1 << 20) + 1, 3_500_000];

fn put(bucket: &str, key: &str) -> Request {
    Request::object("PUT", bucket, key).header(HEADER, CLASS)
}

async fn a_class_is_kept_and_shown(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let body = Pattern::new(1, 200_000).bytes();
    cx.ok(put(&bucket, "kept").body(body.clone())).await?;
    cx.ok(Request::object("PUT", &bucket, "plain").header(HEADER, "STANDARD").body(body)).await?;
    for method in ["GET", "HEAD"] {
        let kept = ok(&cx.gateway(1), Request::object(method, &bucket, "kept")).await?;
        has_header(&kept, HEADER, CLASS)?;
        let plain = cx.ok(Request::object(method, &bucket, "plain")).await?;
        equal("the class of a plain object", plain.header(HEADER), None)?;
    }
    let attributes = Request::object("GET", &bucket, "kept").flag("attributes");
    let shown = cx.ok(attributes.header("x-amz-object-attributes", "StorageClass")).await?;
    equal("attributes", xml_of(&shown, "GetObjectAttributesResponse")?.text_of("StorageClass"), CLASS)?;
    for list in [Request::bucket("GET", &bucket), Request::bucket("GET", &bucket).query("list-type", 2)] {
        let page = xml_of(&cx.ok(list).await?, "ListBucketResult")?;
        let classes: Vec<&str> = page.all("Contents").map(|object| object.text_of("StorageClass")).collect();
        equal("classes", classes, vec![CLASS, "STANDARD"])?;
    }
    let versions = cx.ok(Request::bucket("GET", &bucket).flag("versions")).await?;
    let versions = xml_of(&versions, "ListVersionsResult")?;
    let classes: Vec<&str> = versions.all("Version").map(|version| version.text_of("StorageClass")).collect();
    equal("classes of versions", classes, vec![CLASS, "STANDARD"])
}

async fn what_is_kept_in_a_class_reads_the_same(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in SIZES {
        let body = Pattern::new(length, length).bytes();
        let stored = cx.ok(put(&bucket, "k").body(body.clone())).await?;
        cx.put(&bucket, "same", body.clone()).await?;
        equal("tag", stored.etag(), cx.ok(Request::object("HEAD", &bucket, "same")).await?.etag())?;
        let get = ok(&cx.gateway(1), Request::object("GET", &bucket, "k")).await?;
        equal("whole body", get.body == body, true)?;
        for (first, last) in
            [(0, 0), (length / 2, length / 2 + 40), (length - 40, length - 1), (7, length - 7)]
        {
            let range = Request::object("GET", &bucket, "k").header("range", format!("bytes={first}-{last}"));
            let part = cx.ok(range).await?;
            let expected = &body[first as usize..=last as usize];
            equal(&format!("bytes {first}-{last} of {length}"), part.body == expected, true)?;
        }
    }
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await
}

async fn a_copy_onto_itself_changes_the_class(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in SIZES {
        let body = Pattern::new(length, length).bytes();
        let source = Request::object("PUT", &bucket, "k").header("x-amz-meta-a", "1");
        let stored = cx.ok(source.body(body.clone())).await?;
        for (said, shown) in [(CLASS, Some(CLASS)), ("STANDARD", None)] {
            let copy =
                Request::object("PUT", &bucket, "k").header("x-amz-copy-source", format!("{bucket}/k"));
            cx.ok(copy.header(HEADER, said)).await?;
            let get = ok(&cx.gateway(1), Request::object("GET", &bucket, "k")).await?;
            equal("class", get.header(HEADER), shown)?;
            equal("body", get.body == body, true)?;
            equal("tag", get.etag(), stored.etag())?;
            has_header(&get, "x-amz-meta-a", "1")?;
        }
        // A copy that says no class is STANDARD, whatever its source was.
        cx.ok(put(&bucket, "source").body(body.clone())).await?;
        let copy = Request::object("PUT", &bucket, "copy");
        cx.ok(copy.header("x-amz-copy-source", format!("{bucket}/source"))).await?;
        let get = cx.get(&bucket, "copy").await?;
        equal("class of a copy", get.header(HEADER), None)?;
        equal("body of a copy", get.body == body, true)?;
    }
    Ok(())
}

async fn parts_are_kept_in_the_class_of_their_upload(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let create = Request::object("POST", &bucket, "k").flag("uploads").header(HEADER, CLASS);
    let created = xml_of(&cx.ok(create).await?, "InitiateMultipartUploadResult")?;
    let upload = created.text_of("UploadId");
    let uploads =
        xml_of(&cx.ok(Request::bucket("GET", &bucket).flag("uploads")).await?, "ListMultipartUploadsResult")?;
    let shown = uploads.all("Upload").map(|upload| upload.text_of("StorageClass")).next();
    equal("class of the upload", shown, Some(CLASS))?;
    let bodies = [Pattern::new(1, 5 << 20).bytes(), Pattern::new(2, 300_000).bytes()];
    let mut parts = String::new();
    for (number, body) in (1..).zip(&bodies) {
        let part = Request::object("PUT", &bucket, "k").query("partNumber", number).query("uploadId", upload);
        let stored = cx.ok(part.body(body.clone())).await?;
        parts += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", stored.etag());
    }
    let listed = cx.ok(Request::object("GET", &bucket, "k").query("uploadId", upload)).await?;
    equal("class of the parts", xml_of(&listed, "ListPartsResult")?.text_of("StorageClass"), CLASS)?;
    let complete = Request::object("POST", &bucket, "k").query("uploadId", upload);
    let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    cx.ok(complete.body(document.replace('"', "&quot;"))).await?;
    let get = ok(&cx.gateway(1), Request::object("GET", &bucket, "k")).await?;
    has_header(&get, HEADER, CLASS)?;
    equal("body", get.body == bodies.concat(), true)
}

async fn a_class_that_is_not_here_is_refused(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for class in ["GLACIER", "INTELLIGENT_TIERING", "REDUCED_REDUNDANCY", "standard_ia", "X"] {
        let request = Request::object("PUT", &bucket, "k").header(HEADER, class).body("x");
        cx.refused(request, 400, "InvalidStorageClass").await?;
        let create = Request::object("POST", &bucket, "k").flag("uploads").header(HEADER, class);
        cx.refused(create, 400, "InvalidStorageClass").await?;
    }
    cx.refused(Request::object("HEAD", &bucket, "k"), 404, "").await
}
