//! Access control lists: who owns what others write, and what owners of buckets and objects let others do.
//!
//! Another gateway may go by older settings for some seconds, so these behaviours stay with one.

use super::{Cx, Outcome, behaviours, equal, ok, refused, xml_of};
use crate::client::{Client, Element, Request};

behaviours![
    ownership_controls_are_kept_and_removed,
    canned_lists_of_objects_let_others_read,
    canned_lists_of_buckets_let_others_list_and_write,
    grants_are_given_one_by_one,
    lists_come_with_what_is_written,
    the_writer_owns_what_it_writes,
    the_owner_of_the_bucket_may_be_preferred,
    each_version_has_a_list_of_its_own,
    a_bucket_is_made_with_a_list,
    policies_that_deny_beat_lists,
    public_lists_are_ruled_out,
    lists_are_checked,
    without_lists_only_what_holds_anyway_is_taken,
];

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";

fn controls(method: &str, bucket: &str) -> Request {
    Request::bucket(method, bucket).flag("ownershipControls")
}

async fn set_ownership(cx: &Cx<'_>, bucket: &str, ownership: &str) -> Outcome {
    let document = format!(
        "<OwnershipControls><Rule><ObjectOwnership>{ownership}</ObjectOwnership></Rule></OwnershipControls>"
    );
    cx.ok(controls("PUT", bucket).body(document).content_md5()).await.map(drop)
}

/// A bucket with lists, in which writers own what they write.
pub(super) async fn with_lists(cx: &Cx<'_>) -> Result<String, String> {
    let bucket = cx.bucket().await?;
    set_ownership(cx, &bucket, "ObjectWriter").await?;
    Ok(bucket)
}

fn get(bucket: &str, key: &str) -> Request {
    Request::object("GET", bucket, key)
}

fn put(bucket: &str, key: &str) -> Request {
    Request::object("PUT", bucket, key).body("x")
}

fn object_acl(method: &str, bucket: &str, key: &str) -> Request {
    Request::object(method, bucket, key).flag("acl")
}

fn bucket_acl(method: &str, bucket: &str) -> Request {
    Request::bucket(method, bucket).flag("acl")
}

fn canned(request: Request, name: &str) -> Request {
    request.header("x-amz-acl", name)
}

async fn denied(client: &Client<'_>, request: Request) -> Outcome {
    refused(client, request, 403, "AccessDenied").await
}

/// What a list says: the owner, and `grantee permission` of each grant.
async fn list(client: &Client<'_>, request: Request) -> Result<(String, Vec<String>), String> {
    let list = xml_of(&ok(client, request).await?, "AccessControlPolicy")?;
    let owner = list.child("Owner").map(|owner| owner.text_of("ID").to_string()).unwrap_or_default();
    let grants = list.child("AccessControlList").ok_or("no list")?.all("Grant").map(|grant| {
        let grantee = grant.child("Grantee");
        let text = |name| grantee.map(|grantee| grantee.text_of(name)).unwrap_or_default();
        let who =
            if text("ID").is_empty() { text("URI").rsplit('/').next().unwrap_or("") } else { text("ID") };
        format!("{who} {}", grant.text_of("Permission"))
    });
    Ok((owner, grants.collect()))
}

/// The owner of the bucket.
async fn root(cx: &Cx<'_>, bucket: &str) -> Result<String, String> {
    Ok(list(&cx.client(), bucket_acl("GET", bucket)).await?.0)
}

async fn ownership_controls_are_kept_and_removed(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for ownership in ["ObjectWriter", "BucketOwnerPreferred", "BucketOwnerEnforced"] {
        set_ownership(cx, &bucket, ownership).await?;
        let found = xml_of(&ok(&cx.gateway(1), controls("GET", &bucket)).await?, "OwnershipControls")?;
        let found = found.child("Rule").map(|rule| rule.text_of("ObjectOwnership").to_string());
        equal("ownership", found.as_deref(), Some(ownership))?;
    }
    if let Some(other) = cx.other() {
        for method in ["GET", "DELETE"] {
            denied(&other, controls(method, &bucket)).await?;
        }
    }
    set_ownership(cx, &bucket, "ObjectWriter").await?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "public-read")).await?;
    let enforced = "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>";
    let enforced = controls("PUT", &bucket).body(enforced).content_md5();
    cx.refused(enforced, 400, "InvalidBucketAclWithObjectOwnership").await?;
    cx.ok(Request::bucket("GET", &bucket)).await?;
    ok(&cx.with(None), Request::bucket("GET", &bucket)).await?;
    // Without controls there are no lists, whatever was in them.
    equal("status", cx.ok(controls("DELETE", &bucket)).await?.status, 204)?;
    denied(&cx.with(None), Request::bucket("GET", &bucket)).await
}

async fn canned_lists_of_objects_let_others_read(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let (anybody, root) = (cx.with(None), root(cx, &bucket).await?);
    cx.put(&bucket, "k", "x").await?;
    for (name, anybody_reads, other_reads, grants) in [
        ("private", false, false, &[][..]),
        ("public-read", true, true, &["AllUsers READ"]),
        ("public-read-write", true, true, &["AllUsers READ", "AllUsers WRITE"]),
        ("authenticated-read", false, true, &["AuthenticatedUsers READ"]),
        ("aws-exec-read", false, false, &[]),
        ("bucket-owner-read", false, false, &[]),
        ("bucket-owner-full-control", false, false, &[]),
    ] {
        cx.ok(canned(object_acl("PUT", &bucket, "k"), name)).await?;
        let mut expected = vec![format!("{root} FULL_CONTROL")];
        expected.extend(grants.iter().map(ToString::to_string));
        let found = list(&cx.client(), object_acl("GET", &bucket, "k")).await?;
        equal(name, found, (root.clone(), expected))?;
        let clients = [(Some(anybody.clone()), anybody_reads), (cx.other(), other_reads)];
        for (client, reads) in clients {
            let Some(client) = client else { continue };
            for request in [get(&bucket, "k"), Request::object("HEAD", &bucket, "k")] {
                match reads {
                    true => ok(&client, request).await.map(drop)?,
                    false => denied(&client, request).await?,
                }
            }
            denied(&client, object_acl("GET", &bucket, "k")).await?;
            denied(&client, canned(object_acl("PUT", &bucket, "k"), "private")).await?;
            denied(&client, put(&bucket, "k")).await?;
            denied(&client, Request::bucket("GET", &bucket)).await?;
        }
    }
    Ok(())
}

async fn canned_lists_of_buckets_let_others_list_and_write(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let anybody = cx.with(None);
    cx.put(&bucket, "k", "x").await?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "public-read")).await?;
    for request in [
        Request::bucket("GET", &bucket),
        Request::bucket("HEAD", &bucket),
        Request::bucket("GET", &bucket).flag("versions"),
        Request::bucket("GET", &bucket).flag("uploads"),
    ] {
        ok(&anybody, request).await?;
    }
    denied(&anybody, get(&bucket, "k")).await?;
    refused(&anybody, get(&bucket, "never"), 404, "NoSuchKey").await?;
    denied(&anybody, put(&bucket, "new")).await?;
    denied(&anybody, bucket_acl("GET", &bucket)).await?;
    denied(&anybody, Request::bucket("GET", &bucket).flag("policy")).await?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "public-read-write")).await?;
    ok(&anybody, put(&bucket, "new")).await?;
    equal("body", cx.get(&bucket, "new").await?.body, b"x".to_vec())?;
    ok(&anybody, Request::object("DELETE", &bucket, "new")).await?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "authenticated-read")).await?;
    denied(&anybody, Request::bucket("GET", &bucket)).await?;
    if let Some(other) = cx.other() {
        ok(&other, Request::bucket("GET", &bucket)).await?;
        denied(&other, Request::bucket("DELETE", &bucket)).await?;
    }
    cx.ok(canned(bucket_acl("PUT", &bucket), "log-delivery-write")).await?;
    let found = list(&cx.client(), bucket_acl("GET", &bucket)).await?.1;
    equal("logs", &found[1..], &["LogDelivery WRITE".to_string(), "LogDelivery READ_ACP".to_string()][..])?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "private")).await?;
    equal("private", list(&cx.client(), bucket_acl("GET", &bucket)).await?.1.len(), 1)
}

async fn grants_are_given_one_by_one(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = with_lists(cx).await?;
    let root = root(cx, &bucket).await?;
    cx.put(&bucket, "k", "x").await?;
    let acl = || object_acl("PUT", &bucket, "k");
    cx.ok(acl().header("x-amz-grant-read", "id=\"other\"")).await?;
    let found = list(&cx.client(), object_acl("GET", &bucket, "k")).await?;
    equal("read", found, (root.clone(), vec!["other READ".to_string()]))?;
    ok(&other, get(&bucket, "k")).await?;
    denied(&cx.with(None), get(&bucket, "k")).await?;
    denied(&other, object_acl("GET", &bucket, "k")).await?;
    // The owner is never locked out.
    cx.get(&bucket, "k").await?;
    cx.ok(acl().header("x-amz-grant-read-acp", "id=other").header("x-amz-grant-write-acp", "id=other"))
        .await?;
    denied(&other, get(&bucket, "k")).await?;
    ok(&other, object_acl("GET", &bucket, "k")).await?;
    ok(&other, acl().header("x-amz-grant-full-control", format!("id={root}, uri={ALL_USERS}"))).await?;
    ok(&cx.with(None), get(&bucket, "k")).await?;
    ok(&cx.with(None), object_acl("GET", &bucket, "k")).await?;
    let document = |grants: &str| {
        format!(
            "<AccessControlPolicy xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Owner><ID>{root}</ID></Owner>\
             <AccessControlList>{grants}</AccessControlList></AccessControlPolicy>"
        )
    };
    let grant = |kind: &str, who: &str, permission: &str| {
        format!(
            "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\">{who}\
             </Grantee><Permission>{permission}</Permission></Grant>"
        )
    };
    let grants = grant("CanonicalUser", &format!("<ID>{root}</ID>"), "FULL_CONTROL")
        + &grant("Group", &format!("<URI>{AUTHENTICATED_USERS}</URI>"), "READ");
    cx.ok(acl().body(document(&grants))).await?;
    denied(&cx.with(None), get(&bucket, "k")).await?;
    ok(&other, get(&bucket, "k")).await?;
    // The same of the bucket.
    let of_bucket = || bucket_acl("PUT", &bucket);
    cx.ok(of_bucket().header("x-amz-grant-write", "id=other")).await?;
    ok(&other, put(&bucket, "theirs")).await?;
    denied(&other, Request::bucket("GET", &bucket)).await?;
    cx.ok(of_bucket().body(document(&grant("CanonicalUser", "<ID>other</ID>", "WRITE_ACP")))).await?;
    denied(&other, put(&bucket, "theirs")).await?;
    ok(&other, of_bucket().header("x-amz-grant-full-control", "id=other")).await?;
    for request in [
        Request::bucket("GET", &bucket),
        put(&bucket, "theirs"),
        bucket_acl("GET", &bucket),
        Request::object("DELETE", &bucket, "theirs"),
    ] {
        ok(&other, request).await?;
    }
    for flag in ["policy", "website", "ownershipControls", "cors"] {
        denied(&other, Request::bucket("GET", &bucket).flag(flag)).await?;
    }
    let batch = "<Delete><Object><Key>k</Key></Object></Delete>";
    let batch = Request::bucket("POST", &bucket).flag("delete").body(batch).content_md5();
    let deleted = xml_of(&ok(&other, batch).await?, "DeleteResult")?;
    equal("deleted", deleted.all("Deleted").count(), 1)
}

async fn lists_come_with_what_is_written(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let anybody = cx.with(None);
    cx.ok(canned(put(&bucket, "put"), "public-read")).await?;
    ok(&anybody, get(&bucket, "put")).await?;
    // Written anew it is private again, and a copy takes no list along.
    let source = format!("{bucket}/put");
    let copy = |key: &str| Request::object("PUT", &bucket, key).header("x-amz-copy-source", &source);
    cx.ok(copy("copy")).await?;
    denied(&anybody, get(&bucket, "copy")).await?;
    cx.ok(canned(copy("copy"), "public-read")).await?;
    ok(&anybody, get(&bucket, "copy")).await?;
    let rename = Request::object("PUT", &bucket, "renamed")
        .flag("renameObject")
        .header("x-amz-rename-source", format!("{bucket}/put"));
    cx.ok(rename).await?;
    ok(&anybody, get(&bucket, "renamed")).await?;
    let append = Request::object("PUT", &bucket, "renamed").header("x-amz-write-offset-bytes", 1).body("y");
    cx.ok(append).await?;
    equal("appended", ok(&anybody, get(&bucket, "renamed")).await?.body, b"xy".to_vec())?;
    cx.ok(put(&bucket, "renamed")).await?;
    denied(&anybody, get(&bucket, "renamed")).await?;
    let begin = canned(Request::object("POST", &bucket, "parts").flag("uploads"), "public-read");
    let upload = xml_of(&cx.ok(begin).await?, "InitiateMultipartUploadResult")?;
    let id = upload.text_of("UploadId");
    let part = Request::object("PUT", &bucket, "parts").query("partNumber", 1).query("uploadId", id);
    let part = cx.ok(part.body("part")).await?.etag().to_string();
    cx.ok(super::multipart::complete(&bucket, "parts", id, &[(1, part)])).await?;
    ok(&anybody, get(&bucket, "parts")).await?;
    cx.ok(put(&bucket, "granted").header("x-amz-grant-read", format!("uri={ALL_USERS}"))).await?;
    ok(&anybody, get(&bucket, "granted")).await?;
    Ok(())
}

async fn the_writer_owns_what_it_writes(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = with_lists(cx).await?;
    let root = root(cx, &bucket).await?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "public-read-write")).await?;
    ok(&other, put(&bucket, "theirs")).await?;
    let expected = ("other".to_string(), vec!["other FULL_CONTROL".to_string()]);
    equal("list", list(&other, object_acl("GET", &bucket, "theirs")).await?, expected)?;
    ok(&other, get(&bucket, "theirs")).await?;
    // The owner of the bucket may not read it, not even by a policy of the bucket, but may remove it.
    let policy = format!(
        "{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Principal\":\"*\",\
         \"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::{bucket}/*\"}}]}}"
    );
    cx.ok(Request::bucket("PUT", &bucket).flag("policy").body(policy)).await?;
    cx.put(&bucket, "mine", "x").await?;
    ok(&cx.with(None), get(&bucket, "mine")).await?;
    for client in [cx.client(), cx.with(None)] {
        denied(&client, get(&bucket, "theirs")).await?;
        denied(&client, object_acl("GET", &bucket, "theirs")).await?;
    }
    denied(&cx.client(), canned(object_acl("PUT", &bucket, "theirs"), "public-read")).await?;
    let copy =
        Request::object("PUT", &bucket, "copy").header("x-amz-copy-source", format!("{bucket}/theirs"));
    denied(&cx.client(), copy).await?;
    ok(&other, canned(object_acl("PUT", &bucket, "theirs"), "bucket-owner-read")).await?;
    cx.get(&bucket, "theirs").await?;
    denied(&cx.client(), object_acl("GET", &bucket, "theirs")).await?;
    // Listings tell who owns what.
    let owners = |page: &Element, name: &str| {
        let owner = |item: &Element| {
            let owner = item.child("Owner").map(|owner| owner.text_of("DisplayName"));
            format!("{} {}", item.text_of("Key"), owner.unwrap_or_default())
        };
        page.all(name).map(owner).collect::<Vec<_>>()
    };
    let expected = vec![format!("mine {root}"), "theirs other".to_string()];
    let lists = [
        (Request::bucket("GET", &bucket), "ListBucketResult", "Contents"),
        (
            Request::bucket("GET", &bucket).query("list-type", 2).query("fetch-owner", true),
            "ListBucketResult",
            "Contents",
        ),
        (Request::bucket("GET", &bucket).flag("versions"), "ListVersionsResult", "Version"),
    ];
    for (request, document, item) in lists {
        let page = xml_of(&cx.ok(request).await?, document)?;
        equal(document, owners(&page, item), expected.clone())?;
    }
    // Where the owner of the bucket owns all, it may read again.
    cx.ok(canned(bucket_acl("PUT", &bucket), "private")).await?;
    set_ownership(cx, &bucket, "BucketOwnerEnforced").await?;
    equal("owner", list(&cx.client(), object_acl("GET", &bucket, "theirs")).await?.0, root)?;
    cx.ok(Request::object("DELETE", &bucket, "theirs")).await.map(drop)
}

async fn the_owner_of_the_bucket_may_be_preferred(cx: &Cx<'_>) -> Outcome {
    let Some(other) = cx.other() else { return Ok(()) };
    let bucket = cx.bucket().await?;
    let root = root(cx, &bucket).await?;
    set_ownership(cx, &bucket, "BucketOwnerPreferred").await?;
    cx.ok(bucket_acl("PUT", &bucket).header("x-amz-grant-write", "id=other")).await?;
    for (acl, owner) in [("bucket-owner-full-control", root.as_str()), ("private", "other")] {
        ok(&other, canned(put(&bucket, "k"), acl)).await?;
        let client = if owner == "other" { &other } else { &cx.client() };
        let found = list(client, object_acl("GET", &bucket, "k")).await?;
        equal(acl, found, (owner.to_string(), vec![format!("{owner} FULL_CONTROL")]))?;
    }
    denied(&cx.client(), get(&bucket, "k")).await?;
    // The owner of a bucket removes what it does not own.
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    let upload = Request::object("POST", &bucket, "parts").flag("uploads");
    ok(&other, canned(upload, "bucket-owner-full-control")).await.map(drop)
}

async fn each_version_has_a_list_of_its_own(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let status = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    cx.ok(Request::bucket("PUT", &bucket).flag("versioning").body(status).content_md5()).await?;
    let mut versions = Vec::new();
    for acl in ["public-read", "private"] {
        let stored = cx.ok(canned(put(&bucket, "k"), acl)).await?;
        versions.push(stored.header("x-amz-version-id").ok_or("no version")?.to_string());
    }
    let anybody = cx.with(None);
    let version = |index: usize| get(&bucket, "k").query("versionId", &versions[index]);
    denied(&anybody, get(&bucket, "k")).await?;
    ok(&anybody, version(0)).await?;
    denied(&anybody, version(1)).await?;
    let acl =
        |method: &str, index: usize| object_acl(method, &bucket, "k").query("versionId", &versions[index]);
    let shown = cx.ok(acl("GET", 0)).await?;
    equal("version", shown.header("x-amz-version-id"), Some(versions[0].as_str()))?;
    cx.ok(canned(acl("PUT", 0), "private")).await?;
    cx.ok(canned(acl("PUT", 1), "public-read")).await?;
    denied(&anybody, version(0)).await?;
    ok(&anybody, get(&bucket, "k")).await?;
    equal("grants", list(&cx.client(), acl("GET", 0)).await?.1.len(), 1)?;
    cx.refused(object_acl("GET", &bucket, "never"), 404, "NoSuchKey").await?;
    cx.refused(canned(object_acl("PUT", &bucket, "never"), "private"), 404, "NoSuchKey").await
}

async fn a_bucket_is_made_with_a_list(cx: &Cx<'_>) -> Outcome {
    let create = |bucket: &str| Request::bucket("PUT", bucket);
    let bucket = cx.bucket_name();
    let refused_acl = canned(create(&bucket), "public-read");
    cx.refused(refused_acl, 400, "InvalidBucketAclWithObjectOwnership").await?;
    let wrong = create(&bucket).header("x-amz-object-ownership", "Everybody");
    cx.refused(wrong, 400, "InvalidArgument").await?;
    cx.refused(Request::bucket("HEAD", &bucket), 404, "").await?;
    cx.ok(canned(create(&bucket), "public-read").header("x-amz-object-ownership", "ObjectWriter")).await?;
    ok(&cx.with(None), Request::bucket("GET", &bucket)).await?;
    let private = cx.bucket_name();
    cx.ok(canned(create(&private), "private")).await?;
    cx.refused(controls("GET", &private), 404, "OwnershipControlsNotFoundError").await?;
    let preferred = cx.bucket_name();
    cx.ok(create(&preferred).header("x-amz-object-ownership", "BucketOwnerPreferred")).await?;
    let found = xml_of(&cx.ok(controls("GET", &preferred)).await?, "OwnershipControls")?;
    let found = found.child("Rule").map(|rule| rule.text_of("ObjectOwnership").to_string());
    equal("ownership", found.as_deref(), Some("BucketOwnerPreferred"))
}

async fn policies_that_deny_beat_lists(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let anybody = cx.with(None);
    for key in ["a", "b"] {
        cx.ok(canned(put(&bucket, key), "public-read")).await?;
        ok(&anybody, get(&bucket, key)).await?;
    }
    let deny = |action: &str, on: &str, rest: &str| {
        format!(
            "{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Deny\",\"Principal\":\"*\",\
             \"Action\":\"{action}\",\"Resource\":\"arn:aws:s3:::{bucket}/{on}\"{rest}}}]}}"
        )
    };
    let policy = |text: String| Request::bucket("PUT", &bucket).flag("policy").body(text);
    cx.ok(policy(deny("s3:GetObject", "a", ""))).await?;
    denied(&anybody, get(&bucket, "a")).await?;
    ok(&anybody, get(&bucket, "b")).await?;
    // What a policy rules out is not set either.
    let condition = ",\"Condition\":{\"StringEquals\":{\"s3:x-amz-acl\":\"public-read\"}}";
    cx.ok(policy(deny("s3:PutObject*", "*", condition))).await?;
    for request in [put(&bucket, "c"), object_acl("PUT", &bucket, "a")] {
        denied(&cx.client(), canned(request.clone(), "public-read")).await?;
        cx.ok(canned(request, "private")).await.map(drop)?;
    }
    let condition = ",\"Condition\":{\"StringLike\":{\"s3:x-amz-grant-read\":\"*AllUsers*\"}}";
    cx.ok(policy(deny("s3:PutObject*", "*", condition))).await?;
    let granted = put(&bucket, "c").header("x-amz-grant-read", format!("uri={ALL_USERS}"));
    denied(&cx.client(), granted).await?;
    cx.ok(put(&bucket, "c")).await.map(drop)
}

async fn public_lists_are_ruled_out(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let anybody = cx.with(None);
    cx.ok(canned(put(&bucket, "k"), "public-read")).await?;
    cx.ok(canned(bucket_acl("PUT", &bucket), "public-read")).await?;
    let block = |name: &str| {
        let inner = format!("<{name}>true</{name}>");
        let body = format!("<PublicAccessBlockConfiguration>{inner}</PublicAccessBlockConfiguration>");
        Request::bucket("PUT", &bucket).flag("publicAccessBlock").body(body).content_md5()
    };
    cx.ok(block("IgnorePublicAcls")).await?;
    denied(&anybody, get(&bucket, "k")).await?;
    denied(&anybody, Request::bucket("GET", &bucket)).await?;
    if let Some(other) = cx.other() {
        cx.ok(canned(object_acl("PUT", &bucket, "k"), "authenticated-read")).await?;
        denied(&other, get(&bucket, "k")).await?;
        cx.ok(object_acl("PUT", &bucket, "k").header("x-amz-grant-read", "id=other")).await?;
        ok(&other, get(&bucket, "k")).await?;
    }
    cx.ok(block("BlockPublicAcls")).await?;
    // What is there stays.
    ok(&anybody, Request::bucket("GET", &bucket)).await?;
    let upload = Request::object("POST", &bucket, "k").flag("uploads");
    for request in [put(&bucket, "k"), object_acl("PUT", &bucket, "k"), bucket_acl("PUT", &bucket), upload] {
        for acl in ["public-read", "public-read-write", "authenticated-read"] {
            denied(&cx.client(), canned(request.clone(), acl)).await?;
        }
        denied(&cx.client(), request.clone().header("x-amz-grant-read", format!("uri={ALL_USERS}"))).await?;
        cx.ok(canned(request, "private")).await?;
    }
    Ok(())
}

async fn lists_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = with_lists(cx).await?;
    let root = root(cx, &bucket).await?;
    cx.put(&bucket, "k", "x").await?;
    let owner = format!("<Owner><ID>{root}</ID></Owner>");
    let grant = |who: &str, permission: &str| {
        format!("<Grant><Grantee>{who}</Grantee><Permission>{permission}</Permission></Grant>")
    };
    let list = |grants: &str| format!("{owner}<AccessControlList>{grants}</AccessControlList>");
    let mine = format!("<ID>{root}</ID>");
    let targets = [bucket_acl("PUT", &bucket), object_acl("PUT", &bucket, "k")];
    for acl in targets {
        for (inner, code) in [
            (String::new(), "MalformedACLError"),
            (owner.clone(), "MalformedACLError"),
            (list(&grant(&mine, "EVERYTHING")), "MalformedACLError"),
            (list(&grant("", "READ")), "MalformedACLError"),
            (list("<Grant><Permission>READ</Permission></Grant>"), "MalformedACLError"),
            (list(&grant(&format!("{mine}<URI>{ALL_USERS}</URI>"), "READ")), "MalformedACLError"),
            (list("<Unknown/>"), "MalformedACLError"),
            (list(&grant(&mine, "READ").repeat(101)), "MalformedACLError"),
            (list(&grant("<ID>nobody-of-this-name</ID>", "READ")), "InvalidArgument"),
            (list(&grant("<ID>no name/</ID>", "READ")), "InvalidArgument"),
            (list(&grant("<URI>http://example.org/everybody</URI>", "READ")), "InvalidArgument"),
            (
                list(&grant("<EmailAddress>a@example.org</EmailAddress>", "READ")),
                "UnresolvableGrantByEmailAddress",
            ),
        ] {
            let body = format!("<AccessControlPolicy>{inner}</AccessControlPolicy>");
            cx.refused(acl.clone().body(body), 400, code)
                .await
                .map_err(|why| format!("{inner:.120}: {why}"))?;
        }
        let stolen = list(&grant(&mine, "FULL_CONTROL")).replace(&owner, "<Owner><ID>other</ID></Owner>");
        let stolen = acl.clone().body(format!("<AccessControlPolicy>{stolen}</AccessControlPolicy>"));
        denied(&cx.client(), stolen).await?;
        for (headers, code) in [
            (&[("x-amz-acl", "everybody")][..], "InvalidArgument"),
            (&[("x-amz-acl", "private"), ("x-amz-grant-read", "id=other")], "InvalidRequest"),
            (&[("x-amz-grant-read", "other")], "InvalidArgument"),
            (&[("x-amz-grant-read", "id=nobody-of-this-name")], "InvalidArgument"),
            (&[("x-amz-grant-write-acp", "emailAddress=a@b.c")], "UnresolvableGrantByEmailAddress"),
            (&[("x-amz-grant-read", "uri=everybody")], "InvalidArgument"),
        ] {
            let with = |request: Request| {
                headers.iter().fold(request, |request, (name, value)| request.header(name, value))
            };
            cx.refused(with(acl.clone()), 400, code).await.map_err(|why| format!("{headers:?}: {why}"))?;
            cx.refused(with(put(&bucket, "new")), 400, code).await?;
        }
        let both = canned(acl.clone(), "private").body("<AccessControlPolicy/>");
        cx.refused(both, 400, "UnexpectedContent").await?;
        cx.refused(acl, 400, "MissingRequestBodyError").await?;
    }
    cx.refused(get(&bucket, "new"), 404, "NoSuchKey").await
}

async fn without_lists_only_what_holds_anyway_is_taken(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for acl in ["private", "bucket-owner-full-control"] {
        cx.ok(canned(put(&bucket, "k"), acl)).await?;
        cx.ok(canned(object_acl("PUT", &bucket, "k"), acl)).await?;
    }
    let upload = Request::object("POST", &bucket, "k").flag("uploads");
    let copy = Request::object("PUT", &bucket, "copy").header("x-amz-copy-source", format!("{bucket}/k"));
    for request in
        [put(&bucket, "k"), upload, copy, object_acl("PUT", &bucket, "k"), bucket_acl("PUT", &bucket)]
    {
        let public = canned(request.clone(), "public-read");
        cx.refused(public, 400, "AccessControlListNotSupported").await?;
        let granted = request.header("x-amz-grant-read", format!("uri={ALL_USERS}"));
        cx.refused(granted, 400, "AccessControlListNotSupported").await?;
    }
    denied(&cx.with(None), get(&bucket, "k")).await
}
