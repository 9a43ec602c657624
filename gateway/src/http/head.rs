//! What a request head must look like before hyper may see it. Pure: bytes in, a verdict out.
//!
//! hyper is lenient where two readers of the same bytes may disagree about where a request ends (it drops
//! `content-length` beside `transfer-encoding`, accepts bare line feeds and several equal lengths), and its own
//! refusals carry no S3 code. So everything that frames a request is decided here, strictly.

use fabric::limits::{HEADER_SECTION_BYTES_MAX, HEADERS_MAX, REQUEST_LINE_BYTES_MAX};
use http::StatusCode;
use http::uri::{Authority, PathAndQuery};

use super::Refusal;

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 where the head announces no body.
    Length(u64),
    /// `transfer-encoding: chunked`. The connection closes after this request, since we do not follow its framing.
    Chunked,
}

/// A head that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head with the empty line that ends it.
    pub bytes: usize,
    /// How the body is delimited.
    pub framing: Framing,
}

/// What is to be done with the bytes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The head is not complete; nothing is wrong yet.
    Incomplete,
    /// It may pass.
    Pass(Head),
    /// It may not.
    Refused(Refusal),
}

/// Longest head that can be complete.
pub const HEAD_BYTES_MAX: usize = REQUEST_LINE_BYTES_MAX + HEADER_SECTION_BYTES_MAX + 4;

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const LINE_TOO_LONG: Refusal = Refusal::new(BAD, "InvalidURI", "The request line is too long.");
const SECTION_TOO_LARGE: Refusal = Refusal::new(
    BAD,
    "RequestHeaderSectionTooLarge",
    "Your request header section exceeds the maximum allowed request header section size.",
);
const MALFORMED: Refusal = Refusal::new(BAD, "BadRequest", "The request is not well-formed HTTP/1.1.");
const BAD_VERSION: Refusal =
    Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "BadRequest", "Only HTTP/1.1 is spoken here.");
const BAD_METHOD: Refusal = Refusal::new(
    StatusCode::METHOD_NOT_ALLOWED,
    "MethodNotAllowed",
    "The specified method is not allowed against this resource.",
);
const BAD_URI: Refusal = Refusal::new(BAD, "InvalidURI", "Couldn't parse the specified URI.");
const BAD_HOST: Refusal =
    Refusal::new(BAD, "InvalidURI", "The request needs exactly one well-formed Host header.");
const BAD_LENGTH: Refusal =
    Refusal::new(BAD, "InvalidArgument", "The Content-Length header is not one number.");
const BAD_CODING: Refusal = Refusal::new(
    BAD,
    "InvalidRequest",
    "The Transfer-Encoding header is ambiguous, so the request was refused.",
);
const UNKNOWN_CODING: Refusal = Refusal::new(
    StatusCode::NOT_IMPLEMENTED,
    "NotImplemented",
    "The only transfer coding that is understood is chunked.",
);

/// Judges the bytes read so far; `scanned` of them were judged before and found incomplete.
pub fn inspect(bytes: &[u8], scanned: usize) -> Verdict {
    match check_partial(bytes, scanned) {
        Ok(None) => Verdict::Incomplete,
        Ok(Some(end)) => match check_complete(&bytes[..end]) {
            Ok(framing) => Verdict::Pass(Head { bytes: end + 4, framing }),
            Err(refusal) => Verdict::Refused(refusal),
        },
        Err(refusal) => Verdict::Refused(refusal),
    }
}

/// Finds where the head ends (before its empty line), and refuses what can never become one.
fn check_partial(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Refusal> {
    if bytes.first().is_some_and(|&byte| !is_token(byte)) {
        return Err(MALFORMED);
    }
    for at in scanned.saturating_sub(3)..bytes.len() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        match bytes[at] {
            b'\n' if before != Some(b'\r') => return Err(MALFORMED),
            b'\n' if at >= 3 && bytes[at - 3..at].eq(b"\r\n\r") => {
                return check_sizes(&bytes[..at - 3]).map(|()| Some(at - 3));
            }
            b'\n' => {}
            _ if before == Some(b'\r') => return Err(MALFORMED),
            _ => {}
        }
    }
    check_sizes(bytes).map(|()| None)
}

fn check_sizes(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.len() <= REQUEST_LINE_BYTES_MAX.min(HEADER_SECTION_BYTES_MAX) {
        return Ok(());
    }
    let line = bytes.iter().position(|&byte| byte == b'\r').unwrap_or(bytes.len());
    if line > REQUEST_LINE_BYTES_MAX {
        return Err(LINE_TOO_LONG);
    }
    if bytes.len() - line > HEADER_SECTION_BYTES_MAX + 2 {
        return Err(SECTION_TOO_LARGE);
    }
    Ok(())
}

/// The headers that frame and address a request.
#[derive(Default)]
struct Seen<'a> {
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    coding: Option<&'a [u8]>,
}

/// `head` is everything before the empty line; every line feed in it follows a carriage return and vice versa.
fn check_complete(head: &[u8]) -> Result<Framing, Refusal> {
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    let mut seen = Seen::default();
    for line in lines {
        note_header(line, &mut seen)?;
    }
    let (target, version) = check_request_line(request_line)?;
    check_host(&seen, target, version)?;
    match (seen.length, seen.coding) {
        (length, None) => Ok(Framing::Length(length.unwrap_or(0))),
        (Some(_), Some(_)) => Err(BAD_CODING),
        (None, Some(_)) if version == Version::Http10 => Err(BAD_CODING),
        (None, Some(coding)) => check_coding(coding).map(|()| Framing::Chunked),
    }
}

fn note_header<'a>(line: &'a [u8], seen: &mut Seen<'a>) -> Result<(), Refusal> {
    seen.count += 1;
    if seen.count > HEADERS_MAX {
        return Err(SECTION_TOO_LARGE);
    }
    let colon = line.iter().position(|&byte| byte == b':').ok_or(MALFORMED)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(MALFORMED); // Also folded lines: they begin with a space.
    }
    if value.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7F) {
        return Err(MALFORMED);
    }
    let value = value.trim_ascii_start();
    if name.eq_ignore_ascii_case(b"host") {
        return match seen.host.replace(value.trim_ascii_end()) {
            None => Ok(()),
            Some(_) => Err(BAD_HOST),
        };
    }
    if name.eq_ignore_ascii_case(b"content-length") {
        return match seen.length.replace(parse_length(value)?) {
            None => Ok(()),
            Some(_) => Err(BAD_LENGTH),
        };
    }
    if name.eq_ignore_ascii_case(b"transfer-encoding")
        && seen.coding.replace(value.trim_ascii_end()).is_some()
    {
        return Err(BAD_CODING);
    }
    Ok(())
}

/// Digits and nothing else: a sign, a list or blanks behind the number are read differently by others.
fn parse_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD_LENGTH);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(BAD_LENGTH)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn check_request_line(line: &[u8]) -> Result<(&[u8], Version), Refusal> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(MALFORMED);
    };
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
        return Err(MALFORMED);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        other if other.starts_with(b"HTTP/") => return Err(BAD_VERSION),
        _ => return Err(MALFORMED),
    };
    if !matches!(method, b"GET" | b"HEAD" | b"PUT" | b"POST" | b"DELETE" | b"OPTIONS") || target == b"*" {
        return Err(BAD_METHOD);
    }
    Ok((target, version))
}

/// Exactly one Host (HTTP/1.0 may have none); an absolute target must name the same one, so that the
/// signature, the routing and the client mean the same place.
fn check_host(seen: &Seen<'_>, target: &[u8], version: Version) -> Result<(), Refusal> {
    match seen.host {
        Some(host) => {
            let authority = Authority::try_from(host).map_err(|_| BAD_HOST)?;
            if host.contains(&b'@') || authority.host().is_empty() {
                return Err(BAD_HOST);
            }
        }
        None if version == Version::Http11 => return Err(BAD_HOST),
        None => {}
    }
    let path = if target.starts_with(b"/") { target } else { absolute_path(target, seen.host)? };
    if !path.is_empty() && PathAndQuery::try_from(path).is_err() {
        return Err(BAD_URI);
    }
    if target.contains(&b'#') {
        return Err(BAD_URI);
    }
    Ok(())
}

fn absolute_path<'a>(target: &'a [u8], host: Option<&[u8]>) -> Result<&'a [u8], Refusal> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        })
        .ok_or(BAD_URI)?;
    let end = rest.iter().position(|&byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.starts_with(b"?") || !host.is_some_and(|host| host.eq_ignore_ascii_case(authority)) {
        return Err(BAD_URI);
    }
    Ok(path)
}

fn check_coding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let unknown = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).any(|coding| {
        !coding.is_empty()
            && coding.iter().all(|&byte| is_token(byte))
            && !coding.eq_ignore_ascii_case(b"chunked")
            && !coding.eq_ignore_ascii_case(b"identity")
    });
    Err(if unknown { UNKNOWN_CODING } else { BAD_CODING })
}

/// Characters of methods and header names (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(head: &str) -> Result<Framing, (u16, &'static str)> {
        match inspect(head.as_bytes(), 0) {
            Verdict::Pass(passed) => {
                assert_eq!(passed.bytes, head.find("\r\n\r\n").map_or(0, |at| at + 4));
                Ok(passed.framing)
            }
            Verdict::Refused(refusal) => Err((refusal.status.as_u16(), refusal.code)),
            Verdict::Incomplete => Err((0, "Incomplete")),
        }
    }

    #[test]
    fn heads_that_pass() {
        for (head, framing) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("GET /b/k%20?x=1&y HTTP/1.1\r\nhost: a.b:9000\r\nX-A: \u{e9}\t\r\n\r\n", Framing::Length(0)),
            ("PUT /b/k HTTP/1.1\r\nHost:a\r\nContent-Length: 5\r\n\r\nhello", Framing::Length(5)),
            ("PUT /b/k HTTP/1.1\r\nHost: [::1]:9000\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked),
            ("GET http://a/b HTTP/1.1\r\nHost: A\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
        ] {
            assert_eq!(verdict(head), Ok(framing), "{head:?}");
        }
    }

    #[test]
    fn heads_that_are_refused() {
        let with = |lines: &str| format!("PUT /b/k HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
        for (head, expected) in [
            (with("Content-Length: 5\r\nTransfer-Encoding: chunked"), (400, "InvalidRequest")),
            (with("Transfer-Encoding: chunked\r\nContent-Length: 5"), (400, "InvalidRequest")),
            (with("Transfer-Encoding: xchunked"), (501, "NotImplemented")),
            (with("Transfer-Encoding: gzip, chunked"), (501, "NotImplemented")),
            (with("Transfer-Encoding: chunked, identity"), (400, "InvalidRequest")),
            (with("Transfer-Encoding: chunked, chunked"), (400, "InvalidRequest")),
            (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), (400, "InvalidRequest")),
            (with("Transfer-Encoding: \x0bchunked"), (400, "BadRequest")),
            ("PUT /b/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_string(), (400, "InvalidRequest")),
            (with("Content-Length: 5\r\nContent-Length: 6"), (400, "InvalidArgument")),
            (with("Content-Length: 5\r\nContent-Length: 5"), (400, "InvalidArgument")),
            (with("Content-Length: 5,5"), (400, "InvalidArgument")),
            (with("Content-Length: +5"), (400, "InvalidArgument")),
            (with("Content-Length: 5 "), (400, "InvalidArgument")),
            (with("Content-Length: 18446744073709551616"), (400, "InvalidArgument")),
            (with("Content-Length: -1"), (400, "InvalidArgument")),
            (with("Content-Length:"), (400, "InvalidArgument")),
            (with("bad name: 1"), (400, "BadRequest")),
            (with("bad\0: 1"), (400, "BadRequest")),
            (with("x: a\0b"), (400, "BadRequest")),
            (with("x: a\rb"), (400, "BadRequest")),
            (with("x: a\nb: c"), (400, "BadRequest")),
            (with("x: a\r\n folded"), (400, "BadRequest")),
            (with("no colon"), (400, "BadRequest")),
            (with("Host: b"), (400, "InvalidURI")),
            ("GET / HTTP/1.1\r\n\r\n".to_string(), (400, "InvalidURI")),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_string(), (400, "InvalidURI")),
            ("GET / HTTP/1.1\r\nHost: \r\n\r\n".to_string(), (400, "InvalidURI")),
            (line("GET http://evil/b HTTP/1.1"), (400, "InvalidURI")),
            (line("GET b/k HTTP/1.1"), (400, "InvalidURI")),
            (line("GET /a b HTTP/1.1"), (400, "BadRequest")),
            (line("CONNECT a:443 HTTP/1.1"), (405, "MethodNotAllowed")),
            (line("TRACE / HTTP/1.1"), (405, "MethodNotAllowed")),
            (line("OPTIONS * HTTP/1.1"), (405, "MethodNotAllowed")),
            (line("get / HTTP/1.1"), (405, "MethodNotAllowed")),
            (line("GET / HTTP/2.0"), (505, "BadRequest")),
            (line("GET /"), (400, "BadRequest")),
            ("\x16\x03\x01".to_string(), (400, "BadRequest")),
            (line(&format!("GET /{} HTTP/1.1", "k".repeat(1 << 20))), (400, "InvalidURI")),
            (with(&format!("x: {}", "v".repeat(9000))), (400, "RequestHeaderSectionTooLarge")),
            (with(&"a: b\r\n".repeat(101)), (400, "RequestHeaderSectionTooLarge")),
        ] {
            let shown = &head[..head.len().min(120)];
            assert_eq!(verdict(&head), Err(expected), "{shown:?}");
        }
    }

    #[test]
    fn incomplete_heads_stay_bounded_and_any_split_gives_the_same_verdict() {
        let head = "PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let mut scanned = 0;
        for length in 0..head.len() {
            let found = inspect(&head.as_bytes()[..length], scanned);
            if length < head.len() - 3 {
                assert_eq!(found, Verdict::Incomplete);
                scanned = length;
            } else {
                assert_eq!(found, Verdict::Pass(Head { bytes: head.len() - 3, framing: Framing::Length(3) }));
            }
        }
        assert!(matches!(inspect(&vec![b'a'; HEAD_BYTES_MAX + 1], 0), Verdict::Refused(_)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = inspect(&bytes, 0);
        }
    }
}
