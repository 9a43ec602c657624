//! Storage classes: how the bytes of an object are kept.
//!
//! `STANDARD`, which is not shown, is three copies. `STANDARD_IA` is an erasure code, where there are nodes enough for
//! one. The other names of S3 mean nothing here and are refused, never passed over.

use consensus::meta::model::{Attributes, BucketSetting};
use http::HeaderMap;

use super::error::{Code, S3Result};
use super::op::Context;
use super::request::header_text;
use crate::data::Class;

const HEADER: &str = "x-amz-storage-class";
/// Three copies; what holds where nobody says anything.
pub const STANDARD: &str = "STANDARD";
const INFREQUENT_ACCESS: &str = "STANDARD_IA";

/// The class of a name as it is stored: `None` is `STANDARD`.
pub fn by_name(name: &str) -> S3Result<Option<String>> {
    match name {
        STANDARD => Ok(None),
        INFREQUENT_ACCESS => Ok(Some(INFREQUENT_ACCESS.to_string())),
        _ => Err(Code::InvalidStorageClass.into()),
    }
}

/// The class that the headers say; without one `STANDARD`, until [`by_default`] knows better.
pub fn of_headers(headers: &HeaderMap) -> S3Result<Option<String>> {
    by_name(header_text(headers, HEADER)?.unwrap_or(STANDARD))
}

/// Where the headers say no class, that of the bucket holds.
pub async fn by_default(cx: &Context, headers: &HeaderMap, attributes: &mut Attributes) -> S3Result<()> {
    if headers.contains_key(HEADER) {
        return Ok(());
    }
    let default = cx.recent_settings().await?.iter().find_map(|setting| match setting {
        BucketSetting::StorageClass(class) => Some(class.clone()),
        _ => None,
    });
    attributes.storage_class = default;
    Ok(())
}

/// How the bytes of an object are to be stored.
pub fn of(attributes: &Attributes) -> Class {
    match attributes.storage_class.as_deref() {
        Some(INFREQUENT_ACCESS) => Class::Shards,
        _ => Class::Copies,
    }
}
