//! Which volumes there are, in a small file beside them, so that one that is gone is missed.
//!
//! What always holds: a volume is listed, synced, before it takes its first chunk; a volume that was listed and is
//! not there, or cannot be opened for good, is a *loss*: its chunks are owed. Losses are counted, and remembered as
//! untold until the metadata knows of them. A directory without the file is a loss, too: it is new, or was emptied.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use fabric::Seams;
use fabric::codec;
use fabric::disks::{Disks, read_small, write_small};
use fabric::ids::NodeId;
use serde::{Deserialize, Serialize};

/// Name of the file.
const FILE: &str = "volumes";
const FORMAT: u8 = 1;
/// Bytes of the file: room for a million volumes.
const BYTES_MAX: u64 = 8 << 20;
/// A read that fails may be a hiccup; after so many the file is given up.
const READS_MAX: usize = 3;

/// What is known of the volumes. Stored: append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    node: NodeId,
    /// Numbers of the volumes that may hold chunks.
    volumes: BTreeSet<u32>,
    /// The number of the next new one; never one that was used.
    next: u32,
    /// Losses so far.
    losses: u64,
    /// Of these, the metadata knows of so many.
    told: u64,
}

/// See the file's head.
pub(super) struct Record {
    seams: Seams,
    path: PathBuf,
    state: RwLock<State>,
    /// Taken by whoever writes the file.
    writing: Mutex<()>,
}

impl Record {
    /// Reads the file and compares it with the volumes that are `present`. Blocks.
    pub(super) fn open(
        seams: &Seams,
        directory: &Path,
        node: NodeId,
        present: &BTreeSet<u32>,
    ) -> io::Result<Record> {
        let path = directory.join(FILE);
        let stored = read(&*seams.disks, &path, node);
        let mut state = stored.clone().unwrap_or_else(|| State {
            node,
            volumes: present.clone(),
            next: 1,
            losses: 1,
            told: 0,
        });
        let gone: Vec<u32> = state.volumes.difference(present).copied().collect();
        if !gone.is_empty() {
            tracing::error!(volumes = ?gone, "chunk volumes are gone; their chunks are copied again");
            metrics::counter!("fluffy_chunk_volumes_lost_total").increment(gone.len() as u64);
            state.volumes.retain(|number| present.contains(number));
            state.losses += 1;
        }
        state.next = state.next.max(present.last().map_or(1, |last| last + 1));
        if stored.as_ref() != Some(&state) {
            write(&*seams.disks, &path, &state)?;
        }
        Ok(Record { seams: seams.clone(), path, state: RwLock::new(state), writing: Mutex::default() })
    }

    /// Whether the volume may hold chunks.
    pub(super) fn lists(&self, volume: u32) -> bool {
        self.state().volumes.contains(&volume)
    }

    /// The number of the next new volume.
    pub(super) fn next(&self) -> u32 {
        self.state().next
    }

    /// The number of the last loss, while the metadata does not know of it.
    pub(super) fn untold(&self) -> Option<u64> {
        let state = self.state();
        (state.told < state.losses).then_some(state.losses)
    }

    /// The volume takes chunks from now on. Blocks.
    pub(super) fn list(&self, volume: u32) -> io::Result<()> {
        self.change(|state| {
            state.volumes.insert(volume);
            state.next = state.next.max(volume + 1);
        })
    }

    /// The volume is empty and takes no more chunks: that it is gone is no loss from now on. Blocks.
    pub(super) fn unlist(&self, volume: u32) -> io::Result<()> {
        if !self.lists(volume) {
            return Ok(());
        }
        self.change(|state| {
            state.volumes.remove(&volume);
        })
    }

    /// The volume is lost. One that was never listed held nothing. Blocks.
    pub(super) fn lose(&self, volume: u32) -> io::Result<()> {
        if !self.lists(volume) {
            return Ok(());
        }
        self.change(|state| {
            state.volumes.remove(&volume);
            state.losses += 1;
        })
    }

    /// A volume that stays listed counts as lost for now. Blocks.
    pub(super) fn owe(&self) -> io::Result<()> {
        self.change(|state| state.losses += 1)
    }

    /// The metadata knows of this loss and those before. Blocks.
    pub(super) fn tell(&self, loss: u64) -> io::Result<()> {
        self.change(|state| state.told = state.told.max(loss))
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        change(&mut state);
        write(&*self.seams.disks, &self.path, &state)?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `None`: the file is not there, or says nothing that could be relied on.
fn read(disks: &dyn Disks, path: &Path, node: NodeId) -> Option<State> {
    let mut tries = 0;
    let bytes = loop {
        tries += 1;
        match read_small(disks, path, BYTES_MAX) {
            Ok(bytes) => break bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) if tries == READS_MAX => {
                tracing::error!(path = %path.display(), %error, "read the list of volumes");
                return None;
            }
            Err(_) => {}
        }
    };
    match codec::decode_sealed::<State>(FORMAT, "list of volumes", &bytes) {
        Ok(state) if state.node == node => Some(state),
        Ok(state) => {
            tracing::error!(path = %path.display(), node = %state.node, "the list of volumes is of another node");
            None
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the list of volumes is rotten");
            None
        }
    }
}

fn write(disks: &dyn Disks, path: &Path, state: &State) -> io::Result<()> {
    write_small(disks, path, &codec::encode_sealed(FORMAT, state))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use fabric::disks::{MemoryDisks, OpenMode};
    use fabric::env::SystemEnv;
    use fabric::net::LocalNet;

    use super::*;

    const DIRECTORY: &str = "/data/chunks";

    fn seams() -> Seams {
        let disks = Arc::new(MemoryDisks::new(1 << 20));
        disks.create_dir(Path::new(DIRECTORY)).unwrap();
        Seams { env: Arc::new(SystemEnv::default()), net: Arc::new(LocalNet::default()), disks }
    }

    fn open(seams: &Seams, present: &[u32]) -> Record {
        Record::open(seams, Path::new(DIRECTORY), NodeId(7), &present.iter().copied().collect()).unwrap()
    }

    #[test]
    fn keeps_its_format() {
        let state = State { node: NodeId(7), volumes: [1, 300].into(), next: 301, losses: 2, told: 1 };
        let bytes = codec::encode_sealed(FORMAT, &state);
        let decode = |bytes: &[u8]| codec::decode_sealed::<State>(FORMAT, "list of volumes", bytes);
        assert_eq!(hex::encode(&bytes[..bytes.len() - 4]), "01070201ac02ad020201");
        assert_eq!(decode(&bytes).unwrap(), state);
        for place in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[place] ^= 4;
            assert!(decode(&rotten).is_err());
        }
    }

    #[test]
    fn a_volume_that_is_gone_is_a_loss_until_it_is_told() {
        let seams = seams();
        let record = open(&seams, &[]);
        assert_eq!((record.untold(), record.next()), (Some(1), 1), "a new directory may have been emptied");
        record.tell(1).unwrap();
        record.list(1).unwrap();
        record.list(2).unwrap();
        drop(record);
        let record = open(&seams, &[1, 2]);
        assert_eq!((record.untold(), record.next()), (None, 3));
        drop(record);
        let record = open(&seams, &[1]);
        assert_eq!((record.untold(), record.next()), (Some(2), 3), "a number is never used again");
        assert!(record.lists(1) && !record.lists(2));
        drop(record);
        let record = open(&seams, &[1]);
        assert_eq!(record.untold(), Some(2), "it is remembered over a restart");
        record.tell(2).unwrap();
        record.lose(9).unwrap();
        assert_eq!(record.untold(), None, "what was never listed held nothing");
        record.list(2).unwrap();
        record.unlist(2).unwrap();
        assert_eq!((open(&seams, &[1]).untold(), record.next()), (None, 3), "an empty one is no loss");
        record.lose(1).unwrap();
        assert_eq!(open(&seams, &[]).untold(), Some(3));
    }

    #[test]
    fn without_the_file_everything_is_in_doubt() {
        let seams = seams();
        let record = open(&seams, &[]);
        record.tell(1).unwrap();
        record.list(4).unwrap();
        let file = seams.disks.open(&Path::new(DIRECTORY).join(FILE), OpenMode::Existing).unwrap();
        file.write_at(3, b"rot").unwrap();
        let record = open(&seams, &[4]);
        assert_eq!((record.untold(), record.lists(4), record.next()), (Some(1), true, 5));
    }
}
