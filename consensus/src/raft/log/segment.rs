//! The files of the log: numbered without gaps, filled with zeros before use, read in order when the log opens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fabric::disks::{Disks, File, OpenMode, full};

use super::record::{ALIGNMENT, HEADER_BYTES, Header};

/// Zeros are written in pieces of this size: larger ones leave the page cache with folios that make each
/// later small write and its sync slower.
const ZERO_BYTES: usize = 64 << 10;
/// Bytes read at once while scanning; holds the largest record.
const WINDOW_BYTES: usize = 2 << 20;
/// Zeros are told in runs of this size.
const ZERO_RUN_BYTES: usize = 256;

/// One file of the log.
#[derive(Clone)]
pub(super) struct Segment {
    pub number: u64,
    pub file: Arc<dyn File>,
}

/// Path of a segment.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}.log"))
}

/// Numbers of the segments in a directory, ascending. Other names are not ours and are left alone.
pub(super) fn list(disks: &dyn Disks, directory: &Path) -> io::Result<Vec<u64>> {
    let names = disks.list(directory)?;
    let number = |name: &String| name.strip_suffix(".log").filter(|text| text.len() == 20)?.parse().ok();
    Ok(names.iter().filter_map(number).collect())
}

/// Makes a segment that is ready to be written, if the disk has space for it and `reserve_bytes` more. Where it
/// cannot be made, nothing of it stays.
pub(super) fn prepare(
    disks: &dyn Disks,
    directory: &Path,
    number: u64,
    bytes: u64,
    reserve_bytes: u64,
) -> io::Result<Segment> {
    let free_bytes = disks.space(directory)?.free_bytes;
    if free_bytes < bytes + reserve_bytes {
        return Err(full(format!("a segment takes {bytes} bytes, and {free_bytes} are free")));
    }
    make(disks, directory, number, bytes).inspect_err(|_| {
        // It may not be there. Its name will be used again.
        let _ = disks.remove(&path(directory, number));
    })
}

/// Filled with zeros, contents and name durable.
fn make(disks: &dyn Disks, directory: &Path, number: u64, bytes: u64) -> io::Result<Segment> {
    let file = disks.open(&path(directory, number), OpenMode::New)?;
    if file.wants_filling() {
        zero(&*file, 0, bytes)?;
        file.sync_data()?;
    }
    disks.sync_dir(directory)?;
    Ok(Segment { number, file })
}

/// Fills a range with zeros.
pub(super) fn zero(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let zeros = [0; ZERO_BYTES];
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZERO_BYTES as u64);
        file.write_at(at, &zeros[..length as usize])?;
        at += length;
    }
    Ok(())
}

/// What stands at an offset.
pub(super) enum Found {
    /// A record and its payload.
    Record(Header, Vec<u8>),
    /// The header is intact, the payload is not.
    BadPayload(Header, Vec<u8>),
    /// No record that was written here.
    Nothing,
}

/// Reads a segment in order through a window.
pub(super) struct Scan<'a> {
    segment: &'a Segment,
    bytes: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scan<'a> {
    pub fn new(segment: &'a Segment) -> io::Result<Scan<'a>> {
        Ok(Scan { segment, bytes: segment.file.len()?, window: Vec::new(), window_at: 0 })
    }

    /// What stands at `offset`.
    pub fn at(&mut self, offset: u64) -> io::Result<Found> {
        let number = self.segment.number;
        match Header::decode(self.view(offset, HEADER_BYTES)?, number, offset) {
            Some(header) => self.behind(header),
            None => Ok(Found::Nothing),
        }
    }

    /// As [`Scan::at`], for a header that is known.
    pub fn behind(&mut self, header: Header) -> io::Result<Found> {
        let at = header.offset + HEADER_BYTES as u64;
        let payload = self.view(at, header.payload_bytes as usize)?.to_vec();
        Ok(if header.matches(&payload) {
            Found::Record(header, payload)
        } else {
            Found::BadPayload(header, payload)
        })
    }

    /// The header that stood at `offset`, if it can be told; see [`Header::mend`].
    pub fn mended(&mut self, offset: u64) -> io::Result<Option<Header>> {
        let number = self.segment.number;
        Ok(Header::mend(self.view(offset, HEADER_BYTES)?, number, offset))
    }

    /// The first intact header behind `offset`.
    pub fn next_header(&mut self, offset: u64) -> io::Result<Option<Header>> {
        let number = self.segment.number;
        let mut at = self.next_word(offset + ALIGNMENT)?;
        while at < self.bytes {
            if let Some(header) = Header::decode(self.view(at, HEADER_BYTES)?, number, at) {
                return Ok(Some(header));
            }
            at = self.next_word(at + ALIGNMENT)?;
        }
        Ok(None)
    }

    /// The largest batch of which an intact header stands at or after `offset`, and where the last byte that
    /// is not zero ends.
    pub fn remains(&mut self, offset: u64) -> io::Result<Remains> {
        let mut remains = Remains { batch: 0, batch_at: offset, end: offset };
        let number = self.segment.number;
        let mut at = self.next_word(offset.next_multiple_of(ALIGNMENT))?;
        while at < self.bytes {
            let found = Header::decode(self.view(at, HEADER_BYTES)?, number, at);
            if let Some(header) = found.filter(|header| header.batch >= remains.batch) {
                (remains.batch, remains.batch_at) = (header.batch, at);
            }
            remains.end = self.bytes.min(at + ALIGNMENT);
            at = self.next_word(remains.end)?;
        }
        Ok(remains)
    }

    /// The first word from `offset` on, which is aligned, that is not zero; the end of the segment where all are. No
    /// header begins with a zero, and most of a segment that was made ahead of need is zeros.
    fn next_word(&mut self, offset: u64) -> io::Result<u64> {
        let mut at = offset;
        while at < self.bytes {
            let rest = self.rest(at)?;
            let zeros = [0; ZERO_RUN_BYTES];
            let run = rest.chunks(ZERO_RUN_BYTES).position(|run| run != &zeros[..run.len()]);
            let Some(run) = run.map(|run| run * ZERO_RUN_BYTES) else {
                at += rest.len() as u64;
                continue;
            };
            let place = rest[run..].iter().position(|&byte| byte != 0).unwrap_or(0);
            return Ok(at + (run + place) as u64 / ALIGNMENT * ALIGNMENT);
        }
        Ok(self.bytes)
    }

    /// What the window holds from `offset` on, in whole words; the next window where that is nothing. Empty only at the
    /// end of the segment.
    fn rest(&mut self, offset: u64) -> io::Result<&[u8]> {
        let there =
            (self.window_at + self.window.len() as u64).saturating_sub(offset) / ALIGNMENT * ALIGNMENT;
        let in_window = self.window_at <= offset && there != 0;
        self.view(offset, if in_window { there as usize } else { WINDOW_BYTES })
    }

    /// Up to `length` bytes at `offset`; fewer where the file ends.
    fn view(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let end = (offset + length as u64).min(self.bytes);
        if end <= offset {
            return Ok(&[]);
        }
        if offset < self.window_at || self.window_at + (self.window.len() as u64) < end {
            let wanted = (self.bytes - offset).min(WINDOW_BYTES.max(length) as u64);
            self.window.resize(wanted as usize, 0);
            self.window_at = offset;
            self.segment.file.read_at(offset, &mut self.window)?;
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window[from..from + (end - offset) as usize])
    }
}

/// See [`Scan::remains`].
pub(super) struct Remains {
    /// 0 where there is none.
    pub batch: u64,
    /// Where the last header of that batch is.
    pub batch_at: u64,
    pub end: u64,
}
