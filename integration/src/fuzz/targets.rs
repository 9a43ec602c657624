//! What is fed, and what must hold for any input beside that nothing panics.

use async_trait::async_trait;
use bytes::Bytes;
use consensus::meta::names::{AccessKeyId, UserName};
use consensus::raft::machine::{decode_entry, encode_entry};
use fabric::ids::BucketId;
use fabric::rpc::{decode_head, encode_head};
use futures::executor::block_on;
use gateway::http::head;
use gateway::s3::appending;
use gateway::s3::auth::{self, Keys, PayloadAuth, SigningKeys, Unverified, Verifier};
use gateway::s3::copying::Source;
use gateway::s3::listing;
use gateway::s3::path::CanonicalPath;
use gateway::s3::xml::{CompleteDocument, DeleteDocument, create_bucket_location};
use gateway::s3::{BodyRule, Payload, Query, S3Error, S3Result, conditions, range};
use gateway::secrets::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;
use serde::de::DeserializeOwned;
use storage::index::language::Search;
use storage::index::matcher::Matcher;

use super::{Target, stored};
use crate::client::{Auth, Credentials, Request, Signer, Wire};

/// Everything that is fed.
pub const TARGETS: &[Target] = &[
    Target {
        name: "uri",
        about: "paths to buckets and keys, queries to parameters",
        seeds: || texts(&["/bucket/a%20b/../c?versionId=x&a=%2B+", "/", "/b/k%00", "//b//k/"]),
        words: &["%2F", "%", "%00", "%ff", "..", "/", "?", "&", "=", "+", "%25"],
        read: uri,
    },
    Target {
        name: "signature",
        about: "signed and presigned requests: none verifies that was not signed",
        seeds: || vec![signed(), presigned()],
        words: &[
            "AWS4-HMAC-SHA256",
            "Credential=",
            "SignedHeaders=host",
            ";",
            ",",
            "X-Amz-Expires=604801",
            "host:",
        ],
        read: signature,
    },
    Target {
        name: "aws-chunks",
        about: "aws-chunked bodies with trailers",
        seeds: || {
            texts(&[
                "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
                "0\r\n\r\n",
                "5;chunk-signature=00\r\nhello\r\n",
            ])
        },
        words: &["\r\n", "0\r\n", "ffffffffffffffff", ";chunk-signature=", "x-amz-checksum-crc32:", ":"],
        read: aws_chunks,
    },
    Target {
        name: "xml",
        about: "documents of DeleteObjects, CompleteMultipartUpload and CreateBucket",
        seeds: || {
            texts(&[
                "<Delete><Object><Key>a</Key><VersionId>null</VersionId></Object><Quiet>true</Quiet></Delete>",
                "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;x&quot;</ETag></Part></CompleteMultipartUpload>",
                "<CreateBucketConfiguration xmlns=\"x\"><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>",
            ])
        },
        words: &[
            "<!DOCTYPE a [<!ENTITY b \"c\">]>",
            "&b;",
            "<![CDATA[",
            "]]>",
            "<?xml?>",
            "&#0;",
            "&#x10FFFF;",
            "</",
            "<a>",
            "<!--",
        ],
        read: xml,
    },
    Target {
        name: "range",
        about: "Range and x-amz-copy-source-range",
        seeds: || texts(&["bytes=0-9", "bytes=-5", "bytes=5-", "bytes=0-0,2-3"]),
        words: &["bytes=", "-", "18446744073709551615", "18446744073709551616", ",", "0"],
        read: ranges,
    },
    Target {
        name: "headers",
        about: "conditions and copy sources",
        seeds: || {
            texts(&[
                "if-match: \"a\", W/\"b\"\nif-none-match: *\nif-modified-since: Fri, 27 Nov 2026 10:00:00 GMT",
                "x-amz-copy-source: /b/k%20?versionId=null\nx-amz-copy-source-if-match: \"a\"",
            ])
        },
        words: &[
            "*",
            "\"",
            "W/",
            ",",
            "if-unmodified-since: ",
            "x-amz-if-match-size: ",
            "x-amz-copy-source: ",
            "\n",
        ],
        read: headers,
    },
    Target {
        name: "token",
        about: "continuation tokens",
        seeds: || vec![listing::token(BUCKET, "a/key").into_bytes(), b"1".to_vec()],
        words: &["=", "A", "-", "_"],
        read: token,
    },
    Target {
        name: "search",
        about: "queries of searches, compared with some names",
        seeds: || {
            texts(&[
                "cat -dog \"a b\" name:*.jp?g name:[!a-z]x name:^2026/",
                "name:/(?i)a+[0-9]{2}|b/ name:~kitten tag:\"k y\"=v meta:owner",
                "size:>1.5MiB size:..2KB modified:2026-11-29..2026-11-30T18:00:00Z type:image/* bucket:b*",
            ])
        },
        words: &[
            "name:", "/", "\"", "\\", "(", ")*", "{1000}", "[", "]", "~", "^", "..", ">=", "size:", "tag:",
            "=",
        ],
        read: search,
    },
    Target {
        name: "head",
        about: "heads of HTTP requests, at once and byte by byte",
        seeds: || {
            texts(&[
                "PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ])
        },
        words: &["\r\n", "\n", "Content-Length: 1", "Transfer-Encoding: ", "chunked", " ", ":", "HTTP/1.0"],
        read: head,
    },
    Target {
        name: "records",
        about: "entries of the log, and heads of calls between processes",
        seeds: records_seeds,
        words: &[],
        read: records,
    },
    Target {
        name: "rows",
        about: "keys and values of every stored table",
        seeds: stored::rows_seeds,
        words: &[],
        read: stored::rows,
    },
    Target {
        name: "frames",
        about: "what a peer sends on a connection between processes",
        seeds: stored::frames_seeds,
        words: &[],
        read: stored::frames,
    },
    Target {
        name: "log-story",
        about: "choices of a story: appends, votes, cuts, purges, deaths and rot of the log, in any order",
        seeds: stored::log_seeds,
        words: &[],
        read: stored::log_story,
    },
];

const BUCKET: BucketId = BucketId(7);
const NOW_MS: u64 = 1_795_773_600_000;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What an answer is, in a few words: its code, and the sentence without what the input put there.
fn told<T>(outcome: S3Result<T>) -> String {
    outcome.map_or_else(|error| refusal(&error), |_| "good".to_string())
}

fn refusal(error: &S3Error) -> String {
    let sentence: String =
        error.message().chars().filter(|letter| letter.is_ascii_alphabetic()).take(24).collect();
    format!("{:?} {sentence}", error.code())
}

fn uri(input: &[u8]) -> Result<String, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok("not UTF-8".to_string()) };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let path = CanonicalPath::parse(path, None);
    Ok(format!("{} and {}", told(path), told(Query::parse(query))))
}

fn ranges(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let mut outcome = String::new();
    for size in [0, 1, 10, u64::MAX >> 1] {
        let plain = range::parse(Some(&text), size);
        let inside = |range: &range::ByteRange| {
            range.bytes > 0 && range.start.checked_add(range.bytes).is_some_and(|end| end <= size)
        };
        if let Ok(Some(range)) = &plain
            && !inside(range)
        {
            return Err(format!("{range:?} of {size} bytes"));
        }
        let copy = range::parse_copy(&text, size);
        if let Ok(range) = &copy
            && !inside(range)
        {
            return Err(format!("{range:?} of {size} bytes to copy"));
        }
        outcome = format!("{outcome} {} {}", told(plain), told(copy));
    }
    Ok(outcome)
}

/// Lines of `name: value`; what http does not take is left out, as no server would see it.
fn header_map(text: &str) -> HeaderMap {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let pairs = lines.filter_map(|(name, value)| {
        let name: HeaderName = name.trim().parse().ok()?;
        Some((name, HeaderValue::from_str(value.trim()).ok()?))
    });
    let mut headers = HeaderMap::new();
    pairs.for_each(|(name, value)| drop(headers.try_append(name, value)));
    headers
}

fn headers(input: &[u8]) -> Result<String, String> {
    let headers = header_map(&String::from_utf8_lossy(input));
    let answers = [
        told(conditions::of_read(&headers)),
        told(conditions::of_copy_source(&headers)),
        told(conditions::of_rename_source(&headers)),
        told(conditions::of_write(&headers)),
        told(conditions::of_delete(&headers)),
        told(Source::parse(&headers)),
        told(appending::offset(&headers)),
    ];
    Ok(answers.join(", "))
}

fn token(input: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(input);
    let position = listing::from_token(BUCKET, &text);
    if let Ok(position) = &position
        && listing::from_token(BUCKET, &listing::token(BUCKET, position)).ok().as_ref() != Some(position)
    {
        return Err(format!("{position:?} does not come back"));
    }
    Ok(told(position))
}

/// What is refused is refused at a place within the query; what is read can be compared.
fn search(input: &[u8]) -> Result<String, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok("not UTF-8".to_string()) };
    let matcher = match Search::parse(text).and_then(|search| Matcher::new(&search)) {
        Ok(matcher) => matcher,
        Err(error) if error.position == 0 || text.chars().count() + 1 < error.position => {
            return Err(format!("{error} is beyond the query"));
        }
        Err(error) => return Ok(error.what.chars().filter(char::is_ascii_alphabetic).take(24).collect()),
    };
    let mut folded = String::new();
    let names = ["cat", "2026/a b/Größe-kitten_07.JPG", &"aab".repeat(300)];
    let found = names.iter().filter(|name| matcher.matches_name(name, &mut folded)).count();
    Ok(format!("{found} found"))
}

fn xml(input: &[u8]) -> Result<String, String> {
    let answers = [
        told(DeleteDocument::parse(input)),
        told(CompleteDocument::parse(input)),
        told(create_bucket_location(input)),
    ];
    Ok(answers.join(", "))
}

/// What is judged as it arrives is judged as if it had come at once.
fn head(input: &[u8]) -> Result<String, String> {
    let whole = head::inspect(input, 0);
    let mut scanned = 0;
    for end in 1..=input.len().min(2_000) {
        match head::inspect(&input[..end], scanned) {
            head::Verdict::Incomplete => scanned = end,
            early if early == whole => break,
            head::Verdict::Refused(_) if matches!(whole, head::Verdict::Refused(_)) => break,
            early => return Err(format!("{early:?} after {end} bytes, {whole:?} at once")),
        }
    }
    Ok(match whole {
        head::Verdict::Incomplete => "incomplete".to_string(),
        head::Verdict::Pass(_) => "passes".to_string(),
        head::Verdict::Refused(refusal) => format!("{refusal:?}").chars().take(80).collect(),
    })
}

fn aws_chunks(input: &[u8]) -> Result<String, String> {
    let headers = header_map(
        "content-encoding: aws-chunked\nx-amz-decoded-content-length: 5\nx-amz-trailer: x-amz-checksum-crc32",
    );
    let body = Full::new(Bytes::copy_from_slice(input)).map_err(|never| match never {}).boxed_unsync();
    let payload = Payload::new(body, &headers, BodyRule::Object, PayloadAuth::UnsignedTrailer);
    let mut payload = match payload {
        Ok(payload) => payload,
        Err(error) => return Ok(refusal(&error)),
    };
    let mut bytes = 0;
    loop {
        match block_on(payload.next()) {
            Ok(Some(piece)) => bytes += piece.len(),
            Ok(None) if bytes == 5 => return Ok("complete".to_string()),
            Ok(None) => return Err(format!("complete with {bytes} bytes of 5")),
            Err(error) => return Ok(refusal(&error)),
        }
    }
}

/// The one key there is.
struct OneKey;

const KEY: (&str, &str) = ("FUZZEDACCESSKEY", "a-secret-that-nobody-guesses-0123456789");

#[async_trait]
impl Keys for OneKey {
    async fn secret(&self, id: &AccessKeyId) -> S3Result<Option<(UserName, Secret)>> {
        let user: UserName = "fuzzed".parse().expect("a valid name");
        let secret = Secret::chosen(KEY.1).expect("a valid secret");
        Ok((id.as_str() == KEY.0).then_some((user, secret)))
    }
}

fn signer() -> Signer {
    Signer {
        credentials: Some(Credentials::new(KEY.0, KEY.1)),
        region: "us-east-1".to_string(),
        service: "s3".to_string(),
        host: "fuzz.test".to_string(),
        at_ms: NOW_MS,
    }
}

/// A request as lines: method, target, headers.
fn lines(wire: &Wire) -> Vec<u8> {
    let headers = wire.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
    format!("{} {}\n{}", wire.method, wire.target, headers.collect::<String>()).into_bytes()
}

fn signed() -> Vec<u8> {
    let request = Request::object("PUT", "bucket", "a key").query("partNumber", 1).query("uploadId", "x");
    lines(&signer().sign(request.body("hello")))
}

fn presigned() -> Vec<u8> {
    lines(&signer().sign(Request::object("GET", "bucket", "a key").auth(Auth::Query(600))))
}

fn signature(input: &[u8]) -> Result<String, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok("not UTF-8".to_string()) };
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Some((method, target)) = line.split_once(' ') else { return Ok("no request".to_string()) };
    let Ok(method) = method.parse::<Method>() else { return Ok("no method".to_string()) };
    let (raw_path, raw_query) = target.split_once('?').unwrap_or((target, ""));
    let headers = header_map(rest);
    let (path, query) = match (CanonicalPath::parse(raw_path, None), Query::parse(raw_query)) {
        (Ok(path), Ok(query)) => (path, query),
        (path, query) => return Ok(format!("{} {}", told(path), told(query))),
    };
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_string();
    let request = Unverified {
        method: &method,
        raw_path,
        path: &path,
        query: &query,
        headers: &headers,
        host: &host,
        virtual_bucket: None,
    };
    let verifier = Verifier { region: "us-east-1", other_region: None, now_ms: NOW_MS };
    let verified = block_on(auth::verify(request, verifier, &OneKey, &SigningKeys::default()));
    let signed = verified.as_ref().is_ok_and(|verified| verified.signer().is_some());
    if signed && !is_one_of_ours(&method, &path, &query, &host) {
        return Err("verified, and nobody signed it".to_string());
    }
    Ok(told(verified))
}

/// Whether a request means what one of the two signed ones means.
fn is_one_of_ours(method: &Method, path: &CanonicalPath, query: &Query, host: &str) -> bool {
    let upload = query.get("partNumber") == Some("1") && query.get("uploadId") == Some("x");
    let meant = (*method == Method::PUT && upload) || (*method == Method::GET && !query.has("uploadId"));
    meant && path.as_str() == "/bucket/a key" && host == "fuzz.test"
}

/// The first byte says what the rest is.
fn records(input: &[u8]) -> Result<String, String> {
    let Some((kind, rest)) = input.split_first() else { return Ok("nothing".to_string()) };
    match kind % 6 {
        0 => match decode_entry(rest) {
            Ok(entry) => {
                let again = encode_entry(&entry);
                match decode_entry(&again) {
                    Ok(same) if encode_entry(&same) == again => Ok(short(&format!("{:?}", entry.command))),
                    _ => Err("an entry does not come back".to_string()),
                }
            }
            Err(error) => Ok(short(&error.why)),
        },
        1 => comes_back::<consensus::meta::query::Query>(rest),
        2 => comes_back::<consensus::raft::wire::ProposeAnswer>(rest),
        3 => comes_back::<storage::wire::PutRequest>(rest),
        4 => comes_back::<storage::wire::GetRequest>(rest),
        _ => comes_back::<consensus::raft::wire::RaftHead>(rest),
    }
}

fn comes_back<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<String, String> {
    match decode_head::<T>(bytes) {
        Err(error) => Ok(short(&error.why)),
        Ok(value) => {
            let again = encode_head(&value);
            match decode_head::<T>(&again) {
                Ok(same) if encode_head(&same) == again => Ok(format!("good {}", std::any::type_name::<T>())),
                _ => Err("a head does not come back".to_string()),
            }
        }
    }
}

/// The beginning, in letters: numbers of an input are no new outcome.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_alphabetic()).take(20).collect()
}

fn records_seeds() -> Vec<Vec<u8>> {
    use consensus::meta::command::{Command, Entry, GiveUp};
    use consensus::meta::model::ClusterMs;
    use consensus::raft::wire::{Life, ProposeAnswer, RaftHead};
    use fabric::ids::{ExtentId, RaftId, SessionId};

    let session = SessionId { epoch: 1, number: 9 };
    let command = Command::GiveUp(GiveUp { sequence: 3 });
    let entry = Entry { session, sequence: 4, lowest_open: 2, at: ClusterMs(NOW_MS), command };
    let chunk = ExtentId::new(7, session, 5).chunk(1);
    let put = storage::wire::PutRequest { chunk, origin: None };
    let get = storage::wire::GetRequest { chunk, offset: 1, bytes: 2 };
    let life = Life { id: RaftId(1), starts: 1, run: 2 };
    let raft = RaftHead { from: life, to: RaftId(2), stream: 1, order: 3 };
    let heads: [Bytes; 5] = [
        encode_head(&consensus::meta::query::Query::Named(Vec::new())),
        encode_head(&ProposeAnswer::Perhaps("why".to_string())),
        encode_head(&put),
        encode_head(&get),
        encode_head(&raft),
    ];
    let kinds = heads.iter().zip(1u8..).map(|(head, kind)| [&[kind], &head[..]].concat());
    kinds.chain([[&[0], &encode_entry(&entry)[..]].concat()]).collect()
}
