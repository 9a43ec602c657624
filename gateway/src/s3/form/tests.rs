#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;
use crate::s3::error::BoxError;

const TYPE: &str = "multipart/form-data; boundary=\"x-X\"";
const NOW_MS: u64 = 1_795_370_400_000;

fn part(name: &str, value: &str) -> String {
    format!("--x-X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(content: &str) -> String {
    format!(
        "--x-X\r\nContent-Type: text/plain\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\a \\\"b\\\".txt\"\r\n\r\n{content}\r\n--x-X--\r\n"
    )
}

/// A body that comes in pieces of so many bytes.
fn body(text: &str, piece: usize) -> RawBody {
    let pieces: Vec<_> = text
        .as_bytes()
        .chunks(piece)
        .map(|bytes| Ok::<_, BoxError>(Frame::data(Bytes::copy_from_slice(bytes))))
        .collect();
    StreamBody::new(futures::stream::iter(pieces).boxed()).boxed_unsync()
}

async fn read_in(text: &str, piece: usize) -> S3Result<Form> {
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(TYPE))].into_iter().collect();
    Form::read(body(text, piece), &headers).await
}

async fn read(text: &str) -> S3Result<Form> {
    read_in(text, 7).await
}

async fn content(form: Form) -> Result<String, Code> {
    let collected = form.into_file().collect().await;
    let bytes = collected.map_err(|error| error.downcast::<S3Error>().unwrap().code())?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_form_is_read_however_it_is_cut() {
    let content_of_file = "one\r\n--x-\r\n\r\n--x-x\r\ntwo\r";
    let text = part("key", "in/${filename}") + &part("X-Amz-Meta-A", "1\r\n2") + &file(content_of_file);
    for piece in [1, 2, 3, 5, 8, 13, 1000] {
        let form = read_in(&text, piece).await.unwrap();
        assert_eq!(form.key.as_str(), "in/a \"b\".txt");
        assert_eq!(form.fields.get("x-amz-meta-a"), Some("1\r\n2"));
        assert_eq!(content(form).await.unwrap(), content_of_file, "pieces of {piece}");
    }
    assert_eq!(content(read(&(part("key", "k") + &file(""))).await.unwrap()).await.unwrap(), "");
}

#[tokio::test]
async fn wrong_forms_are_refused() {
    let whole = part("key", "k") + &file("x");
    for (text, code) in [
        (String::new(), Code::MalformedPOSTRequest),
        ("no form".to_string(), Code::MalformedPOSTRequest),
        (part("key", "k"), Code::MalformedPOSTRequest),
        (file("x"), Code::InvalidArgument),
        (part("key", "k") + "--x-X--\r\n", Code::InvalidArgument),
        (part("key", "k").replace("form-data", "attachment") + &file("x"), Code::MalformedPOSTRequest),
        (part("key", &"k".repeat(21_000)) + &file("x"), Code::MaxPostPreDataLengthExceededError),
        ("x".repeat(21_000), Code::MaxPostPreDataLengthExceededError),
        (part("a", "").repeat(1000) + &whole, Code::MaxPostPreDataLengthExceededError),
        (part("key", &"k".repeat(1025)) + &file("x"), Code::KeyTooLongError),
        (part("key", "a\0b") + &file("x"), Code::InvalidURI),
    ] {
        let error = read(&text).await.err().unwrap();
        assert_eq!(error.code(), code, "{}", &text[..text.len().min(80)]);
    }
    let no_boundary = [(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data"))].into_iter().collect();
    assert_eq!(
        Form::read(body(&whole, 9), &no_boundary).await.err().unwrap().code(),
        Code::PreconditionFailed
    );
    for (text, code) in [
        (whole.replace("--x-X--", ""), Code::MalformedPOSTRequest),
        (whole.replace("--x-X--\r\n", &file("y")), Code::IncorrectNumberOfFilesInPostRequest),
        (whole + &"x".repeat(21_000), Code::MalformedPOSTRequest),
    ] {
        assert_eq!(content(read(&text).await.unwrap()).await.unwrap_err(), code);
    }
}

#[tokio::test]
async fn fields_stand_for_headers() {
    let tagging = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1+2</Value></Tag></TagSet></Tagging>";
    let text = part("key", "k")
        + &part("Content-Type", "image/png")
        + &part("acl", "private")
        + &part("x-amz-meta-a", "1")
        + &part("x-amz-signature", "s")
        + &part("submit", "Upload")
        + &part("tagging", tagging)
        + &file("x");
    let headers = read(&text).await.unwrap().headers().unwrap();
    let mut pairs: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    pairs.sort_unstable();
    let expected = [
        ("content-type", "image/png"),
        ("x-amz-acl", "private"),
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "a%20b=1%2B2"),
    ];
    assert_eq!(pairs, expected);
    for bad in [part("x-amz-copy-source", "a/b"), part("expires", "a\r\nb"), part("expires", "1").repeat(2)] {
        let form = read(&(part("key", "k") + &bad + &file("x"))).await.unwrap();
        assert_eq!(form.headers().unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
}

fn policy(conditions: &str) -> S3Result<FormPolicy> {
    let text = format!("{{\"expiration\":\"2027-01-01T00:00:00.000Z\",\"conditions\":{conditions}}}");
    FormPolicy::parse(&STANDARD.encode(text))
}

#[test]
fn conditions_are_held_against_the_fields() {
    let fields = Fields::for_tests(&[
        ("key", "user/eric/k"),
        ("content-type", "image/png,image/jpeg"),
        ("x-ignore-me", "1"),
        ("policy", "…"),
        ("x-amz-signature", "…"),
    ]);
    let bucket = "photos".parse().unwrap();
    let key = "[\"starts-with\",\"$key\",\"user/eric/\"]";
    let kind = "[\"starts-with\",\"$Content-Type\",\"image/\"]";
    for (conditions, holds) in [
        (format!("[{key},{kind},{{\"bucket\":\"photos\"}}]"), true),
        (format!("[[\"EQ\",\"$KEY\",\"user/eric/k\"],{kind}]"), true),
        (format!("[[\"starts-with\",\"$key\",\"\"],{kind},[\"content-length-range\",1,\"10\"]]"), true),
        (format!("[{key},{kind},{{\"bucket\":\"other\"}}]"), false),
        (format!("[{key}]"), false),
        (format!("[{kind}]"), false),
        (format!("[{key},{kind},{{\"acl\":\"private\"}}]"), false),
        (format!("[{key},{{\"content-type\":\"image/png\"}}]"), false),
        (format!("[[\"starts-with\",\"$key\",\"user/betty/\"],{kind}]"), false),
        (format!("[{key},[\"starts-with\",\"$Content-Type\",\"image/p\"]]"), false),
    ] {
        let checked = policy(&conditions).unwrap().check(&fields, &bucket, NOW_MS);
        assert_eq!(
            checked.map_err(|error| error.code()).err(),
            (!holds).then_some(Code::AccessDenied),
            "{conditions}"
        );
    }
    let late = policy(&format!("[{key},{kind}]")).unwrap().check(&fields, &bucket, 1_798_761_600_000);
    assert!(late.unwrap_err().message().contains("expired"));
    for bad in [
        "[]",
        "{}",
        "[1]",
        "[[\"eq\",\"$key\"]]",
        "[[\"matches\",\"$key\",\"x\"]]",
        "[[\"eq\",\"key\",\"x\"]]",
        "[[\"content-length-range\",\"x\",1]]",
        "[{\"key\":1}]",
        "[{\"key\":\"k\"}],\"unknown\":1",
    ] {
        assert_eq!(policy(bad).unwrap_err().code(), Code::InvalidPolicyDocument, "{bad}");
    }
    assert_eq!(FormPolicy::parse("no base64").unwrap_err().code(), Code::InvalidPolicyDocument);
}

#[tokio::test]
async fn the_size_of_the_file_is_held_against_the_policy() {
    let text = part("key", "k") + &part("policy", "") + &file("12345");
    let range = |least: u64, most: u64| {
        policy(&format!("[[\"starts-with\",\"$key\",\"\"],[\"content-length-range\",{least},{most}]]"))
            .unwrap()
    };
    for (least, most, expected) in
        [(5, 5, None), (0, 4, Some(Code::EntityTooLarge)), (6, 9, Some(Code::EntityTooSmall))]
    {
        let mut form = read(&text).await.unwrap();
        form.check(&range(least, most), &"photos".parse().unwrap(), NOW_MS).unwrap();
        assert_eq!(content(form).await.err(), expected);
    }
}

#[tokio::test]
async fn answers_are_as_the_sender_wants_them() {
    for (extra, status, location) in [
        (String::new(), 204, "http://h/photos/a%20b"),
        (part("success_action_status", "200"), 200, "http://h/photos/a%20b"),
        (part("success_action_status", "201"), 201, "http://h/photos/a%20b"),
        (part("success_action_status", "302"), 204, "http://h/photos/a%20b"),
        (
            part("success_action_redirect", "https://e.org/?x=1"),
            303,
            "https://e.org/?x=1&bucket=photos&key=a%20b&etag=%22t%22",
        ),
        (part("redirect", "javascript:x"), 204, "http://h/photos/a%20b"),
    ] {
        let form = read(&(part("key", "a b") + &extra + &file("x"))).await.unwrap();
        let reply = form.reply(&"photos".parse().unwrap(), "http://h/photos");
        let answer = reply.answer(Response::ok().header(http::header::ETAG, "\"t\""));
        assert_eq!(answer.status.as_u16(), status, "{extra}");
        assert_eq!(answer.headers[LOCATION], location);
        assert_eq!(answer.headers["etag"], "\"t\"");
    }
}
