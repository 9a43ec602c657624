//! What clients encrypt: stored as ciphertext, read by who may, copied and uploaded in parts in every combination.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

use super::*;

const SSE: &str = "x-amz-server-side-encryption";
const KEY_ID: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const STORE: &[(&str, &str)] = &[(SSE, "AES256")];
const NAMED: &[(&str, &str)] = &[(SSE, "aws:kms"), (KEY_ID, "photos-key")];
const SIZES: [usize; 4] = [0, 100, 65_521, 3_000_000];

/// The headers of a customer with a key of these bytes.
struct Customer {
    key: String,
    md5: String,
}

impl Customer {
    fn new(byte: u8) -> Customer {
        let key = [byte; 32];
        Customer { key: STANDARD.encode(key), md5: STANDARD.encode(Md5::digest(key)) }
    }

    fn own(&self) -> Vec<(&str, &str)> {
        vec![
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
            ("x-amz-server-side-encryption-customer-key", &self.key),
            ("x-amz-server-side-encryption-customer-key-md5", &self.md5),
        ]
    }

    fn source(&self) -> Vec<(&str, &str)> {
        vec![
            ("x-amz-copy-source-server-side-encryption-customer-algorithm", "AES256"),
            ("x-amz-copy-source-server-side-encryption-customer-key", &self.key),
            ("x-amz-copy-source-server-side-encryption-customer-key-md5", &self.md5),
        ]
    }
}

/// Something that is found again wherever it lies in plain text.
fn text(bytes: usize) -> Bytes {
    b"plain text to be found ".iter().copied().cycle().take(bytes).collect::<Vec<u8>>().into()
}

fn md5_tag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(body)))
}

impl World {
    /// Whether plain text lies on a node.
    fn shows_text(&self) -> bool {
        let pattern = b"text to be found plain";
        (1..=3).any(|node| {
            self.chunks.with(node, |held| {
                held.chunks.values().any(|chunk| chunk.windows(pattern.len()).any(|at| at == pattern))
            })
        })
    }

    async fn refused(&self, method: Method, uri: &str, headers: &[(&str, &str)]) -> (Code, String) {
        match self.call("tester", method, uri, headers, "x").await {
            Ok(answer) => panic!("{uri}: {}", answer.status),
            Err(error) => (error.code(), error.message().to_string()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_encrypted_is_read_as_it_was_written() {
    let world = world().await;
    let customer = Customer::new(7);
    for (headers, reading) in
        [(STORE.to_vec(), vec![]), (NAMED.to_vec(), vec![]), (customer.own(), customer.own())]
    {
        for body in SIZES.map(text) {
            let put = world.ok(Method::PUT, "/photos/k", &headers, body.clone()).await;
            let mut asking = reading.clone();
            asking.push(("x-amz-checksum-mode", "ENABLED"));
            let got = world.ok(Method::GET, "/photos/k", &asking, "").await;
            assert!(got.body == body, "{} bytes", body.len());
            assert_eq!(got.header("etag"), put.header("etag"));
            assert_eq!(got.header("etag") == md5_tag(&body), headers == STORE, "only SSE-S3 shows the MD5");
            assert_eq!(got.header("x-amz-checksum-crc64nvme"), crc64(&body));
            let head = world.ok(Method::HEAD, "/photos/k", &reading, "").await;
            assert_eq!(head.header("content-length"), body.len().to_string());
            for (name, value) in headers.iter().filter(|(name, _)| !name.ends_with("customer-key")) {
                assert_eq!((put.header(name), got.header(name), head.header(name)), (*value, *value, *value));
            }
            for range in [(0, 0), (65_519, 65_520), (1_048_319, 1_048_320), (99, 2_999_999)] {
                if range.1 < body.len() {
                    let mut asking = reading.clone();
                    let bytes = format!("bytes={}-{}", range.0, range.1);
                    asking.push(("range", &bytes));
                    let part = world.ok(Method::GET, "/photos/k", &asking, "").await;
                    assert_eq!(part.body, body.slice(range.0..=range.1));
                    let expected = format!("bytes {}-{}/{}", range.0, range.1, body.len());
                    assert_eq!(part.header("content-range"), expected);
                }
            }
        }
    }
    assert!(!world.shows_text());
    world.ok(Method::PUT, "/photos/plain", &[], text(1_000_000)).await;
    assert!(world.shows_text(), "the look for plain text finds it where it is");
    let listed = world.ok(Method::GET, "/photos?list-type=2", &[], "").await;
    assert_eq!(listed.elements("Size"), ["3000000", "1000000"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_without_the_key_of_the_customer() {
    let world = world().await;
    let (customer, other) = (Customer::new(7), Customer::new(8));
    world.ok(Method::PUT, "/photos/k", &customer.own(), text(100)).await;
    for method in [Method::GET, Method::HEAD] {
        let (code, said) = world.refused(method.clone(), "/photos/k", &[]).await;
        assert_eq!(code, Code::InvalidRequest);
        assert!(said.contains("was stored using a form of Server Side Encryption"), "{said}");
        assert_eq!(world.refused(method, "/photos/k", &other.own()).await.0, Code::AccessDenied);
    }
    let attributes = [("x-amz-object-attributes", "ObjectSize")];
    assert_eq!(world.refused(Method::GET, "/photos/k?attributes", &attributes).await.0, Code::InvalidRequest);
    let with_key = [customer.own(), attributes.to_vec()].concat();
    assert_eq!(
        world.ok(Method::GET, "/photos/k?attributes", &with_key, "").await.element("ObjectSize"),
        "100"
    );

    world.ok(Method::PUT, "/photos/plain", &[], "hello").await;
    world.ok(Method::PUT, "/photos/store", STORE, "hello").await;
    for key in ["plain", "store"] {
        let (code, said) = world.refused(Method::GET, &format!("/photos/{key}"), &customer.own()).await;
        assert_eq!((code, said.contains("not applicable")), (Code::InvalidRequest, true));
        let (code, _) = world.refused(Method::GET, &format!("/photos/{key}"), STORE).await;
        assert_eq!(code, Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn what_writers_may_not_ask_for() {
    let world = world().await;
    let customer = Customer::new(7);
    let both = [customer.own(), STORE.to_vec()].concat();
    for (headers, code) in [
        (both.as_slice(), Code::InvalidArgument),
        (&[(SSE, "aws:kms"), (KEY_ID, "nobody")], Code::KmsNotFoundException),
        (&[(SSE, "aws:kms:dsse")], Code::NotImplemented),
        (&[(SSE, "AES512")], Code::InvalidArgument),
        (&[(KEY_ID, "photos-key")], Code::InvalidArgument),
        (&customer.own()[..2], Code::InvalidArgument),
    ] {
        for (method, uri) in [(Method::PUT, "/photos/k"), (Method::POST, "/photos/k?uploads")] {
            assert_eq!(world.refused(method, uri, headers).await.0, code, "{headers:?}");
        }
    }
    assert_eq!(world.code(Method::GET, "/photos/k", &[], "").await, Code::NoSuchKey);
    let context = STANDARD.encode("{\"a\":\"b\"}");
    let bound = [(SSE, "aws:kms"), ("x-amz-server-side-encryption-context", context.as_str())];
    let put = world.ok(Method::PUT, "/photos/k", &bound, "hello").await;
    assert_eq!(put.header("x-amz-server-side-encryption-context"), context);
    assert_eq!(put.header(KEY_ID), "alias/aws/s3");
    assert_eq!(world.ok(Method::GET, "/photos/k", &[], "").await.text(), "hello");
}

#[tokio::test(start_paused = true)]
async fn copies_in_every_combination() {
    let world = world().await;
    let (mine, other) = (Customer::new(7), Customer::new(8));
    let ways = [vec![], STORE.to_vec(), NAMED.to_vec(), vec![(SSE, "aws:kms")], mine.own(), other.own()];
    let reading = |way: usize| match way {
        4 => mine.own(),
        5 => other.own(),
        _ => Vec::new(),
    };
    let source_key = |way: usize| match way {
        4 => mine.source(),
        5 => other.source(),
        _ => Vec::new(),
    };
    for bytes in [100, 200_000] {
        let body = text(bytes);
        for (from, headers) in ways.iter().enumerate() {
            let name = format!("/photos/from-{from}");
            let said = [headers.clone(), vec![("x-amz-meta-a", "b")]].concat();
            world.ok(Method::PUT, &name, &said, body.clone()).await;
            for (to, headers) in ways.iter().enumerate() {
                let source = [("x-amz-copy-source", &name[1..])];
                let copy = [source.to_vec(), headers.clone(), source_key(from)].concat();
                let copied = world.ok(Method::PUT, "/photos/to", &copy, "").await;
                let got = world.ok(Method::GET, "/photos/to", &reading(to), "").await;
                assert!(got.body == body, "{from} to {to}");
                assert_eq!(got.header("x-amz-meta-a"), "b");
                assert_eq!(copied.element("ETag").replace("&quot;", "\""), got.header("etag"));
                assert_eq!(got.header("etag") == md5_tag(&body), to < 2, "{from} to {to}");
                for name in [SSE, KEY_ID, "x-amz-server-side-encryption-customer-algorithm"] {
                    let expected = headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
                    let expected = expected.or((name == KEY_ID && to == 3).then_some("alias/aws/s3"));
                    assert_eq!(got.header(name), expected.unwrap_or(""), "{from} to {to}: {name}");
                    assert_eq!(copied.header(name), expected.unwrap_or(""), "{from} to {to}: {name}");
                }
            }
        }
    }
    let source = ("x-amz-copy-source", "photos/from-4");
    assert_eq!(world.refused(Method::PUT, "/photos/to", &[source]).await.0, Code::InvalidRequest);
    let wrong = [vec![source], other.source()].concat();
    assert_eq!(world.refused(Method::PUT, "/photos/to", &wrong).await.0, Code::AccessDenied);
    // Onto itself, where only the encryption changes.
    let itself = [("x-amz-copy-source", "photos/from-0"), (SSE, "AES256")];
    world.ok(Method::PUT, "/photos/from-0", &itself, "").await;
    assert_eq!(world.ok(Method::GET, "/photos/from-0", &[], "").await.header(SSE), "AES256");
    // Conditions hold where bytes are written anew, too.
    let failing = [itself[0], (SSE, "aws:kms"), ("x-amz-copy-source-if-match", "\"x\"")];
    assert_eq!(world.refused(Method::PUT, "/photos/to", &failing).await.0, Code::PreconditionFailed);
}

#[tokio::test(start_paused = true)]
async fn uploads_are_encrypted_part_by_part() {
    let world = world().await;
    let (mine, other) = (Customer::new(7), Customer::new(8));
    let first = text(PART_BYTES_MIN as usize + 1);
    let second = text(PART_BYTES_MIN as usize);
    world.ok(Method::PUT, "/photos/source", &mine.own(), text(300_000)).await;
    for (headers, with_parts, reading) in [
        (STORE.to_vec(), vec![], vec![]),
        (NAMED.to_vec(), vec![], vec![]),
        (mine.own(), mine.own(), mine.own()),
        (vec![], vec![], vec![]),
    ] {
        let created = world.ok(Method::POST, "/photos/big?uploads", &headers, "").await;
        let id = created.element("UploadId");
        let part = |number: u16| format!("/photos/big?partNumber={number}&uploadId={id}");
        // Twice the same number: the second one counts, under another key.
        world.ok(Method::PUT, &part(1), &with_parts, text(PART_BYTES_MIN as usize + 9)).await;
        let tags = [
            world.ok(Method::PUT, &part(1), &with_parts, first.clone()).await.header("etag").to_string(),
            world.ok(Method::PUT, &part(2), &with_parts, second.clone()).await.header("etag").to_string(),
        ];
        assert_eq!(tags[0] == md5_tag(&first), headers == STORE || headers.is_empty());
        let copy = [
            vec![("x-amz-copy-source", "photos/source"), ("x-amz-copy-source-range", "bytes=100000-299999")],
            mine.source(),
            with_parts.clone(),
        ]
        .concat();
        let copied = world.ok(Method::PUT, &part(3), &copy, "").await;
        let listed = world.ok(Method::GET, &format!("/photos/big?uploadId={id}"), &[], "").await;
        assert_eq!(
            listed.elements("Size"),
            [first.len().to_string(), second.len().to_string(), "200000".to_string()]
        );
        let document = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part><Part>\
             <PartNumber>2</PartNumber><ETag>{}</ETag></Part><Part><PartNumber>3</PartNumber><ETag>{}</ETag></Part>\
             </CompleteMultipartUpload>",
            tags[0],
            tags[1],
            copied.element("ETag"),
        );
        let completed = world.ok(Method::POST, &format!("/photos/big?uploadId={id}"), &[], document).await;
        let shown = headers.iter().find(|(name, _)| *name == SSE).map_or("", |(_, value)| *value);
        assert_eq!((created.header(SSE), completed.header(SSE)), (shown, shown));

        let whole = Bytes::from([&first[..], &second[..], &text(300_000)[100_000..]].concat());
        let got = world.ok(Method::GET, "/photos/big", &reading, "").await;
        assert!(got.body == whole);
        let number = world.ok(Method::GET, "/photos/big?partNumber=2", &reading, "").await;
        assert!(number.body == second);
        let border = first.len() as u64;
        let bytes = format!("bytes={}-{}", border - 70_000, border + 70_000);
        let ranged = [reading.clone(), vec![("range", bytes.as_str())]].concat();
        let ranged = world.ok(Method::GET, "/photos/big", &ranged, "").await;
        assert!(ranged.body == whole.slice(first.len() - 70_000..=first.len() + 70_000));

        let copy = [vec![("x-amz-copy-source", "photos/big"), (SSE, "AES256")], source_of(&headers, &mine)];
        world.ok(Method::PUT, "/photos/copy", &copy.concat(), "").await;
        assert!(world.ok(Method::GET, "/photos/copy", &[], "").await.body == whole);
    }

    let created = world.ok(Method::POST, "/photos/big?uploads", &mine.own(), "").await;
    let part = format!("/photos/big?partNumber=1&uploadId={}", created.element("UploadId"));
    for headers in [vec![], other.own(), STORE.to_vec()] {
        let code = world.refused(Method::PUT, &part, &headers).await.0;
        assert!(matches!(code, Code::InvalidRequest | Code::InvalidArgument), "{headers:?}: {code:?}");
    }
    let created = world.ok(Method::POST, "/photos/big?uploads", &[], "").await;
    let part = format!("/photos/big?partNumber=1&uploadId={}", created.element("UploadId"));
    assert_eq!(world.refused(Method::PUT, &part, &mine.own()).await.0, Code::InvalidRequest);
}

fn source_of<'a>(headers: &[(&str, &str)], customer: &'a Customer) -> Vec<(&'a str, &'a str)> {
    let by_customer = headers.iter().any(|(name, _)| name.ends_with("customer-key"));
    if by_customer { customer.source() } else { Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_says_how_where_its_writers_do_not() {
    let world = world().await;
    let document = |content: &str| {
        format!(
            "<ServerSideEncryptionConfiguration><Rule>{content}</Rule></ServerSideEncryptionConfiguration>"
        )
    };
    let set = async |content: &str| {
        let body = document(content);
        let digest = STANDARD.encode(Md5::digest(&body));
        world.ok(Method::PUT, "/photos?encryption", &[("content-md5", &digest)], body).await;
    };
    let missing = Code::ServerSideEncryptionConfigurationNotFoundError;
    assert_eq!(world.code(Method::GET, "/photos?encryption", &[], "").await, missing);
    let default = |inner: &str| {
        format!("<ApplyServerSideEncryptionByDefault>{inner}</ApplyServerSideEncryptionByDefault>")
    };
    set(&default("<SSEAlgorithm>AES256</SSEAlgorithm>")).await;
    assert_eq!(world.ok(Method::PUT, "/photos/k", &[], "hello").await.header(SSE), "AES256");
    assert_eq!(world.ok(Method::GET, "/photos?encryption", &[], "").await.element("SSEAlgorithm"), "AES256");
    let named = "<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>photos-key</KMSMasterKeyID>";
    set(&format!("{}<BucketKeyEnabled>true</BucketKeyEnabled>", default(named))).await;
    let put = world.ok(Method::PUT, "/photos/k", &[], "hello").await;
    let bucket_key = put.header("x-amz-server-side-encryption-bucket-key-enabled");
    assert_eq!((put.header(SSE), put.header(KEY_ID), bucket_key), ("aws:kms", "photos-key", "true"));
    assert_eq!(world.ok(Method::PUT, "/photos/k", STORE, "hello").await.header(SSE), "AES256");
    let created = world.ok(Method::POST, "/photos/k?uploads", &[], "").await;
    assert_eq!(created.header(KEY_ID), "photos-key");
    let copy = [("x-amz-copy-source", "photos/k")];
    assert_eq!(world.ok(Method::PUT, "/photos/copy", &copy, "").await.header(KEY_ID), "photos-key");
    let customer = Customer::new(7);
    world.ok(Method::PUT, "/photos/k", &customer.own(), "hello").await;

    set("<BlockedEncryptionTypes><EncryptionType>SSE-C</EncryptionType></BlockedEncryptionTypes>").await;
    assert_eq!(world.refused(Method::PUT, "/photos/k", &customer.own()).await.0, Code::AccessDenied);
    assert_eq!(world.ok(Method::PUT, "/photos/k", &[], "hello").await.header(SSE), "");
    world.ok(Method::DELETE, "/photos?encryption", &[], "").await;
    assert_eq!(world.code(Method::GET, "/photos?encryption", &[], "").await, missing);
}
