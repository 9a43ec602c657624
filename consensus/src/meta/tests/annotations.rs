//! Annotations: they belong to a version, go with it, and are shared with copies.

use fabric::ids::{BucketId, Stamp};
use fabric::limits::{ANNOTATION_BYTES_MAX, ANNOTATIONS_MAX};

use super::world::{World, etag, key, sealing};
use crate::meta::command::*;
use crate::meta::model::*;
use crate::meta::query::{AnnotationsView, Answer, Query};
use crate::meta::sealing::{Scheme, Sealing, sealed_bytes};
use crate::meta::tables::{AnnotationSets, get, put};

fn annotate(world: &mut World, key: &str, name: &str, bytes: u64) {
    let annotate = world.annotate(key, name, bytes);
    world.done(Command::SetAnnotation(annotate));
    world.audit();
}

fn remove(world: &mut World, key: &str, name: &str) -> SetAnnotation {
    SetAnnotation { change: AnnotationChange::Remove, ..world.annotate(key, name, 1) }
}

fn view(world: &World, text: &str, name: Option<&str>) -> AnnotationsView {
    let name = name.map(|name| name.parse().unwrap());
    match world.ask(Query::Annotations { bucket: world.bucket, key: key(text), version: None, name }) {
        Ok(Answer::Annotations(view)) => view,
        answer => panic!("{answer:?}"),
    }
}

/// Names and bytes.
fn all(world: &World, key: &str) -> Vec<(String, u64)> {
    let annotations = view(world, key, None).annotations;
    annotations.iter().map(|annotation| (annotation.name.to_string(), annotation.bytes)).collect()
}

fn bytes(world: &World) -> u64 {
    match world.ask(Query::Usage(world.bucket)) {
        Ok(Answer::Usage(usage)) => usage.bytes,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn annotations_are_added_replaced_and_removed() {
    let mut world = World::new();
    let before = world.put_inline("k", "text");
    for (name, bytes) in [("b", 10), ("a", 20), ("b", 30)] {
        annotate(&mut world, "k", name, bytes);
    }
    assert_eq!(all(&world, "k"), [("a".to_string(), 20), ("b".to_string(), 30)]);
    assert_eq!(bytes(&world), 4 + 50);
    let one = view(&world, "k", Some("b"));
    assert_eq!((one.annotations.len(), one.piece.map(|piece| piece.bytes)), (1, Some(sealed_bytes(30))));
    assert_eq!(one.sealing, Some(sealing()));
    assert_eq!((one.object.stamp, one.object.etag), (before.stamp, before.etag));
    assert_eq!(view(&world, "k", Some("c")).piece, None);
    for name in ["b", "b", "a"] {
        let remove = remove(&mut world, "k", name);
        world.done(Command::SetAnnotation(remove));
        world.audit();
    }
    assert_eq!((all(&world, "k").len(), bytes(&world)), (0, 4));
    let wrong =
        SetAnnotation { etag: Some(EtagCondition::OneOf(vec![etag(9)])), ..world.annotate("k", "a", 1) };
    assert_eq!(world.rejected(Command::SetAnnotation(wrong)), Reject::PreconditionFailed);
    let missing = world.annotate("missing", "a", 1);
    assert_eq!(world.rejected(Command::SetAnnotation(missing)), Reject::NoSuchKey);
}

#[test]
fn annotations_follow_their_version() {
    let mut world = World::new();
    world.put_extent("k");
    annotate(&mut world, "k", "a", 10);
    world.done(Command::CopyObject(world.copy("k", "copy")));
    world.done(Command::CopyBare(world.copy("k", "bare")));
    annotate(&mut world, "copy", "b", 20);
    world.done(Command::RenameObject(world.rename("copy", "renamed")));
    let append = world.append("renamed", "more");
    world.done(Command::AppendObject(append));
    world.audit();
    assert_eq!(all(&world, "renamed"), [("a".to_string(), 10), ("b".to_string(), 20)]);
    assert_eq!((all(&world, "k").len(), all(&world, "bare").len()), (1, 0));
    world.delete_one("k", None);
    annotate(&mut world, "renamed", "c", 30);
    world.put_inline("bare", "");
    world.put_inline("renamed", "");
    world.audit();
    assert_eq!((all(&world, "renamed").len(), bytes(&world)), (0, 0));
}

#[test]
fn what_was_written_elsewhere_is_not_named() {
    let mut world = World::new();
    world.put_inline("k", "x");
    annotate(&mut world, "k", "a", 10);
    world.done(Command::CopyObject(world.copy("k", "copy")));
    let late = world.annotate("copy", "b", 10);
    world.put_inline("copy", "another");
    assert_eq!(world.rejected(Command::SetAnnotation(late)), Reject::SourceChanged);
    world.audit();
}

/// Two that are written at the same time draw a data key each: one of them is written again.
#[test]
fn all_of_a_version_have_one_data_key() {
    let mut world = World::new();
    world.put_inline("k", "x");
    let (first, mut second) = (world.annotate("k", "a", 10), world.annotate("k", "b", 10));
    let AnnotationChange::Put(new) = &mut second.change else { panic!() };
    new.sealing.data_key = vec![1; 4].into();
    let customers = Scheme::Customer { salt: [1; 16], proof: [2; 32] };
    let mut third = world.annotate("k", "c", 10);
    let AnnotationChange::Put(new) = &mut third.change else { panic!() };
    new.sealing.scheme = customers;
    world.done(Command::SetAnnotation(first));
    assert_eq!(world.rejected(Command::SetAnnotation(second)), Reject::SourceChanged);
    assert!(matches!(world.rejected(Command::SetAnnotation(third)), Reject::Malformed(_)));
    world.audit();
}

#[test]
fn a_copy_that_is_encrypted_otherwise_takes_annotations_with_it() {
    let mut world = World::new();
    world.put_inline("k", "x");
    annotate(&mut world, "k", "a", 10);
    let resealed = Sealing { data_key: vec![1; 4].into(), ..sealing() };
    for to in ["copy", "k"] {
        let copy = world.copy_anew("k", to, &resealed).unwrap();
        world.done(copy);
        world.audit();
        let view = view(&world, to, Some("a"));
        assert_eq!((view.sealing, view.piece.map(|piece| piece.bytes)), (Some(resealed.clone()), Some(26)));
    }
    assert_eq!(bytes(&world), 2 * (1 + 10));
    let late = world.copy_anew("copy", "late", &sealing()).unwrap();
    let remove = remove(&mut world, "copy", "a");
    world.done(Command::SetAnnotation(remove));
    assert_eq!(world.rejected(late), Reject::SourceChanged);
    let put = Command::PutObject(world.put("k", NewBody::Inline("x".into())));
    let annotated = |command| {
        let from = Home { bucket: BucketId(1), key: key("k") };
        let (opened, sealing) = (sealing(), sealing());
        let annotations = CopiedAnnotations { from, version: Stamp::ZERO, opened, sealing };
        Command::Annotated(Annotated { annotations, command: Box::new(command) })
    };
    for wrong in [annotated(annotated(put)), annotated(Command::CopyObject(world.copy("k", "copy")))] {
        assert!(matches!(world.rejected(wrong), Reject::Malformed(_)));
    }
    world.audit();
}

#[test]
fn the_feed_tells_of_annotations() {
    let mut world = World::new();
    world.put_inline("k", "x");
    annotate(&mut world, "k", "a", 10);
    for _ in 0..2 {
        let remove = remove(&mut world, "k", "a");
        world.done(Command::SetAnnotation(remove));
    }
    let query = Query::Events { bucket: world.bucket, after: None, limit: 10 };
    let Ok(Answer::Events(events)) = world.ask(query) else { panic!() };
    let kinds: Vec<EventKind> = events.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [EventKind::Put, EventKind::AnnotationPut, EventKind::AnnotationDelete]);
}

#[test]
fn a_lock_keeps_annotations_but_takes_more() {
    let mut world = World::new();
    world.set_versioning(Versioning::Enabled);
    let default = DefaultRetention { mode: RetentionMode::Governance, days: 3, in_years: false };
    let lock = BucketSetting::ObjectLock(ObjectLock { default: Some(default) });
    world.done(Command::SetBucket(SetBucket { bucket: world.bucket, change: BucketChange::Set(lock) }));
    world.put_inline("k", "x");
    annotate(&mut world, "k", "a", 10);
    let (replace, remove) = (world.annotate("k", "a", 20), remove(&mut world, "k", "a"));
    assert_eq!(world.rejected(Command::SetAnnotation(replace)), Reject::Locked);
    assert_eq!(world.rejected(Command::SetAnnotation(remove.clone())), Reject::Locked);
    world.done(Command::SetAnnotation(SetAnnotation { bypass: true, ..remove }));
    world.audit();
}

#[test]
fn annotations_have_bounds() {
    let mut world = World::new();
    world.put_inline("k", "x");
    annotate(&mut world, "k", "first", 1);
    let home = Home { bucket: world.bucket, key: key("k") };
    let stamp = view(&world, "k", None).object.stamp;
    let mut set = get::<AnnotationSets>(&world.rows, (&home, stamp)).unwrap().unwrap();
    for number in 1..ANNOTATIONS_MAX {
        let name = format!("{number:04}").parse().unwrap();
        set.annotations.push(Annotation { name, ..set.annotations[0].clone() });
    }
    set.annotations.sort_by(|left, right| left.name.cmp(&right.name));
    put::<AnnotationSets>(&mut world.rows, (&home, stamp), &set);
    let more = world.annotate("k", "second", 1);
    assert_eq!(world.rejected(Command::SetAnnotation(more)), Reject::TooManyAnnotations);
    let large = world.annotate("k", "first", ANNOTATION_BYTES_MAX + 1);
    assert!(matches!(world.rejected(Command::SetAnnotation(large)), Reject::Malformed(_)));
    let quota = Quota { objects: None, bytes: Some(20) };
    let mut world = World::new();
    world.put_inline("k", "x");
    world.done(Command::SetQuota(SetQuota { of: QuotaOf::Bucket(world.bucket), quota }));
    let more = world.annotate("k", "a", 20);
    assert!(matches!(world.rejected(Command::SetAnnotation(more)), Reject::QuotaExceeded { .. }));
}
