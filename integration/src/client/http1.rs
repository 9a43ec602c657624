//! HTTP/1.1 over any byte stream: sends a [`Wire`], reads one response, strictly.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fabric::net::BoxStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::pattern::PatternCheck;
use super::sign::Wire;
use super::xml::{self, Element};

/// When for so long nothing comes and nothing of the body is taken, the exchange ends with an error.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest response head that is accepted.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A response with its whole body (empty where a [`PatternCheck`] took it).
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Lower-case names and values, in order.
    pub headers: Vec<(String, String)>,
    /// Body without framing.
    pub body: Vec<u8>,
    /// Whether a `100 Continue` came before.
    pub continued: bool,
}

impl Response {
    /// The first header `name` (lower-case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The ETag as sent; empty where there is none.
    pub fn etag(&self) -> &str {
        self.header("etag").unwrap_or_default()
    }

    /// The body as XML.
    pub fn xml(&self) -> Result<Element, String> {
        xml::parse(&self.body)
    }

    /// The error code of the body; empty where there is none.
    pub fn code(&self) -> String {
        self.xml().map(|root| root.text_of("Code").to_string()).unwrap_or_default()
    }

    /// Whether the server said that it closes the connection.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Status, code and the beginning of the body, for messages.
    pub fn describe(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(400).collect();
        format!("{} {}: {body}", self.status, self.code())
    }
}

/// What came of sending one request on a connection.
pub struct Exchange {
    /// The response.
    pub response: Response,
    /// The connection, for another request or to see whether it is closed.
    pub stream: BoxStream,
    /// Whether all bytes of the request were taken before the response was complete.
    pub sent_all: bool,
}

/// Sends `wire` and reads the response; the connection is dropped afterwards.
pub async fn exchange(
    stream: BoxStream,
    wire: &Wire,
    check: Option<&mut PatternCheck>,
) -> io::Result<Response> {
    let source = Source { head: wire.head(), wire, finish: false };
    Ok(exchange_source(stream, source, check).await?.response)
}

/// Sends raw bytes and reads one response to a request with `method`. With `finish` our side is shut down
/// after the last byte, as by a client that gave up.
pub async fn exchange_on(
    stream: BoxStream,
    bytes: &[u8],
    method: &str,
    finish: bool,
) -> io::Result<Exchange> {
    let wire = Wire {
        method: method.to_string(),
        target: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        generated: None,
    };
    exchange_source(stream, Source { head: bytes.to_vec(), wire: &wire, finish }, None).await
}

struct Source<'a> {
    head: Vec<u8>,
    wire: &'a Wire,
    /// Whether our side of the connection is shut down after the last byte.
    finish: bool,
}

impl Source<'_> {
    /// Counts in `sent` what was taken.
    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin), sent: &AtomicU64) -> io::Result<()> {
        writer.write_all(&self.head).await?;
        let Some(pattern) = self.wire.generated else {
            writer.write_all(&self.wire.body).await?;
            writer.flush().await?;
            return if self.finish { writer.shutdown().await } else { Ok(()) };
        };
        let mut buffer = vec![0; 256 << 10];
        let mut position = 0;
        while position < pattern.length {
            let count = buffer.len().min((pattern.length - position) as usize);
            pattern.fill(position, &mut buffer[..count]);
            writer.write_all(&buffer[..count]).await?;
            position += count as u64;
            sent.store(position, Ordering::Relaxed);
        }
        writer.flush().await
    }
}

/// Writes and reads at once, since a server may answer before it took the whole body.
async fn exchange_source(
    stream: BoxStream,
    source: Source<'_>,
    check: Option<&mut PatternCheck>,
) -> io::Result<Exchange> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut sent_all = false;
    let sent = AtomicU64::new(0);
    let response = {
        let write = source.write(&mut writer, &sent);
        let read = read_beside(&mut reader, &source.wire.method, check, &sent);
        tokio::pin!(write, read);
        loop {
            tokio::select! {
                biased;
                response = &mut read => break response,
                written = &mut write, if !sent_all => {
                    // A server that refuses early closes: its answer is what counts, not the broken pipe.
                    sent_all = true;
                    if written.is_err() {
                        break read.await;
                    }
                }
            }
        }
    }?;
    Ok(Exchange { response, stream: reader.unsplit(writer), sent_all })
}

/// Reads one response (and the `100 Continue`s before it) to a request with `method` that was sent.
pub async fn read_response(
    reader: &mut (impl AsyncRead + Unpin),
    method: &str,
    check: Option<&mut PatternCheck>,
) -> io::Result<Response> {
    read_beside(reader, method, check, &AtomicU64::new(0)).await
}

/// [`read_response`] while the body is on its way: as long as `sent` grows nobody is silent.
async fn read_beside(
    reader: &mut (impl AsyncRead + Unpin),
    method: &str,
    check: Option<&mut PatternCheck>,
    sent: &AtomicU64,
) -> io::Result<Response> {
    let mut buffer = Vec::new();
    let mut response = Response::default();
    loop {
        let head = read_head(reader, &mut buffer, sent).await?;
        let continued = response.continued;
        response = parse_head(&head)?;
        response.continued = continued || response.status == 100;
        if response.status != 100 {
            break;
        }
    }
    let empty = method == "HEAD" || matches!(response.status, 204 | 304);
    if !empty {
        let mut body = BodyReader { reader, buffer, kept: Vec::new(), check, sent };
        body.read(&response).await?;
        response.body = body.kept;
    } else if !buffer.is_empty() {
        return Err(invalid("bytes after an answer without a body"));
    }
    Ok(response)
}

async fn fill(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    sent: &AtomicU64,
) -> io::Result<usize> {
    buffer.reserve(64 << 10);
    loop {
        let before = sent.load(Ordering::Relaxed);
        match tokio::time::timeout(SILENCE, reader.read_buf(buffer)).await {
            Ok(read) => return read,
            Err(_) if sent.load(Ordering::Relaxed) > before => {}
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "silence for a minute")),
        }
    }
}

async fn read_head(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    sent: &AtomicU64,
) -> io::Result<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            let head = std::mem::replace(buffer, rest);
            return String::from_utf8(head).map_err(|_| invalid("response head is not UTF-8"));
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(invalid("response head is too long"));
        }
        if fill(reader, buffer, sent).await? == 0 {
            let what = if buffer.is_empty() { "closed without an answer" } else { "closed inside the head" };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
    }
}

fn parse_head(head: &str) -> io::Result<Response> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 ")))
        .and_then(|line| line.get(..3)?.parse().ok())
        .ok_or_else(|| invalid("no status line"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header without a colon"))?;
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Err(invalid("control character in a response header"));
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    Ok(Response { status, headers, ..Response::default() })
}

struct BodyReader<'a, 'c, R> {
    reader: &'a mut R,
    buffer: Vec<u8>,
    kept: Vec<u8>,
    check: Option<&'c mut PatternCheck>,
    sent: &'a AtomicU64,
}

impl<R: AsyncRead + Unpin> BodyReader<'_, '_, R> {
    async fn read(&mut self, response: &Response) -> io::Result<()> {
        if response.status >= 300 {
            self.check = None; // An error is kept, whatever was expected.
        }
        if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return self.chunked().await;
        }
        match response.header("content-length") {
            Some(length) => {
                let length = length.parse().map_err(|_| invalid("bad content-length in a response"))?;
                self.exactly(length).await
            }
            None => self.until_closed().await,
        }
    }

    fn take(&mut self, count: usize) {
        let rest = self.buffer.split_off(count);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        match &mut self.check {
            Some(check) => check.push(&bytes),
            None => self.kept.extend_from_slice(&bytes),
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        if fill(self.reader, &mut self.buffer, self.sent).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed inside the body"));
        }
        Ok(())
    }

    async fn exactly(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.more().await?;
            }
            let count = self.buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            self.take(count);
            length -= count as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let rest = self.buffer.split_off(end + 2);
                let line = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8(line[..end].to_vec())
                    .map_err(|_| invalid("chunk line is not UTF-8"));
            }
            self.more().await?;
        }
    }

    async fn chunked(&mut self) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid("bad chunk size in a response"))?;
            self.exactly(size).await?;
            if !self.line().await?.is_empty() {
                return Err(invalid("no line end after a chunk"));
            }
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn until_closed(&mut self) -> io::Result<()> {
        loop {
            let count = self.buffer.len();
            self.take(count);
            if fill(self.reader, &mut self.buffer, self.sent).await? == 0 {
                return Ok(());
            }
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
