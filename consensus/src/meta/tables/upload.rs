//! Multipart uploads.

use bytes::Bytes;
use fabric::ids::Stamp;

use super::{DecodeKey, EncodeKey, table};
use crate::meta::model::{Completed, Home, Part, Upload};
use crate::meta::sealing::Sealing;

table! {
    /// (bucket, key, upload) → an upload in progress. Missing: completed, aborted, or never begun.
    Uploads(UPLOADS): (&'a Home, Stamp) | (Home, Stamp) => Upload
}

table! {
    /// (bucket, key, upload, number) → a part. Its extent's home is the same (bucket, key).
    Parts(PARTS): (&'a Home, Stamp, u16) | (Home, Stamp, u16) => Part
}

table! {
    /// (bucket, key, upload) → how its parts are encrypted. Missing: they are not.
    UploadSealings(UPLOAD_SEALINGS): (&'a Home, Stamp) | (Home, Stamp) => Sealing
}

table! {
    /// (bucket, key, upload) → what a completed upload became; for 24 h, then it counts as missing.
    Completeds(COMPLETED): (&'a Home, Stamp) | (Home, Stamp) => Completed
}

table! {
    /// Name of a walk → the last key it visited. Missing: it begins at the front.
    Cursors(CURSORS): Cursor | Cursor => Bytes
}

/// Walks that `apply` does a few rows at a time. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Over [`Completeds`], for those that are old.
    Completeds = 1,
    /// Over [`super::Renames`], for those that are old.
    Renames = 2,
}

impl EncodeKey for Cursor {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
}

impl DecodeKey for Cursor {
    fn decode(input: &mut &[u8]) -> Option<Cursor> {
        match u8::decode(input)? {
            1 => Some(Cursor::Completeds),
            2 => Some(Cursor::Renames),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::model::{
        Attributes, Checksum, ChecksumAlgorithm, ChecksumKind, ClusterMs, Etag, Stored,
    };
    use crate::meta::sealing::{Frames, Scheme};
    use crate::meta::tables::testing::{extent_id, golden, home, stamp};

    #[test]
    fn golden_rows() {
        let key = home(5, "a/b");
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Sha256,
            kind: ChecksumKind::Composite,
            value: Bytes::from_static(&[0x44; 32]),
        };
        let upload = Upload {
            id: stamp(9),
            initiator: "anna".parse().unwrap(),
            initiated: ClusterMs(1_000),
            attributes: Attributes::default(),
            checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
        };
        golden::<Uploads>(
            (&key, stamp(9)),
            upload,
            "0000000000000005612f6200000100000000000000090002",
            "0101090204616e6e61e80700000000010401",
        );
        let sealing = Sealing {
            frames: Frames::Gcm,
            scheme: Scheme::Store { version: 1 },
            data_key: Bytes::from_static(b"key"),
        };
        golden::<UploadSealings>(
            (&key, stamp(9)),
            sealing,
            "0000000000000005612f6200000100000000000000090002",
            "01000001036b6579",
        );
        let part = Part {
            number: 258,
            bytes: 300,
            md5: [0x55; 16],
            checksum: Some(checksum.clone()),
            modified: ClusterMs(1_000),
            extent: Some(extent_id(3)),
        };
        golden::<Parts>(
            (&key, stamp(9), 258),
            part,
            "0000000000000005612f62000001000000000000000900020102",
            "018202ac0255555555555555555555555555555555010401204444444444444444444444444444444444444444444444444444444444444444e807018080809880808080808e808080a08080cdd702",
        );
        let stored = Stored {
            stamp: stamp(10),
            version_visible: true,
            etag: Etag::Multipart([0x66; 16], 2),
            modified: ClusterMs(1_000),
            bytes: 300,
            checksum: Some(checksum),
        };
        golden::<Completeds>(
            (&key, stamp(9)),
            Completed { stored, at: ClusterMs(1_000) },
            "0000000000000005612f6200000100000000000000090002",
            "01010a0201016666666666666666666666666666666602e807ac02010401204444444444444444444444444444444444444444444444444444444444444444e807",
        );
        golden::<Cursors>(Cursor::Completeds, Bytes::from_static(b"key"), "01", "01036b6579");
        golden::<Cursors>(Cursor::Renames, Bytes::from_static(b"key"), "02", "01036b6579");
    }
}
