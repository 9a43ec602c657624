//! Buckets: creating, finding, listing, deleting, and who may.

use super::{Cx, Outcome, behaviours, ensure, equal, ok, refused, xml_of};
use crate::client::{Element, Request};

behaviours![
    buckets_are_created_found_and_deleted,
    creating_again_is_harmless_for_the_owner,
    buckets_are_listed,
    the_list_of_buckets_has_pages,
    a_bucket_with_an_object_is_not_deleted,
    missing_buckets_are_named,
    the_location_of_us_east_1_is_empty,
    versioning_is_well_formed_and_off,
    another_user_gets_403,
    an_unsigned_head_gives_the_region,
    odd_names_are_ordinary_buckets,
    probes_of_what_is_not_there_are_answered,
    public_access_is_blocked,
    ownership_is_what_it_is,
];

async fn buckets_are_created_found_and_deleted(cx: &Cx<'_>) -> Outcome {
    let name = cx.bucket_name();
    let created = cx.ok(Request::bucket("PUT", &name)).await?;
    equal("location", created.header("location").unwrap_or_default(), &format!("/{name}"))?;
    let head = cx.ok(Request::bucket("HEAD", &name)).await?;
    equal("region", head.header("x-amz-bucket-region"), Some("us-east-1"))?;
    // Every gateway knows it at once.
    ok(&cx.gateway(1), Request::bucket("HEAD", &name)).await?;
    equal("status", cx.ok(Request::bucket("DELETE", &name)).await?.status, 204)?;
    cx.refused(Request::bucket("DELETE", &name), 404, "NoSuchBucket").await?;
    // And at once that it is gone.
    refused(&cx.gateway(1), Request::bucket("HEAD", &name), 404, "NoSuchBucket").await
}

async fn creating_again_is_harmless_for_the_owner(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(Request::bucket("PUT", &bucket)).await?;
    if let Some(other) = cx.other() {
        refused(&other, Request::bucket("PUT", &bucket), 409, "BucketAlreadyExists").await?;
    }
    let body = "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
    let elsewhere = Request::bucket("PUT", &cx.bucket_name()).body(body);
    cx.refused(elsewhere, 400, "IllegalLocationConstraintException").await
}

fn names(root: &Element) -> Vec<String> {
    let buckets = root.child("Buckets").cloned().unwrap_or_default();
    buckets.all("Bucket").map(|bucket| bucket.text_of("Name").to_string()).collect()
}

async fn buckets_are_listed(cx: &Cx<'_>) -> Outcome {
    let (first, second) = (cx.bucket().await?, cx.bucket().await?);
    let root = xml_of(&cx.ok(Request::new("GET", "/")).await?, "ListAllMyBucketsResult")?;
    let listed = names(&root);
    ensure(listed.contains(&first) && listed.contains(&second), || format!("listed: {listed:?}"))?;
    ensure(listed.is_sorted(), || format!("not sorted: {listed:?}"))?;
    let owner = root.child("Owner").cloned().unwrap_or_default();
    ensure(!owner.text_of("ID").is_empty(), || "no owner".to_string())?;
    let other = cx.other().ok_or("no other user")?;
    let foreign = names(&xml_of(&ok(&other, Request::new("GET", "/")).await?, "ListAllMyBucketsResult")?);
    ensure(!foreign.contains(&first), || "another user sees the bucket".to_string())
}

async fn the_list_of_buckets_has_pages(cx: &Cx<'_>) -> Outcome {
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(cx.bucket().await?);
    }
    let prefix = created[0].trim_end_matches('0').to_string();
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let mut request = Request::new("GET", "/").query("max-buckets", 2).query("prefix", &prefix);
        if !token.is_empty() {
            request = request.query("continuation-token", &token);
        }
        let root = xml_of(&cx.ok(request).await?, "ListAllMyBucketsResult")?;
        let region = root.child("Buckets").and_then(|buckets| buckets.child("Bucket").cloned());
        equal("region", region.unwrap_or_default().text_of("BucketRegion"), "us-east-1")?;
        let page = names(&root);
        ensure(page.len() <= 2, || format!("a page of {}", page.len()))?;
        listed.extend(page);
        token = root.text_of("ContinuationToken").to_string();
        if token.is_empty() {
            break;
        }
    }
    equal("buckets", listed, created)?;
    for (region, count) in [("us-east-1", 5), ("eu-west-1", 0)] {
        let request = Request::new("GET", "/").query("bucket-region", region).query("prefix", &prefix);
        let root = xml_of(&cx.ok(request).await?, "ListAllMyBucketsResult")?;
        equal(region, names(&root).len(), count)?;
    }
    Ok(())
}

async fn a_bucket_with_an_object_is_not_deleted(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    cx.refused(Request::bucket("DELETE", &bucket), 409, "BucketNotEmpty").await?;
    cx.ok(Request::object("DELETE", &bucket, "k")).await?;
    cx.ok(Request::bucket("DELETE", &bucket)).await?;
    Ok(())
}

async fn missing_buckets_are_named(cx: &Cx<'_>) -> Outcome {
    let name = cx.bucket_name();
    cx.refused(Request::object("GET", &name, "k"), 404, "NoSuchBucket").await?;
    cx.refused(Request::object("PUT", &name, "k").body("x"), 404, "NoSuchBucket").await?;
    cx.refused(Request::object("DELETE", &name, "k"), 404, "NoSuchBucket").await?;
    cx.refused(Request::bucket("GET", &name), 404, "NoSuchBucket").await?;
    cx.refused(Request::object("POST", &name, "k").flag("uploads"), 404, "NoSuchBucket").await
}

async fn the_location_of_us_east_1_is_empty(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let response = cx.ok(Request::bucket("GET", &bucket).flag("location")).await?;
    equal("location", xml_of(&response, "LocationConstraint")?.text, String::new())
}

async fn versioning_is_well_formed_and_off(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let response = cx.ok(Request::bucket("GET", &bucket).flag("versioning")).await?;
    equal("children", xml_of(&response, "VersioningConfiguration")?.children.len(), 0)
}

async fn another_user_gets_403(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "mine").await?;
    let other = cx.other().ok_or("no other user")?;
    for request in [
        Request::object("GET", &bucket, "k"),
        Request::object("HEAD", &bucket, "k"),
        Request::object("PUT", &bucket, "k").body("theirs"),
        Request::object("DELETE", &bucket, "k"),
        Request::bucket("GET", &bucket).query("list-type", 2),
        Request::bucket("GET", &bucket).flag("uploads"),
        Request::bucket("HEAD", &bucket),
        Request::bucket("DELETE", &bucket),
        Request::object("POST", &bucket, "k").flag("uploads"),
    ] {
        refused(&other, request, 403, "AccessDenied").await?;
    }
    let theirs = cx.bucket_name();
    ok(&other, Request::bucket("PUT", &theirs)).await?;
    let copy = Request::object("PUT", &theirs, "k").header("x-amz-copy-source", format!("/{bucket}/k"));
    refused(&other, copy, 403, "AccessDenied").await?;
    cx.refused(Request::bucket("PUT", &theirs), 409, "BucketAlreadyExists").await?;
    ok(&other, Request::bucket("DELETE", &theirs)).await?;
    equal("body", cx.get(&bucket, "k").await?.body, b"mine".to_vec())
}

async fn an_unsigned_head_gives_the_region(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let response =
        cx.with(None).send(Request::bucket("HEAD", &bucket)).await.map_err(|error| error.to_string())?;
    equal("status", response.status, 403)?;
    equal("region", response.header("x-amz-bucket-region"), Some("us-east-1"))
}

async fn odd_names_are_ordinary_buckets(cx: &Cx<'_>) -> Outcome {
    for name in ["health", "metrics", "admin", "a.b.c", "123"] {
        cx.ok(Request::bucket("PUT", name)).await?;
        cx.put(name, "live", "x").await?;
        equal("body", cx.get(name, "live").await?.body, b"x".to_vec())?;
        cx.ok(Request::object("DELETE", name, "live")).await?;
        cx.ok(Request::bucket("DELETE", name)).await?;
    }
    Ok(())
}

/// Tools ask for these before they do anything else; the answers are what AWS gives for a bare bucket.
async fn probes_of_what_is_not_there_are_answered(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for (flag, code) in [
        ("policy", "NoSuchBucketPolicy"),
        ("policyStatus", "NoSuchBucketPolicy"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("metadataTable", "MetadataConfigurationNotFound"),
    ] {
        cx.refused(Request::bucket("GET", &bucket).flag(flag), 404, code).await?;
    }
    for (flag, root) in [
        ("acl", "AccessControlPolicy"),
        ("logging", "BucketLoggingStatus"),
        ("notification", "NotificationConfiguration"),
        ("accelerate", "AccelerateConfiguration"),
        ("requestPayment", "RequestPaymentConfiguration"),
        ("analytics", "ListBucketAnalyticsConfigurationResult"),
        ("metrics", "ListMetricsConfigurationsResult"),
        ("inventory", "ListInventoryConfigurationsResult"),
        ("intelligent-tiering", "ListBucketIntelligentTieringConfigurationsOutput"),
    ] {
        xml_of(&cx.ok(Request::bucket("GET", &bucket).flag(flag)).await?, root)?;
        if let Some(other) = cx.other() {
            refused(&other, Request::bucket("GET", &bucket).flag(flag), 403, "AccessDenied").await?;
        }
    }
    let one = Request::bucket("GET", &bucket).flag("metrics").query("id", "x");
    cx.refused(one, 404, "NoSuchConfiguration").await?;
    cx.refused(Request::bucket("GET", &bucket).flag("torrent"), 501, "NotImplemented").await?;
    cx.put(&bucket, "k", "x").await?;
    let acl = cx.ok(Request::object("GET", &bucket, "k").flag("acl")).await?;
    let grants = xml_of(&acl, "AccessControlPolicy")?;
    let grant = grants.child("AccessControlList").and_then(|list| list.child("Grant")).ok_or("no grant")?;
    equal("permission", grant.text_of("Permission"), "FULL_CONTROL")?;
    cx.refused(Request::object("GET", &bucket, "never").flag("acl"), 404, "NoSuchKey").await?;
    Ok(())
}

async fn public_access_is_blocked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let request = |method: &str| Request::bucket(method, &bucket).flag("publicAccessBlock");
    let document =
        |inner: &str| format!("<PublicAccessBlockConfiguration>{inner}</PublicAccessBlockConfiguration>");
    let all = "<BlockPublicAcls>true</BlockPublicAcls><BlockPublicPolicy>TRUE</BlockPublicPolicy>";
    cx.ok(request("PUT").body(document(all)).content_md5()).await?;
    let found = ok(&cx.gateway(1), request("GET")).await?;
    let found = xml_of(&found, "PublicAccessBlockConfiguration")?;
    for (name, value) in [
        ("BlockPublicAcls", "true"),
        ("IgnorePublicAcls", "false"),
        ("BlockPublicPolicy", "true"),
        ("RestrictPublicBuckets", "false"),
    ] {
        equal(name, found.text_of(name), value)?;
    }
    for inner in ["<Unknown>true</Unknown>", "<BlockPublicAcls>maybe</BlockPublicAcls>", &all.repeat(2)] {
        let wrong = request("PUT").body(document(inner)).content_md5();
        cx.refused(wrong, 400, "MalformedXML").await?;
    }
    // Nobody sees anything without a signature, whatever is set.
    cx.put(&bucket, "k", "x").await?;
    refused(&cx.with(None), Request::object("GET", &bucket, "k"), 403, "AccessDenied").await?;
    equal("status", cx.ok(request("DELETE")).await?.status, 204)?;
    refused(&cx.with(None), Request::object("GET", &bucket, "k"), 403, "AccessDenied").await?;
    cx.refused(request("GET"), 404, "NoSuchPublicAccessBlockConfiguration").await
}

async fn ownership_is_what_it_is(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.put(&bucket, "k", "x").await?;
    let controls = |method: &str| Request::bucket(method, &bucket).flag("ownershipControls");
    let document = |ownership: &str| {
        format!(
            "<OwnershipControls><Rule><ObjectOwnership>{ownership}</ObjectOwnership></Rule></OwnershipControls>"
        )
    };
    cx.ok(controls("PUT").body(document("BucketOwnerEnforced")).content_md5()).await?;
    let found = xml_of(&cx.ok(controls("GET")).await?, "OwnershipControls")?;
    equal(
        "rule",
        found.child("Rule").map(|rule| rule.text_of("ObjectOwnership")),
        Some("BucketOwnerEnforced"),
    )?;
    let wanted = controls("PUT").body(document("Everybody")).content_md5();
    cx.refused(wanted, 400, "MalformedXML").await?;
    equal("status", cx.ok(controls("DELETE")).await?.status, 204)?;
    cx.refused(controls("GET"), 404, "OwnershipControlsNotFoundError").await?;

    let shown = cx.ok(Request::bucket("GET", &bucket).flag("acl")).await?;
    let shown = String::from_utf8_lossy(&shown.body).to_string();
    for target in [Request::bucket("PUT", &bucket), Request::object("PUT", &bucket, "k")] {
        let acl = target.flag("acl");
        cx.ok(acl.clone().header("x-amz-acl", "private")).await?;
        cx.ok(acl.clone().body(shown.as_str())).await?;
        let public = acl.clone().header("x-amz-acl", "public-read");
        cx.refused(public, 400, "AccessControlListNotSupported").await?;
        let read = shown.replace("FULL_CONTROL", "READ");
        cx.refused(acl.clone().body(read), 400, "AccessControlListNotSupported").await?;
        cx.refused(acl.clone().body("<Wrong/>"), 400, "MalformedACLError").await?;
        cx.refused(acl, 400, "MissingRequestBodyError").await?;
    }
    let payment = |payer: &str| {
        let body =
            format!("<RequestPaymentConfiguration><Payer>{payer}</Payer></RequestPaymentConfiguration>");
        Request::bucket("PUT", &bucket).flag("requestPayment").body(body).content_md5()
    };
    cx.ok(payment("BucketOwner")).await?;
    cx.refused(payment("Requester"), 501, "NotImplemented").await
}
