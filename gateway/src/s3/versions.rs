//! Version ids and upload ids as clients write and see them.

use consensus::meta::command::VersionSelector;
use consensus::meta::model::{Bucket, Object, Stored, Versioning};
use fabric::ids::Stamp;

use super::error::{Code, S3Error, S3Result};
use super::request::Query;
use super::response::Response;

/// A version id in a parameter: `null`, or one that this store could have given.
pub fn selector(name: &str, text: &str) -> S3Result<VersionSelector> {
    match text {
        "null" => Ok(VersionSelector::Null),
        "" => Err(S3Error::argument(name, text, "Version id cannot be the empty string")),
        text => match text.parse::<Stamp>() {
            Ok(stamp) => Ok(VersionSelector::Stamp(stamp)),
            Err(_) => Err(S3Error::argument(name, text, "Invalid version id specified")),
        },
    }
}

/// `versionId` of a request.
pub fn from_query(query: &Query) -> S3Result<Option<VersionSelector>> {
    query.get("versionId").map(|text| selector("versionId", text)).transpose()
}

/// `uploadId` of a request. A text that is none of ours names no upload.
pub fn upload(query: &Query) -> S3Result<Stamp> {
    let text = query.get("uploadId").unwrap_or("");
    text.parse().map_err(|_| S3Error::from(Code::NoSuchUpload).field("UploadId", text))
}

/// What names just this version.
pub fn exactly(object: &Object) -> VersionSelector {
    if object.null_version { VersionSelector::Null } else { VersionSelector::Stamp(object.stamp) }
}

/// How a client writes it.
pub fn written(version: VersionSelector) -> String {
    match version {
        VersionSelector::Null => "null".to_string(),
        VersionSelector::Stamp(stamp) => stamp.to_string(),
    }
}

/// How a version id looks.
pub fn text(stamp: Stamp, null_version: bool) -> String {
    if null_version { "null".to_string() } else { stamp.to_string() }
}

/// Adds `x-amz-version-id` to an answer about a version; a bucket that was never versioned shows none. Of one that was
/// not a few seconds ago the version tells.
pub fn show(response: Response, bucket: &Bucket, object: &Object) -> Response {
    match bucket.versioning {
        Versioning::Off if object.null_version => response,
        Versioning::Off | Versioning::Enabled | Versioning::Suspended => {
            response.amz("x-amz-version-id", text(object.stamp, object.null_version))
        }
    }
}

/// Adds `x-amz-version-id` to the answer to a write.
pub fn show_stored(response: Response, bucket: &Bucket, stored: &Stored) -> Response {
    match bucket.versioning {
        Versioning::Suspended => response.amz("x-amz-version-id", "null"),
        Versioning::Off | Versioning::Enabled if stored.version_visible => {
            response.amz("x-amz-version-id", stored.stamp.to_string())
        }
        Versioning::Off | Versioning::Enabled => response,
    }
}

/// The same for a write of a new version, with the entry of the log that made it: what a search can be asked to be as new
/// as.
pub fn show_written(response: Response, bucket: &Bucket, stored: &Stored) -> Response {
    show_stored(response, bucket, stored).amz("x-fluffy-index", stored.stamp.index.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let stamp = Stamp { epoch: 0, index: 9, ordinal: 1 };
        assert_eq!(selector("versionId", "null").unwrap(), VersionSelector::Null);
        assert_eq!(selector("versionId", &stamp.to_string()).unwrap(), VersionSelector::Stamp(stamp));
        for bad in ["", "garbage", "../../x", "NULL", &stamp.to_string()[1..]] {
            assert_eq!(selector("versionId", bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        let query = Query::parse("uploadId=..%2Fx").unwrap();
        assert_eq!(upload(&query).unwrap_err().code(), Code::NoSuchUpload);
    }
}
