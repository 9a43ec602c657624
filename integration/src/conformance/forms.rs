//! Uploads by the forms of browsers: signed by a policy, or by nobody where everybody may write.

use super::{Cx, Outcome, behaviours, equal, has_header, ok, refused, xml_of};
use crate::client::{ALGORITHMS, Form, Request};

behaviours![
    a_signed_form_uploads_a_file,
    a_form_is_answered_as_its_sender_wants,
    what_the_policy_does_not_say_is_refused,
    a_form_nobody_signed_needs_leave,
    the_signer_of_a_form_needs_permission,
    broken_forms_are_refused,
];

fn crc32c(bytes: &[u8]) -> String {
    let algorithm = ALGORITHMS.iter().find(|algorithm| algorithm.name == "CRC32C");
    algorithm.map_or(String::new(), |algorithm| algorithm.base64(bytes))
}

async fn a_signed_form_uploads_a_file(cx: &Cx<'_>) -> Outcome {
    let (bucket, browser) = (cx.bucket().await?, cx.with(None));
    let file: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let form = Form::new("in/${filename}", file.clone())
        .with("Content-Type", "image/png")
        .with("x-amz-meta-from", "browser")
        .with("x-amz-checksum-crc32c", crc32c(&file));
    let stored = ok(&browser, form.signed(&cx.client().signer(), &bucket, "").request(&bucket)).await?;
    equal("status", stored.status, 204)?;
    let found = cx.get(&bucket, "in/cat.png").await?;
    equal("same bytes", found.body == file, true)?;
    has_header(&found, "content-type", "image/png")?;
    has_header(&found, "x-amz-meta-from", "browser")?;
    has_header(&found, "etag", stored.etag())?;
    // Through the other gateway, and empty.
    let empty = Form::new("empty", "").signed(&cx.client().signer(), &bucket, "").request(&bucket);
    ok(&cx.gateway(1).with_credentials(None), empty).await?;
    equal("empty", cx.get(&bucket, "empty").await?.body.len(), 0)
}

async fn a_form_is_answered_as_its_sender_wants(cx: &Cx<'_>) -> Outcome {
    let (bucket, browser) = (cx.bucket().await?, cx.with(None));
    let send = async |name: &str, value: &str| {
        let form =
            Form::new("k", "v").with(name, value).signed(&cx.client().signer(), &bucket, "").request(&bucket);
        browser.send(form).await.map_err(|error| error.to_string())
    };
    let created = send("success_action_status", "201").await?;
    equal("status", created.status, 201)?;
    let document = xml_of(&created, "PostResponse")?;
    equal("bucket", document.text_of("Bucket"), bucket.as_str())?;
    equal("key", document.text_of("Key"), "k")?;
    equal("tag", document.text_of("ETag"), created.etag())?;
    equal("status", send("success_action_status", "200").await?.status, 200)?;
    let redirected = send("success_action_redirect", "https://app.example.org/done").await?;
    equal("status", redirected.status, 303)?;
    let etag = created.etag().trim_matches('"').to_string();
    let there = format!("https://app.example.org/done?bucket={bucket}&key=k&etag=%22{etag}%22");
    has_header(&redirected, "location", &there)
}

async fn what_the_policy_does_not_say_is_refused(cx: &Cx<'_>) -> Outcome {
    let (bucket, browser) = (cx.bucket().await?, cx.with(None));
    let anything = format!("[{{\"bucket\":\"{bucket}\"}},[\"starts-with\",\"$key\",\"\"]]");
    let plain = || Form::new("k", "12345");
    let signer = cx.client().signer();
    let saying = |form: Form, conditions: &str| form.signed_as(&signer, conditions, "2099-01-01T00:00:00Z");
    let forged = saying(plain(), &anything)
        .edit("x-amz-signature", |signature| signature.replace(['0', '1', '2', '3'], "4"));
    for (form, status, code) in [
        (saying(plain(), &anything).with("x-amz-meta-a", "1"), 403, "AccessDenied"),
        (plain().signed_as(&signer, &anything, "2001-01-01T00:00:00Z"), 403, "AccessDenied"),
        (saying(plain(), "[{\"key\":\"other\"}]"), 403, "AccessDenied"),
        (saying(plain(), "[[\"starts-with\",\"$key\",\"user/\"]]"), 403, "AccessDenied"),
        (saying(plain(), "[{\"bucket\":\"other\"},{\"key\":\"k\"}]"), 403, "AccessDenied"),
        (saying(plain().with("bucket", "other"), &anything), 403, "AccessDenied"),
        (forged, 403, "SignatureDoesNotMatch"),
        (saying(plain(), "[{\"key\":1}]"), 400, "InvalidPolicyDocument"),
        (
            plain().signed(&cx.client().signer(), &bucket, ",[\"content-length-range\",0,4]"),
            400,
            "EntityTooLarge",
        ),
        (
            plain().signed(&cx.client().signer(), &bucket, ",[\"content-length-range\",6,9]"),
            400,
            "EntityTooSmall",
        ),
        (
            plain().with("x-amz-copy-source", "a/b").signed(&cx.client().signer(), &bucket, ""),
            400,
            "InvalidArgument",
        ),
        (
            plain().with("x-amz-checksum-crc32c", "AAAAAA==").signed(&cx.client().signer(), &bucket, ""),
            400,
            "BadDigest",
        ),
    ] {
        refused(&browser, form.request(&bucket), status, code).await?;
    }
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await?;
    let fits = plain().signed(&cx.client().signer(), &bucket, ",[\"content-length-range\",5,5]");
    ok(&browser, fits.request(&bucket)).await.map(drop)
}

async fn a_form_nobody_signed_needs_leave(cx: &Cx<'_>) -> Outcome {
    let (bucket, browser) = (cx.bucket().await?, cx.with(None));
    let form = |key: &str| Form::new(key, "v").request(&bucket);
    refused(&browser, form("in/k"), 403, "AccessDenied").await?;
    let policy = format!(
        "{{\"Statement\":{{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:PutObject\",\
         \"Resource\":\"arn:aws:s3:::{bucket}/in/*\"}}}}"
    );
    cx.ok(Request::bucket("PUT", &bucket).flag("policy").body(policy)).await?;
    ok(&browser, form("in/k")).await?;
    refused(&browser, form("out/k"), 403, "AccessDenied").await?;
    // What signs itself otherwise is no form.
    cx.refused(form("in/k"), 400, "InvalidRequest").await
}

async fn the_signer_of_a_form_needs_permission(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let policy = format!(
        "{{\"Statement\":{{\"Effect\":\"Deny\",\"Principal\":\"*\",\"Action\":\"s3:PutObject\",\
         \"Resource\":\"arn:aws:s3:::{bucket}/kept/*\"}}}}"
    );
    cx.ok(Request::bucket("PUT", &bucket).flag("policy").body(policy)).await?;
    let form = |key: &str| Form::new(key, "v").signed(&cx.client().signer(), &bucket, "").request(&bucket);
    refused(&cx.with(None), form("kept/k"), 403, "AccessDenied").await?;
    ok(&cx.with(None), form("k")).await.map(drop)
}

async fn broken_forms_are_refused(cx: &Cx<'_>) -> Outcome {
    let (bucket, browser) = (cx.bucket().await?, cx.with(None));
    let whole = Form::new("k", "v").signed(&cx.client().signer(), &bucket, "").request(&bucket).body;
    let cut = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&whole).replace(from, to);
        Form::posted(&bucket, text.into_bytes())
    };
    let last = Form::end();
    for (request, status, code) in [
        (cut(&last, ""), 400, "MalformedPOSTRequest"),
        (cut("name=\"file\"", "name=\"no-file\""), 400, "InvalidArgument"),
        (cut("name=\"key\"", "name=\"no-key\""), 400, "InvalidArgument"),
        (cut("name=\"policy\"", "name=\"x-ignore-policy\""), 400, "InvalidArgument"),
        (Form::posted(&bucket, b"no form".to_vec()), 400, "MalformedPOSTRequest"),
        (Form::posted(&bucket, vec![b'x'; 30_000]), 400, "MaxPostPreDataLengthExceededError"),
        (Request::bucket("POST", &bucket).body("a=b"), 412, "PreconditionFailed"),
    ] {
        refused(&browser, request, status, code).await?;
    }
    cx.refused(Request::object("GET", &bucket, "k"), 404, "NoSuchKey").await
}
