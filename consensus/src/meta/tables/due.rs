//! What the rules of a bucket's lifecycle wait for.

use fabric::ids::{BucketId, Stamp};

use super::table;
use crate::meta::model::{ClusterMs, DueWalk, Home};

table! {
    /// (time, bucket, key, stamp of a version or id of an upload) → nothing: then a rule may be due, and not before. Rows
    /// of what is gone, or due later by now, do no harm. Missing: nothing will be due, or the bucket is in [`DueWalks`].
    Due(DUE): (ClusterMs, &'a Home, Stamp) | (ClusterMs, Home, Stamp) => ()
}

table! {
    /// Bucket id → how far its rows were walked for [`Due`]. Missing: to the end, or it has no rules.
    DueWalks(DUE_WALKS): BucketId | BucketId => DueWalk
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::meta::model::WalkStage;
    use crate::meta::tables::testing::{golden, home, stamp};

    #[test]
    fn golden_rows() {
        golden::<Due>(
            (ClusterMs(1_000), &home(5, "a/b"), stamp(9)),
            (),
            "00000000000003e80000000000000005612f6200000100000000000000090002",
            "01",
        );
        let walk = DueWalk { stage: WalkStage::Versions, after: Bytes::from_static(b"key") };
        golden::<DueWalks>(BucketId(5), walk, "0000000000000005", "0101036b6579");
    }
}
