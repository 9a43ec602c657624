//! Server-side encryption: what is stored encrypted is read by who may, and as it was written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::multipart::complete;
use super::{Cx, Outcome, behaviours, ensure, equal, has_header, ok, refused, xml_of};
use crate::client::{Pattern, PatternCheck, Request, Response};

behaviours![
    encrypted_objects_are_read_as_they_were_written,
    customers_keep_their_keys,
    keys_of_customers_are_checked,
    methods_of_encryption_are_checked,
    ranges_of_encrypted_objects,
    encrypted_parts_become_one_object,
    copies_are_encrypted_as_they_are_asked_to_be,
    a_bucket_encrypts_by_default,
    default_encryption_is_checked,
    annotations_are_encrypted_like_their_object,
];

const SSE: &str = "x-amz-server-side-encryption";
/// How headers with the key of a customer begin.
pub(crate) const CUSTOMER: &str = "x-amz-server-side-encryption-customer-";
const SOURCE: &str = "x-amz-copy-source-server-side-encryption-customer-";
const PART: u64 = 5 << 20;

/// Adds the key of a customer: these bytes.
pub(crate) fn with_key(request: Request, headers: &str, byte: u8) -> Request {
    let key = [byte; 32];
    request
        .header(&format!("{headers}algorithm"), "AES256")
        .header(&format!("{headers}key"), STANDARD.encode(key))
        .header(&format!("{headers}key-MD5"), STANDARD.encode(Md5::digest(key)))
}

/// How a body is encrypted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Plain,
    Store,
    Named,
    Customer(u8),
}

const WAYS: [Way; 5] = [Way::Plain, Way::Store, Way::Named, Way::Customer(7), Way::Customer(8)];

impl Way {
    /// A request that writes like this.
    fn writing(self, request: Request) -> Request {
        match self {
            Way::Plain => request,
            Way::Store => request.header(SSE, "AES256"),
            Way::Named => request.header(SSE, "aws:kms"),
            Way::Customer(byte) => with_key(request, CUSTOMER, byte),
        }
    }

    /// A request that reads, or writes a part of, what was begun like this.
    fn going_on(self, request: Request) -> Request {
        match self {
            Way::Customer(byte) => with_key(request, CUSTOMER, byte),
            _ => request,
        }
    }

    fn copying(self, request: Request) -> Request {
        match self {
            Way::Customer(byte) => with_key(request, SOURCE, byte),
            _ => request,
        }
    }

    fn is_shown(self, response: &Response) -> Outcome {
        let (method, customer) = match self {
            Way::Plain => ("", ""),
            Way::Store => ("AES256", ""),
            Way::Named => ("aws:kms", ""),
            Way::Customer(_) => ("", "AES256"),
        };
        has_header(response, SSE, method)?;
        has_header(response, &format!("{CUSTOMER}algorithm"), customer)?;
        let key_id = response.header(&format!("{SSE}-aws-kms-key-id")).is_some();
        equal("a key id", key_id, self == Way::Named)
    }
}

fn object(method: &str, bucket: &str, key: &str) -> Request {
    Request::object(method, bucket, key)
}

fn md5_tag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(body)))
}

async fn encrypted_objects_are_read_as_they_were_written(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    for way in WAYS {
        for bytes in [0, 1, 1_000, 65_520, 65_521, 2_500_000] {
            let body = Pattern::new(bytes, bytes).bytes();
            let put = way.writing(object("PUT", &bucket, "k").body(body.clone()));
            let put = ok(&cx.gateway(bytes as usize), put).await?;
            way.is_shown(&put)?;
            for gateway in 0..2 {
                let got = ok(&cx.gateway(gateway), way.going_on(object("GET", &bucket, "k"))).await?;
                ensure(got.body == body, || format!("{way:?}: {bytes} bytes are others"))?;
                way.is_shown(&got)?;
                equal("etag", got.etag(), put.etag())?;
                let is_md5 = got.etag() == md5_tag(&body);
                equal("the tag is the MD5", is_md5, matches!(way, Way::Plain | Way::Store))?;
                let head = ok(&cx.gateway(gateway), way.going_on(object("HEAD", &bucket, "k"))).await?;
                has_header(&head, "content-length", &bytes.to_string())?;
                way.is_shown(&head)?;
            }
        }
    }
    let listed = cx.ok(Request::bucket("GET", &bucket).query("list-type", 2)).await?;
    let listed = xml_of(&listed, "ListBucketResult")?;
    equal("size", listed.child("Contents").map(|entry| entry.text_of("Size")), Some("2500000"))
}

async fn customers_keep_their_keys(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(with_key(object("PUT", &bucket, "k").body("theirs"), CUSTOMER, 7)).await?;
    cx.put(&bucket, "plain", "ours").await?;
    for method in ["GET", "HEAD"] {
        for gateway in 0..2 {
            let client = cx.gateway(gateway);
            refused(&client, object(method, &bucket, "k"), 400, "InvalidRequest").await?;
            let wrong = with_key(object(method, &bucket, "k"), CUSTOMER, 8);
            refused(&client, wrong, 403, "AccessDenied").await?;
            let useless = with_key(object(method, &bucket, "plain"), CUSTOMER, 7);
            refused(&client, useless, 400, "InvalidRequest").await?;
        }
    }
    let attributes =
        |key| object("GET", &bucket, key).flag("attributes").header("x-amz-object-attributes", "ETag");
    cx.refused(attributes("k"), 400, "InvalidRequest").await?;
    cx.ok(with_key(attributes("k"), CUSTOMER, 7)).await?;
    // Who may delete needs no key.
    cx.ok(object("DELETE", &bucket, "k")).await.map(drop)
}

async fn keys_of_customers_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let key = STANDARD.encode([7; 32]);
    let md5 = STANDARD.encode(Md5::digest([7; 32]));
    let (short, short_md5) = (STANDARD.encode([7; 16]), STANDARD.encode(Md5::digest([7; 16])));
    for (algorithm, key, md5, code) in [
        ("", key.as_str(), md5.as_str(), "InvalidArgument"),
        ("AES256", "", &md5, "InvalidArgument"),
        ("AES256", &key, "", "InvalidArgument"),
        ("AES128", &key, &md5, "InvalidEncryptionAlgorithmError"),
        ("AES256", &short, &short_md5, "InvalidArgument"),
        ("AES256", "no base64", &md5, "InvalidArgument"),
        ("AES256", &key, &short_md5, "InvalidArgument"),
    ] {
        let mut put = object("PUT", &bucket, "k").body("x");
        for (name, value) in [("algorithm", algorithm), ("key", key), ("key-MD5", md5)] {
            if !value.is_empty() {
                put = put.header(&format!("{CUSTOMER}{name}"), value);
            }
        }
        cx.refused(put, 400, code).await?;
    }
    let both = with_key(object("PUT", &bucket, "k").body("x").header(SSE, "AES256"), CUSTOMER, 7);
    cx.refused(both, 400, "InvalidArgument").await?;
    cx.refused(object("HEAD", &bucket, "k"), 404, "NoSuchKey").await
}

async fn methods_of_encryption_are_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let key_id = format!("{SSE}-aws-kms-key-id");
    let context = format!("{SSE}-context");
    for (headers, status, code) in [
        (vec![(SSE, "AES128")], 400, "InvalidArgument"),
        (vec![(SSE, "aws:kms:dsse")], 501, "NotImplemented"),
        (vec![(key_id.as_str(), "alias/aws/s3")], 400, "InvalidArgument"),
        (vec![(SSE, "AES256"), (key_id.as_str(), "alias/aws/s3")], 400, "InvalidArgument"),
        (vec![(SSE, "aws:kms"), (key_id.as_str(), "nobody-has-it")], 400, "KMS.NotFoundException"),
        (vec![(SSE, "aws:kms"), (context.as_str(), "no base64")], 400, "InvalidArgument"),
    ] {
        let with = |request: Request| {
            headers.iter().fold(request, |request, (name, value)| request.header(name, value))
        };
        cx.refused(with(object("PUT", &bucket, "k").body("x")), status, code).await?;
        cx.refused(with(object("POST", &bucket, "k").flag("uploads")), status, code).await?;
    }
    cx.refused(object("HEAD", &bucket, "k"), 404, "NoSuchKey").await?;
    let bound = STANDARD.encode("{\"department\":\"pay\"}");
    let put = object("PUT", &bucket, "k").body("x").header(SSE, "aws:kms").header(&context, &bound);
    has_header(&cx.ok(put).await?, &context, &bound)?;
    equal("body", cx.get(&bucket, "k").await?.body, b"x".to_vec())?;
    for method in ["GET", "HEAD"] {
        let asking = object(method, &bucket, "k").header(SSE, "aws:kms");
        cx.refused(asking, 400, "InvalidArgument").await?;
    }
    Ok(())
}

async fn ranges_of_encrypted_objects(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let bytes = 3_000_000;
    for way in [Way::Store, Way::Customer(7)] {
        cx.ok(way.writing(object("PUT", &bucket, "k").generated(Pattern::new(5, bytes)))).await?;
        for (first, last) in
            [(0, 0), (65_519, 65_520), (1_048_319, 1_048_321), (1_048_575, 1_048_576), (7, 2_999_999)]
        {
            let get =
                way.going_on(object("GET", &bucket, "k").header("range", format!("bytes={first}-{last}")));
            let length = last - first + 1;
            let mut check = PatternCheck::new(Pattern::slice(5, first, length));
            let got = cx.client().send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
            check.finish().map_err(|why| format!("{way:?} {first}-{last}: {why}"))?;
            has_header(&got, "content-range", &format!("bytes {first}-{last}/{bytes}"))?;
        }
        let suffix = way.going_on(object("GET", &bucket, "k").header("range", "bytes=-10"));
        equal("suffix", cx.ok(suffix).await?.body, Pattern::slice(5, bytes - 10, 10).bytes())?;
        let behind = way.going_on(object("GET", &bucket, "k").header("range", "bytes=3000000-"));
        cx.refused(behind, 416, "InvalidRange").await?;
    }
    Ok(())
}

async fn encrypted_parts_become_one_object(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    cx.ok(with_key(
        object("PUT", &bucket, "source").body(Pattern::slice(9, PART, 1000).bytes()),
        CUSTOMER,
        3,
    ))
    .await?;
    for way in WAYS {
        let created = cx.ok(way.writing(object("POST", &bucket, "k").flag("uploads"))).await?;
        way.is_shown(&created)?;
        let id = xml_of(&created, "InitiateMultipartUploadResult")?.text_of("UploadId").to_string();
        let part =
            |number: u32| object("PUT", &bucket, "k").query("partNumber", number).query("uploadId", &id);
        let first = way.going_on(part(1).body(Pattern::slice(9, 0, PART).bytes()));
        let first = ok(&cx.gateway(1), first).await?;
        let copy = part(2).header("x-amz-copy-source", format!("/{bucket}/source"));
        let copied = cx.ok(way.going_on(with_key(copy, SOURCE, 3))).await?;
        let second = xml_of(&copied, "CopyPartResult")?.text_of("ETag").to_string();
        let wrong = match way {
            Way::Customer(_) => part(3).body("x"),
            _ => with_key(part(3).body("x"), CUSTOMER, 7),
        };
        cx.refused(wrong, 400, "InvalidRequest").await?;
        let parts = [(1, first.etag().to_string()), (2, second)];
        cx.ok(complete(&bucket, "k", &id, &parts)).await?;
        let whole = PART + 1000;
        let mut check = PatternCheck::new(Pattern::new(9, whole));
        let get = way.going_on(object("GET", &bucket, "k"));
        let got = cx.client().send_checking(get, &mut check).await.map_err(|error| error.to_string())?;
        check.finish().map_err(|why| format!("{way:?}: {why}"))?;
        way.is_shown(&got)?;
        let second = way.going_on(object("GET", &bucket, "k").query("partNumber", 2));
        equal("part 2", cx.ok(second).await?.body, Pattern::slice(9, PART, 1000).bytes())?;
    }
    Ok(())
}

async fn copies_are_encrypted_as_they_are_asked_to_be(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let body = Pattern::new(4, 100_000).bytes();
    for from in WAYS {
        cx.ok(from.writing(object("PUT", &bucket, "from").body(body.clone()))).await?;
        for to in WAYS {
            let copy = object("PUT", &bucket, "to").header("x-amz-copy-source", format!("/{bucket}/from"));
            let copied = cx.ok(to.writing(from.copying(copy))).await?;
            to.is_shown(&copied)?;
            let got = cx.ok(to.going_on(object("GET", &bucket, "to"))).await?;
            ensure(got.body == body, || format!("{from:?} to {to:?}: other bytes"))?;
            to.is_shown(&got)?;
            let is_md5 = got.etag() == md5_tag(&body);
            equal("the tag is the MD5", is_md5, matches!(to, Way::Plain | Way::Store))?;
        }
    }
    // The last source is a customer's.
    let copy = || object("PUT", &bucket, "to").header("x-amz-copy-source", format!("/{bucket}/from"));
    cx.refused(copy(), 400, "InvalidRequest").await?;
    cx.refused(with_key(copy(), SOURCE, 9), 403, "AccessDenied").await?;
    let itself = object("PUT", &bucket, "to").header("x-amz-copy-source", format!("/{bucket}/to"));
    cx.ok(Way::Store.writing(Way::Customer(8).copying(itself))).await?;
    Way::Store.is_shown(&cx.ok(object("HEAD", &bucket, "to")).await?)
}

async fn annotations_are_encrypted_like_their_object(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let annotation = |method: &str, key: &str| {
        object(method, &bucket, key).flag("annotation").query("annotationName", "note")
    };
    let shown = |way: Way| if way == Way::Plain { Way::Store } else { way };
    for from in WAYS {
        cx.ok(from.writing(object("PUT", &bucket, "from").body("x"))).await?;
        let put = annotation("PUT", "from").body("a text");
        if matches!(from, Way::Customer(_)) {
            cx.refused(put.clone(), 400, "InvalidRequest").await?;
            cx.refused(from.going_on(put), 400, "InvalidRequest").await?;
            continue;
        }
        shown(from).is_shown(&cx.ok(put).await?)?;
        for to in WAYS {
            let copy = || {
                let copy =
                    object("PUT", &bucket, "to").header("x-amz-copy-source", format!("/{bucket}/from"));
                to.writing(copy)
            };
            if matches!(to, Way::Customer(_)) {
                cx.refused(copy(), 400, "InvalidRequest").await?;
                cx.ok(copy().header("x-amz-object-annotation-directive", "EXCLUDE")).await?;
                continue;
            }
            cx.ok(copy()).await?;
            for key in ["from", "to"] {
                let got = ok(&cx.gateway(1), annotation("GET", key)).await?;
                equal("text", got.body.as_slice(), b"a text")?;
                shown(if key == "to" { to } else { from }).is_shown(&got)?;
            }
        }
    }
    Ok(())
}

fn configuration(bucket: &str, rule: &str) -> Request {
    let body = format!("<ServerSideEncryptionConfiguration>{rule}</ServerSideEncryptionConfiguration>");
    Request::bucket("PUT", bucket).flag("encryption").body(body).content_md5()
}

fn rule(content: &str) -> String {
    format!("<Rule><ApplyServerSideEncryptionByDefault>{content}</ApplyServerSideEncryptionByDefault></Rule>")
}

async fn a_bucket_encrypts_by_default(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let get = || Request::bucket("GET", &bucket).flag("encryption");
    cx.refused(get(), 404, "ServerSideEncryptionConfigurationNotFoundError").await?;
    for (algorithm, way) in [("AES256", Way::Store), ("aws:kms", Way::Named)] {
        cx.ok(configuration(&bucket, &rule(&format!("<SSEAlgorithm>{algorithm}</SSEAlgorithm>")))).await?;
        let shown = xml_of(&cx.ok(get()).await?, "ServerSideEncryptionConfiguration")?;
        let default = shown.child("Rule").and_then(|rule| rule.child("ApplyServerSideEncryptionByDefault"));
        equal("algorithm", default.map(|default| default.text_of("SSEAlgorithm")), Some(algorithm))?;
        way.is_shown(&cx.put(&bucket, "k", "by default").await?)?;
        let got = cx.get(&bucket, "k").await?;
        equal("body", got.body.as_slice(), b"by default")?;
        way.is_shown(&got)?;
        let created = cx.ok(object("POST", &bucket, "k").flag("uploads")).await?;
        way.is_shown(&created)?;
        // What the writer says comes first.
        let put = Way::Customer(7).writing(object("PUT", &bucket, "k").body("mine"));
        Way::Customer(7).is_shown(&cx.ok(put).await?)?;
    }
    cx.ok(Request::bucket("DELETE", &bucket).flag("encryption")).await?;
    cx.refused(get(), 404, "ServerSideEncryptionConfigurationNotFoundError").await
}

async fn default_encryption_is_checked(cx: &Cx<'_>) -> Outcome {
    let bucket = cx.bucket().await?;
    let named = "<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>";
    for (body, status, code) in [
        (String::new(), 400, "MalformedXML"),
        (rule("<SSEAlgorithm>DES</SSEAlgorithm>"), 400, "MalformedXML"),
        (rule("<SSEAlgorithm>AES256</SSEAlgorithm>").repeat(2), 400, "MalformedXML"),
        (rule(named), 400, "InvalidArgument"),
        (rule("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), 501, "NotImplemented"),
    ] {
        cx.refused(configuration(&bucket, &body), status, code).await?;
    }
    let unknown = "<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>nobody-has-it</KMSMasterKeyID>";
    cx.ok(configuration(&bucket, &rule(unknown))).await?;
    cx.refused(object("PUT", &bucket, "k").body("x"), 400, "KMS.NotFoundException").await
}
