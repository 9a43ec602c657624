//! Bodies: every row of the table of bad payloads, whatever frames they arrive in.

#![allow(clippy::unwrap_used)]

use futures::executor::block_on;
use futures::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;
use crate::s3::auth::ChunkSigner;
use crate::s3::testing::raw;

const MD5_ABC: &str = "kAFQmDzST7DWlj99KOF/cg==";
const CRC32_ABC: &str = "NSRBwg==";
const SHA256_ABC: &str = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn signer() -> ChunkSigner {
    ChunkSigner::for_tests("secret", "20130524T000000Z", "us-east-1", [7; 32])
}

/// Reads a body to its end. The bytes, if everything matched.
fn read(body: RawBody, pairs: &[(&'static str, &str)], auth: PayloadAuth) -> S3Result<(Bytes, Digests)> {
    let mut payload = Payload::new(body, &headers(pairs), BodyRule::Object, auth)?;
    let bytes = block_on(payload.collect(1 << 24))?;
    let digests = payload.digests().cloned().unwrap();
    assert_eq!(digests.bytes, bytes.len() as u64);
    Ok((bytes, digests))
}

/// A body in frames of so many bytes.
fn framed(bytes: &[u8], frame_bytes: usize) -> RawBody {
    let frames: Vec<Result<Frame<Bytes>, BoxError>> =
        bytes.chunks(frame_bytes).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    RawBody::new(StreamBody::new(stream::iter(frames)))
}

fn exact(bytes: &[u8]) -> PayloadAuth {
    PayloadAuth::Exact(Sha256::digest(bytes).into())
}

#[test]
fn identity_bodies() {
    let length = ("content-length", "3");
    let code = |pairs: &[(&'static str, &str)], auth| {
        let pairs: Vec<_> = [length].iter().chain(pairs).copied().collect();
        read(raw("abc"), &pairs, auth).map(|_| ()).map_err(|error| error.code())
    };
    for (pairs, expected) in [
        (&[][..], Ok(())),
        (&[("content-md5", MD5_ABC)], Ok(())),
        (&[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")], Err(Code::BadDigest)),
        (&[("content-md5", "")], Err(Code::InvalidDigest)),
        (&[("content-md5", "AAAA")], Err(Code::InvalidDigest)),
        (&[("content-md5", "!")], Err(Code::InvalidDigest)),
        (&[("x-amz-checksum-crc32", CRC32_ABC)], Ok(())),
        (&[("x-amz-checksum-sha256", SHA256_ABC)], Ok(())),
        (&[("x-amz-checksum-md5", MD5_ABC)], Ok(())),
        (&[("x-amz-checksum-crc32", CRC32_ABC), ("x-amz-sdk-checksum-algorithm", "crc32")], Ok(())),
        (&[("x-amz-checksum-crc32", "AAAAAA==")], Err(Code::BadDigest)),
        (&[("x-amz-checksum-crc32", "AAAA")], Err(Code::InvalidRequest)),
        (&[("x-amz-checksum-crc32", CRC32_ABC), ("x-amz-checksum-md5", MD5_ABC)], Err(Code::InvalidRequest)),
        (
            &[("x-amz-checksum-crc32", CRC32_ABC), ("x-amz-sdk-checksum-algorithm", "SHA1")],
            Err(Code::InvalidRequest),
        ),
        (&[("x-amz-sdk-checksum-algorithm", "CRC32")], Err(Code::InvalidRequest)),
        (&[("x-amz-sdk-checksum-algorithm", "CRC16")], Err(Code::InvalidRequest)),
        (&[("x-amz-trailer", "x-amz-checksum-crc32")], Err(Code::InvalidRequest)),
    ] {
        assert_eq!(code(pairs, PayloadAuth::Unsigned), expected, "{pairs:?}");
    }
    assert_eq!(code(&[], exact(b"abc")), Ok(()));
    assert_eq!(code(&[], exact(b"abd")), Err(Code::XAmzContentSHA256Mismatch));
    let (_, digests) = read(raw("abc"), &[length], PayloadAuth::Unsigned).unwrap();
    assert_eq!(hex::encode(digests.md5), "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(digests.checksum.algorithm, ChecksumAlgorithm::Crc64Nvme);
}

#[test]
fn lengths() {
    let code = |body: &'static str, pairs: &[(&'static str, &str)], auth| {
        read(raw(body), pairs, auth).map_err(|error| error.code()).err()
    };
    let unsigned = || PayloadAuth::Unsigned;
    assert_eq!(code("abc", &[], unsigned()), Some(Code::MissingContentLength));
    for (text, expected) in [
        ("3", None),
        ("4", Some(Code::IncompleteBody)),
        ("2", Some(Code::IncompleteBody)),
        ("-1", Some(Code::InvalidArgument)),
        ("+3", Some(Code::InvalidArgument)),
        ("", Some(Code::InvalidArgument)),
        ("18446744073709551616", Some(Code::InvalidArgument)),
        ("5368709121", Some(Code::EntityTooLarge)),
    ] {
        assert_eq!(code("abc", &[("content-length", text)], unsigned()), expected, "{text}");
    }
    let trailer = || PayloadAuth::UnsignedTrailer;
    let chunked = "3\r\nabc\r\n0\r\n\r\n";
    let name = "x-amz-decoded-content-length";
    assert_eq!(code(chunked, &[], trailer()), Some(Code::MissingContentLength));
    assert_eq!(code(chunked, &[(name, "3")], trailer()), None);
    for text in ["-3", "x", "18446744073709551616"] {
        assert_eq!(code(chunked, &[(name, text)], trailer()), Some(Code::InvalidArgument), "{text}");
    }
    assert_eq!(code(chunked, &[(name, "3"), (name, "3")], trailer()), Some(Code::InvalidArgument));
    for text in ["2", "4"] {
        assert_eq!(code(chunked, &[(name, text)], trailer()), Some(Code::IncompleteBody), "{text}");
    }
}

#[test]
fn streaming_modes_are_for_objects_only() {
    for rule in [BodyRule::None, BodyRule::Document, BodyRule::DocumentAboutObject] {
        for auth in [
            PayloadAuth::UnsignedTrailer,
            PayloadAuth::SignedChunks(signer()),
            PayloadAuth::SignedChunksTrailer(signer()),
        ] {
            let pairs = headers(&[("x-amz-decoded-content-length", "0")]);
            let refused = Payload::new(raw(""), &pairs, rule, auth).map(|_| ()).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidRequest);
        }
    }
}

#[test]
fn documents_are_bounded() {
    let collect = |body: &'static str, pairs: &[(&'static str, &str)]| {
        let payload = Payload::new(raw(body), &headers(pairs), BodyRule::Document, PayloadAuth::Unsigned);
        block_on(payload.unwrap().collect(3)).map_err(|error| error.code())
    };
    assert_eq!(collect("abc", &[]), Ok(Bytes::from("abc")));
    assert_eq!(collect("abcd", &[]), Err(Code::MaxMessageLengthExceeded));
    assert_eq!(collect("abcd", &[("content-length", "4")]), Err(Code::MaxMessageLengthExceeded));
}

/// Unsigned framing of `abc` and its variations.
#[test]
fn framing() {
    let long_line = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(5000));
    let long_trailer = format!("3\r\nabc\r\n0\r\nx-amz-checksum-crc32:{}\r\n\r\n", "A".repeat(20_000));
    for (body, expected) in [
        ("3\r\nabc\r\n0\r\n\r\n", None),
        ("3;ext=1\r\nabc\r\n0\r\n\r\n", None),
        ("00003\r\nabc\r\n0\r\n\r\n", None),
        ("", Some(Code::IncompleteBody)),
        ("3\r\nab", Some(Code::IncompleteBody)),
        ("3\r\nabc", Some(Code::IncompleteBody)),
        ("3\r\nabc\r\n", Some(Code::IncompleteBody)),
        ("3\r\nabc\r\n0\r\n", Some(Code::IncompleteBody)),
        ("0\r\n\r\n", Some(Code::IncompleteBody)),
        ("fffffffffffffffff\r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("ffffffffffffffff\r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("-1\r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("+3\r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("0x3\r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("3 \r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("\r\nabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("1900000000\r\nabc", Some(Code::IncompleteBody)),
        ("3\nabc\n0\n\n", Some(Code::IncompleteBody)),
        ("3\rabc\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("3\r\nabcd\r\n0\r\n\r\n", Some(Code::IncompleteBody)),
        ("3\r\nabc\r\n0\r\n\r\nmore", Some(Code::IncompleteBody)),
        ("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", Some(Code::InvalidChunkSizeError)),
        (long_line.as_str(), Some(Code::InvalidRequest)),
        (long_trailer.as_str(), Some(Code::MalformedTrailerError)),
        ("3\r\nabc\r\n0\r\nx-amz-acl:public-read\r\n\r\n", Some(Code::MalformedTrailerError)),
        ("3\r\nabc\r\n0\r\ngarbage\r\n\r\n", Some(Code::MalformedTrailerError)),
    ] {
        for frame_bytes in [1, 7, 1 << 20] {
            let got = read(
                framed(body.as_bytes(), frame_bytes),
                &[("x-amz-decoded-content-length", "3")],
                PayloadAuth::UnsignedTrailer,
            );
            let short: String = body.chars().take(40).collect();
            match got {
                Ok((bytes, _)) => assert_eq!((expected, &bytes[..]), (None, &b"abc"[..]), "{short:?}"),
                Err(error) => assert_eq!(Some(error.code()), expected, "{short:?} {error}"),
            }
        }
    }
}

#[test]
fn unsigned_trailers() {
    let right = format!("x-amz-checksum-crc32:{CRC32_ABC}\r\n");
    let twice = format!("{right}{right}");
    let other = format!("{right}x-amz-checksum-md5:{MD5_ABC}\r\n");
    let spaced = format!("X-Amz-Checksum-CRC32 : {CRC32_ABC} \r\n");
    let declared = ("x-amz-trailer", "x-amz-checksum-crc32");
    for (trailer, pairs, expected) in [
        (right.as_str(), &[declared][..], None),
        (&spaced, &[declared], None),
        ("x-amz-checksum-crc32:AAAAAA==\r\n", &[declared], Some(Code::BadDigest)),
        ("x-amz-checksum-crc32:AAAA\r\n", &[declared], Some(Code::InvalidRequest)),
        ("x-amz-checksum-crc32:!\r\n", &[declared], Some(Code::InvalidRequest)),
        ("", &[declared], Some(Code::MalformedTrailerError)),
        (&right, &[], Some(Code::MalformedTrailerError)),
        (&right, &[("x-amz-trailer", "x-amz-checksum-sha1")], Some(Code::MalformedTrailerError)),
        (&right, &[("x-amz-trailer", "x-amz-meta-a")], Some(Code::InvalidRequest)),
        (&right, &[("x-amz-trailer", "x-amz-checksum-crc16")], Some(Code::InvalidRequest)),
        (&right, &[("x-amz-trailer", "x-amz-checksum-crc32,x-amz-checksum-md5")], Some(Code::InvalidRequest)),
        (&right, &[("x-amz-trailer", "x-amz-checksum-crc32,x-amz-acl")], Some(Code::MalformedTrailerError)),
        (&twice, &[declared], Some(Code::InvalidRequest)),
        (&other, &[declared], Some(Code::InvalidRequest)),
        (&right, &[declared, ("x-amz-checksum-crc32", CRC32_ABC)], Some(Code::InvalidRequest)),
        (&right, &[declared, ("x-amz-sdk-checksum-algorithm", "SHA256")], Some(Code::InvalidRequest)),
        (&right, &[declared, ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")], Some(Code::BadDigest)),
    ] {
        let body = format!("3\r\nabc\r\n0\r\n{trailer}\r\n");
        let pairs: Vec<_> = [("x-amz-decoded-content-length", "3")].iter().chain(pairs).copied().collect();
        let got =
            read(raw(body), &pairs, PayloadAuth::UnsignedTrailer).map(|_| ()).map_err(|error| error.code());
        assert_eq!(got.err(), expected, "{trailer:?} {pairs:?}");
    }
}

/// The chunks of a signed body as a client sends them.
fn signed_chunks(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, ChunkSigner) {
    let mut signer = signer();
    let end = [&b""[..]];
    let chunks = pieces.iter().chain(&end).map(|piece| {
        let signature = signer.sign_chunk(piece);
        let mut chunk = format!("{:x};chunk-signature={signature}\r\n", piece.len()).into_bytes();
        if !piece.is_empty() {
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
        }
        chunk
    });
    let chunks = chunks.collect();
    (chunks, signer)
}

#[test]
fn signed_chunk_chains() {
    let (first, second) = (vec![b'a'; 9000], vec![b'b'; 9000]);
    let (chunks, _) = signed_chunks(&[&first, &second, b"c"]);
    let read_chunks = |chunks: &[&[u8]]| {
        let mut body = chunks.concat();
        body.extend_from_slice(b"\r\n");
        let pairs = [("x-amz-decoded-content-length", "18001")];
        read(framed(&body, 1000), &pairs, PayloadAuth::SignedChunks(signer())).map_err(|error| error.code())
    };
    let [one, two, three, end] = &chunks[..] else { unreachable!("three chunks and the last") };
    let (bytes, _) = read_chunks(&[one, two, three, end]).unwrap();
    assert_eq!(bytes, [&first[..], &second, b"c"].concat());
    let flipped = |chunk: &[u8]| {
        let text = b"chunk-signature=";
        let at = chunk.windows(text.len()).position(|window| window == text).unwrap() + text.len();
        let mut chunk = chunk.to_vec();
        chunk[at] = if chunk[at] == b'0' { b'1' } else { b'0' };
        chunk
    };
    let mut changed = two.clone();
    changed[200] ^= 1;
    let unsigned_end = b"0\r\n".to_vec();
    for (what, chunks, expected) in [
        (
            "first flipped",
            [&flipped(one), two, three, end].map(|chunk| &chunk[..]).to_vec(),
            Code::SignatureDoesNotMatch,
        ),
        ("middle flipped", vec![one, &flipped(two), three, end], Code::SignatureDoesNotMatch),
        ("last flipped", vec![one, two, three, &flipped(end)], Code::SignatureDoesNotMatch),
        ("data changed", vec![one, &changed, three, end], Code::SignatureDoesNotMatch),
        ("swapped", vec![two, one, three, end], Code::SignatureDoesNotMatch),
        ("repeated", vec![one, one, three, end], Code::SignatureDoesNotMatch),
        ("dropped", vec![one, three, end], Code::SignatureDoesNotMatch),
        ("end dropped", vec![one, two, three], Code::IncompleteBody),
        ("end unsigned", vec![one, two, three, &unsigned_end], Code::SignatureDoesNotMatch),
    ] {
        assert_eq!(read_chunks(&chunks).unwrap_err(), expected, "{what}");
    }
}

#[test]
fn signed_trailers() {
    let (chunks, chain) = signed_chunks(&[b"abc"]);
    let line = format!("x-amz-checksum-crc32:{CRC32_ABC}");
    let signature = chain.clone().sign_trailer(&format!("{line}\n"));
    let forged = chain.clone().sign_trailer("x-amz-checksum-crc32:AAAAAA==\n");
    for (trailer, expected) in [
        (format!("{line}\r\nx-amz-trailer-signature:{signature}\r\n\r\n"), None),
        (format!("{line}\r\nx-amz-trailer-signature:{forged}\r\n\r\n"), Some(Code::SignatureDoesNotMatch)),
        (format!("{line}\r\nx-amz-trailer-signature:zz\r\n\r\n"), Some(Code::SignatureDoesNotMatch)),
        (format!("{line}\r\n\r\n"), Some(Code::MalformedTrailerError)),
        (format!("x-amz-trailer-signature:{signature}\r\n\r\n"), Some(Code::MalformedTrailerError)),
        (
            format!("x-amz-checksum-crc32:AAAAAA==\r\nx-amz-trailer-signature:{forged}\r\n\r\n"),
            Some(Code::BadDigest),
        ),
    ] {
        let body = [chunks.concat(), trailer.clone().into_bytes()].concat();
        let pairs = [("x-amz-decoded-content-length", "3"), ("x-amz-trailer", "x-amz-checksum-crc32")];
        let got = read(raw(body), &pairs, PayloadAuth::SignedChunksTrailer(signer()));
        assert_eq!(got.map(|_| ()).map_err(|error| error.code()).err(), expected, "{trailer}");
    }
}

#[test]
fn a_broken_body_never_completes() {
    let mut payload = Payload::new(
        raw("ab"),
        &headers(&[("content-length", "3")]),
        BodyRule::Object,
        PayloadAuth::Unsigned,
    )
    .unwrap();
    assert_eq!(block_on(payload.next()).unwrap(), Some(Bytes::from("ab")));
    assert_eq!(block_on(payload.next()).unwrap_err().code(), Code::IncompleteBody);
    assert_eq!(block_on(payload.next()).unwrap_err().code(), Code::IncompleteBody);
    assert_eq!(payload.digests(), None);
}

/// The connection breaks off a body that comes too slowly; the client hears why.
#[test]
fn a_body_that_comes_too_slowly_times_out() {
    let slow: BoxError = BodyError::TooSlow.into();
    let stalled = stream::iter([Ok(Frame::data(Bytes::from("a"))), Err(slow)]);
    let pairs = headers(&[("content-length", "3")]);
    let mut payload =
        Payload::new(RawBody::new(StreamBody::new(stalled)), &pairs, BodyRule::Object, PayloadAuth::Unsigned)
            .unwrap();
    assert_eq!(block_on(payload.next()).unwrap(), Some(Bytes::from("a")));
    assert_eq!(block_on(payload.next()).unwrap_err().code(), Code::RequestTimeout);
    assert_eq!(block_on(payload.next()).unwrap_err().code(), Code::RequestTimeout, "the reason stays");
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_signed_body_decodes_in_any_frames(
        sizes in proptest::collection::vec(8192..20_000_usize, 0..4),
        last in 1..9000_usize,
        frame_bytes in 1..10_000_usize,
        byte in any::<u8>(),
    ) {
        let pieces: Vec<Vec<u8>> = sizes.iter().chain([&last]).map(|bytes| vec![byte; *bytes]).collect();
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let (chunks, _) = signed_chunks(&slices);
        let mut body = chunks.concat();
        body.extend_from_slice(b"\r\n");
        let length = slices.concat().len().to_string();
        let pairs = [("x-amz-decoded-content-length", length.as_str())];
        let (bytes, digests) = read(framed(&body, frame_bytes), &pairs, PayloadAuth::SignedChunks(signer())).unwrap();
        prop_assert_eq!(&bytes[..], &slices.concat()[..]);
        prop_assert_eq!(digests.md5, <[u8; 16]>::from(Md5::digest(&bytes)));
    }

    #[test]
    fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300), frame_bytes in 1..50_usize) {
        for auth in [PayloadAuth::UnsignedTrailer, PayloadAuth::SignedChunksTrailer(signer())] {
            let pairs = [("x-amz-decoded-content-length", "10"), ("x-amz-trailer", "x-amz-checksum-crc32")];
            drop(read(framed(&body, frame_bytes), &pairs, auth));
        }
    }
}
