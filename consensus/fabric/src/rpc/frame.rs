//! How calls look on a connection.
//!
//! A frame is: length of the rest (u32) · CRC-32C of the rest (u32) · kind (u8) · method (u16) · call (u64) ·
//! head length (u32) · head · body; little endian, [`FRAME_BYTES_MAX`] at most. The numbers of kinds are
//! stable. A frame that is not what it says ends the connection: nothing after it could be trusted.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::codec::crc32c;
use crate::limits::FRAME_BYTES_MAX;

/// Length and CRC.
const PREFIX_BYTES: usize = 8;
/// Kind, method, call and head length.
const FIXED_BYTES: usize = 15;
/// A head up to this size is copied behind the fixed part, so that a small frame is one piece.
const COPIED_HEAD_BYTES: usize = 4 << 10;
/// Frames that leave in one write.
const FRAMES_PER_WRITE: usize = 64;
/// A peer that takes nothing for so long is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First frame of the side that dialled.
    Hello = 1,
    /// Answer to a hello that is right.
    Welcome = 2,
    /// A call.
    Request = 3,
    /// Its answer.
    Reply = 4,
    /// The service said no, or the hello was wrong; the head is the reason.
    Refused = 5,
    /// The handler broke: perhaps done; the head says more.
    Failed = 6,
    /// Calls are being worked on; sent when nothing else is.
    Alive = 7,
}

impl Kind {
    fn from_u8(number: u8) -> Option<Kind> {
        let all = [
            Kind::Hello,
            Kind::Welcome,
            Kind::Request,
            Kind::Reply,
            Kind::Refused,
            Kind::Failed,
            Kind::Alive,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A frame that arrived, checked. Head and body are parts of one buffer.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub kind: Kind,
    pub method: u16,
    pub call: u64,
    pub head: Bytes,
    pub body: Bytes,
}

/// A frame ready to leave.
#[derive(Debug, Clone)]
pub(super) struct Outgoing(Vec<Bytes>);

/// Puts a frame together without copying the body. `None` where it is larger than a frame may be.
pub(super) fn encode(kind: Kind, method: u16, call: u64, head: &Bytes, body: &[Bytes]) -> Option<Outgoing> {
    let body_bytes: usize = body.iter().map(Bytes::len).sum();
    let rest = PREFIX_BYTES - 4 + FIXED_BYTES + head.len() + body_bytes;
    if rest > FRAME_BYTES_MAX {
        return None;
    }
    let mut fixed = Vec::with_capacity(PREFIX_BYTES + FIXED_BYTES + head.len().min(COPIED_HEAD_BYTES));
    fixed.extend_from_slice(&(rest as u32).to_le_bytes());
    fixed.extend_from_slice(&[0; 4]);
    fixed.push(kind as u8);
    fixed.extend_from_slice(&method.to_le_bytes());
    fixed.extend_from_slice(&call.to_le_bytes());
    fixed.extend_from_slice(&(head.len() as u32).to_le_bytes());
    let copied = head.len() <= COPIED_HEAD_BYTES;
    if copied {
        fixed.extend_from_slice(head);
    }

    let mut pieces = Vec::with_capacity(2 + body.len());
    if !copied {
        pieces.push(head.clone());
    }
    pieces.extend(body.iter().filter(|piece| !piece.is_empty()).cloned());
    let mut parts = vec![&fixed[PREFIX_BYTES..]];
    parts.extend(pieces.iter().map(|piece| &piece[..]));
    let crc = crc32c(&parts);
    fixed[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
    pieces.insert(0, Bytes::from(fixed));
    Some(Outgoing(pieces))
}

fn decode(mut rest: Bytes) -> io::Result<Frame> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
    let crc = rest.get_u32_le();
    if crc != crc32c(&[&rest]) {
        return Err(bad("a frame whose checksum is wrong"));
    }
    let kind = Kind::from_u8(rest.get_u8()).ok_or_else(|| bad("a frame of a kind that is not known"))?;
    let (method, call, head_bytes) = (rest.get_u16_le(), rest.get_u64_le(), rest.get_u32_le() as usize);
    if head_bytes > rest.len() {
        return Err(bad("a frame whose head is longer than itself"));
    }
    let head = rest.split_to(head_bytes);
    Ok(Frame { kind, method, call, head, body: rest })
}

/// Reads frames. Its futures may be dropped and called again: nothing that arrived is lost.
pub(super) struct FrameReader<R> {
    stream: R,
    length: [u8; 4],
    /// Of the length that were read.
    length_filled: usize,
    rest: BytesMut,
    /// Of `rest` that were read.
    filled: usize,
    bytes_max: usize,
    arrived: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Refuses frames larger than `bytes_max`.
    pub fn new(stream: R, bytes_max: usize) -> FrameReader<R> {
        assert!(bytes_max <= FRAME_BYTES_MAX);
        let rest = BytesMut::new();
        FrameReader { stream, length: [0; 4], length_filled: 0, rest, filled: 0, bytes_max, arrived: 0 }
    }

    /// Another bound from the next frame on.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        assert!(bytes_max <= FRAME_BYTES_MAX);
        self.bytes_max = bytes_max;
    }

    /// Bytes that arrived so far: a peer under which this stands still is silent.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Bytes of the next frame behind its length. `None` when the peer closed between frames.
    pub async fn next_length(&mut self) -> io::Result<Option<usize>> {
        while self.length_filled < 4 {
            let read = self.stream.read(&mut self.length[self.length_filled..]).await?;
            if read == 0 && self.length_filled == 0 {
                return Ok(None);
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.length_filled += read;
            self.arrived += read as u64;
        }
        let length = u32::from_le_bytes(self.length) as usize;
        if length < PREFIX_BYTES - 4 + FIXED_BYTES || length > self.bytes_max {
            let why = format!("a frame of {length} bytes; the bound is {}", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Some(length))
    }

    /// The next frame. `None` when the peer closed between frames.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some(length) = self.next_length().await? else {
            return Ok(None);
        };
        if self.rest.is_empty() {
            self.rest = BytesMut::zeroed(length);
        }
        while self.filled < length {
            let read = self.stream.read(&mut self.rest[self.filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += read;
            self.arrived += read as u64;
        }
        (self.length_filled, self.filled) = (0, 0);
        decode(std::mem::take(&mut self.rest).freeze()).map(Some)
    }
}

/// Reads everything that a peer sent before it closed, as a connection does: kind, method, and bytes of head and body of
/// each frame. For whoever wants to know what hostile bytes do.
pub async fn read_all(bytes: &[u8]) -> io::Result<Vec<(u8, u16, usize, usize)>> {
    let mut reader = FrameReader::new(bytes, FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push((frame.kind as u8, frame.method, frame.head.len(), frame.body.len()));
    }
    Ok(frames)
}

/// Pieces that are written one behind the other, several in one system call.
struct Pieces(VecDeque<Bytes>);

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        for (slice, piece) in into.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(piece);
        }
        into.len().min(self.0.len())
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let front = self.0.front_mut().expect("a writer never advances beyond what remains");
            let step = bytes.min(front.len());
            front.advance(step);
            bytes -= step;
            if front.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

/// Writes one frame.
pub(super) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: Outgoing) -> io::Result<()> {
    write_pieces(stream, Pieces(frame.0.into())).await
}

async fn write_pieces(stream: &mut (impl AsyncWrite + Unpin), mut pieces: Pieces) -> io::Result<()> {
    let written = async {
        stream.write_all_buf(&mut pieces).await?;
        stream.flush().await
    };
    timeout(WRITE_DEADLINE, written).await?
}

/// Writes what is queued, all that waits in one go, until the queue is closed. When nothing was queued for
/// `idle.0`, the frame that `idle.1` gives is written, if it gives one.
pub(super) async fn write_queued(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    idle: (Duration, impl Fn() -> Option<Outgoing>),
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(FRAMES_PER_WRITE);
    loop {
        match timeout(idle.0, queue.recv_many(&mut batch, FRAMES_PER_WRITE)).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => batch.extend(idle.1()),
        }
        if !batch.is_empty() {
            let pieces = batch.drain(..).flat_map(|frame| frame.0).collect();
            write_pieces(&mut stream, Pieces(pieces)).await?;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::{any, prop};
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    fn bytes_of(frame: Outgoing) -> Vec<u8> {
        frame.0.concat()
    }

    /// Reads with the smallest possible steps: every await is a place to stop.
    async fn read_all(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let (mut near, far) = tokio::io::duplex(7);
        let mut reader = FrameReader::new(far, FRAME_BYTES_MAX);
        let sent = async {
            let result = near.write_all(bytes).await;
            drop(near);
            result
        };
        let received = async {
            let mut frames = Vec::new();
            while let Some(frame) = reader.next().await? {
                frames.push(frame);
            }
            drop(reader);
            Ok(frames)
        };
        tokio::join!(sent, received).1
    }

    #[test]
    fn golden_bytes() {
        let frame =
            encode(Kind::Request, 0x0203, 0x0405, &Bytes::from("hd"), &[Bytes::from("body")]).unwrap();
        let bytes = bytes_of(frame);
        assert_eq!(hex::encode(&bytes[..4]), "19000000");
        assert_eq!(hex::encode(&bytes[8..]), "0303020504000000000000020000006864626f6479");
    }

    #[tokio::test]
    async fn any_changed_byte_is_an_error() {
        let frame = encode(Kind::Reply, 1, 2, &Bytes::from("head"), &[Bytes::from("body")]).unwrap();
        let bytes = bytes_of(frame);
        assert_eq!(read_all(&bytes).await.unwrap().len(), 1);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(read_all(&changed).await.is_err(), "byte {at}");
        }
        for at in 1..bytes.len() {
            assert!(read_all(&bytes[..at]).await.is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_frame_has_a_bound() {
        let half = Bytes::from(vec![0; FRAME_BYTES_MAX / 2]);
        assert!(encode(Kind::Reply, 1, 2, &half, std::slice::from_ref(&half)).is_none());
    }

    proptest! {
        #[test]
        fn frames_come_back(
            frames in prop::collection::vec((any::<u16>(), any::<u64>(), 0usize..6000, prop::collection::vec(0usize..50, 0..4)), 0..5)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let filled = |bytes: usize| Bytes::from((0..bytes).map(|at| at as u8).collect::<Vec<_>>());
            let mut sent = Vec::new();
            for (method, call, head, body) in &frames {
                let body: Vec<Bytes> = body.iter().map(|bytes| filled(*bytes)).collect();
                sent.extend(bytes_of(encode(Kind::Request, *method, *call, &filled(*head), &body).unwrap()));
            }
            let received = runtime.block_on(async {
                let mut reader = FrameReader::new(&sent[..], FRAME_BYTES_MAX);
                let mut received = Vec::new();
                while let Some(frame) = reader.next().await.unwrap() {
                    received.push(frame);
                }
                received
            });
            prop_assert_eq!(received.len(), frames.len());
            for (found, (method, call, head, body)) in received.iter().zip(&frames) {
                prop_assert_eq!((found.method, found.call), (*method, *call));
                prop_assert_eq!(&found.head, &filled(*head));
                let body: Vec<u8> = body.iter().flat_map(|bytes| filled(*bytes)).collect();
                prop_assert_eq!(&found.body[..], &body[..]);
            }
        }
    }
}
