//! The simulator's randomness: a stream of numbers from one seed.
//!
//! Streams are split by name, so that a draw in one place does not move the draws in another.

use std::collections::VecDeque;
use std::sync::Mutex;

/// A seeded stream of numbers (SplitMix64). Shared by clones of an `Arc`.
pub struct SimRandom {
    state: Mutex<State>,
}

struct State {
    /// What the next numbers are.
    told: VecDeque<u8>,
    stream: u64,
}

impl SimRandom {
    /// The stream of `seed` for the use `name`.
    pub fn new(seed: u64, name: &str) -> SimRandom {
        let mut state = seed ^ 0x5851_F42D_4C95_7F2D;
        for byte in name.bytes() {
            state = mix(state.wrapping_add(u64::from(byte)));
        }
        SimRandom { state: Mutex::new(State { told: VecDeque::new(), stream: state }) }
    }

    /// Numbers that are told, two bytes each, and then the stream of seed 0: who changes a byte changes one choice.
    pub fn told(bytes: &[u8], name: &str) -> SimRandom {
        let random = SimRandom::new(0, name);
        random.state.lock().expect("no holder of this lock can panic").told = bytes.iter().copied().collect();
        random
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut state = self.state.lock().expect("no holder of this lock can panic");
        if let Some(low) = state.told.pop_front() {
            return u64::from(u16::from_le_bytes([low, state.told.pop_front().unwrap_or(0)]));
        }
        state.stream = state.stream.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(state.stream)
    }

    /// A number below `bound` (which is above 0).
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0);
        self.next() % bound
    }

    /// A number in `low..=high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the choices.
    pub fn pick<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// Fills `into`.
    pub fn fill(&self, into: &mut [u8]) {
        for part in into.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
