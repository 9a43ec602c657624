//! Buckets served as websites: what their owners set, pages, redirects, and errors that people can read.
//!
//! Another gateway may go by older settings for some seconds, so these behaviours stay with one.

use super::{Cx, Outcome, behaviours, ensure, equal, has_header, refused, xml_of};
use crate::client::{Request, Response, Wire, exchange};
use crate::daemons::WEBSITE_DOMAIN;

behaviours![
    a_website_is_kept_and_removed,
    a_website_is_checked_when_it_is_set,
    a_website_shows_pages,
    a_website_is_found_by_its_host,
    a_website_shows_bytes_as_browsers_want_them,
    a_website_tells_of_errors,
    a_website_shows_what_everybody_may_read,
    a_website_sends_browsers_elsewhere,
    a_website_follows_its_routing_rules,
    a_website_only_reads,
];

const INDEX: &str = "<IndexDocument><Suffix>index.html</Suffix></IndexDocument>";
const ERROR: &str = "<ErrorDocument><Key>oops.html</Key></ErrorDocument>";

fn website(method: &str, bucket: &str) -> Request {
    Request::bucket(method, bucket).flag("website")
}

fn configuration(inner: &str) -> String {
    format!(
        "<WebsiteConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</WebsiteConfiguration>"
    )
}

async fn set(cx: &Cx<'_>, bucket: &str, inner: &str) -> Outcome {
    cx.ok(website("PUT", bucket).body(configuration(inner)).content_md5()).await.map(drop)
}

/// Lets everybody do this in a bucket.
async fn open(cx: &Cx<'_>, bucket: &str, actions: &str) -> Outcome {
    let policy = format!(
        "{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":[{actions}],\
         \"Resource\":[\"arn:aws:s3:::{bucket}\",\"arn:aws:s3:::{bucket}/*\"]}}]}}"
    );
    cx.ok(Request::bucket("PUT", bucket).flag("policy").body(policy)).await.map(drop)
}

/// A bucket that everybody may read, served as a website.
async fn site(cx: &Cx<'_>, inner: &str) -> Result<String, String> {
    let bucket = cx.bucket().await?;
    set(cx, &bucket, inner).await?;
    open(cx, &bucket, "\"s3:GetObject\",\"s3:ListBucket\"").await?;
    Ok(bucket)
}

async fn page(cx: &Cx<'_>, bucket: &str, key: &str, body: &str) -> Outcome {
    let put = Request::object("PUT", bucket, key).header("content-type", "text/html").body(body);
    cx.ok(put).await.map(drop)
}

/// A request of a browser.
fn visit(method: &str, host: &str, target: &str) -> Wire {
    Wire {
        method: method.to_string(),
        target: target.to_string(),
        headers: vec![("host".to_string(), host.to_string())],
        body: Vec::new(),
        generated: None,
    }
}

/// What a browser gets; nothing where the target serves no websites.
async fn sent(cx: &Cx<'_>, wire: &Wire) -> Result<Option<Response>, String> {
    let told = |error: std::io::Error| format!("{} {}: {error}", wire.method, wire.target);
    match cx.client().target().connect_websites(0).await.map_err(told)? {
        Some(stream) => exchange(stream, wire, None).await.map(Some).map_err(told),
        None => Ok(None),
    }
}

/// What a browser gets that asks the website of a bucket by its own name.
async fn seen(cx: &Cx<'_>, bucket: &str, target: &str) -> Result<Option<Response>, String> {
    sent(cx, &visit("GET", &format!("{bucket}.{WEBSITE_DOMAIN}"), target)).await
}

/// Looks at paths of one website: status, and what is in the body, or where the browser is sent.
async fn shows(cx: &Cx<'_>, bucket: &str, rows: &[(&str, u16, &str)]) -> Outcome {
    for (target, status, words) in rows {
        let Some(found) = seen(cx, bucket, target).await? else { return Ok(()) };
        let text = match found.header("location") {
            Some(location) => location.to_string(),
            None => String::from_utf8_lossy(&found.body).into_owned(),
        };
        let holds = match found.header("location") {
            Some(_) => text == *words,
            None => text.contains(words),
        };
        ensure(found.status == *status && holds, || {
            format!("{target}: expected {status} {words}, got {} {text:.600}", found.status)
        })?;
    }
    Ok(())
}

async fn a_website_is_kept_and_removed(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(website("GET", &bucket), 404, "NoSuchWebsiteConfiguration").await?;
    let rule = "<RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition><Redirect>\
                <ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith></Redirect></RoutingRule>";
    let inner = format!("{INDEX}{ERROR}<RoutingRules>{rule}</RoutingRules>");
    set(cx, &bucket, &inner).await?;
    let found = super::ok(&cx.gateway(1), website("GET", &bucket)).await?;
    equal("document", String::from_utf8_lossy(&found.body).contains(&inner), true)?;
    xml_of(&found, "WebsiteConfiguration")?;
    if let Some(other) = cx.other() {
        for method in ["GET", "DELETE"] {
            refused(&other, website(method, &bucket), 403, "AccessDenied").await?;
        }
        let put = website("PUT", &bucket).body(configuration(INDEX)).content_md5();
        refused(&other, put, 403, "AccessDenied").await?;
    }
    equal("status", cx.ok(website("DELETE", &bucket)).await?.status, 204)?;
    cx.refused(website("GET", &bucket), 404, "NoSuchWebsiteConfiguration").await?;
    equal("again", cx.ok(website("DELETE", &bucket)).await?.status, 204)?;
    cx.refused(website("GET", "no-such-bucket-at-all"), 404, "NoSuchBucket").await?;
    shows(cx, &bucket, &[("/", 404, "Code: NoSuchWebsiteConfiguration")]).await
}

async fn a_website_is_checked_when_it_is_set(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let all = "<RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>";
    let rules = |rule: &str| format!("{INDEX}<RoutingRules>{rule}</RoutingRules>");
    let rule = |inner: &str| rules(&format!("<RoutingRule>{inner}</RoutingRule>"));
    let to = |inner: &str| rule(&format!("<Redirect>{inner}</Redirect>"));
    let good = "<RoutingRule><Redirect><HostName>h</HostName></Redirect></RoutingRule>";
    for (inner, code) in [
        (String::new(), "InvalidArgument"),
        (ERROR.to_string(), "InvalidArgument"),
        (format!("{all}{INDEX}"), "InvalidArgument"),
        (INDEX.replace("index.html", "a/b"), "InvalidArgument"),
        (INDEX.replace("index.html", ""), "InvalidArgument"),
        (format!("{INDEX}{}", ERROR.replace("oops.html", "")), "MalformedXML"),
        (format!("{INDEX}<Unknown/>"), "MalformedXML"),
        (all.replace("</HostName>", "</HostName><Protocol>gopher</Protocol>"), "InvalidRequest"),
        (all.replace(">h<", ">h&#13;&#10;Set-Cookie: a<"), "InvalidRequest"),
        (rules(""), "MalformedXML"),
        (rules(&good.repeat(51)), "InvalidRequest"),
        (rule("<Condition/><Redirect><HostName>h</HostName></Redirect>"), "InvalidRequest"),
        (to("<HttpRedirectCode>200</HttpRedirectCode>"), "InvalidRequest"),
        (
            to("<ReplaceKeyWith>k</ReplaceKeyWith><ReplaceKeyPrefixWith>p</ReplaceKeyPrefixWith>"),
            "InvalidRequest",
        ),
        (
            rule(
                "<Condition><HttpErrorCodeReturnedEquals>200</HttpErrorCodeReturnedEquals></Condition>\
                 <Redirect><HostName>h</HostName></Redirect>",
            ),
            "InvalidRequest",
        ),
    ] {
        let put = website("PUT", &bucket).body(configuration(&inner)).content_md5();
        cx.refused(put, 400, code).await.map_err(|why| format!("{inner:.120}: {why}"))?;
    }
    cx.refused(website("PUT", &bucket), 400, "MissingRequestBodyError").await?;
    cx.ok(website("PUT", &bucket).body(configuration(INDEX))).await?;
    set(cx, &bucket, &rules(&good.repeat(50))).await?;
    for (location, code) in [("index.html", 400), ("//x", 200), ("ftp://x", 400), ("https://x/y", 200)] {
        let put = Request::object("PUT", &bucket, "k").header("x-amz-website-redirect-location", location);
        let upload = Request::object("POST", &bucket, "k")
            .flag("uploads")
            .header("x-amz-website-redirect-location", location);
        for request in [put, upload] {
            match code {
                200 => cx.ok(request).await.map(drop)?,
                _ => cx.refused(request, 400, "InvalidRedirectLocation").await?,
            }
        }
    }
    let head = cx.ok(Request::object("HEAD", &bucket, "k")).await?;
    has_header(&head, "x-amz-website-redirect-location", "https://x/y")
}

async fn a_website_shows_pages(cx: &Cx<'_>) -> Outcome {
    let bucket = site(cx, INDEX).await?;
    for (key, body) in [
        ("index.html", "home"),
        ("a/b/index.html", "deep"),
        ("a b/ü.html", "encoded"),
        ("both", "a page"),
        ("both/index.html", "a folder"),
        ("/index.html", "behind a slash"),
    ] {
        page(cx, &bucket, key, body).await?;
    }
    shows(
        cx,
        &bucket,
        &[
            ("/", 200, "home"),
            ("/index.html", 200, "home"),
            ("/?a=b", 200, "home"),
            ("/a/b/", 200, "deep"),
            ("/a/b", 302, "/a/b/"),
            ("/a/b?x=1%202", 302, "/a/b/?x=1%202"),
            ("/a/", 404, "Code: NoSuchKey"),
            ("/a%20b/%C3%BC.html", 200, "encoded"),
            ("/both", 200, "a page"),
            ("/both/", 200, "a folder"),
            ("//", 200, "behind a slash"),
            ("/never", 404, "Key: never"),
            ("/%3Cb%3E", 404, "Key: &lt;b&gt;"),
        ],
    )
    .await?;
    let host = format!("{bucket}.{WEBSITE_DOMAIN}");
    let Some(found) = sent(cx, &visit("GET", &host, "/")).await? else { return Ok(()) };
    has_header(&found, "content-type", "text/html")?;
    let head = sent(cx, &visit("HEAD", &host, "/")).await?.ok_or("no website")?;
    equal("head", (head.status, head.body.len()), (200, 0))?;
    has_header(&head, "content-length", "4")?;
    equal("etag", head.etag(), found.etag())
}

async fn a_website_is_found_by_its_host(cx: &Cx<'_>) -> Outcome {
    let bucket = site(cx, INDEX).await?;
    page(cx, &bucket, "index.html", "home").await?;
    page(cx, &bucket, "a/index.html", "deep").await?;
    let redirect = Request::object("PUT", &bucket, "to").header("x-amz-website-redirect-location", "/a/");
    cx.ok(redirect).await?;
    let domain = format!("{bucket}.{WEBSITE_DOMAIN}");
    let rows = [
        (domain.as_str(), "/a/", 200, "deep".to_string()),
        (&format!("{domain}:8080"), "/a/", 200, "deep".to_string()),
        (&domain.to_ascii_uppercase(), "/a/", 200, "deep".to_string()),
        // A bucket of exactly the name of the host, as with names of one's own.
        (bucket.as_str(), "/a/", 200, "deep".to_string()),
        ("127.0.0.1", &format!("/{bucket}/a/"), 200, "deep".to_string()),
        ("localhost:8080", &format!("/{bucket}/"), 200, "home".to_string()),
        ("[::1]:8080", &format!("/{bucket}/a"), 302, format!("/{bucket}/a/")),
        ("127.0.0.1", &format!("/{bucket}"), 302, format!("/{bucket}/")),
        ("127.0.0.1", &format!("/{bucket}/to"), 301, format!("/{bucket}/a/")),
        ("127.0.0.1", "/", 404, "Code: NoSuchBucket".to_string()),
        ("127.0.0.1", "/no-such-bucket-at-all/x", 404, "Code: NoSuchBucket".to_string()),
        ("elsewhere.example.org", "/a/", 404, "BucketName: elsewhere.example.org".to_string()),
        (WEBSITE_DOMAIN, "/", 404, "Code: NoSuchBucket".to_string()),
        ("127.0.0.1", "/..%2fa/x", 400, "Code: InvalidBucketName".to_string()),
        ("127.0.0.1", "/%", 400, "Code: InvalidURI".to_string()),
    ];
    for (host, target, status, words) in rows {
        let Some(found) = sent(cx, &visit("GET", host, target)).await? else { return Ok(()) };
        let body = String::from_utf8_lossy(&found.body).into_owned();
        let text = found.header("location").unwrap_or(&body);
        ensure(found.status == status && text.contains(&words), || {
            format!("{host} {target}: expected {status} {words}, got {} {text:.600}", found.status)
        })?;
    }
    Ok(())
}

async fn a_website_shows_bytes_as_browsers_want_them(cx: &Cx<'_>) -> Outcome {
    let bucket = site(cx, &format!("{INDEX}{ERROR}")).await?;
    let put = Request::object("PUT", &bucket, "index.html")
        .header("content-type", "text/html")
        .header("cache-control", "max-age=60")
        .header("content-language", "de")
        .header("x-amz-meta-a", "b")
        .body("0123456789");
    let stored = cx.ok(put).await?;
    page(cx, &bucket, "oops.html", "oops").await?;
    let host = format!("{bucket}.{WEBSITE_DOMAIN}");
    let ask = async |headers: &[(&str, &str)]| {
        let mut wire = visit("GET", &host, "/");
        let more = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        wire.headers.extend(more);
        sent(cx, &wire).await
    };
    let Some(whole) = ask(&[]).await? else { return Ok(()) };
    for (name, value) in [("cache-control", "max-age=60"), ("content-language", "de"), ("x-amz-meta-a", "b")]
    {
        has_header(&whole, name, value)?;
    }
    let tag = stored.etag();
    for (headers, status, body) in [
        (&[("range", "bytes=2-4")][..], 206, "234"),
        (&[("range", "bytes=2-4"), ("if-range", "\"other\"")], 200, "0123456789"),
        (&[("if-none-match", tag)], 304, ""),
        (&[("if-match", tag)], 200, "0123456789"),
        (&[("if-match", "\"other\"")], 412, "oops"),
        (&[("range", "bytes=99-")], 416, "oops"),
        (&[("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")], 304, ""),
        (&[("authorization", "AWS4-HMAC-SHA256 nonsense")], 200, "0123456789"),
        (&[("x-amz-expected-bucket-owner", "nobody")], 200, "0123456789"),
    ] {
        let found = ask(headers).await?.ok_or("no website")?;
        let got = (found.status, String::from_utf8_lossy(&found.body).into_owned());
        equal(&format!("{headers:?}"), got, (status, body.to_string()))?;
    }
    Ok(())
}

async fn a_website_tells_of_errors(cx: &Cx<'_>) -> Outcome {
    let bucket = site(cx, &format!("{INDEX}{ERROR}")).await?;
    let Some(missing) = seen(cx, &bucket, "/never").await? else { return Ok(()) };
    let text = String::from_utf8_lossy(&missing.body).into_owned();
    has_header(&missing, "content-type", "text/html; charset=utf-8")?;
    has_header(&missing, "x-amz-error-code", "NoSuchKey")?;
    let id = missing.header("x-amz-request-id").unwrap_or_default();
    for words in [
        "<h1>404 Not Found</h1>",
        "<li>Code: NoSuchKey</li>",
        "<li>Key: never</li>",
        &format!("<li>RequestId: {id}</li>"),
        "<li>HostId: ",
        "An Error Occurred While Attempting to Retrieve a Custom Error Document",
        "<li>Key: oops.html</li>",
    ] {
        ensure(text.contains(words), || format!("{words} is not in {text}"))?;
    }
    page(cx, &bucket, "oops.html", "my own page").await?;
    shows(cx, &bucket, &[("/never", 404, "my own page"), ("/", 404, "my own page")]).await?;
    let own = seen(cx, &bucket, "/never").await?.ok_or("no website")?;
    has_header(&own, "content-type", "text/html")?;
    has_header(&own, "x-amz-error-code", "NoSuchKey")?;
    let head = visit("HEAD", &format!("{bucket}.{WEBSITE_DOMAIN}"), "/never");
    let head = sent(cx, &head).await?.ok_or("no website")?;
    equal("head", (head.status, head.body.len()), (404, 0))?;
    let elsewhere =
        Request::object("PUT", &bucket, "oops.html").header("x-amz-website-redirect-location", "/sorry");
    cx.ok(elsewhere).await?;
    shows(cx, &bucket, &[("/never", 301, "/sorry")]).await
}

async fn a_website_shows_what_everybody_may_read(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    set(cx, &bucket, INDEX).await?;
    page(cx, &bucket, "index.html", "home").await?;
    page(cx, &bucket, "a/index.html", "deep").await?;
    shows(cx, &bucket, &[("/", 403, "Code: AccessDenied"), ("/a", 403, "Code: AccessDenied")]).await?;
    // Who may not list does not hear what there is not.
    open(cx, &bucket, "\"s3:GetObject\"").await?;
    let rows =
        [("/", 200, "home"), ("/never", 403, "Code: AccessDenied"), ("/a", 302, "/a/"), ("/a/", 200, "deep")];
    shows(cx, &bucket, &rows).await?;
    let block = "<PublicAccessBlockConfiguration><RestrictPublicBuckets>true</RestrictPublicBuckets>\
                 </PublicAccessBlockConfiguration>";
    let block = Request::bucket("PUT", &bucket).flag("publicAccessBlock").body(block).content_md5();
    cx.ok(block).await?;
    shows(cx, &bucket, &[("/", 403, "Code: AccessDenied"), ("/a", 403, "Code: AccessDenied")]).await
}

async fn a_website_sends_browsers_elsewhere(cx: &Cx<'_>) -> Outcome {
    let all = "<RedirectAllRequestsTo><HostName>example.org:81</HostName><Protocol>https</Protocol></RedirectAllRequestsTo>";
    let bucket = site(cx, all).await?;
    shows(
        cx,
        &bucket,
        &[
            ("/", 301, "https://example.org:81/"),
            ("/a%20b/?c=d", 301, "https://example.org:81/a%20b/?c=d"),
            ("//evil.org", 301, "https://example.org:81//evil.org"),
        ],
    )
    .await?;
    set(cx, &bucket, &all.replace("<Protocol>https</Protocol>", "")).await?;
    shows(cx, &bucket, &[("/x", 301, "http://example.org:81/x")]).await?;

    let bucket = site(cx, INDEX).await?;
    for (key, location) in [("old.html", "/new.html"), ("away", "https://example.org/?a=b#c")] {
        let put = Request::object("PUT", &bucket, key)
            .header("x-amz-website-redirect-location", location)
            .body("not seen");
        cx.ok(put).await?;
    }
    // It is not copied, unless it is said again.
    let copy = |key: &str| {
        Request::object("PUT", &bucket, key).header("x-amz-copy-source", format!("{bucket}/old.html"))
    };
    cx.ok(copy("copy")).await?;
    cx.ok(copy("moved").header("x-amz-website-redirect-location", "/moved.html")).await?;
    shows(
        cx,
        &bucket,
        &[
            ("/old.html", 301, "/new.html"),
            ("/away", 301, "https://example.org/?a=b#c"),
            ("/copy", 200, "not seen"),
            ("/moved", 301, "/moved.html"),
        ],
    )
    .await?;
    // S3 clients see the object.
    equal("body", cx.get(&bucket, "old.html").await?.body, b"not seen".to_vec())
}

async fn a_website_follows_its_routing_rules(cx: &Cx<'_>) -> Outcome {
    let rule = |condition: &str, redirect: &str| {
        let condition = match condition {
            "" => String::new(),
            condition => format!("<Condition>{condition}</Condition>"),
        };
        format!("<RoutingRule>{condition}<Redirect>{redirect}</Redirect></RoutingRule>")
    };
    let prefix = |prefix: &str| format!("<KeyPrefixEquals>{prefix}</KeyPrefixEquals>");
    let missing = "<HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals>";
    let rules = [
        rule(&prefix("docs/"), "<ReplaceKeyPrefixWith>documents/</ReplaceKeyPrefixWith>"),
        rule(
            &prefix("one"),
            "<ReplaceKeyWith>two.html?x=1</ReplaceKeyWith><HttpRedirectCode>307</HttpRedirectCode>",
        ),
        rule(&prefix("host/"), "<HostName>example.org</HostName>"),
        rule(&prefix("safe/"), "<Protocol>https</Protocol>"),
        rule(&prefix("up/"), "<ReplaceKeyPrefixWith></ReplaceKeyPrefixWith>"),
        rule(
            &format!("{missing}{}", prefix("app/")),
            "<ReplaceKeyPrefixWith>#!/</ReplaceKeyPrefixWith><HttpRedirectCode>302</HttpRedirectCode>",
        ),
        rule(missing, "<HostName>lost.example.org</HostName><Protocol>https</Protocol>"),
    ];
    let bucket = site(cx, &format!("{INDEX}{ERROR}<RoutingRules>{}</RoutingRules>", rules.concat())).await?;
    page(cx, &bucket, "app/there", "there").await?;
    page(cx, &bucket, "docs/there", "never seen").await?;
    page(cx, &bucket, "oops.html", "oops").await?;
    let host = format!("{bucket}.{WEBSITE_DOMAIN}");
    shows(
        cx,
        &bucket,
        &[
            ("/docs/there", 301, "/documents/there"),
            ("/docs/a%20b%3F?q=1", 301, "/documents/a%20b%3F?q=1"),
            ("/one/x?q=1", 307, "/two.html?x=1"),
            ("/host/a", 301, "http://example.org/host/a"),
            ("/safe/a", 301, &format!("https://{host}/safe/a")),
            ("/up//evil.org/x", 301, "/%2Fevil.org/x"),
            ("/app/there", 200, "there"),
            ("/app/x/y", 302, "/#!/x/y"),
            ("/never", 301, "https://lost.example.org/never"),
        ],
    )
    .await
}

async fn a_website_only_reads(cx: &Cx<'_>) -> Outcome {
    let bucket = site(cx, INDEX).await?;
    page(cx, &bucket, "index.html", "home").await?;
    open(cx, &bucket, "\"s3:*\"").await?;
    for target in [
        "/?list-type=2",
        "/?acl",
        "/?policy",
        "/?website",
        "/?versions",
        "/?uploads",
        "/index.html?versionId=null",
        "/index.html?tagging",
        "/index.html?partNumber=1",
        "/index.html?response-content-type=text/plain",
        "/?versionId=..%2F",
        "/?%",
    ] {
        shows(cx, &bucket, &[(target, 200, "home")]).await?;
    }
    let host = format!("{bucket}.{WEBSITE_DOMAIN}");
    for method in ["PUT", "POST", "DELETE", "OPTIONS"] {
        let wire = Wire { body: b"x".to_vec(), ..visit(method, &host, "/index.html") };
        let wire = wire.add("content-length", 1);
        let Some(found) = sent(cx, &wire).await? else { return Ok(()) };
        equal(method, (found.status, found.header("x-amz-error-code")), (405, Some("MethodNotAllowed")))?;
        has_header(&found, "allow", "GET, HEAD")?;
    }
    // What is signed is done here as little.
    let mut signed = cx.client().sign(Request::object("DELETE", &bucket, "index.html"));
    signed = signed.without("host").add("host", &host);
    let found = sent(cx, &signed).await?.ok_or("no website")?;
    equal("signed", found.status, 405)?;
    let hidden = cx.ok(Request::object("DELETE", &bucket, "index.html")).await?;
    equal("deleted", hidden.status, 204)?;
    shows(cx, &bucket, &[("/", 404, "Code: NoSuchKey")]).await
}
