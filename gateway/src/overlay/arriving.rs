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
    /// Bytes that came with the end of a part, and belong to the next one.
    left: Option<Bytes>,
}

impl Arriving {
    /// So many bytes.
    pub fn new(bytes: u64, pieces: Pieces) -> Arriving {
        Arriving { rest: bytes, pieces, left: None }
    }

    /// The next so many bytes of it.
    pub fn part(&mut self, bytes: u64) -> ArrivingPart<'_> {
        ArrivingPart { of: self, rest: bytes }
    }
}

/// A part of a body on its way.
pub struct ArrivingPart<'a> {
    of: &'a mut Arriving,
    rest: u64,
}

#[async_trait]
impl Source for ArrivingPart<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.rest == 0 {
            return Ok(None);
        }
        let mut piece = self.of.next().await?.ok_or("the body ends before its part does")?;
        if self.rest < piece.len() as u64 {
            self.of.left = Some(piece.split_off(self.rest as usize));
        }
        self.rest -= piece.len() as u64;
        Ok(Some(piece))
    }
}

#[async_trait]
impl Source for Arriving {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        if let Some(left) = self.left.take() {
            return Ok(Some(left));
        }
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

    #[tokio::test]
    async fn a_body_is_cut_into_its_parts() {
        let pieces = ["ab", "cdefg", "h"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        let mut body = Arriving::new(8, futures::stream::iter(pieces).boxed());
        let mut found = Vec::new();
        for bytes in [1, 0, 3, 4] {
            let (mut part, mut text) = (body.part(bytes), Vec::new());
            while let Some(piece) = part.next().await.unwrap() {
                text.extend_from_slice(&piece);
            }
            found.push(String::from_utf8(text).unwrap());
        }
        assert_eq!(found, ["a", "", "bcd", "efgh"]);
        assert!(body.next().await.unwrap().is_none());
        let mut short = Arriving::new(1, futures::stream::iter([Ok(Bytes::from_static(b"a"))]).boxed());
        let mut part = short.part(2);
        assert!(part.next().await.is_ok() && part.next().await.is_err());
    }
}
