//! Who speaks to whom: proved before the first call.
//!
//! Both sides say cluster, epoch, role and id; with TLS what they say must be what their certificate says. The side
//! that dialled also says whom it expects, so that a moved address never reaches a wrong node.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{Frame, FrameReader, Kind, encode, write_frame};
use super::{Class, Identity, Peer};
use crate::codec;
use crate::ids::{ClusterId, NodeId};

/// Raised when frames or hellos change so that older releases cannot follow.
const PROTOCOL: u16 = 1;
const HELLO_FORMAT: u8 = 1;
/// Largest frame before the handshake is done: nobody has proved anything yet.
pub(super) const HELLO_BYTES_MAX: usize = 4 << 10;

/// Sent: append only.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u16,
    cluster: ClusterId,
    /// Epoch of the cluster, 0 where the side does not know it.
    epoch: u16,
    me: Peer,
    expected: Peer,
    class: Class,
}

/// Sent: append only.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome {
    protocol: u16,
    cluster: ClusterId,
    epoch: u16,
    me: Peer,
}

pub(super) fn refuse(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

async fn next(reader: &mut FrameReader<impl AsyncRead + Unpin>) -> io::Result<Frame> {
    reader.next().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn frame<T: Serialize>(kind: Kind, value: &T) -> super::frame::Outgoing {
    let head = Bytes::from(codec::encode(HELLO_FORMAT, value));
    encode(kind, 0, 0, &head, &[]).expect("a hello is far below the bound of a frame")
}

/// The side that dialled `node`.
pub(super) async fn dial(
    identity: &Identity,
    node: NodeId,
    class: Class,
    reader: &mut FrameReader<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let expected = Peer::Node(node);
    let (cluster, me, epoch) = (identity.cluster, identity.me, identity.epoch.get());
    let hello = Hello { protocol: PROTOCOL, cluster, epoch, me, expected, class };
    write_frame(writer, frame(Kind::Hello, &hello)).await?;
    let answer = next(reader).await?;
    match answer.kind {
        Kind::Refused => {
            Err(refuse(format!("the peer refuses us: {}", String::from_utf8_lossy(&answer.head))))
        }
        Kind::Welcome => {
            let welcome: Welcome = codec::decode(HELLO_FORMAT, "welcome", &answer.head)
                .map_err(|error| refuse(error.to_string()))?;
            agree(identity, welcome.protocol, welcome.cluster)?;
            if welcome.me != expected {
                return Err(refuse(format!("dialled {expected}, reached {}", welcome.me)));
            }
            identity.epoch.agree(identity.me, welcome.me, welcome.epoch)
        }
        other => Err(refuse(format!("a frame of kind {other:?} in place of a welcome"))),
    }
}

/// The side that listens. `proved` is what the peer's certificate says, with TLS.
pub(super) async fn answer(
    identity: &Identity,
    proved: Option<Peer>,
    reader: &mut FrameReader<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<(Peer, Class)> {
    let first = next(reader).await?;
    match judge(identity, proved, &first) {
        Ok(hello) => {
            let agreed = identity.epoch.agree(identity.me, hello.me, hello.epoch);
            let (cluster, me, epoch) = (identity.cluster, identity.me, identity.epoch.get());
            let welcome = Welcome { protocol: PROTOCOL, cluster, epoch, me };
            // Said also where the epochs differ: whoever is behind finds out by it, and says what to do.
            write_frame(writer, frame(Kind::Welcome, &welcome)).await?;
            agreed?;
            Ok((hello.me, hello.class))
        }
        Err(error) => {
            let reason = Bytes::from(error.to_string());
            let refusal = encode(Kind::Refused, 0, 0, &reason, &[]).expect("a reason is far below the bound");
            write_frame(writer, refusal).await?;
            Err(error)
        }
    }
}

fn judge(identity: &Identity, proved: Option<Peer>, first: &Frame) -> io::Result<Hello> {
    if first.kind != Kind::Hello {
        return Err(refuse("the first frame is no hello"));
    }
    let hello: Hello =
        codec::decode(HELLO_FORMAT, "hello", &first.head).map_err(|error| refuse(error.to_string()))?;
    agree(identity, hello.protocol, hello.cluster)?;
    if hello.expected != identity.me {
        return Err(refuse(format!("{} was dialled, this is {}", hello.expected, identity.me)));
    }
    if proved.is_some_and(|proved| proved != hello.me) {
        return Err(refuse(format!("the certificate is not that of {}", hello.me)));
    }
    Ok(hello)
}

fn agree(identity: &Identity, protocol: u16, cluster: ClusterId) -> io::Result<()> {
    if protocol != PROTOCOL {
        return Err(refuse(format!("the peer speaks protocol {protocol}, this release {PROTOCOL}")));
    }
    if cluster != identity.cluster {
        return Err(refuse(format!("the peer is of cluster {cluster}, this is {}", identity.cluster)));
    }
    Ok(())
}
