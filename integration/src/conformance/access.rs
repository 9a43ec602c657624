//! Who may do what: policies of buckets, anybody without a signature, and what an owner rules out.
//!
//! Another gateway may go by an older policy for some seconds, so these behaviours stay with one.

use super::{Cx, Outcome, behaviours, ensure, equal, ok, refused, xml_of};
use crate::client::{Client, Form, Request, Response};

behaviours![
    a_bucket_policy_is_kept_and_removed,
    a_policy_lets_everybody_read,
    a_policy_lets_everybody_write,
    a_policy_lets_another_user_in,
    each_key_of_a_batch_is_judged,
    the_source_of_a_copy_must_be_readable,
    versions_have_permissions_of_their_own,
    what_is_denied_nobody_allows,
    an_owner_is_never_locked_out,
    conditions_look_at_the_request,
    tags_decide_who_reads,
    what_is_sent_along_needs_permission_too,
    tags_in_bodies_are_judged,
    ending_governance_needs_permission,
    a_public_access_block_holds,
    policies_are_checked,
];

const READ: &[&str] = &["s3:GetObject"];
/// The user that is not the owner.
pub(super) const OTHER: &str = "{\"AWS\":\"arn:aws:iam:::user/other\"}";
const EVERYBODY: &str = "\"*\"";

/// A statement about objects or the bucket: `on` is what follows the bucket's name in its resource.
pub(super) fn statement(
    effect: &str,
    principal: &str,
    actions: &[&str],
    bucket: &str,
    on: &str,
    rest: &str,
) -> String {
    let actions: Vec<String> = actions.iter().map(|action| format!("\"{action}\"")).collect();
    format!(
        "{{\"Effect\":\"{effect}\",\"Principal\":{principal},\"Action\":[{}],\
         \"Resource\":\"arn:aws:s3:::{bucket}{on}\"{rest}}}",
        actions.join(",")
    )
}

fn policy(statements: &[String]) -> String {
    format!("{{\"Version\":\"2012-10-17\",\"Statement\":[{}]}}", statements.join(","))
}

fn at_policy(method: &str, bucket: &str) -> Request {
    Request::bucket(method, bucket).flag("policy")
}

pub(super) async fn set(cx: &Cx<'_>, bucket: &str, statements: &[String]) -> Outcome {
    cx.ok(at_policy("PUT", bucket).body(policy(statements))).await.map(drop)
}

fn get(bucket: &str, key: &str) -> Request {
    Request::object("GET", bucket, key)
}

fn put(bucket: &str, key: &str) -> Request {
    Request::object("PUT", bucket, key).body("theirs")
}

pub(super) async fn denied(client: &Client<'_>, request: Request) -> Outcome {
    refused(client, request, 403, "AccessDenied").await
}

async fn a_bucket_policy_is_kept_and_removed(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(at_policy("GET", &bucket), 404, "NoSuchBucketPolicy").await?;
    let status = || Request::bucket("GET", &bucket).flag("policyStatus");
    cx.refused(status(), 404, "NoSuchBucketPolicy").await?;
    for (principal, public) in [(EVERYBODY, "true"), (OTHER, "false")] {
        let text = policy(&[statement("Allow", principal, READ, &bucket, "/*", "")]);
        equal("put", cx.ok(at_policy("PUT", &bucket).body(text.clone())).await?.status, 204)?;
        let found = ok(&cx.gateway(1), at_policy("GET", &bucket)).await?;
        equal("policy", String::from_utf8_lossy(&found.body).into_owned(), text)?;
        equal("type", found.header("content-type").unwrap_or_default(), "application/json")?;
        let status = xml_of(&cx.ok(status()).await?, "PolicyStatus")?;
        equal("public", status.text_of("IsPublic"), public)?;
    }
    if let Some(other) = cx.other() {
        for method in ["GET", "DELETE"] {
            denied(&other, at_policy(method, &bucket)).await?;
        }
        denied(&other, at_policy("PUT", &bucket).body("{}")).await?;
    }
    equal("delete", cx.ok(at_policy("DELETE", &bucket)).await?.status, 204)?;
    equal("delete again", cx.ok(at_policy("DELETE", &bucket)).await?.status, 204)?;
    cx.refused(at_policy("GET", &bucket), 404, "NoSuchBucketPolicy").await
}

async fn a_policy_lets_everybody_read(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    cx.put(&bucket, "k", "for all").await?;
    denied(&anybody, get(&bucket, "k")).await?;
    let read = statement("Allow", EVERYBODY, READ, &bucket, "/*", "");
    set(cx, &bucket, std::slice::from_ref(&read)).await?;
    equal("body", &*ok(&anybody, get(&bucket, "k")).await?.body, b"for all".as_slice())?;
    ok(&anybody, Request::object("HEAD", &bucket, "k")).await?;
    for refusal in [
        put(&bucket, "k"),
        Request::object("DELETE", &bucket, "k"),
        Request::bucket("GET", &bucket),
        Request::object("GET", &bucket, "k").flag("tagging"),
        // Whether a key is there is told to those who may list.
        get(&bucket, "missing"),
    ] {
        denied(&anybody, refusal).await?;
    }
    let overridden = get(&bucket, "k").query("response-content-type", "text/html");
    refused(&anybody, overridden, 400, "InvalidRequest").await?;
    let list = statement("Allow", EVERYBODY, &["s3:ListBucket"], &bucket, "", "");
    set(cx, &bucket, &[read, list]).await?;
    refused(&anybody, get(&bucket, "missing"), 404, "NoSuchKey").await?;
    ok(&anybody, Request::bucket("GET", &bucket).query("list-type", 2)).await?;
    cx.ok(at_policy("DELETE", &bucket)).await?;
    denied(&anybody, get(&bucket, "k")).await
}

async fn a_policy_lets_everybody_write(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    let drop_box = statement("Allow", EVERYBODY, &["s3:PutObject"], &bucket, "/in/*", "");
    set(cx, &bucket, &[drop_box]).await?;
    ok(&anybody, put(&bucket, "in/k")).await?;
    denied(&anybody, put(&bucket, "out/k")).await?;
    denied(&anybody, get(&bucket, "in/k")).await?;
    equal("body", &*cx.get(&bucket, "in/k").await?.body, b"theirs".as_slice())?;
    // An upload needs somebody who began it.
    denied(&anybody, Request::object("POST", &bucket, "in/k").flag("uploads")).await?;
    denied(&anybody, Request::new("GET", "/")).await?;
    denied(&anybody, Request::bucket("PUT", &cx.bucket_name())).await
}

async fn a_policy_lets_another_user_in(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "home/root/k", "mine").await?;
    let objects = ["s3:*Object", "s3:AbortMultipartUpload"];
    let home = statement("Allow", OTHER, &objects, &bucket, "/home/${aws:username}/*", "");
    set(cx, &bucket, &[home]).await?;
    ok(&other, put(&bucket, "home/other/k")).await?;
    ok(&other, get(&bucket, "home/other/k")).await?;
    let begun = ok(&other, Request::object("POST", &bucket, "home/other/large").flag("uploads")).await?;
    let upload = begun.xml()?.text_of("UploadId").to_string();
    let abort = Request::object("DELETE", &bucket, "home/other/large").query("uploadId", upload);
    ok(&other, abort).await?;
    ok(&other, Request::object("DELETE", &bucket, "home/other/k")).await?;
    for refusal in [get(&bucket, "home/root/k"), put(&bucket, "home/root/k"), Request::bucket("GET", &bucket)]
    {
        denied(&other, refusal).await?;
    }
    denied(&cx.with(None), put(&bucket, "home/other/k")).await?;
    // What they wrote belongs to the owner of the bucket.
    ok(&other, put(&bucket, "home/other/k")).await?;
    cx.get(&bucket, "home/other/k").await.map(drop)
}

async fn each_key_of_a_batch_is_judged(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    for key in ["mine", "yours"] {
        cx.put(&bucket, key, key).await?;
    }
    set(cx, &bucket, &[statement("Allow", OTHER, &["s3:DeleteObject"], &bucket, "/yours", "")]).await?;
    let body = "<Delete><Object><Key>mine</Key></Object><Object><Key>yours</Key></Object>\
                <Object><Key>yours</Key><VersionId>null</VersionId></Object></Delete>";
    let batch = Request::bucket("POST", &bucket).flag("delete").body(body).content_md5();
    let result = ok(&other, batch).await?.xml()?;
    let deleted: Vec<&str> = result.all("Deleted").map(|element| element.text_of("Key")).collect();
    equal("deleted", deleted, vec!["yours"])?;
    let codes: Vec<&str> = result.all("Error").map(|element| element.text_of("Code")).collect();
    equal("refused", codes, vec!["AccessDenied", "AccessDenied"])?;
    cx.get(&bucket, "mine").await?;
    cx.refused(get(&bucket, "yours"), 404, "NoSuchKey").await
}

async fn the_source_of_a_copy_must_be_readable(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "secret", "secret").await?;
    cx.put(&bucket, "open", "open").await?;
    let write = statement("Allow", OTHER, &["s3:PutObject"], &bucket, "/to/*", "");
    let read = statement("Allow", OTHER, READ, &bucket, "/open", "");
    set(cx, &bucket, &[write, read]).await?;
    let copy = |source: String| Request::object("PUT", &bucket, "to/k").header("x-amz-copy-source", source);
    ok(&other, copy(format!("{bucket}/open"))).await?;
    denied(&other, copy(format!("{bucket}/secret"))).await?;
    denied(&other, copy(format!("{bucket}/open?versionId=null"))).await?;
    denied(&other, copy(format!("{bucket}/missing"))).await
}

async fn versions_have_permissions_of_their_own(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "one").await?;
    let plain = ["s3:GetObject", "s3:DeleteObject", "s3:GetObjectTagging", "s3:GetObjectAttributes"];
    let listing = statement("Allow", OTHER, &["s3:ListBucket"], &bucket, "", "");
    set(cx, &bucket, &[statement("Allow", OTHER, &plain, &bucket, "/*", ""), listing]).await?;
    let of_version = |method: &str| Request::object(method, &bucket, "k").query("versionId", "null");
    ok(&other, get(&bucket, "k")).await?;
    for refusal in [
        of_version("GET"),
        of_version("HEAD"),
        of_version("DELETE"),
        of_version("GET").flag("tagging"),
        of_version("GET").flag("attributes").header("x-amz-object-attributes", "ETag"),
        Request::bucket("GET", &bucket).flag("versions"),
    ] {
        denied(&other, refusal).await?;
    }
    let versions = ["s3:GetObjectVersion"];
    set(cx, &bucket, &[statement("Allow", OTHER, &versions, &bucket, "/*", "")]).await?;
    ok(&other, of_version("GET")).await?;
    denied(&other, get(&bucket, "k")).await
}

async fn what_is_denied_nobody_allows(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "kept/k", "kept").await?;
    let all = statement("Allow", EVERYBODY, &["s3:*"], &bucket, "/*", "");
    let keep = statement("Deny", EVERYBODY, &["s3:DeleteObject*"], &bucket, "/kept/*", "");
    for statements in [[all.clone(), keep.clone()], [keep, all]] {
        set(cx, &bucket, &statements).await?;
        let delete = || Request::object("DELETE", &bucket, "kept/k");
        denied(&cx.with(None), delete()).await?;
        denied(&cx.client(), delete()).await?;
        cx.get(&bucket, "kept/k").await?;
    }
    Ok(())
}

async fn an_owner_is_never_locked_out(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let nothing = |on| statement("Deny", EVERYBODY, &["s3:*"], &bucket, on, "");
    set(cx, &bucket, &[nothing(""), nothing("/*")]).await?;
    denied(&cx.client(), put(&bucket, "k")).await?;
    denied(&cx.client(), Request::bucket("GET", &bucket)).await?;
    cx.ok(at_policy("GET", &bucket)).await?;
    cx.ok(at_policy("DELETE", &bucket)).await?;
    cx.put(&bucket, "k", "again").await.map(drop)
}

async fn conditions_look_at_the_request(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    cx.put(&bucket, "k", "k").await?;
    let when = |condition: &str| format!(",\"Condition\":{condition}");
    let list =
        |condition: &str| statement("Allow", EVERYBODY, &["s3:ListBucket"], &bucket, "", &when(condition));
    set(
        cx,
        &bucket,
        &[list(
            "{\"StringLike\":{\"s3:prefix\":\"open/*\"},\"NumericLessThanEquals\":{\"s3:max-keys\":\"10\"}}",
        )],
    )
    .await?;
    let listing = |prefix: &str, most: u32| {
        Request::bucket("GET", &bucket).query("prefix", prefix).query("max-keys", most)
    };
    ok(&anybody, listing("open/", 10)).await?;
    for refusal in [listing("open/", 11), listing("closed/", 10), Request::bucket("GET", &bucket)] {
        denied(&anybody, refusal).await?;
    }
    let read = |condition: &str| statement("Allow", EVERYBODY, READ, &bucket, "/*", &when(condition));
    for (condition, allows) in [
        ("{\"NotIpAddress\":{\"aws:SourceIp\":\"198.51.100.0/24\"}}", true),
        ("{\"IpAddress\":{\"aws:SourceIp\":\"198.51.100.0/24\"}}", false),
        ("{\"StringEquals\":{\"aws:Referer\":\"https://example.org/\"}}", true),
        ("{\"StringEquals\":{\"aws:Referer\":\"https://example.com/\"}}", false),
        ("{\"StringEquals\":{\"s3:authType\":\"REST-HEADER\"}}", false),
        ("{\"Null\":{\"s3:authType\":\"true\"}}", true),
        ("{\"DateLessThan\":{\"aws:CurrentTime\":\"2001-01-01T00:00:00Z\"}}", false),
        ("{\"Bool\":{\"aws:SecureTransport\":\"true\"}}", false),
        ("{\"ForAnyValue:StringEquals\":{\"aws:UserAgent\":[\"a\",\"b\"]}}", false),
        ("{\"StringEqualsIfExists\":{\"s3:signatureversion\":\"AWS4-HMAC-SHA256\"}}", true),
    ] {
        set(cx, &bucket, &[read(condition)]).await?;
        // A header that is called like a key of conditions says nothing.
        let request = get(&bucket, "k").header("referer", "https://example.org/").header("aws:sourceip", "x");
        let response = anybody.send(request).await.map_err(|error| error.to_string())?;
        ensure((response.status == 200) == allows, || format!("{condition}: {}", response.describe()))?;
    }
    Ok(())
}

async fn tags_decide_who_reads(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    for (key, tags) in [("open", "Access=public&a=1"), ("closed", "Access=private")] {
        cx.ok(put(&bucket, key).header("x-amz-tagging", tags)).await?;
    }
    cx.put(&bucket, "bare", "bare").await?;
    let tagged = ",\"Condition\":{\"StringEquals\":{\"s3:ExistingObjectTag/Access\":\"public\"}}";
    set(cx, &bucket, &[statement("Allow", EVERYBODY, READ, &bucket, "/*", tagged)]).await?;
    ok(&anybody, get(&bucket, "open")).await?;
    for key in ["closed", "bare", "missing"] {
        denied(&anybody, get(&bucket, key)).await?;
    }
    cx.ok(Request::object("DELETE", &bucket, "open").flag("tagging")).await?;
    denied(&anybody, get(&bucket, "open")).await
}

async fn what_is_sent_along_needs_permission_too(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    let write = |actions: &[&str], rest: &str| statement("Allow", OTHER, actions, &bucket, "/*", rest);
    set(cx, &bucket, &[write(&["s3:PutObject"], "")]).await?;
    ok(&other, put(&bucket, "k")).await?;
    let tagged = |tags: &str| put(&bucket, "k").header("x-amz-tagging", tags);
    denied(&other, tagged("team=red")).await?;
    denied(&other, put(&bucket, "k").header("x-amz-acl", "bucket-owner-full-control")).await?;
    let red = ",\"Condition\":{\"StringEquals\":{\"s3:RequestObjectTag/team\":\"red\"}}";
    set(cx, &bucket, &[write(&["s3:PutObject", "s3:PutObjectTagging"], red)]).await?;
    ok(&other, tagged("team=red")).await?;
    denied(&other, tagged("team=blue")).await?;
    denied(&other, put(&bucket, "k")).await
}

async fn tags_in_bodies_are_judged(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    cx.put(&bucket, "k", "x").await?;
    let document = |tags: &[(&str, &str)]| {
        let tag = |(key, value): &(&str, &str)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        format!("<Tagging><TagSet>{}</TagSet></Tagging>", tags.iter().map(tag).collect::<String>())
    };
    let tagging = |tags: &[(&str, &str)]| {
        Request::object("PUT", &bucket, "k").flag("tagging").body(document(tags)).content_md5()
    };
    let red = ",\"Condition\":{\"StringEquals\":{\"s3:RequestObjectTag/team\":\"red\"},\
               \"ForAllValues:StringEquals\":{\"s3:RequestObjectTagKeys\":[\"team\",\"size\"]}}";
    let actions = ["s3:PutObject", "s3:PutObjectTagging"];
    set(cx, &bucket, &[statement("Allow", EVERYBODY, &actions, &bucket, "/*", red)]).await?;
    ok(&anybody, tagging(&[("team", "red")])).await?;
    ok(&anybody, tagging(&[("size", "1"), ("team", "red")])).await?;
    let other = [("team", "red"), ("other", "1")];
    for tags in [&[("team", "blue")][..], &[("size", "1")], &[], &other] {
        denied(&anybody, tagging(tags)).await?;
        // A header that says something else says nothing.
        denied(&anybody, tagging(tags).header("x-amz-tagging", "team=red")).await?;
    }
    let of_version = tagging(&[("team", "red")]).query("versionId", "null");
    denied(&anybody, of_version).await?;
    denied(&anybody, Request::object("DELETE", &bucket, "k").flag("tagging")).await?;
    let form =
        |tags: &[(&str, &str)]| Form::new("form", "x").with("tagging", document(tags)).request(&bucket);
    ok(&anybody, form(&[("team", "red")])).await?;
    denied(&anybody, form(&[("team", "blue")])).await?;
    denied(&anybody, Form::new("form", "x").request(&bucket)).await?;
    let tags = xml_of(&cx.ok(Request::object("GET", &bucket, "k").flag("tagging")).await?, "Tagging")?;
    let count = tags.child("TagSet").map(|set| set.all("Tag").count());
    equal("tags", count, Some(2))
}

async fn ending_governance_needs_permission(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket_name();
    cx.ok(Request::bucket("PUT", &bucket).header("x-amz-bucket-object-lock-enabled", "true")).await?;
    let locked = put(&bucket, "k")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2099-01-01T00:00:00Z");
    let version = version_of(&cx.ok(locked.content_md5()).await?)?;
    let delete = || {
        Request::object("DELETE", &bucket, "k")
            .query("versionId", &version)
            .header("x-amz-bypass-governance-retention", "true")
    };
    let may = |actions: &[&str]| statement("Allow", OTHER, actions, &bucket, "/*", "");
    set(cx, &bucket, &[may(&["s3:DeleteObjectVersion"])]).await?;
    denied(&other, delete()).await?;
    set(cx, &bucket, &[may(&["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"])]).await?;
    ok(&other, delete()).await.map(drop)
}

fn version_of(response: &Response) -> Result<String, String> {
    let version = response.header("x-amz-version-id").map(str::to_string);
    version.ok_or_else(|| format!("no version id: {}", response.describe()))
}

async fn a_public_access_block_holds(cx: &Cx<'_>) -> Outcome {
    let (bucket, anybody) = (cx.bucket().await?, cx.with(None));
    cx.put(&bucket, "k", "k").await?;
    let block = |name: &str| {
        let body =
            format!("<PublicAccessBlockConfiguration><{name}>true</{name}></PublicAccessBlockConfiguration>");
        Request::bucket("PUT", &bucket).flag("publicAccessBlock").body(body).content_md5()
    };
    let public = [statement("Allow", EVERYBODY, READ, &bucket, "/*", "")];
    cx.ok(block("BlockPublicPolicy")).await?;
    cx.refused(at_policy("PUT", &bucket).body(policy(&public)), 403, "AccessDenied").await?;
    cx.refused(at_policy("GET", &bucket), 404, "NoSuchBucketPolicy").await?;
    set(cx, &bucket, &[statement("Allow", OTHER, READ, &bucket, "/*", "")]).await?;
    cx.ok(Request::bucket("DELETE", &bucket).flag("publicAccessBlock")).await?;
    set(cx, &bucket, &public).await?;
    ok(&anybody, get(&bucket, "k")).await?;
    cx.ok(block("RestrictPublicBuckets")).await?;
    denied(&anybody, get(&bucket, "k")).await?;
    cx.get(&bucket, "k").await.map(drop)
}

async fn policies_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let read = |rest: &str| policy(&[statement("Allow", EVERYBODY, READ, &bucket, "/*", rest)]);
    for bad in [
        "no JSON".to_string(),
        "{}".to_string(),
        policy(&[]),
        policy(&[statement("Permit", EVERYBODY, READ, &bucket, "/*", "")]),
        policy(&[statement("Allow", EVERYBODY, &["s3:ReadMinds"], &bucket, "/*", "")]),
        policy(&[statement("Allow", EVERYBODY, &["ec2:RunInstances"], &bucket, "/*", "")]),
        policy(&[statement("Allow", EVERYBODY, READ, "another-bucket", "/*", "")]),
        read(",\"Unknown\":1"),
        read(",\"Effect\":\"Deny\""),
        read(",\"NotAction\":\"s3:GetObject\""),
        read(",\"Condition\":{\"StringResembles\":{\"aws:Referer\":\"x\"}}"),
        read(",\"Condition\":{\"StringEquals\":{\"s3:unknown\":\"x\"}}"),
        read(",\"Condition\":{\"IpAddress\":{\"aws:SourceIp\":\"400.1.2.3\"}}"),
        read(&format!(",\"Sid\":\"{}\"", "x".repeat(21_000))),
        format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        cx.refused(at_policy("PUT", &bucket).body(bad), 400, "MalformedPolicy").await?;
    }
    cx.refused(at_policy("PUT", &bucket), 400, "MissingRequestBodyError").await?;
    cx.refused(at_policy("GET", &bucket), 404, "NoSuchBucketPolicy").await
}
