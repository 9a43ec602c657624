//! E: keys, bucket names, listings, sub-resources; and what answers echo (parts of H and I).

use super::scene::{BUCKET, EMPTY, KEY, SCRATCH};
use super::{Case, Expect, Scene};
use crate::client::{Auth, Request, encode_uri};

fn argument() -> Expect {
    Expect::error(400, "InvalidArgument")
}

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = keys(scene);
    cases.extend(buckets(scene));
    cases.extend(listings(scene));
    cases.extend(sub_resources(scene));
    cases.extend(searches(scene));
    cases.extend(answers(scene));
    cases.extend(authorisation(scene));
    cases
}

fn keys(scene: &Scene<'_>) -> Vec<Case> {
    let put = |key: &str| scene.sign(Request::object("PUT", SCRATCH, key).body("x"));
    let long = Expect::error(400, "KeyTooLongError");
    let mut cases = vec![
        Case::new("H097", "1,024 bytes", put(&"k".repeat(1024)), Expect::status(200)),
        Case::new("H097", "1,024 bytes of two-byte letters", put(&"é".repeat(512)), Expect::status(200)),
        Case::new("H098", "1,025 bytes", put(&"k".repeat(1025)), long.clone()),
        Case::new("H098", "1,025 bytes, a letter over the edge", put(&format!("k{}", "é".repeat(512))), long),
    ];
    let opaque =
        [".", "..", "./", "/..", "../../etc/passwd", "a/../../b", "a/../b", "..\\..\\x", ".fluffy.sys/x"];
    for key in opaque {
        let id = match key {
            "a/../b" => "H100",
            ".fluffy.sys/x" => "H108",
            key if key.contains('\\') => "H101",
            _ => "H099",
        };
        cases.push(Case::new(id, format!("the key {key}"), put(key), Expect::status(200)));
    }
    let raw = |method: &str, encoded: &str| {
        let path = format!("/{SCRATCH}/{encoded}");
        scene.sign(Request::new(method, path).body(if method == "PUT" { "x" } else { "" }))
    };
    for encoded in ["%2e%2e%2fa", "..%2fa", "%252e%252e", "%2E"] {
        cases.push(Case::new("H105", format!("the key {encoded}"), raw("PUT", encoded), Expect::status(200)));
    }
    cases.extend(strange_keys(scene));
    let uri = || Expect::error(400, "InvalidURI");
    for (id, encoded) in [
        ("H102", "%00"),
        ("H102", "a%00b"),
        ("H103", "%c0%af"),
        ("H103", "%ed%a0%80"),
        ("H103", "%ff"),
        ("H104", "%zz"),
        ("H104", "%2"),
        ("H104", "%"),
    ] {
        cases.push(Case::new(id, format!("the key {encoded}"), raw("PUT", encoded), uri()));
        cases.push(Case::new(id, format!("the key {encoded} of a get"), raw("GET", encoded), uri()));
    }
    cases
}

/// Keys that are right: each is stored as itself, and a listing of it is well-formed in both encodings.
fn strange_keys(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    let keys = [
        ("H106", "\u{1}", "%01"),
        ("H106", "\u{1f}\t\n\r", "%1F%09%0A%0D"),
        ("H106", "\u{fffe}", "%EF%BF%BE"),
        ("H106", "]]>", "%5D%5D%3E"),
        ("H106", "<script>alert(1)</script>", "%3Cscript%3Ealert%281%29%3C/script%3E"),
        ("H106", "😀", "%F0%9F%98%80"),
        ("H107", "nf/é", "nf/%C3%A9"),
        ("H107", "nf/e\u{301}", "nf/e%CC%81"),
    ];
    for (id, key, encoded) in keys {
        let put = scene.sign(Request::object("PUT", SCRATCH, key).body("x"));
        cases.push(Case::new(id, format!("the key {encoded}"), put, Expect::status(200)));
        let list = Request::bucket("GET", SCRATCH).query("list-type", 2).query("prefix", key);
        let plain = Expect::status(200).containing("<KeyCount>1</KeyCount>").hiding("<script>");
        cases.push(Case::new(id, format!("a listing of {encoded}"), scene.sign(list.clone()), plain));
        let expect = Expect::status(200).containing(&format!("<Key>{encoded}</Key>"));
        let list = scene.sign(list.query("encoding-type", "url"));
        cases.push(Case::new(id, format!("an encoded listing of {encoded}"), list, expect));
    }
    cases
}

fn buckets(scene: &Scene<'_>) -> Vec<Case> {
    let long = "b".repeat(64);
    let names =
        ["aa", &long, "Upper", "under_score", "a..b", "-a-", "192.168.0.1", "xn--a", "a-s3alias", "%2e%2e"];
    let mut cases: Vec<Case> = names
        .into_iter()
        .map(|name| {
            let wire = scene.sign(Request::new("PUT", format!("/{name}")));
            Case::new("H109", format!("the bucket {name}"), wire, Expect::error(400, "InvalidBucketName"))
        })
        .collect();
    // Names that mean something on the admin port mean nothing here.
    for name in ["health", "metrics", "admin"] {
        for (method, status) in [("PUT", 200), ("GET", 200), ("DELETE", 204)] {
            let wire = scene.sign(Request::bucket(method, name));
            cases.push(Case::new(
                "H110",
                format!("{method} of the bucket {name}"),
                wire,
                Expect::status(status),
            ));
        }
    }
    cases
}

/// Queries that are none, that cost too much, and cursors of nothing.
fn searches(scene: &Scene<'_>) -> Vec<Case> {
    let search = |query: &str| Request::bucket("GET", BUCKET).flag("search").query("q", query);
    let mut cases = Vec::new();
    for (what, query) in [
        ("nothing", ""),
        ("an open quote", "\"a"),
        ("an unknown field", "colour:red"),
        ("a size that is none", "size:>1XB"),
        ("a time that is none", "modified:2026-02-30"),
        ("a broken regular expression", "name:/(/"),
        ("a regular expression that grows", "name:/(a{1000}){1000}/"),
        ("a regular expression that nests", &format!("name:/{}a{}/", "(".repeat(100), ")".repeat(100))),
        ("too many words", &"a ".repeat(17)),
        ("too many letters", &"a".repeat(1025)),
    ] {
        let wire = scene.sign(search(query));
        cases.push(Case::new("H115", format!("a search for {what}"), wire, argument()));
    }
    for (name, value) in [
        ("sort", "colour"),
        ("order", "up"),
        ("format", "csv"),
        ("as-of", "-1"),
        ("as-of", "99999999999999999999"),
        ("max-keys", "x"),
        ("continuation-token", "abc"),
        ("continuation-token", ""),
    ] {
        let wire = scene.sign(search("a").query(name, value));
        cases.push(Case::new("H115", format!("a search with {name}={value}"), wire, argument()));
    }
    let slow = scene.sign(search("name:/^(a+)+$/"));
    cases.push(Case::new("H115", "a search that would go back for ever", slow, Expect::status(200)));
    let long = scene.sign(search(&"a".repeat(1 << 20)));
    let expect = Expect::any(&[(400, ""), (414, "")]).or_close();
    cases.push(Case::new("H115", "a search for a million letters", long, expect));
    let late = scene.sign(search("a").query("as-of", u64::MAX));
    cases.push(Case::new("H115", "a search as new as the end of time", late, Expect::error(503, "SlowDown")));
    cases
}

fn listings(scene: &Scene<'_>) -> Vec<Case> {
    let list =
        |name: &str, value: &str| Request::bucket("GET", BUCKET).query("list-type", 2).query(name, value);
    let mut cases = Vec::new();
    for value in ["-1", "abc", "9223372036854775808", "1.5"] {
        cases.push(Case::new(
            "H111",
            format!("max-keys {value}"),
            scene.sign(list("max-keys", value)),
            argument(),
        ));
        let first = Request::bucket("GET", BUCKET).query("max-keys", value);
        cases.push(Case::new("H111", format!("max-keys {value}, version 1"), scene.sign(first), argument()));
    }
    let empty = Expect::status(200).containing("<KeyCount>0</KeyCount>");
    cases.push(Case::new("H112", "max-keys 0", scene.sign(list("max-keys", "0")), empty));
    let million = Expect::status(200).containing("<MaxKeys>1000</MaxKeys>");
    cases.push(Case::new("H112", "max-keys 1,000,000", scene.sign(list("max-keys", "1000000")), million));
    for token in ["garbage", "AAAA", "../../x", "%%%", &"A".repeat(4000)] {
        let short: String = token.chars().take(12).collect();
        let wire = scene.sign(list("continuation-token", token));
        cases.push(Case::new("H113", format!("the token {short}"), wire, argument()));
    }
    let marker = Request::bucket("GET", BUCKET).query("marker", "m".repeat(5000));
    let expect = Expect::any(&[(200, ""), (400, "InvalidArgument"), (400, "KeyTooLongError")]);
    cases.push(Case::new("H113", "a marker of 5,000 bytes", scene.sign(marker), expect));
    let encoding = scene.sign(list("encoding-type", "base64"));
    cases.push(Case::new("H113", "an unknown encoding-type", encoding, argument()));
    cases
}

fn sub_resources(scene: &Scene<'_>) -> Vec<Case> {
    let object = |method: &str, query: &str, value: Option<&str>| {
        let mut request = Request::object(method, BUCKET, KEY);
        request.query.push((query.to_string(), value.map(str::to_string)));
        scene.sign(if method == "PUT" { request.body("evil") } else { request })
    };
    let mut cases = Vec::new();
    for value in ["../../x", "garbage!"] {
        cases.push(Case::new(
            "H115",
            format!("versionId={value}"),
            object("GET", "versionId", Some(value)),
            argument(),
        ));
        let delete = object("DELETE", "versionId", Some(value));
        cases.push(Case::new("H115", format!("delete of versionId={value}"), delete, argument()));
    }
    let invalid = || Expect::error(400, "InvalidRequest");
    cases.push(Case::new("H116", "?uploads of a key", object("GET", "uploads", None), invalid()));
    cases.push(Case::new("H116", "?versions of a key", object("GET", "versions", None), invalid()));
    cases.push(Case::new(
        "H117",
        "partNumber without uploadId",
        object("PUT", "partNumber", Some("1")),
        argument(),
    ));
    let upload = object("PUT", "uploadId", Some(&scene.upload));
    cases.push(Case::new(
        "H117",
        "uploadId without partNumber",
        upload,
        Expect::error(405, "MethodNotAllowed"),
    ));
    let contradiction = Request::object("GET", BUCKET, KEY).flag("acl").flag("policy").flag("tagging");
    cases.push(Case::new("H118", "?acl&policy&tagging", scene.sign(contradiction), invalid()));
    let unknown = || Expect::error(501, "NotImplemented");
    cases.push(Case::new("H119", "?torrent", object("GET", "torrent", None), unknown()));
    for method in ["PUT", "DELETE"] {
        let wire = scene.sign(Request::bucket(method, BUCKET).flag("inventory").body("<x/>"));
        cases.push(Case::new("H119", format!("{method} ?inventory"), wire, unknown()));
    }
    cases.extend(configurations(scene));
    let harmless = object("GET", "no-such-parameter", Some("1"));
    cases.push(Case::new("H119", "a parameter that AWS does not know", harmless, Expect::status(200)));
    cases
}

/// Configurations that are wrong, or not there yet, are refused, and nothing is kept of them.
fn configurations(scene: &Scene<'_>) -> Vec<Case> {
    let rules = "<CORSRule/>".repeat(101);
    let cors = format!("<CORSConfiguration>{rules}</CORSConfiguration>");
    let days = "<LifecycleConfiguration><Rule><Filter/><Status>Enabled</Status><Expiration><Days>0</Days></Expiration>\
                </Rule></LifecycleConfiguration>";
    let case = |id, method: &str, name: &str, body: &str, expect| {
        let request = Request::bucket(method, BUCKET).flag(name).body(body);
        let request = if body.is_empty() { request } else { request.content_md5() };
        Case::new(id, format!("{method} ?{name}"), scene.sign(request), expect)
    };
    let mut cases = vec![
        case("H142", "GET", "policy", "", Expect::error(404, "NoSuchBucketPolicy")),
        case("H143", "PUT", "cors", &cors, Expect::error(400, "MalformedXML")),
        case("H143", "GET", "cors", "", Expect::error(404, "NoSuchCORSConfiguration")),
    ];
    for (name, policy) in bad_policies() {
        let wire = scene.sign(Request::bucket("PUT", BUCKET).flag("policy").body(policy));
        cases.push(Case::new("H142", name, wire, Expect::error(400, "MalformedPolicy")));
    }
    let grants = "<Grant><Grantee><ID>x</ID></Grantee><Permission>READ</Permission></Grant>".repeat(101);
    for (name, body, code) in [
        ("acl", format!("<AccessControlPolicy>{grants}</AccessControlPolicy>"), "MalformedACLError"),
        ("acl", "<AccessControlPolicy".to_string(), "MalformedACLError"),
        ("replication", "<ReplicationConfiguration><Rule><x/></Rule>".to_string(), "MalformedXML"),
        ("website", "<WebsiteConfiguration/>".to_string(), "InvalidArgument"),
        ("website", "<WebsiteConfiguration><RoutingRules>".to_string(), "MalformedXML"),
        ("ownershipControls", "<OwnershipControls/>".to_string(), "MalformedXML"),
    ] {
        cases.push(case("H143", "PUT", name, &body, Expect::error(400, code)));
    }
    cases.push(case("H143", "GET", "website", "", Expect::error(404, "NoSuchWebsiteConfiguration")));
    cases.push(case("H144", "PUT", "lifecycle", days, Expect::error(400, "InvalidArgument")));
    cases.push(case("H144", "GET", "lifecycle", "", Expect::error(404, "NoSuchLifecycleConfiguration")));
    cases.extend(bad_cursors(scene));
    let many = "<QueueConfiguration><Queue>arn:aws:sqs:::x</Queue><Event>s3:ObjectCreated:Put</Event></QueueConfiguration>";
    let many = format!("<NotificationConfiguration>{}</NotificationConfiguration>", many.repeat(101));
    let inside = "<NotificationConfiguration><QueueConfiguration><Queue>http://169.254.169.254/</Queue>\
                  <Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>";
    let log = "<BucketLoggingStatus><LoggingEnabled><TargetBucket>../etc</TargetBucket><TargetPrefix/></LoggingEnabled>\
               </BucketLoggingStatus>";
    cases.push(case("H196", "PUT", "notification", &many, Expect::error(400, "InvalidArgument")));
    cases.push(case("H196", "PUT", "notification", inside, Expect::error(400, "InvalidArgument")));
    cases.push(case(
        "H196",
        "PUT",
        "notification",
        "<NotificationConfiguration><x/></NotificationConfiguration>",
        Expect::error(400, "MalformedXML"),
    ));
    cases.push(case("H197", "PUT", "logging", log, Expect::error(400, "InvalidTargetBucketForLogging")));
    cases
}

/// Cursors that no change feed gave, and waits that are too long.
fn bad_cursors(scene: &Scene<'_>) -> Vec<Case> {
    let ask = |name: &str, value: &str| {
        let request = Request::bucket("GET", BUCKET).flag("changes").query(name, value);
        let what = format!("GET ?changes&{name}={}", &value[..value.len().min(20)]);
        Case::new("H195", what, scene.sign(request), Expect::error(400, "InvalidArgument"))
    };
    let long = "A".repeat(4000);
    let bad = [
        ("since", "1"),
        ("since", "AQ"),
        ("since", "../../etc/passwd"),
        ("since", "%00"),
        ("since", long.as_str()),
        ("wait", "86400"),
        ("wait", "-1"),
        ("max-keys", "-1"),
    ];
    bad.into_iter().map(|(name, value)| ask(name, value)).collect()
}

/// Policies that are none, by name.
fn bad_policies() -> Vec<(&'static str, String)> {
    let read = |element: &str, resource: &str| {
        format!(
            "{{\"Statement\":{{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\
             \"Resource\":\"arn:aws:s3:::{resource}/*\"{element}}}}}"
        )
    };
    vec![
        ("a policy of 30 KB", format!("{{\"Statement\":[{}]}}", "{},".repeat(10_000))),
        ("an unknown element", read(",\"Colour\":\"red\"", BUCKET)),
        ("lists in lists", format!("{}{}", "[".repeat(1000), "]".repeat(1000))),
        ("an element twice", read(",\"Effect\":\"Deny\"", BUCKET)),
        ("another bucket's objects", read("", "another-bucket")),
        ("an unknown operator", read(",\"Condition\":{\"Maybe\":{\"aws:Referer\":\"x\"}}", BUCKET)),
        ("an unknown condition key", read(",\"Condition\":{\"Bool\":{\"x-amz-internal\":\"true\"}}", BUCKET)),
    ]
}

/// What clients make an answer say (catalogue H).
fn answers(scene: &Scene<'_>) -> Vec<Case> {
    let injected = |value: &str| scene.sign(scene.get().query("response-content-disposition", value));
    let anonymous = scene.client.with_credentials(None);
    let overridden = anonymous.sign(scene.get().query("response-content-type", "text/html"));
    let html = scene.sign(Request::object("GET", BUCKET, "<script>alert(1)</script>"));
    let escaped = Expect::error(404, "NoSuchKey").hiding("<script>");
    let redirect = scene.put().header("x-amz-website-redirect-location", "javascript:alert(1)");
    let redirect = scene.sign(redirect);
    let internal = scene.sign(scene.get()).add("x-fluffy-internal", "1");
    let expect = Expect::any(&[(400, "InvalidRequest"), (403, "AccessDenied")]);
    vec![
        Case::new("H155", "a header smuggled in", injected("a\r\nSet-Cookie: b=c"), argument()),
        Case::new("H155", "a line feed", injected("a\nb"), argument()),
        Case::new("H156", "response headers without a signature", overridden, expect),
        Case::new("H157", "a redirect to a script", redirect, Expect::error(400, "InvalidRedirectLocation")),
        Case::new("H158", "an internal header", internal, Expect::status(200)),
        Case::new("H159", "markup in an error", html, escaped),
    ]
    .into_iter()
    .chain(admin_paths(scene))
    .chain(log_lines(scene))
    .collect()
}

/// What the admin port answers is not on this one.
fn admin_paths(scene: &Scene<'_>) -> Vec<Case> {
    let anonymous = scene.client.with_credentials(None);
    let paths = ["/metrics", "/status", "/users", "/health/live", "/users/root/rotate"];
    let case = |path: &str| {
        let wire = anonymous.sign(Request::new("GET", path));
        let nothing = Expect::any(&[(403, "AccessDenied"), (404, "NoSuchBucket")]);
        Case::new("H187", format!("GET {path}"), wire, nothing)
    };
    paths.into_iter().map(case).collect()
}

/// What is written into the log by a client; that each is one line is checked at the end.
fn log_lines(scene: &Scene<'_>) -> Vec<Case> {
    let missing = |key: &str| {
        let wire = scene.sign(Request::object("GET", BUCKET, key).header("user-agent", "${jndi:ldap://x}"));
        Case::new("H190", format!("the key {key:?}"), wire, Expect::error(404, "NoSuchKey"))
    };
    vec![
        missing("a\n2026-01-01T00:00:00Z ERROR forged"),
        missing("\u{1b}[31mred"),
        missing("${jndi:ldap://x}"),
    ]
}

/// Who may do what (catalogue I), as far as one owner goes.
fn authorisation(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    let copy = |source: &str| {
        scene.sign(Request::object("PUT", SCRATCH, "copied").header("x-amz-copy-source", source))
    };
    for source in ["%ZZ/x", "noslash", "/", "//x", ""] {
        let expect = Expect::any(&[(400, "InvalidArgument"), (400, "InvalidBucketName")]);
        cases.push(Case::new("H163", format!("copy source {source:?}"), copy(source), expect));
    }
    let dots = copy(&format!("/{SCRATCH}/../{BUCKET}/{KEY}"));
    cases.push(Case::new("H163", "dots in a copy source are a key", dots, Expect::error(404, "NoSuchKey")));
    let itself = Request::object("PUT", BUCKET, KEY).header("x-amz-copy-source", format!("/{BUCKET}/{KEY}"));
    cases.push(Case::new(
        "H164",
        "a copy onto itself",
        scene.sign(itself),
        Expect::error(400, "InvalidRequest"),
    ));
    let owner = scene.get().header("x-amz-expected-bucket-owner", "111122223333");
    cases.push(Case::new(
        "H176",
        "another expected owner",
        scene.sign(owner),
        Expect::error(403, "AccessDenied"),
    ));
    let Some(other) = scene.client.target().other_user() else {
        return cases;
    };
    let other = scene.client.with_credentials(Some(other));
    let denied = || Expect::error(403, "AccessDenied");
    let source = format!("/{BUCKET}/{}", encode_uri(KEY.as_bytes(), true));
    for (id, name, request) in [
        ("H175", "get", scene.get()),
        ("H175", "get of a missing key", Request::object("GET", BUCKET, "missing")),
        ("H175", "put", scene.put()),
        ("H175", "delete", Request::object("DELETE", BUCKET, KEY)),
        ("H175", "list", Request::bucket("GET", BUCKET).query("list-type", 2)),
        ("H174", "list versions", Request::bucket("GET", BUCKET).flag("versions")),
        ("H175", "delete the bucket", Request::bucket("DELETE", BUCKET)),
        ("H175", "a presigned get", scene.get().auth(Auth::Query(60))),
        (
            "H162",
            "a copy out",
            Request::object("PUT", "no-bucket-of-mine", EMPTY).header("x-amz-copy-source", source),
        ),
    ] {
        let expect = if id == "H162" {
            Expect::any(&[(403, "AccessDenied"), (404, "NoSuchBucket")])
        } else {
            denied()
        };
        cases.push(Case::new(id, format!("another user: {name}"), other.sign(request), expect));
    }
    cases
}
