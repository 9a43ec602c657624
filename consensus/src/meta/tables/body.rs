//! Where the bytes of bodies are: payloads in the metadata, extents and bodies of several slices.
//! All rows live under their home, the (bucket, key) that named them first.

use bytes::Bytes;
use fabric::ids::{ExtentId, Stamp};

use super::{Table, table};
use crate::meta::model::{BodyRow, ExtentRow, Home};
use crate::meta::store::{Fault, TableId};

/// (bucket, key, stamp of the version) → payload of a small body, as it is. Missing: the version has no such body.
#[derive(Debug)]
pub struct Inline;

impl Table for Inline {
    const ID: TableId = TableId::INLINE;
    type Key<'a> = (&'a Home, Stamp);
    type Owned = (Home, Stamp);
    type Value = Bytes;

    fn encode_value(payload: &Bytes) -> Bytes {
        payload.clone()
    }

    fn decode_value(bytes: &Bytes) -> Result<Bytes, Fault> {
        Ok(bytes.clone())
    }
}

table! {
    /// (home, extent) → the extent and how many bodies and parts name it. Missing: nothing names it.
    Extents(EXTENTS): (&'a Home, ExtentId) | (Home, ExtentId) => ExtentRow
}

table! {
    /// (home, stamp of the version that made it) → slices and how many versions share them.
    Bodies(BODIES): (&'a Home, Stamp) | (Home, Stamp) => BodyRow
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fabric::ids::LayoutVersion;

    use super::*;
    use crate::meta::model::{Extent, Slice};
    use crate::meta::tables::testing::{extent_id, golden, home, stamp};

    #[test]
    fn golden_rows() {
        let home = home(5, "a/b");
        golden::<Inline>(
            (&home, stamp(9)),
            Bytes::from_static(b"payload"),
            "0000000000000005612f6200000100000000000000090002",
            "7061796c6f6164",
        );
        let extent = Extent {
            id: extent_id(3),
            bytes: 5 << 20,
            chunk_bytes: 1 << 20,
            layout: LayoutVersion(1),
            confirmed: 7,
        };
        golden::<Extents>(
            (&home, extent.id),
            ExtentRow { extent, references: 2 },
            "0000000000000005612f6200abcd0001000000070000000003000000",
            "018080809880808080808e808080a08080cdd7028080c002808040010702",
        );
        let slice = Slice {
            extent: extent_id(3),
            offset: 0,
            bytes: 5 << 20,
            part: 1,
            md5: [0x11; 16],
            checksum: None,
        };
        golden::<Bodies>(
            (&home, stamp(9)),
            BodyRow { slices: vec![slice], references: 1 },
            "0000000000000005612f6200000100000000000000090002",
            "01018080809880808080808e808080a08080cdd702008080c00201111111111111111111111111111111110001",
        );
    }
}
