//! How the bytes of an extent are spread over the owners of its partition: as whole copies, or as shards of a
//! systematic Reed–Solomon code.
//!
//! The id of an extent says which, so that everybody who knows the id knows what lies where. A coded extent is cut into
//! *stripes*, each into data chunks of one size but the last ones, which may be shorter or have no bytes at all. Parity is
//! as long as the first chunk of its stripe; bytes that a shorter one lacks count as zeros. Shard `s` of every stripe lies
//! on one owner: the one at place `s`, or where fewer are listed than there are shards, at place `s` modulo their number.
//! A whole copy is shard 0, and the first [`COPIES`] owners hold it.
//!
//! The field, the matrix and the numbers of codings are stored, in a way: they never change.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use rustfs_erasure_codec::galois_8::ReedSolomon;

use crate::ids::{ChunkId, ExtentId, NodeId};
use crate::limits::{CHUNK_BYTES, COPIES, COPIES_DURABLE_MIN};

/// How an extent is stored. The number is part of its id; those that are not here are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coding {
    /// Whole copies.
    Whole = 0,
    /// Two shards of data and one of parity.
    TwoPlusOne = 1,
    /// Four shards of data and two of parity.
    FourPlusTwo = 2,
}

static TWO_PLUS_ONE: LazyLock<ReedSolomon> = LazyLock::new(|| code(2, 1));
static FOUR_PLUS_TWO: LazyLock<ReedSolomon> = LazyLock::new(|| code(4, 2));

fn code(data: usize, parity: usize) -> ReedSolomon {
    ReedSolomon::new(data, parity).expect("there are fewer shards than elements of the field")
}

impl fmt::Display for Coding {
    /// As operators call it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Coding::Whole => f.write_str("copies"),
            Coding::TwoPlusOne | Coding::FourPlusTwo => {
                write!(f, "{}+{}", self.data(), self.shards() - self.data())
            }
        }
    }
}

impl Coding {
    /// All there are.
    pub const ALL: [Coding; 3] = [Coding::Whole, Coding::TwoPlusOne, Coding::FourPlusTwo];

    /// Owners that the widest coding needs.
    pub const SHARDS_MAX: usize = 6;

    /// The one of this number; `None`: reserved.
    pub fn from_number(number: u8) -> Option<Coding> {
        Coding::ALL.get(usize::from(number)).copied()
    }

    /// The widest for a partition that lists so many owners.
    pub fn widest(owners: usize) -> Coding {
        match owners {
            6.. => Coding::FourPlusTwo,
            3..6 => Coding::TwoPlusOne,
            _ => Coding::Whole,
        }
    }

    /// Shards that have the bytes themselves, and from how many any other can be rebuilt.
    pub const fn data(self) -> usize {
        match self {
            Coding::Whole => 1,
            Coding::TwoPlusOne => 2,
            Coding::FourPlusTwo => 4,
        }
    }

    /// All shards; the first are data.
    pub const fn shards(self) -> usize {
        match self {
            Coding::Whole => 1,
            Coding::TwoPlusOne => 3,
            Coding::FourPlusTwo => 6,
        }
    }

    /// How many owners of a partition that lists so many hold something: the first.
    pub fn places(self, owners: usize) -> usize {
        let most = if self == Coding::Whole { COPIES } else { self.shards() };
        most.min(owners)
    }

    /// The shards that the owner at a place holds, as bits.
    pub fn shards_at(self, place: usize, owners: usize) -> u16 {
        if self == Coding::Whole {
            return u16::from(place < self.places(owners));
        }
        let here = (0..self.shards()).filter(|shard| owners != 0 && shard % owners == place);
        here.fold(0, |mask, shard| mask | 1 << shard)
    }

    /// Of the owners of a partition those that hold something, in order.
    pub fn holders(self, owners: &[NodeId]) -> &[NodeId] {
        &owners[..self.places(owners.len())]
    }

    /// The shards that a node holds as one of these owners, as bits.
    pub fn shards_on(self, node: NodeId, owners: &[NodeId]) -> u16 {
        let place = owners.iter().position(|owner| *owner == node);
        place.map_or(0, |place| self.shards_at(place, owners.len()))
    }

    /// The places of the owners that hold a shard.
    pub fn places_of(self, shard: usize, owners: usize) -> Range<usize> {
        match self {
            Coding::Whole => 0..self.places(owners),
            _ if owners == 0 || self.shards() <= shard => 0..0,
            _ => shard % owners..shard % owners + 1,
        }
    }

    /// Different shards, or copies, that the owners of a mask hold together.
    fn held(self, confirmed: u16, owners: usize) -> usize {
        let places = (0..self.places(owners)).filter(|place| confirmed >> place & 1 == 1);
        match self {
            Coding::Whole => places.count(),
            _ => places.map(|place| self.shards_at(place, owners).count_ones() as usize).sum(),
        }
    }

    /// Whether what the owners of a mask hold may be named: any one of them can be lost. Where there are so few owners that
    /// this cannot be, all of them have to hold what is theirs.
    pub fn is_durable(self, confirmed: u16, owners: usize) -> bool {
        let places = self.places(owners);
        if self == Coding::Whole {
            return COPIES_DURABLE_MIN.min(owners) <= self.held(confirmed, owners);
        }
        let stands_loss = |place: usize| self.is_readable(confirmed & !(1 << place), owners);
        (0..places).all(|place| confirmed >> place & 1 == 1) || (0..places).all(stands_loss)
    }

    /// Whether the owners of a mask hold enough to give all bytes.
    pub fn is_readable(self, confirmed: u16, owners: usize) -> bool {
        self.data() <= self.held(confirmed, owners)
    }

    /// Bytes of a chunk, where a body of so many is to be written. One that fits into a stripe is cut into even chunks
    /// of whole pages, so that a small one takes no more than its share either.
    pub fn chunk_bytes(self, body_bytes_min: u64) -> u32 {
        const PAGE: u64 = 4096;
        let (whole, data) = (CHUNK_BYTES as u64, self.data() as u64);
        let even = body_bytes_min.div_ceil(data).next_multiple_of(PAGE);
        if self == Coding::Whole { whole as u32 } else { even.clamp(PAGE, whole / data) as u32 }
    }

    fn code(self) -> Option<&'static ReedSolomon> {
        match self {
            Coding::Whole => None,
            Coding::TwoPlusOne => Some(&TWO_PLUS_ONE),
            Coding::FourPlusTwo => Some(&FOUR_PLUS_TWO),
        }
    }

    /// All shards of a stripe, in order: its data cut at `chunk_bytes`, where the last ones may be short or empty, and
    /// parity. It has at most as many bytes as all data chunks.
    pub fn shards_of(self, stripe: Bytes, chunk_bytes: usize) -> Vec<Bytes> {
        assert!(stripe.len() <= self.data() * chunk_bytes);
        let mut rest = stripe;
        let cut = |_| rest.split_to(chunk_bytes.min(rest.len()));
        let mut shards: Vec<Bytes> = (0..self.data()).map(cut).collect();
        shards.extend(self.parity(&shards));
        shards
    }

    /// The parity of a stripe. `data`: its data chunks, the first of which is none shorter than any other.
    pub fn parity(self, data: &[Bytes]) -> Vec<Bytes> {
        let Some(code) = self.code() else { return Vec::new() };
        assert!(data.len() == self.data() && data.iter().all(|chunk| chunk.len() <= data[0].len()));
        let bytes = data[0].len();
        let mut parity = vec![vec![0; bytes]; self.shards() - self.data()];
        if bytes != 0 {
            let padded: Vec<Bytes> = data.iter().map(|chunk| padded(chunk, bytes)).collect();
            code.encode_sep(&padded, &mut parity)
                .expect("the shards are as many and as long as they should be");
        }
        parity.into_iter().map(Bytes::from).collect()
    }

    /// Bytes of shard `wanted` from the same bytes of others, by shard; what one of them lacks at its end counts as zeros.
    /// `None`: there are too few.
    pub fn rebuild(self, wanted: usize, others: &[Option<Bytes>], bytes: usize) -> Option<Bytes> {
        if let Some(Some(there)) = others.get(wanted) {
            return Some(padded(there, bytes));
        }
        let code = self.code()?;
        if bytes == 0 {
            return Some(Bytes::new());
        }
        let whole = |shard: &Option<Bytes>| shard.as_ref().map(|shard| padded(shard, bytes).to_vec());
        let mut shards: Vec<Option<Vec<u8>>> = others.iter().map(whole).collect();
        let required: Vec<bool> = (0..shards.len()).map(|shard| shard == wanted).collect();
        code.reconstruct_some(&mut shards, &required).ok()?;
        shards.get_mut(wanted)?.take().map(Bytes::from)
    }
}

/// With zeros behind it, where it is shorter.
fn padded(chunk: &Bytes, bytes: usize) -> Bytes {
    if bytes <= chunk.len() {
        return chunk.slice(..bytes);
    }
    let mut longer = BytesMut::zeroed(bytes);
    longer[..chunk.len()].copy_from_slice(chunk);
    longer.freeze()
}

/// What of an extent lies where: arithmetic over what its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// The extent.
    pub id: ExtentId,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of each data chunk but the last.
    pub chunk_bytes: u32,
}

impl Spread {
    /// How it is stored. One of a reserved number is never named; here it counts as whole.
    pub fn coding(&self) -> Coding {
        self.id.coding().unwrap_or(Coding::Whole)
    }

    /// How many stripes it has; of whole copies each chunk is one.
    pub fn stripes(&self) -> u64 {
        self.bytes.div_ceil(self.stripe_bytes())
    }

    fn stripe_bytes(&self) -> u64 {
        u64::from(self.chunk_bytes.max(1)) * self.coding().data() as u64
    }

    /// Bytes that a shard of a stripe has; those of a short last stripe may have none.
    pub fn bytes_of(&self, shard: usize, stripe: u64) -> u64 {
        let chunk_bytes = u64::from(self.chunk_bytes);
        // Parity is as long as the first chunk.
        let place = if shard < self.coding().data() { shard as u64 } else { 0 };
        let begins = stripe.saturating_mul(self.stripe_bytes()).saturating_add(place * chunk_bytes);
        self.bytes.saturating_sub(begins).min(chunk_bytes)
    }

    /// Shard and stripe of the data chunk that has the byte at `offset`, and where in the extent that chunk begins.
    pub fn chunk_with(&self, offset: u64) -> (usize, u64, u64) {
        let chunk_bytes = u64::from(self.chunk_bytes.max(1));
        let (number, data) = (offset / chunk_bytes, self.coding().data() as u64);
        ((number % data) as usize, number / data, number * chunk_bytes)
    }

    /// The chunks of some stripes that the owner at a place holds, with their bytes: shard by shard.
    pub fn chunks_at(
        &self,
        place: usize,
        owners: usize,
        stripes: Range<u64>,
    ) -> impl Iterator<Item = (ChunkId, u64)> + use<> {
        let (spread, here) = (*self, self.coding().shards_at(place, owners));
        let shards = (0..spread.coding().shards()).filter(move |shard| here >> shard & 1 == 1);
        let chunks = shards.flat_map(move |shard| stripes.clone().map(move |stripe| (shard, stripe)));
        let chunk =
            move |(shard, stripe)| (spread.id.shard(shard, stripe as u32), spread.bytes_of(shard, stripe));
        chunks.map(chunk).filter(|(_, bytes)| *bytes != 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SessionId;

    fn spread(coding: Coding, bytes: u64, chunk_bytes: u32) -> Spread {
        let id = ExtentId::new(7, SessionId { epoch: 1, number: 2 }, 3).coded(coding);
        Spread { id, bytes, chunk_bytes }
    }

    #[test]
    fn numbers_and_the_code_never_change() {
        for (number, coding) in Coding::ALL.into_iter().enumerate() {
            assert_eq!((coding as usize, Coding::from_number(number as u8)), (number, Some(coding)));
        }
        assert_eq!(Coding::from_number(3), None);
        let data = |shards: usize| -> Vec<Bytes> {
            (1..=shards as u8).map(|shard| vec![shard, shard * 16 - 13, 0xFF].into()).collect()
        };
        assert_eq!(Coding::TwoPlusOne.parity(&data(2)), [vec![7, 35, 255]]);
        assert_eq!(Coding::FourPlusTwo.parity(&data(4)), [vec![69, 67, 255], vec![94, 83, 255]]);
    }

    #[test]
    fn each_shard_lies_on_one_owner_and_copies_on_the_first_three() {
        assert_eq!(
            (0..7).map(|place| Coding::Whole.shards_at(place, 7)).collect::<Vec<_>>(),
            [1, 1, 1, 0, 0, 0, 0]
        );
        for (owners, masks) in [
            (7, &[1, 2, 4, 8, 16, 32, 0][..]),
            (6, &[1, 2, 4, 8, 16, 32]),
            (5, &[0b10_0001, 2, 4, 8, 16]),
            (3, &[0b1001, 0b1_0010, 0b10_0100]),
            (1, &[0b11_1111]),
        ] {
            let code = Coding::FourPlusTwo;
            let found: Vec<u16> = (0..owners).map(|place| code.shards_at(place, owners)).collect();
            assert_eq!((found.as_slice(), code.places(owners)), (masks, owners.min(6)));
            for shard in 0..6 {
                let places: Vec<usize> = code.places_of(shard, owners).collect();
                assert!(places.len() == 1 && found[places[0]] >> shard & 1 == 1);
            }
        }
    }

    #[test]
    fn durable_is_what_stands_the_loss_of_one() {
        let four = Coding::FourPlusTwo;
        assert!(four.is_durable(0b11_1110, 6) && !four.is_durable(0b11_1100, 6));
        assert!(four.is_readable(0b11_1100, 6) && !four.is_readable(0b11_1000, 6));
        // Five shards on four nodes: the loss of the first of these takes two.
        assert!(!four.is_durable(0b0_1111, 5) && four.is_durable(0b1_1111, 5));
        assert!(!four.is_durable(0b1_1110, 5) && four.is_durable(0b111, 3) && !four.is_durable(0b011, 3));
        assert!(four.is_durable(0b11, 2) && !four.is_durable(0b01, 2) && !four.is_durable(0, 1));
        assert!(Coding::TwoPlusOne.is_durable(0b111, 3) && !Coding::TwoPlusOne.is_durable(0b110, 3));
        assert!(Coding::Whole.is_durable(0b011, 6) && !Coding::Whole.is_durable(0b11_1001, 6));
        assert!(Coding::Whole.is_durable(1, 1) && !Coding::Whole.is_durable(1, 2));
    }

    #[test]
    fn small_bodies_are_cut_evenly() {
        for (coding, bytes, chunk) in [
            (Coding::Whole, 5, 1 << 20),
            (Coding::FourPlusTwo, 1, 4096),
            (Coding::FourPlusTwo, 100_000, 28_672),
            (Coding::FourPlusTwo, 1 << 20, 1 << 18),
            (Coding::TwoPlusOne, 9 << 20, 1 << 19),
        ] {
            assert_eq!(coding.chunk_bytes(bytes), chunk, "{coding:?} {bytes}");
        }
    }

    proptest! {
        /// Every byte is in one data chunk, chunks lie where `chunks_at` says, and any shards but as many as there are of
        /// parity give all bytes back.
        #[test]
        fn what_is_lost_is_rebuilt(coding in 0..3_u8, bytes in 1..600_u64, chunk_bytes in 1..50_u32, owners in 1..8_usize,
            lost in any::<u16>(), seed in any::<u8>()) {
            let coding = Coding::from_number(coding).unwrap();
            let spread = spread(coding, bytes, chunk_bytes);
            let body: Vec<u8> = (0..bytes).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) ^ (at / 256) as u8).collect();
            let mut offset = 0;
            while offset < bytes {
                let (shard, stripe, begins) = spread.chunk_with(offset);
                prop_assert_eq!(begins, offset);
                offset += spread.bytes_of(shard, stripe);
            }
            let placed = (0..owners).flat_map(|place| spread.chunks_at(place, owners, 0..spread.stripes()));
            let ids: std::collections::BTreeSet<_> = placed.map(|(id, bytes)| (id.shard(), id.ordinal(), bytes)).collect();
            for stripe in 0..spread.stripes() {
                let chunk = |shard: usize| {
                    let begins = (stripe * spread.stripe_bytes()) as usize + shard * chunk_bytes as usize;
                    let length = spread.bytes_of(shard, stripe) as usize;
                    if length == 0 { Bytes::new() } else { Bytes::copy_from_slice(&body[begins..begins + length]) }
                };
                let mut shards: Vec<Bytes> = (0..coding.data()).map(chunk).collect();
                shards.extend(coding.parity(&shards));
                for (shard, chunk) in shards.iter().enumerate() {
                    let key = (shard, stripe as u32, chunk.len() as u64);
                    prop_assert!(chunk.is_empty() || ids.contains(&key), "{:?}", key);
                }
                let mut left: Vec<Option<Bytes>> = shards.iter().cloned().map(Some).collect();
                let most = coding.shards() - coding.data();
                (0..coding.shards()).filter(|shard| lost >> shard & 1 == 1).take(most).for_each(|shard| left[shard] = None);
                for (shard, chunk) in shards.iter().enumerate() {
                    let rebuilt = coding.rebuild(shard, &left, chunk.len()).unwrap();
                    prop_assert_eq!(&rebuilt, chunk);
                    // Any range of a chunk follows from the same range of others.
                    let half = chunk.len() / 2;
                    let cut = |part: &Bytes| part.slice(half.min(part.len())..);
                    let parts: Vec<_> = left.iter().map(|part| part.as_ref().map(cut)).collect();
                    prop_assert_eq!(coding.rebuild(shard, &parts, chunk.len() - half).unwrap(), chunk.slice(half..));
                }
                if coding != Coding::Whole {
                    let some = left.iter().position(Option::is_some).unwrap();
                    let few: Vec<_> = left.iter().enumerate().map(|(at, part)| part.clone().filter(|_| at == some)).collect();
                    let other = (some + 1) % coding.shards();
                    prop_assert_eq!(coding.rebuild(other, &few, 3), None);
                }
            }
        }
    }
}
