//! The stream between a client and hyper: shows hyper only request heads that passed [`super::head`], and keeps
//! the deadlines of the connection.
//!
//! What always holds: hyper gets exactly the bytes of one request before the next head is looked at. A refused
//! head is replaced by a stand-in that no client can send (its target is `*`), so that hyper answers it in its
//! turn; nothing after it is read as a request. After a chunked request no further head is accepted, since its
//! framing is not followed here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::Refusal;
use super::head::{Framing, Verdict, inspect};

/// A request head has to be complete this long after its first byte (and the first one after the connection).
pub const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// A kept-alive connection without a request is closed after this.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(75);
/// A client that takes no byte of a response for this long is dropped.
pub const WRITE_STALL_DEADLINE: Duration = Duration::from_secs(60);
/// After the last response, what the client still sends is read so far and so long, so that the response is not
/// lost to a reset. Most parts that clients cut uploads into by default are smaller.
const LINGER_BYTES_MAX: u64 = 32 << 20;
const LINGER_DEADLINE: Duration = Duration::from_secs(5);

const READ_BYTES: usize = 4 << 10;
const STAND_IN: &[u8] = b"OPTIONS * HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";
const STAND_IN_HEAD: &[u8] = b"HEAD * HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";

/// What the guard and the service of one connection tell each other.
#[derive(Default)]
pub struct Notes {
    inner: Mutex<NotesInner>,
}

#[derive(Default)]
struct NotesInner {
    refusal: Option<Refusal>,
    /// Requests whose response is not finished.
    active: usize,
    /// When the last response finished.
    idle_since: Option<Instant>,
}

impl Notes {
    fn with<T>(&self, f: impl FnOnce(&mut NotesInner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request reached the service.
    pub fn begin(&self) {
        self.with(|notes| notes.active += 1);
    }

    /// Its response is finished or given up. Returns how many others are in progress.
    pub fn end(&self) -> usize {
        self.with(|notes| {
            notes.active = notes.active.saturating_sub(1);
            notes.idle_since = Some(now());
            notes.active
        })
    }

    /// Whether no request is in progress.
    pub fn is_idle(&self) -> bool {
        self.with(|notes| notes.active == 0)
    }

    /// Why the stand-in stands where a request should be.
    pub fn refusal(&self) -> Option<Refusal> {
        self.with(|notes| notes.refusal)
    }

    /// Whether a timer that fired now must be put off, and until when.
    fn put_off(&self, started: Instant, wait: Duration) -> Option<Instant> {
        self.with(|notes| {
            let now = now();
            if notes.active > 0 {
                return Some(now + wait);
            }
            let due = notes.idle_since.map_or(started, |idle| idle.max(started)) + wait;
            (due > now).then_some(due)
        })
    }
}

/// Tokio's clock, which also drives the timers here; the simulator drives it in turn.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// See the file's head.
pub struct Guard<S> {
    inner: S,
    /// Read from the client and not yet given to hyper.
    carry: BytesMut,
    /// Bytes of `carry` that were judged and found incomplete.
    scanned: usize,
    /// Bytes that belong to the request in progress.
    deliver: u64,
    /// No head will be accepted any more.
    last: bool,
    /// The client closed its side, or a deadline passed.
    ended: bool,
    notes: Arc<Notes>,
    timer: Pin<Box<Sleep>>,
    timer_started: Instant,
    timer_wait: Duration,
    write_stall: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// Guards a fresh connection.
    pub fn new(inner: S, notes: Arc<Notes>) -> Guard<S> {
        Guard {
            inner,
            carry: BytesMut::new(),
            scanned: 0,
            deliver: 0,
            last: false,
            ended: false,
            notes,
            timer: Box::pin(sleep(HEAD_DEADLINE)),
            timer_started: now(),
            timer_wait: HEAD_DEADLINE,
            write_stall: None,
        }
    }

    /// Closes the connection after hyper is done with it.
    pub async fn linger(mut self) {
        let more = !self.ended && (self.deliver > 0 || self.last || !self.carry.is_empty());
        let close = async {
            if self.inner.shutdown().await.is_err() || !more {
                return;
            }
            let mut left = LINGER_BYTES_MAX;
            let mut sink = [0; READ_BYTES];
            while let Ok(bytes @ 1..) = self.inner.read(&mut sink).await {
                left = left.saturating_sub(bytes as u64);
                if left == 0 {
                    return;
                }
            }
        };
        // A deadline that passes here only means that the client never closed its side.
        let _ = timeout(LINGER_DEADLINE, close).await;
    }

    fn arm(&mut self, wait: Duration) {
        self.timer_started = now();
        self.timer_wait = wait;
        self.timer.as_mut().reset(self.timer_started + wait);
    }

    /// Looks at the carried bytes as the start of a head. Returns whether hyper may read on.
    fn judge(&mut self) -> bool {
        while self.carry.starts_with(b"\r\n") && self.scanned == 0 {
            self.carry.advance(2); // Empty lines before a request are to be ignored (RFC 9112 §2.2).
        }
        if self.scanned == 0 && (self.carry.is_empty() || self.carry.as_ref() == b"\r") {
            return false; // Perhaps half of an empty line.
        }
        match inspect(&self.carry, self.scanned) {
            Verdict::Incomplete => {
                self.scanned = self.carry.len();
                false
            }
            Verdict::Pass(head) => {
                let body = match head.framing {
                    Framing::Length(bytes) => bytes,
                    Framing::Chunked => u64::MAX,
                };
                self.last = head.framing == Framing::Chunked;
                self.deliver = body.saturating_add(head.bytes as u64);
                self.scanned = 0;
                true
            }
            Verdict::Refused(refusal) => {
                let stand_in = if self.carry.starts_with(b"HEAD ") { STAND_IN_HEAD } else { STAND_IN };
                self.notes.with(|notes| notes.refusal = Some(refusal));
                self.carry = BytesMut::from(stand_in);
                self.deliver = stand_in.len() as u64;
                self.last = true;
                true
            }
        }
    }

    /// Waits for more of a head. `Ready(false)` when none will come.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.notes.put_off(self.timer_started, self.timer_wait) {
                Some(until) => self.timer.as_mut().reset(until),
                None => return Poll::Ready(Ok(false)),
            }
        }
        let mut bytes = [0; READ_BYTES];
        let mut into = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut into))?;
        if into.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        if self.carry.is_empty() {
            self.arm(HEAD_DEADLINE);
        }
        self.carry.extend_from_slice(into.filled());
        Poll::Ready(Ok(true))
    }

    /// Gives hyper bytes of the request in progress.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.carry.is_empty() {
            let most = usize::try_from(self.deliver).unwrap_or(usize::MAX);
            let bytes = self.carry.len().min(into.remaining()).min(most);
            into.put_slice(&self.carry[..bytes]);
            self.carry.advance(bytes);
            self.delivered(bytes as u64);
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        let bytes = (into.filled().len() - before) as u64;
        if bytes == 0 {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        if bytes > self.deliver {
            // The client pipelines: what is beyond this request waits for its turn.
            let end = before + usize::try_from(self.deliver).unwrap_or(usize::MAX);
            self.carry.extend_from_slice(&into.filled()[end..]);
            into.set_filled(end);
        }
        self.delivered(bytes.min(self.deliver));
        Poll::Ready(Ok(()))
    }

    fn delivered(&mut self, bytes: u64) {
        self.deliver -= bytes;
        if self.deliver == 0 {
            let wait = if self.carry.is_empty() { IDLE_DEADLINE } else { HEAD_DEADLINE };
            self.arm(wait);
        }
    }

    /// Passes the outcome of a write on, or fails when there was no progress for too long.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_stall = None;
            return outcome;
        }
        let stall = self.write_stall.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_DEADLINE)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes of the response")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        loop {
            if guard.ended || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if guard.deliver > 0 {
                return guard.poll_deliver(cx, into);
            }
            if guard.last {
                // hyper still has to answer; it closes the connection then. Nothing more is for it to read.
                return Poll::Pending;
            }
            if !guard.carry.is_empty() && guard.judge() {
                continue;
            }
            if !ready!(guard.poll_head(cx))? {
                guard.ended = true;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        let outcome = Pin::new(&mut guard.inner).poll_write(cx, bytes);
        guard.watch_write(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        let outcome = Pin::new(&mut guard.inner).poll_write_vectored(cx, slices);
        guard.watch_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        let outcome = Pin::new(&mut guard.inner).poll_flush(cx);
        guard.watch_write(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        let outcome = Pin::new(&mut guard.inner).poll_shutdown(cx);
        guard.watch_write(cx, outcome)
    }
}
