//! One kept connection of the generator: sends a request, reads the answer, keeps nothing of it but what a listing
//! has to tell.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 16 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// What an answer was.
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Bytes of its body.
    pub bytes: u64,
}

/// See the file's head. Opened again when the server closed it.
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    /// Bytes in the buffer that were read and not used yet.
    filled: usize,
}

impl Connection {
    /// To be opened by the first request.
    pub fn new(address: SocketAddr) -> Connection {
        Connection { address, stream: None, buffer: vec![0; BUFFER_BYTES], filled: 0 }
    }

    /// Sends `head` and `body`, and reads the answer. After an error the next request opens a new connection.
    pub async fn exchange(&mut self, head: &[u8], body: &[u8], method: &str) -> Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.context("connect")?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        self.filled = 0;
        // The head buffer has the body behind it where that is small: one call of the system.
        stream.write_all(head).await?;
        if !body.is_empty() {
            stream.write_all(body).await?;
        }
        let (answer, keep) = self.read(&mut stream, method).await?;
        if keep {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    async fn read(&mut self, stream: &mut TcpStream, method: &str) -> Result<(Answer, bool)> {
        let head_bytes = loop {
            let searched = self.filled.saturating_sub(3);
            self.more(stream).await?;
            let found = self.buffer[searched..self.filled].windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = found {
                break searched + at + 4;
            }
            ensure!(self.filled < HEAD_BYTES_MAX, "the head of an answer is too long");
        };
        let head = Head::parse(&self.buffer[..head_bytes])?;
        self.buffer.copy_within(head_bytes..self.filled, 0);
        self.filled -= head_bytes;
        let bytes = match head.body {
            _ if method == "HEAD" || head.status == 204 || head.status == 304 => 0,
            Body::Length(bytes) => {
                let mut left = bytes.saturating_sub(self.filled as u64);
                while left > 0 {
                    let part = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    left -= read_some(stream, &mut self.buffer[..part]).await? as u64;
                }
                bytes
            }
            Body::Chunked => self.chunked(stream).await?,
        };
        Ok((Answer { status: head.status, bytes }, head.keep))
    }

    /// Reads behind what is there.
    async fn more(&mut self, stream: &mut TcpStream) -> Result<()> {
        ensure!(self.filled < self.buffer.len(), "a line of an answer is too long");
        self.filled += read_some(stream, &mut self.buffer[self.filled..]).await?;
        Ok(())
    }

    async fn chunked(&mut self, stream: &mut TcpStream) -> Result<u64> {
        let mut total = 0;
        loop {
            let line = loop {
                if let Some(end) = self.buffer[..self.filled].windows(2).position(|two| two == b"\r\n") {
                    break end;
                }
                self.more(stream).await?;
            };
            let size = std::str::from_utf8(&self.buffer[..line])?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
            self.discard(stream, line + 2 + size + 2).await?;
            total += size as u64;
            if size == 0 {
                return Ok(total);
            }
        }
    }

    /// Drops so many bytes, read or still to come.
    async fn discard(&mut self, stream: &mut TcpStream, bytes: usize) -> Result<()> {
        let there = bytes.min(self.filled);
        self.buffer.copy_within(there..self.filled, 0);
        self.filled -= there;
        let mut left = bytes - there;
        while left > 0 {
            let part = self.buffer.len().min(left);
            left -= read_some(stream, &mut self.buffer[..part]).await?;
        }
        Ok(())
    }
}

async fn read_some(stream: &mut TcpStream, into: &mut [u8]) -> Result<usize> {
    match stream.read(into).await? {
        0 => bail!("the server closed the connection within an answer"),
        bytes => Ok(bytes),
    }
}

enum Body {
    Length(u64),
    Chunked,
}

struct Head {
    status: u16,
    body: Body,
    keep: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Head> {
        let text = std::str::from_utf8(bytes).context("the head of an answer is not UTF-8")?;
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let mut head = Head { status: status.context("no status line")?, body: Body::Length(0), keep: true };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.body = Body::Length(value.parse().context("bad content-length")?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = Body::Chunked;
            } else if name.eq_ignore_ascii_case("connection") {
                head.keep = !value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}
