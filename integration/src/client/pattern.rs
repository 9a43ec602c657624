//! Bodies that need no memory: byte `i` is a function of (seed, i).

/// `length` bytes of the pattern `seed`, from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Which pattern.
    pub seed: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Words of eight bytes that are alike, one behind the other; with more than one the bytes compress.
    pub alike: u64,
}

impl Pattern {
    /// `length` bytes of the pattern `seed` from its beginning.
    pub fn new(seed: u64, length: u64) -> Pattern {
        Pattern::slice(seed, 0, length)
    }

    /// `length` bytes of the pattern `seed` from `offset` on.
    pub fn slice(seed: u64, offset: u64, length: u64) -> Pattern {
        Pattern { seed, offset, length, alike: 1 }
    }

    /// The same length in bytes that a compressing file system keeps in a small part of it.
    pub fn compressible(self) -> Pattern {
        Pattern { alike: 64, ..self }
    }

    /// Fills `into` with the bytes from `position` (relative to the offset) on.
    pub fn fill(&self, position: u64, into: &mut [u8]) {
        let mut at = self.offset + position;
        let mut rest = into;
        while !rest.is_empty() {
            let word = word(self.seed, at / 8 / self.alike).to_le_bytes();
            let from = (at % 8) as usize;
            let count = rest.len().min(8 - from);
            rest[..count].copy_from_slice(&word[from..from + count]);
            at += count as u64;
            rest = &mut rest[count..];
        }
    }

    /// All bytes. For small patterns.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.fill(0, &mut bytes);
        bytes
    }
}

/// SplitMix64 of the word's position: cheap, and no two words of a file are alike.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Compares a stream of bytes with a pattern as they arrive.
#[derive(Debug)]
pub struct PatternCheck {
    pattern: Pattern,
    received: u64,
    first_difference: Option<u64>,
    buffer: Vec<u8>,
}

impl PatternCheck {
    /// Expects exactly `pattern`.
    pub fn new(pattern: Pattern) -> PatternCheck {
        PatternCheck { pattern, received: 0, first_difference: None, buffer: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.resize(bytes.len(), 0);
        self.pattern.fill(self.received, &mut self.buffer);
        if self.first_difference.is_none() && self.buffer != bytes {
            let at = self.buffer.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            self.first_difference = Some(self.received + at as u64);
        }
        self.received += bytes.len() as u64;
    }

    /// An error that says where the first difference is, or that the length differs.
    pub fn finish(&self) -> Result<(), String> {
        if let Some(at) = self.first_difference {
            return Err(format!("byte {at} differs"));
        }
        if self.received != self.pattern.length {
            return Err(format!("{} bytes of {}", self.received, self.pattern.length));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, PatternCheck};

    #[test]
    fn a_slice_of_a_pattern_is_the_pattern_of_the_slice() {
        let whole = Pattern::new(7, 1000).bytes();
        let mut part = vec![0; 333];
        Pattern::new(7, 1000).fill(123, &mut part);
        assert_eq!(&whole[123..456], part.as_slice());
        let moved = Pattern::slice(7, 123, 333).bytes();
        assert_eq!(moved, part);
    }

    #[test]
    fn a_changed_byte_is_found() {
        let mut bytes = Pattern::new(7, 100).bytes();
        bytes[77] ^= 1;
        let mut check = PatternCheck::new(Pattern::new(7, 100));
        check.push(&bytes[..50]);
        check.push(&bytes[50..]);
        assert_eq!(check.finish(), Err("byte 77 differs".to_string()));
    }
}
