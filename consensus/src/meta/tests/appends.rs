//! Appends: who wins, what becomes of the body, and what is shared.

use fabric::limits::{OBJECT_BYTES_MAX, PARTS_MAX, PUT_BYTES_MAX, SHARED_APPEND_PARTS_MAX};

use super::world::{World, key, stored};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{Answer, BodyView, ObjectView, Query, Want};
use crate::meta::tables::{Bodies, get, put, scan_all};

fn view(world: &World, text: &str, version: Option<VersionSelector>) -> ObjectView {
    let query = Query::Object { bucket: world.bucket, key: key(text), version, want: Want::Body };
    match world.ask(query) {
        Ok(Answer::Object(view)) => view,
        answer => panic!("{answer:?}"),
    }
}

fn append(world: &mut World, key: &str, text: &str) -> Stored {
    let append = world.append(key, text);
    stored(world.done(Command::AppendObject(append)))
}

/// Bytes of the pieces of a body.
fn pieces(view: &ObjectView) -> Vec<u64> {
    match &view.body {
        BodyView::Pieces(pieces) => pieces.iter().map(|piece| piece.bytes).collect(),
        body => panic!("{body:?}"),
    }
}

#[test]
fn of_two_at_one_offset_one_wins() {
    let mut world = World::new();
    let (first, second) = (world.append("inline", "a"), world.append("inline", "bc"));
    world.done(Command::AppendObject(first));
    assert_eq!(world.rejected(Command::AppendObject(second)), Reject::WrongOffset { bytes: 1 });
    // As many bytes, but another version.
    let late = world.append("inline", "b");
    world.put_inline("inline", "x");
    assert_eq!(world.rejected(Command::AppendObject(late)), Reject::SourceChanged);
    let late = world.append("inline", "b");
    world.delete_one("inline", None);
    assert_eq!(world.rejected(Command::AppendObject(late)), Reject::WrongOffset { bytes: 0 });
    world.put_extent("large");
    let (first, second) = (world.append("large", "a"), world.append("large", "bc"));
    world.done(Command::AppendObject(first));
    assert_eq!(world.rejected(Command::AppendObject(second)), Reject::WrongOffset { bytes: 100_001 });
    let expect = Expect { absent: true, ..Expect::default() };
    let conditional = AppendObject { expect, ..world.append("large", "a") };
    assert_eq!(world.rejected(Command::AppendObject(conditional)), Reject::PreconditionFailed);
    world.audit();
}

#[test]
fn few_bytes_stay_where_they_are_and_attributes_stay_what_they_are() {
    let mut world = World::new();
    let user = |text: &str| Attributes {
        user: [("a".to_string(), text.to_string())].into(),
        ..Attributes::default()
    };
    for (text, whole) in [("one", "one"), (" two", "one two"), ("", "one two")] {
        let command = AppendObject { attributes: user(text), ..world.append("k", text) };
        let done = stored(world.done(Command::AppendObject(command)));
        let view = view(&world, "k", None);
        assert_eq!((view.body, done.bytes), (BodyView::Inline(whole.into()), whole.len() as u64));
        assert_eq!(view.object.attributes, user("one"));
        assert_eq!(done.etag, Etag::Md5([7; 16]));
        world.audit();
    }
}

#[test]
fn parts_come_behind_what_is_there() {
    let mut world = World::new();
    world.put_extent("k");
    append(&mut world, "k", "more");
    let done = append(&mut world, "k", "and more");
    let found = view(&world, "k", None);
    assert_eq!(pieces(&found), [100_000, 4, 8]);
    let parts: Vec<_> = found.parts.iter().map(|slice| (slice.part, slice.md5[0])).collect();
    assert_eq!(parts, [(1, 1), (2, 8), (3, 8)]);
    assert!(matches!(done.etag, Etag::Multipart(_, 3)));
    world.audit();
    assert_eq!(
        scan_all::<Bodies>(&world.rows).unwrap().count(),
        1,
        "one row went over from each to the next"
    );
    // Of no bytes, and behind an upload.
    append(&mut world, "k", "");
    assert_eq!(pieces(&view(&world, "k", None)), [100_000, 4, 8]);
    let upload = world.create_upload("upload");
    let part = world.part("upload", upload, 7, 100);
    world.done(Command::PutPart(part));
    let complete = world.complete("upload", upload, &[7]);
    world.done(Command::CompleteUpload(complete));
    append(&mut world, "upload", "more");
    let numbers: Vec<u16> = view(&world, "upload", None).parts.iter().map(|slice| slice.part).collect();
    assert_eq!(numbers, [7, 8]);
    for name in ["k", "upload"] {
        world.delete_one(name, None);
    }
    world.audit();
}

#[test]
fn who_shares_a_body_sees_nothing_of_what_is_appended() {
    let mut world = World::new();
    world.put_extent("k");
    append(&mut world, "k", "1");
    world.done(Command::CopyObject(world.copy("k", "copy")));
    append(&mut world, "k", "22");
    append(&mut world, "copy", "333");
    append(&mut world, "copy", "4444");
    world.audit();
    assert_eq!(pieces(&view(&world, "k", None)), [100_000, 1, 2]);
    assert_eq!(pieces(&view(&world, "copy", None)), [100_000, 1, 3, 4]);
    world.done(Command::RenameObject(world.rename("copy", "renamed")));
    append(&mut world, "renamed", "55555");
    world.delete_one("k", None);
    assert_eq!(pieces(&view(&world, "renamed", None)), [100_000, 1, 3, 4, 5]);
    world.audit();
    // What was packed is a part like any other.
    world.put_inline("a", "packed");
    world.put_inline("b", "as well");
    let inline = world.inline(1000);
    let pack = world.pack(&inline);
    world.done(Command::PackInline(pack));
    append(&mut world, "b", "more");
    assert_eq!(pieces(&view(&world, "b", None)), [7, 4]);
    world.audit();
}

#[test]
fn versions_stay_as_they_were() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    world.put_extent("k");
    let versions: Vec<Stored> = ["1", "22", "333"].map(|text| append(&mut world, "k", text)).into();
    let expected = [&[100_000, 1][..], &[100_000, 1, 2], &[100_000, 1, 2, 3]];
    for (version, expected) in versions.iter().zip(expected) {
        let selector = Some(VersionSelector::Stamp(version.stamp));
        assert_eq!(pieces(&view(&world, "k", selector)), expected);
    }
    world.audit();
    for version in versions.iter().rev() {
        world.delete_one("k", Some(VersionSelector::Stamp(version.stamp)));
        world.audit();
    }
    assert_eq!(pieces(&view(&world, "k", None)), [100_000]);
}

/// Makes a body of so many parts, of which only the first has bytes.
fn with_parts(world: &mut World, name: &str, count: usize) {
    append(world, name, "1");
    let Body::Slices { id, home } = view(world, name, None).object.body else { panic!() };
    let own = Home { bucket: world.bucket, key: key(name) };
    let home = home.unwrap_or(own);
    let mut row = get::<Bodies>(&world.rows, (&home, id)).unwrap().unwrap();
    let last = row.slices.pop().unwrap();
    for part in row.slices.len() + 1..count {
        let empty = fabric::ids::ExtentId::from_bytes([0; 16]);
        row.slices.push(Slice { extent: empty, bytes: 0, part: part as u16, ..last.clone() });
    }
    row.slices.push(Slice { part: count as u16, ..last });
    put::<Bodies>(&mut world.rows, (&home, id), &row);
}

#[test]
fn parts_and_bytes_have_bounds() {
    let mut world = World::new();
    world.put_extent("k");
    with_parts(&mut world, "k", usize::from(PARTS_MAX) - 1);
    let done = append(&mut world, "k", "last");
    assert!(matches!(done.etag, Etag::Multipart(_, PARTS_MAX)));
    let more = world.append("k", "x");
    assert_eq!(world.rejected(Command::AppendObject(more)), Reject::TooManyParts);

    world.put_extent("shared");
    with_parts(&mut world, "shared", SHARED_APPEND_PARTS_MAX);
    world.done(Command::CopyObject(world.copy("shared", "copy")));
    let more = world.append("shared", "x");
    assert_eq!(world.rejected(Command::AppendObject(more)), Reject::TooManyParts);
    world.delete_one("copy", None);
    append(&mut world, "shared", "x");
    world.audit();

    let extent = world.extent(PUT_BYTES_MAX);
    let put = world.put("huge", NewBody::Extent(extent));
    world.done(Command::PutObject(put));
    let mut more = world.append("huge", "x");
    more.offset = OBJECT_BYTES_MAX;
    assert_eq!(world.rejected(Command::AppendObject(more)), Reject::WrongOffset { bytes: PUT_BYTES_MAX });
    let short = Appended::Whole { body: NewBody::Inline("x".into()), md5: [0; 16] };
    let mut shrinks = world.append("huge", "x");
    shrinks.appended = short;
    assert!(matches!(world.rejected(Command::AppendObject(shrinks)), Reject::Malformed(_)));
}

#[test]
fn a_quota_counts_what_is_appended() {
    let mut world = World::new();
    world.put_extent("k");
    let quota = Quota { objects: Some(1), bytes: Some(100_004) };
    world.done(Command::SetQuota(SetQuota { of: QuotaOf::Bucket(world.bucket), quota }));
    append(&mut world, "k", "1234");
    let more = world.append("k", "5");
    assert!(matches!(world.rejected(Command::AppendObject(more)), Reject::QuotaExceeded { .. }));
    world.audit();
}
