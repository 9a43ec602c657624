//! What is refused before the body is read (the client contract, 9): the client hears the final answer while it waits
//! for `100 Continue`, and hears it, too, when it never waited.

use super::scene::{BUCKET, KEY, PART_BYTES, SCRATCH, UPLOAD, complete_body};
use super::{Case, Expect, Scene};
use crate::client::{ALGORITHMS, Payload, Request, Wire};

const OTHER: &str = "\"00000000000000000000000000000000\"";
const ID: &str = "H074";

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = conditions(scene);
    cases.extend(places(scene));
    cases.extend(headers(scene));
    cases.extend(documents(scene));
    cases.extend(stubborn(scene));
    cases
}

/// The client sends the head and waits: it must not be told to go on.
fn waiting(id: &'static str, name: &str, wire: Wire, status: u16, code: &'static str) -> Case {
    Case::waiting(id, format!("before the body: {name}"), wire, Expect::error(status, code))
}

fn conditions(scene: &Scene<'_>) -> Vec<Case> {
    let put = |name: &str, value: &str| scene.sign(scene.put().header(name, value));
    let missing = Request::object("PUT", SCRATCH, "never-there").header("if-match", OTHER).body("x");
    let large = scene.put().payload(Payload::Unsigned).header("if-none-match", "*");
    let large = scene.sign(large).with_body("").set("content-length", 5u64 << 30);
    let trailer = vec![(ALGORITHMS[0].header.to_string(), ALGORITHMS[0].base64(b"x"))];
    let chunked = scene.put().body("x").payload(Payload::UnsignedChunksTrailer(8192, trailer));
    let complete = Request::object("POST", BUCKET, UPLOAD).query("uploadId", &scene.upload);
    let complete = complete.header("if-match", OTHER).body(complete_body(&[(1, &scene.part_etag)]));
    let failed = |name, wire| waiting("H153", name, wire, 412, "PreconditionFailed");
    vec![
        failed("If-None-Match on an object", put("if-none-match", "*")),
        failed("If-Match of another ETag", put("if-match", OTHER)),
        failed("If-None-Match, 5 GiB", large),
        failed("If-None-Match, in chunks", scene.sign(chunked.header("if-none-match", "*"))),
        waiting("H153", "If-Match on a missing key", scene.sign(missing), 404, "NoSuchKey"),
        waiting("H153", "Complete with If-Match on a missing key", scene.sign(complete), 404, "NoSuchKey"),
        waiting("H152", "If-None-Match with an ETag", put("if-none-match", OTHER), 501, "NotImplemented"),
    ]
}

fn places(scene: &Scene<'_>) -> Vec<Case> {
    let part = |number: &str, upload: &str, key: &str| {
        let request =
            Request::object("PUT", BUCKET, key).query("partNumber", number).query("uploadId", upload);
        scene.sign(request.body("evil"))
    };
    let nowhere = scene.sign(Request::object("PUT", "no-such-bucket-anywhere", KEY).body("x"));
    let long = scene.sign(Request::object("PUT", SCRATCH, &"k".repeat(1025)).body("x"));
    let owner = scene.sign(scene.put().header("x-amz-expected-bucket-owner", "111122223333"));
    let mut cases = vec![
        waiting(ID, "no such bucket", nowhere, 404, "NoSuchBucket"),
        waiting(
            ID,
            "a completed upload",
            part("1", &scene.completed, super::scene::PARTS),
            404,
            "NoSuchUpload",
        ),
        waiting(ID, "an upload of another key", part("1", &scene.upload, KEY), 404, "NoSuchUpload"),
        waiting(ID, "not an upload", part("1", "garbage", UPLOAD), 404, "NoSuchUpload"),
        waiting(ID, "part 0", part("0", &scene.upload, UPLOAD), 400, "InvalidArgument"),
        waiting(ID, "a key of 1,025 bytes", long, 400, "KeyTooLongError"),
        waiting(ID, "another expected owner", owner, 403, "AccessDenied"),
        waiting(
            ID,
            "no signature",
            scene.client.with_credentials(None).sign(scene.put()),
            403,
            "AccessDenied",
        ),
    ];
    if let Some(other) = scene.client.target().other_user() {
        let other = scene.client.with_credentials(Some(other));
        cases.push(waiting(ID, "another user", other.sign(scene.put()), 403, "AccessDenied"));
    }
    cases
}

fn headers(scene: &Scene<'_>) -> Vec<Case> {
    let put = |name: &str, value: &str| scene.sign(scene.put().header(name, value));
    let part = Request::object("PUT", BUCKET, UPLOAD).query("partNumber", 1).query("uploadId", &scene.upload);
    let part = scene.sign(part.payload(Payload::Unsigned)).set("content-length", (5u64 << 30) + 1);
    let sha1 = ALGORITHMS[3].header;
    vec![
        waiting("H068", "Content-MD5 too short", put("content-md5", "AAAA"), 400, "InvalidDigest"),
        waiting("H070", "a checksum too short", put(sha1, "AAAA"), 400, "InvalidRequest"),
        waiting("H140", "too much metadata", put("x-amz-meta-a", &"v".repeat(2048)), 400, "MetadataTooLarge"),
        waiting("H139", "a tag twice", put("x-amz-tagging", "a=1&a=2"), 400, "InvalidTag"),
        waiting("H073", "a part of 5 GiB and one byte", part, 400, "EntityTooLarge"),
        waiting(ID, "a public list", put("x-amz-acl", "public-read"), 400, "AccessControlListNotSupported"),
        waiting(ID, "a list of nonsense", put("x-amz-acl", "everybody"), 400, "InvalidArgument"),
        waiting(ID, "a grant to nobody", put("x-amz-grant-read", "id="), 400, "InvalidArgument"),
        waiting(
            ID,
            "a redirect to a script",
            put("x-amz-website-redirect-location", "javascript:x"),
            400,
            "InvalidRedirectLocation",
        ),
        waiting(
            ID,
            "encryption that is not there",
            put("x-amz-server-side-encryption", "aws:kms:dsse"),
            501,
            "NotImplemented",
        ),
    ]
}

fn documents(scene: &Scene<'_>) -> Vec<Case> {
    let delete = Request::bucket("POST", BUCKET).flag("delete").body("<Delete/>");
    let long = scene.sign(delete.clone().content_md5()).set("content-length", 9 << 20);
    vec![
        waiting("H127", "DeleteObjects without a digest", scene.sign(delete), 400, "InvalidRequest"),
        waiting("H124", "DeleteObjects of 9 MiB", long, 400, "MaxMessageLengthExceeded"),
    ]
}

/// Clients that send everything before they read a byte: a reset must not eat the answer.
fn stubborn(scene: &Scene<'_>) -> Vec<Case> {
    let body = vec![b'e'; 2 * PART_BYTES];
    let put = scene.put().payload(Payload::Unsigned).body(body.clone());
    let part = Request::object("PUT", BUCKET, UPLOAD).query("partNumber", 1).query("uploadId", "garbage");
    let part = part.payload(Payload::Unsigned).body(body);
    let small = scene.put().header("if-none-match", "*");
    let case = |id, name: &str, request: Request, status, code| {
        Case::new(id, format!("sent all the same: {name}"), scene.sign(request), Expect::error(status, code))
            .stubborn()
    };
    vec![
        case(
            "H153",
            "If-None-Match, 10 MiB",
            put.clone().header("if-none-match", "*"),
            412,
            "PreconditionFailed",
        ),
        case("H153", "If-None-Match, a few bytes", small, 412, "PreconditionFailed"),
        case(ID, "10 MiB for no upload", part, 404, "NoSuchUpload"),
        case(
            "H070",
            "10 MiB with a short checksum",
            put.header(ALGORITHMS[3].header, "AAAA"),
            400,
            "InvalidRequest",
        ),
    ]
}
