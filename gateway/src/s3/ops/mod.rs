//! The operations, one file each, and the list of them.

mod create_bucket;
mod delete_bucket;
mod delete_object;
mod get_bucket_location;
mod get_bucket_versioning;
mod get_object;
mod head_bucket;
mod head_object;
mod list_buckets;
mod list_objects;
mod list_objects_v2;
mod put_object;

use super::op::Op;

/// Every operation. A new one is a file beside this one and a line here.
pub static OPS: &[&dyn Op] = &[
    &create_bucket::CreateBucket,
    &delete_bucket::DeleteBucket,
    &delete_object::DeleteObject,
    &get_bucket_location::GetBucketLocation,
    &get_bucket_versioning::GetBucketVersioning,
    &get_object::GetObject,
    &head_bucket::HeadBucket,
    &head_object::HeadObject,
    &list_buckets::ListBuckets,
    &list_objects::ListObjects,
    &list_objects_v2::ListObjectsV2,
    &put_object::PutObject,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::route::Router;

    #[test]
    fn no_request_is_two_operations() {
        assert_eq!(Router::new(OPS).conflicts(), []);
    }
}
