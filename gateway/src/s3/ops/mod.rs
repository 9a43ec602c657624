//! The operations, one file each, and the list of them.

mod abort_multipart_upload;
mod acl;
mod bucket_cors;
mod bucket_encryption;
mod bucket_lifecycle;
mod bucket_logging;
mod bucket_notification;
mod bucket_policy;
mod bucket_replication;
mod bucket_tagging;
mod bucket_website;
mod complete_multipart_upload;
mod copy_object;
mod create_bucket;
mod create_multipart_upload;
mod delete_bucket;
mod delete_object;
mod delete_objects;
mod get_bucket_changes;
mod get_bucket_location;
mod get_bucket_versioning;
mod get_object;
mod get_object_attributes;
mod head_bucket;
mod head_object;
mod list_buckets;
mod list_multipart_uploads;
mod list_object_versions;
mod list_objects;
mod list_objects_v2;
mod list_parts;
mod object_annotation;
mod object_lock;
mod object_tagging;
mod ownership;
mod post_object;
mod probes;
mod public_access_block;
mod put_bucket_versioning;
mod put_object;
mod rename_object;
mod search;
#[cfg(test)]
mod tests;
mod upload_part;
mod upload_part_copy;

use super::op::Op;

/// What stores one object, also those that the gateway itself writes.
pub static PUT_OBJECT: put_object::PutObject = put_object::PutObject;

/// Every operation. A new one is a file beside this one and a line in the list.
pub fn all() -> Vec<&'static dyn Op> {
    let probes = probes::ALL.iter().map(|probe| probe as &dyn Op);
    OPS.iter().copied().chain(probes).collect()
}

static OPS: &[&dyn Op] = &[
    &abort_multipart_upload::AbortMultipartUpload,
    &acl::GetBucketAcl,
    &acl::GetObjectAcl,
    &acl::PutBucketAcl,
    &acl::PutObjectAcl,
    &bucket_cors::DeleteBucketCors,
    &bucket_cors::GetBucketCors,
    &bucket_cors::PutBucketCors,
    &bucket_encryption::DeleteBucketEncryption,
    &bucket_encryption::GetBucketEncryption,
    &bucket_encryption::PutBucketEncryption,
    &bucket_lifecycle::DeleteBucketLifecycle,
    &bucket_lifecycle::GetBucketLifecycleConfiguration,
    &bucket_lifecycle::PutBucketLifecycleConfiguration,
    &bucket_logging::GetBucketLogging,
    &bucket_logging::PutBucketLogging,
    &bucket_notification::GetBucketNotificationConfiguration,
    &bucket_notification::PutBucketNotificationConfiguration,
    &bucket_policy::DeleteBucketPolicy,
    &bucket_policy::GetBucketPolicy,
    &bucket_policy::GetBucketPolicyStatus,
    &bucket_policy::PutBucketPolicy,
    &bucket_replication::DeleteBucketReplication,
    &bucket_replication::GetBucketReplication,
    &bucket_replication::PutBucketReplication,
    &bucket_tagging::DeleteBucketTagging,
    &bucket_tagging::GetBucketTagging,
    &bucket_tagging::PutBucketTagging,
    &bucket_website::DeleteBucketWebsite,
    &bucket_website::GetBucketWebsite,
    &bucket_website::PutBucketWebsite,
    &complete_multipart_upload::CompleteMultipartUpload,
    &copy_object::CopyObject,
    &create_bucket::CreateBucket,
    &create_multipart_upload::CreateMultipartUpload,
    &delete_bucket::DeleteBucket,
    &delete_object::DeleteObject,
    &delete_objects::DeleteObjects,
    &get_bucket_changes::GetBucketChanges,
    &get_bucket_location::GetBucketLocation,
    &get_bucket_versioning::GetBucketVersioning,
    &get_object::GetObject,
    &get_object_attributes::GetObjectAttributes,
    &head_bucket::HeadBucket,
    &head_object::HeadObject,
    &list_buckets::ListBuckets,
    &list_multipart_uploads::ListMultipartUploads,
    &list_object_versions::ListObjectVersions,
    &list_objects::ListObjects,
    &list_objects_v2::ListObjectsV2,
    &list_parts::ListParts,
    &object_annotation::DeleteObjectAnnotation,
    &object_annotation::GetObjectAnnotation,
    &object_annotation::ListObjectAnnotations,
    &object_annotation::PutObjectAnnotation,
    &object_lock::GetObjectLegalHold,
    &object_lock::GetObjectLockConfiguration,
    &object_lock::GetObjectRetention,
    &object_lock::PutObjectLegalHold,
    &object_lock::PutObjectLockConfiguration,
    &object_lock::PutObjectRetention,
    &object_tagging::DeleteObjectTagging,
    &object_tagging::GetObjectTagging,
    &object_tagging::PutObjectTagging,
    &ownership::DeleteBucketOwnershipControls,
    &ownership::GetBucketOwnershipControls,
    &ownership::PutBucketOwnershipControls,
    &ownership::PutBucketRequestPayment,
    &post_object::PostObject { upload: &put_object::PutObject },
    &public_access_block::DeletePublicAccessBlock,
    &public_access_block::GetPublicAccessBlock,
    &public_access_block::PutPublicAccessBlock,
    &put_bucket_versioning::PutBucketVersioning,
    &put_object::PutObject,
    &rename_object::RenameObject,
    &search::BUCKET,
    &search::OBJECTS,
    &upload_part::UploadPart,
    &upload_part_copy::UploadPartCopy,
];
