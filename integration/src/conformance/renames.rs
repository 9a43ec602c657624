//! RenameObject: one key for another, at once and without copying.

use futures::future::join_all;

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, ok, refused, xml_of};
use crate::client::{Pattern, PatternCheck, Request, encode_uri};

behaviours![
    an_object_is_renamed_with_all_that_belongs_to_it,
    a_rename_replaces_what_is_at_the_new_key,
    renames_are_conditional,
    an_object_is_renamed_to_itself,
    of_32_renames_of_one_object_one_wins,
    of_32_renames_to_one_key_one_wins,
    a_rename_is_repeated_by_its_token,
    a_rename_of_nothing_is_refused,
    a_renamed_version_leaves_a_marker,
    a_renamed_object_outlives_its_old_key,
];

fn rename(bucket: &str, from: &str, to: &str) -> Request {
    let source = format!("{bucket}/{}", encode_uri(from.as_bytes(), true));
    Request::object("PUT", bucket, to).flag("renameObject").header("x-amz-rename-source", source)
}

async fn keys(cx: &Cx<'_>, bucket: &str) -> Result<Vec<String>, String> {
    let listed = cx.ok(Request::bucket("GET", bucket).query("list-type", "2")).await?;
    let root = xml_of(&listed, "ListBucketResult")?;
    Ok(root.all("Contents").map(|entry| entry.text_of("Key").to_string()).collect())
}

async fn an_object_is_renamed_with_all_that_belongs_to_it(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let (from, to) = ("a b/ü+%", "dir/new name");
    let put = Request::object("PUT", &bucket, from)
        .header("content-type", "text/plain")
        .header("x-amz-meta-a", "1")
        .header("x-amz-tagging", "k=v");
    cx.ok(put.body("renamed")).await?;
    let before = cx.get(&bucket, from).await?;
    cx.ok(rename(&bucket, from, to)).await?;
    let show = |key| Request::object("GET", &bucket, key).header("x-amz-checksum-mode", "ENABLED");
    let found = ok(&cx.gateway(1), show(to)).await?;
    equal("body", found.body.as_slice(), b"renamed")?;
    for name in ["etag", "last-modified", "content-type", "x-amz-meta-a", "x-amz-tagging-count"] {
        has_header(&found, name, before.header(name).unwrap_or("missing"))?;
    }
    ensure(found.header("x-amz-checksum-crc64nvme").is_some(), || found.describe())?;
    cx.refused(show(from), 404, "NoSuchKey").await?;
    equal("keys", keys(cx, &bucket).await?, vec![to.to_string()])?;
    // By its key alone, as the clients of directory buckets name it.
    let back = Request::object("PUT", &bucket, "back").flag("renameObject");
    cx.ok(back.header("x-amz-rename-source", encode_uri(to.as_bytes(), false))).await?;
    cx.get(&bucket, "back").await.map(drop)
}

async fn a_rename_replaces_what_is_at_the_new_key(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "to", vec![1; 100_000]).await?;
    cx.put(&bucket, "from", "new").await?;
    cx.ok(rename(&bucket, "from", "to")).await?;
    equal("body", cx.get(&bucket, "to").await?.body.as_slice(), b"new")?;
    equal("keys", keys(cx, &bucket).await?, vec!["to".to_string()])
}

async fn renames_are_conditional(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let other = "\"00000000000000000000000000000000\"";
    let (past, future) = ("Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    let source = cx.put(&bucket, "from", "x").await?.etag().to_string();
    let there = cx.put(&bucket, "to", "y").await?.etag().to_string();
    for (name, value) in [
        ("if-none-match", "*"),
        ("if-match", other),
        ("if-modified-since", future),
        ("if-unmodified-since", past),
        ("x-amz-rename-source-if-match", other),
        ("x-amz-rename-source-if-none-match", source.as_str()),
        ("x-amz-rename-source-if-modified-since", future),
        ("x-amz-rename-source-if-unmodified-since", past),
    ] {
        let conditional = rename(&bucket, "from", "to").header(name, value);
        cx.refused(conditional, 412, "PreconditionFailed").await.map_err(|why| format!("{name}: {why}"))?;
    }
    cx.refused(rename(&bucket, "from", "missing").header("if-match", "*"), 412, "PreconditionFailed").await?;
    equal("body", cx.get(&bucket, "to").await?.body.as_slice(), b"y")?;
    let holds = rename(&bucket, "from", "to")
        .header("if-match", &there)
        .header("if-unmodified-since", past)
        .header("x-amz-rename-source-if-match", &source);
    cx.ok(holds).await?;
    equal("body", cx.get(&bucket, "to").await?.body.as_slice(), b"x")?;
    cx.ok(rename(&bucket, "to", "free").header("if-none-match", "*")).await.map(drop)
}

async fn an_object_is_renamed_to_itself(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "same").await?;
    cx.ok(rename(&bucket, "k", "k")).await?;
    equal("body", cx.get(&bucket, "k").await?.body.as_slice(), b"same")?;
    cx.refused(rename(&bucket, "k", "k").header("if-none-match", "*"), 412, "PreconditionFailed").await
}

async fn of_32_renames_of_one_object_one_wins(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in [10, 100_000] {
        cx.put(&bucket, "from", vec![b'x'; length]).await?;
        let answers = join_all((0..32).map(|index| {
            let (client, to) = (cx.gateway(index), format!("to-{index:02}"));
            let rename = rename(&bucket, "from", &to);
            async move { (to, client.send(rename).await) }
        }));
        let (mut winners, mut lost) = (Vec::new(), 0);
        for (to, answer) in answers.await {
            let answer = answer.map_err(|error| error.to_string())?;
            match answer.status {
                200 => winners.push(to),
                404 => lost += 1,
                _ => return Err(answer.describe()),
            }
        }
        ensure(winners.len() == 1 && lost == 31, || format!("{} winners, {lost} losers", winners.len()))?;
        for gateway in 0..2 {
            let get = ok(&cx.gateway(gateway), Request::object("GET", &bucket, &winners[0])).await?;
            equal("bytes", get.body.len(), length)?;
        }
        equal("keys", keys(cx, &bucket).await?, winners.clone())?;
        cx.ok(Request::object("DELETE", &bucket, &winners[0])).await?;
    }
    Ok(())
}

async fn of_32_renames_to_one_key_one_wins(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for index in 0..32 {
        cx.put(&bucket, &format!("from-{index:02}"), format!("{index:02}")).await?;
    }
    let answers = join_all((0..32).map(|index| {
        let rename = rename(&bucket, &format!("from-{index:02}"), "to").header("if-none-match", "*");
        let client = cx.gateway(index);
        async move { (format!("{index:02}"), client.send(rename).await) }
    }));
    let mut winners = Vec::new();
    for (body, answer) in answers.await {
        match answer.map_err(|error| error.to_string())?.status {
            200 => winners.push(body),
            412 => {}
            status => return Err(format!("status {status}")),
        }
    }
    equal("winners", winners.len(), 1)?;
    equal("body", cx.get(&bucket, "to").await?.body, winners[0].clone().into_bytes())?;
    equal("objects", keys(cx, &bucket).await?.len(), 32)
}

async fn a_rename_is_repeated_by_its_token(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "from", "first").await?;
    let request = |to: &str| rename(&bucket, "from", to).header("x-amz-client-token", "a-token-of-mine");
    cx.ok(request("to")).await?;
    ok(&cx.gateway(1), request("to")).await?;
    cx.put(&bucket, "from", "second").await?;
    cx.ok(request("to")).await?;
    equal("body", cx.get(&bucket, "to").await?.body.as_slice(), b"first")?;
    cx.refused(request("elsewhere"), 400, "IdempotencyParameterMismatch").await?;
    let long = rename(&bucket, "from", "to").header("x-amz-client-token", "t".repeat(65));
    cx.refused(long, 400, "InvalidArgument").await
}

async fn a_rename_of_nothing_is_refused(cx: &Cx<'_>) -> Outcome {
    let (bucket, foreign) = (cx.bucket().await?, cx.bucket().await?);
    cx.refused(rename(&bucket, "missing", "to"), 404, "NoSuchKey").await?;
    let from = |source: &str| {
        Request::object("PUT", &bucket, "to").flag("renameObject").header("x-amz-rename-source", source)
    };
    cx.put(&foreign, "k", "x").await?;
    cx.put(&bucket, "k", "x").await?;
    cx.refused(from(&format!("/{foreign}/k")), 400, "InvalidArgument").await?;
    cx.refused(from("%zz"), 400, "InvalidArgument").await?;
    cx.refused(from("k?versionId=null"), 400, "InvalidArgument").await?;
    let nothing = Request::object("PUT", &bucket, "to").flag("renameObject");
    cx.refused(nothing, 400, "InvalidArgument").await?;
    let put = Request::object("PUT", &bucket, "to").header("x-amz-rename-source", "k");
    cx.refused(put, 501, "NotImplemented").await?;
    cx.refused(Request::object("GET", &bucket, "k").flag("renameObject"), 405, "MethodNotAllowed").await?;
    if let Some(other) = cx.other() {
        refused(&other, rename(&bucket, "k", "to"), 403, "AccessDenied").await?;
    }
    equal("keys", keys(cx, &bucket).await?, vec!["k".to_string()])
}

async fn a_renamed_version_leaves_a_marker(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    cx.ok(Request::bucket("PUT", &bucket).flag("versioning").body(body).content_md5()).await?;
    let old =
        cx.put(&bucket, "from", "text").await?.header("x-amz-version-id").unwrap_or_default().to_string();
    cx.put(&bucket, "to", "before").await?;
    let renamed = cx.ok(rename(&bucket, "from", "to")).await?;
    let found = ok(&cx.gateway(1), Request::object("GET", &bucket, "to")).await?;
    equal("body", found.body.as_slice(), b"text")?;
    has_header(&found, "x-amz-version-id", renamed.header("x-amz-version-id").unwrap_or("none"))?;
    let gone = cx.client().send(Request::object("GET", &bucket, "from")).await.map_err(|e| e.to_string())?;
    equal("status", gone.status, 404)?;
    has_header(&gone, "x-amz-delete-marker", "true")?;
    cx.refused(rename(&bucket, "from", "again"), 404, "NoSuchKey").await?;
    let version = Request::object("GET", &bucket, "from").query("versionId", old);
    equal("old version", cx.ok(version).await?.body.as_slice(), b"text")?;
    let listed = cx.ok(Request::bucket("GET", &bucket).flag("versions")).await?;
    let root = xml_of(&listed, "ListVersionsResult")?;
    equal("versions", (root.all("Version").count(), root.all("DeleteMarker").count()), (3, 1))
}

async fn a_renamed_object_outlives_its_old_key(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for length in [100, 3_000_000] {
        let pattern = Pattern::new(length, length);
        cx.put(&bucket, "a", pattern.bytes()).await?;
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "k")] {
            cx.ok(rename(&bucket, from, to)).await?;
        }
        cx.put(&bucket, "a", "another").await?;
        cx.ok(Request::object("DELETE", &bucket, "a")).await?;
        let mut check = PatternCheck::new(pattern);
        let get = Request::object("GET", &bucket, "k");
        cx.client().send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
        check.finish()?;
    }
    Ok(())
}
