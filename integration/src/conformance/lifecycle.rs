//! Lifecycle: rules are set and shown, and what they cover goes in its time. A day has two seconds here.

use std::time::Duration;

use super::multipart::complete;
use super::{Cx, Outcome, behaviours, ensure, equal, has_header, ok, refused, xml_of};
use crate::client::{Element, Form, Pattern, Request, Response};

behaviours![
    lifecycle_rules_are_set_shown_and_removed,
    lifecycle_rules_are_checked,
    writers_hear_when_it_goes,
    what_is_due_goes_and_the_rest_stays,
    what_is_due_moves_and_stays_what_it_is,
];

/// Between two looks at what is left, and how many there are at most.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
const LOOKS: usize = 300;

fn rules(method: &str, bucket: &str) -> Request {
    Request::bucket(method, bucket).flag("lifecycle")
}

fn document(rules: &str) -> String {
    format!(
        "<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{rules}</LifecycleConfiguration>"
    )
}

/// One rule that holds.
fn rule(id: &str, filter: &str, actions: &str) -> String {
    format!("<Rule><ID>{id}</ID><Filter>{filter}</Filter><Status>Enabled</Status>{actions}</Rule>")
}

async fn set(cx: &Cx<'_>, bucket: &str, list: &str) -> Outcome {
    cx.ok(rules("PUT", bucket).body(document(list)).content_md5()).await.map(drop)
}

async fn writers_hear_when_it_goes(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let far = "<Expiration><Days>3650</Days></Expiration>";
    let tagged = rule("by tag", "<Tag><Key>goes</Key><Value>yes</Value></Tag>", far);
    set(cx, &bucket, &(rule("logs", "<Prefix>logs/</Prefix>", far) + &tagged)).await?;
    let at = |method: &str, key: &str| Request::object(method, &bucket, key);
    let tags = |request: Request| request.header("x-amz-tagging", "goes=yes");
    let begun = cx.ok(tags(at("POST", "parts").flag("uploads"))).await?;
    let upload = xml_of(&begun, "InitiateMultipartUploadResult")?.text_of("UploadId").to_string();
    let part = at("PUT", "parts").query("partNumber", 1).query("uploadId", &upload).body("part");
    let parts = [(1, cx.ok(part).await?.etag().to_string())];
    let form = |key: &str| Form::new(key, "v").signed(&cx.client().signer(), &bucket, "").request(&bucket);
    let copy = |key: &str, from: &str| at("PUT", key).header("x-amz-copy-source", format!("{bucket}/{from}"));
    for (request, id) in [
        (at("PUT", "logs/a").body("x"), "logs"),
        (at("PUT", "logs/a").header("x-amz-write-offset-bytes", "1").body("y"), "logs"),
        (at("PUT", "other").body("x"), ""),
        (tags(at("PUT", "tagged").body("x")), "by+tag"),
        (at("PUT", "tagged").header("x-amz-write-offset-bytes", "1").body("y"), "by+tag"),
        (copy("copied", "tagged"), "by+tag"),
        (copy("bare", "tagged").header("x-amz-tagging-directive", "REPLACE"), ""),
        (copy("logs/bare", "bare"), "logs"),
        (complete(&bucket, "parts", &upload, &parts), "by+tag"),
        (form("logs/form"), "logs"),
        (form("form"), ""),
    ] {
        let what = format!("{} {}", request.method, request.path);
        let client = if request.path == format!("/{bucket}") { cx.with(None) } else { cx.client() };
        let answer = ok(&client, request).await?;
        let found = answer.header("x-amz-expiration").unwrap_or_default();
        let right =
            if id.is_empty() { found.is_empty() } else { found.contains(&format!("rule-id=\"{id}\"")) };
        ensure(right, || format!("{what}: {found:?} and not by {id:?}"))?;
    }
    Ok(())
}

const ONE_DAY: &str = "<Expiration><Days>1</Days></Expiration>";
const OTHERS: &str =
    "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>";
const ABORT: &str = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>\
                     </AbortIncompleteMultipartUpload>";
const MOVES: &str = "<Transition><Days>1</Days><StorageClass>STANDARD_IA</StorageClass></Transition>";
const MOVE_OTHERS: &str = "<NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays>\
                           <StorageClass>STANDARD_IA</StorageClass></NoncurrentVersionTransition>";
const MARKERS: &str = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>";

async fn lifecycle_rules_are_set_shown_and_removed(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.refused(rules("GET", &bucket), 404, "NoSuchLifecycleConfiguration").await?;
    let and = "<And><Prefix>a&amp;b/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag>\
               <ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></And>";
    let list = [
        rule("first", and, "<Expiration><Days>3650</Days></Expiration>"),
        rule("second", "<Prefix>logs/</Prefix>", &format!("{MARKERS}{OTHERS}{ABORT}")),
        rule("third", "", "<Expiration><Date>2099-01-01T00:00:00.000Z</Date></Expiration>"),
        rule("fourth", "<Prefix>cold/</Prefix>", &format!("{MOVES}{MOVE_OTHERS}")),
    ];
    let put = rules("PUT", &bucket).body(document(&list.concat())).content_md5();
    let minimum = "x-amz-transition-default-minimum-object-size";
    let answer = cx.ok(put.header(minimum, "varies_by_storage_class")).await?;
    has_header(&answer, minimum, "varies_by_storage_class")?;
    let shown = ok(&cx.gateway(1), rules("GET", &bucket)).await?;
    has_header(&shown, minimum, "varies_by_storage_class")?;
    xml_of(&shown, "LifecycleConfiguration")?;
    let text = String::from_utf8_lossy(&shown.body).into_owned();
    equal("rules", text.contains(&list.concat()), true).map_err(|why| format!("{why}: {text}"))?;
    // Other rules take their place, written as was the custom; a rule without a name gets one.
    let old = format!("<Rule><Prefix>old/</Prefix><Status>Disabled</Status>{ONE_DAY}</Rule>");
    set(cx, &bucket, &old).await?;
    let shown = cx.ok(rules("GET", &bucket)).await?;
    has_header(&shown, minimum, "all_storage_classes_128K")?;
    let shown = xml_of(&shown, "LifecycleConfiguration")?;
    let only = shown.child("Rule").ok_or("no rule")?;
    equal("prefix", only.text_of("Prefix"), "old/")?;
    equal("a name", only.text_of("ID").is_empty(), false)?;
    if let Some(other) = cx.other() {
        for method in ["GET", "DELETE"] {
            refused(&other, rules(method, &bucket), 403, "AccessDenied").await?;
        }
    }
    for _ in 0..2 {
        equal("status", cx.ok(rules("DELETE", &bucket)).await?.status, 204)?;
        cx.refused(rules("GET", &bucket), 404, "NoSuchLifecycleConfiguration").await?;
    }
    Ok(())
}

async fn lifecycle_rules_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let tag = "<Tag><Key>k</Key><Value>v</Value></Tag>";
    let days = |days: &str| rule("i", "", &format!("<Expiration><Days>{days}</Days></Expiration>"));
    let date = |date: &str| rule("i", "", &format!("<Expiration><Date>{date}</Date></Expiration>"));
    let transition = "<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>";
    for (list, code) in [
        (String::new(), "MalformedXML"),
        (rule("i", "", ONE_DAY).repeat(1001), "MalformedXML"),
        (format!("<Rule><Filter/>{ONE_DAY}</Rule>"), "MalformedXML"),
        (format!("<Rule><Status>Enabled</Status>{ONE_DAY}</Rule>"), "MalformedXML"),
        (format!("<Rule><Filter/><Status>enabled</Status>{ONE_DAY}</Rule>"), "MalformedXML"),
        (rule("i", "", ""), "InvalidRequest"),
        (rule("i", "", &format!("{ONE_DAY}{ONE_DAY}")), "MalformedXML"),
        (rule("i", "", "<Unknown/>"), "MalformedXML"),
        (rule("i", &format!("<Prefix>p</Prefix>{tag}"), ONE_DAY), "MalformedXML"),
        (rule("i", &format!("<And>{tag}{tag}</And>"), ONE_DAY), "InvalidRequest"),
        (rule(&"i".repeat(256), "", ONE_DAY), "InvalidArgument"),
        (rule("same", "", ONE_DAY).repeat(2), "InvalidArgument"),
        (days("0"), "InvalidArgument"),
        (days("-1"), "InvalidArgument"),
        (days("soon"), "MalformedXML"),
        (date("2099-01-01T12:00:00Z"), "InvalidArgument"),
        (date("20990101"), "MalformedXML"),
        (rule("i", tag, MARKERS), "InvalidRequest"),
        (rule("i", tag, ABORT), "InvalidRequest"),
        (rule("i", "", transition), "InvalidStorageClass"),
        (rule("i", "", &MOVES.repeat(2)), "InvalidRequest"),
        (rule("i", "", &format!("{ONE_DAY}{MOVES}")), "InvalidArgument"),
    ] {
        let put = rules("PUT", &bucket).body(document(&list)).content_md5();
        cx.refused(put, 400, code).await.map_err(|why| format!("{list:.120}: {why}"))?;
    }
    let unproved = rules("PUT", &bucket).body(document(&days("1")));
    cx.refused(unproved, 400, "InvalidRequest").await?;
    let minimum = rules("PUT", &bucket).header("x-amz-transition-default-minimum-object-size", "some");
    cx.refused(minimum.body(document(&days("1"))).content_md5(), 400, "InvalidArgument").await?;
    cx.refused(rules("GET", &bucket), 404, "NoSuchLifecycleConfiguration").await
}

async fn versioned(cx: &Cx<'_>) -> Result<String, String> {
    let bucket = cx.bucket_name();
    cx.ok(Request::bucket("PUT", &bucket).header("x-amz-bucket-object-lock-enabled", "true")).await?;
    Ok(bucket)
}

async fn put(cx: &Cx<'_>, bucket: &str, key: &str, header: Option<(&str, &str)>) -> Result<String, String> {
    let put = Request::object("PUT", bucket, key).body("x").content_md5();
    let put = header.into_iter().fold(put, |put, (name, value)| put.header(name, value));
    Ok(cx.ok(put).await?.header("x-amz-version-id").unwrap_or_default().to_string())
}

async fn begin_upload(cx: &Cx<'_>, bucket: &str, key: &str) -> Outcome {
    cx.ok(Request::object("POST", bucket, key).flag("uploads")).await.map(drop)
}

/// Objects and uploads of a bucket that has no versions: before its rules, and after.
async fn fill_plain(cx: &Cx<'_>, bucket: &str, time: &str) -> Outcome {
    put(cx, bucket, &format!("tmp/{time}"), None).await?;
    put(cx, bucket, &format!("kept/{time}"), None).await?;
    put(cx, bucket, &format!("tagged/{time}"), Some(("x-amz-tagging", "class=tmp"))).await?;
    put(cx, bucket, &format!("tagged/{time}-kept"), Some(("x-amz-tagging", "class=kept"))).await?;
    begin_upload(cx, bucket, &format!("tmp/{time}")).await?;
    begin_upload(cx, bucket, &format!("kept/{time}")).await
}

/// Versions, markers and uploads of a bucket: `key` for a version, `key-` for a marker, `key+` for an upload.
async fn left(cx: &Cx<'_>, bucket: &str) -> Result<Vec<String>, String> {
    let listed = cx.ok(Request::bucket("GET", bucket).flag("versions")).await?;
    let uploads = cx.ok(Request::bucket("GET", bucket).flag("uploads")).await?;
    let (listed, uploads) =
        (xml_of(&listed, "ListVersionsResult")?, xml_of(&uploads, "ListMultipartUploadsResult")?);
    let names = |list: &Element, name: &str, sign: &str| {
        list.all(name).map(|one| format!("{}{sign}", one.text_of("Key"))).collect::<Vec<_>>()
    };
    let mut left =
        [names(&listed, "Version", ""), names(&listed, "DeleteMarker", "-"), names(&uploads, "Upload", "+")]
            .concat();
    left.sort();
    Ok(left)
}

async fn what_is_due_goes_and_the_rest_stays(cx: &Cx<'_>) -> Outcome {
    let (plain, others, current) = (cx.bucket().await?, versioned(cx).await?, versioned(cx).await?);
    fill_plain(cx, &plain, "before").await?;
    let tagged = "<Tag><Key>class</Key><Value>tmp</Value></Tag>";
    let tmp = rule("tmp", "<Prefix>tmp/</Prefix>", &format!("{ONE_DAY}{ABORT}"));
    let off = rule("off", "", ONE_DAY).replace("Enabled", "Disabled");
    set(cx, &plain, &[tmp, rule("tagged", tagged, ONE_DAY), off].concat()).await?;
    fill_plain(cx, &plain, "after").await?;

    let two = "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>\
               <NewerNoncurrentVersions>1</NewerNoncurrentVersions></NoncurrentVersionExpiration>";
    let list = [
        rule("many", "<Prefix>many</Prefix>", two),
        rule("all", "<Prefix>a</Prefix>", &format!("{MARKERS}{OTHERS}")),
    ];
    set(cx, &others, &list.concat()).await?;
    for _ in 0..5 {
        put(cx, &others, "many", None).await?;
    }
    put(cx, &others, "a/hidden", None).await?;
    cx.ok(Request::object("DELETE", &others, "a/hidden")).await?;
    put(cx, &others, "a/held", Some(("x-amz-object-lock-legal-hold", "ON"))).await?;
    put(cx, &others, "a/held", None).await?;

    put(cx, &current, "k", None).await?;
    set(cx, &current, &rule("current", "", ONE_DAY)).await?;

    let expected = [
        vec![
            "kept/after",
            "kept/after+",
            "kept/before",
            "kept/before+",
            "tagged/after-kept",
            "tagged/before-kept",
        ],
        // Of what was hidden nothing is left, not even its marker.
        vec!["a/held", "a/held", "many", "many"],
        vec!["k", "k-"],
    ];
    let mut found = Vec::new();
    for _ in 0..LOOKS {
        found = vec![left(cx, &plain).await?, left(cx, &others).await?, left(cx, &current).await?];
        if found == expected {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    equal(
        "what is left",
        found,
        expected.map(|list| list.into_iter().map(str::to_string).collect()).to_vec(),
    )?;
    equal("body", cx.get(&plain, "kept/before").await?.body, b"x".to_vec())?;
    cx.refused(Request::object("GET", &current, "k"), 404, "NoSuchKey").await
}

/// Headers of a version that a move must not change.
fn kept(head: &Response) -> Vec<Option<String>> {
    let names = [
        "etag",
        "last-modified",
        "content-length",
        "content-type",
        "x-amz-version-id",
        "x-amz-meta-a",
        "x-amz-tagging-count",
        "x-amz-server-side-encryption",
        "x-amz-mp-parts-count",
        "x-amz-object-lock-legal-hold",
    ];
    names.iter().map(|name| head.header(name).map(str::to_string)).collect()
}

/// A version, and its bytes.
type Written = (String, String, Vec<u8>);

async fn fill_cold(cx: &Cx<'_>, bucket: &str) -> Result<Vec<Written>, String> {
    let mut written = Vec::new();
    let large = Pattern::new(1, 3_300_000).bytes();
    let body = |number: u64| Pattern::new(number, 200_000 + number).bytes();
    let put = |key: &str| Request::object("PUT", bucket, key).header("x-amz-meta-a", "1");
    let sealed = |request: Request| request.header("x-amz-server-side-encryption", "AES256");
    for (key, request, body) in [
        (
            "cold/plain",
            put("cold/plain").header("x-amz-tagging", "a=b").header("content-type", "text/x"),
            large,
        ),
        ("cold/sealed", sealed(put("cold/sealed")), body(2)),
        ("cold/held", put("cold/held").header("x-amz-object-lock-legal-hold", "ON"), body(3)),
        ("cold/old", put("cold/old"), body(4)),
        ("cold/old", put("cold/old"), body(5)),
    ] {
        let stored = cx.ok(request.body(body.clone()).content_md5()).await?;
        let version = stored.header("x-amz-version-id").unwrap_or_default().to_string();
        written.push((key.to_string(), version, body));
    }
    let create = sealed(Request::object("POST", bucket, "cold/parts").flag("uploads"));
    let created = cx.ok(create.header("x-amz-meta-a", "1")).await?;
    let id = xml_of(&created, "InitiateMultipartUploadResult")?.text_of("UploadId").to_string();
    let bodies = [Pattern::new(6, 5 << 20).bytes(), Pattern::new(7, 150_000).bytes()];
    let mut parts = Vec::new();
    for (number, body) in (1..).zip(&bodies) {
        let part =
            Request::object("PUT", bucket, "cold/parts").query("partNumber", number).query("uploadId", &id);
        parts.push((number, cx.ok(part.body(body.clone())).await?.etag().to_string()));
    }
    let done = cx.ok(complete(bucket, "cold/parts", &id, &parts)).await?;
    let version = done.header("x-amz-version-id").unwrap_or_default().to_string();
    written.push(("cold/parts".to_string(), version, bodies.concat()));
    Ok(written)
}

async fn what_is_due_moves_and_stays_what_it_is(cx: &Cx<'_>) -> Outcome {
    let bucket = versioned(cx).await?;
    let written = fill_cold(cx, &bucket).await?;
    put(cx, &bucket, "cold/small", None).await?;
    cx.ok(Request::object("PUT", &bucket, "warm").body(Pattern::new(8, 200_000).bytes()).content_md5())
        .await?;
    let version = |method: &str, (key, version, _): &Written| {
        Request::object(method, &bucket, key).query("versionId", version)
    };
    let mut before = Vec::new();
    for one in &written {
        before.push(kept(&cx.ok(version("HEAD", one)).await?));
    }
    set(cx, &bucket, &rule("cold", "<Prefix>cold/</Prefix>", &format!("{MOVES}{MOVE_OTHERS}"))).await?;
    for (one, before) in written.iter().zip(before) {
        let mut class = None;
        for _ in 0..LOOKS {
            let head = ok(&cx.gateway(1), version("HEAD", one)).await?;
            equal(&format!("headers of {}", one.0), kept(&head), before.clone())?;
            class = head.header("x-amz-storage-class").map(str::to_string);
            if class.is_some() {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        equal(&format!("class of {}", one.0), class.as_deref(), Some("STANDARD_IA"))?;
    }
    // The bytes follow; they are the same at every moment.
    for _ in 0..5 {
        for one in &written {
            let get = cx.ok(version("GET", one)).await?;
            equal(&format!("bytes of {}", one.0), get.body == one.2, true)?;
            let range = version("GET", one).header("range", "bytes=100000-140000");
            let part = ok(&cx.gateway(1), range).await?;
            equal(&format!("a range of {}", one.0), part.body == one.2[100_000..=140_000], true)?;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    for key in ["cold/small", "warm"] {
        let head = cx.ok(Request::object("HEAD", &bucket, key)).await?;
        equal(&format!("class of {key}"), head.header("x-amz-storage-class"), None)?;
    }
    let changes = cx.ok(Request::bucket("GET", &bucket).flag("changes")).await?;
    let told = String::from_utf8_lossy(&changes.body).matches("LifecycleTransition").count();
    equal("moves in the change feed", told, written.len())
}
