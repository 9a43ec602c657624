//! Renames: one key for another, in one command.

use super::world::{World, key, stored};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, BodyView, ObjectView, Query, Want};

const MINUTE_MS: u64 = 60 * 1000;

fn view(world: &World, text: &str) -> Result<ObjectView, Reject> {
    let query = Query::Object { bucket: world.bucket, key: key(text), version: None, want: Want::Body };
    match world.ask(query)? {
        Answer::Object(view) => Ok(view),
        answer => panic!("{answer:?}"),
    }
}

fn rename(world: &mut World, from: &str, to: &str) -> Stored {
    let rename = world.rename(from, to);
    stored(world.done(Command::RenameObject(rename)))
}

fn events(world: &World) -> Vec<(EventKind, String)> {
    let query = Query::Events { bucket: world.bucket, after: None, limit: 1000 };
    match world.ask(query) {
        Ok(Answer::Events(events)) => {
            events.into_iter().map(|(_, event)| (event.kind, event.key.to_string())).collect()
        }
        answer => panic!("{answer:?}"),
    }
}

fn usage(world: &World) -> Usage {
    match world.ask(Query::Usage(world.bucket)) {
        Ok(Answer::Usage(usage)) => usage,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn an_object_keeps_all_but_its_key() {
    let mut world = World::new();
    let put = PutObject {
        checksum: Some(Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            value: vec![1, 2, 3, 4].into(),
        }),
        attributes: Attributes {
            tags: vec![("k".to_string(), "v".to_string())],
            user: [("a".to_string(), "b".to_string())].into(),
            ..Attributes::default()
        },
        ..world.put("inline", NewBody::Inline("text".into()))
    };
    world.done(Command::PutObject(put));
    world.put_extent("extent");
    let upload = world.create_upload("slices");
    let part = world.part("slices", upload, 1, 100);
    world.done(Command::PutPart(part));
    let complete = world.complete("slices", upload, &[1]);
    world.done(Command::CompleteUpload(complete));
    for from in ["inline", "extent", "slices"] {
        let (before, used) = (view(&world, from).unwrap(), usage(&world));
        world.now.0 += MINUTE_MS;
        let stored = rename(&mut world, from, "renamed");
        let after = view(&world, "renamed").unwrap();
        let expected = Object { stamp: stored.stamp, body: after.object.body.clone(), ..before.object };
        assert_eq!((after.object, after.body), (expected, before.body), "{from}");
        assert_eq!(view(&world, from).err(), Some(Reject::NoSuchKey));
        assert_eq!(usage(&world), used);
        world.audit();
        world.delete_one("renamed", None);
        world.audit();
    }
    assert_eq!(usage(&world), Usage::default());
}

#[test]
fn what_is_at_the_new_key_gives_way() {
    let mut world = World::new();
    world.put_extent("from");
    world.put_extent("to");
    let used = usage(&world);
    rename(&mut world, "from", "to");
    assert_eq!((usage(&world).objects, usage(&world).bytes), (1, used.bytes / 2));
    let last = events(&world).split_off(2);
    assert_eq!(last, [(EventKind::Rename, "to".to_string()), (EventKind::Delete, "from".to_string())]);
    // Back again, and to where it was before: the body has its home there.
    rename(&mut world, "to", "from");
    world.audit();
    world.done(Command::CopyObject(world.copy("from", "copy")));
    rename(&mut world, "copy", "from");
    world.audit();
}

#[test]
fn nothing_happens_to_an_object_renamed_to_itself() {
    let mut world = World::new();
    let before = world.put_inline("k", "text");
    let (told, seen) = (events(&world), view(&world, "k").unwrap());
    let same = rename(&mut world, "k", "k");
    assert_eq!((same.stamp, view(&world, "k").unwrap(), events(&world)), (before.stamp, seen, told));
    world.audit();
}

/// One at `from`, and a minute younger one at `to`.
fn two_objects() -> (World, Stored) {
    let mut world = World::new();
    let old = world.put_inline("from", "x");
    world.now.0 += MINUTE_MS;
    world.put_inline("to", "y");
    (world, old)
}

#[test]
fn conditions_hold_for_both_keys() {
    let (mut world, old) = two_objects();
    let since = |ms: u64| Some(ms / 1000);
    let (before, at) = (since(old.modified.0), since(world.now.0));
    let tag = || Some(EtagCondition::OneOf(vec![Etag::Multipart([9; 16], 9)]));
    let none = ReadConditions::default;
    for (conditions, missing, there) in [
        (ReadConditions { if_match: Some(EtagCondition::Any), ..none() }, false, true),
        (ReadConditions { if_match: tag(), ..none() }, false, false),
        (ReadConditions { if_none_match: Some(EtagCondition::Any), ..none() }, true, false),
        (ReadConditions { if_none_match: tag(), if_modified_since: at, ..none() }, true, true),
        (ReadConditions { if_modified_since: before, ..none() }, false, true),
        (ReadConditions { if_modified_since: at, ..none() }, false, false),
        (ReadConditions { if_unmodified_since: before, ..none() }, true, false),
        (ReadConditions { if_unmodified_since: at, ..none() }, true, true),
    ] {
        for (to, holds) in [("missing", missing), ("to", there)] {
            let (mut world, _) = two_objects();
            let rename = RenameObject { conditions: conditions.clone(), ..world.rename("from", to) };
            let outcome = world.run(Command::RenameObject(rename));
            let failed = Reply::Rejected(Reject::PreconditionFailed);
            assert_eq!(outcome != failed, holds, "{conditions:?} at {to}: {outcome:?}");
            world.audit();
        }
    }
    for source_conditions in [
        ReadConditions { if_match: tag(), ..none() },
        ReadConditions { if_none_match: Some(EtagCondition::Any), ..none() },
        ReadConditions { if_modified_since: before, ..none() },
        ReadConditions { if_unmodified_since: since(old.modified.0 - MINUTE_MS), ..none() },
    ] {
        let rename = RenameObject { source_conditions, ..world.rename("from", "to") };
        let refused = world.rejected(Command::RenameObject(rename));
        assert_eq!(refused, Reject::SourcePreconditionFailed);
    }
    let missing = world.rename("missing", "to");
    assert_eq!(world.rejected(Command::RenameObject(missing)), Reject::NoSuchKey);
}

#[test]
fn where_there_are_versions_the_old_key_gets_a_marker() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    world.put_inline("from", "old");
    let source = world.put_inline("from", "text");
    world.put_inline("to", "before");
    world.now.0 += MINUTE_MS;
    let renamed = rename(&mut world, "from", "to");
    assert_eq!((renamed.modified, renamed.version_visible), (world.now, true), "it is a version of its own");
    assert!(matches!(view(&world, "from"), Err(Reject::DeleteMarker { current: true, .. })));
    assert_eq!(view(&world, "to").unwrap().body, BodyView::Inline("text".into()));
    assert_eq!(usage(&world).objects, 4);
    let again = world.rename("from", "to");
    assert_eq!(world.rejected(Command::RenameObject(again)), Reject::NoSuchKey);
    // Without the marker everything is there again.
    let marker = Some(VersionSelector::Stamp(fabric::ids::Stamp { ordinal: 1, ..renamed.stamp }));
    world.delete_one("from", marker);
    assert_eq!(view(&world, "from").unwrap().object.stamp, source.stamp);
    world.set_versioning(Versioning::Suspended);
    rename(&mut world, "from", "to");
    world.audit();
}

#[test]
fn a_renamed_version_is_locked_by_default_and_the_old_one_stays() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    let default = DefaultRetention { mode: RetentionMode::Compliance, days: 3, in_years: false };
    let lock = BucketSetting::ObjectLock(ObjectLock { default: Some(default) });
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(lock) }));
    let old = world.put_inline("from", "text");
    let new = rename(&mut world, "from", "to");
    for (name, version) in [("from", old.stamp), ("to", new.stamp)] {
        let delete = world.delete(name, Some(VersionSelector::Stamp(version)));
        assert_eq!(world.done(delete), Done::Deleted(vec![Err(Reject::Locked)]));
    }
    world.audit();
}

#[test]
fn a_quota_counts_what_a_rename_frees() {
    let mut world = World::new();
    world.put_extent("from");
    let quota = Quota { objects: Some(1), bytes: Some(100_000) };
    world.done(Command::SetQuota(SetQuota { of: QuotaOf::Bucket(world.bucket), quota }));
    rename(&mut world, "from", "to");
    world.set_versioning(Versioning::Enabled);
    let more = world.rename("to", "from");
    assert!(matches!(world.rejected(Command::RenameObject(more)), Reject::QuotaExceeded { .. }));
    world.audit();
}

#[test]
fn a_token_stands_for_one_rename_for_ten_minutes() {
    let mut world = World::new();
    world.put_inline("a", "first");
    let token = Some("token-1".parse().unwrap());
    let first = RenameObject { token: token.clone(), ..world.rename("a", "b") };
    let done = world.done(Command::RenameObject(first.clone()));
    world.put_inline("a", "second");
    assert_eq!(world.done(Command::RenameObject(first.clone())), done);
    assert_eq!(view(&world, "a").unwrap().body, BodyView::Inline("second".into()));
    let other = RenameObject { token, ..world.rename("a", "c") };
    assert_eq!(world.rejected(Command::RenameObject(other.clone())), Reject::TokenReused);
    world.now.0 += 10 * MINUTE_MS;
    world.done(Command::RenameObject(other));
    assert_eq!(view(&world, "c").unwrap().body, BodyView::Inline("second".into()));
    world.audit();
}
