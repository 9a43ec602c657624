//! Bodies encrypted in frames: sealed as they are written, opened as they are read, any range for itself.
//!
//! How long frames are is in [`consensus::meta::sealing`]. What always holds:
//! - a key encrypts the frames of one body or of one part and nothing else, so that the number of a frame is its nonce;
//! - a frame that was changed, moved, taken from another body, or that is not the last one although it should be, does not
//!   open, and ends the read with an error before a byte of it is given out.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use consensus::meta::query::{BodyView, Piece};
use consensus::meta::sealing::{FRAME_BYTES, FRAME_SEALED_BYTES, FRAME_TAG_BYTES, plain_bytes, sealed_bytes};
use fabric::coding::Coding;
use fabric::env::Env;
use fabric::ids::ExtentId;
use fabric::limits::CHUNK_BYTES;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;

use super::reader::ReadError;

/// Bytes of a body in each chunk but the last.
pub(super) const CHUNK_PLAIN_BYTES: usize = (CHUNK_BYTES as u64 / FRAME_SEALED_BYTES * FRAME_BYTES) as usize;

/// What the key of a part follows from, beside the data key and the name of its extent. Stored, in a way: never changed.
const PART_LABEL: &[u8] = b"fluffy part 1";

/// The key of one body, or of all parts of one upload. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct DataKey([u8; 32]);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    /// A new one.
    pub fn draw(env: &dyn Env) -> DataKey {
        let mut key = [0; 32];
        env.random(&mut key);
        DataKey(key)
    }

    /// From its bytes.
    pub fn from_bytes(key: [u8; 32]) -> DataKey {
        DataKey(key)
    }

    /// Its bytes, for whoever seals it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn whole(&self) -> LessSafeKey {
        cipher(&self.0)
    }

    fn part(&self, extent: ExtentId) -> LessSafeKey {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC takes keys of every length");
        mac.update(PART_LABEL);
        // However it is stored: where it cannot be as shards it becomes whole copies of the same bytes.
        mac.update(&extent.coded(Coding::Whole).to_bytes());
        cipher(&mac.finalize().into_bytes().into())
    }
}

/// AES-256-GCM. The name of the type means that who uses it sees to nonces, which [`nonce`] does.
fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key of AES-256"))
}

/// What a data key encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// A body that was written as one.
    Whole,
    /// Parts of an upload, each under a key of its own.
    Parts,
}

/// What it takes to read an encrypted body.
#[derive(Debug, Clone)]
pub struct BodyKey {
    /// Its data key.
    pub key: DataKey,
    /// How the key is used.
    pub used: KeyUse,
}

impl BodyKey {
    fn cipher(&self, extent: Option<ExtentId>) -> LessSafeKey {
        match (self.used, extent) {
            (KeyUse::Parts, Some(extent)) => self.key.part(extent),
            (KeyUse::Whole, _) | (KeyUse::Parts, None) => self.key.whole(),
        }
    }
}

fn nonce(number: u32, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts a body from its first byte to its last.
pub(super) struct Sealer {
    cipher: LessSafeKey,
    /// Of the next frame. A body has fewer than 2^17.
    number: u32,
}

impl Sealer {
    pub(super) fn new(key: &BodyKey, extent: Option<ExtentId>) -> Sealer {
        Sealer { cipher: key.cipher(extent), number: 0 }
    }

    /// Encrypts whole frames, or with `last` the rest of the body.
    pub(super) fn seal(&mut self, pieces: Vec<Bytes>, last: bool) -> Bytes {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        assert!(last || (bytes as u64).is_multiple_of(FRAME_BYTES), "only the last frame is shorter");
        let mut sealed = BytesMut::with_capacity(sealed_bytes(bytes as u64) as usize);
        let mut pieces = VecDeque::from(pieces);
        let mut left = bytes;
        while 0 < left {
            let length = left.min(FRAME_BYTES as usize);
            let begins = sealed.len();
            move_front(&mut pieces, length, |bytes| sealed.extend_from_slice(bytes));
            left -= length;
            let nonce = nonce(self.number, last && left == 0);
            let tag = self
                .cipher
                .seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed[begins..])
                .expect("a frame is shorter than the 64 GiB that GCM can seal");
            sealed.extend_from_slice(tag.as_ref());
            self.number += 1;
        }
        sealed.freeze()
    }
}

/// Takes so many bytes off the front.
fn move_front(pieces: &mut VecDeque<Bytes>, bytes: usize, mut take: impl FnMut(&[u8])) {
    let mut left = bytes;
    while let Some(piece) = pieces.front_mut().filter(|_| 0 < left) {
        let taken = piece.split_to(left.min(piece.len()));
        left -= taken.len();
        take(&taken);
        if piece.is_empty() {
            pieces.pop_front();
        }
    }
}

/// A body, or one of its parts.
struct Sealed {
    extent: Option<ExtentId>,
    sealed_bytes: u64,
    plain_bytes: u64,
}

/// Decrypts what is read of a body.
pub(super) struct Opener {
    key: BodyKey,
    /// What is left, the one under way in front.
    bodies: VecDeque<Sealed>,
    cipher: LessSafeKey,
    /// Of the next frame.
    number: u32,
    input: VecDeque<Bytes>,
    input_bytes: usize,
    /// Bytes of the next frame that were not asked for.
    skip: usize,
    /// Bytes that are still asked for.
    left: u64,
}

impl Opener {
    /// What opens bytes `range` of a body, and which of its stored bytes it has to be fed, from the first to the last.
    pub(super) fn new(
        key: &BodyKey,
        body: &BodyView,
        range: Range<u64>,
    ) -> Result<(Opener, Range<u64>), ReadError> {
        let mut bodies = bodies_of(body)?;
        let mut stored = 0;
        let mut start = range.start;
        while let Some(first) = bodies.front().filter(|first| first.plain_bytes <= start) {
            start -= first.plain_bytes;
            stored += first.sealed_bytes;
            bodies.pop_front();
        }
        let left = range.end.saturating_sub(range.start);
        let number = start / FRAME_BYTES;
        let begins = stored + number * FRAME_SEALED_BYTES;
        let mut end = start + left;
        let mut ends = begins;
        for body in bodies.iter().take_while(|_| 0 < left) {
            if end <= body.plain_bytes {
                ends = stored + (end.div_ceil(FRAME_BYTES) * FRAME_SEALED_BYTES).min(body.sealed_bytes);
                end = 0;
                break;
            }
            end -= body.plain_bytes;
            stored += body.sealed_bytes;
        }
        if 0 < left && 0 < end {
            return Err(ReadError::Inconsistent("the range ends after the body"));
        }
        let cipher = key.cipher(bodies.front().and_then(|first| first.extent));
        let opener = Opener {
            key: key.clone(),
            bodies,
            cipher,
            number: u32::try_from(number)
                .map_err(|_| ReadError::Inconsistent("the body has too many frames"))?,
            input: VecDeque::new(),
            input_bytes: 0,
            skip: (start % FRAME_BYTES) as usize,
            left,
        };
        Ok((opener, begins..ends))
    }

    /// Takes stored bytes, the next ones in order.
    pub(super) fn feed(&mut self, bytes: Bytes) {
        self.input_bytes += bytes.len();
        self.input.push_back(bytes);
    }

    /// Whether everything that was asked for was given out.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// What was asked for of the next frame; `None`: more must be fed, or all is done.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(body) = self.bodies.front().filter(|_| 0 < self.left) else { return Ok(None) };
        let behind = body.sealed_bytes - u64::from(self.number) * FRAME_SEALED_BYTES;
        let (length, last) = (behind.min(FRAME_SEALED_BYTES) as usize, behind <= FRAME_SEALED_BYTES);
        if self.input_bytes < length {
            return Ok(None);
        }
        let mut frame = BytesMut::with_capacity(length);
        move_front(&mut self.input, length, |bytes| frame.extend_from_slice(bytes));
        self.input_bytes -= length;
        self.cipher
            .open_in_place(nonce(self.number, last), Aad::empty(), &mut frame)
            .map_err(|_| ReadError::Forged(self.number))?;
        frame.truncate(length - FRAME_TAG_BYTES as usize);
        self.number += 1;
        if last {
            self.bodies.pop_front();
            self.number = 0;
            self.cipher = self.key.cipher(self.bodies.front().and_then(|next| next.extent));
        }
        let mut plain = frame.freeze().split_off(std::mem::take(&mut self.skip));
        plain.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= plain.len() as u64;
        Ok(Some(plain))
    }
}

fn bodies_of(body: &BodyView) -> Result<VecDeque<Sealed>, ReadError> {
    let sealed = |extent, sealed_bytes| match plain_bytes(sealed_bytes) {
        Some(plain_bytes) => Ok(Sealed { extent, sealed_bytes, plain_bytes }),
        None => Err(ReadError::Inconsistent("no encrypted body has this length")),
    };
    match body {
        BodyView::NotAsked => Ok(VecDeque::new()),
        BodyView::Inline(payload) => Ok(VecDeque::from([sealed(None, payload.len() as u64)?])),
        BodyView::Pieces(pieces) => {
            pieces.iter().map(|Piece { extent, bytes, .. }| sealed(Some(extent.id), *bytes)).collect()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use consensus::meta::model::Extent;
    use fabric::ids::{LayoutVersion, SessionId};
    use proptest::prelude::*;

    use super::*;

    fn key(used: KeyUse) -> BodyKey {
        BodyKey { key: DataKey::from_bytes([7; 32]), used }
    }

    fn body(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|place| (place / 3 % 251) as u8).collect()
    }

    fn extent(number: u64) -> ExtentId {
        ExtentId::new(0, SessionId { epoch: 1, number: 1 }, number)
    }

    /// Encrypts a body as a writer does: in chunks.
    fn seal(key: &BodyKey, extent: Option<ExtentId>, plain: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(key, extent);
        let chunks: Vec<&[u8]> = plain.chunks(CHUNK_PLAIN_BYTES).collect();
        let seal = |(place, chunk): (usize, &&[u8])| {
            let middle = chunk.len() / 2;
            let pieces =
                vec![Bytes::copy_from_slice(&chunk[..middle]), Bytes::copy_from_slice(&chunk[middle..])];
            sealer.seal(pieces, place + 1 == chunks.len())
        };
        chunks.iter().enumerate().map(seal).collect::<Vec<_>>().concat()
    }

    fn inline(sealed: &[u8]) -> BodyView {
        BodyView::Inline(Bytes::copy_from_slice(sealed))
    }

    /// Reads a range, fed in pieces of `step` bytes.
    fn open(
        key: &BodyKey,
        view: &BodyView,
        sealed: &[u8],
        range: Range<u64>,
        step: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let (mut opener, stored) = Opener::new(key, view, range)?;
        let mut found = Vec::new();
        for piece in sealed[stored.start as usize..stored.end as usize].chunks(step) {
            opener.feed(Bytes::copy_from_slice(piece));
            while let Some(plain) = opener.next()? {
                found.extend_from_slice(&plain);
            }
        }
        if opener.is_done() { Ok(found) } else { Err(ReadError::Inconsistent("short")) }
    }

    #[test]
    fn chunks_hold_whole_frames() {
        assert_eq!(sealed_bytes(CHUNK_PLAIN_BYTES as u64), CHUNK_BYTES as u64);
    }

    /// Stored: what is encrypted today is read for ever.
    #[test]
    fn golden_frames() {
        let sealed = seal(&key(KeyUse::Whole), None, b"plain text");
        assert_eq!(hex::encode(sealed), "4024d8095a60966255cf0eac3126189e50d095cb6fa8140acd04");
        let sealed = seal(&key(KeyUse::Parts), Some(extent(3)), b"plain text");
        assert_eq!(hex::encode(sealed), "78d6f32186d183e3a7ee195ec0bf22af6f892863f3c5f6002cc1");
    }

    #[test]
    fn parts_have_keys_of_their_own() {
        let key = key(KeyUse::Parts);
        let texts = [body(100_000), body(65_520), body(1)];
        let sealed: Vec<Vec<u8>> =
            (0..3).map(|place| seal(&key, Some(extent(place as u64)), &texts[place])).collect();
        let piece = |place: usize| {
            let bytes = sealed[place].len() as u64;
            let id = extent(place as u64);
            let extent =
                Extent { id, bytes, chunk_bytes: CHUNK_BYTES as u32, layout: LayoutVersion(1), confirmed: 7 };
            Piece { extent, offset: 0, bytes }
        };
        let view = BodyView::Pieces((0..3).map(piece).collect());
        let (plain, stored) = (texts.concat(), sealed.concat());
        let all = plain.len() as u64;
        for range in
            [0..all, 99_999..100_001, 100_000..165_521, 165_519..165_521, 70_000..70_000, 165_520..all]
        {
            let (start, end) = (range.start as usize, range.end as usize);
            assert_eq!(open(&key, &view, &stored, range, 10_000).unwrap(), &plain[start..end]);
        }
        assert!(open(&key, &view, &stored, 0..all + 1, 10_000).is_err());
        let swapped = BodyView::Pieces(vec![piece(1), piece(0), piece(2)]);
        assert!(open(&key, &swapped, &stored, 0..all, 10_000).is_err());
        let other = BodyKey { used: KeyUse::Whole, ..key };
        assert!(open(&other, &view, &stored, 0..all, 10_000).is_err());
    }

    #[test]
    fn frames_do_not_move() {
        let key = key(KeyUse::Whole);
        let sealed = seal(&key, None, &body(3 * 65_520));
        let frame = |place: usize| &sealed[place * 65_536..(place + 1) * 65_536];
        for order in [[1, 0, 2], [0, 2, 1], [0, 0, 2], [2, 2, 2]] {
            let moved = order.map(frame).concat();
            assert!(open(&key, &inline(&moved), &moved, 0..3 * 65_520, 65_536).is_err(), "{order:?}");
        }
        // Cut at the border of a frame, with all lengths to match: the last one is no last one.
        for frames in [1, 2] {
            let cut = &sealed[..frames * 65_536];
            assert!(open(&key, &inline(cut), cut, 0..frames as u64 * 65_520, 65_536).is_err());
        }
        let longer = [&sealed[..], frame(2)].concat();
        assert!(open(&key, &inline(&longer), &longer, 0..4 * 65_520, 65_536).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_range_of_any_body_comes_back(
            bytes in prop_oneof![1..200_usize, 65_500..65_540_usize, 1..400_000_usize, 1_048_300..1_048_340_usize],
            from in 0.0..1.0_f64,
            upto in 0.0..=1.0_f64,
            step in 1_000..200_000_usize,
        ) {
            let (key, plain) = (key(KeyUse::Whole), body(bytes));
            let sealed = seal(&key, None, &plain);
            prop_assert_eq!(sealed.len() as u64, sealed_bytes(bytes as u64));
            let start = (from * bytes as f64) as usize;
            let end = start + (upto * (bytes - start) as f64) as usize;
            let found = open(&key, &inline(&sealed), &sealed, start as u64..end as u64, step);
            prop_assert_eq!(found.unwrap(), &plain[start..end]);
            // No more is read than the frames of the range.
            let (_, stored) = Opener::new(&key, &inline(&sealed), start as u64..end as u64).unwrap();
            prop_assert!(stored.end - stored.start <= (end - start) as u64 / FRAME_BYTES * 65_536 + 2 * 65_536);
        }

        #[test]
        fn no_changed_byte_is_given_out(
            bytes in 1..200_000_usize,
            place in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let (key, plain) = (key(KeyUse::Whole), body(bytes));
            let mut sealed = seal(&key, None, &plain);
            let place = place.index(sealed.len());
            sealed[place] ^= 1 << bit;
            prop_assert!(open(&key, &inline(&sealed), &sealed, 0..bytes as u64, 65_536).is_err());
        }

        #[test]
        fn no_shorter_body_is_given_out(bytes in 1..200_000_usize, cut in any::<prop::sample::Index>()) {
            let (key, plain) = (key(KeyUse::Whole), body(bytes));
            let sealed = seal(&key, None, &plain);
            let cut = &sealed[..cut.index(sealed.len())];
            if let Some(shorter) = plain_bytes(cut.len() as u64).filter(|shorter| 0 < *shorter) {
                prop_assert!(open(&key, &inline(cut), cut, 0..shorter, 65_536).is_err());
            }
        }
    }
}
