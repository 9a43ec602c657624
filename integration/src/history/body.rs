//! Bodies that describe themselves: a read is judged by its bytes alone.
//!
//! Each block of 4 KiB begins with (write id, block number, CRC-32C of the block's rest); what follows is
//! expanded from them. So a torn body shows two ids, a shifted one a wrong number, a phantom an unknown id.

use bytes::Bytes;
use fabric::codec::crc32c;

const BLOCK_BYTES: usize = 4096;
const HEADER_BYTES: usize = 8 + 4 + 4;

/// The smallest body that can carry its id.
pub const BODY_BYTES_MIN: usize = HEADER_BYTES;

/// What is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Too short to carry an id.
    NoId,
    /// Blocks of two writes.
    Torn {
        /// Id in the first block.
        first: u64,
        /// The other id.
        other: u64,
    },
    /// A block at another place than it was written to.
    Shifted,
    /// The bytes of a block do not belong to its header.
    Corrupt,
}

/// The body of write `id`, of exactly `bytes` bytes (at least [`BODY_BYTES_MIN`]).
pub fn make(id: u64, bytes: usize) -> Bytes {
    assert!(bytes >= BODY_BYTES_MIN);
    let mut body = Vec::with_capacity(bytes);
    let mut block = 0;
    while body.len() < bytes {
        let length = (bytes - body.len()).min(BLOCK_BYTES);
        push_block(&mut body, id, block, length);
        block += 1;
    }
    Bytes::from(body)
}

fn push_block(body: &mut Vec<u8>, id: u64, block: u32, length: usize) {
    let rest: Vec<u8> = (HEADER_BYTES..length.max(HEADER_BYTES)).map(|at| filler(id, block, at)).collect();
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&id.to_le_bytes());
    header[8..12].copy_from_slice(&block.to_le_bytes());
    header[12..].copy_from_slice(&crc32c(&[&rest]).to_le_bytes());
    // A last block may be shorter than a header.
    body.extend_from_slice(&header[..HEADER_BYTES.min(length)]);
    body.extend_from_slice(&rest);
}

fn filler(id: u64, block: u32, at: usize) -> u8 {
    (id.wrapping_mul(31) as u8).wrapping_add((block as u8).wrapping_mul(7)).wrapping_add(at as u8)
}

/// Which write a whole body is from.
pub fn read(body: &[u8]) -> Result<u64, Flaw> {
    let Some(id) = body.get(..8).and_then(|id| id.try_into().ok()).map(u64::from_le_bytes) else {
        return Err(Flaw::NoId);
    };
    if body.len() < BODY_BYTES_MIN {
        return Err(Flaw::NoId);
    }
    let expected = make(id, body.len());
    if body == expected {
        return Ok(id);
    }
    for (number, block) in body.chunks(BLOCK_BYTES).enumerate() {
        if block.len() < HEADER_BYTES {
            continue;
        }
        let (found, place) = (&block[..8], &block[8..12]);
        if found != id.to_le_bytes() {
            let other = u64::from_le_bytes(found.try_into().expect("a slice of eight bytes"));
            return Err(Flaw::Torn { first: id, other });
        }
        if place != (number as u32).to_le_bytes() {
            return Err(Flaw::Shifted);
        }
    }
    Err(Flaw::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_its_write_and_its_flaws() {
        for bytes in [16, 17, 4095, 4096, 4097, 4100, 4112, 20_000] {
            assert_eq!(read(&make(7, bytes)), Ok(7), "{bytes}");
        }
        let (one, two) = (make(1, 12_288), make(2, 12_288));
        let torn = [&one[..4096], &two[4096..]].concat();
        assert_eq!(read(&torn), Err(Flaw::Torn { first: 1, other: 2 }));
        let shifted = [&one[..4096], &one[8192..]].concat();
        assert_eq!(read(&shifted), Err(Flaw::Shifted));
        let mut corrupt = one.to_vec();
        corrupt[5000] ^= 1;
        assert_eq!(read(&corrupt), Err(Flaw::Corrupt));
        assert_eq!(read(&one[..4]), Err(Flaw::NoId));
    }
}
