//! Pages of other origins: the rules of a bucket, the browser's question, and what answers tell it.

use super::{Cx, Outcome, behaviours, equal, has_header, refused, xml_of};
use crate::client::{Request, Response};

behaviours![
    cors_rules_are_kept_and_removed,
    a_browser_is_told_what_a_page_may_do,
    cors_rules_are_checked,
    without_rules_no_page_sees_anything,
];

const RULES: &str = "<CORSConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><CORSRule><ID>app</ID>\
     <AllowedOrigin>https://*.example.org</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>\
     <AllowedMethod>GET</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
     <MaxAgeSeconds>300</MaxAgeSeconds></CORSRule><CORSRule><AllowedOrigin>*</AllowedOrigin>\
     <AllowedMethod>HEAD</AllowedMethod></CORSRule></CORSConfiguration>";
const PAGE: &str = "https://app.example.org";

fn rules(method: &str, bucket: &str) -> Request {
    Request::bucket(method, bucket).flag("cors")
}

async fn with_rules(cx: &Cx<'_>) -> Result<String, String> {
    let bucket = cx.bucket().await?;
    cx.ok(rules("PUT", &bucket).body(RULES).content_md5()).await?;
    Ok(bucket)
}

fn preflight(bucket: &str, origin: &str, method: &str) -> Request {
    Request::object("OPTIONS", bucket, "k")
        .header("origin", origin)
        .header("access-control-request-method", method)
}

async fn ask(cx: &Cx<'_>, request: Request) -> Result<Response, String> {
    super::ok(&cx.with(None), request).await
}

async fn cors_rules_are_kept_and_removed(cx: &Cx<'_>) -> Outcome {
    let bucket = with_rules(cx).await?;
    let found = super::ok(&cx.gateway(1), rules("GET", &bucket)).await?;
    let found = xml_of(&found, "CORSConfiguration")?;
    equal("rules", found.all("CORSRule").count(), 2)?;
    let first = found.child("CORSRule").ok_or("no rule")?;
    for (name, text) in [("ID", "app"), ("AllowedOrigin", "https://*.example.org"), ("MaxAgeSeconds", "300")]
    {
        equal(name, first.text_of(name), text)?;
    }
    equal("status", cx.ok(rules("DELETE", &bucket)).await?.status, 204)?;
    cx.refused(rules("GET", &bucket), 404, "NoSuchCORSConfiguration").await?;
    if let Some(other) = cx.other() {
        refused(&other, rules("GET", &bucket), 403, "AccessDenied").await?;
    }
    Ok(())
}

async fn a_browser_is_told_what_a_page_may_do(cx: &Cx<'_>) -> Outcome {
    let bucket = with_rules(cx).await?;
    let wanted =
        preflight(&bucket, PAGE, "PUT").header("access-control-request-headers", "X-Amz-Date, x-amz-acl");
    let allowed = ask(cx, wanted).await?;
    for (name, value) in [
        ("access-control-allow-origin", PAGE),
        ("access-control-allow-methods", "PUT, GET"),
        ("access-control-allow-headers", "x-amz-date, x-amz-acl"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "300"),
        ("access-control-expose-headers", "ETag"),
    ] {
        has_header(&allowed, name, value)?;
    }
    let forbidden = [
        preflight(&bucket, "https://example.org.evil", "PUT"),
        preflight(&bucket, PAGE, "DELETE"),
        preflight(&bucket, PAGE, "PUT").header("access-control-request-headers", "authorization"),
        preflight(&bucket, "null", "GET"),
    ];
    for request in forbidden {
        refused(&cx.with(None), request, 403, "AccessForbidden").await?;
    }
    let without = Request::object("OPTIONS", &bucket, "k");
    refused(&cx.with(None), without, 400, "BadRequest").await?;

    cx.put(&bucket, "k", "x").await?;
    let get = cx.ok(Request::object("GET", &bucket, "k").header("origin", PAGE)).await?;
    has_header(&get, "access-control-allow-origin", PAGE)?;
    has_header(&get, "access-control-expose-headers", "ETag")?;
    let evil = cx.ok(Request::object("GET", &bucket, "k").header("origin", "https://evil")).await?;
    equal("evil", evil.header("access-control-allow-origin"), None)?;
    let head = cx.ok(Request::object("HEAD", &bucket, "k").header("origin", "https://evil")).await?;
    has_header(&head, "access-control-allow-origin", "*")?;
    equal("credentials", head.header("access-control-allow-credentials"), None)?;
    // A page learns of errors, too.
    let missing = Request::object("GET", &bucket, "never").header("origin", PAGE);
    let missing = cx.client().send(missing).await.map_err(|error| error.to_string())?;
    equal("status", missing.status, 404)?;
    has_header(&missing, "access-control-allow-origin", PAGE)
}

async fn cors_rules_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let rule = |inner: &str| format!("<CORSConfiguration><CORSRule>{inner}</CORSRule></CORSConfiguration>");
    let origin = "<AllowedOrigin>*</AllowedOrigin>";
    let get = "<AllowedMethod>GET</AllowedMethod>";
    let many = format!("<CORSRule>{origin}{get}</CORSRule>").repeat(101);
    for (body, code) in [
        (rule(""), "MalformedXML"),
        (rule(origin), "MalformedXML"),
        (rule(get), "MalformedXML"),
        (rule(&format!("{origin}{get}<Unknown/>")), "MalformedXML"),
        (rule(&format!("{origin}{get}<MaxAgeSeconds>soon</MaxAgeSeconds>")), "MalformedXML"),
        (rule(&format!("{origin}<AllowedMethod>PATCH</AllowedMethod>")), "InvalidRequest"),
        (rule(&format!("<AllowedOrigin>*.*</AllowedOrigin>{get}")), "InvalidRequest"),
        (rule(&format!("{origin}{get}<ExposeHeader>*</ExposeHeader>")), "InvalidRequest"),
        (format!("<CORSConfiguration>{many}</CORSConfiguration>"), "MalformedXML"),
        ("<CORSConfiguration/>".to_string(), "MalformedXML"),
    ] {
        let put = rules("PUT", &bucket).body(body.clone()).content_md5();
        cx.refused(put, 400, code).await.map_err(|why| format!("{body:.80}: {why}"))?;
    }
    cx.refused(rules("GET", &bucket), 404, "NoSuchCORSConfiguration").await
}

async fn without_rules_no_page_sees_anything(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    refused(&cx.with(None), preflight(&bucket, PAGE, "GET"), 403, "AccessForbidden").await?;
    refused(&cx.with(None), preflight("no-such-bucket-at-all", PAGE, "GET"), 403, "AccessForbidden").await?;
    cx.put(&bucket, "k", "x").await?;
    let get = cx.ok(Request::object("GET", &bucket, "k").header("origin", PAGE)).await?;
    equal("told", get.header("access-control-allow-origin"), None)
}
