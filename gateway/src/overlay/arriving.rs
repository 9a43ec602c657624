//! A body that comes from another cluster.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::timeout;

use crate::data::{Source, SourceError};
use crate::http::BoxError;

/// The next bytes come within this.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The pieces of a body.
pub type Pieces = BoxStream<'static, Result<Bytes, BoxError>>;

/// A body on its way: it ends cleanly only when all of it came.
pub struct Arriving {
    rest: u64,
    pieces: Pieces,
}

impl Arriving {
    /// So many bytes.
    pub fn new(bytes: u64, pieces: Pieces) -> Arriving {
        Arriving { rest: bytes, pieces }
    }
}

#[async_trait]
impl Source for Arriving {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        let piece = timeout(PATIENCE, self.pieces.next()).await;
        let piece = piece.map_err(|_| "the other cluster sends no more bytes")?;
        let piece = piece.transpose().map_err(|error| error.to_string())?;
        let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.rest = self.rest.checked_sub(bytes).ok_or("the other cluster sends too many bytes")?;
        match piece {
            None if self.rest != 0 => Err("the other cluster sends too few bytes".into()),
            piece => Ok(piece),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_is_cut_is_none() {
        let arriving = |bytes, pieces: &'static [&'static [u8]]| {
            let pieces = pieces.iter().map(|piece| Ok(Bytes::from_static(piece)));
            Arriving::new(bytes, futures::stream::iter(pieces).boxed())
        };
        let mut good = arriving(3, &[b"ab", b"c"]);
        while good.next().await.unwrap().is_some() {}
        let mut short = arriving(4, &[b"ab", b"c"]);
        assert!(short.next().await.is_ok() && short.next().await.is_ok() && short.next().await.is_err());
        assert!(arriving(1, &[b"ab"]).next().await.is_err());
    }
}
