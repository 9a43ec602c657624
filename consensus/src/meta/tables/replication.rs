//! Copies of buckets.

use fabric::ids::{BucketId, SessionId};

use super::table;
use crate::meta::names::{BucketName, ClusterName};
use crate::meta::replication::{
    Acknowledged as AcknowledgedRow, Follow, Promotion, Superseded as SupersededRow,
};

table! {
    /// (bucket, cluster, bucket there) → how far the bucket follows that one.
    Follows(FOLLOWS): (BucketId, &'a ClusterName, &'a BucketName) | (BucketId, ClusterName, BucketName) => Follow
}

table! {
    /// The session that copies. It may have ended; then the next one that asks takes its place.
    Follower(FOLLOWER): () | () => SessionId
}

table! {
    /// Buckets whose owners want copies elsewhere.
    Replicating(REPLICATING): BucketId | BucketId => ()
}

table! {
    /// A bucket whose copy in another cluster took its place → that one. Nobody writes to it.
    Superseded(SUPERSEDED): BucketId | BucketId => SupersededRow
}

table! {
    /// (bucket, cluster, bucket there) → the first took the place of the second, whose cluster does not know yet.
    Promotions(PROMOTIONS): (BucketId, &'a ClusterName, &'a BucketName) | (BucketId, ClusterName, BucketName) => Promotion
}

table! {
    /// (bucket, cluster, bucket there) → how far the second, which its rules name, is as a copy of the first.
    Acknowledged(ACKNOWLEDGED): (BucketId, &'a ClusterName, &'a BucketName) | (BucketId, ClusterName, BucketName) => AcknowledgedRow
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::model::ClusterMs;
    use crate::meta::replication::{FollowKind, Source};
    use crate::meta::tables::testing::{golden, stamp};

    #[test]
    fn golden_rows() {
        let follow = Follow {
            kind: FollowKind::Replica,
            source: BucketId(7),
            cursor: stamp(9),
            reached: ClusterMs(1_000),
            compare: true,
            compared: stamp(8),
            since: ClusterMs(300),
            objects: 2,
            bytes: 600,
        };
        golden::<Follows>(
            (BucketId(5), &"east".parse().unwrap(), &"photos".parse().unwrap()),
            follow,
            "0000000000000005656173740070686f746f7300",
            "010107010902e80701010802ac0202d804",
        );
        golden::<Follower>((), SessionId { epoch: 1, number: 7 }, "", "010107");
        golden::<Replicating>(BucketId(5), (), "0000000000000005", "01");
        let by = Source { cluster: "west".parse().unwrap(), bucket: "mirror".parse().unwrap() };
        let superseded = SupersededRow { by, at: stamp(9), since: ClusterMs(300) };
        golden::<Superseded>(
            BucketId(5),
            superseded,
            "0000000000000005",
            "010477657374066d6972726f72010902ac02",
        );
        let promotion = Promotion { source: BucketId(7), cursor: stamp(9), since: ClusterMs(300) };
        golden::<Promotions>(
            (BucketId(5), &"east".parse().unwrap(), &"photos".parse().unwrap()),
            promotion,
            "0000000000000005656173740070686f746f7300",
            "0107010902ac02",
        );
        golden::<Acknowledged>(
            (BucketId(5), &"west".parse().unwrap(), &"copies".parse().unwrap()),
            AcknowledgedRow { first: stamp(8), upto: stamp(9) },
            "00000000000000057765737400636f7069657300",
            "01010802010902",
        );
    }
}
