//! C: payload digests, aws-chunked framing, trailers, checksums, lengths.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Case, Expect, Scene};
use crate::client::{ALGORITHMS, Payload, Request, TRAILER_SIGNATURE, Wire};

const CHUNK: usize = 8192;
const CRC32: &str = "x-amz-checksum-crc32";

fn bad_request(code: &'static str) -> Expect {
    Expect::error(400, code)
}

fn mismatch() -> Expect {
    Expect::error(403, "SignatureDoesNotMatch")
}

pub(super) fn cases(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = digests(scene);
    cases.extend(signed_chunks(scene));
    cases.extend(lengths(scene));
    cases.extend(framing(scene));
    cases.extend(trailers(scene));
    cases.extend(checksums(scene));
    cases.extend(whole_bodies(scene));
    cases
}

fn digests(scene: &Scene<'_>) -> Vec<Case> {
    let literal = |text: &str| scene.sign(scene.put().payload(Payload::Literal(text.to_string())));
    let other = "a".repeat(64);
    let rewritten = scene.sign(scene.put()).set("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    let mut cases = vec![
        Case::new(
            "H044",
            "no digest",
            scene.sign(scene.put().payload(Payload::Absent)),
            bad_request("InvalidRequest"),
        ),
        Case::new("H045", "not a digest", literal("garbage"), bad_request("InvalidArgument")),
        Case::new("H045", "an unknown mode", literal("STREAMING-FOO"), bad_request("InvalidArgument")),
        Case::new("H046", "another digest", literal(&other), bad_request("XAmzContentSHA256Mismatch")),
        Case::new("H047", "rewritten to unsigned", rewritten, mismatch()),
    ];
    let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_string();
    for (name, request) in [
        ("get", scene.get()),
        ("create bucket", Request::bucket("PUT", "bad-input-none")),
        ("delete", Request::object("DELETE", super::scene::BUCKET, super::scene::KEY)),
    ] {
        let wire = scene.sign(request.payload(Payload::Literal(streaming.clone())));
        cases.push(Case::new("H067", format!("streaming {name}"), wire, bad_request("InvalidRequest")));
    }
    cases
}

/// A PUT in three signed chunks.
fn three_chunks(scene: &Scene<'_>) -> Wire {
    scene.sign(scene.put().body(vec![b'c'; 2 * CHUNK + 100]).payload(Payload::SignedChunks(CHUNK)))
}

/// The frames of a chunked body: each with its header, data and line ends.
fn frames(body: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = body;
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let header = String::from_utf8_lossy(&rest[..line]).into_owned();
        let size =
            header.split(';').next().and_then(|size| usize::from_str_radix(size, 16).ok()).unwrap_or(0);
        let length = if size == 0 { rest.len() } else { (line + 2 + size + 2).min(rest.len()) };
        frames.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    frames
}

fn signed_chunks(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    let framed = |order: &[usize]| {
        let wire = three_chunks(scene);
        let frames = frames(&wire.body);
        let body: Vec<u8> = order.iter().flat_map(|index| frames[*index].clone()).collect();
        wire.with_body(body)
    };
    for (index, name) in ["first", "second", "third", "last"].into_iter().enumerate() {
        let wire = three_chunks(scene);
        let mut all = frames(&wire.body);
        let at = all[index].windows(10).position(|window| window == b"signature=").unwrap_or(0) + 10;
        all[index][at] = if all[index][at] == b'0' { b'1' } else { b'0' };
        let wire = wire.with_body(all.concat());
        cases.push(Case::new("H049", format!("the {name} chunk signature changed"), wire, mismatch()));
    }
    let chain = || Expect::any(&[(403, "SignatureDoesNotMatch"), (400, "IncompleteBody")]);
    let changed = {
        let wire = three_chunks(scene);
        let mut body = wire.body.clone();
        body[200] = b'x';
        wire.with_body(body)
    };
    cases.push(Case::new("H049", "a byte changed", changed, mismatch()));
    cases.push(Case::new("H050", "chunks swapped", framed(&[1, 0, 2, 3]), mismatch()));
    cases.push(Case::new("H050", "a chunk twice", framed(&[0, 0, 1, 2, 3]), mismatch()));
    cases.push(Case::new("H050", "a chunk dropped", framed(&[0, 2, 3]), mismatch()));
    cases.push(Case::new("H051", "no final chunk", framed(&[0, 1, 2]), bad_request("IncompleteBody")));
    let other = scene
        .client
        .signer()
        .later(1)
        .sign(scene.put().body(vec![b'd'; 2 * CHUNK + 100]).payload(Payload::SignedChunks(CHUNK)));
    let foreign = three_chunks(scene).with_body(other.body);
    cases.push(Case::new("H050", "chunks of another request", foreign, chain()));
    let cut = three_chunks(scene);
    let half = cut.bytes()[..cut.head().len() + CHUNK].to_vec();
    let case =
        Case::raw("H051", "gone inside a chunk", "PUT", half, bad_request("IncompleteBody").or_close());
    cases.push(case.finishing());
    let small = scene.sign(scene.put().body(vec![b'c'; 4096]).payload(Payload::SignedChunks(1024)));
    cases.push(Case::new("H058", "small chunks", small, bad_request("InvalidChunkSizeError")));
    cases
}

/// A PUT of `data` in unsigned chunks with one right trailer.
fn unsigned(scene: &Scene<'_>, data: &[u8]) -> Wire {
    let trailer = vec![(CRC32.to_string(), ALGORITHMS[0].base64(data))];
    scene.sign(scene.put().body(data).payload(Payload::UnsignedChunksTrailer(CHUNK, trailer)))
}

fn lengths(scene: &Scene<'_>) -> Vec<Case> {
    let signer = scene.client.signer();
    let name = "x-amz-decoded-content-length";
    let wire = || unsigned(scene, b"evil");
    let without = signer.resign(wire().without(name));
    let mut cases =
        vec![Case::new("H052", "no decoded length", without, Expect::error(411, "MissingContentLength"))];
    for value in ["-1", "four", "18446744073709551616", "+4", "4 4"] {
        let wire = signer.resign(wire().set(name, value));
        cases.push(Case::new(
            "H053",
            format!("decoded length {value}"),
            wire,
            bad_request("InvalidArgument"),
        ));
    }
    let twice = signer.resign(wire().add(name, "5"));
    // The header is signed twice too, which may be what is refused first.
    let codes = [(400, "InvalidArgument"), (400, "InvalidRequest"), (400, "AuthorizationHeaderMalformed")];
    let expect = Expect::any(&codes);
    cases.push(Case::new("H053", "two decoded lengths", twice, expect));
    for value in ["3", "5"] {
        let wire = signer.resign(wire().set(name, value));
        cases.push(Case::new(
            "H054",
            format!("decoded length {value} of 4"),
            wire,
            bad_request("IncompleteBody"),
        ));
    }
    cases
}

fn framing(scene: &Scene<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    let end = || format!("0\r\n{CRC32}:{}\r\n\r\n", ALGORITHMS[0].base64(b"evil"));
    let body = |text: String| unsigned(scene, b"evil").with_body(text);
    for size in ["fffffffffffffffff", "-1", "+4", "0x4", "4 4", "", "g"] {
        let wire = body(format!("{size}\r\nevil\r\n{}", end()));
        cases.push(Case::new("H055", format!("chunk size {size:?}"), wire, bad_request("IncompleteBody")));
    }
    let huge = body(format!("1900000000\r\nevilevil\r\n{}", end()));
    let expect = Expect::any(&[(400, "EntityTooLarge"), (400, "IncompleteBody")]);
    cases.push(Case::new("H056", "a chunk of 100 GiB announced", huge, expect));
    for (name, length) in [("5 KiB", 5 << 10), ("1 MiB", 1 << 20)] {
        let wire = body(format!("4;x={}\r\nevil\r\n{}", "a".repeat(length), end()));
        cases.push(Case::new(
            "H057",
            format!("a chunk header of {name}"),
            wire,
            bad_request("InvalidRequest"),
        ));
    }
    let either =
        || Expect::any(&[(400, "IncompleteBody"), (400, "InvalidRequest"), (400, "MalformedTrailerError")]);
    for (name, text) in [
        ("bare line feeds", format!("4\nevil\n{}", end())),
        ("lone carriage return", format!("4\revil\r\n{}", end())),
        ("no line end after data", format!("4\r\nevil{}", end())),
        ("bytes after the last chunk", format!("4\r\nevil\r\n{}PUT / HTTP/1.1\r\n\r\n", end())),
    ] {
        cases.push(Case::new("H059", name, body(text), either()));
    }
    cases
}

fn trailers(scene: &Scene<'_>) -> Vec<Case> {
    let crc = ALGORITHMS[0].base64(b"evil");
    let body = |tail: &str| unsigned(scene, b"evil").with_body(format!("4\r\nevil\r\n0\r\n{tail}\r\n"));
    let malformed = || bad_request("MalformedTrailerError");
    let signer = scene.client.signer();
    let declared = |names: &str, tail: &str| signer.resign(body(tail).set("x-amz-trailer", names));
    let line = |name: &str, value: &str| format!("{name}:{value}\r\n");
    let good = line(CRC32, &crc);
    let both = format!("{good}{}", line("x-amz-checksum-sha1", &ALGORITHMS[3].base64(b"evil")));
    let header = signer.resign(body(&good).set("x-amz-checksum-sha1", ALGORITHMS[3].base64(b"evil")));
    let mut cases = vec![
        Case::new("H060", "the declared trailer is absent", body(""), malformed()),
        Case::new("H060", "another trailer", body(&line("x-amz-checksum-sha1", &crc)), malformed()),
        Case::new("H061", "wrong checksum", body(&line(CRC32, "AAAAAA==")), bad_request("BadDigest")),
        Case::new("H062", "not base64", body(&line(CRC32, "!!!!")), bad_request("InvalidRequest")),
        Case::new("H062", "wrong length", body(&line(CRC32, "AAAA")), bad_request("InvalidRequest")),
        Case::new(
            "H062",
            "unknown algorithm",
            declared("x-amz-checksum-foo", &line("x-amz-checksum-foo", "AAAA")),
            bad_request("InvalidRequest"),
        ),
        Case::new(
            "H063",
            "two trailer checksums",
            declared(&format!("{CRC32},x-amz-checksum-sha1"), &both),
            bad_request("InvalidRequest"),
        ),
        Case::new("H063", "header and trailer", header, bad_request("InvalidRequest")),
        Case::new("H065", "a trailer of 1 MiB", body(&line(CRC32, &"A".repeat(1 << 20))), malformed()),
    ];
    for name in ["x-amz-acl", "authorization", "content-length"] {
        let wire = declared(&format!("{CRC32},{name}"), &format!("{good}{}", line(name, "public-read")));
        cases.push(Case::new("H065", format!("a trailer {name}"), wire, malformed()));
    }
    cases.extend(signed_trailers(scene, &crc));
    let forged = unsigned(scene, b"evil").edit("authorization", |old| {
        format!("{}{}", &old[..old.len() - 1], if old.ends_with('0') { '1' } else { '0' })
    });
    let absent = unsigned(scene, b"evil").without("authorization");
    cases.push(Case::new("H066", "forged signature, unsigned trailer", forged, mismatch()));
    cases.push(Case::new(
        "H066",
        "no signature, unsigned trailer",
        absent,
        Expect::error(403, "AccessDenied"),
    ));
    cases
}

fn signed_trailers(scene: &Scene<'_>, crc: &str) -> Vec<Case> {
    let trailer = vec![(CRC32.to_string(), crc.to_string())];
    let wire = scene.sign(scene.put().body("evil").payload(Payload::SignedChunksTrailer(CHUNK, trailer)));
    let text = String::from_utf8_lossy(&wire.body).into_owned();
    let (before, signature) = text.split_once(TRAILER_SIGNATURE).unwrap_or((&text, ""));
    let flipped = if signature.starts_with(":0") { "1" } else { "0" };
    let changed = format!("{before}{TRAILER_SIGNATURE}:{flipped}{}", signature.get(2..).unwrap_or_default());
    let missing = format!("{before}\r\n");
    let altered = text.replace(crc, "AAAAAA==");
    let either = Expect::any(&[(403, "SignatureDoesNotMatch"), (400, "MalformedTrailerError")]);
    vec![
        Case::new("H064", "wrong trailer signature", wire.clone().with_body(changed), mismatch()),
        Case::new("H064", "no trailer signature", wire.clone().with_body(missing), either),
        Case::new("H064", "trailer changed under its signature", wire.with_body(altered), mismatch()),
    ]
}

fn checksums(scene: &Scene<'_>) -> Vec<Case> {
    let put = |name: &str, value: &str| scene.sign(scene.put().header(name, value));
    let wrong_md5 = ALGORITHMS[5].base64(b"other");
    let mut cases = vec![
        Case::new("H068", "empty Content-MD5", put("content-md5", ""), bad_request("InvalidDigest")),
        Case::new("H068", "Content-MD5 not base64", put("content-md5", "!!"), bad_request("InvalidDigest")),
        Case::new("H068", "Content-MD5 too short", put("content-md5", "AAAA"), bad_request("InvalidDigest")),
        Case::new("H069", "wrong Content-MD5", put("content-md5", &wrong_md5), bad_request("BadDigest")),
    ];
    for algorithm in &ALGORITHMS {
        let wrong = put(algorithm.header, &algorithm.base64(b"other"));
        cases.push(Case::new("H070", format!("wrong {}", algorithm.name), wrong, bad_request("BadDigest")));
        let short = put(algorithm.header, &STANDARD.encode("x"));
        cases.push(Case::new(
            "H070",
            format!("short {}", algorithm.name),
            short,
            bad_request("InvalidRequest"),
        ));
    }
    let body = scene.put().body;
    let two = scene
        .put()
        .header(ALGORITHMS[0].header, ALGORITHMS[0].base64(&body))
        .header(ALGORITHMS[3].header, ALGORITHMS[3].base64(&body));
    cases.push(Case::new("H070", "two checksums", scene.sign(two), bad_request("InvalidRequest")));
    let differs = scene
        .put()
        .header("x-amz-sdk-checksum-algorithm", "SHA256")
        .header(ALGORITHMS[0].header, ALGORITHMS[0].base64(&body));
    cases.push(Case::new(
        "H070",
        "another algorithm announced",
        scene.sign(differs),
        bad_request("InvalidRequest"),
    ));
    cases
}

fn whole_bodies(scene: &Scene<'_>) -> Vec<Case> {
    let put = || scene.sign(scene.put());
    let incomplete = bad_request("IncompleteBody").or_close();
    let longer = put().set("content-length", 1000);
    let endless = put().without("content-length");
    let endless = endless.head();
    let large = scene.sign(scene.put().payload(Payload::Unsigned));
    let large = large.with_body("").set("content-length", (5u64 << 30) + 1).set("expect", "100-continue");
    let forbidden = put().edit("authorization", |old| {
        format!("{}{}", &old[..old.len() - 1], if old.ends_with('0') { '1' } else { '0' })
    });
    let forbidden = forbidden.with_body("").set("content-length", 1000).set("expect", "100-continue");
    vec![
        Case::new("H071", "fewer bytes than announced", longer, incomplete).finishing(),
        Case::raw("H072", "no length", "PUT", endless, Expect::error(411, "MissingContentLength")),
        Case::new("H073", "5 GiB and one byte", large, bad_request("EntityTooLarge").and_close()),
        Case::new("H074", "expects to continue, wrong signature", forbidden, mismatch().and_close()),
    ]
}
