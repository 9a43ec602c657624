//! How far the scrub of this node is, in a small file beside the volumes.
//!
//! The file decides nothing but where reading goes on. One that is gone or rotten begins a new round.

use std::io;
use std::path::Path;

use fabric::codec;
use fabric::disks::{Disks, read_small, write_small};
use fabric::ids::ChunkId;
use serde::{Deserialize, Serialize};

/// Name of the file.
const FILE: &str = "scrub";
const FORMAT: u8 = 1;
const BYTES_MAX: u64 = 4 << 10;

/// How far the scrub is. Stored: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubMark {
    /// Chunks up to this one were read in the present round.
    pub after: Option<ChunkId>,
    /// When the present round began (wall clock, ms) …
    pub began_ms: u64,
    /// … and the one before.
    pub previous_began_ms: u64,
}

impl ScrubMark {
    /// How much of the round is done, 0 to 1: ids begin with a hash.
    pub fn done(&self) -> f64 {
        self.after.map_or(0.0, |chunk| f64::from(chunk.extent().hash()) / 65_536.0)
    }
}

/// `None`: there is none that could be relied on. Blocks.
pub(super) fn read(disks: &dyn Disks, directory: &Path) -> Option<ScrubMark> {
    let bytes = read_small(disks, &directory.join(FILE), BYTES_MAX).ok()?;
    decode(&bytes)
}

/// Blocks.
pub(super) fn write(disks: &dyn Disks, directory: &Path, mark: &ScrubMark) -> io::Result<()> {
    write_small(disks, &directory.join(FILE), &codec::encode_sealed(FORMAT, mark))
}

fn decode(bytes: &[u8]) -> Option<ScrubMark> {
    codec::decode_sealed(FORMAT, "mark of the scrub", bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::disks::MemoryDisks;
    use fabric::ids::{ExtentId, SessionId};

    use super::*;

    #[test]
    fn it_keeps_its_format_and_a_rotten_one_counts_for_nothing() {
        let (disks, directory) = (MemoryDisks::new(1 << 20), Path::new("/data"));
        disks.create_dir(directory).unwrap();
        assert_eq!(read(&disks, directory), None);
        let chunk = ExtentId::new(0xABCD, SessionId { epoch: 1, number: 2 }, 3).chunk(4);
        let mark = ScrubMark { after: Some(chunk), began_ms: 300, previous_began_ms: 2 };
        write(&disks, directory, &mark).unwrap();
        assert_eq!(read(&disks, directory), Some(mark));
        let bytes = codec::encode_sealed(FORMAT, &mark);
        assert!(hex::encode(&bytes).starts_with("010184808098808080808084808080a08080cdd702ac0202"));
        let rotten: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
        assert_eq!(decode(&rotten), None);
    }
}
