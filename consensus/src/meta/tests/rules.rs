//! The rules, one by one.

use bytes::Bytes;
use fabric::ids::{ExtentId, Incarnation, LayoutVersion, NodeId, RaftId, SessionId, Stamp};
use fabric::limits::{COMPLETED_KEPT, PART_BYTES_MIN, SESSION_OPEN_MAX};

use super::world::{World, add_user, etag, key, stored};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::names::{ClusterName, UserName};
use crate::meta::overlay::*;
use crate::meta::query::{AllChanges, Answer, BodyView, Changes, ObjectView, PlacedOf, Query, Want};
use crate::meta::store::{Rows, TableId};
use crate::meta::tables::{Buckets, Cluster, Garbages, Replies, Sessions, get, put, scan_all};

fn view(world: &World, text: &str, version: Option<VersionSelector>) -> Result<ObjectView, Reject> {
    let query = Query::Object { bucket: world.bucket, key: key(text), version, want: Want::Body };
    world.ask(query).map(|answer| match answer {
        Answer::Object(view) => view,
        answer => panic!("{answer:?}"),
    })
}

fn text_of(world: &World, key: &str, version: Option<VersionSelector>) -> Result<String, Reject> {
    match view(world, key, version)?.body {
        BodyView::Inline(payload) => Ok(String::from_utf8(payload.to_vec()).unwrap()),
        body => panic!("{body:?}"),
    }
}

fn garbage(world: &World) -> Vec<(fabric::ids::BucketId, fabric::ids::Stamp, Garbage)> {
    match world.ask(Query::Garbage { after: None, limit: 1000 }) {
        Ok(Answer::Garbage(garbage)) => garbage,
        answer => panic!("{answer:?}"),
    }
}

/// All sessions have read everything so far.
fn read_up(world: &mut World) {
    let oldest_read = world.index;
    world.done(Command::RenewSession(RenewSession { oldest_write: 0, oldest_read, pinned: Vec::new() }));
}

#[test]
fn a_repeat_gets_the_first_reply_and_a_late_one_none() {
    let mut world = World::new();
    let first = Command::PutObject(world.put("k", NewBody::Inline(Bytes::from_static(b"first"))));
    let sequence = world.sequence + 1;
    let reply = world.run(first.clone());
    world.put_inline("k", "second");
    assert_eq!(world.apply(world.session, sequence, first.clone()), reply);
    assert_eq!(text_of(&world, "k", None).unwrap(), "second");

    world.lowest_open = sequence + 1;
    world.put_inline("j", "raises the lowest open sequence");
    assert_eq!(get::<Replies>(&world.rows, (world.session, sequence)).unwrap(), None);
    world.lowest_open = 1;
    assert_eq!(world.apply(world.session, sequence, first.clone()), Reply::TooLate);
    assert_eq!(get::<Sessions>(&world.rows, world.session).unwrap().unwrap().lowest_open, sequence + 1);

    // Planted: the retry is applied again and undoes the newer write.
    let sequence = world.sequence + 1;
    world.run(first.clone());
    world.put_inline("k", "third");
    world.context.planted.skip_reply_cache = true;
    world.apply(world.session, sequence, first);
    assert_eq!(text_of(&world, "k", None).unwrap(), "first");
    world.audit();
}

#[test]
fn packing_changes_only_where_bodies_are() {
    let mut world = World::new();
    for (key, text) in [("a", "first"), ("b", "second"), ("c", "third")] {
        world.put_inline(key, text);
    }
    let inline = world.inline(1000);
    let before: Vec<_> = ["a", "b", "c"].map(|key| view(&world, key, None).unwrap().object).into();
    // One is gone and one is another version by the time the command comes.
    world.delete_one("b", None);
    world.put_inline("c", "newer");
    let pack = world.pack(&inline);
    assert_eq!(world.done(Command::PackInline(pack.clone())), Done::Nothing);
    let moved = view(&world, "a", None).unwrap();
    assert_eq!(moved.object, Object { body: moved.object.body.clone(), ..before[0].clone() });
    assert!(matches!(&moved.body, BodyView::Pieces(pieces) if pieces[0].offset == 0 && pieces[0].bytes == 5));
    assert_eq!(text_of(&world, "c", None).unwrap(), "newer");
    world.audit();
    // A copy names the extent as well; it is garbage once both are gone.
    world.done(Command::CopyObject(world.copy("a", "copy")));
    world.delete_one("a", None);
    read_up(&mut world);
    read_up(&mut world);
    assert!(garbage(&world).is_empty());
    assert!(matches!(view(&world, "copy", None).unwrap().body, BodyView::Pieces(_)));
    world.delete_one("copy", None);
    read_up(&mut world);
    read_up(&mut world);
    assert!(matches!(&garbage(&world)[..], [(_, _, Garbage::Extent(extent))] if extent.id == pack.extent.id));
    world.audit();

    // Where nothing is left to move, the extent stays unnamed; one too short is refused.
    let nothing = world.pack(&inline[..1]);
    assert_eq!(world.rejected(Command::PackInline(nothing)), Reject::SourceChanged);
    let inline = world.inline(1000);
    let mut short = world.pack(&inline);
    short.payloads[0].offset = 1;
    assert!(matches!(world.rejected(Command::PackInline(short)), Reject::Malformed(_)));
    let mut twice = world.pack(&inline);
    twice.payloads.push(twice.payloads[0].clone());
    assert!(matches!(world.rejected(Command::PackInline(twice)), Reject::Malformed(_)));
    world.audit();
}

#[test]
fn payloads_to_pack_are_those_that_are_old_of_one_bucket() {
    let mut world = World::new();
    for key in ["a", "b", "c"] {
        world.put_inline(key, "12345");
    }
    let young = world.index + 1;
    world.put_inline("b", "young");
    let photos = world.bucket;
    world.bucket = world.create_bucket("other");
    world.put_inline("z", "12345");
    let page = |above, after, before, bytes| match world.ask(Query::Inline { above, after, before, bytes }) {
        Ok(Answer::Inline(page)) => page,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(page(20, None, u64::MAX, 1000).payloads, []);
    assert_eq!(page(20, None, u64::MAX, 1000).total_bytes, 20);
    let keys = |page: &crate::meta::query::InlinePage| {
        page.payloads.iter().map(|(key, ..)| key.as_str().to_string()).collect::<Vec<_>>()
    };
    let first = page(19, None, young, 1000);
    assert_eq!((keys(&first), first.bucket.unwrap().id), (vec!["a".to_string(), "c".to_string()], photos));
    let second = page(19, first.position, u64::MAX, 1000);
    assert_eq!((keys(&second), second.position), (vec!["z".to_string()], None));
    let small = page(19, None, u64::MAX, 1);
    assert_eq!(keys(&small), ["a"], "one in any case");
    assert_eq!(keys(&page(19, small.position, u64::MAX, 10)), ["b", "c"]);
}

#[test]
fn giving_up_settles_a_command_either_way() {
    let mut world = World::new();
    let put = Command::PutObject(world.put("k", NewBody::Inline(Bytes::from_static(b"stalled"))));
    let give_up = |sequence| Command::GiveUp(GiveUp { sequence });
    // It was applied: the first reply comes to light.
    let reply = world.run(put.clone());
    let applied = world.done(give_up(world.sequence));
    assert_eq!(applied, Done::GivenUp(Some(Box::new(reply))));
    // It was not: it never will be, though older sequences are open and the lowest stays.
    world.sequence += 1;
    let stalled = world.sequence;
    assert_eq!(world.done(give_up(stalled)), Done::GivenUp(None));
    world.put_inline("k", "newer");
    assert_eq!(world.apply(world.session, stalled, put.clone()), Reply::TooLate);
    assert_eq!(world.done(give_up(stalled)), Done::GivenUp(None));
    assert_eq!(text_of(&world, "k", None).unwrap(), "newer");
    // What is decided, and what is yet to come, is not given up.
    world.lowest_open = stalled + 1;
    world.put_inline("j", "raises the lowest open sequence");
    assert!(matches!(world.rejected(give_up(stalled)), Reject::Malformed(_)));
    for ahead in [1, 2] {
        let sequence = world.sequence + ahead;
        assert!(matches!(world.rejected(give_up(sequence)), Reject::Malformed(_)));
    }

    // Planted: the late command undoes the newer write.
    world.context.planted.skip_lowest_sequence = true;
    world.apply(world.session, stalled, put);
    assert_eq!(text_of(&world, "k", None).unwrap(), "stalled");
    world.audit();
}

#[test]
fn sessions_are_bounded_end_and_are_found_by_their_nonce() {
    let mut world = World::new();
    let other = world.open_session(2);
    assert_eq!(world.open_session(2), other);
    let delete = world.delete("k", None);
    let far = SESSION_OPEN_MAX + 1;
    assert_eq!(world.apply(other, far, delete.clone()), Reply::Rejected(Reject::SessionFull));
    assert!(matches!(world.apply(other, far - 1, delete.clone()), Reply::Done(_)));

    world.done(Command::EndSession(EndSession { session: other }));
    assert_eq!(world.apply(other, 1, delete.clone()), Reply::Rejected(Reject::SessionEnded));
    assert_eq!(get::<Replies>(&world.rows, (other, far - 1)).unwrap(), None);
    assert_ne!(world.open_session(2), other);
    let none = SessionId { epoch: 0, number: 0 };
    assert!(matches!(world.apply(none, 0, delete), Reply::Rejected(Reject::Malformed(_))));
}

#[test]
fn a_renewal_only_raises() {
    let mut world = World::new();
    let renew = |oldest_write, oldest_read| RenewSession { oldest_write, oldest_read, pinned: Vec::new() };
    world.done(Command::RenewSession(renew(7, 5)));
    world.done(Command::RenewSession(renew(3, 2)));
    let session = get::<Sessions>(&world.rows, world.session).unwrap().unwrap();
    assert_eq!((session.oldest_write, session.oldest_read), (7, 5));
    world.done(Command::RenewSession(renew(7, u64::MAX)));
    assert_eq!(get::<Sessions>(&world.rows, world.session).unwrap().unwrap().oldest_read, world.index);
}

#[test]
fn a_late_extent_is_refused() {
    let mut world = World::new();
    let (early, late) = (world.extent(100_000), world.extent(100_000));
    world.done(Command::RenewSession(RenewSession {
        oldest_write: late.id.number(),
        oldest_read: 0,
        pinned: Vec::new(),
    }));
    let put = world.put("k", NewBody::Extent(early));
    assert_eq!(world.rejected(Command::PutObject(put.clone())), Reject::LateExtent);
    // Planted: it is named, though its chunks may be gone.
    world.context.planted.accept_ended_session = true;
    world.done(Command::PutObject(put));
    world.context.planted.accept_ended_session = false;
    let put = world.put("k", NewBody::Extent(late.clone()));
    world.done(Command::PutObject(put.clone()));
    assert!(matches!(world.rejected(Command::PutObject(put)), Reject::Malformed(_)));

    // A long write is pinned: it holds back no others and may be named still.
    let (long, next) = (world.extent(100_000), world.extent(100_000));
    let oldest_write = next.id.number() + 1;
    let pinned = vec![long.id];
    world.done(Command::RenewSession(RenewSession { oldest_write, oldest_read: 0, pinned }));
    let put = world.put("long", NewBody::Extent(next));
    assert_eq!(world.rejected(Command::PutObject(put)), Reject::LateExtent);
    let put = world.put("long", NewBody::Extent(long));
    world.done(Command::PutObject(put));

    let other = world.open_session(2);
    let id = fabric::ids::ExtentId::new(1, other, 1);
    world.done(Command::EndSession(EndSession { session: other }));
    let put = world.put("j", NewBody::Extent(Extent { id, ..late }));
    assert_eq!(world.rejected(Command::PutObject(put)), Reject::LateExtent);
    world.audit();
}

#[test]
fn extents_name_a_layout_and_enough_copies() {
    let mut world = World::new();
    let extent = world.extent(100_000);
    for wrong in [
        Extent { layout: fabric::ids::LayoutVersion(2), ..extent.clone() },
        Extent { confirmed: 0b1111, ..extent.clone() },
        Extent { confirmed: 0b001, ..extent.clone() },
        Extent { bytes: 0, ..extent.clone() },
        Extent { chunk_bytes: 0, ..extent.clone() },
        Extent { chunk_bytes: 1, bytes: (1 << 20) + 1, ..extent.clone() },
    ] {
        let put = world.put("k", NewBody::Extent(wrong));
        assert!(matches!(world.rejected(Command::PutObject(put)), Reject::Malformed(_)));
    }
}

#[test]
fn conditions_on_writes() {
    let mut world = World::new();
    let absent = Expect { absent: true, ..Expect::default() };
    let tag = |condition| Expect { etag: Some(condition), ..Expect::default() };
    let put = |world: &World, expect| {
        let put = world.put("k", NewBody::Inline(Bytes::from_static(b"x")));
        Command::PutObject(PutObject { expect, ..put })
    };
    let command = put(&world, tag(EtagCondition::Any));
    assert_eq!(world.rejected(command), Reject::NoSuchKey);
    let command = put(&world, tag(EtagCondition::OneOf(vec![etag(1)])));
    assert_eq!(world.rejected(command), Reject::NoSuchKey);
    let command = put(&world, absent.clone());
    world.done(command.clone());
    assert_eq!(world.rejected(command.clone()), Reject::PreconditionFailed);
    for (condition, holds) in [
        (EtagCondition::Any, true),
        (EtagCondition::OneOf(vec![etag(2), etag(1)]), true),
        (EtagCondition::OneOf(vec![etag(2)]), false),
        (EtagCondition::OneOf(vec![]), false),
    ] {
        let command = put(&world, tag(condition));
        assert_eq!(matches!(world.run(command), Reply::Done(_)), holds);
    }
    world.context.planted.skip_condition = true;
    world.done(command);
}

#[test]
fn conditions_on_deletes_have_an_outcome_per_key() {
    let mut world = World::new();
    world.put_inline("a", "x");
    world.put_inline("b", "x");
    let key = |text: &str, expect| DeleteKey { key: key(text), version: None, expect };
    let right = Expect { bytes: Some(1), modified_seconds: Some(1_000), ..Expect::default() };
    let wrong = Expect { etag: Some(EtagCondition::OneOf(vec![etag(9)])), ..Expect::default() };
    let keys =
        vec![key("a", right), key("b", wrong.clone()), key("none", wrong), key("none", Expect::default())];
    let delete = DeleteObjects { bucket: world.bucket, keys, origin: Origin::default() };
    let expected = vec![
        Ok(DeletedKey::default()),
        Err(Reject::PreconditionFailed),
        Err(Reject::NoSuchKey),
        Ok(DeletedKey::default()),
    ];
    assert_eq!(world.done(Command::DeleteObjects(delete)), Done::Deleted(expected));
    assert_eq!(view(&world, "a", None), Err(Reject::NoSuchKey));
    assert!(view(&world, "b", None).is_ok());
    world.audit();
}

#[test]
fn an_overwritten_extent_is_garbage_once_nobody_reads_it() {
    let mut world = World::new();
    let old = world.put_extent("k");
    let new = world.put_extent("k");
    world.audit();
    assert_eq!(garbage(&world), vec![]);
    let reader = world.open_session(2);
    read_up(&mut world);
    read_up(&mut world);
    let found = garbage(&world);
    assert_eq!(found.iter().map(|row| &row.2).collect::<Vec<_>>(), [&Garbage::Extent(old.clone())]);

    let behind = Some((found[0].0, found[0].1));
    assert_eq!(world.ask(Query::Garbage { after: behind, limit: 1000 }), Ok(Answer::Garbage(vec![])));

    // A pinned extent holds back nothing but itself.
    let pin = RenewSession { oldest_write: 0, oldest_read: 0, pinned: vec![old.id] };
    world.apply(reader, 1, Command::RenewSession(pin));
    assert_eq!(garbage(&world), vec![]);
    world.done(Command::EndSession(EndSession { session: reader }));
    let done = found.iter().map(|row| (row.0, row.1)).collect();
    world.done(Command::CollectGarbage(CollectGarbage { done, take_apart: vec![] }));
    assert_eq!(garbage(&world), vec![]);
    let home = Home { bucket: world.bucket, key: key("k") };
    let named = world.ask(Query::Named(vec![(home.clone(), old.id), (home, new.id)]));
    assert_eq!(named, Ok(Answer::Named(vec![false, true])));
    world.audit();
}

#[test]
fn copies_share_the_body_and_keep_it_when_the_first_goes() {
    let mut world = World::new();
    let extent = world.put_extent("a");
    let copy = world.copy("a", "b");
    world.done(Command::CopyObject(copy));
    let copy = world.copy("b", "c");
    world.done(Command::CopyObject(copy));
    world.delete_one("a", None);
    world.delete_one("b", None);
    world.audit();
    let BodyView::Pieces(pieces) = view(&world, "c", None).unwrap().body else { panic!() };
    assert_eq!(pieces[0].extent, extent);
    // A new object under the home's key is another body; copying back onto the home finds the shared one.
    let copy = world.copy("c", "a");
    world.done(Command::CopyObject(copy));
    world.delete_one("c", None);
    world.audit();
    world.delete_one("a", None);
    world.audit();
    read_up(&mut world);
    read_up(&mut world);
    assert_eq!(garbage(&world).len(), 1);

    world.put_inline("small", "bytes");
    let copy = world.copy("small", "small2");
    world.done(Command::CopyObject(copy));
    world.delete_one("small", None);
    assert_eq!(text_of(&world, "small2", None).unwrap(), "bytes");
    world.audit();
}

#[test]
fn a_copy_onto_itself_needs_new_attributes_and_keeps_the_body() {
    let mut world = World::new();
    world.put_extent("a");
    world.put_inline("b", "x");
    for text in ["a", "b"] {
        let copy = world.copy(text, text);
        assert_eq!(world.rejected(Command::CopyObject(copy.clone())), Reject::CopyOntoItself);
        let user = [("k".to_string(), "v".to_string())].into();
        let attributes = Attributes { user, ..Attributes::default() };
        let copy = CopyObject { attributes: Some(attributes.clone()), ..copy };
        world.done(Command::CopyObject(copy));
        assert_eq!(view(&world, text, None).unwrap().object.attributes, attributes);
        world.audit();
    }
    assert_eq!(text_of(&world, "b", None).unwrap(), "x");
    read_up(&mut world);
    read_up(&mut world);
    assert_eq!(garbage(&world), vec![]);
}

#[test]
fn conditions_on_the_source_of_a_copy() {
    let mut world = World::new();
    let source = world.put_inline("a", "x");
    let one = |byte| Some(EtagCondition::OneOf(vec![etag(byte)]));
    let none = ReadConditions::default();
    let second = 1_000;
    for (conditions, holds) in [
        (ReadConditions { if_match: one(1), ..none.clone() }, true),
        (ReadConditions { if_match: one(2), ..none.clone() }, false),
        (ReadConditions { if_none_match: one(1), ..none.clone() }, false),
        (ReadConditions { if_none_match: one(2), ..none.clone() }, true),
        (ReadConditions { if_modified_since: Some(second), ..none.clone() }, false),
        (ReadConditions { if_modified_since: Some(second - 1), ..none.clone() }, true),
        (ReadConditions { if_unmodified_since: Some(second), ..none.clone() }, true),
        (ReadConditions { if_unmodified_since: Some(second - 1), ..none.clone() }, false),
        (ReadConditions { if_match: one(1), if_unmodified_since: Some(0), ..none.clone() }, true),
        (ReadConditions { if_none_match: one(1), if_modified_since: Some(0), ..none.clone() }, false),
    ] {
        let copy = CopyObject { source_conditions: conditions.clone(), ..world.copy("a", "b") };
        let expected = if holds { None } else { Some(Reject::SourcePreconditionFailed) };
        let refused = match world.run(Command::CopyObject(copy)) {
            Reply::Rejected(reject) => Some(reject),
            _ => None,
        };
        assert_eq!(refused, expected, "{conditions:?}");
    }
    let copy = CopyObject { source_seen: Some(source.stamp), ..world.copy("a", "b") };
    world.done(Command::CopyObject(copy.clone()));
    world.put_inline("a", "y");
    assert_eq!(world.rejected(Command::CopyObject(copy)), Reject::SourceChanged);
    let copy = world.copy("none", "b");
    assert_eq!(world.rejected(Command::CopyObject(copy)), Reject::NoSuchKey);
}

#[test]
fn versions_markers_and_the_null_version() {
    let mut world = World::new();
    world.put_inline("k", "null");
    world.set_versioning(Versioning::Enabled);
    let one = world.put_inline("k", "one");
    assert!(one.version_visible);
    let by = |stamp| Some(VersionSelector::Stamp(stamp));
    assert_eq!(text_of(&world, "k", Some(VersionSelector::Null)).unwrap(), "null");
    assert_eq!(text_of(&world, "k", by(one.stamp)).unwrap(), "one");
    world.audit();

    let marker: Stamp = world.delete_one("k", None).marker.unwrap().parse().unwrap();
    let hidden = |version: &str, current| {
        let modified = ClusterMs(1_000_000);
        Err(Reject::DeleteMarker { version: version.to_string(), modified, current })
    };
    assert_eq!(view(&world, "k", None), hidden(&marker.to_string(), true));
    assert_eq!(view(&world, "k", by(marker)), hidden(&marker.to_string(), false));
    world.audit();
    let removed = world.delete_one("k", by(marker));
    assert_eq!((removed.version.clone(), removed.marker), (Some(marker.to_string()), removed.version));
    assert_eq!(text_of(&world, "k", None).unwrap(), "one");
    world.audit();

    world.set_versioning(Versioning::Suspended);
    world.put_inline("k", "null again");
    assert_eq!(text_of(&world, "k", Some(VersionSelector::Null)).unwrap(), "null again");
    assert_eq!(text_of(&world, "k", by(one.stamp)).unwrap(), "one");
    world.audit();
    assert_eq!(world.delete_one("k", None).marker.as_deref(), Some("null"));
    assert_eq!(view(&world, "k", Some(VersionSelector::Null)), hidden("null", false));
    world.audit();
    assert_eq!(world.delete_one("k", None).marker.as_deref(), Some("null"));
    world.audit();
    world.delete_one("k", Some(VersionSelector::Null));
    assert_eq!(text_of(&world, "k", None).unwrap(), "one");
    world.delete_one("k", by(one.stamp));
    world.audit();
    assert_eq!(view(&world, "k", by(one.stamp)), Err(Reject::NoSuchVersion));
    let delete = DeleteBucket { bucket: world.bucket };
    world.done(Command::DeleteBucket(delete));
    world.audit();
}

#[test]
fn a_multipart_upload_becomes_one_object() {
    let mut world = World::new();
    let upload = world.create_upload("k");
    let big = PART_BYTES_MIN;
    for (number, bytes) in [(1, big), (2, big), (3, big), (7, 10)] {
        let part = world.part("k", upload, number, bytes);
        world.done(Command::PutPart(part));
    }
    let replaced = world.part("k", upload, 2, big + 1);
    world.done(Command::PutPart(replaced));
    world.audit();

    let complete = world.complete("k", upload, &[1, 3, 7]);
    for (wrong, reject) in [
        (world.complete("k", upload, &[3, 1]), Reject::InvalidPartOrder),
        (world.complete("k", upload, &[1, 1]), Reject::InvalidPartOrder),
        (world.complete("k", upload, &[1, 4]), Reject::InvalidPart { number: 4 }),
        (world.complete("k", upload, &[1, 7, 8]), Reject::InvalidPart { number: 8 }),
        (CompleteUpload { bytes: Some(1), ..complete.clone() }, Reject::WrongSize),
        (
            CompleteUpload {
                expect: Expect { etag: Some(EtagCondition::Any), ..Expect::default() },
                ..complete.clone()
            },
            Reject::NoSuchKey,
        ),
    ] {
        assert_eq!(world.rejected(Command::CompleteUpload(wrong)), reject);
    }
    let small = world.part("k", upload, 8, 10);
    world.done(Command::PutPart(small));
    let wrong = world.complete("k", upload, &[7, 8]);
    assert_eq!(world.rejected(Command::CompleteUpload(wrong)), Reject::PartTooSmall { number: 7, bytes: 10 });

    let first = stored(world.done(Command::CompleteUpload(complete.clone())));
    // MD5 of sixteen bytes 01, sixteen 03, sixteen 07.
    assert_eq!(first.etag.to_string(), "95b3152eb1248125bd37bdc4494903b2-3");
    assert_eq!(first.bytes, 2 * big + 10);
    world.audit();
    assert_eq!(stored(world.done(Command::CompleteUpload(complete.clone()))), first);
    let view = view(&world, "k", None).unwrap();
    assert_eq!(view.parts.iter().map(|part| part.part).collect::<Vec<_>>(), [1, 3, 7]);
    let part = world.part("k", upload, 1, big);
    assert_eq!(world.rejected(Command::PutPart(part)), Reject::NoSuchUpload);

    // Time has jumped: nothing expires for ten minutes.
    world.now.0 += COMPLETED_KEPT.as_millis() as u64;
    assert_eq!(stored(world.done(Command::CompleteUpload(complete.clone()))), first);
    world.now.0 += 10 * 60 * 1000 - 1;
    assert_eq!(stored(world.done(Command::CompleteUpload(complete.clone()))), first);
    world.now.0 += 1;
    assert_eq!(world.rejected(Command::CompleteUpload(complete)), Reject::NoSuchUpload);
}

#[test]
fn completed_uploads_are_trimmed_by_later_ones() {
    let mut world = World::new();
    for _ in 0..5 {
        complete_one(&mut world);
    }
    world.now.0 += COMPLETED_KEPT.as_millis() as u64;
    world.put_inline("k", "x");
    world.now.0 += 10 * 60 * 1000;
    for _ in 0..5 {
        complete_one(&mut world);
    }
    let kept = scan_all::<crate::meta::tables::Completeds>(&world.rows).unwrap();
    assert!(kept.count() <= 6);
    world.audit();
}

fn complete_one(world: &mut World) -> Stored {
    let upload = world.create_upload("k");
    let part = world.part("k", upload, 1, 10);
    world.done(Command::PutPart(part));
    let complete = world.complete("k", upload, &[1]);
    stored(world.done(Command::CompleteUpload(complete)))
}

#[test]
fn bodies_of_slices_are_shared_and_taken_apart() {
    let mut world = World::new();
    complete_one(&mut world);
    let copy = world.copy("k", "j");
    world.done(Command::CopyObject(copy));
    world.delete_one("k", None);
    world.audit();
    let view = view(&world, "j", None).unwrap();
    assert!(matches!(view.body, BodyView::Pieces(pieces) if pieces.len() == 1));
    world.delete_one("j", None);
    world.audit();
    read_up(&mut world);
    read_up(&mut world);
    let found = garbage(&world);
    let [(bucket, stamp, Garbage::Body { .. })] = found.as_slice() else { panic!("{found:?}") };
    // A body is never done by word alone.
    let place = vec![(*bucket, *stamp)];
    world.done(Command::CollectGarbage(CollectGarbage { done: place.clone(), take_apart: vec![] }));
    world.audit();
    world.done(Command::CollectGarbage(CollectGarbage { done: vec![], take_apart: place }));
    world.audit();
    read_up(&mut world);
    read_up(&mut world);
    assert!(matches!(garbage(&world).as_slice(), [(_, _, Garbage::Extent(_))]));
}

#[test]
fn large_bodies_are_taken_apart_in_steps() {
    let mut world = World::new();
    let upload = world.create_upload("k");
    for number in 1..=1_500 {
        let part = world.part("k", upload, number, 10);
        world.done(Command::PutPart(part));
    }
    world.done(Command::AbortUpload(AbortUpload { bucket: world.bucket, key: key("k"), upload }));
    world.audit();
    read_up(&mut world);
    read_up(&mut world);
    for (step, rows) in [(1, 1_001), (2, 1_500)] {
        let bodies = garbage(&world).iter().filter(|row| matches!(row.2, Garbage::Body { .. })).count();
        assert_eq!(bodies, 1, "step {step}");
        let body = garbage(&world).into_iter().find(|row| matches!(row.2, Garbage::Body { .. })).unwrap();
        let take_apart = vec![(body.0, body.1)];
        world.done(Command::CollectGarbage(CollectGarbage { done: vec![], take_apart }));
        world.audit();
        assert_eq!(scan_all::<crate::meta::tables::Garbages>(&world.rows).unwrap().count(), rows);
    }
}

#[test]
fn an_empty_part_is_a_slice_without_an_extent() {
    let mut world = World::new();
    let upload = world.create_upload("k");
    let part = world.part("k", upload, 1, 0);
    world.done(Command::PutPart(part));
    let complete = world.complete("k", upload, &[1]);
    assert_eq!(stored(world.done(Command::CompleteUpload(complete))).bytes, 0);
    let view = view(&world, "k", None).unwrap();
    assert_eq!((view.body, view.parts.len()), (BodyView::Pieces(vec![]), 1));
    world.delete_one("k", None);
    world.audit();
}

#[test]
fn missing_copies_are_owed_until_paid_or_gone() {
    let mut world = World::new();
    let extent = Extent { confirmed: 0b101, ..world.extent(100_000) };
    let put = world.put("k", NewBody::Extent(extent.clone()));
    world.done(Command::PutObject(put));
    world.audit();
    let debts =
        |world: &World, node, after| match world.ask(Query::Debts { node: NodeId(node), after, limit: 10 }) {
            Ok(Answer::Debts(debts)) => debts,
            answer => panic!("{answer:?}"),
        };
    let home = Home { bucket: world.bucket, key: key("k") };
    assert_eq!(debts(&world, 2, None), vec![(home.clone(), extent.clone())]);
    assert_eq!(debts(&world, 2, Some((home.clone(), extent.id))), vec![]);
    assert_eq!(debts(&world, 1, None), vec![]);
    let extents = vec![(home.clone(), extent.id), (home.clone(), world.extent(1).id)];
    world.done(Command::PayDebts(PayDebts { node: NodeId(2), extents }));
    assert_eq!(debts(&world, 2, None), vec![]);
    world.audit();
    let BodyView::Pieces(pieces) = view(&world, "k", None).unwrap().body else { panic!() };
    assert_eq!(pieces[0].extent.confirmed, 0b111);

    let extent = Extent { confirmed: 0b011, ..world.extent(100_000) };
    let put = world.put("k", NewBody::Extent(extent));
    world.done(Command::PutObject(put));
    world.delete_one("k", None);
    assert_eq!(debts(&world, 3, None), vec![]);
    world.audit();
}

#[test]
fn what_a_node_lost_is_owed_until_it_verified_its_partitions() {
    let mut world = World::new();
    let owed = |world: &World, node| match world.ask(Query::Absences(NodeId(node))) {
        Ok(Answer::Absences(rows)) => rows,
        answer => panic!("{answer:?}"),
    };
    let lose = |world: &mut World, node| {
        world.done(Command::ReportLoss(ReportLoss { node: NodeId(node) }));
        world.index
    };
    lose(&mut world, 2);
    assert_eq!(owed(&world, 2), vec![], "where nothing is named, nothing is owed");

    let before = world.extent(100_000);
    world.done(Command::PutObject(world.put("before", NewBody::Extent(before.clone()))));
    let index = lose(&mut world, 2);
    let absence = Absence { since: 0, layout: LayoutVersion(1), index };
    assert_eq!(owed(&world, 2), vec![(0, absence)]);
    let Ok(Answer::Status(status)) = world.ask(Query::Status) else { panic!() };
    assert_eq!(status.absences, vec![(NodeId(2), 1)]);

    // Named while it is owed: the node may have had it before the loss, so it owes it.
    let during = world.extent(100_000);
    world.done(Command::PutObject(world.put("during", NewBody::Extent(during.clone()))));
    world.audit();
    let BodyView::Pieces(pieces) = view(&world, "during", None).unwrap().body else { panic!() };
    assert_eq!(pieces[0].extent.confirmed, 0b101);

    let placed =
        |world: &World, of, after| match world.ask(Query::Placed { node: NodeId(2), of, after, limit: 1 }) {
            Ok(Answer::Placed { extents, next }) => (extents, next),
            answer => panic!("{answer:?}"),
        };
    let home = |name: &str| Home { bucket: world.bucket, key: key(name) };
    let next = Some((home("before"), before.id));
    assert_eq!(placed(&world, PlacedOf::Absences, None), (vec![(home("before"), before)], next.clone()));
    let (extents, next) = placed(&world, PlacedOf::Absences, next);
    assert_eq!(extents[0].1.id, during.id);
    assert_eq!(placed(&world, PlacedOf::Absences, next.clone()), (vec![], None));

    let end = |world: &mut World, index| {
        let end = EndAbsence { node: NodeId(2), partitions: vec![0, 7], index };
        world.done(Command::EndAbsence(end));
    };
    let again = lose(&mut world, 2);
    end(&mut world, index);
    assert_eq!(owed(&world, 2).len(), 1, "an older verification does not end a later loss");
    end(&mut world, again);
    assert_eq!((owed(&world, 2), placed(&world, PlacedOf::Absences, None)), (vec![], (vec![], None)));
    assert_eq!(placed(&world, PlacedOf::All, None).0.len(), 1);
    let after = world.extent(100_000);
    world.done(Command::PutObject(world.put("after", NewBody::Extent(after))));
    let BodyView::Pieces(pieces) = view(&world, "after", None).unwrap().body else { panic!() };
    assert_eq!(pieces[0].extent.confirmed, 0b111);
    world.audit();
}

#[test]
fn where_nobody_is_sure_everybody_is_believed() {
    let mut world = World::new();
    let first = world.extent(100_000);
    world.done(Command::PutObject(world.put("first", NewBody::Extent(first))));
    for node in 1..=3 {
        world.done(Command::ReportLoss(ReportLoss { node: NodeId(node) }));
    }
    let extent = Extent { confirmed: 0b011, ..world.extent(100_000) };
    world.done(Command::PutObject(world.put("k", NewBody::Extent(extent))));
    let BodyView::Pieces(pieces) = view(&world, "k", None).unwrap().body else { panic!() };
    assert_eq!(pieces[0].extent.confirmed, 0b011);
    world.audit();
}

#[test]
fn users_keys_and_buckets() {
    let mut world = World::new();
    assert_eq!(world.rejected(add_user("anna", "KEY2")), Reject::UserExists);
    assert_eq!(world.rejected(add_user("ben", "KEY1")), Reject::AccessKeyExists);
    world.done(add_user("ben", "KEY2"));
    let remove = |id: &str| Command::RemoveAccessKey(RemoveAccessKey { id: id.parse().unwrap() });
    assert_eq!(world.rejected(remove("KEY2")), Reject::NoSuchAccessKey);
    let Command::AddUser(AddUser { key: second, .. }) = add_user("ben", "KEY3") else { panic!() };
    world.done(Command::AddAccessKey(AddAccessKey { key: second }));
    world.done(remove("KEY2"));
    assert!(matches!(world.ask(Query::AccessKey("KEY2".parse().unwrap())), Ok(Answer::AccessKey(None))));

    let create = CreateBucket { name: "photos".parse().unwrap(), owner: "ben".parse().unwrap() };
    let owner = "anna".parse().unwrap();
    assert_eq!(world.rejected(Command::CreateBucket(create)), Reject::BucketExists { owner });
    let remove_user = |name: &str| Command::RemoveUser(RemoveUser { name: name.parse().unwrap() });
    assert_eq!(world.rejected(remove_user("anna")), Reject::UserOwnsBuckets);
    assert_eq!(world.rejected(remove_user("carl")), Reject::NoSuchUser);
    world.done(remove_user("ben"));
    assert!(matches!(world.ask(Query::AccessKey("KEY3".parse().unwrap())), Ok(Answer::AccessKey(None))));

    let delete = Command::DeleteBucket(DeleteBucket { bucket: world.bucket });
    let upload = world.create_upload("k");
    assert_eq!(world.rejected(delete.clone()), Reject::BucketNotEmpty);
    world.done(Command::AbortUpload(AbortUpload { bucket: world.bucket, key: key("k"), upload }));
    world.put_inline("k", "x");
    assert_eq!(world.rejected(delete.clone()), Reject::BucketNotEmpty);
    world.delete_one("k", None);
    world.done(delete.clone());
    assert_eq!(world.rejected(delete), Reject::NoSuchBucket);
    let old = world.bucket;
    assert_ne!(world.create_bucket("photos"), old);
    world.audit();
    let users = world.ask(Query::Users).unwrap();
    assert!(matches!(users, Answer::Users(users) if users.len() == 1 && users[0].0.buckets == 1));
}

#[test]
fn nodes_and_layouts_are_idempotent_and_ascend() {
    let mut world = World::new();
    let row = |starts, incarnation| NodeRow {
        id: NodeId(1),
        incarnation: fabric::ids::Incarnation(incarnation),
        address: String::new(),
        zone: String::new(),
        capacity_bytes: 1,
        starts,
        release: String::new(),
        voter: None,
        run: 0,
    };
    let set = |row| Command::SetNode(SetNode { row });
    world.done(set(row(2, 7)));
    world.done(set(row(2, 7)));
    // The same in everything, but another process: it runs on a copy.
    assert_eq!(world.rejected(set(NodeRow { run: 1, ..row(2, 7) })), Reject::StaleNode);
    assert_eq!(world.rejected(set(row(1, 7))), Reject::StaleNode);
    world.done(set(row(3, 7)));
    world.done(set(row(1, 8)));

    let layout = |version, owners: Vec<u16>| {
        let partitions = vec![owners.into_iter().map(NodeId).collect()];
        let version = fabric::ids::LayoutVersion(version);
        Command::SetLayout(SetLayout { layout: fabric::placement::Layout { version, partitions } })
    };
    world.done(layout(1, vec![1, 2, 3]));
    assert_eq!(world.rejected(layout(1, vec![1, 2])), Reject::LayoutExists);
    assert_eq!(world.rejected(layout(3, vec![1, 2])), Reject::LayoutExists);
    assert!(matches!(world.rejected(layout(2, vec![1, 1])), Reject::Malformed(_)));
    world.done(layout(2, vec![1, 2]));
    assert!(
        matches!(world.ask(Query::Layout(None)), Ok(Answer::Layout(Some(layout))) if layout.version.0 == 2)
    );
}

/// After the log went back, indexes and numbers come again; with the raised epoch nothing is drawn twice.
#[test]
fn whatever_is_drawn_carries_the_epoch() {
    let mut world = World::new();
    let before = world.put_inline("k", "x");
    let cluster = get::<Cluster>(&world.rows, ()).unwrap().unwrap();
    put::<Cluster>(&mut world.rows, (), &ClusterRow { epoch: 2, ..cluster });

    world.session = world.open_session(2);
    assert_eq!(world.session.epoch, 2);
    assert_eq!(world.extent(1).id.session().epoch, 2);
    let after = world.put_inline("k", "y");
    assert_eq!((before.stamp.epoch, after.stamp.epoch), (1, 2));
    world.put_extent("k");
    world.put_inline("k", "z");
    let events = Query::Events { bucket: world.bucket, after: Some(after.stamp), limit: 10 };
    let Ok(Answer::Events(events)) = world.ask(events) else { panic!() };
    assert!(!events.is_empty() && events.iter().all(|(stamp, _)| stamp.epoch == 2));
    let garbage: Vec<_> = scan_all::<Garbages>(&world.rows).unwrap().map(|row| row.unwrap().0.1).collect();
    assert!(!garbage.is_empty() && garbage.iter().all(|stamp| stamp.epoch == 2));
    let bucket = world.create_bucket("later");
    assert_eq!(get::<Buckets>(&world.rows, bucket).unwrap().unwrap().epoch, 2);
    world.audit();
}

#[test]
fn cluster_time_never_goes_back() {
    let mut world = World::new();
    let first = world.put_inline("k", "x");
    world.now = ClusterMs(0);
    assert_eq!(world.put_inline("k", "y").modified, first.modified);
}

#[test]
fn events_tell_what_happened_in_order() {
    let mut world = World::new();
    world.put_inline("a", "x");
    let copy = world.copy("a", "b");
    world.done(Command::CopyObject(copy));
    complete_one(&mut world);
    world.delete_one("a", None);
    world.delete_one("none", None);
    let Ok(Answer::Events(events)) =
        world.ask(Query::Events { bucket: world.bucket, after: None, limit: 10 })
    else {
        panic!()
    };
    let kinds: Vec<_> = events.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [EventKind::Put, EventKind::Copy, EventKind::Complete, EventKind::Delete]);
    let after = Some(events[1].0);
    let rest = world.ask(Query::Events { bucket: world.bucket, after, limit: 1 });
    assert_eq!(rest, Ok(Answer::Events(events[2..3].to_vec())));

    let page = Query::Changes { bucket: world.bucket, after: events[1].0, limit: 1 };
    let changes = Changes {
        events: events[2..3].to_vec(),
        more: true,
        trimmed: Stamp::ZERO,
        latest: events[3].0,
        versioning: Versioning::Off,
    };
    assert_eq!(world.ask(page), Ok(Answer::Changes(changes)));
    let all = world.ask(Query::AllChanges { after: events[2].0, limit: 10 });
    let last = vec![(events[3].0, world.bucket, events[3].1.clone())];
    let expected = AllChanges { events: last, more: false, trimmed: Stamp::ZERO };
    assert_eq!(all, Ok(Answer::AllChanges(expected)));
}

#[test]
fn one_session_delivers_what_happens_after_a_bucket_got_notifications() {
    let mut world = World::new();
    let bucket = world.bucket;
    let page = |world: &World| match world.ask(Query::Deliveries { after: None, limit: 10 }) {
        Ok(Answer::Deliveries(page)) => page,
        answer => panic!("{answer:?}"),
    };
    world.put_inline("before", "x");
    assert!(page(&world).buckets.is_empty());
    let change = BucketChange::Set(BucketSetting::Notifications(Vec::new()));
    world.done(Command::SetBucket(SetBucket { bucket, change: change.clone() }));
    let begun = page(&world).buckets.remove(0);
    assert!(!begun.2, "what was before is told to nobody");
    let put = world.put_inline("after", "x");
    assert!(page(&world).buckets[0].2);
    // To set it again changes nothing of what was told.
    world.done(Command::SetBucket(SetBucket { bucket, change }));
    assert_eq!(page(&world).buckets[0].1, begun.1);

    let deliver = Deliver { bucket, cursor: put.stamp, delivered: 2, dead: 1 };
    assert_eq!(world.rejected(Command::Deliver(deliver.clone())), Reject::NotDeliverer);
    let Done::Leads(Some(session)) = world.done(Command::LeadDeliveries) else { panic!() };
    let found = page(&world);
    assert_eq!((found.deliverer, found.deliverer_lives), (Some(session), true));
    world.done(Command::Deliver(deliver));
    let (_, delivery, waits) = page(&world).buckets.remove(0);
    assert_eq!(delivery, Delivery { cursor: put.stamp, delivered: 2, dead: 1, lost: 0 });
    assert!(!waits);

    let other = world.open_session(99);
    let lead = |world: &mut World, sequence| world.apply(other, sequence, Command::LeadDeliveries);
    assert_eq!(lead(&mut world, 1), Reply::Done(Done::Leads(None)));
    world.done(Command::EndSession(EndSession { session }));
    assert!(!page(&world).deliverer_lives);
    assert_eq!(lead(&mut world, 2), Reply::Done(Done::Leads(Some(other))));
}

#[test]
fn status_counts() {
    let mut world = World::new();
    world.put_inline("a", "x");
    let Ok(Answer::Status(status)) = world.ask(Query::Status) else { panic!() };
    assert_eq!((status.buckets, status.sessions, status.usage.bytes), (1, 1, 1));
    assert_eq!(status.cluster.inline_bytes, 1);
    assert!(world.rows.get(TableId::CLUSTER, &[]).unwrap().is_some());
}

#[test]
fn after_a_recovery_garbage_is_kept_until_somebody_says_otherwise() {
    let mut world = World::new();
    world.put_extent("k");
    world.put_extent("k");
    read_up(&mut world);
    read_up(&mut world);
    assert_eq!(garbage(&world).len(), 1);
    let voter = RaftId::new(NodeId(1), Incarnation(7));
    let begin = |epoch| Command::BeginEpoch(BeginEpoch { epoch, voter });
    assert!(matches!(world.rejected(begin(FIRST_EPOCH)), Reject::Malformed(_)));
    world.done(begin(FIRST_EPOCH + 1));
    let since = world.index;
    assert_eq!(garbage(&world), vec![]);
    let unknown = Home { bucket: world.bucket, key: key("never") };
    let unknown = vec![(unknown, ExtentId::new(1, world.session, 999))];
    assert_eq!(world.ask(Query::Named(unknown.clone())), Ok(Answer::Named(vec![true])));
    world.done(Command::EndHold(EndHold { since: since - 1 }));
    let hold = Hold { since, at: world.now };
    assert_eq!(world.ask(Query::Hold), Ok(Answer::Hold(Some(hold))));
    world.done(Command::EndHold(EndHold { since }));
    read_up(&mut world);
    read_up(&mut world);
    assert_eq!(garbage(&world).len(), 1);
    assert_eq!(world.ask(Query::Named(unknown)), Ok(Answer::Named(vec![false])));
    // Numbers are drawn with the new epoch.
    assert_eq!(world.open_session(9).epoch, FIRST_EPOCH + 1);
    world.audit();
}

#[test]
fn tags_are_set_on_one_version_which_stays_what_it_is() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    let (one, two) = (world.put_inline("k", "one"), world.put_inline("k", "two"));
    let tags = |value: &str| vec![("a".to_string(), value.to_string())];
    let set = |world: &World, version, tags: Tags| SetTags {
        bucket: world.bucket,
        key: key("k"),
        version,
        tags,
        origin: Origin::default(),
    };
    let by = |stored: &Stored| Some(VersionSelector::Stamp(stored.stamp));
    for (version, stored, value) in [(None, &two, "2"), (by(&one), &one, "1")] {
        let before = view(&world, "k", by(stored)).unwrap().object;
        let done = super::world::stored(world.done(Command::SetTags(set(&world, version, tags(value)))));
        assert_eq!((done.stamp, done.modified, done.version_visible), (stored.stamp, stored.modified, true));
        let attributes = Attributes { tags: tags(value), ..before.attributes.clone() };
        let after = view(&world, "k", by(stored)).unwrap().object;
        assert_eq!(after, Object { attributes, ..before });
    }
    let marker: Stamp = world.delete_one("k", None).marker.unwrap().parse().unwrap();
    let on_marker = set(&world, Some(VersionSelector::Stamp(marker)), tags("x"));
    assert_eq!(world.rejected(Command::SetTags(on_marker)), Reject::IsDeleteMarker);
    let hidden = set(&world, None, tags("x"));
    assert_eq!(world.rejected(Command::SetTags(hidden)), Reject::NoSuchKey);
    world.audit();
}

#[test]
fn settings_go_with_their_bucket() {
    let mut world = World::new();
    let bucket = world.create_bucket("set");
    let ask = |world: &World| world.ask(Query::Setting { bucket, kind: SettingKind::Tags });
    let change = |change| Command::SetBucket(SetBucket { bucket, change });
    let tags = BucketSetting::Tags(vec![("a".to_string(), "1".to_string())]);
    assert_eq!(ask(&world), Ok(Answer::Setting(None)));
    world.done(change(BucketChange::Set(tags.clone())));
    assert_eq!(ask(&world), Ok(Answer::Setting(Some(tags.clone()))));
    world.done(change(BucketChange::Remove(SettingKind::Tags)));
    assert_eq!(ask(&world), Ok(Answer::Setting(None)));
    world.done(change(BucketChange::Set(tags)));
    assert!(matches!(
        world.rejected(change(BucketChange::Versioning(Versioning::Off))),
        Reject::Malformed(_)
    ));
    world.done(Command::DeleteBucket(DeleteBucket { bucket }));
    assert_eq!(world.rejected(change(BucketChange::Remove(SettingKind::Tags))), Reject::NoSuchBucket);
    assert!(world.rows.all().all(|(table, _, _)| table != TableId::BUCKET_SETTINGS));
    world.audit();
}

#[test]
fn clusters_join_by_invitation_once_and_leave_for_good() {
    let mut world = World::new();
    let name = |text: &str| text.parse::<ClusterName>().unwrap();
    let member = |text: &str, key: u8, serial| Member {
        name: name(text),
        key: [key; 32],
        addresses: vec![format!("{text}:1")],
        serial,
        via: None,
        since: ClusterMs(0),
        standing: Standing::In,
    };
    let admit = |invite, joined, member| Command::Overlay(OverlayChange::Admit { invite, joined, member });
    let refused = |world: &mut World, command| match world.rejected(command) {
        Reject::Overlay(why) => why,
        other => panic!("{other:?}"),
    };
    let state = |world: &World| match world.ask(Query::Overlay) {
        Ok(Answer::Overlay(state)) => state,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(refused(&mut world, admit(None, true, member("east", 1, 1))), OverlayRefusal::NoIdentity);
    let found = |text| OverlayChange::Found { name: name(text), sealed_key: Bytes::from_static(b"sealed") };
    world.done(Command::Overlay(found("west")));
    world.done(Command::Overlay(found("west")));
    assert_eq!(refused(&mut world, Command::Overlay(found("north"))), OverlayRefusal::OtherName);

    let invite = |id| OverlayChange::Invite { id, secret_sha256: [9; 32], lifetime_ms: 1_000 };
    world.done(Command::Overlay(invite(1)));
    let wrong = admit(Some((1, [8; 32])), false, member("east", 1, 1));
    assert_eq!(refused(&mut world, wrong), OverlayRefusal::BadInvite);
    assert_eq!(state(&world).invites, 1);
    world.done(admit(Some((1, [9; 32])), false, member("east", 1, 1)));
    let again = admit(Some((1, [9; 32])), false, member("north", 2, 1));
    assert_eq!(refused(&mut world, again), OverlayRefusal::BadInvite);

    // A name has one key, and a key one name; what is older is not believed.
    assert_eq!(refused(&mut world, admit(None, false, member("east", 2, 9))), OverlayRefusal::NameTaken);
    assert_eq!(refused(&mut world, admit(None, false, member("south", 1, 9))), OverlayRefusal::KeyTaken);
    assert_eq!(refused(&mut world, admit(None, false, member("west", 3, 9))), OverlayRefusal::NameTaken);
    let moved = Member { addresses: vec!["elsewhere:1".to_string()], ..member("east", 1, 3) };
    world.done(admit(None, false, moved.clone()));
    world.done(admit(None, false, member("east", 1, 2)));
    assert_eq!(state(&world).members[0].addresses, moved.addresses);

    let grant = OverlayGrant {
        cluster: name("east"),
        user: GrantedUser::All,
        buckets: Vec::new(),
        since: ClusterMs(0),
    };
    let stranger = OverlayGrant { cluster: name("north"), ..grant.clone() };
    let grants = |grant| Command::Overlay(OverlayChange::Grant(grant));
    assert_eq!(refused(&mut world, grants(stranger)), OverlayRefusal::NotMember);
    world.done(grants(grant));
    assert_eq!(state(&world).grants.len(), 1);

    // What was removed takes its grants with it, and nobody but an invitation brings it back.
    world.done(Command::Overlay(OverlayChange::Remove(name("east"))));
    assert_eq!(state(&world).members[0].standing, Standing::Removed);
    assert!(state(&world).grants.is_empty());
    assert_eq!(refused(&mut world, admit(None, false, member("east", 1, 99))), OverlayRefusal::Gone);
    world.done(admit(None, true, member("east", 1, 1)));
    assert_eq!(state(&world).members[0].standing, Standing::In);

    // Who left comes back by what it says since.
    world.done(Command::Overlay(OverlayChange::Left { cluster: name("east"), serial: 10 }));
    assert_eq!(refused(&mut world, admit(None, false, member("east", 1, 10))), OverlayRefusal::Gone);
    world.done(admit(None, false, member("east", 1, 11)));
    assert_eq!(state(&world).members[0].standing, Standing::In);

    world.done(Command::Overlay(invite(2)));
    world.now = ClusterMs(world.now.0 + 1_000);
    let late = admit(Some((2, [9; 32])), false, member("north", 2, 1));
    assert_eq!(refused(&mut world, late), OverlayRefusal::BadInvite);
    // Members introduce others; strangers do not, nor who was a member until this cluster left.
    let introduced = |via| Member { via: Some(name(via)), ..member("north", 2, 1) };
    assert_eq!(refused(&mut world, admit(None, false, introduced("south"))), OverlayRefusal::NotMember);
    world.done(admit(None, false, introduced("east")));
    world.done(Command::Overlay(OverlayChange::Leave));
    assert!(state(&world).members.is_empty() && state(&world).identity.is_some());
    assert_eq!(refused(&mut world, admit(None, false, introduced("east"))), OverlayRefusal::NotMember);
}

#[test]
fn users_of_other_clusters_have_buckets_here_and_no_keys() {
    let mut world = World::new();
    let owner: UserName = "east/bob".parse().unwrap();
    world.done(Command::CreateBucket(CreateBucket { name: "theirs".parse().unwrap(), owner: owner.clone() }));
    let add = add_user("east/eve", "KEYOFEVE");
    assert!(matches!(world.rejected(add), Reject::Malformed(_)));
    assert_eq!(world.rejected(Command::RemoveUser(RemoveUser { name: owner })), Reject::UserOwnsBuckets);
    let nobody = CreateBucket { name: "nobodys".parse().unwrap(), owner: "eve".parse().unwrap() };
    assert_eq!(world.rejected(Command::CreateBucket(nobody)), Reject::NoSuchUser);
}
