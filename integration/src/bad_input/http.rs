//! D: the protocol below S3.

use super::scene::{BUCKET, KEY};
use super::{Case, Expect, Scene};
use crate::client::{Payload, Request, Wire};

fn refused() -> Expect {
    Expect::status(400).or_close()
}

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = lengths(scene);
    cases.extend(heads(scene));
    cases.extend(targets(scene));
    cases.extend(hosts(scene));
    cases
}

/// A PUT whose body is chunked by HTTP.
fn chunked(scene: &Scene<'_>, coding: &str, body: &str) -> Wire {
    let mut wire = scene.sign(scene.put().payload(Payload::Unsigned)).without("content-length");
    wire.body = body.as_bytes().to_vec();
    wire.add("transfer-encoding", coding)
}

fn lengths(scene: &Scene<'_>) -> Vec<Case> {
    let body = "4\r\nevil\r\n0\r\n\r\n";
    let both = chunked(scene, "chunked", body).add("content-length", 4);
    let mut other = both.clone();
    other.headers.reverse();
    let mut cases = vec![
        Case::new("H075", "transfer-encoding, then content-length", both, refused().and_close()),
        Case::new("H075", "content-length, then transfer-encoding", other, refused().and_close()),
    ];
    for coding in ["xchunked", "chunked, identity", "chunked, chunked", "\u{b}chunked", "gzip, chunked"] {
        let expect = Expect::any(&[(400, ""), (501, "")]).or_close();
        cases.push(Case::new(
            "H076",
            format!("transfer-encoding {coding:?}"),
            chunked(scene, coding, body),
            expect,
        ));
    }
    let old = chunked(scene, "chunked", body).bytes();
    let old = String::from_utf8_lossy(&old).replace(" HTTP/1.1\r\n", " HTTP/1.0\r\n").into_bytes();
    cases.push(Case::raw("H077", "transfer-encoding in HTTP/1.0", "PUT", old, refused()));
    let put = || scene.sign(scene.put());
    for value in ["5,5", "+5", "5 5", "18446744073709551616", "-1", "0x5", ""] {
        let wire = put().set("content-length", value);
        cases.push(Case::new("H078", format!("content-length {value:?}"), wire, refused()));
    }
    let two = put().add("content-length", 1);
    cases.push(Case::new("H078", "two lengths", two, refused()));
    for (name, text) in [
        ("an overflowing size", "fffffffffffffffff\r\nevil\r\n0\r\n\r\n".to_string()),
        ("an extension of 1 MiB", format!("4;{}\r\nevil\r\n0\r\n\r\n", "a".repeat(1 << 20))),
    ] {
        cases.push(Case::new(
            "H079",
            name,
            chunked(scene, "chunked", &text),
            Expect::any(&[(400, ""), (411, "")]).or_close(),
        ));
    }
    cases
}

fn heads(scene: &Scene<'_>) -> Vec<Case> {
    let get = || scene.sign(scene.get());
    let large = get().add("x-large", "a".repeat(9 << 10));
    let mut many = get();
    for index in 0..101 {
        many = many.add(&format!("x-{index}"), "1");
    }
    let mut cases = vec![
        Case::new("H080", "a head of 9 KiB", large, Expect::error(400, "RequestHeaderSectionTooLarge")),
        Case::new("H081", "101 headers", many, Expect::any(&[(400, ""), (431, "")]).or_close()),
    ];
    let inserted = |line: &[u8]| {
        let bytes = get().bytes();
        let at = bytes.windows(2).position(|window| window == b"\r\n").unwrap_or(0) + 2;
        [&bytes[..at], line, &bytes[at..]].concat()
    };
    for (name, line) in [
        ("a space in a name", b"x bad: 1\r\n".as_slice()),
        ("a space before the colon", b"x-bad : 1\r\n"),
        ("NUL in a name", b"x-\0bad: 1\r\n"),
        ("a name that is no token", b"x(bad): 1\r\n"),
        ("no colon", b"x-bad\r\n"),
        ("an empty name", b": 1\r\n"),
        ("NUL in a value", b"x-bad: a\0b\r\n"),
        ("a bare carriage return in a value", b"x-bad: a\rb\r\n"),
        ("a folded line", b"x-bad: a\r\n b\r\n"),
        ("a folded first line", b" folded\r\n"),
    ] {
        cases.push(Case::raw("H082", name, "GET", inserted(line), refused()));
    }
    let long = Request::object("GET", BUCKET, &"k".repeat(1 << 20));
    let expect = Expect::any(&[(400, ""), (414, ""), (431, "")]).or_close();
    cases.push(Case::new("H083", "a target of 1 MiB", scene.sign(long), expect));
    cases.push(Case::raw(
        "H082",
        "not HTTP at all",
        "GET",
        b"\x16\x03\x01\x02\x00\r\n\r\n".to_vec(),
        refused(),
    ));
    cases.extend(http2());
    cases
}

/// HTTP/2 is not spoken: its preface is a bad request of HTTP/1.1, and nothing behind it is read.
fn http2() -> Vec<Case> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let settings = frame(4, 0, 0, &[]);
    let get = frame(1, 5, 1, b"\x82\x86\x84\x41\x01x");
    let reset = [frame(1, 4, 1, b"\x82\x86\x84\x41\x01x"), frame(3, 0, 1, &[0, 0, 0, 8])].concat();
    let smuggled = frame(1, 5, 1, b"\x82\x86\x84\x40\x11transfer-encoding\x07chunked");
    let rows: [(&'static str, &str, Vec<u8>); 5] = [
        ("H082", "an HTTP/2 preface", Vec::new()),
        ("H090", "rapid resets", reset.repeat(1000)),
        ("H091", "continuations without end", frame(9, 0, 1, &[0; 1024]).repeat(100)),
        ("H091", "empty data without end", [get, frame(0, 0, 1, &[]).repeat(1000)].concat()),
        ("H092", "transfer-encoding in HTTP/2", smuggled),
    ];
    let expect = || Expect::any(&[(400, ""), (405, ""), (505, "")]).or_close();
    let case = |(id, name, frames): (&'static str, &str, Vec<u8>)| {
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings, &frames].concat();
        Case::raw(id, name, "GET", bytes, expect())
    };
    rows.into_iter().map(case).collect()
}

fn targets(scene: &Scene<'_>) -> Vec<Case> {
    let foreign = scene.sign(scene.get()).retarget(|old| format!("http://evil.example{old}"));
    let mut cases =
        vec![Case::new("H084", "absolute form of another host", foreign, Expect::error(400, "InvalidURI"))];
    for method in ["TRACE", "PATCH", "get", "FOO", "CONNECT"] {
        let mut wire = scene.sign(scene.get());
        wire.method = method.to_string();
        let expect = Expect::any(&[(405, "MethodNotAllowed"), (405, "")]);
        let expect = if method == "CONNECT" { expect.or_close() } else { expect };
        cases.push(Case::new("H085", method, wire, expect));
    }
    for name in ["h2c", "websocket"] {
        let wire = scene.sign(scene.get()).add("connection", "Upgrade").add("upgrade", name);
        cases.push(Case::new("H093", format!("upgrade to {name}"), wire, Expect::status(200)));
    }
    cases
}

fn hosts(scene: &Scene<'_>) -> Vec<Case> {
    let get = || scene.sign(scene.get());
    let host = get().header("host").unwrap_or_default().to_string();
    let bad = || Expect::any(&[(400, ""), (403, "SignatureDoesNotMatch")]);
    let mut cases = vec![
        Case::new("H094", "no host", get().without("host"), Expect::status(400)),
        Case::new("H094", "two hosts", get().add("host", &host), Expect::status(400)),
        Case::new("H094", "a host with a user", get().set("host", "a@b"), bad()),
        Case::new("H094", "an empty host", get().set("host", ""), bad()),
    ];
    // A name outside our domain never selects a bucket: the path does.
    let mut signer = scene.client.signer();
    signer.host = format!("{BUCKET}.evil.example");
    let wire = signer.sign(Request::new("GET", format!("/{KEY}")));
    let expect = Expect::any(&[
        (404, "NoSuchBucket"),
        (400, "InvalidURI"),
        (400, "InvalidBucketName"),
        (403, "AccessDenied"),
    ]);
    cases.push(Case::new("H094", "a bucket under another domain", wire, expect));
    let spoofed = get().add("x-forwarded-for", "10.0.0.1").add("x-forwarded-host", "evil.example");
    cases.push(Case::new("H096", "forwarded headers", spoofed, Expect::status(200)));
    cases
}
