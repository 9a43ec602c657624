//! F: XML bodies, multipart uploads, metadata.

use super::scene::{BUCKET, KEY, PARTS, SMALL, UPLOAD, complete_body};
use super::{Case, Expect, Scene};
use crate::client::{Request, Wire};

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = documents(scene);
    cases.extend(delete_objects(scene));
    cases.extend(completions(scene));
    cases.extend(parts(scene));
    cases.extend(metadata(scene));
    cases
}

fn malformed() -> Expect {
    Expect::error(400, "MalformedXML")
}

/// CompleteMultipartUpload of the open upload with this body.
fn complete(scene: &Scene<'_>, body: impl Into<Vec<u8>>) -> Wire {
    scene.sign(Request::object("POST", BUCKET, UPLOAD).query("uploadId", &scene.upload).body(body))
}

/// DeleteObjects with this body.
fn delete(scene: &Scene<'_>, body: impl Into<Vec<u8>>) -> Wire {
    scene.sign(Request::bucket("POST", BUCKET).flag("delete").body(body).content_md5())
}

/// Documents that no operation may take, sent to the two that read XML.
fn documents(scene: &Scene<'_>) -> Vec<Case> {
    let object = format!("<Object><Key>{KEY}</Key></Object>");
    let laughs = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;&b;&b;\">]>";
    let file = "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]>";
    let attributes: String = (0..20_000).map(|index| format!(" a{index}=\"\"")).collect();
    let utf16: Vec<u8> = "<Delete/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let gzip = [b"\x1f\x8b\x08\x00".as_slice(), &[0; 20]].concat();
    let documents: Vec<(&str, &str, Vec<u8>)> = vec![
        ("H120", "entities", format!("{laughs}<Delete>{object}</Delete>").into_bytes()),
        ("H120", "any document type", format!("<!DOCTYPE a><Delete>{object}</Delete>").into_bytes()),
        ("H121", "an external entity", format!("{file}<Delete>{object}</Delete>").into_bytes()),
        ("H122", "nesting 10,000 deep", "<a>".repeat(10_000).into_bytes()),
        ("H123", "20,000 attributes", format!("<Delete{attributes}>{object}</Delete>").into_bytes()),
        ("H125", "UTF-16", utf16),
        ("H125", "invalid UTF-8", b"<Delete><Object><Key>\xff</Key></Object></Delete>".to_vec()),
        ("H125", "gzip", gzip),
        ("H125", "empty", Vec::new()),
        ("H125", "not closed", format!("<Delete>{object}").into_bytes()),
        ("H125", "another root", format!("<Remove>{object}</Remove>").into_bytes()),
        ("H125", "plain text", b"delete everything".to_vec()),
    ];
    let mut cases = Vec::new();
    for (id, name, body) in documents {
        cases.push(Case::new(
            id,
            format!("{name}, to DeleteObjects"),
            delete(scene, body.clone()),
            malformed(),
        ));
        let body = String::from_utf8(body.clone())
            .map(|text| text.replace("Delete", "CompleteMultipartUpload").into_bytes())
            .unwrap_or(body);
        cases.push(Case::new(id, format!("{name}, to Complete"), complete(scene, body), malformed()));
    }
    let long = format!("<Delete>{}{object}</Delete>", " ".repeat(9 << 20));
    let expect = Expect::any(&[(400, "MaxMessageLengthExceeded"), (400, "MalformedXML")]);
    cases.push(Case::new("H124", "9 MiB, to DeleteObjects", delete(scene, long), expect));
    cases
}

fn delete_objects(scene: &Scene<'_>) -> Vec<Case> {
    let list = |count: usize| -> String {
        let objects: String =
            (0..count).map(|index| format!("<Object><Key>missing-{index}</Key></Object>")).collect();
        format!("<Delete>{objects}</Delete>")
    };
    let undigested = scene.sign(Request::bucket("POST", BUCKET).flag("delete").body(list(1)));
    vec![
        Case::new("H126", "1,001 keys", delete(scene, list(1001)), malformed()),
        Case::new("H126", "no key", delete(scene, list(0)), malformed()),
        Case::new("H127", "no digest", undigested, Expect::error(400, "InvalidRequest")),
    ]
    .into_iter()
    .chain(forbidden_delete(scene))
    .collect()
}

/// Until policies can allow some keys of a bucket and not others, another user may delete none.
fn forbidden_delete(scene: &Scene<'_>) -> Option<Case> {
    let other = scene.client.with_credentials(Some(scene.client.target().other_user()?));
    let body = format!("<Delete><Object><Key>{KEY}</Key></Object><Object><Key>other</Key></Object></Delete>");
    let wire = other.sign(Request::bucket("POST", BUCKET).flag("delete").body(body).content_md5());
    Some(Case::new("H128", "another user's keys", wire, Expect::error(403, "AccessDenied")))
}

fn completions(scene: &Scene<'_>) -> Vec<Case> {
    let etag = scene.part_etag.as_str();
    let list = |parts: &[(i64, &str)]| complete(scene, complete_body(parts));
    let order = || Expect::error(400, "InvalidPartOrder");
    let part = || Expect::error(400, "InvalidPart");
    let many: Vec<(i64, &str)> = (1..=10_001).map(|number| (number, etag)).collect();
    let fragment = |inside: &str| {
        complete(scene, format!("<CompleteMultipartUpload><Part>{inside}</Part></CompleteMultipartUpload>"))
    };
    let sized = |size: &str| {
        let request = Request::object("POST", BUCKET, UPLOAD).query("uploadId", &scene.upload);
        scene.sign(request.header("x-amz-mp-object-size", size).body(complete_body(&[(1, etag)])))
    };
    let gone = || Expect::error(404, "NoSuchUpload");
    let elsewhere = |key: &str, upload: &str| {
        let request = Request::object("POST", BUCKET, key).query("uploadId", upload);
        scene.sign(request.body(complete_body(&[(1, etag)])))
    };
    vec![
        Case::new("H129", "no part", list(&[]), malformed()),
        Case::new("H129", "no ETag", fragment("<PartNumber>1</PartNumber>"), malformed()),
        Case::new("H129", "no PartNumber", fragment(&format!("<ETag>{etag}</ETag>")), malformed()),
        Case::new("H130", "out of order", list(&[(2, etag), (1, etag)]), order()),
        Case::new("H130", "one number twice", list(&[(1, etag), (1, etag)]), order()),
        Case::new("H131", "an unknown part", list(&[(1, etag), (7, etag)]), part()),
        Case::new("H131", "another ETag", list(&[(1, "\"00000000000000000000000000000000\"")]), part()),
        Case::new("H131", "not an ETag", list(&[(1, "garbage")]), part()),
        Case::new("H132", "part number 0", list(&[(0, etag)]), Expect::error(400, "InvalidArgument")),
        Case::new("H132", "part number -1", list(&[(-1, etag)]), Expect::error(400, "InvalidArgument")),
        Case::new("H132", "10,001 parts", list(&many), malformed()),
        Case::new(
            "H133",
            "a small part before the last",
            small_parts(scene),
            Expect::error(400, "EntityTooSmall"),
        ),
        Case::new("H134", "another object size", sized("7"), Expect::error(400, "InvalidRequest")),
        Case::new("H134", "a negative object size", sized("-1"), Expect::error(400, "InvalidRequest")),
        Case::new("H135", "of another key", elsewhere(KEY, &scene.upload), gone()),
        Case::new("H137", "garbage", elsewhere(UPLOAD, "garbage"), gone()),
        Case::new("H137", "a path", elsewhere(UPLOAD, "../../../etc/passwd"), gone()),
        Case::new(
            "H137",
            "part of a completed upload",
            {
                let request = Request::object("PUT", BUCKET, PARTS).query("partNumber", 1);
                scene.sign(request.query("uploadId", &scene.completed).body("x"))
            },
            gone(),
        ),
    ]
}

/// Completion of the upload whose first part is too small to be followed by another.
fn small_parts(scene: &Scene<'_>) -> Wire {
    let request = Request::object("POST", BUCKET, SMALL).query("uploadId", &scene.small.0);
    let parts = [(1, scene.small.1.as_str()), (2, scene.small.1.as_str())];
    scene.sign(request.body(complete_body(&parts)))
}

fn parts(scene: &Scene<'_>) -> Vec<Case> {
    let upload = |number: &str, upload: &str| {
        let request =
            Request::object("PUT", BUCKET, UPLOAD).query("partNumber", number).query("uploadId", upload);
        scene.sign(request.body("evil"))
    };
    let mut cases: Vec<Case> = ["0", "10001", "-1", "abc", "2147483648", ""]
        .into_iter()
        .map(|number| {
            let wire = upload(number, &scene.upload);
            Case::new("H136", format!("part number {number:?}"), wire, Expect::error(400, "InvalidArgument"))
        })
        .collect();
    for name in ["garbage", "../../x"] {
        let expect = Expect::error(404, "NoSuchUpload");
        cases.push(Case::new("H137", format!("uploadId {name}"), upload("1", name), expect.clone()));
        let abort = scene.sign(Request::object("DELETE", BUCKET, UPLOAD).query("uploadId", name));
        cases.push(Case::new("H137", format!("abort of {name}"), abort, expect));
    }
    cases
}

fn metadata(scene: &Scene<'_>) -> Vec<Case> {
    let put = |value: String| scene.sign(scene.put().header("x-amz-meta-a", value));
    let large = put("v".repeat(2048));
    let class = scene.sign(scene.put().header("x-amz-storage-class", "NO_SUCH_CLASS"));
    let mut cases = vec![
        Case::new("H140", "2,049 bytes of metadata", large, Expect::error(400, "MetadataTooLarge")),
        Case::new("H140", "an unknown storage class", class, Expect::error(400, "InvalidStorageClass")),
    ];
    let many_tags: Vec<String> = (0..11).map(|index| format!("k{index}=v")).collect();
    for (name, value, code) in [
        ("11 tags", many_tags.join("&").as_str(), "BadRequest"),
        ("a tag key of 129 characters", &format!("{}=v", "k".repeat(129)), "InvalidTag"),
        ("a tag value of 257 characters", &format!("k={}", "v".repeat(257)), "InvalidTag"),
        ("a tag twice", "k=1&k=2", "InvalidTag"),
        ("a tag of the system", "aws:k=v", "InvalidTag"),
        ("a tag that is not encoded", "k=%zz", "InvalidArgument"),
    ] {
        let wire = scene.sign(scene.put().header("x-amz-tagging", value));
        cases.push(Case::new("H139", name, wire, Expect::error(400, code)));
    }
    for (name, value) in [("NUL", "a\0b"), ("a line", "a\r\nb")] {
        let wire = scene.sign(scene.put()).add("x-amz-meta-a", value);
        let expect = Expect::any(&[(400, ""), (403, "")]).or_close();
        cases.push(Case::new("H141", format!("{name} in metadata"), wire, expect));
    }
    let mut many = scene.sign(scene.put());
    for index in 0..500 {
        many = many.add(&format!("x-amz-meta-{index}"), "1");
    }
    let expect = Expect::any(&[(400, ""), (431, "")]).or_close();
    cases.push(Case::new("H141", "500 metadata headers", many, expect));
    cases
}
