//! What a cluster keeps of the overlay: who it is, which clusters it knows, whom it invited and what it granted.
//!
//! A cluster is its name and its key: what is signed with the key is said by the cluster. Both stay for ever.

use bytes::Bytes;
use fabric::ids::{BucketId, Stamp};
use serde::{Deserialize, Serialize};

use super::model::ClusterMs;
use super::names::{BucketName, ClusterName, UserName};
use super::replication::{FollowKind, Source};

/// An Ed25519 public key.
pub type PublicKey = [u8; 32];

/// Who this cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayIdentity {
    /// Its name, which is its region.
    pub name: ClusterName,
    /// Its private key, sealed under the cluster key (see `gateway::secrets`).
    pub sealed_key: Bytes,
    /// When it was drawn.
    pub since: ClusterMs,
}

/// Another cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: ClusterName,
    /// Its key.
    pub key: PublicKey,
    /// Where its gateways listen for clusters (`host:port`), as it said last.
    pub addresses: Vec<String>,
    /// Grows with each change that it tells of.
    pub serial: u64,
    /// Who introduced it; `None`: it joined here, or this cluster joined there.
    pub via: Option<ClusterName>,
    /// When it became one.
    pub since: ClusterMs,
    /// Whether it still is one.
    pub standing: Standing,
}

/// Whether a cluster is a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is.
    In,
    /// It was removed here: nobody but an invitation brings it back.
    Removed,
    /// It left: what it says of itself from then on brings it back.
    Left,
}

/// Somebody may join who knows the secret. Good for once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// Cluster time from which on it is not good any more.
    pub expires: ClusterMs,
}

/// What a cluster may do for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayGrant {
    /// The cluster that may act.
    pub cluster: ClusterName,
    /// For whom: a user of this cluster, or one of that (`CLUSTER/NAME`, with `CLUSTER/*` for each of them).
    pub user: GrantedUser,
    /// Where; empty: everywhere.
    pub buckets: Vec<BucketName>,
    /// Since when.
    pub since: ClusterMs,
}

/// Whom a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GrantedUser {
    /// One.
    One(UserName),
    /// Each user of the cluster that the grant is for.
    All,
}

impl OverlayGrant {
    /// Whether it lets the cluster act for this user in this bucket; `None`: where no bucket is named.
    pub fn allows(&self, user: &UserName, bucket: Option<&BucketName>) -> bool {
        let is_meant = match &self.user {
            GrantedUser::One(meant) => meant == user,
            GrantedUser::All => user.home() == Some(self.cluster.as_str()),
        };
        is_meant && (self.buckets.is_empty() || bucket.is_some_and(|bucket| self.buckets.contains(bucket)))
    }
}

/// A bucket of another cluster, as that told last. Kept so that a gateway which begins while that cluster is away knows of
/// it. Keyed (cluster, name).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardBucket {
    /// Who owns it, where that is told: a name with that of its cluster.
    pub owner: Option<UserName>,
    /// When it was created, in the time of its cluster.
    pub created: ClusterMs,
    /// Versions in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether versioning is enabled.
    pub versioned: bool,
    /// For how many seconds others may answer reads from memory while its home is away, where they may.
    pub stale_seconds: Option<u64>,
    /// When this was kept.
    pub heard: ClusterMs,
}

/// Where a walk over heard buckets goes on: behind this bucket, or with the first one of a cluster.
pub type HeardPlace = (ClusterName, Option<BucketName>);

/// All that a cluster keeps of the overlay, but for the buckets of others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OverlayState {
    /// Missing: it never was in an overlay.
    pub identity: Option<OverlayIdentity>,
    /// In order of name.
    pub members: Vec<Member>,
    /// Invitations that were not taken and did not expire.
    pub invites: u64,
    /// In order of cluster and user.
    pub grants: Vec<OverlayGrant>,
}

/// Changes to it. Done: [`super::command::Done::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverlayChange {
    /// The cluster draws its key, unless it has one.
    Found {
        /// Its name.
        name: ClusterName,
        /// Its private key, sealed.
        sealed_key: Bytes,
    },
    /// Somebody may join.
    Invite {
        /// Drawn.
        id: u128,
        /// SHA-256 of the secret, which is drawn, too.
        secret_sha256: [u8; 32],
        /// For how long.
        lifetime_ms: u64,
    },
    /// A cluster is a member from now on, or says that it is elsewhere. `since` is set here.
    Admit {
        /// The invitation that it takes, with the SHA-256 of what it knows; `None`: a member speaks for it.
        invite: Option<(u128, [u8; 32])>,
        /// This cluster took the invitation of the member.
        joined: bool,
        /// The cluster.
        member: Member,
    },
    /// A cluster is no member any more, by the word of those who run this one. Nothing is granted to it.
    Remove(ClusterName),
    /// A cluster may act for a user, in place of what it might before.
    Grant(OverlayGrant),
    /// It may not any more.
    Revoke {
        /// Which cluster.
        cluster: ClusterName,
        /// For whom.
        user: GrantedUser,
    },
    /// This cluster leaves: nobody is a member, nothing is granted, and no invitation is good.
    Leave,
    /// A cluster said that it leaves.
    Left {
        /// Which one.
        cluster: ClusterName,
        /// What it says with a greater one is said since.
        serial: u64,
    },
    /// A bucket here follows one of another cluster; one that does already goes on.
    Follow {
        /// The copy.
        bucket: BucketId,
        /// What it follows.
        source: Source,
        /// Why.
        kind: FollowKind,
        /// Number of the bucket there.
        source_id: BucketId,
        /// What happened later is copied.
        cursor: Stamp,
    },
    /// It does not any more.
    Unfollow {
        /// The copy.
        bucket: BucketId,
        /// What it follows.
        source: Source,
        /// Only if it is here; `None`: wherever it is.
        cursor: Option<Stamp>,
    },
    /// What other clusters have is kept as they told it, at most [`fabric::limits::HEARD_PER_COMMAND`] buckets. `heard` is
    /// set here; buckets of clusters that are no members are not kept.
    Heard {
        /// They have these.
        there: Vec<(ClusterName, BucketName, HeardBucket)>,
        /// They have these no longer.
        gone: Vec<(ClusterName, BucketName)>,
    },
    /// A mirror is a bucket like any other from now on, in place of the one that it followed. Its versions come behind all
    /// that it copied.
    Promote {
        /// The copy.
        bucket: BucketId,
        /// What it followed.
        source: Source,
        /// Only if it is here; `None`: wherever it is, and the cluster of the source is still to hear of it.
        cursor: Option<Stamp>,
    },
    /// That cluster heard of it, or there is nothing to tell it any more.
    Told {
        /// The bucket that was a copy.
        bucket: BucketId,
        /// What it followed.
        source: Source,
    },
    /// A copy in another cluster takes the place of a bucket here: nobody writes to it any more.
    Supersede {
        /// Which one.
        bucket: BucketId,
        /// By which copy. Another one than before is refused.
        by: Source,
        /// The last event that the copy has; `None`: it copies all that happened until now.
        at: Option<Stamp>,
    },
    /// A bucket is written to again.
    Reopen {
        /// Which one.
        bucket: BucketId,
    },
    /// A copy that the rules of a bucket here want is there; refused where they do not want it.
    Acknowledge {
        /// Which bucket.
        bucket: BucketId,
        /// The copy.
        to: Source,
        /// The last event that it has, or that is of no interest there.
        upto: Stamp,
    },
}

/// Why a change is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OverlayRefusal {
    /// It never drew a key.
    #[error("this cluster has no identity yet")]
    NoIdentity,
    /// It has another name.
    #[error("this cluster is known to others by another name")]
    OtherName,
    /// Never made, taken, or expired; or the secret is another.
    #[error("the invitation is not good: it expired, or was taken, or never was")]
    BadInvite,
    /// The name is taken.
    #[error("another cluster of the overlay has this name")]
    NameTaken,
    /// The key is that of a cluster with another name.
    #[error("a cluster with another name has this key")]
    KeyTaken,
    /// It left or was removed.
    #[error("the cluster left; an invitation brings it back")]
    Gone,
    /// Not a member.
    #[error("there is no such cluster in the overlay")]
    NotMember,
    /// Nothing of the kind was granted.
    #[error("nothing of the kind was granted")]
    NotGranted,
    /// As many as there can be.
    #[error("there are as many as there can be")]
    TooMany,
    /// A copy keeps versions.
    #[error("versioning of the bucket is not enabled")]
    NotVersioned,
    /// A copy has one source, or others write to it.
    #[error("the bucket follows another one already")]
    FollowsOther,
    /// Nothing of the kind.
    #[error("the bucket follows no such bucket")]
    NotFollowed,
    /// The copy is further, or not as far, or to be compared first.
    #[error("the copy is at another place by now")]
    Moved,
    /// Nobody writes to a copy.
    #[error(
        "the bucket is a copy of one in another cluster, which is written there; overlay promote ends that"
    )]
    IsCopy,
    /// The first copy that took its place is the one.
    #[error("another copy took the place of the bucket before; overlay list there says which")]
    SupersededByOther,
    /// It is written to.
    #[error("no copy took the place of the bucket")]
    NotSuperseded,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_for_users_and_buckets() {
        let grant = |user, buckets: &[&str]| OverlayGrant {
            cluster: "east".parse().unwrap(),
            user,
            buckets: buckets.iter().map(|name| name.parse().unwrap()).collect(),
            since: ClusterMs(0),
        };
        let name = |text: &str| text.parse::<UserName>().unwrap();
        let bucket = |text: &str| text.parse::<BucketName>().unwrap();
        let one = grant(GrantedUser::One(name("anna")), &["photos"]);
        assert!(one.allows(&name("anna"), Some(&bucket("photos"))));
        assert!(!one.allows(&name("anna"), Some(&bucket("other"))) && !one.allows(&name("anna"), None));
        assert!(!one.allows(&name("east/anna"), Some(&bucket("photos"))));
        let all = grant(GrantedUser::All, &[]);
        assert!(
            all.allows(&name("east/bob"), None) && all.allows(&name("east/eve"), Some(&bucket("photos")))
        );
        assert!(!all.allows(&name("anna"), None) && !all.allows(&name("west/bob"), None));
    }
}
