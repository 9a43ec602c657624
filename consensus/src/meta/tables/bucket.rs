//! Buckets: the row, the ways to find it, and what it holds in numbers.

use fabric::ids::BucketId;

use super::table;
use crate::meta::model::{Bucket, BucketSetting, Quota, Usage};
use crate::meta::names::{BucketName, UserName};

table! {
    /// Bucket id → the bucket. Missing: it never was, or was deleted; ids are never reused.
    Buckets(BUCKETS): BucketId | BucketId => Bucket
}

table! {
    /// Name → id of the bucket that has it now. In order of name, as ListBuckets promises.
    BucketNames(BUCKET_NAMES): &'a BucketName | BucketName => BucketId
}

table! {
    /// (owner, name) → id, so that a user with few buckets is listed by few rows.
    BucketsByOwner(BUCKETS_BY_OWNER): (&'a UserName, &'a BucketName) | (UserName, BucketName) => BucketId
}

table! {
    /// Bucket id → objects, bytes and uploads in it. Present as long as the bucket is.
    Usages(USAGE): BucketId | BucketId => Usage
}

table! {
    /// Bucket id → what it may hold. Missing: as much as fits.
    BucketQuotas(BUCKET_QUOTAS): BucketId | BucketId => Quota
}

table! {
    /// (bucket id, number of the kind) → what the owner set. Missing: nothing.
    BucketSettings(BUCKET_SETTINGS): (BucketId, u16) | (BucketId, u16) => BucketSetting
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::acl::{Grant, Grantee, ObjectOwnership, Permission};
    use crate::meta::lifecycle::{
        Expiration, FilterForm, Lifecycle, LifecycleFilter, LifecycleRule, NoncurrentExpiration,
        TransitionMinimum,
    };
    use crate::meta::model::{
        ClusterMs, CorsRule, DefaultEncryption, DefaultKey, DefaultRetention, ObjectLock, Placed, PlacedWhy,
        PublicAccessBlock, RetentionMode, Versioning,
    };
    use crate::meta::tables::testing::golden;
    use crate::meta::website::{Protocol, Redirect, Replace, RoutingRule, Website};

    #[test]
    fn golden_rows() {
        let (name, owner): (BucketName, UserName) = ("photos".parse().unwrap(), "anna".parse().unwrap());
        let bucket = Bucket {
            id: BucketId(5),
            name: name.clone(),
            owner: owner.clone(),
            created: ClusterMs(1_000),
            epoch: 1,
            versioning: Versioning::Suspended,
        };
        golden::<Buckets>(BucketId(5), bucket, "0000000000000005", "01050670686f746f7304616e6e61e8070102");
        golden::<BucketNames>(&name, BucketId(5), "70686f746f7300", "0105");
        golden::<BucketsByOwner>((&owner, &name), BucketId(5), "616e6e610070686f746f7300", "0105");
        golden::<Usages>(
            BucketId(5),
            Usage { objects: 3, bytes: 300, uploads: 1, part_bytes: 5 },
            "0000000000000005",
            "0103ac020105",
        );
        let quota = Quota { objects: None, bytes: Some(300) };
        golden::<BucketQuotas>(BucketId(5), quota, "0000000000000005", "010001ac02");
        let tags = BucketSetting::Tags(vec![("k".to_string(), "v".to_string())]);
        golden::<BucketSettings>((BucketId(5), 0), tags, "00000000000000050000", "010001016b0176");
        let block = PublicAccessBlock { block_public_acls: true, ..PublicAccessBlock::default() };
        golden::<BucketSettings>(
            (BucketId(5), 3),
            BucketSetting::PublicAccessBlock(block),
            "00000000000000050003",
            "010301000000",
        );
        golden::<BucketSettings>(
            (BucketId(5), 4),
            BucketSetting::OwnerEnforced,
            "00000000000000050004",
            "0104",
        );
        golden::<BucketSettings>(
            (BucketId(5), 5),
            BucketSetting::Policy("{}".to_string()),
            "00000000000000050005",
            "0105027b7d",
        );
        let key = Some(DefaultKey::Named(Some("k".to_string())));
        golden::<BucketSettings>(
            (BucketId(5), 7),
            BucketSetting::Encryption(DefaultEncryption { key, bucket_key: true, no_customer_keys: false }),
            "00000000000000050007",
            "0107010101016b0100",
        );
        golden::<BucketSettings>(
            (BucketId(5), 12),
            BucketSetting::StorageClass("STANDARD_IA".to_string()),
            "0000000000000005000c",
            "010d0b5354414e444152445f4941",
        );
        golden::<BucketSettings>(
            (BucketId(5), 14),
            BucketSetting::Staleness(300),
            "0000000000000005000e",
            "0110ac02",
        );
        let placed = Placed { via: "east".parse().unwrap(), why: PlacedWhy::Load };
        golden::<BucketSettings>(
            (BucketId(5), 15),
            BucketSetting::Placed(placed),
            "0000000000000005000f",
            "0111046561737402",
        );
        let default = DefaultRetention { mode: RetentionMode::Compliance, days: 300, in_years: false };
        golden::<BucketSettings>(
            (BucketId(5), 2),
            BucketSetting::ObjectLock(ObjectLock { default: Some(default) }),
            "00000000000000050002",
            "01020101ac0200",
        );
        let rule = CorsRule {
            id: Some("i".to_string()),
            origins: vec!["*".to_string()],
            methods: vec!["GET".to_string()],
            headers: vec!["h".to_string()],
            expose: vec!["e".to_string()],
            max_age_seconds: Some(300),
        };
        golden::<BucketSettings>(
            (BucketId(5), 1),
            BucketSetting::Cors(vec![rule]),
            "00000000000000050001",
            "01010101016901012a010347455401016801016501ac02",
        );
        let filter = LifecycleFilter {
            form: FilterForm::And,
            prefix: Some("p".to_string()),
            tags: vec![("k".to_string(), "v".to_string())],
            larger_than: Some(300),
            smaller_than: Some(400),
        };
        let rule = LifecycleRule {
            id: "i".to_string(),
            enabled: true,
            filter,
            expiration: Some(Expiration::Days(300)),
            noncurrent: Some(NoncurrentExpiration { days: 3, newer_versions: Some(2) }),
            abort_uploads_days: Some(4),
        };
        let transition_minimum = TransitionMinimum::AllClasses128K;
        let transitions = Vec::new();
        let rules = Lifecycle { rules: vec![rule], day_ms: 86_400_000, transition_minimum, transitions };
        golden::<BucketSettings>(
            (BucketId(5), 6),
            BucketSetting::Lifecycle(rules),
            "00000000000000050006",
            "0106010169010201017001016b017601ac020190030100ac0201030102010480b8992900",
        );
        for (ownership, bytes) in
            [(ObjectOwnership::BucketOwnerPreferred, "010900"), (ObjectOwnership::ObjectWriter, "010901")]
        {
            let setting = BucketSetting::ObjectOwnership(ownership);
            golden::<BucketSettings>((BucketId(5), 4), setting, "00000000000000050004", bytes);
        }
        let grant = Grant { grantee: Grantee::AllUsers, permission: Permission::Read };
        golden::<BucketSettings>(
            (BucketId(5), 9),
            BucketSetting::Acl(vec![grant]),
            "00000000000000050009",
            "010a010101",
        );
        let elsewhere = Website::Elsewhere { host: "h".to_string(), protocol: Some(Protocol::Https) };
        let redirect = Redirect {
            host: Some("h".to_string()),
            status: Some(302),
            protocol: Some(Protocol::Http),
            replace: Some(Replace::Prefix("r".to_string())),
        };
        let rule = RoutingRule { prefix: Some("p".to_string()), status: Some(404), redirect };
        let to_key = Redirect { replace: Some(Replace::Key("k".to_string())), ..Redirect::default() };
        let other = RoutingRule { prefix: None, status: None, redirect: to_key };
        let pages =
            Website::Pages { index: "i".to_string(), error: Some("e".to_string()), rules: vec![rule, other] };
        for (website, bytes) in [
            (elsewhere, "01080001680101"),
            (pages, "01080101690101650201017001940301016801ae0201000100017200000000000101016b"),
        ] {
            let setting = BucketSetting::Website(website);
            golden::<BucketSettings>((BucketId(5), 8), setting, "00000000000000050008", bytes);
        }
    }
}
