//! Versions of objects.
//!
//! A key's newest version, if it is no delete marker, is its row in [`Objects`]; all else is in [`Versions`]. So a key
//! without a row in [`Objects`] has no versions, or its newest one in [`Versions`] is a marker.

use fabric::ids::{BucketId, Stamp};

use super::{Descending, table};
use crate::meta::acl::ObjectAcl;
use crate::meta::model::{AnnotationSet, Home, Lock, Object, Renamed, Version};
use crate::meta::names::ClientToken;

table! {
    /// (bucket, key) → the current version. Missing: there is no such object, or a delete marker hides it.
    Objects(OBJECTS): &'a Home | Home => Object
}

table! {
    /// (bucket, key, stamp descending) → versions that are not current, and delete markers, newest first.
    Versions(VERSIONS): (&'a Home, Descending) | (Home, Descending) => Version
}

table! {
    /// (bucket, key) → stamp of the null version, present while that one is in [`Versions`]. Where it is the current
    /// version its own row says so.
    NullVersions(NULL_VERSIONS): &'a Home | Home => Stamp
}

table! {
    /// (bucket, key, stamp) → what keeps a version from being removed; of an upload, what will keep the version that it
    /// becomes. Missing: nothing.
    Locks(LOCKS): (&'a Home, Stamp) | (Home, Stamp) => Lock
}

table! {
    /// (bucket, key, stamp) → the annotations of a version. Missing: it has none.
    AnnotationSets(ANNOTATIONS): (&'a Home, Stamp) | (Home, Stamp) => AnnotationSet
}

table! {
    /// (bucket, key, stamp) → who owns a version, and who may do what with it; of an upload, those of the version that it
    /// becomes. Missing: the owner of the bucket, who alone may do anything.
    Acls(ACLS): (&'a Home, Stamp) | (Home, Stamp) => ObjectAcl
}

table! {
    /// (bucket, key, stamp) → nothing: the class of this version wants its bytes as shards, and they are whole copies still.
    /// Missing: they are not, or they stay.
    Recodings(RECODINGS): (&'a Home, Stamp) | (Home, Stamp) => ()
}

table! {
    /// (bucket, token) → a rename that its client may repeat; for ten minutes, then it counts as missing.
    Renames(RENAMES): (BucketId, &'a ClientToken) | (BucketId, ClientToken) => Renamed
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::meta::acl::{Grant, Grantee, Permission};
    use crate::meta::model::{
        Annotation, Attributes, Body, Checksum, ChecksumAlgorithm, ChecksumKind, ClusterMs, Etag, Retention,
        RetentionMode, Stored,
    };
    use crate::meta::sealing::{Frames, Scheme, Sealing};
    use crate::meta::tables::testing::{extent_id, golden, home, stamp};

    fn object(body: Body) -> Object {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        Object {
            stamp: stamp(9),
            null_version: true,
            modified: ClusterMs(1_000),
            bytes: 300,
            etag: Etag::Md5([0x33; 16]),
            body,
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Crc64Nvme,
                kind: ChecksumKind::FullObject,
                value: Bytes::from_static(&[1, 2, 3, 4, 5, 6, 7, 8]),
            }),
            attributes: Attributes {
                headers: [pair("content-type", "text/plain")].into(),
                user: [pair("mtime", "1")].into(),
                storage_class: Some("STANDARD_IA".to_string()),
                tags: vec![pair("k", "v")],
            },
        }
    }

    #[test]
    fn golden_rows() {
        let key = home(5, "a/b");
        golden::<Objects>(
            &key,
            object(Body::Empty),
            "0000000000000005612f6200",
            "0101090201e807ac02003333333333333333333333333333333300010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        golden::<Objects>(
            &key,
            object(Body::Inline(stamp(9))),
            "0000000000000005612f6200",
            "0101090201e807ac02003333333333333333333333333333333301010902010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        golden::<Objects>(
            &key,
            object(Body::Extent { id: extent_id(3), home: None }),
            "0000000000000005612f6200",
            "0101090201e807ac020033333333333333333333333333333333028080809880808080808e808080a08080cdd70200010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        golden::<Objects>(
            &key,
            object(Body::Slices { id: stamp(8), home: Some(home(6, "c")) }),
            "0000000000000005612f6200",
            "0101090201e807ac0200333333333333333333333333333333330301080201060163010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        golden::<Objects>(
            &key,
            object(Body::Packed { id: extent_id(3), offset: 300, home: Some(home(6, "c")) }),
            "0000000000000005612f6200",
            "0101090201e807ac020033333333333333333333333333333333048080809880808080808e808080a08080cdd702ac0201060163010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        let sealing = Sealing {
            frames: Frames::Gcm,
            scheme: Scheme::Store { version: 1 },
            data_key: Bytes::from_static(b"key"),
        };
        golden::<Objects>(
            &key,
            object(Body::Sealed { sealing: sealing.clone(), body: Box::new(Body::Inline(stamp(9))) }),
            "0000000000000005612f6200",
            "0101090201e807ac02003333333333333333333333333333333305000001036b657901010902010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        let version = (&key, Descending(stamp(9)));
        golden::<Versions>(
            version,
            Version::Object(object(Body::Empty)),
            "0000000000000005612f6200fffefffffffffffffff6fffd",
            "010001090201e807ac02003333333333333333333333333333333300010200080102030405060708010c636f6e74656e742d747970650a746578742f706c61696e01056d74696d650131010b5354414e444152445f494101016b0176",
        );
        let marker =
            Version::DeleteMarker { stamp: stamp(9), null_version: false, modified: ClusterMs(1_000) };
        golden::<Versions>(
            version,
            marker,
            "0000000000000005612f6200fffefffffffffffffff6fffd",
            "010101090200e807",
        );
        let retention = Retention { mode: RetentionMode::Compliance, until: ClusterMs(1_000) };
        golden::<Locks>(
            (&key, stamp(9)),
            Lock { retention: Some(retention), legal_hold: true },
            "0000000000000005612f6200000100000000000000090002",
            "010101e80701",
        );
        golden::<Recodings>((&key, stamp(9)), (), "0000000000000005612f6200000100000000000000090002", "01");
        let grant = |grantee, permission| Grant { grantee, permission };
        let grants = vec![
            grant(Grantee::User("anna".parse().unwrap()), Permission::FullControl),
            grant(Grantee::AllUsers, Permission::Read),
            grant(Grantee::AuthenticatedUsers, Permission::Write),
            grant(Grantee::LogDelivery, Permission::ReadAcp),
            grant(Grantee::AllUsers, Permission::WriteAcp),
        ];
        golden::<Acls>(
            (&key, stamp(9)),
            ObjectAcl { owner: "berta".parse().unwrap(), grants },
            "0000000000000005612f6200000100000000000000090002",
            "01056265727461050004616e6e61000101020203030104",
        );
        golden::<NullVersions>(&key, stamp(9), "0000000000000005612f6200", "01010902");
        let annotation = Annotation {
            name: "note".parse().unwrap(),
            bytes: 300,
            md5: [0x77; 16],
            checksum: Checksum {
                algorithm: ChecksumAlgorithm::Crc32,
                kind: ChecksumKind::FullObject,
                value: Bytes::from_static(&[1, 2, 3, 4]),
            },
            modified: ClusterMs(1_000),
            extent: extent_id(3),
        };
        golden::<AnnotationSets>(
            (&key, stamp(9)),
            AnnotationSet { home: Some(home(6, "c")), sealing, annotations: vec![annotation] },
            "0000000000000005612f6200000100000000000000090002",
            "0101060163000001036b657901046e6f7465ac027777777777777777777777777777777700000401020304e8078080809880808080808e808080a08080cdd702",
        );
        let stored = Stored {
            stamp: stamp(10),
            version_visible: true,
            etag: Etag::Md5([0x66; 16]),
            modified: ClusterMs(1_000),
            bytes: 300,
            checksum: None,
        };
        let (from, to) = ("c".parse().unwrap(), "a/b".parse().unwrap());
        golden::<Renames>(
            (BucketId(5), &"token".parse().unwrap()),
            Renamed { from, to, stored, at: ClusterMs(1_000) },
            "0000000000000005746f6b656e00",
            "01016303612f62010a02010066666666666666666666666666666666e807ac0200e807",
        );
    }
}
