//! Object lock: what is locked is not removed, by nobody who may not.

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, refused, xml_of};
use crate::client::{Request, Response};

behaviours![
    a_bucket_is_made_with_object_lock,
    a_retained_version_is_not_removed,
    a_legal_hold_is_set_and_ended,
    compliance_is_only_made_longer,
    new_versions_are_locked_by_default,
    lock_configurations_are_checked,
    only_buckets_with_object_lock_take_locks,
];

const FAR: &str = "2099-01-01T00:00:00.000Z";
const FARTHER: &str = "2099-06-01T00:00:00.000Z";

async fn locking(cx: &Cx<'_>) -> Result<String, String> {
    let name = cx.bucket_name();
    cx.ok(Request::bucket("PUT", &name).header("x-amz-bucket-object-lock-enabled", "true")).await?;
    Ok(name)
}

fn put(bucket: &str, mode: &str, until: &str) -> Request {
    Request::object("PUT", bucket, "k")
        .header("x-amz-object-lock-mode", mode)
        .header("x-amz-object-lock-retain-until-date", until)
        .body("locked")
        .content_md5()
}

fn version_of(response: &Response) -> Result<String, String> {
    let version = response.header("x-amz-version-id").map(str::to_string);
    version.ok_or_else(|| format!("no version id: {}", response.describe()))
}

fn version(method: &str, bucket: &str, version: &str) -> Request {
    Request::object(method, bucket, "k").query("versionId", version)
}

fn retention(bucket: &str, version_id: &str, mode: &str, until: &str) -> Request {
    let body =
        format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>");
    version("PUT", bucket, version_id).flag("retention").body(body).content_md5()
}

fn legal_hold(bucket: &str, version_id: &str, status: &str) -> Request {
    let body = format!("<LegalHold><Status>{status}</Status></LegalHold>");
    version("PUT", bucket, version_id).flag("legal-hold").body(body).content_md5()
}

fn bypassing(request: Request) -> Request {
    request.header("x-amz-bypass-governance-retention", "true")
}

async fn a_bucket_is_made_with_object_lock(cx: &Cx<'_>) -> Outcome {
    let bucket = locking(cx).await?;
    let found = cx.ok(Request::bucket("GET", &bucket).flag("object-lock")).await?;
    equal("lock", xml_of(&found, "ObjectLockConfiguration")?.text_of("ObjectLockEnabled"), "Enabled")?;
    let versioning = cx.ok(Request::bucket("GET", &bucket).flag("versioning")).await?;
    equal("versioning", xml_of(&versioning, "VersioningConfiguration")?.text_of("Status"), "Enabled")?;
    let suspend = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    let suspend = Request::bucket("PUT", &bucket).flag("versioning").body(suspend).content_md5();
    cx.refused(suspend, 409, "InvalidBucketState").await
}

async fn a_retained_version_is_not_removed(cx: &Cx<'_>) -> Outcome {
    let bucket = locking(cx).await?;
    for (mode, ends_by_bypass) in [("GOVERNANCE", true), ("COMPLIANCE", false)] {
        let id = version_of(&cx.ok(put(&bucket, mode, FAR)).await?)?;
        let head = cx.ok(version("HEAD", &bucket, &id)).await?;
        has_header(&head, "x-amz-object-lock-mode", mode)?;
        has_header(&head, "x-amz-object-lock-retain-until-date", FAR)?;
        let found = cx.ok(version("GET", &bucket, &id).flag("retention")).await?;
        let found = xml_of(&found, "Retention")?;
        equal("until", found.text_of("RetainUntilDate"), FAR)?;
        for gateway in 0..2 {
            let delete = version("DELETE", &bucket, &id);
            refused(&cx.gateway(gateway), delete, 403, "AccessDenied").await?;
        }
        let batch = format!("<Delete><Object><Key>k</Key><VersionId>{id}</VersionId></Object></Delete>");
        let batch = Request::bucket("POST", &bucket).flag("delete").body(batch).content_md5();
        let errors = xml_of(&cx.ok(batch).await?, "DeleteResult")?;
        equal("code", errors.child("Error").map(|error| error.text_of("Code")), Some("AccessDenied"))?;
        // Without a version it is hidden only, and still there.
        cx.ok(Request::object("DELETE", &bucket, "k")).await?;
        equal("body", cx.ok(version("GET", &bucket, &id)).await?.body, b"locked".to_vec())?;
        let delete = bypassing(version("DELETE", &bucket, &id));
        if ends_by_bypass {
            cx.ok(delete).await?;
            cx.refused(version("GET", &bucket, &id), 404, "NoSuchVersion").await?;
        } else {
            cx.refused(delete, 403, "AccessDenied").await?;
        }
    }
    cx.refused(Request::bucket("DELETE", &bucket), 409, "BucketNotEmpty").await
}

async fn a_legal_hold_is_set_and_ended(cx: &Cx<'_>) -> Outcome {
    let bucket = locking(cx).await?;
    let held = Request::object("PUT", &bucket, "k").header("x-amz-object-lock-legal-hold", "ON");
    let id = version_of(&cx.ok(held.body("x").content_md5()).await?)?;
    has_header(&cx.ok(version("HEAD", &bucket, &id)).await?, "x-amz-object-lock-legal-hold", "ON")?;
    let status = cx.ok(version("GET", &bucket, &id).flag("legal-hold")).await?;
    equal("status", xml_of(&status, "LegalHold")?.text_of("Status"), "ON")?;
    cx.refused(bypassing(version("DELETE", &bucket, &id)), 403, "AccessDenied").await?;
    cx.ok(legal_hold(&bucket, &id, "OFF")).await?;
    cx.ok(legal_hold(&bucket, &id, "ON")).await?;
    cx.refused(version("DELETE", &bucket, &id), 403, "AccessDenied").await?;
    cx.refused(legal_hold(&bucket, &id, "MAYBE"), 400, "MalformedXML").await?;
    cx.ok(legal_hold(&bucket, &id, "OFF")).await?;
    cx.ok(version("DELETE", &bucket, &id)).await.map(drop)
}

async fn compliance_is_only_made_longer(cx: &Cx<'_>) -> Outcome {
    let bucket = locking(cx).await?;
    let id = version_of(&cx.ok(put(&bucket, "COMPLIANCE", FAR)).await?)?;
    cx.ok(retention(&bucket, &id, "COMPLIANCE", FARTHER)).await?;
    for change in [
        retention(&bucket, &id, "COMPLIANCE", FAR),
        retention(&bucket, &id, "GOVERNANCE", FARTHER),
        version("PUT", &bucket, &id).flag("retention").body("<Retention/>").content_md5(),
    ] {
        cx.refused(bypassing(change), 403, "AccessDenied").await?;
    }
    let id = version_of(&cx.ok(put(&bucket, "GOVERNANCE", FARTHER)).await?)?;
    cx.refused(retention(&bucket, &id, "GOVERNANCE", FAR), 403, "AccessDenied").await?;
    cx.ok(bypassing(retention(&bucket, &id, "GOVERNANCE", FAR))).await?;
    let end = version("PUT", &bucket, &id).flag("retention").body("<Retention/>").content_md5();
    cx.ok(bypassing(end)).await?;
    let none = version("GET", &bucket, &id).flag("retention");
    cx.refused(none, 404, "NoSuchObjectLockConfiguration").await?;
    for (mode, until, code) in [
        ("GOVERNANCE", "2001-01-01T00:00:00Z", "InvalidArgument"),
        ("GOVERNANCE", "tomorrow", "MalformedXML"),
        ("NONE", FAR, "MalformedXML"),
    ] {
        cx.refused(retention(&bucket, &id, mode, until), 400, code).await?;
    }
    Ok(())
}

fn configuration(bucket: &str, inner: &str) -> Request {
    let body = format!("<ObjectLockConfiguration>{inner}</ObjectLockConfiguration>");
    Request::bucket("PUT", bucket).flag("object-lock").body(body).content_md5()
}

fn default_retention(mode: &str, length: &str) -> String {
    format!(
        "<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>{mode}</Mode>{length}\
         </DefaultRetention></Rule>"
    )
}

async fn new_versions_are_locked_by_default(cx: &Cx<'_>) -> Outcome {
    let bucket = locking(cx).await?;
    cx.ok(configuration(&bucket, &default_retention("GOVERNANCE", "<Years>1</Years>"))).await?;
    let found = cx.ok(Request::bucket("GET", &bucket).flag("object-lock")).await?;
    let found = xml_of(&found, "ObjectLockConfiguration")?;
    let rule = found.child("Rule").and_then(|rule| rule.child("DefaultRetention")).ok_or("no rule")?;
    equal("years", rule.text_of("Years"), "1")?;
    let id = version_of(&cx.put(&bucket, "k", "x").await?)?;
    has_header(&cx.ok(version("HEAD", &bucket, &id)).await?, "x-amz-object-lock-mode", "GOVERNANCE")?;
    cx.refused(version("DELETE", &bucket, &id), 403, "AccessDenied").await?;
    let copy = Request::object("PUT", &bucket, "k").header("x-amz-copy-source", format!("{bucket}/k"));
    let copied = version_of(&cx.ok(copy.header("x-amz-metadata-directive", "REPLACE")).await?)?;
    cx.refused(version("DELETE", &bucket, &copied), 403, "AccessDenied").await?;
    cx.ok(configuration(&bucket, "<ObjectLockEnabled>Enabled</ObjectLockEnabled>")).await?;
    let free = version_of(&cx.put(&bucket, "k", "x").await?)?;
    cx.ok(version("DELETE", &bucket, &free)).await.map(drop)
}

async fn lock_configurations_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = locking(cx).await?;
    for (inner, code) in [
        (String::new(), "MalformedXML"),
        ("<ObjectLockEnabled>Disabled</ObjectLockEnabled>".to_string(), "MalformedXML"),
        (default_retention("GOVERNANCE", ""), "MalformedXML"),
        (default_retention("GOVERNANCE", "<Days>1</Days><Years>1</Years>"), "MalformedXML"),
        (default_retention("NONE", "<Days>1</Days>"), "MalformedXML"),
        (default_retention("GOVERNANCE", "<Days>0</Days>"), "InvalidArgument"),
        (default_retention("GOVERNANCE", "<Days>-1</Days>"), "InvalidArgument"),
        (default_retention("GOVERNANCE", "<Years>101</Years>"), "InvalidArgument"),
    ] {
        let wanted = configuration(&bucket, &inner);
        cx.refused(wanted, 400, code).await.map_err(|why| format!("{inner}: {why}"))?;
    }
    if let Some(other) = cx.other() {
        let foreign = configuration(&bucket, "<ObjectLockEnabled>Enabled</ObjectLockEnabled>");
        refused(&other, foreign, 403, "AccessDenied").await?;
    }
    let half = Request::object("PUT", &bucket, "k").header("x-amz-object-lock-mode", "GOVERNANCE");
    cx.refused(half.body("x").content_md5(), 400, "InvalidArgument").await?;
    cx.refused(put(&bucket, "NONE", FAR), 400, "InvalidArgument").await?;
    cx.refused(put(&bucket, "GOVERNANCE", "2001-01-01T00:00:00Z"), 400, "InvalidArgument").await
}

async fn only_buckets_with_object_lock_take_locks(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(put(&bucket, "GOVERNANCE", FAR), 400, "InvalidRequest").await?;
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await?;
    cx.refused(
        Request::bucket("GET", &bucket).flag("object-lock"),
        404,
        "ObjectLockConfigurationNotFoundError",
    )
    .await?;
    let enable = || configuration(&bucket, "<ObjectLockEnabled>Enabled</ObjectLockEnabled>");
    cx.refused(enable(), 409, "InvalidBucketState").await?;
    cx.put(&bucket, "k", "x").await?;
    cx.refused(Request::object("GET", &bucket, "k").flag("retention"), 400, "InvalidRequest").await?;
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    cx.ok(Request::bucket("PUT", &bucket).flag("versioning").body(body).content_md5()).await?;
    cx.ok(enable()).await?;
    let id = version_of(&cx.ok(put(&bucket, "GOVERNANCE", FAR)).await?)?;
    ensure(id != "null", || id.clone())?;
    cx.refused(version("DELETE", &bucket, &id), 403, "AccessDenied").await
}
