//! Copies of buckets.

use fabric::ids::{BucketId, SessionId};

use super::table;
use crate::meta::names::{BucketName, ClusterName};
use crate::meta::replication::Follow;

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::model::ClusterMs;
    use crate::meta::replication::FollowKind;
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
    }
}
