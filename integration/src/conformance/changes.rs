//! The change feed of a bucket: every change in order, by cursors that last.

use serde_json::Value;

use super::acls::with_lists;
use super::multipart::complete;
use super::{Cx, Outcome, behaviours, ensure, equal, ok, refused, xml_of};
use crate::client::{Client, Request, Response, encode_uri};

behaviours![
    the_change_feed_tells_every_change_in_order,
    the_change_feed_tells_of_lists_of_access_control,
    the_change_feed_goes_on_behind_a_cursor,
    the_change_feed_names_versions,
    a_reader_of_the_change_feed_waits,
    the_change_feed_comes_as_server_sent_events,
    the_change_feed_needs_permission,
    cursors_of_the_change_feed_are_checked,
];

fn changes(bucket: &str, since: &str) -> Request {
    Request::bucket("GET", bucket).flag("changes").query("since", since)
}

/// The lines of an answer.
fn lines(response: &Response) -> Result<Vec<Value>, String> {
    let text = String::from_utf8_lossy(&response.body);
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
}

/// Some fields of each line, joined.
fn told(lines: &[Value], fields: &[&str]) -> Vec<String> {
    let field = |line: &Value, name: &str| match &line[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_string(),
        other => other.to_string(),
    };
    let row = |line| fields.iter().map(|name| field(line, name)).collect::<Vec<_>>().join(" ");
    lines.iter().map(row).collect()
}

async fn the_change_feed_tells_every_change_in_order(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let put = cx.put(&bucket, "a b/ü", "first").await?;
    let source = format!("{bucket}/{}", encode_uri("a b/ü".as_bytes(), true));
    cx.ok(Request::object("PUT", &bucket, "copy").header("x-amz-copy-source", &source)).await?;
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    cx.ok(Request::object("PUT", &bucket, "copy").flag("tagging").body(tags).content_md5()).await?;
    cx.ok(Request::object("DELETE", &bucket, "copy").flag("tagging")).await?;
    let begun = cx.ok(Request::object("POST", &bucket, "parts").flag("uploads")).await?;
    let id = xml_of(&begun, "InitiateMultipartUploadResult")?.text_of("UploadId").to_string();
    let part = Request::object("PUT", &bucket, "parts").query("partNumber", 1).query("uploadId", &id);
    let tag = cx.ok(part.body("part")).await?.etag().to_string();
    cx.ok(complete(&bucket, "parts", &id, &[(1, tag)])).await?;
    cx.ok(Request::object("PUT", &bucket, "copy").header("x-amz-write-offset-bytes", 5).body("more")).await?;
    let rename = Request::object("PUT", &bucket, "new").flag("renameObject");
    cx.ok(rename.header("x-amz-rename-source", format!("{bucket}/copy"))).await?;
    cx.ok(Request::object("DELETE", &bucket, "new")).await?;
    cx.ok(Request::object("DELETE", &bucket, "was never there")).await?;

    let feed = ok(&cx.gateway(1), changes(&bucket, "0")).await?;
    equal("type", feed.header("content-type").unwrap_or_default(), "application/x-ndjson")?;
    let found = lines(&feed)?;
    let expected = [
        "ObjectCreated:Put Put a b/ü 5",
        "ObjectCreated:Copy Copy copy 5",
        "ObjectTagging:Put PutTags copy 5",
        "ObjectTagging:Delete DeleteTags copy 5",
        "ObjectCreated:CompleteMultipartUpload CompleteMultipartUpload parts 4",
        "ObjectCreated:Put Append copy 9",
        "ObjectCreated:Copy Rename new 9",
        "ObjectRemoved:Delete Delete copy -",
        "ObjectRemoved:Delete Delete new -",
    ];
    equal(
        "events",
        told(&found, &["eventName", "kind", "key", "size"]),
        expected.map(String::from).to_vec(),
    )?;
    let first = found.first().ok_or("no event")?;
    let etag = put.etag().trim_matches('"');
    equal("tag", first["eTag"].as_str().unwrap_or_default(), etag)?;
    equal("version", first.get("versionId"), None)?;
    let request = put.header("x-amz-request-id").unwrap_or_default();
    equal("request", first["requestId"].as_str().unwrap_or_default(), request)?;
    ensure(first["requester"].as_str().is_some_and(|name| !name.is_empty()), || first.to_string())
}

async fn the_change_feed_tells_of_lists_of_access_control(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    cx.put(&bucket, "k", "x").await?;
    // What changes nothing is not told.
    for canned in ["private", "authenticated-read", "authenticated-read", "private"] {
        let set = Request::object("PUT", &bucket, "k").flag("acl").header("x-amz-acl", canned);
        cx.ok(set).await?;
    }
    let found = lines(&cx.ok(changes(&bucket, "0")).await?)?;
    let expected = ["ObjectCreated:Put Put k", "ObjectAcl:Put PutAcl k", "ObjectAcl:Put PutAcl k"];
    equal("events", told(&found, &["eventName", "kind", "key"]), expected.map(String::from).to_vec())?;
    let signed = |line: &Value| line["requester"] == found[0]["requester"] && line["requester"] != "";
    ensure(found.iter().all(signed), || format!("{found:?}"))
}

async fn the_change_feed_goes_on_behind_a_cursor(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let keys: Vec<String> = (0..5).map(|index| format!("key-{index}")).collect();
    for key in &keys {
        cx.put(&bucket, key, "x").await?;
    }
    let (mut cursor, mut seen) = ("0".to_string(), Vec::new());
    for page in 0..3 {
        let answer = ok(&cx.gateway(page), changes(&bucket, &cursor).query("max-keys", 2)).await?;
        let more = if page < 2 { "true" } else { "false" };
        equal("more", answer.header("x-fluffy-truncated").unwrap_or_default(), more)?;
        let found = lines(&answer)?;
        seen.extend(told(&found, &["key"]));
        cursor = answer.header("x-fluffy-cursor").unwrap_or_default().to_string();
        let last = found.last().and_then(|line| line["cursor"].as_str()).unwrap_or_default();
        equal("cursor of the last line", last, cursor.as_str())?;
    }
    equal("keys", seen, keys)?;
    let nothing = cx.ok(changes(&bucket, &cursor)).await?;
    equal("nothing new", nothing.body.len(), 0)?;
    equal("same cursor", nothing.header("x-fluffy-cursor").unwrap_or_default(), cursor.as_str())?;
    let latest = cx.ok(changes(&bucket, "latest")).await?;
    equal("latest", (latest.body.len(), latest.header("x-fluffy-cursor")), (0, Some(cursor.as_str())))?;
    cx.put(&bucket, "later", "x").await?;
    equal(
        "later",
        told(&lines(&cx.ok(changes(&bucket, &cursor)).await?)?, &["key"]),
        vec!["later".to_string()],
    )?;
    let all = cx.ok(Request::bucket("GET", &bucket).flag("changes")).await?;
    equal("from the oldest", lines(&all)?.len(), 6)
}

async fn the_change_feed_names_versions(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "before").await?;
    let state = |status: &str| {
        let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        Request::bucket("PUT", &bucket).flag("versioning").body(body).content_md5()
    };
    let version = |response: Response| response.header("x-amz-version-id").unwrap_or("-").to_string();
    cx.ok(state("Enabled")).await?;
    let put = version(cx.put(&bucket, "k", "version").await?);
    let marker = version(cx.ok(Request::object("DELETE", &bucket, "k")).await?);
    let gone = Request::object("DELETE", &bucket, "k").query("versionId", &put);
    cx.ok(gone).await?;
    cx.ok(state("Suspended")).await?;
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.ok(Request::object("DELETE", &bucket, "k").query("versionId", "null")).await?;
    let found = told(&lines(&cx.ok(changes(&bucket, "0")).await?)?, &["kind", "versionId"]);
    let expected = vec![
        "Put null".to_string(),
        format!("Put {put}"),
        format!("DeleteMarker {marker}"),
        format!("Delete {put}"),
        "DeleteMarker null".to_string(),
        "Delete null".to_string(),
    ];
    equal("versions", found, expected)
}

async fn a_reader_of_the_change_feed_waits(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "old", "x").await?;
    let (reader, writer) = (cx.gateway(1), cx.client());
    let wait = ok(&reader, changes(&bucket, "latest").query("wait", 60));
    // A reader that began earlier than the write hears of it; one that began later looks behind it.
    let write = async {
        for index in 0.. {
            let put = Request::object("PUT", &bucket, &format!("new-{index}")).body("x");
            ok(&writer, put).await?;
            if index == 20 {
                break;
            }
        }
        std::future::pending::<Outcome>().await
    };
    tokio::select! {
        biased;
        answer = wait => ensure(!lines(&answer?)?.is_empty(), || "nothing came".to_string()),
        failed = write => failed,
    }
}

async fn the_change_feed_comes_as_server_sent_events(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for key in ["a", "b"] {
        cx.put(&bucket, key, "x").await?;
    }
    let stream = |since: &str| changes(&bucket, since).query("wait", 1).header("accept", "text/event-stream");
    let answer = cx.ok(stream("0")).await?;
    equal("type", answer.header("content-type").unwrap_or_default(), "text/event-stream")?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let parts =
        |name: &str| text.lines().filter_map(|line| line.strip_prefix(name).map(str::to_string)).collect();
    let (ids, data): (Vec<String>, Vec<String>) = (parts("id: "), parts("data: "));
    equal("events", (ids.len(), data.len()), (2, 2))?;
    let first: Value = serde_json::from_str(&data[0]).map_err(|error| error.to_string())?;
    equal(
        "key and cursor",
        (first["key"].as_str(), first["cursor"].as_str()),
        (Some("a"), Some(ids[0].as_str())),
    )?;
    // A client that comes back says what it saw last.
    let rest = cx.ok(stream("0").header("last-event-id", &ids[0])).await?;
    let text = String::from_utf8_lossy(&rest.body).into_owned();
    ensure(text.starts_with(&format!("id: {}", ids[1])), || text)
}

async fn the_change_feed_needs_permission(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    refused(&cx.with(None), changes(&bucket, "0"), 403, "AccessDenied").await?;
    let Some(other) = cx.other() else { return Ok(()) };
    let allow = async |actions: &str| {
        let policy = format!(
            "{{\"Statement\":{{\"Effect\":\"Allow\",\"Principal\":{{\"AWS\":\"arn:aws:iam:::user/other\"}},\
             \"Action\":\"{actions}\",\"Resource\":\"arn:aws:s3:::{bucket}\"}}}}"
        );
        cx.ok(Request::bucket("PUT", &bucket).flag("policy").body(policy)).await.map(drop)
    };
    allow("s3:ListBucketVersions").await?;
    refused(&other, changes(&bucket, "0"), 403, "AccessDenied").await?;
    allow("s3:ListBucketChanges").await?;
    see(&other, &bucket).await
}

async fn see(client: &Client<'_>, bucket: &str) -> Outcome {
    equal("events", lines(&ok(client, changes(bucket, "0")).await?)?.len(), 1)
}

async fn cursors_of_the_change_feed_are_checked(cx: &Cx<'_>) -> Outcome {
    let (bucket, beside) = (cx.bucket().await?, cx.bucket().await?);
    let cursor = cx.ok(changes(&beside, "latest")).await?.header("x-fluffy-cursor").unwrap_or("").to_string();
    for bad in [cursor.as_str(), "1", "-1", "LATEST", &cursor[1..], &"A".repeat(2000)] {
        cx.refused(changes(&bucket, bad), 400, "InvalidArgument").await?;
    }
    for (name, value) in [("wait", "61"), ("wait", "x"), ("max-keys", "-1"), ("max-keys", "x")] {
        cx.refused(changes(&bucket, "0").query(name, value), 400, "InvalidArgument").await?;
    }
    cx.refused(Request::bucket("DELETE", &bucket).flag("changes"), 405, "MethodNotAllowed").await?;
    cx.refused(Request::object("GET", &bucket, "k").flag("changes"), 405, "MethodNotAllowed").await?;
    cx.refused(changes("no-such-bucket-here", "0"), 404, "NoSuchBucket").await
}
