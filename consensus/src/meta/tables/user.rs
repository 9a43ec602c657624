//! Users and their access keys.

use super::table;
use crate::meta::model::{AccessKey, User, UserQuota};
use crate::meta::names::{AccessKeyId, PolicyName, UserName};

table! {
    /// Name → user.
    Users(USERS): &'a UserName | UserName => User
}

table! {
    /// Key id → key with its sealed secret. Missing: unknown or removed.
    AccessKeys(ACCESS_KEYS): &'a AccessKeyId | AccessKeyId => AccessKey
}

table! {
    /// (user, key id) → nothing: which keys a user has.
    KeysByUser(KEYS_BY_USER): (&'a UserName, &'a AccessKeyId) | (UserName, AccessKeyId) => ()
}

table! {
    /// Name → what the buckets of a user may hold together, and what they hold. Missing: as much as fits.
    UserQuotas(USER_QUOTAS): &'a UserName | UserName => UserQuota
}

table! {
    /// (user, name) → a policy of the user, as it came. A user without any may do everything with its own buckets.
    UserPolicies(USER_POLICIES): (&'a UserName, &'a PolicyName) | (UserName, PolicyName) => String
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::meta::model::{ClusterMs, Quota, Usage};
    use crate::meta::tables::testing::golden;

    #[test]
    fn golden_rows() {
        let (name, id): (UserName, AccessKeyId) = ("anna".parse().unwrap(), "FLUFFY1".parse().unwrap());
        golden::<Users>(
            &name,
            User { name: name.clone(), created: ClusterMs(1_000), buckets: 3 },
            "616e6e6100",
            "0104616e6e61e80703",
        );
        let key = AccessKey {
            id: id.clone(),
            user: name.clone(),
            sealed_secret: Bytes::from_static(b"sealed"),
            created: ClusterMs(1_000),
        };
        golden::<AccessKeys>(&id, key, "464c554646593100", "0107464c554646593104616e6e61067365616c6564e807");
        golden::<KeysByUser>((&name, &id), (), "616e6e6100464c554646593100", "01");
        let row = UserQuota {
            quota: Quota { objects: Some(7), bytes: None },
            usage: Usage { objects: 3, bytes: 300, uploads: 1, part_bytes: 5 },
        };
        golden::<UserQuotas>(&name, row, "616e6e6100", "0101070003ac020105");
        let policy: PolicyName = "read".parse().unwrap();
        golden::<UserPolicies>((&name, &policy), "{}".to_string(), "616e6e61007265616400", "01027b7d");
    }
}
