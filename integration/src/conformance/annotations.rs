//! Annotations of objects.

use super::access::{OTHER, denied, set, statement};
use super::{Cx, Outcome, behaviours, equal, has_header, ok, xml_of};
use crate::client::{Request, Response};

behaviours![
    annotations_are_read_as_they_were_written,
    annotations_are_listed_in_pages,
    annotations_follow_their_version,
    annotations_are_checked,
    annotations_come_under_conditions,
    annotations_have_permissions_of_their_own,
    a_copy_takes_annotations_if_it_may,
    a_lock_keeps_annotations,
    writers_of_first_annotations_come_together,
];

fn annotation(method: &str, bucket: &str, key: &str, name: &str) -> Request {
    Request::object(method, bucket, key).flag("annotation").query("annotationName", name)
}

async fn put(cx: &Cx<'_>, bucket: &str, key: &str, name: &str, text: &str) -> Result<Response, String> {
    cx.ok(annotation("PUT", bucket, key, name).body(text)).await
}

async fn names(cx: &Cx<'_>, list: Request) -> Result<Vec<String>, String> {
    let root = xml_of(&cx.ok(list.flag("annotation")).await?, "ListObjectAnnotationsResult")?;
    let entries = root.child("Annotations").cloned().unwrap_or_default();
    Ok(entries.all("AnnotationEntry").map(|entry| entry.text_of("AnnotationName").to_string()).collect())
}

async fn annotations_are_read_as_they_were_written(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "k", "x").await?.etag().to_string();
    for (name, text) in
        [("note", "süß".to_string()), ("süß-1.2_3", "y".repeat(1 << 20)), ("note", "new".to_string())]
    {
        let stored = put(cx, &bucket, "k", name, &text).await?;
        equal("name", xml_of(&stored, "PutObjectAnnotationResult")?.text_of("AnnotationName"), name)?;
        for gateway in 0..2 {
            let found = ok(&cx.gateway(gateway), annotation("GET", &bucket, "k", name)).await?;
            equal("text", found.body.as_slice(), text.as_bytes())?;
            equal("tag", found.etag(), stored.etag())?;
            has_header(&found, "x-amz-server-side-encryption", "AES256")?;
        }
    }
    equal("tag of the object", cx.get(&bucket, "k").await?.etag(), etag.as_str())?;
    cx.ok(annotation("DELETE", &bucket, "k", "note")).await?;
    cx.ok(annotation("DELETE", &bucket, "k", "note")).await?;
    cx.refused(annotation("GET", &bucket, "k", "note"), 404, "NoSuchAnnotation").await
}

async fn annotations_are_listed_in_pages(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    for name in ["b.1", "a", "b.2", "c"] {
        put(cx, &bucket, "k", name, name).await?;
    }
    let list = || Request::object("GET", &bucket, "k");
    equal("all", names(cx, list()).await?, ["a", "b.1", "b.2", "c"].map(str::to_string).to_vec())?;
    let some = names(cx, list().query("annotation-prefix", "b.")).await?;
    equal("some", some, ["b.1", "b.2"].map(str::to_string).to_vec())?;
    let page = cx.ok(list().flag("annotation").query("max-annotation-results", "3")).await?;
    let root = xml_of(&page, "ListObjectAnnotationsResult")?;
    equal("count", root.text_of("AnnotationCount"), "3")?;
    let rest = list().query("continuation-token", root.text_of("NextContinuationToken"));
    equal("rest", names(cx, rest).await?, vec!["c".to_string()])
}

async fn annotations_follow_their_version(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    put(cx, &bucket, "k", "note", "text").await?;
    let copy =
        |key: &str| Request::object("PUT", &bucket, key).header("x-amz-copy-source", format!("{bucket}/k"));
    cx.ok(copy("copy")).await?;
    cx.ok(copy("bare").header("x-amz-object-annotation-directive", "EXCLUDE")).await?;
    let renamed = Request::object("PUT", &bucket, "renamed").flag("renameObject");
    cx.ok(renamed.header("x-amz-rename-source", "k")).await?;
    let append = Request::object("PUT", &bucket, "renamed").header("x-amz-write-offset-bytes", "1");
    cx.ok(append.body("y")).await?;
    put(cx, &bucket, "renamed", "more", "text").await?;
    put(cx, &bucket, "copy", "more", "text").await?;
    for (key, count) in [("copy", 2), ("bare", 0), ("renamed", 2)] {
        equal(key, names(cx, Request::object("GET", &bucket, key)).await?.len(), count)?;
    }
    cx.ok(Request::object("DELETE", &bucket, "copy")).await?;
    let found = cx.ok(annotation("GET", &bucket, "renamed", "note")).await?;
    equal("text", found.body.as_slice(), b"text")?;
    cx.put(&bucket, "renamed", "z").await?;
    equal("of another version", names(cx, Request::object("GET", &bucket, "renamed")).await?.len(), 0)?;
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    cx.ok(Request::bucket("PUT", &bucket).flag("versioning").body(body).content_md5()).await?;
    let id = cx.put(&bucket, "v", "1").await?.header("x-amz-version-id").unwrap_or_default().to_string();
    cx.put(&bucket, "v", "2").await?;
    let old = annotation("PUT", &bucket, "v", "note").query("versionId", &id);
    has_header(&cx.ok(old.body("old")).await?, "x-amz-object-version-id", &id)?;
    cx.refused(annotation("GET", &bucket, "v", "note"), 404, "NoSuchAnnotation").await?;
    let old = annotation("GET", &bucket, "v", "note").query("versionId", &id);
    equal("text", cx.ok(old).await?.body.as_slice(), b"old")
}

async fn annotations_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(annotation("PUT", &bucket, "k", "note").body("x"), 404, "NoSuchKey").await?;
    cx.put(&bucket, "k", "x").await?;
    for (name, body, status, code) in [
        ("aws:x", vec![b'x'], 400, "InvalidAnnotationName"),
        ("S3-x", vec![b'x'], 400, "InvalidAnnotationName"),
        ("", vec![b'x'], 400, "InvalidAnnotationName"),
        ("a/b", vec![b'x'], 400, "InvalidAnnotationName"),
        (" ", vec![b'x'], 400, "InvalidAnnotationName"),
        ("note", vec![b'x'; (1 << 20) + 1], 400, "EntityTooLarge"),
        ("note", vec![], 400, "InvalidRequest"),
        ("note", vec![0xff], 415, "UnsupportedMediaType"),
    ] {
        let put = annotation("PUT", &bucket, "k", name).body(body);
        cx.refused(put, status, code).await.map_err(|why| format!("{name}: {why}"))?;
    }
    let long = annotation("PUT", &bucket, "k", &"n".repeat(513)).body("x");
    cx.refused(long, 400, "AnnotationNameTooLong").await?;
    let list = || Request::object("GET", &bucket, "k").flag("annotation");
    for (name, value) in
        [("max-annotation-results", "0"), ("max-annotation-results", "1001"), ("continuation-token", "x")]
    {
        cx.refused(list().query(name, value), 400, "InvalidArgument").await?;
    }
    let put = || annotation("PUT", &bucket, "k", "note").body("x");
    for (header, value) in [("x-amz-server-side-encryption", "AES256"), ("x-amz-checksum-crc32", "AAAAAA==")]
    {
        let outcome =
            cx.client().send(put().header(header, value)).await.map_err(|error| error.to_string())?;
        equal(header, outcome.status, 400)?;
    }
    equal("none was stored", names(cx, Request::object("GET", &bucket, "k")).await?.len(), 0)?;
    cx.refused(Request::object("PUT", &bucket, "k").flag("annotation").body("x"), 405, "MethodNotAllowed")
        .await
}

async fn annotations_come_under_conditions(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let etag = cx.put(&bucket, "k", "x").await?.etag().to_string();
    let other = "\"00000000000000000000000000000000\"";
    let on = |request: Request, tag: &str| request.header("x-amz-object-if-match", tag);
    let put = || annotation("PUT", &bucket, "k", "note").body("x");
    let delete = || annotation("DELETE", &bucket, "k", "note");
    cx.refused(on(put(), other), 412, "PreconditionFailed").await?;
    cx.ok(on(put(), &etag)).await?;
    cx.refused(on(delete(), other), 412, "PreconditionFailed").await?;
    cx.ok(annotation("GET", &bucket, "k", "note")).await?;
    cx.ok(on(delete(), &etag)).await.map(drop)
}

async fn annotations_have_permissions_of_their_own(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    cx.put(&bucket, "k", "x").await?;
    put(cx, &bucket, "k", "note", "text").await?;
    let list = || Request::object("GET", &bucket, "k").flag("annotation");
    let requests = || {
        [
            ("Get", annotation("GET", &bucket, "k", "note")),
            ("Put", annotation("PUT", &bucket, "k", "note").body("theirs")),
            ("Delete", annotation("DELETE", &bucket, "k", "note")),
            ("List", list()),
        ]
    };
    let named = |verb: &str, of: &str| {
        let plural = if verb == "List" { "s" } else { "" };
        format!("s3:{verb}Object{of}Annotation{plural}")
    };
    let objects = statement("Allow", "\"*\"", &["s3:*Object", "s3:*ObjectTagging"], &bucket, "/*", "");
    set(cx, &bucket, std::slice::from_ref(&objects)).await?;
    for (_, request) in requests() {
        denied(&anybody, request).await?;
    }
    for (verb, request) in requests() {
        let version = request.clone().query("versionId", "null");
        for (of, allowed, refused) in [("", request.clone(), version.clone()), ("Version", version, request)]
        {
            let allow = statement("Allow", "\"*\"", &[named(verb, of).as_str()], &bucket, "/*", "");
            set(cx, &bucket, &[objects.clone(), allow]).await?;
            denied(&anybody, refused).await?;
            put(cx, &bucket, "k", "note", "text").await?;
            ok(&anybody, allowed).await?;
        }
    }
    Ok(())
}

async fn a_copy_takes_annotations_if_it_may(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    for key in ["bare", "annotated"] {
        cx.put(&bucket, key, "x").await?;
    }
    put(cx, &bucket, "annotated", "note", "text").await?;
    let copy = |from: &str| {
        Request::object("PUT", &bucket, "to").header("x-amz-copy-source", format!("{bucket}/{from}"))
    };
    let may = |actions: &[&str]| statement("Allow", OTHER, actions, &bucket, "/*", "");
    let objects = ["s3:GetObject", "s3:PutObject"];
    for more in [&[][..], &["s3:GetObjectAnnotation"], &["s3:PutObjectAnnotation"]] {
        set(cx, &bucket, &[may(&[&objects[..], more].concat())]).await?;
        ok(&other, copy("bare")).await?;
        denied(&other, copy("annotated")).await?;
        ok(&other, copy("annotated").header("x-amz-object-annotation-directive", "EXCLUDE")).await?;
        equal("excluded", names(cx, Request::object("GET", &bucket, "to")).await?.len(), 0)?;
    }
    let both = ["s3:GetObjectAnnotation", "s3:PutObjectAnnotation"];
    set(cx, &bucket, &[may(&[&objects[..], &both].concat())]).await?;
    ok(&other, copy("annotated")).await?;
    equal("taken", names(cx, Request::object("GET", &bucket, "to")).await?.len(), 1)?;
    let bad = copy("annotated").header("x-amz-object-annotation-directive", "REPLACE");
    cx.refused(bad, 400, "InvalidArgument").await
}

async fn a_lock_keeps_annotations(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket_name();
    cx.ok(Request::bucket("PUT", &bucket).header("x-amz-bucket-object-lock-enabled", "true")).await?;
    let locked = Request::object("PUT", &bucket, "k")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2099-01-01T00:00:00Z");
    cx.ok(locked.body("x").content_md5()).await?;
    for name in ["one", "two"] {
        put(cx, &bucket, "k", name, "text").await?;
    }
    let bypassing = |request: Request| request.header("x-amz-bypass-governance-retention", "true");
    for change in
        [annotation("PUT", &bucket, "k", "one").body("other"), annotation("DELETE", &bucket, "k", "one")]
    {
        cx.refused(change.clone(), 403, "AccessDenied").await?;
        let kept = cx.ok(annotation("GET", &bucket, "k", "two")).await?;
        equal("text", kept.body.as_slice(), b"text")?;
        cx.ok(bypassing(change)).await?;
    }
    equal("left", names(cx, Request::object("GET", &bucket, "k")).await?, vec!["two".to_string()])
}

/// Each draws a data key for all of the version; all but one write once more.
async fn writers_of_first_annotations_come_together(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    let expected: Vec<String> = (0..4).map(|number| format!("note-{number}")).collect();
    futures::future::try_join_all(expected.iter().map(|name| put(cx, &bucket, "k", name, name))).await?;
    equal("names", names(cx, Request::object("GET", &bucket, "k")).await?, expected.clone())?;
    for name in &expected {
        let found = cx.ok(annotation("GET", &bucket, "k", name)).await?;
        equal("text", found.body.as_slice(), name.as_bytes())?;
    }
    Ok(())
}
