//! The operations, one file each, and the list of them.

mod abort_multipart_upload;
mod complete_multipart_upload;
mod copy_object;
mod create_bucket;
mod create_multipart_upload;
mod delete_bucket;
mod delete_object;
mod delete_objects;
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
mod put_object;
#[cfg(test)]
mod tests;
mod upload_part;
mod upload_part_copy;

use super::op::Op;

/// Every operation. A new one is a file beside this one and a line here.
pub static OPS: &[&dyn Op] = &[
    &abort_multipart_upload::AbortMultipartUpload,
    &complete_multipart_upload::CompleteMultipartUpload,
    &copy_object::CopyObject,
    &create_bucket::CreateBucket,
    &create_multipart_upload::CreateMultipartUpload,
    &delete_bucket::DeleteBucket,
    &delete_object::DeleteObject,
    &delete_objects::DeleteObjects,
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
    &put_object::PutObject,
    &upload_part::UploadPart,
    &upload_part_copy::UploadPartCopy,
];
