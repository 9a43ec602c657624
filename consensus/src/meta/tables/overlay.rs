//! The overlay.

use super::table;
use crate::meta::names::{BucketName, ClusterName};
use crate::meta::overlay::{HeardBucket, Invite, Member, OverlayGrant, OverlayIdentity};

table! {
    /// Who this cluster is to others. Missing: it never was in an overlay.
    Identity(OVERLAY_IDENTITY): () | () => OverlayIdentity
}

table! {
    /// Name → another cluster, or one that left.
    Members(OVERLAY_MEMBERS): &'a ClusterName | ClusterName => Member
}

table! {
    /// Id → an invitation that nobody took. It may have expired.
    Invites(OVERLAY_INVITES): u128 | u128 => Invite
}

table! {
    /// (cluster, user or `*`) → what the cluster may do for the user.
    OverlayGrants(OVERLAY_GRANTS): (&'a ClusterName, String) | (ClusterName, String) => OverlayGrant
}

table! {
    /// (cluster, name) → a bucket there, as that cluster told last.
    Heard(OVERLAY_HEARD): (&'a ClusterName, &'a BucketName) | (ClusterName, BucketName) => HeardBucket
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::meta::model::ClusterMs;
    use crate::meta::overlay::{GrantedUser, Standing};
    use crate::meta::tables::testing::golden;

    #[test]
    fn golden_rows() {
        let name: ClusterName = "east".parse().unwrap();
        let identity = OverlayIdentity {
            name: name.clone(),
            sealed_key: Bytes::from_static(b"sealed"),
            since: ClusterMs(1_000),
        };
        golden::<Identity>((), identity, "", "010465617374067365616c6564e807");
        let member = Member {
            name: name.clone(),
            key: [7; 32],
            addresses: vec!["a:1".to_string()],
            serial: 300,
            via: Some("west".parse().unwrap()),
            since: ClusterMs(1_000),
            standing: Standing::In,
        };
        golden::<Members>(
            &name,
            member,
            "6561737400",
            "01046561737407070707070707070707070707070707070707070707070707070707070707070103613a31ac02010477657374e80700",
        );
        golden::<Invites>(
            9,
            Invite { secret_sha256: [3; 32], expires: ClusterMs(1_000) },
            "00000000000000000000000000000009",
            "010303030303030303030303030303030303030303030303030303030303030303e807",
        );
        let grant = OverlayGrant {
            cluster: name.clone(),
            user: GrantedUser::All,
            buckets: vec!["photos".parse().unwrap()],
            since: ClusterMs(1_000),
        };
        golden::<OverlayGrants>(
            (&name, "*".to_string()),
            grant,
            "65617374002a00",
            "01046561737401010670686f746f73e807",
        );
        let heard = HeardBucket {
            owner: Some("east/anna".parse().unwrap()),
            created: ClusterMs(1_000),
            objects: 3,
            bytes: 300,
            versioned: true,
            stale_seconds: Some(60),
            heard: ClusterMs(1_000),
        };
        golden::<Heard>(
            (&name, &"photos".parse().unwrap()),
            heard,
            "656173740070686f746f7300",
            "010109656173742f616e6e61e80703ac0201013ce807",
        );
    }
}
