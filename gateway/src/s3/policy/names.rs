//! The names that S3 has for what may be done and for what conditions may look at.
//!
//! The tables are those of the service's authorization reference, with the parts of S3 that Fluffy does not have: a
//! policy written for S3 is read as it is, and what is never asked is never allowed.

use std::cmp::Ordering;

use super::pattern::{Pattern, Wildcards};
use super::{Judging, Malformed, NoContext, Version};

/// What an action is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A bucket as a whole.
    Bucket,
    /// An object or one version of it.
    Object,
    /// Neither: all buckets, the account, access points, jobs.
    Other,
}

/// Every action of S3 without its `s3:`, and those that only Fluffy has (ListBucketChanges), sorted without regard to case.
const ACTIONS: [(&str, Scope); 177] = [
    ("AbortMultipartUpload", Scope::Object),
    ("AssociateAccessGrantsIdentityCenter", Scope::Other),
    ("BypassGovernanceRetention", Scope::Object),
    ("CreateAccessGrant", Scope::Other),
    ("CreateAccessGrantsInstance", Scope::Other),
    ("CreateAccessGrantsLocation", Scope::Other),
    ("CreateAccessPoint", Scope::Other),
    ("CreateAccessPointForObjectLambda", Scope::Other),
    ("CreateBucket", Scope::Bucket),
    ("CreateBucketMetadataTableConfiguration", Scope::Bucket),
    ("CreateJob", Scope::Other),
    ("CreateMultiRegionAccessPoint", Scope::Other),
    ("CreateStorageLensGroup", Scope::Other),
    ("DeleteAccessGrant", Scope::Other),
    ("DeleteAccessGrantsInstance", Scope::Other),
    ("DeleteAccessGrantsInstanceResourcePolicy", Scope::Other),
    ("DeleteAccessGrantsLocation", Scope::Other),
    ("DeleteAccessPoint", Scope::Other),
    ("DeleteAccessPointForObjectLambda", Scope::Other),
    ("DeleteAccessPointPolicy", Scope::Other),
    ("DeleteAccessPointPolicyForObjectLambda", Scope::Other),
    ("DeleteBucket", Scope::Bucket),
    ("DeleteBucketMetadataTableConfiguration", Scope::Bucket),
    ("DeleteBucketPolicy", Scope::Bucket),
    ("DeleteBucketWebsite", Scope::Bucket),
    ("DeleteJobTagging", Scope::Other),
    ("DeleteMultiRegionAccessPoint", Scope::Other),
    ("DeleteObject", Scope::Object),
    ("DeleteObjectAnnotation", Scope::Object),
    ("DeleteObjectTagging", Scope::Object),
    ("DeleteObjectVersion", Scope::Object),
    ("DeleteObjectVersionAnnotation", Scope::Object),
    ("DeleteObjectVersionTagging", Scope::Object),
    ("DeleteStorageLensConfiguration", Scope::Other),
    ("DeleteStorageLensConfigurationTagging", Scope::Other),
    ("DeleteStorageLensGroup", Scope::Other),
    ("DescribeJob", Scope::Other),
    ("DescribeMultiRegionAccessPointOperation", Scope::Other),
    ("DissociateAccessGrantsIdentityCenter", Scope::Other),
    ("GetAccelerateConfiguration", Scope::Bucket),
    ("GetAccessGrant", Scope::Other),
    ("GetAccessGrantsInstance", Scope::Other),
    ("GetAccessGrantsInstanceForPrefix", Scope::Other),
    ("GetAccessGrantsInstanceResourcePolicy", Scope::Other),
    ("GetAccessGrantsLocation", Scope::Other),
    ("GetAccessPoint", Scope::Other),
    ("GetAccessPointConfigurationForObjectLambda", Scope::Other),
    ("GetAccessPointForObjectLambda", Scope::Other),
    ("GetAccessPointPolicy", Scope::Other),
    ("GetAccessPointPolicyForObjectLambda", Scope::Other),
    ("GetAccessPointPolicyStatus", Scope::Other),
    ("GetAccessPointPolicyStatusForObjectLambda", Scope::Other),
    ("GetAccountPublicAccessBlock", Scope::Other),
    ("GetAnalyticsConfiguration", Scope::Bucket),
    ("GetBucketAbac", Scope::Bucket),
    ("GetBucketAcl", Scope::Bucket),
    ("GetBucketCORS", Scope::Bucket),
    ("GetBucketLocation", Scope::Bucket),
    ("GetBucketLogging", Scope::Bucket),
    ("GetBucketMetadataTableConfiguration", Scope::Bucket),
    ("GetBucketNotification", Scope::Bucket),
    ("GetBucketObjectLockConfiguration", Scope::Bucket),
    ("GetBucketOwnershipControls", Scope::Bucket),
    ("GetBucketPolicy", Scope::Bucket),
    ("GetBucketPolicyStatus", Scope::Bucket),
    ("GetBucketPublicAccessBlock", Scope::Bucket),
    ("GetBucketRequestPayment", Scope::Bucket),
    ("GetBucketTagging", Scope::Bucket),
    ("GetBucketVersioning", Scope::Bucket),
    ("GetBucketWebsite", Scope::Bucket),
    ("GetDataAccess", Scope::Other),
    ("GetEncryptionConfiguration", Scope::Bucket),
    ("GetIntelligentTieringConfiguration", Scope::Bucket),
    ("GetInventoryConfiguration", Scope::Bucket),
    ("GetJobTagging", Scope::Other),
    ("GetLifecycleConfiguration", Scope::Bucket),
    ("GetMetricsConfiguration", Scope::Bucket),
    ("GetMultiRegionAccessPoint", Scope::Other),
    ("GetMultiRegionAccessPointPolicy", Scope::Other),
    ("GetMultiRegionAccessPointPolicyStatus", Scope::Other),
    ("GetMultiRegionAccessPointRoutes", Scope::Other),
    ("GetObject", Scope::Object),
    ("GetObjectAcl", Scope::Object),
    ("GetObjectAnnotation", Scope::Object),
    ("GetObjectAttributes", Scope::Object),
    ("GetObjectLegalHold", Scope::Object),
    ("GetObjectRetention", Scope::Object),
    ("GetObjectTagging", Scope::Object),
    ("GetObjectTorrent", Scope::Object),
    ("GetObjectVersion", Scope::Object),
    ("GetObjectVersionAcl", Scope::Object),
    ("GetObjectVersionAnnotation", Scope::Object),
    ("GetObjectVersionAttributes", Scope::Object),
    ("GetObjectVersionForReplication", Scope::Object),
    ("GetObjectVersionTagging", Scope::Object),
    ("GetObjectVersionTorrent", Scope::Object),
    ("GetReplicationConfiguration", Scope::Bucket),
    ("GetStorageLensConfiguration", Scope::Other),
    ("GetStorageLensConfigurationTagging", Scope::Other),
    ("GetStorageLensDashboard", Scope::Other),
    ("GetStorageLensGroup", Scope::Other),
    ("InitiateReplication", Scope::Object),
    ("ListAccessGrants", Scope::Other),
    ("ListAccessGrantsInstances", Scope::Other),
    ("ListAccessGrantsLocations", Scope::Other),
    ("ListAccessPoints", Scope::Other),
    ("ListAccessPointsForObjectLambda", Scope::Other),
    ("ListAllMyBuckets", Scope::Other),
    ("ListBucket", Scope::Bucket),
    ("ListBucketChanges", Scope::Bucket),
    ("ListBucketMultipartUploads", Scope::Bucket),
    ("ListBucketVersions", Scope::Bucket),
    ("ListCallerAccessGrants", Scope::Other),
    ("ListJobs", Scope::Other),
    ("ListMultipartUploadParts", Scope::Object),
    ("ListMultiRegionAccessPoints", Scope::Other),
    ("ListObjectAnnotations", Scope::Object),
    ("ListObjectVersionAnnotations", Scope::Object),
    ("ListStorageLensConfigurations", Scope::Other),
    ("ListStorageLensGroups", Scope::Other),
    ("ListTagsForResource", Scope::Bucket),
    ("ObjectOwnerOverrideToBucketOwner", Scope::Object),
    ("PauseReplication", Scope::Bucket),
    ("PutAccelerateConfiguration", Scope::Bucket),
    ("PutAccessGrantsInstanceResourcePolicy", Scope::Other),
    ("PutAccessPointConfigurationForObjectLambda", Scope::Other),
    ("PutAccessPointPolicy", Scope::Other),
    ("PutAccessPointPolicyForObjectLambda", Scope::Other),
    ("PutAccessPointPublicAccessBlock", Scope::Other),
    ("PutAccountPublicAccessBlock", Scope::Other),
    ("PutAnalyticsConfiguration", Scope::Bucket),
    ("PutBucketAbac", Scope::Bucket),
    ("PutBucketAcl", Scope::Bucket),
    ("PutBucketCORS", Scope::Bucket),
    ("PutBucketLogging", Scope::Bucket),
    ("PutBucketNotification", Scope::Bucket),
    ("PutBucketObjectLockConfiguration", Scope::Bucket),
    ("PutBucketOwnershipControls", Scope::Bucket),
    ("PutBucketPolicy", Scope::Bucket),
    ("PutBucketPublicAccessBlock", Scope::Bucket),
    ("PutBucketRequestPayment", Scope::Bucket),
    ("PutBucketTagging", Scope::Bucket),
    ("PutBucketVersioning", Scope::Bucket),
    ("PutBucketWebsite", Scope::Bucket),
    ("PutEncryptionConfiguration", Scope::Bucket),
    ("PutIntelligentTieringConfiguration", Scope::Bucket),
    ("PutInventoryConfiguration", Scope::Bucket),
    ("PutJobTagging", Scope::Other),
    ("PutLifecycleConfiguration", Scope::Bucket),
    ("PutMetricsConfiguration", Scope::Bucket),
    ("PutMultiRegionAccessPointPolicy", Scope::Other),
    ("PutObject", Scope::Object),
    ("PutObjectAcl", Scope::Object),
    ("PutObjectAnnotation", Scope::Object),
    ("PutObjectLegalHold", Scope::Object),
    ("PutObjectRetention", Scope::Object),
    ("PutObjectTagging", Scope::Object),
    ("PutObjectVersionAcl", Scope::Object),
    ("PutObjectVersionAnnotation", Scope::Object),
    ("PutObjectVersionTagging", Scope::Object),
    ("PutReplicationConfiguration", Scope::Bucket),
    ("PutStorageLensConfiguration", Scope::Other),
    ("PutStorageLensConfigurationTagging", Scope::Other),
    ("ReplicateDelete", Scope::Object),
    ("ReplicateObject", Scope::Object),
    ("ReplicateTags", Scope::Object),
    ("RestoreObject", Scope::Object),
    ("SubmitMultiRegionAccessPointRoutes", Scope::Other),
    ("TagResource", Scope::Bucket),
    ("UntagResource", Scope::Bucket),
    ("UpdateAccessGrantsLocation", Scope::Other),
    ("UpdateBucketMetadataInventoryTableConfiguration", Scope::Bucket),
    ("UpdateBucketMetadataJournalTableConfiguration", Scope::Bucket),
    ("UpdateJobPriority", Scope::Other),
    ("UpdateJobStatus", Scope::Other),
    ("UpdateObjectEncryption", Scope::Object),
    ("UpdateStorageLensGroup", Scope::Other),
];

/// Every condition key, lower-cased and sorted.
const KEYS: &[&str] = &[
    "aws:calledvia",
    "aws:calledviafirst",
    "aws:calledvialast",
    "aws:chatbotsourcearn",
    "aws:currenttime",
    "aws:ec2instancesourceprivateipv4",
    "aws:ec2instancesourcevpc",
    "aws:epochtime",
    "aws:federatedprovider",
    "aws:multifactorauthage",
    "aws:multifactorauthpresent",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:principalservicenameslist",
    "aws:principaltype",
    "aws:referer",
    "aws:requestedregion",
    "aws:resourceaccount",
    "aws:resourceorgid",
    "aws:resourceorgpaths",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceidentity",
    "aws:sourceip",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpcarn",
    "aws:sourcevpce",
    "aws:tagkeys",
    "aws:tokenissuetime",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "aws:viaawsservice",
    "aws:vpceaccount",
    "aws:vpceorgid",
    "aws:vpceorgpaths",
    "aws:vpcsourceip",
    "s3:accessgrantscope",
    "s3:accessgrantsinstancearn",
    "s3:accessgrantslocationscope",
    "s3:accesspointnetworkorigin",
    "s3:authtype",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:delimiter",
    "s3:destinationregion",
    "s3:existingjoboperation",
    "s3:existingjobpriority",
    "s3:if-match",
    "s3:if-none-match",
    "s3:inventoryaccessibleoptionalfields",
    "s3:isreplicationpauserequest",
    "s3:jobsuspendedcause",
    "s3:locationconstraint",
    "s3:max-keys",
    "s3:object-lock-legal-hold",
    "s3:object-lock-mode",
    "s3:object-lock-remaining-retention-days",
    "s3:object-lock-retain-until-date",
    "s3:objectcreationoperation",
    "s3:prefix",
    "s3:requestjoboperation",
    "s3:requestjobpriority",
    "s3:requestobjecttagkeys",
    "s3:resourceaccount",
    "s3:signatureage",
    "s3:signatureversion",
    "s3:tlsversion",
    "s3:versionid",
    "s3:x-amz-acl",
    "s3:x-amz-bucket-namespace",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-object-ownership",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
];

/// Condition keys that end in the key of a tag.
const TAG_KEYS: &[&str] = &[
    "aws:principaltag/",
    "aws:requesttag/",
    "aws:resourcetag/",
    "s3:accesspointtag/",
    "s3:buckettag/",
    "s3:existingobjecttag/",
    "s3:requestobjecttag/",
];

/// One action of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Action(usize);

/// Whether S3 has this action: `s3:GetObject`, in any case, without wildcards.
pub fn is_action(name: &str) -> bool {
    action(name).is_some()
}

/// The action of this name, in any case.
pub(super) fn action(name: &str) -> Option<Action> {
    let name = without_service(name)?;
    let order = |(known, _): &(&str, Scope)| compare_ignoring_case(known, name);
    ACTIONS.binary_search_by(order).ok().map(Action)
}

/// Whether conditions may look at this key, which is lower-cased.
pub(super) fn is_key(key: &str) -> bool {
    let tag = |prefix: &&str| key.strip_prefix(*prefix).is_some_and(|tag| !tag.is_empty());
    KEYS.binary_search(&key).is_ok() || TAG_KEYS.iter().any(tag)
}

fn without_service(name: &str) -> Option<&str> {
    let (service, name) = name.split_once(':')?;
    service.eq_ignore_ascii_case("s3").then_some(name)
}

fn compare_ignoring_case(left: &str, right: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    left.bytes().map(lower).cmp(right.bytes().map(lower))
}

const WORD_BITS: usize = u64::BITS as usize;

/// Some of the actions of S3, a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ActionSet([u64; ACTIONS.len().div_ceil(WORD_BITS)]);

impl ActionSet {
    /// The actions that these names and patterns mean. Each has to mean at least one.
    pub(super) fn parse(texts: &[String]) -> Result<ActionSet, Malformed> {
        let names: Vec<String> = ACTIONS.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        let mut set = ActionSet::default();
        for text in texts {
            let invalid = || Malformed::new(format!("Policy has invalid action: {text:.100}."));
            let name = if text == "*" { text } else { without_service(text).ok_or_else(invalid)? };
            // Of the old version, as a variable has no value before there is a request.
            let pattern = Pattern::parse(&name.to_ascii_lowercase(), Wildcards::Special, Version::Old)?;
            let judging = Judging::new(&NoContext);
            let meant = (0..ACTIONS.len()).filter(|at| pattern.matches(&names[*at], &judging));
            let meant: Vec<usize> = meant.collect();
            if meant.is_empty() {
                return Err(invalid());
            }
            meant.into_iter().for_each(|at| set.0[at / WORD_BITS] |= 1 << (at % WORD_BITS));
        }
        Ok(set)
    }

    /// All the other actions.
    pub(super) fn complement(self) -> ActionSet {
        ActionSet(self.0.map(|word| !word))
    }

    /// Whether the action is one of these.
    pub(super) fn contains(self, action: Action) -> bool {
        self.0[action.0 / WORD_BITS] & (1 << (action.0 % WORD_BITS)) != 0
    }

    /// Whether one of these is done to such a thing.
    pub(super) fn has(self, scope: Scope) -> bool {
        let mut actions = ACTIONS.iter().enumerate();
        actions.any(|(at, (_, own))| *own == scope && self.contains(Action(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(ACTIONS.is_sorted_by(|(left, _), (right, _)| compare_ignoring_case(left, right).is_lt()));
        assert!(KEYS.is_sorted_by(|left, right| left < right));
        assert!(KEYS.iter().chain(TAG_KEYS).all(|key| *key == key.to_ascii_lowercase()));
    }

    #[test]
    fn actions_are_found_in_any_case() {
        for name in ["s3:GetObject", "S3:getobject", "s3:AbortMultipartUpload", "s3:UpdateStorageLensGroup"] {
            assert!(is_action(name), "{name}");
        }
        for name in ["GetObject", "s3:GetObjec", "s3:GetObjects", "s3:", "", "*", "s3:*", "iam:GetObject"] {
            assert!(!is_action(name), "{name}");
        }
    }

    #[test]
    fn keys() {
        for key in ["aws:sourceip", "s3:prefix", "s3:existingobjecttag/a b", "aws:principaltag/team"] {
            assert!(is_key(key), "{key}");
        }
        for key in
            ["aws:sourcei", "s3:existingobjecttag/", "s3:existingobjecttag", "AWS:SourceIp", "", "s3:x"]
        {
            assert!(!is_key(key), "{key}");
        }
    }

    #[test]
    fn a_set_and_its_complement_are_all() {
        let set = ActionSet::parse(&["s3:Get*".into(), "s3:PutObject".into()]).unwrap();
        for (at, (name, ..)) in ACTIONS.iter().enumerate() {
            let named = name.starts_with("Get") || *name == "PutObject";
            assert_eq!((set.contains(Action(at)), set.complement().contains(Action(at))), (named, !named));
        }
    }
}
